/*
 * Guest-physical memory. Only this folder touches guest RAM through raw host addresses, except
 * the CPU engines, which map slots (mem_slot) by the same rules.
 *
 * RAM is memfd-backed. A slot is a range of guest-physical addresses with host memory behind
 * it; slots never overlap and are fixed while vCPUs run, except through mem_slot_add/remove,
 * which the caller brackets by pausing the vCPUs.
 *
 * Thread-safety: accessors from any thread. Guest RAM is shared with running vCPUs, so a value
 * read twice may differ: copy once, validate, use.
 *
 * Dirty tracking: every write through this interface, and every write an engine makes, sets the
 * page's bit while the log is on.
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

typedef struct {
    uint64_t v;
} gpa_t; /* guest-physical address */
typedef struct {
    uint64_t v;
} gva_t; /* guest-virtual (linear) address */

#define GPA(x) ((gpa_t){(x)})
#define GVA(x) ((gva_t){(x)})

#define MEM_PAGE_SHIFT 12
#define MEM_PAGE_SIZE  (UINT64_C(1) << MEM_PAGE_SHIFT)

enum mem_slot_kind { MEM_RAM, MEM_ROM };

struct mem_slot {
    gpa_t base;
    uint64_t size_bytes; /* multiple of 4 KiB */
    uint8_t *host;       /* mapped read-write for us, also for ROM */
    enum mem_slot_kind kind;
    int fd; /* memfd and offset behind host; owned by mem */
    uint64_t fd_offset;
    uint64_t *dirty; /* one bit per page, NULL while the log is off */
    unsigned id;
};

struct mem;

/*
 * Called after bytes of guest RAM were written by anyone but the vCPU that runs the engine's
 * own store path (devices, loaders): the engine drops translations of code in that range.
 */
typedef void mem_written_fn(void *opaque, const struct mem_slot *slot, uint64_t offset,
                            uint64_t len);

int mem_new(struct mem **ret_mem, struct err *err);
void mem_free(struct mem *mem);

/* Adds zeroed RAM (or ROM) of size bytes at base. -EEXIST on overlap, -EINVAL on bad alignment.
 */
int mem_slot_add(struct mem *mem, gpa_t base, uint64_t size_bytes, enum mem_slot_kind kind,
                 struct err *err);
unsigned mem_slot_count(const struct mem *mem);
const struct mem_slot *mem_slot_get(const struct mem *mem, unsigned index);
const struct mem_slot *mem_slot_find(const struct mem *mem, gpa_t gpa); /* NULL: no memory */
uint64_t mem_ram_bytes(const struct mem *mem);
void mem_set_written_hook(struct mem *mem, mem_written_fn *fn, void *opaque);

/* Copies; 0, or -EFAULT when any byte of [gpa, gpa+len) has no RAM behind it (nothing copied).
 * A range may span adjacent slots. Writing to ROM is -EFAULT; mem_load ignores that (loaders).
 */
int mem_read(const struct mem *mem, gpa_t gpa, void *buf, size_t len);
int mem_write(struct mem *mem, gpa_t gpa, const void *buf, size_t len);
int mem_load(struct mem *mem, gpa_t gpa, const void *buf, size_t len);
int mem_fill(struct mem *mem, gpa_t gpa, uint8_t byte, size_t len);

/* Naturally aligned loads and stores that are single-copy atomic (ring indices, flags). */
int mem_load_u16(const struct mem *mem, gpa_t gpa, uint16_t *ret_value); /* acquire */
int mem_store_u16(struct mem *mem, gpa_t gpa, uint16_t value);           /* release */

/*
 * A bounded span for zero-copy I/O: host address of [gpa, gpa+len) when it lies in one slot,
 * else NULL. After bytes were stored through it call mem_written. Read-only spans may lie in
 * ROM.
 */
void *mem_span(const struct mem *mem, gpa_t gpa, size_t len, bool writable);
void mem_written(struct mem *mem, gpa_t gpa, size_t len);

/* Dirty log: on/off for all slots; fetch copies slot bits into bitmap and clears them. */
int mem_dirty_log(struct mem *mem, bool on, struct err *err);
int mem_dirty_fetch(struct mem *mem, unsigned slot, uint64_t *bitmap, size_t bitmap_words);
static inline void mem_slot_mark_dirty(const struct mem_slot *slot, uint64_t offset)
{
    uint64_t *bits = __atomic_load_n(&slot->dirty, __ATOMIC_RELAXED);
    if (bits != NULL) {
        uint64_t page = offset >> MEM_PAGE_SHIFT;
        __atomic_fetch_or(&bits[page >> 6], UINT64_C(1) << (page & 63), __ATOMIC_RELAXED);
    }
}
