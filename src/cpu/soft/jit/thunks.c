/*
 * The ends of generated code that all blocks share, made once per code memory: entry from C,
 * exit to C, and calls of C functions from the middle of a block.
 *
 * In generated code gs is the base of struct scpu, rsp a C stack that is aligned to 16 bytes,
 * and the guest's registers are where jit_host_reg says. A thunk is called; the words after the
 * call (site) say where from. C callees save nothing of ours: all guest registers are in struct
 * scpu while they run, and they are compiled for general registers only.
 */
#include "cpu/soft/jit/jit_int.h"

static void spill(struct asmb *a)
{
    for (unsigned g = 0; g < 16; g++) {
        if (jit_host_reg[g] != NO_REG) {
            e_store(a, jit_host_reg[g], OFF_GPR(g));
        }
    }
}

static void reload(struct asmb *a)
{
    for (unsigned g = 0; g < 16; g++) {
        if (jit_host_reg[g] != NO_REG) {
            e_load(a, jit_host_reg[g], OFF_GPR(g));
        }
    }
}

static void push(struct asmb *a, unsigned r)
{
    if (r >= 8) {
        e8(a, 0x41);
    }
    e8(a, 0x50 | (r & 7));
}

static void pop(struct asmb *a, unsigned r)
{
    if (r >= 8) {
        e8(a, 0x41);
    }
    e8(a, 0x58 | (r & 7));
}

static const uint8_t callee_saved[] = {RBX, RBP, R12, R13, R14, R15};

static void add_rsp(struct asmb *a, int n)
{
    e_rr(a, E_W, 0x83, 0, RSP);
    e8(a, (unsigned)n & 0xff);
}

static void call_c(struct asmb *a, const void *fn)
{
    e_load(a, RDI, offsetof(struct scpu, self));
    e_const(a, RAX, (uint64_t)(uintptr_t)fn);
    e_rr(a, 0, 0xff, 2, RAX);
}

/* jit_enter_fn */
static void make_enter(struct asmb *a)
{
    for (unsigned i = 0; i < ARRAY_LEN(callee_saved); i++) {
        push(a, callee_saved[i]);
    }
    add_rsp(a, -8);
    e_mov(a, RAX, RSI);
    reload(a);
    e_rr(a, 0, 0xff, 4, RAX);
}

static void make_leave(struct asmb *a)
{
    add_rsp(a, 8);
    for (unsigned i = ARRAY_LEN(callee_saved); i-- > 0;) {
        pop(a, callee_saved[i]);
    }
    e8(a, 0xc3);
}

/* Calls fn(c, S1, site). All results but LEAVE come back behind the site, with EFLAGS as by a
 * comparison of the result with DONE. */
static void make_call(struct asmb *a, jit_callee *fn, const uint8_t *leave)
{
    spill(a);
    e_mov(a, RSI, S1);
    struct mop top = mop_mem(RSP, NO_REG, 0);
    e_op(a, E_W, 0x8b, RDX, &top);
    add_rsp(a, -8);
    call_c(a, (const void *)(uintptr_t)fn);
    add_rsp(a, 8);
    e_rr(a, 0, 0x83, 7, RAX); /* cmp eax, JIT_LEAVE */
    e8(a, JIT_LEAVE);
    uint8_t *gone = e_jcc(a, CC_AE);
    e_rr(a, 0, 0x83, 7, RAX); /* cmp eax, JIT_DONE */
    e8(a, JIT_DONE);
    e_op(a, E_W, 0x8b, RAX, &top);
    e_lea(a, RAX, RAX, NO_REG, 0, 2 * sizeof(uint32_t));
    e_op(a, E_W, 0x89, RAX, &top);
    reload(a);
    e8(a, 0xc3);
    e_patch(gone, a->p);
    add_rsp(a, 8); /* the return address */
    e_const(a, RAX, 0);
    e_jmp_to(a, leave);
}

/* Calls jit_on_end, and jumps to what it returns. */
static void make_end(struct asmb *a, const uint8_t *leave)
{
    spill(a);
    struct mop top = mop_mem(RSP, NO_REG, 0);
    e_op(a, E_W, 0x8b, RDX, &top);
    add_rsp(a, -8);
    call_c(a, (const void *)(uintptr_t)jit_on_end);
    add_rsp(a, 16);
    e_rr(a, E_W, 0x85, RAX, RAX); /* NULL is what leave wants, too */
    e_patch(e_jcc(a, CC_E), leave);
    reload(a);
    e_rr(a, 0, 0xff, 4, RAX);
}

static uint32_t begin(const struct jit *j, struct asmb *a)
{
    a->p = j->rw + align_up((size_t)(a->p - j->rw), 16);
    return (uint32_t)(a->p - j->rw);
}

void jit_make_thunks(struct jit *j)
{
    struct asmb a = {j->rw + 16}; /* offset 0 is nothing */
    struct jit_thunks *t = &j->thunk;
    t->enter = begin(j, &a);
    make_enter(&a);
    t->leave = begin(j, &a);
    make_leave(&a);
    t->exit = begin(j, &a);
    spill(&a);
    pop(&a, RAX);
    e_jmp_to(&a, j->rw + t->leave);
    const struct {
        uint32_t *at;
        jit_callee *fn;
    } calls[] = {{&t->slow, jit_on_slow},  {&t->help, jit_on_help}, {&t->native, jit_on_native},
                 {&t->jump, jit_on_jump},  {&t->fpu, jit_on_fpu},   {&t->shadow, jit_on_shadow},
                 {&t->store, jit_on_store}};
    for (unsigned i = 0; i < ARRAY_LEN(calls); i++) {
        *calls[i].at = begin(j, &a);
        make_call(&a, calls[i].fn, j->rw + t->leave);
    }
    t->end = begin(j, &a);
    make_end(&a, j->rw + t->leave);
    t->fault = begin(j, &a);
    spill(&a);
    call_c(&a, (const void *)(uintptr_t)jit_on_fault);
    e_const(&a, RAX, 0);
    e_jmp_to(&a, j->rw + t->leave);
    j->first_hot = (uint32_t)align_up(begin(j, &a), JIT_ALIGN);
}
