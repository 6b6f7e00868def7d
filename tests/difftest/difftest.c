/*
 * difftest: runs generated instructions on the host CPU and on the software engine and compares
 * everything that software can see.
 *
 *     difftest [--seed N] [--count N] [--mode 64|32|both] [--only N] [--match TEXT] [--stop N]
 *
 * Exit status: 0 all equal, 1 not, 77 the host cannot run it. A case is named by seed, mode and
 * number: --only N runs that one and shows everything.
 */
#include "difftest.h"

#include "base/ckd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct options {
    uint64_t seed, count, only;
    bool has_only, m64, m32;
    const char *match;
    unsigned stop;
};

struct totals {
    uint64_t cases, faults, died, bad;
};

void dt_fill_data(uint8_t *data, const struct dt_case *k)
{
    static const uint64_t special[16] = {0,
                                         UINT64_MAX,
                                         0x3ff0000000000000,
                                         0x7ff0000000000000,
                                         0x3f8000003f800000,
                                         0x7f80000080000000,
                                         0x7ff8000000000000,
                                         0x0000000100000001,
                                         0x8000000000000000,
                                         0x0000003f0000001f,
                                         0x00800001ff7fffff,
                                         0x7fefffffffffffff,
                                         0xc000400000003fff,
                                         0x8000ffff7fff0080,
                                         0x1234567890123456,
                                         0x0037f0000000037f};
    uint64_t x = k->data_seed | 1;
    for (unsigned i = 0; i < DT_DATA_BYTES; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        uint64_t v = (x >> 60) < 8 ? special[x >> 40 & 15] : x;
        memcpy(data + i, &v, 8);
    }
    memcpy(data + k->patch_at, k->patch, k->patch_len);
}

/* ---- comparing ---- */
static const char *const gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                          "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                          "r12", "r13", "r14", "r15"};

struct report {
    FILE *out; /* NULL: only count */
    unsigned n;
};

static void differ(struct report *r, const char *what, uint64_t want, uint64_t got)
{
    if (r->out != NULL && r->n < 12) {
        fprintf(r->out, "    %-10s host %016llx  ours %016llx\n", what,
                (unsigned long long)want, (unsigned long long)got);
    }
    r->n++;
}

static void compare_bytes(struct report *r, const char *what, unsigned index, const uint8_t *a,
                          const uint8_t *b, unsigned len)
{
    for (unsigned i = 0; i < len; i += 8) {
        uint64_t x = 0, y = 0;
        memcpy(&x, a + i, MIN(8u, len - i));
        memcpy(&y, b + i, MIN(8u, len - i));
        if (x != y) {
            char name[32];
            snprintf(name, sizeof(name), "%s%u+%u", what, index, i);
            differ(r, name, x, y);
        }
    }
}

static void compare_vectors(struct report *r, uint8_t *a, uint8_t *b, bool low_only)
{
    dt_normalise(a);
    dt_normalise(b);
    compare_bytes(r, "x87env", 0, a, b, 24);
    compare_bytes(r, "mxcsr", 0, a + 24, b + 24, 4);
    for (unsigned i = 0; i < 8; i++) {
        compare_bytes(r, "st", i, a + 32 + i * 16, b + 32 + i * 16, 10);
    }
    for (unsigned i = 0; i < 16; i++) {
        compare_bytes(r, "xmm", i, a + 160 + i * 16, b + 160 + i * 16, 16);
    }
    static const unsigned size[8] = {0, 0, 16, 0, 0, 8, 32, 64};
    static const char *const name[8] = {"", "", "ymmh", "", "", "k", "zmmh", "hi16zmm"};
    for (unsigned i = 2; i < 8; i++) {
        unsigned off, len;
        if (!(dt_xcr0 >> i & 1) || size[i] == 0 || (low_only && i != 5)) {
            continue;
        }
        off = dt_component(i, &len);
        for (unsigned j = 0; j < len / size[i]; j++) {
            compare_bytes(r, name[i], j, a + off + j * size[i], b + off + j * size[i], size[i]);
        }
    }
}

static void compare(struct report *r, const struct dt_case *k, struct dt_result *host,
                    struct dt_result *ours)
{
    bool order = (k->two_memory || k->large) && host->vector >= 12 && host->vector <= 14 &&
                 ours->vector >= 12 && ours->vector <= 14;
    if (order) {
        host->vector = ours->vector;
        host->error = ours->error;
        host->cr2 = ours->cr2;
    }
    if (host->vector != ours->vector) {
        differ(r, "vector", (uint64_t)host->vector, (uint64_t)ours->vector);
    }
    /* Linux shows the upper half as present to all that cannot go there. */
    uint32_t error_bits = host->cr2 >> 47 != 0 ? ~1u : ~0u;
    if (((host->error ^ ours->error) & error_bits) != 0 && host->vector >= 0) {
        differ(r, "error", host->error, ours->error);
    }
    /* Of large images (FNSAVE, XSAVE) the CPU may touch the end first: the page counts. */
    uint64_t cr2_bits = k->large ? ~UINT64_C(0xfff) : ~UINT64_C(0);
    if ((host->cr2 ^ ours->cr2) & cr2_bits) {
        differ(r, "cr2", host->cr2, ours->cr2);
    }
    if (host->out.rip != ours->out.rip) {
        differ(r, "rip", host->out.rip, ours->out.rip);
    }
    for (unsigned i = 0; i < (k->mode32 ? 8 : 16); i++) {
        uint64_t a = host->out.gpr[i], b = ours->out.gpr[i];
        if (k->mode32) {
            a = (uint32_t)a;
            b = (uint32_t)b;
        }
        if (a != b) {
            differ(r, gpr_names[i], a, b);
        }
    }
    uint64_t flags = DT_FLAGS;
    if (host->vector < 0) {
        flags &= ~k->undefined_flags;
    }
    if ((host->out.rflags ^ ours->out.rflags) & flags) {
        differ(r, "rflags", host->out.rflags & flags, ours->out.rflags & flags);
    }
    compare_vectors(r, host->out.xsave, ours->out.xsave, k->gather && host->vector >= 0);
    for (unsigned i = 0; i < DT_RW_BYTES && r->n < 40; i += 8) {
        if (memcmp(host->data + i, ours->data + i, 8) != 0) {
            compare_bytes(r, "mem", i, host->data + i, ours->data + i, 8);
        }
    }
}

/* ---- running ---- */
static void show_inputs(const struct dt_case *k)
{
    for (unsigned i = 0; i < 16; i++) {
        printf("    %-3s %016llx%s", gpr_names[i], (unsigned long long)k->in.gpr[i],
               i % 4 == 3 ? "\n" : "");
    }
    uint32_t mxcsr;
    uint16_t fcw, fsw;
    memcpy(&mxcsr, k->in.xsave + 24, 4);
    memcpy(&fcw, k->in.xsave, 2);
    memcpy(&fsw, k->in.xsave + 2, 2);
    printf("    rip %llx  rflags %llx  mxcsr %x  fcw %x  fsw %x  tags %x\n",
           (unsigned long long)k->in.rip, (unsigned long long)k->in.rflags, mxcsr, fcw, fsw,
           k->in.xsave[4]);
}

/* AddressSanitizer's shadow lies where the engine's side has nothing. */
static bool in_sanitizer_memory(const struct dt_result *ours)
{
#ifdef __SANITIZE_ADDRESS__
    return ours->vector == 14 && ours->cr2 >= 0x7fff7000 &&
           ours->cr2 < UINT64_C(0x100080000000);
#else
    (void)ours;
    return false;
#endif
}

static void check(const struct options *o, struct totals *t, const struct dt_case *k,
                  struct dt_result *host)
{
    static struct dt_result ours;
    char text[160];
    dt_disassemble(k, text, sizeof(text));
    if (o->match != NULL && strstr(text, o->match) == NULL) {
        return;
    }
    t->cases++;
    t->faults += host->vector >= 0;
    if (host->died) {
        t->died++;
        printf("case %llu (%s bits): the host did not come back: %s\n",
               (unsigned long long)k->number, k->mode32 ? "32" : "64", text);
        return;
    }
    for (unsigned step = 0; step < 2; step++) {
        struct dt_result copy = *host;
        struct report r = {NULL, 0};
        dt_soft_run(k, &ours, step != 0);
        compare(&r, k, &copy, &ours);
        if ((r.n == 0 && !o->has_only) || in_sanitizer_memory(&ours)) {
            continue;
        }
        t->bad += r.n != 0;
        printf("%s case %llu, %s bits, %s: %s\n", r.n ? "DIFFERENT" : "equal",
               (unsigned long long)k->number, k->mode32 ? "32" : "64",
               step ? "general handler" : "fast path", text);
        show_inputs(k);
        printf("    outcome: vector %d error %x rip %llx\n", host->vector, host->error,
               (unsigned long long)host->out.rip);
        r = (struct report){stdout, 0};
        copy = *host;
        compare(&r, k, &copy, &ours);
        if (!o->has_only) {
            return; /* once is enough */
        }
    }
}

static bool run_mode(const struct options *o, bool mode32, struct totals *t)
{
    static struct dt_case cases[DT_BATCH];
    static struct dt_result results[DT_BATCH];
    struct dt_gen *g = dt_gen_new(o->seed, mode32);
    if (g == NULL) {
        return false;
    }
    bool ok = true;
    for (uint64_t done = 0; ok && done < o->count && t->bad < o->stop;) {
        unsigned n = 0;
        for (; n < DT_BATCH && done < o->count; done++) {
            dt_gen_next(g, &cases[n]);
            if (!o->has_only || cases[n].number == o->only) {
                n++;
            }
            if (o->has_only && n == 1) {
                done = o->count;
            }
        }
        ok = dt_native_run(cases, results, n);
        for (unsigned i = 0; ok && i < n && t->bad < o->stop; i++) {
            check(o, t, &cases[i], &results[i]);
        }
    }
    printf("difftest: %s-bit mode: %u instruction forms\n", mode32 ? "32" : "64",
           dt_gen_forms(g));
    dt_gen_free(g);
    return ok;
}

static bool parse_number(const char *s, uint64_t *ret)
{
    char *end;
    errno = 0;
    *ret = strtoull(s, &end, 0);
    return errno == 0 && end != s && *end == 0;
}

static bool parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i += 2) {
        uint64_t v = 0;
        if (i + 1 >= argc) {
            return false;
        }
        bool number = parse_number(argv[i + 1], &v);
        if (strcmp(argv[i], "--seed") == 0 && number) {
            o->seed = v;
        } else if (strcmp(argv[i], "--count") == 0 && number) {
            o->count = v;
        } else if (strcmp(argv[i], "--only") == 0 && number) {
            o->only = v;
            o->has_only = true;
        } else if (strcmp(argv[i], "--stop") == 0 && number) {
            o->stop = (unsigned)v;
        } else if (strcmp(argv[i], "--match") == 0) {
            o->match = argv[i + 1];
        } else if (strcmp(argv[i], "--mode") == 0) {
            o->m64 = strcmp(argv[i + 1], "32") != 0;
            o->m32 = strcmp(argv[i + 1], "64") != 0;
        } else {
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    struct options o = {.seed = 1, .count = 24000, .m64 = true, .m32 = true, .stop = 40};
    struct totals t = {0};
    if (!parse(argc, argv, &o)) {
        fprintf(stderr, "usage: difftest [--seed N] [--count N] [--mode 64|32|both] [--only N] "
                        "[--match TEXT] [--stop N]\n");
        return 2;
    }
    dt_xcr0 = dt_host_xcr0();
    if (dt_xcr0 == 0) {
        printf("difftest: skipped: the host has no XSAVE\n");
        return 77;
    }
    if (!dt_soft_init() || !dt_native_init()) {
        return 1;
    }
    bool ok = (!o.m64 || run_mode(&o, false, &t)) && (!o.m32 || run_mode(&o, true, &t));
    dt_soft_done();
    printf("difftest: %llu cases, %llu of them faults, %llu different, %llu died on the host\n",
           (unsigned long long)t.cases, (unsigned long long)t.faults, (unsigned long long)t.bad,
           (unsigned long long)t.died);
    return ok && t.bad == 0 ? 0 : 1;
}
