/*
 * Register blocks described by tables (rules in regs.h).
 *
 * Thread and lock: the caller's. Saved: the device's value array. Missing: nothing.
 */
#include "dev/regs.h"

#include "base/ckd.h"

static uint64_t bytes_mask(unsigned bytes)
{
    return bytes >= 8 ? UINT64_MAX : (UINT64_C(1) << (bytes * 8)) - 1;
}

/* Index of the first register that ends after offset. */
static size_t regs_first(const struct regs *regs, uint64_t offset)
{
    size_t lo = 0, hi = regs->n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const struct reg *r = &regs->table[mid];
        if ((uint64_t)r->offset + r->width_bytes <= offset) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

/* Where an access of len bytes at offset and a register meet. */
struct overlap {
    unsigned reg_shift; /* bits into the register */
    unsigned acc_shift; /* bits into the access */
    unsigned bytes;
};

static struct overlap reg_overlap(const struct reg *r, uint64_t offset, unsigned len)
{
    uint64_t start = MAX(offset, (uint64_t)r->offset);
    uint64_t end = MIN(offset + len, (uint64_t)r->offset + r->width_bytes);

    return (struct overlap){
        .reg_shift = (unsigned)(start - r->offset) * 8,
        .acc_shift = (unsigned)(start - offset) * 8,
        .bytes = (unsigned)(end - start),
    };
}

void regs_reset(const struct regs *regs)
{
    for (size_t i = 0; i < regs->n; i++) {
        regs->values[i] = regs->table[i].reset;
    }
}

uint64_t regs_read(const struct regs *regs, uint64_t offset, unsigned len)
{
    uint64_t value = 0;

    if (len == 0 || len > 8 || offset > UINT32_MAX) {
        return 0;
    }
    for (size_t i = regs_first(regs, offset); i < regs->n; i++) {
        const struct reg *r = &regs->table[i];
        struct overlap o;
        uint64_t v;
        if (r->offset >= offset + len) {
            break;
        }
        o = reg_overlap(r, offset, len);
        v = regs->values[i];
        if (r->on_read != NULL) {
            v = r->on_read(regs->opaque, r, v);
        }
        v = (v & r->readable) >> o.reg_shift & bytes_mask(o.bytes);
        value |= v << o.acc_shift;
    }
    return value;
}

void regs_write(const struct regs *regs, uint64_t offset, unsigned len, uint64_t value)
{
    if (len == 0 || len > 8 || offset > UINT32_MAX) {
        return;
    }
    for (size_t i = regs_first(regs, offset); i < regs->n; i++) {
        const struct reg *r = &regs->table[i];
        uint64_t covered, given, old, now;
        struct overlap o;
        if (r->offset >= offset + len) {
            break;
        }
        o = reg_overlap(r, offset, len);
        covered = bytes_mask(o.bytes) << o.reg_shift;
        given = (value >> o.acc_shift & bytes_mask(o.bytes)) << o.reg_shift;
        old = regs->values[i];
        now = (old & ~(covered & r->writable)) | (given & r->writable);
        now &= ~(given & r->w1c);
        regs->values[i] = now;
        if (r->on_write != NULL) {
            r->on_write(regs->opaque, r, old, now, covered);
        }
    }
}

void regs_sanitize(const struct regs *regs)
{
    for (size_t i = 0; i < regs->n; i++) {
        const struct reg *r = &regs->table[i];
        uint64_t variable = r->writable | r->w1c;
        regs->values[i] = (regs->values[i] & variable) | (r->reset & ~variable);
    }
}
