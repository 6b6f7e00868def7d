/*
 * Lockstep: the same bare-metal case on the software engine and on QEMU's TCG, one instruction
 * at a time. The state before each instruction is a record; the two lists of records are
 * compared.
 */
#pragma once

#include "cpu/vcpu_state.h"

#include <stdbool.h>
#include <stdint.h>

#define LS_RAM   (UINT64_C(16) << 20)
#define LS_IMAGE 0x1000u /* where a case lies */
#define LS_BYTES 0x1f000u
#define LS_STAGE 0x201000u /* where it waits */
#define LS_ENTRY 0x2000u
#define LS_BOOTS 0x500u
#define LS_GO    0x504u
#define LS_FILL  0xcc  /* INT3 where nothing is */
#define LS_STEPS 20000 /* with repetitions, which share a record */
#define LS_MAX   1500  /* records of a case */

struct ls_rec {
    uint64_t gpr[16], rip, rflags;
    struct vcpu_seg seg[X86_NSEG], ldtr, tr;
    struct vcpu_dtable gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, efer, dr[8];
    bool code64, lma; /* how much of the registers is known */
    unsigned cpl;
    uint8_t bytes[16]; /* at CS:RIP, if identity-mapped */
};

struct ls_trace {
    struct ls_rec rec[LS_MAX];
    unsigned n;
    bool ended; /* by a triple fault */
};

/* gen.c: fills image (LS_BYTES, for LS_IMAGE on) from the seed; returns the name of its mode.
 */
const char *ls_generate(uint64_t seed, uint8_t *image, bool amd);

/* soft.c */
bool ls_soft_init(const uint8_t *rom, bool amd);
void ls_soft_run(const uint8_t *image, struct ls_trace *t);
const uint8_t *ls_soft_ram(void);
/* Runs again and gives the number of the record after whose instruction the byte last changed.
 */
unsigned ls_soft_who_wrote(const uint8_t *image, uint32_t gpa);
void ls_soft_done(void);

/* qemu.c. init: 0, 77 when there is no QEMU, 1 on failure. */
int ls_qemu_init(const char *rom_path, bool amd);
bool ls_qemu_run(const uint8_t *image, struct ls_trace *t);
const uint8_t *ls_qemu_ram(void);
void ls_qemu_done(void);
