/*
 * Raw files and block devices as a block node. Opening, locking, and running one request with
 * plain system calls (preadv2(2), fallocate(2), fdatasync(2)); io_uring or threads decide
 * where.
 *
 * Thread and lock: any thread; only atomics here. The file's page cache is used: a write that
 * is done is in the host's memory, a flush makes it durable. Saved: nothing. Missing: O_DIRECT,
 * resize, zones, SCSI reservations.
 */
#include "block/raw_priv.h"

#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define DISCARD_MAX (UINT64_C(1) << 30)
#define ZERO_CHUNK  (64 * 1024)
#define IOV_BATCH   64

struct raw {
    struct block_node node;
    int fd;             /* owned */
    struct uring *ring; /* NULL: everything goes to the pool */
    struct pool pool;
    bool no_punch; /* atomic: the file system refused */
    bool no_zero_range;
    bool no_nowait_read, no_nowait_write;
};

static const uint8_t zeroes[ZERO_CHUNK];

static struct raw *of(struct block_node *node)
{
    return container_of(node, struct raw, node);
}

/* ---- one request with plain system calls: 0 or -errno ---- */

/* The iovecs of req from byte `skip` on, at most IOV_BATCH of them. */
static unsigned tail_iov(const struct block_req *req, uint64_t skip,
                         struct iovec out[IOV_BATCH])
{
    unsigned n = 0;
    for (unsigned i = 0; i < req->iov_count && n < IOV_BATCH; i++) {
        const struct iovec *v = &req->iov[i];
        if (skip >= v->iov_len) {
            skip -= v->iov_len;
            continue;
        }
        out[n++] = (struct iovec){(uint8_t *)v->iov_base + skip, v->iov_len - (size_t)skip};
        skip = 0;
    }
    return n;
}

static int run_rw(const struct raw *raw, const struct block_req *req)
{
    uint64_t done = req->priv[RAW_PRIV_DONE];
    bool write = req->op == BLOCK_WRITE;
    int flags = write && (req->flags & BLOCK_REQ_FUA) != 0 ? RWF_DSYNC : 0;

    while (done < req->len_bytes) {
        struct iovec iov[IOV_BATCH];
        unsigned count = tail_iov(req, done, iov);
        off_t at = (off_t)(req->offset_bytes + done);
        ssize_t n = write ? pwritev2(raw->fd, iov, (int)count, at, flags)
                          : preadv2(raw->fd, iov, (int)count, at, 0);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -EIO;
        }
        done += (uint64_t)n;
    }
    return 0;
}

static int run_fallocate(const struct raw *raw, const struct block_req *req)
{
    int rc;
    do {
        rc = fallocate(raw->fd, (int)req->priv[RAW_PRIV_FMODE], (off_t)req->offset_bytes,
                       (off_t)req->len_bytes);
    } while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : -errno;
}

static int write_zeroes(const struct raw *raw, const struct block_req *req)
{
    for (uint64_t done = 0; done < req->len_bytes;) {
        size_t n = (size_t)MIN(req->len_bytes - done, (uint64_t)ZERO_CHUNK);
        ssize_t w = pwrite(raw->fd, zeroes, n, (off_t)(req->offset_bytes + done));
        if (w < 0 && errno == EINTR) {
            continue;
        }
        if (w <= 0) {
            return w < 0 ? -errno : -EIO;
        }
        done += (uint64_t)w;
    }
    return 0;
}

static int fdatasync_rc(const struct raw *raw)
{
    return fdatasync(raw->fd) == 0 ? 0 : -errno;
}

static int run_range(struct raw *raw, const struct block_req *req)
{
    int rc = req->len_bytes == 0                 ? 0
             : req->priv[RAW_PRIV_FALLBACK] != 0 ? -EOPNOTSUPP
                                                 : run_fallocate(raw, req);
    if (rc == -EOPNOTSUPP) {
        bool punch = (req->priv[RAW_PRIV_FMODE] & FALLOC_FL_PUNCH_HOLE) != 0;
        __atomic_store_n(punch ? &raw->no_punch : &raw->no_zero_range, true, __ATOMIC_RELAXED);
        /* A discard that frees nothing is a correct discard. */
        rc = req->op == BLOCK_DISCARD ? 0 : write_zeroes(raw, req);
    }
    if (rc == 0 && (req->flags & BLOCK_REQ_FUA) != 0) {
        rc = fdatasync_rc(raw);
    }
    return rc;
}

static int run(void *opaque, struct block_req *req)
{
    struct raw *raw = opaque;
    switch (req->op) {
    case BLOCK_READ:
    case BLOCK_WRITE: return run_rw(raw, req);
    case BLOCK_FLUSH: return fdatasync_rc(raw);
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES: return run_range(raw, req);
    }
    return -EINVAL;
}

/* ---- the node ---- */

static void raw_submit(struct block_node *node, struct block_req *req)
{
    struct raw *raw = of(node);
    bool direct = raw->ring != NULL;
    memset(req->priv, 0, sizeof(req->priv));
    /* Where the file system can not write without waiting, io_uring would hand it to threads of
     * its own, which is slower than ours. */
    if (req->op == BLOCK_WRITE && __atomic_load_n(&raw->no_nowait_write, __ATOMIC_RELAXED)) {
        direct = false;
    }
    if (req->op == BLOCK_DISCARD || req->op == BLOCK_WRITE_ZEROES) {
        bool punch = req->op == BLOCK_DISCARD || (req->flags & BLOCK_REQ_MAY_UNMAP) != 0;
        req->priv[RAW_PRIV_FMODE] =
            punch ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_ZERO_RANGE;
        bool refused =
            __atomic_load_n(punch ? &raw->no_punch : &raw->no_zero_range, __ATOMIC_RELAXED);
        req->priv[RAW_PRIV_FALLBACK] = refused;
        direct = direct && !refused && req->len_bytes != 0 && (req->flags & BLOCK_REQ_FUA) == 0;
    }
    if (direct) {
        uring_submit(raw->ring, req);
    } else {
        pool_push(&raw->pool, req);
    }
}

/* Without waiting for the disk: what is in the page cache, or can be put into it. */
static int raw_try(struct block_node *node, const struct block_req *req)
{
    struct raw *raw = of(node);
    bool write = req->op == BLOCK_WRITE;
    bool *refused = write ? &raw->no_nowait_write : &raw->no_nowait_read;
    bool rw = write || req->op == BLOCK_READ;

    if (!rw || (req->flags & BLOCK_REQ_FUA) != 0 ||
        __atomic_load_n(refused, __ATOMIC_RELAXED)) {
        return -EAGAIN;
    }
    off_t at = (off_t)req->offset_bytes;
    int count = (int)req->iov_count;
    ssize_t n = write ? pwritev2(raw->fd, req->iov, count, at, RWF_NOWAIT)
                      : preadv2(raw->fd, req->iov, count, at, RWF_NOWAIT);
    if (n < 0 && (errno == EOPNOTSUPP || errno == EINVAL)) {
        __atomic_store_n(refused, true, __ATOMIC_RELAXED);
    }
    /* A part, or an error: done again, and judged, on the way through submit. */
    return n == (ssize_t)req->len_bytes ? 0 : -EAGAIN;
}

static void divert(void *opaque, struct block_req *req)
{
    struct raw *raw = opaque;
    pool_push(&raw->pool, req);
}

static void raw_kick(struct block_node *node)
{
    if (of(node)->ring != NULL) {
        uring_kick(of(node)->ring);
    }
}

static void raw_free(struct block_node *node)
{
    struct raw *raw = of(node);
    if (raw->ring != NULL) {
        uring_free(raw->ring);
    }
    pool_done(&raw->pool);
    close(raw->fd); /* drops the lock with it */
    free(raw);
}

static const struct block_ops raw_ops = {.name = "raw",
                                         .threads = BLOCK_ANY_THREAD,
                                         .submit = raw_submit,
                                         .try_now = raw_try,
                                         .kick = raw_kick,
                                         .free = raw_free};

/* ---- opening ---- */

static int open_file(const struct block_raw_cfg *cfg, int *ret_fd, struct err *err)
{
    int mode = cfg->readonly ? O_RDONLY : O_RDWR;
    if (cfg->fd >= 0) {
        *ret_fd = cfg->fd;
        return 0;
    }
    if (cfg->path == NULL) {
        return ERR(err, SPEC_BAD, EINVAL, "disk: neither a path nor a descriptor");
    }
    /* Not to hang in the open of a FIFO; taken away again in check_type. */
    int fd = open(cfg->path, mode | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 && errno == ENOENT) {
        return ERR(err, NOT_FOUND, ENOENT, "disk %s: no such file", cfg->path);
    }
    if (fd < 0) {
        return ERR(err, IO, errno, "disk %s: can not open it for %s: %s", cfg->path,
                   cfg->readonly ? "reading" : "reading and writing", strerror(errno));
    }
    *ret_fd = fd;
    return 0;
}

static int check_type(const char *name, int fd, struct stat *st, struct err *err)
{
    if (fstat(fd, st) != 0) {
        return ERR(err, IO, errno, "disk %s: %s", name, strerror(errno));
    }
    if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode)) {
        return ERR(err, IMAGE_BAD, EINVAL, "disk %s: neither a file nor a block device", name);
    }
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) != 0) {
        return ERR(err, IO, errno, "disk %s: %s", name, strerror(errno));
    }
    return 0;
}

static int take_lock(const struct block_raw_cfg *cfg, const char *name, int fd, struct err *err)
{
    struct flock lock = {.l_type = cfg->readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    if (cfg->no_lock || fcntl(fd, F_OFD_SETLK, &lock) == 0) {
        return 0;
    }
    if (errno == EAGAIN || errno == EACCES) {
        return ERR(err, IO, EBUSY, "disk %s: in use by another virtual machine or program",
                   name);
    }
    return ERR(err, IO, errno, "disk %s: can not lock it: %s", name, strerror(errno));
}

static int take_size(struct raw *raw, const char *name, const struct stat *st, struct err *err)
{
    uint64_t size = (uint64_t)st->st_size;
    unsigned physical = 4096;
    if (S_ISBLK(st->st_mode)) {
        if (ioctl(raw->fd, BLKGETSIZE64, &size) != 0) {
            return ERR(err, IO, errno, "disk %s: can not tell its size: %s", name,
                       strerror(errno));
        }
        if (ioctl(raw->fd, BLKPBSZGET, &physical) != 0) {
            physical = 4096;
        }
    } else if (st->st_blksize > 0) {
        physical = (unsigned)MIN(st->st_blksize, 65536);
    }
    if (!is_pow2(physical) || physical < BLOCK_SECTOR) {
        physical = 4096;
    }
    raw->node.size_bytes = align_down(size, BLOCK_SECTOR);
    raw->node.align_bytes = BLOCK_SECTOR;
    raw->node.physical_bytes = physical;
    raw->node.discard_align = physical;
    raw->node.discard_max = DISCARD_MAX;
    if (raw->node.size_bytes == 0) {
        return ERR(err, IMAGE_BAD, EINVAL,
                   "disk %s: %llu bytes, want at least one sector of 512", name,
                   (unsigned long long)size);
    }
    if (size != raw->node.size_bytes) {
        log_warn(
            "disk %s: %llu bytes is no multiple of 512; the guest does not see the last %llu",
            name, (unsigned long long)size, (unsigned long long)(size - raw->node.size_bytes));
    }
    return 0;
}

static int start_engine(struct raw *raw, const struct block_raw_cfg *cfg, struct err *err)
{
    int rc = pool_init(&raw->pool, run, raw);
    if (rc != 0) {
        return ERR(err, LIMIT, -rc, "disk %s: no thread for it: %s", raw->node.name,
                   strerror(-rc));
    }
    if (cfg->engine == BLOCK_RAW_THREADS) {
        return 0;
    }
    rc = uring_new(&raw->ring, raw->fd, divert, raw);
    if (rc == 0 || cfg->engine == BLOCK_RAW_AUTO) {
        return 0;
    }
    pool_done(&raw->pool);
    return ERR(err, LIMIT, -rc, "disk %s: no io_uring on this host: %s", raw->node.name,
               strerror(-rc));
}

int block_raw_open(const struct block_raw_cfg *cfg, struct block_node **ret_node,
                   struct err *err)
{
    const char *name = cfg->path != NULL ? cfg->path : "(descriptor)";
    struct stat st;
    struct raw *raw = calloc(1, sizeof(*raw));
    if (raw == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "disk %s", name);
    }
    raw->fd = -1;
    raw->node.ops = &raw_ops;
    raw->node.caps = cfg->readonly ? 0
                                   : BLOCK_CAP_WRITE | BLOCK_CAP_WRITE_ZEROES |
                                         (cfg->no_discard ? 0 : (uint32_t)BLOCK_CAP_DISCARD);
    (void)snprintf(raw->node.name, sizeof(raw->node.name), "%s", name);
    int rc = open_file(cfg, &raw->fd, err);
    rc = rc != 0 ? rc : check_type(name, raw->fd, &st, err);
    rc = rc != 0 ? rc : take_lock(cfg, name, raw->fd, err);
    rc = rc != 0 ? rc : take_size(raw, name, &st, err);
    rc = rc != 0 ? rc : start_engine(raw, cfg, err);
    if (rc != 0) {
        if (raw->fd >= 0 && raw->fd != cfg->fd) {
            close(raw->fd);
        }
        free(raw);
        return rc;
    }
    *ret_node = &raw->node;
    return 0;
}
