/*
 * The pretended vCPU of the unit tests: what mmu.c, cpu.c, native.c and mem do otherwise.
 */
#include "cpu/soft/sys_fake.h"

#include "base/clock.h"
#include "cpu/soft/mode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct fake *fake_of(const struct scpu *c)
{
    return (struct fake *)(uintptr_t)((uintptr_t)c - offsetof(struct fake, c));
}

/* ---- memory ---- */

static int check(struct scpu *c, uint64_t va, unsigned len, unsigned acc)
{
    struct fake *f = fake_of(c);

    for (unsigned i = 0; i < len; i++) {
        uint64_t a = va + i;
        if (a >= FAKE_BYTES || f->absent[a >> 12]) {
            return soft_raise_pf(c, a, (acc & ACC_WRITE ? 2u : 0) | (acc & ACC_USER ? 4u : 0));
        }
    }
    return 0;
}

int soft_lin_read(struct scpu *c, uint64_t va, void *buf, unsigned len, unsigned acc)
{
    if (check(c, va, len, acc)) {
        return INSN_EXC;
    }
    memcpy(buf, fake_of(c)->mem + va, len);
    return 0;
}

int soft_lin_write(struct scpu *c, uint64_t va, const void *buf, unsigned len, unsigned acc)
{
    if (check(c, va, len, acc | ACC_WRITE)) {
        return INSN_EXC;
    }
    memcpy(fake_of(c)->mem + va, buf, len);
    return 0;
}

int soft_lin_probe(struct scpu *c, uint64_t va, unsigned len, unsigned acc)
{
    return check(c, va, len, acc);
}

int soft_ld(struct scpu *c, uint64_t va, unsigned len, unsigned acc, uint64_t *ret_value)
{
    uint64_t v = 0;

    if (soft_lin_read(c, va, &v, len, acc)) {
        return INSN_EXC;
    }
    *ret_value = v;
    return 0;
}

int soft_st(struct scpu *c, uint64_t va, unsigned len, unsigned acc, uint64_t value)
{
    return soft_lin_write(c, va, &value, len, acc);
}

void soft_tlb_flush_all(struct scpu *c)
{
    fake_of(c)->n_flush_all++;
}

void soft_tlb_flush_nonglobal(struct scpu *c)
{
    fake_of(c)->n_flush_nonglobal++;
}

void soft_tlb_flush_page(struct scpu *c, uint64_t va)
{
    (void)va;
    fake_of(c)->n_flush_page++;
}

int soft_load_pdptes(struct scpu *c, uint64_t cr3)
{
    return cr3 & 0x20 ? soft_raise_err(c, EXC_GP, 0) : 0;
}

int mem_read(const struct mem *mem, gpa_t gpa, void *buf, size_t len)
{
    const struct fake *f = (const struct fake *)(const void *)mem;

    if (!range_fits(gpa.v, len, FAKE_BYTES)) {
        return -14;
    }
    memcpy(buf, f->mem + gpa.v, len);
    return 0;
}

int mem_write(struct mem *mem, gpa_t gpa, const void *buf, size_t len)
{
    struct fake *f = (struct fake *)(void *)mem;

    if (!range_fits(gpa.v, len, FAKE_BYTES)) {
        return -14;
    }
    memcpy(f->mem + gpa.v, buf, len);
    return 0;
}

/* ---- mode ---- */

void soft_update_mode(struct scpu *c)
{
    bool lma = (c->efer & EFER_LMA) != 0;
    bool code64 = lma && (c->seg[X86_CS].attr & SEG_L);

    c->mode = (c->cr0 & CR0_PE ? MODE_PE : 0) | (c->sysflags & FL_VM ? MODE_VM86 : 0) |
              (lma ? MODE_LMA : 0) | (code64 ? MODE_64 : 0) | (c->cpl == 3 ? MODE_CPL3 : 0) |
              (c->cpl == 0 ? MODE_CPL0 : 0) | (c->sysflags & FL_TF ? MODE_STEP : 0);
    mode_choose_tlb(c);
    for (unsigned i = 0; i < X86_NSEG; i++) {
        c->seg_base[i] = code64 && i != X86_FS && i != X86_GS ? 0 : c->seg[i].base;
    }
}

void soft_set_rflags(struct scpu *c, uint64_t rflags)
{
    soft_set_status_flags(c, rflags);
    c->sysflags = (rflags & ~FL_STATUS) | FL_1;
    soft_update_mode(c);
}

bool soft_canonical(const struct scpu *c, uint64_t va)
{
    (void)c;
    return (uint64_t)((int64_t)(va << 16) >> 16) == va;
}

uint64_t soft_rdtsc(const struct scpu *c)
{
    return 1000000 + (uint64_t)c->tsc_offset; /* time stands still */
}

void soft_leave(struct scpu *c)
{
    fake_of(c)->n_leave++;
}

/* ---- machine ---- */

static uint64_t port_read(void *opaque, unsigned cpu, uint16_t port, unsigned len)
{
    struct fake *f = opaque;

    (void)cpu;
    f->port = port;
    f->port_len = len;
    f->n_port++;
    return f->port_value;
}

static void port_write(void *opaque, unsigned cpu, uint16_t port, unsigned len, uint32_t value)
{
    port_read(opaque, cpu, port, len);
    ((struct fake *)opaque)->port_value = value;
}

static int apic_read(void *opaque, unsigned cpu, uint32_t msr, uint64_t *ret_value)
{
    struct fake *f = opaque;

    (void)cpu;
    f->apic_msr = msr;
    *ret_value = f->apic_value;
    return 0;
}

static int apic_write(void *opaque, unsigned cpu, uint32_t msr, uint64_t value)
{
    struct fake *f = opaque;

    (void)cpu;
    f->apic_msr = msr;
    f->apic_value = value;
    return 0;
}

static uint64_t cr8_read(void *opaque, unsigned cpu)
{
    (void)cpu;
    return ((struct fake *)opaque)->cr8;
}

static void cr8_write(void *opaque, unsigned cpu, uint64_t value)
{
    (void)cpu;
    ((struct fake *)opaque)->cr8 = value;
}

static uint64_t pv_time(void *opaque)
{
    return clock_now_ns() + (uint64_t)((struct fake *)opaque)->clock_offset;
}

/* ---- making one ---- */

static void all_features(struct cpu_model *m)
{
    static const uint32_t leaves[] = {1, 7, 0xd, 0x40000001u, 0x80000001u, 0x80000008u};

    for (unsigned i = 0; i < ARRAY_LEN(leaves); i++) {
        m->leaves[i] = (struct cpuid_leaf){.leaf = leaves[i],
                                           .eax = 0xffffffffu,
                                           .ebx = 0xffffffffu,
                                           .ecx = 0xffffffffu,
                                           .edx = 0xffffffffu};
    }
    m->n_leaves = ARRAY_LEN(leaves);
    m->xcr0_mask = 0xe7;
    m->phys_bits = 40;
    m->lin_bits = 48;
    m->tsc_khz = 2000000;
    m->soft = true;
}

bool fake_same(const struct fake *a, const struct fake *b)
{
    const struct scpu *x = &a->c, *y = &b->c;

    return memcmp(x->gpr, y->gpr, sizeof(x->gpr)) == 0 && x->rip == y->rip &&
           memcmp(x->seg, y->seg, sizeof(x->seg)) == 0 && x->cpl == y->cpl &&
           soft_get_rflags(x) == soft_get_rflags(y) && x->mode == y->mode && x->mmu == y->mmu &&
           x->tlb_r - &x->tlb[0][0][0] == y->tlb_r - &y->tlb[0][0][0] &&
           memcmp(x->seg_base, y->seg_base, sizeof(x->seg_base)) == 0 && x->cr2 == y->cr2 &&
           x->exc.pending == y->exc.pending &&
           (!x->exc.pending ||
            (x->exc.vector == y->exc.vector && x->exc.error == y->exc.error)) &&
           memcmp(a->mem, b->mem, sizeof(a->mem)) == 0;
}

void fake_fill_tlb(struct fake *f, bool on)
{
    struct tlb_entry *all = &f->c.tlb[0][0][0];

    for (unsigned i = 0; i < MMU_NIDX * TLB_NKIND * TLB_SIZE; i++) {
        unsigned page = i & (TLB_SIZE - 1);
        bool there = on && page < FAKE_BYTES >> 12 && !f->absent[page];
        all[i].tag = there ? (uint64_t)page << 12 : TLB_INVALID(page);
        all[i].page = (uint64_t)(uintptr_t)f->mem + ((uint64_t)page << 12);
    }
    f->c.tlb_r = f->c.tlb[f->c.mmu][TLB_R];
    f->c.tlb_w = f->c.tlb[f->c.mmu][TLB_W];
}

struct fake *fake_new(void)
{
    struct fake *f = calloc(1, sizeof(*f));
    struct scpu *c = &f->c;

    assert_non_null(f);
    all_features(&f->model);
    f->vm.model = &f->model;
    f->vm.mem = (struct mem *)(void *)f;
    f->vm.n_cpus = 1;
    pthread_mutex_init(&f->vm.lock, NULL);
    f->vm.host = (struct engine_host){.opaque = f,
                                      .pio_read = port_read,
                                      .pio_write = port_write,
                                      .apic_msr_read = apic_read,
                                      .apic_msr_write = apic_write,
                                      .cr8_read = cr8_read,
                                      .cr8_write = cr8_write,
                                      .pv_time_ns = pv_time};
    c->vm = &f->vm;
    c->cold = &f->cold;
    f->cold.apic_base = 0xfee00900;
    for (unsigned i = 0; i < X86_NSEG; i++) {
        c->seg[i] = (struct vcpu_seg){.attr = i == X86_CS ? 0x9b : 0x93, .limit = 0xffff};
    }
    seg_set_null(&c->ldtr, 0);
    c->tr = (struct vcpu_seg){.attr = 0x8b, .limit = 0xffff};
    c->idtr.limit = 0x3ff;
    c->cr0 = CR0_ET;
    c->xcr0 = 1;
    c->dr[6] = 0xffff0ff0;
    c->dr[7] = 0x400;
    c->gpr[X86_RSP] = FAKE_STACK;
    c->rip = 0x100;
    soft_set_rflags(c, FL_1);
    fake_fill_tlb(f, false);
    return f;
}

void fake_free(struct fake *f)
{
    pthread_mutex_destroy(&f->vm.lock);
    free(f);
}

void fake_put(struct fake *f, uint32_t at, uint64_t value, unsigned len)
{
    memcpy(f->mem + at, &value, len);
}

uint64_t fake_get(const struct fake *f, uint32_t at, unsigned len)
{
    uint64_t v = 0;

    memcpy(&v, f->mem + at, len);
    return v;
}

void fake_desc(struct fake *f, uint16_t sel, uint32_t base, uint32_t limit, unsigned access,
               unsigned flags)
{
    uint32_t at = (sel & 4 ? FAKE_LDT : FAKE_GDT) + (sel & 0xfff8u);

    fake_put(f, at, (limit & 0xffff) | base << 16, 4);
    fake_put(f, at + 4,
             ((base >> 16) & 0xff) | access << 8 | (limit & 0xf0000) | flags << 20 |
                 (base & 0xff000000u),
             4);
}

void fake_gate(struct fake *f, uint32_t at, unsigned access, uint16_t sel, uint64_t off,
               unsigned low)
{
    fake_put(f, at, (off & 0xffff) | (uint32_t)sel << 16, 4);
    fake_put(f, at + 4, low | access << 8 | (off & 0xffff0000u), 4);
    if (soft_long_mode(&f->c)) {
        fake_put(f, at + 8, off >> 32, 8);
    }
}

void fake_idt_gate(struct fake *f, unsigned vector, unsigned access, uint16_t sel, uint64_t off)
{
    unsigned len = soft_long_mode(&f->c) ? 16 : 8;

    fake_gate(f, FAKE_IDT + vector * len, access, sel, off, 0);
}

static void fill_gdt(struct fake *f, bool lma)
{
    unsigned code_flags = lma ? 0xa : 0xc;

    fake_desc(f, SEL_CODE0, 0, 0xfffff, 0x9a, code_flags);
    fake_desc(f, SEL_DATA0, 0, 0xfffff, 0x92, 0xc);
    fake_desc(f, SEL_CODE3, 0, 0xfffff, 0xfa, code_flags);
    fake_desc(f, SEL_DATA3, 0, 0xfffff, 0xf2, 0xc);
    fake_desc(f, SEL_TSS, FAKE_TSS, 0x3ff, 0x8b, 0);
    fake_put(f, FAKE_GDT + SEL_TSS + 8, 0, 8);
    fake_desc(f, SEL_CONF0, 0, 0xfffff, 0x9e, code_flags);
    fake_desc(f, SEL_CODE16, 0, 0xffff, 0x9a, 0);
    fake_desc(f, SEL_COMPAT3, 0, 0xfffff, 0xfa, 0xc);
    fake_desc(f, SEL_NP, 0, 0xfffff, 0x12, 0xc);
    fake_desc(f, SEL_LDT, FAKE_LDT, 0xff, 0x82, 0);
    fake_put(f, FAKE_GDT + SEL_LDT + 8, 0, 8);
}

static void load_raw(struct fake *f, enum x86_seg seg, uint16_t sel)
{
    struct seg_desc d = {.lo = (uint32_t)fake_get(f, FAKE_GDT + (sel & 0xfff8u), 4),
                         .hi = (uint32_t)fake_get(f, FAKE_GDT + (sel & 0xfff8u) + 4, 4)};

    d.hi |= DESC_A;
    seg_from_desc(&f->c.seg[seg], sel, d);
}

static void enter(struct fake *f, unsigned cpl, bool lma)
{
    struct scpu *c = &f->c;
    uint16_t data = cpl ? SEL_DATA3 : SEL_DATA0;

    c->cr0 = CR0_PE | CR0_ET | CR0_NE | (lma ? CR0_PG : 0);
    c->cr4 = lma ? CR4_PAE : 0;
    c->efer = lma ? EFER_LME | EFER_LMA | EFER_SCE : 0;
    fill_gdt(f, lma);
    c->gdtr = (struct vcpu_dtable){.base = FAKE_GDT, .limit = FAKE_GDT_LIMIT};
    c->idtr = (struct vcpu_dtable){.base = FAKE_IDT, .limit = 0xfff};
    c->tr = (struct vcpu_seg){.sel = SEL_TSS, .attr = 0x8b, .limit = 0x3ff, .base = FAKE_TSS};
    if (lma) {
        fake_put(f, FAKE_TSS + 4, 0x7000, 8);
        fake_put(f, FAKE_TSS + 36, 0x6000, 8); /* IST1 */
    } else {
        fake_put(f, FAKE_TSS + 4, 0x7000, 4);
        fake_put(f, FAKE_TSS + 8, SEL_DATA0, 2);
    }
    fake_put(f, FAKE_TSS + 102, 0x68, 2);
    load_raw(f, X86_CS, cpl ? SEL_CODE3 : SEL_CODE0);
    load_raw(f, X86_SS, data);
    load_raw(f, X86_DS, data);
    load_raw(f, X86_ES, data);
    load_raw(f, X86_FS, data);
    load_raw(f, X86_GS, data);
    c->cpl = (uint8_t)cpl;
    c->rip = 0x1000;
    soft_set_rflags(c, FL_1 | FL_IF);
}

void fake_protected(struct fake *f, unsigned cpl)
{
    enter(f, cpl, false);
}

void fake_long(struct fake *f, unsigned cpl)
{
    enter(f, cpl, true);
}

void fake_vm86(struct fake *f, unsigned iopl)
{
    struct scpu *c = &f->c;

    enter(f, 3, false);
    for (unsigned i = 0; i < X86_NSEG; i++) {
        seg_set_vm86(&c->seg[i], (uint16_t)(0x10 * i));
    }
    c->gpr[X86_RSP] = 0x7f00;
    soft_set_rflags(c, FL_1 | FL_IF | FL_VM | (uint64_t)iopl << 12);
}

struct insn fake_insn(struct fake *f, unsigned osize)
{
    struct insn in = {.len = 2,
                      .osize = (uint8_t)osize,
                      .asize = soft_code64(&f->c) ? 8 : 4,
                      .seg = X86_DS,
                      .seg_override = X86_NSEG,
                      .base = INSN_NOREG,
                      .index = INSN_NOREG};

    f->c.next_rip = f->c.rip + 2;
    f->c.exc.pending = false;
    return in;
}

struct insn fake_insn_mem(struct fake *f, unsigned osize, uint32_t disp)
{
    struct insn in = fake_insn(f, osize);

    in.is_mem = true;
    in.disp = disp;
    return in;
}

void fake_expect(struct fake *f, int vector, uint32_t error)
{
    if (vector < 0) {
        assert_false(f->c.exc.pending);
        return;
    }
    assert_true(f->c.exc.pending);
    assert_int_equal(f->c.exc.vector, vector);
    assert_int_equal(f->c.exc.error, error);
    f->c.exc.pending = false;
}
