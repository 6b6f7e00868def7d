/* Keyboard controller of the PC/AT (8042) with a minimal keyboard and no pointing device. */
#pragma once

#include "dev/bus.h"
#include "dev/dev.h"
#include "dev/irq.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct i8042;

struct i8042_config {
    struct bus *pio;             /* ports 60h, 64h; NULL: none (tests) */
    pthread_mutex_t *lock;       /* the machine's device lock */
    struct irq_line irq_kbd;     /* IRQ 1 */
    struct irq_line irq_aux;     /* IRQ 12 */
    void (*reset)(void *opaque); /* CPU reset pulse; vCPU's thread, lock held. May be NULL */
    void (*a20)(void *opaque, bool on); /* lock held. May be NULL */
    void *opaque;
};

int i8042_new(struct i8042 **ret_kbc, const struct i8042_config *cfg, struct err *err);
struct dev *i8042_dev(struct i8042 *kbc);

/* One key event in scan code set 1, 1 to 8 bytes; false when the keyboard has no room for it or
 * the guest has it disabled. Any thread, lock not held. */
bool i8042_key(struct i8042 *kbc, const uint8_t *codes, size_t len);
