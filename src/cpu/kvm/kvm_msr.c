/*
 * The MSRs of a vCPU's state, in the order in which they are set. What a kernel does not have
 * is left out, once, when the vCPU is made: KVM_GET_MSR_INDEX_LIST names only some of them.
 */
#include "cpu/kvm/kvm_priv.h"

#include "base/ckd.h"

#include <errno.h>
#include <string.h>

struct msr_field {
    uint32_t msr;
    uint16_t offset; /* of the uint64_t in struct vcpu_state */
};

#define F(nr, member)                                                                          \
    {                                                                                          \
        (nr), offsetof(struct vcpu_state, member)                                              \
    }
#define MC(n)                                                                                  \
    F(0x400 + 4 * (n), mc_bank[n][0]), F(0x401 + 4 * (n), mc_bank[n][1]),                      \
        F(0x402 + 4 * (n), mc_bank[n][2]), F(0x403 + 4 * (n), mc_bank[n][3])
#define MTRR(n) F(0x200 + 2 * (n), mtrr_var[n][0]), F(0x201 + 2 * (n), mtrr_var[n][1])

/* TSC_DEADLINE is compared with the TSC, which set_state puts right before; KVM's clock pages
 * are written when their MSRs are, so they come after. */
static const struct msr_field table[] = {
    F(0x3b, tsc_adjust),
    F(0x174, sysenter_cs),
    F(0x175, sysenter_esp),
    F(0x176, sysenter_eip),
    F(0xc0000081, star),
    F(0xc0000082, lstar),
    F(0xc0000083, cstar),
    F(0xc0000084, sfmask),
    F(0xc0000102, kernel_gs_base),
    F(0xc0000103, tsc_aux),
    F(0x277, pat),
    F(0x1a0, misc_enable),
    F(0x48, spec_ctrl),
    F(0xda0, xss),
    F(0x1d9, debugctl),
    F(0x17a, mcg_status),
    F(0x17b, mcg_ctl),
    MC(0),
    MC(1),
    MC(2),
    MC(3),
    MC(4),
    MC(5),
    MC(6),
    MC(7),
    MC(8),
    MC(9),
    F(0x2ff, mtrr_def_type),
    F(0x250, mtrr_fixed[0]),
    F(0x258, mtrr_fixed[1]),
    F(0x259, mtrr_fixed[2]),
    F(0x268, mtrr_fixed[3]),
    F(0x269, mtrr_fixed[4]),
    F(0x26a, mtrr_fixed[5]),
    F(0x26b, mtrr_fixed[6]),
    F(0x26c, mtrr_fixed[7]),
    F(0x26d, mtrr_fixed[8]),
    F(0x26e, mtrr_fixed[9]),
    F(0x26f, mtrr_fixed[10]),
    MTRR(0),
    MTRR(1),
    MTRR(2),
    MTRR(3),
    MTRR(4),
    MTRR(5),
    MTRR(6),
    MTRR(7),
    F(0x4b564d01, kvm_system_time),
    F(0x4b564d00, kvm_wall_clock),
    F(0x4b564d03, kvm_steal_time),
    F(0x4b564d02, kvm_async_pf),
    F(0x4b564d04, kvm_pv_eoi),
    F(0x4b564d05, kvm_poll_control),
    F(0x6e0, tsc_deadline),
};
_Static_assert(sizeof(table) / sizeof(table[0]) <= KVM_N_MSRS, "v->msrs holds all of them");

#define MSR_KVM_WALL_CLOCK 0x4b564d00
#define MSR_DEBUGCTL       0x1d9 /* on AMD some kernels log every write, also of 0 */

union msr_buffer {
    struct kvm_msrs head;
    uint8_t room[sizeof(struct kvm_msrs) + KVM_N_MSRS * sizeof(struct kvm_msr_entry)];
};

static uint64_t *field(struct vcpu_state *s, const struct msr_field *f)
{
    return (uint64_t *)(void *)((char *)s + f->offset);
}

/* Some can be read but not written, not even with what was read, for want of a CPUID bit. */
void kvm_msr_find(struct engine_vcpu *v)
{
    v->n_msrs = 0;
    for (unsigned i = 0; i < ARRAY_LEN(table); i++) {
        uint64_t value;
        if (kvm_msr_get_one(v, table[i].msr, &value) == 0 &&
            (table[i].msr == MSR_DEBUGCTL || kvm_msr_set_one(v, table[i].msr, value) == 0)) {
            v->msrs[v->n_msrs++] = (uint8_t)i;
        }
    }
}

int kvm_msr_get(struct engine_vcpu *v, struct vcpu_state *s)
{
    union msr_buffer b = {.room = {0}};
    b.head.nmsrs = v->n_msrs;

    for (unsigned i = 0; i < v->n_msrs; i++) {
        b.head.entries[i].index = table[v->msrs[i]].msr;
    }
    int r = kvm_ioctl(v->fd, KVM_GET_MSRS, &b);
    if (r != (int)v->n_msrs) {
        return r < 0 ? r : -EIO;
    }
    for (unsigned i = 0; i < v->n_msrs; i++) {
        *field(s, &table[v->msrs[i]]) = b.head.entries[i].data;
    }
    return 0;
}

int kvm_msr_set(struct engine_vcpu *v, const struct vcpu_state *s, uint32_t *ret_msr)
{
    union msr_buffer b = {.room = {0}};
    b.head.nmsrs = 0;

    for (unsigned i = 0; i < v->n_msrs; i++) {
        const struct msr_field *f = &table[v->msrs[i]];
        uint64_t value, now;
        memcpy(&value, (const char *)s + f->offset, sizeof(value));
        /* Writing this one writes the guest's memory: only if it ever did so itself. */
        if (f->msr == MSR_KVM_WALL_CLOCK && value == 0) {
            continue;
        }
        if (f->msr == MSR_DEBUGCTL && kvm_msr_get_one(v, f->msr, &now) == 0 && now == value) {
            continue;
        }
        b.head.entries[b.head.nmsrs++] = (struct kvm_msr_entry){.index = f->msr, .data = value};
    }
    int r = kvm_ioctl(v->fd, KVM_SET_MSRS, &b);
    if (r >= 0 && r < (int)b.head.nmsrs) {
        *ret_msr = b.head.entries[r].index;
        return -EINVAL;
    }
    return r < 0 ? r : 0;
}

int kvm_msr_set_one(struct engine_vcpu *v, uint32_t msr, uint64_t value)
{
    union msr_buffer b = {.room = {0}};
    b.head.nmsrs = 1;
    b.head.entries[0] = (struct kvm_msr_entry){.index = msr, .data = value};
    int r = kvm_ioctl(v->fd, KVM_SET_MSRS, &b);
    return r == 1 ? 0 : r < 0 ? r : -EINVAL;
}

int kvm_msr_get_one(struct engine_vcpu *v, uint32_t msr, uint64_t *ret_value)
{
    union msr_buffer b = {.room = {0}};
    b.head.nmsrs = 1;
    b.head.entries[0].index = msr;
    int r = kvm_ioctl(v->fd, KVM_GET_MSRS, &b);
    if (r == 1) {
        *ret_value = b.head.entries[0].data;
        return 0;
    }
    return r < 0 ? r : -EINVAL;
}
