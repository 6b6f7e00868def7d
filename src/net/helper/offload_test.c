/*
 * Offloads against a plain reference: full checksums are computed anew after every change, and
 * fragments are put together again.
 */
#include "net/helper/offload.h"

#include "base/bytes.h"
#include "base/ckd.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define ALL_RX (NET_CAP_RX_CSUM | NET_CAP_RX_TSO4 | NET_CAP_RX_TSO6)

static uint8_t frame[NET_FRAME_MAX];
static struct offload o;
static uint16_t segment_bytes;

static uint32_t ref_sum(const uint8_t *p, size_t len)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < len; i++) {
        sum += (uint32_t)p[i] << ((i & 1) == 0 ? 8 : 0);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

struct packet {
    bool v6;
    uint8_t proto;
    size_t l4, len; /* offset of the TCP or UDP header, bytes of the frame */
};

/* The sum over pseudo header and packet; 0xffff when the checksum is right. */
static uint32_t ref_l4(const struct packet *p)
{
    uint8_t pseudo[40] = {0};
    size_t n = p->v6 ? 32 : 8;
    memcpy(pseudo, frame + 14 + (p->v6 ? 8 : 12), n);
    pseudo[n + 1] = p->proto;
    put_be16(pseudo + n + 2, (uint16_t)(p->len - p->l4));
    uint32_t sum = ref_sum(pseudo, n + 4) + ref_sum(frame + p->l4, p->len - p->l4);
    return (sum & 0xffff) + (sum >> 16);
}

static struct packet build(bool v6, uint8_t proto, const uint8_t *options, size_t options_len,
                           size_t payload)
{
    size_t ip_len = v6 ? 40 : 20, l4 = 14 + ip_len;
    size_t hlen = proto == 6 ? 20 + options_len : 8;
    uint8_t *ip = frame + 14;
    for (size_t i = 0; i < l4 + hlen + payload; i++) {
        frame[i] = (uint8_t)(i * 7 + 3);
    }
    put_be16(frame + 12, v6 ? 0x86dd : 0x0800);
    if (v6) {
        ip[0] = 0x60;
        put_be16(ip + 4, (uint16_t)(hlen + payload));
        ip[6] = proto;
    } else {
        ip[0] = 0x45;
        put_be16(ip + 2, (uint16_t)(ip_len + hlen + payload));
        put_be16(ip + 6, 0);
        ip[9] = proto;
    }
    uint8_t *h = frame + l4;
    size_t at = proto == 6 ? 16 : 6;
    if (proto == 6) {
        h[12] = (uint8_t)(hlen / 4 << 4);
        h[13] = options_len != 0 ? 0x02 : 0x10;
        if (options_len != 0) {
            memcpy(h + 20, options, options_len);
        }
    } else {
        put_be16(h + 4, (uint16_t)(hlen + payload));
    }
    struct packet p = {v6, proto, l4, l4 + hlen + payload};
    put_be16(h + at, 0);
    put_be16(h + at, (uint16_t)~ref_l4(&p));
    assert_int_equal(ref_l4(&p), 0xffff);
    return p;
}

static void finishes_checksums(void **state)
{
    (void)state;
    for (int v6 = 0; v6 < 2; v6++) {
        for (int tcp = 0; tcp < 2; tcp++) {
            for (size_t payload = 0; payload < 4; payload++) {
                struct packet p = build(v6 != 0, tcp ? 6 : 17, NULL, 0, payload);
                uint8_t *sum = frame + p.l4 + (tcp ? 16 : 6);
                struct net_hdr hdr = {.flags = NET_HDR_NEEDS_CSUM,
                                      .csum_start = (uint16_t)p.l4,
                                      .csum_offset = tcp ? 16 : 6};
                /* The driver leaves the pseudo header's sum in the field. */
                put_be16(sum, 0);
                uint32_t without = ref_sum(frame + p.l4, p.len - p.l4);
                uint32_t pseudo = ref_l4(&p) + (uint16_t)~without;
                put_be16(sum, (uint16_t)((pseudo & 0xffff) + (pseudo >> 16)));
                assert_int_equal(offload_from_guest(&o, frame, p.len, &hdr, &segment_bytes),
                                 OFFLOAD_SEND);
                assert_int_equal(ref_l4(&p), 0xffff);
            }
        }
    }
    struct net_hdr outside = {.flags = NET_HDR_NEEDS_CSUM, .csum_start = 50, .csum_offset = 9};
    assert_int_equal(offload_from_guest(&o, frame, 60, &outside, &segment_bytes), OFFLOAD_DROP);
}

static void swap_ends(bool v6, size_t l4)
{
    uint8_t tmp[16], *ip = frame + 14;
    size_t n = v6 ? 16 : 4, at = v6 ? 8 : 12;
    memcpy(tmp, ip + at, n);
    memmove(ip + at, ip + at + n, n);
    memcpy(ip + at + n, tmp, n);
    memcpy(tmp, frame + l4, 2);
    memmove(frame + l4, frame + l4 + 2, 2);
    memcpy(frame + l4 + 2, tmp, 2);
}

static void raises_mss(void **state)
{
    (void)state;
    static const struct {
        uint8_t options[12];
        bool v6, raised;
        uint16_t mss; /* then used towards the guest */
    } cases[] = {
        {{2, 4, 0x05, 0xb4, 4, 2, 1, 3, 3, 7, 0, 0}, false, true, 1460},
        {{1, 2, 4, 0x05, 0xb4, 4, 2, 1, 3, 3, 7, 0}, false, true, 1460}, /* odd offset */
        {{1, 1, 1, 1, 1, 1, 1, 2, 4, 0x05, 0xb4, 0}, false, true, 1460},
        {{2, 4, 0x05, 0xa0, 1, 1, 1, 1, 1, 1, 1, 1}, true, true, 1440},
        {{2, 4, 0x23, 0x00, 1, 1, 1, 1, 1, 1, 1, 1}, true, true, 1440}, /* 8960: jumbo frames */
        {{2, 4, 0x02, 0x18, 1, 1, 1, 1, 1, 1, 1, 1}, false, true, 536},
        {{2, 4, 0x00, 0x00, 1, 1, 1, 1, 1, 1, 1, 1}, true, true, 88},
        {{2, 4, 0x05, 0xb4, 1, 1, 1, 1, 1, 1, 1, 1}, false, true, 1460},  /* again the usual */
        {{0, 2, 4, 0x05, 0xb4, 0, 0, 0, 0, 0, 0, 0}, false, false, 1460}, /* after the end */
        {{8, 0, 2, 4, 0x05, 0xb4, 0, 0, 0, 0, 0, 0}, false, false, 1460}, /* length 0 */
        {{8, 200, 2, 4, 0x05, 0xb4, 0, 0, 0, 0, 0, 0}, false, false, 1460},
        {{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2}, false, false, 1460}, /* cut off */
    };
    o.rx_caps = ALL_RX;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct packet p = build(cases[i].v6, 6, cases[i].options, 12, 5);
        static uint8_t before[200];
        struct net_hdr hdr;
        memcpy(before, frame, p.len);
        assert_int_equal(offload_from_guest(&o, frame, p.len, NULL, &segment_bytes),
                         OFFLOAD_SEND);
        assert_int_equal(ref_l4(&p), 0xffff);
        assert_int_equal(memcmp(before, frame, p.len) != 0, cases[i].raised);

        p = build(cases[i].v6, 6, NULL, 0, 4000);
        swap_ends(p.v6, p.l4);
        assert_int_equal(offload_to_guest(&o, frame, p.len, &hdr), OFFLOAD_SEND);
        assert_int_equal(hdr.gso_size, cases[i].mss);
    }
}

static void describes_large_segments(void **state)
{
    (void)state;
    struct net_hdr hdr;
    for (int v6 = 0; v6 < 2; v6++) {
        struct packet p = build(v6 != 0, 6, NULL, 0, 20000);
        o.rx_caps = ALL_RX;
        assert_int_equal(offload_to_guest(&o, frame, p.len, &hdr), OFFLOAD_SEND);
        assert_int_equal(hdr.flags, NET_HDR_NEEDS_CSUM);
        assert_int_equal(hdr.gso_type, v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4);
        assert_int_equal(hdr.gso_size, v6 ? 1440 : 1460);
        assert_int_equal(hdr.csum_start, p.l4);
        assert_int_equal(hdr.hdr_len, p.l4 + 20);
        /* What the header says leads back to a right checksum. */
        assert_int_equal(offload_from_guest(&o, frame, p.len, &hdr, &segment_bytes),
                         OFFLOAD_SEND);
        assert_int_equal(ref_l4(&p), 0xffff);
    }
    struct packet p = build(false, 6, NULL, 0, 100);
    assert_int_equal(offload_to_guest(&o, frame, p.len, &hdr), OFFLOAD_SEND);
    assert_int_equal(hdr.flags, NET_HDR_DATA_VALID);
    o.rx_caps = 0;
    assert_int_equal(offload_to_guest(&o, frame, p.len, &hdr), OFFLOAD_SEND);
    assert_int_equal(hdr.flags, 0);
}

struct segments {
    uint8_t sent[66000]; /* the frame before it was cut */
    size_t l4, head, len, seen, max;
    bool v6;
};

static void check_segment(void *opaque, uint8_t *piece, size_t len)
{
    struct segments *s = opaque;
    size_t n = len - s->head;
    bool is_last = s->head + s->seen + n == s->len;
    assert_true(n > 0 && len <= s->max);
    assert_memory_equal(piece + s->head, s->sent + s->head + s->seen, n);
    assert_int_equal(get_be32(piece + s->l4 + 4), get_be32(s->sent + s->l4 + 4) + s->seen);
    assert_int_equal(piece[s->l4 + 13], is_last ? 0x19 : 0x10); /* FIN, PSH only on the last */
    if (!s->v6) {
        assert_int_equal(ref_sum(piece + 14, 20), 0xffff);
        assert_int_equal(get_be16(piece + 16) + 14u, len);
    }
    struct packet p = {s->v6, 6, s->l4, len};
    memcpy(frame, piece, len);
    assert_int_equal(ref_l4(&p), 0xffff);
    s->seen += n;
}

static void cuts_segments(void **state)
{
    (void)state;
    static struct segments s;
    uint8_t scratch[OFFLOAD_MTU + 14];
    struct net_hdr hdr;
    o.rx_caps = NET_CAP_RX_CSUM;
    for (int v6 = 0; v6 < 2; v6++) {
        for (size_t n = 1461; n < 40000; n += 7001) {
            struct packet p = build(v6 != 0, 6, NULL, 0, n);
            frame[p.l4 + 13] = 0x19;
            s = (struct segments){.v6 = v6 != 0,
                                  .l4 = p.l4,
                                  .head = p.l4 + 20,
                                  .len = p.len,
                                  .max = sizeof(scratch)};
            memcpy(s.sent, frame, p.len);
            assert_int_equal(offload_to_guest(&o, frame, p.len, &hdr), OFFLOAD_SEGMENT);
            offload_segment(s.sent, p.len, hdr.gso_size, scratch, sizeof(scratch),
                            check_segment, &s);
            assert_int_equal(s.head + s.seen, s.len);
        }
    }
    /* From the guest: libslirp takes no IPv6 packet above its MTU. */
    static uint8_t large[OFFLOAD_STACK_MTU + 14];
    struct packet p = build(true, 6, NULL, 0, 64000);
    frame[p.l4 + 13] = 0x19;
    assert_int_equal(offload_from_guest(&o, frame, p.len, NULL, &segment_bytes),
                     OFFLOAD_SEGMENT);
    s = (struct segments){
        .v6 = true, .l4 = p.l4, .head = p.l4 + 20, .len = p.len, .max = sizeof(large)};
    memcpy(s.sent, frame, p.len);
    offload_segment(s.sent, p.len, segment_bytes, large, sizeof(large), check_segment, &s);
    assert_int_equal(s.head + s.seen, s.len);
}

struct reassembly {
    uint8_t body[66000];
    size_t len;
    bool v6, last;
};

static void collect(void *opaque, uint8_t *f, size_t len)
{
    struct reassembly *r = opaque;
    const uint8_t *ip = f + 14;
    assert_true(len <= OFFLOAD_MTU + 14);
    assert_false(r->last);
    if (r->v6) {
        assert_int_equal(ip[6], 44);
        assert_int_equal(get_be16(ip + 4) + 40u + 14u, len);
        assert_int_equal(get_be16(ip + 42) & 0xfff8, r->len);
        r->last = (get_be16(ip + 42) & 1) == 0;
        memcpy(r->body + r->len, ip + 48, len - 14 - 48);
        r->len += len - 14 - 48;
    } else {
        assert_int_equal(get_be16(ip + 2) + 14u, len);
        assert_int_equal((get_be16(ip + 6) & 0x1fff) * 8u, r->len);
        assert_int_equal(ref_sum(ip, 20), 0xffff);
        r->last = (get_be16(ip + 6) & 0x2000) == 0;
        memcpy(r->body + r->len, ip + 20, len - 34);
        r->len += len - 34;
    }
}

static void cuts_fragments(void **state)
{
    (void)state;
    static const size_t sizes[] = {1473, 1480, 2960, 2961, 9000, 65000};
    uint8_t scratch[OFFLOAD_MTU + 14];
    for (size_t i = 0; i < ARRAY_LEN(sizes) * 2; i++) {
        static struct reassembly r;
        struct net_hdr hdr;
        r = (struct reassembly){.v6 = i % 2 != 0};
        struct packet p = build(r.v6, 17, NULL, 0, sizes[i / 2]);
        assert_int_equal(offload_to_guest(&o, frame, p.len, &hdr), OFFLOAD_FRAGMENT);
        offload_fragment(frame, p.len, 77, scratch, collect, &r);
        assert_true(r.last);
        assert_int_equal(r.len, p.len - p.l4);
        assert_memory_equal(r.body, frame + p.l4, r.len);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finishes_checksums),       cmocka_unit_test(raises_mss),
        cmocka_unit_test(describes_large_segments), cmocka_unit_test(cuts_segments),
        cmocka_unit_test(cuts_fragments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
