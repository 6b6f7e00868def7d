/* Choice of the engine, with two engines whose measurements the test sets. */
#include "base/test.h"
#include "cpu/engine.h"

#include <stdio.h>
#include <string.h>

static struct engine_probe kvm_says;
static unsigned probes;

static void fake_probe(struct engine_probe *ret_probe)
{
    *ret_probe = kvm_says;
    probes++;
}

const struct engine_ops engine_kvm = {.name = "kvm", .probe = fake_probe};
const struct engine_ops engine_soft = {.name = "soft", .probe = fake_probe};
const struct engine_ops engine_interp = {.name = "interp", .probe = fake_probe};

static char why[300];

static int setup(void **state)
{
    (void)state;
    kvm_says = (struct engine_probe){
        .usable = true, .supervisor_insn_per_s = 2e9, .user_insn_per_s = 3e9};
    probes = 0;
    why[0] = '\0';
    return 0;
}

static void native_kvm_is_taken(void **state)
{
    (void)state;
    assert_ptr_equal(engine_find("auto", why, sizeof(why), NULL), &engine_kvm);
    assert_non_null(strstr(why, "2000 million"));
    kvm_says.supervisor_insn_per_s = 3.1e8; /* just within a tenth */
    assert_ptr_equal(engine_find("auto", why, sizeof(why), NULL), &engine_kvm);
}

static void emulating_kvm_is_not(void **state)
{
    (void)state;
    kvm_says.supervisor_insn_per_s = 1e6;
    assert_ptr_equal(engine_find("auto", why, sizeof(why), NULL), &engine_soft);
    assert_non_null(strstr(why, "1.0 million"));
    assert_non_null(strstr(why, "emulates"));
    kvm_says.user_insn_per_s = 0;
    assert_ptr_equal(engine_find("auto", NULL, 0, NULL), &engine_soft);
}

static void unusable_kvm_says_why(void **state)
{
    (void)state;
    struct err err = {0};

    kvm_says = (struct engine_probe){.why = "/dev/kvm: Permission denied"};
    assert_ptr_equal(engine_find("auto", why, sizeof(why), &err), &engine_soft);
    assert_non_null(strstr(why, "Permission denied"));
    assert_null(engine_find("kvm", why, sizeof(why), &err));
    assert_int_equal(err.code, ERR_ENGINE);
    assert_non_null(strstr(err.text, "Permission denied"));
}

static void names_are_exact_and_soft_is_not_probed(void **state)
{
    (void)state;
    struct err err = {0};

    assert_ptr_equal(engine_find("interp", why, sizeof(why), &err), &engine_interp);
    assert_ptr_equal(engine_find("soft", why, sizeof(why), &err), &engine_soft);
    assert_int_equal(probes, 0);
    assert_ptr_equal(engine_find("kvm", why, sizeof(why), &err), &engine_kvm);
    assert_null(engine_find("KVM", why, sizeof(why), &err));
    assert_int_equal(err.code, ERR_USAGE);
    assert_non_null(strstr(err.text, "auto, kvm, soft or interp"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(native_kvm_is_taken, setup),
        cmocka_unit_test_setup(emulating_kvm_is_not, setup),
        cmocka_unit_test_setup(unusable_kvm_says_why, setup),
        cmocka_unit_test_setup(names_are_exact_and_soft_is_not_probed, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
