/*
 * The entropy device and, through it, the transport and the virtqueue core: it is the simplest
 * device, so the tests of what all devices share are here (hostile-input cases 1-6, 8, 10, 11).
 */
#include "dev/virtio/virtio_rng.h"

#include "base/bytes.h"
#include "dev/virtio/vt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define EVENT_IDX VIRTIO_BIT(VIRTIO_F_EVENT_IDX)
#define INDIRECT  VIRTIO_BIT(VIRTIO_F_INDIRECT)
#define PAGE      4096U

static void fill_ramp(void *opaque, void *buf, size_t len)
{
    uint8_t *next = opaque;
    uint8_t *p = buf;
    for (size_t i = 0; i < len; i++) {
        p[i] = (*next)++;
    }
}

struct fixture {
    struct vt vt;
    uint8_t next;
};

static void plug_rng(struct fixture *f)
{
    struct virtio_rng_cfg cfg = {f->vt.mem, fill_ramp, &f->next};
    struct virtio_dev *vd;
    assert_int_equal(virtio_rng_new(&cfg, &vd, NULL), 0);
    vt_plug(&f->vt, vd);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    vt_setup(&f->vt);
    f->next = 1;
    plug_rng(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    vt_teardown(&f->vt);
    free(f);
    return 0;
}

static void expect_ramp(struct vt *vt, uint64_t gpa, unsigned len, uint8_t first)
{
    uint8_t *buf = malloc(len);
    vt_read(vt, gpa, buf, len);
    for (unsigned i = 0; i < len; i++) {
        assert_int_equal(buf[i], (uint8_t)(first + i));
    }
    free(buf);
}

static void test_request(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    uint32_t id;
    vt_start(vt, 0, 1, 8);
    uint64_t a = vt_alloc(vt, PAGE);
    uint64_t b = vt_alloc(vt, PAGE);
    struct vt_seg segs[] = {{a, 100, true}, {b, 0, true}, {b, 28, true}};
    uint16_t head = vt_add(vt, 0, segs, 3);
    vt_kick(vt, 0);
    assert_int_equal(vt_wait_used(vt, 0, &id), 128);
    assert_int_equal(id, head);
    expect_ramp(vt, a, 100, 1);
    expect_ramp(vt, b, 28, 101);
    assert_int_equal(vt->msi[1], 1);
    assert_int_equal(vt->msi[0], 0);
}

static void test_many_requests_wrap(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    uint64_t modes[] = {0, EVENT_IDX, INDIRECT, EVENT_IDX | INDIRECT};
    for (unsigned m = 0; m < 4; m++) {
        uint64_t features = vt_start(vt, modes[m], 1, 4);
        assert_int_equal(features & (EVENT_IDX | INDIRECT), modes[m]);
        uint64_t a = vt_alloc(vt, PAGE);
        uint64_t heap = vt->heap;
        for (unsigned i = 0; i < 70000; i++) {
            struct vt_seg seg = {a, 1, true};
            if ((modes[m] & INDIRECT) != 0) {
                vt->heap = heap;
                vt_add_indirect(vt, 0, &seg, 1);
            } else {
                vt_add(vt, 0, &seg, 1);
            }
            vt_kick(vt, 0);
            assert_int_equal(vt_wait_used(vt, 0, NULL), 1);
        }
        assert_false(vt_needs_reset(vt));
    }
}

static void test_request_is_bounded(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    vt_start(vt, 0, 1, 8);
    struct vt_seg segs[] = {{0, (uint32_t)VT_RAM_BYTES / 2, true}};
    /* The buffer may cover rings: only 64 KiB at its start are touched. */
    vt_add(vt, 0, segs, 1);
    vt_kick(vt, 0);
    assert_int_equal(vt_wait_used(vt, 0, NULL), VIRTIO_RNG_REQUEST_MAX);
    uint8_t after;
    vt_read(vt, VIRTIO_RNG_REQUEST_MAX, &after, 1);
    assert_int_equal(after, 0);
}

static void test_feature_negotiation(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    /* Without VERSION_1, and with a feature that was not offered: no FEATURES_OK. */
    uint64_t bad[] = {0, VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(5)};
    for (unsigned i = 0; i < 2; i++) {
        vt_reset(vt);
        vt_common_set(vt, VPCI_STATUS, 1, 3);
        for (unsigned half = 0; half < 2; half++) {
            vt_common_set(vt, VPCI_DRIVER_FEATURE_SELECT, 4, half);
            vt_common_set(vt, VPCI_DRIVER_FEATURE, 4, (uint32_t)(bad[i] >> (32 * half)));
        }
        vt_common_set(vt, VPCI_STATUS, 1, 3 | VIRTIO_S_FEATURES_OK);
        assert_int_equal(vt_common(vt, VPCI_STATUS, 1), 3);
        /* Going on regardless breaks it. */
        vt_common_set(vt, VPCI_STATUS, 1, 3 | VIRTIO_S_DRIVER_OK);
        assert_true(vt_needs_reset(vt));
    }
    /* A selector past the last word reads 0 and writes nothing. */
    vt_reset(vt);
    vt_common_set(vt, VPCI_DEVICE_FEATURE_SELECT, 4, 2);
    assert_int_equal(vt_common(vt, VPCI_DEVICE_FEATURE, 4), 0);
    vt_common_set(vt, VPCI_DRIVER_FEATURE_SELECT, 4, 0xffffffff);
    vt_common_set(vt, VPCI_DRIVER_FEATURE, 4, 0xffffffff);
    vt_common_set(vt, VPCI_DRIVER_FEATURE_SELECT, 4, 0);
    assert_int_equal(vt_common(vt, VPCI_DRIVER_FEATURE, 4), 0);
    vt_start(vt, 0, 1, 8);
}

/* Case 6: everything that must not change after DRIVER_OK. */
static void test_frozen_after_driver_ok(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    vt_start(vt, EVENT_IDX, 1, 8);
    uint16_t sizes[] = {0, 3, 16, 65535};
    vt_common_set(vt, VPCI_QUEUE_SELECT, 2, 0);
    for (unsigned i = 0; i < 4; i++) {
        vt_common_set(vt, VPCI_QUEUE_SIZE, 2, sizes[i]);
        assert_int_equal(vt_common(vt, VPCI_QUEUE_SIZE, 2), 8);
    }
    uint64_t desc = vt_common(vt, VPCI_QUEUE_DESC, 8);
    for (unsigned off = VPCI_QUEUE_DESC; off < VPCI_QUEUE_NOTIFY_DATA; off += 4) {
        vt_common_set(vt, off, 4, 0xdeadbeef);
    }
    assert_int_equal(vt_common(vt, VPCI_QUEUE_DESC, 8), desc);
    vt_common_set(vt, VPCI_QUEUE_ENABLE, 2, 0);
    assert_int_equal(vt_common(vt, VPCI_QUEUE_ENABLE, 2), 1);
    vt_common_set(vt, VPCI_DRIVER_FEATURE_SELECT, 4, 0);
    vt_common_set(vt, VPCI_DRIVER_FEATURE, 4, 0);
    assert_int_equal(vt_common(vt, VPCI_DRIVER_FEATURE, 4), (uint32_t)EVENT_IDX);
    /* Clearing single bits is no reset. */
    vt_common_set(vt, VPCI_STATUS, 1, VIRTIO_S_ACKNOWLEDGE);
    assert_int_equal(vt_common(vt, VPCI_STATUS, 1), 15);
    /* A queue that is not there. */
    vt_common_set(vt, VPCI_QUEUE_SELECT, 2, 0xffff);
    for (unsigned off = VPCI_QUEUE_SIZE; off < VPCI_QUEUE_NOTIFY_DATA; off += 2) {
        vt_common_set(vt, off, 2, 1);
    }
    assert_int_equal(vt_common(vt, VPCI_QUEUE_SIZE, 2), 0);
    assert_int_equal(vt_common(vt, VPCI_QUEUE_VECTOR, 2), VIRTQ_NO_VECTOR);
    /* Vectors that are not there read back as none. */
    vt_common_set(vt, VPCI_QUEUE_SELECT, 2, 0);
    vt_common_set(vt, VPCI_QUEUE_VECTOR, 2, 2);
    assert_int_equal(vt_common(vt, VPCI_QUEUE_VECTOR, 2), VIRTQ_NO_VECTOR);
    vt_common_set(vt, VPCI_CONFIG_VECTOR, 2, 77);
    assert_int_equal(vt_common(vt, VPCI_CONFIG_VECTOR, 2), VIRTQ_NO_VECTOR);
    vt_common_set(vt, VPCI_QUEUE_VECTOR, 2, 1);
    /* And it still works. */
    struct vt_seg seg = {vt_alloc(vt, PAGE), 16, true};
    vt_add(vt, 0, &seg, 1);
    vt_kick(vt, 0);
    assert_int_equal(vt_wait_used(vt, 0, NULL), 16);
}

static void test_every_shape_of_register_access(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    static const unsigned widths[] = {1, 2, 4, 8};
    uint64_t mirror = 0;
    vt_reset(vt);
    vt_common_set(vt, VPCI_QUEUE_SELECT, 2, 0);
    vt_common_set(vt, VPCI_QUEUE_DESC, 8, 0x1122334455667788);
    for (unsigned off = 0; off < 8; off++) {
        mirror |= vt_common(vt, VPCI_QUEUE_DESC + off, 1) << (8 * off);
    }
    assert_true(mirror == 0x1122334455667788);
    assert_int_equal(vt_common(vt, VPCI_QUEUE_DESC + 3, 4), 0x22334455);
    vt_common_set(vt, VPCI_QUEUE_DESC + 1, 2, 0xaabb);
    assert_true(vt_common(vt, VPCI_QUEUE_DESC, 8) == 0x1122334455aabb88);
    for (unsigned off = 0; off < VIRTIO_PCI_BAR_BYTES + 16; off++) {
        for (unsigned i = 0; i < 4; i++) {
            (void)bus_read(vt->mmio, VT_BAR + off, widths[i]);
            if (off != VPCI_STATUS) {
                bus_write(vt->mmio, VT_BAR + off, widths[i], UINT64_MAX);
            }
        }
    }
    vt_start(vt, 0, 1, 8);
}

static void broken_after_kick(struct vt *vt)
{
    unsigned config_irqs = __atomic_load_n(&vt->msi[0], __ATOMIC_SEQ_CST);
    vt_kick(vt, 0);
    assert_true(vt_needs_reset(vt));
    assert_int_equal(__atomic_load_n(&vt->msi[0], __ATOMIC_SEQ_CST), config_irqs + 1);
    vt_kick(vt, 0);
    uint16_t used = 1;
    vt_read(vt, vt->q[0].used + 2, &used, 2);
    assert_int_equal(used, 0);
}

/* Cases 1 and 2: loops, and indices past the end. */
static void test_loops_and_bad_indices(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    uint64_t buf = vt_alloc(vt, PAGE);
    static const struct {
        uint16_t head, flags0, next0, flags1, next1;
    } cases[] = {
        {0, 3, 0, 0, 0},     /* to itself */
        {0, 3, 1, 3, 0},     /* two of them */
        {8, 2, 0, 0, 0},     /* head = size */
        {65535, 2, 0, 0, 0}, /* head far out */
        {0, 3, 8, 0, 0},     /* next = size */
        {0, 3, 65535, 0, 0}, /* next far out */
        {0, 3, 1, 0, 0},     /* readable after writable */
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        vt_start(vt, INDIRECT, 1, 8);
        vt_put_desc(vt, vt->q[0].desc, 0, buf, 1, cases[i].flags0, cases[i].next0);
        vt_put_desc(vt, vt->q[0].desc, 1, buf, 1, cases[i].flags1, cases[i].next1);
        vt_publish(vt, 0, cases[i].head);
        broken_after_kick(vt);
    }
}

/* Case 3: avail.idx jumps. */
static void test_avail_index_jumps(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    static const uint16_t jumps[] = {9, 100, 32768, 65535};
    for (unsigned i = 0; i < 4; i++) {
        vt_start(vt, 0, 1, 8);
        vt_write(vt, vt->q[0].avail + 2, &jumps[i], 2);
        broken_after_kick(vt);
    }
}

/* Case 4: buffers where there is no RAM. */
static void test_bad_addresses(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    static const struct {
        uint64_t addr;
        uint32_t len;
    } cases[] = {
        {VT_RAM_BYTES, 1},  {VT_RAM_BYTES - 1, 2},
        {UINT64_MAX, 1},    {UINT64_MAX - 10, 100},
        {VT_BAR, 16},       {VT_BAR + VIRTIO_PCI_MSIX_TABLE, 16},
        {4096, 0xffffffff}, {UINT64_C(1) << 63, 4096},
        {VT_ECAM, 4},
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        vt_start(vt, 0, 1, 8);
        struct vt_seg seg = {cases[i].addr, cases[i].len, true};
        vt_add(vt, 0, &seg, 1);
        broken_after_kick(vt);
    }
    /* Of length 0 is fine, wherever it points. */
    vt_start(vt, 0, 1, 8);
    struct vt_seg empty = {VT_RAM_BYTES + 5, 0, true};
    vt_add(vt, 0, &empty, 1);
    vt_kick(vt, 0);
    assert_int_equal(vt_wait_used(vt, 0, NULL), 0);
}

static void test_buffer_across_slots(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    assert_int_equal(mem_slot_add(vt->mem, GPA(VT_RAM_BYTES), 1 << 20, MEM_RAM, NULL), 0);
    assert_int_equal(mem_slot_add(vt->mem, GPA(VT_RAM_BYTES + (1 << 20)), 4096, MEM_ROM, NULL),
                     0);
    vt_start(vt, 0, 1, 8);
    struct vt_seg seg = {VT_RAM_BYTES - 10, 30, true};
    vt_add(vt, 0, &seg, 1);
    vt_kick(vt, 0);
    assert_int_equal(vt_wait_used(vt, 0, NULL), 30);
    expect_ramp(vt, VT_RAM_BYTES - 10, 30, 1);
    /* Into ROM: no. */
    vt_start(vt, 0, 1, 8);
    struct vt_seg rom = {VT_RAM_BYTES + (1 << 20), 1, true};
    vt_add(vt, 0, &rom, 1);
    broken_after_kick(vt);
}

/* Case 5: indirect tables. */
static void test_bad_indirect(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    uint64_t table = vt_alloc(vt, PAGE * 5);
    static const struct {
        uint64_t addr; /* 0: the table */
        uint32_t len;
        uint16_t flags, inner_flags, inner_next;
        bool offered;
    } cases[] = {
        {0, 15, 4, 2, 0, true},         {0, 0, 4, 2, 0, true},
        {0, 0xfffffff0, 4, 2, 0, true}, {0, 16, 4, 4, 0, true},
        {0, 32, 5, 2, 0, true},         {VT_BAR, 16, 4, 2, 0, true},
        {0, 32, 4, 3, 0, true},         {0, 32, 4, 3, 2, true},
        {0, 16, 4, 2, 0, false},        {UINT64_MAX - 15, 16, 4, 2, 0, true},
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        vt_start(vt, cases[i].offered ? INDIRECT : 0, 1, 8);
        vt_put_desc(vt, table, 0, cases[i].inner_flags == 4 ? table + 64 : table + PAGE, 16,
                    cases[i].inner_flags, cases[i].inner_next);
        vt_put_desc(vt, table, 4, table + PAGE, 16, 2, 0);
        vt_put_desc(vt, vt->q[0].desc, 0, cases[i].addr != 0 ? cases[i].addr : table,
                    cases[i].len, cases[i].flags, 1);
        vt_put_desc(vt, vt->q[0].desc, 1, table + PAGE, 1, 2, 0);
        vt_publish(vt, 0, 0);
        broken_after_kick(vt);
    }
    /* More segments than we take. */
    vt_start(vt, INDIRECT, 1, 8);
    for (unsigned i = 0; i < 200; i++) {
        vt_put_desc(vt, table, i, table + 4 * PAGE, 1, i == 199 ? 2 : 3, (uint16_t)(i + 1));
    }
    vt_put_desc(vt, vt->q[0].desc, 0, table, 16 * 200, 4, 0);
    vt_publish(vt, 0, 0);
    broken_after_kick(vt);
}

/* Case 6 and 8: rings that are nowhere, or that lie over each other. */
static void test_bad_rings(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    static const struct {
        unsigned reg;
        uint64_t addr;
    } cases[] = {
        {VPCI_QUEUE_DESC, VT_BAR},          {VPCI_QUEUE_DRIVER, VT_RAM_BYTES - 2},
        {VPCI_QUEUE_DEVICE, VT_RAM_BYTES},  {VPCI_QUEUE_DESC, 8},
        {VPCI_QUEUE_DRIVER, 0x100001},      {VPCI_QUEUE_DEVICE, 0x100002},
        {VPCI_QUEUE_DESC, UINT64_MAX - 15}, {VPCI_QUEUE_DEVICE, VT_BAR + VIRTIO_PCI_MSIX_TABLE},
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        vt_reset(vt);
        vt_common_set(vt, VPCI_DRIVER_FEATURE_SELECT, 4, 1);
        vt_common_set(vt, VPCI_DRIVER_FEATURE, 4, 1);
        vt_common_set(vt, VPCI_STATUS, 1, 11);
        vt_common_set(vt, VPCI_QUEUE_SELECT, 2, 0);
        vt_common_set(vt, VPCI_QUEUE_DESC, 8, 0x10000);
        vt_common_set(vt, VPCI_QUEUE_DRIVER, 8, 0x20000);
        vt_common_set(vt, VPCI_QUEUE_DEVICE, 8, 0x30000);
        vt_common_set(vt, cases[i].reg, 8, cases[i].addr);
        vt_common_set(vt, VPCI_QUEUE_ENABLE, 2, 1);
        vt_common_set(vt, VPCI_STATUS, 1, 15);
        assert_true(vt_needs_reset(vt));
        vt_kick(vt, 0);
    }
    /* The used ring over the descriptors: the driver's own harm. */
    vt_start(vt, 0, 1, 8);
    vt->vp->vd->queue[0].used = GPA(vt->q[0].desc);
    struct vt_seg seg = {vt_alloc(vt, PAGE), 64, true};
    for (unsigned i = 0; i < 20; i++) {
        vt_add(vt, 0, &seg, 1);
        vt_kick(vt, 0);
    }
}

/* Case 10: notifications that nobody expects. */
static void test_stray_notifications(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    vt_reset(vt);
    for (unsigned i = 0; i < 10000; i++) {
        vt_kick(vt, 0);
        bus_write(vt->mmio, VT_BAR + VIRTIO_PCI_NOTIFY + (i * 4) % 4096, 4, 0xffffffff);
    }
    vt_start(vt, 0, 1, 8);
    bus_write(vt->mmio, VT_BAR + VIRTIO_PCI_NOTIFY + 4092, 2, 0xffff);
    assert_false(vt_needs_reset(vt));
}

/* Case 11: event indices that are never right; interrupts are lost, nothing else. */
static void test_event_index_suppresses(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    vt_start(vt, EVENT_IDX, 1, 8);
    struct vt_seg seg = {vt_alloc(vt, PAGE), 1, true};
    uint16_t event = 3;
    vt_write(vt, vt->q[0].avail + 4 + 16, &event, 2);
    for (unsigned i = 0; i < 6; i++) {
        vt_add(vt, 0, &seg, 1);
        vt_kick(vt, 0);
        vt_wait_used(vt, 0, NULL);
    }
    /* One at the start, one as index 3 was stepped over. */
    assert_int_equal(vt->msi[1], 2);
    uint16_t avail_event;
    vt_read(vt, vt->q[0].used + 4 + 64, &avail_event, 2);
    assert_int_equal(avail_event, 6);
    /* Without event indices: the flag. */
    vt_start(vt, 0, 1, 8);
    uint16_t no_irq = 1;
    vt_write(vt, vt->q[0].avail, &no_irq, 2);
    vt_add(vt, 0, &seg, 1);
    vt_kick(vt, 0);
    vt_wait_used(vt, 0, NULL);
    assert_int_equal(vt->msi[1], 2);
}

static void test_intx(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    uint8_t devfn = vt->vp->pd.devfn;
    vt_start(vt, 0, 1, 8);
    pci_cfg_write(vt->root, devfn, vt->vp->pd.msix.cap + 2U, 2, 0);
    struct vt_seg seg = {vt_alloc(vt, PAGE), 1, true};
    vt_add(vt, 0, &seg, 1);
    vt_kick(vt, 0);
    assert_int_equal(vt->intx, 1U << (VT_SLOT % 4));
    assert_int_equal(pci_cfg_read(vt->root, devfn, PCI_STATUS, 2) & PCI_STS_INTX, PCI_STS_INTX);
    /* INTx disable holds the wire down, the status bit stays. */
    pci_cfg_write(vt->root, devfn, PCI_COMMAND, 2, 7 | PCI_CMD_INTX_OFF);
    assert_int_equal(vt->intx, 0);
    assert_int_equal(pci_cfg_read(vt->root, devfn, PCI_STATUS, 2) & PCI_STS_INTX, PCI_STS_INTX);
    pci_cfg_write(vt->root, devfn, PCI_COMMAND, 2, 7);
    assert_int_equal(vt->intx, 1U << (VT_SLOT % 4));
    assert_int_equal(bus_read(vt->mmio, VT_BAR + VIRTIO_PCI_ISR, 1), 1);
    assert_int_equal(vt->intx, 0);
    assert_int_equal(bus_read(vt->mmio, VT_BAR + VIRTIO_PCI_ISR, 1), 0);
    assert_int_equal(vt->msi[1], 0);
}

static void test_window_capability(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    uint8_t devfn = vt->vp->pd.devfn;
    unsigned cap = vt->vp->window_cap;
    pci_cfg_write(vt->root, devfn, cap + 4, 1, 0);
    pci_cfg_write(vt->root, devfn, cap + 8, 4, VPCI_NUM_QUEUES);
    pci_cfg_write(vt->root, devfn, cap + 12, 4, 2);
    assert_int_equal(pci_cfg_read(vt->root, devfn, cap + 16, 2), 1);
    pci_cfg_write(vt->root, devfn, cap + 8, 4, VPCI_QUEUE_DESC);
    pci_cfg_write(vt->root, devfn, cap + 12, 4, 4);
    pci_cfg_write(vt->root, devfn, cap + 16, 4, 0x1234000);
    assert_int_equal(vt_common(vt, VPCI_QUEUE_DESC, 8), 0x1234000);
    /* Case 22: wrong lengths, offsets and BARs. */
    static const uint32_t lens[] = {0, 3, 8, 0xffffffff, 1, 4, 4};
    static const uint32_t offs[] = {0, 0, 0, 0, 0xffffffff, 0x7ffe, 0x8000};
    for (unsigned i = 0; i < 7; i++) {
        for (unsigned bar = 0; bar < 8; bar++) {
            pci_cfg_write(vt->root, devfn, cap + 4, 1, bar);
            pci_cfg_write(vt->root, devfn, cap + 8, 4, offs[i]);
            pci_cfg_write(vt->root, devfn, cap + 12, 4, lens[i]);
            pci_cfg_write(vt->root, devfn, cap + 16, 4, 0x55aa55aa);
            (void)pci_cfg_read(vt->root, devfn, cap + 16, 4);
        }
    }
}

static void test_flr_and_machine_reset(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    static const uint8_t irqs[4] = {0};
    uint8_t devfn = vt->vp->pd.devfn;
    vt_start(vt, 0, 1, 8);
    for (unsigned way = 0; way < 2; way++) {
        if (way == 0) {
            unsigned ctl = vt->vp->pd.exp_cap + 8U;
            pci_cfg_write(vt->root, devfn, ctl, 2,
                          0x8000 | pci_cfg_read(vt->root, devfn, ctl, 2));
            assert_int_equal(pci_cfg_read(vt->root, devfn, ctl, 2) & 0x8000, 0);
        } else {
            vt->vp->pd.dev.ops->reset(&vt->vp->pd.dev);
        }
        assert_int_equal(pci_cfg_read(vt->root, devfn, PCI_COMMAND, 2), 0);
        assert_int_equal(pci_cfg_read(vt->root, devfn, PCI_BAR0, 4), 4);
        assert_int_equal(bus_read(vt->mmio, VT_BAR + VPCI_NUM_QUEUES, 2), 0xffff);
        assert_int_equal(pci_root_assign(vt->root, irqs, NULL), 0);
        assert_int_equal(vt_common(vt, VPCI_STATUS, 1), 0);
        vt_start(vt, 0, 1, 8);
        struct vt_seg seg = {vt_alloc(vt, PAGE), 16, true};
        vt_add(vt, 0, &seg, 1);
        vt_kick(vt, 0);
        assert_int_equal(vt_wait_used(vt, 0, NULL), 16);
    }
}

static void test_save_load_continue(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    size_t len;
    vt_start(vt, EVENT_IDX | INDIRECT, 1, 8);
    struct vt_seg seg = {vt_alloc(vt, PAGE), 16, true};
    for (unsigned i = 0; i < 11; i++) {
        vt_add(vt, 0, &seg, 1);
        vt_kick(vt, 0);
        vt_wait_used(vt, 0, NULL);
    }
    /* Paused: what the guest still made available waits. */
    struct dev *dev = &vt->vp->pd.dev;
    dev->ops->pause(dev);
    vt_add(vt, 0, &seg, 1);
    vt_kick(vt, 0);
    uint32_t id;
    uint32_t got;
    assert_false(vt_used(vt, 0, &id, &got));
    void *data = vt_save(vt, &len);
    vt_unplug(vt);
    assert_int_equal(bus_read(vt->mmio, VT_BAR, 4), 0xffffffff);
    struct virtio_rng_cfg cfg = {vt->mem, fill_ramp, &f->next};
    struct virtio_dev *vd;
    assert_int_equal(virtio_rng_new(&cfg, &vd, NULL), 0);
    assert_int_equal(virtio_pci_new(vd, &vt->vp, NULL), 0);
    assert_int_equal(pci_root_add(vt->root, &vt->vp->pd, PCI_DEVFN(VT_SLOT, 0), NULL), 0);
    assert_int_equal(vt_load(vt, data, len), 0);
    dev = &vt->vp->pd.dev;
    dev->ops->resume(dev);
    assert_int_equal(vt_wait_used(vt, 0, NULL), 16);
    assert_int_equal(vt_common(vt, VPCI_STATUS, 1), 15);
    vt_add(vt, 0, &seg, 1);
    vt_kick(vt, 0);
    assert_int_equal(vt_wait_used(vt, 0, NULL), 16);
    free(data);
}

/* Case 37 in small: bytes of the stream flipped; refused or survived, never a crash. */
static void test_load_garbage(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    size_t len;
    vt_start(vt, EVENT_IDX, 1, 8);
    uint8_t *data = vt_save(vt, &len);
    for (size_t i = 0; i < len; i++) {
        uint8_t *copy = malloc(len);
        memcpy(copy, data, len);
        copy[i] ^= (uint8_t)(1U << (i % 8));
        struct state_reader *r = NULL;
        uint32_t version;
        struct dev *dev = &vt->vp->pd.dev;
        if (state_reader_new(&r, copy, len, NULL) == 0 &&
            state_enter(r, dev->ops->name, dev->instance, 1, &version, NULL) == 0) {
            (void)dev->ops->load(dev, r, version, NULL);
            dev->ops->resume(dev);
            vt_kick(vt, 0);
        }
        state_reader_free(r);
        free(copy);
    }
    assert_int_equal(vt_load(vt, data, len), 0);
    free(data);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_request),
        T(test_many_requests_wrap),
        T(test_request_is_bounded),
        T(test_feature_negotiation),
        T(test_frozen_after_driver_ok),
        T(test_every_shape_of_register_access),
        T(test_loops_and_bad_indices),
        T(test_avail_index_jumps),
        T(test_bad_addresses),
        T(test_buffer_across_slots),
        T(test_bad_indirect),
        T(test_bad_rings),
        T(test_stray_notifications),
        T(test_event_index_suppresses),
        T(test_intx),
        T(test_window_capability),
        T(test_flr_and_machine_reset),
        T(test_save_load_continue),
        T(test_load_garbage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
