/* VM spec parser: defaults, every key, every refusal by path, and what the writer writes. */
#include "base/ckd.h"
#include "base/json_out.h"
#include "base/test.h"
#include "vmm/spec_parse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void defaults(void **state)
{
    (void)state;
    static const char text[] = "{\"version\":1,\"boot\":{\"kernel\":\"k\"}}";
    struct machine_config cfg;
    struct err err = {0};

    assert_int_equal(spec_parse(&cfg, text, strlen(text), &err), 0);
    assert_string_equal(cfg.name, "vm");
    assert_string_equal(cfg.engine, "auto");
    assert_string_equal(cfg.kernel, "k");
    assert_null(cfg.initrd);
    assert_int_equal(cfg.n_cpus, 1);
    assert_int_equal(cfg.memory_bytes, 512 * MIB);
    assert_int_equal(cfg.n_disks + cfg.n_nets, 0);
    assert_int_equal(cfg.console, MACHINE_CONSOLE_STDIO);
    machine_config_done(&cfg);
}

static const char full[] =
    "{\"version\":1,\"name\":\"web-1\",\"cpus\":4,\"memory_bytes\":2147483648,\"engine\":"
    "\"soft\","
    "\"boot\":{\"kernel\":\"/k\",\"initrd\":\"/i\",\"cmdline\":\"a=b\"},"
    "\"disks\":[{\"path\":\"/"
    "d0\",\"readonly\":true,\"serial\":\"S1\"},{\"path\":\"d1\",\"readonly\""
    ":false}],"
    "\"nets\":[{\"kind\":\"user\",\"mac\":\"02:56:49:56:00:07\",\"hostfwd\":[\"tcp:127.0.0.1:"
    "2222-:"
    "22\"]}],"
    "\"console\":{\"kind\":\"file\",\"path\":\"/c\"},\"metrics\":\"/"
    "m\",\"test_device\":true}\n";

static void every_key_and_back(void **state)
{
    (void)state;
    struct machine_config cfg;
    struct err err = {0};
    struct json_out out;
    size_t len;

    assert_int_equal(spec_parse(&cfg, full, strlen(full), &err), 0);
    assert_int_equal(cfg.n_cpus, 4);
    assert_true(cfg.disks[0].readonly && !cfg.disks[1].readonly);
    assert_string_equal(cfg.disks[0].serial, "S1");
    assert_int_equal(cfg.nets[0].mac[5], 7);
    assert_int_equal(cfg.nets[0].rules[0].guest_port, 22);
    assert_int_equal(cfg.console, MACHINE_CONSOLE_FILE);
    json_out_init(&out, true);
    machine_config_write(&cfg, &out);
    assert_string_equal(json_out_finish(&out, &len), full);
    json_out_done(&out);
    machine_config_done(&cfg);
}

static void refusals_name_the_key(void **state)
{
    (void)state;
#define B "\"boot\":{\"kernel\":\"k\"}"
#define V "\"version\":1,"
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "line 1"},
        {"[1]", "want an object"},
        {"{\"version\":1}", "boot is missing"},
        {"{" B "}", "version is missing"},
        {"{\"version\":2," B "}", "version: want an integer from 1 to 1"},
        {"{" V B ",\"colour\":1}", "unknown key colour"},
        {"{" V B ",\"cpus\":1,\"cpus\":2}", "duplicate"},
        {"{" V B ",\"cpus\":0}", "cpus: want an integer from 1 to 64"},
        {"{" V B ",\"cpus\":65}", "cpus: want"},
        {"{" V B ",\"cpus\":1.5}", "cpus: want"},
        {"{" V B ",\"cpus\":-1}", "cpus: want"},
        {"{" V B ",\"cpus\":\"1\"}", "cpus: want"},
        {"{" V B ",\"cpus\":null}", "cpus: want"},
        {"{" V B ",\"memory_bytes\":1e400}", "line 1"},
        {"{" V B ",\"memory_bytes\":18446744073709551615}", "line 1"},
        {"{" V B ",\"memory_bytes\":2097153}", "multiple of 4096"},
        {"{" V B ",\"memory_bytes\":1099511631872}", "memory_bytes: want"},
        {"{" V B ",\"engine\":\"tcg\"}",
         "engine: want \"auto\" or \"kvm\" or \"soft\" or \"interp\""},
        {"{" V B ",\"name\":\"a/b\"}", "name 'a/b'"},
        {"{" V B ",\"name\":\"a\\u0000b\"}", "line 1"},
        {"{" V "\"boot\":{}}", "boot.kernel is missing"},
        {"{" V "\"boot\":{\"kernel\":\"\"}}", "boot.kernel"},
        {"{" V "\"boot\":{\"kernel\":\"k\",\"x\":1}}", "unknown key boot.x"},
        {"{" V "\"boot\":[]}", "boot: want an object"},
        {"{" V B ",\"disks\":{}}", "disks: want an array"},
        {"{" V B ",\"disks\":[{\"path\":\"a\"},{}]}", "disks[1].path is missing"},
        {"{" V B ",\"disks\":[{\"path\":\"a\",\"readonly\":1}]}",
         "disks[0].readonly: want true"},
        {"{" V B ",\"disks\":[{\"path\":\"a\",\"format\":\"qcow2\"}]}",
         "unknown key disks[0].format"},
        {"{" V B ",\"disks\":[{\"path\":\"a\",\"serial\":\"123456789012345678901\"}]}",
         "disks[0].serial"},
        {"{" V B ",\"nets\":[{\"kind\":\"tap\"}]}", "nets[0].kind: want \"none\" or \"user\""},
        {"{" V B ",\"nets\":[{\"kind\":\"user\",\"mac\":\"01:00:00:00:00:00\"}]}",
         "nets[0].mac"},
        {"{" V B ",\"nets\":[{\"kind\":\"user\",\"hostfwd\":[\"x\"]}]}", "nets[0].hostfwd[0]"},
        {"{" V B ",\"nets\":[{\"kind\":\"user\",\"mac\":\"02:00:00:00:00:01\"},"
         "{\"kind\":\"user\",\"mac\":\"02:00:00:00:00:01\"}]}",
         "nets[1].mac is also that of nets[0]"},
        {"{" V B ",\"console\":{\"kind\":\"file\"}}", "console.path"},
        {"{" V B ",\"console\":{\"kind\":\"stdio\",\"path\":\"x\"}}", "console.path"},
        {"{" V B "} trailing", "line 1"},
        {"{" V B ",\"name\":\"\xff\"}", "line 1"},
    };
#undef B
#undef V
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct machine_config cfg;
        struct err err = {0};
        int r = spec_parse(&cfg, cases[i].text, strlen(cases[i].text), &err);
        if (r >= 0 || err.code != ERR_SPEC_BAD || strstr(err.text, cases[i].says) == NULL) {
            fail_msg("%s: %d '%s', want '%s'", cases[i].text, r, err.text, cases[i].says);
        }
    }
}

static void depth_and_size_are_bounded(void **state)
{
    (void)state;
    struct machine_config cfg;
    struct err err = {0};
    size_t len = SPEC_MAX_BYTES + 1;
    char *deep = malloc(len);

    memset(deep, '[', len);
    assert_int_equal(spec_parse(&cfg, deep, len, &err), -E2BIG);
    assert_int_equal(spec_parse(&cfg, deep, 100000, &err), -EINVAL);
    free(deep);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(every_key_and_back),
        cmocka_unit_test(refusals_name_the_key),
        cmocka_unit_test(depth_and_size_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
