/* Random programs of register accesses on the HPET while time passes. */
#include "dev/dev_fuzz.h"
#include "dev/timer/hpet.h"

static struct irq_line pit;

static void set_gsi(void *opaque, unsigned gsi, bool level)
{
    if (gsi >= FX_LINES) {
        abort();
    }
    fx_line_set(opaque, gsi, level);
}

static void sink(void *opaque, uint64_t addr, uint32_t data)
{
    (void)opaque;
    (void)addr;
    (void)data;
}

static struct dev *make(struct fixture *fx)
{
    const struct hpet_config cfg = {.mmio = fx->mmio,
                                    .clock = &fx->clock,
                                    .loop = fx->loop,
                                    .set_gsi = set_gsi,
                                    .opaque = fx,
                                    .msi = {.send = sink}};
    struct hpet *hpet;
    struct err err;

    fx_must(hpet_new(&hpet, &cfg, &err), &err);
    pit = hpet_pit_input(hpet);
    return hpet_dev(hpet);
}

static void extra(struct fixture *fx, struct dev *dev, uint32_t value)
{
    (void)fx;
    (void)dev;
    irq_set(&pit, (value & 1) != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct fuzz_spec spec = {
        .make = make,
        .extra = extra,
        .windows = {{HPET_BASE_DEFAULT, 0x28, true},
                    {HPET_BASE_DEFAULT + 0xf0, 8, true},
                    {HPET_BASE_DEFAULT + 0x100, 0x60, true}},
        .n_windows = 3,
    };

    fuzz_program(&spec, data, len);
    return 0;
}
