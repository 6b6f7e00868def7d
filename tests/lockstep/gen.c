/*
 * Makes cases: tables, handlers and short pieces of privileged code from a seed. A case enters
 * one mode (real, 16- or 32-bit protected, paged with 4- or 8-byte entries, long), then runs
 * its pieces; each ends with an exception, whose handler puts some of the frame into registers
 * and goes on with the next piece. The last piece ends in a triple fault. Instructions whose
 * results the manuals leave undefined are not made.
 *
 * Layout (all below 128 KiB, mapped to itself where paging is on):
 *   1100 pseudo descriptors  1180 next piece  1200 list of pieces   2000 entry   2800 handlers,
 *   4000 GDT   4400 LDT   5000 IDT   6000 TSSs   7000 stacks   9000 data   B000 page tables
 *   10000 pieces (base of the 16-bit code segments)
 */
#include "lockstep.h"

#include <string.h>

enum env { REAL, P16, P32, PG32, PAE, LONG, N_ENV };
static const char *const env_names[N_ENV] = {"real", "p16", "p32", "pg32", "pae", "long"};

#define NEXT    0x1180u
#define LIST    0x1200u
#define GDT     0x4000u
#define LDT     0x4400u
#define IDT     0x5000u
#define TSS     0x6000u
#define TSS2    0x6200u
#define TSS16   0x6600u
#define STACK   0x7f00u
#define USTACK  0x8f00u
#define DATA    0x9000u
#define TABLES  0xb000u
#define PT      0xe000u
#define CODE    0x10000u
#define PTR     0x1400u /* far pointers in memory */
#define TASK_IP 0x3f00u

struct gen {
    uint8_t *img; /* of LS_IMAGE */
    uint64_t rng;
    uint32_t at;
    unsigned bits;
    enum env env;
    bool amd, ended, v86;
    uint32_t base[128]; /* of the GDT's descriptors */
    uint32_t ptr;
};

static uint32_t rnd(struct gen *g)
{
    g->rng ^= g->rng << 13;
    g->rng ^= g->rng >> 7;
    g->rng ^= g->rng << 17;
    return (uint32_t)(g->rng >> 16);
}
static unsigned below(struct gen *g, unsigned n)
{
    return rnd(g) % n;
}
static bool chance(struct gen *g, unsigned percent)
{
    return below(g, 100) < percent;
}

/* ---- memory ---- */

static void w8(struct gen *g, uint32_t at, uint32_t v)
{
    if (at >= LS_IMAGE && at < LS_IMAGE + LS_BYTES) {
        g->img[at - LS_IMAGE] = (uint8_t)v;
    }
}
static void w16(struct gen *g, uint32_t at, uint32_t v)
{
    w8(g, at, v);
    w8(g, at + 1, v >> 8);
}
static void w32(struct gen *g, uint32_t at, uint32_t v)
{
    w16(g, at, v);
    w16(g, at + 2, v >> 16);
}

/* ---- code ---- */

static void b(struct gen *g, unsigned v)
{
    w8(g, g->at++, v);
}
static void bb(struct gen *g, unsigned v, unsigned w)
{
    b(g, v);
    b(g, w);
}
static void i16(struct gen *g, uint32_t v)
{
    w16(g, g->at, v);
    g->at += 2;
}
static void i32(struct gen *g, uint32_t v)
{
    w32(g, g->at, v);
    g->at += 4;
}
static void iv(struct gen *g, uint32_t v) /* by operand size */
{
    if (g->bits == 16) {
        i16(g, v);
    } else {
        i32(g, v);
    }
}
/* modrm of an absolute address */
static void abs_mem(struct gen *g, unsigned reg, uint32_t addr)
{
    if (g->bits == 64) {
        bb(g, 0x04 | reg << 3, 0x25);
        i32(g, addr);
    } else if (g->bits == 32) {
        b(g, 0x05 | reg << 3);
        i32(g, addr);
    } else {
        b(g, 0x06 | reg << 3);
        i16(g, addr);
    }
}
static void mov_r32(struct gen *g, unsigned reg, uint32_t v)
{
    if (g->bits == 16) {
        b(g, 0x66);
    }
    b(g, 0xb8 + reg);
    i32(g, v);
}
static void mov_r16(struct gen *g, unsigned reg, uint32_t v)
{
    if (g->bits != 16) {
        b(g, 0x66);
    }
    b(g, 0xb8 + reg);
    i16(g, v);
}
static void push_imm(struct gen *g, uint32_t v)
{
    b(g, 0x68);
    iv(g, v);
}
static void ud2(struct gen *g)
{
    bb(g, 0x0f, 0x0b);
}
/* Where far transfers land: the same in every mode. */
static void landing(struct gen *g)
{
    b(g, 0x90);
    bb(g, 0x9c, 0x58);
    ud2(g);
    g->ended = true;
}

/* ---- tables ---- */

static void put_desc(struct gen *g, uint32_t table, unsigned i, uint32_t base, uint32_t limit,
                     unsigned access, unsigned flags)
{
    uint32_t at = table + i * 8;
    w16(g, at, limit);
    w16(g, at + 2, base);
    w8(g, at + 4, base >> 16);
    w8(g, at + 5, access);
    w8(g, at + 6, (limit >> 16 & 15) | flags << 4);
    w8(g, at + 7, base >> 24);
    if (table == GDT) {
        g->base[i] = base;
    }
}
static void put_gate(struct gen *g, uint32_t at, unsigned access, unsigned sel, uint32_t off,
                     unsigned param)
{
    w16(g, at, off);
    w16(g, at + 2, sel);
    w8(g, at + 4, param);
    w8(g, at + 5, access);
    w16(g, at + 6, off >> 16);
}

static unsigned code_sel(struct gen *g)
{
    static const uint8_t fixed[] = {0x08, 0x30, 0x48, 0x18, 0x28, 0x40, 0x90, 0xa0};
    return fixed[below(g, sizeof(fixed))];
}

static void random_desc(struct gen *g, uint32_t table, unsigned i)
{
    unsigned p = chance(g, 88) ? 0x80 : 0, dpl = below(g, 4) << 5;
    static const uint32_t bases[] = {0, 0, 0x10000, 0x9000, 0x123000};
    if (chance(g, 70)) {
        unsigned type = below(g, 16), flags = chance(g, 80) ? 0xc : below(g, 16);
        uint32_t limit = chance(g, 85) ? 0xfffff : rnd(g) & 0xfffff;
        if (type & 8) { /* code */
            flags = g->env == LONG && chance(g, 50) ? 0xa : flags;
        }
        if ((type & 0xc) == 4) {
            limit = below(g, 4); /* expand down */
        }
        put_desc(g, table, i, bases[below(g, 5)], limit, p | dpl | 0x10 | type, flags);
    } else if (chance(g, 70)) {
        unsigned sel = code_sel(g);
        put_gate(g, table + i * 8, p | dpl | (chance(g, 60) ? 0xc : 0x4), sel, TASK_IP,
                 chance(g, 70) ? 0 : below(g, 4));
        if (table == GDT) {
            g->base[i] = 0;
        }
    } else {
        put_desc(g, table, i, TSS2, 0x67, p | dpl | below(g, 16), 0);
    }
}

static void make_tss(struct gen *g, uint32_t cr3)
{
    w32(g, TSS + 4, STACK);
    if (g->env == LONG) {
        w32(g, TSS + 12, 0x7700);
        w32(g, TSS + 20, 0x7500);
        w32(g, TSS + 36, 0x7300);
    } else {
        w32(g, TSS + 8, 0x10);
        w32(g, TSS + 12, 0x7700);
        w32(g, TSS + 16, 0x89);
        w32(g, TSS + 20, 0x7500);
        w32(g, TSS + 24, 0x9a);
    }
    w32(g, TSS + 28, g->env == LONG ? 0 : cr3);
    w16(g, TSS + 0x66, 0x68);
    w32(g, TSS + 0x68, rnd(g));
    w32(g, TSS + 0x6c, rnd(g));
    w32(g, TSS + 0x68 + 0x10, chance(g, 50) ? 0 : 1); /* port 80h */
    w32(g, TSS2 + 4, STACK);
    w32(g, TSS2 + 8, 0x10);
    w32(g, TSS2 + 28, cr3);
    w32(g, TSS2 + 32, TASK_IP);
    w32(g, TSS2 + 36, 2);
    for (unsigned i = 0; i < 8; i++) {
        w32(g, TSS2 + 40 + i * 4, rnd(g));
        w16(g, TSS16 + 18 + i * 2, rnd(g));
    }
    w32(g, TSS2 + 56, 0x7e00);
    w16(g, TSS16 + 26, 0x7e00);
    for (unsigned i = 0; i < 6; i++) {
        w32(g, TSS2 + 72 + i * 4, i == 1 ? 0x08 : 0x10);
    }
    for (unsigned i = 0; i < 4; i++) {
        w16(g, TSS16 + 34 + i * 2, i == 1 ? 0x08 : 0x10);
    }
    w16(g, TSS2 + 96, chance(g, 60) ? 0x60 : 0);
    w16(g, TSS16 + 42, chance(g, 60) ? 0x60 : 0);
    w16(g, TSS2 + 100, chance(g, 10)); /* T */
    w16(g, TSS16 + 2, STACK);
    w16(g, TSS16 + 4, 0x10);
    w16(g, TSS16 + 14, TASK_IP);
    w16(g, TSS16 + 16, 2);
}

static void make_gdt(struct gen *g)
{
    bool l = g->env == LONG;
    put_desc(g, GDT, 1, 0, 0xfffff, 0x9b, 0xc);
    put_desc(g, GDT, 2, 0, 0xfffff, 0x93, 0xc);
    put_desc(g, GDT, 3, CODE, 0xffff, 0x9b, 0);
    put_desc(g, GDT, 4, CODE, 0xffff, 0x93, 0);
    put_desc(g, GDT, 5, 0, 0xfffff, 0x9b, l ? 0xa : 0xc);
    put_desc(g, GDT, 6, 0, 0xfffff, 0xfb, 0xc);
    put_desc(g, GDT, 7, 0, 0xfffff, 0xf3, 0xc);
    put_desc(g, GDT, 8, 0, 0xfffff, 0xfb, l ? 0xa : 0xc);
    put_desc(g, GDT, 9, 0, 0xfffff, 0x9e, 0xc);
    put_desc(g, GDT, 10, TSS, 0x87, 0x89, 0);
    put_desc(g, GDT, 12, LDT, 0x1ff, 0x82, 0);
    put_desc(g, GDT, 14, TSS2, 0x67, 0x89 | (chance(g, 50) ? 0x60 : 0), 0);
    put_desc(g, GDT, 16, TSS16, l ? 0x67 : 0x2b, l ? 0x89 : 0x81, 0);
    put_desc(g, GDT, 17, 0, 0xfffff, 0xb3, 0xc); /* 88: data 1 */
    put_desc(g, GDT, 18, 0, 0xfffff, 0xbb, 0xc); /* 90: code 1 */
    put_desc(g, GDT, 19, 0, 0xfffff, 0xd3, 0xc); /* 98: data 2 */
    put_desc(g, GDT, 20, 0, 0xfffff, 0xdb, 0xc); /* a0: code 2 */
    for (unsigned i = 21; i < 126; i++) {
        random_desc(g, GDT, i);
        if (l && chance(g, 40)) { /* system descriptors have a second half */
            put_gate(g, GDT + i * 8, 0x8c | below(g, 4) << 5,
                     chance(g, 80) ? 0x28 : code_sel(g), TASK_IP, 0);
            i++;
            w32(g, GDT + i * 8, chance(g, 95) ? 0 : 0xffff8000);
            w32(g, GDT + i * 8 + 4, chance(g, 95) ? 0 : rnd(g));
        }
    }
    for (unsigned i = 0; i < 64; i++) {
        random_desc(g, LDT, i);
    }
}

static void make_idt(struct gen *g)
{
    for (unsigned v = 0; v < 256; v++) {
        uint32_t stub = 0x3000 + v * 8;
        unsigned dpl = v == 3 || v == 4 || chance(g, 50) ? 0x60 : 0;
        if (g->env == REAL) {
            w32(g, IDT + v * 4, 0x2800 + (v & 63) * 8);
        } else if (g->env == LONG) {
            unsigned sel = v < 0x30 || chance(g, 80) ? 0x28 : code_sel(g);
            put_gate(g, IDT + v * 16,
                     (v < 0x30 || chance(g, 90) ? 0x8e : below(g, 256)) | dpl |
                         (chance(g, 20) ? 1 : 0),
                     sel, stub, chance(g, 15) ? 1 : 0);
        } else if (v < 0x30) {
            put_gate(g, IDT + v * 8, 0x8e | dpl | (chance(g, 20) ? 1 : 0), 0x08, stub, 0);
        } else if (chance(g, 30)) {
            put_gate(g, IDT + v * 8, 0x85 | dpl, chance(g, 80) ? 0x70 : 0x80, 0, 0);
        } else if (chance(g, 40)) {
            put_gate(g, IDT + v * 8, 0x86 | dpl | (chance(g, 50) ? 1 : 0), 0x08, stub, 0);
        } else {
            unsigned type = chance(g, 80) ? 0x8e : below(g, 256);
            put_gate(g, IDT + v * 8, type | dpl, chance(g, 70) ? 0x08 : code_sel(g), stub, 0);
        }
    }
}

static void make_paging(struct gen *g)
{
    unsigned step = g->env == PG32 ? 4 : 8;
    if (g->env == PG32) {
        w32(g, TABLES, PT | 7);
        w32(g, TABLES + 4, 0x400000 | 0x87);
    } else {
        w32(g, TABLES, (TABLES + 0x1000) | (g->env == PAE ? 1 : 7));
        w32(g, TABLES + 0x1000, (g->env == PAE ? PT : TABLES + 0x2000) | 7);
        w32(g, TABLES + 0x2000, PT | 7);
        w32(g, TABLES + 0x2008, 0x200087);
        w32(g, TABLES + 0x1008, g->env == PAE ? 0x200087 : 0);
    }
    for (unsigned i = 0; i < 256; i++) {
        /* All of it user pages except some of the data; some of those not as usual. */
        unsigned rights = 7;
        if (i >= 0x9 && i < 0xb) {
            rights = below(g, 8);
        } else if (i >= 0x20) {
            rights = chance(g, 70) ? 7 : rnd(g) & 0x167;
        }
        w32(g, PT + i * step, i << 12 | rights);
        if (step == 8) {
            bool odd = i >= 0x20 && chance(g, 10);
            w32(g, PT + i * step + 4, odd ? (chance(g, 60) ? 0x80000000 : 0x100) : 0);
        }
    }
}

/* ---- handlers ---- */

static void make_handlers(struct gen *g)
{
    for (unsigned v = 0; v < 256; v++) {
        g->at = 0x3000 + v * 8;
        bb(g, 0x6a, v);
        b(g, 0xe9);
        i32(g, 0x3800 - (g->at + 4));
    }
    for (unsigned v = 0; v < 64; v++) {
        g->at = 0x2800 + v * 8;
        bb(g, 0x6a, v);
        b(g, 0xe9);
        i16(g, 0x2b00 - (g->at + 2));
    }
    g->at = TASK_IP;
    landing(g);
    g->bits = g->env == REAL ? 16 : g->env == LONG ? 64 : 32;
    g->at = g->env == REAL ? 0x2b00 : 0x3800;
    bb(g, 0x58, 0x5b);
    bb(g, 0x59, 0x5a);
    b(g, 0x5e);
    mov_r16(g, 0, g->env == REAL ? 0 : 0x10);
    bb(g, 0x8e, 0xd0);
    b(g, 0xbc);
    iv(g, STACK);
    bb(g, 0x8e, 0xd8);
    bb(g, 0x8e, 0xc0);
    b(g, 0xfc);
    bb(g, 0x31, 0xc9); /* flags images differ in RF: see accepted.h */
    bb(g, 0x31, 0xd2);
    bb(g, 0x31, 0xf6);
    b(g, 0x8b);
    abs_mem(g, 3, NEXT);
    b(g, 0x83);
    abs_mem(g, 0, NEXT);
    b(g, g->env == REAL ? 4 : 8);
    bb(g, 0xff, g->env == REAL ? 0x2f : 0x2b);
}

/* ---- pieces ---- */

static unsigned any_sel(struct gen *g)
{
    static const uint8_t fixed[] = {0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38, 0x40, 0x48,
                                    0x50, 0x60, 0x70, 0x80, 0x88, 0x90, 0x98, 0xa0};
    unsigned k = below(g, 10);
    if (k < 5) {
        return fixed[below(g, sizeof(fixed))] | below(g, 4);
    }
    if (k < 9) {
        return rnd(g) & 0x3ff;
    }
    return k == 9 && chance(g, 50) ? below(g, 4) : rnd(g) & 0x7fff; /* real mode: RAM */
}

static uint32_t new_ptr(struct gen *g, uint32_t off, unsigned sel, bool wide)
{
    uint32_t at = g->ptr;
    if (wide) {
        w32(g, at, off);
        w16(g, at + 4, sel);
    } else {
        w16(g, at, off);
        w16(g, at + 2, sel);
    }
    g->ptr += 8;
    return at;
}

static uint32_t data_addr(struct gen *g)
{
    return DATA + (chance(g, 30) ? 0xff0 + below(g, 32) : below(g, 0x1ff0));
}

static void seg_load(struct gen *g)
{
    static const uint8_t seg[] = {0, 2, 3, 4, 5};
    unsigned s = seg[below(g, 5)];
    switch (below(g, 4)) {
    case 0:
    case 1:
        mov_r16(g, 0, any_sel(g));
        bb(g, 0x8e, 0xc0 | s << 3);
        break;
    case 2: {
        static const uint8_t pop[] = {0x07, 0x17, 0x1f};
        push_imm(g, any_sel(g));
        if (s >= 4) {
            bb(g, 0x0f, s == 4 ? 0xa1 : 0xa9);
        } else {
            b(g, pop[s == 0 ? 0 : s - 1]);
        }
        break;
    }
    default: {
        static const uint16_t op[] = {0xc4, 0xc5, 0x1b2, 0x1b4, 0x1b5};
        unsigned o = op[below(g, 5)];
        uint32_t p = new_ptr(g, rnd(g), any_sel(g), g->bits != 16);
        if (o & 0x100) {
            b(g, 0x0f);
        }
        b(g, o & 0xff);
        abs_mem(g, 5, p);
    }
    }
}

static void seg_info(struct gen *g)
{
    mov_r16(g, 1, any_sel(g));
    switch (below(g, 5)) {
    case 0: bb(g, 0x0f, 0x02), b(g, 0xd1); break; /* LAR dx, cx */
    case 1: bb(g, 0x0f, 0x03), b(g, 0xd1); break;
    case 2: bb(g, 0x0f, 0x00), b(g, 0xe1); break; /* VERR */
    case 3: bb(g, 0x0f, 0x00), b(g, 0xe9); break;
    default:
        if (g->bits != 64) {
            mov_r16(g, 0, rnd(g));
            bb(g, 0x63, 0xc8); /* ARPL */
        }
    }
}

/* Offset that reaches linear address lin by the descriptor of sel. */
static uint32_t off_of(struct gen *g, unsigned sel, uint32_t lin)
{
    if (g->env == REAL || g->v86) {
        return lin - (sel << 4);
    }
    return sel & 4 ? lin : lin - g->base[sel >> 3 & 127];
}

static unsigned far_sel(struct gen *g)
{
    if (g->env == REAL || g->v86) {
        return 0x1000 + below(g, 16);
    }
    return chance(g, 40) ? code_sel(g) | (chance(g, 60) ? 0 : below(g, 4)) : any_sel(g);
}

static void far_transfer(struct gen *g)
{
    unsigned sel = far_sel(g), k = below(g, 4);
    if (k < 2 && g->bits != 64) {
        uint32_t end = g->at + (g->bits == 16 ? 5 : 7);
        b(g, k ? 0x9a : 0xea);
        iv(g, off_of(g, sel, end));
        i16(g, sel);
    } else {
        uint32_t end = g->at + (g->bits == 64 ? 7 : g->bits == 32 ? 6 : 4);
        uint32_t p = new_ptr(g, off_of(g, sel, end), sel, g->bits != 16);
        b(g, 0xff);
        abs_mem(g, k & 1 ? 3 : 5, p);
    }
    landing(g);
}

static void far_return(struct gen *g)
{
    unsigned sel = far_sel(g);
    unsigned width = g->bits == 16 ? 3 : 5;
    bool imm = chance(g, 30);
    bool outer = (sel & 3) && !g->v86 && g->env != REAL;
    uint32_t end = g->at + width * (outer ? 4 : 2) + 1 + (imm ? 2 : 0);
    if (outer) {
        push_imm(g, chance(g, 70) ? ((sel & 3) == 3   ? 0x3b
                                     : (sel & 3) == 1 ? 0x89
                                                      : 0x9a)
                                  : any_sel(g));
        push_imm(g, USTACK);
    }
    push_imm(g, sel);
    push_imm(g, off_of(g, sel, end));
    b(g, imm ? 0xca : 0xcb);
    if (imm) {
        i16(g, below(g, 4) * 4);
    }
    landing(g);
}

static uint32_t some_flags(struct gen *g)
{
    uint32_t f = rnd(g) & 0x00047ed5; /* no TF */
    if (chance(g, 10)) {
        f |= 0x100;
    }
    if (chance(g, 60)) {
        f &= ~0x4000u; /* NT */
    }
    return f | 2;
}

static void int_return(struct gen *g)
{
    unsigned sel = far_sel(g), width = g->bits == 16 ? 3 : 5;
    uint32_t flags = some_flags(g);
    bool outer = ((sel & 3) || g->bits == 64) && !g->v86 && g->env != REAL;
    unsigned rex = g->bits == 64 && chance(g, 80) ? 1 : 0;
    uint32_t end = g->at + width * (outer ? 5 : 3) + 1 + rex;
    if (outer) {
        push_imm(g, chance(g, 70) ? ((sel & 3) == 3   ? 0x3b
                                     : (sel & 3) == 1 ? 0x89
                                                      : 0x10)
                                  : any_sel(g));
        push_imm(g, USTACK);
    }
    push_imm(g, flags);
    push_imm(g, sel);
    push_imm(g, off_of(g, sel, end));
    if (rex) {
        b(g, 0x48);
    }
    b(g, 0xcf);
    landing(g);
}

/* To ring 3 (or virtual-8086 mode), where the piece goes on. */
static void to_user(struct gen *g)
{
    uint32_t flags = some_flags(g) & ~0x4100u;
    if (g->env == REAL || g->bits == 16) {
        return;
    }
    if (g->env != LONG && chance(g, 35)) {
        uint32_t end = g->at + 5 * 9 + 1;
        for (unsigned i = 0; i < 4; i++) {
            push_imm(g, below(g, 0x900));
        }
        push_imm(g, 0x800);
        push_imm(g, 0x0f00);
        push_imm(g, flags | 0x20000);
        push_imm(g, CODE >> 4);
        push_imm(g, end - CODE);
        b(g, 0xcf);
        g->bits = 16;
        g->v86 = true;
        return;
    }
    bool compat = g->env == LONG && chance(g, 40);
    unsigned cs = g->env == LONG && !compat ? 0x43 : 0x33;
    uint32_t end = g->at + 5 * 5 + (g->bits == 64 ? 2 : 1);
    push_imm(g, 0x3b);
    push_imm(g, USTACK);
    push_imm(g, flags);
    push_imm(g, cs);
    push_imm(g, end);
    if (g->bits == 64) {
        b(g, 0x48);
    }
    b(g, 0xcf);
    g->bits = g->env == LONG && !compat ? 64 : 32;
}

static void interrupt(struct gen *g)
{
    switch (below(g, 5)) {
    case 0: b(g, 0xcc); break;
    case 1:
        if (g->bits != 64) {
            b(g, 0xce);
        }
        break;
    case 2:
        if (g->bits != 64) {
            uint32_t p = new_ptr(g, 0, 0, true);
            w32(g, p, 0x00050003);
            mov_r32(g, 0, below(g, 8));
            b(g, 0x62);
            abs_mem(g, 0, p);
        }
        break;
    default: bb(g, 0xcd, g->env == REAL ? below(g, 64) : below(g, 256)); break;
    }
}

static void control(struct gen *g)
{
    static const uint8_t regs[] = {0, 0, 2, 3, 4, 4};
    unsigned r = regs[below(g, 6)];
    if (chance(g, 35)) {
        bb(g, 0x0f, 0x20);
        b(g, 0xc0 | r << 3);
        return;
    }
    if (r == 2) {
        mov_r32(g, 0, rnd(g));
    } else {
        static const uint32_t bits0[] = {1u << 16, 8,        4,        2, 0x20,
                                         1u << 18, 1u << 30, 1u << 29, 0};
        static const uint32_t bits4[] = {1u << 2,  1u << 3, 1u << 7,  1u << 9,
                                         1u << 10, 1u << 8, 1u << 20, 1u << 21,
                                         1u << 4,  1u << 6, 1u << 15, 1u << 5};
        uint32_t x = r == 0 ? bits0[below(g, chance(g, 80) ? 6 : 9)]
                            : bits4[below(g, chance(g, 85) ? 10 : 12)];
        bb(g, 0x0f, 0x20);
        b(g, 0xc0 | r << 3);
        if (r != 3) {
            if (g->bits == 16) {
                b(g, 0x66);
            }
            b(g, 0x35); /* XOR eax, imm32 */
            i32(g, x);
        }
    }
    bb(g, 0x0f, 0x22);
    b(g, 0xc0 | r << 3);
}

static void debug(struct gen *g)
{
    unsigned r = below(g, 8);
    if (chance(g, 40)) {
        bb(g, 0x0f, 0x21);
        b(g, 0xc0 | r << 3);
        return;
    }
    mov_r32(g, 0, r < 4 ? data_addr(g) : r == 6 || r == 4 ? rnd(g) & 0xf : 0x400);
    if (chance(g, 10) && (r == 7 || r == 5)) {
        mov_r32(g, 0, 0x2400); /* GD */
    }
    bb(g, 0x0f, 0x23);
    b(g, 0xc0 | r << 3);
}

static void flags(struct gen *g)
{
    switch (below(g, 6)) {
    case 0: b(g, 0x9c), b(g, 0x58); break;
    case 1: b(g, 0xfa); break;
    case 2: b(g, 0xfb); break;
    case 3: bb(g, 0x9e, 0x9f); break;
    default:
        push_imm(g, some_flags(g));
        if (chance(g, 20)) {
            b(g, 0x66);
        }
        b(g, 0x9d);
    }
}

static void port(struct gen *g)
{
    switch (below(g, 4)) {
    case 0: bb(g, 0xe6, 0x80); break;
    case 1: bb(g, 0xe5, 0x80); break;
    case 2:
        mov_r16(g, 2, chance(g, 50) ? 0x80 : 0x5678);
        b(g, chance(g, 50) ? 0xed : 0xee);
        break;
    default:
        mov_r16(g, 2, 0x80);
        mov_r32(g, 6, data_addr(g));
        mov_r32(g, 7, data_addr(g));
        mov_r32(g, 1, below(g, 6));
        if (chance(g, 50)) {
            b(g, 0xf3);
        }
        b(g, chance(g, 50) ? 0x6c : 0x6e);
    }
}

static void string(struct gen *g)
{
    static const uint8_t op[] = {0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0xa6, 0xa7, 0xae, 0xaf};
    bool far = g->bits != 16 && chance(g, 40);
    mov_r32(g, 6, far ? 0x1fff0 + below(g, 0x10000) : data_addr(g));
    mov_r32(g, 7, far ? 0x20000 + below(g, 0x10000) : data_addr(g));
    mov_r32(g, 1, below(g, 40));
    if (chance(g, 20)) {
        b(g, 0xfd);
    }
    if (chance(g, 20)) {
        b(g, 0x66);
    }
    if (chance(g, 80)) {
        b(g, chance(g, 70) ? 0xf3 : 0xf2);
    }
    b(g, op[below(g, 10)]);
    b(g, 0xfc);
}

static void memory(struct gen *g)
{
    static const uint8_t over[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    uint32_t addr = g->bits != 16 && chance(g, 30) ? 0x1fffc + below(g, 0x30000) : data_addr(g);
    if (chance(g, 30)) {
        b(g, over[below(g, 6)]);
    }
    switch (below(g, 6)) {
    case 0: b(g, 0x8b), abs_mem(g, 1, addr); break;
    case 1: b(g, 0x89), abs_mem(g, 2, addr); break;
    case 2: b(g, 0x01), abs_mem(g, 2, addr); break;
    case 3: b(g, 0x87), abs_mem(g, 2, addr); break;
    case 4: b(g, 0xff), abs_mem(g, 6, addr); break;  /* PUSH */
    default: b(g, 0x8f), abs_mem(g, 0, addr); break; /* POP */
    }
}

static void paging(struct gen *g)
{
    unsigned step = g->env == PG32 ? 4 : 8,
             page = chance(g, 50) ? 9 + below(g, 2) : 0x20 + below(g, 0x20);
    if (g->env < PG32 || g->bits == 16) {
        memory(g);
        return;
    }
    mov_r32(g, 0, page << 12 | (chance(g, 60) ? 7 : rnd(g) & 0x1e7));
    b(g, 0x89);
    abs_mem(g, 0, PT + page * step);
    if (step == 8 && chance(g, 30)) {
        mov_r32(g, 0, chance(g, 50) ? 0x80000000 : 0);
        b(g, 0x89);
        abs_mem(g, 0, PT + page * step + 4);
    }
    bb(g, 0x0f, 0x01);
    abs_mem(g, 7, page << 12 | below(g, 4096)); /* INVLPG */
    mov_r32(g, 7, page << 12 | below(g, 4092));
    bb(g, chance(g, 50) ? 0x8b : 0x89, 0x0f);
}

static void tables(struct gen *g)
{
    uint32_t at = DATA + 0x100 + below(g, 64);
    switch (below(g, 8)) {
    case 0: bb(g, 0x0f, 0x01), abs_mem(g, 0, at); break;
    case 1: bb(g, 0x0f, 0x01), abs_mem(g, 1, at); break;
    case 2: bb(g, 0x0f, 0x00), b(g, 0xc0); break; /* SLDT eax */
    case 3: bb(g, 0x0f, 0x00), b(g, 0xc8); break; /* STR */
    case 4: bb(g, 0x0f, 0x01), b(g, 0xe0); break; /* SMSW */
    case 5:
        mov_r16(g, 0, chance(g, 40) ? 0x60 : any_sel(g));
        bb(g, 0x0f, 0x00), b(g, 0xd0); /* LLDT */
        break;
    case 6:
        mov_r16(g, 0, any_sel(g));
        bb(g, 0x0f, 0x00), b(g, 0xd8); /* LTR */
        break;
    default: bb(g, 0x0f, 0x01), abs_mem(g, 2, 0x1100); /* LGDT */
    }
}

static void msr(struct gen *g)
{
    static const uint32_t list[] = {0xc0000080, 0xc0000081, 0xc0000082, 0xc0000084,
                                    0x174,      0x175,      0x176,      0xc0000100,
                                    0xc0000101, 0xc0000102, 0xc0000103};
    uint32_t m = list[below(g, 11)];
    mov_r32(g, 1, m);
    if (chance(g, 40)) {
        bb(g, 0x0f, 0x32);
        return;
    }
    uint32_t lo = rnd(g) & 0xffff, hi = 0;
    switch (m) {
    case 0xc0000080: lo = (g->env == LONG ? 0xd01u : 1u) ^ (chance(g, 20) ? 0x800 : 0); break;
    case 0xc0000081:
        hi = 0x00300008;
        lo = 0x3800;
        break;
    case 0xc0000082:
    case 0x176: lo = TASK_IP; break;
    case 0x174: lo = chance(g, 80) ? 8 : 0; break;
    case 0x175: lo = 0x7c00; break;
    case 0xc0000084: lo = rnd(g) & 0x47fd5; break;
    default: lo = chance(g, 70) ? DATA + below(g, 0x100) : rnd(g); break;
    }
    mov_r32(g, 0, lo);
    mov_r32(g, 2, hi);
    bb(g, 0x0f, 0x30);
}

static void system_call(struct gen *g)
{
    static const uint8_t op[] = {0x05, 0x07, 0x34, 0x35};
    if (chance(g, 70)) { /* EFER.SCE, STAR, SYSENTER_CS */
        static const uint32_t set[][3] = {{0xc0000081, 0x3800, 0x00300008},
                                          {0xc0000082, TASK_IP, 0},
                                          {0x174, 8, 0},
                                          {0x176, TASK_IP, 0},
                                          {0x175, 0x7c00, 0}};
        for (unsigned i = below(g, 5); i < 5; i++) {
            mov_r32(g, 1, set[i][0]);
            mov_r32(g, 0, set[i][1]);
            mov_r32(g, 2, set[i][2]);
            bb(g, 0x0f, 0x30);
        }
    }
    if (g->bits == 16 && g->env != P16) {
        return;
    }
    mov_r32(g, 1, TASK_IP);
    mov_r32(g, 2, TASK_IP);
    if (g->bits == 64 && chance(g, 60)) {
        b(g, 0x48);
    }
    bb(g, 0x0f, op[below(g, 4)]);
}

static void self_modify(struct gen *g)
{
    unsigned how = below(g, 3);
    if (g->bits == 16) {
        return; /* DS does not reach the pieces */
    }
    if (how == 0) { /* C6 /0: mov byte [label + 1], imm8; label: mov al, 0 */
        b(g, 0xc6);
        abs_mem(g, 0, g->at + (g->bits == 64 ? 6 : 5) + 1 + 1);
        b(g, rnd(g));
        bb(g, 0xb0, 0);
    } else if (how == 1) {
        mov_r32(g, 7, g->at + 5 + 5 + 5 + 3);
        mov_r32(g, 0, 0x90909090);
        mov_r32(g, 1, 3 + below(g, 3));
        b(g, 0xf3);
        b(g, 0xaa); /* REP STOS over what follows */
        b(g, 0x90);
        ud2(g);
        ud2(g);
        bb(g, 0x90, 0x90);
    } else { /* a prefix put before an instruction that ran already */
        uint32_t label = g->at;
        bb(g, 0x90, 0x40); /* NOP, INC eax (or REX) */
        bb(g, 0x89, 0xc3);
        b(g, 0xc6);
        abs_mem(g, 0, label);
        b(g, 0x90);
    }
}

static void misc(struct gen *g)
{
    switch (below(g, 13)) {
    case 0: bb(g, 0x0f, 0x06); break; /* CLTS */
    case 1:
        mov_r16(g, 0, rnd(g) & 0xe);
        bb(g, 0x0f, 0x01), b(g, 0xf0); /* LMSW */
        break;
    case 2: bb(g, 0x0f, 0x09); break;
    case 3: bb(g, 0x0f, 0x01), b(g, 0xf8); break;                                /* SWAPGS */
    case 4: b(g, 0xf3), bb(g, 0x0f, 0xae), b(g, 0xc0 | below(g, 4) << 3); break; /* FSGSBASE */
    case 5: bb(g, 0xc8, 0x10), bb(g, 0, below(g, 3)); break;                     /* ENTER */
    case 6: b(g, 0x60 + below(g, 2)); break; /* PUSHA, POPA */
    case 7:
        bb(g, 0xdb, 0xe3); /* FNINIT, by TS and EM */
        b(g, 0x9b);
        break;
    case 8: bb(g, 0x0f, 0x57), b(g, 0xc0); break;
    case 9:
        b(g, 0xe8); /* CALL, RET */
        iv(g, 0);
        b(g, 0x58);
        break;
    case 10:
        mov_r32(g, 0, rnd(g));
        if (g->bits == 16) {
            b(g, 0x66);
        }
        bb(g, 0x0f, 0xc8); /* BSWAP */
        break;
    case 11:
        bb(g, 0xf0, 0x0f), b(g, 0xc1); /* LOCK XADD */
        abs_mem(g, 0, data_addr(g));
        break;
    default:
        mov_r16(g, 0, any_sel(g));
        b(g, 0x8c), b(g, 0xc0 | below(g, 6) << 3); /* MOV eax, seg */
    }
}

static void one(struct gen *g)
{
    typedef void op_fn(struct gen * g);
    static op_fn *const ops[] = {
        seg_load,   seg_load,    seg_load,    seg_info, seg_info, far_transfer, far_return,
        int_return, interrupt,   control,     debug,    flags,    flags,        port,
        string,     string,      memory,      memory,   paging,   paging,       tables,
        msr,        system_call, self_modify, misc,     misc};
    ops[below(g, sizeof(ops) / sizeof(ops[0]))](g);
}

static void piece(struct gen *g, unsigned bits)
{
    g->bits = bits;
    g->ended = g->v86 = false;
    if (chance(g, 40)) {
        to_user(g);
    }
    for (unsigned n = 1 + below(g, 7); n > 0 && !g->ended; n--) {
        one(g);
    }
    if (!g->ended) {
        ud2(g);
    }
    g->at += 2;
}

/* ---- entering the mode ---- */

static void enter(struct gen *g)
{
    w16(g, 0x1100, 0x3ff);
    w32(g, 0x1102, GDT);
    w16(g, 0x1110, g->env == REAL ? 0x3ff : 0xfff);
    w32(g, 0x1112, IDT);
    g->at = LS_ENTRY;
    g->bits = 32;
    bb(g, 0x0f, 0x01), abs_mem(g, 2, 0x1100);
    bb(g, 0x0f, 0x01), abs_mem(g, 3, 0x1110);
    if (g->env >= PG32) {
        mov_r32(g, 0, TABLES);
        bb(g, 0x0f, 0x22), b(g, 0xd8);
        mov_r32(g, 0, g->env == PG32 ? 0x90 | below(g, 2) << 2 : 0x6a0);
        bb(g, 0x0f, 0x22), b(g, 0xe0);
        if (g->env != PG32) {
            mov_r32(g, 1, 0xc0000080);
            mov_r32(g, 0, g->env == LONG ? 0x901 : chance(g, 70) ? 0x800 : 0);
            mov_r32(g, 2, 0);
            bb(g, 0x0f, 0x30);
        }
        mov_r32(g, 0, 0x80000031 | (chance(g, 70) ? 0x10000 : 0));
        bb(g, 0x0f, 0x22), b(g, 0xc0);
    }
    if (g->env != REAL) {
        mov_r16(g, 0, 0x60);
        bb(g, 0x0f, 0x00), b(g, 0xd0);
        mov_r16(g, 0, 0x50);
        bb(g, 0x0f, 0x00), b(g, 0xd8);
        b(g, 0xbb), i32(g, LIST);
        bb(g, 0xff, 0x2b);
        w32(g, NEXT, LIST + 8);
        return;
    }
    b(g, 0xea), i32(g, 0x100), i16(g, 0x18);
    g->at = CODE + 0x100;
    g->bits = 16;
    mov_r16(g, 0, 0x20);
    for (unsigned s = 0; s < 6; s++) {
        if (s != 1) {
            bb(g, 0x8e, 0xc0 | s << 3);
        }
    }
    mov_r32(g, 0, 0x10);
    bb(g, 0x0f, 0x22), b(g, 0xc0);
    b(g, 0xea), i16(g, g->at + 4 - CODE), i16(g, CODE >> 4);
    mov_r16(g, 0, 0);
    bb(g, 0x8e, 0xd8);
    bb(g, 0x8e, 0xd0);
    b(g, 0xbc), i16(g, STACK);
    b(g, 0xbb), i16(g, LIST);
    bb(g, 0xff, 0x2f);
    w32(g, NEXT, LIST + 4);
}

const char *ls_generate(uint64_t seed, uint8_t *image, bool amd)
{
    struct gen *g = &(struct gen){.img = image, .amd = amd, .ptr = PTR};
    g->rng = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15);
    for (unsigned i = 0; i < 4; i++) {
        rnd(g);
    }
    memset(image, 0, LS_BYTES);
    g->env = (enum env)below(g, N_ENV);
    memset(image + CODE - LS_IMAGE, LS_FILL, LS_BYTES + LS_IMAGE - CODE);
    for (uint32_t at = DATA; at < DATA + 0x2000; at += 4) {
        w32(g, at, rnd(g));
    }
    make_gdt(g);
    make_idt(g);
    make_tss(g, g->env >= PG32 ? TABLES : 0);
    if (g->env >= PG32) {
        make_paging(g);
    }
    make_handlers(g);
    enter(g);
    unsigned bits = g->env == REAL || g->env == P16 ? 16 : g->env == LONG ? 64 : 32;
    unsigned sel = g->env == P16 ? 0x18 : g->env == LONG ? 0x28 : 0x08;
    g->at = CODE + 0x200;
    for (unsigned i = 0; i < 64; i++) {
        uint32_t off = bits == 16 ? g->at - CODE : g->at;
        if (i >= 23) { /* the end */
            g->bits = bits;
            bb(g, 0x0f, 0x01), abs_mem(g, 3, 0x1120);
            b(g, 0xcc);
        }
        if (g->env == REAL) {
            w16(g, LIST + i * 4, off);
            w16(g, LIST + i * 4 + 2, CODE >> 4);
        } else {
            w32(g, LIST + i * 8, off);
            w16(g, LIST + i * 8 + 4, sel);
        }
        if (i < 23) {
            piece(g, bits);
        }
    }
    return env_names[g->env];
}
