/*
 * Messages between the VMM and a network helper process (viv-net) over a SOCK_SEQPACKET pair:
 * one message is a struct wire_hdr and what follows it, in host byte order (one machine, one
 * build).
 *
 *     kind           from    what follows
 *     WIRE_FRAME     both    an Ethernet frame without FCS; the offload fields are net_hdr's
 *     WIRE_OFFLOADS  VMM     uint32_t: NET_CAP_RX_* that the guest's driver accepts
 *     WIRE_READY     helper  nothing: forwarded ports are bound, the sandbox is closed
 *     WIRE_FAILED    helper  text without NUL: why it ends
 *
 * Neither side trusts the other: the helper reads what the guest wrote, the VMM reads what a
 * process that parses network input wrote.
 */
#pragma once

#include "net/net.h"

enum wire_kind { WIRE_FRAME, WIRE_OFFLOADS, WIRE_READY, WIRE_FAILED };

struct wire_hdr {
    uint8_t kind;
    uint8_t flags;
    uint8_t gso_type;
    uint8_t zero;
    uint16_t hdr_len;
    uint16_t gso_size;
    uint16_t csum_start;
    uint16_t csum_offset;
};
_Static_assert(sizeof(struct wire_hdr) == 12, "the messages have no padding");

#define WIRE_FRAME_MIN 14 /* an Ethernet header */
#define WIRE_MSG_MAX   (sizeof(struct wire_hdr) + NET_FRAME_MAX)
#define WIRE_TEXT_MAX  400

void wire_from_net(struct wire_hdr *ret_wire,
                   const struct net_hdr *hdr); /* hdr NULL: all zero */

/*
 * Checks a received message of len bytes that came in a buffer of WIRE_MSG_MAX: -EBADMSG when
 * it is malformed. For WIRE_FRAME fills *ret_hdr; *ret_has_hdr tells whether an offload is
 * used.
 */
int wire_check(const void *msg, size_t len, enum wire_kind *ret_kind, struct net_hdr *ret_hdr,
               bool *ret_has_hdr);
