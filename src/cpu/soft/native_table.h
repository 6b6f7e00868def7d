/*
 * The table of native instructions, made at build time by tools/gen_vec_table.c from Zydis:
 * what an encoding does with memory, general registers and flags, and what it needs of the
 * guest CPU. Shared by the generator and the executor; plain data, no state.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* X(name, CPUID leaf, subleaf, register 0-3 eax..edx, bit) */
#define NATIVE_FEATURES(X)                                                                     \
    X(FPU, 1, 0, 3, 0)                                                                         \
    X(MMX, 1, 0, 3, 23)                                                                        \
    X(FXSR, 1, 0, 3, 24)                                                                       \
    X(SSE, 1, 0, 3, 25)                                                                        \
    X(SSE2, 1, 0, 3, 26)                                                                       \
    X(SSE3, 1, 0, 2, 0)                                                                        \
    X(PCLMUL, 1, 0, 2, 1)                                                                      \
    X(SSSE3, 1, 0, 2, 9)                                                                       \
    X(FMA, 1, 0, 2, 12)                                                                        \
    X(SSE41, 1, 0, 2, 19)                                                                      \
    X(SSE42, 1, 0, 2, 20)                                                                      \
    X(MOVBE, 1, 0, 2, 22)                                                                      \
    X(POPCNT, 1, 0, 2, 23)                                                                     \
    X(AES, 1, 0, 2, 25)                                                                        \
    X(XSAVE, 1, 0, 2, 26)                                                                      \
    X(AVX, 1, 0, 2, 28)                                                                        \
    X(F16C, 1, 0, 2, 29)                                                                       \
    X(RDRAND, 1, 0, 2, 30)                                                                     \
    X(BMI1, 7, 0, 1, 3)                                                                        \
    X(AVX2, 7, 0, 1, 5)                                                                        \
    X(BMI2, 7, 0, 1, 8)                                                                        \
    X(AVX512F, 7, 0, 1, 16)                                                                    \
    X(AVX512DQ, 7, 0, 1, 17)                                                                   \
    X(RDSEED, 7, 0, 1, 18)                                                                     \
    X(ADX, 7, 0, 1, 19)                                                                        \
    X(AVX512IFMA, 7, 0, 1, 21)                                                                 \
    X(AVX512CD, 7, 0, 1, 28)                                                                   \
    X(SHA, 7, 0, 1, 29)                                                                        \
    X(AVX512BW, 7, 0, 1, 30)                                                                   \
    X(AVX512VL, 7, 0, 1, 31)                                                                   \
    X(AVX512VBMI, 7, 0, 2, 1)                                                                  \
    X(AVX512VBMI2, 7, 0, 2, 6)                                                                 \
    X(GFNI, 7, 0, 2, 8)                                                                        \
    X(VAES, 7, 0, 2, 9)                                                                        \
    X(VPCLMUL, 7, 0, 2, 10)                                                                    \
    X(AVX512VNNI, 7, 0, 2, 11)                                                                 \
    X(AVX512BITALG, 7, 0, 2, 12)                                                               \
    X(AVX512VPOPCNT, 7, 0, 2, 14)                                                              \
    X(MOVDIRI, 7, 0, 2, 27)                                                                    \
    X(MOVDIR64B, 7, 0, 2, 28)                                                                  \
    X(AVX512VP2I, 7, 0, 3, 8)                                                                  \
    X(AVX512FP16, 7, 0, 3, 23)                                                                 \
    X(AVXVNNI, 7, 1, 0, 4)                                                                     \
    X(AVX512BF16, 7, 1, 0, 5)                                                                  \
    X(LZCNT, 0x80000001, 0, 2, 5)                                                              \
    X(SSE4A, 0x80000001, 0, 2, 6)                                                              \
    X(XSAVEOPT, 13, 1, 0, 0)                                                                   \
    X(XSAVEC, 13, 1, 0, 1)

enum native_feature {
#define X(name, leaf, subleaf, reg, bit) NF_##name,
    NATIVE_FEATURES(X)
#undef X
        NF_COUNT
};

/* Which mode bits an instruction is subject to. */
enum native_class {
    NC_GPR,    /* none: general registers only, or no operands */
    NC_VEXGPR, /* VEX on general registers: protected mode, not virtual-8086 */
    NC_X87,    /* #NM by EM and TS */
    NC_WAIT,   /* #NM by MP and TS */
    NC_MMX,    /* #UD by EM, #NM by TS */
    NC_SSE,    /* and #UD without OSFXSR */
    NC_AVX,    /* #UD without OSXSAVE and XCR0, #NM by TS */
    NC_AVX512,
    NC_FXSR,  /* FXSAVE, FXRSTOR: #NM by EM and TS */
    NC_XSAVE, /* #UD without OSXSAVE, #NM by TS */
};

/* Not run by a plain stub, or not always. */
enum native_special {
    SP_NONE,
    SP_GATHER,
    SP_SCATTER,
    SP_MASKLOAD, /* VMASKMOV, VPMASKMOV: sign bits of register vvvv */
    SP_MASKSTORE,
    SP_MASKMOVQ, /* bytes by sign bits of rm, to DS:[rDI] */
    SP_MASKMOVDQU,
    SP_EXPAND, /* EVEX: as many memory elements as mask bits */
    SP_COMPRESS,
    SP_FXSAVE,
    SP_FXRSTOR,
    SP_XSAVE,
    SP_XSAVEOPT,
    SP_XSAVEC,
    SP_XRSTOR,
    SP_MOVDIR64B,
    SP_FLDENV, /* x87: built by code, not in the table */
    SP_FNSTENV,
    SP_FRSTOR,
    SP_FNSAVE,
};

enum {
    ND_MEM_R = 1 << 0,
    ND_MEM_W = 1 << 1,
    ND_MEM_OSIZE = 1 << 2, /* memory operand of operand size */
    ND_REG_R = 1 << 3,     /* modrm.reg names a general register, read */
    ND_REG_W = 1 << 4,
    ND_RM_R = 1 << 5, /* modrm.rm of the register form */
    ND_RM_W = 1 << 6,
    ND_RM8 = 1 << 7, /* ... of 8 bits */
    ND_V_R = 1 << 8,
    ND_V_W = 1 << 9,
    ND_IN_RAX = 1 << 10,
    ND_IN_RDX = 1 << 11,
    ND_OUT_RCX = 1 << 12,
    ND_FLAGS = 1 << 13, /* reads or writes status flags */
    ND_NF = 1 << 14,    /* EVEX mask does not suppress memory faults */
    ND_VL = 1 << 15,    /* needs AVX512VL too */
    ND_OUT_RAX = 1 << 16,
    ND_W64 = 1 << 17, /* VEX.W/EVEX.W is ignored outside 64-bit mode */
};
#define ND_GPRS (ND_REG_R | ND_REG_W | ND_RM_R | ND_RM_W | ND_V_R | ND_V_W)

struct native_desc {
    uint8_t feature, cls, special;
    uint8_t imm;      /* immediate bytes */
    uint8_t mem_len;  /* bytes of the memory operand */
    uint8_t elem;     /* bytes of one of its elements */
    uint8_t align;    /* required alignment, 0: none */
    uint8_t d8_shift; /* EVEX disp8*N */
    uint8_t n_masked; /* EVEX: mask bits that decide about the memory operand */
    uint32_t flags;
};

/* Which fields choose among the descriptors of one opcode, in this order of significance. */
enum {
    ND_DIM_MOD3 = 1,
    ND_DIM_REG = 2,
    ND_DIM_W = 4,
    ND_DIM_L = 8,
    ND_DIM_B = 16,
};
struct native_node {
    uint16_t first; /* in native_index */
    uint8_t dims;
    int8_t imm; /* immediate bytes of every form, -1: none valid, -2: it depends */
};

extern const struct native_desc native_descs[];
extern const uint16_t native_index[]; /* into native_descs; 0: undefined */
extern const struct native_node native_nodes[];
/* [page][pp][opcode] into native_nodes; page as native_page() numbers it. */
extern const uint16_t native_opcodes[][4][256];

/* -1: no such map. Legacy maps 1-3, VEX 1-3, EVEX 1-3, 5, 6. */
static inline int native_page(unsigned enc, unsigned map)
{
    if (map >= 1 && map <= 3 && enc <= 2) {
        return (int)(enc * 3 + map - 1);
    }
    return enc == 2 && (map == 5 || map == 6) ? (int)(9 + map - 5) : -1;
}
#define NATIVE_N_PAGES 11
