/*
 * The block device. Virtio 1.2, 5.2: read, write, flush, discard, write zeroes, get id; several
 * queues; write-back or write-through cache as the driver chooses.
 *
 * Requests are popped on the thread that notifies (a vCPU's), go to the block node without a
 * copy, and are completed by whatever thread calls request_done. Lock: vd->lock for all queues.
 * The pool of requests is allocated at the start: when it is used up, buffers wait in the ring,
 * and each completion takes the next. It is used last in, first out, so that memory that a
 * guest's queue depth never needs is never touched. Saved: the cache mode. In flight is nothing
 * then: pause waits for it. Missing: secure erase, lifetime, zoned devices, SCSI passthrough
 * (never).
 */
#include "dev/virtio/virtio_blk.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define F_SIZE_MAX     1
#define F_SEG_MAX      2
#define F_RO           5
#define F_BLK_SIZE     6
#define F_FLUSH        9
#define F_TOPOLOGY     10
#define F_CONFIG_WCE   11
#define F_MQ           12
#define F_DISCARD      13
#define F_WRITE_ZEROES 14

#define T_IN           0
#define T_OUT          1
#define T_FLUSH        4
#define T_GET_ID       8
#define T_DISCARD      11
#define T_WRITE_ZEROES 13

#define S_OK     0
#define S_IOERR  1
#define S_UNSUPP 2

#define HEADER_BYTES     16
#define ID_BYTES         20
#define SEG_MAX          126 /* + header + status <= VIRTQ_SEGS_MAX */
#define RANGES_MAX       16  /* of one discard or write zeroes */
#define RANGE_BYTES      16
#define RANGE_UNMAP      1 /* flag */
#define DATA_MAX         (UINT64_C(1) << 30)
#define QUEUE_DEPTH      128 /* requests in flight of one queue */
#define QUEUES_MAX       16
#define DEFAULT_SIZE     256
#define CONFIG_BYTES     60
#define CONFIG_WRITEBACK 32

struct range {
    uint64_t offset_bytes, len_bytes;
};

struct blk_request {
    struct block_req io;
    struct virtio_blk *blk;
    struct blk_request *next; /* in the pool */
    uint32_t epoch;
    uint16_t q;
    gpa_t status; /* where the status byte goes */
    uint8_t range_count, range_done;
    struct range range[RANGES_MAX];
    struct virtq_chain chain;
};

struct virtio_blk {
    struct virtio_dev vd;
    struct block_node *node;      /* owned */
    struct blk_request *requests; /* owned */
    unsigned request_count;
    unsigned fresh;           /* requests[fresh..] were never used */
    struct blk_request *pool; /* used and free again */
    bool readonly;
    struct log_limit io_log;
    char serial[ID_BYTES];
    uint8_t config[CONFIG_BYTES];
    struct virtio_blk_stats stats; /* relaxed atomics; block part unused */
};

static const uint8_t config_wmask[CONFIG_BYTES] = {[CONFIG_WRITEBACK] = 1};

static struct virtio_blk *of(struct virtio_dev *vd)
{
    return container_of(vd, struct virtio_blk, vd);
}

static bool write_through(const struct virtio_blk *blk)
{
    if (virtio_has(&blk->vd, F_CONFIG_WCE)) {
        return blk->config[CONFIG_WRITEBACK] == 0;
    }
    return !virtio_has(&blk->vd, F_FLUSH);
}

/* ---- ending a request; lock held ---- */

static bool pool_empty(const struct virtio_blk *blk)
{
    return blk->pool == NULL && blk->fresh == blk->request_count;
}

/* A free request, which stays in the pool until pool_take. */
static struct blk_request *pool_peek(struct virtio_blk *blk)
{
    return blk->pool != NULL ? blk->pool : &blk->requests[blk->fresh];
}

static void pool_take(struct virtio_blk *blk, struct blk_request *rq)
{
    if (blk->pool == rq) {
        blk->pool = rq->next;
    } else {
        blk->fresh++;
        rq->blk = blk;
    }
}

static void release(struct virtio_blk *blk, struct blk_request *rq)
{
    rq->next = blk->pool;
    blk->pool = rq;
    virtio_put(&blk->vd);
}

static void answer(struct virtio_blk *blk, struct blk_request *rq, uint8_t status,
                   uint32_t written)
{
    if (rq->epoch == blk->vd.epoch) {
        if (status != S_OK) {
            __atomic_fetch_add(status == S_IOERR ? &blk->stats.io_errors : &blk->stats.refused,
                               1, __ATOMIC_RELAXED);
        }
        (void)mem_write(blk->vd.mem, rq->status, &status, 1);
        virtio_push(&blk->vd, rq->q, rq->chain.head, written + 1);
    }
    release(blk, rq);
}

static uint8_t status_of(int result)
{
    return result == 0 ? S_OK : result == -EOPNOTSUPP ? S_UNSUPP : S_IOERR;
}

/* ---- starting ---- */

static void request_done(struct block_req *io, int result);

static int submit_range(struct virtio_blk *blk, struct blk_request *rq)
{
    const struct range *range = &rq->range[rq->range_done];
    rq->io.offset_bytes = range->offset_bytes;
    rq->io.len_bytes = range->len_bytes;
    return block_submit(blk->node, &rq->io);
}

/* Answers at once when the node refuses. */
static void submit(struct virtio_blk *blk, struct blk_request *rq, enum block_op op,
                   uint32_t flags)
{
    rq->io = (struct block_req){.op = op, .flags = flags, .done = request_done, .opaque = rq};
    int rc = submit_range(blk, rq);
    if (rc != 0) {
        answer(blk, rq, status_of(rc), 0);
    }
}

static void rw_finished(struct virtio_blk *blk, struct blk_request *rq, int result)
{
    uint32_t written = 0;
    if (rq->io.op == BLOCK_READ) {
        /* Also after an error or a reset: part of the bytes may have arrived. */
        virtq_chain_written(&blk->vd.queue[rq->q], &rq->chain, rq->chain.in_bytes);
        written = result == 0 ? (uint32_t)rq->chain.in_bytes : 0;
    }
    answer(blk, rq, status_of(result), written);
}

static void start_rw(struct virtio_blk *blk, struct blk_request *rq, bool write,
                     uint64_t sector)
{
    struct virtq_chain *c = &rq->chain;
    uint64_t bytes = write ? c->out_bytes : c->in_bytes;
    uint64_t offset;

    /* Data in the other direction has no meaning here: the driver is confused. */
    bool shape = (write ? c->in_count : c->out_count) == 0 && bytes % BLOCK_SECTOR == 0 &&
                 bytes != 0 && bytes <= DATA_MAX;
    if (!shape || !ckd_mul(sector, (uint64_t)BLOCK_SECTOR, &offset) ||
        (write && blk->readonly)) {
        answer(blk, rq, S_IOERR, 0);
        return;
    }
    uint32_t flags = write && write_through(blk) ? BLOCK_REQ_FUA : 0;
    rq->io = (struct block_req){.op = write ? BLOCK_WRITE : BLOCK_READ,
                                .flags = flags,
                                .offset_bytes = offset,
                                .len_bytes = bytes,
                                .iov = c->iov + (write ? 0 : c->out_count),
                                .iov_count = write ? c->out_count : c->in_count,
                                .done = request_done,
                                .opaque = rq};
    int rc = block_try(blk->node, &rq->io);
    if (rc != -EAGAIN) {
        rw_finished(blk, rq, rc);
        return;
    }
    rc = block_submit(blk->node, &rq->io);
    if (rc != 0) {
        answer(blk, rq, status_of(rc), 0);
    }
}

/* Copies and checks the ranges of a discard or write zeroes: a status. */
static uint8_t take_ranges(struct virtio_blk *blk, struct blk_request *rq, bool zeroes,
                           uint32_t *ret_flags)
{
    uint8_t raw[RANGES_MAX * RANGE_BYTES];
    uint64_t bytes = rq->chain.out_bytes;
    bool unmap = true;

    if (bytes == 0 || bytes % RANGE_BYTES != 0 || bytes > sizeof(raw) ||
        rq->chain.in_count != 0) {
        return S_IOERR;
    }
    size_t got = virtq_chain_read(&rq->chain, 0, raw, (size_t)bytes);
    rq->range_count = (uint8_t)(got / RANGE_BYTES);
    for (unsigned i = 0; i < rq->range_count; i++) {
        const uint8_t *p = raw + (size_t)i * RANGE_BYTES;
        struct range *range = &rq->range[i];
        uint32_t f = get_le32(p + 12);
        range->len_bytes = (uint64_t)get_le32(p + 8) * BLOCK_SECTOR;
        if ((f & ~(uint32_t)RANGE_UNMAP) != 0 || (!zeroes && f != 0)) {
            return S_UNSUPP;
        }
        if (!ckd_mul(get_le64(p), (uint64_t)BLOCK_SECTOR, &range->offset_bytes) ||
            !range_fits(range->offset_bytes, range->len_bytes, blk->node->size_bytes) ||
            range->len_bytes > blk->node->discard_max) {
            return S_IOERR;
        }
        /* One range that must stay allocated keeps all of them so. */
        unmap = unmap && f != 0;
    }
    *ret_flags = unmap ? BLOCK_REQ_MAY_UNMAP : 0;
    return S_OK;
}

static void start_ranges(struct virtio_blk *blk, struct blk_request *rq, bool zeroes)
{
    uint32_t flags = 0;
    bool offered = virtio_has(&blk->vd, zeroes ? F_WRITE_ZEROES : F_DISCARD);
    uint8_t status = !offered        ? S_UNSUPP
                     : blk->readonly ? S_IOERR
                                     : take_ranges(blk, rq, zeroes, &flags);
    if (status != S_OK) {
        answer(blk, rq, status, 0);
        return;
    }
    if (zeroes && write_through(blk)) {
        flags |= BLOCK_REQ_FUA;
    }
    submit(blk, rq, zeroes ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD, flags);
}

static void get_id(struct virtio_blk *blk, struct blk_request *rq)
{
    size_t n = virtq_chain_write(&blk->vd.queue[rq->q], &rq->chain, 0, blk->serial, ID_BYTES);
    answer(blk, rq, n == 0 ? S_IOERR : S_OK, (uint32_t)n);
}

static void start(struct virtio_blk *blk, struct blk_request *rq)
{
    uint8_t header[HEADER_BYTES];
    struct virtq_chain *c = &rq->chain;

    bool ok = virtq_chain_read(c, 0, header, sizeof(header)) == sizeof(header) &&
              virtq_chain_skip_out(c, sizeof(header)) &&
              virtq_chain_cut_in_tail(c, 1, &rq->status);
    if (!ok) {
        /* Without a status byte there is no other way to tell. */
        virtio_broken(&blk->vd, "a block request without header or status byte");
        release(blk, rq);
        return;
    }
    uint64_t sector = get_le64(header + 8);
    switch (get_le32(header)) {
    case T_IN: start_rw(blk, rq, false, sector); break;
    case T_OUT: start_rw(blk, rq, true, sector); break;
    case T_FLUSH: submit(blk, rq, BLOCK_FLUSH, 0); break;
    case T_GET_ID: get_id(blk, rq); break;
    case T_DISCARD: start_ranges(blk, rq, false); break;
    case T_WRITE_ZEROES: start_ranges(blk, rq, true); break;
    default: answer(blk, rq, S_UNSUPP, 0); break;
    }
}

/* Takes requests while there are some and the pool has room. */
static void run_queue(struct virtio_blk *blk, unsigned q)
{
    struct virtio_dev *vd = &blk->vd;
    do {
        virtq_quiet(&vd->queue[q]);
        while (!pool_empty(blk)) {
            struct blk_request *rq = pool_peek(blk);
            if (virtio_pop(vd, q, &rq->chain) <= 0) {
                break;
            }
            pool_take(blk, rq);
            rq->q = (uint16_t)q;
            rq->epoch = vd->epoch;
            rq->range_count = 0;
            rq->range_done = 0;
            rq->range[0] = (struct range){0, 0};
            virtio_get(vd);
            start(blk, rq);
        }
        /* Without room there is no use in notifications: a completion comes back here. */
    } while (!pool_empty(blk) && virtio_running(vd, q) && virtq_listen(&vd->queue[q]));
}

static void blk_notify(struct virtio_dev *vd, unsigned q)
{
    run_queue(of(vd), q);
    block_kick(of(vd)->node);
}

/* What the host refused; a guest that asks for nonsense gets no further than block_submit. */
static void report(struct virtio_blk *blk, const struct block_req *io, int result)
{
    static const char *const names[BLOCK_OP_COUNT] = {"read", "write", "flush", "discard",
                                                      "write zeroes"};
    if (result != 0 && result != -EOPNOTSUPP && log_limit_pass(&blk->io_log, 1)) {
        log_warn("disk %s: %s of %llu bytes at %llu failed: %s", blk->node->name, names[io->op],
                 (unsigned long long)io->len_bytes, (unsigned long long)io->offset_bytes,
                 strerror(-result));
    }
}

static bool more_ranges(struct virtio_blk *blk, struct blk_request *rq, int *result)
{
    if (*result != 0 || rq->range_done + 1 >= rq->range_count || rq->epoch != blk->vd.epoch) {
        return false;
    }
    rq->range_done++;
    *result = submit_range(blk, rq);
    return *result == 0;
}

/* Any thread. */
static void request_done(struct block_req *io, int result)
{
    struct blk_request *rq = io->opaque;
    struct virtio_blk *blk = rq->blk;
    struct virtio_dev *vd = &blk->vd;

    SCOPED_LOCK(&vd->lock);
    report(blk, io, result);
    if (more_ranges(blk, rq, &result)) {
        block_kick(blk->node);
        return;
    }
    bool was_empty = pool_empty(blk);
    rw_finished(blk, rq, result);
    if (was_empty) {
        for (unsigned q = 0; q < vd->queue_count; q++) {
            if (virtio_running(vd, q)) {
                run_queue(blk, q);
            }
        }
        block_kick(blk->node);
    }
}

/* ---- configuration ---- */

static void fill_capacity(struct virtio_blk *blk)
{
    put_le64(blk->config, blk->node->size_bytes / BLOCK_SECTOR);
}

static void fill_config(struct virtio_blk *blk, unsigned queues)
{
    uint8_t *c = blk->config;
    const struct block_node *n = blk->node;
    uint32_t align = MAX(n->discard_align, n->align_bytes) / BLOCK_SECTOR;
    uint32_t max = (uint32_t)MIN(n->discard_max / BLOCK_SECTOR, (uint64_t)UINT32_MAX);

    fill_capacity(blk);
    put_le32(c + 12, SEG_MAX);
    put_le32(c + 20, n->align_bytes); /* blk_size */
    c[24] = (uint8_t)__builtin_ctz(MAX(n->physical_bytes, n->align_bytes) / n->align_bytes);
    c[25] = 0; /* alignment offset */
    put_le16(c + 26, (uint16_t)(MAX(n->physical_bytes, n->align_bytes) / n->align_bytes));
    put_le32(c + 28, 0); /* no optimal size */
    c[CONFIG_WRITEBACK] = 1;
    put_le16(c + 34, (uint16_t)queues);
    put_le32(c + 36, max);
    put_le32(c + 40, RANGES_MAX);
    put_le32(c + 44, align);
    put_le32(c + 48, max);
    put_le32(c + 52, RANGES_MAX);
    c[56] = 1; /* write zeroes may unmap */
}

static uint64_t offer(const struct virtio_blk *blk, unsigned queues)
{
    uint32_t caps = blk->node->caps;
    uint64_t f = VIRTIO_BIT(F_SEG_MAX) | VIRTIO_BIT(F_BLK_SIZE) | VIRTIO_BIT(F_TOPOLOGY) |
                 VIRTIO_BIT(F_FLUSH);
    if (blk->readonly) {
        return f | VIRTIO_BIT(F_RO) | (queues > 1 ? VIRTIO_BIT(F_MQ) : 0);
    }
    f |= VIRTIO_BIT(F_CONFIG_WCE);
    f |= queues > 1 ? VIRTIO_BIT(F_MQ) : 0;
    f |= (caps & BLOCK_CAP_DISCARD) != 0 ? VIRTIO_BIT(F_DISCARD) : 0;
    f |= (caps & BLOCK_CAP_WRITE_ZEROES) != 0 ? VIRTIO_BIT(F_WRITE_ZEROES) : 0;
    return f;
}

void virtio_blk_resized(struct virtio_dev *vd)
{
    SCOPED_LOCK(&vd->lock);
    fill_capacity(of(vd));
    virtio_config_changed(vd);
}

void virtio_blk_get_stats(struct virtio_dev *vd, struct virtio_blk_stats *ret_stats)
{
    struct virtio_blk *blk = of(vd);
    ret_stats->io_errors = __atomic_load_n(&blk->stats.io_errors, __ATOMIC_RELAXED);
    ret_stats->refused = __atomic_load_n(&blk->stats.refused, __ATOMIC_RELAXED);
    ret_stats->block = blk->node->stats;
}

/* ---- life ---- */

static void blk_reset(struct virtio_dev *vd)
{
    of(vd)->config[CONFIG_WRITEBACK] = 1;
}

static void blk_save(struct virtio_dev *vd, struct state_writer *w)
{
    state_put_uint(w, "writeback", of(vd)->config[CONFIG_WRITEBACK]);
    state_put_uint(w, "size_bytes", of(vd)->node->size_bytes);
}

static int blk_load(struct virtio_dev *vd, struct state_reader *r, uint32_t version,
                    struct err *err)
{
    uint64_t writeback = 0;
    uint64_t size = 0;
    (void)version;

    int rc = state_get_uint(r, "writeback", &writeback, err);
    rc = rc != 0 ? rc : state_get_uint(r, "size_bytes", &size, err);
    if (rc == 0 && size != of(vd)->node->size_bytes) {
        rc = ERR(err, STATE_BAD, EINVAL, "disk %s: %llu bytes in the state, %llu here",
                 of(vd)->node->name, (unsigned long long)size,
                 (unsigned long long)of(vd)->node->size_bytes);
    }
    if (rc == 0) {
        of(vd)->config[CONFIG_WRITEBACK] = writeback & 1;
    }
    return rc;
}

static void blk_free(struct virtio_dev *vd)
{
    struct virtio_blk *blk = of(vd);
    block_free(blk->node);
    virtio_done(vd);
    free(blk->requests);
    free(blk);
}

static const struct virtio_ops blk_ops = {.name = "virtio-blk",
                                          .id = VIRTIO_ID_BLOCK,
                                          .class_code = 0x010000,
                                          .state_version = 1,
                                          .notify = blk_notify,
                                          .reset = blk_reset,
                                          .save = blk_save,
                                          .load = blk_load,
                                          .free = blk_free};

static int check_cfg(const struct virtio_blk_cfg *cfg, struct err *err)
{
    if (cfg->queues > QUEUES_MAX) {
        return ERR(err, SPEC_BAD, EINVAL, "disk %s: %u queues, want at most %u",
                   cfg->node->name, cfg->queues, QUEUES_MAX);
    }
    if (cfg->serial != NULL && strlen(cfg->serial) > ID_BYTES) {
        return ERR(err, SPEC_BAD, EINVAL, "disk %s: serial '%s' is longer than %u bytes",
                   cfg->node->name, cfg->serial, ID_BYTES);
    }
    return 0;
}

static int make_pool(struct virtio_blk *blk, unsigned count, struct err *err)
{
    blk->requests = calloc(count, sizeof(blk->requests[0]));
    if (blk->requests == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "disk %s: %u requests", blk->node->name, count);
    }
    blk->request_count = count;
    return 0;
}

int virtio_blk_new(const struct virtio_blk_cfg *cfg, struct virtio_dev **ret_vd,
                   struct err *err)
{
    unsigned queues = MAX(cfg->queues, 1U);
    uint16_t sizes[QUEUES_MAX];
    int rc = check_cfg(cfg, err);
    if (rc != 0) {
        return rc;
    }
    struct virtio_blk *blk = calloc(1, sizeof(*blk));
    if (blk == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "disk %s", cfg->node->name);
    }
    blk->node = cfg->node;
    blk->readonly = cfg->readonly || (cfg->node->caps & BLOCK_CAP_WRITE) == 0;
    if (cfg->serial != NULL) {
        memcpy(blk->serial, cfg->serial, strlen(cfg->serial));
    }
    for (unsigned i = 0; i < queues; i++) {
        sizes[i] = cfg->queue_size != 0 ? cfg->queue_size : DEFAULT_SIZE;
    }
    fill_config(blk, queues);
    rc = make_pool(blk, QUEUE_DEPTH * queues, err);
    rc = rc != 0 ? rc
                 : virtio_init(&blk->vd, &blk_ops, cfg->mem, offer(blk, queues), sizes, queues,
                               err);
    if (rc != 0) {
        free(blk->requests);
        free(blk);
        return rc;
    }
    blk->vd.config = blk->config;
    blk->vd.config_wmask = config_wmask;
    blk->vd.config_len = CONFIG_BYTES;
    *ret_vd = &blk->vd;
    return 0;
}
