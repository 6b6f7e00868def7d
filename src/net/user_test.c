/*
 * The back end against a fake helper on the other end of the socket: frames both ways, back
 * pressure both ways, offloads, malformed messages, stop and start, the end of the helper.
 */
#include "net/user.h"

#include "base/ckd.h"
#include "net/wire.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

struct rig {
    struct loop *loop;
    struct net_backend *nb;
    int peer;
    /* What the front end saw. */
    unsigned n_rx, n_tx_ready, n_link_down;
    bool rx_full;     /* the guest has no room */
    unsigned stop_at; /* stops the loop when that many events were seen */
    uint8_t last[4000];
    size_t last_len;
    struct net_hdr last_hdr;
    bool last_has_hdr;
};

static void saw_event(struct rig *rig)
{
    if (rig->stop_at > 0 && --rig->stop_at == 0) {
        loop_stop(rig->loop, 0);
    }
}

static int fe_rx(void *opaque, const struct net_hdr *hdr, const struct iovec *iov,
                 unsigned iov_count)
{
    struct rig *rig = opaque;
    assert_int_equal(iov_count, 1);
    if (rig->rx_full) {
        saw_event(rig);
        return -EAGAIN;
    }
    rig->n_rx++;
    rig->last_len = MIN(iov->iov_len, sizeof(rig->last));
    memcpy(rig->last, iov->iov_base, rig->last_len);
    rig->last_has_hdr = hdr != NULL;
    if (hdr != NULL) {
        rig->last_hdr = *hdr;
    }
    saw_event(rig);
    return 0;
}

static void fe_tx_ready(void *opaque)
{
    struct rig *rig = opaque;
    rig->n_tx_ready++;
    saw_event(rig);
}

static void fe_link(void *opaque, bool link_up)
{
    struct rig *rig = opaque;
    rig->n_link_down += link_up ? 0 : 1;
    saw_event(rig);
}

static const struct net_frontend_ops fe_ops = {fe_rx, fe_tx_ready, fe_link};

static void run_until(struct rig *rig, unsigned n_events)
{
    rig->stop_at = n_events;
    loop_run(rig->loop);
}

static int set_up(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    int sv[2];
    assert_non_null(rig);
    assert_int_equal(loop_new(&rig->loop, NULL), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
    assert_int_equal(net_user_new_fd(&rig->nb, rig->loop, sv[0], NULL), 0);
    rig->peer = sv[1];
    rig->nb->fe = &fe_ops;
    rig->nb->fe_opaque = rig;
    rig->nb->ops->start(rig->nb);
    *state = rig;
    return 0;
}

static int tear_down(void **state)
{
    struct rig *rig = *state;
    rig->nb->ops->stop(rig->nb);
    rig->nb->ops->free(rig->nb);
    loop_free(rig->loop);
    if (rig->peer >= 0) {
        close(rig->peer);
    }
    free(rig);
    return 0;
}

static void peer_sends(struct rig *rig, const struct wire_hdr *w, size_t body_len, int fill)
{
    static uint8_t msg[WIRE_MSG_MAX];
    memcpy(msg, w, sizeof(*w));
    memset(msg + sizeof(*w), fill, body_len);
    size_t len = sizeof(*w) + body_len;
    assert_int_equal(send(rig->peer, msg, len, 0), len);
}

static void frames_both_ways(void **state)
{
    struct rig *rig = *state;
    uint8_t a[20], b[40], got[200];
    memset(a, 1, sizeof(a));
    memset(b, 2, sizeof(b));
    const struct iovec iov[] = {{a, sizeof(a)}, {b, sizeof(b)}};
    const struct net_hdr hdr = {.flags = NET_HDR_NEEDS_CSUM,
                                .gso_type = NET_GSO_TCPV4,
                                .gso_size = 30,
                                .hdr_len = 50,
                                .csum_start = 34,
                                .csum_offset = 16};
    assert_int_equal(rig->nb->ops->send(rig->nb, &hdr, iov, 2), 0);
    assert_int_equal(recv(rig->peer, got, sizeof(got), MSG_DONTWAIT), 72);
    enum wire_kind kind;
    struct net_hdr got_hdr;
    bool has;
    assert_int_equal(wire_check(got, 72, &kind, &got_hdr, &has), 0);
    assert_memory_equal(&got_hdr, &hdr, sizeof(hdr));
    assert_memory_equal(got + 12, a, sizeof(a));
    assert_memory_equal(got + 32, b, sizeof(b));

    struct wire_hdr w;
    wire_from_net(&w, &hdr);
    peer_sends(rig, &w, 100, 7);
    wire_from_net(&w, NULL);
    peer_sends(rig, &w, 60, 8);
    run_until(rig, 2);
    assert_int_equal(rig->n_rx, 2);
    assert_int_equal(rig->last_len, 60);
    assert_int_equal(rig->last[0], 8);
    assert_false(rig->last_has_hdr);
}

static void guest_without_room(void **state)
{
    struct rig *rig = *state;
    const struct wire_hdr w = {.kind = WIRE_FRAME};
    for (int i = 0; i < 20; i++) {
        peer_sends(rig, &w, 60, i);
    }
    rig->rx_full = true;
    run_until(rig, 1);
    assert_int_equal(rig->n_rx, 0);
    rig->rx_full = false;
    rig->nb->ops->rx_ready(rig->nb);
    run_until(rig, 20);
    assert_int_equal(rig->n_rx, 20); /* none was lost */
    assert_int_equal(rig->last[0], 19);
}

static void helper_without_room(void **state)
{
    struct rig *rig = *state;
    static uint8_t frame[9000], got[WIRE_MSG_MAX];
    const struct iovec iov = {frame, sizeof(frame)};
    unsigned sent = 0, received = 0;
    while (rig->nb->ops->send(rig->nb, NULL, &iov, 1) == 0) {
        sent++;
        assert_true(sent < 10000);
    }
    assert_int_equal(rig->nb->ops->send(rig->nb, NULL, &iov, 1), -EAGAIN);
    while (recv(rig->peer, got, sizeof(got), MSG_DONTWAIT) > 0) {
        received++;
    }
    assert_int_equal(received, sent);
    run_until(rig, 1);
    assert_int_equal(rig->n_tx_ready, 1);
    assert_int_equal(rig->nb->ops->send(rig->nb, NULL, &iov, 1), 0);
}

static void tells_offloads(void **state)
{
    struct rig *rig = *state;
    uint8_t got[64];
    uint32_t caps;
    const struct wire_hdr w = {.kind = WIRE_FRAME};
    rig->nb->ops->set_offloads(rig->nb, NET_CAP_RX_CSUM);
    rig->nb->ops->set_offloads(rig->nb, NET_CAP_RX_CSUM | NET_CAP_RX_TSO4);
    peer_sends(rig, &w, 60, 0);
    run_until(rig, 1);
    peer_sends(rig, &w, 60, 0);
    run_until(rig, 1); /* by now the kick and EPOLLOUT have had their turn */
    assert_int_equal(recv(rig->peer, got, sizeof(got), MSG_DONTWAIT), 16);
    assert_int_equal(got[0], WIRE_OFFLOADS);
    memcpy(&caps, got + 12, 4);
    assert_int_equal(caps, NET_CAP_RX_CSUM | NET_CAP_RX_TSO4);
}

static void malformed_messages(void **state)
{
    struct rig *rig = *state;
    struct wire_hdr w = {.kind = 77};
    peer_sends(rig, &w, 60, 0);
    w = (struct wire_hdr){.kind = WIRE_OFFLOADS};
    peer_sends(rig, &w, 4, 0);
    w = (struct wire_hdr){.kind = WIRE_FRAME, .gso_type = NET_GSO_TCPV6};
    peer_sends(rig, &w, 60, 0);
    assert_int_equal(send(rig->peer, "x", 1, 0), 1);
    w = (struct wire_hdr){.kind = WIRE_FRAME};
    peer_sends(rig, &w, 60, 3);
    run_until(rig, 1);
    assert_int_equal(rig->n_rx, 1);
    assert_int_equal(rig->last[0], 3);
}

static void stop_and_start(void **state)
{
    struct rig *rig = *state;
    const struct wire_hdr w = {.kind = WIRE_FRAME};
    for (int i = 0; i < 3; i++) {
        peer_sends(rig, &w, 60, i);
    }
    rig->rx_full = true;
    run_until(rig, 1);
    rig->nb->ops->stop(rig->nb);
    rig->nb->ops->rx_ready(rig->nb);
    rig->rx_full = false;
    rig->nb->ops->start(rig->nb);
    run_until(rig, 3);
    assert_int_equal(rig->n_rx, 3);
}

static void helper_goes_away(void **state)
{
    struct rig *rig = *state;
    uint8_t frame[60] = {0};
    const struct iovec iov = {frame, sizeof(frame)};
    const struct wire_hdr w = {.kind = WIRE_FRAME};
    peer_sends(rig, &w, 60, 9);
    close(rig->peer);
    rig->peer = -1;
    run_until(rig, 2); /* the frame, then the link */
    assert_int_equal(rig->n_rx, 1);
    assert_int_equal(rig->n_link_down, 1);
    assert_false(rig->nb->link_up);
    assert_int_equal(rig->nb->ops->send(rig->nb, NULL, &iov, 1), 0);
    rig->nb->ops->stop(rig->nb);
    rig->nb->ops->start(rig->nb);
    rig->nb->ops->rx_ready(rig->nb);
    assert_int_equal(rig->n_link_down, 1);
}

static void helper_goes_away_while_stalled(void **state)
{
    struct rig *rig = *state;
    const struct wire_hdr w = {.kind = WIRE_FRAME};
    peer_sends(rig, &w, 60, 9);
    rig->rx_full = true;
    run_until(rig, 1);
    close(rig->peer);
    rig->peer = -1;
    run_until(rig, 1);
    assert_int_equal(rig->n_link_down, 1);
}

static void helper_says_why(void **state)
{
    struct rig *rig = *state;
    const struct wire_hdr w = {.kind = WIRE_FAILED};
    peer_sends(rig, &w, 10, 'x');
    run_until(rig, 1);
    assert_int_equal(rig->n_link_down, 1);
}

static void no_helper(void **state)
{
    (void)state;
    struct net_backend *nb;
    struct err err = {0};
    struct loop *loop;
    assert_int_equal(loop_new(&loop, NULL), 0);
    struct net_user_params params = {.loop = loop, .helper_path = "/nonexistent/viv-net"};
    assert_int_equal(net_user_new(&nb, &params, &err), -ENOENT);
    assert_int_equal(err.code, ERR_HELPER);
    assert_non_null(strstr(err.text, "/nonexistent/viv-net"));
    loop_free(loop);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(frames_both_ways),    TEST(guest_without_room),
        TEST(helper_without_room), TEST(tells_offloads),
        TEST(malformed_messages),  TEST(stop_and_start),
        TEST(helper_goes_away),    TEST(helper_goes_away_while_stalled),
        TEST(helper_says_why),     cmocka_unit_test(no_helper),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
