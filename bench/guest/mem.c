/*
 * Memory items: libc's copies and searches, plain copy loops, and chains of dependent loads.
 * Libc picks its variants by CPUID, as for every program. All memory has pages of 4 KiB
 * (main.c).
 */
#include "item.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LINE        64u
#define COPY_BYTES  (UINT64_C(4) << 20) /* per unit, whatever the block */
#define LOOP_BYTES  (UINT64_C(16) << 10)
#define LOOP_ROUNDS 8u
#define TEXT_BYTES  (UINT64_C(64) << 10)
#define SHORT_COUNT 256u
#define SHORT_MAX   64u
#define TEXT_ROUNDS 4u

struct region {
    size_t size;
    uint8_t *a, *b; /* size bytes each */
};

static void region_free(void *data)
{
    struct region *r = data;

    munmap(r->a, 2 * r->size);
    free(r);
}

static void *region_new(size_t size)
{
    struct region *r = malloc(sizeof(*r));
    uint64_t seed = 88172645463325252u;

    if (r == NULL || (r->a = pages_new(2 * size)) == NULL) {
        free(r);
        return NULL;
    }
    r->size = size;
    r->b = r->a + size;
    for (size_t i = 0; i < size; i++) {
        r->a[i] = (uint8_t)(next_random(&seed) | 1); /* no zero byte but where one is put */
        r->b[i] = 1;
    }
    return r;
}

static uint64_t sample(const uint8_t *p, size_t size)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < 256; i++) {
        sum = sum * 31 + p[i * (size / 256) + i % 8];
    }
    return sum;
}

static uint64_t memcpy_unit(void *data)
{
    struct region *r = data;

    for (size_t i = 0; i < COPY_BYTES / r->size; i++) {
        r->a[i * 64 % r->size] = (uint8_t)i;
        memcpy(r->b, r->a, r->size);
        __asm__ volatile("" ::: "memory"); /* so that no copy is left out */
    }
    return sample(r->b, r->size);
}

/* The asm statements keep the compiler from making memcpy or vectors of the loops. */
static uint64_t copy_bytes_unit(void *data)
{
    struct region *r = data;

    for (unsigned round = 0; round < LOOP_ROUNDS; round++) {
        const uint8_t *from = r->a;
        uint8_t *to = r->b;
        for (size_t i = 0; i < LOOP_BYTES; i++) {
            to[i] = from[i];
            __asm__ volatile("");
        }
    }
    return sample(r->b, r->size);
}

static uint64_t copy_words_unit(void *data)
{
    struct region *r = data;

    for (unsigned round = 0; round < LOOP_ROUNDS * 8; round++) {
        const uint64_t *from = (const uint64_t *)(const void *)r->a;
        uint64_t *to = (uint64_t *)(void *)r->b;
        for (size_t i = 0; i < LOOP_BYTES / 8; i++) {
            to[i] = from[i];
            __asm__ volatile("");
        }
    }
    return sample(r->b, r->size);
}

/* Short strings as programs have most, then one long one. */
static void *strlen_setup(size_t size)
{
    struct region *r = region_new(size);

    if (r != NULL) {
        uint64_t seed = 2463534242u;
        for (size_t i = 0; i < SHORT_COUNT; i++) {
            r->b[i * SHORT_MAX + next_random(&seed) % SHORT_MAX] = 0;
        }
        r->a[size - 1] = 0;
    }
    return r;
}

static uint64_t strlen_unit(void *data)
{
    const struct region *r = data;
    uint64_t sum = 0;

    for (unsigned round = 0; round < TEXT_ROUNDS; round++) {
        for (size_t i = 0; i < SHORT_COUNT; i++) {
            sum = sum * 3 + strlen((const char *)r->b + i * SHORT_MAX);
        }
        sum += strlen((const char *)r->a);
        __asm__ volatile("" ::: "memory");
    }
    return sum;
}

/* Every line of a text, whose lines have 1 to 128 bytes, and then a byte that is not there. */
static void *memchr_setup(size_t size)
{
    struct region *r = region_new(size);

    if (r != NULL) {
        uint64_t seed = 521288629u;
        for (size_t i = 0; i < size; i += 1 + next_random(&seed) % 128) {
            r->a[i] = '\n';
        }
        r->a[size - 1] = '\n';
    }
    return r;
}

static uint64_t memchr_unit(void *data)
{
    const struct region *r = data;
    uint64_t sum = 0;

    for (unsigned round = 0; round < TEXT_ROUNDS; round++) {
        const uint8_t *end = r->a + r->size, *p = r->a, *hit;
        while (p < end && (hit = memchr(p, '\n', (size_t)(end - p))) != NULL) {
            sum = sum * 3 + (uint64_t)(hit - p);
            p = hit + 1;
        }
        sum += memchr(r->a, 2, r->size) == NULL;
        __asm__ volatile("" ::: "memory");
    }
    return sum;
}

struct chase {
    size_t size;
    uint64_t steps;
    uint8_t *nodes; /* each holds the address of the next, one cache line apart */
};

static void *chase_setup(size_t size)
{
    struct chase *c = malloc(sizeof(*c));
    size_t count = size / LINE;
    uint32_t *order = malloc(count * sizeof(*order));
    uint64_t seed = 362436069u;

    if (c == NULL || order == NULL || (c->nodes = pages_new(size)) == NULL) {
        free(order);
        free(c);
        return NULL;
    }
    c->size = size;
    c->steps = count < 65536 ? 65536 : count;
    for (size_t i = 0; i < count; i++) {
        order[i] = (uint32_t)i;
    }
    /* Sattolo's shuffle: one cycle through all nodes. */
    for (size_t i = count - 1; i > 0; i--) {
        size_t j = next_random(&seed) % i;
        uint32_t t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (size_t i = 0; i < count; i++) {
        *(void **)(void *)(c->nodes + i * LINE) = c->nodes + (size_t)order[i] * LINE;
    }
    free(order);
    return c;
}

static void chase_free(void *data)
{
    struct chase *c = data;

    munmap(c->nodes, c->size);
    free(c);
}

static uint64_t chase_unit(void *data)
{
    const struct chase *c = data;
    const uint8_t *at = c->nodes;

    /* One step more than laps, so that the end differs from the start. */
    for (uint64_t i = 0; i < c->steps; i++) {
        at = *(const uint8_t *const *)(const void *)at;
    }
    return (uint64_t)(*(const uint8_t *const *)(const void *)at - c->nodes);
}

#define COPY_ITEM(name, size)                                                                  \
    {                                                                                          \
        name, "memory", "KiB", COPY_BYTES / 1024, region_new, (size), memcpy_unit,             \
            region_free, NULL                                                                  \
    }
#define CHASE_ITEM(name, size, steps)                                                          \
    {                                                                                          \
        name, "memory", "load", (steps), chase_setup, (size), chase_unit, chase_free, NULL     \
    }

static const struct item items[] = {
    COPY_ITEM("memcpy-16k", 16384),
    COPY_ITEM("memcpy-256k", 262144),
    COPY_ITEM("memcpy-4m", 4194304),
    {"copy-bytes", "memory", "KiB", LOOP_ROUNDS *LOOP_BYTES / 1024, region_new, LOOP_BYTES,
     copy_bytes_unit, region_free, NULL},
    {"copy-words", "memory", "KiB", LOOP_ROUNDS * 8 * LOOP_BYTES / 1024, region_new, LOOP_BYTES,
     copy_words_unit, region_free, NULL},
    {"strlen", "memory", "call", TEXT_ROUNDS *(SHORT_COUNT + 1), strlen_setup, TEXT_BYTES,
     strlen_unit, region_free, NULL},
    {"memchr", "memory", "KiB", TEXT_ROUNDS * 2 * TEXT_BYTES / 1024, memchr_setup, TEXT_BYTES,
     memchr_unit, region_free, NULL},
    CHASE_ITEM("chase-16k", 16384, 65536),
    CHASE_ITEM("chase-512k", 524288, 65536),
    CHASE_ITEM("chase-32m", 33554432, 524288),
};

const struct item_list mem_items = {items, sizeof(items) / sizeof(items[0])};
