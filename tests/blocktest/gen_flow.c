/*
 * The frame of a program: blocks in a loop that ends by a counter no random instruction writes,
 * joined by branches of every kind, in any order in memory; functions that they call. Inner
 * loops mask their counter, calls go to later functions only, so that a program ends whatever
 * values its registers have; returns are counted.
 */
#include "gen.h"

#include "base/ckd.h"

#include <string.h>

#define MAX_BLOCKS    8
#define MAX_FUNCTIONS 4

struct flow {
    int16_t block[MAX_BLOCKS + 1]; /* labels; the last is the tail */
    int16_t function[MAX_FUNCTIONS];
    unsigned n_blocks, n_functions, per_block;
    int inner;     /* register for inner loops, -1: none */
    unsigned fuel; /* register that counts returns */
};

void bg_some(struct bt_gen *g, unsigned n)
{
    for (; n > 0 && g->total != 0; n--) {
        unsigned x = bg_below(g, g->total), c = 0;
        while (x >= g->weight[c]) {
            x -= g->weight[c++];
        }
        bg_idiom(g, (enum bt_class)c);
    }
}

/* What the program is made of: some mix, or what was asked for with a little around it. */
static void choose_mix(struct bt_gen *g)
{
    /*                           int memop flag stack lock str sse x87 vex evex xsave smc page
     * sys fault */
    static const uint8_t mix[][BT_N_CLASSES] = {
        {30, 20, 12, 8, 3, 2, 3, 2, 2, 0, 0, 1, 1, 1, 1},
        {30, 10, 30, 10, 4, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1},
        {5, 50, 10, 20, 3, 2, 3, 0, 0, 0, 0, 1, 0, 1, 0},
        {8, 10, 3, 3, 1, 1, 40, 4, 10, 0, 0, 1, 0, 0, 1},
        {8, 10, 3, 3, 1, 1, 5, 40, 5, 0, 1, 0, 0, 0, 0},
        {6, 10, 3, 3, 1, 1, 10, 1, 40, 10, 0, 1, 0, 0, 0},
        {20, 15, 10, 5, 3, 3, 5, 2, 2, 1, 0, 20, 5, 1, 2},
        {20, 15, 10, 5, 3, 3, 5, 2, 2, 1, 0, 3, 15, 10, 3},
        {20, 15, 10, 10, 10, 10, 2, 2, 2, 1, 1, 2, 2, 10, 6},
    };
    const uint8_t *m = mix[bg_below(g, ARRAY_LEN(mix))];
    for (unsigned c = 0; c < BT_N_CLASSES; c++) {
        g->weight[c] = m[c];
        if (g->p->classes != 0) {
            g->weight[c] = g->p->classes >> c & 1 ? 20 : 0;
        }
        g->total += g->weight[c];
    }
}

static void set_rsp(struct bt_gen *g, bool fixed)
{
    uint32_t v = (uint32_t)(g->p->base + BT_VA_STACK + 0x1800) + (bg_chance(g, 10) ? 4 : 0);
    BG32(g, v, 0x48, 0xc7, 0xc4)->fixed = fixed;
}

/* CALL to a label: direct, by register, by memory. */
static void call(struct bt_gen *g, int16_t to, bool jump)
{
    unsigned r = bg_dst(g);
    uint8_t ext = jump ? 0xe0 : 0xd0;
    struct bt_item *it;
    g->cls = BT_FLOW;
    switch (bg_below(g, jump ? 3 : 6)) {
    case 0: /* by register */
        bg_group(g);
        it = BG32(g, 0, 0x48 | r >> 3 << 2, 0x8d, 0x05 | (r & 7) << 3);
        it->fix = FIX_REL32;
        it->fix_at = 3;
        it->label = to;
        bg_wrote(g, r);
        BG(g, 0x40 | r >> 3, 0xff, ext | (r & 7));
        bg_ungroup(g);
        break;
    case 1: /* by the other name of the pages */
        bg_group(g);
        it = BG(g, 0x48 | r >> 3, 0xc7, 0xc0 | (r & 7), 0, 0, 0, 0);
        it->fix = FIX_ABS32;
        it->fix_at = 3;
        it->label = to;
        it->window = bg_chance(g, 50) ? BT_ALIAS_X : 0;
        bg_wrote(g, r);
        BG(g, 0x40 | r >> 3, 0xff, ext | (r & 7));
        bg_ungroup(g);
        break;
    case 2: { /* by memory: the pointer lies behind a jump, or behind this one */
        int16_t pointer = bg_label(g), after = bg_label(g);
        bg_group(g);
        it = BG32(g, 0, 0xff, jump ? 0x25 : 0x15);
        it->fix = FIX_REL32;
        it->fix_at = 2;
        it->label = pointer;
        if (!jump) {
            bg_jump(g, after);
        }
        bg_bind(g, pointer);
        it = BG(g, 0, 0, 0, 0, 0, 0, 0, 0);
        it->fix = FIX_ABS64;
        it->label = to;
        it->data = true;
        bg_bind(g, after);
        bg_ungroup(g);
        break;
    }
    default:
        it = BG32(g, 0, 0xe8);
        it->fix = FIX_REL32;
        it->fix_at = 1;
        it->label = to;
        break;
    }
    g->known &= g->reserved;
}

/* JMP through a table of labels by a masked register. */
static void table_jump(struct bt_gen *g, const int16_t *to, unsigned n)
{
    int16_t table = bg_label(g);
    unsigned r = bg_dst(g);
    g->cls = BT_FLOW;
    bg_group(g);
    BG(g, 0x48 | r >> 3, 0x83, 0xe0 | (r & 7), 3);
    bg_wrote(g, r);
    struct bt_item *it = BG32(g, 0, 0x40 | r >> 3 << 1, 0xff, 0x24, 0xc5 | (r & 7) << 3);
    if ((r & 15) == 4) {
        it->gone = true; /* RSP is no index; RSP is never chosen */
    }
    it->fix = FIX_ABS32;
    it->fix_at = 4;
    it->label = table;
    bg_bind(g, table);
    for (unsigned i = 0; i < 4; i++) {
        it = BG(g, 0, 0, 0, 0, 0, 0, 0, 0);
        it->fix = FIX_ABS64;
        it->label = to[bg_below(g, n)];
        it->data = true;
    }
    bg_ungroup(g);
}

static void body(struct bt_gen *g, const struct flow *f, unsigned n)
{
    while (n > 0 && g->bytes < 7000) {
        unsigned k = 1 + bg_below(g, MIN(n, 6u));
        bg_some(g, k);
        n -= k;
        if (n > 0 && f->n_functions != 0 && bg_chance(g, 8)) {
            call(g, f->function[bg_below(g, f->n_functions)], false);
        }
    }
}

static void inner_loop(struct bt_gen *g, const struct flow *f, unsigned n)
{
    unsigned r = (unsigned)f->inner;
    int16_t again = bg_label(g);
    bg_mov(g, r, 2 + bg_below(g, 6));
    g->known &= ~(1u << r);
    bg_bind(g, again);
    body(g, f, n);
    g->cls = BT_FLOW;
    bg_group(g);
    BG(g, 0x48 | r >> 3, 0xff, 0xc8 | (r & 7));
    BG(g, 0x48 | r >> 3, 0x83, 0xe0 | (r & 7), 7);
    bg_branch(g, 5, again);
    bg_ungroup(g);
}

static void block(struct bt_gen *g, const struct flow *f, unsigned b)
{
    const int16_t *later = &f->block[b + 1];
    unsigned n_later = f->n_blocks - b;
    bg_bind(g, f->block[b]);
    if (bg_chance(g, 15)) { /* so that an instruction crosses into the next page */
        struct bt_item *it = BG(g, 0x90);
        it->pad_before = true;
        it->pad = (uint16_t)(4096 - 1 - bg_below(g, 60));
    }
    if (f->inner >= 0 && bg_chance(g, 40)) {
        inner_loop(g, f, f->per_block);
    } else {
        body(g, f, f->per_block);
    }
    if (f->n_functions != 0 && bg_chance(g, 50)) {
        call(g, f->function[bg_below(g, f->n_functions)], false);
    }
    g->cls = BT_FLOW;
    int16_t to = later[bg_below(g, n_later)];
    switch (bg_below(g, 6)) {
    case 0:
    case 1: bg_branch(g, bg_below(g, 16), to); break;
    case 2: bg_jump(g, to); break;
    case 3: call(g, to, true); break;
    case 4: table_jump(g, later, n_later); break;
    default: break;
    }
    bg_jump(g, later[0])->fixed = true;
}

/*
 * A return may go anywhere that the stack says, back to its own function too. So returns are
 * counted, in RCX without touching the flags.
 */
static void count_return(struct bt_gen *g, const struct flow *f)
{
    unsigned r = f->fuel;
    if (r == 1) {
        BG(g, 0xe3, 6)->fixed = true;                /* JRCXZ to the JMP */
        BG(g, 0x48, 0x8d, 0x49, 0xff)->fixed = true; /* LEA rcx, [rcx - 1] */
        BG(g, 0xeb, 5)->fixed = true;
        struct bt_item *it = bg_jump(g, f->block[f->n_blocks]);
        it->fixed = it->grown = true;
    } else {
        BG(g, 0x48 | r >> 3, 0xff, 0xc8 | (r & 7))->fixed = true;
        bg_branch(g, 8, f->block[f->n_blocks])->fixed = true;
    }
}

static void functions(struct bt_gen *g, const struct flow *f)
{
    for (unsigned i = 0; i < f->n_functions; i++) {
        struct flow later = {.n_functions = f->n_functions - i - 1, .inner = -1};
        memcpy(later.function, f->function + i + 1, sizeof(int16_t) * later.n_functions);
        if (bg_chance(g, 40)) {
            struct bt_item *it = BG(g, 0xcc);
            it->fixed = it->pad_before = true;
            it->pad = (uint16_t)(4096 - 1 - bg_below(g, 30));
        }
        bg_bind(g, f->function[i]);
        body(g, &later, 1 + bg_below(g, 8));
        g->cls = BT_FLOW;
        count_return(g, f);
        if (bg_chance(g, 85)) {
            BG(g, 0xc3)->fixed = true;
        } else if (bg_chance(g, 50)) {
            BG(g, 0xc2, 8, 0)->fixed = true;
        } else {
            BG(g, 0xf3, 0xc3)->fixed = true;
        }
    }
}

static void tail(struct bt_gen *g, int16_t head)
{
    unsigned r = g->p->counter;
    set_rsp(g, true);
    if (g->p->counter_in_memory) {
        uint32_t at = (uint32_t)(g->p->base + BT_VA_CODE + BT_ALIAS_W + 0x3ff0);
        BG32(g, at, 0x48, 0xff, 0x0c, 0x25)->fixed = true;
    } else {
        BG(g, 0x48 | r >> 3, 0xff, 0xc8 | (r & 7))->fixed = true;
    }
    bg_branch(g, 5, head)->fixed = true;
    BG(g, 0xcd, BT_VEC_END)->fixed = true;
    BG(g, 0xcc)->fixed = true;
}

static void choose(struct bt_gen *g, struct flow *f)
{
    struct bt_program *p = g->p;
    unsigned r = bg_below(g, 100);
    p->loops = r < 60   ? 3 + bg_below(g, 8)
               : r < 92 ? 8 + bg_below(g, 40)
                        : 40 + bg_below(g, 160);
    if (p->async) {
        p->loops *= 4;
    }
    p->counter_in_memory = bg_chance(g, 15);
    p->counter = (uint8_t)bg_below(g, 15);
    p->counter = p->counter == 4 ? 15 : p->counter;
    g->reserved = 1u << 4 | (p->counter_in_memory ? 0 : 1u << p->counter);
    f->inner = -1;
    if (bg_chance(g, 50)) {
        f->inner = (int)bg_dst(g);
        g->reserved |= 1u << f->inner;
    }
    f->n_blocks = 1 + bg_below(g, MAX_BLOCKS);
    f->n_functions = bg_chance(g, 70) ? bg_below(g, MAX_FUNCTIONS + 1) : 0;
    if (f->n_functions != 0) {
        do {
            f->fuel = !(g->reserved & 2) && bg_chance(g, 40) ? 1 : bg_dst(g);
        } while (f->fuel == 0);
        g->reserved |= 1u << f->fuel;
        p->fuel = (uint8_t)f->fuel;
    }
    f->per_block = bg_chance(g, 80) ? 3 + bg_below(g, 12) : 3 + bg_below(g, 38);
}

/* Pointers into the data that stay for the whole program. */
static void pin(struct bt_gen *g)
{
    for (unsigned n = bg_below(g, 3); n > 0; n--) {
        unsigned r = bg_dst(g);
        g->cls = BT_FLOW;
        bg_mov(g, r, g->p->base + BT_VA_DATA + 64 + bg_below(g, 2 * 4096));
        g->reserved |= 1u << r;
    }
}

void bg_program(struct bt_gen *g)
{
    struct flow f = {0};
    uint8_t order[MAX_BLOCKS];
    choose(g, &f);
    choose_mix(g);
    for (unsigned i = 0; i < f.n_blocks; i++) {
        f.block[i] = bg_label(g);
        order[i] = (uint8_t)i;
    }
    int16_t end = bg_label(g), head = bg_label(g);
    f.block[f.n_blocks] = g->p->tail = end;
    for (unsigned i = 0; i < f.n_functions; i++) {
        f.function[i] = bg_label(g);
    }
    g->cls = BT_FLOW;
    bg_bind(g, head);
    if (bg_chance(g, 30)) {
        set_rsp(g, false);
    }
    pin(g);
    bg_jump(g, f.block[0])->fixed = true;
    bool shuffled = bg_chance(g, 50), functions_first = bg_chance(g, 50);
    for (unsigned i = f.n_blocks; shuffled && i > 1; i--) {
        unsigned j = bg_below(g, i);
        uint8_t t = order[i - 1];
        order[i - 1] = order[j];
        order[j] = t;
    }
    if (functions_first) {
        functions(g, &f);
    }
    for (unsigned i = 0; i < f.n_blocks; i++) {
        block(g, &f, order[i]);
    }
    g->cls = BT_FLOW;
    bg_bind(g, end);
    tail(g, head);
    if (!functions_first) {
        functions(g, &f);
    }
}
