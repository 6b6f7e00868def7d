/*
 * blocktest: random programs on two engines, the interpreter and the translator, which must end
 * in the same state.
 *
 *     blocktest [--seed N] [--count N] [--only CLASS,...] [--engines A,B] [--settings TEXT]
 *               [--async] [--verbose] [--no-shrink] [--stop N] [--inject MNEMONIC]
 *               [--no-fork]
 *
 * --settings is VIVARIUM_SOFT for the second engine (the first gets jit=0). --async sends the
 * second interrupts, NMIs and kicks while it runs. --inject pretends that the second engine is
 * wrong about an instruction, to see that this test sees it. The engines run in a child
 * process: what crashes it is reported and shrunk as well (not with --no-fork). Exit status: 0
 * all equal, 1 not, 77 the host cannot run it.
 */
#include "blocktest.h"

#include "../difftest/difftest.h"
#include "base/ckd.h"
#include "base/clock.h"

#include <Zydis/Zydis.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef BT_SANITIZED
#define SANITIZED true
#else
#define SANITIZED false
#endif

struct options {
    uint64_t seed, count;
    unsigned only, stop;
    const char *settings, *inject;
    char engines[2][16];
    bool async, verbose, shrink, fork;
};

/* Kept across crashes of the child: shared memory. */
struct totals {
    uint64_t next; /* seed */
    bool reported; /* that one differs; what follows may crash on what it broke */
    uint64_t programs, bad, hung, shut_down, insns, faults;
    uint64_t syscalls, accesses; /* of devices */
    uint64_t vectors[32], full;  /* exceptions by vector; programs that ended by too many */
    uint64_t generate_ns, run_ns[2];
};

struct test {
    const struct options *o;
    struct totals *t;
    struct bt_vm *vm[2];
    struct bt_program program;
    uint8_t image[BT_RAM];
    struct bt_result result[2];
};

/* ---- one program ---- */

static bool has_mnemonic(const struct bt_program *p, const char *name)
{
    for (unsigned i = 0; i < p->n_items; i++) {
        const struct bt_item *it = &p->items[i];
        ZydisDisassembledInstruction d;
        if (it->len != 0 && !it->nop && !it->data &&
            ZYAN_SUCCESS(
                ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, 0, it->bytes, it->len, &d)) &&
            strcmp(ZydisMnemonicGetString(d.info.mnemonic), name) == 0) {
            return true;
        }
    }
    return false;
}

static void run_one(struct test *t, struct bt_program *p, unsigned i)
{
    uint64_t from = clock_now_ns();
    p->async = t->o->async && i == 1;
    bt_vm_run(t->vm[i], p, t->image, &t->result[i]);
    t->t->run_ns[i] += clock_now_ns() - from;
}

static void run_both(struct test *t, struct bt_program *p)
{
    bt_image(p, t->image);
    run_one(t, p, 0);
    run_one(t, p, 1);
    bool hung[2] = {t->result[0].end == BT_END_HANG, t->result[1].end == BT_END_HANG};
    if (hung[0] != hung[1]) { /* or is that one only slow? */
        bt_vm_patience(t->vm[hung[1]], 20000);
        run_one(t, p, hung[1]);
        bt_vm_patience(t->vm[hung[1]], 1000);
    }
    if (t->o->inject != NULL && has_mnemonic(p, t->o->inject)) {
        t->result[1].state.gpr[0] ^= 1;
    }
}

static bool differs(struct bt_program *p, void *opaque)
{
    struct test *t = opaque;
    run_both(t, p);
    return bt_compare(&t->program, &t->result[0], &t->result[1], NULL) != 0;
}

static void show(struct test *t, const char *what)
{
    struct bt_program *p = &t->program;
    printf("blocktest: seed %llu%s (reproduce: --seed %llu --count 1%s --settings '%s')\n",
           (unsigned long long)p->seed, what, (unsigned long long)p->seed,
           t->o->async ? " --async" : "", t->o->settings);
    bt_print(p, stdout);
    printf("    %-22s %-16s  %-16s\n", "", t->o->engines[0], t->o->engines[1]);
    fflush(stdout); /* it may crash */
    run_both(t, p);
    bt_compare(&t->program, &t->result[0], &t->result[1], stdout);
    for (unsigned i = 0; i < 2; i++) {
        bt_print_result(t->o->engines[i], &t->result[i], stdout);
    }
    fflush(stdout);
}

/* ---- in processes of their own ---- */

static bool start(struct test *t)
{
    t->vm[0] = bt_vm_new(t->o->engines[0], "jit=0");
    t->vm[1] = bt_vm_new(t->o->engines[1], t->o->settings);
    return t->vm[0] != NULL && t->vm[1] != NULL;
}

/* In a child. Its exit status, or the signal that ended it as a negative number. */
static int in_child(struct test *t, bool (*fn)(struct test *t))
{
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        bool ok = fn(t);
        fflush(stdout);
        _exit(ok ? 0 : 1);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        return 1;
    }
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static bool ends_equal(struct test *t)
{
    return start(t) && !differs(&t->program, t);
}

/* On new VMs, and so that what it breaks does not last. */
static bool differs_in_child(struct bt_program *p, void *opaque)
{
    (void)p;
    return in_child(opaque, ends_equal) != 0;
}

static void report(struct test *t)
{
    if (t->o->verbose) {
        show(t, " differs");
    }
    if (t->o->shrink) {
        uint64_t loops = t->program.loops;
        if (t->o->fork && differs_in_child(&t->program, t)) {
            bt_shrink(&t->program, differs_in_child, t);
        } else if (differs(&t->program, t)) { /* else it comes and goes: kept as it is */
            bt_shrink(&t->program, differs, t);
        }
        show(t, " differs; the smallest program found that still does");
        printf("    (%llu loops before)\n", (unsigned long long)loops);
    } else {
        show(t, " differs");
    }
}

static void one(struct test *t, uint64_t seed)
{
    uint64_t from = clock_now_ns();
    bt_generate(&t->program, seed, t->o->only, t->o->async);
    t->t->generate_ns += clock_now_ns() - from;
    run_both(t, &t->program);
    uint64_t logged;
    memcpy(&logged, t->result[0].ram + BT_VARS + BT_V_LOGGED, 8);
    uint64_t calls;
    memcpy(&calls, t->result[0].ram + BT_VARS + BT_V_SYSCALLS, 8);
    t->t->syscalls += calls;
    t->t->accesses += t->result[0].io_count;
    t->t->faults += logged;
    t->t->full += logged >= BT_LOG_MAX;
    for (unsigned i = 0; i < logged && i < BT_LOG_MAX; i++) {
        t->t->vectors[t->result[0].ram[BT_LOG + i * BT_LOG_BYTES] & 31]++;
    }
    t->t->insns += t->result[0].insns;
    t->t->hung += t->result[0].end == BT_END_HANG;
    t->t->shut_down += t->result[0].end == BT_END_SHUTDOWN;
    t->t->programs++;
    if (t->o->verbose && t->o->count == 1) {
        show(t, "");
    }
    if (t->result[0].end == BT_END_HANG && t->result[1].end == BT_END_HANG) {
        printf("blocktest: seed %llu: both hang\n", (unsigned long long)seed);
    }
    if (bt_compare(&t->program, &t->result[0], &t->result[1], NULL) != 0) {
        t->t->bad++;
        t->t->reported = true;
        report(t);
        t->t->reported = false;
    }
}

/* ---- options ---- */

static bool number(const char *text, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 0);
    if (errno != 0 || *end != 0 || end == text) {
        return false;
    }
    *ret = v;
    return true;
}

static bool classes(const char *text, unsigned *ret)
{
    *ret = 0;
    while (*text != 0) {
        size_t n = strcspn(text, ",");
        unsigned c = 0;
        while (c < BT_N_CLASSES &&
               (strlen(bt_class_names[c]) != n || strncmp(bt_class_names[c], text, n) != 0)) {
            c++;
        }
        if (c == BT_N_CLASSES) {
            return false;
        }
        *ret |= 1u << c;
        text += n + (text[n] == ',');
    }
    return true;
}

static bool engines(struct options *o, const char *text)
{
    const char *comma = strchr(text, ',');
    if (comma == NULL) {
        return false;
    }
    snprintf(o->engines[0], sizeof(o->engines[0]), "%.*s", (int)(comma - text), text);
    snprintf(o->engines[1], sizeof(o->engines[1]), "%s", comma + 1);
    return true;
}

static bool option(struct options *o, const char *name, const char *v)
{
    uint64_t n = 0;
    bool ok = number(v, &n);
    if (strcmp(name, "--seed") == 0) {
        o->seed = n;
    } else if (strcmp(name, "--count") == 0) {
        o->count = n;
    } else if (strcmp(name, "--stop") == 0) {
        o->stop = (unsigned)n;
    } else if (strcmp(name, "--settings") == 0) {
        o->settings = v;
        ok = true;
    } else if (strcmp(name, "--inject") == 0) {
        o->inject = v;
        ok = true;
    } else if (strcmp(name, "--only") == 0) {
        ok = classes(v, &o->only);
    } else if (strcmp(name, "--engines") == 0) {
        ok = engines(o, v);
    } else {
        ok = false;
    }
    return ok;
}

static bool parse(struct options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--async") == 0) {
            o->async = true;
        } else if (strcmp(argv[i], "--verbose") == 0) {
            o->verbose = true;
        } else if (strcmp(argv[i], "--no-fork") == 0) {
            o->fork = false;
        } else if (strcmp(argv[i], "--no-shrink") == 0) {
            o->shrink = false;
        } else if (i + 1 < argc && option(o, argv[i], argv[i + 1])) {
            i++;
        } else {
            fprintf(stderr, "usage: blocktest [--seed N] [--count N] [--only CLASS,...] "
                            "[--engines A,B] [--settings TEXT]\n"
                            "                 [--async] [--verbose] [--no-shrink] [--stop N] "
                            "[--inject MNEMONIC] [--no-fork]\nclasses:");
            for (unsigned c = 0; c < BT_N_CLASSES; c++) {
                fprintf(stderr, " %s", bt_class_names[c]);
            }
            fprintf(stderr, "\n");
            return false;
        }
    }
    return true;
}

static void summary(struct test *t, uint64_t ns)
{
    double s = (double)ns / 1e9, n = (double)MAX(t->t->programs, UINT64_C(1));
    printf("blocktest: %llu programs, %llu different; %.0f/s, %.0f instructions and %.1f "
           "exceptions each, %llu shut down, %llu hung\n",
           (unsigned long long)t->t->programs, (unsigned long long)t->t->bad, n / s,
           (double)t->t->insns / n, (double)t->t->faults / n,
           (unsigned long long)t->t->shut_down, (unsigned long long)t->t->hung);
    printf("  exceptions:");
    for (unsigned i = 0; i < 32; i++) {
        if (t->t->vectors[i] != 0) {
            printf(" #%u %llu", i, (unsigned long long)t->t->vectors[i]);
        }
    }
    printf("; %llu programs ended by too many\n  %llu system calls, %llu accesses to devices\n",
           (unsigned long long)t->t->full, (unsigned long long)t->t->syscalls,
           (unsigned long long)t->t->accesses);
    printf("  microseconds each: %.0f to make, %.0f %s, %.0f %s\n",
           (double)t->t->generate_ns / n / 1e3, (double)t->t->run_ns[0] / n / 1e3,
           t->o->engines[0], (double)t->t->run_ns[1] / n / 1e3, t->o->engines[1]);
}

/* ---- processes ---- */

static void stop(struct test *t)
{
    if (t->o->verbose) {
        for (unsigned i = 0; i < 2; i++) {
            char buf[200];
            printf("  %s: %s\n", t->o->engines[i], bt_vm_stats(t->vm[i], buf, sizeof(buf)));
        }
    }
    bt_vm_free(t->vm[0]);
    bt_vm_free(t->vm[1]);
    fflush(stdout);
}

static bool run_all(struct test *t)
{
    if (!start(t)) {
        return false;
    }
    while (t->t->next < t->o->seed + t->o->count && t->t->bad < t->o->stop) {
        one(t, t->t->next);
        t->t->next++;
    }
    stop(t);
    return true;
}

static bool run_this(struct test *t)
{
    return start(t) && (run_both(t, &t->program), true);
}

static bool crashes(struct bt_program *p, void *opaque)
{
    (void)p;
    return in_child(opaque, run_this) < 0;
}

static void report_crash(struct test *t, int sig)
{
    struct bt_program *p = &t->program;
    if (t->t->reported) {
        printf("blocktest: then the process died of signal %d\n", sig);
        t->t->reported = false;
        t->t->next++;
        return;
    }
    bt_generate(p, t->t->next, t->o->only, t->o->async);
    bool alone = crashes(p, t);
    printf("blocktest: seed %llu: the process died of signal %d%s (reproduce: --no-fork --seed "
           "%llu --count 1%s --settings '%s')\n",
           (unsigned long long)p->seed, sig, alone ? "" : ", but not with this program alone",
           (unsigned long long)p->seed, t->o->async ? " --async" : "", t->o->settings);
    if (alone && t->o->shrink) {
        bt_shrink(p, crashes, t);
        bt_print(p, stdout);
    }
    t->t->bad++;
    t->t->next++;
}

static bool run_forked(struct test *t)
{
    int status;
    do {
        status = in_child(t, run_all);
        if (status < 0) {
            report_crash(t, -status);
        }
    } while (status < 0 && t->t->bad < t->o->stop);
    return status <= 0;
}

int main(int argc, char **argv)
{
    struct options o = {.seed = 1,
                        .count = 10000,
                        .stop = 5,
                        .settings = "jit=1,hot=0",
                        .engines = {"interp", "soft"},
                        .shrink = true,
                        .fork = true};
    if (!parse(&o, argc, argv)) {
        return 1;
    }
    if (SANITIZED) {
        printf("blocktest: skipped: the sanitizer's runtime uses the vector registers in which "
               "the guest's are\n");
        return 77;
    }
    dt_xcr0 = dt_host_xcr0();
    if (dt_xcr0 == 0) {
        printf("blocktest: skipped: the host has no XSAVE\n");
        return 77;
    }
    struct test *t = calloc(1, sizeof(*t));
    void *shared = mmap(NULL, sizeof(struct totals), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (t == NULL || shared == MAP_FAILED || !bt_gen_init()) {
        free(t);
        return 1;
    }
    t->o = &o;
    t->t = shared;
    t->t->next = o.seed;
    uint64_t from = clock_now_ns();
    bool ok = o.fork ? run_forked(t) : run_all(t);
    summary(t, clock_now_ns() - from);
    ok = ok && t->t->bad == 0;
    bt_gen_done();
    free(t);
    return ok ? 0 : 1;
}
