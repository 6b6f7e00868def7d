/*
 * The machine: makes memory, engine, board and vCPUs, runs them, and answers to requests:
 * pause, reset, power button, end. Threads and locks: machine_priv.h. Saved: guest time, the
 * vCPUs, every device (not RAM contents).
 */
#include "machine/machine_priv.h"

#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "dev/acpi/pm.h"
#include "dev/legacy/uart16550.h"
#include "dev/virtio/virtio_console.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#define MACHINE_STATE_VERSION 1

/* ---- requests ---- */

void machine_request(struct machine *m, unsigned bits)
{
    uint64_t one = 1;
    ssize_t r;

    pthread_mutex_lock(&m->lock);
    m->requests |= bits;
    pthread_mutex_unlock(&m->lock);
    /* The vCPU that asked must not run on: what follows the request is for after it. */
    if ((bits & (REQUEST_END | REQUEST_RESET)) != 0) {
        vcpus_kick(m);
    }
    do {
        r = write(m->request_fd, &one, sizeof(one));
    } while (r < 0 && errno == EINTR);
}

void machine_request_end(struct machine *m, enum machine_end end, const char *why)
{
    pthread_mutex_lock(&m->lock);
    if ((m->requests & REQUEST_END) == 0) {
        m->end = end;
        if (end == MACHINE_END_CRASH) {
            ERR(&m->end_err, GUEST_CRASH, EIO, "%s", why);
        } else if (end == MACHINE_END_ERROR) {
            ERR(&m->end_err, ENGINE, EIO, "%s", why);
        }
    }
    pthread_mutex_unlock(&m->lock);
    machine_request(m, REQUEST_END);
}

void machine_stop(struct machine *m)
{
    machine_request_end(m, MACHINE_END_STOPPED, "");
}

void machine_reset(struct machine *m)
{
    machine_request(m, REQUEST_RESET);
}

void machine_power_button(struct machine *m)
{
    if (m->board.pm != NULL) {
        acpi_pm_power_button(m->board.pm);
    }
}

static int do_reset(struct machine *m, struct err *err);

static void on_request(void *opaque, uint32_t events)
{
    struct machine *m = opaque;
    uint64_t count;

    (void)events;
    if (read(m->request_fd, &count, sizeof(count)) < 0) {
        return;
    }
    pthread_mutex_lock(&m->lock);
    unsigned bits = m->requests;
    m->requests &= ~(unsigned)REQUEST_INPUT;
    pthread_mutex_unlock(&m->lock);

    if ((bits & REQUEST_INPUT) != 0 && m->console.input_ready != NULL) {
        m->console.input_ready(m->console.opaque);
    }
    if ((bits & REQUEST_END) != 0) {
        loop_stop(m->loop, 0);
    } else if ((bits & REQUEST_RESET) != 0) {
        struct err err = {0};
        if (do_reset(m, &err) < 0) {
            machine_request_end(m, MACHINE_END_ERROR, err.text);
        }
    }
}

/* ---- pause ---- */

static void devs_call(struct machine *m, bool resume)
{
    for (struct dev *d = m->devs; d != NULL; d = d->next) {
        void (*fn)(struct dev *) = resume ? d->ops->resume : d->ops->pause;
        if (fn != NULL) {
            fn(d);
        }
    }
}

static void stop_vcpus(struct machine *m)
{
    pthread_mutex_lock(&m->lock);
    m->pause_count++;
    pthread_mutex_unlock(&m->lock);
    vcpus_kick(m);
    vcpus_wait_parked(m);
}

static void start_vcpus(struct machine *m)
{
    pthread_mutex_lock(&m->lock);
    m->pause_count--;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

void machine_pause(struct machine *m)
{
    stop_vcpus(m);
    if (m->pause_count == 1) {
        m->paused_tsc = host_tsc();
        vmclock_pause(&m->clock);
        devs_call(m, false);
    }
}

void machine_resume(struct machine *m)
{
    if (m->pause_count == 1) {
        struct err err = {0};
        devs_call(m, true);
        if (vcpus_correct_tsc(m, &err) < 0) {
            machine_request_end(m, MACHINE_END_ERROR, err.text);
        }
        vmclock_resume(&m->clock);
    }
    start_vcpus(m);
}

/* ---- boot and reset ---- */

/* Devices to their reset state, kernel and tables into RAM, vCPUs to their entry. Paused. */
static int boot(struct machine *m, struct err *err)
{
    struct vcpu_state *bsp = calloc(1, sizeof(*bsp));
    if (bsp == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for a vCPU's state");
    }
    for (struct dev *d = m->devs; d != NULL; d = d->next) {
        if (d->ops->reset != NULL) {
            d->ops->reset(d);
        }
    }
    __atomic_store_n(&m->virtio_console_used, false, __ATOMIC_RELAXED);
    int r = m->engine->has_irqchip ? m->engine->irqchip_reset(m->evm) : 0;
    if (r < 0) {
        ERR(err, ENGINE, -r, "engine %s cannot reset its interrupt controllers: %s",
            m->engine->name, strerror(-r));
    }
    r = r < 0 ? r : machine_boot(m, bsp, err);
    if (r == 0) {
        r = vcpus_set_boot_state(m, bsp, err);
    }
    m->started = r == 0;
    free(bsp);
    return r;
}

static int do_reset(struct machine *m, struct err *err)
{
    machine_pause(m);
    int r = boot(m, err);
    m->resets++;
    pthread_mutex_lock(&m->lock);
    m->requests &= ~(unsigned)REQUEST_RESET;
    pthread_mutex_unlock(&m->lock);
    machine_resume(m);
    return r;
}

/* ---- console ---- */

size_t machine_console_input(struct machine *m, const uint8_t *data, size_t len)
{
    if (m->board.console != NULL &&
        __atomic_load_n(&m->virtio_console_used, __ATOMIC_RELAXED)) {
        return virtio_console_input(m->board.console, 0, data, len);
    }
    return m->board.uart != NULL ? uart16550_receive(m->board.uart, data, len) : len;
}

void machine_console_ready(struct machine *m)
{
    if (m->board.uart != NULL) {
        uart16550_tx_ready(m->board.uart);
    }
    if (m->board.console != NULL) {
        virtio_console_tx_ready(m->board.console, 0);
    }
}

void machine_console_resize(struct machine *m, unsigned columns, unsigned rows)
{
    if (m->board.console != NULL) {
        virtio_console_resize(m->board.console, (uint16_t)MIN(columns, 0xffffu),
                              (uint16_t)MIN(rows, 0xffffu));
    }
}

static void stop_loop(void *opaque)
{
    loop_stop(((struct machine *)opaque)->loop, 0);
}

/* One more round of the loop brings out what the guest wrote last. The vCPUs stand still. */
static void console_finish(struct machine *m)
{
    if (m->console.ending != NULL) {
        m->console.ending(m->console.opaque);
    }
    machine_console_ready(m);
    if (loop_post(m->loop, stop_loop, m) == 0) {
        loop_run(m->loop);
    }
}

/* ---- life ---- */

static int make_engine(struct machine *m, struct err *err)
{
    m->engine = engine_find(m->cfg->engine, m->engine_why, sizeof(m->engine_why), err);
    if (m->engine == NULL) {
        return -ENODEV;
    }
    log_debug("engine %s: %s", m->engine->name, m->engine_why);
    int r = cpu_model_host(&m->model, m->engine == &engine_soft, m->cfg->n_cpus, err);
    if (r < 0) {
        return r;
    }
    struct engine_vm_params params = {
        .mem = m->mem, .model = &m->model, .n_cpus = m->cfg->n_cpus};
    glue_fill_host(m, &params.host);
    return m->engine->vm_new(&m->evm, &params, err);
}

static int make_memory(struct machine *m, struct err *err)
{
    int r = mem_new(&m->mem, err);

    if (r == 0) {
        board_map_init(&m->map, m->cfg->memory_bytes);
        r = board_map_add_ram(&m->map, m->mem, err);
    }
    return r;
}

static int map_slots(struct machine *m, struct err *err)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < mem_slot_count(m->mem); i++) {
        r = m->engine->map_slot(m->evm, mem_slot_get(m->mem, i), err);
    }
    return r;
}

static int make_requests(struct machine *m, struct err *err)
{
    m->request_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = m->request_fd < 0 ? -errno
                              : loop_watch_fd(m->loop, m->request_fd, EPOLLIN, on_request, m,
                                              &m->request_watch);
    return r < 0 ? ERR(err, LIMIT, -r, "cannot make an event descriptor: %s", strerror(-r)) : 0;
}

int machine_new(struct machine **ret_machine, const struct machine_config *cfg,
                struct loop *loop, const struct machine_console *console, struct err *err)
{
    struct machine *m = calloc(1, sizeof(*m));
    if (m == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for a machine");
    }
    m->cfg = cfg;
    m->loop = loop;
    m->console = *console;
    m->created_ns = clock_now_ns();
    m->request_fd = m->kernel_fd = m->initrd_fd = -1;
    m->devs_tail = &m->devs;
    m->pause_count = 1; /* until machine_run */
    m->paused_tsc = host_tsc();
    pthread_mutex_init(&m->dev_lock, NULL);
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->changed, NULL);
    vmclock_init(&m->clock);
    vmclock_pause(&m->clock);

    int r = make_requests(m, err);
    r = r < 0 ? r : make_memory(m, err);
    r = r < 0 ? r : bus_new(&m->pio, 0x10000, err);
    r = r < 0 ? r : bus_new(&m->mmio, UINT64_C(1) << 52, err);
    r = r < 0 ? r : make_engine(m, err);
    r = r < 0 ? r : map_slots(m, err);
    r = r < 0 ? r : board_new(m, err);
    r = r < 0 ? r : vcpus_new(m, err);
    if (r < 0) {
        machine_free(m);
        return r;
    }
    *ret_machine = m;
    return 0;
}

void machine_free(struct machine *m)
{
    if (m == NULL) {
        return;
    }
    vcpus_free(m);
    machine_boot_close(m);
    board_free(m);
    if (m->evm != NULL) {
        m->engine->vm_free(m->evm);
    }
    bus_free(m->pio);
    bus_free(m->mmio);
    mem_free(m->mem);
    loop_unwatch(m->request_watch);
    if (m->request_fd >= 0) {
        close(m->request_fd);
    }
    vmclock_done(&m->clock);
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->lock);
    pthread_mutex_destroy(&m->dev_lock);
    free(m);
}

enum machine_end machine_run(struct machine *m, struct err *err)
{
    int r = m->started ? 0 : boot(m, err);

    r = r < 0 ? r : vcpus_start(m, err);
    if (r < 0) {
        return MACHINE_END_ERROR;
    }
    m->first_run_ns = clock_now_ns();
    machine_resume(m);
    loop_run(m->loop);
    vcpus_wait_parked(m); /* REQUEST_END holds them there */
    console_finish(m);
    machine_pause(m);
    if (err != NULL && (m->end == MACHINE_END_CRASH || m->end == MACHINE_END_ERROR)) {
        *err = m->end_err;
    }
    return m->end;
}

/* ---- state ---- */

static void save_machine(struct machine *m, struct state_writer *w)
{
    state_begin(w, "machine", 0, MACHINE_STATE_VERSION);
    state_put_uint(w, "cpus", m->cfg->n_cpus);
    state_put_uint(w, "memory_bytes", m->cfg->memory_bytes);
    state_put_uint(w, "guest_ns", vmclock_now_ns(&m->clock));
    state_end(w);
}

static int save_vcpus(struct machine *m, struct state_writer *w, struct err *err)
{
    struct vcpu_state *s = calloc(1, sizeof(*s));
    int r = s == NULL ? ERR(err, NO_MEMORY, ENOMEM, "no memory to save a state") : 0;

    for (unsigned i = 0; r == 0 && i < m->cfg->n_cpus; i++) {
        r = m->engine->get_state(m->vcpus[i].ev, s);
        if (r < 0) {
            r = ERR(err, ENGINE, -r, "CPU %u: engine %s gives no state: %s", i, m->engine->name,
                    strerror(-r));
        } else {
            /* All at the instant of the pause, so that the TSCs keep their distances. */
            s->tsc_at_save = m->paused_tsc + (uint64_t)s->tsc_offset;
            vcpu_state_save(s, i, w);
        }
    }
    free(s);
    return r;
}

int machine_save(struct machine *m, struct state_writer *w, struct err *err)
{
    machine_pause(m);
    save_machine(m, w);
    int r = save_vcpus(m, w, err);
    for (struct dev *d = m->devs; r == 0 && d != NULL; d = d->next) {
        state_begin(w, d->ops->name, d->instance, d->ops->state_version);
        d->ops->save(d, w);
        state_end(w);
    }
    if (r == 0 && m->engine->has_irqchip) {
        r = m->engine->irqchip_save(m->evm, w);
        if (r < 0) {
            ERR(err, ENGINE, -r, "engine %s cannot save its interrupt controllers: %s",
                m->engine->name, strerror(-r));
        }
    }
    machine_resume(m);
    return r;
}

static int load_machine(struct machine *m, struct state_reader *r, struct err *err)
{
    uint32_t version;
    uint64_t cpus = 0, memory = 0, guest_ns = 0;

    int rc = state_enter(r, "machine", 0, MACHINE_STATE_VERSION, &version, err);
    rc = rc < 0 ? rc : state_get_uint(r, "cpus", &cpus, err);
    rc = rc < 0 ? rc : state_get_uint(r, "memory_bytes", &memory, err);
    rc = rc < 0 ? rc : state_get_uint(r, "guest_ns", &guest_ns, err);
    rc = rc < 0 ? rc : state_leave(r, err);
    if (rc < 0) {
        return rc;
    }
    if (cpus != m->cfg->n_cpus || memory != m->cfg->memory_bytes) {
        return ERR(err, STATE_BAD, EINVAL,
                   "saved state: of a VM with %" PRIu64 " CPUs and %" PRIu64
                   " bytes of RAM, this one has %u and %" PRIu64,
                   cpus, memory, m->cfg->n_cpus, m->cfg->memory_bytes);
    }
    if (guest_ns > INT64_MAX) {
        return ERR(err, STATE_BAD, EINVAL, "saved state: guest time %" PRIu64 " is absurd",
                   guest_ns);
    }
    vmclock_set_ns(&m->clock, guest_ns);
    return 0;
}

static int load_vcpus(struct machine *m, struct state_reader *r, struct err *err)
{
    struct vcpu_state *s = calloc(1, sizeof(*s));
    int rc = s == NULL ? ERR(err, NO_MEMORY, ENOMEM, "no memory to load a state") : 0;

    for (unsigned i = 0; rc == 0 && i < m->cfg->n_cpus; i++) {
        rc = vcpu_state_load(s, i, r, err);
        if (rc == 0) {
            s->tsc_offset = (int64_t)(s->tsc_at_save - m->paused_tsc);
            rc = m->engine->set_state(m->vcpus[i].ev, s, err);
            m->vcpus[i].stopped = false;
        }
    }
    free(s);
    return rc;
}

static int load_devs(struct machine *m, struct state_reader *r, struct err *err)
{
    int rc = 0;

    for (struct dev *d = m->devs; rc == 0 && d != NULL; d = d->next) {
        uint32_t version = 0;
        rc = state_enter(r, d->ops->name, d->instance, d->ops->state_version, &version, err);
        if (rc == 0) {
            rc = d->ops->load(d, r, version, err);
        }
        if (rc == 0) {
            rc = state_leave(r, err);
        }
    }
    return rc;
}

int machine_load(struct machine *m, struct state_reader *r, struct err *err)
{
    machine_pause(m);
    int rc = load_machine(m, r, err);
    rc = rc < 0 ? rc : load_vcpus(m, r, err);
    rc = rc < 0 ? rc : load_devs(m, r, err);
    if (rc == 0 && m->engine->has_irqchip) {
        rc = m->engine->irqchip_load(m->evm, r, err);
    }
    rc = rc < 0 ? rc : state_reader_finish(r, err);
    m->started = rc == 0;
    if (rc < 0) {
        struct err ignored;
        if (boot(m, &ignored) < 0) {
            machine_request_end(m, MACHINE_END_ERROR, ignored.text);
        }
    }
    machine_resume(m);
    return rc;
}
