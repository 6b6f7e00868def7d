/*
 * What one vCPU asks of the others: to stand still for an access that no host instruction makes
 * atomic (LOCK across two pages), and to give up their write entries for a page that becomes
 * code. SDM vol. 3A 9.1.2 (bus locking) and 9.1.3 (self- and cross-modifying code).
 *
 * A vCPU is "in the guest" (in_guest) while its thread may touch guest memory. Leaving is a
 * store, coming back waits while the world is stopped and then drops the write entries if it
 * was asked to. Nobody waits for another vCPU while being in the guest itself, so two that wait
 * for each other both get on. vm->world_lock is held by the one that stopped the world.
 * Nothing here is saved.
 */
#include "cpu/soft/mmu.h"

#include <sched.h>

void soft_guest_leave(struct scpu *c)
{
    atomic_store(&c->in_guest, 0);
}

void soft_guest_enter(struct scpu *c)
{
    struct soft_vm *vm = c->vm;
    for (;;) {
        atomic_store(&c->in_guest, 1);
        if (!atomic_load(&vm->stopping)) {
            break;
        }
        atomic_store(&c->in_guest, 0);
        pthread_mutex_lock(&vm->world_lock);
        pthread_mutex_unlock(&vm->world_lock);
    }
    if (atomic_load(&c->exit_req) & SOFT_REQ_CODE) {
        atomic_fetch_and(&c->exit_req, ~(uint32_t)SOFT_REQ_CODE);
        soft_tlb_drop_writes(c);
    }
}

void soft_world_stop(struct scpu *c)
{
    struct soft_vm *vm = c->vm;
    soft_leave(c);
    soft_guest_leave(c);
    pthread_mutex_lock(&vm->world_lock);
    atomic_store(&vm->stopping, 1);
    for (unsigned i = 0; i < vm->n_cpus; i++) {
        struct scpu *o = vm->cpus[i];
        if (o == NULL || o == c) {
            continue;
        }
        atomic_fetch_or(&o->exit_req, SOFT_REQ_STOP);
        while (atomic_load(&o->in_guest)) {
            sched_yield();
        }
    }
    c->world_held = true;
}

void soft_world_go(struct scpu *c)
{
    struct soft_vm *vm = c->vm;
    c->world_held = false;
    soft_leave(c);
    atomic_store(&vm->stopping, 0);
    pthread_mutex_unlock(&vm->world_lock);
    soft_guest_enter(c);
}

/* Whether o may store to the page at host without looking whether it holds code. Other threads'
 * entries are read while they change: mmu_fill_write says why no entry is missed that matters.
 */
static bool has_write_entry(struct scpu *o, const uint8_t *host)
{
    for (unsigned m = 0; m < MMU_NIDX; m++) {
        for (unsigned i = 0; i < TLB_SIZE; i++) {
            struct tlb_entry *e = &o->tlb[m][TLB_W][i];
            uint64_t tag = __atomic_load_n(&e->tag, __ATOMIC_ACQUIRE);
            uint64_t page = __atomic_load_n(&e->page, __ATOMIC_ACQUIRE);
            if (page == (uintptr_t)host && tag != TLB_INVALID(i)) {
                return true;
            }
        }
    }
    return false;
}

/* The page at host. */
static struct soft_page *page_at(struct soft_vm *vm, const uint8_t *host)
{
    for (unsigned i = 0; i < vm->n_slots; i++) {
        uint64_t off = (uint64_t)(host - vm->slots[i].slot.host);
        if (off < vm->slots[i].slot.size_bytes) {
            return &vm->slots[i].pages[off >> MEM_PAGE_SHIFT];
        }
    }
    return NULL;
}

void soft_code_settle(struct scpu *c, const uint8_t *host)
{
    struct soft_vm *vm = c->vm;
    struct soft_page *page = page_at(vm, host);
    uint32_t writers = page == NULL ? 0 : atomic_load(&page->writers);
    if (page != NULL && atomic_load(&page->no_writer_at) == writers) {
        return; /* who makes an entry after this look sees the page's mark: mmu_fill_write */
    }
    if (has_write_entry(c, host)) {
        soft_tlb_drop_writes(c);
    }
    for (unsigned i = 0; i < vm->n_cpus; i++) {
        struct scpu *o = vm->cpus[i];
        if (o == NULL || o == c || !has_write_entry(o, host)) {
            continue;
        }
        atomic_fetch_or(&o->exit_req, SOFT_REQ_CODE);
        soft_guest_leave(c);
        while (atomic_load(&o->in_guest) && has_write_entry(o, host)) {
            sched_yield();
        }
        soft_guest_enter(c);
    }
    if (page != NULL) {
        /* Not "none": the mark may have been taken away meanwhile, and entries made since. */
        atomic_store(&page->no_writer_at, writers);
    }
}
