/*
 * Descriptors and segment registers: reading, checking and loading. SDM vol.
 * 3A 3.4, 3.5, 5.2-5.9, 20.1 (real), 20.2 (virtual-8086), 5.3.1 (64-bit). vCPU thread, no lock.
 *
 * A null selector clears the hidden part (CPUID says so: NullSelectorClearsBase). The accessed
 * and busy bits are set by a one-byte write after the read, not by one locked access.
 */
#include "cpu/soft/seg.h"

uint32_t desc_base(struct seg_desc d)
{
    return (d.lo >> 16) | ((d.hi & 0xff) << 16) | (d.hi & 0xff000000u);
}

uint32_t desc_limit(struct seg_desc d)
{
    uint32_t limit = (d.lo & 0xffff) | (d.hi & 0xf0000);
    return d.hi & 0x800000 ? limit << 12 | 0xfff : limit;
}

uint16_t desc_attr(struct seg_desc d)
{
    return (uint16_t)(((d.hi >> 8) & 0xff) | ((d.hi >> 12) & 0xf00));
}

/* Linear address of byte `off` of a descriptor table. */
static uint64_t table_va(const struct scpu *c, uint64_t base, uint32_t off)
{
    uint64_t va = base + off;
    return soft_long_mode(c) ? va : (uint32_t)va;
}

/* Address of a descriptor of len bytes; false when it is not within its table. */
static bool desc_va(const struct scpu *c, uint16_t sel, unsigned len, uint64_t *ret_va)
{
    bool local = (sel & 4) != 0;
    uint32_t limit = local ? c->ldtr.limit : c->gdtr.limit;
    uint32_t off = sel & 0xfff8u;

    if ((local && (c->ldtr.attr & SEG_UNUSABLE)) || off + len - 1 > limit) {
        return false;
    }
    *ret_va = table_va(c, local ? c->ldtr.base : c->gdtr.base, off);
    return true;
}

int seg_read_desc(struct scpu *c, uint16_t sel, uint8_t vector, uint32_t ext,
                  struct seg_desc *ret_desc)
{
    uint64_t va, raw;

    if (!desc_va(c, sel, 8, &va)) {
        return soft_raise_err(c, vector, seg_error(sel, ext));
    }
    if (soft_ld(c, va, 8, ACC_READ | ACC_SYS, &raw)) {
        return INSN_EXC;
    }
    ret_desc->lo = (uint32_t)raw;
    ret_desc->hi = (uint32_t)(raw >> 32);
    return 0;
}

int seg_read_desc_high(struct scpu *c, uint16_t sel, uint8_t vector, uint32_t ext,
                       uint32_t *ret_base_high)
{
    uint64_t va, raw;

    if (!desc_va(c, sel, 16, &va)) {
        return soft_raise_err(c, vector, seg_error(sel, ext));
    }
    if (soft_ld(c, va + 8, 8, ACC_READ | ACC_SYS, &raw)) {
        return INSN_EXC;
    }
    if ((raw >> 40) & 0x1f) {
        return soft_raise_err(c, vector, seg_error(sel, ext));
    }
    *ret_base_high = (uint32_t)raw;
    return 0;
}

int seg_update_desc(struct scpu *c, uint16_t sel, struct seg_desc *d, uint32_t set,
                    uint32_t clear)
{
    uint32_t hi = (d->hi | set) & ~clear;
    uint64_t va;

    if (hi == d->hi) {
        return 0;
    }
    if (!desc_va(c, sel, 8, &va)) {
        return soft_raise_err(c, EXC_GP, seg_error(sel, 0));
    }
    if (soft_st(c, va + 5, 1, ACC_WRITE | ACC_SYS, (hi >> 8) & 0xff)) {
        return INSN_EXC;
    }
    d->hi = hi;
    return 0;
}

int seg_mark_accessed(struct scpu *c, uint16_t sel, struct seg_desc *d)
{
    return seg_update_desc(c, sel, d, DESC_A, 0);
}

void seg_from_desc(struct vcpu_seg *ret_seg, uint16_t sel, struct seg_desc d)
{
    ret_seg->sel = sel;
    ret_seg->attr = desc_attr(d);
    ret_seg->limit = desc_limit(d);
    ret_seg->base = desc_base(d);
}

void seg_set_null(struct vcpu_seg *s, uint16_t sel)
{
    s->sel = sel;
    s->attr = SEG_UNUSABLE;
    s->limit = 0;
    s->base = 0;
}

void seg_set_vm86(struct vcpu_seg *s, uint16_t sel)
{
    s->sel = sel;
    s->attr = 0xf3;
    s->limit = 0xffff;
    s->base = (uint32_t)sel << 4;
}

void seg_set_real(struct scpu *c, enum x86_seg seg, uint16_t sel)
{
    struct vcpu_seg *s = &c->seg[seg];

    if (seg_is_vm86(c)) {
        seg_set_vm86(s, sel);
        return;
    }
    /* Limit and attributes stay as protected mode left them, which "unreal" code lives on. */
    if (s->attr & SEG_UNUSABLE) {
        s->attr = 0x93;
        s->limit = 0xffff;
    }
    s->sel = sel;
    s->base = (uint32_t)sel << 4;
}

int seg_load_data(struct scpu *c, enum x86_seg seg, uint16_t sel, uint8_t vector, uint32_t ext)
{
    struct seg_desc d;

    if (seg_is_null(sel)) {
        seg_set_null(&c->seg[seg], sel);
        return 0;
    }
    if (seg_read_desc(c, sel, vector, ext, &d)) {
        return INSN_EXC;
    }
    unsigned dpl = DESC_DPL(d);
    bool conforming = desc_is_code(d) && desc_is_conforming(d);
    if (!desc_is_readable(d) || (!conforming && ((sel & 3u) > dpl || c->cpl > dpl))) {
        return soft_raise_err(c, vector, seg_error(sel, ext));
    }
    if (!(d.hi & DESC_P)) {
        return soft_raise_err(c, EXC_NP, seg_error(sel, ext));
    }
    if (seg_mark_accessed(c, sel, &d)) {
        return INSN_EXC;
    }
    seg_from_desc(&c->seg[seg], sel, d);
    return 0;
}

int seg_check_stack(struct scpu *c, uint16_t sel, unsigned cpl, uint8_t vector, uint32_t ext,
                    struct vcpu_seg *ret_seg)
{
    struct seg_desc d;

    if (seg_is_null(sel)) {
        return soft_raise_err(c, vector, ext);
    }
    if (seg_read_desc(c, sel, vector, ext, &d)) {
        return INSN_EXC;
    }
    if ((sel & 3u) != cpl || !desc_is_writable_data(d) || DESC_DPL(d) != cpl) {
        return soft_raise_err(c, vector, seg_error(sel, ext));
    }
    if (!(d.hi & DESC_P)) {
        return soft_raise_err(c, EXC_SS, seg_error(sel, ext));
    }
    if (seg_mark_accessed(c, sel, &d)) {
        return INSN_EXC;
    }
    seg_from_desc(ret_seg, sel, d);
    return 0;
}

int seg_load_ss(struct scpu *c, uint16_t sel)
{
    if (seg_is_real(c)) {
        seg_set_real(c, X86_SS, sel);
        return 0;
    }
    if (seg_is_null(sel) && soft_code64(c) && c->cpl != 3 && (sel & 3) == c->cpl) {
        seg_set_null(&c->seg[X86_SS], sel);
        c->seg[X86_SS].attr |= (uint16_t)(c->cpl << 5);
        return 0;
    }
    return seg_check_stack(c, sel, c->cpl, EXC_GP, 0, &c->seg[X86_SS]);
}

int seg_load(struct scpu *c, enum x86_seg seg, uint16_t sel)
{
    if (seg == X86_SS) {
        return seg_load_ss(c, sel);
    }
    if (seg_is_real(c)) {
        seg_set_real(c, seg, sel);
        return 0;
    }
    return seg_load_data(c, seg, sel, EXC_GP, 0);
}

void seg_null_outer(struct scpu *c)
{
    static const enum x86_seg segs[] = {X86_ES, X86_DS, X86_FS, X86_GS};

    for (unsigned i = 0; i < ARRAY_LEN(segs); i++) {
        struct vcpu_seg *s = &c->seg[segs[i]];
        bool conforming = (s->attr & 0xc) == 0xc;

        /* Its base stays: FS and GS then keep what WRMSR gave them. */
        if (!(s->attr & SEG_UNUSABLE) && !conforming && SEG_DPL(s->attr) < c->cpl) {
            s->sel = 0;
            s->attr |= SEG_UNUSABLE;
        }
    }
}

int seg_check_code(struct scpu *c, uint16_t sel, struct seg_desc *d, unsigned cpl, uint64_t rip,
                   uint32_t ext, struct code_target *ret)
{
    bool code64 = soft_long_mode(c) && (d->hi & DESC_L);

    if (code64 && (d->hi & DESC_DB)) {
        return soft_raise_err(c, EXC_GP, seg_error(sel, ext));
    }
    if (code64 ? !soft_canonical(c, rip) : rip > desc_limit(*d)) {
        return soft_raise_err(c, EXC_GP, ext);
    }
    if (seg_mark_accessed(c, sel, d)) {
        return INSN_EXC;
    }
    seg_from_desc(&ret->seg, (uint16_t)((sel & ~3u) | cpl), *d);
    ret->rip = rip;
    return 0;
}

void seg_enter_code(struct scpu *c, const struct code_target *t, unsigned cpl)
{
    c->seg[X86_CS] = t->seg;
    c->rip = t->rip;
    c->cpl = (uint8_t)cpl;
}

/* The TSS itself is bad: #TS with TR. */
static int tss_fault(struct scpu *c, uint32_t ext)
{
    return soft_raise_err(c, EXC_TS, seg_error(c->tr.sel, ext));
}

static int tss_read(struct scpu *c, uint32_t off, unsigned len, uint64_t *ret_value)
{
    return soft_ld(c, table_va(c, c->tr.base, off), len, ACC_READ | ACC_SYS, ret_value);
}

int tss_stack(struct scpu *c, unsigned cpl, uint32_t ext, struct stack *ret_stack)
{
    bool wide = (c->tr.attr & 8) != 0;
    uint32_t off = wide ? cpl * 8 + 4 : cpl * 4 + 2;
    unsigned sp_len = wide ? 4 : 2;
    uint64_t sp, sel;

    if (off + sp_len + 1 > c->tr.limit) {
        return tss_fault(c, ext);
    }
    if (tss_read(c, off, sp_len, &sp) || tss_read(c, off + sp_len, 2, &sel) ||
        seg_check_stack(c, (uint16_t)sel, cpl, EXC_TS, ext, &ret_stack->ss)) {
        return INSN_EXC;
    }
    ret_stack->sp = sp;
    ret_stack->width = ret_stack->ss.attr & SEG_DB ? 4 : 2;
    ret_stack->acc = ACC_SYS;
    ret_stack->error = seg_error((uint16_t)sel, ext);
    return 0;
}

int tss_stack64(struct scpu *c, unsigned cpl, unsigned ist, uint32_t ext,
                struct stack *ret_stack)
{
    uint32_t off = ist ? ist * 8 + 28 : cpl * 8 + 4;
    uint64_t sp;

    if (off + 7 > c->tr.limit) {
        return tss_fault(c, ext);
    }
    if (tss_read(c, off, 8, &sp)) {
        return INSN_EXC;
    }
    if (!soft_canonical(c, sp)) {
        return soft_raise_err(c, EXC_SS, ext);
    }
    seg_set_null(&ret_stack->ss, (uint16_t)cpl);
    ret_stack->ss.attr |= (uint16_t)(cpl << 5);
    ret_stack->sp = sp;
    ret_stack->width = 8;
    ret_stack->acc = ACC_SYS;
    ret_stack->error = ext;
    return 0;
}
