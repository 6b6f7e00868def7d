/* Random programs of port accesses on a serial port, with input and a sink that takes little.
 */
#include "dev/dev_fuzz.h"
#include "dev/legacy/uart16550.h"

static struct uart16550 *uart;
static size_t sink_takes;

static size_t sink(void *opaque, const uint8_t *data, size_t len)
{
    (void)opaque;
    (void)data;
    return MIN(len, sink_takes);
}

static struct dev *make(struct fixture *fx)
{
    const struct uart16550_config cfg = {.pio = fx->pio,
                                         .clock = &fx->clock,
                                         .loop = fx->loop,
                                         .lock = &fx->lock,
                                         .irq = fx_line(fx, 4),
                                         .out = {.write = sink}};
    struct err err;

    fx_must(uart16550_new(&uart, &cfg, &err), &err);
    return uart16550_dev(uart);
}

static void extra(struct fixture *fx, struct dev *dev, uint32_t value)
{
    uint8_t data[32];

    (void)fx;
    memset(data, (int)(value >> 8 & 0xff), sizeof(data));
    switch (value & 7) {
    case 0: uart16550_receive_break(uart); break;
    case 1: uart16550_set_carrier(uart, (value & 8) != 0); break;
    case 2: uart16550_tx_ready(uart); break;
    case 3:
        sink_takes = value >> 3 & 0xff;
        dev->ops->pause(dev);
        break;
    default:
        if (uart16550_receive(uart, data, value >> 3 & 31) > 16 || uart16550_room(uart) > 16) {
            abort();
        }
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct fuzz_spec spec = {
        .make = make, .extra = extra, .windows = {{0x3f8, 8, false}}, .n_windows = 1};

    fuzz_program(&spec, data, len);
    return 0;
}
