/*
 * The interrupt flag and software interrupts: CLI, STI, PUSHF, POPF, INT n, INT3, INT1, INTO,
 * BOUND, UD, and ENTER and LEAVE. SDM vol. 2, vol. 3A 6.8, 20.2-20.4 (virtual-8086 mode, its
 * extensions VME and the protected-mode virtual interrupts PVI). vCPU thread, no lock.
 */
#include "cpu/soft/exc.h"
#include "cpu/soft/mode.h"
#include "cpu/soft/seg.h"
#include "cpu/soft/sysinsn.h"
#include "cpu/soft/uop.h"

#define TSS_IOMAP 102u /* offset of the I/O map base in a 32-bit TSS */

static bool iopl_allows(const struct scpu *c)
{
    return c->cpl <= ((c->sysflags >> 12) & 3);
}

/* CLI and STI work on VIF: virtual-8086 mode with VME, privilege 3 with PVI. */
static bool uses_vif(const struct scpu *c)
{
    return seg_is_vm86(c) ? (c->cr4 & CR4_VME) != 0 : c->cpl == 3 && (c->cr4 & CR4_PVI);
}

enum insn_result soft_insn_cli(struct scpu *c, const struct insn *in)
{
    (void)in;
    if (iopl_allows(c)) {
        c->sysflags &= ~FL_IF;
    } else if (uses_vif(c)) {
        c->sysflags &= ~FL_VIF;
    } else {
        return soft_raise_err(c, EXC_GP, 0);
    }
    return INSN_NEXT;
}

/*
 * Nothing waits that the instruction after STI would have to be let by, and that instruction is
 * in the same block, where nothing is let in: then the shadow need not be kept. HLT after STI
 * relies on nothing coming in between.
 */
static bool shadow_is_free(const struct scpu *c)
{
    const struct sblock *b = c->blk;
    return b != NULL && (c->mode & (MODE_64 | MODE_STEP)) == MODE_64 &&
           c->next_rip - b->va < b->len_bytes && !c->irq_waiting && !c->nmi_pending &&
           c->steps == 0 && c->pending_db == 0 && atomic_load_relaxed_u32(&c->exit_req) == 0;
}

enum insn_result soft_insn_sti(struct scpu *c, const struct insn *in)
{
    (void)in;
    if (iopl_allows(c)) {
        if (!(c->sysflags & FL_IF)) {
            c->sysflags |= FL_IF;
            if (shadow_is_free(c)) {
                return INSN_NEXT;
            }
            c->irq_shadow |= 1;
            return INSN_NEXT_FLUSH;
        }
        return INSN_NEXT;
    }
    if (!uses_vif(c) || (c->sysflags & FL_VIP)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    c->sysflags |= FL_VIF;
    return INSN_NEXT;
}

static unsigned stack_osize(const struct scpu *c, const struct insn *in)
{
    return soft_code64(c) && in->osize != 2 ? 8 : in->osize;
}

/* The image that VME shows: IF is VIF, IOPL reads 3. */
static uint64_t vme_image(const struct scpu *c)
{
    uint64_t f = soft_get_rflags(c);

    return (f & ~FL_IF) | (f & FL_VIF ? FL_IF : 0) | FL_IOPL;
}

enum insn_result soft_insn_pushf(struct scpu *c, const struct insn *in)
{
    unsigned size = stack_osize(c, in);
    uint64_t f = soft_get_rflags(c) & ~(FL_RF | FL_VM);

    if (seg_is_vm86(c) && !iopl_allows(c)) {
        if (!(c->cr4 & CR4_VME) || size != 2) {
            return soft_raise_err(c, EXC_GP, 0);
        }
        f = vme_image(c);
    }
    return soft_push(c, size, f) ? INSN_EXC : INSN_NEXT;
}

#define POPF_16 (FL_STATUS | FL_TF | FL_DF | FL_NT)
#define POPF_32 (POPF_16 | FL_AC | FL_ID)

/* POPF in virtual-8086 mode below IOPL 3 with VME: IF goes to VIF. */
static int popf_vme(struct scpu *c, uint64_t *image, uint64_t *mask)
{
    if ((*image & FL_TF) || ((*image & FL_IF) && (c->sysflags & FL_VIP))) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    *mask |= FL_VIF;
    *image = (*image & ~FL_VIF) | (*image & FL_IF ? FL_VIF : 0);
    return 0;
}

enum insn_result soft_insn_popf(struct scpu *c, const struct insn *in)
{
    unsigned size = stack_osize(c, in);
    uint64_t mask = size == 2 ? POPF_16 : POPF_32;
    bool vm86_low = seg_is_vm86(c) && !iopl_allows(c);
    struct stack st;
    uint64_t image;

    if (vm86_low && (!(c->cr4 & CR4_VME) || size != 2)) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    stack_current(c, &st);
    if (stack_pop(c, &st, size, &image) || (vm86_low && popf_vme(c, &image, &mask))) {
        return INSN_EXC;
    }
    mask |= iopl_allows(c) ? FL_IF : 0;
    mask |= c->cpl == 0 ? FL_IOPL : 0;
    stack_commit(c, &st);
    uint64_t old = c->sysflags;
    uint64_t f = (soft_get_rflags(c) & ~mask) | (image & mask);
    if ((f ^ old) & (FL_TF | FL_AC)) {
        mode_set_rflags(c, f & ~FL_RF);
        return INSN_NEXT_FLUSH;
    }
    c->sysflags = f & ~(FL_STATUS | FL_RF);
    soft_set_status_flags(c, f);
    /* What comes in later is seen at the next block. */
    return (f & ~old & FL_IF) && c->irq_waiting ? INSN_NEXT_FLUSH : INSN_NEXT;
}

/* ---- software interrupts ---- */

/*
 * Whether INT n of virtual-8086 mode goes to the program's own interrupt table, by the
 * redirection bitmap below the I/O map of the TSS (VME). A TSS too small for it redirects
 * nothing.
 */
static int vme_redirects(struct scpu *c, uint8_t vector, bool *ret_redirect)
{
    uint64_t map, bits;

    *ret_redirect = false;
    if (!(c->cr4 & CR4_VME)) {
        return 0;
    }
    if (TSS_IOMAP + 1 > c->tr.limit || !(c->tr.attr & 8)) {
        return 0;
    }
    if (soft_ld(c, (uint32_t)(c->tr.base + TSS_IOMAP), 2, ACC_READ | ACC_SYS, &map)) {
        return INSN_EXC;
    }
    if (map < 32 || map - 32 + vector / 8u > c->tr.limit) {
        return 0;
    }
    uint32_t va = (uint32_t)(c->tr.base + map - 32 + vector / 8u);
    if (soft_ld(c, va, 1, ACC_READ | ACC_SYS, &bits)) {
        return INSN_EXC;
    }
    *ret_redirect = !((bits >> (vector & 7)) & 1);
    return 0;
}

/* INT n through the virtual-8086 program's table at linear address 0. */
static enum insn_result int_redirected(struct scpu *c, uint8_t vector)
{
    bool iopl3 = iopl_allows(c);
    uint64_t image = iopl3 ? soft_get_rflags(c) : vme_image(c);
    struct stack st;
    uint64_t vec;

    stack_current(c, &st);
    if (soft_ld(c, vector * 4u, 4, ACC_READ | ACC_USER, &vec) || stack_push(c, &st, 2, image) ||
        stack_push(c, &st, 2, c->seg[X86_CS].sel) || stack_push(c, &st, 2, c->next_rip)) {
        return INSN_EXC;
    }
    stack_commit(c, &st);
    c->step_rule = STEP_NEVER;
    seg_set_vm86(&c->seg[X86_CS], (uint16_t)(vec >> 16));
    c->rip = vec & 0xffff;
    soft_set_rflags(c, soft_get_rflags(c) & ~(FL_TF | (iopl3 ? FL_IF : FL_VIF)));
    return INSN_JUMP;
}

static enum insn_result soft_interrupt(struct scpu *c, uint8_t vector)
{
    return soft_deliver_event(c, SOFT_EV_SOFT_INT, vector, false, 0) ? INSN_EXC : INSN_JUMP;
}

enum insn_result soft_insn_int_n(struct scpu *c, const struct insn *in)
{
    uint8_t vector = (uint8_t)in->imm;
    bool redirect;

    if (seg_is_vm86(c)) {
        if (vme_redirects(c, vector, &redirect)) {
            return INSN_EXC;
        }
        if (redirect) {
            return int_redirected(c, vector);
        }
        if (!iopl_allows(c)) {
            return soft_raise_err(c, EXC_GP, 0);
        }
    }
    return soft_interrupt(c, vector);
}

enum insn_result soft_insn_int3(struct scpu *c, const struct insn *in)
{
    (void)in;
    return soft_interrupt(c, EXC_BP);
}

enum insn_result soft_insn_int1(struct scpu *c, const struct insn *in)
{
    (void)in;
    return exc_icebp(c) ? INSN_EXC : INSN_JUMP;
}

enum insn_result soft_insn_into(struct scpu *c, const struct insn *in)
{
    (void)in;
    if (soft_code64(c)) {
        return soft_raise(c, EXC_UD);
    }
    return soft_get_rflags(c) & FL_OF ? soft_interrupt(c, EXC_OF) : INSN_NEXT;
}

enum insn_result soft_insn_bound(struct scpu *c, const struct insn *in)
{
    unsigned size = in->osize;
    uint64_t va, low, high;

    if (!in->is_mem || soft_code64(c)) {
        return soft_raise(c, EXC_UD);
    }
    if (soft_operand_linear(c, in, 2 * size, false, &va) ||
        soft_ld(c, va, size, seg_acc(c), &low) ||
        soft_ld(c, va + size, size, seg_acc(c), &high)) {
        return INSN_EXC;
    }
    int32_t i, l, h;
    if (size == 2) {
        i = (int16_t)c->gpr[in->reg];
        l = (int16_t)low;
        h = (int16_t)high;
    } else {
        i = (int32_t)c->gpr[in->reg];
        l = (int32_t)low;
        h = (int32_t)high;
    }
    return i < l || i > h ? soft_raise(c, EXC_BR) : INSN_NEXT;
}

enum insn_result soft_insn_ud(struct scpu *c, const struct insn *in)
{
    (void)in;
    return soft_raise(c, EXC_UD);
}

/* ---- ENTER, LEAVE ---- */

enum insn_result soft_insn_enter(struct scpu *c, const struct insn *in)
{
    unsigned size = stack_osize(c, in);
    unsigned level = in->imm2 & 31;
    uint64_t bytes = in->imm & 0xffff, bp = c->gpr[X86_RBP], v, va;
    struct stack st;

    stack_current(c, &st);
    if (stack_push(c, &st, size, bp & seg_mask(size))) {
        return INSN_EXC;
    }
    uint64_t frame = st.sp;
    /* Outer frames' pointers are read at (R/E)BP, moving down by the stack's address size. */
    for (unsigned i = 1; i < level; i++) {
        bp = (bp & ~seg_mask(st.width)) | ((bp - size) & seg_mask(st.width));
        if (soft_seg_linear(c, X86_SS, bp & seg_mask(st.width), size, false, &va) ||
            soft_ld(c, va, size, seg_acc(c), &v) || stack_push(c, &st, size, v)) {
            return INSN_EXC;
        }
    }
    if (level > 0 && stack_push(c, &st, size, frame)) {
        return INSN_EXC;
    }
    stack_skip(&st, 0 - bytes);
    /* The new top of the stack must be writable before anything is committed. */
    if (soft_seg_linear(c, X86_SS, st.sp & seg_mask(st.width), size, true, &va) ||
        soft_lin_probe(c, va, size, seg_acc(c) | ACC_WRITE | ACC_PROBE)) {
        return INSN_EXC;
    }
    soft_reg_set(c, X86_RBP, size, frame);
    stack_commit(c, &st);
    return INSN_NEXT;
}

enum insn_result soft_insn_leave(struct scpu *c, const struct insn *in)
{
    unsigned size = stack_osize(c, in);
    struct stack st;
    uint64_t v;

    stack_current(c, &st);
    st.sp = (st.sp & ~seg_mask(st.width)) | (c->gpr[X86_RBP] & seg_mask(st.width));
    if (stack_pop(c, &st, size, &v)) {
        return INSN_EXC;
    }
    stack_commit(c, &st);
    soft_reg_set(c, X86_RBP, size, v);
    return INSN_NEXT;
}
