/*
 * The PC's legacy devices and their wires (addresses and lines: board_map.h). An engine with
 * interrupt controllers of its own gets the lines directly; PIC, IOAPIC and local APICs are
 * then not made.
 */
#include "machine/machine_priv.h"

#include "base/cleanup.h"
#include "dev/acpi/pm.h"
#include "dev/legacy/debug_exit.h"
#include "dev/legacy/fw_cfg.h"
#include "dev/legacy/i8042.h"
#include "dev/legacy/pc_testdev.h"
#include "dev/legacy/port92.h"
#include "dev/legacy/pvpanic.h"
#include "dev/legacy/uart16550.h"
#include "dev/timer/hpet.h"
#include "dev/timer/i8254.h"
#include "dev/timer/mc146818.h"

#include <errno.h>

void board_add_dev(struct machine *m, struct dev *dev)
{
    dev->next = NULL;
    *m->devs_tail = dev;
    m->devs_tail = &dev->next;
}

/* ---- interrupts ---- */

static void engine_line_set(void *opaque, unsigned n, bool level)
{
    struct machine *m = opaque;

    m->engine->irq_line(m->evm, n, level);
}

static void engine_msi_send(void *opaque, uint64_t addr, uint32_t data)
{
    struct machine *m = opaque;

    m->engine->send_msi(m->evm, addr, data);
}

struct irq_line board_irq(struct machine *m, unsigned gsi)
{
    if (m->engine->has_irqchip) {
        return (struct irq_line){.set = engine_line_set, .opaque = m, .n = gsi};
    }
    return isa_irq_line(&m->board.isa, gsi);
}

struct msi_sink board_msi(struct machine *m)
{
    if (m->engine->has_irqchip) {
        return (struct msi_sink){.send = engine_msi_send, .opaque = m};
    }
    return lapic_msi_sink(m->board.lapics);
}

static int extint_ack(void *opaque)
{
    return i8259_ack(((struct machine *)opaque)->board.pic);
}

static void lapic_eoi(void *opaque, uint8_t vector)
{
    ioapic_eoi(((struct machine *)opaque)->board.ioapic, vector);
}

static int make_irqchips(struct machine *m, struct err *err)
{
    struct board *b = &m->board;
    const struct lapic_config lapics = {
        .n_cpus = m->cfg->n_cpus,
        .phys_bits = (uint8_t)m->model.phys_bits,
        .x2apic = cpu_model_has(&m->model, 1, 0, 2, 21),
        .tsc_deadline = cpu_model_has(&m->model, 1, 0, 2, 24),
        .clock = &m->clock,
        .loop = m->loop,
        .host = {.opaque = m,
                 .signal = glue_lapic_signal,
                 .extint_ack = extint_ack,
                 .eoi = lapic_eoi,
                 .tsc_to_ns = glue_tsc_to_ns},
    };
    int r = lapic_set_new(&b->lapics, &lapics, err);
    if (r < 0) {
        return r;
    }
    for (unsigned i = 0; i < m->cfg->n_cpus; i++) {
        board_add_dev(m, lapic_dev(b->lapics, i));
    }
    const struct i8259_config pic = {.pio = m->pio, .out = lapic_lint0_line(b->lapics)};
    r = i8259_new(&b->pic, &pic, err);
    if (r < 0) {
        return r;
    }
    board_add_dev(m, i8259_dev(b->pic));
    const struct ioapic_config ioapic = {.mmio = m->mmio,
                                         .base = BOARD_IOAPIC_BASE,
                                         .id = (uint8_t)BOARD_IOAPIC_ID,
                                         .msi = lapic_msi_sink(b->lapics)};
    r = ioapic_new(&b->ioapic, &ioapic, err);
    if (r < 0) {
        return r;
    }
    board_add_dev(m, ioapic_dev(b->ioapic));
    b->isa = (struct isa_irq){.pic = b->pic, .ioapic = b->ioapic};
    return 0;
}

/* ---- timers ---- */

static void gsi_set(void *opaque, unsigned gsi, bool level)
{
    const struct irq_line line = board_irq(opaque, gsi);

    irq_set(&line, level);
}

static int make_timers(struct machine *m, struct err *err)
{
    struct hpet *hpet;
    struct i8254 *pit;
    struct mc146818 *rtc;
    const struct hpet_config hpet_cfg = {.mmio = m->mmio,
                                         .base = BOARD_HPET_BASE,
                                         .clock = &m->clock,
                                         .loop = m->loop,
                                         .set_gsi = gsi_set,
                                         .opaque = m,
                                         .msi = board_msi(m)};
    int r = hpet_new(&hpet, &hpet_cfg, err);
    if (r < 0) {
        return r;
    }
    board_add_dev(m, hpet_dev(hpet));
    const struct i8254_config pit_cfg = {.pio = m->pio,
                                         .clock = &m->clock,
                                         .loop = m->loop,
                                         .lock = &m->dev_lock,
                                         .irq = hpet_pit_input(hpet)};
    r = i8254_new(&pit, &pit_cfg, err);
    if (r < 0) {
        return r;
    }
    board_add_dev(m, i8254_dev(pit));
    const struct mc146818_config rtc_cfg = {.pio = m->pio,
                                            .clock = &m->clock,
                                            .loop = m->loop,
                                            .lock = &m->dev_lock,
                                            .irq = hpet_rtc_input(hpet)};
    r = mc146818_new(&rtc, &rtc_cfg, err);
    if (r == 0) {
        board_add_dev(m, mc146818_dev(rtc));
    }
    return r;
}

/* ---- power, reset, test ports ---- */

static void on_power_off(void *opaque)
{
    machine_request_end(opaque, MACHINE_END_POWEROFF, "");
}

static void on_reset(void *opaque)
{
    machine_request(opaque, REQUEST_RESET);
}

static void on_debug_exit(void *opaque, int status)
{
    struct machine *m = opaque;

    m->exit_code = (unsigned)status;
    machine_request_end(m, MACHINE_END_EXIT, "");
}

static int make_power(struct machine *m, struct err *err)
{
    struct i8042 *kbc;
    struct port92 *port92;
    const struct acpi_pm_config pm = {.pio = m->pio,
                                      .base = BOARD_PORT_PM,
                                      .timer_32bit = true,
                                      .s5_typ = BOARD_S5_TYP,
                                      .clock = &m->clock,
                                      .loop = m->loop,
                                      .lock = &m->dev_lock,
                                      .sci = board_irq(m, BOARD_IRQ_SCI),
                                      .power_off = on_power_off,
                                      .opaque = m};
    int r = acpi_pm_new(&m->board.pm, &pm, err);
    if (r < 0) {
        return r;
    }
    board_add_dev(m, acpi_pm_dev(m->board.pm));
    const struct i8042_config kbc_cfg = {.pio = m->pio,
                                         .lock = &m->dev_lock,
                                         .irq_kbd = board_irq(m, BOARD_IRQ_KBD),
                                         .irq_aux = board_irq(m, BOARD_IRQ_AUX),
                                         .reset = on_reset,
                                         .opaque = m};
    r = i8042_new(&kbc, &kbc_cfg, err);
    if (r < 0) {
        return r;
    }
    board_add_dev(m, i8042_dev(kbc));
    const struct port92_config port92_cfg = {
        .pio = m->pio, .lock = &m->dev_lock, .reset = on_reset, .opaque = m};
    r = port92_new(&port92, &port92_cfg, err);
    if (r == 0) {
        board_add_dev(m, port92_dev(port92));
    }
    return r;
}

static void on_panic(void *opaque, unsigned event)
{
    if (event == PVPANIC_PANICKED) {
        machine_request_end(opaque, MACHINE_END_CRASH, "the guest panicked");
    }
}

/* What guests ask about themselves: its panic, and numbers for firmware and test suites. */
static int make_paravirtual(struct machine *m, struct err *err)
{
    struct pvpanic *panic;
    struct fw_cfg *fw;
    const struct pvpanic_config panic_cfg = {.pio = m->pio,
                                             .port = BOARD_PORT_PANIC,
                                             .lock = &m->dev_lock,
                                             .event = on_panic,
                                             .opaque = m};
    int r = pvpanic_new(&panic, &panic_cfg, err);
    if (r < 0) {
        return r;
    }
    board_add_dev(m, pvpanic_dev(panic));
    const struct fw_cfg_config fw_cfg = {.pio = m->pio, .mem = m->mem, .lock = &m->dev_lock};
    r = fw_cfg_new(&fw, &fw_cfg, err);
    if (r < 0) {
        return r;
    }
    board_add_dev(m, fw_cfg_dev(fw));
    r = fw_cfg_add_u64(fw, FW_CFG_RAM_SIZE, m->cfg->memory_bytes, err);
    r = r < 0 ? r : fw_cfg_add_u16(fw, FW_CFG_NB_CPUS, (uint16_t)m->cfg->n_cpus, err);
    return r < 0 ? r : fw_cfg_add_u16(fw, FW_CFG_MAX_CPUS, (uint16_t)m->cfg->n_cpus, err);
}

static int make_test_device(struct machine *m, struct err *err)
{
    struct pc_testdev *td;
    const struct pc_testdev_config cfg = {
        .pio = m->pio, .mmio = m->mmio, .lock = &m->dev_lock, .set_gsi = gsi_set, .opaque = m};
    int r = m->cfg->test_device ? pc_testdev_new(&td, &cfg, err) : 0;

    if (r == 0 && m->cfg->test_device) {
        board_add_dev(m, pc_testdev_dev(td));
    }
    return r;
}

static int make_test_ports(struct machine *m, struct err *err)
{
    struct debug_exit *exit_port;
    struct debugcon *debugcon;
    const struct post_port_config post = {
        .pio = m->pio, .port = BOARD_PORT_POST, .lock = &m->dev_lock};
    int r = post_port_new(&m->board.post, &post, err);
    if (r < 0) {
        return r;
    }
    board_add_dev(m, post_port_dev(m->board.post));
    const struct debug_exit_config exit_cfg = {.pio = m->pio,
                                               .port = BOARD_PORT_EXIT,
                                               .lock = &m->dev_lock,
                                               .exit = on_debug_exit,
                                               .opaque = m};
    r = debug_exit_new(&exit_port, &exit_cfg, err);
    if (r < 0) {
        return r;
    }
    board_add_dev(m, debug_exit_dev(exit_port));
    /* Firmware's debug output is taken and forgotten. */
    const struct debugcon_config con = {
        .pio = m->pio, .port = BOARD_PORT_DEBUG, .loop = m->loop, .lock = &m->dev_lock};
    r = debugcon_new(&debugcon, &con, err);
    if (r == 0) {
        board_add_dev(m, debugcon_dev(debugcon));
    }
    return r;
}

/* ---- console ---- */

static size_t uart_out(void *opaque, const uint8_t *data, size_t len)
{
    struct machine *m = opaque;

    return m->console.write(m->console.opaque, data, len);
}

static void uart_rx_ready(void *opaque)
{
    machine_request(opaque, REQUEST_INPUT);
}

static int make_uart(struct machine *m, struct err *err)
{
    const struct uart16550_config cfg = {
        .pio = m->pio,
        .base = BOARD_PORT_COM1,
        .clock = &m->clock,
        .loop = m->loop,
        .lock = &m->dev_lock,
        .irq = board_irq(m, BOARD_IRQ_COM1),
        .out = {.write = m->console.write != NULL ? uart_out : NULL, .opaque = m},
        .rx_ready = uart_rx_ready,
        .rx_opaque = m};
    int r = uart16550_new(&m->board.uart, &cfg, err);

    if (r == 0) {
        board_add_dev(m, uart16550_dev(m->board.uart));
    }
    return r;
}

int board_new(struct machine *m, struct err *err)
{
    int r = m->engine->has_irqchip ? 0 : make_irqchips(m, err);

    r = r < 0 ? r : make_timers(m, err);
    r = r < 0 ? r : make_power(m, err);
    r = r < 0 ? r : make_paravirtual(m, err);
    r = r < 0 ? r : make_test_ports(m, err);
    r = r < 0 ? r : make_test_device(m, err);
    r = r < 0 ? r : make_uart(m, err);
    return r < 0 ? r : board_pci_new(m, err);
}

/* Frees the list from dev up to (not including) end, the last one first. */
static void free_backwards(struct dev *dev, const struct dev *end)
{
    if (dev == end || dev == NULL) {
        return;
    }
    free_backwards(dev->next, end);
    if (dev->ops->free != NULL) {
        dev->ops->free(dev);
    }
}

/*
 * PCI first: the root lets go of its functions, then each function waits for its requests in
 * flight, whose end may still raise interrupts. The controllers go last.
 */
void board_free(struct machine *m)
{
    struct dev *pci = m->board.pci != NULL ? pci_root_dev(m->board.pci) : NULL;
    struct dev *functions = pci != NULL ? pci->next : NULL;

    pci_root_free(m->board.pci);
    for (struct dev *d = functions; d != NULL;) {
        struct dev *next = d->next;
        if (d->ops->free != NULL) {
            d->ops->free(d);
        }
        d = next;
    }
    free_backwards(m->devs, pci);
    lapic_set_free(m->board.lapics);
    m->devs = NULL;
    m->devs_tail = &m->devs;
    m->board = (struct board){0};
}
