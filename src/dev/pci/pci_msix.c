/*
 * MSI-X of a function: capability, vector table and pending bit array. PCI 3.0 section 6.8.2.
 * Lock: msix.lock, a leaf (the sink's locks come under it). Saved by pci_save.
 *
 * Table and PBA may be accessed in any width and alignment. Only messages to 0xFEEx_xxxx are
 * sent: other addresses would be plain memory writes, which no guest uses and nobody should get
 * from here.
 */
#include "dev/pci/pci_priv.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ENTRY_BYTES 16
#define ENTRY_CTRL  12

int pci_msix_init(struct pci_dev *pd, uint16_t vectors, uint8_t bar, uint32_t table_off,
                  uint32_t pba_off, struct err *err)
{
    struct pci_msix *x = &pd->msix;
    if (vectors == 0 || vectors > PCI_MSIX_MAX) {
        return ERR(err, LIMIT, EINVAL, "%u MSI-X vectors, want 1 to %u", vectors, PCI_MSIX_MAX);
    }
    x->table = calloc(vectors, ENTRY_BYTES);
    if (x->table == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "MSI-X table of %u vectors", vectors);
    }
    x->cap = pci_cap_add(pd, PCI_CAP_ID_MSIX, 12);
    x->vectors = vectors;
    x->bar = bar;
    x->table_off = table_off;
    x->pba_off = pba_off;
    uint8_t *p = pd->cfg + x->cap;
    put_le16(p + 2, (uint16_t)(vectors - 1));
    put_le32(p + 4, table_off | bar);
    put_le32(p + 8, pba_off | bar);
    put_le16(pd->wmask + x->cap + 2, PCI_MSIX_CTRL_ENABLE | PCI_MSIX_CTRL_MASK);
    pci_msix_reset(pd);
    return 0;
}

void pci_msix_reset(struct pci_dev *pd)
{
    struct pci_msix *x = &pd->msix;
    SCOPED_LOCK(&x->lock);
    x->enabled = false;
    x->masked = false;
    memset(x->pba, 0, sizeof(x->pba));
    for (unsigned i = 0; i < x->vectors; i++) {
        memset(x->table + i * ENTRY_BYTES, 0, ENTRY_BYTES);
        x->table[i * ENTRY_BYTES + ENTRY_CTRL] = 1;
    }
}

static bool deliverable(const struct pci_msix *x, unsigned n)
{
    return x->enabled && !x->masked && (x->table[n * ENTRY_BYTES + ENTRY_CTRL] & 1) == 0;
}

static void send_vector(struct pci_dev *pd, unsigned n)
{
    const uint8_t *entry = pd->msix.table + n * ENTRY_BYTES;
    uint64_t addr = get_le64(entry);
    if (pd->root != NULL && (addr & ~UINT64_C(0xfffff)) == 0xfee00000) {
        pci_root_msi(pd->root, addr, get_le32(entry + 8));
    }
}

static void send_pending(struct pci_dev *pd, unsigned first, unsigned last)
{
    struct pci_msix *x = &pd->msix;
    for (unsigned n = first; n <= last && n < x->vectors; n++) {
        uint64_t bit = UINT64_C(1) << (n & 63);
        if ((x->pba[n >> 6] & bit) != 0 && deliverable(x, n)) {
            x->pba[n >> 6] &= ~bit;
            send_vector(pd, n);
        }
    }
}

void pci_msix_control_written(struct pci_dev *pd)
{
    struct pci_msix *x = &pd->msix;
    SCOPED_LOCK(&x->lock);
    uint16_t ctrl = get_le16(pd->cfg + x->cap + 2);
    x->enabled = (ctrl & PCI_MSIX_CTRL_ENABLE) != 0;
    x->masked = (ctrl & PCI_MSIX_CTRL_MASK) != 0;
    if (x->enabled && !x->masked) {
        send_pending(pd, 0, PCI_MSIX_MAX - 1);
    }
}

bool pci_msix_enabled(struct pci_dev *pd)
{
    SCOPED_LOCK(&pd->msix.lock);
    return pd->msix.enabled;
}

void pci_msix_fire(struct pci_dev *pd, unsigned n)
{
    struct pci_msix *x = &pd->msix;
    SCOPED_LOCK(&x->lock);
    if (n >= x->vectors || !x->enabled) {
        return;
    }
    if (deliverable(x, n)) {
        send_vector(pd, n);
    } else {
        x->pba[n >> 6] |= UINT64_C(1) << (n & 63);
    }
}

/* Bytes that the PBA has: whole quadwords. */
static unsigned pba_bytes(const struct pci_msix *x)
{
    return (x->vectors + 63U) / 64 * 8;
}

bool pci_msix_read(struct pci_dev *pd, uint64_t bar_off, unsigned len, uint64_t *ret_value)
{
    struct pci_msix *x = &pd->msix;
    uint64_t table_bytes = x->vectors * (uint64_t)ENTRY_BYTES;
    uint64_t value = 0;
    bool hit = false;

    SCOPED_LOCK(&x->lock);
    for (unsigned i = 0; i < len && i < 8; i++) {
        uint64_t in_table = bar_off + i - x->table_off;
        uint64_t in_pba = bar_off + i - x->pba_off;
        uint64_t byte = 0;
        if (in_table < table_bytes) {
            byte = x->table[in_table];
            hit = true;
        } else if (in_pba < pba_bytes(x)) {
            byte = x->pba[in_pba / 8] >> (in_pba % 8 * 8) & 0xff;
            hit = true;
        }
        value |= byte << (8 * i);
    }
    if (hit) {
        *ret_value = value;
    }
    return hit;
}

bool pci_msix_write(struct pci_dev *pd, uint64_t bar_off, unsigned len, uint64_t value)
{
    struct pci_msix *x = &pd->msix;
    uint64_t table_bytes = x->vectors * (uint64_t)ENTRY_BYTES;
    unsigned first = UINT32_MAX;
    unsigned last = 0;

    SCOPED_LOCK(&x->lock);
    for (unsigned i = 0; i < len && i < 8; i++) {
        uint64_t at = bar_off + i - x->table_off;
        if (at >= table_bytes) {
            continue;
        }
        unsigned in_entry = at % ENTRY_BYTES;
        /* Address bits 0-1 and all of vector control but the mask bit are reserved, 0. */
        uint8_t mask = in_entry == 0 ? 0xfc : in_entry == ENTRY_CTRL ? 1 : 0xff;
        mask = in_entry > ENTRY_CTRL ? 0 : mask;
        x->table[at] = (uint8_t)(value >> (8 * i)) & mask;
        first = MIN(first, (unsigned)(at / ENTRY_BYTES));
        last = (unsigned)(at / ENTRY_BYTES);
    }
    if (first == UINT32_MAX) {
        /* Pending bits are read-only. */
        return bar_off - x->pba_off < pba_bytes(x);
    }
    send_pending(pd, first, last);
    return true;
}
