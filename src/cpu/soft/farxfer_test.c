/*
 * Far JMP, CALL, RET and IRET: modes, gates, privilege changes, virtual-8086, faults.
 */
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

static enum insn_result jmp(struct fake *f, unsigned osize, uint16_t sel, uint64_t off)
{
    struct insn in = fake_insn(f, osize);

    in.imm = off;
    in.imm2 = sel;
    return soft_insn_jmp_far_imm(&f->c, &in);
}

static enum insn_result call(struct fake *f, unsigned osize, uint16_t sel, uint64_t off)
{
    struct insn in = fake_insn(f, osize);

    in.imm = off;
    in.imm2 = sel;
    return soft_insn_call_far_imm(&f->c, &in);
}

static enum insn_result ret(struct fake *f, unsigned osize, unsigned skip)
{
    struct insn in = fake_insn(f, osize);

    in.opcode = skip ? 0xca : 0xcb;
    in.imm = skip;
    return soft_insn_ret_far(&f->c, &in);
}

static enum insn_result iret(struct fake *f, unsigned osize)
{
    struct insn in = fake_insn(f, osize);

    return soft_insn_iret(&f->c, &in);
}

/* Puts values at the top of the stack, the first lowest, and points RSP at them. */
static void stack(struct fake *f, unsigned size, unsigned n, const uint64_t *v)
{
    f->c.gpr[X86_RSP] = FAKE_STACK - n * size;
    for (unsigned i = 0; i < n; i++) {
        fake_put(f, FAKE_STACK - (n - i) * size, v[i], size);
    }
}
#define STACK(f, size, ...)                                                                    \
    stack(f, size, sizeof((uint64_t[]){__VA_ARGS__}) / 8, (const uint64_t[]){__VA_ARGS__})

static void real_mode(void **state)
{
    struct fake *f = *state;

    assert_int_equal(call(f, 2, 0x1234, 0x10), INSN_JUMP);
    assert_int_equal(f->c.seg[X86_CS].base, 0x12340);
    assert_int_equal(f->c.rip, 0x10);
    assert_int_equal(ret(f, 2, 4), INSN_JUMP);
    assert_int_equal(f->c.rip, 0x102);
    assert_int_equal(f->c.seg[X86_CS].sel, 0);
    assert_int_equal(f->c.gpr[X86_RSP], FAKE_STACK + 4);
    assert_int_equal(jmp(f, 4, 0, 0x12345), INSN_EXC); /* above the limit */
    fake_expect(f, EXC_GP, 0);
    STACK(f, 2, 0x200, 0x30, FL_CF | FL_IF);
    assert_int_equal(iret(f, 2), INSN_JUMP);
    assert_int_equal(f->c.rip, 0x200);
    assert_int_equal(soft_get_rflags(&f->c), FL_1 | FL_CF | FL_IF);
    /* VM, VIF and VIP cannot be had this way. */
    STACK(f, 4, 0x200, 0x30, FL_VM | FL_VIF | FL_VIP | FL_AC);
    assert_int_equal(iret(f, 4), INSN_JUMP);
    assert_int_equal(soft_get_rflags(&f->c), FL_1 | FL_AC);
}

static void jump_checks_code_segments(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 0);
    assert_int_equal(jmp(f, 4, SEL_CODE16, 0x20), INSN_JUMP);
    assert_int_equal(f->c.seg[X86_CS].attr & SEG_DB, 0);
    assert_int_equal(fake_get(f, FAKE_GDT + SEL_CODE16 + 5, 1), 0x9b); /* accessed */
    assert_int_equal(jmp(f, 4, SEL_CODE16, 0x10000), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(jmp(f, 4, 0, 0), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(jmp(f, 4, SEL_DATA0, 0), INSN_EXC);
    fake_expect(f, EXC_GP, SEL_DATA0);
    assert_int_equal(jmp(f, 4, 0x100, 0), INSN_EXC); /* beyond the table */
    fake_expect(f, EXC_GP, 0x100);
    assert_int_equal(jmp(f, 4, SEL_CODE3, 0), INSN_EXC);
    fake_expect(f, EXC_GP, SEL_CODE3 & ~3u);
    assert_int_equal(jmp(f, 4, 4, 0), INSN_EXC); /* no LDT */
    fake_expect(f, EXC_GP, 4);
    fake_desc(f, SEL_FREE, 0, 0xfffff, 0x1a, 0xc);
    assert_int_equal(jmp(f, 4, SEL_FREE, 0), INSN_EXC);
    fake_expect(f, EXC_NP, SEL_FREE);
    /* Conforming code is entered from outside and keeps CPL. */
    fake_protected(f, 3);
    assert_int_equal(jmp(f, 4, SEL_CONF0, 0x20), INSN_JUMP);
    assert_int_equal(f->c.cpl, 3);
    assert_int_equal(f->c.seg[X86_CS].sel, SEL_CONF0 | 3);
}

static void long_mode_to_compat_and_back(void **state)
{
    struct fake *f = *state;
    struct insn in;

    fake_long(f, 0);
    fake_desc(f, SEL_FREE, 0, 0xfffff, 0x9a, 0xc);
    fake_put(f, 0x9000, 0x1234 | (uint64_t)SEL_FREE << 32, 6);
    in = fake_insn_mem(f, 4, 0x9000);
    assert_int_equal(soft_insn_jmp_far_mem(&f->c, &in), INSN_JUMP);
    assert_int_equal(f->c.mode & (MODE_64 | MODE_LMA), MODE_LMA);
    assert_int_equal(jmp(f, 4, SEL_CODE0, 0x4321), INSN_JUMP);
    assert_true(f->c.mode & MODE_64);
    /* L and D together are refused. */
    fake_desc(f, SEL_FREE, 0, 0xfffff, 0x9a, 0xe);
    in = fake_insn_mem(f, 4, 0x9000);
    assert_int_equal(soft_insn_jmp_far_mem(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, SEL_FREE);
    in.is_mem = false;
    assert_int_equal(soft_insn_jmp_far_mem(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_UD, 0);
    /* m16:64 is Intel's alone. */
    fake_put(f, 0x9000, 0xffff800012345678, 8);
    fake_put(f, 0x9008, SEL_CODE0, 2);
    in = fake_insn_mem(f, 8, 0x9000);
    assert_int_equal(soft_insn_call_far_mem(&f->c, &in), INSN_JUMP);
    assert_int_equal(f->c.rip, 0xffff800012345678);
    assert_int_equal(fake_get(f, FAKE_STACK - 8, 8), SEL_CODE0);
}

static void call_gate_copies_parameters(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 3);
    fake_gate(f, FAKE_GDT + SEL_FREE, 0xec, SEL_CODE0, 0x4000, 2);
    STACK(f, 4, 0x11, 0x22);
    assert_int_equal(call(f, 4, SEL_FREE | 3, 0xdead), INSN_JUMP);
    assert_int_equal(f->c.cpl, 0);
    assert_int_equal(f->c.rip, 0x4000);
    assert_int_equal(f->c.seg[X86_CS].sel, SEL_CODE0);
    assert_int_equal(f->c.gpr[X86_RSP], 0x7000 - 24);
    assert_int_equal(fake_get(f, 0x7000 - 24, 4), 0x1002);
    assert_int_equal(fake_get(f, 0x7000 - 20, 4), SEL_CODE3);
    assert_int_equal(fake_get(f, 0x7000 - 16, 4), 0x11);
    assert_int_equal(fake_get(f, 0x7000 - 12, 4), 0x22);
    assert_int_equal(fake_get(f, 0x7000 - 8, 4), FAKE_STACK - 8);
    /* And back out, both stacks cleaned; a data segment of level 0 does not survive. */
    seg_load_data(&f->c, X86_ES, SEL_DATA0, EXC_GP, 0);
    assert_int_equal(ret(f, 4, 8), INSN_JUMP);
    assert_int_equal(f->c.cpl, 3);
    assert_int_equal(f->c.rip, 0x1002);
    assert_int_equal(f->c.gpr[X86_RSP], FAKE_STACK);
    assert_int_equal(f->c.seg[X86_SS].sel, SEL_DATA3);
    assert_true(f->c.seg[X86_ES].attr & SEG_UNUSABLE);
    assert_int_equal(f->c.seg[X86_DS].sel, SEL_DATA3);
}

static void call_gate_faults(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 3);
    fake_gate(f, FAKE_GDT + SEL_FREE, 0x8c, SEL_CODE0, 0x4000, 0);
    assert_int_equal(call(f, 4, SEL_FREE, 0), INSN_EXC); /* gate's DPL */
    fake_expect(f, EXC_GP, SEL_FREE);
    fake_gate(f, FAKE_GDT + SEL_FREE, 0x6c, SEL_CODE0, 0x4000, 0);
    assert_int_equal(call(f, 4, SEL_FREE, 0), INSN_EXC);
    fake_expect(f, EXC_NP, SEL_FREE);
    fake_gate(f, FAKE_GDT + SEL_FREE, 0xec, SEL_DATA0, 0x4000, 0);
    assert_int_equal(call(f, 4, SEL_FREE, 0), INSN_EXC);
    fake_expect(f, EXC_GP, SEL_DATA0);
    fake_gate(f, FAKE_GDT + SEL_FREE, 0xec, 0, 0x4000, 0);
    assert_int_equal(call(f, 4, SEL_FREE, 0), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    /* A jump cannot change the level. */
    fake_gate(f, FAKE_GDT + SEL_FREE, 0xec, SEL_CODE0, 0x4000, 0);
    assert_int_equal(jmp(f, 4, SEL_FREE, 0), INSN_EXC);
    fake_expect(f, EXC_GP, SEL_CODE0);
    /* The inner stack is bad: #TS or #SS with its selector; nothing has changed. */
    fake_put(f, FAKE_TSS + 8, SEL_NP, 2);
    assert_int_equal(call(f, 4, SEL_FREE, 0), INSN_EXC);
    fake_expect(f, EXC_SS, SEL_NP);
    fake_put(f, FAKE_TSS + 8, 0, 2);
    assert_int_equal(call(f, 4, SEL_FREE, 0), INSN_EXC);
    fake_expect(f, EXC_TS, 0);
    assert_int_equal(f->c.cpl, 3);
    assert_int_equal(f->c.gpr[X86_RSP], FAKE_STACK);
}

static void long_call_gate(void **state)
{
    struct fake *f = *state;

    fake_long(f, 3);
    fake_gate(f, FAKE_GDT + SEL_FREE, 0xec, SEL_CODE0, 0xffff800000004000, 0);
    fake_put(f, 0x9000, (uint64_t)SEL_FREE << 32, 6);
    struct insn in = fake_insn_mem(f, 4, 0x9000);
    assert_int_equal(soft_insn_call_far_mem(&f->c, &in), INSN_JUMP);
    assert_int_equal(f->c.rip, 0xffff800000004000);
    assert_int_equal(f->c.cpl, 0);
    assert_true(f->c.seg[X86_SS].attr & SEG_UNUSABLE);
    assert_int_equal(f->c.gpr[X86_RSP], 0x7000 - 32);
    assert_int_equal(fake_get(f, 0x7000 - 8, 8), SEL_DATA3);
    /* The gate's second half must not look like a descriptor. */
    fake_long(f, 3);
    fake_put(f, FAKE_GDT + SEL_FREE + 12, 0x100, 4);
    in = fake_insn_mem(f, 4, 0x9000);
    assert_int_equal(soft_insn_call_far_mem(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, SEL_FREE);
}

static void return_faults(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 3);
    STACK(f, 4, 0x2000, SEL_CODE0);
    assert_int_equal(ret(f, 4, 0), INSN_EXC); /* inwards */
    fake_expect(f, EXC_GP, SEL_CODE0);
    fake_protected(f, 0);
    STACK(f, 4, 0x2000, 0);
    assert_int_equal(ret(f, 4, 0), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    STACK(f, 4, 0x2000, SEL_CODE3, 0x100, SEL_DATA0);
    assert_int_equal(ret(f, 4, 0), INSN_EXC);
    fake_expect(f, EXC_GP, SEL_DATA0);
    STACK(f, 4, 0x2000, SEL_CODE3, 0x100, 0);
    assert_int_equal(ret(f, 4, 0), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    f->absent[(FAKE_STACK - 16) >> 12] = true;
    assert_int_equal(ret(f, 4, 0), INSN_EXC);
    fake_expect(f, EXC_PF, 0);
    assert_int_equal(f->c.rip, 0x1000);
}

static void iret_flag_rules(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 3);
    soft_set_rflags(&f->c, FL_1 | FL_IF); /* IOPL 0 */
    STACK(f, 4, 0x2000, SEL_CODE3, FL_IOPL | FL_AC | FL_DF | FL_VIF);
    assert_int_equal(iret(f, 4), INSN_JUMP);
    assert_int_equal(soft_get_rflags(&f->c), FL_1 | FL_IF | FL_AC | FL_DF);
    fake_protected(f, 0);
    STACK(f, 4, 0x2000, SEL_CODE0, FL_IOPL | FL_RF | FL_ID);
    assert_int_equal(iret(f, 4), INSN_JUMP);
    assert_int_equal(soft_get_rflags(&f->c), FL_1 | FL_IOPL | FL_ID);
    f->c.dr[7] |= 1; /* RF matters now */
    STACK(f, 4, 0x2000, SEL_CODE0, FL_RF);
    assert_int_equal(iret(f, 4), INSN_JUMP);
    assert_int_equal(soft_get_rflags(&f->c), FL_1 | FL_RF);
    /* 16 bits leave the upper half alone. */
    soft_set_rflags(&f->c, FL_1 | FL_AC);
    STACK(f, 2, 0x2000, SEL_CODE0, FL_CF);
    assert_int_equal(iret(f, 2), INSN_JUMP);
    assert_int_equal(soft_get_rflags(&f->c), FL_1 | FL_AC | FL_CF);
}

static void iret_to_16_bit_stack_keeps_upper_esp(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 0);
    fake_desc(f, SEL_FREE, 0, 0xffff, 0xf2, 0); /* 16-bit stack, DPL 3 */
    STACK(f, 4, 0x2000, SEL_CODE3, FL_IF, 0x55556666, SEL_FREE | 3);
    f->c.gpr[X86_RSP] |= 0;
    assert_int_equal(iret(f, 4), INSN_JUMP);
    assert_int_equal(f->c.gpr[X86_RSP], 0x6666);
}

static void vm86_round_trip(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 0);
    STACK(f, 4, 0x100, 0x1000, FL_VM | FL_IOPL | FL_IF, 0x7f00, 0x20, 0x30, 0x40, 0x50, 0x60);
    assert_int_equal(iret(f, 4), INSN_JUMP);
    assert_int_equal(f->c.cpl, 3);
    assert_true(f->c.mode & MODE_VM86);
    assert_int_equal(f->c.seg[X86_CS].base, 0x10000);
    assert_int_equal(f->c.seg[X86_SS].sel, 0x20);
    assert_int_equal(f->c.seg[X86_ES].sel, 0x30);
    assert_int_equal(f->c.seg[X86_DS].sel, 0x40);
    assert_int_equal(f->c.seg[X86_GS].base, 0x600);
    assert_int_equal(f->c.gpr[X86_RSP], 0x7f00);
    /* IRET within virtual-8086 mode keeps IOPL and VM. */
    f->c.seg[X86_SS].base = 0;
    fake_put(f, 0x7f00, 0x123, 2);
    fake_put(f, 0x7f02, 0x77, 2);
    fake_put(f, 0x7f04, FL_CF, 2);
    assert_int_equal(iret(f, 2), INSN_JUMP);
    assert_int_equal(f->c.rip, 0x123);
    assert_int_equal(soft_get_rflags(&f->c), FL_1 | FL_VM | FL_IOPL | FL_CF);
    /* Below IOPL 3 it faults, or uses VIF with VME. */
    soft_set_rflags(&f->c, FL_1 | FL_VM | FL_IF);
    assert_int_equal(iret(f, 2), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    f->c.cr4 = CR4_VME;
    f->c.gpr[X86_RSP] = 0x7f00;
    fake_put(f, 0x7f04, FL_IF, 2);
    assert_int_equal(iret(f, 2), INSN_JUMP);
    assert_int_equal(soft_get_rflags(&f->c), FL_1 | FL_VM | FL_IF | FL_VIF);
}

static void iretq_always_loads_stack(void **state)
{
    struct fake *f = *state;

    fake_long(f, 0);
    STACK(f, 8, 0x2000, SEL_CODE0, FL_CF, 0xffff800000001000, 0);
    assert_int_equal(iret(f, 8), INSN_JUMP);
    assert_int_equal(f->c.gpr[X86_RSP], 0xffff800000001000);
    assert_true(f->c.seg[X86_SS].attr & SEG_UNUSABLE); /* null SS at level 0 is fine */
    STACK(f, 8, 0x2000, SEL_CODE3, FL_IF, 0x1000, 3);
    assert_int_equal(iret(f, 8), INSN_EXC); /* not at level 3 */
    fake_expect(f, EXC_GP, 0);
    STACK(f, 8, 0x2000, SEL_CODE3, FL_IF, 0x1000, SEL_DATA3);
    f->c.seg[X86_FS] = (struct vcpu_seg){.attr = SEG_UNUSABLE, .base = 0x123456789a};
    assert_int_equal(iret(f, 8), INSN_JUMP);
    assert_int_equal(f->c.cpl, 3);
    assert_int_equal(f->c.seg[X86_FS].base, 0x123456789a); /* null: its base survives */
    assert_true(f->c.seg[X86_DS].attr & SEG_UNUSABLE);
    fake_long(f, 0);
    STACK(f, 8, 0x800000000000, SEL_CODE3, FL_IF, 0x1000, SEL_DATA3);
    assert_int_equal(iret(f, 8), INSN_EXC); /* not canonical */
    fake_expect(f, EXC_GP, 0);
    STACK(f, 8, 0x2000, SEL_COMPAT3, FL_IF, 0x12345678, SEL_DATA3);
    assert_int_equal(iret(f, 8), INSN_JUMP);
    assert_int_equal(f->c.mode & MODE_64, 0);
    assert_int_equal(f->c.gpr[X86_RSP], 0x12345678);
    fake_long(f, 0);
    f->c.sysflags |= FL_NT;
    assert_int_equal(iret(f, 8), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
}

static void iret_unblocks_nmi(void **state)
{
    struct fake *f = *state;

    fake_long(f, 0);
    f->c.nmi_blocked = true;
    STACK(f, 8, 0x2000, SEL_CODE0, FL_CF, 0x1000, SEL_DATA0);
    assert_int_equal(iret(f, 8), INSN_JUMP);
    assert_false(f->c.nmi_blocked);
}

static uint32_t draw(uint32_t *seed, uint32_t below)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (*seed >> 8) % below;
}

static void disturb(struct fake *f, uint32_t *seed)
{
    static const uint16_t sels[] = {SEL_CODE0, SEL_DATA0, SEL_CODE3, SEL_DATA3,   0,
                                    3,         SEL_CONF0, SEL_NP,    SEL_COMPAT3, SEL_LDT};
    uint32_t sp = (uint32_t)f->c.gpr[X86_RSP];

    switch (draw(seed, 7)) {
    case 0: f->mem[sp + draw(seed, 40)] ^= (uint8_t)(1u << draw(seed, 8)); break;
    case 1: f->mem[FAKE_GDT + draw(seed, 0x50)] ^= (uint8_t)(1u << draw(seed, 8)); break;
    case 2: f->c.gdtr.limit = (uint16_t)draw(seed, 64); break;
    case 3: fake_put(f, sp + 8, sels[draw(seed, ARRAY_LEN(sels))], 8); break;
    case 4: fake_put(f, sp + 32, sels[draw(seed, ARRAY_LEN(sels))], 8); break;
    case 5: fake_put(f, sp + 7, draw(seed, 256), 1); break; /* RIP: canonical or not */
    case 6: f->c.sysflags |= FL_NT; break;
    }
}

/* IRETQ by entries of the TLB does what IRETQ by checked accesses does. */
static void fast_iret_is_the_slow_one(void **state)
{
    struct fake *slow = *state;
    uint32_t seed = 1;
    unsigned done = 0;

    for (unsigned i = 0; i < 1000; i++) {
        struct fake *fast = fake_new();
        uint32_t from = seed;
        for (unsigned k = 0; k < 2; k++) {
            struct fake *f = k ? fast : slow;
            seed = from;
            fake_long(f, 0);
            bool out = draw(&seed, 2);
            for (unsigned s = SEL_CODE0; s <= SEL_DATA3; s += 8) {
                f->mem[FAKE_GDT + (s & ~7u) + 5] |= 1; /* accessed */
            }
            f->c.gpr[X86_RSP] = 0x7000 + draw(&seed, 64) * 8 - 256;
            f->c.seg[X86_DS].sel = draw(&seed, 2) ? SEL_DATA0 : SEL_DATA3;
            fake_put(f, (uint32_t)f->c.gpr[X86_RSP], 0x2000, 8);
            fake_put(f, (uint32_t)f->c.gpr[X86_RSP] + 8, out ? SEL_CODE3 : SEL_CODE0, 8);
            fake_put(f, (uint32_t)f->c.gpr[X86_RSP] + 16, draw(&seed, 0x400000), 8);
            fake_put(f, (uint32_t)f->c.gpr[X86_RSP] + 24, 0x123456789, 8);
            fake_put(f, (uint32_t)f->c.gpr[X86_RSP] + 32, out ? SEL_DATA3 : 0, 8);
            for (unsigned n = draw(&seed, 3); n > 0; n--) {
                disturb(f, &seed);
            }
            fake_fill_tlb(f, f == fast);
            done += iret(f, 8) == INSN_JUMP;
        }
        assert_true(fake_same(slow, fast));
        fake_free(slow);
        *state = slow = fake_new();
        fake_free(fast);
    }
    assert_true(done > 400);
    /* It does not go by checked accesses at all. */
    fake_long(slow, 0);
    slow->mem[FAKE_GDT + SEL_CODE0 + 5] |= 1;
    STACK(slow, 8, 0x2000, SEL_CODE0, FL_CF, 0x1000, 0);
    fake_fill_tlb(slow, true);
    memset(slow->absent, 1, sizeof(slow->absent));
    assert_int_equal(iret(slow, 8), INSN_JUMP);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(real_mode),
        T(jump_checks_code_segments),
        T(long_mode_to_compat_and_back),
        T(call_gate_copies_parameters),
        T(call_gate_faults),
        T(long_call_gate),
        T(return_faults),
        T(iret_flag_rules),
        T(iret_to_16_bit_stack_keeps_upper_esp),
        T(vm86_round_trip),
        T(iretq_always_loads_stack),
        T(iret_unblocks_nmi),
        T(fast_iret_is_the_slow_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
