/*
 * The DSDT: what of the board a guest cannot find by itself. PCI root with its windows and
 * interrupt routing, legacy devices, processors, S5, and the virtual machine's own devices
 * (pvpanic, generation ID, fw_cfg). ACPI 6.4; PCI Firmware Specification 3.3, 4.5 (_OSC);
 * Microsoft's "Virtual Machine Generation ID". No locks, nothing saved. Missing: hotplug.
 */
#include "base/ckd.h"
#include "boot/acpi/acpi.h"
#include "boot/acpi/aml.h"

#include <stdio.h>

/* What a guest may take over from firmware: PME, AER, capability structure, LTR. */
#define OSC_GRANT 0x3c

/* 33DB4D5B-1FF7-401C-9657-7441C03DD766, as ACPI stores it. */
static const uint8_t osc_uuid[16] = {0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40,
                                     0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66};

static void create_field(struct aml *a, unsigned offset, const char *name)
{
    aml_byte(a, AML_CREATE_DWORD_FIELD);
    aml_byte(a, AML_ARG0 + 3);
    aml_int(a, offset);
    aml_path(a, name);
}

static void or_into(struct aml *a, const char *name, uint32_t bits)
{
    aml_byte(a, AML_OR);
    aml_path(a, name);
    aml_int(a, bits);
    aml_path(a, name);
}

static void osc_method(struct aml *a)
{
    aml_method(a, "_OSC", 4);
    create_field(a, 0, "CDW1");
    aml_if(a);
    aml_byte(a, AML_LEQUAL);
    aml_byte(a, AML_ARG0);
    aml_buffer(a, osc_uuid, sizeof(osc_uuid));
    {
        create_field(a, 8, "CDW3");
        aml_byte(a, AML_AND);
        aml_path(a, "CDW3");
        aml_int(a, OSC_GRANT);
        aml_byte(a, AML_LOCAL0);
        aml_if(a);
        aml_byte(a, AML_LNOT);
        aml_byte(a, AML_LEQUAL);
        aml_byte(a, AML_LOCAL0);
        aml_path(a, "CDW3");
        or_into(a, "CDW1", 0x10); /* some bits were masked */
        aml_end(a);
        aml_byte(a, AML_STORE);
        aml_byte(a, AML_LOCAL0);
        aml_path(a, "CDW3");
    }
    aml_end(a);
    aml_else(a);
    or_into(a, "CDW1", 0x04); /* unknown UUID */
    aml_end(a);
    aml_byte(a, AML_RETURN);
    aml_byte(a, AML_ARG0 + 3);
    aml_end(a);
}

static void pci_windows(struct aml *a, const struct acpi_config *cfg)
{
    struct aml_res r = {0};

    aml_res_bus(&r, 0, cfg->last_bus);
    aml_res_io(&r, 0xcf8, 8);
    aml_res_io_window(&r, 0x0000, 0x0cf7);
    aml_res_io_window(&r, 0x0d00, 0xffff);
    if (cfg->pci32.size > 0) {
        aml_res_memory_window(&r, cfg->pci32.base, cfg->pci32.base + cfg->pci32.size - 1,
                              false);
    }
    if (cfg->pci64.size > 0) {
        aml_res_memory_window(&r, cfg->pci64.base, cfg->pci64.base + cfg->pci64.size - 1, true);
    }
    aml_name_res(a, "_CRS", &r);
}

static void pci_routing(struct aml *a, const struct acpi_config *cfg)
{
    aml_name(a, "_PRT");
    aml_package(a, 128);
    for (uint32_t slot = 0; slot < 32; slot++) {
        for (uint32_t pin = 0; pin < 4; pin++) {
            aml_package(a, 4);
            aml_int(a, slot << 16 | 0xffff);
            aml_int(a, pin);
            aml_int(a, 0);
            aml_int(a, cfg->intx_gsi + (slot + pin) % 4);
            aml_end(a);
        }
    }
    aml_end(a);
}

static void pci_root(struct aml *a, const struct acpi_config *cfg)
{
    aml_device(a, "PCI0");
    aml_name_eisa(a, "_HID", "PNP0A08");
    aml_name_eisa(a, "_CID", "PNP0A03");
    aml_name_int(a, "_SEG", 0);
    aml_name_int(a, "_BBN", 0);
    aml_name_int(a, "_UID", 0);
    aml_name_int(a, "_CCA", 1);
    pci_windows(a, cfg);
    pci_routing(a, cfg);
    osc_method(a);
    aml_end(a);
}

/* A device with fixed ports and, unless irq is negative, an ISA interrupt. */
static void isa_device(struct aml *a, const char *name, const char *hid, uint64_t uid,
                       uint16_t port, uint8_t ports, int irq)
{
    struct aml_res r = {0};

    aml_device(a, name);
    aml_name_eisa(a, "_HID", hid);
    aml_name_int(a, "_UID", uid);
    aml_name_int(a, "_STA", 0xf);
    if (port != 0) {
        aml_res_io(&r, port, ports);
    }
    if (irq >= 0) {
        aml_res_irq(&r, (unsigned)irq);
    }
    aml_name_res(a, "_CRS", &r);
    aml_end(a);
}

static void keyboard(struct aml *a)
{
    struct aml_res r = {0};

    aml_device(a, "KBD");
    aml_name_eisa(a, "_HID", "PNP0303");
    aml_name_int(a, "_STA", 0xf);
    aml_res_io(&r, 0x60, 1);
    aml_res_io(&r, 0x64, 1);
    aml_res_irq(&r, 1);
    aml_name_res(a, "_CRS", &r);
    aml_end(a);
    isa_device(a, "MOU", "PNP0F13", 0, 0, 0, 12);
}

static void hpet(struct aml *a, const struct acpi_config *cfg)
{
    struct aml_res r = {0};

    aml_device(a, "HPET");
    aml_name_eisa(a, "_HID", "PNP0103");
    aml_name_int(a, "_UID", 0);
    aml_name_int(a, "_STA", 0xf);
    aml_res_memory32(&r, (uint32_t)cfg->hpet_base, 0x400, false);
    aml_name_res(a, "_CRS", &r);
    aml_end(a);
}

/* Claims what belongs to the board: an operating system checks the ECAM against this. */
static void board_resources(struct aml *a, const struct acpi_config *cfg)
{
    struct aml_res r = {0};
    uint32_t ecam = (cfg->last_bus + 1u) << 20;

    aml_device(a, "MBRD");
    aml_name_eisa(a, "_HID", "PNP0C02");
    aml_name_int(a, "_UID", 0);
    if (cfg->ecam_base != 0) {
        aml_res_memory32(&r, (uint32_t)cfg->ecam_base, ecam, true);
    }
    aml_res_io(&r, cfg->pm1_event, 4);
    aml_res_io(&r, cfg->pm1_control, 2);
    if (cfg->pm_timer != 0) {
        aml_res_io(&r, cfg->pm_timer, 4);
    }
    if (cfg->gpe0 != 0) {
        aml_res_io(&r, cfg->gpe0, cfg->gpe0_bytes);
    }
    aml_name_res(a, "_CRS", &r);
    aml_end(a);
}

static void processors(struct aml *a, const struct acpi_config *cfg)
{
    char name[8];

    for (unsigned i = 0; i < cfg->n_cpus; i++) {
        snprintf(name, sizeof(name), "C%03X", i & 0xfff);
        aml_device(a, name);
        aml_name_string(a, "_HID", "ACPI0007");
        aml_name_int(a, "_UID", i);
        aml_end(a);
    }
}

static void legacy_devices(struct aml *a, const struct acpi_config *cfg)
{
    if (cfg->com1 != 0) {
        isa_device(a, "COM1", "PNP0501", 1, cfg->com1, 8, 4);
    }
    if (cfg->com2 != 0) {
        isa_device(a, "COM2", "PNP0501", 2, cfg->com2, 8, 3);
    }
    if (cfg->rtc) {
        isa_device(a, "RTC", "PNP0B00", 0, 0x70, 2, 8);
    }
    if (cfg->ps2) {
        keyboard(a);
    }
    if (cfg->hpet_base != 0) {
        hpet(a, cfg);
    }
}

static void vm_device(struct aml *a, const char *name, const char *hid, uint16_t port,
                      uint8_t ports)
{
    struct aml_res r = {0};

    aml_device(a, name);
    aml_name_string(a, "_HID", hid);
    aml_name_int(a, "_STA", 0xb);
    aml_res_io(&r, port, ports);
    aml_name_res(a, "_CRS", &r);
    aml_end(a);
}

static void generation_id(struct aml *a, uint64_t gpa)
{
    aml_device(a, "VGEN");
    aml_name_string(a, "_HID", "VIVA0001");
    aml_name_string(a, "_CID", "VM_Gen_Counter");
    aml_name_string(a, "_DDN", "VM_Gen_Counter");
    aml_name_int(a, "_STA", 0xf);
    aml_name(a, "ADDR");
    aml_package(a, 2);
    aml_int(a, gpa & UINT32_MAX);
    aml_int(a, gpa >> 32);
    aml_end(a);
    aml_end(a);
}

static void vm_devices(struct aml *a, const struct acpi_config *cfg, uint64_t vmgenid)
{
    if (cfg->pvpanic_port != 0) {
        vm_device(a, "PEVT", "QEMU0001", cfg->pvpanic_port, 1);
    }
    if (cfg->fw_cfg_port != 0) {
        vm_device(a, "FWCF", "QEMU0002", cfg->fw_cfg_port, 12);
    }
    if (vmgenid != 0) {
        generation_id(a, vmgenid);
    }
}

void acpi_dsdt(struct aml *a, const struct acpi_config *cfg, uint64_t vmgenid)
{
    aml_scope(a, "\\_SB");
    board_resources(a, cfg);
    pci_root(a, cfg);
    legacy_devices(a, cfg);
    processors(a, cfg);
    vm_devices(a, cfg, vmgenid);
    aml_end(a);

    aml_name(a, "\\_S5");
    aml_package(a, 4);
    aml_int(a, cfg->s5_type);
    aml_int(a, cfg->s5_type);
    aml_int(a, 0);
    aml_int(a, 0);
    aml_end(a);

    if (vmgenid != 0) {
        char method[8];
        snprintf(method, sizeof(method), "_E%02X", cfg->vmgenid_gpe);
        aml_scope(a, "\\_GPE");
        aml_method(a, method, 0);
        aml_byte(a, AML_NOTIFY);
        aml_path(a, "\\_SB.VGEN");
        aml_int(a, 0x80);
        aml_end(a);
        aml_end(a);
    }
}
