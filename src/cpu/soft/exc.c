/*
 * Exceptions and interrupts: raising, delivery through IVT or IDT, double and triple faults.
 * SDM vol. 3A chapter 6 (6.12 protected mode, 6.14 64-bit mode, 6.15 #DF table), 20.1.4 (real
 * mode), 20.3 (virtual-8086), vol. 2A INT n. vCPU thread, no lock.
 *
 * Delivery reads and checks everything first and writes registers last, so a fault on the way
 * leaves the interrupted context as it was. Shadow stacks (CET) are not modelled.
 */
#include "cpu/soft/exc.h"

#include "cpu/soft/mode.h"
#include "cpu/soft/seg.h"

#define DR6_TRAP_BITS 0xfu
#define DR6_BD        UINT64_C(0x2000)
#define DR7_GD        UINT64_C(0x2000)

void soft_set_exception(struct scpu *c, struct soft_exc exc)
{
    exc.pending = true;
    c->exc = exc;
}

/* What is being delivered. */
struct event {
    uint8_t vector;
    bool has_error;
    bool soft; /* INT n, INT3, INTO: the gate's DPL counts, EXT stays clear */
    uint32_t ext;
    uint32_t error;
    uint64_t rip;    /* to be pushed */
    uint64_t rflags; /* to be pushed */
};

/* Everything that delivery found out, before the frame is written. */
struct entry {
    struct code_target code;
    struct stack st;
    unsigned cpl;
    bool new_stack;
    bool clear_if;
};

static uint32_t gate_error(const struct event *ev)
{
    return ev->vector * 8u + 2 + ev->ext;
}

static int deliver_real(struct scpu *c, const struct event *ev)
{
    struct stack st;
    uint64_t vec;

    if (ev->vector * 4u + 3 > c->idtr.limit) {
        return soft_raise_err(c, EXC_GP, gate_error(ev));
    }
    if (soft_ld(c, (uint32_t)(c->idtr.base + ev->vector * 4u), 4, ACC_READ, &vec)) {
        return INSN_EXC;
    }
    stack_current(c, &st);
    if (stack_push(c, &st, 2, ev->rflags) || stack_push(c, &st, 2, c->seg[X86_CS].sel) ||
        stack_push(c, &st, 2, ev->rip)) {
        return INSN_EXC;
    }
    stack_commit(c, &st);
    seg_set_real(c, X86_CS, (uint16_t)(vec >> 16));
    c->rip = vec & 0xffff;
    soft_set_rflags(c, soft_get_rflags(c) & ~(FL_IF | FL_TF | FL_AC | FL_RF));
    return 0;
}

/* A 16- or 32-bit or long-mode gate, reduced to what matters. */
struct gate {
    unsigned type;
    unsigned ist;
    uint16_t sel;
    uint64_t rip;
};

static int read_gate(struct scpu *c, const struct event *ev, struct gate *ret_gate)
{
    bool lma = soft_long_mode(c);
    unsigned len = lma ? 16 : 8;
    uint64_t va = c->idtr.base + ev->vector * len;
    uint64_t raw, high = 0;

    if (ev->vector * len + len - 1 > c->idtr.limit) {
        return soft_raise_err(c, EXC_GP, gate_error(ev));
    }
    va = lma ? va : (uint32_t)va;
    if (soft_ld(c, va, 8, ACC_READ | ACC_SYS, &raw) ||
        (lma && soft_ld(c, va + 8, 8, ACC_READ | ACC_SYS, &high))) {
        return INSN_EXC;
    }
    unsigned type =
        (unsigned)(raw >> 40) & 0x1f; /* with S: a code or data segment is no gate */
    bool ok = lma ? type == SYS_INT32 || type == SYS_TRAP32
                  : type == SYS_TASK_GATE || (type & 0x17) == 6 || (type & 0x17) == 7;
    if (!ok || (ev->soft && ((raw >> 45) & 3) < c->cpl)) {
        return soft_raise_err(c, EXC_GP, gate_error(ev));
    }
    if (!((raw >> 47) & 1)) {
        return soft_raise_err(c, EXC_NP, gate_error(ev));
    }
    ret_gate->type = type;
    ret_gate->ist = lma ? (unsigned)(raw >> 32) & 7 : 0;
    ret_gate->sel = (uint16_t)(raw >> 16);
    ret_gate->rip = (raw & 0xffff) | (raw >> 32 & 0xffff0000u) | high << 32;
    if ((type & 8) == 0) {
        ret_gate->rip &= 0xffff;
    }
    return 0;
}

static int choose_stack(struct scpu *c, const struct event *ev, const struct gate *g,
                        struct entry *e)
{
    if (soft_long_mode(c)) {
        if (e->new_stack || g->ist) {
            if (tss_stack64(c, e->cpl, g->ist, ev->ext, &e->st)) {
                return INSN_EXC;
            }
        } else {
            e->st = (struct stack){.sp = c->gpr[X86_RSP], .acc = ACC_SYS, .error = ev->ext};
        }
        e->st.width = 8;
        e->st.sp &= ~UINT64_C(15);
        return 0;
    }
    if (e->new_stack) {
        return tss_stack(c, e->cpl, ev->ext, &e->st);
    }
    stack_current(c, &e->st);
    e->st.error = ev->ext;
    return 0;
}

/* Where the gate leads to, and on which stack. */
static int find_entry(struct scpu *c, const struct event *ev, const struct gate *g,
                      struct entry *e)
{
    struct seg_desc d;

    if (seg_is_null(g->sel)) {
        return soft_raise_err(c, EXC_GP, ev->ext);
    }
    if (seg_read_desc(c, g->sel, EXC_GP, ev->ext, &d)) {
        return INSN_EXC;
    }
    unsigned dpl = DESC_DPL(d);
    bool bad = !desc_is_code(d) || dpl > c->cpl;
    if (soft_long_mode(c)) {
        bad = bad || (d.hi & (DESC_L | DESC_DB)) != DESC_L;
    }
    e->new_stack = !desc_is_conforming(d) && dpl < c->cpl;
    /* From virtual-8086 mode there is only one way, to privilege 0. */
    if (seg_is_vm86(c) && (!e->new_stack || dpl != 0)) {
        bad = true;
    }
    if (bad) {
        return soft_raise_err(c, EXC_GP, seg_error(g->sel, ev->ext));
    }
    if (!(d.hi & DESC_P)) {
        return soft_raise_err(c, EXC_NP, seg_error(g->sel, ev->ext));
    }
    e->cpl = e->new_stack ? dpl : c->cpl;
    e->clear_if = (g->type & 1) == 0;
    if (choose_stack(c, ev, g, e)) {
        return INSN_EXC;
    }
    return seg_check_code(c, g->sel, &d, e->cpl, g->rip, ev->ext, &e->code);
}

static int push_frame64(struct scpu *c, const struct event *ev, struct entry *e)
{
    uint64_t frame[6] = {c->seg[X86_SS].sel, c->gpr[X86_RSP], ev->rflags,
                         c->seg[X86_CS].sel, ev->rip,         ev->error};
    unsigned n = ev->has_error ? 6 : 5;
    uint64_t sp = e->st.sp - n * 8;
    unsigned acc = ACC_WRITE | (e->cpl == 3 ? ACC_USER : ACC_SYS);

    if (!soft_canonical(c, sp) || !soft_canonical(c, e->st.sp - 1)) {
        return soft_raise_err(c, EXC_SS, e->st.error);
    }
    for (unsigned i = 0; i < n; i++) {
        if (soft_st(c, e->st.sp - 8 - i * 8, 8, acc, frame[i])) {
            return INSN_EXC;
        }
    }
    e->st.sp = sp;
    return 0;
}

static int push_frame(struct scpu *c, const struct event *ev, unsigned size, struct entry *e)
{
    static const uint8_t v86_order[] = {X86_GS, X86_FS, X86_DS, X86_ES};
    uint64_t v[10];
    unsigned n = 0;

    if (seg_is_vm86(c)) {
        for (unsigned i = 0; i < ARRAY_LEN(v86_order); i++) {
            v[n++] = c->seg[v86_order[i]].sel;
        }
    }
    if (e->new_stack) {
        v[n++] = c->seg[X86_SS].sel;
        v[n++] = c->gpr[X86_RSP];
    }
    v[n++] = ev->rflags;
    v[n++] = c->seg[X86_CS].sel;
    v[n++] = ev->rip;
    if (ev->has_error) {
        v[n++] = ev->error;
    }
    for (unsigned i = 0; i < n; i++) {
        if (stack_push(c, &e->st, size, v[i])) {
            return INSN_EXC;
        }
    }
    return 0;
}

static void enter_handler(struct scpu *c, const struct entry *e)
{
    uint64_t clear = FL_TF | FL_NT | FL_VM | FL_RF | (e->clear_if ? FL_IF : 0);

    if (seg_is_vm86(c)) {
        seg_set_null(&c->seg[X86_ES], 0);
        seg_set_null(&c->seg[X86_DS], 0);
        seg_set_null(&c->seg[X86_FS], 0);
        seg_set_null(&c->seg[X86_GS], 0);
    }
    stack_commit(c, &e->st);
    if (e->new_stack) {
        c->seg[X86_SS] = e->st.ss;
    }
    seg_enter_code(c, &e->code, e->cpl);
    mode_set_rflags(c, soft_get_rflags(c) & ~clear);
}

static int deliver_task(struct scpu *c, const struct event *ev, uint16_t tss_sel)
{
    if (task_gate(c, tss_sel, TASK_EVENT, ev->rip, ev->ext)) {
        return INSN_EXC;
    }
    return ev->has_error ? soft_push(c, c->tr.attr & 8 ? 4 : 2, ev->error) : 0;
}

/* What a descriptor of 64-bit code is made of, and how the one for privilege 0 looks: accessed,
 * not conforming. */
#define CODE64_BITS (DESC_P | DESC_S | 0xc00u | 0x6000u | DESC_L | DESC_DB | DESC_A)
#define CODE64_DPL0 (DESC_P | DESC_S | 0x800u | DESC_L | DESC_A)

/* The stack pointer that an event from 64-bit code starts with. */
static bool fast_stack(struct scpu *c, unsigned ist, uint64_t *ret_sp)
{
    if (c->cpl == 0 && ist == 0) {
        *ret_sp = c->gpr[X86_RSP] & ~UINT64_C(15);
        return true;
    }
    uint32_t off = ist ? ist * 8 + 28 : 4;
    const void *p;
    if (off + 7 > c->tr.limit || (p = mode_sys_ptr(c, TLB_R, c->tr.base + off, 8)) == NULL) {
        return false;
    }
    *ret_sp = mode_load(p) & ~UINT64_C(15);
    return true;
}

/*
 * The common case: from 64-bit code to 64-bit code of privilege 0, with everything that is read
 * and written in the TLB. false: nothing happened, deliver the long way.
 */
static bool deliver_fast(struct scpu *c, const struct event *ev)
{
    if ((c->mode & (MODE_64 | MODE_STEP)) != MODE_64 || (c->cpl != 0 && c->cpl != 3) ||
        ev->vector * 16u + 15 > c->idtr.limit) {
        return false;
    }
    const uint64_t *gate = mode_sys_ptr(c, TLB_R, c->idtr.base + ev->vector * 16u, 16);
    uint64_t raw, sp;
    if (gate == NULL) {
        return false;
    }
    uint64_t low = mode_load(&gate[0]), high = mode_load(&gate[1]);
    /* Present interrupt or trap gate; its DPL counts for INT n. */
    if (((low >> 40) & 0x9e) != 0x8e || (ev->soft && ((low >> 45) & 3) < c->cpl) ||
        !mode_gdt_entry(c, (uint16_t)(low >> 16), &raw) ||
        ((raw >> 32) & CODE64_BITS) != CODE64_DPL0 ||
        !fast_stack(c, (unsigned)(low >> 32) & 7, &sp)) {
        return false;
    }
    uint64_t rip = (low & 0xffff) | (low >> 32 & 0xffff0000u) | high << 32;
    unsigned n = ev->has_error ? 6 : 5;
    uint64_t *frame = mode_sys_ptr(c, TLB_W, sp - n * 8, n * 8);
    if (frame == NULL || !soft_canonical(c, rip)) {
        return false;
    }
    uint64_t clear = FL_TF | FL_NT | FL_VM | FL_RF | ((low >> 40) & 1 ? 0 : FL_IF);
    uint64_t *f = frame;
    if (ev->has_error) {
        *f++ = ev->error;
    }
    f[0] = ev->rip;
    f[1] = c->seg[X86_CS].sel;
    f[2] = ev->rflags;
    f[3] = c->gpr[X86_RSP];
    f[4] = c->seg[X86_SS].sel;
    c->gpr[X86_RSP] = sp - n * 8;
    if (c->cpl != 0) {
        seg_set_null(&c->seg[X86_SS], 0);
    }
    seg_from_desc(&c->seg[X86_CS], (uint16_t)((low >> 16) & 0xfffc),
                  (struct seg_desc){.lo = (uint32_t)raw, .hi = (uint32_t)(raw >> 32)});
    c->rip = rip;
    c->cpl = 0;
    mode_set_rflags(c, soft_get_rflags(c) & ~clear);
    return true;
}

static int deliver(struct scpu *c, const struct event *ev)
{
    struct gate g = {0};
    struct entry e;

    if (deliver_fast(c, ev)) {
        return 0;
    }
    if (!(c->cr0 & CR0_PE)) {
        return deliver_real(c, ev);
    }
    if (read_gate(c, ev, &g)) {
        return INSN_EXC;
    }
    if (g.type == SYS_TASK_GATE) {
        return deliver_task(c, ev, g.sel);
    }
    if (find_entry(c, ev, &g, &e) ||
        (soft_long_mode(c) ? push_frame64(c, ev, &e)
                           : push_frame(c, ev, g.type & 8 ? 4 : 2, &e))) {
        return INSN_EXC;
    }
    enter_handler(c, &e);
    return 0;
}

/*
 * The pushed RF (SDM vol. 3B 18.3.1.1): set by faults, so that an instruction breakpoint does
 * not hit again on return; traps, interrupts and #DB of a breakpoint push it as it is.
 */
static bool pushes_rf(const struct scpu *c, uint8_t vector)
{
    switch (vector) {
    case EXC_DB: return (c->pending_db & DR6_BD) != 0;
    case EXC_NMI:
    case EXC_BP:
    case EXC_OF:
    case EXC_DF:
    case EXC_MC: return false;
    }
    return true;
}

/* DR6 tells of the debug exception that is being delivered: B0-B3 of this one only; BS, BT and
 * BD add up. Nothing pending: DR6 was set by whoever raised it. */
static void show_pending_db(struct scpu *c)
{
    if (c->pending_db != 0) {
        c->dr[6] = (c->dr[6] & ~(uint64_t)DR6_TRAP_BITS) | c->pending_db;
        c->pending_db = 0;
    }
}

static int deliver_kind(struct scpu *c, enum soft_event kind, const struct soft_exc *x)
{
    bool soft = kind == SOFT_EV_SOFT_INT;
    struct event ev = {
        .vector = x->vector,
        .has_error = x->has_error && (c->cr0 & CR0_PE) != 0,
        .soft = soft,
        .ext = soft ? 0 : 1,
        .error = x->error,
        .rip = soft ? c->next_rip : c->rip,
        .rflags = soft_get_rflags(c),
    };

    if (kind == SOFT_EV_EXCEPTION && pushes_rf(c, x->vector)) {
        ev.rflags |= FL_RF;
    }
    if (kind == SOFT_EV_EXCEPTION && x->vector == EXC_DB) {
        /* B0-B3 tell of this one only; BS, BT and BD add up. Nothing pending: DR6 is set
         * already. */
        if (c->pending_db != 0) {
            c->dr[6] = (c->dr[6] & ~(uint64_t)DR6_TRAP_BITS) | c->pending_db;
            c->pending_db = 0;
        }
        c->dr[7] &= ~DR7_GD;
    }
    c->irq_shadow = 0;
    c->halted = false;
    return deliver(c, &ev);
}

int soft_deliver_event(struct scpu *c, enum soft_event kind, uint8_t vector, bool has_error,
                       uint32_t error)
{
    struct soft_exc x = {.vector = vector, .has_error = has_error, .error = error};

    if (deliver_kind(c, kind, &x)) {
        return INSN_EXC;
    }
    c->step_rule = STEP_NEVER;
    if (kind == SOFT_EV_NMI) {
        c->nmi_blocked = true;
    }
    return 0;
}

int exc_icebp(struct scpu *c)
{
    struct event ev = {
        .vector = EXC_DB, .ext = 1, .rip = c->next_rip, .rflags = soft_get_rflags(c)};

    c->step_rule = STEP_NEVER;
    show_pending_db(c); /* a watchpoint that MOV SS held back comes with it */
    return deliver(c, &ev);
}

enum exc_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE_FAULT, CLASS_DOUBLE };

static enum exc_class classify(uint8_t vector)
{
    switch (vector) {
    case EXC_DE:
    case EXC_TS:
    case EXC_NP:
    case EXC_SS:
    case EXC_GP: return CLASS_CONTRIBUTORY;
    case EXC_PF: return CLASS_PAGE_FAULT;
    case EXC_DF: return CLASS_DOUBLE;
    }
    return CLASS_BENIGN;
}

/* SDM vol. 3A table 6-5. */
static bool makes_double(enum exc_class first, enum exc_class second)
{
    if (first == CLASS_CONTRIBUTORY) {
        return second == CLASS_CONTRIBUTORY;
    }
    return first == CLASS_PAGE_FAULT &&
           (second == CLASS_CONTRIBUTORY || second == CLASS_PAGE_FAULT);
}

bool soft_deliver_exception(struct scpu *c)
{
    enum exc_class first = CLASS_BENIGN;

    /* Each turn that fails raises a contributory fault or #PF, so this is at most five turns.
     */
    for (;;) {
        struct soft_exc x = c->exc;
        enum exc_class second = classify(x.vector);

        c->exc.pending = false;
        if (x.vector == EXC_PF) {
            c->cr2 = x.va;
        }
        if (first == CLASS_DOUBLE && second != CLASS_BENIGN) {
            return false;
        }
        if (makes_double(first, second)) {
            x = (struct soft_exc){.vector = EXC_DF, .has_error = true};
            second = CLASS_DOUBLE;
        }
        if (deliver_kind(c, SOFT_EV_EXCEPTION, &x) == 0) {
            return true;
        }
        first = second;
    }
}
