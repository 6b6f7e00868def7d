/* CMPXCHG, CMPXCHG8B/16B, XADD. With LOCK on plain RAM they are the host's atomics. */
#include "cpu/soft/operand.h"
#include "cpu/soft/ops.h"
#include "cpu/soft/prims.h"

/* Host CMPXCHG with flags; returns the value found. Locked always: costs little, hurts nothing.
 */
#define CMPXCHG(s, type, m)                                                                    \
    static type cmpxchg_##s(struct scpu *c, void *p, type expect, type v)                      \
    {                                                                                          \
        uint32_t f;                                                                            \
        uint64_t a = expect, found;                                                            \
        __asm__ volatile("lock cmpxchg" #s " %" #m                                             \
                         "[v], %[p]\n\tmovq %%rax, %[found]" KEEP_FLAGS                        \
                         : [p] "+m"(*(type *)p), "+a"(a), [found] "=&r"(found)                 \
                         : [v] "q"(v)                                                          \
                         : "cc", "memory");                                                    \
        f = (uint32_t)a;                                                                       \
        c->aflags = (uint16_t)f;                                                               \
        return (type)found;                                                                    \
    }
FOR_SIZES(CMPXCHG)

enum insn_result soft_op_cmpxchg(struct scpu *c, const struct insn *in)
{
    unsigned size = op_size(in);
    uint64_t v = reg_get(c, in, in->reg, size), a = trunc_size(c->gpr[X86_RAX], size), found;
    void *p = rm_begin(c, in, size);
    if (p == NULL) {
        return INSN_EXC;
    }
    switch (size) {
    case 1: found = cmpxchg_b(c, p, (uint8_t)a, (uint8_t)v); break;
    case 2: found = cmpxchg_w(c, p, (uint16_t)a, (uint16_t)v); break;
    case 4: found = cmpxchg_l(c, p, (uint32_t)a, (uint32_t)v); break;
    default: found = cmpxchg_q(c, p, a, v); break;
    }
    bool equal = (c->aflags & AF_ZF) != 0;
    enum insn_result r = INSN_NEXT;
    if (in->is_mem) {
        r = rm_end(c, in, size);
    } else if (size == 4 && equal) {
        c->gpr[in->rm] = (uint32_t)c->gpr[in->rm];
    }
    if (!equal) {
        soft_reg_set(c, X86_RAX, size, found);
    }
    return r;
}

static bool cmpxchg16(void *p, uint64_t expect[2], uint64_t lo, uint64_t hi)
{
    bool equal;
    __asm__ volatile("lock cmpxchg16b %[p]\n\tsetz %[eq]"
                     : [p] "+m"(*(unsigned __int128 *)p), "+a"(expect[0]),
                       "+d"(expect[1]), [eq] "=q"(equal)
                     : "b"(lo), "c"(hi)
                     : "cc", "memory");
    return equal;
}

enum insn_result soft_op_cmpxchg8b(struct scpu *c, const struct insn *in)
{
    unsigned half = (in->rex & 8) ? 8 : 4;
    uint64_t va, expect[2] = {soft_reg_get(c, X86_RAX, half), soft_reg_get(c, X86_RDX, half)};
    uint64_t lo = soft_reg_get(c, X86_RBX, half), hi = soft_reg_get(c, X86_RCX, half);
    bool equal;
    if (half == 8 && !cpu_model_has(c->vm->model, 1, 0, 2, 13)) {
        return (enum insn_result)soft_raise(c, EXC_UD);
    }
    if (soft_operand_linear(c, in, half * 2, true, &va)) {
        return INSN_EXC;
    }
    if (half == 8 && (va & 15) != 0) {
        return (enum insn_result)soft_raise_err(c, EXC_GP, 0);
    }
    void *p = soft_access(c, va, half * 2, true, true);
    if (p == NULL) {
        return INSN_EXC;
    }
    if (half == 8) {
        equal = cmpxchg16(p, expect, lo, hi);
    } else {
        uint64_t e = expect[0] | (expect[1] << 32);
        equal = __atomic_compare_exchange_n((uint64_t *)p, &e, lo | (hi << 32), false,
                                            __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        expect[0] = (uint32_t)e;
        expect[1] = e >> 32;
    }
    enum insn_result r = soft_must_end(c) ? soft_access_end(c) : INSN_NEXT;
    if (equal) {
        c->aflags |= AF_ZF;
    } else {
        c->aflags &= (uint16_t)~AF_ZF;
        soft_reg_set(c, X86_RAX, half, expect[0]);
        soft_reg_set(c, X86_RDX, half, expect[1]);
    }
    return r;
}

#define XADD(s, type, m)                                                                       \
    static type xadd_##s(struct scpu *c, void *p, type v)                                      \
    {                                                                                          \
        uint32_t f;                                                                            \
        __asm__ volatile("lock xadd" #s " %" #m "[v], %[p]" KEEP_FLAGS                         \
                         : [p] "+m"(*(type *)p), [v] "+q"(v), "=&a"(f)                         \
                         :                                                                     \
                         : "cc", "memory");                                                    \
        c->aflags = (uint16_t)f;                                                               \
        return v;                                                                              \
    }
FOR_SIZES(XADD)

enum insn_result soft_op_xadd(struct scpu *c, const struct insn *in)
{
    unsigned size = op_size(in);
    uint64_t v = reg_get(c, in, in->reg, size), old;
    void *p = rm_begin(c, in, size);
    if (p == NULL) {
        return INSN_EXC;
    }
    switch (size) {
    case 1: old = xadd_b(c, p, (uint8_t)v); break;
    case 2: old = xadd_w(c, p, (uint16_t)v); break;
    case 4: old = xadd_l(c, p, (uint32_t)v); break;
    default: old = xadd_q(c, p, v); break;
    }
    if (in->is_mem) {
        enum insn_result r = rm_end(c, in, size);
        reg_put(c, in, in->reg, size, old);
        return r;
    }
    /* Both registers: the source takes the old value first, then the destination the sum. */
    uint64_t sum = reg_get(c, in, in->rm, size);
    reg_put(c, in, in->reg, size, old);
    reg_put(c, in, in->rm, size, sum);
    return INSN_NEXT;
}
