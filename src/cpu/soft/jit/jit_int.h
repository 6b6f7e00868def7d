/*
 * Inside of the translator: its data, and what its parts share. README.md in this folder has
 * the conventions of generated code.
 */
#pragma once

#include "cpu/soft/insn.h"
#include "cpu/soft/jit/emit.h"
#include "cpu/soft/jit/jit.h"
#include "cpu/soft/native_int.h"
#include "cpu/soft/optable.h"

#define JIT_HASH_BITS 15
#define JIT_PAGE_BITS 10
#define JIT_ALIGN     64 /* of blocks and of loops in them */
#define JIT_MAX_INSNS 48
#define JIT_MAX_EXITS (JIT_MAX_INSNS + 8)
#define TR_HOT_MAX    (16u * 1024) /* no block's code is larger */
#define TR_COLD_MAX   (24u * 1024)

/* Where generated code leaves a block for a known address. */
struct texit {
    uint64_t target;
    uint32_t jmp_at;   /* offset of the displacement of the branch; 0: it is never linked */
    uint32_t stub;     /* offset of the code that asks for the link */
    uint32_t epoch_at; /* offset of the epoch that is compared; 0: same page */
    bool fpu;          /* vector state is live there */
    struct tblock *linked;
    struct texit *next_in; /* of those that are linked to the same block */
};

/* Host address of a guest instruction's code, for faults of the host inside it. */
struct tpc {
    uint16_t host; /* offset from the block's code */
    uint16_t ip;   /* offset from the block's address; TPC_FLAGS: EFLAGS hold its flags */
};
#define TPC_FLAGS  0x8000u
#define TPC_SHADOW 0x4000u /* ip: it follows STI */
#define TPC_IP     0x3fffu

struct tblock {
    uint64_t va, pa;
    const uint8_t *host; /* the guest's bytes */
    uint32_t mode, gen;
    struct soft_page *page;
    struct tblock *hash_next;
    struct texit *in; /* exits that jump here */
    struct texit *exits;
    struct tpc *pcs;
    uint32_t code, code_end, dead_stub; /* offsets in code memory */
    uint32_t entry_fpu; /* offset of what follows the look whether vector state is live */
    /* An instruction that goes on in a second page: alone in its block. */
    struct soft_page *page2;
    uint32_t gen2, epoch_at; /* where the epoch is that its entry compares */
    uint8_t bytes[16];       /* host points here */
    uint16_t n_insns, n_exits;
    uint16_t misses; /* group checks that failed */
    uint8_t n_groups;
    bool uses_fpu, dead;
};

/* A page with translated code. */
struct jref {
    struct tblock *tb;
    struct jref *next;
};
struct jpage {
    struct soft_page *page;
    struct jref *first;
    struct jpage *next;
};

/* Thunks: common ends of generated code. Offsets in code memory. */
struct jit_thunks {
    uint32_t enter, leave; /* from C; to C with rax as it is */
    uint32_t exit;         /* called; returns the address after the call to C */
    uint32_t slow, help, native, jump, fpu, shadow, store;
    uint32_t end; /* as help, but goes on in the next block's code */
    uint32_t fault;
};

/* ---- cache.c ---- */
void *jit_arena(struct jit *j, size_t bytes); /* NULL: full */
/* Enters tb in the tables. */
bool jit_publish(struct scpu *c, struct tblock *tb);
void jit_kill(struct jit *j, struct tblock *tb);
void jit_link(struct scpu *c, struct texit *x, struct tblock *to);
const struct tblock *jit_block_at(const struct jit *j, uint32_t off);

/* ---- thunks.c ---- */
void jit_make_thunks(struct jit *j);
typedef uint64_t jit_enter_fn(struct scpu *c, void *code);

/* ---- run.c: called by generated code through the thunks ---- */
/* site: what follows the call: block number, and one word of the thunk's own. */
enum jit_result {
    JIT_RETRY, /* what could not be done can be done now */
    JIT_DONE,  /* the instruction has been done */
    JIT_COPY,  /* jit_on_slow: a copy of the operand is at offset jit_va of page jit_tmp */
    JIT_LEAVE, /* back to C */
};
typedef uint32_t jit_callee(struct scpu *c, uint64_t va, const uint32_t *site);
jit_callee jit_on_slow, jit_on_help, jit_on_native, jit_on_jump, jit_on_fpu, jit_on_shadow,
    jit_on_store;
/* For the last instruction of a block. Code to go on with, NULL: back to C. */
void *jit_on_end(struct scpu *c, uint64_t va, const uint32_t *site);
void jit_on_fault(struct scpu *c);

/* The word of jit_on_slow. */
#define SITE_INSN(n) ((uint32_t)(n))      /* 8 bits: which instruction of the block */
#define SITE_SPAN(n) ((uint32_t)(n) << 8) /* 12 bits: bytes */
#define SITE_W       (1u << 20)           /* checked for writing */
#define SITE_CUR_W   (1u << 21)           /* this instruction writes */
#define SITE_GROUP   (1u << 22)           /* for several instructions: no return behind it */
#define SITE_ALIGNED (1u << 23)           /* 16 bytes, or #GP before anything else */
#define SITE_STORE   (1u << 24)           /* only writes, and cannot fault: may go to a copy */
#define SITE_X87     (1u << 25) /* x87 or MMX: an unmasked exception that waits comes first */
/* The word of jit_on_help and jit_on_native: offset of a struct jhelp in the arena. */
struct jhelp {
    struct insn in;
    uint32_t ip; /* offset of the instruction in the block */
};

/* ---- translate.c ---- */

/* Host register of each guest register; NO_REG: it lives in struct scpu. */
extern const uint8_t jit_host_reg[16];
#define OFF_GPR(g) (offsetof(struct scpu, gpr) + (g) * sizeof(uint64_t))
/* The stack pointer moves. */
static inline void e_move_sp(struct asmb *a, int32_t by)
{
    e_lea(a, jit_host_reg[X86_RSP], jit_host_reg[X86_RSP], NO_REG, 0, by);
}
/* The guest register that an opcode names without modrm. */
static inline unsigned opcode_reg(const struct insn *in)
{
    return (in->opcode & 7u) | (in->rex & 1u) << 3;
}
#define S0 RAX /* scratch: addends, flags */
#define S1 R11 /* scratch: addresses */

/* Where the guest's status flags are. */
enum flags_at {
    FL_MEM,  /* in scpu.aflags */
    FL_HOST, /* in EFLAGS; aflags are old */
    FL_BOTH,
    FL_RECIPE, /* nowhere, but t->recipe makes them of registers */
};

/* How to make the flags of the last instruction that wrote them once more. */
enum recipe_op { RECIPE_NONE, RECIPE_ADD, RECIPE_SUB, RECIPE_CMP, RECIPE_TEST };
struct recipe {
    uint8_t op, size;
    uint8_t dst, src; /* guest registers; src NO_REG: imm */
    int32_t imm;
};

enum { /* what an instruction does with the status flags */
       EF_READ = 1,
       EF_ALL = 2,  /* writes all of them, whatever they were */
       EF_PART = 4, /* keeps some, or may keep them */
};

struct jinsn;
struct tr;
typedef void gen_fn(struct tr *t, struct jinsn *ji);

/* An instruction of the block that is being translated. */
struct jinsn {
    struct insn in;
    const struct opcode *row; /* NULL: native */
    struct native_desc desc;  /* native only */
    gen_fn *gen;              /* NULL: by the general handler */
    uint32_t ip;              /* offset in the block */
    uint16_t writes;          /* guest registers, by bit */
    uint8_t flags;            /* EF_* */
    uint8_t size;             /* bytes of the operands */
    bool end;                 /* nothing of the block follows */
    bool pure_store;          /* of its memory operand; it cannot fault otherwise */
    bool may_fault;           /* the host may fault in it */
    bool fpu;
    /* Its access relative to registers, if that is all there is to its address. */
    bool has_access, access_w;
    bool access_stack;                               /* it is not the modrm operand */
    uint8_t access_base, access_index, access_scale; /* index NO_REG: none */
    uint16_t access_size;
    int32_t access_disp;
    int32_t moves_by;  /* adds this constant to moves_reg */
    uint8_t moves_reg; /* NO_REG: none */
    int8_t group;      /* -1: none */
    int64_t group_at;  /* offset of its access from the registers at the first one */
    /* Filled while it is emitted. */
    uint8_t *hot_end;
    uint8_t fl_after;
};

/* Accesses that one check serves. Offsets are from the base register at the first one. */
struct group {
    int64_t lo, hi;
    uint16_t n;
    uint8_t base, index, scale;
    bool write, open;
    int32_t moved; /* of the base since the first access */
    unsigned first;
};
#define JIT_MAX_GROUPS 16

enum stub_kind { STUB_SLOW, STUB_EXIT, STUB_JUMP, STUB_FPU, STUB_DEAD, STUB_SHADOW };
struct stub {
    uint8_t kind, fl; /* fl: enum flags_at when it is reached */
    bool save, const_ea;
    unsigned insn;
    uint32_t word;
    uint8_t *from[3]; /* displacements of the branches to it */
    uint8_t *retry;
    uint8_t *resume; /* STUB_SLOW: behind the check */
    size_t tlb_off;
    uint64_t ea;
    int32_t pop; /* STUB_JUMP: what is added to the stack pointer */
    struct recipe recipe;
    struct texit *exit;
};
#define JIT_MAX_STUBS (JIT_MAX_INSNS * 4)

/* A translation in progress. */
struct tr {
    struct scpu *c;
    struct jit *j;
    struct asmb hot, cold;
    struct tblock *tb;
    uint32_t number;
    struct jinsn insn[JIT_MAX_INSNS];
    unsigned n, cur;
    unsigned first; /* of the pass: a block that loops to itself is emitted twice */
    uint8_t *loop_at, *loop_jmp; /* the second time; the branch from the first to it */
    struct group group[JIT_MAX_GROUPS];
    unsigned n_groups;
    enum flags_at fl;
    struct recipe recipe;
    int8_t s0_group; /* S0 holds where this group is; -1: something else */
    bool fpu_known;
    uint64_t next_va; /* after the last instruction */
    struct stub stub[JIT_MAX_STUBS];
    unsigned n_stubs;
    struct texit exit[JIT_MAX_EXITS];
    unsigned n_exits;
    struct x87_site *x87_room; /* in the arena, for every instruction */
};

/* ---- scan.c ---- */
/* Decodes from tb->va on into t->insn, finds what each does, and groups accesses. */
void jit_scan(struct tr *t);
/* Whether the flags are overwritten at va, in the block's page, before anything can see them.
 */
bool jit_flags_dead_at(struct tr *t, uint64_t va);

/* ---- flags.c ---- */
/* Before host code that destroys EFLAGS. */
void tr_flags_clobber(struct tr *t);
/* EFLAGS hold the guest's; uses S0. */
void tr_flags_to_host(struct tr *t);
/* scpu.aflags hold them; EFLAGS stay, S0 is used. */
void tr_flags_to_mem(struct tr *t);
/* After an instruction of the guest. */
void tr_flags_written(struct tr *t, const struct jinsn *ji);
/* At a branch back to the block's first instruction: whether the flags need not be saved for
 * the next round. */
bool tr_flags_loop(const struct tr *t);
void tr_recipe_run(struct asmb *a, const struct recipe *r);
void tr_flags_save(struct asmb *a);
void tr_flags_restore(struct asmb *a);

/* ---- access.c ---- */
/* Makes *m the operand for an access of size bytes by ji's memory operand. Uses S0, S1. */
void tr_operand(struct tr *t, struct jinsn *ji, unsigned size, bool write, struct mop *m);
/* The same for disp bytes from a register, as PUSH and POP need. */
void tr_stack(struct tr *t, struct jinsn *ji, int32_t disp, unsigned size, bool write,
              struct mop *m);
/* The eight bytes below the stack pointer, for an instruction that pushes. */
void tr_push_slot(struct tr *t, struct jinsn *ji, struct mop *m);
/* Afterwards *m uses S1 only. */
void tr_collapse(struct tr *t, struct mop *m);
/* S1 = effective address of in's memory operand. */
void tr_ea(struct tr *t, const struct insn *in);
/* The same where no register is in it. */
uint64_t tr_const_ea(const struct tr *t, const struct insn *in);
/* A check of S1, which holds a linear address; afterwards S0 is the page's host address and S1
 * the offset in it. retry: where S1 was computed; word: SITE_* beside the instruction and the
 * span. */
void tr_check(struct tr *t, uint8_t *retry, unsigned span, bool write, uint32_t word);
/* Register in which guest register g can be read: its own, or scratch, loaded. */
unsigned tr_read(struct tr *t, unsigned g, unsigned scratch);
/* Where it can be written, then tr_wrote. */
unsigned tr_dest(unsigned g, unsigned scratch);
void tr_wrote(struct tr *t, unsigned g, unsigned reg);
/* A scratch register that *m does not use. */
unsigned tr_scratch(struct tr *t, struct mop *m);

/* ---- exits.c ---- */
struct stub *tr_stub(struct tr *t, enum stub_kind kind);
/* Goes on at target; back: poll for requests first. */
void tr_exit_to(struct tr *t, uint64_t target, bool back);
void tr_stubs(struct tr *t);
gen_fn gen_jcc, gen_jmp, gen_call, gen_ret, gen_jmpind, gen_callind;

/* ---- gen_*.c ---- */
gen_fn gen_alu, gen_test, gen_mov, gen_movimm, gen_lea, gen_incdec, gen_shift, gen_extend,
    gen_movsxd, gen_cmov, gen_setcc, gen_nop, gen_xchg, gen_imul, gen_negnot, gen_cwd, gen_cbw,
    gen_bt, gen_bswap, gen_muldiv, gen_cmpxchg, gen_cmpxchg16, gen_xadd, gen_bscan, gen_shd,
    gen_carry;
gen_fn gen_push, gen_pop, gen_leave, gen_pushf;
gen_fn gen_cli, gen_sti, gen_swapgs, gen_rdtsc, gen_fence, gen_smap;
gen_fn gen_native;
/* Whether scratch registers suffice for in's general registers that live in memory, and each
 * has a name without AH to BH. */
bool tr_can_rename(const struct insn *in, const struct native_desc *desc);

struct jit {
    uint8_t *rx, *rw; /* the same memory: executed, written */
    bool has_bmi2;    /* the host */
    uint32_t bytes;
    uint32_t hot, hot_end, cold, cold_end; /* next free and end of both parts */
    uint32_t first_hot, first_cold;
    struct jit_thunks thunk;
    uint8_t *arena; /* blocks, exits, tables */
    uint32_t arena_bytes, arena_used;
    struct tblock **blocks; /* by number, in order of code address */
    uint32_t n_blocks, max_blocks;
    struct tblock *hash[1u << JIT_HASH_BITS];
    struct jpage *pages[1u << JIT_PAGE_BITS];
    uint64_t no_groups[256]; /* addresses of blocks whose groups do not pay */
    uint32_t stale_seen;     /* of vm->stale */
    unsigned dispatches;     /* for forced flushes */
    struct tr tr;            /* too large for a stack */
};

static inline void *jit_rx(const struct jit *j, uint32_t off)
{
    return j->rx + off;
}

/* Where va stands if the groups of the block there do not pay. */
static inline uint64_t *jit_no_groups(struct jit *j, uint64_t va)
{
    return &j->no_groups[(va * UINT64_C(0x9e3779b97f4a7c15)) >> 56];
}
