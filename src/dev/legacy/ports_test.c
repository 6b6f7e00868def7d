/* Tests of the small devices: exit port, debug console, diagnostic port, port 92h, pvpanic, and
 * the test device. */
#include "base/ckd.h"
#include "base/test.h"
#include "dev/dev_test.h"
#include "dev/legacy/debug_exit.h"
#include "dev/legacy/pc_testdev.h"
#include "dev/legacy/port92.h"
#include "dev/legacy/pvpanic.h"

struct world {
    struct fixture fx;
    int status;
    unsigned resets, codes;
    bool a20;
    uint8_t got[64];
    size_t n_got;
};

static void on_exit_port(void *opaque, int status)
{
    struct world *w = opaque;

    w->status = status;
}

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

static void on_code(void *opaque, uint8_t code, uint64_t host_ns)
{
    struct world *w = opaque;

    (void)code;
    assert_true(host_ns != 0);
    w->codes++;
}

static size_t sink(void *opaque, const uint8_t *data, size_t len)
{
    struct world *w = opaque;

    len = MIN(len, sizeof(w->got) - w->n_got);
    memcpy(w->got + w->n_got, data, len);
    w->n_got += len;
    return len;
}

static void test_debug_exit(void **state)
{
    struct world w = {0};
    struct debug_exit *p, *q;

    (void)state;
    fx_init(&w.fx);
    assert_int_equal(debug_exit_new(&p,
                                    &(struct debug_exit_config){.pio = w.fx.pio,
                                                                .lock = &w.fx.lock,
                                                                .exit = on_exit_port,
                                                                .opaque = &w},
                                    NULL),
                     0);
    assert_int_equal(debug_exit_new(&q,
                                    &(struct debug_exit_config){.pio = w.fx.pio,
                                                                .port = 0x501,
                                                                .instance = 1,
                                                                .lock = &w.fx.lock,
                                                                .exit = on_exit_port,
                                                                .opaque = &w},
                                    NULL),
                     0);
    bus_write(w.fx.pio, 0xf4, 4, 0);
    assert_int_equal(w.status, 1);
    fx_out(&w.fx, 0xf4, 0x10);
    assert_int_equal(w.status, 33);
    fx_out(&w.fx, 0x501, 41);
    assert_int_equal(w.status, 83);
    bus_write(w.fx.pio, 0xf4, 4, 0xffffffff);
    assert_int_equal(w.status, 255);
    assert_int_equal(fx_in(&w.fx, 0xf4), 0);
    assert_true(fx_copy(debug_exit_dev(p), debug_exit_dev(p)));
    debug_exit_dev(p)->ops->free(debug_exit_dev(p));
    debug_exit_dev(q)->ops->free(debug_exit_dev(q));
    fx_done(&w.fx);
}

static void test_debugcon(void **state)
{
    struct world w = {0};
    struct debugcon *con, *other;
    struct debugcon_config cfg = {.out = {sink, &w}};

    (void)state;
    fx_init(&w.fx);
    cfg.pio = w.fx.pio;
    cfg.loop = w.fx.loop;
    cfg.lock = &w.fx.lock;
    assert_int_equal(debugcon_new(&con, &cfg, NULL), 0);
    assert_int_equal(fx_in(&w.fx, 0xe9), 0xe9);
    fx_out(&w.fx, 0xe9, 'h');
    fx_out(&w.fx, 0xe9, 'i');
    cfg.pio = NULL;
    assert_int_equal(debugcon_new(&other, &cfg, NULL), 0);
    assert_true(fx_copy(debugcon_dev(con), debugcon_dev(other)));
    debugcon_dev(con)->ops->pause(debugcon_dev(con));
    debugcon_dev(other)->ops->pause(debugcon_dev(other));
    assert_int_equal(w.n_got, 4);
    assert_memory_equal(w.got, "hihi", 4);
    for (unsigned i = 0; i < 3 * BYTEQ_BYTES; i++) {
        fx_out(&w.fx, 0xe9, 'x'); /* a flood stays bounded */
    }
    debugcon_tx_ready(con);
    debugcon_dev(con)->ops->free(debugcon_dev(con));
    debugcon_dev(other)->ops->free(debugcon_dev(other));
    fx_done(&w.fx);
}

static void test_post_port(void **state)
{
    struct world w = {0};
    struct post_port *p;

    (void)state;
    fx_init(&w.fx);
    assert_int_equal(
        post_port_new(&p,
                      &(struct post_port_config){
                          .pio = w.fx.pio, .lock = &w.fx.lock, .code = on_code, .opaque = &w},
                      NULL),
        0);
    assert_true(post_port_first_ns(p, POST_CODE_INIT) == 0);
    fx_out(&w.fx, 0x80, POST_CODE_INIT);
    fx_out(&w.fx, 0x80, POST_CODE_INIT);
    fx_out(&w.fx, 0x80, 7);
    assert_int_equal(w.codes, 2);
    assert_true(post_port_first_ns(p, POST_CODE_INIT) != 0);
    assert_int_equal(fx_in(&w.fx, 0x80), 7);
    assert_true(fx_copy(post_port_dev(p), post_port_dev(p)));
    post_port_dev(p)->ops->reset(post_port_dev(p));
    assert_int_equal(fx_in(&w.fx, 0x80), 0);
    post_port_dev(p)->ops->free(post_port_dev(p));
    fx_done(&w.fx);
}

static void test_port92(void **state)
{
    struct world w = {.a20 = true};
    struct port92 *p;

    (void)state;
    fx_init(&w.fx);
    assert_int_equal(port92_new(&p,
                                &(struct port92_config){.pio = w.fx.pio,
                                                        .lock = &w.fx.lock,
                                                        .reset = on_reset,
                                                        .a20 = on_a20,
                                                        .opaque = &w},
                                NULL),
                     0);
    assert_int_equal(fx_in(&w.fx, 0x92), 2);
    fx_out(&w.fx, 0x92, 0);
    assert_false(w.a20);
    fx_out(&w.fx, 0x92, 3);
    assert_true(w.a20);
    assert_int_equal(w.resets, 1);
    fx_out(&w.fx, 0x92, 3);
    assert_int_equal(w.resets, 1);
    assert_true(fx_copy(port92_dev(p), port92_dev(p)));
    port92_dev(p)->ops->reset(port92_dev(p));
    assert_int_equal(fx_in(&w.fx, 0x92), 2);
    port92_dev(p)->ops->free(port92_dev(p));
    fx_done(&w.fx);
}

static void on_panic(void *opaque, unsigned event)
{
    struct world *w = opaque;

    w->status = (int)event;
}

static void test_pvpanic(void **state)
{
    struct world w = {0};
    struct pvpanic *p;

    (void)state;
    fx_init(&w.fx);
    assert_int_equal(
        pvpanic_new(&p,
                    &(struct pvpanic_config){
                        .pio = w.fx.pio, .lock = &w.fx.lock, .event = on_panic, .opaque = &w},
                    NULL),
        0);
    assert_int_equal(fx_in(&w.fx, 0x505), 3);
    fx_out(&w.fx, 0x505, 0x80);
    assert_int_equal(w.status, 0);
    fx_out(&w.fx, 0x505, 2);
    assert_int_equal(w.status, PVPANIC_CRASH_LOADED);
    fx_out(&w.fx, 0x505, 3);
    assert_int_equal(w.status, PVPANIC_PANICKED);
    assert_true(fx_copy(pvpanic_dev(p), pvpanic_dev(p)));
    pvpanic_dev(p)->ops->free(pvpanic_dev(p));
    fx_done(&w.fx);
}

static void set_gsi(void *opaque, unsigned gsi, bool level)
{
    fx_line_set(opaque, gsi, level);
}

static void test_pc_testdev(void **state)
{
    struct world w = {0};
    struct pc_testdev *td;

    (void)state;
    fx_init(&w.fx);
    assert_int_equal(pc_testdev_new(&td,
                                    &(struct pc_testdev_config){.pio = w.fx.pio,
                                                                .mmio = w.fx.mmio,
                                                                .lock = &w.fx.lock,
                                                                .set_gsi = set_gsi,
                                                                .opaque = &w.fx},
                                    NULL),
                     0);
    bus_write(w.fx.pio, 0xe0, 4, 0x12345678);
    assert_int_equal(bus_read(w.fx.pio, 0xe0, 2), 0x5678);
    assert_int_equal(fx_in(&w.fx, 0xe3), 0x12);
    fx_out(&w.fx, 0xe8, 0xaa);
    assert_int_equal(bus_read(w.fx.pio, 0xe0, 4), 0x123456aa);
    bus_write(w.fx.pio, 0xe4, 4, 0x1000);
    fx_out(&w.fx, 0x2000 + 14, 1);
    assert_true(w.fx.level[14]);
    fx_out(&w.fx, 0x2000 + 14, 0);
    assert_false(w.fx.level[14]);
    bus_write(w.fx.mmio, PC_TESTDEV_WINDOW + 0xfff8, 8, UINT64_C(0x1122334455667788));
    assert_int_equal(bus_read(w.fx.mmio, PC_TESTDEV_WINDOW + 0xfffa, 4), 0x33445566);
    assert_true(fx_copy(pc_testdev_dev(td), pc_testdev_dev(td)));
    pc_testdev_dev(td)->ops->reset(pc_testdev_dev(td));
    assert_int_equal(bus_read(w.fx.mmio, PC_TESTDEV_WINDOW + 0xfffa, 4), 0);
    pc_testdev_dev(td)->ops->free(pc_testdev_dev(td));
    fx_done(&w.fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_debug_exit), cmocka_unit_test(test_debugcon),
        cmocka_unit_test(test_post_port),  cmocka_unit_test(test_port92),
        cmocka_unit_test(test_pvpanic),    cmocka_unit_test(test_pc_testdev),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
