/* Tests of the address spaces: look-up, overlap, splitting, changes from handlers and threads.
 */
#include "base/ckd.h"
#include "base/test.h"
#include "dev/dev_test.h"

#include <errno.h>

struct probe {
    struct bus *bus;
    uint64_t last_offset, last_value;
    unsigned last_len, reads, writes;
    uint64_t remove, add; /* what the handler does to the bus; 0: nothing */
};

static const struct bus_ops probe_ops;

static uint64_t probe_read(void *opaque, uint64_t offset, unsigned len)
{
    struct probe *p = opaque;

    p->reads++;
    p->last_offset = offset;
    p->last_len = len;
    return UINT64_C(0x8877665544332211) >> (offset % 8 * 8);
}

static void probe_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct probe *p = opaque;

    p->writes++;
    p->last_offset = offset;
    p->last_len = len;
    p->last_value = value;
    if (p->remove != 0) {
        assert_int_equal(bus_remove(p->bus, p->remove), 0);
    }
    if (p->add != 0) {
        struct bus_range r = {
            .base = p->add, .size = 16, .ops = &probe_ops, .opaque = p, .name = "p"};
        assert_int_equal(bus_add(p->bus, &r, NULL), 0);
    }
}

static const struct bus_ops probe_ops = {probe_read, probe_write};

static int add(struct bus *bus, uint64_t base, uint64_t size, struct probe *p)
{
    struct bus_range r = {
        .base = base, .size = size, .ops = &probe_ops, .opaque = p, .name = "p"};

    p->bus = bus;
    return bus_add(bus, &r, NULL);
}

static void test_lookup(void **state)
{
    struct probe p[3] = {0};
    struct bus *bus;

    (void)state;
    assert_int_equal(bus_new(&bus, 0x10000, NULL), 0);
    assert_int_equal(bus_read(bus, 0x80, 1), 0xff);
    assert_int_equal(bus_read(bus, 0x80, 4), 0xffffffff);
    assert_int_equal(add(bus, 0x100, 8, &p[1]), 0);
    assert_int_equal(add(bus, 0x40, 4, &p[0]), 0);
    assert_int_equal(add(bus, 0xfffc, 4, &p[2]), 0);
    assert_int_equal(bus_read(bus, 0x100, 2), 0x2211);
    assert_int_equal(bus_read(bus, 0x107, 1), 0x88);
    bus_write(bus, 0x43, 1, 0x1234);
    assert_int_equal(p[0].last_value, 0x34);
    assert_int_equal(p[0].last_offset, 3);
    assert_int_equal(bus_read(bus, 0xfffc, 4), 0x44332211);
    assert_int_equal(bus_read(bus, 0x108, 1), 0xff);
    assert_int_equal(bus_remove(bus, 0x100), 0);
    assert_int_equal(bus_remove(bus, 0x100), -ENOENT);
    assert_int_equal(bus_read(bus, 0x100, 2), 0xffff);
    bus_free(bus);
}

static void test_overlap(void **state)
{
    struct probe p = {0};
    struct bus *bus;

    (void)state;
    assert_int_equal(bus_new(&bus, 0x10000, NULL), 0);
    assert_int_equal(add(bus, 0x100, 16, &p), 0);
    assert_int_equal(add(bus, 0x100, 1, &p), -EEXIST);
    assert_int_equal(add(bus, 0x10f, 1, &p), -EEXIST);
    assert_int_equal(add(bus, 0xff, 2, &p), -EEXIST);
    assert_int_equal(add(bus, 0x80, 0x200, &p), -EEXIST);
    assert_int_equal(add(bus, 0xff, 1, &p), 0);
    assert_int_equal(add(bus, 0x110, 1, &p), 0);
    assert_int_equal(add(bus, 0xffff, 2, &p), -EINVAL);
    assert_int_equal(add(bus, UINT64_MAX, 2, &p), -EINVAL);
    assert_int_equal(add(bus, 0x200, 0, &p), -EINVAL);
    bus_free(bus);
}

static void test_split(void **state)
{
    struct probe p[2] = {0};
    struct bus *bus;

    (void)state;
    assert_int_equal(bus_new(&bus, UINT64_MAX, NULL), 0);
    assert_int_equal(add(bus, 0x10, 2, &p[0]), 0);
    assert_int_equal(add(bus, 0x13, 1, &p[1]), 0);
    assert_int_equal(bus_read(bus, 0x10, 4), 0x11ff2211);
    assert_int_equal(bus_read(bus, 0x0f, 2), 0x11ff);
    bus_write(bus, 0x11, 8, UINT64_C(0x0807060504030201));
    assert_int_equal(p[0].last_value, 1);
    assert_int_equal(p[1].last_value, 3);
    assert_int_equal(p[0].last_len, 1);
    /* Lengths that no engine should send, and the top of the space. */
    assert_int_equal(bus_read(bus, 0x10, 3), 0xff2211);
    assert_int_equal(bus_read(bus, 0x10, 0), 0);
    assert_true(bus_read(bus, UINT64_MAX - 1, 8) == UINT64_MAX);
    bus_write(bus, UINT64_MAX, 4, 0);
    bus_free(bus);
}

static void test_handler_changes_bus(void **state)
{
    struct probe p = {0};
    struct bus *bus;

    (void)state;
    assert_int_equal(bus_new(&bus, 0x10000, NULL), 0);
    assert_int_equal(add(bus, 0x100, 16, &p), 0);
    p.remove = 0x100;
    p.add = 0x300;
    bus_write(bus, 0x100, 1, 0);
    assert_int_equal(bus_read(bus, 0x100, 1), 0xff);
    assert_int_equal(bus_read(bus, 0x300, 1), 0x11);
    bus_free(bus);
}

struct mover {
    struct bus *bus;
    struct probe probe;
    pthread_mutex_t lock;
    bool stop;
};

static void *reader_thread(void *opaque)
{
    struct mover *m = opaque;

    while (!__atomic_load_n(&m->stop, __ATOMIC_RELAXED)) {
        uint64_t v = bus_read(m->bus, 0x100, 1);
        assert_true(v == 0x11 || v == 0xff);
        v = bus_read(m->bus, 0x400, 1);
        assert_true(v == 0x11 || v == 0xff);
    }
    return NULL;
}

/* The remover holds the range's own lock, as a configuration write that moves a BAR may. */
static void test_concurrent_moves(void **state)
{
    struct mover m = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct bus_range r = {
        .base = 0x100, .size = 16, .ops = &probe_ops, .opaque = &m.probe, .name = "p"};
    pthread_t thread;

    (void)state;
    assert_int_equal(bus_new(&m.bus, 0x10000, NULL), 0);
    r.lock = &m.lock;
    assert_int_equal(bus_add(m.bus, &r, NULL), 0);
    assert_int_equal(pthread_create(&thread, NULL, reader_thread, &m), 0);
    for (int i = 0; i < 5000; i++) {
        pthread_mutex_lock(&m.lock);
        assert_int_equal(bus_remove(m.bus, r.base), 0);
        r.base = i % 2 == 0 ? 0x400 : 0x100;
        assert_int_equal(bus_add(m.bus, &r, NULL), 0);
        pthread_mutex_unlock(&m.lock);
    }
    __atomic_store_n(&m.stop, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    bus_free(m.bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lookup),
        cmocka_unit_test(test_overlap),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_handler_changes_bus),
        cmocka_unit_test(test_concurrent_moves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
