/*
 * pvpanic as an ISA port (QEMU docs/specs/pvpanic.rst): reads tell which events exist, a write
 * reports one.
 *
 * Thread and lock: the machine's device lock. Saved: nothing, it has no state. Missing: the
 * shutdown event, which drivers use only for guests that cannot power off.
 */
#include "dev/legacy/pvpanic.h"

#include "base/ckd.h"

#include <errno.h>
#include <stdlib.h>

struct pvpanic {
    struct dev dev;
    struct pvpanic_config cfg;
};

static uint64_t panic_read(void *opaque, uint64_t offset, unsigned len)
{
    (void)opaque;
    (void)offset;
    (void)len;
    return PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;
}

static void panic_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    const struct pvpanic *p = opaque;

    (void)offset;
    (void)len;
    if (p->cfg.event == NULL) {
        return;
    }
    if ((value & PVPANIC_PANICKED) != 0) {
        p->cfg.event(p->cfg.opaque, PVPANIC_PANICKED);
    } else if ((value & PVPANIC_CRASH_LOADED) != 0) {
        p->cfg.event(p->cfg.opaque, PVPANIC_CRASH_LOADED);
    }
}

static const struct bus_ops panic_bus_ops = {panic_read, panic_write};

static void panic_reset(struct dev *dev)
{
    (void)dev;
}

static void panic_save(struct dev *dev, struct state_writer *w)
{
    (void)dev;
    (void)w;
}

static int panic_load(struct dev *dev, struct state_reader *r, uint32_t version,
                      struct err *err)
{
    (void)dev;
    (void)r;
    (void)version;
    (void)err;
    return 0;
}

static void panic_free(struct dev *dev)
{
    struct pvpanic *p = container_of(dev, struct pvpanic, dev);

    bus_remove_all(p->cfg.pio, p);
    free(p);
}

static const struct dev_ops panic_ops = {
    .name = "pvpanic",
    .state_version = 1,
    .reset = panic_reset,
    .save = panic_save,
    .load = panic_load,
    .free = panic_free,
};

int pvpanic_new(struct pvpanic **ret_pvpanic, const struct pvpanic_config *cfg, struct err *err)
{
    const struct bus_range range = {.base = cfg->port != 0 ? cfg->port : PVPANIC_PORT,
                                    .size = 1,
                                    .ops = &panic_bus_ops,
                                    .name = "pvpanic"};
    struct pvpanic *p = calloc(1, sizeof(*p));
    int r;

    if (p == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for pvpanic");
    }
    p->cfg = *cfg;
    p->dev = (struct dev){.ops = &panic_ops, .lock = cfg->lock};
    r = bus_add_ranges(cfg->pio, &range, 1, p, cfg->lock, err);
    if (r < 0) {
        free(p);
        return r;
    }
    *ret_pvpanic = p;
    return 0;
}

struct dev *pvpanic_dev(struct pvpanic *pvpanic)
{
    return &pvpanic->dev;
}
