/* System control port A, port 92h: fast A20 gate and fast CPU reset (PS/2, ICH9 13.7.2). */
#pragma once

#include "dev/bus.h"
#include "dev/dev.h"

#include <stdbool.h>

struct port92;

struct port92_config {
    struct bus *pio;                    /* NULL: none (tests) */
    pthread_mutex_t *lock;              /* the machine's device lock */
    void (*reset)(void *opaque);        /* CPU reset; vCPU's thread, lock held. May be NULL */
    void (*a20)(void *opaque, bool on); /* lock held. May be NULL */
    void *opaque;
};

int port92_new(struct port92 **ret_port, const struct port92_config *cfg, struct err *err);
struct dev *port92_dev(struct port92 *port);
