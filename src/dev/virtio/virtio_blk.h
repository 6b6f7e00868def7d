/* The block device. Virtio 1.2, 5.2. */
#pragma once

#include "block/block.h"
#include "dev/virtio/virtio.h"

struct virtio_blk_cfg {
    struct mem *mem;         /* borrowed */
    struct block_node *node; /* taken over on success */
    const char *serial;      /* up to 20 bytes; NULL: none */
    unsigned queues;         /* 0: 1; at most 16 */
    uint16_t queue_size;     /* 0: 256 */
    bool readonly;           /* also when the node is */
};

int virtio_blk_new(const struct virtio_blk_cfg *cfg, struct virtio_dev **ret_vd,
                   struct err *err);

/* Requests that ended with an error that the guest was told, and the node's own counters. */
struct virtio_blk_stats {
    uint64_t io_errors, refused;
    struct block_stats block;
};
void virtio_blk_get_stats(struct virtio_dev *vd, struct virtio_blk_stats *ret_stats);
/* The node's size changed: tells the driver. Any thread. */
void virtio_blk_resized(struct virtio_dev *vd);
