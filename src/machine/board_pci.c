/*
 * The PCI side of the board: root complex, and the virtio devices that the configuration asks
 * for. Slots: 1 entropy, 2 console, 3 and up disks, then network cards. Disks and network back
 * ends are opened here, once, when the machine is made.
 */
#include "machine/machine_priv.h"

#include "base/cleanup.h"
#include "block/block.h"
#include "dev/virtio/virtio_blk.h"
#include "dev/virtio/virtio_console.h"
#include "dev/virtio/virtio_pci.h"
#include "dev/virtio/virtio_rng.h"

#include <errno.h>

enum { SLOT_RNG = 1, SLOT_CONSOLE = 2, SLOT_FIRST_FREE = 3, SLOT_END = 32 };

static void on_pci_reset(void *opaque)
{
    machine_request(opaque, REQUEST_RESET);
}

static int make_root(struct machine *m, struct err *err)
{
    struct pci_root_cfg cfg = {
        .mmio = m->mmio,
        .pio = m->pio,
        .mem = m->mem,
        .ecam_base = BOARD_ECAM_BASE,
        .msi = board_msi(m),
        .mem_window = {{m->map.pci32.base, m->map.pci32.size},
                       {m->map.pci64.base, m->map.pci64.size}},
        .io_window = {BOARD_PCI_IO_BASE, BOARD_PCI_IO_SIZE},
        .reset_request = on_pci_reset,
        .reset_opaque = m,
    };
    for (unsigned i = 0; i < 4; i++) {
        cfg.intx[i] = board_irq(m, BOARD_GSI_INTX(i));
    }
    int r = pci_root_new(&cfg, &m->board.pci, err);
    if (r == 0) {
        board_add_dev(m, pci_root_dev(m->board.pci));
    }
    return r;
}

int board_plug_virtio(struct machine *m, struct virtio_dev *vd, unsigned slot, struct err *err)
{
    struct virtio_pci *vp;

    if (slot >= SLOT_END) {
        virtio_free(vd);
        return ERR(err, LIMIT, ENOSPC, "more than %d PCI devices", SLOT_END);
    }
    int r = virtio_pci_new(vd, &vp, err);
    if (r < 0) {
        return r;
    }
    r = pci_root_add(m->board.pci, &vp->pd, PCI_DEVFN(slot, 0), err);
    if (r < 0) {
        vp->pd.dev.ops->free(&vp->pd.dev);
        return r;
    }
    board_add_dev(m, &vp->pd.dev);
    return 0;
}

static size_t console_out(void *opaque, const uint8_t *data, size_t len)
{
    struct machine *m = opaque;

    if (!__atomic_load_n(&m->virtio_console_used, __ATOMIC_RELAXED)) {
        __atomic_store_n(&m->virtio_console_used, true, __ATOMIC_RELAXED);
        if (m->init_console_ns == 0) {
            __atomic_store_n(&m->init_console_ns, clock_now_ns(), __ATOMIC_RELAXED);
        }
    }
    return m->console.write != NULL ? m->console.write(m->console.opaque, data, len) : len;
}

static void console_room(void *opaque, unsigned port)
{
    (void)port;
    machine_request(opaque, REQUEST_INPUT);
}

static int make_fixed(struct machine *m, struct err *err)
{
    struct virtio_dev *vd;
    const struct virtio_rng_cfg rng = {.mem = m->mem};
    const struct virtio_console_port_cfg port = {
        .sink = {.write = console_out, .opaque = m}, .rx_room = console_room, .opaque = m};
    const struct virtio_console_cfg console = {
        .mem = m->mem, .loop = m->loop, .ports = &port, .port_count = 1};

    int r = virtio_rng_new(&rng, &vd, err);
    r = r < 0 ? r : board_plug_virtio(m, vd, SLOT_RNG, err);
    r = r < 0 ? r : virtio_console_new(&console, &vd, err);
    r = r < 0 ? r : board_plug_virtio(m, vd, SLOT_CONSOLE, err);
    if (r == 0) {
        m->board.console = vd;
    }
    return r;
}

static int make_disk(struct machine *m, const struct machine_disk *disk, unsigned slot,
                     struct err *err)
{
    struct block_node *node;
    struct virtio_dev *vd;
    const struct block_raw_cfg raw = {.path = disk->path, .fd = -1, .readonly = disk->readonly};

    int r = block_raw_open(&raw, &node, err);
    if (r < 0) {
        return r;
    }
    const struct virtio_blk_cfg cfg = {
        .mem = m->mem, .node = node, .serial = disk->serial, .readonly = disk->readonly};
    r = virtio_blk_new(&cfg, &vd, err);
    if (r < 0) {
        block_free(node);
        return r;
    }
    return board_plug_virtio(m, vd, slot, err);
}

int board_pci_new(struct machine *m, struct err *err)
{
    unsigned slot = SLOT_FIRST_FREE;
    int r = make_root(m, err);

    r = r < 0 ? r : make_fixed(m, err);
    for (unsigned i = 0; r == 0 && i < m->cfg->n_disks; i++) {
        r = make_disk(m, &m->cfg->disks[i], slot++, err);
    }
    for (unsigned i = 0; r == 0 && i < m->cfg->n_nets; i++) {
        if (m->cfg->nets[i].kind != MACHINE_NET_NONE) {
            r = board_net_new(m, &m->cfg->nets[i], slot++, err);
        }
    }
    return r;
}
