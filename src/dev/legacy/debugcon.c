/*
 * Debug console port (Bochs and QEMU: port E9h). What nobody reads is bounded by the queue
 * (byteq.h); further bytes are dropped, for there is no way to tell the guest to wait.
 *
 * Thread and lock: the machine's device lock. Saved: the queued bytes. Missing: nothing.
 */
#include "base/ckd.h"
#include "base/cleanup.h"
#include "dev/legacy/debug_exit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct debugcon {
    struct dev dev;
    struct debugcon_config cfg;
    struct byteq *out;
};

static uint64_t con_read(void *opaque, uint64_t offset, unsigned len)
{
    (void)opaque;
    (void)offset;
    (void)len;
    return 0xe9;
}

static void con_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct debugcon *con = opaque;

    (void)offset;
    (void)len;
    byteq_put(con->out, (uint8_t)value);
}

static const struct bus_ops con_bus_ops = {con_read, con_write};

static void con_reset(struct dev *dev)
{
    (void)dev;
}

static void con_save(struct dev *dev, struct state_writer *w)
{
    struct debugcon *con = container_of(dev, struct debugcon, dev);
    _cleanup_free_ uint8_t *queued = malloc(BYTEQ_BYTES);

    SCOPED_LOCK(con->cfg.lock);
    state_put_bytes(w, "out", queued, queued != NULL ? byteq_copy(con->out, queued) : 0);
}

static int con_load(struct dev *dev, struct state_reader *r, uint32_t version, struct err *err)
{
    struct debugcon *con = container_of(dev, struct debugcon, dev);
    const void *queued = NULL;
    size_t n = 0;
    int rc;

    (void)version;
    SCOPED_LOCK(con->cfg.lock);
    rc = state_get_blob(r, "out", BYTEQ_BYTES, &queued, &n, err);
    if (rc == 0) {
        byteq_set(con->out, queued, n);
    }
    return rc;
}

static void con_pause(struct dev *dev)
{
    struct debugcon *con = container_of(dev, struct debugcon, dev);

    byteq_drain(con->out);
}

static void con_free(struct dev *dev)
{
    struct debugcon *con = container_of(dev, struct debugcon, dev);

    bus_remove_all(con->cfg.pio, con);
    byteq_free(con->out);
    free(con);
}

static const struct dev_ops con_ops = {
    .name = "debugcon",
    .state_version = 1,
    .reset = con_reset,
    .save = con_save,
    .load = con_load,
    .pause = con_pause,
    .free = con_free,
};

int debugcon_new(struct debugcon **ret_con, const struct debugcon_config *cfg, struct err *err)
{
    const struct bus_range range = {.base = cfg->port != 0 ? cfg->port : 0xe9,
                                    .size = 1,
                                    .ops = &con_bus_ops,
                                    .name = "debug console port"};
    struct debugcon *con = calloc(1, sizeof(*con));
    int r;

    if (con == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the debug console");
    }
    con->cfg = *cfg;
    con->dev = (struct dev){.ops = &con_ops, .lock = cfg->lock};
    r = byteq_new(&con->out, cfg->loop, cfg->lock, cfg->out, NULL, NULL);
    if (r < 0) {
        free(con);
        return ERR(err, LIMIT, -r, "cannot make the debug console: %s", strerror(-r));
    }
    r = bus_add_ranges(cfg->pio, &range, 1, con, cfg->lock, err);
    if (r < 0) {
        con_free(&con->dev);
        return r;
    }
    *ret_con = con;
    return 0;
}

struct dev *debugcon_dev(struct debugcon *con)
{
    return &con->dev;
}

void debugcon_tx_ready(struct debugcon *con)
{
    SCOPED_LOCK(con->cfg.lock);
    byteq_kick(con->out);
}
