/*
 * Log lines on stderr (or a descriptor): "viv: warn: text". The level and the descriptor are
 * the only process-wide state of this library. Thread-safe; one write(2) per line, so lines do
 * not mix. Data-path code never logs above debug; use log_ratelimited for what a guest can
 * trigger.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_setup(const char *program, enum log_level max_level, int fd);
bool log_enabled(enum log_level level);
void log_write(enum log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)                                                                         \
    do {                                                                                       \
        if (log_enabled(LOG_LEVEL_DEBUG)) {                                                    \
            log_write(LOG_LEVEL_DEBUG, __VA_ARGS__);                                           \
        }                                                                                      \
    } while (0)

/* At most `burst` lines, then one each second; says how many were dropped. Zero-initialise. */
struct log_limit {
    uint64_t window_start_ns;
    unsigned in_window;
    unsigned dropped;
};
bool log_limit_pass(struct log_limit *limit, unsigned burst);
