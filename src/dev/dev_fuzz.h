/*
 * Random register programs for one device: included by foo_fuzz.c, which fills a struct
 * fuzz_spec and calls fuzz_program from LLVMFuzzerTestOneInput.
 *
 * Each step takes six bytes: what to do, where, and a value. Steps read, write, move the clock,
 * reset, save and load (with a flipped byte now and then), and call the target's own extra
 * hook.
 */
#pragma once

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/fuzz.h"
#include "dev/dev_test.h"

struct fuzz_window {
    uint64_t base;
    uint32_t size;
    bool mmio;
};

struct fuzz_spec {
    /* Makes the device in *fx; ret_dev[0] is fuzzed, free is called for it. */
    struct dev *(*make)(struct fixture *fx);
    void (*extra)(struct fixture *fx, struct dev *dev, uint32_t value); /* optional */
    void (*done)(struct fixture *fx, struct dev *dev); /* instead of ops->free */
    struct fuzz_window windows[4];
    unsigned n_windows;
};

static inline void fuzz_state(struct dev *dev, uint32_t value)
{
    uint8_t *data;
    size_t len = fx_save(dev, &data);

    if ((value & 1) != 0 && len > 64) {
        /* Behind the magic and the section's head: mostly field contents. */
        data[32 + (value >> 9) % (len - 32)] ^= (uint8_t)(value >> 1);
    }
    if (fx_load(dev, data, len) < 0) {
        dev->ops->reset(dev);
    }
    free(data);
}

static inline void fuzz_access(struct fixture *fx, const struct fuzz_spec *spec,
                               const uint8_t *step)
{
    const struct fuzz_window *w = &spec->windows[(step[0] >> 4) % spec->n_windows];
    unsigned len = 1u << (step[0] >> 1 & 3);
    uint64_t at = w->base + (step[1] | (uint32_t)step[5] << 8) % (w->size + 3) - 1;
    uint64_t value = get_le32(step + 2);
    struct bus *bus = w->mmio ? fx->mmio : fx->pio;

    if (!w->mmio && len == 8) {
        len = 4;
    }
    if ((step[0] & 1) != 0) {
        bus_read(bus, at, len);
    } else {
        bus_write(bus, at, len, len == 8 ? value * UINT64_C(0x100000001) : value);
    }
}

static inline void fuzz_program(const struct fuzz_spec *spec, const uint8_t *data, size_t len)
{
    struct fixture fx;
    struct dev *dev;

    fx_init(&fx);
    dev = spec->make(&fx);
    for (; len >= 6; data += 6, len -= 6) {
        uint32_t value = get_le32(data + 2);
        if (data[0] < 0xe0) {
            fuzz_access(&fx, spec, data);
        } else if (data[0] < 0xf0) {
            fx_advance_most(&fx, (uint64_t)value << (data[1] & 15) >> 8, 200);
        } else if (data[0] < 0xfa && spec->extra != NULL) {
            spec->extra(&fx, dev, value ^ data[1]);
        } else if (data[0] < 0xfe) {
            fuzz_state(dev, value);
        } else if (data[0] == 0xfe) {
            dev->ops->reset(dev);
        } else if (dev->ops->resume != NULL) {
            dev->ops->resume(dev);
        }
    }
    if (spec->done != NULL) {
        spec->done(&fx, dev);
    } else {
        dev->ops->free(dev);
    }
    fx_done(&fx);
}
