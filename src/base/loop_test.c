/* Event loop: watches, removal inside callbacks, posted calls from other threads, stopping. */
#include "base/cleanup.h"
#include "base/loop.h"
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

struct fix {
    struct loop *loop;
    int fd[2];
    struct loop_watch *watch[2];
    unsigned calls[2];
    unsigned posted;
};

static void stop_now(void *opaque)
{
    loop_stop(((struct fix *)opaque)->loop, 7);
}

static int setup(void **state)
{
    struct fix *f = calloc(1, sizeof(*f));

    assert_int_equal(loop_new(&f->loop, NULL), 0);
    for (int i = 0; i < 2; i++) {
        f->fd[i] = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
        assert_true(f->fd[i] >= 0);
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fix *f = *state;

    loop_free(f->loop);
    close(f->fd[0]);
    close(f->fd[1]);
    free(f);
    return 0;
}

/* Either of two ready watches removes both: the other must not be called any more. */
static void remove_both(struct fix *f, unsigned me)
{
    f->calls[me]++;
    loop_unwatch(f->watch[0]);
    loop_unwatch(f->watch[1]);
    f->watch[0] = f->watch[1] = NULL;
    loop_post(f->loop, stop_now, f);
}

static void on_first(void *opaque, uint32_t events)
{
    assert_true(events & EPOLLIN);
    remove_both(opaque, 0);
}

static void on_second(void *opaque, uint32_t events)
{
    assert_true(events & EPOLLIN);
    remove_both(opaque, 1);
}

static void a_callback_may_remove_itself_and_others(void **state)
{
    struct fix *f = *state;

    assert_int_equal(loop_watch_fd(f->loop, f->fd[0], EPOLLIN, on_first, f, &f->watch[0]), 0);
    assert_int_equal(loop_watch_fd(f->loop, f->fd[1], EPOLLIN, on_second, f, &f->watch[1]), 0);
    assert_int_equal(loop_run(f->loop), 7);
    assert_int_equal(f->calls[0] + f->calls[1], 1);
    loop_unwatch(NULL);
}

static void on_read(void *opaque, uint32_t events)
{
    struct fix *f = opaque;
    uint64_t v;

    (void)events;
    assert_int_equal(read(f->fd[0], &v, sizeof(v)), sizeof(v));
    f->calls[0]++;
    loop_stop(f->loop, 1);
}

static void rewatch_changes_the_events(void **state)
{
    struct fix *f = *state;

    assert_int_equal(loop_watch_fd(f->loop, f->fd[0], 0, on_read, f, &f->watch[0]), 0);
    loop_post(f->loop, stop_now, f);
    assert_int_equal(loop_run(f->loop), 7);
    assert_int_equal(f->calls[0], 0);
    assert_int_equal(loop_rewatch(f->watch[0], EPOLLIN), 0);
    assert_int_equal(loop_run(f->loop), 1);
    assert_int_equal(f->calls[0], 1);
}

static void count_posted(void *opaque)
{
    struct fix *f = opaque;

    if (++f->posted == 4000) {
        loop_stop(f->loop, 3);
    }
}

static void *post_many(void *opaque)
{
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(loop_post(((struct fix *)opaque)->loop, count_posted, opaque), 0);
    }
    return NULL;
}

static void posts_from_many_threads_all_run(void **state)
{
    struct fix *f = *state;
    pthread_t threads[4];

    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, post_many, f), 0);
    }
    assert_int_equal(loop_run(f->loop), 3);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(f->posted, 4000);
}

static void stop_before_run_and_calls_left_over(void **state)
{
    struct fix *f = *state;

    loop_stop(f->loop, 9);
    assert_int_equal(loop_run(f->loop), 9);
    /* Calls that never run are freed with the loop. */
    assert_int_equal(loop_post(f->loop, count_posted, f), 0);
    assert_int_equal(f->posted, 0);
}

static void a_plain_file_cannot_be_watched(void **state)
{
    struct fix *f = *state;
    _cleanup_close_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

    assert_int_equal(loop_watch_fd(f->loop, fd, EPOLLIN, on_read, f, &f->watch[0]), -EPERM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_callback_may_remove_itself_and_others, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(rewatch_changes_the_events, setup, teardown),
        cmocka_unit_test_setup_teardown(posts_from_many_threads_all_run, setup, teardown),
        cmocka_unit_test_setup_teardown(stop_before_run_and_calls_left_over, setup, teardown),
        cmocka_unit_test_setup_teardown(a_plain_file_cannot_be_watched, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
