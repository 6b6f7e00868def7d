/*
 * The seam between the machine and what executes guest instructions.
 *
 * The machine makes one engine_vm, maps RAM slots, makes one engine_vcpu per CPU, and runs each
 * on a thread of its own. Port and memory-mapped I/O are *callbacks* on the vCPU's thread, so
 * vcpu_run returns only when something about the vCPU's life changes. An engine without
 * in-kernel interrupt controllers (has_irqchip false) asks the machine's through struct
 * engine_host.
 *
 * Data-path functions return 0 or -errno; set-up ones report in struct err.
 */
#pragma once

#include "base/err.h"
#include "cpu/vcpu_state.h"
#include "mem/mem.h"

#include <stdbool.h>
#include <stdint.h>

struct engine_vm;
struct engine_vcpu;
struct cpu_model; /* cpu/model/cpu_model.h: CPUID and MSR policy */

/* What an engine calls. All on the vCPU's own thread, with no engine lock held. cpu is the
 * index. */
struct engine_host {
    void *opaque;
    uint64_t (*pio_read)(void *opaque, unsigned cpu, uint16_t port, unsigned len);
    void (*pio_write)(void *opaque, unsigned cpu, uint16_t port, unsigned len, uint32_t value);
    uint64_t (*mmio_read)(void *opaque, unsigned cpu, uint64_t gpa, unsigned len);
    void (*mmio_write)(void *opaque, unsigned cpu, uint64_t gpa, unsigned len, uint64_t value);

    /* The rest only for engines whose has_irqchip is false. */
    bool (*irq_pending)(void *opaque, unsigned cpu); /* an interrupt above TPR/PPR, or ExtINT */
    int (*irq_ack)(void *opaque, unsigned cpu);      /* its vector, now in service; -1: none */
    int (*apic_msr_read)(void *opaque, unsigned cpu, uint32_t msr, uint64_t *ret_value);
    int (*apic_msr_write)(void *opaque, unsigned cpu, uint32_t msr, uint64_t value);
    uint64_t (*cr8_read)(void *opaque, unsigned cpu);
    void (*cr8_write)(void *opaque, unsigned cpu, uint64_t value);
    uint64_t (*pv_time_ns)(void *opaque); /* guest clock for kvmclock */
};

struct engine_vm_params {
    struct mem *mem; /* shared; outlives the VM */
    const struct cpu_model *model;
    struct engine_host host;
    unsigned n_cpus;
};

enum engine_exit {
    ENGINE_EXIT_KICK,     /* engine_ops.kick was called: look at your own requests */
    ENGINE_EXIT_SHUTDOWN, /* triple fault */
    ENGINE_EXIT_ERROR,    /* the engine cannot go on: text in engine_exit_info */
};

struct engine_exit_info {
    enum engine_exit reason;
    char text[160];
};

/* Events sent to a vCPU by the interrupt controllers; any thread. */
enum engine_signal {
    ENGINE_SIG_IRQ, /* irq_pending may have become true */
    ENGINE_SIG_NMI,
    ENGINE_SIG_INIT,
    ENGINE_SIG_SIPI, /* with vector */
};

/* Counters for --metrics; monotonic, written by the vCPU's thread, read any time. */
struct engine_stats {
    uint64_t instructions; /* 0: unknown (hardware, translated code) */
    uint64_t first_instruction_ns;
    uint64_t exits_pio, exits_mmio, exits_halt, exits_irq, exits_kick, exits_other;
    uint64_t code_invalidations, tlb_flushes, blocks_decoded, native_stubs;
    uint64_t blocks_translated, code_flushes; /* translator: blocks, times all were dropped */
    uint64_t jit_slow, jit_helped; /* instructions that translated code left to handlers */
    uint64_t engine_bytes;         /* tables and caches of this vCPU in host memory */
};

struct engine_probe {
    bool usable;
    char why[200];                /* why not, or a remark; empty if nothing to say */
    double supervisor_insn_per_s; /* measured; 0 when not usable */
    double user_insn_per_s;
};

struct engine_ops {
    const char *name; /* "kvm", "soft", "interp" */
    bool has_irqchip;

    /* Measures in about a millisecond with a guest of its own. Never fails: says why instead.
     */
    void (*probe)(struct engine_probe *ret_probe);

    int (*vm_new)(struct engine_vm **ret_vm, const struct engine_vm_params *params,
                  struct err *err);
    void (*vm_free)(struct engine_vm *vm); /* after its vCPUs */

    /* Follows slots of params->mem; called for each before the first run and on every change.
     */
    int (*map_slot)(struct engine_vm *vm, const struct mem_slot *slot, struct err *err);
    int (*unmap_slot)(struct engine_vm *vm, const struct mem_slot *slot);

    int (*vcpu_new)(struct engine_vm *vm, unsigned index, struct engine_vcpu **ret_vcpu,
                    struct err *err);
    void (*vcpu_free)(struct engine_vcpu *vcpu);

    /* Runs on the calling thread until an exit. Sleeps inside while the vCPU is halted. */
    void (*run)(struct engine_vcpu *vcpu, struct engine_exit_info *ret_exit);
    void (*kick)(struct engine_vcpu *vcpu); /* any thread; sticky until the next exit */
    void (*signal)(struct engine_vcpu *vcpu, enum engine_signal sig, uint8_t vector);

    /* Only while the vCPU is not in run. */
    int (*get_state)(struct engine_vcpu *vcpu, struct vcpu_state *ret_state);
    int (*set_state)(struct engine_vcpu *vcpu, const struct vcpu_state *state, struct err *err);
    void (*get_stats)(const struct engine_vcpu *vcpu, struct engine_stats *ret_stats);
    /* Guest TSC now; the vCPU's own thread. NULL: host TSC plus the tsc_offset of set_state. */
    uint64_t (*read_tsc)(const struct engine_vcpu *vcpu);

    /* has_irqchip only. */
    int (*irq_line)(struct engine_vm *vm, unsigned gsi, bool level);
    int (*send_msi)(struct engine_vm *vm, uint64_t addr, uint32_t data);
    /* Power-on state of all interrupt controllers; vCPUs paused. The machine's reset calls it.
     */
    int (*irqchip_reset)(struct engine_vm *vm);
    int (*irqchip_save)(struct engine_vm *vm, struct state_writer *w);
    int (*irqchip_load)(struct engine_vm *vm, struct state_reader *r, struct err *err);

    /* Writes to a port (is_pio) or address of len bytes signal fd instead of the callback. */
    int (*ioeventfd)(struct engine_vm *vm, bool is_pio, uint64_t addr, unsigned len, int fd,
                     bool attach);
    /* Merges the engine's own dirty bits into the slot's log, and clears them. */
    int (*dirty_sync)(struct engine_vm *vm, const struct mem_slot *slot);
};

extern const struct engine_ops engine_soft;
extern const struct engine_ops engine_interp; /* the same without its translator */
extern const struct engine_ops engine_kvm;

/* By name "soft", "interp", "kvm", or "auto" (probes; *ret_why says the reason). NULL and err
 * if unknown or unusable. */
const struct engine_ops *engine_find(const char *name, char *ret_why, size_t why_len,
                                     struct err *err);
