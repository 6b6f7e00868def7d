/*
 * I/O APIC: 24 pins, redirection table, level and edge triggers (Intel 82093AA data sheet, 3.0;
 * EOI register: Intel ICH9 data sheet, 13.5).
 *
 * An edge on a masked pin is lost, as the data sheet says. A level pin sends once, waits for
 * the EOI of its vector, and sends again if the line is still high. Polarity bits are kept and
 * ignored: an emulated wire is high when it is asserted.
 *
 * Thread and lock: own lock, above the LAPICs', below those of the devices (dev/README.md).
 * Saved: index, ID, redirection table, line levels.
 * Missing: SMI delivery is passed on and ignored by the LAPIC.
 */
#include "dev/irq/ioapic.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>

#define RTE_VECTOR     UINT64_C(0xff)
#define RTE_MODE       UINT64_C(0x700)
#define RTE_LOGICAL    UINT64_C(0x800)
#define RTE_REMOTE_IRR UINT64_C(0x4000)
#define RTE_LEVEL      UINT64_C(0x8000)
#define RTE_MASK       UINT64_C(0x10000)
#define RTE_WRITABLE   UINT64_C(0xffff00000001afff)

#define VERSION_20H ((IOAPIC_PINS - 1) << 16 | 0x20)

struct ioapic {
    struct dev dev;
    struct ioapic_config cfg;
    pthread_mutex_t lock;
    uint8_t index; /* IOREGSEL */
    uint8_t id;
    uint32_t lines; /* levels by pin */
    uint64_t rte[IOAPIC_PINS];
};

static void send(struct ioapic *io, uint64_t rte)
{
    uint64_t addr = UINT64_C(0xfee00000) | (rte >> 56) << 12 | (rte >> 48 & 0xfe) << 4;
    uint32_t data = (uint32_t)(rte & (RTE_VECTOR | RTE_MODE | RTE_LEVEL)) | 0x4000;

    if ((rte & RTE_LOGICAL) != 0) {
        addr |= 4;
    }
    msi_send(&io->cfg.msi, addr, data);
}

static void service_level(struct ioapic *io, unsigned n)
{
    uint64_t rte = io->rte[n];

    if ((rte & (RTE_LEVEL | RTE_MASK | RTE_REMOTE_IRR)) != RTE_LEVEL ||
        (io->lines >> n & 1) == 0) {
        return;
    }
    io->rte[n] |= RTE_REMOTE_IRR;
    send(io, rte);
}

void ioapic_set_pin(struct ioapic *io, unsigned n, bool level)
{
    bool was;

    if (n >= IOAPIC_PINS) {
        return;
    }
    SCOPED_LOCK(&io->lock);
    was = (io->lines >> n & 1) != 0;
    if (was == level) {
        return;
    }
    io->lines ^= 1u << n;
    if (!level) {
        return;
    }
    if ((io->rte[n] & RTE_LEVEL) != 0) {
        service_level(io, n);
    } else if ((io->rte[n] & RTE_MASK) == 0) {
        send(io, io->rte[n]);
    }
}

static void pin_set(void *opaque, unsigned n, bool level)
{
    ioapic_set_pin(opaque, n, level);
}

struct irq_line ioapic_line(struct ioapic *io, unsigned n)
{
    return (struct irq_line){.set = pin_set, .opaque = io, .n = n};
}

static void eoi_locked(struct ioapic *io, uint8_t vector)
{
    for (unsigned n = 0; n < IOAPIC_PINS; n++) {
        if ((io->rte[n] & RTE_VECTOR) == vector && (io->rte[n] & RTE_REMOTE_IRR) != 0) {
            io->rte[n] &= ~RTE_REMOTE_IRR;
            service_level(io, n);
        }
    }
}

void ioapic_eoi(struct ioapic *io, uint8_t vector)
{
    SCOPED_LOCK(&io->lock);
    eoi_locked(io, vector);
}

static uint32_t window_read(const struct ioapic *io)
{
    unsigned n = (io->index - 0x10u) / 2;

    switch (io->index) {
    case 0x00: return (uint32_t)io->id << 24;
    case 0x01: return VERSION_20H;
    case 0x02: return (uint32_t)io->id << 24;
    default: break;
    }
    if (io->index < 0x10 || n >= IOAPIC_PINS) {
        return 0;
    }
    return (uint32_t)(io->rte[n] >> ((io->index & 1) != 0 ? 32 : 0));
}

static void window_write(struct ioapic *io, uint32_t value)
{
    unsigned n = (io->index - 0x10u) / 2;
    unsigned shift = (io->index & 1) != 0 ? 32 : 0;
    uint64_t mask = RTE_WRITABLE & (UINT64_C(0xffffffff) << shift);

    if (io->index == 0) {
        io->id = value >> 24 & 0xf;
        return;
    }
    if (io->index < 0x10 || n >= IOAPIC_PINS) {
        return;
    }
    io->rte[n] = (io->rte[n] & ~mask) | ((uint64_t)value << shift & mask);
    /* Systems without an EOI register clear a stuck remote IRR by switching to edge and back.
     */
    if ((io->rte[n] & RTE_LEVEL) == 0) {
        io->rte[n] &= ~RTE_REMOTE_IRR;
    }
    service_level(io, n);
}

uint64_t ioapic_read(struct ioapic *io, uint64_t offset, unsigned len)
{
    uint32_t value = 0;

    SCOPED_LOCK(&io->lock);
    switch (offset & ~UINT64_C(3)) {
    case 0x00: value = io->index; break;
    case 0x10: value = window_read(io); break;
    default: break;
    }
    value >>= (offset & 3) * 8;
    return len >= 4 ? value : value & ((1u << (len * 8)) - 1);
}

void ioapic_write(struct ioapic *io, uint64_t offset, unsigned len, uint64_t value)
{
    SCOPED_LOCK(&io->lock);
    switch (offset) {
    case 0x00: io->index = (uint8_t)value; break;
    case 0x10:
        if (len >= 4) {
            window_write(io, (uint32_t)value);
        }
        break;
    case 0x20:
        /* Pin assertion register: a write of a pin number is an edge on it. */
        if ((value & 0xff) < IOAPIC_PINS &&
            (io->rte[value & 0xff] & (RTE_LEVEL | RTE_MASK)) == 0) {
            send(io, io->rte[value & 0xff]);
        }
        break;
    case 0x40: eoi_locked(io, (uint8_t)value); break;
    default: break;
    }
}

static uint64_t bus_ioapic_read(void *opaque, uint64_t offset, unsigned len)
{
    return ioapic_read(opaque, offset, len);
}

static void bus_ioapic_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    ioapic_write(opaque, offset, len, value);
}

static void ioapic_reset(struct dev *dev)
{
    struct ioapic *io = container_of(dev, struct ioapic, dev);

    SCOPED_LOCK(&io->lock);
    io->index = 0;
    io->id = io->cfg.id & 0xf;
    for (unsigned n = 0; n < IOAPIC_PINS; n++) {
        io->rte[n] = RTE_MASK;
    }
}

static const struct state_field ioapic_fields[] = {
    STATE_UINT(struct ioapic, index),
    STATE_UINT(struct ioapic, id),
    STATE_UINT(struct ioapic, lines),
    STATE_UINTS(struct ioapic, rte),
    STATE_END,
};

static void ioapic_save(struct dev *dev, struct state_writer *w)
{
    struct ioapic *io = container_of(dev, struct ioapic, dev);

    SCOPED_LOCK(&io->lock);
    state_put_fields(w, ioapic_fields, io);
}

static int ioapic_load(struct dev *dev, struct state_reader *r, uint32_t version,
                       struct err *err)
{
    struct ioapic *io = container_of(dev, struct ioapic, dev);
    int rc;

    (void)version;
    SCOPED_LOCK(&io->lock);
    rc = state_get_fields(r, ioapic_fields, io, err);
    io->id &= 0xf;
    io->lines &= (1u << IOAPIC_PINS) - 1;
    for (unsigned n = 0; n < IOAPIC_PINS; n++) {
        io->rte[n] &= RTE_WRITABLE | RTE_REMOTE_IRR;
    }
    return rc;
}

static void ioapic_free(struct dev *dev)
{
    struct ioapic *io = container_of(dev, struct ioapic, dev);

    if (io->cfg.mmio != NULL) {
        bus_remove(io->cfg.mmio, io->cfg.base);
    }
    pthread_mutex_destroy(&io->lock);
    free(io);
}

static const struct bus_ops ioapic_bus_ops = {bus_ioapic_read, bus_ioapic_write};

static const struct dev_ops ioapic_ops = {
    .name = "ioapic",
    .state_version = 1,
    .reset = ioapic_reset,
    .save = ioapic_save,
    .load = ioapic_load,
    .free = ioapic_free,
};

int ioapic_new(struct ioapic **ret_ioapic, const struct ioapic_config *cfg, struct err *err)
{
    struct ioapic *io = calloc(1, sizeof(*io));
    int r = 0;

    if (io == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the I/O APIC");
    }
    io->cfg = *cfg;
    io->cfg.base = cfg->base != 0 ? cfg->base : IOAPIC_BASE_DEFAULT;
    pthread_mutex_init(&io->lock, NULL);
    io->dev = (struct dev){.ops = &ioapic_ops, .lock = &io->lock};
    ioapic_reset(&io->dev);
    if (cfg->mmio != NULL) {
        r = bus_add(cfg->mmio,
                    &(struct bus_range){.base = io->cfg.base,
                                        .size = 0x1000,
                                        .ops = &ioapic_bus_ops,
                                        .opaque = io,
                                        .name = "ioapic"},
                    err);
    }
    if (r < 0) {
        io->cfg.mmio = NULL;
        ioapic_free(&io->dev);
        return r;
    }
    *ret_ioapic = io;
    return 0;
}

struct dev *ioapic_dev(struct ioapic *io)
{
    return &io->dev;
}
