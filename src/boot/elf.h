/*
 * ELF executables as kernels: headers checked, PT_LOAD segments put at their physical
 * addresses. System V ABI (gABI 4.1) chapters 4 and 5; both classes, little-endian x86 only.
 */
#pragma once

#include "boot/boot_priv.h"

#define ELF_MAGIC      "\177ELF"
#define ELF_PHNUM_MAX  64
#define ELF_EM_386     3
#define ELF_EM_X86_64  62
#define ELF_NOTE_MAX   65536 /* bytes of one PT_NOTE */
#define XEN_NOTE_ENTRY 18    /* XEN_ELFNOTE_PHYS32_ENTRY */

struct elf_segment {
    uint32_t type;
    uint64_t offset, vaddr, paddr, filesz, memsz, align;
};

struct elf_image {
    struct boot_file file;
    bool is64;
    uint16_t machine;
    uint64_t entry; /* as the header says */
    unsigned n;
    struct elf_segment seg[ELF_PHNUM_MAX];
};

/* Reads and checks the headers. */
int elf_open(struct elf_image *elf, const struct boot_file *file, struct err *err);

/* 1 and the entry address when a Xen PHYS32_ENTRY note is there, 0 when not. ret may be NULL.
 */
int elf_find_pvh(const struct elf_image *elf, uint32_t *ret_entry, struct err *err);

/* Claims and loads every PT_LOAD. zero_rest: clear what a segment has beyond the file's bytes.
 */
int elf_load(const struct elf_image *elf, struct boot_ctx *ctx, bool zero_rest,
             uint64_t *ret_end, struct err *err);

/* The entry as a physical address inside a loaded segment; linear ones are translated. */
int elf_entry(const struct elf_image *elf, uint64_t entry, uint64_t *ret_phys, struct err *err);
