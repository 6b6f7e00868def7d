/*
 * Writes one JSON document (RFC 8259) into a growing buffer. Keys are given in order; a key is
 * NULL inside arrays and for the outermost value. Bytes that are not UTF-8 become U+FFFD, so
 * that the result is always valid. Failed allocation sticks: json_out_finish returns NULL. Not
 * thread-safe.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_out {
    char *buf;
    size_t len, cap;
    unsigned depth;
    bool failed, compact;
    bool has_items; /* the innermost object or array has at least one */
};

void json_out_init(struct json_out *out, bool compact);
void json_out_done(struct json_out *out);

void json_object_begin(struct json_out *out, const char *key);
void json_object_end(struct json_out *out);
void json_array_begin(struct json_out *out, const char *key);
void json_array_end(struct json_out *out);
void json_put_string(struct json_out *out, const char *key, const char *value); /* NULL: null */
void json_put_uint(struct json_out *out, const char *key, uint64_t value);
void json_put_double(struct json_out *out, const char *key, double value, unsigned decimals);
void json_put_bool(struct json_out *out, const char *key, bool value);
void json_put_null(struct json_out *out, const char *key);

/* The text with a final newline, owned by out; NULL when memory ran out. */
const char *json_out_finish(struct json_out *out, size_t *ret_len);
