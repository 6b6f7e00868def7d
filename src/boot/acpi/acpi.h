/*
 * ACPI and SMBIOS tables, built in code and put into guest memory before boot.
 *
 * The machine fills acpi_config with where its hardware is (0 or false: not there); the tables
 * say so to the guest. acpi_config_default gives the board's usual places.
 */
#pragma once

#include "base/err.h"
#include "boot/boot_map.h"

#include <stdbool.h>
#include <stdint.h>

struct aml;

struct acpi_window {
    uint64_t base, size;
};

struct acpi_config {
    unsigned n_cpus; /* APIC IDs are 0 to n_cpus - 1 */
    uint64_t lapic_base, ioapic_base, hpet_base;
    uint8_t ioapic_id;
    uint32_t hpet_id; /* low half of the HPET's capability register */

    uint64_t ecam_base; /* 1 MiB for each bus */
    uint8_t last_bus;
    struct acpi_window pci32, pci64;
    /* INTx of slot s, pin p (0 to 3) is GSI intx_gsi + (s + p) % 4; level, active low. */
    uint8_t intx_gsi;

    uint8_t sci_irq;                                 /* level, active high */
    uint16_t pm1_event, pm1_control, pm_timer, gpe0; /* ports */
    uint8_t gpe0_bytes;
    bool pm_timer_32bit;
    uint16_t smi_command; /* 0: the machine is in ACPI mode from the start */
    uint8_t acpi_enable, acpi_disable;
    uint16_t reset_port; /* byte port */
    uint8_t reset_value;
    uint8_t s5_type; /* SLP_TYP of S5 */

    uint16_t com1, com2; /* ports; IRQ 4 and 3 */
    bool ps2, rtc;
    uint16_t pvpanic_port;
    uint16_t fw_cfg_port;

    bool vmgenid;
    uint8_t vmgenid_guid[16];
    uint8_t vmgenid_gpe; /* its bit in GPE0 */

    bool smbios; /* 4 KiB behind the RSDP, at bios_area + 1000h */
    uint8_t uuid[16];
    uint64_t bios_area; /* of the RSDP: in 0xE0000-0xFFFFF, where systems search for it */
};

struct acpi_tables {
    uint64_t rsdp;
    uint64_t vmgenid; /* where the 16 bytes are; 0: none */
};

void acpi_config_default(struct acpi_config *cfg);

/* Writes the tables to the top of low RAM (marked in the map as ACPI memory) and the entry
 * points to the BIOS area below 1 MiB. */
int acpi_build(const struct acpi_config *cfg, struct mem *mem, struct boot_map *map,
               struct acpi_tables *ret, struct err *err);

/* The DSDT's code; acpi/dsdt.c. vmgenid: address of the 16 bytes, 0 if none. */
void acpi_dsdt(struct aml *a, const struct acpi_config *cfg, uint64_t vmgenid);

/* SMBIOS 3.0 tables with their entry point, for guest address gpa; acpi/smbios.c. Returns the
 * bytes used of buf, 0 if they do not fit. */
size_t smbios_build(uint8_t *buf, size_t cap, uint64_t gpa, const struct acpi_config *cfg,
                    uint64_t ram_bytes);
