/*
 * Looking CPUID leaves up at run time, with the fields that depend on the CPU's live state.
 * Compiled for general registers only: the software engine calls it while guest vector state is
 * live in the host's registers. Read-only; any thread.
 */
#include "cpu/model/cpu_model.h"

#include "base/ckd.h"

#define APIC_ENABLED  UINT64_C(0x800)
#define CR4_OSXSAVE   UINT64_C(0x40000)
#define CPUID_APIC    (1u << 9)
#define CPUID_OSXSAVE (1u << 27)

static bool is_it(const struct cpuid_leaf *l, uint32_t leaf, uint32_t subleaf)
{
    return l->leaf == leaf && (!l->has_subleaf || l->subleaf == subleaf);
}

static const struct cpuid_leaf *find(const struct cpu_model *m, uint32_t leaf, uint32_t subleaf)
{
    /* The leaves that instructions ask for all the time, where cpu_model_build puts them. */
    unsigned guess = leaf == 1 ? 1 : leaf == 7 ? 2 : leaf == 0x80000001u ? m->at_extended : 0;

    if (guess < m->n_leaves && is_it(&m->leaves[guess], leaf, subleaf)) {
        return &m->leaves[guess];
    }
    for (unsigned i = 0; i < m->n_leaves; i++) {
        const struct cpuid_leaf *l = &m->leaves[i];
        if (is_it(l, leaf, subleaf)) {
            return l;
        }
    }
    return NULL;
}

bool cpu_model_has(const struct cpu_model *model, uint32_t leaf, uint32_t subleaf, unsigned reg,
                   unsigned bit)
{
    const struct cpuid_leaf *l = find(model, leaf, subleaf);

    if (l == NULL) {
        return false;
    }
    uint32_t v = reg == 0 ? l->eax : reg == 1 ? l->ebx : reg == 2 ? l->ecx : l->edx;
    return (v >> bit) & 1;
}

/* Bytes of a standard XSAVE image with the components in xcr0. */
static uint32_t xsave_size(const struct cpu_model *m, uint64_t xcr0)
{
    uint32_t size = 576;

    for (uint32_t i = 2; i < 63; i++) {
        const struct cpuid_leaf *l = (xcr0 >> i) & 1 ? find(m, 0xd, i) : NULL;
        if (l != NULL) {
            size = MAX(size, l->eax + l->ebx);
        }
    }
    return size;
}

/* The same compacted: one component after the other, some on 64-byte boundaries (ECX bit 1). */
static uint32_t xsave_compact_size(const struct cpu_model *m, uint64_t xcr0)
{
    uint32_t size = 576;

    for (uint32_t i = 2; i < 63; i++) {
        const struct cpuid_leaf *l = (xcr0 >> i) & 1 ? find(m, 0xd, i) : NULL;
        if (l != NULL) {
            size = l->ecx & 2 ? (size + 63) & ~63u : size;
            size += l->eax;
        }
    }
    return size;
}

static void put_live(const struct cpu_model *m, const struct cpu_model_live *live,
                     uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    switch (leaf) {
    case 1:
        r[1] = (r[1] & 0xffffff) | live->apic_id << 24;
        if (live->cr4 & CR4_OSXSAVE) {
            r[2] |= CPUID_OSXSAVE;
        }
        if (!(live->apic_base & APIC_ENABLED)) {
            r[3] &= ~CPUID_APIC;
        }
        break;
    case 0xb:
        r[2] = (r[2] & ~0xffu) | (subleaf & 0xff);
        r[3] = live->apic_id;
        break;
    case 0xd:
        if (subleaf == 0 && r[0] != 0) {
            r[1] = xsave_size(m, live->xcr0);
        } else if (subleaf == 1 && r[0] & 2) {
            r[1] = xsave_compact_size(m, live->xcr0);
        }
        break;
    case 0x80000001u:
        if (m->is_amd && !(live->apic_base & APIC_ENABLED)) {
            r[3] &= ~CPUID_APIC;
        }
        break;
    case 0x8000001eu:
        r[0] = live->apic_id;
        r[1] = live->apic_id & 0xff; /* core id; one thread a core */
        break;
    }
}

/* Highest leaf of the range that `leaf` is in; 0 for ranges without one. */
static uint32_t range_max(const struct cpu_model *m, uint32_t leaf)
{
    uint32_t start = leaf & 0xf0000000u;
    const struct cpuid_leaf *first = NULL;

    if (start == 0 || start == 0x40000000u || start == 0x80000000u) {
        first = find(m, start, 0);
    }
    return first != NULL ? first->eax : 0;
}

void cpu_model_cpuid(const struct cpu_model *model, const struct cpu_model_live *live,
                     uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
    /* Beyond the end Intel answers with the highest basic leaf, AMD with zeros. */
    if (leaf > range_max(model, leaf) && !model->is_amd) {
        leaf = range_max(model, 0);
    }
    const struct cpuid_leaf *l = find(model, leaf, subleaf);
    regs[0] = l != NULL ? l->eax : 0;
    regs[1] = l != NULL ? l->ebx : 0;
    regs[2] = l != NULL ? l->ecx : 0;
    regs[3] = l != NULL ? l->edx : 0;
    if (l != NULL || leaf == 0xb) {
        put_live(model, live, leaf, subleaf, regs);
    }
}
