/* Shifts, rotates, double shifts, bit test and bit scan. SDM vol. 2. */
#include "cpu/soft/operand.h"
#include "cpu/soft/ops.h"
#include "cpu/soft/prims.h"

typedef void shift_fn(struct scpu *c, void *p, uint8_t count);

#define WRAP(name, s, type)                                                                    \
    static void shift_##name##_##s(struct scpu *c, void *p, uint8_t count)                     \
    {                                                                                          \
        *(type *)p = prim_##name##_##s(c, *(type *)p, count);                                  \
    }
#define WRAP_SIZE(s, type, m)                                                                  \
    WRAP(rol, s, type)                                                                         \
    WRAP(ror, s, type)                                                                         \
    WRAP(rcl, s, type)                                                                         \
    WRAP(rcr, s, type)                                                                         \
    WRAP(shl, s, type)                                                                         \
    WRAP(shr, s, type)                                                                         \
    WRAP(sar, s, type)
FOR_SIZES(WRAP_SIZE)

#define ROW(name)                                                                              \
    {                                                                                          \
        shift_##name##_b, shift_##name##_w, shift_##name##_l, shift_##name##_q                 \
    }
static shift_fn *const shift_table[8][4] = {
    ROW(rol), ROW(ror), ROW(rcl), ROW(rcr), ROW(shl), ROW(shr), ROW(shl), ROW(sar),
};

enum insn_result soft_op_shift(struct scpu *c, const struct insn *in)
{
    unsigned size = op_size(in);
    uint64_t count = in->opcode < 0xd0 ? in->imm : in->opcode < 0xd2 ? 1 : c->gpr[X86_RCX];
    uint8_t n = (uint8_t)(count & (size == 8 ? 63 : 31));
    void *p = rm_begin(c, in, size);
    if (p == NULL) {
        return INSN_EXC;
    }
    if (n != 0) { /* a zero count leaves operand and flags */
        shift_table[in->reg & 7][__builtin_ctz(size)](c, p, n);
    }
    return rm_end(c, in, size);
}

#define DOUBLE_SHIFT(name, s, type, m)                                                         \
    static void double_##name##_##s(struct scpu *c, void *p, uint64_t src, uint8_t count)      \
    {                                                                                          \
        uint32_t f = c->aflags;                                                                \
        type a = *(type *)p;                                                                   \
        __asm__(LOAD_FLAGS #name #s " %%cl, %" #m "[src], %" #m "[a]" KEEP_FLAGS               \
                : [a] "+r"(a), "+&a"(f)                                                        \
                : [src] "r"((type)src), "c"(count)                                             \
                : "cc");                                                                       \
        *(type *)p = a;                                                                        \
        c->aflags = (uint16_t)f;                                                               \
    }
DOUBLE_SHIFT(shld, w, uint16_t, w)
DOUBLE_SHIFT(shld, l, uint32_t, k)
DOUBLE_SHIFT(shld, q, uint64_t, q)
DOUBLE_SHIFT(shrd, w, uint16_t, w)
DOUBLE_SHIFT(shrd, l, uint32_t, k)
DOUBLE_SHIFT(shrd, q, uint64_t, q)

typedef void double_shift_fn(struct scpu *c, void *p, uint64_t src, uint8_t count);
static double_shift_fn *const double_table[2][4] = {
    {NULL, double_shld_w, double_shld_l, double_shld_q},
    {NULL, double_shrd_w, double_shrd_l, double_shrd_q},
};

enum insn_result soft_op_shld_shrd(struct scpu *c, const struct insn *in)
{
    unsigned size = in->osize;
    uint64_t count = (in->opcode & 1) ? c->gpr[X86_RCX] : in->imm;
    uint8_t n = (uint8_t)(count & (size == 8 ? 63 : 31));
    void *p = rm_begin(c, in, size);
    if (p == NULL) {
        return INSN_EXC;
    }
    if (n != 0) {
        double_table[in->opcode >= 0xa8][__builtin_ctz(size)](c, p, c->gpr[in->reg], n);
    }
    return rm_end(c, in, size);
}

enum bt_kind { BT_TEST, BT_SET, BT_RESET, BT_COMPLEMENT };

#define BIT_OP(name, s, type, m)                                                               \
    static void bit_##name##_##s(struct scpu *c, void *p, uint64_t bit)                        \
    {                                                                                          \
        uint32_t f = c->aflags;                                                                \
        type a = *(type *)p;                                                                   \
        __asm__(LOAD_FLAGS #name #s " %" #m "[bit], %" #m "[a]" KEEP_FLAGS                     \
                : [a] "+r"(a), "+&a"(f)                                                        \
                : [bit] "r"((type)bit)                                                         \
                : "cc");                                                                       \
        *(type *)p = a;                                                                        \
        c->aflags = (uint16_t)f;                                                               \
    }                                                                                          \
    static void lock_##name##_##s(struct scpu *c, void *p, uint64_t bit)                       \
    {                                                                                          \
        uint32_t f = c->aflags;                                                                \
        __asm__ volatile(LOAD_FLAGS "lock " #name #s " %" #m "[bit], %[a]" KEEP_FLAGS          \
                         : [a] "+m"(*(type *)p), "+&a"(f)                                      \
                         : [bit] "r"((type)bit)                                                \
                         : "cc", "memory");                                                    \
        c->aflags = (uint16_t)f;                                                               \
    }
#define BIT_SIZES(s, type, m)                                                                  \
    BIT_OP(bts, s, type, m)                                                                    \
    BIT_OP(btr, s, type, m)                                                                    \
    BIT_OP(btc, s, type, m)                                                                    \
    static void bit_bt_##s(struct scpu *c, void *p, uint64_t bit)                              \
    {                                                                                          \
        uint32_t f = c->aflags;                                                                \
        __asm__(LOAD_FLAGS "bt" #s " %" #m "[bit], %" #m "[a]" KEEP_FLAGS                      \
                : "+&a"(f)                                                                     \
                : [a] "r"(*(type *)p), [bit] "r"((type)bit)                                    \
                : "cc");                                                                       \
        c->aflags = (uint16_t)f;                                                               \
    }
BIT_SIZES(w, uint16_t, w)
BIT_SIZES(l, uint32_t, k)
BIT_SIZES(q, uint64_t, q)

typedef void bit_fn(struct scpu *c, void *p, uint64_t bit);
#define BIT_ROW(prefix, name)                                                                  \
    {                                                                                          \
        NULL, prefix##_##name##_w, prefix##_##name##_l, prefix##_##name##_q                    \
    }
static bit_fn *const bit_table[4][4] = {BIT_ROW(bit, bt), BIT_ROW(bit, bts), BIT_ROW(bit, btr),
                                        BIT_ROW(bit, btc)};
static bit_fn *const bit_lock_table[4][4] = {BIT_ROW(bit, bt), BIT_ROW(lock, bts),
                                             BIT_ROW(lock, btr), BIT_ROW(lock, btc)};

enum insn_result soft_op_bt(struct scpu *c, const struct insn *in)
{
    unsigned size = in->osize, si = (unsigned)__builtin_ctz(size);
    bool by_imm = in->opcode == 0xba;
    enum bt_kind kind =
        by_imm ? (enum bt_kind)(in->reg & 3) : (enum bt_kind)((in->opcode >> 3) & 3);
    uint64_t bit = by_imm ? in->imm : sext_size(soft_reg_get(c, in->reg, size), size);
    uint64_t in_word = bit & (size * 8 - 1);
    if (!in->is_mem) {
        bit_table[kind][si](c, &c->gpr[in->rm], in_word);
        if (size == 4 && kind != BT_TEST) {
            c->gpr[in->rm] = (uint32_t)c->gpr[in->rm];
        }
        return INSN_NEXT;
    }
    /* A register bit offset reaches outside the operand: whole operands further on or back. */
    uint64_t off = soft_ea(c, in), va;
    if (!by_imm) {
        off += (uint64_t)(((int64_t)bit >> (3 + si)) * (int64_t)size);
        off = trunc_size(off, in->asize);
    }
    if (soft_seg_linear(c, in->seg, off, size, kind != BT_TEST, &va)) {
        return INSN_EXC;
    }
    void *p = soft_access(c, va, size, true, kind != BT_TEST);
    if (p == NULL) {
        return INSN_EXC;
    }
    (in->lock ? bit_lock_table : bit_table)[kind][si](c, p, in_word);
    return soft_must_end(c) ? soft_access_end(c) : INSN_NEXT;
}

#define BIT_SCAN(name, s, type, m)                                                             \
    static type scan_##name##_##s(struct scpu *c, type old, type v)                            \
    {                                                                                          \
        uint32_t f = c->aflags;                                                                \
        __asm__(LOAD_FLAGS #name #s " %" #m "[v], %" #m "[d]" KEEP_FLAGS                       \
                : [d] "+r"(old), "+&a"(f)                                                      \
                : [v] "r"(v)                                                                   \
                : "cc");                                                                       \
        c->aflags = (uint16_t)f;                                                               \
        return old;                                                                            \
    }
#define SCAN_SIZES(s, type, m) BIT_SCAN(bsf, s, type, m) BIT_SCAN(bsr, s, type, m)
SCAN_SIZES(w, uint16_t, w)
SCAN_SIZES(l, uint32_t, k)
SCAN_SIZES(q, uint64_t, q)

enum insn_result soft_op_bsf_bsr(struct scpu *c, const struct insn *in)
{
    uint64_t v, d = c->gpr[in->reg];
    bool reverse = (in->opcode & 1) != 0;
    if (rm_get(c, in, in->osize, &v)) {
        return INSN_EXC;
    }
    if (in->osize == 2) {
        d = reverse ? scan_bsr_w(c, (uint16_t)d, (uint16_t)v)
                    : scan_bsf_w(c, (uint16_t)d, (uint16_t)v);
    } else if (in->osize == 4) {
        uint32_t r = reverse ? scan_bsr_l(c, (uint32_t)d, (uint32_t)v)
                             : scan_bsf_l(c, (uint32_t)d, (uint32_t)v);
        /* A zero source leaves all 64 bits of the destination. */
        if ((uint32_t)v == 0) {
            return INSN_NEXT;
        }
        d = r;
    } else {
        d = reverse ? scan_bsr_q(c, d, v) : scan_bsf_q(c, d, v);
    }
    soft_reg_set(c, in->reg, in->osize, d);
    return INSN_NEXT;
}
