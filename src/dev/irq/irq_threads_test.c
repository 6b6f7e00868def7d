/*
 * Interrupts from several threads: no request is lost, none is delivered after it ended. vCPU
 * threads sleep until they are signalled, as an engine's do; a lost signal shows as a time-out.
 */
#include "base/ckd.h"
#include "base/test.h"
#include "dev/dev_test.h"
#include "dev/irq/isa_irq.h"
#include "dev/irq/lapic.h"

#include <errno.h>
#include <time.h>

#define CPUS         3
#define ROUNDS       3000
#define VECTOR_LEVEL 0x51
#define VECTOR_EDGE  0x61
#define VECTOR_IPI   0x71
#define VECTOR_EXT   0x20
#define VECTOR_STOP  0xf0
#define DEADLINE_S   60

struct cpu {
    struct world *w;
    unsigned index;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool signalled;
    unsigned count[256]; /* by vector; atomics */
    bool lost;
};

struct world {
    struct fixture fx;
    struct lapic_set *set;
    struct ioapic *ioapic;
    struct i8259 *pic;
    struct isa_irq isa;
    struct cpu cpu[CPUS];
};

static void on_signal(void *opaque, unsigned cpu, enum lapic_signal kind, uint8_t vector)
{
    struct world *w = opaque;
    struct cpu *c = &w->cpu[cpu];

    (void)kind;
    (void)vector;
    pthread_mutex_lock(&c->lock);
    c->signalled = true;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
}

static int extint_ack(void *opaque)
{
    return i8259_ack(((struct world *)opaque)->pic);
}

static void on_eoi(void *opaque, uint8_t vector)
{
    ioapic_eoi(((struct world *)opaque)->ioapic, vector);
}

static bool wait_signal(struct cpu *c)
{
    struct timespec until;
    int r = 0;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += DEADLINE_S;
    pthread_mutex_lock(&c->lock);
    while (!c->signalled && r == 0) {
        r = pthread_cond_timedwait(&c->wake, &c->lock, &until);
    }
    c->signalled = false;
    pthread_mutex_unlock(&c->lock);
    return r == 0;
}

static void serve(struct cpu *c, int vector)
{
    struct world *w = c->w;

    if (vector == VECTOR_LEVEL) {
        ioapic_set_pin(w->ioapic, 17, false);
    }
    if (vector == VECTOR_IPI && c->index == 0) {
        /* Pass it on to the next CPU. */
        lapic_mmio_write(w->set, 0, 0x310, 4, 1u << 24);
        lapic_mmio_write(w->set, 0, 0x300, 4, 0x4000 | VECTOR_IPI);
    }
    if (vector >= VECTOR_EXT && vector < VECTOR_EXT + 8) {
        bus_write(w->fx.pio, 0x20, 1, 0x20);
    } else {
        lapic_mmio_write(w->set, c->index, 0xb0, 4, 0);
    }
    __atomic_fetch_add(&c->count[vector], 1, __ATOMIC_SEQ_CST);
}

static void *vcpu(void *opaque)
{
    struct cpu *c = opaque;

    while (!c->lost && __atomic_load_n(&c->count[VECTOR_STOP], __ATOMIC_SEQ_CST) == 0) {
        c->lost = !wait_signal(c);
        while (lapic_irq_pending(c->w->set, c->index)) {
            int vector = lapic_irq_ack(c->w->set, c->index);
            if (vector >= 0) {
                serve(c, vector);
            }
        }
    }
    return NULL;
}

static void setup(struct world *w)
{
    struct lapic_config cfg = {
        .n_cpus = CPUS, .phys_bits = 40, .host = {w, on_signal, extint_ack, on_eoi, NULL}};
    struct err err;

    memset(w, 0, sizeof(*w));
    fx_init(&w->fx);
    cfg.clock = &w->fx.clock;
    cfg.loop = w->fx.loop;
    fx_must(lapic_set_new(&w->set, &cfg, &err), &err);
    fx_must(
        ioapic_new(&w->ioapic,
                   &(struct ioapic_config){.mmio = w->fx.mmio, .msi = lapic_msi_sink(w->set)},
                   &err),
        &err);
    fx_must(i8259_new(&w->pic,
                      &(struct i8259_config){.pio = w->fx.pio, .out = lapic_lint0_line(w->set)},
                      &err),
            &err);
    w->isa = (struct isa_irq){w->pic, NULL};
    for (unsigned i = 0; i < CPUS; i++) {
        w->cpu[i].w = w;
        w->cpu[i].index = i;
        pthread_mutex_init(&w->cpu[i].lock, NULL);
        pthread_cond_init(&w->cpu[i].wake, NULL);
        lapic_mmio_write(w->set, i, 0xf0, 4, 0x1ff);
        lapic_mmio_write(w->set, i, 0xd0, 4, 1u << (24 + i));
    }
    lapic_mmio_write(w->set, 0, 0x350, 4, 0x700);
    ioapic_write(w->ioapic, 0, 4, 0x10 + 2 * 17 + 1);
    ioapic_write(w->ioapic, 0x10, 4, 7u << 24);
    ioapic_write(w->ioapic, 0, 4, 0x10 + 2 * 17);
    ioapic_write(w->ioapic, 0x10, 4, 0x8900 | VECTOR_LEVEL); /* lowest priority, logical */
    fx_out(&w->fx, 0x20, 0x11);
    fx_out(&w->fx, 0x21, VECTOR_EXT);
    fx_out(&w->fx, 0x21, 0x04);
    fx_out(&w->fx, 0x21, 0x01);
    fx_out(&w->fx, 0x21, 0x00);
    for (unsigned i = 0; i < CPUS; i++) {
        assert_int_equal(pthread_create(&w->cpu[i].thread, NULL, vcpu, &w->cpu[i]), 0);
    }
}

static unsigned total(struct world *w, int vector)
{
    unsigned n = 0;

    for (unsigned i = 0; i < CPUS; i++) {
        n += __atomic_load_n(&w->cpu[i].count[vector], __ATOMIC_SEQ_CST);
    }
    return n;
}

/* Waits until all CPUs together served the vector n times. */
static bool wait_total(struct world *w, int vector, unsigned n)
{
    uint64_t until = clock_now_ns() + DEADLINE_S * NSEC_PER_SEC;

    while (total(w, vector) < n) {
        if (clock_now_ns() > until) {
            return false;
        }
        sched_yield();
    }
    return true;
}

static void *level_source(void *opaque)
{
    struct world *w = opaque;
    bool ok = true;

    for (unsigned i = 1; i <= ROUNDS && ok; i++) {
        ioapic_set_pin(w->ioapic, 17, true);
        ok = wait_total(w, VECTOR_LEVEL, i);
    }
    return ok ? NULL : w;
}

static void *edge_source(void *opaque)
{
    struct world *w = opaque;
    bool ok = true;

    for (unsigned i = 1; i <= ROUNDS && ok; i++) {
        lapic_send_msi(w->set, 0xfee00000 | (uint64_t)(i % CPUS) << 12, VECTOR_EDGE);
        ok = wait_total(w, VECTOR_EDGE, i);
    }
    return ok ? NULL : w;
}

static void *isa_source(void *opaque)
{
    struct world *w = opaque;
    struct irq_line line = isa_irq_line(&w->isa, 3);
    bool ok = true;

    for (unsigned i = 1; i <= ROUNDS && ok; i++) {
        irq_set(&line, true);
        ok = wait_total(w, VECTOR_EXT + 3, i);
        irq_set(&line, false);
    }
    return ok ? NULL : w;
}

static void *ipi_source(void *opaque)
{
    struct world *w = opaque;
    bool ok = true;

    for (unsigned i = 1; i <= ROUNDS && ok; i++) {
        lapic_send_msi(w->set, 0xfee00000, VECTOR_IPI);
        ok = wait_total(w, VECTOR_IPI, 2 * i);
    }
    return ok ? NULL : w;
}

static void test_nothing_is_lost(void **state)
{
    static void *(*const sources[])(void *) = {level_source, edge_source, isa_source,
                                               ipi_source};
    pthread_t threads[ARRAY_LEN(sources)];
    static struct world w;
    void *failed;

    (void)state;
    setup(&w);
    for (size_t i = 0; i < ARRAY_LEN(sources); i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, sources[i], &w), 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(sources); i++) {
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    lapic_send_msi(w.set, 0xfeeff000, VECTOR_STOP);
    for (unsigned i = 0; i < CPUS; i++) {
        pthread_join(w.cpu[i].thread, NULL);
        assert_false(w.cpu[i].lost);
        assert_int_equal(lapic_irq_ack(w.set, i), -1);
    }
    assert_int_equal(total(&w, VECTOR_LEVEL), ROUNDS);
    assert_int_equal(total(&w, VECTOR_EDGE), ROUNDS);
    assert_int_equal(total(&w, VECTOR_EXT + 3), ROUNDS);
    assert_int_equal(total(&w, VECTOR_IPI), 2 * ROUNDS);
    i8259_dev(w.pic)->ops->free(i8259_dev(w.pic));
    ioapic_dev(w.ioapic)->ops->free(ioapic_dev(w.ioapic));
    lapic_set_free(w.set);
    fx_done(&w.fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_lost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
