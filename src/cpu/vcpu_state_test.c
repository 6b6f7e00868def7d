/* vCPU state: power-on values, round trip through the stream, refusal of impossible values. */
#include "base/bytes.h"
#include "base/test.h"
#include "cpu/vcpu_state.h"
#include "state/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int round_trip(const struct vcpu_state *in, struct vcpu_state *out, struct err *err)
{
    struct state_writer *w;
    struct state_reader *r;
    const void *data;
    size_t len;

    assert_int_equal(state_writer_new(&w, NULL), 0);
    vcpu_state_save(in, 3, w);
    assert_int_equal(state_writer_finish(w, &data, &len), 0);
    assert_int_equal(state_reader_new(&r, data, len, err), 0);
    int rc = vcpu_state_load(out, 3, r, err);
    if (rc == 0) {
        assert_int_equal(state_reader_finish(r, err), 0);
    }
    state_reader_free(r);
    state_writer_free(w);
    return rc;
}

static void power_on_values(void **state)
{
    (void)state;
    struct vcpu_state s;

    vcpu_state_reset(&s, true);
    assert_int_equal(s.rip, 0xfff0);
    assert_int_equal(s.seg[X86_CS].base, 0xffff0000);
    assert_int_equal(s.seg[X86_CS].sel, 0xf000);
    assert_int_equal(s.cr0, 0x60000010);
    assert_int_equal(s.rflags, 2);
    assert_int_equal(s.dr[6], 0xffff0ff0);
    assert_int_equal(s.dr[7], 0x400);
    assert_int_equal(get_le32(s.xsave + 24), 0x1f80);
    assert_int_equal(s.apic_base, 0xfee00900);
    assert_int_equal(s.mp_state, VCPU_RUNNABLE);
    vcpu_state_reset(&s, false);
    assert_int_equal(s.apic_base, 0xfee00800);
    assert_int_equal(s.mp_state, VCPU_WAIT_SIPI);
}

static void every_byte_comes_back(void **state)
{
    (void)state;
    static struct vcpu_state a, b;
    struct err err = {0};

    vcpu_state_reset(&a, true);
    for (int i = 0; i < 16; i++) {
        a.gpr[i] = UINT64_C(0x0123456789abcdef) * (uint64_t)(i + 1);
    }
    a.mc_bank[9][3] = 77;
    a.mtrr_var[7][1] = 78;
    a.mtrr_fixed[10] = 79;
    a.tsc_offset = -5;
    a.seg[X86_GS].base = UINT64_C(0xffff888000000000);
    a.event_pending = 1;
    a.event_vector = 14;
    a.xsave_bytes = 2696;
    memset(a.xsave + 576, 0x5a, a.xsave_bytes - 576);
    assert_int_equal(round_trip(&a, &b, &err), 0);
    assert_memory_equal(a.xsave, b.xsave, sizeof(a.xsave));
    assert_memory_equal(a.gpr, b.gpr, sizeof(a.gpr));
    assert_memory_equal(a.mc_bank, b.mc_bank, sizeof(a.mc_bank));
    assert_memory_equal(a.mtrr_var, b.mtrr_var, sizeof(a.mtrr_var));
    assert_int_equal(b.mtrr_fixed[10], 79);
    assert_int_equal(b.tsc_offset, -5);
    assert_int_equal(b.seg[X86_GS].base, a.seg[X86_GS].base);
    assert_int_equal(b.event_vector, 14);
    assert_int_equal(b.xsave_bytes, 2696);
}

/* Saving what one line of C broke must be refused by that register's name. */
#define REFUSED(change, name)                                                                  \
    do {                                                                                       \
        vcpu_state_reset(&a, true);                                                            \
        change;                                                                                \
        memset(&b, 0x11, sizeof(b));                                                           \
        assert_int_equal(round_trip(&a, &b, &err), -EINVAL);                                   \
        assert_int_equal(err.code, ERR_STATE_BAD);                                             \
        assert_non_null(strstr(err.text, ": " name " has"));                                   \
        assert_int_equal(b.rip, UINT64_C(0x1111111111111111));                                 \
    } while (0)

static void impossible_values_are_named(void **state)
{
    (void)state;
    static struct vcpu_state a, b;
    struct err err = {0};

    REFUSED(a.cr0 = 0x80000000, "cr0");
    REFUSED(a.cr0 = 0x20000011, "cr0");
    REFUSED(a.efer = 0x400, "efer");
    REFUSED((a.cr0 = 0x80000011, a.efer = 0x500), "cr4");
    REFUSED(a.cr3 = UINT64_MAX, "cr3");
    REFUSED(a.cr8 = 16, "cr8");
    REFUSED(a.xcr0 = 0, "xcr0");
    REFUSED(a.rflags = 0, "rflags");
    REFUSED(a.rip = UINT64_C(0x0000800000000000), "rip");
    REFUSED(a.kernel_gs_base = UINT64_C(1) << 60, "kernel_gs_base");
    REFUSED(a.lstar = UINT64_C(1) << 60, "lstar");
    REFUSED(a.pat = 2, "pat");
    REFUSED(a.mp_state = 4, "mp_state");
    REFUSED(a.event_pending = 2, "event_pending");
    REFUSED(a.dr[7] = UINT64_C(1) << 32, "dr[7]");
    REFUSED(a.xsave[25 + 1] = 1, "xsave");
    REFUSED(a.xsave[520] = 1, "xsave");
    REFUSED(a.xsave_bytes = 575, "xsave");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(power_on_values),
        cmocka_unit_test(every_byte_comes_back),
        cmocka_unit_test(impossible_values_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
