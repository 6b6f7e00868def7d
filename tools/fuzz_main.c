/*
 * Runs a fuzz target as a plain test, without libFuzzer.
 *
 *     foo_fuzz FILE...          each file once (a corpus, or a crash to look at again)
 *     foo_fuzz [-n N] [-s SEED] N random inputs (default 2000) from SEED (default 1): noise,
 * and mutations of what the target's fuzz_seed gives
 *
 * Every input is copied to a heap block of exactly its size, so that a sanitizer sees a read
 * past it. -s SEED -o N writes random input number N to standard output instead of running it;
 * -v prints each number before its input runs.
 */
#include "base/cleanup.h"
#include "base/fuzz.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FUZZ_MAX_LEN (64u << 10)
#define FUZZ_SEEDS   64

struct seeds {
    uint8_t *data[FUZZ_SEEDS];
    size_t len[FUZZ_SEEDS];
    unsigned n;
};

static uint64_t rng_next(uint64_t *state) /* splitmix64: a counter through a mixing function */
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void run_one(const uint8_t *data, size_t len)
{
    uint8_t *copy = malloc(len > 0 ? len : 1);
    if (copy == NULL) {
        fprintf(stderr, "fuzz: no memory\n");
        exit(1);
    }
    memcpy(copy, data, len);
    LLVMFuzzerTestOneInput(copy, len);
    free(copy);
}

static int run_file(const char *path)
{
    _cleanup_fclose_ FILE *f = fopen(path, "rbe");
    _cleanup_free_ uint8_t *buf = NULL;
    size_t len = 0, cap = 0;

    if (f == NULL) {
        fprintf(stderr, "fuzz: %s: %s\n", path, strerror(errno));
        return 1;
    }
    for (;;) {
        if (len == cap) {
            cap = cap == 0 ? 4096 : cap * 2;
            uint8_t *p = realloc(buf, cap);
            if (p == NULL) {
                return 1;
            }
            buf = p;
        }
        size_t n = fread(buf + len, 1, cap - len, f);
        if (n == 0) {
            break;
        }
        len += n;
    }
    run_one(buf, len);
    return 0;
}

static const uint64_t interesting[] = {
    0,
    1,
    7,
    8,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x10000,
    0x7fffffff,
    0x80000000,
    0xffffffff,
    0x100000000,
    0x7fffffffffffffff,
    0x8000000000000000,
    0xfffffffffffff000,
    UINT64_MAX,
};

static size_t mutate_once(uint64_t *rng, uint8_t *buf, size_t len)
{
    size_t at = len > 0 ? rng_next(rng) % len : 0;
    uint64_t v = rng_next(rng);

    switch (rng_next(rng) % 6) {
    case 0: /* a bit */
        if (len > 0) {
            buf[at] ^= (uint8_t)(1u << (v & 7));
        }
        break;
    case 1: /* a byte */
        if (len > 0) {
            buf[at] = (uint8_t)v;
        }
        break;
    case 2: { /* an interesting number of 1, 2, 4 or 8 bytes */
        uint64_t x = interesting[v % (sizeof(interesting) / sizeof(interesting[0]))];
        size_t n = (size_t)1 << ((v >> 32) & 3);
        if (n <= len - at) {
            memcpy(buf + at, &x, n);
        }
        break;
    }
    case 3: /* cut off */ len = at; break;
    case 4: { /* remove a piece */
        size_t n = v % 16;
        if (n < len - at) {
            memmove(buf + at, buf + at + n, len - at - n);
            len -= n;
        }
        break;
    }
    default: { /* repeat a piece */
        size_t n = v % 64;
        if (n <= len - at && len + n <= FUZZ_MAX_LEN) {
            memmove(buf + at + n, buf + at, len - at);
            len += n;
        }
        break;
    }
    }
    return len;
}

static size_t make_input(uint64_t seed, uint64_t number, const struct seeds *seeds,
                         uint8_t *buf)
{
    uint64_t rng = seed * UINT64_C(0x2545f4914f6cdd1d) + number;

    if (seeds->n > 0 && rng_next(&rng) % 8 != 0) {
        unsigned which = (unsigned)(rng_next(&rng) % seeds->n);
        size_t len = seeds->len[which];
        memcpy(buf, seeds->data[which], len);
        for (uint64_t k = rng_next(&rng) % 6; k > 0; k--) {
            len = mutate_once(&rng, buf, len);
        }
        return len;
    }
    static const size_t limits[] = {16, 64, 512, 4096};
    size_t len = rng_next(&rng) % limits[rng_next(&rng) % 4];
    for (size_t i = 0; i < len; i++) {
        buf[i] = (uint8_t)rng_next(&rng);
    }
    return len;
}

static int run_random(uint64_t n, uint64_t seed, bool verbose, bool only_print, uint64_t print)
{
    static uint8_t buf[FUZZ_MAX_LEN];
    struct seeds seeds = {0};

    while (fuzz_seed != NULL && seeds.n < FUZZ_SEEDS) {
        size_t len = fuzz_seed(seeds.n, buf, sizeof(buf));
        if (len == 0 || len > sizeof(buf)) {
            break;
        }
        seeds.data[seeds.n] = malloc(len);
        if (seeds.data[seeds.n] == NULL) {
            return 1;
        }
        memcpy(seeds.data[seeds.n], buf, len);
        seeds.len[seeds.n++] = len;
    }
    if (only_print) {
        size_t len = make_input(seed, print, &seeds, buf);
        fwrite(buf, 1, len, stdout);
    } else {
        for (unsigned i = 0; i < seeds.n; i++) {
            run_one(seeds.data[i], seeds.len[i]);
        }
        for (uint64_t i = 0; i < n; i++) {
            if (verbose) {
                fprintf(stderr, "%" PRIu64 "\n", i);
            }
            run_one(buf, make_input(seed, i, &seeds, buf));
        }
        printf("%" PRIu64 " inputs of seed %" PRIu64 ", %u examples\n", n, seed, seeds.n);
    }
    for (unsigned i = 0; i < seeds.n; i++) {
        free(seeds.data[i]);
    }
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t n = 2000, seed = 1, print = 0;
    bool only_print = false, verbose = false;
    int opt;

    while ((opt = getopt(argc, argv, "n:s:o:v")) != -1) {
        uint64_t value = optarg != NULL ? strtoull(optarg, NULL, 0) : 0;
        switch (opt) {
        case 'n': n = value; break;
        case 's': seed = value; break;
        case 'o':
            print = value;
            only_print = true;
            break;
        case 'v': verbose = true; break;
        default:
            fprintf(stderr, "usage: %s [-n N] [-s SEED] [-o N] [-v] [FILE...]\n", argv[0]);
            return 2;
        }
    }
    if (optind == argc) {
        return run_random(n, seed, verbose, only_print, print);
    }
    int status = 0;
    for (int i = optind; i < argc; i++) {
        status |= run_file(argv[i]);
    }
    return status;
}
