/*
 * The benchmark program: runs as the first process of a VM (it powers the VM off at its end),
 * or as an ordinary program. One thread on one CPU, pages of 4 KiB.
 *
 *   bench [--list] [--only NAME,NAME] [--ms N] [--reps N]
 *
 * Each item first runs until it is known how many units fill `ms` milliseconds, which also
 * warms up whatever translates code; then so many units are timed, `reps` times. Every unit
 * must give the same checksum. The lines that the harness reads all begin with "bench: ":
 *
 *   bench: start NS                          CLOCK_MONOTONIC, so that the harness can compare
 * clocks bench: run NAME GROUP OP                 before the item's first unit bench: item NAME
 * SUM NS_PER_OP ...       one figure per repetition bench: absent NAME this CPU lacks what the
 * item needs bench: failed NAME WHY bench: end NS
 */
#include "item.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define MAX_REPS 32

struct options {
    const char *only; /* NULL: all */
    uint64_t ns;      /* per repetition */
    unsigned reps;
    bool list;
};

void *pages_new(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p != MAP_FAILED ? p : NULL;
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A console that still sends would take time from what is measured next. */
static void flush_line(void)
{
    fflush(stdout);
    tcdrain(STDOUT_FILENO);
}

/* Time of `units` units; false when one of them gives another sum. */
static bool time_units(const struct item *item, void *data, uint64_t units, uint64_t sum,
                       uint64_t *ret_ns)
{
    uint64_t differ = 0, start = now_ns();

    for (uint64_t i = 0; i < units; i++) {
        differ |= item->unit(data) ^ sum;
    }
    *ret_ns = now_ns() - start;
    return differ == 0;
}

/* How many units take `ns`; 0 when sums differ. */
static uint64_t calibrate(const struct item *item, void *data, uint64_t ns, uint64_t sum)
{
    uint64_t units = 1, took;

    for (;;) {
        if (!time_units(item, data, units, sum, &took)) {
            return 0;
        }
        if (took >= ns / 8) {
            break;
        }
        units *= took < ns / 64 ? 4 : 2;
    }
    units = (uint64_t)((double)units * (double)ns / (double)took);
    return units > 0 ? units : 1;
}

static bool measure(const struct item *item, void *data, const struct options *options)
{
    uint64_t sum = item->unit(data), took[MAX_REPS];
    uint64_t units = calibrate(item, data, options->ns, sum);
    bool ok = units > 0;

    for (unsigned i = 0; ok && i < options->reps; i++) {
        ok = time_units(item, data, units, sum, &took[i]);
    }
    if (!ok) {
        printf("bench: failed %s checksums differ\n", item->name);
        return false;
    }
    printf("bench: item %s %016llx", item->name, (unsigned long long)sum);
    for (unsigned i = 0; i < options->reps; i++) {
        printf(" %.4f", (double)took[i] / (double)(units * item->ops));
    }
    printf("\n");
    return true;
}

static bool run_item(const struct item *item, const struct options *options)
{
    bool ok;
    void *data;

    if (item->is_present != NULL && !item->is_present()) {
        printf("bench: absent %s\n", item->name);
        return true;
    }
    data = item->setup(item->size);
    if (data == NULL) {
        printf("bench: failed %s no memory\n", item->name);
        return false;
    }
    printf("bench: run %s %s %s\n", item->name, item->group, item->op);
    flush_line();
    ok = measure(item, data, options);
    item->teardown(data);
    return ok;
}

/* Whether `only` (names with commas between) has the name. */
static bool is_wanted(const char *only, const char *name)
{
    size_t length = strlen(name);

    for (const char *at = only; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, name, length) == 0 && (at[length] == ',' || at[length] == '\0')) {
            return true;
        }
    }
    return only == NULL;
}

static void say_time(const char *what, const struct options *options)
{
    if (!options->list) {
        printf("bench: %s %llu\n", what, (unsigned long long)now_ns());
        flush_line();
    }
}

static bool run_all(const struct options *options)
{
    const struct item_list *lists[] = {&int_items, &mem_items, &fp_items, &sys_items};
    bool ok = true;

    say_time("start", options);
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        for (size_t k = 0; k < lists[i]->count; k++) {
            const struct item *item = &lists[i]->items[k];
            if (!is_wanted(options->only, item->name)) {
                continue;
            }
            if (options->list) {
                printf("%s %s\n", item->group, item->name);
            } else {
                ok = run_item(item, options) && ok;
                flush_line();
            }
        }
    }
    say_time("end", options);
    return ok;
}

static unsigned number(const char *text, unsigned most)
{
    char *end;
    unsigned long n;

    errno = 0;
    n = strtoul(text, &end, 10);
    if (errno != 0 || *end != '\0' || n < 1 || n > most) {
        fprintf(stderr, "bench: %s: should be a number from 1 to %u\n", text, most);
        exit(2);
    }
    return (unsigned)n;
}

static struct options parse(int argc, char **argv)
{
    static const struct option known[] = {
        {"only", required_argument, NULL, 'o'}, {"ms", required_argument, NULL, 'm'},
        {"reps", required_argument, NULL, 'r'}, {"list", no_argument, NULL, 'l'},
        {"exit", no_argument, NULL, 'e'},       {NULL, 0, NULL, 0}};
    struct options options = {.ns = 100000000, .reps = 3};
    int c;

    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (c) {
        case 'o': options.only = optarg; break;
        case 'm': options.ns = number(optarg, 100000) * UINT64_C(1000000); break;
        case 'r': options.reps = number(optarg, MAX_REPS); break;
        case 'l': options.list = true; break;
        case 'e': exit(0); /* the item "exec" */
        default: exit(2);
        }
    }
    return options;
}

/* One CPU, so that processes take turns as in a VM with one; and pages of one size everywhere.
 */
static void settle(void)
{
    cpu_set_t one;
    int cpu = sched_getcpu();

    CPU_ZERO(&one);
    CPU_SET(cpu < 0 ? 0 : (unsigned)cpu, &one);
    sched_setaffinity(0, sizeof(one), &one);
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
}

int main(int argc, char **argv)
{
    struct options options = parse(argc, argv);
    bool ok;

    settle();
    ok = run_all(&options);
    if (getpid() == 1) {
        sync();
        reboot(RB_POWER_OFF);
    }
    return ok ? 0 : 1;
}
