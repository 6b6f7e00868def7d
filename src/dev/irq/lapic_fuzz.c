/* Random programs of register and MSR accesses, messages and acknowledges on two local APICs.
 */
#include "dev/dev_fuzz.h"
#include "dev/irq/lapic.h"

static struct lapic_set *set;

static uint64_t page_read(void *opaque, uint64_t offset, unsigned len)
{
    return lapic_mmio_read(opaque, 0, offset, len);
}

static void page_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    lapic_mmio_write(opaque, 0, offset, len, value);
}

static const struct bus_ops page_ops = {page_read, page_write};

static void on_signal(void *opaque, unsigned cpu, enum lapic_signal kind, uint8_t vector)
{
    (void)opaque;
    (void)vector;
    if (cpu > 1 || kind > LAPIC_SIG_SIPI) {
        abort();
    }
}

static int extint_ack(void *opaque)
{
    (void)opaque;
    return 0x20;
}

static uint64_t tsc_to_ns(void *opaque, unsigned cpu, uint64_t tsc)
{
    (void)opaque;
    (void)cpu;
    return tsc / 2;
}

static struct dev *make(struct fixture *fx)
{
    static const uint32_t ids[] = {0, 0x11};
    const struct lapic_config cfg = {
        .n_cpus = 2,
        .apic_ids = ids,
        .phys_bits = 40,
        .x2apic = true,
        .tsc_deadline = true,
        .eoi_suppress = true,
        .clock = &fx->clock,
        .loop = fx->loop,
        .host = {.signal = on_signal, .extint_ack = extint_ack, .tsc_to_ns = tsc_to_ns},
    };
    struct err err;

    fx_must(lapic_set_new(&set, &cfg, &err), &err);
    fx_must(bus_add(fx->mmio,
                    &(struct bus_range){.base = LAPIC_BASE_DEFAULT,
                                        .size = 0x1000,
                                        .ops = &page_ops,
                                        .opaque = set,
                                        .name = "lapic"},
                    &err),
            &err);
    return lapic_dev(set, 0);
}

static void extra(struct fixture *fx, struct dev *dev, uint32_t value)
{
    static const uint32_t msrs[] = {0x1b, 0x6e0, 0x80b, 0x80f, 0x830, 0x832, 0x838, 0x83f};
    unsigned cpu = value >> 31;
    uint64_t got;

    (void)fx;
    (void)dev;
    switch (value & 15) {
    case 0: lapic_send_msi(set, 0xfee00000 | (value >> 4 & 0xfffff), value >> 7); break;
    case 1: lapic_set_lint0(set, (value & 16) != 0); break;
    case 2: lapic_set_lint1(set, (value & 16) != 0); break;
    case 3: lapic_cr8_write(set, cpu, value >> 4); break;
    case 4: lapic_msr_write(set, cpu, 0x1b, 0xfee00000 | (value >> 4 & 0xd00)); break;
    case 5: lapic_msr_write(set, cpu, 0x800 + (value >> 4 & 0xff), value >> 12); break;
    case 6: lapic_msr_read(set, cpu, 0x800 + (value >> 4 & 0xff), &got); break;
    case 7: lapic_msr_write(set, cpu, msrs[value >> 4 & 7], (uint64_t)value << 8); break;
    case 8: lapic_raise_lvt(set, cpu, (value >> 4) % LAPIC_N_LVT); break;
    case 9: lapic_tsc_changed(set, cpu); break;
    default:
        if (lapic_irq_pending(set, cpu) && lapic_irq_ack(set, cpu) < 0) {
            abort();
        }
        break;
    }
}

static void done(struct fixture *fx, struct dev *dev)
{
    (void)fx;
    (void)dev;
    lapic_set_free(set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct fuzz_spec spec = {
        .make = make,
        .extra = extra,
        .done = done,
        .windows = {{LAPIC_BASE_DEFAULT, 0x400, true}},
        .n_windows = 1,
    };

    fuzz_program(&spec, data, len);
    return 0;
}
