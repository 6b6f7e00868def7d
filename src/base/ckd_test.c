/* Checked integers, ranges, alignment, byte order, muldiv64. */
#include "base/bytes.h"
#include "base/ckd.h"
#include "base/clock.h"
#include "base/test.h"

static void overflow_is_seen(void **state)
{
    (void)state;
    uint64_t r = 5;
    uint32_t small;

    assert_true(ckd_add(UINT64_C(1), UINT64_C(2), &r));
    assert_int_equal(r, 3);
    assert_false(ckd_add(UINT64_MAX, UINT64_C(1), &r));
    assert_false(ckd_sub(UINT64_C(1), UINT64_C(2), &r));
    assert_false(ckd_mul(UINT64_MAX, UINT64_C(2), &r));
    assert_false(ckd_add(UINT64_C(0xffffffff), UINT64_C(1), &small));
}

static void ranges_fit_or_not(void **state)
{
    (void)state;
    assert_true(range_fits(0, 0, 0));
    assert_true(range_fits(10, 0, 10));
    assert_true(range_fits(0, 10, 10));
    assert_false(range_fits(1, 10, 10));
    assert_false(range_fits(11, 0, 10));
    assert_false(range_fits(UINT64_MAX, 2, 10));
    assert_false(range_fits(2, UINT64_MAX, 10));
}

static void alignment_and_powers(void **state)
{
    (void)state;
    assert_int_equal(align_up(4097, 4096), 8192);
    assert_int_equal(align_up(UINT64_MAX, 4096), 0);
    assert_int_equal(align_down(4097, 4096), 4096);
    assert_true(is_pow2(1) && is_pow2(UINT64_C(1) << 63));
    assert_false(is_pow2(0) || is_pow2(6));
}

static void bytes_keep_their_order(void **state)
{
    (void)state;
    uint8_t b[9];

    put_le32(b + 1, 0x11223344);
    assert_int_equal(b[1], 0x44);
    assert_int_equal(get_be32(b + 1), 0x44332211);
    put_be64(b + 1, UINT64_C(0x0102030405060708));
    assert_int_equal(b[1], 1);
    assert_int_equal(get_le16(b + 1), 0x0201);
}

static void products_may_pass_64_bits(void **state)
{
    (void)state;
    assert_int_equal(muldiv64(UINT64_C(1) << 63, 1000, 2000), UINT64_C(1) << 62);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(overflow_is_seen),          cmocka_unit_test(ranges_fit_or_not),
        cmocka_unit_test(alignment_and_powers),      cmocka_unit_test(bytes_keep_their_order),
        cmocka_unit_test(products_may_pass_64_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
