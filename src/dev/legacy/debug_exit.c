/*
 * Exit port of test guests (QEMU docs/specs: isa-debug-exit): four bytes wide, a write of v
 * ends the VM with status (v << 1) | 1.
 *
 * Thread and lock: the machine's device lock. Saved: nothing, it has no state. Missing:
 * nothing.
 */
#include "dev/legacy/debug_exit.h"

#include "base/ckd.h"

#include <errno.h>
#include <stdlib.h>

struct debug_exit {
    struct dev dev;
    struct debug_exit_config cfg;
};

static uint64_t exit_read(void *opaque, uint64_t offset, unsigned len)
{
    (void)opaque;
    (void)offset;
    (void)len;
    return 0;
}

static void exit_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    const struct debug_exit *p = opaque;

    (void)offset;
    (void)len;
    if (p->cfg.exit != NULL) {
        p->cfg.exit(p->cfg.opaque, (int)((value << 1 | 1) & 0xff));
    }
}

static const struct bus_ops exit_bus_ops = {exit_read, exit_write};

static void exit_reset(struct dev *dev)
{
    (void)dev;
}

static void exit_save(struct dev *dev, struct state_writer *w)
{
    (void)dev;
    (void)w;
}

static int exit_load(struct dev *dev, struct state_reader *r, uint32_t version, struct err *err)
{
    (void)dev;
    (void)r;
    (void)version;
    (void)err;
    return 0;
}

static void exit_free(struct dev *dev)
{
    struct debug_exit *p = container_of(dev, struct debug_exit, dev);

    bus_remove_all(p->cfg.pio, p);
    free(p);
}

static const struct dev_ops exit_ops = {
    .name = "debug-exit",
    .state_version = 1,
    .reset = exit_reset,
    .save = exit_save,
    .load = exit_load,
    .free = exit_free,
};

int debug_exit_new(struct debug_exit **ret_port, const struct debug_exit_config *cfg,
                   struct err *err)
{
    const struct bus_range range = {.base = cfg->port != 0 ? cfg->port : 0xf4,
                                    .size = 4,
                                    .ops = &exit_bus_ops,
                                    .name = "debug exit port"};
    struct debug_exit *p = calloc(1, sizeof(*p));
    int r;

    if (p == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the debug exit port");
    }
    p->cfg = *cfg;
    p->dev = (struct dev){.ops = &exit_ops, .instance = cfg->instance, .lock = cfg->lock};
    r = bus_add_ranges(cfg->pio, &range, 1, p, cfg->lock, err);
    if (r < 0) {
        free(p);
        return r;
    }
    *ret_port = p;
    return 0;
}

struct dev *debug_exit_dev(struct debug_exit *port)
{
    return &port->dev;
}
