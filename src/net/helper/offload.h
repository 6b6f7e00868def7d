/*
 * Offloads between the guest's network driver and libslirp, which knows none: finishes
 * checksums of the guest's frames, lets libslirp send TCP segments larger than the guest's MTU,
 * and gives those to the guest as one TSO packet, or cut up if its driver takes none; cuts
 * other large IP packets into fragments.
 *
 * Large segments because libslirp's work is per segment and a guest's is per packet. libslirp
 * ignores the MSS of connections that the guest opens, so the sizes that guests ask for below
 * the usual one are remembered here, by a hash of the connection.
 *
 * RFC 791 (fragments), RFC 1071 and 1624 (checksums), RFC 8200, RFC 9293 (MSS option),
 * virtio 1.2, 5.1.6. No system calls; works on private copies; the bytes are the guest's or the
 * network's: nothing in them is trusted.
 */
#pragma once

#include "net/net.h"

/*
 * Bytes of the largest IP packet that libslirp is to make, and takes over IPv6. Half of TCP's
 * 64 KiB window, so that the sender need not wait for each segment's acknowledgement.
 */
#define OFFLOAD_STACK_MTU 32768
#define OFFLOAD_MTU       1500 /* the guest's */
#define OFFLOAD_FRAG_MAX  48   /* fragments of a 64 KiB packet at most */
#define OFFLOAD_MSS_SLOTS 1024

struct offload {
    uint32_t rx_caps; /* NET_CAP_RX_*: what the guest's driver accepts */
    struct {
        uint32_t tag; /* hash of the connection; 0: free */
        uint16_t mss;
    } mss[OFFLOAD_MSS_SLOTS]; /* connections with a smaller MSS than usual */
};

enum offload_verdict {
    OFFLOAD_SEND,     /* as it is, with *ret_hdr */
    OFFLOAD_FRAGMENT, /* through offload_fragment */
    OFFLOAD_SEGMENT,  /* through offload_segment, ret_hdr->gso_size bytes each */
    OFFLOAD_DROP,
};

/* A frame from the guest, before libslirp gets it: SEND, SEGMENT or DROP. */
enum offload_verdict offload_from_guest(struct offload *o, uint8_t *frame, size_t len,
                                        const struct net_hdr *hdr, uint16_t *ret_segment);
/* A frame from libslirp: fills *ret_hdr (and changes the TCP checksum when it says so). */
enum offload_verdict offload_to_guest(const struct offload *o, uint8_t *frame, size_t len,
                                      struct net_hdr *ret_hdr);

/*
 * The pieces are made in scratch and given to emit one by one. Nothing is emitted when the
 * frame is not a whole packet of the kind. Fragments are of at most OFFLOAD_MTU bytes and
 * scratch of OFFLOAD_MTU + 14; id tells IPv6 packets apart. Segments carry at most payload
 * bytes, less if scratch is smaller than that and the headers.
 */
typedef void offload_emit_fn(void *opaque, uint8_t *frame, size_t len);
void offload_fragment(const uint8_t *frame, size_t len, uint32_t id, uint8_t *scratch,
                      offload_emit_fn *emit, void *opaque);
void offload_segment(const uint8_t *frame, size_t len, uint16_t payload, uint8_t *scratch,
                     size_t scratch_len, offload_emit_fn *emit, void *opaque);
