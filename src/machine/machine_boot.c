/*
 * Puts the configured kernel into guest memory: memory map, ACPI tables, loader (boot/). Called
 * with the vCPUs parked, at the start and after every reset; the files stay open, so that a
 * reset finds the same ones.
 */
#include "machine/machine_priv.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "boot/acpi/acpi.h"
#include "boot/boot.h"
#include "dev/acpi/pm.h"
#include "dev/timer/hpet.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* What Linux is told when nobody said anything. Other kernels get an empty command line. */
#define LINUX_CMDLINE_DEFAULT "console=ttyS0"

static int open_file(int *fd, const char *what, const char *path, struct err *err)
{
    if (path == NULL || *fd >= 0) {
        return 0;
    }
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (*fd < 0) {
        int e = errno;
        return ERR(err, NOT_FOUND, e, "%s %s: %s", what, path, strerror(e));
    }
    return 0;
}

void machine_boot_close(struct machine *m)
{
    if (m->kernel_fd >= 0) {
        close(m->kernel_fd);
    }
    if (m->initrd_fd >= 0) {
        close(m->initrd_fd);
    }
    m->kernel_fd = m->initrd_fd = -1;
}

static int mark_board(struct boot_map *map, struct err *err)
{
    static const struct board_range reserved[] = {
        {BOARD_ECAM_BASE, BOARD_ECAM_SIZE},
        {BOARD_IOAPIC_BASE, 0x1000},
        {BOARD_HPET_BASE, 0x1000},
        {BOARD_LAPIC_BASE, 0x1000},
    };
    for (size_t i = 0; i < ARRAY_LEN(reserved); i++) {
        int r = boot_map_mark(map, reserved[i].base, reserved[i].size, BOOT_MAP_RESERVED);
        if (r < 0) {
            return ERR(err, INTERNAL, -r, "cannot reserve 0x%lx in the memory map",
                       (unsigned long)reserved[i].base);
        }
    }
    return 0;
}

static int make_tables(struct machine *m, struct boot_map *map, uint64_t *ret_rsdp,
                       struct err *err)
{
    struct acpi_config cfg;
    struct acpi_tables tables;

    acpi_config_default(&cfg);
    cfg.n_cpus = m->cfg->n_cpus;
    cfg.lapic_base = BOARD_LAPIC_BASE;
    cfg.ioapic_base = BOARD_IOAPIC_BASE;
    cfg.ioapic_id = BOARD_IOAPIC_ID;
    cfg.hpet_base = BOARD_HPET_BASE;
    cfg.hpet_id = HPET_BLOCK_ID;
    cfg.ecam_base = BOARD_ECAM_BASE;
    cfg.pci32 = (struct acpi_window){m->map.pci32.base, m->map.pci32.size};
    cfg.pci64 = (struct acpi_window){m->map.pci64.base, m->map.pci64.size};
    cfg.intx_gsi = BOARD_GSI_INTX(0);
    cfg.sci_irq = BOARD_IRQ_SCI;
    cfg.pm1_event = BOARD_PORT_PM + ACPI_PM_EVT;
    cfg.pm1_control = BOARD_PORT_PM + ACPI_PM_CNT;
    cfg.pm_timer = BOARD_PORT_PM + ACPI_PM_TMR;
    cfg.gpe0 = BOARD_PORT_PM + ACPI_PM_GPE0;
    cfg.smi_command = ACPI_PM_SMI_CMD;
    cfg.acpi_enable = ACPI_PM_CMD_ENABLE;
    cfg.acpi_disable = ACPI_PM_CMD_DISABLE;
    cfg.s5_type = BOARD_S5_TYP;
    cfg.com1 = BOARD_PORT_COM1;
    cfg.pvpanic_port = BOARD_PORT_PANIC;
    cfg.fw_cfg_port = BOARD_PORT_FW_CFG;
    int r = acpi_build(&cfg, m->mem, map, &tables, err);
    if (r == 0) {
        *ret_rsdp = tables.rsdp;
    }
    return r;
}

/* The kernel's kind is known only after loading, so Linux's default is tried on all: a command
 * line that the user did not give is dropped again for a kernel that is not Linux. */
static int load(struct machine *m, struct boot_request *req, struct boot_result *result,
                struct err *err)
{
    req->cmdline = m->cfg->cmdline != NULL ? m->cfg->cmdline : LINUX_CMDLINE_DEFAULT;
    int r = boot_load(req, result, err);
    if (r < 0 || m->cfg->cmdline != NULL ||
        (result->kind != BOOT_PVH && result->kind != BOOT_MULTIBOOT)) {
        return r;
    }
    req->cmdline = NULL;
    return boot_load(req, result, err);
}

int machine_boot(struct machine *m, struct vcpu_state *ret_bsp, struct err *err)
{
    _cleanup_free_ struct boot_map *map = calloc(1, sizeof(*map));
    _cleanup_free_ struct boot_result *result = calloc(1, sizeof(*result));
    static const uint8_t irq_of_pin[4] = {BOARD_GSI_INTX(0), BOARD_GSI_INTX(1),
                                          BOARD_GSI_INTX(2), BOARD_GSI_INTX(3)};
    uint64_t rsdp = 0;

    if (map == NULL || result == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory to load a kernel");
    }
    int r = open_file(&m->kernel_fd, "kernel", m->cfg->kernel, err);
    r = r < 0 ? r : open_file(&m->initrd_fd, "initrd", m->cfg->initrd, err);
    r = r < 0 ? r : pci_root_assign(m->board.pci, irq_of_pin, err);
    r = r < 0 ? r : boot_map_from_mem(map, m->mem, err);
    r = r < 0 ? r : mark_board(map, err);
    r = r < 0 ? r : make_tables(m, map, &rsdp, err);
    if (r < 0) {
        return r;
    }
    struct boot_request req = {
        .mem = m->mem,
        .map = map,
        .kernel = {.fd = m->kernel_fd, .name = m->cfg->kernel},
        .initrd = {.fd = m->initrd_fd, .name = m->cfg->initrd},
        .rsdp = rsdp,
        .phys_bits = m->model.phys_bits,
        .hole_base = BOARD_LOW_RAM_MAX,
    };
    r = load(m, &req, result, err);
    if (r < 0) {
        return r;
    }
    log_debug("kernel %s: %s, entry 0x%lx%s%s", m->cfg->kernel, boot_kind_name(result->kind),
              (unsigned long)result->entry, result->remark[0] != '\0' ? "; " : "",
              result->remark);
    *ret_bsp = result->cpu;
    return 0;
}
