/*
 * Control register writes with all their checks (cr.c), for the instructions that make them.
 * Each returns 0, or INSN_EXC after #GP(0); the caller then looks code up anew.
 */
#pragma once

#include "cpu/soft/soft.h"

int cr_write_cr0(struct scpu *c, uint64_t value);
int cr_write_cr3(struct scpu *c, uint64_t value);
int cr_write_cr4(struct scpu *c, uint64_t value);
int cr_write_efer(struct scpu *c, uint64_t value); /* WRMSR; LMA of value is ignored */
int cr_write_xcr0(struct scpu *c, uint64_t value);
