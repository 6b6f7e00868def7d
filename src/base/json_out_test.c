/* JSON writer: structure, escapes, invalid UTF-8, numbers. */
#include "base/json_out.h"
#include "base/test.h"

#include <math.h>
#include <string.h>

static void a_document(void **state)
{
    (void)state;
    struct json_out o;
    size_t len;

    json_out_init(&o, true);
    json_object_begin(&o, NULL);
    json_put_string(&o, "s", "a\"b\\c\n");
    json_array_begin(&o, "a");
    json_put_uint(&o, NULL, UINT64_MAX);
    json_put_bool(&o, NULL, false);
    json_object_begin(&o, NULL);
    json_object_end(&o);
    json_array_end(&o);
    json_put_string(&o, "n", NULL);
    json_put_double(&o, "d", 1.25, 3);
    json_put_double(&o, "inf", (double)INFINITY, 3);
    json_object_end(&o);
    assert_string_equal(json_out_finish(&o, &len),
                        "{\"s\":\"a\\\"b\\\\c\\u000a\",\"a\":[18446744073709551615,false,{}],"
                        "\"n\":null,\"d\":1.250,\"inf\":null}\n");
    assert_int_equal(len, strlen(o.buf));
    json_out_done(&o);
}

static void indented(void **state)
{
    (void)state;
    struct json_out o;
    size_t len;

    json_out_init(&o, false);
    json_object_begin(&o, NULL);
    json_put_uint(&o, "x", 1);
    json_array_begin(&o, "y");
    json_array_end(&o);
    json_object_end(&o);
    assert_string_equal(json_out_finish(&o, &len), "{\n  \"x\": 1,\n  \"y\": []\n}\n");
    json_out_done(&o);
}

static void only_utf8_comes_out(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"\xc3\xa4", "\"\xc3\xa4\"\n"},
        {"\xc0\x80", "\"\\ufffd\\ufffd\"\n"},
        {"\xe2\x82\xac", "\"\xe2\x82\xac\"\n"},
        {"\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\"\n"},
        {"\xf0\x9f\x98\x80", "\"\xf0\x9f\x98\x80\"\n"},
        {"\xe2\x82", "\"\\ufffd\\ufffd\"\n"},
        {"\xff", "\"\\ufffd\"\n"},
        {"\x7f", "\"\\u007f\"\n"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct json_out o;
        size_t len;
        json_out_init(&o, false);
        json_put_string(&o, NULL, cases[i][0]);
        assert_string_equal(json_out_finish(&o, &len), cases[i][1]);
        json_out_done(&o);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_document),
        cmocka_unit_test(indented),
        cmocka_unit_test(only_utf8_comes_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
