/*
 * Diagnostic (POST) code port. Reads return the last byte, as the page register of a PC's DMA
 * controller at port 80h does, which programs also write for delay.
 *
 * Thread and lock: the machine's device lock. Saved: the last code; the time stamps belong to
 * this host process and are not. Missing: nothing.
 */
#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "dev/legacy/debug_exit.h"

#include <errno.h>
#include <stdlib.h>

struct post_port {
    struct dev dev;
    struct post_port_config cfg;
    uint8_t last;
    uint64_t first_ns[256];
};

static uint64_t post_read(void *opaque, uint64_t offset, unsigned len)
{
    const struct post_port *p = opaque;

    (void)offset;
    (void)len;
    return p->last;
}

static void post_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct post_port *p = opaque;
    uint8_t code = (uint8_t)value;

    (void)offset;
    (void)len;
    p->last = code;
    if (p->first_ns[code] == 0) {
        p->first_ns[code] = clock_now_ns();
        if (p->cfg.code != NULL) {
            p->cfg.code(p->cfg.opaque, code, p->first_ns[code]);
        }
    }
}

static const struct bus_ops post_bus_ops = {post_read, post_write};

static void post_reset(struct dev *dev)
{
    struct post_port *p = container_of(dev, struct post_port, dev);

    SCOPED_LOCK(p->cfg.lock);
    p->last = 0;
}

static const struct state_field post_fields[] = {STATE_UINT(struct post_port, last), STATE_END};

static void post_save(struct dev *dev, struct state_writer *w)
{
    struct post_port *p = container_of(dev, struct post_port, dev);

    SCOPED_LOCK(p->cfg.lock);
    state_put_fields(w, post_fields, p);
}

static int post_load(struct dev *dev, struct state_reader *r, uint32_t version, struct err *err)
{
    struct post_port *p = container_of(dev, struct post_port, dev);

    (void)version;
    SCOPED_LOCK(p->cfg.lock);
    return state_get_fields(r, post_fields, p, err);
}

static void post_free(struct dev *dev)
{
    struct post_port *p = container_of(dev, struct post_port, dev);

    bus_remove_all(p->cfg.pio, p);
    free(p);
}

static const struct dev_ops post_ops = {
    .name = "post-port",
    .state_version = 1,
    .reset = post_reset,
    .save = post_save,
    .load = post_load,
    .free = post_free,
};

int post_port_new(struct post_port **ret_port, const struct post_port_config *cfg,
                  struct err *err)
{
    const struct bus_range range = {.base = cfg->port != 0 ? cfg->port : 0x80,
                                    .size = 1,
                                    .ops = &post_bus_ops,
                                    .name = "diagnostic port"};
    struct post_port *p = calloc(1, sizeof(*p));
    int r;

    if (p == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the diagnostic port");
    }
    p->cfg = *cfg;
    p->dev = (struct dev){.ops = &post_ops, .instance = cfg->instance, .lock = cfg->lock};
    r = bus_add_ranges(cfg->pio, &range, 1, p, cfg->lock, err);
    if (r < 0) {
        free(p);
        return r;
    }
    *ret_port = p;
    return 0;
}

struct dev *post_port_dev(struct post_port *port)
{
    return &port->dev;
}

uint64_t post_port_first_ns(struct post_port *port, uint8_t code)
{
    SCOPED_LOCK(port->cfg.lock);
    return port->first_ns[code];
}
