/*
 * The guest's vector and x87 state: in the host's registers while it is used, in c->xsave
 * otherwise; the life of a vCPU's native cache; and the signal handlers that turn the host's
 * exceptions in stubs into the guest's. SDM vol. 1 chapter 13 (XSAVE), vol. 3 section 10.1.1
 * (state after power-on); Linux sigaction(2), arch/x86 signal frames.
 *
 * Per vCPU, its thread only, but for the table of caches that the signal handler searches and
 * the handlers that were installed before: these are a process's, because signal handlers are.
 * soft_enter_fpu and soft_leave are compiled for general registers only.
 */
#include "cpu/soft/jit/jit.h"
#include "cpu/soft/native_int.h"

#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define XCOMP_X87    1u
#define XCOMP_SSE    2u
#define XCOMP_AVX    4u
#define XCOMP_AVX512 0xe0u

/* ---- registers <-> memory ---- */
static inline void host_xsave(void *img, uint64_t mask)
{
    __asm__ volatile("xsave64 (%0)"
                     :
                     : "r"(img), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                     : "memory");
}

static inline void host_xrstor(const void *img, uint64_t mask)
{
    __asm__ volatile("xrstor64 (%0)"
                     :
                     : "r"(img), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                     : "memory");
}

/* Every component in its initial state, MXCSR 1F80h. */
static const struct {
    uint8_t legacy[512];
    uint8_t header[64];
} __attribute__((aligned(64))) init_image = {
    .legacy = {[0] = 0x7f, [1] = 0x03, [24] = 0x80, [25] = 0x1f},
};

void soft_enter_fpu(struct scpu *c)
{
    if (c->fpu_live) {
        return;
    }
    if (c->native->xsave) {
        host_xrstor(c->xsave, c->native->rfbm);
    } else {
        __asm__ volatile("fxrstor64 (%0)" : : "r"(c->xsave) : "memory");
    }
    c->fpu_live = 1;
}

void soft_leave(struct scpu *c)
{
    if (!c->fpu_live) {
        return;
    }
    if (c->native->xsave) {
        host_xsave(c->xsave, c->native->rfbm);
        host_xrstor(&init_image, c->native->rfbm);
    } else {
        __asm__ volatile("fxsave64 (%0)" : : "r"(c->xsave) : "memory");
        __asm__ volatile("fxrstor64 (%0)" : : "r"(&init_image) : "memory");
    }
    c->fpu_live = 0;
}

uint64_t native_k_get(struct scpu *c, unsigned n)
{
    uint64_t v = 0;
    native_run_stub(c, native_stub_at(c->native, c->native->kget_stub[n]), &v);
    return v;
}

void native_k_put(struct scpu *c, unsigned n, uint64_t v)
{
    native_run_stub(c, native_stub_at(c->native, c->native->kput_stub[n]), &v);
}

/* ---- signals ---- */
#define MAX_CACHES 1024
/* Only an entry whose rx holds the faulting address is looked at further: that vCPU is running.
 */
static struct {
    _Atomic uintptr_t rx; /* 0: free */
    _Atomic uintptr_t jit;
    _Atomic uint64_t jit_bytes;
    struct scpu *c;
} caches[MAX_CACHES];

static const int fault_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
static struct sigaction previous[ARRAY_LEN(fault_signals)];

int native_register(struct scpu *c, struct err *err)
{
    for (unsigned i = 0; i < MAX_CACHES; i++) {
        uintptr_t empty = 0;
        if (atomic_compare_exchange_strong(&caches[i].rx, &empty, (uintptr_t)c->native->rx)) {
            caches[i].c = c;
            c->native->slot = i;
            return 0;
        }
    }
    return ERR(err, LIMIT, ENOSPC, "over %d virtual CPUs in one process", MAX_CACHES);
}

void native_unregister(struct scpu *c)
{
    for (unsigned i = 0; i < MAX_CACHES; i++) {
        uintptr_t self = (uintptr_t)c->native->rx;
        if (self != 0 && atomic_load(&caches[i].rx) == self) {
            atomic_store(&caches[i].jit_bytes, 0);
            atomic_store(&caches[i].rx, 0);
            return;
        }
    }
}

void native_register_code(struct scpu *c, const void *rx, size_t bytes)
{
    unsigned i = c->native->slot;
    atomic_store(&caches[i].jit, (uintptr_t)rx);
    atomic_store(&caches[i].jit_bytes, bytes);
}

static struct scpu *cache_of_rip(uint64_t rip)
{
    for (unsigned i = 0; i < MAX_CACHES; i++) {
        uintptr_t rx = atomic_load_explicit(&caches[i].rx, memory_order_relaxed);
        if (rx != 0 && (rip - rx < NATIVE_CODE_BYTES ||
                        rip - atomic_load_explicit(&caches[i].jit, memory_order_relaxed) <
                            atomic_load_explicit(&caches[i].jit_bytes, memory_order_relaxed))) {
            return caches[i].c;
        }
    }
    return NULL;
}

static void chain(int sig, siginfo_t *si, void *ctx)
{
    for (unsigned i = 0; i < ARRAY_LEN(fault_signals); i++) {
        if (fault_signals[i] != sig) {
            continue;
        }
        struct sigaction *p = &previous[i];
        if (p->sa_flags & SA_SIGINFO) {
            p->sa_sigaction(sig, si, ctx);
            return;
        }
        if (p->sa_handler != SIG_DFL && p->sa_handler != SIG_IGN) {
            p->sa_handler(sig);
            return;
        }
        /* The default action, at the faulting instruction. */
        struct sigaction dfl = {.sa_handler = SIG_DFL};
        sigaction(sig, &dfl, NULL);
        if (si->si_code <= 0) {
            raise(sig);
        }
        return;
    }
}

static void on_fault(int sig, siginfo_t *si, void *ctx)
{
    ucontext_t *uc = ctx;
    greg_t *r = uc->uc_mcontext.gregs;
    struct scpu *c = si->si_code > 0 ? cache_of_rip((uint64_t)r[REG_RIP]) : NULL;
    uint64_t resume = (uint64_t)(uintptr_t)native_fault_thunk;
    if (c != NULL) {
        switch (r[REG_TRAPNO]) {
        case EXC_DE:
        case EXC_UD:
        case EXC_SS:
        case EXC_GP:
        case EXC_MF:
        case EXC_AC:
        case EXC_XM:
            c->native->fault = (uint8_t)r[REG_TRAPNO];
            jit_fault(c, (uint64_t)r[REG_RIP], (uint64_t)r[REG_EFL], &resume);
            r[REG_RIP] = (greg_t)resume;
            return;
        default: break; /* a page fault: guest RAM that the host cannot provide */
        }
    }
    chain(sig, si, ctx);
}

int native_signals_init(struct err *err)
{
    for (unsigned i = 0; i < ARRAY_LEN(fault_signals); i++) {
        struct sigaction sa = {.sa_sigaction = on_fault,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
        struct sigaction now;
        sigemptyset(&sa.sa_mask);
        int rc = sigaction(fault_signals[i], NULL, &now);
        if (rc == 0 && (!(now.sa_flags & SA_SIGINFO) || now.sa_sigaction != on_fault)) {
            previous[i] = now;
            rc = sigaction(fault_signals[i], &sa, NULL);
        }
        if (rc != 0) {
            return ERR(err, ENGINE, errno, "cannot handle signal %d: %s", fault_signals[i],
                       strerror(errno));
        }
    }
    return 0;
}

/* ---- life ---- */
static void find_host(struct native_cache *nc, const struct cpu_model *model)
{
    uint32_t a, b, x, d;
    nc->rfbm = XCOMP_X87 | XCOMP_SSE;
    nc->comp_off[0] = 0;
    nc->comp_len[0] = 160;
    nc->comp_off[1] = 160;
    nc->comp_len[1] = 256;
    if (__get_cpuid_count(1, 0, &a, &b, &x, &d) && (x & (1u << 27))) {
        uint32_t lo, hi;
        __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
        nc->xsave = true;
        nc->rfbm |= lo & (XCOMP_AVX | XCOMP_AVX512) & model->xcr0_mask;
        for (unsigned i = 2; i < ARRAY_LEN(nc->comp_off); i++) {
            if (!(nc->rfbm >> i & 1) || !__get_cpuid_count(13, i, &a, &b, &x, &d) ||
                b + a > VCPU_XSAVE_BYTES) {
                nc->rfbm &= ~(UINT64_C(1) << i);
                continue;
            }
            nc->comp_off[i] = b;
            nc->comp_len[i] = a;
            nc->comp_align64 |= (x >> 1 & 1) << i;
        }
        if (__get_cpuid_count(13, 1, &a, &b, &x, &d)) {
            nc->xgetbv1 = (a >> 2 & 1) != 0;
        }
    }
    if (__get_cpuid_count(7, 0, &a, &b, &x, &d)) {
        nc->zero_fcs = (b >> 13 & 1) != 0;
    }
    /* MXCSR_MASK of the host; 0 means FFBFh (SDM vol. 1, 11.6.6). */
    __asm__ volatile("fxsave64 (%0)" : : "r"(nc->img) : "memory");
    memcpy(&nc->mxcsr_mask, nc->img + 28, 4);
    if (nc->mxcsr_mask == 0) {
        nc->mxcsr_mask = 0xffbf;
    }
}

static void find_features(struct native_cache *nc, const struct cpu_model *model)
{
    static const struct {
        uint32_t leaf;
        uint8_t subleaf, reg, bit;
    } rows[NF_COUNT] = {
#define X(name, leaf, subleaf, reg, bit) {leaf, subleaf, reg, bit},
        NATIVE_FEATURES(X)
#undef X
    };
    for (unsigned i = 0; i < NF_COUNT; i++) {
        nc->has[i] =
            cpu_model_has(model, rows[i].leaf, rows[i].subleaf, rows[i].reg, rows[i].bit);
    }
}

int native_map_code(const char *name, uint32_t bytes, uint8_t **ret_rx, uint8_t **ret_rw,
                    struct err *err)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0) {
        return ERR(err, ENGINE, errno, "memory for %s: %s", name, strerror(errno));
    }
    void *rw = MAP_FAILED, *rx = MAP_FAILED;
    if (ftruncate(fd, bytes) == 0) {
        rw = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        rx = mmap(NULL, bytes, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    }
    int e = errno;
    close(fd);
    *ret_rw = rw == MAP_FAILED ? NULL : rw;
    *ret_rx = rx == MAP_FAILED ? NULL : rx;
    if (*ret_rw == NULL || *ret_rx == NULL) {
        return ERR(err, ENGINE, e, "executable memory for %u bytes of %s: %s", bytes, name,
                   strerror(e));
    }
    return 0;
}

int native_cache_new(struct scpu *c, struct err *err)
{
    int rc = native_signals_init(err);
    if (rc != 0) {
        return rc;
    }
    void *mem = mmap(NULL, sizeof(struct native_cache), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mem == MAP_FAILED) {
        return ERR(err, NO_MEMORY, ENOMEM, "native cache: %s", strerror(errno));
    }
    struct native_cache *nc = mem;
    c->native = nc;
    void *insns = mmap(NULL, sizeof(struct native_insn) * NATIVE_MAX_INSNS,
                       PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    nc->insns = insns == MAP_FAILED ? NULL : insns;
    if (nc->insns == NULL) {
        rc = ERR(err, NO_MEMORY, ENOMEM, "native instructions: %s", strerror(errno));
    } else {
        rc = native_map_code("native-code", NATIVE_CODE_BYTES, &nc->rx, &nc->rw, err);
    }
    if (rc == 0) {
        find_host(nc, c->vm->model);
        find_features(nc, c->vm->model);
        nc->enter = native_enter_thunk;
        nc->slow = native_op_slow;
        native_stub_fixed(nc);
        rc = native_register(c, err);
    }
    if (rc != 0) {
        native_cache_free(c);
    }
    return rc;
}

void native_cache_free(struct scpu *c)
{
    struct native_cache *nc = c->native;
    if (nc == NULL) {
        return;
    }
    soft_leave(c);
    native_unregister(c);
    if (nc->rw != NULL) {
        munmap(nc->rw, NATIVE_CODE_BYTES);
    }
    if (nc->rx != NULL) {
        munmap(nc->rx, NATIVE_CODE_BYTES);
    }
    if (nc->insns != NULL) {
        munmap(nc->insns, sizeof(struct native_insn) * NATIVE_MAX_INSNS);
    }
    munmap(nc, sizeof(*nc));
    c->native = NULL;
}

void native_cache_flush(struct scpu *c)
{
    struct native_cache *nc = c->native;
    nc->used = nc->fixed;
    nc->n_insns = 0;
    native_zero(nc->insn_hash, sizeof(nc->insn_hash));
    native_zero(nc->stub_hash, sizeof(nc->stub_hash));
}

/* ---- state ---- */
static void put_le(uint8_t *p, uint64_t v, unsigned n)
{
    memcpy(p, &v, n);
}

/* FSW.ES and B follow from the flags and masks, as the hardware makes it on loading. */
static void fix_error_summary(uint8_t *img)
{
    if (img[2] & ~img[0] & 0x3f) {
        img[2] |= 0x80;
        img[3] |= 0x80;
    } else {
        img[2] &= 0x7f;
        img[3] &= 0x7f;
    }
}

void native_fpu_reset(struct scpu *c, bool init)
{
    if (init) {
        return; /* INIT leaves x87, SSE and AVX state alone */
    }
    soft_leave(c);
    memset(c->xsave, 0, sizeof(c->xsave));
    put_le(c->xsave, 0x40, 2); /* FCW */
    c->xsave[4] = 0xff;        /* tags 5555h: all valid (+0.0) */
    put_le(c->xsave + 24, 0x1f80, 4);
    put_le(c->xsave + 512, XCOMP_X87 | XCOMP_SSE, 8);
    c->native->x87 = (struct native_x87_ptr){0};
    c->x87_last.op = c->x87_last.mem_op = NULL;
}

void native_state_get(struct scpu *c, struct vcpu_state *ret_state)
{
    struct native_cache *nc = c->native;
    soft_leave(c);
    uint8_t *img = ret_state->xsave;
    memcpy(img, c->xsave, sizeof(c->xsave));
    native_x87_fix_pointers(c, img);
    uint64_t in_use;
    memcpy(&in_use, img + 512, 8);
    if (!nc->xsave) {
        in_use = XCOMP_X87 | XCOMP_SSE;
    }
    /* Components in their initial state as such, not what was in the memory before. */
    if (!(in_use & XCOMP_X87)) {
        memset(img, 0, 24);
        put_le(img, 0x37f, 2);
        memset(img + 32, 0, 128);
    }
    for (unsigned i = 1; i < ARRAY_LEN(nc->comp_off); i++) {
        if (nc->comp_len[i] != 0 && !(in_use >> i & 1)) {
            memset(img + nc->comp_off[i], 0, nc->comp_len[i]);
        }
    }
    memset(img + 512, 0, 64);
    put_le(img + 512, in_use, 8);
    ret_state->xsave_bytes = VCPU_XSAVE_BYTES;
}

int native_state_set(struct scpu *c, const struct vcpu_state *state, struct err *err)
{
    struct native_cache *nc = c->native;
    uint64_t in_use;
    uint32_t mxcsr;
    memcpy(&in_use, state->xsave + 512, 8);
    memcpy(&mxcsr, state->xsave + 24, 4);
    if (in_use & ~nc->rfbm) {
        return ERR(err, STATE_BAD, EINVAL,
                   "vector state has components 0x%llx, this host offers 0x%llx",
                   (unsigned long long)in_use, (unsigned long long)nc->rfbm);
    }
    if (mxcsr & ~nc->mxcsr_mask) {
        return ERR(err, STATE_BAD, EINVAL, "MXCSR 0x%x has bits outside 0x%x", mxcsr,
                   nc->mxcsr_mask);
    }
    soft_leave(c);
    memcpy(c->xsave, state->xsave, sizeof(c->xsave));
    memset(c->xsave + 512, 0, 64);
    put_le(c->xsave + 512, in_use, 8);
    fix_error_summary(c->xsave);
    nc->x87 = (struct native_x87_ptr){0};
    c->x87_last.op = c->x87_last.mem_op = NULL;
    return 0;
}
