/*
 * The console device: output and input with back-pressure, ports and their control messages,
 * emergency write, reset and state.
 */
#include "dev/virtio/virtio_console.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "dev/virtio/vt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE        4096U
#define F_MULTIPORT VIRTIO_BIT(1)
#define PORTS       3U

struct sink {
    pthread_mutex_t lock;
    uint8_t data[65536];
    size_t len, room;
    unsigned rx_room;
};

struct fixture {
    struct vt vt;
    struct virtio_dev *vd;
    struct sink sink[PORTS];
    uint64_t buf;
};

static size_t sink_write(void *opaque, const uint8_t *data, size_t len)
{
    struct sink *s = opaque;
    SCOPED_LOCK(&s->lock);
    size_t n = MIN(MIN(len, s->room), sizeof(s->data) - s->len);
    memcpy(s->data + s->len, data, n);
    s->len += n;
    s->room -= n;
    return n;
}

static void sink_rx_room(void *opaque, unsigned port)
{
    struct sink *s = opaque;
    (void)port;
    __atomic_fetch_add(&s->rx_room, 1, __ATOMIC_SEQ_CST);
}

static struct virtio_dev *make_console(struct fixture *f, unsigned ports)
{
    struct virtio_console_port_cfg port[PORTS] = {{0}};
    struct virtio_dev *vd;
    static const char *const names[PORTS] = {NULL, "org.example.agent", NULL};
    for (unsigned i = 0; i < ports; i++) {
        pthread_mutex_init(&f->sink[i].lock, NULL);
        f->sink[i].room = sizeof(f->sink[i].data);
        port[i] = (struct virtio_console_port_cfg){
            names[i], {sink_write, &f->sink[i]}, sink_rx_room, &f->sink[i]};
    }
    struct virtio_console_cfg cfg = {.mem = f->vt.mem,
                                     .loop = f->vt.loop,
                                     .ports = port,
                                     .port_count = ports,
                                     .cols = 80,
                                     .rows = 25};
    assert_int_equal(virtio_console_new(&cfg, &vd, NULL), 0);
    return vd;
}

static int setup_ports(void **state, unsigned ports)
{
    struct fixture *f = calloc(1, sizeof(*f));
    vt_setup(&f->vt);
    f->vd = make_console(f, ports);
    vt_plug(&f->vt, f->vd);
    vt_run_loop(&f->vt);
    f->buf = vt_alloc(&f->vt, 65536);
    *state = f;
    return 0;
}

static int setup(void **state)
{
    return setup_ports(state, 1);
}

static int setup_multi(void **state)
{
    return setup_ports(state, PORTS);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    vt_teardown(&f->vt);
    free(f);
    return 0;
}

static size_t sink_len(struct sink *s)
{
    SCOPED_LOCK(&s->lock);
    return s->len;
}

static void wait_len(struct sink *s, size_t len)
{
    uint64_t end = clock_now_ns() + 20 * NSEC_PER_SEC;
    while (sink_len(s) < len) {
        assert_true(clock_now_ns() < end);
        usleep(50);
    }
    assert_int_equal(sink_len(s), len);
}

static void put_text(struct fixture *f, unsigned q, uint64_t at, const char *text)
{
    struct vt_seg seg = {f->buf + at, (uint32_t)strlen(text), false};
    vt_write(&f->vt, f->buf + at, text, strlen(text));
    vt_add(&f->vt, q, &seg, 1);
    vt_kick(&f->vt, q);
}

static void test_output(void **state)
{
    struct fixture *f = *state;
    vt_start(&f->vt, 0, 2, 16);
    put_text(f, 1, 0, "hello, ");
    put_text(f, 1, 100, "world");
    wait_len(&f->sink[0], 12);
    assert_memory_equal(f->sink[0].data, "hello, world", 12);
    assert_int_equal(vt_wait_used(&f->vt, 1, NULL), 0);
    assert_int_equal(vt_wait_used(&f->vt, 1, NULL), 0);
    assert_int_equal(bus_read(f->vt.mmio, VT_BAR + VIRTIO_PCI_DEVICE, 4), 25 << 16 | 80);
}

/* Case 46: nobody reads. The guest's buffers wait in the ring. */
static void test_output_back_pressure(void **state)
{
    struct fixture *f = *state;
    uint32_t id;
    uint32_t len;
    vt_start(&f->vt, 0, 2, 16);
    pthread_mutex_lock(&f->sink[0].lock);
    f->sink[0].room = 5;
    pthread_mutex_unlock(&f->sink[0].lock);
    for (unsigned i = 0; i < 10; i++) {
        put_text(f, 1, i * 16ULL, "0123456789");
    }
    wait_len(&f->sink[0], 5);
    assert_false(vt_used(&f->vt, 1, &id, &len));
    pthread_mutex_lock(&f->sink[0].lock);
    f->sink[0].room = 1000;
    pthread_mutex_unlock(&f->sink[0].lock);
    virtio_console_tx_ready(f->vd, 0);
    wait_len(&f->sink[0], 100);
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(f->sink[0].data[i], '0' + i % 10);
    }
    for (unsigned i = 0; i < 10; i++) {
        vt_wait_used(&f->vt, 1, NULL);
    }
}

static void test_input(void **state)
{
    struct fixture *f = *state;
    uint8_t got[8];
    assert_int_equal(virtio_console_input(f->vd, 0, "x", 1), 0);
    vt_start(&f->vt, 0, 2, 16);
    assert_int_equal(virtio_console_input(f->vd, 0, "abcdef", 6), 0);
    struct vt_seg seg = {f->buf, 4, true};
    vt_add(&f->vt, 0, &seg, 1);
    vt_kick(&f->vt, 0);
    uint64_t end = clock_now_ns() + 20 * NSEC_PER_SEC;
    while (__atomic_load_n(&f->sink[0].rx_room, __ATOMIC_SEQ_CST) == 0) {
        assert_true(clock_now_ns() < end);
        usleep(50);
    }
    assert_int_equal(virtio_console_input(f->vd, 0, "abcdef", 6), 4);
    assert_int_equal(vt_wait_used(&f->vt, 0, NULL), 4);
    vt_read(&f->vt, f->buf, got, 4);
    assert_memory_equal(got, "abcd", 4);
    assert_int_equal(virtio_console_input(f->vd, 7, "abcdef", 6), 0);
}

static void test_emergency_write(void **state)
{
    struct fixture *f = *state;
    bus_write(f->vt.mmio, VT_BAR + VIRTIO_PCI_DEVICE + 8, 4, 'P');
    wait_len(&f->sink[0], 1);
    assert_int_equal(f->sink[0].data[0], 'P');
}

static void control(struct fixture *f, uint32_t port, uint16_t event, uint16_t value)
{
    uint8_t msg[8];
    put_le32(msg, port);
    put_le16(msg + 4, event);
    put_le16(msg + 6, value);
    vt_write(&f->vt, f->buf, msg, 8);
    struct vt_seg seg = {f->buf, 8, false};
    vt_add(&f->vt, 3, &seg, 1);
    vt_kick(&f->vt, 3);
    vt_wait_used(&f->vt, 3, NULL);
}

static void add_control_buffers(struct fixture *f, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct vt_seg seg = {f->buf + 0x1000 + f->vt.q[2].next_desc * 128ULL, 128, true};
        vt_add(&f->vt, 2, &seg, 1);
    }
    vt_kick(&f->vt, 2);
}

static void expect(struct fixture *f, uint32_t port, uint16_t event, const char *extra)
{
    uint8_t msg[128];
    uint32_t id;
    uint32_t len = vt_wait_used(&f->vt, 2, &id);
    vt_read(&f->vt, f->buf + 0x1000 + id * 128ULL, msg, 128);
    assert_int_equal(get_le32(msg), port);
    assert_int_equal(get_le16(msg + 4), event);
    assert_int_equal(len, 8 + strlen(extra));
    assert_memory_equal(msg + 8, extra, strlen(extra));
}

static void test_ports(void **state)
{
    struct fixture *f = *state;
    vt_start(&f->vt, F_MULTIPORT, 8, 64);
    assert_int_equal(bus_read(f->vt.mmio, VT_BAR + VIRTIO_PCI_DEVICE + 4, 4), PORTS);
    control(f, 0xffffffff, 0, 1); /* nothing to put the answers into: they wait */
    add_control_buffers(f, 2);
    expect(f, 0, 1, "");
    expect(f, 1, 1, "");
    uint32_t id;
    uint32_t len;
    assert_false(vt_used(&f->vt, 2, &id, &len));
    add_control_buffers(f, 20);
    expect(f, 2, 1, "");
}

static void expect_resize(struct fixture *f, uint16_t cols, uint16_t rows)
{
    uint8_t msg[128];
    uint32_t id;
    assert_int_equal(vt_wait_used(&f->vt, 2, &id), 12);
    vt_read(&f->vt, f->buf + 0x1000 + id * 128ULL, msg, 128);
    assert_int_equal(get_le16(msg + 4), 5);
    assert_int_equal(get_le16(msg + 8), cols);
    assert_int_equal(get_le16(msg + 10), rows);
}

static void test_named_port(void **state)
{
    struct fixture *f = *state;
    vt_start(&f->vt, F_MULTIPORT, 8, 64);
    add_control_buffers(f, 40);
    control(f, 1, 3, 1);
    expect(f, 1, 7, "org.example.agent");
    expect(f, 1, 6, "");
    control(f, 0, 3, 1);
    expect(f, 0, 4, "");
    expect(f, 0, 6, "");
    expect_resize(f, 80, 25);
    virtio_console_resize(f->vd, 132, 50);
    expect_resize(f, 132, 50);
    /* Data goes to and comes from the port's own queues, once it is open. */
    put_text(f, 5, 0x4000, "agent");
    wait_len(&f->sink[1], 5);
    struct vt_seg seg = {f->buf + 0x5000, 64, true};
    vt_add(&f->vt, 4, &seg, 1);
    assert_int_equal(virtio_console_input(f->vd, 1, "ping", 4), 0);
    control(f, 1, 6, 1);
    assert_int_equal(virtio_console_input(f->vd, 1, "ping", 4), 4);
    assert_int_equal(vt_wait_used(&f->vt, 4, NULL), 4);
    virtio_console_set_open(f->vd, 1, false);
    expect(f, 1, 6, "");
    /* Nonsense is ignored. */
    control(f, 99, 3, 1);
    control(f, 1, 77, 1);
    control(f, 1, 0, 0);
    struct vt_seg shorty = {f->buf, 3, false};
    vt_add(&f->vt, 3, &shorty, 1);
    vt_kick(&f->vt, 3);
    vt_wait_used(&f->vt, 3, NULL);
    assert_false(vt_needs_reset(&f->vt));
}

static void test_save_in_the_middle(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    size_t len;
    vt_start(vt, F_MULTIPORT, 8, 64);
    control(f, 0, 0, 1); /* messages wait */
    control(f, 1, 6, 1);
    pthread_mutex_lock(&f->sink[1].lock);
    f->sink[1].room = 3;
    pthread_mutex_unlock(&f->sink[1].lock);
    put_text(f, 5, 0x4000, "abcdefgh");
    wait_len(&f->sink[1], 3);
    struct dev *dev = &vt->vp->pd.dev;
    dev->ops->pause(dev);
    void *data = vt_save(vt, &len);
    loop_stop(vt->loop, 0);
    pthread_join(vt->loop_thread, NULL);
    vt->loop_runs = false;
    vt_unplug(vt);
    f->vd = make_console(f, PORTS);
    assert_int_equal(virtio_pci_new(f->vd, &vt->vp, NULL), 0);
    assert_int_equal(pci_root_add(vt->root, &vt->vp->pd, PCI_DEVFN(VT_SLOT, 0), NULL), 0);
    assert_int_equal(vt_load(vt, data, len), 0);
    free(data);
    vt_run_loop(vt);
    dev = &vt->vp->pd.dev;
    dev->ops->resume(dev);
    wait_len(&f->sink[1], 8);
    assert_memory_equal(f->sink[1].data, "abcdefgh", 8);
    add_control_buffers(f, 8);
    expect(f, 0, 1, "");
    struct vt_seg seg = {f->buf + 0x5000, 64, true};
    vt_add(vt, 4, &seg, 1);
    assert_int_equal(virtio_console_input(f->vd, 1, "ping", 4), 4);
}

static void test_reset_while_blocked(void **state)
{
    struct fixture *f = *state;
    vt_start(&f->vt, 0, 2, 16);
    pthread_mutex_lock(&f->sink[0].lock);
    f->sink[0].room = 2;
    pthread_mutex_unlock(&f->sink[0].lock);
    put_text(f, 1, 0, "old");
    wait_len(&f->sink[0], 2);
    vt_start(&f->vt, 0, 2, 16);
    put_text(f, 1, 0, "new");
    pthread_mutex_lock(&f->sink[0].lock);
    f->sink[0].room = 100;
    pthread_mutex_unlock(&f->sink[0].lock);
    virtio_console_tx_ready(f->vd, 0);
    wait_len(&f->sink[0], 5);
    assert_memory_equal(f->sink[0].data, "olnew", 5);
}

int main(void)
{
#define T(name, set) cmocka_unit_test_setup_teardown(name, set, teardown)
    const struct CMUnitTest tests[] = {
        T(test_output, setup),
        T(test_output_back_pressure, setup),
        T(test_input, setup),
        T(test_emergency_write, setup),
        T(test_ports, setup_multi),
        T(test_named_port, setup_multi),
        T(test_save_in_the_middle, setup_multi),
        T(test_reset_while_blocked, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
