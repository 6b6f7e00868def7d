/*
 * The KVM paravirtual clock: a page per vCPU from which the guest computes its time as a linear
 * function of its TSC, and the wall clock record. ABI: Linux Documentation/virt/kvm/x86/msr.rst
 * and arch/x86/include/asm/pvclock-abi.h. vCPU thread; soft_vm.lock guards the common moment.
 *
 * All vCPUs publish the same moment (host TSC, guest time), so that their clocks agree to the
 * tick and the "stable" flag is true. Saved: the two MSR values, in struct vcpu_state.
 */
#include "base/clock.h"
#include "cpu/soft/msr.h"

#include <errno.h>
#include <stdlib.h>

#define PVCLOCK_TSC_STABLE 1u
#define KVM_TIME_ENABLE    UINT64_C(1)

struct pvclock_page {
    uint32_t version; /* odd while it changes */
    uint32_t pad0;
    uint64_t tsc_timestamp;
    uint64_t system_time; /* ns */
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags;
    uint8_t pad[2];
};
_Static_assert(sizeof(struct pvclock_page) == 32, "pvclock ABI");

struct pvclock_wall {
    uint32_t version, sec, nsec;
};

void msr_kvm_time_scale(uint64_t tsc_khz, uint32_t *ret_mul, int8_t *ret_shift)
{
    uint64_t hz = MAX(tsc_khz, 1) * 1000;
    int8_t shift = 0;

    while (hz > 2 * NSEC_PER_SEC) {
        hz >>= 1;
        shift--;
    }
    while (hz <= NSEC_PER_SEC) {
        hz <<= 1;
        shift++;
    }
    *ret_mul = (uint32_t)((NSEC_PER_SEC << 32) / hz);
    *ret_shift = shift;
}

static uint64_t guest_ns(const struct scpu *c)
{
    return c->vm->host.pv_time_ns ? c->vm->host.pv_time_ns(c->vm->host.opaque) : clock_now_ns();
}

/* Host TSC and guest time of one moment: the tightest of a few readings. Under vm->lock. */
static void take_moment(struct scpu *c)
{
    struct soft_vm *vm = c->vm;
    uint64_t best = UINT64_MAX;

    for (int i = 0; i < 5; i++) {
        uint64_t before = __builtin_ia32_rdtsc();
        uint64_t ns = guest_ns(c);
        int64_t offset = (int64_t)(ns - clock_now_ns());
        uint64_t after = __builtin_ia32_rdtsc();

        if (after - before < best) {
            best = after - before;
            vm->pv_tsc = before;
            vm->pv_ns = ns;
            vm->pv_offset = offset;
        }
    }
    vm->pv_moment++;
}

/* Smallest of a few readings: a reading that was interrupted is late on the host's side. */
static int64_t guest_less_host(struct scpu *c)
{
    int64_t best = INT64_MIN;

    for (int i = 0; i < 3; i++) {
        uint64_t ns = guest_ns(c);
        best = MAX(best, (int64_t)(ns - clock_now_ns()));
    }
    return best;
}

#define CLOCK_STEP_NS 50000 /* more than two readings of one clock differ */

void msr_kvm_clock_resync(struct scpu *c)
{
    if (!(c->cold->kvm_system_time & KVM_TIME_ENABLE)) {
        return;
    }
    soft_leave(c);
    pthread_mutex_lock(&c->vm->lock);
    if (c->vm->pv_moment == 0 || llabs(guest_less_host(c) - c->vm->pv_offset) > CLOCK_STEP_NS) {
        take_moment(c);
    }
    bool stale = c->pv_moment != c->vm->pv_moment;
    pthread_mutex_unlock(&c->vm->lock);
    if (stale) {
        msr_kvm_clock_publish(c);
    }
}

void msr_kvm_clock_publish(struct scpu *c)
{
    uint64_t gpa = c->cold->kvm_system_time & ~KVM_TIME_ENABLE;
    struct pvclock_page page = {0};
    uint32_t version;

    if (!(c->cold->kvm_system_time & KVM_TIME_ENABLE)) {
        return;
    }
    soft_leave(c);
    pthread_mutex_lock(&c->vm->lock);
    if (c->vm->pv_moment == 0) {
        take_moment(c);
    }
    page.tsc_timestamp = c->vm->pv_tsc + (uint64_t)c->tsc_offset;
    page.system_time = c->vm->pv_ns;
    c->pv_moment = c->vm->pv_moment;
    pthread_mutex_unlock(&c->vm->lock);
    msr_kvm_time_scale(c->vm->model->tsc_khz, &page.tsc_to_system_mul, &page.tsc_shift);
    page.flags = PVCLOCK_TSC_STABLE;

    /* Version odd, contents, version even: readers on other vCPUs retry. */
    if (mem_read(c->vm->mem, GPA(gpa), &version, sizeof(version))) {
        return;
    }
    version |= 1;
    page.version = version;
    mem_write(c->vm->mem, GPA(gpa), &version, sizeof(version));
    atomic_thread_fence(memory_order_release);
    mem_write(c->vm->mem, GPA(gpa), &page, sizeof(page));
    atomic_thread_fence(memory_order_release);
    version++;
    mem_write(c->vm->mem, GPA(gpa), &version, sizeof(version));
}

int msr_kvm_set_system_time(struct scpu *c, uint64_t value)
{
    if ((value & ~KVM_TIME_ENABLE) & 3) {
        return -EINVAL;
    }
    c->cold->kvm_system_time = value;
    msr_kvm_clock_publish(c);
    return 0;
}

int msr_kvm_set_wall_clock(struct scpu *c, uint64_t value)
{
    struct pvclock_wall w;
    uint32_t version = 0;

    if (value & 3) {
        return -EINVAL;
    }
    c->cold->kvm_wall_clock = value;
    soft_leave(c);
    uint64_t at_boot = clock_wall_ns() - guest_ns(c);
    if (mem_read(c->vm->mem, GPA(value), &version, sizeof(version))) {
        return 0;
    }
    w.version = (version | 1) + 1;
    w.sec = (uint32_t)(at_boot / NSEC_PER_SEC);
    w.nsec = (uint32_t)(at_boot % NSEC_PER_SEC);
    mem_write(c->vm->mem, GPA(value), &w, sizeof(w));
    return 0;
}
