/* Tests of the keyboard controller: what the probes of operating systems do. */
#include "base/ckd.h"
#include "base/test.h"
#include "dev/dev_test.h"
#include "dev/legacy/i8042.h"

struct world {
    struct fixture fx;
    struct i8042 *kbc;
    unsigned resets;
    bool a20;
};

static void on_reset(void *opaque)
{
    struct world *w = opaque;

    w->resets++;
}

static void on_a20(void *opaque, bool on)
{
    struct world *w = opaque;

    w->a20 = on;
}

static struct i8042 *make(struct world *w, struct bus *bus)
{
    const struct i8042_config cfg = {.pio = bus,
                                     .lock = &w->fx.lock,
                                     .irq_kbd = fx_line(&w->fx, 1),
                                     .irq_aux = fx_line(&w->fx, 12),
                                     .reset = on_reset,
                                     .a20 = on_a20,
                                     .opaque = w};
    struct i8042 *kbc;
    struct err err;

    fx_must(i8042_new(&kbc, &cfg, &err), &err);
    return kbc;
}

static void setup(struct world *w)
{
    memset(w, 0, sizeof(*w));
    fx_init(&w->fx);
    w->kbc = make(w, w->fx.pio);
}

static void teardown(struct world *w)
{
    i8042_dev(w->kbc)->ops->free(i8042_dev(w->kbc));
    fx_done(&w->fx);
}

static uint8_t answer(struct world *w)
{
    assert_int_equal(fx_in(&w->fx, 0x64) & 1, 1);
    return fx_in(&w->fx, 0x60);
}

static void test_controller(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    assert_int_equal(fx_in(&w.fx, 0x64), 0x14);
    fx_out(&w.fx, 0x64, 0xaa);
    assert_int_equal(answer(&w), 0x55);
    assert_int_equal(fx_in(&w.fx, 0x64) & 1, 0);
    fx_out(&w.fx, 0x64, 0xab);
    assert_int_equal(answer(&w), 0);
    fx_out(&w.fx, 0x64, 0x20);
    assert_int_equal(answer(&w), 0x65);
    fx_out(&w.fx, 0x64, 0x60);
    fx_out(&w.fx, 0x60, 0x74);
    fx_out(&w.fx, 0x64, 0x20);
    assert_int_equal(answer(&w), 0x74);
    fx_out(&w.fx, 0x64, 0x73); /* controller RAM */
    fx_out(&w.fx, 0x60, 0x99);
    fx_out(&w.fx, 0x64, 0x33);
    assert_int_equal(answer(&w), 0x99);
    /* No auxiliary port: loop-back comes as keyboard data, the interface test fails. */
    fx_out(&w.fx, 0x64, 0xd3);
    fx_out(&w.fx, 0x60, 0x5a);
    assert_int_equal(fx_in(&w.fx, 0x64) & 0x21, 0x01);
    assert_int_equal(answer(&w), 0x5a);
    fx_out(&w.fx, 0x64, 0xa9);
    assert_int_equal(answer(&w), 0x01);
    fx_out(&w.fx, 0x64, 0xd4);
    fx_out(&w.fx, 0x60, 0xf2);
    assert_int_equal(fx_in(&w.fx, 0x64) & 0x61, 0x61);
    assert_int_equal(answer(&w), 0xfe);
    teardown(&w);
}

static void test_keyboard(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    fx_out(&w.fx, 0x60, 0xff);
    assert_true(w.fx.level[1]);
    assert_int_equal(answer(&w), 0xfa);
    assert_int_equal(answer(&w), 0xaa);
    assert_int_equal(w.fx.rises[1], 2); /* an edge for each byte */
    fx_out(&w.fx, 0x60, 0xf2);
    assert_int_equal(answer(&w), 0xfa);
    assert_int_equal(answer(&w), 0xab);
    assert_int_equal(answer(&w), 0x41);
    fx_out(&w.fx, 0x60, 0xed);
    assert_int_equal(answer(&w), 0xfa);
    fx_out(&w.fx, 0x60, 0x02);
    assert_int_equal(answer(&w), 0xfa);
    fx_out(&w.fx, 0x60, 0xf0);
    assert_int_equal(answer(&w), 0xfa);
    fx_out(&w.fx, 0x60, 0x00);
    assert_int_equal(answer(&w), 0xfa);
    assert_int_equal(answer(&w), 0x41);
    fx_out(&w.fx, 0x60, 0xee);
    assert_int_equal(answer(&w), 0xee);
    fx_out(&w.fx, 0x60, 0x01);
    assert_int_equal(answer(&w), 0xfe);
    fx_out(&w.fx, 0x60, 0xfe);
    assert_int_equal(answer(&w), 0xfe);
    /* Keys wait while the interface is disabled, and are refused when the keyboard is. */
    fx_out(&w.fx, 0x64, 0xad);
    assert_true(i8042_key(w.kbc, (const uint8_t[]){0xe0, 0x48}, 2));
    assert_int_equal(fx_in(&w.fx, 0x64) & 1, 0);
    fx_out(&w.fx, 0x64, 0xae);
    assert_int_equal(answer(&w), 0xe0);
    assert_int_equal(answer(&w), 0x48);
    fx_out(&w.fx, 0x60, 0xf5);
    assert_int_equal(answer(&w), 0xfa);
    assert_false(i8042_key(w.kbc, (const uint8_t[]){0x1e}, 1));
    fx_out(&w.fx, 0x60, 0xf4);
    assert_int_equal(answer(&w), 0xfa);
    for (int i = 0; i < 17; i++) {
        assert_true(
            i8042_key(w.kbc, (const uint8_t[]){(uint8_t)i}, 1)); /* one is in the buffer */
    }
    assert_false(i8042_key(w.kbc, (const uint8_t[]){99}, 1));
    for (int i = 0; i < 17; i++) {
        assert_int_equal(answer(&w), i);
    }
    teardown(&w);
}

static void test_reset_and_a20(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    fx_out(&w.fx, 0x64, 0xff);
    assert_int_equal(w.resets, 0);
    fx_out(&w.fx, 0x64, 0xfe);
    assert_int_equal(w.resets, 1);
    assert_true(w.a20);
    fx_out(&w.fx, 0x64, 0xd1);
    fx_out(&w.fx, 0x60, 0xdd);
    assert_false(w.a20);
    fx_out(&w.fx, 0x64, 0xd0);
    assert_int_equal(answer(&w) & 3, 1);
    fx_out(&w.fx, 0x64, 0xdf);
    assert_true(w.a20);
    fx_out(&w.fx, 0x64, 0xd1);
    fx_out(&w.fx, 0x60, 0x02);
    assert_int_equal(w.resets, 2);
    teardown(&w);
}

static void test_save_load(void **state)
{
    struct i8042 *other;
    struct world w;

    (void)state;
    setup(&w);
    fx_out(&w.fx, 0x60, 0xf2);
    answer(&w);
    fx_out(&w.fx, 0x64, 0x60); /* waits for its data */
    other = make(&w, NULL);
    assert_true(fx_copy(i8042_dev(w.kbc), i8042_dev(other)));
    i8042_dev(w.kbc)->ops->free(i8042_dev(w.kbc));
    w.kbc = make(&w, w.fx.pio);
    assert_true(fx_copy(i8042_dev(other), i8042_dev(w.kbc)));
    i8042_dev(other)->ops->free(i8042_dev(other));
    fx_out(&w.fx, 0x60, 0x64);
    assert_int_equal(answer(&w), 0xab);
    assert_int_equal(answer(&w), 0x41);
    fx_out(&w.fx, 0x64, 0x20);
    assert_int_equal(answer(&w), 0x64);
    i8042_dev(w.kbc)->ops->reset(i8042_dev(w.kbc));
    assert_int_equal(fx_in(&w.fx, 0x64), 0x14);
    teardown(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_controller),
        cmocka_unit_test(test_keyboard),
        cmocka_unit_test(test_reset_and_a20),
        cmocka_unit_test(test_save_load),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
