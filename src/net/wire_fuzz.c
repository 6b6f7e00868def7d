/* What a helper may send: any bytes. What is accepted must be in bounds for the front end. */
#include "base/fuzz.h"
#include "net/wire.h"

#include <stdlib.h>
#include <string.h>

size_t fuzz_seed(unsigned index, uint8_t *buf, size_t size)
{
    static const struct wire_hdr headers[] = {
        {.kind = WIRE_FRAME},
        {.kind = WIRE_FRAME, .flags = NET_HDR_DATA_VALID},
        {.kind = WIRE_FRAME,
         .flags = NET_HDR_NEEDS_CSUM,
         .gso_type = NET_GSO_TCPV4,
         .gso_size = 1460,
         .hdr_len = 54,
         .csum_start = 34,
         .csum_offset = 16},
        {.kind = WIRE_OFFLOADS},
        {.kind = WIRE_READY},
        {.kind = WIRE_FAILED},
    };
    static const size_t bodies[] = {60, 60, 3000, 4, 0, 20};
    if (index >= sizeof(bodies) / sizeof(bodies[0]) || size < 4096) {
        return 0;
    }
    memset(buf, (int)index, sizeof(headers[0]) + bodies[index]);
    memcpy(buf, &headers[index], sizeof(headers[0]));
    return sizeof(headers[0]) + bodies[index];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum wire_kind kind;
    struct net_hdr hdr;
    bool has_hdr;

    if (wire_check(data, size, &kind, &hdr, &has_hdr) == 0 && kind == WIRE_FRAME) {
        size_t len = size - sizeof(struct wire_hdr);
        if (len < WIRE_FRAME_MIN || len > NET_FRAME_MAX) {
            abort();
        }
        if ((hdr.flags & NET_HDR_NEEDS_CSUM) != 0 &&
            (size_t)hdr.csum_start + hdr.csum_offset + 2 > len) {
            abort();
        }
    }
    return 0;
}
