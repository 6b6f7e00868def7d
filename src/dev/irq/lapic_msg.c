/*
 * Local APIC: interrupt messages: IPIs, MSIs, LVT sources; destinations and arbitration
 * (Intel SDM vol. 3, 11.6, 11.7, 11.11).
 *
 * Thread and lock: any thread, no LAPIC lock held on entry. A fixed interrupt reaches its
 * target by atomics alone; INIT takes the target's lock. Saved: by lapic.c. Missing: SMI; focus
 * arbitration looks at the target's IRR and ISR only.
 */
#include "base/ckd.h"
#include "base/cleanup.h"
#include "dev/irq/lapic_priv.h"

#define ICR_LOGICAL 0x800u
#define ICR_ASSERT  0x4000u
#define ICR_LEVEL   0x8000u
#define NARROW_ALL  0xffu
#define WIDE_ALL    UINT32_MAX

struct lapic_msg {
    uint32_t dest;
    bool logical;
    bool wide; /* dest has 32 bits (x2APIC ICR); otherwise 8, and FFh means everyone */
    enum lapic_mode mode;
    uint8_t vector;
    bool level;
    bool lowest; /* one of the destinations only */
};

void lapic_accept(struct lapic *l, uint8_t vector, bool level)
{
    uint32_t bit = 1u << (vector & 31);
    uint32_t *tmr = &l->tmr[vector >> 5];
    uint32_t old;

    if (level) {
        __atomic_fetch_or(tmr, bit, __ATOMIC_ACQ_REL);
    } else if ((__atomic_load_n(tmr, __ATOMIC_ACQUIRE) & bit) != 0) {
        __atomic_fetch_and(tmr, ~bit, __ATOMIC_ACQ_REL);
    }
    old = __atomic_fetch_or(&l->irr[vector >> 5], bit, __ATOMIC_SEQ_CST);
    /* A bit that was set already has been announced. */
    if ((old & bit) == 0) {
        lapic_signal_irq(l);
    }
}

static void deliver_init(struct lapic *l)
{
    const struct lapic_host *host = &l->set->cfg.host;

    pthread_mutex_lock(&l->lock);
    lapic_init_state(l, false);
    if (lapic_is_x2(l)) {
        WR(l->ldr, (l->apic_id >> 4) << 16 | 1u << (l->apic_id & 15));
    }
    pthread_mutex_unlock(&l->lock);
    host->signal(host->opaque, l->cpu, LAPIC_SIG_INIT, 0);
}

void lapic_deliver(struct lapic *l, enum lapic_mode mode, uint8_t vector, bool level)
{
    const struct lapic_host *host = &l->set->cfg.host;

    switch (mode) {
    case LAPIC_DM_FIXED:
    case LAPIC_DM_LOWEST:
        if (!lapic_sw_enabled(l)) {
            break;
        }
        if (vector < 16) {
            /* The error vector itself may be the illegal one: that must not repeat. */
            uint32_t lvt = RD(l->lvt[LAPIC_LVT_ERROR]);
            uint32_t old = __atomic_fetch_or(&l->esr_new, ESR_RECV_ILLEGAL, __ATOMIC_RELAXED);
            if ((old & ESR_RECV_ILLEGAL) == 0 && (lvt & LVT_MASKED) == 0 &&
                (lvt & 0xff) >= 16) {
                lapic_accept(l, (uint8_t)lvt, false);
            }
            break;
        }
        lapic_accept(l, vector, level);
        break;
    case LAPIC_DM_NMI: host->signal(host->opaque, l->cpu, LAPIC_SIG_NMI, 0); break;
    case LAPIC_DM_INIT: deliver_init(l); break;
    case LAPIC_DM_SIPI: host->signal(host->opaque, l->cpu, LAPIC_SIG_SIPI, vector); break;
    case LAPIC_DM_EXTINT:
        __atomic_store_n(&l->extint_msg, 1, __ATOMIC_SEQ_CST);
        lapic_signal_irq(l);
        break;
    case LAPIC_DM_SMI:
    case LAPIC_DM_RESERVED: break;
    }
}

void lapic_deliver_lvt(struct lapic *l, enum lapic_lvt which)
{
    uint32_t lvt = RD(l->lvt[which]);
    enum lapic_mode mode = lvt >> 8 & 7;
    bool level = false;

    if ((lvt & LVT_MASKED) != 0 || !lapic_hw_enabled(l)) {
        return;
    }
    if (which == LAPIC_LVT_TIMER || which == LAPIC_LVT_ERROR) {
        mode = LAPIC_DM_FIXED;
    } else if (which == LAPIC_LVT_LINT0 || which == LAPIC_LVT_LINT1) {
        level = (lvt & LVT_LEVEL) != 0;
    }
    if (mode == LAPIC_DM_FIXED || mode == LAPIC_DM_NMI) {
        if (level && mode == LAPIC_DM_FIXED) {
            __atomic_fetch_or(&l->lvt[which], LVT_REMOTE_IRR, __ATOMIC_RELAXED);
        }
        lapic_deliver(l, mode, (uint8_t)lvt, level);
    }
}

static bool match_logical(const struct lapic *l, uint32_t dest)
{
    uint32_t ldr = RD(l->ldr);

    if (lapic_is_x2(l)) {
        return dest >> 16 == ldr >> 16 && (dest & ldr & 0xffff) != 0;
    }
    ldr >>= 24;
    if (RD(l->dfr) >> 28 == 0xf) {
        return (dest & ldr & 0xff) != 0;
    }
    return ((dest >> 4 & 0xf) == ldr >> 4 || (dest >> 4 & 0xf) == 0xf) &&
           (dest & ldr & 0xf) != 0;
}

static bool match(const struct lapic *l, const struct lapic_msg *m)
{
    if (!lapic_hw_enabled(l)) {
        return false;
    }
    if (m->dest == (m->wide ? WIDE_ALL : NARROW_ALL)) {
        return true;
    }
    if (m->logical) {
        return match_logical(l, m->dest);
    }
    return m->dest == (lapic_is_x2(l) ? l->apic_id : l->apic_id & 0xff);
}

/* SDM vol. 3, 11.6.2.4: a processor that already handles the vector is the focus. */
static bool is_focus(const struct lapic *l, uint8_t vector)
{
    uint32_t bit = 1u << (vector & 31);

    return (RD(l->svr) & SVR_NO_FOCUS) == 0 &&
           ((__atomic_load_n(&l->irr[vector >> 5], __ATOMIC_ACQUIRE) |
             __atomic_load_n(&l->isr[vector >> 5], __ATOMIC_ACQUIRE)) &
            bit) != 0;
}

/* The CPU with the lowest processor priority; equals take turns. */
static struct lapic *arbitrate(struct lapic_set *set, const struct lapic_msg *m)
{
    unsigned n = set->cfg.n_cpus, start;
    struct lapic *best = NULL;
    uint32_t best_ppr = 0;

    start = __atomic_fetch_add(&set->arbiter, 1, __ATOMIC_RELAXED) % n;
    for (unsigned i = 0; i < n; i++) {
        struct lapic *l = &set->cpus[(start + i) % n];
        uint32_t ppr;
        if (!lapic_sw_enabled(l) || !match(l, m)) {
            continue;
        }
        if (is_focus(l, m->vector)) {
            return l;
        }
        ppr = lapic_ppr(l) >> 4;
        if (best == NULL || ppr < best_ppr) {
            best = l;
            best_ppr = ppr;
        }
    }
    return best;
}

static void send(struct lapic_set *set, const struct lapic_msg *m)
{
    if (m->lowest) {
        struct lapic *l = arbitrate(set, m);
        if (l != NULL) {
            lapic_deliver(l, m->mode, m->vector, m->level);
        }
        return;
    }
    for (unsigned i = 0; i < set->cfg.n_cpus; i++) {
        if (match(&set->cpus[i], m)) {
            lapic_deliver(&set->cpus[i], m->mode, m->vector, m->level);
        }
    }
}

void lapic_send_icr(struct lapic *l, uint64_t icr)
{
    struct lapic_set *set = l->set;
    uint32_t low = (uint32_t)icr, shorthand = low >> 18 & 3;
    struct lapic_msg m = {
        .wide = lapic_is_x2(l),
        .logical = (low & ICR_LOGICAL) != 0,
        .mode = low >> 8 & 7,
        .vector = (uint8_t)low,
    };

    m.dest = (uint32_t)(icr >> (m.wide ? 32 : 56));
    m.lowest = m.mode == LAPIC_DM_LOWEST;
    if ((m.mode == LAPIC_DM_FIXED || m.mode == LAPIC_DM_LOWEST) && m.vector < 16) {
        lapic_error(l, ESR_SEND_ILLEGAL);
        return;
    }
    /* INIT level de-assert only synchronised arbitration IDs; it does nothing since the P4. */
    if ((m.mode == LAPIC_DM_INIT && (low & (ICR_LEVEL | ICR_ASSERT)) == ICR_LEVEL) ||
        m.mode == LAPIC_DM_EXTINT) {
        return;
    }
    if (shorthand == 0) {
        send(set, &m);
        return;
    }
    if (shorthand == 1) {
        lapic_deliver(l, m.mode, m.vector, false);
        return;
    }
    for (unsigned i = 0; i < set->cfg.n_cpus; i++) {
        struct lapic *t = &set->cpus[i];
        if (lapic_hw_enabled(t) && !(shorthand == 3 && t == l)) {
            lapic_deliver(t, m.mode, m.vector, false);
        }
    }
}

void lapic_send_msi(struct lapic_set *set, uint64_t addr, uint32_t data)
{
    struct lapic_msg m = {
        .dest = (uint32_t)(addr >> 12 & 0xff),
        .logical = (addr & 4) != 0,
        .mode = data >> 8 & 7,
        .vector = (uint8_t)data,
        .level = (data & ICR_LEVEL) != 0,
    };

    if (addr >> 20 != 0xfee || (m.level && (data & ICR_ASSERT) == 0)) {
        return;
    }
    if (set->cfg.ext_dest_id && (addr >> 5 & 0x7f) != 0) {
        m.dest |= (uint32_t)(addr >> 5 & 0x7f) << 8;
        m.wide = true;
    }
    m.lowest = m.mode == LAPIC_DM_LOWEST || ((addr & 8) != 0 && m.mode == LAPIC_DM_FIXED);
    /* A device cannot start a CPU; 110b is reserved in MSI data (SDM vol. 3, 11.11.2). */
    if (m.mode != LAPIC_DM_SIPI) {
        send(set, &m);
    }
}

static void msi_sink_send(void *opaque, uint64_t addr, uint32_t data)
{
    lapic_send_msi(opaque, addr, data);
}

struct msi_sink lapic_msi_sink(struct lapic_set *set)
{
    return (struct msi_sink){.send = msi_sink_send, .opaque = set};
}

static void lint_change(struct lapic_set *set, uint32_t *line, enum lapic_lvt which, bool level)
{
    if (__atomic_exchange_n(line, level, __ATOMIC_SEQ_CST) == level || !level) {
        return;
    }
    for (unsigned i = 0; i < set->cfg.n_cpus; i++) {
        struct lapic *l = &set->cpus[i];
        uint32_t lvt = RD(l->lvt[which]);
        bool direct = !lapic_hw_enabled(l) && i == 0;
        if (direct || ((lvt & LVT_MASKED) == 0 && (lvt >> 8 & 7) == LAPIC_DM_EXTINT)) {
            lapic_signal_irq(l);
        } else {
            lapic_deliver_lvt(l, which);
        }
    }
}

void lapic_set_lint0(struct lapic_set *set, bool level)
{
    lint_change(set, &set->lint0, LAPIC_LVT_LINT0, level);
}

void lapic_set_lint1(struct lapic_set *set, bool level)
{
    lint_change(set, &set->lint1, LAPIC_LVT_LINT1, level);
}

static void lint0_set(void *opaque, unsigned n, bool level)
{
    (void)n;
    lapic_set_lint0(opaque, level);
}

struct irq_line lapic_lint0_line(struct lapic_set *set)
{
    return (struct irq_line){.set = lint0_set, .opaque = set};
}

void lapic_raise_lvt(struct lapic_set *set, unsigned cpu, enum lapic_lvt which)
{
    lapic_deliver_lvt(&set->cpus[cpu], which);
    /* SDM vol. 3, 11.5.1: delivering a counter overflow or thermal event masks its entry. */
    if (which == LAPIC_LVT_PERF) {
        __atomic_fetch_or(&set->cpus[cpu].lvt[which], LVT_MASKED, __ATOMIC_RELAXED);
    }
}
