/* Tests of the local APICs: registers, priorities, messages, timer, x2APIC, save and load. */
#include "base/ckd.h"
#include "base/test.h"
#include "dev/dev_test.h"
#include "dev/irq/lapic.h"

#include <errno.h>

#define CPUS 4

struct world {
    struct fixture fx;
    struct lapic_set *set;
    unsigned irq[CPUS], nmi[CPUS], init[CPUS], sipi[CPUS];
    uint8_t sipi_vector;
    unsigned eois;
    uint8_t eoi_vector;
    int ext_vector;
};

static void on_signal(void *opaque, unsigned cpu, enum lapic_signal kind, uint8_t vector)
{
    struct world *w = opaque;

    w->irq[cpu] += kind == LAPIC_SIG_IRQ;
    w->nmi[cpu] += kind == LAPIC_SIG_NMI;
    w->init[cpu] += kind == LAPIC_SIG_INIT;
    w->sipi[cpu] += kind == LAPIC_SIG_SIPI;
    if (kind == LAPIC_SIG_SIPI) {
        w->sipi_vector = vector;
    }
}

static int extint_ack(void *opaque)
{
    struct world *w = opaque;

    lapic_set_lint0(w->set, false);
    return w->ext_vector;
}

static void on_eoi(void *opaque, uint8_t vector)
{
    struct world *w = opaque;

    w->eois++;
    w->eoi_vector = vector;
}

/* A 2 GHz TSC that started with guest time. */
static uint64_t tsc_to_ns(void *opaque, unsigned cpu, uint64_t tsc)
{
    (void)opaque;
    (void)cpu;
    return tsc / 2;
}

static struct lapic_set *make_set(struct world *w)
{
    const struct lapic_config cfg = {
        .n_cpus = CPUS,
        .phys_bits = 40,
        .x2apic = true,
        .tsc_deadline = true,
        .eoi_suppress = true,
        .clock = &w->fx.clock,
        .loop = w->fx.loop,
        .host = {w, on_signal, extint_ack, on_eoi, tsc_to_ns},
    };
    struct lapic_set *set;
    struct err err;

    fx_must(lapic_set_new(&set, &cfg, &err), &err);
    return set;
}

static void wr(struct world *w, unsigned cpu, unsigned reg, uint32_t value)
{
    lapic_mmio_write(w->set, cpu, reg, 4, value);
}

static uint32_t rd(struct world *w, unsigned cpu, unsigned reg)
{
    return (uint32_t)lapic_mmio_read(w->set, cpu, reg, 4);
}

static void setup(struct world *w)
{
    memset(w, 0, sizeof(*w));
    fx_init(&w->fx);
    w->set = make_set(w);
    for (unsigned i = 0; i < CPUS; i++) {
        wr(w, i, 0xf0, 0x1ff);
        wr(w, i, 0xd0, 1u << (24 + i));
    }
}

static void teardown(struct world *w)
{
    lapic_set_free(w->set);
    fx_done(&w->fx);
}

static int take(struct world *w, unsigned cpu)
{
    return lapic_irq_pending(w->set, cpu) ? lapic_irq_ack(w->set, cpu) : -1;
}

static void test_power_on(void **state)
{
    struct world w;
    uint64_t v, offset;

    (void)state;
    memset(&w, 0, sizeof(w));
    fx_init(&w.fx);
    w.set = make_set(&w);
    assert_int_equal(rd(&w, 2, 0x20), 2u << 24);
    assert_int_equal(rd(&w, 0, 0x30), 0x01060014);
    assert_int_equal(rd(&w, 0, 0xf0), 0xff);
    assert_int_equal(rd(&w, 0, 0xe0), 0xffffffff);
    assert_int_equal(rd(&w, 1, 0x350), 0x10000);
    assert_int_equal(rd(&w, 0, 0x350), 0x700);
    assert_int_equal(lapic_msr_read(w.set, 0, 0x1b, &v), 0);
    assert_true(v == 0xfee00900);
    assert_int_equal(lapic_msr_read(w.set, 1, 0x1b, &v), 0);
    assert_true(v == 0xfee00800);
    assert_true(lapic_claims(w.set, 0, 0xfee00320, &offset));
    assert_int_equal(offset, 0x320);
    assert_false(lapic_claims(w.set, 0, 0xfee01000, &offset));
    /* Software-disabled: fixed interrupts are lost, entries stay masked. */
    lapic_send_msi(w.set, 0xfee00000, 0x40);
    assert_int_equal(take(&w, 0), -1);
    wr(&w, 1, 0x320, 0x20);
    assert_int_equal(rd(&w, 1, 0x320), 0x10020);
    teardown(&w);
}

static void test_priority(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    lapic_send_msi(w.set, 0xfee00000, 0x45);
    lapic_send_msi(w.set, 0xfee00000, 0x61);
    lapic_send_msi(w.set, 0xfee00000, 0x62);
    assert_int_equal(rd(&w, 0, 0x230), 6);
    assert_int_equal(take(&w, 0), 0x62);
    assert_int_equal(take(&w, 0), -1); /* same class */
    assert_int_equal(rd(&w, 0, 0xa0), 0x60);
    lapic_send_msi(w.set, 0xfee00000, 0x71);
    assert_int_equal(take(&w, 0), 0x71);
    wr(&w, 0, 0xb0, 0);
    assert_int_equal(take(&w, 0), -1);
    wr(&w, 0, 0xb0, 0);
    assert_int_equal(take(&w, 0), 0x61);
    wr(&w, 0, 0xb0, 0);
    /* The task priority holds back its class and those below. */
    wr(&w, 0, 0x80, 0x4f);
    assert_int_equal(lapic_cr8_read(w.set, 0), 4);
    assert_int_equal(take(&w, 0), -1);
    w.irq[0] = 0;
    lapic_cr8_write(w.set, 0, 3);
    assert_int_equal(w.irq[0], 1);
    assert_int_equal(rd(&w, 0, 0x80), 0x30);
    assert_int_equal(take(&w, 0), 0x45);
    wr(&w, 0, 0xb0, 0);
    assert_false(lapic_irq_pending(w.set, 0));
    teardown(&w);
}

static void test_level_eoi(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    lapic_send_msi(w.set, 0xfee00000, 0xc000 | 0x51);
    assert_int_equal(rd(&w, 0, 0x1a0), 1u << 17);
    assert_int_equal(take(&w, 0), 0x51);
    wr(&w, 0, 0xb0, 0);
    assert_int_equal(w.eois, 1);
    assert_int_equal(w.eoi_vector, 0x51);
    /* The same vector as an edge: no broadcast. */
    lapic_send_msi(w.set, 0xfee00000, 0x51);
    assert_int_equal(take(&w, 0), 0x51);
    wr(&w, 0, 0xb0, 0);
    assert_int_equal(w.eois, 1);
    /* Suppressed broadcast. */
    wr(&w, 0, 0xf0, 0x11ff);
    lapic_send_msi(w.set, 0xfee00000, 0xc000 | 0x51);
    assert_int_equal(take(&w, 0), 0x51);
    wr(&w, 0, 0xb0, 0);
    assert_int_equal(w.eois, 1);
    wr(&w, 0, 0xb0, 0); /* nothing in service */
    teardown(&w);
}

static void test_destinations(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    lapic_send_msi(w.set, 0xfee02000, 0x50); /* physical 2 */
    assert_int_equal(take(&w, 2), 0x50);
    assert_int_equal(take(&w, 0), -1);
    lapic_send_msi(w.set, 0xfee0a004, 0x52); /* flat logical: CPUs 1 and 3 */
    assert_int_equal(take(&w, 0), -1);
    assert_int_equal(take(&w, 1), 0x52);
    assert_int_equal(take(&w, 3), 0x52);
    lapic_send_msi(w.set, 0xfeeff000, 0x60); /* everyone */
    for (unsigned i = 0; i < CPUS; i++) {
        assert_int_equal(take(&w, i), 0x60);
        wr(&w, i, 0xb0, 0);
        wr(&w, i, 0xb0, 0);
    }
    /* Cluster model: cluster 1 holds CPUs 0 and 1, cluster 2 the others. */
    for (unsigned i = 0; i < CPUS; i++) {
        wr(&w, i, 0xe0, 0x0fffffff);
        wr(&w, i, 0xd0, (i < 2 ? 0x10u : 0x20u) << 24 | 1u << (24 + i % 2));
    }
    lapic_send_msi(w.set, 0xfee22004, 0x53);
    assert_int_equal(take(&w, 3), 0x53);
    assert_int_equal(take(&w, 2), -1);
    assert_int_equal(take(&w, 1), -1);
    lapic_send_msi(w.set, 0xfeef1004, 0x70); /* member 0 of every cluster */
    assert_int_equal(take(&w, 0), 0x70);
    assert_int_equal(take(&w, 2), 0x70);
    assert_int_equal(take(&w, 1), -1);
    /* Addresses that are no messages, and a device that tries to start a CPU. */
    lapic_send_msi(w.set, 0xfed00000, 0x80);
    lapic_send_msi(w.set, 0xfee01000, 0x680);
    assert_int_equal(take(&w, 0), -1);
    assert_int_equal(w.sipi[1], 0);
    teardown(&w);
}

static void test_lowest_priority(void **state)
{
    unsigned got[CPUS] = {0};
    struct world w;

    (void)state;
    setup(&w);
    wr(&w, 0, 0x80, 0x20);
    for (unsigned i = 0; i < 30; i++) {
        /* Lowest-priority mode, then a fixed message with a redirection hint. */
        lapic_send_msi(w.set, i % 2 == 0 ? 0xfee0f004 : 0xfee0f00c, i % 2 == 0 ? 0x190 : 0x90);
        for (unsigned c = 0; c < CPUS; c++) {
            if (take(&w, c) == 0x90) {
                got[c]++;
                wr(&w, c, 0xb0, 0);
            }
        }
    }
    assert_int_equal(got[0], 0);
    assert_int_equal(got[1] + got[2] + got[3], 30);
    assert_true(got[1] > 0 && got[2] > 0 && got[3] > 0);
    teardown(&w);
}

static void test_ipi(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    wr(&w, 0, 0x310, 3u << 24);
    wr(&w, 0, 0x300, 0x4041);
    assert_int_equal(take(&w, 3), 0x41);
    assert_int_equal(rd(&w, 0, 0x300), 0x4041);
    wr(&w, 0, 0x300, 0x44042); /* self */
    assert_int_equal(take(&w, 0), 0x42);
    wr(&w, 0, 0x300, 0x84043); /* all */
    assert_int_equal(take(&w, 1), 0x43);
    wr(&w, 1, 0x300, 0xc4450); /* NMI, all but self */
    assert_int_equal(w.nmi[0] + w.nmi[2] + w.nmi[3], 3);
    assert_int_equal(w.nmi[1], 0);
    wr(&w, 0, 0x310, 1u << 24);
    wr(&w, 0, 0x300, 0x4500);
    assert_int_equal(w.init[1], 1);
    assert_int_equal(rd(&w, 1, 0xf0), 0xff); /* INIT resets the APIC */
    wr(&w, 0, 0x300, 0x8500);                /* de-assert does nothing */
    assert_int_equal(w.init[1], 1);
    wr(&w, 0, 0x300, 0x4699);
    assert_int_equal(w.sipi[1], 1);
    assert_int_equal(w.sipi_vector, 0x99);
    teardown(&w);
}

static void test_errors(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    wr(&w, 0, 0x370, 0xfe);
    wr(&w, 0, 0x300, 0x40005); /* self, vector 5 */
    assert_int_equal(rd(&w, 0, 0x280), 0);
    assert_int_equal(take(&w, 0), 0xfe);
    wr(&w, 0, 0x280, 0);
    assert_int_equal(rd(&w, 0, 0x280), 0x20);
    lapic_send_msi(w.set, 0xfee00000, 0x0f);
    rd(&w, 0, 0x40);
    wr(&w, 0, 0x280, 0);
    assert_int_equal(rd(&w, 0, 0x280), 0xc0);
    wr(&w, 0, 0x280, 0);
    assert_int_equal(rd(&w, 0, 0x280), 0);
    /* Odd shapes: bytes of a register can be read, not written. */
    assert_int_equal(lapic_mmio_read(w.set, 0, 0xf1, 1), 1);
    lapic_mmio_write(w.set, 0, 0xf1, 1, 0);
    lapic_mmio_write(w.set, 0, 0xf4, 4, 0);
    assert_int_equal(rd(&w, 0, 0xf0), 0x1ff);
    assert_int_equal(lapic_mmio_read(w.set, 0, 0xf2, 4), 0);
    /* Read-only registers ignore writes without an error. */
    wr(&w, 0, 0x30, 0);
    wr(&w, 0, 0x20, 0x55000000);
    wr(&w, 0, 0x280, 0);
    assert_int_equal(rd(&w, 0, 0x280), 0);
    assert_int_equal(rd(&w, 0, 0x20), 0);
    teardown(&w);
}

static void test_extint(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    w.ext_vector = 0x30;
    wr(&w, 0, 0x350, 0x10700);
    lapic_set_lint0(w.set, true);
    assert_false(lapic_irq_pending(w.set, 0));
    w.irq[0] = 0;
    wr(&w, 0, 0x350, 0x700);
    assert_int_equal(w.irq[0], 1);
    assert_true(lapic_irq_pending(w.set, 0));
    assert_false(lapic_irq_pending(w.set, 1));
    assert_int_equal(lapic_irq_ack(w.set, 0), 0x30);
    assert_false(lapic_irq_pending(w.set, 0));
    assert_int_equal(rd(&w, 0, 0x110), 0); /* not in service here */
    /* LINT0 in fixed mode ("virtual wire interrupt"), LINT1 as NMI. */
    wr(&w, 0, 0x350, 0x31);
    lapic_set_lint0(w.set, true);
    assert_int_equal(take(&w, 0), 0x31);
    wr(&w, 2, 0x360, 0x400);
    lapic_set_lint1(w.set, true);
    lapic_set_lint1(w.set, true);
    lapic_set_lint1(w.set, false);
    assert_int_equal(w.nmi[2], 1);
    assert_int_equal(w.nmi[0], 0);
    /* An ExtINT message, and the wire straight to the first CPU while its APIC is off. */
    lapic_send_msi(w.set, 0xfee01000, 0x700);
    assert_int_equal(take(&w, 1), 0x30);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x1b, 0xfee00100), 0);
    lapic_set_lint0(w.set, true);
    assert_int_equal(take(&w, 0), 0x30);
    lapic_raise_lvt(w.set, 3, LAPIC_LVT_PERF);
    assert_int_equal(take(&w, 3), -1);
    wr(&w, 3, 0x340, 0x400);
    lapic_raise_lvt(w.set, 3, LAPIC_LVT_PERF);
    assert_int_equal(w.nmi[3], 1);
    assert_int_equal(rd(&w, 3, 0x340), 0x10400);
    teardown(&w);
}

static void test_timer(void **state)
{
    struct world w;

    (void)state;
    setup(&w);
    wr(&w, 0, 0x3e0, 0xb); /* divide by 1: 1 GHz */
    wr(&w, 0, 0x320, 0x40);
    wr(&w, 0, 0x380, 100000);
    fx_advance(&w.fx, 40000);
    assert_int_equal(rd(&w, 0, 0x390), 60000);
    assert_int_equal(take(&w, 0), -1);
    wr(&w, 0, 0x3e0, 0x0); /* by 2: 60000 counts of 2 ns are left */
    fx_advance(&w.fx, 119999);
    assert_int_equal(take(&w, 0), -1);
    fx_advance(&w.fx, 1);
    assert_int_equal(take(&w, 0), 0x40);
    wr(&w, 0, 0xb0, 0);
    assert_int_equal(rd(&w, 0, 0x390), 0);
    fx_advance(&w.fx, NSEC_PER_SEC);
    assert_int_equal(take(&w, 0), -1);
    /* Periodic; a host that was late gives one interrupt and keeps the phase. */
    wr(&w, 0, 0x320, 0x20040);
    wr(&w, 0, 0x380, 500000); /* 1 ms */
    for (int i = 0; i < 5; i++) {
        fx_advance(&w.fx, 1000000);
        assert_int_equal(take(&w, 0), 0x40);
        wr(&w, 0, 0xb0, 0);
    }
    fx_advance_late(&w.fx, 50500000);
    assert_int_equal(take(&w, 0), 0x40);
    wr(&w, 0, 0xb0, 0);
    assert_int_equal(take(&w, 0), -1);
    fx_advance(&w.fx, 499999);
    assert_int_equal(take(&w, 0), -1);
    fx_advance(&w.fx, 1);
    assert_int_equal(take(&w, 0), 0x40);
    wr(&w, 0, 0x380, 0);
    wr(&w, 0, 0xb0, 0);
    w.fx.fired = 0;
    fx_advance(&w.fx, NSEC_PER_SEC);
    assert_int_equal(w.fx.fired, 0);
    /* A one-shot that ran out ends there, also when the mode changes before the host noticed.
     */
    wr(&w, 0, 0x320, 0x40);
    wr(&w, 0, 0x380, 500);
    vmclock_set_ns(&w.fx.clock, vmclock_now_ns(&w.fx.clock) + 1000000);
    assert_int_equal(rd(&w, 0, 0x390), 0);
    wr(&w, 0, 0x320, 0x20040);
    assert_int_equal(rd(&w, 0, 0x390), 0);
    assert_int_equal(take(&w, 0), 0x40);
    fx_advance(&w.fx, NSEC_PER_SEC);
    assert_int_equal(take(&w, 0), -1);
    /* The shortest period does not flood the host. */
    wr(&w, 0, 0x3e0, 0xb);
    wr(&w, 0, 0x380, 1);
    fx_advance(&w.fx, 10000000);
    assert_true(w.fx.fired <= 501);
    teardown(&w);
}

static void test_tsc_deadline(void **state)
{
    struct world w;
    uint64_t v, tsc;

    (void)state;
    setup(&w);
    tsc = vmclock_now_ns(&w.fx.clock) * 2;
    /* Ignored while the timer is in another mode. */
    assert_int_equal(lapic_msr_write(w.set, 0, 0x6e0, tsc + 2000), 0);
    assert_int_equal(lapic_msr_read(w.set, 0, 0x6e0, &v), 0);
    assert_true(v == 0);
    wr(&w, 0, 0x320, 0x40041);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x6e0, tsc + 2000), 0);
    assert_int_equal(lapic_msr_read(w.set, 0, 0x6e0, &v), 0);
    assert_true(v == tsc + 2000);
    fx_advance(&w.fx, 999);
    assert_int_equal(take(&w, 0), -1);
    fx_advance(&w.fx, 1);
    assert_int_equal(take(&w, 0), 0x41);
    wr(&w, 0, 0xb0, 0);
    assert_int_equal(lapic_msr_read(w.set, 0, 0x6e0, &v), 0);
    assert_true(v == 0);
    /* A deadline in the past fires on the spot, without the event loop. */
    assert_int_equal(lapic_msr_write(w.set, 0, 0x6e0, 1), 0);
    assert_int_equal(take(&w, 0), 0x41);
    wr(&w, 0, 0xb0, 0);
    /* Writing zero, and changing the mode, disarm. */
    assert_int_equal(lapic_msr_write(w.set, 0, 0x6e0, tsc + 10000000), 0);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x6e0, 0), 0);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x6e0, tsc + 10000000), 0);
    wr(&w, 0, 0x320, 0x41);
    fx_advance(&w.fx, NSEC_PER_SEC);
    assert_int_equal(take(&w, 0), -1);
    teardown(&w);
}

static void test_x2apic(void **state)
{
    struct world w;
    uint64_t v, offset;

    (void)state;
    setup(&w);
    assert_int_equal(lapic_msr_read(w.set, 0, 0x802, &v), -EPERM); /* not in x2APIC mode */
    assert_int_equal(lapic_msr_write(w.set, 0, 0x1b, 0xfee00d00), 0);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x1b, 0xfee00900), -EPERM);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x1b, 0xfee00500), -EPERM);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x1b, 0xfee00d01), -EPERM);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x1b, UINT64_C(0x100fee00d00)), -EPERM);
    assert_false(lapic_claims(w.set, 0, 0xfee00000, &offset));
    for (unsigned i = 1; i < CPUS; i++) {
        assert_int_equal(lapic_msr_write(w.set, i, 0x1b, 0xfee00c00), 0);
    }
    assert_int_equal(lapic_msr_read(w.set, 3, 0x802, &v), 0);
    assert_int_equal(v, 3);
    assert_int_equal(lapic_msr_read(w.set, 3, 0x80d, &v), 0);
    assert_int_equal(v, 8);
    /* Physical, logical and broadcast by the 64-bit ICR. */
    assert_int_equal(lapic_msr_write(w.set, 0, 0x830, UINT64_C(2) << 32 | 0x44), 0);
    assert_int_equal(take(&w, 2), 0x44);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x830, UINT64_C(0xa) << 32 | 0x845), 0);
    assert_int_equal(take(&w, 1), 0x45);
    assert_int_equal(take(&w, 3), 0x45);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x830, UINT64_C(0xffffffff00000000) | 0x56), 0);
    assert_int_equal(take(&w, 0), 0x56);
    assert_int_equal(take(&w, 2), 0x56);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x830, UINT64_C(0x1000a) << 32 | 0x867), 0);
    assert_int_equal(take(&w, 1), 0x56);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x83f, 0x77), 0);
    assert_int_equal(take(&w, 0), 0x77);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x80b, 0), 0);
    /* MSIs keep their eight bits of destination. */
    lapic_send_msi(w.set, 0xfee03000, 0x78);
    assert_int_equal(take(&w, 3), 0x78);
    /* General protection: reserved bits, write-only, read-only, missing registers. */
    assert_int_equal(lapic_msr_write(w.set, 0, 0x80b, 1), -EPERM);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x808, 0x100), -EPERM);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x80f, 0x2000), -EPERM);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x802, 0), -EPERM);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x80d, 0), -EPERM);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x80e, 0), -EPERM);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x831, 0), -EPERM);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x830, 0x2000), -EPERM);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x828, 1), -EPERM);
    assert_int_equal(lapic_msr_read(w.set, 0, 0x80b, &v), -EPERM);
    assert_int_equal(lapic_msr_read(w.set, 0, 0x83f, &v), -EPERM);
    assert_int_equal(lapic_msr_read(w.set, 0, 0x80e, &v), -EPERM);
    assert_int_equal(lapic_msr_read(w.set, 0, 0x8ff, &v), -EPERM);
    /* Off, then straight to x2APIC is illegal; by way of xAPIC it works. */
    assert_int_equal(lapic_msr_write(w.set, 0, 0x1b, 0xfee00100), 0);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x1b, 0xfee00d00), -EPERM);
    assert_int_equal(lapic_msr_write(w.set, 0, 0x1b, 0xfee00900), 0);
    assert_int_equal(rd(&w, 0, 0xf0), 0xff);
    teardown(&w);
}

static void test_save_load(void **state)
{
    struct world w;
    struct lapic_set *other, *first;

    (void)state;
    setup(&w);
    wr(&w, 0, 0x320, 0x20040);
    wr(&w, 0, 0x3e0, 0xb);
    wr(&w, 0, 0x380, 1000000);
    lapic_send_msi(w.set, 0xfee00000, 0xc000 | 0x61);
    assert_int_equal(take(&w, 0), 0x61);
    lapic_send_msi(w.set, 0xfee00000, 0x52);
    other = make_set(&w);
    for (unsigned i = 0; i < CPUS; i++) {
        assert_true(fx_copy(lapic_dev(w.set, i), lapic_dev(other, i)));
    }
    first = w.set;
    w.set = other;
    assert_int_equal(take(&w, 0), -1);
    wr(&w, 0, 0xb0, 0);
    assert_int_equal(w.eois, 1);
    assert_int_equal(take(&w, 0), 0x52);
    wr(&w, 0, 0xb0, 0);
    fx_advance(&w.fx, 999999);
    assert_int_equal(take(&w, 0), -1);
    fx_advance(&w.fx, 1);
    assert_int_equal(take(&w, 0), 0x40);
    lapic_dev(other, 0)->ops->reset(lapic_dev(other, 0));
    assert_int_equal(rd(&w, 0, 0xf0), 0xff);
    lapic_set_free(first);
    teardown(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_on),        cmocka_unit_test(test_priority),
        cmocka_unit_test(test_level_eoi),       cmocka_unit_test(test_destinations),
        cmocka_unit_test(test_lowest_priority), cmocka_unit_test(test_ipi),
        cmocka_unit_test(test_errors),          cmocka_unit_test(test_extint),
        cmocka_unit_test(test_timer),           cmocka_unit_test(test_tsc_deadline),
        cmocka_unit_test(test_x2apic),          cmocka_unit_test(test_save_load),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
