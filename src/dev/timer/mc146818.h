/* Motorola MC146818 real-time clock with 128 bytes of CMOS RAM, as in the PC/AT. */
#pragma once

#include "base/clock.h"
#include "dev/bus.h"
#include "dev/dev.h"
#include "dev/irq.h"

#include <stdbool.h>
#include <stdint.h>

#define MC146818_CENTURY 0x32 /* index of the century byte, for the FADT */

struct mc146818;

struct mc146818_config {
    struct bus *pio; /* ports 70h-71h; NULL: none (tests) */
    struct vmclock *clock;
    struct loop *loop;
    pthread_mutex_t *lock;             /* the machine's device lock */
    struct irq_line irq;               /* IRQ 8 (through the HPET, which may cut it off) */
    uint64_t (*wall_ns)(void *opaque); /* time of day in UTC; NULL: the host's */
    void *wall_opaque;
    int64_t offset_s; /* RTC time less wall time at the start */
};

int mc146818_new(struct mc146818 **ret_rtc, const struct mc146818_config *cfg, struct err *err);
struct dev *mc146818_dev(struct mc146818 *rtc);

/* CMOS RAM bytes for firmware tables, index 0Eh to 7Fh. Before the guest runs. */
void mc146818_set_cmos(struct mc146818 *rtc, uint8_t index, uint8_t value);
bool mc146818_nmi_masked(struct mc146818 *rtc); /* bit 7 of the last write to port 70h */
