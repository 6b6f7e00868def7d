/*
 * The translating tier: hot guest code of 64-bit mode becomes host code. For the run loop
 * (cpu.c) and what changes code or mappings (mmu.c, block.c, engine_soft.c).
 *
 * One translator per vCPU, used by its thread only. Nothing is saved:
 * at each guest instruction boundary at which generated code can be left, all of the guest's
 * state is in struct scpu.
 */
#pragma once

#include "base/err.h"
#include "cpu/soft/soft.h"

struct tblock;

/* Makes c->jit. It stays NULL, without error, where the VM's tuning says so. */
int jit_new(struct scpu *c, struct err *err);
void jit_free(struct scpu *c);
/* Drops all generated code. Not from inside of it. */
void jit_flush(struct scpu *c);
/* Bytes of host memory in use. */
size_t jit_bytes(const struct scpu *c);

/* Whether code of this mode is ever translated. */
static inline bool jit_mode_ok(uint32_t mode)
{
    return (mode & (MODE_64 | MODE_STEP | MODE_AC)) == MODE_64 &&
           (mode & (MODE_CPL0 | MODE_CPL3)) != 0;
}
/* Generated code for c->rip in c->mode, if there is some. Raises nothing. */
struct tblock *jit_find(struct scpu *c);
/* The same for who goes on there: translates it if that is to be done at once. */
struct tblock *jit_next(struct scpu *c);
/* Translates from c->rip, whose page is c's for fetches. NULL: its first instruction is one for
 * the interpreter. */
struct tblock *jit_translate(struct scpu *c);
/* Runs from tb until something asks for the run loop; leaves c->rip and c->stop_result as
 * uop_exit does. */
void jit_run(struct scpu *c, struct tblock *tb);

/* Makes c the base of gs on this thread. */
void jit_set_base(struct scpu *c);

/* Drops what was translated from pages whose generation has changed. Between instructions. */
void jit_drop_stale(struct scpu *c);
/* Returns true when rip, an address of the host, is in generated code: c->jit_fault_pc is set
 * and *ret_resume is where the thread goes on. For signal handlers. */
bool jit_fault(struct scpu *c, uint64_t rip, uint64_t host_flags, uint64_t *ret_resume);
