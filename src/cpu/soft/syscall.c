/*
 * Fast system calls: SYSCALL, SYSRET, SYSENTER, SYSEXIT. SDM vol. 2B, vol. 3A 5.8.7-5.8.8; AMD
 * APM vol. 2 6.1. These load flat segments without reading descriptors. vCPU thread, no lock.
 *
 * Vendors: Intel has SYSCALL and SYSRET in 64-bit mode only and checks SYSRET's target; AMD has
 * them in every protected mode, does not check, and has no SYSENTER in long mode. After SYSRET
 * SS is a flat segment here, also on AMD (which would keep the hidden part as it was).
 */
#include "cpu/soft/mode.h"
#include "cpu/soft/seg.h"
#include "cpu/soft/sysinsn.h"

#define ATTR_CODE64  0xa9bu /* present, DPL 0, accessed readable code, L, G */
#define ATTR_CODE32  0xc9bu
#define ATTR_DATA    0xc93u
#define ATTR_DPL3    0x060u
#define SYSRET_FLAGS UINT64_C(0x3c7fd7)

static void set_flat(struct vcpu_seg *s, uint64_t sel, unsigned attr)
{
    s->sel = (uint16_t)sel;
    s->attr = (uint16_t)attr;
    s->limit = 0xffffffffu;
    s->base = 0;
}

static void enter_kernel(struct scpu *c, uint64_t cs, bool code64)
{
    cs &= 0xfffc;
    set_flat(&c->seg[X86_CS], cs, code64 ? ATTR_CODE64 : ATTR_CODE32);
    set_flat(&c->seg[X86_SS], cs + 8, ATTR_DATA);
    c->cpl = 0;
}

static void enter_user(struct scpu *c, uint64_t cs, uint64_t ss, bool code64)
{
    set_flat(&c->seg[X86_CS], cs | 3, (code64 ? ATTR_CODE64 : ATTR_CODE32) | ATTR_DPL3);
    set_flat(&c->seg[X86_SS], ss | 3, ATTR_DATA | ATTR_DPL3);
    c->cpl = 3;
}

static bool syscall_exists(const struct scpu *c)
{
    if (!(c->efer & EFER_SCE) || !(c->cr0 & CR0_PE) || seg_is_vm86(c)) {
        return false;
    }
    return soft_code64(c) || c->vm->model->is_amd;
}

enum insn_result soft_insn_syscall(struct scpu *c, const struct insn *in)
{
    uint64_t rflags = soft_get_rflags(c) & ~FL_RF;

    (void)in;
    if (!syscall_exists(c)) {
        return soft_raise(c, EXC_UD);
    }
    c->gpr[X86_RCX] = soft_code64(c) ? c->next_rip : (uint32_t)c->next_rip;
    if (soft_long_mode(c)) {
        c->rip = soft_code64(c) ? c->lstar : c->cstar;
        c->gpr[X86_R11] = rflags;
        rflags &= ~c->sfmask | FL_1;
    } else {
        c->rip = (uint32_t)c->star;
        rflags &= ~(FL_VM | FL_IF);
    }
    enter_kernel(c, c->star >> 32, soft_long_mode(c));
    c->step_rule = STEP_TF_AFTER;
    mode_set_rflags(c, rflags);
    return INSN_JUMP;
}

enum insn_result soft_insn_sysret(struct scpu *c, const struct insn *in)
{
    bool to64 = soft_long_mode(c) && in->osize == 8;
    uint64_t sel = c->star >> 48;
    uint64_t rip = to64 ? c->gpr[X86_RCX] : (uint32_t)c->gpr[X86_RCX];

    if (!syscall_exists(c)) {
        return soft_raise(c, EXC_UD);
    }
    if (c->cpl != 0 || (!soft_canonical(c, rip) && !c->vm->model->is_amd)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    uint64_t rflags = soft_long_mode(c) ? (c->gpr[X86_R11] & SYSRET_FLAGS) | FL_1
                                        : soft_get_rflags(c) | FL_IF;
    enter_user(c, to64 ? sel + 16 : sel, sel + 8, to64);
    c->rip = rip;
    c->step_rule = STEP_TF_AFTER;
    mode_set_rflags(c, rflags);
    return INSN_JUMP;
}

/* #UD or #GP(0) where SYSENTER and SYSEXIT cannot be used. */
static int check_sysenter(struct scpu *c)
{
    if (!cpu_model_has(c->vm->model, 1, 0, 3, 11) ||
        (c->vm->model->is_amd && soft_long_mode(c))) {
        return soft_raise(c, EXC_UD);
    }
    if (!(c->cr0 & CR0_PE) || !(c->sysenter_cs & 0xfffc)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    return 0;
}

enum insn_result soft_insn_sysenter(struct scpu *c, const struct insn *in)
{
    bool lma = soft_long_mode(c);

    (void)in;
    if (check_sysenter(c)) {
        return INSN_EXC;
    }
    enter_kernel(c, c->sysenter_cs, lma);
    c->gpr[X86_RSP] = lma ? c->sysenter_esp : (uint32_t)c->sysenter_esp;
    c->rip = lma ? c->sysenter_eip : (uint32_t)c->sysenter_eip;
    soft_set_rflags(c, soft_get_rflags(c) & ~(FL_VM | FL_IF | FL_RF));
    return INSN_JUMP;
}

enum insn_result soft_insn_sysexit(struct scpu *c, const struct insn *in)
{
    bool to64 = soft_long_mode(c) && in->osize == 8;
    uint64_t rip = c->gpr[X86_RDX], rsp = c->gpr[X86_RCX];
    uint64_t cs = c->sysenter_cs & 0xfffc;

    if (check_sysenter(c)) {
        return INSN_EXC;
    }
    if (c->cpl != 0 || (to64 && (!soft_canonical(c, rip) || !soft_canonical(c, rsp)))) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    enter_user(c, to64 ? cs + 32 : cs + 16, to64 ? cs + 40 : cs + 24, to64);
    c->gpr[X86_RSP] = to64 ? rsp : (uint32_t)rsp;
    c->rip = to64 ? rip : (uint32_t)rip;
    soft_update_mode(c);
    return INSN_JUMP;
}
