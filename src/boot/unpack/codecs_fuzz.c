/* Fuzz target of the decompression in viv-unpack, without its sandbox: at most 4 MiB come out.
 */
#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/fuzz.h"
#include "boot/unpack/unpack.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    _cleanup_close_ int in = memfd_create("in", MFD_CLOEXEC);
    _cleanup_close_ int out = memfd_create("out", MFD_CLOEXEC);

    if (in < 0 || out < 0 || write(in, data, len) != (ssize_t)len) {
        abort();
    }
    struct unpack_stream s = {
        .in_fd = in, .out_fd = out, .in_left = len, .out_max = UINT64_C(4) << 20};
    unpack_run(&s);
    if (s.out_done > s.out_max) {
        abort();
    }
    return 0;
}

/* "Vivarium" and a newline in each format, with its size behind. */
static const struct {
    uint8_t len;
    uint8_t data[110];
} seeds[] = {
    {29, {0x1f, 0x8b, 8,    0,    0, 0, 0,    0,    2,    3,    0x0b, 0xcb, 0x2c, 0x4b, 0x2c,
          0xca, 0x2c, 0xcd, 0xe5, 2, 0, 0x5e, 0xf0, 0x2c, 0x3c, 9,    0,    0,    0}},
    {22, {0x02, 0x21, 0x4c, 0x18, 0x0a, 0,   0,    0, 0x90, 'V', 'i',
          'v',  'a',  'r',  'i',  'u',  'm', '\n', 9, 0,    0,   0}},
    {22, {0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x09, 0x49, 0, 0, 'V', 'i',
          'v',  'a',  'r',  'i',  'u',  'm',  '\n', 9, 0, 0,   0}},
    {20,
     {0xfd, '7', 'z', 'X', 'Z', 0, 0, 1, 0x69, 0x22, 0xde, 0x36, 2, 0, 0x21, 1, 9, 0, 0, 0}},
    {20, {0x5d, 0, 0, 0x10, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0x2b, 0x1a, 9, 0, 0, 0}},
    {20,
     {'B', 'Z', 'h', '9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, 1, 2, 3, 4, 5, 6, 9, 0, 0, 0}},
};

size_t fuzz_seed(unsigned index, uint8_t *buf, size_t cap)
{
    if (index >= ARRAY_LEN(seeds) || cap < seeds[index].len) {
        return 0;
    }
    memcpy(buf, seeds[index].data, seeds[index].len);
    return seeds[index].len;
}
