/*
 * Offloads against a plain reference: full checksums are computed anew after every change, and
 * fragments are put together again.
 */
#include "net/helper/offload.h"

#include "base/bytes.h"
#include "base/ckd.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define ALL_RX (NET_CAP_RX_CSUM | NET_CAP_RX_TSO4 | NET_CAP_RX_TSO6)

static uint8_t frame[NET_FRAME_MAX];

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
                assert_int_equal(offload_from_guest(frame, p.len, &hdr, 0), 0);
                assert_int_equal(ref_l4(&p), 0xffff);
            }
        }
    }
    struct net_hdr outside = {.flags = NET_HDR_NEEDS_CSUM, .csum_start = 50, .csum_offset = 9};
    assert_int_equal(offload_from_guest(frame, 60, &outside, 0), -EBADMSG);
}

static void raises_mss(void **state)
{
    (void)state;
    static const struct {
        uint8_t options[12];
        bool v6, raised;
    } cases[] = {
        {{2, 4, 0x05, 0xb4, 4, 2, 1, 3, 3, 7, 0, 0}, false, true},
        {{1, 2, 4, 0x05, 0xb4, 4, 2, 1, 3, 3, 7, 0}, false, true}, /* odd offset */
        {{1, 1, 1, 1, 1, 1, 1, 2, 4, 0x05, 0xb4, 0}, false, true},
        {{2, 4, 0x05, 0xa0, 1, 1, 1, 1, 1, 1, 1, 1}, true, true},
        {{2, 4, 0x05, 0xb4, 1, 1, 1, 1, 1, 1, 1, 1}, true, false}, /* not this MTU's */
        {{2, 4, 0x02, 0x18, 1, 1, 1, 1, 1, 1, 1, 1}, false, false},
        {{0, 2, 4, 0x05, 0xb4, 0, 0, 0, 0, 0, 0, 0}, false, false}, /* after the end */
        {{8, 0, 2, 4, 0x05, 0xb4, 0, 0, 0, 0, 0, 0}, false, false}, /* length 0 */
        {{8, 200, 2, 4, 0x05, 0xb4, 0, 0, 0, 0, 0, 0}, false, false},
        {{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2}, false, false}, /* cut off */
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct packet p = build(cases[i].v6, 6, cases[i].options, 12, 5);
        static uint8_t before[200];
        memcpy(before, frame, p.len);
        assert_int_equal(offload_from_guest(frame, p.len, NULL, ALL_RX), 0);
        assert_int_equal(ref_l4(&p), 0xffff);
        assert_int_equal(memcmp(before, frame, p.len) != 0, cases[i].raised);
        /* A driver that takes no TSO packets keeps its MSS. */
        memcpy(frame, before, p.len);
        assert_int_equal(offload_from_guest(frame, p.len, NULL, NET_CAP_RX_CSUM), 0);
        assert_memory_equal(before, frame, p.len);
    }
}

static void describes_large_segments(void **state)
{
    (void)state;
    struct net_hdr hdr;
    for (int v6 = 0; v6 < 2; v6++) {
        struct packet p = build(v6 != 0, 6, NULL, 0, 20000);
        assert_int_equal(offload_to_guest(frame, p.len, NET_CAP_RX_CSUM, &hdr), OFFLOAD_DROP);
        assert_int_equal(offload_to_guest(frame, p.len, ALL_RX, &hdr), OFFLOAD_SEND);
        assert_int_equal(hdr.flags, NET_HDR_NEEDS_CSUM);
        assert_int_equal(hdr.gso_type, v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4);
        assert_int_equal(hdr.gso_size, v6 ? 1440 : 1460);
        assert_int_equal(hdr.csum_start, p.l4);
        assert_int_equal(hdr.hdr_len, p.l4 + 20);
        /* What the header says leads back to a right checksum. */
        assert_int_equal(offload_from_guest(frame, p.len, &hdr, 0), 0);
        assert_int_equal(ref_l4(&p), 0xffff);
    }
    struct packet p = build(false, 6, NULL, 0, 100);
    assert_int_equal(offload_to_guest(frame, p.len, NET_CAP_RX_CSUM, &hdr), OFFLOAD_SEND);
    assert_int_equal(hdr.flags, NET_HDR_DATA_VALID);
    assert_int_equal(offload_to_guest(frame, p.len, 0, &hdr), OFFLOAD_SEND);
    assert_int_equal(hdr.flags, 0);
}

struct reassembly {
    uint8_t body[66000];
    size_t len;
    bool v6, last;
};

static void collect(void *opaque, const uint8_t *f, size_t len)
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
        assert_int_equal(offload_to_guest(frame, p.len, ALL_RX, &hdr), OFFLOAD_FRAGMENT);
        offload_fragment(frame, p.len, 77, scratch, collect, &r);
        assert_true(r.last);
        assert_int_equal(r.len, p.len - p.l4);
        assert_memory_equal(r.body, frame + p.l4, r.len);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finishes_checksums),
        cmocka_unit_test(raises_mss),
        cmocka_unit_test(describes_large_segments),
        cmocka_unit_test(cuts_fragments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
