/* Intel 8254 interval timer of the PC, with the speaker gate of port 61h. */
#pragma once

#include "base/clock.h"
#include "dev/bus.h"
#include "dev/dev.h"
#include "dev/irq.h"

#define I8254_HZ UINT64_C(1193182)

struct i8254;

struct i8254_config {
    struct bus *pio; /* ports 40h-43h, 61h; NULL: none (tests) */
    struct vmclock *clock;
    struct loop *loop;
    pthread_mutex_t *lock; /* the machine's device lock */
    struct irq_line irq;   /* IRQ 0 (through the HPET, which may cut it off) */
};

int i8254_new(struct i8254 **ret_pit, const struct i8254_config *cfg, struct err *err);
struct dev *i8254_dev(struct i8254 *pit);
