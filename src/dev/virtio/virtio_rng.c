/*
 * The entropy device. Virtio 1.2, 5.4. One queue of buffers to fill.
 * Lock: vd->lock. Requests are answered within notify. Saved: nothing of its own.
 * Missing: a rate limit: a request costs the guest's own processor time, and at most 64 KiB of
 * it.
 */
#include "dev/virtio/virtio_rng.h"

#include "base/ckd.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define QUEUE_SIZE 64

struct virtio_rng {
    struct virtio_dev vd;
    virtio_rng_fill_fn *fill;
    void *opaque;
    struct virtq_chain chain; /* scratch of notify */
};

static void fill_from_host(void *opaque, void *buf, size_t len)
{
    (void)opaque;
    uint8_t *p = buf;
    while (len != 0) {
        ssize_t n = getrandom(p, MIN(len, (size_t)256), 0);
        if (n < 0 && errno != EINTR) {
            abort(); /* a host without getrandom: refused by _new */
        }
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        }
    }
}

static uint32_t answer(struct virtio_rng *rng)
{
    const struct virtq_chain *c = &rng->chain;
    uint64_t left = MIN(c->in_bytes, (uint64_t)VIRTIO_RNG_REQUEST_MAX);
    uint32_t done = 0;

    for (unsigned i = c->out_count; i < c->out_count + (unsigned)c->in_count && left != 0;
         i++) {
        size_t n = MIN((size_t)left, c->iov[i].iov_len);
        rng->fill(rng->opaque, c->iov[i].iov_base, n);
        left -= n;
        done += (uint32_t)n;
    }
    virtq_chain_written(&rng->vd.queue[0], c, done);
    return done;
}

static void rng_notify(struct virtio_dev *vd, unsigned q)
{
    struct virtio_rng *rng = container_of(vd, struct virtio_rng, vd);
    do {
        virtq_quiet(&vd->queue[q]);
        while (virtio_pop(vd, q, &rng->chain) > 0) {
            virtio_push(vd, q, rng->chain.head, answer(rng));
        }
    } while (virtio_running(vd, q) && virtq_listen(&vd->queue[q]));
}

static void rng_free(struct virtio_dev *vd)
{
    struct virtio_rng *rng = container_of(vd, struct virtio_rng, vd);
    virtio_done(vd);
    free(rng);
}

static const struct virtio_ops rng_ops = {.name = "virtio-rng",
                                          .id = VIRTIO_ID_RNG,
                                          .class_code = 0x00ff00,
                                          .state_version = 1,
                                          .notify = rng_notify,
                                          .free = rng_free};

int virtio_rng_new(const struct virtio_rng_cfg *cfg, struct virtio_dev **ret_vd,
                   struct err *err)
{
    const uint16_t size = QUEUE_SIZE;
    uint8_t probe;
    if (cfg->fill == NULL && getrandom(&probe, 1, 0) != 1) {
        return ERR(err, IO, errno, "getrandom does not work on this host");
    }
    struct virtio_rng *rng = calloc(1, sizeof(*rng));
    if (rng == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "virtio-rng");
    }
    rng->fill = cfg->fill != NULL ? cfg->fill : fill_from_host;
    rng->opaque = cfg->opaque;
    int rc = virtio_init(&rng->vd, &rng_ops, cfg->mem, 0, &size, 1, err);
    if (rc != 0) {
        free(rng);
        return rc;
    }
    *ret_vd = &rng->vd;
    return 0;
}
