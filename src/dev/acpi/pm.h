/*
 * ACPI fixed hardware: PM1 event and control, PM timer, GPE0 block (ACPI 6.4, 4.8.3).
 *
 * From the base port: PM1a_EVT_BLK +0 (4 bytes), PM1a_CNT_BLK +4 (2), PM_TMR_BLK +8 (4),
 * GPE0_BLK +20h (4: 16 status bits, 16 enable bits). SMI_CMD is port B2h.
 */
#pragma once

#include "base/clock.h"
#include "dev/bus.h"
#include "dev/dev.h"
#include "dev/irq.h"

#include <stdbool.h>
#include <stdint.h>

#define ACPI_PM_HZ          UINT64_C(3579545)
#define ACPI_PM_PORTS       0x40 /* bytes from the base */
#define ACPI_PM_EVT         0x00 /* offsets for the FADT */
#define ACPI_PM_CNT         0x04
#define ACPI_PM_TMR         0x08
#define ACPI_PM_GPE0        0x20
#define ACPI_PM_GPES        16
#define ACPI_PM_SMI_CMD     0xb2
#define ACPI_PM_CMD_ENABLE  0x02 /* FADT ACPI_ENABLE, ACPI_DISABLE */
#define ACPI_PM_CMD_DISABLE 0x03

struct acpi_pm;

struct acpi_pm_config {
    struct bus *pio;  /* NULL: none (tests) */
    uint16_t base;    /* 0: 600h */
    bool timer_32bit; /* FADT TMR_VAL_EXT */
    bool always_acpi; /* SCI_EN is one from reset on (FADT SMI_CMD may be 0) */
    uint8_t s5_typ;   /* SLP_TYP of S5, as in the DSDT; others wake up at once */
    struct vmclock *clock;
    struct loop *loop;
    pthread_mutex_t *lock; /* the machine's device lock */
    struct irq_line sci;
    void (*power_off)(void *opaque); /* S5 entered; vCPU's thread, device lock held */
    void *opaque;
};

int acpi_pm_new(struct acpi_pm **ret_pm, const struct acpi_pm_config *cfg, struct err *err);
struct dev *acpi_pm_dev(struct acpi_pm *pm);

void acpi_pm_power_button(struct acpi_pm *pm); /* any thread, device lock not held */
/* Whether the guest runs with ACPI on and listens to the button. Any thread, lock not held. */
bool acpi_pm_hears_button(struct acpi_pm *pm);
/* General-purpose event n, 0 to 15: sets its status bit. Any thread, lock not held. */
void acpi_pm_raise_gpe(struct acpi_pm *pm, unsigned n);
