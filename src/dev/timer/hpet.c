/*
 * HPET: a 64-bit counter at 100 MHz and three comparators, one-shot and periodic, level and
 * edge, routed to the I/O APIC, the legacy wires or as messages (IA-PC HPET
 * specification 1.0a).
 *
 * The counter is guest time; a comparator is a deadline. A periodic timer that is late fires
 * once and its comparator moves past the counter by whole periods, so the phase stays.
 *
 * Thread and lock: own lock, below the machine's device lock (the PIT and RTC wires come
 * through) and above the interrupt controllers; timer callbacks take it. Saved: all registers,
 * the counter, the input wires. Missing: nothing.
 */
#include "dev/timer/hpet.h"

#include "base/ckd.h"
#include "base/cleanup.h"
#include "dev/regs.h"

#include <errno.h>
#include <stdlib.h>

#define CFG_ENABLE 0x1u
#define CFG_LEGACY 0x2u

#define TN_LEVEL    UINT64_C(0x0002)
#define TN_ENABLE   UINT64_C(0x0004)
#define TN_PERIODIC UINT64_C(0x0008)
#define TN_PER_CAP  UINT64_C(0x0010)
#define TN_SIZE_CAP UINT64_C(0x0020)
#define TN_VAL_SET  UINT64_C(0x0040)
#define TN_32MODE   UINT64_C(0x0100)
#define TN_ROUTE    UINT64_C(0x3e00)
#define TN_FSB      UINT64_C(0x4000)
#define TN_FSB_CAP  UINT64_C(0x8000)
#define TN_WRITABLE (TN_LEVEL | TN_ENABLE | TN_PERIODIC | TN_VAL_SET | TN_32MODE | TN_ROUTE)

#define NS_PER_TICK (HPET_PERIOD_FS / 1000000)
/* A faster periodic timer would only flood the host. */
#define MIN_PERIOD_NS UINT64_C(20000)
/* Deadlines further away than this (36 years) are never. */
#define FAR_TICKS (UINT64_C(1) << 57)

enum { R_CAPS, R_CFG, R_ISR, R_COUNTER, R_TIMER };
enum { T_CONFIG, T_COMPARATOR, T_FSB, T_REGS };
#define N_REGS (R_TIMER + HPET_TIMERS * T_REGS)

struct hpet_timer {
    struct hpet *hpet;
    struct timer timer;
    uint64_t deadline; /* next match, in ticks since start_ns */
    bool pending;      /* deadline is valid */
};

struct hpet {
    struct dev dev;
    struct hpet_config cfg;
    pthread_mutex_t lock;
    struct reg table[N_REGS];
    struct regs regs;
    uint64_t values[N_REGS];
    uint64_t period[HPET_TIMERS]; /* accumulator step of periodic timers, in ticks */
    uint64_t start_ns; /* when it was enabled; values[R_COUNTER] is the count at that time */
    uint8_t pit_in, rtc_in; /* levels of the wires that pass through */
    struct hpet_timer t[HPET_TIMERS];
};

static bool is_on(const struct hpet *h)
{
    return (h->values[R_CFG] & CFG_ENABLE) != 0;
}

static bool is_legacy(const struct hpet *h)
{
    return (h->values[R_CFG] & CFG_LEGACY) != 0;
}

static uint64_t *timer_reg(struct hpet *h, unsigned n, unsigned which)
{
    return &h->values[R_TIMER + n * T_REGS + which];
}

/* Ticks since the counter was enabled. */
static uint64_t elapsed(const struct hpet *h)
{
    return is_on(h) ? (vmclock_now_ns(h->cfg.clock) - h->start_ns) / NS_PER_TICK : 0;
}

static uint64_t counter(const struct hpet *h)
{
    return h->values[R_COUNTER] + elapsed(h);
}

static bool is_32bit(struct hpet *h, unsigned n)
{
    return (*timer_reg(h, n, T_CONFIG) & TN_32MODE) != 0;
}

static unsigned gsi_of(struct hpet *h, unsigned n)
{
    if (is_legacy(h) && n < 2) {
        return n == 0 ? 0 : 8;
    }
    return (unsigned)(*timer_reg(h, n, T_CONFIG) & TN_ROUTE) >> 9;
}

static void set_gsi(struct hpet *h, unsigned gsi, bool level)
{
    /* Outside of the legacy wires a timer owns only the GSIs that its capability names. */
    if (((is_legacy(h) && (gsi == 0 || gsi == 8)) || (h->cfg.route_cap >> gsi & 1) != 0) &&
        h->cfg.set_gsi != NULL) {
        h->cfg.set_gsi(h->cfg.opaque, gsi, level);
    }
}

static void lower(struct hpet *h, unsigned n)
{
    set_gsi(h, gsi_of(h, n), false);
}

static void deliver(struct hpet *h, unsigned n)
{
    uint64_t config = *timer_reg(h, n, T_CONFIG);
    uint64_t fsb = *timer_reg(h, n, T_FSB);

    if ((config & TN_LEVEL) != 0) {
        h->values[R_ISR] |= UINT64_C(1) << n;
    }
    if ((config & TN_ENABLE) == 0) {
        return;
    }
    if ((config & TN_FSB) != 0) {
        msi_send(&h->cfg.msi, fsb >> 32, (uint32_t)fsb);
        return;
    }
    if ((config & TN_LEVEL) == 0) {
        set_gsi(h, gsi_of(h, n), false);
    }
    set_gsi(h, gsi_of(h, n), true);
}

/* Works out when the comparator next equals the counter, and arms the host timer for it. */
static void schedule(struct hpet *h, unsigned n)
{
    struct hpet_timer *t = &h->t[n];
    uint64_t now, left;

    t->pending = false;
    timer_disarm(&t->timer);
    if (!is_on(h)) {
        return;
    }
    now = elapsed(h);
    left = *timer_reg(h, n, T_COMPARATOR) - (h->values[R_COUNTER] + now);
    if (is_32bit(h, n)) {
        left &= UINT32_MAX;
    }
    if (left > FAR_TICKS || now > FAR_TICKS) {
        return;
    }
    t->deadline = now + left;
    t->pending = true;
    timer_arm(&t->timer, h->start_ns + t->deadline * NS_PER_TICK);
}

static void schedule_all(struct hpet *h)
{
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        schedule(h, n);
    }
}

/* After a match: the next one of a periodic timer, or of a 32-bit one-shot the wrap-around. */
static void advance(struct hpet *h, unsigned n, uint64_t now)
{
    struct hpet_timer *t = &h->t[n];
    uint64_t config = *timer_reg(h, n, T_CONFIG), step = h->period[n];
    uint64_t *comparator = timer_reg(h, n, T_COMPARATOR);

    t->pending = false;
    if ((config & TN_PERIODIC) != 0 && step != 0) {
        step = MAX(step, MIN_PERIOD_NS / NS_PER_TICK);
        step *= (now - t->deadline) / step + 1;
    } else if ((config & TN_32MODE) != 0) {
        step = UINT64_C(1) << 32;
    } else {
        return;
    }
    if (step > FAR_TICKS || now > FAR_TICKS) {
        return;
    }
    t->deadline += step;
    t->pending = true;
    if ((config & TN_PERIODIC) != 0) {
        *comparator += step;
        if (is_32bit(h, n)) {
            *comparator = (uint32_t)*comparator;
        }
    }
    timer_arm(&t->timer, h->start_ns + t->deadline * NS_PER_TICK);
}

static void hpet_fired(void *opaque)
{
    struct hpet_timer *t = opaque;
    struct hpet *h = t->hpet;
    unsigned n = (unsigned)(t - h->t);
    uint64_t now;

    SCOPED_LOCK(&h->lock);
    now = elapsed(h);
    if (is_on(h) && t->pending && now >= t->deadline) {
        advance(h, n, now);
        deliver(h, n);
    }
}

static uint64_t on_counter_read(void *opaque, const struct reg *reg, uint64_t stored)
{
    (void)reg;
    (void)stored;
    return counter(opaque);
}

static void on_counter_write(void *opaque, const struct reg *reg, uint64_t old, uint64_t now,
                             uint64_t covered)
{
    struct hpet *h = opaque;

    (void)reg;
    (void)covered;
    /* The specification allows writes only while the counter is halted. */
    if (is_on(h)) {
        h->values[R_COUNTER] = old;
    } else {
        h->values[R_COUNTER] = now;
    }
}

static void on_config_write(void *opaque, const struct reg *reg, uint64_t old, uint64_t now,
                            uint64_t covered)
{
    struct hpet *h = opaque;
    uint64_t changed = old ^ now;

    (void)reg;
    (void)covered;
    if ((changed & CFG_LEGACY) != 0) {
        /* Hand the two wires over in a defined state. */
        h->values[R_CFG] = now | CFG_LEGACY;
        set_gsi(h, 0, (now & CFG_LEGACY) == 0 && h->pit_in != 0);
        set_gsi(h, 8, (now & CFG_LEGACY) == 0 && h->rtc_in != 0);
        h->values[R_CFG] = now;
    }
    if ((changed & CFG_ENABLE) == 0) {
        return;
    }
    if ((now & CFG_ENABLE) != 0) {
        h->start_ns = vmclock_now_ns(h->cfg.clock);
    } else {
        h->values[R_CFG] = old;
        h->values[R_COUNTER] = counter(h);
        h->values[R_CFG] = now;
    }
    schedule_all(h);
}

static void on_status_write(void *opaque, const struct reg *reg, uint64_t old, uint64_t now,
                            uint64_t covered)
{
    struct hpet *h = opaque;

    (void)reg;
    (void)covered;
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        if (((old & ~now) >> n & 1) != 0) {
            lower(h, n);
        }
    }
}

static void on_timer_config(void *opaque, const struct reg *reg, uint64_t old, uint64_t now,
                            uint64_t covered)
{
    struct hpet *h = opaque;
    unsigned n = reg->arg;
    uint64_t *comparator = timer_reg(h, n, T_COMPARATOR);

    (void)covered;
    /* A timer that is turned off, or turned to messages or edges, drops its line. */
    if (((old & TN_ENABLE) != 0 && (now & TN_ENABLE) == 0) || ((old ^ now) & TN_ROUTE) != 0 ||
        ((old & TN_LEVEL) != 0 && (now & TN_LEVEL) == 0)) {
        *timer_reg(h, n, T_CONFIG) = old;
        lower(h, n);
        *timer_reg(h, n, T_CONFIG) = now;
        h->values[R_ISR] &= ~(UINT64_C(1) << n);
    }
    if ((h->values[R_ISR] >> n & 1) != 0 && (now & TN_ENABLE) != 0) {
        set_gsi(h, gsi_of(h, n), true);
    }
    if ((now & TN_32MODE) != 0) {
        *comparator = (uint32_t)*comparator;
        h->period[n] = (uint32_t)h->period[n];
    }
    if (((old ^ now) & (TN_PERIODIC | TN_32MODE)) != 0) {
        schedule(h, n);
    }
}

/* The stored comparator is the accumulator of a periodic timer; what a program writes to it
 * goes to the period, and to the accumulator only after TN_VAL_SET. */
static void on_comparator_write(void *opaque, const struct reg *reg, uint64_t old, uint64_t now,
                                uint64_t covered)
{
    struct hpet *h = opaque;
    unsigned n = reg->arg;
    uint64_t *config = timer_reg(h, n, T_CONFIG);
    uint64_t *comparator = timer_reg(h, n, T_COMPARATOR);
    uint64_t written = now & covered;

    if (is_32bit(h, n)) {
        now = (uint32_t)now;
        written = (uint32_t)written;
        covered &= UINT32_MAX;
    }
    if ((*config & TN_PERIODIC) != 0) {
        h->period[n] = (h->period[n] & ~covered) | written;
        if ((*config & TN_VAL_SET) == 0) {
            now = old;
        }
        *config &= ~TN_VAL_SET;
    }
    *comparator = now;
    schedule(h, n);
}

static uint64_t hpet_read(void *opaque, uint64_t offset, unsigned len)
{
    struct hpet *h = opaque;

    return regs_read(&h->regs, offset, len);
}

static void hpet_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct hpet *h = opaque;

    regs_write(&h->regs, offset, len, value);
}

static const struct bus_ops hpet_bus_ops = {hpet_read, hpet_write};

static void make_table(struct hpet *h)
{
    uint64_t fsb = h->cfg.msi.send != NULL ? TN_FSB_CAP : 0;

    h->table[R_CAPS] = (struct reg){.name = "GCAP_ID",
                                    .offset = 0x00,
                                    .width_bytes = 8,
                                    .readable = UINT64_MAX,
                                    .reset = HPET_PERIOD_FS << 32 | HPET_BLOCK_ID};
    h->table[R_CFG] = (struct reg){.name = "GEN_CONF",
                                   .offset = 0x10,
                                   .width_bytes = 8,
                                   .readable = UINT64_MAX,
                                   .writable = CFG_ENABLE | CFG_LEGACY,
                                   .on_write = on_config_write};
    h->table[R_ISR] = (struct reg){.name = "GINTR_STA",
                                   .offset = 0x20,
                                   .width_bytes = 8,
                                   .readable = UINT64_MAX,
                                   .w1c = 7,
                                   .on_write = on_status_write};
    h->table[R_COUNTER] = (struct reg){.name = "MAIN_CNT",
                                       .offset = 0xf0,
                                       .width_bytes = 8,
                                       .readable = UINT64_MAX,
                                       .writable = UINT64_MAX,
                                       .on_read = on_counter_read,
                                       .on_write = on_counter_write};
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        struct reg *r = &h->table[R_TIMER + n * T_REGS];
        uint32_t at = 0x100 + 0x20 * n;
        r[T_CONFIG] = (struct reg){.name = "TN_CONF",
                                   .offset = at,
                                   .width_bytes = 8,
                                   .arg = (uint8_t)n,
                                   .readable = ~TN_VAL_SET,
                                   .writable = TN_WRITABLE | (fsb != 0 ? TN_FSB : 0),
                                   .reset = (uint64_t)h->cfg.route_cap << 32 | TN_PER_CAP |
                                            TN_SIZE_CAP | fsb,
                                   .on_write = on_timer_config};
        r[T_COMPARATOR] = (struct reg){.name = "TN_COMP",
                                       .offset = at + 8,
                                       .width_bytes = 8,
                                       .arg = (uint8_t)n,
                                       .readable = UINT64_MAX,
                                       .writable = UINT64_MAX,
                                       .reset = UINT64_MAX,
                                       .on_write = on_comparator_write};
        r[T_FSB] = (struct reg){.name = "TN_FSB",
                                .offset = at + 16,
                                .width_bytes = 8,
                                .arg = (uint8_t)n,
                                .readable = UINT64_MAX,
                                .writable = UINT64_MAX};
    }
    h->regs = (struct regs){.table = h->table, .n = N_REGS, .values = h->values, .opaque = h};
}

static void hpet_reset_locked(struct hpet *h)
{
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        lower(h, n);
        h->period[n] = 0;
        h->t[n].pending = false;
        timer_disarm(&h->t[n].timer);
    }
    regs_reset(&h->regs);
}

static void hpet_reset(struct dev *dev)
{
    struct hpet *h = container_of(dev, struct hpet, dev);

    SCOPED_LOCK(&h->lock);
    hpet_reset_locked(h);
}

static const struct state_field hpet_fields[] = {
    STATE_UINTS(struct hpet, values),      STATE_UINTS(struct hpet, period),
    STATE_UINT(struct hpet, start_ns),     STATE_UINT(struct hpet, pit_in),
    STATE_UINT(struct hpet, rtc_in),       STATE_UINT(struct hpet, t[0].deadline),
    STATE_UINT(struct hpet, t[0].pending), STATE_UINT(struct hpet, t[1].deadline),
    STATE_UINT(struct hpet, t[1].pending), STATE_UINT(struct hpet, t[2].deadline),
    STATE_UINT(struct hpet, t[2].pending), STATE_END,
};

static void hpet_save(struct dev *dev, struct state_writer *w)
{
    struct hpet *h = container_of(dev, struct hpet, dev);

    SCOPED_LOCK(&h->lock);
    state_put_fields(w, hpet_fields, h);
}

static void hpet_rearm(struct hpet *h)
{
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        struct hpet_timer *t = &h->t[n];
        if (is_on(h) && t->pending && t->deadline <= 2 * FAR_TICKS) {
            timer_arm(&t->timer, h->start_ns + t->deadline * NS_PER_TICK);
        }
    }
}

static int hpet_load(struct dev *dev, struct state_reader *r, uint32_t version, struct err *err)
{
    struct hpet *h = container_of(dev, struct hpet, dev);
    int rc;

    (void)version;
    SCOPED_LOCK(&h->lock);
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        timer_disarm(&h->t[n].timer);
    }
    rc = state_get_fields(r, hpet_fields, h, err);
    regs_sanitize(&h->regs);
    return rc;
}

static void hpet_resume(struct dev *dev)
{
    struct hpet *h = container_of(dev, struct hpet, dev);

    SCOPED_LOCK(&h->lock);
    hpet_rearm(h);
}

static void hpet_free(struct dev *dev)
{
    struct hpet *h = container_of(dev, struct hpet, dev);

    bus_remove_all(h->cfg.mmio, h);
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        timer_done(&h->t[n].timer);
    }
    pthread_mutex_destroy(&h->lock);
    free(h);
}

static const struct dev_ops hpet_ops = {
    .name = "hpet",
    .state_version = 1,
    .reset = hpet_reset,
    .save = hpet_save,
    .load = hpet_load,
    .resume = hpet_resume,
    .free = hpet_free,
};

int hpet_new(struct hpet **ret_hpet, const struct hpet_config *cfg, struct err *err)
{
    struct hpet *h = calloc(1, sizeof(*h));
    int r = 0;

    if (h == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the HPET");
    }
    h->cfg = *cfg;
    h->cfg.base = cfg->base != 0 ? cfg->base : HPET_BASE_DEFAULT;
    h->cfg.route_cap = cfg->route_cap != 0 ? cfg->route_cap : 0x00f00000;
    pthread_mutex_init(&h->lock, NULL);
    h->dev = (struct dev){.ops = &hpet_ops, .lock = &h->lock};
    for (unsigned n = 0; r == 0 && n < HPET_TIMERS; n++) {
        h->t[n].hpet = h;
        r = timer_init(&h->t[n].timer, cfg->loop, cfg->clock, hpet_fired, &h->t[n], err);
    }
    if (r == 0) {
        const struct bus_range range = {
            .base = h->cfg.base, .size = 0x400, .ops = &hpet_bus_ops, .name = "hpet"};
        make_table(h);
        hpet_reset_locked(h);
        r = bus_add_ranges(cfg->mmio, &range, 1, h, &h->lock, err);
    }
    if (r < 0) {
        hpet_free(&h->dev);
        return r;
    }
    *ret_hpet = h;
    return 0;
}

struct dev *hpet_dev(struct hpet *hpet)
{
    return &hpet->dev;
}

static void pass_through(struct hpet *h, uint8_t *in, unsigned gsi, bool level)
{
    SCOPED_LOCK(&h->lock);
    *in = level;
    if (!is_legacy(h) && h->cfg.set_gsi != NULL) {
        h->cfg.set_gsi(h->cfg.opaque, gsi, level);
    }
}

static void pit_in_set(void *opaque, unsigned n, bool level)
{
    struct hpet *h = opaque;

    (void)n;
    pass_through(h, &h->pit_in, 0, level);
}

static void rtc_in_set(void *opaque, unsigned n, bool level)
{
    struct hpet *h = opaque;

    (void)n;
    pass_through(h, &h->rtc_in, 8, level);
}

struct irq_line hpet_pit_input(struct hpet *hpet)
{
    return (struct irq_line){.set = pit_in_set, .opaque = hpet};
}

struct irq_line hpet_rtc_input(struct hpet *hpet)
{
    return (struct irq_line){.set = rtc_in_set, .opaque = hpet};
}
