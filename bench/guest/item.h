/*
 * What the benchmark program measures: tables of items, one per file.
 *
 * An item does one unit of work again and again. Every unit starts from the same data and
 * returns the same checksum, on every machine: a CPU that computes wrongly is seen, not timed.
 */
#ifndef BENCH_GUEST_ITEM_H
#define BENCH_GUEST_ITEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct item {
    const char *name;
    const char *group; /* integer, memory, fp, system */
    const char *op;    /* what is counted: time is printed per op */
    uint64_t ops;      /* per unit */
    /* Makes the item's data, NULL when there is no room; `size` is the item's own. */
    void *(*setup)(size_t size);
    size_t size;
    uint64_t (*unit)(void *data);
    void (*teardown)(void *data);
    bool (*is_present)(void); /* NULL: on every CPU */
};

struct item_list {
    const struct item *items;
    size_t count;
};

extern const struct item_list int_items, mem_items, fp_items, sys_items;

/* Marsaglia's xorshift64; *seed must not be 0. */
static inline uint64_t next_random(uint64_t *seed)
{
    uint64_t x = *seed;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *seed = x;
}

/* Zeroed memory of whole pages, or NULL. */
void *pages_new(size_t size);

#endif
