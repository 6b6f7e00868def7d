/*
 * Error reports of the control path: one caller-owned text per failure, codes from ERR_TABLE.
 * No global state, no locks; a struct err belongs to one thread at a time.
 */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int exit_status;
} codes[] = {
#define X(name, text, status) [ERR_##name] = {text, status},
    ERR_TABLE(X)
#undef X
};

/* A report is one line on a terminal: what a file or a guest put into it cannot add more. */
static void make_one_line(char *text)
{
    for (char *p = text; *p != '\0'; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f) {
            *p = ' ';
        }
    }
}

int err_report(struct err *err, enum err_code code, int errnum, const char *file, int line,
               const char *fmt, ...)
{
    if (err != NULL) {
        /* The arguments may point into err->text, so it is replaced only when all is formatted.
         */
        char text[sizeof(err->text)];
        va_list ap;

        va_start(ap, fmt);
        if (vsnprintf(text, sizeof(text), fmt, ap) < 0) {
            text[0] = '\0';
        }
        va_end(ap);
        make_one_line(text);

        err->code = code;
        err->errnum = errnum;
        err->file = file;
        err->line = line;
        memcpy(err->text, text, sizeof(text));
    }
    return errnum > 0 ? -errnum : -EIO;
}

void err_prefix(struct err *err, const char *fmt, ...)
{
    if (err == NULL) {
        return;
    }
    char text[sizeof(err->text)];
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n < 0) {
        return;
    }
    make_one_line(text);
    size_t used = strnlen(text, sizeof(text) - 1);
    int m = snprintf(text + used, sizeof(text) - used, ": %s", err->text);
    if (m >= 0) {
        memcpy(err->text, text, sizeof(text));
    }
}

const char *err_code_name(enum err_code code)
{
    return (size_t)code < sizeof(codes) / sizeof(codes[0]) ? codes[code].name : "unknown";
}

int err_exit_status(enum err_code code)
{
    return (size_t)code < sizeof(codes) / sizeof(codes[0]) ? codes[code].exit_status : 1;
}
