/* Fast handlers: data movement. */
#include "cpu/soft/fast.h"

/* ---- MOV ---- */

#define MOV(s, type, m)                                                                        \
    HANDLER(mov_rr_##s)                                                                        \
    {                                                                                          \
        SET_##s(dst, REG(type, src));                                                          \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(mov_rm_##s)                                                                        \
    {                                                                                          \
        LOAD(type, v);                                                                         \
        SET_##s(dst, v);                                                                       \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(mov_mr_##s)                                                                        \
    {                                                                                          \
        STORE(type, REG(type, src));                                                           \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(mov_ri_##s)                                                                        \
    {                                                                                          \
        SET_##s(dst, (type)op->imm);                                                           \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(mov_mi_##s)                                                                        \
    {                                                                                          \
        STORE(type, (type)op->imm);                                                            \
        UOP_NEXT(c, op);                                                                       \
    }
FOR_SIZES(MOV)
static uop_fn *const mov_rr[4] = SIZE_TABLE(mov_rr), *const mov_rm[4] = SIZE_TABLE(mov_rm),
                     *const mov_mr[4] = SIZE_TABLE(mov_mr),
                     *const mov_ri[4] = SIZE_TABLE(mov_ri),
                     *const mov_mi[4] = SIZE_TABLE(mov_mi);

bool fast_bind_mov(const struct insn *in, const struct opcode *row, struct uop *op)
{
    unsigned size = fast_size(in, row), si = size_log2(size);
    bool to_reg = (in->opcode & 2) != 0;
    uint8_t reg = fast_reg(in, in->reg, size), rm = fast_reg(in, in->rm, size);
    op->dst = to_reg ? reg : rm;
    op->src = to_reg ? rm : reg;
    op->fn = (!in->is_mem ? mov_rr : to_reg ? mov_rm : mov_mr)[si];
    return true;
}

bool fast_bind_movimm(const struct insn *in, const struct opcode *row, struct uop *op)
{
    unsigned size = fast_size(in, row);
    unsigned reg = in->has_modrm ? in->rm : (in->opcode & 7u) | ((in->rex & 1u) << 3);
    op->dst = fast_reg(in, reg, size);
    op->imm = in->imm;
    op->fn = (in->is_mem ? mov_mi : mov_ri)[size_log2(size)];
    return true;
}

/* ---- LEA ---- */

HANDLER(lea_l)
{
    SET_l(dst, uop_ea(c, op));
    UOP_NEXT(c, op);
}
HANDLER(lea_q)
{
    SET_q(dst, uop_ea(c, op));
    UOP_NEXT(c, op);
}

bool fast_bind_lea(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)row;
    if (in->osize == 2) {
        return false;
    }
    op->seg = SOFT_SEG_ZERO;
    op->dst = (uint8_t)(in->reg * 8);
    op->fn = in->osize == 8 ? lea_q : lea_l;
    return true;
}

/* ---- MOVZX MOVSX MOVSXD ---- */

#define EXTEND(name, from, s, to)                                                              \
    HANDLER(name##_rr_##s)                                                                     \
    {                                                                                          \
        SET_##s(dst, (to)REG(from, src));                                                      \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(name##_rm_##s)                                                                     \
    {                                                                                          \
        LOAD(from, v);                                                                         \
        SET_##s(dst, (to)v);                                                                   \
        UOP_NEXT(c, op);                                                                       \
    }
EXTEND(zx8, uint8_t, w, uint16_t)
EXTEND(zx8, uint8_t, l, uint32_t)
EXTEND(zx8, uint8_t, q, uint64_t)
EXTEND(zx16, uint16_t, w, uint16_t)
EXTEND(zx16, uint16_t, l, uint32_t)
EXTEND(zx16, uint16_t, q, uint64_t)
EXTEND(sx8, int8_t, w, int16_t)
EXTEND(sx8, int8_t, l, int32_t)
EXTEND(sx8, int8_t, q, uint64_t)
EXTEND(sx16, int16_t, w, int16_t)
EXTEND(sx16, int16_t, l, int32_t)
EXTEND(sx16, int16_t, q, uint64_t)
EXTEND(sx32, int32_t, l, int32_t)
EXTEND(sx32, int32_t, q, uint64_t)
#define EXTEND_ROW(name)                                                                       \
    {                                                                                          \
        {name##_rr_w, name##_rr_l, name##_rr_q},                                               \
        {                                                                                      \
            name##_rm_w, name##_rm_l, name##_rm_q                                              \
        }                                                                                      \
    }
static uop_fn *const extend_handlers[2][2][2][3] = {
    {EXTEND_ROW(zx8), EXTEND_ROW(zx16)},
    {EXTEND_ROW(sx8), EXTEND_ROW(sx16)},
};

bool fast_bind_extend(const struct insn *in, const struct opcode *row, struct uop *op)
{
    bool word = (in->opcode & 1) != 0, is_signed = row->kind == K_MOVSX;
    op->dst = (uint8_t)(in->reg * 8);
    op->src = fast_reg(in, in->rm, word ? 2 : 1);
    op->fn = extend_handlers[is_signed][word][in->is_mem][size_log2(in->osize) - 1];
    return true;
}

bool fast_bind_movsxd(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)row;
    if (in->osize == 2) {
        return false;
    }
    op->dst = (uint8_t)(in->reg * 8);
    op->src = (uint8_t)(in->rm * 8);
    op->fn = in->is_mem ? (in->osize == 8 ? sx32_rm_q : sx32_rm_l)
                        : (in->osize == 8 ? sx32_rr_q : sx32_rr_l);
    return true;
}

/* ---- CMOVcc SETcc ---- */

#define CMOV_ONE(s, type, cc)                                                                  \
    HANDLER(cmov_rr_##s##_##cc)                                                                \
    {                                                                                          \
        type v = prim_cond(c->aflags, cc) ? REG(type, src) : REG(type, dst);                   \
        SET_##s(dst, v);                                                                       \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(cmov_rm_##s##_##cc)                                                                \
    {                                                                                          \
        LOAD(type, m);                                                                         \
        type v = prim_cond(c->aflags, cc) ? m : REG(type, dst);                                \
        SET_##s(dst, v);                                                                       \
        UOP_NEXT(c, op);                                                                       \
    }
#define CMOV(cc)                                                                               \
    CMOV_ONE(l, uint32_t, cc)                                                                  \
    CMOV_ONE(q, uint64_t, cc)                                                                  \
    HANDLER(set_r_##cc)                                                                        \
    {                                                                                          \
        SET_b(dst, prim_cond(c->aflags, cc));                                                  \
        UOP_NEXT(c, op);                                                                       \
    }
FOR_CONDS(CMOV)
static uop_fn *const cmov_handlers[2][2][16] = {
    {COND_TABLE(cmov_rr_l_), COND_TABLE(cmov_rr_q_)},
    {COND_TABLE(cmov_rm_l_), COND_TABLE(cmov_rm_q_)},
};
static uop_fn *const set_handlers[16] = COND_TABLE(set_r_);

bool fast_bind_cmov(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)row;
    if (in->osize == 2) {
        return false;
    }
    op->dst = (uint8_t)(in->reg * 8);
    op->src = (uint8_t)(in->rm * 8);
    op->fn = cmov_handlers[in->is_mem][in->osize == 8][in->opcode & 15];
    return true;
}

bool fast_bind_setcc(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)row;
    if (in->is_mem) {
        return false;
    }
    op->dst = fast_reg(in, in->rm, 1);
    op->fn = set_handlers[in->opcode & 15];
    return true;
}

/* ---- NOP XCHG CBW CWD BSWAP ---- */

HANDLER(nop)
{
    (void)c;
    UOP_NEXT(c, op);
}

bool fast_bind_nop(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)in;
    (void)row;
    op->fn = nop;
    return true;
}

HANDLER(xchg_l)
{
    uint32_t a = REG(uint32_t, dst), b = REG(uint32_t, src);
    SET_l(dst, b);
    SET_l(src, a);
    UOP_NEXT(c, op);
}
HANDLER(xchg_q)
{
    uint64_t a = REG(uint64_t, dst), b = REG(uint64_t, src);
    SET_q(dst, b);
    SET_q(src, a);
    UOP_NEXT(c, op);
}

bool fast_bind_xchg(const struct insn *in, const struct opcode *row, struct uop *op)
{
    if (in->is_mem || fast_size(in, row) < 4) {
        return false;
    }
    op->dst = in->has_modrm ? (uint8_t)(in->reg * 8) : 0;
    op->src = in->has_modrm ? (uint8_t)(in->rm * 8)
                            : (uint8_t)(((in->opcode & 7u) | ((in->rex & 1u) << 3)) * 8);
    op->fn = in->osize == 8 ? xchg_q : xchg_l;
    return true;
}

HANDLER(cwde)
{
    c->gpr[X86_RAX] = (uint32_t)(int32_t)(int16_t)c->gpr[X86_RAX];
    UOP_NEXT(c, op);
}
HANDLER(cdqe)
{
    c->gpr[X86_RAX] = (uint64_t)(int64_t)(int32_t)c->gpr[X86_RAX];
    UOP_NEXT(c, op);
}
bool fast_bind_cbw(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)row;
    op->fn = in->osize == 8 ? cdqe : cwde;
    return in->osize != 2;
}

HANDLER(cdq)
{
    c->gpr[X86_RDX] = (uint32_t)((int32_t)c->gpr[X86_RAX] >> 31);
    UOP_NEXT(c, op);
}
HANDLER(cqo)
{
    c->gpr[X86_RDX] = (uint64_t)((int64_t)c->gpr[X86_RAX] >> 63);
    UOP_NEXT(c, op);
}
bool fast_bind_cwd(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)row;
    op->fn = in->osize == 8 ? cqo : cdq;
    return in->osize != 2;
}

HANDLER(bswap_l)
{
    SET_l(dst, __builtin_bswap32(REG(uint32_t, dst)));
    UOP_NEXT(c, op);
}
HANDLER(bswap_q)
{
    SET_q(dst, __builtin_bswap64(REG(uint64_t, dst)));
    UOP_NEXT(c, op);
}
bool fast_bind_bswap(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)row;
    op->dst = (uint8_t)(((in->opcode & 7u) | ((in->rex & 1u) << 3)) * 8);
    op->fn = in->osize == 8 ? bswap_q : bswap_l;
    return in->osize != 2;
}

/* ---- stack, 64-bit operands ---- */

HANDLER(push_r)
{
    uint64_t sp = c->gpr[X86_RSP] - 8;
    STORE_AT(uint64_t, sp, REG(uint64_t, src));
    c->gpr[X86_RSP] = sp;
    UOP_NEXT(c, op);
}
HANDLER(push_i)
{
    uint64_t sp = c->gpr[X86_RSP] - 8;
    STORE_AT(uint64_t, sp, op->imm);
    c->gpr[X86_RSP] = sp;
    UOP_NEXT(c, op);
}
HANDLER(push_m)
{
    LOAD(uint64_t, v);
    uint64_t sp = c->gpr[X86_RSP] - 8;
    STORE_AT(uint64_t, sp, v);
    c->gpr[X86_RSP] = sp;
    UOP_NEXT(c, op);
}
bool fast_bind_push(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)row;
    if (in->osize != 8) {
        return false;
    }
    if (in->has_modrm) {
        op->src = (uint8_t)(in->rm * 8);
        op->fn = in->is_mem ? push_m : push_r;
    } else if (in->opcode < 0x58) {
        op->src = (uint8_t)(((in->opcode & 7u) | ((in->rex & 1u) << 3)) * 8);
        op->fn = push_r;
    } else {
        op->imm = in->imm;
        op->fn = push_i;
    }
    return true;
}

HANDLER(pop_r)
{
    LOAD_AT(uint64_t, v, c->gpr[X86_RSP]);
    c->gpr[X86_RSP] += 8;
    REG(uint64_t, dst) = v;
    UOP_NEXT(c, op);
}

bool fast_bind_pop(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)row;
    op->dst = (uint8_t)(((in->opcode & 7u) | ((in->rex & 1u) << 3)) * 8);
    op->fn = pop_r;
    return in->osize == 8;
}

HANDLER(leave_q)
{
    LOAD_AT(uint64_t, v, c->gpr[X86_RBP]);
    c->gpr[X86_RSP] = c->gpr[X86_RBP] + 8;
    c->gpr[X86_RBP] = v;
    UOP_NEXT(c, op);
}

bool fast_bind_leave(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)row;
    op->fn = leave_q;
    return in->osize == 8;
}
