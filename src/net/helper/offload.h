/*
 * Offloads between the guest's network driver and libslirp, which knows none: finishes
 * checksums of the guest's frames, lets libslirp send TCP segments larger than the guest's MTU
 * and describes them to the guest as one TSO packet, cuts other large IP packets into
 * fragments.
 *
 * RFC 791 (fragments), RFC 1071 and 1624 (checksums), RFC 8200, RFC 9293 (MSS option),
 * virtio 1.2, 5.1.6. Pure functions over private copies; the bytes are the guest's or the
 * network's: nothing in them is trusted.
 */
#pragma once

#include "net/net.h"

/*
 * The largest segment that a TCP connection may carry to a guest that takes TSO packets;
 * replaces the guest's own MSS if that is the one of a 1500 byte MTU, so that libslirp, whose
 * work is per segment, and the guest, whose work is per packet, do both less. Less than half of
 * the 64 KiB window, so that the sender need not wait for each one's acknowledgement.
 */
#define OFFLOAD_MSS      31744
#define OFFLOAD_MTU      1500
#define OFFLOAD_FRAG_MAX 48 /* fragments of a 64 KiB packet at most */

/* A frame from the guest, to be given to libslirp. -EBADMSG: drop it. */
int offload_from_guest(uint8_t *frame, size_t len, const struct net_hdr *hdr, uint32_t rx_caps);

enum offload_verdict { OFFLOAD_SEND, OFFLOAD_FRAGMENT, OFFLOAD_DROP };
/* A frame from libslirp: fills *ret_hdr (and changes the TCP checksum when it says so). */
enum offload_verdict offload_to_guest(uint8_t *frame, size_t len, uint32_t rx_caps,
                                      struct net_hdr *ret_hdr);

/*
 * Cuts an IP packet in its frame into fragments of at most OFFLOAD_MTU. emit gets each one; it
 * is made in a buffer of this function's caller-owned scratch of OFFLOAD_MTU + 14 bytes. id
 * tells IPv6 packets apart. Nothing is emitted when the frame is not a whole IP packet.
 */
typedef void offload_emit_fn(void *opaque, const uint8_t *frame, size_t len);
void offload_fragment(const uint8_t *frame, size_t len, uint32_t id, uint8_t *scratch,
                      offload_emit_fn *emit, void *opaque);
