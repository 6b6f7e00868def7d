/* What the files of the local APIC share. Nothing outside dev/irq/lapic*.c includes this. */
#pragma once

#include "dev/irq/lapic.h"

#define APIC_BASE_BSP  (UINT64_C(1) << 8)
#define APIC_BASE_EXTD (UINT64_C(1) << 10)
#define APIC_BASE_EN   (UINT64_C(1) << 11)

#define SVR_ENABLE       0x100u
#define SVR_NO_FOCUS     0x200u
#define SVR_EOI_SUPPRESS 0x1000u

#define LVT_REMOTE_IRR 0x4000u
#define LVT_LEVEL      0x8000u
#define LVT_MASKED     0x10000u

#define LVT_TIMER_MODE     0x60000u
#define LVT_TIMER_ONESHOT  0x00000u
#define LVT_TIMER_PERIODIC 0x20000u
#define LVT_TIMER_TSC      0x40000u

#define ESR_SEND_ILLEGAL 0x20u
#define ESR_RECV_ILLEGAL 0x40u
#define ESR_REGISTER     0x80u

/* Delivery modes of ICR, LVT, RTE and MSI data (bits 10:8). */
enum lapic_mode {
    LAPIC_DM_FIXED,
    LAPIC_DM_LOWEST,
    LAPIC_DM_SMI,
    LAPIC_DM_RESERVED,
    LAPIC_DM_NMI,
    LAPIC_DM_INIT,
    LAPIC_DM_SIPI,
    LAPIC_DM_EXTINT,
};

struct lapic {
    struct dev dev;
    struct lapic_set *set;
    unsigned cpu;
    uint32_t apic_id; /* fixed x2APIC ID */
    pthread_mutex_t lock;

    /* Atomics: set by any thread, without the lock. */
    uint32_t irr[8], tmr[8];
    uint32_t isr[8];     /* changed with the lock held, read without */
    uint32_t attention;  /* something changed since irq_pending last said no */
    uint32_t extint_msg; /* an ExtINT message arrived */
    uint32_t esr_new;    /* errors since ESR was last written */

    /* Changed with the lock held, by the vCPU's thread, INIT and load; others read atomically.
     */
    uint64_t base;
    uint32_t tpr, ldr, dfr, svr;
    uint32_t lvt[LAPIC_N_LVT];

    /* Only with the lock held. */
    uint32_t esr;
    uint64_t icr;

    struct timer timer;
    uint32_t timer_initial, timer_divide_cfg;
    uint8_t timer_running;      /* flag */
    uint64_t timer_deadline_ns; /* guest time */
    uint64_t tsc_deadline;      /* 0: none */
};

struct lapic_set {
    struct lapic_config cfg;
    struct lapic *cpus;
    uint32_t lint0, lint1; /* atomics: line levels */
    uint32_t arbiter;      /* atomic: rotates among equal priorities */
};

#define RD(x)    __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define WR(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)

static inline bool lapic_is_x2(const struct lapic *l)
{
    return (RD(l->base) & (APIC_BASE_EN | APIC_BASE_EXTD)) == (APIC_BASE_EN | APIC_BASE_EXTD);
}

static inline bool lapic_hw_enabled(const struct lapic *l)
{
    return (RD(l->base) & APIC_BASE_EN) != 0;
}

/* Fixed interrupts are accepted only in this state. */
static inline bool lapic_sw_enabled(const struct lapic *l)
{
    return lapic_hw_enabled(l) && (RD(l->svr) & SVR_ENABLE) != 0;
}

/* lapic.c */
int lapic_highest(const uint32_t bits[8]); /* -1: none */
uint32_t lapic_ppr(const struct lapic *l);
void lapic_init_state(struct lapic *l, bool power_on); /* lock held */
void lapic_signal_irq(struct lapic *l);
void lapic_error(struct lapic *l, uint32_t esr_bit); /* lock not held */

/* lapic_msg.c */
void lapic_accept(struct lapic *l, uint8_t vector, bool level);
void lapic_deliver(struct lapic *l, enum lapic_mode mode, uint8_t vector, bool level);
void lapic_deliver_lvt(struct lapic *l, enum lapic_lvt which);
void lapic_send_icr(struct lapic *l, uint64_t icr);

/* lapic_timer.c; all with the lock held except lapic_timer_fired */
void lapic_timer_fired(void *opaque);
void lapic_timer_stop(struct lapic *l);
void lapic_timer_set_initial(struct lapic *l, uint32_t count);
void lapic_timer_set_divide(struct lapic *l, uint32_t cfg);
uint32_t lapic_timer_current(const struct lapic *l);
bool lapic_timer_set_tsc(struct lapic *l, uint64_t tsc); /* true: due already, deliver it */
void lapic_timer_rearm(struct lapic *l);

/* lapic_regs.c */
int lapic_reg_read(struct lapic *l, unsigned reg, uint32_t *ret_value);
int lapic_reg_write(struct lapic *l, unsigned reg, uint32_t value);
