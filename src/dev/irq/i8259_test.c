/* Tests of the pair of 8259s: initialisation, priorities, EOIs, modes, poll, spurious requests.
 */
#include "base/ckd.h"
#include "base/test.h"
#include "dev/dev_test.h"
#include "dev/irq/i8259.h"
#include "dev/irq/isa_irq.h"

struct world {
    struct fixture fx;
    struct i8259 *pic;
};

static struct i8259 *make(struct world *w, struct bus *bus)
{
    struct i8259 *pic;
    struct err err;

    fx_must(i8259_new(&pic, &(struct i8259_config){bus, fx_line(&w->fx, 0)}, &err), &err);
    return pic;
}

static void program(struct world *w, uint8_t icw4)
{
    fx_out(&w->fx, 0x20, 0x11);
    fx_out(&w->fx, 0x21, 0x20);
    fx_out(&w->fx, 0x21, 0x04);
    fx_out(&w->fx, 0x21, icw4);
    fx_out(&w->fx, 0xa0, 0x11);
    fx_out(&w->fx, 0xa1, 0x28);
    fx_out(&w->fx, 0xa1, 0x02);
    fx_out(&w->fx, 0xa1, icw4);
}

static void setup(struct world *w)
{
    memset(w, 0, sizeof(*w));
    fx_init(&w->fx);
    w->pic = make(w, w->fx.pio);
    program(w, 0x01);
}

static void teardown(struct world *w)
{
    i8259_dev(w->pic)->ops->free(i8259_dev(w->pic));
    fx_done(&w->fx);
}

static void pulse(struct world *w, unsigned n)
{
    i8259_set_irq(w->pic, n, true);
    i8259_set_irq(w->pic, n, false);
}

static void test_priorities(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    fx_out(&w.fx, 0x21, 0x00);
    assert_int_equal(fx_in(&w.fx, 0x21), 0);
    i8259_set_irq(w.pic, 4, true);
    assert_true(w.fx.level[0]);
    i8259_set_irq(w.pic, 1, true);
    assert_int_equal(fx_in(&w.fx, 0x20), 0x12); /* IRR */
    assert_int_equal(i8259_ack(w.pic), 0x21);
    assert_false(w.fx.level[0]); /* 4 waits for the EOI of 1 */
    fx_out(&w.fx, 0x20, 0x0b);
    assert_int_equal(fx_in(&w.fx, 0x20), 0x02); /* ISR */
    i8259_set_irq(w.pic, 0, true);
    assert_true(w.fx.level[0]); /* 0 nests */
    assert_int_equal(i8259_ack(w.pic), 0x20);
    fx_out(&w.fx, 0x20, 0x20);
    fx_out(&w.fx, 0x20, 0x20);
    assert_int_equal(i8259_ack(w.pic), 0x24);
    fx_out(&w.fx, 0x20, 0x64); /* specific EOI */
    assert_int_equal(fx_in(&w.fx, 0x20), 0);
    /* Edge: the same high line asks once. */
    assert_false(w.fx.level[0]);
    i8259_set_irq(w.pic, 4, false);
    i8259_set_irq(w.pic, 4, true);
    assert_true(w.fx.level[0]);
    fx_out(&w.fx, 0x21, 0xff);
    assert_false(w.fx.level[0]);
    teardown(&w);
}

static void test_cascade(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    i8259_set_irq(w.pic, 12, true);
    assert_true(w.fx.level[0]);
    assert_int_equal(i8259_ack(w.pic), 0x2c);
    i8259_set_irq(w.pic, 2, true); /* the cascade is not a wire */
    i8259_set_irq(w.pic, 8, true);
    assert_false(w.fx.level[0]); /* plain nesting: the master's input 2 is in service */
    fx_out(&w.fx, 0xa0, 0x20);
    fx_out(&w.fx, 0x20, 0x20);
    assert_int_equal(i8259_ack(w.pic), 0x28);
    fx_out(&w.fx, 0xa0, 0x20);
    fx_out(&w.fx, 0x20, 0x20);
    /* Special fully nested mode lets the slave's more urgent request through. */
    program(&w, 0x11);
    i8259_set_irq(w.pic, 12, false);
    i8259_set_irq(w.pic, 8, false);
    i8259_set_irq(w.pic, 12, true);
    assert_int_equal(i8259_ack(w.pic), 0x2c);
    i8259_set_irq(w.pic, 8, true);
    assert_true(w.fx.level[0]);
    assert_int_equal(i8259_ack(w.pic), 0x28);
    teardown(&w);
}

static void test_spurious(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    pulse(&w, 3);
    assert_false(w.fx.level[0]);
    assert_int_equal(i8259_ack(w.pic), 0x27);
    fx_out(&w.fx, 0x20, 0x0b);
    assert_int_equal(fx_in(&w.fx, 0x20), 0); /* nothing in service */
    /* On the slave: the master's input 2 is in service, the vector is that of 15. */
    fx_out(&w.fx, 0xa1, 0xff);
    i8259_set_irq(w.pic, 14, true);
    assert_false(w.fx.level[0]);
    teardown(&w);
}

static void test_rotation(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    i8259_set_irq(w.pic, 3, true);
    assert_int_equal(i8259_ack(w.pic), 0x23);
    fx_out(&w.fx, 0x20, 0xa0); /* rotate on non-specific EOI: 3 is now the lowest */
    i8259_set_irq(w.pic, 3, false);
    i8259_set_irq(w.pic, 3, true);
    i8259_set_irq(w.pic, 5, true);
    assert_int_equal(i8259_ack(w.pic), 0x25);
    fx_out(&w.fx, 0x20, 0x65);
    fx_out(&w.fx, 0x20, 0xc6); /* set priority: 7 first */
    i8259_set_irq(w.pic, 7, true);
    assert_int_equal(i8259_ack(w.pic), 0x27);
    fx_out(&w.fx, 0x20, 0xe7); /* rotate on specific EOI */
    assert_int_equal(i8259_ack(w.pic), 0x23);
    fx_out(&w.fx, 0x20, 0x63);
    /* Automatic EOI with rotation. */
    program(&w, 0x03);
    fx_out(&w.fx, 0x20, 0x80);
    i8259_set_irq(w.pic, 0, true);
    assert_int_equal(i8259_ack(w.pic), 0x20);
    i8259_set_irq(w.pic, 0, false);
    i8259_set_irq(w.pic, 0, true);
    i8259_set_irq(w.pic, 1, true);
    assert_int_equal(i8259_ack(w.pic), 0x21);
    assert_int_equal(i8259_ack(w.pic), 0x20);
    teardown(&w);
}

static void test_special_mask_and_poll(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    i8259_set_irq(w.pic, 1, true);
    assert_int_equal(i8259_ack(w.pic), 0x21);
    i8259_set_irq(w.pic, 6, true);
    assert_false(w.fx.level[0]);
    fx_out(&w.fx, 0x21, 0x02);
    fx_out(&w.fx, 0x20, 0x68); /* special mask mode: the masked 1 blocks nobody */
    assert_true(w.fx.level[0]);
    fx_out(&w.fx, 0x20, 0x0c); /* poll */
    assert_int_equal(fx_in(&w.fx, 0x20), 0x86);
    fx_out(&w.fx, 0x20, 0x0c);
    assert_int_equal(fx_in(&w.fx, 0x20), 0x07);
    fx_out(&w.fx, 0x20, 0x48);
    teardown(&w);
}

static void test_elcr(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    fx_out(&w.fx, 0x4d0, 0xff);
    fx_out(&w.fx, 0x4d1, 0xff);
    assert_int_equal(fx_in(&w.fx, 0x4d0), 0xf8);
    assert_int_equal(fx_in(&w.fx, 0x4d1), 0xde);
    assert_int_equal(bus_read(w.fx.pio, 0x4d0, 2), 0xdef8);
    i8259_set_irq(w.pic, 11, true);
    assert_int_equal(i8259_ack(w.pic), 0x2b);
    fx_out(&w.fx, 0xa0, 0x20);
    fx_out(&w.fx, 0x20, 0x20);
    assert_true(w.fx.level[0]); /* level: still asking */
    i8259_set_irq(w.pic, 11, false);
    assert_false(w.fx.level[0]);
    teardown(&w);
}

static void test_save_load(void **state)
{
    struct world w;
    struct i8259 *other;

    (void)state;
    setup(&w);
    i8259_set_irq(w.pic, 5, true);
    assert_int_equal(i8259_ack(w.pic), 0x25);
    i8259_set_irq(w.pic, 6, true);
    fx_out(&w.fx, 0x20, 0x11); /* in the middle of an initialisation */
    fx_out(&w.fx, 0x21, 0x50);
    other = make(&w, NULL);
    assert_true(fx_copy(i8259_dev(w.pic), i8259_dev(other)));
    i8259_dev(w.pic)->ops->free(i8259_dev(w.pic));
    w.pic = other;
    i8259_set_irq(other, 6, false);
    i8259_set_irq(other, 6, true);
    assert_int_equal(i8259_ack(other), 0x57); /* not initialised: spurious */
    i8259_dev(other)->ops->reset(i8259_dev(other));
    assert_false(w.fx.level[0]);
    teardown(&w);
}

static void count_msi(void *opaque, uint64_t addr, uint32_t data)
{
    (void)addr;
    *(uint32_t *)opaque = data & 0xff;
}

static void test_routing(void **state)
{
    struct ioapic *io;
    struct isa_irq isa;
    struct world w;
    uint32_t vector = 0;
    struct irq_line line;

    (void)state;
    setup(&w);
    assert_int_equal(
        ioapic_new(&io, &(struct ioapic_config){.msi = {count_msi, &vector}}, NULL), 0);
    isa = (struct isa_irq){w.pic, io};
    ioapic_write(io, 0, 4, 0x10 + 4); /* pin 2 */
    ioapic_write(io, 0x10, 4, 0x33);
    line = isa_irq_line(&isa, 0);
    irq_set(&line, true);
    assert_int_equal(vector, 0x33);
    assert_int_equal(i8259_ack(w.pic), 0x20);
    ioapic_write(io, 0, 4, 0x10 + 2 * 17);
    ioapic_write(io, 0x10, 4, 0x44);
    line = isa_irq_line(&isa, 17);
    irq_set(&line, true);
    assert_int_equal(vector, 0x44);
    ioapic_dev(io)->ops->free(ioapic_dev(io));
    teardown(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_priorities),
        cmocka_unit_test(test_cascade),
        cmocka_unit_test(test_spurious),
        cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_special_mask_and_poll),
        cmocka_unit_test(test_elcr),
        cmocka_unit_test(test_save_load),
        cmocka_unit_test(test_routing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
