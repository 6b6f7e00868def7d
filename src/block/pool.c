/*
 * Worker threads for requests that io_uring does not take. Lock: pool->lock, never held while a
 * request runs. Missing: sharing threads between disks.
 */
#include "block/raw_priv.h"

#include "base/cleanup.h"

#include <signal.h>
#include <string.h>

static struct block_req *take(struct pool *pool)
{
    struct block_req *req = pool->head;
    pool->head = req->next;
    if (pool->head == NULL) {
        pool->tail = &pool->head;
    }
    pool->queued--;
    return req;
}

static void *worker(void *opaque)
{
    struct pool *pool = opaque;

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (pool->head == NULL && !pool->stop) {
            pool->idle++;
            pthread_cond_wait(&pool->wake, &pool->lock);
            pool->idle--;
        }
        if (pool->head == NULL) {
            break;
        }
        struct block_req *req = take(pool);
        pthread_mutex_unlock(&pool->lock);
        block_complete(req, pool->run(pool->opaque, req));
        pthread_mutex_lock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static int start_thread(struct pool *pool)
{
    sigset_t all;
    sigset_t old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&pool->thread[pool->threads], NULL, worker, pool);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pool->threads += rc == 0;
    return -rc;
}

int pool_init(struct pool *pool, pool_run_fn *run, void *opaque)
{
    memset(pool, 0, sizeof(*pool));
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->run = run;
    pool->opaque = opaque;
    pool->tail = &pool->head;
    int rc = start_thread(pool);
    if (rc != 0) {
        pthread_cond_destroy(&pool->wake);
        pthread_mutex_destroy(&pool->lock);
    }
    return rc;
}

void pool_push(struct pool *pool, struct block_req *req)
{
    SCOPED_LOCK(&pool->lock);
    req->next = NULL;
    *pool->tail = req;
    pool->tail = &req->next;
    pool->queued++;
    if (pool->idle < pool->queued && pool->threads < POOL_THREADS_MAX) {
        (void)start_thread(pool); /* if not: those that there are take it later */
    }
    pthread_cond_signal(&pool->wake);
}

void pool_done(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->threads; i++) {
        pthread_join(pool->thread[i], NULL);
    }
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
}
