/*
 * Integer instructions: the guest's own, with its registers and operand renamed. SDM vol. 2.
 */
#include "cpu/soft/jit/jit_int.h"

/* ---- one instruction with modrm ---- */

enum { U_NONE, U_R = 1, U_W = 2, U_RW = 3 };

struct form {
    unsigned how, opcode;
    uint8_t reg; /* guest register, or opcode extension when reg_use is U_NONE */
    uint8_t reg_use, rm_use;
    uint8_t reg_size, rm_size;
    uint8_t imm_bytes;
};

static unsigned size_how(unsigned size)
{
    return size == 8 ? E_W : size == 2 ? E_66 : size == 1 ? E_REX : 0;
}

/* A register operand of partial size is merged into what is there. */
static unsigned reg_begin(struct tr *t, unsigned g, unsigned use, unsigned size,
                          unsigned scratch)
{
    bool load = (use & U_R) || size < 4;
    return load ? tr_read(t, g, scratch) : tr_dest(g, scratch);
}

static void emit_form(struct tr *t, struct jinsn *ji, const struct form *f)
{
    const struct insn *in = &ji->in;
    struct mop m;
    unsigned reg = f->reg, rm = 0;
    if (in->is_mem) {
        tr_operand(t, ji, f->rm_size, (f->rm_use & U_W) != 0, &m);
    }
    if (ji->flags & (EF_READ | EF_PART)) {
        if (in->is_mem && t->fl == FL_MEM) {
            tr_collapse(t, &m);
        }
        tr_flags_to_host(t);
    }
    if (!in->is_mem) {
        rm = reg_begin(t, in->rm, f->rm_use, f->rm_size, S1);
        m = mop_reg(rm);
    }
    if (f->reg_use != U_NONE) {
        bool homed = jit_host_reg[f->reg] == NO_REG;
        unsigned scratch = !homed ? NO_REG : in->is_mem ? tr_scratch(t, &m) : RAX;
        if (homed && !in->is_mem) {
            t->s0_group = -1;
        }
        reg = reg_begin(t, f->reg, f->reg_use, f->reg_size, scratch);
    }
    e_op(&t->hot, f->how | (in->lock ? E_LOCK : 0), f->opcode, reg, &m);
    e_imm(&t->hot, in->imm, f->imm_bytes);
    if (f->reg_use & U_W) {
        tr_wrote(t, f->reg, reg);
    }
    if (!in->is_mem && (f->rm_use & U_W)) { /* last: XADD with equal operands */
        tr_wrote(t, in->rm, rm);
    }
}

/* rm names AH, CH, DH or BH. */
static bool high_rm(const struct jinsn *ji)
{
    const struct insn *in = &ji->in;
    return ji->size == 1 && !in->is_mem && in->rex == 0 && in->rm >= 4 && in->rm < 8;
}

/* An instruction with an immediate on AH to BH: these names exist only without REX, and the
 * guest's AH is not the host's. */
static void emit_high(struct tr *t, struct jinsn *ji, const struct form *f)
{
    struct mop m = mop_reg(ji->in.rm);
    bool ah = ji->in.rm == 4;
    if (ji->flags & (EF_READ | EF_PART)) {
        tr_flags_to_host(t);
    }
    if (ah) {
        e_mov(&t->hot, RAX, jit_host_reg[X86_RAX]);
        t->s0_group = -1;
    }
    e_op(&t->hot, 0, f->opcode, f->reg, &m);
    e_imm(&t->hot, ji->in.imm, 1);
    if (ah && (f->rm_use & U_W)) {
        e_mov(&t->hot, jit_host_reg[X86_RAX], RAX);
    }
}

static unsigned imm_bytes(unsigned size)
{
    return size < 4 ? size : 4;
}

/* ---- arithmetic ---- */

void gen_alu(struct tr *t, struct jinsn *ji)
{
    const struct insn *in = &ji->in;
    unsigned size = ji->size;
    struct form f = {.how = size_how(size), .reg_size = ji->size, .rm_size = ji->size};
    if (in->opcode >= 0x80) {
        unsigned alu = in->reg & 7;
        bool short_imm = size > 1 && (int64_t)in->imm == (int8_t)in->imm;
        f.opcode = size == 1 ? 0x80 : short_imm ? 0x83 : 0x81;
        f.reg = (uint8_t)alu;
        f.rm_use = alu == 7 ? U_R : U_RW;
        f.imm_bytes = (uint8_t)(short_imm ? 1 : imm_bytes(size));
    } else if (in->opcode & 4) {
        struct insn *acc = &ji->in; /* as if it had a modrm byte */
        f.opcode = size == 1 ? 0x80 : 0x81;
        f.reg = in->opcode >> 3;
        f.rm_use = f.reg == 7 ? U_R : U_RW;
        f.imm_bytes = (uint8_t)imm_bytes(size);
        acc->rm = X86_RAX;
    } else {
        bool to_reg = (in->opcode & 2) != 0, cmp = in->opcode >> 3 == 7;
        f.opcode = in->opcode;
        f.reg = in->reg;
        f.reg_use = to_reg && !cmp ? U_RW : U_R;
        f.rm_use = to_reg || cmp ? U_R : U_RW;
    }
    if (in->opcode == 0x80 && high_rm(ji)) {
        emit_high(t, ji, &f);
        return;
    }
    emit_form(t, ji, &f);
}

void gen_test(struct tr *t, struct jinsn *ji)
{
    struct insn *in = &ji->in;
    struct form f = {
        .how = size_how(ji->size), .reg_size = ji->size, .rm_size = ji->size, .rm_use = U_R};
    if (in->opcode == 0x84 || in->opcode == 0x85) {
        f.opcode = in->opcode;
        f.reg = in->reg;
        f.reg_use = U_R;
    } else {
        f.opcode = ji->size == 1 ? 0xf6 : 0xf7;
        f.imm_bytes = (uint8_t)imm_bytes(ji->size);
        if (in->opcode == 0xa8 || in->opcode == 0xa9) {
            in->rm = X86_RAX;
        }
    }
    if (in->opcode == 0xf6 && high_rm(ji)) {
        emit_high(t, ji, &f);
        return;
    }
    emit_form(t, ji, &f);
}

void gen_incdec(struct tr *t, struct jinsn *ji)
{
    struct form f = {.how = size_how(ji->size),
                     .opcode = ji->size == 1 ? 0xfe : 0xff,
                     .reg = ji->in.reg & 7,
                     .rm_use = U_RW,
                     .rm_size = ji->size};
    emit_form(t, ji, &f);
}

void gen_shift(struct tr *t, struct jinsn *ji)
{
    struct form f = {.how = size_how(ji->size),
                     .opcode = ji->in.opcode,
                     .reg = ji->in.reg & 7,
                     .rm_use = U_RW,
                     .rm_size = ji->size,
                     .imm_bytes = ji->in.opcode < 0xd0};
    emit_form(t, ji, &f);
}

void gen_negnot(struct tr *t, struct jinsn *ji)
{
    struct form f = {.how = size_how(ji->size),
                     .opcode = ji->size == 1 ? 0xf6 : 0xf7,
                     .reg = ji->in.reg & 7,
                     .rm_use = U_RW,
                     .rm_size = ji->size};
    emit_form(t, ji, &f);
}

void gen_imul(struct tr *t, struct jinsn *ji)
{
    const struct insn *in = &ji->in;
    bool three = in->map == MAP_1B;
    struct form f = {.how = size_how(ji->size) | (three ? 0 : E_0F),
                     .opcode = in->opcode,
                     .reg = in->reg,
                     .reg_use = three ? U_W : U_RW,
                     .rm_use = U_R,
                     .reg_size = ji->size,
                     .rm_size = ji->size};
    f.imm_bytes = (uint8_t)(!three ? 0 : in->opcode == 0x6b ? 1 : imm_bytes(ji->size));
    emit_form(t, ji, &f);
}

/* With the guest's RAX in the host's for as long as the instruction takes. */
static void with_rax(struct tr *t, struct jinsn *ji, const struct form *f)
{
    const struct insn *in = &ji->in;
    unsigned acc = jit_host_reg[X86_RAX], rm = NO_REG, reg = f->reg;
    struct mop m;
    if (in->is_mem) {
        tr_operand(t, ji, f->rm_size, (f->rm_use & U_W) != 0, &m);
        tr_collapse(t, &m);
    }
    if (ji->flags & EF_PART) {
        tr_flags_to_host(t);
    }
    if (!in->is_mem) {
        rm = reg_begin(t, in->rm, f->rm_use, f->rm_size, S1);
        m = mop_reg(in->rm == X86_RAX ? RAX : rm);
    }
    if (f->reg_use != U_NONE) {
        reg = f->reg == X86_RAX ? RAX : jit_host_reg[f->reg];
    }
    e_mov(&t->hot, RAX, acc);
    e_op(&t->hot, f->how | (in->lock ? E_LOCK : 0), f->opcode, reg, &m);
    e_mov(&t->hot, acc, RAX);
    t->s0_group = -1;
    if (!in->is_mem && (f->rm_use & U_W) && in->rm != X86_RAX) {
        tr_wrote(t, in->rm, rm);
    }
}

void gen_muldiv(struct tr *t, struct jinsn *ji)
{
    struct form f = {.how = size_how(ji->size),
                     .opcode = ji->size == 1 ? 0xf6 : 0xf7,
                     .reg = ji->in.reg & 7,
                     .rm_use = U_R,
                     .rm_size = ji->size};
    with_rax(t, ji, &f);
}

void gen_cmpxchg(struct tr *t, struct jinsn *ji)
{
    const struct insn *in = &ji->in;
    struct form f = {.how = size_how(ji->size) | E_0F,
                     .opcode = in->opcode,
                     .reg = in->reg,
                     .reg_use = U_R,
                     .rm_use = U_RW,
                     .rm_size = ji->size};
    with_rax(t, ji, &f);
}

void gen_cmpxchg16(struct tr *t, struct jinsn *ji)
{
    struct form f = {.how = E_0F | (ji->size == 16 ? E_W : 0),
                     .opcode = 0xc7,
                     .reg = 1,
                     .rm_use = U_RW,
                     .rm_size = ji->size};
    unsigned stubs = t->n_stubs;
    with_rax(t, ji, &f);
    if (ji->size == 16 && t->n_stubs > stubs) {
        t->stub[stubs].word |= SITE_ALIGNED;
    }
}

void gen_xadd(struct tr *t, struct jinsn *ji)
{
    struct form f = {.how = size_how(ji->size) | E_0F,
                     .opcode = ji->in.opcode,
                     .reg = ji->in.reg,
                     .reg_use = U_RW,
                     .rm_use = U_RW,
                     .reg_size = ji->size,
                     .rm_size = ji->size};
    emit_form(t, ji, &f);
}

void gen_bscan(struct tr *t, struct jinsn *ji)
{
    struct form f = {.how = size_how(ji->size) | E_0F,
                     .opcode = ji->in.opcode,
                     .reg = ji->in.reg,
                     .reg_use = U_RW, /* kept when the source is 0 */
                     .rm_use = U_R,
                     .reg_size = ji->size,
                     .rm_size = ji->size};
    emit_form(t, ji, &f);
}

void gen_shd(struct tr *t, struct jinsn *ji)
{
    struct form f = {.how = size_how(ji->size) | E_0F,
                     .opcode = ji->in.opcode,
                     .reg = ji->in.reg,
                     .reg_use = U_R,
                     .rm_use = U_RW,
                     .reg_size = ji->size,
                     .rm_size = ji->size,
                     .imm_bytes = !(ji->in.opcode & 1)};
    emit_form(t, ji, &f);
}

/* S0 = which word of the bit string. */
static void bit_word(struct tr *t, const struct jinsn *ji)
{
    unsigned off = tr_read(t, ji->in.reg, RAX);
    e_rr(&t->hot, E_W, ji->size == 8 ? 0x8b : 0x63, RAX, off);
    e_rr(&t->hot, E_W, 0xc1, 7, RAX);
    e8(&t->hot, ji->size == 8 ? 6 : 5);
}

/* The bit string of BT with a register offset reaches anywhere: the check is where the bit is.
 */
static void bt_string(struct tr *t, struct jinsn *ji)
{
    const struct insn *in = &ji->in;
    struct asmb *a = &t->hot;
    bool write = ji->access_w;
    unsigned log = ji->size == 8 ? 3 : 2;
    tr_flags_clobber(t);
    uint8_t *retry = a->p;
    tr_ea(t, in);
    bit_word(t, ji);
    e_lea(a, S1, S1, RAX, log, 0);
    tr_check(t, retry, ji->size, write, write ? SITE_CUR_W : 0);
    /* Back from where the bit is to the operand, since the host's instruction adds that again.
     */
    e_lea(a, S1, S1, RAX, 0, 0);
    bit_word(t, ji);
    e_rr(a, E_W, 0xf7, 3, RAX); /* neg */
    e_lea(a, S1, S1, RAX, log, 0);
    t->s0_group = -1;
    tr_flags_to_host(t);
    struct mop m = mop_mem(S1, NO_REG, 0);
    unsigned off = tr_read(t, in->reg, RAX);
    e_op(a, size_how(ji->size) | E_0F | (in->lock ? E_LOCK : 0), in->opcode, off, &m);
}

void gen_bt(struct tr *t, struct jinsn *ji)
{
    const struct insn *in = &ji->in;
    bool imm = in->opcode == 0xba;
    if (in->is_mem && !imm) {
        bt_string(t, ji);
        return;
    }
    unsigned op = imm ? in->reg & 3u : in->opcode >> 3 & 3u;
    struct form f = {.how = size_how(ji->size) | E_0F,
                     .opcode = in->opcode,
                     .reg = imm ? in->reg & 7 : in->reg,
                     .reg_use = imm ? U_NONE : U_R,
                     .rm_use = op == 0 ? U_R : U_RW,
                     .reg_size = ji->size,
                     .rm_size = ji->size,
                     .imm_bytes = imm};
    emit_form(t, ji, &f);
}

void gen_carry(struct tr *t, struct jinsn *ji)
{
    tr_flags_to_host(t);
    e8(&t->hot, ji->in.opcode);
}

/* ---- moves ---- */

void gen_mov(struct tr *t, struct jinsn *ji)
{
    bool to_reg = (ji->in.opcode & 2) != 0;
    struct form f = {.how = size_how(ji->size),
                     .opcode = ji->in.opcode,
                     .reg = ji->in.reg,
                     .reg_use = to_reg ? U_W : U_R,
                     .rm_use = to_reg ? U_R : U_W,
                     .reg_size = ji->size,
                     .rm_size = ji->size};
    emit_form(t, ji, &f);
}

void gen_movimm(struct tr *t, struct jinsn *ji)
{
    struct insn *in = &ji->in;
    if (in->opcode < 0xc0) {
        unsigned g = opcode_reg(in);
        if (ji->size >= 4) {
            unsigned r = tr_dest(g, S1);
            e_const(&t->hot, r, ji->size == 4 ? (uint32_t)in->imm : in->imm);
            tr_wrote(t, g, r);
            return;
        }
        in->rm = (uint8_t)g;
    }
    struct form f = {.how = size_how(ji->size),
                     .opcode = ji->size == 1 ? 0xc6 : 0xc7,
                     .rm_use = U_W,
                     .rm_size = ji->size,
                     .imm_bytes = (uint8_t)imm_bytes(ji->size)};
    emit_form(t, ji, &f);
}

void gen_lea(struct tr *t, struct jinsn *ji)
{
    const struct insn *in = &ji->in;
    struct asmb *a = &t->hot;
    unsigned dst = tr_dest(in->reg, S1);
    if (in->rip_rel || (in->base >= INSN_NOREG && in->index >= INSN_NOREG)) {
        uint64_t ea = tr_const_ea(t, in);
        if (ji->size == 2) {
            e_const(a, RAX, (uint16_t)ea);
            t->s0_group = -1;
            dst = tr_read(t, in->reg, S1);
            e_rr(a, E_66, 0x8b, dst, RAX);
        } else {
            e_const(a, dst, ji->size == 4 ? (uint32_t)ea : ea);
        }
        tr_wrote(t, in->reg, dst);
        return;
    }
    unsigned b = NO_REG, x = NO_REG;
    if (in->base < INSN_NOREG) {
        b = tr_read(t, in->base, S1);
    }
    if (in->index < INSN_NOREG) {
        x = tr_read(t, in->index, RAX);
        t->s0_group = x == RAX ? -1 : t->s0_group;
    }
    struct mop m = mop_mem(b, x, (int32_t)in->disp);
    m.scale = in->scale;
    if (ji->size == 2) {
        e_op(a, E_W, 0x8d, S1, &m);
        dst = tr_read(t, in->reg, RAX);
        t->s0_group = -1;
        e_rr(a, E_66, 0x8b, dst, S1);
    } else {
        e_op(a, ji->size == 8 ? E_W : 0, 0x8d, dst, &m);
    }
    tr_wrote(t, in->reg, dst);
}

void gen_extend(struct tr *t, struct jinsn *ji)
{
    if (high_rm(ji)) {
        if (ji->in.rm == 4) {
            e_mov(&t->hot, RAX, jit_host_reg[X86_RAX]);
        }
        e_rr(&t->hot, E_0F, 0xb6, RAX, ji->in.rm); /* movzx eax, AH to BH */
        e_mov(&t->hot, tr_dest(ji->in.reg, RAX), RAX);
        tr_wrote(t, ji->in.reg, RAX);
        t->s0_group = -1;
        return;
    }
    struct form f = {.how = size_how(ji->in.osize) | E_0F | (ji->size == 1 ? E_REX : 0),
                     .opcode = ji->in.opcode,
                     .reg = ji->in.reg,
                     .reg_use = U_W,
                     .rm_use = U_R,
                     .reg_size = ji->in.osize,
                     .rm_size = ji->size};
    emit_form(t, ji, &f);
}

void gen_movsxd(struct tr *t, struct jinsn *ji)
{
    struct form f = {.how = size_how(ji->in.osize),
                     .opcode = 0x63,
                     .reg = ji->in.reg,
                     .reg_use = U_W,
                     .rm_use = U_R,
                     .reg_size = ji->in.osize,
                     .rm_size = ji->in.osize == 2 ? 2 : 4};
    emit_form(t, ji, &f);
}

void gen_cmov(struct tr *t, struct jinsn *ji)
{
    struct form f = {.how = size_how(ji->size) | E_0F,
                     .opcode = ji->in.opcode,
                     .reg = ji->in.reg,
                     .reg_use = U_RW,
                     .rm_use = U_R,
                     .reg_size = ji->size,
                     .rm_size = ji->size};
    emit_form(t, ji, &f);
}

void gen_setcc(struct tr *t, struct jinsn *ji)
{
    struct form f = {.how = E_0F | E_REX, .opcode = ji->in.opcode, .rm_use = U_W, .rm_size = 1};
    emit_form(t, ji, &f);
}

void gen_nop(struct tr *t, struct jinsn *ji)
{
    (void)t;
    (void)ji;
}

void gen_xchg(struct tr *t, struct jinsn *ji)
{
    struct insn *in = &ji->in;
    if (in->opcode >= 0x90) {
        in->rm = (uint8_t)opcode_reg(in);
        in->reg = X86_RAX;
    }
    struct form f = {.how = size_how(ji->size),
                     .opcode = ji->size == 1 ? 0x86 : 0x87,
                     .reg = in->reg,
                     .reg_use = U_RW,
                     .rm_use = U_RW,
                     .reg_size = ji->size,
                     .rm_size = ji->size};
    emit_form(t, ji, &f);
}

void gen_bswap(struct tr *t, struct jinsn *ji)
{
    unsigned g = opcode_reg(&ji->in);
    unsigned r = tr_read(t, g, S1);
    struct asmb *a = &t->hot;
    if (ji->size == 2) {
        e8(a, 0x66);
    }
    e8(a, 0x40 | (ji->size == 8 ? 8 : 0) | r >> 3);
    e8(a, 0x0f);
    e8(a, 0xc8 | (r & 7));
    tr_wrote(t, g, r);
}

void gen_cwd(struct tr *t, struct jinsn *ji)
{
    e_mov(&t->hot, RAX, jit_host_reg[X86_RAX]);
    t->s0_group = -1;
    if (ji->in.osize != 4) {
        e8(&t->hot, ji->in.osize == 8 ? 0x48 : 0x66);
    }
    e8(&t->hot, 0x99);
}

void gen_cbw(struct tr *t, struct jinsn *ji)
{
    unsigned r = jit_host_reg[X86_RAX];
    switch (ji->in.osize) {
    case 2: e_rr(&t->hot, E_66 | E_0F | E_REX, 0xbe, r, r); break;
    case 4: e_rr(&t->hot, E_0F, 0xbf, r, r); break;
    default: e_rr(&t->hot, E_W, 0x63, r, r); break;
    }
}
