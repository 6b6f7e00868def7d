/* The test driver of vt.h. Single-threaded, except for what it is told about interrupts. */
#include "dev/virtio/vt.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define DEADLINE_NS (20 * NSEC_PER_SEC)

static void on_msi(void *opaque, uint64_t addr, uint32_t data)
{
    struct vt *vt = opaque;
    (void)addr;
    __atomic_fetch_add(&vt->msi[data % VT_VECTORS], 1, __ATOMIC_SEQ_CST);
}

static void on_intx(void *opaque, unsigned n, bool level)
{
    struct vt *vt = opaque;
    if (level) {
        __atomic_fetch_or(&vt->intx, 1U << n, __ATOMIC_SEQ_CST);
    } else {
        __atomic_fetch_and(&vt->intx, ~(1U << n), __ATOMIC_SEQ_CST);
    }
    __atomic_fetch_add(&vt->intx_edges, 1, __ATOMIC_SEQ_CST);
}

void vt_setup(struct vt *vt)
{
    struct err err = {0};
    memset(vt, 0, sizeof(*vt));
    assert_int_equal(mem_new(&vt->mem, &err), 0);
    assert_int_equal(mem_slot_add(vt->mem, GPA(0), VT_RAM_BYTES, MEM_RAM, &err), 0);
    assert_int_equal(bus_new(&vt->mmio, UINT64_C(1) << 46, &err), 0);
    assert_int_equal(bus_new(&vt->pio, 0x10000, &err), 0);
    assert_int_equal(loop_new(&vt->loop, &err), 0);
    struct pci_root_cfg cfg = {.mmio = vt->mmio,
                               .pio = vt->pio,
                               .mem = vt->mem,
                               .ecam_base = VT_ECAM,
                               .msi = {on_msi, vt},
                               .mem_window = {{VT_BAR, 0x10000000}, {0, 0}},
                               .io_window = {0x1000, 0xe000}};
    for (unsigned i = 0; i < 4; i++) {
        cfg.intx[i] = (struct irq_line){on_intx, vt, i};
    }
    assert_int_equal(pci_root_new(&cfg, &vt->root, &err), 0);
    vt->heap = UINT64_C(1) << 20;
}

void vt_unplug(struct vt *vt)
{
    if (vt->vp != NULL) {
        struct dev *dev = &vt->vp->pd.dev;
        vt->vp = NULL;
        dev->ops->free(dev);
    }
}

void vt_teardown(struct vt *vt)
{
    if (vt->loop_runs) {
        loop_stop(vt->loop, 0);
        pthread_join(vt->loop_thread, NULL);
    }
    vt_unplug(vt);
    pci_root_free(vt->root);
    loop_free(vt->loop);
    bus_free(vt->mmio);
    bus_free(vt->pio);
    mem_free(vt->mem);
}

static void *loop_main(void *opaque)
{
    struct vt *vt = opaque;
    loop_run(vt->loop);
    return NULL;
}

void vt_run_loop(struct vt *vt)
{
    vt->loop_runs = true;
    assert_int_equal(pthread_create(&vt->loop_thread, NULL, loop_main, vt), 0);
}

void vt_plug(struct vt *vt, struct virtio_dev *vd)
{
    static const uint8_t irqs[4] = {10, 11, 10, 11};
    struct err err = {0};
    assert_int_equal(virtio_pci_new(vd, &vt->vp, &err), 0);
    assert_int_equal(pci_root_add(vt->root, &vt->vp->pd, PCI_DEVFN(VT_SLOT, 0), &err), 0);
    assert_int_equal(pci_root_assign(vt->root, irqs, &err), 0);
}

uint64_t vt_alloc(struct vt *vt, uint64_t bytes)
{
    uint64_t at = vt->heap;
    vt->heap += (bytes + 4095) & ~UINT64_C(4095);
    assert_true(vt->heap <= VT_RAM_BYTES);
    assert_int_equal(mem_fill(vt->mem, GPA(at), 0, vt->heap - at), 0);
    return at;
}

uint64_t vt_common(struct vt *vt, unsigned off, unsigned len)
{
    return bus_read(vt->mmio, VT_BAR + VIRTIO_PCI_COMMON + off, len);
}

void vt_common_set(struct vt *vt, unsigned off, unsigned len, uint64_t value)
{
    bus_write(vt->mmio, VT_BAR + VIRTIO_PCI_COMMON + off, len, value);
}

void vt_write(struct vt *vt, uint64_t gpa, const void *buf, size_t len)
{
    assert_int_equal(mem_write(vt->mem, GPA(gpa), buf, len), 0);
}

void vt_read(struct vt *vt, uint64_t gpa, void *buf, size_t len)
{
    assert_int_equal(mem_read(vt->mem, GPA(gpa), buf, len), 0);
}

static void write16(struct vt *vt, uint64_t gpa, uint16_t value)
{
    assert_int_equal(mem_store_u16(vt->mem, GPA(gpa), value), 0);
}

void vt_reset(struct vt *vt)
{
    uint64_t end = clock_now_ns() + DEADLINE_NS;
    vt_common_set(vt, VPCI_STATUS, 1, 0);
    while (vt_common(vt, VPCI_STATUS, 1) != 0) {
        assert_true(clock_now_ns() < end);
        usleep(100);
    }
    memset(vt->q, 0, sizeof(vt->q));
}

void vt_setup_queue(struct vt *vt, unsigned q, uint16_t size)
{
    struct vt_queue *vq = &vt->q[q];
    vt_common_set(vt, VPCI_QUEUE_SELECT, 2, q);
    uint16_t max = (uint16_t)vt_common(vt, VPCI_QUEUE_SIZE, 2);
    memset(vq, 0, sizeof(*vq));
    vq->size = size < max ? size : max;
    vq->desc = vt_alloc(vt, 16ULL * vq->size);
    vq->avail = vt_alloc(vt, 6 + 2ULL * vq->size);
    vq->used = vt_alloc(vt, 6 + 8ULL * vq->size);
    vt_common_set(vt, VPCI_QUEUE_SIZE, 2, vq->size);
    vt_common_set(vt, VPCI_QUEUE_VECTOR, 2, q + 1);
    vt_common_set(vt, VPCI_QUEUE_DESC, 8, vq->desc);
    vt_common_set(vt, VPCI_QUEUE_DRIVER, 4, vq->avail);
    vt_common_set(vt, VPCI_QUEUE_DRIVER + 4, 4, 0);
    vt_common_set(vt, VPCI_QUEUE_DEVICE, 8, vq->used);
    vt_common_set(vt, VPCI_QUEUE_ENABLE, 2, 1);
}

void vt_enable_msix(struct vt *vt, unsigned vectors)
{
    for (unsigned i = 0; i < vectors; i++) {
        uint64_t entry = VT_BAR + VIRTIO_PCI_MSIX_TABLE + 16ULL * i;
        bus_write(vt->mmio, entry, 4, 0xfee00000);
        bus_write(vt->mmio, entry + 4, 4, 0);
        bus_write(vt->mmio, entry + 8, 4, i);
        bus_write(vt->mmio, entry + 12, 4, 0);
    }
    pci_cfg_write(vt->root, vt->vp->pd.devfn, vt->vp->pd.msix.cap + 2U, 2, 0x8000);
}

uint64_t vt_start(struct vt *vt, uint64_t wanted, unsigned queues, uint16_t size)
{
    uint64_t offer = 0;
    vt_reset(vt);
    vt_common_set(vt, VPCI_STATUS, 1, VIRTIO_S_ACKNOWLEDGE);
    vt_common_set(vt, VPCI_STATUS, 1, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER);
    for (unsigned i = 0; i < 2; i++) {
        vt_common_set(vt, VPCI_DEVICE_FEATURE_SELECT, 4, i);
        offer |= vt_common(vt, VPCI_DEVICE_FEATURE, 4) << (32 * i);
    }
    wanted = (wanted & offer) | VIRTIO_BIT(VIRTIO_F_VERSION_1);
    for (unsigned i = 0; i < 2; i++) {
        vt_common_set(vt, VPCI_DRIVER_FEATURE_SELECT, 4, i);
        vt_common_set(vt, VPCI_DRIVER_FEATURE, 4, (uint32_t)(wanted >> (32 * i)));
    }
    uint8_t status = VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK;
    vt_common_set(vt, VPCI_STATUS, 1, status);
    assert_int_equal(vt_common(vt, VPCI_STATUS, 1), status);
    vt_enable_msix(vt, queues + 1);
    vt_common_set(vt, VPCI_CONFIG_VECTOR, 2, 0);
    for (unsigned q = 0; q < queues; q++) {
        vt_setup_queue(vt, q, size);
    }
    vt_common_set(vt, VPCI_STATUS, 1, status | VIRTIO_S_DRIVER_OK);
    return wanted;
}

void vt_put_desc(struct vt *vt, uint64_t table, unsigned i, uint64_t addr, uint32_t len,
                 uint16_t flags, uint16_t next)
{
    uint8_t raw[16];
    put_le64(raw, addr);
    put_le32(raw + 8, len);
    put_le16(raw + 12, flags);
    put_le16(raw + 14, next);
    vt_write(vt, table + 16ULL * i, raw, sizeof(raw));
}

void vt_publish(struct vt *vt, unsigned q, uint16_t head)
{
    struct vt_queue *vq = &vt->q[q];
    write16(vt, vq->avail + 4 + 2ULL * (vq->avail_idx % vq->size), head);
    vq->avail_idx++;
    write16(vt, vq->avail + 2, vq->avail_idx);
}

uint16_t vt_add(struct vt *vt, unsigned q, const struct vt_seg *segs, unsigned n)
{
    struct vt_queue *vq = &vt->q[q];
    uint16_t head = vq->next_desc;
    for (unsigned i = 0; i < n; i++) {
        uint16_t at = vq->next_desc;
        vq->next_desc = (uint16_t)((at + 1) % vq->size);
        uint16_t flags = (uint16_t)((segs[i].write ? 2 : 0) | (i + 1 < n ? 1 : 0));
        vt_put_desc(vt, vq->desc, at, segs[i].gpa, segs[i].len, flags, vq->next_desc);
    }
    vt_publish(vt, q, head);
    return head;
}

uint16_t vt_add_indirect(struct vt *vt, unsigned q, const struct vt_seg *segs, unsigned n)
{
    struct vt_queue *vq = &vt->q[q];
    uint16_t head = vq->next_desc;
    uint64_t table = vt_alloc(vt, 16ULL * n);
    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = (uint16_t)((segs[i].write ? 2 : 0) | (i + 1 < n ? 1 : 0));
        vt_put_desc(vt, table, i, segs[i].gpa, segs[i].len, flags, (uint16_t)(i + 1));
    }
    vt_put_desc(vt, vq->desc, head, table, 16 * n, 4, 0);
    vq->next_desc = (uint16_t)((head + 1) % vq->size);
    vt_publish(vt, q, head);
    return head;
}

void vt_kick(struct vt *vt, unsigned q)
{
    bus_write(vt->mmio, VT_BAR + VIRTIO_PCI_NOTIFY + 4ULL * q, 2, q);
}

bool vt_used(struct vt *vt, unsigned q, uint32_t *ret_id, uint32_t *ret_len)
{
    struct vt_queue *vq = &vt->q[q];
    uint16_t idx = 0;
    uint8_t elem[8];
    assert_int_equal(mem_load_u16(vt->mem, GPA(vq->used + 2), &idx), 0);
    if (idx == vq->used_seen) {
        return false;
    }
    vt_read(vt, vq->used + 4 + 8ULL * (vq->used_seen % vq->size), elem, sizeof(elem));
    vq->used_seen++;
    *ret_id = get_le32(elem);
    *ret_len = get_le32(elem + 4);
    return true;
}

uint32_t vt_wait_used(struct vt *vt, unsigned q, uint32_t *ret_id)
{
    uint64_t end = clock_now_ns() + DEADLINE_NS;
    uint32_t id;
    uint32_t len;
    while (!vt_used(vt, q, &id, &len)) {
        assert_true(clock_now_ns() < end);
        usleep(50);
    }
    if (ret_id != NULL) {
        *ret_id = id;
    }
    return len;
}

bool vt_needs_reset(struct vt *vt)
{
    return (vt_common(vt, VPCI_STATUS, 1) & VIRTIO_S_NEEDS_RESET) != 0;
}

void *vt_save(struct vt *vt, size_t *ret_len)
{
    struct dev *dev = &vt->vp->pd.dev;
    struct state_writer *w;
    const void *data;
    assert_int_equal(state_writer_new(&w, NULL), 0);
    state_begin(w, dev->ops->name, dev->instance, dev->ops->state_version);
    dev->ops->save(dev, w);
    state_end(w);
    assert_int_equal(state_writer_finish(w, &data, ret_len), 0);
    void *copy = malloc(*ret_len);
    assert_non_null(copy);
    memcpy(copy, data, *ret_len);
    state_writer_free(w);
    return copy;
}

int vt_load(struct vt *vt, const void *data, size_t len)
{
    struct dev *dev = &vt->vp->pd.dev;
    struct state_reader *r = NULL;
    struct err err = {0};
    uint32_t version = 0;
    int rc = state_reader_new(&r, data, len, &err);
    rc = rc != 0 ? rc
                 : state_enter(r, dev->ops->name, dev->instance, dev->ops->state_version,
                               &version, &err);
    rc = rc != 0 ? rc : dev->ops->load(dev, r, version, &err);
    rc = rc != 0 ? rc : state_leave(r, &err);
    rc = rc != 0 ? rc : state_reader_finish(r, &err);
    if (rc != 0) {
        print_message("load: %s\n", err.text);
    }
    state_reader_free(r);
    return rc;
}
