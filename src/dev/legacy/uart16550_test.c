/* Tests of the serial port: what drivers do, interrupts, loop-back, back-pressure, save and
 * load. */
#include "base/ckd.h"
#include "base/test.h"
#include "dev/dev_test.h"
#include "dev/legacy/uart16550.h"

#define P 0x3f8

struct world {
    struct fixture fx;
    struct uart16550 *uart;
    uint8_t got[4096];
    size_t n_got, takes;
    uint64_t n_total;
    unsigned readies;
};

static size_t sink(void *opaque, const uint8_t *data, size_t len)
{
    struct world *w = opaque;

    len = MIN(len, w->takes);
    w->takes -= len;
    w->n_total += len;
    if (w->n_got + len <= sizeof(w->got)) {
        memcpy(w->got + w->n_got, data, len);
        w->n_got += len;
    }
    return len;
}

static void on_ready(void *opaque)
{
    struct world *w = opaque;

    w->readies++;
}

static struct uart16550 *make(struct world *w, struct bus *bus)
{
    const struct uart16550_config cfg = {.pio = bus,
                                         .clock = &w->fx.clock,
                                         .loop = w->fx.loop,
                                         .lock = &w->fx.lock,
                                         .irq = fx_line(&w->fx, 4),
                                         .out = {sink, w},
                                         .rx_ready = on_ready,
                                         .rx_opaque = w};
    struct uart16550 *uart;
    struct err err;

    fx_must(uart16550_new(&uart, &cfg, &err), &err);
    return uart;
}

static void setup(struct world *w)
{
    memset(w, 0, sizeof(*w));
    w->takes = SIZE_MAX;
    fx_init(&w->fx);
    w->uart = make(w, w->fx.pio);
}

static void teardown(struct world *w)
{
    uart16550_dev(w->uart)->ops->free(uart16550_dev(w->uart));
    fx_done(&w->fx);
}

static void stop(void *opaque)
{
    loop_stop(opaque, 0);
}

/* What the event loop does with the output: the kick comes through its descriptor. */
static void run_loop(struct world *w)
{
    assert_int_equal(loop_post(w->fx.loop, stop, w->fx.loop), 0);
    loop_run(w->fx.loop);
    assert_int_equal(loop_post(w->fx.loop, stop, w->fx.loop), 0);
    loop_run(w->fx.loop);
}

static void test_probe(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    fx_out(&w.fx, P + 7, 0xa5);
    assert_int_equal(fx_in(&w.fx, P + 7), 0xa5);
    fx_out(&w.fx, P + 1, 0xff);
    assert_int_equal(fx_in(&w.fx, P + 1), 0x0f);
    fx_out(&w.fx, P + 1, 0);
    fx_out(&w.fx, P + 2, 0x01);
    assert_int_equal(fx_in(&w.fx, P + 2), 0xc1); /* a 16550A with working FIFOs */
    fx_out(&w.fx, P + 2, 0x00);
    assert_int_equal(fx_in(&w.fx, P + 2), 0x01);
    fx_out(&w.fx, P + 3, 0x83);
    fx_out(&w.fx, P + 0, 0x0c);
    fx_out(&w.fx, P + 1, 0x01);
    assert_int_equal(bus_read(w.fx.pio, P, 2), 0x010c);
    fx_out(&w.fx, P + 3, 0x03);
    assert_int_equal(fx_in(&w.fx, P + 1), 0);
    assert_int_equal(fx_in(&w.fx, P + 5), 0x60);
    assert_int_equal(fx_in(&w.fx, P + 6), 0xb0);
    /* Loop-back of the modem lines, as Linux probes it, and of data. */
    fx_out(&w.fx, P + 4, 0x1a);
    assert_int_equal(fx_in(&w.fx, P + 6) & 0xf0, 0x90);
    fx_out(&w.fx, P, 0x77);
    assert_int_equal(fx_in(&w.fx, P + 5) & 1, 1);
    assert_int_equal(fx_in(&w.fx, P), 0x77);
    fx_out(&w.fx, P + 4, 0x14);
    fx_in(&w.fx, P + 6);
    fx_out(&w.fx, P + 4, 0x10);
    assert_int_equal(fx_in(&w.fx, P + 6), 0x04); /* trailing edge of RI */
    teardown(&w);
}

static void test_transmit(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    for (const char *s = "hello"; *s != '\0'; s++) {
        assert_int_equal(fx_in(&w.fx, P + 5) & 0x20, 0x20);
        fx_out(&w.fx, P, (uint8_t)*s);
    }
    run_loop(&w);
    assert_int_equal(w.n_got, 5);
    assert_memory_equal(w.got, "hello", 5);
    /* The interrupt comes when it is enabled, goes when IIR is read, and comes with each byte.
     */
    fx_out(&w.fx, P + 1, 0x02);
    assert_true(w.fx.level[4]);
    assert_int_equal(fx_in(&w.fx, P + 2), 0x02);
    assert_false(w.fx.level[4]);
    assert_int_equal(fx_in(&w.fx, P + 2), 0x01);
    fx_out(&w.fx, P, 'x');
    assert_true(w.fx.level[4]);
    fx_in(&w.fx, P + 2);
    run_loop(&w);
    assert_false(w.fx.level[4]); /* the drain is no event of the guest's */
    assert_int_equal(w.n_got, 6);
    teardown(&w);
}

static void test_receive(void **state)
{
    uint8_t data[20];
    struct world w;

    (void)state;
    setup(&w);
    memset(data, 'a', sizeof(data));
    /* Nothing is taken until the guest listens: here by a loop that polls. */
    assert_int_equal(uart16550_room(w.uart), 0);
    assert_int_equal(uart16550_receive(w.uart, data, 20), 0);
    for (int i = 0; i < 64; i++) {
        assert_int_equal(w.readies, 0);
        fx_in(&w.fx, P + 5);
    }
    assert_int_equal(w.readies, 1);
    assert_int_equal(uart16550_room(w.uart), 1);
    fx_out(&w.fx, P, '>');
    assert_int_equal(uart16550_room(w.uart), 0);
    fx_out(&w.fx, P + 1, 0x0f); /* how drivers probe the register */
    assert_int_equal(uart16550_room(w.uart), 0);
    fx_out(&w.fx, P + 1, 0x00);
    fx_out(&w.fx, P + 4, 0x02); /* request to send */
    assert_int_equal(w.readies, 2);
    assert_int_equal(uart16550_room(w.uart), 1);
    assert_int_equal(uart16550_receive(w.uart, data, 20), 1);
    assert_int_equal(fx_in(&w.fx, P), 'a');
    assert_int_equal(w.readies, 3);
    fx_out(&w.fx, P + 2, 0x81); /* trigger at 8 */
    fx_out(&w.fx, P + 1, 0x05);
    assert_int_equal(uart16550_receive(w.uart, data, 3), 3);
    assert_true(w.fx.level[4]);
    assert_int_equal(fx_in(&w.fx, P + 2), 0xcc); /* character time-out */
    assert_int_equal(uart16550_receive(w.uart, data, 20), 13);
    assert_int_equal(fx_in(&w.fx, P + 2), 0xc4);
    assert_int_equal(uart16550_room(w.uart), 0);
    for (int i = 0; i < 16; i++) {
        assert_int_equal(fx_in(&w.fx, P + 5) & 1, 1);
        fx_in(&w.fx, P);
    }
    assert_false(w.fx.level[4]);
    assert_int_equal(fx_in(&w.fx, P + 5) & 1, 0);
    uart16550_receive_break(w.uart);
    assert_int_equal(fx_in(&w.fx, P + 2), 0xc6);
    assert_int_equal(fx_in(&w.fx, P + 5), 0xf1);
    assert_int_equal(fx_in(&w.fx, P + 5), 0x61);
    assert_int_equal(fx_in(&w.fx, P), 0);
    /* Modem status. */
    fx_out(&w.fx, P + 1, 0x08);
    uart16550_set_carrier(w.uart, false);
    assert_true(w.fx.level[4]);
    assert_int_equal(fx_in(&w.fx, P + 6), 0x0b);
    assert_false(w.fx.level[4]);
    teardown(&w);
}

static void test_back_pressure(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    w.takes = 100;
    fx_out(&w.fx, P + 1, 0x02);
    for (unsigned i = 0; i < BYTEQ_BYTES; i++) {
        assert_int_equal(fx_in(&w.fx, P + 5) & 0x60, 0x60);
        fx_out(&w.fx, P, (uint8_t)i);
    }
    /* Full: the transmitter is busy. Reading a little frees it. */
    assert_int_equal(fx_in(&w.fx, P + 5) & 0x60, 0);
    assert_int_equal(fx_in(&w.fx, P + 2), 0x01);
    run_loop(&w);
    assert_int_equal(w.n_total, 100);
    assert_int_equal(fx_in(&w.fx, P + 2), 0x02);
    assert_int_equal(fx_in(&w.fx, P + 5) & 0x60, 0x60);
    for (unsigned i = 0; i < 100; i++) {
        fx_out(&w.fx, P, (uint8_t)i);
    }
    assert_int_equal(fx_in(&w.fx, P + 5) & 0x60, 0);
    assert_int_equal(uart16550_dropped(w.uart), 0);
    /* Nobody reads: after a while output is dropped, and the guest goes on. */
    fx_advance(&w.fx, NSEC_PER_SEC);
    assert_int_equal(fx_in(&w.fx, P + 5) & 0x60, 0x60);
    for (unsigned i = 0; i < 100000; i++) {
        fx_out(&w.fx, P, 'z');
    }
    assert_int_equal(fx_in(&w.fx, P + 5) & 0x60, 0x60);
    assert_int_equal(uart16550_dropped(w.uart), 100000);
    /* The reader comes back: everything that was queued arrives, in order. */
    w.takes = SIZE_MAX;
    w.n_total = 0;
    uart16550_tx_ready(w.uart);
    run_loop(&w);
    assert_int_equal(w.n_total, BYTEQ_BYTES);
    fx_out(&w.fx, P, 'e');
    run_loop(&w);
    assert_int_equal(w.n_total, BYTEQ_BYTES + 1);
    teardown(&w);
}

static void test_save_load(void **state)
{
    struct uart16550 *other;
    struct world w;

    (void)state;
    setup(&w);
    w.takes = 0;
    fx_out(&w.fx, P + 2, 0x01);
    fx_out(&w.fx, P + 1, 0x01);
    uart16550_receive(w.uart, (const uint8_t *)"in", 2);
    fx_out(&w.fx, P, 'o');
    fx_out(&w.fx, P, 'k');
    other = make(&w, NULL);
    assert_true(fx_copy(uart16550_dev(w.uart), uart16550_dev(other)));
    uart16550_dev(w.uart)->ops->free(uart16550_dev(w.uart));
    w.uart = make(&w, w.fx.pio);
    assert_true(fx_copy(uart16550_dev(other), uart16550_dev(w.uart)));
    uart16550_dev(other)->ops->free(uart16550_dev(other));
    w.takes = SIZE_MAX;
    w.n_got = 0;
    uart16550_dev(w.uart)->ops->pause(uart16550_dev(w.uart));
    assert_int_equal(w.n_got, 2);
    assert_memory_equal(w.got, "ok", 2);
    assert_int_equal(fx_in(&w.fx, P), 'i');
    assert_int_equal(fx_in(&w.fx, P), 'n');
    uart16550_dev(w.uart)->ops->reset(uart16550_dev(w.uart));
    assert_int_equal(fx_in(&w.fx, P + 1), 0);
    teardown(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_probe),     cmocka_unit_test(test_transmit),
        cmocka_unit_test(test_receive),   cmocka_unit_test(test_back_pressure),
        cmocka_unit_test(test_save_load),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
