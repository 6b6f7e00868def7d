/*
 * A virtio 1.2 device, without its transport: status, feature negotiation, queues,
 * configuration space, reset with I/O in flight, state. A device type embeds struct virtio_dev
 * and fills a struct virtio_ops; a transport (virtio_pci.h) embeds nothing and points at it.
 *
 * Lock: vd->lock guards everything in here and the device type's queues. All ops run with it
 * held, except where said. virtio_irq and the transport's ops may be called with it.
 *
 * Reset with requests in flight. A device type that answers later calls virtio_get for each
 * request that it keeps, and virtio_put when it is done with it, under the lock. A request
 * remembers vd->epoch; if that changed, the ring is gone and nothing is pushed. After the
 * driver wrote 0 to the status it reads 0 only when the last one is back, because until then
 * guest memory may still change.
 */
#pragma once

#include "base/err.h"
#include "base/log.h"
#include "dev/virtio/virtq.h"
#include "mem/mem.h"
#include "state/state.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum virtio_id {
    VIRTIO_ID_NET = 1,
    VIRTIO_ID_BLOCK = 2,
    VIRTIO_ID_CONSOLE = 3,
    VIRTIO_ID_RNG = 4,
};

enum {
    VIRTIO_S_ACKNOWLEDGE = 1,
    VIRTIO_S_DRIVER = 2,
    VIRTIO_S_DRIVER_OK = 4,
    VIRTIO_S_FEATURES_OK = 8,
    VIRTIO_S_NEEDS_RESET = 0x40,
    VIRTIO_S_FAILED = 0x80,
};

#define VIRTIO_F_INDIRECT  28
#define VIRTIO_F_EVENT_IDX 29
#define VIRTIO_F_VERSION_1 32
#define VIRTIO_BIT(n)      (UINT64_C(1) << (n))

#define VIRTIO_QUEUES_MAX 64

struct virtio_dev;

struct virtio_ops {
    const char *name; /* section name in the state stream: "virtio-blk" */
    uint16_t id;      /* enum virtio_id */
    uint32_t class_code;
    uint32_t state_version;
    /* The driver set FEATURES_OK with this subset of the offer: false refuses it. Optional. */
    bool (*features_ok)(struct virtio_dev *vd, uint64_t features);
    void (*start)(struct virtio_dev *vd); /* DRIVER_OK, queues run. Also after load. Optional */
    /* Process queue q; it runs. Also called once for each queue after start and resume. */
    void (*notify)(struct virtio_dev *vd, unsigned q);
    /* The driver wrote config bytes [off, off+len) that config_wmask allows. Optional. */
    void (*config_written)(struct virtio_dev *vd, unsigned off, unsigned len);
    /* Back to the state after _new; requests in flight come back by themselves. Optional. */
    void (*reset)(struct virtio_dev *vd);
    /* Without the lock: wait until nothing is in flight at the back end / go on. Optional. */
    void (*quiesce)(struct virtio_dev *vd);
    void (*unquiesce)(struct virtio_dev *vd);
    void (*save)(struct virtio_dev *vd, struct state_writer *w); /* optional, with load */
    int (*load)(struct virtio_dev *vd, struct state_reader *r, uint32_t version,
                struct err *err);
    void (*free)(struct virtio_dev *vd); /* without the lock; quiesced */
};

struct virtio_transport_ops {
    /* Tells the driver: used buffers in queue q (vector), or the configuration changed. */
    void (*queue_irq)(void *transport, uint16_t vector);
    void (*config_irq)(void *transport, uint16_t vector);
    void (*reset)(void *transport); /* the device was reset: interrupt state too */
};

struct virtio_stats {
    uint64_t notifies, requests, interrupts, broken; /* relaxed atomics */
};

struct virtio_dev {
    pthread_mutex_t lock;
    pthread_cond_t drained; /* in_flight became 0 */
    const struct virtio_ops *ops;
    const struct virtio_transport_ops *tops;
    void *transport;
    struct mem *mem; /* borrowed */

    uint64_t offered;
    uint64_t features; /* what the driver wrote; fixed after FEATURES_OK */
    uint8_t status;
    bool resetting; /* reset done, but requests of before are still out */
    bool paused;
    uint8_t generation; /* of config */
    uint16_t config_vector;
    uint16_t vectors; /* valid vector numbers are below; set by the transport */
    unsigned in_flight;
    uint32_t epoch;

    uint8_t *config; /* device configuration as the driver reads it, little-endian; borrowed */
    const uint8_t *config_wmask; /* NULL: read-only */
    unsigned config_len;

    struct virtq *queue; /* owned */
    unsigned queue_count;
    struct virtio_stats stats;
    struct log_limit log_limit;
};

/* ---- for device types ---- */

/* sizes: the largest size of each queue, powers of two <= VIRTQ_SIZE_MAX. The three ring
 * features are added to `features`. */
int virtio_init(struct virtio_dev *vd, const struct virtio_ops *ops, struct mem *mem,
                uint64_t features, const uint16_t *sizes, unsigned queue_count,
                struct err *err);
void virtio_done(struct virtio_dev *vd);

static inline bool virtio_has(const struct virtio_dev *vd, unsigned feature)
{
    return (vd->features & VIRTIO_BIT(feature)) != 0;
}
/* True while queue q may be popped. */
bool virtio_running(const struct virtio_dev *vd, unsigned q);
/* virtq_pop; a broken ring breaks the device and returns 0. */
int virtio_pop(struct virtio_dev *vd, unsigned q, struct virtq_chain *chain);
/* virtq_push and, if wanted, the interrupt. */
void virtio_push(struct virtio_dev *vd, unsigned q, uint16_t head, uint32_t written);
/* The interrupt for what was published with virtq_publish. */
void virtio_interrupt(struct virtio_dev *vd, unsigned q);
/* The guest broke the rules: DEVICE_NEEDS_RESET, nothing moves until then. One line is logged.
 */
void virtio_broken(struct virtio_dev *vd, const char *what);
/* config changed by us: new generation, configuration interrupt. */
void virtio_config_changed(struct virtio_dev *vd);
void virtio_get(struct virtio_dev *vd);
void virtio_put(struct virtio_dev *vd);

/* ---- for transports; they take the lock themselves, except where named _locked ---- */

void virtio_set_status(struct virtio_dev *vd, uint8_t status);
uint8_t virtio_status_locked(const struct virtio_dev *vd);
void virtio_set_features_locked(struct virtio_dev *vd, uint64_t features);
/* Queue registers may change: not enabled, and DRIVER_OK not yet set. */
bool virtio_queue_open_locked(const struct virtio_dev *vd, unsigned q);
void virtio_queue_enable_locked(struct virtio_dev *vd, unsigned q);
void virtio_notify(struct virtio_dev *vd, unsigned q);
void virtio_config_read(struct virtio_dev *vd, unsigned off, unsigned len, uint8_t *buf);
void virtio_config_write(struct virtio_dev *vd, unsigned off, unsigned len, const uint8_t *buf);
/* Reset as by status 0; wait: until no request is out. */
void virtio_reset(struct virtio_dev *vd, bool wait);
void virtio_pause(struct virtio_dev *vd); /* waits until no request is out */
void virtio_resume(struct virtio_dev *vd);
void virtio_save(struct virtio_dev *vd, struct state_writer *w);
int virtio_load(struct virtio_dev *vd, struct state_reader *r, uint32_t version,
                struct err *err);
void virtio_free(struct virtio_dev *vd); /* waits as well; calls ops->free */
