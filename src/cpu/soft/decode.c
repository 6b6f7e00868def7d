/*
 * Instruction decoder: legacy, VEX and EVEX encodings in all operating modes (SDM vol. 2
 * chapter 2 and appendix A). Which bytes follow an opcode comes from optable.c and, for vector,
 * x87 and bit-manipulation opcodes, from native.c.
 */
#include "cpu/soft/decode.h"

#include "base/bytes.h"
#include "cpu/soft/native.h"
#include "cpu/soft/optable.h"
#include "cpu/soft/soft.h"

struct cursor {
    const uint8_t *p;
    size_t pos, avail;
    enum decode_result fail;
};

/* Next n bytes (0..8), little-endian; on shortage sets fail and returns 0. */
static uint64_t take(struct cursor *cu, unsigned n)
{
    uint64_t v = 0;
    if (cu->pos + n > 15) {
        cu->fail = DECODE_LONG;
        return 0;
    }
    if (cu->pos + n > cu->avail) {
        if (cu->fail == DECODE_OK) {
            cu->fail = DECODE_SHORT;
        }
        return 0;
    }
    for (unsigned i = 0; i < n; i++) {
        v |= (uint64_t)cu->p[cu->pos + i] << (8 * i);
    }
    cu->pos += n;
    return v;
}

static uint64_t take_signed(struct cursor *cu, unsigned n)
{
    uint64_t v = take(cu, n);
    switch (n) {
    case 1: return (uint64_t)(int64_t)(int8_t)v;
    case 2: return (uint64_t)(int64_t)(int16_t)v;
    case 4: return (uint64_t)(int64_t)(int32_t)v;
    default: return v;
    }
}

static uint8_t decode_prefixes(struct cursor *cu, uint32_t mode, struct insn *in)
{
    static const uint8_t segs[] = {[0x26 - 0x26] = X86_ES,
                                   [0x2e - 0x26] = X86_CS,
                                   [0x36 - 0x26] = X86_SS,
                                   [0x3e - 0x26] = X86_DS};
    for (;;) {
        uint8_t b = (uint8_t)take(cu, 1);
        if (cu->fail != DECODE_OK) {
            return 0;
        }
        switch (b) {
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
            if (!(mode & MODE_64)) { /* ignored in 64-bit mode */
                in->seg_override = segs[b - 0x26];
            }
            break;
        case 0x64: in->seg_override = X86_FS; break;
        case 0x65: in->seg_override = X86_GS; break;
        case 0x66: in->has_66 = true; break;
        case 0x67: in->has_67 = true; break;
        case 0xf0: in->lock = true; break;
        case 0xf2: in->rep = REP_F2; break;
        case 0xf3: in->rep = REP_F3; break;
        default:
            if ((b & 0xf0) == 0x40 && (mode & MODE_64)) {
                in->rex = b;
                continue;
            }
            return b;
        }
        in->rex = 0; /* counts only right before the opcode */
    }
}

static void decode_sizes(uint32_t mode, struct insn *in)
{
    if (mode & MODE_64) {
        in->osize = (in->rex & 8) ? 8 : in->has_66 ? 2 : 4;
        in->asize = in->has_67 ? 4 : 8;
    } else {
        bool big = (mode & MODE_CS32) != 0;
        in->osize = big != in->has_66 ? 4 : 2;
        in->asize = big != in->has_67 ? 4 : 2;
    }
    in->pp = in->rep == REP_F2 ? 3 : in->rep == REP_F3 ? 2 : in->has_66 ? 1 : 0;
}

/* VEX and EVEX replace REX and the mandatory prefixes; with any of those before, #UD. */
static bool decode_vex(struct cursor *cu, uint32_t mode, struct insn *in, uint8_t first)
{
    if (in->rex != 0 || in->lock || in->rep != REP_NONE || in->has_66) {
        return false;
    }
    uint8_t b1 = (uint8_t)take(cu, 1);
    uint8_t r = (b1 & 0x80) ? 0 : 4, x = 0, b = 0;
    uint8_t last = b1;
    in->enc = ENC_VEX;
    in->map = MAP_0F;
    if (first == 0xc4) {
        x = (b1 & 0x40) ? 0 : 2;
        b = (b1 & 0x20) ? 0 : 1;
        in->map = b1 & 0x1f;
        last = (uint8_t)take(cu, 1);
        in->w = last >> 7;
    }
    in->vvvv = (uint8_t)(~(last >> 3) & 15);
    in->vl = (last >> 2) & 1;
    in->pp = last & 3;
    if (!(mode & MODE_64)) {
        r = x = b = 0;
    }
    in->rex = (uint8_t)(0x40 | r | x | b | ((in->w && (mode & MODE_64)) ? 8 : 0));
    return in->map >= 1 && in->map <= 3;
}

static bool decode_evex(struct cursor *cu, uint32_t mode, struct insn *in, uint8_t *ret_hi)
{
    if (in->rex != 0 || in->lock || in->rep != REP_NONE || in->has_66) {
        return false;
    }
    uint8_t p0 = (uint8_t)take(cu, 1), p1 = (uint8_t)take(cu, 1), p2 = (uint8_t)take(cu, 1);
    in->enc = ENC_EVEX;
    in->map = p0 & 7;
    in->pp = p1 & 3;
    in->w = p1 >> 7;
    in->vvvv = (uint8_t)((~(p1 >> 3) & 15) | ((p2 & 8) ? 0 : 16));
    in->vl = (p2 >> 5) & 3;
    in->aaa = p2 & 7;
    in->z = p2 >> 7;
    in->b = (p2 >> 4) & 1;
    if (mode & MODE_64) {
        in->rex = (uint8_t)(0x40 | ((p0 & 0x80) ? 0 : 4) | ((p0 & 0x40) ? 0 : 2) |
                            ((p0 & 0x20) ? 0 : 1) | (in->w ? 8 : 0));
        *ret_hi = (p0 & 0x10) ? 0 : 1; /* R': bit 4 of modrm.reg */
    }
    return (p0 & 8) == 0 && (p1 & 4) != 0 && in->map != 0 && in->map != 4 && in->map != 7;
}

static void decode_mem16(struct cursor *cu, struct insn *in)
{
    static const uint8_t bases[8] = {X86_RBX, X86_RBX, X86_RBP, X86_RBP,
                                     X86_RSI, X86_RDI, X86_RBP, X86_RBX};
    static const uint8_t indexes[8] = {X86_RSI,    X86_RDI,    X86_RSI,    X86_RDI,
                                       INSN_NOREG, INSN_NOREG, INSN_NOREG, INSN_NOREG};
    unsigned rm = in->modrm & 7;
    in->base = bases[rm];
    in->index = indexes[rm];
    in->seg = in->base == X86_RBP ? X86_SS : X86_DS;
    in->disp_len = in->mod == 1 ? 1 : in->mod == 2 ? 2 : 0;
    if (in->mod == 0 && rm == 6) {
        in->base = INSN_NOREG;
        in->seg = X86_DS;
        in->disp_len = 2;
    }
    in->disp_pos = (uint8_t)cu->pos;
    in->disp = (int64_t)take_signed(cu, in->disp_len);
}

static void decode_mem32(struct cursor *cu, uint32_t mode, struct insn *in)
{
    unsigned rm = in->modrm & 7;
    in->disp_len = in->mod == 1 ? 1 : in->mod == 2 ? 4 : 0;
    if (rm == 4) {
        uint8_t sib = (uint8_t)take(cu, 1);
        in->scale = sib >> 6;
        in->index = (uint8_t)(((sib >> 3) & 7) | ((in->rex & 2) << 2));
        if (in->index == X86_RSP) {
            in->index = INSN_NOREG; /* a VSIB operand looks at the byte itself */
        }
        in->base = (uint8_t)((sib & 7) | ((in->rex & 1) << 3));
        if ((sib & 7) == 5 && in->mod == 0) {
            in->base = INSN_NOREG;
            in->disp_len = 4;
        }
    } else if (rm == 5 && in->mod == 0) {
        in->disp_len = 4;
        if (mode & MODE_64) {
            in->base = INSN_RIP;
            in->rip_rel = true;
        }
    } else {
        in->base = (uint8_t)(rm | ((in->rex & 1) << 3));
    }
    in->seg = in->base == X86_RSP || in->base == X86_RBP ? X86_SS : X86_DS;
    in->disp_pos = (uint8_t)cu->pos;
    in->disp = (int64_t)take_signed(cu, in->disp_len);
}

static void decode_modrm(struct cursor *cu, uint32_t mode, struct insn *in, bool always_reg)
{
    in->has_modrm = true;
    in->modrm_pos = (uint8_t)cu->pos;
    in->modrm = (uint8_t)take(cu, 1);
    in->mod = in->modrm >> 6;
    if (always_reg) {
        in->mod = 3;
    }
    in->reg = (uint8_t)(((in->modrm >> 3) & 7) | ((in->rex & 4) << 1));
    in->rm = (uint8_t)((in->modrm & 7) | ((in->rex & 1) << 3));
    if (in->mod == 3) {
        return;
    }
    in->is_mem = true;
    if (in->asize == 2) {
        decode_mem16(cu, in);
    } else {
        decode_mem32(cu, mode, in);
    }
    if (in->seg_override < X86_NSEG) {
        in->seg = in->seg_override;
    }
}

static void decode_imm(struct cursor *cu, struct insn *in, uint32_t flags)
{
    in->imm_pos = (uint8_t)cu->pos;
    if (flags & OP_IMM8) {
        in->imm = take_signed(cu, 1);
    } else if (flags & OP_IMM8U) {
        in->imm = take(cu, 1);
    } else if (flags & OP_IMM16) {
        in->imm = take(cu, 2);
    } else if (flags & OP_IMMZ) {
        in->imm = take_signed(cu, in->osize == 2 ? 2 : 4);
    } else if (flags & OP_IMMV) {
        in->imm = take(cu, in->osize);
    } else if (flags & OP_MOFFS) {
        in->disp = (int64_t)take(cu, in->asize);
        in->base = INSN_NOREG;
        in->is_mem = true;
    } else if (flags & OP_FARPTR) {
        in->imm = take(cu, in->osize == 2 ? 2 : 4);
        in->imm2 = (uint16_t)take(cu, 2);
    } else if (flags & OP_ENTER) {
        in->imm = take(cu, 2);
        in->imm2 = (uint16_t)take(cu, 1);
    }
    in->imm_len = (uint8_t)(cu->pos - in->imm_pos);
}

/* modrm (unless read), immediate, and the rest of a native instruction. */
static enum decode_result decode_native(struct cursor *cu, uint32_t mode, struct insn *in,
                                        bool has_modrm, uint8_t reg_hi)
{
    if (has_modrm && !in->has_modrm) {
        decode_modrm(cu, mode, in, false);
    }
    if (cu->fail != DECODE_OK) {
        return cu->fail;
    }
    if (in->enc == ENC_EVEX) {
        in->reg = (uint8_t)(in->reg | (reg_hi << 4));
        if (in->mod == 3 && (mode & MODE_64)) {
            in->rm = (uint8_t)(in->rm | ((in->rex & 2) << 3)); /* EVEX.X extends a register */
        }
        if (in->disp_len == 1) {
            in->disp = (int64_t)((uint64_t)in->disp << native_disp8_shift(in));
        }
    }
    int imm = native_imm_bytes(in->enc, in->map, in->pp, in->opcode, in->modrm);
    if (imm < 0) {
        return DECODE_UD;
    }
    in->imm_pos = (uint8_t)cu->pos;
    in->imm = take(cu, (unsigned)imm);
    in->imm_len = (uint8_t)imm;
    return cu->fail;
}

static const struct opcode *pick_row(struct cursor *cu, uint32_t mode, struct insn *in,
                                     const struct opcode *row)
{
    if (row->flags & OP_MODRM) {
        decode_modrm(cu, mode, in, (row->flags & OP_NOMOD) != 0);
    }
    if (row->flags & OP_GROUP) {
        return &row->group[in->reg & 7];
    }
    if (row->flags & OP_RESOLVE) {
        return row->resolve(in);
    }
    return row;
}

static bool row_allowed(const struct opcode *row, uint32_t mode, const struct insn *in)
{
    if (row->fn == NULL || ((row->flags & OP_NO64) && (mode & MODE_64)) ||
        ((row->flags & OP_MEMONLY) && in->mod == 3)) {
        return false;
    }
    if (in->lock && !((row->flags & OP_LOCK) && (in->is_mem || (row->flags & OP_NOMOD)))) {
        return false;
    }
    return true;
}

static enum decode_result decode_legacy(struct cursor *cu, uint32_t mode, struct insn *in,
                                        const struct opcode **ret_op)
{
    const struct opcode *row;
    bool native_modrm = true;
    if (in->map == MAP_1B) {
        row = &op_table_1b[in->opcode];
        if (in->opcode == 0x63 && !(mode & MODE_64)) {
            row = &op_row_arpl;
        }
    } else if (in->map == MAP_0F) {
        row = &op_table_0f[in->opcode];
    } else {
        row = in->map == MAP_0F38 ? op_0f38(in) : NULL;
    }
    if (row != NULL) {
        native_modrm = (row->flags & OP_MODRM) != 0;
        row = pick_row(cu, mode, in, row);
        if (cu->fail != DECODE_OK) {
            return cu->fail;
        }
    }
    if (row == NULL || (row->flags & OP_NATIVE)) {
        *ret_op = NULL;
        return in->lock ? DECODE_UD : decode_native(cu, mode, in, native_modrm, 0);
    }
    if ((row->flags & (OP_D64 | OP_F64)) && (mode & MODE_64)) {
        /* AMD: the prefix makes near branches 16-bit ones; Intel ignores it there. */
        bool ignored = (row->flags & OP_F64) && !(mode & MODE_AMD);
        in->osize = in->has_66 && !ignored && !(in->rex & 8) ? 2 : 8;
    }
    decode_imm(cu, in, row->flags);
    if (cu->fail != DECODE_OK) {
        return cu->fail;
    }
    *ret_op = row;
    return row_allowed(row, mode, in) ? DECODE_OK : DECODE_UD;
}

/* C4, C5 and 62 are VEX and EVEX in 64-bit mode, and in protected mode when the next byte would
 * be a register form of the old instruction. */
static bool is_vex(const struct cursor *cu, uint32_t mode, uint8_t b)
{
    if (b != 0xc4 && b != 0xc5 && b != 0x62) {
        return false;
    }
    if (mode & MODE_64) {
        return true;
    }
    return (mode & MODE_PE) && !(mode & MODE_VM86) && cu->pos < cu->avail &&
           cu->p[cu->pos] >= 0xc0;
}

enum decode_result soft_decode(const uint8_t *bytes, size_t avail, uint32_t mode,
                               struct insn *in, const struct opcode **ret_op)
{
    struct cursor cu = {.p = bytes, .avail = avail, .fail = DECODE_OK};
    uint8_t reg_hi = 0;
    enum decode_result r;
    __builtin_memset(in, 0, sizeof(*in));
    in->seg_override = X86_NSEG;
    in->seg = X86_DS;
    in->base = in->index = INSN_NOREG;
    *ret_op = NULL;

    uint8_t b = decode_prefixes(&cu, mode, in);
    if (cu.fail != DECODE_OK) {
        return cu.fail;
    }
    decode_sizes(mode, in);
    if (in->seg_override < X86_NSEG) {
        in->seg = in->seg_override;
    }
    if (is_vex(&cu, mode, b)) {
        bool ok =
            b == 0x62 ? decode_evex(&cu, mode, in, &reg_hi) : decode_vex(&cu, mode, in, b);
        in->op_pos = (uint8_t)cu.pos;
        in->opcode = (uint8_t)take(&cu, 1);
        if (cu.fail == DECODE_OK && !ok) {
            cu.fail = DECODE_UD;
        }
        if (in->rex & 8) {
            in->osize = 8;
        }
        r = cu.fail != DECODE_OK
                ? cu.fail
                : decode_native(&cu, mode, in, native_has_modrm(in->map, in->opcode), reg_hi);
    } else {
        if (b == 0x0f) {
            b = (uint8_t)take(&cu, 1);
            in->map = MAP_0F;
            if (b == 0x38 || b == 0x3a) {
                in->map = b == 0x38 ? MAP_0F38 : MAP_0F3A;
                b = (uint8_t)take(&cu, 1);
            }
        }
        in->opcode = b;
        in->op_pos = (uint8_t)(cu.pos - 1);
        r = cu.fail != DECODE_OK ? cu.fail : decode_legacy(&cu, mode, in, ret_op);
    }
    in->len = (uint8_t)cu.pos;
    for (unsigned i = 0; i < in->len; i++) {
        in->bytes[i] = bytes[i];
    }
    return r;
}
