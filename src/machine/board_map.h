/*
 * The PC-compatible board's address map and wiring, shared by machine.c, the boot loaders and
 * the ACPI tables. Like the Q35 north bridge (Intel 3 Series Express Chipset Family data
 * sheet): firmware and operating systems find everything where they expect it.
 *
 *   0000_0000-000F_FFFF  low RAM; the legacy hole A0000-FFFFF is RAM too (no VGA, no option
 * ROMs) up to B000_0000      RAM B000_0000-BFFF_FFFF  PCI Express configuration space (ECAM),
 * buses 0 to 255 C000_0000-FEBF_FFFF  32-bit PCI memory window FEC0_0000            IOAPIC
 * FED0_0000 HPET       FEE0_0000 local APICs 1_0000_0000 and up   the rest of RAM, then, at the
 * next GiB, the 64-bit PCI memory window
 */
#pragma once

#include "base/ckd.h"
#include "mem/mem.h"

#include <stdint.h>

#define BOARD_LOW_RAM_MAX UINT64_C(0xb0000000)
#define BOARD_ECAM_BASE   UINT64_C(0xb0000000)
#define BOARD_ECAM_SIZE   UINT64_C(0x10000000)
#define BOARD_PCI32_BASE  UINT64_C(0xc0000000)
#define BOARD_PCI32_END   UINT64_C(0xfec00000)
#define BOARD_IOAPIC_BASE UINT64_C(0xfec00000)
#define BOARD_HPET_BASE   UINT64_C(0xfed00000)
#define BOARD_LAPIC_BASE  UINT64_C(0xfee00000)
#define BOARD_HIGH_BASE   UINT64_C(0x100000000)
#define BOARD_PCI64_SIZE  (UINT64_C(32) << 30)
#define BOARD_PCI_IO_BASE 0xc000u /* ports that BARs are given from */
#define BOARD_PCI_IO_SIZE 0x3000u

/* Ports. */
#define BOARD_PORT_POST   0x80u
#define BOARD_PORT_DEBUG  0xe9u  /* bytes to the log at debug level; reads E9h */
#define BOARD_PORT_EXIT   0xf4u  /* debug exit */
#define BOARD_PORT_PANIC  0x505u /* pvpanic */
#define BOARD_PORT_PM     0x600u /* ACPI power management block */
#define BOARD_PORT_FW_CFG 0x510u
#define BOARD_S5_TYP      5u /* SLP_TYP of soft-off, for the PM block and the DSDT */
#define BOARD_PORT_COM1   0x3f8u

/* Global system interrupts. 0-15 are the ISA lines, 16-19 PCI INTA-INTD of the root. */
#define BOARD_IRQ_PIT     0
#define BOARD_IRQ_KBD     1
#define BOARD_IRQ_COM1    4
#define BOARD_IRQ_RTC     8
#define BOARD_IRQ_SCI     9
#define BOARD_IRQ_AUX     12
#define BOARD_IOAPIC_ID   0u
#define BOARD_GSI_INTX(n) (16u + (n))

struct board_range {
    uint64_t base, size; /* size 0: absent */
};

struct board_map {
    struct board_range low_ram, high_ram;
    struct board_range pci32, pci64;
};

/* ram_bytes: whole pages, within MACHINE_MEMORY_MIN and _MAX. */
void board_map_init(struct board_map *map, uint64_t ram_bytes);

/* Makes the RAM slots of the map. */
int board_map_add_ram(const struct board_map *map, struct mem *mem, struct err *err);
