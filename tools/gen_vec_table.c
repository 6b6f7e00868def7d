/*
 * Makes src/cpu/soft's table of native instructions (native_table.h) by asking Zydis about
 * every encoding of the legacy 0F maps, VEX maps 1-3 and EVEX maps 1-3, 5, 6. Run by the build;
 * writes C to the file named by its argument. Build machine only: Zydis is not linked into any
 * program.
 */
#include "cpu/soft/native_table.h"

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIM_MAX (2 * 8 * 2 * 4 * 2)

struct form {
    unsigned enc, map, pp, opcode;
    unsigned mod3, reg, w, vl, b;
};

static struct native_desc descs[4096];
static unsigned n_descs = 1;
static uint16_t index_pool[65536];
static unsigned n_index;
static struct native_node nodes[4096];
static unsigned n_nodes = 1;
static uint16_t opcodes[NATIVE_N_PAGES][4][256];
static ZydisDecoder decoder, decoder32;

static void fail(const char *what)
{
    fprintf(stderr, "gen_vec_table: %s\n", what);
    exit(1);
}

struct isa_row {
    ZydisISASet set;
    uint8_t feature;
    uint8_t vl;
};

#define ISA(name, f)                                                                           \
    {                                                                                          \
        ZYDIS_ISA_SET_##name, NF_##f, 0                                                        \
    }
#define ISAVL(name, f)                                                                         \
    {                                                                                          \
        ZYDIS_ISA_SET_##name, NF_##f, 1                                                        \
    }
#define ISA3(name, f) ISAVL(name##_128, f), ISAVL(name##_256, f), ISA(name##_512, f)

/* Instruction sets that are run natively. Prefetches and cache flushes are the integer core's.
 */
static const struct isa_row isa_rows[] = {
    ISA(ADOX_ADCX, ADX),
    ISA(AES, AES),
    ISA(AVX, AVX),
    ISA(AVX2, AVX2),
    ISA(AVX2GATHER, AVX2),
    ISA3(AVX512BW, AVX512BW),
    ISA(AVX512BW_128N, AVX512BW),
    ISA(AVX512BW_KOP, AVX512BW),
    ISA3(AVX512CD, AVX512CD),
    ISA3(AVX512DQ, AVX512DQ),
    ISA(AVX512DQ_128N, AVX512DQ),
    ISA(AVX512DQ_KOP, AVX512DQ),
    ISA(AVX512DQ_SCALAR, AVX512DQ),
    ISA3(AVX512F, AVX512F),
    ISA(AVX512F_128N, AVX512F),
    ISA(AVX512F_KOP, AVX512F),
    ISA(AVX512F_SCALAR, AVX512F),
    ISA3(AVX512_BF16, AVX512BF16),
    ISA3(AVX512_BITALG, AVX512BITALG),
    ISA3(AVX512_FP16, AVX512FP16),
    ISA(AVX512_FP16_128N, AVX512FP16),
    ISA(AVX512_FP16_SCALAR, AVX512FP16),
    ISA3(AVX512_GFNI, GFNI),
    ISA3(AVX512_IFMA, AVX512IFMA),
    ISA3(AVX512_VAES, VAES),
    ISA3(AVX512_VBMI2, AVX512VBMI2),
    ISA3(AVX512_VBMI, AVX512VBMI),
    ISA3(AVX512_VNNI, AVX512VNNI),
    ISA3(AVX512_VP2INTERSECT, AVX512VP2I),
    ISA3(AVX512_VPCLMULQDQ, VPCLMUL),
    ISA3(AVX512_VPOPCNTDQ, AVX512VPOPCNT),
    ISA(AVXAES, AES),
    ISA(AVX_GFNI, GFNI),
    ISA(AVX_VNNI, AVXVNNI),
    ISA(BMI1, BMI1),
    ISA(BMI2, BMI2),
    ISA(F16C, F16C),
    ISA(FMA, FMA),
    ISA(FXSAVE, FXSR),
    ISA(FXSAVE64, FXSR),
    ISA(GFNI, GFNI),
    ISA(LZCNT, LZCNT),
    ISA(MOVBE, MOVBE),
    ISA(MOVDIR, MOVDIRI),
    ISA(PCLMULQDQ, PCLMUL),
    ISA(PENTIUMMMX, MMX),
    ISA(POPCNT, POPCNT),
    ISA(RDRAND, RDRAND),
    ISA(RDSEED, RDSEED),
    ISA(SHA, SHA),
    ISA(SSE, SSE),
    ISA(SSE2, SSE2),
    ISA(SSE2MMX, SSE2),
    ISA(SSE3, SSE3),
    ISA(SSE4, SSE41),
    ISA(SSE42, SSE42),
    ISA(SSE4A, SSE4A),
    ISA(SSEMXCSR, SSE),
    ISA(SSSE3, SSSE3),
    ISA(SSSE3MMX, SSSE3),
    ISA(VAES, VAES),
    ISA(VPCLMULQDQ, VPCLMUL),
    ISA(XSAVE, XSAVE),
    ISA(XSAVEC, XSAVEC),
    ISA(XSAVEOPT, XSAVEOPT),
};

static bool wanted_mnemonic(ZydisMnemonic m)
{
    switch ((int)m) {
    case ZYDIS_MNEMONIC_PAUSE:
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_XSETBV:
    case ZYDIS_MNEMONIC_CLFLUSH: return false;
    default: return true;
    }
}

static uint8_t special_of(ZydisMnemonic m)
{
    switch ((int)m) {
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ: return SP_MASKLOAD; /* SP_MASKSTORE when it writes */
    case ZYDIS_MNEMONIC_MASKMOVQ: return SP_MASKMOVQ;
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU: return SP_MASKMOVDQU;
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64: return SP_FXSAVE;
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64: return SP_FXRSTOR;
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64: return SP_XSAVE;
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64: return SP_XSAVEOPT;
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64: return SP_XSAVEC;
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64: return SP_XRSTOR;
    case ZYDIS_MNEMONIC_MOVDIR64B: return SP_MOVDIR64B;
    default: return SP_NONE;
    }
}

/* Bytes of the form; vsib: memory operand with a vector index. */
static size_t encode(const struct form *f, bool vsib, uint8_t out[24])
{
    static const uint8_t prefix[4] = {0, 0x66, 0xf3, 0xf2};
    size_t n = 0;
    uint8_t vvvv = vsib && f->enc == 1 ? 2 : 0;
    if (f->enc == 0) {
        if (f->pp != 0) {
            out[n++] = prefix[f->pp];
        }
        if (f->w) {
            out[n++] = 0x48;
        }
        out[n++] = 0x0f;
        if (f->map == 2 || f->map == 3) {
            out[n++] = f->map == 2 ? 0x38 : 0x3a;
        }
    } else if (f->enc == 1) {
        out[n++] = 0xc4;
        out[n++] = (uint8_t)(0xe0 | f->map);
        out[n++] = (uint8_t)(f->w << 7 | ((~vvvv & 0xf) << 3) | f->vl << 2 | f->pp);
    } else {
        out[n++] = 0x62;
        out[n++] = (uint8_t)(0xf0 | f->map);
        out[n++] = (uint8_t)(f->w << 7 | 0x7c | f->pp);
        out[n++] = (uint8_t)(f->vl << 5 | f->b << 4 | 0x08 | (vsib ? 1 : 0));
    }
    out[n++] = (uint8_t)f->opcode;
    if (vsib) {
        out[n++] = (uint8_t)(f->reg << 3 | 4);
        out[n++] = 0x08;
    } else {
        out[n++] = (uint8_t)((f->mod3 ? 0xc0 : 0) | f->reg << 3 | (f->mod3 ? 1 : 2));
    }
    memset(out + n, 0, 24 - n);
    return n + 4;
}

static bool is_gpr(ZydisRegister r)
{
    ZydisRegisterClass c = ZydisRegisterGetClass(r);
    return c == ZYDIS_REGCLASS_GPR8 || c == ZYDIS_REGCLASS_GPR16 || c == ZYDIS_REGCLASS_GPR32 ||
           c == ZYDIS_REGCLASS_GPR64;
}

static uint32_t access_bits(const ZydisDecodedOperand *o, unsigned r, unsigned w)
{
    uint32_t bits = 0;
    if (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) {
        bits |= r;
    }
    if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
        bits |= w;
    }
    /* A conditional write keeps the old value otherwise. */
    if (o->actions & ZYDIS_OPERAND_ACTION_CONDWRITE) {
        bits |= r;
    }
    return bits;
}

struct seen {
    bool xmm, mmx, mask;
};

static void describe_reg(struct native_desc *d, const ZydisDecodedOperand *o, struct seen *seen)
{
    ZydisRegister r = o->reg.value;
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_ZMM: seen->xmm = true; return;
    case ZYDIS_REGCLASS_MMX: seen->mmx = true; return;
    case ZYDIS_REGCLASS_MASK: seen->mask = true; return;
    default: break;
    }
    if (!is_gpr(r)) {
        return;
    }
    if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG) {
        d->flags |= access_bits(o, ND_REG_R, ND_REG_W);
    } else if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
        d->flags |= access_bits(o, ND_RM_R, ND_RM_W);
        if (ZydisRegisterGetClass(r) == ZYDIS_REGCLASS_GPR8) {
            d->flags |= ND_RM8;
        }
    } else if (o->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD) {
        d->flags |= access_bits(o, ND_V_R, ND_V_W);
    } else {
        ZydisRegister big = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);
        if (big == ZYDIS_REGISTER_RAX) {
            d->flags |= ND_IN_RAX;
        } else if (big == ZYDIS_REGISTER_RDX) {
            d->flags |= ND_IN_RDX;
        } else if (big == ZYDIS_REGISTER_RCX) {
            d->flags |= ND_OUT_RCX;
        }
    }
}

static uint8_t alignment_of(const ZydisDecodedInstruction *in, const struct native_desc *d)
{
    switch ((int)in->mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_SHA1MSG1: /* AMD does not check these */
    case ZYDIS_MNEMONIC_SHA1MSG2:
    case ZYDIS_MNEMONIC_SHA1NEXTE:
    case ZYDIS_MNEMONIC_SHA1RNDS4:
    case ZYDIS_MNEMONIC_SHA256MSG1:
    case ZYDIS_MNEMONIC_SHA256MSG2:
    case ZYDIS_MNEMONIC_SHA256RNDS2:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM: return 0;
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVDQA32:
    case ZYDIS_MNEMONIC_VMOVDQA64:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA: return d->mem_len;
    default: break;
    }
    if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && d->mem_len == 16) {
        return 16;
    }
    return 0;
}

static void describe_mem(struct native_desc *d, const ZydisDecodedInstruction *in,
                         const ZydisDecodedOperand *o)
{
    if (o->mem.type == ZYDIS_MEMOP_TYPE_AGEN) {
        return;
    }
    d->flags |= access_bits(o, ND_MEM_R, ND_MEM_W);
    if (o->actions == ZYDIS_OPERAND_ACTION_CONDWRITE) {
        d->flags &= ~(uint32_t)ND_MEM_R;
    }
    d->mem_len = (uint8_t)(o->size > 1024 ? 128 : o->size / 8);
    d->elem = (uint8_t)(o->element_size / 8);
    if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
        switch ((int)in->mnemonic) {
        case ZYDIS_MNEMONIC_POPCNT:
        case ZYDIS_MNEMONIC_LZCNT:
        case ZYDIS_MNEMONIC_TZCNT:
        case ZYDIS_MNEMONIC_MOVBE: d->flags |= ND_MEM_OSIZE; break;
        case ZYDIS_MNEMONIC_CRC32:
            if (in->opcode == 0xf1) {
                d->flags |= ND_MEM_OSIZE;
            }
            break;
        default: break;
        }
    }
}

/* Whether an instruction of an SSE set has to do with neither vector registers nor MXCSR. */
static bool is_integer_sse(ZydisMnemonic m)
{
    switch ((int)m) {
    case ZYDIS_MNEMONIC_MOVNTI:
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_CRC32: return true;
    default: return false;
    }
}

static uint8_t legacy_class_of(const ZydisDecodedInstruction *in, const struct seen *seen)
{
    switch ((int)in->meta.isa_set) {
    case ZYDIS_ISA_SET_FXSAVE:
    case ZYDIS_ISA_SET_FXSAVE64: return NC_FXSR;
    case ZYDIS_ISA_SET_XSAVE:
    case ZYDIS_ISA_SET_XSAVEC:
    case ZYDIS_ISA_SET_XSAVEOPT: return NC_XSAVE;
    case ZYDIS_ISA_SET_ADOX_ADCX:
    case ZYDIS_ISA_SET_BMI1:
    case ZYDIS_ISA_SET_LZCNT:
    case ZYDIS_ISA_SET_MOVBE:
    case ZYDIS_ISA_SET_MOVDIR:
    case ZYDIS_ISA_SET_POPCNT:
    case ZYDIS_ISA_SET_RDRAND:
    case ZYDIS_ISA_SET_RDSEED: return NC_GPR;
    case ZYDIS_ISA_SET_PENTIUMMMX: return NC_MMX;
    default: break;
    }
    if (is_integer_sse(in->mnemonic)) {
        return NC_GPR;
    }
    return seen->mmx && !seen->xmm ? NC_MMX : NC_SSE;
}

static uint8_t class_of(const ZydisDecodedInstruction *in, const struct seen *seen)
{
    switch ((int)in->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_EVEX: return NC_AVX512;
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        if (in->meta.isa_set == ZYDIS_ISA_SET_BMI1 || in->meta.isa_set == ZYDIS_ISA_SET_BMI2) {
            return NC_VEXGPR;
        }
        return seen->mask ? NC_AVX512 : NC_AVX;
    default: return legacy_class_of(in, seen);
    }
}

static bool suppresses_faults(const ZydisDecodedInstruction *in)
{
    switch ((int)in->mnemonic) { /* mask elements are not memory elements */
    case ZYDIS_MNEMONIC_VCVTNE2PS2BF16:
    case ZYDIS_MNEMONIC_VDBPSADBW:
    case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB:
    case ZYDIS_MNEMONIC_VGF2P8AFFINEQB:
    case ZYDIS_MNEMONIC_VPMULTISHIFTQB: return false;
    default: break;
    }
    switch ((int)in->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_E1NF:
    case ZYDIS_EXCEPTION_CLASS_E2NF:
    case ZYDIS_EXCEPTION_CLASS_E3NF:
    case ZYDIS_EXCEPTION_CLASS_E4NF:
    case ZYDIS_EXCEPTION_CLASS_E5NF:
    case ZYDIS_EXCEPTION_CLASS_E6NF:
    case ZYDIS_EXCEPTION_CLASS_E9NF:
    case ZYDIS_EXCEPTION_CLASS_E10NF:
    case ZYDIS_EXCEPTION_CLASS_E11NF: return false;
    default: return true;
    }
}

/* How many elements a broadcast memory operand becomes; 0: it is none. */
static unsigned broadcast_count(ZydisBroadcastMode m)
{
    switch (m) {
    case ZYDIS_BROADCAST_MODE_1_TO_2: return 2;
    case ZYDIS_BROADCAST_MODE_1_TO_4:
    case ZYDIS_BROADCAST_MODE_2_TO_4: return 4;
    case ZYDIS_BROADCAST_MODE_1_TO_8:
    case ZYDIS_BROADCAST_MODE_2_TO_8:
    case ZYDIS_BROADCAST_MODE_4_TO_8: return 8;
    case ZYDIS_BROADCAST_MODE_1_TO_16:
    case ZYDIS_BROADCAST_MODE_2_TO_16:
    case ZYDIS_BROADCAST_MODE_4_TO_16:
    case ZYDIS_BROADCAST_MODE_8_TO_16: return 16;
    case ZYDIS_BROADCAST_MODE_1_TO_32: return 32;
    case ZYDIS_BROADCAST_MODE_1_TO_64: return 64;
    case ZYDIS_BROADCAST_MODE_INVALID: break;
    }
    return 0;
}

/* Fills *d from the decoded form. false: not run natively. */
static bool describe(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops,
                     unsigned cd8, const struct form *f, struct native_desc *d)
{
    const struct isa_row *isa = NULL;
    for (size_t i = 0; i < sizeof(isa_rows) / sizeof(isa_rows[0]); i++) {
        if (isa_rows[i].set == in->meta.isa_set) {
            isa = &isa_rows[i];
        }
    }
    if (isa == NULL || !wanted_mnemonic(in->mnemonic)) {
        return false;
    }
    struct seen seen = {0};
    memset(d, 0, sizeof(*d));
    d->feature = isa->feature;
    d->flags = isa->vl ? ND_VL : 0;
    d->special = special_of(in->mnemonic);
    for (unsigned i = 0; i < in->operand_count; i++) {
        const ZydisDecodedOperand *o = &ops[i];
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            describe_reg(d, o, &seen);
        } else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (d->special != SP_MOVDIR64B || o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
                describe_mem(d, in, o);
            }
        }
    }
    d->imm = (uint8_t)(in->raw.imm[0].size / 8 + in->raw.imm[1].size / 8);
    if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && d->imm == 0 && f->map == 3) {
        d->imm = 1; /* a register in the immediate (IS4) */
    }
    d->cls = class_of(in, &seen);
    if (in->cpu_flags != NULL) {
        uint32_t any = in->cpu_flags->tested | in->cpu_flags->modified | in->cpu_flags->set_0 |
                       in->cpu_flags->set_1 | in->cpu_flags->undefined;
        uint32_t status = ZYDIS_CPUFLAG_CF | ZYDIS_CPUFLAG_PF | ZYDIS_CPUFLAG_AF |
                          ZYDIS_CPUFLAG_ZF | ZYDIS_CPUFLAG_SF | ZYDIS_CPUFLAG_OF;
        if (any & status) {
            d->flags |= ND_FLAGS;
        }
    }
    if (d->special == SP_MASKLOAD && (d->flags & ND_MEM_W)) {
        d->special = SP_MASKSTORE;
    }
    if (d->special == SP_MOVDIR64B) {
        d->feature = NF_MOVDIR64B;
    }
    if (in->meta.category == ZYDIS_CATEGORY_EXPAND ||
        in->mnemonic == ZYDIS_MNEMONIC_VPEXPANDB || in->mnemonic == ZYDIS_MNEMONIC_VPEXPANDW) {
        d->special = SP_EXPAND;
    }
    if (in->meta.category == ZYDIS_CATEGORY_COMPRESS ||
        in->mnemonic == ZYDIS_MNEMONIC_VPCOMPRESSB ||
        in->mnemonic == ZYDIS_MNEMONIC_VPCOMPRESSW) {
        d->special = SP_COMPRESS;
    }
    if (d->elem > 8) {
        d->elem = f->w ? 8 : 4; /* VEXTRACTF32X8 and the like: masked by these */
    }
    if (f->enc == 2 && d->elem != 0) {
        d->n_masked = (uint8_t)broadcast_count(in->avx.broadcast.mode);
        if (in->mnemonic == ZYDIS_MNEMONIC_VMOVDDUP && f->vl == 0) {
            d->n_masked = 2;
        }
        if (d->n_masked == 0) {
            d->n_masked = d->mem_len / d->elem;
        }
    }
    if (f->enc == 2) {
        if (!suppresses_faults(in)) {
            d->flags |= ND_NF;
        }
        while ((1u << d->d8_shift) < cd8) {
            d->d8_shift++;
        }
    }
    d->align = alignment_of(in, d);
    return true;
}

static bool is_vsib_opcode(const struct form *f)
{
    unsigned o = f->opcode;
    return f->enc != 0 && f->map == 2 && f->pp == 1 && !f->mod3 &&
           ((o >= 0x90 && o <= 0x93) || (f->enc == 2 && o >= 0xa0 && o <= 0xa3));
}

static uint16_t intern_desc(const struct native_desc *d)
{
    for (unsigned i = 1; i < n_descs; i++) {
        if (memcmp(&descs[i], d, sizeof(*d)) == 0) {
            return (uint16_t)i;
        }
    }
    if (n_descs == 4096) {
        fail("too many descriptors");
    }
    descs[n_descs] = *d;
    return (uint16_t)n_descs++;
}

/* Whether the same bytes mean smaller operands outside 64-bit mode. */
static bool w_is_ignored_in_32(const uint8_t *bytes, size_t n,
                               const ZydisDecodedInstruction *in64,
                               const ZydisDecodedOperand *ops64)
{
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder32, bytes, n, &in, ops))) {
        return true;
    }
    if (in.mnemonic != in64->mnemonic || in.operand_count != in64->operand_count) {
        return true;
    }
    for (unsigned i = 0; i < in.operand_count; i++) {
        bool flags = ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                     ZydisRegisterGetClass(ops[i].reg.value) == ZYDIS_REGCLASS_FLAGS;
        if (!flags && ops[i].size != ops64[i].size) {
            return true;
        }
    }
    return false;
}

static uint16_t query(const struct form *f)
{
    uint8_t bytes[24];
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecoderContext ctx;
    struct native_desc d;
    struct form g = *f;
    bool vsib = is_vsib_opcode(f);
    if (vsib) {
        g.reg = 3;
    }
    size_t n = encode(&g, vsib, bytes);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, &ctx, bytes, n, &in)) ||
        !ZYAN_SUCCESS(ZydisDecoderDecodeOperands(&decoder, &ctx, &in, ops, in.operand_count))) {
        return 0;
    }
    if (!describe(&in, ops, ctx.cd8_scale, f, &d)) {
        return 0;
    }
    if (f->enc != 0 && f->w && w_is_ignored_in_32(bytes, n, &in, ops)) {
        d.flags |= ND_W64;
    }
    if (vsib) {
        d.special = f->opcode >= 0xa0 ? SP_SCATTER : SP_GATHER;
        d.elem = f->w ? 8 : 4;
        d.mem_len = d.elem;
        d.d8_shift = f->w ? 3 : 2;
        d.feature = f->enc == 2 ? NF_AVX512F : NF_AVX2;
    }
    return intern_desc(&d);
}

static unsigned dim_size(unsigned dim)
{
    return dim == ND_DIM_REG ? 8 : dim == ND_DIM_L ? 4 : 2;
}

/* Removes a dimension of the n values if they do not depend on it; stride is the product of the
 * sizes of those after it. */
static bool collapse(uint16_t *v, unsigned *n, unsigned size, unsigned stride)
{
    for (unsigned i = 0; i < *n; i++) {
        unsigned base = i - (i / stride % size) * stride;
        if (v[i] != v[base]) {
            return false;
        }
    }
    unsigned out = 0;
    for (unsigned i = 0; i < *n; i++) {
        if (i / stride % size == 0) {
            v[out++] = v[i];
        }
    }
    *n = out;
    return true;
}

static uint16_t intern_index(const uint16_t *v, unsigned n)
{
    for (unsigned i = 0; i + n <= n_index; i++) {
        if (memcmp(&index_pool[i], v, n * sizeof(*v)) == 0) {
            return (uint16_t)i;
        }
    }
    if (n_index + n > 65535) {
        fail("index pool is full");
    }
    memcpy(&index_pool[n_index], v, n * sizeof(*v));
    n_index += n;
    return (uint16_t)(n_index - n);
}

static uint16_t make_node(unsigned enc, unsigned map, unsigned pp, unsigned opcode)
{
    uint16_t v[DIM_MAX];
    unsigned n = 0;
    int imm = -1;
    for (unsigned i = 0; i < DIM_MAX; i++) {
        struct form f = {enc,        map,        pp,         opcode, i >> 7,
                         i >> 4 & 7, i >> 3 & 1, i >> 1 & 3, i & 1};
        if ((enc != 2 && f.b) || (enc == 0 && f.vl) || (enc == 1 && f.vl > 1)) {
            v[n] = v[n - 1];
            n++;
            continue;
        }
        v[n] = query(&f);
        if (v[n] != 0) {
            int k = descs[v[n]].imm;
            imm = imm == -1 || imm == k ? k : -2;
        }
        n++;
    }
    if (imm == -1) {
        return 0;
    }
    struct native_node node = {.dims = 0, .imm = (int8_t)imm};
    static const uint8_t order[] = {ND_DIM_B, ND_DIM_L, ND_DIM_W, ND_DIM_REG, ND_DIM_MOD3};
    unsigned stride = 1;
    for (unsigned i = 0; i < sizeof(order); i++) {
        if (!collapse(v, &n, dim_size(order[i]), stride)) {
            node.dims |= order[i];
            stride *= dim_size(order[i]);
        }
    }
    node.first = intern_index(v, n);
    for (unsigned i = 1; i < n_nodes; i++) {
        if (memcmp(&nodes[i], &node, sizeof(node)) == 0) {
            return (uint16_t)i;
        }
    }
    nodes[n_nodes] = node;
    return (uint16_t)n_nodes++;
}

static void emit(FILE *out)
{
    fprintf(out,
            "/* Made by tools/gen_vec_table.c. */\n#include \"cpu/soft/native_table.h\"\n\n");
    fprintf(out, "const struct native_desc native_descs[] = {\n");
    for (unsigned i = 0; i < n_descs; i++) {
        const struct native_desc *d = &descs[i];
        fprintf(out, "    {%u, %u, %u, %u, %u, %u, %u, %u, %u, 0x%x},\n", d->feature, d->cls,
                d->special, d->imm, d->mem_len, d->elem, d->align, d->d8_shift, d->n_masked,
                d->flags);
    }
    fprintf(out, "};\nconst uint16_t native_index[] = {");
    for (unsigned i = 0; i < n_index; i++) {
        fprintf(out, "%s%u,", i % 16 ? " " : "\n    ", index_pool[i]);
    }
    fprintf(out, "\n};\nconst struct native_node native_nodes[] = {\n");
    for (unsigned i = 0; i < n_nodes; i++) {
        fprintf(out, "    {%u, %u, %d},\n", nodes[i].first, nodes[i].dims, nodes[i].imm);
    }
    fprintf(out, "};\nconst uint16_t native_opcodes[][4][256] = {\n");
    for (unsigned p = 0; p < NATIVE_N_PAGES; p++) {
        fprintf(out, "    {\n");
        for (unsigned pp = 0; pp < 4; pp++) {
            fprintf(out, "        {");
            for (unsigned o = 0; o < 256; o++) {
                fprintf(out, "%s%u,", o % 16 ? " " : "\n            ", opcodes[p][pp][o]);
            }
            fprintf(out, "\n        },\n");
        }
        fprintf(out, "    },\n");
    }
    fprintf(out, "};\n");
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fail("usage: gen_vec_table OUTPUT");
    }
    if (!ZYAN_SUCCESS(
            ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)) ||
        !ZYAN_SUCCESS(ZydisDecoderInit(&decoder32, ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
                                       ZYDIS_STACK_WIDTH_32))) {
        fail("cannot set Zydis up");
    }
    static const uint8_t maps[3][6] = {{1, 2, 3}, {1, 2, 3}, {1, 2, 3, 5, 6}};
    nodes[0].imm = -1;
    for (unsigned enc = 0; enc < 3; enc++) {
        for (unsigned m = 0; m < 6 && maps[enc][m] != 0; m++) {
            int page = native_page(enc, maps[enc][m]);
            for (unsigned k = 0; k < 4 * 256; k++) {
                opcodes[page][k >> 8][k & 255] = make_node(enc, maps[enc][m], k >> 8, k & 255);
            }
        }
    }
    FILE *out = fopen(argv[1], "w");
    if (out == NULL) {
        fail("cannot write the output");
    }
    emit(out);
    if (fclose(out) != 0) {
        fail("cannot write the output");
    }
    return 0;
}
