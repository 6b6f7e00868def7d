/*
 * The control queue of the network device, and the receive filter that it sets.
 * Virtio 1.2, 5.1.6.5. Lock: vd->lock. Saved by virtio_net.c. Missing: VLAN filter, offload
 * commands, queue pairs, notification coalescing.
 */
#include "dev/virtio/virtio_net_priv.h"

#include "base/bytes.h"
#include "base/ckd.h"

#include <string.h>

enum { CLASS_RX = 0, CLASS_MAC = 1, CLASS_ANNOUNCE = 3 };
enum { RX_PROMISC = 0, RX_ALLMULTI = 1 };
enum { MAC_TABLE_SET = 0, MAC_ADDR_SET = 1 };
enum { ACK_OK = 0, ACK_ERR = 1 };

#define HEAD_BYTES 2

const struct state_field virtio_net_filter_fields[] = {
    STATE_UINT(struct net_filter, promiscuous),
    STATE_UINT(struct net_filter, all_multicast),
    STATE_UINT(struct net_filter, all_unicast),
    STATE_UINT(struct net_filter, unicast),
    STATE_UINT(struct net_filter, multicast),
    STATE_BYTES(struct net_filter, unicast_table),
    STATE_BYTES(struct net_filter, multicast_table),
    STATE_END};

void virtio_net_filter_reset(struct virtio_net *net)
{
    net->filter = (struct net_filter){.promiscuous = 1};
}

static bool in_table(const uint8_t *table, unsigned count, const uint8_t mac[6])
{
    for (unsigned i = 0; i < count; i++) {
        if (memcmp(table + (size_t)6 * i, mac, 6) == 0) {
            return true;
        }
    }
    return false;
}

bool virtio_net_wanted(const struct virtio_net *net, const uint8_t dest[6])
{
    static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    const struct net_filter *f = &net->filter;
    if (f->promiscuous != 0 || memcmp(dest, broadcast, 6) == 0) {
        return true;
    }
    if ((dest[0] & 1) != 0) {
        return f->all_multicast != 0 || in_table(f->multicast_table, f->multicast, dest);
    }
    return f->all_unicast != 0 || memcmp(dest, net->config, 6) == 0 ||
           in_table(f->unicast_table, f->unicast, dest);
}

static bool set_rx_mode(struct virtio_net *net, uint8_t cmd, const struct virtq_chain *c)
{
    uint8_t on;
    if (!virtio_has(&net->vd, NET_F_CTRL_RX) || cmd > RX_ALLMULTI ||
        virtq_chain_read(c, HEAD_BYTES, &on, 1) != 1) {
        return false;
    }
    *(cmd == RX_PROMISC ? &net->filter.promiscuous : &net->filter.all_multicast) = on != 0;
    return true;
}

/* One of the two tables at *offset; a table that is too long counts as "everything". */
static bool take_table(const struct virtq_chain *c, uint64_t *offset, uint8_t *table,
                       uint8_t *ret_count, uint8_t *ret_overflow)
{
    uint8_t raw[4];
    if (virtq_chain_read(c, *offset, raw, sizeof(raw)) != sizeof(raw)) {
        return false;
    }
    uint64_t n = get_le32(raw);
    uint64_t at = *offset + sizeof(raw);
    if (n * 6 > c->out_bytes || at + n * 6 > c->out_bytes) {
        return false;
    }
    *offset = at + n * 6;
    *ret_overflow = n > NET_MAC_TABLE;
    *ret_count = n > NET_MAC_TABLE ? 0 : (uint8_t)n;
    (void)virtq_chain_read(c, at, table, (size_t)*ret_count * 6);
    return true;
}

static bool set_mac_table(struct virtio_net *net, const struct virtq_chain *c)
{
    struct net_filter f = net->filter;
    uint64_t offset = HEAD_BYTES;
    uint8_t all_multicast = 0;
    if (!virtio_has(&net->vd, NET_F_CTRL_RX) ||
        !take_table(c, &offset, f.unicast_table, &f.unicast, &f.all_unicast) ||
        !take_table(c, &offset, f.multicast_table, &f.multicast, &all_multicast)) {
        return false;
    }
    f.all_multicast |= all_multicast;
    net->filter = f;
    return true;
}

static bool set_mac(struct virtio_net *net, const struct virtq_chain *c)
{
    uint8_t mac[6];
    if (!virtio_has(&net->vd, NET_F_CTRL_MAC_ADDR) ||
        virtq_chain_read(c, HEAD_BYTES, mac, sizeof(mac)) != sizeof(mac) || (mac[0] & 1) != 0) {
        return false;
    }
    memcpy(net->config, mac, sizeof(mac));
    return true;
}

static bool command(struct virtio_net *net, const struct virtq_chain *c)
{
    uint8_t head[HEAD_BYTES];
    if (virtq_chain_read(c, 0, head, sizeof(head)) != sizeof(head)) {
        return false;
    }
    switch (head[0]) {
    case CLASS_RX: return set_rx_mode(net, head[1], c);
    case CLASS_MAC:
        return head[1] == MAC_TABLE_SET  ? set_mac_table(net, c)
               : head[1] == MAC_ADDR_SET ? set_mac(net, c)
                                         : false;
    case CLASS_ANNOUNCE:
        net->announce = false;
        virtio_net_update_status(net);
        return virtio_has(&net->vd, NET_F_GUEST_ANNOUNCE) && head[1] == 0;
    default: return false;
    }
}

void virtio_net_run_ctrl(struct virtio_net *net)
{
    struct virtio_dev *vd = &net->vd;
    struct virtq_chain *c = &net->chain;
    if (!virtio_has(vd, NET_F_CTRL_VQ)) {
        return;
    }
    do {
        virtq_quiet(&vd->queue[NET_Q_CTRL]);
        while (virtio_pop(vd, NET_Q_CTRL, c) > 0) {
            uint8_t ack = command(net, c) ? ACK_OK : ACK_ERR;
            size_t n = virtq_chain_write(&vd->queue[NET_Q_CTRL], c, 0, &ack, 1);
            virtio_push(vd, NET_Q_CTRL, c->head, (uint32_t)n);
        }
    } while (virtio_running(vd, NET_Q_CTRL) && virtq_listen(&vd->queue[NET_Q_CTRL]));
}
