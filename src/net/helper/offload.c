/* See offload.h. */
#include "net/helper/offload.h"

#include "base/bytes.h"
#include "base/ckd.h"

#include <string.h>

#define ETH_LEN         14
#define ETH_IPV4        0x0800
#define ETH_IPV6        0x86dd
#define IPV6_LEN        40
#define IP_TCP          6
#define IP_UDP          17
#define IP6_FRAGMENT    44
#define TCP_FIN         0x01
#define TCP_SYN         0x02
#define TCP_PSH         0x08
#define TCP_OPT_END     0
#define TCP_OPT_NOP     1
#define TCP_OPT_MSS     2
#define OFFLOAD_MSS_MIN 88 /* bytes; a smaller MSS from the guest is taken as this */
#define FRAG_MORE       0x2000
#define FRAG_DF         0x4000

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

/* Names a connection, from either side; never 0. */
static uint32_t conn_hash(const uint8_t *frame, const struct l4 *l4, bool from_guest)
{
    const uint8_t *ip = frame + ETH_LEN, *tcp = frame + l4->start;
    const uint8_t *peer =
        l4->is_ipv6 ? ip + (from_guest ? 24 : 8) : ip + (from_guest ? 16 : 12);
    uint32_t guest_port = get_be16(tcp + (from_guest ? 0 : 2));
    uint32_t peer_port = get_be16(tcp + (from_guest ? 2 : 0));
    uint32_t h = (guest_port << 16 | peer_port) ^ (l4->is_ipv6 ? 0x5bd1e995u : 0);
    for (unsigned i = 0; i < (l4->is_ipv6 ? 16u : 4u); i += 4) {
        h = (h ^ get_be32(peer + i)) * 0x9e3779b1u;
        h ^= h >> 15;
    }
    return h != 0 ? h : 1;
}

static void mss_note(struct offload *o, uint32_t tag, uint16_t mss, uint16_t usual)
{
    unsigned slot = tag % OFFLOAD_MSS_SLOTS;
    if (mss < usual) {
        o->mss[slot].tag = tag;
        o->mss[slot].mss = MAX(mss, (uint16_t)OFFLOAD_MSS_MIN);
    } else if (o->mss[slot].tag == tag) {
        o->mss[slot].tag = 0;
    }
}

static uint16_t mss_find(const struct offload *o, const uint8_t *frame, const struct l4 *l4)
{
    uint32_t tag = conn_hash(frame, l4, false);
    unsigned slot = tag % OFFLOAD_MSS_SLOTS;
    return o->mss[slot].tag == tag ? o->mss[slot].mss : plain_mss(l4->is_ipv6);
}

/* The MSS option of a SYN: its offset in the frame, 0 if there is none. */
static size_t find_mss(const uint8_t *frame, const struct l4 *l4)
{
    const uint8_t *tcp = frame + l4->start;
    size_t hlen = (size_t)(tcp[12] >> 4) * 4;
    if ((tcp[13] & TCP_SYN) == 0 || hlen > l4->end - l4->start) {
        return 0;
    }
    for (size_t i = 20; i + 1 < hlen && tcp[i] != TCP_OPT_END;) {
        if (tcp[i] == TCP_OPT_NOP) {
            i++;
            continue;
        }
        size_t opt_len = tcp[i + 1];
        if (opt_len < 2 || opt_len > hlen - i) {
            return 0;
        }
        if (tcp[i] == TCP_OPT_MSS && opt_len == 4) {
            return l4->start + i;
        }
        i += opt_len;
    }
    return 0;
}

/* Notes the guest's MSS and tells libslirp the large one in its stead. */
static void raise_mss(struct offload *o, uint8_t *frame, const struct l4 *l4)
{
    uint8_t word[4], *tcp = frame + l4->start;
    size_t option = find_mss(frame, l4);
    if (option == 0) {
        return;
    }
    uint8_t *value = frame + option + 2;
    mss_note(o, conn_hash(frame, l4, true), get_be16(value), plain_mss(l4->is_ipv6));
    /* A value at an odd offset lies across two words of the sum. The option is in the header,
     * whose length is even, so both words are. */
    size_t at = (option + 2 - l4->start) & ~(size_t)1,
           n = (option - l4->start) % 2 == 0 ? 2 : 4;
    memcpy(word, tcp + at, n);
    put_be16(value, OFFLOAD_STACK_MTU - 60);
    for (size_t k = 0; k < n; k += 2) {
        adjust_sum(tcp + 16, get_be16(word + k), get_be16(tcp + at + k));
    }
}

enum offload_verdict offload_from_guest(struct offload *o, uint8_t *frame, size_t len,
                                        const struct net_hdr *hdr, uint16_t *ret_segment)
{
    bool partial = hdr != NULL && (hdr->flags & NET_HDR_NEEDS_CSUM) != 0;
    struct l4 l4;

    if (partial) {
        size_t at = (size_t)hdr->csum_start + hdr->csum_offset;
        if (!range_fits(at, 2, len)) {
            return OFFLOAD_DROP;
        }
        /* The field holds the pseudo header's sum, which is part of what is added up. */
        uint32_t sum = sum16(frame + hdr->csum_start, len - hdr->csum_start, 0);
        uint16_t csum = (uint16_t)~sum;
        put_be16(frame + at, csum == 0 ? 0xffff : csum);
    }
    if (!find_l4(frame, len, &l4) || l4.proto != IP_TCP) {
        return OFFLOAD_SEND;
    }
    raise_mss(o, frame, &l4);
    if (l4.is_ipv6 && l4.end - ETH_LEN > OFFLOAD_STACK_MTU) {
        *ret_segment = OFFLOAD_STACK_MTU / 2;
        return OFFLOAD_SEGMENT;
    }
    return OFFLOAD_SEND;
}

enum offload_verdict offload_to_guest(const struct offload *o, uint8_t *frame, size_t len,
                                      struct net_hdr *ret_hdr)
{
    struct net_hdr hdr = {0};
    struct l4 l4;
    bool is_large = len > OFFLOAD_MTU + ETH_LEN;

    *ret_hdr = hdr;
    if (!find_l4(frame, len, &l4)) {
        return is_large ? OFFLOAD_FRAGMENT : OFFLOAD_SEND;
    }
    hdr.flags = (o->rx_caps & NET_CAP_RX_CSUM) != 0 ? NET_HDR_DATA_VALID : 0;
    if (l4.proto == IP_UDP) {
        ret_hdr->flags = is_large ? 0 : hdr.flags;
        return is_large ? OFFLOAD_FRAGMENT : OFFLOAD_SEND;
    }
    uint32_t need = NET_CAP_RX_CSUM | (l4.is_ipv6 ? NET_CAP_RX_TSO6 : NET_CAP_RX_TSO4);
    size_t hlen = (size_t)(frame[l4.start + 12] >> 4) * 4;
    uint16_t mss = mss_find(o, frame, &l4);
    if (hlen < 20 || hlen > l4.end - l4.start) {
        return OFFLOAD_DROP;
    }
    if (l4.end - l4.start - hlen <= mss) {
        *ret_hdr = hdr;
        return is_large ? OFFLOAD_DROP : OFFLOAD_SEND;
    }
    hdr.gso_size = mss;
    if ((o->rx_caps & need) != need) {
        *ret_hdr = hdr;
        return OFFLOAD_SEGMENT;
    }
    put_be16(frame + l4.start + 16, (uint16_t)pseudo_sum(frame, &l4));
    hdr.flags = NET_HDR_NEEDS_CSUM;
    hdr.csum_start = (uint16_t)l4.start;
    hdr.csum_offset = 16;
    hdr.gso_type = l4.is_ipv6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4;
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

void offload_segment(const uint8_t *frame, size_t len, uint16_t payload, uint8_t *scratch,
                     size_t scratch_len, offload_emit_fn *emit, void *opaque)
{
    struct l4 l4;
    if (!find_l4(frame, len, &l4) || l4.proto != IP_TCP) {
        return;
    }
    size_t hlen = (size_t)(frame[l4.start + 12] >> 4) * 4;
    size_t head = l4.start + hlen, step = payload;
    if (hlen < 20 || head > l4.end || head >= scratch_len) {
        return;
    }
    step = MIN(step, scratch_len - head);
    size_t body = l4.end - head;
    uint32_t seq = get_be32(frame + l4.start + 4);
    uint8_t *ip = scratch + ETH_LEN, *tcp = scratch + l4.start;
    for (size_t off = 0; step > 0 && off < body; off += step) {
        size_t n = MIN(step, body - off);
        struct l4 piece = {l4.is_ipv6, IP_TCP, l4.start, head + n};
        memcpy(scratch, frame, head);
        memcpy(scratch + head, frame + head + off, n);
        put_be32(tcp + 4, seq + (uint32_t)off);
        if (off + n < body) {
            tcp[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
        }
        if (l4.is_ipv6) {
            put_be16(ip + 4, (uint16_t)(hlen + n));
        } else {
            put_be16(ip + 2, (uint16_t)(head - ETH_LEN + n));
            put_be16(ip + 4, (uint16_t)(get_be16(ip + 4) + off / step));
            put_be16(ip + 10, 0);
            put_be16(ip + 10, (uint16_t)~sum16(ip, l4.start - ETH_LEN, 0));
        }
        put_be16(tcp + 16, 0);
        put_be16(tcp + 16, (uint16_t)~sum16(tcp, hlen + n, pseudo_sum(scratch, &piece)));
        emit(opaque, scratch, head + n);
    }
}
