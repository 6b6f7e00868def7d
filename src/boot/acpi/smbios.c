/*
 * SMBIOS 3.0 tables (DMTF DSP0134 3.2): firmware, system, processor, memory array and device,
 * memory map, boot information. The entry point stands before the structures in one block. What
 * a guest shows in dmidecode; nothing in it is needed to run. No locks, nothing saved.
 */
#include "base/bytes.h"
#include "base/ckd.h"
#include "boot/acpi/acpi.h"

#include <string.h>

#define ENTRY_BYTES 32 /* 24, then up to a 16-byte boundary */
#define MAKER       "Vivarium"

struct writer {
    uint8_t *buf;
    size_t len, cap;
    bool failed;
};

/* One structure: `bytes` of formatted part, then its strings; returns the zeroed part. */
static uint8_t *add(struct writer *w, uint8_t type, uint16_t handle, size_t bytes,
                    const char *const *strings, size_t n)
{
    size_t text = n == 0 ? 2 : 1;

    for (size_t i = 0; i < n; i++) {
        text += strlen(strings[i]) + 1;
    }
    if (w->failed || bytes + text > w->cap - w->len) {
        w->failed = true;
        return NULL;
    }
    uint8_t *p = w->buf + w->len, *s = p + bytes;
    memset(p, 0, bytes + text);
    p[0] = type;
    p[1] = (uint8_t)bytes;
    put_le16(p + 2, handle);
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(strings[i]) + 1;
        memcpy(s, strings[i], len);
        s += len;
    }
    w->len += bytes + text;
    return p;
}

static void firmware_and_system(struct writer *w, const struct acpi_config *cfg)
{
    static const char *const firmware[] = {MAKER, VIV_VERSION, "01/01/2024"};
    static const char *const system[] = {MAKER, "Vivarium virtual machine", VIV_VERSION};
    uint8_t *p = add(w, 0, 0x000, 24, firmware, ARRAY_LEN(firmware));

    if (p != NULL) {
        p[4] = 1;
        p[5] = 2;
        put_le16(p + 6, 0xe800);
        p[8] = 3;
        put_le64(p + 10, UINT64_C(1) << 3); /* characteristics: none said */
        p[19] = 0x1c;                       /* a virtual machine, UEFI not, targeted content */
        p[22] = 0xff;
        p[23] = 0xff;
    }
    p = add(w, 1, 0x100, 27, system, ARRAY_LEN(system));
    if (p != NULL) {
        p[4] = 1;
        p[5] = 2;
        p[6] = 3;
        memcpy(p + 8, cfg->uuid, 16);
        p[24] = 6; /* woken by the power switch */
    }
}

static void processors(struct writer *w, const struct acpi_config *cfg)
{
    static const char *const strings[] = {"CPU 0", MAKER};
    uint8_t *p = add(w, 4, 0x400, 48, strings, ARRAY_LEN(strings));
    unsigned n = MIN(cfg->n_cpus, 255u);

    if (p != NULL) {
        p[4] = 1;
        p[5] = 3; /* central processor */
        p[6] = 1;
        p[7] = 2;
        p[0x18] = 0x41; /* socket populated, enabled */
        p[0x19] = 1;
        put_le16(p + 0x1a, 0xffff);
        put_le16(p + 0x1c, 0xffff);
        put_le16(p + 0x1e, 0xffff);
        p[0x23] = p[0x24] = p[0x25] = (uint8_t)n;
        put_le16(p + 0x26, 0x04 | (n > 1 ? 0x08 : 0)); /* 64-bit, multi-core */
        put_le16(p + 0x28, 2);
        put_le16(p + 0x2a, (uint16_t)MIN(cfg->n_cpus, 0xfffeu));
        put_le16(p + 0x2c, (uint16_t)MIN(cfg->n_cpus, 0xfffeu));
        put_le16(p + 0x2e, (uint16_t)MIN(cfg->n_cpus, 0xfffeu));
    }
}

static void memory(struct writer *w, uint64_t ram_bytes)
{
    static const char *const strings[] = {"DIMM 0", MAKER};
    uint64_t kib = ram_bytes / KIB, mib = ram_bytes / MIB;
    uint8_t *p = add(w, 16, 0x1000, 23, NULL, 0);

    if (p != NULL) {
        p[4] = 1; /* other */
        p[5] = 3; /* system memory */
        p[6] = 3; /* no error correction */
        put_le32(p + 7, kib < 0x80000000u ? (uint32_t)kib : 0x80000000u);
        put_le16(p + 11, 0xfffe);
        put_le16(p + 13, 1);
        put_le64(p + 15, kib < 0x80000000u ? 0 : ram_bytes);
    }
    p = add(w, 17, 0x1100, 40, strings, ARRAY_LEN(strings));
    if (p != NULL) {
        put_le16(p + 4, 0x1000);
        put_le16(p + 6, 0xfffe);
        put_le16(p + 8, 0xffff);
        put_le16(p + 10, 0xffff);
        put_le16(p + 12, mib < 0x7fff ? (uint16_t)mib : 0x7fff);
        p[14] = 9; /* DIMM */
        p[16] = 1;
        p[18] = 7; /* RAM */
        put_le16(p + 19, 2);
        p[23] = 2;
        put_le32(p + 28, mib < 0x7fff ? 0 : (uint32_t)mib);
    }
    p = add(w, 19, 0x1300, 31, NULL, 0);
    if (p != NULL) {
        put_le32(p + 4, UINT32_MAX); /* the 64-bit fields hold */
        put_le32(p + 8, UINT32_MAX);
        put_le16(p + 12, 0x1000);
        p[14] = 1;
        put_le64(p + 23, ram_bytes - 1);
    }
}

size_t smbios_build(uint8_t *buf, size_t cap, uint64_t gpa, const struct acpi_config *cfg,
                    uint64_t ram_bytes)
{
    struct writer w = {.buf = buf, .len = ENTRY_BYTES, .cap = cap};
    uint8_t sum = 0;

    if (cap < ENTRY_BYTES) {
        return 0;
    }
    firmware_and_system(&w, cfg);
    processors(&w, cfg);
    memory(&w, ram_bytes);
    add(&w, 32, 0x2000, 11, NULL, 0); /* boot status: no error */
    add(&w, 127, 0x7f00, 4, NULL, 0);
    if (w.failed) {
        return 0;
    }
    memset(buf, 0, ENTRY_BYTES);
    memcpy(buf, "_SM3_", 5);
    buf[6] = 24;
    buf[7] = 3; /* version 3.2 */
    buf[8] = 2;
    buf[10] = 1;
    put_le32(buf + 12, (uint32_t)(w.len - ENTRY_BYTES));
    put_le64(buf + 16, gpa + ENTRY_BYTES);
    for (size_t i = 0; i < 24; i++) {
        sum = (uint8_t)(sum + buf[i]);
    }
    buf[5] = (uint8_t)(0u - sum);
    return w.len;
}
