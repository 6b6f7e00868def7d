/*
 * What the guest's test programs share: cases that run one after the other, each in a process
 * of its own, so that a crash or a hang of one is told from the others.
 *
 *     PROGRAM [NAME...]       the environment: T_SCALE multiplies repetitions, T_DISK names a
 *                             block device that may be overwritten, T_SECONDS for load
 *
 * Prints "NAME: ok" for each case and "PROGRAM: all well" at the end. The programs run natively
 * as well (as root for some): a case that fails there is wrong itself.
 */
#pragma once

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define T_SKIP   77
#define T_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CHECK(ok, ...)                                                                         \
    do {                                                                                       \
        if (!(ok)) {                                                                           \
            t_fail(__FILE__, __LINE__, #ok, __VA_ARGS__);                                      \
        }                                                                                      \
    } while (0)
/* What a system call returned; the text says which. */
#define SYS(ok) CHECK(ok, "%s", strerror(errno))

struct t_case {
    const char *name;
    void (*run)(void);
};

/* Usable from a signal handler that interrupted printf: does not take its lock. */
__attribute__((format(printf, 4, 5), noreturn, unused)) static void
t_fail(const char *file, int line, const char *what, const char *fmt, ...)
{
    char text[512];
    const char *base = strrchr(file, '/');
    int n = snprintf(text, sizeof(text), "FAILED %s:%d: %s: ", base != NULL ? base + 1 : file,
                     line, what);
    va_list ap;
    va_start(ap, fmt);
    if (n > 0 && (size_t)n < sizeof(text)) {
        vsnprintf(text + n, sizeof(text) - (size_t)n, fmt, ap);
    }
    va_end(ap);
    size_t len = strlen(text);
    text[len < sizeof(text) - 1 ? len++ : len - 1] = '\n';
    if (write(2, text, len) < 0) {
        _exit(2);
    }
    _exit(1);
}

__attribute__((format(printf, 1, 2), noreturn, unused)) static void t_skip(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("skipped: ");
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
    fflush(stdout);
    _exit(T_SKIP);
}

__attribute__((unused)) static unsigned t_number(const char *name, unsigned otherwise)
{
    const char *text = getenv(name);
    return text != NULL ? (unsigned)strtoul(text, NULL, 10) : otherwise;
}

__attribute__((unused)) static unsigned t_times(unsigned n)
{
    return n * t_number("T_SCALE", 1);
}

__attribute__((unused)) static uint64_t t_next(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

__attribute__((unused)) static double t_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* The end of a child that must have gone well. */
__attribute__((unused)) static void t_reap(pid_t pid)
{
    int status;
    SYS(waitpid(pid, &status, 0) == pid);
    CHECK(status == 0, "child ended with status 0x%x", status);
}

__attribute__((unused)) static int t_main(int argc, char **argv, const char *program,
                                          const struct t_case *cases, size_t n)
{
    bool bad = false;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < n; i++) {
        bool wanted = argc < 2;
        for (int k = 1; k < argc; k++) {
            wanted |= strcmp(argv[k], cases[i].name) == 0;
        }
        if (!wanted) {
            continue;
        }
        double start = t_now();
        pid_t pid = fork();
        SYS(pid >= 0);
        if (pid == 0) {
            cases[i].run();
            fflush(stdout);
            _exit(0);
        }
        int status;
        SYS(waitpid(pid, &status, 0) == pid);
        bool skipped = WIFEXITED(status) && WEXITSTATUS(status) == T_SKIP;
        printf("%s: %s (%.1f s)\n", cases[i].name,
               skipped       ? "skipped"
               : status == 0 ? "ok"
                             : "FAILED",
               t_now() - start);
        if (status != 0 && !skipped) {
            printf("%s: wait status 0x%x\n", cases[i].name, status);
            bad = true;
        }
    }
    printf("%s: %s\n", program, bad ? "FAILED" : "all well");
    return bad;
}
