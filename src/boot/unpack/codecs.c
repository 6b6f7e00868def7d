/*
 * Decompression of kernel payloads: gzip, bzip2, xz, lzma, lz4 (legacy frames), zstd, by the
 * distribution's libraries. Linux appends the unpacked size as four bytes to every format (gzip
 * has it anyway); output must match it. Single thread, no state kept.
 */
#include "boot/unpack/unpack.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"

#include <bzlib.h>
#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <stdbool.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define CHUNK       (256u << 10)
#define LZ4_BLOCK   (8u << 20) /* legacy frames: unpacked bytes of a block */
#define LZ4_MAGIC   0x184c2102u
#define XZ_MEMLIMIT (UINT64_C(256) << 20)

/* Fills buf with up to len bytes of input; 0 at its end, -1 when unreadable. */
static ssize_t in_read(struct unpack_stream *s, void *buf, size_t len)
{
    size_t want = (size_t)MIN(len, s->in_left), done = 0;

    while (done < want) {
        ssize_t n = pread(s->in_fd, (uint8_t *)buf + done, want - done, (off_t)s->in_off);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return -1;
        }
        done += (size_t)n;
        s->in_off += (uint64_t)n;
        s->in_left -= (uint64_t)n;
    }
    return (ssize_t)done;
}

static enum unpack_status out_write(struct unpack_stream *s, const void *buf, size_t len)
{
    size_t done = 0;

    if (len > s->out_max - s->out_done) {
        return UNPACK_TOO_LARGE;
    }
    while (done < len) {
        ssize_t n = write(s->out_fd, (const uint8_t *)buf + done, len - done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return UNPACK_IO;
        }
        done += (size_t)n;
    }
    s->out_done += len;
    return UNPACK_OK;
}

/* One step of a streaming library: consumes *in, fills *out. */
enum step { STEP_MORE, STEP_END, STEP_BAD, STEP_NOMEM };

struct step_io {
    const uint8_t *in;
    size_t in_len;
    uint8_t *out;
    size_t out_len;
};

typedef enum step step_fn(void *codec, struct step_io *io);

static enum unpack_status pump(struct unpack_stream *s, step_fn *step, void *codec)
{
    _cleanup_free_ uint8_t *in = malloc(CHUNK);
    _cleanup_free_ uint8_t *out = malloc(CHUNK);
    struct step_io io = {.in = in};

    if (in == NULL || out == NULL) {
        return UNPACK_INTERNAL;
    }
    for (;;) {
        if (io.in_len == 0) {
            ssize_t n = in_read(s, in, CHUNK);
            if (n < 0) {
                return UNPACK_IO;
            }
            io.in = in;
            io.in_len = (size_t)n;
        }
        io.out = out;
        io.out_len = CHUNK;
        size_t before = io.in_len;
        enum step r = step(codec, &io);
        size_t made = CHUNK - io.out_len;
        if (r == STEP_NOMEM) {
            return UNPACK_INTERNAL;
        }
        if (r == STEP_BAD || (r == STEP_MORE && made == 0 && before == io.in_len)) {
            return UNPACK_CORRUPT;
        }
        enum unpack_status w = out_write(s, out, made);
        if (w != UNPACK_OK || r == STEP_END) {
            return w;
        }
    }
}

static enum step step_gzip(void *codec, struct step_io *io)
{
    z_stream *z = codec;

    z->next_in = (Bytef *)(uintptr_t)io->in;
    z->avail_in = (uInt)io->in_len;
    z->next_out = io->out;
    z->avail_out = (uInt)io->out_len;
    int r = inflate(z, Z_NO_FLUSH);
    io->in = z->next_in;
    io->in_len = z->avail_in;
    io->out_len = z->avail_out;
    if (r == Z_STREAM_END) {
        return STEP_END;
    }
    return r == Z_OK || r == Z_BUF_ERROR ? STEP_MORE : r == Z_MEM_ERROR ? STEP_NOMEM : STEP_BAD;
}

static enum unpack_status unpack_gzip(struct unpack_stream *s)
{
    z_stream z = {0};

    if (inflateInit2(&z, 15 + 16) != Z_OK) {
        return UNPACK_INTERNAL;
    }
    enum unpack_status r = pump(s, step_gzip, &z);
    inflateEnd(&z);
    return r;
}

static enum step step_bzip2(void *codec, struct step_io *io)
{
    bz_stream *b = codec;

    b->next_in = (char *)(uintptr_t)io->in;
    b->avail_in = (unsigned)io->in_len;
    b->next_out = (char *)io->out;
    b->avail_out = (unsigned)io->out_len;
    int r = BZ2_bzDecompress(b);
    io->in = (const uint8_t *)b->next_in;
    io->in_len = b->avail_in;
    io->out_len = b->avail_out;
    if (r == BZ_STREAM_END) {
        return STEP_END;
    }
    return r == BZ_OK ? STEP_MORE : r == BZ_MEM_ERROR ? STEP_NOMEM : STEP_BAD;
}

static enum unpack_status unpack_bzip2(struct unpack_stream *s)
{
    bz_stream b = {0};

    if (BZ2_bzDecompressInit(&b, 0, 0) != BZ_OK) {
        return UNPACK_INTERNAL;
    }
    enum unpack_status r = pump(s, step_bzip2, &b);
    BZ2_bzDecompressEnd(&b);
    return r;
}

static enum step step_lzma(void *codec, struct step_io *io)
{
    lzma_stream *l = codec;

    l->next_in = io->in;
    l->avail_in = io->in_len;
    l->next_out = io->out;
    l->avail_out = io->out_len;
    lzma_ret r = lzma_code(l, LZMA_RUN);
    io->in = l->next_in;
    io->in_len = l->avail_in;
    io->out_len = l->avail_out;
    if (r == LZMA_STREAM_END) {
        return STEP_END;
    }
    if (r == LZMA_MEM_ERROR || r == LZMA_MEMLIMIT_ERROR) {
        return STEP_NOMEM;
    }
    return r == LZMA_OK ? STEP_MORE : STEP_BAD;
}

static enum unpack_status unpack_lzma(struct unpack_stream *s, bool xz)
{
    lzma_stream l = LZMA_STREAM_INIT;
    lzma_ret init =
        xz ? lzma_stream_decoder(&l, XZ_MEMLIMIT, 0) : lzma_alone_decoder(&l, XZ_MEMLIMIT);

    if (init != LZMA_OK) {
        return UNPACK_INTERNAL;
    }
    enum unpack_status r = pump(s, step_lzma, &l);
    lzma_end(&l);
    return r;
}

static enum step step_zstd(void *codec, struct step_io *io)
{
    ZSTD_inBuffer in = {.src = io->in, .size = io->in_len};
    ZSTD_outBuffer out = {.dst = io->out, .size = io->out_len};
    size_t r = ZSTD_decompressStream(codec, &out, &in);

    io->in += in.pos;
    io->in_len -= in.pos;
    io->out_len -= out.pos;
    if (ZSTD_isError(r)) {
        return STEP_BAD;
    }
    return r == 0 ? STEP_END : STEP_MORE;
}

static enum unpack_status unpack_zstd(struct unpack_stream *s)
{
    ZSTD_DStream *z = ZSTD_createDStream();

    if (z == NULL || ZSTD_isError(ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, 27))) {
        ZSTD_freeDStream(z);
        return UNPACK_INTERNAL;
    }
    enum unpack_status r = pump(s, step_zstd, z);
    ZSTD_freeDStream(z);
    return r;
}

/* Legacy lz4: magic, then blocks of (length, data), each 8 MiB when unpacked but the last. */
static enum unpack_status unpack_lz4(struct unpack_stream *s)
{
    size_t in_cap = (size_t)LZ4_compressBound(LZ4_BLOCK);
    _cleanup_free_ uint8_t *in = malloc(in_cap);
    _cleanup_free_ uint8_t *out = malloc(LZ4_BLOCK);
    uint8_t word[4];

    if (in == NULL || out == NULL) {
        return UNPACK_INTERNAL;
    }
    /* What remains of four bytes is the size that Linux appends. */
    while (s->in_left > sizeof(word)) {
        if (in_read(s, word, sizeof(word)) != sizeof(word)) {
            return UNPACK_IO;
        }
        uint32_t len = get_le32(word);
        if (len == LZ4_MAGIC) {
            continue;
        }
        if (len == 0 || len > in_cap || len > s->in_left) {
            return UNPACK_CORRUPT;
        }
        if (in_read(s, in, len) != (ssize_t)len) {
            return UNPACK_IO;
        }
        int n = LZ4_decompress_safe((const char *)in, (char *)out, (int)len, LZ4_BLOCK);
        if (n < 0) {
            return UNPACK_CORRUPT;
        }
        enum unpack_status w = out_write(s, out, (size_t)n);
        if (w != UNPACK_OK) {
            return w;
        }
    }
    return UNPACK_OK;
}

static enum unpack_status dispatch(struct unpack_stream *s, const uint8_t *m)
{
    if (m[0] == 0x1f && m[1] == 0x8b) {
        return unpack_gzip(s);
    }
    if (memcmp(m, "BZh", 3) == 0) {
        return unpack_bzip2(s);
    }
    if (memcmp(m,
               "\xfd"
               "7zXZ",
               6) == 0) {
        return unpack_lzma(s, true);
    }
    if (m[0] == 0x5d && m[1] == 0 && m[2] == 0) {
        return unpack_lzma(s, false);
    }
    if (get_le32(m) == LZ4_MAGIC) {
        return unpack_lz4(s);
    }
    if (get_le32(m) == ZSTD_MAGICNUMBER) {
        return unpack_zstd(s);
    }
    return UNPACK_UNKNOWN;
}

enum unpack_status unpack_run(struct unpack_stream *s)
{
    uint64_t off = s->in_off, len = s->in_left;
    uint8_t magic[8], tail[4];

    if (len < sizeof(magic) + sizeof(tail)) {
        return UNPACK_UNKNOWN;
    }
    if (in_read(s, magic, sizeof(magic)) < 0) {
        return UNPACK_IO;
    }
    s->in_off = off + len - sizeof(tail);
    s->in_left = sizeof(tail);
    if (in_read(s, tail, sizeof(tail)) < 0) {
        return UNPACK_IO;
    }
    s->tail = get_le32(tail);
    s->in_off = off;
    s->in_left = len;
    enum unpack_status r = dispatch(s, magic);
    if (r == UNPACK_OK && (uint32_t)s->out_done != s->tail) {
        return UNPACK_CORRUPT;
    }
    return r;
}
