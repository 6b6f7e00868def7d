/*
 * Decoded blocks: built from guest code, found by physical address, virtual address and mode,
 * chained within a page, dropped when the page's generation changes. One cache per vCPU, used
 * by its thread only; nothing here is saved.
 *
 * The order that keeps self- and cross-modifying code exact: mark the page as code and wait
 * until no vCPU has a write entry for it, read the generation (and find the mark still there),
 * mark the lines, read the bytes.
 * A writer stores first, then looks at the lines and changes the generation. So whatever a vCPU
 * stored before another one's serialising instruction is seen by it after that: those end a
 * block, and each block looks at its page's generation first.
 */
#include "cpu/soft/block.h"

#include "cpu/soft/decode.h"
#include "cpu/soft/fast.h"
#include "cpu/soft/jit/jit.h"
#include "cpu/soft/native.h"
#include "cpu/soft/ops.h"
#include "cpu/soft/optable.h"
#include "cpu/soft/sysinsn.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define HASH_BITS 16

struct code_cache {
    uint8_t *arena;
    size_t bytes, used;
    struct sblock *hash[1u << HASH_BITS];
};

int code_cache_new(struct scpu *c, struct err *err)
{
    struct code_cache *cc = calloc(1, sizeof(*cc));
    c->jc = calloc(1u << JC_BITS, sizeof(*c->jc));
    if (cc == NULL || c->jc == NULL) {
        free(cc);
        return ERR(err, NO_MEMORY, ENOMEM, "soft engine: no memory for the code cache");
    }
    cc->bytes = c->vm->tuning.block_bytes;
    cc->arena = mmap(NULL, cc->bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (cc->arena == MAP_FAILED) {
        free(cc);
        return ERR(err, NO_MEMORY, errno, "soft engine: no address space for the code cache");
    }
    c->code = cc;
    c->jc_epoch[0] = c->jc_epoch[1] = 1;
    return 0;
}

void code_cache_free(struct scpu *c)
{
    if (c->code != NULL) {
        munmap(c->code->arena, c->code->bytes);
        free(c->code);
    }
    free(c->jc);
    c->code = NULL;
    c->jc = NULL;
}

size_t code_cache_bytes(const struct scpu *c)
{
    return sizeof(*c->code) + c->code->used + (sizeof(*c->jc) << JC_BITS);
}

void code_cache_flush(struct scpu *c)
{
    soft_leave(c);
    __builtin_memset(c->code->hash, 0, sizeof(c->code->hash));
    c->code->used = 0;
    soft_code_epoch(c, 0);
    soft_code_epoch(c, 1);
    c->blk = NULL;
    native_cache_flush(c);
}

static void *arena_take(struct code_cache *cc, size_t bytes)
{
    bytes = align_up(bytes, 16);
    if (bytes > cc->bytes - cc->used) {
        return NULL;
    }
    void *p = cc->arena + cc->used;
    cc->used += bytes;
    return p;
}

/* ---- look-up ---- */

static struct sblock **bucket(struct code_cache *cc, uint64_t pa, uint64_t va, uint32_t mode)
{
    uint64_t h = (pa ^ (va >> 12) ^ ((uint64_t)mode << 7)) * UINT64_C(0x9e3779b97f4a7c15);
    return &cc->hash[h >> (64 - HASH_BITS)];
}

static bool block_is_current(const struct sblock *b)
{
    return b->gen == atomic_load_relaxed_u32(b->pgen) &&
           (b->pgen2 == NULL || b->gen2 == atomic_load_relaxed_u32(b->pgen2));
}

/* Unlinks it when it is stale. */
static struct sblock *find(struct code_cache *cc, uint64_t pa, uint64_t va, uint32_t mode)
{
    struct sblock **p = bucket(cc, pa, va, mode);
    while (*p != NULL) {
        struct sblock *b = *p;
        if (b->pa != pa || b->va != va || b->mode != mode) {
            p = &b->hash_next;
        } else if (block_is_current(b)) {
            return b;
        } else {
            *p = b->hash_next;
        }
    }
    return NULL;
}

static bool in_limit(const struct scpu *c, uint64_t rip, uint64_t len)
{
    return (c->mode & MODE_64) || rip + len - 1 <= c->seg[X86_CS].limit;
}

static uint64_t linear_of(const struct scpu *c, uint64_t rip)
{
    return (c->mode & MODE_64) ? rip : (uint32_t)(rip + c->code_base);
}

static void jc_put(struct scpu *c, uint64_t rip, struct sblock *b)
{
    struct jc_entry *e = uop_jc(c, rip);
    *e = (struct jc_entry){
        .va = rip, .blk = b, .mode = b->mode, .epoch = c->jc_epoch[rip >> 63]};
}

/* A block that is there already and needs no walk; NULL otherwise. */
static struct sblock *lookup(struct scpu *c, uint64_t rip)
{
    uint64_t lin = linear_of(c, rip);
    const struct itlb_entry *e = soft_itlb_slot(c, lin);
    if (!soft_itlb_hit(c, e, lin)) {
        return NULL;
    }
    struct sblock *b = find(c->code, e->gpa + (lin & (MEM_PAGE_SIZE - 1)), rip, c->mode);
    if (b == NULL || b->pgen2 != NULL || !in_limit(c, rip, b->len_bytes)) {
        return NULL;
    }
    jc_put(c, rip, b);
    return b;
}

const struct uop *uop_stop_at(struct scpu *c, uint64_t rip)
{
    c->rip = rip;
    c->stop_result = INSN_JUMP;
    for (unsigned k = 0; c->blk != NULL && k < 2; k++) {
        struct sblock **link = &block_tail(c->blk)->link[k];
        if (*link != NULL && !block_is_current(*link)) {
            *link = NULL;
        }
    }
    return NULL;
}

const struct uop *uop_lookup(struct scpu *c, uint64_t rip, int link_slot)
{
    const struct jc_entry *e = uop_jc(c, rip);
    struct sblock *b;
    if (e->va == rip && e->mode == c->mode && e->epoch == c->jc_epoch[rip >> 63]) {
        b = e->blk;
    } else {
        b = lookup(c, rip);
    }
    if (b == NULL || !block_is_current(b)) {
        return uop_stop_at(c, rip);
    }
    struct sblock *from = c->blk;
    if (link_slot >= 0 && from->pgen2 == NULL &&
        ((from->pa ^ b->pa) & ~(MEM_PAGE_SIZE - 1)) == 0 && from->mode == b->mode &&
        ((linear_of(c, from->va) ^ linear_of(c, rip)) & ~(MEM_PAGE_SIZE - 1)) == 0) {
        block_tail(from)->link[link_slot] = b;
    }
    return uop_enter(c, b);
}

/* ---- leaving a block ---- */

const struct uop *uop_exit(struct scpu *c, const struct uop *op, enum insn_result result)
{
    const struct sblock *b = c->blk;
    unsigned done = op->insn_no + (result == INSN_EXC || result == INSN_REPEAT ? 0u : 1u);
    if (result == INSN_EXC || result == INSN_REPEAT) {
        c->rip = b->va + op->ip_off;
    } else if (result != INSN_JUMP) {
        c->rip = b->va + op->ip_off + op->len;
        if (!(b->mode & MODE_64)) {
            c->rip = (uint32_t)c->rip;
        }
    }
    c->icount -= b->n_insns - done;
    c->access_open = false;
    if (unlikely(c->world_held)) {
        soft_world_go(c);
    }
    c->stop_result = result;
    return NULL;
}

/* Any instruction by its general handler. */
static const struct uop *uop_complex(struct scpu *c, const struct uop *op)
{
    const struct insn *in = op->insn;
    c->rip = c->blk->va + op->ip_off;
    c->next_rip = c->rip + op->len;
    if (!(c->mode & MODE_64)) {
        c->next_rip = (uint32_t)c->next_rip;
    }
    enum insn_result r = in->fn(c, in);
    if (likely(r == INSN_NEXT && !c->code_hit && c->pending_db == 0)) {
        c->rip = c->blk->va;
        UOP_NEXT(c, op);
    }
    return uop_exit(c, op, r == INSN_NEXT ? INSN_NEXT_FLUSH : r);
}

/* End of a block that does not end in a branch. */
static const struct uop *uop_end(struct scpu *c, const struct uop *op)
{
    return uop_goto(c, op, 0);
}

/* The same where one instruction at a time is wanted. */
static const struct uop *uop_end_step(struct scpu *c, const struct uop *op)
{
    return uop_stop_at(c, uop_tail(op)->target[0]);
}

static enum insn_result insn_too_long(struct scpu *c, const struct insn *in)
{
    (void)in;
    return (enum insn_result)soft_raise_err(c, EXC_GP, 0);
}

/* ---- building ---- */

struct build {
    uint64_t rip, lin; /* next instruction */
    uint64_t first_rip;
    const struct itlb_entry *page;
    struct sblock *b;
    struct uop *ops;
    unsigned n_ops, n_insns;
    uint32_t mode;
    struct uop_tail tail;
    bool ended, full;
    bool branch; /* the last uop goes on by itself */
};

static uint32_t page_gen(const struct soft_page *page)
{
    uint32_t gen;
    while ((gen = atomic_load_explicit(&page->gen, memory_order_seq_cst)) & 1) {
        __builtin_ia32_pause();
    }
    return gen;
}

/* MARKING becomes MARKED if the generation is still the one given: else the mark may have been
 * taken away and set again meanwhile, with write entries made in between. */
static bool mark_if_same(struct soft_page *page, uint32_t gen)
{
    typedef uint64_t __attribute__((may_alias)) both_t; /* gen and has_code at once */
    uint64_t is = gen | (uint64_t)CODE_MARKING << 32, want = gen | (uint64_t)CODE_MARKED << 32;
    _Static_assert(offsetof(struct soft_page, gen) == 0 &&
                       offsetof(struct soft_page, has_code) == 4,
                   "both in one word");
    return __atomic_compare_exchange_n((both_t *)(void *)page, &is, want, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

uint32_t block_claim_page(struct scpu *c, struct soft_page *page, const uint8_t *host)
{
    for (;;) {
        uint32_t gen = page_gen(page), none = CODE_NONE;
        if (atomic_load_explicit(&page->has_code, memory_order_seq_cst) == CODE_MARKED) {
            return gen;
        }
        atomic_compare_exchange_strong(&page->has_code, &none, CODE_MARKING);
        soft_code_settle(c, host);
        (void)mark_if_same(page, gen);
    }
}

void block_mark_lines(struct soft_page *page, uint64_t off, uint64_t len)
{
    uint64_t last = MIN(off + len, MEM_PAGE_SIZE) - 1;
    uint64_t mask = (~UINT64_C(0) << (off >> 6)) & (~UINT64_C(0) >> (63 - (last >> 6)));
    if ((atomic_load_explicit(&page->lines, memory_order_relaxed) & mask) != mask) {
        atomic_fetch_or_explicit(&page->lines, mask, memory_order_seq_cst);
    }
}

/* The operand fields that uop_ea reads. False when they cannot express the operand. */
static bool bind_operands(const struct build *bd, const struct insn *in, struct uop *op)
{
    int64_t disp = in->disp;
    op->base = in->base < INSN_NOREG ? (uint8_t)(in->base * 8) : SOFT_REG_ZERO;
    op->index = in->index < INSN_NOREG ? (uint8_t)(in->index * 8) : SOFT_REG_ZERO;
    op->shift = in->scale;
    op->seg = in->seg == X86_FS || in->seg == X86_GS ? in->seg : SOFT_SEG_ZERO;
    if (in->rip_rel) {
        op->base = SOFT_REG_RIP;
        disp += (int64_t)(bd->rip - bd->first_rip) + in->len;
    }
    op->disp = (int32_t)disp;
    return disp == op->disp;
}

static bool bind_complex(struct scpu *c, const struct insn *in, insn_fn *fn, struct uop *op)
{
    struct insn *copy = arena_take(c->code, sizeof(*copy));
    if (copy == NULL) {
        return false;
    }
    *copy = *in;
    copy->fn = fn;
    op->fn = uop_complex;
    op->insn = copy;
    return true;
}

static bool emit(struct scpu *c, struct build *bd, const struct insn *in,
                 const struct opcode *row, enum decode_result dr)
{
    struct uop *op = &bd->ops[bd->n_ops];
    op->len = in->len;
    op->insn_no = (uint8_t)bd->n_insns;
    op->ip_off = (uint32_t)(bd->rip - bd->first_rip);
    bool simple = bind_operands(bd, in, op);
    bd->n_ops++;
    bd->n_insns++;
    if (dr != DECODE_OK) {
        bd->ended = true;
        return bind_complex(c, in, dr == DECODE_LONG ? insn_too_long : soft_insn_ud, op);
    }
    if (row == NULL) {
        switch (native_bind(c, in, op)) {
        case NATIVE_OK: return true;
        case NATIVE_FULL: return false;
        case NATIVE_UNKNOWN: break;
        }
        /* TZCNT and LZCNT where the guest lacks them are BSF and BSR. */
        bool scan = in->enc == ENC_LEGACY && in->map == MAP_0F && (in->opcode & 0xfe) == 0xbc;
        return bind_complex(c, in, scan ? soft_op_bsf_bsr : soft_insn_ud, op);
    }
    if (row->flags & OP_END) {
        bd->ended = true;
        bd->tail.target[1] = bd->rip + in->len + ((row->flags & OP_REL) ? in->imm : 0);
    }
    if (simple && bd->b->pgen2 == NULL &&
        (bd->mode & (MODE_64 | MODE_STEP | MODE_AC)) == MODE_64 && fast_bind(c, in, row, op)) {
        if (row->kind == K_JCC && bd->n_ops >= 2 && fast_fuse(op - 1, in->opcode & 15)) {
            bd->n_ops--;
        }
        bd->branch = bd->ended;
        return true;
    }
    return bind_complex(c, in, row->fn, op);
}

/* Other vCPUs may be writing: each aligned eight bytes are of one moment, as processors promise
 * for code that is changed by one aligned store. */
void block_snapshot(const uint8_t *page, uint64_t off, uint8_t ret_bytes[16])
{
    uint64_t words[3] = {0}, first = off & ~UINT64_C(7);
    for (unsigned i = 0; i < 3 && first + i * 8 < MEM_PAGE_SIZE; i++) {
        words[i] = __atomic_load_n((const uint64_t *)(const void *)(page + first + i * 8),
                                   __ATOMIC_RELAXED);
    }
    __builtin_memcpy(ret_bytes, (const uint8_t *)words + (off & 7), 16);
}

/* A single instruction whose bytes lie in two pages. False: the second page's fetch faulted. */
static bool gather_crossing(struct scpu *c, struct build *bd, uint8_t bytes[16], size_t have)
{
    const uint8_t *first = bd->page->host + (bd->lin & (MEM_PAGE_SIZE - 1));
    for (size_t i = 0; i < have; i++) {
        bytes[i] = first[i];
    }
    uint64_t next = (bd->lin | (MEM_PAGE_SIZE - 1)) + 1;
    if (!(c->mode & MODE_64)) {
        next = (uint32_t)next;
    } else if (!soft_canonical(c, next)) {
        soft_raise_err(c, EXC_GP, 0);
        return false;
    }
    const struct itlb_entry *second = soft_fetch_page(c, next);
    if (second == NULL) {
        return false;
    }
    bd->b->pgen2 = &second->page->gen;
    bd->b->gen2 = block_claim_page(c, second->page, second->host);
    block_mark_lines(second->page, 0, 15);
    for (size_t i = have; i < 15; i++) {
        bytes[i] = second->host[i - have];
    }
    return true;
}

/* Decodes the next instruction into the block. 0: go on; 1: block ends before it; -1: fault. */
static int build_one(struct scpu *c, struct build *bd)
{
    uint64_t off = bd->lin & (MEM_PAGE_SIZE - 1);
    size_t avail = MIN(15, MEM_PAGE_SIZE - off), limit = 15;
    const struct opcode *row;
    struct insn in;
    uint8_t one[16], two[16];
    if (!(c->mode & MODE_64)) {
        if (!in_limit(c, bd->rip, 1)) {
            if (bd->n_insns > 0) {
                return 1;
            }
            soft_raise_err(c, EXC_GP, 0);
            return -1;
        }
        limit = (size_t)MIN(15, (uint64_t)c->seg[X86_CS].limit - bd->rip + 1);
    }
    block_mark_lines(bd->page->page, off, 15);
    block_snapshot(bd->page->host, off, one);
    enum decode_result dr = soft_decode(one, MIN(avail, limit), bd->mode, &in, &row);
    if (dr == DECODE_SHORT) {
        if (bd->n_insns > 0) {
            return 1;
        }
        if (limit <= avail) {
            soft_raise_err(c, EXC_GP, 0);
            return -1;
        }
        if (!gather_crossing(c, bd, two, avail)) {
            return -1;
        }
        dr = soft_decode(two, limit, bd->mode, &in, &row);
        if (dr == DECODE_SHORT) {
            soft_raise_err(c, EXC_GP, 0);
            return -1;
        }
        bd->ended = true;
    }
    if (!emit(c, bd, &in, row, dr)) {
        bd->full = true;
        return -1;
    }
    bd->rip += in.len;
    bd->lin += in.len;
    if ((bd->lin & (MEM_PAGE_SIZE - 1)) < in.len) {
        bd->ended = true; /* on to the next page */
    }
    return 0;
}

static void finish(const struct scpu *c, struct build *bd)
{
    struct sblock *b = bd->b;
    if (!bd->branch) {
        struct uop *last = &bd->ops[bd->n_ops++];
        *last = (struct uop){.fn = (bd->mode & MODE_STEP) ? uop_end_step : uop_end};
        last->ip_off = (uint32_t)(bd->rip - bd->first_rip);
    }
    bd->tail.target[0] = (c->mode & MODE_64) ? bd->rip : (uint32_t)bd->rip;
    b->n_insns = (uint16_t)bd->n_insns;
    b->n_uops = (uint16_t)bd->n_ops;
    b->len_bytes = (uint32_t)(bd->rip - bd->first_rip);
}

/* NULL with c->exc raised, or with *ret_full when memory ran out. */
static struct sblock *build(struct scpu *c, uint64_t lin, uint32_t mode, bool *ret_full)
{
    const unsigned max_insns = (mode & MODE_STEP) ? 1 : BLOCK_MAX_INSNS;
    struct uop ops[BLOCK_MAX_INSNS + 2];
    struct sblock head = {.va = c->rip, .mode = mode};
    struct build bd = {
        .rip = c->rip, .first_rip = c->rip, .lin = lin, .mode = mode, .b = &head, .ops = ops};
    *ret_full = false;
    bd.page = soft_fetch_page(c, lin);
    if (bd.page == NULL) {
        return NULL;
    }
    /* The entry may be replaced by the fetch of a second page. */
    struct itlb_entry page = *bd.page;
    bd.page = &page;
    head.pa = page.gpa + (lin & (MEM_PAGE_SIZE - 1));
    head.host = page.host + (lin & (MEM_PAGE_SIZE - 1));
    head.pgen = &page.page->gen;
    head.gen = block_claim_page(c, page.page, page.host);
    while (!bd.ended && bd.n_insns < max_insns) {
        int r = build_one(c, &bd);
        if (r < 0) {
            *ret_full = bd.full;
            return NULL;
        }
        if (r > 0) {
            break;
        }
    }
    finish(c, &bd);
    struct sblock *b =
        arena_take(c->code, sizeof(*b) + bd.n_ops * sizeof(struct uop) + sizeof(bd.tail));
    if (b == NULL) {
        *ret_full = true;
        return NULL;
    }
    *b = head;
    b->heat = c->jit != NULL && jit_mode_ok(mode) && b->pgen2 == NULL
                  ? MAX(c->vm->tuning.hot, 1)
                  : SBLOCK_COLD;
    __builtin_memcpy(b->uops, ops, bd.n_ops * sizeof(struct uop));
    *block_tail(b) = bd.tail;
    struct sblock **p = bucket(c->code, b->pa, b->va, mode);
    b->hash_next = *p;
    *p = b;
    c->stats.blocks_decoded++;
    return b;
}

struct sblock *block_get(struct scpu *c, uint32_t mode)
{
    uint64_t lin = linear_of(c, c->rip);
    if ((mode & MODE_64) && !soft_canonical(c, lin)) {
        soft_raise_err(c, EXC_GP, 0);
        return NULL;
    }
    const struct itlb_entry *page = soft_fetch_page(c, lin);
    if (page == NULL) {
        return NULL;
    }
    struct sblock *b = find(c->code, page->gpa + (lin & (MEM_PAGE_SIZE - 1)), c->rip, mode);
    if (b != NULL && b->pgen2 != NULL) {
        /* The second page must still be where it was. */
        const struct itlb_entry *second = soft_fetch_page(c, (lin | (MEM_PAGE_SIZE - 1)) + 1);
        if (second == NULL) {
            return NULL;
        }
        b = &second->page->gen == b->pgen2 ? b : NULL;
    }
    if (b != NULL && in_limit(c, c->rip, b->len_bytes)) {
        return b;
    }
    soft_leave(c); /* decoding uses libc's string functions */
    bool full;
    b = build(c, lin, mode, &full);
    if (b == NULL && full) {
        code_cache_flush(c);
        b = build(c, lin, mode, &full);
    }
    if (b != NULL && b->pgen2 == NULL && !(mode & MODE_STEP)) {
        jc_put(c, c->rip, b);
    }
    return b;
}
