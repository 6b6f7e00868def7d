/*
 * Bounded output queue of serial ports and debug ports (rules in byteq.h).
 *
 * Thread and lock: the owner's lock guards everything. Only the loop's thread takes bytes out,
 * so it may hand over a piece without the lock and account for it afterwards. Saved: by the
 * owner. Missing: nothing.
 */
#include "dev/legacy/byteq.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CHUNK 4096u

static void on_kick(void *opaque, uint32_t events)
{
    struct byteq *q = opaque;
    uint64_t count;

    (void)events;
    pthread_mutex_lock(q->lock);
    q->kicked = read(q->fd, &count, sizeof(count)) < 0 && errno == EINTR;
    pthread_mutex_unlock(q->lock);
    byteq_drain(q);
}

int byteq_new(struct byteq **ret_q, struct loop *loop, pthread_mutex_t *lock,
              struct byte_sink sink, void (*progress)(void *opaque), void *opaque)
{
    struct byteq *q = calloc(1, sizeof(*q));
    int r = -ENOMEM;

    if (q == NULL) {
        return r;
    }
    q->lock = lock;
    q->sink = sink;
    q->progress = progress;
    q->opaque = opaque;
    q->data = malloc(BYTEQ_BYTES);
    q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->data != NULL && q->fd >= 0) {
        r = loop_watch_fd(loop, q->fd, EPOLLIN, on_kick, q, &q->watch);
    } else if (q->fd < 0) {
        r = -errno;
    }
    if (r < 0) {
        byteq_free(q);
        return r;
    }
    *ret_q = q;
    return 0;
}

void byteq_free(struct byteq *q)
{
    if (q == NULL) {
        return;
    }
    loop_unwatch(q->watch);
    if (q->fd >= 0) {
        close(q->fd);
    }
    free(q->data);
    free(q);
}

bool byteq_is_full(const struct byteq *q)
{
    return q->tail - q->head == BYTEQ_BYTES;
}

bool byteq_is_empty(const struct byteq *q)
{
    return q->tail == q->head;
}

void byteq_kick(struct byteq *q)
{
    uint64_t one = 1;

    if (!q->kicked && !byteq_is_empty(q)) {
        q->kicked = write(q->fd, &one, sizeof(one)) == (ssize_t)sizeof(one);
    }
}

bool byteq_put(struct byteq *q, uint8_t byte)
{
    if (q->sink.write == NULL) {
        return true;
    }
    if (byteq_is_full(q)) {
        q->dropped++;
        byteq_kick(q);
        return false;
    }
    q->data[q->tail++ % BYTEQ_BYTES] = byte;
    byteq_kick(q);
    return true;
}

size_t byteq_copy(const struct byteq *q, uint8_t *data)
{
    size_t n = q->tail - q->head;

    for (size_t i = 0; i < n; i++) {
        data[i] = q->data[(q->head + i) % BYTEQ_BYTES];
    }
    return n;
}

void byteq_set(struct byteq *q, const uint8_t *data, size_t len)
{
    q->head = 0;
    q->tail = (uint32_t)MIN(len, BYTEQ_BYTES);
    if (q->tail > 0) {
        memcpy(q->data, data, q->tail);
    }
    byteq_kick(q);
}

void byteq_drain(struct byteq *q)
{
    size_t n, taken;
    uint8_t piece[CHUNK];

    for (;;) {
        pthread_mutex_lock(q->lock);
        n = MIN((size_t)(q->tail - q->head), CHUNK);
        for (size_t i = 0; i < n; i++) {
            piece[i] = q->data[(q->head + i) % BYTEQ_BYTES];
        }
        pthread_mutex_unlock(q->lock);
        if (n == 0) {
            return;
        }
        taken = q->sink.write(q->sink.opaque, piece, n);
        taken = MIN(taken, n);
        pthread_mutex_lock(q->lock);
        q->head += (uint32_t)MIN(taken, (size_t)(q->tail - q->head));
        if (taken > 0 && q->progress != NULL) {
            q->progress(q->opaque);
        }
        pthread_mutex_unlock(q->lock);
        if (taken < n) {
            return;
        }
    }
}
