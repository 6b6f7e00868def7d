/*
 * blocktest: random programs, run by two engines that must end in the same state.
 *
 * A program (gen.c) is a list of items, mostly one instruction each, that is laid out into the
 * guest's code pages (layout.c) with its page tables and tables of exceptions (image.c); vm.c
 * runs it, compare.c tells what differs, shrink.c drops items while it still does.
 */
#pragma once

#include "layout.h"

#include "cpu/vcpu_state.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* ---- programs ---- */
enum bt_class {
    BT_INT,   /* integer instructions, every form */
    BT_MEMOP, /* runs of common loads and stores by the same base */
    BT_FLAG,  /* a producer of flags, memory accesses, a consumer */
    BT_STACK,
    BT_LOCK,
    BT_STRING,
    BT_SSE,
    BT_X87,
    BT_VEX,
    BT_EVEX,
    BT_XSAVE,
    BT_SMC,
    BT_PAGE,
    BT_SYS,
    BT_FAULT,
    BT_N_CLASSES,
    BT_FLOW = BT_N_CLASSES, /* jumps, calls: in every program */
};
extern const char *const bt_class_names[BT_N_CLASSES];

enum bt_fix {
    FIX_NONE,
    FIX_REL32,  /* to target */
    FIX_RIP,    /* rip-relative to the linear address abs */
    FIX_ABS32,  /* of target, in window */
    FIX_ABS64,  /* of target */
    FIX_BRANCH, /* the whole item: Jcc or JMP to target, short if it reaches */
    FIX_PATCH,  /* like ABS32, but of the byte of target that may be patched */
};

enum bt_patch { PATCH_NONE, PATCH_IMM, PATCH_ALU, PATCH_CC };

struct bt_item {
    uint8_t bytes[16];
    uint8_t len;      /* as laid out; 0 when gone */
    uint8_t full_len; /* as made */
    uint8_t cls;
    uint8_t fix, fix_at;
    uint8_t cond;            /* FIX_BRANCH: condition, 16 for JMP */
    uint8_t patch, patch_at; /* what self-modifying code may change, and which byte */
    bool grown;              /* FIX_BRANCH: the long form */
    bool fixed;              /* never dropped */
    bool gone, nop;          /* dropped, or turned into NOPs of the same length */
    bool alt;                /* its immediate differs in the other copy of the page */
    bool data;               /* not instructions */
    bool pad_before;         /* begins at page offset pad */
    uint16_t pad;
    uint16_t group; /* items of a group are dropped together; 0: alone */
    int16_t label;  /* label that it refers to, -1: none */
    int16_t item;   /* FIX_PATCH: the item */
    uint32_t window;
    uint64_t abs;
    uint16_t at; /* offset in the code window */
};

#define BT_MAX_ITEMS  2400
#define BT_MAX_LABELS 1024
#define BT_MAX_CODE   0x3f00

struct bt_change {
    uint64_t pte, value, va; /* pte: physical address */
};

struct bt_program {
    uint64_t seed;
    struct bt_item items[BT_MAX_ITEMS];
    unsigned n_items;
    int16_t labels[BT_MAX_LABELS]; /* label to item */
    unsigned n_labels;
    int16_t tail; /* label */
    unsigned loops;
    unsigned classes; /* bit set: what it was made of */
    bool user, high, async, smap, smep, global, two_cr3, counter_in_memory, own_stack;
    bool code_user, code_writable, align_check, write_protect;
    bool x87_images; /* stores images of the x87 state, keeps its exceptions masked; else not */
    uint8_t counter; /* register */
    uint8_t fuel;    /* register that counts returns; 0: none */
    uint64_t base;   /* 0 or BT_HIGH */
    uint64_t pt_data[32], pt_code_a[64], pt_code_b[64];
    struct bt_change changes[16];
    uint32_t data_gpa[BT_DATA_PAGES], code_gpa[2 * BT_CODE_PAGES];
    struct vcpu_state init;
};

bool bt_gen_init(void);
void bt_gen_done(void);
/* only: bits of classes to use, 0: all. */
void bt_generate(struct bt_program *p, uint64_t seed, unsigned only, bool async);
/* Page tables, page permutation and initial state of a program: setup.c. */
void bt_setup(struct bt_program *p, uint64_t *rng);

/* Gives every item its place and its final bytes, and RIP its start. false: too long. */
bool bt_layout(struct bt_program *p);
uint64_t bt_item_va(const struct bt_program *p, unsigned item);
void bt_print(const struct bt_program *p, FILE *out);
/* All RAM as it is before the program runs; after bt_layout. */
void bt_image(const struct bt_program *p, uint8_t *ram);

/* ---- running ---- */
struct bt_vm;
enum bt_end { BT_END_PORT, BT_END_SHUTDOWN, BT_END_HANG, BT_END_ERROR };
struct bt_result {
    enum bt_end end;
    struct vcpu_state state;
    uint64_t io_hash; /* of all accesses to the device and to ports */
    uint64_t io_count;
    uint64_t insns;
    const uint8_t *ram; /* the VM's */
};

/* engine: "interp" or "soft"; settings: VIVARIUM_SOFT while it is made. NULL after a message.
 */
struct bt_vm *bt_vm_new(const char *engine, const char *settings);
void bt_vm_free(struct bt_vm *vm);
void bt_vm_run(struct bt_vm *vm, const struct bt_program *p, const uint8_t *image,
               struct bt_result *ret);
/* After how many milliseconds a program counts as hung. */
void bt_vm_patience(struct bt_vm *vm, unsigned ms);
const char *bt_vm_stats(struct bt_vm *vm, char *buf, size_t len);

/* Number of differences; out may be NULL. */
unsigned bt_compare(const struct bt_program *p, struct bt_result *a, struct bt_result *b,
                    FILE *out);
/* One page of everything that matters of an end state. */
void bt_print_result(const char *name, const struct bt_result *r, FILE *out);

/* Drops what it can while differs(p) stays true. */
typedef bool bt_differs_fn(struct bt_program *p, void *opaque);
void bt_shrink(struct bt_program *p, bt_differs_fn *differs, void *opaque);
