/* The board's address map (board_map.h). Pure arithmetic on a checked RAM size; no state. */
#include "machine/board_map.h"

void board_map_init(struct board_map *map, uint64_t ram_bytes)
{
    uint64_t low = MIN(ram_bytes, BOARD_LOW_RAM_MAX);
    uint64_t high = ram_bytes - low;

    *map = (struct board_map){
        .low_ram = {0, low},
        .high_ram = {BOARD_HIGH_BASE, high},
        .pci32 = {BOARD_PCI32_BASE, BOARD_PCI32_END - BOARD_PCI32_BASE},
        .pci64 = {align_up(BOARD_HIGH_BASE + high, GIB), BOARD_PCI64_SIZE},
    };
}

int board_map_add_ram(const struct board_map *map, struct mem *mem, struct err *err)
{
    int r = mem_slot_add(mem, GPA(map->low_ram.base), map->low_ram.size, MEM_RAM, err);

    if (r == 0 && map->high_ram.size > 0) {
        r = mem_slot_add(mem, GPA(map->high_ram.base), map->high_ram.size, MEM_RAM, err);
    }
    return r;
}
