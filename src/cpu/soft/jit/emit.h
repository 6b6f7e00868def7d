/*
 * Encoding of the host instructions that the translator writes. SDM vol. 2 chapter 2.
 *
 * Code is written through one mapping and run through another: positions are pointers into the
 * writable one. Room is checked once per block (TR_HOT_MAX, TR_COLD_MAX), not here.
 */
#pragma once

#include "cpu/soft/soft.h"

#include <stddef.h>

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
#define NO_REG 0xff

struct asmb {
    uint8_t *p;
};

/* A register, or memory at base + index * 2^scale + disp. base NO_REG: absolute in gs. */
struct mop {
    bool mem;
    uint8_t reg;
    uint8_t base, index, scale;
    int32_t disp;
};

static inline struct mop mop_reg(unsigned reg)
{
    return (struct mop){.reg = (uint8_t)reg};
}
static inline struct mop mop_mem(unsigned base, unsigned index, int32_t disp)
{
    return (struct mop){
        .mem = true, .base = (uint8_t)base, .index = (uint8_t)index, .disp = disp};
}
/* A field of struct scpu, which gs points at. */
static inline struct mop mop_gs(size_t off)
{
    return mop_mem(NO_REG, NO_REG, (int32_t)off);
}

static inline void e8(struct asmb *a, unsigned v)
{
    *a->p++ = (uint8_t)v;
}
static inline void e32(struct asmb *a, uint32_t v)
{
    __builtin_memcpy(a->p, &v, 4);
    a->p += 4;
}
static inline void e64(struct asmb *a, uint64_t v)
{
    __builtin_memcpy(a->p, &v, 8);
    a->p += 8;
}
static inline void e_imm(struct asmb *a, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        e8(a, (unsigned)(v >> (8 * i)) & 0xff);
    }
}

/* modrm, SIB and displacement. */
static inline void e_modrm(struct asmb *a, unsigned reg, const struct mop *m)
{
    unsigned r = (reg & 7) << 3;
    if (!m->mem) {
        e8(a, 0xc0 | r | (m->reg & 7u));
        return;
    }
    if (m->base == NO_REG && m->index == NO_REG) {
        e8(a, r | 4);
        e8(a, 0x25);
        e32(a, (uint32_t)m->disp);
        return;
    }
    if (m->base == NO_REG) { /* index only */
        e8(a, r | 4);
        e8(a, (unsigned)m->scale << 6 | (m->index & 7u) << 3 | 5);
        e32(a, (uint32_t)m->disp);
        return;
    }
    unsigned mod = m->disp == 0 && (m->base & 7) != RBP ? 0
                   : m->disp == (int8_t)m->disp         ? 0x40
                                                        : 0x80;
    if (m->index != NO_REG || (m->base & 7) == RSP) {
        unsigned index = m->index != NO_REG ? m->index & 7u : 4u;
        e8(a, mod | r | 4);
        e8(a, (unsigned)m->scale << 6 | index << 3 | (m->base & 7u));
    } else {
        e8(a, mod | r | (m->base & 7u));
    }
    if (mod == 0x40) {
        e8(a, (unsigned)m->disp & 0xff);
    } else if (mod == 0x80) {
        e32(a, (uint32_t)m->disp);
    }
}

static inline unsigned mop_rex(const struct mop *m)
{
    if (!m->mem) {
        return m->reg >> 3 & 1u;
    }
    unsigned b = m->base != NO_REG ? m->base >> 3 & 1u : 0;
    unsigned x = m->index != NO_REG ? m->index >> 3 & 1u : 0;
    return b | x << 1;
}

enum {
    E_W = 1,  /* REX.W */
    E_66 = 2, /* operand-size prefix */
    E_F2 = 4,
    E_F3 = 8,
    E_LOCK = 16,
    E_REX = 32, /* REX even if empty: SPL, BPL, SIL, DIL */
    E_0F = 64,  /* opcode maps */
    E_0F38 = 128,
    E_0F3A = 256,
    E_GS = 512, /* memory operand is a field of struct scpu */
};

/* A legacy-encoded instruction, without immediate. reg: register or opcode extension. */
static inline void e_op(struct asmb *a, unsigned how, unsigned opcode, unsigned reg,
                        const struct mop *m)
{
    if (how & E_GS) {
        e8(a, 0x65);
    }
    if (how & E_LOCK) {
        e8(a, 0xf0);
    }
    if (how & E_66) {
        e8(a, 0x66);
    }
    if (how & (E_F2 | E_F3)) {
        e8(a, (how & E_F2) ? 0xf2 : 0xf3);
    }
    unsigned rex = mop_rex(m) | (reg >> 3 & 1) << 2 | ((how & E_W) ? 8u : 0);
    if (rex != 0 || (how & E_REX)) {
        e8(a, 0x40 | rex);
    }
    if (how & (E_0F | E_0F38 | E_0F3A)) {
        e8(a, 0x0f);
        if (how & E_0F38) {
            e8(a, 0x38);
        } else if (how & E_0F3A) {
            e8(a, 0x3a);
        }
    }
    e8(a, opcode);
    e_modrm(a, reg, m);
}

static inline void e_rr(struct asmb *a, unsigned how, unsigned opcode, unsigned reg,
                        unsigned rm)
{
    struct mop m = mop_reg(rm);
    e_op(a, how, opcode, reg, &m);
}
/* With a field of struct scpu as memory operand. */
static inline void e_gs(struct asmb *a, unsigned how, unsigned opcode, unsigned reg, size_t off)
{
    struct mop m = mop_gs(off);
    e_op(a, how | E_GS, opcode, reg, &m);
}
static inline void e_mov(struct asmb *a, unsigned to, unsigned from)
{
    if (to != from) {
        e_rr(a, E_W, 0x8b, to, from);
    }
}
static inline void e_load(struct asmb *a, unsigned reg, size_t off)
{
    e_gs(a, E_W, 0x8b, reg, off);
}
static inline void e_store(struct asmb *a, unsigned reg, size_t off)
{
    e_gs(a, E_W, 0x89, reg, off);
}
static inline void e_lea(struct asmb *a, unsigned reg, unsigned base, unsigned index,
                         unsigned scale, int32_t disp)
{
    struct mop m = mop_mem(base, index, disp);
    m.scale = (uint8_t)scale;
    e_op(a, E_W, 0x8d, reg, &m);
}
/* The shortest move of a constant; flags stay. */
static inline void e_const(struct asmb *a, unsigned reg, uint64_t v)
{
    if (v <= UINT32_MAX) {
        if (reg >= 8) {
            e8(a, 0x41);
        }
        e8(a, 0xb8 | (reg & 7));
        e32(a, (uint32_t)v);
    } else if (v == (uint64_t)(int64_t)(int32_t)v) {
        e_rr(a, E_W, 0xc7, 0, reg);
        e32(a, (uint32_t)v);
    } else {
        e8(a, 0x48 | (reg >> 3 & 1));
        e8(a, 0xb8 | (reg & 7));
        e64(a, v);
    }
}

/* To a multiple of n bytes by long NOPs: loops run up to a half slower from elsewhere. */
static inline void e_align(struct asmb *a, unsigned n)
{
    static const uint8_t nop8[8] = {0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0};
    while ((uintptr_t)a->p % n != 0) {
        unsigned left = n - (unsigned)((uintptr_t)a->p % n);
        if (left >= sizeof(nop8)) {
            __builtin_memcpy(a->p, nop8, sizeof(nop8));
            a->p += sizeof(nop8);
        } else {
            e8(a, 0x90);
        }
    }
}

/* rorx to, from, n: 32 bits, flags stay */
static inline void e_rorx(struct asmb *a, unsigned to, unsigned from, unsigned n)
{
    e8(a, 0xc4);
    e8(a, (~to >> 3 & 1) << 7 | 0x40 | (~from >> 3 & 1) << 5 | 3);
    e8(a, 0x7b);
    e8(a, 0xf0);
    e8(a, 0xc0 | (to & 7) << 3 | (from & 7));
    e8(a, n);
}

/* Branches: return where their displacement is. */
static inline uint8_t *e_jmp(struct asmb *a)
{
    e8(a, 0xe9);
    e32(a, 0);
    return a->p - 4;
}
static inline uint8_t *e_jcc(struct asmb *a, unsigned cc)
{
    e8(a, 0x0f);
    e8(a, 0x80 | cc);
    e32(a, 0);
    return a->p - 4;
}
static inline void e_patch(uint8_t *at, const uint8_t *to)
{
    int32_t rel = (int32_t)(to - (at + 4));
    __builtin_memcpy(at, &rel, 4);
}
static inline uint8_t *e_jcc_short(struct asmb *a, unsigned cc)
{
    e8(a, 0x70 | cc);
    e8(a, 0);
    return a->p - 1;
}
static inline void e_patch_short(uint8_t *at, const uint8_t *to)
{
    *at = (uint8_t)(to - (at + 1));
}
static inline void e_jmp_to(struct asmb *a, const uint8_t *to)
{
    e_patch(e_jmp(a), to);
}
static inline void e_call_to(struct asmb *a, const uint8_t *to)
{
    e8(a, 0xe8);
    e32(a, 0);
    e_patch(a->p - 4, to);
}
enum { CC_O, CC_NO, CC_B, CC_AE, CC_E, CC_NE, CC_BE, CC_A };
