/* ACPI tables: sums, links and contents; the AML writer's encodings; SMBIOS. */
#include "base/test.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "boot/acpi/acpi.h"
#include "boot/acpi/aml.h"
#include "mem/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RAM (64 * MIB)

struct fixture {
    struct mem *mem;
    struct boot_map map;
    struct acpi_config cfg;
    struct acpi_tables tables;
    struct err err;
    uint8_t table[65536];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    assert_int_equal(mem_new(&f->mem, &f->err), 0);
    assert_int_equal(mem_slot_add(f->mem, GPA(0), RAM, MEM_RAM, &f->err), 0);
    assert_int_equal(boot_map_from_mem(&f->map, f->mem, &f->err), 0);
    acpi_config_default(&f->cfg);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    mem_free(f->mem);
    free(f);
    return 0;
}

static uint8_t sum(const uint8_t *p, size_t n)
{
    uint8_t s = 0;
    for (size_t i = 0; i < n; i++) {
        s = (uint8_t)(s + p[i]);
    }
    return s;
}

static void build(struct fixture *f)
{
    int r = acpi_build(&f->cfg, f->mem, &f->map, &f->tables, &f->err);
    if (r < 0) {
        print_error("%s\n", f->err.text);
    }
    assert_int_equal(r, 0);
}

/* Reads the table at gpa into f->table, checks its sum and that the map protects it. */
static size_t read_table(struct fixture *f, uint64_t gpa)
{
    assert_int_equal(mem_read(f->mem, GPA(gpa), f->table, 36), 0);
    uint32_t len = get_le32(f->table + 4);
    assert_in_range(len, 36, sizeof(f->table));
    assert_int_equal(mem_read(f->mem, GPA(gpa), f->table, len), 0);
    assert_int_equal(sum(f->table, len), 0);
    assert_false(boot_map_is_free(&f->map, gpa, len));
    return len;
}

/* Address of the table with this signature, by the XSDT; checks that the RSDT agrees. */
static uint64_t find_table(struct fixture *f, const char *sig)
{
    uint8_t rsdp[36], xsdt[512];
    assert_int_equal(mem_read(f->mem, GPA(f->tables.rsdp), rsdp, sizeof(rsdp)), 0);
    assert_memory_equal(rsdp, "RSD PTR ", 8);
    assert_int_equal(sum(rsdp, 20), 0);
    assert_int_equal(sum(rsdp, 36), 0);
    size_t rsdt_len = read_table(f, get_le32(rsdp + 16));
    size_t len = read_table(f, get_le64(rsdp + 24));
    assert_int_equal((rsdt_len - 36) * 2, len - 36);
    assert_true(len <= sizeof(xsdt));
    memcpy(xsdt, f->table, len);
    for (size_t at = 36; at < len; at += 8) {
        uint64_t gpa = get_le64(xsdt + at);
        read_table(f, gpa);
        if (memcmp(f->table, sig, 4) == 0) {
            return gpa;
        }
    }
    return 0;
}

static void test_links(void **state)
{
    struct fixture *f = *state;
    static const char *const sigs[] = {"FACP", "APIC", "MCFG", "HPET", "WAET"};
    build(f);
    assert_int_equal(f->tables.rsdp, 0xf0000);
    for (size_t i = 0; i < ARRAY_LEN(sigs); i++) {
        assert_true(find_table(f, sigs[i]) != 0);
    }
    find_table(f, "FACP");
    uint32_t facs = get_le32(f->table + 36), dsdt = get_le32(f->table + 40);
    assert_int_equal(facs % 64, 0);
    assert_int_equal(get_le64(f->table + 140), dsdt);
    assert_int_equal(get_le32(f->table + 76), 0x608);
    assert_int_equal(get_le64(f->table + 208 + 4), 0x608);
    assert_int_equal(get_le64(f->table + 116 + 4), 0xcf9);
    assert_int_equal(get_le32(f->table + 112), 0x565);
    read_table(f, dsdt);
    assert_memory_equal(f->table, "DSDT", 4);
    assert_int_equal(mem_read(f->mem, GPA(facs), f->table, 64), 0);
    assert_memory_equal(f->table, "FACS", 4);
}

static void test_absent_hardware(void **state)
{
    struct fixture *f = *state;
    f->cfg.hpet_base = 0;
    f->cfg.ecam_base = 0;
    f->cfg.reset_port = 0;
    f->cfg.pm_timer = 0;
    build(f);
    assert_int_equal(find_table(f, "HPET"), 0);
    assert_int_equal(find_table(f, "MCFG"), 0);
    assert_true(find_table(f, "FACP") != 0);
    assert_int_equal(f->table[91], 0);
    assert_int_equal(get_le32(f->table + 112) & 0x400, 0);
}

/* Walks the entries: each has its length, together they fill the table. */
static void check_madt(struct fixture *f, unsigned n_cpus)
{
    unsigned cpus = 0, overrides = 0, ioapics = 0;
    assert_true(find_table(f, "APIC") != 0);
    size_t len = get_le32(f->table + 4), at = 44;
    while (at < len) {
        const uint8_t *e = f->table + at;
        assert_true(e[1] >= 2 && at + e[1] <= len);
        if (e[0] == 0) {
            assert_int_equal(e[3], cpus);
            cpus++;
        } else if (e[0] == 9) {
            assert_int_equal(get_le32(e + 4), cpus);
            cpus++;
        }
        ioapics += e[0] == 1;
        overrides += e[0] == 2;
        at += e[1];
    }
    assert_int_equal(cpus, n_cpus);
    assert_int_equal(ioapics, 1);
    assert_int_equal(overrides, 2);
}

static void test_cpu_counts(void **state)
{
    struct fixture *f = *state;
    static const unsigned counts[] = {1, 2, 64, 255, 256, 300};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        f->cfg.n_cpus = counts[i];
        build(f);
        check_madt(f, counts[i]);
    }
    f->cfg.n_cpus = 100000;
    assert_int_equal(acpi_build(&f->cfg, f->mem, &f->map, &f->tables, &f->err), -E2BIG);
}

static void test_generation_id(void **state)
{
    struct fixture *f = *state;
    uint8_t guid[16];
    f->cfg.vmgenid = true;
    memset(f->cfg.vmgenid_guid, 0x5c, 16);
    build(f);
    assert_int_equal(f->tables.vmgenid % 4096, 0);
    assert_false(boot_map_is_free(&f->map, f->tables.vmgenid, 16));
    assert_int_equal(mem_read(f->mem, GPA(f->tables.vmgenid), guid, 16), 0);
    assert_memory_equal(guid, f->cfg.vmgenid_guid, 16);
}

static void test_no_room(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(boot_map_mark(&f->map, MIB, RAM - MIB, BOOT_MAP_RESERVED), 0);
    assert_int_equal(acpi_build(&f->cfg, f->mem, &f->map, &f->tables, &f->err), -ENOMEM);
}

static void test_smbios(void **state)
{
    struct fixture *f = *state;
    uint8_t area[4096], seen[128] = {0};
    size_t at = 32;
    build(f);
    assert_int_equal(mem_read(f->mem, GPA(0xf1000), area, sizeof(area)), 0);
    assert_memory_equal(area, "_SM3_", 5);
    assert_int_equal(sum(area, 24), 0);
    assert_int_equal(get_le64(area + 16), 0xf1020);
    size_t end = 32 + get_le32(area + 12);
    while (at < end) {
        seen[area[at] & 127]++;
        at += area[at + 1];
        while (area[at] != 0 || area[at + 1] != 0) {
            at++;
        }
        at += 2;
    }
    assert_int_equal(at, end);
    static const uint8_t types[] = {0, 1, 4, 16, 17, 19, 32, 127};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        assert_int_equal(seen[types[i]], 1);
    }
}

static void expect_aml(struct aml *a, const void *want, size_t len)
{
    assert_false(a->failed);
    assert_int_equal(a->len, len);
    assert_memory_equal(a->data, want, len);
    aml_done(a);
}

static void test_aml_values(void **state)
{
    struct aml a;
    (void)state;
    aml_init(&a);
    aml_int(&a, 0);
    aml_int(&a, 1);
    aml_int(&a, 0xff);
    aml_int(&a, 0x100);
    aml_int(&a, 0x10000);
    aml_int(&a, UINT64_C(0x100000000));
    expect_aml(&a,
               "\x00\x01\x0a\xff\x0b\x00\x01\x0c\x00\x00\x01\x00\x0e\x00\x00\x00\x00\x01\x00"
               "\x00\x00",
               21);
    aml_name_eisa(&a, "_HID", "PNP0A08");
    expect_aml(&a, "\x08_HID\x0c\x41\xd0\x0a\x08", 10);
    aml_path(&a, "\\_SB.PCI0");
    aml_path(&a, "A");
    aml_path(&a, "\\A.B.C");
    expect_aml(&a,
               "\\\x2e_SB_PCI0A___\\\x2f\x03"
               "A___B___C___",
               29);
}

/* A length of 1, 2 and 3 bytes, at the borders. */
static void test_aml_lengths(void **state)
{
    static const struct {
        size_t strings, bytes; /* of one letter: each three bytes with op and end */
        uint8_t code[3];
        unsigned n;
    } cases[] = {{20, 3, {62}, 1},
                 {21, 3, {0x42, 0x04}, 2},
                 {1364, 3, {0x4f, 0xff}, 2},
                 {1365, 3, {0x83, 0x00, 0x01}, 3}};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct aml a;
        aml_init(&a);
        aml_package(&a, 0);
        for (size_t s = 0; s < cases[i].strings; s++) {
            aml_string(&a, "x");
        }
        aml_end(&a);
        assert_false(a.failed);
        size_t body = 1 + cases[i].strings * cases[i].bytes;
        assert_int_equal(a.len, 1 + cases[i].n + body);
        assert_memory_equal(a.data + 1, cases[i].code, cases[i].n);
        aml_done(&a);
    }
}

static void test_aml_misuse_sticks(void **state)
{
    struct aml a;
    struct aml_res r = {0};
    (void)state;
    aml_init(&a);
    aml_end(&a);
    assert_true(a.failed);
    aml_done(&a);
    aml_path(&a, "TOOLONG");
    assert_true(a.failed);
    aml_done(&a);
    for (int i = 0; i < AML_DEPTH_MAX + 1; i++) {
        aml_if(&a);
    }
    assert_true(a.failed);
    aml_done(&a);
    for (int i = 0; i < 100; i++) {
        aml_res_io(&r, 0, 1);
    }
    aml_name_res(&a, "_CRS", &r);
    assert_true(a.failed);
    aml_done(&a);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_links),
        T(test_absent_hardware),
        T(test_cpu_counts),
        T(test_generation_id),
        T(test_no_room),
        T(test_smbios),
        cmocka_unit_test(test_aml_values),
        cmocka_unit_test(test_aml_lengths),
        cmocka_unit_test(test_aml_misuse_sticks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
