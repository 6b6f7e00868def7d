/*
 * Handlers of the system instructions, for the decoder's opcode tables. One name a mnemonic;
 * the decoder picks by (map, opcode, prefix, modrm.reg, modrm.mod) and has rejected LOCK. All
 * mode and privilege checks (#UD in real mode, CPL, CPUID features) are made by the handler.
 *
 * What the handlers expect in struct insn:
 *  - osize is 2, 4 or 8 by prefixes and mode alone. Whether an instruction defaults to 64 bits
 *    (push, pop, pushf, MOV CR) or ignores the prefix is the handler's business.
 *  - imm of JMP/CALL ptr16:16/32 is the offset (zero-extended to osize is enough), imm2 the
 * selector.
 *  - imm of INT n, IN/OUT imm8, RET imm16 and ENTER is the zero-extended constant; imm2 of
 * ENTER is the level.
 *  - reg is the whole field of modrm with REX.R for MOV CR/DR and MOV Sreg (not masked to 0-7).
 */
#pragma once

#include "cpu/soft/insn.h"

/* Far transfers: farxfer.c. */
insn_fn soft_insn_jmp_far_imm;  /* EA */
insn_fn soft_insn_call_far_imm; /* 9A */
insn_fn soft_insn_jmp_far_mem;  /* FF /5 (register form: #UD) */
insn_fn soft_insn_call_far_mem; /* FF /3 (register form: #UD) */
insn_fn soft_insn_ret_far;      /* CB and CA iw */
insn_fn soft_insn_iret;         /* CF */

/* Segment registers and descriptors: seg_insn.c. */
insn_fn soft_insn_mov_from_sreg; /* 8C: register form writes osize bytes, memory form 2 */
insn_fn soft_insn_mov_to_sreg;   /* 8E */
insn_fn soft_insn_push_sreg;     /* 06 0E 16 1E, 0F A0, 0F A8: which one from the opcode */
insn_fn soft_insn_pop_sreg;      /* 07 17 1F, 0F A1, 0F A9 */
insn_fn soft_insn_les;           /* C4 (legacy) */
insn_fn soft_insn_lds;           /* C5 (legacy) */
insn_fn soft_insn_lss;           /* 0F B2 */
insn_fn soft_insn_lfs;           /* 0F B4 */
insn_fn soft_insn_lgs;           /* 0F B5 */
insn_fn soft_insn_lar;           /* 0F 02 */
insn_fn soft_insn_lsl;           /* 0F 03 */
insn_fn soft_insn_arpl;          /* 63 outside 64-bit mode */
insn_fn soft_insn_sldt;          /* 0F 00 /0 */
insn_fn soft_insn_str;           /* 0F 00 /1 */
insn_fn soft_insn_lldt;          /* 0F 00 /2 */
insn_fn soft_insn_ltr;           /* 0F 00 /3 */
insn_fn soft_insn_verr;          /* 0F 00 /4 */
insn_fn soft_insn_verw;          /* 0F 00 /5 */
insn_fn soft_insn_sgdt;          /* 0F 01 /0 memory */
insn_fn soft_insn_sidt;          /* 0F 01 /1 memory */
insn_fn soft_insn_lgdt;          /* 0F 01 /2 memory */
insn_fn soft_insn_lidt;          /* 0F 01 /3 memory */
insn_fn soft_insn_smsw;          /* 0F 01 /4 both forms */
insn_fn soft_insn_lmsw;          /* 0F 01 /6 both forms */

/* Control: sysinsn.c. */
insn_fn soft_insn_invlpg;      /* 0F 01 /7 memory */
insn_fn soft_insn_swapgs;      /* 0F 01 F8 */
insn_fn soft_insn_rdtscp;      /* 0F 01 F9 */
insn_fn soft_insn_xgetbv;      /* 0F 01 D0 */
insn_fn soft_insn_xsetbv;      /* 0F 01 D1 */
insn_fn soft_insn_vmcall;      /* 0F 01 C1 */
insn_fn soft_insn_vmmcall;     /* 0F 01 D9 */
insn_fn soft_insn_monitor;     /* 0F 01 C8 */
insn_fn soft_insn_mwait;       /* 0F 01 C9 */
insn_fn soft_insn_clac;        /* 0F 01 CA */
insn_fn soft_insn_stac;        /* 0F 01 CB */
insn_fn soft_insn_mov_from_cr; /* 0F 20; mod is ignored: always a register */
insn_fn soft_insn_mov_from_dr; /* 0F 21 */
insn_fn soft_insn_mov_to_cr;   /* 0F 22 */
insn_fn soft_insn_mov_to_dr;   /* 0F 23 */
insn_fn soft_insn_clts;        /* 0F 06 */
insn_fn soft_insn_invd;        /* 0F 08 */
insn_fn soft_insn_wbinvd;      /* 0F 09, with F3 WBNOINVD */
insn_fn soft_insn_hlt;         /* F4 */
insn_fn soft_insn_cpuid;       /* 0F A2 */
insn_fn soft_insn_rdtsc;       /* 0F 31 */
insn_fn soft_insn_rdpmc;       /* 0F 33 */
insn_fn soft_insn_rdpid;       /* F3 0F C7 /7 register */
insn_fn soft_insn_rdmsr;       /* 0F 32 */
insn_fn soft_insn_wrmsr;       /* 0F 30 */
insn_fn soft_insn_syscall;     /* 0F 05 */
insn_fn soft_insn_sysret;      /* 0F 07 */
insn_fn soft_insn_sysenter;    /* 0F 34 */
insn_fn soft_insn_sysexit;     /* 0F 35 */
insn_fn soft_insn_rdfsbase;    /* F3 0F AE /0 register */
insn_fn soft_insn_rdgsbase;    /* F3 0F AE /1 register */
insn_fn soft_insn_wrfsbase;    /* F3 0F AE /2 register */
insn_fn soft_insn_wrgsbase;    /* F3 0F AE /3 register */
insn_fn soft_insn_invpcid;     /* 66 0F 38 82 memory */
insn_fn soft_insn_rsm;         /* 0F AA */
insn_fn soft_insn_pause;       /* F3 90 */
insn_fn soft_insn_clflush;     /* 0F AE /7 memory; also 66 (CLFLUSHOPT), 66 /6 (CLWB) */
insn_fn soft_insn_prefetch;    /* 0F 18, 0F 0D, CLDEMOTE: nothing is accessed */

/* Flags and software interrupts: sysflags.c. */
insn_fn soft_insn_cli;   /* FA */
insn_fn soft_insn_sti;   /* FB */
insn_fn soft_insn_pushf; /* 9C */
insn_fn soft_insn_popf;  /* 9D */
insn_fn soft_insn_int3;  /* CC */
insn_fn soft_insn_int_n; /* CD ib */
insn_fn soft_insn_into;  /* CE (legacy) */
insn_fn soft_insn_int1;  /* F1 */
insn_fn soft_insn_bound; /* 62 (legacy, memory) */
insn_fn soft_insn_ud;    /* UD0, UD1, UD2 and everything undefined */
insn_fn soft_insn_enter; /* C8 */
insn_fn soft_insn_leave; /* C9 */

/* Port I/O: pio.c. Byte or osize (8 counts as 4) from the opcode's bit 0. */
insn_fn soft_insn_in_imm;  /* E4 E5 */
insn_fn soft_insn_in_dx;   /* EC ED */
insn_fn soft_insn_out_imm; /* E6 E7 */
insn_fn soft_insn_out_dx;  /* EE EF */
insn_fn soft_insn_ins;     /* 6C 6D, REP by F2 or F3 */
insn_fn soft_insn_outs;    /* 6E 6F */
