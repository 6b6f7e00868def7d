/*
 * Inside of the native executor: what native*.c share. Per vCPU, its thread only.
 *
 * A stub is a function with the signature of a micro-operation's handler and a third argument:
 * the scpu in rdi, the uop in rsi, the host address of the memory operand in rdx. It uses no
 * stack, so that at any of its instructions the return address is on top, and never changes rdi
 * and rsi: a signal handler can turn a fault at any point into a call of native_fault_entry(c,
 * op).
 */
#pragma once

#include "cpu/soft/native.h"
#include "cpu/soft/native_table.h"

#define NATIVE_CODE_BYTES (1u << 20)
#define NATIVE_MAX_INSNS  16384u
#define NATIVE_HASH       8192u
#define NATIVE_STUB_MAX   256u

typedef const struct uop *native_stub_fn(struct scpu *c, const struct uop *op, void *mem);

struct native_insn;
typedef enum insn_result native_special_fn(struct scpu *c, const struct native_insn *ni);

/* One decoded instruction, shared by all places of the guest's code that hold the same bytes.
 */
struct native_insn {
    struct insn in;             /* first: uop.insn points here */
    native_stub_fn *stub;       /* runs it, with the memory operand's host address */
    native_stub_fn *fast;       /* a uop's handler: finds that address first */
    native_special_fn *special; /* instead of the stub; NULL: plain */
    struct native_desc desc;    /* mem_len resolved */
    uint32_t mode;              /* MODE_* bits it was bound for */
    uint16_t fop;               /* x87 opcode as FOP shows it */
    bool needs_fpu;             /* the guest's vector state must be live */
    bool x87_pointers;          /* an x87 instruction that updates FIP (and FDP) */
    bool fast_front;            /* the stub has the part that makes it a uop's handler */
    bool masked;                /* faults of masked-off memory elements are suppressed */
    uint32_t hash_next;         /* index + 1, 0: end */
};

/* What was last recorded of x87 pointers, as the guest should see them. */
struct native_x87_ptr {
    uint64_t ip;      /* guest RIP of the last non-control instruction run here */
    uint64_t dp;      /* guest offset of the last memory operand */
    uint64_t host_dp; /* what the host put into FDP for it */
    uint16_t op, cs, ds;
};

struct native_cache {
    uint8_t *rx, *rw; /* the same memory: executed, written */
    uint32_t used;    /* bytes of code */
    uint32_t fixed;   /* code that survives a flush */
    uint32_t n_insns;
    struct native_insn *insns;       /* NATIVE_MAX_INSNS */
    uint32_t insn_hash[NATIVE_HASH]; /* index + 1 */
    uint32_t stub_hash[NATIVE_HASH]; /* offset of the stub's header, 0: none */

    bool has[NF_COUNT]; /* features the guest sees */
    bool xsave;         /* the host has XSAVE */
    bool xgetbv1;       /* the host has XGETBV with ECX = 1 */
    bool zero_fcs;      /* FCS and FDS are always saved as 0 */
    uint64_t rfbm;      /* components that are ever live */
    uint32_t mxcsr_mask;
    uint32_t comp_off[10], comp_len[10]; /* standard XSAVE format */
    uint32_t comp_align64;               /* compacted format: bit n: component n is aligned */

    struct native_x87_ptr x87;
    void (*enter)(void); /* jumped to by stubs: native_enter_thunk */
    uop_fn *slow;        /* and where they go when the TLB has no entry */
    struct uop fake[2];  /* for running a stub from C */
    unsigned slot;       /* among the process's caches: native_fpu.c */
    uint8_t fault;       /* vector of the host's exception in the last stub */
    /* Stubs that move one register to or from memory: native_vec_get and the like. */
    uint32_t get_stub[3][32], put_stub[3][32]; /* by bytes 16 << n; 0: host lacks it */
    uint32_t kget_stub[8], kput_stub[8];
    uint32_t mmget_stub[8];
    uint32_t xrstor_stub;
    uint32_t xrstor_mask; /* its operand */

    uint8_t img[VCPU_XSAVE_BYTES] __attribute__((aligned(64)));
    uint8_t buf[4][64] __attribute__((aligned(64)));
};

/* ---- native_stub.c ---- */
/* Emits (or finds) the stub of ni. false: code memory is full. */
bool native_stub_make(struct native_cache *nc, struct native_insn *ni);
/* Code at the start of code memory; made once. */
void native_stub_fixed(struct native_cache *nc);

/* ---- native.c ---- */
/* Runs ni's stub from C. false: it faulted; the exception is raised. */
bool native_run_stub(struct scpu *c, native_stub_fn *stub, void *mem);
uop_fn native_op_slow;
/* Makes c->native->x87 current. */
void native_x87_resolve(struct scpu *c);
const struct native_desc *native_find(const struct insn *in, struct native_desc *x87_desc);

/* ---- native_fpu.c ---- */
void native_enter_thunk(void); /* native_entry.S */
void native_fault_thunk(void);
const struct uop *native_fault_entry(struct scpu *c, const struct uop *op);
int native_register(struct scpu *c, struct err *err);
void native_unregister(struct scpu *c);
void native_fpu_init(struct scpu *c);

static inline native_stub_fn *native_stub_at(const struct native_cache *nc, uint32_t off)
{
    return (native_stub_fn *)(uintptr_t)(nc->rx + off);
}
/* Vector register n, 16, 32 or 64 bytes, opmask and MMX registers of the live state. */
static inline void native_vec_get(struct scpu *c, unsigned n, unsigned len, void *buf)
{
    native_run_stub(c, native_stub_at(c->native, c->native->get_stub[len >> 5][n]), buf);
}
static inline void native_vec_put(struct scpu *c, unsigned n, unsigned len, void *buf)
{
    native_run_stub(c, native_stub_at(c->native, c->native->put_stub[len >> 5][n]), buf);
}
uint64_t native_k_get(struct scpu *c, unsigned n);
void native_k_put(struct scpu *c, unsigned n, uint64_t v);

/* ---- native_mem.c: masked accesses, gathers ---- */
enum insn_result native_masked_access(struct scpu *c, const struct native_insn *ni);
native_special_fn native_gather, native_scatter, native_maskmov_vex, native_maskmov_bytes,
    native_expand, native_compress, native_movdir64b;

/* ---- native_xsave.c ---- */
native_special_fn native_fxsave, native_fxrstor, native_xsave, native_xrstor;
/* Gives image (standard format, just saved from the host) the pointers the guest should see. */
void native_x87_fix_pointers(struct scpu *c, uint8_t *image);

/* ---- native_x87.c ---- */
native_special_fn native_fldenv, native_fnstenv, native_frstor, native_fnsave;

/* libc's own would use vector registers, which hold the guest's state. */
static inline void native_copy(void *to, const void *from, size_t n)
{
#ifdef __clang_analyzer__ /* cannot see through the instruction */
    __builtin_memcpy(to, from, n);
#else
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
#endif
}
static inline void native_zero(void *to, size_t n)
{
#ifdef __clang_analyzer__
    __builtin_memset(to, 0, n);
#else
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0) : "memory");
#endif
}
