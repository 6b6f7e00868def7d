/* High Precision Event Timer (IA-PC HPET specification 1.0a), one block of three timers. */
#pragma once

#include "base/clock.h"
#include "dev/bus.h"
#include "dev/dev.h"
#include "dev/irq.h"

#define HPET_BASE_DEFAULT UINT64_C(0xfed00000)
#define HPET_TIMERS       3
#define HPET_PERIOD_FS    UINT64_C(10000000) /* 100 MHz */
#define HPET_BLOCK_ID     0x8086a201u /* General Capabilities bits 31:0; ACPI table too */

struct hpet;

struct hpet_config {
    struct bus *mmio; /* NULL: none (tests) */
    uint64_t base;    /* 0: HPET_BASE_DEFAULT */
    struct vmclock *clock;
    struct loop *loop;
    /* Board wires by GSI, n is set by the HPET; legacy replacement drives 0 and 8 as ISA does.
     * Called with the HPET's lock held, which is above the interrupt controllers'. */
    void (*set_gsi)(void *opaque, unsigned gsi, bool level);
    void *opaque;
    uint32_t route_cap;  /* GSIs that timers may be routed to; 0: 20 to 23 */
    struct msi_sink msi; /* for FSB delivery; send NULL: not offered */
};

int hpet_new(struct hpet **ret_hpet, const struct hpet_config *cfg, struct err *err);
struct dev *hpet_dev(struct hpet *hpet);

/* Where the 8254 and the MC146818 connect: their wires pass through while legacy replacement is
 * off, and go nowhere while it is on. */
struct irq_line hpet_pit_input(struct hpet *hpet);
struct irq_line hpet_rtc_input(struct hpet *hpet);
