/*
 * Guest-physical memory: memfd-backed slots, checked copies, dirty log.
 *
 * Slots are kept sorted by address in an array of pointers, so that a pointer to a slot stays
 * valid while others are added. The array changes only while no vCPU and no device runs (see
 * mem.h), so accessors take no lock. Host memory is reserved, never touched, when a slot is
 * made: a guest may have more RAM than the host has free, and pays for pages as it uses them.
 */
#include "mem/mem.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#define MEM_MAX_SLOTS 32
#define MEM_MAX_BYTES (UINT64_C(1) << 46) /* more than a process can map beside its own */

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

struct mem {
    struct mem_slot *slots[MEM_MAX_SLOTS]; /* by base */
    unsigned n_slots, next_id;
    bool dirty_on;
    mem_written_fn *written_fn;
    void *written_opaque;
};

int mem_new(struct mem **ret_mem, struct err *err)
{
    struct mem *mem = calloc(1, sizeof(*mem));
    if (mem == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the guest's memory map");
    }
    *ret_mem = mem;
    return 0;
}

static void slot_free(struct mem_slot *slot)
{
    if (slot->host != NULL) {
        munmap(slot->host, slot->size_bytes);
    }
    if (slot->fd >= 0) {
        close(slot->fd);
    }
    free(slot->dirty);
    free(slot);
}

void mem_free(struct mem *mem)
{
    if (mem == NULL) {
        return;
    }
    for (unsigned i = 0; i < mem->n_slots; i++) {
        slot_free(mem->slots[i]);
    }
    free(mem);
}

static size_t dirty_words(const struct mem_slot *slot)
{
    return (size_t)(((slot->size_bytes >> MEM_PAGE_SHIFT) + 63) / 64);
}

static int slot_make_fd(void)
{
    int fd = memfd_create("vivarium-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) { /* before Linux 6.3 */
        fd = memfd_create("vivarium-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    }
    return fd;
}

/* Sealed against resizing, so that no helper that gets the descriptor can make us fault. */
static int slot_map(struct mem_slot *slot, struct err *err)
{
    unsigned long mib = (unsigned long)(slot->size_bytes / MIB);

    slot->fd = slot_make_fd();
    if (slot->fd < 0) {
        int e = errno;
        return ERR(err, LIMIT, e, "cannot make a memory file for guest RAM: %s", strerror(e));
    }
    if (ftruncate(slot->fd, (off_t)slot->size_bytes) < 0 ||
        fcntl(slot->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0) {
        int e = errno;
        return ERR(err, NO_MEMORY, e, "cannot set aside %lu MiB of guest RAM: %s", mib,
                   strerror(e));
    }
    void *p = mmap(NULL, slot->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                   slot->fd, 0);
    if (p == MAP_FAILED) {
        int e = errno;
        return ERR(err, NO_MEMORY, e,
                   "cannot map %lu MiB of guest RAM: %s; give the VM less memory, or raise the "
                   "address space limit (ulimit -v)",
                   mib, strerror(e));
    }
    slot->host = p;
    madvise(p, slot->size_bytes, MADV_DONTDUMP);
    return 0;
}

int mem_slot_add(struct mem *mem, gpa_t base, uint64_t size_bytes, enum mem_slot_kind kind,
                 struct err *err)
{
    uint64_t end;

    if (size_bytes == 0 || ((base.v | size_bytes) & (MEM_PAGE_SIZE - 1)) != 0 ||
        size_bytes > MEM_MAX_BYTES || !ckd_add(base.v, size_bytes, &end)) {
        return ERR(err, INTERNAL, EINVAL,
                   "memory at 0x%" PRIx64 " of 0x%" PRIx64 " bytes is not made of whole pages "
                   "below 64 TiB",
                   base.v, size_bytes);
    }
    unsigned at = 0;
    while (at < mem->n_slots && mem->slots[at]->base.v < base.v) {
        at++;
    }
    if ((at > 0 && mem->slots[at - 1]->base.v + mem->slots[at - 1]->size_bytes > base.v) ||
        (at < mem->n_slots && mem->slots[at]->base.v < end)) {
        return ERR(err, INTERNAL, EEXIST,
                   "memory at 0x%" PRIx64 " of 0x%" PRIx64 " bytes overlaps other memory",
                   base.v, size_bytes);
    }
    if (mem->n_slots == MEM_MAX_SLOTS) {
        return ERR(err, LIMIT, ENOSPC, "more than %d memory slots", MEM_MAX_SLOTS);
    }
    struct mem_slot *slot = calloc(1, sizeof(*slot));
    if (slot == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for a memory slot");
    }
    *slot = (struct mem_slot){
        .base = base, .size_bytes = size_bytes, .kind = kind, .fd = -1, .id = mem->next_id};
    int r = slot_map(slot, err);
    if (r == 0 && mem->dirty_on) {
        slot->dirty = calloc(dirty_words(slot), sizeof(uint64_t));
        if (slot->dirty == NULL) {
            r = ERR(err, NO_MEMORY, ENOMEM, "no memory for a dirty log");
        }
    }
    if (r < 0) {
        slot_free(slot);
        return r;
    }
    for (unsigned i = mem->n_slots; i > at; i--) {
        mem->slots[i] = mem->slots[i - 1];
    }
    mem->slots[at] = slot;
    mem->n_slots++;
    mem->next_id++;
    return 0;
}

unsigned mem_slot_count(const struct mem *mem)
{
    return mem->n_slots;
}

const struct mem_slot *mem_slot_get(const struct mem *mem, unsigned index)
{
    return index < mem->n_slots ? mem->slots[index] : NULL;
}

const struct mem_slot *mem_slot_find(const struct mem *mem, gpa_t gpa)
{
    for (unsigned i = 0; i < mem->n_slots; i++) {
        const struct mem_slot *slot = mem->slots[i];
        if (gpa.v - slot->base.v < slot->size_bytes) {
            return slot;
        }
    }
    return NULL;
}

uint64_t mem_ram_bytes(const struct mem *mem)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < mem->n_slots; i++) {
        if (mem->slots[i]->kind == MEM_RAM) {
            sum += mem->slots[i]->size_bytes;
        }
    }
    return sum;
}

void mem_set_written_hook(struct mem *mem, mem_written_fn *fn, void *opaque)
{
    mem->written_opaque = opaque;
    mem->written_fn = fn;
}

/* What walk does with each piece of a range that lies in one slot. */
enum walk_op { WALK_CHECK, WALK_READ, WALK_WRITE, WALK_FILL, WALK_NOTE };

static void slot_note_written(const struct mem *mem, const struct mem_slot *slot, uint64_t off,
                              uint64_t len)
{
    for (uint64_t p = align_down(off, MEM_PAGE_SIZE); p < off + len; p += MEM_PAGE_SIZE) {
        mem_slot_mark_dirty(slot, p);
    }
    if (mem->written_fn != NULL) {
        mem->written_fn(mem->written_opaque, slot, off, len);
    }
}

static int walk(const struct mem *mem, enum walk_op op, uint64_t gpa, uint8_t *buf,
                uint8_t byte, size_t len, bool rom_ok)
{
    while (len > 0) {
        const struct mem_slot *slot = mem_slot_find(mem, GPA(gpa));
        if (slot == NULL || (slot->kind == MEM_ROM && !rom_ok)) {
            return -EFAULT;
        }
        uint64_t off = gpa - slot->base.v;
        size_t n = (size_t)MIN((uint64_t)len, slot->size_bytes - off);
        switch (op) {
        case WALK_CHECK: break;
        case WALK_READ: memcpy(buf, slot->host + off, n); break;
        case WALK_WRITE: memcpy(slot->host + off, buf, n); break;
        case WALK_FILL: memset(slot->host + off, byte, n); break;
        case WALK_NOTE: break;
        }
        if (op == WALK_WRITE || op == WALK_FILL || op == WALK_NOTE) {
            slot_note_written(mem, slot, off, n);
        }
        if (buf != NULL) {
            buf += n;
        }
        gpa += n;
        len -= n;
    }
    return 0;
}

/* Checks the whole range before the first byte moves. A range that wraps has no memory at 0
 * - 1. */
static int copy(const struct mem *mem, enum walk_op op, gpa_t gpa, void *buf, uint8_t byte,
                size_t len, bool rom_ok)
{
    uint64_t end;

    if (!ckd_add(gpa.v, len, &end)) {
        return -EFAULT;
    }
    int r = walk(mem, WALK_CHECK, gpa.v, NULL, 0, len, rom_ok);
    return r < 0 ? r : walk(mem, op, gpa.v, buf, byte, len, rom_ok);
}

int mem_read(const struct mem *mem, gpa_t gpa, void *buf, size_t len)
{
    return copy(mem, WALK_READ, gpa, buf, 0, len, true);
}

/* The walker is shared by both directions, so it has no const; WALK_WRITE only reads buf. */
static void *unconst(const void *p)
{
    return (void *)(uintptr_t)p;
}

int mem_write(struct mem *mem, gpa_t gpa, const void *buf, size_t len)
{
    return copy(mem, WALK_WRITE, gpa, unconst(buf), 0, len, false);
}

int mem_load(struct mem *mem, gpa_t gpa, const void *buf, size_t len)
{
    return copy(mem, WALK_WRITE, gpa, unconst(buf), 0, len, true);
}

int mem_fill(struct mem *mem, gpa_t gpa, uint8_t byte, size_t len)
{
    return copy(mem, WALK_FILL, gpa, NULL, byte, len, false);
}

int mem_load_u16(const struct mem *mem, gpa_t gpa, uint16_t *ret_value)
{
    const uint16_t *p = (gpa.v & 1) == 0 ? mem_span(mem, gpa, sizeof(*p), false) : NULL;

    if (p == NULL) {
        return -EFAULT;
    }
    *ret_value = __atomic_load_n(p, __ATOMIC_ACQUIRE);
    return 0;
}

int mem_store_u16(struct mem *mem, gpa_t gpa, uint16_t value)
{
    uint16_t *p = (gpa.v & 1) == 0 ? mem_span(mem, gpa, sizeof(*p), true) : NULL;

    if (p == NULL) {
        return -EFAULT;
    }
    __atomic_store_n(p, value, __ATOMIC_RELEASE);
    mem_written(mem, gpa, sizeof(value));
    return 0;
}

void *mem_span(const struct mem *mem, gpa_t gpa, size_t len, bool writable)
{
    const struct mem_slot *slot = mem_slot_find(mem, gpa);

    if (slot == NULL || (writable && slot->kind == MEM_ROM) ||
        !range_fits(gpa.v - slot->base.v, len, slot->size_bytes)) {
        return NULL;
    }
    return slot->host + (gpa.v - slot->base.v);
}

void mem_written(struct mem *mem, gpa_t gpa, size_t len)
{
    copy(mem, WALK_NOTE, gpa, NULL, 0, len, true);
}

int mem_dirty_log(struct mem *mem, bool on, struct err *err)
{
    for (unsigned i = 0; i < mem->n_slots; i++) {
        struct mem_slot *slot = mem->slots[i];
        uint64_t *bits = NULL;
        if (on) {
            bits = calloc(dirty_words(slot), sizeof(uint64_t));
            if (bits == NULL) {
                mem_dirty_log(mem, false, NULL);
                return ERR(err, NO_MEMORY, ENOMEM, "no memory for a dirty log");
            }
        }
        uint64_t *old = __atomic_exchange_n(&slot->dirty, bits, __ATOMIC_ACQ_REL);
        free(old);
    }
    mem->dirty_on = on;
    return 0;
}

int mem_dirty_fetch(struct mem *mem, unsigned slot_index, uint64_t *bitmap, size_t bitmap_words)
{
    if (slot_index >= mem->n_slots) {
        return -ENOENT;
    }
    struct mem_slot *slot = mem->slots[slot_index];
    if (slot->dirty == NULL || bitmap_words < dirty_words(slot)) {
        return -EINVAL;
    }
    for (size_t i = 0; i < dirty_words(slot); i++) {
        bitmap[i] = __atomic_exchange_n(&slot->dirty[i], 0, __ATOMIC_ACQ_REL);
    }
    return 0;
}
