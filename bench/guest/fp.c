/*
 * Floating-point and SIMD items. Compiled with -O3, so that loops over arrays become vectors:
 * SSE2 as in every x86-64 program, AVX2 and FMA where an item says so. Nothing depends on more
 * than IEEE 754 but libm, whose sum is rounded: libc's variants may differ in the last place.
 */
#include "item.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MATMUL_N    96u
#define PIXEL_BYTES 16384u
#define PIXEL_TIMES 8u
#define LIBM_STEPS  1000u
#define BODIES      5u
#define NBODY_STEPS 300u
#define X87_STEPS   3000u

struct matrices {
    double a[MATMUL_N][MATMUL_N], b[MATMUL_N][MATMUL_N], c[MATMUL_N][MATMUL_N];
};

static void *matmul_setup(size_t size)
{
    struct matrices *m = malloc(size);
    uint64_t seed = 88172645463325252u;

    for (size_t i = 0; m != NULL && i < MATMUL_N; i++) {
        for (size_t j = 0; j < MATMUL_N; j++) {
            m->a[i][j] = (double)(next_random(&seed) >> 11) * 0x1p-53;
            m->b[i][j] = (double)(next_random(&seed) >> 11) * 0x1p-53 - 0.5;
        }
    }
    return m;
}

static uint64_t bits_of(double x)
{
    uint64_t bits;

    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

static inline __attribute__((always_inline)) uint64_t multiply(struct matrices *m)
{
    uint64_t sum = 0;

    memset(m->c, 0, sizeof(m->c));
    for (size_t i = 0; i < MATMUL_N; i++) {
        for (size_t k = 0; k < MATMUL_N; k++) {
            double a = m->a[i][k];
            double *restrict c = m->c[i];
            const double *restrict b = m->b[k];
            for (size_t j = 0; j < MATMUL_N; j++) {
                c[j] += a * b[j];
            }
        }
    }
    for (size_t i = 0; i < MATMUL_N; i++) {
        sum = sum * 31 + bits_of(m->c[i][MATMUL_N - 1 - i]);
    }
    return sum;
}

static uint64_t matmul_unit(void *data)
{
    return multiply(data);
}

static __attribute__((target("avx2,fma"))) uint64_t matmul_avx2_unit(void *data)
{
    return multiply(data);
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

struct pixels {
    uint8_t over[PIXEL_BYTES], under[PIXEL_BYTES], out[PIXEL_BYTES];
};

static void *pixels_setup(size_t size)
{
    struct pixels *p = malloc(size);
    uint64_t seed = 2463534242u;

    for (size_t i = 0; p != NULL && i < PIXEL_BYTES; i++) {
        p->over[i] = (uint8_t)(next_random(&seed) >> 24);
        p->under[i] = (uint8_t)(next_random(&seed) >> 24);
    }
    return p;
}

static void blend(uint8_t *restrict out, const uint8_t *restrict over,
                  const uint8_t *restrict under, unsigned alpha)
{
    for (size_t i = 0; i < PIXEL_BYTES; i++) {
        unsigned mixed = over[i] * alpha + under[i] * (255 - alpha) + 128;
        out[i] = (uint8_t)((uint16_t)mixed >> 8);
    }
}

/* Blending of two pictures: packed 8- and 16-bit integers. */
static uint64_t pixels_unit(void *data)
{
    struct pixels *p = data;
    uint64_t sum = 0;

    for (unsigned round = 0; round < PIXEL_TIMES; round++) {
        blend(p->out, p->over, p->under, 20 + round * 25);
        for (size_t i = 0; i < PIXEL_BYTES; i += 1024) {
            sum = sum * 31 + p->out[i + round];
        }
    }
    return sum;
}

static void *seed_setup(size_t size)
{
    double *d = malloc(size);

    if (d != NULL) {
        *d = 0.25;
    }
    return d;
}

static uint64_t libm_unit(void *data)
{
    const volatile double *start = data;
    double sum = 0;

    for (unsigned i = 1; i <= LIBM_STEPS; i++) {
        double x = *start + (double)i * 0.013;
        sum += sin(x) + exp(-x) + log(x) + pow(x, 0.37);
    }
    return (uint64_t)llround(sum * 1e6);
}

struct body {
    double x[3], v[3], mass;
};

static void *nbody_setup(size_t size)
{
    struct body *b = malloc(size);
    uint64_t seed = 521288629u;

    for (size_t i = 0; b != NULL && i < BODIES; i++) {
        for (size_t k = 0; k < 3; k++) {
            b[i].x[k] = (double)(next_random(&seed) >> 44) * 0x1p-17 - 4;
            b[i].v[k] = (double)(next_random(&seed) >> 44) * 0x1p-20 - 0.5;
        }
        b[i].mass = 1 + (double)i;
    }
    return b;
}

static void nbody_pull(struct body *p, struct body *q, double dt)
{
    double d[3], distance2 = 0.01, pull;

    for (size_t k = 0; k < 3; k++) {
        d[k] = p->x[k] - q->x[k];
        distance2 += d[k] * d[k];
    }
    pull = dt / (distance2 * sqrt(distance2));
    for (size_t k = 0; k < 3; k++) {
        p->v[k] -= d[k] * q->mass * pull;
        q->v[k] += d[k] * p->mass * pull;
    }
}

/* Bodies that attract each other: scalar arithmetic, square roots and divisions. */
static uint64_t nbody_unit(void *data)
{
    struct body b[BODIES];
    double sum = 0;

    memcpy(b, data, sizeof(b));
    for (unsigned step = 0; step < NBODY_STEPS; step++) {
        for (size_t i = 0; i < BODIES; i++) {
            for (size_t j = i + 1; j < BODIES; j++) {
                nbody_pull(&b[i], &b[j], 0.001);
            }
        }
        for (size_t i = 0; i < BODIES; i++) {
            for (size_t k = 0; k < 3; k++) {
                b[i].x[k] += 0.001 * b[i].v[k];
            }
        }
    }
    for (size_t i = 0; i < BODIES; i++) {
        sum += b[i].x[0] + b[i].x[1] * 2 + b[i].x[2] * 3;
    }
    return bits_of(sum);
}

/* A polynomial and a root by Newton's method in extended precision. */
static uint64_t x87_unit(void *data)
{
    const volatile double *start = data;
    long double sum = 0;

    for (unsigned i = 1; i <= X87_STEPS; i++) {
        long double x = (long double)*start + i * 0.001L, p = 0.1L, root = 1;
        for (unsigned k = 1; k < 8; k++) {
            p = p * x + 0.3L * k;
        }
        for (unsigned k = 0; k < 3; k++) {
            root = (root + x / root) * 0.5L;
        }
        sum += p - root;
    }
    return bits_of((double)sum);
}

#define MATMUL_OPS ((uint64_t)MATMUL_N * MATMUL_N * MATMUL_N)

static const struct item items[] = {
    {"matmul", "fp", "fma", MATMUL_OPS, matmul_setup, sizeof(struct matrices), matmul_unit,
     free, NULL},
    {"matmul-avx2", "fp", "fma", MATMUL_OPS, matmul_setup, sizeof(struct matrices),
     matmul_avx2_unit, free, has_avx2},
    {"pixels", "fp", "KiB", PIXEL_TIMES *PIXEL_BYTES / 1024, pixels_setup,
     sizeof(struct pixels), pixels_unit, free, NULL},
    {"libm", "fp", "call", 4 * LIBM_STEPS, seed_setup, sizeof(double), libm_unit, free, NULL},
    {"nbody", "fp", "step", NBODY_STEPS, nbody_setup, BODIES * sizeof(struct body), nbody_unit,
     free, NULL},
    {"x87", "fp", "step", X87_STEPS, seed_setup, sizeof(double), x87_unit, free, NULL},
};

const struct item_list fp_items = {items, sizeof(items) / sizeof(items[0])};
