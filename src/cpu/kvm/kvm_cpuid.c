/*
 * What CPUID tells a guest under KVM: the leaves of the CPU model, and of the feature bits in
 * them those that this kernel's KVM can give (KVM_GET_SUPPORTED_CPUID), so that a feature of
 * the host that KVM does not pass on is not promised. KVM itself puts in what changes while the
 * guest runs (OSXSAVE, the APIC's enable bit, the size of the XSAVE area).
 */
#include "cpu/kvm/kvm_priv.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <string.h>

#define MAX_SUPPORTED 256

enum { EAX, EBX, ECX, EDX };

/* Registers that hold feature bits, and bits in them that KVM does without saying so. */
static const struct mask {
    uint32_t leaf, subleaf;
    unsigned reg;
    uint32_t keep;
} masks[] = {
    {1, 0, ECX, 1u << 21 | 1u << 24 | 1u << 31}, /* x2APIC, TSC deadline, hypervisor */
    {1, 0, EDX, 1u << 28 | 1u << 9},             /* several logical CPUs, APIC */
    {7, 0, EBX, 0},
    {7, 0, ECX, 0},
    {7, 0, EDX, 0},
    {7, 1, EAX, 0},
    {0xd, 1, EAX, 0},
    {0x80000001, 0, ECX, 1u << 1 | 1u << 22}, /* several cores, topology leaves */
    {0x80000001, 0, EDX, 0},
    {0x80000008, 0, EBX, 0},
    {0x80000021, 0, EAX, 0},
    {0x80000021, 0, ECX, 0},
};

union cpuid_buffer {
    struct kvm_cpuid2 head;
    uint8_t room[sizeof(struct kvm_cpuid2) + MAX_SUPPORTED * sizeof(struct kvm_cpuid_entry2)];
};

static const struct kvm_cpuid_entry2 *find(const union cpuid_buffer *b, uint32_t leaf,
                                           uint32_t subleaf)
{
    for (uint32_t i = 0; i < b->head.nent; i++) {
        const struct kvm_cpuid_entry2 *e = &b->head.entries[i];
        if (e->function == leaf &&
            ((e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) == 0 || e->index == subleaf)) {
            return e;
        }
    }
    return NULL;
}

static uint32_t entry_reg(const struct kvm_cpuid_entry2 *e, unsigned reg)
{
    const uint32_t regs[4] = {e->eax, e->ebx, e->ecx, e->edx};
    return regs[reg];
}

static void apply_masks(const union cpuid_buffer *supported, uint32_t leaf, uint32_t subleaf,
                        uint32_t regs[4])
{
    for (size_t i = 0; i < ARRAY_LEN(masks); i++) {
        const struct mask *m = &masks[i];
        if (m->leaf != leaf || m->subleaf != subleaf) {
            continue;
        }
        const struct kvm_cpuid_entry2 *e = find(supported, leaf, subleaf);
        regs[m->reg] &= m->keep | (e != NULL ? entry_reg(e, m->reg) : 0);
    }
    if (leaf == 0xd && subleaf == 0) {
        const struct kvm_cpuid_entry2 *e = find(supported, leaf, 0);
        regs[EAX] &= e != NULL ? e->eax : 3;
    }
}

int kvm_cpuid_set(struct engine_vcpu *v, struct err *err)
{
    const struct cpu_model *model = v->vm->model;
    const struct cpu_model_live live = {.apic_id = v->index, .xcr0 = 1};
    _cleanup_free_ union cpuid_buffer *supported = calloc(1, sizeof(*supported));

    if (supported == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for CPUID leaves");
    }
    supported->head.nent = MAX_SUPPORTED;
    int r = kvm_ioctl(v->vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, supported);
    if (r < 0) {
        return ERR(err, ENGINE, -r, "KVM: cannot tell which CPUID leaves it supports: %s",
                   strerror(-r));
    }
    _cleanup_free_ union cpuid_buffer *b = calloc(1, sizeof(*b));
    if (b == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for CPUID leaves");
    }
    for (unsigned i = 0; i < model->n_leaves; i++) {
        const struct cpuid_leaf *l = &model->leaves[i];
        uint32_t regs[4];
        cpu_model_cpuid(model, &live, l->leaf, l->subleaf, regs);
        apply_masks(supported, l->leaf, l->subleaf, regs);
        b->head.entries[b->head.nent++] = (struct kvm_cpuid_entry2){
            .function = l->leaf,
            .index = l->subleaf,
            .flags = l->has_subleaf ? (uint32_t)KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = regs[EAX],
            .ebx = regs[EBX],
            .ecx = regs[ECX],
            .edx = regs[EDX],
        };
    }
    r = kvm_ioctl(v->fd, KVM_SET_CPUID2, b);
    if (r < 0) {
        return ERR(err, ENGINE, -r, "KVM: refuses the CPUID leaves: %s", strerror(-r));
    }
    return 0;
}
