/*
 * PCI: what a function embeds, and the root complex that it is plugged into.
 * PCI Local Bus 3.0 chapter 6, PCI Express Base 4.0 chapter 7, PCI Firmware 3.0 (ECAM).
 *
 * Locks. The root's lock guards configuration space. Under it come a device's own lock and then
 * the leaf locks in here (MSI-X, INTx). Therefore a BAR handler never touches configuration
 * space, and a device never holds its own lock while it calls pci_root_* or pci_reset_function;
 * pci_msix_fire and pci_set_intx are leaves and may be called with any lock, from any thread.
 *
 * Mapping. A change of BARs, of the command register or of PCIEXBAR is carried out on the bus
 * after the root's lock was released, but before the guest's access returns: removing a range
 * waits for accesses under way on other threads, and such an access may wait for the root's
 * lock.
 */
#pragma once

#include "base/err.h"
#include "dev/bus.h"
#include "dev/dev.h"
#include "dev/irq.h"
#include "mem/mem.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define PCI_CFG_BYTES 256 /* modelled; 0x100-0xfff reads 0: no extended capability */
#define PCI_BARS      6
#define PCI_MSIX_MAX  256 /* vectors of one function: the table is one page */

enum {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION = 0x08,
    PCI_CLASS = 0x09,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_SUBSYS_VENDOR = 0x2c,
    PCI_SUBSYS_ID = 0x2e,
    PCI_CAP_PTR = 0x34,
    PCI_INT_LINE = 0x3c,
    PCI_INT_PIN = 0x3d,
};
enum {
    PCI_CMD_IO = 1 << 0,
    PCI_CMD_MEM = 1 << 1,
    PCI_CMD_MASTER = 1 << 2,
    PCI_CMD_INTX_OFF = 1 << 10,
    PCI_STS_INTX = 1 << 3,
    PCI_STS_CAPS = 1 << 4,
};
enum { PCI_CAP_ID_VENDOR = 0x09, PCI_CAP_ID_EXP = 0x10, PCI_CAP_ID_MSIX = 0x11 };

#define PCI_DEVFN(slot, fn) ((uint8_t)((slot) << 3 | (fn)))

struct pci_root;
struct pci_dev;

struct pci_dev_ops {
    /* Optional. Bytes [off, off+len) were written and stored. Root lock held. */
    void (*config_written)(struct pci_dev *pd, unsigned off, unsigned len);
    /* Optional. Bytes are about to be read: refresh pd->cfg. Root lock held. */
    void (*config_reading)(struct pci_dev *pd, unsigned off, unsigned len);
    /* Function level reset, or a reset through the bus: the device's own part. Root lock held.
     */
    void (*function_reset)(struct pci_dev *pd);
};

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64, PCI_BAR_UPPER };

struct pci_bar {
    enum pci_bar_kind kind; /* UPPER: high half of the MEM64 before it */
    uint64_t size;          /* power of two; memory >= 16, I/O 4..256 */
    const struct bus_ops *ops;
    void *opaque;
    pthread_mutex_t *lock; /* taken by the bus around accesses; may be NULL */
    bool mapped;           /* on the bus at `at`; this and below: root's map lock */
    uint64_t at;
    uint64_t want; /* 0: nowhere */
};

struct pci_msix {
    pthread_mutex_t lock; /* leaf; guards all below */
    uint16_t vectors;     /* 0: no MSI-X */
    uint8_t cap;          /* offset of the capability */
    uint8_t bar;
    uint32_t table_off, pba_off;
    bool enabled, masked; /* copies of message control */
    uint8_t *table;       /* vectors * 16, as the guest sees it; owned */
    uint64_t pba[PCI_MSIX_MAX / 64];
};

struct pci_dev {
    struct dev dev; /* the embedding device fills it */
    const struct pci_dev_ops *ops;
    struct pci_root *root; /* borrowed; NULL while not plugged in */
    uint8_t devfn;
    uint8_t next_cap; /* first free byte for a capability */
    uint8_t last_cap; /* where the next link goes */
    uint8_t exp_cap;  /* 0: none */
    uint8_t cfg[PCI_CFG_BYTES];
    uint8_t wmask[PCI_CFG_BYTES]; /* 1: writable */
    uint8_t w1c[PCI_CFG_BYTES];   /* 1: write 1 to clear */
    struct pci_bar bar[PCI_BARS];
    struct pci_msix msix;
    bool intx;        /* level that the device asks for; atomic */
    bool intx_driven; /* what counts on the wire now; root's INTx lock */
};

struct pci_ids {
    uint16_t vendor, device, subsys_vendor, subsys_device;
    uint32_t class_code; /* base << 16 | sub << 8 | interface */
    uint8_t revision;
};

/* ---- building a function (control path, before it is plugged in) ---- */

void pci_dev_init(struct pci_dev *pd, const struct pci_ids *ids, const struct pci_dev_ops *ops);
/* Frees what init and msix allocated. Unplugged already (pci_root_remove or the root's end). */
void pci_dev_done(struct pci_dev *pd);
/* kind IO, MEM32 or MEM64 (takes two). The bar's ops get offsets from its start. */
void pci_bar_init(struct pci_dev *pd, unsigned index, enum pci_bar_kind kind, uint64_t size,
                  const struct bus_ops *ops, void *opaque, pthread_mutex_t *lock);
/* Appends a read-only capability of len bytes (with its two-byte head); returns its offset. The
 * caller opens writable bits in pd->wmask. Aborts when 256 bytes do not suffice: a host error.
 */
uint8_t pci_cap_add(struct pci_dev *pd, uint8_t id, uint8_t len);
/* PCI Express capability of a root complex integrated endpoint, with function level reset. */
void pci_exp_init(struct pci_dev *pd);
/* MSI-X: table and PBA in BAR `bar`, whose ops forward these ranges to pci_msix_read/write. */
int pci_msix_init(struct pci_dev *pd, uint16_t vectors, uint8_t bar, uint32_t table_off,
                  uint32_t pba_off, struct err *err);
/* Interrupt pin 1..4 (A..D). */
void pci_intx_init(struct pci_dev *pd, uint8_t pin);

/* ---- run time ---- */

bool pci_msix_enabled(struct pci_dev *pd);
/* Sends vector n or sets its pending bit; nothing when MSI-X is off or n is out of range. */
void pci_msix_fire(struct pci_dev *pd, unsigned n);
/* Accesses of table and PBA by offset in the BAR: true when the byte range lies in them. */
bool pci_msix_read(struct pci_dev *pd, uint64_t bar_off, unsigned len, uint64_t *ret_value);
bool pci_msix_write(struct pci_dev *pd, uint64_t bar_off, unsigned len, uint64_t value);
void pci_set_intx(struct pci_dev *pd, bool level);

/* Configuration space, MSI-X and BAR mapping to their reset values; not the device's own part.
 * For the embedding device's dev_ops.reset. */
void pci_reset_function(struct pci_dev *pd);
/* Fields named pci.* of the embedding device's section. Load checks the read-only bits, and
 * maps the BARs again when the function is plugged in. */
void pci_save(struct pci_dev *pd, struct state_writer *w);
int pci_load(struct pci_dev *pd, struct state_reader *r, struct err *err);

/* ---- the root ---- */

struct pci_window {
    uint64_t base, size;
};

/* Bits of host bridge registers that the board wants to decode itself (PAM, SMRAM, ...). */
typedef void pci_host_written_fn(void *opaque, const uint8_t *cfg, unsigned off, unsigned len);

struct pci_root_cfg {
    struct bus *mmio, *pio; /* borrowed for the root's life */
    const struct mem *mem;  /* borrowed; no BAR is mapped over its slots. May be NULL (tests) */
    uint64_t ecam_base;     /* 256 MiB aligned; 0: no ECAM until firmware sets PCIEXBAR */
    struct msi_sink msi;
    struct irq_line intx[4]; /* INTA..INTD of the root, already swizzled by slot */
    /* What the host bridge forwards: BARs outside are not mapped. Size 0: everything. io is
     * also bounded by 64 KiB. mem[0] lies below 4 GiB, mem[1] above; pci_root_assign uses them.
     */
    struct pci_window mem_window[2];
    struct pci_window io_window;
    /* Host bridge at 00.0; 0: 8086:29c0 (Q35 MCH), which firmware knows. */
    uint16_t host_vendor, host_device;
    pci_host_written_fn *host_written; /* optional */
    void *host_opaque;
    /* The guest wrote "reset" to port CF9, which lies inside the CF8 range. Optional. */
    void (*reset_request)(void *opaque);
    void *reset_opaque;
};

int pci_root_new(const struct pci_root_cfg *cfg, struct pci_root **ret_root, struct err *err);
/* Unmaps everything. The functions are freed before, or are quiet and still there. */
void pci_root_free(struct pci_root *root);
/* The host bridge as a device, for the machine's list (saved and reset like any other). */
struct dev *pci_root_dev(struct pci_root *root);

/* Plugs a function in; sets dev.instance to devfn. -EBUSY: taken. */
int pci_root_add(struct pci_root *root, struct pci_dev *pd, uint8_t devfn, struct err *err);
void pci_root_remove(struct pci_root *root, struct pci_dev *pd);
struct pci_dev *pci_root_find(struct pci_root *root, uint8_t devfn);

/* For direct boot without firmware: gives every BAR an address in the windows, sets the
 * interrupt line register to irq_of_pin[(slot + pin - 1) % 4], and enables I/O, memory and bus
 * mastering. */
int pci_root_assign(struct pci_root *root, const uint8_t irq_of_pin[4], struct err *err);

/* Configuration access as the guest makes it, for boards and tests. bus 0; others read all
 * ones. */
uint32_t pci_cfg_read(struct pci_root *root, uint8_t devfn, unsigned off, unsigned len);
void pci_cfg_write(struct pci_root *root, uint8_t devfn, unsigned off, unsigned len,
                   uint32_t value);
uint64_t pci_root_ecam_base(struct pci_root *root); /* 0: off */
