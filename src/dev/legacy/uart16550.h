/* National Semiconductor PC16550D serial port. */
#pragma once

#include "base/clock.h"
#include "dev/bus.h"
#include "dev/dev.h"
#include "dev/irq.h"
#include "dev/legacy/byteq.h"

struct uart16550;

struct uart16550_config {
    struct bus *pio; /* NULL: none (tests) */
    uint16_t base;   /* 0: 3F8h */
    uint32_t instance;
    struct vmclock *clock;
    struct loop *loop;
    pthread_mutex_t *lock; /* the machine's device lock */
    struct irq_line irq;   /* IRQ 4 for 3F8h, 3 for 2F8h */
    struct byte_sink out;
    /* There is room for input again. Device lock held: only note it, or loop_post. May be NULL.
     */
    void (*rx_ready)(void *opaque);
    void *rx_opaque;
    /* Values of DTR, RTS and break for a back end that wants them. Lock held. May be NULL. */
    void (*modem)(void *opaque, bool dtr, bool rts, bool brk);
    void *modem_opaque;
};

int uart16550_new(struct uart16550 **ret_uart, const struct uart16550_config *cfg,
                  struct err *err);
struct dev *uart16550_dev(struct uart16550 *uart);

/* All from any thread, device lock not held. */
size_t uart16550_room(struct uart16550 *uart); /* bytes of input that are taken now */
size_t uart16550_receive(struct uart16550 *uart, const uint8_t *data, size_t len); /* taken */
void uart16550_receive_break(struct uart16550 *uart);
void uart16550_tx_ready(struct uart16550 *uart);             /* the sink can take more */
uint64_t uart16550_dropped(struct uart16550 *uart);          /* output bytes that nobody took */
void uart16550_set_carrier(struct uart16550 *uart, bool on); /* DCD, DSR, CTS; on at start */
