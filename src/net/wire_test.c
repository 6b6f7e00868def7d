/* Messages: which are accepted, which are refused, and that offload fields survive. */
#include "net/wire.h"

#include "base/ckd.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct net_hdr gso_hdr = {
    .flags = NET_HDR_NEEDS_CSUM,
    .gso_type = NET_GSO_TCPV4 | NET_GSO_ECN,
    .hdr_len = 54,
    .gso_size = 1460,
    .csum_start = 34,
    .csum_offset = 16,
};

static uint8_t msg[WIRE_MSG_MAX + 16];

static int check(const struct wire_hdr *w, size_t body, struct net_hdr *ret_hdr, bool *ret_has)
{
    enum wire_kind kind;
    memcpy(msg, w, sizeof(*w));
    int r = wire_check(msg, sizeof(*w) + body, &kind, ret_hdr, ret_has);
    if (r == 0) {
        assert_int_equal(kind, w->kind);
    }
    return r;
}

static void round_trip(void **state)
{
    (void)state;
    struct wire_hdr w;
    struct net_hdr got;
    bool has;
    wire_from_net(&w, &gso_hdr);
    assert_int_equal(check(&w, 5000, &got, &has), 0);
    assert_true(has);
    assert_memory_equal(&got, &gso_hdr, sizeof(got));
    wire_from_net(&w, NULL);
    assert_int_equal(check(&w, 60, &got, &has), 0);
    assert_false(has);
}

static void bad_messages(void **state)
{
    (void)state;
    struct net_hdr got;
    bool has;
    static const struct {
        struct wire_hdr w;
        size_t body;
    } bad[] = {
        {{.kind = 9}, 60},
        {{.kind = WIRE_FRAME}, 13},
        {{.kind = WIRE_FRAME}, NET_FRAME_MAX + 1},
        {{.kind = WIRE_FRAME, .flags = 4}, 60},
        {{.kind = WIRE_FRAME, .flags = 1, .csum_start = 34, .csum_offset = 25}, 60},
        {{.kind = WIRE_FRAME, .flags = 1, .csum_start = 65535, .csum_offset = 65535}, 60},
        {{.kind = WIRE_FRAME, .gso_type = NET_GSO_ECN}, 60},
        {{.kind = WIRE_FRAME, .gso_type = 3, .flags = 1, .gso_size = 100}, 60},
        {{.kind = WIRE_FRAME, .gso_type = 1, .flags = 1, .gso_size = 0}, 60},
        {{.kind = WIRE_FRAME, .gso_type = 1, .flags = 0, .gso_size = 100}, 60},
        {{.kind = WIRE_FRAME, .gso_type = 1, .flags = 1, .gso_size = 100, .hdr_len = 61}, 60},
        {{.kind = WIRE_OFFLOADS}, 3},
        {{.kind = WIRE_READY}, 1},
        {{.kind = WIRE_FAILED}, WIRE_TEXT_MAX + 1},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(check(&bad[i].w, bad[i].body, &got, &has), -EBADMSG);
    }
    enum wire_kind kind;
    assert_int_equal(wire_check(msg, 11, &kind, &got, &has), -EBADMSG);
    assert_int_equal(wire_check(msg, 0, &kind, &got, &has), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(bad_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
