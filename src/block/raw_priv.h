/* Shared by raw.c and the two engines that carry its requests out. */
#pragma once

#include "block/block.h"

#include <pthread.h>

/*
 * Threads that run requests one by one: one from the start (later a sandbox may refuse
 * threads), more when there is work and no idle thread. run returns the result. Owner: the
 * node; everything is done before pool_done.
 */
#define POOL_THREADS_MAX 8

typedef int pool_run_fn(void *opaque, struct block_req *req);

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pool_run_fn *run;
    void *opaque;
    struct block_req *head, **tail; /* FIFO */
    unsigned threads, idle;
    unsigned queued; /* in the FIFO */
    bool stop;
    pthread_t thread[POOL_THREADS_MAX];
};

/* 0 or -errno, and then nothing is to be undone. */
int pool_init(struct pool *pool, pool_run_fn *run, void *opaque);
void pool_push(struct pool *pool, struct block_req *req);
void pool_done(struct pool *pool); /* nothing is queued; joins */

struct uring;

/* What is left of a request goes here when the ring can not do it; any thread. */
typedef void uring_divert_fn(void *opaque, struct block_req *req);

/* -errno when the kernel or a sandbox refuses io_uring; the caller falls back to the pool. */
int uring_new(struct uring **ret_ring, int fd, uring_divert_fn *divert, void *opaque);
void uring_free(struct uring *ring); /* nothing is in flight */
void uring_submit(struct uring *ring, struct block_req *req);
void uring_kick(struct uring *ring);

/* req->priv as raw.c and the engines use it */
enum {
    RAW_PRIV_DONE,     /* bytes of a read or write that are done already */
    RAW_PRIV_FMODE,    /* fallocate mode of a discard or write-zeroes */
    RAW_PRIV_FALLBACK, /* 1: fallocate was refused: run the other way */
};
