/*
 * Errors of the control path.
 *
 * A function that can fail for a reason a person should read takes a caller-owned `struct err
 * *` as its last parameter. On failure it fills it and returns a negative errno; on success it
 * leaves it untouched. Reporting and returning is one statement:
 *
 *     return ERR(err, IMAGE_BAD, EINVAL, "kernel %s: bad magic 0x%x, want 0x%x", p, m, want);
 *
 * The codes live in one table (ERR_TABLE) that yields the enum, the process exit status and the
 * stable name that machines see. A NULL err is allowed: the text is dropped, the code returned.
 */
#pragma once

#include <errno.h>
#include <stddef.h>

/* X(enum suffix, stable name, exit status of a program that ends with it) */
#define ERR_TABLE(X)                                                                           \
    X(NONE, "none", 0)                                                                         \
    X(USAGE, "usage", 2)             /* the command line or a request is malformed */          \
    X(SPEC_BAD, "spec-bad", 2)       /* a VM specification has a bad key or value */           \
    X(NOT_FOUND, "not-found", 1)     /* a file or object named by the user is missing */       \
    X(ACCESS, "access", 1)           /* permission refused by the host */                      \
    X(IO, "io", 1)                   /* reading or writing a host file failed */               \
    X(NO_MEMORY, "no-memory", 1)     /* the host has not enough memory */                      \
    X(NO_SPACE, "no-space", 1)       /* the host disk is full */                               \
    X(IMAGE_BAD, "image-bad", 1)     /* a kernel, initrd, firmware or disk is malformed */     \
    X(STATE_BAD, "state-bad", 1)     /* a saved state is malformed or of another version */    \
    X(ENGINE, "engine", 1)           /* the CPU engine is unusable or failed */                \
    X(HELPER, "helper", 1)           /* a helper process failed */                             \
    X(LIMIT, "limit", 1)             /* a limit of ours or of the host is reached */           \
    X(GUEST_CRASH, "guest-crash", 3) /* the guest panicked or triple-faulted */                \
    X(INTERNAL, "internal", 1)       /* a broken invariant of ours */

enum err_code {
#define X(name, text, status) ERR_##name,
    ERR_TABLE(X)
#undef X
};

struct err {
    enum err_code code;
    int errnum;       /* positive errno that goes with it, 0 if none */
    const char *file; /* place of the report */
    int line;
    char text[480]; /* one line, no trailing newline */
};

/* The value is spelled out here, so that compilers and analysers see that it is never 0. */
#define ERR(err, code, errnum, ...)                                                            \
    ({                                                                                         \
        const int err_errnum_ = (errnum);                                                      \
        err_report((err), ERR_##code, err_errnum_, __FILE__, __LINE__, __VA_ARGS__);           \
        err_errnum_ != 0 ? -err_errnum_ : -EIO;                                                \
    })

/* Fills *err (may be NULL) and returns -errnum, or -EIO when errnum is 0. */
int err_report(struct err *err, enum err_code code, int errnum, const char *file, int line,
               const char *fmt, ...) __attribute__((format(printf, 6, 7), cold));

/* Puts "what: " before the text already in *err; for callers that know the object's name. */
void err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

const char *err_code_name(enum err_code code);
int err_exit_status(enum err_code code);
