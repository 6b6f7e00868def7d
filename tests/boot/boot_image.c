/*
 * Runs the loaders and writes the result as files, so that another hypervisor can start it:
 *
 *     boot_image MIB RAM-OUT SHIM-IN SHIM-OUT KIND KERNEL INITRD|- CMDLINE
 *
 * RAM-OUT becomes guest memory (one range from 0, below 2816 MiB), SHIM-OUT the firmware that
 * enters the kernel (shim.asm). Prints what was decided. Used by boot_test.py.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/parse.h"
#include "boot/acpi/acpi.h"
#include "boot/boot.h"
#include "mem/mem.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SHIM_BYTES 0x10000
#define SHIM_BLOCK 0xf000

static int fail(const struct err *err)
{
    fprintf(stderr, "boot_image: %s\n", err->text);
    return err_exit_status(err->code);
}

static bool write_ram(const struct mem *mem, const char *path)
{
    const struct mem_slot *slot = mem_slot_get(mem, 0);
    _cleanup_fclose_ FILE *f = fopen(path, "wbe");

    return f != NULL && fwrite(slot->host, 1, slot->size_bytes, f) == slot->size_bytes &&
           fflush(f) == 0;
}

static bool write_shim(const struct vcpu_state *s, const char *in, const char *out)
{
    static uint8_t rom[SHIM_BYTES];
    _cleanup_fclose_ FILE *i = fopen(in, "rbe");
    _cleanup_fclose_ FILE *o = fopen(out, "wbe");
    uint8_t *b = rom + SHIM_BLOCK;

    if (i == NULL || o == NULL || fread(rom, 1, sizeof(rom), i) != sizeof(rom)) {
        return false;
    }
    put_le32(b, (s->efer & 0x400) != 0);
    put_le32(b + 4, (uint32_t)s->cr3);
    put_le16(b + 8, s->gdtr.limit);
    put_le32(b + 10, (uint32_t)s->gdtr.base);
    put_le64(b + 20, s->rip);
    put_le64(b + 28, s->gpr[X86_RAX]);
    put_le64(b + 36, s->gpr[X86_RBX]);
    put_le64(b + 44, s->gpr[X86_RSI]);
    return fwrite(rom, 1, sizeof(rom), o) == sizeof(rom) && fflush(o) == 0;
}

static bool find_kind(const char *text, enum boot_kind *ret_kind)
{
    for (unsigned k = 0; k <= BOOT_MULTIBOOT; k++) {
        if (strcmp(boot_kind_name((enum boot_kind)k), text) == 0) {
            *ret_kind = (enum boot_kind)k;
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    struct err err = {0};
    struct mem *mem;
    struct boot_map map;
    struct acpi_config acpi;
    struct acpi_tables tables;
    struct boot_request req = {.initrd = {.fd = -1}};
    static struct boot_result res;
    uint64_t mib;

    if (argc != 9 || parse_uint(argv[1], 1, 2816, &mib) < 0 || !find_kind(argv[5], &req.kind)) {
        fputs("usage: boot_image MIB RAM SHIM-IN SHIM-OUT KIND KERNEL INITRD|- CMDLINE\n",
              stderr);
        return 2;
    }
    req.kernel =
        (struct boot_source){.fd = open(argv[6], O_RDONLY | O_CLOEXEC), .name = argv[6]};
    if (strcmp(argv[7], "-") != 0) {
        req.initrd =
            (struct boot_source){.fd = open(argv[7], O_RDONLY | O_CLOEXEC), .name = argv[7]};
    }
    req.cmdline = argv[8];
    acpi_config_default(&acpi);
    /* The other hypervisor has its firmware where ours has the RSDP: use the EBDA. */
    acpi.bios_area = 0x9fc00;
    acpi.smbios = false;
    acpi.s5_type = 0;
    acpi.n_cpus = 2;
    if (mem_new(&mem, &err) < 0 || mem_slot_add(mem, GPA(0), mib << 20, MEM_RAM, &err) < 0 ||
        boot_map_from_mem(&map, mem, &err) < 0 ||
        acpi_build(&acpi, mem, &map, &tables, &err) < 0) {
        return fail(&err);
    }
    req.rsdp = tables.rsdp;
    req.mem = mem;
    req.map = &map;
    if (boot_load(&req, &res, &err) < 0) {
        return fail(&err);
    }
    printf("kind %s entry 0x%" PRIx64 "%s%s\n", boot_kind_name(res.kind), res.entry,
           res.remark[0] != '\0' ? " remark: " : "", res.remark);
    if (!write_ram(mem, argv[2]) || !write_shim(&res.cpu, argv[3], argv[4])) {
        fputs("boot_image: cannot write the output\n", stderr);
        return 1;
    }
    mem_free(mem);
    return 0;
}
