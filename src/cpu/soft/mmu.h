/* Page walks, shared by mmu.c (walk, fill, flush) and mmu_access.c (loads, stores, spans). */
#pragma once

#include "cpu/soft/soft.h"

#define PF_P    1u
#define PF_W    2u
#define PF_U    4u
#define PF_RSVD 8u
#define PF_I    16u

/* Whose rights apply to an access with ACC_* flags. */
static inline enum mmu_index mmu_index_of(const struct scpu *c, unsigned acc)
{
    if (acc & ACC_USER) {
        return MMU_USER;
    }
    if (acc & ACC_SYS) {
        return (c->cr4 & CR4_SMAP) && (c->cr0 & CR0_PG) ? MMU_SMAP : MMU_KERNEL;
    }
    /* Supervisor rights asked for by code that may run at CPL 3 right now (event delivery). */
    return c->mmu == MMU_USER ? MMU_KERNEL : (enum mmu_index)c->mmu;
}

/*
 * Translates va for acc (ACC_READ, ACC_WRITE or ACC_EXEC with the rights flags), sets A and D,
 * fills the TLB for RAM. Non-zero: fault; raised unless ACC_QUIET.
 */
#define ACC_QUIET 32u
int mmu_translate(struct scpu *c, uint64_t va, unsigned acc, struct xlat *ret);

/* Whether va's page is in the set of its half that code may be found in; adds it. */
static inline bool soft_code_page_bit(struct scpu *c, uint64_t va, bool add)
{
    uint64_t bit = ((va >> MEM_PAGE_SHIFT) ^ (va >> 23)) & (CODE_PAGE_BITS - 1);
    uint64_t *word = &c->code_pages[va >> 63][bit >> 6];
    bool was = (*word >> (bit & 63)) & 1;
    if (add) {
        *word |= UINT64_C(1) << (bit & 63);
    }
    return was;
}
/* Makes a write entry for va's page without writing: only where the page table allows the write
 * and has its D bit set already. Whether it did; raises nothing. */
bool mmu_fill_if_dirty(struct scpu *c, uint64_t va);
