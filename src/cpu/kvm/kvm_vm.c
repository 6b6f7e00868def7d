/*
 * KVM virtual machines: opening the device, memory slots with their dirty log, ioeventfds.
 * Linux Documentation/virt/kvm/api.rst. Slots change only while all vCPUs are paused.
 *
 * The dirty log is switched on for a slot by the first dirty_sync (or map_slot) that finds the
 * slot's own log on; pages written before that are unknown, so all count as dirty then.
 */
#include "cpu/kvm/kvm_priv.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>

#define KVM_DEVICE "/dev/kvm"
/* Four pages that Intel's VMX wants in the guest's address space; above the APICs, below flash.
 */
#define KVM_IDENTITY_MAP UINT64_C(0xfeffc000)
#define KVM_TSS          UINT64_C(0xfeffd000)

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
    int r;
    do {
        r = ioctl(fd, request, arg);
    } while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : r;
}

int kvm_ioctl_n(int fd, unsigned long request, unsigned long arg)
{
    return kvm_ioctl(fd, request, (void *)arg);
}

int kvm_has(int fd, unsigned cap)
{
    int r = kvm_ioctl_n(fd, KVM_CHECK_EXTENSION, cap);
    return r < 0 ? 0 : r;
}

static const struct {
    unsigned cap;
    const char *name;
} required[] = {
    {KVM_CAP_USER_MEMORY, "user memory"},
    {KVM_CAP_IRQCHIP, "an interrupt controller"},
    {KVM_CAP_IRQ_ROUTING, "interrupt routing"},
    {KVM_CAP_SIGNAL_MSI, "message-signalled interrupts"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
    {KVM_CAP_IOEVENTFD, "ioeventfd"},
    {KVM_CAP_XSAVE, "xsave"},
    {KVM_CAP_XCRS, "xcrs"},
    {KVM_CAP_DEBUGREGS, "debug registers"},
    {KVM_CAP_VCPU_EVENTS, "vCPU events"},
    {KVM_CAP_MP_STATE, "multiprocessor state"},
    {KVM_CAP_ADJUST_CLOCK, "the clock's adjustment"},
    {KVM_CAP_TSC_DEADLINE_TIMER, "the TSC deadline timer"},
};

int kvm_open(int *ret_fd, struct err *err)
{
    _cleanup_close_ int fd = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        int e = errno;
        const char *hint = e == ENOENT
                               ? " (no virtualization here, or the module is not loaded)"
                           : e == EACCES ? " (are you in the group kvm?)"
                                         : "";
        return ERR(err, ENGINE, e, KVM_DEVICE ": %s%s", strerror(e), hint);
    }
    int version = kvm_ioctl_n(fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        return ERR(err, ENGINE, ENOSYS, KVM_DEVICE ": version %d, want %d", version,
                   KVM_API_VERSION);
    }
    for (size_t i = 0; i < ARRAY_LEN(required); i++) {
        if (kvm_has(fd, required[i].cap) == 0) {
            return ERR(err, ENGINE, ENOSYS, "this kernel's KVM lacks %s", required[i].name);
        }
    }
    *ret_fd = take_fd(&fd);
    return 0;
}

static void on_kick(int sig)
{
    (void)sig;
}

/* Without a handler the signal would end the process; without SA_RESTART KVM_RUN returns. */
static int install_handler(void)
{
    struct sigaction sa = {.sa_handler = on_kick};
    sigemptyset(&sa.sa_mask);
    return sigaction(KVM_KICK_SIGNAL, &sa, NULL) < 0 ? -errno : 0;
}

static int vm_setup(struct engine_vm *vm, struct err *err)
{
    uint64_t identity = KVM_IDENTITY_MAP;

    int r = install_handler();
    r = r < 0 ? r : kvm_ioctl_n(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (r < (int)sizeof(struct kvm_run)) {
        return ERR(err, ENGINE, EINVAL, "KVM: size of a vCPU's page is %d", r);
    }
    vm->run_bytes = (size_t)r;
    r = kvm_has(vm->kvm_fd, KVM_CAP_MAX_VCPUS);
    if (r > 0 && vm->n_cpus > (unsigned)r) {
        return ERR(err, LIMIT, E2BIG, "KVM: %u CPUs, this host allows %d", vm->n_cpus, r);
    }
    r = kvm_ioctl_n(vm->kvm_fd, KVM_CREATE_VM, 0);
    if (r < 0) {
        return ERR(err, ENGINE, -r, "KVM: cannot create a VM: %s", strerror(-r));
    }
    vm->fd = r;
    r = kvm_has(vm->fd, KVM_CAP_XSAVE2);
    vm->xsave_bytes = MAX((size_t)r, sizeof(struct kvm_xsave));
    r = kvm_ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    r = r < 0 ? r : kvm_ioctl_n(vm->fd, KVM_SET_TSS_ADDR, KVM_TSS);
    if (r < 0) {
        return ERR(err, ENGINE, -r, "KVM: cannot place its pages: %s", strerror(-r));
    }
    return kvm_irqchip_new(vm, err);
}

int kvm_vm_new(struct engine_vm **ret_vm, const struct engine_vm_params *params,
               struct err *err)
{
    if (params->n_cpus == 0 || params->n_cpus > KVM_MAX_CPUS) {
        return ERR(err, LIMIT, EINVAL, "KVM: %u CPUs, want 1 to %d", params->n_cpus,
                   KVM_MAX_CPUS);
    }
    struct engine_vm *vm = calloc(1, sizeof(*vm));
    if (vm == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for a VM");
    }
    *vm = (struct engine_vm){
        .kvm_fd = -1,
        .fd = -1,
        .mem = params->mem,
        .model = params->model,
        .host = params->host,
        .n_cpus = params->n_cpus,
        .tsc_khz = params->model->tsc_khz,
    };
    int r = kvm_open(&vm->kvm_fd, err);
    r = r < 0 ? r : vm_setup(vm, err);
    if (r < 0) {
        kvm_vm_free(vm);
        return r;
    }
    *ret_vm = vm;
    return 0;
}

void kvm_vm_free(struct engine_vm *vm)
{
    if (vm == NULL) {
        return;
    }
    if (vm->fd >= 0) {
        close(vm->fd);
    }
    if (vm->kvm_fd >= 0) {
        close(vm->kvm_fd);
    }
    free(vm);
}

/* ---- memory ---- */

static int set_region(struct engine_vm *vm, const struct mem_slot *slot, bool logging)
{
    struct kvm_slot *ks = &vm->slots[slot->id];
    struct kvm_userspace_memory_region region = {
        .slot = slot->id,
        .guest_phys_addr = slot->base.v,
        .memory_size = slot->size_bytes,
        .userspace_addr = (uintptr_t)slot->host,
        .flags = (slot->kind == MEM_ROM ? (uint32_t)KVM_MEM_READONLY : 0) |
                 (logging ? (uint32_t)KVM_MEM_LOG_DIRTY_PAGES : 0),
    };
    int r = kvm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
    if (r < 0) {
        return r;
    }
    *ks = (struct kvm_slot){.used = true, .logging = logging, .region = region};
    return 0;
}

int kvm_vm_map_slot(struct engine_vm *vm, const struct mem_slot *slot, struct err *err)
{
    if (slot->id >= KVM_MAX_SLOTS) {
        return ERR(err, LIMIT, E2BIG, "KVM: memory slot %u, want less than %d", slot->id,
                   KVM_MAX_SLOTS);
    }
    int r = set_region(vm, slot, __atomic_load_n(&slot->dirty, __ATOMIC_RELAXED) != NULL);
    if (r < 0) {
        return ERR(err, ENGINE, -r, "KVM: cannot map %llu bytes of guest memory at 0x%llx: %s",
                   (unsigned long long)slot->size_bytes, (unsigned long long)slot->base.v,
                   strerror(-r));
    }
    return 0;
}

int kvm_vm_unmap_slot(struct engine_vm *vm, const struct mem_slot *slot)
{
    if (slot->id >= KVM_MAX_SLOTS || !vm->slots[slot->id].used) {
        return -ENOENT;
    }
    struct kvm_userspace_memory_region region = vm->slots[slot->id].region;
    region.memory_size = 0;
    region.flags = 0;
    int r = kvm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
    if (r == 0) {
        vm->slots[slot->id].used = false;
    }
    return r;
}

int kvm_vm_dirty_sync(struct engine_vm *vm, const struct mem_slot *slot)
{
    uint64_t *bits = __atomic_load_n(&slot->dirty, __ATOMIC_ACQUIRE);
    size_t pages = slot->size_bytes >> MEM_PAGE_SHIFT, words = (pages + 63) / 64;

    if (slot->id >= KVM_MAX_SLOTS || !vm->slots[slot->id].used) {
        return -ENOENT;
    }
    bool was_logging = vm->slots[slot->id].logging;
    if ((bits != NULL) != was_logging) {
        int r = set_region(vm, slot, bits != NULL);
        if (r < 0 || bits == NULL) {
            return r;
        }
        for (size_t page = 0; page < pages; page++) {
            mem_slot_mark_dirty(slot, page << MEM_PAGE_SHIFT);
        }
        return 0;
    }
    if (bits == NULL) {
        return 0;
    }
    _cleanup_free_ uint64_t *got = calloc(words, sizeof(*got));
    if (got == NULL) {
        return -ENOMEM;
    }
    struct kvm_dirty_log log = {.slot = slot->id, .dirty_bitmap = got};
    int r = kvm_ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log);
    for (size_t i = 0; r == 0 && i < words; i++) {
        if (got[i] != 0) {
            __atomic_fetch_or(&bits[i], got[i], __ATOMIC_RELAXED);
        }
    }
    return r;
}

/* ---- ioeventfd ---- */

int kvm_vm_ioeventfd(struct engine_vm *vm, bool is_pio, uint64_t addr, unsigned len, int fd,
                     bool attach)
{
    struct kvm_ioeventfd io = {
        .addr = addr,
        .len = len,
        .fd = fd,
        .flags = (is_pio ? (uint32_t)KVM_IOEVENTFD_FLAG_PIO : 0) |
                 (attach ? 0 : (uint32_t)KVM_IOEVENTFD_FLAG_DEASSIGN),
    };
    return kvm_ioctl(vm->fd, KVM_IOEVENTFD, &io);
}
