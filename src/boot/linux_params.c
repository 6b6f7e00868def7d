/*
 * The zero page (struct boot_params) of the Linux/x86 boot protocol, with initrd, command line
 * and memory map. Linux kernel, Documentation/arch/x86/boot.rst and zero-page.rst (offsets
 * below). No locks, nothing saved. Missing: screen_info (there is no firmware video mode), EFI,
 * EDD.
 */
#include "base/bytes.h"
#include "base/ckd.h"
#include "boot/boot_priv.h"
#include "boot/linux_hdr.h"
#include "mem/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

#define ZP_BYTES        4096
#define ZP_RSDP         0x070
#define ZP_EXT_RD_IMAGE 0x0c0
#define ZP_EXT_RD_SIZE  0x0c4
#define ZP_EXT_CMDLINE  0x0c8
#define ZP_ALT_MEM_K    0x1e0
#define ZP_E820_ENTRIES 0x1e8
#define ZP_E820_TABLE   0x2d0
#define ZP_E820_MAX     128
#define E820_ENTRY      20

#define SETUP_DATA_RNG_SEED 9
#define RNG_SEED_BYTES      32

void linux_setup_default(struct linux_setup *setup)
{
    memset(setup, 0, sizeof(*setup));
    setup->hdr_len = LH_END - LH_START;
    put_le16(lh(setup, LH_BOOT_FLAG), 0xaa55);
    put_le32(lh(setup, LH_MAGIC), LH_MAGIC_VALUE);
    put_le16(lh(setup, LH_VERSION), 0x020f);
    *lh(setup, LH_LOADFLAGS) = LH_LOADED_HIGH;
    put_le32(lh(setup, LH_KERNEL_ALIGN), 16 * MIB);
    setup->initrd_max = 0x7fffffff;
    setup->cmdline_max = 2047;
}

int linux_cmdline_check(const struct boot_ctx *ctx, const struct linux_setup *setup,
                        struct err *err)
{
    size_t len = strlen(ctx->cmdline);

    if (len > setup->cmdline_max) {
        return ERR(err, LIMIT, E2BIG,
                   "the kernel command line has %zu characters; %s takes at most %u", len,
                   ctx->kernel.name, setup->cmdline_max);
    }
    return 0;
}

/* Gives the kernel's random number generator a start; Linux 6.0 and later take it. */
static int store_seed(struct boot_ctx *ctx, uint64_t *ret_gpa, struct err *err)
{
    uint8_t data[16 + RNG_SEED_BYTES] = {0};
    int r = boot_claim_low(ctx, sizeof(data), 16, "the random seed", ret_gpa, err);

    if (r < 0) {
        return r;
    }
    put_le32(data + 8, SETUP_DATA_RNG_SEED);
    put_le32(data + 12, RNG_SEED_BYTES);
    if (getrandom(data + 16, RNG_SEED_BYTES, 0) != RNG_SEED_BYTES) {
        return ERR(err, IO, EIO, "the host gives no random bytes");
    }
    r = boot_store(ctx, *ret_gpa, data, sizeof(data), "the random seed", err);
    explicit_bzero(data, sizeof(data));
    return r;
}

static void put_e820(uint8_t *zp, const struct boot_map *map)
{
    unsigned n = 0;

    for (unsigned i = 0; i < map->n && n < ZP_E820_MAX; i++) {
        uint8_t *p = zp + ZP_E820_TABLE + n * E820_ENTRY;
        put_le64(p, map->entry[i].base);
        put_le64(p + 8, map->entry[i].size);
        put_le32(p + 16, (uint32_t)map->entry[i].type);
        n++;
    }
    zp[ZP_E820_ENTRIES] = (uint8_t)n;
}

/* KiB of RAM from 1 MiB up without a gap; for code that reads no e820. */
static uint32_t ram_above_1m_kib(const struct boot_map *map)
{
    for (unsigned i = 0; i < map->n; i++) {
        const struct boot_map_entry *e = &map->entry[i];
        if (e->type == BOOT_MAP_RAM && e->base <= MIB && e->base + e->size > MIB) {
            return (uint32_t)MIN((e->base + e->size - MIB) / KIB, UINT32_MAX);
        }
    }
    return 0;
}

int linux_params_store(struct boot_ctx *ctx, const struct linux_setup *setup, uint64_t *ret_gpa,
                       struct err *err)
{
    uint8_t zp[ZP_BYTES] = {0};
    struct linux_setup s = *setup;
    uint64_t gpa, cmdline, seed, initrd, initrd_size;
    size_t cmdline_len = strlen(ctx->cmdline) + 1;
    int r;

    if ((r = linux_cmdline_check(ctx, setup, err)) < 0 ||
        (r = boot_claim_low(ctx, ZP_BYTES, MEM_PAGE_SIZE, "boot parameters", &gpa, err)) < 0 ||
        (r = boot_claim_low(ctx, cmdline_len, 16, "the command line", &cmdline, err)) < 0 ||
        (r = store_seed(ctx, &seed, err)) < 0 ||
        (r = boot_load_high(ctx, &ctx->req->initrd,
                            MIN(setup->initrd_max, UINT64_C(0xffffffff)) + 1, "initrd", &initrd,
                            &initrd_size, err)) < 0) {
        return r;
    }
    *lh(&s, LH_LOADER_TYPE) = 0xff;
    put_le16(lh(&s, LH_VID_MODE), 0xffff);
    put_le32(lh(&s, LH_CMDLINE), (uint32_t)cmdline);
    put_le32(lh(&s, LH_INITRD), (uint32_t)initrd);
    put_le32(lh(&s, LH_INITRD_SIZE), (uint32_t)initrd_size);
    if (get_le16(lh(&s, LH_VERSION)) >= 0x0209) {
        put_le64(lh(&s, LH_SETUP_DATA), seed);
    }
    memcpy(zp + LH_START, s.hdr, s.hdr_len);
    put_le64(zp + ZP_RSDP, ctx->req->rsdp);
    put_le32(zp + ZP_EXT_RD_IMAGE, (uint32_t)(initrd >> 32));
    put_le32(zp + ZP_EXT_RD_SIZE, (uint32_t)(initrd_size >> 32));
    put_le32(zp + ZP_EXT_CMDLINE, (uint32_t)(cmdline >> 32));
    put_le32(zp + ZP_ALT_MEM_K, ram_above_1m_kib(ctx->req->map));
    put_e820(zp, ctx->req->map);
    if ((r = boot_store(ctx, gpa, zp, sizeof(zp), "boot parameters", err)) < 0 ||
        (r = boot_store(ctx, cmdline, ctx->cmdline, cmdline_len, "the command line", err)) <
            0) {
        return r;
    }
    *ret_gpa = gpa;
    return 0;
}
