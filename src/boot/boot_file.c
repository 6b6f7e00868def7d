/*
 * Bounded reading of the files a VM boots from. The size is taken once; a file that shrinks
 * while it is read gives an error, one that is rewritten gives other bytes, which the callers
 * treat like any others: every header is copied once. No locks, nothing saved.
 */
#include "boot/boot_priv.h"

#include "base/ckd.h"
#include "mem/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BOOT_FILE_MAX (UINT64_C(16) * GIB)

int boot_file_open(struct boot_file *f, const struct boot_source *src, const char *what,
                   struct err *err)
{
    struct stat st;
    const char *name = src->name != NULL ? src->name : what;

    if (fstat(src->fd, &st) < 0) {
        int e = errno;
        return ERR(err, IO, e, "%s %s: %s", what, name, strerror(e));
    }
    if (!S_ISREG(st.st_mode)) {
        return ERR(err, IMAGE_BAD, EINVAL, "%s %s: is not a regular file", what, name);
    }
    if (st.st_size == 0) {
        return ERR(err, IMAGE_BAD, EINVAL, "%s %s: the file is empty", what, name);
    }
    if ((uint64_t)st.st_size > BOOT_FILE_MAX) {
        return ERR(err, IMAGE_BAD, EFBIG, "%s %s: %" PRIu64 " bytes are more than 16 GiB", what,
                   name, (uint64_t)st.st_size);
    }
    *f = (struct boot_file){.fd = src->fd, .name = name, .size = (uint64_t)st.st_size};
    return 0;
}

/* pread that goes on after a short read; the number of bytes there were, or -errno. */
static ssize_t read_at(int fd, void *buf, size_t len, uint64_t off)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = pread(fd, (uint8_t *)buf + done, len - done, (off_t)(off + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return -errno;
        }
        if (n == 0) {
            break;
        }
        done += (size_t)n;
    }
    return (ssize_t)done;
}

int boot_file_read(const struct boot_file *f, uint64_t off, void *buf, size_t len,
                   const char *what, struct err *err)
{
    if (!range_fits(off, len, f->size)) {
        return ERR(err, IMAGE_BAD, EINVAL,
                   "%s: %s needs bytes %" PRIu64 " to %" PRIu64 ", but the file has %" PRIu64
                   " (is it cut off?)",
                   f->name, what, off, off + len, f->size);
    }
    ssize_t n = read_at(f->fd, buf, len, off);
    if (n < 0) {
        return ERR(err, IO, (int)-n, "%s: reading %s: %s", f->name, what, strerror((int)-n));
    }
    if ((size_t)n != len) {
        return ERR(err, IO, EIO, "%s: the file became shorter while it was read", f->name);
    }
    return 0;
}

int boot_file_load(const struct boot_file *f, uint64_t off, uint64_t len, struct mem *mem,
                   uint64_t gpa, const char *what, struct err *err)
{
    uint8_t bounce[4096];

    if (!range_fits(off, len, f->size)) {
        return boot_file_read(f, off, NULL, len, what, err);
    }
    while (len > 0) {
        /* One slot at a time: a range may go on in the next slot, on other host memory. */
        const struct mem_slot *slot = mem_slot_find(mem, GPA(gpa));
        uint64_t here = slot != NULL ? slot->base.v + slot->size_bytes - gpa : 0;
        size_t n = (size_t)MIN(MIN(len, here), UINT64_C(1) << 24);
        void *span = n > 0 ? mem_span(mem, GPA(gpa), n, true) : NULL;
        if (n == 0) {
            return ERR(err, IMAGE_BAD, EFAULT, "%s: %s: no memory at 0x%" PRIx64, f->name, what,
                       gpa);
        }
        if (span == NULL) {
            n = MIN(n, sizeof(bounce));
        }
        int r = boot_file_read(f, off, span != NULL ? span : bounce, n, what, err);
        if (r < 0) {
            return r;
        }
        if (span != NULL) {
            mem_written(mem, GPA(gpa), n);
        } else if (mem_load(mem, GPA(gpa), bounce, n) < 0) {
            return ERR(err, IMAGE_BAD, EFAULT, "%s: %s: no memory at 0x%" PRIx64, f->name, what,
                       gpa);
        }
        off += n;
        gpa += n;
        len -= n;
    }
    return 0;
}
