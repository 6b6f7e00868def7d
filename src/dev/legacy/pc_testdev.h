/* The test device that kvm-unit-tests expect on a PC: only built into a machine on request. */
#pragma once

#include "dev/bus.h"
#include "dev/dev.h"

#include <stdbool.h>

#define PC_TESTDEV_WINDOW       UINT64_C(0xff000000)
#define PC_TESTDEV_WINDOW_BYTES 0x10000

struct pc_testdev;

struct pc_testdev_config {
    struct bus *pio;       /* ports E0h-EBh, 2000h-2017h; NULL: none (tests) */
    struct bus *mmio;      /* PC_TESTDEV_WINDOW; NULL: none (tests) */
    pthread_mutex_t *lock; /* the machine's device lock */
    /* Drives interrupt wire n, 0 to 23; vCPU's thread, lock held. */
    void (*set_gsi)(void *opaque, unsigned gsi, bool level);
    void *opaque;
};

int pc_testdev_new(struct pc_testdev **ret_td, const struct pc_testdev_config *cfg,
                   struct err *err);
struct dev *pc_testdev_dev(struct pc_testdev *td);
