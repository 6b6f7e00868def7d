/* pvpanic: the guest reports its panic (QEMU docs/specs/pvpanic.rst). */
#pragma once

#include "dev/bus.h"
#include "dev/dev.h"

#include <stdint.h>

#define PVPANIC_PORT         0x505
#define PVPANIC_PANICKED     0x01u
#define PVPANIC_CRASH_LOADED 0x02u /* a crash kernel takes over */

struct pvpanic;

struct pvpanic_config {
    struct bus *pio;       /* NULL: none (tests) */
    uint16_t port;         /* 0: PVPANIC_PORT */
    pthread_mutex_t *lock; /* the machine's device lock */
    /* One of the two events; PANICKED when both are written. vCPU's thread, lock held. */
    void (*event)(void *opaque, unsigned event);
    void *opaque;
};

int pvpanic_new(struct pvpanic **ret_pvpanic, const struct pvpanic_config *cfg,
                struct err *err);
struct dev *pvpanic_dev(struct pvpanic *pvpanic);
