/*
 * Log lines. The level, the descriptor and the program's name are process-wide, set once by a
 * main and read with atomics from any thread. A line is formatted on the stack and leaves in
 * one write.
 */
#include "base/log.h"

#include "base/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *log_program = "viv";
static int log_max_level = LOG_LEVEL_INFO;
static int log_fd = STDERR_FILENO;

static const char *const level_names[] = {
    [LOG_LEVEL_ERROR] = "error",
    [LOG_LEVEL_WARN] = "warn",
    [LOG_LEVEL_INFO] = "info",
    [LOG_LEVEL_DEBUG] = "debug",
};

void log_setup(const char *program, enum log_level max_level, int fd)
{
    __atomic_store_n(&log_program, program, __ATOMIC_RELAXED);
    __atomic_store_n(&log_max_level, (int)max_level, __ATOMIC_RELAXED);
    __atomic_store_n(&log_fd, fd, __ATOMIC_RELAXED);
}

bool log_enabled(enum log_level level)
{
    return (int)level <= __atomic_load_n(&log_max_level, __ATOMIC_RELAXED);
}

void log_write(enum log_level level, const char *fmt, ...)
{
    if (!log_enabled(level)) {
        return;
    }
    int saved_errno = errno;
    char line[1024];
    int n = snprintf(line, sizeof(line),
                     "%s: %s: ", __atomic_load_n(&log_program, __ATOMIC_RELAXED),
                     level_names[level]);
    size_t used = n < 0 ? 0 : (size_t)n;
    if (used > sizeof(line) / 2) {
        used = sizeof(line) / 2;
    }

    va_list ap;
    va_start(ap, fmt);
    n = vsnprintf(line + used, sizeof(line) - used - 1, fmt, ap);
    va_end(ap);
    if (n > 0) {
        used += strnlen(line + used, sizeof(line) - used - 1);
    }
    for (size_t i = 0; i < used; i++) {
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f) {
            line[i] = ' ';
        }
    }
    line[used++] = '\n';

    /* A log that nobody can write to is lost: there is nowhere to say so. */
    ssize_t r;
    do {
        r = write(__atomic_load_n(&log_fd, __ATOMIC_RELAXED), line, used);
    } while (r < 0 && errno == EINTR);
    errno = saved_errno;
}

bool log_limit_pass(struct log_limit *limit, unsigned burst)
{
    uint64_t now = clock_now_ns();

    if (limit->window_start_ns == 0 || now - limit->window_start_ns >= NSEC_PER_SEC) {
        if (limit->dropped > 0) {
            log_warn("%u more lines of this kind were dropped", limit->dropped);
        }
        limit->window_start_ns = now;
        limit->in_window = 0;
        limit->dropped = 0;
    }
    if (limit->in_window >= burst) {
        limit->dropped++;
        return false;
    }
    limit->in_window++;
    return true;
}
