/*
 * Local APIC timer: one-shot, periodic and TSC-deadline (Intel SDM vol. 3, 11.5.4).
 *
 * The count is never stored: it follows from the deadline in guest time, so that nothing
 * drifts. A periodic timer that is late fires once and skips the periods that are gone.
 *
 * Thread and lock: the LAPIC's lock is held, except in lapic_timer_fired, which the loop calls.
 * Saved: by lapic.c, as a deadline in guest time. Missing: nothing.
 */
#include "base/ckd.h"
#include "base/cleanup.h"
#include "dev/irq/lapic_priv.h"

#define NS_PER_TICK (NSEC_PER_SEC / LAPIC_TIMER_HZ)
/* A shorter period would only flood the host; a guest that asks for less gets this. */
#define MIN_PERIOD_NS UINT64_C(20000)

static uint32_t timer_mode(const struct lapic *l)
{
    return l->lvt[LAPIC_LVT_TIMER] & LVT_TIMER_MODE;
}

/* Divide configuration: bits 3, 1, 0 are log2 of the divider less one; 111b divides by one. */
static uint64_t divider(uint32_t cfg)
{
    uint32_t code = (cfg & 3) | (cfg >> 1 & 4);

    return UINT64_C(1) << ((code + 1) & 7);
}

static uint64_t period_ns(const struct lapic *l)
{
    return l->timer_initial * divider(l->timer_divide_cfg) * NS_PER_TICK;
}

void lapic_timer_stop(struct lapic *l)
{
    l->timer_running = false;
    l->tsc_deadline = 0;
    timer_disarm(&l->timer);
}

static void start(struct lapic *l, uint64_t deadline_ns)
{
    l->timer_deadline_ns = deadline_ns;
    l->timer_running = true;
    timer_arm(&l->timer, deadline_ns);
}

void lapic_timer_set_initial(struct lapic *l, uint32_t count)
{
    if (timer_mode(l) == LVT_TIMER_TSC) {
        return;
    }
    lapic_timer_stop(l);
    l->timer_initial = count;
    if (count != 0) {
        start(l, vmclock_now_ns(l->timer.clock) + period_ns(l));
    }
}

uint32_t lapic_timer_current(const struct lapic *l)
{
    uint64_t now, left;

    if (!l->timer_running || timer_mode(l) == LVT_TIMER_TSC) {
        return 0;
    }
    now = vmclock_now_ns(l->timer.clock);
    if (now < l->timer_deadline_ns) {
        left = l->timer_deadline_ns - now;
    } else if (timer_mode(l) == LVT_TIMER_PERIODIC && period_ns(l) != 0) {
        left = period_ns(l) - (now - l->timer_deadline_ns) % period_ns(l);
    } else {
        return 0;
    }
    left = left / (divider(l->timer_divide_cfg) * NS_PER_TICK);
    return (uint32_t)MIN(left, l->timer_initial);
}

void lapic_timer_set_divide(struct lapic *l, uint32_t cfg)
{
    uint32_t left = lapic_timer_current(l);

    l->timer_divide_cfg = cfg & 0xb;
    if (l->timer_running && timer_mode(l) != LVT_TIMER_TSC) {
        start(l, vmclock_now_ns(l->timer.clock) +
                     left * divider(l->timer_divide_cfg) * NS_PER_TICK);
    }
}

bool lapic_timer_set_tsc(struct lapic *l, uint64_t tsc)
{
    const struct lapic_host *host = &l->set->cfg.host;
    uint64_t deadline;

    if (timer_mode(l) != LVT_TIMER_TSC || host->tsc_to_ns == NULL) {
        return false;
    }
    lapic_timer_stop(l);
    if (tsc == 0) {
        return false;
    }
    deadline = host->tsc_to_ns(host->opaque, l->cpu, tsc);
    if (deadline <= vmclock_now_ns(l->timer.clock)) {
        return true;
    }
    l->tsc_deadline = tsc;
    start(l, deadline);
    return false;
}

void lapic_timer_rearm(struct lapic *l)
{
    const struct lapic_host *host = &l->set->cfg.host;

    if (!l->timer_running) {
        return;
    }
    if (timer_mode(l) == LVT_TIMER_TSC && host->tsc_to_ns != NULL) {
        l->timer_deadline_ns = host->tsc_to_ns(host->opaque, l->cpu, l->tsc_deadline);
    }
    timer_arm(&l->timer, l->timer_deadline_ns);
}

/* True when the deadline has come: accounts for it. */
static bool expire(struct lapic *l)
{
    uint64_t now = vmclock_now_ns(l->timer.clock);
    uint64_t period = MAX(period_ns(l), MIN_PERIOD_NS);

    /* The callback may be a late one of a deadline that was replaced. */
    if (!l->timer_running || now < l->timer_deadline_ns) {
        return false;
    }
    if (timer_mode(l) == LVT_TIMER_PERIODIC && l->timer_initial != 0) {
        uint64_t missed = (now - l->timer_deadline_ns) / period;
        start(l, l->timer_deadline_ns + (missed + 1) * period);
    } else {
        l->timer_running = false;
        l->tsc_deadline = 0;
    }
    return true;
}

void lapic_timer_fired(void *opaque)
{
    struct lapic *l = opaque;
    bool expired;

    pthread_mutex_lock(&l->lock);
    expired = expire(l);
    pthread_mutex_unlock(&l->lock);
    if (expired) {
        lapic_deliver_lvt(l, LAPIC_LVT_TIMER);
    }
}
