/* The network device. Virtio 1.2, 5.1. */
#pragma once

#include "dev/virtio/virtio.h"
#include "net/net.h"

struct virtio_net_cfg {
    struct mem *mem;        /* borrowed */
    struct net_backend *nb; /* taken over on success */
    uint8_t mac[6];         /* a unicast address */
    uint16_t queue_size;    /* 0: 256 */
};

/* Starts the back end. */
int virtio_net_new(const struct virtio_net_cfg *cfg, struct virtio_dev **ret_vd,
                   struct err *err);

/* rx: to the guest. Dropped: malformed, filtered, or refused by the back end. */
struct virtio_net_stats {
    uint64_t rx_frames, rx_bytes, rx_dropped, tx_frames, tx_bytes, tx_dropped;
};
void virtio_net_get_stats(struct virtio_dev *vd, struct virtio_net_stats *ret_stats);
