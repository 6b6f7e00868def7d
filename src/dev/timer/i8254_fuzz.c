/* Random programs of port accesses on the interval timer while time passes. */
#include "dev/dev_fuzz.h"
#include "dev/timer/i8254.h"

static struct dev *make(struct fixture *fx)
{
    const struct i8254_config cfg = {.pio = fx->pio,
                                     .clock = &fx->clock,
                                     .loop = fx->loop,
                                     .lock = &fx->lock,
                                     .irq = fx_line(fx, 0)};
    struct i8254 *pit;
    struct err err;

    fx_must(i8254_new(&pit, &cfg, &err), &err);
    return i8254_dev(pit);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct fuzz_spec spec = {
        .make = make, .windows = {{0x40, 4, false}, {0x61, 1, false}}, .n_windows = 2};

    fuzz_program(&spec, data, len);
    return 0;
}
