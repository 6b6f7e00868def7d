/*
 * Makes cases. At the start it asks Zydis about every encoding of every opcode map and keeps
 * one form for each that differs (mnemonic, operands); cases then walk the forms in random
 * order, with random registers, operands, prefixes and addresses, boundary values preferred.
 * Some cases are random bytes. Left out are instructions that leave user mode's closed world:
 * system calls, segment loads, far transfers, clocks, random numbers, and what shows the
 * machine rather than the instruction (CPUID, SGDT).
 */
#include "forms.h"

#include "base/ckd.h"

#include <stdlib.h>
#include <string.h>

struct form {
    uint8_t enc, map, pp, opcode; /* enc 0 legacy, 1 VEX, 2 EVEX */
    uint8_t w, vl, b, modrm_reg, mod3;
    int8_t rm; /* -1: any */
};

#define MAX_FORMS 65536

struct dt_gen {
    uint64_t rng;
    bool mode32;
    ZydisDecoder decoder;
    struct form *forms;
    unsigned n_forms, at;
    uint64_t number;
    uint64_t target; /* of the last memory operand that was aimed */
};

static uint64_t rnd(struct dt_gen *g)
{
    return dt_random(&g->rng);
}

static unsigned below(struct dt_gen *g, unsigned n)
{
    return (unsigned)(rnd(g) >> 32) % n;
}

static bool chance(struct dt_gen *g, unsigned percent)
{
    return below(g, 100) < percent;
}

/* ---- what is left out ---- */
static bool excluded_mnemonic(ZydisMnemonic m)
{
    switch ((int)m) {
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_INTO:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_RDPID:
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_ARPL:
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTORS:
    case ZYDIS_MNEMONIC_XRSTORS64:
    case ZYDIS_MNEMONIC_PTWRITE:
    case ZYDIS_MNEMONIC_XABORT:
    case ZYDIS_MNEMONIC_XBEGIN: return true;
    default: return false;
    }
}

static bool has_rep(const ZydisDecodedInstruction *in)
{
    for (unsigned i = 0; i < in->raw.prefix_count; i++) {
        if (in->raw.prefixes[i].value == 0xf2 || in->raw.prefixes[i].value == 0xf3) {
            return true;
        }
    }
    return false;
}

static bool excluded(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops)
{
    if (excluded_mnemonic(in->mnemonic)) {
        return true;
    }
    if (in->opcode_map == ZYDIS_OPCODE_MAP_0F && in->opcode <= 1) {
        return true; /* descriptor tables, machine status */
    }
    if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW ||
        in->encoding == ZYDIS_INSTRUCTION_ENCODING_XOP ||
        in->encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX) {
        return true;
    }
    if (in->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
        return true;
    }
    if ((in->mnemonic == ZYDIS_MNEMONIC_LOOPE || in->mnemonic == ZYDIS_MNEMONIC_LOOPNE) &&
        has_rep(in)) {
        return true; /* the prefix inverts the condition on some CPUs; nobody documents it */
    }
    for (unsigned i = 0; i < in->operand_count; i++) {
        if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(ops[i].reg.value) == ZYDIS_REGCLASS_SEGMENT &&
            ops[i].visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN) {
            return true;
        }
        if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            ops[i].mem.segment == ZYDIS_REGISTER_FS) {
            return true;
        }
    }
    return false;
}

/* ---- forms ---- */
static bool is_vsib(const struct form *f)
{
    return f->enc != 0 && f->map == 2 && f->pp == 1 && !f->mod3 &&
           ((f->opcode >= 0x90 && f->opcode <= 0x93) ||
            (f->enc == 2 && f->opcode >= 0xa0 && f->opcode <= 0xa3));
}

/* Bytes up to and with modrm (and SIB); regs: random register extension bits allowed. */
static unsigned put_form(struct dt_gen *g, const struct form *f, bool random, uint8_t *b)
{
    static const uint8_t prefix[4] = {0, 0x66, 0xf3, 0xf2};
    unsigned n = 0;
    bool wide = !g->mode32;
    unsigned ext = random && wide ? below(g, 8) : 0; /* R, X, B */
    unsigned vvvv = random && chance(g, 90) ? below(g, wide ? 16 : 8) : 0;
    unsigned reg = random && !is_vsib(f) && f->modrm_reg > 7 ? below(g, 8) : f->modrm_reg & 7;
    if (f->enc == 0) {
        if (random && chance(g, 4)) {
            b[n++] = 0x67;
        }
        if (random && chance(g, 4)) {
            b[n++] = chance(g, 50) ? 0x65 : 0x3e;
        }
        if (random && chance(g, 3)) {
            b[n++] = 0xf0;
        }
        if (f->pp) {
            b[n++] = prefix[f->pp];
            if (random && f->pp >= 2 && chance(g, 10)) {
                b[n++] = 0x66;
            }
        }
        if (wide && (f->w || (random && chance(g, 50)))) {
            b[n++] = (uint8_t)(0x40 | f->w << 3 | ext);
        }
        if (f->map >= 1) {
            b[n++] = 0x0f;
        }
        if (f->map >= 2) {
            b[n++] = f->map == 2 ? 0x38 : 0x3a;
        }
    } else if (f->enc == 1) {
        if (is_vsib(f)) {
            vvvv = random ? below(g, 8) : 2;
        } else if (random && chance(g, 45)) {
            vvvv = 0;
        }
        if (f->map == 1 && !f->w && !(ext & 3) && random && chance(g, 50)) {
            b[n++] = 0xc5;
            b[n++] = (uint8_t)((ext & 4 ? 0 : 0x80) | (~vvvv & 15) << 3 | f->vl << 2 | f->pp);
        } else {
            b[n++] = 0xc4;
            b[n++] = (uint8_t)((~ext & 7) << 5 | f->map);
            b[n++] = (uint8_t)(f->w << 7 | (~vvvv & 15) << 3 | f->vl << 2 | f->pp);
        }
    } else {
        unsigned hi = random && wide ? below(g, 4) : 0; /* R', V' */
        unsigned k = is_vsib(f)                ? 1 + (random ? below(g, 7) : 0)
                     : random && chance(g, 60) ? below(g, 8)
                                               : 0;
        unsigned z = random && k && chance(g, 30);
        if (is_vsib(f) || (random && chance(g, 30))) {
            vvvv = 0;
            hi &= 1;
        }
        b[n++] = 0x62;
        b[n++] = (uint8_t)((~ext & 7) << 5 | (hi & 1 ? 0 : 0x10) | f->map);
        b[n++] = (uint8_t)(f->w << 7 | (~vvvv & 15) << 3 | 4 | f->pp);
        b[n++] = (uint8_t)(z << 7 | f->vl << 5 | f->b << 4 | (hi & 2 ? 0 : 8) | k);
    }
    b[n++] = f->opcode;
    unsigned mod = f->mod3 ? 3 : random ? below(g, 3) : 0;
    unsigned rm = f->rm >= 0 ? (unsigned)f->rm : random ? below(g, 8) : f->mod3 ? 1 : 2;
    if (is_vsib(f)) {
        rm = 4;
        reg = random ? below(g, 8) : 3;
    }
    b[n++] = (uint8_t)(mod << 6 | reg << 3 | rm);
    if (!random && is_vsib(f)) {
        b[n++] = 0x0b;
    }
    return n;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ h >> 29;
}

/* What makes a form differ from another; 0: not to be tested. */
static uint64_t signature(struct dt_gen *g, const struct form *f)
{
    uint8_t b[32] = {0};
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    unsigned n = put_form(g, f, false, b);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->decoder, b, n + 12u, &in, ops)) ||
        excluded(&in, ops)) {
        return 0;
    }
    uint64_t h = mix(1, (uint64_t)in.mnemonic);
    for (unsigned i = 0; i < in.operand_count; i++) {
        h = mix(h, (uint64_t)ops[i].type << 32 | ops[i].size);
        h = mix(h, (uint64_t)ops[i].encoding);
        if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ops[i].encoding != ZYDIS_OPERAND_ENCODING_MODRM_REG &&
            ops[i].encoding != ZYDIS_OPERAND_ENCODING_NDSNDD) {
            h = mix(h, (uint64_t)ops[i].reg.value);
        }
    }
    return h | 1;
}

static bool keep(struct dt_gen *g, const struct form *f)
{
    if (g->n_forms == MAX_FORMS) {
        return false;
    }
    g->forms[g->n_forms++] = *f;
    return true;
}

/* The forms of one opcode with given prefix bits: over modrm.reg, and modrm.rm where it
 * matters. */
static void add_modrm_forms(struct dt_gen *g, struct form *f)
{
    bool x87 = f->enc == 0 && f->map == 0 && f->opcode >= 0xd8 && f->opcode <= 0xdf;
    uint64_t s[8];
    for (unsigned m = 0; m < 2; m++) {
        f->mod3 = (uint8_t)m;
        f->rm = -1;
        bool same = true;
        for (unsigned r = 0; r < 8; r++) {
            f->modrm_reg = (uint8_t)r;
            s[r] = signature(g, f);
            same = same && s[r] == s[0];
        }
        if (same && s[0] != 0) {
            f->modrm_reg = 255; /* any */
            keep(g, f);
            continue;
        }
        for (unsigned r = 0; r < 8; r++) {
            f->modrm_reg = (uint8_t)r;
            for (int rm = 0; x87 && m == 1 && rm < 8; rm++) {
                f->rm = (int8_t)rm;
                if (signature(g, f) != 0) {
                    keep(g, f);
                }
            }
            f->rm = -1;
            if (s[r] != 0 && !(x87 && m == 1)) {
                keep(g, f);
            }
        }
    }
}

static void find_forms(struct dt_gen *g)
{
    static const uint8_t maps[3][6] = {{0, 1, 2, 3, 9}, {1, 2, 3, 9}, {1, 2, 3, 5, 6, 9}};
    for (unsigned enc = 0; enc < 3; enc++) {
        if (enc == 2 && (dt_xcr0 & 0xe0) != 0xe0) {
            continue;
        }
        for (unsigned m = 0; maps[enc][m] != 9; m++) {
            for (unsigned i = 0; i < 256 * 4 * 2 * 3 * 2; i++) {
                struct form f = {.enc = (uint8_t)enc, .map = maps[enc][m]};
                f.opcode = (uint8_t)(i & 255);
                f.pp = i >> 8 & 3;
                f.w = i >> 10 & 1;
                f.b = i >> 11 & 1;
                f.vl = (uint8_t)(i >> 12);
                if ((enc != 2 && f.b) || (enc == 0 && f.vl) || (enc == 1 && f.vl > 1) ||
                    (enc == 0 && f.w && g->mode32)) {
                    continue;
                }
                add_modrm_forms(g, &f);
            }
        }
    }
}

static void shuffle(struct dt_gen *g)
{
    for (unsigned i = g->n_forms; i > 1; i--) {
        unsigned j = below(g, i);
        struct form t = g->forms[i - 1];
        g->forms[i - 1] = g->forms[j];
        g->forms[j] = t;
    }
}

struct dt_gen *dt_gen_new(uint64_t seed, bool mode32)
{
    struct dt_gen *g = calloc(1, sizeof(*g));
    if (g == NULL) {
        return NULL;
    }
    g->rng = seed;
    g->mode32 = mode32;
    g->forms = calloc(MAX_FORMS, sizeof(*g->forms));
    ZyanStatus st = mode32 ? ZydisDecoderInit(&g->decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
                                              ZYDIS_STACK_WIDTH_32)
                           : ZydisDecoderInit(&g->decoder, ZYDIS_MACHINE_MODE_LONG_64,
                                              ZYDIS_STACK_WIDTH_64);
    if (g->forms == NULL || !ZYAN_SUCCESS(st)) {
        dt_gen_free(g);
        return NULL;
    }
    find_forms(g);
    shuffle(g);
    return g;
}

void dt_gen_free(struct dt_gen *g)
{
    free(g->forms);
    free(g);
}

unsigned dt_gen_forms(const struct dt_gen *g)
{
    return g->n_forms;
}

/* ---- values ---- */
static uint64_t boundary(struct dt_gen *g)
{
    static const uint64_t v[] = {0,          1,
                                 2,          0x7f,
                                 0x80,       0xff,
                                 0x100,      0x7fff,
                                 0x8000,     0xffff,
                                 0x7fffffff, 0x80000000,
                                 0xffffffff, 0x100000000,
                                 INT64_MAX,  UINT64_C(1) << 63,
                                 UINT64_MAX, UINT64_MAX - 1};
    return v[below(g, ARRAY_LEN(v))];
}

static uint64_t target(struct dt_gen *g)
{
    unsigned p = below(g, 100);
    if (p < 60) {
        return DT_DATA + below(g, DT_RW_BYTES - 512) / 64 * 64;
    }
    if (p < 85) {
        return DT_DATA + below(g, DT_RW_BYTES - 512);
    }
    if (p < 92) {
        return DT_DATA + 4096 * (1 + below(g, 2)) - below(g, 64);
    }
    if (p < 96) {
        return DT_DATA + DT_RW_BYTES - below(g, 64); /* into the read-only page */
    }
    return DT_DATA + DT_DATA_BYTES - below(g, 64); /* into nothing */
}

static void random_gprs(struct dt_gen *g, struct dt_state *s)
{
    for (unsigned i = 0; i < 16; i++) {
        unsigned p = below(g, 100);
        s->gpr[i] = p < 35 ? boundary(g) : p < 60 ? rnd(g) : p < 80 ? below(g, 70) : target(g);
        if (p < 5) {
            s->gpr[i] = ~s->gpr[i] + below(g, 3);
        }
    }
    /* Implicit memory operands. */
    static const uint8_t pointers[] = {3, 4, 5, 6, 7};
    for (unsigned i = 0; i < ARRAY_LEN(pointers); i++) {
        if (chance(g, 85)) {
            s->gpr[pointers[i]] = target(g);
        }
    }
    if (chance(g, 80)) {
        s->gpr[4] = DT_DATA + 2048 + below(g, 1024) * 8;
    }
    if (chance(g, 70)) {
        s->gpr[1] = below(g, 66); /* counts */
    }
    if (g->mode32) {
        for (unsigned i = 0; i < 16; i++) {
            s->gpr[i] = i < 8 ? (uint32_t)s->gpr[i] : 0;
        }
    }
}

static uint32_t random_f32(struct dt_gen *g)
{
    static const uint32_t v[] = {0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000,
                                 0xff800000, 0x7fc00000, 0xffc00001, 0x7f800001, 0x00000001,
                                 0x807fffff, 0x7f7fffff, 0x00800000, 0x4f000000, 0xcf000000,
                                 0x3f000000, 0x4b800000, 0x40490fdb, 0x1,        0xffffffff};
    return chance(g, 60) ? v[below(g, ARRAY_LEN(v))] : (uint32_t)rnd(g);
}

static uint64_t random_f64(struct dt_gen *g)
{
    static const uint64_t v[] = {0,
                                 UINT64_C(1) << 63,
                                 0x3ff0000000000000,
                                 0xbff0000000000000,
                                 0x7ff0000000000000,
                                 0xfff0000000000000,
                                 0x7ff8000000000000,
                                 0x7ff0000000000001,
                                 1,
                                 0x800fffffffffffff,
                                 0x7fefffffffffffff,
                                 0x0010000000000000,
                                 0x43e0000000000000,
                                 0xc3e0000000000000,
                                 0x41e0000000000000,
                                 0x3fe0000000000000,
                                 0x36a0000000000000,
                                 0x4340000000000000,
                                 0x400921fb54442d18};
    return chance(g, 60) ? v[below(g, ARRAY_LEN(v))] : rnd(g);
}

static void random_lanes(struct dt_gen *g, uint8_t *p, unsigned len)
{
    unsigned kind = below(g, 5);
    for (unsigned i = 0; i < len; i += 8) {
        uint64_t v;
        switch (kind) {
        case 0: v = random_f64(g); break;
        case 1: v = random_f32(g) | (uint64_t)random_f32(g) << 32; break;
        case 2: v = boundary(g) ^ boundary(g) << 16 ^ boundary(g) << 40; break;
        case 3: v = (uint64_t)below(g, 64) | (uint64_t)below(g, 64) << 32; break;
        default: v = rnd(g); break;
        }
        memcpy(p + i, &v, MIN(8u, len - i));
    }
}

static void random_x87(struct dt_gen *g, uint8_t *x)
{
    uint16_t fcw = 0x37f, fsw = 0;
    if (chance(g, 40)) {
        static const uint16_t pc[] = {0x000, 0x200, 0x300};
        fcw = (uint16_t)(0x7f & ~(chance(g, 30) ? below(g, 64) : 0)) | pc[below(g, 3)] |
              (uint16_t)(below(g, 4) << 10);
    }
    if (chance(g, 60)) {
        fsw = (uint16_t)(below(g, 8) << 11 | below(g, 16) << 8 % 0x4700);
        fsw &= 0x7f00;
    }
    if (chance(g, 8)) {
        fsw |= (uint16_t)below(g, 128); /* exceptions flagged before */
    }
    uint8_t tags = chance(g, 60) ? 0xff : chance(g, 50) ? 0 : (uint8_t)rnd(g);
    memcpy(x, &fcw, 2);
    memcpy(x + 2, &fsw, 2);
    x[4] = tags;
    for (unsigned i = 0; i < 8; i++) {
        uint64_t m = chance(g, 30) ? UINT64_C(1) << 63 : rnd(g) | UINT64_C(1) << 63;
        uint16_t e = (uint16_t)(0x3fff + (int)below(g, 80) - 40);
        switch (below(g, 12)) {
        case 0: m = 0, e = 0; break;
        case 1: e = 0x7fff, m = UINT64_C(1) << 63; break;
        case 2: e = 0x7fff, m |= UINT64_C(3) << 62; break;
        case 3: e = 0x7fff, m &= ~(UINT64_C(1) << 62), m |= 1; break;
        case 4: e = 0, m &= ~(UINT64_C(1) << 63); break; /* denormal */
        case 5:
            m = rnd(g) >> below(g, 64), e = (uint16_t)(rnd(g) & 0x7fff);
            break; /* unnormal */
        case 6: e = (uint16_t)(rnd(g) & 0x7fff); break;
        default: break;
        }
        e |= (uint16_t)(below(g, 2) << 15);
        memcpy(x + 32 + i * 16, &m, 8);
        memcpy(x + 32 + i * 16 + 8, &e, 2);
    }
}

static void random_vectors(struct dt_gen *g, struct dt_state *s)
{
    uint8_t *x = s->xsave;
    memset(x, 0, DT_XSAVE);
    random_x87(g, x);
    uint32_t mxcsr = 0x1f80;
    if (chance(g, 30)) {
        mxcsr = (uint32_t)(0x1f80 & ~(chance(g, 30) ? below(g, 64) << 7 : 0)) |
                below(g, 4) << 13 | below(g, 2) << 15 | below(g, 2) << 6 |
                (chance(g, 30) ? below(g, 64) : 0);
    }
    memcpy(x + 24, &mxcsr, 4);
    for (unsigned i = 0; i < 16; i++) {
        random_lanes(g, x + 160 + i * 16, 16);
    }
    uint64_t bv = 3;
    for (unsigned i = 2; i < 8; i++) {
        unsigned len;
        if (!(dt_xcr0 >> i & 1) || (chance(g, 15) && i != 5)) {
            continue;
        }
        bv |= UINT64_C(1) << i;
        unsigned off = dt_component(i, &len);
        for (unsigned o = 0; o < len; o += 16) {
            if (i == 5) {
                uint64_t k[2] = {rnd(g), chance(g, 50) ? rnd(g) : boundary(g)};
                memcpy(x + off + o, k, 16);
            } else {
                random_lanes(g, x + off + o, 16);
            }
        }
    }
    memcpy(x + 512, &bv, 8);
}

/* ---- operands ---- */
static void set_gpr(struct dt_state *s, ZydisRegister r, uint64_t v)
{
    ZyanI8 id = ZydisRegisterGetId(r);
    if (id >= 0 && id < 16) {
        s->gpr[id] = v;
    }
}

static void put_disp(struct dt_case *k, const ZydisDecodedInstruction *in, int64_t disp)
{
    for (unsigned i = 0; i < in->raw.disp.size / 8; i++) {
        k->code[in->raw.disp.offset + i] = (uint8_t)(disp >> (8 * i));
    }
}

static void vsib_index(struct dt_gen *g, struct dt_case *k, ZydisRegister r)
{
    unsigned id = (unsigned)ZydisRegisterGetId(r), len;
    uint32_t words[16];
    bool q = chance(g, 50);
    for (unsigned i = 0; i < 16; i++) {
        words[i] = q && (i & 1) ? 0 : below(g, 96);
        if (chance(g, 3)) {
            words[i] = (uint32_t)rnd(g);
        }
    }
    if (id < 16) {
        memcpy(k->in.xsave + 160 + id * 16, words, 16);
        if (dt_xcr0 & 4) {
            memcpy(k->in.xsave + dt_component(2, &len) + id * 16, words + 4, 16);
        }
        if (dt_xcr0 & 0x40) {
            memcpy(k->in.xsave + dt_component(6, &len) + id * 32, words + 8, 32);
        }
    } else if (dt_xcr0 & 0x80) {
        memcpy(k->in.xsave + dt_component(7, &len) + (id - 16) * 64, words, 64);
    }
}

/* Makes the memory operand point into the data most of the time. */
static void aim(struct dt_gen *g, struct dt_case *k, const ZydisDecodedInstruction *in,
                const ZydisDecodedOperand *o)
{
    uint64_t t = target(g);
    if (k->large && chance(g, 70)) {
        t = DT_DATA + below(g, 2 * 4096 / 64) * 64; /* images are aligned */
    }
    g->target = t;
    ZydisRegister base = o->mem.base, index = o->mem.index;
    int64_t disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
    if (o->mem.segment == ZYDIS_REGISTER_GS && !g->mode32) {
        t -= DT_GS_BASE;
    }
    if (o->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
        vsib_index(g, k, index);
        index = ZYDIS_REGISTER_NONE;
    }
    if (in->address_width == 16) {
        return;
    }
    if (in->raw.disp.size == 32 && chance(g, 70)) {
        disp = (int64_t)below(g, 4096) - 2048;
        put_disp(k, in, disp);
    }
    if (base == ZYDIS_REGISTER_RIP || base == ZYDIS_REGISTER_EIP) {
        put_disp(k, in, (int64_t)(t - (k->in.rip + in->length)));
    } else if (base == ZYDIS_REGISTER_NONE && index == ZYDIS_REGISTER_NONE) {
        put_disp(k, in, (int64_t)t);
    } else if (base == ZYDIS_REGISTER_NONE) {
        set_gpr(&k->in, index, (t - (uint64_t)disp) / o->mem.scale);
    } else if (index == ZYDIS_REGISTER_NONE) {
        set_gpr(&k->in, base, t - (uint64_t)disp);
    } else if (base == index) {
        set_gpr(&k->in, base, (t - (uint64_t)disp) / (o->mem.scale + 1u));
    } else {
        uint64_t i = chance(g, 80) ? below(g, 64) : (uint64_t) - (int64_t)below(g, 64);
        set_gpr(&k->in, index, i);
        set_gpr(&k->in, base, t - (uint64_t)disp - i * o->mem.scale);
    }
    if (in->address_width == 32 && !g->mode32 && chance(g, 50) && base != ZYDIS_REGISTER_NONE &&
        ZydisRegisterGetId(base) < 16) {
        k->in.gpr[ZydisRegisterGetId(base) & 15] |= rnd(g) << 32; /* must be ignored */
    }
}

static bool is_xsave(ZydisMnemonic m)
{
    switch ((int)m) {
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64: return true;
    default: return false;
    }
}

static bool is_image(ZydisMnemonic m)
{
    return is_xsave(m) || m == ZYDIS_MNEMONIC_FLDENV || m == ZYDIS_MNEMONIC_FNSTENV ||
           m == ZYDIS_MNEMONIC_FRSTOR || m == ZYDIS_MNEMONIC_FNSAVE;
}

/* AMD takes a 66 prefix of a near branch at its word, which Zydis does not know: 16-bit
 * operand. */
static bool is_amd(void)
{
    uint32_t a, b, c, d;
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(0), "c"(0));
    return b == 0x68747541;
}

/* Relative branches stay in the code pages and do not loop. */
static void tame_branch(struct dt_gen *g, struct dt_case *k, const ZydisDecodedInstruction *in)
{
    for (unsigned i = 0; i < 2; i++) {
        if (!in->raw.imm[i].is_relative || in->raw.imm[i].size == 0) {
            continue;
        }
        if (in->raw.imm[i].size == 32 && !g->mode32 && is_amd() &&
            (in->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE)) {
            k->len = (uint8_t)(k->len - 2);
            k->code[k->len] = k->code[k->len + 1] = 0xcc;
            k->code[k->len - 2] = (uint8_t)below(g, 100);
            k->code[k->len - 1] = 0;
            return;
        }
        int64_t d = 1 + (int64_t)below(g, 100);
        if (chance(g, 20)) {
            d = -d - in->length;
        }
        for (unsigned j = 0; j < in->raw.imm[i].size / 8u; j++) {
            k->code[in->raw.imm[i].offset + j] = (uint8_t)(d >> (8 * j));
        }
    }
}

/* A standard image becomes a compacted one of components comps. */
static uint32_t compact_image(uint8_t *x, uint64_t comps)
{
    uint8_t out[DT_XSAVE] = {0};
    uint32_t at = 576;
    memcpy(out, x, 576);
    for (unsigned i = 2; i < 8; i++) {
        unsigned len, off;
        if (!(comps >> i & 1)) {
            continue;
        }
        off = dt_component(i, &len);
        memcpy(out + at, x + off, len);
        at += len; /* none of these components asks for alignment */
    }
    comps |= UINT64_C(1) << 63;
    memcpy(out + 520, &comps, 8);
    memcpy(x, out, DT_XSAVE);
    return at;
}

/* What XRSTOR or FXRSTOR is to load: mostly good images. */
static void make_image(struct dt_gen *g, struct dt_case *k, bool xrstor)
{
    struct dt_state s;
    random_vectors(g, &s);
    memcpy(k->patch, s.xsave, DT_XSAVE);
    k->patch_len = xrstor ? DT_XSAVE : 512;
    if (xrstor) {
        uint64_t bv = rnd(g) & dt_xcr0, comps = bv | (rnd(g) & dt_xcr0);
        memcpy(k->patch + 512, &bv, 8);
        if (chance(g, 50)) {
            k->patch_len = compact_image(k->patch, comps);
        }
        if (chance(g, 15)) {
            k->patch[512 + below(g, 64)] ^= (uint8_t)(1 << below(g, 8)); /* mostly wrong */
        }
    }
    if (chance(g, 5)) {
        k->patch[24 + below(g, 4)] = (uint8_t)rnd(g);
    }
    for (unsigned i = 8; i < 24; i++) {
        k->patch[i] = chance(g, 50) ? 0 : (uint8_t)rnd(g); /* x87 pointers */
    }
    uint64_t at = g->target - DT_DATA;
    if (at + k->patch_len > DT_DATA_BYTES) {
        k->patch_len = 0;
        return;
    }
    k->patch_at = (uint32_t)at;
}

/* Fits registers and displacement to the instruction. false: not to be run. */
static bool complete(struct dt_gen *g, struct dt_case *k)
{
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->decoder, k->code, 15, &in, ops))) {
        return false;
    }
    if (excluded(&in, ops)) {
        return false;
    }
    k->len = in.length;
    memset(k->code + k->len, 0xcc, sizeof(k->code) - k->len);
    unsigned n_mem = in.meta.category == ZYDIS_CATEGORY_CALL;
    for (unsigned i = 0; i < in.operand_count; i++) {
        n_mem += ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY;
        k->two_memory = n_mem > 1;
        if (ops[i].type != ZYDIS_OPERAND_TYPE_MEMORY ||
            ops[i].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN) {
            continue;
        }
        k->large = ops[i].size > 512 || is_image(in.mnemonic);
        if (chance(g, 95)) {
            aim(g, k, &in, &ops[i]);
        }
    }
    tame_branch(g, k, &in);
    if (in.mnemonic == ZYDIS_MNEMONIC_POPA || in.mnemonic == ZYDIS_MNEMONIC_POPAD) {
        k->in.gpr[4] = DT_DATA + 2048; /* what has been popped at a fault is open */
    }
    k->gather = in.meta.category == ZYDIS_CATEGORY_GATHER ||
                in.meta.category == ZYDIS_CATEGORY_AVX2GATHER;
    if (is_xsave(in.mnemonic)) {
        k->in.gpr[0] &= dt_xcr0;
        k->in.gpr[2] = 0;
    }
    bool xrstor =
        in.mnemonic == ZYDIS_MNEMONIC_XRSTOR || in.mnemonic == ZYDIS_MNEMONIC_XRSTOR64;
    if (xrstor || in.mnemonic == ZYDIS_MNEMONIC_FXRSTOR ||
        in.mnemonic == ZYDIS_MNEMONIC_FXRSTOR64) {
        make_image(g, k, xrstor);
    }
    k->undefined_flags = in.cpu_flags != NULL ? in.cpu_flags->undefined : 0;
    /* Bit tests by register reach far; so do near branches to registers. */
    return true;
}

void dt_gen_next(struct dt_gen *g, struct dt_case *k)
{
    for (;;) {
        memset(k, 0, sizeof(*k));
        random_gprs(g, &k->in);
        k->in.rflags = rnd(g) & 0x8d5;
        if (chance(g, 10)) {
            k->in.rflags |= 0x400;
        }
        k->in.rip = DT_CODE + 256 + below(g, 3600);
        if (chance(g, 10)) {
            k->in.rip = DT_CODE + 4096 - below(g, 16);
        }
        k->data_seed = rnd(g);
        for (unsigned i = 0; i < 15; i++) {
            k->code[i] = (uint8_t)rnd(g);
        }
        if (!chance(g, 4)) {
            const struct form *f = &g->forms[g->at];
            g->at = (g->at + 1) % g->n_forms;
            put_form(g, f, true, k->code);
        }
        random_vectors(g, &k->in);
        if (complete(g, k)) {
            k->mode32 = g->mode32;
            k->number = g->number++;
            return;
        }
    }
}

/* ---- for other tests ---- */
void dt_gen_seed(struct dt_gen *g, uint64_t seed)
{
    g->rng = seed;
}

bool dt_gen_encode(struct dt_gen *g, unsigned form, uint8_t code[16],
                   ZydisDecodedInstruction *in, ZydisDecodedOperand *ops)
{
    uint64_t tail[2] = {rnd(g), rnd(g)};
    memcpy(code, tail, 16);
    put_form(g, &g->forms[form], true, code);
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->decoder, code, 15, in, ops)) &&
           !excluded(in, ops);
}

void dt_gen_state(struct dt_gen *g, struct dt_state *s)
{
    random_gprs(g, s);
    random_vectors(g, s);
}

void dt_disassemble(const struct dt_case *k, char *buf, size_t len)
{
    ZydisDisassembledInstruction d;
    ZydisMachineMode m =
        k->mode32 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64;
    size_t n = 0;
    for (unsigned i = 0; i < k->len; i++) {
        n += (size_t)snprintf(buf + n, len - n, "%02x", k->code[i]);
    }
    if (ZYAN_SUCCESS(ZydisDisassembleIntel(m, k->in.rip, k->code, k->len, &d))) {
        snprintf(buf + n, len - n, "  %s", d.text);
    } else {
        snprintf(buf + n, len - n, "  (undefined)");
    }
}
