/*
 * The software engine's own state: one struct scpu per vCPU, one struct soft_vm per VM.
 *
 * Rules of this folder:
 *  - Code that runs inside soft_run's inner loop is compiled with -mgeneral-regs-only: while
 * the guest's vector state is live in the host's registers (c->fpu_live) nothing else may touch
 * it. Calls that leave the folder (callbacks of engine_host, libc) go through soft_leave().
 *  - A function that can fault returns non-zero (or NULL) after soft_raise*(); the caller
 * returns INSN_EXC at once, with architectural state unchanged (precise exceptions).
 *  - All is per vCPU and touched by its thread only, except what is marked shared.
 */
#pragma once

#include "base/ckd.h"
#include "base/log.h"
#include "cpu/engine.h"
#include "cpu/model/cpu_model.h"
#include "cpu/soft/insn.h"
#include "cpu/soft/tlb.h"
#include "cpu/soft/x86_bits.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define atomic_load_relaxed_u32(p) atomic_load_explicit((p), memory_order_relaxed)

/* The mode in which code was decoded; part of every block's key. */
enum {
    MODE_CPL3 = 1 << 0, /* CPL == 3 (user page rights) */
    MODE_64 = 1 << 1,   /* CS.L with EFER.LMA */
    MODE_CS32 = 1 << 2, /* CS.D */
    MODE_SS32 = 1 << 3, /* SS.B */
    MODE_PE = 1 << 4,
    MODE_VM86 = 1 << 5,
    MODE_LMA = 1 << 6,  /* EFER.LMA (long or compatibility) */
    MODE_SMAP = 1 << 7, /* SMAP is in force for ordinary accesses (CPL below 3) */
    MODE_TS = 1 << 8,   /* CR0.TS: vector and x87 use raises #NM */
    MODE_EM = 1 << 9,   /* CR0.EM */
    MODE_MP = 1 << 10,  /* CR0.MP (WAIT) */
    MODE_OSFXSR = 1 << 11,
    MODE_OSXSAVE = 1 << 12,
    MODE_AVX = 1 << 13, /* XCR0 has SSE and AVX */
    MODE_AVX512 = 1 << 14,
    MODE_UMIP = 1 << 15,
    MODE_NE = 1 << 16,   /* CR0.NE */
    MODE_STEP = 1 << 17, /* TF or an armed breakpoint: blocks of one instruction, slow exits */
    MODE_CPL0 = 1 << 18,
    MODE_AC = 1 << 19,  /* alignment checks on: CR0.AM, EFLAGS.AC, CPL 3 */
    MODE_AMD = 1 << 20, /* vendor rules of AMD (constant for a VM) */
    MODE_TSD = 1 << 21, /* CR4.TSD */
    MODE_CR4_SMAP = 1 << 22,
};

/*
 * Micro-operation: a handler and its resolved operands. Register operands are byte offsets from
 * the start of struct scpu (gpr[] comes first), so AH is just another offset. A block is an
 * array of them; a handler ends by calling the next one (tail call) or returns NULL to leave
 * the block.
 */
struct uop;
typedef const struct uop *uop_fn(struct scpu *c, const struct uop *op);
struct uop {
    uop_fn *fn;
    uint8_t dst, src;    /* register offsets */
    uint8_t base, index; /* register offsets; SOFT_REG_ZERO when absent */
    uint8_t shift;       /* index scale */
    uint8_t seg;         /* enum x86_seg, or SOFT_SEG_ZERO */
    uint8_t len;         /* instruction length */
    uint8_t insn_no;     /* which instruction of the block this is */
    int32_t disp;
    uint32_t ip_off; /* instruction's offset from the block's first */
    union {
        uint64_t imm;
        const struct insn *insn; /* complex and native instructions */
    };
};
#define SOFT_REG_ZERO 128 /* offset of scpu.zero */
#define SOFT_REG_RIP  136 /* offset of scpu.rip */
#define SOFT_SEG_ZERO X86_NSEG

/* Whose rights ordinary accesses of code of a mode have. */
static inline enum mmu_index soft_mode_mmu(uint32_t mode)
{
    return mode & MODE_CPL3 ? MMU_USER : mode & MODE_SMAP ? MMU_SMAP : MMU_KERNEL;
}

/* Target of an indirect branch: jit/cache.c. */
struct jit_jc_entry {
    uint64_t tag;
    void *code;
};
struct tblock;

/* What the pointers that FNSTENV shows are made of. */
struct x87_site {
    uint64_t rip;
    uint16_t fop;
    uint8_t seg;
};
#define JIT_JC_SIZE 4096u
#define JIT_SLOTS   16u

#define SOFT_STALE_MAX 256u

struct soft_exc {
    bool pending;
    uint8_t vector;
    bool has_error;
    uint32_t error;
    uint64_t va; /* #PF: goes to CR2 at delivery */
};

/* Which TF decides about a single-step trap after an instruction: as it was before it (most),
 * none (INT n and the like enter a handler), as it is after it (SYSCALL, SYSRET). */
enum soft_step_rule { STEP_TF_BEFORE, STEP_NEVER, STEP_TF_AFTER };

#define SOFT_BOUNCE_BYTES 512

struct scpu {
    /* Hot: offsets of these are one byte in uops and small displacements in code. */
    uint64_t gpr[16];
    uint64_t zero; /* always 0: absent base or index (offset SOFT_REG_ZERO) */
    /* Of the instruction for complex handlers; of the block's start while fast ones run, which
     * makes it the base of rip-relative operands (offset SOFT_REG_RIP). */
    uint64_t rip;
    uint16_t aflags;           /* arithmetic flags: low byte OF (0/1), high byte LAHF image */
    uint16_t fpu_live;         /* guest's vector/x87 state is in the host registers */
    uint32_t mode;             /* MODE_*: of the code being run */
    _Atomic uint32_t exit_req; /* shared: SOFT_REQ_*; polled at each block */
    uint32_t mmu;              /* enum mmu_index of ordinary data accesses */
    struct tlb_entry(*tlb_r), (*tlb_w); /* tlb[mmu][TLB_R/W] */
    uint64_t seg_base[X86_NSEG + 1];    /* effective bases: 0 for ES/CS/SS/DS in 64-bit mode */
    uint64_t next_rip;
    uint64_t icount;
    struct sblock *blk; /* running block */
    struct jc_entry *jc;
    uint32_t jc_epoch[2];         /* lower and upper half of the address space */
    enum insn_result stop_result; /* why the block was left */

    /* Architectural, cooler. */
    uint64_t code_base;          /* linear address of RIP 0: CS base outside 64-bit mode */
    bool irq_waiting;            /* the interrupt controllers may have something */
    uint8_t nmi_pending;         /* one in service can have one behind it, else two wait */
    _Atomic uint32_t nmi_queued; /* shared: sent since SOFT_REQ_NMI was last taken */
    uint64_t sysflags;           /* RFLAGS less the status flags; bit 1 set */
    struct vcpu_seg seg[X86_NSEG], tr, ldtr;
    struct vcpu_dtable gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, xcr0, efer;
    uint64_t dr[8];
    uint64_t pdpte[4]; /* PAE paging: loaded with CR3 */
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    int64_t tsc_offset;
    uint8_t cpl;
    uint8_t irq_shadow; /* bit 0: STI, bit 1: MOV SS; ends after the next instruction */
    uint8_t step_rule;  /* enum soft_step_rule: of the instruction being run */
    bool nmi_blocked;
    bool halted;
    uint8_t mp_state;    /* enum vcpu_mp_state */
    uint32_t pauses;     /* PAUSE instructions executed */
    struct soft_exc exc; /* raised, not yet delivered */
    uint64_t pending_db; /* DR6 bits of a #DB trap due after this instruction */

    /* MMU scratch: reads that do not lie in one RAM page land here (same offset modulo 64). */
    bool code_hit;    /* decoded code was overwritten: leave the block after this instruction */
    bool access_open; /* a write through soft_access awaits soft_access_end */
    bool world_held;  /* this vCPU has stopped the others */
    void *access_ptr;
    struct xlat access_x[2]; /* where it goes: the pages may be mapped elsewhere by its end */
    uint32_t access_n, access_len; /* bytes in the first page, in all */
    uint8_t bounce[SOFT_BOUNCE_BYTES + 64] __attribute__((aligned(64)));

    /* Vector state while not live; standard format. Native stubs: native.c. */
    uint8_t xsave[VCPU_XSAVE_BYTES] __attribute__((aligned(64)));
    struct native_cache *native;

    struct soft_vm *vm;
    unsigned index;
    struct vcpu_state *cold; /* rarely used MSRs live in their vcpu_state fields */
    struct engine_stats stats;
    struct code_cache *code; /* blocks: block.c */
    struct tlb_entry tlb[MMU_NIDX][TLB_NKIND][TLB_SIZE];
    struct tlb_log tlb_log[2]; /* entries of ordinary and of global pages */
    struct pde_entry pde[PDE_CACHE_SIZE];
    uint64_t pde_epoch;
    struct large_range large[LARGE_RANGES]; /* together they hold every large page in use */
    unsigned n_large;
    unsigned slot_hint;   /* index of the memory slot used last */
    bool upper_nonglobal; /* code of the upper half ran from pages that are not global */
    uint64_t code_pages[2][CODE_PAGE_BITS / 64]; /* by half: pages code was fetched from */
    struct itlb_entry itlb[ITLB_SIZE];

    /* Shared: requests from other threads. */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool sleeping;
    uint8_t sipi_vector;
    _Atomic uint32_t in_guest; /* the thread may touch guest memory: world.c */

    /* For debuggers and tests, set while not running: n makes run return ENGINE_EXIT_KICK
     * before the n-th instruction from here. 0: runs freely. */
    unsigned steps;

    /* The translating tier: jit/. gs is the base of this struct while its code runs. */
    struct scpu *self;
    struct jit *jit; /* NULL: interpreter only */
    uint64_t
        jit_slot[JIT_SLOTS]; /* where the groups of accesses of a block are in host memory */
    uint64_t jit_tmp, jit_va;
    struct {
        const struct x87_site *op, *mem_op; /* NULL: nothing since they were looked at */
        uint64_t va, host;                  /* addresses of mem_op's operand */
    } x87_last;        /* translated x87 instructions that were run last: native_x87_resolve */
    uint32_t jit_mode; /* the bits of mode for which jit_jc was filled */
    uint64_t jit_key[MMU_NIDX]; /* changes the addresses in jit_jc */
    uint64_t jit_fault_pc;      /* where the host faulted */
    uint16_t jit_fault_flags;   /* EFLAGS then, as in aflags */
    bool jit_low_kernel;        /* a supervisor's entry of jit_jc is in the lower half */
    uint32_t tlb_gen;           /* changes when entries are dropped */
    struct jit_jc_entry jit_jc[MMU_NIDX][JIT_JC_SIZE];
    struct tblock *jit_jc_block[MMU_NIDX][JIT_JC_SIZE]; /* what code belongs to */

    uint32_t pv_moment;   /* the one that our kvmclock page shows */
    struct log_limit odd; /* lines about odd things that this guest CPU does */
};

enum {
    SOFT_REQ_KICK = 1 << 0,
    SOFT_REQ_IRQ = 1 << 1, /* look at irq_pending and at what is below */
    SOFT_REQ_NMI = 1 << 2,
    SOFT_REQ_INIT = 1 << 3,
    SOFT_REQ_SIPI = 1 << 4,
    SOFT_REQ_CODE = 1 << 5,  /* a page became code: drop write entries */
    SOFT_REQ_STOP = 1 << 6,  /* another vCPU wants everyone out of the inner loop */
    SOFT_REQ_STALE = 1 << 7, /* decoded code was overwritten: soft_vm.stale */
};

/* What may be set from outside: VIVARIUM_SOFT, see README.md. */
struct soft_tuning {
    bool jit;            /* translate at all */
    uint16_t hot;        /* a block is translated when it runs for this time; 0: at once */
    uint32_t code_bytes; /* of translated code per vCPU */
    size_t block_bytes;  /* of decoded blocks per vCPU */
    unsigned flush;      /* stress: drop translated code after so many dispatches; 0: never */
};

struct soft_vm {
    struct soft_tuning tuning;
    struct mem *mem;
    const struct cpu_model *model;
    struct engine_host host;
    unsigned n_cpus;
    struct scpu *cpus[256];
    struct soft_slot slots[SOFT_MAX_SLOTS];
    unsigned n_slots;
    pthread_mutex_t lock;
    pthread_mutex_t world_lock; /* held by the vCPU that stopped the others */
    _Atomic uint32_t stopping;  /* stay out of the guest until world_lock is free */
    /* kvmclock: host TSC and guest time of one moment, the same for all vCPUs; under lock. */
    uint32_t pv_moment; /* which one; 0: none yet */
    uint64_t pv_tsc, pv_ns;
    int64_t pv_offset; /* guest time less host time then: changes by a pause or a load */
    /* The last pages whose code was overwritten, for the translators; written under
     * stale_lock. */
    pthread_mutex_t stale_lock;
    _Atomic uint32_t stale_n;
    struct soft_page *_Atomic stale[SOFT_STALE_MAX];
};

/* ---- exceptions: exc.c ---- */
/* Each returns INSN_EXC (non-zero) so that `return soft_raise(...)` works. */
/* Inline, so that compilers and analysers see that a raise is never a success. */
void soft_set_exception(struct scpu *c, struct soft_exc exc);
static inline int soft_raise(struct scpu *c, uint8_t vector) /* no error code */
{
    soft_set_exception(c, (struct soft_exc){.vector = vector});
    return INSN_EXC;
}
static inline int soft_raise_err(struct scpu *c, uint8_t vector, uint32_t error)
{
    soft_set_exception(c,
                       (struct soft_exc){.vector = vector, .has_error = true, .error = error});
    return INSN_EXC;
}
static inline int soft_raise_pf(struct scpu *c, uint64_t va,
                                uint32_t error) /* CR2 at delivery */
{
    soft_set_exception(
        c, (struct soft_exc){.vector = EXC_PF, .has_error = true, .error = error, .va = va});
    return INSN_EXC;
}
/* Delivers c->exc, then follow-ups (double fault). false: triple fault, the VM shuts down. */
bool soft_deliver_exception(struct scpu *c);
/* An external interrupt or NMI; soft: INT n/INT3/INTO pushes next_rip. */
enum soft_event { SOFT_EV_EXTERNAL, SOFT_EV_NMI, SOFT_EV_SOFT_INT, SOFT_EV_EXCEPTION };
int soft_deliver_event(struct scpu *c, enum soft_event kind, uint8_t vector, bool has_error,
                       uint32_t error);

/* ---- flags ---- */
static inline uint64_t soft_get_rflags(const struct scpu *c)
{
    return c->sysflags | ((c->aflags >> 8) & 0xd5) | ((uint64_t)(c->aflags & 1) << 11);
}
static inline void soft_set_status_flags(struct scpu *c, uint64_t f)
{
    c->aflags = (uint16_t)(((f & 0xd5) << 8) | ((f >> 11) & 1));
}
/* Sets all of RFLAGS as given (caller has masked what may change) and recomputes the mode. */
void soft_set_rflags(struct scpu *c, uint64_t rflags);

/* ---- mode: cpu.c ---- */
/* After any change of CR0/CR4/EFER/XCR0/CS/SS/CPL/RFLAGS.{VM,AC,TF}/DR7/segment bases:
 * recomputes mode, mmu, tlb pointers, seg_base. The caller then returns INSN_JUMP or
 * INSN_NEXT_FLUSH. */
void soft_update_mode(struct scpu *c);
static inline bool soft_long_mode(const struct scpu *c)
{
    return (c->efer & EFER_LMA) != 0;
}
static inline bool soft_code64(const struct scpu *c)
{
    return (c->mode & MODE_64) != 0;
}
bool soft_canonical(const struct scpu *c, uint64_t va);

/* ---- memory by linear address: mmu.c ---- */
enum soft_acc {
    ACC_READ = 0,
    ACC_WRITE = 1,
    ACC_EXEC = 2,
    ACC_USER = 4,   /* rights of CPL 3 */
    ACC_SYS = 8,    /* implicit supervisor access (descriptor tables, TSS): rights of CPL 0,
                       SMAP applies whatever AC is */
    ACC_PROBE = 16, /* check only (with WRITE: D is set as a write would) */
};
/* Ordinary data access with the current CPL's rights is (c->cpl == 3 ? ACC_USER : 0). len <=
 * 512; any alignment, page crossing and MMIO included. 0, or non-zero with #PF raised. */
int soft_lin_read(struct scpu *c, uint64_t va, void *buf, unsigned len, unsigned acc);
int soft_lin_write(struct scpu *c, uint64_t va, const void *buf, unsigned len, unsigned acc);
int soft_lin_probe(struct scpu *c, uint64_t va, unsigned len, unsigned acc);
/* Values of 1, 2, 4, 8 bytes. */
int soft_ld(struct scpu *c, uint64_t va, unsigned len, unsigned acc, uint64_t *ret_value);
/* A write that overwrites decoded code sets c->code_hit; the caller of an insn_fn then turns
 * INSN_NEXT into INSN_NEXT_FLUSH, so handlers need not look. */
int soft_st(struct scpu *c, uint64_t va, unsigned len, unsigned acc, uint64_t value);
/*
 * A host pointer for an access of len bytes at va with current rights, for instructions that
 * run natively: RAM directly when it lies in one page; otherwise c->bounce (same offset modulo
 * 64), filled when for_read. NULL: fault raised. After a write the caller calls soft_access_end
 * when soft_must_end(c); this writes a bounce back (cannot fault: the range was probed), or
 * drops translations of the code that was overwritten. len <= SOFT_BOUNCE_BYTES.
 */
void *soft_access(struct scpu *c, uint64_t va, unsigned len, bool for_read, bool for_write);
enum insn_result soft_access_end(struct scpu *c); /* INSN_NEXT or INSN_NEXT_FLUSH */
static inline bool soft_must_end(const struct scpu *c)
{
    return unlikely(c->access_open);
}
/* Host pointer when [va, va+len) lies in one page of plain RAM (not code, when writing) and the
 * current rights allow the access; NULL otherwise, with nothing raised. */
void *soft_ram_ptr(struct scpu *c, uint64_t va, unsigned len, bool for_write);
/* Flushes: all, all but global pages, one page. The only ways in which the TLB is dropped. */
void soft_tlb_flush_all(struct scpu *c);
void soft_tlb_flush_nonglobal(struct scpu *c);
void soft_tlb_flush_page(struct scpu *c, uint64_t va);
/* Loads PDPTEs from cr3 for PAE paging. Non-zero: #GP raised (reserved bits). */
int soft_load_pdptes(struct scpu *c, uint64_t cr3);

static inline struct itlb_entry *soft_itlb_slot(struct scpu *c, uint64_t va)
{
    return &c->itlb[(va >> MEM_PAGE_SHIFT) & (ITLB_SIZE - 1)];
}
static inline bool soft_itlb_hit(const struct scpu *c, const struct itlb_entry *e, uint64_t va)
{
    return e->tag == (va & ~(MEM_PAGE_SIZE - 1)) && e->epoch == c->jc_epoch[va >> 63] &&
           e->user == (c->cpl == 3) && e->host != NULL;
}
/* Code page of va for fetches in the current mode: NULL with #PF raised, or with MMIO or
 * ROM-less addresses #GP(0). gpa is that of the page. */
const struct itlb_entry *soft_fetch_page(struct scpu *c, uint64_t va);
/* [off, off+len) of a page that has decoded code was overwritten: drops what covers it. true
 * when something was dropped. Any thread. */
bool soft_code_written(struct soft_vm *vm, struct soft_page *page, uint64_t off, uint64_t len);
/* A store took the slow way to a page marked as code and hit none: after a few in a page that
 * has no decoded code any more, it is ordinary memory again. */
void soft_code_quiet(struct soft_vm *vm, struct soft_page *page);
/* Drops every write entry, because pages became code (or the dirty log was harvested). */
void soft_tlb_drop_writes(struct scpu *c);
struct soft_slot *soft_find_slot(struct soft_vm *vm, uint64_t gpa);
/* Forgets where code of one half of the address space is mapped: block look-ups, links between
 * pages, fetch translations. */
void soft_code_epoch(struct scpu *c, unsigned half); /* jit/cache.c */

/* ---- the other vCPUs: world.c ---- */
/* Around all that touches guest memory. Enter waits while the world is stopped. */
void soft_guest_enter(struct scpu *c);
void soft_guest_leave(struct scpu *c);
/* From stop to go no other vCPU touches guest memory. Inside an instruction, before it has
 * changed anything and with no pointer from uop_ptr_w or soft_ram_ptr in use. */
void soft_world_stop(struct scpu *c);
void soft_world_go(struct scpu *c);
/* Waits until no vCPU has a write entry for the page at host, which is marked as code. Between
 * instructions. */
void soft_code_settle(struct scpu *c, const uint8_t *host);

/* ---- memory by logical address: what every instruction handler uses ---- */
/* Effective address of in's memory operand, without segment base, wrapped to its address size.
 */
uint64_t soft_ea(const struct scpu *c, const struct insn *in);
/* Checks segment limit, rights and canonicality for [off, off+len) and gives the linear
 * address. Raises #GP(0) or #SS(0). */
int soft_seg_linear(struct scpu *c, enum x86_seg seg, uint64_t off, unsigned len, bool write,
                    uint64_t *ret_va);
/* The memory operand of in: both of the above. */
int soft_operand_linear(struct scpu *c, const struct insn *in, unsigned len, bool write,
                        uint64_t *ret_va);
int soft_push(struct scpu *c, unsigned size, uint64_t value); /* by SS.B and mode */
int soft_pop(struct scpu *c, unsigned size, uint64_t *ret_value);

/* ---- registers ---- */
static inline uint64_t soft_reg_get(const struct scpu *c, unsigned reg, unsigned size)
{
    uint64_t v = c->gpr[reg];
    return size == 8 ? v : v & ((UINT64_C(1) << (size * 8)) - 1);
}
/* 32-bit writes zero the upper half; 16-bit ones keep the rest. */
static inline void soft_reg_set(struct scpu *c, unsigned reg, unsigned size, uint64_t v)
{
    if (size == 8) {
        c->gpr[reg] = v;
    } else if (size == 4) {
        c->gpr[reg] = (uint32_t)v;
    } else if (size == 2) {
        c->gpr[reg] = (c->gpr[reg] & ~UINT64_C(0xffff)) | (v & 0xffff);
    } else {
        c->gpr[reg] = (c->gpr[reg] & ~UINT64_C(0xff)) | (v & 0xff);
    }
}
/* 8-bit register by encoding: AH..BH when no REX prefix and 4 <= reg < 8. */
static inline uint8_t *soft_reg8(struct scpu *c, unsigned reg, bool has_rex)
{
    return !has_rex && reg >= 4 && reg < 8 ? (uint8_t *)&c->gpr[reg - 4] + 1
                                           : (uint8_t *)&c->gpr[reg];
}

/* ---- leaving the folder ---- */
/* Parks the guest's vector state in c->xsave if it is live, so that ordinary C may run. */
void soft_leave(struct scpu *c); /* native.c */
/* Loads it if it is not. Called by native stubs just before they run. */
void soft_enter_fpu(struct scpu *c);

uint64_t soft_rdtsc(const struct scpu *c); /* guest TSC */
