/*
 * The PCI transport of virtio 1.2 (4.1), modern only: device IDs 0x1040 + n.
 *
 * BAR 0 (64-bit memory, 32 KiB): common configuration 0x0000, ISR 0x1000, device configuration
 * 0x2000, notification 0x3000 (4 bytes for each queue), MSI-X table 0x4000, PBA 0x5000.
 */
#pragma once

#include "dev/pci/pci.h"
#include "dev/virtio/virtio.h"

#define VIRTIO_PCI_COMMON     0x0000
#define VIRTIO_PCI_ISR        0x1000
#define VIRTIO_PCI_DEVICE     0x2000
#define VIRTIO_PCI_NOTIFY     0x3000
#define VIRTIO_PCI_MSIX_TABLE 0x4000
#define VIRTIO_PCI_MSIX_PBA   0x5000
#define VIRTIO_PCI_BAR_BYTES  0x8000

/* Common configuration, offsets (4.1.4.3). */
enum {
    VPCI_DEVICE_FEATURE_SELECT = 0x00,
    VPCI_DEVICE_FEATURE = 0x04,
    VPCI_DRIVER_FEATURE_SELECT = 0x08,
    VPCI_DRIVER_FEATURE = 0x0c,
    VPCI_CONFIG_VECTOR = 0x10,
    VPCI_NUM_QUEUES = 0x12,
    VPCI_STATUS = 0x14,
    VPCI_GENERATION = 0x15,
    VPCI_QUEUE_SELECT = 0x16,
    VPCI_QUEUE_SIZE = 0x18,
    VPCI_QUEUE_VECTOR = 0x1a,
    VPCI_QUEUE_ENABLE = 0x1c,
    VPCI_QUEUE_NOTIFY_OFF = 0x1e,
    VPCI_QUEUE_DESC = 0x20,
    VPCI_QUEUE_DRIVER = 0x28,
    VPCI_QUEUE_DEVICE = 0x30,
    VPCI_QUEUE_NOTIFY_DATA = 0x38,
    VPCI_QUEUE_RESET = 0x3a,
    VPCI_COMMON_BYTES = 0x3c,
};

struct virtio_pci {
    struct pci_dev pd;      /* pd.dev goes into the machine's list */
    struct virtio_dev *vd;  /* owned */
    struct dev_ops dev_ops; /* a copy with the device type's name and version */
    /* Registers; vd->lock. */
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select;
    uint8_t isr;
    uint8_t window_cap; /* offset of the configuration access capability */
};

/* Takes over vd, also on failure. pd.dev.ops->free frees all. One vector for each queue and one
 * for the configuration. */
int virtio_pci_new(struct virtio_dev *vd, struct virtio_pci **ret_vp, struct err *err);
