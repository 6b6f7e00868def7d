/*
 * The map of guest-physical addresses that a loader gives to the guest (e820 and its kin), and
 * the search for free RAM in it. Sorted, without overlaps; what is in no entry is not
 * described.
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct mem;

/* Values of the e820 interface (ACPI 6.4, table 15.4); USED is ours and never shown to a guest.
 */
enum boot_map_type {
    BOOT_MAP_RAM = 1,
    BOOT_MAP_RESERVED = 2,
    BOOT_MAP_ACPI = 3,
    BOOT_MAP_NVS = 4,
    BOOT_MAP_USED = 0x1000, /* taken by the loader: RAM to the guest, not free to us */
};

struct boot_map_entry {
    uint64_t base, size; /* size > 0, base + size does not wrap */
    enum boot_map_type type;
};

#define BOOT_MAP_MAX 120 /* boot_params holds 128 */

struct boot_map {
    unsigned n;
    struct boot_map_entry entry[BOOT_MAP_MAX];
};

/* Every RAM slot of mem, and what a PC reserves below 1 MiB (EBDA, video, ROM area). */
int boot_map_from_mem(struct boot_map *map, const struct mem *mem, struct err *err);

/* Gives [base, base+size) the type, cutting what was there. -ENOSPC, -EINVAL when it wraps. */
int boot_map_mark(struct boot_map *map, uint64_t base, uint64_t size, enum boot_map_type type);

/* True when every byte of the range is free RAM. size 0 is true. */
bool boot_map_is_free(const struct boot_map *map, uint64_t base, uint64_t size);

/*
 * A free range of size bytes inside [min, max), max exclusive: the lowest or the highest. align
 * is a power of two. -ENOMEM when there is none.
 */
int boot_map_find_low(const struct boot_map *map, uint64_t size, uint64_t align, uint64_t min,
                      uint64_t max, uint64_t *ret_base);
int boot_map_find_high(const struct boot_map *map, uint64_t size, uint64_t align, uint64_t min,
                       uint64_t max, uint64_t *ret_base);
