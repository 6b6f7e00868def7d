/*
 * The state stream: what a VM is, as a sequence of named sections.
 *
 *     stream  := magic "VIVSTATE" u32 format  section*  end
 *     section := u16 name_len name  u32 instance  u32 version  field*  end-of-section
 *     field   := u8 name_len name  u8 kind  u32 len  bytes
 *     end-of-section := u8 0      end := u16 0
 *
 * Names are 1 to 255 printable ASCII characters; no section and no field of a section occurs
 * twice. kind 0 is an array of little-endian integers, kind 1 is bytes.
 *
 * All integers little-endian. A writer fills a growing buffer (RAM pages go elsewhere). A
 * reader looks a section up by (name, instance) and a field by name, refuses unknown fields and
 * sections by name at state_reader_finish, and never trusts a length. Errors stick: check once
 * at the end.
 *
 * Devices describe themselves with tables of fields:
 *     static const struct state_field fields[] = {
 *         STATE_U8(struct uart, ier), STATE_BYTES(struct uart, fifo), STATE_END};
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct state_writer;
struct state_reader;

/* BOOL is UINT in the stream; the reader refuses values other than 0 and 1. */
enum state_kind { STATE_KIND_UINT, STATE_KIND_BYTES, STATE_KIND_BOOL };

struct state_field {
    const char *name;
    enum state_kind kind;
    uint32_t offset;
    uint32_t size;  /* bytes of one element: 1, 2, 4, 8 for UINT; whole length for BYTES */
    uint32_t count; /* elements, for UINT arrays */
};

#define STATE_UINT_N(type, member, n)                                                          \
    {                                                                                          \
#member,                                                                                  \
     _Generic(((type *)0)->member, bool: STATE_KIND_BOOL, bool *: STATE_KIND_BOOL,             \
              default: STATE_KIND_UINT),                                                       \
     offsetof(type, member), sizeof(((type *)0)->member) / (n), (n)    \
    }
#define STATE_UINT(type, member)                                                               \
    STATE_UINT_N(type, member, 1) /* any 1,2,4,8-byte integer, bool */
#define STATE_UINTS(type, member)                                                              \
    STATE_UINT_N(type, member, sizeof(((type *)0)->member) / sizeof(((type *)0)->member[0]))
#define STATE_BYTES(type, member)                                                              \
    {                                                                                          \
#member, STATE_KIND_BYTES, offsetof(type, member), sizeof(((type *)0)->member), 1      \
    }
#define STATE_END                                                                              \
    {                                                                                          \
        NULL, STATE_KIND_UINT, 0, 0, 0                                                         \
    }

int state_writer_new(struct state_writer **ret_writer, struct err *err);
void state_writer_free(struct state_writer *w);
void state_begin(struct state_writer *w, const char *section, uint32_t instance,
                 uint32_t version);
void state_put_fields(struct state_writer *w, const struct state_field *fields,
                      const void *object);
void state_put_uint(struct state_writer *w, const char *name, uint64_t value);
void state_put_bytes(struct state_writer *w, const char *name, const void *data, size_t len);
void state_end(struct state_writer *w);
/* Closes the stream. The buffer is owned by the writer. -ENOMEM if any allocation failed. */
int state_writer_finish(struct state_writer *w, const void **ret_data, size_t *ret_len);

/* data is borrowed for the reader's life; the whole framing is validated here. */
int state_reader_new(struct state_reader **ret_reader, const void *data, size_t len,
                     struct err *err);
void state_reader_free(struct state_reader *r);
/* Enters a section; its version must be in [1, max_version] and is returned. */
int state_enter(struct state_reader *r, const char *section, uint32_t instance,
                uint32_t max_version, uint32_t *ret_version, struct err *err);
/* Every field of the table must be there with the same size, unless since > version (later). */
int state_get_fields(struct state_reader *r, const struct state_field *fields, void *object,
                     struct err *err);
int state_get_uint(struct state_reader *r, const char *name, uint64_t *ret_value,
                   struct err *err);
/* Exactly len bytes. */
int state_get_bytes(struct state_reader *r, const char *name, void *data, size_t len,
                    struct err *err);
/* Borrowed pointer into the stream, any length up to max_len. */
int state_get_blob(struct state_reader *r, const char *name, size_t max_len,
                   const void **ret_data, size_t *ret_len, struct err *err);
/* Leaves the section: a field of it that nobody read is an error that names it. */
int state_leave(struct state_reader *r, struct err *err);
/* A section that nobody entered is an error that names it. */
int state_reader_finish(struct state_reader *r, struct err *err);
