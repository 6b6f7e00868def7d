/*
 * Integer items: what compiled programs without floating point do most. Plain C, at -O2.
 * Sources: FNV-1a (draft-eastlake-fnv), SHA-256 (FIPS 180-4); the rest is text-book material.
 */
#include "item.h"

#include <stdlib.h>
#include <string.h>

#define HASH_BYTES   65536u
#define SHA_BYTES    16384u
#define SORT_COUNT   16384u
#define TABLE_SLOTS  16384u
#define TABLE_KEYS   6000u
#define TABLE_FINDS  24000u
#define TREE_KEYS    3000u
#define INTERP_LIMIT 3000
#define FIB_N        22u

static void *bytes_setup(size_t size)
{
    uint8_t *data = malloc(size);
    uint64_t seed = 88172645463325252u;

    for (size_t i = 0; data != NULL && i < size; i++) {
        data[i] = (uint8_t)(next_random(&seed) >> 32);
    }
    return data;
}

/* Bytes one by one, then words with multiplications and rotations as fast hashes have them. */
static uint64_t hash_unit(void *data)
{
    const uint8_t *p = data;
    uint64_t fnv = 0xcbf29ce484222325u, mix = 0;

    for (size_t i = 0; i < HASH_BYTES; i++) {
        fnv = (fnv ^ p[i]) * 0x100000001b3u;
    }
    for (size_t i = 0; i < HASH_BYTES; i += 8) {
        uint64_t word;
        memcpy(&word, p + i, sizeof(word));
        mix ^= word * 0x9e3779b97f4a7c15u;
        mix = (mix << 27 | mix >> 37) * 5 + 0x52dce729;
    }
    return fnv ^ mix;
}

static const uint32_t sha_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
    0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
    0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
    0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
    0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
    0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
    0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
    0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
    0xc67178f2};

static inline uint32_t ror32(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

static void sha_block(uint32_t h[8], const uint8_t *block)
{
    uint32_t w[64], s[8];

    for (unsigned i = 0; i < 16; i++) {
        uint32_t word;
        memcpy(&word, block + 4 * i, sizeof(word));
        w[i] = __builtin_bswap32(word);
    }
    for (unsigned i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (ror32(a, 7) ^ ror32(a, 18) ^ a >> 3) + w[i - 7] +
               (ror32(b, 17) ^ ror32(b, 19) ^ b >> 10);
    }
    memcpy(s, h, sizeof(s));
    for (unsigned i = 0; i < 64; i++) {
        uint32_t t1 = s[7] + (ror32(s[4], 6) ^ ror32(s[4], 11) ^ ror32(s[4], 25)) +
                      ((s[4] & s[5]) ^ (~s[4] & s[6])) + sha_k[i] + w[i];
        uint32_t t2 = (ror32(s[0], 2) ^ ror32(s[0], 13) ^ ror32(s[0], 22)) +
                      ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        s[7] = s[6], s[6] = s[5], s[5] = s[4], s[4] = s[3] + t1;
        s[3] = s[2], s[2] = s[1], s[1] = s[0], s[0] = t1 + t2;
    }
    for (unsigned i = 0; i < 8; i++) {
        h[i] += s[i];
    }
}

static uint64_t sha_unit(void *data)
{
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

    for (size_t i = 0; i < SHA_BYTES; i += 64) {
        sha_block(h, (const uint8_t *)data + i);
    }
    return (uint64_t)h[0] << 32 | h[7];
}

struct sort_data {
    uint32_t from[SORT_COUNT], array[SORT_COUNT];
};

static void *sort_setup(size_t size)
{
    struct sort_data *d = malloc(size);
    uint64_t seed = 2463534242u;

    for (size_t i = 0; d != NULL && i < SORT_COUNT; i++) {
        d->from[i] = (uint32_t)next_random(&seed);
    }
    return d;
}

static void quicksort(uint32_t *a, ptrdiff_t low, ptrdiff_t high)
{
    while (low < high) {
        uint32_t pivot = a[low + (high - low) / 2];
        ptrdiff_t i = low, j = high;
        while (i <= j) {
            while (a[i] < pivot) {
                i++;
            }
            while (a[j] > pivot) {
                j--;
            }
            if (i <= j) {
                uint32_t t = a[i];
                a[i++] = a[j];
                a[j--] = t;
            }
        }
        quicksort(a, low, j);
        low = i;
    }
}

static uint64_t sort_unit(void *data)
{
    struct sort_data *d = data;
    uint64_t sum = 0;

    memcpy(d->array, d->from, sizeof(d->array));
    quicksort(d->array, 0, SORT_COUNT - 1);
    for (size_t i = 0; i < SORT_COUNT; i += 16) {
        sum = sum * 31 + d->array[i];
    }
    return sum;
}

struct table_data {
    uint64_t key[TABLE_SLOTS], value[TABLE_SLOTS];
};

static size_t table_slot(const struct table_data *d, uint64_t key)
{
    size_t at = (size_t)(key * 0x9e3779b97f4a7c15u >> 50) % TABLE_SLOTS;

    while (d->key[at] != 0 && d->key[at] != key) {
        at = (at + 1) % TABLE_SLOTS;
    }
    return at;
}

/* Insertions into an open hash table, then look-ups, a quarter of which find nothing. */
static uint64_t table_unit(void *data)
{
    struct table_data *d = data;
    uint64_t seed = 521288629u, sum = 0;

    memset(d, 0, sizeof(*d));
    for (uint64_t i = 0; i < TABLE_KEYS; i++) {
        size_t at = table_slot(d, i * 7 + 1);
        d->key[at] = i * 7 + 1;
        d->value[at] = next_random(&seed);
    }
    for (unsigned i = 0; i < TABLE_FINDS; i++) {
        uint64_t n = next_random(&seed) % (TABLE_KEYS * 4 / 3);
        size_t at = table_slot(d, n * 7 + 1);
        sum += d->key[at] != 0 ? d->value[at] : 1;
    }
    return sum;
}

struct tree_node {
    struct tree_node *child[2];
    uint64_t key;
};

static uint64_t tree_walk(const struct tree_node *n, uint64_t sum)
{
    if (n == NULL) {
        return sum;
    }
    sum = tree_walk(n->child[0], sum) * 31 + n->key;
    return tree_walk(n->child[1], sum);
}

/* A binary tree with one malloc per node, walked in order, freed again. */
static uint64_t tree_unit(void *data)
{
    struct tree_node **nodes = data, *root = NULL;
    uint64_t seed = 362436069u, sum;

    for (unsigned i = 0; i < TREE_KEYS; i++) {
        struct tree_node *n = malloc(sizeof(*n)), **link = &root;
        if (n == NULL) {
            abort();
        }
        *n = (struct tree_node){.key = next_random(&seed)};
        while (*link != NULL) {
            link = &(*link)->child[n->key > (*link)->key];
        }
        *link = nodes[i] = n;
    }
    sum = tree_walk(root, 0);
    for (unsigned i = 0; i < TREE_KEYS; i++) {
        free(nodes[i]);
    }
    return sum;
}

/* A machine with registers; the program counts the steps of Collatz sequences. */
enum op { OP_SET, OP_COPY, OP_ADD, OP_MULI, OP_ADDI, OP_HALF, OP_ODD, OP_JNE, OP_JLT, OP_STOP };

struct op_code {
    uint8_t op, a, b;
    int16_t k;
};

static const struct op_code collatz[] = {
    {OP_SET, 0, 0, 1}, /*  0: n = 1 */
    {OP_SET, 4, 0, 1}, /*  1 */
    {OP_SET, 5, 0, INTERP_LIMIT},
    {OP_COPY, 1, 0, 0},  /*  3: x = n */
    {OP_ODD, 2, 1, 0},   /*  4: is x odd? */
    {OP_JNE, 2, 4, 3},   /*  5: no: to 8 */
    {OP_MULI, 1, 0, 3},  /*  6 */
    {OP_ADDI, 1, 0, 1},  /*  7, falls into halving: 3x+1 is even */
    {OP_HALF, 1, 1, 0},  /*  8 */
    {OP_ADDI, 3, 0, 1},  /*  9: one step more */
    {OP_JNE, 1, 4, -6},  /* 10: to 4 until x is 1 */
    {OP_ADD, 6, 3, 0},   /* 11 */
    {OP_ADDI, 0, 0, 1},  /* 12 */
    {OP_JLT, 0, 5, -10}, /* 13: to 3 */
    {OP_STOP, 3, 6, 0},
};

static uint64_t interp_unit(void *data)
{
    uint64_t r[8] = {0};
    const struct op_code *pc = data;

    for (;; pc++) {
        switch ((enum op)pc->op) {
        case OP_SET: r[pc->a] = (uint64_t)pc->k; break;
        case OP_COPY: r[pc->a] = r[pc->b]; break;
        case OP_ADD: r[pc->a] += r[pc->b]; break;
        case OP_MULI: r[pc->a] *= (uint64_t)pc->k; break;
        case OP_ADDI: r[pc->a] += (uint64_t)pc->k; break;
        case OP_HALF: r[pc->a] = r[pc->b] >> 1; break;
        case OP_ODD: r[pc->a] = r[pc->b] & 1; break;
        case OP_JNE: pc += r[pc->a] != r[pc->b] ? pc->k - 1 : 0; break;
        case OP_JLT: pc += r[pc->a] < r[pc->b] ? pc->k - 1 : 0; break;
        case OP_STOP: return r[pc->a] ^ r[pc->b];
        }
    }
}

static void *interp_setup(size_t size)
{
    void *data = malloc(size);

    if (data != NULL) {
        memcpy(data, collatz, size);
    }
    return data;
}

/* Through a pointer that the compiler does not see through, so that every call is one. */
typedef uint64_t fib_fn(void *self, unsigned n);
struct fib_data {
    fib_fn *volatile fn;
};

static uint64_t fib(void *self, unsigned n)
{
    struct fib_data *d = self;

    return n < 2 ? n : d->fn(d, n - 1) + d->fn(d, n - 2);
}

static void *fib_setup(size_t size)
{
    struct fib_data *d = malloc(size);

    if (d != NULL) {
        d->fn = fib;
    }
    return d;
}

static uint64_t fib_unit(void *data)
{
    return fib(data, FIB_N);
}

static const struct item items[] = {
    {"hash", "integer", "KiB", HASH_BYTES / 1024, bytes_setup, HASH_BYTES, hash_unit, free,
     NULL},
    {"sha256", "integer", "KiB", SHA_BYTES / 1024, bytes_setup, SHA_BYTES, sha_unit, free,
     NULL},
    {"sort", "integer", "number", SORT_COUNT, sort_setup, sizeof(struct sort_data), sort_unit,
     free, NULL},
    {"table", "integer", "access", TABLE_KEYS + TABLE_FINDS, malloc, sizeof(struct table_data),
     table_unit, free, NULL},
    {"tree", "integer", "node", TREE_KEYS, malloc, TREE_KEYS * sizeof(void *), tree_unit, free,
     NULL},
    {"interp", "integer", "sequence", INTERP_LIMIT, interp_setup, sizeof(collatz), interp_unit,
     free, NULL},
    {"calls", "integer", "call", 57313, fib_setup, sizeof(struct fib_data), fib_unit, free,
     NULL},
};

const struct item_list int_items = {items, sizeof(items) / sizeof(items[0])};
