/*
 * 16550A serial port (National Semiconductor PC16550D data sheet).
 *
 * Bytes take no time: a transmitted byte is in the output queue at once, a received one in the
 * FIFO. The character time-out interrupt therefore comes with the first byte below the trigger
 * level. Input waits in the back end until the guest listens (request to send, receive
 * interrupt, or a loop that polls the line status): drivers empty the FIFO when they start, and
 * what was typed ahead would be lost. When nobody takes the output, the queue (64 KiB) fills,
 * and the transmitter reports busy for at most STALL_NS without progress; then bytes are
 * dropped until the reader comes back, so that a guest never hangs on its console and a slow
 * reader loses nothing.
 *
 * Thread and lock: the machine's device lock; back ends call in on any thread.
 * Saved: registers, FIFO, output that is still queued.
 * Missing: line speed, parity and framing errors, OUT2 does not gate the interrupt (simple
 * guests never set it), DMA mode.
 */
#include "dev/legacy/uart16550.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR };

#define IER_RDA      0x01u
#define IER_THRE     0x02u
#define IER_RLS      0x04u
#define IER_MSI      0x08u
#define IIR_NONE     0x01u
#define IIR_MSI      0x00u
#define IIR_THRE     0x02u
#define IIR_RDA      0x04u
#define IIR_RLS      0x06u
#define IIR_CTI      0x0cu
#define IIR_FIFO     0xc0u
#define FCR_ENABLE   0x01u
#define FCR_CLEAR_RX 0x02u
#define FCR_CLEAR_TX 0x04u
#define LCR_BREAK    0x40u
#define LCR_DLAB     0x80u
#define MCR_DTR      0x01u
#define MCR_RTS      0x02u
#define MCR_OUT1     0x04u
#define MCR_OUT2     0x08u
#define MCR_LOOP     0x10u
#define LSR_DR       0x01u
#define LSR_OE       0x02u
#define LSR_BI       0x10u
#define LSR_THRE     0x20u
#define LSR_TEMT     0x40u
#define LSR_ERR      0x80u
#define MSR_DELTAS   0x0fu
#define MSR_TERI     0x04u
#define MSR_CTS      0x10u
#define MSR_DSR      0x20u
#define MSR_RI       0x40u
#define MSR_DCD      0x80u

#define FIFO_BYTES 16u
#define STALL_NS   UINT64_C(500000000)
/* Reads of LSR with no byte sent in between, after which a guest must be waiting for input. */
#define POLLS_LISTENING 64u

struct uart16550 {
    struct dev dev;
    struct uart16550_config cfg;
    uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
    uint8_t lsr_errors;        /* OE and BI, until LSR is read */
    uint8_t msr_deltas, modem; /* low and high half of MSR, outside of loopback */
    uint8_t fifo[FIFO_BYTES];
    uint8_t fifo_len;
    uint8_t polls; /* reads of LSR since the last byte was sent, up to POLLS_LISTENING */
    bool thre_irq; /* the transmitter-empty interrupt is due */
    bool blocked;  /* the queue was filled and nobody has taken from it since */
    bool stalled;  /* output is dropped until the reader takes some */
    struct byteq *out;
    struct timer stall;
};

static bool fifo_on(const struct uart16550 *u)
{
    return (u->fcr & FCR_ENABLE) != 0;
}

static unsigned rx_capacity(const struct uart16550 *u)
{
    return fifo_on(u) ? FIFO_BYTES : 1;
}

static unsigned rx_trigger(const struct uart16550 *u)
{
    static const uint8_t levels[] = {1, 4, 8, 14};

    return fifo_on(u) ? levels[u->fcr >> 6] : 1;
}

static bool tx_empty(const struct uart16550 *u)
{
    return u->stalled || !byteq_is_full(u->out);
}

static uint8_t lsr_value(const struct uart16550 *u)
{
    uint8_t v = u->lsr_errors;

    v |= u->fifo_len > 0 ? LSR_DR : 0;
    v |= tx_empty(u) ? LSR_THRE | LSR_TEMT : 0;
    v |= fifo_on(u) && (v & LSR_BI) != 0 ? LSR_ERR : 0;
    return v;
}

static uint8_t modem_value(const struct uart16550 *u)
{
    uint8_t v = 0;

    if ((u->mcr & MCR_LOOP) == 0) {
        return u->modem;
    }
    v |= (u->mcr & MCR_RTS) != 0 ? MSR_CTS : 0;
    v |= (u->mcr & MCR_DTR) != 0 ? MSR_DSR : 0;
    v |= (u->mcr & MCR_OUT1) != 0 ? MSR_RI : 0;
    v |= (u->mcr & MCR_OUT2) != 0 ? MSR_DCD : 0;
    return v;
}

/* The most urgent interrupt identification that is enabled and due. */
static uint8_t interrupt_id(const struct uart16550 *u)
{
    if ((u->ier & IER_RLS) != 0 && u->lsr_errors != 0) {
        return IIR_RLS;
    }
    if ((u->ier & IER_RDA) != 0 && u->fifo_len > 0) {
        return u->fifo_len >= rx_trigger(u) ? IIR_RDA : IIR_CTI;
    }
    if ((u->ier & IER_THRE) != 0 && u->thre_irq) {
        return IIR_THRE;
    }
    if ((u->ier & IER_MSI) != 0 && u->msr_deltas != 0) {
        return IIR_MSI;
    }
    return IIR_NONE;
}

static void uart_update(struct uart16550 *u)
{
    irq_set(&u->cfg.irq, interrupt_id(u) != IIR_NONE);
}

/* Notes changes of the modem inputs from old to what they are now. */
static void modem_changed(struct uart16550 *u, uint8_t old)
{
    uint8_t now = modem_value(u), changed = old ^ now;

    u->msr_deltas |= (changed & MSR_CTS) != 0 ? 1 : 0;
    u->msr_deltas |= (changed & MSR_DSR) != 0 ? 2 : 0;
    u->msr_deltas |= (changed & MSR_DCD) != 0 ? 8 : 0;
    /* The ring indicator counts its trailing edge only. */
    u->msr_deltas |= (changed & MSR_RI) != 0 && (now & MSR_RI) == 0 ? MSR_TERI : 0;
}

static bool is_listening(const struct uart16550 *u)
{
    /* All four interrupts for a moment is how drivers probe the register's width. */
    bool wants_irq = (u->ier & IER_RDA) != 0 && u->ier != 0x0f;

    return (u->mcr & MCR_LOOP) == 0 &&
           ((u->mcr & MCR_RTS) != 0 || wants_irq || u->polls == POLLS_LISTENING);
}

static void rx_wanted(const struct uart16550 *u)
{
    if (u->cfg.rx_ready != NULL && is_listening(u)) {
        u->cfg.rx_ready(u->cfg.rx_opaque);
    }
}

static void rx_push(struct uart16550 *u, uint8_t byte)
{
    if (u->fifo_len < rx_capacity(u)) {
        u->fifo[u->fifo_len++] = byte;
    } else {
        u->lsr_errors |= LSR_OE;
        if (!fifo_on(u)) {
            u->fifo[0] = byte;
        }
    }
}

static uint8_t rx_pop(struct uart16550 *u)
{
    uint8_t byte = u->fifo[0];

    if (u->fifo_len == 0) {
        return 0;
    }
    u->fifo_len--;
    memmove(u->fifo, u->fifo + 1, u->fifo_len);
    if (u->fifo_len == 0) {
        rx_wanted(u);
    }
    return byte;
}

static void tx_byte(struct uart16550 *u, uint8_t byte)
{
    u->thre_irq = false;
    u->polls = 0;
    if ((u->mcr & MCR_LOOP) != 0) {
        rx_push(u, byte);
    } else {
        byteq_put(u->out, byte);
        if (byteq_is_full(u->out) && !u->blocked) {
            u->blocked = true;
            timer_arm(&u->stall, vmclock_now_ns(u->cfg.clock) + STALL_NS);
        }
    }
    u->thre_irq = tx_empty(u);
}

/* Output left the queue. */
static void tx_progress(void *opaque)
{
    struct uart16550 *u = opaque;

    if (u->blocked) {
        timer_disarm(&u->stall);
        u->blocked = false;
        u->stalled = false;
        u->thre_irq = true;
        uart_update(u);
    }
}

static void stall_fired(void *opaque)
{
    struct uart16550 *u = opaque;

    SCOPED_LOCK(u->cfg.lock);
    if (byteq_is_full(u->out)) {
        u->stalled = true;
        u->thre_irq = true;
        uart_update(u);
    }
}

static void fcr_write(struct uart16550 *u, uint8_t value)
{
    if ((value & FCR_ENABLE) == 0) {
        /* Turning the FIFOs off empties them; the other bits count only with bit 0. */
        if (fifo_on(u)) {
            u->fifo_len = 0;
        }
        u->fcr = 0;
        return;
    }
    /* The chip also empties them when they are turned on. Drivers enable the interrupt just
     * before: a byte that came in between is kept, as if it had come a moment later. */
    if ((value & FCR_CLEAR_RX) != 0) {
        u->fifo_len = 0;
        rx_wanted(u);
    }
    if ((value & FCR_CLEAR_TX) != 0 || !fifo_on(u)) {
        u->thre_irq = tx_empty(u);
    }
    u->fcr = value & 0xc9;
}

static void ier_write(struct uart16550 *u, uint8_t value)
{
    /* Enabling the transmitter interrupt while it is empty raises it. */
    if ((value & ~u->ier & IER_THRE) != 0 && tx_empty(u)) {
        u->thre_irq = true;
    }
    u->ier = value & 0x0f;
}

static void tell_modem(const struct uart16550 *u)
{
    if (u->cfg.modem != NULL) {
        u->cfg.modem(u->cfg.modem_opaque, (u->mcr & MCR_DTR) != 0, (u->mcr & MCR_RTS) != 0,
                     (u->lcr & LCR_BREAK) != 0);
    }
}

static void uart_write_byte(struct uart16550 *u, unsigned reg, uint8_t value)
{
    uint8_t old = modem_value(u);
    bool dlab = (u->lcr & LCR_DLAB) != 0, listened = is_listening(u);

    switch (reg) {
    case RBR:
        if (dlab) {
            u->dll = value;
        } else {
            tx_byte(u, value);
        }
        break;
    case IER:
        if (dlab) {
            u->dlm = value;
        } else {
            ier_write(u, value);
        }
        break;
    case IIR: fcr_write(u, value); break;
    case LCR:
        u->lcr = value;
        tell_modem(u);
        break;
    case MCR:
        u->mcr = value & 0x1f;
        modem_changed(u, old);
        tell_modem(u);
        break;
    case SCR: u->scr = value; break;
    default: break; /* LSR and MSR: factory test */
    }
    if (!listened) {
        rx_wanted(u);
    }
    uart_update(u);
}

static uint8_t uart_read_byte(struct uart16550 *u, unsigned reg)
{
    bool dlab = (u->lcr & LCR_DLAB) != 0;
    uint8_t v = 0;

    switch (reg) {
    case RBR: v = dlab ? u->dll : rx_pop(u); break;
    case IER: v = dlab ? u->dlm : u->ier; break;
    case IIR:
        v = interrupt_id(u);
        if (v == IIR_THRE) {
            u->thre_irq = false;
        }
        v |= fifo_on(u) ? IIR_FIFO : 0;
        break;
    case LCR: v = u->lcr; break;
    case MCR: v = u->mcr; break;
    case LSR:
        v = lsr_value(u);
        u->lsr_errors = 0;
        if (u->polls < POLLS_LISTENING && ++u->polls == POLLS_LISTENING) {
            rx_wanted(u);
        }
        break;
    case MSR:
        v = modem_value(u) | u->msr_deltas;
        u->msr_deltas = 0;
        break;
    default: v = u->scr; break;
    }
    uart_update(u);
    return v;
}

static uint64_t uart_read(void *opaque, uint64_t offset, unsigned len)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < len; i++) {
        value |= (uint64_t)uart_read_byte(opaque, (unsigned)(offset + i) & 7) << (i * 8);
    }
    return value;
}

static void uart_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    for (unsigned i = 0; i < len; i++) {
        uart_write_byte(opaque, (unsigned)(offset + i) & 7, (uint8_t)(value >> (i * 8)));
    }
}

static const struct bus_ops uart_bus_ops = {uart_read, uart_write};

static void uart_reset_locked(struct uart16550 *u)
{
    u->ier = u->fcr = u->lcr = u->mcr = u->scr = 0;
    u->dll = 1;
    u->dlm = 0;
    u->lsr_errors = u->msr_deltas = 0;
    u->fifo_len = 0;
    u->polls = 0;
    u->thre_irq = false;
    uart_update(u);
}

static void uart_reset(struct dev *dev)
{
    struct uart16550 *u = container_of(dev, struct uart16550, dev);

    SCOPED_LOCK(u->cfg.lock);
    uart_reset_locked(u);
}

static const struct state_field uart_fields[] = {
    STATE_UINT(struct uart16550, ier),
    STATE_UINT(struct uart16550, fcr),
    STATE_UINT(struct uart16550, lcr),
    STATE_UINT(struct uart16550, mcr),
    STATE_UINT(struct uart16550, scr),
    STATE_UINT(struct uart16550, dll),
    STATE_UINT(struct uart16550, dlm),
    STATE_UINT(struct uart16550, lsr_errors),
    STATE_UINT(struct uart16550, msr_deltas),
    STATE_UINT(struct uart16550, modem),
    STATE_BYTES(struct uart16550, fifo),
    STATE_UINT(struct uart16550, fifo_len),
    STATE_UINT(struct uart16550, thre_irq),
    STATE_UINT(struct uart16550, stalled),
    STATE_END,
};

static void uart_save(struct dev *dev, struct state_writer *w)
{
    struct uart16550 *u = container_of(dev, struct uart16550, dev);
    _cleanup_free_ uint8_t *queued = malloc(BYTEQ_BYTES);
    size_t n = 0;

    SCOPED_LOCK(u->cfg.lock);
    state_put_fields(w, uart_fields, u);
    if (queued != NULL) {
        n = byteq_copy(u->out, queued);
    }
    state_put_bytes(w, "out", queued, n);
}

static int uart_load(struct dev *dev, struct state_reader *r, uint32_t version, struct err *err)
{
    struct uart16550 *u = container_of(dev, struct uart16550, dev);
    const void *queued = NULL;
    size_t n = 0;
    int rc;

    (void)version;
    SCOPED_LOCK(u->cfg.lock);
    timer_disarm(&u->stall);
    rc = state_get_fields(r, uart_fields, u, err);
    if (rc == 0 && u->fifo_len > FIFO_BYTES) {
        rc = ERR(err, STATE_BAD, EINVAL, "uart16550: %u bytes in a FIFO of %u", u->fifo_len,
                 FIFO_BYTES);
    }
    if (rc == 0) {
        rc = state_get_blob(r, "out", BYTEQ_BYTES, &queued, &n, err);
    }
    if (rc < 0) {
        uart_reset_locked(u);
        return rc;
    }
    u->lsr_errors &= LSR_OE | LSR_BI;
    u->msr_deltas &= MSR_DELTAS;
    u->modem &= (uint8_t)~MSR_DELTAS;
    byteq_set(u->out, queued, n);
    u->blocked = byteq_is_full(u->out);
    u->stalled = u->stalled && u->blocked;
    return 0;
}

static void uart_pause(struct dev *dev)
{
    struct uart16550 *u = container_of(dev, struct uart16550, dev);

    if (u->cfg.out.write != NULL) {
        byteq_drain(u->out);
    }
}

static void uart_resume(struct dev *dev)
{
    struct uart16550 *u = container_of(dev, struct uart16550, dev);

    SCOPED_LOCK(u->cfg.lock);
    byteq_kick(u->out);
    if (byteq_is_full(u->out) && !u->stalled) {
        timer_arm(&u->stall, vmclock_now_ns(u->cfg.clock) + STALL_NS);
    }
    if (u->fifo_len == 0) {
        rx_wanted(u);
    }
}

static void uart_free(struct dev *dev)
{
    struct uart16550 *u = container_of(dev, struct uart16550, dev);

    bus_remove_all(u->cfg.pio, u);
    byteq_free(u->out);
    timer_done(&u->stall);
    free(u);
}

static const struct dev_ops uart_ops = {
    .name = "uart16550",
    .state_version = 1,
    .reset = uart_reset,
    .save = uart_save,
    .load = uart_load,
    .pause = uart_pause,
    .resume = uart_resume,
    .free = uart_free,
};

int uart16550_new(struct uart16550 **ret_uart, const struct uart16550_config *cfg,
                  struct err *err)
{
    struct uart16550 *u = calloc(1, sizeof(*u));
    int r;

    if (u == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for a serial port");
    }
    u->cfg = *cfg;
    u->cfg.base = cfg->base != 0 ? cfg->base : 0x3f8;
    u->dev = (struct dev){.ops = &uart_ops, .instance = cfg->instance, .lock = cfg->lock};
    u->modem = MSR_CTS | MSR_DSR | MSR_DCD;
    r = byteq_new(&u->out, cfg->loop, cfg->lock, cfg->out, tx_progress, u);
    if (r < 0) {
        free(u);
        return ERR(err, LIMIT, -r, "cannot make a serial port: %s", strerror(-r));
    }
    r = timer_init(&u->stall, cfg->loop, cfg->clock, stall_fired, u, err);
    if (r == 0) {
        const struct bus_range range = {
            .base = u->cfg.base, .size = 8, .ops = &uart_bus_ops, .name = "uart16550"};
        uart_reset_locked(u);
        r = bus_add_ranges(cfg->pio, &range, 1, u, cfg->lock, err);
    }
    if (r < 0) {
        uart_free(&u->dev);
        return r;
    }
    *ret_uart = u;
    return 0;
}

struct dev *uart16550_dev(struct uart16550 *u)
{
    return &u->dev;
}

size_t uart16550_room(struct uart16550 *u)
{
    SCOPED_LOCK(u->cfg.lock);
    return is_listening(u) ? rx_capacity(u) - MIN(u->fifo_len, rx_capacity(u)) : 0;
}

size_t uart16550_receive(struct uart16550 *u, const uint8_t *data, size_t len)
{
    size_t n = 0;

    SCOPED_LOCK(u->cfg.lock);
    while (n < len && is_listening(u) && u->fifo_len < rx_capacity(u)) {
        rx_push(u, data[n++]);
    }
    uart_update(u);
    return n;
}

void uart16550_receive_break(struct uart16550 *u)
{
    SCOPED_LOCK(u->cfg.lock);
    rx_push(u, 0);
    u->lsr_errors |= LSR_BI;
    uart_update(u);
}

void uart16550_tx_ready(struct uart16550 *u)
{
    SCOPED_LOCK(u->cfg.lock);
    byteq_kick(u->out);
}

uint64_t uart16550_dropped(struct uart16550 *u)
{
    SCOPED_LOCK(u->cfg.lock);
    return u->out->dropped;
}

void uart16550_set_carrier(struct uart16550 *u, bool on)
{
    uint8_t old;

    SCOPED_LOCK(u->cfg.lock);
    old = modem_value(u);
    u->modem = on ? MSR_CTS | MSR_DSR | MSR_DCD : 0;
    modem_changed(u, old);
    uart_update(u);
}
