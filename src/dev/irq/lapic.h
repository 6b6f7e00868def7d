/*
 * Local APICs of all CPUs, xAPIC and x2APIC (Intel SDM vol. 3, chapter 11).
 *
 * The set stands between the machine and an engine without interrupt controllers: the functions
 * with a cpu parameter mirror struct engine_host and run on that vCPU's own thread; messages,
 * lines and timers come from any thread. No function calls back with a LAPIC lock held.
 */
#pragma once

#include "base/clock.h"
#include "dev/dev.h"
#include "dev/irq.h"

#include <stdbool.h>
#include <stdint.h>

#define LAPIC_BASE_DEFAULT UINT64_C(0xfee00000)
#define LAPIC_TIMER_HZ     UINT64_C(1000000000) /* of the timer's input, before its divider */

struct lapic_set;

enum lapic_signal {
    LAPIC_SIG_IRQ, /* lapic_irq_pending may have become true */
    LAPIC_SIG_NMI,
    LAPIC_SIG_INIT,
    LAPIC_SIG_SIPI, /* with vector */
};

enum lapic_lvt {
    LAPIC_LVT_CMCI,
    LAPIC_LVT_TIMER,
    LAPIC_LVT_THERMAL,
    LAPIC_LVT_PERF,
    LAPIC_LVT_LINT0,
    LAPIC_LVT_LINT1,
    LAPIC_LVT_ERROR,
    LAPIC_N_LVT,
};

struct lapic_host {
    void *opaque;
    /* Any thread. Must be quick and must not call back into the set. */
    void (*signal)(void *opaque, unsigned cpu, enum lapic_signal kind, uint8_t vector);
    /* The interrupt acknowledge cycle of the 8259 pair: its vector. vCPU's thread. */
    int (*extint_ack)(void *opaque);
    /* End of a level-triggered interrupt, for the I/O APICs. vCPU's thread. May be NULL. */
    void (*eoi)(void *opaque, uint8_t vector);
    /* Guest time in ns at which the CPU's TSC reads tsc (0 when that is past, UINT64_MAX:
     * never). Needed for tsc_deadline. */
    uint64_t (*tsc_to_ns)(void *opaque, unsigned cpu, uint64_t tsc);
};

struct lapic_config {
    unsigned n_cpus;
    const uint32_t *apic_ids; /* by cpu, copied; NULL: the index */
    uint8_t phys_bits;        /* MAXPHYADDR, for the reserved bits of IA32_APIC_BASE */
    bool x2apic;
    bool tsc_deadline;
    bool eoi_suppress; /* offer EOI broadcast suppression (version register bit 24) */
    bool ext_dest_id; /* MSI address bits 11:5 are destination bits 14:8 (KVM feature bit 15) */
    struct vmclock *clock; /* borrowed, outlives the set, as loop */
    struct loop *loop;
    struct lapic_host host;
};

int lapic_set_new(struct lapic_set **ret_set, const struct lapic_config *cfg, struct err *err);
void lapic_set_free(struct lapic_set *set);
struct dev *lapic_dev(struct lapic_set *set, unsigned cpu); /* one section for each CPU */

/* True when lapic_irq_ack would return a vector. A few instructions when nothing changed. */
bool lapic_irq_pending(struct lapic_set *set, unsigned cpu);
int lapic_irq_ack(struct lapic_set *set, unsigned cpu); /* vector, now in service; -1: none */
/* IA32_APIC_BASE (1Bh), IA32_TSC_DEADLINE (6E0h), x2APIC (800h-8FFh). -EPERM means #GP. */
int lapic_msr_read(struct lapic_set *set, unsigned cpu, uint32_t msr, uint64_t *ret_value);
int lapic_msr_write(struct lapic_set *set, unsigned cpu, uint32_t msr, uint64_t value);
uint64_t lapic_cr8_read(struct lapic_set *set, unsigned cpu);
void lapic_cr8_write(struct lapic_set *set, unsigned cpu, uint64_t value);
/* Whether the CPU's register page (xAPIC mode only) covers gpa, and where in it. */
bool lapic_claims(struct lapic_set *set, unsigned cpu, uint64_t gpa, uint64_t *ret_offset);
uint64_t lapic_mmio_read(struct lapic_set *set, unsigned cpu, uint64_t offset, unsigned len);
void lapic_mmio_write(struct lapic_set *set, unsigned cpu, uint64_t offset, unsigned len,
                      uint64_t value);
/* The guest changed the CPU's TSC: the deadline moves with it. */
void lapic_tsc_changed(struct lapic_set *set, unsigned cpu);

/* A write of data to addr in FEE0_0000h-FEEF_FFFFh by a device. */
void lapic_send_msi(struct lapic_set *set, uint64_t addr, uint32_t data);
struct msi_sink lapic_msi_sink(struct lapic_set *set);
/* LINT0 carries the 8259's INTR to every CPU, LINT1 is NMI. Level wires. */
void lapic_set_lint0(struct lapic_set *set, bool level);
void lapic_set_lint1(struct lapic_set *set, bool level);
struct irq_line lapic_lint0_line(struct lapic_set *set);
/* An internal source of the CPU: thermal, performance or corrected machine check. */
void lapic_raise_lvt(struct lapic_set *set, unsigned cpu, enum lapic_lvt which);
