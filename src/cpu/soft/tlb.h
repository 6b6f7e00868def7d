/*
 * What the MMU keeps per vCPU (TLB, walk and fetch caches), and what is known of guest memory
 * by page. mmu.c and mmu_access.c fill these; generated code (jit/) reads the TLB, so the
 * layout of its entries is known there. All but soft_page is touched by the vCPU's own thread
 * only; nothing of it is saved, since it comes back by itself.
 */
#pragma once

#include "mem/mem.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * TLB: tag is the linear page address, page where it is in host memory. An access hits when
 * (va ^ tag) <= 4096 - size, which tests page, page crossing and validity at once: the tag of
 * an invalid entry is a page that indexes another entry, so nothing that looks here can match
 * it.
 */
#define TLB_BITS           12
#define TLB_SIZE           (1u << TLB_BITS)
#define TLB_INVALID(index) ((index) == 0 ? MEM_PAGE_SIZE : UINT64_C(0))
struct tlb_entry {
    uint64_t tag, page;
};
static inline void *tlb_host(const struct tlb_entry *e, uint64_t va)
{
    return (void *)(uintptr_t)(e->page + (va & (MEM_PAGE_SIZE - 1)));
}
enum tlb_kind { TLB_R, TLB_W, TLB_NKIND };
/* Which rights an access uses: kernel, user, kernel with SMAP in force. */
enum mmu_index { MMU_KERNEL, MMU_USER, MMU_SMAP, MMU_NIDX };

/* Which entries were filled since the last flush, so that a flush costs by their number. */
#define TLB_LOG_MAX 4096
struct tlb_log {
    unsigned n;                 /* TLB_LOG_MAX: overflowed */
    uint16_t slot[TLB_LOG_MAX]; /* (mmu * TLB_NKIND + kind) * TLB_SIZE + index */
};

/* Where the last level of a four-level walk begins, by 2 MiB of linear address. */
#define PDE_CACHE_SIZE 64
struct pde_entry {
    uint64_t key;   /* va >> 21, plus 1 */
    uint64_t epoch; /* of scpu.pde_epoch */
    uint64_t table; /* guest-physical, and where it is */
    uint8_t *host;
    bool write, user, nx; /* what the entries above allow */
};

/* Linear addresses in which there are large pages of at most this size. */
#define LARGE_RANGES 8
struct large_range {
    uint64_t base, mask;
    uint8_t shift;
    bool global; /* some of them are global */
};

/* Hash set of pages: INVLPG of a page that is not in it leaves the look-ups of code alone. */
#define CODE_PAGE_BITS 2048

/* Instruction-side TLB: page of code to host memory. Valid while its half's epoch is current.
 */
#define ITLB_SIZE 256
struct itlb_entry {
    uint64_t tag;
    uint64_t gpa;
    const uint8_t *host;
    struct soft_page *page;
    uint32_t epoch;
    bool user;
};

/* Shared by the vCPUs: what is known of a guest page that holds decoded code. */
struct soft_page {
    _Atomic uint32_t gen;      /* changes when code in it was overwritten; odd while it does */
    _Atomic uint32_t has_code; /* enum soft_code_mark: not 0, writes take the slow path */
    _Atomic uint64_t lines;    /* 64-byte lines that decoded code covers */
    /* Write entries made for it so far; what that was when no vCPU was found to have one. */
    _Atomic uint32_t writers, no_writer_at;
    _Atomic uint32_t quiet; /* slow stores since there were lines: soft_code_quiet */
};

/* MARKING: a vCPU is about to decode from the page but others may still have write entries. */
enum soft_code_mark { CODE_NONE, CODE_MARKING, CODE_MARKED };

struct soft_slot {
    struct mem_slot slot;    /* copy: base, size, host */
    struct soft_page *pages; /* one a page, lazily touched */
    const struct mem_slot *mem_slot;
};
#define SOFT_MAX_SLOTS 32

/* A translated page. host is NULL when no RAM or ROM is there. */
struct xlat {
    uint64_t gpa; /* of the byte asked for */
    uint8_t *host;
    struct soft_slot *slot;
    struct soft_page *page; /* with host */
};
