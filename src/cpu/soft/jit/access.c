/*
 * The guest's registers and memory in translated code.
 *
 * An access looks its page up in the TLB of struct scpu: one comparison finds that the page is
 * there, that the access does not cross its end, and that the rights allow it; the rest is out
 * of line (stubs in exits.c, jit_on_slow). It leaves the page's host address in one scratch
 * register and the offset in it in the other, which are the operand of the guest's own
 * instruction.
 *
 * Accesses of a block near the same unchanged registers (a group) are checked once, with the
 * first of them; the others find where they go in scpu.jit_slot.
 */
#include "cpu/soft/jit/jit_int.h"

/* RAX, R11 and RSP of the host are ours; guest RAX and RSP live elsewhere, and three registers
 * that compilers use last live in memory. RCX is in place for shifts, RDX for products. */
const uint8_t jit_host_reg[16] = {
    [X86_RAX] = R10, [X86_RCX] = RCX, [X86_RDX] = RDX,    [X86_RBX] = RBX,
    [X86_RSP] = R14, [X86_RBP] = RBP, [X86_RSI] = RSI,    [X86_RDI] = RDI,
    [X86_R8] = R8,   [X86_R9] = R9,   [X86_R10] = R15,    [X86_R11] = NO_REG,
    [X86_R12] = R12, [X86_R13] = R13, [X86_R14] = NO_REG, [X86_R15] = NO_REG,
};

#define OFF_SLOT(g) (offsetof(struct scpu, jit_slot) + (size_t)(g) * sizeof(uint64_t))
#define OFF_SEG(s)  (offsetof(struct scpu, seg_base) + (s) * sizeof(uint64_t))

/* ---- registers ---- */

unsigned tr_read(struct tr *t, unsigned g, unsigned scratch)
{
    if (jit_host_reg[g] != NO_REG) {
        return jit_host_reg[g];
    }
    e_load(&t->hot, scratch, OFF_GPR(g));
    return scratch;
}

unsigned tr_dest(unsigned g, unsigned scratch)
{
    return jit_host_reg[g] != NO_REG ? jit_host_reg[g] : scratch;
}

void tr_wrote(struct tr *t, unsigned g, unsigned reg)
{
    if (jit_host_reg[g] == NO_REG) {
        e_store(&t->hot, reg, OFF_GPR(g));
    }
}

/* ---- addresses ---- */

static bool has_seg(const struct insn *in)
{
    return in->seg == X86_FS || in->seg == X86_GS;
}

/* Its effective address is a constant. */
static bool is_const(const struct insn *in)
{
    return (in->rip_rel || (in->base >= INSN_NOREG && in->index >= INSN_NOREG)) && !has_seg(in);
}

uint64_t tr_const_ea(const struct tr *t, const struct insn *in)
{
    uint64_t rip = in->rip_rel ? t->tb->va + t->insn[t->cur].ip + in->len : 0;
    return rip + (uint64_t)in->disp;
}

void tr_ea(struct tr *t, const struct insn *in)
{
    struct asmb *a = &t->hot;
    bool base = in->base < INSN_NOREG, index = in->index < INSN_NOREG;
    if (in->rip_rel || (!base && !index)) {
        e_const(a, S1, tr_const_ea(t, in));
        if (has_seg(in)) {
            e_load(a, RAX, OFF_SEG(in->seg));
            e_lea(a, S1, S1, RAX, 0, 0);
            t->s0_group = -1;
        }
        return;
    }
    unsigned b = NO_REG, x = NO_REG;
    if (has_seg(in)) { /* S1 = segment base + base; then the index */
        e_load(a, S1, OFF_SEG(in->seg));
        if (base) {
            b = tr_read(t, in->base, RAX);
            e_lea(a, S1, S1, b, 0, 0);
        }
        b = S1;
        if (index) {
            x = tr_read(t, in->index, RAX);
        }
        t->s0_group = -1;
    } else {
        if (base) {
            b = tr_read(t, in->base, S1);
        }
        if (index) {
            x = tr_read(t, in->index, RAX);
            if (x == RAX) {
                t->s0_group = -1;
            }
        }
    }
    e_lea(a, S1, b, x, in->scale, (int32_t)in->disp);
}

/* ---- the check ---- */

static size_t tlb_off(const struct tr *t, bool write)
{
    return offsetof(struct scpu, tlb) +
           ((size_t)soft_mode_mmu(t->tb->mode) * TLB_NKIND + (write ? TLB_W : TLB_R)) *
               TLB_SIZE * sizeof(struct tlb_entry);
}

void tr_check(struct tr *t, uint8_t *retry, unsigned span, bool write, uint32_t word)
{
    struct asmb *a = &t->hot;
    size_t off = tlb_off(t, write);
    _Static_assert(sizeof(struct tlb_entry) == 16 && MEM_PAGE_SHIFT == 12, "encoded below");
    if (t->j->has_bmi2) {
        e_rorx(a, RAX, S1, MEM_PAGE_SHIFT - 4);
    } else {
        e_rr(a, 0, 0x8b, RAX, S1); /* mov eax, S1d */
        e_rr(a, 0, 0xc1, 5, RAX);  /* shr eax, 8 */
        e8(a, MEM_PAGE_SHIFT - 4);
    }
    e8(a, 0x25); /* and eax, index * 16 */
    e32(a, (TLB_SIZE - 1) << 4);
    struct mop tag = mop_mem(RAX, NO_REG, (int32_t)off);
    e_op(a, E_W | E_GS, 0x33, S1, &tag); /* xor S1, tag */
    e_rr(a, E_W, 0x81, 7, S1);           /* cmp S1, page - span */
    e32(a, (uint32_t)(MEM_PAGE_SIZE - span));
    struct stub *s = tr_stub(t, STUB_SLOW);
    s->from[0] = e_jcc(a, CC_A);
    s->tlb_off = off;
    s->retry = retry;
    s->word = word | SITE_INSN(t->cur) | SITE_SPAN(span) | (write ? SITE_W : 0);
    struct mop page =
        mop_mem(RAX, NO_REG, (int32_t)off + (int32_t)offsetof(struct tlb_entry, page));
    e_op(a, E_W | E_GS, 0x8b, RAX, &page);
    s->resume = a->p;
    t->s0_group = -1;
}

/* The check of an address that is known now. Leaves the operand in *m. */
static void check_const(struct tr *t, uint64_t ea, unsigned size, bool write, uint32_t word,
                        struct mop *m)
{
    struct asmb *a = &t->hot;
    uint64_t page = ea & ~(MEM_PAGE_SIZE - 1);
    size_t off = tlb_off(t, write) +
                 (size_t)(ea >> MEM_PAGE_SHIFT & (TLB_SIZE - 1)) * sizeof(struct tlb_entry);
    uint8_t *retry = a->p;
    if (page == (uint64_t)(int64_t)(int32_t)page) {
        e_gs(a, E_W, 0x81, 7, off);
        e32(a, (uint32_t)page);
    } else {
        e_const(a, S1, page);
        e_gs(a, E_W, 0x3b, S1, off);
    }
    struct stub *s = tr_stub(t, STUB_SLOW);
    s->from[0] = e_jcc(a, CC_NE);
    s->const_ea = true;
    s->ea = ea;
    s->retry = retry;
    s->word = word | SITE_INSN(t->cur) | SITE_SPAN(size) | (write ? SITE_W : 0);
    e_load(a, RAX, off + offsetof(struct tlb_entry, page));
    s->resume = a->p;
    t->s0_group = -1;
    *m = mop_mem(RAX, NO_REG, (int32_t)(ea & (MEM_PAGE_SIZE - 1)));
}

/* Checks [reg + index * 2^scale + lo, and span bytes on). */
static void check_near(struct tr *t, unsigned reg, unsigned index, unsigned scale, int32_t lo,
                       unsigned span, bool write, uint32_t word)
{
    uint8_t *retry = t->hot.p;
    unsigned r = tr_read(t, reg, S1);
    if (index != NO_REG) {
        e_lea(&t->hot, S1, r, jit_host_reg[index], scale, lo);
    } else if (lo == 0) {
        e_mov(&t->hot, S1, r);
    } else {
        e_lea(&t->hot, S1, r, NO_REG, 0, lo);
    }
    tr_check(t, retry, span, write, word);
}

static uint32_t x87_word(const struct jinsn *ji)
{
    bool x87 = ji->row == NULL && (ji->desc.cls == NC_X87 || ji->desc.cls == NC_MMX);
    return x87 ? SITE_X87 : 0;
}

/* An access that belongs to a group: the check, or where it found the group to be. */
static void group_access(struct tr *t, const struct jinsn *ji, struct mop *m)
{
    const struct group *gr = &t->group[ji->group];
    if (gr->first == t->cur) {
        tr_flags_clobber(t);
        check_near(t, gr->base, gr->index, gr->scale, (int32_t)gr->lo,
                   (unsigned)(gr->hi - gr->lo), gr->write,
                   SITE_GROUP | x87_word(ji) | (ji->access_w ? SITE_CUR_W : 0));
        e_lea(&t->hot, RAX, RAX, S1, 0, 0);
        e_store(&t->hot, RAX, OFF_SLOT(ji->group));
    } else if (t->s0_group != ji->group) {
        e_load(&t->hot, RAX, OFF_SLOT(ji->group));
    }
    t->s0_group = ji->group;
    *m = mop_mem(RAX, NO_REG, (int32_t)(ji->group_at - gr->lo));
}

void tr_stack(struct tr *t, struct jinsn *ji, int32_t disp, unsigned size, bool write,
              struct mop *m)
{
    if (ji->group >= 0) {
        group_access(t, ji, m);
        return;
    }
    tr_flags_clobber(t);
    check_near(t, ji->access_base, NO_REG, 0, disp, size, write, write ? SITE_CUR_W : 0);
    *m = mop_mem(S1, RAX, 0);
}

void tr_push_slot(struct tr *t, struct jinsn *ji, struct mop *m)
{
    if (ji->access_stack) {
        tr_stack(t, ji, -8, 8, true, m);
        return;
    }
    tr_flags_clobber(t);
    check_near(t, X86_RSP, NO_REG, 0, -8, 8, true, SITE_CUR_W);
    *m = mop_mem(S1, RAX, 0);
}

void tr_operand(struct tr *t, struct jinsn *ji, unsigned size, bool write, struct mop *m)
{
    const struct insn *in = &ji->in;
    if (ji->group >= 0 && !ji->access_stack) {
        group_access(t, ji, m);
        return;
    }
    tr_flags_clobber(t);
    /* Behind an instruction that is in a group by its other access, this check was not done. */
    uint32_t word = (write ? SITE_CUR_W : 0) | (ji->group >= 0 ? SITE_GROUP : 0) |
                    (ji->pure_store && ji->group < 0 ? SITE_STORE : 0);
    word |= x87_word(ji);
    if (is_const(in)) {
        uint64_t ea = tr_const_ea(t, in);
        if ((ea & (MEM_PAGE_SIZE - 1)) + size <= MEM_PAGE_SIZE) {
            check_const(t, ea, size, write, word, m);
            return;
        }
    }
    if (in->base < INSN_NOREG && in->index >= INSN_NOREG && !has_seg(in)) {
        check_near(t, in->base, NO_REG, 0, (int32_t)in->disp, size, write, word);
    } else {
        uint8_t *retry = t->hot.p;
        tr_ea(t, in);
        tr_check(t, retry, size, write, word);
    }
    *m = mop_mem(S1, RAX, 0);
}

void tr_collapse(struct tr *t, struct mop *m)
{
    if (m->mem && (m->base != S1 || m->index != NO_REG || m->disp != 0)) {
        e_lea(&t->hot, S1, m->base, m->index, m->scale, m->disp);
        *m = mop_mem(S1, NO_REG, 0);
    }
}

unsigned tr_scratch(struct tr *t, struct mop *m)
{
    if (!m->mem || m->base != S1) {
        return S1;
    }
    tr_collapse(t, m);
    t->s0_group = -1;
    return RAX;
}
