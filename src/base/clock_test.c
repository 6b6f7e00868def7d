/* Guest time and timers: pausing stops time, deadlines move with it, arming from other threads.
 */
#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/test.h"

#include <time.h>

struct fix {
    struct loop *loop;
    struct vmclock clock;
    struct timer timer, other;
    unsigned fired, other_fired;
    uint64_t fired_at_ns;
};

static void on_timer(void *opaque)
{
    struct fix *f = opaque;

    f->fired++;
    f->fired_at_ns = vmclock_now_ns(&f->clock);
    loop_stop(f->loop, 1);
}

static void on_other(void *opaque)
{
    struct fix *f = opaque;

    f->other_fired++;
    loop_stop(f->loop, 2);
}

static int setup(void **state)
{
    struct fix *f = calloc(1, sizeof(*f));

    assert_int_equal(loop_new(&f->loop, NULL), 0);
    vmclock_init(&f->clock);
    assert_int_equal(timer_init(&f->timer, f->loop, &f->clock, on_timer, f, NULL), 0);
    assert_int_equal(timer_init(&f->other, f->loop, &f->clock, on_other, f, NULL), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fix *f = *state;

    timer_done(&f->timer);
    timer_done(&f->other);
    timer_done(&f->other); /* twice is harmless */
    vmclock_done(&f->clock);
    loop_free(f->loop);
    free(f);
    return 0;
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static void time_stops_while_paused(void **state)
{
    struct fix *f = *state;

    vmclock_pause(&f->clock);
    uint64_t a = vmclock_now_ns(&f->clock);
    sleep_ms(5);
    assert_int_equal(vmclock_now_ns(&f->clock), a);
    vmclock_resume(&f->clock);
    uint64_t b = vmclock_now_ns(&f->clock);
    assert_true(b >= a);
    sleep_ms(5);
    assert_true(vmclock_now_ns(&f->clock) - b >= 5000000);
}

static void a_timer_fires_at_its_time_and_once(void **state)
{
    struct fix *f = *state;
    uint64_t deadline = vmclock_now_ns(&f->clock) + 3000000;

    timer_arm(&f->timer, deadline);
    assert_int_equal(loop_run(f->loop), 1);
    assert_true(f->fired_at_ns >= deadline);
    timer_arm(&f->other, deadline + 10000000);
    assert_int_equal(loop_run(f->loop), 2);
    assert_int_equal(f->fired, 1);
}

static void the_past_fires_at_once_and_never_fires_never(void **state)
{
    struct fix *f = *state;

    timer_arm(&f->other, UINT64_MAX);
    timer_arm(&f->timer, 0);
    assert_int_equal(loop_run(f->loop), 1);
    timer_arm(&f->timer, 0); /* the same deadline again counts again */
    assert_int_equal(loop_run(f->loop), 1);
    assert_int_equal(f->fired, 2);
    assert_int_equal(f->other_fired, 0);
}

static void disarmed_and_replaced_deadlines_do_not_fire(void **state)
{
    struct fix *f = *state;

    timer_arm(&f->timer, vmclock_now_ns(&f->clock) + 1000000);
    timer_disarm(&f->timer);
    timer_arm(&f->other, vmclock_now_ns(&f->clock) + 5000000);
    assert_int_equal(loop_run(f->loop), 2);
    timer_arm(&f->timer, vmclock_now_ns(&f->clock) + 1000000);
    timer_arm(&f->timer, UINT64_MAX / 2);
    timer_arm(&f->other, vmclock_now_ns(&f->clock) + 5000000);
    assert_int_equal(loop_run(f->loop), 2);
    assert_int_equal(f->fired, 0);
}

static void a_pause_moves_the_deadline(void **state)
{
    struct fix *f = *state;
    uint64_t deadline = vmclock_now_ns(&f->clock) + 2000000;

    timer_arm(&f->timer, deadline);
    vmclock_pause(&f->clock);
    sleep_ms(6);
    /* Loading a state sets the clock; the timer waits for guest time, wherever it is. */
    vmclock_set_ns(&f->clock, deadline - 1000000);
    assert_int_equal(vmclock_now_ns(&f->clock), deadline - 1000000);
    vmclock_resume(&f->clock);
    assert_int_equal(loop_run(f->loop), 1);
    assert_true(f->fired_at_ns >= deadline);
}

static void *arm_from_thread(void *opaque)
{
    struct fix *f = opaque;

    for (unsigned i = 0; i < 2000; i++) {
        timer_arm(&f->timer, vmclock_now_ns(&f->clock) + UINT64_C(3600) * NSEC_PER_SEC);
        if (i % 3 == 0) {
            timer_disarm(&f->timer);
        }
    }
    timer_arm(&f->timer, 0);
    return NULL;
}

/* Gives the number of times that the clock went back. */
static void *read_clock(void *opaque)
{
    struct fix *f = opaque;
    uint64_t last = 0;
    uintptr_t backwards = 0;

    for (unsigned i = 0; i < 20000; i++) {
        uint64_t now = vmclock_now_ns(&f->clock);
        backwards += now < last ? 1 : 0;
        last = now;
    }
    return (void *)backwards;
}

static void other_threads_arm_and_read(void **state)
{
    struct fix *f = *state;
    pthread_t arm, reader;

    assert_int_equal(pthread_create(&reader, NULL, read_clock, f), 0);
    for (int i = 0; i < 2000; i++) {
        vmclock_pause(&f->clock);
        vmclock_resume(&f->clock);
    }
    void *backwards;
    pthread_join(reader, &backwards);
    assert_null(backwards);
    assert_int_equal(pthread_create(&arm, NULL, arm_from_thread, f), 0);
    assert_int_equal(loop_run(f->loop), 1);
    pthread_join(arm, NULL);
    assert_int_equal(f->fired, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(time_stops_while_paused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_timer_fires_at_its_time_and_once, setup, teardown),
        cmocka_unit_test_setup_teardown(the_past_fires_at_once_and_never_fires_never, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(disarmed_and_replaced_deadlines_do_not_fire, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_pause_moves_the_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(other_threads_arm_and_read, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
