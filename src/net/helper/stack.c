/*
 * The user-mode TCP/IP stack: libslirp, its timers, and the loop around it (stack.h).
 *
 * Bounds: at most SANDBOX_MAX_FDS descriptors and so connections (with 256 KiB of buffers each
 * in libslirp); OUT_BYTES of frames towards the VMM. While frames wait there because the guest
 * takes none, the host's sockets are not read (TCP's own flow control does the rest); the
 * guest's frames still are, and what they cause beyond the bound is dropped, as on a wire.
 *
 * libslirp takes IP packets of any size from the guest and sends TCP segments up to the MSS of
 * the connection; offload.h makes both large.
 */
#include "net/helper/stack.h"

#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "net/helper/offload.h"
#include "net/helper/resolv.h"
#include "net/helper/sandbox.h"
#include "net/wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <slirp/libslirp.h>
#include <string.h>
#include <sys/socket.h>

#define IN_BATCH   8
#define IN_ROUNDS  8 /* batches of guest frames before sockets get their turn */
#define OUT_BATCH  64
#define OUT_BYTES  (512 * KIB)
#define OUT_FRAMES 1024
#define FD_RESERVE 16 /* descriptors that forwarded ports may not use up */
#define N_TIMERS   8

struct stack_timer {
    SlirpTimerCb fn;
    void *opaque;
    int64_t expire_ms; /* -1: not armed */
};

struct out_frame {
    uint32_t off, len; /* of header and frame, in out */
};

struct stack {
    Slirp *slirp;
    int vm_fd, resolv_fd;
    struct offload offload;
    uint32_t frag_id;
    bool ended; /* the VMM closed its end */

    struct stack_timer timers[N_TIMERS];

    struct pollfd fds[SANDBOX_MAX_FDS];
    unsigned n_fds;
    uint8_t is_listener[SANDBOX_MAX_FDS / 8]; /* by descriptor: forwarded TCP ports */

    struct out_frame frames[OUT_FRAMES];
    unsigned n_out, out_done; /* frames in the queue, those of them that are sent */
    uint32_t out_used;        /* bytes of out */
    uint64_t dropped;

    uint8_t scratch[OFFLOAD_MTU + 14];          /* a piece of a packet to the guest */
    uint8_t in_scratch[OFFLOAD_STACK_MTU + 14]; /* and of one from it */
    uint8_t *in;                                /* IN_BATCH of WIRE_MSG_MAX bytes */
    uint8_t *out;                               /* OUT_BYTES */
    struct log_limit guest_limit;
};

/* ---- towards the VMM ---- */

static void out_flush(struct stack *s)
{
    while (s->out_done < s->n_out) {
        struct mmsghdr msgs[OUT_BATCH];
        struct iovec iov[OUT_BATCH];
        unsigned n = MIN(s->n_out - s->out_done, (unsigned)OUT_BATCH);
        memset(msgs, 0, n * sizeof(msgs[0]));
        for (unsigned i = 0; i < n; i++) {
            const struct out_frame *f = &s->frames[s->out_done + i];
            iov[i] = (struct iovec){s->out + f->off, f->len};
            msgs[i].msg_hdr.msg_iov = &iov[i];
            msgs[i].msg_hdr.msg_iovlen = 1;
        }
        int r = sendmmsg(s->vm_fd, msgs, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (r > 0) {
            s->out_done += (unsigned)r;
        } else if (errno == EAGAIN || errno == ENOBUFS) {
            return;
        } else if (errno != EINTR) {
            s->ended = true;
            return;
        }
    }
    s->n_out = s->out_done = 0;
    s->out_used = 0;
}

static bool out_waits(const struct stack *s)
{
    return s->out_done < s->n_out;
}

/* Moves what waits to the front, so that the space of what is gone can be used. */
static void out_compact(struct stack *s)
{
    if (s->out_done == 0) {
        return;
    }
    uint32_t start = out_waits(s) ? s->frames[s->out_done].off : s->out_used;
    memmove(s->out, s->out + start, s->out_used - start);
    s->n_out -= s->out_done;
    for (unsigned i = 0; i < s->n_out; i++) {
        s->frames[i] = s->frames[i + s->out_done];
        s->frames[i].off -= start;
    }
    s->out_used -= start;
    s->out_done = 0;
}

/* Room for a frame of len bytes behind a header; NULL: the queue is full, the frame is lost. */
static uint8_t *out_reserve(struct stack *s, size_t len)
{
    size_t need = align_up(sizeof(struct wire_hdr) + len, 8);
    if (s->n_out == OUT_FRAMES || OUT_BYTES - s->out_used < need) {
        out_flush(s);
        out_compact(s);
    }
    if (s->n_out == OUT_FRAMES || OUT_BYTES - s->out_used < need) {
        s->dropped++;
        return NULL;
    }
    return s->out + s->out_used + sizeof(struct wire_hdr);
}

/* The frame is at the place that out_reserve gave. */
static void out_commit(struct stack *s, size_t len, const struct net_hdr *hdr)
{
    struct wire_hdr w;
    uint32_t total = (uint32_t)(sizeof(w) + len);
    wire_from_net(&w, hdr);
    memcpy(s->out + s->out_used, &w, sizeof(w));
    s->frames[s->n_out++] = (struct out_frame){s->out_used, total};
    s->out_used += (uint32_t)align_up(total, 8);
}

/* A piece of a packet for the guest; its checksums are right. */
static void emit_to_guest(void *opaque, uint8_t *frame, size_t len)
{
    struct stack *s = opaque;
    const struct net_hdr hdr = {
        .flags = (s->offload.rx_caps & NET_CAP_RX_CSUM) != 0 ? NET_HDR_DATA_VALID : 0};
    uint8_t *p = out_reserve(s, len);
    if (p != NULL) {
        memcpy(p, frame, len);
        out_commit(s, len, &hdr);
    }
}

/* A fragment: whether the whole is right shows only when it is put together. */
static void emit_fragment(void *opaque, uint8_t *frame, size_t len)
{
    struct stack *s = opaque;
    uint8_t *p = out_reserve(s, len);
    if (p != NULL) {
        memcpy(p, frame, len);
        out_commit(s, len, NULL);
    }
}

static ssize_t cb_send_packet(const void *buf, size_t len, void *opaque)
{
    struct stack *s = opaque;
    struct net_hdr hdr;
    uint8_t *p = len <= NET_FRAME_MAX ? out_reserve(s, len) : NULL;
    if (p == NULL) {
        return (ssize_t)len;
    }
    memcpy(p, buf, len);
    /* Pieces are made of buf and may overwrite the copy at p, which was not committed. */
    switch (offload_to_guest(&s->offload, p, len, &hdr)) {
    case OFFLOAD_SEND: out_commit(s, len, &hdr); break;
    case OFFLOAD_FRAGMENT:
        offload_fragment(buf, len, ++s->frag_id, s->scratch, emit_fragment, s);
        break;
    case OFFLOAD_SEGMENT:
        offload_segment(buf, len, hdr.gso_size, s->scratch, OFFLOAD_MTU + 14, emit_to_guest, s);
        break;
    case OFFLOAD_DROP: s->dropped++; break;
    }
    return (ssize_t)len;
}

/* ---- libslirp's other callbacks ---- */

static void cb_guest_error(const char *msg, void *opaque)
{
    struct stack *s = opaque;
    if (log_limit_pass(&s->guest_limit, 1)) {
        log_warn("the guest sent something wrong: %s", msg);
    }
}

static int64_t cb_clock_get_ns(void *opaque)
{
    (void)opaque;
    return (int64_t)clock_now_ns();
}

static void *cb_timer_new(SlirpTimerCb fn, void *fn_opaque, void *opaque)
{
    struct stack *s = opaque;
    for (unsigned i = 0; i < N_TIMERS; i++) {
        if (s->timers[i].fn == NULL) {
            s->timers[i] = (struct stack_timer){fn, fn_opaque, -1};
            return &s->timers[i];
        }
    }
    log_error("libslirp wants more than %d timers", N_TIMERS);
    abort();
}

static void cb_timer_free(void *timer, void *opaque)
{
    (void)opaque;
    *(struct stack_timer *)timer = (struct stack_timer){0};
}

static void cb_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    (void)opaque;
    ((struct stack_timer *)timer)->expire_ms = expire_ms;
}

static void cb_poll_fd(int fd, void *opaque)
{
    (void)fd;
    (void)opaque;
}

static void cb_notify(void *opaque)
{
    (void)opaque;
}

static const SlirpCb callbacks = {
    .send_packet = cb_send_packet,
    .guest_error = cb_guest_error,
    .clock_get_ns = cb_clock_get_ns,
    .timer_new = cb_timer_new,
    .timer_free = cb_timer_free,
    .timer_mod = cb_timer_mod,
    .register_poll_fd = cb_poll_fd,
    .unregister_poll_fd = cb_poll_fd,
    .notify = cb_notify,
};

/* ---- the loop ---- */

static int cb_add_poll(int fd, int events, void *opaque)
{
    struct stack *s = opaque;
    short wanted = 0;

    if (fd < 0 || fd >= SANDBOX_MAX_FDS || s->n_fds == SANDBOX_MAX_FDS) {
        return -1;
    }
    /* A connection that accept cannot take for want of descriptors would wake us for ever. */
    if ((s->is_listener[fd / 8] >> (fd % 8) & 1) != 0 &&
        s->n_fds > SANDBOX_MAX_FDS - FD_RESERVE) {
        return -1;
    }
    wanted |= (events & SLIRP_POLL_IN) != 0 ? POLLIN : 0;
    wanted |= (events & SLIRP_POLL_OUT) != 0 ? POLLOUT : 0;
    wanted |= (events & SLIRP_POLL_PRI) != 0 ? POLLPRI : 0;
    s->fds[s->n_fds] = (struct pollfd){.fd = fd, .events = wanted};
    return (int)s->n_fds++;
}

static int cb_get_revents(int index, void *opaque)
{
    const struct stack *s = opaque;
    int events = 0;
    if (index < 0 || (unsigned)index >= s->n_fds) {
        return 0;
    }
    short got = s->fds[index].revents;
    events |= (got & POLLIN) != 0 ? SLIRP_POLL_IN : 0;
    events |= (got & POLLOUT) != 0 ? SLIRP_POLL_OUT : 0;
    events |= (got & POLLPRI) != 0 ? SLIRP_POLL_PRI : 0;
    events |= (got & POLLERR) != 0 ? SLIRP_POLL_ERR : 0;
    events |= (got & POLLHUP) != 0 ? SLIRP_POLL_HUP : 0;
    return events;
}

static void emit_to_slirp(void *opaque, uint8_t *frame, size_t len)
{
    struct stack *s = opaque;
    slirp_input(s->slirp, frame, (int)len);
}

static void handle_message(struct stack *s, uint8_t *msg, size_t len)
{
    enum wire_kind kind;
    struct net_hdr hdr;
    bool has_hdr;
    uint16_t payload;

    if (wire_check(msg, len, &kind, &hdr, &has_hdr) < 0) {
        cb_guest_error("malformed message", s);
        return;
    }
    uint8_t *body = msg + sizeof(struct wire_hdr);
    size_t body_len = len - sizeof(struct wire_hdr);
    if (kind == WIRE_OFFLOADS) {
        memcpy(&s->offload.rx_caps, body, sizeof(s->offload.rx_caps));
        return;
    }
    if (kind != WIRE_FRAME) {
        return;
    }
    switch (offload_from_guest(&s->offload, body, body_len, has_hdr ? &hdr : NULL, &payload)) {
    case OFFLOAD_SEND: emit_to_slirp(s, body, body_len); break;
    case OFFLOAD_SEGMENT:
        offload_segment(body, body_len, payload, s->in_scratch, sizeof(s->in_scratch),
                        emit_to_slirp, s);
        break;
    case OFFLOAD_FRAGMENT:
    case OFFLOAD_DROP: s->dropped++; break;
    }
}

static void receive_frames(struct stack *s)
{
    for (unsigned round = 0; round < IN_ROUNDS && !s->ended; round++) {
        struct mmsghdr msgs[IN_BATCH];
        struct iovec iov[IN_BATCH];
        memset(msgs, 0, sizeof(msgs));
        for (unsigned i = 0; i < IN_BATCH; i++) {
            iov[i] = (struct iovec){s->in + i * WIRE_MSG_MAX, WIRE_MSG_MAX};
            msgs[i].msg_hdr.msg_iov = &iov[i];
            msgs[i].msg_hdr.msg_iovlen = 1;
        }
        int n = recvmmsg(s->vm_fd, msgs, IN_BATCH, MSG_DONTWAIT, NULL);
        if (n <= 0) {
            s->ended = s->ended || (n < 0 && errno != EAGAIN && errno != EINTR);
            return;
        }
        for (int i = 0; i < n; i++) {
            if (msgs[i].msg_len == 0) {
                s->ended = true;
                return;
            }
            if ((msgs[i].msg_hdr.msg_flags & MSG_TRUNC) == 0) {
                handle_message(s, iov[i].iov_base, msgs[i].msg_len);
            }
        }
        out_flush(s);
        if (n < IN_BATCH) {
            return;
        }
    }
}

static uint32_t timers_timeout(const struct stack *s, uint32_t timeout)
{
    int64_t now_ms = (int64_t)(clock_now_ns() / 1000000);
    for (unsigned i = 0; i < N_TIMERS; i++) {
        const struct stack_timer *t = &s->timers[i];
        if (t->fn != NULL && t->expire_ms >= 0) {
            int64_t left = MAX(t->expire_ms - now_ms, 0);
            timeout = (uint32_t)MIN((int64_t)timeout, left);
        }
    }
    return timeout;
}

static void timers_fire(struct stack *s)
{
    int64_t now_ms = (int64_t)(clock_now_ns() / 1000000);
    for (unsigned i = 0; i < N_TIMERS; i++) {
        struct stack_timer *t = &s->timers[i];
        if (t->fn != NULL && t->expire_ms >= 0 && t->expire_ms <= now_ms) {
            t->expire_ms = -1;
            t->fn(t->opaque);
        }
    }
}

static void stack_step(struct stack *s)
{
    uint32_t timeout = UINT32_MAX;
    bool blocked = out_waits(s);

    s->n_fds = 0;
    s->fds[s->n_fds++] =
        (struct pollfd){.fd = s->vm_fd, .events = (short)(POLLIN | (blocked ? POLLOUT : 0))};
    s->fds[s->n_fds++] = (struct pollfd){.fd = s->resolv_fd, .events = POLLIN};
    if (!blocked) {
        slirp_pollfds_fill(s->slirp, &timeout, cb_add_poll, s);
        timeout = timers_timeout(s, timeout);
    }
    int r = poll(s->fds, s->n_fds, timeout > INT32_MAX ? -1 : (int)timeout);
    if (r < 0 && errno != EINTR) {
        log_error("poll: %s", strerror(errno));
        s->ended = true;
        return;
    }
    if (r < 0) {
        for (unsigned i = 0; i < s->n_fds; i++) {
            s->fds[i].revents = 0;
        }
    }
    if (s->fds[1].revents != 0 && !resolv_update(s->resolv_fd)) {
        s->ended = true;
    }
    short vm_events = s->fds[0].revents;
    if (!blocked) {
        slirp_pollfds_poll(s->slirp, r < 0, cb_get_revents, s);
        timers_fire(s);
    }
    out_flush(s);
    if ((vm_events & (POLLIN | POLLHUP | POLLERR)) != 0) {
        receive_frames(s);
    }
}

void stack_run(struct stack *s)
{
    const struct wire_hdr ready = {.kind = WIRE_READY};
    if (send(s->vm_fd, &ready, sizeof(ready), MSG_NOSIGNAL) < 0) {
        return;
    }
    while (!s->ended) {
        stack_step(s);
    }
    log_debug("ends; %llu frames were dropped", (unsigned long long)s->dropped);
}

/* ---- set-up ---- */

static const char prefix6[] = "fec0::", host6[] = "fec0::2", dns6[] = "fec0::3";

int stack_new(struct stack **ret_stack, const struct stack_params *params, struct err *err)
{
    SlirpConfig cfg = {
        .version = 1,
        .in_enabled = true,
        .vnetwork = {htonl(0x0a000200)},
        .vnetmask = {htonl(0xffffff00)},
        .vhost = {htonl(0x0a000202)},
        .vdhcp_start = {htonl(0x0a00020f)},
        .vnameserver = {htonl(0x0a000203)},
        .in6_enabled = true,
        .vprefix_len = 64,
        .if_mtu = OFFLOAD_STACK_MTU,
        .if_mru = OFFLOAD_STACK_MTU,
    };
    struct stack *s = calloc(1, sizeof(*s));
    if (s == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory");
    }
    s->vm_fd = params->vm_fd;
    s->resolv_fd = params->resolv_fd;
    s->in = malloc(IN_BATCH * WIRE_MSG_MAX);
    s->out = malloc(OUT_BYTES);
    inet_pton(AF_INET6, prefix6, &cfg.vprefix_addr6);
    inet_pton(AF_INET6, host6, &cfg.vhost6);
    inet_pton(AF_INET6, dns6, &cfg.vnameserver6);
    s->slirp = s->in != NULL && s->out != NULL ? slirp_new(&cfg, &callbacks, s) : NULL;
    if (s->slirp == NULL) {
        free(s->in);
        free(s->out);
        free(s);
        return ERR(err, HELPER, EIO, "libslirp %s refused its configuration",
                   slirp_version_string());
    }
    *ret_stack = s;
    return 0;
}

/* Forwarded TCP ports are the only sockets that listen. */
static void note_listeners(struct stack *s)
{
    for (int fd = 0; fd < SANDBOX_MAX_FDS; fd++) {
        int on = 0;
        socklen_t len = sizeof(on);
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) == 0 && on != 0) {
            s->is_listener[fd / 8] |= (uint8_t)(1u << (fd % 8));
        }
    }
}

int stack_add_hostfwd(struct stack *s, const struct hostfwd_rule *rule, struct err *err)
{
    struct sockaddr_storage host, guest;
    char text[HOSTFWD_TEXT_MAX];
    socklen_t host_len = hostfwd_host_sockaddr(rule, &host);
    socklen_t guest_len = hostfwd_guest_sockaddr(rule, &guest);
    int flags =
        (rule->is_udp ? SLIRP_HOSTFWD_UDP : 0) | (rule->is_ipv6 ? SLIRP_HOSTFWD_V6ONLY : 0);

    if (slirp_add_hostxfwd(s->slirp, (const struct sockaddr *)&host, host_len,
                           (const struct sockaddr *)&guest, guest_len, flags) < 0) {
        int e = errno;
        hostfwd_format(rule, text, sizeof(text));
        return ERR(err, IO, e, "hostfwd '%s': cannot listen on host port %u: %s", text,
                   rule->host_port, strerror(e));
    }
    note_listeners(s);
    return 0;
}
