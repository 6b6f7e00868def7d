/*
 * The software engine behind cpu/engine.h: the VM (RAM slots with their code maps) and the ops
 * table. Slots change only while no vCPU runs. The probe measures this engine itself with a
 * small guest of ours.
 */
#include "base/parse.h"
#include "cpu/soft/cpu.h"
#include "cpu/soft/probe.h"
#include "cpu/soft/soft.h"
#include "cpu/soft/uop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static size_t pages_bytes(uint64_t slot_bytes)
{
    return (size_t)(slot_bytes >> MEM_PAGE_SHIFT) * sizeof(struct soft_page);
}

static void slot_done(struct soft_slot *s)
{
    munmap(s->pages, pages_bytes(s->slot.size_bytes));
}

static struct soft_slot *slot_by_host(struct soft_vm *vm, const struct mem_slot *slot)
{
    for (unsigned i = 0; i < vm->n_slots; i++) {
        if (vm->slots[i].slot.id == slot->id) {
            return &vm->slots[i];
        }
    }
    return NULL;
}

/* Devices and loaders wrote guest memory: translations of it go. */
static void mem_was_written(void *opaque, const struct mem_slot *slot, uint64_t offset,
                            uint64_t len)
{
    struct soft_vm *vm = opaque;
    struct soft_slot *s = slot_by_host(vm, slot);
    if (s == NULL || len == 0) {
        return;
    }
    uint64_t end = offset + len;
    atomic_thread_fence(memory_order_seq_cst); /* as in note_written */
    for (uint64_t at = offset; at < end;) {
        uint64_t in_page = at & (MEM_PAGE_SIZE - 1);
        uint64_t n = MIN(MEM_PAGE_SIZE - in_page, end - at);
        struct soft_page *page = &s->pages[at >> MEM_PAGE_SHIFT];
        if (atomic_load_explicit(&page->has_code, memory_order_seq_cst)) {
            soft_code_written(vm, page, in_page, n);
        }
        at += n;
    }
}

/* ---- tuning ---- */

/*
 * Code memory of a VM is shared out among its vCPUs, with a least amount for each, so that code
 * caches and tables stay below 64 MiB for up to 4 busy vCPUs. Tables of translated code take up
 * to half as much again.
 */
#define CODE_BYTES_VM       (28 * MIB)
#define CODE_BYTES_MAX      (16 * MIB)
#define CODE_BYTES_TUNE_MIN (256 * KIB)
#define BLOCK_BYTES_VM      (10 * MIB)
#define BLOCK_BYTES_MAX     (8 * MIB)
#define SHARE_MIN           MIB

static uint64_t share(uint64_t all, unsigned n_cpus, uint64_t max)
{
    return align_up(MIN(MAX(all / n_cpus, SHARE_MIN), max), 4096);
}

static bool tuning_set(struct soft_tuning *t, const char *name, size_t len, uint64_t v)
{
    if (len == 3 && memcmp(name, "jit", len) == 0 && v <= 1) {
        t->jit = t->jit && v;
    } else if (len == 3 && memcmp(name, "hot", len) == 0 && v < SBLOCK_COLD) {
        t->hot = (uint16_t)v;
    } else if (len == 4 && memcmp(name, "code", len) == 0 && v >= CODE_BYTES_TUNE_MIN &&
               v <= GIB) {
        t->code_bytes = (uint32_t)align_up(v, 4096);
    } else if (len == 5 && memcmp(name, "flush", len) == 0 && v <= UINT32_MAX) {
        t->flush = (unsigned)v;
    } else {
        return false;
    }
    return true;
}

static int tuning_read(struct soft_tuning *t, bool jit, unsigned n_cpus, struct err *err)
{
    *t = (struct soft_tuning){.jit = jit, .hot = 16};
    t->code_bytes = (uint32_t)share(CODE_BYTES_VM, n_cpus, CODE_BYTES_MAX);
    t->block_bytes = share(BLOCK_BYTES_VM, n_cpus, BLOCK_BYTES_MAX);
    const char *text = getenv("VIVARIUM_SOFT");
    while (text != NULL && *text != 0) {
        size_t all = strcspn(text, ","), name = strcspn(text, "=,");
        char value[32];
        uint64_t v;
        if (name >= all || all - name - 1 >= sizeof(value)) {
            return ERR(err, USAGE, EINVAL, "VIVARIUM_SOFT: '%.*s' is not NAME=NUMBER", (int)all,
                       text);
        }
        memcpy(value, text + name + 1, all - name - 1);
        value[all - name - 1] = 0;
        if (parse_size(value, 0, UINT64_MAX, &v) != 0 || !tuning_set(t, text, name, v)) {
            return ERR(err, USAGE, EINVAL,
                       "VIVARIUM_SOFT: '%.*s' is none of jit=0|1, hot=0..65534, "
                       "code=256K..1G, flush=COUNT",
                       (int)all, text);
        }
        text += all;
        text += *text == ',';
    }
    return 0;
}

static int vm_new(struct engine_vm **ret_vm, const struct engine_vm_params *params, bool jit,
                  struct err *err)
{
    struct soft_vm *vm = calloc(1, sizeof(*vm));
    if (vm == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "soft engine: no memory for the VM");
    }
    if (params->n_cpus == 0 || params->n_cpus > ARRAY_LEN(vm->cpus)) {
        free(vm);
        return ERR(err, LIMIT, EINVAL, "soft engine: %u CPUs asked for, 1 to %zu are possible",
                   params->n_cpus, ARRAY_LEN(vm->cpus));
    }
    vm->mem = params->mem;
    vm->model = params->model;
    vm->host = params->host;
    vm->n_cpus = params->n_cpus;
    if (tuning_read(&vm->tuning, jit, params->n_cpus, err) != 0) {
        free(vm);
        return -1;
    }
    pthread_mutex_init(&vm->stale_lock, NULL);
    pthread_mutex_init(&vm->lock, NULL);
    pthread_mutex_init(&vm->world_lock, NULL);
    mem_set_written_hook(vm->mem, mem_was_written, vm);
    *ret_vm = (struct engine_vm *)vm;
    return 0;
}

static int soft_vm_new(struct engine_vm **ret_vm, const struct engine_vm_params *params,
                       struct err *err)
{
    return vm_new(ret_vm, params, true, err);
}

static int interp_vm_new(struct engine_vm **ret_vm, const struct engine_vm_params *params,
                         struct err *err)
{
    return vm_new(ret_vm, params, false, err);
}

static void soft_vm_free(struct engine_vm *evm)
{
    struct soft_vm *vm = (struct soft_vm *)evm;
    if (vm == NULL) {
        return;
    }
    mem_set_written_hook(vm->mem, NULL, NULL);
    for (unsigned i = 0; i < vm->n_slots; i++) {
        slot_done(&vm->slots[i]);
    }
    pthread_mutex_destroy(&vm->stale_lock);
    pthread_mutex_destroy(&vm->world_lock);
    pthread_mutex_destroy(&vm->lock);
    free(vm);
}

static int soft_map_slot(struct engine_vm *evm, const struct mem_slot *slot, struct err *err)
{
    struct soft_vm *vm = (struct soft_vm *)evm;
    if (vm->n_slots == SOFT_MAX_SLOTS) {
        return ERR(err, LIMIT, ENOSPC, "soft engine: more than %u memory slots",
                   SOFT_MAX_SLOTS);
    }
    struct soft_slot *s = &vm->slots[vm->n_slots];
    void *pages = mmap(NULL, pages_bytes(slot->size_bytes), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) {
        return ERR(err, NO_MEMORY, errno,
                   "soft engine: no address space for a code map of %zu "
                   "bytes",
                   pages_bytes(slot->size_bytes));
    }
    *s = (struct soft_slot){.slot = *slot, .pages = pages, .mem_slot = slot};
    vm->n_slots++;
    return 0;
}

static int soft_unmap_slot(struct engine_vm *evm, const struct mem_slot *slot)
{
    struct soft_vm *vm = (struct soft_vm *)evm;
    struct soft_slot *s = slot_by_host(vm, slot);
    if (s == NULL) {
        return -ENOENT;
    }
    slot_done(s);
    *s = vm->slots[--vm->n_slots];
    for (unsigned i = 0; i < vm->n_cpus; i++) {
        if (vm->cpus[i] != NULL) {
            soft_tlb_flush_all(vm->cpus[i]);
            soft_code_epoch(vm->cpus[i], 0);
            soft_code_epoch(vm->cpus[i], 1);
        }
    }
    return 0;
}

/* Write entries of the TLBs have had their pages' bits set: drop them, so that the next store
 * to each page sets its bit again. Running vCPUs do so at their next block. */
static int soft_dirty_sync(struct engine_vm *evm, const struct mem_slot *slot)
{
    struct soft_vm *vm = (struct soft_vm *)evm;
    (void)slot;
    for (unsigned i = 0; i < vm->n_cpus; i++) {
        if (vm->cpus[i] != NULL) {
            atomic_fetch_or(&vm->cpus[i]->exit_req, SOFT_REQ_CODE);
        }
    }
    return 0;
}

/* The ops of both engines: name, and what makes a VM. */
#define SOFT_OPS(engine_name, new_vm)                                                          \
    {                                                                                          \
        .name = (engine_name), .has_irqchip = false, .probe = soft_probe, .vm_new = (new_vm),  \
        .vm_free = soft_vm_free, .map_slot = soft_map_slot, .unmap_slot = soft_unmap_slot,     \
        .vcpu_new = scpu_new, .vcpu_free = scpu_free, .run = scpu_run, .kick = scpu_kick,      \
        .signal = scpu_signal, .get_state = scpu_get_state, .set_state = scpu_set_state,       \
        .get_stats = scpu_get_stats, .read_tsc = scpu_read_tsc, .dirty_sync = soft_dirty_sync, \
    }

const struct engine_ops engine_soft = SOFT_OPS("soft", soft_vm_new);
const struct engine_ops engine_interp = SOFT_OPS("interp", interp_vm_new);
