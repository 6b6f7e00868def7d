/*
 * Hardware task switches: JMP, CALL, IRET and events through 16- and 32-bit TSSs and task
 * gates. SDM vol. 3A chapter 8. Legacy protected and virtual-8086 mode only: long mode has
 * none. vCPU thread, no lock.
 *
 * Order (SDM 8.3): what can fault in the old task's name comes first (the new TSS is read whole
 * and the old one probed); then the commit point; segment loads after it fault in the new task.
 */
#include "cpu/soft/seg.h"

#define TSS32_BYTES 104u
#define TSS16_BYTES 44u
#define DR6_BT      UINT64_C(0x8000)

/* Where the fields of the two formats lie, and how large one is. */
struct tss_layout {
    unsigned size;                 /* of eip, eflags and the registers */
    unsigned bytes;                /* least limit + 1 */
    unsigned eip;                  /* then eflags, eax ecx edx ebx esp ebp esi edi */
    unsigned seg, seg_step, n_seg; /* ES CS SS DS FS GS */
    unsigned ldt;
};
static const struct tss_layout tss32 = {4, TSS32_BYTES, 32, 72, 4, 6, 96};
static const struct tss_layout tss16 = {2, TSS16_BYTES, 14, 34, 2, 4, 42};

#define TSS32_CR3  28u
#define TSS32_TRAP 100u

/* A TSS image in our memory. */
struct tss_image {
    uint8_t b[TSS32_BYTES];
};

static uint32_t field_get(const struct tss_image *t, unsigned off, unsigned size)
{
    uint32_t v = (uint32_t)t->b[off] | (uint32_t)t->b[off + 1] << 8;

    if (size == 4) {
        v |= (uint32_t)t->b[off + 2] << 16 | (uint32_t)t->b[off + 3] << 24;
    }
    return v;
}

static const struct tss_layout *layout_of(unsigned attr)
{
    return attr & 8 ? &tss32 : &tss16;
}

static uint32_t tss_va(const struct vcpu_seg *tr, unsigned off)
{
    return (uint32_t)(tr->base + off);
}

/* Saves the running task in its TSS: EIP, EFLAGS, registers, selectors. The TSS was probed. */
static int save_old(struct scpu *c, uint64_t next_rip, uint64_t rflags)
{
    const struct tss_layout *l = layout_of(c->tr.attr);
    unsigned off = l->eip;

    if (soft_st(c, tss_va(&c->tr, off), l->size, ACC_WRITE | ACC_SYS, next_rip) ||
        soft_st(c, tss_va(&c->tr, off + l->size), l->size, ACC_WRITE | ACC_SYS, rflags)) {
        return INSN_EXC;
    }
    off += 2 * l->size;
    for (unsigned i = 0; i < 8; i++, off += l->size) {
        if (soft_st(c, tss_va(&c->tr, off), l->size, ACC_WRITE | ACC_SYS, c->gpr[i])) {
            return INSN_EXC;
        }
    }
    for (unsigned i = 0; i < l->n_seg; i++) {
        if (soft_st(c, tss_va(&c->tr, l->seg + i * l->seg_step), 2, ACC_WRITE | ACC_SYS,
                    c->seg[i].sel)) {
            return INSN_EXC;
        }
    }
    return 0;
}

static int ts_fault(struct scpu *c, uint16_t sel, uint32_t ext)
{
    return soft_raise_err(c, EXC_TS, seg_error(sel, ext));
}

static int load_ldt(struct scpu *c, uint16_t sel, uint32_t ext)
{
    struct seg_desc d;

    seg_set_null(&c->ldtr, sel);
    if (seg_is_null(sel)) {
        return 0;
    }
    if (sel & 4) {
        return ts_fault(c, sel, ext);
    }
    if (seg_read_desc(c, sel, EXC_TS, ext, &d)) {
        return INSN_EXC;
    }
    if ((d.hi & DESC_S) || DESC_TYPE(d) != SYS_LDT || !(d.hi & DESC_P)) {
        return ts_fault(c, sel, ext);
    }
    seg_from_desc(&c->ldtr, sel, d);
    return 0;
}

static int load_cs(struct scpu *c, uint16_t sel, uint32_t ext)
{
    unsigned rpl = sel & 3u;
    struct seg_desc d;

    if (seg_is_null(sel)) {
        return ts_fault(c, sel, ext);
    }
    if (seg_read_desc(c, sel, EXC_TS, ext, &d)) {
        return INSN_EXC;
    }
    unsigned dpl = DESC_DPL(d);
    if (!desc_is_code(d) || (desc_is_conforming(d) ? dpl > rpl : dpl != rpl)) {
        return ts_fault(c, sel, ext);
    }
    if (!(d.hi & DESC_P)) {
        return soft_raise_err(c, EXC_NP, seg_error(sel, ext));
    }
    if (seg_mark_accessed(c, sel, &d)) {
        return INSN_EXC;
    }
    seg_from_desc(&c->seg[X86_CS], sel, d);
    return 0;
}

/* Segments of the new task, after its selectors are in place as null segments. */
static int load_segments(struct scpu *c, uint16_t ldt, const uint16_t sel[X86_NSEG],
                         uint32_t ext)
{
    static const enum x86_seg data[] = {X86_DS, X86_ES, X86_FS, X86_GS};

    if (load_ldt(c, ldt, ext)) {
        return INSN_EXC;
    }
    if (c->sysflags & FL_VM) {
        for (unsigned i = 0; i < X86_NSEG; i++) {
            seg_set_vm86(&c->seg[i], sel[i]);
        }
        return 0;
    }
    if (load_cs(c, sel[X86_CS], ext) ||
        seg_check_stack(c, sel[X86_SS], c->cpl, EXC_TS, ext, &c->seg[X86_SS])) {
        return INSN_EXC;
    }
    for (unsigned i = 0; i < ARRAY_LEN(data); i++) {
        if (seg_load_data(c, data[i], sel[data[i]], EXC_TS, ext)) {
            return INSN_EXC;
        }
    }
    return 0;
}

/* The address space of the new task. A bad PDPTE is the new task's fault. */
static int load_cr3(struct scpu *c, uint64_t cr3)
{
    if (!(c->cr0 & CR0_PG)) {
        return 0;
    }
    if ((c->cr4 & CR4_PAE) && soft_load_pdptes(c, cr3)) {
        return INSN_EXC;
    }
    if (c->cr3 != cr3) {
        c->cr3 = cr3;
        soft_tlb_flush_nonglobal(c);
    }
    return 0;
}

/* Registers of the new task; after this every fault is its own. */
static int load_new(struct scpu *c, const struct tss_image *t, const struct tss_layout *l,
                    uint64_t set_flags, uint32_t ext)
{
    uint16_t sel[X86_NSEG] = {0};
    unsigned off = l->eip;
    uint64_t rip = field_get(t, off, l->size);
    uint64_t rflags = field_get(t, off + l->size, l->size);

    off += 2 * l->size;
    for (unsigned i = 0; i < 8; i++, off += l->size) {
        /* A 16-bit task finds ones in the upper halves, as from the 80386 on. */
        c->gpr[i] = field_get(t, off, l->size) | (l->size == 2 ? 0xffff0000 : 0);
    }
    for (unsigned i = 0; i < l->n_seg; i++) {
        sel[i] = (uint16_t)field_get(t, l->seg + i * l->seg_step, 2);
    }
    for (unsigned i = 0; i < X86_NSEG; i++) {
        seg_set_null(&c->seg[i], sel[i]);
    }
    uint64_t known = FL_STATUS | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT;
    if (l->size == 4) {
        known |= FL_RF | FL_VM | FL_AC | FL_VIF | FL_VIP | FL_ID;
    }
    c->rip = rip;
    c->cpl = rflags & FL_VM & known ? 3 : sel[X86_CS] & 3;
    c->cr0 |= CR0_TS;
    c->dr[7] &= ~UINT64_C(0x155); /* L0-L3, LE */
    soft_set_rflags(c, (rflags & known) | set_flags | FL_1);
    if (l->size == 4 && load_cr3(c, field_get(t, TSS32_CR3, 4))) {
        return INSN_EXC;
    }
    int rc = load_segments(c, (uint16_t)field_get(t, l->ldt, 2), sel, ext);
    soft_update_mode(c);
    if (rc) {
        return INSN_EXC;
    }
    if (rip > c->seg[X86_CS].limit) {
        return soft_raise_err(c, EXC_GP, ext);
    }
    if (l->size == 4 && (t->b[TSS32_TRAP] & 1)) {
        c->pending_db |= DR6_BT;
    }
    return 0;
}

/* Busy bits of both descriptors, and the link from the new task to the old one. */
static int link_tasks(struct scpu *c, uint16_t sel, struct seg_desc *d,
                      const struct vcpu_seg *new_tr, enum task_reason why)
{
    struct seg_desc old;

    if (why == TASK_JMP || why == TASK_IRET) {
        if (seg_read_desc(c, c->tr.sel, EXC_TS, 0, &old) ||
            seg_update_desc(c, c->tr.sel, &old, 0, DESC_BUSY)) {
            return INSN_EXC;
        }
    } else if (soft_st(c, tss_va(new_tr, 0), 2, ACC_WRITE | ACC_SYS, c->tr.sel)) {
        return INSN_EXC;
    }
    return why == TASK_IRET ? 0 : seg_update_desc(c, sel, d, DESC_BUSY, 0);
}

int task_switch(struct scpu *c, uint16_t sel, struct seg_desc d, enum task_reason why,
                uint64_t next_rip, uint32_t ext)
{
    const struct tss_layout *l = layout_of(desc_attr(d));
    const struct tss_layout *old = layout_of(c->tr.attr);
    bool nested = why == TASK_CALL || why == TASK_EVENT;
    uint64_t rflags = soft_get_rflags(c);
    struct tss_image image = {{0}};
    struct vcpu_seg new_tr;

    if (!(d.hi & DESC_P)) {
        return soft_raise_err(c, EXC_NP, seg_error(sel, ext));
    }
    seg_from_desc(&new_tr, sel, d);
    if (new_tr.limit + UINT64_C(1) < l->bytes) {
        return ts_fault(c, sel, ext);
    }
    if (c->tr.limit + UINT64_C(1) < old->bytes) {
        return ts_fault(c, c->tr.sel, ext);
    }
    if (soft_lin_read(c, tss_va(&new_tr, 0), image.b, l->bytes, ACC_READ | ACC_SYS) ||
        soft_lin_probe(c, tss_va(&c->tr, 0), old->bytes, ACC_WRITE | ACC_SYS | ACC_PROBE) ||
        (nested && soft_lin_probe(c, tss_va(&new_tr, 0), 2, ACC_WRITE | ACC_SYS | ACC_PROBE))) {
        return INSN_EXC;
    }
    if (why == TASK_IRET) {
        rflags &= ~FL_NT;
    }
    if (save_old(c, next_rip, rflags) || link_tasks(c, sel, &d, &new_tr, why)) {
        return INSN_EXC;
    }
    /* Commit point. */
    new_tr.attr |= 2;
    c->tr = new_tr;
    return load_new(c, &image, l, nested ? FL_NT : 0, ext);
}

int task_gate(struct scpu *c, uint16_t tss_sel, enum task_reason why, uint64_t next_rip,
              uint32_t ext)
{
    struct seg_desc d;

    if (seg_is_null(tss_sel) || (tss_sel & 4)) {
        return soft_raise_err(c, EXC_GP, seg_error(tss_sel, ext));
    }
    if (seg_read_desc(c, tss_sel, EXC_GP, ext, &d)) {
        return INSN_EXC;
    }
    if ((d.hi & DESC_S) || (DESC_TYPE(d) != SYS_TSS16 && DESC_TYPE(d) != SYS_TSS32)) {
        return soft_raise_err(c, EXC_GP, seg_error(tss_sel, ext));
    }
    return task_switch(c, tss_sel, d, why, next_rip, ext);
}

int task_return(struct scpu *c, uint64_t next_rip)
{
    struct seg_desc d;
    uint64_t link;

    if (soft_ld(c, tss_va(&c->tr, 0), 2, ACC_READ | ACC_SYS, &link)) {
        return INSN_EXC;
    }
    uint16_t sel = (uint16_t)link;
    if (seg_is_null(sel) || (sel & 4)) {
        return ts_fault(c, sel, 0);
    }
    if (seg_read_desc(c, sel, EXC_TS, 0, &d)) {
        return INSN_EXC;
    }
    if ((d.hi & DESC_S) || (DESC_TYPE(d) != SYS_TSS16_BUSY && DESC_TYPE(d) != SYS_TSS32_BUSY)) {
        return ts_fault(c, sel, 0);
    }
    return task_switch(c, sel, d, TASK_IRET, next_rip, 0);
}
