/* See offload.h. */
#include "net/helper/offload.h"

#include "base/bytes.h"
#include "base/ckd.h"

#include <errno.h>
#include <string.h>

#define ETH_LEN      14
#define ETH_IPV4     0x0800
#define ETH_IPV6     0x86dd
#define IPV6_LEN     40
#define IP_TCP       6
#define IP_UDP       17
#define IP6_FRAGMENT 44
#define TCP_SYN      0x02
#define TCP_OPT_END  0
#define TCP_OPT_NOP  1
#define TCP_OPT_MSS  2
#define FRAG_MORE    0x2000
#define FRAG_DF      0x4000

/* Where the parts of an unfragmented TCP or UDP packet lie in its frame; end is one past it. */
struct l4 {
    bool is_ipv6;
    uint8_t proto;
    size_t start, end;
};

static uint32_t sum16(const uint8_t *p, size_t len, uint32_t sum)
{
    uint64_t wide = sum;
    for (; len >= 2; p += 2, len -= 2) {
        wide += get_be16(p);
    }
    if (len > 0) {
        wide += (uint64_t)*p << 8;
    }
    while (wide >> 16 != 0) {
        wide = (wide & 0xffff) + (wide >> 16);
    }
    return (uint32_t)wide;
}

static bool find_l4(const uint8_t *frame, size_t len, struct l4 *ret)
{
    if (len < ETH_LEN) {
        return false;
    }
    const uint8_t *ip = frame + ETH_LEN;
    size_t room = len - ETH_LEN, hlen, total;
    uint16_t type = get_be16(frame + 12);
    uint8_t proto;

    if (type == ETH_IPV4) {
        if (room < 20 || ip[0] >> 4 != 4) {
            return false;
        }
        hlen = (size_t)(ip[0] & 15) * 4;
        total = get_be16(ip + 2);
        proto = ip[9];
        if ((get_be16(ip + 6) & ~FRAG_DF) != 0) {
            return false;
        }
    } else if (type == ETH_IPV6) {
        if (room < IPV6_LEN || ip[0] >> 4 != 6) {
            return false;
        }
        hlen = IPV6_LEN;
        total = hlen + get_be16(ip + 4);
        proto = ip[6];
    } else {
        return false;
    }
    size_t least = proto == IP_TCP ? 20 : 8;
    if ((proto != IP_TCP && proto != IP_UDP) || hlen < 20 || total > room ||
        total < hlen + least) {
        return false;
    }
    *ret = (struct l4){type == ETH_IPV6, proto, ETH_LEN + hlen, ETH_LEN + total};
    return true;
}

static uint32_t pseudo_sum(const uint8_t *frame, const struct l4 *l4)
{
    const uint8_t *ip = frame + ETH_LEN;
    uint32_t sum = l4->is_ipv6 ? sum16(ip + 8, 32, 0) : sum16(ip + 12, 8, 0);
    uint8_t rest[4] = {0, l4->proto, 0, 0};
    put_be16(rest + 2, (uint16_t)(l4->end - l4->start));
    return sum16(rest, sizeof(rest), sum);
}

static uint16_t plain_mss(bool is_ipv6)
{
    return (uint16_t)(OFFLOAD_MTU - (is_ipv6 ? IPV6_LEN : 20) - 20);
}

/* RFC 1624, equation 3. */
static void adjust_sum(uint8_t *sum, uint16_t old, uint16_t new)
{
    uint32_t s = (uint32_t)(uint16_t)~get_be16(sum) + (uint16_t)~old + new;
    s = (s & 0xffff) + (s >> 16);
    s = (s & 0xffff) + (s >> 16);
    put_be16(sum, (uint16_t)~s);
}

static void raise_mss(uint8_t *frame, const struct l4 *l4)
{
    uint8_t *tcp = frame + l4->start;
    size_t hlen = (size_t)(tcp[12] >> 4) * 4;
    if ((tcp[13] & TCP_SYN) == 0 || hlen > l4->end - l4->start) {
        return;
    }
    for (size_t i = 20; i + 1 < hlen && tcp[i] != TCP_OPT_END;) {
        if (tcp[i] == TCP_OPT_NOP) {
            i++;
            continue;
        }
        size_t opt_len = tcp[i + 1];
        if (opt_len < 2 || opt_len > hlen - i) {
            return;
        }
        if (tcp[i] == TCP_OPT_MSS && opt_len == 4) {
            uint8_t word[4], *value = tcp + i + 2;
            if (get_be16(value) != plain_mss(l4->is_ipv6)) {
                return;
            }
            /* An option at an odd offset lies across two words of the sum. */
            size_t at = (i + 2) & ~(size_t)1, n = (i & 1) == 0 ? 2 : 4;
            if (at + n > l4->end - l4->start) {
                return;
            }
            memcpy(word, tcp + at, n);
            put_be16(value, OFFLOAD_MSS);
            for (size_t k = 0; k < n; k += 2) {
                adjust_sum(tcp + 16, get_be16(word + k), get_be16(tcp + at + k));
            }
            return;
        }
        i += opt_len;
    }
}

int offload_from_guest(uint8_t *frame, size_t len, const struct net_hdr *hdr, uint32_t rx_caps)
{
    bool partial = hdr != NULL && (hdr->flags & NET_HDR_NEEDS_CSUM) != 0;
    struct l4 l4;

    if (partial) {
        size_t at = (size_t)hdr->csum_start + hdr->csum_offset;
        if (!range_fits(at, 2, len)) {
            return -EBADMSG;
        }
        /* The field holds the pseudo header's sum, which is part of what is added up. */
        uint32_t sum = sum16(frame + hdr->csum_start, len - hdr->csum_start, 0);
        uint16_t csum = (uint16_t)~sum;
        put_be16(frame + at, csum == 0 ? 0xffff : csum);
    }
    if (find_l4(frame, len, &l4) && l4.proto == IP_TCP &&
        (rx_caps & (l4.is_ipv6 ? NET_CAP_RX_TSO6 : NET_CAP_RX_TSO4)) != 0) {
        raise_mss(frame, &l4);
    }
    return 0;
}

enum offload_verdict offload_to_guest(uint8_t *frame, size_t len, uint32_t rx_caps,
                                      struct net_hdr *ret_hdr)
{
    struct net_hdr hdr = {0};
    struct l4 l4;
    bool is_large = len > OFFLOAD_MTU + ETH_LEN;

    if (!find_l4(frame, len, &l4)) {
        *ret_hdr = hdr;
        return is_large ? OFFLOAD_FRAGMENT : OFFLOAD_SEND;
    }
    if (!is_large) {
        hdr.flags = (rx_caps & NET_CAP_RX_CSUM) != 0 ? NET_HDR_DATA_VALID : 0;
        *ret_hdr = hdr;
        return OFFLOAD_SEND;
    }
    if (l4.proto == IP_UDP) {
        *ret_hdr = hdr;
        return OFFLOAD_FRAGMENT;
    }
    uint32_t need = NET_CAP_RX_CSUM | (l4.is_ipv6 ? NET_CAP_RX_TSO6 : NET_CAP_RX_TSO4);
    size_t hlen = (size_t)(frame[l4.start + 12] >> 4) * 4;
    if ((rx_caps & need) != need || hlen < 20 || hlen > l4.end - l4.start) {
        return OFFLOAD_DROP;
    }
    put_be16(frame + l4.start + 16, (uint16_t)pseudo_sum(frame, &l4));
    hdr.flags = NET_HDR_NEEDS_CSUM;
    hdr.csum_start = (uint16_t)l4.start;
    hdr.csum_offset = 16;
    hdr.gso_type = l4.is_ipv6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4;
    hdr.gso_size = plain_mss(l4.is_ipv6);
    hdr.hdr_len = (uint16_t)(l4.start + hlen);
    *ret_hdr = hdr;
    return OFFLOAD_SEND;
}

static void fragment_ipv4(const uint8_t *frame, size_t len, uint8_t *out, offload_emit_fn *emit,
                          void *opaque)
{
    const uint8_t *ip = frame + ETH_LEN;
    size_t hlen = (size_t)(ip[0] & 15) * 4, total = get_be16(ip + 2);
    if (hlen < 20 || total > len - ETH_LEN || total <= hlen) {
        return;
    }
    uint16_t old = get_be16(ip + 6);
    size_t step = (OFFLOAD_MTU - hlen) & ~(size_t)7;
    for (size_t off = 0; off < total - hlen; off += step) {
        size_t n = MIN(step, total - hlen - off);
        bool is_last = off + n == total - hlen;
        uint8_t *h = out + ETH_LEN;
        memcpy(out, frame, ETH_LEN + hlen);
        memcpy(h + hlen, ip + hlen + off, n);
        put_be16(h + 2, (uint16_t)(hlen + n));
        uint16_t field = (uint16_t)((old & 0x1fff) + off / 8);
        if (!is_last || (old & FRAG_MORE) != 0) {
            field |= FRAG_MORE;
        }
        put_be16(h + 6, field);
        put_be16(h + 10, 0);
        put_be16(h + 10, (uint16_t)~sum16(h, hlen, 0));
        emit(opaque, out, ETH_LEN + hlen + n);
    }
}

static void fragment_ipv6(const uint8_t *frame, size_t len, uint32_t id, uint8_t *out,
                          offload_emit_fn *emit, void *opaque)
{
    const uint8_t *ip = frame + ETH_LEN;
    size_t body = get_be16(ip + 4);
    const size_t step = (OFFLOAD_MTU - IPV6_LEN - 8) & ~(size_t)7;
    if (body > len - ETH_LEN - IPV6_LEN || ip[6] == IP6_FRAGMENT) {
        return;
    }
    for (size_t off = 0; off < body; off += step) {
        size_t n = MIN(step, body - off);
        uint8_t *h = out + ETH_LEN, *f = h + IPV6_LEN;
        memcpy(out, frame, ETH_LEN + IPV6_LEN);
        put_be16(h + 4, (uint16_t)(n + 8));
        h[6] = IP6_FRAGMENT;
        f[0] = ip[6];
        f[1] = 0;
        put_be16(f + 2, (uint16_t)(off | (off + n < body ? 1 : 0)));
        put_be32(f + 4, id);
        memcpy(f + 8, ip + IPV6_LEN + off, n);
        emit(opaque, out, ETH_LEN + IPV6_LEN + 8 + n);
    }
}

void offload_fragment(const uint8_t *frame, size_t len, uint32_t id, uint8_t *scratch,
                      offload_emit_fn *emit, void *opaque)
{
    if (len < ETH_LEN + 20) {
        return;
    }
    uint16_t type = get_be16(frame + 12);
    if (type == ETH_IPV4) {
        fragment_ipv4(frame, len, scratch, emit, opaque);
    } else if (type == ETH_IPV6 && len >= ETH_LEN + IPV6_LEN) {
        fragment_ipv6(frame, len, id, scratch, emit, opaque);
    }
}
