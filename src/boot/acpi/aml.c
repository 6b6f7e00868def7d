/*
 * AML writer (see aml.h). Encodings: ACPI 6.4, 20.2 (names 20.2.2, lengths 20.2.4) and 6.4
 * (resource descriptors). Host data only; no locks, nothing saved.
 */
#include "boot/acpi/aml.h"

#include "base/bytes.h"
#include "base/ckd.h"

#include <stdlib.h>
#include <string.h>

#define OP_NAME    0x08
#define OP_BUFFER  0x11
#define OP_PACKAGE 0x12
#define OP_METHOD  0x14
#define OP_SCOPE   0x10
#define OP_IF      0xa0
#define OP_ELSE    0xa1
#define OP_EXT     0x5b
#define OP_DEVICE  0x82 /* after OP_EXT */

#define AML_MAX (256u << 10)

void aml_init(struct aml *a)
{
    memset(a, 0, sizeof(*a));
}

void aml_done(struct aml *a)
{
    free(a->data);
    aml_init(a);
}

static bool reserve(struct aml *a, size_t n)
{
    if (a->failed || n > AML_MAX - a->len) {
        a->failed = true;
        return false;
    }
    if (a->len + n > a->cap) {
        size_t cap = MAX(a->cap * 2, (size_t)4096);
        while (cap < a->len + n) {
            cap *= 2;
        }
        uint8_t *data = realloc(a->data, cap);
        if (data == NULL) {
            a->failed = true;
            return false;
        }
        a->data = data;
        a->cap = cap;
    }
    return true;
}

static void put(struct aml *a, const void *data, size_t n)
{
    if (n > 0 && reserve(a, n)) {
        memcpy(a->data + a->len, data, n);
        a->len += n;
    }
}

void aml_byte(struct aml *a, uint8_t op)
{
    put(a, &op, 1);
}

/* A thing with a length that aml_end writes: here only its place is kept. */
static void open_length(struct aml *a)
{
    if (a->depth == AML_DEPTH_MAX) {
        a->failed = true;
        return;
    }
    a->open[a->depth++] = a->len;
}

/* PkgLength counts itself: one byte up to 63, else 4 + 8n bits. */
void aml_end(struct aml *a)
{
    uint8_t code[4];
    unsigned n = 1;

    if (a->depth == 0) {
        a->failed = true;
    }
    if (a->failed) {
        return;
    }
    size_t at = a->open[--a->depth], body = a->len - at;
    while (n < 4 && body + n > (n == 1 ? 63u : (1u << (4 + 8 * (n - 1))) - 1)) {
        n++;
    }
    size_t total = body + n;
    if (n == 1) {
        code[0] = (uint8_t)total;
    } else {
        code[0] = (uint8_t)((n - 1) << 6 | (total & 0xf));
        for (unsigned i = 1; i < n; i++) {
            code[i] = (uint8_t)(total >> (4 + 8 * (i - 1)));
        }
    }
    if (reserve(a, n)) {
        memmove(a->data + at + n, a->data + at, body);
        memcpy(a->data + at, code, n);
        a->len += n;
    }
}

/* One name segment, padded with underscores. Returns what follows it. */
static const char *put_segment(struct aml *a, const char *path)
{
    char seg[4] = {'_', '_', '_', '_'};
    size_t n = strcspn(path, ".");

    if (n == 0 || n > sizeof(seg)) {
        a->failed = true;
        return "";
    }
    memcpy(seg, path, n);
    put(a, seg, sizeof(seg));
    return path + n + (path[n] == '.');
}

void aml_path(struct aml *a, const char *path)
{
    uint8_t count = 1;

    if (*path == '\\') {
        aml_byte(a, '\\');
        path++;
    }
    for (const char *p = path; *p != '\0'; p++) {
        count = (uint8_t)(count + (*p == '.'));
    }
    if (count == 2) {
        aml_byte(a, 0x2e);
    } else if (count > 2) {
        aml_byte(a, 0x2f);
        aml_byte(a, count);
    }
    do {
        path = put_segment(a, path);
    } while (*path != '\0' && !a->failed);
}

void aml_scope(struct aml *a, const char *path)
{
    aml_byte(a, OP_SCOPE);
    open_length(a);
    aml_path(a, path);
}

void aml_device(struct aml *a, const char *name)
{
    aml_byte(a, OP_EXT);
    aml_byte(a, OP_DEVICE);
    open_length(a);
    aml_path(a, name);
}

void aml_method(struct aml *a, const char *name, unsigned n_args)
{
    aml_byte(a, OP_METHOD);
    open_length(a);
    aml_path(a, name);
    aml_byte(a, (uint8_t)(n_args & 7));
}

void aml_if(struct aml *a)
{
    aml_byte(a, OP_IF);
    open_length(a);
}

void aml_else(struct aml *a)
{
    aml_byte(a, OP_ELSE);
    open_length(a);
}

void aml_name(struct aml *a, const char *name)
{
    aml_byte(a, OP_NAME);
    aml_path(a, name);
}

void aml_int(struct aml *a, uint64_t value)
{
    uint8_t code[9] = {0};
    unsigned n;

    if (value <= 1) {
        aml_byte(a, (uint8_t)value);
        return;
    }
    put_le64(code + 1, value);
    if (value <= UINT8_MAX) {
        code[0] = 0x0a;
        n = 1;
    } else if (value <= UINT16_MAX) {
        code[0] = 0x0b;
        n = 2;
    } else if (value <= UINT32_MAX) {
        code[0] = 0x0c;
        n = 4;
    } else {
        code[0] = 0x0e;
        n = 8;
    }
    put(a, code, n + 1);
}

void aml_string(struct aml *a, const char *text)
{
    aml_byte(a, 0x0d);
    put(a, text, strlen(text) + 1);
}

void aml_buffer(struct aml *a, const void *data, size_t len)
{
    aml_byte(a, OP_BUFFER);
    open_length(a);
    aml_int(a, len);
    put(a, data, len);
    aml_end(a);
}

void aml_package(struct aml *a, uint8_t n)
{
    aml_byte(a, OP_PACKAGE);
    open_length(a);
    aml_byte(a, n);
}

void aml_name_int(struct aml *a, const char *name, uint64_t value)
{
    aml_name(a, name);
    aml_int(a, value);
}

void aml_name_string(struct aml *a, const char *name, const char *text)
{
    aml_name(a, name);
    aml_string(a, text);
}

static unsigned hex_digit(char c)
{
    return c >= 'A' ? (unsigned)(c - 'A') + 10 : (unsigned)(c - '0');
}

/* Three letters of five bits and four hex digits, big-endian. */
void aml_name_eisa(struct aml *a, const char *name, const char *id)
{
    uint32_t v = 0;

    if (strlen(id) != 7) {
        a->failed = true;
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        v = v << 5 | ((uint32_t)id[i] & 0x1f);
    }
    for (unsigned i = 3; i < 7; i++) {
        v = v << 4 | (hex_digit(id[i]) & 0xf);
    }
    aml_name(a, name);
    aml_int(a, __builtin_bswap32(v));
}

static void res_put(struct aml_res *r, const void *data, size_t n)
{
    if (n > sizeof(r->data) - r->len) {
        r->failed = true;
        return;
    }
    memcpy(r->data + r->len, data, n);
    r->len += n;
}

void aml_res_io(struct aml_res *r, uint16_t base, uint8_t len)
{
    uint8_t d[8] = {0x47, 1 /* decodes 16 bits */};

    put_le16(d + 2, base);
    put_le16(d + 4, base);
    d[6] = 1;
    d[7] = len;
    res_put(r, d, sizeof(d));
}

void aml_res_irq(struct aml_res *r, unsigned irq)
{
    uint8_t d[3] = {0x22};

    put_le16(d + 1, (uint16_t)(1u << (irq & 15)));
    res_put(r, d, sizeof(d));
}

void aml_res_memory32(struct aml_res *r, uint32_t base, uint32_t size, bool writable)
{
    uint8_t d[12] = {0x86, 9, 0, writable};

    put_le32(d + 4, base);
    put_le32(d + 8, size);
    res_put(r, d, sizeof(d));
}

/* Word, DWord and QWord address space: what differs is the width. min and max are fixed. */
static void res_window(struct aml_res *r, uint8_t tag, unsigned width, uint8_t type,
                       uint8_t flags, uint64_t first, uint64_t last)
{
    uint8_t d[46] = {tag, 0, 0, type, 0x0c, flags};
    uint64_t fields[5] = {0, first, last, 0, last - first + 1};

    put_le16(d + 1, (uint16_t)(3 + 5 * width));
    for (unsigned i = 0; i < 5; i++) {
        uint8_t v[8];
        put_le64(v, fields[i]);
        memcpy(d + 6 + i * width, v, width);
    }
    res_put(r, d, 6 + 5 * (size_t)width);
}

void aml_res_bus(struct aml_res *r, uint16_t first, uint16_t last)
{
    res_window(r, 0x88, 2, 2, 0, first, last);
}

void aml_res_io_window(struct aml_res *r, uint16_t first, uint16_t last)
{
    res_window(r, 0x88, 2, 1, 3 /* whole range: ISA and others */, first, last);
}

void aml_res_memory_window(struct aml_res *r, uint64_t first, uint64_t last, bool is64)
{
    res_window(r, is64 ? 0x8a : 0x87, is64 ? 8 : 4, 0, 1 /* read-write, not cached */, first,
               last);
}

void aml_name_res(struct aml *a, const char *name, struct aml_res *r)
{
    static const uint8_t end_tag[2] = {0x79, 0};

    res_put(r, end_tag, sizeof(end_tag));
    a->failed |= r->failed;
    aml_name(a, name);
    aml_buffer(a, r->data, r->len);
}
