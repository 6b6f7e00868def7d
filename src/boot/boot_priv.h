/* Shared by the loaders of this folder. */
#pragma once

#include "boot/boot.h"

#include <stddef.h>

/* A file being loaded: what fstat said at the start bounds every later access. */
struct boot_file {
    int fd;
    const char *name;
    uint64_t size;
};

struct boot_ctx {
    const struct boot_request *req;
    struct mem *mem;
    struct boot_map map; /* free RAM is what is left of BOOT_MAP_RAM */
    struct boot_file kernel;
    const char *cmdline; /* never NULL */
    struct boot_result *ret;
};

/* boot_file.c */
int boot_file_open(struct boot_file *f, const struct boot_source *src, const char *what,
                   struct err *err);
/* Exactly len bytes at off, or an error that says the file is too short for `what`. */
int boot_file_read(const struct boot_file *f, uint64_t off, void *buf, size_t len,
                   const char *what, struct err *err);
/* Bytes [off, off+len) of the file to gpa, which the caller has claimed. */
int boot_file_load(const struct boot_file *f, uint64_t off, uint64_t len, struct mem *mem,
                   uint64_t gpa, const char *what, struct err *err);

/* boot.c: takes RAM for the guest's use; the error names `what`, range and reason. */
int boot_claim(struct boot_ctx *ctx, uint64_t base, uint64_t size, const char *what,
               struct err *err);
int boot_claim_low(struct boot_ctx *ctx, uint64_t size, uint64_t align, const char *what,
                   uint64_t *ret_base, struct err *err);
int boot_store(struct boot_ctx *ctx, uint64_t gpa, const void *data, size_t len,
               const char *what, struct err *err);
/* Loads a file to the highest free place below limit, page aligned. An absent one: size 0. */
int boot_load_high(struct boot_ctx *ctx, const struct boot_source *src, uint64_t limit,
                   const char *what, uint64_t *ret_base, uint64_t *ret_size, struct err *err);
/* The first 1 MiB less its first page; loaders' tables go there. */
#define BOOT_LOW_MIN UINT64_C(0x1000)
#define BOOT_LOW_MAX UINT64_C(0xa0000)

/* boot_cpu.c: CPU state of each way in. Each also stores the tables it needs. */
#define BOOT_SEL_CS 0x10
#define BOOT_SEL_DS 0x18
int boot_cpu_long(struct boot_ctx *ctx, uint64_t rip, struct err *err);
int boot_cpu_prot(struct boot_ctx *ctx, uint32_t eip, struct err *err);
void boot_cpu_real(struct boot_ctx *ctx, uint16_t cs, uint16_t ip, uint16_t ds, uint16_t sp);

/* linux_params.c: the zero page. hdr is the setup header as in the file (from offset 1F1h). */
struct linux_setup {
    uint8_t hdr[0x7f]; /* 1F1h to 270h; absent fields zero */
    size_t hdr_len;
    uint64_t initrd_max; /* highest address an initrd byte may have */
    uint32_t cmdline_max;
};
int linux_cmdline_check(const struct boot_ctx *ctx, const struct linux_setup *setup,
                        struct err *err);
int linux_params_store(struct boot_ctx *ctx, const struct linux_setup *setup, uint64_t *ret_gpa,
                       struct err *err);
/* A header as a loader makes it up for a kernel that comes without one. */
void linux_setup_default(struct linux_setup *setup);

/* The loaders: each gets a file whose kind is certain. */
bool bzimage_probe(const struct boot_file *f);
int bzimage_load(struct boot_ctx *ctx, struct err *err);
int vmlinux_load(struct boot_ctx *ctx, struct err *err);
int pvh_load(struct boot_ctx *ctx, struct err *err);
/* 0 not found, 1 found; *ret_off is where the header is. Negative: unreadable. */
int multiboot_probe(const struct boot_file *f, uint64_t *ret_off);
int multiboot_load(struct boot_ctx *ctx, struct err *err);

/* unpack_client.c: runs viv-unpack on [off, off+len) of f; *ret_fd is a memfd with the result
 * of at most max_bytes. */
int boot_unpack(const struct boot_file *f, uint64_t off, uint64_t len, uint64_t max_bytes,
                const char *helper, int *ret_fd, struct err *err);
