/*
 * A VM with one vCPU that runs programs. RAM is put back page by page, so that pages which a
 * program left alone stay as the engine knows them. Programs end with a write to a port, by a
 * triple fault, or, when they hang, by the watchdog's kick.
 *
 * Threads: the vCPU runs on the caller's; the watchdog's kicks one that takes seconds. While a
 * program with asynchronous events runs, a third kicks the vCPU and sends it NMIs and
 * interrupts.
 */
#include "blocktest.h"

#include "../difftest/forms.h"
#include "base/ckd.h"
#include "cpu/engine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TICK_US 20000

struct bt_vm {
    const struct engine_ops *ops;
    struct mem *mem;
    struct cpu_model model;
    struct engine_vm *vm;
    struct engine_vcpu *vcpu;
    uint8_t *ram;
    bool ended;
    uint64_t io_hash, io_count;
    _Atomic bool irq;
    /* Watchdog: number of the run, 0 for none. */
    pthread_t dog;
    _Atomic uint64_t running;
    uint64_t runs;
    _Atomic unsigned patience; /* in ticks of the watchdog */
    _Atomic bool hung, quit;
    /* Events. */
    pthread_t events;
    bool has_events;
    _Atomic bool send;
    uint64_t rng;
};

/* ---- the machine around it ---- */

static void io_note(struct bt_vm *vm, uint64_t a, uint64_t b)
{
    vm->io_hash = (vm->io_hash ^ a) * UINT64_C(0x9e3779b97f4a7c15);
    vm->io_hash = ((vm->io_hash ^ vm->io_hash >> 31) + b) * UINT64_C(0xbf58476d1ce4e5b9);
    vm->io_count++;
}

static uint64_t io_value(struct bt_vm *vm, uint64_t addr, unsigned len)
{
    io_note(vm, addr, len);
    return len == 8 ? vm->io_hash : vm->io_hash & ((UINT64_C(1) << (len * 8)) - 1);
}

static uint64_t mmio_read(void *o, unsigned cpu, uint64_t gpa, unsigned len)
{
    (void)cpu;
    return io_value(o, gpa, len);
}

static void mmio_write(void *o, unsigned cpu, uint64_t gpa, unsigned len, uint64_t v)
{
    (void)cpu;
    io_note(o, gpa ^ UINT64_C(1) << 60 ^ (uint64_t)len << 56, v);
}

static uint64_t pio_read(void *o, unsigned cpu, uint16_t port, unsigned len)
{
    (void)cpu;
    return io_value(o, UINT64_C(1) << 61 | port, len);
}

static void pio_write(void *o, unsigned cpu, uint16_t port, unsigned len, uint32_t v)
{
    struct bt_vm *vm = o;
    (void)cpu;
    if (port == BT_PORT_END && len == 1 && v == BT_END_MAGIC) {
        vm->ended = true;
        vm->ops->kick(vm->vcpu);
        return;
    }
    io_note(vm, UINT64_C(1) << 62 | (uint64_t)len << 56 | port, v);
}

static bool irq_pending(void *o, unsigned cpu)
{
    struct bt_vm *vm = o;
    (void)cpu;
    return atomic_load(&vm->irq);
}

static int irq_ack(void *o, unsigned cpu)
{
    struct bt_vm *vm = o;
    (void)cpu;
    return atomic_exchange(&vm->irq, false) ? BT_VEC_IRQ : -1;
}

static uint64_t cr8_read(void *o, unsigned cpu)
{
    (void)o, (void)cpu;
    return 0;
}

static void cr8_write(void *o, unsigned cpu, uint64_t v)
{
    (void)o, (void)cpu, (void)v;
}

/* ---- threads ---- */

static void *watch(void *o)
{
    struct bt_vm *vm = o;
    uint64_t last = 0;
    unsigned ticks = 0;
    while (!atomic_load(&vm->quit)) {
        usleep(TICK_US);
        uint64_t now = atomic_load(&vm->running);
        ticks = now == last && now != 0 ? ticks + 1 : 0;
        last = now;
        if (ticks >= atomic_load(&vm->patience)) {
            ticks = 0;
            atomic_store(&vm->hung, true);
            vm->ops->kick(vm->vcpu);
        }
    }
    return NULL;
}

static void *send_events(void *o)
{
    struct bt_vm *vm = o;
    while (!atomic_load(&vm->quit)) {
        if (!atomic_load(&vm->send)) {
            usleep(50);
            continue;
        }
        uint64_t r = dt_random(&vm->rng);
        switch (r % 4) {
        case 0: vm->ops->kick(vm->vcpu); break;
        case 1: vm->ops->signal(vm->vcpu, ENGINE_SIG_NMI, 0); break;
        default:
            atomic_store(&vm->irq, true);
            vm->ops->signal(vm->vcpu, ENGINE_SIG_IRQ, 0);
            break;
        }
        for (volatile unsigned n = (unsigned)(r >> 8 & 0xfff); n > 0; n--) {
        }
    }
    return NULL;
}

/* ---- life ---- */

static int make(struct bt_vm *vm, struct err *err)
{
    struct engine_vm_params params = {.model = &vm->model, .n_cpus = 1};
    params.host = (struct engine_host){.opaque = vm,
                                       .pio_read = pio_read,
                                       .pio_write = pio_write,
                                       .mmio_read = mmio_read,
                                       .mmio_write = mmio_write,
                                       .irq_pending = irq_pending,
                                       .irq_ack = irq_ack,
                                       .cr8_read = cr8_read,
                                       .cr8_write = cr8_write};
    int rc = mem_new(&vm->mem, err);
    rc = rc != 0 ? rc : mem_slot_add(vm->mem, GPA(0), BT_RAM, MEM_RAM, err);
    rc = rc != 0 ? rc : mem_slot_add(vm->mem, GPA(BT_ROM), 0x1000, MEM_ROM, err);
    rc = rc != 0 ? rc : cpu_model_host(&vm->model, true, 1, err);
    if (rc != 0) {
        return rc;
    }
    dt_offer_all(&vm->model);
    params.mem = vm->mem;
    rc = vm->ops->vm_new(&vm->vm, &params, err);
    for (unsigned i = 0; rc == 0 && i < 2; i++) {
        rc = vm->ops->map_slot(vm->vm, mem_slot_get(vm->mem, i), err);
    }
    rc = rc != 0 ? rc : vm->ops->vcpu_new(vm->vm, 0, &vm->vcpu, err);
    if (rc == 0) {
        vm->ram = mem_slot_get(vm->mem, 0)->host;
        uint8_t *rom = mem_slot_get(vm->mem, 1)->host;
        for (unsigned i = 0; i < 4096; i++) {
            rom[i] = (uint8_t)(i * 37 ^ i >> 5);
        }
    }
    return rc;
}

struct bt_vm *bt_vm_new(const char *engine, const char *settings)
{
    struct err err = {.text = ""};
    struct bt_vm *vm = calloc(1, sizeof(*vm));
    if (vm == NULL) {
        fprintf(stderr, "blocktest: no memory\n");
        return NULL;
    }
    vm->ops = engine_find(engine, NULL, 0, &err);
    if (vm->ops == NULL) {
        vm->ops = &engine_soft;
    }
    setenv("VIVARIUM_SOFT", settings, 1);
    if (make(vm, &err) != 0) {
        fprintf(stderr, "blocktest: %s\n", err.text);
        bt_vm_free(vm);
        return NULL;
    }
    unsetenv("VIVARIUM_SOFT");
    vm->rng = 1;
    bt_vm_patience(vm, 1000);
    pthread_create(&vm->dog, NULL, watch, vm);
    return vm;
}

void bt_vm_free(struct bt_vm *vm)
{
    if (vm == NULL) {
        return;
    }
    atomic_store(&vm->quit, true);
    if (vm->dog != 0) {
        pthread_join(vm->dog, NULL);
    }
    if (vm->has_events) {
        pthread_join(vm->events, NULL);
    }
    if (vm->vcpu != NULL) {
        vm->ops->vcpu_free(vm->vcpu);
    }
    if (vm->vm != NULL) {
        vm->ops->vm_free(vm->vm);
    }
    if (vm->mem != NULL) {
        mem_free(vm->mem);
    }
    free(vm);
}

/* ---- running ---- */

void bt_vm_patience(struct bt_vm *vm, unsigned ms)
{
    atomic_store(&vm->patience, ms * 1000 / TICK_US);
}

static void reset_ram(struct bt_vm *vm, const uint8_t *image)
{
    for (uint32_t at = 0; at < BT_RAM; at += 4096) {
        if (memcmp(vm->ram + at, image + at, 4096) != 0) {
            memcpy(vm->ram + at, image + at, 4096);
            mem_written(vm->mem, GPA(at), 4096);
        }
    }
}

static void events(struct bt_vm *vm, bool on)
{
    if (on && !vm->has_events) {
        vm->has_events = pthread_create(&vm->events, NULL, send_events, vm) == 0;
    }
    atomic_store(&vm->send, on);
}

static enum bt_end run(struct bt_vm *vm)
{
    struct engine_exit_info info;
    for (;;) {
        vm->ops->run(vm->vcpu, &info);
        if (vm->ended) {
            return BT_END_PORT;
        }
        if (info.reason == ENGINE_EXIT_SHUTDOWN) {
            return BT_END_SHUTDOWN;
        }
        if (info.reason == ENGINE_EXIT_ERROR) {
            fprintf(stderr, "blocktest: engine: %s\n", info.text);
            return BT_END_ERROR;
        }
        if (atomic_load(&vm->hung)) {
            return BT_END_HANG;
        }
    }
}

void bt_vm_run(struct bt_vm *vm, const struct bt_program *p, const uint8_t *image,
               struct bt_result *ret)
{
    struct err err = {.text = ""};
    struct engine_stats before, after;
    reset_ram(vm, image);
    vm->ended = false;
    vm->io_hash = vm->io_count = 0;
    atomic_store(&vm->irq, false);
    atomic_store(&vm->hung, false);
    if (vm->ops->set_state(vm->vcpu, &p->init, &err) != 0) {
        fprintf(stderr, "blocktest: %s\n", err.text);
        ret->end = BT_END_ERROR;
        return;
    }
    vm->ops->get_stats(vm->vcpu, &before);
    atomic_store(&vm->running, ++vm->runs);
    if (p->async) {
        events(vm, true);
    }
    ret->end = run(vm);
    if (p->async) {
        events(vm, false);
    }
    atomic_store(&vm->running, 0);
    vm->ops->get_stats(vm->vcpu, &after);
    vm->ops->get_state(vm->vcpu, &ret->state);
    ret->insns = after.instructions - before.instructions;
    ret->io_hash = vm->io_hash;
    ret->io_count = vm->io_count;
    ret->ram = vm->ram;
}

const char *bt_vm_stats(struct bt_vm *vm, char *buf, size_t len)
{
    struct engine_stats s;
    vm->ops->get_stats(vm->vcpu, &s);
    snprintf(buf, len, "%llu instructions, %llu blocks decoded, %llu invalidations",
             (unsigned long long)s.instructions, (unsigned long long)s.blocks_decoded,
             (unsigned long long)s.code_invalidations);
    return buf;
}
