/* Random programs of port accesses on the real-time clock while time passes, also backwards. */
#include "dev/dev_fuzz.h"
#include "dev/timer/mc146818.h"

static uint64_t wall_skew;

static uint64_t wall(void *opaque)
{
    const struct fixture *fx = opaque;

    return UINT64_C(1700000000) * NSEC_PER_SEC + vmclock_now_ns(&fx->clock) + wall_skew;
}

static struct dev *make(struct fixture *fx)
{
    const struct mc146818_config cfg = {.pio = fx->pio,
                                        .clock = &fx->clock,
                                        .loop = fx->loop,
                                        .lock = &fx->lock,
                                        .irq = fx_line(fx, 8),
                                        .wall_ns = wall,
                                        .wall_opaque = fx};
    struct mc146818 *rtc;
    struct err err;

    wall_skew = 0;
    fx_must(mc146818_new(&rtc, &cfg, &err), &err);
    return mc146818_dev(rtc);
}

static void extra(struct fixture *fx, struct dev *dev, uint32_t value)
{
    (void)fx;
    (void)dev;
    wall_skew += (uint64_t)(int64_t)(int32_t)value << (value & 15);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct fuzz_spec spec = {
        .make = make, .extra = extra, .windows = {{0x70, 2, false}}, .n_windows = 1};

    fuzz_program(&spec, data, len);
    return 0;
}
