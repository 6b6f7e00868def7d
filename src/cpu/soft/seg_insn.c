/*
 * Instructions on segment registers and descriptor tables: MOV/PUSH/POP Sreg, LDS and its kin,
 * LAR, LSL, VERR, VERW, ARPL, and the LDTR, TR, GDTR, IDTR and machine status word
 * instructions. SDM vol. 2, vol. 3A 2.4, 5.10; UMIP: vol. 3A 2.5. vCPU thread, no lock.
 */
#include "cpu/soft/cr.h"
#include "cpu/soft/seg.h"
#include "cpu/soft/sysinsn.h"

#define AFLAG_ZF 0x4000u /* of scpu.aflags */

/* The 16-bit operand of in, from register or memory. */
static int load16(struct scpu *c, const struct insn *in, uint16_t *ret_value)
{
    uint64_t va, v;

    if (!in->is_mem) {
        *ret_value = (uint16_t)c->gpr[in->rm];
        return 0;
    }
    if (soft_operand_linear(c, in, 2, false, &va) || soft_ld(c, va, 2, seg_acc(c), &v)) {
        return INSN_EXC;
    }
    *ret_value = (uint16_t)v;
    return 0;
}

/* Memory gets 16 bits, a register osize. */
static enum insn_result store16(struct scpu *c, const struct insn *in, uint64_t value)
{
    uint64_t va;

    if (!in->is_mem) {
        soft_reg_set(c, in->rm, in->osize, value);
        return INSN_NEXT;
    }
    if (soft_operand_linear(c, in, 2, true, &va) ||
        soft_st(c, va, 2, seg_acc(c) | ACC_WRITE, value & 0xffff)) {
        return INSN_EXC;
    }
    return INSN_NEXT;
}

/* Finishes a segment load: bases and the mode may have changed. */
static enum insn_result seg_loaded(struct scpu *c, enum x86_seg seg, bool shadow)
{
    uint32_t mode = c->mode;

    soft_update_mode(c);
    if (seg == X86_SS && shadow) {
        c->irq_shadow |= 2;
        return INSN_NEXT_FLUSH;
    }
    return c->mode == mode ? INSN_NEXT : INSN_NEXT_FLUSH;
}

enum insn_result soft_insn_mov_from_sreg(struct scpu *c, const struct insn *in)
{
    unsigned seg = in->reg & 7;

    if (seg >= X86_NSEG) {
        return soft_raise(c, EXC_UD);
    }
    return store16(c, in, c->seg[seg].sel);
}

enum insn_result soft_insn_mov_to_sreg(struct scpu *c, const struct insn *in)
{
    unsigned seg = in->reg & 7;
    uint16_t sel;

    if (seg >= X86_NSEG || seg == X86_CS) {
        return soft_raise(c, EXC_UD);
    }
    if (load16(c, in, &sel) || seg_load(c, (enum x86_seg)seg, sel)) {
        return INSN_EXC;
    }
    return seg_loaded(c, (enum x86_seg)seg, true);
}

/* 06 0E 16 1E and their POPs carry the register in bits 3-4; 0F A0/A1 is FS, 0F A8/A9 GS. */
static enum x86_seg opcode_seg(const struct insn *in)
{
    if (in->map == MAP_0F) {
        return in->opcode & 8 ? X86_GS : X86_FS;
    }
    return (enum x86_seg)((in->opcode >> 3) & 3);
}

static unsigned stack_osize(const struct scpu *c, const struct insn *in)
{
    return soft_code64(c) && in->osize != 2 ? 8 : in->osize;
}

enum insn_result soft_insn_push_sreg(struct scpu *c, const struct insn *in)
{
    return soft_push(c, stack_osize(c, in), c->seg[opcode_seg(in)].sel) ? INSN_EXC : INSN_NEXT;
}

enum insn_result soft_insn_pop_sreg(struct scpu *c, const struct insn *in)
{
    enum x86_seg seg = opcode_seg(in);
    struct stack st;
    uint64_t sel;

    stack_current(c, &st);
    if (stack_pop(c, &st, stack_osize(c, in), &sel) || seg_load(c, seg, (uint16_t)sel)) {
        return INSN_EXC;
    }
    stack_commit(c, &st);
    return seg_loaded(c, seg, true);
}

static enum insn_result load_far_pointer(struct scpu *c, const struct insn *in,
                                         enum x86_seg seg)
{
    unsigned osize = in->osize == 8 && c->vm->model->is_amd ? 4 : in->osize;
    uint64_t va, off, sel;

    if (!in->is_mem) {
        return soft_raise(c, EXC_UD);
    }
    if (soft_operand_linear(c, in, osize + 2, false, &va) ||
        soft_ld(c, va, osize, seg_acc(c), &off) ||
        soft_ld(c, va + osize, 2, seg_acc(c), &sel) || seg_load(c, seg, (uint16_t)sel)) {
        return INSN_EXC;
    }
    soft_reg_set(c, in->reg, osize, off);
    return seg_loaded(c, seg, false);
}

enum insn_result soft_insn_les(struct scpu *c, const struct insn *in)
{
    return load_far_pointer(c, in, X86_ES);
}

enum insn_result soft_insn_lds(struct scpu *c, const struct insn *in)
{
    return load_far_pointer(c, in, X86_DS);
}

enum insn_result soft_insn_lss(struct scpu *c, const struct insn *in)
{
    return load_far_pointer(c, in, X86_SS);
}

enum insn_result soft_insn_lfs(struct scpu *c, const struct insn *in)
{
    return load_far_pointer(c, in, X86_FS);
}

enum insn_result soft_insn_lgs(struct scpu *c, const struct insn *in)
{
    return load_far_pointer(c, in, X86_GS);
}

/* ---- LAR, LSL, VERR, VERW, ARPL ---- */

static void set_zf(struct scpu *c, bool zf)
{
    c->aflags = (uint16_t)((c->aflags & ~AFLAG_ZF) | (zf ? AFLAG_ZF : 0));
}

/* The descriptor that a selector operand names; *ret_ok false when the table has none. */
static int examine(struct scpu *c, const struct insn *in, struct seg_desc *ret_desc,
                   uint16_t *ret_sel, bool *ret_ok)
{
    *ret_ok = false;
    if (seg_is_real(c)) {
        return soft_raise(c, EXC_UD);
    }
    if (load16(c, in, ret_sel)) {
        return INSN_EXC;
    }
    if (seg_is_null(*ret_sel)) {
        return 0;
    }
    if (seg_read_desc(c, *ret_sel, EXC_GP, 0, ret_desc)) {
        if (c->exc.vector != EXC_GP) {
            return INSN_EXC;
        }
        c->exc.pending = false; /* beyond the table's limit: an answer, not a fault */
        return 0;
    }
    *ret_ok = true;
    return 0;
}

static bool visible(const struct scpu *c, uint16_t sel, struct seg_desc d)
{
    unsigned dpl = DESC_DPL(d);

    return (desc_is_code(d) && desc_is_conforming(d)) || (c->cpl <= dpl && (sel & 3u) <= dpl);
}

/* System descriptor types that LAR and LSL accept, as bit masks by type. */
#define LAR_LEGACY 0x1a3eu /* 1-5, 9, 11, 12 */
#define LAR_LONG   0x1a04u /* 2, 9, 11, 12 */
#define LSL_LEGACY 0x0a0eu /* 1-3, 9, 11 */
#define LSL_LONG   0x0a04u /* 2, 9, 11 */

static enum insn_result lar_lsl(struct scpu *c, const struct insn *in, unsigned types, bool lar)
{
    struct seg_desc d;
    uint16_t sel;
    bool ok;

    if (examine(c, in, &d, &sel, &ok)) {
        return INSN_EXC;
    }
    ok = ok && visible(c, sel, d) && ((d.hi & DESC_S) || (types >> DESC_TYPE(d)) & 1);
    set_zf(c, ok);
    if (ok) {
        soft_reg_set(c, in->reg, in->osize, lar ? d.hi & 0xf0ff00 : desc_limit(d));
    }
    return INSN_NEXT;
}

enum insn_result soft_insn_lar(struct scpu *c, const struct insn *in)
{
    return lar_lsl(c, in, soft_long_mode(c) ? LAR_LONG : LAR_LEGACY, true);
}

enum insn_result soft_insn_lsl(struct scpu *c, const struct insn *in)
{
    return lar_lsl(c, in, soft_long_mode(c) ? LSL_LONG : LSL_LEGACY, false);
}

enum insn_result soft_insn_verr(struct scpu *c, const struct insn *in)
{
    struct seg_desc d;
    uint16_t sel;
    bool ok;

    if (examine(c, in, &d, &sel, &ok)) {
        return INSN_EXC;
    }
    set_zf(c, ok && desc_is_readable(d) && visible(c, sel, d));
    return INSN_NEXT;
}

enum insn_result soft_insn_verw(struct scpu *c, const struct insn *in)
{
    struct seg_desc d;
    uint16_t sel;
    bool ok;

    if (examine(c, in, &d, &sel, &ok)) {
        return INSN_EXC;
    }
    set_zf(c, ok && desc_is_writable_data(d) && visible(c, sel, d));
    return INSN_NEXT;
}

/* Memory is written, and the right to do so asked for, only when the RPL changes: measured. */
enum insn_result soft_insn_arpl(struct scpu *c, const struct insn *in)
{
    unsigned rpl = c->gpr[in->reg] & 3;
    uint64_t va = 0, v;

    if (seg_is_real(c)) {
        return soft_raise(c, EXC_UD);
    }
    if (in->is_mem) {
        if (soft_operand_linear(c, in, 2, false, &va) || soft_ld(c, va, 2, seg_acc(c), &v)) {
            return INSN_EXC;
        }
    } else {
        v = c->gpr[in->rm] & 0xffff;
    }
    bool raise = (v & 3) < rpl;
    v = raise ? (v & 0xfffc) | rpl : v;
    if (!in->is_mem) {
        soft_reg_set(c, in->rm, 2, v);
    } else if (raise && (soft_operand_linear(c, in, 2, true, &va) ||
                         soft_st(c, va, 2, seg_acc(c) | ACC_WRITE, v))) {
        return INSN_EXC;
    }
    set_zf(c, raise);
    return INSN_NEXT;
}

/* ---- system registers ---- */

/* SLDT, STR, SGDT, SIDT, SMSW at privilege above 0 when user-mode instruction prevention is on.
 */
static bool umip_blocks(const struct scpu *c)
{
    return (c->cr4 & CR4_UMIP) && c->cpl != 0;
}

enum insn_result soft_insn_sldt(struct scpu *c, const struct insn *in)
{
    if (seg_is_real(c)) {
        return soft_raise(c, EXC_UD);
    }
    if (umip_blocks(c)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    return store16(c, in, c->ldtr.sel);
}

enum insn_result soft_insn_str(struct scpu *c, const struct insn *in)
{
    if (seg_is_real(c)) {
        return soft_raise(c, EXC_UD);
    }
    if (umip_blocks(c)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    return store16(c, in, c->tr.sel);
}

/* The operand of LLDT and LTR, and its descriptor with 64-bit base where that applies. */
static int load_system(struct scpu *c, uint16_t sel, unsigned types, struct vcpu_seg *ret,
                       struct seg_desc *ret_desc)
{
    uint32_t high = 0;

    if (sel & 4) {
        return soft_raise_err(c, EXC_GP, seg_error(sel, 0));
    }
    if (seg_read_desc(c, sel, EXC_GP, 0, ret_desc)) {
        return INSN_EXC;
    }
    if ((ret_desc->hi & DESC_S) || !((types >> DESC_TYPE(*ret_desc)) & 1)) {
        return soft_raise_err(c, EXC_GP, seg_error(sel, 0));
    }
    if (!(ret_desc->hi & DESC_P)) {
        return soft_raise_err(c, EXC_NP, seg_error(sel, 0));
    }
    if (soft_long_mode(c) && seg_read_desc_high(c, sel, EXC_GP, 0, &high)) {
        return INSN_EXC;
    }
    seg_from_desc(ret, sel, *ret_desc);
    ret->base |= (uint64_t)high << 32;
    if (!soft_canonical(c, ret->base)) {
        return soft_raise_err(c, EXC_GP, seg_error(sel, 0));
    }
    return 0;
}

static int check_system(struct scpu *c)
{
    if (seg_is_real(c)) {
        return soft_raise(c, EXC_UD);
    }
    return c->cpl != 0 ? soft_raise_err(c, EXC_GP, 0) : 0;
}

enum insn_result soft_insn_lldt(struct scpu *c, const struct insn *in)
{
    struct vcpu_seg s;
    struct seg_desc d;
    uint16_t sel;

    if (check_system(c) || load16(c, in, &sel)) {
        return INSN_EXC;
    }
    if (seg_is_null(sel)) {
        seg_set_null(&c->ldtr, sel);
        return INSN_NEXT_FLUSH;
    }
    if (load_system(c, sel, 1u << SYS_LDT, &s, &d)) {
        return INSN_EXC;
    }
    c->ldtr = s;
    return INSN_NEXT_FLUSH;
}

enum insn_result soft_insn_ltr(struct scpu *c, const struct insn *in)
{
    unsigned types = 1u << SYS_TSS32 | (soft_long_mode(c) ? 0 : 1u << SYS_TSS16);
    struct vcpu_seg s;
    struct seg_desc d;
    uint16_t sel;

    if (check_system(c) || load16(c, in, &sel)) {
        return INSN_EXC;
    }
    if (seg_is_null(sel)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    if (load_system(c, sel, types, &s, &d) || seg_update_desc(c, sel, &d, DESC_BUSY, 0)) {
        return INSN_EXC;
    }
    s.attr |= 2;
    c->tr = s;
    return INSN_NEXT_FLUSH;
}

static enum insn_result store_table(struct scpu *c, const struct insn *in,
                                    const struct vcpu_dtable *t)
{
    unsigned base_len = soft_code64(c) ? 8 : 4;
    unsigned acc = seg_acc(c) | ACC_WRITE;
    uint64_t va;

    if (umip_blocks(c)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    if (soft_operand_linear(c, in, 2 + base_len, true, &va) ||
        soft_lin_probe(c, va, 2 + base_len, acc | ACC_PROBE) ||
        soft_st(c, va, 2, acc, t->limit) ||
        soft_st(c, va + 2, base_len, acc, t->base & seg_mask(base_len))) {
        return INSN_EXC;
    }
    return INSN_NEXT;
}

static enum insn_result load_table(struct scpu *c, const struct insn *in, struct vcpu_dtable *t)
{
    unsigned base_len = soft_code64(c) ? 8 : 4;
    uint64_t va, limit, base;

    if (c->cpl != 0) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    if (soft_operand_linear(c, in, 2 + base_len, false, &va) || soft_ld(c, va, 2, 0, &limit) ||
        soft_ld(c, va + 2, base_len, 0, &base)) {
        return INSN_EXC;
    }
    if (base_len == 8 && !soft_canonical(c, base)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    if (base_len == 4 && in->osize == 2) {
        base &= 0xffffff;
    }
    t->base = base;
    t->limit = (uint16_t)limit;
    return INSN_NEXT_FLUSH;
}

enum insn_result soft_insn_sgdt(struct scpu *c, const struct insn *in)
{
    return store_table(c, in, &c->gdtr);
}

enum insn_result soft_insn_sidt(struct scpu *c, const struct insn *in)
{
    return store_table(c, in, &c->idtr);
}

enum insn_result soft_insn_lgdt(struct scpu *c, const struct insn *in)
{
    return load_table(c, in, &c->gdtr);
}

enum insn_result soft_insn_lidt(struct scpu *c, const struct insn *in)
{
    return load_table(c, in, &c->idtr);
}

enum insn_result soft_insn_smsw(struct scpu *c, const struct insn *in)
{
    if (umip_blocks(c)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    return store16(c, in, c->cr0);
}

enum insn_result soft_insn_lmsw(struct scpu *c, const struct insn *in)
{
    uint16_t v;

    if (c->cpl != 0) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    if (load16(c, in, &v)) {
        return INSN_EXC;
    }
    /* PE can be set but not cleared. */
    uint64_t cr0 = (c->cr0 & ~UINT64_C(0xe)) | (v & 0xfu);
    return cr_write_cr0(c, cr0) ? INSN_EXC : INSN_NEXT_FLUSH;
}
