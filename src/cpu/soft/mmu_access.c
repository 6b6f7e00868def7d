/*
 * Loads and stores by linear address: the slow side of what uop.h does inline. Handles page
 * crossing, memory-mapped I/O, stores to pages with decoded code, and watchpoints.
 */
#include "cpu/soft/mmu.h"
#include "cpu/soft/uop.h"

/* Notes hits of armed data breakpoints (DR0-3); the #DB comes after the instruction. */
static void check_watch(struct scpu *c, uint64_t va, unsigned len, bool write)
{
    for (unsigned i = 0; i < 4; i++) {
        if (!((c->dr[7] >> (i * 2)) & 3)) {
            continue;
        }
        unsigned rw = (c->dr[7] >> (16 + i * 4)) & 3;
        static const uint8_t sizes[4] = {1, 2, 8, 4};
        uint64_t size = sizes[(c->dr[7] >> (18 + i * 4)) & 3];
        uint64_t start = c->dr[i] & ~(size - 1);
        bool hit = va < start + size && start < va + len;
        if (hit && ((rw == 1 && write) || rw == 3)) {
            c->pending_db |= UINT64_C(1) << i;
        }
    }
}

static inline void watch(struct scpu *c, uint64_t va, unsigned len, bool write)
{
    if (unlikely((c->dr[7] & 0xff) != 0)) {
        check_watch(c, va, len, write);
    }
}

static void mmio_read(struct scpu *c, uint64_t gpa, uint8_t *buf, unsigned len)
{
    soft_leave(c);
    c->stats.exits_mmio++;
    while (len > 0) {
        unsigned n = len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;
        uint64_t v = c->vm->host.mmio_read(c->vm->host.opaque, c->index, gpa, n);
        for (unsigned i = 0; i < n; i++) {
            buf[i] = (uint8_t)(v >> (8 * i));
        }
        gpa += n;
        buf += n;
        len -= n;
    }
}

static void mmio_write(struct scpu *c, uint64_t gpa, const uint8_t *buf, unsigned len)
{
    soft_leave(c);
    c->stats.exits_mmio++;
    while (len > 0) {
        unsigned n = len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;
        uint64_t v = 0;
        for (unsigned i = 0; i < n; i++) {
            v |= (uint64_t)buf[i] << (8 * i);
        }
        c->vm->host.mmio_write(c->vm->host.opaque, c->index, gpa, n, v);
        gpa += n;
        buf += n;
        len -= n;
    }
}

/* Single-copy atomic for aligned sizes, so that other vCPUs never see half a value. */
static void copy_in(uint8_t *to, const uint8_t *from, unsigned len)
{
    switch (len) {
    case 1: *to = *from; break;
    case 2: *(uint16_t *)(void *)to = *(const volatile uint16_t *)(const void *)from; break;
    case 4: *(uint32_t *)(void *)to = *(const volatile uint32_t *)(const void *)from; break;
    case 8: *(uint64_t *)(void *)to = *(const volatile uint64_t *)(const void *)from; break;
    default:
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"((uint64_t){len})::"memory");
    }
}

static void piece_read(struct scpu *c, const struct xlat *x, uint8_t *buf, unsigned len)
{
    if (x->host != NULL) {
        copy_in(buf, x->host, len);
    } else {
        mmio_read(c, x->gpa, buf, len);
    }
}

/* After a store that did not go through a write entry. */
static void note_written(struct scpu *c, const struct xlat *x, unsigned len)
{
    /* The store must be visible before we look: a decoder marks its lines before it reads. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!atomic_load_explicit(&x->page->has_code, memory_order_seq_cst)) {
        return;
    }
    if (soft_code_written(c->vm, x->page, x->gpa & (MEM_PAGE_SIZE - 1), len)) {
        c->code_hit = true;
        c->stats.code_invalidations++;
    } else {
        soft_code_quiet(c->vm, x->page);
    }
}

static void piece_write(struct scpu *c, const struct xlat *x, const uint8_t *buf, unsigned len)
{
    if (x->host == NULL) {
        mmio_write(c, x->gpa, buf, len);
    } else if (x->slot->slot.kind != MEM_ROM) {
        copy_in(x->host, buf, len);
        note_written(c, x, len);
    }
}

/* Bytes of [va, va+len) in va's page. */
static unsigned first_part(uint64_t va, unsigned len)
{
    unsigned room = (unsigned)(MEM_PAGE_SIZE - (va & (MEM_PAGE_SIZE - 1)));
    return MIN(room, len);
}

/* Translates the one or two pages of an access; len is at most a page. */
static int translate_range(struct scpu *c, uint64_t va, unsigned len, unsigned acc,
                           struct xlat x[2])
{
    unsigned n = first_part(va, len);
    if (mmu_translate(c, va, acc, &x[0])) {
        return INSN_EXC;
    }
    if (n < len) {
        uint64_t next = va + n;
        if (!soft_code64(c) && !soft_long_mode(c)) {
            next = (uint32_t)next;
        }
        return mmu_translate(c, next, acc, &x[1]);
    }
    return 0;
}

int soft_lin_read(struct scpu *c, uint64_t va, void *buf, unsigned len, unsigned acc)
{
    struct xlat x[2];
    unsigned n = first_part(va, len);
    if (translate_range(c, va, len, acc & ~(ACC_WRITE | ACC_EXEC), x)) {
        return INSN_EXC;
    }
    watch(c, va, len, false);
    piece_read(c, &x[0], buf, n);
    if (n < len) {
        piece_read(c, &x[1], (uint8_t *)buf + n, len - n);
    }
    return 0;
}

int soft_lin_write(struct scpu *c, uint64_t va, const void *buf, unsigned len, unsigned acc)
{
    struct xlat x[2];
    unsigned n = first_part(va, len);
    if (translate_range(c, va, len, acc | ACC_WRITE, x)) {
        return INSN_EXC;
    }
    watch(c, va, len, true);
    piece_write(c, &x[0], buf, n);
    if (n < len) {
        piece_write(c, &x[1], (const uint8_t *)buf + n, len - n);
    }
    return 0;
}

int soft_lin_probe(struct scpu *c, uint64_t va, unsigned len, unsigned acc)
{
    struct xlat x[2];
    return translate_range(c, va, len, acc & ~ACC_PROBE, x);
}

static int raise_ac_if_misaligned(struct scpu *c, uint64_t va, unsigned len, unsigned acc)
{
    if ((c->mode & MODE_AC) && (acc & ACC_USER) && is_pow2(len) && len <= 8 &&
        (va & (len - 1))) {
        return soft_raise_err(c, EXC_AC, 0);
    }
    return 0;
}

static struct tlb_entry *tlb_of(struct scpu *c, uint64_t va, unsigned acc, enum tlb_kind kind)
{
    return &c->tlb[mmu_index_of(c, acc)][kind][(va >> MEM_PAGE_SHIFT) & (TLB_SIZE - 1)];
}

int soft_ld(struct scpu *c, uint64_t va, unsigned len, unsigned acc, uint64_t *ret_value)
{
    const struct tlb_entry *e = tlb_of(c, va, acc, TLB_R);
    uint64_t v = 0;
    if (raise_ac_if_misaligned(c, va, len, acc)) {
        return INSN_EXC;
    }
    if (likely((va ^ e->tag) <= MEM_PAGE_SIZE - len)) {
        copy_in((uint8_t *)&v, tlb_host(e, va), len);
    } else if (soft_lin_read(c, va, &v, len, acc)) {
        return INSN_EXC;
    }
    *ret_value = v;
    return 0;
}

int soft_st(struct scpu *c, uint64_t va, unsigned len, unsigned acc, uint64_t value)
{
    const struct tlb_entry *e = tlb_of(c, va, acc, TLB_W);
    if (raise_ac_if_misaligned(c, va, len, acc)) {
        return INSN_EXC;
    }
    if (likely((va ^ e->tag) <= MEM_PAGE_SIZE - len)) {
        copy_in(tlb_host(e, va), (const uint8_t *)&value, len);
        return 0;
    }
    return soft_lin_write(c, va, &value, len, acc);
}

/* ---- spans ---- */

void *soft_ram_ptr(struct scpu *c, uint64_t va, unsigned len, bool for_write)
{
    struct tlb_entry *e =
        &(for_write ? c->tlb_w : c->tlb_r)[(va >> MEM_PAGE_SHIFT) & (TLB_SIZE - 1)];
    struct xlat x;
    if ((va & (MEM_PAGE_SIZE - 1)) + len > MEM_PAGE_SIZE) {
        return NULL;
    }
    if (likely((va ^ e->tag) <= MEM_PAGE_SIZE - len)) {
        return tlb_host(e, va);
    }
    if (!soft_canonical(c, va) || (c->dr[7] & 0xff)) {
        return NULL;
    }
    unsigned acc =
        (for_write ? ACC_WRITE : ACC_READ) | (c->cpl == 3 ? ACC_USER : 0) | ACC_QUIET;
    if (mmu_translate(c, va, acc, &x) || x.host == NULL ||
        (for_write && (x.slot->slot.kind == MEM_ROM || (va ^ e->tag) > MEM_PAGE_SIZE - len))) {
        return NULL; /* written without an entry, the page must be looked at afterwards */
    }
    return x.host;
}

void *soft_access(struct scpu *c, uint64_t va, unsigned len, bool for_read, bool for_write)
{
    unsigned acc = (for_write ? ACC_WRITE : ACC_READ) | (c->cpl == 3 ? ACC_USER : 0);
    struct xlat *x = c->access_x;
    c->access_open = false;
    void *p = soft_ram_ptr(c, va, len, for_write);
    if (likely(p != NULL) && !(c->mode & MODE_AC)) {
        return p;
    }
    if (raise_ac_if_misaligned(c, va, len, acc) || translate_range(c, va, len, acc, x)) {
        return NULL;
    }
    watch(c, va, len, for_write);
    unsigned n = first_part(va, len);
    if (for_write) {
        c->access_open = true;
        c->access_n = n;
        c->access_len = len;
    }
    if (n == len && x[0].host != NULL && !(for_write && x[0].slot->slot.kind == MEM_ROM)) {
        c->access_ptr = x[0].host; /* RAM: the code in it is looked at afterwards */
        return x[0].host;
    }
    uint8_t *b = c->bounce + (va & 63);
    c->access_ptr = b;
    if (for_read && for_write && n < len) {
        soft_world_stop(c); /* may be LOCK; without it, little is lost */
    }
    if (for_read) {
        piece_read(c, &x[0], b, n);
        if (n < len) {
            piece_read(c, &x[1], b + n, len - n);
        }
    }
    return b;
}

enum insn_result soft_access_end(struct scpu *c)
{
    unsigned len = c->access_len, n = c->access_n;
    const struct xlat *x = c->access_x;
    const uint8_t *b = c->access_ptr;
    c->access_open = false;
    if (b == x[0].host) {
        note_written(c, &x[0], len);
    } else {
        piece_write(c, &x[0], b, n);
        if (n < len) {
            piece_write(c, &x[1], b + n, len - n);
        }
    }
    if (c->world_held) {
        soft_world_go(c);
    }
    return c->code_hit ? INSN_NEXT_FLUSH : INSN_NEXT;
}
