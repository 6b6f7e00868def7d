/*
 * Runs cases on the host CPU, in a child process that has nothing else at the addresses of the
 * test. A signal handler takes the state from the signal frame. A case that kills the child, or
 * does not end, is reported as died; the rest goes on in a new child. Single thread.
 */
#include "difftest.h"

#include "base/ckd.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <asm/prctl.h>

void dt_native_enter(const struct dt_state *in, uint64_t mask, const uint64_t frame[5]);
void dt_native_exit(void);

struct shared {
    unsigned n;
    volatile unsigned done; /* cases completed */
    struct dt_case cases[DT_BATCH];
    struct dt_result results[DT_BATCH];
};

static struct shared *shared;

static struct dt_result *result;
static uint8_t *code_rw, *data_rw; /* the test's memory, writable as a whole */

static void copy_fpu(const void *fpregs, uint8_t *to)
{
    const uint8_t *fp = fpregs;
    uint32_t magic, size;
    memcpy(&magic, fp + 464, 4);
    memcpy(&size, fp + 464 + 16, 4);
    if (magic != 0x46505853) {
        size = 512;
    }
    memset(to, 0, DT_XSAVE);
    memcpy(to, fp, MIN(size, DT_XSAVE));
    if (magic != 0x46505853) {
        to[512] = 3;
    }
}

static void on_signal(int sig, siginfo_t *si, void *ctx)
{
    static const int regs[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                 REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                 REG_R12, REG_R13, REG_R14, REG_R15};
    ucontext_t *uc = ctx;
    greg_t *r = uc->uc_mcontext.gregs;
    (void)sig;
    (void)si;
    if (result == NULL) {
        _exit(99);
    }
    for (unsigned i = 0; i < 16; i++) {
        result->out.gpr[i] = (uint64_t)r[regs[i]];
    }
    result->out.rip = (uint64_t)r[REG_RIP];
    result->out.rflags = (uint64_t)r[REG_EFL];
    result->vector = (int)r[REG_TRAPNO];
    result->error = (uint32_t)r[REG_ERR];
    result->cr2 = result->vector == 14 ? (uint64_t)r[REG_CR2] : 0;
    if (result->vector == 3) {
        result->vector = DT_END;
        result->out.rip--;
    }
    copy_fpu(uc->uc_mcontext.fpregs, result->out.xsave);
    result = NULL;
    r[REG_RIP] = (greg_t)(uintptr_t)dt_native_exit;
    r[REG_EFL] = 0x202;
    r[REG_CSGSFS] = (greg_t)(((uint64_t)r[REG_CSGSFS] & UINT64_C(0x0000ffffffff0000)) | 0x33 |
                             UINT64_C(0x2b) << 48);
    /* Clean vector state for the C code behind: only the legacy area counts without magic. */
    uc->uc_mcontext.fpregs->cwd = 0x37f;
    uc->uc_mcontext.fpregs->swd = 0;
    uc->uc_mcontext.fpregs->ftw = 0;
    uc->uc_mcontext.fpregs->mxcsr = 0x1f80;
}

static void run_case(const struct dt_case *k, struct dt_result *r)
{
    uint64_t frame[5] = {k->in.rip, k->mode32 ? 0x23 : 0x33, k->in.rflags | 0x202, k->in.gpr[4],
                         0x2b};
    size_t off = (size_t)(k->in.rip - DT_CODE);
    memcpy(code_rw + off, k->code, k->len);
    dt_fill_data(data_rw, k);
    result = r;
    dt_native_enter(&k->in, dt_xcr0, frame);
    memcpy(r->data, (void *)(uintptr_t)DT_DATA, DT_RW_BYTES);
    memset(code_rw + off, 0xcc, k->len);
}

static void map_at(uint64_t at, size_t len, int prot, int fd, off_t off)
{
    int flags = MAP_FIXED_NOREPLACE | MAP_SHARED | MAP_POPULATE; /* error codes show presence */
    if (mmap((void *)(uintptr_t)at, len, prot, flags, fd, off) != (void *)(uintptr_t)at) {
        _exit(97);
    }
}

/* Memory that is also mapped writable somewhere else. */
static uint8_t *shared_memory(size_t len, int *ret_fd)
{
    int fd = memfd_create("difftest", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)len) != 0) {
        _exit(96);
    }
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        _exit(96);
    }
    *ret_fd = fd;
    return p;
}

static void child_setup(void)
{
    static uint8_t stack[256 * 1024];
    static const int sigs[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    int fd;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    data_rw = shared_memory(DT_DATA_BYTES, &fd);
    map_at(DT_DATA, DT_RW_BYTES, PROT_READ | PROT_WRITE, fd, 0);
    map_at(DT_DATA + DT_RW_BYTES, DT_DATA_BYTES - DT_RW_BYTES, PROT_READ, fd, DT_RW_BYTES);
    code_rw = shared_memory(DT_CODE_BYTES, &fd);
    map_at(DT_CODE, DT_CODE_BYTES, PROT_READ | PROT_EXEC, fd, 0);
    memset(code_rw, 0xcc, DT_CODE_BYTES);
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack)};
    sigaltstack(&ss, NULL);
    for (unsigned i = 0; i < ARRAY_LEN(sigs); i++) {
        struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
        sigemptyset(&sa.sa_mask);
        sigaction(sigs[i], &sa, NULL);
    }
    /* Flat data segments for 32-bit code; 64-bit code ignores them. */
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(0x2b));
    syscall(SYS_arch_prctl, ARCH_SET_GS, DT_GS_BASE);
}

static void child_run(unsigned first)
{
    child_setup();
    for (unsigned i = first; i < shared->n; i++) {
        struct itimerval limit = {.it_value = {.tv_sec = 10}};
        if (i % 32 == first % 32) {
            setitimer(ITIMER_REAL, &limit, NULL);
        }
        run_case(&shared->cases[i], &shared->results[i]);
        shared->done = i + 1;
    }
    _exit(0);
}

bool dt_native_init(void)
{
    shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return shared != MAP_FAILED;
}

bool dt_native_run(const struct dt_case *cases, struct dt_result *results, unsigned n)
{
    memcpy(shared->cases, cases, n * sizeof(*cases));
    memset(shared->results, 0, n * sizeof(*results));
    shared->n = n;
    shared->done = 0;
    while (shared->done < n) {
        unsigned first = shared->done;
        fflush(stdout);
        pid_t pid = fork();
        if (pid < 0) {
            return false;
        }
        if (pid == 0) {
            child_run(first);
        }
        int status;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
        }
        if (WIFEXITED(status) && WEXITSTATUS(status) >= 96 && WEXITSTATUS(status) <= 98) {
            fprintf(stderr, "difftest: cannot set the child up (%d)\n", WEXITSTATUS(status));
            return false;
        }
        if (shared->done < n) {
            shared->results[shared->done].died = true;
            shared->done = shared->done + 1;
        }
    }
    memcpy(results, shared->results, n * sizeof(*results));
    return true;
}
