/*
 * Event delivery: gates of every mode, privilege changes, frames, faults, double and triple
 * faults.
 */
#include "cpu/soft/exc.h"
#include "cpu/soft/sys_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static int setup(void **state)
{
    *state = fake_new();
    return 0;
}

static int teardown(void **state)
{
    fake_free(*state);
    return 0;
}

static void real_mode_pushes_three_words(void **state)
{
    struct fake *f = *state;

    fake_put(f, 0x21 * 4, 0x20001234, 4);
    soft_set_rflags(&f->c, FL_1 | FL_IF | FL_CF);
    f->c.next_rip = 0x102;
    assert_int_equal(soft_deliver_event(&f->c, SOFT_EV_SOFT_INT, 0x21, false, 0), 0);
    assert_int_equal(f->c.rip, 0x1234);
    assert_int_equal(f->c.seg[X86_CS].sel, 0x2000);
    assert_int_equal(f->c.seg[X86_CS].base, 0x20000);
    assert_int_equal(f->c.gpr[X86_RSP], FAKE_STACK - 6);
    assert_int_equal(fake_get(f, FAKE_STACK - 6, 2), 0x102);
    assert_int_equal(fake_get(f, FAKE_STACK - 2, 2), 0x203);
    assert_int_equal(soft_get_rflags(&f->c) & FL_IF, 0);
}

static void real_mode_beyond_table_ends_in_shutdown(void **state)
{
    struct fake *f = *state;

    f->c.idtr.limit = 0x10; /* not even #DF is there */
    soft_raise(&f->c, EXC_UD);
    assert_false(soft_deliver_exception(&f->c));
}

static void interrupt_gate_same_level(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 0);
    fake_idt_gate(f, 0x20, 0x8e, SEL_CODE0, 0x4000);
    assert_int_equal(soft_deliver_event(&f->c, SOFT_EV_EXTERNAL, 0x20, false, 0), 0);
    assert_int_equal(f->c.rip, 0x4000);
    assert_int_equal(f->c.gpr[X86_RSP], FAKE_STACK - 12);
    assert_int_equal(fake_get(f, FAKE_STACK - 12, 4), 0x1000);
    assert_int_equal(fake_get(f, FAKE_STACK - 8, 4), SEL_CODE0);
    assert_int_equal(fake_get(f, FAKE_STACK - 4, 4), FL_1 | FL_IF);
    assert_int_equal(f->c.sysflags & FL_IF, 0);
}

static void trap_gate_keeps_if_and_16_bit_gate_pushes_words(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 0);
    fake_idt_gate(f, 0x20, 0x87, SEL_CODE0, 0x99994000);
    assert_int_equal(soft_deliver_event(&f->c, SOFT_EV_EXTERNAL, 0x20, false, 0), 0);
    assert_int_equal(f->c.rip, 0x4000);
    assert_int_equal(f->c.gpr[X86_RSP], FAKE_STACK - 6);
    assert_true(f->c.sysflags & FL_IF);
}

static uint32_t draw(uint32_t *seed, uint32_t below)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (*seed >> 8) % below;
}

/* One of the many things that can be wrong with, or unusual about, a gate and where it leads.
 */
static void disturb(struct fake *f, uint32_t *seed)
{
    switch (draw(seed, 9)) {
    case 0:
        f->mem[FAKE_IDT + 0x30 * 16 + draw(seed, 16)] ^= (uint8_t)(1u << draw(seed, 8));
        break;
    case 1:
        f->mem[FAKE_GDT + SEL_CODE0 + draw(seed, 8)] ^= (uint8_t)(1u << draw(seed, 8));
        break;
    case 2: f->c.gdtr.limit = (uint16_t)draw(seed, 32); break;
    case 3: f->c.idtr.limit = (uint16_t)(0x2f8 + draw(seed, 32)); break;
    case 4: f->c.tr.limit = draw(seed, 0x40); break;
    case 5: f->mem[FAKE_TSS + 4 + draw(seed, 8)] ^= (uint8_t)(1u << draw(seed, 8)); break;
    case 6: f->c.gpr[X86_RSP] = 0x8000 - draw(seed, 64); break;
    case 7: f->c.gpr[X86_RSP] = UINT64_C(0x0000800000000000) - draw(seed, 64); break;
    case 8: fake_put(f, FAKE_IDT + 0x30 * 16 + 4, draw(seed, 8), 1); break;
    }
}

/* Delivery by entries of the TLB does what delivery by checked accesses does. */
static void fast_delivery_is_the_slow_one(void **state)
{
    struct fake *slow = *state;
    uint32_t seed = 1;
    unsigned delivered = 0;

    for (unsigned i = 0; i < 1000; i++) {
        struct fake *fast = fake_new();
        uint32_t from = seed;
        for (unsigned k = 0; k < 2; k++) {
            struct fake *f = k ? fast : slow;
            seed = from;
            fake_long(f, draw(&seed, 2) ? 3 : 0);
            f->mem[FAKE_GDT + SEL_CODE0 + 5] |= 1; /* accessed */
            fake_idt_gate(f, 0x30, draw(&seed, 2) ? 0x8e : 0xef, SEL_CODE0, 0x123456789abc);
            for (unsigned n = draw(&seed, 3); n > 0; n--) {
                disturb(f, &seed);
            }
            fake_fill_tlb(f, f == fast);
            bool has_error = draw(&seed, 2);
            enum soft_event kind = draw(&seed, 2) ? SOFT_EV_EXTERNAL : SOFT_EV_SOFT_INT;
            if (soft_deliver_event(&f->c, kind, 0x30, has_error, 0xabcd) == 0) {
                delivered++;
            }
        }
        assert_true(fake_same(slow, fast));
        fake_free(slow);
        *state = slow = fake_new();
        fake_free(fast);
    }
    assert_true(delivered > 400);
    /* It does not go by checked accesses at all. */
    fake_long(slow, 3);
    slow->mem[FAKE_GDT + SEL_CODE0 + 5] |= 1;
    fake_idt_gate(slow, 0x30, 0x8e, SEL_CODE0, 0x4000);
    fake_fill_tlb(slow, true);
    memset(slow->absent, 1, sizeof(slow->absent));
    assert_int_equal(soft_deliver_event(&slow->c, SOFT_EV_EXTERNAL, 0x30, false, 0), 0);
}

static void inner_level_takes_stack_from_tss(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 3);
    fake_idt_gate(f, 13, 0x8e, SEL_CODE0, 0x4000);
    soft_raise_err(&f->c, EXC_GP, 0x50);
    assert_true(soft_deliver_exception(&f->c));
    assert_int_equal(f->c.cpl, 0);
    assert_int_equal(f->c.seg[X86_SS].sel, SEL_DATA0);
    assert_int_equal(f->c.gpr[X86_RSP], 0x7000 - 24);
    assert_int_equal(fake_get(f, 0x7000 - 24, 4), 0x50);
    assert_int_equal(fake_get(f, 0x7000 - 12, 4), FL_1 | FL_IF | FL_RF); /* a fault */
    assert_int_equal(fake_get(f, 0x7000 - 8, 4), FAKE_STACK);
    assert_int_equal(fake_get(f, 0x7000 - 4, 4), SEL_DATA3);
}

static void software_interrupt_needs_gate_dpl(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 3);
    fake_idt_gate(f, 0x30, 0x8e, SEL_CODE0, 0x4000);
    assert_int_not_equal(soft_deliver_event(&f->c, SOFT_EV_SOFT_INT, 0x30, false, 0), 0);
    fake_expect(f, EXC_GP, 0x30 * 8 + 2); /* EXT clear */
    fake_idt_gate(f, 0x30, 0xee, SEL_CODE0, 0x4000);
    f->c.next_rip = 0x1002;
    assert_int_equal(soft_deliver_event(&f->c, SOFT_EV_SOFT_INT, 0x30, false, 0), 0);
    assert_int_equal(fake_get(f, 0x7000 - 20, 4), 0x1002);
}

static void gate_faults_have_ext_bit(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 0);
    fake_idt_gate(f, 0x30, 0x0e, SEL_CODE0, 0x4000); /* not present */
    assert_int_not_equal(soft_deliver_event(&f->c, SOFT_EV_EXTERNAL, 0x30, false, 0), 0);
    fake_expect(f, EXC_NP, 0x30 * 8 + 3);
    fake_idt_gate(f, 0x30, 0x8e, SEL_DATA0, 0x4000); /* not code */
    assert_int_not_equal(soft_deliver_event(&f->c, SOFT_EV_EXTERNAL, 0x30, false, 0), 0);
    fake_expect(f, EXC_GP, SEL_DATA0 + 1);
    fake_idt_gate(f, 0x30, 0x8e, 0, 0x4000);
    assert_int_not_equal(soft_deliver_event(&f->c, SOFT_EV_EXTERNAL, 0x30, false, 0), 0);
    fake_expect(f, EXC_GP, 1);
    fake_idt_gate(f, 0x30, 0x80, SEL_CODE0, 0x4000); /* no gate */
    assert_int_not_equal(soft_deliver_event(&f->c, SOFT_EV_NMI, 0x30, false, 0), 0);
    fake_expect(f, EXC_GP, 0x30 * 8 + 3);
    assert_false(f->c.nmi_blocked);
    f->c.idtr.limit = 0x30 * 8;
    assert_int_not_equal(soft_deliver_event(&f->c, SOFT_EV_EXTERNAL, 0x30, false, 0), 0);
    fake_expect(f, EXC_GP, 0x30 * 8 + 3);
}

static void bad_inner_stack_is_invalid_tss(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 3);
    fake_idt_gate(f, 0x30, 0x8e, SEL_CODE0, 0x4000);
    fake_put(f, FAKE_TSS + 8, SEL_DATA3, 2);
    assert_int_not_equal(soft_deliver_event(&f->c, SOFT_EV_EXTERNAL, 0x30, false, 0), 0);
    fake_expect(f, EXC_TS, (SEL_DATA3 & ~3u) + 1);
    fake_put(f, FAKE_TSS + 8, SEL_NP, 2);
    assert_int_not_equal(soft_deliver_event(&f->c, SOFT_EV_EXTERNAL, 0x30, false, 0), 0);
    fake_expect(f, EXC_SS, SEL_NP + 1);
    f->c.tr.limit = 8;
    assert_int_not_equal(soft_deliver_event(&f->c, SOFT_EV_EXTERNAL, 0x30, false, 0), 0);
    fake_expect(f, EXC_TS, SEL_TSS + 1);
    /* Nothing of the interrupted program has changed. */
    assert_int_equal(f->c.cpl, 3);
    assert_int_equal(f->c.rip, 0x1000);
    assert_int_equal(f->c.gpr[X86_RSP], FAKE_STACK);
}

static void vm86_pushes_data_segments_and_nulls_them(void **state)
{
    struct fake *f = *state;

    fake_vm86(f, 3);
    fake_idt_gate(f, 0x20, 0x8e, SEL_CODE0, 0x4000);
    assert_int_equal(soft_deliver_event(&f->c, SOFT_EV_EXTERNAL, 0x20, false, 0), 0);
    assert_int_equal(f->c.gpr[X86_RSP], 0x7000 - 36);
    assert_int_equal(fake_get(f, 0x7000 - 4, 4), 0x10 * X86_GS);
    assert_int_equal(fake_get(f, 0x7000 - 16, 4), 0x10 * X86_ES);
    assert_int_equal(fake_get(f, 0x7000 - 24, 4), 0x7f00);
    assert_true(fake_get(f, 0x7000 - 28, 4) & FL_VM);
    assert_int_equal(f->c.sysflags & FL_VM, 0);
    assert_int_equal(f->c.seg[X86_DS].sel, 0);
    assert_true(f->c.seg[X86_GS].attr & SEG_UNUSABLE);
    /* A conforming handler cannot be entered from here. */
    fake_vm86(f, 3);
    fake_idt_gate(f, 0x20, 0x8e, SEL_CONF0, 0x4000);
    assert_int_not_equal(soft_deliver_event(&f->c, SOFT_EV_EXTERNAL, 0x20, false, 0), 0);
    fake_expect(f, EXC_GP, SEL_CONF0 + 1);
}

static void long_mode_aligns_and_always_pushes_stack(void **state)
{
    struct fake *f = *state;

    fake_long(f, 0);
    fake_idt_gate(f, 0x20, 0x8e, SEL_CODE0, 0xffff800000004000);
    f->c.gpr[X86_RSP] = FAKE_STACK - 3;
    assert_int_equal(soft_deliver_event(&f->c, SOFT_EV_NMI, 0x20, false, 0), 0);
    assert_true(f->c.nmi_blocked);
    assert_int_equal(f->c.rip, 0xffff800000004000);
    assert_int_equal(f->c.gpr[X86_RSP], FAKE_STACK - 16 - 40);
    assert_int_equal(fake_get(f, FAKE_STACK - 16 - 8, 8), SEL_DATA0);
    assert_int_equal(fake_get(f, FAKE_STACK - 16 - 16, 8), FAKE_STACK - 3);
    assert_int_equal(f->c.seg[X86_SS].sel, SEL_DATA0); /* no change of level: SS stays */
}

static void long_mode_user_to_kernel_nulls_ss(void **state)
{
    struct fake *f = *state;

    fake_long(f, 3);
    fake_idt_gate(f, 14, 0x8e, SEL_CODE0, 0x4000);
    soft_raise_pf(&f->c, 0xdead000, 6);
    assert_true(soft_deliver_exception(&f->c));
    assert_int_equal(f->c.cr2, 0xdead000);
    assert_int_equal(f->c.cpl, 0);
    assert_int_equal(f->c.seg[X86_SS].sel, 0);
    assert_true(f->c.seg[X86_SS].attr & SEG_UNUSABLE);
    assert_int_equal(f->c.gpr[X86_RSP], 0x7000 - 48);
    assert_int_equal(fake_get(f, 0x7000 - 48, 8), 6);
}

static void ist_is_used_without_level_change(void **state)
{
    struct fake *f = *state;

    fake_long(f, 0);
    fake_gate(f, FAKE_IDT + 2 * 16, 0x8e, SEL_CODE0, 0x4000, 1);
    assert_int_equal(soft_deliver_event(&f->c, SOFT_EV_NMI, 2, false, 0), 0);
    assert_int_equal(f->c.gpr[X86_RSP], 0x6000 - 40);
}

static void long_mode_refuses_other_gates_and_code(void **state)
{
    struct fake *f = *state;

    fake_long(f, 0);
    fake_idt_gate(f, 0x20, 0x85, SEL_TSS, 0);
    assert_int_not_equal(soft_deliver_event(&f->c, SOFT_EV_EXTERNAL, 0x20, false, 0), 0);
    fake_expect(f, EXC_GP, 0x103);
    fake_idt_gate(f, 0x20, 0x8e, SEL_CODE16, 0x4000);
    assert_int_not_equal(soft_deliver_event(&f->c, SOFT_EV_EXTERNAL, 0x20, false, 0), 0);
    fake_expect(f, EXC_GP, SEL_CODE16 + 1);
    fake_idt_gate(f, 0x20, 0x8e, SEL_CODE0, 0x8000000000000000);
    assert_int_not_equal(soft_deliver_event(&f->c, SOFT_EV_EXTERNAL, 0x20, false, 0), 0);
    fake_expect(f, EXC_GP, 1);
    fake_put(f, FAKE_TSS + 4, UINT64_C(1) << 60, 8);
    fake_long(f, 3);
    fake_put(f, FAKE_TSS + 4, UINT64_C(1) << 60, 8);
    fake_idt_gate(f, 0x20, 0x8e, SEL_CODE0, 0x4000);
    assert_int_not_equal(soft_deliver_event(&f->c, SOFT_EV_EXTERNAL, 0x20, false, 0), 0);
    fake_expect(f, EXC_SS, 1);
}

/* ---- double and triple faults ---- */

static void contributory_pair_is_double_fault(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 0);
    fake_idt_gate(f, 8, 0x8e, SEL_CODE0, 0x5000);
    soft_raise_err(&f->c, EXC_GP, 0x18); /* its gate is missing */
    assert_true(soft_deliver_exception(&f->c));
    assert_int_equal(f->c.rip, 0x5000);
    assert_int_equal(f->c.gpr[X86_RSP], FAKE_STACK - 16);
    assert_int_equal(fake_get(f, FAKE_STACK - 16, 4), 0);
}

static void fault_after_benign_is_serial(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 0);
    fake_idt_gate(f, 13, 0x8e, SEL_CODE0, 0x5000);
    soft_raise(&f->c, EXC_UD); /* missing gate: #GP, not #DF */
    assert_true(soft_deliver_exception(&f->c));
    assert_int_equal(f->c.rip, 0x5000);
    assert_int_equal(fake_get(f, FAKE_STACK - 16, 4), 6 * 8 + 3);
}

static void page_fault_during_gp_is_serial_but_gp_during_pf_is_double(void **state)
{
    struct fake *f = *state;

    /* #GP whose stack is absent: #PF, for which the same stack is absent: #DF by task or IST.
     */
    fake_long(f, 3);
    fake_idt_gate(f, 13, 0x8e, SEL_CODE0, 0x4d00);
    fake_gate(f, FAKE_IDT + 14 * 16, 0x8e, SEL_CODE0, 0x4e00, 1);
    fake_gate(f, FAKE_IDT + 8 * 16, 0x8e, SEL_CODE0, 0x4800, 1);
    f->absent[6] = true; /* below 7000h: the RSP0 stack */
    fake_put(f, FAKE_TSS + 36, 0x5800, 8);
    soft_raise_err(&f->c, EXC_GP, 0);
    assert_true(soft_deliver_exception(&f->c));
    assert_int_equal(f->c.rip, 0x4e00);
    assert_int_equal(f->c.cr2, 0x7000 - 8); /* the first push */

    fake_long(f, 3);
    fake_put(f, FAKE_TSS + 36, 0x5800, 8);
    fake_put(f, FAKE_IDT + 14 * 16 + 5, 0, 1); /* #PF gate not present */
    soft_raise_pf(&f->c, 0x123, 4);
    assert_true(soft_deliver_exception(&f->c));
    assert_int_equal(f->c.rip, 0x4800);
}

static void triple_fault_is_reported(void **state)
{
    struct fake *f = *state;

    fake_long(f, 0);
    f->c.idtr.limit = 0;
    soft_raise_pf(&f->c, 0x123, 4);
    assert_false(soft_deliver_exception(&f->c));
}

static void debug_exception_fills_dr6(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 0);
    fake_idt_gate(f, 1, 0x8e, SEL_CODE0, 0x5000);
    f->c.dr[6] = 0xffff0ff1;
    f->c.dr[7] = 0x2400;
    f->c.pending_db = 0x4000;
    soft_raise(&f->c, EXC_DB);
    assert_true(soft_deliver_exception(&f->c));
    assert_int_equal(f->c.dr[6], 0xffff4ff0);
    assert_int_equal(f->c.dr[7], 0x400); /* GD cleared */
    assert_int_equal(fake_get(f, FAKE_STACK - 4, 4) & FL_RF, 0);
    assert_int_equal(f->c.pending_db, 0);
}

static void int1_skips_dpl_check(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 3);
    fake_idt_gate(f, 1, 0x8e, SEL_CODE0, 0x5000);
    struct insn in = fake_insn(f, 4);
    assert_int_equal(soft_insn_int1(&f->c, &in), INSN_JUMP);
    assert_int_equal(f->c.rip, 0x5000);
    assert_int_equal(fake_get(f, 0x7000 - 20, 4), 0x1002);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(real_mode_pushes_three_words),
        T(real_mode_beyond_table_ends_in_shutdown),
        T(interrupt_gate_same_level),
        T(trap_gate_keeps_if_and_16_bit_gate_pushes_words),
        T(inner_level_takes_stack_from_tss),
        T(fast_delivery_is_the_slow_one),
        T(software_interrupt_needs_gate_dpl),
        T(gate_faults_have_ext_bit),
        T(bad_inner_stack_is_invalid_tss),
        T(vm86_pushes_data_segments_and_nulls_them),
        T(long_mode_aligns_and_always_pushes_stack),
        T(long_mode_user_to_kernel_nulls_ss),
        T(ist_is_used_without_level_change),
        T(long_mode_refuses_other_gates_and_code),
        T(contributory_pair_is_double_fault),
        T(fault_after_benign_is_serial),
        T(page_fault_during_gp_is_serial_but_gp_during_pf_is_double),
        T(triple_fault_is_reported),
        T(debug_exception_fills_dr6),
        T(int1_skips_dpl_check),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
