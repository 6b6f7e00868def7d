/*
 * ELF kernels (see elf.h). Everything in a file is hostile: counts and sizes are bounded before
 * use, sums are checked, a note advances by at least its header so that the search ends.
 * No locks, nothing saved. Missing: big-endian, PN_XNUM, compressed sections (none are loaded).
 */
#include "boot/elf.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"
#include "mem/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define PT_LOAD 1
#define PT_NOTE 4
#define ET_EXEC 2
#define ET_DYN  3

static void parse_phdr(struct elf_segment *s, const uint8_t *p, bool is64)
{
    s->type = get_le32(p);
    if (is64) {
        s->offset = get_le64(p + 8);
        s->vaddr = get_le64(p + 16);
        s->paddr = get_le64(p + 24);
        s->filesz = get_le64(p + 32);
        s->memsz = get_le64(p + 40);
        s->align = get_le64(p + 48);
    } else {
        s->offset = get_le32(p + 4);
        s->vaddr = get_le32(p + 8);
        s->paddr = get_le32(p + 12);
        s->filesz = get_le32(p + 16);
        s->memsz = get_le32(p + 20);
        s->align = get_le32(p + 28);
    }
}

static int check_segment(const struct elf_image *elf, unsigned i, struct err *err)
{
    const struct elf_segment *s = &elf->seg[i];
    uint64_t end;

    if (s->type != PT_LOAD) {
        return 0;
    }
    if (s->filesz > s->memsz) {
        return ERR(err, IMAGE_BAD, EINVAL,
                   "%s: ELF segment %u has p_filesz 0x%" PRIx64
                   ", more than its p_memsz 0x%" PRIx64,
                   elf->file.name, i, s->filesz, s->memsz);
    }
    if (!range_fits(s->offset, s->filesz, elf->file.size)) {
        return ERR(err, IMAGE_BAD, EINVAL,
                   "%s: ELF segment %u is at 0x%" PRIx64 " with 0x%" PRIx64
                   " bytes, but the file has 0x%" PRIx64 " (is it cut off?)",
                   elf->file.name, i, s->offset, s->filesz, elf->file.size);
    }
    if (!ckd_add(s->paddr, s->memsz, &end)) {
        return ERR(err, IMAGE_BAD, EINVAL,
                   "%s: ELF segment %u wraps around the address space (p_paddr 0x%" PRIx64
                   ", p_memsz 0x%" PRIx64 ")",
                   elf->file.name, i, s->paddr, s->memsz);
    }
    return 0;
}

static int check_header(struct elf_image *elf, const uint8_t *h, struct err *err)
{
    const char *name = elf->file.name;
    unsigned type = get_le16(h + 16);

    if (memcmp(h, ELF_MAGIC, 4) != 0) {
        return ERR(err, IMAGE_BAD, ENOEXEC,
                   "%s: starts with %02x %02x %02x %02x, an ELF with 7f 45 4c 46", name, h[0],
                   h[1], h[2], h[3]);
    }
    if ((h[4] != 1 && h[4] != 2) || h[5] != 1) {
        return ERR(err, IMAGE_BAD, ENOEXEC,
                   "%s: ELF class %u, data %u; should be class 1 or 2 and data 1 "
                   "(little-endian)",
                   name, h[4], h[5]);
    }
    elf->is64 = h[4] == 2;
    elf->machine = get_le16(h + 18);
    if (elf->machine != ELF_EM_X86_64 && elf->machine != ELF_EM_386) {
        return ERR(err, IMAGE_BAD, ENOEXEC,
                   "%s: ELF for machine %u; should be 62 (x86-64) or 3 (i386)", name,
                   elf->machine);
    }
    if (type != ET_EXEC && type != ET_DYN) {
        return ERR(err, IMAGE_BAD, ENOEXEC, "%s: ELF of type %u; should be 2 (executable) or 3",
                   name, type);
    }
    return 0;
}

int elf_open(struct elf_image *elf, const struct boot_file *file, struct err *err)
{
    uint8_t h[64] = {0}, p[56];
    uint64_t phoff;
    unsigned phentsize, phnum;
    size_t want;
    int r;

    memset(elf, 0, sizeof(*elf));
    elf->file = *file;
    if ((r = boot_file_read(file, 0, h, 52, "the ELF header", err)) < 0 ||
        (r = check_header(elf, h, err)) < 0) {
        return r;
    }
    if (elf->is64 && (r = boot_file_read(file, 0, h, 64, "the ELF header", err)) < 0) {
        return r;
    }
    elf->entry = elf->is64 ? get_le64(h + 24) : get_le32(h + 24);
    phoff = elf->is64 ? get_le64(h + 32) : get_le32(h + 28);
    phentsize = get_le16(h + (elf->is64 ? 54 : 42));
    phnum = get_le16(h + (elf->is64 ? 56 : 44));
    want = elf->is64 ? 56 : 32;
    if (phentsize != want || phnum == 0 || phnum > ELF_PHNUM_MAX) {
        return ERR(err, IMAGE_BAD, ENOEXEC,
                   "%s: ELF with %u program headers of %u bytes; should be 1 to %d of %zu",
                   file->name, phnum, phentsize, ELF_PHNUM_MAX, want);
    }
    if (!range_fits(phoff, (uint64_t)phnum * want, file->size)) {
        return ERR(err, IMAGE_BAD, EINVAL,
                   "%s: ELF program headers at 0x%" PRIx64 " lie outside the file (0x%" PRIx64
                   " bytes)",
                   file->name, phoff, file->size);
    }
    for (unsigned i = 0; i < phnum; i++) {
        r = boot_file_read(file, phoff + (uint64_t)i * want, p, want, "an ELF program header",
                           err);
        if (r < 0) {
            return r;
        }
        parse_phdr(&elf->seg[i], p, elf->is64);
        elf->n = i + 1;
        if ((r = check_segment(elf, i, err)) < 0) {
            return r;
        }
    }
    return 0;
}

/* Walks one PT_NOTE. 1: found. */
static int scan_notes(const uint8_t *p, uint64_t len, uint64_t align, uint32_t *ret_entry)
{
    uint64_t off = 0;

    align = align == 8 ? 8 : 4;
    while (range_fits(off, 12, len)) {
        uint64_t namesz = get_le32(p + off), descsz = get_le32(p + off + 4);
        uint32_t type = get_le32(p + off + 8);
        uint64_t name = off + 12;
        uint64_t desc = align_up(name + namesz, align);
        if (!range_fits(desc, descsz, len)) {
            return 0;
        }
        if (type == XEN_NOTE_ENTRY && namesz == 4 && memcmp(p + name, "Xen", 4) == 0 &&
            descsz >= 4) {
            *ret_entry = get_le32(p + desc);
            return 1;
        }
        off = align_up(desc + descsz, align);
    }
    return 0;
}

int elf_find_pvh(const struct elf_image *elf, uint32_t *ret_entry, struct err *err)
{
    for (unsigned i = 0; i < elf->n; i++) {
        const struct elf_segment *s = &elf->seg[i];
        uint32_t entry;
        if (s->type != PT_NOTE || s->filesz == 0) {
            continue;
        }
        if (s->filesz > ELF_NOTE_MAX) {
            return ERR(err, IMAGE_BAD, EINVAL,
                       "%s: ELF note segment %u has %" PRIu64 " bytes; at most %d are read",
                       elf->file.name, i, s->filesz, ELF_NOTE_MAX);
        }
        _cleanup_free_ uint8_t *notes = malloc((size_t)s->filesz);
        if (notes == NULL) {
            return ERR(err, NO_MEMORY, ENOMEM, "no memory for ELF notes");
        }
        int r =
            boot_file_read(&elf->file, s->offset, notes, (size_t)s->filesz, "an ELF note", err);
        if (r < 0) {
            return r;
        }
        if (scan_notes(notes, s->filesz, s->align, &entry) > 0) {
            if (ret_entry != NULL) {
                *ret_entry = entry;
            }
            return 1;
        }
    }
    return 0;
}

int elf_load(const struct elf_image *elf, struct boot_ctx *ctx, bool zero_rest,
             uint64_t *ret_end, struct err *err)
{
    uint64_t top = 0;
    int r;

    for (unsigned i = 0; i < elf->n; i++) {
        const struct elf_segment *s = &elf->seg[i];
        char what[40];
        if (s->type != PT_LOAD || s->memsz == 0) {
            continue;
        }
        snprintf(what, sizeof(what), "ELF segment %u", i);
        if ((r = boot_claim(ctx, s->paddr, s->memsz, what, err)) < 0 ||
            (r = boot_file_load(&elf->file, s->offset, s->filesz, ctx->mem, s->paddr, what,
                                err)) < 0) {
            return r;
        }
        if (zero_rest && s->memsz > s->filesz &&
            mem_fill(ctx->mem, GPA(s->paddr + s->filesz), 0, (size_t)(s->memsz - s->filesz)) <
                0) {
            return ERR(err, INTERNAL, EFAULT, "%s: clearing %s failed", elf->file.name, what);
        }
        top = MAX(top, s->paddr + s->memsz);
    }
    if (top == 0) {
        return ERR(err, IMAGE_BAD, ENOEXEC, "%s: ELF without anything to load (no PT_LOAD)",
                   elf->file.name);
    }
    *ret_end = top;
    return 0;
}

int elf_entry(const struct elf_image *elf, uint64_t entry, uint64_t *ret_phys, struct err *err)
{
    for (unsigned i = 0; i < elf->n; i++) {
        const struct elf_segment *s = &elf->seg[i];
        if (s->type == PT_LOAD && entry >= s->paddr && entry - s->paddr < s->memsz) {
            *ret_phys = entry;
            return 0;
        }
    }
    for (unsigned i = 0; i < elf->n; i++) {
        const struct elf_segment *s = &elf->seg[i];
        if (s->type == PT_LOAD && entry >= s->vaddr && entry - s->vaddr < s->memsz) {
            *ret_phys = s->paddr + (entry - s->vaddr);
            return 0;
        }
    }
    return ERR(err, IMAGE_BAD, ENOEXEC,
               "%s: the entry point 0x%" PRIx64 " lies in no loaded ELF segment",
               elf->file.name, entry);
}
