/*
 * The KVM engine's own state (Linux Documentation/virt/kvm/api.rst): one struct engine_vm with
 * an in-kernel interrupt controller, one struct engine_vcpu per CPU.
 *
 * Threads: an engine_vcpu is touched by its own thread while it runs, and by whoever holds all
 * vCPUs paused otherwise. What other threads may touch meanwhile is atomic or under v->lock.
 */
#pragma once

#include "cpu/engine.h"
#include "cpu/model/cpu_model.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#define KVM_MAX_CPUS  256
#define KVM_MAX_SLOTS 64
#define KVM_N_MSRS    96

/* Sent to a vCPU's thread to make KVM_RUN return; its handler does nothing. */
#define KVM_KICK_SIGNAL SIGUSR1

struct kvm_slot {
    bool used, logging;
    struct kvm_userspace_memory_region region;
};

struct engine_vm {
    int kvm_fd, fd;
    struct mem *mem;
    const struct cpu_model *model;
    struct engine_host host;
    unsigned n_cpus;
    size_t run_bytes;   /* of the shared page of a vCPU */
    size_t xsave_bytes; /* of struct kvm_xsave with its tail, at least 4096 */
    uint64_t tsc_khz;
    struct kvm_slot slots[KVM_MAX_SLOTS]; /* by mem_slot.id */
    struct engine_vcpu *cpus[KVM_MAX_CPUS];
    atomic_bool clock_stale; /* kvmclock is to be set to the guest's time before the next run */
};

struct engine_vcpu {
    struct engine_vm *vm;
    unsigned index;
    int fd;
    struct kvm_run *run;   /* shared with the kernel */
    void *xsave;           /* vm->xsave_bytes, for get and set */
    uint64_t tsc_deadline; /* last one of set_state: for irqchip_load, see there */

    /* The MSRs of the table in kvm_msr.c that this kernel has. */
    uint8_t msrs[KVM_N_MSRS];
    unsigned n_msrs;

    atomic_bool kicked, nmi; /* requests */
    pthread_mutex_t lock;    /* guards the two below */
    pthread_t thread;
    bool in_run;

    struct engine_stats stats; /* own thread writes with relaxed stores */
};

static inline void kvm_count(uint64_t *counter)
{
    __atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

/* ioctl that is repeated on EINTR; -errno. */
int kvm_ioctl(int fd, unsigned long request, void *arg);
int kvm_ioctl_n(int fd, unsigned long request, unsigned long arg);
/* KVM_CHECK_EXTENSION: 0 when absent. */
int kvm_has(int fd, unsigned cap);

/* kvm_vm.c */
int kvm_open(int *ret_fd, struct err *err);
int kvm_vm_new(struct engine_vm **ret_vm, const struct engine_vm_params *params,
               struct err *err);
void kvm_vm_free(struct engine_vm *vm);
int kvm_vm_map_slot(struct engine_vm *vm, const struct mem_slot *slot, struct err *err);
int kvm_vm_unmap_slot(struct engine_vm *vm, const struct mem_slot *slot);
int kvm_vm_dirty_sync(struct engine_vm *vm, const struct mem_slot *slot);
int kvm_vm_ioeventfd(struct engine_vm *vm, bool is_pio, uint64_t addr, unsigned len, int fd,
                     bool attach);

/* kvm_irqchip.c */
int kvm_irqchip_new(struct engine_vm *vm, struct err *err);
int kvm_irqchip_line(struct engine_vm *vm, unsigned gsi, bool level);
int kvm_irqchip_msi(struct engine_vm *vm, uint64_t addr, uint32_t data);
int kvm_irqchip_reset(struct engine_vm *vm);
int kvm_irqchip_save(struct engine_vm *vm, struct state_writer *w);
int kvm_irqchip_load(struct engine_vm *vm, struct state_reader *r, struct err *err);

/* kvm_vcpu.c */
int kvm_vcpu_new(struct engine_vm *vm, unsigned index, struct engine_vcpu **ret_vcpu,
                 struct err *err);
void kvm_vcpu_free(struct engine_vcpu *v);
void kvm_vcpu_run(struct engine_vcpu *v, struct engine_exit_info *ret_exit);
void kvm_vcpu_kick(struct engine_vcpu *v);
void kvm_vcpu_signal(struct engine_vcpu *v, enum engine_signal sig, uint8_t vector);
void kvm_vcpu_get_stats(const struct engine_vcpu *v, struct engine_stats *ret_stats);

/* kvm_state.c, kvm_msr.c, kvm_cpuid.c */
int kvm_vcpu_get_state(struct engine_vcpu *v, struct vcpu_state *ret_state);
int kvm_vcpu_set_state(struct engine_vcpu *v, const struct vcpu_state *s, struct err *err);
void kvm_msr_find(struct engine_vcpu *v); /* fills v->msrs */
int kvm_msr_get(struct engine_vcpu *v, struct vcpu_state *s);
/* -EINVAL with *ret_msr: the first one that was refused. */
int kvm_msr_set(struct engine_vcpu *v, const struct vcpu_state *s, uint32_t *ret_msr);
int kvm_msr_get_one(struct engine_vcpu *v, uint32_t msr, uint64_t *ret_value);
int kvm_msr_set_one(struct engine_vcpu *v, uint32_t msr, uint64_t value);
int kvm_cpuid_set(struct engine_vcpu *v, struct err *err);

/* kvm_probe.c */
void kvm_probe(struct engine_probe *ret_probe);
