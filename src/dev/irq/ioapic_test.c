/* Tests of the I/O APIC: registers, edge and level pins, EOI, save and load. */
#include "base/ckd.h"
#include "base/test.h"
#include "dev/dev_test.h"
#include "dev/irq/ioapic.h"

struct world {
    struct fixture fx;
    struct ioapic *io;
    unsigned sent;
    uint64_t addr;
    uint32_t data;
};

static void sink(void *opaque, uint64_t addr, uint32_t data)
{
    struct world *w = opaque;

    w->sent++;
    w->addr = addr;
    w->data = data;
}

static struct ioapic *make(struct world *w, struct bus *bus)
{
    const struct ioapic_config cfg = {.mmio = bus, .id = 5, .msi = {sink, w}};
    struct ioapic *io;
    struct err err;

    fx_must(ioapic_new(&io, &cfg, &err), &err);
    return io;
}

static void setup(struct world *w)
{
    memset(w, 0, sizeof(*w));
    fx_init(&w->fx);
    w->io = make(w, w->fx.mmio);
}

static void teardown(struct world *w)
{
    ioapic_dev(w->io)->ops->free(ioapic_dev(w->io));
    fx_done(&w->fx);
}

static uint32_t rd(struct world *w, uint8_t index)
{
    bus_write(w->fx.mmio, IOAPIC_BASE_DEFAULT, 4, index);
    return (uint32_t)bus_read(w->fx.mmio, IOAPIC_BASE_DEFAULT + 0x10, 4);
}

static void wr(struct world *w, uint8_t index, uint32_t value)
{
    bus_write(w->fx.mmio, IOAPIC_BASE_DEFAULT, 4, index);
    bus_write(w->fx.mmio, IOAPIC_BASE_DEFAULT + 0x10, 4, value);
}

static void test_registers(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    assert_int_equal(rd(&w, 0), 5u << 24);
    wr(&w, 0, 0xff000000);
    assert_int_equal(rd(&w, 0), 0x0f000000);
    assert_int_equal(rd(&w, 1), 0x00170020);
    for (unsigned n = 0; n < IOAPIC_PINS; n++) {
        assert_int_equal(rd(&w, (uint8_t)(0x10 + 2 * n)), 0x10000);
    }
    wr(&w, 0x12, 0xffffffff);
    assert_int_equal(rd(&w, 0x12), 0x0001afff);
    wr(&w, 0x13, 0xffffffff);
    assert_int_equal(rd(&w, 0x13), 0xffff0000);
    assert_int_equal(rd(&w, 0x40), 0);
    wr(&w, 0x40, 0xffffffff);
    /* Bytes of the window. */
    bus_write(w.fx.mmio, IOAPIC_BASE_DEFAULT, 4, 1);
    assert_int_equal(bus_read(w.fx.mmio, IOAPIC_BASE_DEFAULT + 0x12, 1), 0x17);
    teardown(&w);
}

static void test_edge(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    wr(&w, 0x11, 3u << 24);
    wr(&w, 0x10, 0x10934); /* masked, logical, lowest priority, 34h */
    ioapic_set_pin(w.io, 0, true);
    ioapic_set_pin(w.io, 0, false);
    wr(&w, 0x10, 0x934);
    assert_int_equal(w.sent, 0); /* an edge on a masked pin is lost */
    ioapic_set_pin(w.io, 0, true);
    ioapic_set_pin(w.io, 0, true);
    assert_int_equal(w.sent, 1);
    assert_true(w.addr == 0xfee03004);
    assert_int_equal(w.data & 0xffff, 0x4134);
    ioapic_set_pin(w.io, 0, false);
    ioapic_set_pin(w.io, 0, true);
    assert_int_equal(w.sent, 2);
    ioapic_set_pin(w.io, 24, true);
    ioapic_set_pin(w.io, 4000000000u, true);
    bus_write(w.fx.mmio, IOAPIC_BASE_DEFAULT + 0x20, 4, 0);
    assert_int_equal(w.sent, 3);
    teardown(&w);
}

static void test_level(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    ioapic_set_pin(w.io, 9, true);
    wr(&w, 0x10 + 18, 0x8041);
    assert_int_equal(w.sent, 1); /* unmasking a high line delivers */
    assert_int_equal(w.data, 0xc041);
    assert_int_equal(rd(&w, 0x10 + 18), 0xc041);
    ioapic_eoi(w.io, 0x42);
    assert_int_equal(w.sent, 1);
    ioapic_eoi(w.io, 0x41);
    assert_int_equal(w.sent, 2); /* still high */
    ioapic_set_pin(w.io, 9, false);
    ioapic_set_pin(w.io, 9, true);
    assert_int_equal(w.sent, 2); /* waits for the EOI */
    ioapic_set_pin(w.io, 9, false);
    bus_write(w.fx.mmio, IOAPIC_BASE_DEFAULT + 0x40, 4, 0x41);
    assert_int_equal(w.sent, 2);
    assert_int_equal(rd(&w, 0x10 + 18), 0x8041);
    /* Remote IRR goes when the pin is made an edge. */
    ioapic_set_pin(w.io, 9, true);
    assert_int_equal(w.sent, 3);
    wr(&w, 0x10 + 18, 0x10041);
    wr(&w, 0x10 + 18, 0x8041);
    assert_int_equal(w.sent, 4);
    teardown(&w);
}

static void test_save_load(void **state)
{
    struct world w;
    struct ioapic *other;

    (void)state;
    setup(&w);
    wr(&w, 0x10 + 18, 0x8041);
    ioapic_set_pin(w.io, 9, true);
    other = make(&w, NULL);
    assert_true(fx_copy(ioapic_dev(w.io), ioapic_dev(other)));
    ioapic_eoi(other, 0x41);
    assert_int_equal(w.sent, 2);
    ioapic_dev(other)->ops->reset(ioapic_dev(other));
    ioapic_eoi(other, 0x41);
    assert_int_equal(w.sent, 2);
    ioapic_dev(other)->ops->free(ioapic_dev(other));
    teardown(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_registers),
        cmocka_unit_test(test_edge),
        cmocka_unit_test(test_level),
        cmocka_unit_test(test_save_load),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
