/*
 * Control and debug registers, MSRs, fast system calls, flags, software interrupts, port I/O.
 */
#include "cpu/soft/cr.h"
#include "cpu/soft/msr.h"
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

static enum insn_result run(struct fake *f, insn_fn *fn, unsigned osize)
{
    struct insn in = fake_insn(f, osize);

    return fn(&f->c, &in);
}

static enum insn_result mov_cr(struct fake *f, unsigned cr, uint64_t v)
{
    struct insn in = fake_insn(f, 4);

    in.reg = (uint8_t)cr;
    in.rm = X86_RAX;
    f->c.gpr[X86_RAX] = v;
    return soft_insn_mov_to_cr(&f->c, &in);
}

/* ---- control registers ---- */

static void cr0_combinations(void **state)
{
    struct fake *f = *state;

    assert_int_equal(mov_cr(f, 0, CR0_PG), INSN_EXC); /* without PE */
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(mov_cr(f, 0, CR0_NW), INSN_EXC); /* without CD */
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(mov_cr(f, 0, 0x1ffaffc0 | CR0_PE),
                     INSN_NEXT_FLUSH); /* reserved: dropped */
    assert_int_equal(f->c.cr0, CR0_PE | CR0_ET);
    assert_true(f->c.mode & MODE_PE);
    fake_long(f, 0);
    assert_int_equal(mov_cr(f, 0, UINT64_C(1) << 32 | CR0_PE | CR0_PG), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(mov_cr(f, 0, CR0_PE), INSN_EXC); /* 64-bit code cannot leave */
    fake_expect(f, EXC_GP, 0);
    f->c.cpl = 3;
    assert_int_equal(mov_cr(f, 0, CR0_PE), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(mov_cr(f, 1, 0), INSN_EXC);
    fake_expect(f, EXC_UD, 0);
}

static void long_mode_entry_and_exit(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 0);
    assert_int_equal(msr_write(&f->c, 0xc0000080, EFER_LME), 0);
    assert_int_equal(mov_cr(f, 0, CR0_PE | CR0_PG), INSN_EXC); /* PAE is missing */
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(mov_cr(f, 4, CR4_PAE), INSN_NEXT_FLUSH);
    f->c.tr.attr = 0x83; /* 16-bit TSS */
    assert_int_equal(mov_cr(f, 0, CR0_PE | CR0_PG), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    f->c.tr.attr = 0x8b;
    assert_int_equal(mov_cr(f, 0, CR0_PE | CR0_PG), INSN_NEXT_FLUSH);
    assert_true(f->c.efer & EFER_LMA);
    assert_int_equal(f->c.mode & (MODE_LMA | MODE_64), MODE_LMA);
    assert_true(msr_write(&f->c, 0xc0000080, 0)); /* LME under paging */
    assert_int_equal(mov_cr(f, 4, 0), INSN_EXC);  /* PAE in long mode */
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(mov_cr(f, 0, CR0_PE), INSN_NEXT_FLUSH);
    assert_int_equal(f->c.efer & EFER_LMA, 0);
    assert_int_equal(msr_write(&f->c, 0xc0000080, EFER_SCE), 0);
    assert_true(msr_write(&f->c, 0xc0000080, 1u << 12)); /* SVME */
}

static void pae_loads_pdptes(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 0);
    f->c.cr4 = CR4_PAE;
    f->c.cr3 = 0x20; /* the fake's mark for bad PDPTEs */
    assert_int_equal(mov_cr(f, 0, CR0_PE | CR0_PG), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(f->c.cr0 & CR0_PG, 0);
    f->c.cr3 = 0;
    assert_int_equal(mov_cr(f, 0, CR0_PE | CR0_PG), INSN_NEXT_FLUSH);
    assert_int_equal(mov_cr(f, 3, 0x20), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(f->c.cr3, 0);
}

static void cr3_and_cr4_reserved_bits(void **state)
{
    struct fake *f = *state;

    fake_long(f, 0);
    assert_int_equal(mov_cr(f, 3, UINT64_C(1) << 40), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(mov_cr(f, 3, 0x12345000), INSN_NEXT_FLUSH);
    assert_int_equal(f->n_flush_nonglobal, 1);
    assert_int_equal(mov_cr(f, 4, CR4_PAE | 1u << 23), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    f->model.leaves[1].ebx = 0; /* no SMEP */
    assert_int_equal(mov_cr(f, 4, CR4_PAE | CR4_SMEP), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(mov_cr(f, 4, CR4_PAE | CR4_PGE), INSN_NEXT_FLUSH);
    assert_int_equal(mov_cr(f, 8, 16), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(mov_cr(f, 8, 5), INSN_NEXT_FLUSH);
    assert_int_equal(f->cr8, 5);
}

static void xcr0_dependencies(void **state)
{
    struct fake *f = *state;

    fake_long(f, 0);
    assert_int_equal(run(f, soft_insn_xgetbv, 4), INSN_EXC);
    fake_expect(f, EXC_UD, 0);
    f->c.cr4 |= CR4_OSXSAVE;
    for (unsigned v = 0; v < 0x200; v++) {
        bool ok = (v & 1) && !(v & ~0xe7u) && (!(v & 4) || (v & 2)) &&
                  (!(v & 0xe0) || ((v & 0xe0) == 0xe0 && (v & 4)));
        f->c.gpr[X86_RAX] = v;
        f->c.gpr[X86_RDX] = 0;
        f->c.gpr[X86_RCX] = 0;
        assert_int_equal(run(f, soft_insn_xsetbv, 4), ok ? INSN_NEXT_FLUSH : INSN_EXC);
    }
}

/* ---- debug registers ---- */

static void debug_registers(void **state)
{
    struct fake *f = *state;
    struct insn in;

    fake_long(f, 0);
    in = fake_insn(f, 4);
    in.reg = 7;
    f->c.gpr[X86_RAX] = 0xffffffff;
    assert_int_equal(soft_insn_mov_to_dr(&f->c, &in), INSN_NEXT_FLUSH);
    assert_int_equal(f->c.dr[7], 0xffff27ff);
    /* General detect: the access itself traps. */
    assert_int_equal(soft_insn_mov_from_dr(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_DB, 0);
    assert_int_equal(f->c.pending_db, 0x2000);
    f->c.dr[7] = 0x400;
    in.reg = 6;
    f->c.gpr[X86_RAX] = UINT64_C(1) << 32;
    assert_int_equal(soft_insn_mov_to_dr(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    in.reg = 4;
    f->c.gpr[X86_RAX] = 0;
    assert_int_equal(soft_insn_mov_to_dr(&f->c, &in), INSN_NEXT_FLUSH); /* alias of DR6 */
    assert_int_equal(f->c.dr[6], 0xffff0ff0);
    f->c.cr4 |= CR4_DE;
    assert_int_equal(soft_insn_mov_to_dr(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_UD, 0);
    in.reg = 8;
    assert_int_equal(soft_insn_mov_to_dr(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_UD, 0);
}

/* ---- MSRs ---- */

static void msr_table_sorted(void **state)
{
    (void)state;
    assert_true(msr_table_is_sorted());
}

static void msr_fields_and_checks(void **state)
{
    struct fake *f = *state;
    uint64_t v;

    fake_long(f, 0);
    assert_int_equal(msr_write(&f->c, 0xc0000082, 0xffff800000001000), 0);
    assert_int_equal(f->c.lstar, 0xffff800000001000);
    assert_true(msr_write(&f->c, 0xc0000082, 0x800000000000));
    assert_int_equal(msr_write(&f->c, 0xc0000101, 0x5000), 0);
    assert_int_equal(f->c.seg_base[X86_GS], 0x5000);
    assert_int_equal(msr_read(&f->c, 0xc0000101, &v), 0);
    assert_int_equal(v, 0x5000);
    assert_true(msr_write(&f->c, 0xc0000103, UINT64_C(1) << 32));
    assert_int_equal(msr_write(&f->c, 0x277, 0x0007040600070406), 0);
    assert_true(msr_write(&f->c, 0x277, 0x0207040600070406));
    assert_int_equal(msr_write(&f->c, 0x200, 0x80000006), 0);
    assert_true(msr_write(&f->c, 0x200, 0x80000002));
    assert_true(msr_write(&f->c, 0x201, UINT64_C(1) << 40 | 0x800));
    assert_int_equal(msr_write(&f->c, 0x201, 0xff80000800), 0);
    assert_int_equal(f->cold.mtrr_var[0][1], 0xff80000800);
    assert_int_equal(msr_write(&f->c, 0x26f, 0x0606060606060606), 0);
    assert_int_equal(f->cold.mtrr_fixed[10], 0x0606060606060606);
    assert_true(msr_write(&f->c, 0x250, 7));
    assert_int_equal(msr_write(&f->c, 0x401, 0), 0);
    assert_true(msr_write(&f->c, 0x401, 1));
    assert_int_equal(msr_write(&f->c, 0x402, ~UINT64_C(0)),
                     0); /* ADDR and MISC hold anything */
    assert_int_equal(msr_write(&f->c, 0x403, 1), 0);
    assert_true(msr_write(&f->c, 0xfe, 0));
    assert_true(msr_read(&f->c, 0x49, &v)); /* write-only */
    assert_true(msr_read(&f->c, 0x12345, &v));
    assert_true(msr_read(&f->c, 0xffffffff, &v));
    assert_true(msr_read(&f->c, 0xc0010015, &v)); /* AMD's, on an Intel model */
    f->model.is_amd = true;
    assert_int_equal(msr_read(&f->c, 0xc0010015, &v), 0);
    assert_int_equal(msr_write(&f->c, 0xc0010000, 0), 0); /* counters that every AMD has */
    assert_int_equal(msr_read(&f->c, 0xc0010007, &v), 0);
    assert_true(msr_read(&f->c, 0x3a, &v));
}

static void rdmsr_raises_gp(void **state)
{
    struct fake *f = *state;

    fake_long(f, 0);
    f->c.gpr[X86_RCX] = 0x12345;
    assert_int_equal(run(f, soft_insn_rdmsr, 4), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    f->c.gpr[X86_RCX] = 0xc0000080;
    assert_int_equal(run(f, soft_insn_rdmsr, 4), INSN_NEXT);
    assert_int_equal(f->c.gpr[X86_RAX], f->c.efer);
    f->c.gpr[X86_RAX] = ~UINT64_C(0);
    assert_int_equal(run(f, soft_insn_wrmsr, 4), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    f->c.cpl = 3;
    assert_int_equal(run(f, soft_insn_rdmsr, 4), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
}

static void apic_msrs_go_to_the_machine(void **state)
{
    struct fake *f = *state;
    uint64_t v;

    assert_int_equal(msr_write(&f->c, 0x830, 0x100000030), 0);
    assert_int_equal(f->apic_msr, 0x830);
    assert_int_equal(f->n_leave, 1);
    assert_int_equal(msr_read(&f->c, 0x6e0, &v), 0);
    assert_int_equal(f->apic_msr, 0x6e0);
    assert_int_equal(msr_write(&f->c, 0x1b, 0xfee00000), 0);
    assert_int_equal(f->cold.apic_base, 0xfee00000);
    f->model.leaves[0].ecx = 0;
    assert_true(msr_read(&f->c, 0x830, &v)); /* no x2APIC */
}

static void tsc_and_adjust(void **state)
{
    struct fake *f = *state;
    uint64_t v;

    assert_int_equal(msr_write(&f->c, 0x10, 500), 0);
    assert_int_equal(msr_read(&f->c, 0x10, &v), 0);
    assert_int_equal(v, 500);
    assert_int_equal(msr_read(&f->c, 0x3b, &v), 0);
    assert_int_equal((int64_t)v, 500 - 1000000);
    assert_int_equal(msr_write(&f->c, 0x3b, 0), 0);
    assert_int_equal(msr_read(&f->c, 0x10, &v), 0);
    assert_int_equal(v, 1000000);
}

static void kvm_clock_page(void **state)
{
    struct fake *f = *state;
    uint32_t mul;
    int8_t shift;

    assert_int_equal(msr_write(&f->c, MSR_KVM_SYSTEM_TIME_NEW, 0x9001), 0);
    assert_int_equal(fake_get(f, 0x9000, 4) & 1, 0);
    assert_int_equal(fake_get(f, 0x9010, 8), f->vm.pv_ns);
    assert_int_equal(fake_get(f, 0x901d, 1), 1);
    mul = (uint32_t)fake_get(f, 0x9018, 4);
    shift = (int8_t)fake_get(f, 0x901c, 1);
    uint64_t ticks = 2000000000; /* a second at 2 GHz */
    uint64_t scaled = shift < 0 ? ticks >> -shift : ticks << shift;
    uint64_t ns = (uint64_t)((unsigned __int128)scaled * mul >> 32);
    assert_in_range(ns, 999999998, 1000000000);
    assert_true(msr_write(&f->c, MSR_KVM_SYSTEM_TIME_NEW, 0x9003));
    for (uint64_t khz = 1000; khz < 10000000; khz = khz * 13 / 10 + 7) {
        msr_kvm_time_scale(khz, &mul, &shift);
        ticks = khz * 1000;
        scaled = shift < 0 ? ticks >> -shift : ticks << shift;
        ns = (uint64_t)((unsigned __int128)scaled * mul >> 32);
        assert_in_range(ns, 999999990, 1000000000);
    }
    /* Running on changes nothing; a pause in between does. */
    msr_kvm_clock_resync(&f->c);
    assert_int_equal(f->c.pv_moment, 1);
    f->clock_offset -= 3600 * (int64_t)1000000000;
    msr_kvm_clock_resync(&f->c);
    assert_int_equal(f->c.pv_moment, 2);
    assert_int_equal(fake_get(f, 0x9010, 8), f->vm.pv_ns);
    assert_int_equal(msr_write(&f->c, MSR_KVM_WALL_CLOCK_NEW, 0x9100), 0);
    assert_int_equal(fake_get(f, 0x9100, 4) & 1, 0);
    assert_true(fake_get(f, 0x9104, 4) > 1600000000);
}

/* ---- fast system calls ---- */

static void syscall_and_sysret(void **state)
{
    struct fake *f = *state;
    struct scpu *c = &f->c;

    fake_long(f, 3);
    c->star = UINT64_C(0x0023001000000000);
    c->lstar = 0xffff800000005000;
    c->sfmask = FL_IF | FL_TF;
    assert_int_equal(run(f, soft_insn_syscall, 4), INSN_JUMP);
    assert_int_equal(c->rip, 0xffff800000005000);
    assert_int_equal(c->gpr[X86_RCX], 0x1002);
    assert_int_equal(c->gpr[X86_R11], FL_1 | FL_IF);
    assert_int_equal(soft_get_rflags(c), FL_1);
    assert_int_equal(c->seg[X86_CS].sel, 0x10);
    assert_int_equal(c->seg[X86_SS].sel, 0x18);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(run(f, soft_insn_sysret, 8), INSN_JUMP);
    assert_int_equal(c->rip, 0x1002);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->seg[X86_CS].sel, 0x33);
    assert_int_equal(c->seg[X86_SS].sel, 0x2b);
    assert_int_equal(soft_get_rflags(c), FL_1 | FL_IF);
    fake_long(f, 0);
    c->gpr[X86_RCX] = 0x800000000000;
    assert_int_equal(run(f, soft_insn_sysret, 8), INSN_EXC); /* Intel checks */
    fake_expect(f, EXC_GP, 0);
    f->model.is_amd = true;
    assert_int_equal(run(f, soft_insn_sysret, 8), INSN_JUMP); /* AMD does not */
    fake_long(f, 0);
    assert_int_equal(run(f, soft_insn_sysret, 4), INSN_JUMP);
    assert_int_equal(c->seg[X86_CS].sel, 0x23);
    assert_int_equal(c->mode & MODE_64, 0);
    /* Compatibility mode: AMD's CSTAR, Intel's #UD. */
    c->cstar = 0x7777;
    assert_int_equal(run(f, soft_insn_syscall, 4), INSN_JUMP);
    assert_int_equal(c->rip, 0x7777);
    f->model.is_amd = false;
    fake_protected(f, 0);
    c->efer = EFER_SCE;
    assert_int_equal(run(f, soft_insn_syscall, 4), INSN_EXC);
    fake_expect(f, EXC_UD, 0);
}

static void sysenter_and_sysexit(void **state)
{
    struct fake *f = *state;
    struct scpu *c = &f->c;

    fake_protected(f, 3);
    assert_int_equal(run(f, soft_insn_sysenter, 4), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    c->sysenter_cs = 0x60;
    c->sysenter_esp = 0x123456789;
    c->sysenter_eip = 0x4000;
    assert_int_equal(run(f, soft_insn_sysenter, 4), INSN_JUMP);
    assert_int_equal(c->rip, 0x4000);
    assert_int_equal(c->gpr[X86_RSP], 0x23456789);
    assert_int_equal(c->seg[X86_SS].sel, 0x68);
    assert_int_equal(c->sysflags & FL_IF, 0);
    c->gpr[X86_RDX] = 0x5000;
    c->gpr[X86_RCX] = 0x6000;
    assert_int_equal(run(f, soft_insn_sysexit, 4), INSN_JUMP);
    assert_int_equal(c->seg[X86_CS].sel, 0x73);
    assert_int_equal(c->seg[X86_SS].sel, 0x7b);
    assert_int_equal(c->rip, 0x5000);
    assert_int_equal(run(f, soft_insn_sysexit, 4), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    fake_long(f, 0);
    f->model.is_amd = true;
    assert_int_equal(run(f, soft_insn_sysenter, 4), INSN_EXC);
    fake_expect(f, EXC_UD, 0);
}

static void bases(void **state)
{
    struct fake *f = *state;
    struct scpu *c = &f->c;
    struct insn in;

    fake_long(f, 0);
    c->seg[X86_GS].base = 1;
    c->kernel_gs_base = 2;
    assert_int_equal(run(f, soft_insn_swapgs, 4), INSN_NEXT);
    assert_int_equal(c->seg_base[X86_GS], 2);
    assert_int_equal(c->kernel_gs_base, 1);
    assert_int_equal(run(f, soft_insn_rdgsbase, 8), INSN_EXC);
    fake_expect(f, EXC_UD, 0);
    c->cr4 |= CR4_FSGSBASE;
    in = fake_insn(f, 8);
    c->gpr[X86_RAX] = 0x800000000000;
    assert_int_equal(soft_insn_wrfsbase(c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    c->gpr[X86_RAX] = 0x7fff00000000;
    assert_int_equal(soft_insn_wrfsbase(c, &in), INSN_NEXT);
    in.osize = 4;
    assert_int_equal(soft_insn_rdfsbase(c, &in), INSN_NEXT);
    assert_int_equal(c->gpr[X86_RAX], 0);
    c->cpl = 3;
    assert_int_equal(run(f, soft_insn_swapgs, 4), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
}

/* ---- flags ---- */

static void interrupt_flag_rules(void **state)
{
    struct fake *f = *state;
    struct scpu *c = &f->c;

    fake_protected(f, 3);
    assert_int_equal(run(f, soft_insn_cli, 4), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    c->cr4 = CR4_PVI;
    assert_int_equal(run(f, soft_insn_sti, 4), INSN_NEXT);
    assert_true(c->sysflags & FL_VIF);
    c->sysflags |= FL_VIP;
    assert_int_equal(run(f, soft_insn_sti, 4), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(run(f, soft_insn_cli, 4), INSN_NEXT);
    assert_int_equal(c->sysflags & FL_VIF, 0);
    fake_protected(f, 0);
    c->sysflags &= ~FL_IF;
    assert_int_equal(run(f, soft_insn_sti, 4), INSN_NEXT_FLUSH);
    assert_int_equal(c->irq_shadow, 1);
    assert_int_equal(run(f, soft_insn_sti, 4), INSN_NEXT); /* already on */
}

static enum insn_result popf(struct fake *f, unsigned osize, uint64_t v)
{
    f->c.gpr[X86_RSP] = FAKE_STACK;
    fake_put(f, FAKE_STACK, v, osize);
    return run(f, soft_insn_popf, osize);
}

static void popf_masks(void **state)
{
    struct fake *f = *state;
    struct scpu *c = &f->c;

    fake_protected(f, 3);
    assert_int_equal(popf(f, 4, 0xffffffff & ~FL_TF), INSN_NEXT_FLUSH);
    assert_int_equal(soft_get_rflags(c),
                     FL_1 | FL_STATUS | FL_IF | FL_DF | FL_NT | FL_AC | FL_ID);
    assert_int_equal(run(f, soft_insn_pushf, 4), INSN_NEXT);
    fake_protected(f, 0);
    assert_int_equal(popf(f, 4, FL_IOPL), INSN_NEXT);
    assert_int_equal(soft_get_rflags(c), FL_1 | FL_IOPL);
    assert_int_equal(popf(f, 4, FL_IF), INSN_NEXT); /* the window opens, nothing waits */
    assert_int_equal(popf(f, 4, 0), INSN_NEXT);
    f->c.irq_waiting = true;
    assert_int_equal(popf(f, 4, FL_IF), INSN_NEXT_FLUSH);
    f->c.irq_waiting = false;
    assert_int_equal(soft_get_rflags(c), FL_1 | FL_IF);
    assert_int_equal(popf(f, 4, FL_TF), INSN_NEXT_FLUSH);
    assert_int_equal(c->gpr[X86_RSP], FAKE_STACK + 4);
}

static void vm86_flags_with_and_without_vme(void **state)
{
    struct fake *f = *state;
    struct scpu *c = &f->c;

    fake_vm86(f, 0);
    c->seg[X86_SS].base = 0;
    assert_int_equal(run(f, soft_insn_pushf, 2), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    c->cr4 = CR4_VME;
    c->sysflags |= FL_VIF;
    c->sysflags &= ~FL_IF;
    assert_int_equal(run(f, soft_insn_pushf, 2), INSN_NEXT);
    assert_int_equal(fake_get(f, 0x7efe, 2), FL_1 | FL_IF | FL_IOPL);
    assert_int_equal(run(f, soft_insn_pushf, 4), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    fake_put(f, 0x7efe, FL_TF, 2);
    assert_int_equal(run(f, soft_insn_popf, 2), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    fake_put(f, 0x7efe, FL_CF, 2);
    assert_int_equal(run(f, soft_insn_popf, 2), INSN_NEXT);
    assert_int_equal(soft_get_rflags(c), FL_1 | FL_CF | FL_VM);
}

static void vm86_int_redirection(void **state)
{
    struct fake *f = *state;
    struct scpu *c = &f->c;
    struct insn in;

    fake_vm86(f, 0);
    c->seg[X86_SS].base = 0;
    in = fake_insn(f, 2);
    in.imm = 0x21;
    assert_int_equal(soft_insn_int_n(c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    c->cr4 = CR4_VME;
    fake_put(f, FAKE_TSS + 102, 0x88, 2); /* redirection map at 68h: all clear */
    fake_put(f, 0x21 * 4, 0x30001111, 4);
    in = fake_insn(f, 2);
    in.imm = 0x21;
    assert_int_equal(soft_insn_int_n(c, &in), INSN_JUMP);
    assert_int_equal(c->seg[X86_CS].base, 0x30000);
    assert_int_equal(c->rip, 0x1111);
    assert_true(c->sysflags & FL_VM);
    assert_int_equal(fake_get(f, 0x7f00 - 6, 2), 0x1002);
    fake_put(f, FAKE_TSS + 0x68 + 0x21 / 8, 0xff, 1);
    in = fake_insn(f, 2);
    in.imm = 0x21;
    assert_int_equal(soft_insn_int_n(c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
}

static void bound_and_into(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 0);
    fake_put(f, 0x9000, 0x00000010fffffff0, 8); /* -16 .. 16 */
    struct insn in = fake_insn_mem(f, 4, 0x9000);
    in.reg = X86_RCX;
    f->c.gpr[X86_RCX] = 16;
    assert_int_equal(soft_insn_bound(&f->c, &in), INSN_NEXT);
    f->c.gpr[X86_RCX] = (uint32_t)-17;
    assert_int_equal(soft_insn_bound(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_BR, 0);
    assert_int_equal(run(f, soft_insn_into, 4), INSN_NEXT);
    fake_idt_gate(f, 4, 0x8e, SEL_CODE0, 0x4000);
    soft_set_rflags(&f->c, FL_1 | FL_OF);
    assert_int_equal(run(f, soft_insn_into, 4), INSN_JUMP);
    assert_int_equal(f->c.rip, 0x4000);
}

static void monitor_and_mwait_are_hints(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 3);
    assert_int_equal(run(f, soft_insn_monitor, 4), INSN_EXC);
    fake_expect(f, EXC_UD, 0);
    assert_int_equal(run(f, soft_insn_mwait, 4), INSN_EXC);
    fake_expect(f, EXC_UD, 0);
    fake_protected(f, 0);
    f->c.gpr[X86_RAX] = 0x9000;
    f->c.gpr[X86_RCX] = 0;
    struct insn in = fake_insn_mem(f, 4, 0x9000);
    in.asize = 4;
    assert_int_equal(soft_insn_monitor(&f->c, &in), INSN_NEXT);
    assert_int_equal(run(f, soft_insn_mwait, 4), INSN_NEXT_FLUSH);
    f->c.gpr[X86_RCX] = 2;
    assert_int_equal(soft_insn_monitor(&f->c, &in), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(run(f, soft_insn_mwait, 4), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
}

static void enter_and_leave(void **state)
{
    struct fake *f = *state;
    struct scpu *c = &f->c;

    fake_protected(f, 0);
    c->gpr[X86_RBP] = 0x9010;
    fake_put(f, 0x900c, 0x11112222, 4);
    struct insn in = fake_insn(f, 4);
    in.imm = 0x20;
    in.imm2 = 2;
    assert_int_equal(soft_insn_enter(c, &in), INSN_NEXT);
    assert_int_equal(c->gpr[X86_RBP], FAKE_STACK - 4);
    assert_int_equal(c->gpr[X86_RSP], FAKE_STACK - 12 - 0x20);
    assert_int_equal(fake_get(f, FAKE_STACK - 8, 4), 0x11112222);
    assert_int_equal(fake_get(f, FAKE_STACK - 12, 4), FAKE_STACK - 4);
    assert_int_equal(run(f, soft_insn_leave, 4), INSN_NEXT);
    assert_int_equal(c->gpr[X86_RBP], 0x9010);
    assert_int_equal(c->gpr[X86_RSP], FAKE_STACK);
}

/* ---- ports ---- */

static enum insn_result in_dx(struct fake *f, unsigned opcode, unsigned osize, uint16_t port)
{
    struct insn in = fake_insn(f, osize);

    in.opcode = (uint8_t)opcode;
    f->c.gpr[X86_RDX] = port;
    return soft_insn_in_dx(&f->c, &in);
}

static void port_sizes(void **state)
{
    struct fake *f = *state;

    fake_long(f, 0);
    f->port_value = 0xffffffff;
    f->c.gpr[X86_RAX] = ~UINT64_C(0) << 40;
    assert_int_equal(in_dx(f, 0xec, 4, 0x3f8), INSN_NEXT);
    assert_int_equal(f->c.gpr[X86_RAX], (~UINT64_C(0) << 40) | 0xff);
    assert_int_equal(in_dx(f, 0xed, 8, 0x3f8), INSN_NEXT); /* REX.W: still 32 bits */
    assert_int_equal(f->c.gpr[X86_RAX], 0xffffffff);
    assert_int_equal(f->port_len, 4);
}

static void port_permissions(void **state)
{
    struct fake *f = *state;

    fake_protected(f, 3);
    fake_put(f, FAKE_TSS + 0x68 + 0x3f8 / 8, 0x0100, 2); /* 400h refused */
    assert_int_equal(in_dx(f, 0xec, 4, 0x3f8), INSN_NEXT);
    assert_int_equal(in_dx(f, 0xed, 4, 0x3fd), INSN_EXC); /* 3fd-400h */
    fake_expect(f, EXC_GP, 0);
    assert_int_equal(in_dx(f, 0xec, 4, 0x400), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    f->c.tr.limit = 0x68 + 0x3f8 / 8; /* the second byte is missing */
    assert_int_equal(in_dx(f, 0xec, 4, 0x3f8), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
    f->c.sysflags |= FL_IOPL;
    assert_int_equal(in_dx(f, 0xec, 4, 0x3f8), INSN_NEXT);
    fake_vm86(f, 3); /* the map counts whatever IOPL is */
    f->c.tr.limit = 0x67;
    assert_int_equal(in_dx(f, 0xec, 4, 0x3f8), INSN_EXC);
    fake_expect(f, EXC_GP, 0);
}

static void string_io(void **state)
{
    struct fake *f = *state;
    struct scpu *c = &f->c;
    struct insn in;

    fake_long(f, 0);
    in = fake_insn(f, 4);
    in.opcode = 0x6d;
    in.osize = 2;
    in.rep = REP_F3;
    c->gpr[X86_RDX] = 0x1f0;
    c->gpr[X86_RCX] = 100;
    c->gpr[X86_RDI] = 0x9000;
    f->port_value = 0x55aa;
    assert_int_equal(soft_insn_ins(c, &in), INSN_REPEAT); /* in pieces */
    assert_int_equal(soft_insn_ins(c, &in), INSN_NEXT);
    assert_int_equal(f->n_port, 100);
    assert_int_equal(c->gpr[X86_RDI], 0x9000 + 200);
    assert_int_equal(fake_get(f, 0x9000 + 198, 2), 0x55aa);
    /* A page that is absent: what is done stays done, the port is not read for what is not. */
    c->gpr[X86_RCX] = 10;
    c->gpr[X86_RDI] = 0xa000 - 4;
    f->absent[0xa] = true;
    f->n_port = 0;
    assert_int_equal(soft_insn_ins(c, &in), INSN_EXC);
    fake_expect(f, EXC_PF, 2);
    assert_int_equal(f->n_port, 2);
    assert_int_equal(c->gpr[X86_RCX], 8);
    assert_int_equal(c->gpr[X86_RDI], 0xa000);
    in.opcode = 0x6e;
    in.rep = REP_NONE;
    c->sysflags |= FL_DF;
    c->gpr[X86_RSI] = 0x9000;
    assert_int_equal(soft_insn_outs(c, &in), INSN_NEXT);
    assert_int_equal(f->port_value, 0xaa);
    assert_int_equal(c->gpr[X86_RSI], 0x8fff);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(cr0_combinations),
        T(long_mode_entry_and_exit),
        T(pae_loads_pdptes),
        T(cr3_and_cr4_reserved_bits),
        T(xcr0_dependencies),
        T(debug_registers),
        T(msr_table_sorted),
        T(msr_fields_and_checks),
        T(rdmsr_raises_gp),
        T(apic_msrs_go_to_the_machine),
        T(tsc_and_adjust),
        T(kvm_clock_page),
        T(syscall_and_sysret),
        T(sysenter_and_sysexit),
        T(bases),
        T(interrupt_flag_rules),
        T(popf_masks),
        T(vm86_flags_with_and_without_vme),
        T(vm86_int_redirection),
        T(bound_and_into),
        T(monitor_and_mwait_are_hints),
        T(enter_and_leave),
        T(port_sizes),
        T(port_permissions),
        T(string_io),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
