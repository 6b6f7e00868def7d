/*
 * The host's /etc/resolv.conf for libslirp, inside a sandbox that opens no files: the process
 * splits in two. The parent reads the file whenever it changes, writes it to a socket, and ends
 * as the child ends; the child goes on, and libslirp's own look at the file is answered from
 * the last copy. So the guest follows the host to another network.
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>

/* Takes the first copy and forks: only the child returns. Call before the sandbox closes.
 * ret_fd: becomes readable when there is a new copy, and when the parent is gone. */
int resolv_start(int *ret_fd, struct err *err);

/* fd is readable: takes the new copy. Returns false when the parent is gone. */
bool resolv_update(int fd);
