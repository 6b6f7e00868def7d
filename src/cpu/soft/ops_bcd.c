/* Decimal adjustment, not in 64-bit mode: DAA, DAS, AAA, AAS, AAM, AAD. SDM vol. 2. */
#include "cpu/soft/operand.h"
#include "cpu/soft/ops.h"
#include "cpu/soft/prims.h"

static void set_ax(struct scpu *c, unsigned ah, unsigned al)
{
    soft_reg_set(c, X86_RAX, 2, ((ah & 0xff) << 8) | (al & 0xff));
}

/* SF, ZF and PF of al; AF and CF as given; OF clear. */
static void set_flags(struct scpu *c, uint8_t al, bool af, bool cf)
{
    prim_test_b(c, al, al);
    c->aflags |= (uint16_t)((af ? AF_AF : 0) | (cf ? AF_CF : 0));
}

enum insn_result soft_op_daa_das(struct scpu *c, const struct insn *in)
{
    uint8_t al = (uint8_t)c->gpr[X86_RAX], old = al;
    bool cf = false, old_cf = (c->aflags & AF_CF) != 0, af = (c->aflags & AF_AF) != 0;
    bool sub = in->opcode == 0x2f;
    if ((al & 15) > 9 || af) {
        cf = old_cf || (sub ? al < 6 : al > 0xf9);
        al = (uint8_t)(sub ? al - 6 : al + 6);
        af = true;
    } else {
        af = false;
    }
    if (old > 0x99 || old_cf) {
        al = (uint8_t)(sub ? al - 0x60 : al + 0x60);
        cf = true;
    }
    soft_reg_set(c, X86_RAX, 1, al);
    set_flags(c, al, af, cf);
    return INSN_NEXT;
}

enum insn_result soft_op_aaa_aas(struct scpu *c, const struct insn *in)
{
    uint16_t ax = (uint16_t)c->gpr[X86_RAX];
    bool adjust = (ax & 15) > 9 || (c->aflags & AF_AF);
    if (adjust) {
        ax = (uint16_t)(in->opcode == 0x37 ? ax + 0x106 : ax - 0x106);
    }
    ax &= 0xff0f;
    soft_reg_set(c, X86_RAX, 2, ax);
    set_flags(c, (uint8_t)ax, adjust, adjust);
    return INSN_NEXT;
}

enum insn_result soft_op_aam(struct scpu *c, const struct insn *in)
{
    unsigned al = (uint8_t)c->gpr[X86_RAX], base = (uint8_t)in->imm;
    if (base == 0) {
        return (enum insn_result)soft_raise(c, EXC_DE);
    }
    set_ax(c, al / base, al % base);
    set_flags(c, (uint8_t)(al % base), false, false);
    return INSN_NEXT;
}

enum insn_result soft_op_aad(struct scpu *c, const struct insn *in)
{
    unsigned ax = (uint16_t)c->gpr[X86_RAX];
    unsigned al = (ax & 0xff) + (ax >> 8) * (uint8_t)in->imm;
    set_ax(c, 0, al);
    set_flags(c, (uint8_t)al, false, false);
    return INSN_NEXT;
}
