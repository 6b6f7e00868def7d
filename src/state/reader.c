/*
 * Reader of the state stream (format in state.h). The stream may come from anyone: its whole
 * framing is checked once, into an index of sections and fields sorted by name, and only the
 * index is used afterwards. The first failure sticks: every later call returns it. One thread
 * at a time.
 */
#include "state/state.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"
#include "state/state_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct field {
    const uint8_t *name, *data;
    uint32_t len;
    uint8_t name_len, kind;
    bool read;
};

struct section {
    const uint8_t *name;
    uint16_t name_len;
    bool entered;
    uint32_t instance, version;
    size_t first, count; /* fields, sorted by name */
};

struct state_reader {
    struct section *sections;
    struct field *fields;
    size_t n_sections, sections_cap, n_fields, fields_cap;
    struct section *current;
    int failed; /* negative errno of the first failure */
    struct err err;
};

struct cursor {
    const uint8_t *p;
    size_t left;
};

static const uint8_t *cursor_take(struct cursor *c, size_t n)
{
    if (n > c->left) {
        return NULL;
    }
    const uint8_t *p = c->p;
    c->p += n;
    c->left -= n;
    return p;
}

static bool name_ok(const uint8_t *name, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (name[i] < 0x21 || name[i] > 0x7e) {
            return false;
        }
    }
    return len > 0 && len <= STATE_NAME_MAX;
}

/* Order of names: by bytes, a prefix first. */
static int name_cmp(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
    int d = memcmp(a, b, MIN(a_len, b_len));

    return d != 0 ? d : (a_len > b_len) - (a_len < b_len);
}

static int field_cmp(const void *a, const void *b)
{
    const struct field *x = a, *y = b;

    return name_cmp(x->name, x->name_len, y->name, y->name_len);
}

static int section_cmp(const void *a, const void *b)
{
    const struct section *x = a, *y = b;
    int d = name_cmp(x->name, x->name_len, y->name, y->name_len);

    return d != 0 ? d : (x->instance > y->instance) - (x->instance < y->instance);
}

static int array_grow(void *array_ptr, size_t n, size_t *cap, size_t size)
{
    void **array = array_ptr;

    if (n < *cap) {
        return 0;
    }
    size_t want = *cap == 0 ? 64 : *cap * 2;
    void *p = reallocarray(*array, want, size);
    if (p == NULL) {
        return -ENOMEM;
    }
    *array = p;
    *cap = want;
    return 0;
}

enum parse { PARSE_OK, PARSE_END, PARSE_SHORT, PARSE_NAME, PARSE_KIND, PARSE_NOMEM };

static enum parse parse_field(struct state_reader *r, struct cursor *c)
{
    struct field f = {0};
    const uint8_t *p = cursor_take(c, 1);

    if (p == NULL) {
        return PARSE_SHORT;
    }
    f.name_len = *p;
    if (f.name_len == 0) {
        return PARSE_END;
    }
    f.name = cursor_take(c, f.name_len);
    p = f.name == NULL ? NULL : cursor_take(c, 5);
    if (p == NULL) {
        return PARSE_SHORT;
    }
    if (!name_ok(f.name, f.name_len)) {
        return PARSE_NAME;
    }
    f.kind = p[0];
    f.len = get_le32(p + 1);
    if (f.kind > 1) {
        return PARSE_KIND;
    }
    f.data = cursor_take(c, f.len);
    if (f.data == NULL) {
        return PARSE_SHORT;
    }
    if (array_grow(&r->fields, r->n_fields, &r->fields_cap, sizeof(f)) < 0) {
        return PARSE_NOMEM;
    }
    r->fields[r->n_fields++] = f;
    return PARSE_OK;
}

static enum parse parse_section(struct state_reader *r, struct cursor *c)
{
    struct section s = {.first = r->n_fields};
    const uint8_t *p = cursor_take(c, 2);

    if (p == NULL) {
        return PARSE_SHORT;
    }
    s.name_len = get_le16(p);
    if (s.name_len == 0) {
        return PARSE_END;
    }
    s.name = cursor_take(c, s.name_len);
    p = s.name == NULL ? NULL : cursor_take(c, 8);
    if (p == NULL) {
        return PARSE_SHORT;
    }
    if (!name_ok(s.name, s.name_len)) {
        return PARSE_NAME;
    }
    s.instance = get_le32(p);
    s.version = get_le32(p + 4);

    enum parse what;
    do {
        what = parse_field(r, c);
    } while (what == PARSE_OK);
    if (what != PARSE_END) {
        return what;
    }
    s.count = r->n_fields - s.first;
    if (array_grow(&r->sections, r->n_sections, &r->sections_cap, sizeof(s)) < 0) {
        return PARSE_NOMEM;
    }
    r->sections[r->n_sections++] = s;
    return PARSE_OK;
}

static int check_twice(struct state_reader *r, struct err *err)
{
    if (r->n_sections > 0) {
        qsort(r->sections, r->n_sections, sizeof(r->sections[0]), section_cmp);
    }
    for (size_t i = 0; i < r->n_sections; i++) {
        const struct section *s = &r->sections[i];
        if (i > 0 && section_cmp(s - 1, s) == 0) {
            return ERR(err, STATE_BAD, EINVAL,
                       "saved state: section %.*s[%" PRIu32 "] occurs twice", s->name_len,
                       (const char *)s->name, s->instance);
        }
        if (s->count == 0 || r->fields == NULL) {
            continue;
        }
        struct field *f = &r->fields[s->first];
        qsort(f, s->count, sizeof(*f), field_cmp);
        for (size_t k = 1; k < s->count; k++) {
            if (field_cmp(&f[k - 1], &f[k]) == 0) {
                return ERR(err, STATE_BAD, EINVAL,
                           "saved state: section %.*s: field %.*s occurs twice", s->name_len,
                           (const char *)s->name, f[k].name_len, (const char *)f[k].name);
            }
        }
    }
    return 0;
}

static int parse_stream(struct state_reader *r, const uint8_t *data, size_t len,
                        struct err *err)
{
    struct cursor c = {.p = data, .left = len};
    const uint8_t *p = cursor_take(&c, STATE_MAGIC_LEN + 4);

    if (p == NULL || memcmp(p, STATE_MAGIC, STATE_MAGIC_LEN) != 0) {
        return ERR(err, STATE_BAD, EINVAL, "saved state: does not begin with %s", STATE_MAGIC);
    }
    uint32_t format = get_le32(p + STATE_MAGIC_LEN);
    if (format != STATE_FORMAT) {
        return ERR(err, STATE_BAD, EINVAL,
                   "saved state: format %" PRIu32 ", this program reads format %u", format,
                   STATE_FORMAT);
    }
    enum parse what;
    do {
        what = parse_section(r, &c);
    } while (what == PARSE_OK);

    size_t at = len - c.left;
    switch (what) {
    case PARSE_OK:
    case PARSE_END: break;
    case PARSE_SHORT:
        return ERR(err, STATE_BAD, EINVAL,
                   "saved state: cut off: something at byte %zu goes past the end (%zu)", at,
                   len);
    case PARSE_NAME:
        return ERR(err, STATE_BAD, EINVAL, "saved state: bad name before byte %zu", at);
    case PARSE_KIND:
        return ERR(err, STATE_BAD, EINVAL, "saved state: bad field kind before byte %zu", at);
    case PARSE_NOMEM: return ERR(err, NO_MEMORY, ENOMEM, "no memory to load a state");
    }
    if (c.left != 0) {
        return ERR(err, STATE_BAD, EINVAL, "saved state: %zu bytes after its end", c.left);
    }
    return check_twice(r, err);
}

int state_reader_new(struct state_reader **ret_reader, const void *data, size_t len,
                     struct err *err)
{
    struct state_reader *r = calloc(1, sizeof(*r));
    if (r == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory to load a state");
    }
    int rc = parse_stream(r, data, len, err);
    if (rc < 0) {
        state_reader_free(r);
        return rc;
    }
    *ret_reader = r;
    return 0;
}

void state_reader_free(struct state_reader *r)
{
    if (r != NULL) {
        free(r->sections);
        free(r->fields);
        free(r);
    }
}

/* Gives the caller the failure that sticks. */
static int reader_failed(const struct state_reader *r, struct err *err)
{
    if (err != NULL) {
        *err = r->err;
    }
    return r->failed;
}

#define FAIL(r, err, ...)                                                                      \
    ((r)->failed = ERR(&(r)->err, STATE_BAD, EINVAL, __VA_ARGS__), reader_failed((r), (err)))

int state_enter(struct state_reader *r, const char *section, uint32_t instance,
                uint32_t max_version, uint32_t *ret_version, struct err *err)
{
    if (r->failed < 0) {
        return reader_failed(r, err);
    }
    struct section key = {.name = (const uint8_t *)section,
                          .name_len = (uint16_t)strnlen(section, STATE_NAME_MAX + 1),
                          .instance = instance};
    struct section *s = r->n_sections == 0 ? NULL
                                           : bsearch(&key, r->sections, r->n_sections,
                                                     sizeof(key), section_cmp);
    if (s == NULL) {
        return FAIL(r, err, "saved state: no section %s[%" PRIu32 "]", section, instance);
    }
    if (s->version == 0 || s->version > max_version) {
        return FAIL(r, err,
                    "saved state: section %s[%" PRIu32 "] has version %" PRIu32
                    ", this program reads 1 to %" PRIu32,
                    section, instance, s->version, max_version);
    }
    s->entered = true;
    r->current = s;
    *ret_version = s->version;
    return 0;
}

/* The field, marked as read; NULL after failure. want_len -1: any. */
static struct field *find_field(struct state_reader *r, const char *name, uint8_t kind,
                                int64_t want_len, struct err *err)
{
    if (r->failed < 0) {
        reader_failed(r, err);
        return NULL;
    }
    const struct section *s = r->current;
    if (s == NULL) {
        FAIL(r, err, "saved state: field %s asked for outside a section", name);
        return NULL;
    }
    struct field key = {.name = (const uint8_t *)name,
                        .name_len = (uint8_t)strnlen(name, STATE_NAME_MAX)};
    struct field *f =
        s->count == 0 ? NULL
                      : bsearch(&key, &r->fields[s->first], s->count, sizeof(key), field_cmp);
    if (f == NULL) {
        FAIL(r, err, "saved state: section %.*s[%" PRIu32 "]: field %s is missing", s->name_len,
             (const char *)s->name, s->instance, name);
        return NULL;
    }
    if (f->kind != kind || (want_len >= 0 && f->len != (uint64_t)want_len)) {
        FAIL(r, err,
             "saved state: section %.*s[%" PRIu32 "]: field %s is %s of %" PRIu32
             " bytes, want %s of %" PRId64,
             s->name_len, (const char *)s->name, s->instance, name,
             f->kind == 1 ? "data" : "integers", f->len, kind == 1 ? "data" : "integers",
             want_len);
        return NULL;
    }
    f->read = true;
    return f;
}

int state_get_fields(struct state_reader *r, const struct state_field *fields, void *object,
                     struct err *err)
{
    for (const struct state_field *want = fields; want->name != NULL; want++) {
        size_t len = (size_t)want->size * want->count;
        const struct field *f = find_field(
            r, want->name, want->kind == STATE_KIND_BYTES ? 1 : 0, (int64_t)len, err);
        if (f == NULL) {
            return r->failed;
        }
        for (size_t i = 0; want->kind == STATE_KIND_BOOL && i < len; i++) {
            if (f->data[i] > 1) {
                return FAIL(r, err, "saved state: section %.*s: field %s is %u, want 0 or 1",
                            r->current->name_len, (const char *)r->current->name, want->name,
                            f->data[i]);
            }
        }
        memcpy((uint8_t *)object + want->offset, f->data, len);
    }
    return 0;
}

int state_get_uint(struct state_reader *r, const char *name, uint64_t *ret_value,
                   struct err *err)
{
    const struct field *f = find_field(r, name, 0, 8, err);

    if (f == NULL) {
        return r->failed;
    }
    *ret_value = get_le64(f->data);
    return 0;
}

int state_get_bytes(struct state_reader *r, const char *name, void *data, size_t len,
                    struct err *err)
{
    const struct field *f = find_field(r, name, 1, (int64_t)len, err);

    if (f == NULL) {
        return r->failed;
    }
    if (len > 0) {
        memcpy(data, f->data, len);
    }
    return 0;
}

int state_get_blob(struct state_reader *r, const char *name, size_t max_len,
                   const void **ret_data, size_t *ret_len, struct err *err)
{
    const struct field *f = find_field(r, name, 1, -1, err);

    if (f == NULL) {
        return r->failed;
    }
    if (f->len > max_len) {
        return FAIL(
            r, err,
            "saved state: section %.*s: field %s has %" PRIu32 " bytes, at most %zu are "
            "possible",
            r->current->name_len, (const char *)r->current->name, name, f->len, max_len);
    }
    *ret_data = f->data;
    *ret_len = f->len;
    return 0;
}

int state_leave(struct state_reader *r, struct err *err)
{
    if (r->failed < 0) {
        return reader_failed(r, err);
    }
    const struct section *s = r->current;
    for (size_t i = 0; s != NULL && i < s->count; i++) {
        const struct field *f = &r->fields[s->first + i];
        if (!f->read) {
            return FAIL(r, err, "saved state: section %.*s[%" PRIu32 "]: unknown field %.*s",
                        s->name_len, (const char *)s->name, s->instance, f->name_len,
                        (const char *)f->name);
        }
    }
    r->current = NULL;
    return 0;
}

int state_reader_finish(struct state_reader *r, struct err *err)
{
    if (r->failed < 0) {
        return reader_failed(r, err);
    }
    for (size_t i = 0; i < r->n_sections; i++) {
        const struct section *s = &r->sections[i];
        if (!s->entered) {
            return FAIL(r, err, "saved state: unknown section %.*s[%" PRIu32 "]", s->name_len,
                        (const char *)s->name, s->instance);
        }
    }
    return 0;
}
