/*
 * KVM vCPUs: the run loop with its exits, and how other threads get a vCPU out of the kernel.
 *
 * A kick sets kicked, then the shared page's immediate_exit, then sends a signal if the thread
 * is inside run. KVM_RUN first finishes the port or memory access of the last exit and only
 * then looks at immediate_exit, so that a kicked vCPU always has complete state: the loop never
 * leaves in another way.
 */
#include "cpu/kvm/kvm_priv.h"

#include "base/ckd.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

static int setup_mce(const struct engine_vcpu *v)
{
    uint64_t mcg_cap = 0;
    if (kvm_has(v->vm->kvm_fd, KVM_CAP_MCE) < VCPU_MCE_BANKS ||
        !cpu_model_has(v->vm->model, 1, 0, 3, 14) ||
        kvm_ioctl(v->vm->kvm_fd, KVM_X86_GET_MCE_CAP_SUPPORTED, &mcg_cap) < 0) {
        return 0;
    }
    mcg_cap = (mcg_cap & 0x100) | VCPU_MCE_BANKS; /* MCG_CTL_P and the number of banks */
    return kvm_ioctl(v->fd, KVM_X86_SETUP_MCE, &mcg_cap);
}

static int setup_tsc(const struct engine_vcpu *v)
{
    uint64_t want = v->vm->tsc_khz;
    int now = kvm_ioctl_n(v->fd, KVM_GET_TSC_KHZ, 0);
    if (want == 0 || now < 0 || (uint64_t)now == want) {
        return 0;
    }
    int r = kvm_ioctl_n(v->fd, KVM_SET_TSC_KHZ, want);
    /* Without TSC scaling a difference below a part in a thousand is a matter of measuring. */
    uint64_t apart = want > (uint64_t)now ? want - (uint64_t)now : (uint64_t)now - want;
    return r < 0 && apart < want / 1000 ? 0 : r;
}

int kvm_vcpu_new(struct engine_vm *vm, unsigned index, struct engine_vcpu **ret_vcpu,
                 struct err *err)
{
    if (index >= vm->n_cpus || vm->cpus[index] != NULL) {
        return ERR(err, INTERNAL, EINVAL, "KVM: CPU %u of %u", index, vm->n_cpus);
    }
    struct engine_vcpu *v = calloc(1, sizeof(*v));
    if (v == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for a vCPU");
    }
    v->vm = vm;
    v->index = index;
    v->run = MAP_FAILED;
    pthread_mutex_init(&v->lock, NULL);
    v->fd = kvm_ioctl_n(vm->fd, KVM_CREATE_VCPU, index);
    int r = v->fd < 0 ? v->fd : 0;
    if (r == 0) {
        v->run = mmap(NULL, vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
        v->xsave = calloc(1, vm->xsave_bytes);
        r = v->run == MAP_FAILED ? -errno : v->xsave == NULL ? -ENOMEM : 0;
    }
    r = r < 0 ? r : setup_tsc(v);
    r = r < 0 ? r : setup_mce(v);
    if (r < 0) {
        kvm_vcpu_free(v);
        return ERR(err, ENGINE, -r, "KVM: cannot create a vCPU: %s", strerror(-r));
    }
    r = kvm_cpuid_set(v, err);
    if (r < 0) {
        kvm_vcpu_free(v);
        return r;
    }
    kvm_msr_find(v);
    vm->cpus[index] = v;
    *ret_vcpu = v;
    return 0;
}

void kvm_vcpu_free(struct engine_vcpu *v)
{
    if (v == NULL) {
        return;
    }
    if (v->vm->cpus[v->index] == v) {
        v->vm->cpus[v->index] = NULL;
    }
    if (v->run != MAP_FAILED) {
        munmap(v->run, v->vm->run_bytes);
    }
    if (v->fd >= 0) {
        close(v->fd);
    }
    free(v->xsave);
    pthread_mutex_destroy(&v->lock);
    free(v);
}

/* ---- exits ---- */

static void exit_io(struct engine_vcpu *v)
{
    const struct engine_host *host = &v->vm->host;
    struct kvm_run *run = v->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    unsigned size = run->io.size;
    uint16_t port = run->io.port;

    kvm_count(&v->stats.exits_pio);
    for (uint32_t i = 0; i < run->io.count; i++, data += size) {
        uint32_t value = 0;
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&value, data, size);
            host->pio_write(host->opaque, v->index, port, size, value);
        } else {
            value = (uint32_t)host->pio_read(host->opaque, v->index, port, size);
            memcpy(data, &value, size);
        }
    }
}

/* The kernel hands over 1 to 8 bytes, also 3, 5 to 7 at a page's end: those go as bytes. */
static void exit_mmio(struct engine_vcpu *v)
{
    const struct engine_host *host = &v->vm->host;
    struct kvm_run *run = v->run;
    unsigned len = MIN(run->mmio.len, 8u), step = is_pow2(len) ? len : 1;

    kvm_count(&v->stats.exits_mmio);
    for (unsigned i = 0; i < len; i += step) {
        uint64_t value = 0;
        if (run->mmio.is_write) {
            memcpy(&value, run->mmio.data + i, step);
            host->mmio_write(host->opaque, v->index, run->mmio.phys_addr + i, step, value);
        } else {
            value = host->mmio_read(host->opaque, v->index, run->mmio.phys_addr + i, step);
            memcpy(run->mmio.data + i, &value, step);
        }
    }
}

static void describe_internal_error(struct engine_vcpu *v, char *ret_text, size_t len)
{
    const struct kvm_run *run = v->run;
    struct kvm_regs regs = {0};
    char insn[3 * 15 + 1] = "";

    kvm_ioctl(v->fd, KVM_GET_REGS, &regs);
    if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && run->internal.ndata >= 4 &&
        (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) !=
            0) {
        unsigned n = MIN(run->emulation_failure.insn_size, (uint8_t)15);
        for (unsigned i = 0; i < n; i++) {
            snprintf(insn + 3 * i, 4, " %02x", run->emulation_failure.insn_bytes[i]);
        }
    }
    if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION) {
        snprintf(ret_text, len, "KVM cannot emulate the instruction at 0x%llx:%s",
                 (unsigned long long)regs.rip, insn[0] != '\0' ? insn : " (bytes unknown)");
    } else {
        snprintf(ret_text, len, "KVM internal error %u at 0x%llx", run->internal.suberror,
                 (unsigned long long)regs.rip);
    }
}

/* Returns true when run is to return *ret_exit. */
static bool handle_exit(struct engine_vcpu *v, struct engine_exit_info *ret_exit)
{
    const struct kvm_run *run = v->run;
    char *text = ret_exit->text;
    const size_t len = sizeof(ret_exit->text);

    switch (run->exit_reason) {
    case KVM_EXIT_IO: exit_io(v); return false;
    case KVM_EXIT_MMIO: exit_mmio(v); return false;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR: kvm_count(&v->stats.exits_other); return false;
    case KVM_EXIT_HLT: kvm_count(&v->stats.exits_halt); return false;
    case KVM_EXIT_SHUTDOWN:
        ret_exit->reason = ENGINE_EXIT_SHUTDOWN;
        text[0] = '\0';
        return true;
    case KVM_EXIT_SYSTEM_EVENT:
        ret_exit->reason = ENGINE_EXIT_SHUTDOWN;
        snprintf(text, len, "KVM system event %u", run->system_event.type);
        return true;
    case KVM_EXIT_FAIL_ENTRY:
        snprintf(text, len, "the processor refuses to enter the guest: reason 0x%llx",
                 (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
        break;
    case KVM_EXIT_INTERNAL_ERROR: describe_internal_error(v, text, len); break;
    default: snprintf(text, len, "unknown KVM exit %u", run->exit_reason); break;
    }
    ret_exit->reason = ENGINE_EXIT_ERROR;
    return true;
}

/* ---- run ---- */

static void enter_run(struct engine_vcpu *v)
{
    sigset_t kick;

    sigemptyset(&kick);
    sigaddset(&kick, KVM_KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
    pthread_mutex_lock(&v->lock);
    v->thread = pthread_self();
    v->in_run = true;
    pthread_mutex_unlock(&v->lock);
    if (v->stats.first_instruction_ns == 0) {
        v->stats.first_instruction_ns = clock_now_ns();
    }
    if (v->vm->host.pv_time_ns != NULL && atomic_exchange(&v->vm->clock_stale, false)) {
        struct kvm_clock_data clock = {.clock = v->vm->host.pv_time_ns(v->vm->host.opaque)};
        kvm_ioctl(v->vm->fd, KVM_SET_CLOCK, &clock);
    }
}

static void leave_run(struct engine_vcpu *v)
{
    pthread_mutex_lock(&v->lock);
    v->in_run = false;
    pthread_mutex_unlock(&v->lock);
}

void kvm_vcpu_run(struct engine_vcpu *v, struct engine_exit_info *ret_exit)
{
    enter_run(v);
    for (;;) {
        if (atomic_load_explicit(&v->nmi, memory_order_relaxed) &&
            atomic_exchange(&v->nmi, false)) {
            kvm_ioctl_n(v->fd, KVM_NMI, 0);
        }
        if (ioctl(v->fd, KVM_RUN, 0) == 0) {
            if (handle_exit(v, ret_exit)) {
                break;
            }
            continue;
        }
        int e = errno;
        if (e == EAGAIN) {
            continue; /* a start-up message took a waiting CPU to its first instruction */
        }
        if (e != EINTR) {
            ret_exit->reason = ENGINE_EXIT_ERROR;
            snprintf(ret_exit->text, sizeof(ret_exit->text), "KVM_RUN: %s", strerror(e));
            break;
        }
        /* Cleared before kicked is read: a kick that comes between is seen, or sets it again.
         */
        __atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        if (atomic_exchange(&v->kicked, false)) {
            kvm_count(&v->stats.exits_kick);
            ret_exit->reason = ENGINE_EXIT_KICK;
            ret_exit->text[0] = '\0';
            break;
        }
    }
    leave_run(v);
}

static void interrupt_run(struct engine_vcpu *v)
{
    __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_lock(&v->lock);
    if (v->in_run) {
        pthread_kill(v->thread, KVM_KICK_SIGNAL);
    }
    pthread_mutex_unlock(&v->lock);
}

void kvm_vcpu_kick(struct engine_vcpu *v)
{
    atomic_store(&v->kicked, true);
    interrupt_run(v);
}

void kvm_vcpu_signal(struct engine_vcpu *v, enum engine_signal sig, uint8_t vector)
{
    (void)vector;
    switch (sig) {
    case ENGINE_SIG_NMI:
        atomic_store(&v->nmi, true);
        interrupt_run(v);
        break;
    case ENGINE_SIG_IRQ:
    case ENGINE_SIG_INIT:
    case ENGINE_SIG_SIPI: break; /* between the kernel's own local APICs */
    }
}

void kvm_vcpu_get_stats(const struct engine_vcpu *v, struct engine_stats *ret_stats)
{
    const struct engine_stats *s = &v->stats;
    *ret_stats = (struct engine_stats){
        .first_instruction_ns = __atomic_load_n(&s->first_instruction_ns, __ATOMIC_RELAXED),
        .exits_pio = __atomic_load_n(&s->exits_pio, __ATOMIC_RELAXED),
        .exits_mmio = __atomic_load_n(&s->exits_mmio, __ATOMIC_RELAXED),
        .exits_halt = __atomic_load_n(&s->exits_halt, __ATOMIC_RELAXED),
        .exits_kick = __atomic_load_n(&s->exits_kick, __ATOMIC_RELAXED),
        .exits_other = __atomic_load_n(&s->exits_other, __ATOMIC_RELAXED),
        .engine_bytes = sizeof(*v) + v->vm->run_bytes + v->vm->xsave_bytes,
    };
}
