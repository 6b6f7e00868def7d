/* Interrupt wires between devices and controllers. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* A level wire: set(opaque, n, level). Edge users pulse it. Callable from any thread. */
struct irq_line {
    void (*set)(void *opaque, unsigned n, bool level);
    void *opaque;
    unsigned n;
};

static inline void irq_set(const struct irq_line *line, bool level)
{
    if (line->set != NULL) {
        line->set(line->opaque, line->n, level);
    }
}

/* Where message-signalled interrupts go: a write of data to addr (0xFEEx_xxxx on x86). */
struct msi_sink {
    void (*send)(void *opaque, uint64_t addr, uint32_t data);
    void *opaque;
};

static inline void msi_send(const struct msi_sink *sink, uint64_t addr, uint32_t data)
{
    if (sink->send != NULL) {
        sink->send(sink->opaque, addr, data);
    }
}
