/*
 * What the tests and fuzz targets of devices share: buses, a guest clock that only the test
 * moves, interrupt lines that count, and a trip through the state stream. Single-threaded.
 */
#pragma once

#include "base/clock.h"
#include "dev/bus.h"
#include "dev/dev.h"
#include "dev/irq.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FX_LINES 32

struct fixture {
    struct loop *loop;
    struct vmclock clock;
    pthread_mutex_t lock;
    struct bus *pio, *mmio;
    bool level[FX_LINES];
    unsigned rises[FX_LINES];
    unsigned fired; /* timer callbacks run by fx_advance */
};

static inline void fx_must(int r, const struct err *err)
{
    if (r < 0) {
        fprintf(stderr, "fixture: %d %s\n", r, err->text);
        abort();
    }
}

static inline void fx_init(struct fixture *fx)
{
    struct err err = {.text = ""};

    memset(fx, 0, sizeof(*fx));
    fx_must(loop_new(&fx->loop, &err), &err);
    vmclock_init(&fx->clock);
    vmclock_pause(&fx->clock);
    vmclock_set_ns(&fx->clock, NSEC_PER_SEC);
    pthread_mutex_init(&fx->lock, NULL);
    fx_must(bus_new(&fx->pio, 0x10000, &err), &err);
    fx_must(bus_new(&fx->mmio, UINT64_C(1) << 52, &err), &err);
}

static inline void fx_done(struct fixture *fx)
{
    bus_free(fx->pio);
    bus_free(fx->mmio);
    pthread_mutex_destroy(&fx->lock);
    vmclock_done(&fx->clock);
    loop_free(fx->loop);
}

static inline void fx_line_set(void *opaque, unsigned n, bool level)
{
    struct fixture *fx = opaque;

    fx->rises[n] += level && !fx->level[n];
    fx->level[n] = level;
}

static inline struct irq_line fx_line(struct fixture *fx, unsigned n)
{
    return (struct irq_line){.set = fx_line_set, .opaque = fx, .n = n};
}

static inline struct timer *fx_next_timer(struct fixture *fx, uint64_t until_ns)
{
    struct timer *next = NULL;

    for (struct timer *t = fx->clock.timers; t != NULL; t = t->next) {
        if (t->armed && t->deadline_ns <= until_ns &&
            (next == NULL || t->deadline_ns < next->deadline_ns)) {
            next = t;
        }
    }
    return next;
}

/* Moves guest time, running each timer at its deadline. At most `most` callbacks. */
static inline void fx_advance_most(struct fixture *fx, uint64_t ns, unsigned most)
{
    uint64_t until = vmclock_now_ns(&fx->clock) + ns;
    struct timer *t;

    while (most-- > 0 && (t = fx_next_timer(fx, until)) != NULL) {
        if (t->deadline_ns > vmclock_now_ns(&fx->clock)) {
            vmclock_set_ns(&fx->clock, t->deadline_ns);
        }
        timer_disarm(t);
        fx->fired++;
        t->fn(t->opaque);
    }
    vmclock_set_ns(&fx->clock, until);
}

static inline void fx_advance(struct fixture *fx, uint64_t ns)
{
    fx_advance_most(fx, ns, 10000000);
}

/* The time passes first, then what is due runs, as on a host that was busy. */
static inline void fx_advance_late(struct fixture *fx, uint64_t ns)
{
    vmclock_set_ns(&fx->clock, vmclock_now_ns(&fx->clock) + ns);
    fx_advance(fx, 0);
}

static inline void fx_out(struct fixture *fx, uint16_t port, uint32_t value)
{
    bus_write(fx->pio, port, 1, value);
}

static inline uint8_t fx_in(struct fixture *fx, uint16_t port)
{
    return (uint8_t)bus_read(fx->pio, port, 1);
}

/* The caller frees *ret_data. */
static inline size_t fx_save(struct dev *dev, uint8_t **ret_data)
{
    struct err err = {.text = ""};
    struct state_writer *w;
    const void *data;
    size_t len;

    fx_must(state_writer_new(&w, &err), &err);
    state_begin(w, dev->ops->name, dev->instance, dev->ops->state_version);
    dev->ops->save(dev, w);
    state_end(w);
    fx_must(state_writer_finish(w, &data, &len), &err);
    *ret_data = malloc(len);
    memcpy(*ret_data, data, len);
    state_writer_free(w);
    return len;
}

static inline int fx_load(struct dev *dev, const uint8_t *data, size_t len)
{
    struct err err = {.text = ""};
    struct state_reader *r;
    uint32_t version;
    int rc = state_reader_new(&r, data, len, &err);

    if (rc < 0) {
        return rc;
    }
    rc = state_enter(r, dev->ops->name, dev->instance, dev->ops->state_version, &version, &err);
    if (rc == 0) {
        rc = dev->ops->load(dev, r, version, &err);
    }
    if (rc == 0) {
        rc = state_leave(r, &err);
    }
    if (rc == 0 && dev->ops->resume != NULL) {
        dev->ops->resume(dev);
    }
    state_reader_free(r);
    return rc;
}

/* Copies the state of one device into another of its kind; false if saving that again differs.
 */
static inline bool fx_copy(struct dev *from, struct dev *to)
{
    uint8_t *a, *b;
    size_t a_len = fx_save(from, &a), b_len;
    bool same;

    if (fx_load(to, a, a_len) < 0) {
        free(a);
        return false;
    }
    b_len = fx_save(to, &b);
    same = a_len == b_len && memcmp(a, b, a_len) == 0;
    free(a);
    free(b);
    return same;
}
