/*
 * The console device. Virtio 1.2, 5.3: port 0 is a console; further ports are consoles or named
 * byte channels; control messages; terminal size; emergency write.
 *
 * Threads and lock. vd->lock guards all. Notifications come on vCPU threads and only wake the
 * loop's thread, which hands the guest's bytes to the sink: a sink that is slow never blocks a
 * vCPU. Back-pressure: what the sink does not take stays in the ring. Messages to the driver
 * are kept as one pending bit for each kind and port, so that they need no memory however slow
 * the driver is. Saved: open flags, pending messages, how much of the next buffer was taken.
 */
#include "dev/virtio/virtio_console.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#define F_SIZE        0
#define F_MULTIPORT   1
#define F_EMERG_WRITE 2

#define QUEUE_SIZE    128
#define Q_CONTROL_RX  2
#define Q_CONTROL_TX  3
#define CONFIG_BYTES  12
#define CONFIG_EMERG  8
#define CONTROL_BYTES 8
#define EMERG_BYTES   64

enum event {
    EV_DEVICE_READY = 0,
    EV_DEVICE_ADD = 1,
    EV_PORT_READY = 3,
    EV_CONSOLE_PORT = 4,
    EV_RESIZE = 5,
    EV_PORT_OPEN = 6,
    EV_PORT_NAME = 7,
};

/* Messages that wait for a buffer; sent in this order. */
enum pending { P_ADD = 1, P_CONSOLE = 2, P_NAME = 4, P_OPEN = 8, P_RESIZE = 16, P_ALL = 31 };

struct port {
    struct byte_sink sink;
    void (*rx_room)(void *opaque, unsigned port);
    void *opaque;
    char name[VIRTIO_CONSOLE_NAME_MAX];
    bool host_open;
    bool guest_open;  /* only told with multiport */
    bool blocked;     /* the sink took less than all */
    bool starved;     /* the guest had too little room for input */
    uint8_t pending;  /* enum pending */
    uint64_t tx_done; /* bytes of the next buffer in the ring that the sink has already */
};

struct virtio_console {
    struct virtio_dev vd;
    struct loop_watch *watch;
    int event_fd; /* owned; wakes the loop's thread */
    unsigned port_count;
    uint8_t config[CONFIG_BYTES];
    uint8_t emerg[EMERG_BYTES];
    unsigned emerg_len;
    struct port port[VIRTIO_CONSOLE_PORTS_MAX];
    struct virtq_chain chain; /* scratch */
};

static const uint8_t config_wmask[CONFIG_BYTES] = {
    [CONFIG_EMERG] = 0xff, [9] = 0xff, [10] = 0xff, [11] = 0xff};

static struct virtio_console *of(struct virtio_dev *vd)
{
    return container_of(vd, struct virtio_console, vd);
}

static unsigned rx_queue(unsigned port)
{
    return port == 0 ? 0 : 2 + 2 * port;
}

static unsigned tx_queue(unsigned port)
{
    return rx_queue(port) + 1;
}

static void wake(const struct virtio_console *con)
{
    (void)eventfd_write(con->event_fd, 1);
}

/* ---- output; the loop's thread, lock held ---- */

/* The sink takes the chain from *done on; false: it is full. */
static bool sink_chain(const struct port *port, const struct virtq_chain *c, uint64_t *done)
{
    uint64_t skip = *done;
    for (unsigned i = 0; i < c->out_count; i++) {
        const struct iovec *v = &c->iov[i];
        if (skip >= v->iov_len) {
            skip -= v->iov_len;
            continue;
        }
        size_t want = v->iov_len - (size_t)skip;
        const uint8_t *from = (const uint8_t *)v->iov_base + skip;
        size_t got =
            port->sink.write != NULL ? port->sink.write(port->sink.opaque, from, want) : want;
        *done += MIN(got, want);
        if (got < want) {
            return false;
        }
        skip = 0;
    }
    return true;
}

static void drain_output(struct virtio_console *con, unsigned n)
{
    struct virtio_dev *vd = &con->vd;
    struct port *port = &con->port[n];
    unsigned q = tx_queue(n);

    if (port->blocked || !virtio_running(vd, q)) {
        return;
    }
    do {
        virtq_quiet(&vd->queue[q]);
        while (virtio_pop(vd, q, &con->chain) > 0) {
            uint64_t done = port->tx_done;
            bool all = sink_chain(port, &con->chain, &done);
            port->tx_done = all ? 0 : done;
            if (!all) {
                virtq_unpop(&vd->queue[q], 1);
                port->blocked = true;
                return;
            }
            virtio_push(vd, q, con->chain.head, 0);
        }
    } while (virtio_running(vd, q) && virtq_listen(&vd->queue[q]));
}

static void drain_emergency(struct virtio_console *con)
{
    const struct byte_sink *sink = &con->port[0].sink;
    if (con->emerg_len != 0 && sink->write != NULL) {
        (void)sink->write(sink->opaque, con->emerg, con->emerg_len);
    }
    con->emerg_len = 0;
}

static void on_event(void *opaque, uint32_t events)
{
    struct virtio_console *con = opaque;
    bool room[VIRTIO_CONSOLE_PORTS_MAX] = {false};
    eventfd_t value;
    (void)events;
    (void)eventfd_read(con->event_fd, &value);

    pthread_mutex_lock(&con->vd.lock);
    drain_emergency(con);
    for (unsigned n = 0; n < con->port_count; n++) {
        struct port *port = &con->port[n];
        drain_output(con, n);
        unsigned q = rx_queue(n);
        if (port->starved && virtio_running(&con->vd, q)) {
            room[n] = virtq_listen(&con->vd.queue[q]);
            port->starved = !room[n];
        }
    }
    pthread_mutex_unlock(&con->vd.lock);
    for (unsigned n = 0; n < con->port_count; n++) {
        if (room[n] && con->port[n].rx_room != NULL) {
            con->port[n].rx_room(con->port[n].opaque, n);
        }
    }
}

/* ---- input ---- */

size_t virtio_console_input(struct virtio_dev *vd, unsigned n, const void *data, size_t len)
{
    struct virtio_console *con = of(vd);
    size_t done = 0;
    if (n >= con->port_count) {
        return 0;
    }
    SCOPED_LOCK(&vd->lock);
    unsigned q = rx_queue(n);
    struct port *port = &con->port[n];
    bool listening = !virtio_has(vd, F_MULTIPORT) || port->guest_open;
    while (done < len && listening && virtio_pop(vd, q, &con->chain) > 0) {
        size_t put = virtq_chain_write(&vd->queue[q], &con->chain, 0,
                                       (const uint8_t *)data + done, len - done);
        virtio_push(vd, q, con->chain.head, (uint32_t)put);
        done += put;
    }
    if (done < len) {
        port->starved = true;
        if (virtio_running(vd, q) && listening && virtq_listen(&vd->queue[q])) {
            wake(con); /* a buffer came in between: rx_room is called for it */
        }
    }
    return done;
}

/* ---- control messages ---- */

static uint8_t lowest(uint8_t bits)
{
    return (uint8_t)(bits & -bits);
}

static size_t make_message(const struct virtio_console *con, unsigned n, uint8_t kind,
                           uint8_t *msg)
{
    const struct port *port = &con->port[n];
    uint16_t event = 0;
    uint16_t value = 1;
    size_t len = CONTROL_BYTES;

    switch ((enum pending)kind) {
    case P_ADD: event = EV_DEVICE_ADD; break;
    case P_CONSOLE: event = EV_CONSOLE_PORT; break;
    case P_OPEN:
        event = EV_PORT_OPEN;
        value = port->host_open;
        break;
    case P_NAME:
        event = EV_PORT_NAME;
        memcpy(msg + len, port->name, strlen(port->name));
        len += strlen(port->name);
        break;
    case P_RESIZE:
        event = EV_RESIZE;
        memcpy(msg + len, con->config, 4);
        len += 4;
        break;
    case P_ALL: break;
    }
    put_le32(msg, n);
    put_le16(msg + 4, event);
    put_le16(msg + 6, value);
    return len;
}

static void send_pending(struct virtio_console *con)
{
    struct virtio_dev *vd = &con->vd;
    uint8_t msg[CONTROL_BYTES + VIRTIO_CONSOLE_NAME_MAX];

    for (unsigned n = 0; n < con->port_count; n++) {
        struct port *port = &con->port[n];
        while (port->pending != 0) {
            if (virtio_pop(vd, Q_CONTROL_RX, &con->chain) <= 0) {
                (void)virtq_listen(&vd->queue[Q_CONTROL_RX]);
                return;
            }
            uint8_t kind = lowest(port->pending);
            size_t len = make_message(con, n, kind, msg);
            size_t put = virtq_chain_write(&vd->queue[Q_CONTROL_RX], &con->chain, 0, msg, len);
            virtio_push(vd, Q_CONTROL_RX, con->chain.head, (uint32_t)put);
            port->pending &= (uint8_t)~kind;
        }
    }
}

static void pend(struct virtio_console *con, unsigned n, uint8_t kinds)
{
    if (virtio_has(&con->vd, F_MULTIPORT)) {
        con->port[n].pending |= kinds;
    }
}

static void port_ready(struct virtio_console *con, unsigned n)
{
    const struct port *port = &con->port[n];
    if (port->name[0] == '\0') {
        pend(con, n, P_CONSOLE | (con->config[0] | con->config[1] ? P_RESIZE : 0));
    } else {
        pend(con, n, P_NAME);
    }
    pend(con, n, port->host_open ? P_OPEN : 0);
}

static void control_message(struct virtio_console *con, const uint8_t *msg)
{
    uint32_t n = get_le32(msg);
    uint16_t event = get_le16(msg + 4);
    uint16_t value = get_le16(msg + 6);

    if (event == EV_DEVICE_READY && value == 1) {
        for (unsigned i = 0; i < con->port_count; i++) {
            pend(con, i, P_ADD);
        }
    } else if (n < con->port_count && event == EV_PORT_READY && value == 1) {
        port_ready(con, n);
    } else if (n < con->port_count && event == EV_PORT_OPEN) {
        con->port[n].guest_open = value != 0;
    }
}

static void run_control(struct virtio_console *con)
{
    struct virtio_dev *vd = &con->vd;
    uint8_t msg[CONTROL_BYTES];
    do {
        virtq_quiet(&vd->queue[Q_CONTROL_TX]);
        while (virtio_pop(vd, Q_CONTROL_TX, &con->chain) > 0) {
            if (virtq_chain_read(&con->chain, 0, msg, sizeof(msg)) == sizeof(msg)) {
                control_message(con, msg);
            }
            virtio_push(vd, Q_CONTROL_TX, con->chain.head, 0);
        }
    } while (virtio_running(vd, Q_CONTROL_TX) && virtq_listen(&vd->queue[Q_CONTROL_TX]));
    send_pending(con);
}

/* ---- device ops ---- */

static void console_notify(struct virtio_dev *vd, unsigned q)
{
    struct virtio_console *con = of(vd);
    bool multiport = virtio_has(vd, F_MULTIPORT);

    if (multiport && q == Q_CONTROL_TX) {
        run_control(con);
        wake(con); /* a port may have been opened: input can go on */
    } else if (multiport && q == Q_CONTROL_RX) {
        send_pending(con);
    } else {
        wake(con);
    }
}

static void console_config_written(struct virtio_dev *vd, unsigned off, unsigned len)
{
    struct virtio_console *con = of(vd);
    if (off <= CONFIG_EMERG && CONFIG_EMERG < off + len && con->emerg_len < EMERG_BYTES) {
        con->emerg[con->emerg_len++] = con->config[CONFIG_EMERG];
        wake(con);
    }
    memset(con->config + CONFIG_EMERG, 0, 4);
}

static void console_reset(struct virtio_dev *vd)
{
    struct virtio_console *con = of(vd);
    for (unsigned n = 0; n < con->port_count; n++) {
        struct port *port = &con->port[n];
        port->guest_open = false;
        port->pending = 0;
        port->tx_done = 0;
        /* blocked and starved are about the host's end, and stay. */
    }
}

void virtio_console_tx_ready(struct virtio_dev *vd, unsigned n)
{
    struct virtio_console *con = of(vd);
    if (n >= con->port_count) {
        return;
    }
    SCOPED_LOCK(&vd->lock);
    con->port[n].blocked = false;
    wake(con);
}

void virtio_console_set_open(struct virtio_dev *vd, unsigned n, bool open)
{
    struct virtio_console *con = of(vd);
    if (n >= con->port_count) {
        return;
    }
    SCOPED_LOCK(&vd->lock);
    if (con->port[n].host_open != open) {
        con->port[n].host_open = open;
        pend(con, n, P_OPEN);
        send_pending(con);
    }
}

void virtio_console_resize(struct virtio_dev *vd, uint16_t cols, uint16_t rows)
{
    struct virtio_console *con = of(vd);
    pthread_mutex_lock(&vd->lock);
    put_le16(con->config, cols);
    put_le16(con->config + 2, rows);
    if (virtio_has(vd, F_MULTIPORT)) {
        pend(con, 0, P_RESIZE);
        send_pending(con);
    }
    virtio_config_changed(vd);
    pthread_mutex_unlock(&vd->lock);
}

static void port_fields(char names[4][32], unsigned n)
{
    (void)snprintf(names[0], 32, "p%u.guest_open", n);
    (void)snprintf(names[1], 32, "p%u.pending", n);
    (void)snprintf(names[2], 32, "p%u.tx_done", n);
    (void)snprintf(names[3], 32, "p%u.host_open", n);
}

static void console_save(struct virtio_dev *vd, struct state_writer *w)
{
    const struct virtio_console *con = of(vd);
    char names[4][32];
    state_put_uint(w, "ports", con->port_count);
    for (unsigned n = 0; n < con->port_count; n++) {
        const struct port *port = &con->port[n];
        port_fields(names, n);
        state_put_uint(w, names[0], port->guest_open);
        state_put_uint(w, names[1], port->pending);
        state_put_uint(w, names[2], port->tx_done);
        state_put_uint(w, names[3], port->host_open);
    }
}

static int console_load(struct virtio_dev *vd, struct state_reader *r, uint32_t version,
                        struct err *err)
{
    struct virtio_console *con = of(vd);
    uint64_t ports = 0;
    (void)version;
    int rc = state_get_uint(r, "ports", &ports, err);
    if (rc == 0 && ports != con->port_count) {
        rc = ERR(err, STATE_BAD, EINVAL, "virtio-console: %llu ports in the state, %u here",
                 (unsigned long long)ports, con->port_count);
    }
    for (unsigned n = 0; n < con->port_count && rc == 0; n++) {
        struct port *port = &con->port[n];
        char names[4][32];
        uint64_t v[4] = {0};
        port_fields(names, n);
        for (unsigned i = 0; i < 4 && rc == 0; i++) {
            rc = state_get_uint(r, names[i], &v[i], err);
        }
        port->guest_open = v[0] != 0;
        port->pending = v[1] & P_ALL;
        port->tx_done = v[2];
        if (virtio_has(vd, F_MULTIPORT) && port->host_open != (v[3] != 0)) {
            port->pending |= P_OPEN; /* the other host's end was in another state */
        }
    }
    return rc;
}

static void console_free(struct virtio_dev *vd)
{
    struct virtio_console *con = of(vd);
    loop_unwatch(con->watch);
    if (con->event_fd >= 0) {
        close(con->event_fd);
    }
    virtio_done(vd);
    free(con);
}

static const struct virtio_ops console_ops = {.name = "virtio-console",
                                              .id = VIRTIO_ID_CONSOLE,
                                              .class_code = 0x078000,
                                              .state_version = 1,
                                              .notify = console_notify,
                                              .config_written = console_config_written,
                                              .reset = console_reset,
                                              .save = console_save,
                                              .load = console_load,
                                              .free = console_free};

static int take_ports(struct virtio_console *con, const struct virtio_console_cfg *cfg,
                      struct err *err)
{
    if (cfg->port_count == 0 || cfg->port_count > VIRTIO_CONSOLE_PORTS_MAX) {
        return ERR(err, SPEC_BAD, EINVAL, "virtio-console: %u ports, want 1 to %u",
                   cfg->port_count, VIRTIO_CONSOLE_PORTS_MAX);
    }
    for (unsigned n = 0; n < cfg->port_count; n++) {
        const struct virtio_console_port_cfg *p = &cfg->ports[n];
        const char *name = n != 0 && p->name != NULL ? p->name : "";
        if (strlen(name) >= VIRTIO_CONSOLE_NAME_MAX) {
            return ERR(err, SPEC_BAD, EINVAL,
                       "virtio-console: port name '%s' has more than %u "
                       "bytes",
                       name, VIRTIO_CONSOLE_NAME_MAX - 1);
        }
        struct port *port = &con->port[n];
        port->sink = p->sink;
        port->rx_room = p->rx_room;
        port->opaque = p->opaque;
        port->host_open = true;
        memcpy(port->name, name, strlen(name) + 1);
    }
    con->port_count = cfg->port_count;
    return 0;
}

static int start_events(struct virtio_console *con, struct loop *loop, struct err *err)
{
    con->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (con->event_fd < 0) {
        return ERR(err, LIMIT, errno, "virtio-console: no eventfd: %s", strerror(errno));
    }
    int rc = loop_watch_fd(loop, con->event_fd, EPOLLIN, on_event, con, &con->watch);
    return rc == 0 ? 0 : ERR(err, LIMIT, -rc, "virtio-console: can not watch its event");
}

int virtio_console_new(const struct virtio_console_cfg *cfg, struct virtio_dev **ret_vd,
                       struct err *err)
{
    uint16_t sizes[2 * (VIRTIO_CONSOLE_PORTS_MAX + 1)];
    struct virtio_console *con = calloc(1, sizeof(*con));
    if (con == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "virtio-console");
    }
    con->event_fd = -1;
    int rc = take_ports(con, cfg, err);
    if (rc != 0) {
        free(con);
        return rc;
    }
    bool multiport = cfg->port_count > 1;
    unsigned queues = multiport ? 2 * (cfg->port_count + 1) : 2;
    for (unsigned i = 0; i < queues; i++) {
        sizes[i] = QUEUE_SIZE;
    }
    uint64_t features = VIRTIO_BIT(F_EMERG_WRITE) | VIRTIO_BIT(F_SIZE) |
                        (multiport ? VIRTIO_BIT(F_MULTIPORT) : 0);
    rc = virtio_init(&con->vd, &console_ops, cfg->mem, features, sizes, queues, err);
    if (rc != 0) {
        free(con);
        return rc;
    }
    put_le16(con->config, cfg->cols);
    put_le16(con->config + 2, cfg->rows);
    put_le32(con->config + 4, cfg->port_count);
    con->vd.config = con->config;
    con->vd.config_wmask = config_wmask;
    con->vd.config_len = CONFIG_BYTES;
    rc = start_events(con, cfg->loop, err);
    if (rc != 0) {
        console_free(&con->vd);
        return rc;
    }
    *ret_vd = &con->vd;
    return 0;
}
