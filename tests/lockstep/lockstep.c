/*
 * Compares the software engine with QEMU's TCG on generated privileged code, instruction by
 * instruction; see README.md. Exit status 0: no difference but accepted ones; 77: no QEMU.
 *
 * usage: lockstep [--seed N] [--count N] [--seconds N] [--keep-going] [--intel] [--verbose] ROM
 */
#include "lockstep.h"

#include "cpu/soft/soft.h"

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct ls_trace ours, theirs;
static uint8_t image[LS_BYTES];

/* ---- what differs ---- */

struct diff {
    char text[2000];
    size_t len;
    unsigned n;
    bool rip, flags, gpr, seg, system;
};

static void differs(struct diff *d, bool *kind, const char *name, uint64_t a, uint64_t b)
{
    *kind = true;
    d->n++;
    int n = snprintf(d->text + d->len, sizeof(d->text) - d->len, "  %-8s %16llx %16llx\n", name,
                     (unsigned long long)a, (unsigned long long)b);
    d->len += n > 0 && (size_t)n < sizeof(d->text) - d->len ? (size_t)n : 0;
}

static void compare_seg(struct diff *d, const char *name, const struct vcpu_seg *a,
                        const struct vcpu_seg *b, const struct ls_rec *r, bool system)
{
    char text[16];
    bool flat = r->code64 && (name[0] == 'C' || name[0] == 'D' || name[0] == 'E' ||
                              (name[0] == 'S' && name[1] == 'S'));
    if (a->sel != b->sel) {
        differs(d, &d->seg, name, a->sel, b->sel);
    }
    if ((a->attr & SEG_UNUSABLE) || (!(b->attr & SEG_P) && !system)) {
        return; /* a null selector: each keeps what it likes */
    }
    if (!flat && a->base != b->base) {
        snprintf(text, sizeof(text), "%s.base", name);
        differs(d, &d->seg, text, a->base, b->base);
    }
    if (a->limit != b->limit && !flat) {
        snprintf(text, sizeof(text), "%s.lim", name);
        differs(d, &d->seg, text, a->limit, b->limit);
    }
    unsigned busy = system ? 2 : 0; /* TCG keeps the type as it was before the load */
    unsigned accessed = !system && (a->attr & 1); /* nor does it show A in the hidden type */
    unsigned mask = r->cr0 & 1 && !(r->rflags & FL_VM) ? 0xfff & ~busy & ~accessed : 0;
    if (((a->attr ^ b->attr) & mask) && !flat) {
        snprintf(text, sizeof(text), "%s.attr", name);
        differs(d, &d->seg, text, a->attr, b->attr);
    }
}

static void compare(const struct ls_rec *a, const struct ls_rec *b, struct diff *d)
{
    static const char gpr_names[16][4] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP",
                                          "RSI", "RDI", "R8",  "R9",  "R10", "R11",
                                          "R12", "R13", "R14", "R15"};
    static const char seg_names[X86_NSEG][3] = {"ES", "CS", "SS", "DS", "FS", "GS"};
    uint64_t mask = b->code64 ? UINT64_MAX : UINT32_MAX;
    memset(d, 0, sizeof(*d));
#define FIELD(kind, name, x)                                                                   \
    if (a->x != b->x) {                                                                        \
        differs(d, &d->kind, name, a->x, b->x);                                                \
    }
    FIELD(rip, "RIP", rip)
    FIELD(flags, "RFLAGS", rflags)
    FIELD(rip, "CPL", cpl)
    for (unsigned i = 0; i < (b->code64 ? 16u : 8u); i++) {
        uint64_t x = (a->gpr[i] ^ b->gpr[i]) & mask;
        if (x != 0 &&
            !((x & 0x01010101) == x && (a->gpr[i] & x) == x)) { /* RF: see accepted.h */
            differs(d, &d->gpr, gpr_names[i], a->gpr[i] & mask, b->gpr[i]);
        }
    }
    for (unsigned i = 0; i < X86_NSEG; i++) {
        compare_seg(d, seg_names[i], &a->seg[i], &b->seg[i], a, false);
    }
    compare_seg(d, "LDTR", &a->ldtr, &b->ldtr, a, false);
    compare_seg(d, "TR", &a->tr, &b->tr, a, true);
    FIELD(system, "GDT", gdtr.base)
    FIELD(system, "GDT.lim", gdtr.limit)
    FIELD(system, "IDT", idtr.base)
    FIELD(system, "IDT.lim", idtr.limit)
    FIELD(system, "CR0", cr0)
    FIELD(system, "CR2", cr2)
    FIELD(system, "CR3", cr3)
    FIELD(system, "CR4", cr4)
    FIELD(system, "EFER", efer)
    for (unsigned i = 0; i < 8; i++) {
        char name[8];
        snprintf(name, sizeof(name), "DR%u", i);
        if (i != 4 && i != 5 && a->dr[i] != b->dr[i]) {
            differs(d, &d->system, name, a->dr[i], b->dr[i]);
        }
    }
#undef FIELD
}

/* ---- the instruction ---- */

struct insn_info {
    ZydisDecodedInstruction in;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    char text[96];
    bool ok;
};

static void decode(const struct ls_rec *r, struct insn_info *i)
{
    ZydisDecoder dec;
    ZydisFormatter fmt;
    bool cs32 = (r->seg[X86_CS].attr & SEG_DB) != 0;
    memset(i, 0, sizeof(*i));
    ZydisDecoderInit(&dec,
                     r->code64 ? ZYDIS_MACHINE_MODE_LONG_64
                     : cs32    ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32
                               : ZYDIS_MACHINE_MODE_LONG_COMPAT_16,
                     r->code64 ? ZYDIS_STACK_WIDTH_64
                     : cs32    ? ZYDIS_STACK_WIDTH_32
                               : ZYDIS_STACK_WIDTH_16);
    ZydisFormatterInit(&fmt, ZYDIS_FORMATTER_STYLE_INTEL);
    i->ok = ZYAN_SUCCESS(ZydisDecoderDecodeFull(&dec, r->bytes, 15, &i->in, i->op));
    if (!i->ok || !ZYAN_SUCCESS(ZydisFormatterFormatInstruction(
                      &fmt, &i->in, i->op, i->in.operand_count_visible, i->text,
                      sizeof(i->text), r->rip, NULL))) {
        snprintf(i->text, sizeof(i->text), "?");
    }
}

static void print_insn(const struct ls_rec *r)
{
    struct insn_info i;
    decode(r, &i);
    printf("%04x:%08llx cpl%u  ", r->seg[X86_CS].sel, (unsigned long long)r->rip, r->cpl);
    for (unsigned k = 0; k < (i.ok ? i.in.length : 4u); k++) {
        printf("%02x", r->bytes[k]);
    }
    printf("  %s\n", i.text);
}

/* ---- accepted differences ---- */

/* The vector whose handler a record stands in, or -1: the stubs of gen.c push it. */
static int vector_at(const struct ls_rec *r)
{
    uint64_t lin = r->rip + (r->code64 ? 0 : r->seg[X86_CS].base);
    if (lin >= 0x3000 && lin < 0x3800 && lin % 8 == 0) {
        return (int)((lin - 0x3000) / 8);
    }
    return lin >= 0x2800 && lin < 0x2a00 && lin % 8 == 0 ? (int)((lin - 0x2800) / 8) : -1;
}

struct event {
    const struct ls_rec *pre, *ours, *theirs; /* before, and after on each side; may be NULL */
    const struct insn_info *i;
    const struct diff *d;
    int vec_ours, vec_theirs;
};

#include "accepted.h"

static const char *accepted_as(const struct event *e)
{
    for (unsigned k = 0; k < sizeof(accepted) / sizeof(accepted[0]); k++) {
        if (accepted[k].is(e)) {
            return accepted[k].name;
        }
    }
    return NULL;
}

/* ---- a case ---- */

static unsigned accepted_count[64];
static const char *rom_file;

static void print_state(const char *who, const struct ls_rec *r)
{
    printf("  %s: ax %llx cx %llx dx %llx bx %llx sp %llx si %llx di %llx fl %llx cr0 %llx cr4 "
           "%llx efer %llx\n    ",
           who, (unsigned long long)r->gpr[0], (unsigned long long)r->gpr[1],
           (unsigned long long)r->gpr[2], (unsigned long long)r->gpr[3],
           (unsigned long long)r->gpr[4], (unsigned long long)r->gpr[6],
           (unsigned long long)r->gpr[7], (unsigned long long)r->rflags,
           (unsigned long long)r->cr0, (unsigned long long)r->cr4, (unsigned long long)r->efer);
    static const char n[] = "ecsdfg";
    for (unsigned i = 0; i < X86_NSEG; i++) {
        printf("%cs %04x/%llx/%x/%x ", n[i], r->seg[i].sel, (unsigned long long)r->seg[i].base,
               r->seg[i].limit, r->seg[i].attr);
    }
    printf("\n");
}

static bool report(uint64_t seed, const char *env, unsigned at, const struct diff *d)
{
    struct insn_info i;
    const struct ls_rec *pre = at > 0 ? &ours.rec[at - 1] : NULL;
    struct event e = {.pre = pre,
                      .ours = at < ours.n ? &ours.rec[at] : NULL,
                      .theirs = at < theirs.n ? &theirs.rec[at] : NULL,
                      .i = &i,
                      .d = d,
                      .vec_ours = -1,
                      .vec_theirs = -1};
    if (pre != NULL && e.ours == NULL && is_smap_implicit(pre)) {
        printf("seed %llu (%s): %s\n", (unsigned long long)seed, env, smap_implicit);
        return true;
    }
    if (pre != NULL && e.ours != NULL && e.theirs != NULL) {
        decode(pre, &i);
        e.vec_ours = e.ours != NULL ? vector_at(e.ours) : -2;
        e.vec_theirs = e.theirs != NULL ? vector_at(e.theirs) : -2;
        const char *name = accepted_as(&e);
        for (unsigned k = 0; name != NULL && k < sizeof(accepted) / sizeof(accepted[0]); k++) {
            accepted_count[k] += accepted[k].name == name;
        }
        if (name != NULL) {
            return true;
        }
    }
    printf("seed %llu (%s): differs after record %u of %u/%u; ours, QEMU's:\n",
           (unsigned long long)seed, env, at, ours.n, theirs.n);
    for (unsigned k = at > 6 ? at - 6 : 0; k < at; k++) {
        print_insn(&ours.rec[k]);
    }
    if (pre != NULL) {
        print_state("before", pre);
    }
    printf("  vectors  %d %d\n%s", e.vec_ours, e.vec_theirs, d->text);
    return false;
}

static bool compare_memory(uint64_t seed, const char *env)
{
    const uint8_t *a = ls_soft_ram(), *b = ls_qemu_ram();
    for (uint32_t at = LS_IMAGE; at < 0x90000; at++) {
        bool rf = (at < 0x4000 || at >= 0x5000) && (a[at] ^ b[at]) == 1 && (a[at] & 1);
        bool accessed = at >= 0x4000 && at < 0x4600 && at % 8 == 5 && (a[at] ^ b[at]) == 1 &&
                        (a[at] & 0x11) == 0x11;
        bool pdpte = at >= 0xb000 && at < 0xb020 && a[at] + 0x20 == b[at] && env[1] == 'a';
        /* CMPS looks at its operands in another order, and A may be set speculatively. */
        bool pte = at >= 0xe000 && at < 0xf000 && (a[at] ^ b[at]) == 0x20;
        /* A case that ends by faults in faults runs its stack over the IDT. */
        bool idt = at >= 0x5000 && at < 0x6000;
        if (a[at] != b[at] && !idt && !rf && !accessed && !pdpte && !pte) {
            unsigned who;
            printf("seed %llu (%s): memory at %x: ours %02x, QEMU's %02x; was %02x\n",
                   (unsigned long long)seed, env, at, a[at], b[at],
                   at < LS_IMAGE + LS_BYTES ? image[at - LS_IMAGE] : 0);
            who = ls_soft_who_wrote(image, at);
            printf("last written by record %u: ", who);
            for (unsigned k = who > 4 ? who - 4 : 0; k <= who; k++) {
                print_insn(&ours.rec[k]);
            }
            return false;
        }
    }
    return true;
}

static bool run_case(uint64_t seed, bool amd, bool verbose, bool *ret_fatal)
{
    struct diff d = {.n = 0};
    const char *env = ls_generate(seed, image, amd);
    ls_soft_run(image, &ours);
    if (!ls_qemu_run(image, &theirs)) {
        /* It aborts at a TR that does not name a TSS. */
        printf("seed %llu (%s): QEMU gave up\n", (unsigned long long)seed, env);
        ls_qemu_done();
        *ret_fatal = ls_qemu_init(rom_file, amd) != 0;
        return !*ret_fatal;
    }
    unsigned n = ours.n < theirs.n ? ours.n : theirs.n;
    if (verbose) {
        printf("seed %llu (%s): %u and %u records\n", (unsigned long long)seed, env, ours.n,
               theirs.n);
    }
    for (unsigned k = 0; k < n; k++) {
        compare(&ours.rec[k], &theirs.rec[k], &d);
        if (d.n > 0) {
            return report(seed, env, k, &d);
        }
    }
    if (ours.n != theirs.n && ours.ended && theirs.ended) {
        snprintf(d.text, sizeof(d.text), "  one goes on\n");
        return report(seed, env, n, &d);
    }
    return !ours.ended || !theirs.ended || compare_memory(seed, env);
}

static uint64_t number(const char *s)
{
    return strtoull(s, NULL, 0);
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, count = 600, seconds = 1000000;
    bool keep_going = false, verbose = false, amd = true, fatal = false;
    const char *rom_path = NULL;
    static uint8_t rom[0x10000];
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            seed = number(argv[++i]);
        } else if (strcmp(argv[i], "--count") == 0 && i + 1 < argc) {
            count = number(argv[++i]);
        } else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) {
            seconds = number(argv[++i]);
        } else if (strcmp(argv[i], "--keep-going") == 0) {
            keep_going = true;
        } else if (strcmp(argv[i], "--intel") == 0) {
            amd = false;
        } else if (strcmp(argv[i], "--verbose") == 0) {
            verbose = true;
        } else {
            rom_path = argv[i];
        }
    }
    FILE *f = rom_path != NULL ? fopen(rom_path, "rb") : NULL;
    if (f == NULL || fread(rom, 1, sizeof(rom), f) != sizeof(rom)) {
        fprintf(stderr, "lockstep: no ROM\n");
        return 1;
    }
    fclose(f);
    rom_file = rom_path;
    int rc = ls_qemu_init(rom_path, amd);
    if (rc == 77) {
        printf("lockstep: skipped: qemu-system-x86_64 is not installed\n");
        return 77;
    }
    if (rc != 0 || !ls_soft_init(rom, amd)) {
        fprintf(stderr, "lockstep: QEMU or the engine does not start\n");
        ls_qemu_done();
        return 1;
    }
    unsigned bad = 0;
    uint64_t done = 0, insns = 0;
    time_t end = time(NULL) + (time_t)seconds;
    for (; done < count && !fatal && time(NULL) < end; done++) {
        bad += !run_case(seed + done, amd, verbose, &fatal);
        insns += ours.n;
        if (bad > 0 && !keep_going) {
            done++;
            break;
        }
    }
    printf("lockstep: %llu cases, %llu instructions, %u differ\n", (unsigned long long)done,
           (unsigned long long)insns, bad);
    for (unsigned k = 0; k < sizeof(accepted) / sizeof(accepted[0]); k++) {
        if (accepted_count[k] > 0) {
            printf("  accepted %u: %s\n", accepted_count[k], accepted[k].name);
        }
    }
    ls_qemu_done();
    ls_soft_done();
    return bad > 0;
}
