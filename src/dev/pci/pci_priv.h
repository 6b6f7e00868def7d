/* Shared by the files of this folder only. */
#pragma once

#include "dev/pci/pci.h"

#define PCI_MSIX_CTRL_ENABLE 0x8000
#define PCI_MSIX_CTRL_MASK   0x4000
#define PCI_EXP_DEVCTL       8      /* offset in the capability */
#define PCI_EXP_DEVCTL_FLR   0x8000 /* write 1: reset; reads 0 */

/* Whether [off, off+len) touches [at, at+n). */
static inline bool pci_touches(unsigned off, unsigned len, unsigned at, unsigned n)
{
    return off < at + n && at < off + len;
}

/* Message control was written or loaded: takes the copies, sends what became deliverable. */
void pci_msix_control_written(struct pci_dev *pd);
void pci_msix_reset(struct pci_dev *pd);

/* Configuration space to its reset value. Root lock held if the function is plugged in. */
void pci_cfg_reset(struct pci_dev *pd);
/* Drives the wire from pd->intx and the command register. */
void pci_intx_update(struct pci_dev *pd);
/* Address that a BAR decodes at by the registers, 0: none. Root lock held. */
uint64_t pci_bar_address(const struct pci_dev *pd, unsigned index);

void pci_root_lock(struct pci_root *root);
void pci_root_unlock(struct pci_root *root); /* and carries out mapping changes */
void pci_root_maps_changed(struct pci_root *root);
void pci_root_msi(struct pci_root *root, uint64_t addr, uint32_t data);
void pci_root_intx(struct pci_root *root, struct pci_dev *pd);
