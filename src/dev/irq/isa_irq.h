/*
 * Routing of the board's interrupt wires. ISA request n goes to the 8259 pair and to the I/O
 * APIC, request 0 to its pin 2 (the override that the MADT declares), the rest to pin n; GSIs
 * 16 to 23 go to the I/O APIC alone. Any thread; the controllers lock themselves.
 */
#pragma once

#include "dev/irq/i8259.h"
#include "dev/irq/ioapic.h"

struct isa_irq {
    struct i8259 *pic;     /* borrowed; NULL: the board has none */
    struct ioapic *ioapic; /* borrowed; NULL: the board has none */
};

/* A struct irq_line set function: opaque is a struct isa_irq. */
static inline void isa_irq_set(void *opaque, unsigned n, bool level)
{
    const struct isa_irq *isa = opaque;

    if (isa->pic != NULL && n < 16) {
        i8259_set_irq(isa->pic, n, level);
    }
    if (isa->ioapic != NULL && n != 2) {
        ioapic_set_pin(isa->ioapic, n == 0 ? 2 : n, level);
    }
}

static inline struct irq_line isa_irq_line(struct isa_irq *isa, unsigned n)
{
    return (struct irq_line){.set = isa_irq_set, .opaque = isa, .n = n};
}
