/* Random programs of port accesses, requests and acknowledges on the pair of 8259s. */
#include "dev/dev_fuzz.h"
#include "dev/irq/i8259.h"

static struct i8259 *pic;

static struct dev *make(struct fixture *fx)
{
    struct err err;

    fx_must(
        i8259_new(&pic, &(struct i8259_config){.pio = fx->pio, .out = fx_line(fx, 0)}, &err),
        &err);
    return i8259_dev(pic);
}

static void extra(struct fixture *fx, struct dev *dev, uint32_t value)
{
    (void)fx;
    (void)dev;
    if ((value & 3) == 0) {
        int vector = i8259_ack(pic);
        if (vector < 0 || vector > 255) {
            abort();
        }
    } else {
        i8259_set_irq(pic, value >> 3 & 31, (value & 4) != 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct fuzz_spec spec = {
        .make = make,
        .extra = extra,
        .windows = {{0x20, 2, false}, {0xa0, 2, false}, {0x4d0, 2, false}},
        .n_windows = 3,
    };

    fuzz_program(&spec, data, len);
    return 0;
}
