/*
 * Guest time and its timers. Guest time is CLOCK_MONOTONIC plus an offset, or frozen while
 * paused. Readers take no lock (a sequence counter); changes and the list of timers are under
 * clock->lock. Each timer is a timerfd(2) on the loop, armed with the host time of its
 * deadline. Saved by its users: a device saves deadlines, the machine saves vmclock_now_ns.
 */
#include "base/clock.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>

static uint64_t clock_read_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t clock_now_ns(void)
{
    return clock_read_ns(CLOCK_MONOTONIC);
}

uint64_t clock_wall_ns(void)
{
    return clock_read_ns(CLOCK_REALTIME);
}

void vmclock_init(struct vmclock *clock)
{
    memset(clock, 0, sizeof(*clock));
    pthread_mutex_init(&clock->lock, NULL);
    clock->offset_ns = -(int64_t)clock_now_ns();
}

void vmclock_done(struct vmclock *clock)
{
    pthread_mutex_destroy(&clock->lock);
}

uint64_t vmclock_now_ns(const struct vmclock *clock)
{
    for (;;) {
        unsigned seq = __atomic_load_n(&clock->seq, __ATOMIC_ACQUIRE);
        uint64_t now = __atomic_load_n(&clock->paused, __ATOMIC_RELAXED)
                           ? __atomic_load_n(&clock->frozen_ns, __ATOMIC_RELAXED)
                           : clock_now_ns() +
                                 (uint64_t)__atomic_load_n(&clock->offset_ns, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if ((seq & 1) == 0 && __atomic_load_n(&clock->seq, __ATOMIC_RELAXED) == seq) {
            return now;
        }
    }
}

/*
 * Brackets a change; caller holds clock->lock. The host clock must be read inside the bracket:
 * a reader that still sees the old values after that reading would run ahead of the frozen
 * time.
 */
static void clock_change_begin(struct vmclock *clock)
{
    __atomic_store_n(&clock->seq, clock->seq + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void clock_change_end(struct vmclock *clock, bool paused, int64_t offset_ns,
                             uint64_t frozen_ns)
{
    __atomic_store_n(&clock->paused, paused, __ATOMIC_RELAXED);
    __atomic_store_n(&clock->offset_ns, offset_ns, __ATOMIC_RELAXED);
    __atomic_store_n(&clock->frozen_ns, frozen_ns, __ATOMIC_RELAXED);
    __atomic_store_n(&clock->seq, clock->seq + 1, __ATOMIC_RELEASE);
}

/* Caller holds clock->lock. Tells the kernel what armed, paused and deadline_ns say. */
static void timer_program(struct timer *timer)
{
    struct itimerspec spec = {0};

    if (timer->armed && !timer->clock->paused) {
        int64_t host_ns = INT64_MAX;
        if (timer->deadline_ns <= INT64_MAX &&
            !ckd_sub((int64_t)timer->deadline_ns, timer->clock->offset_ns, &host_ns)) {
            host_ns = INT64_MAX;
        }
        /* Zero would disarm it, and a time before the host's boot is simply past. */
        if (host_ns <= 0) {
            host_ns = 1;
        }
        spec.it_value.tv_sec = (time_t)((uint64_t)host_ns / NSEC_PER_SEC);
        spec.it_value.tv_nsec = (long)((uint64_t)host_ns % NSEC_PER_SEC);
    }
    timerfd_settime(timer->fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

void vmclock_pause(struct vmclock *clock)
{
    SCOPED_LOCK(&clock->lock);

    if (clock->paused) {
        return;
    }
    clock_change_begin(clock);
    uint64_t frozen_ns = clock_now_ns() + (uint64_t)clock->offset_ns;
    clock_change_end(clock, true, clock->offset_ns, frozen_ns);
    for (struct timer *t = clock->timers; t != NULL; t = t->next) {
        timer_program(t);
    }
}

void vmclock_resume(struct vmclock *clock)
{
    SCOPED_LOCK(&clock->lock);

    if (!clock->paused) {
        return;
    }
    clock_change_begin(clock);
    int64_t offset_ns = (int64_t)(clock->frozen_ns - clock_now_ns());
    clock_change_end(clock, false, offset_ns, clock->frozen_ns);
    for (struct timer *t = clock->timers; t != NULL; t = t->next) {
        timer_program(t);
    }
}

void vmclock_set_ns(struct vmclock *clock, uint64_t now_ns)
{
    SCOPED_LOCK(&clock->lock);

    clock_change_begin(clock);
    clock_change_end(clock, clock->paused, clock->offset_ns, now_ns);
}

static void timer_on_fd(void *opaque, uint32_t events)
{
    struct timer *timer = opaque;
    uint64_t expirations;

    (void)events;
    if (read(timer->fd, &expirations, sizeof(expirations)) < 0) {
        return; /* armed anew or disarmed since epoll saw it */
    }
    pthread_mutex_lock(&timer->clock->lock);
    bool fire = timer->armed && !timer->clock->paused &&
                vmclock_now_ns(timer->clock) >= timer->deadline_ns;
    if (fire) {
        timer->armed = false;
    } else {
        timer_program(timer);
    }
    pthread_mutex_unlock(&timer->clock->lock);
    if (fire) {
        timer->fn(timer->opaque);
    }
}

int timer_init(struct timer *timer, struct loop *loop, struct vmclock *clock, timer_fn *fn,
               void *opaque, struct err *err)
{
    *timer = (struct timer){.clock = clock, .fn = fn, .opaque = opaque};
    timer->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (timer->fd < 0) {
        int e = errno;
        return ERR(err, LIMIT, e, "cannot make a timer: %s", strerror(e));
    }
    int r = loop_watch_fd(loop, timer->fd, EPOLLIN, timer_on_fd, timer, &timer->watch);
    if (r < 0) {
        close(timer->fd);
        timer->fd = -1;
        return ERR(err, LIMIT, -r, "cannot watch a timer: %s", strerror(-r));
    }
    SCOPED_LOCK(&clock->lock);
    timer->next = clock->timers;
    if (timer->next != NULL) {
        timer->next->prev = timer;
    }
    clock->timers = timer;
    return 0;
}

void timer_done(struct timer *timer)
{
    if (timer->watch == NULL) {
        return; /* never initialised, or done already */
    }
    SCOPED_LOCK(&timer->clock->lock);
    if (timer->prev != NULL) {
        timer->prev->next = timer->next;
    } else {
        timer->clock->timers = timer->next;
    }
    if (timer->next != NULL) {
        timer->next->prev = timer->prev;
    }
    loop_unwatch(timer->watch);
    timer->watch = NULL;
    timer->armed = false;
    close(timer->fd);
    timer->fd = -1;
}

void timer_arm(struct timer *timer, uint64_t deadline_ns)
{
    SCOPED_LOCK(&timer->clock->lock);

    if (timer->armed && timer->deadline_ns == deadline_ns) {
        return;
    }
    timer->armed = true;
    timer->deadline_ns = deadline_ns;
    if (!timer->clock->paused) {
        timer_program(timer);
    }
}

void timer_disarm(struct timer *timer)
{
    SCOPED_LOCK(&timer->clock->lock);

    /* The kernel's timer is left to expire: timer_on_fd then sees that nothing is armed. A
     * guest that sets and cancels a timeout for every request saves a system call each time. */
    timer->armed = false;
}
