/*
 * Configuration space, BARs, MSI-X, INTx, reset and state of PCI functions, driven through the
 * buses (hostile-input cases 20, 21, 22).
 */
#include "dev/pci/pci.h"

#include "base/bytes.h"
#include "base/ckd.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ECAM    UINT64_C(0xb0000000)
#define RAM     UINT64_C(0x10000000)
#define VECTORS 4U

struct toy {
    struct pci_dev pd;
    uint64_t reg; /* the one register of BAR 0 and 2; BAR 4 holds MSI-X */
    unsigned writes, resets;
};

struct fixture {
    struct mem *mem;
    struct bus *mmio, *pio;
    struct pci_root *root;
    struct toy *toy[3];
    unsigned msi_count, resets;
    uint64_t msi_addr;
    uint32_t msi_data;
    unsigned wires; /* levels of the four */
};

static uint64_t toy_read(void *opaque, uint64_t offset, unsigned len)
{
    struct toy *t = opaque;
    (void)len;
    return __atomic_load_n(&t->reg, __ATOMIC_RELAXED) + offset;
}

static void toy_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct toy *t = opaque;
    (void)len;
    __atomic_store_n(&t->reg, value - offset, __ATOMIC_RELAXED);
    __atomic_fetch_add(&t->writes, 1, __ATOMIC_RELAXED);
}

static uint64_t msix_read(void *opaque, uint64_t offset, unsigned len)
{
    struct toy *t = opaque;
    uint64_t value = 0;
    (void)pci_msix_read(&t->pd, offset, len, &value);
    return value;
}

static void msix_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct toy *t = opaque;
    (void)pci_msix_write(&t->pd, offset, len, value);
}

static const struct bus_ops toy_ops = {toy_read, toy_write};
static const struct bus_ops msix_ops = {msix_read, msix_write};

static void toy_reset(struct pci_dev *pd)
{
    container_of(pd, struct toy, pd)->resets++;
}

static const struct pci_dev_ops toy_pci_ops = {.function_reset = toy_reset};
static const struct dev_ops toy_dev_ops = {.name = "toy", .state_version = 1};

static struct toy *toy_new(void)
{
    struct toy *t = calloc(1, sizeof(*t));
    struct pci_ids ids = {0x1234, 0x5678, 0x1111, 0x2222, 0xff0102, 7};
    pci_dev_init(&t->pd, &ids, &toy_pci_ops);
    t->pd.dev.ops = &toy_dev_ops;
    pci_bar_init(&t->pd, 0, PCI_BAR_MEM32, 4096, &toy_ops, t, NULL);
    pci_bar_init(&t->pd, 1, PCI_BAR_IO, 32, &toy_ops, t, NULL);
    pci_bar_init(&t->pd, 2, PCI_BAR_MEM64, 65536, &toy_ops, t, NULL);
    pci_bar_init(&t->pd, 4, PCI_BAR_MEM64, 8192, &msix_ops, t, NULL);
    assert_int_equal(pci_msix_init(&t->pd, VECTORS, 4, 0, 4096, NULL), 0);
    pci_exp_init(&t->pd);
    pci_intx_init(&t->pd, 1);
    return t;
}

static void on_msi(void *opaque, uint64_t addr, uint32_t data)
{
    struct fixture *f = opaque;
    f->msi_count++;
    f->msi_addr = addr;
    f->msi_data = data;
}

static void on_wire(void *opaque, unsigned n, bool level)
{
    struct fixture *f = opaque;
    f->wires = level ? f->wires | 1U << n : f->wires & ~(1U << n);
}

static void on_reset(void *opaque)
{
    struct fixture *f = opaque;
    f->resets++;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_int_equal(mem_new(&f->mem, NULL), 0);
    assert_int_equal(mem_slot_add(f->mem, GPA(0), RAM, MEM_RAM, NULL), 0);
    assert_int_equal(mem_slot_add(f->mem, GPA(0xffff0000), 65536, MEM_ROM, NULL), 0);
    assert_int_equal(bus_new(&f->mmio, UINT64_C(1) << 52, NULL), 0);
    assert_int_equal(bus_new(&f->pio, 0x10000, NULL), 0);
    struct pci_root_cfg cfg = {.mmio = f->mmio,
                               .pio = f->pio,
                               .mem = f->mem,
                               .ecam_base = ECAM,
                               .msi = {on_msi, f},
                               .reset_request = on_reset,
                               .reset_opaque = f};
    for (unsigned i = 0; i < 4; i++) {
        cfg.intx[i] = (struct irq_line){on_wire, f, i};
    }
    assert_int_equal(pci_root_new(&cfg, &f->root, NULL), 0);
    for (unsigned i = 0; i < 3; i++) {
        f->toy[i] = toy_new();
        assert_int_equal(pci_root_add(f->root, &f->toy[i]->pd, PCI_DEVFN(i + 1, 0), NULL), 0);
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < 3; i++) {
        pci_root_remove(f->root, &f->toy[i]->pd);
        pci_dev_done(&f->toy[i]->pd);
        free(f->toy[i]);
    }
    pci_root_free(f->root);
    bus_free(f->mmio);
    bus_free(f->pio);
    mem_free(f->mem);
    free(f);
    return 0;
}

static uint64_t ecam(unsigned slot, unsigned off)
{
    return ECAM + ((uint64_t)slot << 15) + off;
}

static uint32_t rd(struct fixture *f, unsigned slot, unsigned off, unsigned len)
{
    return (uint32_t)bus_read(f->mmio, ecam(slot, off), len);
}

static void wr(struct fixture *f, unsigned slot, unsigned off, unsigned len, uint32_t value)
{
    bus_write(f->mmio, ecam(slot, off), len, value);
}

static void enable(struct fixture *f, unsigned slot, uint32_t bar0, uint32_t io, uint64_t bar2)
{
    wr(f, slot, PCI_BAR0, 4, bar0);
    wr(f, slot, PCI_BAR0 + 4, 4, io);
    wr(f, slot, PCI_BAR0 + 8, 4, (uint32_t)bar2);
    wr(f, slot, PCI_BAR0 + 12, 4, (uint32_t)(bar2 >> 32));
    wr(f, slot, PCI_COMMAND, 2, PCI_CMD_IO | PCI_CMD_MEM | PCI_CMD_MASTER);
}

static void test_ways_to_config_space(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(rd(f, 1, 0, 4), 0x56781234);
    assert_int_equal(rd(f, 1, 0x2c, 4), 0x22221111);
    assert_int_equal(rd(f, 1, 8, 4), 0xff010207);
    assert_int_equal(rd(f, 0, 0, 4), 0x29c08086);
    assert_int_equal(rd(f, 9, 0, 4), 0xffffffff);
    assert_true(bus_read(f->mmio, ecam(1, 0), 8) == UINT64_C(0x0010000056781234));
    bus_write(f->pio, 0xcf8, 4, 0x80000800);
    assert_int_equal(bus_read(f->pio, 0xcf8, 4), 0x80000800);
    assert_int_equal(bus_read(f->pio, 0xcfc, 4), 0x56781234);
    assert_int_equal(bus_read(f->pio, 0xcfd, 2), 0x7812);
    assert_int_equal(bus_read(f->pio, 0xcff, 1), 0x56);
    bus_write(f->pio, 0xcf8, 4, 0x800008ff);
    assert_int_equal(bus_read(f->pio, 0xcf8, 4), 0x800008fc);
    bus_write(f->pio, 0xcf8, 4, 0x80000800 | PCI_INT_LINE);
    bus_write(f->pio, 0xcfc, 1, 0x5a);
    assert_int_equal(rd(f, 1, PCI_INT_LINE, 2), 0x015a);
    /* Another bus, or the enable bit off. */
    bus_write(f->pio, 0xcf8, 4, 0x80010800);
    assert_int_equal(bus_read(f->pio, 0xcfc, 4), 0xffffffff);
    bus_write(f->pio, 0xcf8, 4, 0x00000800);
    assert_int_equal(bus_read(f->pio, 0xcfc, 4), 0xffffffff);
    assert_int_equal(bus_read(f->mmio, ECAM + (1 << 20), 4), 0xffffffff);
    assert_int_equal(rd(f, 1, 0x100, 4), 0);
}

static void test_cf9(void **state)
{
    struct fixture *f = *state;
    bus_write(f->pio, 0xcf8, 4, 0x80000800);
    bus_write(f->pio, 0xcf9, 1, 2);
    assert_int_equal(f->resets, 0);
    bus_write(f->pio, 0xcf9, 1, 6);
    assert_int_equal(f->resets, 1);
    bus_write(f->pio, 0xcf9, 1, 6);
    assert_int_equal(f->resets, 1); /* on the rise only */
    assert_int_equal(bus_read(f->pio, 0xcf8, 4), 0x80000800);
    assert_int_equal(bus_read(f->pio, 0xcf9, 1), 6);
}

static void test_bar_sizing_and_moving(void **state)
{
    struct fixture *f = *state;
    wr(f, 1, PCI_BAR0, 4, 0xffffffff);
    assert_int_equal(rd(f, 1, PCI_BAR0, 4), 0xfffff000);
    wr(f, 1, PCI_BAR0 + 4, 4, 0xffffffff);
    assert_int_equal(rd(f, 1, PCI_BAR0 + 4, 4), 0xffffffe1);
    wr(f, 1, PCI_BAR0 + 8, 4, 0xffffffff);
    wr(f, 1, PCI_BAR0 + 12, 4, 0xffffffff);
    assert_int_equal(rd(f, 1, PCI_BAR0 + 8, 4), 0xffff0004);
    assert_int_equal(rd(f, 1, PCI_BAR0 + 12, 4), 0xffffffff);
    /* Byte by byte. */
    for (unsigned i = 0; i < 4; i++) {
        wr(f, 1, PCI_BAR0 + i, 1, 0xe0102030 >> (8 * i));
    }
    assert_int_equal(rd(f, 1, PCI_BAR0, 4), 0xe0102000);
    f->toy[0]->reg = 1000;
    enable(f, 1, 0xe0000000, 0xc000, UINT64_C(0x800000000));
    assert_int_equal(bus_read(f->mmio, 0xe0000010, 4), 1016);
    assert_int_equal(bus_read(f->pio, 0xc004, 2), 1004);
    assert_int_equal(bus_read(f->mmio, UINT64_C(0x800000020), 4), 1032);
    wr(f, 1, PCI_BAR0, 4, 0xe1000000);
    assert_int_equal(bus_read(f->mmio, 0xe0000010, 4), 0xffffffff);
    assert_int_equal(bus_read(f->mmio, 0xe1000010, 4), 1016);
    wr(f, 1, PCI_COMMAND, 2, PCI_CMD_IO);
    assert_int_equal(bus_read(f->mmio, 0xe1000010, 4), 0xffffffff);
    assert_int_equal(bus_read(f->pio, 0xc004, 2), 1004);
    wr(f, 1, PCI_COMMAND, 2, PCI_CMD_MEM);
    assert_int_equal(bus_read(f->mmio, 0xe1000010, 4), 1016);
    assert_int_equal(bus_read(f->pio, 0xc004, 2), 0xffff);
}

/* Case 20: where a BAR must not go. */
static void test_bars_in_bad_places(void **state)
{
    struct fixture *f = *state;
    static const uint32_t bad[] = {0,          0x00100000, RAM - 4096,   0xffff0000,
                                   0xfffff000, ECAM,       ECAM + 0x1000};
    enable(f, 1, 0xe0000000, 0xc000, UINT64_C(0x800000000));
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        wr(f, 1, PCI_BAR0, 4, bad[i]);
        assert_false(f->toy[0]->pd.bar[0].mapped);
        wr(f, 1, PCI_BAR0, 4, 0xe0000000);
        assert_true(f->toy[0]->pd.bar[0].mapped);
    }
    static const uint64_t bad64[] = {0,          0x10000,
                                     UINT64_MAX, UINT64_C(1) << 52,
                                     0xffff0000, UINT64_C(0xffffffff00000000),
                                     0xb0000000};
    for (unsigned i = 0; i < ARRAY_LEN(bad64); i++) {
        wr(f, 1, PCI_BAR0 + 8, 4, (uint32_t)bad64[i]);
        wr(f, 1, PCI_BAR0 + 12, 4, (uint32_t)(bad64[i] >> 32));
        assert_false(f->toy[0]->pd.bar[2].mapped);
    }
    wr(f, 1, PCI_BAR0 + 4, 4, 0x10000);
    assert_false(f->toy[0]->pd.bar[1].mapped);
    wr(f, 1, PCI_BAR0 + 4, 4, 0xce0); /* would cover CF8 */
    assert_false(f->toy[0]->pd.bar[1].mapped);
    assert_int_equal(rd(f, 1, 0, 4), 0x56781234);
    /* Just above RAM is fine. */
    wr(f, 1, PCI_BAR0, 4, (uint32_t)RAM);
    assert_true(f->toy[0]->pd.bar[0].mapped);
}

/* One over the other: the first stays; the second appears as soon as there is room. */
static void test_overlap(void **state)
{
    struct fixture *f = *state;
    f->toy[0]->reg = 100;
    f->toy[1]->reg = 200;
    enable(f, 1, 0xe0000000, 0xc000, UINT64_C(0x800000000));
    enable(f, 2, 0xe0000000, 0xc010, UINT64_C(0x800008000));
    assert_int_equal(bus_read(f->mmio, 0xe0000000, 4), 100);
    assert_int_equal(bus_read(f->pio, 0xc010, 4), 116);
    wr(f, 1, PCI_BAR0, 4, 0xe0800000);
    assert_int_equal(bus_read(f->mmio, 0xe0000000, 4), 200);
    assert_int_equal(bus_read(f->mmio, 0xe0800000, 4), 100);
    /* A swap by way of an overlap. */
    wr(f, 1, PCI_BAR0, 4, 0xe0000000);
    assert_int_equal(bus_read(f->mmio, 0xe0000000, 4), 200);
    wr(f, 2, PCI_BAR0, 4, 0xe0800000);
    assert_int_equal(bus_read(f->mmio, 0xe0000000, 4), 100);
    assert_int_equal(bus_read(f->mmio, 0xe0800000, 4), 200);
    pci_root_remove(f->root, &f->toy[0]->pd);
    wr(f, 2, PCI_BAR0, 4, 0xe0000000);
    assert_int_equal(bus_read(f->mmio, 0xe0000000, 4), 200);
}

static void test_ecam_moves(void **state)
{
    struct fixture *f = *state;
    wr(f, 0, 0x60, 4, 0xc0000001);
    assert_int_equal(pci_root_ecam_base(f->root), 0xc0000000);
    assert_int_equal(bus_read(f->mmio, ECAM, 4), 0xffffffff);
    assert_int_equal(bus_read(f->mmio, 0xc0000000, 4), 0x29c08086);
    bus_write(f->mmio, 0xc0000060, 4, 0x00000001); /* 0: nowhere */
    assert_int_equal(pci_root_ecam_base(f->root), 0);
    bus_write(f->pio, 0xcf8, 4, 0x80000060);
    bus_write(f->pio, 0xcfc, 4, (uint32_t)ECAM | 1);
    assert_int_equal(pci_root_ecam_base(f->root), ECAM);
    bus_write(f->pio, 0xcfc, 4, (uint32_t)ECAM);
    assert_int_equal(pci_root_ecam_base(f->root), 0);
    struct dev *host = pci_root_dev(f->root);
    host->ops->reset(host);
    assert_int_equal(pci_root_ecam_base(f->root), ECAM);
}

static uint64_t map_msix(struct fixture *f, unsigned slot)
{
    uint64_t at = 0xe2000000;
    wr(f, slot, PCI_BAR0 + 16, 4, (uint32_t)at);
    wr(f, slot, PCI_COMMAND, 2, PCI_CMD_MEM);
    return at;
}

static void msix_control(struct fixture *f, unsigned slot, uint32_t value)
{
    wr(f, slot, f->toy[slot - 1]->pd.msix.cap + 2U, 2, value);
}

static void test_msix(void **state)
{
    struct fixture *f = *state;
    struct pci_dev *pd = &f->toy[0]->pd;
    uint64_t t = map_msix(f, 1);
    for (unsigned i = 0; i < VECTORS; i++) {
        assert_int_equal(bus_read(f->mmio, t + 16ULL * i + 12, 4), 1); /* masked at reset */
        bus_write(f->mmio, t + 16ULL * i, 8, 0xfee01000);
        bus_write(f->mmio, t + 16ULL * i + 8, 4, 0x4000 + i);
    }
    pci_msix_fire(pd, 0);
    assert_int_equal(f->msi_count, 0);
    msix_control(f, 1, 0x8000);
    assert_int_equal(bus_read(f->mmio, t + 4096, 8), 0); /* off: nothing pends */
    pci_msix_fire(pd, 0);
    pci_msix_fire(pd, 2);
    assert_int_equal(bus_read(f->mmio, t + 4096, 8), 5);
    bus_write(f->mmio, t + 12, 4, 0);
    assert_int_equal(f->msi_count, 1);
    assert_int_equal(f->msi_data, 0x4000);
    assert_true(f->msi_addr == 0xfee01000);
    assert_int_equal(bus_read(f->mmio, t + 4096, 4), 4);
    /* Function mask. */
    bus_write(f->mmio, t + 32 + 12, 1, 0);
    assert_int_equal(f->msi_count, 2);
    msix_control(f, 1, 0xc000);
    pci_msix_fire(pd, 0);
    pci_msix_fire(pd, 2);
    pci_msix_fire(pd, 2);
    assert_int_equal(f->msi_count, 2);
    msix_control(f, 1, 0x8000);
    assert_int_equal(f->msi_count, 4);
    assert_int_equal(bus_read(f->mmio, t + 4096, 4), 0);
    pci_msix_fire(pd, VECTORS);
    pci_msix_fire(pd, UINT32_MAX);
    assert_int_equal(f->msi_count, 4);
    /* Only to where interrupts go. */
    static const uint64_t elsewhere[] = {0x1000, 0xfed00000, UINT64_C(0x1fee00000), UINT64_MAX};
    for (unsigned i = 0; i < ARRAY_LEN(elsewhere); i++) {
        bus_write(f->mmio, t, 8, elsewhere[i]);
        pci_msix_fire(pd, 0);
    }
    assert_int_equal(f->msi_count, 4);
}

/* Case 21: every width at every offset, past the end as well. */
static void test_msix_shapes(void **state)
{
    struct fixture *f = *state;
    static const unsigned widths[] = {1, 2, 4, 8};
    uint64_t t = map_msix(f, 1);
    msix_control(f, 1, 0x8000);
    for (unsigned i = 0; i < 4; i++) {
        for (uint64_t off = 0; off < 8192 + 8; off++) {
            (void)bus_read(f->mmio, t + off, widths[i]);
            bus_write(f->mmio, t + off, widths[i], UINT64_MAX);
        }
    }
    assert_int_equal(bus_read(f->mmio, t, 4), 0xfffffffc);
    assert_int_equal(bus_read(f->mmio, t + 12, 4), 1);
    assert_int_equal(bus_read(f->mmio, t + 4096, 8), 0);
    assert_int_equal(bus_read(f->mmio, t + 16 * VECTORS, 8), 0);
    bus_write(f->mmio, t + 7, 2, 0xaabb);
    assert_int_equal(bus_read(f->mmio, t + 6, 4), 0xffaabbff);
}

static void test_intx_shared_wire(void **state)
{
    struct fixture *f = *state;
    struct toy *other = toy_new(); /* slot 5 shares a wire with slot 1 */
    assert_int_equal(pci_root_add(f->root, &other->pd, PCI_DEVFN(5, 0), NULL), 0);
    assert_int_equal(pci_root_add(f->root, &other->pd, PCI_DEVFN(5, 0), NULL), -16);
    pci_set_intx(&f->toy[0]->pd, true);
    assert_int_equal(f->wires, 2);
    pci_set_intx(&other->pd, true);
    pci_set_intx(&f->toy[1]->pd, true);
    assert_int_equal(f->wires, 6);
    pci_set_intx(&f->toy[0]->pd, false);
    assert_int_equal(f->wires, 6);
    assert_int_equal(rd(f, 5, PCI_STATUS, 2) & PCI_STS_INTX, PCI_STS_INTX);
    wr(f, 5, PCI_COMMAND, 2, PCI_CMD_INTX_OFF);
    assert_int_equal(f->wires, 4);
    wr(f, 5, PCI_COMMAND, 2, 0);
    assert_int_equal(f->wires, 6);
    pci_root_remove(f->root, &other->pd);
    assert_int_equal(f->wires, 4);
    pci_dev_done(&other->pd);
    free(other);
}

static void test_flr(void **state)
{
    struct fixture *f = *state;
    enable(f, 1, 0xe0000000, 0xc000, UINT64_C(0x800000000));
    (void)map_msix(f, 1);
    msix_control(f, 1, 0xc000);
    pci_set_intx(&f->toy[0]->pd, true);
    wr(f, 1, f->toy[0]->pd.exp_cap + 9U, 1, 0x80); /* the high byte alone */
    assert_int_equal(f->toy[0]->resets, 1);
    assert_int_equal(rd(f, 1, PCI_COMMAND, 2), 0);
    assert_int_equal(rd(f, 1, PCI_BAR0, 4), 0);
    assert_int_equal(rd(f, 1, PCI_BAR0 + 4, 4), 1);
    assert_int_equal(f->wires, 0);
    assert_false(pci_msix_enabled(&f->toy[0]->pd));
    assert_int_equal(bus_read(f->mmio, 0xe0000000, 4), 0xffffffff);
    assert_int_equal(rd(f, 1, f->toy[0]->pd.exp_cap + 8U, 2), 0x2810);
    wr(f, 1, f->toy[0]->pd.exp_cap + 8U, 1, 0x80);
    assert_int_equal(f->toy[0]->resets, 1);
}

static void test_assign(void **state)
{
    struct fixture *f = *state;
    static const uint8_t irqs[4] = {10, 11, 5, 6};
    pci_root_free(f->root);
    struct pci_root_cfg cfg = {
        .mmio = f->mmio,
        .pio = f->pio,
        .mem = f->mem,
        .mem_window = {{0xc0000000, 0x30000}, {UINT64_C(1) << 40, 1 << 20}},
        .io_window = {0xc000, 64}};
    assert_int_equal(pci_root_new(&cfg, &f->root, NULL), 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(pci_root_add(f->root, &f->toy[i]->pd, PCI_DEVFN(i + 1, 0), NULL), 0);
    }
    assert_int_equal(pci_root_assign(f->root, irqs, NULL), 0);
    for (unsigned i = 0; i < 2; i++) {
        for (unsigned b = 0; b < PCI_BARS; b++) {
            const struct pci_bar *bar = &f->toy[i]->pd.bar[b];
            assert_true(bar->kind == PCI_BAR_UPPER || bar->mapped);
        }
    }
    /* The second one's 64 KiB did not fit below any more. */
    assert_true(f->toy[1]->pd.bar[2].at == UINT64_C(1) << 40);
    assert_int_equal(pci_cfg_read(f->root, PCI_DEVFN(1, 0), PCI_INT_LINE, 1), 11);
    /* Outside of the windows nothing is decoded. */
    pci_cfg_write(f->root, PCI_DEVFN(1, 0), PCI_BAR0, 4, 0xe0000000);
    assert_false(f->toy[0]->pd.bar[0].mapped);
    /* Twice gives the same, and a third function does not fit. */
    assert_int_equal(pci_root_assign(f->root, irqs, NULL), 0);
    assert_true(f->toy[0]->pd.bar[0].mapped);
    assert_int_equal(pci_root_add(f->root, &f->toy[2]->pd, PCI_DEVFN(3, 0), NULL), 0);
    struct err err = {0};
    assert_true(pci_root_assign(f->root, irqs, &err) < 0);
    assert_non_null(strstr(err.text, "03.0"));
}

static void *save(const struct dev *dev, struct pci_dev *pd, size_t *ret_len)
{
    struct state_writer *w;
    const void *data;
    assert_int_equal(state_writer_new(&w, NULL), 0);
    state_begin(w, dev->ops->name, dev->instance, 1);
    pci_save(pd, w);
    state_end(w);
    assert_int_equal(state_writer_finish(w, &data, ret_len), 0);
    void *copy = malloc(*ret_len);
    memcpy(copy, data, *ret_len);
    state_writer_free(w);
    return copy;
}

static int load(const char *name, struct pci_dev *pd, const void *data, size_t len)
{
    struct state_reader *r;
    uint32_t version;
    assert_int_equal(state_reader_new(&r, data, len, NULL), 0);
    int rc = state_enter(r, name, 8, 1, &version, NULL);
    rc = rc != 0 ? rc : pci_load(pd, r, NULL);
    rc = rc != 0 ? rc : state_leave(r, NULL);
    state_reader_free(r);
    return rc;
}

static void test_save_load(void **state)
{
    struct fixture *f = *state;
    size_t len;
    f->toy[0]->reg = 77;
    enable(f, 1, 0xe0000000, 0xc000, UINT64_C(0x800000000));
    uint64_t t = map_msix(f, 1);
    bus_write(f->mmio, t, 8, 0xfee00000);
    bus_write(f->mmio, t + 8, 8, 0x100000041);
    msix_control(f, 1, 0x8000);
    pci_msix_fire(&f->toy[0]->pd, 0);
    pci_set_intx(&f->toy[0]->pd, true);
    void *data = save(&f->toy[0]->pd.dev, &f->toy[0]->pd, &len);
    pci_reset_function(&f->toy[0]->pd);
    assert_int_equal(f->wires, 0);
    assert_int_equal(load("toy", &f->toy[0]->pd, data, len), 0);
    assert_int_equal(f->wires, 2);
    assert_int_equal(bus_read(f->mmio, 0xe0000000, 4), 77);
    assert_int_equal(f->msi_count, 0);
    bus_write(f->mmio, t + 12, 4, 0); /* it was pending when saved */
    assert_int_equal(f->msi_count, 1);
    assert_int_equal(f->msi_data, 0x41);
    /* Another device's state is refused. */
    f->toy[0]->pd.cfg[PCI_REVISION] = 8;
    assert_true(load("toy", &f->toy[0]->pd, data, len) < 0);
    free(data);
}

/* Case 22. */
static void test_every_shape_of_config_access(void **state)
{
    struct fixture *f = *state;
    static const unsigned widths[] = {1, 2, 4, 8};
    uint32_t x = 1;
    for (unsigned slot = 0; slot < 32; slot++) {
        for (unsigned off = 0; off < 4096 + 8; off++) {
            for (unsigned i = 0; i < 4; i++) {
                x = x * 1664525 + 1013904223;
                (void)bus_read(f->mmio, ecam(slot, off), widths[i]);
                if (slot != 0 || off < 0x58 || off > 0x68) {
                    bus_write(f->mmio, ecam(slot, off), widths[i], x);
                }
            }
        }
    }
    for (unsigned off = 0; off < 16; off++) {
        for (unsigned i = 0; i < 3; i++) {
            (void)bus_read(f->pio, 0xcf4 + off, widths[i]);
            bus_write(f->pio, 0xcf4 + off, widths[i], 0x80000800);
        }
    }
    assert_int_equal(pci_cfg_read(f->root, 8, 0, 4), 0x56781234);
    assert_int_equal(pci_cfg_read(f->root, 8, PCI_STATUS, 1) & 0xf0, PCI_STS_CAPS);
}

/* Case 20: one processor moves BARs and ECAM, others use them; nothing hangs. */
struct mover {
    struct fixture *f;
    unsigned kind;
};

static void *move_main(void *opaque)
{
    struct mover *m = opaque;
    struct fixture *f = m->f;
    for (unsigned i = 0; i < 3000; i++) {
        switch (m->kind) {
        case 0:
            bus_write(f->mmio, ecam(1, PCI_BAR0), 4, 0xe0000000 + (i % 4) * 4096);
            bus_write(f->mmio, ecam(1, PCI_COMMAND), 2, i % 3 == 0 ? 0 : 2);
            break;
        case 1:
            pci_cfg_write(f->root, 0, 0x60, 4, (i & 1) != 0 ? 0xc0000001 : 0xb0000001);
            break;
        case 2:
            for (unsigned k = 0; k < 4; k++) {
                (void)bus_read(f->mmio, 0xe0000000 + k * 4096ULL, 4);
                bus_write(f->mmio, 0xe0000000 + k * 4096ULL, 4, i);
            }
            break;
        default:
            (void)bus_read(f->mmio, ecam(2, 0), 4);
            bus_write(f->mmio, 0xc0000000 + (2 << 15) + PCI_BAR0, 4,
                      0xe0000000 + (i % 4) * 4096);
            break;
        }
    }
    return NULL;
}

static void test_moving_while_in_use(void **state)
{
    struct fixture *f = *state;
    pthread_t thread[4];
    struct mover mover[4];
    enable(f, 1, 0xe0000000, 0, 0);
    enable(f, 2, 0xe0000000, 0, 0);
    for (unsigned i = 0; i < 4; i++) {
        mover[i] = (struct mover){f, i};
        assert_int_equal(pthread_create(&thread[i], NULL, move_main, &mover[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(thread[i], NULL);
    }
    pci_cfg_write(f->root, 0, 0x60, 4, (uint32_t)ECAM | 1);
    assert_int_equal(pci_root_ecam_base(f->root), ECAM);
    f->toy[0]->reg = 9;
    wr(f, 2, PCI_COMMAND, 2, 0);
    enable(f, 1, 0xe0000000, 0, 0);
    assert_int_equal(bus_read(f->mmio, 0xe0000000, 4), 9);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_ways_to_config_space),
        T(test_cf9),
        T(test_bar_sizing_and_moving),
        T(test_bars_in_bad_places),
        T(test_overlap),
        T(test_ecam_moves),
        T(test_msix),
        T(test_msix_shapes),
        T(test_intx_shared_wire),
        T(test_flr),
        T(test_assign),
        T(test_save_load),
        T(test_every_shape_of_config_access),
        T(test_moving_while_in_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
