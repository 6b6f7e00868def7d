/*
 * Faults, traps and signals must show the state of exactly one instruction: RIP, flags, every
 * register, the fault's address and error code; and an interrupt may come between any two
 * instructions and change nothing. Snippets are entered by a signal's return, which sets every
 * register, and left by the fault that they make.
 *
 * Also single steps (TF and ptrace), breakpoints of both kinds, and a timer at 1 kHz in the
 * middle of integer, x87, SSE, AVX and AVX-512 sums. Everything expected here was seen on a
 * processor.
 */
#include "t.h"

#include <immintrin.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/user.h>
#include <ucontext.h>

#define PAGE    4096u
#define FLAG_CF 1u
#define FLAG_PF 4u
#define FLAG_AF 0x10u
#define FLAG_ZF 0x40u
#define FLAG_SF 0x80u
#define FLAG_TF 0x100u
#define FLAG_DF 0x400u
#define FLAG_OF 0x800u
#define FLAG_RF 0x10000u
#define FLAG_AC 0x40000u
#define ARITH   (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

/* What a snippet ended with. */
static struct {
    greg_t in[23], out[23], saved[23];
    struct _libc_fpstate fp_in, fp_out;
    bool entering, inside;
    unsigned mxcsr, cwd;
    int sig, code;
    uintptr_t addr;
    uint64_t trace[256];
    unsigned n_trace;
    uint64_t trace_end;
} s;

static void on_enter(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    (void)sig;
    (void)info;
    memcpy(s.saved, uc->uc_mcontext.gregs, sizeof(s.saved));
    greg_t segments = uc->uc_mcontext.gregs[REG_CSGSFS];
    memcpy(uc->uc_mcontext.gregs, s.in, sizeof(s.in));
    uc->uc_mcontext.gregs[REG_CSGSFS] = segments;
    if (s.mxcsr != 0) {
        uc->uc_mcontext.fpregs->mxcsr = s.mxcsr;
    }
    if (s.cwd != 0) {
        uc->uc_mcontext.fpregs->cwd = (uint16_t)s.cwd;
    }
    s.inside = true;
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    /* A signal leaves AC alone, and what is compiled here is not aligned. */
    __asm__ volatile("pushfq; andl $~0x40000, (%%rsp); popfq" ::: "memory", "cc");
    CHECK(s.inside, "signal %d at %#llx, address %p", sig, g[REG_RIP], info->si_addr);
    if (sig == SIGTRAP && s.trace_end != 0) {
        CHECK(s.n_trace < T_LEN(s.trace), "too many steps");
        s.trace[s.n_trace++] = (uint64_t)g[REG_RIP];
        if ((uint64_t)g[REG_RIP] != s.trace_end) {
            return;
        }
    }
    s.inside = false;
    memcpy(s.out, g, sizeof(s.out));
    s.fp_out = *uc->uc_mcontext.fpregs;
    s.sig = sig;
    s.code = info->si_code;
    s.addr = (uintptr_t)info->si_addr;
    greg_t segments = g[REG_CSGSFS];
    memcpy(g, s.saved, sizeof(s.saved));
    g[REG_CSGSFS] = segments;
    uc->uc_mcontext.fpregs->mxcsr = 0x1f80;
    uc->uc_mcontext.fpregs->cwd = 0x37f;
    uc->uc_mcontext.fpregs->swd = 0;
}

static void catch_signals(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    static uint8_t stack[65536];
    stack_t alt = {.ss_sp = stack, .ss_size = sizeof(stack)};
    SYS(sigaltstack(&alt, NULL) == 0);
    struct sigaction act = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    for (size_t i = 0; i < T_LEN(signals); i++) {
        SYS(sigaction(signals[i], &act, NULL) == 0);
    }
    act.sa_sigaction = on_enter;
    SYS(sigaction(SIGUSR1, &act, NULL) == 0);
}

/* Places that snippets use: rbx good memory, rbp nothing, rsi read-only, rdi end of good memory
 * (what follows it is not there), rdx not canonical, rcx 10, r8 to r15 patterns. */
static uint8_t *good, *readonly, *noexec;

static void make_places(void)
{
    good = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    readonly = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    noexec = good;
    SYS(good != MAP_FAILED && readonly != MAP_FAILED);
    SYS(munmap(good + 2 * PAGE, 2 * PAGE) == 0);
    SYS(readonly[0] == 0); /* present */
}

#define NOWHERE       0x10000u
#define NOT_CANONICAL 0x8000123456789abcu

static void set_registers(uint64_t rip)
{
    static const int others[] = {REG_R8,  REG_R9,  REG_R10, REG_R11,
                                 REG_R12, REG_R13, REG_R14, REG_R15};
    memset(s.in, 0, sizeof(s.in));
    for (unsigned i = 0; i < T_LEN(others); i++) {
        s.in[others[i]] = (greg_t)(0x1111111111111111u * (i + 1));
    }
    s.in[REG_RAX] = -1;
    s.in[REG_RBX] = (greg_t)(uintptr_t)(good + 512);
    s.in[REG_RBP] = NOWHERE;
    s.in[REG_RSI] = (greg_t)(uintptr_t)readonly;
    s.in[REG_RDI] = (greg_t)(uintptr_t)(good + 2 * PAGE);
    s.in[REG_RDX] = (greg_t)NOT_CANONICAL;
    s.in[REG_RCX] = 10;
    s.in[REG_RSP] = (greg_t)(uintptr_t)(good + PAGE);
    s.in[REG_RIP] = (greg_t)rip;
    s.in[REG_EFL] = 0x202;
}

static void enter(void)
{
    s.n_trace = 0;
    s.sig = 0;
    memset(good, 0x5a, 2 * PAGE);
    raise(SIGUSR1);
    CHECK(s.sig != 0, "the snippet did not end");
}

/* Every snippet begins with add rax, 1 (rax becomes 0: CF, ZF, PF, AF) and lea, which leaves
 * the flags alone; then the instruction at NAME_at. What follows it must not happen. */
#define SNIPPET(name, text)                                                                    \
    __asm__(".pushsection .text; .p2align 6\n" #name ": add $1, %rax; lea 1(%r8), %r8\n" #name \
            "_at: " text "\nmov $77, %r15d; xor %r14d, %r14d; int3; .popsection");             \
    extern const uint8_t name[], name##_at[];

SNIPPET(f_load, "mov (%rbp), %r9")
SNIPPET(f_load8, "movzbl 7(%rbp), %r9d")
SNIPPET(f_store, "mov %r9, (%rbp)")
SNIPPET(f_store_ro, "mov %r9, 8(%rsi)")
SNIPPET(f_rmw_ro, "add %r9, 16(%rsi)")
SNIPPET(f_lock_ro, "lock xadd %r9, 24(%rsi)")
SNIPPET(f_cmpxchg_ro, "lock cmpxchg %r9, 32(%rsi)")
SNIPPET(f_xchg, "xchg %r9, (%rbp)")
SNIPPET(f_straddle, "mov -3(%rdi), %r9")
SNIPPET(f_straddle_store, "mov %r9, -3(%rdi)")
SNIPPET(f_straddle_sse, "movups %xmm0, -9(%rdi)")
SNIPPET(f_straddle_rmw, "lock incq -5(%rdi)")
SNIPPET(f_push, "lea 8(%rbp), %rsp; .globl f_push_2; f_push_2: push %r9")
SNIPPET(f_pop, "pop (%rbp)")
SNIPPET(f_pop_at_end, "lea (%rdi), %rsp; .globl f_pop_2; f_pop_2: pop %r9")
SNIPPET(f_call, "call *(%rbp)")
SNIPPET(f_jump, "jmp *%rbp")
SNIPPET(f_jump_nx, "jmp *%rbx")
SNIPPET(f_canonical, "mov (%rdx), %r9")
SNIPPET(f_canonical_store, "mov %r9, (%rdx)")
SNIPPET(f_stack, "mov %rdx, %rsp; .globl f_stack_2; f_stack_2: push %r9")
SNIPPET(f_movaps, "movaps 1(%rbx), %xmm1")
SNIPPET(f_fxsave, "fxsave 4(%rbx)")
SNIPPET(f_div0, "mov $0, %edx; mov $0, %r10d; .globl f_div0_2; f_div0_2: div %r10")
SNIPPET(f_idiv_over,
        "mov $0x80000000, %eax; cltd; mov $-1, %r10d; .globl f_idiv_2; f_idiv_2: idivl %r10d")
SNIPPET(f_div8, "mov $0x1000, %eax; mov $2, %r10d; .globl f_div8_2; f_div8_2: divb %r10b")
SNIPPET(f_ud2, "ud2")
SNIPPET(f_ud1, "ud1 (%rbp), %eax")
SNIPPET(f_badlock, ".byte 0xf0, 0x01, 0xc0")
SNIPPET(f_hlt, "hlt")
SNIPPET(f_cli, "cli")
SNIPPET(f_in, "in %dx, %al")
SNIPPET(f_cr, "mov %cr0, %r9")
SNIPPET(f_rdmsr, "rdmsr")
SNIPPET(f_int, "int $0x81")
SNIPPET(f_int3, "int3")
SNIPPET(f_align, "mov 1(%rbx), %r9")
SNIPPET(f_sse_div, "pxor %xmm1, %xmm1; movss one(%rip), %xmm0; movaps %xmm0, %xmm2\n"
                   ".globl f_sse_2; f_sse_2: divss %xmm1, %xmm0")
SNIPPET(f_sse_inexact, "movss one(%rip), %xmm0; movss three(%rip), %xmm1\n"
                       ".globl f_ine_2; f_ine_2: divss %xmm1, %xmm0")
SNIPPET(f_sse_invalid, "movss minus(%rip), %xmm0; .globl f_inv_2; f_inv_2: sqrtss %xmm0, %xmm1")
SNIPPET(f_x87_div, "fld1; fldz; fdivrp; mov $5, %r9d; nop; .globl f_x87_2; f_x87_2: fwait")
SNIPPET(f_x87_stack, "fninit; movw $0x37e, -8(%rsp); fldcw -8(%rsp); fstp %st(0)\n"
                     ".globl f_x87s_2; f_x87s_2: fld1")
SNIPPET(f_vmov, "vmovdqu (%rbp), %ymm3")
SNIPPET(f_gather, "vpcmpeqd %xmm2, %xmm2, %xmm2; vpxor %xmm1, %xmm1, %xmm1; mov %rbp, %r10\n"
                  ".globl f_gather_2; f_gather_2: vpgatherdd %xmm2, (%r10,%xmm1,1), %xmm0")
__asm__(
    ".pushsection .rodata; .p2align 4; one: .float 1,0,0,0; three: .float 3; minus: .float -1\n"
    ".popsection");
extern const uint8_t f_push_2[], f_pop_2[], f_stack_2[], f_div0_2[], f_idiv_2[], f_div8_2[],
    f_sse_2[], f_ine_2[], f_inv_2[], f_x87_2[], f_x87s_2[], f_gather_2[];

enum where { AT_NOWHERE, AT_READONLY, AT_END, AT_GOOD, AT_RIP, AT_NULL, AT_ANY };

struct snippet {
    const char *name;
    const uint8_t *start, *fault;
    int sig, code, trap;
    int error;        /* -1: not looked at */
    enum where where; /* of the fault's address */
    int add;
    unsigned mxcsr, cwd, flags; /* set at the start */
    int after;                  /* RIP is behind an instruction of so many bytes (a trap) */
};

#define PF(name, where, add, error)                                                            \
    {                                                                                          \
#name, name, name##_at, SIGSEGV, SEGV_MAPERR, 14, error, where, add, 0, 0, 0, 0        \
    }
#define PFA(name, where, add, error)                                                           \
    {                                                                                          \
#name, name, name##_at, SIGSEGV, SEGV_ACCERR, 14, error, where, add, 0, 0, 0, 0        \
    }
#define GP(name, error)                                                                        \
    {                                                                                          \
#name, name, name##_at, SIGSEGV, SI_KERNEL, 13, error, AT_NULL, 0, 0, 0, 0, 0          \
    }
#define FP(name, at, code, trap, mxcsr, cwd)                                                   \
    {                                                                                          \
#name, name, at, SIGFPE, code, trap, 0, AT_RIP, 0, mxcsr, cwd, 0, 0                    \
    }

static const struct snippet snippets[] = {
    PF(f_load, AT_NOWHERE, 0, 4),
    PF(f_load8, AT_NOWHERE, 7, 4),
    PF(f_store, AT_NOWHERE, 0, 6),
    PFA(f_store_ro, AT_READONLY, 8, 7),
    PFA(f_rmw_ro, AT_READONLY, 16, 7),
    PFA(f_lock_ro, AT_READONLY, 24, 7),
    PFA(f_cmpxchg_ro, AT_READONLY, 32, 7),
    PF(f_xchg, AT_NOWHERE, 0, 6),
    PF(f_straddle, AT_END, 0, 4),
    PF(f_straddle_store, AT_END, 0, 6),
    PF(f_straddle_sse, AT_END, 0, 6),
    PF(f_straddle_rmw, AT_END, 0, 6),
    {"f_push", f_push, f_push_2, SIGSEGV, SEGV_MAPERR, 14, 6, AT_NOWHERE, 0, 0, 0, 0, 0},
    PF(f_pop, AT_NOWHERE, 0, 6),
    {"f_pop_at_end", f_pop_at_end, f_pop_2, SIGSEGV, SEGV_MAPERR, 14, 4, AT_END, 0, 0, 0, 0, 0},
    PF(f_call, AT_NOWHERE, 0, 4),
    GP(f_canonical, 0),
    GP(f_canonical_store, 0),
    {"f_stack", f_stack, f_stack_2, SIGBUS, SI_KERNEL, 12, 0, AT_NULL, 0, 0, 0, 0, 0},
    GP(f_movaps, 0),
    GP(f_fxsave, 0),
    FP(f_div0, f_div0_2, FPE_INTDIV, 0, 0, 0),
    FP(f_idiv_over, f_idiv_2, FPE_INTDIV, 0, 0, 0),
    FP(f_div8, f_div8_2, FPE_INTDIV, 0, 0, 0),
    {"f_ud2", f_ud2, f_ud2_at, SIGILL, ILL_ILLOPN, 6, 0, AT_RIP, 0, 0, 0, 0, 0},
    {"f_ud1", f_ud1, f_ud1_at, SIGILL, ILL_ILLOPN, 6, 0, AT_RIP, 0, 0, 0, 0, 0},
    {"f_badlock", f_badlock, f_badlock_at, SIGILL, ILL_ILLOPN, 6, 0, AT_RIP, 0, 0, 0, 0, 0},
    GP(f_hlt, 0),
    GP(f_cli, 0),
    GP(f_in, 0),
    GP(f_cr, 0),
    GP(f_rdmsr, 0),
    GP(f_int, 0x81 * 8 + 2),
    {"f_int3", f_int3, f_int3_at, SIGTRAP, SI_KERNEL, 3, 0, AT_ANY, 0, 0, 0, 0, 1},
    {"f_align", f_align, f_align_at, SIGBUS, BUS_ADRALN, 17, 0, AT_ANY, 0, 0, 0, FLAG_AC, 0},
    FP(f_sse_div, f_sse_2, FPE_FLTDIV, 19, 0x1f80 & ~0x200, 0),
    FP(f_sse_inexact, f_ine_2, FPE_FLTRES, 19, 0x1f80 & ~0x1000, 0),
    FP(f_sse_invalid, f_inv_2, FPE_FLTINV, 19, 0x1f80 & ~0x80, 0),
    FP(f_x87_div, f_x87_2, FPE_FLTDIV, 16, 0, 0x37f & ~4),
    FP(f_x87_stack, f_x87s_2, FPE_FLTINV, 16, 0, 0),
    PF(f_vmov, AT_NOWHERE, 0, 4),
    {"f_gather", f_gather, f_gather_2, SIGSEGV, SEGV_MAPERR, 14, 4, AT_NOWHERE, 0, 0, 0, 0, 0},
};

static void check_address(const struct snippet *t)
{
    uintptr_t want = (uintptr_t)t->add;
    switch (t->where) {
    case AT_NOWHERE: want += NOWHERE; break;
    case AT_READONLY: want += (uintptr_t)readonly; break;
    case AT_END: want += (uintptr_t)(good + 2 * PAGE); break;
    case AT_GOOD: want += (uintptr_t)(good + 512); break;
    case AT_RIP: want += (uintptr_t)t->fault; break;
    case AT_NULL: break;
    case AT_ANY: return;
    }
    CHECK(s.addr == want, "%s: address %#lx, not %#lx", t->name, s.addr, want);
}

/* Registers that a snippet's first instructions do not write are as they were. */
static void check_registers(const struct snippet *t)
{
    static const int kept[] = {REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
                               REG_RBX, REG_RBP, REG_RSI, REG_RDI, REG_RCX};
    for (unsigned i = 0; i < T_LEN(kept); i++) {
        CHECK(s.out[kept[i]] == s.in[kept[i]], "%s: register %d is %#llx, was %#llx", t->name,
              kept[i], s.out[kept[i]], s.in[kept[i]]);
    }
    CHECK(s.out[REG_R8] == s.in[REG_R8] + 1, "%s: r8 %#llx", t->name, s.out[REG_R8]);
    if (t->fault == t->start + (f_load_at - f_load)) {
        /* The fault is right behind the first two instructions. */
        unsigned flags = FLAG_CF | FLAG_ZF | FLAG_PF | FLAG_AF;
        CHECK(s.out[REG_RAX] == 0 && s.out[REG_R9] == s.in[REG_R9] &&
                  s.out[REG_R10] == s.in[REG_R10] && s.out[REG_RSP] == s.in[REG_RSP],
              "%s: rax %#llx r9 %#llx r10 %#llx rsp %#llx", t->name, s.out[REG_RAX],
              s.out[REG_R9], s.out[REG_R10], s.out[REG_RSP]);
        CHECK((s.out[REG_EFL] & ARITH) == flags, "%s: flags %#llx", t->name, s.out[REG_EFL]);
    }
    if (t->after == 0) {
        CHECK(s.out[REG_EFL] & FLAG_RF, "%s: RF is clear in %#llx", t->name, s.out[REG_EFL]);
    }
    if (t->trap == 14 || t->trap == 13) {
        for (unsigned i = 0; i < 2 * PAGE; i++) {
            CHECK(good[i] == 0x5a, "%s: memory at %#x has changed", t->name, i);
        }
    }
}

static void faults(void)
{
    catch_signals();
    make_places();
    for (unsigned round = 0; round < t_times(40); round++) {
        for (size_t i = 0; i < T_LEN(snippets); i++) {
            const struct snippet *t = &snippets[i];
            if ((t->start == f_vmov || t->start == f_gather) &&
                !__builtin_cpu_supports("avx2")) {
                continue;
            }
            set_registers((uintptr_t)t->start);
            s.in[REG_EFL] |= t->flags;
            s.mxcsr = t->mxcsr;
            s.cwd = t->cwd;
            enter();
            CHECK(s.sig == t->sig && (t->code == -1 || s.code == t->code) &&
                      s.out[REG_TRAPNO] == t->trap,
                  "%s: signal %d code %d trap %lld, not %d %d %d", t->name, s.sig, s.code,
                  s.out[REG_TRAPNO], t->sig, t->code, t->trap);
            CHECK(s.out[REG_RIP] == (greg_t)(uintptr_t)t->fault + t->after,
                  "%s: RIP %#llx, not %p", t->name, s.out[REG_RIP], (const void *)t->fault);
            CHECK(t->error == -1 || s.out[REG_ERR] == t->error, "%s: error code %#llx", t->name,
                  s.out[REG_ERR]);
            check_address(t);
            check_registers(t);
        }
    }
    printf("%zu snippets\n", T_LEN(snippets));
}

/* Jumps to where no code is: RIP is the target, and the fetch is what faults. */
static void bad_fetches(void)
{
    catch_signals();
    make_places();
    for (unsigned round = 0; round < t_times(40); round++) {
        set_registers((uintptr_t)f_jump);
        enter();
        CHECK(s.sig == SIGSEGV && s.out[REG_RIP] == NOWHERE && s.addr == NOWHERE &&
                  s.out[REG_ERR] == 0x14 && s.out[REG_RAX] == 0,
              "unmapped: signal %d RIP %#llx address %#lx error %#llx", s.sig, s.out[REG_RIP],
              s.addr, s.out[REG_ERR]);
        set_registers((uintptr_t)f_jump_nx);
        enter();
        CHECK(s.sig == SIGSEGV && s.addr == (uintptr_t)(good + 512) &&
                  s.out[REG_RIP] == (greg_t)(uintptr_t)(good + 512) && s.out[REG_ERR] == 0x15,
              "not executable: RIP %#llx address %#lx error %#llx", s.out[REG_RIP], s.addr,
              s.out[REG_ERR]);
        /* An instruction whose second half is not there. */
        SYS(mprotect(good, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
        uint8_t *at = good + 2 * PAGE - 2;
        set_registers((uintptr_t)at);
        memset(good, 0x5a, 2 * PAGE);
        at[0] = 0x48;
        at[1] = 0xb8;
        s.sig = 0;
        raise(SIGUSR1);
        CHECK(s.sig == SIGSEGV && s.out[REG_RIP] == (greg_t)(uintptr_t)at &&
                  s.addr == (uintptr_t)(good + 2 * PAGE) && s.out[REG_ERR] == 0x14,
              "half: RIP %#llx address %#lx error %#llx", s.out[REG_RIP], s.addr,
              s.out[REG_ERR]);
        SYS(mprotect(good, 2 * PAGE, PROT_READ | PROT_WRITE) == 0);
    }
}

/* String instructions stop in the middle with counters that say where. */
SNIPPET(f_movs, "mov %rbx, %rsi; lea -7(%rdi), %rdi; mov $20, %ecx; .globl f_movs_2; f_movs_2: "
                "rep movsb")
SNIPPET(f_stosq, "lea -24(%rdi), %rdi; mov $9, %ecx; .globl f_stosq_2; f_stosq_2: rep stosq")
SNIPPET(f_scas, "lea -100(%rdi), %rdi; mov $1000, %ecx; .globl f_scas_2; f_scas_2: repne scasb")
extern const uint8_t f_movs_2[], f_stosq_2[], f_scas_2[];

static void strings(void)
{
    static const struct {
        const char *name;
        const uint8_t *start, *fault;
        greg_t left;
    } t[] = {{"movsb", f_movs, f_movs_2, 13},
             {"stosq", f_stosq, f_stosq_2, 6},
             {"scasb", f_scas, f_scas_2, 900}};
    catch_signals();
    make_places();
    uintptr_t end = (uintptr_t)(good + 2 * PAGE);
    for (unsigned round = 0; round < t_times(40); round++) {
        for (unsigned i = 0; i < T_LEN(t); i++) {
            set_registers((uintptr_t)t[i].start);
            enter();
            CHECK(s.sig == SIGSEGV && s.out[REG_RIP] == (greg_t)(uintptr_t)t[i].fault &&
                      s.addr == end && s.out[REG_RDI] == (greg_t)end &&
                      s.out[REG_RCX] == t[i].left,
                  "%s: RIP %#llx address %#lx rdi %#llx rcx %lld", t[i].name, s.out[REG_RIP],
                  s.addr, s.out[REG_RDI], s.out[REG_RCX]);
        }
    }
}

/* TF: a trap behind each instruction and each turn of a REP. */
__asm__(".pushsection .text; .p2align 6\n"
        "steps: nop\n1: add $1, %rax\n2: push %rax\n3: pop %r9\n4: mov $3, %ecx\n5: mov %rbx, "
        "%rdi\n"
        "6: rep stosb\n7: call 9f\n8: jmp 10f\n9: ret\n10: mov $2, %ecx\n11: dec %ecx\n12: jnz "
        "11b\n"
        "13: cpuid\n14: xchg %rax, %r9\n15: movaps %xmm0, %xmm1\n16: nop\n"
        ".pushsection .rodata; .globl steps_at; steps_at:\n"
        ".quad 1b,2b,3b,4b,5b,6b,6b,6b,7b,9b,8b,10b,11b,12b,11b,12b,13b,14b,15b,16b,0\n"
        ".popsection; .popsection");
extern const uint8_t steps[];
extern const uint64_t steps_at[];

static unsigned steps_count(void)
{
    unsigned n = 0;
    while (steps_at[n] != 0) {
        n++;
    }
    return n;
}

static void self_steps(void)
{
    unsigned n = steps_count();
    catch_signals();
    make_places();
    s.trace_end = steps_at[n - 1];
    for (unsigned round = 0; round < t_times(30); round++) {
        set_registers((uintptr_t)steps);
        s.in[REG_EFL] |= FLAG_TF;
        enter();
        CHECK(s.n_trace == n, "%u steps, not %u", s.n_trace, n);
        for (unsigned i = 0; i < n; i++) {
            CHECK(s.trace[i] == steps_at[i], "step %u at %#lx, not %#lx", i, s.trace[i],
                  steps_at[i]);
        }
    }
}

static void wait_stop(pid_t pid, int sig)
{
    int status;
    SYS(waitpid(pid, &status, 0) == pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == sig, "wait status 0x%x, not stop %d",
          status, sig);
}

static pid_t traced(void (*body)(void))
{
    pid_t pid = fork();
    SYS(pid >= 0);
    if (pid == 0) {
        SYS(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
        raise(SIGSTOP);
        body();
        _exit(0);
    }
    wait_stop(pid, SIGSTOP);
    return pid;
}

static volatile uint64_t watched, plain;

__attribute__((noinline)) static uint64_t target(uint64_t i)
{
    __asm__ volatile("" : "+r"(i));
    return i * 3 + 1;
}

static void debuggee(void)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < 20; i++) {
        sum += target(i);
        plain = sum;
        if (i % 5 == 0) {
            watched = sum;
        }
    }
    CHECK(sum == 590, "the sum is %lu", sum);
}

static uint64_t rip_of(pid_t pid)
{
    struct user_regs_struct r;
    SYS(ptrace(PTRACE_GETREGS, pid, 0, &r) == 0);
    return r.rip;
}

/* A debugger's breakpoint: int3 put in, met, taken out, stepped over, put in. */
static void debugger_int3(void)
{
    uintptr_t at = (uintptr_t)target;
    for (unsigned round = 0; round < t_times(5); round++) {
        pid_t pid = traced(debuggee);
        errno = 0;
        long word = ptrace(PTRACE_PEEKTEXT, pid, at, 0);
        SYS(errno == 0);
        long trap = (word & ~0xffL) | 0xcc;
        SYS(ptrace(PTRACE_POKETEXT, pid, at, trap) == 0);
        for (unsigned hit = 0; hit < 20; hit++) {
            struct user_regs_struct r;
            SYS(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
            wait_stop(pid, SIGTRAP);
            SYS(ptrace(PTRACE_GETREGS, pid, 0, &r) == 0);
            CHECK(r.rip == at + 1 && r.rdi == hit, "hit %u at %#llx with rdi %llu", hit, r.rip,
                  r.rdi);
            r.rip = at;
            SYS(ptrace(PTRACE_SETREGS, pid, 0, &r) == 0);
            SYS(ptrace(PTRACE_POKETEXT, pid, at, word) == 0);
            SYS(ptrace(PTRACE_SINGLESTEP, pid, 0, 0) == 0);
            wait_stop(pid, SIGTRAP);
            CHECK(rip_of(pid) != at, "the step did not move");
            SYS(ptrace(PTRACE_POKETEXT, pid, at, trap) == 0);
        }
        SYS(ptrace(PTRACE_POKETEXT, pid, at, word) == 0);
        SYS(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
        t_reap(pid);
    }
}

static void set_debug(pid_t pid, unsigned reg, uint64_t value)
{
    SYS(ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[reg]), value) == 0);
}

/* Debug registers: 0 executes target, 1 writes watched, so 20 and 4 stops. */
static void debug_registers(void)
{
    for (unsigned round = 0; round < t_times(5); round++) {
        unsigned calls = 0, writes = 0;
        int status;
        pid_t pid = traced(debuggee);
        set_debug(pid, 0, (uintptr_t)target);
        set_debug(pid, 1, (uintptr_t)&watched);
        set_debug(pid, 7, 1u | 4u | 1u << 20 | 3u << 22);
        for (;;) {
            SYS(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
            SYS(waitpid(pid, &status, 0) == pid);
            if (WIFEXITED(status)) {
                break;
            }
            CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP, "status 0x%x", status);
            long dr6 = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, u_debugreg[6]), 0);
            if (dr6 & 1) {
                CHECK(rip_of(pid) == (uintptr_t)target, "execution at %#lx", rip_of(pid));
                calls++;
            }
            writes += (dr6 & 2) != 0;
            set_debug(pid, 6, 0);
        }
        CHECK(status == 0 && calls == 20 && writes == 4, "status 0x%x, %u calls, %u writes",
              status, calls, writes);
    }
}

/* A whole small function stepped: as many steps, at the same places, as a processor makes. */
static void stepped_body(void)
{
    __asm__ volatile("push %%rbx; lea -2048(%%rsp), %%rbx; call steps_call; pop %%rbx" ::
                         : "rax", "rcx", "rdx", "rdi", "r9", "xmm1", "memory");
}
__asm__(
    ".pushsection .text; steps_call: push %rbx; mov $-1, %eax; jmp steps_inner\n"
    "steps_inner: mov $1000, %ecx; 1: dec %ecx; jnz 1b; xor %eax, %eax; cpuid; pop %rbx; ret\n"
    ".popsection");
extern const uint8_t steps_call[], steps_inner[];

static void debugger_steps(void)
{
    pid_t pid = traced(stepped_body);
    unsigned inside = 0;
    int status;
    for (;;) {
        SYS(ptrace(PTRACE_SINGLESTEP, pid, 0, 0) == 0);
        SYS(waitpid(pid, &status, 0) == pid);
        if (WIFEXITED(status)) {
            break;
        }
        CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP, "status 0x%x", status);
        uint64_t rip = rip_of(pid);
        inside += rip >= (uintptr_t)steps_call && rip < (uintptr_t)steps_inner + 32;
    }
    /* push mov jmp mov 2000 xor cpuid pop ret */
    CHECK(status == 0 && inside == 2008, "status 0x%x, %u steps", status, inside);
}

/* A loop with a fixed relation between its registers at each instruction. The timer's handler
 * looks at them, wherever it comes. The second one has a jump before each instruction, so that
 * engines that look at interrupts at a jump do so at each. */
#define LOOP(name, j)                                                                          \
    __asm__(".pushsection .text; .p2align 6\n" #name ": add $1, %r8; " j                       \
            "9: lea 1(%r9), %r9; " j "9: mov %r8, (%rdi); " j "9: paddq %xmm1, %xmm0; " j      \
            "9: lea (%r8,%r8,2), %r10; " j "9: incl 8(%rdi); " j "9: push %r8; " j             \
            "9: pop %r11; " j "9: cmp %rsi, %r8; " j "9: jne " #name "; " #name                \
            "_end: int3; .popsection");                                                        \
    extern const uint8_t name[], name##_end[];
LOOP(loop, "")
LOOP(jumps, "jmp 9f; ")

/* Lengths of the loop's instructions. At each: r8 is i; behind that r9, memory, xmm0, r10 = 3
 * i, the count in memory, a push, a pop into r11. The flags are those of the add, then of the
 * inc. */
static const uint8_t lengths[] = {4, 4, 3, 4, 4, 3, 2, 2, 3};
#define PLACES (T_LEN(lengths) + 1)

/* Which instruction of the loop is at rip; PLACES: none. A jump to one stands for it. */
static unsigned place_of(uint64_t rip)
{
    bool jumping = rip >= (uintptr_t)jumps && rip < (uintptr_t)jumps_end;
    uint64_t at = jumping ? (uintptr_t)jumps : (uintptr_t)loop;
    for (unsigned k = 0; k < PLACES; k++) {
        if (rip == at || (jumping && k > 0 && rip == at - 2)) {
            return k;
        }
        at += k < PLACES - 1 ? lengths[k] + (jumping ? 2u : 0u) : 0;
    }
    return PLACES;
}

static uint64_t cell[2];
static unsigned ticks_in[PLACES], ticks;

static unsigned add_flags(uint64_t r)
{
    return (r == 0 ? FLAG_ZF | FLAG_CF : 0) | (r >> 63 ? FLAG_SF : 0) |
           (__builtin_parity((unsigned)(r & 0xff)) ? 0 : FLAG_PF) |
           ((r & 15) == 0 ? FLAG_AF : 0) | (r == 1ull << 63 ? FLAG_OF : 0);
}

static void look_at_loop(const greg_t *g, const struct _libc_fpstate *fp)
{
    uint64_t rip = (uint64_t)g[REG_RIP], i = (uint64_t)g[REG_R8], xmm0;
    unsigned k = place_of(rip);
    CHECK(k < PLACES, "interrupted at %#lx, within an instruction", rip);
    memcpy(&xmm0, &fp->_xmm[0], 8);
    unsigned flags = (unsigned)g[REG_EFL] & ARITH;
    uint64_t last = k == 0 ? i : i - 1; /* what is not yet done in this turn */
    CHECK((uint64_t)g[REG_R9] == (k >= 2 || k == 0 ? i : last), "at %u: r9 %lld, r8 %lu", k,
          g[REG_R9], i);
    CHECK(cell[0] == (k >= 3 || k == 0 ? i : last), "at %u: memory %lu, r8 %lu", k, cell[0], i);
    CHECK(xmm0 == (k >= 4 || k == 0 ? i : last), "at %u: xmm0 %lu, r8 %lu", k, xmm0, i);
    CHECK((uint64_t)g[REG_R10] == 3 * (k >= 5 || k == 0 ? i : last), "at %u: r10 %lld, r8 %lu",
          k, g[REG_R10], i);
    CHECK((uint32_t)cell[1] == (uint32_t)(k >= 6 || k == 0 ? i : last),
          "at %u: count %lu, r8 %lu", k, cell[1], i);
    CHECK((uint64_t)g[REG_RSP] == (uintptr_t)(good + PAGE) - (k == 7 ? 8u : 0u),
          "at %u: rsp %#llx", k, g[REG_RSP]);
    CHECK((uint64_t)g[REG_R11] == (k >= 8 || k == 0 ? i : last), "at %u: r11 %lld, r8 %lu", k,
          g[REG_R11], i);
    if (k >= 1 && k <= 5) {
        CHECK(flags == add_flags(i), "at %u: flags %#x of %#lx", k, flags, i);
    } else if (k >= 6 && k <= 8) {
        CHECK((flags & ~FLAG_CF) == (add_flags((uint32_t)i) & ~FLAG_CF),
              "at %u: flags %#x of %#lx", k, flags, i);
    }
    ticks_in[k]++;
}

static void on_tick(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    (void)sig;
    (void)info;
    ticks++;
    uint64_t rip = (uint64_t)g[REG_RIP];
    if ((rip >= (uintptr_t)loop && rip < (uintptr_t)loop_end) ||
        (rip >= (uintptr_t)jumps && rip < (uintptr_t)jumps_end)) {
        look_at_loop(g, uc->uc_mcontext.fpregs);
    }
    /* Nothing of this may show. */
    __asm__ volatile("pcmpeqd %%xmm0, %%xmm0; pcmpeqd %%xmm7, %%xmm7; fninit; fldpi; fldpi" ::
                         : "xmm0", "xmm7");
    if (__builtin_cpu_supports("avx2")) {
        __asm__ volatile(
            "vpcmpeqd %%ymm1, %%ymm1, %%ymm1; vpcmpeqd %%ymm15, %%ymm15, %%ymm15" ::
                : "xmm1", "xmm15");
    }
}

static void start_timer(void)
{
    struct sigaction act = {.sa_sigaction = on_tick,
                            .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    struct itimerval every = {{0, 1000}, {0, 1000}};
    SYS(sigaction(SIGALRM, &act, NULL) == 0);
    SYS(setitimer(ITIMER_REAL, &every, NULL) == 0);
}

static void timer_looks(void)
{
    catch_signals();
    make_places();
    start_timer();
    double end = t_now() + t_times(4);
    for (unsigned round = 0; t_now() < end; round++) {
        set_registers((uintptr_t)(round % 2 ? jumps : loop));
        s.in[REG_R8] = s.in[REG_R9] = s.in[REG_R10] = s.in[REG_R11] = 0;
        s.in[REG_RDI] = (greg_t)(uintptr_t)cell;
        s.in[REG_RSI] = 1000000;
        cell[0] = cell[1] = 0;
        s.sig = 0;
        /* xmm0 = 0 and xmm1 = 1 must survive raise: set in the context. */
        __asm__ volatile("pxor %%xmm0, %%xmm0; mov $1, %%eax; movq %%rax, %%xmm1\n"
                         "mov %0, %%edi; mov %1, %%esi; mov $234, %%eax; mov %2, %%edx\n"
                         "xchg %%edx, %%esi; syscall" ::"r"(getpid()),
                         "r"(SIGUSR1), "r"(gettid())
                         : "rax", "rdi", "rsi", "rdx", "rcx", "r11", "xmm0", "xmm1", "memory");
        CHECK(s.sig == SIGTRAP && s.out[REG_R8] == 1000000, "ended with signal %d at %lld",
              s.sig, s.out[REG_R8]);
    }
    unsigned places = 0;
    for (unsigned i = 0; i < T_LEN(ticks_in); i++) {
        places += ticks_in[i] != 0;
    }
    printf("%u ticks, at %u of %zu places\n", ticks, places, PLACES);
    CHECK(ticks > 0 && places > 0, "no tick came");
}

/* Sums that take their time, each computed without a timer and again with one. */
static uint64_t sum_integer(unsigned n)
{
    uint64_t x = 88172645463325252u, sum = 0;
    for (unsigned i = 0; i < n; i++) {
        sum = (sum << 7 | sum >> 57) + t_next(&x) % (i + 1);
    }
    return sum;
}

static uint64_t sum_double(unsigned n)
{
    double sum = 0;
    uint64_t bits;
    for (unsigned i = 1; i <= n; i++) {
        sum += 1.0 / i - __builtin_sqrt(sum) / (1000.0 + i);
    }
    memcpy(&bits, &sum, 8);
    return bits;
}

static uint64_t sum_x87(unsigned n)
{
    long double sum = 0;
    double d;
    uint64_t bits;
    for (unsigned i = 1; i <= n; i++) {
        sum = sum * 0.999L + 1.0L / i;
    }
    d = (double)sum;
    memcpy(&bits, &d, 8);
    return bits;
}

__attribute__((target("avx2,fma"))) static uint64_t sum_avx(unsigned n)
{
    __m256i a = _mm256_set_epi64x(1, 2, 3, 4), b = _mm256_set1_epi64x(0x9e3779b97f4a7c15);
    __m256d f = _mm256_set1_pd(1), g = _mm256_set1_pd(0.99999);
    for (unsigned i = 0; i < n; i++) {
        a = _mm256_add_epi64(_mm256_xor_si256(a, _mm256_slli_epi64(a, 13)), b);
        a = _mm256_permute4x64_epi64(_mm256_xor_si256(a, _mm256_srli_epi64(a, 7)), 0x39);
        f = _mm256_fmadd_pd(f, g, g);
    }
    uint64_t v[8];
    _mm256_storeu_si256((void *)v, a);
    _mm256_storeu_pd((void *)(v + 4), f);
    return v[0] ^ v[1] * 3 ^ v[2] * 5 ^ v[3] * 7 ^ v[4] ^ v[7];
}

__attribute__((target("avx512f,avx512bw"))) static uint64_t sum_avx512(unsigned n)
{
    __m512i a = _mm512_set1_epi64(0x1234567), b = _mm512_set1_epi64(0x9e3779b97f4a7c15);
    __mmask8 k = 0x5a;
    for (unsigned i = 0; i < n; i++) {
        a = _mm512_mask_add_epi64(_mm512_rol_epi64(a, 9), k, a, b);
        k = (__mmask8)(k << 1 | k >> 7);
        a = _mm512_alignr_epi64(a, a, 3);
    }
    return (uint64_t)_mm512_reduce_add_epi64(a) + k;
}

static void timer_sums(void)
{
    static const struct {
        const char *name, *feature;
        uint64_t (*sum)(unsigned n);
    } sums[] = {{"integer", "", sum_integer},
                {"double", "", sum_double},
                {"x87", "", sum_x87},
                {"avx", "avx2", sum_avx},
                {"avx512", "avx512", sum_avx512}};
    catch_signals();
    for (size_t i = 0; i < T_LEN(sums); i++) {
        if ((sums[i].sum == sum_avx && !__builtin_cpu_supports("fma")) ||
            (sums[i].sum == sum_avx512 && !__builtin_cpu_supports("avx512bw"))) {
            continue;
        }
        uint64_t want = sums[i].sum(200000);
        unsigned before = ticks, rounds = 0;
        start_timer();
        double end = t_now() + t_times(1);
        while (t_now() < end || ticks < before + 5) {
            uint64_t got = sums[i].sum(200000);
            CHECK(got == want, "%s: %#lx, not %#lx, round %u", sums[i].name, got, want, rounds);
            rounds++;
        }
        struct itimerval none = {{0, 0}, {0, 0}};
        SYS(setitimer(ITIMER_REAL, &none, NULL) == 0);
        printf("%s: %u rounds, %u ticks\n", sums[i].name, rounds, ticks - before);
    }
}

static const struct t_case cases[] = {
    {"faults", faults},
    {"bad_fetches", bad_fetches},
    {"strings", strings},
    {"self_steps", self_steps},
    {"debugger_int3", debugger_int3},
    {"debug_registers", debug_registers},
    {"debugger_steps", debugger_steps},
    {"timer_looks", timer_looks},
    {"timer_sums", timer_sums},
};

int main(int argc, char **argv)
{
    return t_main(argc, argv, "precise", cases, T_LEN(cases));
}
