/* Network cards: a virtio-net device over a back end of net/. */
#include "machine/machine_priv.h"

#include "dev/virtio/virtio_net.h"
#include "net/user.h"

#include <string.h>

int board_net_new(struct machine *m, const struct machine_net *net, unsigned slot,
                  struct err *err)
{
    struct net_backend *backend;
    struct virtio_dev *vd;
    struct net_user_params params = {
        .loop = m->loop, .rules = net->rules, .n_rules = net->n_rules};

    memcpy(params.mac, net->mac, sizeof(params.mac));
    int r = net_user_new(&backend, &params, err);
    if (r < 0) {
        return r;
    }
    struct virtio_net_cfg cfg = {.mem = m->mem, .nb = backend};
    memcpy(cfg.mac, net->mac, sizeof(cfg.mac));
    r = virtio_net_new(&cfg, &vd, err);
    if (r < 0) {
        backend->ops->free(backend);
        return r;
    }
    return board_plug_virtio(m, vd, slot, err);
}
