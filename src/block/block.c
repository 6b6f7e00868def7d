/*
 * The part of the block graph that every node shares: checks, counters, waiting.
 * Thread and lock: see block.h; no lock in here, counters are atomics. Saved: nothing.
 * Missing: resize, graph changes at run time, rate limits (those are filter nodes).
 */
#include "block/block.h"

#include "base/ckd.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <semaphore.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint32_t cap_needed(enum block_op op)
{
    switch (op) {
    case BLOCK_READ:
    case BLOCK_FLUSH: return 0;
    case BLOCK_WRITE: return BLOCK_CAP_WRITE;
    case BLOCK_DISCARD: return BLOCK_CAP_DISCARD;
    case BLOCK_WRITE_ZEROES: return BLOCK_CAP_WRITE_ZEROES;
    }
    return UINT32_MAX;
}

static int check_shape(const struct block_node *node, const struct block_req *req)
{
    uint64_t mask = node->align_bytes - 1;
    if (((req->offset_bytes | req->len_bytes) & mask) != 0) {
        return -EINVAL;
    }
    if (!range_fits(req->offset_bytes, req->len_bytes, node->size_bytes)) {
        return -ERANGE;
    }
    if (req->op == BLOCK_READ || req->op == BLOCK_WRITE) {
        bool ok = req->len_bytes != 0 && req->iov_count != 0 && req->iov_count <= BLOCK_IOV_MAX;
        return ok ? 0 : -EINVAL;
    }
    return 0;
}

static int check(const struct block_node *node, const struct block_req *req)
{
    uint32_t need = cap_needed(req->op);
    if (need != 0 && (node->caps & BLOCK_CAP_WRITE) == 0) {
        return -EROFS;
    }
    if ((node->caps & need) != need) {
        return -EOPNOTSUPP;
    }
    return check_shape(node, req);
}

static void count_start(struct block_node *node, const struct block_req *req)
{
    __atomic_fetch_add(&node->stats.ops[req->op], 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&node->stats.bytes[req->op], req->len_bytes, __ATOMIC_RELAXED);
}

static void count_error(struct block_node *node, enum block_op op, int result)
{
    __atomic_fetch_add(&node->stats.errors[op], 1, __ATOMIC_RELAXED);
    if (result == -ENOSPC || result == -EDQUOT) {
        __atomic_fetch_add(&node->stats.enospc, 1, __ATOMIC_RELAXED);
    }
}

int block_try(struct block_node *node, const struct block_req *req)
{
    if (node->ops->try_now == NULL || req->len_bytes > BLOCK_TRY_MAX) {
        return -EAGAIN;
    }
    int rc = check(node, req);
    if (rc != 0) {
        return rc;
    }
    rc = node->ops->try_now(node, req);
    if (rc != -EAGAIN) {
        count_start(node, req);
        if (rc != 0) {
            count_error(node, req->op, rc);
        }
    }
    return rc;
}

int block_submit(struct block_node *node, struct block_req *req)
{
    int rc = check(node, req);
    if (rc != 0) {
        return rc;
    }
    req->node = node;
    req->next = NULL;
    count_start(node, req);
    __atomic_fetch_add(&node->in_flight, 1, __ATOMIC_ACQ_REL);
    node->ops->submit(node, req);
    return 0;
}

void block_kick(struct block_node *node)
{
    if (node->ops->kick != NULL) {
        node->ops->kick(node);
    }
}

/* in_flight is waited for as a futex on its low half: block_drain is rare, completions are not.
 */
static uint32_t *in_flight_word(struct block_node *node)
{
    return (uint32_t *)(void *)&node->in_flight;
}

void block_complete(struct block_req *req, int result)
{
    struct block_node *node = req->node;
    if (result != 0) {
        count_error(node, req->op, result);
    }
    req->done(req, result);
    /* After done: who waits for nothing in flight may free what done uses. */
    if (__atomic_sub_fetch(&node->in_flight, 1, __ATOMIC_ACQ_REL) == 0) {
        (void)syscall(SYS_futex, in_flight_word(node), FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL,
                      0);
    }
}

void block_drain(struct block_node *node)
{
    uint64_t n;
    block_kick(node);
    while ((n = __atomic_load_n(&node->in_flight, __ATOMIC_ACQUIRE)) != 0) {
        (void)syscall(SYS_futex, in_flight_word(node), FUTEX_WAIT_PRIVATE, (uint32_t)n, NULL,
                      NULL, 0);
    }
}

void block_free(struct block_node *node)
{
    if (node != NULL) {
        block_drain(node);
        node->ops->free(node);
    }
}

struct sync_wait {
    sem_t sem;
    int result;
};

static void sync_done(struct block_req *req, int result)
{
    struct sync_wait *wait = req->opaque;
    wait->result = result;
    sem_post(&wait->sem);
}

int block_rw_sync(struct block_node *node, enum block_op op, uint64_t offset_bytes, void *buf,
                  size_t len)
{
    struct sync_wait wait = {.result = 0};
    struct iovec iov = {buf, len};
    struct block_req req = {.op = op,
                            .offset_bytes = offset_bytes,
                            .len_bytes = len,
                            .iov = &iov,
                            .iov_count = 1,
                            .done = sync_done,
                            .opaque = &wait};
    sem_init(&wait.sem, 0, 0);
    int rc = block_submit(node, &req);
    if (rc == 0) {
        block_kick(node);
        while (sem_wait(&wait.sem) != 0) {
            /* EINTR: wait on */
        }
        rc = wait.result;
    }
    sem_destroy(&wait.sem);
    return rc;
}
