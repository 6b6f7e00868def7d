/*
 * What the CPU engine asks of the machine: ports and addresses go to the buses (the local
 * APIC's page first, because each CPU sees its own), interrupt questions to the local APICs.
 * Runs on vCPU threads; no state of its own.
 */
#include "machine/machine_priv.h"

#include "base/ckd.h"

static uint64_t host_pio_read(void *opaque, unsigned cpu, uint16_t port, unsigned len)
{
    (void)cpu;
    return bus_read(((struct machine *)opaque)->pio, port, len);
}

static void host_pio_write(void *opaque, unsigned cpu, uint16_t port, unsigned len,
                           uint32_t value)
{
    (void)cpu;
    bus_write(((struct machine *)opaque)->pio, port, len, value);
}

static uint64_t host_mmio_read(void *opaque, unsigned cpu, uint64_t gpa, unsigned len)
{
    struct machine *m = opaque;
    uint64_t offset;

    if (m->board.lapics != NULL && lapic_claims(m->board.lapics, cpu, gpa, &offset)) {
        return lapic_mmio_read(m->board.lapics, cpu, offset, len);
    }
    return bus_read(m->mmio, gpa, len);
}

static void host_mmio_write(void *opaque, unsigned cpu, uint64_t gpa, unsigned len,
                            uint64_t value)
{
    struct machine *m = opaque;
    uint64_t offset;

    if (m->board.lapics != NULL && lapic_claims(m->board.lapics, cpu, gpa, &offset)) {
        lapic_mmio_write(m->board.lapics, cpu, offset, len, value);
        return;
    }
    bus_write(m->mmio, gpa, len, value);
}

static bool host_irq_pending(void *opaque, unsigned cpu)
{
    return lapic_irq_pending(((struct machine *)opaque)->board.lapics, cpu);
}

static int host_irq_ack(void *opaque, unsigned cpu)
{
    return lapic_irq_ack(((struct machine *)opaque)->board.lapics, cpu);
}

static int host_apic_msr_read(void *opaque, unsigned cpu, uint32_t msr, uint64_t *ret_value)
{
    return lapic_msr_read(((struct machine *)opaque)->board.lapics, cpu, msr, ret_value);
}

static int host_apic_msr_write(void *opaque, unsigned cpu, uint32_t msr, uint64_t value)
{
    return lapic_msr_write(((struct machine *)opaque)->board.lapics, cpu, msr, value);
}

static uint64_t host_cr8_read(void *opaque, unsigned cpu)
{
    return lapic_cr8_read(((struct machine *)opaque)->board.lapics, cpu);
}

static void host_cr8_write(void *opaque, unsigned cpu, uint64_t value)
{
    lapic_cr8_write(((struct machine *)opaque)->board.lapics, cpu, value);
}

static uint64_t host_pv_time_ns(void *opaque)
{
    return vmclock_now_ns(&((struct machine *)opaque)->clock);
}

void glue_fill_host(struct machine *m, struct engine_host *ret_host)
{
    *ret_host = (struct engine_host){
        .opaque = m,
        .pio_read = host_pio_read,
        .pio_write = host_pio_write,
        .mmio_read = host_mmio_read,
        .mmio_write = host_mmio_write,
        .irq_pending = host_irq_pending,
        .irq_ack = host_irq_ack,
        .apic_msr_read = host_apic_msr_read,
        .apic_msr_write = host_apic_msr_write,
        .cr8_read = host_cr8_read,
        .cr8_write = host_cr8_write,
        .pv_time_ns = host_pv_time_ns,
    };
}

uint64_t glue_tsc_to_ns(void *opaque, unsigned cpu, uint64_t tsc)
{
    struct machine *m = opaque;
    uint64_t now_ns = vmclock_now_ns(&m->clock);
    uint64_t now_tsc =
        m->engine->read_tsc != NULL ? m->engine->read_tsc(m->vcpus[cpu].ev) : host_tsc();
    if (tsc <= now_tsc) {
        return 0;
    }
    uint64_t ticks = tsc - now_tsc;
    /* Centuries ahead: never. */
    if (m->model.tsc_khz == 0 || ticks >> 62 != 0) {
        return UINT64_MAX;
    }
    return now_ns + muldiv64(ticks, 1000000, m->model.tsc_khz);
}

void glue_lapic_signal(void *opaque, unsigned cpu, enum lapic_signal kind, uint8_t vector)
{
    static const enum engine_signal signals[] = {
        [LAPIC_SIG_IRQ] = ENGINE_SIG_IRQ,
        [LAPIC_SIG_NMI] = ENGINE_SIG_NMI,
        [LAPIC_SIG_INIT] = ENGINE_SIG_INIT,
        [LAPIC_SIG_SIPI] = ENGINE_SIG_SIPI,
    };
    struct machine *m = opaque;

    /* Devices are made before the vCPUs, and reset lines may move meanwhile. */
    if (m->vcpus != NULL && cpu < m->cfg->n_cpus && m->vcpus[cpu].ev != NULL) {
        m->engine->signal(m->vcpus[cpu].ev, signals[kind], vector);
    }
}
