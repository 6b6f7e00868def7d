/*
 * Register blocks described by tables. A block is a sorted table of registers; their values
 * live in an array of the device (one uint64_t each, saved with STATE_UINTS). regs_read and
 * regs_write slice an access of 1, 2, 4 or 8 bytes at any offset over the registers that it
 * touches.
 *
 * Bytes that no register covers read as zero and ignore writes. A register that is touched by
 * several accesses sees each alone; bytes that an access does not cover keep their value, and
 * neither clear write-one-to-clear bits.
 *
 * No lock inside: the device's lock is held by the caller.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct reg;

/* What a read returns instead of the stored value; the readable mask applies to the result. */
typedef uint64_t reg_read_fn(void *opaque, const struct reg *reg, uint64_t stored);
/* Runs after the stored value changed from old to now; covered: bits that the access wrote. */
typedef void reg_write_fn(void *opaque, const struct reg *reg, uint64_t old, uint64_t now,
                          uint64_t covered);

struct reg {
    const char *name;
    uint32_t offset;     /* bytes from the block's start; ascending, no overlap */
    uint8_t width_bytes; /* 1 to 8 */
    uint8_t arg;         /* for the hooks: index of a timer or pin */
    uint64_t readable;   /* other bits read as zero */
    uint64_t writable;   /* bits that a write sets as given */
    uint64_t w1c;        /* bits that a one clears */
    uint64_t reset;
    reg_read_fn *on_read;   /* optional */
    reg_write_fn *on_write; /* optional; called for every access that covers the register */
};

struct regs {
    const struct reg *table;
    size_t n;
    uint64_t *values; /* n of them, the device's */
    void *opaque;     /* for the hooks */
};

void regs_reset(const struct regs *regs);
uint64_t regs_read(const struct regs *regs, uint64_t offset, unsigned len);
void regs_write(const struct regs *regs, uint64_t offset, unsigned len, uint64_t value);
/* Drops bits that no write could have stored: for values from a state stream. */
void regs_sanitize(const struct regs *regs);
