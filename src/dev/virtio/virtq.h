/*
 * The checked core of a split virtqueue. Virtio 1.2, 2.6 and 2.7.
 *
 * Everything in the rings is the guest's: each descriptor is copied once, validated, and turned
 * into bounded iovecs over guest RAM. A broken ring makes virtq_pop return -EPROTO (shape) or
 * -EFAULT (no RAM there); the device then needs a reset (virtio_broken). Nothing here
 * allocates.
 *
 * Lock: the device's. Saved by virtio.c: addresses, size, indices.
 */
#pragma once

#include "mem/mem.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define VIRTQ_SIZE_MAX 1024
/* Segments of one chain. More than the longest request of the drivers at hand (126 data
 * segments of a disk, header, status), and room for buffers that cross from one RAM slot into
 * the next. */
#define VIRTQ_SEGS_MAX  136
#define VIRTQ_NO_VECTOR 0xffff

struct virtq {
    struct mem *mem; /* borrowed */
    uint16_t size_max;
    uint16_t size; /* what the driver chose */
    bool enabled;
    bool running;             /* enabled, addresses checked, DRIVER_OK, not broken */
    bool event_idx, indirect; /* negotiated */
    bool used_valid;          /* signalled says something */
    uint16_t vector;
    gpa_t desc, avail, used;
    uint16_t next_avail; /* free-running indices */
    uint16_t next_used;
    uint16_t signalled; /* next_used at the last interrupt */
    uint16_t in_flight; /* popped, not yet pushed */
};

struct virtq_chain {
    uint16_t head;
    uint16_t out_count, in_count; /* iov[0, out) is read by us, iov[out, out + in) is written */
    uint64_t out_bytes, in_bytes; /* each below 2^40 */
    struct iovec iov[VIRTQ_SEGS_MAX];
    gpa_t gpa[VIRTQ_SEGS_MAX];
};

/* The driver's addresses and size make sense and lie in RAM: 0, -EPROTO, -EFAULT. */
int virtq_check(const struct virtq *vq);

/* 1: *chain filled; 0: the ring is empty; -EPROTO, -EFAULT: broken. */
int virtq_pop(struct virtq *vq, struct virtq_chain *chain);
/* Gives back what the last `n` pops took, unused, newest first. */
void virtq_unpop(struct virtq *vq, unsigned n);

/*
 * Puts a chain into the used ring: `written` bytes of its in part were filled. Publishes at
 * once. For several at once (mergeable buffers) fill with virtq_fill at index 0.. and publish
 * with virtq_publish. -EFAULT when the ring is gone.
 */
int virtq_push(struct virtq *vq, uint16_t head, uint32_t written);
int virtq_fill(struct virtq *vq, uint16_t index, uint16_t head, uint32_t written);
int virtq_publish(struct virtq *vq, uint16_t count);
/* Whether the driver wants an interrupt for what was published since the last one. */
bool virtq_wants_interrupt(struct virtq *vq);

/* Ask the driver (not) to notify. After enabling: true when buffers came meanwhile: go on. On a
 * queue that does not run both do nothing. */
void virtq_quiet(struct virtq *vq);
bool virtq_listen(struct virtq *vq);

/* ---- chains as byte streams ---- */

/* Copies from the out part at offset; returns the bytes that were there (<= len). */
size_t virtq_chain_read(const struct virtq_chain *chain, uint64_t offset, void *buf,
                        size_t len);
/* Copies into the in part at offset and reports it to mem; returns the bytes that had room. */
size_t virtq_chain_write(struct virtq *vq, const struct virtq_chain *chain, uint64_t offset,
                         const void *buf, size_t len);
/* The first `bytes` bytes of the in part were stored through iov. */
void virtq_chain_written(struct virtq *vq, const struct virtq_chain *chain, uint64_t bytes);
/* Removes the first n bytes of the out part (false: it is shorter). */
bool virtq_chain_skip_out(struct virtq_chain *chain, uint64_t n);
/* Removes the last n bytes (1..8) of the in part; *ret_gpa is where they begin. They are in one
 * segment or the result is false. */
bool virtq_chain_cut_in_tail(struct virtq_chain *chain, unsigned n, gpa_t *ret_gpa);
