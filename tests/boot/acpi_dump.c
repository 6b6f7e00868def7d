/*
 * Writes the ACPI and SMBIOS tables that the board's usual configuration gives, as files for
 * the tools that read such tables: acpi_dump FOLDER CPUS. Used by acpi_test.py.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/parse.h"
#include "boot/acpi/acpi.h"
#include "mem/mem.h"

#include <stdio.h>
#include <string.h>

#define RAM_BYTES (UINT64_C(64) << 20)

static bool write_file(const char *folder, const char *name, const void *data, size_t len)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    _cleanup_fclose_ FILE *f = fopen(path, "wbe");
    return f != NULL && fwrite(data, 1, len, f) == len && fflush(f) == 0;
}

static bool dump_table(const struct mem *mem, const char *folder, uint64_t gpa)
{
    char name[16];
    const uint8_t *p = mem_span(mem, GPA(gpa), 36, false);
    if (p == NULL) {
        return false;
    }
    snprintf(name, sizeof(name), "%.4s.aml", (const char *)p);
    return write_file(folder, name, p, get_le32(p + 4));
}

int main(int argc, char **argv)
{
    struct err err = {0};
    struct acpi_config cfg;
    struct acpi_tables tables;
    struct boot_map map;
    struct mem *mem;
    uint64_t cpus;

    if (argc != 3 || parse_uint(argv[2], 1, 300, &cpus) < 0) {
        fputs("usage: acpi_dump FOLDER CPUS\n", stderr);
        return 2;
    }
    acpi_config_default(&cfg);
    cfg.n_cpus = (unsigned)cpus;
    cfg.pci64 = (struct acpi_window){UINT64_C(0x4000000000), UINT64_C(0x800000000)};
    cfg.fw_cfg_port = 0x510;
    cfg.com2 = 0x2f8;
    cfg.vmgenid = true;
    cfg.vmgenid_gpe = 5;
    if (mem_new(&mem, &err) < 0 || mem_slot_add(mem, GPA(0), RAM_BYTES, MEM_RAM, &err) < 0 ||
        boot_map_from_mem(&map, mem, &err) < 0 ||
        acpi_build(&cfg, mem, &map, &tables, &err) < 0) {
        fprintf(stderr, "acpi_dump: %s\n", err.text);
        return 1;
    }
    const uint8_t *rsdp = mem_span(mem, GPA(tables.rsdp), 36, false);
    const uint8_t *xsdt = mem_span(mem, GPA(get_le64(rsdp + 24)), 4096, false);
    bool ok = dump_table(mem, argv[1], get_le64(rsdp + 24));
    for (size_t at = 36; at < get_le32(xsdt + 4) && ok; at += 8) {
        uint64_t gpa = get_le64(xsdt + at);
        ok = dump_table(mem, argv[1], gpa);
        const uint8_t *p = mem_span(mem, GPA(gpa), 148, false);
        if (ok && memcmp(p, "FACP", 4) == 0) {
            ok = dump_table(mem, argv[1], get_le64(p + 140));
        }
    }
    ok = ok &&
         write_file(argv[1], "bios-area", mem_span(mem, GPA(0xf0000), 0x10000, false), 0x10000);
    mem_free(mem);
    if (!ok) {
        fputs("acpi_dump: cannot write the tables\n", stderr);
        return 1;
    }
    return 0;
}
