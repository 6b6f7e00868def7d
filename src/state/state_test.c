/* State stream: round trips, and every way in which a stream is refused, by name. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/test.h"
#include "state/state.h"

#include <errno.h>
#include <string.h>

struct chip {
    uint8_t ier;
    uint16_t words[3];
    uint64_t deadline_ns;
    bool on;
    bool flags[4];
    uint8_t fifo[16];
};

static const struct state_field chip_fields[] = {STATE_UINT(struct chip, ier),
                                                 STATE_UINTS(struct chip, words),
                                                 STATE_UINT(struct chip, deadline_ns),
                                                 STATE_UINT(struct chip, on),
                                                 STATE_UINTS(struct chip, flags),
                                                 STATE_BYTES(struct chip, fifo),
                                                 STATE_END};

static const struct chip sample = {.ier = 3,
                                   .words = {1, 2, 0xffff},
                                   .deadline_ns = UINT64_C(1) << 60,
                                   .on = true,
                                   .flags = {true, false, true, false},
                                   .fifo = "fifteen bytes!!"};

static void write_sample(struct state_writer **ret_w, const void **ret_data, size_t *ret_len)
{
    struct state_writer *w;

    assert_int_equal(state_writer_new(&w, NULL), 0);
    state_begin(w, "uart", 0, 2);
    state_put_fields(w, chip_fields, &sample);
    state_end(w);
    state_begin(w, "uart", 1, 1);
    state_put_uint(w, "n", 42);
    state_put_bytes(w, "blob", "abc", 3);
    state_put_bytes(w, "empty", NULL, 0);
    state_end(w);
    state_begin(w, "nothing", 0, 1);
    state_end(w);
    assert_int_equal(state_writer_finish(w, ret_data, ret_len), 0);
    *ret_w = w;
}

struct fix {
    struct state_writer *w;
    struct state_reader *r;
    const void *data;
    size_t len;
    struct err err;
};

static int setup(void **state)
{
    struct fix *f = calloc(1, sizeof(*f));

    write_sample(&f->w, &f->data, &f->len);
    assert_int_equal(state_reader_new(&f->r, f->data, f->len, &f->err), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fix *f = *state;

    state_reader_free(f->r);
    state_writer_free(f->w);
    free(f);
    return 0;
}

static void what_was_saved_is_loaded(void **state)
{
    struct fix *f = *state;
    struct chip chip = {0};
    uint32_t version = 0;
    uint64_t n = 0;
    const void *blob;
    size_t len;

    /* Sections may be read in any order. */
    assert_int_equal(state_enter(f->r, "nothing", 0, 1, &version, &f->err), 0);
    assert_int_equal(state_leave(f->r, &f->err), 0);
    assert_int_equal(state_enter(f->r, "uart", 1, 9, &version, &f->err), 0);
    assert_int_equal(version, 1);
    assert_int_equal(state_get_uint(f->r, "n", &n, &f->err), 0);
    assert_int_equal(n, 42);
    assert_int_equal(state_get_blob(f->r, "blob", 3, &blob, &len, &f->err), 0);
    assert_int_equal(len, 3);
    assert_memory_equal(blob, "abc", 3);
    assert_int_equal(state_get_bytes(f->r, "empty", NULL, 0, &f->err), 0);
    assert_int_equal(state_leave(f->r, &f->err), 0);
    assert_int_equal(state_enter(f->r, "uart", 0, 2, &version, &f->err), 0);
    assert_int_equal(version, 2);
    assert_int_equal(state_get_fields(f->r, chip_fields, &chip, &f->err), 0);
    assert_int_equal(state_leave(f->r, &f->err), 0);
    assert_int_equal(state_reader_finish(f->r, &f->err), 0);

    assert_int_equal(chip.ier, sample.ier);
    assert_memory_equal(chip.words, sample.words, sizeof(sample.words));
    assert_int_equal(chip.deadline_ns, sample.deadline_ns);
    assert_true(chip.on && chip.flags[2] && !chip.flags[3]);
    assert_memory_equal(chip.fifo, sample.fifo, sizeof(sample.fifo));
}

static void the_first_failure_sticks(void **state)
{
    struct fix *f = *state;
    uint32_t version;
    uint64_t n;

    assert_int_equal(state_enter(f->r, "pit", 0, 1, &version, &f->err), -EINVAL);
    assert_string_equal(f->err.text, "saved state: no section pit[0]");
    struct err again = {0};
    assert_int_equal(state_enter(f->r, "uart", 0, 2, &version, &again), -EINVAL);
    assert_int_equal(state_get_uint(f->r, "n", &n, &again), -EINVAL);
    assert_int_equal(state_leave(f->r, &again), -EINVAL);
    assert_int_equal(state_reader_finish(f->r, &again), -EINVAL);
    assert_string_equal(again.text, f->err.text);
}

static void newer_versions_are_refused(void **state)
{
    struct fix *f = *state;
    uint32_t version;

    assert_int_equal(state_enter(f->r, "uart", 0, 1, &version, &f->err), -EINVAL);
    assert_non_null(strstr(f->err.text, "uart[0] has version 2"));
}

static void unknown_and_missing_fields_are_named(void **state)
{
    struct fix *f = *state;
    uint32_t version;
    uint64_t n;

    assert_int_equal(state_enter(f->r, "uart", 1, 1, &version, &f->err), 0);
    assert_int_equal(state_get_uint(f->r, "n", &n, &f->err), 0);
    assert_int_equal(state_leave(f->r, &f->err), -EINVAL);
    assert_non_null(strstr(f->err.text, "unknown field blob"));
}

static void a_missing_field_is_named(void **state)
{
    struct fix *f = *state;
    uint32_t version;
    struct chip chip;

    assert_int_equal(state_enter(f->r, "uart", 1, 1, &version, &f->err), 0);
    assert_int_equal(state_get_fields(f->r, chip_fields, &chip, &f->err), -EINVAL);
    assert_non_null(strstr(f->err.text, "field ier is missing"));
}

static void sizes_and_kinds_must_match(void **state)
{
    struct fix *f = *state;
    uint32_t version;
    uint8_t buf[4];

    assert_int_equal(state_enter(f->r, "uart", 1, 1, &version, &f->err), 0);
    assert_int_equal(state_get_bytes(f->r, "blob", buf, 4, &f->err), -EINVAL);
    assert_non_null(strstr(f->err.text, "data of 3 bytes, want data of 4"));
}

static void a_blob_has_a_limit(void **state)
{
    struct fix *f = *state;
    uint32_t version;
    const void *p;
    size_t len;

    assert_int_equal(state_enter(f->r, "uart", 1, 1, &version, &f->err), 0);
    assert_int_equal(state_get_blob(f->r, "blob", 2, &p, &len, &f->err), -EINVAL);
}

static void unknown_sections_are_named(void **state)
{
    struct fix *f = *state;

    assert_int_equal(state_reader_finish(f->r, &f->err), -EINVAL);
    assert_string_equal(f->err.text, "saved state: unknown section nothing[0]");
}

static void every_cut_is_refused(void **state)
{
    struct fix *f = *state;

    for (size_t n = 0; n < f->len; n++) {
        struct state_reader *r;
        uint8_t *copy = malloc(n + 1);
        memcpy(copy, f->data, n);
        uint8_t *exact = realloc(copy, n > 0 ? n : 1);
        assert_int_equal(state_reader_new(&r, exact, n, &f->err), -EINVAL);
        free(exact);
    }
    struct state_reader *r;
    uint8_t *longer = malloc(f->len + 1);
    memcpy(longer, f->data, f->len);
    longer[f->len] = 0;
    assert_int_equal(state_reader_new(&r, longer, f->len + 1, &f->err), -EINVAL);
    assert_non_null(strstr(f->err.text, "1 bytes after its end"));
    free(longer);
}

/* A raw stream of one section "s" with the given field bytes. */
static int read_raw(const void *fields, size_t len, struct err *err)
{
    uint8_t b[256];
    size_t n = 0;
    struct state_reader *r;

    memcpy(b, "VIVSTATE\1\0\0\0\1\0s\0\0\0\0\1\0\0\0", 23);
    n = 23;
    memcpy(b + n, fields, len);
    n += len;
    memcpy(b + n, "\0\0\0", 3);
    int rc = state_reader_new(&r, b, n + 3, err);
    if (rc == 0) {
        state_reader_free(r);
    }
    return rc;
}

static void bad_framing_is_refused(void **state)
{
    struct fix *f = *state;

    assert_int_equal(read_raw("\1a\0\1\0\0\0x", 8, &f->err), 0);
    assert_int_equal(read_raw("\1a\0\1\0\0\0x\1a\0\1\0\0\0y", 16, &f->err), -EINVAL);
    assert_non_null(strstr(f->err.text, "section s: field a occurs twice"));
    assert_int_equal(read_raw("\1\n\0\0\0\0\0", 7, &f->err), -EINVAL);
    assert_non_null(strstr(f->err.text, "bad name"));
    assert_int_equal(read_raw("\1a\2\0\0\0\0", 7, &f->err), -EINVAL);
    assert_non_null(strstr(f->err.text, "kind"));
    assert_int_equal(read_raw("\1a\0\xff\xff\xff\xff", 7, &f->err), -EINVAL);
    assert_non_null(strstr(f->err.text, "cut off"));
}

static void a_bool_is_zero_or_one(void **state)
{
    (void)state;
    static const struct state_field on[] = {STATE_UINT(struct chip, on), STATE_END};
    struct state_writer *w;
    struct state_reader *r;
    struct chip chip = sample;
    const void *data;
    size_t len;
    uint32_t version;
    struct err err;

    assert_int_equal(state_writer_new(&w, NULL), 0);
    state_begin(w, "c", 0, 1);
    state_put_fields(w, on, &chip);
    state_end(w);
    assert_int_equal(state_writer_finish(w, &data, &len), 0);
    uint8_t *copy = malloc(len);
    memcpy(copy, data, len);
    copy[len - 4] = 2; /* before the ends of section and stream */
    assert_int_equal(state_reader_new(&r, copy, len, &err), 0);
    assert_int_equal(state_enter(r, "c", 0, 1, &version, &err), 0);
    assert_int_equal(state_get_fields(r, on, &chip, &err), -EINVAL);
    assert_non_null(strstr(err.text, "field on is 2, want 0 or 1"));
    assert_true(chip.on);
    state_reader_free(r);
    state_writer_free(w);
    free(copy);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(what_was_saved_is_loaded),
        T(the_first_failure_sticks),
        T(newer_versions_are_refused),
        T(unknown_and_missing_fields_are_named),
        T(a_missing_field_is_named),
        T(sizes_and_kinds_must_match),
        T(a_blob_has_a_limit),
        T(unknown_sections_are_named),
        T(every_cut_is_refused),
        T(bad_framing_is_refused),
        cmocka_unit_test(a_bool_is_zero_or_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
