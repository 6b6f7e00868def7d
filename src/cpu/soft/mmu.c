/*
 * The MMU: page walks for every paging mode, the software TLB's fills and flushes, and what
 * makes stores to decoded code visible. SDM vol. 3A chapters 4 and 12.1; AMD APM vol. 2
 * chapter 5.
 *
 * A store goes straight to RAM only through a write entry of the TLB. Such an entry exists only
 * for pages with the D bit set, with their dirty-log bit recorded and without decoded code, so
 * that accessed/dirty bits, dirty logging and self-modifying code cost nothing on the fast
 * path.
 */
#include "cpu/soft/mmu.h"

struct soft_slot *soft_find_slot(struct soft_vm *vm, uint64_t gpa)
{
    for (unsigned i = 0; i < vm->n_slots; i++) {
        struct soft_slot *s = &vm->slots[i];
        if (gpa - s->slot.base.v < s->slot.size_bytes) {
            return s;
        }
    }
    return NULL;
}

/* The same, beginning with the slot that this vCPU used last. */
static inline struct soft_slot *slot_of(struct scpu *c, uint64_t gpa)
{
    struct soft_slot *s = &c->vm->slots[c->slot_hint];
    if (likely(gpa - s->slot.base.v < s->slot.size_bytes && c->slot_hint < c->vm->n_slots)) {
        return s;
    }
    s = soft_find_slot(c->vm, gpa);
    if (s != NULL) {
        c->slot_hint = (unsigned)(s - c->vm->slots);
    }
    return s;
}

static inline uint8_t *host_of(struct scpu *c, uint64_t gpa)
{
    struct soft_slot *s = slot_of(c, gpa);
    return s != NULL ? s->slot.host + (gpa - s->slot.base.v) : NULL;
}

/* ---- page walk ---- */

/* Page table bits. */
#define PTE_P    UINT64_C(0x1)
#define PTE_W    UINT64_C(0x2)
#define PTE_U    UINT64_C(0x4)
#define PTE_A    UINT64_C(0x20)
#define PTE_D    UINT64_C(0x40)
#define PTE_PS   UINT64_C(0x80)
#define PTE_G    UINT64_C(0x100)
#define PTE_NX   (UINT64_C(1) << 63)
#define PTE_ADDR UINT64_C(0x000ffffffffff000)

struct walk {
    uint64_t va;
    unsigned acc;
    enum mmu_index idx;
    /* result */
    uint64_t gpa;
    unsigned shift; /* page size */
    bool global, writable;
    uint32_t error;
};

/* How the entries of a paging mode look. */
struct paging_mode {
    unsigned levels, entry_bytes;
    uint8_t shift[5]; /* by level, root first */
    uint8_t bits;     /* index bits of a level */
    bool keeps_pde;   /* walks end in c->pde */
};
static const struct paging_mode paging_32 = {2, 4, {22, 12}, 10, false};
static const struct paging_mode paging_pae = {2, 8, {21, 12}, 9, false}; /* below the PDPTEs */
static const struct paging_mode paging_4l = {4, 8, {39, 30, 21, 12}, 9, true};
static const struct paging_mode paging_5l = {5, 8, {48, 39, 30, 21, 12}, 9, false};

static inline uint64_t entry_read(const uint8_t *p, unsigned bytes)
{
    return bytes == 4 ? __atomic_load_n((const uint32_t *)(const void *)p, __ATOMIC_RELAXED)
                      : __atomic_load_n((const uint64_t *)(const void *)p, __ATOMIC_RELAXED);
}

/* Sets bits if the entry is still what was read. */
static bool entry_update(struct scpu *c, uint8_t *p, uint64_t gpa, unsigned bytes, uint64_t old,
                         uint64_t new)
{
    struct soft_slot *s = slot_of(c, gpa);
    bool ok;
    if (s == NULL || s->slot.kind == MEM_ROM) {
        return true;
    }
    if (bytes == 4) {
        uint32_t o = (uint32_t)old;
        ok = __atomic_compare_exchange_n((uint32_t *)(void *)p, &o, (uint32_t) new, false,
                                         __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    } else {
        ok = __atomic_compare_exchange_n((uint64_t *)(void *)p, &old, new, false,
                                         __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
    if (ok) {
        uint64_t off = gpa - s->slot.base.v;
        struct soft_page *page = &s->pages[off >> MEM_PAGE_SHIFT];
        mem_slot_mark_dirty(s->mem_slot, off);
        if (atomic_load_relaxed_u32(&page->has_code) &&
            soft_code_written(c->vm, page, off & (MEM_PAGE_SIZE - 1), bytes)) {
            c->code_hit = true;
        }
    }
    return ok;
}

/* Bits that must be zero in an entry at this level (shift), leaf or not. */
static inline uint64_t reserved_bits(const struct scpu *c, const struct paging_mode *pm,
                                     unsigned shift, uint64_t entry)
{
    uint64_t rsvd;
    if (pm->entry_bytes == 4) {
        /* PSE-36 is not offered: bits 13-21 of a 4 MiB page. */
        return shift == 22 && (entry & PTE_PS) && (c->cr4 & CR4_PSE) ? 0x3fe000 : 0;
    }
    rsvd = PTE_ADDR & ~((UINT64_C(1) << c->vm->model->phys_bits) - 1);
    if (pm == &paging_pae) {
        rsvd |= UINT64_C(0x7ff0000000000000);
    }
    if (!(c->efer & EFER_NX)) {
        rsvd |= PTE_NX;
    }
    if (shift >= 39 && (entry & PTE_PS)) {
        rsvd |= PTE_PS;
    } else if (shift > 12 && (entry & PTE_PS)) {
        if (shift == 30 && !c->vm->model->has_1g_pages) {
            rsvd |= PTE_PS;
        }
        rsvd |= ((UINT64_C(1) << shift) - 1) & ~UINT64_C(0x1fff); /* bit 12 is PAT */
    }
    return rsvd;
}

static inline bool is_leaf(const struct scpu *c, const struct paging_mode *pm, unsigned shift,
                           uint64_t entry)
{
    if (shift == 12) {
        return true;
    }
    return (entry & PTE_PS) && (pm->entry_bytes == 8 || (c->cr4 & CR4_PSE));
}

/* Rights of a whole walk: the AND of W and U, the OR of NX. 0 if allowed, else the error code.
 */
static uint32_t check_rights(const struct scpu *c, const struct walk *w, bool can_write,
                             bool can_user, bool nx)
{
    bool user = w->idx == MMU_USER, write = w->acc & ACC_WRITE, exec = w->acc & ACC_EXEC;
    uint32_t error = PF_P | (write ? PF_W : 0) | (user ? PF_U : 0);
    bool nx_on = (c->efer & EFER_NX) != 0 && (c->cr4 & CR4_PAE);
    if (exec && (nx_on || (c->cr4 & CR4_SMEP))) {
        error |= PF_I;
    }
    if (exec && nx && nx_on) {
        return error;
    }
    if (user) {
        return !can_user || (write && !can_write) ? error : 0;
    }
    if (can_user && exec && (c->cr4 & CR4_SMEP)) {
        return error;
    }
    if (can_user && !exec && w->idx == MMU_SMAP) {
        return error;
    }
    return write && !can_write && (c->cr0 & CR0_WP) ? error : 0;
}

static uint32_t not_present(const struct scpu *c, const struct walk *w, uint32_t extra)
{
    uint32_t error =
        extra | ((w->acc & ACC_WRITE) ? PF_W : 0) | (w->idx == MMU_USER ? PF_U : 0);
    bool fetch_bit = ((c->efer & EFER_NX) && (c->cr4 & CR4_PAE)) || (c->cr4 & CR4_SMEP);
    return error | ((w->acc & ACC_EXEC) && fetch_bit ? PF_I : 0);
}

/* Where a walk is: the table to look into next and what the entries above it allow. */
struct walk_at {
    unsigned level;
    uint64_t table;
    bool can_write, can_user, nx;
};

/* Keeps where the last level of va's walk begins: what the processor calls a paging-structure
 * cache. It dies with every TLB flush (SDM vol. 3A 4.10.3), INVLPG of any address included. */
static inline void pde_put(struct scpu *c, uint64_t va, const struct walk_at *at)
{
    uint8_t *host = host_of(c, at->table);
    if (host != NULL) {
        c->pde[(va >> 21) & (PDE_CACHE_SIZE - 1)] = (struct pde_entry){.key = (va >> 21) + 1,
                                                                       .epoch = c->pde_epoch,
                                                                       .table = at->table,
                                                                       .host = host,
                                                                       .write = at->can_write,
                                                                       .user = at->can_user,
                                                                       .nx = at->nx};
    }
}

/* One pass over the tables. 0: done; 1: fault, w->error set; 2: an entry changed, walk again.
 * Inline: the mode is a constant where it matters. */
static inline __attribute__((always_inline)) int walk_once(struct scpu *c, struct walk *w,
                                                           const struct paging_mode *pm,
                                                           struct walk_at at, uint8_t *host)
{
    for (;; at.level++) {
        unsigned shift = pm->shift[at.level];
        uint64_t off = ((w->va >> shift) & ((1u << pm->bits) - 1)) * pm->entry_bytes;
        uint8_t *p = host != NULL ? host + off : host_of(c, at.table + off);
        uint64_t e = p != NULL ? entry_read(p, pm->entry_bytes) : UINT64_MAX;
        if (!(e & PTE_P)) {
            w->error = not_present(c, w, 0);
            return 1;
        }
        if (p == NULL || (e & reserved_bits(c, pm, shift, e))) {
            w->error = not_present(c, w, PF_P | PF_RSVD);
            return 1;
        }
        at.can_write = at.can_write && (e & PTE_W);
        at.can_user = at.can_user && (e & PTE_U);
        at.nx = at.nx || (pm->entry_bytes == 8 && (e & PTE_NX));
        bool leaf = is_leaf(c, pm, shift, e);
        if (leaf) {
            w->error = check_rights(c, w, at.can_write, at.can_user, at.nx);
            if (w->error != 0) {
                return 1;
            }
        }
        uint64_t want = e | PTE_A | (leaf && (w->acc & ACC_WRITE) ? PTE_D : 0);
        if (want != e && !entry_update(c, p, at.table + off, pm->entry_bytes, e, want)) {
            return 2;
        }
        if (leaf) {
            uint64_t mask = (UINT64_C(1) << shift) - 1;
            w->gpa = (e & PTE_ADDR & ~mask) | (w->va & mask);
            if (pm->entry_bytes == 4) {
                w->gpa = (uint32_t)w->gpa;
            }
            w->shift = shift;
            w->global = (e & PTE_G) && (c->cr4 & CR4_PGE);
            w->writable =
                (want & PTE_D) && (at.can_write || (w->idx != MMU_USER && !(c->cr0 & CR0_WP)));
            return 0;
        }
        at.table = e & PTE_ADDR;
        if (pm->entry_bytes == 4) {
            at.table = (uint32_t)at.table;
        }
        if (pm->keeps_pde && shift == 21) {
            struct walk_at below = at;
            below.level++;
            pde_put(c, w->va, &below);
        }
    }
}

static const struct walk_at walk_top = {.can_write = true, .can_user = true};

static int walk_long(struct scpu *c, struct walk *w)
{
    const struct pde_entry *pde = &c->pde[(w->va >> 21) & (PDE_CACHE_SIZE - 1)];
    struct walk_at at = walk_top;
    if (pde->key == (w->va >> 21) + 1 && pde->epoch == c->pde_epoch) {
        at = (struct walk_at){.level = 3,
                              .table = pde->table,
                              .can_write = pde->write,
                              .can_user = pde->user,
                              .nx = pde->nx};
        if (walk_once(c, w, &paging_4l, at, pde->host) == 0) {
            return 0;
        }
        /* What faults may have been allowed in memory since: there is no stale fault here. */
        at = walk_top;
    }
    at.table = c->cr3 & PTE_ADDR;
    return walk_once(c, w, &paging_4l, at, NULL);
}

static int walk_other(struct scpu *c, struct walk *w)
{
    struct walk_at at = walk_top;
    if (c->efer & EFER_LMA) {
        at.table = c->cr3 & PTE_ADDR;
        return walk_once(c, w, &paging_5l, at, NULL);
    }
    if (c->cr4 & CR4_PAE) {
        uint64_t pdpte = c->pdpte[(w->va >> 30) & 3];
        if (!(pdpte & PTE_P)) {
            w->error = not_present(c, w, 0);
            return 1;
        }
        at.table = pdpte & PTE_ADDR;
        return walk_once(c, w, &paging_pae, at, NULL);
    }
    at.table = c->cr3 & 0xfffff000u;
    return walk_once(c, w, &paging_32, at, NULL);
}

static int walk(struct scpu *c, struct walk *w)
{
    if (!(c->cr0 & CR0_PG)) {
        w->gpa = w->va & UINT32_MAX;
        w->shift = 12;
        w->global = false;
        w->writable = true;
        return 0;
    }
    bool four = (c->efer & EFER_LMA) && !(c->cr4 & CR4_LA57);
    int r;
    do {
        r = four ? walk_long(c, w) : walk_other(c, w);
    } while (r == 2);
    return r;
}

int soft_load_pdptes(struct scpu *c, uint64_t cr3)
{
    uint64_t rsvd = (UINT64_C(0x1e6)) | ~((UINT64_C(1) << c->vm->model->phys_bits) - 1);
    uint64_t e[4];
    for (unsigned i = 0; i < 4; i++) {
        const uint8_t *p = host_of(c, (cr3 & 0xffffffe0u) + i * 8);
        e[i] = p != NULL ? entry_read(p, 8) : UINT64_MAX;
        if ((e[i] & PTE_P) && (e[i] & rsvd)) {
            return soft_raise_err(c, EXC_GP, 0);
        }
    }
    for (unsigned i = 0; i < 4; i++) {
        c->pdpte[i] = e[i];
    }
    return 0;
}

/* ---- TLB fills and flushes ---- */

/* Other vCPUs may be looking (soft_code_settle): after all stores that went through it. */
static inline void tlb_drop(struct tlb_entry *e, unsigned index)
{
    __atomic_store_n(&e->tag, TLB_INVALID(index), __ATOMIC_RELEASE);
}

static void tlb_fill(struct scpu *c, const struct walk *w, enum tlb_kind kind,
                     const uint8_t *host)
{
    unsigned index = (unsigned)(w->va >> MEM_PAGE_SHIFT) & (TLB_SIZE - 1);
    struct tlb_entry *e = &c->tlb[w->idx][kind][index];
    struct tlb_log *log = &c->tlb_log[w->global];
    if (kind == TLB_W && e->tag != TLB_INVALID(index) &&
        e->tag != (w->va & ~(MEM_PAGE_SIZE - 1))) {
        c->tlb_gen++; /* nobody sees the old entry any more: soft_code_settle */
    }
    __atomic_store_n(&e->tag, TLB_INVALID(index), __ATOMIC_RELAXED);
    __atomic_store_n(&e->page, (uint64_t)(uintptr_t)host & ~(MEM_PAGE_SIZE - 1),
                     __ATOMIC_RELEASE);
    __atomic_store_n(&e->tag, w->va & ~(MEM_PAGE_SIZE - 1), __ATOMIC_RELEASE);
    if (log->n < TLB_LOG_MAX) {
        log->slot[log->n++] = (uint16_t)((w->idx * TLB_NKIND + kind) * TLB_SIZE + index);
    }
}

/*
 * A write entry, unless the page holds code. Another vCPU that marks the page looks at our
 * entries after that (soft_code_settle), and we look at the mark after making the entry: one of
 * the two sees the other. An entry that it misses because we just replaced or dropped it is no
 * harm: our stores through it came before, so they are seen by what is decoded after.
 */
static void mmu_fill_write(struct scpu *c, const struct walk *w, const struct xlat *x)
{
    if (atomic_load_explicit(&x->page->has_code, memory_order_relaxed) != CODE_NONE) {
        return;
    }
    tlb_fill(c, w, TLB_W, x->host);
    /* After the entry, before the look at the mark: whoever does not count it with its own mark
     * set is seen by us, or the mark is gone again and the next one finds it counted. */
    atomic_fetch_add_explicit(&x->page->writers, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&x->page->has_code, memory_order_seq_cst) != CODE_NONE) {
        unsigned index = (unsigned)(w->va >> MEM_PAGE_SHIFT) & (TLB_SIZE - 1);
        tlb_drop(&c->tlb[w->idx][TLB_W][index], index);
    }
}

/* ---- large pages ---- */

static bool in_large(const struct large_range *r, uint64_t va)
{
    return ((va ^ r->base) & r->mask) == 0;
}

/* How many address bits one range needs to hold both. */
static unsigned joined_bits(const struct large_range *a, const struct large_range *b)
{
    uint64_t differ = (a->base ^ b->base) | ~a->mask | ~b->mask;
    return differ == 0 ? 0 : 64 - (unsigned)__builtin_clzll(differ);
}

static void join(struct large_range *into, const struct large_range *other)
{
    unsigned bits = joined_bits(into, other);
    into->mask = bits >= 64 ? 0 : ~UINT64_C(0) << bits;
    into->base &= into->mask;
    into->shift = MAX(into->shift, other->shift);
    into->global |= other->global;
}

/* Joins the two ranges of the full list that lie closest. */
static void join_closest(struct scpu *c)
{
    unsigned best = 65, a = 0, b = 1;
    for (unsigned i = 0; i < LARGE_RANGES; i++) {
        for (unsigned k = i + 1; k < LARGE_RANGES; k++) {
            unsigned bits = joined_bits(&c->large[i], &c->large[k]);
            if (bits < best) {
                best = bits;
                a = i;
                b = k;
            }
        }
    }
    join(&c->large[a], &c->large[b]);
    c->large[b] = c->large[--c->n_large];
}

/*
 * Remembers that an entry came from a large page, since INVLPG of any address in it has to drop
 * all of its entries. The ranges are of 1 GiB and more, so that a few are enough.
 */
#define LARGE_RANGE_BITS 30
static void note_large(struct scpu *c, const struct walk *w)
{
    if (w->shift <= 12) {
        return;
    }
    for (unsigned i = 0; i < c->n_large; i++) {
        if (in_large(&c->large[i], w->va)) {
            c->large[i].shift = MAX(c->large[i].shift, (uint8_t)w->shift);
            c->large[i].global |= w->global;
            return;
        }
    }
    if (c->n_large == LARGE_RANGES) {
        join_closest(c);
    }
    uint64_t mask = ~UINT64_C(0) << LARGE_RANGE_BITS;
    c->large[c->n_large++] = (struct large_range){
        .base = w->va & mask, .mask = mask, .shift = (uint8_t)w->shift, .global = w->global};
}

/* ---- flushes ---- */

static void drop_all(struct scpu *c)
{
    c->tlb_gen++;
    struct tlb_entry *all = &c->tlb[0][0][0];
    for (unsigned i = 0; i < MMU_NIDX * TLB_NKIND * TLB_SIZE; i++) {
        tlb_drop(&all[i], i & (TLB_SIZE - 1));
    }
    c->tlb_log[0].n = c->tlb_log[1].n = 0;
}

static void drop_logged(struct scpu *c, struct tlb_log *log)
{
    struct tlb_entry *all = &c->tlb[0][0][0];
    c->tlb_gen++;
    if (log->n == TLB_LOG_MAX) {
        drop_all(c);
        return;
    }
    for (unsigned i = 0; i < log->n; i++) {
        tlb_drop(&all[log->slot[i]], log->slot[i] & (TLB_SIZE - 1));
    }
    log->n = 0;
}

/* Drops the entries that agree with va in all bits above shift. */
static void drop_region(struct scpu *c, uint64_t va, unsigned shift)
{
    struct tlb_entry *all = &c->tlb[0][0][0];
    c->tlb_gen++;
    for (unsigned l = 0; l < ARRAY_LEN(c->tlb_log); l++) {
        const struct tlb_log *log = &c->tlb_log[l];
        if (log->n == TLB_LOG_MAX) {
            drop_all(c);
            return;
        }
        for (unsigned i = 0; i < log->n; i++) {
            unsigned index = log->slot[i] & (TLB_SIZE - 1);
            struct tlb_entry *e = &all[log->slot[i]];
            if (((e->tag ^ va) >> shift) == 0 && e->tag != TLB_INVALID(index)) {
                tlb_drop(e, index);
            }
        }
    }
}

/* Code of one half of the address space: what found it by linear address starts afresh. */
static void drop_code(struct scpu *c, unsigned half)
{
    soft_code_epoch(c, half);
    __builtin_memset(c->code_pages[half], 0, sizeof(c->code_pages[half]));
}

void soft_tlb_flush_nonglobal(struct scpu *c)
{
    c->stats.tlb_flushes++;
    c->pde_epoch++;
    drop_logged(c, &c->tlb_log[0]);
    for (unsigned i = 0; i < c->n_large;) {
        if (c->large[i].global) {
            i++;
        } else {
            c->large[i] = c->large[--c->n_large];
        }
    }
    drop_code(c, 0);
    if (c->upper_nonglobal) {
        drop_code(c, 1);
        c->upper_nonglobal = false;
    }
}

void soft_tlb_flush_all(struct scpu *c)
{
    c->stats.tlb_flushes++;
    c->pde_epoch++;
    drop_logged(c, &c->tlb_log[0]);
    drop_logged(c, &c->tlb_log[1]);
    c->n_large = 0;
    drop_code(c, 0);
    drop_code(c, 1);
    c->upper_nonglobal = false;
}

void soft_tlb_flush_page(struct scpu *c, uint64_t va)
{
    unsigned half = (unsigned)(va >> 63);
    c->stats.tlb_flushes++;
    c->pde_epoch++;
    c->tlb_gen++;
    for (unsigned i = 0; i < c->n_large; i++) {
        if (in_large(&c->large[i], va)) {
            drop_region(c, va, c->large[i].shift);
            drop_code(c, half);
            return;
        }
    }
    unsigned index = (unsigned)(va >> MEM_PAGE_SHIFT) & (TLB_SIZE - 1);
    for (unsigned m = 0; m < MMU_NIDX; m++) {
        for (unsigned k = 0; k < TLB_NKIND; k++) {
            struct tlb_entry *e = &c->tlb[m][k][index];
            if (e->tag == (va & ~(MEM_PAGE_SIZE - 1))) {
                tlb_drop(e, index);
            }
        }
    }
    if (soft_code_page_bit(c, va, false)) {
        drop_code(c, half);
    }
}

/* Write entries that are logged; all, when a log has overflowed. */
void soft_tlb_drop_writes(struct scpu *c)
{
    struct tlb_entry *all = &c->tlb[0][0][0];
    c->tlb_gen++;
    for (unsigned l = 0; l < ARRAY_LEN(c->tlb_log); l++) {
        const struct tlb_log *log = &c->tlb_log[l];
        if (log->n == TLB_LOG_MAX) {
            for (unsigned m = 0; m < MMU_NIDX; m++) {
                for (unsigned i = 0; i < TLB_SIZE; i++) {
                    tlb_drop(&c->tlb[m][TLB_W][i], i);
                }
            }
            return;
        }
        for (unsigned i = 0; i < log->n; i++) {
            if (log->slot[i] / TLB_SIZE % TLB_NKIND == TLB_W) {
                tlb_drop(&all[log->slot[i]], log->slot[i] & (TLB_SIZE - 1));
            }
        }
    }
}

/* Every translator looks at the page before it goes on after its next poll. */
static void note_stale(struct soft_vm *vm, struct soft_page *page)
{
    pthread_mutex_lock(&vm->stale_lock);
    uint32_t n = atomic_load_explicit(&vm->stale_n, memory_order_relaxed);
    atomic_store(&vm->stale[n % SOFT_STALE_MAX], page);
    atomic_store(&vm->stale_n, n + 1);
    pthread_mutex_unlock(&vm->stale_lock);
    for (unsigned i = 0; i < vm->n_cpus; i++) {
        if (vm->cpus[i] != NULL && vm->cpus[i]->jit != NULL) {
            atomic_fetch_or(&vm->cpus[i]->exit_req, SOFT_REQ_STALE);
        }
    }
}

bool soft_code_written(struct soft_vm *vm, struct soft_page *page, uint64_t off, uint64_t len)
{
    unsigned first = (unsigned)(off >> 6), last = (unsigned)((off + len - 1) >> 6);
    uint64_t mask = (~UINT64_C(0) << first) & (~UINT64_C(0) >> (63 - last));
    if (!(atomic_load_explicit(&page->lines, memory_order_seq_cst) & mask)) {
        return false;
    }
    /*
     * Odd from before the lines are cleared until after: blocks die before another writer can
     * find no lines and think that there are none, and a decoder waits for the end so that its
     * own lines are not cleared.
     */
    uint32_t gen = atomic_load_explicit(&page->gen, memory_order_relaxed) & ~1u;
    while (!atomic_compare_exchange_weak(&page->gen, &gen, gen + 1)) {
        gen &= ~1u;
        __builtin_ia32_pause();
    }
    atomic_store_explicit(&page->lines, 0, memory_order_seq_cst);
    atomic_store_explicit(&page->quiet, 0, memory_order_relaxed);
    atomic_store_explicit(&page->gen, gen + 2, memory_order_seq_cst);
    note_stale(vm, page);
    return true;
}

#define QUIET_STORES 16

/*
 * The mark goes while the generation is odd, and that changes, as if code had been overwritten:
 * a decoder that found the mark before has the old generation, and what it makes is dead; one
 * that reads the new generation finds no mark and sets it anew (block_claim_page).
 */
void soft_code_quiet(struct soft_vm *vm, struct soft_page *page)
{
    if (atomic_load_explicit(&page->lines, memory_order_relaxed) != 0 ||
        atomic_fetch_add_explicit(&page->quiet, 1, memory_order_relaxed) < QUIET_STORES) {
        return;
    }
    uint32_t gen = atomic_load_explicit(&page->gen, memory_order_relaxed) & ~1u;
    if (!atomic_compare_exchange_strong(&page->gen, &gen, gen + 1)) {
        return; /* another writer is at it */
    }
    uint32_t marked = CODE_MARKED;
    if (atomic_load_explicit(&page->lines, memory_order_seq_cst) == 0) {
        atomic_compare_exchange_strong(&page->has_code, &marked, CODE_NONE);
    }
    atomic_store_explicit(&page->quiet, 0, memory_order_relaxed);
    atomic_store_explicit(&page->gen, gen + 2, memory_order_seq_cst);
    note_stale(vm, page);
}

/* ---- translation ---- */

int mmu_translate(struct scpu *c, uint64_t va, unsigned acc, struct xlat *ret)
{
    struct walk w = {.va = va, .acc = acc, .idx = mmu_index_of(c, acc)};
    if (walk(c, &w) != 0) {
        return (acc & ACC_QUIET) ? INSN_EXC : soft_raise_pf(c, va, w.error);
    }
    struct soft_slot *s = slot_of(c, w.gpa);
    ret->gpa = w.gpa;
    ret->slot = s;
    ret->host = NULL;
    if (s == NULL) {
        return 0;
    }
    uint64_t off = w.gpa - s->slot.base.v;
    ret->host = s->slot.host + off;
    ret->page = &s->pages[off >> MEM_PAGE_SHIFT];
    if (acc & ACC_EXEC) {
        if ((va >> 63) && !w.global) {
            c->upper_nonglobal = true;
        }
        note_large(c, &w);
        soft_code_page_bit(c, va, true);
        return 0;
    }
    note_large(c, &w);
    bool watched = (c->dr[7] & 0xff) != 0; /* armed watchpoints look at every access */
    if (!watched) {
        tlb_fill(c, &w, TLB_R, ret->host);
    }
    if ((acc & ACC_WRITE) && s->slot.kind != MEM_ROM) {
        mem_slot_mark_dirty(s->mem_slot, off);
        if (w.writable && !watched) {
            mmu_fill_write(c, &w, ret);
        }
    }
    return 0;
}

bool mmu_fill_if_dirty(struct scpu *c, uint64_t va)
{
    struct walk w = {.va = va, .acc = c->cpl == 3 ? ACC_USER : 0};
    struct xlat x;
    w.idx = mmu_index_of(c, w.acc);
    if ((c->dr[7] & 0xff) || walk(c, &w) != 0 || !w.writable) {
        return false;
    }
    x.slot = slot_of(c, w.gpa);
    if (x.slot == NULL || x.slot->slot.kind == MEM_ROM) {
        return false;
    }
    uint64_t off = w.gpa - x.slot->slot.base.v;
    x.host = x.slot->slot.host + off;
    x.page = &x.slot->pages[off >> MEM_PAGE_SHIFT];
    note_large(c, &w);
    mem_slot_mark_dirty(x.slot->mem_slot, off);
    mmu_fill_write(c, &w, &x);
    return true;
}

const struct itlb_entry *soft_fetch_page(struct scpu *c, uint64_t va)
{
    struct itlb_entry *e = soft_itlb_slot(c, va);
    uint64_t page = va & ~(MEM_PAGE_SIZE - 1);
    bool user = c->cpl == 3;
    if (soft_itlb_hit(c, e, va)) {
        return e;
    }
    struct xlat x;
    if (mmu_translate(c, va, ACC_EXEC | (user ? ACC_USER : 0), &x)) {
        return NULL;
    }
    if (x.host == NULL) {
        soft_raise_err(c, EXC_GP, 0);
        return NULL;
    }
    e->tag = page;
    e->gpa = x.gpa & ~(MEM_PAGE_SIZE - 1);
    e->host = x.host - (va & (MEM_PAGE_SIZE - 1));
    e->page = x.page;
    e->epoch = c->jc_epoch[va >> 63];
    e->user = user;
    return e;
}
