/*
 * Short sequences as compilers, kernels and nasty programs write them: runs of loads and stores
 * by one base, flags that live across memory accesses, the stack, atomics, self-modifying code,
 * page table changes, system instructions, faults.
 */
#include "gen.h"

#include "base/ckd.h"

#include <string.h>

static const uint8_t none[1];

static uint8_t byte(struct bt_gen *g)
{
    return (uint8_t)bg_rnd(g);
}

/* The size of an operation: prefix 66, REX.W, or 32 bits. */
static void any_size(struct bt_gen *g, uint8_t *ret_prefix, bool *ret_w)
{
    unsigned r = bg_below(g, 10);
    *ret_prefix = r == 0 ? 0x66 : 0;
    *ret_w = r >= 5;
}

/* ---- memop ---- */

static void memop(struct bt_gen *g)
{
    static const uint8_t load[] = {0x8b, 0x8b, 0x8b, 0x03, 0x33, 0x23, 0x0b, 0x2b, 0x63, 0x8a};
    static const uint8_t store[] = {0x89, 0x89, 0x89, 0x01, 0x31, 0x29, 0x88, 0x87, 0x11, 0x19};
    static const uint8_t only_flags[] = {0x39, 0x3b, 0x85, 0x38, 0x3a, 0x84};
    static const uint8_t zx[] = {0xb6, 0xb7, 0xbe, 0xbf};
    uint8_t prefix, op[2], imm[4];
    bool w;
    any_size(g, &prefix, &w);
    unsigned dst = bg_dst(g);
    switch (bg_below(g, 10)) {
    case 0:
    case 1:
    case 2:
    case 3:
        op[0] = load[bg_below(g, sizeof(load))];
        if (op[0] == 0x8a && (g->reserved >> (dst & 3) & 1)) {
            op[0] = 0x8b; /* without REX it may write AH to BH */
        }
        bg_mem(g, prefix, w, op, 1, dst, none, 0);
        bg_wrote(g, dst);
        if (op[0] == 0x8a) {
            bg_wrote(g, dst & 3);
        }
        break;
    case 4:
    case 5:
    case 6:
        op[0] = store[bg_below(g, sizeof(store))];
        bg_mem(g, prefix, w, op, 1, op[0] == 0x87 ? dst : bg_reg(g), none, 0);
        bg_wrote(g, op[0] == 0x87 ? dst : 4);
        break;
    case 7:
        op[0] = only_flags[bg_below(g, sizeof(only_flags))];
        bg_mem(g, prefix, w, op, 1, bg_reg(g), none, 0);
        break;
    case 8:
        op[0] = 0x0f;
        op[1] = zx[bg_below(g, 4)];
        bg_mem(g, prefix, w, op, 2, dst, none, 0);
        bg_wrote(g, dst);
        break;
    default:
        op[0] = bg_chance(g, 50) ? 0x83 : 0xc6;
        imm[0] = byte(g);
        bg_mem(g, prefix, w, op, 1, op[0] == 0x83 ? bg_below(g, 8) : 0, imm, 1);
        break;
    }
}

static void memop_run(struct bt_gen *g)
{
    for (unsigned n = 1 + bg_below(g, 6); n > 0; n--) {
        memop(g);
    }
}

/* ---- flags ---- */

static void producer(struct bt_gen *g)
{
    static const uint8_t alu[] = {0x01, 0x29, 0x39, 0x31, 0x21, 0x09, 0x03, 0x2b, 0x3b, 0x85};
    uint8_t prefix, op[2];
    bool w;
    any_size(g, &prefix, &w);
    op[0] = alu[bg_below(g, sizeof(alu))];
    bool compares = op[0] == 0x39 || op[0] == 0x3b || op[0] == 0x85;
    unsigned a = bg_dst(g), b = compares || bg_chance(g, 20) ? a : bg_dst(g);
    switch (bg_below(g, 6)) {
    case 0:
        bg_mem(g, prefix, w, op, 1, a, none, 0);
        bg_wrote(g, a);
        break;
    case 1: /* INC, DEC: CF stays */
        op[0] = 0xff;
        bg_rr(g, prefix, w, op, 1, bg_below(g, 2), a);
        bg_wrote(g, a);
        break;
    case 2: { /* shifts, count 0 among them */
        op[0] = bg_chance(g, 50) ? 0xd3 : 0xd1;
        bg_rr(g, prefix, w, op, 1, bg_below(g, 8), a);
        bg_wrote(g, a);
        bg_define_flags(g, op[0] == 0xd3 ? 0x810 : 0x10);
        break;
    }
    case 3:
        op[0] = 0x0f;
        op[1] = 0xaf; /* IMUL */
        bg_rr(g, prefix, w, op, 2, a, bg_reg(g));
        bg_wrote(g, a);
        bg_define_flags(g, 0xd4);
        break;
    default:
        bg_rr(g, prefix, w, op, 1, a, b);
        bg_wrote(g, a);
        bg_wrote(g, b);
        break;
    }
}

/* LOOP, LOOPE, LOOPNE, JRCXZ over something. */
static void loop(struct bt_gen *g)
{
    if (g->reserved & 2) {
        return;
    }
    bg_group(g);
    if (bg_chance(g, 70)) {
        bg_mov(g, 1, bg_below(g, 3));
    }
    uint32_t known = g->known & ~2u;
    struct bt_item *it = BG(g, 0xe0 + bg_below(g, 4), 0);
    unsigned from = g->bytes;
    memop(g);
    it->bytes[1] = (uint8_t)(g->bytes - from);
    bg_ungroup(g);
    g->known &= known;
}

/* Leaves the flags alone. */
static void neutral(struct bt_gen *g)
{
    static const uint8_t mov[] = {0x89, 0x8b, 0x89, 0x8b, 0x63};
    uint8_t prefix, op[2];
    bool w;
    any_size(g, &prefix, &w);
    unsigned r = bg_dst(g);
    switch (bg_below(g, 6)) {
    case 0:
        bg_group(g); /* PUSH, POP */
        if (r > 7) {
            BG(g, 0x41, 0x50 | (r & 7));
        } else {
            BG(g, 0x50 | r);
        }
        r = bg_dst(g);
        BG(g, 0x40 | r >> 3, 0x58 | (r & 7));
        bg_wrote(g, r);
        bg_ungroup(g);
        break;
    case 1:
        op[0] = 0x0f;
        op[1] = bg_chance(g, 50) ? 0x10 : 0x11; /* MOVUPS */
        bg_mem(g, 0, false, op, 2, bg_below(g, 16), none, 0);
        break;
    case 2:
        op[0] = 0x8d;
        bg_mem(g, prefix, w, op, 1, r, none, 0);
        bg_wrote(g, r);
        break;
    default:
        op[0] = mov[bg_below(g, sizeof(mov))];
        bg_mem(g, prefix, w, op, 1, r, none, 0);
        bg_wrote(g, r);
        break;
    }
}

static void consumer(struct bt_gen *g)
{
    uint8_t prefix, op[2] = {0x0f, 0};
    bool w;
    any_size(g, &prefix, &w);
    unsigned cc = bg_below(g, 16), r = bg_dst(g);
    switch (bg_below(g, 12)) {
    case 0:
        op[1] = (uint8_t)(0x90 | cc);
        bg_mem(g, 0, false, op, 2, 0, none, 0);
        break;
    case 1:
        op[1] = (uint8_t)(0x90 | cc);
        bg_rr(g, 0, true, op, 2, 0, r);
        bg_wrote(g, r);
        break;
    case 2:
        op[1] = (uint8_t)(0x40 | cc);
        bg_mem(g, prefix, w, op, 2, r, none, 0);
        bg_wrote(g, r);
        break;
    case 3:
        op[1] = (uint8_t)(0x40 | cc);
        bg_rr(g, prefix, w, op, 2, r, bg_reg(g));
        bg_wrote(g, r);
        break;
    case 4:
        op[0] = bg_chance(g, 50) ? 0x13 : 0x1b; /* ADC, SBB */
        bg_mem(g, prefix, w, op, 1, r, none, 0);
        bg_wrote(g, r);
        break;
    case 5:
        op[0] = bg_chance(g, 50) ? 0x11 : 0x19;
        bg_rr(g, prefix, w, op, 1, bg_reg(g), r);
        bg_wrote(g, r);
        break;
    case 6:
        op[0] = 0xd1; /* RCL, RCR */
        bg_rr(g, prefix, w, op, 1, 2 + bg_below(g, 2), r);
        bg_wrote(g, r);
        break;
    case 7:
        if (!(g->reserved & 1)) {
            BG(g, 0x9f); /* LAHF */
            bg_wrote(g, 0);
        }
        break;
    case 8:
        bg_group(g);
        BG(g, 0x9c);
        BG(g, 0x40 | r >> 3, 0x58 | (r & 7));
        bg_wrote(g, r);
        bg_ungroup(g);
        break;
    case 9: BG(g, 0xf5); break; /* CMC */
    case 10: loop(g); break;
    default: {
        int16_t l = bg_label(g);
        bg_branch(g, cc, l);
        memop(g);
        bg_bind(g, l);
        break;
    }
    }
}

static void flags(struct bt_gen *g)
{
    producer(g);
    for (unsigned n = bg_below(g, 4); n > 0; n--) {
        neutral(g);
    }
    for (unsigned n = 1 + bg_below(g, 2); n > 0; n--) {
        consumer(g);
    }
}

/* ---- the stack ---- */

static void popf(struct bt_gen *g)
{
    uint32_t f = (uint32_t)bg_rnd(g) & 0x8d5;
    unsigned r = bg_below(g, 100);
    f |= r < 10 ? 0x400u : r < 16 ? 0x100u : r < 20 ? 0x4000u : r < 24 ? 0x40000u : 0;
    f |= bg_chance(g, 70) || g->p->user ? 0x200 : 0;
    f |= g->p->smap && bg_chance(g, 80) ? 0x40000 : 0;
    f |= bg_chance(g, 5) ? 0x3000 : 0;
    f |= bg_chance(g, 5) ? (uint32_t)bg_rnd(g) & 0x230000 : 0; /* RF, VM, ID */
    bg_group(g);
    BG32(g, f, 0x68);
    BG(g, 0x9d);
    bg_ungroup(g);
    if (f & 0x100) {
        memop(g); /* the trap comes behind an instruction that defines all flags */
    }
    if (f & 0x400) {
        bg_some(g, 1);
        BG(g, 0xfc);
    }
}

/* A call over some code, its return address taken or used. */
static void call_pop(struct bt_gen *g)
{
    int16_t l = bg_label(g);
    unsigned r = bg_dst(g);
    struct bt_item *it = BG32(g, 0, 0xe8);
    it->fix = FIX_REL32;
    it->fix_at = 1;
    it->label = l;
    bg_bind(g, l);
    if (bg_chance(g, 50)) {
        BG(g, 0x40 | r >> 3, 0x58 | (r & 7));
        bg_wrote(g, r);
    } else {
        BG(g, 0x48, 0x83, 0xc4, 0x08);
    }
}

/* A return that is a jump: no call before it. */
static void push_ret(struct bt_gen *g)
{
    int16_t l = bg_label(g);
    unsigned r = bg_dst(g);
    bg_group(g);
    struct bt_item *it = BG(g, 0x48, 0x8d, 0x05 | (r & 7) << 3, 0, 0, 0, 0);
    it->bytes[0] |= (uint8_t)(r >> 3 << 2);
    it->fix = FIX_REL32;
    it->fix_at = 3;
    it->label = l;
    BG(g, 0x40 | r >> 3, 0x50 | (r & 7));
    BG(g, 0xc3);
    bg_ungroup(g);
    bg_wrote(g, r);
    if (bg_chance(g, 50)) {
        memop(g);
    }
    bg_bind(g, l);
}

static void stack(struct bt_gen *g)
{
    unsigned r = bg_dst(g), s = bg_reg(g);
    uint8_t op[2] = {0xff, 0};
    uint8_t n = (uint8_t)(bg_below(g, 6) * 8);
    switch (bg_below(g, 14)) {
    case 0:
    case 1: BG(g, 0x40 | s >> 3, 0x50 | (s & 7)); break;
    case 2:
        if (r < 8) {
            BG(g, 0x58 | r);
        } else {
            BG(g, 0x41, 0x58 | (r & 7));
        }
        bg_wrote(g, r);
        break;
    case 3:
        BG(g, 0x66, 0x50 | (s & 7));
        BG(g, 0x66, 0x40 | r >> 3, 0x58 | (r & 7));
        bg_wrote(g, r);
        break;
    case 4: BG(g, 0x6a, byte(g)); break;
    case 5: bg_mem(g, 0, false, op, 1, 6, none, 0); break; /* PUSH [m] */
    case 6:
        op[0] = 0x8f;
        bg_mem(g, 0, false, op, 1, 0, none, 0);
        break;
    case 7:
        BG(g, 0x48, 0x83, 0xec, n);
        bg_some(g, 1);
        BG(g, 0x48, 0x83, 0xc4, n);
        break;
    case 8:
        BG(g, 0x48, 0x8d, 0x64, 0x24, (uint8_t)-n);
        BG(g, 0x48, 0x89, 0x44 | (s & 7) << 3, 0x24, n);
        break;
    case 9: popf(g); break;
    case 10: call_pop(g); break;
    case 11: push_ret(g); break;
    case 12: BG(g, 0x48 | r >> 3 << 2, 0x87, 0x04 | (r & 7) << 3, 0x24), bg_wrote(g, r); break;
    default: bg_form(g, BT_STACK); break;
    }
}

/* ---- atomics ---- */

static void lock(struct bt_gen *g)
{
    static const uint8_t rmw[] = {0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x00};
    unsigned r = bg_dst(g);
    uint8_t op[2] = {0x0f, 0xb1}, imm = byte(g);
    int32_t disp;
    unsigned base;
    bool w = bg_chance(g, 50);
    uint8_t rex;
    switch (bg_below(g, 6)) {
    case 0: /* CMPXCHG that often succeeds */
    case 1:
        base = bg_base(g, &disp);
        if ((base & 7) == 4 || base == 0 || (g->reserved & 1)) {
            break;
        }
        rex = (uint8_t)(0x40 | w << 3 | base >> 3);
        BG32(g, (uint32_t)disp, rex, 0x8b, 0x80 | (base & 7));
        bg_wrote(g, 0);
        if (bg_chance(g, 30)) {
            memop(g);
        }
        BG32(g, (uint32_t)disp, 0xf0, rex | (r & 8) >> 1, 0x0f, 0xb1,
             0x80 | (r & 7) << 3 | (base & 7));
        bg_wrote(g, 0);
        break;
    case 2: { /* CMPXCHG8B, 16B */
        uint64_t t = bg_target(g) & ~UINT64_C(15);
        if (g->reserved & 0xf) {
            break;
        }
        BG32(g, (uint32_t)t, 0x40 | w << 3, 0x8b, 0x04, 0x25);
        BG32(g, (uint32_t)t + (w ? 8 : 4), 0x40 | w << 3, 0x8b, 0x14, 0x25);
        bg_wrote(g, 0);
        bg_wrote(g, 2);
        t += bg_chance(g, 5) ? 8 : 0;
        if (bg_chance(g, 70)) {
            BG32(g, (uint32_t)t, 0xf0, 0x40 | w << 3, 0x0f, 0xc7, 0x0c, 0x25);
        } else {
            BG32(g, (uint32_t)t, 0x40 | w << 3, 0x0f, 0xc7, 0x0c, 0x25);
        }
        break;
    }
    case 3:
        op[1] = bg_chance(g, 60) || (g->reserved >> (r & 3) & 1) ? 0xc1 : 0xc0; /* XADD */
        bg_mem(g, 0xf0, w, op, 2, r, none, 0);
        bg_wrote(g, r);
        bg_wrote(g, r & 3);
        break;
    case 4:
        op[0] = rmw[bg_below(g, 8)];
        bg_mem(g, 0xf0, w, op, 1, bg_reg(g), none, 0);
        break;
    default:
        op[1] = 0xba; /* BTS and so on, imm */
        bg_mem(g, 0xf0, w, op, 2, 5 + bg_below(g, 3), &imm, 1);
        bg_define_flags(g, 0x8d4 & ~0x40u);
        break;
    }
}

/* ---- self-modifying code ---- */

static struct bt_item *patch(struct bt_gen *g, struct bt_item *it, unsigned at, unsigned how)
{
    it->fix = FIX_PATCH;
    it->fix_at = (uint8_t)at;
    it->cond = (uint8_t)how;
    it->window = bg_chance(g, g->p->code_writable ? 60 : 95) ? BT_ALIAS_W
                 : bg_chance(g, 70)                          ? 0
                                                             : BT_ALIAS_X;
    return it;
}

static void modify(struct bt_gen *g)
{
    unsigned r = bg_dst(g), x = bg_below(g, 8);
    switch (bg_below(g, 8)) {
    case 0:
    case 1:
    case 2: patch(g, BG(g, 0xc6, 0x04, 0x25, 0, 0, 0, 0, byte(g)), 3, 1); break;
    case 3: patch(g, BG(g, 0xfe, 0x04, 0x25, 0, 0, 0, 0), 3, 2); break;
    case 4: patch(g, BG(g, 0xf0, 0x80, 0x34, 0x25, 0, 0, 0, 0, byte(g) & 0x3f), 4, 2); break;
    case 5: /* the same again, in one go */
        bg_group(g);
        BG(g, 0x0f, 0x10, 0x04 | x << 3, 0x25, 0, 0, 0, 0);
        struct bt_item *ld = &g->p->items[g->p->n_items - 1];
        patch(g, ld, 4, 3);
        patch(g, BG(g, 0x0f, 0x11, 0x04 | x << 3, 0x25, 0, 0, 0, 0), 4, 3);
        bg_ungroup(g);
        break;
    case 6: /* a word, unaligned, that reaches into the next instruction */
        bg_group(g);
        patch(g, BG(g, 0x48 | r >> 3 << 2, 0x8b, 0x04 | (r & 7) << 3, 0x25, 0, 0, 0, 0), 4, 4);
        ld = &g->p->items[g->p->n_items - 1];
        BG(g, 0x48 | r >> 3, 0x83, 0xf0 | (r & 7), byte(g) & 0x1f);
        struct bt_item *st =
            BG(g, 0x48 | r >> 3 << 2, 0x89, 0x04 | (r & 7) << 3, 0x25, 0, 0, 0, 0);
        patch(g, st, 4, 4);
        bg_ungroup(g);
        bg_wrote(g, r);
        break;
    default: /* REP MOVSB of code onto itself, by the other name */
        if (!(g->reserved & 0xc2)) {
            bg_group(g);
            patch(g, BG(g, 0xbe, 0, 0, 0, 0), 1, 3);
            patch(g, BG(g, 0xbf, 0, 0, 0, 0), 1, 3);
            BG32(g, 1 + bg_below(g, 40), 0xb9);
            BG(g, 0xfc);
            BG(g, 0xf3, 0xa4);
            bg_ungroup(g);
            bg_wrote(g, 1);
            bg_wrote(g, 6);
            bg_wrote(g, 7);
        }
        break;
    }
}

/* ---- page tables ---- */

static bool kernel(const struct bt_gen *g)
{
    return !g->p->user;
}

static void pages(struct bt_gen *g)
{
    unsigned i = bg_below(g, 16);
    if (g->reserved & 0x81) {
        return;
    }
    bg_wrote(g, 0);
    bg_wrote(g, 7);
    bg_group(g);
    switch (bg_below(g, kernel(g) ? 6 : 3)) {
    case 0:
    case 1:
        BG32(g, i, 0xbf);
        BG(g, 0xcd, BT_VEC_CHANGE);
        break;
    case 2:
        BG32(g, i, 0xbf);
        BG(g, 0xcd, BT_VEC_CR3);
        break;
    case 3: /* the same without a call */
        BG32(g, BT_VA_SYS + BT_VARS + BT_V_CHANGES + i * 24 + 8, 0x48, 0x8b, 0x04, 0x25);
        BG32(g, (uint32_t)(BT_VA_SYS + g->p->changes[i].pte), 0x48, 0x89, 0x04, 0x25);
        BG32(g, (uint32_t)g->p->changes[i].va, 0x0f, 0x01, 0x3c, 0x25);
        break;
    case 4:
        BG(g, 0x0f, 0x20, 0xd8);
        BG(g, 0x0f, 0x22, 0xd8);
        break;
    default: BG32(g, (uint32_t)bg_target(g), 0x0f, 0x01, 0x3c, 0x25); break;
    }
    bg_ungroup(g);
}

/* ---- system instructions ---- */

static void clock_or_id(struct bt_gen *g)
{
    if (g->reserved & 0xf) {
        return;
    }
    bg_group(g);
    switch (bg_below(g, 3)) {
    case 0:
        BG(g, 0x0f, 0x31);
        BG32(g, 0, 0xb8);
        BG32(g, 0, 0xba);
        break;
    case 1:
        BG32(g, bg_below(g, 2) * 7, 0xb8);
        BG32(g, 0, 0xb9);
        BG(g, 0x0f, 0xa2);
        BG32(g, 1, 0xbb); /* the APIC id comes from elsewhere */
        break;
    default:
        BG32(g, 0, 0xb9);
        BG(g, 0x0f, 0x01, 0xd0); /* XGETBV */
        break;
    }
    bg_ungroup(g);
    for (unsigned r = 0; r < 4; r++) {
        bg_wrote(g, r);
    }
}

static void of_kernel(struct bt_gen *g)
{
    unsigned r = bg_dst(g);
    switch (bg_below(g, 9)) {
    case 0: BG(g, 0x0f, 0x01, 0xca); break; /* CLAC */
    case 1: BG(g, 0x0f, 0x01, 0xcb); break; /* STAC */
    case 2: BG(g, 0xfa); break;
    case 3: BG(g, 0xfb); break;
    case 4: BG(g, 0x0f, 0x01, 0xf8); break; /* SWAPGS */
    case 5:
        BG(g, 0x40 | r >> 3, 0x0f, 0x20, 0xc0 | bg_below(g, 2) * 0x20 | (r & 7));
        bg_wrote(g, r);
        break;
    case 6:
        if (!(g->reserved & 7)) { /* RDMSR, WRMSR of FS base, kernel GS base */
            bg_group(g);
            BG32(g, bg_chance(g, 50) ? 0xc0000100 : 0xc0000102, 0xb9);
            BG(g, 0x0f, 0x32);
            if (bg_chance(g, 70)) {
                BG(g, 0x83, 0xf0, byte(g) & 0x7f);
                BG(g, 0x0f, 0x30);
            }
            bg_ungroup(g);
            bg_wrote(g, 0), bg_wrote(g, 1), bg_wrote(g, 2);
        }
        break;
    case 7: BG(g, 0xe6, 0x80); break;
    default:
        if (!(g->reserved & 1)) {
            BG(g, 0xe4, 0x80);
            bg_wrote(g, 0);
        }
        break;
    }
}

static void syscall(struct bt_gen *g)
{
    if (!(g->reserved & 0x802)) {
        BG(g, 0x0f, 0x05);
        bg_wrote(g, 1);
        bg_wrote(g, 11);
    }
}

static void sys(struct bt_gen *g)
{
    unsigned r = bg_dst(g);
    switch (bg_below(g, 9)) {
    case 0:
    case 1:
        if (g->p->user || bg_chance(g, 10)) {
            syscall(g);
        }
        break;
    case 2: BG(g, 0xcd, BT_VEC_NOP); break;
    case 3: clock_or_id(g); break;
    case 4: { /* RDFSBASE, RDGSBASE; WRFSBASE, WRGSBASE */
        unsigned k = bg_below(g, 4);
        if (k >= 2) {
            bg_mov(g, r, g->p->base + BT_VA_DATA + bg_below(g, 0x2800));
        }
        BG(g, 0xf3, 0x48 | r >> 3, 0x0f, 0xae, 0xc0 | k << 3 | (r & 7));
        bg_wrote(g, r);
        break;
    }
    case 5: BG(g, 0xf3, 0x90); break;
    case 6: /* segment loads */
        bg_group(g);
        BG(g, 0x41, 0x57);
        BG32(g, bg_chance(g, 50) ? 0x23 : 0, 0x41, 0xbf);
        BG(g, 0x41, 0x8e, 0xc7 | (bg_chance(g, 50) ? 0x18 : 0)); /* ES, DS */
        BG(g, 0x41, 0x5f);
        bg_ungroup(g);
        break;
    default:
        if (kernel(g) || bg_chance(g, 15)) {
            of_kernel(g);
        }
        break;
    }
}

/* ---- faults ---- */

static void fault(struct bt_gen *g)
{
    unsigned r = bg_dst(g);
    uint8_t op[2] = {0x0f, 0x28};
    switch (bg_below(g, 9)) {
    case 0: BG(g, 0x0f, 0x0b); break;
    case 1:
        if (!(g->reserved & 5)) {
            bg_mov(g, 2, bg_below(g, 3));
            BG(g, 0x48, 0xf7, 0xf0 | (r & 7)); /* DIV, maybe by little */
            bg_define_flags(g, 0x8d5);
            bg_wrote(g, 0);
            bg_wrote(g, 2);
        }
        break;
    case 2: /* not canonical */
        bg_mov(g, r, bg_rnd(g) | UINT64_C(1) << 62);
        memop(g);
        if ((r & 7) != 4 && (r & 7) != 5) {
            BG(g, 0x48 | r >> 3, 0x89, 0x00 | (r & 7));
        }
        break;
    case 3: BG(g, 0xcc); break;
    case 4: { /* #GP by DPL at CPL 3; at CPL 0 those whose handlers expect no error code */
        static const uint8_t plain[] = {0, 1, 4, 5, 6, 7, 9, 16, 18, 19};
        BG(g, 0xcd, g->p->user ? byte(g) & 0x1fu : plain[bg_below(g, sizeof(plain))]);
        break;
    }
    case 5: bg_mem(g, 0, false, op, 2, bg_below(g, 16), none, 0); break; /* MOVAPS */
    case 6: {
        uint64_t t = g->p->base + BT_VA_DATA + 4096 * (3 + bg_below(g, 13)) - bg_below(g, 20);
        bg_mov(g, r, t);
        memop_run(g);
        break;
    }
    case 7:
        if (g->p->user) {
            bg_form(g, BT_FAULT);
        }
        break;
    default:
        bg_mov(g, r, bg_rnd(g) & 0x0fffffff);
        if ((r & 7) != 4 && (r & 7) != 5) {
            BG(g, 0x48 | r >> 3, 0x83, 0x00 | (r & 7), byte(g));
        }
        break;
    }
}

void bg_idiom(struct bt_gen *g, enum bt_class cls)
{
    g->cls = (uint8_t)cls;
    switch (cls) {
    case BT_MEMOP: memop_run(g); break;
    case BT_FLAG: flags(g); break;
    case BT_STACK: stack(g); break;
    case BT_LOCK: lock(g); break;
    case BT_SMC: modify(g); break;
    case BT_PAGE: pages(g); break;
    case BT_SYS: sys(g); break;
    case BT_FAULT: fault(g); break;
    case BT_INT:
    case BT_STRING:
    case BT_SSE:
    case BT_X87:
    case BT_VEX:
    case BT_EVEX:
    case BT_XSAVE: bg_form(g, cls); break;
    case BT_N_CLASSES: break;
    }
}
