/* The opcode tables: SDM vol. 2 appendix A, AMD APM vol. 3 appendix A. */
#include "cpu/soft/optable.h"

#include "cpu/soft/ops.h"
#include "cpu/soft/sysinsn.h"

#include <stddef.h>

#define M    OP_MODRM
#define I8   OP_IMM8
#define IZ   OP_IMMZ
#define LK   OP_LOCK
#define END  OP_END
#define NO64 OP_NO64
#define D64  OP_D64
#define F64  OP_F64
#define BY   OP_BYTE
#define REL8 (OP_IMM8 | OP_REL | OP_F64 | OP_END)
#define RELZ (OP_IMMZ | OP_REL | OP_F64 | OP_END)
#define UD                                                                                     \
    {                                                                                          \
        .fn = NULL                                                                             \
    }
#define NATIVE                                                                                 \
    {                                                                                          \
        .fn = NULL, .flags = OP_NATIVE | M                                                     \
    }
#define OP(f, fl)                                                                              \
    {                                                                                          \
        .fn = (f), .flags = (fl)                                                               \
    }
#define OPK(f, fl, k)                                                                          \
    {                                                                                          \
        .fn = (f), .flags = (fl), .kind = (k)                                                  \
    }
#define GRP(g, fl)                                                                             \
    {                                                                                          \
        .flags = OP_GROUP | M | (fl), .group = (g)                                             \
    }
#define RESOLVE(r)                                                                             \
    {                                                                                          \
        .flags = OP_RESOLVE | M, .resolve = (r)                                                \
    }

#define ALU_ROWS(lk)                                                                           \
    OPK(soft_op_alu_rm_r, M | BY | (lk), K_ALU), OPK(soft_op_alu_rm_r, M | (lk), K_ALU),       \
        OPK(soft_op_alu_rm_r, M | BY, K_ALU), OPK(soft_op_alu_rm_r, M, K_ALU),                 \
        OPK(soft_op_alu_a_imm, I8 | BY, K_ALU), OPK(soft_op_alu_a_imm, IZ, K_ALU)
#define X8(row) row, row, row, row, row, row, row, row
#define X4(row) row, row, row, row
#define X2(row) row, row

#define GRP1_ROWS(fl)                                                                          \
    {                                                                                          \
        OPK(soft_op_grp1, (fl) | LK, K_ALU), OPK(soft_op_grp1, (fl) | LK, K_ALU),              \
            OPK(soft_op_grp1, (fl) | LK, K_ALU), OPK(soft_op_grp1, (fl) | LK, K_ALU),          \
            OPK(soft_op_grp1, (fl) | LK, K_ALU), OPK(soft_op_grp1, (fl) | LK, K_ALU),          \
            OPK(soft_op_grp1, (fl) | LK, K_ALU), OPK(soft_op_grp1, (fl), K_ALU),               \
    }
static const struct opcode grp1_80[8] = GRP1_ROWS(M | I8 | BY);
static const struct opcode grp1_81[8] = GRP1_ROWS(M | IZ);
static const struct opcode grp1_82[8] = GRP1_ROWS(M | I8 | BY | NO64);
static const struct opcode grp1_83[8] = GRP1_ROWS(M | I8);
static const struct opcode grp1a[8] = {OPK(soft_op_pop_rm, M | D64, K_NONE)};
static const struct opcode grp2_c0[8] = {X8(OPK(soft_op_shift, M | OP_IMM8U | BY, K_SHIFT))};
static const struct opcode grp2_c1[8] = {X8(OPK(soft_op_shift, M | OP_IMM8U, K_SHIFT))};
static const struct opcode grp2_d0[8] = {X8(OPK(soft_op_shift, M | BY, K_SHIFT))};
static const struct opcode grp2_d1[8] = {X8(OPK(soft_op_shift, M, K_SHIFT))};

#define GRP3_ROWS(fl, imm)                                                                     \
    {                                                                                          \
        OPK(soft_op_test_rm_imm, (fl) | (imm), K_TEST),                                        \
            OPK(soft_op_test_rm_imm, (fl) | (imm), K_TEST),                                    \
            OPK(soft_op_not, (fl) | LK, K_NEGNOT), OPK(soft_op_neg, (fl) | LK, K_NEGNOT),      \
            OPK(soft_op_mul, (fl), K_MULDIV), OPK(soft_op_imul, (fl), K_MULDIV),               \
            OPK(soft_op_div, (fl), K_MULDIV), OPK(soft_op_idiv, (fl), K_MULDIV),               \
    }
static const struct opcode grp3_f6[8] = GRP3_ROWS(M | BY, I8);
static const struct opcode grp3_f7[8] = GRP3_ROWS(M, IZ);
static const struct opcode grp4[8] = {
    OPK(soft_op_inc_dec_rm, M | BY | LK, K_INCDEC),
    OPK(soft_op_inc_dec_rm, M | BY | LK, K_INCDEC),
};
static const struct opcode grp5[8] = {
    OPK(soft_op_inc_dec_rm, M | LK, K_INCDEC),
    OPK(soft_op_inc_dec_rm, M | LK, K_INCDEC),
    OPK(soft_op_call_rm, M | F64 | END, K_CALLIND),
    OP(soft_insn_call_far_mem, M | OP_MEMONLY | END),
    OPK(soft_op_jmp_rm, M | F64 | END, K_JMPIND),
    OP(soft_insn_jmp_far_mem, M | OP_MEMONLY | END),
    OPK(soft_op_push_rm, M | D64, K_PUSH),
    UD,
};
static const struct opcode grp11_c6[8] = {OPK(soft_op_mov_rm_imm, M | I8 | BY, K_MOVIMM)};
static const struct opcode grp11_c7[8] = {OPK(soft_op_mov_rm_imm, M | IZ, K_MOVIMM)};

static const struct opcode row_pause = OP(soft_insn_pause, 0);
static const struct opcode row_xchg_a = OPK(soft_op_xchg_a, 0, K_XCHG);
static const struct opcode row_nop = OPK(soft_op_nop, 0, K_NOP);

static const struct opcode *resolve_90(const struct insn *in)
{
    if (in->rex & 1) {
        return &row_xchg_a;
    }
    return in->rep == REP_F3 ? &row_pause : &row_nop;
}

const struct opcode op_row_arpl = OP(soft_insn_arpl, M);

const struct opcode op_table_1b[256] = {
    /* 00 */ ALU_ROWS(LK),
    OP(soft_insn_push_sreg, NO64),
    OP(soft_insn_pop_sreg, NO64 | END),
    /* 08 */ ALU_ROWS(LK),
    OP(soft_insn_push_sreg, NO64),
    UD,
    /* 10 */ ALU_ROWS(LK),
    OP(soft_insn_push_sreg, NO64),
    OP(soft_insn_pop_sreg, NO64 | END),
    /* 18 */ ALU_ROWS(LK),
    OP(soft_insn_push_sreg, NO64),
    OP(soft_insn_pop_sreg, NO64 | END),
    /* 20 */ ALU_ROWS(LK),
    UD,
    OP(soft_op_daa_das, NO64),
    /* 28 */ ALU_ROWS(LK),
    UD,
    OP(soft_op_daa_das, NO64),
    /* 30 */ ALU_ROWS(LK),
    UD,
    OP(soft_op_aaa_aas, NO64),
    /* 38 */ ALU_ROWS(0),
    UD,
    OP(soft_op_aaa_aas, NO64),
    /* 40 */ X8(OPK(soft_op_inc_dec_reg, NO64, K_INCDEC)),
    /* 48 */ X8(OPK(soft_op_inc_dec_reg, NO64, K_INCDEC)),
    /* 50 */ X8(OPK(soft_op_push_reg, D64, K_PUSH)),
    /* 58 */ X8(OPK(soft_op_pop_reg, D64, K_POP)),
    /* 60 */ OP(soft_op_pusha, NO64),
    OP(soft_op_popa, NO64),
    OP(soft_insn_bound, M | NO64 | OP_MEMONLY),
    OPK(soft_op_movsxd, M, K_MOVSXD),
    UD,
    UD,
    UD,
    UD,
    /* 68 */ OPK(soft_op_push_imm, IZ | D64, K_PUSH),
    OPK(soft_op_imul_r_rm_imm, M | IZ, K_IMUL),
    OPK(soft_op_push_imm, I8 | D64, K_PUSH),
    OPK(soft_op_imul_r_rm_imm, M | I8, K_IMUL),
    OP(soft_insn_ins, 0),
    OP(soft_insn_ins, 0),
    OP(soft_insn_outs, 0),
    OP(soft_insn_outs, 0),
    /* 70 */ X8(OPK(soft_op_jcc, REL8, K_JCC)),
    /* 78 */ X8(OPK(soft_op_jcc, REL8, K_JCC)),
    /* 80 */ GRP(grp1_80, 0),
    GRP(grp1_81, 0),
    GRP(grp1_82, 0),
    GRP(grp1_83, 0),
    OPK(soft_op_test_rm_r, M | BY, K_TEST),
    OPK(soft_op_test_rm_r, M, K_TEST),
    OPK(soft_op_xchg_rm_r, M | BY | LK, K_XCHG),
    OPK(soft_op_xchg_rm_r, M | LK, K_XCHG),
    /* 88 */ OPK(soft_op_mov_rm_r, M | BY, K_MOV),
    OPK(soft_op_mov_rm_r, M, K_MOV),
    OPK(soft_op_mov_rm_r, M | BY, K_MOV),
    OPK(soft_op_mov_rm_r, M, K_MOV),
    OP(soft_insn_mov_from_sreg, M),
    OPK(soft_op_lea, M | OP_MEMONLY, K_LEA),
    OP(soft_insn_mov_to_sreg, M | END),
    GRP(grp1a, D64),
    /* 90 */ {.flags = OP_RESOLVE, .resolve = resolve_90},
    X4(OPK(soft_op_xchg_a, 0, K_XCHG)),
    X2(OPK(soft_op_xchg_a, 0, K_XCHG)),
    OPK(soft_op_xchg_a, 0, K_XCHG),
    /* 98 */ OPK(soft_op_cbw, 0, K_CBW),
    OPK(soft_op_cwd, 0, K_CWD),
    OP(soft_insn_call_far_imm, OP_FARPTR | NO64 | END),
    {.fn = NULL, .flags = OP_NATIVE},
    OPK(soft_insn_pushf, D64, K_PUSHF),
    OP(soft_insn_popf, D64 | END),
    OP(soft_op_sahf, 0),
    OP(soft_op_lahf, 0),
    /* A0 */ OP(soft_op_mov_moffs, OP_MOFFS | BY),
    OP(soft_op_mov_moffs, OP_MOFFS),
    OP(soft_op_mov_moffs, OP_MOFFS | BY),
    OP(soft_op_mov_moffs, OP_MOFFS),
    OP(soft_op_movs, BY),
    OP(soft_op_movs, 0),
    OP(soft_op_cmps, BY),
    OP(soft_op_cmps, 0),
    /* A8 */ OPK(soft_op_test_a_imm, I8 | BY, K_TEST),
    OPK(soft_op_test_a_imm, IZ, K_TEST),
    OP(soft_op_stos, BY),
    OP(soft_op_stos, 0),
    OP(soft_op_lods, BY),
    OP(soft_op_lods, 0),
    OP(soft_op_scas, BY),
    OP(soft_op_scas, 0),
    /* B0 */ X8(OPK(soft_op_mov_reg_imm, I8 | BY, K_MOVIMM)),
    /* B8 */ X8(OPK(soft_op_mov_reg_imm, OP_IMMV, K_MOVIMM)),
    /* C0 */ GRP(grp2_c0, OP_IMM8U),
    GRP(grp2_c1, OP_IMM8U),
    OPK(soft_op_ret, OP_IMM16 | F64 | END, K_RET),
    OPK(soft_op_ret, F64 | END, K_RET),
    OP(soft_insn_les, M | NO64 | OP_MEMONLY | END),
    OP(soft_insn_lds, M | NO64 | OP_MEMONLY | END),
    GRP(grp11_c6, I8),
    GRP(grp11_c7, IZ),
    /* C8 */ OP(soft_insn_enter, OP_ENTER | D64),
    OPK(soft_insn_leave, D64, K_LEAVE),
    OP(soft_insn_ret_far, OP_IMM16 | END),
    OP(soft_insn_ret_far, END),
    OP(soft_insn_int3, END),
    OP(soft_insn_int_n, OP_IMM8U | END),
    OP(soft_insn_into, NO64),
    OP(soft_insn_iret, END),
    /* D0 */ GRP(grp2_d0, 0),
    GRP(grp2_d1, 0),
    GRP(grp2_d0, 0),
    GRP(grp2_d1, 0),
    OP(soft_op_aam, OP_IMM8U | NO64),
    OP(soft_op_aad, OP_IMM8U | NO64),
    OP(soft_op_salc, NO64),
    OP(soft_op_xlat, 0),
    /* D8 */ X8(NATIVE),
    /* E0 */ X4(OP(soft_op_loop, REL8)),
    OP(soft_insn_in_imm, OP_IMM8U),
    OP(soft_insn_in_imm, OP_IMM8U),
    OP(soft_insn_out_imm, OP_IMM8U),
    OP(soft_insn_out_imm, OP_IMM8U),
    /* E8 */ OPK(soft_op_call_rel, RELZ, K_CALL),
    OPK(soft_op_jmp_rel, RELZ, K_JMP),
    OP(soft_insn_jmp_far_imm, OP_FARPTR | NO64 | END),
    OPK(soft_op_jmp_rel, REL8, K_JMP),
    OP(soft_insn_in_dx, 0),
    OP(soft_insn_in_dx, 0),
    OP(soft_insn_out_dx, 0),
    OP(soft_insn_out_dx, 0),
    /* F0 */ UD,
    OP(soft_insn_int1, END),
    UD,
    UD,
    OP(soft_insn_hlt, END),
    OPK(soft_op_flag, 0, K_CARRY),
    GRP(grp3_f6, 0),
    GRP(grp3_f7, 0),
    /* F8 */ OPK(soft_op_flag, 0, K_CARRY),
    OPK(soft_op_flag, 0, K_CARRY),
    OPK(soft_insn_cli, 0, K_CLI),
    OPK(soft_insn_sti, 0, K_STI),
    OP(soft_op_flag, 0),
    OP(soft_op_flag, 0),
    GRP(grp4, 0),
    GRP(grp5, 0),
};

static const struct opcode grp6[8] = {
    OP(soft_insn_sldt, M),
    OP(soft_insn_str, M),
    OP(soft_insn_lldt, M),
    OP(soft_insn_ltr, M),
    OP(soft_insn_verr, M),
    OP(soft_insn_verw, M),
    UD,
    UD,
};
static const struct opcode grp7_mem[8] = {
    OP(soft_insn_sgdt, M),       OP(soft_insn_sidt, M),         OP(soft_insn_lgdt, M),
    OP(soft_insn_lidt, M),       OP(soft_insn_smsw, M),         UD,
    OP(soft_insn_lmsw, M | END), OP(soft_insn_invlpg, M | END),
};
static const struct opcode row_ud = UD;
/* 0F 01 with a register modrm, by the whole byte less C0h. */
static const struct opcode grp7_reg[64] = {
    [0x01] = OP(soft_insn_vmcall, M),
    [0x08] = OP(soft_insn_monitor, M),
    [0x09] = OP(soft_insn_mwait, M | END),
    [0x0a] = OPK(soft_insn_clac, M | END, K_SMAP),
    [0x0b] = OPK(soft_insn_stac, M | END, K_SMAP),
    [0x10] = OP(soft_insn_xgetbv, M),
    [0x11] = OP(soft_insn_xsetbv, M | END),
    [0x19] = OP(soft_insn_vmmcall, M),
    [0x20] = OP(soft_insn_smsw, M),
    [0x21] = OP(soft_insn_smsw, M),
    [0x22] = OP(soft_insn_smsw, M),
    [0x23] = OP(soft_insn_smsw, M),
    [0x24] = OP(soft_insn_smsw, M),
    [0x25] = OP(soft_insn_smsw, M),
    [0x26] = OP(soft_insn_smsw, M),
    [0x27] = OP(soft_insn_smsw, M),
    [0x30] = OP(soft_insn_lmsw, M | END),
    [0x31] = OP(soft_insn_lmsw, M | END),
    [0x32] = OP(soft_insn_lmsw, M | END),
    [0x33] = OP(soft_insn_lmsw, M | END),
    [0x34] = OP(soft_insn_lmsw, M | END),
    [0x35] = OP(soft_insn_lmsw, M | END),
    [0x36] = OP(soft_insn_lmsw, M | END),
    [0x37] = OP(soft_insn_lmsw, M | END),
    [0x38] = OPK(soft_insn_swapgs, M, K_SWAPGS),
    [0x39] = OPK(soft_insn_rdtscp, M, K_RDTSCP),
};
static const struct opcode *resolve_0f01(const struct insn *in)
{
    return in->mod != 3 ? &grp7_mem[in->reg & 7] : &grp7_reg[in->modrm & 0x3f];
}

static const struct opcode row_rdpid = OP(soft_insn_rdpid, M);
static const struct opcode row_cmpxchg8b =
    OPK(soft_op_cmpxchg8b, M | LK | OP_MEMONLY, K_CMPXCHG8B);
static const struct opcode row_native = NATIVE;
static const struct opcode *resolve_0fc7(const struct insn *in)
{
    if (in->mod != 3) { /* XSAVEC, XSAVES, XRSTORS are native.c's */
        return (in->reg & 7) == 1 ? &row_cmpxchg8b : &row_native;
    }
    return (in->reg & 7) == 7 && in->rep == REP_F3 ? &row_rdpid : &row_native;
}

static const struct opcode rows_fsgsbase[4] = {
    OP(soft_insn_rdfsbase, M),
    OP(soft_insn_rdgsbase, M),
    OP(soft_insn_wrfsbase, M),
    OP(soft_insn_wrgsbase, M | END),
};
static const struct opcode row_clflush = OP(soft_insn_clflush, M);
static const struct opcode row_fence = OPK(soft_op_nop, M, K_FENCE);
static const struct opcode *resolve_0fae(const struct insn *in)
{
    unsigned reg = in->reg & 7;
    if (in->mod == 3) {
        if (in->rep == REP_F3 && reg < 4) {
            return &rows_fsgsbase[reg];
        }
        return reg >= 5 && in->rep == REP_NONE && !in->has_66 ? &row_fence : &row_ud;
    }
    if (in->rep == REP_NONE && ((reg == 7) || (reg == 6 && in->has_66))) {
        return &row_clflush;
    }
    return &row_native;
}

static const struct opcode grp8[8] = {
    UD,
    UD,
    UD,
    UD,
    OPK(soft_op_bt, M | OP_IMM8U, K_BT),
    OPK(soft_op_bt, M | OP_IMM8U | LK, K_BT),
    OPK(soft_op_bt, M | OP_IMM8U | LK, K_BT),
    OPK(soft_op_bt, M | OP_IMM8U | LK, K_BT),
};
static const struct opcode row_bsf = OPK(soft_op_bsf_bsr, M, K_BSCAN);
static const struct opcode *resolve_f3_native(const struct insn *in)
{
    return in->rep == REP_F3 ? &row_native : &row_bsf; /* TZCNT, LZCNT */
}
static const struct opcode *resolve_0fb8(const struct insn *in)
{
    return in->rep == REP_F3 ? &row_native : &row_ud; /* POPCNT */
}

const struct opcode op_table_0f[256] = {
    [0x00] = GRP(grp6, 0),
    [0x01] = RESOLVE(resolve_0f01),
    [0x02] = OP(soft_insn_lar, M),
    [0x03] = OP(soft_insn_lsl, M),
    [0x05] = OP(soft_insn_syscall, END),
    [0x06] = OP(soft_insn_clts, END),
    [0x07] = OP(soft_insn_sysret, END),
    [0x08] = OP(soft_insn_invd, 0),
    [0x09] = OP(soft_insn_wbinvd, 0),
    [0x0b] = OP(soft_insn_ud, END),
    [0x0d] = OP(soft_insn_prefetch, M | OP_MEMONLY),
    [0x10] = X8(NATIVE),
    [0x18] = X8(OPK(soft_op_nop, M, K_NOP)),
    [0x20] = OP(soft_insn_mov_from_cr, M | OP_NOMOD),
    OP(soft_insn_mov_from_dr, M | OP_NOMOD),
    OP(soft_insn_mov_to_cr, M | OP_NOMOD | END | OP_LOCK),
    OP(soft_insn_mov_to_dr, M | OP_NOMOD | END),
    [0x28] = X8(NATIVE),
    [0x30] = OP(soft_insn_wrmsr, END),
    OPK(soft_insn_rdtsc, 0, K_RDTSC),
    OP(soft_insn_rdmsr, 0),
    OP(soft_insn_rdpmc, 0),
    OP(soft_insn_sysenter, END),
    OP(soft_insn_sysexit, END),
    [0x40] = X8(OPK(soft_op_cmov, M, K_CMOV)),
    X8(OPK(soft_op_cmov, M, K_CMOV)),
    [0x50] = X8(NATIVE),
    X8(NATIVE),
    X8(NATIVE),
    X8(NATIVE), /* 50-6F */
    [0x70] = X4(NATIVE),
    X2(NATIVE),
    NATIVE,
    {.fn = NULL, .flags = OP_NATIVE}, /* 77: EMMS */
    X8(NATIVE),
    [0x80] = X8(OPK(soft_op_jcc, RELZ, K_JCC)),
    X8(OPK(soft_op_jcc, RELZ, K_JCC)),
    [0x90] = X8(OPK(soft_op_setcc, M | BY, K_SETCC)),
    X8(OPK(soft_op_setcc, M | BY, K_SETCC)),
    [0xa0] = OP(soft_insn_push_sreg, D64),
    OP(soft_insn_pop_sreg, D64 | END),
    OP(soft_insn_cpuid, 0),
    OPK(soft_op_bt, M, K_BT),
    OPK(soft_op_shld_shrd, M | OP_IMM8U, K_SHD),
    OPK(soft_op_shld_shrd, M, K_SHD),
    [0xa8] = OP(soft_insn_push_sreg, D64),
    OP(soft_insn_pop_sreg, D64 | END),
    OP(soft_insn_rsm, END),
    OPK(soft_op_bt, M | LK, K_BT),
    OPK(soft_op_shld_shrd, M | OP_IMM8U, K_SHD),
    OPK(soft_op_shld_shrd, M, K_SHD),
    RESOLVE(resolve_0fae),
    OPK(soft_op_imul_r_rm, M, K_IMUL),
    [0xb0] = OPK(soft_op_cmpxchg, M | BY | LK, K_CMPXCHG),
    OPK(soft_op_cmpxchg, M | LK, K_CMPXCHG),
    OP(soft_insn_lss, M | OP_MEMONLY | END),
    OPK(soft_op_bt, M | LK, K_BT),
    OP(soft_insn_lfs, M | OP_MEMONLY | END),
    OP(soft_insn_lgs, M | OP_MEMONLY | END),
    OPK(soft_op_movzx, M | BY, K_MOVZX),
    OPK(soft_op_movzx, M, K_MOVZX),
    [0xb8] = RESOLVE(resolve_0fb8),
    OP(soft_insn_ud, M | END),
    GRP(grp8, OP_IMM8U),
    OPK(soft_op_bt, M | LK, K_BT),
    RESOLVE(resolve_f3_native),
    RESOLVE(resolve_f3_native),
    OPK(soft_op_movsx, M | BY, K_MOVSX),
    OPK(soft_op_movsx, M, K_MOVSX),
    [0xc0] = OPK(soft_op_xadd, M | BY | LK, K_XADD),
    OPK(soft_op_xadd, M | LK, K_XADD),
    NATIVE,
    NATIVE,
    NATIVE,
    NATIVE,
    NATIVE,
    RESOLVE(resolve_0fc7),
    [0xc8] = X8(OPK(soft_op_bswap, 0, K_BSWAP)),
    [0xd0] = X8(NATIVE),
    X8(NATIVE),
    X8(NATIVE),
    X8(NATIVE),
    X8(NATIVE), /* D0-F7 */
    [0xf8] = X4(NATIVE),
    X2(NATIVE),
    NATIVE,
    [0xff] = OP(soft_insn_ud, M | END),
};

static const struct opcode row_invpcid = OP(soft_insn_invpcid, M | OP_MEMONLY | END);

const struct opcode *op_0f38(const struct insn *in)
{
    return in->opcode == 0x82 && in->has_66 ? &row_invpcid : NULL;
}
