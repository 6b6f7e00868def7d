/*
 * Far control transfers: JMP, CALL, RET and IRET between segments, modes, privilege levels and
 * tasks. SDM vol. 2A/2B of those instructions, vol. 3A 5.8, 20.1-20.3; AMD APM vol. 3 for far
 * operands with REX.W (AMD ignores it). vCPU thread, no lock.
 *
 * Everything is read and checked before a register changes. Shadow stacks are not modelled.
 */
#include "cpu/soft/mode.h"
#include "cpu/soft/seg.h"
#include "cpu/soft/sysinsn.h"

/* ---- shared by JMP and CALL ---- */

struct far {
    uint16_t sel;
    uint64_t off;
    unsigned osize; /* of what CALL pushes */
};

static int far_operand_imm(struct scpu *c, const struct insn *in, struct far *f)
{
    (void)c;
    f->sel = in->imm2;
    f->osize = in->osize;
    f->off = in->imm & seg_mask(in->osize);
    return 0;
}

static int far_operand_mem(struct scpu *c, const struct insn *in, struct far *f)
{
    /* AMD has no m16:64. */
    unsigned osize = in->osize == 8 && c->vm->model->is_amd ? 4 : in->osize;
    uint64_t va, sel;

    if (!in->is_mem) {
        return soft_raise(c, EXC_UD);
    }
    if (soft_operand_linear(c, in, osize + 2, false, &va) ||
        soft_ld(c, va, osize, seg_acc(c), &f->off) ||
        soft_ld(c, va + osize, 2, seg_acc(c), &sel)) {
        return INSN_EXC;
    }
    f->sel = (uint16_t)sel;
    f->osize = osize;
    return 0;
}

static enum insn_result jump_real(struct scpu *c, const struct far *f)
{
    if (f->off > c->seg[X86_CS].limit) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    seg_set_real(c, X86_CS, f->sel);
    c->rip = f->off;
    soft_update_mode(c);
    return INSN_JUMP;
}

/* Privilege rules for a code segment reached without a gate. */
static int check_direct(struct scpu *c, uint16_t sel, struct seg_desc d)
{
    unsigned dpl = DESC_DPL(d);
    bool ok = desc_is_conforming(d) ? dpl <= c->cpl : (sel & 3u) <= c->cpl && dpl == c->cpl;

    if (!ok) {
        return soft_raise_err(c, EXC_GP, seg_error(sel, 0));
    }
    if (!(d.hi & DESC_P)) {
        return soft_raise_err(c, EXC_NP, seg_error(sel, 0));
    }
    return 0;
}

/* Gate or TSS: usable by this CPL and RPL, and present. */
static int check_gate(struct scpu *c, uint16_t sel, struct seg_desc d)
{
    unsigned dpl = DESC_DPL(d);

    if (dpl < c->cpl || dpl < (sel & 3u)) {
        return soft_raise_err(c, EXC_GP, seg_error(sel, 0));
    }
    if (!(d.hi & DESC_P)) {
        return soft_raise_err(c, EXC_NP, seg_error(sel, 0));
    }
    return 0;
}

/* A call gate's destination. */
struct call_gate {
    uint16_t sel;
    uint64_t off;
    unsigned params;
    unsigned size; /* 2, 4 or 8 */
    struct seg_desc code;
};

static int read_call_gate(struct scpu *c, uint16_t sel, struct seg_desc d, bool jump,
                          struct call_gate *g)
{
    bool lma = soft_long_mode(c);
    uint32_t high = 0;

    if (check_gate(c, sel, d) || (lma && seg_read_desc_high(c, sel, EXC_GP, 0, &high))) {
        return INSN_EXC;
    }
    g->sel = (uint16_t)(d.lo >> 16);
    g->off = (d.lo & 0xffff) | (DESC_TYPE(d) == SYS_CALL32 ? d.hi & 0xffff0000u : 0) |
             (uint64_t)high << 32;
    g->params = lma ? 0 : d.hi & 31;
    g->size = lma ? 8 : DESC_TYPE(d) == SYS_CALL32 ? 4 : 2;
    if (seg_is_null(g->sel)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    if (seg_read_desc(c, g->sel, EXC_GP, 0, &g->code)) {
        return INSN_EXC;
    }
    unsigned dpl = DESC_DPL(g->code);
    bool ok = desc_is_code(g->code) && dpl <= c->cpl;
    if (jump && !desc_is_conforming(g->code)) {
        ok = ok && dpl == c->cpl;
    }
    if (lma) {
        ok = ok && (g->code.hi & (DESC_L | DESC_DB)) == DESC_L;
    }
    if (!ok) {
        return soft_raise_err(c, EXC_GP, seg_error(g->sel, 0));
    }
    if (!(g->code.hi & DESC_P)) {
        return soft_raise_err(c, EXC_NP, seg_error(g->sel, 0));
    }
    return 0;
}

static enum insn_result enter_same(struct scpu *c, const struct code_target *t)
{
    seg_enter_code(c, t, c->cpl);
    soft_update_mode(c);
    return INSN_JUMP;
}

static enum insn_result far_task(struct scpu *c, uint16_t sel, struct seg_desc d, bool call)
{
    if (check_gate(c, sel, d)) {
        return INSN_EXC;
    }
    enum task_reason why = call ? TASK_CALL : TASK_JMP;
    int rc = DESC_TYPE(d) == SYS_TASK_GATE
                 ? task_gate(c, (uint16_t)(d.lo >> 16), why, c->next_rip, 0)
                 : task_switch(c, sel, d, why, c->next_rip, 0);
    return rc ? INSN_EXC : INSN_JUMP;
}

static enum insn_result jump_gate(struct scpu *c, uint16_t sel, struct seg_desc d)
{
    struct call_gate g;
    struct code_target t;

    if (read_call_gate(c, sel, d, true, &g) ||
        seg_check_code(c, g.sel, &g.code, c->cpl, g.off, 0, &t)) {
        return INSN_EXC;
    }
    return enter_same(c, &t);
}

static enum insn_result call_gate(struct scpu *c, uint16_t sel, struct seg_desc d);
static enum insn_result call_direct(struct scpu *c, const struct far *f, struct seg_desc *d);

/* System descriptors as targets: call gates, task gates, TSSs. */
static enum insn_result far_system(struct scpu *c, uint16_t sel, struct seg_desc d, bool call)
{
    bool lma = soft_long_mode(c);

    switch (DESC_TYPE(d)) {
    case SYS_CALL16:
    case SYS_CALL32:
        if (lma && DESC_TYPE(d) == SYS_CALL16) {
            break;
        }
        return call ? call_gate(c, sel, d) : jump_gate(c, sel, d);
    case SYS_TASK_GATE:
    case SYS_TSS16:
    case SYS_TSS32:
        if (lma) {
            break;
        }
        return far_task(c, sel, d, call);
    }
    return soft_raise_err(c, EXC_GP, seg_error(sel, 0));
}

static enum insn_result far_protected(struct scpu *c, const struct far *f, bool call)
{
    struct seg_desc d;
    struct code_target t;

    if (seg_is_null(f->sel)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    if (seg_read_desc(c, f->sel, EXC_GP, 0, &d)) {
        return INSN_EXC;
    }
    if (!(d.hi & DESC_S)) {
        return far_system(c, f->sel, d, call);
    }
    if (!desc_is_code(d)) {
        return soft_raise_err(c, EXC_GP, seg_error(f->sel, 0));
    }
    if (call) {
        return call_direct(c, f, &d);
    }
    if (check_direct(c, f->sel, d) || seg_check_code(c, f->sel, &d, c->cpl, f->off, 0, &t)) {
        return INSN_EXC;
    }
    return enter_same(c, &t);
}

/* ---- CALL ---- */

static enum insn_result call_real(struct scpu *c, const struct far *f)
{
    struct stack st;

    stack_current(c, &st);
    if (stack_push(c, &st, f->osize, c->seg[X86_CS].sel) ||
        stack_push(c, &st, f->osize, c->next_rip)) {
        return INSN_EXC;
    }
    if (f->off > c->seg[X86_CS].limit) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    stack_commit(c, &st);
    return jump_real(c, f);
}

static enum insn_result call_direct(struct scpu *c, const struct far *f, struct seg_desc *d)
{
    struct code_target t;
    struct stack st;

    if (check_direct(c, f->sel, *d)) {
        return INSN_EXC;
    }
    stack_current(c, &st);
    if (stack_push(c, &st, f->osize, c->seg[X86_CS].sel) ||
        stack_push(c, &st, f->osize, c->next_rip) ||
        seg_check_code(c, f->sel, d, c->cpl, f->off, 0, &t)) {
        return INSN_EXC;
    }
    stack_commit(c, &st);
    return enter_same(c, &t);
}

/* Copies the parameters that a 16/32-bit gate asks for from the caller's stack to the new one.
 */
static int copy_params(struct scpu *c, const struct call_gate *g, struct stack *to)
{
    struct stack from;
    uint64_t v[31];

    stack_current(c, &from);
    for (unsigned i = 0; i < g->params; i++) {
        if (stack_pop(c, &from, g->size, &v[i])) {
            return INSN_EXC;
        }
    }
    for (unsigned i = g->params; i > 0; i--) {
        if (stack_push(c, to, g->size, v[i - 1])) {
            return INSN_EXC;
        }
    }
    return 0;
}

static enum insn_result call_inner(struct scpu *c, struct call_gate *g)
{
    unsigned cpl = DESC_DPL(g->code);
    struct code_target t;
    struct stack st;

    if ((soft_long_mode(c) ? tss_stack64(c, cpl, 0, 0, &st) : tss_stack(c, cpl, 0, &st)) ||
        stack_push(c, &st, g->size, c->seg[X86_SS].sel) ||
        stack_push(c, &st, g->size, c->gpr[X86_RSP]) || copy_params(c, g, &st) ||
        stack_push(c, &st, g->size, c->seg[X86_CS].sel) ||
        stack_push(c, &st, g->size, c->next_rip) ||
        seg_check_code(c, g->sel, &g->code, cpl, g->off, 0, &t)) {
        return INSN_EXC;
    }
    stack_commit(c, &st);
    c->seg[X86_SS] = st.ss;
    seg_enter_code(c, &t, cpl);
    soft_update_mode(c);
    return INSN_JUMP;
}

static enum insn_result call_gate(struct scpu *c, uint16_t sel, struct seg_desc d)
{
    struct call_gate g;
    struct code_target t;
    struct stack st;

    if (read_call_gate(c, sel, d, false, &g)) {
        return INSN_EXC;
    }
    if (!desc_is_conforming(g.code) && DESC_DPL(g.code) < c->cpl) {
        return call_inner(c, &g);
    }
    stack_current(c, &st);
    if (soft_long_mode(c)) {
        st.width = 8; /* the gate enters 64-bit mode, whatever the caller's stack was */
    }
    if (stack_push(c, &st, g.size, c->seg[X86_CS].sel) ||
        stack_push(c, &st, g.size, c->next_rip) ||
        seg_check_code(c, g.sel, &g.code, c->cpl, g.off, 0, &t)) {
        return INSN_EXC;
    }
    stack_commit(c, &st);
    return enter_same(c, &t);
}

enum insn_result soft_insn_jmp_far_imm(struct scpu *c, const struct insn *in)
{
    struct far f;

    far_operand_imm(c, in, &f);
    return seg_is_real(c) ? jump_real(c, &f) : far_protected(c, &f, false);
}

enum insn_result soft_insn_call_far_imm(struct scpu *c, const struct insn *in)
{
    struct far f;

    far_operand_imm(c, in, &f);
    return seg_is_real(c) ? call_real(c, &f) : far_protected(c, &f, true);
}

enum insn_result soft_insn_jmp_far_mem(struct scpu *c, const struct insn *in)
{
    struct far f;

    if (far_operand_mem(c, in, &f)) {
        return INSN_EXC;
    }
    return seg_is_real(c) ? jump_real(c, &f) : far_protected(c, &f, false);
}

enum insn_result soft_insn_call_far_mem(struct scpu *c, const struct insn *in)
{
    struct far f;

    if (far_operand_mem(c, in, &f)) {
        return INSN_EXC;
    }
    return seg_is_real(c) ? call_real(c, &f) : far_protected(c, &f, true);
}

/* ---- RET and the protected-mode part of IRET ---- */

/* The code segment that a return goes to, checked for the privilege in its RPL. */
static int return_code(struct scpu *c, uint16_t sel, uint64_t rip, struct code_target *ret)
{
    struct seg_desc d;

    if (seg_is_null(sel)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    if (seg_read_desc(c, sel, EXC_GP, 0, &d)) {
        return INSN_EXC;
    }
    unsigned rpl = sel & 3u;
    unsigned dpl = DESC_DPL(d);
    bool ok =
        desc_is_code(d) && rpl >= c->cpl && (desc_is_conforming(d) ? dpl <= rpl : dpl == rpl);
    if (!ok) {
        return soft_raise_err(c, EXC_GP, seg_error(sel, 0));
    }
    if (!(d.hi & DESC_P)) {
        return soft_raise_err(c, EXC_NP, seg_error(sel, 0));
    }
    return seg_check_code(c, sel, &d, rpl, rip, 0, ret);
}

/* The stack segment of a return; null is fine for 64-bit code below privilege 3. */
static int return_stack(struct scpu *c, uint16_t sel, const struct code_target *t,
                        struct vcpu_seg *ret)
{
    unsigned rpl = t->seg.sel & 3u;
    bool code64 = soft_long_mode(c) && (t->seg.attr & SEG_L);

    if (seg_is_null(sel) && code64 && rpl != 3 && (sel & 3u) == rpl) {
        seg_set_null(ret, sel);
        ret->attr |= (uint16_t)(rpl << 5);
        return 0;
    }
    return seg_check_stack(c, sel, rpl, EXC_GP, 0, ret);
}

/* RSP after a return that loads SS: all of it for 64-bit code, by SS.B otherwise. */
static void return_sp(struct scpu *c, const struct vcpu_seg *ss, const struct code_target *t,
                      uint64_t sp, unsigned skip)
{
    struct stack st = {.ss = *ss, .sp = sp};

    st.width = soft_long_mode(c) && (t->seg.attr & SEG_L) ? 8 : ss->attr & SEG_DB ? 4 : 2;
    if (st.width == 2) {
        st.sp = (c->gpr[X86_RSP] & ~UINT64_C(0xffff)) | (sp & 0xffff);
    }
    stack_skip(&st, skip);
    stack_commit(c, &st);
    c->seg[X86_SS] = *ss;
}

static enum insn_result ret_real(struct scpu *c, unsigned size, unsigned skip)
{
    struct stack st;
    uint64_t rip, sel;

    stack_current(c, &st);
    if (stack_pop(c, &st, size, &rip) || stack_pop(c, &st, size, &sel)) {
        return INSN_EXC;
    }
    if (rip > c->seg[X86_CS].limit) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    stack_skip(&st, skip);
    stack_commit(c, &st);
    seg_set_real(c, X86_CS, (uint16_t)sel);
    c->rip = rip;
    soft_update_mode(c);
    return INSN_JUMP;
}

static enum insn_result ret_protected(struct scpu *c, unsigned size, unsigned skip)
{
    struct stack st;
    struct vcpu_seg ss;
    struct code_target t;
    uint64_t rip, cs, sp, ss_sel;

    stack_current(c, &st);
    if (stack_pop(c, &st, size, &rip) || stack_pop(c, &st, size, &cs) ||
        return_code(c, (uint16_t)cs, rip, &t)) {
        return INSN_EXC;
    }
    unsigned rpl = cs & 3;
    stack_skip(&st, skip);
    if (rpl == c->cpl) {
        stack_commit(c, &st);
        return enter_same(c, &t);
    }
    if (stack_pop(c, &st, size, &sp) || stack_pop(c, &st, size, &ss_sel) ||
        return_stack(c, (uint16_t)ss_sel, &t, &ss)) {
        return INSN_EXC;
    }
    return_sp(c, &ss, &t, sp, skip);
    seg_enter_code(c, &t, rpl);
    seg_null_outer(c);
    soft_update_mode(c);
    return INSN_JUMP;
}

enum insn_result soft_insn_ret_far(struct scpu *c, const struct insn *in)
{
    unsigned skip = in->opcode == 0xca ? in->imm & 0xffff : 0;

    return seg_is_real(c) ? ret_real(c, in->osize, skip) : ret_protected(c, in->osize, skip);
}

/* ---- IRET ---- */

#define IRET_16 (FL_STATUS | FL_TF | FL_DF | FL_NT)
#define IRET_32 (IRET_16 | FL_RF | FL_AC | FL_ID)

/* RFLAGS after an IRET of `size` that popped `image` at privilege cpl. */
static uint64_t iret_flags(const struct scpu *c, uint64_t image, unsigned size)
{
    uint64_t old = soft_get_rflags(c);
    unsigned iopl = (unsigned)(old >> 12) & 3;
    uint64_t mask = size == 2 ? IRET_16 : IRET_32;

    if (c->cpl <= iopl) {
        mask |= FL_IF;
    }
    if (c->cpl == 0) {
        mask |= FL_IOPL;
        mask |= size == 2 || !(c->cr0 & CR0_PE) ? 0 : FL_VIF | FL_VIP;
    }
    uint64_t f = (old & ~mask) | (image & mask);
    /* Without armed breakpoints RF has no effect: it would be cleared one instruction later. */
    return c->dr[7] & 0xff ? f : f & ~FL_RF;
}

static int iret_pop3(struct scpu *c, struct stack *st, unsigned size, uint64_t v[3])
{
    stack_current(c, st);
    return stack_pop(c, st, size, &v[0]) || stack_pop(c, st, size, &v[1]) ||
           stack_pop(c, st, size, &v[2]);
}

static enum insn_result iret_to_real_cs(struct scpu *c, const struct stack *st,
                                        const uint64_t v[3], uint64_t rflags)
{
    if (v[0] > c->seg[X86_CS].limit) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    stack_commit(c, st);
    seg_set_real(c, X86_CS, (uint16_t)v[1]);
    c->rip = v[0];
    soft_set_rflags(c, rflags);
    return INSN_JUMP;
}

static enum insn_result iret_real(struct scpu *c, unsigned size)
{
    struct stack st;
    uint64_t v[3];

    if (iret_pop3(c, &st, size, v)) {
        return INSN_EXC;
    }
    return iret_to_real_cs(c, &st, v, iret_flags(c, v[2], size) & ~FL_VM);
}

static enum insn_result iret_vm86(struct scpu *c, unsigned size)
{
    bool iopl3 = (c->sysflags & FL_IOPL) == FL_IOPL;
    uint64_t old = soft_get_rflags(c);
    struct stack st;
    uint64_t v[3];

    if (!iopl3 && !((c->cr4 & CR4_VME) && size == 2)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    if (iret_pop3(c, &st, size, v)) {
        return INSN_EXC;
    }
    if (iopl3) {
        return iret_to_real_cs(c, &st, v, iret_flags(c, v[2], size));
    }
    /* Virtual-8086 mode extensions: IF of the image goes to VIF. */
    if ((v[2] & FL_TF) || ((v[2] & FL_IF) && (old & FL_VIP))) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    uint64_t f = (old & ~(IRET_16 | FL_VIF)) | (v[2] & IRET_16);
    return iret_to_real_cs(c, &st, v, v[2] & FL_IF ? f | FL_VIF : f);
}

/* From privilege 0 of protected mode into virtual-8086 mode. */
static enum insn_result iret_to_vm86(struct scpu *c, struct stack *st, const uint64_t v[3])
{
    static const uint8_t order[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    uint64_t sp, sel[5];

    if (stack_pop(c, st, 4, &sp)) {
        return INSN_EXC;
    }
    for (unsigned i = 0; i < ARRAY_LEN(sel); i++) {
        if (stack_pop(c, st, 4, &sel[i])) {
            return INSN_EXC;
        }
    }
    if (v[0] > 0xffff) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    uint64_t f = iret_flags(c, v[2], 4) | FL_VM;
    seg_set_vm86(&c->seg[X86_CS], (uint16_t)v[1]);
    seg_set_vm86(&c->seg[X86_SS], (uint16_t)sel[0]);
    for (unsigned i = 0; i < ARRAY_LEN(order); i++) {
        seg_set_vm86(&c->seg[order[i]], (uint16_t)sel[i + 1]);
    }
    c->gpr[X86_RSP] = sp;
    c->rip = v[0];
    c->cpl = 3;
    soft_set_rflags(c, f);
    return INSN_JUMP;
}

static enum insn_result iret_protected(struct scpu *c, unsigned size)
{
    struct stack st;
    struct vcpu_seg ss;
    struct code_target t;
    uint64_t v[3], sp, ss_sel;

    if (iret_pop3(c, &st, size, v)) {
        return INSN_EXC;
    }
    if (size == 4 && (v[2] & FL_VM) && c->cpl == 0 && !soft_long_mode(c)) {
        return iret_to_vm86(c, &st, v);
    }
    if (return_code(c, (uint16_t)v[1], v[0], &t)) {
        return INSN_EXC;
    }
    unsigned rpl = v[1] & 3;
    uint64_t f = iret_flags(c, v[2], size);
    if (rpl == c->cpl && !soft_code64(c)) {
        stack_commit(c, &st);
        seg_enter_code(c, &t, rpl);
    } else {
        if (stack_pop(c, &st, size, &sp) || stack_pop(c, &st, size, &ss_sel) ||
            return_stack(c, (uint16_t)ss_sel, &t, &ss)) {
            return INSN_EXC;
        }
        bool outer = rpl != c->cpl;
        return_sp(c, &ss, &t, sp, 0);
        seg_enter_code(c, &t, rpl);
        if (outer) {
            seg_null_outer(c);
        }
    }
    soft_set_rflags(c, f);
    return INSN_JUMP;
}

/* What is looked at in a descriptor for the fast way; how it must be but for the privilege. */
#define FAST_CODE_BITS (DESC_P | DESC_S | 0xc00u | 0x6000u | DESC_L | DESC_DB | DESC_A)
#define FAST_CODE      (DESC_P | DESC_S | 0x800u | DESC_L | DESC_A)
#define FAST_DATA_BITS (DESC_P | DESC_S | 0xa00u | 0x6000u | DESC_A)
#define FAST_DATA      (DESC_P | DESC_S | 0x200u | DESC_A)

/* SS of a return from 64-bit code to 64-bit code of privilege rpl. */
static bool fast_return_stack(struct scpu *c, uint16_t sel, unsigned rpl, struct vcpu_seg *ret)
{
    uint64_t raw;
    if ((sel & 3u) != rpl) {
        return false;
    }
    if (seg_is_null(sel) && rpl == 0) {
        seg_set_null(ret, sel);
        return true;
    }
    if (!mode_gdt_entry(c, sel, &raw) ||
        ((raw >> 32) & FAST_DATA_BITS) != (FAST_DATA | rpl << 13)) {
        return false;
    }
    seg_from_desc(ret, sel,
                  (struct seg_desc){.lo = (uint32_t)raw, .hi = (uint32_t)(raw >> 32)});
    return true;
}

/*
 * The common case of IRETQ: between 64-bit code segments of privilege 0 and 3, with all that is
 * read in the TLB. false: nothing happened, take the long way.
 */
static bool iret_fast(struct scpu *c)
{
    uint64_t sp = c->gpr[X86_RSP], raw;
    const struct tlb_entry *e = &c->tlb_r[(sp >> MEM_PAGE_SHIFT) & (TLB_SIZE - 1)];
    struct vcpu_seg ss;
    if ((c->mode & (MODE_64 | MODE_STEP)) != MODE_64 || c->cpl != 0 || (c->sysflags & FL_NT) ||
        (sp ^ e->tag) > MEM_PAGE_SIZE - 40) {
        return false;
    }
    const uint64_t *f = (const uint64_t *)tlb_host(e, sp);
    uint64_t rip = mode_load(&f[0]), cs = mode_load(&f[1]), flags = mode_load(&f[2]);
    uint64_t new_sp = mode_load(&f[3]), ss_sel = mode_load(&f[4]);
    unsigned rpl = cs & 3;
    if ((rpl != 0 && rpl != 3) || !mode_gdt_entry(c, (uint16_t)cs, &raw) ||
        ((raw >> 32) & FAST_CODE_BITS) != (FAST_CODE | rpl << 13) || !soft_canonical(c, rip) ||
        !fast_return_stack(c, (uint16_t)ss_sel, rpl, &ss)) {
        return false;
    }
    flags = iret_flags(c, flags, 8);
    seg_from_desc(&c->seg[X86_CS], (uint16_t)cs,
                  (struct seg_desc){.lo = (uint32_t)raw, .hi = (uint32_t)(raw >> 32)});
    c->seg[X86_SS] = ss;
    c->gpr[X86_RSP] = new_sp;
    c->rip = rip;
    if (rpl != c->cpl) {
        c->cpl = (uint8_t)rpl;
        seg_null_outer(c);
    }
    mode_set_rflags(c, flags);
    return true;
}

enum insn_result soft_insn_iret(struct scpu *c, const struct insn *in)
{
    c->nmi_blocked = false; /* even if it faults: SDM vol. 3A 6.7.1 */
    if (in->osize == 8 && iret_fast(c)) {
        return INSN_JUMP;
    }
    if (!(c->cr0 & CR0_PE)) {
        return iret_real(c, in->osize);
    }
    if (seg_is_vm86(c)) {
        return iret_vm86(c, in->osize);
    }
    if (c->sysflags & FL_NT) {
        if (soft_long_mode(c)) {
            return soft_raise_err(c, EXC_GP, 0);
        }
        return task_return(c, c->next_rip) ? INSN_EXC : INSN_JUMP;
    }
    return iret_protected(c, in->osize);
}
