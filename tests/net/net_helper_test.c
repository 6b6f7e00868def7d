/*
 * The real helper behind the real back end, with a guest of a few packets: DHCP lease, a UDP
 * exchange with a server on the host's loopback, a forwarded port, a taken port, a killed
 * helper.
 *
 *     net_helper_test VIV_NET
 */
#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "net/user.h"

#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include <cmocka.h>

#define DEADLINE_S 30

static const char *helper_path;
static const uint8_t mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};
static const uint8_t gateway_mac[6] = {0x52, 0x55, 10, 0, 2, 2};

struct guest;
typedef bool frame_fn(struct guest *g, const uint8_t *frame, size_t len);

struct guest {
    struct loop *loop;
    struct net_backend *nb;
    int alarm_fd;
    struct loop_watch *alarm_watch, *peer_watch;
    frame_fn *wants; /* returns true when the awaited frame came */
    bool link_down, late;
    uint32_t lease;
    uint16_t peer_port; /* of the host's server */
    uint8_t got[2000];
    size_t got_len;
};

static void send_frame(struct guest *g, uint8_t *frame, size_t len)
{
    struct iovec iov = {frame, len};
    assert_int_equal(g->nb->ops->send(g->nb, NULL, &iov, 1), 0);
}

static uint16_t checksum(const uint8_t *p, size_t len)
{
    uint32_t sum = 0;
    for (size_t i = 0; i + 1 < len; i += 2) {
        sum += get_be16(p + i);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t) ~((sum & 0xffff) + (sum >> 16));
}

static void send_udp(struct guest *g, const uint8_t *to_mac, uint32_t src, uint32_t dst,
                     uint16_t src_port, uint16_t dst_port, const void *data, size_t len)
{
    uint8_t f[14 + 20 + 8 + 1400] = {0}, *ip = f + 14, *udp = f + 34;
    memcpy(f, to_mac, 6);
    memcpy(f + 6, mac, 6);
    put_be16(f + 12, 0x0800);
    ip[0] = 0x45;
    put_be16(ip + 2, (uint16_t)(28 + len));
    ip[8] = 64;
    ip[9] = 17;
    put_be32(ip + 12, src);
    put_be32(ip + 16, dst);
    put_be16(ip + 10, checksum(ip, 20));
    put_be16(udp, src_port);
    put_be16(udp + 2, dst_port);
    put_be16(udp + 4, (uint16_t)(8 + len));
    memcpy(udp + 8, data, len);
    send_frame(g, f, 42 + len);
}

static bool answer_arp(struct guest *g, const uint8_t *f, size_t len)
{
    if (len < 42 || get_be16(f + 12) != 0x0806 || get_be16(f + 20) != 1 ||
        get_be32(f + 38) != g->lease) {
        return false;
    }
    uint8_t reply[60] = {0};
    memcpy(reply, f + 6, 6);
    memcpy(reply + 6, mac, 6);
    memcpy(reply + 12, f + 12, 8);
    put_be16(reply + 20, 2);
    memcpy(reply + 22, mac, 6);
    put_be32(reply + 28, g->lease);
    memcpy(reply + 32, f + 22, 10);
    send_frame(g, reply, sizeof(reply));
    return true;
}

static int fe_rx(void *opaque, const struct net_hdr *hdr, const struct iovec *iov,
                 unsigned iov_count)
{
    struct guest *g = opaque;
    (void)hdr;
    (void)iov_count;
    if (!answer_arp(g, iov->iov_base, iov->iov_len) && g->wants != NULL &&
        g->wants(g, iov->iov_base, iov->iov_len)) {
        loop_stop(g->loop, 0);
    }
    return 0;
}

static void fe_tx_ready(void *opaque)
{
    (void)opaque;
}

static void fe_link(void *opaque, bool link_up)
{
    struct guest *g = opaque;
    g->link_down = !link_up;
    loop_stop(g->loop, 0);
}

static const struct net_frontend_ops fe_ops = {fe_rx, fe_tx_ready, fe_link};

static void on_alarm(void *opaque, uint32_t events)
{
    struct guest *g = opaque;
    (void)events;
    g->late = true;
    loop_stop(g->loop, 0);
}

static void await(struct guest *g, frame_fn *wants)
{
    const struct itimerspec limit = {.it_value.tv_sec = DEADLINE_S};
    timerfd_settime(g->alarm_fd, 0, &limit, NULL);
    g->wants = wants;
    loop_run(g->loop);
    assert_false(g->late);
}

static void guest_up(struct guest *g, const struct hostfwd_rule *rules, size_t n_rules)
{
    struct err err = {0};
    *g = (struct guest){.alarm_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)};
    assert_int_equal(loop_new(&g->loop, &err), 0);
    struct net_user_params params = {
        .loop = g->loop, .helper_path = helper_path, .rules = rules, .n_rules = n_rules};
    memcpy(params.mac, mac, sizeof(mac));
    if (net_user_new(&g->nb, &params, &err) < 0) {
        fail_msg("%s", err.text);
    }
    g->nb->fe = &fe_ops;
    g->nb->fe_opaque = g;
    g->nb->ops->start(g->nb);
    assert_int_equal(loop_watch_fd(g->loop, g->alarm_fd, EPOLLIN, on_alarm, g, &g->alarm_watch),
                     0);
}

static void guest_down(struct guest *g)
{
    g->nb->ops->stop(g->nb);
    g->nb->ops->free(g->nb);
    loop_unwatch(g->peer_watch);
    loop_unwatch(g->alarm_watch);
    loop_free(g->loop);
    close(g->alarm_fd);
}

/* ---- DHCP: RFC 2131, RFC 2132 ---- */

#define DHCP_COOKIE 0x63825363

static bool is_udp_to(const uint8_t *f, size_t len, uint16_t port)
{
    return len >= 42 && get_be16(f + 12) == 0x0800 && f[23] == 17 && get_be16(f + 36) == port;
}

static const uint8_t *dhcp_option(const struct guest *g, uint8_t code, uint8_t len)
{
    for (size_t i = 240; i + 1 < g->got_len && g->got[i] != 255;) {
        if (g->got[i] == 0) {
            i++;
        } else if (g->got[i] == code && g->got[i + 1] >= len) {
            return g->got + i + 2;
        } else {
            i += 2u + g->got[i + 1];
        }
    }
    fail_msg("no DHCP option %u of %u bytes", code, len);
    return NULL;
}

static bool want_dhcp(struct guest *g, const uint8_t *f, size_t len)
{
    if (!is_udp_to(f, len, 68) || len < 42 + 240) {
        return false;
    }
    g->got_len = MIN(len - 42, sizeof(g->got));
    memcpy(g->got, f + 42, g->got_len);
    return true;
}

static void dhcp_send(struct guest *g, uint8_t type, uint32_t wanted)
{
    static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    uint8_t m[300] = {1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78};
    memcpy(m + 28, mac, 6);
    put_be32(m + 236, DHCP_COOKIE);
    m[240] = 53;
    m[241] = 1;
    m[242] = type;
    size_t at = 243;
    if (wanted != 0) {
        m[at] = 50;
        m[at + 1] = 4;
        put_be32(m + at + 2, wanted);
        at += 6;
    }
    m[at] = 255;
    send_udp(g, broadcast, 0, 0xffffffff, 68, 67, m, sizeof(m));
}

static void dhcp_lease(struct guest *g)
{
    dhcp_send(g, 1, 0);
    await(g, want_dhcp);
    assert_int_equal(*dhcp_option(g, 53, 1), 2);
    uint32_t offered = get_be32(g->got + 16);
    dhcp_send(g, 3, offered);
    await(g, want_dhcp);
    assert_int_equal(*dhcp_option(g, 53, 1), 5);
    g->lease = get_be32(g->got + 16);
}

static void gives_a_lease(void **state)
{
    (void)state;
    struct guest g;
    guest_up(&g, NULL, 0);
    dhcp_lease(&g);
    assert_int_equal(g.lease, 0x0a00020f);                         /* 10.0.2.15 */
    assert_int_equal(get_be32(dhcp_option(&g, 1, 4)), 0xffffff00); /* mask */
    assert_int_equal(get_be32(dhcp_option(&g, 3, 4)), 0x0a000202); /* router */
    assert_int_equal(get_be32(dhcp_option(&g, 6, 4)), 0x0a000203); /* DNS */
    guest_down(&g);
}

/* ---- UDP to a server on the host's loopback ---- */

static int open_socket(int type, uint16_t *ret_port)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(sin);
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
    *ret_port = ntohs(sin.sin_port);
    return fd;
}

struct echo {
    struct guest *g;
    int fd;
};

static void on_echo(void *opaque, uint32_t events)
{
    struct echo *e = opaque;
    struct sockaddr_storage from;
    socklen_t from_len = sizeof(from);
    uint8_t buf[1500];
    (void)events;
    ssize_t n = recvfrom(e->fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &from_len);
    assert_true(n > 0);
    assert_int_equal(sendto(e->fd, buf, (size_t)n, 0, (struct sockaddr *)&from, from_len), n);
}

static bool want_udp(struct guest *g, const uint8_t *f, size_t len)
{
    if (!is_udp_to(f, len, 4444)) {
        return false;
    }
    assert_int_equal(get_be32(f + 26), 0x0a000202); /* it seems to come from the gateway */
    g->got_len = MIN((size_t)get_be16(f + 38) - 8, sizeof(g->got));
    memcpy(g->got, f + 42, g->got_len);
    return true;
}

static void reaches_the_hosts_loopback(void **state)
{
    (void)state;
    struct guest g;
    uint8_t data[1000];
    guest_up(&g, NULL, 0);
    dhcp_lease(&g);
    struct echo echo = {.g = &g, .fd = open_socket(SOCK_DGRAM, &g.peer_port)};
    assert_int_equal(loop_watch_fd(g.loop, echo.fd, EPOLLIN, on_echo, &echo, &g.peer_watch), 0);
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)(i * 31);
    }
    send_udp(&g, gateway_mac, g.lease, 0x0a000202, 4444, g.peer_port, data, sizeof(data));
    await(&g, want_udp);
    assert_int_equal(g.got_len, sizeof(data));
    assert_memory_equal(g.got, data, sizeof(data));
    guest_down(&g);
    close(echo.fd);
}

/* ---- forwarded ports ---- */

static bool want_syn(struct guest *g, const uint8_t *f, size_t len)
{
    (void)g;
    return len >= 54 && get_be16(f + 12) == 0x0800 && f[23] == 6 && get_be16(f + 36) == 22 &&
           (f[47] & 0x12) == 0x02;
}

static void forwards_ports(void **state)
{
    (void)state;
    struct guest g;
    struct hostfwd_rule rule;
    struct sockaddr_storage addr;
    uint16_t port;
    char text[64];
    close(open_socket(SOCK_STREAM, &port));
    snprintf(text, sizeof(text), "tcp:127.0.0.1:%u-:22", port);
    assert_int_equal(hostfwd_parse(&rule, text, NULL), 0);
    guest_up(&g, &rule, 1);
    dhcp_lease(&g); /* by now it listens */
    _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t len = hostfwd_host_sockaddr(&rule, &addr);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, len), 0);
    await(&g, want_syn);

    struct net_user_params params = {
        .loop = g.loop, .helper_path = helper_path, .rules = &rule, .n_rules = 1};
    struct net_backend *second;
    struct err err = {0};
    assert_int_equal(net_user_new(&second, &params, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, "cannot listen on host port"));
    guest_down(&g);
}

/* ---- the helper's end ---- */

static bool want_nothing(struct guest *g, const uint8_t *f, size_t len)
{
    (void)g;
    (void)f;
    (void)len;
    return false;
}

/* The only child of a process with one thread, 0 if /proc does not tell. Ours is the helper's
 * parent half, whose child is the half with the network stack. */
static pid_t find_child(pid_t parent)
{
    char path[64];
    int pid = 0;
    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)parent, (int)parent);
    _cleanup_fclose_ FILE *f = fopen(path, "re");
    if (f == NULL || fscanf(f, "%d", &pid) != 1) {
        return 0;
    }
    return pid;
}

static void survives_a_killed_helper(void **state)
{
    (void)state;
    struct guest g;
    guest_up(&g, NULL, 0);
    dhcp_lease(&g);
    pid_t pid = find_child(getpid());
    if (pid > 0) {
        kill(pid, SIGKILL);
        await(&g, want_nothing);
        assert_true(g.link_down);
        dhcp_send(&g, 1, 0); /* goes nowhere, harms nobody */
    }
    guest_down(&g);
}

static void assert_locked_in(pid_t pid)
{
    static const char *const lines[] = {"Seccomp:\t2\n", "NoNewPrivs:\t1\n",
                                        "CapEff:\t0000000000000000\n",
                                        "CapBnd:\t0000000000000000\n"};
    char path[64], status[8192];
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    _cleanup_fclose_ FILE *f = fopen(path, "re");
    assert_non_null(f);
    size_t n = fread(status, 1, sizeof(status) - 1, f);
    status[n] = '\0';
    /* Without privileges the bounding set stays, and does nothing: no new ones can be gained.
     */
    for (size_t i = 0; i < (geteuid() == 0 ? ARRAY_LEN(lines) : ARRAY_LEN(lines) - 1); i++) {
        assert_non_null(strstr(status, lines[i]));
    }
    assert_null(strstr(status, "Uid:\t0\t"));
}

static void is_locked_in(void **state)
{
    (void)state;
    struct guest g;
    guest_up(&g, NULL, 0);
    dhcp_lease(&g); /* frames are read after the sandbox closed */
    pid_t reader = find_child(getpid()), stack = reader > 0 ? find_child(reader) : 0;
    if (stack > 0) {
        assert_locked_in(stack);
    }
    guest_down(&g);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_a_lease),
        cmocka_unit_test(reaches_the_hosts_loopback),
        cmocka_unit_test(forwards_ports),
        cmocka_unit_test(is_locked_in),
        cmocka_unit_test(survives_a_killed_helper),
    };
    if (argc != 2) {
        return 2;
    }
    helper_path = argv[1];
    log_setup("net_helper_test", LOG_LEVEL_INFO, STDERR_FILENO);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
