/*
 * Opcode tables of the decoder: what each integer and system opcode is, which bytes follow it,
 * and which handler runs it. Vector, x87 and bit-manipulation opcodes are not here: rows that
 * say OP_NATIVE leave these to native.c.
 */
#pragma once

#include "cpu/soft/insn.h"

enum {
    OP_MODRM = 1 << 0,
    OP_IMM8 = 1 << 1,  /* sign-extended */
    OP_IMM8U = 1 << 2, /* zero-extended */
    OP_IMM16 = 1 << 3, /* zero-extended */
    OP_IMMZ = 1 << 4,  /* 2 or 4 bytes by operand size, sign-extended */
    OP_IMMV = 1 << 5,  /* 2, 4 or 8 bytes */
    OP_MOFFS = 1 << 6, /* address of asize bytes, into disp */
    OP_FARPTR = 1 << 7,
    OP_ENTER = 1 << 8,
    OP_D64 = 1 << 9,      /* operand size defaults to 64 bits in 64-bit mode */
    OP_F64 = 1 << 10,     /* ... and cannot be changed */
    OP_NO64 = 1 << 11,    /* #UD in 64-bit mode */
    OP_LOCK = 1 << 12,    /* LOCK allowed with a memory destination */
    OP_BYTE = 1 << 13,    /* works on bytes whatever the operand size */
    OP_END = 1 << 14,     /* ends a block */
    OP_GROUP = 1 << 15,   /* eight rows by modrm.reg */
    OP_NATIVE = 1 << 16,  /* native.c */
    OP_MEMONLY = 1 << 17, /* register form: #UD */
    OP_RESOLVE = 1 << 19, /* a function picks the row by prefix and modrm */
    OP_REL = 1 << 20,     /* the immediate is relative to the next instruction */
    OP_NOMOD = 1 << 21,   /* modrm.mod is ignored: always a register (MOV CR/DR) */
};

/* What the fast-path builder (fast.c) and the translator (jit/) may do with it. */
enum op_kind {
    K_NONE,
    K_ALU,
    K_TEST,
    K_MOV,
    K_MOVIMM,
    K_LEA,
    K_PUSH,
    K_POP,
    K_JCC,
    K_JMP,
    K_CALL,
    K_RET,
    K_JMPIND,
    K_CALLIND,
    K_INCDEC,
    K_SHIFT,
    K_MOVZX,
    K_MOVSX,
    K_MOVSXD,
    K_CMOV,
    K_SETCC,
    K_NOP,
    K_XCHG,
    K_IMUL,
    K_NEGNOT,
    K_CWD,
    K_CBW,
    K_BT,
    K_LEAVE,
    K_BSWAP,
    K_N_FAST, /* what follows has no fast handler, but is translated */
    K_MULDIV = K_N_FAST,
    K_CMPXCHG,
    K_CMPXCHG8B,
    K_XADD,
    K_BSCAN,
    K_SHD,
    K_CARRY, /* CMC, CLC, STC */
    K_PUSHF,
    K_CLI,
    K_STI,
    K_SWAPGS,
    K_RDTSC,
    K_RDTSCP,
    K_FENCE,
    K_SMAP, /* CLAC, STAC */
    K_COUNT
};

struct opcode {
    insn_fn *fn; /* NULL: undefined, #UD */
    uint32_t flags;
    uint8_t kind; /* enum op_kind */
    union {
        const struct opcode *group;
        const struct opcode *(*resolve)(const struct insn *in);
    };
};

extern const struct opcode op_table_1b[256];
extern const struct opcode op_table_0f[256];
extern const struct opcode op_row_arpl;              /* 63 outside 64-bit mode */
const struct opcode *op_0f38(const struct insn *in); /* rows outside native.c; NULL: native */
