/*
 * The guest's status flags in translated code.
 *
 * They are in EFLAGS after an instruction that writes them, and stay there until host code of
 * ours would destroy them: the check of a memory access, a poll. Then they are saved in
 * scpu.aflags, unless nothing but an exception could see them before they are overwritten and
 * they can be made once more of registers that are still what they were: such a recipe costs
 * nothing, because only the slow ends run it. So an exception or interrupt always finds all of
 * RFLAGS as the guest's own CPU would have them.
 *
 * Between blocks they are in scpu.aflags.
 */
#include "cpu/soft/jit/jit_int.h"

#define OFF_AFLAGS offsetof(struct scpu, aflags)

void tr_flags_save(struct asmb *a)
{
    e8(a, 0x9f);                 /* lahf */
    e_rr(a, E_0F, 0x90, 0, RAX); /* seto al */
    e_gs(a, E_66, 0x89, RAX, OFF_AFLAGS);
}

void tr_flags_restore(struct asmb *a)
{
    e_gs(a, E_0F, 0xb7, RAX, OFF_AFLAGS); /* movzx eax, aflags */
    e8(a, 0x04);                          /* add al, 7fh: OF */
    e8(a, 0x7f);
    e8(a, 0x9e); /* sahf */
}

/* ---- recipes ---- */

static struct mop guest_reg(unsigned g)
{
    return jit_host_reg[g] != NO_REG ? mop_reg(jit_host_reg[g]) : mop_gs(OFF_GPR(g));
}

/* op rax, src of the recipe; alu: 0 add, 5 sub, 7 cmp, 8 test. */
static void recipe_alu(struct asmb *a, const struct recipe *r, unsigned alu)
{
    unsigned how = r->size == 8 ? E_W : r->size == 2 ? E_66 : r->size == 1 ? E_REX : 0;
    if (r->src == NO_REG) {
        bool test = alu == 8;
        if (r->size == 1) {
            e_rr(a, how, test ? 0xf6 : 0x80, test ? 0 : alu, RAX);
        } else {
            e_rr(a, how, test ? 0xf7 : 0x81, test ? 0 : alu, RAX);
        }
        e_imm(a, (uint64_t)(int64_t)r->imm, MIN(r->size, 4));
        return;
    }
    struct mop m = guest_reg(r->src);
    unsigned opcode = alu == 8 ? 0x85 : alu << 3 | 3;
    e_op(a, how | (m.mem ? E_GS : 0), r->size == 1 ? opcode - 1 : opcode, RAX, &m);
}

void tr_recipe_run(struct asmb *a, const struct recipe *r)
{
    struct mop dst = guest_reg(r->dst);
    e_op(a, E_W | (dst.mem ? E_GS : 0), 0x8b, RAX, &dst);
    switch (r->op) {
    case RECIPE_ADD: /* what it was before, and again */
        recipe_alu(a, r, 5);
        recipe_alu(a, r, 0);
        break;
    case RECIPE_SUB:
        recipe_alu(a, r, 0);
        recipe_alu(a, r, 5);
        break;
    case RECIPE_CMP: recipe_alu(a, r, 7); break;
    case RECIPE_TEST: recipe_alu(a, r, 8); break;
    default: break;
    }
}

static uint16_t recipe_regs(const struct recipe *r)
{
    return (uint16_t)(1u << r->dst | (r->src != NO_REG ? 1u << r->src : 0));
}

static bool make_recipe(const struct jinsn *ji, struct recipe *r)
{
    static const uint8_t of_alu[8] = {RECIPE_ADD,  RECIPE_TEST, RECIPE_NONE, RECIPE_NONE,
                                      RECIPE_TEST, RECIPE_SUB,  RECIPE_TEST, RECIPE_CMP};
    const struct insn *in = &ji->in;
    if (ji->row == NULL || in->is_mem || (ji->size == 1 && in->rex == 0)) {
        return false; /* AH to BH may be among them */
    }
    *r = (struct recipe){.size = ji->size, .src = NO_REG, .imm = (int32_t)in->imm};
    if (ji->row->kind == K_TEST) {
        r->op = RECIPE_TEST;
        r->dst = in->opcode == 0xa8 || in->opcode == 0xa9 ? X86_RAX : in->rm;
        r->src = in->opcode == 0x84 || in->opcode == 0x85 ? in->reg : NO_REG;
        return true;
    }
    if (ji->row->kind != K_ALU) {
        return false;
    }
    if (in->opcode >= 0x80) {
        r->op = of_alu[in->reg & 7];
        r->dst = in->rm;
    } else if (in->opcode & 4) {
        r->op = of_alu[in->opcode >> 3 & 7];
        r->dst = X86_RAX;
    } else {
        r->op = of_alu[in->opcode >> 3 & 7];
        r->dst = in->opcode & 2 ? in->reg : in->rm;
        r->src = in->opcode & 2 ? in->rm : in->reg;
    }
    if (r->op == RECIPE_TEST) { /* of the result */
        r->src = r->dst;
    } else if (r->src == r->dst && r->op != RECIPE_CMP) {
        r->op = r->op == RECIPE_SUB ? RECIPE_TEST : RECIPE_NONE;
    }
    return r->op != RECIPE_NONE;
}

/* Whether, from instruction n to end, the flags are overwritten before the guest reads them and
 * before the recipe's registers change, with nothing in between that cannot run it. */
static bool recipe_lasts(const struct tr *t, unsigned n, unsigned end)
{
    uint16_t regs = recipe_regs(&t->recipe);
    for (; n < end; n++) {
        const struct jinsn *ji = &t->insn[n];
        if (ji->gen == NULL || ji->may_fault || ji->end || (ji->flags & (EF_READ | EF_PART))) {
            return false;
        }
        if (ji->flags & EF_ALL) {
            return true;
        }
        uint16_t moved = ji->moves_reg != NO_REG ? (uint16_t)(1u << ji->moves_reg) : 0;
        if ((ji->writes | moved) & regs) {
            return false;
        }
    }
    return false;
}

bool tr_flags_loop(const struct tr *t)
{
    return t->fl == FL_HOST && t->recipe.op != RECIPE_NONE && recipe_lasts(t, t->first, t->cur);
}

/* ---- states ---- */

void tr_flags_clobber(struct tr *t)
{
    if (t->fl == FL_HOST) {
        if (t->recipe.op != RECIPE_NONE && recipe_lasts(t, t->cur, t->n)) {
            t->fl = FL_RECIPE;
            return;
        }
        tr_flags_save(&t->hot);
        t->s0_group = -1;
    }
    if (t->fl != FL_RECIPE) {
        t->fl = FL_MEM;
    }
}

void tr_flags_to_host(struct tr *t)
{
    if (t->fl == FL_MEM) {
        tr_flags_restore(&t->hot);
        t->fl = FL_BOTH;
        t->s0_group = -1;
    } else if (t->fl == FL_RECIPE) {
        tr_recipe_run(&t->hot, &t->recipe);
        t->fl = FL_HOST;
        t->s0_group = -1;
    }
}

void tr_flags_to_mem(struct tr *t)
{
    if (t->fl == FL_RECIPE) {
        tr_flags_to_host(t);
    }
    if (t->fl == FL_HOST) {
        tr_flags_save(&t->hot);
        t->fl = FL_BOTH;
        t->s0_group = -1;
    }
}

void tr_flags_written(struct tr *t, const struct jinsn *ji)
{
    uint16_t moved = ji->moves_reg != NO_REG ? (uint16_t)(1u << ji->moves_reg) : 0;
    if (ji->flags & (EF_ALL | EF_PART)) {
        t->fl = FL_HOST;
        if (!(ji->flags & EF_ALL) || !make_recipe(ji, &t->recipe)) {
            t->recipe.op = RECIPE_NONE;
        }
    } else if (t->recipe.op != RECIPE_NONE &&
               ((ji->writes | moved) & recipe_regs(&t->recipe))) {
        t->recipe.op = RECIPE_NONE;
    }
}
