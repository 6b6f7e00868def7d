/*
 * The native executor's front: looks instructions up in the generated table, binds
 * micro-operations to stubs, and runs them. SDM vol. 2 (instructions), vol. 3 section 2.5
 * and 13.1-13.4 (which mode bits make vector instructions fault).
 *
 * Per vCPU, its thread only. Nothing is saved: stubs are made anew. Compiled for general
 * registers only, and calls nothing of libc: the guest's vector state is live in the host's
 * registers.
 *
 * Missing: 3DNow!, XOP and FMA4.
 */
#include "cpu/soft/native_int.h"

#include "cpu/soft/block.h"
#include "cpu/soft/ops.h"

/* ---- lookup ---- */
static const struct native_node *find_node(unsigned enc, unsigned map, unsigned pp,
                                           unsigned opcode)
{
    int page = native_page(enc, map);
    return page < 0 ? &native_nodes[0]
                    : &native_nodes[native_opcodes[page][pp & 3][opcode & 255]];
}

static const struct native_desc *find_form(const struct native_node *node, unsigned mod3,
                                           unsigned reg, unsigned w, unsigned vl, unsigned b)
{
    unsigned i = 0;
    if (node->imm == -1) {
        return &native_descs[0];
    }
    if (node->dims & ND_DIM_MOD3) {
        i = mod3;
    }
    if (node->dims & ND_DIM_REG) {
        i = i * 8 + reg;
    }
    if (node->dims & ND_DIM_W) {
        i = i * 2 + w;
    }
    if (node->dims & ND_DIM_L) {
        i = i * 4 + vl;
    }
    if (node->dims & ND_DIM_B) {
        i = i * 2 + b;
    }
    return &native_descs[native_index[node->first + i]];
}

static bool is_x87(unsigned enc, unsigned map, unsigned opcode)
{
    return enc == ENC_LEGACY && map == MAP_1B &&
           ((opcode >= 0xd8 && opcode <= 0xdf) || opcode == 0x9b);
}

/* x87 memory forms by opcode less D8h and modrm.reg: bytes, or'ed with X_STORE; 0: undefined.
 */
#define X_STORE 0x80
static const uint8_t x87_mem[8][8] = {
    {4, 4, 4, 4, 4, 4, 4, 4},
    {4, 0, 4 | X_STORE, 4 | X_STORE, 28, 2, 28 | X_STORE, 2 | X_STORE},
    {4, 4, 4, 4, 4, 4, 4, 4},
    {4, 4 | X_STORE, 4 | X_STORE, 4 | X_STORE, 0, 10, 0, 10 | X_STORE},
    {8, 8, 8, 8, 8, 8, 8, 8},
    {8, 8 | X_STORE, 8 | X_STORE, 8 | X_STORE, 108, 0, 108 | X_STORE, 2 | X_STORE},
    {2, 2, 2, 2, 2, 2, 2, 2},
    {2, 2 | X_STORE, 2 | X_STORE, 2 | X_STORE, 10, 8, 10 | X_STORE, 8 | X_STORE},
};

static bool x87_describe_reg(const struct insn *in, struct native_desc *d)
{
    unsigned m = in->modrm;
    if ((in->opcode == 0xda && m < 0xe0) || (in->opcode == 0xdb && (m < 0xe0 || m >= 0xe8)) ||
        (in->opcode == 0xdf && m >= 0xe8)) {
        d->flags = ND_FLAGS; /* FCMOV, FCOMI */
    }
    if (in->opcode == 0xdf && m == 0xe0) {
        d->flags = ND_OUT_RAX; /* FNSTSW AX */
    }
    return true; /* the host tells which forms are undefined */
}

static bool x87_describe(const struct insn *in, struct native_desc *d)
{
    *d = (struct native_desc){.feature = NF_FPU, .cls = NC_X87};
    if (in->opcode == 0x9b) {
        d->cls = NC_WAIT;
        return true;
    }
    if (!in->is_mem) {
        return x87_describe_reg(in, d);
    }
    unsigned row = in->opcode & 7u;
    unsigned col = in->modrm >> 3 & 7u;
    uint8_t m = x87_mem[row][col];
    d->mem_len = m & (X_STORE - 1);
    d->flags = m & X_STORE ? ND_MEM_W : ND_MEM_R;
    if (row == 1 && (col == 4 || col == 6)) {
        d->special = col == 4 ? SP_FLDENV : SP_FNSTENV;
    } else if (row == 5 && (col == 4 || col == 6)) {
        d->special = col == 4 ? SP_FRSTOR : SP_FNSAVE;
    }
    return m != 0;
}

/* NULL: not a native instruction. x87_desc: room for a descriptor made on the spot. */
const struct native_desc *native_find(const struct insn *in, struct native_desc *x87_desc)
{
    if (is_x87(in->enc, in->map, in->opcode)) {
        return x87_describe(in, x87_desc) ? x87_desc : NULL;
    }
    const struct native_node *node = find_node(in->enc, in->map, in->pp, in->opcode);
    unsigned w = in->enc == ENC_LEGACY ? in->rex >> 3 & 1u : in->w & 1u;
    unsigned vl = in->enc == ENC_LEGACY ? 0 : in->vl & 3u;
    unsigned b = in->enc == ENC_EVEX ? in->b & 1u : 0;
    const struct native_desc *d = find_form(node, !in->is_mem, in->reg & 7u, w, vl, b);
    return d == &native_descs[0] ? NULL : d;
}

int native_imm_bytes(unsigned enc, unsigned map, unsigned pp, unsigned opcode, unsigned modrm)
{
    if (is_x87(enc, map, opcode)) {
        return 0;
    }
    const struct native_node *node = find_node(enc, map, pp, opcode);
    if (node->imm != -2) {
        return node->imm;
    }
    /* The number depends on the form: only modrm matters in practice (0F 78). */
    const struct native_desc *d =
        find_form(node, (modrm & 0xc0) == 0xc0, modrm >> 3 & 7, 0, 0, 0);
    return d == &native_descs[0] ? -1 : d->imm;
}

unsigned native_disp8_shift(const struct insn *in)
{
    struct native_desc x;
    const struct native_desc *d = native_find(in, &x);
    if (d != NULL && (d->flags & ND_W64) && in->rex == 0) { /* EVEX outside 64-bit mode */
        struct insn narrow;
        native_copy(&narrow, in, sizeof(narrow));
        narrow.w = 0;
        d = native_find(&narrow, &x);
    }
    return d == NULL ? 0 : d->d8_shift;
}

/* ---- handlers of what faults always ---- */
static const struct uop *op_ud(struct scpu *c, const struct uop *op)
{
    soft_raise(c, EXC_UD);
    UOP_EXIT(c, op, INSN_EXC);
}

static const struct uop *op_nm(struct scpu *c, const struct uop *op)
{
    soft_raise(c, EXC_NM);
    UOP_EXIT(c, op, INSN_EXC);
}

/* The vector that an instruction of class cls raises in this mode, or -1. */
static int class_fault(uint32_t mode, enum native_class cls)
{
    bool protected_mode = (mode & MODE_PE) != 0 && (mode & MODE_VM86) == 0;
    switch (cls) {
    case NC_GPR: return -1;
    case NC_VEXGPR: return protected_mode ? -1 : EXC_UD;
    case NC_X87:
    case NC_FXSR: return mode & (MODE_TS | MODE_EM) ? EXC_NM : -1;
    case NC_WAIT: return (mode & MODE_TS) && (mode & MODE_MP) ? EXC_NM : -1;
    case NC_MMX:
        if (mode & MODE_EM) {
            return EXC_UD;
        }
        break;
    case NC_SSE:
        if ((mode & MODE_EM) || !(mode & MODE_OSFXSR)) {
            return EXC_UD;
        }
        break;
    case NC_AVX:
        if (!(mode & MODE_AVX) || !(mode & MODE_OSXSAVE) || !protected_mode) {
            return EXC_UD;
        }
        break;
    case NC_AVX512:
        if (!(mode & MODE_AVX512) || !(mode & MODE_OSXSAVE) || !protected_mode) {
            return EXC_UD;
        }
        break;
    case NC_XSAVE:
        if (!(mode & MODE_OSXSAVE)) {
            return EXC_UD;
        }
        break;
    }
    return mode & MODE_TS ? EXC_NM : -1;
}

/* -1, or the vector that in raises whenever it is executed in this mode. */
static int static_fault(const struct scpu *c, const struct insn *in,
                        const struct native_desc *d)
{
    const struct native_cache *nc = c->native;
    if (in->lock || !nc->has[d->feature] || ((d->flags & ND_VL) && !nc->has[NF_AVX512VL])) {
        return EXC_UD;
    }
    return class_fault(c->mode, (enum native_class)d->cls);
}

/* ---- running stubs ---- */
static const struct uop *op_fake_end(struct scpu *c, const struct uop *op)
{
    (void)c;
#ifdef SOFT_NO_TAIL_CALLS
    (void)op;
    return NULL;
#else
    return op;
#endif
}

bool native_run_stub(struct scpu *c, native_stub_fn *stub, void *mem)
{
    struct native_cache *nc = c->native;
    nc->fake[1].fn = op_fake_end;
    return stub(c, nc->fake, mem) != NULL;
}

/* Where a stub that faulted ends up: called as if by the stub's caller. */
const struct uop *native_fault_entry(struct scpu *c, const struct uop *op)
{
    struct native_cache *nc = c->native;
    uint8_t vector = nc->fault;
    if (vector == EXC_XM && !(c->cr4 & CR4_OSXMMEXCPT)) {
        vector = EXC_UD;
    }
    if (vector == EXC_GP || vector == EXC_SS || vector == EXC_AC) {
        soft_raise_err(c, vector, 0);
    } else {
        soft_raise(c, vector);
    }
    if (op == nc->fake) {
        return NULL;
    }
    UOP_EXIT(c, op, INSN_EXC);
}

void native_x87_resolve(struct scpu *c)
{
    struct native_cache *nc = c->native;
    const struct x87_site *op = c->x87_last.op, *mem = c->x87_last.mem_op;
    if (op != NULL) {
        nc->x87.ip = op->rip;
        nc->x87.op = op->fop;
        nc->x87.cs = c->seg[X86_CS].sel;
    }
    if (mem != NULL) {
        nc->x87.dp = c->x87_last.va - c->seg_base[mem->seg];
        nc->x87.ds = c->seg[mem->seg].sel;
        nc->x87.host_dp = c->x87_last.host;
    }
    c->x87_last.op = c->x87_last.mem_op = NULL;
}

/* What FXSAVE, FNSTENV show of the last x87 instruction. */
static void note_x87(struct scpu *c, const struct native_insn *ni, uint64_t rip, uint64_t va,
                     const void *host)
{
    struct native_x87_ptr *x = &c->native->x87;
    native_x87_resolve(c);
    x->ip = rip;
    x->op = ni->fop;
    x->cs = c->seg[X86_CS].sel;
    if (ni->in.is_mem) {
        x->dp = va - c->seg_base[ni->in.seg];
        x->ds = c->seg[ni->in.seg].sel;
        x->host_dp = (uint64_t)(uintptr_t)host;
    }
}

bool native_x87_error(struct scpu *c)
{
    uint16_t sw;
    soft_enter_fpu(c);
    __asm__ volatile("fnstsw %0" : "=a"(sw));
    return (sw & 0x80) != 0;
}

/* #MF and masked by no mode bit comes before anything about the memory operand. */
static bool x87_error_waits(struct scpu *c, const struct native_insn *ni)
{
    bool waits = ni->x87_pointers || ni->desc.cls == NC_MMX || ni->desc.special == SP_FLDENV ||
                 ni->desc.special == SP_FRSTOR;
    if (!waits && !(ni->in.opcode == 0xd9 && ni->desc.cls == NC_X87 && ni->desc.mem_len == 2 &&
                    (ni->desc.flags & ND_MEM_R))) { /* FLDCW */
        return false;
    }
    return native_x87_error(c);
}

/* The access to va has faulted; but the #GP of a misaligned one comes before that. */
static enum insn_result raise_misaligned(struct scpu *c, const struct native_insn *ni,
                                         uint64_t va)
{
    if (ni->desc.align != 0 && (va & (ni->desc.align - 1u)) != 0) {
        uint32_t mxcsr;
        soft_enter_fpu(c);
        __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
        /* AMD's misaligned SSE mode spares most legacy instructions. */
        if (ni->in.enc != ENC_LEGACY || !(mxcsr & 0x20000)) {
            c->exc.pending = false;
            return (enum insn_result)soft_raise_err(c, EXC_GP, 0);
        }
    }
    return INSN_EXC;
}

static enum insn_result run_on_memory(struct scpu *c, const struct native_insn *ni, uint64_t va)
{
    const struct native_desc *d = &ni->desc;
    bool r = (d->flags & ND_MEM_R) != 0;
    bool w = (d->flags & ND_MEM_W) != 0;
    unsigned len = d->mem_len;
    void *p = NULL;
    if (!(c->mode & MODE_AC)) {
        p = w ? uop_ptr_w(c, va, len) : uop_ptr_r(c, va, len);
    }
    if (p == NULL) {
        if (x87_error_waits(c, ni)) {
            return (enum insn_result)soft_raise(c, EXC_MF);
        }
        /* An unmasked x87 exception keeps a store from happening, a mask keeps elements: the
         * old bytes must be there. */
        bool keeps = w && (d->cls == NC_X87 || (ni->in.enc == ENC_EVEX && ni->in.aaa != 0));
        p = soft_access(c, va, len, r || keeps, w);
        if (p == NULL) {
            return raise_misaligned(c, ni, va);
        }
    }
    if (!native_run_stub(c, ni->stub, p)) {
        return INSN_EXC;
    }
    if (ni->x87_pointers) {
        note_x87(c, ni, c->rip, va, p);
    }
    return soft_must_end(c) ? soft_access_end(c) : INSN_NEXT;
}

/* Everything, with c->rip and c->next_rip set. */
static enum insn_result run_any(struct scpu *c, const struct native_insn *ni)
{
    if (ni->special != NULL) {
        soft_enter_fpu(c);
        return ni->special(c, ni);
    }
    if (ni->in.is_mem && ni->desc.mem_len != 0) {
        uint64_t va;
        bool write = (ni->desc.flags & ND_MEM_W) != 0;
        if (ni->masked) {
            return native_masked_access(c, ni);
        }
        if (soft_operand_linear(c, &ni->in, ni->desc.mem_len, write, &va) != 0) {
            if (x87_error_waits(c, ni)) {
                c->exc.pending = false; /* #MF comes first */
                return (enum insn_result)soft_raise(c, EXC_MF);
            }
            return raise_misaligned(c, ni, soft_ea(c, &ni->in) + c->seg_base[ni->in.seg]);
        }
        return run_on_memory(c, ni, va);
    }
    if (!native_run_stub(c, ni->stub, NULL)) {
        return INSN_EXC;
    }
    if (ni->x87_pointers) {
        note_x87(c, ni, c->rip, 0, NULL);
    }
    return INSN_NEXT;
}

const struct uop *native_op_slow(struct scpu *c, const struct uop *op)
{
    const struct native_insn *ni = (const struct native_insn *)(const void *)op->insn;
    c->rip = uop_rip(c, op);
    c->next_rip = c->rip + op->len;
    if (!(c->mode & MODE_64)) {
        c->next_rip = (uint32_t)c->next_rip;
    }
    enum insn_result r = run_any(c, ni);
    if (likely(r == INSN_NEXT && !c->code_hit && c->pending_db == 0)) {
        c->rip = c->blk->va;
        UOP_NEXT(c, op);
    }
    UOP_EXIT(c, op, r == INSN_NEXT ? INSN_NEXT_FLUSH : r);
}

/* ---- binding ---- */
static bool is_x87_control(const struct insn *in)
{
    if (in->opcode == 0x9b) {
        return true;
    }
    unsigned reg = in->modrm >> 3 & 7u;
    if (in->is_mem) {
        return (in->opcode == 0xd9 && reg >= 4) ||
               (in->opcode == 0xdd && (reg == 4 || reg >= 6));
    }
    return (in->opcode == 0xdb && in->modrm >= 0xe0 && in->modrm <= 0xe7) ||
           (in->opcode == 0xdf && in->modrm == 0xe0);
}

static native_special_fn *special_fn(enum native_special sp)
{
    switch (sp) {
    case SP_NONE: return NULL;
    case SP_GATHER: return native_gather;
    case SP_SCATTER: return native_scatter;
    case SP_MASKLOAD:
    case SP_MASKSTORE: return native_maskmov_vex;
    case SP_MASKMOVQ:
    case SP_MASKMOVDQU: return native_maskmov_bytes;
    case SP_EXPAND: return native_expand;
    case SP_COMPRESS: return native_compress;
    case SP_FXSAVE: return native_fxsave;
    case SP_FXRSTOR: return native_fxrstor;
    case SP_XSAVE:
    case SP_XSAVEOPT:
    case SP_XSAVEC: return native_xsave;
    case SP_XRSTOR: return native_xrstor;
    case SP_MOVDIR64B: return native_movdir64b;
    case SP_FLDENV: return native_fldenv;
    case SP_FNSTENV: return native_fnstenv;
    case SP_FRSTOR: return native_frstor;
    case SP_FNSAVE: return native_fnsave;
    }
    return NULL;
}

#define KEY_MODES (MODE_64 | MODE_CS32)

static uint32_t hash_insn(const struct insn *in, uint32_t mode)
{
    uint32_t h = 2166136261u ^ (mode & KEY_MODES);
    for (unsigned i = 0; i < in->len; i++) {
        h = (h ^ in->bytes[i]) * 16777619u;
    }
    return (h ^ h >> 15) % NATIVE_HASH;
}

static bool same_insn(const struct native_insn *ni, const struct insn *in, uint32_t mode)
{
    if (ni->mode != (mode & KEY_MODES) || ni->in.len != in->len) {
        return false;
    }
    for (unsigned i = 0; i < in->len; i++) {
        if (ni->in.bytes[i] != in->bytes[i]) {
            return false;
        }
    }
    return true;
}

/* Bits that are ignored outside 64-bit mode. */
static void legacy_mode_fields(struct insn *in)
{
    in->rex = 0;
    in->reg &= 7;
    in->rm &= 7;
    in->vvvv &= in->enc == ENC_EVEX ? 0x17 : 7;
    if (in->enc == ENC_VEX && in->map == MAP_0F3A && in->imm_len != 0) {
        /* A register in the immediate has three bits; others of VEX map 3 use fewer than eight
         * or are 64-bit only, except RORX and permutations: told apart by opcode. */
        if (in->opcode >= 0x4a && in->opcode <= 0x4c) {
            in->bytes[in->imm_pos] &= 0x7f;
        }
    }
}

static void fill(struct scpu *c, struct native_insn *ni, const struct native_desc *d)
{
    struct insn *in = &ni->in;
    ni->desc = *d;
    ni->mode = c->mode & KEY_MODES;
    ni->special = special_fn((enum native_special)d->special);
    ni->needs_fpu = d->cls != NC_GPR && d->cls != NC_VEXGPR;
    if (in->is_mem && (d->flags & ND_MEM_OSIZE)) {
        ni->desc.mem_len = in->osize;
    }
    ni->x87_pointers = d->cls == NC_X87 && !is_x87_control(in);
    ni->fop = (uint16_t)((in->opcode & 7u) << 8 | in->modrm);
    ni->masked = in->enc == ENC_EVEX && in->is_mem && in->aaa != 0 && ni->special == NULL &&
                 !(d->flags & ND_NF);
    if ((ni->special == native_expand || ni->special == native_compress) && !in->is_mem) {
        ni->special = NULL;
    }
    bool mem = in->is_mem && ni->desc.mem_len != 0;
    ni->fast_front = ni->special == NULL && !ni->x87_pointers &&
                     (c->mode & MODE_64 ? !mem || in->asize == 8 : !mem);
}

/* NULL: full. */
static struct native_insn *intern(struct scpu *c, const struct insn *in,
                                  const struct native_desc *d)
{
    struct native_cache *nc = c->native;
    uint32_t h = hash_insn(in, c->mode);
    for (uint32_t i = nc->insn_hash[h]; i != 0; i = nc->insns[i - 1].hash_next) {
        if (same_insn(&nc->insns[i - 1], in, c->mode)) {
            return &nc->insns[i - 1];
        }
    }
    if (nc->n_insns == NATIVE_MAX_INSNS) {
        return NULL;
    }
    struct native_insn *ni = &nc->insns[nc->n_insns];
    native_copy(&ni->in, in, sizeof(*in));
    fill(c, ni, d);
    ni->stub = NULL;
    if (ni->special == NULL || ni->desc.special == SP_EXPAND ||
        ni->desc.special == SP_COMPRESS || ni->desc.special == SP_MASKLOAD ||
        ni->desc.special == SP_MASKSTORE) {
        if (!native_stub_make(nc, ni)) {
            return NULL;
        }
        c->stats.native_stubs++;
    }
    ni->hash_next = nc->insn_hash[h];
    nc->insn_hash[h] = ++nc->n_insns;
    return ni;
}

/* *ret_fault is -1, or a vector that is always raised; *ret_ni is set if it is -1. */
static enum native_result prepare(struct scpu *c, const struct insn *in, int *ret_fault,
                                  struct native_insn **ret_ni)
{
    struct native_desc x87;
    const struct native_desc *d = native_find(in, &x87);
    struct insn narrow;
    if (d == NULL) {
        return NATIVE_UNKNOWN;
    }
    bool bit_count = in->enc == ENC_LEGACY && in->map == MAP_0F &&
                     (in->opcode == 0xbc || in->opcode == 0xbd); /* TZCNT, LZCNT */
    if (bit_count && !c->native->has[d->feature]) {
        return NATIVE_UNKNOWN;
    }
    *ret_fault = static_fault(c, in, d);
    if (*ret_fault >= 0) {
        return NATIVE_OK;
    }
    if (!(c->mode & MODE_64)) {
        native_copy(&narrow, in, sizeof(narrow));
        legacy_mode_fields(&narrow);
        if (in->enc != ENC_LEGACY && (d->flags & ND_W64)) {
            if (c->vm->model->is_amd && in->enc == ENC_VEX && in->map == MAP_0F3A &&
                (in->opcode == 0x16 || in->opcode == 0x22)) {
                *ret_fault = EXC_UD; /* VPINSRQ, VPEXTRQ: ignored by Intel, not by AMD */
                return NATIVE_OK;
            }
            narrow.w = 0;
            d = native_find(&narrow, &x87);
            if (d == NULL) {
                *ret_fault = EXC_UD;
                return NATIVE_OK;
            }
        }
        in = &narrow;
    }
    *ret_ni = intern(c, in, d);
    return *ret_ni == NULL ? NATIVE_FULL : NATIVE_OK;
}

/* Whether op's fields say what the memory operand is: its disp is too short for a few. */
static bool op_has_operand(const struct insn *in, const struct uop *op)
{
    int64_t diff = op->disp - in->disp;
    return in->rip_rel ? diff >= 0 && diff <= (int64_t)MEM_PAGE_SIZE : diff == 0;
}

static uop_fn *choose_handler(const struct scpu *c, const struct native_insn *ni,
                              const struct uop *op)
{
    if (ni->special != NULL || !ni->fast_front || (c->mode & MODE_AC) ||
        (ni->in.is_mem && ni->desc.mem_len != 0 && !op_has_operand(&ni->in, op))) {
        return native_op_slow;
    }
    return (uop_fn *)(uintptr_t)ni->fast;
}

enum native_result native_bind(struct scpu *c, const struct insn *in, struct uop *op)
{
    int fault = -1;
    struct native_insn *ni = NULL;
    enum native_result r = prepare(c, in, &fault, &ni);
    if (r != NATIVE_OK) {
        return r;
    }
    if (fault >= 0) {
        op->fn = fault == EXC_NM ? op_nm : op_ud;
        return NATIVE_OK;
    }
    op->insn = &ni->in;
    op->fn = choose_handler(c, ni, op);
    return NATIVE_OK;
}

/* ---- for the translator ---- */
enum insn_result native_run(struct scpu *c, const struct insn *in)
{
    int fault = -1;
    struct native_insn *ni = NULL;
    enum native_result r = prepare(c, in, &fault, &ni);
    if (r == NATIVE_FULL) {
        code_cache_flush(c);
        r = prepare(c, in, &fault, &ni);
    }
    if (r == NATIVE_UNKNOWN) { /* TZCNT and LZCNT where the guest lacks them */
        bool scan = in->enc == ENC_LEGACY && in->map == MAP_0F && (in->opcode & 0xfe) == 0xbc;
        return scan ? soft_op_bsf_bsr(c, in) : (enum insn_result)soft_raise(c, EXC_UD);
    }
    if (fault >= 0) {
        return (enum insn_result)soft_raise(c, (uint8_t)fault);
    }
    return run_any(c, ni);
}

bool native_plan(struct scpu *c, const struct insn *in, struct native_desc *ret_desc)
{
    const struct native_desc *d = native_find(in, ret_desc);
    if (d == NULL || d->special != SP_NONE || d->cls == NC_WAIT ||
        !c->native->has[d->feature] || static_fault(c, in, d) >= 0 ||
        (in->enc == ENC_EVEX && in->is_mem && in->aaa != 0 && !(d->flags & ND_NF))) {
        return false;
    }
    if (d != ret_desc) {
        *ret_desc = *d;
    }
    if (in->is_mem && (d->flags & ND_MEM_OSIZE)) {
        ret_desc->mem_len = in->osize;
    }
    return !in->is_mem || d->mem_len == 0 || in->asize == 8;
}

bool native_x87_keeps_pointers(const struct insn *in)
{
    return is_x87_control(in);
}
