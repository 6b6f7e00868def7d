/*
 * Programs that make, change and move code: just-in-time compilers of all manners, instructions
 * that change the next one, aliases, mappings that come and go, threads that change what others
 * execute, and a disk that reads into a page that is being executed (T_DISK). stores.c has the
 * kinds of stores.
 */
#include "t.h"

#include <cpuid.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>

typedef uint64_t (*func)(void);
typedef uint64_t (*func2)(uint64_t, uint64_t);

#define RWX  (PROT_READ | PROT_WRITE | PROT_EXEC)
#define PAGE 4096u

static void *pages(size_t n, int prot)
{
    void *p = mmap(NULL, n * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SYS(p != MAP_FAILED);
    return p;
}

static uint64_t call(const void *code)
{
    return ((func)(uintptr_t)code)();
}

static uint64_t call2(const void *code, uint64_t a, uint64_t b)
{
    return ((func2)(uintptr_t)code)(a, b);
}

/* mov eax, value; ret: 6 bytes, the immediate at 1. */
static void put_return(uint8_t *at, uint32_t value)
{
    at[0] = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}

static void expect_value(const void *code, uint64_t want, const char *what, unsigned i)
{
    uint64_t got = call(code);
    CHECK(got == want, "%s: round %u: %lu, not %lu", what, i, got, want);
}

static void rewrite(void)
{
    uint8_t *p = pages(4, RWX);
    for (unsigned i = 0; i < t_times(3000); i++) {
        uint8_t *at = p + (i * 611) % (4 * PAGE - 8);
        put_return(at, i);
        expect_value(at, i, "new", i);
        expect_value(at, i, "again", i);
    }
    /* Thousands of functions, then all of them again, then other ones in their place. */
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 2048; i++) {
            put_return(p + i * 8, i * 7 + round);
        }
        for (unsigned pass = 0; pass < 4; pass++) {
            for (unsigned i = 0; i < 2048; i++) {
                expect_value(p + i * 8, i * 7 + round, "many", i);
            }
        }
    }
}

/* An instruction that changes the one behind it: seen on every processor since the Pentium. */
static void next_instruction(void)
{
    uint8_t *p = pages(2, RWX);
    static const uint8_t code[] = {
        0x89, 0x3d, 0x01, 0, 0, 0, /* mov [rip+1], edi: the immediate of what follows */
        0xb8, 0,    0,    0, 0,    /* mov eax, 0 */
        0xc3,
    };
    for (unsigned offset = 0; offset < PAGE + 8; offset += 511) {
        uint8_t *at = p + offset;
        memcpy(at, code, sizeof(code));
        for (uint64_t i = 1; i < t_times(500); i++) {
            uint64_t got = call2(at, i, 0);
            CHECK(got == i, "at %u: %lu, not %lu", offset, got, i);
        }
    }
}

/* A loop whose body changes in each turn: sum of 1 to n. */
static void changing_loop(void)
{
    uint8_t *p = pages(1, RWX);
    static const uint8_t code[] = {
        0x31, 0xd2,                   /*  0: xor edx, edx */
        0xff, 0x05, 1,    0,    0, 0, /*  2: inc dword [rip+1] (9) */
        0xb8, 0,    0,    0,    0,    /*  8: mov eax, imm */
        0x48, 0x01, 0xc2,             /* 13: add rdx, rax */
        0xff, 0xcf, 0x75, 0xee,       /* 16: dec edi; jnz 2 */
        0x48, 0x89, 0xd0, 0xc3,       /* 20: mov rax, rdx; ret */
    };
    for (unsigned i = 0; i < t_times(20); i++) {
        uint64_t n = 100 + i * 13;
        memcpy(p, code, sizeof(code));
        uint64_t got = call2(p, n, 0);
        CHECK(got == n * (n + 1) / 2, "sum to %lu is %lu", n, got);
    }
}

/* A called function changes what its caller does after the return. */
static void behind_return(void)
{
    uint8_t *p = pages(2, RWX);
    static const uint8_t caller[] = {
        0xe8, 0xfb, 0x0f, 0, 0, /* call the next page */
        0xb8, 0,    0,    0, 0, /* mov eax, imm (6) */
        0xc3,
    };
    static const uint8_t writer[] = {
        0x89, 0x3d, 0x00, 0xf0, 0xff, 0xff, /* mov [rip-0x1000], edi: page 0, offset 6 */
        0xc3,
    };
    memcpy(p, caller, sizeof(caller));
    memcpy(p + PAGE, writer, sizeof(writer));
    for (uint64_t i = 1; i < t_times(3000); i++) {
        uint64_t got = call2(p, i, 0);
        CHECK(got == i, "%lu, not %lu", got, i);
    }
}

/* rep stosb over the instructions behind it. */
static void fill_ahead(void)
{
    uint8_t *p = pages(1, RWX);
    for (unsigned i = 0; i < t_times(200); i++) {
        static const uint8_t head[] = {
            0x48, 0x8d, 0x3d, 0x09, 0, 0, 0, /* lea rdi, [rip+9]: byte 16 */
            0xb9, 32,   0,    0,    0,       /* mov ecx, 32 */
            0xb0, 0x90,                      /* mov al, 0x90 */
            0xf3, 0xaa,                      /* rep stosb */
        };
        memcpy(p, head, sizeof(head));
        memset(p + 16, i % 2 ? 0x0f : 0xcc, 32);
        put_return(p + 48, i);
        expect_value(p, i, "filled", i);
    }
}

static void alias(void)
{
    int fd = memfd_create("alias", 0);
    SYS(fd >= 0 && ftruncate(fd, 2 * PAGE) == 0);
    uint8_t *w = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint8_t *x = mmap(NULL, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    SYS(w != MAP_FAILED && x != MAP_FAILED);
    for (unsigned i = 0; i < t_times(2000); i++) {
        unsigned at = i % 3 == 0 ? PAGE - 3 : i % 3 == 1 ? 64 : PAGE + 512;
        put_return(w + at, i);
        expect_value(x + at, i, "alias", i);
        /* write(2) goes through the kernel's own mapping. */
        uint32_t value = i + 1000000;
        SYS(pwrite(fd, &value, 4, at + 1) == 4);
        expect_value(x + at, value, "write(2)", i);
    }
}

/* The usual W^X compiler: writable, then executable, never both. */
static void protect(void)
{
    uint8_t *p = pages(2, PROT_READ | PROT_WRITE);
    for (unsigned i = 0; i < t_times(400); i++) {
        SYS(mprotect(p, 2 * PAGE, PROT_READ | PROT_WRITE) == 0);
        put_return(p + PAGE - (i % 8), i);
        SYS(mprotect(p, 2 * PAGE, PROT_READ | PROT_EXEC) == 0);
        expect_value(p + PAGE - (i % 8), i, "protected", i);
    }
}

/* Other memory at the same address; the old memory comes back at another one. */
static void remap(void)
{
    uint8_t *a = pages(1, RWX), *b = pages(1, RWX), *spare = pages(1, PROT_NONE);
    put_return(a, 1);
    put_return(b, 2);
    uint32_t in_a = 1, in_b = 2;
    for (unsigned i = 0; i < t_times(400); i++) {
        expect_value(a, in_a, "a", i);
        expect_value(b, in_b, "b", i);
        SYS(mremap(a, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, spare) == spare);
        SYS(mremap(b, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, a) == a);
        SYS(mremap(spare, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, b) == b);
        uint32_t t = in_a;
        in_a = in_b;
        in_b = t;
        SYS(mmap(spare, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
            spare);
        if (i % 16 == 0) {
            /* Fresh memory: zeros, which the kernel may have taken from any page. */
            SYS(mmap(a, PAGE, RWX, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == a);
            put_return(a, in_a = 10 + i);
        }
    }
}

/* The second page of an instruction that lies in two is another one each time. */
static void half_remapped(void)
{
    uint8_t *p = pages(2, RWX);
    int fd = memfd_create("halves", 0);
    SYS(fd >= 0 && ftruncate(fd, 4 * PAGE) == 0);
    for (unsigned i = 0; i < 4; i++) {
        uint8_t tail[4] = {0, (uint8_t)(i + 1), 0, 0xc3};
        SYS(pwrite(fd, tail, 4, i * PAGE) == 4);
    }
    put_return(p + PAGE - 2, 0);
    p[PAGE - 1] = 0x77;
    for (unsigned i = 0; i < t_times(400); i++) {
        SYS(mmap(p + PAGE, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd,
                 (i % 4) * PAGE) == p + PAGE);
        expect_value(p + PAGE - 2, 0x77 | (uint64_t)(i % 4 + 1) << 16, "halves", i);
    }
}

/* A child changes its copy; its parent's stays. A shared page changes for both. */
static void forks(void)
{
    uint8_t *own = pages(1, RWX);
    uint8_t *both = mmap(NULL, PAGE, RWX, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    SYS(both != MAP_FAILED);
    for (unsigned i = 0; i < t_times(40); i++) {
        put_return(own, i);
        put_return(both, i);
        expect_value(own, i, "own", i);
        expect_value(both, i, "both", i);
        pid_t pid = fork();
        SYS(pid >= 0);
        if (pid == 0) {
            expect_value(own, i, "copy", i);
            put_return(own, i + 1000);
            put_return(both, i + 1000);
            expect_value(own, i + 1000, "changed copy", i);
            _exit(0);
        }
        t_reap(pid);
        expect_value(own, i, "own after the child", i);
        expect_value(both, i + 1000, "both after the child", i);
    }
}

/* Threads. One writer, several that execute. */
#define EXECUTORS 3

static struct {
    uint8_t *code;
    _Atomic uint64_t published, acks;
    atomic_bool stop;
    _Atomic uint64_t runs;
} x;

/* More vCPUs than processors: PAUSE lets the engine run the others. */
static void relax(void)
{
    static long cpus;
    for (unsigned i = 0; i < 64; i++) {
        __builtin_ia32_pause();
    }
    cpus = cpus == 0 ? sysconf(_SC_NPROCESSORS_ONLN) : cpus;
    if (cpus == 1) {
        sched_yield(); /* what is waited for cannot happen meanwhile */
    }
}

/* A writer begins when somebody executes. */
static void wait_for_runs(void)
{
    while (atomic_load(&x.runs) == 0) {
        relax();
    }
}

static void serialise(void)
{
    unsigned a, b, c, d;
    __cpuid(0, a, b, c, d);
}

static void run_threads(void *(*body)(void *), void (*writer)(void))
{
    pthread_t t[EXECUTORS];
    atomic_store(&x.stop, false);
    for (uintptr_t i = 0; i < EXECUTORS; i++) {
        SYS(pthread_create(&t[i], NULL, body, (void *)i) == 0);
    }
    writer();
    atomic_store(&x.stop, true);
    for (unsigned i = 0; i < EXECUTORS; i++) {
        SYS(pthread_join(t[i], NULL) == 0);
    }
    CHECK(atomic_load(&x.runs) > 0, "nothing was executed");
}

/* Each version is published, executed by all after a serialising instruction, acknowledged. */
static void *handshake_body(void *arg)
{
    uint64_t seen = 0;
    (void)arg;
    while (!atomic_load(&x.stop)) {
        uint64_t now = atomic_load(&x.published);
        if (now == seen) {
            relax();
            continue;
        }
        serialise();
        uint64_t got = call(x.code);
        CHECK(got == now, "%lu, not %lu", got, now);
        seen = now;
        atomic_fetch_add(&x.runs, 1);
        atomic_fetch_add(&x.acks, 1);
    }
    return NULL;
}

static void handshake_writer(void)
{
    for (unsigned i = 1; i <= t_times(4000); i++) {
        put_return(x.code, i);
        atomic_store(&x.published, i);
        double end = t_now() + 60;
        while (atomic_load(&x.acks) < (uint64_t)i * EXECUTORS) {
            CHECK(t_now() < end, "round %u: %lu answers", i,
                  (unsigned long)atomic_load(&x.acks));
            relax();
        }
    }
}

static void thread_handshake(void)
{
    x.code = pages(1, RWX);
    run_threads(handshake_body, handshake_writer);
}

/* An aligned immediate changes while others run it: what they get is never older than what was
 * published before a serialising instruction, and never newer than what is written. */
static void *immediate_body(void *arg)
{
    uint64_t last = 0;
    bool serialised = (uintptr_t)arg != 0;
    while (!atomic_load(&x.stop)) {
        uint64_t before = atomic_load(&x.published);
        if (serialised) {
            serialise();
        }
        uint64_t got = call(x.code + 7);
        uint64_t after = atomic_load(&x.published);
        CHECK(got <= after + 1, "%lu, newer than %lu", got, after + 1);
        CHECK(!serialised || (got >= before && got >= last), "%lu, older than %lu or %lu", got,
              before, last);
        last = got;
        atomic_fetch_add_explicit(&x.runs, 1, memory_order_relaxed);
    }
    return NULL;
}

static void immediate_writer(void)
{
    wait_for_runs();
    double end = t_now() + 60;
    for (uint32_t i = 1; i <= t_times(20000); i++) {
        __atomic_store_n((uint32_t *)(void *)(x.code + 8), i, __ATOMIC_SEQ_CST);
        atomic_store(&x.published, i);
        if (i % 64 == 0) {
            sched_yield();
        }
        CHECK(t_now() < end, "too slow: round %u", i);
    }
}

static void thread_immediate(void)
{
    x.code = pages(1, RWX);
    put_return(x.code + 7, 0);
    run_threads(immediate_body, immediate_writer);
}

/* The kernel's way of changing text: int3 over the first byte, a barrier on all processors, the
 * rest, a barrier, the first byte. A thread that meets the int3 tries again. */
static _Atomic uint64_t traps;

static void on_trap(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    (void)sig;
    (void)info;
    uint64_t rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
    CHECK(rip == (uintptr_t)x.code + 1, "int3 left RIP at %#lx, not %p", rip,
          (void *)(x.code + 1));
    uc->uc_mcontext.gregs[REG_RIP]--;
    atomic_fetch_add(&traps, 1);
}

static void barrier_all(void)
{
    SYS(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0) == 0);
}

static void *int3_body(void *arg)
{
    (void)arg;
    uint64_t last = 0;
    while (!atomic_load(&x.stop)) {
        uint64_t before = atomic_load(&x.published);
        uint64_t got = call(x.code);
        /* Half of one value and half of another would show. */
        CHECK((got >> 16) == (got & 0xffff), "torn value %#lx", got);
        CHECK((got & 0xffff) >= before && got >= last, "%#lx is older than %#lx or %#lx", got,
              before, last);
        last = got;
        atomic_fetch_add_explicit(&x.runs, 1, memory_order_relaxed);
    }
    return NULL;
}

static void int3_writer(void)
{
    wait_for_runs();
    for (uint32_t i = 1; i <= t_times(300); i++) {
        __atomic_store_n(&x.code[0], 0xcc, __ATOMIC_SEQ_CST);
        barrier_all();
        uint32_t both = i | i << 16;
        for (unsigned k = 0; k < 4; k++) {
            __atomic_store_n(&x.code[1 + k], (uint8_t)(both >> k * 8), __ATOMIC_SEQ_CST);
        }
        barrier_all();
        __atomic_store_n(&x.code[0], 0xb8, __ATOMIC_SEQ_CST);
        barrier_all();
        atomic_store(&x.published, i);
        if (i % 8 == 0) {
            usleep(100);
        }
    }
}

static void thread_int3(void)
{
    struct sigaction act = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    SYS(sigaction(SIGTRAP, &act, NULL) == 0);
    SYS(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0) ==
        0);
    /* At the end of a page, so that the instruction lies in two. */
    x.code = (uint8_t *)pages(2, RWX) + PAGE - 3;
    put_return(x.code, 0);
    run_threads(int3_body, int3_writer);
    printf("%lu runs, %lu traps\n", (unsigned long)atomic_load(&x.runs),
           (unsigned long)atomic_load(&traps));
}

/* A five-byte nop becomes a jump and a nop again, by one aligned store. */
static void *jump_body(void *arg)
{
    (void)arg;
    while (!atomic_load(&x.stop)) {
        uint64_t got = call(x.code);
        CHECK(got == 1 || got == 2, "%lu, neither 1 nor 2", got);
        atomic_fetch_add_explicit(&x.runs, 1, memory_order_relaxed);
    }
    return NULL;
}

static void jump_writer(void)
{
    wait_for_runs();
    uint64_t word[2];
    uint8_t image[2][8] = {{0x0f, 0x1f, 0x44, 0, 0, 0x90, 0x90, 0x90},
                           {0xe9, 0x1b, 0, 0, 0, 0x90, 0x90, 0x90}};
    memcpy(word, image, sizeof(word));
    for (uint32_t i = 0; i < t_times(20000); i++) {
        __atomic_store_n((uint64_t *)(void *)x.code, word[i % 2], __ATOMIC_SEQ_CST);
        serialise();
        uint64_t got = call(x.code);
        CHECK(got == i % 2 + 1, "the writer itself gets %lu in round %u", got, i);
        if (i % 64 == 0) {
            sched_yield();
        }
    }
}

static void thread_jump(void)
{
    x.code = pages(1, RWX);
    memset(x.code, 0x90, 64);
    put_return(x.code + 8, 1);
    put_return(x.code + 32, 2);
    run_threads(jump_body, jump_writer);
}

/* Mappings with code go away below threads that may execute them only while told so. */
static void *remap_body(void *arg)
{
    uint64_t seen = 0;
    (void)arg;
    while (!atomic_load(&x.stop)) {
        uint64_t now = atomic_load(&x.published);
        if (now == seen) {
            relax();
            continue;
        }
        for (unsigned i = 0; i < 3; i++) {
            uint64_t got = call(x.code);
            CHECK(got == now, "%lu, not %lu", got, now);
        }
        seen = now;
        atomic_fetch_add(&x.runs, 1);
        atomic_fetch_add(&x.acks, 1);
    }
    return NULL;
}

static void remap_writer(void)
{
    for (uint32_t i = 1; i <= t_times(600); i++) {
        uint8_t *fresh = pages(1, PROT_READ | PROT_WRITE);
        put_return(fresh, i);
        SYS(mprotect(fresh, PAGE, PROT_READ | PROT_EXEC) == 0);
        SYS(mremap(fresh, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, x.code) == x.code);
        atomic_store(&x.published, i);
        double end = t_now() + 60;
        while (atomic_load(&x.acks) < (uint64_t)i * EXECUTORS) {
            CHECK(t_now() < end, "round %u: %lu answers", i,
                  (unsigned long)atomic_load(&x.acks));
            relax();
        }
    }
}

static void thread_remap(void)
{
    x.code = pages(1, PROT_NONE);
    run_threads(remap_body, remap_writer);
}

/* The disk. Version i of a page of code is at block i; pages are read into executed memory. */
#define VERSIONS 64u

static int open_disk(void)
{
    const char *name = getenv("T_DISK");
    if (name == NULL) {
        t_skip("T_DISK names no disk that may be overwritten");
    }
    int fd = open(name, O_RDWR | O_DIRECT);
    SYS(fd >= 0);
    return fd;
}

static void write_versions(int fd, uint32_t base)
{
    uint8_t *p = pages(1, PROT_READ | PROT_WRITE);
    for (uint32_t i = 0; i < VERSIONS; i++) {
        for (unsigned at = 0; at < PAGE; at += 64) {
            put_return(p + at, base + i);
        }
        SYS(pwrite(fd, p, PAGE, (off_t)i * PAGE) == PAGE);
    }
    SYS(munmap(p, PAGE) == 0);
}

static void disk_into_code(void)
{
    int fd = open_disk();
    uint8_t *p = pages(1, RWX);
    for (uint32_t round = 0; round < t_times(3); round++) {
        write_versions(fd, round * 1000);
        for (uint32_t i = 0; i < VERSIONS; i++) {
            SYS(pread(fd, p, PAGE, (off_t)i * PAGE) == PAGE);
            for (unsigned at = 0; at < PAGE; at += 448) {
                expect_value(p + at, round * 1000 + i, "read by the disk", i);
                expect_value(p + at, round * 1000 + i, "read by the disk", i);
            }
        }
    }
}

/* The same with others executing the page meanwhile. Blocks hold ever higher versions, so what
 * is executed never goes back. The disk writes equal bytes but for the immediate. */
static void disk_writer(void)
{
    wait_for_runs();
    int fd = open_disk();
    for (uint32_t i = 0; i < VERSIONS * t_times(4); i++) {
        if (i % VERSIONS == 0) {
            write_versions(fd, i);
        }
        SYS(pread(fd, x.code, PAGE, (off_t)(i % VERSIONS) * PAGE) == PAGE);
        atomic_store(&x.published, i);
    }
}

static void *disk_body(void *arg)
{
    uint64_t last = 0;
    (void)arg;
    while (!atomic_load(&x.stop)) {
        uint64_t before = atomic_load(&x.published);
        serialise();
        /* The immediate is aligned: offset 7 of each line. */
        uint64_t got = call(x.code + 64 * (before % 64));
        CHECK(got >= before && got >= last && got < VERSIONS * t_times(4),
              "%lu, with %lu and %lu before", got, before, last);
        last = before;
        atomic_fetch_add_explicit(&x.runs, 1, memory_order_relaxed);
    }
    return NULL;
}

static void thread_disk(void)
{
    x.code = pages(1, RWX);
    for (unsigned at = 0; at < PAGE; at += 64) {
        put_return(x.code + at, 0);
    }
    run_threads(disk_body, disk_writer);
}

/* Code in the page cache, mapped from the disk; its blocks change below it. */
static void disk_mapped(void)
{
    int fd = open_disk();
    uint8_t *page = pages(1, PROT_READ | PROT_WRITE);
    int cached = open(getenv("T_DISK"), O_RDWR);
    SYS(cached >= 0);
    for (uint32_t i = 0; i < t_times(100); i++) {
        uint8_t *m = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, cached, PAGE * 3);
        SYS(m != MAP_FAILED);
        put_return(page, i * 2);
        SYS(pwrite(fd, page, PAGE, PAGE * 3) == PAGE);
        expect_value(m, i * 2, "written with O_DIRECT", i);
        put_return(page, i * 2 + 1);
        SYS(pwrite(cached, page, PAGE, PAGE * 3) == PAGE);
        expect_value(m, i * 2 + 1, "written through the cache", i);
        SYS(fsync(cached) == 0);
        if (i % 2) {
            SYS(munmap(m, PAGE) == 0);
        }
    }
}

static const struct t_case cases[] = {
    {"rewrite", rewrite},
    {"next_instruction", next_instruction},
    {"changing_loop", changing_loop},
    {"behind_return", behind_return},
    {"fill_ahead", fill_ahead},
    {"alias", alias},
    {"protect", protect},
    {"remap", remap},
    {"half_remapped", half_remapped},
    {"forks", forks},
    {"thread_handshake", thread_handshake},
    {"thread_immediate", thread_immediate},
    {"thread_int3", thread_int3},
    {"thread_jump", thread_jump},
    {"thread_remap", thread_remap},
    {"disk_into_code", disk_into_code},
    {"thread_disk", thread_disk},
    {"disk_mapped", disk_mapped},
};

int main(int argc, char **argv)
{
    return t_main(argc, argv, "code", cases, T_LEN(cases));
}
