/*
 * 8254 programmable interval timer: three counters, modes 0 to 5, binary and BCD, latch and
 * read-back (Intel 8254 data sheet); port 61h (Intel ICH9 data sheet, 13.7.1).
 *
 * Nothing ticks: count and output follow from the guest time at which a count was loaded, so
 * nothing drifts. Only counter 0 has a host timer, for its rising edges. A late one makes up
 * for at most MAX_OWED edges, spread over half periods; the rest is dropped.
 *
 * Thread and lock: the machine's device lock; the timer callback takes it.
 * Saved: every latch of the three counters, in guest time; port 61h.
 * Missing: the one-clock delay between writing and loading a count; sound.
 */
#include "dev/timer/i8254.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OWED        10
#define MIN_INTERVAL_NS UINT64_C(20000)
#define REFRESH_NS      UINT64_C(15085)
#define PORT61_GATE     0x01u
#define PORT61_WRITABLE 0x0fu

enum { RW_LATCH, RW_LSB, RW_MSB, RW_BOTH };

struct counter {
    uint32_t n;        /* count in force, 1 to 65536 (10000 in BCD) */
    uint32_t n_next;   /* modes 2 and 3: replaces n at the next period; 0: none */
    uint64_t next_at;  /* tick at which it does */
    uint64_t start_ns; /* guest time of tick 0 of this load */
    uint64_t held;     /* ticks counted before start_ns, or in all while stopped */
    uint16_t latched;
    uint8_t mode, bcd, rw;
    uint8_t write_lsb;              /* first byte of a two-byte write */
    bool write_second, read_second; /* flip-flops */
    bool loaded;                    /* a count was written since the control word */
    bool triggered;                 /* modes 1 and 5: the gate has started it */
    bool gate;
    bool count_latched, status_latched;
    uint8_t status;
};

struct i8254 {
    struct dev dev;
    struct i8254_config cfg;
    struct counter c[3];
    uint8_t port61;
    uint8_t owed;      /* edges of counter 0 that are due */
    uint64_t seen;     /* edges of counter 0 since its load that are accounted for */
    uint64_t fired_ns; /* when the last edge was given */
    struct timer timer;
};

static uint64_t ticks_to_ns(uint64_t ticks)
{
    /* Rounded up: at that time, the tick has happened. */
    return muldiv64(ticks, NSEC_PER_SEC, I8254_HZ) + 1;
}

static bool is_running(const struct counter *c)
{
    if (!c->loaded) {
        return false;
    }
    if (c->mode == 1 || c->mode == 5) {
        return c->triggered;
    }
    return c->gate;
}

/* Ticks since the count was loaded. */
static uint64_t elapsed(const struct counter *c, uint64_t now)
{
    if (!is_running(c) || now < c->start_ns) {
        return c->held;
    }
    return c->held + muldiv64(now - c->start_ns, I8254_HZ, NSEC_PER_SEC);
}

/* Puts a count that waited for the end of a period in force. */
static void counter_sync(struct counter *c, uint64_t now)
{
    if (c->n_next != 0 && is_running(c) && elapsed(c, now) >= c->next_at) {
        c->start_ns += ticks_to_ns(c->next_at - MIN(c->held, c->next_at)) - 1;
        c->held = 0;
        c->n = c->n_next;
        c->n_next = 0;
    }
}

static bool counter_out(const struct counter *c, uint64_t now)
{
    uint64_t e = elapsed(c, now);

    if (!c->loaded) {
        return c->mode != 0;
    }
    switch (c->mode) {
    case 0: return e >= c->n;
    case 1: return !c->triggered || e >= c->n;
    case 2: return !c->gate || e % c->n != c->n - 1;
    case 3: return !c->gate || e % c->n < (c->n + 1) / 2;
    default: return !is_running(c) || e != c->n;
    }
}

static uint16_t to_bcd(uint32_t v)
{
    return (uint16_t)(v % 10 | (v / 10 % 10) << 4 | (v / 100 % 10) << 8 |
                      (v / 1000 % 10) << 12);
}

static uint32_t from_bcd(uint32_t v)
{
    return (v & 0xf) + (v >> 4 & 0xf) * 10 + (v >> 8 & 0xf) * 100 + (v >> 12 & 0xf) * 1000;
}

static uint16_t counter_value(const struct counter *c, uint64_t now)
{
    uint64_t e = elapsed(c, now), wrap = c->bcd ? 10000 : 65536;
    uint32_t v;

    if (c->mode == 2) {
        v = (uint32_t)(c->n - e % c->n);
    } else if (c->mode == 3) {
        v = (uint32_t)(c->n - e * 2 % c->n);
    } else {
        v = (uint32_t)((c->n + wrap - e % wrap) % wrap);
    }
    return c->bcd ? to_bcd(v % 10000) : (uint16_t)v;
}

static uint64_t edges(const struct i8254 *pit, uint64_t now)
{
    const struct counter *c = &pit->c[0];
    uint64_t e = elapsed(c, now);

    switch (c->mode) {
    case 2:
    case 3: return e / c->n;
    case 0: return e >= c->n;
    case 4: return e > c->n;
    default: return 0;
    }
}

/* Moves edges that have happened to owed. */
static void account_edges(struct i8254 *pit, uint64_t now)
{
    struct counter *c = &pit->c[0];
    uint64_t seen, due;

    if (!is_running(c)) {
        return;
    }
    seen = edges(pit, now);
    if (c->n_next != 0 && elapsed(c, now) >= c->next_at) {
        /* Those up to the change of the count, then those of the new count. */
        seen = c->next_at / c->n;
        due = seen - MIN(pit->seen, seen);
        counter_sync(c, now);
        seen = edges(pit, now);
        due += seen;
    } else {
        due = seen - MIN(pit->seen, seen);
    }
    pit->seen = seen;
    pit->owed = (uint8_t)MIN(pit->owed + MIN(due, MAX_OWED), MAX_OWED);
}

static void pit_rearm(struct i8254 *pit, uint64_t now)
{
    const struct counter *c = &pit->c[0];
    uint64_t base = c->start_ns, period = ticks_to_ns(c->n), next;

    if (pit->owed > 0) {
        next = pit->fired_ns + MAX(period / 2, MIN_INTERVAL_NS);
        timer_arm(&pit->timer, MAX(next, now));
        return;
    }
    if (!is_running(c) || c->mode == 1 || c->mode == 5 ||
        (pit->seen != 0 && (c->mode == 0 || c->mode == 4))) {
        timer_disarm(&pit->timer);
        return;
    }
    next = c->mode == 4 ? (uint64_t)c->n + 1 : (pit->seen + 1) * c->n;
    next = base + ticks_to_ns(next - MIN(c->held, next));
    timer_arm(&pit->timer, MAX(next, pit->fired_ns + MIN_INTERVAL_NS));
}

static void pit_fired(void *opaque)
{
    struct i8254 *pit = opaque;
    uint64_t now;

    SCOPED_LOCK(pit->cfg.lock);
    now = vmclock_now_ns(pit->cfg.clock);
    account_edges(pit, now);
    if (pit->owed > 0 && now >= pit->fired_ns + MIN_INTERVAL_NS) {
        pit->owed--;
        pit->fired_ns = now;
        if (pit->c[0].mode != 0) {
            irq_set(&pit->cfg.irq, false);
        }
        irq_set(&pit->cfg.irq, true);
    }
    pit_rearm(pit, now);
}

/* Counter 0 starts over: what it owed for the old count is void. An output that goes high
 * because of the new mode, and not of its count, is no tick. */
static void restart_irq(struct i8254 *pit, uint64_t now)
{
    pit->seen = 0;
    pit->owed = 0;
    if (!counter_out(&pit->c[0], now)) {
        irq_set(&pit->cfg.irq, false);
    }
    pit_rearm(pit, now);
}

static void counter_load(struct i8254 *pit, unsigned i, uint32_t written)
{
    uint64_t now = vmclock_now_ns(pit->cfg.clock);
    struct counter *c = &pit->c[i];
    uint32_t n = c->bcd ? from_bcd(written) : written;

    if (n == 0) {
        n = c->bcd ? 10000 : 65536;
    }
    if ((c->mode == 2 || c->mode == 3) && is_running(c)) {
        if (i == 0) {
            account_edges(pit, now);
        }
        counter_sync(c, now);
        c->n_next = n;
        c->next_at = (elapsed(c, now) / c->n + 1) * c->n;
        if (i == 0) {
            pit_rearm(pit, now);
        }
        return;
    }
    c->n = n;
    c->n_next = 0;
    if ((c->mode == 1 || c->mode == 5) && c->loaded) {
        return; /* takes effect at the next trigger */
    }
    c->loaded = true;
    c->held = 0;
    c->start_ns = now;
    if (i == 0) {
        restart_irq(pit, now);
    }
}

static void counter_set_gate(struct i8254 *pit, unsigned i, bool gate)
{
    uint64_t now = vmclock_now_ns(pit->cfg.clock);
    struct counter *c = &pit->c[i];

    if (c->gate == gate) {
        return;
    }
    counter_sync(c, now);
    if (!gate && (c->mode == 0 || c->mode == 4)) {
        c->held = elapsed(c, now);
    } else if (!gate && (c->mode == 2 || c->mode == 3)) {
        c->held = 0;
    }
    c->gate = gate;
    if (gate) {
        c->start_ns = now;
        if (c->n_next != 0) {
            c->n = c->n_next;
            c->n_next = 0;
        }
        if (c->mode == 1 || c->mode == 5) {
            c->held = 0;
            c->triggered = c->loaded;
        }
    }
}

static void latch_count(struct counter *c, uint64_t now)
{
    if (!c->count_latched) {
        c->count_latched = true;
        c->latched = counter_value(c, now);
    }
}

static void latch_status(struct counter *c, uint64_t now)
{
    if (!c->status_latched) {
        c->status_latched = true;
        c->status = (uint8_t)(counter_out(c, now) << 7 | (!c->loaded || c->n_next != 0) << 6 |
                              c->rw << 4 | c->mode << 1 | c->bcd);
    }
}

static void read_back(struct i8254 *pit, uint8_t value)
{
    uint64_t now = vmclock_now_ns(pit->cfg.clock);

    for (unsigned i = 0; i < 3; i++) {
        if ((value >> (i + 1) & 1) == 0) {
            continue;
        }
        counter_sync(&pit->c[i], now);
        if ((value & 0x20) == 0) {
            latch_count(&pit->c[i], now);
        }
        if ((value & 0x10) == 0) {
            latch_status(&pit->c[i], now);
        }
    }
}

static void control_write(struct i8254 *pit, uint8_t value)
{
    uint64_t now = vmclock_now_ns(pit->cfg.clock);
    unsigned i = value >> 6;
    struct counter *c;
    bool gate;

    if (i == 3) {
        read_back(pit, value);
        return;
    }
    c = &pit->c[i];
    if (i == 0) {
        account_edges(pit, now);
    }
    counter_sync(c, now);
    if ((value >> 4 & 3) == RW_LATCH) {
        latch_count(c, now);
        return;
    }
    gate = c->gate;
    *c = (struct counter){
        .n = c->n,
        .mode = value >> 1 & 7,
        .bcd = value & 1,
        .rw = value >> 4 & 3,
        .gate = gate,
    };
    if (c->mode > 5) {
        c->mode &= 3;
    }
    if (c->bcd) {
        c->n = MIN(c->n, 10000);
    }
    if (i == 0) {
        restart_irq(pit, now);
    }
}

static void count_write(struct i8254 *pit, unsigned i, uint8_t value)
{
    struct counter *c = &pit->c[i];

    switch (c->rw) {
    case RW_LSB: counter_load(pit, i, value); break;
    case RW_MSB: counter_load(pit, i, (uint32_t)value << 8); break;
    default:
        if (!c->write_second) {
            c->write_lsb = value;
            c->write_second = true;
            /* Mode 0 stops counting between the two bytes. */
            if (c->mode == 0) {
                c->loaded = false;
                c->held = 0;
            }
        } else {
            c->write_second = false;
            counter_load(pit, i, (uint32_t)value << 8 | c->write_lsb);
        }
        break;
    }
}

static uint8_t count_read(struct i8254 *pit, unsigned i)
{
    uint64_t now = vmclock_now_ns(pit->cfg.clock);
    struct counter *c = &pit->c[i];
    bool second = c->rw == RW_MSB;
    uint16_t v;

    if (i == 0) {
        account_edges(pit, now);
    }
    counter_sync(c, now);
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    v = c->count_latched ? c->latched : counter_value(c, now);
    if (c->rw == RW_BOTH) {
        second = c->read_second;
        c->read_second = !second;
    }
    if (c->rw != RW_BOTH || second) {
        c->count_latched = false;
    }
    return (uint8_t)(second ? v >> 8 : v);
}

static uint64_t pit_read(void *opaque, uint64_t offset, unsigned len)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < len && offset + i < 4; i++) {
        uint64_t byte = offset + i < 3 ? count_read(opaque, (unsigned)offset + i) : 0;
        value |= byte << (i * 8);
    }
    return value;
}

static void pit_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    for (unsigned i = 0; i < len && offset + i < 4; i++) {
        uint8_t byte = (uint8_t)(value >> (i * 8));
        if (offset + i < 3) {
            count_write(opaque, (unsigned)offset + i, byte);
        } else {
            control_write(opaque, byte);
        }
    }
}

static uint64_t port61_read(void *opaque, uint64_t offset, unsigned len)
{
    struct i8254 *pit = opaque;
    uint64_t now = vmclock_now_ns(pit->cfg.clock);
    uint64_t value = pit->port61;

    (void)offset;
    (void)len;
    counter_sync(&pit->c[2], now);
    value |= (now / REFRESH_NS & 1) << 4;
    value |= (uint64_t)counter_out(&pit->c[2], now) << 5;
    return value;
}

static void port61_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct i8254 *pit = opaque;

    (void)offset;
    (void)len;
    pit->port61 = value & PORT61_WRITABLE;
    counter_set_gate(pit, 2, (value & PORT61_GATE) != 0);
}

static const struct bus_ops pit_bus_ops = {pit_read, pit_write};
static const struct bus_ops port61_bus_ops = {port61_read, port61_write};

static const struct bus_range pit_ranges[] = {
    {.base = 0x40, .size = 4, .ops = &pit_bus_ops, .name = "i8254"},
    {.base = 0x61, .size = 1, .ops = &port61_bus_ops, .name = "port 61h"},
};

static void pit_reset_locked(struct i8254 *pit)
{
    for (unsigned i = 0; i < 3; i++) {
        pit->c[i] = (struct counter){.n = 65536, .mode = 0, .rw = RW_BOTH, .gate = i != 2};
    }
    pit->port61 = 0;
    pit->owed = 0;
    pit->seen = 0;
    timer_disarm(&pit->timer);
}

static void pit_reset(struct dev *dev)
{
    struct i8254 *pit = container_of(dev, struct i8254, dev);

    SCOPED_LOCK(pit->cfg.lock);
    pit_reset_locked(pit);
    irq_set(&pit->cfg.irq, false);
}

#define COUNTER_FIELDS(i)                                                                      \
    STATE_UINT(struct i8254, c[i].n), STATE_UINT(struct i8254, c[i].n_next),                   \
        STATE_UINT(struct i8254, c[i].next_at), STATE_UINT(struct i8254, c[i].start_ns),       \
        STATE_UINT(struct i8254, c[i].held), STATE_UINT(struct i8254, c[i].latched),           \
        STATE_UINT(struct i8254, c[i].mode), STATE_UINT(struct i8254, c[i].bcd),               \
        STATE_UINT(struct i8254, c[i].rw), STATE_UINT(struct i8254, c[i].write_lsb),           \
        STATE_UINT(struct i8254, c[i].write_second),                                           \
        STATE_UINT(struct i8254, c[i].read_second), STATE_UINT(struct i8254, c[i].loaded),     \
        STATE_UINT(struct i8254, c[i].triggered), STATE_UINT(struct i8254, c[i].gate),         \
        STATE_UINT(struct i8254, c[i].count_latched),                                          \
        STATE_UINT(struct i8254, c[i].status_latched), STATE_UINT(struct i8254, c[i].status)

static const struct state_field pit_fields[] = {
    COUNTER_FIELDS(0),
    COUNTER_FIELDS(1),
    COUNTER_FIELDS(2),
    STATE_UINT(struct i8254, port61),
    STATE_UINT(struct i8254, owed),
    STATE_UINT(struct i8254, seen),
    STATE_UINT(struct i8254, fired_ns),
    STATE_END,
};

static void pit_save(struct dev *dev, struct state_writer *w)
{
    struct i8254 *pit = container_of(dev, struct i8254, dev);

    SCOPED_LOCK(pit->cfg.lock);
    state_put_fields(w, pit_fields, pit);
}

static int pit_load(struct dev *dev, struct state_reader *r, uint32_t version, struct err *err)
{
    struct i8254 *pit = container_of(dev, struct i8254, dev);
    int rc;

    (void)version;
    SCOPED_LOCK(pit->cfg.lock);
    timer_disarm(&pit->timer);
    rc = state_get_fields(r, pit_fields, pit, err);
    for (unsigned i = 0; rc == 0 && i < 3; i++) {
        const struct counter *c = &pit->c[i];
        if (c->n == 0 || c->n > 65536 || c->n_next > 65536 || c->mode > 5 || c->bcd > 1 ||
            c->rw > 3) {
            rc = ERR(err, STATE_BAD, EINVAL, "i8254: counter %u: count %u, mode %u", i, c->n,
                     c->mode);
        }
    }
    if (rc < 0) {
        pit_reset_locked(pit);
        return rc;
    }
    pit->owed = (uint8_t)MIN(pit->owed, MAX_OWED);
    return 0;
}

static void pit_resume(struct dev *dev)
{
    struct i8254 *pit = container_of(dev, struct i8254, dev);

    SCOPED_LOCK(pit->cfg.lock);
    pit_rearm(pit, vmclock_now_ns(pit->cfg.clock));
}

static void pit_free(struct dev *dev)
{
    struct i8254 *pit = container_of(dev, struct i8254, dev);

    bus_remove_all(pit->cfg.pio, pit);
    timer_done(&pit->timer);
    free(pit);
}

static const struct dev_ops pit_ops = {
    .name = "i8254",
    .state_version = 1,
    .reset = pit_reset,
    .save = pit_save,
    .load = pit_load,
    .resume = pit_resume,
    .free = pit_free,
};

int i8254_new(struct i8254 **ret_pit, const struct i8254_config *cfg, struct err *err)
{
    struct i8254 *pit = calloc(1, sizeof(*pit));
    int r;

    if (pit == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the interval timer");
    }
    pit->cfg = *cfg;
    pit->dev = (struct dev){.ops = &pit_ops, .lock = cfg->lock};
    r = timer_init(&pit->timer, cfg->loop, cfg->clock, pit_fired, pit, err);
    if (r < 0) {
        free(pit);
        return r;
    }
    pit_reset_locked(pit);
    r = bus_add_ranges(cfg->pio, pit_ranges, ARRAY_LEN(pit_ranges), pit, cfg->lock, err);
    if (r < 0) {
        pit_free(&pit->dev);
        return r;
    }
    *ret_pit = pit;
    return 0;
}

struct dev *i8254_dev(struct i8254 *pit)
{
    return &pit->dev;
}
