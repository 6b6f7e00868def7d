/*
 * Local APIC: life cycle, interrupt priority, acknowledge, base MSR, save and load
 * (Intel SDM vol. 3, 11.4, 11.8). Registers are in lapic_regs.c, messages in lapic_msg.c, the
 * timer in lapic_timer.c.
 *
 * Thread and lock: IRR, TMR and the attention flag are atomics that any thread sets; everything
 * else is guarded by the LAPIC's own lock, the innermost of the devices (dev/README.md). Two
 * LAPIC locks are never held together, and no callback runs with one held. Saved: all
 * architectural registers, the timer's deadline. Missing: SMI (ignored), the arbitration ID of
 * the old APIC bus.
 */
#include "dev/irq/lapic.h"

#include "base/ckd.h"
#include "base/cleanup.h"
#include "dev/irq/lapic_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MSR_APIC_BASE    0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC       0x800u
#define REG_SELF_IPI     0x3fu
#define REG_ICR_LOW      0x30u
#define REG_ICR_HIGH     0x31u

int lapic_highest(const uint32_t bits[8])
{
    for (int i = 7; i >= 0; i--) {
        uint32_t word = __atomic_load_n(&bits[i], __ATOMIC_ACQUIRE);
        if (word != 0) {
            return i * 32 + 31 - __builtin_clz(word);
        }
    }
    return -1;
}

uint32_t lapic_ppr(const struct lapic *l)
{
    int isrv = lapic_highest(l->isr);
    uint32_t in_service = isrv < 0 ? 0 : (uint32_t)isrv & 0xf0;
    uint32_t tpr = RD(l->tpr);

    return (tpr & 0xf0) >= in_service ? tpr : in_service;
}

void lapic_signal_irq(struct lapic *l)
{
    const struct lapic_host *host = &l->set->cfg.host;

    __atomic_store_n(&l->attention, 1, __ATOMIC_SEQ_CST);
    host->signal(host->opaque, l->cpu, LAPIC_SIG_IRQ, 0);
}

void lapic_error(struct lapic *l, uint32_t esr_bit)
{
    uint32_t old = __atomic_fetch_or(&l->esr_new, esr_bit, __ATOMIC_RELAXED);

    if ((old & esr_bit) == 0) {
        lapic_deliver_lvt(l, LAPIC_LVT_ERROR);
    }
}

/* The 8259 reaches the CPU through LINT0 in ExtINT mode, or directly while the APIC is off. */
static bool extint_open(const struct lapic *l)
{
    uint32_t lint0 = RD(l->lvt[LAPIC_LVT_LINT0]);

    if (!lapic_hw_enabled(l)) {
        return l->cpu == 0;
    }
    return (lint0 & LVT_MASKED) == 0 && (lint0 >> 8 & 7) == LAPIC_DM_EXTINT;
}

static bool extint_pending(const struct lapic *l)
{
    return (RD(l->set->lint0) != 0 && extint_open(l)) || RD(l->extint_msg) != 0;
}

/* The vector that would be delivered now, -1 if none. */
static int deliverable(const struct lapic *l)
{
    int vector;

    if (!lapic_sw_enabled(l)) {
        return -1;
    }
    vector = lapic_highest(l->irr);
    if (vector < 0 || ((uint32_t)vector >> 4) <= (lapic_ppr(l) >> 4)) {
        return -1;
    }
    return vector;
}

bool lapic_irq_pending(struct lapic_set *set, unsigned cpu)
{
    struct lapic *l = &set->cpus[cpu];

    if (likely(__atomic_load_n(&l->attention, __ATOMIC_RELAXED) == 0)) {
        return false;
    }
    /* Cleared before looking: whatever changes later sets it again. */
    __atomic_store_n(&l->attention, 0, __ATOMIC_SEQ_CST);
    if (extint_pending(l) || deliverable(l) >= 0) {
        __atomic_store_n(&l->attention, 1, __ATOMIC_RELAXED);
        return true;
    }
    return false;
}

static void set_bit(uint32_t bits[8], unsigned vector)
{
    __atomic_fetch_or(&bits[vector >> 5], 1u << (vector & 31), __ATOMIC_ACQ_REL);
}

static void clear_bit(uint32_t bits[8], unsigned vector)
{
    __atomic_fetch_and(&bits[vector >> 5], ~(1u << (vector & 31)), __ATOMIC_ACQ_REL);
}

int lapic_irq_ack(struct lapic_set *set, unsigned cpu)
{
    struct lapic *l = &set->cpus[cpu];
    int vector;

    __atomic_store_n(&l->attention, 1, __ATOMIC_SEQ_CST);
    if (extint_pending(l) && set->cfg.host.extint_ack != NULL) {
        __atomic_store_n(&l->extint_msg, 0, __ATOMIC_SEQ_CST);
        return set->cfg.host.extint_ack(set->cfg.host.opaque);
    }
    SCOPED_LOCK(&l->lock);
    vector = deliverable(l);
    if (vector >= 0) {
        clear_bit(l->irr, (unsigned)vector);
        set_bit(l->isr, (unsigned)vector);
    }
    return vector;
}

uint64_t lapic_cr8_read(struct lapic_set *set, unsigned cpu)
{
    return RD(set->cpus[cpu].tpr) >> 4 & 0xf;
}

void lapic_cr8_write(struct lapic_set *set, unsigned cpu, uint64_t value)
{
    struct lapic *l = &set->cpus[cpu];

    WR(l->tpr, (uint32_t)(value & 0xf) << 4);
    if (deliverable(l) >= 0) {
        lapic_signal_irq(l);
    }
}

bool lapic_claims(struct lapic_set *set, unsigned cpu, uint64_t gpa, uint64_t *ret_offset)
{
    uint64_t base = RD(set->cpus[cpu].base);

    if ((base & (APIC_BASE_EN | APIC_BASE_EXTD)) != APIC_BASE_EN || (gpa ^ base) >> 12 != 0) {
        return false;
    }
    *ret_offset = gpa & 0xfff;
    return true;
}

/* SDM vol. 3, 11.4.7.1 and 11.4.7.3 (INIT keeps the base MSR and the ID). */
void lapic_init_state(struct lapic *l, bool power_on)
{
    if (power_on) {
        WR(l->base, LAPIC_BASE_DEFAULT | APIC_BASE_EN | (l->cpu == 0 ? APIC_BASE_BSP : 0));
    }
    for (int i = 0; i < 8; i++) {
        __atomic_store_n(&l->irr[i], 0, __ATOMIC_SEQ_CST);
        __atomic_store_n(&l->isr[i], 0, __ATOMIC_SEQ_CST);
        __atomic_store_n(&l->tmr[i], 0, __ATOMIC_SEQ_CST);
    }
    WR(l->tpr, 0);
    WR(l->ldr, 0);
    WR(l->dfr, UINT32_MAX);
    WR(l->svr, 0xff);
    for (int i = 0; i < LAPIC_N_LVT; i++) {
        WR(l->lvt[i], LVT_MASKED);
    }
    /* What firmware does on every PC: the first CPU gets the 8259 through LINT0. */
    if (l->cpu == 0) {
        WR(l->lvt[LAPIC_LVT_LINT0], LAPIC_DM_EXTINT << 8);
    }
    l->esr = 0;
    WR(l->esr_new, 0);
    l->icr = 0;
    WR(l->extint_msg, 0);
    lapic_timer_stop(l);
    l->timer_initial = 0;
    l->timer_divide_cfg = 0;
    __atomic_store_n(&l->attention, 1, __ATOMIC_SEQ_CST);
}

/* SDM vol. 3, 11.12.5: the legal changes of mode are off-x, x-x2, and either to off. */
static int base_write(struct lapic *l, uint64_t value)
{
    uint64_t mask = APIC_BASE_EN | APIC_BASE_EXTD;
    uint64_t reserved = ~((UINT64_C(1) << l->set->cfg.phys_bits) - 1) | 0x2ff;
    uint64_t from, to = value & mask;

    SCOPED_LOCK(&l->lock);
    from = l->base & mask;
    if ((value & reserved) != 0 || (!l->set->cfg.x2apic && (value & APIC_BASE_EXTD) != 0) ||
        to == APIC_BASE_EXTD || (from == 0 && to == mask) ||
        (from == mask && to == APIC_BASE_EN)) {
        return -EPERM;
    }
    if (from != 0 && to == 0) {
        lapic_init_state(l, false);
    }
    if (from == APIC_BASE_EN && to == mask) {
        WR(l->ldr, (l->apic_id >> 4) << 16 | 1u << (l->apic_id & 15));
        l->icr = 0;
    }
    WR(l->base, value);
    __atomic_store_n(&l->attention, 1, __ATOMIC_SEQ_CST);
    return 0;
}

int lapic_msr_read(struct lapic_set *set, unsigned cpu, uint32_t msr, uint64_t *ret_value)
{
    struct lapic *l = &set->cpus[cpu];
    uint32_t reg = msr - MSR_X2APIC, low;
    int r;

    if (msr == MSR_APIC_BASE) {
        *ret_value = RD(l->base);
        return 0;
    }
    if (msr == MSR_TSC_DEADLINE && set->cfg.tsc_deadline) {
        SCOPED_LOCK(&l->lock);
        *ret_value = l->tsc_deadline;
        return 0;
    }
    if (reg >= 0x100 || !lapic_is_x2(l)) {
        return -EPERM;
    }
    if (reg == REG_ICR_LOW) {
        SCOPED_LOCK(&l->lock);
        *ret_value = l->icr;
        return 0;
    }
    if (reg == REG_ICR_HIGH || reg == 0x0e || reg == 0x0b || reg == REG_SELF_IPI) {
        return -EPERM;
    }
    r = lapic_reg_read(l, reg, &low);
    if (r == 0) {
        *ret_value = low;
    }
    return r < 0 ? -EPERM : 0;
}

/* Bits that may be set in a write to an x2APIC register; 0 for those that only take zero. */
static bool x2_write_allowed(uint32_t reg, uint64_t value)
{
    static const struct {
        uint8_t reg;
        uint32_t allowed;
    } table[] = {
        {0x08, 0xff},    {0x0b, 0},
        {0x0f, 0x13ff},  {0x28, 0},
        {0x2f, 0x117ff}, {0x32, 0x710ff},
        {0x33, 0x117ff}, {0x34, 0x117ff},
        {0x35, 0x1f7ff}, {0x36, 0x1f7ff},
        {0x37, 0x110ff}, {0x38, UINT32_MAX},
        {0x3e, 0x0b},    {REG_SELF_IPI, 0xff},
    };

    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (table[i].reg == reg) {
            return (value & ~(uint64_t)table[i].allowed) == 0;
        }
    }
    return false;
}

static int tsc_deadline_write(struct lapic *l, uint64_t value)
{
    bool due;

    pthread_mutex_lock(&l->lock);
    due = lapic_timer_set_tsc(l, value);
    pthread_mutex_unlock(&l->lock);
    if (due) {
        lapic_deliver_lvt(l, LAPIC_LVT_TIMER);
    }
    return 0;
}

int lapic_msr_write(struct lapic_set *set, unsigned cpu, uint32_t msr, uint64_t value)
{
    struct lapic *l = &set->cpus[cpu];
    uint32_t reg = msr - MSR_X2APIC;

    if (msr == MSR_APIC_BASE) {
        return base_write(l, value);
    }
    if (msr == MSR_TSC_DEADLINE && set->cfg.tsc_deadline) {
        return tsc_deadline_write(l, value);
    }
    if (reg >= 0x100 || !lapic_is_x2(l)) {
        return -EPERM;
    }
    if (reg == REG_ICR_LOW) {
        /* Bits 31:20, 17:16 and 13 are reserved; 12 was the delivery status. */
        if ((value & 0xfff32000) != 0) {
            return -EPERM;
        }
        pthread_mutex_lock(&l->lock);
        l->icr = value & ~UINT64_C(0x1000);
        pthread_mutex_unlock(&l->lock);
        lapic_send_icr(l, value);
        return 0;
    }
    if (!x2_write_allowed(reg, value)) {
        return -EPERM;
    }
    if (reg == REG_SELF_IPI) {
        if (value < 16) {
            lapic_error(l, ESR_SEND_ILLEGAL);
        } else {
            lapic_deliver(l, LAPIC_DM_FIXED, (uint8_t)value, false);
        }
        return 0;
    }
    return lapic_reg_write(l, reg, (uint32_t)value) < 0 ? -EPERM : 0;
}

static void lapic_dev_reset(struct dev *dev)
{
    struct lapic *l = container_of(dev, struct lapic, dev);

    SCOPED_LOCK(&l->lock);
    lapic_init_state(l, true);
}

static const struct state_field lapic_fields[] = {
    STATE_UINTS(struct lapic, irr),
    STATE_UINTS(struct lapic, isr),
    STATE_UINTS(struct lapic, tmr),
    STATE_UINT(struct lapic, extint_msg),
    STATE_UINT(struct lapic, esr_new),
    STATE_UINT(struct lapic, base),
    STATE_UINT(struct lapic, tpr),
    STATE_UINT(struct lapic, ldr),
    STATE_UINT(struct lapic, dfr),
    STATE_UINT(struct lapic, svr),
    STATE_UINTS(struct lapic, lvt),
    STATE_UINT(struct lapic, esr),
    STATE_UINT(struct lapic, icr),
    STATE_UINT(struct lapic, timer_initial),
    STATE_UINT(struct lapic, timer_divide_cfg),
    STATE_UINT(struct lapic, timer_running),
    STATE_UINT(struct lapic, timer_deadline_ns),
    STATE_UINT(struct lapic, tsc_deadline),
    STATE_END,
};

static void lapic_dev_save(struct dev *dev, struct state_writer *w)
{
    struct lapic *l = container_of(dev, struct lapic, dev);

    SCOPED_LOCK(&l->lock);
    state_put_fields(w, lapic_fields, l);
    if (l->cpu == 0) {
        state_put_uint(w, "lint0_level", RD(l->set->lint0));
        state_put_uint(w, "lint1_level", RD(l->set->lint1));
    }
}

static int lapic_load_lines(struct lapic *l, struct state_reader *r, struct err *err)
{
    uint64_t lint0, lint1;
    int rc = state_get_uint(r, "lint0_level", &lint0, err);

    if (rc < 0) {
        return rc;
    }
    rc = state_get_uint(r, "lint1_level", &lint1, err);
    if (rc < 0) {
        return rc;
    }
    WR(l->set->lint0, lint0 != 0);
    WR(l->set->lint1, lint1 != 0);
    return 0;
}

static int lapic_dev_load(struct dev *dev, struct state_reader *r, uint32_t version,
                          struct err *err)
{
    struct lapic *l = container_of(dev, struct lapic, dev);
    uint64_t mode;
    int rc;

    (void)version;
    SCOPED_LOCK(&l->lock);
    lapic_timer_stop(l);
    rc = state_get_fields(r, lapic_fields, l, err);
    if (rc == 0 && l->cpu == 0) {
        rc = lapic_load_lines(l, r, err);
    }
    if (rc < 0) {
        lapic_init_state(l, true);
        return rc;
    }
    mode = l->base & (APIC_BASE_EN | APIC_BASE_EXTD);
    if (mode == APIC_BASE_EXTD || (mode != 0 && !l->set->cfg.x2apic && mode != APIC_BASE_EN)) {
        lapic_init_state(l, true);
        return ERR(err, STATE_BAD, EINVAL,
                   "lapic %u: IA32_APIC_BASE 0x%llx is not a mode we offer", l->cpu,
                   (unsigned long long)l->base);
    }
    l->irr[0] &= 0xffff0000;
    l->isr[0] &= 0xffff0000;
    __atomic_store_n(&l->attention, 1, __ATOMIC_SEQ_CST);
    lapic_timer_rearm(l);
    return 0;
}

static void lapic_dev_resume(struct dev *dev)
{
    struct lapic *l = container_of(dev, struct lapic, dev);

    pthread_mutex_lock(&l->lock);
    lapic_timer_rearm(l);
    pthread_mutex_unlock(&l->lock);
    lapic_signal_irq(l);
}

void lapic_tsc_changed(struct lapic_set *set, unsigned cpu)
{
    struct lapic *l = &set->cpus[cpu];

    SCOPED_LOCK(&l->lock);
    lapic_timer_rearm(l);
}

static const struct dev_ops lapic_ops = {
    .name = "lapic",
    .state_version = 1,
    .reset = lapic_dev_reset,
    .save = lapic_dev_save,
    .load = lapic_dev_load,
    .resume = lapic_dev_resume,
};

int lapic_set_new(struct lapic_set **ret_set, const struct lapic_config *cfg, struct err *err)
{
    struct lapic_set *set;
    unsigned i;
    int r = 0;

    if (cfg->n_cpus == 0 || cfg->phys_bits < 32 || cfg->phys_bits > 52) {
        return ERR(err, INTERNAL, EINVAL, "lapic: %u CPUs, %u physical address bits",
                   cfg->n_cpus, cfg->phys_bits);
    }
    set = calloc(1, sizeof(*set));
    if (set == NULL || (set->cpus = calloc(cfg->n_cpus, sizeof(set->cpus[0]))) == NULL) {
        free(set);
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for %u local APICs", cfg->n_cpus);
    }
    set->cfg = *cfg;
    set->cfg.apic_ids = NULL;
    for (i = 0; i < cfg->n_cpus; i++) {
        struct lapic *l = &set->cpus[i];
        r = timer_init(&l->timer, cfg->loop, cfg->clock, lapic_timer_fired, l, err);
        if (r < 0) {
            break;
        }
        l->set = set;
        l->cpu = i;
        l->apic_id = cfg->apic_ids != NULL ? cfg->apic_ids[i] : i;
        l->dev = (struct dev){.ops = &lapic_ops, .instance = i, .lock = &l->lock};
        pthread_mutex_init(&l->lock, NULL);
        lapic_init_state(l, true);
    }
    if (r < 0) {
        set->cfg.n_cpus = i;
        lapic_set_free(set);
        return r;
    }
    *ret_set = set;
    return 0;
}

void lapic_set_free(struct lapic_set *set)
{
    if (set == NULL) {
        return;
    }
    for (unsigned i = 0; i < set->cfg.n_cpus; i++) {
        timer_done(&set->cpus[i].timer);
        pthread_mutex_destroy(&set->cpus[i].lock);
    }
    free(set->cpus);
    free(set);
}

struct dev *lapic_dev(struct lapic_set *set, unsigned cpu)
{
    return &set->cpus[cpu].dev;
}
