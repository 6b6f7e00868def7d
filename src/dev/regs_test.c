/* Tests of register blocks: every width and alignment against a byte-wise model. */
#include "base/ckd.h"
#include "base/test.h"
#include "dev/regs.h"

#include <string.h>

static unsigned hook_calls;
static uint64_t hook_covered;

static void on_write(void *opaque, const struct reg *reg, uint64_t old, uint64_t now,
                     uint64_t covered)
{
    (void)opaque;
    (void)reg;
    (void)old;
    (void)now;
    hook_calls++;
    hook_covered = covered;
}

static const struct reg table[] = {
    {.name = "a",
     .offset = 0,
     .width_bytes = 2,
     .readable = 0xffff,
     .writable = 0xff0f,
     .reset = 0x1234},
    {.name = "b", .offset = 2, .width_bytes = 1, .readable = 0xff, .w1c = 0xf0, .reset = 0xff},
    {.name = "c",
     .offset = 4,
     .width_bytes = 4,
     .readable = 0xffffffff,
     .writable = 0xffffffff,
     .on_write = on_write},
    {.name = "d",
     .offset = 8,
     .width_bytes = 8,
     .readable = UINT64_MAX,
     .writable = UINT64_MAX},
};

#define BYTES 18

static void test_model(void **state)
{
    uint64_t values[ARRAY_LEN(table)], seed = 1;
    struct regs regs = {.table = table, .n = ARRAY_LEN(table), .values = values};
    uint8_t model[BYTES] = {0x34, 0x12, 0xff}, writable[BYTES] = {0x0f, 0xff},
            w1c[BYTES] = {0, 0, 0xf0};

    (void)state;
    memset(writable + 4, 0xff, 12);
    regs_reset(&regs);
    for (int i = 0; i < 200000; i++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
        unsigned len = 1u << (seed >> 60 & 3), offset = (unsigned)(seed >> 40) % BYTES;
        uint64_t v = seed ^ seed << 23;
        if ((seed >> 33 & 1) != 0) {
            regs_write(&regs, offset, len, v);
            for (unsigned b = 0; b < len && offset + b < BYTES; b++) {
                uint8_t given = (uint8_t)(v >> (b * 8)), *m = &model[offset + b];
                *m = (uint8_t)((*m & ~writable[offset + b]) | (given & writable[offset + b]));
                *m &= (uint8_t) ~(given & w1c[offset + b]);
            }
            continue;
        }
        v = regs_read(&regs, offset, len);
        for (unsigned b = 0; b < len; b++) {
            uint8_t want = offset + b < BYTES ? model[offset + b] : 0;
            assert_int_equal(v >> (b * 8) & 0xff, want);
        }
    }
}

static void test_hooks(void **state)
{
    uint64_t values[ARRAY_LEN(table)];
    struct regs regs = {.table = table, .n = ARRAY_LEN(table), .values = values};

    (void)state;
    regs_reset(&regs);
    hook_calls = 0;
    regs_write(&regs, 5, 2, 0xaabb);
    assert_int_equal(hook_calls, 1);
    assert_int_equal(hook_covered, 0x00ffff00);
    assert_int_equal(values[2], 0x00aabb00);
    regs_write(&regs, 0, 8, 0);
    assert_int_equal(hook_calls, 2);
    assert_int_equal(values[0], 0x0030);
    assert_int_equal(values[1], 0xff);
    regs_write(&regs, UINT64_MAX, 8, 1);
    assert_int_equal(regs_read(&regs, UINT64_MAX - 3, 8), 0);
    values[1] = 0x5a;
    regs_sanitize(&regs);
    assert_int_equal(values[1], 0x5f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model),
        cmocka_unit_test(test_hooks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
