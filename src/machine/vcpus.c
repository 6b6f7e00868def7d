/*
 * vCPU threads. Each runs its engine_vcpu until something stops it: a pause, a request for
 * reset or end, or its own shutdown. Parking: a thread that finds a reason to stand still under
 * m->lock sets parked and waits; the loop's thread kicks all and waits until all are parked.
 * Kicks are sticky in the engine, so none is lost between the check and the run.
 */
#include "machine/machine_priv.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

/* m->lock held. */
static bool must_park(const struct vcpu *v)
{
    const struct machine *m = v->m;

    return m->pause_count > 0 || v->stopped ||
           (m->requests & (REQUEST_END | REQUEST_RESET)) != 0;
}

static void handle_exit(struct vcpu *v, const struct engine_exit_info *exit)
{
    struct machine *m = v->m;
    char why[200];

    switch (exit->reason) {
    case ENGINE_EXIT_KICK: return;
    case ENGINE_EXIT_SHUTDOWN:
        snprintf(why, sizeof(why), "CPU %u: triple fault%s%s", v->index,
                 exit->text[0] != '\0' ? ": " : "", exit->text);
        break;
    case ENGINE_EXIT_ERROR:
        snprintf(why, sizeof(why), "CPU %u: engine %s: %s", v->index, m->engine->name,
                 exit->text);
        break;
    }
    pthread_mutex_lock(&m->lock);
    v->stopped = true;
    pthread_mutex_unlock(&m->lock);
    machine_request_end(
        m, exit->reason == ENGINE_EXIT_SHUTDOWN ? MACHINE_END_CRASH : MACHINE_END_ERROR, why);
}

static void *vcpu_main(void *opaque)
{
    struct vcpu *v = opaque;
    struct machine *m = v->m;

    pthread_mutex_lock(&m->lock);
    while (!m->quit) {
        if (must_park(v)) {
            v->parked = true;
            pthread_cond_broadcast(&m->changed);
            pthread_cond_wait(&m->changed, &m->lock);
            continue;
        }
        v->parked = false;
        pthread_mutex_unlock(&m->lock);
        struct engine_exit_info exit = {0};
        m->engine->run(v->ev, &exit);
        handle_exit(v, &exit);
        pthread_mutex_lock(&m->lock);
    }
    v->parked = true;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

int vcpus_new(struct machine *m, struct err *err)
{
    m->vcpus = calloc(m->cfg->n_cpus, sizeof(*m->vcpus));
    if (m->vcpus == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for %u vCPUs", m->cfg->n_cpus);
    }
    for (unsigned i = 0; i < m->cfg->n_cpus; i++) {
        struct vcpu *v = &m->vcpus[i];
        *v = (struct vcpu){.m = m, .index = i, .parked = true};
        int r = m->engine->vcpu_new(m->evm, i, &v->ev, err);
        if (r < 0) {
            err_prefix(err, "CPU %u", i);
            return r;
        }
    }
    return 0;
}

/* Signals are the loop's business: vCPU threads are born with all of them blocked, but for
 * those that an engine raises by what the guest's instructions do. */
int vcpus_start(struct machine *m, struct err *err)
{
    sigset_t all, old;
    int r = 0;

    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGFPE);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (unsigned i = 0; r == 0 && i < m->cfg->n_cpus; i++) {
        struct vcpu *v = &m->vcpus[i];
        char name[16];
        r = pthread_create(&v->thread, NULL, vcpu_main, v);
        if (r == 0) {
            v->has_thread = true;
            snprintf(name, sizeof(name), "vcpu%u", i);
            pthread_setname_np(v->thread, name);
        }
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r != 0) {
        return ERR(err, LIMIT, r, "cannot start a thread for each of %u vCPUs: %s",
                   m->cfg->n_cpus, strerror(r));
    }
    return 0;
}

void vcpus_free(struct machine *m)
{
    if (m->vcpus == NULL) {
        return;
    }
    pthread_mutex_lock(&m->lock);
    m->quit = true;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
    vcpus_kick(m);
    for (unsigned i = 0; i < m->cfg->n_cpus; i++) {
        if (m->vcpus[i].has_thread) {
            pthread_join(m->vcpus[i].thread, NULL);
        }
    }
    for (unsigned i = 0; i < m->cfg->n_cpus; i++) {
        if (m->vcpus[i].ev != NULL) {
            m->engine->vcpu_free(m->vcpus[i].ev);
        }
    }
    free(m->vcpus);
    m->vcpus = NULL;
}

void vcpus_kick(struct machine *m)
{
    for (unsigned i = 0; m->vcpus != NULL && i < m->cfg->n_cpus; i++) {
        if (m->vcpus[i].ev != NULL) {
            m->engine->kick(m->vcpus[i].ev);
        }
    }
}

void vcpus_wait_parked(struct machine *m)
{
    SCOPED_LOCK(&m->lock);

    for (unsigned i = 0; i < m->cfg->n_cpus; i++) {
        while (!m->vcpus[i].parked) {
            pthread_cond_wait(&m->changed, &m->lock);
        }
    }
}

int vcpus_set_boot_state(struct machine *m, const struct vcpu_state *bsp, struct err *err)
{
    struct vcpu_state *s = malloc(sizeof(*s));
    int r = 0;

    if (s == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for a vCPU's state");
    }
    for (unsigned i = 0; r == 0 && i < m->cfg->n_cpus; i++) {
        if (i == 0) {
            *s = *bsp;
        } else {
            vcpu_state_reset(s, false);
        }
        /* All TSCs start at zero together, now. */
        s->tsc_offset = -(int64_t)m->paused_tsc;
        r = m->engine->set_state(m->vcpus[i].ev, s, err);
        m->vcpus[i].stopped = false;
    }
    free(s);
    return r;
}

int vcpus_correct_tsc(struct machine *m, struct err *err)
{
    struct vcpu_state *s = malloc(sizeof(*s));
    uint64_t stood = host_tsc() - m->paused_tsc;
    int r = 0;

    if (s == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for a vCPU's state");
    }
    for (unsigned i = 0; r == 0 && i < m->cfg->n_cpus; i++) {
        r = m->engine->get_state(m->vcpus[i].ev, s);
        if (r == 0) {
            s->tsc_offset -= (int64_t)stood;
            r = m->engine->set_state(m->vcpus[i].ev, s, err);
        } else {
            ERR(err, ENGINE, -r, "CPU %u: engine %s gives no state: %s", i, m->engine->name,
                strerror(-r));
        }
    }
    free(s);
    return r;
}
