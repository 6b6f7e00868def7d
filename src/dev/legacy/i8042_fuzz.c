/* Random programs of port accesses on the keyboard controller, with keys. */
#include "dev/dev_fuzz.h"
#include "dev/legacy/i8042.h"

static struct i8042 *kbc;

static struct dev *make(struct fixture *fx)
{
    const struct i8042_config cfg = {.pio = fx->pio,
                                     .lock = &fx->lock,
                                     .irq_kbd = fx_line(fx, 1),
                                     .irq_aux = fx_line(fx, 12)};
    struct err err;

    fx_must(i8042_new(&kbc, &cfg, &err), &err);
    return i8042_dev(kbc);
}

static void extra(struct fixture *fx, struct dev *dev, uint32_t value)
{
    uint8_t codes[12];

    (void)fx;
    (void)dev;
    memset(codes, (int)(value >> 8 & 0xff), sizeof(codes));
    i8042_key(kbc, codes, value % sizeof(codes));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct fuzz_spec spec = {
        .make = make,
        .extra = extra,
        .windows = {{0x60, 1, false}, {0x64, 1, false}},
        .n_windows = 2,
    };

    fuzz_program(&spec, data, len);
    return 0;
}
