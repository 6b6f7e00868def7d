/*
 * Makes a program smaller while it still differs: first leaves items out by halves, quarters
 * and so on down to one, and jumps to what follows, then turns into NOPs those whose length
 * matters, then lowers the number of loops.
 */
#include "blocktest.h"

#include "base/clock.h"

#include <stdlib.h>

#define MAX_NS UINT64_C(40000000000)

struct shrink {
    struct bt_program *p;
    bt_differs_fn *differs;
    void *opaque;
    int16_t unit[BT_MAX_ITEMS]; /* of each item, -1: stays */
    int n_units;
    uint64_t until;
};

static void find_units(struct shrink *s)
{
    uint16_t group = 0;
    s->n_units = 0;
    for (unsigned i = 0; i < s->p->n_items; i++) {
        struct bt_item *it = &s->p->items[i];
        s->unit[i] = -1;
        if (it->fixed || it->gone || it->nop) {
            group = 0;
            continue;
        }
        if (it->group == 0 || it->group != group) {
            s->n_units++;
        }
        group = it->group;
        s->unit[i] = (int16_t)(s->n_units - 1);
    }
}

static void set(struct shrink *s, int from, int to, bool nop, bool on)
{
    for (unsigned i = 0; i < s->p->n_items; i++) {
        if (s->unit[i] >= from && s->unit[i] < to && s->unit[i] >= 0) {
            if (nop) {
                s->p->items[i].nop = on;
            } else {
                s->p->items[i].gone = on;
            }
        }
    }
}

static bool still(struct shrink *s)
{
    return bt_layout(s->p) && s->differs(s->p, s->opaque);
}

static bool drop(struct shrink *s, bool nop)
{
    bool any = false;
    find_units(s);
    for (int n = s->n_units / 2 > 0 ? s->n_units / 2 : 1; n >= 1; n /= 2) {
        for (int at = 0; at < s->n_units; at += n) {
            if (clock_now_ns() > s->until) {
                return false;
            }
            set(s, at, at + n, nop, true);
            if (still(s)) {
                any = true;
            } else {
                set(s, at, at + n, nop, false);
            }
        }
        if (any) {
            find_units(s);
        }
    }
    return any;
}

/* Jumps to the next instruction hold the frame of a program together no more. */
static void drop_jumps(struct shrink *s)
{
    for (unsigned i = 0; i < s->p->n_items && clock_now_ns() < s->until; i++) {
        struct bt_item *it = &s->p->items[i];
        unsigned next = i + 1;
        if (it->fix != FIX_BRANCH || it->cond != 16 || it->gone) {
            continue;
        }
        unsigned to = (unsigned)s->p->labels[it->label];
        while (next < to && s->p->items[next].gone) {
            next++;
        }
        if (next == to) {
            it->gone = true;
            it->gone = still(s);
        }
    }
}

void bt_shrink(struct bt_program *p, bt_differs_fn *differs, void *opaque)
{
    struct shrink *s = calloc(1, sizeof(*s));
    if (s == NULL) {
        return;
    }
    *s = (struct shrink){
        .p = p, .differs = differs, .opaque = opaque, .until = clock_now_ns() + MAX_NS};
    while (drop(s, false)) {
    }
    drop_jumps(s);
    while (drop(s, false)) {
    }
    drop(s, true);
    for (unsigned n = p->loops; n > 1 && clock_now_ns() < s->until;) {
        unsigned was = p->loops;
        n /= 2;
        p->loops = n;
        if (!p->counter_in_memory) {
            p->init.gpr[p->counter] = n;
        }
        if (!still(s)) {
            p->loops = was;
            if (!p->counter_in_memory) {
                p->init.gpr[p->counter] = was;
            }
            break;
        }
    }
    bt_layout(p);
    free(s);
}
