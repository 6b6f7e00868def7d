/*
 * System control port A (Intel ICH9 data sheet, 13.7.2): bit 0 resets the CPU when it goes from
 * 0 to 1, bit 1 opens address line 20.
 *
 * Thread and lock: the machine's device lock. Saved: the port. Missing: the drive lamps.
 */
#include "dev/legacy/port92.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>

#define FAST_RESET 0x01u
#define FAST_A20   0x02u

struct port92 {
    struct dev dev;
    struct port92_config cfg;
    uint8_t value;
};

static uint64_t port_read(void *opaque, uint64_t offset, unsigned len)
{
    const struct port92 *p = opaque;

    (void)offset;
    (void)len;
    return p->value;
}

static void port_set(struct port92 *p, uint8_t value)
{
    uint8_t changed = p->value ^ value;

    p->value = value & (FAST_RESET | FAST_A20);
    if ((changed & FAST_A20) != 0 && p->cfg.a20 != NULL) {
        p->cfg.a20(p->cfg.opaque, (value & FAST_A20) != 0);
    }
}

static void port_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct port92 *p = opaque;
    bool rises = (value & ~(uint64_t)p->value & FAST_RESET) != 0;

    (void)offset;
    (void)len;
    port_set(p, (uint8_t)value);
    if (rises && p->cfg.reset != NULL) {
        p->cfg.reset(p->cfg.opaque);
    }
}

static const struct bus_ops port_bus_ops = {port_read, port_write};
static const struct bus_range port_range = {
    .base = 0x92, .size = 1, .ops = &port_bus_ops, .name = "port 92h"};

static void port_reset(struct dev *dev)
{
    struct port92 *p = container_of(dev, struct port92, dev);

    SCOPED_LOCK(p->cfg.lock);
    port_set(p, FAST_A20);
}

static const struct state_field port_fields[] = {STATE_UINT(struct port92, value), STATE_END};

static void port_save(struct dev *dev, struct state_writer *w)
{
    struct port92 *p = container_of(dev, struct port92, dev);

    SCOPED_LOCK(p->cfg.lock);
    state_put_fields(w, port_fields, p);
}

static int port_load(struct dev *dev, struct state_reader *r, uint32_t version, struct err *err)
{
    struct port92 *p = container_of(dev, struct port92, dev);
    struct port92 loaded = {.value = p->value};
    int rc;

    (void)version;
    SCOPED_LOCK(p->cfg.lock);
    rc = state_get_fields(r, port_fields, &loaded, err);
    port_set(p, loaded.value);
    return rc;
}

static void port_free(struct dev *dev)
{
    struct port92 *p = container_of(dev, struct port92, dev);

    bus_remove_all(p->cfg.pio, p);
    free(p);
}

static const struct dev_ops port_ops = {
    .name = "port92",
    .state_version = 1,
    .reset = port_reset,
    .save = port_save,
    .load = port_load,
    .free = port_free,
};

int port92_new(struct port92 **ret_port, const struct port92_config *cfg, struct err *err)
{
    struct port92 *p = calloc(1, sizeof(*p));
    int r;

    if (p == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for port 92h");
    }
    p->cfg = *cfg;
    p->value = FAST_A20;
    p->dev = (struct dev){.ops = &port_ops, .lock = cfg->lock};
    r = bus_add_ranges(cfg->pio, &port_range, 1, p, cfg->lock, err);
    if (r < 0) {
        free(p);
        return r;
    }
    *ret_port = p;
    return 0;
}

struct dev *port92_dev(struct port92 *port)
{
    return &port->dev;
}
