/* Integer arithmetic and logic: ADD..CMP, TEST, INC, DEC, NEG, NOT, MUL, DIV. SDM vol. 2. */
#include "cpu/soft/operand.h"
#include "cpu/soft/ops.h"
#include "cpu/soft/prims.h"

typedef void alu_fn(struct scpu *c, void *p, uint64_t b);

#define WRAP(name, s, type)                                                                    \
    static void alu_##name##_##s(struct scpu *c, void *p, uint64_t b)                          \
    {                                                                                          \
        *(type *)p = prim_##name##_##s(c, *(type *)p, (type)b);                                \
    }                                                                                          \
    static void lock_##name##_##s(struct scpu *c, void *p, uint64_t b)                         \
    {                                                                                          \
        prim_lock_##name##_##s(c, (type *)p, (type)b);                                         \
    }
#define WRAP_SIZE(s, type, m)                                                                  \
    WRAP(add, s, type)                                                                         \
    WRAP(or, s, type)                                                                          \
    WRAP(adc, s, type)                                                                         \
    WRAP(sbb, s, type)                                                                         \
    WRAP(and, s, type)                                                                         \
    WRAP(sub, s, type)                                                                         \
    WRAP(xor, s, type)                                                                         \
    static void alu_cmp_##s(struct scpu *c, void *p, uint64_t b)                               \
    {                                                                                          \
        prim_cmp_##s(c, *(type *)p, (type)b);                                                  \
    }
FOR_SIZES(WRAP_SIZE)

#define ROW(prefix, name)                                                                      \
    {                                                                                          \
        prefix##_##name##_b, prefix##_##name##_w, prefix##_##name##_l, prefix##_##name##_q     \
    }
static alu_fn *const alu_table[8][4] = {
    ROW(alu, add), ROW(alu, or),  ROW(alu, adc), ROW(alu, sbb),
    ROW(alu, and), ROW(alu, sub), ROW(alu, xor), ROW(alu, cmp),
};
static alu_fn *const lock_table[7][4] = {
    ROW(lock, add), ROW(lock, or),  ROW(lock, adc), ROW(lock, sbb),
    ROW(lock, and), ROW(lock, sub), ROW(lock, xor),
};

static unsigned size_index(unsigned size)
{
    return (unsigned)__builtin_ctz(size);
}

#define ALU_CMP 7

static enum insn_result alu_to_rm(struct scpu *c, const struct insn *in, unsigned alu,
                                  unsigned size, uint64_t b)
{
    if (alu == ALU_CMP) {
        uint64_t a;
        if (rm_get(c, in, size, &a)) {
            return INSN_EXC;
        }
        alu_table[alu][size_index(size)](c, &a, b);
        return INSN_NEXT;
    }
    void *p = rm_begin(c, in, size);
    if (p == NULL) {
        return INSN_EXC;
    }
    (in->lock ? lock_table : alu_table)[alu][size_index(size)](c, p, b);
    return rm_end(c, in, size);
}

static void alu_to_reg(struct scpu *c, const struct insn *in, unsigned alu, unsigned reg,
                       unsigned size, uint64_t b)
{
    alu_table[alu][size_index(size)](c, reg_ptr(c, in, reg, size), b);
    if (size == 4 && alu != ALU_CMP) {
        c->gpr[reg] = (uint32_t)c->gpr[reg];
    }
}

enum insn_result soft_op_alu_rm_r(struct scpu *c, const struct insn *in)
{
    unsigned size = op_size(in), alu = in->opcode >> 3;
    if (in->opcode & 2) {
        uint64_t b;
        if (rm_get(c, in, size, &b)) {
            return INSN_EXC;
        }
        alu_to_reg(c, in, alu, in->reg, size, b);
        return INSN_NEXT;
    }
    return alu_to_rm(c, in, alu, size, reg_get(c, in, in->reg, size));
}

enum insn_result soft_op_alu_a_imm(struct scpu *c, const struct insn *in)
{
    alu_to_reg(c, in, in->opcode >> 3, X86_RAX, op_size(in), in->imm);
    return INSN_NEXT;
}

enum insn_result soft_op_grp1(struct scpu *c, const struct insn *in)
{
    return alu_to_rm(c, in, in->reg & 7, op_size(in), in->imm);
}

static void test_values(struct scpu *c, unsigned size, uint64_t a, uint64_t b)
{
    switch (size) {
    case 1: prim_test_b(c, (uint8_t)a, (uint8_t)b); break;
    case 2: prim_test_w(c, (uint16_t)a, (uint16_t)b); break;
    case 4: prim_test_l(c, (uint32_t)a, (uint32_t)b); break;
    default: prim_test_q(c, a, b); break;
    }
}

enum insn_result soft_op_test_rm_r(struct scpu *c, const struct insn *in)
{
    uint64_t a;
    unsigned size = op_size(in);
    if (rm_get(c, in, size, &a)) {
        return INSN_EXC;
    }
    test_values(c, size, a, reg_get(c, in, in->reg, size));
    return INSN_NEXT;
}

enum insn_result soft_op_test_a_imm(struct scpu *c, const struct insn *in)
{
    test_values(c, op_size(in), c->gpr[X86_RAX], in->imm);
    return INSN_NEXT;
}

enum insn_result soft_op_test_rm_imm(struct scpu *c, const struct insn *in)
{
    uint64_t a;
    unsigned size = op_size(in);
    if (rm_get(c, in, size, &a)) {
        return INSN_EXC;
    }
    test_values(c, size, a, in->imm);
    return INSN_NEXT;
}

enum insn_result soft_op_not(struct scpu *c, const struct insn *in)
{
    unsigned size = op_size(in);
    void *p = rm_begin(c, in, size);
    if (p == NULL) {
        return INSN_EXC;
    }
    switch (size) {
    case 1: __atomic_fetch_xor((uint8_t *)p, 0xff, __ATOMIC_SEQ_CST); break;
    case 2: __atomic_fetch_xor((uint16_t *)p, 0xffff, __ATOMIC_SEQ_CST); break;
    case 4: __atomic_fetch_xor((uint32_t *)p, UINT32_MAX, __ATOMIC_SEQ_CST); break;
    default: __atomic_fetch_xor((uint64_t *)p, UINT64_MAX, __ATOMIC_SEQ_CST); break;
    }
    return rm_end(c, in, size);
}

#define UNARY(name)                                                                            \
    static void unary_##name(struct scpu *c, void *p, unsigned size, bool lock)                \
    {                                                                                          \
        switch (size | (lock ? 16u : 0u)) {                                                    \
        case 1: *(uint8_t *)p = prim_##name##_b(c, *(uint8_t *)p); break;                      \
        case 2: *(uint16_t *)p = prim_##name##_w(c, *(uint16_t *)p); break;                    \
        case 4: *(uint32_t *)p = prim_##name##_l(c, *(uint32_t *)p); break;                    \
        case 8: *(uint64_t *)p = prim_##name##_q(c, *(uint64_t *)p); break;                    \
        case 17: prim_lock_##name##_b(c, p); break;                                            \
        case 18: prim_lock_##name##_w(c, p); break;                                            \
        case 20: prim_lock_##name##_l(c, p); break;                                            \
        default: prim_lock_##name##_q(c, p); break;                                            \
        }                                                                                      \
    }
UNARY(inc)
UNARY(dec)
UNARY(neg)

enum insn_result soft_op_neg(struct scpu *c, const struct insn *in)
{
    unsigned size = op_size(in);
    void *p = rm_begin(c, in, size);
    if (p == NULL) {
        return INSN_EXC;
    }
    unary_neg(c, p, size, in->lock);
    return rm_end(c, in, size);
}

enum insn_result soft_op_inc_dec_rm(struct scpu *c, const struct insn *in)
{
    unsigned size = op_size(in);
    void *p = rm_begin(c, in, size);
    if (p == NULL) {
        return INSN_EXC;
    }
    ((in->reg & 7) == 0 ? unary_inc : unary_dec)(c, p, size, in->lock);
    return rm_end(c, in, size);
}

enum insn_result soft_op_inc_dec_reg(struct scpu *c, const struct insn *in)
{
    unsigned reg = in->opcode & 7;
    (in->opcode < 0x48 ? unary_inc : unary_dec)(c, &c->gpr[reg], in->osize, false);
    return INSN_NEXT;
}

/* Widening multiply of RAX by v, by the host so that its flags are exact. */
static void mul_wide(struct scpu *c, unsigned size, uint64_t v, bool is_signed)
{
    uint64_t a = c->gpr[X86_RAX], hi = c->gpr[X86_RDX], lo;
#define MUL(insn, m)                                                                           \
    __asm__(insn " %" m "[v]\n\tmovq %%rax, %[lo]" KEEP_FLAGS                                  \
            : "+a"(a), "+d"(hi), [lo] "=&r"(lo)                                                \
            : [v] "r"(v)                                                                       \
            : "cc")
    switch (size | (is_signed ? 16u : 0u)) {
    case 1: MUL("mulb", "b"); break;
    case 2: MUL("mulw", "w"); break;
    case 4: MUL("mull", "k"); break;
    case 8: MUL("mulq", "q"); break;
    case 17: MUL("imulb", "b"); break;
    case 18: MUL("imulw", "w"); break;
    case 20: MUL("imull", "k"); break;
    default: MUL("imulq", "q"); break;
    }
#undef MUL
    c->aflags = (uint16_t)a;
    if (size == 1) {
        soft_reg_set(c, X86_RAX, 2, lo);
    } else {
        soft_reg_set(c, X86_RAX, size, lo);
        soft_reg_set(c, X86_RDX, size, hi);
    }
}

enum insn_result soft_op_mul(struct scpu *c, const struct insn *in)
{
    uint64_t v;
    if (rm_get(c, in, op_size(in), &v)) {
        return INSN_EXC;
    }
    mul_wide(c, op_size(in), v, false);
    return INSN_NEXT;
}

enum insn_result soft_op_imul(struct scpu *c, const struct insn *in)
{
    uint64_t v;
    if (rm_get(c, in, op_size(in), &v)) {
        return INSN_EXC;
    }
    mul_wide(c, op_size(in), v, true);
    return INSN_NEXT;
}

static uint64_t imul2(struct scpu *c, unsigned size, uint64_t a, uint64_t b)
{
    if (size == 2) {
        return prim_imul_w(c, (uint16_t)a, (uint16_t)b);
    }
    return size == 4 ? prim_imul_l(c, (uint32_t)a, (uint32_t)b) : prim_imul_q(c, a, b);
}

enum insn_result soft_op_imul_r_rm(struct scpu *c, const struct insn *in)
{
    uint64_t v;
    if (rm_get(c, in, in->osize, &v)) {
        return INSN_EXC;
    }
    soft_reg_set(c, in->reg, in->osize, imul2(c, in->osize, c->gpr[in->reg], v));
    return INSN_NEXT;
}

enum insn_result soft_op_imul_r_rm_imm(struct scpu *c, const struct insn *in)
{
    uint64_t v;
    if (rm_get(c, in, in->osize, &v)) {
        return INSN_EXC;
    }
    soft_reg_set(c, in->reg, in->osize, imul2(c, in->osize, v, in->imm));
    return INSN_NEXT;
}

/* Quotients that do not fit raise #DE; otherwise the flags stay as they were. */
static int div_unsigned(struct scpu *c, unsigned size, uint64_t v)
{
    if (v == 0) {
        return soft_raise(c, EXC_DE);
    }
    unsigned bits = size * 8;
    unsigned __int128 n;
    if (size == 1) {
        n = (uint16_t)c->gpr[X86_RAX];
    } else {
        n = ((unsigned __int128)soft_reg_get(c, X86_RDX, size) << bits) |
            soft_reg_get(c, X86_RAX, size);
    }
    if ((uint64_t)(n >> bits) >= v) {
        return soft_raise(c, EXC_DE);
    }
    uint64_t q, r;
    if (size == 8) {
        __asm__("divq %[v]"
                : "=a"(q), "=d"(r)
                : "a"((uint64_t)n), "d"((uint64_t)(n >> 64)), [v] "r"(v)
                : "cc");
    } else {
        q = (uint64_t)n / v;
        r = (uint64_t)n % v;
    }
    if (size == 1) {
        soft_reg_set(c, X86_RAX, 2, (r << 8) | (uint8_t)q);
    } else {
        soft_reg_set(c, X86_RAX, size, q);
        soft_reg_set(c, X86_RDX, size, r);
    }
    return 0;
}

enum insn_result soft_op_div(struct scpu *c, const struct insn *in)
{
    uint64_t v;
    if (rm_get(c, in, op_size(in), &v) || div_unsigned(c, op_size(in), v)) {
        return INSN_EXC;
    }
    return INSN_NEXT;
}

static int div_signed(struct scpu *c, unsigned size, uint64_t raw)
{
    __int128 v = (int64_t)sext_size(raw, size), n;
    if (size == 1) {
        n = (int16_t)c->gpr[X86_RAX];
    } else {
        __int128 high = (int64_t)sext_size(soft_reg_get(c, X86_RDX, size), size);
        n = (__int128)(((unsigned __int128)high << (size * 8)) |
                       soft_reg_get(c, X86_RAX, size));
    }
    if (v == 0) {
        return soft_raise(c, EXC_DE);
    }
    /* The most negative dividend by -1 overflows the 128-bit division itself. */
    unsigned __int128 un = n < 0 ? -(unsigned __int128)n : (unsigned __int128)n;
    unsigned __int128 uv = v < 0 ? -(unsigned __int128)v : (unsigned __int128)v;
    if ((un >> (size * 8)) >= uv) {
        return soft_raise(c, EXC_DE);
    }
    uint64_t q, r;
    __asm__("divq %[v]"
            : "=a"(q), "=d"(r)
            : "a"((uint64_t)un), "d"((uint64_t)(un >> 64)), [v] "r"((uint64_t)uv)
            : "cc");
    bool negative = (n < 0) != (v < 0);
    if (q > (UINT64_C(1) << (size * 8 - 1)) - (negative ? 0 : 1)) {
        return soft_raise(c, EXC_DE);
    }
    q = negative ? -q : q;
    r = n < 0 ? -r : r;
    if (size == 1) {
        soft_reg_set(c, X86_RAX, 2, ((r & 0xff) << 8) | (uint8_t)q);
    } else {
        soft_reg_set(c, X86_RAX, size, q);
        soft_reg_set(c, X86_RDX, size, r);
    }
    return 0;
}

enum insn_result soft_op_idiv(struct scpu *c, const struct insn *in)
{
    uint64_t v;
    if (rm_get(c, in, op_size(in), &v) || div_signed(c, op_size(in), v)) {
        return INSN_EXC;
    }
    return INSN_NEXT;
}
