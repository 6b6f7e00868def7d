/* Shared by virtio_net.c and virtio_net_ctrl.c. */
#pragma once

#include "dev/virtio/virtio_net.h"

#define NET_HDR_BYTES 12
#define NET_MAC_TABLE 64

enum { NET_Q_RX = 0, NET_Q_TX = 1, NET_Q_CTRL = 2 };
enum { NET_S_LINK_UP = 1, NET_S_ANNOUNCE = 2 };
enum {
    NET_F_CSUM = 0,
    NET_F_GUEST_CSUM = 1,
    NET_F_MTU = 3,
    NET_F_MAC = 5,
    NET_F_GUEST_TSO4 = 7,
    NET_F_GUEST_TSO6 = 8,
    NET_F_GUEST_ECN = 9,
    NET_F_HOST_TSO4 = 11,
    NET_F_HOST_TSO6 = 12,
    NET_F_HOST_ECN = 13,
    NET_F_MRG_RXBUF = 15,
    NET_F_STATUS = 16,
    NET_F_CTRL_VQ = 17,
    NET_F_CTRL_RX = 18,
    NET_F_GUEST_ANNOUNCE = 21,
    NET_F_CTRL_MAC_ADDR = 23,
};

/* What the driver wants to receive. All is let through until it says something. */
struct net_filter {
    uint8_t promiscuous, all_multicast;
    uint8_t all_unicast;        /* the table of unicast addresses did not fit */
    uint8_t unicast, multicast; /* valid entries, <= NET_MAC_TABLE */
    uint8_t unicast_table[NET_MAC_TABLE * 6];
    uint8_t multicast_table[NET_MAC_TABLE * 6];
};

struct virtio_net {
    struct virtio_dev vd;
    struct net_backend *nb; /* owned */
    bool started;           /* the back end; changed only by the control path */
    bool link_up;
    bool tx_blocked;   /* the back end said EAGAIN */
    bool rx_starved;   /* we said EAGAIN */
    bool announce;     /* the driver is asked to announce itself */
    bool announce_due; /* after a load: ask at resume */
    uint8_t mac[6];    /* as configured; the one in use is in config */
    uint8_t config[12];
    struct net_filter filter;
    struct virtio_net_stats stats;   /* relaxed atomics */
    struct virtq_chain chain, first; /* scratch */
};

extern const struct state_field virtio_net_filter_fields[];

void virtio_net_update_status(struct virtio_net *net);
void virtio_net_filter_reset(struct virtio_net *net);
bool virtio_net_wanted(const struct virtio_net *net, const uint8_t dest[6]);
void virtio_net_run_ctrl(struct virtio_net *net);
