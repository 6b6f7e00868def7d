/*
 * System instructions: control and debug registers, caches and TLB, identification, time, model
 * specific registers, fast system calls, FS/GS bases. SDM vol. 2; AMD APM vol. 2 6.1, vol. 3
 * for what differs there (model->is_amd). vCPU thread, no lock.
 *
 * Missing: system management mode (RSM is #UD), MONITOR/MWAIT (hidden from CPUID, #UD).
 */
#include "cpu/soft/sysinsn.h"

#include "cpu/soft/cr.h"
#include "cpu/soft/mode.h"
#include "cpu/soft/msr.h"
#include "cpu/soft/seg.h"

#include <sys/syscall.h>

#define MSR_FS_BASE UINT32_C(0xc0000100) /* then GS, and GS of the kernel */

#define DR6_BD    UINT64_C(0x2000)
#define DR6_FIXED UINT64_C(0xffff0ff0)
#define DR6_KEEP  UINT64_C(0x0000e00f)
#define DR7_GD    UINT64_C(0x2000)
#define DR7_FIXED UINT64_C(0x400)
#define DR7_KEEP  UINT64_C(0xffff23ff)

static int need_cpl0(struct scpu *c)
{
    return c->cpl != 0 ? soft_raise_err(c, EXC_GP, 0) : 0;
}

/* ---- control and debug registers ---- */

static unsigned cr_size(const struct scpu *c)
{
    return soft_code64(c) ? 8 : 4;
}

enum insn_result soft_insn_mov_from_cr(struct scpu *c, const struct insn *in)
{
    uint64_t v;

    if (in->reg > 8 || in->reg == 1 || (in->reg > 4 && in->reg < 8)) {
        return soft_raise(c, EXC_UD);
    }
    if (need_cpl0(c)) {
        return INSN_EXC;
    }
    if (in->reg == 8) {
        soft_leave(c);
        v = c->vm->host.cr8_read ? c->vm->host.cr8_read(c->vm->host.opaque, c->index) : 0;
    } else {
        v = in->reg == 0 ? c->cr0 : in->reg == 2 ? c->cr2 : in->reg == 3 ? c->cr3 : c->cr4;
    }
    soft_reg_set(c, in->rm, cr_size(c), v);
    return INSN_NEXT;
}

static int write_cr8(struct scpu *c, uint64_t v)
{
    if (v > 15) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    soft_leave(c);
    if (c->vm->host.cr8_write) {
        c->vm->host.cr8_write(c->vm->host.opaque, c->index, v);
    }
    return 0;
}

enum insn_result soft_insn_mov_to_cr(struct scpu *c, const struct insn *in)
{
    uint64_t v = soft_reg_get(c, in->rm, cr_size(c));
    int rc = 0;

    if (in->reg > 8 || in->reg == 1 || (in->reg > 4 && in->reg < 8)) {
        return soft_raise(c, EXC_UD);
    }
    if (need_cpl0(c)) {
        return INSN_EXC;
    }
    switch (in->reg) {
    case 0: rc = cr_write_cr0(c, v); break;
    case 2: c->cr2 = v; break;
    case 3: rc = cr_write_cr3(c, v); break;
    case 4: rc = cr_write_cr4(c, v); break;
    case 8: rc = write_cr8(c, v); break;
    }
    return rc ? INSN_EXC : INSN_NEXT_FLUSH;
}

/* The debug register that the instruction names, or -1 with a fault raised. */
static int debug_reg(struct scpu *c, const struct insn *in)
{
    unsigned n = in->reg;

    if (n > 7 || ((n == 4 || n == 5) && (c->cr4 & CR4_DE))) {
        soft_raise(c, EXC_UD);
        return -1;
    }
    if (need_cpl0(c)) {
        return -1;
    }
    if (c->dr[7] & DR7_GD) {
        c->pending_db |= DR6_BD;
        soft_raise(c, EXC_DB);
        return -1;
    }
    return (int)(n == 4 || n == 5 ? n + 2 : n);
}

enum insn_result soft_insn_mov_from_dr(struct scpu *c, const struct insn *in)
{
    int n = debug_reg(c, in);

    if (n < 0) {
        return INSN_EXC;
    }
    soft_reg_set(c, in->rm, cr_size(c), c->dr[n]);
    return INSN_NEXT;
}

enum insn_result soft_insn_mov_to_dr(struct scpu *c, const struct insn *in)
{
    uint64_t v = soft_reg_get(c, in->rm, cr_size(c));
    int n = debug_reg(c, in);

    if (n < 0) {
        return INSN_EXC;
    }
    if (n >= 6 && v >> 32) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    if (n == 6) {
        v = (v & DR6_KEEP) | DR6_FIXED;
    } else if (n == 7) {
        v = (v & DR7_KEEP) | DR7_FIXED;
    }
    c->dr[n] = v;
    soft_update_mode(c);
    return INSN_NEXT_FLUSH;
}

enum insn_result soft_insn_clts(struct scpu *c, const struct insn *in)
{
    (void)in;
    if (need_cpl0(c)) {
        return INSN_EXC;
    }
    c->cr0 &= ~(uint64_t)CR0_TS;
    soft_update_mode(c);
    return INSN_NEXT_FLUSH;
}

/* ---- TLB and caches ---- */

enum insn_result soft_insn_invlpg(struct scpu *c, const struct insn *in)
{
    uint64_t va = c->seg_base[in->seg] + soft_ea(c, in);

    if (!in->is_mem) {
        return soft_raise(c, EXC_UD);
    }
    if (need_cpl0(c)) {
        return INSN_EXC;
    }
    va = soft_code64(c) ? va : (uint32_t)va;
    if (soft_canonical(c, va)) {
        soft_tlb_flush_page(c, va);
    }
    return INSN_NEXT_FLUSH;
}

enum { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL_GLOBAL, INVPCID_ALL };

enum insn_result soft_insn_invpcid(struct scpu *c, const struct insn *in)
{
    uint64_t type = soft_reg_get(c, in->reg, cr_size(c));
    uint64_t va, d[2];

    if (!in->is_mem || !cpu_model_has(c->vm->model, 7, 0, 1, 10) || seg_is_vm86(c)) {
        return soft_raise(c, EXC_UD);
    }
    if (need_cpl0(c) || soft_operand_linear(c, in, 16, false, &va) ||
        soft_lin_read(c, va, d, sizeof(d), ACC_READ)) {
        return INSN_EXC;
    }
    bool one = type == INVPCID_ADDRESS || type == INVPCID_CONTEXT;
    if (type > INVPCID_ALL || d[0] >> 12 || (one && d[0] && !(c->cr4 & CR4_PCIDE)) ||
        (type == INVPCID_ADDRESS && !soft_canonical(c, d[1]))) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    if (type == INVPCID_ADDRESS) {
        soft_tlb_flush_page(c, d[1]);
    } else if (type == INVPCID_ALL_GLOBAL) {
        soft_tlb_flush_all(c);
    } else {
        soft_tlb_flush_nonglobal(c);
    }
    return INSN_NEXT_FLUSH;
}

enum insn_result soft_insn_invd(struct scpu *c, const struct insn *in)
{
    (void)in;
    return need_cpl0(c) ? INSN_EXC : INSN_NEXT_FLUSH;
}

enum insn_result soft_insn_wbinvd(struct scpu *c, const struct insn *in)
{
    (void)in;
    return need_cpl0(c) ? INSN_EXC : INSN_NEXT_FLUSH;
}

enum insn_result soft_insn_clflush(struct scpu *c, const struct insn *in)
{
    uint64_t va;

    if (!in->is_mem) {
        return soft_raise(c, EXC_UD);
    }
    if (soft_operand_linear(c, in, 1, false, &va) ||
        soft_lin_probe(c, va, 1, seg_acc(c) | ACC_PROBE)) {
        return INSN_EXC;
    }
    return INSN_NEXT;
}

enum insn_result soft_insn_prefetch(struct scpu *c, const struct insn *in)
{
    (void)c;
    (void)in;
    return INSN_NEXT;
}

/* ---- waiting ---- */

enum insn_result soft_insn_hlt(struct scpu *c, const struct insn *in)
{
    (void)in;
    if (need_cpl0(c)) {
        return INSN_EXC;
    }
    c->halted = true;
    return INSN_NEXT_FLUSH;
}

static void yield_host_cpu(void)
{
    long r = SYS_sched_yield;
    __asm__ volatile("syscall" : "+a"(r) : : "rcx", "r11", "memory");
}

/* A CPU that spins may be waiting for one whose thread has no host CPU: let it have this one.
 */
#define PAUSES_BEFORE_YIELD 32

enum insn_result soft_insn_pause(struct scpu *c, const struct insn *in)
{
    (void)in;
    if (c->vm->n_cpus > 1 && ++c->pauses % PAUSES_BEFORE_YIELD == 0) {
        yield_host_cpu();
    }
    return INSN_NEXT;
}

/*
 * MONITOR and MWAIT are hints, and not offered by CPUID. A kernel that executes them all the
 * same goes on at once: returning early is allowed, and nothing here could watch the address.
 */
enum insn_result soft_insn_monitor(struct scpu *c, const struct insn *in)
{
    uint64_t va, off = soft_reg_get(c, X86_RAX, in->asize);
    uint64_t value;

    if (c->cpl != 0) {
        return (enum insn_result)soft_raise(c, EXC_UD);
    }
    if ((uint32_t)c->gpr[X86_RCX] != 0) {
        return (enum insn_result)soft_raise_err(c, EXC_GP, 0);
    }
    if (soft_seg_linear(c, (enum x86_seg)in->seg, off, 1, false, &va) ||
        soft_ld(c, va, 1, 0, &value)) {
        return INSN_EXC;
    }
    return INSN_NEXT;
}

enum insn_result soft_insn_mwait(struct scpu *c, const struct insn *in)
{
    (void)in;
    if (c->cpl != 0) {
        return (enum insn_result)soft_raise(c, EXC_UD);
    }
    if (c->gpr[X86_RCX] & ~UINT64_C(1)) {
        return (enum insn_result)soft_raise_err(c, EXC_GP, 0);
    }
    yield_host_cpu();
    return INSN_NEXT_FLUSH;
}

enum insn_result soft_insn_rsm(struct scpu *c, const struct insn *in)
{
    (void)in;
    return soft_raise(c, EXC_UD);
}

/* ---- identification and time ---- */

static void put32(struct scpu *c, enum x86_reg reg, uint64_t value)
{
    c->gpr[reg] = (uint32_t)value;
}

/* EDX:EAX, upper halves cleared. */
static void put_edx_eax(struct scpu *c, uint64_t value)
{
    put32(c, X86_RAX, value);
    put32(c, X86_RDX, value >> 32);
}

static uint64_t get_edx_eax(const struct scpu *c)
{
    return (uint32_t)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32;
}

enum insn_result soft_insn_cpuid(struct scpu *c, const struct insn *in)
{
    struct cpu_model_live live = {
        .apic_id = c->index, .cr4 = c->cr4, .xcr0 = c->xcr0, .apic_base = c->cold->apic_base};
    uint32_t r[4];

    (void)in;
    cpu_model_cpuid(c->vm->model, &live, (uint32_t)c->gpr[X86_RAX], (uint32_t)c->gpr[X86_RCX],
                    r);
    put32(c, X86_RAX, r[0]);
    put32(c, X86_RBX, r[1]);
    put32(c, X86_RCX, r[2]);
    put32(c, X86_RDX, r[3]);
    return INSN_NEXT_FLUSH; /* serialises: what follows is looked at anew */
}

static bool tsc_hidden(const struct scpu *c)
{
    return (c->cr4 & CR4_TSD) && c->cpl != 0;
}

enum insn_result soft_insn_rdtsc(struct scpu *c, const struct insn *in)
{
    (void)in;
    if (tsc_hidden(c)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    put_edx_eax(c, soft_rdtsc(c));
    return INSN_NEXT;
}

enum insn_result soft_insn_rdtscp(struct scpu *c, const struct insn *in)
{
    (void)in;
    if (!cpu_model_has(c->vm->model, 0x80000001u, 0, 3, 27)) {
        return soft_raise(c, EXC_UD);
    }
    if (tsc_hidden(c)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    put_edx_eax(c, soft_rdtsc(c));
    put32(c, X86_RCX, c->tsc_aux);
    return INSN_NEXT;
}

enum insn_result soft_insn_rdpid(struct scpu *c, const struct insn *in)
{
    if (!cpu_model_has(c->vm->model, 7, 0, 2, 22)) {
        return soft_raise(c, EXC_UD);
    }
    soft_reg_set(c, in->rm, cr_size(c), c->tsc_aux);
    return INSN_NEXT;
}

enum insn_result soft_insn_rdpmc(struct scpu *c, const struct insn *in)
{
    (void)in;
    /* There are no counters, so every index is out of range. */
    return soft_raise_err(c, EXC_GP, 0);
}

enum insn_result soft_insn_rdmsr(struct scpu *c, const struct insn *in)
{
    uint64_t v;

    (void)in;
    if (need_cpl0(c)) {
        return INSN_EXC;
    }
    if (msr_read(c, (uint32_t)c->gpr[X86_RCX], &v)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    put_edx_eax(c, v);
    return INSN_NEXT;
}

enum insn_result soft_insn_wrmsr(struct scpu *c, const struct insn *in)
{
    (void)in;
    if (need_cpl0(c)) {
        return INSN_EXC;
    }
    if (msr_write(c, (uint32_t)c->gpr[X86_RCX], get_edx_eax(c))) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    /* The bases of FS and GS are read where they are used; other MSRs may change how the code
     * that follows runs, or make an interrupt due. */
    return (uint32_t)c->gpr[X86_RCX] - MSR_FS_BASE <= 2 ? INSN_NEXT : INSN_NEXT_FLUSH;
}

enum insn_result soft_insn_xgetbv(struct scpu *c, const struct insn *in)
{
    uint32_t index = (uint32_t)c->gpr[X86_RCX];

    (void)in;
    if (!(c->cr4 & CR4_OSXSAVE)) {
        return soft_raise(c, EXC_UD);
    }
    if (index == 0) {
        put_edx_eax(c, c->xcr0);
        return INSN_NEXT;
    }
    if (index == 1 && cpu_model_has(c->vm->model, 0xd, 1, 0, 2)) {
        uint64_t in_use;

        soft_leave(c);
        __builtin_memcpy(&in_use, c->xsave + 512, sizeof(in_use)); /* XSTATE_BV */
        put_edx_eax(c, in_use & c->xcr0);
        return INSN_NEXT;
    }
    return soft_raise_err(c, EXC_GP, 0);
}

enum insn_result soft_insn_xsetbv(struct scpu *c, const struct insn *in)
{
    (void)in;
    if (!(c->cr4 & CR4_OSXSAVE)) {
        return soft_raise(c, EXC_UD);
    }
    if (c->cpl != 0 || (uint32_t)c->gpr[X86_RCX] != 0) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    return cr_write_xcr0(c, get_edx_eax(c)) ? INSN_EXC : INSN_NEXT_FLUSH;
}

/* ---- hypercalls ---- */

#define KVM_ENOSYS UINT64_C(1000) /* KVM's own error numbers: asm/kvm_para.h */

static enum insn_result hypercall(struct scpu *c)
{
    if (!cpu_model_has(c->vm->model, 1, 0, 2, 31)) {
        return soft_raise(c, EXC_UD);
    }
    if (c->cpl != 0) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    /* None of the optional calls is offered in the feature leaf. */
    soft_reg_set(c, X86_RAX, cr_size(c), 0 - KVM_ENOSYS);
    return INSN_NEXT;
}

enum insn_result soft_insn_vmcall(struct scpu *c, const struct insn *in)
{
    (void)in;
    return hypercall(c);
}

enum insn_result soft_insn_vmmcall(struct scpu *c, const struct insn *in)
{
    (void)in;
    return hypercall(c);
}

/* ---- AC ---- */

static enum insn_result set_ac(struct scpu *c, bool ac)
{
    uint32_t mode = c->mode;

    if (c->cpl != 0 || !(c->cr0 & CR0_PE) || !cpu_model_has(c->vm->model, 7, 0, 1, 20)) {
        return soft_raise(c, EXC_UD);
    }
    /* At privilege 0 AC says nothing but whether SMAP is in force. */
    c->sysflags = ac ? c->sysflags | FL_AC : c->sysflags & ~FL_AC;
    mode_choose_tlb(c);
    return c->mode == mode ? INSN_NEXT : INSN_NEXT_FLUSH;
}

enum insn_result soft_insn_clac(struct scpu *c, const struct insn *in)
{
    (void)in;
    return set_ac(c, false);
}

enum insn_result soft_insn_stac(struct scpu *c, const struct insn *in)
{
    (void)in;
    return set_ac(c, true);
}

/* ---- FS and GS bases ---- */

enum insn_result soft_insn_swapgs(struct scpu *c, const struct insn *in)
{
    (void)in;
    if (!soft_code64(c)) {
        return soft_raise(c, EXC_UD);
    }
    if (need_cpl0(c)) {
        return INSN_EXC;
    }
    uint64_t base = c->seg[X86_GS].base;
    c->seg[X86_GS].base = c->kernel_gs_base;
    c->seg_base[X86_GS] = c->kernel_gs_base;
    c->kernel_gs_base = base;
    return INSN_NEXT;
}

static enum insn_result read_base(struct scpu *c, const struct insn *in, enum x86_seg seg)
{
    if (!soft_code64(c) || !(c->cr4 & CR4_FSGSBASE)) {
        return soft_raise(c, EXC_UD);
    }
    soft_reg_set(c, in->rm, in->osize == 8 ? 8 : 4, c->seg[seg].base);
    return INSN_NEXT;
}

static enum insn_result write_base(struct scpu *c, const struct insn *in, enum x86_seg seg)
{
    uint64_t v = soft_reg_get(c, in->rm, in->osize == 8 ? 8 : 4);

    if (!soft_code64(c) || !(c->cr4 & CR4_FSGSBASE)) {
        return soft_raise(c, EXC_UD);
    }
    if (!soft_canonical(c, v)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    c->seg[seg].base = v;
    c->seg_base[seg] = v;
    return INSN_NEXT;
}

enum insn_result soft_insn_rdfsbase(struct scpu *c, const struct insn *in)
{
    return read_base(c, in, X86_FS);
}

enum insn_result soft_insn_rdgsbase(struct scpu *c, const struct insn *in)
{
    return read_base(c, in, X86_GS);
}

enum insn_result soft_insn_wrfsbase(struct scpu *c, const struct insn *in)
{
    return write_base(c, in, X86_FS);
}

enum insn_result soft_insn_wrgsbase(struct scpu *c, const struct insn *in)
{
    return write_base(c, in, X86_GS);
}
