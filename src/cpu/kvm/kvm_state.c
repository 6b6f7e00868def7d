/*
 * A vCPU's architectural state to and from KVM (api.rst; segments as in the VMCS). Called while
 * the vCPU is not in run, from any thread.
 *
 * Order of setting: what others depend on first (XCR0 before the XSAVE image, control registers
 * before MSRs, TSC offset before the deadline), events last, because setting registers drops
 * them. The local APIC's registers are not here: irqchip_save has them.
 *
 * Missing: system management mode and nested virtualization, which our CPU models do not offer.
 */
#include "cpu/kvm/kvm_priv.h"

#include "base/ckd.h"

#include <errno.h>
#include <string.h>

/* Not in the headers of older distributions. */
#ifndef KVM_VCPU_TSC_CTRL
#define KVM_VCPU_TSC_CTRL   0
#define KVM_VCPU_TSC_OFFSET 0
#endif

#define MSR_TSC         0x10
#define EVENT_NMI       2
#define FIRST_INTERRUPT 32 /* vectors below are exceptions */

/* ---- segments ---- */

static void seg_to_kvm(struct kvm_segment *k, const struct vcpu_seg *s)
{
    bool unusable = (s->attr & SEG_UNUSABLE) != 0;
    *k = (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->sel,
        .type = s->attr & SEG_TYPE,
        .s = (s->attr & SEG_S) != 0,
        .dpl = SEG_DPL(s->attr),
        .present = (s->attr & SEG_P) != 0 && !unusable,
        .avl = (s->attr & SEG_AVL) != 0,
        .l = (s->attr & SEG_L) != 0,
        .db = (s->attr & SEG_DB) != 0,
        .g = (s->attr & SEG_G) != 0,
        .unusable = unusable,
    };
}

static void seg_from_kvm(struct vcpu_seg *s, const struct kvm_segment *k)
{
    unsigned attr = k->type & 0xfu;
    attr |= k->s ? SEG_S : 0u;
    attr |= (k->dpl & 3u) << 5;
    attr |= k->present ? SEG_P : 0u;
    attr |= k->avl ? SEG_AVL : 0u;
    attr |= k->l ? SEG_L : 0u;
    attr |= k->db ? SEG_DB : 0u;
    attr |= k->g ? SEG_G : 0u;
    attr |= k->unusable || !k->present ? SEG_UNUSABLE : 0u;
    *s = (struct vcpu_seg){
        .sel = k->selector, .attr = (uint16_t)attr, .limit = k->limit, .base = k->base};
}

/* Where each segment lies in struct kvm_sregs, in the order of enum x86_seg. */
static struct kvm_segment *sregs_seg(struct kvm_sregs *k, enum x86_seg seg)
{
    switch (seg) {
    case X86_ES: return &k->es;
    case X86_CS: return &k->cs;
    case X86_SS: return &k->ss;
    case X86_DS: return &k->ds;
    case X86_FS: return &k->fs;
    case X86_GS:
    case X86_NSEG: break;
    }
    return &k->gs;
}

/* ---- general registers: KVM's order is the encoding's but for BX, BP, SP, SI, DI ---- */

static void regs_to_kvm(struct kvm_regs *k, const struct vcpu_state *s)
{
    const uint64_t *g = s->gpr;
    *k = (struct kvm_regs){
        .rax = g[X86_RAX],
        .rbx = g[X86_RBX],
        .rcx = g[X86_RCX],
        .rdx = g[X86_RDX],
        .rsi = g[X86_RSI],
        .rdi = g[X86_RDI],
        .rsp = g[X86_RSP],
        .rbp = g[X86_RBP],
        .r8 = g[X86_R8],
        .r9 = g[X86_R9],
        .r10 = g[X86_R10],
        .r11 = g[X86_R11],
        .r12 = g[X86_R12],
        .r13 = g[X86_R13],
        .r14 = g[X86_R14],
        .r15 = g[X86_R15],
        .rip = s->rip,
        .rflags = s->rflags,
    };
}

static void regs_from_kvm(struct vcpu_state *s, const struct kvm_regs *k)
{
    const uint64_t gpr[16] = {
        [X86_RAX] = k->rax, [X86_RBX] = k->rbx, [X86_RCX] = k->rcx, [X86_RDX] = k->rdx,
        [X86_RSI] = k->rsi, [X86_RDI] = k->rdi, [X86_RSP] = k->rsp, [X86_RBP] = k->rbp,
        [X86_R8] = k->r8,   [X86_R9] = k->r9,   [X86_R10] = k->r10, [X86_R11] = k->r11,
        [X86_R12] = k->r12, [X86_R13] = k->r13, [X86_R14] = k->r14, [X86_R15] = k->r15,
    };
    memcpy(s->gpr, gpr, sizeof(s->gpr));
    s->rip = k->rip;
    s->rflags = k->rflags;
}

static void sregs_from_kvm(struct vcpu_state *s, struct kvm_sregs *k)
{
    for (unsigned i = 0; i < X86_NSEG; i++) {
        seg_from_kvm(&s->seg[i], sregs_seg(k, (enum x86_seg)i));
    }
    seg_from_kvm(&s->tr, &k->tr);
    seg_from_kvm(&s->ldtr, &k->ldt);
    s->gdtr = (struct vcpu_dtable){.base = k->gdt.base, .limit = k->gdt.limit};
    s->idtr = (struct vcpu_dtable){.base = k->idt.base, .limit = k->idt.limit};
    s->cr0 = k->cr0;
    s->cr2 = k->cr2;
    s->cr3 = k->cr3;
    s->cr4 = k->cr4;
    s->cr8 = k->cr8;
    s->efer = k->efer;
    s->apic_base = k->apic_base;
}

static void sregs_to_kvm(struct kvm_sregs *k, const struct vcpu_state *s)
{
    memset(k, 0, sizeof(*k));
    for (unsigned i = 0; i < X86_NSEG; i++) {
        seg_to_kvm(sregs_seg(k, (enum x86_seg)i), &s->seg[i]);
    }
    seg_to_kvm(&k->tr, &s->tr);
    seg_to_kvm(&k->ldt, &s->ldtr);
    k->gdt.base = s->gdtr.base;
    k->gdt.limit = s->gdtr.limit;
    k->idt.base = s->idtr.base;
    k->idt.limit = s->idtr.limit;
    k->cr0 = s->cr0;
    k->cr2 = s->cr2;
    k->cr3 = s->cr3;
    k->cr4 = s->cr4;
    k->cr8 = s->cr8;
    k->efer = s->efer;
    k->apic_base = s->apic_base;
}

/* ---- events ---- */

static void events_from_kvm(struct vcpu_state *s, const struct kvm_vcpu_events *k)
{
    s->event_pending = s->event_vector = s->event_has_error = s->event_soft = 0;
    s->event_error = 0;
    if (k->exception.injected || k->exception.pending) {
        s->event_pending = 1;
        s->event_vector = k->exception.nr;
        s->event_has_error = k->exception.has_error_code != 0;
        s->event_error = k->exception.error_code;
    } else if (k->interrupt.injected) {
        s->event_pending = 1;
        s->event_vector = k->interrupt.nr;
    } else if (k->nmi.injected) {
        s->event_pending = 1;
        s->event_vector = EVENT_NMI;
    }
    s->nmi_pending = k->nmi.pending != 0;
    s->nmi_blocked = k->nmi.masked != 0;
    s->irq_shadow = k->interrupt.shadow & 3; /* KVM: MOV SS is bit 0, STI bit 1 */
    s->irq_shadow = (uint8_t)((s->irq_shadow >> 1) | ((s->irq_shadow & 1) << 1));
    s->sipi_vector = (uint8_t)k->sipi_vector;
}

static void events_to_kvm(struct kvm_vcpu_events *k, const struct vcpu_state *s)
{
    *k = (struct kvm_vcpu_events){
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW |
                 KVM_VCPUEVENT_VALID_SIPI_VECTOR,
        .nmi = {.pending = s->nmi_pending, .masked = s->nmi_blocked},
        .sipi_vector = s->sipi_vector,
    };
    k->interrupt.shadow = (uint8_t)(((s->irq_shadow & 1) << 1) | ((s->irq_shadow >> 1) & 1));
    if (!s->event_pending) {
        return;
    }
    if (s->event_soft) {
        return; /* RIP is still at the INT instruction: it runs again, as KVM does it too */
    }
    if (s->event_vector >= FIRST_INTERRUPT) {
        k->interrupt.injected = 1;
        k->interrupt.nr = s->event_vector;
    } else if (s->event_vector == EVENT_NMI) {
        k->nmi.injected = 1;
    } else {
        k->exception.injected = 1;
        k->exception.nr = s->event_vector;
        k->exception.has_error_code = s->event_has_error;
        k->exception.error_code = s->event_error;
    }
}

static uint32_t mp_from_kvm(uint32_t state)
{
    switch (state) {
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED: return VCPU_WAIT_SIPI;
    case KVM_MP_STATE_HALTED: return VCPU_HALTED;
    default: return VCPU_RUNNABLE;
    }
}

static uint32_t mp_to_kvm(uint32_t state)
{
    switch ((enum vcpu_mp_state)state) {
    case VCPU_HALTED: return KVM_MP_STATE_HALTED;
    case VCPU_WAIT_SIPI:
    case VCPU_INIT: return KVM_MP_STATE_INIT_RECEIVED;
    case VCPU_RUNNABLE: break;
    }
    return KVM_MP_STATE_RUNNABLE;
}

/* ---- time ---- */

static int tsc_offset_attr(const struct engine_vcpu *v, unsigned long request, int64_t *value)
{
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)value};
    return kvm_ioctl(v->fd, request, &attr);
}

static uint64_t host_tsc(void)
{
    return __builtin_ia32_rdtsc();
}

/* Kernels before 5.16 have no attribute for the offset; there it is good to a microsecond. */
static int get_tsc_offset(struct engine_vcpu *v, int64_t *ret_offset)
{
    uint64_t tsc;

    if (tsc_offset_attr(v, KVM_GET_DEVICE_ATTR, ret_offset) == 0) {
        return 0;
    }
    int r = kvm_msr_get_one(v, MSR_TSC, &tsc);
    if (r == 0) {
        *ret_offset = (int64_t)(tsc - host_tsc());
    }
    return r;
}

static int set_tsc_offset(struct engine_vcpu *v, int64_t offset)
{
    if (tsc_offset_attr(v, KVM_SET_DEVICE_ATTR, &offset) == 0) {
        return 0;
    }
    return kvm_msr_set_one(v, MSR_TSC, host_tsc() + (uint64_t)offset);
}

/* ---- vector state ---- */

static int get_xsave(struct engine_vcpu *v, struct vcpu_state *s)
{
    bool large = v->vm->xsave_bytes > sizeof(struct kvm_xsave);
    int r = kvm_ioctl(v->fd, large ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, v->xsave);
    uint32_t bytes = v->vm->model->xsave_bytes;
    if (r < 0) {
        return r;
    }
    s->xsave_bytes = bytes != 0 ? MIN(bytes, (uint32_t)VCPU_XSAVE_BYTES) : 576;
    memset(s->xsave, 0, sizeof(s->xsave));
    memcpy(s->xsave, v->xsave, s->xsave_bytes);
    return 0;
}

static int set_xsave(struct engine_vcpu *v, const struct vcpu_state *s)
{
    memset(v->xsave, 0, v->vm->xsave_bytes);
    memcpy(v->xsave, s->xsave, MIN(s->xsave_bytes, (uint32_t)VCPU_XSAVE_BYTES));
    return kvm_ioctl(v->fd, KVM_SET_XSAVE, v->xsave);
}

/* ---- all of it ---- */

int kvm_vcpu_get_state(struct engine_vcpu *v, struct vcpu_state *ret_state)
{
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_xcrs xcrs = {0};
    struct kvm_debugregs debug;
    struct kvm_vcpu_events events = {0};
    struct kvm_mp_state mp;
    struct vcpu_state *s = ret_state;

    memset(s, 0, sizeof(*s));
    int r = kvm_ioctl(v->fd, KVM_GET_MP_STATE, &mp); /* first: takes in what waits of INIT */
    r = r < 0 ? r : kvm_ioctl(v->fd, KVM_GET_REGS, &regs);
    r = r < 0 ? r : kvm_ioctl(v->fd, KVM_GET_SREGS, &sregs);
    r = r < 0 ? r : kvm_ioctl(v->fd, KVM_GET_XCRS, &xcrs);
    r = r < 0 ? r : kvm_ioctl(v->fd, KVM_GET_DEBUGREGS, &debug);
    r = r < 0 ? r : kvm_ioctl(v->fd, KVM_GET_VCPU_EVENTS, &events);
    r = r < 0 ? r : get_xsave(v, s);
    r = r < 0 ? r : kvm_msr_get(v, s);
    r = r < 0 ? r : get_tsc_offset(v, &s->tsc_offset);
    if (r < 0) {
        return r;
    }
    regs_from_kvm(s, &regs);
    sregs_from_kvm(s, &sregs);
    s->xcr0 = 1;
    for (uint32_t i = 0; i < MIN(xcrs.nr_xcrs, (uint32_t)KVM_MAX_XCRS); i++) {
        if (xcrs.xcrs[i].xcr == 0) {
            s->xcr0 = xcrs.xcrs[i].value;
        }
    }
    memcpy(s->dr, debug.db, sizeof(debug.db));
    s->dr[6] = debug.dr6;
    s->dr[7] = debug.dr7;
    events_from_kvm(s, &events);
    s->mp_state = mp_from_kvm(mp.mp_state);
    s->tsc_at_save = host_tsc() + (uint64_t)s->tsc_offset;
    return 0;
}

static int set_registers(struct engine_vcpu *v, const struct vcpu_state *s,
                         const char **ret_what)
{
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_xcrs xcrs = {.nr_xcrs = 1};
    struct kvm_debugregs debug = {.dr6 = s->dr[6], .dr7 = s->dr[7]};

    regs_to_kvm(&regs, s);
    sregs_to_kvm(&sregs, s);
    xcrs.xcrs[0].value = s->xcr0;
    memcpy(debug.db, s->dr, sizeof(debug.db));
    *ret_what = "control registers or segments";
    int r = kvm_ioctl(v->fd, KVM_SET_SREGS, &sregs);
    if (r == 0) {
        *ret_what = "general registers";
        r = kvm_ioctl(v->fd, KVM_SET_REGS, &regs);
    }
    if (r == 0 && v->vm->model->xcr0_mask != 0) {
        *ret_what = "XCR0";
        r = kvm_ioctl(v->fd, KVM_SET_XCRS, &xcrs);
    }
    if (r == 0) {
        *ret_what = "the XSAVE image";
        r = set_xsave(v, s);
    }
    if (r == 0) {
        *ret_what = "debug registers";
        r = kvm_ioctl(v->fd, KVM_SET_DEBUGREGS, &debug);
    }
    return r;
}

int kvm_vcpu_set_state(struct engine_vcpu *v, const struct vcpu_state *s, struct err *err)
{
    struct kvm_vcpu_events events;
    struct kvm_mp_state mp = {.mp_state = mp_to_kvm(s->mp_state)};
    const char *what = NULL;
    uint32_t msr = 0;

    if ((s->xcr0 & ~(v->vm->model->xcr0_mask | 1)) != 0) {
        return ERR(err, STATE_BAD, EINVAL,
                   "CPU %u: state with XCR0 0x%llx, the CPU model allows 0x%llx", v->index,
                   (unsigned long long)s->xcr0, (unsigned long long)v->vm->model->xcr0_mask);
    }
    int r = set_registers(v, s, &what);
    if (r == 0) {
        what = "the TSC";
        r = set_tsc_offset(v, s->tsc_offset);
    }
    v->tsc_deadline = s->tsc_deadline;
    if (r == 0) {
        what = NULL;
        r = kvm_msr_set(v, s, &msr);
    }
    if (r == 0) {
        what = "pending events";
        events_to_kvm(&events, s);
        r = kvm_ioctl(v->fd, KVM_SET_VCPU_EVENTS, &events);
    }
    if (r == 0) {
        what = "the multiprocessor state";
        r = kvm_ioctl(v->fd, KVM_SET_MP_STATE, &mp);
    }
    if (r < 0 && what == NULL) {
        return ERR(err, STATE_BAD, -r, "CPU %u: KVM refuses the value of MSR 0x%x", v->index,
                   msr);
    }
    if (r < 0) {
        return ERR(err, STATE_BAD, -r, "CPU %u: KVM refuses %s: %s", v->index, what,
                   strerror(-r));
    }
    atomic_store(&v->vm->clock_stale, true);
    return 0;
}
