/* Tests of the HPET: counter, one-shot, periodic, legacy wires, messages, levels, save and
 * load. */
#include "base/ckd.h"
#include "base/test.h"
#include "dev/dev_test.h"
#include "dev/timer/hpet.h"

#define B HPET_BASE_DEFAULT

struct world {
    struct fixture fx;
    struct hpet *hpet;
    unsigned msgs;
    uint64_t addr;
    uint32_t data;
};

static void set_gsi(void *opaque, unsigned gsi, bool level)
{
    struct world *w = opaque;

    fx_line_set(&w->fx, gsi, level);
}

static void sink(void *opaque, uint64_t addr, uint32_t data)
{
    struct world *w = opaque;

    w->msgs++;
    w->addr = addr;
    w->data = data;
}

static struct hpet *make(struct world *w, struct bus *bus)
{
    const struct hpet_config cfg = {.mmio = bus,
                                    .clock = &w->fx.clock,
                                    .loop = w->fx.loop,
                                    .set_gsi = set_gsi,
                                    .opaque = w,
                                    .msi = {sink, w}};
    struct hpet *hpet;
    struct err err;

    fx_must(hpet_new(&hpet, &cfg, &err), &err);
    return hpet;
}

static void setup(struct world *w)
{
    memset(w, 0, sizeof(*w));
    fx_init(&w->fx);
    w->hpet = make(w, w->fx.mmio);
}

static void teardown(struct world *w)
{
    hpet_dev(w->hpet)->ops->free(hpet_dev(w->hpet));
    fx_done(&w->fx);
}

static uint64_t rd(struct world *w, unsigned reg)
{
    return bus_read(w->fx.mmio, B + reg, 8);
}

static void wr(struct world *w, unsigned reg, uint64_t value)
{
    bus_write(w->fx.mmio, B + reg, 8, value);
}

static void wr32(struct world *w, unsigned reg, uint32_t value)
{
    bus_write(w->fx.mmio, B + reg, 4, value);
}

#define US 100 /* ticks */

static void test_counter(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    assert_true(rd(&w, 0) == UINT64_C(0x009896808086a201));
    assert_int_equal(bus_read(w.fx.mmio, B + 4, 4), 10000000);
    fx_advance(&w.fx, 1000000);
    assert_int_equal(rd(&w, 0xf0), 0);
    wr(&w, 0xf0, UINT64_C(0xfffffffffffffff0));
    wr(&w, 0x10, 1);
    fx_advance(&w.fx, 200);
    assert_true(rd(&w, 0xf0) == 4); /* wrapped */
    wr(&w, 0xf0, 77);               /* ignored while it runs */
    wr(&w, 0x10, 0);
    fx_advance(&w.fx, 1000);
    assert_int_equal(rd(&w, 0xf0), 4);
    assert_int_equal(rd(&w, 0x100) & 0xffff, 0x8030);
    assert_int_equal(rd(&w, 0x100) >> 32, 0x00f00000);
    assert_true(rd(&w, 0x108) == UINT64_MAX);
    assert_int_equal(rd(&w, 0x160), 0); /* there is no fourth timer */
    teardown(&w);
}

static void test_one_shot(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    wr(&w, 0x10, 1);
    wr(&w, 0x100, 20 << 9 | 0x4);
    wr(&w, 0x108, rd(&w, 0xf0) + 50 * US);
    fx_advance(&w.fx, 49999);
    assert_int_equal(w.fx.rises[20], 0);
    fx_advance(&w.fx, 1);
    assert_int_equal(w.fx.rises[20], 1);
    fx_advance(&w.fx, NSEC_PER_SEC);
    assert_int_equal(w.fx.rises[20], 1);
    /* A comparator in the past does not match; in 32-bit mode it does after the wrap. */
    wr(&w, 0x108, 5);
    fx_advance(&w.fx, NSEC_PER_SEC);
    assert_int_equal(w.fx.rises[20], 1);
    wr(&w, 0x100, 20 << 9 | 0x104);
    fx_advance(&w.fx, 43 * NSEC_PER_SEC);
    assert_int_equal(w.fx.rises[20], 2);
    fx_advance(&w.fx, 43 * NSEC_PER_SEC);
    assert_int_equal(w.fx.rises[20], 3);
    /* A route that the timer cannot take goes nowhere. */
    wr(&w, 0x100, 5 << 9 | 0x4);
    wr(&w, 0x108, rd(&w, 0xf0) + US);
    fx_advance(&w.fx, 1000000);
    assert_int_equal(w.fx.rises[5], 0);
    teardown(&w);
}

static void test_periodic_legacy(void **state)
{
    struct irq_line pit;
    struct world w;

    (void)state;
    setup(&w);
    pit = hpet_pit_input(w.hpet);
    irq_set(&pit, true);
    assert_true(w.fx.level[0]);
    /* As Linux sets it up: legacy, periodic at 1 kHz, 32-bit writes. */
    wr(&w, 0x10, 3);
    assert_false(w.fx.level[0]);
    irq_set(&pit, false);
    irq_set(&pit, true);
    assert_int_equal(w.fx.rises[0], 1);
    wr32(&w, 0x100, 0x14c);
    wr32(&w, 0x108, (uint32_t)rd(&w, 0xf0) + 1000 * US);
    wr32(&w, 0x108, 1000 * US);
    fx_advance(&w.fx, NSEC_PER_SEC);
    assert_int_equal(w.fx.rises[0], 1001);
    /* Late by ten and a half periods: one interrupt, then in phase again. */
    w.fx.rises[0] = 0;
    fx_advance_late(&w.fx, 10500000);
    assert_int_equal(w.fx.rises[0], 1);
    fx_advance(&w.fx, 499999);
    assert_int_equal(w.fx.rises[0], 1);
    fx_advance(&w.fx, 1);
    assert_int_equal(w.fx.rises[0], 2);
    wr32(&w, 0x10, 1); /* legacy off: the PIT has its wire back */
    assert_true(w.fx.level[0]);
    irq_set(&pit, false);
    assert_false(w.fx.level[0]);
    /* Timer 1 drives the RTC's wire. */
    wr32(&w, 0x100, 0);
    wr32(&w, 0x10, 3);
    wr32(&w, 0x120, 0x4);
    wr(&w, 0x128, rd(&w, 0xf0) + US);
    fx_advance(&w.fx, 1000);
    assert_int_equal(w.fx.rises[8], 1);
    /* The shortest period does not flood the host. */
    wr32(&w, 0x100, 0x14c);
    wr32(&w, 0x108, (uint32_t)rd(&w, 0xf0) + 10);
    wr32(&w, 0x108, 1);
    w.fx.fired = 0;
    fx_advance(&w.fx, 10000000);
    assert_true(w.fx.fired <= 502);
    teardown(&w);
}

static void test_level_and_message(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    wr(&w, 0x10, 1);
    wr(&w, 0x140, 22 << 9 | 0x6);
    wr(&w, 0x148, rd(&w, 0xf0) + US);
    fx_advance(&w.fx, 1000);
    assert_true(w.fx.level[22]);
    assert_int_equal(rd(&w, 0x20), 4);
    wr(&w, 0x20, 3);
    assert_true(w.fx.level[22]);
    wr(&w, 0x20, 4);
    assert_false(w.fx.level[22]);
    assert_int_equal(rd(&w, 0x20), 0);
    wr(&w, 0x150, UINT64_C(0xfee0100000004055));
    wr(&w, 0x140, 0x4004);
    wr(&w, 0x148, rd(&w, 0xf0) + US);
    fx_advance(&w.fx, 1000);
    assert_int_equal(w.msgs, 1);
    assert_true(w.addr == 0xfee01000);
    assert_int_equal(w.data, 0x4055);
    teardown(&w);
}

static void test_save_load(void **state)
{
    struct hpet *other;
    struct world w;

    (void)state;
    setup(&w);
    wr(&w, 0x10, 3);
    wr32(&w, 0x100, 0x4c);
    wr(&w, 0x108, 1000 * US);
    wr(&w, 0x108, 1000 * US);
    fx_advance(&w.fx, 5500000);
    assert_int_equal(w.fx.rises[0], 5);
    other = make(&w, NULL);
    assert_true(fx_copy(hpet_dev(w.hpet), hpet_dev(other)));
    hpet_dev(w.hpet)->ops->free(hpet_dev(w.hpet));
    w.hpet = other;
    fx_advance(&w.fx, 499999);
    assert_int_equal(w.fx.rises[0], 5);
    fx_advance(&w.fx, 1);
    assert_int_equal(w.fx.rises[0], 6);
    fx_advance(&w.fx, 10000000);
    assert_int_equal(w.fx.rises[0], 16);
    hpet_dev(other)->ops->reset(hpet_dev(other));
    fx_advance(&w.fx, 10000000);
    assert_int_equal(w.fx.rises[0], 16);
    teardown(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counter),         cmocka_unit_test(test_one_shot),
        cmocka_unit_test(test_periodic_legacy), cmocka_unit_test(test_level_and_message),
        cmocka_unit_test(test_save_load),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
