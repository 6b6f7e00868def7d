/*
 * viv-unpack: unpacks the compressed kernel inside a bzImage, in a process that can do nothing
 * else.
 *
 *     viv-unpack OFFSET LENGTH MAX     input is descriptor 3 (read by position), output 4
 *
 * The result is the exit status; a signal means that the helper was stopped or crashed.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define UNPACK_HELPER "viv-unpack"
#define UNPACK_FD_IN  3
#define UNPACK_FD_OUT 4

enum unpack_status {
    UNPACK_OK = 0,
    UNPACK_INTERNAL = 70, /* wrong arguments, no memory, sandbox refused */
    UNPACK_UNKNOWN,       /* no format we know */
    UNPACK_CORRUPT,
    UNPACK_TOO_LARGE, /* more than MAX */
    UNPACK_IO,        /* input unreadable, output full */
};

struct unpack_stream {
    int in_fd, out_fd;
    uint64_t in_off, in_left;   /* input not yet read */
    uint64_t out_done, out_max; /* bytes written */
    uint32_t tail;              /* last four bytes of the input: the unpacked size */
};

/* Decides by the magic number and unpacks all of it. */
enum unpack_status unpack_run(struct unpack_stream *s);

/* Gives up everything but reading, writing and memory. 0 or -errno. */
int unpack_sandbox(uint64_t out_max);
