/*
 * Packing and checking of helper messages (wire.h). Pure functions on private copies, any
 * thread. The rules for offload fields are those of virtio 1.2, 5.1.6.4.1 (device to driver).
 */
#include "net/wire.h"

#include "base/ckd.h"

#include <errno.h>
#include <string.h>

void wire_from_net(struct wire_hdr *ret_wire, const struct net_hdr *hdr)
{
    *ret_wire = (struct wire_hdr){.kind = WIRE_FRAME};
    if (hdr != NULL) {
        ret_wire->flags = hdr->flags;
        ret_wire->gso_type = hdr->gso_type;
        ret_wire->hdr_len = hdr->hdr_len;
        ret_wire->gso_size = hdr->gso_size;
        ret_wire->csum_start = hdr->csum_start;
        ret_wire->csum_offset = hdr->csum_offset;
    }
}

static int check_frame(const struct wire_hdr *w, size_t frame_len)
{
    if (frame_len < WIRE_FRAME_MIN || frame_len > NET_FRAME_MAX) {
        return -EBADMSG;
    }
    if ((w->flags & ~(NET_HDR_NEEDS_CSUM | NET_HDR_DATA_VALID)) != 0) {
        return -EBADMSG;
    }
    if ((w->flags & NET_HDR_NEEDS_CSUM) != 0 &&
        !range_fits((uint64_t)w->csum_start + w->csum_offset, 2, frame_len)) {
        return -EBADMSG;
    }
    unsigned gso = w->gso_type & ~(unsigned)NET_GSO_ECN;
    if (gso == NET_GSO_NONE) {
        return w->gso_type == 0 ? 0 : -EBADMSG;
    }
    if ((gso != NET_GSO_TCPV4 && gso != NET_GSO_TCPV6) || w->gso_size == 0 ||
        w->hdr_len > frame_len || (w->flags & NET_HDR_NEEDS_CSUM) == 0) {
        return -EBADMSG;
    }
    return 0;
}

int wire_check(const void *msg, size_t len, enum wire_kind *ret_kind, struct net_hdr *ret_hdr,
               bool *ret_has_hdr)
{
    struct wire_hdr w;
    if (len < sizeof(w)) {
        return -EBADMSG;
    }
    memcpy(&w, msg, sizeof(w));
    len -= sizeof(w);
    switch (w.kind) {
    case WIRE_FRAME: {
        int r = check_frame(&w, len);
        if (r < 0) {
            return r;
        }
        *ret_hdr = (struct net_hdr){.flags = w.flags,
                                    .gso_type = w.gso_type,
                                    .hdr_len = w.hdr_len,
                                    .gso_size = w.gso_size,
                                    .csum_start = w.csum_start,
                                    .csum_offset = w.csum_offset};
        *ret_has_hdr = w.flags != 0 || w.gso_type != NET_GSO_NONE;
        break;
    }
    case WIRE_OFFLOADS:
        if (len != sizeof(uint32_t)) {
            return -EBADMSG;
        }
        break;
    case WIRE_READY:
        if (len != 0) {
            return -EBADMSG;
        }
        break;
    case WIRE_FAILED:
        if (len > WIRE_TEXT_MAX) {
            return -EBADMSG;
        }
        break;
    default: return -EBADMSG;
    }
    *ret_kind = (enum wire_kind)w.kind;
    return 0;
}
