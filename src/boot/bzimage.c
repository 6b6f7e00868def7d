/*
 * Linux bzImage, by the x86 boot protocol (kernel documentation, arch/x86/boot.rst),
 * version 2.02 and later.
 *
 * First choice: its compressed payload is unpacked on the host and the vmlinux in it is entered
 * directly, which spares the guest its own decompressor. Such a kernel runs at its default
 * address (no KASLR: the decompressor would have moved it). Otherwise, or when asked: the
 * 64-bit entry (load address + 200h), the 32-bit entry, or the real-mode entry, which needs
 * BIOS services. No locks, nothing saved.
 */
#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"
#include "boot/boot_priv.h"
#include "boot/elf.h"
#include "boot/linux_hdr.h"
#include "mem/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define SECTOR          512u
#define LOAD_LOW        UINT64_C(0x100000)
#define UNPACKED_MAX    (UINT64_C(1) << 30)
#define INITRD_MAX_OLD  0x37ffffff
#define CMDLINE_MAX_OLD 255
#define CMDLINE_MAX     65535

struct bzimage {
    struct linux_setup setup;
    unsigned version;
    uint64_t setup_bytes; /* boot sector and setup code */
    uint64_t pm_bytes;    /* the protected-mode part, to the end of the file */
    uint64_t init_size, pref_address, align;
    bool relocatable, has64, high;
    uint32_t payload_off, payload_len;
};

bool bzimage_probe(const struct boot_file *f)
{
    uint8_t h[8];

    return f->size >= 0x206 && boot_file_read(f, 0x1fe, h, sizeof(h), "header", NULL) == 0 &&
           get_le16(h) == 0xaa55 && get_le32(h + 4) == LH_MAGIC_VALUE;
}

/* Fields that a version does not have read as zero. */
static void trim_to_version(struct bzimage *bz)
{
    static const struct {
        unsigned version, offset;
    } since[] = {{0x0203, LH_INITRD_MAX},  {0x0205, LH_KERNEL_ALIGN}, {0x0206, LH_CMDLINE_SIZE},
                 {0x0208, LH_PAYLOAD_OFF}, {0x0209, LH_SETUP_DATA},   {0x020a, LH_PREF_ADDR}};
    size_t keep = sizeof(bz->setup.hdr);

    for (size_t i = 0; i < ARRAY_LEN(since); i++) {
        if (bz->version < since[i].version) {
            keep = since[i].offset - LH_START;
            break;
        }
    }
    keep = MIN(keep, bz->setup.hdr_len);
    memset(bz->setup.hdr + keep, 0, sizeof(bz->setup.hdr) - keep);
}

static int check_sizes(const struct bzimage *bz, const struct boot_file *f, uint64_t syssize,
                       struct err *err)
{
    if (bz->setup_bytes >= f->size) {
        return ERR(err, IMAGE_BAD, EINVAL,
                   "kernel %s: setup_sects says that the kernel starts at byte %" PRIu64
                   ", but the file has %" PRIu64 " (is it cut off?)",
                   f->name, bz->setup_bytes, f->size);
    }
    /* syssize counts 16-byte units, rounded up; 0 in files older than it. */
    if (syssize * 16 > bz->pm_bytes + 15) {
        return ERR(err, IMAGE_BAD, EINVAL,
                   "kernel %s: syssize says %" PRIu64 " bytes of kernel, but %" PRIu64
                   " are there (is the file cut off?)",
                   f->name, syssize * 16, bz->pm_bytes);
    }
    if (!range_fits(bz->payload_off, bz->payload_len, bz->pm_bytes)) {
        return ERR(err, IMAGE_BAD, EINVAL,
                   "kernel %s: payload_offset 0x%x and payload_length 0x%x reach past the "
                   "0x%" PRIx64 " bytes of kernel in the file",
                   f->name, bz->payload_off, bz->payload_len, bz->pm_bytes);
    }
    if (bz->align == 0 || !is_pow2(bz->align) || bz->align > GIB) {
        return ERR(err, IMAGE_BAD, EINVAL,
                   "kernel %s: kernel_alignment 0x%" PRIx64
                   " should be a power of two up to 1 GiB",
                   f->name, bz->align);
    }
    return 0;
}

static int parse_header(struct bzimage *bz, const struct boot_file *f, struct err *err)
{
    struct linux_setup *s = &bz->setup;
    uint64_t avail = MIN(f->size - LH_START, (uint64_t)sizeof(s->hdr));
    unsigned sects;
    int r;

    memset(bz, 0, sizeof(*bz));
    r = boot_file_read(f, LH_START, s->hdr, (size_t)avail, "the setup header", err);
    if (r < 0) {
        return r;
    }
    bz->version = get_le16(lh(s, LH_VERSION));
    if (bz->version < 0x0202) {
        return ERR(err, IMAGE_BAD, ENOTSUP,
                   "kernel %s: boot protocol %u.%02u; 2.02 (Linux 2.4) or later is needed",
                   f->name, bz->version >> 8, bz->version & 0xff);
    }
    /* As long as the header says it is, and at least what every version has. */
    s->hdr_len = (size_t)(*lh(s, LH_JUMP)) + 0x202 - LH_START;
    s->hdr_len = MIN(MAX(s->hdr_len, LH_INITRD_MAX - LH_START), sizeof(s->hdr));
    trim_to_version(bz);
    sects = *lh(s, LH_SETUP_SECTS);
    bz->setup_bytes = ((sects != 0 ? sects : 4) + UINT64_C(1)) * SECTOR;
    bz->pm_bytes = f->size > bz->setup_bytes ? f->size - bz->setup_bytes : 0;
    bz->high = (*lh(s, LH_LOADFLAGS) & LH_LOADED_HIGH) != 0;
    bz->relocatable = *lh(s, LH_RELOCATABLE) != 0;
    bz->has64 =
        bz->version >= 0x020c && (get_le16(lh(s, LH_XLOADFLAGS)) & LH_XLF_KERNEL64) != 0;
    bz->align = bz->version >= 0x0205 ? get_le32(lh(s, LH_KERNEL_ALIGN)) : 1;
    bz->pref_address = bz->version >= 0x020a ? get_le64(lh(s, LH_PREF_ADDR)) : LOAD_LOW;
    bz->init_size = get_le32(lh(s, LH_INIT_SIZE));
    bz->payload_off = get_le32(lh(s, LH_PAYLOAD_OFF));
    bz->payload_len = get_le32(lh(s, LH_PAYLOAD_LEN));
    s->initrd_max = get_le32(lh(s, LH_INITRD_MAX));
    s->initrd_max = bz->version >= 0x0203 ? s->initrd_max : INITRD_MAX_OLD;
    s->cmdline_max = get_le32(lh(s, LH_CMDLINE_SIZE));
    s->cmdline_max = bz->version >= 0x0206 ? MIN(s->cmdline_max, CMDLINE_MAX) : CMDLINE_MAX_OLD;
    return check_sizes(bz, f, get_le32(lh(s, LH_SYSSIZE)), err);
}

/* Where the protected-mode kernel goes: preferred address, else the lowest aligned place. */
static int place(struct boot_ctx *ctx, const struct bzimage *bz, uint64_t *ret_base,
                 struct err *err)
{
    uint64_t need = MAX(bz->init_size, bz->pm_bytes), base;
    int r;

    if (!bz->high) {
        return ERR(err, IMAGE_BAD, ENOTSUP,
                   "kernel %s: a zImage (loadflags without LOADED_HIGH); a bzImage is needed",
                   ctx->kernel.name);
    }
    base = bz->relocatable ? bz->pref_address : LOAD_LOW;
    if (bz->relocatable && !boot_map_is_free(&ctx->map, base, need) &&
        boot_map_find_low(&ctx->map, need, bz->align, LOAD_LOW, UINT64_C(1) << 32, &base) < 0) {
        base = bz->pref_address;
    }
    if (base >= UINT64_C(1) << 32) {
        return ERR(err, IMAGE_BAD, EINVAL,
                   "kernel %s: pref_address 0x%" PRIx64 " lies above 4 GiB", ctx->kernel.name,
                   base);
    }
    if ((r = boot_claim(ctx, base, need, "the kernel", err)) < 0 ||
        (r = boot_file_load(&ctx->kernel, bz->setup_bytes, bz->pm_bytes, ctx->mem, base,
                            "the kernel", err)) < 0) {
        return r;
    }
    *ret_base = base;
    return 0;
}

static int enter_wrapped(struct boot_ctx *ctx, struct bzimage *bz, bool is64, struct err *err)
{
    uint64_t base = 0, params = 0;
    int r;

    if ((r = place(ctx, bz, &base, err)) < 0) {
        return r;
    }
    put_le32(lh(&bz->setup, LH_CODE32), (uint32_t)base);
    ctx->ret->kind = is64 ? BOOT_LINUX64 : BOOT_LINUX32;
    ctx->ret->entry = is64 ? base + 0x200 : base;
    if ((r = linux_params_store(ctx, &bz->setup, &params, err)) < 0) {
        return r;
    }
    r = is64 ? boot_cpu_long(ctx, ctx->ret->entry, err)
             : boot_cpu_prot(ctx, (uint32_t)ctx->ret->entry, err);
    ctx->ret->cpu.gpr[X86_RSI] = params;
    return r;
}

/*
 * Real mode: setup code at 10000h, heap and command line above it in the same segment, as
 * boot.rst lays them out.
 */
#define REAL_BASE    UINT64_C(0x10000)
#define REAL_HEAP    0xe000u
#define REAL_CMDLINE (REAL_BASE + 0x10000)

static int enter_real(struct boot_ctx *ctx, struct bzimage *bz, struct err *err)
{
    uint8_t fields[LH_END - LH_LOADER_TYPE];
    uint64_t base = 0, initrd = 0, initrd_size = 0;
    size_t cmdline_len = strlen(ctx->cmdline) + 1;
    int r;

    bz->relocatable = false; /* the setup code jumps to code32_start */
    if ((r = linux_cmdline_check(ctx, &bz->setup, err)) < 0 ||
        (r = boot_claim(ctx, REAL_BASE, 0x10000, "the setup code", err)) < 0 ||
        (r = boot_claim(ctx, REAL_CMDLINE, cmdline_len, "the command line", err)) < 0 ||
        (r = place(ctx, bz, &base, err)) < 0) {
        return r;
    }
    if (bz->setup_bytes > REAL_HEAP - 0x1000) {
        return ERR(err, IMAGE_BAD, EINVAL,
                   "kernel %s: %" PRIu64 " bytes of setup code; at most %u fit",
                   ctx->kernel.name, bz->setup_bytes, REAL_HEAP - 0x1000);
    }
    r = boot_load_high(ctx, &ctx->req->initrd, bz->setup.initrd_max + 1, "initrd", &initrd,
                       &initrd_size, err);
    if (r < 0 || (r = boot_file_load(&ctx->kernel, 0, bz->setup_bytes, ctx->mem, REAL_BASE,
                                     "the setup code", err)) < 0) {
        return r;
    }
    *lh(&bz->setup, LH_LOADER_TYPE) = 0xff;
    *lh(&bz->setup, LH_LOADFLAGS) |= LH_CAN_USE_HEAP;
    put_le32(lh(&bz->setup, LH_CODE32), (uint32_t)base);
    put_le32(lh(&bz->setup, LH_INITRD), (uint32_t)initrd);
    put_le32(lh(&bz->setup, LH_INITRD_SIZE), (uint32_t)initrd_size);
    put_le16(lh(&bz->setup, LH_HEAP_END), REAL_HEAP - 0x200);
    put_le32(lh(&bz->setup, LH_CMDLINE), (uint32_t)REAL_CMDLINE);
    memcpy(fields, lh(&bz->setup, LH_LOADER_TYPE), sizeof(fields));
    size_t n = bz->setup.hdr_len - (LH_LOADER_TYPE - LH_START);
    if ((r = boot_store(ctx, REAL_BASE + LH_LOADER_TYPE, fields, MIN(n, sizeof(fields)),
                        "the setup header", err)) < 0 ||
        (r = boot_store(ctx, REAL_CMDLINE, ctx->cmdline, cmdline_len, "the command line",
                        err)) < 0) {
        return r;
    }
    ctx->ret->kind = BOOT_LINUX16;
    ctx->ret->entry = REAL_BASE + 0x200;
    boot_cpu_real(ctx, (uint16_t)((REAL_BASE >> 4) + 0x20), 0, (uint16_t)(REAL_BASE >> 4),
                  REAL_HEAP);
    return 0;
}

/* Zero page and 64-bit state for a kernel whose code is in place. */
static int enter_long(struct boot_ctx *ctx, const struct linux_setup *setup, uint64_t entry,
                      struct err *err)
{
    uint64_t params = 0;
    int r;

    if (entry >= UINT64_C(1) << 32) {
        return ERR(err, IMAGE_BAD, ENOEXEC,
                   "kernel %s: entry point 0x%" PRIx64 " lies above 4 GiB", ctx->kernel.name,
                   entry);
    }
    ctx->ret->entry = entry;
    if ((r = linux_params_store(ctx, setup, &params, err)) < 0 ||
        (r = boot_cpu_long(ctx, entry, err)) < 0) {
        return r;
    }
    ctx->ret->cpu.gpr[X86_RSI] = params;
    return 0;
}

/* 1: loaded; 0: this file cannot be booted so, ret->remark says why; negative: broken. */
static int enter_unpacked(struct boot_ctx *ctx, struct bzimage *bz, struct err *err)
{
    struct boot_map saved = ctx->map;
    _cleanup_close_ int fd = -1;
    struct elf_image elf;
    uint64_t end = 0, entry = 0;
    char *remark = ctx->ret->remark;
    size_t remark_len = sizeof(ctx->ret->remark);
    int r;

    if (!bz->has64 || bz->payload_len == 0) {
        snprintf(remark, remark_len, "the kernel has no %s",
                 bz->has64 ? "payload fields" : "64-bit entry");
        return 0;
    }
    r = boot_unpack(&ctx->kernel, bz->setup_bytes + bz->payload_off, bz->payload_len,
                    UNPACKED_MAX, ctx->req->unpack_path, &fd, err);
    if (r == -ENOTSUP || r == -ENOENT) {
        snprintf(remark, remark_len, "%s",
                 r == -ENOENT ? "the helper viv-unpack is not installed"
                              : "the kernel is compressed in a way unknown here");
        return 0;
    }
    if (r < 0) {
        return r;
    }
    struct boot_source src = {.fd = fd, .name = ctx->kernel.name};
    struct boot_file f;
    if ((r = boot_file_open(&f, &src, "unpacked kernel", err)) < 0 ||
        (r = elf_open(&elf, &f, err)) < 0 ||
        (r = elf_entry(&elf, elf.entry, &entry, err)) < 0) {
        return r;
    }
    if (!elf.is64 || elf.machine != ELF_EM_X86_64) {
        snprintf(remark, remark_len, "the kernel inside is not an ELF64 for x86-64");
        return 0;
    }
    /* The kernel clears its own bss. What is too large here may fit elsewhere, relocated. */
    if ((r = elf_load(&elf, ctx, false, &end, err)) < 0) {
        ctx->map = saved;
        return r;
    }
    ctx->ret->kind = BOOT_LINUX_UNPACKED;
    r = enter_long(ctx, &bz->setup, entry, err);
    return r < 0 ? r : 1;
}

int bzimage_load(struct boot_ctx *ctx, struct err *err)
{
    enum boot_kind kind = ctx->req->kind;
    struct bzimage bz;
    int r = parse_header(&bz, &ctx->kernel, err);

    if (r < 0) {
        return r;
    }
    if (kind == BOOT_AUTO || kind == BOOT_LINUX_UNPACKED) {
        r = enter_unpacked(ctx, &bz, err);
        if (r != 0) {
            return r < 0 ? r : 0;
        }
        if (kind == BOOT_LINUX_UNPACKED) {
            return ERR(err, IMAGE_BAD, ENOTSUP, "kernel %s: cannot be unpacked by us: %s",
                       ctx->kernel.name, ctx->ret->remark);
        }
        kind = bz.has64 ? BOOT_LINUX64 : BOOT_LINUX32;
    }
    if (kind == BOOT_LINUX64 && !bz.has64) {
        return ERR(err, IMAGE_BAD, ENOTSUP,
                   "kernel %s: has no 64-bit entry (xloadflags bit 0 is clear)",
                   ctx->kernel.name);
    }
    return kind == BOOT_LINUX16 ? enter_real(ctx, &bz, err)
                                : enter_wrapped(ctx, &bz, kind == BOOT_LINUX64, err);
}

/* A bare vmlinux: the same entry without a setup header to take facts from. */
int vmlinux_load(struct boot_ctx *ctx, struct err *err)
{
    struct linux_setup setup;
    struct elf_image elf;
    uint64_t end = 0, entry = 0;
    int r;

    if ((r = elf_open(&elf, &ctx->kernel, err)) < 0) {
        return r;
    }
    if (!elf.is64 || elf.machine != ELF_EM_X86_64) {
        return ERR(err, IMAGE_BAD, ENOEXEC,
                   "kernel %s: an ELF%d for machine %u without PVH note or multiboot header; "
                   "only a 64-bit Linux kernel can do without",
                   ctx->kernel.name, elf.is64 ? 64 : 32, elf.machine);
    }
    linux_setup_default(&setup);
    if ((r = elf_entry(&elf, elf.entry, &entry, err)) < 0 ||
        (r = elf_load(&elf, ctx, true, &end, err)) < 0) {
        return r;
    }
    return enter_long(ctx, &setup, entry, err);
}
