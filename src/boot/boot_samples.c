/*
 * Sample kernels (see boot_samples.h), written field by field from the same documents as the
 * loaders: gABI, Multiboot 0.6.96, Linux boot protocol. Test support only.
 */
#include "boot/boot_samples.h"

#include "base/bytes.h"
#include "boot/linux_hdr.h"

#define FILE_BYTES   0x1000
#define MEMORY_BYTES 0x2000

static void put_multiboot(uint8_t *p, uint32_t flags)
{
    put_le32(p, 0x1badb002);
    put_le32(p + 4, flags);
    put_le32(p + 8, 0u - 0x1badb002u - flags);
}

static void put_phdr(uint8_t *p, bool is64, uint32_t type, uint32_t off, uint32_t addr,
                     uint32_t filesz, uint32_t memsz)
{
    put_le32(p, type);
    if (is64) {
        put_le32(p + 4, 7);
        put_le64(p + 8, off);
        put_le64(p + 16, UINT64_C(0xffffffff80000000) + addr);
        put_le64(p + 24, addr);
        put_le64(p + 32, filesz);
        put_le64(p + 40, memsz);
        put_le64(p + 48, 4);
    } else {
        put_le32(p + 4, off);
        put_le32(p + 8, addr);
        put_le32(p + 12, addr);
        put_le32(p + 16, filesz);
        put_le32(p + 20, memsz);
        put_le32(p + 24, 7);
        put_le32(p + 28, 4);
    }
}

static void put_note(uint8_t *p)
{
    /* Another note before ours: the search has to walk. */
    put_le32(p, 4);
    put_le32(p + 4, 5);
    put_le32(p + 8, 1);
    memcpy(p + 12, "GNU", 4);
    put_le32(p + 24, 4);
    put_le32(p + 28, 4);
    put_le32(p + 32, 18);
    memcpy(p + 36, "Xen", 4);
    put_le32(p + 40, SAMPLE_ENTRY);
}

void sample_elf(struct sample *s, bool is64, bool with_pvh, bool with_multiboot)
{
    uint8_t *d = s->data, *ph = d + (is64 ? SAMPLE_ELF64_PHDR : SAMPLE_ELF32_PHDR);
    size_t phsize = is64 ? 56 : 32;

    if (s->cap < FILE_BYTES) {
        s->len = 0;
        return;
    }
    memcpy(d, "\177ELF", 4);
    d[4] = is64 ? 2 : 1;
    d[5] = d[6] = 1;
    put_le16(d + 16, 2);
    put_le16(d + 18, is64 ? 62 : 3);
    put_le32(d + 20, 1);
    if (is64) {
        put_le64(d + 24, SAMPLE_ENTRY);
        put_le64(d + 32, SAMPLE_ELF64_PHDR);
        put_le16(d + 52, 64);
        put_le16(d + 54, (uint16_t)phsize);
        put_le16(d + 56, with_pvh ? 2 : 1);
    } else {
        put_le32(d + 24, SAMPLE_ENTRY);
        put_le32(d + 28, SAMPLE_ELF32_PHDR);
        put_le16(d + 40, 52);
        put_le16(d + 42, (uint16_t)phsize);
        put_le16(d + 44, with_pvh ? 2 : 1);
    }
    put_phdr(ph, is64, 1, 0, SAMPLE_LOAD, FILE_BYTES, MEMORY_BYTES);
    if (with_pvh) {
        put_phdr(ph + phsize, is64, 4, SAMPLE_NOTE_OFF, SAMPLE_LOAD + SAMPLE_NOTE_OFF, 44, 44);
        put_note(d + SAMPLE_NOTE_OFF);
    }
    if (with_multiboot) {
        put_multiboot(d + SAMPLE_MB_OFF, 3);
    }
    memcpy(d + 0xa00, SAMPLE_CODE, sizeof(SAMPLE_CODE));
    s->len = FILE_BYTES;
}

void sample_kludge(struct sample *s)
{
    uint8_t *h = s->data + SAMPLE_MB_OFF;

    if (s->cap < FILE_BYTES) {
        s->len = 0;
        return;
    }
    put_multiboot(h, 0x10003);
    put_le32(h + 12, SAMPLE_LOAD + 0x100);        /* header_addr */
    put_le32(h + 16, SAMPLE_LOAD);                /* load_addr */
    put_le32(h + 20, SAMPLE_LOAD + 0x600);        /* load_end_addr */
    put_le32(h + 24, SAMPLE_LOAD + MEMORY_BYTES); /* bss_end_addr */
    put_le32(h + 28, SAMPLE_ENTRY);
    memcpy(s->data + 0xa00, SAMPLE_CODE, sizeof(SAMPLE_CODE));
    s->len = FILE_BYTES;
}

void sample_bzimage(struct sample *s, const void *payload, size_t payload_len)
{
    uint8_t *d = s->data;
    size_t payload_off = 0x300, pm = payload_off + payload_len + 0x40;

    if (s->cap < SAMPLE_BZ_PM + pm) {
        s->len = 0;
        return;
    }
    d[LH_SETUP_SECTS] = 1;
    put_le32(d + LH_SYSSIZE, (uint32_t)((pm + 15) / 16));
    put_le16(d + LH_BOOT_FLAG, 0xaa55);
    d[LH_JUMP - 1] = 0xeb;
    d[LH_JUMP] = 0x6a;
    put_le32(d + LH_MAGIC, LH_MAGIC_VALUE);
    put_le16(d + LH_VERSION, 0x020f);
    d[LH_LOADFLAGS] = LH_LOADED_HIGH;
    put_le32(d + LH_CODE32, 0x100000);
    put_le32(d + LH_INITRD_MAX, 0x7fffffff);
    put_le32(d + LH_KERNEL_ALIGN, 0x200000);
    d[LH_RELOCATABLE] = 1;
    put_le16(d + LH_XLOADFLAGS, 0x7f);
    put_le32(d + LH_CMDLINE_SIZE, 2047);
    put_le32(d + LH_PAYLOAD_OFF, (uint32_t)payload_off);
    put_le32(d + LH_PAYLOAD_LEN, (uint32_t)payload_len);
    put_le64(d + LH_PREF_ADDR, SAMPLE_LOAD);
    put_le32(d + LH_INIT_SIZE, 0x100000);
    memcpy(d + SAMPLE_BZ_PM + 0x200, SAMPLE_CODE, sizeof(SAMPLE_CODE));
    memcpy(d + SAMPLE_BZ_PM + payload_off, payload, payload_len);
    s->len = SAMPLE_BZ_PM + pm;
}
