/* Random programs of port accesses on the ACPI registers. */
#include "dev/acpi/pm.h"
#include "dev/dev_fuzz.h"

static struct acpi_pm *pm;

static struct dev *make(struct fixture *fx)
{
    const struct acpi_pm_config cfg = {.pio = fx->pio,
                                       .s5_typ = 5,
                                       .clock = &fx->clock,
                                       .loop = fx->loop,
                                       .lock = &fx->lock,
                                       .sci = fx_line(fx, 9)};
    struct err err;

    fx_must(acpi_pm_new(&pm, &cfg, &err), &err);
    return acpi_pm_dev(pm);
}

static void extra(struct fixture *fx, struct dev *dev, uint32_t value)
{
    (void)fx;
    (void)dev;
    if ((value & 1) != 0) {
        acpi_pm_power_button(pm);
    } else {
        acpi_pm_raise_gpe(pm, value >> 1 & 31);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct fuzz_spec spec = {
        .make = make,
        .extra = extra,
        .windows = {{0x600, ACPI_PM_PORTS, false}, {0xb2, 2, false}},
        .n_windows = 2,
    };

    fuzz_program(&spec, data, len);
    return 0;
}
