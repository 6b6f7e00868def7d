/*
 * Runs a command in a network namespace of its own whose only interface, tap0, leads through
 * user-mode networking: the host's kernel plays the guest, offloads included.
 *
 *     net_tap_bridge [--helper PATH] [--no-offload] [--hostfwd RULE]... -- COMMAND [ARG]...
 *
 * Needs CAP_NET_ADMIN over the new namespace (root, or a user namespace) and /dev/net/tun; exit
 * status 77 when they are missing, else that of the command. The helper stays in the old
 * namespace.
 */
#include "base/ckd.h"
#include "base/log.h"
#include "net/user.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SKIP 77

struct bridge {
    struct loop *loop;
    struct net_backend *nb;
    struct loop_watch *tap_watch, *child_watch;
    int tap;
    pid_t child;
    bool tx_stalled;
    size_t tx_len; /* a frame that the back end did not take yet */
    uint8_t buf[sizeof(struct virtio_net_hdr) + NET_FRAME_MAX];
};

static bool bridge_send(struct bridge *b)
{
    struct virtio_net_hdr v;
    memcpy(&v, b->buf, sizeof(v));
    const struct net_hdr hdr = {v.flags,    v.gso_type,   v.hdr_len,
                                v.gso_size, v.csum_start, v.csum_offset};
    const struct iovec iov = {b->buf + sizeof(v), b->tx_len - sizeof(v)};
    return b->nb->ops->send(b->nb, &hdr, &iov, 1) != -EAGAIN;
}

static void on_tap(void *opaque, uint32_t events)
{
    struct bridge *b = opaque;
    (void)events;
    for (int i = 0; i < 64 && !b->tx_stalled; i++) {
        ssize_t n = read(b->tap, b->buf, sizeof(b->buf));
        if (n <= (ssize_t)sizeof(struct virtio_net_hdr)) {
            return;
        }
        b->tx_len = (size_t)n;
        if (!bridge_send(b)) {
            b->tx_stalled = true;
            loop_rewatch(b->tap_watch, 0);
        }
    }
}

static int fe_rx(void *opaque, const struct net_hdr *hdr, const struct iovec *iov,
                 unsigned iov_count)
{
    struct bridge *b = opaque;
    struct virtio_net_hdr v = {0};
    if (hdr != NULL) {
        v = (struct virtio_net_hdr){.flags = hdr->flags,
                                    .gso_type = hdr->gso_type,
                                    .hdr_len = hdr->hdr_len,
                                    .gso_size = hdr->gso_size,
                                    .csum_start = hdr->csum_start,
                                    .csum_offset = hdr->csum_offset};
    }
    const struct iovec out[2] = {{&v, sizeof(v)}, iov[0]};
    (void)iov_count;
    return writev(b->tap, out, 2) < 0 && errno == EINVAL ? -EINVAL : 0;
}

static void fe_tx_ready(void *opaque)
{
    struct bridge *b = opaque;
    if (b->tx_stalled && bridge_send(b)) {
        b->tx_stalled = false;
        loop_rewatch(b->tap_watch, EPOLLIN);
    }
}

static void fe_link(void *opaque, bool link_up)
{
    (void)opaque;
    (void)link_up;
}

static const struct net_frontend_ops fe_ops = {fe_rx, fe_tx_ready, fe_link};

static void on_child(void *opaque, uint32_t events)
{
    struct bridge *b = opaque;
    int status = 0;
    (void)events;
    waitpid(b->child, &status, 0);
    loop_unwatch(b->child_watch);
    loop_stop(b->loop, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static int open_tap(bool offload)
{
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    /* The interface appears in the namespace in which the device is opened. */
    int fd =
        unshare(CLONE_NEWNET) < 0 ? -1 : open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        fprintf(stderr, "skip: no /dev/net/tun or no network namespace: %s\n", strerror(errno));
        exit(SKIP);
    }
    memcpy(ifr.ifr_name, "tap0", 5);
    if (ioctl(fd, TUNSETIFF, &ifr) < 0 ||
        ioctl(fd, TUNSETOFFLOAD, offload ? TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 : 0) < 0) {
        fprintf(stderr, "skip: cannot make a tap interface: %s\n", strerror(errno));
        exit(SKIP);
    }
    return fd;
}

static pid_t start_command(char **argv)
{
    pid_t pid = fork();
    if (pid == 0) {
        execvp(argv[0], argv);
        fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
        _exit(127);
    }
    return pid;
}

int main(int argc, char **argv)
{
    static struct bridge b;
    static struct hostfwd_rule rules[HOSTFWD_MAX_RULES];
    struct net_user_params params = {.rules = rules, .mac = {0x52, 0x54, 0, 0x12, 0x34, 0x56}};
    struct err err = {0};
    bool offload = true;
    int i = 1;

    log_setup("net_tap_bridge", LOG_LEVEL_INFO, STDERR_FILENO);
    for (; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--no-offload") == 0) {
            offload = false;
        } else if (strcmp(argv[i], "--helper") == 0 && i + 1 < argc) {
            params.helper_path = argv[++i];
        } else if (strcmp(argv[i], "--hostfwd") == 0 && i + 1 < argc) {
            if (hostfwd_parse(&rules[params.n_rules++], argv[++i], &err) < 0) {
                fprintf(stderr, "%s\n", err.text);
                return 2;
            }
        } else {
            return 2;
        }
    }
    if (i + 1 >= argc) {
        return 2;
    }
    if (loop_new(&b.loop, &err) < 0) {
        return 1;
    }
    params.loop = b.loop;
    if (net_user_new(&b.nb, &params, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    b.tap = open_tap(offload);
    b.nb->fe = &fe_ops;
    b.nb->fe_opaque = &b;
    b.nb->ops->start(b.nb);
    b.nb->ops->set_offloads(b.nb,
                            offload ? NET_CAP_RX_CSUM | NET_CAP_RX_TSO4 | NET_CAP_RX_TSO6 : 0);
    b.child = start_command(argv + i + 1);
    int child_fd = (int)syscall(SYS_pidfd_open, b.child, 0);
    if (child_fd < 0 ||
        loop_watch_fd(b.loop, child_fd, EPOLLIN, on_child, &b, &b.child_watch) < 0 ||
        loop_watch_fd(b.loop, b.tap, EPOLLIN, on_tap, &b, &b.tap_watch) < 0) {
        return 1;
    }
    int status = loop_run(b.loop);
    b.nb->ops->stop(b.nb);
    b.nb->ops->free(b.nb);
    return status;
}
