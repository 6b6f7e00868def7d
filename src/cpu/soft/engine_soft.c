/*
 * The software engine behind cpu/engine.h: the VM (RAM slots with their code maps) and the ops
 * table. Slots change only while no vCPU runs. The probe measures this engine itself with a
 * small guest of ours.
 */
#include "cpu/soft/cpu.h"
#include "cpu/soft/probe.h"
#include "cpu/soft/soft.h"

#include <errno.h>
#include <stdlib.h>
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
            soft_code_written(page, in_page, n);
        }
        at += n;
    }
}

static int soft_vm_new(struct engine_vm **ret_vm, const struct engine_vm_params *params,
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
    pthread_mutex_init(&vm->lock, NULL);
    pthread_mutex_init(&vm->world_lock, NULL);
    mem_set_written_hook(vm->mem, mem_was_written, vm);
    *ret_vm = (struct engine_vm *)vm;
    return 0;
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
            vm->cpus[i]->jc_epoch[0]++;
            vm->cpus[i]->jc_epoch[1]++;
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

const struct engine_ops engine_soft = {
    .name = "soft",
    .has_irqchip = false,
    .probe = soft_probe,
    .vm_new = soft_vm_new,
    .vm_free = soft_vm_free,
    .map_slot = soft_map_slot,
    .unmap_slot = soft_unmap_slot,
    .vcpu_new = scpu_new,
    .vcpu_free = scpu_free,
    .run = scpu_run,
    .kick = scpu_kick,
    .signal = scpu_signal,
    .get_state = scpu_get_state,
    .set_state = scpu_set_state,
    .get_stats = scpu_get_stats,
    .read_tsc = scpu_read_tsc,
    .dirty_sync = soft_dirty_sync,
};
