/*
 * Segment limits and rights, segment register loads, descriptor inspection, system registers.
 */
#include "cpu/soft/sys_fake.h"

#include <setjmp.h>
#include <stdarg.h>

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

static bool reaches(struct fake *f, enum x86_seg seg, uint64_t off, unsigned len, bool write)
{
    uint64_t va;
    bool ok = soft_seg_linear(&f->c, seg, off, len, write, &va) == 0;

    if (!ok) {
        fake_expect(f, seg == X86_SS ? EXC_SS : EXC_GP, 0);
    }
    return ok;
}

static void limits(void **state)
{
    struct fake *f = *state;

    assert_true(reaches(f, X86_DS, 0xfffe, 2, true));
    assert_false(reaches(f, X86_DS, 0xffff, 2, true));
    assert_false(reaches(f, X86_SS, 0x10000, 1, false));
    fake_protected(f, 0);
    fake_desc(f, SEL_FREE, 0x1000, 0xfff, 0x96, 0x4); /* expand down, 32-bit */
    assert_int_equal(seg_load(&f->c, X86_DS, SEL_FREE), 0);
    soft_update_mode(&f->c);
    assert_false(reaches(f, X86_DS, 0xfff, 1, true));
    assert_true(reaches(f, X86_DS, 0x1000, 4, true));
    assert_true(reaches(f, X86_DS, 0xfffffffc, 4, true));
    assert_false(reaches(f, X86_DS, 0xfffffffd, 4, true));
    fake_desc(f, SEL_FREE, 0x1000, 0xfff, 0x96, 0); /* 16-bit: up to 64 KiB */
    assert_int_equal(seg_load(&f->c, X86_DS, SEL_FREE), 0);
    assert_true(reaches(f, X86_DS, 0xfffe, 2, true));
    assert_false(reaches(f, X86_DS, 0xffff, 2, true));
}

static void rights(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 0);
    assert_true(reaches(f, X86_CS, 0, 4, false));
    assert_false(reaches(f, X86_CS, 0, 4, true));
    fake_desc(f, SEL_FREE, 0, 0xfffff, 0x90, 0xc); /* read-only */
    assert_int_equal(seg_load(&f->c, X86_ES, SEL_FREE), 0);
    assert_true(reaches(f, X86_ES, 0, 4, false));
    assert_false(reaches(f, X86_ES, 0, 4, true));
    assert_int_equal(seg_load(&f->c, X86_ES, 0), 0);
    assert_false(reaches(f, X86_ES, 0, 1, false));
    fake_desc(f, SEL_FREE, 0, 0xfffff, 0x98, 0xc); /* execute-only */
    struct insn in = fake_insn(f, 4);
    in.imm2 = SEL_FREE;
    in.imm = 0x10;
    assert_int_equal(soft_insn_jmp_far_imm(&f->c, &in), INSN_JUMP);
    assert_false(reaches(f, X86_CS, 0, 1, false));
    assert_int_not_equal(seg_load(&f->c, X86_ES, SEL_FREE), 0);
    fake_expect(f, EXC_GP, SEL_FREE);
}

static void long_mode_canonical(void **state)
{
    struct fake *f = *state;
    uint64_t va;

    fake_long(f, 0);
    assert_true(reaches(f, X86_DS, 0x7ffffffffffe, 1, true));
    assert_false(reaches(f, X86_DS, 0x7fffffffffff, 2, true));
    assert_false(reaches(f, X86_SS, 0x800000000000, 2, true));
    f->c.seg[X86_DS].base = 0x5000; /* ignored */
    f->c.seg[X86_FS].base = 0x5000;
    soft_update_mode(&f->c);
    assert_int_equal(soft_seg_linear(&f->c, X86_DS, 1, 1, false, &va), 0);
    assert_int_equal(va, 1);
    assert_int_equal(soft_seg_linear(&f->c, X86_FS, 1, 1, false, &va), 0);
    assert_int_equal(va, 0x5001);
}

static void addresses_wrap(void **state)
{
    struct fake *f = *state;

    f->c.gpr[X86_RBX] = 0xfffffff0;
    f->c.gpr[X86_RSI] = 0x20;
    struct insn in = fake_insn_mem(f, 2, 8);
    in.base = X86_RBX;
    in.index = X86_RSI;
    in.asize = 2;
    assert_int_equal(soft_ea(&f->c, &in), 0x18);
    in.asize = 4;
    in.scale = 2;
    assert_int_equal(soft_ea(&f->c, &in), 0x78);
    in.asize = 8;
    assert_int_equal(soft_ea(&f->c, &in), 0x100000078);
    in.base = INSN_RIP;
    in.index = INSN_NOREG;
    assert_int_equal(soft_ea(&f->c, &in), 0x102 + 8);
}

static enum insn_result mov_seg(struct fake *f, enum x86_seg seg, uint16_t sel)
{
    struct insn in = fake_insn(f, 4);

    in.reg = (uint8_t)seg;
    in.rm = X86_RAX;
    f->c.gpr[X86_RAX] = sel;
    return soft_insn_mov_to_sreg(&f->c, &in);
}

static void loads(void **state)
{
    struct fake *f = *state;

    assert_int_equal(mov_seg(f, X86_DS, 0x1234), INSN_NEXT);
    assert_int_equal(f->c.seg[X86_DS].base, 0x12340);
    fake_protected(f, 3);
    assert_int_equal(mov_seg(f, X86_CS, SEL_DATA3), INSN_EXC);
    fake_expect(f, EXC_UD, 0);
    assert_int_equal(mov_seg(f, X86_DS, SEL_DATA0), INSN_EXC);
    fake_expect(f, EXC_GP, SEL_DATA0);
    assert_int_equal(mov_seg(f, X86_DS, SEL_CONF0), INSN_NEXT); /* readable, conforming */
    assert_int_equal(mov_seg(f, X86_DS, SEL_CODE0), INSN_EXC);
    fake_expect(f, EXC_GP, SEL_CODE0);
    fake_desc(f, SEL_FREE, 0, 0xfffff, 0x72, 0xc);
    assert_int_equal(mov_seg(f, X86_GS, SEL_FREE), INSN_EXC);
    fake_expect(f, EXC_NP, SEL_FREE);
    assert_int_equal(mov_seg(f, X86_SS, 0), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(mov_seg(f, X86_SS, SEL_DATA3 & ~3u), INSN_EXC); /* RPL */
    fake_expect(f, EXC_GP, SEL_DATA3 & ~3u);
    assert_int_equal(mov_seg(f, X86_SS, SEL_FREE | 3), INSN_EXC);
    fake_expect(f, EXC_SS, SEL_FREE);
    assert_int_equal(mov_seg(f, X86_SS, SEL_DATA3), INSN_NEXT_FLUSH);
    assert_int_equal(f->c.irq_shadow, 2);
    /* The accessed bit was set in memory. */
    assert_int_equal(fake_get(f, FAKE_GDT + (SEL_DATA3 & ~7u) + 5, 1), 0xf3);
    /* 64-bit code below level 3 may have a null SS of its own RPL. */
    fake_long(f, 0);
    assert_int_equal(mov_seg(f, X86_SS, 0), INSN_NEXT_FLUSH);
    assert_int_equal(mov_seg(f, X86_SS, 3), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
}

static void local_table(void **state)
{
    struct fake *f = *state;
    struct insn in;

    fake_protected(f, 0);
    fake_desc(f, 0xc, 0x5000, 0xff, 0x92, 4);
    assert_int_equal(mov_seg(f, X86_ES, 0xc), INSN_EXC);
    fake_expect(f, EXC_GP, 0xc);
    in = fake_insn(f, 2);
    f->c.gpr[X86_RAX] = SEL_LDT;
    assert_int_equal(soft_insn_lldt(&f->c, &in), INSN_NEXT_FLUSH);
    assert_int_equal(mov_seg(f, X86_ES, 0xc), INSN_NEXT);
    assert_int_equal(f->c.seg[X86_ES].base, 0x5000);
    in = fake_insn(f, 2);
    f->c.gpr[X86_RAX] = SEL_TSS;
    assert_int_equal(soft_insn_lldt(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, SEL_TSS);
    f->c.gpr[X86_RAX] = 0;
    assert_int_equal(soft_insn_lldt(&f->c, &in), INSN_NEXT_FLUSH);
    assert_true(f->c.ldtr.attr & SEG_UNUSABLE);
}

static void task_register(void **state)
{
    struct fake *f = *state;
    struct insn in;

    fake_long(f, 0);
    in = fake_insn(f, 2);
    f->c.gpr[X86_RAX] = SEL_TSS; /* busy */
    assert_int_equal(soft_insn_ltr(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, SEL_TSS);
    fake_put(f, FAKE_GDT + SEL_TSS + 5, 0x89, 1);
    fake_put(f, FAKE_GDT + SEL_TSS + 8, 0xffff8000, 4);
    assert_int_equal(soft_insn_ltr(&f->c, &in), INSN_NEXT_FLUSH);
    assert_int_equal(f->c.tr.base, 0xffff800000000000 | FAKE_TSS);
    assert_int_equal(fake_get(f, FAKE_GDT + SEL_TSS + 5, 1), 0x8b);
    fake_put(f, FAKE_GDT + SEL_TSS + 5, 0x81, 1); /* 16-bit TSS: not in long mode */
    assert_int_equal(soft_insn_ltr(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, SEL_TSS);
    f->c.gpr[X86_RAX] = 0;
    assert_int_equal(soft_insn_ltr(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    f->c.cpl = 3;
    assert_int_equal(soft_insn_ltr(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
}

static bool zf(const struct fake *f)
{
    return (soft_get_rflags(&f->c) & FL_ZF) != 0;
}

static void inspection(void **state)
{
    struct fake *f = *state;
    struct insn in;

    in = fake_insn(f, 4);
    assert_int_equal(soft_insn_lar(&f->c, &in), INSN_EXC); /* real mode */
    fake_expect(f, EXC_UD, 0);
    fake_protected(f, 3);
    in = fake_insn(f, 4);
    in.reg = X86_RCX;
    f->c.gpr[X86_RAX] = SEL_DATA3;
    assert_int_equal(soft_insn_lar(&f->c, &in), INSN_NEXT);
    assert_true(zf(f));
    assert_int_equal(f->c.gpr[X86_RCX], 0xc0f200);
    assert_int_equal(soft_insn_lsl(&f->c, &in), INSN_NEXT);
    assert_int_equal(f->c.gpr[X86_RCX], 0xffffffff);
    assert_int_equal(soft_insn_verw(&f->c, &in), INSN_NEXT);
    assert_true(zf(f));
    f->c.gpr[X86_RAX] = SEL_DATA0; /* not visible at level 3 */
    assert_int_equal(soft_insn_lar(&f->c, &in), INSN_NEXT);
    assert_false(zf(f));
    assert_int_equal(f->c.gpr[X86_RCX], 0xffffffff);
    f->c.gpr[X86_RAX] = SEL_CONF0;
    assert_int_equal(soft_insn_verr(&f->c, &in), INSN_NEXT);
    assert_true(zf(f));
    assert_int_equal(soft_insn_verw(&f->c, &in), INSN_NEXT);
    assert_false(zf(f));
    f->c.gpr[X86_RAX] = 0x1000; /* beyond the table: an answer */
    assert_int_equal(soft_insn_verr(&f->c, &in), INSN_NEXT);
    assert_false(zf(f));
    fake_expect(f, -1, 0);
    f->absent[FAKE_GDT >> 12] = true; /* the table itself is absent: a fault */
    f->c.gpr[X86_RAX] = SEL_DATA3;
    assert_int_equal(soft_insn_verr(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_PF, 0);
    f->absent[FAKE_GDT >> 12] = false;
    fake_protected(f, 0);
    in = fake_insn(f, 4);
    f->c.gpr[X86_RAX] = SEL_TSS;
    in.reg = X86_RCX;
    assert_int_equal(soft_insn_lsl(&f->c, &in), INSN_NEXT);
    assert_true(zf(f));
    assert_int_equal(f->c.gpr[X86_RCX], 0x3ff);
}

static void arpl(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 3);
    fake_put(f, 0x9000, 0x1230, 2);
    struct insn in = fake_insn_mem(f, 2, 0x9000);
    in.reg = X86_RCX;
    f->c.gpr[X86_RCX] = 3;
    assert_int_equal(soft_insn_arpl(&f->c, &in), INSN_NEXT);
    assert_true(zf(f));
    assert_int_equal(fake_get(f, 0x9000, 2), 0x1233);
    f->c.seg[X86_DS].attr &= (uint16_t)~2u; /* read-only: nothing is written, no fault */
    assert_int_equal(soft_insn_arpl(&f->c, &in), INSN_NEXT);
    assert_false(zf(f));
    fake_put(f, 0x9000, 0x1230, 2);
    assert_int_equal(soft_insn_arpl(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
}

static void descriptor_tables(void **state)
{
    struct fake *f = *state;
    struct insn in;

    fake_protected(f, 0);
    fake_put(f, 0x9000, UINT64_C(0x8899aabb1234), 6);
    in = fake_insn_mem(f, 2, 0x9000);
    assert_int_equal(soft_insn_lgdt(&f->c, &in), INSN_NEXT_FLUSH);
    assert_int_equal(f->c.gdtr.base, 0x99aabb); /* 24 bits with a 16-bit operand */
    in = fake_insn_mem(f, 4, 0x9000);
    assert_int_equal(soft_insn_lidt(&f->c, &in), INSN_NEXT_FLUSH);
    assert_int_equal(f->c.idtr.base, 0x8899aabb);
    assert_int_equal(f->c.idtr.limit, 0x1234);
    in = fake_insn_mem(f, 4, 0x9010);
    assert_int_equal(soft_insn_sidt(&f->c, &in), INSN_NEXT);
    assert_int_equal(fake_get(f, 0x9010, 8), 0x8899aabb1234);
    f->c.cpl = 3;
    assert_int_equal(soft_insn_lidt(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    f->c.cr4 = CR4_UMIP;
    assert_int_equal(soft_insn_sgdt(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(soft_insn_smsw(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    fake_long(f, 0);
    fake_put(f, 0x9000, 0x10ff, 2);
    fake_put(f, 0x9002, 0x800000000000, 8);
    in = fake_insn_mem(f, 8, 0x9000);
    assert_int_equal(soft_insn_lgdt(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
}

static void push_and_pop(void **state)
{
    struct fake *f = *state;
    struct insn in;

    fake_protected(f, 0);
    in = fake_insn(f, 4);
    in.opcode = 0x1e; /* push ds */
    assert_int_equal(soft_insn_push_sreg(&f->c, &in), INSN_NEXT);
    assert_int_equal(fake_get(f, FAKE_STACK - 4, 4), SEL_DATA0);
    in = fake_insn(f, 4);
    in.opcode = 0x17; /* pop ss */
    assert_int_equal(soft_insn_pop_sreg(&f->c, &in), INSN_NEXT_FLUSH);
    assert_int_equal(f->c.gpr[X86_RSP], FAKE_STACK);
    assert_int_equal(f->c.irq_shadow, 2);
    fake_long(f, 0);
    in = fake_insn(f, 4);
    in.map = MAP_0F;
    in.opcode = 0xa9; /* pop gs */
    fake_put(f, FAKE_STACK, SEL_NP, 8);
    assert_int_equal(soft_insn_pop_sreg(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_NP, SEL_NP);
    assert_int_equal(f->c.gpr[X86_RSP], FAKE_STACK);
    fake_put(f, FAKE_STACK, 0, 8);
    assert_int_equal(soft_insn_pop_sreg(&f->c, &in), INSN_NEXT);
    assert_int_equal(f->c.gpr[X86_RSP], FAKE_STACK + 8);
}

static void far_pointers(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 0);
    fake_put(f, 0x9000, 0x12345678 | (uint64_t)SEL_NP << 32, 6);
    struct insn in = fake_insn_mem(f, 4, 0x9000);
    in.reg = X86_RCX;
    assert_int_equal(soft_insn_les(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_NP, SEL_NP);
    assert_int_equal(f->c.gpr[X86_RCX], 0);
    fake_put(f, 0x9004, SEL_DATA0, 2);
    assert_int_equal(soft_insn_lss(&f->c, &in), INSN_NEXT);
    assert_int_equal(f->c.gpr[X86_RCX], 0x12345678);
    assert_int_equal(f->c.irq_shadow, 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(limits),
        T(rights),
        T(long_mode_canonical),
        T(addresses_wrap),
        T(loads),
        T(local_table),
        T(task_register),
        T(inspection),
        T(arpl),
        T(descriptor_tables),
        T(push_and_pop),
        T(far_pointers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
