/* Kernels made up for tests and as seeds of the fuzz targets: small, well-formed, each with
 * marker bytes that a test finds again in guest memory. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SAMPLE_LOAD  0x200000u /* where ELF samples are loaded */
#define SAMPLE_CODE  "sample kernel code"
#define SAMPLE_ENTRY (SAMPLE_LOAD + 0x40)

struct sample {
    uint8_t *data; /* room for cap bytes, zeroed by the caller */
    size_t len, cap;
};

/* ELF with one PT_LOAD of 4 KiB in the file and 8 KiB in memory; with_pvh adds the Xen note,
 * with_multiboot a header. */
void sample_elf(struct sample *s, bool is64, bool with_pvh, bool with_multiboot);
/* Flat multiboot kernel by the address fields. */
void sample_kludge(struct sample *s);
/* bzImage (protocol 2.15, 64-bit entry) around a payload. */
void sample_bzimage(struct sample *s, const void *payload, size_t payload_len);

/* Offsets into the samples, for tests that damage them. */
#define SAMPLE_ELF64_PHDR 64
#define SAMPLE_ELF32_PHDR 52
#define SAMPLE_MB_OFF     0x800 /* multiboot header */
#define SAMPLE_NOTE_OFF   0x900
#define SAMPLE_BZ_PM      0x400 /* the protected-mode part: one setup sector */
