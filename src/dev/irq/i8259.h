/* The PC's pair of Intel 8259A interrupt controllers, with the edge/level registers. */
#pragma once

#include "dev/bus.h"
#include "dev/dev.h"
#include "dev/irq.h"

#include <stdbool.h>

struct i8259;

struct i8259_config {
    struct bus *pio;     /* ports 20h-21h, A0h-A1h, 4D0h-4D1h; NULL: none (tests) */
    struct irq_line out; /* INTR; set with the PIC's lock held */
};

int i8259_new(struct i8259 **ret_pic, const struct i8259_config *cfg, struct err *err);
struct dev *i8259_dev(struct i8259 *pic);

/* Level of ISA interrupt request n, 0 to 15; 2 is the cascade and ignored. Any thread. */
void i8259_set_irq(struct i8259 *pic, unsigned n, bool level);
/* The CPU's acknowledge cycle: the vector, a spurious one if nothing is requested any more. */
int i8259_ack(struct i8259 *pic);
