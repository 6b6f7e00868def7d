/* Numbers and sizes: what is accepted, what is refused and how. */
#include "base/ckd.h"
#include "base/parse.h"
#include "base/test.h"

#include <errno.h>

static void sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int rc;
        uint64_t bytes;
    } cases[] = {
        {"512M", 0, 512 * MIB},
        {"2g", 0, 2 * GIB},
        {"2GiB", 0, 2 * GIB},
        {"2gb", 0, 2 * GIB},
        {"1.5G", 0, 1536 * MIB},
        {"4096", 0, 4096},
        {"4096B", 0, 4096},
        {"1T", 0, 1024 * GIB},
        {"2T", -ERANGE, 0},
        {"15E", -ERANGE, 0},
        {"0", -ERANGE, 0},
        {"99999999999999999999999M", -ERANGE, 0},
        {"17179869184G", -ERANGE, 0},
        {"", -EINVAL, 0},
        {"M", -EINVAL, 0},
        {"-1M", -EINVAL, 0},
        {"+1M", -EINVAL, 0},
        {" 1M", -EINVAL, 0},
        {"1M ", -EINVAL, 0},
        {"1Q", -EINVAL, 0},
        {"1MM", -EINVAL, 0},
        {"1.M", -EINVAL, 0},
        {".5G", -EINVAL, 0},
        {"0.3K", -EINVAL, 0}, /* 307.2 bytes */
        {"0x100M", -EINVAL, 0},
        {"1e9", -EINVAL, 0},
        {"1.0000000000M", -EINVAL, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t bytes = 77;
        int rc = parse_size(cases[i].text, 4096, 1024 * GIB, &bytes);
        if (rc != cases[i].rc) {
            fail_msg("%s: %d, want %d", cases[i].text, rc, cases[i].rc);
        }
        assert_int_equal(bytes, rc == 0 ? cases[i].bytes : 77);
    }
}

static void numbers(void **state)
{
    (void)state;
    uint64_t v = 5;

    assert_int_equal(parse_uint("64", 1, 64, &v), 0);
    assert_int_equal(v, 64);
    assert_int_equal(parse_uint("65", 1, 64, &v), -ERANGE);
    assert_int_equal(parse_uint("0", 1, 64, &v), -ERANGE);
    assert_int_equal(parse_uint("18446744073709551616", 1, 64, &v), -ERANGE);
    assert_int_equal(parse_uint("4x", 1, 64, &v), -EINVAL);
    assert_int_equal(parse_uint("-4", 1, 64, &v), -EINVAL);
    assert_int_equal(parse_uint("", 1, 64, &v), -EINVAL);
    assert_int_equal(v, 64);
}

static void formatting(void **state)
{
    (void)state;
    char buf[24];

    format_size(512 * MIB, buf, sizeof(buf));
    assert_string_equal(buf, "512M");
    format_size(1536 * MIB, buf, sizeof(buf));
    assert_string_equal(buf, "1536M");
    format_size(1023, buf, sizeof(buf));
    assert_string_equal(buf, "1023");
    format_size(0, buf, sizeof(buf));
    assert_string_equal(buf, "0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes),
        cmocka_unit_test(numbers),
        cmocka_unit_test(formatting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
