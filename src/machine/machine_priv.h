/*
 * What the files of the machine share. Nothing outside src/machine includes this.
 *
 * Threads: the loop's thread (machine_run's caller) owns everything; vCPU threads run the
 * engine and the callbacks of struct engine_host. What vCPU threads and other threads may
 * change is under m->lock, a leaf that is taken with device locks held. Requests from vCPU
 * threads (reset, end) are bits that an eventfd brings to the loop, so that they need no memory
 * and cannot be refused.
 */
#pragma once

#include "base/clock.h"
#include "cpu/engine.h"
#include "cpu/model/cpu_model.h"
#include "dev/bus.h"
#include "dev/dev.h"
#include "dev/irq/isa_irq.h"
#include "dev/irq/lapic.h"
#include "dev/pci/pci.h"
#include "machine/board_map.h"
#include "machine/machine.h"
#include "mem/mem.h"

#include <pthread.h>

struct acpi_pm;
struct hpet;
struct i8042;
struct post_port;
struct uart16550;
struct virtio_dev;

struct vcpu {
    struct machine *m;
    unsigned index;
    struct engine_vcpu *ev;
    pthread_t thread;
    bool has_thread;
    bool parked;  /* m->lock: stands still in vcpu_main */
    bool stopped; /* m->lock: shut down (triple fault); runs again after a reset */
};

enum machine_request {
    REQUEST_END = 1 << 0,
    REQUEST_RESET = 1 << 1,
    REQUEST_INPUT = 1 << 2, /* the console may send more */
};

/* The devices that somebody calls later by name; all of them hang in m->devs as well. */
struct board {
    struct i8259 *pic;
    struct ioapic *ioapic;
    struct lapic_set *lapics;
    struct isa_irq isa;
    struct acpi_pm *pm;
    struct post_port *post;
    struct uart16550 *uart;
    struct pci_root *pci;
    struct virtio_dev *console;
};

struct machine {
    const struct machine_config *cfg;
    struct loop *loop;
    struct machine_console console;

    struct mem *mem;
    struct board_map map;
    struct bus *pio, *mmio;
    struct vmclock clock;
    pthread_mutex_t dev_lock; /* of the legacy devices */
    struct board board;
    struct dev *devs, **devs_tail; /* in order of creation */

    const struct engine_ops *engine;
    char engine_why[300];
    struct engine_vm *evm;
    struct cpu_model model;
    struct vcpu *vcpus; /* cfg->n_cpus of them */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a vCPU parked, or may run */
    unsigned pause_count;   /* m->lock */
    bool quit;              /* m->lock: threads end */
    unsigned requests;    /* m->lock: enum machine_request; END and RESET also stop the vCPUs */
    enum machine_end end; /* m->lock: with REQUEST_END; the first one counts */
    struct err end_err;
    unsigned exit_code;
    int request_fd;
    struct loop_watch *request_watch;

    int kernel_fd, initrd_fd; /* machine_boot.c; -1: not open */
    bool started;             /* a state is in the vCPUs: booted or loaded */
    uint64_t paused_tsc; /* host TSC when the vCPUs stopped; 0: guest TSC needs no correction */
    uint64_t created_ns, first_run_ns;
    uint64_t init_console_ns; /* atomic */
    uint64_t resets;
    bool virtio_console_used; /* atomic: input goes there */
};

static inline uint64_t host_tsc(void)
{
    return __builtin_ia32_rdtsc();
}

/* ---- board.c ---- */
int board_new(struct machine *m, struct err *err);
void board_free(struct machine *m);
/* Wires of the board: ISA requests 0-15, GSIs 16-23. To the controllers, or the engine's. */
struct irq_line board_irq(struct machine *m, unsigned gsi);
struct msi_sink board_msi(struct machine *m);
void board_add_dev(struct machine *m, struct dev *dev);

/* ---- board_pci.c ---- */
int board_pci_new(struct machine *m, struct err *err);
/* Takes over vd, also on failure. */
int board_plug_virtio(struct machine *m, struct virtio_dev *vd, unsigned slot, struct err *err);

/* ---- board_net.c ---- */
int board_net_new(struct machine *m, const struct machine_net *net, unsigned slot,
                  struct err *err);

/* ---- engine_glue.c: what the engine calls ---- */
void glue_fill_host(struct machine *m, struct engine_host *ret_host);
/* Guest time at which the vCPU's TSC reads tsc; for the LAPIC's deadline timer. */
uint64_t glue_tsc_to_ns(void *opaque, unsigned cpu, uint64_t tsc);
void glue_lapic_signal(void *opaque, unsigned cpu, enum lapic_signal kind, uint8_t vector);

/* ---- vcpus.c ---- */
int vcpus_new(struct machine *m, struct err *err);
int vcpus_start(struct machine *m, struct err *err);
void vcpus_free(struct machine *m); /* ends the threads */
void vcpus_kick(struct machine *m);
void vcpus_wait_parked(struct machine *m);
/* The vCPUs' state after a reset: bsp for the first, waiting for SIPI for the others. */
int vcpus_set_boot_state(struct machine *m, const struct vcpu_state *bsp, struct err *err);
/* Lets the guest TSCs go on from where they stood when the VM was paused. */
int vcpus_correct_tsc(struct machine *m, struct err *err);

/* ---- machine_boot.c ---- */
/* Loads kernel, initrd and tables into RAM and gives the first vCPU's state. */
int machine_boot(struct machine *m, struct vcpu_state *ret_bsp, struct err *err);
void machine_boot_close(struct machine *m);

/* ---- machine.c ---- */
/* Any thread, any lock but m->lock. */
void machine_request_end(struct machine *m, enum machine_end end, const char *why);
void machine_request(struct machine *m, unsigned bits);
