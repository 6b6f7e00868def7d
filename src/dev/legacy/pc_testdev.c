/*
 * Test device of the PC board (as kvm-unit-tests use it): a 32-bit latch at ports E0h-E3h,
 * whose bytes also answer at E8h-EBh; a port at E4h that takes a page address to flush; ports
 * 2000h-2017h that set interrupt wires 0 to 23; 64 KiB of plain device memory at FF00_0000h.
 *
 * Thread and lock: the machine's device lock. Saved: the latch and the memory. Missing: the
 * flush port does nothing, for there is no second copy of guest memory to drop.
 */
#include "dev/legacy/pc_testdev.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct pc_testdev {
    struct dev dev;
    struct pc_testdev_config cfg;
    uint8_t latch[4];
    uint8_t memory[PC_TESTDEV_WINDOW_BYTES];
};

static uint64_t load_bytes(const uint8_t *from, uint64_t offset, unsigned len, uint64_t size)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < len && offset + i < size; i++) {
        value |= (uint64_t)from[offset + i] << (i * 8);
    }
    return value;
}

static void store_bytes(uint8_t *to, uint64_t offset, unsigned len, uint64_t size,
                        uint64_t value)
{
    for (unsigned i = 0; i < len && offset + i < size; i++) {
        to[offset + i] = (uint8_t)(value >> (i * 8));
    }
}

static uint64_t latch_read(void *opaque, uint64_t offset, unsigned len)
{
    const struct pc_testdev *td = opaque;

    return load_bytes(td->latch, offset, len, sizeof(td->latch));
}

static void latch_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct pc_testdev *td = opaque;

    store_bytes(td->latch, offset, len, sizeof(td->latch), value);
}

static uint64_t flush_read(void *opaque, uint64_t offset, unsigned len)
{
    (void)opaque;
    (void)offset;
    (void)len;
    return UINT64_MAX;
}

static void flush_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    (void)opaque;
    (void)offset;
    (void)len;
    (void)value;
}

static void wire_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    const struct pc_testdev *td = opaque;

    (void)len;
    if (td->cfg.set_gsi != NULL) {
        td->cfg.set_gsi(td->cfg.opaque, (unsigned)offset, value != 0);
    }
}

static uint64_t memory_read(void *opaque, uint64_t offset, unsigned len)
{
    const struct pc_testdev *td = opaque;

    return load_bytes(td->memory, offset, len, sizeof(td->memory));
}

static void memory_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct pc_testdev *td = opaque;

    store_bytes(td->memory, offset, len, sizeof(td->memory), value);
}

static const struct bus_ops latch_ops = {latch_read, latch_write};
static const struct bus_ops flush_ops = {flush_read, flush_write};
static const struct bus_ops wire_ops = {flush_read, wire_write};
static const struct bus_ops memory_ops = {memory_read, memory_write};

static const struct bus_range port_ranges[] = {
    {.base = 0xe0, .size = 4, .ops = &latch_ops, .name = "testdev latch"},
    {.base = 0xe4, .size = 4, .ops = &flush_ops, .name = "testdev flush"},
    {.base = 0xe8, .size = 1, .ops = &latch_ops, .name = "testdev byte latch"},
    {.base = 0x2000, .size = 24, .ops = &wire_ops, .name = "testdev wires"},
};
static const struct bus_range memory_range = {.base = PC_TESTDEV_WINDOW,
                                              .size = PC_TESTDEV_WINDOW_BYTES,
                                              .ops = &memory_ops,
                                              .name = "testdev memory"};

static void td_reset(struct dev *dev)
{
    struct pc_testdev *td = container_of(dev, struct pc_testdev, dev);

    SCOPED_LOCK(td->cfg.lock);
    memset(td->latch, 0, sizeof(td->latch));
    memset(td->memory, 0, sizeof(td->memory));
}

static const struct state_field td_fields[] = {
    STATE_BYTES(struct pc_testdev, latch),
    STATE_BYTES(struct pc_testdev, memory),
    STATE_END,
};

static void td_save(struct dev *dev, struct state_writer *w)
{
    struct pc_testdev *td = container_of(dev, struct pc_testdev, dev);

    SCOPED_LOCK(td->cfg.lock);
    state_put_fields(w, td_fields, td);
}

static int td_load(struct dev *dev, struct state_reader *r, uint32_t version, struct err *err)
{
    struct pc_testdev *td = container_of(dev, struct pc_testdev, dev);

    (void)version;
    SCOPED_LOCK(td->cfg.lock);
    return state_get_fields(r, td_fields, td, err);
}

static void td_free(struct dev *dev)
{
    struct pc_testdev *td = container_of(dev, struct pc_testdev, dev);

    bus_remove_all(td->cfg.pio, td);
    bus_remove_all(td->cfg.mmio, td);
    free(td);
}

static const struct dev_ops td_ops = {
    .name = "pc-testdev",
    .state_version = 1,
    .reset = td_reset,
    .save = td_save,
    .load = td_load,
    .free = td_free,
};

int pc_testdev_new(struct pc_testdev **ret_td, const struct pc_testdev_config *cfg,
                   struct err *err)
{
    struct pc_testdev *td = calloc(1, sizeof(*td));
    int r;

    if (td == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the test device");
    }
    td->cfg = *cfg;
    td->dev = (struct dev){.ops = &td_ops, .lock = cfg->lock};
    r = bus_add_ranges(cfg->pio, port_ranges, ARRAY_LEN(port_ranges), td, cfg->lock, err);
    if (r == 0) {
        r = bus_add_ranges(cfg->mmio, &memory_range, 1, td, cfg->lock, err);
    }
    if (r < 0) {
        td_free(&td->dev);
        return r;
    }
    *ret_td = td;
    return 0;
}

struct dev *pc_testdev_dev(struct pc_testdev *td)
{
    return &td->dev;
}
