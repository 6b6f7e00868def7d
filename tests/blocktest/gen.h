/*
 * Inside the generator: gen.c (items, operands, instructions by form), gen_idiom.c (short
 * sequences by hand), gen_flow.c (blocks, loops, calls: the whole program).
 */
#pragma once

#include "blocktest.h"

#include <Zydis/Zydis.h>

#define RNONE 255

struct bt_gen {
    struct bt_program *p;
    uint64_t rng;
    uint32_t reserved; /* registers that random instructions do not write */
    uint32_t known;    /* registers whose value is known here */
    uint64_t value[16];
    uint16_t group; /* of the items being added */
    uint16_t groups;
    unsigned weight[BT_N_CLASSES], total;
    unsigned bytes; /* of code so far, about */
    uint8_t cls;    /* of the items being added */
};

unsigned bg_below(struct bt_gen *g, unsigned n);
bool bg_chance(struct bt_gen *g, unsigned percent);
uint64_t bg_rnd(struct bt_gen *g);

/* ---- items ---- */
struct bt_item *bg_item(struct bt_gen *g, const uint8_t *b, unsigned n);
/* The same from numbers, and with a 32-bit value behind them. */
struct bt_item *bg_numbers(struct bt_gen *g, const unsigned *b, unsigned n);
struct bt_item *bg_numbers32(struct bt_gen *g, uint32_t v, const unsigned *b, unsigned n);
#define BG_LIST(...)                                                                           \
    (const unsigned[]){__VA_ARGS__}, sizeof((const unsigned[]){__VA_ARGS__}) / sizeof(unsigned)
#define BG(g, ...)      bg_numbers((g), BG_LIST(__VA_ARGS__))
#define BG32(g, v, ...) bg_numbers32((g), (uint32_t)(v), BG_LIST(__VA_ARGS__))
int16_t bg_label(struct bt_gen *g);            /* a new label, not yet anywhere */
void bg_bind(struct bt_gen *g, int16_t label); /* before the next item; forgets registers */
struct bt_item *bg_branch(struct bt_gen *g, unsigned cond, int16_t label);
struct bt_item *bg_jump(struct bt_gen *g, int16_t label);
/* The items from here to bg_ungroup are dropped together. */
void bg_group(struct bt_gen *g);
void bg_ungroup(struct bt_gen *g);

/* ---- operands ---- */
unsigned bg_reg(struct bt_gen *g); /* any register to read */
unsigned bg_dst(struct bt_gen *g); /* one that may be written: not reserved, not RSP */
void bg_wrote(struct bt_gen *g, unsigned reg);
uint64_t bg_target(struct bt_gen *g);                    /* a linear address of data */
uint64_t bg_stack(struct bt_gen *g);                     /* of the stack */
void bg_mov(struct bt_gen *g, unsigned reg, uint64_t v); /* MOV reg, v; flags stay */
/* A register that points into data and the displacement from it (or RNONE when none may be
 * used): mostly one known already. */
unsigned bg_base(struct bt_gen *g, int32_t *ret_disp);
/*
 * One instruction with a register and a memory operand: prefix (0: none), REX bits W by size,
 * opcode of up to 3 bytes, the operand at data (or on the stack, or RIP-relative).
 */
struct bt_item *bg_mem(struct bt_gen *g, uint8_t prefix, bool w, const uint8_t *op,
                       unsigned n_op, unsigned reg, const uint8_t *imm, unsigned n_imm);
struct bt_item *bg_rr(struct bt_gen *g, uint8_t prefix, bool w, const uint8_t *op,
                      unsigned n_op, unsigned reg, unsigned rm);
/* Defines the flags of mask, which the last item left undefined, before anything looks at them:
 * in the same group, with no memory access. */
void bg_define_flags(struct bt_gen *g, uint32_t mask);
/* One instruction of a random form of class cls, with what it needs before it. */
void bg_form(struct bt_gen *g, enum bt_class cls);

/* ---- gen_idiom.c ---- */
void bg_idiom(struct bt_gen *g, enum bt_class cls);
/* ---- gen_flow.c ---- */
void bg_some(struct bt_gen *g, unsigned n); /* n instructions or idioms of the program's mix */
void bg_program(struct bt_gen *g);
