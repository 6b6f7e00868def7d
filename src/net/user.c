/*
 * User-mode back end: frames to and from the helper process over a SOCK_SEQPACKET socket
 * (wire.h).
 *
 * Threads: send, rx_ready and set_offloads come from any thread and only write to the socket or
 * to an event descriptor; all else runs on the loop's thread. start, stop and free belong to
 * the loop's thread too. Shared words are atomics, there is no lock.
 *
 * Bounds: the guest's frames wait in the socket's buffer only (then send says -EAGAIN), frames
 * for the guest in one batch here and in the helper's bounded queue behind it.
 *
 * Saved: nothing. Connections live in the helper; after a restore the guest's are reset.
 * Missing: a new helper after the old one died.
 */
#include "net/user.h"

#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "net/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define USER_BATCH 8 /* frames taken from the helper at once */

#define USER_END_MS 500 /* how long the helper may take to end */

#define USER_CAPS                                                                              \
    (NET_CAP_TX_CSUM | NET_CAP_TX_TSO4 | NET_CAP_TX_TSO6 | NET_CAP_TX_ECN | NET_CAP_RX_CSUM |  \
     NET_CAP_RX_TSO4 | NET_CAP_RX_TSO6)

struct net_user {
    struct net_backend nb;
    struct loop *loop;
    int fd;      /* the helper's socket; open until free */
    int kick_fd; /* eventfd: other threads ask the loop's thread to look at the flags */
    pid_t pid;   /* -1: not our child, or reaped */
    int pid_fd;
    atomic_bool alive;     /* the helper is there */
    atomic_bool tx_waits;  /* send said -EAGAIN: tell tx_ready when the socket has room */
    atomic_bool rx_again;  /* rx_ready was called */
    atomic_bool caps_sent; /* false: rx_caps is still to be told to the helper */
    _Atomic uint32_t rx_caps;
    struct loop_watch *watch, *kick_watch, *pid_watch;
    uint32_t events; /* that watch asks for */
    bool running, rx_stalled;
    unsigned n_got, next; /* messages of the batch, and the first that was not delivered */
    size_t got_bytes[USER_BATCH];
    uint8_t *buf; /* USER_BATCH of WIRE_MSG_MAX bytes; touched as far as frames are long */
    struct log_limit bad_limit;
};

static struct net_user *user_of(struct net_backend *nb)
{
    return container_of(nb, struct net_user, nb);
}

static void user_kick(struct net_user *u)
{
    const uint64_t one = 1;
    ssize_t r;
    /* EAGAIN: the counter is full, so the loop's thread is awake already. */
    do {
        r = write(u->kick_fd, &one, sizeof(one));
    } while (r < 0 && errno == EINTR);
}

static int user_send(struct net_backend *nb, const struct net_hdr *hdr, const struct iovec *iov,
                     unsigned iov_count)
{
    struct net_user *u = user_of(nb);
    struct iovec out[NET_IOV_MAX + 1];
    struct wire_hdr w;

    if (iov_count > NET_IOV_MAX) {
        return -EMSGSIZE;
    }
    if (!atomic_load(&u->alive)) {
        return 0;
    }
    wire_from_net(&w, hdr);
    out[0] = (struct iovec){&w, sizeof(w)};
    memcpy(out + 1, iov, iov_count * sizeof(*iov));
    const struct msghdr msg = {.msg_iov = out, .msg_iovlen = iov_count + 1};
    for (int tries = 0;; tries++) {
        if (sendmsg(u->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
            return 0;
        }
        if (errno == EINTR) {
            continue;
        }
        if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN) {
            return 0; /* the loop's thread sees the end of the helper by itself */
        }
        if (errno != EAGAIN && errno != ENOBUFS) {
            return -errno;
        }
        if (tries > 0) {
            return -EAGAIN;
        }
        /* Announce the wait, then try once more: room may have come before the announcement. */
        atomic_store(&u->tx_waits, true);
        user_kick(u);
    }
}

static void user_rx_ready(struct net_backend *nb)
{
    struct net_user *u = user_of(nb);
    atomic_store(&u->rx_again, true);
    user_kick(u);
}

static bool user_tell_caps(struct net_user *u)
{
    struct wire_hdr w = {.kind = WIRE_OFFLOADS};
    uint32_t caps = atomic_load(&u->rx_caps);
    struct iovec iov[] = {{&w, sizeof(w)}, {&caps, sizeof(caps)}};
    const struct msghdr msg = {.msg_iov = iov, .msg_iovlen = ARRAY_LEN(iov)};
    return sendmsg(u->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 ||
           (errno != EAGAIN && errno != ENOBUFS && errno != EINTR);
}

static void user_set_offloads(struct net_backend *nb, uint32_t rx_caps)
{
    struct net_user *u = user_of(nb);
    atomic_store(&u->rx_caps, rx_caps);
    atomic_store(&u->caps_sent, false);
    user_kick(u);
}

/* Asks for the events that are of use now. */
static void user_update_watch(struct net_user *u)
{
    uint32_t events = 0;
    if (!u->rx_stalled) {
        events |= EPOLLIN;
    }
    if (atomic_load(&u->tx_waits) || !atomic_load(&u->caps_sent)) {
        events |= EPOLLOUT;
    }
    if (u->watch != NULL && events != u->events) {
        u->events = events;
        loop_rewatch(u->watch, events);
    }
}

static void user_link_down(struct net_user *u)
{
    if (!atomic_exchange(&u->alive, false)) {
        return;
    }
    loop_unwatch(u->watch);
    u->watch = NULL;
    u->n_got = u->next = 0;
    u->nb.link_up = false;
    if (atomic_exchange(&u->tx_waits, false)) {
        u->nb.fe->tx_ready(u->nb.fe_opaque); /* what waited is dropped now */
    }
    u->nb.fe->link(u->nb.fe_opaque, false);
}

static void user_lost(struct net_user *u, const char *why)
{
    if (atomic_load(&u->alive)) {
        log_error("user-mode network: %s; the guest's link is down", why);
        user_link_down(u);
    }
}

/* A message that is not a frame. */
static void user_control(struct net_user *u, enum wire_kind kind, const char *text, size_t len)
{
    switch (kind) {
    case WIRE_READY: log_debug("user-mode network: the helper is ready"); break;
    case WIRE_FAILED: {
        char why[WIRE_TEXT_MAX + 40];
        snprintf(why, sizeof(why), "the helper says: %.*s", (int)len, text);
        user_lost(u, why);
        break;
    }
    case WIRE_FRAME:
    case WIRE_OFFLOADS:
        if (log_limit_pass(&u->bad_limit, 1)) {
            log_warn("user-mode network: unexpected message of kind %d from the helper", kind);
        }
        break;
    }
}

/* Delivers what is left of the batch; false when the guest has no room. */
static bool user_deliver(struct net_user *u)
{
    while (u->next < u->n_got) {
        uint8_t *msg = u->buf + u->next * WIRE_MSG_MAX;
        size_t len = u->got_bytes[u->next];
        struct iovec iov = {msg + sizeof(struct wire_hdr), len - sizeof(struct wire_hdr)};
        enum wire_kind kind;
        struct net_hdr hdr;
        bool has_hdr = false;

        if (wire_check(msg, len, &kind, &hdr, &has_hdr) < 0) {
            if (log_limit_pass(&u->bad_limit, 1)) {
                log_warn("user-mode network: malformed message of %zu bytes from the helper",
                         len);
            }
        } else if (kind != WIRE_FRAME) {
            user_control(u, kind, iov.iov_base, iov.iov_len);
            if (!atomic_load(&u->alive)) {
                return true;
            }
        } else {
            atomic_store(&u->rx_again, false);
            int r = u->nb.fe->rx(u->nb.fe_opaque, has_hdr ? &hdr : NULL, &iov, 1);
            if (r == -EAGAIN) {
                /* A rx_ready that came meanwhile has set the flag and kicks us. */
                u->rx_stalled = true;
                return false;
            }
        }
        u->next++;
    }
    u->rx_stalled = false;
    return true;
}

static void user_receive(struct net_user *u)
{
    struct mmsghdr msgs[USER_BATCH];
    struct iovec iov[USER_BATCH];

    if (!user_deliver(u) || !atomic_load(&u->alive)) {
        return;
    }
    memset(msgs, 0, sizeof(msgs));
    for (unsigned i = 0; i < USER_BATCH; i++) {
        iov[i] = (struct iovec){u->buf + i * WIRE_MSG_MAX, WIRE_MSG_MAX};
        msgs[i].msg_hdr.msg_iov = &iov[i];
        msgs[i].msg_hdr.msg_iovlen = 1;
    }
    int n = recvmmsg(u->fd, msgs, USER_BATCH, MSG_DONTWAIT, NULL);
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR) {
            user_lost(u, strerror(errno));
        }
        return;
    }
    u->next = 0;
    u->n_got = 0;
    for (int i = 0; i < n; i++) {
        bool cut = (msgs[i].msg_hdr.msg_flags & MSG_TRUNC) != 0;
        u->got_bytes[i] = cut ? 0 : msgs[i].msg_len;
        if (msgs[i].msg_len == 0) {
            /* End of file. With a child of ours its exit status says more, and follows. */
            u->n_got = (unsigned)i;
            if (user_deliver(u) && u->pid_fd < 0) {
                user_lost(u, "the helper closed its socket");
            } else {
                loop_unwatch(u->watch);
                u->watch = NULL;
            }
            return;
        }
    }
    u->n_got = (unsigned)n;
    user_deliver(u);
}

static void user_socket_event(void *opaque, uint32_t events)
{
    struct net_user *u = opaque;

    if ((events & EPOLLOUT) != 0) {
        if (!atomic_load(&u->caps_sent)) {
            atomic_store(&u->caps_sent, true);
            if (!user_tell_caps(u)) {
                atomic_store(&u->caps_sent, false);
            }
        }
        if (atomic_exchange(&u->tx_waits, false)) {
            u->nb.fe->tx_ready(u->nb.fe_opaque);
        }
    }
    if ((events & EPOLLIN) != 0 || ((events & (EPOLLHUP | EPOLLERR)) != 0 && !u->rx_stalled)) {
        user_receive(u);
    } else if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
        user_lost(u, "the helper closed its socket");
    }
    user_update_watch(u);
}

static void user_kick_event(void *opaque, uint32_t events)
{
    struct net_user *u = opaque;
    uint64_t count;
    (void)events;

    if (read(u->kick_fd, &count, sizeof(count)) < 0) {
        return;
    }
    if (atomic_load(&u->alive) && u->rx_stalled && atomic_exchange(&u->rx_again, false)) {
        user_deliver(u);
    }
    if (!atomic_load(&u->alive) && atomic_exchange(&u->tx_waits, false)) {
        u->nb.fe->tx_ready(u->nb.fe_opaque);
    }
    user_update_watch(u);
}

static void user_reap(struct net_user *u, int options, char *ret_why, size_t why_len)
{
    siginfo_t info = {0};
    int r;
    do {
        r = waitid(P_PID, (id_t)u->pid, &info, WEXITED | options);
    } while (r < 0 && errno == EINTR);
    u->pid = -1;
    if (r < 0 || info.si_pid == 0) {
        snprintf(ret_why, why_len, "the helper ended");
        return;
    }
    /* The half of the helper that is our child ends with 128 + signal when the other is killed.
     */
    int sig = info.si_code != CLD_EXITED ? info.si_status : info.si_status - 128;
    if (sig > 0) {
        snprintf(ret_why, why_len, "the helper was killed by signal %d (%s)", sig,
                 strsignal(sig));
    } else {
        snprintf(ret_why, why_len, "the helper ended with status %d", info.si_status);
    }
}

static void user_child_event(void *opaque, uint32_t events)
{
    struct net_user *u = opaque;
    char why[120];
    (void)events;

    loop_unwatch(u->pid_watch);
    u->pid_watch = NULL;
    /* Its last words may still be in the socket. */
    if (u->watch != NULL && !u->rx_stalled) {
        user_receive(u);
    }
    user_reap(u, WNOHANG, why, sizeof(why));
    user_lost(u, why);
}

static void user_start(struct net_backend *nb)
{
    struct net_user *u = user_of(nb);
    int r = 0;

    if (u->running) {
        return;
    }
    u->running = true;
    r = loop_watch_fd(u->loop, u->kick_fd, EPOLLIN, user_kick_event, u, &u->kick_watch);
    if (r == 0 && u->pid_fd >= 0 && u->pid >= 0) {
        r = loop_watch_fd(u->loop, u->pid_fd, EPOLLIN, user_child_event, u, &u->pid_watch);
    }
    if (r == 0 && atomic_load(&u->alive)) {
        u->events = EPOLLIN;
        r = loop_watch_fd(u->loop, u->fd, u->events, user_socket_event, u, &u->watch);
    }
    if (r < 0) {
        user_lost(u, strerror(-r));
        return;
    }
    /* What was stalled is tried again: the guest's queues may be other ones now. */
    atomic_store(&u->rx_again, true);
    user_kick(u);
}

static void user_stop(struct net_backend *nb)
{
    struct net_user *u = user_of(nb);

    loop_unwatch(u->watch);
    loop_unwatch(u->kick_watch);
    loop_unwatch(u->pid_watch);
    u->watch = u->kick_watch = u->pid_watch = NULL;
    u->running = false;
}

static void user_free(struct net_backend *nb)
{
    struct net_user *u = user_of(nb);

    user_stop(nb);
    if (u->fd >= 0) {
        close(u->fd);
    }
    if (u->pid >= 0) {
        /* It ends by itself when its socket closes, within a millisecond unless it hangs. */
        char why[120];
        struct pollfd pfd = {.fd = u->pid_fd, .events = POLLIN};
        if (u->pid_fd < 0 || poll(&pfd, 1, USER_END_MS) != 1) {
            kill(u->pid, SIGKILL);
        }
        user_reap(u, 0, why, sizeof(why));
    }
    if (u->pid_fd >= 0) {
        close(u->pid_fd);
    }
    if (u->kick_fd >= 0) {
        close(u->kick_fd);
    }
    free(u->buf);
    free(u);
}

static const struct net_backend_ops user_ops = {
    .name = "user",
    .send = user_send,
    .rx_ready = user_rx_ready,
    .set_offloads = user_set_offloads,
    .start = user_start,
    .stop = user_stop,
    .free = user_free,
};

int net_user_new_fd(struct net_backend **ret_nb, struct loop *loop, int fd, struct err *err)
{
    struct net_user *u = calloc(1, sizeof(*u));
    if (u == NULL) {
        close(fd);
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for user-mode networking");
    }
    *u = (struct net_user){
        .nb = {.ops = &user_ops, .caps = USER_CAPS, .link_up = true},
        .loop = loop,
        .fd = fd,
        .pid = -1,
        .pid_fd = -1,
    };
    atomic_init(&u->alive, true);
    atomic_init(&u->caps_sent, true);
    u->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    u->buf = malloc(USER_BATCH * WIRE_MSG_MAX);
    if (u->kick_fd < 0 || u->buf == NULL) {
        user_free(&u->nb);
        return ERR(err, LIMIT, ENFILE, "no descriptors or memory for user-mode networking");
    }
    *ret_nb = &u->nb;
    return 0;
}

/* Where the helper is: beside this program, else in the libexec folder of the installation. */
static int user_find_helper(char *ret_path, size_t len, struct err *err)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n > 0) {
        self[n] = '\0';
        char *slash = strrchr(self, '/');
        int dir_len = slash != NULL ? (int)(slash - self) : 0;
        static const char *const places[] = {"",
                                             "/helper",
                                             "/src/net/helper",
                                             "/../net/helper",
                                             "/../src/net/helper",
                                             "/../libexec/vivarium",
                                             "/../lib/vivarium"};
        for (size_t i = 0; i < ARRAY_LEN(places); i++) {
            int m =
                snprintf(ret_path, len, "%.*s%s/" NET_USER_HELPER, dir_len, self, places[i]);
            if (m > 0 && (size_t)m < len && access(ret_path, X_OK) == 0) {
                return 0;
            }
        }
    }
    return ERR(err, HELPER, ENOENT,
               "user-mode networking needs the program " NET_USER_HELPER
               ", which is not beside this one; install it, or use --net none");
}

#define USER_ARGS_MAX (4 + HOSTFWD_MAX_RULES * 2)

/* Builds the helper's arguments in place: text holds HOSTFWD_MAX_RULES rules. */
static void user_make_args(const struct net_user_params *p, char (*text)[HOSTFWD_TEXT_MAX],
                           char *mac_text, size_t mac_len, const char **argv)
{
    unsigned n = 0;
    snprintf(mac_text, mac_len, "%02x:%02x:%02x:%02x:%02x:%02x", p->mac[0], p->mac[1],
             p->mac[2], p->mac[3], p->mac[4], p->mac[5]);
    argv[n++] = NET_USER_HELPER;
    argv[n++] = "--mac";
    argv[n++] = mac_text;
    for (size_t i = 0; i < p->n_rules; i++) {
        hostfwd_format(&p->rules[i], text[i], sizeof(text[i]));
        argv[n++] = "--hostfwd";
        argv[n++] = text[i];
    }
    argv[n] = NULL;
}

static int user_spawn(const char *path, const char *const *argv, int fd, pid_t *ret_pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    char *const env[] = {NULL};

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawn_file_actions_adddup2(&actions, fd, 3);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    int e = posix_spawn(ret_pid, path, &actions, &attr, (char *const *)(uintptr_t)argv, env);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    return -e;
}

int net_user_new(struct net_backend **ret_nb, const struct net_user_params *params,
                 struct err *err)
{
    char path[PATH_MAX], mac_text[18], text[HOSTFWD_MAX_RULES][HOSTFWD_TEXT_MAX];
    const char *argv[USER_ARGS_MAX];
    struct net_backend *nb;
    int sv[2], r;
    pid_t pid;

    r = hostfwd_check(params->rules, params->n_rules, err);
    if (r < 0) {
        return r;
    }
    if (params->helper_path != NULL) {
        snprintf(path, sizeof(path), "%s", params->helper_path);
    } else {
        r = user_find_helper(path, sizeof(path), err);
        if (r < 0) {
            return r;
        }
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0) {
        return ERR(err, LIMIT, errno, "cannot make a socket pair: %s", strerror(errno));
    }
    user_make_args(params, text, mac_text, sizeof(mac_text), argv);
    r = user_spawn(path, argv, sv[1], &pid);
    close(sv[1]);
    if (r < 0) {
        close(sv[0]);
        return ERR(err, HELPER, -r, "cannot start the network helper %s: %s", path,
                   strerror(-r));
    }
    r = net_user_new_fd(&nb, params->loop, sv[0], err);
    if (r < 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        return r;
    }
    struct net_user *u = user_of(nb);
    u->pid = pid;
    u->pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (u->pid_fd >= 0) {
        fcntl(u->pid_fd, F_SETFD, FD_CLOEXEC);
    }
    *ret_nb = nb;
    return 0;
}
