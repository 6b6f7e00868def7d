/* The console device, with named ports beside the console. Virtio 1.2, 5.3. */
#pragma once

#include "base/loop.h"
#include "dev/legacy/byteq.h" /* struct byte_sink */
#include "dev/virtio/virtio.h"

#define VIRTIO_CONSOLE_PORTS_MAX 16
#define VIRTIO_CONSOLE_NAME_MAX  64

struct virtio_console_port_cfg {
    const char *name; /* NULL: a console. Port 0 always is one */
    /* Where the guest's output goes. write runs on the loop's thread with the device's lock
     * held: it must not call this device. When it took less, virtio_console_tx_ready once there
     * is room. */
    struct byte_sink sink;
    /* Optional; the loop's thread, no lock: there is room after virtio_console_input took less.
     */
    void (*rx_room)(void *opaque, unsigned port);
    void *opaque;
};

struct virtio_console_cfg {
    struct mem *mem;                             /* borrowed */
    struct loop *loop;                           /* borrowed */
    const struct virtio_console_port_cfg *ports; /* copied */
    unsigned port_count; /* 1 to 16; more than one: the multiport feature is offered */
    uint16_t cols, rows; /* 0: not known */
};

/* On the loop's thread, or before it runs. */
int virtio_console_new(const struct virtio_console_cfg *cfg, struct virtio_dev **ret_vd,
                       struct err *err);

/* Input for the guest: how many bytes it had room for. Any thread. */
size_t virtio_console_input(struct virtio_dev *vd, unsigned port, const void *data, size_t len);
/* The sink has room again. Any thread. */
void virtio_console_tx_ready(struct virtio_dev *vd, unsigned port);
/* Whether somebody is at the host's end of a port; initially yes. Any thread. */
void virtio_console_set_open(struct virtio_dev *vd, unsigned port, bool open);
/* The terminal's size changed. Any thread. */
void virtio_console_resize(struct virtio_dev *vd, uint16_t cols, uint16_t rows);
