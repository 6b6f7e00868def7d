/*
 * Event loop over epoll(7). One thread runs it; the lock guards only the queue of posted calls
 * and the stop request, which other threads may touch. A watch that is removed while events are
 * being dispatched stays allocated (marked dead) until the batch is done, because later events
 * of the same batch may still name it.
 */
#include "base/loop.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#define LOOP_BATCH 64

struct loop_watch {
    struct loop *loop;
    int fd;
    bool dead;
    loop_fd_fn *fn;
    void *opaque;
    struct loop_watch *next, *prev; /* loop's watches, or its graveyard (next only) */
};

struct loop_call {
    loop_call_fn *fn;
    void *opaque;
    struct loop_call *next;
};

struct loop {
    int epoll_fd;
    int wake_fd;
    unsigned dispatching; /* depth of event dispatch; own thread */
    struct loop_watch *watches, *graveyard;

    pthread_mutex_t lock; /* guards what follows */
    struct loop_call *first, **last;
    bool stop;
    int stop_value;
};

int loop_new(struct loop **ret_loop, struct err *err)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    if (loop == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for an event loop");
    }
    loop->last = &loop->first;
    pthread_mutex_init(&loop->lock, NULL);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    if (loop->wake_fd < 0 || loop->epoll_fd < 0 ||
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &ev) < 0) {
        int e = errno;
        loop_free(loop);
        return ERR(err, LIMIT, e, "cannot make an event loop: %s", strerror(e));
    }
    *ret_loop = loop;
    return 0;
}

static void loop_bury(struct loop *loop)
{
    while (loop->graveyard != NULL) {
        struct loop_watch *w = loop->graveyard;
        loop->graveyard = w->next;
        free(w);
    }
}

void loop_free(struct loop *loop)
{
    if (loop == NULL) {
        return;
    }
    loop_bury(loop);
    while (loop->watches != NULL) {
        struct loop_watch *w = loop->watches;
        loop->watches = w->next;
        free(w);
    }
    while (loop->first != NULL) {
        struct loop_call *call = loop->first;
        loop->first = call->next;
        free(call);
    }
    if (loop->epoll_fd >= 0) {
        close(loop->epoll_fd);
    }
    if (loop->wake_fd >= 0) {
        close(loop->wake_fd);
    }
    pthread_mutex_destroy(&loop->lock);
    free(loop);
}

static void loop_wake(struct loop *loop)
{
    uint64_t one = 1;
    ssize_t r;

    /* EAGAIN means the counter is at its maximum: the loop is awake already. */
    do {
        r = write(loop->wake_fd, &one, sizeof(one));
    } while (r < 0 && errno == EINTR);
}

static void loop_run_posted(struct loop *loop)
{
    uint64_t count;

    if (read(loop->wake_fd, &count, sizeof(count)) < 0 && errno != EAGAIN && errno != EINTR) {
        return;
    }
    pthread_mutex_lock(&loop->lock);
    struct loop_call *call = loop->first;
    loop->first = NULL;
    loop->last = &loop->first;
    pthread_mutex_unlock(&loop->lock);

    while (call != NULL) {
        struct loop_call *next = call->next;
        call->fn(call->opaque);
        free(call);
        call = next;
    }
}

static bool loop_stopped(struct loop *loop, int *ret_value)
{
    SCOPED_LOCK(&loop->lock);

    if (!loop->stop) {
        return false;
    }
    loop->stop = false;
    *ret_value = loop->stop_value;
    return true;
}

int loop_run(struct loop *loop)
{
    struct epoll_event events[LOOP_BATCH];
    int value;

    while (!loop_stopped(loop, &value)) {
        int n = epoll_wait(loop->epoll_fd, events, LOOP_BATCH, -1);
        loop->dispatching++;
        for (int i = 0; i < n; i++) {
            struct loop_watch *w = events[i].data.ptr;
            if (w == NULL) {
                loop_run_posted(loop);
            } else if (!w->dead) {
                w->fn(w->opaque, events[i].events);
            }
        }
        if (--loop->dispatching == 0) {
            loop_bury(loop);
        }
    }
    return value;
}

void loop_stop(struct loop *loop, int value)
{
    pthread_mutex_lock(&loop->lock);
    loop->stop = true;
    loop->stop_value = value;
    pthread_mutex_unlock(&loop->lock);
    loop_wake(loop);
}

int loop_watch_fd(struct loop *loop, int fd, uint32_t events, loop_fd_fn *fn, void *opaque,
                  struct loop_watch **ret_watch)
{
    struct loop_watch *w = calloc(1, sizeof(*w));
    if (w == NULL) {
        return -ENOMEM;
    }
    *w = (struct loop_watch){.loop = loop, .fd = fd, .fn = fn, .opaque = opaque};
    struct epoll_event ev = {.events = events, .data.ptr = w};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
        int e = errno;
        free(w);
        return -e;
    }
    w->next = loop->watches;
    if (w->next != NULL) {
        w->next->prev = w;
    }
    loop->watches = w;
    *ret_watch = w;
    return 0;
}

int loop_rewatch(struct loop_watch *watch, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = watch};

    return epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &ev) < 0 ? -errno : 0;
}

void loop_unwatch(struct loop_watch *watch)
{
    if (watch == NULL || watch->dead) {
        return;
    }
    struct loop *loop = watch->loop;

    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    if (watch->prev != NULL) {
        watch->prev->next = watch->next;
    } else {
        loop->watches = watch->next;
    }
    if (watch->next != NULL) {
        watch->next->prev = watch->prev;
    }
    watch->dead = true;
    if (loop->dispatching > 0) {
        watch->next = loop->graveyard;
        loop->graveyard = watch;
    } else {
        free(watch);
    }
}

int loop_post(struct loop *loop, loop_call_fn *fn, void *opaque)
{
    struct loop_call *call = malloc(sizeof(*call));
    if (call == NULL) {
        return -ENOMEM;
    }
    *call = (struct loop_call){.fn = fn, .opaque = opaque};
    pthread_mutex_lock(&loop->lock);
    bool was_empty = loop->first == NULL;
    *loop->last = call;
    loop->last = &call->next;
    pthread_mutex_unlock(&loop->lock);
    if (was_empty) {
        loop_wake(loop);
    }
    return 0;
}
