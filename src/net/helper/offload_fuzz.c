/*
 * Frames in both directions. The first bytes of the input choose the offload header and the
 * accepted offloads, the rest is the frame.
 */
#include "base/bytes.h"
#include "base/fuzz.h"
#include "net/helper/offload.h"

#include <stdlib.h>
#include <string.h>

#define HEAD 12

static size_t make_tcp(uint8_t *f, bool v6, bool syn, size_t payload)
{
    size_t hlen = syn ? 28 : 20, ip_len = v6 ? 40 : 20;
    memset(f, 0, 14 + ip_len + hlen + payload);
    uint8_t *ip = f + 14, *tcp = ip + ip_len;
    put_be16(f + 12, v6 ? 0x86dd : 0x0800);
    ip[0] = v6 ? 0x60 : 0x45;
    if (v6) {
        put_be16(ip + 4, (uint16_t)(hlen + payload));
        ip[6] = 6;
    } else {
        put_be16(ip + 2, (uint16_t)(ip_len + hlen + payload));
        ip[9] = 6;
    }
    tcp[12] = (uint8_t)(hlen / 4 << 4);
    tcp[13] = syn ? 2 : 0x10;
    if (syn) {
        const uint8_t options[8] = {1, 2, 4, 5, v6 ? 0xa0 : 0xb4, 1, 1, 0};
        memcpy(tcp + 20, options, sizeof(options));
    }
    return 14 + ip_len + hlen + payload;
}

size_t fuzz_seed(unsigned index, uint8_t *buf, size_t size)
{
    if (index >= 8 || size < 8192) {
        return 0;
    }
    memset(buf, 0xff, HEAD);
    buf[0] = (uint8_t)(index & 1);
    put_le16(buf + 2, 34);
    put_le16(buf + 4, 16);
    return HEAD + make_tcp(buf + HEAD, (index & 2) != 0, (index & 4) != 0,
                           (index & 1) != 0 ? 3000 : 40);
}

static void count(void *opaque, uint8_t *frame, size_t len)
{
    unsigned *n = opaque;
    if (len > OFFLOAD_MTU + 14 || len < 34 || ++*n > OFFLOAD_FRAG_MAX || frame[12] > 0x86) {
        abort();
    }
}

static void ignore(void *opaque, uint8_t *frame, size_t len)
{
    (void)opaque;
    if (len > OFFLOAD_MTU + 14 || len < 54 || frame[12] > 0x86) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t scratch[OFFLOAD_MTU + 14];
    static struct offload o;
    unsigned n = 0;
    uint16_t payload = 1000;
    if (size < HEAD || size - HEAD > NET_FRAME_MAX) {
        return 0;
    }
    struct net_hdr hdr = {.flags = data[0] & 1,
                          .csum_start = get_le16(data + 2),
                          .csum_offset = get_le16(data + 4)};
    o.rx_caps = get_le32(data + 8);
    size_t len = size - HEAD;
    uint8_t *frame = malloc(len > 0 ? len : 1);
    if (frame == NULL) {
        return 0;
    }
    memcpy(frame, data + HEAD, len);
    offload_from_guest(&o, frame, len, &hdr, &payload);
    offload_segment(frame, len, payload, scratch, sizeof(scratch), ignore, NULL);
    memcpy(frame, data + HEAD, len);
    switch (offload_to_guest(&o, frame, len, &hdr)) {
    case OFFLOAD_SEND:
        if ((hdr.flags & NET_HDR_NEEDS_CSUM) != 0 &&
            ((size_t)hdr.csum_start + hdr.csum_offset + 2 > len || hdr.hdr_len > len)) {
            abort();
        }
        break;
    case OFFLOAD_SEGMENT:
        if (hdr.gso_size == 0) {
            abort();
        }
        offload_segment(frame, len, hdr.gso_size, scratch, sizeof(scratch), ignore, NULL);
        break;
    case OFFLOAD_FRAGMENT:
    case OFFLOAD_DROP: break;
    }
    offload_fragment(frame, len, 1, scratch, count, &n);
    free(frame);
    return 0;
}
