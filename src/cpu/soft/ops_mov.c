/* Data movement: MOV and its relatives, LEA, XCHG, stack, conditional moves, flag moves. */
#include "cpu/soft/operand.h"
#include "cpu/soft/ops.h"
#include "cpu/soft/prims.h"

enum insn_result soft_op_mov_rm_r(struct scpu *c, const struct insn *in)
{
    unsigned size = op_size(in);
    if (in->opcode & 2) {
        uint64_t v;
        if (rm_get(c, in, size, &v)) {
            return INSN_EXC;
        }
        reg_put(c, in, in->reg, size, v);
        return INSN_NEXT;
    }
    return rm_put(c, in, size, reg_get(c, in, in->reg, size)) ? INSN_EXC : INSN_NEXT;
}

enum insn_result soft_op_mov_rm_imm(struct scpu *c, const struct insn *in)
{
    return rm_put(c, in, op_size(in), in->imm) ? INSN_EXC : INSN_NEXT;
}

enum insn_result soft_op_mov_reg_imm(struct scpu *c, const struct insn *in)
{
    unsigned reg = (in->opcode & 7u) | ((in->rex & 1u) << 3);
    reg_put(c, in, reg, in->opcode < 0xb8 ? 1 : in->osize, in->imm);
    return INSN_NEXT;
}

enum insn_result soft_op_mov_moffs(struct scpu *c, const struct insn *in)
{
    unsigned size = op_size(in);
    uint64_t va, v;
    bool store = (in->opcode & 2) != 0;
    if (soft_operand_linear(c, in, size, store, &va)) {
        return INSN_EXC;
    }
    if (store) {
        return soft_st(c, va, size, op_acc(c), trunc_size(c->gpr[X86_RAX], size)) ? INSN_EXC
                                                                                  : INSN_NEXT;
    }
    if (soft_ld(c, va, size, op_acc(c), &v)) {
        return INSN_EXC;
    }
    soft_reg_set(c, X86_RAX, size, v);
    return INSN_NEXT;
}

static enum insn_result mov_extend(struct scpu *c, const struct insn *in, bool is_signed)
{
    unsigned size = (in->opcode & 1) ? 2 : 1;
    uint64_t v;
    if (rm_get(c, in, size, &v)) {
        return INSN_EXC;
    }
    soft_reg_set(c, in->reg, in->osize, is_signed ? sext_size(v, size) : v);
    return INSN_NEXT;
}

enum insn_result soft_op_movzx(struct scpu *c, const struct insn *in)
{
    return mov_extend(c, in, false);
}

enum insn_result soft_op_movsx(struct scpu *c, const struct insn *in)
{
    return mov_extend(c, in, true);
}

enum insn_result soft_op_movsxd(struct scpu *c, const struct insn *in)
{
    unsigned size = in->osize == 2 ? 2 : 4;
    uint64_t v;
    if (rm_get(c, in, size, &v)) {
        return INSN_EXC;
    }
    soft_reg_set(c, in->reg, in->osize, sext_size(v, size));
    return INSN_NEXT;
}

enum insn_result soft_op_lea(struct scpu *c, const struct insn *in)
{
    soft_reg_set(c, in->reg, in->osize, soft_ea(c, in));
    return INSN_NEXT;
}

enum insn_result soft_op_xchg_rm_r(struct scpu *c, const struct insn *in)
{
    unsigned size = op_size(in);
    uint64_t old, v = reg_get(c, in, in->reg, size);
    void *p = rm_begin(c, in, size);
    if (p == NULL) {
        return INSN_EXC;
    }
    switch (size) { /* locked even without the prefix */
    case 1: old = __atomic_exchange_n((uint8_t *)p, (uint8_t)v, __ATOMIC_SEQ_CST); break;
    case 2: old = __atomic_exchange_n((uint16_t *)p, (uint16_t)v, __ATOMIC_SEQ_CST); break;
    case 4: old = __atomic_exchange_n((uint32_t *)p, (uint32_t)v, __ATOMIC_SEQ_CST); break;
    default: old = __atomic_exchange_n((uint64_t *)p, v, __ATOMIC_SEQ_CST); break;
    }
    enum insn_result r = rm_end(c, in, size);
    reg_put(c, in, in->reg, size, old);
    return r;
}

enum insn_result soft_op_xchg_a(struct scpu *c, const struct insn *in)
{
    unsigned reg = (in->opcode & 7u) | ((in->rex & 1u) << 3), size = in->osize;
    uint64_t a = soft_reg_get(c, X86_RAX, size), b = soft_reg_get(c, reg, size);
    soft_reg_set(c, X86_RAX, size, b);
    soft_reg_set(c, reg, size, a);
    return INSN_NEXT;
}

enum insn_result soft_op_nop(struct scpu *c, const struct insn *in)
{
    (void)c;
    if (in->opcode == 0xae) { /* LFENCE, MFENCE, SFENCE */
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    }
    return INSN_NEXT;
}

static enum insn_result push(struct scpu *c, const struct insn *in, uint64_t v)
{
    return soft_push(c, in->osize, v) ? INSN_EXC : INSN_NEXT;
}

enum insn_result soft_op_push_reg(struct scpu *c, const struct insn *in)
{
    return push(c, in, soft_reg_get(c, (in->opcode & 7u) | ((in->rex & 1u) << 3), in->osize));
}

enum insn_result soft_op_push_imm(struct scpu *c, const struct insn *in)
{
    return push(c, in, trunc_size(in->imm, in->osize));
}

enum insn_result soft_op_push_rm(struct scpu *c, const struct insn *in)
{
    uint64_t v;
    return rm_get(c, in, in->osize, &v) ? INSN_EXC : push(c, in, v);
}

enum insn_result soft_op_pop_reg(struct scpu *c, const struct insn *in)
{
    uint64_t v;
    if (soft_pop(c, in->osize, &v)) {
        return INSN_EXC;
    }
    soft_reg_set(c, (in->opcode & 7u) | ((in->rex & 1u) << 3), in->osize, v);
    return INSN_NEXT;
}

enum insn_result soft_op_pop_rm(struct scpu *c, const struct insn *in)
{
    uint64_t v, sp = c->gpr[X86_RSP];
    if (soft_pop(c, in->osize, &v)) {
        return INSN_EXC;
    }
    /* The address is computed with the incremented RSP; a fault must show the old one. */
    if (rm_put(c, in, in->osize, v)) {
        c->gpr[X86_RSP] = sp;
        return INSN_EXC;
    }
    return INSN_NEXT;
}

enum insn_result soft_op_pusha(struct scpu *c, const struct insn *in)
{
    uint64_t sp = c->gpr[X86_RSP];
    for (unsigned r = 0; r < 8; r++) {
        if (soft_push(c, in->osize, r == X86_RSP ? sp : c->gpr[r])) {
            c->gpr[X86_RSP] = sp;
            return INSN_EXC;
        }
    }
    return INSN_NEXT;
}

enum insn_result soft_op_popa(struct scpu *c, const struct insn *in)
{
    uint64_t sp = c->gpr[X86_RSP], v[8];
    for (unsigned r = 8; r-- > 0;) {
        if (soft_pop(c, in->osize, &v[r])) {
            c->gpr[X86_RSP] = sp;
            return INSN_EXC;
        }
    }
    for (unsigned r = 0; r < 8; r++) {
        if (r != X86_RSP) {
            soft_reg_set(c, r, in->osize, v[r]);
        }
    }
    return INSN_NEXT;
}

enum insn_result soft_op_cmov(struct scpu *c, const struct insn *in)
{
    uint64_t v;
    if (rm_get(c, in, in->osize, &v)) { /* read, and may fault, whatever the condition */
        return INSN_EXC;
    }
    if (!prim_cond(c->aflags, in->opcode & 15)) {
        v = soft_reg_get(c, in->reg, in->osize); /* a 32-bit form still clears the upper half */
    }
    soft_reg_set(c, in->reg, in->osize, v);
    return INSN_NEXT;
}

enum insn_result soft_op_setcc(struct scpu *c, const struct insn *in)
{
    return rm_put(c, in, 1, prim_cond(c->aflags, in->opcode & 15)) ? INSN_EXC : INSN_NEXT;
}

enum insn_result soft_op_bswap(struct scpu *c, const struct insn *in)
{
    unsigned reg = (in->opcode & 7u) | ((in->rex & 1u) << 3);
    if (in->osize == 8) {
        c->gpr[reg] = __builtin_bswap64(c->gpr[reg]);
    } else if (in->osize == 4) {
        c->gpr[reg] = __builtin_bswap32((uint32_t)c->gpr[reg]);
    } else {
        soft_reg_set(c, reg, 2, 0); /* undefined by the manual; what processors do */
    }
    return INSN_NEXT;
}

enum insn_result soft_op_cbw(struct scpu *c, const struct insn *in)
{
    soft_reg_set(c, X86_RAX, in->osize, sext_size(c->gpr[X86_RAX], in->osize / 2u));
    return INSN_NEXT;
}

enum insn_result soft_op_cwd(struct scpu *c, const struct insn *in)
{
    bool negative = (c->gpr[X86_RAX] >> (in->osize * 8 - 1)) & 1;
    soft_reg_set(c, X86_RDX, in->osize, negative ? ~UINT64_C(0) : 0);
    return INSN_NEXT;
}

enum insn_result soft_op_xlat(struct scpu *c, const struct insn *in)
{
    uint64_t va, v;
    uint64_t off = trunc_size(c->gpr[X86_RBX] + (uint8_t)c->gpr[X86_RAX], in->asize);
    if (soft_seg_linear(c, in->seg, off, 1, false, &va) || soft_ld(c, va, 1, op_acc(c), &v)) {
        return INSN_EXC;
    }
    soft_reg_set(c, X86_RAX, 1, v);
    return INSN_NEXT;
}

enum insn_result soft_op_lahf(struct scpu *c, const struct insn *in)
{
    (void)in;
    uint64_t ah = (soft_get_rflags(c) & 0xd5) | 2;
    c->gpr[X86_RAX] = (c->gpr[X86_RAX] & ~UINT64_C(0xff00)) | (ah << 8);
    return INSN_NEXT;
}

enum insn_result soft_op_sahf(struct scpu *c, const struct insn *in)
{
    (void)in;
    c->aflags = (uint16_t)((c->aflags & 0xff) | (c->gpr[X86_RAX] & 0xd500));
    return INSN_NEXT;
}

enum insn_result soft_op_flag(struct scpu *c, const struct insn *in)
{
    switch (in->opcode) {
    case 0xf5: c->aflags ^= AF_CF; break;
    case 0xf8: c->aflags &= (uint16_t)~AF_CF; break;
    case 0xf9: c->aflags |= AF_CF; break;
    case 0xfc: c->sysflags &= ~FL_DF; break;
    default: c->sysflags |= FL_DF; break;
    }
    return INSN_NEXT;
}

enum insn_result soft_op_salc(struct scpu *c, const struct insn *in)
{
    (void)in;
    soft_reg_set(c, X86_RAX, 1, (c->aflags & AF_CF) ? 0xff : 0);
    return INSN_NEXT;
}
