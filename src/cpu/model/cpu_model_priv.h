/*
 * Inside of the CPU model: where CPUID data come from, so that a test can be any processor.
 */
#pragma once

#include "cpu/model/cpu_model.h"

/* Fills r {eax, ebx, ecx, edx} as the CPUID instruction of that processor would. */
typedef void cpuid_source_fn(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t r[4]);

struct cpuid_source {
    cpuid_source_fn *fn;
    void *opaque;
    uint64_t xcr0; /* what its operating system has enabled; 0 without XSAVE */
};

/* Everything but tsc_khz. */
int cpu_model_build(struct cpu_model *ret_model, const struct cpuid_source *src, bool soft,
                    unsigned n_cpus, struct err *err);
/* The host's TSC frequency: from CPUID or the kernel when they tell, else measured (0.5 ms). */
uint64_t cpu_model_host_tsc_khz(const struct cpuid_source *src);
