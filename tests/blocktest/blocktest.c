/*
 * blocktest: random programs on two engines, the interpreter and the translator, which must end
 * in the same state.
 *
 *     blocktest [--seed N] [--count N] [--only CLASS,...] [--engines A,B] [--settings TEXT]
 *               [--async] [--verbose] [--no-shrink] [--stop N] [--inject MNEMONIC]
 *
 * --settings is VIVARIUM_SOFT for the second engine (the first gets jit=0). --async sends the
 * second interrupts, NMIs and kicks while it runs. --inject pretends that the second engine is
 * wrong about an instruction, to see that this test sees it. Exit status: 0 all equal, 1 not,
 * 77 the host cannot run it.
 */
#include "blocktest.h"

#include "../difftest/difftest.h"
#include "base/ckd.h"
#include "base/clock.h"

#include <Zydis/Zydis.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct options {
    uint64_t seed, count;
    unsigned only, stop;
    const char *settings, *inject;
    char engines[2][16];
    bool async, verbose, shrink;
};

struct test {
    const struct options *o;
    struct bt_vm *vm[2];
    struct bt_program program;
    uint8_t image[BT_RAM];
    struct bt_result result[2];
    uint64_t programs, bad, hung, shut_down, insns, faults;
    uint64_t vectors[32], full; /* exceptions by vector; programs that ended by too many */
    uint64_t generate_ns, run_ns[2];
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

static void run_both(struct test *t, struct bt_program *p)
{
    bt_image(p, t->image);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t from = clock_now_ns();
        p->async = t->o->async && i == 1;
        bt_vm_run(t->vm[i], p, t->image, &t->result[i]);
        t->run_ns[i] += clock_now_ns() - from;
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
    run_both(t, p);
    bt_compare(&t->program, &t->result[0], &t->result[1], stdout);
    for (unsigned i = 0; i < 2; i++) {
        bt_print_result(t->o->engines[i], &t->result[i], stdout);
    }
    fflush(stdout);
}

static void report(struct test *t)
{
    if (t->o->verbose) {
        show(t, " differs");
    }
    if (t->o->shrink) {
        uint64_t loops = t->program.loops;
        /* A difference that comes and goes is kept as it is. */
        if (differs(&t->program, t)) {
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
    t->generate_ns += clock_now_ns() - from;
    run_both(t, &t->program);
    uint64_t logged;
    memcpy(&logged, t->result[0].ram + BT_VARS + BT_V_LOGGED, 8);
    t->faults += logged;
    t->full += logged >= BT_LOG_MAX;
    for (unsigned i = 0; i < logged && i < BT_LOG_MAX; i++) {
        t->vectors[t->result[0].ram[BT_LOG + i * BT_LOG_BYTES] & 31]++;
    }
    t->insns += t->result[0].insns;
    t->hung += t->result[0].end == BT_END_HANG;
    t->shut_down += t->result[0].end == BT_END_SHUTDOWN;
    t->programs++;
    if (t->o->verbose && t->o->count == 1) {
        show(t, "");
    }
    if (t->result[0].end == BT_END_HANG && t->result[1].end == BT_END_HANG) {
        printf("blocktest: seed %llu: both hang\n", (unsigned long long)seed);
    }
    if (bt_compare(&t->program, &t->result[0], &t->result[1], NULL) != 0) {
        t->bad++;
        report(t);
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
        } else if (strcmp(argv[i], "--no-shrink") == 0) {
            o->shrink = false;
        } else if (i + 1 < argc && option(o, argv[i], argv[i + 1])) {
            i++;
        } else {
            fprintf(stderr, "usage: blocktest [--seed N] [--count N] [--only CLASS,...] "
                            "[--engines A,B] [--settings TEXT]\n"
                            "                 [--async] [--verbose] [--no-shrink] [--stop N] "
                            "[--inject MNEMONIC]\nclasses:");
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
    char buf[200];
    double s = (double)ns / 1e9, n = (double)MAX(t->programs, UINT64_C(1));
    printf("blocktest: %llu programs, %llu different; %.0f/s, %.0f instructions and %.1f "
           "exceptions each, %llu shut down, %llu hung\n",
           (unsigned long long)t->programs, (unsigned long long)t->bad, n / s,
           (double)t->insns / n, (double)t->faults / n, (unsigned long long)t->shut_down,
           (unsigned long long)t->hung);
    printf("  exceptions:");
    for (unsigned i = 0; i < 32; i++) {
        if (t->vectors[i] != 0) {
            printf(" #%u %llu", i, (unsigned long long)t->vectors[i]);
        }
    }
    printf("; %llu programs ended by too many\n", (unsigned long long)t->full);
    printf("  microseconds each: %.0f to make, %.0f %s, %.0f %s\n",
           (double)t->generate_ns / n / 1e3, (double)t->run_ns[0] / n / 1e3, t->o->engines[0],
           (double)t->run_ns[1] / n / 1e3, t->o->engines[1]);
    for (unsigned i = 0; i < 2; i++) {
        printf("  %s: %s\n", t->o->engines[i], bt_vm_stats(t->vm[i], buf, sizeof(buf)));
    }
}

int main(int argc, char **argv)
{
    struct options o = {.seed = 1,
                        .count = 10000,
                        .stop = 5,
                        .settings = "jit=1,hot=0",
                        .engines = {"interp", "soft"},
                        .shrink = true};
    if (!parse(&o, argc, argv)) {
        return 1;
    }
    dt_xcr0 = dt_host_xcr0();
    if (dt_xcr0 == 0) {
        printf("blocktest: skipped: the host has no XSAVE\n");
        return 77;
    }
    struct test *t = calloc(1, sizeof(*t));
    if (t == NULL) {
        return 1;
    }
    t->o = &o;
    t->vm[0] = bt_vm_new(o.engines[0], "jit=0");
    t->vm[1] = bt_vm_new(o.engines[1], o.settings);
    if (t->vm[0] == NULL || t->vm[1] == NULL || !bt_gen_init()) {
        return 1;
    }
    uint64_t from = clock_now_ns();
    for (uint64_t i = 0; i < o.count && t->bad < o.stop; i++) {
        one(t, o.seed + i);
    }
    summary(t, clock_now_ns() - from);
    int status = t->bad == 0 ? 0 : 1;
    bt_vm_free(t->vm[0]);
    bt_vm_free(t->vm[1]);
    bt_gen_done();
    free(t);
    return status;
}
