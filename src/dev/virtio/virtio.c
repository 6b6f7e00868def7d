/*
 * The core that every virtio device shares. Virtio 1.2 chapters 2 and 3.
 * Lock: vd->lock. Saved: status, features, vectors, queue registers and indices, then what the
 * device type adds. Missing: RING_RESET, packed rings, NOTIFICATION_DATA, ADMIN queues.
 */
#include "dev/virtio/virtio.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STATUS_WRITABLE                                                                        \
    (VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_DRIVER_OK | VIRTIO_S_FEATURES_OK |      \
     VIRTIO_S_FAILED)

static void count(uint64_t *counter)
{
    __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

int virtio_init(struct virtio_dev *vd, const struct virtio_ops *ops, struct mem *mem,
                uint64_t features, const uint16_t *sizes, unsigned queue_count, struct err *err)
{
    if (queue_count == 0 || queue_count > VIRTIO_QUEUES_MAX) {
        return ERR(err, SPEC_BAD, EINVAL, "%s: %u queues, want 1 to %u", ops->name, queue_count,
                   VIRTIO_QUEUES_MAX);
    }
    for (unsigned i = 0; i < queue_count; i++) {
        if (!is_pow2(sizes[i]) || sizes[i] > VIRTQ_SIZE_MAX) {
            return ERR(err, SPEC_BAD, EINVAL,
                       "%s: queue of %u entries, want a power of two up to %u", ops->name,
                       sizes[i], VIRTQ_SIZE_MAX);
        }
    }
    vd->queue = calloc(queue_count, sizeof(vd->queue[0]));
    if (vd->queue == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "%s: %u queues", ops->name, queue_count);
    }
    pthread_mutex_init(&vd->lock, NULL);
    pthread_cond_init(&vd->drained, NULL);
    vd->ops = ops;
    vd->mem = mem;
    vd->offered = features | VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_F_INDIRECT) |
                  VIRTIO_BIT(VIRTIO_F_EVENT_IDX);
    vd->queue_count = queue_count;
    vd->config_vector = VIRTQ_NO_VECTOR;
    for (unsigned i = 0; i < queue_count; i++) {
        vd->queue[i] = (struct virtq){
            .mem = mem, .size_max = sizes[i], .size = sizes[i], .vector = VIRTQ_NO_VECTOR};
    }
    return 0;
}

void virtio_done(struct virtio_dev *vd)
{
    free(vd->queue);
    vd->queue = NULL;
    pthread_cond_destroy(&vd->drained);
    pthread_mutex_destroy(&vd->lock);
}

bool virtio_running(const struct virtio_dev *vd, unsigned q)
{
    return q < vd->queue_count && vd->queue[q].running && !vd->paused && !vd->resetting;
}

void virtio_broken(struct virtio_dev *vd, const char *what)
{
    if ((vd->status & VIRTIO_S_NEEDS_RESET) != 0) {
        return;
    }
    vd->status |= VIRTIO_S_NEEDS_RESET;
    count(&vd->stats.broken);
    for (unsigned i = 0; i < vd->queue_count; i++) {
        vd->queue[i].running = false;
    }
    if (log_limit_pass(&vd->log_limit, 1)) {
        log_warn("%s: %s; the device needs a reset by its driver", vd->ops->name, what);
    }
    if ((vd->status & VIRTIO_S_DRIVER_OK) != 0 && vd->tops != NULL) {
        vd->tops->config_irq(vd->transport, vd->config_vector);
    }
}

int virtio_pop(struct virtio_dev *vd, unsigned q, struct virtq_chain *chain)
{
    if (!virtio_running(vd, q)) {
        return 0;
    }
    int rc = virtq_pop(&vd->queue[q], chain);
    if (rc < 0) {
        virtio_broken(vd, rc == -EFAULT ? "a ring or buffer lies outside of RAM"
                                        : "malformed descriptors or ring index");
        return 0;
    }
    if (rc > 0) {
        count(&vd->stats.requests);
    }
    return rc;
}

void virtio_interrupt(struct virtio_dev *vd, unsigned q)
{
    struct virtq *vq = &vd->queue[q];
    if (vd->tops != NULL && virtq_wants_interrupt(vq)) {
        count(&vd->stats.interrupts);
        vd->tops->queue_irq(vd->transport, vq->vector);
    }
}

void virtio_push(struct virtio_dev *vd, unsigned q, uint16_t head, uint32_t written)
{
    if (!vd->queue[q].running) {
        return;
    }
    if (virtq_push(&vd->queue[q], head, written) != 0) {
        virtio_broken(vd, "the used ring lies outside of RAM");
        return;
    }
    virtio_interrupt(vd, q);
}

void virtio_config_changed(struct virtio_dev *vd)
{
    vd->generation++;
    if ((vd->status & VIRTIO_S_DRIVER_OK) != 0 && vd->tops != NULL) {
        vd->tops->config_irq(vd->transport, vd->config_vector);
    }
}

void virtio_get(struct virtio_dev *vd)
{
    vd->in_flight++;
}

void virtio_put(struct virtio_dev *vd)
{
    if (--vd->in_flight == 0) {
        vd->resetting = false;
        pthread_cond_broadcast(&vd->drained);
    }
}

/* ---- status and features ---- */

static void start_queues(struct virtio_dev *vd)
{
    for (unsigned i = 0; i < vd->queue_count; i++) {
        struct virtq *vq = &vd->queue[i];
        if (!vq->enabled) {
            continue;
        }
        vq->event_idx = virtio_has(vd, VIRTIO_F_EVENT_IDX);
        vq->indirect = virtio_has(vd, VIRTIO_F_INDIRECT);
        if (virtq_check(vq) != 0) {
            virtio_broken(vd, "a queue has a bad size, or an address outside of RAM");
            return;
        }
        vq->running = true;
    }
}

static void notify_all(struct virtio_dev *vd)
{
    for (unsigned i = 0; i < vd->queue_count; i++) {
        if (virtio_running(vd, i)) {
            vd->ops->notify(vd, i);
        }
    }
}

static void driver_ok(struct virtio_dev *vd)
{
    if ((vd->status & VIRTIO_S_FEATURES_OK) == 0) {
        virtio_broken(vd, "DRIVER_OK without FEATURES_OK");
        return;
    }
    start_queues(vd);
    if ((vd->status & VIRTIO_S_NEEDS_RESET) == 0) {
        if (vd->ops->start != NULL) {
            vd->ops->start(vd);
        }
        /* Buffers that were made available before are there to be used. */
        notify_all(vd);
    }
}

static bool features_acceptable(struct virtio_dev *vd)
{
    return (vd->features & ~vd->offered) == 0 && virtio_has(vd, VIRTIO_F_VERSION_1) &&
           (vd->ops->features_ok == NULL || vd->ops->features_ok(vd, vd->features));
}

static void reset_locked(struct virtio_dev *vd)
{
    vd->epoch++;
    vd->status = 0;
    vd->features = 0;
    vd->config_vector = VIRTQ_NO_VECTOR;
    vd->resetting = vd->in_flight != 0;
    for (unsigned i = 0; i < vd->queue_count; i++) {
        vd->queue[i] = (struct virtq){.mem = vd->mem,
                                      .size_max = vd->queue[i].size_max,
                                      .size = vd->queue[i].size_max,
                                      .vector = VIRTQ_NO_VECTOR};
    }
    if (vd->ops->reset != NULL) {
        vd->ops->reset(vd);
    }
    if (vd->tops != NULL) {
        vd->tops->reset(vd->transport);
    }
}

static void wait_drained(struct virtio_dev *vd)
{
    while (vd->in_flight != 0) {
        pthread_cond_wait(&vd->drained, &vd->lock);
    }
}

void virtio_reset(struct virtio_dev *vd, bool wait)
{
    SCOPED_LOCK(&vd->lock);
    reset_locked(vd);
    if (wait) {
        wait_drained(vd);
    }
}

void virtio_set_status(struct virtio_dev *vd, uint8_t status)
{
    SCOPED_LOCK(&vd->lock);
    if (status == 0) {
        reset_locked(vd);
        return;
    }
    /* A driver that does not poll for the end of the reset waits for it here. */
    while (vd->resetting) {
        pthread_cond_wait(&vd->drained, &vd->lock);
    }
    uint8_t news = (uint8_t)(status & STATUS_WRITABLE & ~vd->status);
    if ((news & VIRTIO_S_FEATURES_OK) != 0 && !features_acceptable(vd)) {
        news &= (uint8_t)~VIRTIO_S_FEATURES_OK;
    }
    /* Bits are only ever added; what a driver leaves out stays set. */
    vd->status |= news;
    if ((news & VIRTIO_S_DRIVER_OK) != 0) {
        driver_ok(vd);
    }
}

uint8_t virtio_status_locked(const struct virtio_dev *vd)
{
    /* Not 0 while requests from before the reset may still write to memory. */
    return vd->resetting ? VIRTIO_S_FAILED : vd->status;
}

void virtio_set_features_locked(struct virtio_dev *vd, uint64_t features)
{
    if ((vd->status & VIRTIO_S_FEATURES_OK) == 0) {
        vd->features = features;
    }
}

bool virtio_queue_open_locked(const struct virtio_dev *vd, unsigned q)
{
    return q < vd->queue_count && !vd->queue[q].enabled &&
           (vd->status & VIRTIO_S_DRIVER_OK) == 0;
}

void virtio_queue_enable_locked(struct virtio_dev *vd, unsigned q)
{
    if (virtio_queue_open_locked(vd, q)) {
        vd->queue[q].enabled = true;
    }
}

void virtio_notify(struct virtio_dev *vd, unsigned q)
{
    SCOPED_LOCK(&vd->lock);
    count(&vd->stats.notifies);
    if (virtio_running(vd, q)) {
        vd->ops->notify(vd, q);
    }
}

void virtio_config_read(struct virtio_dev *vd, unsigned off, unsigned len, uint8_t *buf)
{
    SCOPED_LOCK(&vd->lock);
    for (unsigned i = 0; i < len; i++) {
        buf[i] = off + i < vd->config_len ? vd->config[off + i] : 0;
    }
}

void virtio_config_write(struct virtio_dev *vd, unsigned off, unsigned len, const uint8_t *buf)
{
    bool any = false;
    SCOPED_LOCK(&vd->lock);
    for (unsigned i = 0; i < len && off + i < vd->config_len; i++) {
        uint8_t mask = vd->config_wmask != NULL ? vd->config_wmask[off + i] : 0;
        uint8_t *byte = &vd->config[off + i];
        *byte = (uint8_t)((*byte & ~mask) | (buf[i] & mask));
        any = any || mask != 0;
    }
    if (any && vd->ops->config_written != NULL) {
        vd->ops->config_written(vd, off, len);
    }
}

/* ---- life ---- */

void virtio_pause(struct virtio_dev *vd)
{
    pthread_mutex_lock(&vd->lock);
    vd->paused = true;
    pthread_mutex_unlock(&vd->lock);
    if (vd->ops->quiesce != NULL) {
        vd->ops->quiesce(vd);
    }
    SCOPED_LOCK(&vd->lock);
    wait_drained(vd);
}

void virtio_resume(struct virtio_dev *vd)
{
    pthread_mutex_lock(&vd->lock);
    vd->paused = false;
    notify_all(vd);
    pthread_mutex_unlock(&vd->lock);
    if (vd->ops->unquiesce != NULL) {
        vd->ops->unquiesce(vd);
    }
}

void virtio_free(struct virtio_dev *vd)
{
    if (vd == NULL) {
        return;
    }
    virtio_pause(vd);
    pthread_mutex_lock(&vd->lock);
    vd->tops = NULL;
    pthread_mutex_unlock(&vd->lock);
    vd->ops->free(vd);
}

/* ---- state ---- */

/* One queue as it goes into the stream; its own layout, so that virtq may change. */
struct queue_state {
    uint64_t desc, avail, used;
    uint16_t size, vector, next_avail, next_used, signalled;
    uint8_t enabled, used_valid;
};

static void queue_field(char name[32], unsigned q, const char *what)
{
    (void)snprintf(name, 32, "q%u.%s", q, what);
}

static const struct {
    const char *name;
    size_t offset, size;
} queue_fields[] = {
#define F(m)                                                                                   \
    {                                                                                          \
#m, offsetof(struct queue_state, m), sizeof(((struct queue_state *)0)->m)              \
    }
    F(desc),       F(avail),     F(used),      F(size),    F(vector),
    F(next_avail), F(next_used), F(signalled), F(enabled), F(used_valid),
#undef F
};

static void save_queue(struct state_writer *w, unsigned q, const struct virtq *vq)
{
    struct queue_state s = {
        .desc = vq->desc.v,
        .avail = vq->avail.v,
        .used = vq->used.v,
        .size = vq->size,
        .vector = vq->vector,
        .next_avail = vq->next_avail,
        .next_used = vq->next_used,
        .signalled = vq->signalled,
        .enabled = vq->enabled,
        .used_valid = vq->used_valid,
    };
    for (size_t i = 0; i < ARRAY_LEN(queue_fields); i++) {
        char name[32];
        uint64_t value = 0;
        memcpy(&value, (const char *)&s + queue_fields[i].offset, queue_fields[i].size);
        queue_field(name, q, queue_fields[i].name);
        state_put_uint(w, name, value);
    }
}

void virtio_save(struct virtio_dev *vd, struct state_writer *w)
{
    SCOPED_LOCK(&vd->lock);
    state_put_uint(w, "features", vd->features);
    state_put_uint(w, "status", vd->status);
    state_put_uint(w, "config_vector", vd->config_vector);
    state_put_uint(w, "generation", vd->generation);
    state_put_uint(w, "queues", vd->queue_count);
    for (unsigned i = 0; i < vd->queue_count; i++) {
        save_queue(w, i, &vd->queue[i]);
    }
    if (vd->ops->save != NULL) {
        vd->ops->save(vd, w);
    }
}

static int load_queue(struct virtio_dev *vd, struct state_reader *r, unsigned q,
                      struct err *err)
{
    struct virtq *vq = &vd->queue[q];
    struct queue_state s = {0};
    for (size_t i = 0; i < ARRAY_LEN(queue_fields); i++) {
        char name[32];
        uint64_t value = 0;
        queue_field(name, q, queue_fields[i].name);
        int rc = state_get_uint(r, name, &value, err);
        if (rc != 0) {
            return rc;
        }
        if (queue_fields[i].size < 8 && value >> (8 * queue_fields[i].size) != 0) {
            return ERR(err, STATE_BAD, EINVAL, "%s: field %s is too large", vd->ops->name,
                       name);
        }
        memcpy((char *)&s + queue_fields[i].offset, &value, queue_fields[i].size);
    }
    if (!is_pow2(s.size) || s.size > vq->size_max) {
        return ERR(err, STATE_BAD, EINVAL, "%s: queue %u has %u entries, want at most %u",
                   vd->ops->name, q, s.size, vq->size_max);
    }
    *vq = (struct virtq){
        .mem = vd->mem,
        .size_max = vq->size_max,
        .size = s.size,
        .enabled = s.enabled != 0,
        .used_valid = s.used_valid != 0,
        .vector = s.vector < vd->vectors ? s.vector : VIRTQ_NO_VECTOR,
        .desc = GPA(s.desc),
        .avail = GPA(s.avail),
        .used = GPA(s.used),
        .next_avail = s.next_avail,
        .next_used = s.next_used,
        .signalled = s.signalled,
    };
    return 0;
}

static int load_common(struct virtio_dev *vd, struct state_reader *r, struct err *err)
{
    uint64_t features = 0;
    uint64_t status = 0;
    uint64_t vector = 0;
    uint64_t generation = 0;
    uint64_t queues = 0;

    int rc = state_get_uint(r, "features", &features, err);
    rc = rc != 0 ? rc : state_get_uint(r, "status", &status, err);
    rc = rc != 0 ? rc : state_get_uint(r, "config_vector", &vector, err);
    rc = rc != 0 ? rc : state_get_uint(r, "generation", &generation, err);
    rc = rc != 0 ? rc : state_get_uint(r, "queues", &queues, err);
    if (rc != 0) {
        return rc;
    }
    if (queues != vd->queue_count) {
        return ERR(err, STATE_BAD, EINVAL, "%s: %llu queues in the state, %u here",
                   vd->ops->name, (unsigned long long)queues, vd->queue_count);
    }
    if ((status & VIRTIO_S_FEATURES_OK) != 0 && (features & ~vd->offered) != 0) {
        return ERR(err, STATE_BAD, EINVAL,
                   "%s: the guest uses features 0x%llx that are not available here",
                   vd->ops->name, (unsigned long long)(features & ~vd->offered));
    }
    vd->features = features;
    vd->status = (uint8_t)(status & (STATUS_WRITABLE | VIRTIO_S_NEEDS_RESET));
    vd->config_vector = vector < vd->vectors ? (uint16_t)vector : VIRTQ_NO_VECTOR;
    vd->generation = (uint8_t)generation;
    return 0;
}

int virtio_load(struct virtio_dev *vd, struct state_reader *r, uint32_t version,
                struct err *err)
{
    SCOPED_LOCK(&vd->lock);
    reset_locked(vd);
    int rc = load_common(vd, r, err);
    for (unsigned i = 0; i < vd->queue_count && rc == 0; i++) {
        rc = load_queue(vd, r, i, err);
    }
    if (rc == 0 && vd->ops->load != NULL) {
        rc = vd->ops->load(vd, r, version, err);
    }
    if (rc != 0) {
        reset_locked(vd);
        return rc;
    }
    bool live =
        (vd->status & VIRTIO_S_DRIVER_OK) != 0 && (vd->status & VIRTIO_S_NEEDS_RESET) == 0;
    if (live) {
        start_queues(vd);
    }
    if (live && vd->ops->start != NULL && (vd->status & VIRTIO_S_NEEDS_RESET) == 0) {
        vd->ops->start(vd);
    }
    return 0;
}
