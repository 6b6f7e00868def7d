/* JSON writer (RFC 8259). A struct json_out belongs to one thread; no locks. */
#include "base/json_out.h"

#include "base/ckd.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void json_out_init(struct json_out *out, bool compact)
{
    *out = (struct json_out){.compact = compact};
}

void json_out_done(struct json_out *out)
{
    free(out->buf);
    *out = (struct json_out){0};
}

static void put(struct json_out *out, const char *text, size_t len)
{
    size_t need;

    if (out->failed || !ckd_add(out->len, len + 1, &need)) {
        out->failed = true;
        return;
    }
    if (need > out->cap) {
        size_t cap = MAX(need, MAX(out->cap * 2, (size_t)512));
        char *buf = realloc(out->buf, cap);
        if (buf == NULL) {
            out->failed = true;
            return;
        }
        out->buf = buf;
        out->cap = cap;
    }
    memcpy(out->buf + out->len, text, len);
    out->len += len;
    out->buf[out->len] = '\0';
}

static void puts_out(struct json_out *out, const char *text)
{
    put(out, text, strlen(text));
}

static void newline(struct json_out *out)
{
    if (out->compact) {
        return;
    }
    puts_out(out, "\n");
    for (unsigned i = 0; i < out->depth; i++) {
        puts_out(out, "  ");
    }
}

/* Length of the valid UTF-8 sequence at p (RFC 3629), 0 if there is none. */
static size_t utf8_len(const unsigned char *p)
{
    static const struct {
        unsigned char first_lo, first_hi, second_lo, second_hi;
        size_t len;
    } forms[] = {
        {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
        {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
        {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    if (p[0] < 0x80) {
        return 1;
    }
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        if (p[0] < forms[i].first_lo || p[0] > forms[i].first_hi || p[1] < forms[i].second_lo ||
            p[1] > forms[i].second_hi) {
            continue;
        }
        for (size_t k = 2; k < forms[i].len; k++) {
            if (p[k] < 0x80 || p[k] > 0xbf) {
                return 0;
            }
        }
        return forms[i].len;
    }
    return 0;
}

static void put_quoted(struct json_out *out, const char *text)
{
    const unsigned char *p = (const unsigned char *)text;

    puts_out(out, "\"");
    while (*p != '\0') {
        size_t n = utf8_len(p);
        char esc[8];
        if (*p == '"' || *p == '\\') {
            snprintf(esc, sizeof(esc), "\\%c", *p);
            puts_out(out, esc);
        } else if (*p < 0x20 || *p == 0x7f) {
            snprintf(esc, sizeof(esc), "\\u%04x", *p);
            puts_out(out, esc);
        } else if (n == 0) {
            puts_out(out, "\\ufffd");
        } else {
            put(out, (const char *)p, n);
        }
        p += n == 0 ? 1 : n;
    }
    puts_out(out, "\"");
}

static void item(struct json_out *out, const char *key)
{
    if (out->has_items) {
        puts_out(out, ",");
    }
    if (out->depth > 0) {
        newline(out);
    }
    if (key != NULL) {
        put_quoted(out, key);
        puts_out(out, out->compact ? ":" : ": ");
    }
    out->has_items = true;
}

static void begin(struct json_out *out, const char *key, const char *bracket)
{
    item(out, key);
    puts_out(out, bracket);
    out->depth++;
    out->has_items = false;
}

static void end(struct json_out *out, const char *bracket)
{
    out->depth--;
    if (out->has_items) {
        newline(out);
    }
    puts_out(out, bracket);
    out->has_items = true;
}

void json_object_begin(struct json_out *out, const char *key)
{
    begin(out, key, "{");
}

void json_object_end(struct json_out *out)
{
    end(out, "}");
}

void json_array_begin(struct json_out *out, const char *key)
{
    begin(out, key, "[");
}

void json_array_end(struct json_out *out)
{
    end(out, "]");
}

void json_put_string(struct json_out *out, const char *key, const char *value)
{
    if (value == NULL) {
        json_put_null(out, key);
        return;
    }
    item(out, key);
    put_quoted(out, value);
}

void json_put_uint(struct json_out *out, const char *key, uint64_t value)
{
    char text[24];

    item(out, key);
    snprintf(text, sizeof(text), "%" PRIu64, value);
    puts_out(out, text);
}

void json_put_double(struct json_out *out, const char *key, double value, unsigned decimals)
{
    char text[64];

    if (!isfinite(value) || fabs(value) > 1e30) { /* JSON has no word for infinity */
        json_put_null(out, key);
        return;
    }
    item(out, key);
    snprintf(text, sizeof(text), "%.*f", (int)MIN(decimals, 9u), value);
    puts_out(out, text);
}

void json_put_bool(struct json_out *out, const char *key, bool value)
{
    item(out, key);
    puts_out(out, value ? "true" : "false");
}

void json_put_null(struct json_out *out, const char *key)
{
    item(out, key);
    puts_out(out, "null");
}

const char *json_out_finish(struct json_out *out, size_t *ret_len)
{
    puts_out(out, "\n");
    if (out->failed) {
        return NULL;
    }
    *ret_len = out->len;
    return out->buf;
}
