/*
 * viv-unpack (see unpack.h): arguments, sandbox, unpack, exit status. Started by boot_unpack
 * with nothing but its two descriptors and an empty environment.
 */
#include "base/parse.h"
#include "boot/unpack/unpack.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifndef VIV_VERSION
#define VIV_VERSION "unknown"
#endif

int main(int argc, char **argv)
{
    struct unpack_stream s = {.in_fd = UNPACK_FD_IN, .out_fd = UNPACK_FD_OUT};

    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        puts("viv-unpack " VIV_VERSION);
        return 0;
    }
    if (argc != 4 || parse_uint(argv[1], 0, INT64_MAX, &s.in_off) < 0 ||
        parse_uint(argv[2], 0, INT64_MAX, &s.in_left) < 0 ||
        parse_uint(argv[3], 0, INT64_MAX, &s.out_max) < 0) {
        fputs("viv-unpack is started by viv-vmm: viv-unpack OFFSET LENGTH MAX\n", stderr);
        return UNPACK_INTERNAL;
    }
    /* Ours are all close-on-exec; this is for those of whoever else starts us. */
    close_range(UNPACK_FD_OUT + 1, ~0u, 0);
    if (unpack_sandbox(s.out_max) < 0) {
        return UNPACK_INTERNAL;
    }
    _exit((int)unpack_run(&s));
}
