/*
 * Running micro-operations: how handlers chain, leave a block, enter another, and touch memory.
 *
 * A block (struct sblock) is decoded from one guest page for one virtual address and mode.
 * Handlers call the next one in tail position. Compilers only promise that at -O2 without
 * sanitizers, so other builds (SOFT_NO_TAIL_CALLS) return the next uop to the loop in uop_run
 * instead: the same bodies serve both.
 *
 * A block is valid while its page's generation is what it was at decode time; uop_enter checks
 * this and the request word, so an overwritten page or a waiting interrupt is seen at each
 * block.
 */
#pragma once

#include "cpu/soft/soft.h"

#define BLOCK_MAX_INSNS 48
#define SBLOCK_COLD     UINT16_MAX /* heat of a block that is not to be translated */

struct sblock {
    uint64_t va;         /* of the first instruction: RIP, without the base of CS */
    const uint8_t *host; /* its bytes */
    uint64_t pa;         /* guest-physical */
    uint32_t mode;
    uint32_t gen;           /* *pgen at decode */
    _Atomic uint32_t *pgen; /* page's generation */
    struct sblock *link[2]; /* fall-through, taken: blocks of the same page */
    uint64_t target[2];     /* their addresses */
    struct sblock *hash_next;
    _Atomic uint32_t *pgen2; /* second page of a page-crossing instruction, or NULL */
    uint32_t gen2;
    uint16_t n_insns, n_uops;
    uint16_t heat; /* runs until it is translated; 1: it has been */
    uint32_t len_bytes;
    struct uop uops[];
};

/* Follows a block's last uop: where it goes on. Beside the branch, and not in the block's head,
 * so that the way from branch to branch is one load. */
struct uop_tail {
    struct sblock *link[2]; /* fall-through, taken: blocks of the same page, or NULL */
    uint64_t target[2];     /* their addresses */
};
static inline struct uop_tail *uop_tail(const struct uop *last)
{
    return (struct uop_tail *)(uintptr_t)(last + 1);
}
static inline struct uop_tail *block_tail(struct sblock *b)
{
    return uop_tail(&b->uops[b->n_uops - 1]);
}

/* Virtual address to block, for jumps that leave the page. Entries die with the epoch. */
#define JC_BITS 12
struct jc_entry {
    uint64_t va;
    struct sblock *blk;
    uint32_t mode, epoch;
};

#ifdef SOFT_NO_TAIL_CALLS
#define UOP_CALL(c, op) return (op)
#else
#define UOP_CALL(c, op) return (op)->fn((c), (op))
#endif
#define UOP_NEXT(c, op) UOP_CALL(c, (op) + 1)

/* Leaves the block after op: rip becomes op's own address (INSN_EXC, INSN_REPEAT) or the next
 * one's (INSN_NEXT_FLUSH), or is already set (INSN_JUMP). */
const struct uop *uop_exit(struct scpu *c, const struct uop *op, enum insn_result result);
#define UOP_EXIT(c, op, result) return uop_exit((c), (op), (result))

/* Address of the instruction that op belongs to, and of the one after. */
static inline uint64_t uop_rip(const struct scpu *c, const struct uop *op)
{
    return c->blk->va + op->ip_off;
}

static inline const struct uop *uop_run(struct scpu *c, const struct uop *op)
{
    while (op != NULL) {
        op = op->fn(c, op);
    }
    return op;
}

/* Slow ends of uop_enter and uop_goto: block.c. */
const struct uop *uop_stop_at(struct scpu *c, uint64_t rip);
const struct uop *uop_lookup(struct scpu *c, uint64_t rip, int link_slot);

static inline const struct uop *uop_enter(struct scpu *c, struct sblock *b)
{
    if (unlikely((atomic_load_relaxed_u32(&c->exit_req) |
                  (b->gen ^ atomic_load_relaxed_u32(b->pgen))) != 0)) {
        return uop_stop_at(c, b->va);
    }
    if (unlikely(--b->heat == 0)) {
        b->heat = 1; /* the run loop goes on in translated code */
        return uop_stop_at(c, b->va);
    }
    c->icount += b->n_insns;
    c->blk = b;
    c->rip = b->va;
    UOP_CALL(c, b->uops);
}

/* Direct branch at the end of a block: slot 0 falls through, 1 is taken. A constant slot:
 * picking it by data instead of by a branch would make each block wait for the flags of the one
 * before. */
static inline const struct uop *uop_goto(struct scpu *c, const struct uop *op,
                                         const unsigned slot)
{
    struct uop_tail *t = uop_tail(op);
    struct sblock *n = t->link[slot];
    if (likely(n != NULL)) {
        return uop_enter(c, n);
    }
    return uop_lookup(c, t->target[slot], (int)slot);
}

static inline const struct uop *uop_branch(struct scpu *c, const struct uop *op, bool taken)
{
    if (taken) {
        __asm__ volatile("" ::"r"(op)); /* keeps the compiler from merging the two ways */
        return uop_goto(c, op, 1);
    }
    return uop_goto(c, op, 0);
}

static inline struct jc_entry *uop_jc(struct scpu *c, uint64_t va)
{
    return &c->jc[(va ^ (va >> JC_BITS)) & ((1u << JC_BITS) - 1)];
}

/* Indirect branch: va is canonical or its block look-up raises the fault. */
static inline const struct uop *uop_jump(struct scpu *c, uint64_t va)
{
    const struct jc_entry *e = uop_jc(c, va);
    if (likely(e->va == va && e->mode == c->mode && e->epoch == c->jc_epoch[va >> 63])) {
        return uop_enter(c, e->blk);
    }
    return uop_lookup(c, va, -1);
}

/* ---- memory in 64-bit mode ---- */
static inline uint64_t uop_ea(const struct scpu *c, const struct uop *op)
{
    const char *r = (const char *)c;
    return *(const uint64_t *)(r + op->base) +
           (*(const uint64_t *)(r + op->index) << op->shift) + (uint64_t)(int64_t)op->disp +
           c->seg_base[op->seg];
}

static inline struct tlb_entry *uop_tlb(struct scpu *c, uint64_t va, enum tlb_kind kind)
{
    return &(kind == TLB_W ? c->tlb_w : c->tlb_r)[(va >> MEM_PAGE_SHIFT) & (TLB_SIZE - 1)];
}

/* Host pointer for an access of size bytes inside one RAM page, or NULL: take the slow path. */
static inline void *uop_ptr_r(struct scpu *c, uint64_t va, unsigned size)
{
    struct tlb_entry *e = uop_tlb(c, va, TLB_R);
    return likely((va ^ e->tag) <= MEM_PAGE_SIZE - size) ? tlb_host(e, va) : NULL;
}
static inline void *uop_ptr_w(struct scpu *c, uint64_t va, unsigned size)
{
    struct tlb_entry *e = uop_tlb(c, va, TLB_W);
    return likely((va ^ e->tag) <= MEM_PAGE_SIZE - size) ? tlb_host(e, va) : NULL;
}
