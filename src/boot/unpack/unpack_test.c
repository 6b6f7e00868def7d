/* The helper, by way of its caller: every format, damage, bombs, and helpers that misbehave. */
#include "base/test.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"
#include "boot/boot.h"
#include "boot/boot_priv.h"
#include "boot/boot_samples.h"
#include "mem/mem.h"

#include <bzlib.h>
#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <lzma.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#define PACKED_MAX (1u << 20)

/* Each packs len bytes into out (PACKED_MAX) and returns how many it made. */
typedef size_t pack_fn(const uint8_t *data, size_t len, uint8_t *out);

static size_t pack_gzip(const uint8_t *data, size_t len, uint8_t *out)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)data,
                  .avail_in = (uInt)len,
                  .next_out = out,
                  .avail_out = PACKED_MAX};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

static size_t pack_bzip2(const uint8_t *data, size_t len, uint8_t *out)
{
    unsigned n = PACKED_MAX;
    assert_int_equal(BZ2_bzBuffToBuffCompress((char *)out, &n, (char *)(uintptr_t)data,
                                              (unsigned)len, 9, 0, 0),
                     BZ_OK);
    return n;
}

static size_t pack_xz(const uint8_t *data, size_t len, uint8_t *out)
{
    size_t n = 0;
    assert_int_equal(
        lzma_easy_buffer_encode(1, LZMA_CHECK_CRC32, NULL, data, len, out, &n, PACKED_MAX),
        LZMA_OK);
    return n;
}

static size_t pack_lzma(const uint8_t *data, size_t len, uint8_t *out)
{
    lzma_stream l = LZMA_STREAM_INIT;
    lzma_options_lzma options;
    lzma_lzma_preset(&options, 1);
    assert_int_equal(lzma_alone_encoder(&l, &options), LZMA_OK);
    l.next_in = data;
    l.avail_in = len;
    l.next_out = out;
    l.avail_out = PACKED_MAX;
    assert_int_equal(lzma_code(&l, LZMA_FINISH), LZMA_STREAM_END);
    lzma_end(&l);
    return l.total_out;
}

static size_t pack_lz4(const uint8_t *data, size_t len, uint8_t *out)
{
    size_t at = 4, block = 8u << 20;
    put_le32(out, 0x184c2102);
    while (len > 0) {
        size_t n = MIN(len, block);
        int made = LZ4_compress_default((const char *)data, (char *)out + at + 4, (int)n,
                                        (int)(PACKED_MAX - at - 4));
        assert_true(made > 0);
        put_le32(out + at, (uint32_t)made);
        at += 4 + (size_t)made;
        data += n;
        len -= n;
    }
    return at;
}

static size_t pack_zstd(const uint8_t *data, size_t len, uint8_t *out)
{
    size_t n = ZSTD_compress(out, PACKED_MAX, data, len, 3);
    assert_false(ZSTD_isError(n));
    return n;
}

static const struct {
    const char *name;
    pack_fn *pack;
    bool own_size; /* the format ends with the size already */
} formats[] = {
    {"gzip", pack_gzip, true},  {"bzip2", pack_bzip2, false}, {"xz", pack_xz, false},
    {"lzma", pack_lzma, false}, {"lz4", pack_lz4, false},     {"zstd", pack_zstd, false},
};

static size_t pack(unsigned format, const uint8_t *data, size_t len, uint8_t *out)
{
    size_t n = formats[format].pack(data, len, out);
    if (!formats[format].own_size) {
        put_le32(out + n, (uint32_t)len);
        n += 4;
    }
    return n;
}

static struct boot_file file_of(const void *data, size_t len)
{
    struct boot_file f = {
        .fd = memfd_create("packed", MFD_CLOEXEC), .name = "test", .size = len};
    assert_true(f.fd >= 0);
    assert_int_equal(write(f.fd, data, len), len);
    return f;
}

static int unpack(const void *data, size_t len, uint64_t max, const char *helper, int *ret_fd,
                  struct err *err)
{
    struct boot_file f = file_of(data, len);
    memset(err, 0, sizeof(*err));
    int r = boot_unpack(&f, 0, len, max, helper, ret_fd, err);
    close(f.fd);
    return r;
}

/* Something like a kernel: parts that pack well and parts that do not. */
static uint8_t *make_content(size_t len)
{
    uint8_t *data = malloc(len);
    uint32_t x = 1;
    assert_non_null(data);
    for (size_t i = 0; i < len; i++) {
        x = x * 1664525u + 1013904223u;
        data[i] = (i >> 12) % 64 == 0 ? (uint8_t)(x >> 24) : (uint8_t)(i >> 8);
    }
    return data;
}

static void test_every_format(void **state)
{
    const size_t sizes[] = {1, 4096, 300000, 20u << 20};
    _cleanup_free_ uint8_t *content = make_content(20u << 20);
    _cleanup_free_ uint8_t *packed = malloc(PACKED_MAX + 4);
    _cleanup_free_ uint8_t *back = malloc(20u << 20);
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(formats); i++) {
        for (unsigned s = 0; s < ARRAY_LEN(sizes); s++) {
            struct err err;
            struct stat st;
            int fd = -1;
            size_t n = pack(i, content, sizes[s], packed);
            int r = unpack(packed, n, GIB, NULL, &fd, &err);
            if (r < 0) {
                print_error("%s, %zu bytes: %s\n", formats[i].name, sizes[s], err.text);
            }
            assert_int_equal(r, 0);
            assert_int_equal(fstat(fd, &st), 0);
            assert_int_equal(st.st_size, sizes[s]);
            assert_int_equal(pread(fd, back, sizes[s], 0), sizes[s]);
            assert_memory_equal(back, content, sizes[s]);
            assert_true(write(fd, "x", 1) < 0); /* sealed */
            close(fd);
        }
    }
}

static void test_damage(void **state)
{
    _cleanup_free_ uint8_t *content = make_content(100000);
    _cleanup_free_ uint8_t *packed = malloc(PACKED_MAX + 4);
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(formats); i++) {
        struct err err;
        int fd = -1;
        size_t n = pack(i, content, 100000, packed);
        /* Cut off. */
        assert_true(unpack(packed, n / 2, GIB, NULL, &fd, &err) < 0);
        assert_int_equal(err.code, ERR_IMAGE_BAD);
        /* A wrong size at the end. */
        packed[n - 4] ^= 1;
        assert_int_equal(unpack(packed, n, GIB, NULL, &fd, &err), -EBADMSG);
        packed[n - 4] ^= 1;
        /* Bytes changed all over. */
        for (size_t at = 16; at + 8 < n; at += 1 + n / 5) {
            packed[at] ^= 0x55;
            if (unpack(packed, n, GIB, NULL, &fd, &err) < 0) {
                assert_true(err.code == ERR_IMAGE_BAD || err.code == ERR_HELPER);
                assert_true(err.text[0] != '\0');
            } else {
                close(fd);
            }
            packed[at] ^= 0x55;
        }
    }
}

static void test_bomb(void **state)
{
    _cleanup_free_ uint8_t *content = calloc(1, 20u << 20);
    _cleanup_free_ uint8_t *packed = malloc(PACKED_MAX + 4);
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(formats); i++) {
        struct err err;
        int fd = -1;
        size_t n = pack(i, content, 20u << 20, packed);
        assert_int_equal(unpack(packed, n, MIB, NULL, &fd, &err), -EFBIG);
        assert_non_null(strstr(err.text, "more than 1 MiB"));
    }
}

static void test_unknown_and_tiny(void **state)
{
    struct err err;
    int fd = -1;
    (void)state;
    assert_int_equal(unpack("certainly not compressed", 24, GIB, NULL, &fd, &err), -ENOTSUP);
    assert_int_equal(unpack("\x1f\x8b", 2, GIB, NULL, &fd, &err), -ENOTSUP);
    assert_int_equal(unpack("\x1f\x8b", 0, GIB, NULL, &fd, &err), -ENOTSUP);
}

static void test_helpers_that_fail(void **state)
{
    struct err err;
    int fd = -1;
    (void)state;
    assert_int_equal(unpack("x", 1, GIB, "/nonexistent/viv-unpack", &fd, &err), -ENOENT);
    assert_int_equal(err.code, ERR_HELPER);
    assert_int_equal(unpack("x", 1, GIB, "/bin/false", &fd, &err), -EIO);
    assert_int_equal(err.code, ERR_HELPER);
    /* One that dies of a signal. */
    char path[] = "/tmp/viv-unpack-test-XXXXXX";
    int script = mkstemp(path);
    assert_true(script >= 0);
    static const char text[] = "#!/bin/sh\nkill -SEGV $$\n";
    assert_int_equal(write(script, text, sizeof(text) - 1), sizeof(text) - 1);
    assert_int_equal(fchmod(script, 0700), 0);
    close(script);
    assert_int_equal(unpack("x", 1, GIB, path, &fd, &err), -EIO);
    assert_non_null(strstr(err.text, "signal 11"));
    unlink(path);
    assert_int_equal(fd, -1);
}

/* All the way: a bzImage with an ELF inside starts at the ELF's entry. */
static void test_bzimage_with_payload(void **state)
{
    _cleanup_free_ uint8_t *file = calloc(1, PACKED_MAX);
    _cleanup_free_ uint8_t *packed = malloc(PACKED_MAX + 4);
    uint8_t elf[4096] = {0};
    struct sample inner = {.data = elf, .cap = sizeof(elf)};
    static struct boot_result res;
    (void)state;
    sample_elf(&inner, true, false, false);
    for (unsigned i = 0; i < ARRAY_LEN(formats); i++) {
        struct sample outer = {.data = file, .cap = PACKED_MAX};
        struct err err = {0};
        struct boot_map map;
        struct mem *mem;
        char text[sizeof(SAMPLE_CODE)];
        memset(file, 0, PACKED_MAX);
        sample_bzimage(&outer, packed, pack(i, elf, inner.len, packed));
        struct boot_file f = file_of(file, outer.len);
        assert_int_equal(mem_new(&mem, &err), 0);
        assert_int_equal(mem_slot_add(mem, GPA(0), 16 * MIB, MEM_RAM, &err), 0);
        assert_int_equal(boot_map_from_mem(&map, mem, &err), 0);
        struct boot_request req = {.mem = mem,
                                   .map = &map,
                                   .kernel = {.fd = f.fd, .name = "bz"},
                                   .initrd = {.fd = -1}};
        int r = boot_load(&req, &res, &err);
        if (r < 0) {
            print_error("%s: %s\n", formats[i].name, err.text);
        }
        assert_int_equal(r, 0);
        assert_int_equal(res.kind, BOOT_LINUX_UNPACKED);
        assert_int_equal(res.cpu.rip, SAMPLE_ENTRY);
        assert_int_equal(mem_read(mem, GPA(SAMPLE_LOAD + 0xa00), text, sizeof(text)), 0);
        assert_string_equal(text, SAMPLE_CODE);
        mem_free(mem);
        close(f.fd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_format),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_bomb),
        cmocka_unit_test(test_unknown_and_tiny),
        cmocka_unit_test(test_helpers_that_fail),
        cmocka_unit_test(test_bzimage_with_payload),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
