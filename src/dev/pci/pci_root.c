/*
 * The root complex: bus 0 with 256 functions, ECAM, ports CF8/CFC (and CF9, which lies between
 * them), the mapping of BARs, the four INTx wires, and a host bridge at 00.0 that looks like
 * the Q35 MCH (PCIEXBAR, PAM and SMRAM registers; the board decodes the latter two). PCI 3.0
 * sections 3.2.2.3, 6; PCIe 4.0 section 7.2.2; Intel 316966 (Q35 MCH) section 5.1.
 *
 * Locks: root lock > device locks > INTx lock; see pci.h. The map lock is only tried, never
 * waited for, inside a guest's access. Saved: CF8, CF9 and the host bridge. Missing: bridges
 * and root ports (other buses read all ones), hot plug, expansion ROMs. Where BARs overlap, the
 * one mapped first stays; after a load, the lowest function.
 */
#include "dev/pci/pci_priv.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FUNCTIONS  256
#define ECAM_BYTES (256 * MIB)
#define ECAM_FN    (UINT64_C(1) << 12)
#define PCIEXBAR   0x60
#define PAM0       0x90
#define SMRAM      0x9d
#define ESMRAMC    0x9e
#define CF9_CPU    4 /* reset the processor when this bit rises */

struct host_bridge {
    struct pci_dev pd;
    struct pci_root *root;
};

struct pci_root {
    struct pci_root_cfg cfg;
    struct host_bridge host;

    pthread_mutex_t lock; /* configuration space, CF8, fn[] */
    uint32_t cf8;
    uint8_t cf9;
    struct pci_dev *fn[FUNCTIONS]; /* borrowed; changed under both locks */

    pthread_mutex_t map_lock; /* what is on the bus; never waited for inside an access */
    bool maps_changed;        /* atomic */
    uint64_t ecam_at;         /* 0: not mapped */

    pthread_mutex_t intx_lock;
    unsigned intx_count[4]; /* functions that drive the wire */
};

/* ---- mapping ---- */

static bool in_window(const struct pci_window *win, uint64_t base, uint64_t size)
{
    return win->size == 0 ||
           (base >= win->base && range_fits(base - win->base, size, win->size));
}

static bool over_ram(const struct mem *mem, uint64_t base, uint64_t size)
{
    unsigned count = mem != NULL ? mem_slot_count(mem) : 0;
    for (unsigned i = 0; i < count; i++) {
        const struct mem_slot *slot = mem_slot_get(mem, i);
        if (base < slot->base.v + slot->size_bytes && slot->base.v < base + size) {
            return true;
        }
    }
    return false;
}

static uint64_t bar_want(const struct pci_root *root, const struct pci_dev *pd, unsigned index)
{
    const struct pci_bar *bar = &pd->bar[index];
    uint64_t at = pci_bar_address(pd, index);
    if (at == 0) {
        return 0;
    }
    if (bar->kind == PCI_BAR_IO) {
        return in_window(&root->cfg.io_window, at, bar->size) ? at : 0;
    }
    const struct pci_window *win = root->cfg.mem_window;
    bool any = win[0].size == 0 && win[1].size == 0;
    bool inside = any || (win[0].size != 0 && in_window(&win[0], at, bar->size)) ||
                  (win[1].size != 0 && in_window(&win[1], at, bar->size));
    return inside && !over_ram(root->cfg.mem, at, bar->size) ? at : 0;
}

static struct bus *bar_bus(const struct pci_root *root, const struct pci_bar *bar)
{
    return bar->kind == PCI_BAR_IO ? root->cfg.pio : root->cfg.mmio;
}

static void bar_unmap(struct pci_root *root, struct pci_bar *bar)
{
    if (bar->mapped) {
        bus_remove(bar_bus(root, bar), bar->at);
        bar->mapped = false;
    }
}

static void bar_map(struct pci_root *root, const struct pci_dev *pd, struct pci_bar *bar)
{
    struct bus_range range = {.base = bar->want,
                              .size = bar->size,
                              .ops = bar->ops,
                              .opaque = bar->opaque,
                              .lock = bar->lock,
                              .name = pd->dev.ops != NULL ? pd->dev.ops->name : "pci"};
    /* Refused when something else is there: the guest put it there, and finds it unreachable.
     */
    if (bus_add(bar_bus(root, bar), &range, NULL) == 0) {
        bar->mapped = true;
        bar->at = bar->want;
    }
}

static uint64_t ecam_want(const struct pci_root *root)
{
    uint64_t reg = get_le64(root->host.pd.cfg + PCIEXBAR);
    uint64_t base = reg & ~(ECAM_BYTES - 1);
    bool on = (reg & 1) != 0 && base != 0 && !over_ram(root->cfg.mem, base, ECAM_BYTES);
    return on ? base : 0;
}

static const struct bus_ops ecam_ops;

/* Map lock held, root lock not: bus_remove may wait for an access that waits for the root lock.
 */
static void maps_carry_out(struct pci_root *root)
{
    pthread_mutex_lock(&root->lock);
    uint64_t ecam = ecam_want(root);
    for (unsigned f = 0; f < FUNCTIONS; f++) {
        for (unsigned i = 0; root->fn[f] != NULL && i < PCI_BARS; i++) {
            root->fn[f]->bar[i].want = bar_want(root, root->fn[f], i);
        }
    }
    pthread_mutex_unlock(&root->lock);

    if (root->ecam_at != 0 && root->ecam_at != ecam) {
        bus_remove(root->cfg.mmio, root->ecam_at);
        root->ecam_at = 0;
    }
    for (unsigned f = 0; f < FUNCTIONS; f++) {
        for (unsigned i = 0; root->fn[f] != NULL && i < PCI_BARS; i++) {
            struct pci_bar *bar = &root->fn[f]->bar[i];
            if (bar->at != bar->want) {
                bar_unmap(root, bar);
            }
        }
    }
    if (ecam != 0 && root->ecam_at == 0) {
        struct bus_range range = {ecam, ECAM_BYTES, &ecam_ops, root, NULL, "pci-ecam"};
        root->ecam_at = bus_add(root->cfg.mmio, &range, NULL) == 0 ? ecam : 0;
    }
    for (unsigned f = 0; f < FUNCTIONS; f++) {
        for (unsigned i = 0; root->fn[f] != NULL && i < PCI_BARS; i++) {
            struct pci_bar *bar = &root->fn[f]->bar[i];
            if (bar->want != 0 && !bar->mapped) {
                bar_map(root, root->fn[f], bar);
            }
        }
    }
}

/*
 * Whoever holds the map lock takes over the changes of those who come meanwhile: a thread that
 * waited for it here, inside its own access, could be what the holder's bus_remove waits for.
 */
static void maps_sync(struct pci_root *root)
{
    while (__atomic_load_n(&root->maps_changed, __ATOMIC_SEQ_CST)) {
        if (pthread_mutex_trylock(&root->map_lock) != 0) {
            return;
        }
        while (__atomic_exchange_n(&root->maps_changed, false, __ATOMIC_SEQ_CST)) {
            maps_carry_out(root);
        }
        pthread_mutex_unlock(&root->map_lock);
    }
}

void pci_root_lock(struct pci_root *root)
{
    pthread_mutex_lock(&root->lock);
}

void pci_root_unlock(struct pci_root *root)
{
    pthread_mutex_unlock(&root->lock);
    maps_sync(root);
}

void pci_root_maps_changed(struct pci_root *root)
{
    __atomic_store_n(&root->maps_changed, true, __ATOMIC_SEQ_CST);
}

/* ---- interrupts ---- */

void pci_root_msi(struct pci_root *root, uint64_t addr, uint32_t data)
{
    msi_send(&root->cfg.msi, addr, data);
}

void pci_root_intx(struct pci_root *root, struct pci_dev *pd)
{
    unsigned wire = ((pd->devfn >> 3) + pd->cfg[PCI_INT_PIN] - 1U) % 4;
    SCOPED_LOCK(&root->intx_lock);
    uint8_t command_high = __atomic_load_n(&pd->cfg[PCI_COMMAND + 1], __ATOMIC_RELAXED);
    bool level = __atomic_load_n(&pd->intx, __ATOMIC_SEQ_CST) &&
                 (command_high & PCI_CMD_INTX_OFF >> 8) == 0;
    if (level == pd->intx_driven) {
        return;
    }
    pd->intx_driven = level;
    root->intx_count[wire] += level ? 1U : -1U;
    if (root->intx_count[wire] == (level ? 1 : 0)) {
        irq_set(&root->cfg.intx[wire], level);
    }
}

/* ---- configuration space ---- */

static uint32_t fn_read(struct pci_dev *pd, unsigned off, unsigned len)
{
    uint32_t value = 0;
    if (pd->ops != NULL && pd->ops->config_reading != NULL) {
        pd->ops->config_reading(pd, off, len);
    }
    for (unsigned i = 0; i < len && off + i < PCI_CFG_BYTES; i++) {
        uint32_t byte = pd->cfg[off + i];
        if (off + i == PCI_STATUS && __atomic_load_n(&pd->intx, __ATOMIC_SEQ_CST)) {
            byte |= PCI_STS_INTX;
        }
        value |= byte << (8 * i);
    }
    return value;
}

static void fn_reset(struct pci_dev *pd)
{
    pci_cfg_reset(pd);
    pci_root_maps_changed(pd->root);
    if (pd->ops != NULL && pd->ops->function_reset != NULL) {
        pd->ops->function_reset(pd);
    }
}

static void fn_write(struct pci_dev *pd, unsigned off, unsigned len, uint32_t value)
{
    for (unsigned i = 0; i < len && off + i < PCI_CFG_BYTES; i++) {
        unsigned at = off + i;
        uint8_t in = (uint8_t)(value >> (8 * i));
        uint8_t byte = (uint8_t)((pd->cfg[at] & ~pd->wmask[at]) | (in & pd->wmask[at]));
        byte &= (uint8_t) ~(in & pd->w1c[at]);
        __atomic_store_n(&pd->cfg[at], byte, __ATOMIC_RELAXED);
    }
    unsigned flr_at = pd->exp_cap + PCI_EXP_DEVCTL + 1U;
    if (pd->exp_cap != 0 && pci_touches(off, len, flr_at, 1) &&
        ((value >> (8 * (flr_at - off))) & PCI_EXP_DEVCTL_FLR >> 8) != 0) {
        fn_reset(pd);
        return;
    }
    if (pci_touches(off, len, PCI_COMMAND, 2) ||
        pci_touches(off, len, PCI_BAR0, 4 * PCI_BARS)) {
        pci_root_maps_changed(pd->root);
    }
    if (pci_touches(off, len, PCI_COMMAND, 2)) {
        pci_intx_update(pd);
    }
    if (pd->msix.vectors != 0 && pci_touches(off, len, pd->msix.cap + 2U, 2)) {
        pci_msix_control_written(pd);
    }
    if (pd->ops != NULL && pd->ops->config_written != NULL) {
        pd->ops->config_written(pd, off, len);
    }
}

static uint32_t ones(unsigned len)
{
    return len >= 4 ? UINT32_MAX : (UINT32_C(1) << (8 * len)) - 1;
}

uint32_t pci_cfg_read(struct pci_root *root, uint8_t devfn, unsigned off, unsigned len)
{
    uint32_t value = ones(len);
    pci_root_lock(root);
    if (root->fn[devfn] != NULL) {
        value = fn_read(root->fn[devfn], off, len);
    }
    pci_root_unlock(root);
    return value;
}

void pci_cfg_write(struct pci_root *root, uint8_t devfn, unsigned off, unsigned len,
                   uint32_t value)
{
    pci_root_lock(root);
    if (root->fn[devfn] != NULL) {
        fn_write(root->fn[devfn], off, len, value);
    }
    pci_root_unlock(root);
}

static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned len)
{
    struct pci_root *root = opaque;
    uint64_t value = 0;
    /* By dwords at most; a function's page is a multiple of every width, so pieces stay in it
     * unless the access is misaligned at its end, where the rest belongs to the next function.
     */
    for (unsigned done = 0; done < len;) {
        uint64_t at = offset + done;
        unsigned n = MIN(len - done, 4 - (unsigned)(at & 3));
        uint32_t part = ones(n);
        if (at >> 20 == 0) {
            part = pci_cfg_read(root, (uint8_t)(at >> 12), at & (ECAM_FN - 1), n);
        }
        value |= (uint64_t)part << (8 * done);
        done += n;
    }
    return value;
}

static void ecam_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct pci_root *root = opaque;
    for (unsigned done = 0; done < len;) {
        uint64_t at = offset + done;
        unsigned n = MIN(len - done, 4 - (unsigned)(at & 3));
        if (at >> 20 == 0) {
            pci_cfg_write(root, (uint8_t)(at >> 12), at & (ECAM_FN - 1), n,
                          (uint32_t)(value >> (8 * done)) & ones(n));
        }
        done += n;
    }
}

static const struct bus_ops ecam_ops = {ecam_read, ecam_write};

/* ---- CF8 (dword only), CF9 (byte), CFC..CFF ---- */

static uint64_t cf8_read(void *opaque, uint64_t offset, unsigned len)
{
    struct pci_root *root = opaque;
    SCOPED_LOCK(&root->lock);
    if (offset == 0 && len == 4) {
        return root->cf8;
    }
    return offset == 1 && len == 1 ? root->cf9 : ones(len);
}

static void cf8_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct pci_root *root = opaque;
    bool reset = false;

    pthread_mutex_lock(&root->lock);
    if (offset == 0 && len == 4) {
        root->cf8 = (uint32_t)value & 0x80fffffc;
    } else if (offset == 1 && len == 1) {
        reset = (value & ~(uint64_t)root->cf9 & CF9_CPU) != 0;
        root->cf9 = (uint8_t)value & 0x0e;
    }
    pthread_mutex_unlock(&root->lock);
    if (reset && root->cfg.reset_request != NULL) {
        root->cfg.reset_request(root->cfg.reset_opaque);
    }
}

static uint64_t cfc_read(void *opaque, uint64_t offset, unsigned len)
{
    struct pci_root *root = opaque;
    uint32_t cf8 = __atomic_load_n(&root->cf8, __ATOMIC_RELAXED);
    if ((cf8 & 0x80000000) == 0 || (cf8 >> 16 & 0xff) != 0) {
        return ones(len);
    }
    return pci_cfg_read(root, (uint8_t)(cf8 >> 8), (cf8 & 0xfc) + (unsigned)offset, len);
}

static void cfc_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct pci_root *root = opaque;
    uint32_t cf8 = __atomic_load_n(&root->cf8, __ATOMIC_RELAXED);
    if ((cf8 & 0x80000000) != 0 && (cf8 >> 16 & 0xff) == 0) {
        pci_cfg_write(root, (uint8_t)(cf8 >> 8), (cf8 & 0xfc) + (unsigned)offset, len,
                      (uint32_t)value);
    }
}

static const struct bus_ops cf8_ops = {cf8_read, cf8_write};
static const struct bus_ops cfc_ops = {cfc_read, cfc_write};

/* ---- the host bridge ---- */

static void host_defaults(struct pci_root *root)
{
    if (root->cfg.ecam_base != 0) {
        put_le64(root->host.pd.cfg + PCIEXBAR, root->cfg.ecam_base | 1);
    }
    root->host.pd.cfg[SMRAM] = 2;
    root->cf8 = 0;
    root->cf9 = 0;
}

static void host_reset(struct dev *dev)
{
    struct pci_root *root = container_of(dev, struct host_bridge, pd.dev)->root;
    pci_root_lock(root);
    pci_cfg_reset(&root->host.pd);
    host_defaults(root);
    pci_root_maps_changed(root);
    if (root->cfg.host_written != NULL) {
        root->cfg.host_written(root->cfg.host_opaque, root->host.pd.cfg, 0, PCI_CFG_BYTES);
    }
    pci_root_unlock(root);
}

static void host_save(struct dev *dev, struct state_writer *w)
{
    struct pci_root *root = container_of(dev, struct host_bridge, pd.dev)->root;
    SCOPED_LOCK(&root->lock);
    state_put_uint(w, "cf8", root->cf8);
    state_put_uint(w, "cf9", root->cf9);
    pci_save(&root->host.pd, w);
}

static int host_load(struct dev *dev, struct state_reader *r, uint32_t version, struct err *err)
{
    struct pci_root *root = container_of(dev, struct host_bridge, pd.dev)->root;
    uint64_t cf8 = 0;
    uint64_t cf9 = 0;
    (void)version;

    int rc = state_get_uint(r, "cf8", &cf8, err);
    rc = rc != 0 ? rc : state_get_uint(r, "cf9", &cf9, err);
    rc = rc != 0 ? rc : pci_load(&root->host.pd, r, err);
    if (rc != 0) {
        return rc;
    }
    SCOPED_LOCK(&root->lock);
    root->cf8 = (uint32_t)cf8 & 0x80fffffc;
    root->cf9 = (uint8_t)cf9 & 0x0e;
    if (root->cfg.host_written != NULL) {
        root->cfg.host_written(root->cfg.host_opaque, root->host.pd.cfg, 0, PCI_CFG_BYTES);
    }
    return 0;
}

/* The bridge lives inside the root: pci_root_free ends it. */
static void host_free(struct dev *dev)
{
    (void)dev;
}

static const struct dev_ops host_dev_ops = {.name = "pci-host",
                                            .state_version = 1,
                                            .reset = host_reset,
                                            .save = host_save,
                                            .load = host_load,
                                            .free = host_free};

static void host_config_written(struct pci_dev *pd, unsigned off, unsigned len)
{
    struct pci_root *root = container_of(pd, struct host_bridge, pd)->root;
    if (pci_touches(off, len, PCIEXBAR, 8)) {
        pci_root_maps_changed(root);
    }
    if (root->cfg.host_written != NULL) {
        root->cfg.host_written(root->cfg.host_opaque, pd->cfg, off, len);
    }
}

static const struct pci_dev_ops host_ops = {.config_written = host_config_written};

static void host_init(struct pci_root *root)
{
    struct pci_dev *pd = &root->host.pd;
    bool plain = root->cfg.host_vendor != 0;
    struct pci_ids ids = {.vendor = plain ? root->cfg.host_vendor : 0x8086,
                          .device = plain ? root->cfg.host_device : 0x29c0,
                          .class_code = 0x060000};
    root->host.root = root;
    pci_dev_init(pd, &ids, &host_ops);
    pd->dev.ops = &host_dev_ops;
    pd->root = root;
    /* Enable bit and base bits 28-38; the length field stays 0, 256 MiB. */
    put_le64(pd->wmask + PCIEXBAR, UINT64_C(0x7ff0000001));
    pd->wmask[PAM0] = 0x30;
    memset(pd->wmask + PAM0 + 1, 0x33, 6);
    pd->wmask[SMRAM] = 0x7f;
    pd->wmask[ESMRAMC] = 0xff;
    host_defaults(root);
    root->fn[0] = pd;
}

/* ---- life ---- */

static int map_ports(struct pci_root *root, struct err *err)
{
    struct bus_range cf8 = {0xcf8, 4, &cf8_ops, root, NULL, "pci-cf8"};
    struct bus_range cfc = {0xcfc, 4, &cfc_ops, root, NULL, "pci-cfc"};
    int rc = bus_add(root->cfg.pio, &cf8, err);
    if (rc != 0) {
        return rc;
    }
    rc = bus_add(root->cfg.pio, &cfc, err);
    if (rc != 0) {
        bus_remove(root->cfg.pio, 0xcf8);
    }
    return rc;
}

int pci_root_new(const struct pci_root_cfg *cfg, struct pci_root **ret_root, struct err *err)
{
    if ((cfg->ecam_base & (ECAM_BYTES - 1)) != 0 || cfg->ecam_base >> 39 != 0) {
        return ERR(err, SPEC_BAD, EINVAL,
                   "ECAM at 0x%llx: want a multiple of 256 MiB below 2^39",
                   (unsigned long long)cfg->ecam_base);
    }
    struct pci_root *root = calloc(1, sizeof(*root));
    if (root == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "PCI root");
    }
    root->cfg = *cfg;
    pthread_mutex_init(&root->lock, NULL);
    pthread_mutex_init(&root->map_lock, NULL);
    pthread_mutex_init(&root->intx_lock, NULL);
    host_init(root);
    int rc = map_ports(root, err);
    if (rc == 0) {
        pci_root_maps_changed(root);
        maps_sync(root);
        if (root->ecam_at != cfg->ecam_base) {
            rc = ERR(err, SPEC_BAD, EEXIST, "ECAM at 0x%llx: RAM or another device is there",
                     (unsigned long long)cfg->ecam_base);
            bus_remove(cfg->pio, 0xcf8);
            bus_remove(cfg->pio, 0xcfc);
        }
    }
    if (rc != 0) {
        pci_dev_done(&root->host.pd);
        free(root);
        return rc;
    }
    *ret_root = root;
    return 0;
}

static void unplug(struct pci_root *root, struct pci_dev *pd)
{
    pci_set_intx(pd, false);
    pthread_mutex_lock(&root->map_lock);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        bar_unmap(root, &pd->bar[i]);
    }
    pthread_mutex_lock(&root->lock);
    root->fn[pd->devfn] = NULL;
    pthread_mutex_lock(&pd->msix.lock);
    pd->root = NULL;
    pthread_mutex_unlock(&pd->msix.lock);
    pthread_mutex_unlock(&root->lock);
    pthread_mutex_unlock(&root->map_lock);
    /* Something that this function was in the way of may fit now. */
    pci_root_maps_changed(root);
    maps_sync(root);
}

void pci_root_free(struct pci_root *root)
{
    if (root == NULL) {
        return;
    }
    bus_remove(root->cfg.pio, 0xcf8);
    bus_remove(root->cfg.pio, 0xcfc);
    if (root->ecam_at != 0) {
        bus_remove(root->cfg.mmio, root->ecam_at);
    }
    put_le64(root->host.pd.cfg + PCIEXBAR, 0);
    root->ecam_at = 0;
    for (unsigned f = 0; f < FUNCTIONS; f++) {
        if (root->fn[f] != NULL) {
            unplug(root, root->fn[f]);
        }
    }
    pci_dev_done(&root->host.pd);
    pthread_mutex_destroy(&root->lock);
    pthread_mutex_destroy(&root->map_lock);
    pthread_mutex_destroy(&root->intx_lock);
    free(root);
}

struct dev *pci_root_dev(struct pci_root *root)
{
    return &root->host.pd.dev;
}

int pci_root_add(struct pci_root *root, struct pci_dev *pd, uint8_t devfn, struct err *err)
{
    pthread_mutex_lock(&root->map_lock);
    pthread_mutex_lock(&root->lock);
    bool taken = root->fn[devfn] != NULL;
    if (!taken) {
        root->fn[devfn] = pd;
        pd->root = root;
        pd->devfn = devfn;
        pd->dev.instance = devfn;
        struct pci_dev *first = root->fn[devfn & 0xf8];
        if (first != NULL && (devfn & 7) != 0) {
            first->cfg[PCI_HEADER_TYPE] |= 0x80; /* multi-function */
        }
    }
    pthread_mutex_unlock(&root->lock);
    pthread_mutex_unlock(&root->map_lock);
    if (taken) {
        return ERR(err, SPEC_BAD, EBUSY, "PCI slot %02x.%x is taken", devfn >> 3, devfn & 7);
    }
    pci_root_maps_changed(root);
    maps_sync(root);
    return 0;
}

void pci_root_remove(struct pci_root *root, struct pci_dev *pd)
{
    if (pd->root == root) {
        unplug(root, pd);
    }
}

struct pci_dev *pci_root_find(struct pci_root *root, uint8_t devfn)
{
    SCOPED_LOCK(&root->lock);
    return root->fn[devfn];
}

uint64_t pci_root_ecam_base(struct pci_root *root)
{
    SCOPED_LOCK(&root->map_lock);
    return root->ecam_at;
}

/* ---- addresses for direct boot ---- */

struct allocator {
    struct pci_window win;
    uint64_t next;
};

static bool take_range(struct allocator *a, uint64_t size, uint64_t *ret_base)
{
    uint64_t base = align_up(a->next, size);
    if (base < a->next || base < a->win.base ||
        !range_fits(base - a->win.base, size, a->win.size)) {
        return false;
    }
    a->next = base + size;
    *ret_base = base;
    return true;
}

static int assign_bar(struct pci_dev *pd, unsigned i, struct allocator *mem,
                      struct allocator *io, struct err *err)
{
    const struct pci_bar *bar = &pd->bar[i];
    uint8_t *reg = pd->cfg + PCI_BAR0 + 4 * i;
    uint64_t at = 0;
    bool ok = true;

    switch (bar->kind) {
    case PCI_BAR_NONE:
    case PCI_BAR_UPPER: return 0;
    case PCI_BAR_IO: ok = take_range(io, bar->size, &at); break;
    case PCI_BAR_MEM32: ok = take_range(&mem[0], bar->size, &at); break;
    case PCI_BAR_MEM64:
        /* Large ones go high; small ones low, where guests without PAE reach them too. */
        ok = (bar->size > 16 * MIB && take_range(&mem[1], bar->size, &at)) ||
             take_range(&mem[0], bar->size, &at) || take_range(&mem[1], bar->size, &at);
        break;
    }
    if (!ok) {
        return ERR(err, LIMIT, ENOSPC,
                   "no room in the PCI windows for BAR %u of %02x.%x (0x%llx)", i,
                   pd->devfn >> 3, pd->devfn & 7, (unsigned long long)bar->size);
    }
    put_le32(reg, (uint32_t)at | (get_le32(reg) & 0xf));
    if (bar->kind == PCI_BAR_MEM64) {
        put_le32(reg + 4, (uint32_t)(at >> 32));
    }
    return 0;
}

int pci_root_assign(struct pci_root *root, const uint8_t irq_of_pin[4], struct err *err)
{
    const struct pci_root_cfg *c = &root->cfg;
    struct allocator mem[2] = {{c->mem_window[0], c->mem_window[0].base},
                               {c->mem_window[1], c->mem_window[1].base}};
    struct allocator io = {c->io_window, c->io_window.base};
    int rc = 0;

    pci_root_lock(root);
    for (unsigned f = 1; f < FUNCTIONS && rc == 0; f++) {
        struct pci_dev *pd = root->fn[f];
        if (pd == NULL) {
            continue;
        }
        for (unsigned i = 0; i < PCI_BARS && rc == 0; i++) {
            /* The low bits of a register that the guest left behind are its type bits only. */
            if (pd->bar[i].kind != PCI_BAR_NONE && pd->bar[i].kind != PCI_BAR_UPPER) {
                rc = assign_bar(pd, i, mem, &io, err);
            }
        }
        if (pd->cfg[PCI_INT_PIN] != 0) {
            pd->cfg[PCI_INT_LINE] = irq_of_pin[((f >> 3) + pd->cfg[PCI_INT_PIN] - 1U) % 4];
        }
        pd->cfg[PCI_COMMAND] |= PCI_CMD_IO | PCI_CMD_MEM | PCI_CMD_MASTER;
    }
    pci_root_maps_changed(root);
    pci_root_unlock(root);
    return rc;
}
