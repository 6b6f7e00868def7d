/*
 * 8042 keyboard controller and a keyboard that answers its commands (IBM PS/2 hardware
 * interface technical reference, keyboard controller and keyboard sections).
 *
 * Answers are ready at once, so that the probes of operating systems take no time. There is no
 * auxiliary port: its interface test fails and its loop-back answers as the keyboard does.
 *
 * Thread and lock: the machine's device lock.
 * Saved: controller RAM, both queues, the state of the keyboard.
 * Missing: pointing device, password, scan code sets 2 and 3 on the wire of injected keys.
 */
#include "dev/legacy/i8042.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STS_OBF     0x01u
#define STS_SYS     0x04u
#define STS_CMD     0x08u
#define STS_UNLOCK  0x10u
#define STS_AUX     0x20u
#define STS_TIMEOUT 0x40u

#define CFG_KBD_INT   0x01u
#define CFG_AUX_INT   0x02u
#define CFG_SYS       0x04u
#define CFG_KBD_OFF   0x10u
#define CFG_AUX_OFF   0x20u
#define CFG_TRANSLATE 0x40u
#define CFG_POWER_ON  (CFG_KBD_INT | CFG_SYS | CFG_AUX_OFF | CFG_TRANSLATE)

#define OUT_RESET 0x01u /* active low */
#define OUT_A20   0x02u

#define KBD_ACK    0xfau
#define KBD_RESEND 0xfeu
#define QUEUE      16u

struct queue {
    uint8_t data[QUEUE];
    uint8_t flags[QUEUE]; /* STS_AUX, STS_TIMEOUT */
    uint8_t len;
};

struct i8042 {
    struct dev dev;
    struct i8042_config cfg;
    uint8_t ram[32]; /* byte 0 is the configuration */
    uint8_t output_port;
    uint8_t status; /* STS_CMD, STS_SYS */
    uint8_t obf;    /* the output buffer is full: */
    uint8_t out, out_flags;
    uint8_t command;  /* whose data byte is awaited; 0: data goes to the keyboard */
    struct queue ctl; /* answers of the controller, before those of the keyboard */
    struct queue kbd;
    uint8_t kbd_command; /* keyboard command that awaits its parameter */
    uint8_t kbd_enabled, kbd_leds, kbd_set, kbd_last;
};

static void queue_put(struct queue *q, uint8_t byte, uint8_t flags)
{
    if (q->len < QUEUE) {
        q->data[q->len] = byte;
        q->flags[q->len++] = flags;
    }
}

static bool queue_take(struct queue *q, uint8_t *ret_byte, uint8_t *ret_flags)
{
    if (q->len == 0) {
        return false;
    }
    *ret_byte = q->data[0];
    *ret_flags = q->flags[0];
    q->len--;
    memmove(q->data, q->data + 1, q->len);
    memmove(q->flags, q->flags + 1, q->len);
    return true;
}

/* Moves the next byte to the output buffer and sets the interrupt lines. */
static void kbc_update(struct i8042 *k)
{
    bool aux;

    if (k->obf == 0) {
        if (queue_take(&k->ctl, &k->out, &k->out_flags) ||
            ((k->ram[0] & CFG_KBD_OFF) == 0 && queue_take(&k->kbd, &k->out, &k->out_flags))) {
            k->obf = 1;
        }
    }
    aux = (k->out_flags & STS_AUX) != 0;
    irq_set(&k->cfg.irq_kbd, k->obf != 0 && !aux && (k->ram[0] & CFG_KBD_INT) != 0);
    irq_set(&k->cfg.irq_aux, k->obf != 0 && aux && (k->ram[0] & CFG_AUX_INT) != 0);
}

static void kbd_put(struct i8042 *k, uint8_t byte)
{
    queue_put(&k->kbd, byte, 0);
    k->kbd_last = byte;
}

static void kbd_parameter(struct i8042 *k, uint8_t value)
{
    uint8_t command = k->kbd_command;

    k->kbd_command = 0;
    kbd_put(k, KBD_ACK);
    if (command == 0xed) {
        k->kbd_leds = value & 7;
    } else if (command == 0xf0 && value == 0) {
        /* Set 2 reads as 41h through the controller's translation. */
        bool translated = (k->ram[0] & CFG_TRANSLATE) != 0 && k->kbd_set == 2;
        kbd_put(k, translated ? 0x41 : k->kbd_set);
    } else if (command == 0xf0 && value <= 3) {
        k->kbd_set = value;
    }
}

static void kbd_defaults(struct i8042 *k)
{
    k->kbd_command = 0;
    k->kbd_leds = 0;
    k->kbd_set = 2;
    k->kbd.len = 0;
}

static void kbd_write(struct i8042 *k, uint8_t value)
{
    k->ram[0] &= (uint8_t)~CFG_KBD_OFF;
    if (k->kbd_command != 0 && value < 0xed) {
        kbd_parameter(k, value);
        return;
    }
    k->kbd_command = 0;
    switch (value) {
    case 0xed: /* LEDs */
    case 0xf0: /* scan code set */
    case 0xf3: /* typematic rate */
        k->kbd_command = value;
        kbd_put(k, KBD_ACK);
        break;
    case 0xee: kbd_put(k, 0xee); break;
    case 0xf2:
        kbd_put(k, KBD_ACK);
        kbd_put(k, 0xab);
        kbd_put(k, (k->ram[0] & CFG_TRANSLATE) != 0 ? 0x41 : 0x83);
        break;
    case 0xf4:
        k->kbd.len = 0;
        k->kbd_enabled = 1;
        kbd_put(k, KBD_ACK);
        break;
    case 0xf5:
    case 0xf6:
        kbd_defaults(k);
        k->kbd_enabled = value == 0xf6;
        kbd_put(k, KBD_ACK);
        break;
    case 0xf7:
    case 0xf8:
    case 0xf9:
    case 0xfa: kbd_put(k, KBD_ACK); break;
    case 0xfe: queue_put(&k->kbd, k->kbd_last, 0); break;
    case 0xff:
        kbd_defaults(k);
        k->kbd_enabled = 1;
        kbd_put(k, KBD_ACK);
        kbd_put(k, 0xaa);
        break;
    default: kbd_put(k, KBD_RESEND); break;
    }
}

static void set_output_port(struct i8042 *k, uint8_t value)
{
    bool a20 = (value & OUT_A20) != 0, reset = (value & OUT_RESET) == 0;

    if (((value ^ k->output_port) & OUT_A20) != 0 && k->cfg.a20 != NULL) {
        k->cfg.a20(k->cfg.opaque, a20);
    }
    k->output_port = value | OUT_RESET;
    if (reset && k->cfg.reset != NULL) {
        k->cfg.reset(k->cfg.opaque);
    }
}

static uint8_t output_port_value(const struct i8042 *k)
{
    bool aux = (k->out_flags & STS_AUX) != 0;

    return (uint8_t)((k->output_port & 0x0f) | (k->obf != 0 && !aux ? 0x10 : 0) |
                     (k->obf != 0 && aux ? 0x20 : 0) | 0xc0);
}

static void ctl_answer(struct i8042 *k, uint8_t byte)
{
    queue_put(&k->ctl, byte, 0);
}

static void kbc_command(struct i8042 *k, uint8_t value)
{
    k->command = 0;
    if (value >= 0xf0) {
        /* Pulses the output lines whose bits are zero; line 0 is the CPU's reset. */
        if ((value & 1) == 0 && k->cfg.reset != NULL) {
            k->cfg.reset(k->cfg.opaque);
        }
        return;
    }
    if (value >= 0x20 && value <= 0x3f) {
        ctl_answer(k, k->ram[value & 0x1f]);
        return;
    }
    if (value >= 0x60 && value <= 0x7f) {
        k->command = value;
        return;
    }
    switch (value) {
    case 0xa4: ctl_answer(k, 0xf1); break; /* no password */
    case 0xa7: k->ram[0] |= CFG_AUX_OFF; break;
    case 0xa8: k->ram[0] &= (uint8_t)~CFG_AUX_OFF; break;
    case 0xa9: ctl_answer(k, 0x01); break; /* auxiliary clock stuck low: nothing there */
    case 0xaa:
        k->ctl.len = 0;
        k->kbd.len = 0;
        k->obf = 0;
        k->ram[0] |= CFG_SYS;
        ctl_answer(k, 0x55);
        break;
    case 0xab: ctl_answer(k, 0x00); break;
    case 0xad: k->ram[0] |= CFG_KBD_OFF; break;
    case 0xae: k->ram[0] &= (uint8_t)~CFG_KBD_OFF; break;
    case 0xc0: ctl_answer(k, 0x80); break; /* input port: keyboard not locked */
    case 0xd0: ctl_answer(k, output_port_value(k)); break;
    case 0xd1:
    case 0xd2:
    case 0xd3:
    case 0xd4: k->command = value; break;
    case 0xdd: set_output_port(k, k->output_port & (uint8_t)~OUT_A20); break;
    case 0xdf: set_output_port(k, k->output_port | OUT_A20); break;
    case 0xe0: ctl_answer(k, 0x00); break;
    default: break;
    }
}

static void kbc_data(struct i8042 *k, uint8_t value)
{
    uint8_t command = k->command;

    k->command = 0;
    if (command >= 0x60 && command <= 0x7f) {
        k->ram[command & 0x1f] = value;
        return;
    }
    switch (command) {
    case 0xd1: set_output_port(k, value); break;
    case 0xd2:
    case 0xd3: ctl_answer(k, value); break;
    case 0xd4: queue_put(&k->ctl, KBD_RESEND, STS_AUX | STS_TIMEOUT); break;
    default: kbd_write(k, value); break;
    }
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned len)
{
    struct i8042 *k = opaque;
    uint8_t value = k->out;

    (void)offset;
    (void)len;
    if (k->obf != 0) {
        k->obf = 0;
        /* The line must fall before the next byte raises it: it is an edge. */
        irq_set(&k->cfg.irq_kbd, false);
        irq_set(&k->cfg.irq_aux, false);
        kbc_update(k);
    }
    return value;
}

static uint64_t status_read(void *opaque, uint64_t offset, unsigned len)
{
    const struct i8042 *k = opaque;
    uint8_t v = k->status | STS_UNLOCK;

    (void)offset;
    (void)len;
    v |= (k->ram[0] & CFG_SYS) != 0 ? STS_SYS : 0;
    v |= k->obf != 0 ? STS_OBF | k->out_flags : 0;
    return v;
}

static void data_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct i8042 *k = opaque;

    (void)offset;
    (void)len;
    k->status &= (uint8_t)~STS_CMD;
    kbc_data(k, (uint8_t)value);
    kbc_update(k);
}

static void command_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct i8042 *k = opaque;

    (void)offset;
    (void)len;
    k->status |= STS_CMD;
    kbc_command(k, (uint8_t)value);
    kbc_update(k);
}

static const struct bus_ops data_ops = {data_read, data_write};
static const struct bus_ops command_ops = {status_read, command_write};
static const struct bus_range kbc_ranges[] = {
    {.base = 0x60, .size = 1, .ops = &data_ops, .name = "i8042 data"},
    {.base = 0x64, .size = 1, .ops = &command_ops, .name = "i8042 command"},
};

static void kbc_reset_locked(struct i8042 *k)
{
    memset(k->ram, 0, sizeof(k->ram));
    k->ram[0] = CFG_POWER_ON;
    k->status = 0;
    k->obf = k->out = k->out_flags = k->command = 0;
    k->ctl.len = 0;
    k->kbd_enabled = 1;
    k->kbd_last = 0;
    kbd_defaults(k);
    if ((k->output_port & OUT_A20) == 0 && k->cfg.a20 != NULL) {
        k->cfg.a20(k->cfg.opaque, true);
    }
    k->output_port = OUT_RESET | OUT_A20;
    kbc_update(k);
}

static void kbc_reset(struct dev *dev)
{
    struct i8042 *k = container_of(dev, struct i8042, dev);

    SCOPED_LOCK(k->cfg.lock);
    kbc_reset_locked(k);
}

static const struct state_field kbc_fields[] = {
    STATE_BYTES(struct i8042, ram),
    STATE_UINT(struct i8042, output_port),
    STATE_UINT(struct i8042, status),
    STATE_UINT(struct i8042, obf),
    STATE_UINT(struct i8042, out),
    STATE_UINT(struct i8042, out_flags),
    STATE_UINT(struct i8042, command),
    STATE_BYTES(struct i8042, ctl.data),
    STATE_BYTES(struct i8042, ctl.flags),
    STATE_UINT(struct i8042, ctl.len),
    STATE_BYTES(struct i8042, kbd.data),
    STATE_BYTES(struct i8042, kbd.flags),
    STATE_UINT(struct i8042, kbd.len),
    STATE_UINT(struct i8042, kbd_command),
    STATE_UINT(struct i8042, kbd_enabled),
    STATE_UINT(struct i8042, kbd_leds),
    STATE_UINT(struct i8042, kbd_set),
    STATE_UINT(struct i8042, kbd_last),
    STATE_END,
};

static void kbc_save(struct dev *dev, struct state_writer *w)
{
    struct i8042 *k = container_of(dev, struct i8042, dev);

    SCOPED_LOCK(k->cfg.lock);
    state_put_fields(w, kbc_fields, k);
}

static int kbc_load(struct dev *dev, struct state_reader *r, uint32_t version, struct err *err)
{
    struct i8042 *k = container_of(dev, struct i8042, dev);
    int rc;

    (void)version;
    SCOPED_LOCK(k->cfg.lock);
    rc = state_get_fields(r, kbc_fields, k, err);
    if (rc == 0 && (k->ctl.len > QUEUE || k->kbd.len > QUEUE)) {
        rc = ERR(err, STATE_BAD, EINVAL, "i8042: %u and %u bytes in queues of %u", k->ctl.len,
                 k->kbd.len, QUEUE);
    }
    if (rc < 0) {
        kbc_reset_locked(k);
        return rc;
    }
    k->out_flags &= STS_AUX | STS_TIMEOUT;
    k->status &= STS_CMD;
    if (k->cfg.a20 != NULL) {
        k->cfg.a20(k->cfg.opaque, (k->output_port & OUT_A20) != 0);
    }
    return 0;
}

static void kbc_free(struct dev *dev)
{
    struct i8042 *k = container_of(dev, struct i8042, dev);

    bus_remove_all(k->cfg.pio, k);
    free(k);
}

static const struct dev_ops kbc_ops = {
    .name = "i8042",
    .state_version = 1,
    .reset = kbc_reset,
    .save = kbc_save,
    .load = kbc_load,
    .free = kbc_free,
};

int i8042_new(struct i8042 **ret_kbc, const struct i8042_config *cfg, struct err *err)
{
    struct i8042 *k = calloc(1, sizeof(*k));
    int r;

    if (k == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the keyboard controller");
    }
    k->cfg = *cfg;
    k->dev = (struct dev){.ops = &kbc_ops, .lock = cfg->lock};
    kbc_reset_locked(k);
    r = bus_add_ranges(cfg->pio, kbc_ranges, ARRAY_LEN(kbc_ranges), k, cfg->lock, err);
    if (r < 0) {
        kbc_free(&k->dev);
        return r;
    }
    *ret_kbc = k;
    return 0;
}

struct dev *i8042_dev(struct i8042 *kbc)
{
    return &kbc->dev;
}

bool i8042_key(struct i8042 *k, const uint8_t *codes, size_t len)
{
    SCOPED_LOCK(k->cfg.lock);
    if (k->kbd_enabled == 0 || len > 8 || k->kbd.len + len > QUEUE) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        kbd_put(k, codes[i]);
    }
    kbc_update(k);
    return true;
}
