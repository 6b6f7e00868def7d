/*
 * Random system instructions on random descriptor tables, gates, TSSs and stacks. What must
 * hold whatever the guest puts there:
 *  - a handler that raises an exception has changed no register (task switches excepted, whose
 *    faults after the commit point belong to the new task);
 *  - outside real mode the privilege level agrees with CS and, when it is loaded, with SS;
 *  - delivery of the exception comes to an end.
 */
#include "cpu/soft/exc.h"
#include "cpu/soft/sys_fake.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The input as a stream; zeros when it is used up. */
struct stream {
    const uint8_t *p;
    size_t left;
};

static uint8_t next8(struct stream *s)
{
    if (s->left == 0) {
        return 0;
    }
    s->left--;
    return *s->p++;
}

static uint32_t next32(struct stream *s)
{
    uint32_t v = next8(s);

    v |= (uint32_t)next8(s) << 8;
    v |= (uint32_t)next8(s) << 16;
    return v | (uint32_t)next8(s) << 24;
}

static insn_fn *const handlers[] = {
    soft_insn_jmp_far_imm,  soft_insn_call_far_imm, soft_insn_jmp_far_mem,
    soft_insn_call_far_mem, soft_insn_ret_far,      soft_insn_iret,
    soft_insn_iret,         soft_insn_mov_to_sreg,  soft_insn_pop_sreg,
    soft_insn_les,          soft_insn_lss,          soft_insn_lar,
    soft_insn_lsl,          soft_insn_verr,         soft_insn_verw,
    soft_insn_arpl,         soft_insn_lldt,         soft_insn_ltr,
    soft_insn_lgdt,         soft_insn_lidt,         soft_insn_lmsw,
    soft_insn_int_n,        soft_insn_int_n,        soft_insn_int3,
    soft_insn_int1,         soft_insn_popf,         soft_insn_pushf,
    soft_insn_enter,        soft_insn_leave,        soft_insn_mov_to_cr,
    soft_insn_mov_to_dr,    soft_insn_wrmsr,        soft_insn_rdmsr,
    soft_insn_xsetbv,       soft_insn_syscall,      soft_insn_sysret,
    soft_insn_sysenter,     soft_insn_sysexit,      soft_insn_in_dx,
    soft_insn_out_dx,       soft_insn_ins,          soft_insn_outs,
    soft_insn_invpcid,      soft_insn_bound,        soft_insn_cpuid,
};

/* What an exception must leave alone. */
struct snapshot {
    uint64_t gpr[16], rip, sysflags;
    struct vcpu_seg seg[X86_NSEG], tr, ldtr;
    struct vcpu_dtable gdtr, idtr;
    uint64_t cr0, cr3, cr4, efer, xcr0;
    uint8_t cpl;
};

static void take_snapshot(const struct scpu *c, struct snapshot *s)
{
    memset(s, 0, sizeof(*s));
    memcpy(s->gpr, c->gpr, sizeof(s->gpr));
    s->rip = c->rip;
    s->sysflags = c->sysflags;
    memcpy(s->seg, c->seg, sizeof(s->seg));
    s->tr = c->tr;
    s->ldtr = c->ldtr;
    s->gdtr = c->gdtr;
    s->idtr = c->idtr;
    s->cr0 = c->cr0;
    s->cr3 = c->cr3;
    s->cr4 = c->cr4;
    s->efer = c->efer;
    s->xcr0 = c->xcr0;
    s->cpl = c->cpl;
}

static void choose_mode(struct fake *f, uint8_t how)
{
    switch (how % 7) {
    case 0: break;
    case 1: fake_protected(f, 0); break;
    case 2: fake_protected(f, 3); break;
    case 3: fake_long(f, 0); break;
    case 4: fake_long(f, 3); break;
    case 5: fake_vm86(f, how >> 6); break;
    case 6: fake_long(f, 3); break;
    }
    f->model.is_amd = (how & 0x10) != 0;
    f->c.cr4 |= how & 0x20 ? CR4_VME | CR4_PVI | CR4_OSXSAVE | CR4_UMIP : 0;
}

static void break_things(struct fake *f, struct stream *s)
{
    unsigned n = next8(s) % 32;

    /* Gates everywhere first, so that most ways lead on. */
    for (unsigned v = 0; v < 0x40 && (f->c.cr0 & CR0_PE); v++) {
        fake_idt_gate(f, v, v & 1 ? 0xee : 0x8f, SEL_CODE0, 0x4000);
    }
    fake_gate(f, FAKE_GDT + SEL_FREE, 0xec, SEL_CODE0, 0x4000, next8(s) & 31);
    fake_desc(f, SEL_FREE + 16, FAKE_TSS2, 0x67, 0x89, 0);
    for (unsigned i = 0; i < n; i++) {
        uint32_t at = FAKE_IDT + next32(s) % 0x2c00;
        f->mem[at] = next8(s);
    }
    n = next8(s) % 24;
    for (unsigned i = 0; i < n; i++) {
        fake_put(f, FAKE_STACK - 64 + i * 8, next32(s) & (next8(s) & 1 ? 0xff : ~0u), 8);
    }
    for (unsigned i = 0; i < 8; i++) {
        if (next8(s) & 1) {
            f->c.gpr[i] = next32(s) & (next8(s) & 1 ? 0xfffc : 0xffffffffu);
        }
    }
    f->c.gpr[X86_RSP] = FAKE_STACK - 64 + (next8(s) & 63);
    if (next8(s) & 1) {
        f->absent[next8(s) & 15] = true;
    }
    uint64_t flags = next32(s) & (FL_STATUS | FL_IF | FL_DF | FL_NT | FL_IOPL | FL_AC);
    soft_set_rflags(&f->c, flags | FL_1 | (f->c.sysflags & FL_VM));
}

static struct insn make_insn(struct fake *f, struct stream *s)
{
    static const uint8_t sizes[] = {2, 4, 8, 4};
    unsigned osize = sizes[next8(s) & 3];
    struct insn in;

    if (osize == 8 && !soft_code64(&f->c)) {
        osize = 4;
    }
    in = fake_insn_mem(f, osize, FAKE_STACK - 64 + (next8(s) & 63));
    in.is_mem = next8(s) & 1;
    in.opcode = next8(s);
    in.map = next8(s) & 1 ? MAP_0F : MAP_1B;
    in.reg = next8(s) & 15;
    in.rm = next8(s) & 7;
    in.rep = next8(s) & 1 ? REP_F3 : REP_NONE;
    in.imm = next32(s) & (next8(s) & 1 ? 0xffff : 0xffffffffu);
    in.imm2 = (uint16_t)(next8(s) & 1 ? SEL_FREE + (next8(s) & 0x1bu) : next32(s) & 0xff);
    if (next8(s) & 1) {
        f->c.gpr[X86_RAX] = next8(s);
    }
    return in;
}

static void check_privilege(const struct scpu *c)
{
    if (!(c->cr0 & CR0_PE)) {
        return;
    }
    if (c->sysflags & FL_VM) {
        if (c->cpl != 3) {
            abort();
        }
        return;
    }
    if ((c->seg[X86_CS].sel & 3) != c->cpl) {
        abort();
    }
    if (!(c->seg[X86_SS].attr & SEG_UNUSABLE) && SEG_DPL(c->seg[X86_SS].attr) != c->cpl) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stream s = {data, size};
    struct fake *f = fake_new();
    struct scpu *c = &f->c;
    struct snapshot before, after;

    choose_mode(f, next8(&s));
    insn_fn *fn = handlers[next8(&s) % ARRAY_LEN(handlers)];
    break_things(f, &s);
    struct insn in = make_insn(f, &s);
    bool was_real = !(c->cr0 & CR0_PE);

    if (fn == soft_insn_pop_sreg) { /* the decoder never makes POP CS */
        in.opcode = in.map == MAP_0F ? in.opcode | 0xa1 : 0x07 | (in.opcode & 0x10);
    }
    take_snapshot(c, &before);
    uint16_t task = c->tr.sel;
    enum insn_result r = fn(c, &in);
    take_snapshot(c, &after);
    bool string = fn == soft_insn_ins || fn == soft_insn_outs;
    if ((r == INSN_EXC) != c->exc.pending) {
        abort();
    }
    /* NOLINTNEXTLINE(bugprone-suspicious-memory-comparison): take_snapshot clears the padding
     */
    bool changed = memcmp(&before, &after, sizeof(before)) != 0;
    if (r == INSN_EXC && !string && c->tr.sel == task && changed) {
        abort();
    }
    if (!was_real && c->tr.sel == task) {
        check_privilege(c);
    }
    if (c->exc.pending && soft_deliver_exception(c) && !was_real && c->tr.sel == task) {
        check_privilege(c);
    }
    fake_free(f);
    return 0;
}
