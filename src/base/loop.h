/*
 * Event loop: one thread, epoll. Watches, timers and posted calls run on the thread in
 * loop_run. loop_post and the timer_* calls may come from any thread; everything else from the
 * loop's own thread or before it runs. Nothing that blocks belongs in a callback.
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct loop_watch;

typedef void loop_fd_fn(void *opaque, uint32_t epoll_events);
typedef void loop_call_fn(void *opaque);

int loop_new(struct loop **ret_loop, struct err *err);
void loop_free(struct loop *loop);

/* Runs until loop_stop; returns the value given to it. */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop, int value); /* any thread */

/* fd is borrowed until loop_unwatch. events are EPOLLIN/EPOLLOUT/...; level-triggered. */
int loop_watch_fd(struct loop *loop, int fd, uint32_t events, loop_fd_fn *fn, void *opaque,
                  struct loop_watch **ret_watch);
int loop_rewatch(struct loop_watch *watch, uint32_t events);
void loop_unwatch(struct loop_watch *watch); /* safe inside its own callback; NULL allowed */

/* Runs fn on the loop's thread soon; any thread. -ENOMEM when out of memory. */
int loop_post(struct loop *loop, loop_call_fn *fn, void *opaque);
