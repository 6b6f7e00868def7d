/*
 * ACPI fixed hardware: power management events, sleep control, the 3.579545 MHz timer, general-
 * purpose events (ACPI 6.4, 4.8.3 and 4.8.4).
 *
 * Thread and lock: the machine's device lock; the timer callback takes it.
 * Saved: status, enable and control registers, the overflows of the timer accounted for.
 * Missing: S1 to S4 (a request for them wakes up at once), the PM1b blocks, global lock SMIs.
 */
#include "dev/acpi/pm.h"

#include "base/ckd.h"
#include "base/cleanup.h"
#include "dev/regs.h"

#include <errno.h>
#include <stdlib.h>

#define STS_TMR     0x0001u
#define STS_GBL     0x0020u
#define STS_PWRBTN  0x0100u
#define STS_WAK     0x8000u
#define STS_ALL     0x8731u
#define EN_ALL      0x0721u
#define CNT_SCI_EN  0x0001u
#define CNT_BM_RLD  0x0002u
#define CNT_GBL_RLS 0x0004u
#define CNT_SLP_TYP 0x1c00u
#define CNT_SLP_EN  0x2000u

enum { PM1_STS, PM1_EN, PM1_CNT, PM_TMR, GPE0_STS, GPE0_EN, N_REGS };

struct acpi_pm {
    struct dev dev;
    struct acpi_pm_config cfg;
    struct regs regs;
    uint64_t values[N_REGS];
    uint8_t smi_cmd[2]; /* ports B2h and B3h as written */
    uint64_t overflows; /* changes of the timer's top bit accounted for */
    struct timer timer;
};

/* Ticks in half a round of the timer: its top bit changes that often. */
static uint64_t half_round(const struct acpi_pm *pm)
{
    return UINT64_C(1) << (pm->cfg.timer_32bit ? 31 : 23);
}

static uint64_t ticks_now(const struct acpi_pm *pm)
{
    return muldiv64(vmclock_now_ns(pm->cfg.clock), ACPI_PM_HZ, NSEC_PER_SEC);
}

static void account_timer(struct acpi_pm *pm)
{
    uint64_t n = ticks_now(pm) / half_round(pm);

    if (n != pm->overflows) {
        pm->overflows = n;
        pm->values[PM1_STS] |= STS_TMR;
    }
}

/* Level of the SCI, and the host timer of the next overflow if it would raise it. */
static void pm_update(struct acpi_pm *pm)
{
    bool fixed = (pm->values[PM1_STS] & pm->values[PM1_EN] & EN_ALL) != 0;
    bool gpe = (pm->values[GPE0_STS] & pm->values[GPE0_EN]) != 0;

    irq_set(&pm->cfg.sci, (fixed || gpe) && (pm->values[PM1_CNT] & CNT_SCI_EN) != 0);
    if ((pm->values[PM1_EN] & STS_TMR) != 0 && (pm->values[PM1_STS] & STS_TMR) == 0) {
        uint64_t next = (pm->overflows + 1) * half_round(pm);
        timer_arm(&pm->timer, muldiv64(next, NSEC_PER_SEC, ACPI_PM_HZ) + 1);
    } else {
        timer_disarm(&pm->timer);
    }
}

static void pm_fired(void *opaque)
{
    struct acpi_pm *pm = opaque;

    SCOPED_LOCK(pm->cfg.lock);
    account_timer(pm);
    pm_update(pm);
}

static uint64_t timer_read(void *opaque, const struct reg *reg, uint64_t stored)
{
    const struct acpi_pm *pm = opaque;

    (void)reg;
    (void)stored;
    return ticks_now(pm) & (half_round(pm) * 2 - 1);
}

static uint64_t status_read(void *opaque, const struct reg *reg, uint64_t stored)
{
    struct acpi_pm *pm = opaque;

    (void)reg;
    (void)stored;
    account_timer(pm);
    return pm->values[PM1_STS];
}

static void event_write(void *opaque, const struct reg *reg, uint64_t old, uint64_t now,
                        uint64_t covered)
{
    (void)reg;
    (void)old;
    (void)now;
    (void)covered;
    account_timer(opaque);
    pm_update(opaque);
}

static void status_write(void *opaque, const struct reg *reg, uint64_t old, uint64_t now,
                         uint64_t covered)
{
    struct acpi_pm *pm = opaque;

    (void)reg;
    (void)old;
    (void)covered;
    /* What overflowed before the write is cleared by it. */
    account_timer(pm);
    pm->values[PM1_STS] = now;
    pm_update(pm);
}

static void control_write(void *opaque, const struct reg *reg, uint64_t old, uint64_t now,
                          uint64_t covered)
{
    struct acpi_pm *pm = opaque;
    bool sleep = (now & CNT_SLP_EN) != 0;

    (void)reg;
    (void)old;
    (void)covered;
    /* SLP_EN and GBL_RLS read as zero. */
    pm->values[PM1_CNT] = now & ~(uint64_t)(CNT_SLP_EN | CNT_GBL_RLS);
    if (pm->cfg.always_acpi) {
        pm->values[PM1_CNT] |= CNT_SCI_EN;
    }
    if (sleep && (now & CNT_SLP_TYP) >> 10 == pm->cfg.s5_typ) {
        if (pm->cfg.power_off != NULL) {
            pm->cfg.power_off(pm->cfg.opaque);
        }
    } else if (sleep) {
        pm->values[PM1_STS] |= STS_WAK;
    }
    pm_update(pm);
}

static const struct reg pm_table[N_REGS] = {
    [PM1_STS] = {.name = "PM1_STS",
                 .offset = ACPI_PM_EVT,
                 .width_bytes = 2,
                 .readable = STS_ALL,
                 .w1c = STS_ALL,
                 .on_read = status_read,
                 .on_write = status_write},
    [PM1_EN] = {.name = "PM1_EN",
                .offset = ACPI_PM_EVT + 2,
                .width_bytes = 2,
                .readable = EN_ALL,
                .writable = EN_ALL,
                .on_write = event_write},
    [PM1_CNT] = {.name = "PM1_CNT",
                 .offset = ACPI_PM_CNT,
                 .width_bytes = 2,
                 .readable = CNT_SCI_EN | CNT_BM_RLD | CNT_SLP_TYP,
                 .writable = CNT_BM_RLD | CNT_GBL_RLS | CNT_SLP_TYP | CNT_SLP_EN,
                 .on_write = control_write},
    [PM_TMR] = {.name = "PM_TMR",
                .offset = ACPI_PM_TMR,
                .width_bytes = 4,
                .readable = UINT32_MAX,
                .on_read = timer_read},
    [GPE0_STS] = {.name = "GPE0_STS",
                  .offset = ACPI_PM_GPE0,
                  .width_bytes = 2,
                  .readable = 0xffff,
                  .w1c = 0xffff,
                  .on_write = event_write},
    [GPE0_EN] = {.name = "GPE0_EN",
                 .offset = ACPI_PM_GPE0 + 2,
                 .width_bytes = 2,
                 .readable = 0xffff,
                 .writable = 0xffff,
                 .on_write = event_write},
};

static uint64_t pm_read(void *opaque, uint64_t offset, unsigned len)
{
    struct acpi_pm *pm = opaque;

    return regs_read(&pm->regs, offset, len);
}

static void pm_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct acpi_pm *pm = opaque;

    regs_write(&pm->regs, offset, len, value);
}

static uint64_t smi_read(void *opaque, uint64_t offset, unsigned len)
{
    const struct acpi_pm *pm = opaque;
    uint64_t both = pm->smi_cmd[0] | (uint64_t)pm->smi_cmd[1] << 8;

    return both >> (offset * 8) & (len == 1 ? 0xff : 0xffff);
}

static void smi_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct acpi_pm *pm = opaque;

    for (unsigned i = 0; i < len && offset + i < 2; i++) {
        pm->smi_cmd[offset + i] = (uint8_t)(value >> (i * 8));
    }
    if (offset == 0 && (value & 0xff) == ACPI_PM_CMD_ENABLE) {
        pm->values[PM1_CNT] |= CNT_SCI_EN;
    } else if (offset == 0 && (value & 0xff) == ACPI_PM_CMD_DISABLE && !pm->cfg.always_acpi) {
        pm->values[PM1_CNT] &= ~(uint64_t)CNT_SCI_EN;
    }
    pm_update(pm);
}

static const struct bus_ops pm_bus_ops = {pm_read, pm_write};
static const struct bus_ops smi_bus_ops = {smi_read, smi_write};

static void pm_reset_locked(struct acpi_pm *pm)
{
    regs_reset(&pm->regs);
    pm->values[PM1_CNT] = pm->cfg.always_acpi ? CNT_SCI_EN : 0;
    pm->smi_cmd[0] = pm->smi_cmd[1] = 0;
    pm->overflows = ticks_now(pm) / half_round(pm);
    pm_update(pm);
}

static void pm_reset(struct dev *dev)
{
    struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

    SCOPED_LOCK(pm->cfg.lock);
    pm_reset_locked(pm);
}

static const struct state_field pm_fields[] = {
    STATE_UINTS(struct acpi_pm, values),
    STATE_BYTES(struct acpi_pm, smi_cmd),
    STATE_UINT(struct acpi_pm, overflows),
    STATE_END,
};

static void pm_save(struct dev *dev, struct state_writer *w)
{
    struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

    SCOPED_LOCK(pm->cfg.lock);
    state_put_fields(w, pm_fields, pm);
}

static int pm_load(struct dev *dev, struct state_reader *r, uint32_t version, struct err *err)
{
    struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);
    int rc;

    (void)version;
    SCOPED_LOCK(pm->cfg.lock);
    timer_disarm(&pm->timer);
    rc = state_get_fields(r, pm_fields, pm, err);
    for (unsigned i = 0; i < N_REGS; i++) {
        pm->values[i] &= pm_table[i].readable;
    }
    if (pm->cfg.always_acpi) {
        pm->values[PM1_CNT] |= CNT_SCI_EN;
    }
    return rc;
}

static void pm_resume(struct dev *dev)
{
    struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

    SCOPED_LOCK(pm->cfg.lock);
    account_timer(pm);
    pm_update(pm);
}

static void pm_free(struct dev *dev)
{
    struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

    bus_remove_all(pm->cfg.pio, pm);
    timer_done(&pm->timer);
    free(pm);
}

static const struct dev_ops pm_ops = {
    .name = "acpi-pm",
    .state_version = 1,
    .reset = pm_reset,
    .save = pm_save,
    .load = pm_load,
    .resume = pm_resume,
    .free = pm_free,
};

int acpi_pm_new(struct acpi_pm **ret_pm, const struct acpi_pm_config *cfg, struct err *err)
{
    struct acpi_pm *pm = calloc(1, sizeof(*pm));
    int r;

    if (pm == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the ACPI registers");
    }
    pm->cfg = *cfg;
    pm->cfg.base = cfg->base != 0 ? cfg->base : 0x600;
    pm->dev = (struct dev){.ops = &pm_ops, .lock = cfg->lock};
    pm->regs =
        (struct regs){.table = pm_table, .n = N_REGS, .values = pm->values, .opaque = pm};
    r = timer_init(&pm->timer, cfg->loop, cfg->clock, pm_fired, pm, err);
    if (r == 0) {
        const struct bus_range ranges[] = {
            {.base = pm->cfg.base,
             .size = ACPI_PM_PORTS,
             .ops = &pm_bus_ops,
             .name = "acpi-pm"},
            {.base = ACPI_PM_SMI_CMD, .size = 2, .ops = &smi_bus_ops, .name = "acpi smi_cmd"},
        };
        pm_reset_locked(pm);
        r = bus_add_ranges(cfg->pio, ranges, ARRAY_LEN(ranges), pm, cfg->lock, err);
    }
    if (r < 0) {
        pm_free(&pm->dev);
        return r;
    }
    *ret_pm = pm;
    return 0;
}

struct dev *acpi_pm_dev(struct acpi_pm *pm)
{
    return &pm->dev;
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
    SCOPED_LOCK(pm->cfg.lock);
    pm->values[PM1_STS] |= STS_PWRBTN;
    pm_update(pm);
}

bool acpi_pm_hears_button(struct acpi_pm *pm)
{
    SCOPED_LOCK(pm->cfg.lock);
    return (pm->values[PM1_CNT] & CNT_SCI_EN) != 0 && (pm->values[PM1_EN] & STS_PWRBTN) != 0;
}

void acpi_pm_raise_gpe(struct acpi_pm *pm, unsigned n)
{
    if (n < ACPI_PM_GPES) {
        SCOPED_LOCK(pm->cfg.lock);
        pm->values[GPE0_STS] |= UINT64_C(1) << n;
        pm_update(pm);
    }
}
