/*
 * Makes programs: items and operands, and instructions by form. The forms come from the
 * generator of tests/difftest; here they get operands that mostly point into the program's
 * pages, and what would break the program's frame (branches, writes to the loop counter, to
 * RSP by name) is left out. For the same seed, host and version the program is the same.
 */
#include "gen.h"

#include "../difftest/forms.h"
#include "base/ckd.h"

#include <stdlib.h>
#include <string.h>

const char *const bt_class_names[BT_N_CLASSES] = {"int",    "memop", "flag", "stack", "lock",
                                                  "string", "sse",   "x87",  "vex",   "evex",
                                                  "xsave",  "smc",   "page", "sys",   "fault"};

static struct dt_gen *forms;
static unsigned *bucket[BT_N_CLASSES], n_bucket[BT_N_CLASSES];

uint64_t bg_rnd(struct bt_gen *g)
{
    return dt_random(&g->rng);
}

unsigned bg_below(struct bt_gen *g, unsigned n)
{
    return (unsigned)(bg_rnd(g) >> 32) % n;
}

bool bg_chance(struct bt_gen *g, unsigned percent)
{
    return bg_below(g, 100) < percent;
}

/* ---- items ---- */

struct bt_item *bg_item(struct bt_gen *g, const uint8_t *b, unsigned n)
{
    struct bt_program *p = g->p;
    static struct bt_item spare;
    struct bt_item *it = &spare;
    if (p->n_items < BT_MAX_ITEMS) {
        it = &p->items[p->n_items++];
    }
    *it = (struct bt_item){.label = -1, .item = -1};
    memcpy(it->bytes, b, n);
    it->full_len = it->len = (uint8_t)n;
    it->cls = g->cls;
    it->group = g->group;
    g->bytes += n;
    return it;
}

struct bt_item *bg_numbers(struct bt_gen *g, const unsigned *b, unsigned n)
{
    uint8_t all[16] = {0};
    for (unsigned i = 0; i < n; i++) {
        all[i] = (uint8_t)b[i];
    }
    return bg_item(g, all, n);
}

struct bt_item *bg_numbers32(struct bt_gen *g, uint32_t v, const unsigned *b, unsigned n)
{
    uint8_t all[16] = {0};
    for (unsigned i = 0; i < n; i++) {
        all[i] = (uint8_t)b[i];
    }
    memcpy(all + n, &v, 4);
    return bg_item(g, all, n + 4);
}

int16_t bg_label(struct bt_gen *g)
{
    unsigned l = MIN(g->p->n_labels, BT_MAX_LABELS - 1u);
    g->p->n_labels = l + 1;
    g->p->labels[l] = -1;
    return (int16_t)l;
}

void bg_bind(struct bt_gen *g, int16_t label)
{
    g->p->labels[label] = (int16_t)g->p->n_items;
    g->known &= g->reserved;
}

struct bt_item *bg_branch(struct bt_gen *g, unsigned cond, int16_t label)
{
    struct bt_item *it = BG(g, 0, 0, 0, 0, 0, 0);
    it->fix = FIX_BRANCH;
    it->cond = (uint8_t)cond;
    it->label = label;
    it->cls = BT_FLOW;
    it->grown = bg_chance(g, 15);
    return it;
}

struct bt_item *bg_jump(struct bt_gen *g, int16_t label)
{
    return bg_branch(g, 16, label);
}

void bg_group(struct bt_gen *g)
{
    g->group = ++g->groups;
}

void bg_ungroup(struct bt_gen *g)
{
    g->group = 0;
}

/* ---- operands ---- */

unsigned bg_reg(struct bt_gen *g)
{
    return bg_below(g, 16);
}

unsigned bg_dst(struct bt_gen *g)
{
    for (;;) {
        unsigned r = bg_below(g, 16);
        if (!(g->reserved >> r & 1)) {
            return r;
        }
    }
}

void bg_wrote(struct bt_gen *g, unsigned reg)
{
    g->known &= ~(1u << reg);
}

uint64_t bg_target(struct bt_gen *g)
{
    uint64_t data = g->p->base + BT_VA_DATA;
    unsigned r = bg_below(g, 100);
    if (r < 50) {
        return data + bg_below(g, 3 * 4096 - 512) / 64 * 64;
    }
    if (r < 76) {
        return data + bg_below(g, 3 * 4096 - 64);
    }
    if (r < 88) {
        return data + 4096 * (1 + bg_below(g, 2)) - bg_below(g, 40);
    }
    if (r < 98) {
        return data + 4096 * bg_below(g, BT_DATA_VA_N) + bg_below(g, 4096) / 16 * 16;
    }
    return data + 4096 * bg_below(g, BT_DATA_VA_N) + bg_below(g, 4096);
}

uint64_t bg_stack(struct bt_gen *g)
{
    return g->p->base + BT_VA_STACK + 0x1800 + bg_below(g, 0x400) - 0x200;
}

void bg_mov(struct bt_gen *g, unsigned reg, uint64_t v)
{
    uint8_t b[10];
    unsigned n = 0;
    bool small = v <= UINT32_MAX, sign = (uint64_t)(int64_t)(int32_t)v == v;
    if (small && (reg > 7 || bg_chance(g, 95))) {
        if (reg > 7) {
            b[n++] = 0x41;
        }
        b[n++] = (uint8_t)(0xb8 | (reg & 7));
    } else {
        b[n++] = (uint8_t)(0x48 | reg >> 3);
        if (sign && bg_chance(g, 80)) {
            b[n++] = 0xc7;
            b[n++] = (uint8_t)(0xc0 | (reg & 7));
            small = true;
        } else {
            b[n++] = (uint8_t)(0xb8 | (reg & 7));
            small = false;
        }
    }
    unsigned imm = small ? 4 : 8;
    memcpy(b + n, &v, imm);
    struct bt_item *it = bg_item(g, b, n + imm);
    it->patch = PATCH_IMM;
    it->patch_at = (uint8_t)n;
    if (reg != 4) {
        g->known |= 1u << reg;
        g->value[reg] = v;
    }
}

static bool in_data(const struct bt_gen *g, uint64_t va)
{
    return va - (g->p->base + BT_VA_DATA) < BT_DATA_VA_N * 4096;
}

unsigned bg_base(struct bt_gen *g, int32_t *ret_disp)
{
    unsigned found[16], n = 0;
    for (unsigned r = 0; r < 16; r++) {
        if ((g->known >> r & 1) && in_data(g, g->value[r])) {
            found[n++] = r;
        }
    }
    if (n == 0 || bg_chance(g, 12)) {
        unsigned r = bg_dst(g);
        uint64_t t = bg_target(g);
        *ret_disp = bg_chance(g, 40) ? 0 : (int32_t)bg_below(g, 200) - 100;
        bg_mov(g, r, t - (uint64_t)(int64_t)*ret_disp);
        return r;
    }
    unsigned r = found[bg_below(g, n)];
    *ret_disp = bg_chance(g, 20)   ? 0
                : bg_chance(g, 85) ? (int32_t)bg_below(g, 32) * 8 - 64
                                   : (int32_t)bg_below(g, 3000) - 1000;
    return r;
}

/* modrm (and SIB, displacement) of [base + disp], base by all four bits. */
static unsigned put_modrm(struct bt_gen *g, uint8_t *b, unsigned reg, unsigned base,
                          int32_t disp)
{
    unsigned n = 0, mod = 2;
    if (disp == 0 && (base & 7) != 5) {
        mod = 0;
    } else if (disp >= -128 && disp <= 127 && bg_chance(g, 90)) {
        mod = 1;
    }
    b[n++] = (uint8_t)(mod << 6 | (reg & 7) << 3 | ((base & 7) == 4 ? 4 : base & 7));
    if ((base & 7) == 4) {
        b[n++] = 0x24;
    }
    if (mod == 1) {
        b[n++] = (uint8_t)disp;
    } else if (mod == 2) {
        memcpy(b + n, &disp, 4);
        n += 4;
    }
    return n;
}

struct bt_item *bg_mem(struct bt_gen *g, uint8_t prefix, bool w, const uint8_t *op,
                       unsigned n_op, unsigned reg, const uint8_t *imm, unsigned n_imm)
{
    uint8_t b[24];
    unsigned n = 0, how = bg_below(g, 10), base = 5;
    int32_t disp = 0;
    if (how >= 3) {
        base = bg_base(g, &disp);
    } else if (how == 2) {
        base = 4;
        disp = (int32_t)bg_below(g, 32) * 8 - 128;
    }
    uint8_t rex = (uint8_t)((w ? 8 : 0) | (reg & 8) >> 1 | (how >= 2 ? base >> 3 : 0));
    if (prefix != 0) {
        b[n++] = prefix;
    }
    if (rex != 0 || bg_chance(g, 5)) {
        b[n++] = 0x40 | rex;
    }
    memcpy(b + n, op, n_op);
    n += n_op;
    unsigned at = n + 1;
    if (how >= 2) {
        n += put_modrm(g, b + n, reg, base, disp);
    } else if (how == 1) { /* RIP-relative */
        b[n] = (uint8_t)((reg & 7) << 3 | 5);
        n += 5;
    } else {
        int32_t t = (int32_t)bg_target(g);
        b[n++] = (uint8_t)((reg & 7) << 3 | 4);
        b[n++] = 0x25;
        memcpy(b + n, &t, 4);
        n += 4;
    }
    memcpy(b + n, imm, n_imm);
    n += n_imm;
    struct bt_item *it = bg_item(g, b, n);
    if (how == 1) {
        it->fix = FIX_RIP;
        it->fix_at = (uint8_t)at;
        it->abs = bg_target(g);
    }
    if (n_imm != 0) {
        it->patch = PATCH_IMM;
        it->patch_at = (uint8_t)(n - n_imm);
    }
    return it;
}

struct bt_item *bg_rr(struct bt_gen *g, uint8_t prefix, bool w, const uint8_t *op,
                      unsigned n_op, unsigned reg, unsigned rm)
{
    uint8_t b[16];
    unsigned n = 0;
    uint8_t rex = (uint8_t)((w ? 8 : 0) | (reg & 8) >> 1 | rm >> 3);
    if (prefix != 0) {
        b[n++] = prefix;
    }
    if (rex != 0 || bg_chance(g, 20)) {
        b[n++] = 0x40 | rex;
    }
    memcpy(b + n, op, n_op);
    n += n_op;
    b[n++] = (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7));
    return bg_item(g, b, n);
}

/* ---- instructions by form ---- */

static bool is_gpr(ZydisRegister r)
{
    ZydisRegisterClass c = ZydisRegisterGetClass(r);
    return c == ZYDIS_REGCLASS_GPR8 || c == ZYDIS_REGCLASS_GPR16 || c == ZYDIS_REGCLASS_GPR32 ||
           c == ZYDIS_REGCLASS_GPR64;
}

static unsigned gpr_id(ZydisRegister r)
{
    if (!is_gpr(r)) {
        return RNONE;
    }
    r = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);
    return (unsigned)ZydisRegisterGetId(r);
}

/* Registers that it writes; false: one of them is not to be. */
static bool writes(const struct bt_gen *g, const ZydisDecodedInstruction *in,
                   const ZydisDecodedOperand *ops, uint32_t *ret_mask)
{
    uint32_t mask = 0;
    for (unsigned i = 0; i < in->operand_count; i++) {
        const ZydisDecodedOperand *o = &ops[i];
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER ||
            !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) || !is_gpr(o->reg.value)) {
            continue;
        }
        unsigned r = gpr_id(o->reg.value);
        if ((g->reserved >> r & 1) &&
            !(r == 4 && o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)) {
            return false;
        }
        mask |= 1u << r;
    }
    *ret_mask = mask;
    return true;
}

static bool privileged(ZydisMnemonic m)
{
    switch ((int)m) {
    case ZYDIS_MNEMONIC_HLT:
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_CLTS:
    case ZYDIS_MNEMONIC_INVD:
    case ZYDIS_MNEMONIC_WBINVD:
    case ZYDIS_MNEMONIC_RDMSR:
    case ZYDIS_MNEMONIC_WRMSR:
    case ZYDIS_MNEMONIC_RSM:
    case ZYDIS_MNEMONIC_IN:
    case ZYDIS_MNEMONIC_OUT:
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_INSD:
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_OUTSD:
    case ZYDIS_MNEMONIC_GETSEC: return true;
    default: return false;
    }
}

/* Stores, or loads, the x87 control state. */
static bool stores_image(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_FXSAVE || m == ZYDIS_MNEMONIC_FXSAVE64;
}

/* What these store depends on when the engine put the state aside and took it back: XSAVE tells
 * which components are in use; AMD's CPUs forget the last x87 instruction then. */
static bool shows_parking(ZydisMnemonic m)
{
    switch ((int)m) {
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64: return true;
    default: return false;
    }
}

static bool loads_image(ZydisMnemonic m)
{
    switch ((int)m) {
    case ZYDIS_MNEMONIC_FLDCW:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64: return true;
    default: return false;
    }
}

/* What few CPUs have or all refuse: a few forms of it are enough. */
static bool rare(const ZydisDecodedInstruction *in)
{
    static const char *const sets[] = {
        "FMA4",        "XOP",      "TBM",     "AMX",      "VTX",       "SVM",
        "SGX",         "TDX",      "KEYLOCK", "AVX512ER", "AVX512PF",  "AVX512_4",
        "KNC",         "CET",      "MPX",     "RTM",      "PREFETCHW", "PREFETCH_NOP",
        "AVX512_FP16", "AVX_VNNI", "SMX",     "HRESET",   "UINTR",     "ENQCMD",
        "LWP",         "3DNOW",    "PADLOCK", "CYRIX",    "KNC"};
    const char *set = ZydisISASetGetString(in->meta.isa_set);
    for (unsigned i = 0; set != NULL && i < ARRAY_LEN(sets); i++) {
        if (strncmp(set, sets[i], strlen(sets[i])) == 0) {
            return true;
        }
    }
    switch ((int)in->mnemonic) {
    case ZYDIS_MNEMONIC_FEMMS:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2: return true;
    default: return false;
    }
}

static bool has_class(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops,
                      bool vector)
{
    for (unsigned i = 0; i < in->operand_count; i++) {
        if (ops[i].type != ZYDIS_OPERAND_TYPE_REGISTER) {
            continue;
        }
        switch ((int)ZydisRegisterGetClass(ops[i].reg.value)) {
        case ZYDIS_REGCLASS_MMX:
        case ZYDIS_REGCLASS_XMM:
        case ZYDIS_REGCLASS_YMM:
        case ZYDIS_REGCLASS_ZMM:
        case ZYDIS_REGCLASS_MASK:
            if (vector) {
                return true;
            }
            break;
        case ZYDIS_REGCLASS_CONTROL:
        case ZYDIS_REGCLASS_DEBUG:
        case ZYDIS_REGCLASS_TEST:
            if (!vector) {
                return true;
            }
            break;
        default: break;
        }
    }
    return false;
}

/* The class of a form, BT_N_CLASSES: not made by form. */
static unsigned classify(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops)
{
    if (in->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE || shows_parking(in->mnemonic) ||
        in->mnemonic == ZYDIS_MNEMONIC_SWAPGS ||
        (in->mnemonic == ZYDIS_MNEMONIC_PAUSE && in->raw.rex.B)) { /* XCHG r8, rax really */
        return BT_N_CLASSES;
    }
    if (privileged(in->mnemonic) || has_class(in, ops, false)) {
        return BT_FAULT;
    }
    if (in->meta.category == ZYDIS_CATEGORY_XSAVE ||
        in->meta.category == ZYDIS_CATEGORY_XSAVEOPT || in->mnemonic == ZYDIS_MNEMONIC_FXSAVE ||
        in->mnemonic == ZYDIS_MNEMONIC_FXSAVE64 || in->mnemonic == ZYDIS_MNEMONIC_FXRSTOR ||
        in->mnemonic == ZYDIS_MNEMONIC_FXRSTOR64) {
        return BT_XSAVE;
    }
    bool map0 = in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
    if (map0 && in->opcode >= 0xd8 && in->opcode <= 0xdf) {
        return BT_X87;
    }
    if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
        return BT_EVEX;
    }
    if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        return has_class(in, ops, true) ? BT_VEX : BT_INT;
    }
    if (in->mnemonic == ZYDIS_MNEMONIC_LDMXCSR || has_class(in, ops, true)) {
        return BT_SSE;
    }
    if (map0 && ((in->opcode >= 0xa4 && in->opcode <= 0xa7) ||
                 (in->opcode >= 0xaa && in->opcode <= 0xaf))) {
        return BT_STRING;
    }
    for (unsigned i = 0; i < in->operand_count; i++) {
        if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ops[i].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
            gpr_id(ops[i].reg.value) == 4) {
            return BT_STACK;
        }
    }
    return BT_INT;
}

static bool odd_prefix(const ZydisDecodedInstruction *in)
{
    for (unsigned i = 0; i < in->raw.prefix_count; i++) {
        uint8_t v = in->raw.prefixes[i].value;
        if ((v == 0xf2 || v == 0xf3) &&
            in->raw.prefixes[i].type != ZYDIS_PREFIX_TYPE_MANDATORY) {
            return true;
        }
    }
    return false;
}

static void sort_form(unsigned f)
{
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    uint8_t code[16];
    for (unsigned i = 0; i < 6; i++) {
        if (!dt_gen_encode(forms, f, code, &in, ops)) {
            continue;
        }
        unsigned c = classify(&in, ops);
        bool odd = odd_prefix(&in) && c != BT_STRING;
        /* BMI: few forms, and three operands. */
        unsigned times = c == BT_INT && in.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? 4 : 1;
        if (c == BT_N_CLASSES || (odd && f % 8 != 0) || (rare(&in) && f % 32 != 0)) {
            times = 0;
        }
        for (; times > 0; times--) {
            bucket[c][n_bucket[c]++] = f;
        }
        return;
    }
}

bool bt_gen_init(void)
{
    forms = dt_gen_new(1, false);
    if (forms == NULL) {
        return false;
    }
    for (unsigned c = 0; c < BT_N_CLASSES; c++) {
        bucket[c] = calloc(4 * dt_gen_forms(forms), sizeof(unsigned));
        if (bucket[c] == NULL) {
            return false;
        }
    }
    for (unsigned f = 0; f < dt_gen_forms(forms); f++) {
        sort_form(f);
    }
    return true;
}

void bt_gen_done(void)
{
    for (unsigned c = 0; c < BT_N_CLASSES; c++) {
        free(bucket[c]);
    }
    dt_gen_free(forms);
}

struct insn {
    uint8_t code[16];
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    bool rip; /* RIP-relative, to target */
    uint64_t target;
};

static void set_disp(struct insn *k, int64_t disp)
{
    for (unsigned i = 0; i < k->in.raw.disp.size / 8u; i++) {
        k->code[k->in.raw.disp.offset + i] = (uint8_t)(disp >> (8 * i));
    }
}

static uint64_t segment_base(const struct bt_gen *g, ZydisRegister s)
{
    return s == ZYDIS_REGISTER_FS   ? g->p->init.seg[X86_FS].base
           : s == ZYDIS_REGISTER_GS ? g->p->init.seg[X86_GS].base
                                    : 0;
}

static bool is_free(const struct bt_gen *g, unsigned r)
{
    return !(g->reserved >> r & 1);
}

static bool wants_alignment(const struct insn *k, const ZydisDecodedOperand *o)
{
    return k->in.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && o->size == 128;
}

/* [base + disp] with base that is known, or reserved: the displacement is what can change. */
static bool aim_known(struct bt_gen *g, struct insn *k, const ZydisDecodedOperand *o,
                      unsigned base, bool *ret_done)
{
    bool disp32 = k->in.raw.disp.size == 32;
    *ret_done = true;
    if (base != 4 && (g->known >> base & 1) && in_data(g, g->value[base]) &&
        wants_alignment(k, o) && k->in.raw.disp.size != 0 && bg_chance(g, 90)) {
        set_disp(k, (int64_t)(-g->value[base] & 15) + 16 * ((int64_t)bg_below(g, 6) - 2));
        return true;
    }
    if (base == 4) {
        set_disp(k, disp32 ? (int64_t)bg_below(g, 1024) - 512 : (int64_t)bg_below(g, 128));
        return true;
    }
    if ((g->known >> base & 1) && in_data(g, g->value[base]) &&
        (!is_free(g, base) || bg_chance(g, 60))) {
        if (disp32) {
            set_disp(k, bg_chance(g, 50) ? (int64_t)(bg_target(g) - g->value[base])
                                         : (int64_t)bg_below(g, 64) * 8);
        }
        return true;
    }
    *ret_done = false;
    return is_free(g, base);
}

static bool aim(struct bt_gen *g, struct insn *k, const ZydisDecodedOperand *o)
{
    bool has_disp = k->in.raw.disp.size != 0;
    uint64_t t = bg_target(g) - segment_base(g, o->mem.segment);
    if (wants_alignment(k, o) && bg_chance(g, 90)) {
        t &= ~UINT64_C(15);
    }
    if (o->size > 512) {
        t = g->p->base + BT_VA_DATA + bg_below(g, 2) * 64;
    }
    int64_t disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
    unsigned base = gpr_id(o->mem.base), index = gpr_id(o->mem.index);
    bool vsib = o->mem.type == ZYDIS_MEMOP_TYPE_VSIB, done;
    if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP) {
        k->rip = true;
        k->target = t;
        return true;
    }
    if (index != RNONE && !is_free(g, index)) {
        return false;
    }
    if (base == RNONE && index == RNONE) {
        set_disp(k, (int64_t)t);
        return true;
    }
    if (base == RNONE) {
        bg_mov(g, index, (t - (uint64_t)disp) / o->mem.scale);
        return true;
    }
    if (index == RNONE && !vsib) {
        if (!aim_known(g, k, o, base, &done)) {
            return false;
        }
        if (done && (base != 4 || has_disp)) {
            return true;
        }
        if (base != 4) {
            bg_mov(g, base, t - (uint64_t)disp);
        }
        return true;
    }
    if (!is_free(g, base) && base != 4) {
        return false;
    }
    if (vsib) {
        if (base != 4) {
            bg_mov(g, base, t - (uint64_t)disp);
        }
        return base != 4;
    }
    if (base == index) {
        bg_mov(g, base, (t - (uint64_t)disp) / (o->mem.scale + 1u));
        return true;
    }
    uint64_t i = bg_chance(g, 80) ? bg_below(g, 64) : (uint64_t) - (int64_t)bg_below(g, 64);
    bg_mov(g, index, i);
    if (base != 4) {
        bg_mov(g, base, t - (uint64_t)disp - i * o->mem.scale);
    }
    return true;
}

/* VPXOR of the index register, so that a gather finds memory. */
static void clear_index(struct bt_gen *g, const ZydisDecodedOperand *o)
{
    unsigned r = (unsigned)ZydisRegisterGetId(o->mem.index);
    if (r < 16 && bg_chance(g, 80)) {
        BG(g, 0xc4, r & 8 ? 0x41 : 0xe1, 0x05 | (~r & 15) << 3, 0xef,
           0xc0 | (r & 7) << 3 | (r & 7));
    }
}

/* Registers that decide how far it reaches or whether it faults. */
static void tame(struct bt_gen *g, const struct insn *k)
{
    const ZydisDecodedInstruction *in = &k->in;
    bool rep = (in->attributes &
                (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) != 0;
    if (rep && is_free(g, 1) && bg_chance(g, 92)) {
        bg_mov(g, 1, bg_below(g, bg_chance(g, 80) ? 20 : 300));
    }
    switch ((int)in->mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC: {
        unsigned r = gpr_id(k->ops[1].reg.value);
        bool memory = k->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
        if (memory && k->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER && is_free(g, r) &&
            r != gpr_id(k->ops[0].mem.base) && r != gpr_id(k->ops[0].mem.index)) {
            bg_mov(g, r, (uint64_t)(int64_t)((int)bg_below(g, 2000) - 500));
        }
        break;
    }
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        if (is_free(g, 2) && bg_chance(g, 75) && gpr_id(k->ops[0].mem.base) != 2 &&
            gpr_id(k->ops[0].mem.index) != 2) {
            bg_mov(g, 2, 0);
        }
        break;
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        if (is_free(g, 0) && is_free(g, 2) && gpr_id(k->ops[0].mem.base) != 0 &&
            gpr_id(k->ops[0].mem.base) != 2) {
            bg_mov(g, 0, bg_rnd(g) & dt_xcr0);
            bg_mov(g, 2, 0);
        }
        break;
    default: break;
    }
}

/* Aims every memory operand. The items that were added stay even when it says no. */
static bool aim_all(struct bt_gen *g, struct insn *k)
{
    for (unsigned i = 0; i < k->in.operand_count; i++) {
        const ZydisDecodedOperand *o = &k->ops[i];
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.type == ZYDIS_MEMOP_TYPE_AGEN) {
            continue;
        }
        if (o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && gpr_id(o->mem.base) == 4) {
            continue;
        }
        if (o->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
            clear_index(g, o);
        }
        if (!aim(g, k, o)) {
            return false;
        }
    }
    return true;
}

/* CMP of a reserved register must not become an ADD to it. */
static bool names_reserved(const struct bt_gen *g, const struct insn *k)
{
    for (unsigned i = 0; i < k->in.operand_count; i++) {
        unsigned r =
            k->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr_id(k->ops[i].reg.value) : RNONE;
        if (r != RNONE && !is_free(g, r)) {
            return true;
        }
    }
    return false;
}

static void mark_patch(const struct bt_gen *g, struct bt_item *it, const struct insn *k)
{
    const ZydisDecodedInstruction *in = &k->in;
    bool legacy = in->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
    unsigned op = in->raw.modrm.offset != 0 ? in->raw.modrm.offset - 1u : 0;
    if (in->raw.imm[0].size != 0) {
        it->patch = PATCH_IMM;
        it->patch_at = in->raw.imm[0].offset;
    } else if (legacy && in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && in->opcode < 0x40 &&
               (in->opcode & 7) < 4 && op != 0 && !names_reserved(g, k)) {
        it->patch = PATCH_ALU;
        it->patch_at = (uint8_t)op;
    } else if (legacy && in->opcode_map == ZYDIS_OPCODE_MAP_0F &&
               (in->opcode >> 4 == 4 || in->opcode >> 4 == 9) && op != 0) {
        it->patch = PATCH_CC;
        it->patch_at = (uint8_t)op;
    }
}

#define FLAG_AF 0x10u
#define FLAG_OF 0x800u

void bg_define_flags(struct bt_gen *g, uint32_t mask)
{
    unsigned r = bg_below(g, 16);
    struct bt_item *it = &g->p->items[g->p->n_items - 1];
    if (mask == 0 || g->p->n_items == 0) {
        return;
    }
    bool own = it->group == 0;
    if (own) {
        bg_group(g);
        it->group = g->group;
    }
    if (!(g->reserved & 1) && bg_chance(g, 60)) {
        BG(g, 0x9f); /* LAHF */
        if (!(mask & FLAG_OF)) {
            BG(g, 0x0f, 0x90, 0xc0); /* SETO al */
        }
        BG(g, 0x80, 0xe4, ~mask & 0xff); /* AND ah */
        if (!(mask & FLAG_OF)) {
            BG(g, 0x04, 0x7f);
        }
        BG(g, 0x9e); /* SAHF */
        bg_wrote(g, 0);
    } else {
        BG(g, 0x48 | r >> 3 << 2 | r >> 3, 0x85, 0xc0 | (r & 7) << 3 | (r & 7));
    }
    if (own) {
        bg_ungroup(g);
    }
}

/* Logic leaves AF undefined by the manual only: every CPU clears it. */
static uint32_t undefined_flags(const ZydisDecodedInstruction *in)
{
    uint32_t mask = in->cpu_flags != NULL ? in->cpu_flags->undefined & 0x8d5 : 0;
    switch ((int)in->mnemonic) {
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_TEST: return mask & ~FLAG_AF;
    default: return mask;
    }
}

static bool one_form(struct bt_gen *g, enum bt_class cls)
{
    struct insn k;
    uint32_t written;
    memset(&k, 0, sizeof(k));
    unsigned f = bucket[cls][bg_below(g, n_bucket[cls])];
    if (!dt_gen_encode(forms, f, k.code, &k.in, k.ops) || classify(&k.in, k.ops) != cls ||
        (g->p->x87_images ? loads_image(k.in.mnemonic) : stores_image(k.in.mnemonic)) ||
        !writes(g, &k.in, k.ops, &written)) {
        return false;
    }
    tame(g, &k);
    if (!bg_chance(g, 98) ? false : !aim_all(g, &k)) {
        return false;
    }
    struct bt_item *it = bg_item(g, k.code, k.in.length);
    if (k.rip) {
        it->fix = FIX_RIP;
        it->fix_at = k.in.raw.disp.offset;
        it->abs = k.target;
    }
    mark_patch(g, it, &k);
    bg_define_flags(g, undefined_flags(&k.in));
    g->known &= ~(written & ~(1u << 4));
    return true;
}

void bg_form(struct bt_gen *g, enum bt_class cls)
{
    g->cls = (uint8_t)cls;
    for (unsigned i = 0; i < 10 && n_bucket[cls] != 0; i++) {
        if (one_form(g, cls)) {
            return;
        }
    }
}

/* ---- programs ---- */

static void set_registers(struct bt_gen *g)
{
    struct bt_program *p = g->p;
    static struct dt_state s;
    dt_gen_state(forms, &s);
    memcpy(p->init.gpr, s.gpr, sizeof(s.gpr));
    memset(p->init.xsave, 0, sizeof(p->init.xsave));
    memcpy(p->init.xsave, s.xsave, DT_XSAVE);
    if (p->x87_images || bg_chance(g, 60)) { /* all exceptions masked */
        const uint16_t fcw = 0x37f;
        const uint32_t mxcsr = 0x1f80;
        memcpy(p->init.xsave, &fcw, 2);
        memset(p->init.xsave + 2, 0, 2);
        memcpy(p->init.xsave + 24, &mxcsr, 4);
    }
    p->init.gpr[4] = p->base + BT_VA_STACK + 0x1800;
    if (p->fuel != 0) {
        p->init.gpr[p->fuel] = p->loops * 60;
    }
    if (!p->counter_in_memory) {
        p->init.gpr[p->counter] = p->loops;
    }
}

/* What self-modifying items write to is known only now. */
static void choose_patches(struct bt_gen *g)
{
    struct bt_program *p = g->p;
    unsigned n = 0;
    static int16_t can[BT_MAX_ITEMS];
    for (unsigned i = 0; i < p->n_items; i++) {
        if (p->items[i].patch != PATCH_NONE && p->items[i].fix != FIX_PATCH &&
            !p->items[i].fixed) {
            p->items[i].alt = p->items[i].patch == PATCH_IMM && bg_chance(g, 30);
            can[n++] = (int16_t)i;
        }
    }
    for (unsigned i = 0; i < p->n_items; i++) {
        struct bt_item *it = &p->items[i];
        if (it->fix != FIX_PATCH) {
            continue;
        }
        unsigned near = 0;
        while (near < n && can[near] < (int16_t)i) {
            near++;
        }
        if (i > 0 && it->group != 0 && it[-1].group == it->group) { /* the same as before */
            const struct bt_item *first = it - 1;
            while (first->fix != FIX_PATCH && first[-1].group == it->group) {
                first--;
            }
            it->item = first->item;
            it->gone = first->gone;
            continue;
        }
        unsigned pick = n == 0 ? 0 : bg_below(g, n);
        if (bg_chance(g, 50) && near < n) { /* just ahead */
            pick = MIN(near + bg_below(g, 3), n - 1);
        }
        it->item = n == 0 ? (int16_t)i : can[pick];
        const struct bt_item *to = &p->items[it->item];
        uint8_t was = to->bytes[to->patch_at];
        if (it->cond == 1) { /* the last byte is what is written */
            uint8_t *v = &it->bytes[it->full_len - 1];
            *v = to->patch == PATCH_ALU  ? (uint8_t)((*v & 0x38) | (was & 7))
                 : to->patch == PATCH_CC ? (uint8_t)((*v & 15) | (was & 0xf0))
                                         : *v;
        } else if ((it->cond == 2 || it->cond == 4) &&
                   to->patch != PATCH_IMM) { /* arithmetic on it */
            it->gone = true;
        }
    }
}

void bt_generate(struct bt_program *p, uint64_t seed, unsigned only, bool async)
{
    struct bt_gen *g = &(struct bt_gen){.p = p};
    memset(p, 0, sizeof(*p));
    p->seed = seed;
    p->async = async;
    g->rng = seed * UINT64_C(0x9e3779b97f4a7c15) + 12345;
    dt_gen_seed(forms, g->rng ^ 0x5555);
    bt_setup(p, &g->rng);
    p->classes = only;
    bg_program(g);
    set_registers(g);
    choose_patches(g);
    if (!bt_layout(p)) {
        for (unsigned i = 0; i < p->n_items; i++) {
            p->items[i].pad_before = false;
        }
        bt_layout(p);
    }
}
