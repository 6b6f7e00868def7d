/*
 * The PC-compatible machine: memory, CPU engine, devices, vCPU threads, and the life of one VM.
 *
 * The caller makes the event loop and calls machine_run on its thread, which becomes the device
 * thread. machine_power_button, _stop and _reset come from any thread; the rest from the loop's
 * thread, machine_save and machine_load with the VM paused by them.
 */
#pragma once

#include "base/loop.h"
#include "machine/machine_config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct engine_ops;
struct machine;
struct state_reader;
struct state_writer;

/* The other end of the guest's console. Callbacks come from any thread and must not block. */
struct machine_console {
    void *opaque;
    /* Bytes from the guest; returns how many were taken. Fewer than len: the rest is offered
     * again after machine_console_ready. */
    size_t (*write)(void *opaque, const uint8_t *data, size_t len);
    /* The guest took input: machine_console_input may be called again. Loop's thread. */
    void (*input_ready)(void *opaque);
    /* The VM has ended: what is offered from now on is the last, and write may wait. Loop's
     * thread. Optional. */
    void (*ending)(void *opaque);
};

enum machine_end {
    MACHINE_END_POWEROFF, /* the guest powered off */
    MACHINE_END_CRASH,    /* triple fault, or panic reported through pvpanic */
    MACHINE_END_STOPPED,  /* machine_stop */
    MACHINE_END_EXIT,     /* the guest wrote to the debug exit port: machine_exit_code */
    MACHINE_END_ERROR,    /* ours: text in the err given to machine_run */
};

/* cfg and console are borrowed for the machine's life. */
int machine_new(struct machine **ret_machine, const struct machine_config *cfg,
                struct loop *loop, const struct machine_console *console, struct err *err);
void machine_free(struct machine *m);

/* Runs until the VM ends. May be called once. err is filled for CRASH (why) and ERROR. */
enum machine_end machine_run(struct machine *m, struct err *err);

void machine_power_button(struct machine *m);
void machine_stop(struct machine *m);
void machine_reset(struct machine *m);
/* vCPUs, guest time and back ends stand still between the two; may be nested. Loop's thread. */
void machine_pause(struct machine *m);
void machine_resume(struct machine *m);

/* The whole VM except RAM contents; pauses around it. Load wants a machine of the same config
 * that has not run yet or is paused; a failed load leaves it reset. */
int machine_save(struct machine *m, struct state_writer *w, struct err *err);
int machine_load(struct machine *m, struct state_reader *r, struct err *err);

/* Input for the guest's console; returns how many bytes were taken. */
size_t machine_console_input(struct machine *m, const uint8_t *data, size_t len);
/* The console has room again. */
void machine_console_ready(struct machine *m);
/* The terminal's size, for consoles that can tell the guest. */
void machine_console_resize(struct machine *m, unsigned columns, unsigned rows);

/* The engine in use, and one sentence on why it was taken. */
const char *machine_engine_name(const struct machine *m, const char **ret_why);
unsigned machine_exit_code(const struct machine *m); /* of MACHINE_END_EXIT */

struct machine_metrics {
    /* Host monotonic time; 0: did not happen. */
    uint64_t created_ns, first_instruction_ns;
    uint64_t init_port_ns;    /* the guest wrote 41h to port 80h */
    uint64_t init_console_ns; /* the first byte on the virtio console */
    uint64_t resets;
    uint64_t instructions; /* 0: the engine does not count */
    uint64_t exits_pio, exits_mmio, exits_halt, exits_irq, exits_kick, exits_other;
    uint64_t code_invalidations, tlb_flushes, blocks_decoded, native_stubs;
    uint64_t blocks_translated, code_flushes, jit_slow, jit_helped;
    uint64_t engine_bytes;
    uint64_t ram_bytes, ram_resident_bytes;
};
void machine_get_metrics(struct machine *m, struct machine_metrics *ret_metrics);
