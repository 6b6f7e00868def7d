/* Loaders on generated kernels: what is in memory and registers afterwards, and what is
 * refused. */
#include "base/test.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"
#include "boot/boot.h"
#include "boot/boot_samples.h"
#include "boot/linux_hdr.h"
#include "mem/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#define RAM (16 * MIB)

struct fixture {
    struct mem *mem;
    struct boot_map map;
    struct boot_request req;
    struct boot_result res;
    struct err err;
    uint8_t file[64 * 1024];
    struct sample sample;
};

static int file_of(const void *data, size_t len)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, len), len);
    return fd;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    assert_int_equal(mem_new(&f->mem, &f->err), 0);
    assert_int_equal(mem_slot_add(f->mem, GPA(0), RAM, MEM_RAM, &f->err), 0);
    assert_int_equal(boot_map_from_mem(&f->map, f->mem, &f->err), 0);
    f->req = (struct boot_request){.mem = f->mem,
                                   .map = &f->map,
                                   .kernel = {.fd = -1, .name = "sample"},
                                   .initrd = {.fd = -1, .name = "ramdisk"},
                                   .cmdline = "console=ttyS0 x",
                                   .rsdp = 0xf0000};
    f->sample = (struct sample){.data = f->file, .cap = sizeof(f->file)};
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    mem_free(f->mem);
    if (f->req.initrd.fd >= 0) {
        close(f->req.initrd.fd);
    }
    free(f);
    return 0;
}

static int load(struct fixture *f)
{
    _cleanup_close_ int fd = file_of(f->file, f->sample.len);
    f->req.kernel.fd = fd;
    memset(&f->err, 0, sizeof(f->err));
    int r = boot_load(&f->req, &f->res, &f->err);
    f->req.kernel.fd = -1;
    return r;
}

static void expect_load(struct fixture *f, enum boot_kind kind)
{
    int r = load(f);
    if (r < 0) {
        print_error("%s\n", f->err.text);
    }
    assert_int_equal(r, 0);
    assert_int_equal(f->res.kind, kind);
}

/* The sample as damaged by the test must be refused with a text that has `word` in it. */
static void expect_refused(struct fixture *f, const char *word)
{
    int r = load(f);
    assert_true(r < 0);
    assert_int_equal(f->err.code, ERR_IMAGE_BAD);
    if (strstr(f->err.text, word) == NULL) {
        print_error("no \"%s\" in: %s\n", word, f->err.text);
        fail();
    }
}

static void expect_text(struct fixture *f, uint64_t gpa, const char *text)
{
    char buf[64];
    size_t len = strlen(text) + 1;
    assert_true(len <= sizeof(buf));
    assert_int_equal(mem_read(f->mem, GPA(gpa), buf, len), 0);
    assert_string_equal(buf, text);
}

static void give_initrd(struct fixture *f)
{
    static const char text[] = "initrd content";
    f->req.initrd.fd = file_of(text, sizeof(text));
}

static void check_long_state(struct fixture *f)
{
    const struct vcpu_state *s = &f->res.cpu;
    uint64_t entry;
    assert_true((s->efer & 0x500) == 0x500);
    assert_true((s->cr0 & 0x80000001) == 0x80000001);
    assert_true((s->cr4 & 0x20) != 0);
    assert_int_equal(s->seg[X86_CS].sel, 0x10);
    assert_true((s->seg[X86_CS].attr & SEG_L) != 0);
    assert_int_equal(s->seg[X86_DS].sel, 0x18);
    assert_int_equal(s->rflags, 2);
    /* The first page table entries lead to physical 0 through 2 MiB pages. */
    assert_int_equal(mem_read(f->mem, GPA(s->cr3), &entry, 8), 0);
    assert_int_equal(mem_read(f->mem, GPA(entry & ~0xfffull), &entry, 8), 0);
    assert_int_equal(mem_read(f->mem, GPA((entry & ~0xfffull) + 8), &entry, 8), 0);
    assert_int_equal(entry, 0x200083);
    /* The descriptors in memory say what the state says. */
    assert_int_equal(mem_read(f->mem, GPA(s->gdtr.base + 0x10), &entry, 8), 0);
    assert_true(entry == UINT64_C(0x00af9b000000ffff));
    assert_int_equal(mem_read(f->mem, GPA(s->gdtr.base + 0x18), &entry, 8), 0);
    assert_true(entry == UINT64_C(0x00cf93000000ffff));
}

static void check_zero_page(struct fixture *f)
{
    uint8_t zp[4096];
    assert_int_equal(mem_read(f->mem, GPA(f->res.cpu.gpr[X86_RSI]), zp, sizeof(zp)), 0);
    assert_int_equal(get_le32(zp + LH_MAGIC), LH_MAGIC_VALUE);
    assert_int_equal(zp[LH_LOADER_TYPE], 0xff);
    assert_int_equal(get_le64(zp + 0x70), 0xf0000);
    expect_text(f, get_le32(zp + LH_CMDLINE), f->req.cmdline);
    assert_int_equal(zp[0x1e8], f->map.n);
    for (unsigned i = 0; i < f->map.n; i++) {
        assert_int_equal(get_le64(zp + 0x2d0 + i * 20), f->map.entry[i].base);
        assert_int_equal(get_le64(zp + 0x2d0 + i * 20 + 8), f->map.entry[i].size);
        assert_int_equal(get_le32(zp + 0x2d0 + i * 20 + 16), f->map.entry[i].type);
    }
    if (f->req.initrd.fd >= 0) {
        uint32_t base = get_le32(zp + LH_INITRD);
        assert_int_equal(base % 4096, 0);
        assert_int_equal(get_le32(zp + LH_INITRD_SIZE), sizeof("initrd content"));
        expect_text(f, base, "initrd content");
    }
    uint64_t seed = get_le64(zp + LH_SETUP_DATA);
    uint8_t node[48];
    assert_int_equal(mem_read(f->mem, GPA(seed), node, sizeof(node)), 0);
    assert_int_equal(get_le32(node + 8), 9);
    assert_int_equal(get_le32(node + 12), 32);
}

static void test_vmlinux(void **state)
{
    struct fixture *f = *state;
    give_initrd(f);
    sample_elf(&f->sample, true, false, false);
    expect_load(f, BOOT_VMLINUX);
    assert_int_equal(f->res.cpu.rip, SAMPLE_ENTRY);
    expect_text(f, SAMPLE_LOAD + 0xa00, SAMPLE_CODE);
    check_long_state(f);
    check_zero_page(f);
}

static void test_vmlinux_entry_may_be_linear(void **state)
{
    struct fixture *f = *state;
    sample_elf(&f->sample, true, false, false);
    put_le64(f->file + 24, UINT64_C(0xffffffff80000000) + SAMPLE_ENTRY);
    expect_load(f, BOOT_VMLINUX);
    assert_int_equal(f->res.cpu.rip, SAMPLE_ENTRY);
}

static void test_bss_is_cleared_on_a_second_load(void **state)
{
    struct fixture *f = *state;
    uint8_t byte = 0x5a;
    sample_elf(&f->sample, true, false, false);
    assert_int_equal(mem_write(f->mem, GPA(SAMPLE_LOAD + 0x1800), &byte, 1), 0);
    expect_load(f, BOOT_VMLINUX);
    assert_int_equal(mem_read(f->mem, GPA(SAMPLE_LOAD + 0x1800), &byte, 1), 0);
    assert_int_equal(byte, 0);
}

static void test_pvh(void **state)
{
    struct fixture *f = *state;
    uint8_t info[56], module[32], entry[24];
    for (int is64 = 0; is64 < 2; is64++) {
        memset(f->file, 0, sizeof(f->file));
        if (f->req.initrd.fd < 0) {
            give_initrd(f);
        }
        sample_elf(&f->sample, is64 != 0, true, false);
        expect_load(f, BOOT_PVH);
        const struct vcpu_state *s = &f->res.cpu;
        assert_int_equal(s->rip, SAMPLE_ENTRY);
        assert_int_equal(s->cr0 & 0x80000001, 1);
        assert_int_equal(s->efer, 0);
        assert_true((s->seg[X86_CS].attr & (SEG_DB | SEG_L)) == SEG_DB);
        assert_int_equal(mem_read(f->mem, GPA(s->gpr[X86_RBX]), info, sizeof(info)), 0);
        assert_int_equal(get_le32(info), 0x336ec578);
        assert_int_equal(get_le32(info + 4), 1);
        assert_int_equal(get_le32(info + 12), 1);
        expect_text(f, get_le64(info + 24), f->req.cmdline);
        assert_int_equal(get_le64(info + 32), 0xf0000);
        assert_int_equal(get_le32(info + 48), f->map.n);
        assert_int_equal(mem_read(f->mem, GPA(get_le64(info + 40)), entry, sizeof(entry)), 0);
        assert_int_equal(get_le64(entry + 8), 0x9fc00);
        assert_int_equal(get_le32(entry + 16), 1);
        assert_int_equal(mem_read(f->mem, GPA(get_le64(info + 16)), module, sizeof(module)), 0);
        expect_text(f, get_le64(module), "initrd content");
    }
}

static void check_multiboot(struct fixture *f, unsigned n_modules)
{
    uint8_t mbi[120], mod[32], entry[24];
    const struct vcpu_state *s = &f->res.cpu;
    assert_int_equal(s->gpr[X86_RAX], 0x2badb002);
    assert_int_equal(s->rip, SAMPLE_ENTRY);
    assert_int_equal(mem_read(f->mem, GPA(s->gpr[X86_RBX]), mbi, sizeof(mbi)), 0);
    assert_int_equal(get_le32(mbi), 0x24d);
    assert_int_equal(get_le32(mbi + 4), 639);
    assert_int_equal(get_le32(mbi + 8), RAM / KIB - 1024);
    expect_text(f, get_le32(mbi + 16), "sample console=ttyS0 x");
    assert_int_equal(get_le32(mbi + 20), n_modules);
    assert_int_equal(get_le32(mbi + 44), f->map.n * 24);
    assert_int_equal(mem_read(f->mem, GPA(get_le32(mbi + 48)), entry, sizeof(entry)), 0);
    assert_int_equal(get_le32(entry), 20);
    if (n_modules > 1) {
        assert_int_equal(mem_read(f->mem, GPA(get_le32(mbi + 24)), mod, sizeof(mod)), 0);
        expect_text(f, get_le32(mod), "initrd content");
        assert_int_equal(get_le32(mod + 4) - get_le32(mod), sizeof("initrd content"));
        expect_text(f, get_le32(mod + 8), "ramdisk");
        expect_text(f, get_le32(mod + 16 + 8), "second with words");
    }
}

static void test_multiboot(void **state)
{
    struct fixture *f = *state;
    sample_elf(&f->sample, false, false, true);
    expect_load(f, BOOT_MULTIBOOT);
    expect_text(f, SAMPLE_LOAD + 0xa00, SAMPLE_CODE);
    check_multiboot(f, 0);
    /* ELF64 too, as GRUB takes it. */
    memset(f->file, 0, sizeof(f->file));
    sample_elf(&f->sample, true, false, true);
    expect_load(f, BOOT_MULTIBOOT);
    check_multiboot(f, 0);
}

static void test_multiboot_modules(void **state)
{
    struct fixture *f = *state;
    _cleanup_close_ int fd = file_of("second module", 14);
    const struct boot_source module = {.fd = fd, .name = "second", .args = "with words"};
    give_initrd(f);
    f->req.modules = &module;
    f->req.n_modules = 1;
    sample_elf(&f->sample, false, false, true);
    expect_load(f, BOOT_MULTIBOOT);
    check_multiboot(f, 2);
    f->req.n_modules = 1000000;
    assert_int_equal(load(f), -E2BIG);
    assert_int_equal(f->err.code, ERR_LIMIT);
}

static void test_multiboot_kludge(void **state)
{
    struct fixture *f = *state;
    sample_kludge(&f->sample);
    expect_load(f, BOOT_MULTIBOOT);
    check_multiboot(f, 0);
    /* File offset 800h is address load + 100h, so A00h is load + 300h. */
    expect_text(f, SAMPLE_LOAD + 0x300, SAMPLE_CODE);
}

static void test_multiboot_refusals(void **state)
{
    struct fixture *f = *state;
    static const struct {
        unsigned offset;
        uint32_t value;
        const char *word;
    } bad[] = {
        {12, SAMPLE_LOAD - 1, "header_addr"}, /* below load_addr */
        {12, UINT32_MAX, "header_addr"},      {16, 0, "header_addr"},
        {20, SAMPLE_LOAD - 1, "load_end"},    {20, UINT32_MAX, "load_end"},
        {24, SAMPLE_LOAD + 1, "bss_end"},     {24, UINT32_MAX, "not free memory"},
        {28, SAMPLE_LOAD - 1, "entry"},       {28, SAMPLE_LOAD + 0x2000, "entry"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        memset(f->file, 0, sizeof(f->file));
        sample_kludge(&f->sample);
        put_le32(f->file + SAMPLE_MB_OFF + bad[i].offset, bad[i].value);
        expect_refused(f, bad[i].word);
    }
    sample_kludge(&f->sample);
    put_le32(f->file + SAMPLE_MB_OFF + 4, 0x10103);
    put_le32(f->file + SAMPLE_MB_OFF + 8, 0u - 0x1badb002u - 0x10103u);
    expect_refused(f, "flags");
}

static void test_elf_refusals(void **state)
{
    struct fixture *f = *state;
    static const struct {
        unsigned offset, bytes;
        uint64_t value;
        const char *word;
    } bad[] = {
        {4, 1, 3, "class"},
        {5, 1, 2, "little-endian"},
        {16, 2, 1, "type 1"},
        {18, 2, 40, "machine 40"},
        {24, 8, 0, "entry"},
        {24, 8, SAMPLE_LOAD + 0x2000, "entry"},
        {32, 8, UINT64_MAX - 8, "program headers"},
        {54, 2, 55, "program headers"},
        {56, 2, 0, "program headers"},
        {56, 2, 65535, "program headers"},
        {SAMPLE_ELF64_PHDR, 4, 2, "entry"},                    /* no PT_LOAD is left */
        {SAMPLE_ELF64_PHDR + 8, 8, UINT64_MAX, "cut off"},     /* p_offset */
        {SAMPLE_ELF64_PHDR + 24, 8, UINT64_MAX - 16, "wraps"}, /* p_paddr */
        {SAMPLE_ELF64_PHDR + 24, 8, 0x90000, "entry"},         /* away from the entry */
        {SAMPLE_ELF64_PHDR + 32, 8, 0x1001, "cut off"},        /* p_filesz */
        {SAMPLE_ELF64_PHDR + 32, 8, UINT64_MAX, "p_memsz"},    /* p_filesz > p_memsz */
        {SAMPLE_ELF64_PHDR + 40, 8, UINT64_MAX, "wraps"},      /* p_memsz */
        {SAMPLE_ELF64_PHDR + 40, 8, RAM, "not free memory"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        memset(f->file, 0, sizeof(f->file));
        sample_elf(&f->sample, true, false, false);
        memcpy(f->file + bad[i].offset, &bad[i].value, bad[i].bytes);
        expect_refused(f, bad[i].word);
    }
}

static void test_elf_segments(void **state)
{
    struct fixture *f = *state;
    uint8_t *second = f->file + SAMPLE_ELF64_PHDR + 56;
    sample_elf(&f->sample, true, false, false);
    put_le16(f->file + 56, 2);
    memcpy(second, f->file + SAMPLE_ELF64_PHDR, 56);
    put_le64(second + 24, SAMPLE_LOAD + 0x1000); /* over the first one's bss */
    expect_refused(f, "not free memory");
    put_le64(second + 24, 0xa0000); /* where there is no free RAM */
    expect_refused(f, "not free memory");
    put_le64(second + 24, 0xfee00000);
    expect_refused(f, "not free memory");
    put_le64(second + 24, SAMPLE_LOAD + 0x2000);
    expect_load(f, BOOT_VMLINUX);
    expect_text(f, SAMPLE_LOAD + 0x2a00, SAMPLE_CODE);
}

/* Notes with every absurd size: the search ends, the kernel is then a plain one. */
static void test_note_sizes(void **state)
{
    struct fixture *f = *state;
    static const uint32_t sizes[] = {0, 1, 5, 44, 0x7fffffff, 0xfffffff0, 0xffffffff};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        for (unsigned field = 0; field < 2; field++) {
            memset(f->file, 0, sizeof(f->file));
            sample_elf(&f->sample, true, true, false);
            put_le32(f->file + SAMPLE_NOTE_OFF + field * 4, sizes[i]);
            put_le32(f->file + SAMPLE_NOTE_OFF + 24 + field * 4, sizes[i]);
            assert_int_equal(load(f), 0);
        }
    }
    sample_elf(&f->sample, true, true, false);
    put_le64(f->file + SAMPLE_ELF64_PHDR + 56 + 32, 0x20000);
    expect_refused(f, "note");
}

static void test_bzimage_entries(void **state)
{
    struct fixture *f = *state;
    static const struct {
        enum boot_kind kind;
        uint64_t entry;
    } ways[] = {{BOOT_LINUX64, SAMPLE_LOAD + 0x200}, {BOOT_LINUX32, SAMPLE_LOAD}};
    give_initrd(f);
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        sample_bzimage(&f->sample, "unknown payload", 16);
        f->req.kind = ways[i].kind;
        expect_load(f, ways[i].kind);
        assert_int_equal(f->res.cpu.rip, ways[i].entry);
        expect_text(f, SAMPLE_LOAD + 0x200, SAMPLE_CODE);
        check_zero_page(f);
    }
    f->req.kind = BOOT_LINUX16;
    expect_load(f, BOOT_LINUX16);
    assert_int_equal(f->res.cpu.seg[X86_CS].base, 0x10200);
    assert_int_equal(f->res.cpu.seg[X86_SS].sel, 0x1000);
    expect_text(f, 0x100200, SAMPLE_CODE);
    expect_text(f, 0x20000, f->req.cmdline);
    f->req.kind = BOOT_PVH;
    expect_refused(f, "bzImage");
}

static void test_bzimage_falls_back(void **state)
{
    struct fixture *f = *state;
    sample_bzimage(&f->sample, "unknown payload", 16);
    expect_load(f, BOOT_LINUX64);
    assert_non_null(strstr(f->res.remark, "unknown"));
    put_le16(f->file + LH_XLOADFLAGS, 0);
    expect_load(f, BOOT_LINUX32);
    f->req.kind = BOOT_LINUX64;
    expect_refused(f, "64-bit entry");
}

/* Its preferred place taken, a relocatable kernel goes to another. */
static void test_bzimage_moves(void **state)
{
    struct fixture *f = *state;
    f->req.kind = BOOT_LINUX64;
    sample_bzimage(&f->sample, "unknown payload", 16);
    put_le64(f->file + LH_PREF_ADDR, 512 * MIB);
    expect_load(f, BOOT_LINUX64);
    assert_int_equal(f->res.cpu.rip, 0x200200);
    f->file[LH_RELOCATABLE] = 0;
    expect_load(f, BOOT_LINUX64);
    assert_int_equal(f->res.cpu.rip, 0x100200);
}

static void test_bzimage_refusals(void **state)
{
    struct fixture *f = *state;
    static const struct {
        unsigned offset, bytes;
        uint64_t value;
        const char *word;
    } bad[] = {
        {LH_SETUP_SECTS, 1, 255, "setup_sects"},
        {LH_SYSSIZE, 4, UINT32_MAX, "syssize"},
        {LH_VERSION, 2, 0x0201, "boot protocol 2.01"},
        {LH_LOADFLAGS, 1, 0, "zImage"},
        {LH_PAYLOAD_OFF, 4, UINT32_MAX, "payload_offset"},
        {LH_PAYLOAD_LEN, 4, 0x10000, "payload_length"},
        {LH_KERNEL_ALIGN, 4, 0, "kernel_alignment"},
        {LH_KERNEL_ALIGN, 4, 3, "kernel_alignment"},
        {LH_KERNEL_ALIGN, 4, 0x80000000, "kernel_alignment"},
        {LH_INIT_SIZE, 4, UINT32_MAX, "not free memory"},
        {LH_INIT_SIZE, 4, RAM, "not free memory"},
    };
    f->req.kind = BOOT_LINUX64;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        memset(f->file, 0, sizeof(f->file));
        sample_bzimage(&f->sample, "unknown payload", 16);
        memcpy(f->file + bad[i].offset, &bad[i].value, bad[i].bytes);
        expect_refused(f, bad[i].word);
    }
    /* pref_address is a wish: extremes move the kernel or are refused, no more. */
    static const uint64_t places[] = {0,          1,         0x9f000, 0xfffffffffffff000,
                                      UINT64_MAX, 1ull << 32};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        sample_bzimage(&f->sample, "unknown payload", 16);
        put_le64(f->file + LH_PREF_ADDR, places[i]);
        load(f);
    }
    /* setup_sects 0 means 4. */
    sample_bzimage(&f->sample, "unknown payload", 16);
    f->file[LH_SETUP_SECTS] = 0;
    load(f);
}

/* Every length of every sample: loaded or refused, never more. */
static void test_truncation(void **state)
{
    struct fixture *f = *state;
    for (unsigned kind = 0; kind < 4; kind++) {
        memset(f->file, 0, sizeof(f->file));
        switch (kind) {
        case 0: sample_elf(&f->sample, true, true, false); break;
        case 1: sample_elf(&f->sample, false, false, true); break;
        case 2: sample_kludge(&f->sample); break;
        default: sample_bzimage(&f->sample, "unknown payload", 16); break;
        }
        f->req.kind = kind == 3 ? BOOT_LINUX64 : BOOT_AUTO;
        size_t whole = f->sample.len;
        for (size_t len = 1; len < whole; len += len < 700 ? 1 : 97) {
            f->sample.len = len;
            if (load(f) < 0) {
                assert_true(f->err.text[0] != '\0');
            }
        }
    }
}

static void test_odd_files(void **state)
{
    struct fixture *f = *state;
    f->sample.len = 0;
    expect_refused(f, "empty");
    memcpy(f->file, "#!/bin/sh\n", 10);
    f->sample.len = 10;
    expect_refused(f, "23 21 2f 62");
    f->sample.len = 2;
    expect_refused(f, "bzImage");
    _cleanup_close_ int dir = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->req.kernel.fd = dir;
    assert_int_equal(boot_load(&f->req, &f->res, &f->err), -EINVAL);
    assert_non_null(strstr(f->err.text, "regular file"));
    f->req.kernel.fd = -1;
    assert_int_equal(boot_load(&f->req, &f->res, &f->err), -EBADF);
}

static void test_initrd_and_cmdline_limits(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *text = malloc(MIB + 1);
    sample_elf(&f->sample, true, false, false);
    f->req.initrd.fd = memfd_create("big", MFD_CLOEXEC);
    assert_int_equal(ftruncate(f->req.initrd.fd, (off_t)RAM), 0);
    expect_refused(f, "initrd ramdisk");
    assert_int_equal(ftruncate(f->req.initrd.fd, INT64_C(1) << 40), 0);
    expect_refused(f, "initrd ramdisk");
    assert_int_equal(ftruncate(f->req.initrd.fd, 0), 0);
    expect_refused(f, "empty");
    close(f->req.initrd.fd);
    f->req.initrd.fd = -1;
    assert_non_null(text);
    memset(text, 'x', MIB);
    text[MIB] = '\0';
    f->req.cmdline = text;
    assert_int_equal(load(f), -E2BIG);
    assert_int_equal(f->err.code, ERR_LIMIT);
    memset(f->file, 0, sizeof(f->file));
    sample_elf(&f->sample, false, false, true);
    assert_true(load(f) < 0);
    memset(f->file, 0, sizeof(f->file));
    sample_elf(&f->sample, true, true, false);
    assert_true(load(f) < 0);
}

static void test_linux_cmdline_default(void **state)
{
    struct fixture *f = *state;
    f->req.cmdline = NULL;
    f->req.linux_cmdline = "console=ttyS0";
    sample_elf(&f->sample, true, false, false);
    expect_load(f, BOOT_VMLINUX);
    uint8_t zp[4096];
    assert_int_equal(mem_read(f->mem, GPA(f->res.cpu.gpr[X86_RSI]), zp, sizeof(zp)), 0);
    expect_text(f, get_le32(zp + LH_CMDLINE), "console=ttyS0");
}

static void test_mtrrs(void **state)
{
    struct fixture *f = *state;
    sample_elf(&f->sample, true, false, false);
    f->req.phys_bits = 40;
    f->req.hole_base = 0xb0000000;
    expect_load(f, BOOT_VMLINUX);
    const struct vcpu_state *s = &f->res.cpu;
    assert_int_equal(s->mtrr_def_type, 0x806);
    assert_int_equal(s->mtrr_var[0][0], 0xb0000000);
    assert_int_equal(s->mtrr_var[0][1], 0xfff0000800);
    assert_int_equal(s->mtrr_var[1][0], 0xc0000000);
    assert_int_equal(s->mtrr_var[1][1], 0xffc0000800);
    assert_int_equal(s->mtrr_var[2][1], 0);
}

static void test_map(void **state)
{
    struct boot_map map = {0};
    uint64_t base = 0;
    (void)state;
    assert_int_equal(boot_map_mark(&map, 0, 16 * MIB, BOOT_MAP_RAM), 0);
    assert_int_equal(boot_map_mark(&map, 4 * MIB, MIB, BOOT_MAP_USED), 0);
    assert_int_equal(map.n, 3);
    assert_true(boot_map_is_free(&map, 0, 4 * MIB));
    assert_false(boot_map_is_free(&map, 4 * MIB - 1, 2));
    assert_false(boot_map_is_free(&map, 16 * MIB - 1, 2));
    assert_false(boot_map_is_free(&map, UINT64_MAX, 2));
    assert_true(boot_map_is_free(&map, 5 * MIB, 11 * MIB));
    /* A mark over several entries cuts and joins. */
    assert_int_equal(boot_map_mark(&map, 3 * MIB, 3 * MIB, BOOT_MAP_RAM), 0);
    assert_int_equal(map.n, 1);
    assert_int_equal(boot_map_mark(&map, 64 * MIB, MIB, BOOT_MAP_RESERVED), 0);
    assert_int_equal(boot_map_mark(&map, 8 * MIB, 128 * MIB, BOOT_MAP_ACPI), 0);
    assert_int_equal(map.n, 2);
    assert_int_equal(boot_map_mark(&map, UINT64_MAX, 2, BOOT_MAP_RAM), -EINVAL);
    assert_int_equal(boot_map_find_high(&map, 100, 4096, 0, UINT64_MAX, &base), 0);
    assert_int_equal(base, 8 * MIB - 4096);
    assert_int_equal(boot_map_find_high(&map, 100, 4096, 0, 8 * MIB - 1, &base), 0);
    assert_int_equal(base, 8 * MIB - 4096);
    assert_int_equal(boot_map_find_low(&map, MIB, 2 * MIB, 1, UINT64_MAX, &base), 0);
    assert_int_equal(base, 2 * MIB);
    assert_int_equal(boot_map_find_low(&map, 9 * MIB, 1, 0, UINT64_MAX, &base), -ENOMEM);
    /* Full. */
    map.n = 0;
    for (unsigned i = 0; i < BOOT_MAP_MAX; i++) {
        assert_int_equal(boot_map_mark(&map, i * 2 * MIB, MIB, BOOT_MAP_RAM), 0);
    }
    assert_int_equal(boot_map_mark(&map, 1000 * MIB, MIB, BOOT_MAP_RAM), -ENOSPC);
    assert_int_equal(map.n, BOOT_MAP_MAX);
}

/* The kernel of the default guest, if it has been made. */
static void test_debian_kernel(void **state)
{
    struct fixture *f = *state;
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char path[512];
    snprintf(path, sizeof(path), "%s%s/vivarium/default-guest/vmlinuz",
             cache != NULL  ? cache
             : home != NULL ? home
                            : "",
             cache != NULL ? "" : "/.cache");
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        skip();
    }
    struct mem *mem;
    assert_int_equal(mem_new(&mem, &f->err), 0);
    assert_int_equal(mem_slot_add(mem, GPA(0), 256 * MIB, MEM_RAM, &f->err), 0);
    assert_int_equal(boot_map_from_mem(&f->map, mem, &f->err), 0);
    f->req.mem = mem;
    f->req.kernel = (struct boot_source){.fd = fd, .name = path};
    int r = boot_load(&f->req, &f->res, &f->err);
    if (r < 0) {
        print_error("%s\n", f->err.text);
    }
    assert_int_equal(r, 0);
    assert_int_equal(f->res.kind, BOOT_LINUX_UNPACKED);
    assert_int_equal(f->res.entry, 0x1000000);
    mem_free(mem);
    /* And it does not fit 16 MiB: one clear line. */
    f->req.mem = f->mem;
    assert_int_equal(boot_map_from_mem(&f->map, f->mem, &f->err), 0);
    assert_int_equal(boot_load(&f->req, &f->res, &f->err), -ENOMEM);
    assert_non_null(strstr(f->err.text, "more memory"));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_vmlinux),
        T(test_vmlinux_entry_may_be_linear),
        T(test_bss_is_cleared_on_a_second_load),
        T(test_pvh),
        T(test_multiboot),
        T(test_multiboot_modules),
        T(test_multiboot_kludge),
        T(test_multiboot_refusals),
        T(test_elf_refusals),
        T(test_elf_segments),
        T(test_note_sizes),
        T(test_bzimage_entries),
        T(test_bzimage_falls_back),
        T(test_bzimage_moves),
        T(test_bzimage_refusals),
        T(test_truncation),
        T(test_odd_files),
        T(test_initrd_and_cmdline_limits),
        T(test_linux_cmdline_default),
        T(test_mtrrs),
        cmocka_unit_test(test_map),
        T(test_debian_kernel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
