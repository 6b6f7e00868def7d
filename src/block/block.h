/*
 * The block graph's seam. A node is a disk's bytes: a raw file, a format over another node, a
 * filter. A consumer (dev/virtio/virtio_blk.c, a format, a job) submits requests to its top
 * node.
 *
 * Requests are asynchronous. The consumer owns the struct and its iovecs, which stay put until
 * done was called; done comes exactly once for each submit that returned 0, from any thread,
 * with no lock of the node held, and never from inside block_submit of the same request: a
 * consumer may hold its own lock while it submits, and may submit from done. Requests in flight
 * are not ordered among each other; a flush covers the writes whose done came before its
 * submit.
 *
 * Thread model of a node (ops->threads): BLOCK_ANY_THREAD takes submits from several threads at
 * once; BLOCK_ONE_THREAD wants its callers serialised, which a wrapping node provides.
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define BLOCK_SECTOR   512
#define BLOCK_IOV_MAX  1024
#define BLOCK_PRIV_U64 6
#define BLOCK_TRY_MAX  (128 * 1024) /* bytes that may be copied on a vCPU's thread */

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };
enum { BLOCK_OP_COUNT = BLOCK_WRITE_ZEROES + 1 };

enum block_req_flag {
    BLOCK_REQ_FUA = 1 << 0,       /* write, write-zeroes: on stable storage before done */
    BLOCK_REQ_MAY_UNMAP = 1 << 1, /* write-zeroes: freeing the space is welcome */
};

enum block_threads { BLOCK_ANY_THREAD, BLOCK_ONE_THREAD };

enum block_cap {
    BLOCK_CAP_WRITE = 1 << 0, /* absent: read-only */
    BLOCK_CAP_DISCARD = 1 << 1,
    BLOCK_CAP_WRITE_ZEROES = 1 << 2,
};

struct block_req;
struct block_node;

/* result: 0 or -errno (-EIO, -ENOSPC, ...). The request belongs to the consumer again. */
typedef void block_done_fn(struct block_req *req, int result);

struct block_req {
    enum block_op op;
    uint32_t flags;          /* enum block_req_flag */
    uint64_t offset_bytes;   /* multiple of the node's align_bytes */
    uint64_t len_bytes;      /* same; for read and write the sum of iov; 0 for a flush */
    const struct iovec *iov; /* borrowed until done; may be guest memory */
    unsigned iov_count;
    block_done_fn *done;
    void *opaque; /* the consumer's */

    /* For the node that has the request. */
    struct block_req *next;
    struct block_node *node;
    uint64_t priv[BLOCK_PRIV_U64];
};

struct block_ops {
    const char *name;
    enum block_threads threads;
    void (*submit)(struct block_node *node,
                   struct block_req *req); /* checked by block_submit */
    /* Optional. Finishes a read or write here and now if that needs no waiting: 0 or -errno is
     * its result; -EAGAIN: it has to be submitted. Checked by block_try; any thread. */
    int (*try_now)(struct block_node *node, const struct block_req *req);
    void (*kick)(struct block_node *node); /* optional: start what submit only queued */
    void (*free)(struct block_node *node); /* nothing is in flight */
};

/* Counters, updated with relaxed atomics. */
struct block_stats {
    uint64_t ops[BLOCK_OP_COUNT];
    uint64_t bytes[BLOCK_OP_COUNT];
    uint64_t errors[BLOCK_OP_COUNT];
    uint64_t enospc; /* of the errors: host disk full */
};

struct block_node {
    const struct block_ops *ops;
    uint64_t size_bytes;     /* multiple of align_bytes; changes only through a resize */
    uint32_t caps;           /* enum block_cap */
    uint32_t align_bytes;    /* granularity of offset and length: 512 or 4096 */
    uint32_t physical_bytes; /* what is best written at once; power of two >= align_bytes */
    uint32_t discard_align;  /* bytes; what a discard frees is aligned to this */
    uint64_t discard_max;    /* bytes of one discard or write-zeroes */
    uint64_t in_flight;      /* atomic */
    struct block_stats stats;
    char name[64]; /* for messages */
};

/*
 * Checks and starts a request: 0, and done will be called; or, and done will not be called,
 * -EINVAL (shape), -ERANGE (past the end), -EROFS, -EOPNOTSUPP. The node may sit on it until
 * block_kick, so that a batch costs one system call: call block_kick after the last one.
 */
int block_submit(struct block_node *node, struct block_req *req);
void block_kick(struct block_node *node);

/*
 * For a consumer that would rather not wait for another thread: data in the host's page cache
 * is there at once. -EAGAIN: not done, call block_submit. Anything else is the result; done is
 * not called, whatever it is. Only for reads and writes of at most BLOCK_TRY_MAX bytes.
 */
int block_try(struct block_node *node, const struct block_req *req);

/* Called by a node when a request that it got is finished. */
void block_complete(struct block_req *req, int result);

/* Waits until nothing is in flight. The caller sees to it that nobody submits meanwhile. */
void block_drain(struct block_node *node);

/* Drains and frees. NULL allowed. */
void block_free(struct block_node *node);

/* One synchronous request, for control paths and tests: 0 or -errno. */
int block_rw_sync(struct block_node *node, enum block_op op, uint64_t offset_bytes, void *buf,
                  size_t len);

/* raw.c */
enum block_raw_engine { BLOCK_RAW_AUTO, BLOCK_RAW_URING, BLOCK_RAW_THREADS };

struct block_raw_cfg {
    const char *path; /* opened by us, unless fd >= 0; also names the node in messages */
    int fd;           /* >= 0: an open descriptor, taken over on success */
    bool readonly;
    bool no_discard; /* keep the file fully allocated: discards are not offered */
    bool no_lock;    /* the opener holds the lock (migration hand-over) */
    enum block_raw_engine engine;
};

/*
 * Opens a regular file or a block device as is: no format is ever guessed. A size that is no
 * multiple of 512 is rounded down, with a warning. Takes an open-file-description lock on the
 * whole file (shared if readonly): -EBUSY when somebody else uses it.
 */
int block_raw_open(const struct block_raw_cfg *cfg, struct block_node **ret_node,
                   struct err *err);
