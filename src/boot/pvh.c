/*
 * PVH direct boot: an ELF with the Xen note PHYS32_ENTRY is entered in 32-bit protected mode
 * with struct hvm_start_info, version 1, in EBX (Xen, public/arch-x86/hvm/start_info.h and
 * docs/misc/pvh.pandoc). No locks, nothing saved.
 */
#include "base/bytes.h"
#include "base/ckd.h"
#include "boot/boot_priv.h"
#include "boot/elf.h"
#include "mem/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define START_MAGIC   0x336ec578u
#define START_BYTES   56
#define MODULE_BYTES  32
#define MEMMAP_BYTES  24
#define MODULES_TOTAL (BOOT_MODULES_MAX + 1)

/* Loads one module file with its command line and describes it at p. */
static int load_module(struct boot_ctx *ctx, const struct boot_source *src, uint8_t *p,
                       struct err *err)
{
    uint64_t base, size, args = 0;
    int r = boot_load_high(ctx, src, UINT64_C(1) << 32, "module", &base, &size, err);

    if (r < 0) {
        return r;
    }
    if (src->args != NULL) {
        size_t len = strlen(src->args) + 1;
        if ((r = boot_claim_low(ctx, len, 8, "a module's command line", &args, err)) < 0 ||
            (r = boot_store(ctx, args, src->args, len, "a module's command line", err)) < 0) {
            return r;
        }
    }
    put_le64(p, base);
    put_le64(p + 8, size);
    put_le64(p + 16, args);
    return 0;
}

static int load_modules(struct boot_ctx *ctx, uint64_t *ret_list, uint32_t *ret_n,
                        struct err *err)
{
    const struct boot_request *req = ctx->req;
    uint8_t list[MODULES_TOTAL * MODULE_BYTES] = {0};
    uint32_t n = 0;
    int r;

    if (req->initrd.fd >= 0) {
        if ((r = load_module(ctx, &req->initrd, list, err)) < 0) {
            return r;
        }
        n++;
    }
    for (unsigned i = 0; i < req->n_modules; i++) {
        r = load_module(ctx, &req->modules[i], list + n * MODULE_BYTES, err);
        if (r < 0) {
            return r;
        }
        n++;
    }
    *ret_n = n;
    *ret_list = 0;
    if (n == 0) {
        return 0;
    }
    r = boot_claim_low(ctx, n * MODULE_BYTES, 8, "the module list", ret_list, err);
    return r < 0 ? r : boot_store(ctx, *ret_list, list, n * MODULE_BYTES, "modules", err);
}

static int store_memmap(struct boot_ctx *ctx, uint64_t *ret_gpa, struct err *err)
{
    const struct boot_map *map = ctx->req->map;
    uint8_t table[BOOT_MAP_MAX * MEMMAP_BYTES] = {0};
    size_t len = map->n * (size_t)MEMMAP_BYTES;

    for (unsigned i = 0; i < map->n; i++) {
        uint8_t *p = table + i * (size_t)MEMMAP_BYTES;
        put_le64(p, map->entry[i].base);
        put_le64(p + 8, map->entry[i].size);
        put_le32(p + 16, (uint32_t)map->entry[i].type);
    }
    int r = boot_claim_low(ctx, len, 8, "the memory map", ret_gpa, err);
    return r < 0 ? r : boot_store(ctx, *ret_gpa, table, len, "the memory map", err);
}

static int store_start_info(struct boot_ctx *ctx, uint64_t *ret_gpa, struct err *err)
{
    uint8_t info[START_BYTES] = {0};
    size_t cmdline_len = strlen(ctx->cmdline) + 1;
    uint64_t cmdline, modules, memmap;
    uint32_t n_modules;
    int r;

    if ((r = boot_claim_low(ctx, START_BYTES, 16, "the start info", ret_gpa, err)) < 0 ||
        (r = boot_claim_low(ctx, cmdline_len, 8, "the command line", &cmdline, err)) < 0 ||
        (r = boot_store(ctx, cmdline, ctx->cmdline, cmdline_len, "the command line", err)) <
            0 ||
        (r = store_memmap(ctx, &memmap, err)) < 0 ||
        (r = load_modules(ctx, &modules, &n_modules, err)) < 0) {
        return r;
    }
    put_le32(info, START_MAGIC);
    put_le32(info + 4, 1); /* version */
    put_le32(info + 12, n_modules);
    put_le64(info + 16, modules);
    put_le64(info + 24, cmdline);
    put_le64(info + 32, ctx->req->rsdp);
    put_le64(info + 40, memmap);
    put_le32(info + 48, ctx->req->map->n);
    return boot_store(ctx, *ret_gpa, info, sizeof(info), "the start info", err);
}

int pvh_load(struct boot_ctx *ctx, struct err *err)
{
    struct elf_image elf;
    uint64_t end, entry, info;
    uint32_t note;
    int r;

    if ((r = elf_open(&elf, &ctx->kernel, err)) < 0 ||
        (r = elf_find_pvh(&elf, &note, err)) < 0) {
        return r;
    }
    if (r == 0) {
        return ERR(err, IMAGE_BAD, ENOEXEC,
                   "kernel %s: has no Xen note of type 18 (PHYS32_ENTRY), so it is not a PVH "
                   "kernel",
                   ctx->kernel.name);
    }
    if ((r = elf_entry(&elf, note, &entry, err)) < 0 ||
        (r = elf_load(&elf, ctx, true, &end, err)) < 0) {
        return r;
    }
    if (entry > UINT32_MAX) {
        return ERR(err, IMAGE_BAD, ENOEXEC,
                   "kernel %s: PVH entry 0x%" PRIx64 " lies above 4 GiB", ctx->kernel.name,
                   entry);
    }
    ctx->ret->kind = BOOT_PVH;
    ctx->ret->entry = entry;
    if ((r = boot_cpu_prot(ctx, (uint32_t)entry, err)) < 0 ||
        (r = store_start_info(ctx, &info, err)) < 0) {
        return r;
    }
    ctx->ret->cpu.gpr[X86_RBX] = info;
    return 0;
}
