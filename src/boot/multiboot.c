/*
 * Multiboot 1 (Multiboot Specification 0.6.96): header in the first 8 KiB, kernel as ELF or by
 * the header's own addresses (flag 16), modules, memory map, command line, boot loader name.
 *
 * ELF64 kernels are taken as well, as GRUB does: entered in 32-bit mode like the others, at an
 * entry below 4 GiB. The command line begins with the kernel's name, as boot loaders give it.
 * Flag 2 (video mode) is a wish: there is no firmware to set one, the kernel is told so by a
 * clear flag. No locks, nothing saved. Missing: symbols, drives, APM, VBE.
 */
#include "base/bytes.h"
#include "base/ckd.h"
#include "boot/boot_priv.h"
#include "boot/elf.h"
#include "mem/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define MB_MAGIC     0x1badb002u
#define MB_EAX       0x2badb002u
#define MB_SEARCH    8192
#define MB_KLUDGE    0x10000u /* the address fields are valid */
#define MB_MUST_KNOW 0xffffu  /* bits that a loader has to understand */
#define MB_KNOWN     0x7u

#define MBI_BYTES   120
#define MBI_MEM     0x001u
#define MBI_CMDLINE 0x004u
#define MBI_MODS    0x008u
#define MBI_MMAP    0x040u
#define MBI_NAME    0x200u
#define MOD_BYTES   16
#define MMAP_BYTES  24
#define TEXT_MAX    65536u
#define LOADER_NAME "Vivarium " VIV_VERSION
#define MODULES_ALL (BOOT_MODULES_MAX + 1)

#ifndef VIV_VERSION
#define VIV_VERSION "unknown"
#endif

int multiboot_probe(const struct boot_file *f, uint64_t *ret_off)
{
    uint8_t head[MB_SEARCH];
    size_t len = (size_t)MIN(f->size, (uint64_t)sizeof(head));
    int r = boot_file_read(f, 0, head, len, "its first bytes", NULL);

    if (r < 0) {
        return r;
    }
    for (size_t off = 0; range_fits(off, 12, len); off += 4) {
        const uint8_t *p = head + off;
        if (get_le32(p) == MB_MAGIC &&
            (uint32_t)(get_le32(p) + get_le32(p + 4) + get_le32(p + 8)) == 0) {
            *ret_off = off;
            return 1;
        }
    }
    return 0;
}

/* Loads by the header's addresses; -EINVAL with a text when they make no sense. */
static int load_kludge(struct boot_ctx *ctx, uint64_t off, uint64_t *ret_entry, struct err *err)
{
    const struct boot_file *f = &ctx->kernel;
    uint8_t h[32];
    int r = boot_file_read(f, off, h, sizeof(h), "the multiboot header", err);

    if (r < 0) {
        return r;
    }
    uint64_t header = get_le32(h + 12), load = get_le32(h + 16);
    uint64_t load_end = get_le32(h + 20), bss_end = get_le32(h + 24);
    if (header < load || header - load > off) {
        return ERR(err, IMAGE_BAD, EINVAL,
                   "%s: multiboot load_addr 0x%" PRIx64 " and header_addr 0x%" PRIx64
                   " do not fit a header at byte %" PRIu64 " of the file",
                   f->name, load, header, off);
    }
    uint64_t from = off - (header - load);
    uint64_t len = load_end != 0 ? load_end - load : f->size - from;
    if ((load_end != 0 && load_end < load) || !range_fits(from, len, f->size)) {
        return ERR(err, IMAGE_BAD, EINVAL,
                   "%s: multiboot load_end_addr 0x%" PRIx64
                   " asks for more than the file's %" PRIu64 " bytes",
                   f->name, load_end, f->size);
    }
    uint64_t end = MAX(load + len, bss_end);
    if (len == 0 || (bss_end != 0 && bss_end < load + len)) {
        return ERR(err, IMAGE_BAD, EINVAL,
                   "%s: multiboot bss_end_addr 0x%" PRIx64 " lies before the end of the loaded "
                   "part, 0x%" PRIx64,
                   f->name, bss_end, load + len);
    }
    if ((r = boot_claim(ctx, load, end - load, "the kernel", err)) < 0 ||
        (r = boot_file_load(f, from, len, ctx->mem, load, "the kernel", err)) < 0) {
        return r;
    }
    if (end > load + len &&
        mem_fill(ctx->mem, GPA(load + len), 0, (size_t)(end - load - len)) < 0) {
        return ERR(err, INTERNAL, EFAULT, "%s: clearing the kernel's bss failed", f->name);
    }
    *ret_entry = get_le32(h + 28);
    if (*ret_entry < load || *ret_entry >= end) {
        return ERR(err, IMAGE_BAD, EINVAL,
                   "%s: multiboot entry_addr 0x%" PRIx64 " lies outside the loaded kernel",
                   f->name, *ret_entry);
    }
    return 0;
}

static int load_elf(struct boot_ctx *ctx, uint64_t *ret_entry, struct err *err)
{
    struct elf_image elf;
    uint64_t end;
    int r;

    if ((r = elf_open(&elf, &ctx->kernel, err)) < 0 ||
        (r = elf_entry(&elf, elf.entry, ret_entry, err)) < 0 ||
        (r = elf_load(&elf, ctx, true, &end, err)) < 0) {
        return r;
    }
    if (*ret_entry > UINT32_MAX) {
        return ERR(err, IMAGE_BAD, ENOEXEC,
                   "%s: entry point 0x%" PRIx64 " lies above 4 GiB; multiboot enters 32-bit "
                   "code",
                   ctx->kernel.name, *ret_entry);
    }
    return 0;
}

/* "name args" in low memory. */
static int store_text(struct boot_ctx *ctx, const char *name, const char *args,
                      const char *what, uint64_t *ret_gpa, struct err *err)
{
    size_t name_len = strlen(name), args_len = args != NULL ? strlen(args) : 0;
    size_t len = name_len + (args_len > 0 ? 1 + args_len : 0) + 1;
    int r;

    if (name_len > TEXT_MAX || args_len > TEXT_MAX) {
        return ERR(err, LIMIT, E2BIG, "%s of %s has %zu characters; at most %u are possible",
                   what, ctx->kernel.name, MAX(name_len, args_len), TEXT_MAX);
    }
    if ((r = boot_claim_low(ctx, len, 4, what, ret_gpa, err)) < 0 ||
        (r = boot_store(ctx, *ret_gpa, name, name_len + 1, what, err)) < 0) {
        return r;
    }
    if (args_len > 0) {
        r = boot_store(ctx, *ret_gpa + name_len, " ", 1, what, err);
        return r < 0 ? r
                     : boot_store(ctx, *ret_gpa + name_len + 1, args, args_len + 1, what, err);
    }
    return 0;
}

static int load_module(struct boot_ctx *ctx, const struct boot_source *src, uint8_t *p,
                       struct err *err)
{
    uint64_t base = 0, size = 0, text = 0;
    int r;

    if ((r = boot_load_high(ctx, src, UINT64_C(1) << 32, "module", &base, &size, err)) < 0 ||
        (r = store_text(ctx, src->name != NULL ? src->name : "module", src->args,
                        "a module's command line", &text, err)) < 0) {
        return r;
    }
    put_le32(p, (uint32_t)base);
    put_le32(p + 4, (uint32_t)(base + size));
    put_le32(p + 8, (uint32_t)text);
    return 0;
}

static int load_modules(struct boot_ctx *ctx, uint8_t *mbi, struct err *err)
{
    const struct boot_request *req = ctx->req;
    uint8_t list[MODULES_ALL * MOD_BYTES] = {0};
    uint32_t n = 0;
    uint64_t gpa = 0;
    int r = 0;

    if (req->initrd.fd >= 0) {
        r = load_module(ctx, &req->initrd, list, err);
        n++;
    }
    for (unsigned i = 0; i < req->n_modules && r == 0; i++) {
        r = load_module(ctx, &req->modules[i], list + n * MOD_BYTES, err);
        n++;
    }
    if (r == 0 && n > 0) {
        r = boot_claim_low(ctx, n * MOD_BYTES, 4, "the module list", &gpa, err);
        r = r < 0 ? r : boot_store(ctx, gpa, list, n * MOD_BYTES, "the module list", err);
    }
    put_le32(mbi + 20, n);
    put_le32(mbi + 24, (uint32_t)gpa);
    return r;
}

/* Each entry: its own size less four, base, length, type. Also the two old-style sizes. */
static int store_mmap(struct boot_ctx *ctx, uint8_t *mbi, struct err *err)
{
    const struct boot_map *map = ctx->req->map;
    uint8_t table[BOOT_MAP_MAX * MMAP_BYTES] = {0};
    size_t len = map->n * (size_t)MMAP_BYTES;
    uint64_t gpa;

    for (unsigned i = 0; i < map->n; i++) {
        const struct boot_map_entry *e = &map->entry[i];
        uint8_t *p = table + i * (size_t)MMAP_BYTES;
        uint64_t end = e->base + e->size;
        put_le32(p, MMAP_BYTES - 4);
        put_le64(p + 4, e->base);
        put_le64(p + 12, e->size);
        put_le32(p + 20, (uint32_t)e->type);
        if (e->type == BOOT_MAP_RAM && e->base == 0) {
            put_le32(mbi + 4, (uint32_t)(MIN(end, 640 * KIB) / KIB));
        }
        if (e->type == BOOT_MAP_RAM && e->base <= MIB && end > MIB) {
            put_le32(mbi + 8, (uint32_t)MIN((end - MIB) / KIB, UINT32_MAX));
        }
    }
    int r = boot_claim_low(ctx, len, 4, "the memory map", &gpa, err);
    put_le32(mbi + 44, (uint32_t)len);
    put_le32(mbi + 48, (uint32_t)gpa);
    return r < 0 ? r : boot_store(ctx, gpa, table, len, "the memory map", err);
}

static int store_info(struct boot_ctx *ctx, uint64_t *ret_gpa, struct err *err)
{
    uint8_t mbi[MBI_BYTES] = {0};
    uint64_t text = 0, name = 0;
    int r;

    if ((r = boot_claim_low(ctx, MBI_BYTES, 16, "multiboot information", ret_gpa, err)) < 0 ||
        (r = store_text(ctx, ctx->kernel.name, ctx->cmdline, "the command line", &text, err)) <
            0 ||
        (r = store_text(ctx, LOADER_NAME, NULL, "the loader's name", &name, err)) < 0 ||
        (r = store_mmap(ctx, mbi, err)) < 0 || (r = load_modules(ctx, mbi, err)) < 0) {
        return r;
    }
    put_le32(mbi, MBI_MEM | MBI_CMDLINE | MBI_MODS | MBI_MMAP | MBI_NAME);
    put_le32(mbi + 16, (uint32_t)text);
    put_le32(mbi + 64, (uint32_t)name);
    return boot_store(ctx, *ret_gpa, mbi, sizeof(mbi), "multiboot information", err);
}

int multiboot_load(struct boot_ctx *ctx, struct err *err)
{
    uint64_t off = 0, entry = 0, info = 0;
    uint8_t h[8];
    int r = multiboot_probe(&ctx->kernel, &off);

    if (r <= 0) {
        return ERR(
            err, IMAGE_BAD, ENOEXEC,
            "kernel %s: has no multiboot header (magic 1badb002 and a right checksum) in "
            "its first 8 KiB",
            ctx->kernel.name);
    }
    r = boot_file_read(&ctx->kernel, off, h, sizeof(h), "the multiboot header", err);
    if (r < 0) {
        return r;
    }
    uint32_t flags = get_le32(h + 4);
    if ((flags & MB_MUST_KNOW & ~MB_KNOWN) != 0) {
        return ERR(err, IMAGE_BAD, ENOTSUP,
                   "kernel %s: multiboot flags 0x%x ask for features other than 0x%x, which "
                   "are all there are",
                   ctx->kernel.name, flags, MB_KNOWN);
    }
    r = (flags & MB_KLUDGE) != 0 ? load_kludge(ctx, off, &entry, err)
                                 : load_elf(ctx, &entry, err);
    if (r < 0) {
        return r;
    }
    ctx->ret->kind = BOOT_MULTIBOOT;
    ctx->ret->entry = entry;
    if ((r = boot_cpu_prot(ctx, (uint32_t)entry, err)) < 0 ||
        (r = store_info(ctx, &info, err)) < 0) {
        return r;
    }
    ctx->ret->cpu.gpr[X86_RAX] = MB_EAX;
    ctx->ret->cpu.gpr[X86_RBX] = info;
    return 0;
}
