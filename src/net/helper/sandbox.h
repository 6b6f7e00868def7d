/*
 * The helper locks itself in: resource limits, no root, no capabilities, no new privileges, no
 * files (Landlock where the kernel has it, system call filter always), no other system calls
 * than listed. Everything that needs more is done before.
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>

enum sandbox_kind {
    SANDBOX_STACK,       /* Internet sockets, memory, time */
    SANDBOX_FILE_READER, /* reads files, writes to open descriptors */
};

#define SANDBOX_MAX_FDS 1024

/* Returns -errno when the filter cannot be set; err may be NULL. What the kernel lacks
 * (Landlock), or refuses because we have no rights to drop, is left out silently. */
int sandbox_enter(enum sandbox_kind kind, struct err *err);

/* Whether this build refuses what it should kill for (it has a sanitizer's runtime). For tests.
 */
bool sandbox_refuses(void);
