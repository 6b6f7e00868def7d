/*
 * CPUID and MSR policy, one for all engines: what the guest is told it has, computed once from
 * what the host has and what the engine does. SDM vol. 2A CPUID; AMD APM vol. 3 appendix E.
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct cpuid_leaf {
    uint32_t leaf, subleaf;
    bool has_subleaf;
    uint32_t eax, ebx, ecx, edx;
};

#define CPU_MODEL_MAX_LEAVES 96

struct cpu_model {
    struct cpuid_leaf leaves[CPU_MODEL_MAX_LEAVES];
    unsigned n_leaves;
    unsigned at_extended; /* index of leaf 8000_0001 */
    uint64_t xcr0_mask;   /* XSAVE components the guest may enable */
    uint32_t xsave_bytes;
    unsigned phys_bits, lin_bits;
    uint64_t tsc_khz;
    bool is_amd; /* vendor behaviour: SYSRET, SYSENTER in long mode, segment loads */
    bool has_1g_pages;
    bool soft; /* made for the software engine */
};

/* soft: restrict to what the software engine implements. n_cpus for topology leaves. */
int cpu_model_host(struct cpu_model *ret_model, bool soft, unsigned n_cpus, struct err *err);

/* Fills regs {eax, ebx, ecx, edx} for (leaf, subleaf) on CPU index with APIC id, given live
 * state that some leaves show (CR4.OSXSAVE, XCR0). Out-of-range leaves follow the vendor's
 * rule. */
struct cpu_model_live {
    unsigned apic_id;
    uint64_t cr4, xcr0, apic_base;
};
void cpu_model_cpuid(const struct cpu_model *model, const struct cpu_model_live *live,
                     uint32_t leaf, uint32_t subleaf, uint32_t regs[4]);
bool cpu_model_has(const struct cpu_model *model, uint32_t leaf, uint32_t subleaf,
                   unsigned reg /* 0-3 eax..edx */, unsigned bit);
