/*
 * Requests through io_uring, with the raw system calls (why: docs/adr/0003-block-io.md).
 * io_uring(7), io_uring_enter(2); linux/io_uring.h.
 *
 * Any thread submits, under ring->lock; one thread reaps completions and calls block_complete.
 * A request that the kernel does not take, or finishes only in part, is diverted. Missing:
 * fixed buffers and files, polled I/O, O_DIRECT.
 */
#include "block/raw_priv.h"

#include "base/cleanup.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SQ_ENTRIES 128

struct uring {
    int fd;      /* the ring */
    int file_fd; /* borrowed */
    uring_divert_fn *divert;
    void *opaque;

    pthread_mutex_t lock; /* guards the submission side */
    unsigned *sq_head, *sq_tail, sq_mask, sq_entries;
    struct io_uring_sqe *sqes;
    unsigned unsubmitted; /* in the ring, not yet entered */

    /* The reaper's. */
    unsigned *cq_head, *cq_tail, cq_mask;
    struct io_uring_cqe *cqes;
    pthread_t reaper;

    void *ring_map;
    size_t ring_bytes, sqes_bytes;
};

static int enter(const struct uring *ring, unsigned submit, unsigned wait)
{
    return (int)syscall(SYS_io_uring_enter, ring->fd, submit, wait,
                        wait != 0 ? IORING_ENTER_GETEVENTS : 0, NULL, 0);
}

/* ---- submission; lock held ---- */

/* Hands queued entries to the kernel; what it refuses is taken back out and diverted. */
static void flush(struct uring *ring)
{
    while (ring->unsubmitted != 0) {
        int n = enter(ring, ring->unsubmitted, 0);
        if (n > 0) {
            ring->unsubmitted -= (unsigned)n;
            continue;
        }
        if (n < 0 && errno == EINTR) {
            continue;
        }
        unsigned tail = *ring->sq_tail;
        while (ring->unsubmitted != 0) {
            tail--;
            ring->unsubmitted--;
            uint64_t data = ring->sqes[tail & ring->sq_mask].user_data;
            __atomic_store_n(ring->sq_tail, tail, __ATOMIC_RELEASE);
            if (data != 0) {
                ring->divert(ring->opaque, (struct block_req *)(uintptr_t)data);
            }
        }
    }
}

static struct io_uring_sqe *next_sqe(struct uring *ring)
{
    unsigned tail = *ring->sq_tail;
    if (tail - __atomic_load_n(ring->sq_head, __ATOMIC_ACQUIRE) >= ring->sq_entries) {
        flush(ring);
        tail = *ring->sq_tail;
    }
    struct io_uring_sqe *sqe = &ring->sqes[tail & ring->sq_mask];
    memset(sqe, 0, sizeof(*sqe));
    sqe->fd = ring->file_fd;
    return sqe;
}

static void commit_sqe(struct uring *ring)
{
    __atomic_store_n(ring->sq_tail, *ring->sq_tail + 1, __ATOMIC_RELEASE);
    ring->unsubmitted++;
}

static void fill(struct io_uring_sqe *sqe, const struct block_req *req)
{
    sqe->user_data = (uintptr_t)req;
    switch (req->op) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        sqe->opcode = req->op == BLOCK_READ ? IORING_OP_READV : IORING_OP_WRITEV;
        sqe->off = req->offset_bytes;
        sqe->addr = (uintptr_t)req->iov;
        sqe->len = req->iov_count;
        sqe->rw_flags =
            req->op == BLOCK_WRITE && (req->flags & BLOCK_REQ_FUA) != 0 ? RWF_DSYNC : 0;
        break;
    case BLOCK_FLUSH:
        sqe->opcode = IORING_OP_FSYNC;
        sqe->fsync_flags = IORING_FSYNC_DATASYNC;
        break;
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES:
        sqe->opcode = IORING_OP_FALLOCATE;
        sqe->off = req->offset_bytes;
        sqe->addr = req->len_bytes;
        sqe->len = (uint32_t)req->priv[RAW_PRIV_FMODE];
        break;
    }
}

void uring_submit(struct uring *ring, struct block_req *req)
{
    SCOPED_LOCK(&ring->lock);
    fill(next_sqe(ring), req);
    /* The kernel orders submission before completion; race checkers see it by this pair. */
    __atomic_store_n(&req->priv[RAW_PRIV_DONE], 0, __ATOMIC_RELEASE);
    commit_sqe(ring);
}

void uring_kick(struct uring *ring)
{
    SCOPED_LOCK(&ring->lock);
    flush(ring);
}

/* ---- completion: the reaper ---- */

static void complete(struct uring *ring, struct block_req *req, int res)
{
    (void)__atomic_load_n(&req->priv[RAW_PRIV_DONE], __ATOMIC_ACQUIRE);
    bool rw = req->op == BLOCK_READ || req->op == BLOCK_WRITE;
    if (rw && res > 0 && (uint64_t)res < req->len_bytes) {
        req->priv[RAW_PRIV_DONE] = (uint64_t)res;
        ring->divert(ring->opaque, req);
        return;
    }
    if (rw && res == 0) {
        res = -EIO; /* past the end of a file that somebody cut */
    }
    if (res == -EAGAIN || res == -EINTR || res == -ECANCELED) {
        ring->divert(ring->opaque, req);
        return;
    }
    if (res == -EOPNOTSUPP && !rw && req->op != BLOCK_FLUSH) {
        req->priv[RAW_PRIV_FALLBACK] = 1;
        ring->divert(ring->opaque, req);
        return;
    }
    block_complete(req, res < 0 ? res : 0);
}

static void *reap(void *opaque)
{
    struct uring *ring = opaque;
    for (;;) {
        unsigned head = *ring->cq_head;
        if (head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE)) {
            (void)enter(ring, 0, 1);
            continue;
        }
        const struct io_uring_cqe *cqe = &ring->cqes[head & ring->cq_mask];
        struct block_req *req = (struct block_req *)(uintptr_t)cqe->user_data;
        int res = cqe->res;
        __atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
        if (req == NULL) {
            return NULL; /* the no-op of uring_free */
        }
        complete(ring, req, res);
    }
}

/* ---- life ---- */

static int map_rings(struct uring *ring, const struct io_uring_params *p)
{
    size_t sq = p->sq_off.array + p->sq_entries * sizeof(unsigned);
    size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    ring->ring_bytes = sq > cq ? sq : cq;
    ring->sqes_bytes = p->sq_entries * sizeof(struct io_uring_sqe);
    char *map = mmap(NULL, ring->ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                     ring->fd, (off_t)IORING_OFF_SQ_RING);
    if (map == MAP_FAILED) {
        return -errno;
    }
    ring->ring_map = map;
    void *sqes = mmap(NULL, ring->sqes_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                      ring->fd, (off_t)IORING_OFF_SQES);
    if (sqes == MAP_FAILED) {
        return -errno;
    }
    ring->sqes = sqes;
    ring->sq_head = (unsigned *)(void *)(map + p->sq_off.head);
    ring->sq_tail = (unsigned *)(void *)(map + p->sq_off.tail);
    ring->sq_mask = *(unsigned *)(void *)(map + p->sq_off.ring_mask);
    ring->sq_entries = p->sq_entries;
    ring->cq_head = (unsigned *)(void *)(map + p->cq_off.head);
    ring->cq_tail = (unsigned *)(void *)(map + p->cq_off.tail);
    ring->cq_mask = *(unsigned *)(void *)(map + p->cq_off.ring_mask);
    ring->cqes = (struct io_uring_cqe *)(void *)(map + p->cq_off.cqes);
    /* The indirection of the submission ring is not used: entry i is at place i. */
    unsigned *array = (unsigned *)(void *)(map + p->sq_off.array);
    for (unsigned i = 0; i < p->sq_entries; i++) {
        array[i] = i;
    }
    return 0;
}

static void release(struct uring *ring)
{
    if (ring->sqes != NULL) {
        munmap(ring->sqes, ring->sqes_bytes);
    }
    if (ring->ring_map != NULL) {
        munmap(ring->ring_map, ring->ring_bytes);
    }
    if (ring->fd >= 0) {
        close(ring->fd);
    }
    pthread_mutex_destroy(&ring->lock);
    free(ring);
}

static int start_reaper(struct uring *ring)
{
    sigset_t all;
    sigset_t old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&ring->reaper, NULL, reap, ring);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -rc;
}

int uring_new(struct uring **ret_ring, int fd, uring_divert_fn *divert, void *opaque)
{
    struct io_uring_params params = {.flags = IORING_SETUP_CLAMP};
    struct uring *ring = calloc(1, sizeof(*ring));
    if (ring == NULL) {
        return -ENOMEM;
    }
    pthread_mutex_init(&ring->lock, NULL);
    ring->file_fd = fd;
    ring->divert = divert;
    ring->opaque = opaque;
    ring->fd = (int)syscall(SYS_io_uring_setup, SQ_ENTRIES, &params);
    int rc = ring->fd < 0 ? -errno : 0;
    /* NODROP: completions are never lost; one mapping for both rings. Linux 5.5. */
    unsigned need = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;
    if (rc == 0 && (params.features & need) != need) {
        rc = -ENOSYS;
    }
    rc = rc != 0 ? rc : map_rings(ring, &params);
    rc = rc != 0 ? rc : start_reaper(ring);
    if (rc != 0) {
        release(ring);
        return rc;
    }
    *ret_ring = ring;
    return 0;
}

void uring_free(struct uring *ring)
{
    pthread_mutex_lock(&ring->lock);
    struct io_uring_sqe *sqe = next_sqe(ring);
    sqe->opcode = IORING_OP_NOP;
    sqe->user_data = 0;
    commit_sqe(ring);
    while (ring->unsubmitted != 0 && enter(ring, ring->unsubmitted, 0) != 1) {
        /* Nothing is in flight: only lack of kernel memory can be in the way, and passes. */
    }
    pthread_mutex_unlock(&ring->lock);
    pthread_join(ring->reaper, NULL);
    release(ring);
}
