/*
 * Time. Host time is CLOCK_MONOTONIC nanoseconds. Guest time (struct vmclock) is host time less
 * the time that the VM was paused; every device timer is expressed in guest time.
 */
#pragma once

#include "base/loop.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define NSEC_PER_SEC UINT64_C(1000000000)

uint64_t clock_now_ns(void);  /* CLOCK_MONOTONIC */
uint64_t clock_wall_ns(void); /* CLOCK_REALTIME */

/* x * num / den without overflow in the product. den != 0; the result must fit 64 bits. */
static inline uint64_t muldiv64(uint64_t x, uint64_t num, uint64_t den)
{
    return (uint64_t)((unsigned __int128)x * num / den);
}

struct timer;

struct vmclock {
    pthread_mutex_t lock;
    struct timer *timers; /* every timer on this clock, re-armed on resume */
    unsigned seq;         /* odd while the three below change; readers retry */
    bool paused;
    int64_t offset_ns;  /* guest = host + offset while running */
    uint64_t frozen_ns; /* guest time while paused */
};

void vmclock_init(struct vmclock *clock); /* starts at guest time 0, running */
void vmclock_done(struct vmclock *clock);
uint64_t vmclock_now_ns(const struct vmclock *clock);
void vmclock_pause(struct vmclock *clock);
void vmclock_resume(struct vmclock *clock);
void vmclock_set_ns(struct vmclock *clock, uint64_t now_ns); /* while paused; for state load */

/*
 * A one-shot timer on a vmclock. The callback runs on the loop's thread with no lock held.
 * timer_arm from any thread replaces the deadline; a deadline in the past fires at once.
 * A callback may run once more after timer_disarm from another thread: devices re-check state.
 */
typedef void timer_fn(void *opaque);
struct timer {
    struct vmclock *clock;
    struct loop_watch *watch;
    timer_fn *fn;
    void *opaque;
    struct timer *next, *prev;
    int fd;
    bool armed;
    uint64_t deadline_ns; /* guest time */
};
int timer_init(struct timer *timer, struct loop *loop, struct vmclock *clock, timer_fn *fn,
               void *opaque, struct err *err);
void timer_done(struct timer *timer);
void timer_arm(struct timer *timer, uint64_t deadline_ns);
void timer_disarm(struct timer *timer);
