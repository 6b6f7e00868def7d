/*
 * The seam between a network device (front end, dev/virtio/virtio_net.c) and what carries its
 * Ethernet frames (back end: user mode, tap, switch). Frames have no FCS. Beside a frame goes a
 * struct net_hdr: the offload header of virtio 1.2, 5.1.6, in host byte order.
 *
 * Life: the back end's maker allocates it, fills ops, caps, mtu and link_up, and hands it to
 * the front end, which owns it from then on, sets fe and fe_opaque, calls start, and frees it
 * last.
 *
 * Threads and locks. send, rx_ready and set_offloads come from any thread (usually a vCPU's),
 * with the front end's lock held: they must not block, and must not call back into the front
 * end. The back end calls fe->* from any one thread (usually the event loop's) and holds no
 * lock meanwhile that send, rx_ready or set_offloads takes. After stop returns it calls nothing
 * until start.
 *
 * Trust. Frames that the guest sends lie in guest memory and may change while they are read:
 * copy what is parsed, once. The front end has checked the header of send against the frame's
 * length and the negotiated offloads, nothing else.
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define NET_FRAME_MAX                                                                          \
    (65535 + 14 + 4) /* bytes: largest TSO packet, Ethernet header, one tag                    \
                      */
#define NET_IOV_MAX 256

#define NET_HDR_NEEDS_CSUM 1 /* flags: checksum from csum_start on is to be filled in */
#define NET_HDR_DATA_VALID 2 /* flags, to the guest only: checksums were verified */

enum net_gso { NET_GSO_NONE = 0, NET_GSO_TCPV4 = 1, NET_GSO_TCPV6 = 4, NET_GSO_ECN = 0x80 };

struct net_hdr {
    uint8_t flags;
    uint8_t gso_type;     /* enum net_gso, ECN may be or-ed in */
    uint16_t hdr_len;     /* bytes, a hint only */
    uint16_t gso_size;    /* bytes of payload of one segment */
    uint16_t csum_start;  /* bytes from the start of the frame */
    uint16_t csum_offset; /* bytes from csum_start to the 16-bit sum */
};

/* What the back end can take from the guest (TX) and may deliver to it (RX). */
enum net_cap {
    NET_CAP_TX_CSUM = 1 << 0, /* frames with NEEDS_CSUM */
    NET_CAP_TX_TSO4 = 1 << 1, /* needs TX_CSUM too, and so on */
    NET_CAP_TX_TSO6 = 1 << 2,
    NET_CAP_TX_ECN = 1 << 3,
    NET_CAP_RX_CSUM = 1 << 4,
    NET_CAP_RX_TSO4 = 1 << 5,
    NET_CAP_RX_TSO6 = 1 << 6,
    NET_CAP_RX_ECN = 1 << 7,
};

struct net_backend;

struct net_backend_ops {
    const char *name;
    /*
     * Takes one frame (hdr NULL: no offload asked). It is copied or gone when this returns: iov
     * is borrowed for the call. 0: taken or dropped by policy; -EAGAIN: no room now, the same
     * frame is sent again after fe->tx_ready; another -errno: dropped, the front end counts it.
     */
    int (*send)(struct net_backend *nb, const struct net_hdr *hdr, const struct iovec *iov,
                unsigned iov_count);
    /* The guest has room again after fe->rx said -EAGAIN. Do the delivery on your own thread.
     */
    void (*rx_ready)(struct net_backend *nb);
    /* The NET_CAP_RX_* offloads that the driver accepted; none after a reset. Optional. */
    void (*set_offloads)(struct net_backend *nb, uint32_t rx_caps);
    void (*start)(
        struct net_backend *nb); /* fe is set: deliveries may begin. Also after stop. */
    void (*stop)(struct net_backend *nb); /* no calls to fe when this returns. Pause and end. */
    void (*free)(struct net_backend *nb); /* after stop */
};

struct net_frontend_ops {
    /*
     * Delivers one frame to the guest, copied when this returns. hdr NULL: no offload used; a
     * field that the driver did not accept is refused with -EINVAL. -EAGAIN: no buffer now,
     * keep it (or drop it) and wait for rx_ready. -ENETDOWN: no driver, drop it.
     */
    int (*rx)(void *opaque, const struct net_hdr *hdr, const struct iovec *iov,
              unsigned iov_count);
    void (*tx_ready)(void *opaque);           /* room again after send said -EAGAIN */
    void (*link)(void *opaque, bool link_up); /* the carrier changed */
};

struct net_backend {
    const struct net_backend_ops *ops;
    uint32_t caps; /* enum net_cap; constant */
    uint16_t mtu;  /* bytes of IP packet; 0: not said; constant */
    bool link_up;  /* at the start; later changes through fe->link */
    const struct net_frontend_ops *fe;
    void *fe_opaque;
};
