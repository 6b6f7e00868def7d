/*
 * Threads that get in each other's way, for T_SECONDS each (3): locks of all kinds, waits and
 * wakes, interprocessor interrupts by membarrier, changes of mappings and affinity, signals,
 * and the guarantees of memory order. Every case checks what must hold at its end or all the
 * time.
 */
#include "t.h"

#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>

#define MOST 16
#define PAGE 4096u

static atomic_bool stop;
static unsigned n_threads;

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

/* Runs body(0..n-1) on threads until the time is over. */
static void run_for(unsigned n, void *(*body)(void *), double share)
{
    pthread_t t[MOST];
    atomic_store(&stop, false);
    n_threads = n;
    for (uintptr_t i = 0; i < n; i++) {
        SYS(pthread_create(&t[i], NULL, body, (void *)i) == 0);
    }
    double end = t_now() + t_number("T_SECONDS", 3) * share;
    while (t_now() < end) {
        usleep(20000);
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < n; i++) {
        SYS(pthread_join(t[i], NULL) == 0);
    }
}

static unsigned threads(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 2 ? 2 : n > 8 ? 8 : (unsigned)n;
}

/* Atomic instructions: every update counts. */
static struct {
    _Alignas(64) _Atomic uint8_t b;
    _Atomic uint16_t w;
    _Atomic uint32_t d;
    _Atomic uint64_t q, by_cmpxchg, by_add;
    _Alignas(64) uint64_t pair[2];
    _Alignas(64) _Atomic uint64_t done[MOST];
    _Alignas(64) uint32_t bits[4];
    _Atomic uint64_t bit_sets;
    uint8_t unaligned[16];
} at;

static void add_pair(void)
{
    uint64_t lo = at.pair[0], hi = at.pair[1];
    bool ok;
    do {
        uint64_t a = lo + 1, b = ~(lo + 1);
        __asm__ volatile("lock cmpxchg16b %[p]"
                         : [p] "+m"(at.pair), "+a"(lo), "+d"(hi), "=@ccz"(ok)
                         : "b"(a), "c"(b)
                         : "memory");
        CHECK(!ok || lo + 1 == a, "cmpxchg16b");
        CHECK(ok || hi == ~lo, "half of one value and half of another: %#lx %#lx", lo, hi);
    } while (!ok);
}

static void *atomics_body(void *arg)
{
    uintptr_t me = (uintptr_t)arg;
    uint64_t n = 0;
    while (!atomic_load(&stop)) {
        atomic_fetch_add(&at.b, 1);
        __asm__ volatile("lock incw %0" : "+m"(at.w));
        __asm__ volatile("lock subl $-1, %0" : "+m"(at.d));
        uint64_t one = 1;
        __asm__ volatile("lock xaddq %1, %0" : "+m"(at.q), "+r"(one));
        uint64_t old = atomic_load(&at.by_cmpxchg);
        while (!atomic_compare_exchange_weak(&at.by_cmpxchg, &old, old + 1)) {
        }
        __asm__ volatile("lock addq $1, 5(%0)" ::"r"(at.unaligned) : "memory");
        __asm__ volatile("stc; lock adcq $0, %0" : "+m"(at.by_add));
        add_pair();
        bool was;
        uint32_t bit = (uint32_t)(me * 7 + n) % 128;
        __asm__ volatile("lock btsl %2, %0"
                         : "+m"(at.bits), "=@ccc"(was)
                         : "r"(bit)
                         : "memory");
        if (!was) {
            atomic_fetch_add(&at.bit_sets, 1);
            __asm__ volatile("lock btrl %2, %0"
                             : "+m"(at.bits), "=@ccc"(was)
                             : "r"(bit)
                             : "memory");
            CHECK(was, "the bit that this thread had set was clear");
        }
        n++;
    }
    atomic_store(&at.done[me], n);
    return NULL;
}

static void atomics(void)
{
    at.pair[1] = ~0ull;
    run_for(threads(), atomics_body, 1);
    uint64_t sum = 0, odd;
    for (unsigned i = 0; i < MOST; i++) {
        sum += atomic_load(&at.done[i]);
    }
    memcpy(&odd, at.unaligned + 5, 8);
    CHECK(at.b == (uint8_t)sum && at.w == (uint16_t)sum && at.d == (uint32_t)sum &&
              at.q == sum && at.by_cmpxchg == sum && at.by_add == sum && at.pair[0] == sum &&
              at.pair[1] == ~sum && odd == sum,
          "updates lost: %u %u %u %lu %lu %lu %lu of %lu", at.b, at.w, at.d, at.q,
          at.by_cmpxchg, at.pair[0], odd, sum);
    CHECK((at.bits[0] | at.bits[1] | at.bits[2] | at.bits[3]) == 0, "bits are left");
    printf("%lu rounds\n", sum);
}

/* Locks around plain memory: pthread (futex), priority inheritance, spin, ticket, rwlock. */
static struct {
    pthread_mutex_t plain, inherit;
    pthread_spinlock_t spin;
    pthread_rwlock_t rw;
    pthread_cond_t cond;
    sem_t sem;
    _Alignas(64) _Atomic uint32_t next, serving;
    uint64_t n[6];
    _Atomic uint64_t done[6];
    _Alignas(64) _Atomic uint32_t hand;
} lk;

static void *locks_body(void *arg)
{
    uint64_t n = (uintptr_t)arg;
    while (!atomic_load(&stop)) {
        unsigned kind = (unsigned)(n++ % 6);
        switch (kind) {
        case 0:
            pthread_mutex_lock(&lk.plain);
            lk.n[0]++;
            pthread_mutex_unlock(&lk.plain);
            break;
        case 1:
            SYS(pthread_mutex_lock(&lk.inherit) == 0);
            lk.n[1]++;
            SYS(pthread_mutex_unlock(&lk.inherit) == 0);
            break;
        case 2:
            while (pthread_spin_trylock(&lk.spin) != 0) {
                relax();
            }
            lk.n[2]++;
            pthread_spin_unlock(&lk.spin);
            break;
        case 3:
            pthread_rwlock_rdlock(&lk.rw);
            uint64_t before = lk.n[3];
            __asm__ volatile("" ::: "memory");
            CHECK(lk.n[3] == before, "a writer beside a reader");
            pthread_rwlock_unlock(&lk.rw);
            pthread_rwlock_wrlock(&lk.rw);
            lk.n[3]++;
            pthread_rwlock_unlock(&lk.rw);
            break;
        case 4:
            sem_wait(&lk.sem);
            lk.n[4]++;
            sem_post(&lk.sem);
            break;
        default: {
            uint32_t mine = atomic_fetch_add(&lk.next, 1);
            while (atomic_load_explicit(&lk.serving, memory_order_acquire) != mine) {
                relax();
            }
            lk.n[5]++;
            /* An x86 store releases by itself. */
            atomic_store_explicit(&lk.serving, mine + 1, memory_order_release);
            break;
        }
        }
        atomic_fetch_add(&lk.done[kind], 1);
    }
    return NULL;
}

static void locks(void)
{
    pthread_mutexattr_t attr;
    SYS(pthread_mutexattr_init(&attr) == 0);
    SYS(pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT) == 0);
    SYS(pthread_mutex_init(&lk.inherit, &attr) == 0);
    SYS(pthread_mutex_init(&lk.plain, NULL) == 0 && pthread_rwlock_init(&lk.rw, NULL) == 0);
    SYS(pthread_spin_init(&lk.spin, 0) == 0 && sem_init(&lk.sem, 0, 1) == 0);
    run_for(threads() + 2, locks_body, 1);
    for (unsigned i = 0; i < 6; i++) {
        CHECK(lk.n[i] == lk.done[i] && lk.n[i] > 0, "lock %u: %lu of %lu", i, lk.n[i],
              lk.done[i]);
        printf("lock %u: %lu\n", i, lk.n[i]);
    }
}

/* A token goes round by futexes: a lost wake-up would stop it. */
static void *ring_body(void *arg)
{
    uint32_t me = (uint32_t)(uintptr_t)arg;
    for (;;) {
        uint32_t now = atomic_load(&lk.hand);
        if (atomic_load(&stop)) {
            atomic_fetch_add(&lk.hand, 1u << 16);
            syscall(SYS_futex, &lk.hand, FUTEX_WAKE_PRIVATE, 1 << 20, NULL, NULL, 0);
            return NULL;
        }
        if (now % n_threads != me) {
            syscall(SYS_futex, &lk.hand, FUTEX_WAIT_PRIVATE, now, NULL, NULL, 0);
            continue;
        }
        atomic_store(&lk.hand, now + 1);
        syscall(SYS_futex, &lk.hand, FUTEX_WAKE_PRIVATE, 1 << 20, NULL, NULL, 0);
    }
}

static void futex_ring(void)
{
    lk.hand = 0;
    run_for(4, ring_body, 1);
    printf("%u turns\n", lk.hand & 0xffff);
    CHECK(lk.hand != 0, "the token did not move");
}

/* Memory order. Each is a race of two threads, synchronised anew in each round. */
static struct {
    _Alignas(64) volatile uint64_t x;
    _Alignas(64) volatile uint64_t y;
    _Alignas(64) _Atomic uint64_t round;
    _Alignas(64) _Atomic uint64_t arrived;
    uint64_t r[2];
    uint64_t weak, both;
} mo;

static bool meet(uint64_t *local)
{
    ++*local;
    uint64_t n = atomic_fetch_add(&mo.arrived, 1) + 1;
    (void)n;
    unsigned spins = 0;
    while (atomic_load(&mo.arrived) < *local * 2) {
        if (++spins > 20) {
            relax();
        }
        if (atomic_load(&stop)) {
            return false;
        }
    }
    return true;
}

/* Dekker: with MFENCE, or with a locked instruction, not both may read 0. */
static void *dekker_body(void *arg)
{
    uintptr_t me = (uintptr_t)arg;
    uint64_t local = 0;
    for (uint64_t i = 0;; i++) {
        if (!meet(&local)) {
            return NULL;
        }
        volatile uint64_t *mine = me ? &mo.y : &mo.x, *other = me ? &mo.x : &mo.y;
        uint64_t got, one = 1;
        if (i % 2) {
            __asm__ volatile("movq $1, %1; mfence; movq %2, %0"
                             : "=&r"(got), "=m"(*mine)
                             : "m"(*other)
                             : "memory");
        } else {
            __asm__ volatile("xchgq %2, %1; movq %3, %0"
                             : "=&r"(got), "+m"(*mine), "+r"(one)
                             : "m"(*other)
                             : "memory");
        }
        mo.r[me] = got;
        if (!meet(&local)) {
            return NULL;
        }
        if (me == 0) {
            CHECK(mo.r[0] + mo.r[1] > 0, "both read 0 in round %lu", i);
            mo.both += mo.r[0] + mo.r[1] == 2;
            mo.weak++;
            mo.x = mo.y = 0;
        }
        if (!meet(&local)) {
            return NULL;
        }
    }
}

static void dekker(void)
{
    run_for(2, dekker_body, 0.7);
    printf("%lu rounds, both seen in %lu\n", mo.weak, mo.both);
}

/* Messages without fences: stores are seen in their order, by loads in theirs. Different sizes.
 */
static struct {
    _Alignas(64) volatile uint64_t data[8];
    _Alignas(64) volatile uint32_t flag;
    _Alignas(64) volatile uint64_t text[2];
} msg;

static void *message_body(void *arg)
{
    if ((uintptr_t)arg == 0) {
        for (uint32_t i = 1; !atomic_load_explicit(&stop, memory_order_relaxed); i++) {
            for (unsigned k = 0; k < 8; k++) {
                msg.data[k] = i + k;
            }
            __asm__ volatile("" ::: "memory");
            msg.flag = i;
            if (i % 256 == 0) {
                relax();
            }
        }
        return NULL;
    }
    uint64_t seen = 0;
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        uint32_t flag = msg.flag;
        __asm__ volatile("" ::: "memory");
        for (unsigned k = 0; k < 8; k++) {
            uint64_t v = msg.data[k];
            CHECK(flag == 0 || v >= flag + k, "data %lu is older than flag %u", v, flag);
        }
        /* Going down, each was stored before the one above it. */
        uint64_t high = msg.data[7], low = msg.data[0];
        CHECK(high == 0 || low >= high - 7, "data 0 is %lu, older than 7 with %lu", low, high);
        seen++;
    }
    CHECK(seen > 0, "nothing was seen");
    return NULL;
}

static void messages(void)
{
    run_for(threads(), message_body, 0.7);
}

/* Interprocessor interrupts: as strong as fences on all, here for the asymmetric Dekker. */
static void *asymmetric_body(void *arg)
{
    uintptr_t me = (uintptr_t)arg;
    uint64_t local = 0;
    while (meet(&local)) {
        if (me == 0) {
            mo.x = 1;
            __asm__ volatile("" ::: "memory");
            mo.r[0] = mo.y;
        } else {
            mo.y = 1;
            SYS(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0);
            mo.r[1] = mo.x;
        }
        if (!meet(&local)) {
            break;
        }
        if (me == 0) {
            CHECK(mo.r[0] + mo.r[1] > 0, "both read 0 in round %lu", mo.weak);
            mo.weak++;
            mo.x = mo.y = 0;
        }
        if (!meet(&local)) {
            break;
        }
    }
    return NULL;
}

static void membarriers(void)
{
    SYS(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0);
    run_for(2, asymmetric_body, 0.7);
    printf("%lu rounds\n", mo.weak);
}

/* TLBs of other CPUs: after mprotect returns nobody may write any more, after a new mapping
 * nobody may see the old one. Writers that fault skip the store. */
static uint8_t *shot;
static _Atomic uint64_t shot_faults, shot_writes;

extern const uint8_t shot_store[], shot_skip[];

static void on_shot(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    CHECK(uc->uc_mcontext.gregs[REG_RIP] == (greg_t)(uintptr_t)shot_store,
          "signal %d at %#llx of %p", sig, uc->uc_mcontext.gregs[REG_RIP], info->si_addr);
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)shot_skip;
    atomic_fetch_add(&shot_faults, 1);
}

__attribute__((noinline, noclone)) static void shot_write(uint8_t *p, uint64_t v)
{
    __asm__ volatile(
        ".globl shot_store, shot_skip; shot_store: movq %1, (%0); shot_skip:" ::"r"(p), "r"(v)
        : "memory");
}

static void *shot_body(void *arg)
{
    uintptr_t me = (uintptr_t)arg;
    uint64_t n = 0;
    if (me != 0) {
        while (!atomic_load(&stop)) {
            shot_write(shot + me * 64, ++n);
            atomic_fetch_add_explicit(&shot_writes, 1, memory_order_relaxed);
        }
        return NULL;
    }
    volatile uint64_t *seen = (volatile void *)shot;
    while (!atomic_load(&stop)) {
        uint64_t before[MOST];
        SYS(mprotect(shot, PAGE, PROT_READ) == 0);
        for (unsigned i = 1; i < n_threads; i++) {
            before[i] = seen[i * 8];
        }
        relax();
        for (unsigned i = 1; i < n_threads; i++) {
            CHECK(seen[i * 8] == before[i], "thread %u writes to a read-only page", i);
        }
        SYS(mprotect(shot, PAGE, PROT_READ | PROT_WRITE) == 0);
        relax();
        if (++n % 4 == 0) {
            SYS(mmap(shot, PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == shot);
        }
        if (n % 4 == 2) {
            /* The page moves: what was in it must not change at its new place. */
            uint8_t *away = mremap(shot, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
            SYS(away != MAP_FAILED);
            uint64_t copy[PAGE / 8];
            memcpy(copy, away, PAGE);
            relax();
            CHECK(memcmp(copy, away, PAGE) == 0, "a page that was moved away is written to");
            SYS(munmap(away, PAGE) == 0);
        }
    }
    printf("%lu rounds\n", n);
    CHECK(n > 0, "no rounds");
    return NULL;
}

static void shootdown(void)
{
    struct sigaction act = {.sa_sigaction = on_shot, .sa_flags = SA_SIGINFO};
    SYS(sigaction(SIGSEGV, &act, NULL) == 0);
    shot = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SYS(shot != MAP_FAILED);
    run_for(threads(), shot_body, 1);
    printf("%lu writes, %lu faults\n", (unsigned long)shot_writes, (unsigned long)shot_faults);
    CHECK(shot_faults > 0, "nobody was stopped");
}

/* Threads that move from CPU to CPU with full registers. */
static void *migrate_body(void *arg)
{
    uint64_t seed = 99 + (uintptr_t)arg, moves = 0;
    unsigned cpus = threads();
    double a = 1.0 / 3;
    while (!atomic_load(&stop)) {
        unsigned want = (unsigned)(t_next(&seed) % cpus), cpu, node;
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(want, &set);
        double b = a * 3;
        __asm__ volatile("" : "+x"(b));
        if (sched_setaffinity(0, sizeof(set), &set) != 0) {
            continue; /* fewer CPUs than that */
        }
        SYS(getcpu(&cpu, &node) == 0);
        CHECK(cpu == want, "on CPU %u, not %u", cpu, want);
        uint32_t aux;
        __asm__ volatile("rdtscp" : "=c"(aux)::"rax", "rdx");
        CHECK((aux & 0xfff) == want, "RDTSCP says CPU %u, not %u", aux & 0xfff, want);
        CHECK(b == 1.0, "a register has changed");
        moves++;
    }
    CHECK(moves > 0, "no moves");
    return NULL;
}

static void migration(void)
{
    run_for(threads() + 2, migrate_body, 0.7);
}

/* Queued signals between threads: each arrives once, with its value. */
static _Atomic uint64_t sent_sum, got_sum, got_n, sent_n;
static pid_t tids[MOST];
static atomic_uint ready;

static void on_queued(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    atomic_fetch_add(&got_sum, (uint64_t)info->si_value.sival_int);
    atomic_fetch_add(&got_n, 1);
}

static void *signal_body(void *arg)
{
    uintptr_t me = (uintptr_t)arg;
    uint64_t seed = 7 + me;
    tids[me] = gettid();
    atomic_fetch_add(&ready, 1);
    while (atomic_load(&ready) < n_threads) {
        relax();
    }
    while (!atomic_load(&stop)) {
        siginfo_t info = {.si_signo = SIGRTMIN, .si_code = SI_QUEUE};
        info.si_value.sival_int = (int)(t_next(&seed) % 1000);
        if (syscall(SYS_rt_tgsigqueueinfo, getpid(), tids[t_next(&seed) % n_threads], SIGRTMIN,
                    &info) == 0) {
            atomic_fetch_add(&sent_sum, (uint64_t)info.si_value.sival_int);
            atomic_fetch_add(&sent_n, 1);
        } else {
            CHECK(errno == EAGAIN, "rt_tgsigqueueinfo: %s", strerror(errno));
        }
    }
    /* Nobody ends before all have arrived. */
    atomic_fetch_sub(&ready, 1);
    while (atomic_load(&ready) > 0) {
        relax();
    }
    double end = t_now() + 60;
    while (atomic_load(&got_n) != atomic_load(&sent_n)) {
        CHECK(t_now() < end, "%lu signals of %lu", (unsigned long)got_n, (unsigned long)sent_n);
        relax();
    }
    return NULL;
}

static void queued_signals(void)
{
    struct sigaction act = {.sa_sigaction = on_queued, .sa_flags = SA_SIGINFO | SA_RESTART};
    SYS(sigaction(SIGRTMIN, &act, NULL) == 0);
    run_for(threads(), signal_body, 0.7);
    CHECK(got_sum == sent_sum && got_n == sent_n && got_n > 0, "%lu of %lu signals, %lu of %lu",
          (unsigned long)got_n, (unsigned long)sent_n, (unsigned long)got_sum,
          (unsigned long)sent_sum);
    printf("%lu signals\n", (unsigned long)got_n);
}

static const struct t_case cases[] = {
    {"atomics", atomics},     {"locks", locks},         {"futex_ring", futex_ring},
    {"dekker", dekker},       {"messages", messages},   {"membarriers", membarriers},
    {"shootdown", shootdown}, {"migration", migration}, {"queued_signals", queued_signals},
};

int main(int argc, char **argv)
{
    return t_main(argc, argv, "contend", cases, T_LEN(cases));
}
