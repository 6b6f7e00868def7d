/* Tests of the real-time clock: time in every format, setting, alarm, periodic, save and load.
 */
#include "base/ckd.h"
#include "base/test.h"
#include "dev/dev_test.h"
#include "dev/timer/mc146818.h"

struct world {
    struct fixture fx;
    struct mc146818 *rtc;
    uint64_t wall_base_ns; /* wall time at guest time 0 */
};

static uint64_t wall(void *opaque)
{
    const struct world *w = opaque;

    return w->wall_base_ns + vmclock_now_ns(&w->fx.clock);
}

static struct mc146818 *make(struct world *w, struct bus *bus)
{
    const struct mc146818_config cfg = {.pio = bus,
                                        .clock = &w->fx.clock,
                                        .loop = w->fx.loop,
                                        .lock = &w->fx.lock,
                                        .irq = fx_line(&w->fx, 8),
                                        .wall_ns = wall,
                                        .wall_opaque = w};
    struct mc146818 *rtc;
    struct err err;

    fx_must(mc146818_new(&rtc, &cfg, &err), &err);
    return rtc;
}

/* 2024-02-29 23:59:58 UTC, a Thursday. */
#define EVE UINT64_C(1709251198)

static void setup(struct world *w)
{
    memset(w, 0, sizeof(*w));
    fx_init(&w->fx);
    w->wall_base_ns = (EVE - 1) * NSEC_PER_SEC;
    w->rtc = make(w, w->fx.pio);
}

static void teardown(struct world *w)
{
    mc146818_dev(w->rtc)->ops->free(mc146818_dev(w->rtc));
    fx_done(&w->fx);
}

static uint8_t rd(struct world *w, uint8_t index)
{
    fx_out(&w->fx, 0x70, index);
    return fx_in(&w->fx, 0x71);
}

static void wr(struct world *w, uint8_t index, uint8_t value)
{
    fx_out(&w->fx, 0x70, index);
    fx_out(&w->fx, 0x71, value);
}

static void expect(struct world *w, const uint8_t want[8])
{
    static const uint8_t index[] = {0x32, 9, 8, 7, 6, 4, 2, 0};

    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(rd(w, index[i]), want[i]);
    }
}

static void test_time(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    expect(&w, (const uint8_t[]){0x20, 0x24, 0x02, 0x29, 0x05, 0x23, 0x59, 0x58});
    fx_advance(&w.fx, 2 * NSEC_PER_SEC);
    expect(&w, (const uint8_t[]){0x20, 0x24, 0x03, 0x01, 0x06, 0x00, 0x00, 0x00});
    wr(&w, 11, 0x06); /* binary */
    expect(&w, (const uint8_t[]){20, 24, 3, 1, 6, 0, 0, 0});
    wr(&w, 11, 0x00); /* BCD, 12 hours: midnight is 12 AM */
    assert_int_equal(rd(&w, 4), 0x12);
    fx_advance(&w.fx, 13 * 3600 * NSEC_PER_SEC);
    assert_int_equal(rd(&w, 4), 0x81); /* 1 PM */
    wr(&w, 11, 0x04);
    assert_int_equal(rd(&w, 4), 0x81);
    fx_advance(&w.fx, 11 * 3600 * NSEC_PER_SEC - 1);
    assert_int_equal(rd(&w, 4), 0x8b);
    assert_int_equal(rd(&w, 13), 0x80);
    teardown(&w);
}

static void test_set(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    /* As Linux does: SET, divider reset, fields, divider and SET back. */
    wr(&w, 11, 0x82);
    wr(&w, 10, 0x76);
    wr(&w, 0x32, 0x19);
    wr(&w, 9, 0x99);
    wr(&w, 8, 0x12);
    wr(&w, 7, 0x31);
    wr(&w, 6, 0x06);
    wr(&w, 4, 0x23);
    wr(&w, 2, 0x59);
    wr(&w, 0, 0x59);
    fx_advance(&w.fx, 100 * NSEC_PER_SEC);
    expect(&w, (const uint8_t[]){0x19, 0x99, 0x12, 0x31, 0x06, 0x23, 0x59, 0x59});
    wr(&w, 11, 0x02);
    wr(&w, 10, 0x26);
    fx_advance(&w.fx, 400000000);
    expect(&w, (const uint8_t[]){0x19, 0x99, 0x12, 0x31, 0x06, 0x23, 0x59, 0x59});
    fx_advance(&w.fx, 200000000); /* the first update is half a second after the release */
    expect(&w, (const uint8_t[]){0x20, 0x00, 0x01, 0x01, 0x07, 0x00, 0x00, 0x00});
    /* A single field while running; nonsense carries over. */
    wr(&w, 4, 0x11);
    assert_int_equal(rd(&w, 4), 0x11);
    wr(&w, 8, 0xff);
    wr(&w, 7, 0xff);
    assert_in_range(rd(&w, 8), 0x01, 0x12);
    /* Day of week as the program wants it. */
    wr(&w, 6, 0x03);
    assert_int_equal(rd(&w, 6), 0x03);
    teardown(&w);
}

static void test_update_and_alarm(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    fx_advance(&w.fx, 500000000);
    assert_int_equal(rd(&w, 10), 0x26);
    fx_advance(&w.fx, 499000000);
    assert_int_equal(rd(&w, 10), 0xa6); /* update in progress */
    rd(&w, 12);
    fx_advance(&w.fx, 2000000);
    assert_int_equal(rd(&w, 12) & 0xb0, 0x10); /* UF without an interrupt */
    wr(&w, 11, 0x12);
    fx_advance(&w.fx, 3 * NSEC_PER_SEC);
    assert_int_equal(w.fx.rises[8], 1); /* held until C is read */
    assert_int_equal(rd(&w, 12) & 0x90, 0x90);
    assert_false(w.fx.level[8]);
    assert_int_equal(rd(&w, 12), 0);
    /* Alarm at 00:01:10, then at every minute's second 10. */
    wr(&w, 11, 0x22);
    wr(&w, 1, 0x10);
    wr(&w, 3, 0x01);
    wr(&w, 5, 0x00);
    w.fx.rises[8] = 0;
    fx_advance(&w.fx, 65 * NSEC_PER_SEC);
    assert_int_equal(w.fx.rises[8], 0);
    fx_advance(&w.fx, 4 * NSEC_PER_SEC);
    assert_int_equal(w.fx.rises[8], 1);
    assert_int_equal(rd(&w, 12) & 0xa0, 0xa0);
    wr(&w, 3, 0xff);
    wr(&w, 5, 0xc0);
    for (int i = 0; i < 180; i++) {
        fx_advance(&w.fx, NSEC_PER_SEC);
        rd(&w, 12);
    }
    assert_int_equal(w.fx.rises[8], 4);
    /* An alarm that came while nobody looked is still seen, also over a jump of the wall clock.
     */
    wr(&w, 11, 0x02);
    rd(&w, 12);
    w.wall_base_ns += 7200 * NSEC_PER_SEC;
    assert_int_equal(rd(&w, 12) & 0x20, 0x20);
    w.wall_base_ns -= 720000 * NSEC_PER_SEC;
    rd(&w, 12);
    teardown(&w);
}

static void test_periodic(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    wr(&w, 11, 0x42); /* 1024 Hz */
    for (int i = 0; i < 4000; i++) {
        fx_advance(&w.fx, 250000);
        if (w.fx.level[8]) {
            assert_int_equal(rd(&w, 12) & 0xc0, 0xc0);
        }
    }
    assert_in_range(w.fx.rises[8], 1023, 1025);
    w.fx.rises[8] = 0;
    fx_advance_late(&w.fx, 5 * NSEC_PER_SEC);
    for (int i = 0; i < 400; i++) {
        rd(&w, 12);
        fx_advance(&w.fx, 250000);
    }
    assert_in_range(w.fx.rises[8], 100, 115); /* 102 and a bounded catch-up */
    wr(&w, 10, 0x20);
    w.fx.rises[8] = 0;
    rd(&w, 12);
    fx_advance(&w.fx, NSEC_PER_SEC);
    assert_int_equal(w.fx.rises[8], 0);
    /* 8192 Hz, the fastest. */
    wr(&w, 10, 0x23);
    w.fx.fired = 0;
    fx_advance(&w.fx, NSEC_PER_SEC / 10);
    assert_in_range(w.fx.fired, 818, 821);
    teardown(&w);
}

static void test_ram_and_save(void **state)
{
    struct mc146818 *other;
    struct world w;

    (void)state;
    setup(&w);
    for (uint8_t i = 14; i < 128; i++) {
        if (i != 0x32) {
            wr(&w, i, i);
        }
    }
    assert_int_equal(rd(&w, 0x7f), 0x7f);
    mc146818_set_cmos(w.rtc, 0x34, 0x99);
    mc146818_set_cmos(w.rtc, 0x00, 0x99);
    assert_int_equal(rd(&w, 0x34), 0x99);
    fx_out(&w.fx, 0x70, 0x8f);
    assert_true(mc146818_nmi_masked(w.rtc));
    assert_int_equal(fx_in(&w.fx, 0x71), 0x0f);
    assert_int_equal(fx_in(&w.fx, 0x70), 0x8f);
    wr(&w, 4, 0x11);
    wr(&w, 11, 0x42);
    fx_advance(&w.fx, 100000000);
    rd(&w, 12);
    other = make(&w, NULL);
    assert_true(fx_copy(mc146818_dev(w.rtc), mc146818_dev(other)));
    mc146818_dev(w.rtc)->ops->free(mc146818_dev(w.rtc));
    w.rtc = other;
    w.fx.rises[8] = 0;
    w.fx.level[8] = false;
    fx_advance(&w.fx, 2000000);
    assert_int_equal(w.fx.rises[8], 1);
    /* A reset stops the interrupts and keeps the rest. */
    mc146818_dev(other)->ops->reset(mc146818_dev(other));
    assert_false(w.fx.level[8]);
    w.rtc = make(&w, w.fx.pio);
    assert_true(fx_copy(mc146818_dev(other), mc146818_dev(w.rtc)));
    mc146818_dev(other)->ops->free(mc146818_dev(other));
    assert_int_equal(rd(&w, 0x34), 0x99);
    assert_int_equal(rd(&w, 4), 0x11);
    teardown(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_set),
        cmocka_unit_test(test_update_and_alarm),
        cmocka_unit_test(test_periodic),
        cmocka_unit_test(test_ram_and_save),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
