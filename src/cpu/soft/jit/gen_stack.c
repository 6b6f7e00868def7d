/* Instructions that use the stack. SDM vol. 2. */
#include "cpu/soft/jit/jit_int.h"

/* Writes what is in scpu.jit_tmp below the stack pointer. */
static void push_tmp(struct tr *t, struct jinsn *ji)
{
    struct mop m;
    tr_push_slot(t, ji, &m);
    unsigned r = tr_scratch(t, &m);
    e_load(&t->hot, r, offsetof(struct scpu, jit_tmp));
    e_op(&t->hot, E_W, 0x89, r, &m);
}

static void push_reg(struct tr *t, struct jinsn *ji, unsigned g)
{
    struct mop m;
    tr_push_slot(t, ji, &m);
    unsigned r = jit_host_reg[g] != NO_REG ? jit_host_reg[g] : tr_read(t, g, tr_scratch(t, &m));
    e_op(&t->hot, E_W, 0x89, r, &m);
}

void gen_push(struct tr *t, struct jinsn *ji)
{
    const struct insn *in = &ji->in;
    struct mop m;
    if (in->opcode == 0x68 || in->opcode == 0x6a) {
        tr_push_slot(t, ji, &m);
        e_op(&t->hot, E_W, 0xc7, 0, &m);
        e32(&t->hot, (uint32_t)in->imm);
    } else if (in->opcode != 0xff) {
        push_reg(t, ji, opcode_reg(in));
    } else if (!in->is_mem) {
        push_reg(t, ji, in->rm);
    } else {
        tr_operand(t, ji, 8, false, &m);
        e_op(&t->hot, E_W, 0x8b, S1, &m);
        e_store(&t->hot, S1, offsetof(struct scpu, jit_tmp));
        push_tmp(t, ji);
    }
    e_move_sp(&t->hot, -8);
}

void gen_pop(struct tr *t, struct jinsn *ji)
{
    unsigned g = opcode_reg(&ji->in);
    struct mop m;
    tr_stack(t, ji, 0, 8, false, &m);
    unsigned r = tr_dest(g, S1);
    e_op(&t->hot, E_W, 0x8b, r, &m);
    if (g != X86_RSP) {
        e_move_sp(&t->hot, 8);
    }
    tr_wrote(t, g, r);
}

void gen_leave(struct tr *t, struct jinsn *ji)
{
    struct mop m;
    unsigned bp = jit_host_reg[X86_RBP];
    tr_stack(t, ji, 0, 8, false, &m);
    e_lea(&t->hot, jit_host_reg[X86_RSP], bp, NO_REG, 0, 8);
    e_op(&t->hot, E_W, 0x8b, bp, &m);
}

/* RF and VM are never set here: blocks run with RF clear, in 64-bit mode. */
void gen_pushf(struct tr *t, struct jinsn *ji)
{
    struct asmb *a = &t->hot;
    tr_flags_to_mem(t);
    e_gs(a, E_0F, 0xb7, S1, offsetof(struct scpu, aflags)); /* movzx S1d, aflags */
    t->fl = FL_MEM;
    e_rr(a, 0, 0x8b, RAX, S1);
    t->s0_group = -1;
    e_rr(a, 0, 0x83, 4, RAX); /* OF to bit 11 */
    e8(a, 1);
    e_rr(a, 0, 0xc1, 4, RAX);
    e8(a, 11);
    e_rr(a, 0, 0xc1, 5, S1); /* the image of LAHF */
    e8(a, 8);
    e_rr(a, 0, 0x81, 4, S1);
    e32(a, 0xd5);
    e_rr(a, 0, 0x0b, S1, RAX);
    e_gs(a, E_W, 0x0b, S1, offsetof(struct scpu, sysflags));
    e_store(a, S1, offsetof(struct scpu, jit_tmp));
    push_tmp(t, ji);
    e_move_sp(&t->hot, -8);
}
