/*
 * Code memory and the tables of translated blocks: where they are found, how they are linked,
 * and how they go.
 *
 * A block is keyed by physical address, virtual address and mode. It is dropped when the
 * generation of its page changes: whoever writes to decoded code changes that, notes the page
 * in vm->stale and asks every vCPU to look (soft_code_written), which each does before it runs
 * another block after its next poll. Dropping turns the block's entry into an exit and takes
 * back the branches that were linked to it; its memory is used again only after all of it has
 * been flushed, which is also what happens when there is no more room.
 */
#include "cpu/soft/jit/jit_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Share of code memory for what runs; the rest is for slow ends. */
#define HOT_SHARE(bytes) ((bytes) / 2)

/* ---- life ---- */

static void parts_reset(struct jit *j)
{
    j->hot = j->first_hot;
    j->hot_end = HOT_SHARE(j->bytes);
    j->cold = j->first_cold = j->hot_end;
    j->cold_end = j->bytes;
    j->arena_used = 0;
    j->n_blocks = 0;
}

/* An entry without a block has a tag that only targets of another entry could have: 0, but for
 * the first one. */
static void jc_mark_first(struct scpu *c)
{
    for (unsigned m = 0; m < MMU_NIDX; m++) {
        c->jit_jc[m][0].tag = 1;
    }
}

static void jc_clear(struct scpu *c)
{
    native_zero(c->jit_jc, sizeof(c->jit_jc));
    jc_mark_first(c);
}

int jit_new(struct scpu *c, struct err *err)
{
    const struct soft_tuning *tune = &c->vm->tuning;
    c->self = c;
    if (!tune->jit) {
        return 0;
    }
    struct jit *j = calloc(1, sizeof(*j));
    if (j == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "soft engine: no memory for the translator");
    }
    c->jit = j;
    __builtin_cpu_init();
    j->has_bmi2 = __builtin_cpu_supports("bmi2");
    j->bytes = tune->code_bytes;
    j->arena_bytes = j->bytes / 2;
    j->max_blocks = j->bytes / 128;
    void *arena = mmap(NULL, j->arena_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *blocks = mmap(NULL, j->max_blocks * sizeof(*j->blocks), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    j->arena = arena == MAP_FAILED ? NULL : arena;
    j->blocks = blocks == MAP_FAILED ? NULL : blocks;
    if (j->arena == NULL || j->blocks == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "soft engine: no memory for the translator");
    }
    int r = native_map_code("translated-code", j->bytes, &j->rx, &j->rw, err);
    if (r != 0) {
        return r;
    }
    jit_make_thunks(j);
    parts_reset(j);
    jc_mark_first(c);
    j->stale_seen = atomic_load(&c->vm->stale_n);
    native_register_code(c, j->rx, j->bytes);
    soft_code_epoch(c, 0);
    soft_code_epoch(c, 1);
    return 0;
}

void jit_free(struct scpu *c)
{
    struct jit *j = c->jit;
    if (j == NULL) {
        return;
    }
    c->jit = NULL;
    if (j->rw != NULL) {
        munmap(j->rw, j->bytes);
    }
    if (j->rx != NULL) {
        munmap(j->rx, j->bytes);
    }
    if (j->arena != NULL) {
        munmap(j->arena, j->arena_bytes);
    }
    if (j->blocks != NULL) {
        munmap(j->blocks, j->max_blocks * sizeof(*j->blocks));
    }
    free(j);
}

size_t jit_bytes(const struct scpu *c)
{
    const struct jit *j = c->jit;
    return j == NULL ? 0
                     : sizeof(*j) + j->hot + (j->cold - j->first_cold) + j->arena_used +
                           j->n_blocks * sizeof(*j->blocks);
}

void jit_flush(struct scpu *c)
{
    struct jit *j = c->jit;
    if (j == NULL) {
        return;
    }
    native_x87_resolve(c); /* while the sites it names are there */
    native_zero(j->hash, sizeof(j->hash));
    native_zero(j->pages, sizeof(j->pages));
    parts_reset(j);
    jc_clear(c);
    c->stats.code_flushes++;
}

void *jit_arena(struct jit *j, size_t bytes)
{
    bytes = align_up(bytes, 8);
    if (bytes > j->arena_bytes - j->arena_used) {
        return NULL;
    }
    void *p = j->arena + j->arena_used;
    j->arena_used += (uint32_t)bytes;
    return p;
}

/* ---- indirect targets ---- */

/*
 * A target is found by its address in a table for each kind of access rights. The tag of an
 * entry is the address changed by a key in its upper bits, which are all equal in an address:
 * another key makes all entries of a table invalid at once.
 */
static void change_key(struct scpu *c, unsigned m)
{
    c->jit_key[m] += UINT64_C(1) << 48;
    if (c->jit_key[m] == 0) {
        jc_clear(c);
    }
}

void soft_code_epoch(struct scpu *c, unsigned half)
{
    c->jc_epoch[half]++;
    for (unsigned m = 0; m < MMU_NIDX; m++) {
        if (half == 0 && m != MMU_USER && !c->jit_low_kernel) {
            continue; /* no entry of the kernel's is in the lower half */
        }
        change_key(c, m);
    }
    c->jit_low_kernel = c->jit_low_kernel && half != 0;
}

static void jc_put(struct scpu *c, struct tblock *tb)
{
    c->jit_low_kernel |= !(tb->mode & MODE_CPL3) && !(tb->va >> 63);
    enum mmu_index m = soft_mode_mmu(tb->mode);
    size_t i = tb->va & (JIT_JC_SIZE - 1);
    c->jit_jc[m][i].tag = tb->va ^ c->jit_key[m];
    c->jit_jc[m][i].code = jit_rx(c->jit, tb->code);
    c->jit_jc_block[m][i] = tb;
}

/* The block at c->rip if it is in the table of targets. */
static struct tblock *jc_get(const struct scpu *c)
{
    enum mmu_index m = soft_mode_mmu(c->mode);
    size_t i = c->rip & (JIT_JC_SIZE - 1);
    if (c->jit_jc[m][i].tag != (c->rip ^ c->jit_key[m])) {
        return NULL;
    }
    struct tblock *tb = c->jit_jc_block[m][i];
    return !tb->dead && tb->mode == c->mode ? tb : NULL;
}

/* ---- look-up ---- */

static struct tblock **bucket(struct jit *j, uint64_t pa, uint64_t va, uint32_t mode)
{
    uint64_t h = (pa ^ (va >> 12) ^ ((uint64_t)mode << 7)) * UINT64_C(0x9e3779b97f4a7c15);
    return &j->hash[h >> (64 - JIT_HASH_BITS)];
}

static struct tblock *lookup(struct jit *j, uint64_t pa, uint64_t va, uint32_t mode)
{
    struct tblock **p = bucket(j, pa, va, mode);
    while (*p != NULL) {
        struct tblock *b = *p;
        if (b->dead) {
            *p = b->hash_next;
        } else if (b->pa == pa && b->va == va && b->mode == mode) {
            return b;
        } else {
            p = &b->hash_next;
        }
    }
    return NULL;
}

/* Whether the second page of a block is where and what it was; then its entry may be passed
 * until code is mapped elsewhere again. */
static bool second_page_holds(struct scpu *c, struct tblock *tb)
{
    const struct itlb_entry *e = soft_fetch_page(c, (tb->va | (MEM_PAGE_SIZE - 1)) + 1);
    if (e == NULL) {
        c->exc.pending = false; /* the interpreter raises it */
        return false;
    }
    if (e->page != tb->page2) {
        return false;
    }
    uint32_t epoch = c->jc_epoch[tb->va >> 63];
    __builtin_memcpy(c->jit->rw + tb->epoch_at, &epoch, 4);
    return true;
}

/*
 * The tables of targets are by access rights only. Whatever else is in the mode is in control
 * registers, and changes through C, which comes by here before the next block: then they start
 * afresh.
 */
static void check_mode(struct scpu *c)
{
    uint32_t rest = c->mode & ~(uint32_t)(MODE_CPL3 | MODE_CPL0 | MODE_SMAP);
    if (unlikely(rest != c->jit_mode)) {
        c->jit_mode = rest;
        for (unsigned m = 0; m < MMU_NIDX; m++) {
            change_key(c, m);
        }
    }
}

struct tblock *jit_find(struct scpu *c)
{
    struct jit *j = c->jit;
    check_mode(c);
    struct tblock *tb = jc_get(c);
    if (tb != NULL && tb->page2 == NULL) {
        return tb;
    }
    if (!soft_canonical(c, c->rip)) {
        return NULL;
    }
    const struct itlb_entry *e = soft_fetch_page(c, c->rip);
    if (e == NULL) {
        c->exc.pending = false; /* the interpreter raises it */
        return NULL;
    }
    tb = lookup(j, e->gpa + (c->rip & (MEM_PAGE_SIZE - 1)), c->rip, c->mode);
    if (tb == NULL) {
        return NULL;
    }
    if (tb->gen != atomic_load_relaxed_u32(&tb->page->gen) ||
        (tb->page2 != NULL &&
         (tb->gen2 != atomic_load_relaxed_u32(&tb->page2->gen) || !second_page_holds(c, tb)))) {
        jit_kill(j, tb);
        return NULL;
    }
    jc_put(c, tb);
    return tb;
}

static struct jpage **page_slot(struct jit *j, const struct soft_page *page)
{
    uint64_t h = (uint64_t)(uintptr_t)page * UINT64_C(0x9e3779b97f4a7c15);
    struct jpage **p = &j->pages[h >> (64 - JIT_PAGE_BITS)];
    while (*p != NULL && (*p)->page != page) {
        p = &(*p)->next;
    }
    return p;
}

static bool add_to_page(struct jit *j, struct tblock *tb, struct soft_page *page)
{
    struct jpage **at = page_slot(j, page);
    if (*at == NULL) {
        struct jpage *p = jit_arena(j, sizeof(*p));
        if (p == NULL) {
            return false;
        }
        *p = (struct jpage){.page = page};
        *at = p;
    }
    struct jref *ref = jit_arena(j, sizeof(*ref));
    if (ref == NULL) {
        return false;
    }
    *ref = (struct jref){.tb = tb, .next = (*at)->first};
    (*at)->first = ref;
    return true;
}

bool jit_publish(struct scpu *c, struct tblock *tb)
{
    struct jit *j = c->jit;
    if (!add_to_page(j, tb, tb->page) ||
        (tb->page2 != NULL && !add_to_page(j, tb, tb->page2))) {
        return false;
    }
    struct tblock **p = bucket(j, tb->pa, tb->va, tb->mode);
    tb->hash_next = *p;
    *p = tb;
    j->blocks[j->n_blocks++] = tb;
    jc_put(c, tb);
    return true;
}

/* The block whose code holds an offset of code memory; NULL: none. */
const struct tblock *jit_block_at(const struct jit *j, uint32_t off)
{
    uint32_t lo = 0, hi = j->n_blocks;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (j->blocks[mid]->code_end <= off) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < j->n_blocks && off >= j->blocks[lo]->code ? j->blocks[lo] : NULL;
}

/* ---- links ---- */

static void patch(struct jit *j, uint32_t at, uint32_t to)
{
    uint32_t rel = to - (at + 4);
    __atomic_store_n((uint32_t *)(void *)(j->rw + at), rel, __ATOMIC_RELAXED);
}

void jit_link(struct scpu *c, struct texit *x, struct tblock *to)
{
    struct jit *j = c->jit;
    if (x->epoch_at != 0) {
        uint32_t epoch = c->jc_epoch[x->target >> 63];
        __builtin_memcpy(j->rw + x->epoch_at, &epoch, 4);
    }
    if (x->linked == to) {
        return;
    }
    if (x->linked != NULL) {
        struct texit **p = &x->linked->in;
        while (*p != x) {
            p = &(*p)->next_in;
        }
        *p = x->next_in;
    }
    x->linked = to;
    x->next_in = to->in;
    to->in = x;
    patch(j, x->jmp_at, x->fpu && to->entry_fpu != 0 ? to->entry_fpu : to->code);
}

void jit_kill(struct jit *j, struct tblock *tb)
{
    if (tb->dead) {
        return;
    }
    tb->dead = true;
    for (struct texit *x = tb->in, *next; x != NULL; x = next) {
        next = x->next_in;
        x->linked = NULL;
        patch(j, x->jmp_at, x->stub);
    }
    tb->in = NULL;
    /* Nothing jumps to entry_fpu any more: only links did. */
    j->rw[tb->code] = 0xe9;
    patch(j, tb->code + 1, tb->dead_stub);
}

static void drop_page(struct jit *j, struct jpage *p)
{
    uint32_t gen = atomic_load_explicit(&p->page->gen, memory_order_seq_cst);
    struct jref **at = &p->first;
    while (*at != NULL) {
        struct tblock *tb = (*at)->tb;
        if ((tb->page == p->page ? tb->gen : tb->gen2) != gen) {
            jit_kill(j, tb);
            *at = (*at)->next;
        } else {
            at = &(*at)->next;
        }
    }
}

void jit_drop_stale(struct scpu *c)
{
    struct jit *j = c->jit;
    struct soft_vm *vm = c->vm;
    uint32_t n = atomic_load(&vm->stale_n);
    if (j == NULL) {
        return;
    }
    if (n - j->stale_seen > SOFT_STALE_MAX / 2) { /* may have been overwritten */
        for (unsigned i = 0; i < ARRAY_LEN(j->pages); i++) {
            for (struct jpage *p = j->pages[i]; p != NULL; p = p->next) {
                drop_page(j, p);
            }
        }
        j->stale_seen = n;
        return;
    }
    for (; j->stale_seen != n; j->stale_seen++) {
        struct soft_page *page = atomic_load(&vm->stale[j->stale_seen % SOFT_STALE_MAX]);
        struct jpage *p = page == NULL ? NULL : *page_slot(j, page);
        if (p != NULL) {
            drop_page(j, p);
        }
    }
}
