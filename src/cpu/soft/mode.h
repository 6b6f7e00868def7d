/*
 * Changes of privilege and flags inside 64-bit mode without computing the whole mode word anew:
 * what SYSCALL, SYSRET, IRET, event delivery, STAC and CLAC do all the time. SDM vol. 3A 5.8,
 * 6.14. vCPU thread, no state of its own.
 */
#pragma once

#include "cpu/soft/soft.h"

/* Which entries of the TLB ordinary accesses use, after a change of CPL or AC. */
static inline void mode_choose_tlb(struct scpu *c)
{
    bool smap =
        c->cpl != 3 && (c->cr4 & CR4_SMAP) && (c->cr0 & CR0_PG) && !(c->sysflags & FL_AC);
    c->mode = (c->mode & ~(uint32_t)MODE_SMAP) | (smap ? MODE_SMAP : 0);
    c->mmu = c->cpl == 3 ? MMU_USER : smap ? MMU_SMAP : MMU_KERNEL;
    c->tlb_r = c->tlb[c->mmu][TLB_R];
    c->tlb_w = c->tlb[c->mmu][TLB_W];
}

/*
 * Instead of soft_set_rflags, after CS, SS, CPL and flags changed and nothing else did: from
 * 64-bit code to 64-bit code this is a few bits of the mode. The bases of FS and GS stay.
 */
static inline void mode_set_rflags(struct scpu *c, uint64_t rflags)
{
    if (unlikely((c->mode & (MODE_64 | MODE_STEP)) != MODE_64 || (rflags & (FL_TF | FL_VM)) ||
                 !(c->seg[X86_CS].attr & SEG_L))) {
        soft_set_rflags(c, rflags);
        return;
    }
    soft_set_status_flags(c, rflags);
    c->sysflags = (rflags & ~FL_STATUS) | FL_1;
    uint32_t m = c->mode & ~(uint32_t)(MODE_CPL3 | MODE_CPL0 | MODE_AC);
    m |= c->cpl == 3 ? MODE_CPL3 : c->cpl == 0 ? MODE_CPL0 : 0;
    m |= c->cpl == 3 && (c->cr0 & CR0_AM) && (rflags & FL_AC) ? MODE_AC : 0;
    c->mode = m;
    mode_choose_tlb(c);
}

/* A host pointer for an implicit supervisor access (descriptor tables, TSS, event stacks) that
 * the TLB has already; NULL: take the way that walks and faults. */
static inline void *mode_sys_ptr(struct scpu *c, enum tlb_kind kind, uint64_t va, unsigned size)
{
    bool smap = (c->cr4 & CR4_SMAP) && (c->cr0 & CR0_PG);
    const struct tlb_entry *e =
        &c->tlb[smap ? MMU_SMAP : MMU_KERNEL][kind][(va >> MEM_PAGE_SHIFT) & (TLB_SIZE - 1)];
    return likely((va ^ e->tag) <= MEM_PAGE_SIZE - size) ? tlb_host(e, va) : NULL;
}

static inline uint64_t mode_load(const void *p)
{
    return *(const volatile uint64_t *)p;
}

/* Reads the descriptor of a GDT selector that is not null, if all of that is simple. */
static inline bool mode_gdt_entry(struct scpu *c, uint16_t sel, uint64_t *ret_raw)
{
    const void *p;
    if ((sel & 4) || (sel & ~3) == 0 || (sel | 7u) > c->gdtr.limit ||
        (p = mode_sys_ptr(c, TLB_R, c->gdtr.base + (sel & 0xfff8u), 8)) == NULL) {
        return false;
    }
    *ret_raw = mode_load(p);
    return true;
}
