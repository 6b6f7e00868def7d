/* Error reports: text, codes, one-line rule, prefixes, and that success leaves them alone. */
#include "base/err.h"
#include "base/test.h"

#include <errno.h>
#include <string.h>

static void report_fills_everything(void **state)
{
    (void)state;
    struct err err = {0};
    int r = ERR(&err, IMAGE_BAD, EINVAL, "kernel %s: magic 0x%x", "vmlinuz", 0x12u);

    assert_int_equal(r, -EINVAL);
    assert_int_equal(err.code, ERR_IMAGE_BAD);
    assert_int_equal(err.errnum, EINVAL);
    assert_non_null(strstr(err.file, "err_test.c"));
    assert_string_equal(err.text, "kernel vmlinuz: magic 0x12");
}

static void no_errno_is_eio_and_null_is_allowed(void **state)
{
    (void)state;
    assert_int_equal(ERR(NULL, IO, 0, "text"), -EIO);
    err_prefix(NULL, "what");
}

static void text_stays_one_line_and_in_bounds(void **state)
{
    (void)state;
    struct err err = {0};
    char longer[2000];

    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    ERR(&err, IO, EIO, "a\nb\x1b[2J%s", longer);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    assert_null(strchr(err.text, '\n'));
    assert_null(strchr(err.text, '\x1b'));
}

static void report_may_quote_its_own_text(void **state)
{
    (void)state;
    struct err err = {0};

    ERR(&err, IO, EIO, "inner");
    ERR(&err, HELPER, EIO, "outer (%s)", err.text);
    assert_string_equal(err.text, "outer (inner)");
    err_prefix(&err, "disk %d", 3);
    assert_string_equal(err.text, "disk 3: outer (inner)");
}

static void codes_have_names_and_statuses(void **state)
{
    (void)state;
    assert_string_equal(err_code_name(ERR_SPEC_BAD), "spec-bad");
    assert_int_equal(err_exit_status(ERR_USAGE), 2);
    assert_int_equal(err_exit_status(ERR_GUEST_CRASH), 3);
    assert_int_equal(err_exit_status(ERR_NONE), 0);
    assert_int_equal(err_exit_status((enum err_code)1000), 1);
    assert_string_equal(err_code_name((enum err_code)1000), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(report_fills_everything),
        cmocka_unit_test(no_errno_is_eio_and_null_is_allowed),
        cmocka_unit_test(text_stays_one_line_and_in_bounds),
        cmocka_unit_test(report_may_quote_its_own_text),
        cmocka_unit_test(codes_have_names_and_statuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
