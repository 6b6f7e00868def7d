/*
 * Memory by logical address: effective addresses, segment limit and type checks, the stack.
 * SDM vol. 3A 3.3, 3.4.5.1, 5.3-5.5, vol. 1 6.2. Runs on the vCPU's thread; no state of its
 * own.
 *
 * An access that wraps around the end of a 4 GiB segment is a limit violation here.
 */
#include "cpu/soft/seg.h"

uint64_t soft_ea(const struct scpu *c, const struct insn *in)
{
    uint64_t ea = (uint64_t)in->disp;

    if (in->base < INSN_NOREG) {
        ea += c->gpr[in->base];
    } else if (in->base == INSN_RIP || in->rip_rel) {
        ea += c->next_rip;
    }
    if (in->index < INSN_NOREG) {
        ea += c->gpr[in->index] << in->scale;
    }
    return in->asize == 8 ? ea : ea & seg_mask(in->asize);
}

bool seg_limit_ok(const struct vcpu_seg *s, uint64_t off, unsigned len)
{
    uint64_t last = off + len - 1;

    /* Expand-down data: the valid offsets are those above the limit. */
    if ((s->attr & (SEG_S | 0xc)) == (SEG_S | 0x4)) {
        return off > s->limit && last <= (s->attr & SEG_DB ? 0xffffffffu : 0xffffu);
    }
    return last <= s->limit;
}

static int seg_violation(struct scpu *c, enum x86_seg seg)
{
    return soft_raise_err(c, seg == X86_SS ? EXC_SS : EXC_GP, 0);
}

int soft_seg_linear(struct scpu *c, enum x86_seg seg, uint64_t off, unsigned len, bool write,
                    uint64_t *ret_va)
{
    const struct vcpu_seg *s = &c->seg[seg];
    uint64_t va = c->seg_base[seg] + off;

    if (c->mode & MODE_64) {
        if (!soft_canonical(c, va) || !soft_canonical(c, va + len - 1)) {
            return seg_violation(c, seg);
        }
        *ret_va = va;
        return 0;
    }
    if ((c->mode & (MODE_PE | MODE_VM86)) == MODE_PE) {
        bool code = (s->attr & 8) != 0;
        bool rw = (s->attr & 2) != 0;

        if ((s->attr & SEG_UNUSABLE) || (write ? code || !rw : code && !rw)) {
            return seg_violation(c, seg);
        }
    }
    if (!seg_limit_ok(s, off, len)) {
        return seg_violation(c, seg);
    }
    *ret_va = (uint32_t)va;
    return 0;
}

int soft_operand_linear(struct scpu *c, const struct insn *in, unsigned len, bool write,
                        uint64_t *ret_va)
{
    return soft_seg_linear(c, (enum x86_seg)in->seg, soft_ea(c, in), len, write, ret_va);
}

void stack_current(const struct scpu *c, struct stack *ret_stack)
{
    ret_stack->ss = c->seg[X86_SS];
    ret_stack->sp = c->gpr[X86_RSP];
    ret_stack->width = soft_code64(c) ? 8 : (c->seg[X86_SS].attr & SEG_DB) ? 4 : 2;
    ret_stack->acc = seg_acc(c);
    ret_stack->error = 0;
}

/* Linear address of [off, off+len) of the stack, or #SS(error). */
static int stack_linear(struct scpu *c, const struct stack *st, uint64_t off, unsigned len,
                        uint64_t *ret_va)
{
    if (st->width == 8) {
        if (!soft_canonical(c, off) || !soft_canonical(c, off + len - 1)) {
            return soft_raise_err(c, EXC_SS, st->error);
        }
        *ret_va = off;
        return 0;
    }
    if ((st->ss.attr & SEG_UNUSABLE) || !seg_limit_ok(&st->ss, off, len)) {
        return soft_raise_err(c, EXC_SS, st->error);
    }
    *ret_va = (uint32_t)(st->ss.base + off);
    return 0;
}

static uint64_t stack_move(const struct stack *st, uint64_t delta)
{
    uint64_t mask = seg_mask(st->width);
    return (st->sp & ~mask) | ((st->sp + delta) & mask);
}

void stack_skip(struct stack *st, uint64_t bytes)
{
    st->sp = stack_move(st, bytes);
}

int stack_push(struct scpu *c, struct stack *st, unsigned size, uint64_t value)
{
    uint64_t sp = stack_move(st, 0 - (uint64_t)size);
    uint64_t va;

    if (stack_linear(c, st, sp & seg_mask(st->width), size, &va) ||
        soft_st(c, va, size, st->acc | ACC_WRITE, value)) {
        return INSN_EXC;
    }
    st->sp = sp;
    return 0;
}

int stack_pop(struct scpu *c, struct stack *st, unsigned size, uint64_t *ret_value)
{
    uint64_t va;

    if (stack_linear(c, st, st->sp & seg_mask(st->width), size, &va) ||
        soft_ld(c, va, size, st->acc, ret_value)) {
        return INSN_EXC;
    }
    st->sp = stack_move(st, size);
    return 0;
}

void stack_commit(struct scpu *c, const struct stack *st)
{
    c->gpr[X86_RSP] = st->width == 4 ? (uint32_t)st->sp : st->sp;
}

int soft_push(struct scpu *c, unsigned size, uint64_t value)
{
    struct stack st;

    stack_current(c, &st);
    if (stack_push(c, &st, size, value)) {
        return INSN_EXC;
    }
    stack_commit(c, &st);
    return 0;
}

int soft_pop(struct scpu *c, unsigned size, uint64_t *ret_value)
{
    struct stack st;

    stack_current(c, &st);
    if (stack_pop(c, &st, size, ret_value)) {
        return INSN_EXC;
    }
    stack_commit(c, &st);
    return 0;
}
