/*
 * Direct boot: puts a kernel and what goes with it into guest memory, and gives the state in
 * which the boot CPU starts.
 *
 * What a file is, its bytes decide, never its name: Linux bzImage (its kernel unpacked by a
 * helper process, or entered as it is), Linux vmlinux, PVH and multiboot 1 kernels. Every file
 * comes as a descriptor, is read by position with bounds, and each header is copied once before
 * it is checked and used; a file that changes meanwhile gives an error or a guest that does not
 * start, no more.
 *
 * Called before vCPUs run. The caller makes the memory map (boot_map_from_mem, its own reserved
 * ranges, ACPI tables by acpi_build), then boot_load.
 */
#pragma once

#include "base/err.h"
#include "boot/boot_map.h"
#include "cpu/vcpu_state.h"

#include <stdbool.h>
#include <stdint.h>

struct mem;

/* X(enum suffix, name) */
#define BOOT_KINDS(X)                                                                          \
    X(AUTO, "auto")                                                                            \
    X(LINUX_UNPACKED, "linux-unpacked") /* bzImage, its vmlinux entered directly */            \
    X(LINUX64, "linux64")               /* bzImage, 64-bit entry */                            \
    X(LINUX32, "linux32")               /* bzImage, 32-bit entry */                            \
    X(LINUX16, "linux16")               /* bzImage, real-mode entry; needs a BIOS */           \
    X(VMLINUX, "vmlinux")               /* ELF64, entered by the 64-bit Linux protocol */      \
    X(PVH, "pvh")                                                                              \
    X(MULTIBOOT, "multiboot")

enum boot_kind {
#define X(name, text) BOOT_##name,
    BOOT_KINDS(X)
#undef X
};

struct boot_source {
    int fd;           /* borrowed, a regular file; -1: none */
    const char *name; /* for messages and, for multiboot, the guest */
    const char *args; /* module's command line, may be NULL; only modules */
};

#define BOOT_MODULES_MAX 64

struct boot_request {
    struct mem *mem;
    const struct boot_map *map;
    struct boot_source kernel;
    struct boot_source initrd;         /* multiboot and PVH: the first module */
    const struct boot_source *modules; /* further ones: multiboot and PVH only */
    unsigned n_modules;
    const char *cmdline; /* NULL: none given */
    /* For a Linux kernel (all but PVH and MULTIBOOT) when none is given; NULL: empty. */
    const char *linux_cmdline;
    uint64_t rsdp;       /* of the ACPI tables; 0: none */
    enum boot_kind kind; /* AUTO, or insist on one */
    /* Program that unpacks; NULL: viv-unpack beside this program, then the libexec folder. */
    const char *unpack_path;
    /* For the variable MTRRs: [hole_base, 4 GiB) is uncached. phys_bits 0: leave them off. */
    unsigned phys_bits;
    uint64_t hole_base;
};

struct boot_result {
    struct vcpu_state cpu;
    enum boot_kind kind;
    uint64_t entry;
    char remark[160]; /* why not the first choice; empty if nothing to say */
};

int boot_load(const struct boot_request *req, struct boot_result *ret, struct err *err);

const char *boot_kind_name(enum boot_kind kind);
