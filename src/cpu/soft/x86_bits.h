/* Bits of RFLAGS, CR0, CR4 and EFER, and exception vectors: SDM vol. 3A chapters 2 and 6. */
#pragma once

#include <stdint.h>

/* RFLAGS */
#define FL_CF     UINT64_C(0x1)
#define FL_1      UINT64_C(0x2)
#define FL_PF     UINT64_C(0x4)
#define FL_AF     UINT64_C(0x10)
#define FL_ZF     UINT64_C(0x40)
#define FL_SF     UINT64_C(0x80)
#define FL_TF     UINT64_C(0x100)
#define FL_IF     UINT64_C(0x200)
#define FL_DF     UINT64_C(0x400)
#define FL_OF     UINT64_C(0x800)
#define FL_IOPL   UINT64_C(0x3000)
#define FL_NT     UINT64_C(0x4000)
#define FL_RF     UINT64_C(0x10000)
#define FL_VM     UINT64_C(0x20000)
#define FL_AC     UINT64_C(0x40000)
#define FL_VIF    UINT64_C(0x80000)
#define FL_VIP    UINT64_C(0x100000)
#define FL_ID     UINT64_C(0x200000)
#define FL_STATUS (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF)

#define CR0_PE 0x1u
#define CR0_MP 0x2u
#define CR0_EM 0x4u
#define CR0_TS 0x8u
#define CR0_ET 0x10u
#define CR0_NE 0x20u
#define CR0_WP 0x10000u
#define CR0_AM 0x40000u
#define CR0_NW 0x20000000u
#define CR0_CD 0x40000000u
#define CR0_PG 0x80000000u

#define CR4_VME        (1u << 0)
#define CR4_PVI        (1u << 1)
#define CR4_TSD        (1u << 2)
#define CR4_DE         (1u << 3)
#define CR4_PSE        (1u << 4)
#define CR4_PAE        (1u << 5)
#define CR4_MCE        (1u << 6)
#define CR4_PGE        (1u << 7)
#define CR4_PCE        (1u << 8)
#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP       (1u << 11)
#define CR4_LA57       (1u << 12)
#define CR4_FSGSBASE   (1u << 16)
#define CR4_PCIDE      (1u << 17)
#define CR4_OSXSAVE    (1u << 18)
#define CR4_SMEP       (1u << 20)
#define CR4_SMAP       (1u << 21)

#define EFER_SCE (1u << 0)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define EFER_NX  (1u << 11)

enum {
    EXC_DE = 0,
    EXC_DB = 1,
    EXC_NMI = 2,
    EXC_BP = 3,
    EXC_OF = 4,
    EXC_BR = 5,
    EXC_UD = 6,
    EXC_NM = 7,
    EXC_DF = 8,
    EXC_TS = 10,
    EXC_NP = 11,
    EXC_SS = 12,
    EXC_GP = 13,
    EXC_PF = 14,
    EXC_MF = 16,
    EXC_AC = 17,
    EXC_MC = 18,
    EXC_XM = 19,
};
