/*
 * The native executor: x87, MMX, SSE to AVX-512, BMI, ADX and the other non-integer
 * instructions run on the host's own units, on the guest's vector state held live in the host's
 * registers, by small stubs made from the guest's instruction with its memory and
 * general-register operands rewritten. Results, MXCSR bits and NaNs are those of the hardware.
 *
 * All of it is per vCPU and touched by its thread only, except native_signals_init (once a
 * process).
 */
#pragma once

#include "base/err.h"
#include "cpu/soft/native_table.h"
#include "cpu/soft/soft.h"
#include "cpu/soft/uop.h"

/* ---- for the decoder ---- */
/*
 * Number of immediate bytes after modrm, SIB and displacement: 0, 1 or 2; -1 if (enc, map, pp,
 * opcode, modrm) is no instruction of the native executor (undefined, or the integer core's).
 * enc is enum insn_enc, map enum insn_map, pp as in struct insn. Knows nothing of CPUID:
 * native_bind raises #UD for what the guest lacks. LZCNT and TZCNT are answered whatever the
 * guest has: native_bind returns NATIVE_UNKNOWN for them when the guest lacks them, and they
 * are BSR and BSF.
 */
int native_imm_bytes(unsigned enc, unsigned map, unsigned pp, unsigned opcode, unsigned modrm);
/* Whether a native (enc, map, opcode) is followed by modrm: all but FWAIT, EMMS, VZEROUPPER. */
static inline bool native_has_modrm(unsigned map, unsigned opcode)
{
    return !(map == MAP_1B && opcode == 0x9b) && !(map == MAP_0F && opcode == 0x77);
}
/* EVEX disp8*N: the shift (log2 N). Needs enc, map, pp, opcode, modrm, w, vl, b of in. */
unsigned native_disp8_shift(const struct insn *in);

/* ---- for the block builder ---- */
enum native_result {
    NATIVE_OK,
    NATIVE_UNKNOWN, /* not ours: try the integer tables, else #UD */
    NATIVE_FULL, /* code memory is full: flush all blocks and native_cache_flush, then again */
};
/*
 * Makes op execute in, for code of mode c->mode. op's base, index, shift, disp, seg, len and
 * ip_off must be set as for any memory uop in 64-bit mode (disp of rip-relative operands made
 * relative to 0 as uop_ea wants it); in all other modes *in alone counts. in is copied. Sets
 * op->fn, op->insn and op->imm as it needs. What op points to lives until native_cache_flush.
 */
enum native_result native_bind(struct scpu *c, const struct insn *in, struct uop *op);

/* Runs in, an instruction of ours, with c->rip and c->next_rip set. */
enum insn_result native_run(struct scpu *c, const struct insn *in);
/*
 * For the translator: whether in can be copied into generated code with other registers and
 * another memory operand, that is, needs nothing but what *ret_desc says. Its code is for
 * c->mode.
 */
bool native_plan(struct scpu *c, const struct insn *in, struct native_desc *ret_desc);
/* Whether an unmasked x87 exception waits, which the next x87 or MMX instruction raises. */
bool native_x87_error(struct scpu *c);
/* Of an x87 instruction: whether FIP, FDP and FOP stay what they are. */
bool native_x87_keeps_pointers(const struct insn *in);

/* ---- life of a vCPU ---- */
/* Makes c->native; c->vm must be set (features of the model are read here). */
int native_cache_new(struct scpu *c, struct err *err);
void native_cache_free(struct scpu *c);
void native_cache_flush(struct scpu *c);
/* The process's handlers of SIGSEGV, SIGBUS, SIGILL, SIGFPE; chains to those that were there.
 * Any number of calls, from one thread at a time. */
int native_signals_init(struct err *err);

/* Code memory, mapped twice: *ret_rx to run it, *ret_rw to write it; what could not be mapped
 * is NULL, the caller unmaps. name: what it is for. */
int native_map_code(const char *name, uint32_t bytes, uint8_t **ret_rx, uint8_t **ret_rw,
                    struct err *err);
/* Faults of the host in [rx, rx + bytes) are c's too: jit_fault. */
void native_register_code(struct scpu *c, const void *rx, size_t bytes);

/* Vector and x87 state as after power-on (init false) or as INIT leaves it (init true). */
void native_fpu_reset(struct scpu *c, bool init);
/* c->xsave <-> the image of struct vcpu_state. Parks the state first. */
void native_state_get(struct scpu *c, struct vcpu_state *ret_state);
int native_state_set(struct scpu *c, const struct vcpu_state *state, struct err *err);
