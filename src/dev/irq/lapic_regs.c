/*
 * Local APIC: the register page (Intel SDM vol. 3, 11.4.1, table 11-1) and what both ways in,
 * memory and MSR, share. Registers are numbered by offset / 16, as the x2APIC MSRs are.
 *
 * Thread and lock: the vCPU's own thread; takes the LAPIC's lock for the change, and drops it
 * before messages go out.
 * Saved: by lapic.c. Missing: accesses across a register boundary do nothing (undefined by the
 * SDM).
 */
#include "base/ckd.h"
#include "base/cleanup.h"
#include "dev/irq/lapic_priv.h"

#include <errno.h>

/* Version 14h, highest LVT entry 6 (seven of them). */
#define VERSION          0x00060014u
#define VERSION_SUPPRESS 0x01000000u

enum {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_CMCI = 0x2f,
    REG_ICR_LOW = 0x30,
    REG_ICR_HIGH = 0x31,
    REG_TIMER = 0x32,
    REG_ERROR = 0x37,
    REG_INITIAL = 0x38,
    REG_CURRENT = 0x39,
    REG_DIVIDE = 0x3e,
};

static const uint32_t lvt_writable[LAPIC_N_LVT] = {
    [LAPIC_LVT_CMCI] = 0x107ff,  [LAPIC_LVT_TIMER] = 0x700ff, [LAPIC_LVT_THERMAL] = 0x107ff,
    [LAPIC_LVT_PERF] = 0x107ff,  [LAPIC_LVT_LINT0] = 0x1a7ff, [LAPIC_LVT_LINT1] = 0x1a7ff,
    [LAPIC_LVT_ERROR] = 0x100ff,
};

static bool reg_is_lvt(unsigned reg, enum lapic_lvt *ret_which)
{
    if (reg == REG_CMCI) {
        *ret_which = LAPIC_LVT_CMCI;
        return true;
    }
    if (reg >= REG_TIMER && reg <= REG_ERROR) {
        *ret_which = LAPIC_LVT_TIMER + (reg - REG_TIMER);
        return true;
    }
    return false;
}

/* Arbitration priority (SDM vol. 3, 11.6.2.4). */
static uint32_t apr(const struct lapic *l)
{
    int irrv = lapic_highest(l->irr), isrv = lapic_highest(l->isr);
    uint32_t tpr = RD(l->tpr), irr = irrv < 0 ? 0 : (uint32_t)irrv & 0xf0;
    uint32_t isr = isrv < 0 ? 0 : (uint32_t)isrv & 0xf0;

    if ((tpr & 0xf0) >= irr && (tpr & 0xf0) > isr) {
        return tpr & 0xff;
    }
    return MAX(MAX(tpr & 0xf0, isr), irr);
}

static uint32_t read_id(const struct lapic *l)
{
    return lapic_is_x2(l) ? l->apic_id : l->apic_id << 24;
}

static uint32_t read_version(const struct lapic *l)
{
    return VERSION | (l->set->cfg.eoi_suppress ? VERSION_SUPPRESS : 0);
}

int lapic_reg_read(struct lapic *l, unsigned reg, uint32_t *ret_value)
{
    enum lapic_lvt which;

    SCOPED_LOCK(&l->lock);
    if (reg >= REG_ISR && reg < REG_ESR) {
        const uint32_t *bits = reg < REG_TMR ? l->isr : reg < REG_IRR ? l->tmr : l->irr;
        *ret_value = __atomic_load_n(&bits[reg & 7], __ATOMIC_ACQUIRE);
        return 0;
    }
    if (reg_is_lvt(reg, &which)) {
        *ret_value = RD(l->lvt[which]);
        return 0;
    }
    switch (reg) {
    case REG_ID: *ret_value = read_id(l); return 0;
    case REG_VERSION: *ret_value = read_version(l); return 0;
    case REG_TPR: *ret_value = l->tpr; return 0;
    case REG_PPR: *ret_value = lapic_ppr(l); return 0;
    case REG_EOI: *ret_value = 0; return 0;
    case REG_LDR: *ret_value = l->ldr; return 0;
    case REG_SVR: *ret_value = l->svr; return 0;
    case REG_ESR: *ret_value = l->esr; return 0;
    case REG_ICR_LOW: *ret_value = (uint32_t)l->icr; return 0;
    case REG_ICR_HIGH: *ret_value = (uint32_t)(l->icr >> 32); return 0;
    case REG_INITIAL: *ret_value = l->timer_initial; return 0;
    case REG_CURRENT: *ret_value = lapic_timer_current(l); return 0;
    case REG_DIVIDE: *ret_value = l->timer_divide_cfg; return 0;
    default: break;
    }
    if (lapic_is_x2(l)) {
        return -EPERM;
    }
    switch (reg) {
    case REG_APR: *ret_value = apr(l); return 0;
    case REG_RRD: *ret_value = 0; return 0;
    case REG_DFR: *ret_value = l->dfr; return 0;
    default: return -EPERM;
    }
}

static void write_eoi(struct lapic *l)
{
    const struct lapic_host *host = &l->set->cfg.host;
    bool level, suppress;
    uint32_t bit;
    int vector;

    pthread_mutex_lock(&l->lock);
    vector = lapic_highest(l->isr);
    if (vector < 0) {
        pthread_mutex_unlock(&l->lock);
        return;
    }
    bit = 1u << (vector & 31);
    __atomic_fetch_and(&l->isr[vector >> 5], ~bit, __ATOMIC_ACQ_REL);
    level = (__atomic_load_n(&l->tmr[vector >> 5], __ATOMIC_ACQUIRE) & bit) != 0;
    suppress = (l->svr & SVR_EOI_SUPPRESS) != 0;
    for (unsigned i = LAPIC_LVT_LINT0; level && i <= LAPIC_LVT_LINT1; i++) {
        if ((int)(l->lvt[i] & 0xff) == vector) {
            __atomic_fetch_and(&l->lvt[i], ~LVT_REMOTE_IRR, __ATOMIC_RELAXED);
        }
    }
    pthread_mutex_unlock(&l->lock);
    if (level && !suppress && host->eoi != NULL) {
        host->eoi(host->opaque, (uint8_t)vector);
    }
    if (lapic_highest(l->irr) >= 0) {
        lapic_signal_irq(l);
    }
}

static void write_svr(struct lapic *l, uint32_t value)
{
    uint32_t writable = 0x3ff | (l->set->cfg.eoi_suppress ? SVR_EOI_SUPPRESS : 0);

    pthread_mutex_lock(&l->lock);
    WR(l->svr, value & writable);
    for (int i = 0; (l->svr & SVR_ENABLE) == 0 && i < LAPIC_N_LVT; i++) {
        __atomic_fetch_or(&l->lvt[i], LVT_MASKED, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&l->lock);
    lapic_signal_irq(l);
}

static void write_lvt(struct lapic *l, enum lapic_lvt which, uint32_t value)
{
    uint32_t old, now = value & lvt_writable[which];
    bool lint0 = which == LAPIC_LVT_LINT0;

    if (which == LAPIC_LVT_TIMER) {
        /* What is due ends in the old mode, also when the event loop has not come to it yet. */
        lapic_timer_fired(l);
    }
    pthread_mutex_lock(&l->lock);
    old = l->lvt[which];
    if (which == LAPIC_LVT_TIMER) {
        if (!l->set->cfg.tsc_deadline) {
            now &= ~LVT_TIMER_TSC;
        }
        /* Entering or leaving TSC-deadline mode disarms (SDM vol. 3, 11.5.4.1). */
        if (((old ^ now) & LVT_TIMER_TSC) != 0) {
            lapic_timer_stop(l);
            l->timer_initial = 0;
        }
    }
    now |= (l->svr & SVR_ENABLE) == 0 ? LVT_MASKED : 0;
    now |= (now & LVT_LEVEL) != 0 ? old & LVT_REMOTE_IRR : 0;
    WR(l->lvt[which], now);
    pthread_mutex_unlock(&l->lock);
    if (lint0 && RD(l->set->lint0) != 0) {
        lapic_signal_irq(l);
    }
}

static void write_tpr(struct lapic *l, uint32_t value)
{
    WR(l->tpr, value & 0xff);
    if (lapic_highest(l->irr) >= 0) {
        lapic_signal_irq(l);
    }
}

static void write_icr_low(struct lapic *l, uint32_t value)
{
    uint64_t icr;

    pthread_mutex_lock(&l->lock);
    l->icr = (l->icr & ~UINT64_C(0xffffffff)) | (value & 0xccfff);
    l->icr &= ~UINT64_C(0x1000);
    icr = l->icr;
    pthread_mutex_unlock(&l->lock);
    lapic_send_icr(l, icr);
}

/* Registers that the lock covers completely. -EPERM: not writable. */
static int write_locked(struct lapic *l, unsigned reg, uint32_t value)
{
    SCOPED_LOCK(&l->lock);
    switch (reg) {
    case REG_ESR: l->esr = __atomic_exchange_n(&l->esr_new, 0, __ATOMIC_RELAXED); return 0;
    case REG_INITIAL: lapic_timer_set_initial(l, value); return 0;
    case REG_DIVIDE: lapic_timer_set_divide(l, value); return 0;
    default: break;
    }
    if (lapic_is_x2(l)) {
        return -EPERM;
    }
    switch (reg) {
    case REG_ID: return 0;
    case REG_LDR: WR(l->ldr, value & 0xff000000); return 0;
    case REG_DFR: WR(l->dfr, value | 0x0fffffff); return 0;
    case REG_ICR_HIGH:
        l->icr = (l->icr & 0xffffffff) | (uint64_t)(value & 0xff000000) << 32;
        return 0;
    default: return -EPERM;
    }
}

int lapic_reg_write(struct lapic *l, unsigned reg, uint32_t value)
{
    enum lapic_lvt which;

    if (reg_is_lvt(reg, &which)) {
        write_lvt(l, which, value);
        return 0;
    }
    switch (reg) {
    case REG_TPR: write_tpr(l, value); return 0;
    case REG_EOI: write_eoi(l); return 0;
    case REG_SVR: write_svr(l, value); return 0;
    case REG_ICR_LOW: write_icr_low(l, value); return 0;
    default: return write_locked(l, reg, value);
    }
}

/* Writes that the xAPIC page ignores without an error: read-only registers. */
static bool reg_is_read_only(unsigned reg)
{
    return reg == REG_VERSION || reg == REG_APR || reg == REG_PPR || reg == REG_RRD ||
           (reg >= REG_ISR && reg < REG_ESR) || reg == REG_CURRENT;
}

uint64_t lapic_mmio_read(struct lapic_set *set, unsigned cpu, uint64_t offset, unsigned len)
{
    struct lapic *l = &set->cpus[cpu];
    unsigned shift = (unsigned)(offset & 0xf) * 8;
    uint32_t value;

    if ((offset & 0xf) + len > 4 || offset > 0xfff) {
        return 0;
    }
    if (lapic_reg_read(l, (unsigned)(offset >> 4), &value) < 0) {
        lapic_error(l, ESR_REGISTER);
        return 0;
    }
    value >>= shift;
    return len >= 4 ? value : value & ((1u << (len * 8)) - 1);
}

void lapic_mmio_write(struct lapic_set *set, unsigned cpu, uint64_t offset, unsigned len,
                      uint64_t value)
{
    struct lapic *l = &set->cpus[cpu];
    unsigned reg = (unsigned)(offset >> 4);

    /* Only whole registers: the SDM leaves every other access undefined. */
    if ((offset & 0xf) != 0 || len < 4 || offset > 0xfff) {
        return;
    }
    if (!reg_is_read_only(reg) && lapic_reg_write(l, reg, (uint32_t)value) < 0) {
        lapic_error(l, ESR_REGISTER);
    }
}
