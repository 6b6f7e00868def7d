/* Guest memory: slots, checked copies across and past them, spans, hook, dirty log, huge
 * guests. */
#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/test.h"
#include "mem/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>

/* Two adjacent RAM slots, a gap, and a ROM. */
#define A_BASE   UINT64_C(0x0)
#define A_SIZE   UINT64_C(0x10000)
#define B_BASE   A_SIZE
#define B_SIZE   UINT64_C(0x8000)
#define ROM_BASE UINT64_C(0xfffff000)
#define ROM_SIZE UINT64_C(0x1000)

static int setup(void **state)
{
    struct mem *mem;

    assert_int_equal(mem_new(&mem, NULL), 0);
    assert_int_equal(mem_slot_add(mem, GPA(ROM_BASE), ROM_SIZE, MEM_ROM, NULL), 0);
    assert_int_equal(mem_slot_add(mem, GPA(A_BASE), A_SIZE, MEM_RAM, NULL), 0);
    assert_int_equal(mem_slot_add(mem, GPA(B_BASE), B_SIZE, MEM_RAM, NULL), 0);
    *state = mem;
    return 0;
}

static int teardown(void **state)
{
    mem_free(*state);
    return 0;
}

static void slots_are_sorted_and_found(void **state)
{
    struct mem *mem = *state;

    assert_int_equal(mem_slot_count(mem), 3);
    assert_int_equal(mem_slot_get(mem, 2)->base.v, ROM_BASE);
    assert_null(mem_slot_get(mem, 3));
    assert_int_equal(mem_slot_find(mem, GPA(B_BASE))->base.v, B_BASE);
    assert_int_equal(mem_slot_find(mem, GPA(B_BASE - 1))->base.v, A_BASE);
    assert_null(mem_slot_find(mem, GPA(B_BASE + B_SIZE)));
    assert_null(mem_slot_find(mem, GPA(UINT64_MAX)));
    assert_int_equal(mem_ram_bytes(mem), A_SIZE + B_SIZE);
}

static void bad_slots_are_refused(void **state)
{
    struct mem *mem = *state;
    struct err err;

    assert_int_equal(mem_slot_add(mem, GPA(0x17000), 0x2000, MEM_RAM, &err), -EEXIST);
    assert_int_equal(mem_slot_add(mem, GPA(ROM_BASE - 0x1000), 0x2000, MEM_RAM, &err), -EEXIST);
    assert_int_equal(mem_slot_add(mem, GPA(0x20001), 0x1000, MEM_RAM, &err), -EINVAL);
    assert_int_equal(mem_slot_add(mem, GPA(0x20000), 0, MEM_RAM, &err), -EINVAL);
    assert_int_equal(mem_slot_add(mem, GPA(0x20000), 0x801, MEM_RAM, &err), -EINVAL);
    assert_int_equal(mem_slot_add(mem, GPA(UINT64_MAX - 0xfff), 0x2000, MEM_RAM, &err),
                     -EINVAL);
    assert_int_equal(mem_slot_count(mem), 3);
    assert_int_equal(mem_slot_add(mem, GPA(0x18000), 0x1000, MEM_RAM, &err), 0);
}

static void copies_span_adjacent_slots_only(void **state)
{
    struct mem *mem = *state;
    uint8_t in[64], out[64];

    memset(in, 0xa5, sizeof(in));
    assert_int_equal(mem_write(mem, GPA(B_BASE - 32), in, 64), 0);
    assert_int_equal(mem_read(mem, GPA(B_BASE - 32), out, 64), 0);
    assert_memory_equal(in, out, 64);

    /* One byte past the end: nothing is copied. */
    uint64_t near_end = B_BASE + B_SIZE - 63;
    assert_int_equal(mem_write(mem, GPA(near_end), in, 64), -EFAULT);
    assert_int_equal(mem_read(mem, GPA(near_end), out, 63), 0);
    for (int i = 0; i < 63; i++) {
        assert_int_equal(out[i], 0);
    }
    assert_int_equal(mem_read(mem, GPA(near_end), out, 64), -EFAULT);
    assert_int_equal(mem_read(mem, GPA(UINT64_MAX - 3), out, 8), -EFAULT);
    assert_int_equal(mem_read(mem, GPA(0), out, SIZE_MAX), -EFAULT);
    assert_int_equal(mem_read(mem, GPA(UINT64_MAX), out, 0), 0);
    assert_int_equal(mem_fill(mem, GPA(0), 0x11, A_SIZE + B_SIZE), 0);
    assert_int_equal(mem_fill(mem, GPA(0), 0x22, A_SIZE + B_SIZE + 1), -EFAULT);
    assert_int_equal(mem_read(mem, GPA(B_BASE), out, 1), 0);
    assert_int_equal(out[0], 0x11);
}

static void rom_takes_loads_only(void **state)
{
    struct mem *mem = *state;
    uint8_t b = 0x5a;

    assert_int_equal(mem_write(mem, GPA(ROM_BASE), &b, 1), -EFAULT);
    assert_int_equal(mem_store_u16(mem, GPA(ROM_BASE), 1), -EFAULT);
    assert_null(mem_span(mem, GPA(ROM_BASE), 1, true));
    assert_int_equal(mem_load(mem, GPA(ROM_BASE), &b, 1), 0);
    const uint8_t *span = mem_span(mem, GPA(ROM_BASE), ROM_SIZE, false);
    assert_non_null(span);
    assert_int_equal(span[0], 0x5a);
}

static void spans_stay_in_one_slot(void **state)
{
    struct mem *mem = *state;

    assert_non_null(mem_span(mem, GPA(A_BASE), A_SIZE, true));
    assert_null(mem_span(mem, GPA(A_BASE), A_SIZE + 1, true));
    assert_null(mem_span(mem, GPA(B_BASE - 1), 2, true));
    assert_null(mem_span(mem, GPA(A_BASE + 8), SIZE_MAX, true));
    assert_null(mem_span(mem, GPA(0x20000), 1, false));
}

static void atomic_values_want_alignment(void **state)
{
    struct mem *mem = *state;
    uint16_t v = 0;

    assert_int_equal(mem_store_u16(mem, GPA(0x100), 0xbeef), 0);
    assert_int_equal(mem_load_u16(mem, GPA(0x100), &v), 0);
    assert_int_equal(v, 0xbeef);
    assert_int_equal(mem_load_u16(mem, GPA(0x101), &v), -EFAULT);
    assert_int_equal(mem_load_u16(mem, GPA(B_BASE + B_SIZE), &v), -EFAULT);
}

struct seen {
    uint64_t base[8], off[8], len[8];
    unsigned n;
};

static void on_written(void *opaque, const struct mem_slot *slot, uint64_t offset, uint64_t len)
{
    struct seen *s = opaque;

    s->base[s->n] = slot->base.v;
    s->off[s->n] = offset;
    s->len[s->n++] = len;
}

static void the_hook_hears_of_every_write(void **state)
{
    struct mem *mem = *state;
    struct seen s = {0};
    uint8_t buf[8192] = {0};

    mem_set_written_hook(mem, on_written, &s);
    assert_int_equal(mem_read(mem, GPA(0), buf, 16), 0);
    assert_int_equal(s.n, 0);
    assert_int_equal(mem_write(mem, GPA(B_BASE - 8), buf, 24), 0);
    assert_int_equal(s.n, 2);
    assert_int_equal(s.off[0], A_SIZE - 8);
    assert_int_equal(s.len[0], 8);
    assert_int_equal(s.base[1], B_BASE);
    assert_int_equal(s.len[1], 16);
    mem_written(mem, GPA(0x2000), 5);
    assert_int_equal(s.n, 3);
    mem_written(mem, GPA(0x50000), 5); /* no memory: nobody is told */
    assert_int_equal(s.n, 3);
    assert_int_equal(mem_store_u16(mem, GPA(0x40), 1), 0);
    assert_int_equal(s.n, 4);
}

static void the_dirty_log_has_every_page_once(void **state)
{
    struct mem *mem = *state;
    uint8_t buf[8192] = {0};
    uint64_t bits[1];

    assert_int_equal(mem_dirty_fetch(mem, 0, bits, 1), -EINVAL); /* off */
    assert_int_equal(mem_dirty_log(mem, true, NULL), 0);
    assert_int_equal(mem_write(mem, GPA(0x1fff), buf, 2), 0);
    assert_int_equal(mem_write(mem, GPA(B_BASE - 1), buf, 8192), 0);
    assert_int_equal(mem_dirty_fetch(mem, 0, bits, 1), 0);
    assert_int_equal(bits[0], 0x8006);
    assert_int_equal(mem_dirty_fetch(mem, 0, bits, 1), 0);
    assert_int_equal(bits[0], 0);
    assert_int_equal(mem_dirty_fetch(mem, 1, bits, 1), 0);
    assert_int_equal(bits[0], 3);
    assert_int_equal(mem_dirty_fetch(mem, 0, bits, 0), -EINVAL);
    assert_int_equal(mem_dirty_fetch(mem, 9, bits, 1), -ENOENT);
    /* A slot that comes later has a log from the start. */
    assert_int_equal(mem_slot_add(mem, GPA(0x100000), 0x1000, MEM_RAM, NULL), 0);
    assert_int_equal(mem_fill(mem, GPA(0x100000), 1, 1), 0);
    assert_int_equal(mem_dirty_fetch(mem, 2, bits, 1), 0);
    assert_int_equal(bits[0], 1);
    assert_int_equal(mem_dirty_log(mem, false, NULL), 0);
}

static void the_descriptor_shows_the_same_bytes_and_is_sealed(void **state)
{
    struct mem *mem = *state;
    const struct mem_slot *slot = mem_slot_get(mem, 0);
    char b[4];

    assert_int_equal(mem_write(mem, GPA(0x3000), "abc", 4), 0);
    assert_int_equal(pread(slot->fd, b, 4, (off_t)(slot->fd_offset + 0x3000)), 4);
    assert_string_equal(b, "abc");
    assert_int_equal(ftruncate(slot->fd, 0), -1);
    assert_true(fcntl(slot->fd, F_GETFD) & FD_CLOEXEC);
}

static void a_huge_guest_costs_nothing_until_used(void **state)
{
    (void)state;
    struct mem *mem;

    assert_int_equal(mem_new(&mem, NULL), 0);
    assert_int_equal(mem_slot_add(mem, GPA(0), 3 * GIB, MEM_RAM, NULL), 0);
    assert_int_equal(mem_slot_add(mem, GPA(4 * GIB), 509 * GIB, MEM_RAM, NULL), 0);
    uint16_t v = 1;
    assert_int_equal(mem_load_u16(mem, GPA(500 * GIB), &v), 0);
    assert_int_equal(v, 0);
    mem_free(mem);
}

static void an_address_space_limit_is_one_clear_error(void **state)
{
    (void)state;
    struct mem *mem;
    struct err err;
    struct rlimit old;

    assert_int_equal(getrlimit(RLIMIT_AS, &old), 0);
    struct rlimit low = {.rlim_cur = GIB, .rlim_max = old.rlim_max};
    if (old.rlim_cur != RLIM_INFINITY || setrlimit(RLIMIT_AS, &low) < 0) {
        skip();
    }
    assert_int_equal(mem_new(&mem, NULL), 0);
    int r = mem_slot_add(mem, GPA(0), 2 * GIB, MEM_RAM, &err);
    setrlimit(RLIMIT_AS, &old);
    assert_int_equal(r, -ENOMEM);
    assert_int_equal(err.code, ERR_NO_MEMORY);
    assert_non_null(strstr(err.text, "2048 MiB"));
    assert_int_equal(mem_slot_count(mem), 0);
    mem_free(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(slots_are_sorted_and_found, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_slots_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(copies_span_adjacent_slots_only, setup, teardown),
        cmocka_unit_test_setup_teardown(rom_takes_loads_only, setup, teardown),
        cmocka_unit_test_setup_teardown(spans_stay_in_one_slot, setup, teardown),
        cmocka_unit_test_setup_teardown(atomic_values_want_alignment, setup, teardown),
        cmocka_unit_test_setup_teardown(the_hook_hears_of_every_write, setup, teardown),
        cmocka_unit_test_setup_teardown(the_dirty_log_has_every_page_once, setup, teardown),
        cmocka_unit_test_setup_teardown(the_descriptor_shows_the_same_bytes_and_is_sealed,
                                        setup, teardown),
        cmocka_unit_test(a_huge_guest_costs_nothing_until_used),
        cmocka_unit_test(an_address_space_limit_is_one_clear_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
