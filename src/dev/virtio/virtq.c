/*
 * Split virtqueues: popping chains, pushing used elements, suppression of interrupts and
 * notifications. Virtio 1.2, 2.7. Lock: the device's. Missing: the packed ring, in-order use.
 *
 * Barriers. avail.idx is read with acquire before the ring entries and descriptors; used
 * elements are written before used.idx (release). Between publishing used.idx and reading
 * used_event, and between writing avail_event and reading avail.idx again, stands a full
 * barrier: the driver does the same two in the other order, and one of both sides has to see
 * the other's store.
 */
#include "dev/virtio/virtq.h"

#include "base/bytes.h"
#include "base/ckd.h"

#include <errno.h>
#include <string.h>

#define DESC_BYTES      16
#define DESC_NEXT       1
#define DESC_WRITE      2
#define DESC_INDIRECT   4
#define AVAIL_NO_IRQ    1
#define USED_NO_NOTIFY  1
#define RING_OFF        4 /* flags and idx come first in both rings */
#define USED_ELEM_BYTES 8

struct desc {
    gpa_t addr;
    uint32_t len;
    uint16_t flags, next;
};

/* Where a table of descriptors lies: the queue's own, or an indirect one. */
struct table {
    gpa_t base;
    uint32_t count;
};

static gpa_t avail_ring(const struct virtq *vq, uint16_t index)
{
    return GPA(vq->avail.v + RING_OFF + 2ULL * (index & (vq->size - 1U)));
}

static gpa_t used_event(const struct virtq *vq)
{
    return GPA(vq->avail.v + RING_OFF + 2ULL * vq->size);
}

static gpa_t avail_event(const struct virtq *vq)
{
    return GPA(vq->used.v + RING_OFF + (uint64_t)USED_ELEM_BYTES * vq->size);
}

static int check_area(const struct virtq *vq, gpa_t at, uint64_t bytes, uint64_t align)
{
    uint8_t probe;
    uint64_t end;
    if ((at.v & (align - 1)) != 0 || !ckd_add(at.v, bytes - 1, &end)) {
        return -EPROTO;
    }
    for (uint64_t p = at.v; p <= end; p = align_down(p, MEM_PAGE_SIZE) + MEM_PAGE_SIZE) {
        if (mem_read(vq->mem, GPA(p), &probe, 1) != 0) {
            return -EFAULT;
        }
        if (p > UINT64_MAX - MEM_PAGE_SIZE) {
            break;
        }
    }
    return mem_read(vq->mem, GPA(end), &probe, 1);
}

int virtq_check(const struct virtq *vq)
{
    if (!is_pow2(vq->size) || vq->size > vq->size_max) {
        return -EPROTO;
    }
    int rc = check_area(vq, vq->desc, (uint64_t)vq->size * DESC_BYTES, DESC_BYTES);
    rc = rc != 0 ? rc : check_area(vq, vq->avail, RING_OFF + 2 + 2ULL * vq->size, 2);
    return rc != 0 ? rc
                   : check_area(vq, vq->used,
                                RING_OFF + 2 + (uint64_t)USED_ELEM_BYTES * vq->size, 4);
}

static int read_desc(const struct virtq *vq, const struct table *table, uint32_t index,
                     struct desc *ret)
{
    uint8_t raw[DESC_BYTES];
    if (index >= table->count) {
        return -EPROTO;
    }
    int rc =
        mem_read(vq->mem, GPA(table->base.v + (uint64_t)index * DESC_BYTES), raw, sizeof(raw));
    if (rc == 0) {
        *ret = (struct desc){GPA(get_le64(raw)), get_le32(raw + 8), get_le16(raw + 12),
                             get_le16(raw + 14)};
    }
    return rc;
}

/* Adds [gpa, gpa+len) to the chain, in as many pieces as it lies in slots. */
static int add_segment(const struct virtq *vq, struct virtq_chain *chain, gpa_t gpa,
                       uint64_t len, bool writable)
{
    while (len != 0) {
        unsigned n = chain->out_count + (unsigned)chain->in_count;
        uint64_t part = len;
        void *host = mem_span(vq->mem, gpa, len, writable);
        if (host == NULL) {
            const struct mem_slot *slot = mem_slot_find(vq->mem, gpa);
            if (slot == NULL) {
                return -EFAULT;
            }
            part = MIN(len, slot->size_bytes - (gpa.v - slot->base.v));
            host = mem_span(vq->mem, gpa, part, writable);
        }
        if (host == NULL) {
            return -EFAULT;
        }
        if (n >= VIRTQ_SEGS_MAX) {
            return -EPROTO;
        }
        chain->iov[n] = (struct iovec){host, part};
        chain->gpa[n] = gpa;
        if (writable) {
            chain->in_count++;
            chain->in_bytes += part;
        } else {
            chain->out_count++;
            chain->out_bytes += part;
        }
        len -= part;
        /* The last byte may be the last of the address space only if nothing is left. */
        gpa.v += part;
    }
    return 0;
}

/* Switches to an indirect table: a descriptor with INDIRECT stands alone at the end of the
 * chain. */
static int enter_indirect(const struct virtq *vq, const struct desc *d, struct table *table)
{
    bool bad = !vq->indirect || (d->flags & DESC_NEXT) != 0 || d->len == 0 ||
               d->len % DESC_BYTES != 0 || d->len / DESC_BYTES > VIRTQ_SIZE_MAX ||
               table->base.v != vq->desc.v || table->count != vq->size;
    *table = (struct table){d->addr, d->len / DESC_BYTES};
    return bad ? -EPROTO : 0;
}

static int walk(const struct virtq *vq, uint16_t head, struct virtq_chain *chain)
{
    struct table table = {vq->desc, vq->size};
    uint32_t index = head;
    uint32_t seen = 0;
    bool indirect = false;

    for (;;) {
        struct desc d;
        int rc = read_desc(vq, &table, index, &d);
        if (rc != 0) {
            return rc;
        }
        if ((d.flags & DESC_INDIRECT) != 0) {
            rc = indirect ? -EPROTO : enter_indirect(vq, &d, &table);
            if (rc != 0) {
                return rc;
            }
            indirect = true;
            index = 0;
            seen = 0;
            continue;
        }
        /* More steps than the table has entries: the chain is a loop. */
        if (++seen > table.count) {
            return -EPROTO;
        }
        bool writable = (d.flags & DESC_WRITE) != 0;
        if (!writable && chain->in_count != 0) {
            return -EPROTO; /* everything that is read comes first */
        }
        rc = add_segment(vq, chain, d.addr, d.len, writable);
        if (rc != 0) {
            return rc;
        }
        if ((d.flags & DESC_NEXT) == 0) {
            return 0;
        }
        index = d.next;
    }
}

int virtq_pop(struct virtq *vq, struct virtq_chain *chain)
{
    uint16_t idx;
    uint16_t head;

    int rc = mem_load_u16(vq->mem, GPA(vq->avail.v + 2), &idx);
    if (rc != 0) {
        return rc;
    }
    uint16_t waiting = (uint16_t)(idx - vq->next_avail);
    if (waiting == 0) {
        return 0;
    }
    if (waiting > vq->size) {
        return -EPROTO;
    }
    rc = mem_load_u16(vq->mem, avail_ring(vq, vq->next_avail), &head);
    if (rc != 0) {
        return rc;
    }
    chain->head = head;
    chain->out_count = 0;
    chain->in_count = 0;
    chain->out_bytes = 0;
    chain->in_bytes = 0;
    rc = walk(vq, head, chain);
    if (rc != 0) {
        return rc;
    }
    vq->next_avail++;
    vq->in_flight++;
    return 1;
}

void virtq_unpop(struct virtq *vq, unsigned n)
{
    vq->next_avail = (uint16_t)(vq->next_avail - n);
    vq->in_flight = (uint16_t)(vq->in_flight - n);
}

int virtq_fill(struct virtq *vq, uint16_t index, uint16_t head, uint32_t written)
{
    uint8_t elem[USED_ELEM_BYTES];
    uint64_t slot = (uint16_t)(vq->next_used + index) & (vq->size - 1U);
    put_le32(elem, head);
    put_le32(elem + 4, written);
    return mem_write(vq->mem, GPA(vq->used.v + RING_OFF + slot * USED_ELEM_BYTES), elem,
                     sizeof(elem));
}

int virtq_publish(struct virtq *vq, uint16_t count)
{
    vq->next_used = (uint16_t)(vq->next_used + count);
    vq->in_flight = (uint16_t)(vq->in_flight - count);
    return mem_store_u16(vq->mem, GPA(vq->used.v + 2), vq->next_used);
}

int virtq_push(struct virtq *vq, uint16_t head, uint32_t written)
{
    int rc = virtq_fill(vq, 0, head, written);
    return rc != 0 ? rc : virtq_publish(vq, 1);
}

bool virtq_wants_interrupt(struct virtq *vq)
{
    uint16_t value = 0;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!vq->event_idx) {
        return mem_load_u16(vq->mem, vq->avail, &value) == 0 && (value & AVAIL_NO_IRQ) == 0;
    }
    if (mem_load_u16(vq->mem, used_event(vq), &value) != 0) {
        return false;
    }
    uint16_t since = vq->signalled;
    bool first = !vq->used_valid;
    vq->signalled = vq->next_used;
    vq->used_valid = true;
    /* Did next_used step over used_event since the last interrupt? (2.7.7.2) */
    return first || (uint16_t)(vq->next_used - value - 1) < (uint16_t)(vq->next_used - since);
}

void virtq_quiet(struct virtq *vq)
{
    if (vq->running && !vq->event_idx) {
        (void)mem_store_u16(vq->mem, vq->used, USED_NO_NOTIFY);
    }
    /* With event indices a stale avail_event, behind the driver's index, has the same effect.
     */
}

bool virtq_listen(struct virtq *vq)
{
    uint16_t idx;
    if (!vq->running) {
        return false;
    }
    if (vq->event_idx) {
        (void)mem_store_u16(vq->mem, avail_event(vq), vq->next_avail);
    } else {
        (void)mem_store_u16(vq->mem, vq->used, 0);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return mem_load_u16(vq->mem, GPA(vq->avail.v + 2), &idx) == 0 && idx != vq->next_avail;
}

size_t virtq_chain_read(const struct virtq_chain *chain, uint64_t offset, void *buf, size_t len)
{
    size_t done = 0;
    for (unsigned i = 0; i < chain->out_count && done < len; i++) {
        const struct iovec *v = &chain->iov[i];
        if (offset >= v->iov_len) {
            offset -= v->iov_len;
            continue;
        }
        size_t n = MIN(len - done, v->iov_len - (size_t)offset);
        memcpy((uint8_t *)buf + done, (const uint8_t *)v->iov_base + offset, n);
        done += n;
        offset = 0;
    }
    return done;
}

size_t virtq_chain_write(struct virtq *vq, const struct virtq_chain *chain, uint64_t offset,
                         const void *buf, size_t len)
{
    size_t done = 0;
    for (unsigned i = chain->out_count; i < chain->out_count + (unsigned)chain->in_count; i++) {
        const struct iovec *v = &chain->iov[i];
        if (done == len) {
            break;
        }
        if (offset >= v->iov_len) {
            offset -= v->iov_len;
            continue;
        }
        size_t n = MIN(len - done, v->iov_len - (size_t)offset);
        memcpy((uint8_t *)v->iov_base + offset, (const uint8_t *)buf + done, n);
        mem_written(vq->mem, GPA(chain->gpa[i].v + offset), n);
        done += n;
        offset = 0;
    }
    return done;
}

void virtq_chain_written(struct virtq *vq, const struct virtq_chain *chain, uint64_t bytes)
{
    for (unsigned i = chain->out_count;
         i < chain->out_count + (unsigned)chain->in_count && bytes != 0; i++) {
        size_t n = (size_t)MIN(bytes, (uint64_t)chain->iov[i].iov_len);
        mem_written(vq->mem, chain->gpa[i], n);
        bytes -= n;
    }
}

bool virtq_chain_skip_out(struct virtq_chain *chain, uint64_t n)
{
    unsigned i = 0;
    if (n > chain->out_bytes) {
        return false;
    }
    chain->out_bytes -= n;
    while (n != 0 && n >= chain->iov[i].iov_len) {
        n -= chain->iov[i].iov_len;
        i++;
    }
    if (i != 0) {
        unsigned left = chain->out_count + (unsigned)chain->in_count - i;
        memmove(chain->iov, chain->iov + i, left * sizeof(chain->iov[0]));
        memmove(chain->gpa, chain->gpa + i, left * sizeof(chain->gpa[0]));
        chain->out_count = (uint16_t)(chain->out_count - i);
    }
    if (n != 0) {
        chain->iov[0].iov_base = (uint8_t *)chain->iov[0].iov_base + n;
        chain->iov[0].iov_len -= n;
        chain->gpa[0].v += n;
    }
    return true;
}

bool virtq_chain_cut_in_tail(struct virtq_chain *chain, unsigned n, gpa_t *ret_gpa)
{
    if (chain->in_count == 0) {
        return false;
    }
    unsigned last = chain->out_count + (unsigned)chain->in_count - 1;
    struct iovec *v = &chain->iov[last];
    if (v->iov_len < n) {
        return false;
    }
    v->iov_len -= n;
    chain->in_bytes -= n;
    ret_gpa->v = chain->gpa[last].v + v->iov_len;
    if (v->iov_len == 0) {
        chain->in_count--;
    }
    return true;
}
