/*
 * Fuzz target: registers, configuration space, rings and back-end events of every virtio
 * device. Byte 0 chooses the device; the rest is a program of operations (enum op) with fixed
 * operands. What must hold is: no crash, no sanitizer report, and no request lost in the end.
 */
#include "base/fuzz.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/log.h"
#include "base/loop.h"
#include "dev/virtio/virtio_blk.h"
#include "dev/virtio/virtio_console.h"
#include "dev/virtio/virtio_net.h"
#include "dev/virtio/virtio_pci.h"
#include "dev/virtio/virtio_rng.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RAM_BYTES  (UINT64_C(1) << 18)
#define BAR        UINT64_C(0xe0000000)
#define DEVFN      PCI_DEVFN(1, 0)
#define RING_BYTES 0x1000U /* one queue: descriptors, avail at 0x400, used at 0x800 */
#define QUEUE_SIZE 16U
#define DATA       0x10000U
#define DISK_BYTES 65536

enum op {
    OP_BAR_WRITE,
    OP_BAR_READ,
    OP_CFG_WRITE,
    OP_CFG_READ,
    OP_RAM,
    OP_KICK,
    OP_INIT,
    OP_DESC,
    OP_PUBLISH,
    OP_COMPLETE,
    OP_EVENT,
    OP_SAVE_LOAD,
    OP_RESET,
    OP_STATE_NOISE,
    OP_COUNT,
};

struct input {
    const uint8_t *p;
    size_t left;
};

struct world {
    struct mem *mem;
    struct bus *mmio, *pio;
    struct loop *loop;
    struct pci_root *root;
    struct virtio_dev *vd;
    struct virtio_pci *vp;
    unsigned kind;
    /* The disk. */
    struct block_node node;
    struct block_req *head, **tail;
    uint8_t disk[DISK_BYTES];
    /* The wire. */
    struct net_backend nb;
    unsigned send_busy;
    unsigned sink_room;
};

static uint32_t take(struct input *in, unsigned bytes)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < bytes && in->left != 0; i++, in->p++, in->left--) {
        v |= (uint32_t)*in->p << (8 * i);
    }
    return v;
}

/* ---- back ends ---- */

static void disk_submit(struct block_node *node, struct block_req *req)
{
    struct world *w = container_of(node, struct world, node);
    *w->tail = req;
    w->tail = &req->next;
}

static int disk_run(struct world *w, struct block_req *req, int result)
{
    uint64_t at = req->offset_bytes;
    for (unsigned i = 0; i < req->iov_count && result == 0; i++) {
        void *p = req->iov[i].iov_base;
        size_t n = req->iov[i].iov_len;
        if (at + n > DISK_BYTES) {
            abort(); /* the checks before let something through */
        }
        memcpy(req->op == BLOCK_READ ? p : w->disk + at,
               req->op == BLOCK_READ ? w->disk + at : p, n);
        at += n;
    }
    return result;
}

static void disk_complete(struct world *w, unsigned n, int result)
{
    for (unsigned i = 0; i < n && w->head != NULL; i++) {
        struct block_req *req = w->head;
        w->head = req->next;
        if (w->head == NULL) {
            w->tail = &w->head;
        }
        block_complete(req, disk_run(w, req, result));
    }
}

static void disk_free(struct block_node *node)
{
    (void)node;
}

static const struct block_ops disk_ops = {
    .name = "fuzz", .threads = BLOCK_ANY_THREAD, .submit = disk_submit, .free = disk_free};

static int wire_send(struct net_backend *nb, const struct net_hdr *hdr, const struct iovec *iov,
                     unsigned iov_count)
{
    struct world *w = container_of(nb, struct world, nb);
    size_t bytes = 0;
    (void)hdr;
    for (unsigned i = 0; i < iov_count; i++) {
        bytes += iov[i].iov_len;
    }
    if (bytes > NET_FRAME_MAX) {
        abort();
    }
    if (w->send_busy != 0) {
        w->send_busy--;
        return -EAGAIN;
    }
    return 0;
}

static void wire_nothing(struct net_backend *nb)
{
    (void)nb;
}

static const struct net_backend_ops wire_ops = {.name = "fuzz",
                                                .send = wire_send,
                                                .rx_ready = wire_nothing,
                                                .start = wire_nothing,
                                                .stop = wire_nothing,
                                                .free = wire_nothing};

static size_t sink_write(void *opaque, const uint8_t *data, size_t len)
{
    struct world *w = opaque;
    size_t n = MIN(len, (size_t)w->sink_room);
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum = (uint8_t)(sum + data[i]);
    }
    w->sink_room -= (unsigned)n;
    return n;
}

static void fill(void *opaque, void *buf, size_t len)
{
    (void)opaque;
    memset(buf, 0xa5, len);
}

/* ---- the machine ---- */

static int make_device(struct world *w)
{
    switch (w->kind) {
    case 0: {
        struct virtio_rng_cfg cfg = {w->mem, fill, NULL};
        return virtio_rng_new(&cfg, &w->vd, NULL);
    }
    case 1: {
        w->tail = &w->head;
        w->node = (struct block_node){.ops = &disk_ops,
                                      .size_bytes = DISK_BYTES,
                                      .caps = BLOCK_CAP_WRITE | BLOCK_CAP_DISCARD |
                                              BLOCK_CAP_WRITE_ZEROES,
                                      .align_bytes = 512,
                                      .physical_bytes = 4096,
                                      .discard_align = 512,
                                      .discard_max = 4096,
                                      .name = "fuzz"};
        struct virtio_blk_cfg cfg = {.mem = w->mem, .node = &w->node, .queues = 2};
        return virtio_blk_new(&cfg, &w->vd, NULL);
    }
    case 2: {
        struct virtio_console_port_cfg ports[2] = {{.sink = {sink_write, w}},
                                                   {.name = "port", .sink = {sink_write, w}}};
        struct virtio_console_cfg cfg = {
            .mem = w->mem, .loop = w->loop, .ports = ports, .port_count = 2};
        return virtio_console_new(&cfg, &w->vd, NULL);
    }
    default: {
        w->nb =
            (struct net_backend){.ops = &wire_ops, .caps = 0xff, .mtu = 1500, .link_up = true};
        struct virtio_net_cfg cfg = {.mem = w->mem, .nb = &w->nb, .mac = {2}};
        return virtio_net_new(&cfg, &w->vd, NULL);
    }
    }
}

static void must(int rc)
{
    if (rc != 0) {
        abort();
    }
}

static void assign(struct world *w)
{
    static const uint8_t irqs[4] = {5, 6, 7, 8};
    must(pci_root_assign(w->root, irqs, NULL));
}

static void world_new(struct world *w, unsigned kind)
{
    memset(w, 0, sizeof(*w));
    w->kind = kind % 4;
    must(mem_new(&w->mem, NULL));
    must(mem_slot_add(w->mem, GPA(0), RAM_BYTES, MEM_RAM, NULL));
    must(mem_slot_add(w->mem, GPA(RAM_BYTES), 65536, MEM_RAM, NULL));
    must(mem_slot_add(w->mem, GPA(RAM_BYTES + 65536), 4096, MEM_ROM, NULL));
    must(bus_new(&w->mmio, UINT64_C(1) << 40, NULL));
    must(bus_new(&w->pio, 65536, NULL));
    must(loop_new(&w->loop, NULL));
    struct pci_root_cfg cfg = {.mmio = w->mmio,
                               .pio = w->pio,
                               .mem = w->mem,
                               .mem_window = {{BAR, 1 << 24}, {0, 0}},
                               .io_window = {0x1000, 0x1000}};
    must(pci_root_new(&cfg, &w->root, NULL));
    must(make_device(w));
    must(virtio_pci_new(w->vd, &w->vp, NULL));
    must(pci_root_add(w->root, &w->vp->pd, DEVFN, NULL));
    assign(w);
}

static void quiet(struct world *w)
{
    disk_complete(w, UINT32_MAX, 0);
    while (w->head != NULL) {
        disk_complete(w, UINT32_MAX, 0);
    }
}

static void world_free(struct world *w)
{
    struct dev *dev = &w->vp->pd.dev;
    virtio_reset(w->vd, false);
    quiet(w);
    if (w->vd->in_flight != 0) {
        abort(); /* a request was lost */
    }
    dev->ops->free(dev);
    pci_root_free(w->root);
    loop_free(w->loop);
    bus_free(w->mmio);
    bus_free(w->pio);
    mem_free(w->mem);
}

static void stop_loop(void *opaque)
{
    loop_stop(opaque, 0);
}

static void run_loop(struct world *w)
{
    if (w->kind == 2 && loop_post(w->loop, stop_loop, w->loop) == 0) {
        (void)loop_run(w->loop);
    }
}

static void set(struct world *w, unsigned off, unsigned len, uint64_t value)
{
    /* Waiting for requests of before the reset would wait for ever here: nobody else is there.
     */
    if (off <= VPCI_STATUS && VPCI_STATUS < off + len) {
        quiet(w);
    }
    bus_write(w->mmio, BAR + off, len, value);
}

static void init(struct world *w, uint32_t wanted)
{
    set(w, VPCI_STATUS, 1, 0);
    set(w, VPCI_STATUS, 1, 3);
    set(w, VPCI_DEVICE_FEATURE_SELECT, 4, 0);
    uint64_t offer = bus_read(w->mmio, BAR + VPCI_DEVICE_FEATURE, 4);
    set(w, VPCI_DRIVER_FEATURE_SELECT, 4, 0);
    set(w, VPCI_DRIVER_FEATURE, 4, offer & wanted);
    set(w, VPCI_DRIVER_FEATURE_SELECT, 4, 1);
    set(w, VPCI_DRIVER_FEATURE, 4, 1);
    set(w, VPCI_STATUS, 1, 11);
    for (unsigned q = 0; q < w->vd->queue_count; q++) {
        uint64_t ring = (uint64_t)q * RING_BYTES;
        set(w, VPCI_QUEUE_SELECT, 2, q);
        set(w, VPCI_QUEUE_SIZE, 2, QUEUE_SIZE);
        set(w, VPCI_QUEUE_VECTOR, 2, q);
        set(w, VPCI_QUEUE_DESC, 8, ring);
        set(w, VPCI_QUEUE_DRIVER, 8, ring + 0x400);
        set(w, VPCI_QUEUE_DEVICE, 8, ring + 0x800);
        set(w, VPCI_QUEUE_ENABLE, 2, 1);
        (void)mem_fill(w->mem, GPA(ring + 0x400), 0, 0x800);
    }
    set(w, VPCI_STATUS, 1, 15);
}

static void put_desc(struct world *w, struct input *in)
{
    uint8_t raw[16];
    uint64_t ring = (uint64_t)(take(in, 1) % 8) * RING_BYTES;
    unsigned i = take(in, 1) % QUEUE_SIZE;
    put_le64(raw, DATA + (uint64_t)take(in, 3) % (RAM_BYTES + 65536));
    put_le32(raw + 8, take(in, 2));
    put_le16(raw + 12, (uint16_t)(take(in, 1) & 7));
    put_le16(raw + 14, (uint16_t)(take(in, 1) % (QUEUE_SIZE + 1)));
    (void)mem_write(w->mem, GPA(ring + 16ULL * i), raw, sizeof(raw));
}

static void publish(struct world *w, struct input *in)
{
    uint64_t avail = (uint64_t)(take(in, 1) % 8) * RING_BYTES + 0x400;
    uint16_t idx = 0;
    (void)mem_load_u16(w->mem, GPA(avail + 2), &idx);
    (void)mem_store_u16(w->mem, GPA(avail + 4 + 2ULL * (idx % QUEUE_SIZE)),
                        (uint16_t)take(in, 1));
    (void)mem_store_u16(w->mem, GPA(avail + 2), (uint16_t)(idx + 1));
}

static void event(struct world *w, struct input *in)
{
    static uint8_t frame[4096];
    unsigned what = take(in, 1);
    size_t len = take(in, 2) % sizeof(frame);
    struct iovec iov = {frame, len};
    struct net_hdr h = {(uint8_t)(what >> 4), (uint8_t)(what >> 2 & 0x81), 0, 100, 34, 16};
    if (w->kind == 2) {
        w->sink_room = (unsigned)len;
        (void)virtio_console_input(w->vd, what & 1, frame, len / 16);
        virtio_console_tx_ready(w->vd, what >> 1 & 1);
        virtio_console_set_open(w->vd, what >> 2 & 1, (what & 8) != 0);
    } else if (w->kind == 3) {
        (void)w->nb.fe->rx(w->nb.fe_opaque, (what & 1) != 0 ? &h : NULL, &iov, 1);
        w->send_busy = what >> 1 & 1;
        w->nb.fe->tx_ready(w->nb.fe_opaque);
        w->nb.fe->link(w->nb.fe_opaque, (what & 8) == 0);
    } else if (w->kind == 1) {
        virtio_blk_resized(w->vd);
    }
    run_loop(w);
}

/* Saves, flips a byte if asked, and loads. */
static void save_load(struct world *w, struct input *in, bool noise)
{
    struct dev *dev = &w->vp->pd.dev;
    struct state_writer *writer;
    struct state_reader *r = NULL;
    const void *data;
    size_t len;
    uint32_t version;

    quiet(w);
    dev->ops->pause(dev);
    must(state_writer_new(&writer, NULL));
    state_begin(writer, dev->ops->name, dev->instance, 1);
    dev->ops->save(dev, writer);
    state_end(writer);
    must(state_writer_finish(writer, &data, &len));
    uint8_t *copy = malloc(len);
    if (copy == NULL) {
        abort();
    }
    memcpy(copy, data, len);
    if (noise) {
        uint32_t at = take(in, 2);
        copy[at % len] ^= (uint8_t)take(in, 1);
    }
    if (state_reader_new(&r, copy, len, NULL) == 0 &&
        state_enter(r, dev->ops->name, dev->instance, 1, &version, NULL) == 0) {
        int rc = dev->ops->load(dev, r, version, NULL);
        if (!noise && rc != 0) {
            abort(); /* what we wrote we must read */
        }
    }
    dev->ops->resume(dev);
    state_reader_free(r);
    state_writer_free(writer);
    free(copy);
}

static void step(struct world *w, struct input *in)
{
    static const unsigned widths[] = {1, 2, 4, 8};
    struct dev *dev = &w->vp->pd.dev;
    unsigned op = take(in, 1) % OP_COUNT;
    uint32_t a = 0;

    switch ((enum op)op) {
    case OP_BAR_WRITE:
        a = take(in, 2) % (VIRTIO_PCI_BAR_BYTES + 8);
        set(w, a, widths[take(in, 1) & 3], take(in, 4) * UINT64_C(0x100000001));
        break;
    case OP_BAR_READ:
        a = take(in, 2) % (VIRTIO_PCI_BAR_BYTES + 8);
        (void)bus_read(w->mmio, BAR + a, widths[take(in, 1) & 3]);
        break;
    case OP_CFG_WRITE:
        a = take(in, 2);
        quiet(w); /* the window reaches the status register too */
        pci_cfg_write(w->root, DEVFN, a & 0xff, 1U << (a >> 8 & 3) % 3, take(in, 4));
        break;
    case OP_CFG_READ:
        a = take(in, 2);
        (void)pci_cfg_read(w->root, DEVFN, a & 0xff, 1U << (a >> 8 & 3) % 3);
        break;
    case OP_RAM: {
        uint32_t at = take(in, 3);
        uint8_t bytes[8];
        put_le32(bytes, take(in, 4));
        put_le32(bytes + 4, 0);
        (void)mem_write(w->mem, GPA(at % (RAM_BYTES * 2)), bytes, 1 + (at >> 20) % 8);
        break;
    }
    case OP_KICK:
        bus_write(w->mmio, BAR + VIRTIO_PCI_NOTIFY + 4ULL * take(in, 1), 2, 0);
        run_loop(w);
        break;
    case OP_INIT:
        if (!w->vp->pd.bar[0].mapped || w->vp->pd.bar[0].at != BAR) {
            assign(w);
        }
        init(w, take(in, 4));
        break;
    case OP_DESC: put_desc(w, in); break;
    case OP_PUBLISH: publish(w, in); break;
    case OP_COMPLETE:
        a = take(in, 1);
        disk_complete(w, a & 0x1f, (a & 0x20) != 0 ? -EIO : (a & 0x40) != 0 ? -EOPNOTSUPP : 0);
        break;
    case OP_EVENT: event(w, in); break;
    case OP_SAVE_LOAD: save_load(w, in, false); break;
    case OP_STATE_NOISE: save_load(w, in, true); break;
    case OP_RESET:
        quiet(w);
        dev->ops->reset(dev);
        assign(w);
        break;
    case OP_COUNT: break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct world w;
    struct input in = {data, len};
    log_setup("fuzz", LOG_LEVEL_ERROR, 2);
    world_new(&w, take(&in, 1));
    while (in.left != 0) {
        step(&w, &in);
    }
    world_free(&w);
    return 0;
}

/* Bring-up, then good requests in every queue, with events, saves and resets in between. */
size_t fuzz_seed(unsigned index, uint8_t *buf, size_t cap)
{
    size_t n = 0;
    if (index >= 8 || cap < 4096) {
        return 0;
    }
#define PUT(...)                                                                               \
    do {                                                                                       \
        const uint8_t b_[] = {__VA_ARGS__};                                                    \
        memcpy(buf + n, b_, sizeof(b_));                                                       \
        n += sizeof(b_);                                                                       \
    } while (0)
    buf[n++] = (uint8_t)index;
    PUT(OP_INIT, 0xff, 0xff, 0xff, index < 4 ? 0xcf : 0xff);
    for (uint8_t round = 0; round < 12; round++) {
        for (uint8_t q = 0; q < 4; q++) {
            /* A header that suits a disk: type, sector. */
            PUT(OP_RAM, 0, 0, 1, round % 6 == 5 ? 8 : round & 1, 0, 0, 0);
            PUT(OP_DESC, q, 0, 0, 0, 0, 16, 0, 1, 1);
            PUT(OP_DESC, q, 1, 0, 2, 0, 0, 2, (uint8_t)(index % 4 == 1 && (round & 1) ? 1 : 3),
                2);
            PUT(OP_DESC, q, 2, 0, 8, 0, 1, 0, 2, 0);
            PUT(OP_DESC, q, 3, 0, 16, 0, 0, 8, 2, 0);
            PUT(OP_DESC, q, 4, 0, 32, 0, 0, 4, 0, 0);
            PUT(OP_PUBLISH, q, (uint8_t)(index % 4 == 1 ? 0 : (q & 1) != 0 ? 4 : 3));
            PUT(OP_KICK, q);
        }
        PUT(OP_COMPLETE, 3);
        PUT(OP_EVENT, (uint8_t)(round & 0xf7), 100, 0);
        if (round == 5) {
            PUT(OP_SAVE_LOAD);
        }
        if (round == 8) {
            PUT(OP_RESET, OP_INIT, 0xff, 0xff, 0xff, 0xdf);
        }
    }
#undef PUT
    return n;
}
