/* Handlers of the integer instructions, complete for every mode and size: the reference. */
#pragma once

#include "cpu/soft/insn.h"

/* ops_alu.c */
insn_fn soft_op_alu_rm_r; /* 00-3B: E op= G (opcode bit 1 clear) or G op= E */
insn_fn soft_op_alu_a_imm;
insn_fn soft_op_grp1; /* 80-83 */
insn_fn soft_op_test_rm_r;
insn_fn soft_op_test_a_imm;
insn_fn soft_op_test_rm_imm; /* F6/F7 /0 /1 */
insn_fn soft_op_not;
insn_fn soft_op_neg;
insn_fn soft_op_inc_dec_rm;  /* FE/FF /0 /1 */
insn_fn soft_op_inc_dec_reg; /* 40-4F */
insn_fn soft_op_mul;
insn_fn soft_op_imul;
insn_fn soft_op_div;
insn_fn soft_op_idiv;
insn_fn soft_op_imul_r_rm;
insn_fn soft_op_imul_r_rm_imm;
/* ops_shift.c */
insn_fn soft_op_shift; /* C0 C1 D0-D3 */
insn_fn soft_op_shld_shrd;
insn_fn soft_op_bt; /* A3 AB B3 BB, BA /4-/7 */
insn_fn soft_op_bsf_bsr;
/* ops_mov.c */
insn_fn soft_op_mov_rm_r; /* 88-8B */
insn_fn soft_op_mov_rm_imm;
insn_fn soft_op_mov_reg_imm; /* B0-BF */
insn_fn soft_op_mov_moffs;
insn_fn soft_op_movzx;
insn_fn soft_op_movsx;
insn_fn soft_op_movsxd;
insn_fn soft_op_lea;
insn_fn soft_op_xchg_rm_r;
insn_fn soft_op_xchg_a; /* 90-97 */
insn_fn soft_op_nop;
insn_fn soft_op_push_reg;
insn_fn soft_op_pop_reg;
insn_fn soft_op_push_imm;
insn_fn soft_op_push_rm;
insn_fn soft_op_pop_rm;
insn_fn soft_op_pusha;
insn_fn soft_op_popa;
insn_fn soft_op_cmov;
insn_fn soft_op_setcc;
insn_fn soft_op_bswap;
insn_fn soft_op_cbw;
insn_fn soft_op_cwd;
insn_fn soft_op_xlat;
insn_fn soft_op_lahf;
insn_fn soft_op_sahf;
insn_fn soft_op_flag; /* CMC CLC STC CLD STD */
insn_fn soft_op_salc;
/* ops_atomic.c */
insn_fn soft_op_cmpxchg;
insn_fn soft_op_cmpxchg8b; /* and 16B */
insn_fn soft_op_xadd;
/* ops_flow.c */
insn_fn soft_op_jcc;
insn_fn soft_op_jmp_rel;
insn_fn soft_op_call_rel;
insn_fn soft_op_jmp_rm;
insn_fn soft_op_call_rm;
insn_fn soft_op_ret;
insn_fn soft_op_loop; /* E0-E3 */
/* ops_string.c */
insn_fn soft_op_movs;
insn_fn soft_op_stos;
insn_fn soft_op_lods;
insn_fn soft_op_scas;
insn_fn soft_op_cmps;
/* ops_bcd.c */
insn_fn soft_op_daa_das;
insn_fn soft_op_aaa_aas;
insn_fn soft_op_aam;
insn_fn soft_op_aad;
