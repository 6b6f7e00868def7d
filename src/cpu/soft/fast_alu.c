/* Fast handlers: arithmetic, logic, shifts. */
#include "cpu/soft/fast.h"

/* ---- ADD OR ADC SBB AND SUB XOR CMP, TEST ---- */

enum form { RR, RM, MR, RI, MI, N_FORMS };

#define ALU_WRITE(name, s, type)                                                               \
    HANDLER(name##_rr_##s)                                                                     \
    {                                                                                          \
        SET_##s(dst, prim_##name##_##s(c, REG(type, dst), REG(type, src)));                    \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(name##_rm_##s)                                                                     \
    {                                                                                          \
        LOAD(type, b);                                                                         \
        SET_##s(dst, prim_##name##_##s(c, REG(type, dst), b));                                 \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(name##_mr_##s)                                                                     \
    {                                                                                          \
        MODIFY(type, p);                                                                       \
        *p = prim_##name##_##s(c, *p, REG(type, src));                                         \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(name##_ri_##s)                                                                     \
    {                                                                                          \
        SET_##s(dst, prim_##name##_##s(c, REG(type, dst), (type)op->imm));                     \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(name##_mi_##s)                                                                     \
    {                                                                                          \
        MODIFY(type, p);                                                                       \
        *p = prim_##name##_##s(c, *p, (type)op->imm);                                          \
        UOP_NEXT(c, op);                                                                       \
    }
#define ALU_FLAGS(name, s, type)                                                               \
    HANDLER(name##_rr_##s)                                                                     \
    {                                                                                          \
        prim_##name##_##s(c, REG(type, dst), REG(type, src));                                  \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(name##_rm_##s)                                                                     \
    {                                                                                          \
        LOAD(type, b);                                                                         \
        prim_##name##_##s(c, REG(type, dst), b);                                               \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(name##_mr_##s)                                                                     \
    {                                                                                          \
        LOAD(type, a);                                                                         \
        prim_##name##_##s(c, a, REG(type, src));                                               \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(name##_ri_##s)                                                                     \
    {                                                                                          \
        prim_##name##_##s(c, REG(type, dst), (type)op->imm);                                   \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(name##_mi_##s)                                                                     \
    {                                                                                          \
        LOAD(type, a);                                                                         \
        prim_##name##_##s(c, a, (type)op->imm);                                                \
        UOP_NEXT(c, op);                                                                       \
    }
#define ALU_SIZE(s, type, m)                                                                   \
    ALU_WRITE(add, s, type)                                                                    \
    ALU_WRITE(or, s, type)                                                                     \
    ALU_WRITE(adc, s, type)                                                                    \
    ALU_WRITE(sbb, s, type)                                                                    \
    ALU_WRITE(and, s, type)                                                                    \
    ALU_WRITE(sub, s, type)                                                                    \
    ALU_WRITE(xor, s, type)                                                                    \
    ALU_FLAGS(cmp, s, type)                                                                    \
    ALU_FLAGS(test, s, type)
FOR_SIZES(ALU_SIZE)

#define FORMS(name)                                                                            \
    {                                                                                          \
        [RR] = SIZE_TABLE(name##_rr), [RM] = SIZE_TABLE(name##_rm),                            \
        [MR] = SIZE_TABLE(name##_mr), [RI] = SIZE_TABLE(name##_ri),                            \
        [MI] = SIZE_TABLE(name##_mi)                                                           \
    }
static uop_fn *const alu_handlers[8][N_FORMS][4] = {
    FORMS(add), FORMS(or),  FORMS(adc), FORMS(sbb),
    FORMS(and), FORMS(sub), FORMS(xor), FORMS(cmp),
};
static uop_fn *const test_handlers[N_FORMS][4] = FORMS(test);

/* xor r,r and sub r,r: a constant, with known flags. */
HANDLER(zero_reg)
{
    REG(uint64_t, dst) = 0;
    c->aflags = AF_ZF | AF_PF;
    UOP_NEXT(c, op);
}

bool fast_bind_alu(const struct insn *in, const struct opcode *row, struct uop *op)
{
    unsigned size = fast_size(in, row), si = size_log2(size), alu;
    enum form form;
    if (in->opcode >= 0x80) { /* group 1 */
        alu = in->reg & 7;
        form = in->is_mem ? MI : RI;
        op->dst = fast_reg(in, in->rm, size);
        op->imm = in->imm;
    } else if (in->opcode & 4) { /* accumulator, immediate */
        alu = in->opcode >> 3;
        form = RI;
        op->dst = 0;
        op->imm = in->imm;
    } else {
        alu = in->opcode >> 3;
        bool to_reg = (in->opcode & 2) != 0;
        form = !in->is_mem ? RR : to_reg ? RM : MR;
        uint8_t reg = fast_reg(in, in->reg, size), rm = fast_reg(in, in->rm, size);
        op->dst = to_reg ? reg : rm;
        op->src = to_reg ? rm : reg;
        if (form == RR && op->dst == op->src && size >= 4 && (alu == 6 || alu == 5)) {
            op->fn = zero_reg;
            return true;
        }
    }
    op->fn = alu_handlers[alu][form][si];
    return true;
}

bool fast_bind_test(const struct insn *in, const struct opcode *row, struct uop *op)
{
    unsigned size = fast_size(in, row), si = size_log2(size);
    if (in->opcode == 0x84 || in->opcode == 0x85) {
        op->dst = fast_reg(in, in->rm, size);
        op->src = fast_reg(in, in->reg, size);
        op->fn = test_handlers[in->is_mem ? MR : RR][si];
        return true;
    }
    op->dst = in->has_modrm ? fast_reg(in, in->rm, size) : 0;
    op->imm = in->imm;
    op->fn = test_handlers[in->is_mem ? MI : RI][si];
    return true;
}

/* ---- INC DEC NEG NOT ---- */

#define UNARY(name, s, type)                                                                   \
    HANDLER(name##_r_##s)                                                                      \
    {                                                                                          \
        SET_##s(dst, prim_##name##_##s(c, REG(type, dst)));                                    \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(name##_m_##s)                                                                      \
    {                                                                                          \
        MODIFY(type, p);                                                                       \
        *p = prim_##name##_##s(c, *p);                                                         \
        UOP_NEXT(c, op);                                                                       \
    }
#define UNARY_SIZE(s, type, m)                                                                 \
    UNARY(inc, s, type)                                                                        \
    UNARY(dec, s, type)                                                                        \
    UNARY(neg, s, type)                                                                        \
    HANDLER(not_r_##s)                                                                         \
    {                                                                                          \
        SET_##s(dst, (type)~REG(type, dst));                                                   \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(not_m_##s)                                                                         \
    {                                                                                          \
        MODIFY(type, p);                                                                       \
        *p = (type) ~*p;                                                                       \
        UOP_NEXT(c, op);                                                                       \
    }
FOR_SIZES(UNARY_SIZE)

static uop_fn *const incdec_handlers[2][2][4] = {
    {SIZE_TABLE(inc_r), SIZE_TABLE(inc_m)},
    {SIZE_TABLE(dec_r), SIZE_TABLE(dec_m)},
};
static uop_fn *const negnot_handlers[2][2][4] = {
    {SIZE_TABLE(not_r), SIZE_TABLE(not_m)},
    {SIZE_TABLE(neg_r), SIZE_TABLE(neg_m)},
};

bool fast_bind_incdec(const struct insn *in, const struct opcode *row, struct uop *op)
{
    unsigned size = fast_size(in, row);
    op->dst = fast_reg(in, in->rm, size);
    op->fn = incdec_handlers[in->reg & 1][in->is_mem][size_log2(size)];
    return true;
}

bool fast_bind_negnot(const struct insn *in, const struct opcode *row, struct uop *op)
{
    unsigned size = fast_size(in, row);
    op->dst = fast_reg(in, in->rm, size);
    op->fn = negnot_handlers[in->reg & 1][in->is_mem][size_log2(size)];
    return true;
}

/* ---- shifts and rotates ---- */

#define SHIFT(name, s, type)                                                                   \
    HANDLER(name##_ri_##s)                                                                     \
    {                                                                                          \
        SET_##s(dst, prim_##name##_##s(c, REG(type, dst), (uint8_t)op->imm));                  \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(name##_mi_##s)                                                                     \
    {                                                                                          \
        MODIFY(type, p);                                                                       \
        *p = prim_##name##_##s(c, *p, (uint8_t)op->imm);                                       \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(name##_rc_##s)                                                                     \
    {                                                                                          \
        uint8_t n = (uint8_t)(c->gpr[X86_RCX] & (sizeof(type) == 8 ? 63 : 31));                \
        SET_##s(dst, n != 0 ? prim_##name##_##s(c, REG(type, dst), n) : REG(type, dst));       \
        UOP_NEXT(c, op);                                                                       \
    }
#define SHIFT_SIZE(s, type, m)                                                                 \
    SHIFT(rol, s, type)                                                                        \
    SHIFT(ror, s, type)                                                                        \
    SHIFT(shl, s, type)                                                                        \
    SHIFT(shr, s, type)                                                                        \
    SHIFT(sar, s, type)
FOR_SIZES(SHIFT_SIZE)

#define SHIFT_FORMS(name)                                                                      \
    {                                                                                          \
        SIZE_TABLE(name##_ri), SIZE_TABLE(name##_mi), SIZE_TABLE(name##_rc)                    \
    }
static uop_fn *const shift_handlers[8][3][4] = {
    [0] = SHIFT_FORMS(rol), [1] = SHIFT_FORMS(ror), [4] = SHIFT_FORMS(shl),
    [5] = SHIFT_FORMS(shr), [6] = SHIFT_FORMS(shl), [7] = SHIFT_FORMS(sar),
};

bool fast_bind_shift(const struct insn *in, const struct opcode *row, struct uop *op)
{
    unsigned size = fast_size(in, row), kind = in->reg & 7, si = size_log2(size);
    bool by_cl = in->opcode == 0xd2 || in->opcode == 0xd3;
    uint64_t n = (in->opcode < 0xd0 ? in->imm : 1) & (size == 8 ? 63 : 31);
    if (kind == 2 || kind == 3 || (by_cl && in->is_mem) || (!by_cl && n == 0)) {
        return false;
    }
    op->dst = fast_reg(in, in->rm, size);
    op->imm = n;
    op->fn = shift_handlers[kind][by_cl ? 2 : in->is_mem][si];
    return true;
}

/* ---- IMUL, BT ---- */

#define IMUL(s, type)                                                                          \
    HANDLER(imul_rr_##s)                                                                       \
    {                                                                                          \
        SET_##s(dst, prim_imul_##s(c, REG(type, dst), REG(type, src)));                        \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(imul_rm_##s)                                                                       \
    {                                                                                          \
        LOAD(type, b);                                                                         \
        SET_##s(dst, prim_imul_##s(c, REG(type, dst), b));                                     \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(imul_rri_##s)                                                                      \
    {                                                                                          \
        SET_##s(dst, prim_imul_##s(c, REG(type, src), (type)op->imm));                         \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(imul_rmi_##s)                                                                      \
    {                                                                                          \
        LOAD(type, b);                                                                         \
        SET_##s(dst, prim_imul_##s(c, b, (type)op->imm));                                      \
        UOP_NEXT(c, op);                                                                       \
    }
IMUL(w, uint16_t)
IMUL(l, uint32_t)
IMUL(q, uint64_t)
#define IMUL_ROW(form)                                                                         \
    {                                                                                          \
        NULL, imul_##form##_w, imul_##form##_l, imul_##form##_q                                \
    }
static uop_fn *const imul_handlers[2][2][4] = {
    {IMUL_ROW(rr), IMUL_ROW(rm)},
    {IMUL_ROW(rri), IMUL_ROW(rmi)},
};

bool fast_bind_imul(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)row;
    op->dst = (uint8_t)(in->reg * 8);
    op->src = (uint8_t)(in->rm * 8);
    op->imm = in->imm;
    op->fn = imul_handlers[in->map == MAP_1B][in->is_mem][size_log2(in->osize)];
    return true;
}

#define BT(s, type)                                                                            \
    HANDLER(bt_ri_##s)                                                                         \
    {                                                                                          \
        uint32_t bit = (REG(type, dst) >> op->imm) & 1;                                        \
        c->aflags = (uint16_t)((c->aflags & ~AF_CF) | (bit << 8));                             \
        UOP_NEXT(c, op);                                                                       \
    }                                                                                          \
    HANDLER(bt_rr_##s)                                                                         \
    {                                                                                          \
        uint32_t bit = (REG(type, dst) >> (REG(type, src) & (sizeof(type) * 8 - 1))) & 1;      \
        c->aflags = (uint16_t)((c->aflags & ~AF_CF) | (bit << 8));                             \
        UOP_NEXT(c, op);                                                                       \
    }
BT(l, uint32_t)
BT(q, uint64_t)

bool fast_bind_bt(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)row;
    bool by_imm = in->opcode == 0xba;
    unsigned kind = by_imm ? in->reg & 3 : (in->opcode >> 3) & 3;
    if (in->is_mem || kind != 0 || in->osize == 2) {
        return false;
    }
    op->dst = (uint8_t)(in->rm * 8);
    op->src = (uint8_t)(in->reg * 8);
    op->imm = in->imm & (in->osize * 8u - 1);
    op->fn =
        by_imm ? (in->osize == 8 ? bt_ri_q : bt_ri_l) : (in->osize == 8 ? bt_rr_q : bt_rr_l);
    return true;
}

/* ---- compare and branch in one ---- */

#define FUSED_ONE(name, s, type, cc)                                                           \
    HANDLER(name##_rr_##s##_j##cc)                                                             \
    {                                                                                          \
        prim_##name##_##s(c, REG(type, dst), REG(type, src));                                  \
        return uop_branch(c, op, prim_cond(c->aflags, cc));                                    \
    }                                                                                          \
    HANDLER(name##_ri_##s##_j##cc)                                                             \
    {                                                                                          \
        prim_##name##_##s(c, REG(type, dst), (type)op->imm);                                   \
        return uop_branch(c, op, prim_cond(c->aflags, cc));                                    \
    }                                                                                          \
    HANDLER(name##_mi_##s##_j##cc)                                                             \
    {                                                                                          \
        LOAD(type, a);                                                                         \
        prim_##name##_##s(c, a, (type)op->imm);                                                \
        return uop_branch(c, op, prim_cond(c->aflags, cc));                                    \
    }                                                                                          \
    HANDLER(name##_rm_##s##_j##cc)                                                             \
    {                                                                                          \
        LOAD(type, b);                                                                         \
        prim_##name##_##s(c, REG(type, dst), b);                                               \
        return uop_branch(c, op, prim_cond(c->aflags, cc));                                    \
    }
#define FUSED_b(cc) FUSED_ONE(cmp, b, uint8_t, cc) FUSED_ONE(test, b, uint8_t, cc)
#define FUSED_l(cc) FUSED_ONE(cmp, l, uint32_t, cc) FUSED_ONE(test, l, uint32_t, cc)
#define FUSED_q(cc) FUSED_ONE(cmp, q, uint64_t, cc) FUSED_ONE(test, q, uint64_t, cc)
FOR_CONDS(FUSED_b)
FOR_CONDS(FUSED_l)
FOR_CONDS(FUSED_q)

struct fusion {
    uop_fn *plain;
    uop_fn *fused[16];
};
#define FUSION(name, form, s)                                                                  \
    {                                                                                          \
        name##_##form##_##s, COND_TABLE(name##_##form##_##s##_j)                               \
    }
#define FUSION_FORMS(name, s)                                                                  \
    FUSION(name, rr, s), FUSION(name, ri, s), FUSION(name, mi, s), FUSION(name, rm, s)
static const struct fusion fusions[] = {
    FUSION_FORMS(cmp, b),  FUSION_FORMS(cmp, l),  FUSION_FORMS(cmp, q),
    FUSION_FORMS(test, b), FUSION_FORMS(test, l), FUSION_FORMS(test, q),
};

bool fast_fuse(struct uop *compare, unsigned cc)
{
    for (unsigned i = 0; i < ARRAY_LEN(fusions); i++) {
        if (fusions[i].plain == compare->fn) {
            compare->fn = fusions[i].fused[cc];
            return true;
        }
    }
    return false;
}
