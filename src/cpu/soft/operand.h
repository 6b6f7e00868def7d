/*
 * Operands of the general integer handlers: registers of any size, and the modrm operand, read,
 * written, or modified in place through a pointer.
 */
#pragma once

#include "cpu/soft/soft.h"

static inline unsigned op_acc(const struct scpu *c)
{
    return c->cpl == 3 ? ACC_USER : 0;
}

/* 1 for opcodes whose low bit is clear, else the operand size. */
static inline unsigned op_size(const struct insn *in)
{
    return (in->opcode & 1) ? in->osize : 1;
}

static inline uint64_t trunc_size(uint64_t v, unsigned size)
{
    return size == 8 ? v : v & ((UINT64_C(1) << (size * 8)) - 1);
}

static inline uint64_t sext_size(uint64_t v, unsigned size)
{
    switch (size) {
    case 1: return (uint64_t)(int64_t)(int8_t)v;
    case 2: return (uint64_t)(int64_t)(int16_t)v;
    case 4: return (uint64_t)(int64_t)(int32_t)v;
    default: return v;
    }
}

static inline uint64_t reg_get(struct scpu *c, const struct insn *in, unsigned reg,
                               unsigned size)
{
    return size == 1 ? *soft_reg8(c, reg, in->rex != 0) : soft_reg_get(c, reg, size);
}

static inline void reg_put(struct scpu *c, const struct insn *in, unsigned reg, unsigned size,
                           uint64_t v)
{
    if (size == 1) {
        *soft_reg8(c, reg, in->rex != 0) = (uint8_t)v;
    } else {
        soft_reg_set(c, reg, size, v);
    }
}

static inline void *reg_ptr(struct scpu *c, const struct insn *in, unsigned reg, unsigned size)
{
    return size == 1 ? (void *)soft_reg8(c, reg, in->rex != 0) : (void *)&c->gpr[reg];
}

/* The modrm operand's value. */
static inline int rm_get(struct scpu *c, const struct insn *in, unsigned size, uint64_t *ret)
{
    uint64_t va;
    if (!in->is_mem) {
        *ret = reg_get(c, in, in->rm, size);
        return 0;
    }
    if (soft_operand_linear(c, in, size, false, &va)) {
        return INSN_EXC;
    }
    return soft_ld(c, va, size, op_acc(c), ret);
}

static inline int rm_put(struct scpu *c, const struct insn *in, unsigned size, uint64_t v)
{
    uint64_t va;
    if (!in->is_mem) {
        reg_put(c, in, in->rm, size, v);
        return 0;
    }
    if (soft_operand_linear(c, in, size, true, &va)) {
        return INSN_EXC;
    }
    return soft_st(c, va, size, op_acc(c), v);
}

/* Where the modrm operand can be modified in place; NULL: fault. rm_end finishes it. */
static inline void *rm_begin(struct scpu *c, const struct insn *in, unsigned size)
{
    uint64_t va;
    if (!in->is_mem) {
        return reg_ptr(c, in, in->rm, size);
    }
    if (soft_operand_linear(c, in, size, true, &va)) {
        return NULL;
    }
    return soft_access(c, va, size, true, true);
}

static inline enum insn_result rm_end(struct scpu *c, const struct insn *in, unsigned size)
{
    if (in->is_mem) {
        return soft_must_end(c) ? soft_access_end(c) : INSN_NEXT;
    }
    if (size == 4) {
        c->gpr[in->rm] = (uint32_t)c->gpr[in->rm];
    }
    return INSN_NEXT;
}
