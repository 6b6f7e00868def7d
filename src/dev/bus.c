/*
 * Address spaces for device registers (interface and rules in bus.h).
 *
 * Thread and lock: look-ups hold the read side of a rwlock only while they search and take a
 * reference; the handler runs without it, so that a handler may add and remove ranges, its own
 * included. bus_remove waits until no other thread is inside the range's handler. A thread that
 * only waits for range->lock does not count as inside: it looks again once it holds the lock,
 * so the remover may hold that same lock. Saved: nothing, the machine rebuilds its ranges.
 * Missing: two handlers that remove each other's range on two threads wait for each other; only
 * PCI configuration space moves ranges, and it never moves itself.
 */
#include "dev/bus.h"

#include "base/ckd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct bus_entry {
    struct bus_range range;
    unsigned refs;   /* atomic: the array's and one per look-up under way */
    unsigned active; /* atomic: threads inside the handler */
    bool dead;       /* atomic: removed, must not be entered any more */
};

struct bus {
    pthread_rwlock_t lock; /* guards entries, n, cap */
    struct bus_entry **entries;
    size_t n, cap;
    size_t last; /* atomic hint: index of the last hit */
    uint64_t size;
    pthread_mutex_t idle_lock; /* with idle: a handler of a dead entry returned */
    pthread_cond_t idle;
};

/* The accesses that this thread is inside of, innermost first. */
struct bus_frame {
    const struct bus_entry *entry;
    struct bus_frame *outer;
};
static _Thread_local struct bus_frame *frames;

int bus_new(struct bus **ret_bus, uint64_t size, struct err *err)
{
    struct bus *bus = calloc(1, sizeof(*bus));

    if (bus == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for a bus");
    }
    bus->size = size;
    pthread_rwlock_init(&bus->lock, NULL);
    pthread_mutex_init(&bus->idle_lock, NULL);
    pthread_cond_init(&bus->idle, NULL);
    *ret_bus = bus;
    return 0;
}

static void entry_unref(struct bus_entry *e)
{
    if (__atomic_sub_fetch(&e->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        free(e);
    }
}

void bus_free(struct bus *bus)
{
    if (bus == NULL) {
        return;
    }
    for (size_t i = 0; i < bus->n; i++) {
        entry_unref(bus->entries[i]);
    }
    free(bus->entries);
    pthread_cond_destroy(&bus->idle);
    pthread_mutex_destroy(&bus->idle_lock);
    pthread_rwlock_destroy(&bus->lock);
    free(bus);
}

/* Index of the first range whose last byte is at or above addr; n if none. */
static size_t bus_lower(const struct bus *bus, uint64_t addr)
{
    size_t lo = 0, hi = bus->n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const struct bus_range *r = &bus->entries[mid]->range;
        if (r->base + (r->size - 1) < addr) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

/* Makes room for one more entry. */
static int bus_grow(struct bus *bus)
{
    size_t cap = bus->cap == 0 ? 32 : bus->cap * 2;
    struct bus_entry **bigger;

    if (bus->n < bus->cap) {
        return 0;
    }
    bigger = realloc(bus->entries, cap * sizeof(struct bus_entry *));
    if (bigger == NULL) {
        return -ENOMEM;
    }
    bus->entries = bigger;
    bus->cap = cap;
    return 0;
}

static int bus_insert(struct bus *bus, const struct bus_range *range, struct err *err)
{
    size_t i = bus_lower(bus, range->base);
    struct bus_entry *e;

    if (i < bus->n && bus->entries[i]->range.base <= range->base + (range->size - 1)) {
        const struct bus_range *o = &bus->entries[i]->range;
        return ERR(err, INTERNAL, EEXIST,
                   "%s at 0x%" PRIx64 " + 0x%" PRIx64 " overlaps %s at 0x%" PRIx64
                   " + 0x%" PRIx64,
                   range->name, range->base, range->size, o->name, o->base, o->size);
    }
    if (bus_grow(bus) < 0 || (e = calloc(1, sizeof(*e))) == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for %s", range->name);
    }
    e->range = *range;
    e->refs = 1;
    memmove(&bus->entries[i + 1], &bus->entries[i], (bus->n - i) * sizeof(struct bus_entry *));
    bus->entries[i] = e;
    bus->n++;
    return 0;
}

int bus_add(struct bus *bus, const struct bus_range *range, struct err *err)
{
    int r;

    if (range->size == 0 || !range_fits(range->base, range->size, bus->size)) {
        return ERR(err, INTERNAL, EINVAL,
                   "%s: range 0x%" PRIx64 " + 0x%" PRIx64 " is not inside the bus (0x%" PRIx64
                   ")",
                   range->name, range->base, range->size, bus->size);
    }
    pthread_rwlock_wrlock(&bus->lock);
    r = bus_insert(bus, range, err);
    pthread_rwlock_unlock(&bus->lock);
    return r;
}

static unsigned frames_inside(const struct bus_entry *e)
{
    unsigned n = 0;

    for (const struct bus_frame *f = frames; f != NULL; f = f->outer) {
        n += f->entry == e;
    }
    return n;
}

int bus_remove(struct bus *bus, uint64_t base)
{
    struct bus_entry *e = NULL;
    unsigned own;
    size_t i;

    pthread_rwlock_wrlock(&bus->lock);
    i = bus_lower(bus, base);
    if (i < bus->n && bus->entries[i]->range.base == base) {
        e = bus->entries[i];
        bus->n--;
        memmove(&bus->entries[i], &bus->entries[i + 1],
                (bus->n - i) * sizeof(struct bus_entry *));
    }
    pthread_rwlock_unlock(&bus->lock);
    if (e == NULL) {
        return -ENOENT;
    }
    __atomic_store_n(&e->dead, true, __ATOMIC_SEQ_CST);
    own = frames_inside(e);
    pthread_mutex_lock(&bus->idle_lock);
    while (__atomic_load_n(&e->active, __ATOMIC_SEQ_CST) > own) {
        pthread_cond_wait(&bus->idle, &bus->idle_lock);
    }
    pthread_mutex_unlock(&bus->idle_lock);
    entry_unref(e);
    return 0;
}

int bus_add_ranges(struct bus *bus, const struct bus_range *ranges, size_t n, void *opaque,
                   pthread_mutex_t *lock, struct err *err)
{
    for (size_t i = 0; bus != NULL && i < n; i++) {
        struct bus_range range = ranges[i];
        range.opaque = opaque;
        range.lock = lock;
        int r = bus_add(bus, &range, err);
        if (r < 0) {
            while (i-- > 0) {
                bus_remove(bus, ranges[i].base);
            }
            return r;
        }
    }
    return 0;
}

void bus_remove_all(struct bus *bus, const void *opaque)
{
    bool found = bus != NULL;

    while (found) {
        uint64_t base = 0;
        found = false;
        pthread_rwlock_rdlock(&bus->lock);
        for (size_t i = 0; i < bus->n && !found; i++) {
            found = bus->entries[i]->range.opaque == opaque;
            base = bus->entries[i]->range.base;
        }
        pthread_rwlock_unlock(&bus->lock);
        if (found) {
            bus_remove(bus, base);
        }
    }
}

enum bus_hit { BUS_NOTHING, BUS_WHOLE, BUS_PART };

/* BUS_WHOLE: *ret_entry holds all of the access, with a reference for the caller. */
static enum bus_hit bus_find(struct bus *bus, uint64_t addr, unsigned len,
                             struct bus_entry **ret_entry)
{
    enum bus_hit hit = BUS_NOTHING;
    uint64_t last_byte = addr + (len - 1);
    struct bus_entry *e;
    size_t i;

    if (last_byte < addr) {
        return BUS_PART;
    }
    pthread_rwlock_rdlock(&bus->lock);
    i = __atomic_load_n(&bus->last, __ATOMIC_RELAXED);
    if (i >= bus->n || addr < bus->entries[i]->range.base ||
        addr - bus->entries[i]->range.base >= bus->entries[i]->range.size) {
        i = bus_lower(bus, addr);
        if (i < bus->n) {
            __atomic_store_n(&bus->last, i, __ATOMIC_RELAXED);
        }
    }
    if (i < bus->n && bus->entries[i]->range.base <= last_byte) {
        e = bus->entries[i];
        if (addr >= e->range.base && last_byte - e->range.base < e->range.size) {
            __atomic_fetch_add(&e->refs, 1, __ATOMIC_ACQ_REL);
            *ret_entry = e;
            hit = BUS_WHOLE;
        } else {
            hit = BUS_PART;
        }
    }
    pthread_rwlock_unlock(&bus->lock);
    return hit;
}

/* False when the range was removed meanwhile. */
static bool entry_enter(struct bus_entry *e, struct bus_frame *frame)
{
    if (e->range.lock != NULL) {
        pthread_mutex_lock(e->range.lock);
    }
    __atomic_fetch_add(&e->active, 1, __ATOMIC_SEQ_CST);
    frame->entry = e;
    frame->outer = frames;
    frames = frame;
    return !__atomic_load_n(&e->dead, __ATOMIC_SEQ_CST);
}

static void entry_leave(struct bus *bus, struct bus_entry *e, const struct bus_frame *frame)
{
    frames = frame->outer;
    __atomic_fetch_sub(&e->active, 1, __ATOMIC_SEQ_CST);
    if (e->range.lock != NULL) {
        pthread_mutex_unlock(e->range.lock);
    }
    if (__atomic_load_n(&e->dead, __ATOMIC_SEQ_CST)) {
        pthread_mutex_lock(&bus->idle_lock);
        pthread_cond_broadcast(&bus->idle);
        pthread_mutex_unlock(&bus->idle_lock);
    }
    entry_unref(e);
}

static uint64_t all_ones(unsigned len)
{
    return len >= 8 ? UINT64_MAX : (UINT64_C(1) << (len * 8)) - 1;
}

static bool len_is_plain(unsigned len)
{
    return len == 1 || len == 2 || len == 4 || len == 8;
}

static uint64_t bus_read_split(struct bus *bus, uint64_t addr, unsigned len)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < len; i++) {
        uint64_t byte = addr + i < addr ? 0xff : bus_read(bus, addr + i, 1);
        value |= byte << (i * 8);
    }
    return value;
}

uint64_t bus_read(struct bus *bus, uint64_t addr, unsigned len)
{
    uint64_t value = all_ones(len);
    struct bus_frame frame;
    struct bus_entry *e;
    enum bus_hit hit;

    if (!len_is_plain(len)) {
        return len < 8 ? bus_read_split(bus, addr, len) : value;
    }
    hit = bus_find(bus, addr, len, &e);
    if (hit == BUS_PART) {
        return bus_read_split(bus, addr, len);
    }
    if (hit == BUS_WHOLE) {
        if (entry_enter(e, &frame)) {
            value &= e->range.ops->read(e->range.opaque, addr - e->range.base, len);
        }
        entry_leave(bus, e, &frame);
    }
    return value;
}

static void bus_write_split(struct bus *bus, uint64_t addr, unsigned len, uint64_t value)
{
    for (unsigned i = 0; i < len && addr + i >= addr; i++) {
        bus_write(bus, addr + i, 1, (value >> (i * 8)) & 0xff);
    }
}

void bus_write(struct bus *bus, uint64_t addr, unsigned len, uint64_t value)
{
    struct bus_frame frame;
    struct bus_entry *e;
    enum bus_hit hit;

    if (!len_is_plain(len)) {
        if (len < 8) {
            bus_write_split(bus, addr, len, value);
        }
        return;
    }
    value &= all_ones(len);
    hit = bus_find(bus, addr, len, &e);
    if (hit == BUS_PART) {
        bus_write_split(bus, addr, len, value);
    } else if (hit == BUS_WHOLE) {
        if (entry_enter(e, &frame)) {
            e->range.ops->write(e->range.opaque, addr - e->range.base, len, value);
        }
        entry_leave(bus, e, &frame);
    }
}
