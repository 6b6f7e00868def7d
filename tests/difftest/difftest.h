/*
 * Differential test of instructions: one case is one instruction with registers and memory; it
 * is run by the host CPU (native_run.c) and by the software engine (soft_run.c) and must end
 * equal.
 *
 * Both see the same address space: DT_DATA, three writable pages and a read-only one, and
 * DT_CODE, two executable pages filled with INT3; nothing around them. Code runs at CPL 3 in
 * 64-bit mode or in a 32-bit compatibility segment. A case ends at the INT3 after it, or with a
 * fault.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define DT_DATA       UINT64_C(0x10000000)
#define DT_RW_BYTES   (3 * 4096u)
#define DT_DATA_BYTES (4 * 4096u)
#define DT_CODE       UINT64_C(0x20000000)
#define DT_CODE_BYTES (2 * 4096u)
#define DT_GS_BASE    (DT_DATA + 0x800)
#define DT_XSAVE      2752u
#define DT_FLAGS      UINT64_C(0xcd5) /* status flags and DF */

struct dt_state {
    uint64_t gpr[16], rip, rflags;
    uint8_t xsave[DT_XSAVE] __attribute__((aligned(64)));
};

struct dt_case {
    struct dt_state in; /* rip tells where in DT_CODE the instruction is */
    uint8_t code[16];
    uint8_t len;
    bool mode32;
    bool large;      /* its memory operand is over 64 bytes */
    bool two_memory; /* it has two memory operands: which of them faults first is open */
    bool gather;     /* what a fault leaves in the upper part of the destination is open */
    uint64_t data_seed;
    uint32_t patch_at, patch_len; /* bytes put over the data: images for XRSTOR and FXRSTOR */
    uint8_t patch[DT_XSAVE] __attribute__((aligned(64)));
    uint64_t undefined_flags; /* RFLAGS bits not to be compared */
    uint64_t number;
};

#define DT_END (-1) /* vector: the INT3 behind the instruction was reached */

struct dt_result {
    struct dt_state out;
    int vector;
    uint32_t error;
    uint64_t cr2;
    bool died; /* the process that ran it did not come back */
    uint8_t data[DT_RW_BYTES];
};

/* ---- what both sides share: common.c, and difftest.c ---- */
uint64_t dt_random(uint64_t *state);
void dt_fill_data(uint8_t *data, const struct dt_case *k); /* DT_DATA_BYTES */
extern uint64_t dt_xcr0;     /* components of the guest and of the images */
uint64_t dt_host_xcr0(void); /* what dt_xcr0 can be on this host; 0: nothing */
/* Offset and length of a component (2 to 7) in the host's standard format: CPUID 0Dh. */
unsigned dt_component(unsigned i, unsigned *ret_len);
/* Components that an image says are in their initial state get their initial bytes. */
void dt_normalise(uint8_t *xsave);

/* ---- gen.c ---- */
struct dt_gen;
struct dt_gen *dt_gen_new(uint64_t seed, bool mode32);
void dt_gen_free(struct dt_gen *g);
unsigned dt_gen_forms(const struct dt_gen *g); /* number of distinct instruction forms */
/* The next case: forms in turn, operands at random. */
void dt_gen_next(struct dt_gen *g, struct dt_case *ret);
void dt_disassemble(const struct dt_case *k, char *buf, size_t len);

/* ---- native_run.c ---- */
#define DT_BATCH 128
/* Runs n cases in a child process. false: cannot run at all. */
bool dt_native_run(const struct dt_case *cases, struct dt_result *results, unsigned n);
bool dt_native_init(void);

/* ---- soft_run.c ---- */
bool dt_soft_init(void);
void dt_soft_done(void);
/* step: one instruction by its general handler; otherwise a block, by the fast path. */
void dt_soft_run(const struct dt_case *k, struct dt_result *ret, bool step);
