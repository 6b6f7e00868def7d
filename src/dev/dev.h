/*
 * The device seam. A device embeds a struct dev, fills id and ops, and is registered in the
 * machine's list (machine/). Register blocks hang on a bus (dev/bus.h).
 */
#pragma once

#include "state/state.h"

#include <pthread.h>

struct dev;

struct dev_ops {
    const char *name; /* section name in the state stream, the chip's or standard's name */
    uint32_t state_version; /* of what save writes; load gets the stream's version */
    void (*reset)(struct dev *dev);
    void (*save)(struct dev *dev, struct state_writer *w);
    int (*load)(struct dev *dev, struct state_reader *r, uint32_t version, struct err *err);
    void (*free)(struct dev *dev);
    void (*pause)(struct dev *dev);  /* optional: quiesce back ends before save */
    void (*resume)(struct dev *dev); /* optional: re-arm timers, restart back ends */
};

struct dev {
    const struct dev_ops *ops;
    uint32_t instance;     /* tells two of a kind apart in the stream */
    pthread_mutex_t *lock; /* guards the registers; the bus takes it around accesses */
    struct dev *next;      /* machine's list */
};
