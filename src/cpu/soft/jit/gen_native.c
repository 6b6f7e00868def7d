/*
 * Vector and bit-manipulation instructions: encoded anew with the guest's general registers
 * renamed and the memory operand at its host address. Vector registers are the guest's own. SDM
 * vol. 2 chapter 2.
 */
#include "cpu/soft/jit/jit_int.h"

/* The register numbers of one instruction: modrm.reg, modrm.rm or the memory operand, vvvv. */
struct names {
    unsigned reg, vvvv;
    struct mop m;
};

static void put_legacy(struct asmb *a, const struct insn *in, const struct names *n)
{
    unsigned how = (in->pp == 1 || in->has_66 ? E_66 : 0) | (in->pp == 2 ? E_F3 : 0) |
                   (in->pp == 3 ? E_F2 : 0) | (in->rex & 8 ? E_W : 0) | (in->rex ? E_REX : 0);
    static const unsigned maps[] = {0, E_0F, E_0F38, E_0F3A};
    how |= maps[in->map & 3];
    if (!in->has_modrm) {
        e8(a, 0x0f);
        e8(a, in->opcode);
        return;
    }
    if (in->map == MAP_1B && !in->is_mem) { /* x87: no register of ours */
        e8(a, in->opcode);
        e8(a, in->modrm);
        return;
    }
    e_op(a, how, in->opcode, n->reg, &n->m);
}

/* Behind an x87 instruction, which has not faulted: what FNSTENV would show of it. S1 is the
 * host address of its operand. */
static void note_x87(struct tr *t, const struct jinsn *ji)
{
    struct asmb *a = &t->hot;
    struct x87_site *site = t->x87_room++;
    *site = (struct x87_site){.rip = t->tb->va + ji->ip,
                              .fop = (uint16_t)((ji->in.opcode & 7u) << 8 | ji->in.modrm),
                              .seg = ji->in.seg};
    if (ji->in.is_mem) {
        e_store(a, S1, offsetof(struct scpu, x87_last.host));
        tr_ea(t, &ji->in);
        e_store(a, S1, offsetof(struct scpu, x87_last.va));
    }
    e_const(a, RAX, (uint64_t)(uintptr_t)site);
    e_store(a, RAX, offsetof(struct scpu, x87_last.op));
    if (ji->in.is_mem) {
        e_store(a, RAX, offsetof(struct scpu, x87_last.mem_op));
    }
    t->s0_group = -1;
}

static void put_vex(struct asmb *a, const struct insn *in, const struct names *n)
{
    unsigned x = mop_rex(&n->m);
    e8(a, 0xc4);
    e8(a, (~n->reg >> 3 & 1) << 7 | (~x >> 1 & 1) << 6 | (~x & 1) << 5 | in->map);
    e8(a, (unsigned)(in->w & 1) << 7 | (~n->vvvv & 15) << 3 | (in->vl & 1u) << 2 | in->pp);
    e8(a, in->opcode);
    if (in->has_modrm) {
        e_modrm(a, n->reg, &n->m);
    }
}

/* A register in modrm.rm has its fifth bit in X. Memory is at one register, without disp. */
static void put_evex(struct asmb *a, const struct insn *in, const struct names *n)
{
    unsigned b = n->m.mem ? n->m.base >> 3 & 1u : n->m.reg >> 3 & 1u;
    unsigned x = n->m.mem ? 0 : n->m.reg >> 4 & 1u;
    e8(a, 0x62);
    e8(a, (~n->reg >> 3 & 1) << 7 | (~x & 1) << 6 | (~b & 1) << 5 | (~n->reg >> 4 & 1) << 4 |
              in->map);
    e8(a, (unsigned)(in->w & 1) << 7 | (~n->vvvv & 15) << 3 | 4 | in->pp);
    e8(a, (unsigned)(in->z & 1) << 7 | (in->vl & 3u) << 5 | (in->b & 1u) << 4 |
              (~n->vvvv >> 4 & 1) << 3 | (in->aaa & 7));
    e8(a, in->opcode);
    e_modrm(a, n->reg, &n->m);
}

/* How many of its general registers live in memory. */
static unsigned count_homed(const struct insn *in, uint32_t fl)
{
    unsigned n = 0;
    n += (fl & (ND_REG_R | ND_REG_W)) && jit_host_reg[in->reg & 15] == NO_REG;
    n += (fl & (ND_V_R | ND_V_W)) && jit_host_reg[in->vvvv & 15] == NO_REG;
    n += !in->is_mem && (fl & (ND_RM_R | ND_RM_W)) && jit_host_reg[in->rm & 15] == NO_REG;
    return n;
}

bool tr_can_rename(const struct insn *in, const struct native_desc *desc)
{
    uint32_t fl = desc->flags;
    unsigned homed = count_homed(in, fl);
    bool rax = (fl & (ND_IN_RAX | ND_OUT_RAX)) != 0;
    if ((fl & ND_RM8) && !in->is_mem && in->rex == 0 && in->rm >= 4 && in->rm < 8) {
        return false;
    }
    return in->is_mem ? homed == 0 || (homed == 1 && !rax) : homed <= (rax ? 1u : 2u);
}

static unsigned name(struct tr *t, unsigned g, unsigned *scratch)
{
    if (jit_host_reg[g & 15] != NO_REG) {
        return jit_host_reg[g & 15];
    }
    unsigned r = *scratch;
    *scratch = RAX;
    if (r == RAX) {
        t->s0_group = -1;
    }
    /* Read even if only written: a destination may be partial. */
    return tr_read(t, g & 15, r);
}

void gen_native(struct tr *t, struct jinsn *ji)
{
    const struct insn *in = &ji->in;
    struct asmb *a = &t->hot;
    uint32_t fl = ji->desc.flags;
    struct names n = {.reg = in->reg, .vvvv = in->vvvv, .m = mop_reg(in->rm)};
    bool homed = count_homed(in, fl) != 0;
    if (in->is_mem) {
        tr_operand(t, ji, ji->desc.mem_len, (fl & ND_MEM_W) != 0, &n.m);
        bool restore = (ji->flags & (EF_READ | EF_PART)) && t->fl == FL_MEM;
        if (restore || ji->desc.cls == NC_X87 || homed || (fl & (ND_IN_RAX | ND_OUT_RAX)) ||
            in->enc == ENC_EVEX) {
            tr_collapse(t, &n.m);
        }
    }
    if (ji->flags & (EF_READ | EF_PART)) {
        tr_flags_to_host(t);
    }
    unsigned scratch = in->is_mem ? RAX : S1;
    if (fl & (ND_REG_R | ND_REG_W)) {
        n.reg = name(t, in->reg, &scratch);
    }
    if (fl & (ND_V_R | ND_V_W)) {
        n.vvvv = name(t, in->vvvv, &scratch);
    }
    if (!in->is_mem && (fl & (ND_RM_R | ND_RM_W))) {
        n.m = mop_reg(name(t, in->rm, &scratch));
    }
    if (fl & (ND_IN_RAX | ND_OUT_RAX)) {
        e_mov(a, RAX, jit_host_reg[X86_RAX]);
        t->s0_group = -1;
    }
    switch ((enum insn_enc)in->enc) {
    case ENC_LEGACY: put_legacy(a, in, &n); break;
    case ENC_VEX: put_vex(a, in, &n); break;
    case ENC_EVEX: put_evex(a, in, &n); break;
    }
    for (unsigned i = 0; i < ji->desc.imm; i++) {
        e8(a, in->bytes[in->imm_pos + i]);
    }
    if (fl & ND_OUT_RAX) {
        e_mov(a, jit_host_reg[X86_RAX], RAX);
    }
    if (ji->desc.cls == NC_X87 && !native_x87_keeps_pointers(in)) {
        note_x87(t, ji);
    }
    if (fl & ND_V_W) {
        tr_wrote(t, in->vvvv & 15, n.vvvv);
    }
    if (fl & ND_REG_W) { /* last: MULX with equal operands keeps the high half */
        tr_wrote(t, in->reg & 15, n.reg);
    }
    if (!in->is_mem && (fl & ND_RM_W)) {
        tr_wrote(t, in->rm & 15, n.m.reg);
    }
}
