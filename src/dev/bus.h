/*
 * Address spaces for device registers: one struct bus for ports (64 KiB), one for memory-mapped
 * I/O. Ranges do not overlap; bus_add refuses it. Look-ups come from vCPU threads, changes (BAR
 * moves) too: a read-write lock inside. Accesses that hit nothing read all ones and write
 * nothing.
 *
 * len of an access is 1, 2, 4 or 8 (ports: 1, 2, 4). An access that leaves its range is split
 * by bytes. Before a handler runs the bus takes range->lock, if any.
 */
#pragma once

#include "base/err.h"

#include <pthread.h>
#include <stdint.h>

struct bus;

struct bus_ops {
    /* offset is relative to the range's base. */
    uint64_t (*read)(void *opaque, uint64_t offset, unsigned len);
    void (*write)(void *opaque, uint64_t offset, unsigned len, uint64_t value);
};

struct bus_range {
    uint64_t base, size;
    const struct bus_ops *ops;
    void *opaque;
    pthread_mutex_t *lock; /* borrowed, may be NULL */
    const char *name;      /* for messages */
};

int bus_new(struct bus **ret_bus, uint64_t size, struct err *err);
void bus_free(struct bus *bus);
int bus_add(struct bus *bus, const struct bus_range *range,
            struct err *err); /* copies *range */
/* Removes the range that starts at base. -ENOENT. Waits for accesses under way on other
 * threads; a handler may remove or add ranges, also its own. */
int bus_remove(struct bus *bus, uint64_t base);
/* For constructors and destructors of devices; bus NULL: nothing. bus_add_ranges adds all of
 * them or none, with opaque and lock filled in; bus_remove_all removes every range with this
 * opaque. */
int bus_add_ranges(struct bus *bus, const struct bus_range *ranges, size_t n, void *opaque,
                   pthread_mutex_t *lock, struct err *err);
void bus_remove_all(struct bus *bus, const void *opaque);
uint64_t bus_read(struct bus *bus, uint64_t addr, unsigned len);
void bus_write(struct bus *bus, uint64_t addr, unsigned len, uint64_t value);
