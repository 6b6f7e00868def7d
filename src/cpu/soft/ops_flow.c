/* Near jumps, calls, returns and loops. Far ones are in farxfer.c. */
#include "cpu/soft/operand.h"
#include "cpu/soft/ops.h"
#include "cpu/soft/prims.h"

/* #GP(0) beyond the limit or when not canonical. */
static int check_target(struct scpu *c, uint64_t target)
{
    if (soft_code64(c) ? !soft_canonical(c, target) : target > c->seg[X86_CS].limit) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    return 0;
}

static enum insn_result jump_to(struct scpu *c, const struct insn *in, uint64_t target)
{
    target = trunc_size(target, in->osize);
    if (check_target(c, target)) {
        return INSN_EXC;
    }
    c->rip = target;
    return INSN_JUMP;
}

static uint64_t relative(const struct scpu *c, const struct insn *in)
{
    return c->next_rip + in->imm;
}

enum insn_result soft_op_jcc(struct scpu *c, const struct insn *in)
{
    if (!prim_cond(c->aflags, in->opcode & 15)) {
        return INSN_NEXT;
    }
    return jump_to(c, in, relative(c, in));
}

enum insn_result soft_op_jmp_rel(struct scpu *c, const struct insn *in)
{
    return jump_to(c, in, relative(c, in));
}

static enum insn_result call_to(struct scpu *c, const struct insn *in, uint64_t target)
{
    target = trunc_size(target, in->osize);
    if (check_target(c, target) ||
        soft_push(c, in->osize, trunc_size(c->next_rip, in->osize))) {
        return INSN_EXC;
    }
    c->rip = target;
    return INSN_JUMP;
}

enum insn_result soft_op_call_rel(struct scpu *c, const struct insn *in)
{
    return call_to(c, in, relative(c, in));
}

enum insn_result soft_op_jmp_rm(struct scpu *c, const struct insn *in)
{
    uint64_t v;
    return rm_get(c, in, in->osize, &v) ? INSN_EXC : jump_to(c, in, v);
}

enum insn_result soft_op_call_rm(struct scpu *c, const struct insn *in)
{
    uint64_t v;
    return rm_get(c, in, in->osize, &v) ? INSN_EXC : call_to(c, in, v);
}

enum insn_result soft_op_ret(struct scpu *c, const struct insn *in)
{
    uint64_t v, sp = c->gpr[X86_RSP];
    if (soft_pop(c, in->osize, &v)) {
        return INSN_EXC;
    }
    enum insn_result r = jump_to(c, in, v);
    if (r == INSN_EXC) {
        c->gpr[X86_RSP] = sp;
    } else if (in->opcode == 0xc2) {
        unsigned width = soft_code64(c) ? 8 : (c->seg[X86_SS].attr & SEG_DB) ? 4 : 2;
        soft_reg_set(c, X86_RSP, width, c->gpr[X86_RSP] + in->imm);
    }
    return r;
}

enum insn_result soft_op_loop(struct scpu *c, const struct insn *in)
{
    uint64_t count = soft_reg_get(c, X86_RCX, in->asize), old = c->gpr[X86_RCX];
    bool taken;
    if (in->opcode == 0xe3) {
        taken = count == 0;
    } else {
        count = trunc_size(count - 1, in->asize);
        soft_reg_set(c, X86_RCX, in->asize, count);
        bool zf = (c->aflags & AF_ZF) != 0;
        taken = count != 0 && (in->opcode == 0xe2 || zf == (in->opcode == 0xe1));
    }
    if (!taken) {
        return INSN_NEXT;
    }
    enum insn_result r = jump_to(c, in, relative(c, in));
    if (r == INSN_EXC) {
        c->gpr[X86_RCX] = old;
    }
    return r;
}
