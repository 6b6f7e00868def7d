/*
 * The map of guest-physical addresses: marking, merging, and first-fit search from either end.
 * Pure arithmetic on the caller's struct, no locks, nothing saved.
 */
#include "boot/boot_map.h"

#include "base/ckd.h"
#include "mem/mem.h"

#include <errno.h>

#define EBDA_BASE UINT64_C(0x9fc00)
#define LOW_END   UINT64_C(0x100000)

static int append(struct boot_map *map, uint64_t base, uint64_t size, enum boot_map_type type)
{
    if (size == 0) {
        return 0;
    }
    if (map->n > 0) {
        struct boot_map_entry *last = &map->entry[map->n - 1];
        if (last->type == type && last->base + last->size == base) {
            last->size += size;
            return 0;
        }
    }
    if (map->n == BOOT_MAP_MAX) {
        return -ENOSPC;
    }
    map->entry[map->n++] = (struct boot_map_entry){base, size, type};
    return 0;
}

int boot_map_mark(struct boot_map *map, uint64_t base, uint64_t size, enum boot_map_type type)
{
    struct boot_map out = {0};
    uint64_t end;
    bool placed = false;
    int r = 0;

    if (!ckd_add(base, size, &end)) {
        return -EINVAL;
    }
    if (size == 0) {
        return 0;
    }
    for (unsigned i = 0; i < map->n && r == 0; i++) {
        const struct boot_map_entry *e = &map->entry[i];
        uint64_t e_end = e->base + e->size;
        if (e->base < base) {
            r = append(&out, e->base, MIN(e_end, base) - e->base, e->type);
        }
        if (r == 0 && !placed && e_end > base) {
            r = append(&out, base, size, type);
            placed = true;
        }
        if (r == 0 && e_end > end) {
            uint64_t from = MAX(e->base, end);
            r = append(&out, from, e_end - from, e->type);
        }
    }
    if (r == 0 && !placed) {
        r = append(&out, base, size, type);
    }
    if (r == 0) {
        *map = out;
    }
    return r;
}

int boot_map_from_mem(struct boot_map *map, const struct mem *mem, struct err *err)
{
    int r = 0;

    map->n = 0;
    for (unsigned i = 0; i < mem_slot_count(mem) && r == 0; i++) {
        const struct mem_slot *slot = mem_slot_get(mem, i);
        if (slot->kind == MEM_RAM) {
            r = boot_map_mark(map, slot->base.v, slot->size_bytes, BOOT_MAP_RAM);
        }
    }
    if (r == 0) {
        r = boot_map_mark(map, EBDA_BASE, LOW_END - EBDA_BASE, BOOT_MAP_RESERVED);
    }
    if (r < 0) {
        return ERR(err, LIMIT, -r, "the memory map has more than %d ranges", BOOT_MAP_MAX);
    }
    return 0;
}

bool boot_map_is_free(const struct boot_map *map, uint64_t base, uint64_t size)
{
    uint64_t end;

    if (!ckd_add(base, size, &end)) {
        return false;
    }
    for (unsigned i = 0; i < map->n && base < end; i++) {
        const struct boot_map_entry *e = &map->entry[i];
        if (e->base > base) {
            return false;
        }
        if (e->base + e->size > base) {
            if (e->type != BOOT_MAP_RAM) {
                return false;
            }
            base = e->base + e->size;
        }
    }
    return base >= end;
}

/* The part of free entry e inside [min, max), or false. */
static bool clip(const struct boot_map_entry *e, uint64_t min, uint64_t max, uint64_t *ret_lo,
                 uint64_t *ret_hi)
{
    if (e->type != BOOT_MAP_RAM) {
        return false;
    }
    *ret_lo = MAX(e->base, min);
    *ret_hi = MIN(e->base + e->size, max);
    return *ret_lo < *ret_hi;
}

int boot_map_find_low(const struct boot_map *map, uint64_t size, uint64_t align, uint64_t min,
                      uint64_t max, uint64_t *ret_base)
{
    for (unsigned i = 0; i < map->n; i++) {
        uint64_t lo, hi;
        if (!clip(&map->entry[i], min, max, &lo, &hi)) {
            continue;
        }
        uint64_t base = align_up(lo, align);
        if (base >= lo && base <= hi && hi - base >= size) {
            *ret_base = base;
            return 0;
        }
    }
    return -ENOMEM;
}

int boot_map_find_high(const struct boot_map *map, uint64_t size, uint64_t align, uint64_t min,
                       uint64_t max, uint64_t *ret_base)
{
    for (unsigned i = map->n; i-- > 0;) {
        uint64_t lo, hi;
        if (!clip(&map->entry[i], min, max, &lo, &hi) || hi - lo < size) {
            continue;
        }
        uint64_t base = align_down(hi - size, align);
        if (base >= lo) {
            *ret_base = base;
            return 0;
        }
    }
    return -ENOMEM;
}
