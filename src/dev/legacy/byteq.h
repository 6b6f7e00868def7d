/*
 * Bounded queue of bytes that a guest writes, drained to a back end on the event loop. Writing
 * never blocks and never allocates; when nobody reads, the queue fills and byteq_put says so.
 *
 * The owner's lock guards the queue; the back end is called on the loop's thread without it.
 */
#pragma once

#include "base/loop.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where the bytes go. write takes as many as it can now, at once, and returns how many; when it
 * took less, the back end calls its device's tx_ready function once it can take more. NULL
 * write: everything is taken and forgotten. */
struct byte_sink {
    size_t (*write)(void *opaque, const uint8_t *data, size_t len);
    void *opaque;
};

#define BYTEQ_BYTES 65536u /* a power of two */

struct byteq {
    pthread_mutex_t *lock; /* the owner's */
    struct byte_sink sink;
    void (*progress)(void *opaque); /* some bytes left the queue; loop's thread, lock held */
    void *opaque;
    uint8_t *data;       /* BYTEQ_BYTES */
    uint32_t head, tail; /* running counters: tail - head bytes are queued */
    int fd;              /* eventfd that asks the loop's thread to drain */
    struct loop_watch *watch;
    bool kicked;      /* fd is set */
    uint64_t dropped; /* bytes that found no room */
};

int byteq_new(struct byteq **ret_q, struct loop *loop, pthread_mutex_t *lock,
              struct byte_sink sink, void (*progress)(void *opaque), void *opaque);
void byteq_free(struct byteq *q); /* loop's thread, or after the loop ended; lock not held */
/* All with the owner's lock held. */
bool byteq_put(struct byteq *q,
               uint8_t byte); /* false: full, the byte is dropped and counted */
bool byteq_is_full(const struct byteq *q);
bool byteq_is_empty(const struct byteq *q);
void byteq_kick(struct byteq *q); /* drain soon; for tx_ready */
/* Queued bytes, oldest first, into data of BYTEQ_BYTES; and back, replacing what is there. */
size_t byteq_copy(const struct byteq *q, uint8_t *data);
void byteq_set(struct byteq *q, const uint8_t *data, size_t len);
/* Loop's thread, lock not held: hands over what the back end takes now. */
void byteq_drain(struct byteq *q);
