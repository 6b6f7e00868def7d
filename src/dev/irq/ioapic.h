/* I/O APIC (Intel 82093AA, with the EOI register of version 20h as in ICH9). */
#pragma once

#include "dev/bus.h"
#include "dev/dev.h"
#include "dev/irq.h"

#include <stdbool.h>
#include <stdint.h>

#define IOAPIC_PINS         24
#define IOAPIC_BASE_DEFAULT UINT64_C(0xfec00000)

struct ioapic;

struct ioapic_config {
    struct bus *mmio;    /* borrowed; NULL: not on a bus (tests) */
    uint64_t base;       /* 0: IOAPIC_BASE_DEFAULT */
    uint8_t id;          /* as in the MADT */
    struct msi_sink msi; /* where interrupt messages go, called with the I/O APIC's lock held */
};

int ioapic_new(struct ioapic **ret_ioapic, const struct ioapic_config *cfg, struct err *err);
struct dev *ioapic_dev(struct ioapic *io);

/* Level of input pin n (a GSI); pins that do not exist are ignored. Any thread. */
void ioapic_set_pin(struct ioapic *io, unsigned n, bool level);
struct irq_line ioapic_line(struct ioapic *io, unsigned n);
/* EOI message of a local APIC. Any thread, with no LAPIC lock held. */
void ioapic_eoi(struct ioapic *io, uint8_t vector);
uint64_t ioapic_read(struct ioapic *io, uint64_t offset, unsigned len);
void ioapic_write(struct ioapic *io, uint64_t offset, unsigned len, uint64_t value);
