/*
 * Whether KVM is there, runs our code, and how fast: a loop of loads, arithmetic and a branch,
 * in long mode on identity page tables, once at CPL 0 and once at CPL 3; it ends by a port
 * write. A short round tells how long the longer one may be, so that a host that emulates is
 * found out in about a millisecond. Everything is of this probe's own VM; it has no interrupt
 * controller.
 *
 * Closing a VM can take the kernel 15 ms, with nobody waiting for it: a thread does it.
 */
#include "cpu/kvm/kvm_priv.h"

#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define PROBE_BYTES (UINT64_C(64) * KIB)
#define PROBE_CODE  0x1000u
#define PROBE_PML4  0x2000u
#define PROBE_PORT  0xf4

#define SHORT_LOOPS 100u
#define LONG_LOOPS  400000u
#define FAST_NS     150000u /* a short round below this calls for a long one */
#define SHORT_TRIES 3 /* the first is cold, and the host may have had something else to do */

/* 1: add rax,[rbx]; xor rdx,rax; dec ecx; jnz 1b; out 0xf4,al; jmp $ */
static const uint8_t code[] = {0x48, 0x03, 0x03, 0x48, 0x31, 0xc2, 0xff,
                               0xc9, 0x75, 0xf6, 0xe6, 0xf4, 0xeb, 0xfe};
#define LOOP_INSNS 4u

struct probe {
    int kvm_fd, vm_fd, vcpu_fd;
    size_t run_bytes;
    struct kvm_run *run;
    uint8_t *ram;
};

static int probe_setup(struct probe *p, struct err *err)
{
    int r = kvm_open(&p->kvm_fd, err);
    if (r < 0) {
        return r;
    }
    p->ram =
        mmap(NULL, PROBE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->ram == MAP_FAILED) {
        return ERR(err, NO_MEMORY, errno, "no memory for the probe");
    }
    p->vm_fd = kvm_ioctl_n(p->kvm_fd, KVM_CREATE_VM, 0);
    if (p->vm_fd < 0) {
        return ERR(err, ENGINE, -p->vm_fd, "cannot create a VM: %s", strerror(-p->vm_fd));
    }
    struct kvm_userspace_memory_region region = {.memory_size = PROBE_BYTES,
                                                 .userspace_addr = (uintptr_t)p->ram};
    r = kvm_ioctl_n(p->vm_fd, KVM_SET_TSS_ADDR, 0xfeffd000);
    r = r < 0 ? r : kvm_ioctl(p->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
    p->vcpu_fd = r < 0 ? r : kvm_ioctl_n(p->vm_fd, KVM_CREATE_VCPU, 0);
    r = p->vcpu_fd < 0 ? p->vcpu_fd : kvm_ioctl_n(p->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (r < (int)sizeof(struct kvm_run)) {
        r = r < 0 ? r : -EINVAL;
        return ERR(err, ENGINE, -r, "cannot create a vCPU: %s", strerror(-r));
    }
    p->run_bytes = (size_t)r;
    p->run = mmap(NULL, p->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu_fd, 0);
    if (p->run == MAP_FAILED) {
        return ERR(err, ENGINE, errno, "cannot map a vCPU: %s", strerror(errno));
    }
    const uint64_t pml4e = (PROBE_PML4 + 0x1000) | 7, pdpte = (PROBE_PML4 + 0x2000) | 7,
                   pde = 0x87;
    memcpy(p->ram + PROBE_CODE, code, sizeof(code));
    memcpy(p->ram + PROBE_PML4, &pml4e, 8);
    memcpy(p->ram + PROBE_PML4 + 0x1000, &pdpte, 8);
    memcpy(p->ram + PROBE_PML4 + 0x2000, &pde, 8);
    return 0;
}

static int set_long_mode(struct probe *p, bool user, uint32_t loops)
{
    struct kvm_sregs s;
    struct kvm_regs regs = {.rip = PROBE_CODE,
                            .rflags = 2 | (user ? 0x3000u : 0), /* IOPL 3: may write the port */
                            .rbx = 0x100,
                            .rcx = loops};
    const uint8_t dpl = user ? 3 : 0;
    int r = kvm_ioctl(p->vcpu_fd, KVM_GET_SREGS, &s);
    if (r < 0) {
        return r;
    }
    s.cr0 = 0x80000031; /* PG, NE, ET, PE */
    s.cr3 = PROBE_PML4;
    s.cr4 = 0x20;   /* PAE */
    s.efer = 0x500; /* LMA, LME */
    s.cs = (struct kvm_segment){.limit = UINT32_MAX,
                                .selector = 8 | dpl,
                                .type = 0xb,
                                .present = 1,
                                .dpl = dpl,
                                .s = 1,
                                .l = 1,
                                .g = 1};
    struct kvm_segment data = s.cs;
    data.selector = 16 | dpl;
    data.type = 3;
    data.l = 0;
    data.db = 1;
    s.ds = s.es = s.ss = s.fs = s.gs = data;
    s.tr.type = 0xb;
    s.tr.present = 1;
    s.tr.s = 0;
    r = kvm_ioctl(p->vcpu_fd, KVM_SET_SREGS, &s);
    return r < 0 ? r : kvm_ioctl(p->vcpu_fd, KVM_SET_REGS, &regs);
}

/* Nanoseconds of one round; 0 and err when it did not end as it should. */
static uint64_t round_ns(struct probe *p, bool user, uint32_t loops, struct err *err)
{
    int r = set_long_mode(p, user, loops);
    if (r < 0) {
        ERR(err, ENGINE, -r, "cannot set a vCPU's state: %s", strerror(-r));
        return 0;
    }
    uint64_t start = clock_now_ns();
    r = kvm_ioctl_n(p->vcpu_fd, KVM_RUN, 0);
    uint64_t ns = clock_now_ns() - start;
    if (r < 0) {
        ERR(err, ENGINE, -r, "cannot run a vCPU: %s", strerror(-r));
        return 0;
    }
    if (p->run->exit_reason != KVM_EXIT_IO || p->run->io.port != PROBE_PORT) {
        ERR(err, ENGINE, EIO, "the probe's guest ended with exit %u instead of its port write",
            p->run->exit_reason);
        return 0;
    }
    return MAX(ns, 1u);
}

/* Guest instructions a second; 0 and err on failure. */
static double measure(struct probe *p, bool user, struct err *err)
{
    uint64_t short_ns = UINT64_MAX;
    for (int i = 0; i < SHORT_TRIES && short_ns > FAST_NS; i++) {
        uint64_t ns = round_ns(p, user, SHORT_LOOPS, err);
        if (ns == 0) {
            return 0;
        }
        short_ns = MIN(short_ns, ns);
    }
    if (short_ns > FAST_NS) {
        return (double)SHORT_LOOPS * LOOP_INSNS * 1e9 / (double)short_ns;
    }
    uint64_t long_ns = round_ns(p, user, LONG_LOOPS, err);
    if (long_ns == 0) {
        return 0;
    }
    return (double)LONG_LOOPS * LOOP_INSNS * 1e9 / (double)long_ns;
}

static void *close_probe(void *opaque)
{
    struct probe *p = opaque;
    if (p->run != MAP_FAILED) {
        munmap(p->run, p->run_bytes);
    }
    const int fds[] = {p->vcpu_fd, p->vm_fd, p->kvm_fd};
    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    if (p->ram != MAP_FAILED) {
        munmap(p->ram, PROBE_BYTES);
    }
    free(p);
    return NULL;
}

static void close_later(struct probe *p)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, old;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are not this thread's business */
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (p->vm_fd < 0 || pthread_create(&thread, &attr, close_probe, p) != 0) {
        close_probe(p);
    }
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void kvm_probe(struct engine_probe *ret_probe)
{
    struct err err = {.text = "no memory"};
    struct probe *p = malloc(sizeof(*p));

    *ret_probe = (struct engine_probe){.usable = false};
    if (p != NULL) {
        *p = (struct probe){
            .kvm_fd = -1, .vm_fd = -1, .vcpu_fd = -1, .run = MAP_FAILED, .ram = MAP_FAILED};
        if (probe_setup(p, &err) == 0) {
            ret_probe->supervisor_insn_per_s = measure(p, false, &err);
        }
        if (ret_probe->supervisor_insn_per_s > 0) {
            ret_probe->user_insn_per_s = measure(p, true, &err);
        }
        ret_probe->usable = ret_probe->user_insn_per_s > 0;
        close_later(p);
    }
    if (!ret_probe->usable) {
        ret_probe->supervisor_insn_per_s = 0;
        snprintf(ret_probe->why, sizeof(ret_probe->why), "%.199s", err.text);
    } else if (ret_probe->supervisor_insn_per_s * 10 < ret_probe->user_insn_per_s) {
        snprintf(ret_probe->why, sizeof(ret_probe->why),
                 "supervisor code is emulated: too slow to use, and some instructions fail");
    }
}
