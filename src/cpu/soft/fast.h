/*
 * Building blocks of the fast handlers: instructions of 64-bit mode with 64-bit addresses, one
 * handler for each operation, operand size and operand form. What they do not cover, the
 * general handlers do (ops_*.c); flags come from the same prims.h.
 */
#pragma once

#include "cpu/soft/block.h"
#include "cpu/soft/optable.h"
#include "cpu/soft/prims.h"

#define HANDLER(name) static const struct uop *name(struct scpu *c, const struct uop *op)

/* Register operands. A 32-bit result clears the upper half. */
#define REG(type, field) (*(type *)(void *)((char *)c + op->field))
#define SET_b(field, v)  (REG(uint8_t, field) = (uint8_t)(v))
#define SET_w(field, v)  (REG(uint16_t, field) = (uint16_t)(v))
#define SET_l(field, v)  (REG(uint64_t, field) = (uint32_t)(v))
#define SET_q(field, v)  (REG(uint64_t, field) = (v))

/*
 * When the TLB misses, the handler leaves by a tail call, so that it needs no stack frame: the
 * page is filled in and op runs again, or the general handler does the instruction and the
 * block is left (memory-mapped I/O, page crossing, faults, stores to decoded code). Nothing may
 * have been changed before an access that can miss.
 */
const struct uop *fast_miss(struct scpu *c, const struct uop *op, uint64_t va, unsigned size,
                            enum tlb_kind kind);

/* Declares p, a host pointer to an operand of the type at the address. */
#define POINTER(type, p, at, kind)                                                             \
    const uint64_t p##_va = (at);                                                              \
    const struct tlb_entry *p##_e = uop_tlb(c, p##_va, kind);                                  \
    if (unlikely((p##_va ^ p##_e->tag) > MEM_PAGE_SIZE - sizeof(type))) {                      \
        return fast_miss(c, op, p##_va, sizeof(type), kind);                                   \
    }                                                                                          \
    type *const p = (type *)tlb_host(p##_e, p##_va)

/* Declares v with the value of the memory operand, or of what is at an address. */
#define LOAD_AT(type, v, at)                                                                   \
    POINTER(const type, v##_p, at, TLB_R);                                                     \
    const type v = *v##_p
#define LOAD(type, v)   LOAD_AT(type, v, uop_ea(c, op))
#define MODIFY(type, p) POINTER(type, p, uop_ea(c, op), TLB_W)
#define STORE_AT(type, at, value)                                                              \
    POINTER(type, st_p, at, TLB_W);                                                            \
    *st_p = (type)(value)
#define STORE(type, value) STORE_AT(type, uop_ea(c, op), value)

/* All sixteen conditions. */
#define FOR_CONDS(X)                                                                           \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define COND_TABLE(prefix)                                                                     \
    {                                                                                          \
        prefix##0, prefix##1, prefix##2, prefix##3, prefix##4, prefix##5, prefix##6,           \
            prefix##7, prefix##8, prefix##9, prefix##10, prefix##11, prefix##12, prefix##13,   \
            prefix##14, prefix##15                                                             \
    }
#define SIZE_TABLE(prefix)                                                                     \
    {                                                                                          \
        prefix##_b, prefix##_w, prefix##_l, prefix##_q                                         \
    }

/* Byte offset of a register operand of the given size. */
static inline uint8_t fast_reg(const struct insn *in, unsigned reg, unsigned size)
{
    bool high = size == 1 && in->rex == 0 && reg >= 4 && reg < 8;
    return (uint8_t)(high ? (reg - 4) * 8 + 1 : reg * 8);
}
static inline unsigned fast_size(const struct insn *in, const struct opcode *row)
{
    return (row->flags & OP_BYTE) ? 1 : in->osize;
}
static inline unsigned size_log2(unsigned size)
{
    return (unsigned)__builtin_ctz(size);
}

/* One for each group of kinds: true when op->fn was set. */
typedef bool fast_bind_fn(const struct insn *in, const struct opcode *row, struct uop *op);
fast_bind_fn fast_bind_alu, fast_bind_test, fast_bind_incdec, fast_bind_shift, fast_bind_imul,
    fast_bind_negnot, fast_bind_bt;
fast_bind_fn fast_bind_mov, fast_bind_movimm, fast_bind_lea, fast_bind_extend, fast_bind_movsxd,
    fast_bind_cmov, fast_bind_setcc, fast_bind_nop, fast_bind_xchg, fast_bind_cwd,
    fast_bind_cbw, fast_bind_push, fast_bind_pop, fast_bind_leave, fast_bind_bswap;
fast_bind_fn fast_bind_jcc, fast_bind_jmp, fast_bind_call, fast_bind_ret, fast_bind_jmpind,
    fast_bind_callind;

/* A specialised handler for in, if there is one; op's operand fields are set. false: take the
 * general handler. */
bool fast_bind(struct scpu *c, const struct insn *in, const struct opcode *row, struct uop *op);
/* Turns a compare and the Jcc after it into one handler; false: they stay two. */
bool fast_fuse(struct uop *compare, unsigned cc);
