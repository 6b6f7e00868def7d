/* Random programs of register accesses, wires and EOIs on the I/O APIC. */
#include "dev/dev_fuzz.h"
#include "dev/irq/ioapic.h"

static struct ioapic *io;

static void sink(void *opaque, uint64_t addr, uint32_t data)
{
    (void)opaque;
    (void)data;
    if (addr >> 20 != 0xfee) {
        abort();
    }
}

static struct dev *make(struct fixture *fx)
{
    struct err err;

    fx_must(ioapic_new(&io, &(struct ioapic_config){.mmio = fx->mmio, .msi.send = sink}, &err),
            &err);
    return ioapic_dev(io);
}

static void extra(struct fixture *fx, struct dev *dev, uint32_t value)
{
    (void)fx;
    (void)dev;
    if ((value & 3) == 0) {
        ioapic_eoi(io, (uint8_t)(value >> 2));
    } else {
        ioapic_set_pin(io, value >> 3 & 31, (value & 4) != 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct fuzz_spec spec = {
        .make = make,
        .extra = extra,
        .windows = {{IOAPIC_BASE_DEFAULT, 1, true},
                    {IOAPIC_BASE_DEFAULT + 0x10, 4, true},
                    {IOAPIC_BASE_DEFAULT, 0x44, true}},
        .n_windows = 3,
    };

    fuzz_program(&spec, data, len);
    return 0;
}
