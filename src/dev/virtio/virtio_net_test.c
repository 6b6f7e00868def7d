/*
 * The network device over a back end in memory: frames both ways, mergeable buffers,
 * back-pressure, offload headers, control queue, state (hostile-input cases 9 and 10).
 */
#include "dev/virtio/virtio_net.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "dev/virtio/vt.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PAGE      4096U
#define HDR       12U
#define F_MRG     VIRTIO_BIT(15)
#define F_CTRL    (VIRTIO_BIT(17) | VIRTIO_BIT(18) | VIRTIO_BIT(23))
#define F_ANN     VIRTIO_BIT(21)
#define F_OFFLOAD (VIRTIO_BIT(0) | VIRTIO_BIT(1) | VIRTIO_BIT(7) | VIRTIO_BIT(11))

struct wire {
    struct net_backend nb;
    unsigned sent, ready, starts, stops;
    bool had_hdr;
    struct net_hdr hdr;
    uint8_t frame[NET_FRAME_MAX];
    size_t len;
    int answer; /* of send */
    uint32_t rx_caps;
};

static int wire_send(struct net_backend *nb, const struct net_hdr *hdr, const struct iovec *iov,
                     unsigned iov_count)
{
    struct wire *w = container_of(nb, struct wire, nb);
    if (w->answer != 0) {
        return w->answer;
    }
    w->len = 0;
    for (unsigned i = 0; i < iov_count; i++) {
        assert_true(w->len + iov[i].iov_len <= sizeof(w->frame));
        memcpy(w->frame + w->len, iov[i].iov_base, iov[i].iov_len);
        w->len += iov[i].iov_len;
    }
    w->had_hdr = hdr != NULL;
    w->hdr = hdr != NULL ? *hdr : (struct net_hdr){0};
    w->sent++;
    return 0;
}

static void wire_rx_ready(struct net_backend *nb)
{
    container_of(nb, struct wire, nb)->ready++;
}

static void wire_offloads(struct net_backend *nb, uint32_t caps)
{
    container_of(nb, struct wire, nb)->rx_caps = caps;
}

static void wire_start(struct net_backend *nb)
{
    container_of(nb, struct wire, nb)->starts++;
}

static void wire_stop(struct net_backend *nb)
{
    container_of(nb, struct wire, nb)->stops++;
}

static void wire_free(struct net_backend *nb)
{
    struct wire *w = container_of(nb, struct wire, nb);
    assert_int_equal(w->starts, w->stops);
    free(w);
}

static const struct net_backend_ops wire_ops = {
    "wire", wire_send, wire_rx_ready, wire_offloads, wire_start, wire_stop, wire_free};

struct fixture {
    struct vt vt;
    struct wire *w;
    struct virtio_dev *vd;
    uint64_t hdr, data, rx;
};

static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};

static struct virtio_dev *make_net(struct fixture *f)
{
    struct virtio_dev *vd;
    f->w = calloc(1, sizeof(*f->w));
    f->w->nb = (struct net_backend){.ops = &wire_ops,
                                    .caps = NET_CAP_TX_CSUM | NET_CAP_TX_TSO4 |
                                            NET_CAP_RX_CSUM | NET_CAP_RX_TSO4,
                                    .mtu = 1500,
                                    .link_up = true};
    struct virtio_net_cfg cfg = {.mem = f->vt.mem, .nb = &f->w->nb};
    memcpy(cfg.mac, mac, 6);
    assert_int_equal(virtio_net_new(&cfg, &vd, NULL), 0);
    return vd;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    vt_setup(&f->vt);
    f->vd = make_net(f);
    vt_plug(&f->vt, f->vd);
    f->hdr = vt_alloc(&f->vt, PAGE);
    f->data = vt_alloc(&f->vt, 80000);
    f->rx = vt_alloc(&f->vt, 80000);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    vt_teardown(&f->vt);
    free(f);
    return 0;
}

static void put_hdr(struct fixture *f, struct net_hdr h)
{
    uint8_t raw[HDR] = {h.flags, h.gso_type};
    put_le16(raw + 2, h.hdr_len);
    put_le16(raw + 4, h.gso_size);
    put_le16(raw + 6, h.csum_start);
    put_le16(raw + 8, h.csum_offset);
    vt_write(&f->vt, f->hdr, raw, sizeof(raw));
}

static void transmit(struct fixture *f, uint32_t hdr_len, uint32_t len)
{
    struct vt_seg segs[] = {{f->hdr, hdr_len, false}, {f->data, len, false}};
    vt_add(&f->vt, 1, segs, 2);
    vt_kick(&f->vt, 1);
}

static int receive(struct fixture *f, const struct net_hdr *hdr, const uint8_t *frame,
                   size_t len)
{
    size_t first = MIN(len, (size_t)3);
    struct iovec iov[3] = {{(void *)(uintptr_t)frame, first},
                           {NULL, 0},
                           {(void *)(uintptr_t)(frame + first), len - first}};
    return f->w->nb.fe->rx(f->w->nb.fe_opaque, hdr, iov, 3);
}

static void make_frame(uint8_t *frame, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        frame[i] = (uint8_t)(i * 3 + i / 251);
    }
    memcpy(frame, mac, 6);
}

static void test_config(void **state)
{
    struct fixture *f = *state;
    uint8_t got[6];
    uint64_t cfg = VT_BAR + VIRTIO_PCI_DEVICE;
    vt_start(&f->vt, UINT64_MAX, 3, 64);
    for (unsigned i = 0; i < 6; i++) {
        got[i] = (uint8_t)bus_read(f->vt.mmio, cfg + i, 1);
    }
    assert_memory_equal(got, mac, 6);
    assert_int_equal(bus_read(f->vt.mmio, cfg + 6, 2), 1);
    assert_int_equal(bus_read(f->vt.mmio, cfg + 10, 2), 1500);
    assert_int_equal(f->w->rx_caps, NET_CAP_RX_CSUM | NET_CAP_RX_TSO4);
    vt_reset(&f->vt);
    assert_int_equal(f->w->rx_caps, 0);
    f->w->nb.fe->link(f->w->nb.fe_opaque, false);
    assert_int_equal(bus_read(f->vt.mmio, cfg + 6, 2), 0);
}

static void test_transmit(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[1514];
    vt_start(&f->vt, F_OFFLOAD, 2, 64);
    make_frame(frame, sizeof(frame));
    vt_write(&f->vt, f->data, frame, sizeof(frame));
    put_hdr(f, (struct net_hdr){0});
    transmit(f, HDR, sizeof(frame));
    assert_int_equal(vt_wait_used(&f->vt, 1, NULL), 0);
    assert_int_equal(f->w->sent, 1);
    assert_int_equal(f->w->len, sizeof(frame));
    assert_memory_equal(f->w->frame, frame, sizeof(frame));
    assert_false(f->w->had_hdr);
    struct net_hdr gso = {NET_HDR_NEEDS_CSUM, NET_GSO_TCPV4, 54, 1448, 34, 16};
    put_hdr(f, gso);
    transmit(f, HDR, 60000);
    vt_wait_used(&f->vt, 1, NULL);
    assert_int_equal(f->w->sent, 2);
    assert_int_equal(f->w->len, 60000);
    assert_memory_equal(&f->w->hdr, &gso, sizeof(gso));
}

/* Case 9, and offloads that were not negotiated: dropped, and the queue goes on. */
static void test_transmit_nonsense(void **state)
{
    struct fixture *f = *state;
    static const struct {
        struct net_hdr h;
        uint32_t hdr_len, len;
    } cases[] = {
        {{0}, 11, 0},
        {{0}, 12, 0},
        {{0}, 12, 13},
        {{0}, 12, NET_FRAME_MAX + 1},
        {{.flags = 1, .csum_start = 99, .csum_offset = 0}, 12, 100},
        {{.flags = 1, .csum_start = 65535, .csum_offset = 65535}, 12, 100},
        {{.flags = 0, .gso_type = 1, .gso_size = 1000}, 12, 100},
        {{.flags = 1, .gso_type = 1, .gso_size = 0}, 12, 100},
        {{.flags = 1, .gso_type = 4, .gso_size = 1000}, 12, 100},
        {{.flags = 1, .gso_type = 0x81, .gso_size = 1000}, 12, 100},
        {{.flags = 1, .gso_type = 0x80, .gso_size = 1000}, 12, 100},
        {{.flags = 1, .gso_type = 3, .gso_size = 1000}, 12, 100},
    };
    vt_start(&f->vt, F_OFFLOAD, 2, 64);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        put_hdr(f, cases[i].h);
        transmit(f, cases[i].hdr_len, cases[i].len);
        vt_wait_used(&f->vt, 1, NULL);
        assert_int_equal(f->w->sent, 0);
    }
    struct virtio_net_stats stats;
    virtio_net_get_stats(f->vd, &stats);
    assert_int_equal(stats.tx_dropped, ARRAY_LEN(cases));
    /* Without the feature a checksum request is nonsense as well. */
    vt_start(&f->vt, 0, 2, 64);
    put_hdr(f, (struct net_hdr){.flags = 1, .csum_start = 14, .csum_offset = 2});
    transmit(f, HDR, 100);
    vt_wait_used(&f->vt, 1, NULL);
    assert_int_equal(f->w->sent, 0);
    assert_false(vt_needs_reset(&f->vt));
}

static void test_transmit_back_pressure(void **state)
{
    struct fixture *f = *state;
    uint32_t id;
    uint32_t len;
    vt_start(&f->vt, 0, 2, 64);
    put_hdr(f, (struct net_hdr){0});
    f->w->answer = -EAGAIN;
    for (unsigned i = 0; i < 10; i++) {
        transmit(f, HDR, 100 + i);
    }
    assert_false(vt_used(&f->vt, 1, &id, &len));
    f->w->answer = 0;
    transmit(f, HDR, 200);
    assert_int_equal(f->w->sent, 0); /* not before the back end says so */
    f->w->nb.fe->tx_ready(f->w->nb.fe_opaque);
    assert_int_equal(f->w->sent, 11);
    assert_int_equal(f->w->len, 200);
    for (unsigned i = 0; i < 11; i++) {
        vt_wait_used(&f->vt, 1, NULL);
    }
    f->w->answer = -EPERM;
    transmit(f, HDR, 100);
    vt_wait_used(&f->vt, 1, NULL);
    struct virtio_net_stats stats;
    virtio_net_get_stats(f->vd, &stats);
    assert_int_equal(stats.tx_dropped, 1);
    assert_int_equal(stats.tx_frames, 11);
}

static void add_rx(struct fixture *f, uint64_t at, uint32_t len)
{
    struct vt_seg seg = {f->rx + at, len, true};
    vt_add(&f->vt, 0, &seg, 1);
    vt_kick(&f->vt, 0);
}

static void test_receive(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[1514];
    uint8_t got[2048];
    make_frame(frame, sizeof(frame));
    assert_int_equal(receive(f, NULL, frame, sizeof(frame)), -ENETDOWN);
    vt_start(&f->vt, F_OFFLOAD, 2, 64);
    assert_int_equal(receive(f, NULL, frame, sizeof(frame)), -EAGAIN);
    assert_int_equal(f->w->ready, 0);
    add_rx(f, 0, 2048);
    assert_int_equal(f->w->ready, 1);
    assert_int_equal(receive(f, NULL, frame, sizeof(frame)), 0);
    assert_int_equal(vt_wait_used(&f->vt, 0, NULL), HDR + sizeof(frame));
    vt_read(&f->vt, f->rx, got, sizeof(got));
    assert_memory_equal(got + HDR, frame, sizeof(frame));
    assert_int_equal(get_le16(got + 10), 1);
    assert_int_equal(got[0], 0);
    /* A frame too large for any buffer is dropped; the buffer stays. */
    add_rx(f, 0, 1000);
    assert_int_equal(receive(f, NULL, frame, sizeof(frame)), -EMSGSIZE);
    assert_int_equal(receive(f, NULL, frame, 900), 0);
    assert_int_equal(vt_wait_used(&f->vt, 0, NULL), HDR + 900);
    /* Offload headers, allowed and not. */
    struct net_hdr csum = {.flags = NET_HDR_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};
    struct net_hdr tso6 = {.flags = 1, .gso_type = NET_GSO_TCPV6, .gso_size = 1000};
    add_rx(f, 0, 2048);
    assert_int_equal(receive(f, &tso6, frame, 900), -EINVAL);
    assert_int_equal(receive(f, &csum, frame, 900), 0);
    vt_wait_used(&f->vt, 0, NULL);
    vt_read(&f->vt, f->rx, got, HDR);
    assert_int_equal(got[0], 1);
    assert_int_equal(get_le16(got + 6), 34);
    assert_int_equal(receive(f, NULL, frame, 13), -EINVAL);
}

static void test_receive_merged(void **state)
{
    struct fixture *f = *state;
    uint8_t *frame = malloc(60000);
    uint8_t *got = malloc(80000);
    make_frame(frame, 60000);
    vt_start(&f->vt, F_MRG | F_OFFLOAD, 2, 64);
    for (unsigned i = 0; i < 10; i++) {
        add_rx(f, i * 2048ULL, 2048);
    }
    /* Not enough: all buffers stay, and the next ones bring a call. */
    assert_int_equal(receive(f, NULL, frame, 60000), -EAGAIN);
    uint32_t id;
    uint32_t len;
    assert_false(vt_used(&f->vt, 0, &id, &len));
    for (unsigned i = 10; i < 31; i++) {
        add_rx(f, i * 2048ULL, 2048);
    }
    assert_int_equal(f->w->ready, 1);
    assert_int_equal(receive(f, NULL, frame, 60000), 0);
    unsigned total = 0;
    for (unsigned i = 0; i < 30; i++) {
        uint32_t n = vt_wait_used(&f->vt, 0, NULL);
        assert_int_equal(n, i < 29 ? 2048 : 60012 - 29 * 2048);
        total += n;
    }
    assert_int_equal(total, 60012);
    vt_read(&f->vt, f->rx, got, 62000);
    assert_int_equal(get_le16(got + 10), 30);
    assert_memory_equal(got + HDR, frame, 60000);
    /* The 31st buffer is still there. */
    assert_int_equal(receive(f, NULL, frame, 2036), 0);
    assert_int_equal(vt_wait_used(&f->vt, 0, NULL), 2048);
    assert_int_equal(receive(f, NULL, frame, 100), -EAGAIN);
    free(frame);
    free(got);
}

static void test_receive_into_nothing(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[100];
    make_frame(frame, sizeof(frame));
    for (unsigned len = 0; len <= HDR; len += HDR) {
        vt_start(&f->vt, F_MRG, 2, 64);
        add_rx(f, 0, len);
        assert_int_equal(receive(f, NULL, frame, sizeof(frame)), -ENETDOWN);
        assert_true(vt_needs_reset(&f->vt));
    }
    /* Buffers of one byte: more than we ever merge. */
    vt_start(&f->vt, F_MRG, 2, 64);
    add_rx(f, 0, 13);
    for (unsigned i = 1; i < 64; i++) {
        add_rx(f, i, 1);
    }
    assert_int_equal(receive(f, NULL, frame, sizeof(frame)), -EMSGSIZE);
    assert_int_equal(receive(f, NULL, frame, 64), 0);
    assert_false(vt_needs_reset(&f->vt));
}

static uint8_t control(struct fixture *f, const void *cmd, uint32_t len)
{
    uint8_t ack = 0xee;
    vt_write(&f->vt, f->data, cmd, len);
    vt_write(&f->vt, f->hdr, &ack, 1);
    struct vt_seg segs[] = {{f->data, len, false}, {f->hdr, 1, true}};
    vt_add(&f->vt, 2, segs, 2);
    vt_kick(&f->vt, 2);
    vt_wait_used(&f->vt, 2, NULL);
    vt_read(&f->vt, f->hdr, &ack, 1);
    return ack;
}

static void test_filter(void **state)
{
    struct fixture *f = *state;
    struct virtio_net_stats stats;
    uint8_t frame[64] = {0};
    static const uint8_t cases[][6] = {
        {0x52, 0x54, 0, 1, 2, 3}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
        {1, 0, 0x5e, 0, 0, 1},    {2, 2, 2, 2, 2, 2},
        {1, 0, 0x5e, 0, 0, 2},
    };
    vt_start(&f->vt, F_CTRL, 3, 64);
    const uint8_t off[] = {0, 0, 0};
    assert_int_equal(control(f, off, 3), 0);
    const uint8_t tables[] = {1, 0, 1, 0, 0, 0, 2, 2,    2, 2, 2,
                              2, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1};
    assert_int_equal(control(f, tables, sizeof(tables)), 0);
    for (unsigned i = 0; i < 8; i++) {
        add_rx(f, i * 128ULL, 128);
    }
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        memcpy(frame, cases[i], 6);
        assert_int_equal(receive(f, NULL, frame, sizeof(frame)), 0);
    }
    virtio_net_get_stats(f->vd, &stats);
    assert_int_equal(stats.rx_frames, 4);
    assert_int_equal(stats.rx_dropped, 1);
    const uint8_t allmulti[] = {0, 1, 1};
    assert_int_equal(control(f, allmulti, 3), 0);
    assert_int_equal(receive(f, NULL, frame, sizeof(frame)), 0);
    virtio_net_get_stats(f->vd, &stats);
    assert_int_equal(stats.rx_frames, 5);
    /* The address. */
    const uint8_t addr[] = {1, 1, 6, 5, 4, 3, 2, 1};
    assert_int_equal(control(f, addr, 8), 0);
    assert_int_equal(bus_read(f->vt.mmio, VT_BAR + VIRTIO_PCI_DEVICE, 4), 0x03040506);
    /* Nonsense. */
    const uint8_t bad[][12] = {{9, 0},
                               {0, 0},
                               {0, 7, 1},
                               {1, 1, 1, 1, 1},
                               {1, 2},
                               {1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
                               {1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 2},
                               {4, 0, 1, 0}};
    const uint32_t lens[] = {2, 2, 3, 5, 2, 10, 12, 4};
    for (unsigned i = 0; i < ARRAY_LEN(lens); i++) {
        assert_int_equal(control(f, bad[i], lens[i]), 1);
    }
    assert_int_equal(control(f, addr, 1), 1);
    /* A table that does not fit lets everything through. */
    uint8_t *big = calloc(1, 10 + 65 * 6);
    big[0] = 1;
    big[2] = 65;
    assert_int_equal(control(f, big, 10 + 65 * 6), 0);
    memset(frame, 4, 6);
    add_rx(f, 0, 128);
    assert_int_equal(receive(f, NULL, frame, sizeof(frame)), 0);
    virtio_net_get_stats(f->vd, &stats);
    assert_int_equal(stats.rx_frames, 6);
    free(big);
    assert_false(vt_needs_reset(&f->vt));
}

static void test_features_that_need_others(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    vt_reset(vt);
    vt_common_set(vt, VPCI_STATUS, 1, 3);
    vt_common_set(vt, VPCI_DRIVER_FEATURE_SELECT, 4, 0);
    vt_common_set(vt, VPCI_DRIVER_FEATURE, 4, 1U << 11); /* HOST_TSO4 without CSUM */
    vt_common_set(vt, VPCI_DRIVER_FEATURE_SELECT, 4, 1);
    vt_common_set(vt, VPCI_DRIVER_FEATURE, 4, 1);
    vt_common_set(vt, VPCI_STATUS, 1, 11);
    assert_int_equal(vt_common(vt, VPCI_STATUS, 1), 3);
}

static void test_save_load_announce(void **state)
{
    struct fixture *f = *state;
    struct vt *vt = &f->vt;
    size_t len;
    uint8_t frame[64];
    make_frame(frame, sizeof(frame));
    vt_start(vt, F_CTRL | F_ANN | F_MRG, 3, 64);
    const uint8_t addr[] = {1, 1, 6, 5, 4, 3, 2, 1};
    assert_int_equal(control(f, addr, 8), 0);
    add_rx(f, 0, 128);
    f->w->answer = -EAGAIN;
    put_hdr(f, (struct net_hdr){0});
    transmit(f, HDR, 77); /* stays in the ring */
    struct dev *dev = &vt->vp->pd.dev;
    dev->ops->pause(dev);
    assert_int_equal(receive(f, NULL, frame, sizeof(frame)), -EAGAIN);
    void *data = vt_save(vt, &len);
    vt_unplug(vt);
    f->vd = make_net(f);
    assert_int_equal(virtio_pci_new(f->vd, &vt->vp, NULL), 0);
    assert_int_equal(pci_root_add(vt->root, &vt->vp->pd, PCI_DEVFN(VT_SLOT, 0), NULL), 0);
    assert_int_equal(vt_load(vt, data, len), 0);
    free(data);
    unsigned config_irqs = vt->msi[0];
    dev = &vt->vp->pd.dev;
    dev->ops->resume(dev);
    assert_int_equal(f->w->starts, 1);
    assert_int_equal(f->w->sent, 1);
    assert_int_equal(f->w->len, 77);
    assert_int_equal(vt->msi[0], config_irqs + 1);
    assert_int_equal(bus_read(vt->mmio, VT_BAR + VIRTIO_PCI_DEVICE + 6, 2), 3);
    assert_int_equal(bus_read(vt->mmio, VT_BAR + VIRTIO_PCI_DEVICE, 4), 0x03040506);
    const uint8_t announced[] = {3, 0};
    assert_int_equal(control(f, announced, 2), 0);
    assert_int_equal(bus_read(vt->mmio, VT_BAR + VIRTIO_PCI_DEVICE + 6, 2), 1);
    assert_int_equal(receive(f, NULL, frame, sizeof(frame)), 0);
    assert_int_equal(vt_wait_used(vt, 0, NULL), HDR + sizeof(frame));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_config),
        T(test_transmit),
        T(test_transmit_nonsense),
        T(test_transmit_back_pressure),
        T(test_receive),
        T(test_receive_merged),
        T(test_receive_into_nothing),
        T(test_filter),
        T(test_features_that_need_others),
        T(test_save_load_announce),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
