/*
 * Direct boot: finds out what the kernel file is and runs its loader.
 *
 * Order of the tests: Linux setup header, multiboot header, PVH note, plain ELF64. The first
 * two carry magic numbers that an ELF file of another kind does not have at those places. Runs
 * on the caller's thread before any vCPU; nothing is saved.
 */
#include "boot/boot.h"

#include "base/ckd.h"
#include "boot/boot_priv.h"
#include "boot/elf.h"
#include "mem/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

const char *boot_kind_name(enum boot_kind kind)
{
    static const char *const names[] = {
#define X(name, text) text,
        BOOT_KINDS(X)
#undef X
    };
    return (unsigned)kind < ARRAY_LEN(names) ? names[kind] : "?";
}

int boot_claim(struct boot_ctx *ctx, uint64_t base, uint64_t size, const char *what,
               struct err *err)
{
    if (!boot_map_is_free(&ctx->map, base, size)) {
        return ERR(err, IMAGE_BAD, ENOMEM,
                   "%s: %s wants %" PRIu64 " KiB at 0x%" PRIx64
                   ", which is not free memory of this VM (%" PRIu64 " MiB in all); does it "
                   "need more memory?",
                   ctx->kernel.name, what, (size + KIB - 1) / KIB, base,
                   mem_ram_bytes(ctx->mem) / MIB);
    }
    if (boot_map_mark(&ctx->map, base, size, BOOT_MAP_USED) < 0) {
        return ERR(err, LIMIT, ENOSPC, "%s: too many separate pieces to load",
                   ctx->kernel.name);
    }
    return 0;
}

int boot_claim_low(struct boot_ctx *ctx, uint64_t size, uint64_t align, const char *what,
                   uint64_t *ret_base, struct err *err)
{
    uint64_t base;

    if (boot_map_find_low(&ctx->map, size, align, BOOT_LOW_MIN, BOOT_LOW_MAX, &base) < 0) {
        return ERR(err, IMAGE_BAD, ENOMEM,
                   "%s: no room for %s (%" PRIu64 " bytes) in the first 640 KiB of memory",
                   ctx->kernel.name, what, size);
    }
    int r = boot_claim(ctx, base, size, what, err);
    if (r == 0) {
        *ret_base = base;
    }
    return r;
}

int boot_store(struct boot_ctx *ctx, uint64_t gpa, const void *data, size_t len,
               const char *what, struct err *err)
{
    int r = mem_load(ctx->mem, GPA(gpa), data, len);
    if (r < 0) {
        return ERR(err, INTERNAL, -r, "%s: storing %s at 0x%" PRIx64 " failed",
                   ctx->kernel.name, what, gpa);
    }
    return 0;
}

int boot_load_high(struct boot_ctx *ctx, const struct boot_source *src, uint64_t limit,
                   const char *what, uint64_t *ret_base, uint64_t *ret_size, struct err *err)
{
    struct boot_file f;
    uint64_t base;
    int r;

    *ret_base = 0;
    *ret_size = 0;
    if (src->fd < 0) {
        return 0;
    }
    if ((r = boot_file_open(&f, src, what, err)) < 0) {
        return r;
    }
    if (boot_map_find_high(&ctx->map, f.size, MEM_PAGE_SIZE, MIB, limit, &base) < 0) {
        return ERR(err, IMAGE_BAD, ENOMEM,
                   "%s %s: its %" PRIu64 " KiB do not fit beside the kernel into %" PRIu64
                   " MiB of memory below 0x%" PRIx64 "; give the VM more memory",
                   what, f.name, f.size / KIB, mem_ram_bytes(ctx->mem) / MIB, limit);
    }
    if ((r = boot_claim(ctx, base, f.size, what, err)) < 0 ||
        (r = boot_file_load(&f, 0, f.size, ctx->mem, base, what, err)) < 0) {
        return r;
    }
    *ret_base = base;
    *ret_size = f.size;
    return 0;
}

/* What the bytes say. */
static int detect(const struct boot_ctx *ctx, enum boot_kind *ret_kind, struct err *err)
{
    const struct boot_file *f = &ctx->kernel;
    uint8_t magic[4] = {0};
    uint64_t off;
    struct elf_image elf;
    int r;

    if (bzimage_probe(f)) {
        *ret_kind = BOOT_LINUX_UNPACKED;
        return 0;
    }
    r = multiboot_probe(f, &off);
    if (r > 0) {
        *ret_kind = BOOT_MULTIBOOT;
        return 0;
    }
    r = boot_file_read(f, 0, magic, MIN(f->size, sizeof(magic)), "its first bytes", err);
    if (r < 0) {
        return r;
    }
    if (memcmp(magic, ELF_MAGIC, sizeof(magic)) != 0) {
        return ERR(err, IMAGE_BAD, ENOEXEC,
                   "kernel %s: starts with bytes %02x %02x %02x %02x and has no boot header; "
                   "it should be a Linux bzImage or an ELF, PVH or multiboot kernel",
                   f->name, magic[0], magic[1], magic[2], magic[3]);
    }
    if ((r = elf_open(&elf, f, err)) < 0) {
        return r;
    }
    r = elf_find_pvh(&elf, NULL, err);
    if (r < 0) {
        return r;
    }
    *ret_kind = r > 0 ? BOOT_PVH : BOOT_VMLINUX;
    return 0;
}

static bool kind_is_bzimage(enum boot_kind kind)
{
    return kind == BOOT_LINUX_UNPACKED || kind == BOOT_LINUX64 || kind == BOOT_LINUX32 ||
           kind == BOOT_LINUX16;
}

/* What to do: what was asked for, if the file can be that. */
static int choose(const struct boot_ctx *ctx, enum boot_kind *ret_kind, struct err *err)
{
    enum boot_kind asked = ctx->req->kind, found = BOOT_AUTO;
    int r = detect(ctx, &found, err);

    if (r < 0) {
        return r;
    }
    if (asked == BOOT_AUTO) {
        *ret_kind = kind_is_bzimage(found) ? BOOT_AUTO : found;
        return 0;
    }
    /* An ELF of one kind may well be one of another, too; its loader looks. */
    if (kind_is_bzimage(asked) != kind_is_bzimage(found)) {
        return ERR(err, IMAGE_BAD, ENOEXEC, "kernel %s: boot as %s asked for, but it is a %s",
                   ctx->kernel.name, boot_kind_name(asked),
                   kind_is_bzimage(found) ? "bzImage" : boot_kind_name(found));
    }
    *ret_kind = asked;
    return 0;
}

/* Write-back by default, the hole below 4 GiB uncached: what firmware leaves behind. Linux
 * turns PAT off when it finds MTRRs off. */
static void set_mtrrs(const struct boot_request *req, struct vcpu_state *cpu)
{
    uint64_t base = req->hole_base, end = UINT64_C(1) << 32;
    unsigned n = 0;

    cpu->mtrr_def_type = (1u << 11) | 6;
    if (req->phys_bits < 32 || req->phys_bits > 52 || base == 0) {
        return;
    }
    uint64_t phys_mask = (UINT64_C(1) << req->phys_bits) - 1;
    base &= ~(MEM_PAGE_SIZE - 1);
    while (base < end && n < VCPU_MTRR_VAR) {
        uint64_t size = base & -base;
        cpu->mtrr_var[n][0] = base; /* type 0: uncached */
        cpu->mtrr_var[n][1] = (phys_mask & ~(size - 1)) | (1u << 11);
        base += size;
        n++;
    }
}

static int run_loader(struct boot_ctx *ctx, enum boot_kind kind, struct err *err)
{
    switch (kind) {
    case BOOT_VMLINUX: return vmlinux_load(ctx, err);
    case BOOT_PVH: return pvh_load(ctx, err);
    case BOOT_MULTIBOOT: return multiboot_load(ctx, err);
    case BOOT_AUTO:
    case BOOT_LINUX_UNPACKED:
    case BOOT_LINUX64:
    case BOOT_LINUX32:
    case BOOT_LINUX16: return bzimage_load(ctx, err);
    }
    return ERR(err, USAGE, EINVAL, "boot kind %d does not exist", (int)kind);
}

int boot_load(const struct boot_request *req, struct boot_result *ret, struct err *err)
{
    struct boot_ctx ctx = {.req = req,
                           .mem = req->mem,
                           .map = *req->map,
                           .cmdline = req->cmdline != NULL ? req->cmdline : "",
                           .ret = ret};
    enum boot_kind kind = BOOT_AUTO;
    int r;

    memset(ret, 0, sizeof(*ret));
    if (req->n_modules > BOOT_MODULES_MAX) {
        return ERR(err, LIMIT, E2BIG, "%u boot modules; at most %d are possible",
                   req->n_modules, BOOT_MODULES_MAX);
    }
    if ((r = boot_file_open(&ctx.kernel, &req->kernel, "kernel", err)) < 0 ||
        (r = choose(&ctx, &kind, err)) < 0) {
        return r;
    }
    if (req->n_modules > 0 && kind != BOOT_PVH && kind != BOOT_MULTIBOOT) {
        return ERR(err, USAGE, EINVAL,
                   "kernel %s: a Linux kernel takes one initrd and no further modules",
                   ctx.kernel.name);
    }
    if (req->cmdline == NULL && req->linux_cmdline != NULL && kind != BOOT_PVH &&
        kind != BOOT_MULTIBOOT) {
        ctx.cmdline = req->linux_cmdline;
    }
    vcpu_state_reset(&ret->cpu, true);
    set_mtrrs(req, &ret->cpu);
    ret->kind = kind;
    return run_loader(&ctx, kind, err);
}
