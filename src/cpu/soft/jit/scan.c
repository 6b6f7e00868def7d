/*
 * Before a block is translated: decodes its instructions, finds what each reads and writes, and
 * puts accesses near the same register into groups that one check serves.
 *
 * A block ends at a branch, but goes on behind a conditional one that jumps forward; it never
 * leaves its page.
 */
#include "cpu/soft/jit/jit_int.h"

#include "cpu/soft/block.h"
#include "cpu/soft/decode.h"

#define BIT(g) ((uint16_t)(1u << (g)))

/* Bytes that one check may span. */
#define GROUP_SPAN 1024

static unsigned op_size(const struct jinsn *ji)
{
    return (ji->row->flags & OP_BYTE) ? 1 : ji->in.osize;
}

/* AH to BH among byte operands. */
static bool high_byte(const struct insn *in, unsigned reg)
{
    return in->rex == 0 && reg >= 4 && reg < 8;
}

/* ---- effects of each kind ---- */

/* To the operand that opcode bit 1 chooses, or always to rm. */
static void writes_rm(struct jinsn *ji)
{
    bool high = ji->size == 1 && high_byte(&ji->in, ji->in.rm);
    ji->writes |= ji->in.is_mem ? 0 : BIT(high ? ji->in.rm - 4 : ji->in.rm);
    ji->access_w = true;
}
static void writes_reg(struct jinsn *ji)
{
    ji->writes |= BIT(ji->in.reg);
}

static void scan_alu(struct jinsn *ji)
{
    const struct insn *in = &ji->in;
    unsigned alu = in->opcode >= 0x80 ? in->reg & 7u : in->opcode >> 3;
    ji->flags = alu == 2 || alu == 3 ? EF_READ | EF_ALL : EF_ALL;
    if (alu == 7) {
        return;
    }
    if (in->opcode < 0x80 && (in->opcode & 4)) {
        ji->writes |= BIT(X86_RAX);
    } else if (in->opcode < 0x80 && (in->opcode & 2)) {
        writes_reg(ji);
    } else {
        writes_rm(ji);
    }
}
static void scan_test(struct jinsn *ji)
{
    ji->flags = EF_ALL;
}
static void scan_mov(struct jinsn *ji)
{
    if (ji->in.opcode & 2) {
        writes_reg(ji);
    } else {
        writes_rm(ji);
    }
}
static void scan_movimm(struct jinsn *ji)
{
    if (ji->in.opcode >= 0xc0) {
        writes_rm(ji);
    } else {
        ji->writes |= BIT(opcode_reg(&ji->in));
    }
}
static void scan_to_reg(struct jinsn *ji)
{
    writes_reg(ji);
}
static void scan_incdec(struct jinsn *ji)
{
    ji->flags = EF_PART;
    writes_rm(ji);
}
static void scan_shift(struct jinsn *ji)
{
    const struct insn *in = &ji->in;
    unsigned mask = ji->size == 8 ? 63 : 31;
    bool by_one = in->opcode == 0xd0 || in->opcode == 0xd1;
    bool by_cl = in->opcode == 0xd2 || in->opcode == 0xd3;
    unsigned op = in->reg & 7;
    bool plain = op == 4 || op == 5 || op == 6 || op == 7;
    bool counts = by_one || (!by_cl && (in->imm & mask) != 0);
    ji->flags = plain && counts ? EF_ALL : EF_PART;
    ji->flags |= op == 2 || op == 3 ? EF_READ : 0;
    writes_rm(ji);
}
static void scan_cmov(struct jinsn *ji)
{
    ji->flags = EF_READ;
    writes_reg(ji);
}
static void scan_setcc(struct jinsn *ji)
{
    ji->flags = EF_READ;
    writes_rm(ji);
}
static void scan_none(struct jinsn *ji)
{
    (void)ji;
}
static void scan_xchg(struct jinsn *ji)
{
    if (ji->in.opcode >= 0x90) {
        ji->writes |= BIT(X86_RAX) | BIT(opcode_reg(&ji->in));
    } else {
        writes_reg(ji);
        writes_rm(ji);
    }
}
static void scan_imul(struct jinsn *ji)
{
    ji->flags = EF_ALL;
    writes_reg(ji);
}
static void scan_negnot(struct jinsn *ji)
{
    ji->flags = (ji->in.reg & 7) == 3 ? EF_ALL : 0;
    writes_rm(ji);
}
static void scan_muldiv(struct jinsn *ji)
{
    ji->flags = (ji->in.reg & 7) >= 6 ? EF_PART : EF_ALL;
    ji->may_fault = (ji->in.reg & 7) >= 6;
    ji->writes |= BIT(X86_RAX) | BIT(X86_RDX);
}
static void scan_cwd(struct jinsn *ji)
{
    ji->writes |= BIT(X86_RDX);
}
static void scan_cbw(struct jinsn *ji)
{
    ji->writes |= BIT(X86_RAX);
}
static void scan_bt(struct jinsn *ji)
{
    unsigned op = ji->in.opcode == 0xba ? ji->in.reg & 3u : ji->in.opcode >> 3 & 3u;
    ji->flags = EF_PART;
    if (op != 0) {
        writes_rm(ji);
    }
}
static void scan_bswap(struct jinsn *ji)
{
    ji->writes |= BIT(opcode_reg(&ji->in));
}
static void scan_cmpxchg(struct jinsn *ji)
{
    ji->flags = EF_ALL;
    ji->writes |= BIT(X86_RAX);
    writes_rm(ji);
}
static void scan_cmpxchg8b(struct jinsn *ji)
{
    ji->flags = EF_PART;
    ji->writes |= BIT(X86_RAX) | BIT(X86_RDX);
    ji->size = (ji->in.rex & 8) ? 16 : 8;
    ji->access_w = true;
    ji->may_fault = true; /* misaligned */
}
static void scan_xadd(struct jinsn *ji)
{
    ji->flags = EF_ALL;
    writes_reg(ji);
    writes_rm(ji);
}
static void scan_bscan(struct jinsn *ji)
{
    ji->flags = EF_PART;
    writes_reg(ji);
}
static void scan_shd(struct jinsn *ji)
{
    ji->flags = EF_PART;
    writes_rm(ji);
}
static void scan_carry(struct jinsn *ji)
{
    ji->flags = EF_PART | (ji->in.opcode == 0xf5 ? EF_READ : 0);
}
static void scan_extend(struct jinsn *ji)
{
    bool dword = ji->row->kind == K_MOVSXD && ji->in.osize != 2;
    ji->size = (ji->row->flags & OP_BYTE) ? 1 : dword ? 4 : 2;
    writes_reg(ji);
}
static void stack_access(struct jinsn *ji, int32_t disp, unsigned size, bool write)
{
    ji->has_access = true;
    ji->access_stack = true;
    ji->access_index = NO_REG;
    ji->access_base = X86_RSP;
    ji->access_disp = disp;
    ji->access_size = (uint16_t)size;
    ji->access_w = write;
}
static void scan_push(struct jinsn *ji)
{
    ji->size = ji->in.osize;
    stack_access(ji, -(int32_t)ji->size, ji->size, true);
    ji->moves_reg = X86_RSP;
    ji->moves_by = -(int32_t)ji->size;
}
static void scan_pop(struct jinsn *ji)
{
    unsigned reg = opcode_reg(&ji->in);
    ji->size = ji->in.osize;
    stack_access(ji, 0, ji->size, false);
    ji->writes |= BIT(reg);
    if (reg != X86_RSP) {
        ji->moves_reg = X86_RSP;
        ji->moves_by = (int32_t)ji->size;
    }
}
static void scan_pushf(struct jinsn *ji)
{
    scan_push(ji);
    ji->flags = EF_READ;
}
static void scan_leave(struct jinsn *ji)
{
    ji->size = 8;
    ji->writes = BIT(X86_RSP) | BIT(X86_RBP);
    ji->has_access = true;
    ji->access_stack = true;
    ji->access_index = NO_REG;
    ji->access_base = X86_RBP;
    ji->access_size = 8;
}
static void scan_call(struct jinsn *ji)
{
    stack_access(ji, -8, 8, true);
}
static void scan_callind(struct jinsn *ji)
{
    ji->size = 8;
    if (!ji->in.is_mem) {
        scan_call(ji);
    }
}
static void scan_ret(struct jinsn *ji)
{
    stack_access(ji, 0, 8, false);
}
static void scan_jmpind(struct jinsn *ji)
{
    ji->size = 8;
}
static void scan_jcc(struct jinsn *ji)
{
    ji->flags = EF_READ;
}

static void scan_rdtsc(struct jinsn *ji)
{
    ji->writes |= BIT(X86_RAX) | BIT(X86_RDX);
    ji->writes |= ji->row->kind == K_RDTSCP ? BIT(X86_RCX) : 0;
}

static const struct {
    void (*scan)(struct jinsn *ji);
    gen_fn *gen;
} kinds[K_COUNT] = {
    [K_ALU] = {scan_alu, gen_alu},
    [K_TEST] = {scan_test, gen_test},
    [K_MOV] = {scan_mov, gen_mov},
    [K_MOVIMM] = {scan_movimm, gen_movimm},
    [K_LEA] = {scan_to_reg, gen_lea},
    [K_PUSH] = {scan_push, gen_push},
    [K_POP] = {scan_pop, gen_pop},
    [K_JCC] = {scan_jcc, gen_jcc},
    [K_JMP] = {scan_none, gen_jmp},
    [K_CALL] = {scan_call, gen_call},
    [K_RET] = {scan_ret, gen_ret},
    [K_JMPIND] = {scan_jmpind, gen_jmpind},
    [K_CALLIND] = {scan_callind, gen_callind},
    [K_INCDEC] = {scan_incdec, gen_incdec},
    [K_SHIFT] = {scan_shift, gen_shift},
    [K_MOVZX] = {scan_extend, gen_extend},
    [K_MOVSX] = {scan_extend, gen_extend},
    [K_MOVSXD] = {scan_extend, gen_movsxd},
    [K_CMOV] = {scan_cmov, gen_cmov},
    [K_SETCC] = {scan_setcc, gen_setcc},
    [K_NOP] = {scan_none, gen_nop},
    [K_XCHG] = {scan_xchg, gen_xchg},
    [K_IMUL] = {scan_imul, gen_imul},
    [K_NEGNOT] = {scan_negnot, gen_negnot},
    [K_CWD] = {scan_cwd, gen_cwd},
    [K_CBW] = {scan_cbw, gen_cbw},
    [K_BT] = {scan_bt, gen_bt},
    [K_LEAVE] = {scan_leave, gen_leave},
    [K_BSWAP] = {scan_bswap, gen_bswap},
    [K_MULDIV] = {scan_muldiv, gen_muldiv},
    [K_CMPXCHG] = {scan_cmpxchg, gen_cmpxchg},
    [K_CMPXCHG8B] = {scan_cmpxchg8b, gen_cmpxchg16},
    [K_XADD] = {scan_xadd, gen_xadd},
    [K_BSCAN] = {scan_bscan, gen_bscan},
    [K_SHD] = {scan_shd, gen_shd},
    [K_CARRY] = {scan_carry, gen_carry},
    [K_PUSHF] = {scan_pushf, gen_pushf},
    [K_CLI] = {scan_none, gen_cli},
    [K_STI] = {scan_none, gen_sti},
    [K_SWAPGS] = {scan_none, gen_swapgs},
    [K_RDTSC] = {scan_rdtsc, gen_rdtsc},
    [K_RDTSCP] = {scan_rdtsc, gen_rdtsc},
    [K_FENCE] = {scan_none, gen_fence},
    [K_SMAP] = {scan_none, gen_smap},
};

/* Kinds whose modrm.reg or rm may name AH to BH. */
static bool names_high_byte(const struct jinsn *ji)
{
    const struct insn *in = &ji->in;
    if (!in->has_modrm) {
        unsigned reg = in->opcode & 7;
        return ji->row->kind == K_MOVIMM && in->opcode < 0xb8 && high_byte(in, reg);
    }
    bool rm = !in->is_mem && high_byte(in, in->rm);
    if (ji->row->kind == K_MOVZX || ji->row->kind == K_MOVSX) {
        return (ji->row->flags & OP_BYTE) && rm && (in->osize == 2 || in->opcode != 0xb6);
    }
    if (rm && (in->opcode == 0x80 || in->opcode == 0xf6)) {
        return ji->row->kind != K_ALU && ji->row->kind != K_TEST;
    }
    if (op_size(ji) != 1) {
        return false;
    }
    switch (ji->row->kind) {
    case K_ALU:
    case K_TEST:
    case K_MOV:
    case K_XCHG:
    case K_CMPXCHG:
    case K_XADD:
        return rm || (in->opcode != 0x80 && in->opcode != 0xf6 && high_byte(in, in->reg));
    default: return rm;
    }
}

static bool tsc_hidden(uint32_t mode)
{
    return (mode & MODE_TSD) && !(mode & MODE_CPL0);
}

/* What translated code leaves to the general handlers. */
static bool too_odd(const struct tr *t, const struct jinsn *ji)
{
    const struct insn *in = &ji->in;
    uint8_t kind = ji->row->kind;
    if (kind == K_NONE || kinds[kind].gen == NULL || (in->is_mem && in->asize != 8) ||
        ((ji->row->flags & OP_F64) && in->osize != 8) || names_high_byte(ji)) {
        return true;
    }
    bool rsp_operand =
        (in->has_modrm && !in->is_mem && in->rm == X86_RSP) || in->base == X86_RSP;
    switch (kind) {
    case K_LEA: return in->asize != 8;
    case K_PUSH: return in->osize != 8 || (in->opcode == 0xff && in->is_mem && rsp_operand);
    case K_PUSHF: return in->osize != 8;
    case K_POP: return in->osize != 8;
    case K_LEAVE: return in->osize != 8;
    case K_CMPXCHG: return jit_host_reg[in->reg] == NO_REG;
    case K_CMPXCHG8B: return (in->rex & 8) && !cpu_model_has(t->c->vm->model, 1, 0, 2, 13);
    case K_BT: /* a register offset reaches beyond the operand */
        return in->is_mem && in->opcode != 0xba && (in->osize == 2 || in->index < INSN_NOREG);
    case K_CLI:
    case K_STI:
    case K_SWAPGS: return !(t->tb->mode & MODE_CPL0);
    case K_RDTSC: return tsc_hidden(t->tb->mode);
    case K_RDTSCP:
        return tsc_hidden(t->tb->mode) ||
               !cpu_model_has(t->c->vm->model, 0x80000001u, 0, 3, 27);
    case K_SMAP:
        return (t->tb->mode & (MODE_CPL0 | MODE_CR4_SMAP)) != (MODE_CPL0 | MODE_CR4_SMAP);
    case K_RET: return in->opcode == 0xc2 && in->imm > 0x7fff;
    default: return false;
    }
}

/* A register that changes by a constant stays the base of a group. */
static void find_moves(struct jinsn *ji)
{
    const struct insn *in = &ji->in;
    int64_t by;
    if (ji->row->kind == K_ALU && in->opcode >= 0x80 && !in->is_mem && in->osize == 8 &&
        ((in->reg & 7) == 0 || (in->reg & 7) == 5) && op_size(ji) == 8) {
        by = (in->reg & 7) == 0 ? (int64_t)in->imm : -(int64_t)in->imm;
        ji->moves_reg = in->rm;
    } else if (ji->row->kind == K_LEA && in->osize == 8 && in->base == in->reg &&
               in->index == INSN_NOREG && !in->rip_rel) {
        by = in->disp;
        ji->moves_reg = in->reg;
    } else {
        return;
    }
    if (by < -GROUP_SPAN || by > GROUP_SPAN) {
        ji->moves_reg = NO_REG;
        return;
    }
    ji->moves_by = (int32_t)by;
}

static void find_access(struct jinsn *ji, unsigned size)
{
    const struct insn *in = &ji->in;
    bool index = in->index < INSN_NOREG;
    if (ji->has_access || !in->is_mem || size == 0 || in->base >= INSN_NOREG || in->rip_rel ||
        in->seg == X86_FS || in->seg == X86_GS || in->disp != (int32_t)in->disp ||
        (index && jit_host_reg[in->index] == NO_REG)) {
        return;
    }
    ji->access_index = index ? in->index : NO_REG;
    ji->access_scale = in->scale;
    ji->has_access = true;
    ji->access_base = in->base;
    ji->access_disp = (int32_t)in->disp;
    ji->access_size = (uint16_t)size;
}

static void describe_native(struct tr *t, struct jinsn *ji)
{
    const struct insn *in = &ji->in;
    const struct native_desc *d = &ji->desc;
    if (!native_plan(t->c, in, &ji->desc) || !tr_can_rename(in, d)) {
        return;
    }
    ji->gen = gen_native;
    ji->fpu = d->cls != NC_GPR && d->cls != NC_VEXGPR;
    ji->may_fault = ji->fpu;
    bool compares = in->map == MAP_0F && in->opcode >= 0x2e && in->opcode <= 0x2f;
    bool popcnt = in->enc == ENC_LEGACY && in->map == MAP_0F && in->opcode == 0xb8;
    ji->flags = !(d->flags & ND_FLAGS) ? 0 : compares || popcnt ? EF_ALL : EF_PART | EF_READ;
    ji->writes |= (d->flags & ND_REG_W) ? BIT(in->reg & 15) : 0;
    ji->writes |= (d->flags & ND_RM_W) && !in->is_mem ? BIT(in->rm & 15) : 0;
    ji->writes |= (d->flags & ND_V_W) ? BIT(in->vvvv & 15) : 0;
    ji->writes |= (d->flags & ND_OUT_RCX) ? BIT(X86_RCX) : 0;
    ji->writes |= (d->flags & ND_OUT_RAX) ? BIT(X86_RAX) : 0;
    ji->access_w = (d->flags & ND_MEM_W) != 0;
    /* Conversions to half precision may raise #XM. */
    ji->pure_store = ji->access_w && !(d->flags & ND_MEM_R) && d->align == 0 &&
                     d->cls != NC_X87 && in->map != MAP_0F3A;
    find_access(ji, d->mem_len);
}

static void describe(struct tr *t, struct jinsn *ji)
{
    ji->moves_reg = NO_REG;
    ji->group = -1;
    ji->end = ji->row != NULL && (ji->row->flags & OP_END) != 0;
    if (ji->row == NULL) {
        describe_native(t, ji);
        return;
    }
    if (too_odd(t, ji)) {
        return;
    }
    ji->size = (uint8_t)op_size(ji);
    kinds[ji->row->kind].scan(ji);
    ji->gen = kinds[ji->row->kind].gen;
    ji->pure_store =
        ji->in.is_mem && ji->access_w && (ji->row->kind == K_MOV || ji->row->kind == K_MOVIMM);
    uint8_t kind = ji->row->kind;
    bool offset = kind == K_BT && ji->in.opcode != 0xba;
    if (kind != K_LEA && kind != K_NOP && !offset) {
        find_access(ji, ji->size);
    }
    find_moves(ji);
}

/* ---- groups ---- */

static int group_of(const struct tr *t, const struct jinsn *ji)
{
    for (unsigned g = t->n_groups; g-- > 0;) {
        const struct group *gr = &t->group[g];
        if (gr->open && gr->base == ji->access_base && gr->index == ji->access_index &&
            (gr->index == NO_REG || gr->scale == ji->access_scale)) {
            return (int)g;
        }
    }
    return -1;
}

static void join_group(struct tr *t, unsigned n)
{
    struct jinsn *ji = &t->insn[n];
    int g = group_of(t, ji);
    int64_t lo = ji->access_disp, hi = lo + ji->access_size;
    if (g >= 0) {
        struct group *gr = &t->group[g];
        int64_t nlo = MIN(gr->lo, lo + gr->moved), nhi = MAX(gr->hi, hi + gr->moved);
        if (nhi - nlo <= GROUP_SPAN && nlo == (int32_t)nlo) {
            ji->group_at = lo + gr->moved;
            gr->lo = nlo;
            gr->hi = nhi;
            gr->n++;
            gr->write |= ji->access_w;
            ji->group = (int8_t)g;
            return;
        }
        gr->open = false;
    }
    if (t->n_groups < JIT_MAX_GROUPS) {
        t->group[t->n_groups] = (struct group){.lo = lo,
                                               .hi = hi,
                                               .n = 1,
                                               .base = ji->access_base,
                                               .index = ji->access_index,
                                               .scale = ji->access_scale,
                                               .write = ji->access_w,
                                               .open = true,
                                               .first = n};
        ji->group = (int8_t)t->n_groups++;
        ji->group_at = lo;
    }
}

static void move_groups(struct tr *t, const struct jinsn *ji)
{
    for (unsigned g = 0; g < t->n_groups; g++) {
        struct group *gr = &t->group[g];
        bool index = gr->index != NO_REG &&
                     ((ji->writes >> gr->index & 1) || ji->moves_reg == gr->index);
        if (ji->gen == NULL || index) {
            gr->open = false;
        } else if (gr->base == ji->moves_reg && gr->open) {
            gr->moved += ji->moves_by;
            gr->open = gr->moved > -GROUP_SPAN * 4 && gr->moved < GROUP_SPAN * 4;
        } else if (ji->writes >> gr->base & 1) {
            gr->open = false;
        }
    }
}

static void make_groups(struct tr *t)
{
    if (*jit_no_groups(t->j, t->tb->va) == t->tb->va) {
        return;
    }
    for (unsigned n = 0; n < t->n; n++) {
        if (t->insn[n].has_access && t->insn[n].gen != NULL) {
            join_group(t, n);
        }
        move_groups(t, &t->insn[n]);
    }
    for (unsigned n = 0; n < t->n; n++) {
        struct jinsn *ji = &t->insn[n];
        if (ji->group >= 0 && t->group[ji->group].n < 2) {
            ji->group = -1;
        }
    }
}

/* ---- the block ---- */

static bool goes_on(const struct tr *t, const struct jinsn *ji)
{
    if (ji->gen != gen_jcc) {
        return !ji->end;
    }
    uint64_t next = t->tb->va + ji->ip + ji->in.len;
    return (int64_t)ji->in.imm > 0 &&
           ((next + ji->in.imm) & ~(MEM_PAGE_SIZE - 1)) == (next & ~(MEM_PAGE_SIZE - 1));
}

/* An instruction that goes on in the next page is alone in its block. */
static bool scan_crossing(struct tr *t)
{
    struct scpu *c = t->c;
    struct tblock *tb = t->tb;
    struct jinsn *ji = &t->insn[0];
    unsigned have = (unsigned)(MEM_PAGE_SIZE - (tb->va & (MEM_PAGE_SIZE - 1)));
    uint64_t next = tb->va + have;
    const struct itlb_entry *second = soft_canonical(c, next) ? soft_fetch_page(c, next) : NULL;
    if (second == NULL) {
        c->exc.pending = false; /* the interpreter raises it */
        return false;
    }
    tb->page2 = second->page;
    tb->gen2 = block_claim_page(c, second->page, second->host);
    block_mark_lines(second->page, 0, 15);
    uint8_t tail[16];
    block_snapshot(tb->host + have - MEM_PAGE_SIZE, MEM_PAGE_SIZE - have, tb->bytes);
    block_snapshot(second->host, 0, tail);
    for (unsigned i = have; i < 15; i++) {
        tb->bytes[i] = tail[i - have];
    }
    tb->host = tb->bytes;
    __builtin_memset(ji, 0, sizeof(*ji));
    if (soft_decode(tb->bytes, 15, tb->mode, &ji->in, &ji->row) != DECODE_OK ||
        (ji->row != NULL && ji->row->fn == NULL)) {
        return false;
    }
    describe(t, ji);
    ji->gen = ji->gen == gen_sti ? NULL : ji->gen;
    t->n = 1;
    t->next_va = tb->va + ji->in.len;
    return true;
}

void jit_scan(struct tr *t)
{
    uint64_t off = t->tb->va & (MEM_PAGE_SIZE - 1);
    uint8_t bytes[16];
    uint32_t ip = 0;
    t->n = 0;
    while (t->n < JIT_MAX_INSNS && off + ip < MEM_PAGE_SIZE) {
        struct jinsn *ji = &t->insn[t->n];
        __builtin_memset(ji, 0, sizeof(*ji));
        uint64_t avail = MIN(15, MEM_PAGE_SIZE - off - ip);
        block_mark_lines(t->tb->page, off + ip, 15);
        block_snapshot(t->tb->host - off, off + ip, bytes);
        enum decode_result dr = soft_decode(bytes, avail, t->tb->mode, &ji->in, &ji->row);
        if (dr == DECODE_SHORT && t->n == 0 && scan_crossing(t)) {
            return;
        }
        if (dr != DECODE_OK || (ji->row != NULL && ji->row->fn == NULL)) {
            break; /* the interpreter knows what to raise */
        }
        ji->ip = ip;
        ip += ji->in.len;
        describe(t, ji);
        t->n++;
        if (!goes_on(t, ji)) {
            break;
        }
    }
    /* The instruction behind STI has to be in its block. */
    struct jinsn *last = &t->insn[t->n > 0 ? t->n - 1 : 0];
    if (t->n > 1 && last->gen == gen_sti) {
        t->n--;
        ip = last->ip;
    } else if (t->n == 1 && last->gen == gen_sti) {
        last->gen = NULL;
    }
    t->next_va = t->tb->va + ip;
    make_groups(t);
}

bool jit_flags_dead_at(struct tr *t, uint64_t va)
{
    uint64_t page = va & ~(MEM_PAGE_SIZE - 1), off = va & (MEM_PAGE_SIZE - 1);
    if (page != (t->tb->va & ~(MEM_PAGE_SIZE - 1)) || t->tb->page2 != NULL) {
        return false;
    }
    const uint8_t *host = t->tb->host - (t->tb->va & (MEM_PAGE_SIZE - 1));
    uint8_t bytes[16];
    for (unsigned n = 0; n < 4 && off + 15 <= MEM_PAGE_SIZE; n++) {
        struct jinsn ji;
        __builtin_memset(&ji, 0, sizeof(ji));
        block_mark_lines(t->tb->page, off, 15);
        block_snapshot(host, off, bytes);
        if (soft_decode(bytes, 15, t->tb->mode, &ji.in, &ji.row) != DECODE_OK ||
            ji.row == NULL || ji.row->fn == NULL) {
            return false;
        }
        describe(t, &ji);
        if (ji.gen == NULL || ji.in.is_mem || ji.has_access || ji.may_fault || ji.end ||
            (ji.flags & (EF_READ | EF_PART))) {
            return false;
        }
        if (ji.flags & EF_ALL) {
            return true;
        }
        off += ji.in.len;
    }
    return false;
}
