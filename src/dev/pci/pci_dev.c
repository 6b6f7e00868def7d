/*
 * A PCI function: building its configuration space, BAR registers, capabilities, INTx, reset
 * and state. PCI 3.0 section 6, PCIe 4.0 sections 7.5 and 6.6.2 (FLR). Lock: see pci.h. Saved:
 * configuration space, MSI-X table and pending bits, the INTx level. Missing: expansion ROM,
 * power management, conventional MSI, extended capabilities. The bus master bit is stored but
 * does not hold back the device's own DMA and messages: some old guests forget it.
 */
#include "dev/pci/pci_priv.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void pci_dev_init(struct pci_dev *pd, const struct pci_ids *ids, const struct pci_dev_ops *ops)
{
    pd->ops = ops;
    pd->next_cap = 0x40;
    pd->last_cap = PCI_CAP_PTR;
    pthread_mutex_init(&pd->msix.lock, NULL);
    put_le16(pd->cfg + PCI_VENDOR_ID, ids->vendor);
    put_le16(pd->cfg + PCI_DEVICE_ID, ids->device);
    pd->cfg[PCI_REVISION] = ids->revision;
    pd->cfg[PCI_CLASS] = (uint8_t)ids->class_code;
    put_le16(pd->cfg + PCI_CLASS + 1, (uint16_t)(ids->class_code >> 8));
    put_le16(pd->cfg + PCI_SUBSYS_VENDOR, ids->subsys_vendor);
    put_le16(pd->cfg + PCI_SUBSYS_ID, ids->subsys_device);
    put_le16(pd->wmask + PCI_COMMAND,
             PCI_CMD_IO | PCI_CMD_MEM | PCI_CMD_MASTER | PCI_CMD_INTX_OFF);
    pd->wmask[0x0c] = 0xff; /* cache line size */
    pd->wmask[PCI_INT_LINE] = 0xff;
}

void pci_dev_done(struct pci_dev *pd)
{
    free(pd->msix.table);
    pd->msix.table = NULL;
    pthread_mutex_destroy(&pd->msix.lock);
}

void pci_bar_init(struct pci_dev *pd, unsigned index, enum pci_bar_kind kind, uint64_t size,
                  const struct bus_ops *ops, void *opaque, pthread_mutex_t *lock)
{
    uint64_t min = kind == PCI_BAR_IO ? 4 : 16;
    if (index >= PCI_BARS || !is_pow2(size) || size < min ||
        pd->bar[index].kind != PCI_BAR_NONE) {
        abort();
    }
    uint8_t *reg = pd->cfg + PCI_BAR0 + 4 * index;
    uint8_t *mask = pd->wmask + PCI_BAR0 + 4 * index;
    uint64_t bits = ~(size - 1);
    pd->bar[index] = (struct pci_bar){
        .kind = kind, .size = size, .ops = ops, .opaque = opaque, .lock = lock};
    put_le32(mask, (uint32_t)bits);
    put_le32(reg, kind == PCI_BAR_IO ? 1 : kind == PCI_BAR_MEM64 ? 4 : 0);
    if (kind == PCI_BAR_MEM64) {
        if (index + 1 >= PCI_BARS) {
            abort();
        }
        pd->bar[index + 1].kind = PCI_BAR_UPPER;
        put_le32(mask + 4, (uint32_t)(bits >> 32));
    }
}

uint64_t pci_bar_address(const struct pci_dev *pd, unsigned index)
{
    const struct pci_bar *bar = &pd->bar[index];
    unsigned command = pd->cfg[PCI_COMMAND];
    uint64_t low = get_le32(pd->cfg + PCI_BAR0 + 4 * index);
    uint64_t base = 0;
    uint64_t limit = 0; /* first address that can not be decoded */

    switch (bar->kind) {
    case PCI_BAR_NONE:
    case PCI_BAR_UPPER: return 0;
    case PCI_BAR_IO:
        base = (command & PCI_CMD_IO) != 0 ? low & ~UINT64_C(3) : 0;
        limit = 0x10000;
        break;
    case PCI_BAR_MEM32:
        /* All ones during sizing ends at 4 GiB exactly: that is not an address. */
        base = (command & PCI_CMD_MEM) != 0 ? low & ~UINT64_C(15) : 0;
        limit = 4 * GIB - 1;
        break;
    case PCI_BAR_MEM64:
        base = get_le32(pd->cfg + PCI_BAR0 + 4 * index + 4);
        base = (command & PCI_CMD_MEM) != 0 ? base << 32 | (low & ~UINT64_C(15)) : 0;
        limit = UINT64_C(1) << 52;
        break;
    }
    return base != 0 && range_fits(base, bar->size, limit) ? base : 0;
}

uint8_t pci_cap_add(struct pci_dev *pd, uint8_t id, uint8_t len)
{
    unsigned at = pd->next_cap;
    if (len < 2 || at + len > PCI_CFG_BYTES) {
        abort();
    }
    pd->cfg[at] = id;
    pd->cfg[at + 1] = 0;
    pd->cfg[pd->last_cap] = (uint8_t)at;
    pd->cfg[PCI_STATUS] |= PCI_STS_CAPS;
    pd->last_cap = (uint8_t)(at + 1);
    /* A capability that ends at 256 leaves no room: any further one would start at 0xfc or
     * later. */
    unsigned next = (at + len + 3U) & ~3U;
    pd->next_cap = (uint8_t)MIN(next, 0xffU);
    return (uint8_t)at;
}

void pci_exp_init(struct pci_dev *pd)
{
    uint8_t cap = pci_cap_add(pd, PCI_CAP_ID_EXP, 0x3c);
    uint8_t *p = pd->cfg + cap;
    put_le16(p + 2, 2 | 9 << 4);          /* version 2, integrated endpoint */
    put_le32(p + 4, 1U << 15 | 1U << 28); /* role-based errors, FLR */
    put_le16(p + PCI_EXP_DEVCTL, 0x2810); /* relaxed ordering, no snoop, 512 byte reads */
    put_le16(pd->wmask + cap + PCI_EXP_DEVCTL, 0x7fff);
    put_le16(pd->w1c + cap + 10, 0x000f); /* device status: error bits, never set by us */
    pd->exp_cap = cap;
}

void pci_intx_init(struct pci_dev *pd, uint8_t pin)
{
    pd->cfg[PCI_INT_PIN] = pin;
}

void pci_intx_update(struct pci_dev *pd)
{
    if (pd->root != NULL && pd->cfg[PCI_INT_PIN] != 0) {
        pci_root_intx(pd->root, pd);
    }
}

void pci_set_intx(struct pci_dev *pd, bool level)
{
    __atomic_store_n(&pd->intx, level, __ATOMIC_SEQ_CST);
    pci_intx_update(pd);
}

void pci_cfg_reset(struct pci_dev *pd)
{
    /* Every register that this model lets a guest write is 0 after reset, except two. */
    for (unsigned i = 0; i < PCI_CFG_BYTES; i++) {
        uint8_t keep = (uint8_t) ~(pd->wmask[i] | pd->w1c[i]);
        __atomic_store_n(&pd->cfg[i], pd->cfg[i] & keep, __ATOMIC_RELAXED);
    }
    if (pd->exp_cap != 0) {
        put_le16(pd->cfg + pd->exp_cap + PCI_EXP_DEVCTL, 0x2810);
    }
    pci_msix_reset(pd);
    pci_set_intx(pd, false);
}

void pci_reset_function(struct pci_dev *pd)
{
    struct pci_root *root = pd->root;
    if (root == NULL) {
        pci_cfg_reset(pd);
        return;
    }
    pci_root_lock(root);
    pci_cfg_reset(pd);
    pci_root_maps_changed(root);
    pci_root_unlock(root);
}

void pci_save(struct pci_dev *pd, struct state_writer *w)
{
    struct pci_msix *x = &pd->msix;

    state_put_bytes(w, "pci.cfg", pd->cfg, sizeof(pd->cfg));
    state_put_uint(w, "pci.intx", __atomic_load_n(&pd->intx, __ATOMIC_SEQ_CST));
    SCOPED_LOCK(&x->lock);
    state_put_bytes(w, "pci.msix_table", x->table, x->vectors * 16U);
    state_put_bytes(w, "pci.msix_pba", x->pba, sizeof(x->pba));
}

/* The stream may differ from this function only where a guest can write. */
static int check_readonly(const struct pci_dev *pd, const uint8_t *cfg, struct err *err)
{
    for (unsigned i = 0; i < PCI_CFG_BYTES; i++) {
        uint8_t fixed = (uint8_t) ~(pd->wmask[i] | pd->w1c[i]);
        if (i == PCI_STATUS) {
            fixed &= (uint8_t)~PCI_STS_INTX;
        }
        if (((pd->cfg[i] ^ cfg[i]) & fixed) != 0) {
            return ERR(err, STATE_BAD, EINVAL,
                       "%s at %02x.%x: config byte 0x%02x is 0x%02x in the state, 0x%02x here "
                       "(another device or another version)",
                       pd->dev.ops != NULL ? pd->dev.ops->name : "pci", pd->devfn >> 3,
                       pd->devfn & 7, i, cfg[i], pd->cfg[i]);
        }
    }
    return 0;
}

int pci_load(struct pci_dev *pd, struct state_reader *r, struct err *err)
{
    struct pci_msix *x = &pd->msix;
    uint8_t cfg[PCI_CFG_BYTES] = {0};
    uint8_t table[PCI_MSIX_MAX * 16] = {0};
    uint64_t pba[PCI_MSIX_MAX / 64] = {0};
    uint64_t intx = 0;

    int rc = state_get_bytes(r, "pci.cfg", cfg, sizeof(cfg), err);
    rc = rc != 0 ? rc : state_get_uint(r, "pci.intx", &intx, err);
    rc = rc != 0 ? rc : state_get_bytes(r, "pci.msix_table", table, x->vectors * 16U, err);
    rc = rc != 0 ? rc : state_get_bytes(r, "pci.msix_pba", pba, sizeof(pba), err);
    rc = rc != 0 ? rc : check_readonly(pd, cfg, err);
    if (rc != 0) {
        return rc;
    }
    if (pd->root != NULL) {
        pci_root_lock(pd->root);
    }
    memcpy(pd->cfg, cfg, sizeof(cfg));
    if (x->vectors != 0) {
        pthread_mutex_lock(&x->lock);
        memcpy(x->table, table, x->vectors * 16U);
        memcpy(x->pba, pba, sizeof(pba));
        pthread_mutex_unlock(&x->lock);
        pci_msix_control_written(pd);
    }
    pci_set_intx(pd, intx != 0);
    if (pd->root != NULL) {
        pci_root_maps_changed(pd->root);
        pci_root_unlock(pd->root);
    }
    return 0;
}
