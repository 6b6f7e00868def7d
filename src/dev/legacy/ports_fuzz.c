/* Random accesses to the one-register devices and the test device, all on one pair of buses. */
#include "dev/dev_fuzz.h"
#include "dev/legacy/debug_exit.h"
#include "dev/legacy/pc_testdev.h"
#include "dev/legacy/port92.h"
#include "dev/legacy/pvpanic.h"

static struct dev *others[5];

static size_t sink(void *opaque, const uint8_t *data, size_t len)
{
    (void)opaque;
    (void)data;
    return len / 2;
}

static void set_gsi(void *opaque, unsigned gsi, bool level)
{
    fx_line_set(opaque, gsi, level);
}

static void on_exit_port(void *opaque, int status)
{
    (void)opaque;
    if (status < 1 || status > 255) {
        abort();
    }
}

static struct dev *make(struct fixture *fx)
{
    pthread_mutex_t *lock = &fx->lock;
    struct debug_exit *exit_port;
    struct debugcon *con;
    struct post_port *post;
    struct port92 *p92;
    struct pvpanic *panic;
    struct pc_testdev *td;

    debug_exit_new(
        &exit_port,
        &(struct debug_exit_config){.pio = fx->pio, .lock = lock, .exit = on_exit_port}, NULL);
    debugcon_new(&con,
                 &(struct debugcon_config){
                     .pio = fx->pio, .loop = fx->loop, .lock = lock, .out = {.write = sink}},
                 NULL);
    post_port_new(&post, &(struct post_port_config){.pio = fx->pio, .lock = lock}, NULL);
    port92_new(&p92, &(struct port92_config){.pio = fx->pio, .lock = lock}, NULL);
    pvpanic_new(&panic, &(struct pvpanic_config){.pio = fx->pio, .lock = lock}, NULL);
    pc_testdev_new(
        &td,
        &(struct pc_testdev_config){
            .pio = fx->pio, .mmio = fx->mmio, .lock = lock, .set_gsi = set_gsi, .opaque = fx},
        NULL);
    others[0] = debug_exit_dev(exit_port);
    others[1] = debugcon_dev(con);
    others[2] = post_port_dev(post);
    others[3] = port92_dev(p92);
    others[4] = pvpanic_dev(panic);
    return pc_testdev_dev(td);
}

static void extra(struct fixture *fx, struct dev *dev, uint32_t value)
{
    struct dev *other = others[value % ARRAY_LEN(others)];

    (void)fx;
    (void)dev;
    if ((value >> 8 & 3) == 0) {
        other->ops->reset(other);
    } else {
        fuzz_state(other, value >> 10);
    }
}

static void done(struct fixture *fx, struct dev *dev)
{
    (void)fx;
    dev->ops->free(dev);
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        others[i]->ops->free(others[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct fuzz_spec spec = {
        .make = make,
        .extra = extra,
        .done = done,
        .windows = {{0x80, 0x80, false},
                    {0x505, 1, false},
                    {0x2000, 24, false},
                    {PC_TESTDEV_WINDOW, PC_TESTDEV_WINDOW_BYTES, true}},
        .n_windows = 4,
    };

    fuzz_program(&spec, data, len);
    return 0;
}
