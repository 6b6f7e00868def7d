/*
 * The block device over a disk in memory whose completions the test holds back: shapes of
 * requests, errors, reset and save with requests in flight (hostile-input cases 6, 7, 9, 10,
 * 18).
 */
#include "dev/virtio/virtio_blk.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"
#include "dev/virtio/vt.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DISK_BYTES (UINT64_C(1) << 20)
#define PAGE       4096U
#define F_FLUSH    VIRTIO_BIT(9)
#define F_WCE      VIRTIO_BIT(11)
#define F_MQ       VIRTIO_BIT(12)
#define F_DISCARD  VIRTIO_BIT(13)
#define F_ZEROES   VIRTIO_BIT(14)
#define F_ALL      (F_FLUSH | F_WCE | F_MQ | F_DISCARD | F_ZEROES | VIRTIO_BIT(28) | VIRTIO_BIT(29))

/* A disk in memory. Requests are done by a thread of its own, unless held. */
struct ram_disk {
    struct block_node node;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    struct block_req *head, **tail;
    bool held, stop;
    int fail; /* result of the next request */
    unsigned fua, unmap;
    uint8_t *data;
};

static int carry_out(struct ram_disk *disk, struct block_req *req)
{
    uint64_t at = req->offset_bytes;
    if (disk->fail != 0) {
        int rc = disk->fail;
        disk->fail = 0;
        return rc;
    }
    disk->fua += (req->flags & BLOCK_REQ_FUA) != 0;
    disk->unmap += (req->flags & BLOCK_REQ_MAY_UNMAP) != 0;
    switch (req->op) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        for (unsigned i = 0; i < req->iov_count; i++) {
            void *p = req->iov[i].iov_base;
            size_t n = req->iov[i].iov_len;
            memcpy(req->op == BLOCK_READ ? p : disk->data + at,
                   req->op == BLOCK_READ ? disk->data + at : p, n);
            at += n;
        }
        break;
    case BLOCK_FLUSH: break;
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES: memset(disk->data + at, 0, req->len_bytes); break;
    }
    return 0;
}

static void *disk_main(void *opaque)
{
    struct ram_disk *disk = opaque;
    pthread_mutex_lock(&disk->lock);
    while (!disk->stop) {
        struct block_req *req = disk->head;
        if (req == NULL || disk->held) {
            pthread_cond_wait(&disk->wake, &disk->lock);
            continue;
        }
        disk->head = req->next;
        if (disk->head == NULL) {
            disk->tail = &disk->head;
        }
        int rc = carry_out(disk, req);
        pthread_mutex_unlock(&disk->lock);
        block_complete(req, rc);
        pthread_mutex_lock(&disk->lock);
    }
    pthread_mutex_unlock(&disk->lock);
    return NULL;
}

static void disk_submit(struct block_node *node, struct block_req *req)
{
    struct ram_disk *disk = container_of(node, struct ram_disk, node);
    SCOPED_LOCK(&disk->lock);
    *disk->tail = req;
    disk->tail = &req->next;
    pthread_cond_signal(&disk->wake);
}

static void disk_free(struct block_node *node)
{
    struct ram_disk *disk = container_of(node, struct ram_disk, node);
    pthread_mutex_lock(&disk->lock);
    disk->stop = true;
    pthread_cond_signal(&disk->wake);
    pthread_mutex_unlock(&disk->lock);
    pthread_join(disk->thread, NULL);
    free(disk->data);
    free(disk);
}

static const struct block_ops disk_ops = {
    .name = "ram", .threads = BLOCK_ANY_THREAD, .submit = disk_submit, .free = disk_free};

static struct ram_disk *disk_new(uint32_t caps)
{
    struct ram_disk *disk = calloc(1, sizeof(*disk));
    disk->data = calloc(1, DISK_BYTES);
    disk->tail = &disk->head;
    disk->node = (struct block_node){.ops = &disk_ops,
                                     .size_bytes = DISK_BYTES,
                                     .caps = caps,
                                     .align_bytes = 512,
                                     .physical_bytes = 4096,
                                     .discard_align = 4096,
                                     .discard_max = 65536,
                                     .name = "ram"};
    pthread_mutex_init(&disk->lock, NULL);
    pthread_cond_init(&disk->wake, NULL);
    assert_int_equal(pthread_create(&disk->thread, NULL, disk_main, disk), 0);
    return disk;
}

static void disk_hold(struct ram_disk *disk, bool held)
{
    SCOPED_LOCK(&disk->lock);
    disk->held = held;
    pthread_cond_signal(&disk->wake);
}

struct fixture {
    struct vt vt;
    struct ram_disk *disk;
    struct virtio_dev *vd;
    uint64_t header, data, status; /* gpa; one page each, data 64 KiB */
};

static void plug(struct fixture *f, uint32_t caps, unsigned queues)
{
    f->disk = disk_new(caps);
    struct virtio_blk_cfg cfg = {
        .mem = f->vt.mem, .node = &f->disk->node, .serial = "serial-0123", .queues = queues};
    assert_int_equal(virtio_blk_new(&cfg, &f->vd, NULL), 0);
    vt_plug(&f->vt, f->vd);
}

#define CAPS_ALL (BLOCK_CAP_WRITE | BLOCK_CAP_DISCARD | BLOCK_CAP_WRITE_ZEROES)

static int setup_with(void **state, uint32_t caps, unsigned queues)
{
    struct fixture *f = calloc(1, sizeof(*f));
    vt_setup(&f->vt);
    plug(f, caps, queues);
    f->header = vt_alloc(&f->vt, PAGE);
    f->data = vt_alloc(&f->vt, 65536);
    f->status = vt_alloc(&f->vt, PAGE);
    *state = f;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, CAPS_ALL, 1);
}

static int setup_readonly(void **state)
{
    return setup_with(state, 0, 1);
}

static int setup_mq(void **state)
{
    return setup_with(state, CAPS_ALL, 4);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    vt_teardown(&f->vt);
    free(f);
    return 0;
}

static void put_header(struct fixture *f, uint64_t at, uint32_t type, uint64_t sector)
{
    uint8_t h[16] = {0};
    put_le32(h, type);
    put_le64(h + 8, sector);
    vt_write(&f->vt, at, h, sizeof(h));
}

/* A request with len bytes of data at f->data; returns its status. */
static uint8_t request(struct fixture *f, uint32_t type, uint64_t sector, uint32_t len)
{
    bool in = type == 0 || type == 8;
    struct vt_seg segs[] = {{f->header, 16, false}, {f->data, len, in}, {f->status, 1, true}};
    uint8_t status = 0xee;
    put_header(f, f->header, type, sector);
    vt_write(&f->vt, f->status, &status, 1);
    if (len == 0) {
        segs[1] = segs[2];
    }
    vt_add(&f->vt, 0, segs, len == 0 ? 2 : 3);
    vt_kick(&f->vt, 0);
    uint32_t used = vt_wait_used(&f->vt, 0, NULL);
    vt_read(&f->vt, f->status, &status, 1);
    assert_int_equal(used, 1 + (in && status == 0 ? (type == 8 ? MIN(len, 20U) : len) : 0));
    return status;
}

static void test_config(void **state)
{
    struct fixture *f = *state;
    uint64_t cfg = VT_BAR + VIRTIO_PCI_DEVICE;
    vt_start(&f->vt, F_ALL, 1, 64);
    assert_int_equal(bus_read(f->vt.mmio, cfg, 8), DISK_BYTES / 512);
    assert_int_equal(bus_read(f->vt.mmio, cfg + 12, 4), 126);
    assert_int_equal(bus_read(f->vt.mmio, cfg + 20, 4), 512);
    assert_int_equal(bus_read(f->vt.mmio, cfg + 24, 1), 3); /* 4096 = 512 << 3 */
    assert_int_equal(bus_read(f->vt.mmio, cfg + 36, 4), 128);
    assert_int_equal(bus_read(f->vt.mmio, cfg + 44, 4), 8);
    assert_int_equal(bus_read(f->vt.mmio, cfg + 60, 4), 0);
    /* The capacity can not be written, the cache mode can. */
    bus_write(f->vt.mmio, cfg, 8, 1);
    assert_int_equal(bus_read(f->vt.mmio, cfg, 8), DISK_BYTES / 512);
    bus_write(f->vt.mmio, cfg + 32, 1, 0xfe);
    assert_int_equal(bus_read(f->vt.mmio, cfg + 32, 1), 0);
}

static void test_read_write(void **state)
{
    struct fixture *f = *state;
    uint8_t out[1024];
    uint8_t in[1024];
    vt_start(&f->vt, F_ALL, 1, 64);
    for (unsigned i = 0; i < sizeof(out); i++) {
        out[i] = (uint8_t)(i * 7);
    }
    vt_write(&f->vt, f->data, out, sizeof(out));
    assert_int_equal(request(f, 1, 5, sizeof(out)), 0);
    assert_memory_equal(f->disk->data + 5 * 512, out, sizeof(out));
    memset(in, 0, sizeof(in));
    vt_write(&f->vt, f->data, in, sizeof(in));
    assert_int_equal(request(f, 0, 5, sizeof(in)), 0);
    vt_read(&f->vt, f->data, in, sizeof(in));
    assert_memory_equal(in, out, sizeof(in));
    assert_int_equal(request(f, 4, 0, 0), 0);
    assert_int_equal(request(f, 8, 0, 20), 0);
    vt_read(&f->vt, f->data, in, 20);
    assert_memory_equal(in, "serial-0123\0\0\0\0\0\0\0\0\0", 20);
    assert_int_equal(request(f, 8, 0, 5), 0);
    struct virtio_blk_stats stats;
    virtio_blk_get_stats(f->vd, &stats);
    assert_int_equal(stats.block.ops[BLOCK_WRITE], 1);
    assert_int_equal(stats.block.bytes[BLOCK_READ], 1024);
    assert_int_equal(stats.io_errors, 0);
}

/* Case 9: the header in 16 pieces, the data in odd ones; status glued to the data. */
static void test_split_in_any_way(void **state)
{
    struct fixture *f = *state;
    struct vt_seg segs[40];
    uint8_t status = 0xee;
    unsigned n = 0;
    vt_start(&f->vt, F_ALL, 1, 64);
    memset(f->disk->data + 512, 0x5a, 1024);
    put_header(f, f->header, 0, 1);
    for (unsigned i = 0; i < 16; i++) {
        segs[n++] = (struct vt_seg){f->header + i, 1, false};
    }
    uint32_t at = 0;
    for (unsigned i = 0; i < 5; i++) {
        segs[n++] = (struct vt_seg){f->data + at, 101 + i, true};
        at += 101 + i;
    }
    segs[n++] = (struct vt_seg){f->data + at, 1024 - at + 1, true};
    vt_add_indirect(&f->vt, 0, segs, n);
    vt_kick(&f->vt, 0);
    assert_int_equal(vt_wait_used(&f->vt, 0, NULL), 1025);
    uint8_t in[1025];
    vt_read(&f->vt, f->data, in, sizeof(in));
    for (unsigned i = 0; i < 1024; i++) {
        assert_int_equal(in[i], 0x5a);
    }
    assert_int_equal(in[1024], 0);
    /* Header and data of a write in one piece. */
    put_header(f, f->data, 1, 9);
    struct vt_seg glued[] = {{f->data, 16 + 512, false}, {f->status, 1, true}};
    vt_add(&f->vt, 0, glued, 2);
    vt_kick(&f->vt, 0);
    assert_int_equal(vt_wait_used(&f->vt, 0, NULL), 1);
    vt_read(&f->vt, f->status, &status, 1);
    assert_int_equal(status, 0);
    vt_read(&f->vt, f->data + 16, in, 512);
    assert_memory_equal(f->disk->data + 9 * 512, in, 512);
}

/* Case 18. */
static void test_out_of_range(void **state)
{
    struct fixture *f = *state;
    uint64_t end = DISK_BYTES / 512;
    vt_start(&f->vt, F_ALL, 1, 64);
    for (unsigned type = 0; type < 2; type++) {
        assert_int_equal(request(f, type, end - 1, 512), 0);
        assert_int_equal(request(f, type, end - 1, 1024), 1);
        assert_int_equal(request(f, type, end, 512), 1);
        assert_int_equal(request(f, type, UINT64_MAX, 512), 1);
        assert_int_equal(request(f, type, UINT64_MAX / 512, 1024), 1);
        assert_int_equal(request(f, type, UINT64_MAX / 512 + 2, 512), 1);
        assert_int_equal(request(f, type, 0, 511), 1);
        assert_int_equal(request(f, type, 0, 0), 1);
    }
    assert_int_equal(request(f, 2, 0, 512), 2); /* unknown types */
    assert_int_equal(request(f, 14, 0, 0), 2);
    assert_int_equal(request(f, 0xffffffff, 0, 0), 2);
    assert_false(vt_needs_reset(&f->vt));
    struct virtio_blk_stats stats;
    virtio_blk_get_stats(f->vd, &stats);
    assert_int_equal(stats.refused, 3);
    assert_int_equal(stats.io_errors, 14);
}

static void put_range(struct fixture *f, unsigned i, uint64_t sector, uint32_t n,
                      uint32_t flags)
{
    uint8_t r[16];
    put_le64(r, sector);
    put_le32(r + 8, n);
    put_le32(r + 12, flags);
    vt_write(&f->vt, f->data + 16ULL * i, r, sizeof(r));
}

static uint8_t range_request(struct fixture *f, uint32_t type, uint64_t sector, uint32_t n,
                             uint32_t flags)
{
    put_range(f, 0, sector, n, flags);
    return request(f, type, 0, 16);
}

static void test_discard_and_zeroes(void **state)
{
    struct fixture *f = *state;
    uint64_t end = DISK_BYTES / 512;
    vt_start(&f->vt, F_ALL, 1, 64);
    memset(f->disk->data, 0x77, DISK_BYTES);
    assert_int_equal(range_request(f, 11, 8, 8, 0), 0);
    assert_int_equal(f->disk->data[8 * 512 - 1], 0x77);
    assert_int_equal(f->disk->data[8 * 512], 0);
    assert_int_equal(f->disk->data[16 * 512], 0x77);
    assert_int_equal(range_request(f, 13, 100, 1, 0), 0);
    assert_int_equal(f->disk->unmap, 0);
    assert_int_equal(range_request(f, 13, 101, 1, 1), 0);
    assert_int_equal(f->disk->unmap, 1);
    assert_int_equal(f->disk->data[101 * 512], 0);
    assert_int_equal(f->disk->data[102 * 512], 0x77);
    /* Several ranges in one request, one after the other. */
    for (unsigned i = 0; i < 16; i++) {
        put_range(f, i, 200 + 2 * i, 1, 0);
    }
    assert_int_equal(request(f, 13, 0, 256), 0);
    for (unsigned i = 0; i < 32; i++) {
        assert_int_equal(f->disk->data[(200 + i) * 512], i % 2 == 0 ? 0 : 0x77);
    }
    assert_int_equal(request(f, 13, 0, 272), 1);
    assert_int_equal(request(f, 13, 0, 15), 1);
    assert_int_equal(request(f, 13, 0, 0), 1);
    for (uint32_t type = 11; type <= 13; type += 2) {
        assert_int_equal(range_request(f, type, 0, 0, 0), 0);
        assert_int_equal(range_request(f, type, 0, 0xffffffff, 0), 1);
        assert_int_equal(range_request(f, type, 0, 129, 0), 1);
        assert_int_equal(range_request(f, type, end, 1, 0), 1);
        assert_int_equal(range_request(f, type, end - 1, 2, 0), 1);
        assert_int_equal(range_request(f, type, UINT64_MAX, 1, 0), 1);
        assert_int_equal(range_request(f, type, UINT64_MAX / 512 + 1, 1, 0), 1);
        assert_int_equal(range_request(f, type, 0, 1, 2), 2);
    }
    assert_int_equal(range_request(f, 11, 0, 1, 1), 2); /* unmap has no meaning here */
    assert_false(vt_needs_reset(&f->vt));
    /* An error in the middle of several ends it. */
    put_range(f, 0, 0, 1, 0);
    put_range(f, 1, 1, 1, 0);
    f->disk->fail = -ENOSPC;
    assert_int_equal(request(f, 13, 0, 32), 1);
    assert_int_equal(f->disk->data[512], 0x77);
    struct virtio_blk_stats stats;
    virtio_blk_get_stats(f->vd, &stats);
    assert_int_equal(stats.block.enospc, 1);
}

static void test_write_through(void **state)
{
    struct fixture *f = *state;
    vt_start(&f->vt, F_ALL, 1, 64);
    assert_int_equal(request(f, 1, 0, 512), 0);
    assert_int_equal(f->disk->fua, 0);
    bus_write(f->vt.mmio, VT_BAR + VIRTIO_PCI_DEVICE + 32, 1, 0);
    assert_int_equal(request(f, 1, 0, 512), 0);
    assert_int_equal(range_request(f, 13, 0, 1, 0), 0);
    assert_int_equal(f->disk->fua, 2);
    /* A driver that knows no flush at all. */
    vt_start(&f->vt, 0, 1, 64);
    assert_int_equal(request(f, 1, 0, 512), 0);
    assert_int_equal(f->disk->fua, 3);
    assert_int_equal(range_request(f, 13, 0, 1, 0), 2); /* not negotiated */
    assert_int_equal(range_request(f, 11, 0, 1, 0), 2);
}

static void test_errors_reach_the_guest(void **state)
{
    struct fixture *f = *state;
    static const int errors[] = {-EIO, -ENOSPC, -EINVAL, -ETIMEDOUT};
    vt_start(&f->vt, F_ALL, 1, 64);
    for (unsigned i = 0; i < 4; i++) {
        f->disk->fail = errors[i];
        assert_int_equal(request(f, i % 2, 0, 512), 1);
        assert_int_equal(request(f, i % 2, 0, 512), 0);
    }
    f->disk->fail = -EOPNOTSUPP;
    assert_int_equal(request(f, 4, 0, 0), 2);
}

static void test_readonly(void **state)
{
    struct fixture *f = *state;
    uint64_t features = vt_start(&f->vt, UINT64_MAX, 1, 64);
    assert_true((features & VIRTIO_BIT(5)) != 0);
    assert_true((features & (F_DISCARD | F_ZEROES)) == 0);
    assert_int_equal(request(f, 0, 0, 512), 0);
    assert_int_equal(request(f, 1, 0, 512), 1);
    assert_int_equal(range_request(f, 11, 0, 1, 0), 2);
    assert_int_equal(request(f, 4, 0, 0), 0);
    vt_start(&f->vt, F_DISCARD & features, 1, 64);
    assert_int_equal(request(f, 1, 0, 512), 1);
}

/* Case 9: what has no status byte, or no header, can not be answered. */
static void test_unanswerable(void **state)
{
    struct fixture *f = *state;
    struct vt_seg cases[][2] = {
        {{f->header, 16, false}, {f->status, 0, true}},
        {{f->header, 15, false}, {f->status, 1, true}},
        {{f->header, 0, false}, {f->status, 1, true}},
        {{f->header, 16, true}, {f->status, 1, true}},
        {{f->header, 16, false}, {f->status, 1, false}},
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        vt_start(&f->vt, F_ALL, 1, 64);
        vt_add(&f->vt, 0, cases[i], 2);
        vt_kick(&f->vt, 0);
        assert_true(vt_needs_reset(&f->vt));
        assert_int_equal(f->vd->in_flight, 0);
    }
    /* Data in the wrong direction is an error like others. */
    vt_start(&f->vt, F_ALL, 1, 64);
    for (uint32_t type = 0; type < 2; type++) {
        struct vt_seg segs[] = {
            {f->header, 16, false}, {f->data, 512, type == 1}, {f->status, 1, true}};
        uint8_t status = 0xee;
        put_header(f, f->header, type, 0);
        vt_add(&f->vt, 0, segs, 3);
        vt_kick(&f->vt, 0);
        vt_wait_used(&f->vt, 0, NULL);
        vt_read(&f->vt, f->status, &status, 1);
        assert_int_equal(status, 1);
    }
}

static void add_read(struct fixture *f, unsigned q, unsigned i)
{
    struct vt_seg segs[] = {{f->header, 16, false},
                            {f->data + 512ULL * (i % 64), 512, true},
                            {f->status + i % 64, 1, true}};
    put_header(f, f->header, 0, 0);
    vt_add_indirect(&f->vt, q, segs, 3);
}

/* Case 10: reset with 256 in the ring, half of them in flight; memory stays untouched after. */
static void test_reset_in_flight(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    for (unsigned round = 0; round < 3; round++) {
        disk_hold(f->disk, true);
        vt_start(vt, F_ALL, 1, 256);
        uint64_t heap = vt->heap;
        for (unsigned i = 0; i < 256; i++) {
            add_read(f, 0, i);
        }
        vt_kick(vt, 0);
        assert_int_equal(f->vd->in_flight, 128); /* bounded */
        if (round == 2) {
            /* By FLR. */
            static const uint8_t irqs[4] = {0};
            pci_cfg_write(vt->root, vt->vp->pd.devfn, vt->vp->pd.exp_cap + 8U, 2, 0x8000);
            assert_int_equal(pci_root_assign(vt->root, irqs, NULL), 0);
        } else {
            vt_common_set(vt, VPCI_STATUS, 1, 0);
        }
        assert_int_not_equal(vt_common(vt, VPCI_STATUS, 1), 0);
        vt_kick(vt, 0);
        if (round == 1) {
            disk_hold(f->disk, false);
            /* A driver that does not poll. */
            vt_common_set(vt, VPCI_STATUS, 1, VIRTIO_S_ACKNOWLEDGE);
            assert_int_equal(vt_common(vt, VPCI_STATUS, 1), VIRTIO_S_ACKNOWLEDGE);
        }
        disk_hold(f->disk, false);
        uint16_t used = 0;
        vt_read(vt, vt->q[0].used + 2, &used, 2);
        assert_int_equal(used, 0);
        vt_reset(vt);
        assert_int_equal(f->vd->in_flight, 0);
        vt_read(vt, vt->q[0].used + 2, &used, 2);
        assert_int_equal(used, 0);
        vt->heap = heap;
        vt_start(vt, F_ALL, 1, 64);
        assert_int_equal(request(f, 0, 0, 512), 0);
        vt->heap = heap;
    }
}

static void test_machine_reset_and_unplug_in_flight(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    static const uint8_t irqs[4] = {0};
    vt_start(vt, F_ALL, 1, 64);
    for (unsigned i = 0; i < 64; i++) {
        add_read(f, 0, i);
    }
    vt_kick(vt, 0);
    vt->vp->pd.dev.ops->reset(&vt->vp->pd.dev);
    assert_int_equal(f->vd->in_flight, 0);
    assert_int_equal(pci_root_assign(vt->root, irqs, NULL), 0);
    vt_start(vt, F_ALL, 1, 64);
    for (unsigned i = 0; i < 64; i++) {
        add_read(f, 0, i);
    }
    vt_kick(vt, 0);
    vt_unplug(vt);
}

/* More in the ring than fits in flight: each completion takes the next ones, without a notify.
 */
static void test_full_ring_drains(void **state)
{
    struct fixture *f = *state;
    vt_start(&f->vt, F_ALL, 1, 256);
    disk_hold(f->disk, true);
    for (unsigned i = 0; i < 256; i++) {
        add_read(f, 0, i);
    }
    vt_kick(&f->vt, 0);
    disk_hold(f->disk, false);
    for (unsigned i = 0; i < 256; i++) {
        assert_int_equal(vt_wait_used(&f->vt, 0, NULL), 513);
    }
}

static void test_save_in_flight(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    size_t len;
    vt_start(vt, F_ALL, 1, 256);
    bus_write(vt->mmio, VT_BAR + VIRTIO_PCI_DEVICE + 32, 1, 0);
    for (unsigned i = 0; i < 200; i++) {
        add_read(f, 0, i);
    }
    vt_kick(vt, 0);
    struct dev *dev = &vt->vp->pd.dev;
    dev->ops->pause(dev);
    assert_int_equal(f->vd->in_flight, 0);
    void *data = vt_save(vt, &len);
    /* The other side: another disk with the same size. */
    vt_unplug(vt);
    f->disk = disk_new(CAPS_ALL);
    struct virtio_blk_cfg cfg = {.mem = vt->mem, .node = &f->disk->node};
    assert_int_equal(virtio_blk_new(&cfg, &f->vd, NULL), 0);
    assert_int_equal(virtio_pci_new(f->vd, &vt->vp, NULL), 0);
    assert_int_equal(pci_root_add(vt->root, &vt->vp->pd, PCI_DEVFN(VT_SLOT, 0), NULL), 0);
    assert_int_equal(vt_load(vt, data, len), 0);
    dev = &vt->vp->pd.dev;
    dev->ops->resume(dev);
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(vt_wait_used(vt, 0, NULL), 513);
    }
    assert_int_equal(bus_read(vt->mmio, VT_BAR + VIRTIO_PCI_DEVICE + 32, 1), 0);
    assert_int_equal(request(f, 1, 0, 512), 0);
    assert_int_equal(f->disk->fua, 1);
    free(data);
    /* A disk of another size is refused. */
    data = vt_save(vt, &len);
    f->disk->node.size_bytes -= 512;
    assert_int_not_equal(vt_load(vt, data, len), 0);
    free(data);
}

static void test_resize(void **state)
{
    struct fixture *f = *state;
    vt_start(&f->vt, F_ALL, 1, 64);
    uint64_t generation = vt_common(&f->vt, VPCI_GENERATION, 1);
    f->disk->node.size_bytes = DISK_BYTES / 2;
    virtio_blk_resized(f->vd);
    assert_int_equal(f->vt.msi[0], 1);
    assert_int_not_equal(vt_common(&f->vt, VPCI_GENERATION, 1), generation);
    assert_int_equal(bus_read(f->vt.mmio, VT_BAR + VIRTIO_PCI_DEVICE, 8), DISK_BYTES / 1024);
    assert_int_equal(request(f, 0, DISK_BYTES / 1024, 512), 1);
}

static void test_multi_queue(void **state)
{
    struct fixture *f = *state;
    uint64_t features = vt_start(&f->vt, F_ALL, 4, 64);
    assert_true((features & F_MQ) != 0);
    assert_int_equal(bus_read(f->vt.mmio, VT_BAR + VIRTIO_PCI_DEVICE + 34, 2), 4);
    for (unsigned i = 0; i < 64; i++) {
        add_read(f, i % 4, i);
    }
    for (unsigned q = 0; q < 4; q++) {
        vt_kick(&f->vt, q);
    }
    for (unsigned i = 0; i < 64; i++) {
        vt_wait_used(&f->vt, i % 4, NULL);
    }
    for (unsigned q = 0; q < 4; q++) {
        assert_in_range(f->vt.msi[q + 1], 1, 16);
    }
}

/* Case 7: another processor flips header and descriptors while the device works. */
struct flipper {
    struct fixture *f;
    bool stop;
};

static void *flip_main(void *opaque)
{
    struct flipper *flip = opaque;
    struct fixture *f = flip->f;
    uint32_t x = 12345;
    while (!__atomic_load_n(&flip->stop, __ATOMIC_RELAXED)) {
        x = x * 1664525 + 1013904223;
        put_header(f, f->header, x >> 30, x % 4096 == 0 ? UINT64_MAX : x % 4096);
        uint16_t flags = (x >> 8 & 3) == 0 ? 2 : 3;
        vt_put_desc(&f->vt, f->vt.q[0].desc, 1, f->data, (x >> 12 & 1) != 0 ? 512 : x % 65536,
                    flags, 2);
    }
    return NULL;
}

static void test_toctou(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    struct flipper flip = {.f = f};
    pthread_t thread;
    vt_start(vt, F_ALL, 1, 64);
    uint64_t heap = vt->heap;
    assert_int_equal(pthread_create(&thread, NULL, flip_main, &flip), 0);
    for (unsigned i = 0; i < 200000; i++) {
        struct vt_seg segs[] = {
            {f->header, 16, false}, {f->data, 512, true}, {f->status, 1, true}};
        vt->q[0].next_desc = 0;
        vt_add(vt, 0, segs, 3);
        vt_kick(vt, 0);
        if (vt_needs_reset(vt)) {
            vt->heap = heap;
            vt_start(vt, F_ALL, 1, 64);
        }
    }
    __atomic_store_n(&flip.stop, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    vt_start(vt, F_ALL, 1, 64);
    assert_int_equal(request(f, 0, 0, 512), 0);
}

int main(void)
{
#define T(name)       cmocka_unit_test_setup_teardown(name, setup, teardown)
#define T2(name, set) cmocka_unit_test_setup_teardown(name, set, teardown)
    const struct CMUnitTest tests[] = {
        T(test_config),
        T(test_read_write),
        T(test_split_in_any_way),
        T(test_out_of_range),
        T(test_discard_and_zeroes),
        T(test_write_through),
        T(test_errors_reach_the_guest),
        T2(test_readonly, setup_readonly),
        T(test_unanswerable),
        T(test_reset_in_flight),
        T(test_machine_reset_and_unplug_in_flight),
        T(test_full_ring_drains),
        T(test_save_in_flight),
        T(test_resize),
        T2(test_multi_queue, setup_mq),
        T(test_toctou),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
