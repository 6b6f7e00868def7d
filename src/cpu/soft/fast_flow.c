/* Fast handlers: near branches. Each ends its block. */
#include "cpu/soft/fast.h"

#define JCC(cc)                                                                                \
    HANDLER(jcc_##cc)                                                                          \
    {                                                                                          \
        return uop_branch(c, op, prim_cond(c->aflags, cc));                                    \
    }
FOR_CONDS(JCC)
static uop_fn *const jcc_handlers[16] = COND_TABLE(jcc_);

bool fast_bind_jcc(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)row;
    op->fn = jcc_handlers[in->opcode & 15];
    return true;
}

HANDLER(jmp_rel)
{
    return uop_goto(c, op, 1);
}

bool fast_bind_jmp(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)in;
    (void)row;
    op->fn = jmp_rel;
    return true;
}

static inline uint64_t return_address(const struct scpu *c, const struct uop *op)
{
    return c->rip + op->ip_off + op->len;
}

HANDLER(call_rel)
{
    uint64_t sp = c->gpr[X86_RSP] - 8;
    STORE_AT(uint64_t, sp, return_address(c, op));
    c->gpr[X86_RSP] = sp;
    return uop_goto(c, op, 1);
}

bool fast_bind_call(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)in;
    (void)row;
    op->fn = call_rel;
    return true;
}

/* A target that is not canonical faults on the branch itself. */
static bool target_ok(struct scpu *c, uint64_t va)
{
    if (likely(soft_canonical(c, va))) {
        return true;
    }
    soft_raise_err(c, EXC_GP, 0);
    return false;
}

HANDLER(ret_near)
{
    LOAD_AT(uint64_t, target, c->gpr[X86_RSP]);
    if (unlikely(!target_ok(c, target))) {
        UOP_EXIT(c, op, INSN_EXC);
    }
    c->gpr[X86_RSP] += 8 + op->imm;
    return uop_jump(c, target);
}

bool fast_bind_ret(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)row;
    op->imm = in->opcode == 0xc2 ? in->imm : 0;
    op->fn = ret_near;
    return true;
}

HANDLER(jmp_r)
{
    uint64_t target = REG(uint64_t, src);
    if (unlikely(!target_ok(c, target))) {
        UOP_EXIT(c, op, INSN_EXC);
    }
    return uop_jump(c, target);
}
HANDLER(jmp_m)
{
    LOAD(uint64_t, target);
    if (unlikely(!target_ok(c, target))) {
        UOP_EXIT(c, op, INSN_EXC);
    }
    return uop_jump(c, target);
}

bool fast_bind_jmpind(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)row;
    op->src = (uint8_t)(in->rm * 8);
    op->fn = in->is_mem ? jmp_m : jmp_r;
    return true;
}

HANDLER(call_r)
{
    uint64_t target = REG(uint64_t, src), sp = c->gpr[X86_RSP] - 8;
    if (unlikely(!target_ok(c, target))) {
        UOP_EXIT(c, op, INSN_EXC);
    }
    STORE_AT(uint64_t, sp, return_address(c, op));
    c->gpr[X86_RSP] = sp;
    return uop_jump(c, target);
}
HANDLER(call_m)
{
    LOAD(uint64_t, target);
    uint64_t sp = c->gpr[X86_RSP] - 8;
    if (unlikely(!target_ok(c, target))) {
        UOP_EXIT(c, op, INSN_EXC);
    }
    STORE_AT(uint64_t, sp, return_address(c, op));
    c->gpr[X86_RSP] = sp;
    return uop_jump(c, target);
}

bool fast_bind_callind(const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)row;
    op->src = (uint8_t)(in->rm * 8);
    op->fn = in->is_mem ? call_m : call_r;
    return true;
}
