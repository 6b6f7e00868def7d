/*
 * A decoded guest instruction: what the decoder (decode.c) makes of bytes, before it is turned
 * into micro-operations. Everything that is the same at each execution is resolved here.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct scpu;
struct insn;

/*
 * Handlers of instructions that are not on the fast path. On entry c->rip is the instruction's
 * address and c->next_rip the one after it; both are canonical/wrapped for the mode.
 */
enum insn_result {
    INSN_NEXT, /* done: go on at next_rip */
    INSN_EXC,  /* an exception was raised with soft_raise*: rip still names this instruction */
    INSN_JUMP, /* rip was set, or the mode changed: look the block up anew */
    INSN_NEXT_FLUSH, /* done, go on at next_rip, but look up anew (paging, CPL, IF changed) */
    INSN_REPEAT,     /* a REP has more to do: stay at rip, let interrupts in */
};
typedef enum insn_result insn_fn(struct scpu *c, const struct insn *in);

enum insn_map { MAP_1B, MAP_0F, MAP_0F38, MAP_0F3A, MAP_VEX5 = 5, MAP_VEX6 = 6 };
enum insn_enc { ENC_LEGACY, ENC_VEX, ENC_EVEX };
enum insn_rep { REP_NONE, REP_F3, REP_F2 };

#define INSN_NOREG 16 /* base/index: none */
#define INSN_RIP   17 /* base: rip-relative */

struct insn {
    insn_fn *fn;
    uint64_t imm; /* sign-extended to 64 bits as the operation wants it; far pointers: offset */
    int64_t disp; /* sign-extended; EVEX disp8*N already applied */
    uint16_t imm2; /* ENTER level, far pointer selector */
    uint8_t bytes[15];
    uint8_t len;

    uint8_t map, opcode, enc;
    uint8_t modrm;                                /* 0 if none: see has_modrm */
    uint8_t op_pos, modrm_pos, disp_pos, imm_pos; /* offsets in bytes[], for re-encoding */
    uint8_t disp_len, imm_len;

    uint8_t osize;        /* effective operand size in bytes: 2, 4, 8 */
    uint8_t asize;        /* effective address size in bytes: 2, 4, 8 */
    uint8_t seg;          /* effective segment of the memory operand, enum x86_seg */
    uint8_t seg_override; /* X86_NSEG: none */
    uint8_t rep;          /* enum insn_rep: the last of F2/F3 */
    uint8_t pp;  /* mandatory prefix class: 0 none, 1 66, 2 F3, 3 F2 (VEX.pp for VEX/EVEX) */
    uint8_t rex; /* 0x40.. or 0 */
    bool has_modrm, is_mem, lock, has_66, has_67, rip_rel;

    uint8_t mod, reg, rm;           /* reg and rm with REX/VEX extension bits (EVEX: to 31) */
    uint8_t base, index, scale;     /* scale: shift 0..3; EVEX VSIB index to 31 */
    uint8_t vvvv, vl, w, aaa, z, b; /* VEX/EVEX; vl 0/1/2 = 128/256/512 */
};
