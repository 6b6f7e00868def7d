/*
 * The network device. Virtio 1.2, 5.1: one pair of queues, mergeable receive buffers, checksum
 * and TCP segmentation offloads as far as the back end (net/net.h) has them, MAC, link status,
 * MTU. The control queue is in virtio_net_ctrl.c.
 *
 * Threads and lock: vd->lock. Frames of the guest go to the back end within notify, on a vCPU's
 * thread, without a copy; frames to the guest come from the back end's thread. When the back
 * end has no room, frames wait in the ring, and when the guest has none, the back end keeps its
 * frame. Saved: MAC, link, receive filter. Missing: several pairs, RSS, UFO, USO, notification
 * coalescing.
 */
#include "dev/virtio/virtio_net_priv.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ETH_HEADER   14
#define MERGE_MAX    128 /* receive buffers of one frame */
#define DEFAULT_SIZE 256
#define CTRL_SIZE    64

static void add(uint64_t *counter, uint64_t n)
{
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

static struct virtio_net *of(struct virtio_dev *vd)
{
    return container_of(vd, struct virtio_net, vd);
}

/* ---- offload headers ---- */

/* Feature bits that a frame in one direction may use. */
struct offload_bits {
    unsigned csum, tso4, tso6, ecn;
};
static const struct offload_bits tx_bits = {NET_F_CSUM, NET_F_HOST_TSO4, NET_F_HOST_TSO6,
                                            NET_F_HOST_ECN};
static const struct offload_bits rx_bits = {NET_F_GUEST_CSUM, NET_F_GUEST_TSO4,
                                            NET_F_GUEST_TSO6, NET_F_GUEST_ECN};

static bool gso_allowed(const struct virtio_dev *vd, const struct net_hdr *h,
                        const struct offload_bits *bits)
{
    unsigned type = h->gso_type & ~(unsigned)NET_GSO_ECN;
    bool known = (type == NET_GSO_TCPV4 && virtio_has(vd, bits->tso4)) ||
                 (type == NET_GSO_TCPV6 && virtio_has(vd, bits->tso6));
    bool ecn_ok = (h->gso_type & NET_GSO_ECN) == 0 || virtio_has(vd, bits->ecn);
    return known && ecn_ok && h->gso_size != 0 && (h->flags & NET_HDR_NEEDS_CSUM) != 0;
}

static bool header_ok(const struct virtio_dev *vd, const struct net_hdr *h,
                      uint64_t frame_bytes, const struct offload_bits *bits)
{
    if ((h->flags & NET_HDR_NEEDS_CSUM) != 0) {
        if (!virtio_has(vd, bits->csum) ||
            h->csum_start + (uint64_t)h->csum_offset + 2 > frame_bytes) {
            return false;
        }
    }
    return h->gso_type == NET_GSO_NONE || gso_allowed(vd, h, bits);
}

static struct net_hdr decode_header(const uint8_t raw[NET_HDR_BYTES])
{
    return (struct net_hdr){.flags = raw[0] & NET_HDR_NEEDS_CSUM,
                            .gso_type = raw[1],
                            .hdr_len = get_le16(raw + 2),
                            .gso_size = get_le16(raw + 4),
                            .csum_start = get_le16(raw + 6),
                            .csum_offset = get_le16(raw + 8)};
}

static void encode_header(uint8_t raw[NET_HDR_BYTES], const struct net_hdr *h)
{
    memset(raw, 0, NET_HDR_BYTES);
    if (h != NULL) {
        raw[0] = h->flags;
        raw[1] = h->gso_type;
        put_le16(raw + 2, h->hdr_len);
        put_le16(raw + 4, h->gso_size);
        put_le16(raw + 6, h->csum_start);
        put_le16(raw + 8, h->csum_offset);
    }
    put_le16(raw + 10, 1); /* buffers */
}

/* ---- from the guest ---- */

/* -EAGAIN: the back end is full. Everything else is final, and the frame is done with. */
static int send_frame(struct virtio_net *net)
{
    struct virtq_chain *c = &net->chain;
    uint8_t raw[NET_HDR_BYTES];

    bool ok = virtq_chain_read(c, 0, raw, sizeof(raw)) == sizeof(raw) &&
              virtq_chain_skip_out(c, sizeof(raw));
    if (!ok || c->out_bytes < ETH_HEADER || c->out_bytes > NET_FRAME_MAX) {
        return -EINVAL;
    }
    struct net_hdr h = decode_header(raw);
    if (!header_ok(&net->vd, &h, c->out_bytes, &tx_bits)) {
        return -EINVAL;
    }
    bool plain = h.flags == 0 && h.gso_type == NET_GSO_NONE;
    return net->nb->ops->send(net->nb, plain ? NULL : &h, c->iov, c->out_count);
}

static void run_tx(struct virtio_net *net)
{
    struct virtio_dev *vd = &net->vd;
    if (net->tx_blocked || !virtio_running(vd, NET_Q_TX)) {
        return;
    }
    do {
        virtq_quiet(&vd->queue[NET_Q_TX]);
        while (virtio_pop(vd, NET_Q_TX, &net->chain) > 0) {
            uint16_t head = net->chain.head;
            int rc = send_frame(net);
            if (rc == -EAGAIN) {
                virtq_unpop(&vd->queue[NET_Q_TX], 1);
                net->tx_blocked = true;
                return;
            }
            if (rc == 0) {
                add(&net->stats.tx_frames, 1);
                add(&net->stats.tx_bytes, net->chain.out_bytes);
            } else {
                add(&net->stats.tx_dropped, 1);
            }
            virtio_push(vd, NET_Q_TX, head, 0);
        }
    } while (virtio_running(vd, NET_Q_TX) && virtq_listen(&vd->queue[NET_Q_TX]));
}

static void fe_tx_ready(void *opaque)
{
    struct virtio_net *net = opaque;
    SCOPED_LOCK(&net->vd.lock);
    net->tx_blocked = false;
    run_tx(net);
}

/* ---- to the guest ---- */

/* Where the next byte of the frame is. */
struct cursor {
    const struct iovec *iov;
    unsigned count;
    size_t offset; /* in iov[0] */
};

/* Copies into the chain from `at` on, as much as fits; returns the bytes. */
static size_t copy_frame(struct virtq *vq, const struct virtq_chain *chain, uint64_t at,
                         struct cursor *cur)
{
    size_t done = 0;
    while (cur->count != 0) {
        const uint8_t *from = (const uint8_t *)cur->iov->iov_base + cur->offset;
        size_t want = cur->iov->iov_len - cur->offset;
        size_t n = virtq_chain_write(vq, chain, at + done, from, want);
        done += n;
        cur->offset += n;
        if (n < want) {
            break;
        }
        cur->iov++;
        cur->count--;
        cur->offset = 0;
    }
    return done;
}

/* A further buffer, also if it comes just now. 0: none, and the driver will notify. */
static int pop_rx(struct virtio_net *net, struct virtq_chain *chain)
{
    struct virtio_dev *vd = &net->vd;
    for (;;) {
        int rc = virtio_pop(vd, NET_Q_RX, chain);
        if (rc > 0 || !virtio_running(vd, NET_Q_RX) || !virtq_listen(&vd->queue[NET_Q_RX])) {
            return rc;
        }
    }
}

static int no_room(struct virtio_net *net, unsigned popped)
{
    if (!virtio_running(&net->vd, NET_Q_RX)) {
        return -ENETDOWN; /* it broke meanwhile */
    }
    virtq_unpop(&net->vd.queue[NET_Q_RX], popped);
    net->rx_starved = true;
    return -EAGAIN;
}

/*
 * Fills buffers one by one; their used elements become visible together at the end, after the
 * number of them was written into the header at the first one's start.
 */
static int deliver(struct virtio_net *net, const struct net_hdr *hdr, struct cursor cur,
                   uint64_t bytes)
{
    struct virtio_dev *vd = &net->vd;
    struct virtq *vq = &vd->queue[NET_Q_RX];
    uint8_t raw[NET_HDR_BYTES];
    unsigned n = 0;
    unsigned max = virtio_has(vd, NET_F_MRG_RXBUF) ? MIN(MERGE_MAX, (unsigned)vq->size) : 1;
    uint64_t left = bytes;

    encode_header(raw, hdr);
    while (n < max && (n == 0 || left != 0)) {
        struct virtq_chain *chain = n == 0 ? &net->first : &net->chain;
        if (pop_rx(net, chain) <= 0) {
            return no_room(net, n);
        }
        uint64_t head = n == 0 ? NET_HDR_BYTES : 0;
        if (chain->in_bytes <= head) {
            virtio_broken(vd, "a receive buffer without room");
            return -ENETDOWN;
        }
        if (n == 0) {
            (void)virtq_chain_write(vq, chain, 0, raw, sizeof(raw));
        }
        size_t put = copy_frame(vq, chain, head, &cur);
        left -= put;
        if (virtq_fill(vq, (uint16_t)n, chain->head, (uint32_t)(put + head)) != 0) {
            virtio_broken(vd, "the used ring lies outside of RAM");
            return -ENETDOWN;
        }
        n++;
    }
    if (left != 0) {
        virtq_unpop(vq, n); /* larger than what this driver can receive at all */
        return -EMSGSIZE;
    }
    put_le16(raw, (uint16_t)n);
    (void)virtq_chain_write(vq, &net->first, NET_HDR_BYTES - 2, raw, 2);
    if (virtq_publish(vq, (uint16_t)n) != 0) {
        virtio_broken(vd, "the used ring lies outside of RAM");
        return -ENETDOWN;
    }
    virtio_interrupt(vd, NET_Q_RX);
    return 0;
}

static int receive(struct virtio_net *net, const struct net_hdr *hdr, const struct iovec *iov,
                   unsigned count)
{
    struct virtio_dev *vd = &net->vd;
    uint8_t dest[6] = {0};
    uint64_t bytes = 0;

    if (vd->paused) {
        net->rx_starved = true;
        return -EAGAIN;
    }
    if (!virtio_running(vd, NET_Q_RX) || !net->link_up) {
        return -ENETDOWN;
    }
    for (unsigned i = 0; i < count; i++) {
        size_t have = (size_t)MIN(bytes, (uint64_t)sizeof(dest));
        if (have < sizeof(dest) && iov[i].iov_len != 0) {
            memcpy(dest + have, iov[i].iov_base, MIN(iov[i].iov_len, sizeof(dest) - have));
        }
        bytes += iov[i].iov_len;
    }
    if (bytes < ETH_HEADER || bytes > NET_FRAME_MAX ||
        (hdr != NULL && !header_ok(vd, hdr, bytes, &rx_bits))) {
        return -EINVAL;
    }
    if (!virtio_net_wanted(net, dest)) {
        add(&net->stats.rx_dropped, 1);
        return 0;
    }
    int rc = deliver(net, hdr, (struct cursor){iov, count, 0}, bytes);
    if (rc == 0) {
        add(&net->stats.rx_frames, 1);
        add(&net->stats.rx_bytes, bytes);
    }
    return rc;
}

static int fe_rx(void *opaque, const struct net_hdr *hdr, const struct iovec *iov,
                 unsigned iov_count)
{
    struct virtio_net *net = opaque;
    SCOPED_LOCK(&net->vd.lock);
    int rc = receive(net, hdr, iov, iov_count);
    if (rc != 0 && rc != -EAGAIN) {
        add(&net->stats.rx_dropped, 1);
    }
    return rc;
}

static void fe_link(void *opaque, bool link_up)
{
    struct virtio_net *net = opaque;
    SCOPED_LOCK(&net->vd.lock);
    if (net->link_up != link_up) {
        net->link_up = link_up;
        virtio_net_update_status(net);
        virtio_config_changed(&net->vd);
    }
}

static const struct net_frontend_ops frontend_ops = {fe_rx, fe_tx_ready, fe_link};

/* ---- device ops ---- */

void virtio_net_update_status(struct virtio_net *net)
{
    put_le16(net->config + 6, (uint16_t)((net->link_up ? NET_S_LINK_UP : 0) |
                                         (net->announce ? NET_S_ANNOUNCE : 0)));
}

static void tell_offloads(struct virtio_net *net)
{
    const struct virtio_dev *vd = &net->vd;
    uint32_t caps = 0;
    caps |= virtio_has(vd, NET_F_GUEST_CSUM) ? (uint32_t)NET_CAP_RX_CSUM : 0;
    caps |= virtio_has(vd, NET_F_GUEST_TSO4) ? (uint32_t)NET_CAP_RX_TSO4 : 0;
    caps |= virtio_has(vd, NET_F_GUEST_TSO6) ? (uint32_t)NET_CAP_RX_TSO6 : 0;
    caps |= virtio_has(vd, NET_F_GUEST_ECN) ? (uint32_t)NET_CAP_RX_ECN : 0;
    if (net->nb->ops->set_offloads != NULL) {
        net->nb->ops->set_offloads(net->nb, caps);
    }
}

static void net_start(struct virtio_dev *vd)
{
    tell_offloads(of(vd));
}

static void rx_room(struct virtio_net *net)
{
    if (net->rx_starved) {
        net->rx_starved = false;
        net->nb->ops->rx_ready(net->nb);
    }
    /* Until a frame finds no buffer again, notifications are of no use. */
    virtq_quiet(&net->vd.queue[NET_Q_RX]);
}

static void net_notify(struct virtio_dev *vd, unsigned q)
{
    switch (q) {
    case NET_Q_RX: rx_room(of(vd)); break;
    case NET_Q_TX: run_tx(of(vd)); break;
    case NET_Q_CTRL: virtio_net_run_ctrl(of(vd)); break;
    default: break;
    }
}

static bool net_features_ok(struct virtio_dev *vd, uint64_t f)
{
    static const struct {
        unsigned feature, needs;
    } rules[] = {
        {NET_F_GUEST_TSO4, NET_F_GUEST_CSUM},  {NET_F_GUEST_TSO6, NET_F_GUEST_CSUM},
        {NET_F_HOST_TSO4, NET_F_CSUM},         {NET_F_HOST_TSO6, NET_F_CSUM},
        {NET_F_CTRL_RX, NET_F_CTRL_VQ},        {NET_F_CTRL_MAC_ADDR, NET_F_CTRL_VQ},
        {NET_F_GUEST_ANNOUNCE, NET_F_CTRL_VQ},
    };
    (void)vd;
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        if ((f & VIRTIO_BIT(rules[i].feature)) != 0 && (f & VIRTIO_BIT(rules[i].needs)) == 0) {
            return false;
        }
    }
    return true;
}

static void net_reset(struct virtio_dev *vd)
{
    struct virtio_net *net = of(vd);
    net->tx_blocked = false;
    net->announce = false;
    memcpy(net->config, net->mac, 6);
    virtio_net_filter_reset(net);
    virtio_net_update_status(net);
    tell_offloads(net);
}

static void net_quiesce(struct virtio_dev *vd)
{
    struct virtio_net *net = of(vd);
    if (net->started) {
        net->started = false;
        net->nb->ops->stop(net->nb);
    }
}

static void net_unquiesce(struct virtio_dev *vd)
{
    struct virtio_net *net = of(vd);
    if (!net->started) {
        net->started = true;
        net->nb->ops->start(net->nb);
    }
    SCOPED_LOCK(&vd->lock);
    if (virtio_running(vd, NET_Q_RX)) {
        rx_room(net);
    }
    if (net->announce_due) {
        /* Here after a move: switches have to learn where this address is now. */
        net->announce_due = false;
        net->announce = true;
        virtio_net_update_status(net);
        virtio_config_changed(vd);
    }
}

static void net_save(struct virtio_dev *vd, struct state_writer *w)
{
    struct virtio_net *net = of(vd);
    state_put_bytes(w, "mac", net->config, 6);
    state_put_uint(w, "announce", net->announce);
    state_put_fields(w, virtio_net_filter_fields, &net->filter);
}

static int net_load(struct virtio_dev *vd, struct state_reader *r, uint32_t version,
                    struct err *err)
{
    struct virtio_net *net = of(vd);
    uint64_t announce = 0;
    (void)version;
    int rc = state_get_bytes(r, "mac", net->config, 6, err);
    rc = rc != 0 ? rc : state_get_uint(r, "announce", &announce, err);
    rc = rc != 0 ? rc : state_get_fields(r, virtio_net_filter_fields, &net->filter, err);
    if (rc != 0) {
        return rc;
    }
    if (net->filter.unicast > NET_MAC_TABLE || net->filter.multicast > NET_MAC_TABLE) {
        return ERR(err, STATE_BAD, EINVAL,
                   "virtio-net: %u and %u filter addresses, want up to %u", net->filter.unicast,
                   net->filter.multicast, NET_MAC_TABLE);
    }
    net->announce = announce != 0;
    net->announce_due = virtio_has(vd, NET_F_GUEST_ANNOUNCE);
    virtio_net_update_status(net);
    return 0;
}

static void net_free(struct virtio_dev *vd)
{
    struct virtio_net *net = of(vd);
    if (net->nb != NULL) {
        net->nb->ops->free(net->nb);
    }
    virtio_done(vd);
    free(net);
}

static const struct virtio_ops net_ops = {.name = "virtio-net",
                                          .id = VIRTIO_ID_NET,
                                          .class_code = 0x020000,
                                          .state_version = 1,
                                          .features_ok = net_features_ok,
                                          .start = net_start,
                                          .notify = net_notify,
                                          .reset = net_reset,
                                          .quiesce = net_quiesce,
                                          .unquiesce = net_unquiesce,
                                          .save = net_save,
                                          .load = net_load,
                                          .free = net_free};

static uint64_t offer(const struct net_backend *nb)
{
    static const struct {
        uint32_t cap, needs;
        unsigned feature;
    } caps[] = {
        {NET_CAP_TX_CSUM, 0, NET_F_CSUM},
        {NET_CAP_TX_TSO4, NET_CAP_TX_CSUM, NET_F_HOST_TSO4},
        {NET_CAP_TX_TSO6, NET_CAP_TX_CSUM, NET_F_HOST_TSO6},
        {NET_CAP_TX_ECN, NET_CAP_TX_CSUM, NET_F_HOST_ECN},
        {NET_CAP_RX_CSUM, 0, NET_F_GUEST_CSUM},
        {NET_CAP_RX_TSO4, NET_CAP_RX_CSUM, NET_F_GUEST_TSO4},
        {NET_CAP_RX_TSO6, NET_CAP_RX_CSUM, NET_F_GUEST_TSO6},
        {NET_CAP_RX_ECN, NET_CAP_RX_CSUM, NET_F_GUEST_ECN},
    };
    uint64_t f = VIRTIO_BIT(NET_F_MAC) | VIRTIO_BIT(NET_F_MRG_RXBUF) |
                 VIRTIO_BIT(NET_F_STATUS) | VIRTIO_BIT(NET_F_CTRL_VQ) |
                 VIRTIO_BIT(NET_F_CTRL_RX) | VIRTIO_BIT(NET_F_CTRL_MAC_ADDR) |
                 VIRTIO_BIT(NET_F_GUEST_ANNOUNCE);
    for (size_t i = 0; i < ARRAY_LEN(caps); i++) {
        bool has = (nb->caps & caps[i].cap) != 0 && (nb->caps & caps[i].needs) == caps[i].needs;
        f |= has ? VIRTIO_BIT(caps[i].feature) : 0;
    }
    return f | (nb->mtu != 0 ? VIRTIO_BIT(NET_F_MTU) : 0);
}

void virtio_net_get_stats(struct virtio_dev *vd, struct virtio_net_stats *ret_stats)
{
    SCOPED_LOCK(&vd->lock);
    *ret_stats = of(vd)->stats;
}

int virtio_net_new(const struct virtio_net_cfg *cfg, struct virtio_dev **ret_vd,
                   struct err *err)
{
    uint16_t size = cfg->queue_size != 0 ? cfg->queue_size : DEFAULT_SIZE;
    const uint16_t sizes[3] = {size, size, CTRL_SIZE};
    if ((cfg->mac[0] & 1) != 0) {
        return ERR(err, SPEC_BAD, EINVAL,
                   "MAC address %02x:..: is a group address, want unicast", cfg->mac[0]);
    }
    struct virtio_net *net = calloc(1, sizeof(*net));
    if (net == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "virtio-net");
    }
    int rc = virtio_init(&net->vd, &net_ops, cfg->mem, offer(cfg->nb), sizes, 3, err);
    if (rc != 0) {
        free(net);
        return rc;
    }
    net->nb = cfg->nb;
    net->link_up = cfg->nb->link_up;
    memcpy(net->mac, cfg->mac, 6);
    memcpy(net->config, cfg->mac, 6);
    put_le16(net->config + 8, 1);
    put_le16(net->config + 10, cfg->nb->mtu);
    virtio_net_filter_reset(net);
    virtio_net_update_status(net);
    net->vd.config = net->config;
    net->vd.config_len = cfg->nb->mtu != 0 ? 12 : 10;
    net->nb->fe = &frontend_ops;
    net->nb->fe_opaque = net;
    net->started = true;
    net->nb->ops->start(net->nb);
    *ret_vd = &net->vd;
    return 0;
}
