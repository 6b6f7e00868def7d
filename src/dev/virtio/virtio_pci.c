/*
 * The PCI transport. Virtio 1.2, 4.1: capabilities, common configuration, ISR, notification,
 * the configuration access window in configuration space, interrupts by MSI-X or INTx, FLR.
 *
 * Lock: vd->lock for the registers; the MSI-X part has its own. BAR accesses come without a
 * lock. Saved: the selectors, ISR, PCI configuration. Missing: the legacy interface, shared
 * memory regions.
 */
#include "dev/virtio/virtio_pci.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VENDOR_VIRTIO    0x1af4
#define DEVICE_ID_BASE   0x1040
#define NOTIFY_MULT      4
#define REGION_BYTES     0x1000
#define CAP_BYTES        16
#define CAP_NOTIFY_BYTES 20
#define CAP_WINDOW_BYTES 20
#define ISR_QUEUE        1
#define ISR_CONFIG       2

enum cfg_type { CFG_COMMON = 1, CFG_NOTIFY = 2, CFG_ISR = 3, CFG_DEVICE = 4, CFG_WINDOW = 5 };

/* ---- common configuration: a table of fields, sliced for every width and alignment ---- */

struct field {
    uint8_t offset, size;
    uint64_t (*get)(const struct virtio_pci *vp);
    void (*set)(struct virtio_pci *vp, uint64_t value); /* NULL: read-only */
};

static struct virtq *selected(const struct virtio_pci *vp)
{
    return vp->queue_select < vp->vd->queue_count ? &vp->vd->queue[vp->queue_select] : NULL;
}

/* The selected queue if its registers may be written. */
static struct virtq *selected_open(const struct virtio_pci *vp)
{
    return virtio_queue_open_locked(vp->vd, vp->queue_select) ? selected(vp) : NULL;
}

static uint64_t get_device_feature_select(const struct virtio_pci *vp)
{
    return vp->device_feature_select;
}
static void set_device_feature_select(struct virtio_pci *vp, uint64_t v)
{
    vp->device_feature_select = (uint32_t)v;
}
static uint64_t get_device_feature(const struct virtio_pci *vp)
{
    uint32_t sel = vp->device_feature_select;
    return sel < 2 ? (uint32_t)(vp->vd->offered >> (32 * sel)) : 0;
}
static uint64_t get_driver_feature_select(const struct virtio_pci *vp)
{
    return vp->driver_feature_select;
}
static void set_driver_feature_select(struct virtio_pci *vp, uint64_t v)
{
    vp->driver_feature_select = (uint32_t)v;
}
static uint64_t get_driver_feature(const struct virtio_pci *vp)
{
    uint32_t sel = vp->driver_feature_select;
    return sel < 2 ? (uint32_t)(vp->vd->features >> (32 * sel)) : 0;
}
static void set_driver_feature(struct virtio_pci *vp, uint64_t v)
{
    uint32_t sel = vp->driver_feature_select;
    if (sel < 2) {
        uint64_t keep = vp->vd->features & ~((uint64_t)UINT32_MAX << (32 * sel));
        virtio_set_features_locked(vp->vd, keep | (v & UINT32_MAX) << (32 * sel));
    }
}
static uint16_t valid_vector(const struct virtio_pci *vp, uint64_t v)
{
    return v < vp->vd->vectors ? (uint16_t)v : VIRTQ_NO_VECTOR;
}
static uint64_t get_config_vector(const struct virtio_pci *vp)
{
    return vp->vd->config_vector;
}
static void set_config_vector(struct virtio_pci *vp, uint64_t v)
{
    vp->vd->config_vector = valid_vector(vp, v);
}
static uint64_t get_num_queues(const struct virtio_pci *vp)
{
    return vp->vd->queue_count;
}
static uint64_t get_status(const struct virtio_pci *vp)
{
    return virtio_status_locked(vp->vd);
}
static uint64_t get_generation(const struct virtio_pci *vp)
{
    return vp->vd->generation;
}
static uint64_t get_queue_select(const struct virtio_pci *vp)
{
    return vp->queue_select;
}
static void set_queue_select(struct virtio_pci *vp, uint64_t v)
{
    vp->queue_select = (uint16_t)v;
}
static uint64_t get_queue_size(const struct virtio_pci *vp)
{
    return selected(vp) != NULL ? selected(vp)->size : 0;
}
static void set_queue_size(struct virtio_pci *vp, uint64_t v)
{
    struct virtq *vq = selected_open(vp);
    if (vq != NULL && is_pow2(v) && v <= vq->size_max) {
        vq->size = (uint16_t)v;
    }
}
static uint64_t get_queue_vector(const struct virtio_pci *vp)
{
    return selected(vp) != NULL ? selected(vp)->vector : VIRTQ_NO_VECTOR;
}
static void set_queue_vector(struct virtio_pci *vp, uint64_t v)
{
    struct virtq *vq = selected(vp);
    if (vq != NULL) {
        vq->vector = valid_vector(vp, v);
    }
}
static uint64_t get_queue_enable(const struct virtio_pci *vp)
{
    return selected(vp) != NULL && selected(vp)->enabled;
}
static void set_queue_enable(struct virtio_pci *vp, uint64_t v)
{
    if (v == 1) {
        virtio_queue_enable_locked(vp->vd, vp->queue_select);
    }
}
static uint64_t get_queue_notify_off(const struct virtio_pci *vp)
{
    return selected(vp) != NULL ? vp->queue_select : 0;
}
#define ADDRESS_FIELD(member)                                                                  \
    static uint64_t get_queue_##member(const struct virtio_pci *vp)                            \
    {                                                                                          \
        return selected(vp) != NULL ? selected(vp)->member.v : 0;                              \
    }                                                                                          \
    static void set_queue_##member(struct virtio_pci *vp, uint64_t v)                          \
    {                                                                                          \
        struct virtq *vq = selected_open(vp);                                                  \
        if (vq != NULL) {                                                                      \
            vq->member = GPA(v);                                                               \
        }                                                                                      \
    }
ADDRESS_FIELD(desc)
ADDRESS_FIELD(avail)
ADDRESS_FIELD(used)
#undef ADDRESS_FIELD

/* Status is not here: it is written without the lock held. */
static const struct field common_fields[] = {
    {VPCI_DEVICE_FEATURE_SELECT, 4, get_device_feature_select, set_device_feature_select},
    {VPCI_DEVICE_FEATURE, 4, get_device_feature, NULL},
    {VPCI_DRIVER_FEATURE_SELECT, 4, get_driver_feature_select, set_driver_feature_select},
    {VPCI_DRIVER_FEATURE, 4, get_driver_feature, set_driver_feature},
    {VPCI_CONFIG_VECTOR, 2, get_config_vector, set_config_vector},
    {VPCI_NUM_QUEUES, 2, get_num_queues, NULL},
    {VPCI_STATUS, 1, get_status, NULL},
    {VPCI_GENERATION, 1, get_generation, NULL},
    {VPCI_QUEUE_SELECT, 2, get_queue_select, set_queue_select},
    {VPCI_QUEUE_SIZE, 2, get_queue_size, set_queue_size},
    {VPCI_QUEUE_VECTOR, 2, get_queue_vector, set_queue_vector},
    {VPCI_QUEUE_ENABLE, 2, get_queue_enable, set_queue_enable},
    {VPCI_QUEUE_NOTIFY_OFF, 2, get_queue_notify_off, NULL},
    {VPCI_QUEUE_DESC, 8, get_queue_desc, set_queue_desc},
    {VPCI_QUEUE_DRIVER, 8, get_queue_avail, set_queue_avail},
    {VPCI_QUEUE_DEVICE, 8, get_queue_used, set_queue_used},
};

static uint64_t common_read(struct virtio_pci *vp, unsigned off, unsigned len)
{
    uint64_t value = 0;
    SCOPED_LOCK(&vp->vd->lock);
    for (size_t f = 0; f < ARRAY_LEN(common_fields); f++) {
        const struct field *d = &common_fields[f];
        if (off >= d->offset + (unsigned)d->size || d->offset >= off + len) {
            continue;
        }
        uint64_t v = d->get(vp);
        if (d->offset >= off) {
            value |= v << (8 * (d->offset - off));
        } else {
            value |= v >> (8 * (off - d->offset));
        }
    }
    return len < 8 ? value & ((UINT64_C(1) << (8 * len)) - 1) : value;
}

static void field_write(struct virtio_pci *vp, const struct field *d, unsigned off,
                        unsigned len, uint64_t value)
{
    uint64_t v = d->get(vp);
    for (unsigned i = 0; i < d->size; i++) {
        unsigned at = d->offset + i;
        if (at >= off && at < off + len) {
            v &= ~(UINT64_C(0xff) << (8 * i));
            v |= (value >> (8 * (at - off)) & 0xff) << (8 * i);
        }
    }
    d->set(vp, v);
}

static void common_write(struct virtio_pci *vp, unsigned off, unsigned len, uint64_t value)
{
    pthread_mutex_lock(&vp->vd->lock);
    for (size_t f = 0; f < ARRAY_LEN(common_fields); f++) {
        const struct field *d = &common_fields[f];
        if (d->set != NULL && off < d->offset + (unsigned)d->size && d->offset < off + len) {
            field_write(vp, d, off, len, value);
        }
    }
    pthread_mutex_unlock(&vp->vd->lock);
    if (off <= VPCI_STATUS && VPCI_STATUS < off + len) {
        virtio_set_status(vp->vd, (uint8_t)(value >> (8 * (VPCI_STATUS - off))));
    }
}

/* ---- the BAR ---- */

static uint64_t isr_read(struct virtio_pci *vp, unsigned off)
{
    if (off != 0) {
        return 0;
    }
    SCOPED_LOCK(&vp->vd->lock);
    uint8_t isr = vp->isr;
    vp->isr = 0;
    pci_set_intx(&vp->pd, false);
    return isr;
}

static uint64_t device_read(struct virtio_pci *vp, unsigned off, unsigned len)
{
    uint8_t buf[8] = {0};
    virtio_config_read(vp->vd, off, MIN(len, 8U), buf);
    return get_le64(buf);
}

static void device_write(struct virtio_pci *vp, unsigned off, unsigned len, uint64_t value)
{
    uint8_t buf[8];
    put_le64(buf, value);
    virtio_config_write(vp->vd, off, MIN(len, 8U), buf);
}

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned len)
{
    struct virtio_pci *vp = opaque;
    unsigned off = offset % REGION_BYTES;
    uint64_t value = 0;

    switch (offset - off) {
    case VIRTIO_PCI_COMMON: return common_read(vp, off, len);
    case VIRTIO_PCI_ISR: return isr_read(vp, off);
    case VIRTIO_PCI_DEVICE: return device_read(vp, off, len);
    default: break;
    }
    (void)pci_msix_read(&vp->pd, offset, len, &value);
    return value;
}

static void bar_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct virtio_pci *vp = opaque;
    unsigned off = offset % REGION_BYTES;

    switch (offset - off) {
    case VIRTIO_PCI_COMMON: common_write(vp, off, len, value); break;
    case VIRTIO_PCI_DEVICE: device_write(vp, off, len, value); break;
    case VIRTIO_PCI_NOTIFY: virtio_notify(vp->vd, off / NOTIFY_MULT); break;
    default: (void)pci_msix_write(&vp->pd, offset, len, value); break;
    }
}

static const struct bus_ops bar_ops = {bar_read, bar_write};

/* ---- the configuration access window (4.1.4.9) ---- */

/* The window's BAR access, if the driver described a valid one. */
static bool window_target(const struct virtio_pci *vp, uint32_t *ret_off, unsigned *ret_len)
{
    const uint8_t *cap = vp->pd.cfg + vp->window_cap;
    uint32_t off = get_le32(cap + 8);
    uint32_t len = get_le32(cap + 12);
    bool ok = cap[4] == 0 && (len == 1 || len == 2 || len == 4) && off % len == 0 &&
              range_fits(off, len, VIRTIO_PCI_BAR_BYTES);
    *ret_off = off;
    *ret_len = len;
    return ok;
}

static bool touches_window_data(const struct virtio_pci *vp, unsigned off, unsigned len)
{
    unsigned data = vp->window_cap + 16U;
    return off < data + 4 && data < off + len;
}

static void config_reading(struct pci_dev *pd, unsigned off, unsigned len)
{
    struct virtio_pci *vp = container_of(pd, struct virtio_pci, pd);
    uint32_t at;
    unsigned n;
    if (touches_window_data(vp, off, len) && window_target(vp, &at, &n)) {
        put_le32(pd->cfg + vp->window_cap + 16, (uint32_t)bar_read(vp, at, n));
    }
}

static void config_written(struct pci_dev *pd, unsigned off, unsigned len)
{
    struct virtio_pci *vp = container_of(pd, struct virtio_pci, pd);
    uint32_t at;
    unsigned n;
    if (touches_window_data(vp, off, len) && window_target(vp, &at, &n)) {
        uint32_t data = get_le32(pd->cfg + vp->window_cap + 16);
        bar_write(vp, at, n, n < 4 ? data & ((UINT32_C(1) << (8 * n)) - 1) : data);
    }
}

static void function_reset(struct pci_dev *pd)
{
    virtio_reset(container_of(pd, struct virtio_pci, pd)->vd, false);
}

static const struct pci_dev_ops pci_ops = {.config_written = config_written,
                                           .config_reading = config_reading,
                                           .function_reset = function_reset};

static uint8_t add_cap(struct pci_dev *pd, enum cfg_type type, uint32_t off, uint32_t bytes,
                       uint8_t cap_len)
{
    uint8_t at = pci_cap_add(pd, PCI_CAP_ID_VENDOR, cap_len);
    uint8_t *p = pd->cfg + at;
    p[2] = cap_len;
    p[3] = (uint8_t)type;
    put_le32(p + 8, off);
    put_le32(p + 12, bytes);
    return at;
}

static void add_caps(struct virtio_pci *vp)
{
    struct pci_dev *pd = &vp->pd;
    add_cap(pd, CFG_COMMON, VIRTIO_PCI_COMMON, VPCI_COMMON_BYTES, CAP_BYTES);
    add_cap(pd, CFG_ISR, VIRTIO_PCI_ISR, 1, CAP_BYTES);
    if (vp->vd->config_len != 0) {
        add_cap(pd, CFG_DEVICE, VIRTIO_PCI_DEVICE, (vp->vd->config_len + 3U) & ~3U, CAP_BYTES);
    }
    uint8_t at = add_cap(pd, CFG_NOTIFY, VIRTIO_PCI_NOTIFY, vp->vd->queue_count * NOTIFY_MULT,
                         CAP_NOTIFY_BYTES);
    put_le32(pd->cfg + at + 16, NOTIFY_MULT);
    at = add_cap(pd, CFG_WINDOW, 0, 0, CAP_WINDOW_BYTES);
    pd->wmask[at + 4] = 0xff;
    memset(pd->wmask + at + 8, 0xff, 12);
    vp->window_cap = at;
}

/* ---- interrupts: vd->lock is held ---- */

static void raise_irq(struct virtio_pci *vp, uint16_t vector, uint8_t isr)
{
    if (pci_msix_enabled(&vp->pd)) {
        if (vector != VIRTQ_NO_VECTOR) {
            pci_msix_fire(&vp->pd, vector);
        }
        return;
    }
    vp->isr |= isr;
    pci_set_intx(&vp->pd, true);
}

static void queue_irq(void *transport, uint16_t vector)
{
    raise_irq(transport, vector, ISR_QUEUE);
}

static void config_irq(void *transport, uint16_t vector)
{
    raise_irq(transport, vector, ISR_CONFIG);
}

static void transport_reset(void *transport)
{
    struct virtio_pci *vp = transport;
    vp->device_feature_select = 0;
    vp->driver_feature_select = 0;
    vp->queue_select = 0;
    vp->isr = 0;
    pci_set_intx(&vp->pd, false);
}

static const struct virtio_transport_ops transport_ops = {queue_irq, config_irq,
                                                          transport_reset};

/* ---- life ---- */

static struct virtio_pci *of_dev(struct dev *dev)
{
    return container_of(dev, struct virtio_pci, pd.dev);
}

static void dev_reset(struct dev *dev)
{
    virtio_reset(of_dev(dev)->vd, true);
    pci_reset_function(&of_dev(dev)->pd);
}

static void dev_save(struct dev *dev, struct state_writer *w)
{
    struct virtio_pci *vp = of_dev(dev);
    virtio_save(vp->vd, w);
    state_put_uint(w, "device_feature_select", vp->device_feature_select);
    state_put_uint(w, "driver_feature_select", vp->driver_feature_select);
    state_put_uint(w, "queue_select", vp->queue_select);
    state_put_uint(w, "isr", vp->isr);
    pci_save(&vp->pd, w);
}

static int dev_load(struct dev *dev, struct state_reader *r, uint32_t version, struct err *err)
{
    struct virtio_pci *vp = of_dev(dev);
    uint64_t v[4] = {0};

    int rc = virtio_load(vp->vd, r, version, err);
    rc = rc != 0 ? rc : state_get_uint(r, "device_feature_select", &v[0], err);
    rc = rc != 0 ? rc : state_get_uint(r, "driver_feature_select", &v[1], err);
    rc = rc != 0 ? rc : state_get_uint(r, "queue_select", &v[2], err);
    rc = rc != 0 ? rc : state_get_uint(r, "isr", &v[3], err);
    rc = rc != 0 ? rc : pci_load(&vp->pd, r, err);
    if (rc != 0) {
        return rc;
    }
    SCOPED_LOCK(&vp->vd->lock);
    vp->device_feature_select = (uint32_t)v[0];
    vp->driver_feature_select = (uint32_t)v[1];
    vp->queue_select = (uint16_t)v[2];
    vp->isr = (uint8_t)v[3] & (ISR_QUEUE | ISR_CONFIG);
    return 0;
}

static void dev_pause(struct dev *dev)
{
    virtio_pause(of_dev(dev)->vd);
}

static void dev_resume(struct dev *dev)
{
    virtio_resume(of_dev(dev)->vd);
}

static void dev_free(struct dev *dev)
{
    struct virtio_pci *vp = of_dev(dev);
    virtio_pause(vp->vd); /* from here on nobody raises interrupts */
    if (vp->pd.root != NULL) {
        pci_root_remove(vp->pd.root, &vp->pd);
    }
    virtio_free(vp->vd);
    pci_dev_done(&vp->pd);
    free(vp);
}

int virtio_pci_new(struct virtio_dev *vd, struct virtio_pci **ret_vp, struct err *err)
{
    struct virtio_pci *vp = calloc(1, sizeof(*vp));
    if (vp == NULL) {
        virtio_free(vd);
        return ERR(err, NO_MEMORY, ENOMEM, "virtio PCI function");
    }
    struct pci_ids ids = {.vendor = VENDOR_VIRTIO,
                          .device = (uint16_t)(DEVICE_ID_BASE + vd->ops->id),
                          .subsys_vendor = VENDOR_VIRTIO,
                          .subsys_device = (uint16_t)(DEVICE_ID_BASE + vd->ops->id),
                          .class_code = vd->ops->class_code,
                          .revision = 1};
    vp->vd = vd;
    pci_dev_init(&vp->pd, &ids, &pci_ops);
    vp->dev_ops = (struct dev_ops){.name = vd->ops->name,
                                   .state_version = vd->ops->state_version,
                                   .reset = dev_reset,
                                   .save = dev_save,
                                   .load = dev_load,
                                   .free = dev_free,
                                   .pause = dev_pause,
                                   .resume = dev_resume};
    vp->pd.dev.ops = &vp->dev_ops;
    vp->pd.dev.lock = &vd->lock;
    pci_bar_init(&vp->pd, 0, PCI_BAR_MEM64, VIRTIO_PCI_BAR_BYTES, &bar_ops, vp, NULL);
    pci_intx_init(&vp->pd, 1);
    vd->vectors = (uint16_t)(vd->queue_count + 1);
    int rc =
        pci_msix_init(&vp->pd, vd->vectors, 0, VIRTIO_PCI_MSIX_TABLE, VIRTIO_PCI_MSIX_PBA, err);
    if (rc != 0) {
        dev_free(&vp->pd.dev);
        return rc;
    }
    pci_exp_init(&vp->pd);
    add_caps(vp);
    pthread_mutex_lock(&vd->lock);
    vd->transport = vp;
    vd->tops = &transport_ops;
    pthread_mutex_unlock(&vd->lock);
    *ret_vp = vp;
    return 0;
}
