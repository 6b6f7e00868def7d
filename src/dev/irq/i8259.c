/*
 * A pair of 8259A interrupt controllers, the second cascaded on input 2 of the first
 * (Intel 8259A data sheet; ELCR: Intel ICH9 data sheet, 13.4.9).
 *
 * Thread and lock: own lock, since interrupt wires come from threads with and without the
 * machine's device lock; above the I/O APIC and LAPIC (dev/README.md). Saved: every latch of
 * both chips and the wires' levels. Missing: the MCS-80 mode (its three-byte vectors have no
 * meaning on x86), buffered mode.
 */
#include "dev/irq/i8259.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ICW1_INIT   0x10u
#define ICW1_SINGLE 0x02u
#define ICW1_LEVEL  0x08u
#define ICW1_ICW4   0x01u
#define ICW4_SFNM   0x10u
#define ICW4_AEOI   0x02u

struct chip {
    uint8_t irr, imr, isr;
    uint8_t lines;      /* input levels */
    uint8_t elcr;       /* ones: level-triggered */
    uint8_t base;       /* ICW2 */
    uint8_t lowest;     /* input with the lowest priority, 0 to 7 */
    uint8_t icw;        /* next initialisation word: 2, 3, 4; 0: operational */
    uint8_t icw1, icw3; /* as written */
    uint8_t read_isr, poll, special_mask, aeoi, rotate_aeoi, sfnm; /* flags */
};

struct i8259 {
    struct dev dev;
    struct i8259_config cfg;
    pthread_mutex_t lock;
    struct chip chip[2];
};

/* Inputs that may be edge or level; 0, 1, 2, 8 and 13 are edge only. */
static const uint8_t elcr_mask[2] = {0xf8, 0xde};

static bool input_is_level(const struct chip *c, unsigned n)
{
    return (c->icw1 & ICW1_LEVEL) != 0 || (c->elcr >> n & 1) != 0;
}

static void chip_set_input(struct chip *c, unsigned n, bool level)
{
    uint8_t bit = (uint8_t)(1u << n);

    if (level) {
        /* Edge mode latches the rising edge only. */
        if (input_is_level(c, n) || (c->lines & bit) == 0) {
            c->irr |= bit;
        }
        c->lines |= bit;
    } else {
        /* The request must stay until it is acknowledged, in both modes. */
        c->irr &= (uint8_t)~bit;
        c->lines &= (uint8_t)~bit;
    }
}

/* Distance of the most urgent of bits from the top priority, 8 if none. */
static unsigned priority(const struct chip *c, uint8_t bits)
{
    unsigned i;

    for (i = 0; i < 8; i++) {
        if ((bits >> ((c->lowest + 1 + i) & 7) & 1) != 0) {
            break;
        }
    }
    return i;
}

/* The input that would be served now, -1 if none. */
static int chip_request(const struct chip *c, bool master)
{
    uint8_t wanted = c->irr & (uint8_t)~c->imr, serving = c->isr;
    unsigned want = priority(c, wanted);

    if (want == 8 || c->icw != 0) {
        return -1;
    }
    if (c->special_mask) {
        serving &= (uint8_t)~c->imr;
    }
    /* Special fully nested: the slave may interrupt its own service routine. */
    if (c->sfnm && master) {
        serving &= (uint8_t)~4u;
    }
    if (want >= priority(c, serving)) {
        return -1;
    }
    return (int)((c->lowest + 1 + want) & 7);
}

static void pic_update(struct i8259 *pic)
{
    chip_set_input(&pic->chip[0], 2, chip_request(&pic->chip[1], false) >= 0);
    irq_set(&pic->cfg.out, chip_request(&pic->chip[0], true) >= 0);
}

void i8259_set_irq(struct i8259 *pic, unsigned n, bool level)
{
    if (n > 15 || n == 2) {
        return;
    }
    SCOPED_LOCK(&pic->lock);
    chip_set_input(&pic->chip[n >> 3], n & 7, level);
    pic_update(pic);
}

static void chip_acknowledge(struct chip *c, unsigned n)
{
    if (c->aeoi) {
        if (c->rotate_aeoi) {
            c->lowest = (uint8_t)n;
        }
    } else {
        c->isr |= (uint8_t)(1u << n);
    }
    if (!input_is_level(c, n)) {
        c->irr &= (uint8_t) ~(1u << n);
    }
}

int i8259_ack(struct i8259 *pic)
{
    struct chip *master = &pic->chip[0], *slave = &pic->chip[1];
    int vector, n;

    SCOPED_LOCK(&pic->lock);
    n = chip_request(master, true);
    if (n < 0) {
        vector = (master->base & 0xf8) + 7;
    } else if (n == 2) {
        int m = chip_request(slave, false);
        if (m >= 0) {
            chip_acknowledge(slave, (unsigned)m);
        }
        chip_acknowledge(master, 2);
        vector = (slave->base & 0xf8) + (m >= 0 ? m : 7);
    } else {
        chip_acknowledge(master, (unsigned)n);
        vector = (master->base & 0xf8) + n;
    }
    pic_update(pic);
    return vector;
}

static void chip_icw1(struct chip *c, uint8_t value)
{
    struct chip fresh = {
        .lines = c->lines,
        .elcr = c->elcr,
        .base = c->base,
        .lowest = 7,
        .icw = 2,
        .icw1 = value,
        .icw3 = c->icw3,
    };

    *c = fresh;
    /* The edge detectors are cleared; a level input that is high still asks. */
    for (unsigned n = 0; n < 8; n++) {
        if (input_is_level(c, n)) {
            c->irr |= (uint8_t)(c->lines & (1u << n));
        }
    }
}

static void chip_icw(struct chip *c, uint8_t value)
{
    switch (c->icw) {
    case 2:
        c->base = value & 0xf8;
        c->icw = (c->icw1 & ICW1_SINGLE) == 0 ? 3 : (c->icw1 & ICW1_ICW4) != 0 ? 4 : 0;
        break;
    case 3:
        c->icw3 = value;
        c->icw = (c->icw1 & ICW1_ICW4) != 0 ? 4 : 0;
        break;
    default:
        c->sfnm = (value & ICW4_SFNM) != 0;
        c->aeoi = (value & ICW4_AEOI) != 0;
        c->icw = 0;
        break;
    }
}

/* The in-service input that a non-specific EOI ends: masked ones are skipped in special mask.
 */
static int chip_in_service(const struct chip *c)
{
    uint8_t isr = c->special_mask ? c->isr & (uint8_t)~c->imr : c->isr;
    unsigned p = priority(c, isr);

    return p == 8 ? -1 : (int)((c->lowest + 1 + p) & 7);
}

static void chip_ocw2(struct chip *c, uint8_t value)
{
    unsigned n = value & 7;
    int top = chip_in_service(c);

    switch (value >> 5) {
    case 0: c->rotate_aeoi = false; break;
    case 4: c->rotate_aeoi = true; break;
    case 1: /* non-specific EOI */
    case 5: /* and rotate */
        if (top >= 0) {
            c->isr &= (uint8_t) ~(1u << top);
            if (value >> 5 == 5) {
                c->lowest = (uint8_t)top;
            }
        }
        break;
    case 3: c->isr &= (uint8_t) ~(1u << n); break;
    case 6: c->lowest = (uint8_t)n; break;
    case 7:
        c->isr &= (uint8_t) ~(1u << n);
        c->lowest = (uint8_t)n;
        break;
    default: break; /* 2: no operation */
    }
}

static void chip_ocw3(struct chip *c, uint8_t value)
{
    c->poll = (value & 4) != 0;
    if ((value & 2) != 0) {
        c->read_isr = (value & 1) != 0;
    }
    if ((value & 0x40) != 0) {
        c->special_mask = (value & 0x20) != 0;
    }
}

static void pic_write(void *opaque, uint64_t offset, unsigned len, uint64_t value,
                      unsigned which)
{
    struct i8259 *pic = opaque;
    struct chip *c = &pic->chip[which];
    uint8_t v = (uint8_t)value;

    if (offset == 1) {
        if (c->icw != 0) {
            chip_icw(c, v);
        } else {
            c->imr = v;
        }
    } else if ((v & ICW1_INIT) != 0) {
        chip_icw1(c, v);
    } else if ((v & 8) != 0) {
        chip_ocw3(c, v);
    } else {
        chip_ocw2(c, v);
    }
    pic_update(pic);
    if (len > 1 && offset == 0) {
        pic_write(opaque, 1, 1, value >> 8, which);
    }
}

static uint8_t pic_read_byte(struct i8259 *pic, unsigned which, uint64_t offset)
{
    struct chip *c = &pic->chip[which];
    int n;

    if (c->poll) {
        c->poll = false;
        n = chip_request(c, which == 0);
        if (n < 0) {
            return 7;
        }
        chip_acknowledge(c, (unsigned)n);
        pic_update(pic);
        return (uint8_t)(0x80 | n);
    }
    if (offset == 1) {
        return c->imr;
    }
    return c->read_isr ? c->isr : c->irr;
}

static uint64_t pic_read(void *opaque, uint64_t offset, unsigned len, unsigned which)
{
    uint64_t value = pic_read_byte(opaque, which, offset);

    if (len > 1) {
        value |= (uint64_t)pic_read_byte(opaque, which, 1) << 8;
    }
    return value;
}

static uint64_t master_read(void *opaque, uint64_t offset, unsigned len)
{
    return pic_read(opaque, offset, len, 0);
}

static void master_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    pic_write(opaque, offset, len, value, 0);
}

static uint64_t slave_read(void *opaque, uint64_t offset, unsigned len)
{
    return pic_read(opaque, offset, len, 1);
}

static void slave_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    pic_write(opaque, offset, len, value, 1);
}

static uint64_t elcr_read(void *opaque, uint64_t offset, unsigned len)
{
    struct i8259 *pic = opaque;
    uint64_t both = pic->chip[0].elcr | (uint64_t)pic->chip[1].elcr << 8;

    return both >> (offset * 8) & (len == 1 ? 0xff : 0xffff);
}

static void elcr_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct i8259 *pic = opaque;

    for (unsigned i = 0; i < len && offset + i < 2; i++) {
        pic->chip[offset + i].elcr = (uint8_t)(value >> (i * 8)) & elcr_mask[offset + i];
    }
    pic_update(pic);
}

static const struct bus_ops master_ops = {master_read, master_write};
static const struct bus_ops slave_ops = {slave_read, slave_write};
static const struct bus_ops elcr_ops = {elcr_read, elcr_write};

static void pic_reset(struct dev *dev)
{
    struct i8259 *pic = container_of(dev, struct i8259, dev);

    SCOPED_LOCK(&pic->lock);
    for (unsigned i = 0; i < 2; i++) {
        /* Everything masked until firmware or the guest initialises the chips. */
        pic->chip[i] = (struct chip){
            .lines = pic->chip[i].lines, .lowest = 7, .imr = 0xff, .base = i == 0 ? 8 : 0x70};
    }
    pic_update(pic);
}

#define CHIP_FIELDS(i)                                                                         \
    STATE_UINT(struct i8259, chip[i].irr), STATE_UINT(struct i8259, chip[i].imr),              \
        STATE_UINT(struct i8259, chip[i].isr), STATE_UINT(struct i8259, chip[i].lines),        \
        STATE_UINT(struct i8259, chip[i].elcr), STATE_UINT(struct i8259, chip[i].base),        \
        STATE_UINT(struct i8259, chip[i].lowest), STATE_UINT(struct i8259, chip[i].icw),       \
        STATE_UINT(struct i8259, chip[i].icw1), STATE_UINT(struct i8259, chip[i].icw3),        \
        STATE_UINT(struct i8259, chip[i].read_isr), STATE_UINT(struct i8259, chip[i].poll),    \
        STATE_UINT(struct i8259, chip[i].special_mask),                                        \
        STATE_UINT(struct i8259, chip[i].aeoi), STATE_UINT(struct i8259, chip[i].rotate_aeoi), \
        STATE_UINT(struct i8259, chip[i].sfnm)

static const struct state_field pic_fields[] = {CHIP_FIELDS(0), CHIP_FIELDS(1), STATE_END};

static void pic_save(struct dev *dev, struct state_writer *w)
{
    struct i8259 *pic = container_of(dev, struct i8259, dev);

    SCOPED_LOCK(&pic->lock);
    state_put_fields(w, pic_fields, pic);
}

static int pic_load(struct dev *dev, struct state_reader *r, uint32_t version, struct err *err)
{
    struct i8259 *pic = container_of(dev, struct i8259, dev);
    int rc;

    (void)version;
    SCOPED_LOCK(&pic->lock);
    rc = state_get_fields(r, pic_fields, pic, err);
    for (unsigned i = 0; i < 2; i++) {
        struct chip *c = &pic->chip[i];
        c->lowest &= 7;
        c->base &= 0xf8;
        c->elcr &= elcr_mask[i];
    }
    return rc;
}

static const struct bus_range pic_ranges[] = {
    {.base = 0x20, .size = 2, .ops = &master_ops, .name = "i8259 master"},
    {.base = 0xa0, .size = 2, .ops = &slave_ops, .name = "i8259 slave"},
    {.base = 0x4d0, .size = 2, .ops = &elcr_ops, .name = "i8259 elcr"},
};

static void pic_free(struct dev *dev)
{
    struct i8259 *pic = container_of(dev, struct i8259, dev);

    bus_remove_all(pic->cfg.pio, pic);
    pthread_mutex_destroy(&pic->lock);
    free(pic);
}

static const struct dev_ops pic_ops = {
    .name = "i8259",
    .state_version = 1,
    .reset = pic_reset,
    .save = pic_save,
    .load = pic_load,
    .free = pic_free,
};

int i8259_new(struct i8259 **ret_pic, const struct i8259_config *cfg, struct err *err)
{
    struct i8259 *pic = calloc(1, sizeof(*pic));
    int r;

    if (pic == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the interrupt controller");
    }
    pic->cfg = *cfg;
    pthread_mutex_init(&pic->lock, NULL);
    pic->dev = (struct dev){.ops = &pic_ops, .lock = &pic->lock};
    pic_reset(&pic->dev);
    r = bus_add_ranges(cfg->pio, pic_ranges, ARRAY_LEN(pic_ranges), pic, &pic->lock, err);
    if (r < 0) {
        pic_free(&pic->dev);
        return r;
    }
    *ret_pic = pic;
    return 0;
}

struct dev *i8259_dev(struct i8259 *pic)
{
    return &pic->dev;
}
