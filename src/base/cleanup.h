/*
 * Guarded locals: what one function acquires and releases.
 *     _cleanup_close_ int fd = open(...);  ...  return take_fd(&fd);   hands over
 */
#pragma once

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free_p(void *p)
{
    free(*(void **)p);
}
static inline void cleanup_close_p(const int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
}
static inline void cleanup_fclose_p(FILE **f)
{
    if (*f != NULL) {
        fclose(*f);
    }
}
static inline void cleanup_unlock_p(pthread_mutex_t **m)
{
    if (*m != NULL) {
        pthread_mutex_unlock(*m);
    }
}

#define _cleanup_free_   __attribute__((cleanup(cleanup_free_p)))
#define _cleanup_close_  __attribute__((cleanup(cleanup_close_p)))
#define _cleanup_fclose_ __attribute__((cleanup(cleanup_fclose_p)))

static inline int take_fd(int *fd)
{
    int r = *fd;
    *fd = -1;
    return r;
}
#define take_ptr(pp)                                                                           \
    ({                                                                                         \
        __typeof__(*(pp)) taken_ = *(pp);                                                      \
        *(pp) = NULL;                                                                          \
        taken_;                                                                                \
    })

static inline pthread_mutex_t *cleanup_lock(pthread_mutex_t *m)
{
    if (m != NULL) {
        pthread_mutex_lock(m);
    }
    return m;
}
/* Holds m (may be NULL: nothing) until the end of the scope. */
#define SCOPED_LOCK(m)                                                                         \
    pthread_mutex_t *scoped_lock_ __attribute__((cleanup(cleanup_unlock_p), unused)) =         \
        cleanup_lock(m)
