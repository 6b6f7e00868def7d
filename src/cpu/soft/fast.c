/* Choice of the fast handlers, and what they do when the TLB misses. */
#include "cpu/soft/fast.h"

#include "cpu/soft/decode.h"

/* One instruction by its general handler, decoded anew; the block ends here. */
static const struct uop *run_general(struct scpu *c, const struct uop *op)
{
    const struct sblock *b = c->blk;
    const struct opcode *row;
    struct insn in;
    uint64_t off = (b->pa + op->ip_off) & (MEM_PAGE_SIZE - 1);
    uint8_t bytes[16];
    soft_leave(c);
    block_snapshot(b->host + op->ip_off - off, off, bytes);
    enum decode_result dr = soft_decode(bytes, op->len, b->mode, &in, &row);
    c->rip = b->va + op->ip_off;
    c->next_rip = c->rip + op->len;
    if (dr != DECODE_OK || row == NULL) {
        /* The bytes were changed under us: look at them again. */
        return uop_exit(c, op, INSN_REPEAT);
    }
    enum insn_result r = row->fn(c, &in);
    return uop_exit(c, op, r == INSN_NEXT ? INSN_NEXT_FLUSH : r);
}

const struct uop *fast_miss(struct scpu *c, const struct uop *op, uint64_t va, unsigned size,
                            enum tlb_kind kind)
{
    if (soft_ram_ptr(c, va, size, kind == TLB_W) != NULL &&
        (va ^ uop_tlb(c, va, kind)->tag) <= MEM_PAGE_SIZE - size) {
        UOP_CALL(c, op);
    }
    return run_general(c, op);
}

static fast_bind_fn *const bind_table[] = {
    [K_ALU] = fast_bind_alu,         [K_TEST] = fast_bind_test,
    [K_MOV] = fast_bind_mov,         [K_MOVIMM] = fast_bind_movimm,
    [K_LEA] = fast_bind_lea,         [K_PUSH] = fast_bind_push,
    [K_POP] = fast_bind_pop,         [K_JCC] = fast_bind_jcc,
    [K_JMP] = fast_bind_jmp,         [K_CALL] = fast_bind_call,
    [K_RET] = fast_bind_ret,         [K_JMPIND] = fast_bind_jmpind,
    [K_CALLIND] = fast_bind_callind, [K_INCDEC] = fast_bind_incdec,
    [K_SHIFT] = fast_bind_shift,     [K_MOVZX] = fast_bind_extend,
    [K_MOVSX] = fast_bind_extend,    [K_MOVSXD] = fast_bind_movsxd,
    [K_CMOV] = fast_bind_cmov,       [K_SETCC] = fast_bind_setcc,
    [K_NOP] = fast_bind_nop,         [K_XCHG] = fast_bind_xchg,
    [K_IMUL] = fast_bind_imul,       [K_NEGNOT] = fast_bind_negnot,
    [K_CWD] = fast_bind_cwd,         [K_CBW] = fast_bind_cbw,
    [K_BT] = fast_bind_bt,           [K_LEAVE] = fast_bind_leave,
    [K_BSWAP] = fast_bind_bswap,
};

bool fast_bind(struct scpu *c, const struct insn *in, const struct opcode *row, struct uop *op)
{
    (void)c;
    if (row->kind >= ARRAY_LEN(bind_table) || bind_table[row->kind] == NULL || in->lock ||
        (in->is_mem && in->asize != 8) || ((row->flags & OP_F64) && in->osize != 8)) {
        return false;
    }
    return bind_table[row->kind](in, row, op);
}
