/* The entropy device. Virtio 1.2, 5.4. */
#pragma once

#include "dev/virtio/virtio.h"

#define VIRTIO_RNG_REQUEST_MAX (64 * 1024) /* bytes; more of a buffer stays untouched */

/* Fills buf with len bytes; must not block for long. */
typedef void virtio_rng_fill_fn(void *opaque, void *buf, size_t len);

struct virtio_rng_cfg {
    struct mem *mem;          /* borrowed */
    virtio_rng_fill_fn *fill; /* NULL: getrandom(2) */
    void *opaque;
};

int virtio_rng_new(const struct virtio_rng_cfg *cfg, struct virtio_dev **ret_vd,
                   struct err *err);
