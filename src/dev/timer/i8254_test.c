/* Tests of the interval timer: every mode, latches, gate and port 61h, IRQ 0, save and load. */
#include "base/ckd.h"
#include "base/test.h"
#include "dev/dev_test.h"
#include "dev/timer/i8254.h"

struct world {
    struct fixture fx;
    struct i8254 *pit;
};

static struct i8254 *make(struct world *w, struct bus *bus)
{
    const struct i8254_config cfg = {.pio = bus,
                                     .clock = &w->fx.clock,
                                     .loop = w->fx.loop,
                                     .lock = &w->fx.lock,
                                     .irq = fx_line(&w->fx, 0)};
    struct i8254 *pit;
    struct err err;

    fx_must(i8254_new(&pit, &cfg, &err), &err);
    return pit;
}

static void setup(struct world *w)
{
    memset(w, 0, sizeof(*w));
    fx_init(&w->fx);
    w->pit = make(w, w->fx.pio);
}

static void teardown(struct world *w)
{
    i8254_dev(w->pit)->ops->free(i8254_dev(w->pit));
    fx_done(&w->fx);
}

static uint64_t ticks(uint64_t n)
{
    return n * NSEC_PER_SEC / I8254_HZ + 1;
}

static void load(struct world *w, unsigned i, uint8_t mode, uint16_t n)
{
    fx_out(&w->fx, 0x43, i << 6 | 0x30 | (uint32_t)mode << 1);
    fx_out(&w->fx, (uint16_t)(0x40 + i), n & 0xff);
    fx_out(&w->fx, (uint16_t)(0x40 + i), n >> 8);
}

static uint16_t count(struct world *w, unsigned i)
{
    uint16_t low;

    fx_out(&w->fx, 0x43, i << 6);
    low = fx_in(&w->fx, (uint16_t)(0x40 + i));
    return (uint16_t)(low | fx_in(&w->fx, (uint16_t)(0x40 + i)) << 8);
}

static bool out2(struct world *w)
{
    return (fx_in(&w->fx, 0x61) & 0x20) != 0;
}

static void test_rate(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    load(&w, 0, 2, 11932); /* 100 Hz */
    fx_advance(&w.fx, NSEC_PER_SEC);
    assert_in_range(w.fx.rises[0], 99, 101);
    /* No drift: a thousand seconds give the exact number of periods. */
    w.fx.rises[0] = 0;
    load(&w, 0, 3, 11932);
    fx_advance(&w.fx, 1000 * NSEC_PER_SEC);
    assert_int_equal(w.fx.rises[0], 1000 * I8254_HZ / 11932);
    /* A new count takes effect at the end of the period. */
    load(&w, 0, 2, 10000);
    fx_advance(&w.fx, ticks(5000));
    fx_out(&w.fx, 0x40, 1000 & 0xff);
    fx_out(&w.fx, 0x40, 1000 >> 8);
    w.fx.rises[0] = 0;
    fx_advance(&w.fx, ticks(4900));
    assert_int_equal(w.fx.rises[0], 0);
    fx_advance(&w.fx, ticks(200));
    assert_int_equal(w.fx.rises[0], 1);
    fx_advance(&w.fx, ticks(1000));
    assert_int_equal(w.fx.rises[0], 2);
    teardown(&w);
}

static void test_one_shot(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    load(&w, 0, 0, 1000);
    assert_false(w.fx.level[0]);
    fx_advance(&w.fx, ticks(999));
    assert_false(w.fx.level[0]);
    assert_int_equal(count(&w, 0), 1);
    fx_advance(&w.fx, ticks(1));
    assert_true(w.fx.level[0]);
    fx_advance(&w.fx, NSEC_PER_SEC);
    assert_int_equal(w.fx.rises[0], 1);
    load(&w, 0, 4, 500); /* software strobe, as Linux uses for one-shot */
    w.fx.rises[0] = 0;
    fx_advance(&w.fx, ticks(502));
    assert_int_equal(w.fx.rises[0], 1);
    fx_out(&w.fx, 0x40, 0xe8);
    fx_out(&w.fx, 0x40, 0x03);
    fx_advance(&w.fx, ticks(1002));
    assert_int_equal(w.fx.rises[0], 2);
    fx_advance(&w.fx, NSEC_PER_SEC);
    assert_int_equal(w.fx.rises[0], 2);
    teardown(&w);
}

static void test_late_host(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    load(&w, 0, 2, 11932);
    fx_advance(&w.fx, NSEC_PER_SEC);
    w.fx.rises[0] = 0;
    fx_advance_late(&w.fx, 5 * NSEC_PER_SEC + 1000000); /* 500 periods are gone */
    assert_int_equal(w.fx.rises[0], 1);
    fx_advance(&w.fx, NSEC_PER_SEC);
    /* One second of its own and a bounded number to catch up. */
    assert_in_range(w.fx.rises[0], 100, 112);
    /* The highest rate a guest can ask for does not flood the host. */
    load(&w, 0, 2, 2);
    w.fx.fired = 0;
    fx_advance(&w.fx, 10000000);
    assert_true(w.fx.fired <= 510);
    teardown(&w);
}

static void test_channel2(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    /* The calibration loop of Linux: mode 0 on channel 2 with the gate open. */
    fx_out(&w.fx, 0x61, 0x01);
    load(&w, 2, 0, 2000);
    assert_false(out2(&w));
    fx_advance(&w.fx, ticks(1000));
    fx_out(&w.fx, 0x61, 0x00);
    fx_advance(&w.fx, NSEC_PER_SEC); /* the gate stops it */
    assert_int_equal(count(&w, 2), 1000);
    fx_out(&w.fx, 0x61, 0x01);
    fx_advance(&w.fx, ticks(998));
    assert_false(out2(&w));
    fx_advance(&w.fx, ticks(3));
    assert_true(out2(&w));
    assert_int_equal(fx_in(&w.fx, 0x61) & 0x0f, 1);
    fx_out(&w.fx, 0x61, 0xff);
    assert_int_equal(fx_in(&w.fx, 0x61) & 0xcf, 0x0f);
    /* Mode 1: the gate's rising edge starts it, and again. */
    fx_out(&w.fx, 0x61, 0);
    load(&w, 2, 1, 100);
    assert_true(out2(&w));
    fx_out(&w.fx, 0x61, 1);
    assert_false(out2(&w));
    fx_advance(&w.fx, ticks(60));
    fx_out(&w.fx, 0x61, 0);
    fx_out(&w.fx, 0x61, 1);
    fx_advance(&w.fx, ticks(60));
    assert_false(out2(&w));
    fx_advance(&w.fx, ticks(60));
    assert_true(out2(&w));
    /* Mode 3: halves. */
    load(&w, 2, 3, 100);
    assert_true(out2(&w));
    fx_advance(&w.fx, ticks(60));
    assert_false(out2(&w));
    fx_advance(&w.fx, ticks(50));
    assert_true(out2(&w));
    /* Mode 5: a strobe after the trigger. */
    load(&w, 2, 5, 100);
    assert_true(out2(&w));
    fx_out(&w.fx, 0x61, 0);
    fx_out(&w.fx, 0x61, 1);
    fx_advance(&w.fx, ticks(100));
    assert_false(out2(&w));
    fx_advance(&w.fx, ticks(2));
    assert_true(out2(&w));
    teardown(&w);
}

static void test_latch_and_formats(void **state)
{
    struct world w;
    uint8_t low;

    (void)state;
    setup(&w);
    load(&w, 0, 2, 1000);
    fx_advance(&w.fx, ticks(300));
    fx_out(&w.fx, 0x43, 0x00);
    fx_advance(&w.fx, ticks(100));
    fx_out(&w.fx, 0x43, 0x00); /* a second latch before the read is ignored */
    low = fx_in(&w.fx, 0x40);
    assert_int_equal(low | fx_in(&w.fx, 0x40) << 8, 700);
    assert_int_equal(count(&w, 0), 600);
    /* Read-back of status and count: status comes first. */
    fx_out(&w.fx, 0x43, 0xc2);
    assert_int_equal(fx_in(&w.fx, 0x40), 0xb4);
    low = fx_in(&w.fx, 0x40);
    assert_int_equal(low | fx_in(&w.fx, 0x40) << 8, 600);
    /* Low byte only, high byte only. */
    fx_out(&w.fx, 0x43, 0x14);
    fx_out(&w.fx, 0x40, 200);
    assert_int_equal(fx_in(&w.fx, 0x40), 200);
    fx_out(&w.fx, 0x43, 0x24);
    fx_out(&w.fx, 0x40, 2);
    assert_int_equal(fx_in(&w.fx, 0x40), 2);
    /* BCD; zero is the largest count. */
    fx_out(&w.fx, 0x43, 0x35);
    fx_out(&w.fx, 0x40, 0x34);
    fx_out(&w.fx, 0x40, 0x12);
    assert_int_equal(count(&w, 0), 0x1234);
    fx_advance(&w.fx, ticks(35));
    assert_int_equal(count(&w, 0), 0x1199);
    fx_out(&w.fx, 0x43, 0x31);
    fx_out(&w.fx, 0x40, 0);
    fx_out(&w.fx, 0x40, 0);
    assert_int_equal(count(&w, 0), 0);
    fx_advance(&w.fx, ticks(1));
    assert_int_equal(count(&w, 0), 0x9999);
    /* Null count until the new count is in force. */
    fx_out(&w.fx, 0x43, 0x34);
    fx_out(&w.fx, 0x43, 0xe2);
    assert_int_equal(fx_in(&w.fx, 0x40) & 0x40, 0x40);
    teardown(&w);
}

static void test_save_load(void **state)
{
    struct world w;
    struct i8254 *other;

    (void)state;
    setup(&w);
    load(&w, 0, 2, 11932);
    load(&w, 2, 3, 500);
    fx_advance(&w.fx, ticks(6000));
    fx_out(&w.fx, 0x43, 0x00);
    fx_in(&w.fx, 0x40); /* half of a latched read */
    other = make(&w, NULL);
    assert_true(fx_copy(i8254_dev(w.pit), i8254_dev(other)));
    i8254_dev(w.pit)->ops->free(i8254_dev(w.pit));
    w.pit = other;
    w.fx.rises[0] = 0;
    fx_advance(&w.fx, ticks(5931));
    assert_int_equal(w.fx.rises[0], 0);
    fx_advance(&w.fx, ticks(2));
    assert_int_equal(w.fx.rises[0], 1);
    fx_advance(&w.fx, ticks(11932 * 9));
    assert_int_equal(w.fx.rises[0], 10);
    i8254_dev(other)->ops->reset(i8254_dev(other));
    fx_advance(&w.fx, NSEC_PER_SEC);
    assert_int_equal(w.fx.rises[0], 10);
    teardown(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rate),
        cmocka_unit_test(test_one_shot),
        cmocka_unit_test(test_late_host),
        cmocka_unit_test(test_channel2),
        cmocka_unit_test(test_latch_and_formats),
        cmocka_unit_test(test_save_load),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
