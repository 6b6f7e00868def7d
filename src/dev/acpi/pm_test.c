/* Tests of the ACPI fixed hardware. */
#include "base/ckd.h"
#include "base/test.h"
#include "dev/acpi/pm.h"
#include "dev/dev_test.h"

#define B 0x600

struct world {
    struct fixture fx;
    struct acpi_pm *pm;
    unsigned off;
};

static void power_off(void *opaque)
{
    struct world *w = opaque;

    w->off++;
}

static struct acpi_pm *make(struct world *w, struct bus *bus)
{
    const struct acpi_pm_config cfg = {.pio = bus,
                                       .s5_typ = 5,
                                       .clock = &w->fx.clock,
                                       .loop = w->fx.loop,
                                       .lock = &w->fx.lock,
                                       .sci = fx_line(&w->fx, 9),
                                       .power_off = power_off,
                                       .opaque = w};
    struct acpi_pm *pm;
    struct err err;

    fx_must(acpi_pm_new(&pm, &cfg, &err), &err);
    return pm;
}

static void setup(struct world *w)
{
    memset(w, 0, sizeof(*w));
    fx_init(&w->fx);
    w->pm = make(w, w->fx.pio);
}

static void teardown(struct world *w)
{
    acpi_pm_dev(w->pm)->ops->free(acpi_pm_dev(w->pm));
    fx_done(&w->fx);
}

static void out16(struct world *w, uint16_t port, uint16_t value)
{
    bus_write(w->fx.pio, port, 2, value);
}

static uint16_t in16(struct world *w, uint16_t port)
{
    return (uint16_t)bus_read(w->fx.pio, port, 2);
}

static void test_button_and_sleep(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    assert_int_equal(in16(&w, B + 4), 0);
    out16(&w, B + 2, 0x0120);
    assert_false(acpi_pm_hears_button(w.pm));
    acpi_pm_power_button(w.pm);
    assert_false(w.fx.level[9]); /* not in ACPI mode */
    fx_out(&w.fx, 0xb2, ACPI_PM_CMD_ENABLE);
    assert_int_equal(in16(&w, B + 4), 1);
    assert_true(acpi_pm_hears_button(w.pm));
    assert_true(w.fx.level[9]);
    assert_int_equal(in16(&w, B), 0x0100);
    fx_out(&w.fx, B, 0xff); /* the low byte does not clear the button */
    assert_true(w.fx.level[9]);
    out16(&w, B, 0x0100);
    assert_false(w.fx.level[9]);
    assert_int_equal(in16(&w, B), 0);
    /* SCI_EN is not writable; S3 wakes at once; S5 ends it. */
    out16(&w, B + 4, 0x0c00);
    assert_int_equal(in16(&w, B + 4), 0x0c01);
    out16(&w, B + 4, 0x2c00);
    assert_int_equal(w.off, 0);
    assert_int_equal(in16(&w, B), 0x8000);
    out16(&w, B + 4, 0x3400);
    assert_int_equal(w.off, 1);
    assert_int_equal(in16(&w, B + 4), 0x1401);
    fx_out(&w.fx, 0xb2, ACPI_PM_CMD_DISABLE);
    assert_int_equal(in16(&w, B + 4), 0x1400);
    assert_int_equal(fx_in(&w.fx, 0xb2), 3);
    teardown(&w);
}

static void test_timer(void **state)
{
    struct world w;
    uint32_t t0, t1;

    (void)state;
    setup(&w);
    fx_out(&w.fx, 0xb2, ACPI_PM_CMD_ENABLE);
    t0 = (uint32_t)bus_read(w.fx.pio, B + 8, 4);
    fx_advance(&w.fx, NSEC_PER_SEC);
    t1 = (uint32_t)bus_read(w.fx.pio, B + 8, 4);
    assert_int_equal(t1 - t0, ACPI_PM_HZ);
    assert_int_equal(bus_read(w.fx.pio, B + 9, 1), t1 >> 8 & 0xff);
    bus_write(w.fx.pio, B + 8, 4, 0);
    assert_int_equal(bus_read(w.fx.pio, B + 8, 4), t1);
    /* Overflow: bit 23 changes every 2.34 s. */
    assert_int_equal(in16(&w, B), 0);
    fx_advance(&w.fx, 3 * NSEC_PER_SEC);
    assert_int_equal(in16(&w, B), 1);
    assert_false(w.fx.level[9]);
    assert_true(bus_read(w.fx.pio, B + 8, 4) < 1u << 24);
    out16(&w, B, 1);
    assert_int_equal(in16(&w, B), 0);
    out16(&w, B + 2, 1);
    w.fx.fired = 0;
    for (int i = 0; i < 10; i++) {
        fx_advance(&w.fx, (UINT64_C(1) << 23) * NSEC_PER_SEC / ACPI_PM_HZ + 1);
        assert_true(w.fx.level[9]);
        out16(&w, B, 1);
        assert_false(w.fx.level[9]);
    }
    assert_int_equal(w.fx.fired, 10);
    teardown(&w);
}

static void test_gpe_and_save(void **state)
{
    struct acpi_pm *other;
    struct world w;

    (void)state;
    setup(&w);
    fx_out(&w.fx, 0xb2, ACPI_PM_CMD_ENABLE);
    acpi_pm_raise_gpe(w.pm, 3);
    acpi_pm_raise_gpe(w.pm, 99);
    assert_false(w.fx.level[9]);
    out16(&w, B + 0x22, 0x0008);
    assert_true(w.fx.level[9]);
    assert_int_equal(bus_read(w.fx.pio, B + 0x20, 4), 0x00080008);
    out16(&w, B + 2, 0x0001);
    other = make(&w, NULL);
    assert_true(fx_copy(acpi_pm_dev(w.pm), acpi_pm_dev(other)));
    acpi_pm_dev(w.pm)->ops->free(acpi_pm_dev(w.pm));
    w.pm = make(&w, w.fx.pio);
    assert_true(fx_copy(acpi_pm_dev(other), acpi_pm_dev(w.pm)));
    acpi_pm_dev(other)->ops->free(acpi_pm_dev(other));
    assert_true(w.fx.level[9]);
    out16(&w, B + 0x20, 0x0008);
    assert_false(w.fx.level[9]);
    fx_advance(&w.fx, 3 * NSEC_PER_SEC);
    assert_true(w.fx.level[9]);
    acpi_pm_dev(w.pm)->ops->reset(acpi_pm_dev(w.pm));
    assert_false(w.fx.level[9]);
    teardown(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_button_and_sleep),
        cmocka_unit_test(test_timer),
        cmocka_unit_test(test_gpe_and_save),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
