/*
 * Writer of the state stream (format in state.h). Bytes gather in one growing buffer. Failure
 * to grow sticks and is reported once, by state_writer_finish. Names and the order of calls
 * come from our own code, so mistakes in them are assertions. One thread at a time.
 */
#include "state/state.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "state/state_priv.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct state_writer {
    uint8_t *data;
    size_t len, cap;
    bool failed, in_section, finished;
};

/* Space for n more bytes, or NULL after an allocation failed. */
static uint8_t *grow(struct state_writer *w, size_t n)
{
    size_t need;

    if (w->failed || !ckd_add(w->len, n, &need)) {
        w->failed = true;
        return NULL;
    }
    if (need > w->cap) {
        size_t cap = MAX(MAX(need, w->cap + w->cap / 2), (size_t)4096);
        uint8_t *data = realloc(w->data, cap);
        if (data == NULL) {
            w->failed = true;
            return NULL;
        }
        w->data = data;
        w->cap = cap;
    }
    uint8_t *p = w->data + w->len;
    w->len = need;
    return p;
}

static void put_raw(struct state_writer *w, const void *data, size_t len)
{
    uint8_t *p = grow(w, len);

    if (p != NULL && len > 0) {
        memcpy(p, data, len);
    }
}

static void put_u8(struct state_writer *w, uint8_t v)
{
    put_raw(w, &v, 1);
}

static void put_u16(struct state_writer *w, uint16_t v)
{
    uint8_t b[2];

    put_le16(b, v);
    put_raw(w, b, sizeof(b));
}

static void put_u32(struct state_writer *w, uint32_t v)
{
    uint8_t b[4];

    put_le32(b, v);
    put_raw(w, b, sizeof(b));
}

int state_writer_new(struct state_writer **ret_writer, struct err *err)
{
    struct state_writer *w = calloc(1, sizeof(*w));
    if (w == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory to save a state");
    }
    put_raw(w, STATE_MAGIC, STATE_MAGIC_LEN);
    put_u32(w, STATE_FORMAT);
    *ret_writer = w;
    return 0;
}

void state_writer_free(struct state_writer *w)
{
    if (w != NULL) {
        free(w->data);
        free(w);
    }
}

void state_begin(struct state_writer *w, const char *section, uint32_t instance,
                 uint32_t version)
{
    size_t n = strlen(section);

    assert(!w->in_section && !w->finished && n > 0 && n <= STATE_NAME_MAX && version > 0);
    w->in_section = true;
    put_u16(w, (uint16_t)n);
    put_raw(w, section, n);
    put_u32(w, instance);
    put_u32(w, version);
}

static void put_header(struct state_writer *w, const char *name, enum state_kind kind,
                       size_t len)
{
    size_t n = strlen(name);

    assert(w->in_section && n > 0 && n <= STATE_NAME_MAX && len <= UINT32_MAX);
    put_u8(w, (uint8_t)n);
    put_raw(w, name, n);
    put_u8(w, kind == STATE_KIND_BYTES ? 1 : 0);
    put_u32(w, (uint32_t)len);
}

void state_put_fields(struct state_writer *w, const struct state_field *fields,
                      const void *object)
{
    /* x86-64 keeps integers little-endian in memory, so both kinds are plain copies. */
    for (const struct state_field *f = fields; f->name != NULL; f++) {
        size_t len = (size_t)f->size * f->count;
        put_header(w, f->name, f->kind, len);
        put_raw(w, (const uint8_t *)object + f->offset, len);
    }
}

void state_put_uint(struct state_writer *w, const char *name, uint64_t value)
{
    uint8_t b[8];

    put_le64(b, value);
    put_header(w, name, STATE_KIND_UINT, sizeof(b));
    put_raw(w, b, sizeof(b));
}

void state_put_bytes(struct state_writer *w, const char *name, const void *data, size_t len)
{
    put_header(w, name, STATE_KIND_BYTES, len);
    put_raw(w, data, len);
}

void state_end(struct state_writer *w)
{
    assert(w->in_section);
    w->in_section = false;
    put_u8(w, 0);
}

int state_writer_finish(struct state_writer *w, const void **ret_data, size_t *ret_len)
{
    assert(!w->in_section);
    if (!w->finished) {
        put_u16(w, 0);
        w->finished = true;
    }
    if (w->failed) {
        return -ENOMEM;
    }
    *ret_data = w->data;
    *ret_len = w->len;
    return 0;
}
