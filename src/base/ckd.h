/*
 * Checked integers and small arithmetic. Every function returns false (and leaves *ret alone)
 * on overflow, so that `if (!ckd_add(a, b, &sum))` is the error path.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ckd_add(a, b, ret) (!__builtin_add_overflow((a), (b), (ret)))
#define ckd_sub(a, b, ret) (!__builtin_sub_overflow((a), (b), (ret)))
#define ckd_mul(a, b, ret) (!__builtin_mul_overflow((a), (b), (ret)))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)    ((a) < (b) ? (a) : (b))
#define MAX(a, b)    ((a) > (b) ? (a) : (b))
#define KIB          (UINT64_C(1) << 10)
#define MIB          (UINT64_C(1) << 20)
#define GIB          (UINT64_C(1) << 30)

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* True when [off, off+len) lies inside [0, size); safe for every input. */
static inline bool range_fits(uint64_t off, uint64_t len, uint64_t size)
{
    return off <= size && len <= size - off;
}

static inline bool is_pow2(uint64_t x)
{
    return x != 0 && (x & (x - 1)) == 0;
}

/* align must be a power of two; align_up may wrap to 0 for x near the top: check first. */
static inline uint64_t align_down(uint64_t x, uint64_t align)
{
    return x & ~(align - 1);
}

static inline uint64_t align_up(uint64_t x, uint64_t align)
{
    return (x + align - 1) & ~(align - 1);
}
