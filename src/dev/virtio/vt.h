/*
 * For tests: a small virtio driver over PCI. It does what a guest's driver does, through the
 * buses only: finds the BAR, negotiates, builds rings in guest RAM, waits for used buffers. RAM
 * is one slot of 16 MiB at 0; vt_alloc hands out pieces from 1 MiB on.
 */
#pragma once

#include "base/loop.h"
#include "dev/bus.h"
#include "dev/pci/pci.h"
#include "dev/virtio/virtio_pci.h"

#include <pthread.h>

#define VT_RAM_BYTES (UINT64_C(16) << 20)
#define VT_BAR       UINT64_C(0xe0000000)
#define VT_ECAM      UINT64_C(0xb0000000)
#define VT_QUEUES    16
#define VT_VECTORS   32
#define VT_SLOT      3

struct vt_queue {
    uint16_t size;
    uint64_t desc, avail, used;
    uint16_t next_desc, avail_idx, used_seen;
};

struct vt_seg {
    uint64_t gpa;
    uint32_t len;
    bool write; /* by the device */
};

struct vt {
    struct mem *mem;
    struct bus *mmio, *pio;
    struct pci_root *root;
    struct virtio_pci *vp;
    struct loop *loop;
    pthread_t loop_thread;
    bool loop_runs;
    uint64_t heap;
    unsigned msi[VT_VECTORS]; /* atomic: messages of each vector */
    unsigned intx;            /* atomic: level of INTA..INTD as bits */
    unsigned intx_edges;
    struct vt_queue q[VT_QUEUES];
};

void vt_setup(struct vt *vt);
void vt_teardown(struct vt *vt); /* frees the device as well */
void vt_plug(struct vt *vt, struct virtio_dev *vd);
void vt_unplug(struct vt *vt);   /* frees the device */
void vt_run_loop(struct vt *vt); /* on a thread of its own, until teardown */

uint64_t vt_alloc(struct vt *vt, uint64_t bytes); /* page aligned, zeroed */
uint64_t vt_common(struct vt *vt, unsigned off, unsigned len);
void vt_common_set(struct vt *vt, unsigned off, unsigned len, uint64_t value);

/* Everything up to DRIVER_OK; wanted is cut down to the offer. Queue sizes are the offered
 * ones, at most `size`. Returns the features negotiated. */
uint64_t vt_start(struct vt *vt, uint64_t wanted, unsigned queues, uint16_t size);
void vt_reset(struct vt *vt); /* status 0, and polls until it reads 0 */
void vt_setup_queue(struct vt *vt, unsigned q, uint16_t size);
void vt_enable_msix(struct vt *vt, unsigned vectors);

uint16_t vt_add(struct vt *vt, unsigned q, const struct vt_seg *segs, unsigned n);
uint16_t vt_add_indirect(struct vt *vt, unsigned q, const struct vt_seg *segs, unsigned n);
void vt_put_desc(struct vt *vt, uint64_t table, unsigned i, uint64_t addr, uint32_t len,
                 uint16_t flags, uint16_t next);
void vt_publish(struct vt *vt, unsigned q, uint16_t head); /* into the avail ring */
void vt_kick(struct vt *vt, unsigned q);
/* The next used element, without and with waiting (fails the test after 20 s). */
bool vt_used(struct vt *vt, unsigned q, uint32_t *ret_id, uint32_t *ret_len);
uint32_t vt_wait_used(struct vt *vt, unsigned q, uint32_t *ret_id);
bool vt_needs_reset(struct vt *vt);

void vt_write(struct vt *vt, uint64_t gpa, const void *buf, size_t len);
void vt_read(struct vt *vt, uint64_t gpa, void *buf, size_t len);

/* State of the device into a malloced buffer, and back. */
void *vt_save(struct vt *vt, size_t *ret_len);
int vt_load(struct vt *vt, const void *data, size_t len);
