/*
 * Hardware task switches: both TSS formats, JMP, CALL and IRET, task gates, faults before and
 * after the commit point.
 */
#include "cpu/soft/sys_fake.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define SEL_TSS2   (SEL_FREE + 8)
#define SEL_TSS16  (SEL_FREE + 16)
#define SEL_GATE   (SEL_FREE + 24)
#define FAKE_TSS16 0x3800u

static int setup(void **state)
{
    struct fake *f = fake_new();

    *state = f;
    fake_protected(f, 0);
    fake_desc(f, SEL_TSS2, FAKE_TSS2, 0x67, 0x89, 0);
    fake_desc(f, SEL_TSS16, FAKE_TSS16, 0x2b, 0x81, 0);
    fake_gate(f, FAKE_GDT + SEL_GATE, 0xe5, SEL_TSS2, 0, 0);
    /* A task at 2000h on a stack at 6000h, its registers 0x100 + number. */
    fake_put(f, FAKE_TSS2 + 32, 0x2000, 4);
    fake_put(f, FAKE_TSS2 + 36, FL_1 | FL_CF, 4);
    for (unsigned i = 0; i < 8; i++) {
        fake_put(f, FAKE_TSS2 + 40 + i * 4, i == X86_RSP ? 0x6000 : 0x100 + i, 4);
    }
    for (unsigned i = 0; i < 6; i++) {
        fake_put(f, FAKE_TSS2 + 72 + i * 4, i == X86_CS ? SEL_CODE0 : SEL_DATA0, 2);
    }
    return 0;
}

static int teardown(void **state)
{
    fake_free(*state);
    return 0;
}

static enum insn_result far(struct fake *f, insn_fn *fn, uint16_t sel)
{
    struct insn in = fake_insn(f, 4);

    in.imm2 = sel;
    return fn(&f->c, &in);
}

static void jump_to_tss(void **state)
{
    struct fake *f = *state;

    f->c.gpr[X86_RSI] = 0xabcd;
    assert_int_equal(far(f, soft_insn_jmp_far_imm, SEL_TSS2), INSN_JUMP);
    assert_int_equal(f->c.rip, 0x2000);
    assert_int_equal(f->c.gpr[X86_RCX], 0x101);
    assert_int_equal(f->c.gpr[X86_RSP], 0x6000);
    assert_int_equal(soft_get_rflags(&f->c), FL_1 | FL_CF); /* no NT */
    assert_int_equal(f->c.tr.sel, SEL_TSS2);
    assert_true(f->c.cr0 & CR0_TS);
    /* Busy bits moved, the old task's state is in its TSS. */
    assert_int_equal(fake_get(f, FAKE_GDT + SEL_TSS + 5, 1), 0x89);
    assert_int_equal(fake_get(f, FAKE_GDT + SEL_TSS2 + 5, 1), 0x8b);
    assert_int_equal(fake_get(f, FAKE_TSS + 32, 4), 0x1002);
    assert_int_equal(fake_get(f, FAKE_TSS + 40 + X86_RSI * 4, 4), 0xabcd);
    assert_int_equal(fake_get(f, FAKE_TSS + 76, 2), SEL_CODE0);
}

static void call_and_return(void **state)
{
    struct fake *f = *state;

    f->c.dr[7] = 0x455;
    assert_int_equal(far(f, soft_insn_call_far_imm, SEL_GATE), INSN_JUMP);
    assert_true(f->c.sysflags & FL_NT);
    assert_int_equal(fake_get(f, FAKE_TSS2, 2), SEL_TSS); /* link */
    assert_int_equal(fake_get(f, FAKE_GDT + SEL_TSS + 5, 1), 0x8b);
    assert_int_equal(f->c.dr[7], 0x400); /* local breakpoints are gone */
    assert_int_equal(far(f, soft_insn_iret, 0), INSN_JUMP);
    assert_int_equal(f->c.tr.sel, SEL_TSS);
    assert_int_equal(f->c.rip, 0x1002);
    assert_int_equal(f->c.gpr[X86_RSP], FAKE_STACK);
    assert_int_equal(fake_get(f, FAKE_GDT + SEL_TSS2 + 5, 1), 0x89);
    assert_int_equal(fake_get(f, FAKE_TSS2 + 36, 4) & FL_NT, 0);
}

static void sixteen_bit_task(void **state)
{
    struct fake *f = *state;

    fake_put(f, FAKE_TSS16 + 14, 0x2100, 2);
    fake_put(f, FAKE_TSS16 + 16, FL_1 | FL_ZF, 2);
    for (unsigned i = 0; i < 8; i++) {
        fake_put(f, FAKE_TSS16 + 18 + i * 2, 0x4000 + i, 2);
    }
    for (unsigned i = 0; i < 4; i++) {
        fake_put(f, FAKE_TSS16 + 34 + i * 2, i == X86_CS ? SEL_CODE0 : SEL_DATA0, 2);
    }
    assert_int_equal(far(f, soft_insn_jmp_far_imm, SEL_TSS16), INSN_JUMP);
    assert_int_equal(f->c.rip, 0x2100);
    assert_int_equal(f->c.gpr[X86_RDI], 0xffff4007);
    assert_true(f->c.seg[X86_FS].attr & SEG_UNUSABLE);
    assert_int_equal(f->c.tr.attr & 0xf, SYS_TSS16_BUSY);
}

static void event_through_task_gate_pushes_error(void **state)
{
    struct fake *f = *state;

    fake_gate(f, FAKE_IDT + 13 * 8, 0x85, SEL_TSS2, 0, 0);
    soft_raise_err(&f->c, EXC_GP, 0x1234);
    assert_true(soft_deliver_exception(&f->c));
    assert_int_equal(f->c.rip, 0x2000);
    assert_int_equal(f->c.gpr[X86_RSP], 0x6000 - 4);
    assert_int_equal(fake_get(f, 0x6000 - 4, 4), 0x1234);
    assert_int_equal(fake_get(f, FAKE_TSS + 32, 4), 0x1000); /* a fault: this instruction */
}

static void faults_before_commit(void **state)
{
    struct fake *f = *state;

    assert_int_equal(far(f, soft_insn_jmp_far_imm, SEL_TSS), INSN_EXC); /* busy: itself */
    fake_expect(f, EXC_GP, SEL_TSS);
    fake_desc(f, SEL_TSS2, FAKE_TSS2, 0x66, 0x89, 0);
    assert_int_equal(far(f, soft_insn_jmp_far_imm, SEL_TSS2), INSN_EXC);
    fake_expect(f, EXC_TS, SEL_TSS2);
    fake_desc(f, SEL_TSS2, FAKE_TSS2, 0x67, 0x09, 0);
    assert_int_equal(far(f, soft_insn_jmp_far_imm, SEL_TSS2), INSN_EXC);
    fake_expect(f, EXC_NP, SEL_TSS2);
    fake_desc(f, SEL_TSS2, FAKE_TSS2, 0x67, 0x8b, 0);
    assert_int_equal(far(f, soft_insn_call_far_imm, SEL_GATE), INSN_EXC);
    fake_expect(f, EXC_GP, SEL_TSS2);
    assert_int_equal(f->c.tr.sel, SEL_TSS);
    /* IRET with NT to something that is no busy TSS. */
    f->c.sysflags |= FL_NT;
    fake_put(f, FAKE_TSS, SEL_TSS16, 2);
    assert_int_equal(far(f, soft_insn_iret, 0), INSN_EXC);
    fake_expect(f, EXC_TS, SEL_TSS16);
    fake_put(f, FAKE_TSS, 0x400, 2);
    assert_int_equal(far(f, soft_insn_iret, 0), INSN_EXC);
    fake_expect(f, EXC_TS, 0x400);
    fake_protected(f, 3);
    fake_desc(f, SEL_TSS2, FAKE_TSS2, 0x67, 0x89, 0);
    assert_int_equal(far(f, soft_insn_jmp_far_imm, SEL_TSS2), INSN_EXC); /* DPL */
    fake_expect(f, EXC_GP, SEL_TSS2);
}

static void faults_in_new_task(void **state)
{
    struct fake *f = *state;

    fake_put(f, FAKE_TSS2 + 80, SEL_DATA3, 2); /* SS */
    assert_int_equal(far(f, soft_insn_jmp_far_imm, SEL_TSS2), INSN_EXC);
    fake_expect(f, EXC_TS, SEL_DATA3 & ~3u);
    assert_int_equal(f->c.tr.sel, SEL_TSS2); /* it is the new task that faults */
    assert_int_equal(f->c.rip, 0x2000);
    assert_int_equal(fake_get(f, FAKE_TSS + 32, 4), 0x1002);
}

static void into_vm86(void **state)
{
    struct fake *f = *state;

    fake_put(f, FAKE_TSS2 + 36, FL_1 | FL_VM, 4);
    fake_put(f, FAKE_TSS2 + 76, 0x1000, 2);
    assert_int_equal(far(f, soft_insn_jmp_far_imm, SEL_TSS2), INSN_JUMP);
    assert_int_equal(f->c.cpl, 3);
    assert_int_equal(f->c.seg[X86_CS].base, 0x10000);
    assert_true(f->c.mode & MODE_VM86);
}

static void trap_bit_raises_debug(void **state)
{
    struct fake *f = *state;

    fake_put(f, FAKE_TSS2 + 100, 1, 1);
    assert_int_equal(far(f, soft_insn_jmp_far_imm, SEL_TSS2), INSN_JUMP);
    assert_int_equal(f->c.pending_db, 0x8000);
}

static void loads_cr3_with_paging(void **state)
{
    struct fake *f = *state;

    f->c.cr0 |= CR0_PG;
    fake_put(f, FAKE_TSS2 + 28, 0x77000, 4);
    assert_int_equal(far(f, soft_insn_jmp_far_imm, SEL_TSS2), INSN_JUMP);
    assert_int_equal(f->c.cr3, 0x77000);
    assert_int_equal(f->n_flush_nonglobal, 1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(jump_to_tss),
        T(call_and_return),
        T(sixteen_bit_task),
        T(event_through_task_gate_pushes_error),
        T(faults_before_commit),
        T(faults_in_new_task),
        T(into_vm86),
        T(trap_bit_raises_debug),
        T(loads_cr3_with_paging),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
