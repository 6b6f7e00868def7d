/*
 * Lays a program out: branches get their shortest form that reaches, references their final
 * values; then the image of RAM with page tables, descriptor tables, handlers and the resume
 * table.
 */
#include "blocktest.h"

#include "base/ckd.h"

#include <Zydis/Zydis.h>
#include <string.h>

extern const uint8_t bt_handlers[], bt_handlers_end[], bt_h_vectors[], bt_h_syscall[];
extern const uint8_t bt_h_nmi[], bt_h_irq[], bt_h_nop[], bt_h_end[], bt_h_change[], bt_h_cr3[];

static unsigned branch_len(const struct bt_item *it)
{
    return !it->grown ? 2 : it->cond == 16 ? 5 : 6;
}

/* Dropped, or a store into an item that is: what lies there now is not to be changed. */
static bool is_gone(const struct bt_program *p, const struct bt_item *it)
{
    const struct bt_item *to = it->fix == FIX_PATCH ? &p->items[it->item] : it;
    return it->gone || to->gone || (to != it && to->nop);
}

static bool place(struct bt_program *p)
{
    unsigned at = 0x40;
    for (unsigned i = 0; i < p->n_items; i++) {
        struct bt_item *it = &p->items[i];
        if (it->pad_before && (at & 4095) != it->pad) {
            at = (at & ~4095u) + it->pad + ((at & 4095) > it->pad ? 4096 : 0);
        }
        it->at = (uint16_t)at;
        it->len = is_gone(p, it)          ? 0
                  : it->fix == FIX_BRANCH ? (uint8_t)branch_len(it)
                                          : it->full_len;
        at += it->len;
        if (at > BT_MAX_CODE) {
            return false;
        }
    }
    return true;
}

static uint64_t code_va(const struct bt_program *p, unsigned off)
{
    return p->base + BT_VA_CODE + off;
}

uint64_t bt_item_va(const struct bt_program *p, unsigned item)
{
    return code_va(p, p->items[item].at);
}

static uint64_t target_of(const struct bt_program *p, const struct bt_item *it)
{
    unsigned i = (unsigned)(it->fix == FIX_PATCH ? it->item : p->labels[it->label]);
    uint64_t off = it->fix == FIX_PATCH ? p->items[i].patch_at : 0;
    return bt_item_va(p, i) + off + it->window;
}

static bool grow(struct bt_program *p)
{
    bool any = false;
    for (unsigned i = 0; i < p->n_items; i++) {
        struct bt_item *it = &p->items[i];
        if (it->fix != FIX_BRANCH || it->grown || it->gone) {
            continue;
        }
        int64_t d = (int64_t)(target_of(p, it) - (bt_item_va(p, i) + it->len));
        if (d < -128 || d > 127) {
            it->grown = any = true;
        }
    }
    return any;
}

static void put(struct bt_item *it, unsigned at, unsigned n, uint64_t v)
{
    for (unsigned i = 0; i < n; i++) {
        it->bytes[at + i] = (uint8_t)(v >> (8 * i));
    }
}

static void resolve(struct bt_program *p, unsigned i)
{
    struct bt_item *it = &p->items[i];
    uint64_t end = bt_item_va(p, i) + it->len;
    switch ((enum bt_fix)it->fix) {
    case FIX_NONE: break;
    case FIX_REL32: put(it, it->fix_at, 4, target_of(p, it) - end); break;
    case FIX_RIP: put(it, it->fix_at, 4, it->abs - end); break;
    case FIX_ABS32:
    case FIX_PATCH: put(it, it->fix_at, 4, target_of(p, it)); break;
    case FIX_ABS64: put(it, it->fix_at, 8, target_of(p, it)); break;
    case FIX_BRANCH:
        if (!it->grown) {
            it->bytes[0] = (uint8_t)(it->cond == 16 ? 0xeb : 0x70 | it->cond);
            it->bytes[1] = (uint8_t)(target_of(p, it) - end);
        } else if (it->cond == 16) {
            it->bytes[0] = 0xe9;
            put(it, 1, 4, target_of(p, it) - end);
        } else {
            it->bytes[0] = 0x0f;
            it->bytes[1] = 0x80 | it->cond;
            put(it, 2, 4, target_of(p, it) - end);
        }
        break;
    }
}

bool bt_layout(struct bt_program *p)
{
    do {
        if (!place(p)) {
            return false;
        }
    } while (grow(p));
    for (unsigned i = 0; i < p->n_items; i++) {
        if (p->items[i].len != 0) {
            resolve(p, i);
        }
    }
    p->init.rip = bt_item_va(p, 0);
    return true;
}

static void put_nops(uint8_t *b, unsigned n)
{
    static const uint8_t nops[10][9] = {{0},
                                        {0x90},
                                        {0x66, 0x90},
                                        {0x0f, 0x1f, 0x00},
                                        {0x0f, 0x1f, 0x40, 0},
                                        {0x0f, 0x1f, 0x44, 0, 0},
                                        {0x66, 0x0f, 0x1f, 0x44, 0, 0},
                                        {0x0f, 0x1f, 0x80, 0, 0, 0, 0},
                                        {0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0},
                                        {0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0}};
    while (n > 0) {
        unsigned k = MIN(n, 9u);
        memcpy(b, nops[k], k);
        b += k;
        n -= k;
    }
}

static void item_bytes(const struct bt_item *it, uint8_t *b)
{
    memcpy(b, it->bytes, it->len);
    if (it->nop) {
        put_nops(b, it->len);
    }
}

static bool falls_through(const struct bt_item *it)
{
    uint8_t b = it->bytes[0];
    bool ends = (it->fix == FIX_BRANCH && it->cond == 16) || b == 0xc3 || b == 0xc2 ||
                (b == 0xf3 && it->bytes[1] == 0xc3);
    return it->len == 0 || it->nop || !ends;
}

/* Which items can be reached from the start, as far as labels tell. */
static void reach(const struct bt_program *p, bool *reached)
{
    bool more = true;
    memset(reached, 0, BT_MAX_ITEMS);
    reached[0] = true;
    reached[p->labels[p->tail]] = true;
    while (more) {
        more = false;
        for (unsigned i = 0; i < p->n_items; i++) {
            const struct bt_item *it = &p->items[i];
            if (!reached[i]) {
                continue;
            }
            if (i + 1 < p->n_items && falls_through(it) && !reached[i + 1]) {
                reached[i + 1] = more = true;
            }
            unsigned to = it->label >= 0 && it->len != 0 ? (unsigned)p->labels[it->label] : i;
            if (!reached[to]) {
                reached[to] = more = true;
            }
        }
    }
}

void bt_print(const struct bt_program *p, FILE *out)
{
    bool reached[BT_MAX_ITEMS];
    reach(p, reached);
    fprintf(out, "    CPL %d, %u loops by %s %u, base %llx%s%s%s%s%s%s%s%s%s%s\n",
            p->user ? 3 : 0, p->loops, p->counter_in_memory ? "memory, register" : "register",
            p->counter, (unsigned long long)p->base, p->async ? ", asynchronous events" : "",
            p->smap ? ", SMAP" : "", p->smep ? ", SMEP" : "", p->global ? ", global code" : "",
            p->two_cr3 ? ", two CR3" : "", p->own_stack ? ", exceptions on its stack" : "",
            p->align_check ? ", alignment checks" : "", p->write_protect ? "" : ", WP off",
            p->code_writable ? ", writable code" : "", p->code_user ? ", user code" : "");
    for (unsigned i = 0; i < p->n_items; i++) {
        const struct bt_item *it = &p->items[i];
        ZydisDisassembledInstruction d;
        uint8_t b[16] = {0};
        for (unsigned l = 0; l < p->n_labels && reached[i] && it->len != 0; l++) {
            if (p->labels[l] == (int16_t)i) {
                fprintf(out, "  L%u%s:\n", l, (int)l == p->tail ? " (tail)" : "");
            }
        }
        if (it->len == 0 || !reached[i]) {
            continue;
        }
        item_bytes(it, b);
        fprintf(out, "    %016llx ", (unsigned long long)bt_item_va(p, i));
        for (unsigned j = 0; j < it->len; j++) {
            fprintf(out, "%02x", b[j]);
        }
        bool ok =
            !it->data && ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64,
                                                            bt_item_va(p, i), b, it->len, &d));
        fprintf(out, "%*s %s%s\n", 2 * (12 - (int)MIN(it->len, 12u)), "", ok ? d.text : "data",
                it->alt ? " ; other immediate in the other copy" : "");
    }
}

/* ---- the image ---- */

static void w64(uint8_t *ram, uint32_t gpa, uint64_t v)
{
    memcpy(ram + gpa, &v, 8);
}

static void put_tables(const struct bt_program *p, uint8_t *ram)
{
    const uint64_t all = 7;
    const uint32_t pml4[2] = {BT_PML4_A, BT_PML4_B}, pdpt[2] = {BT_PDPT_A, BT_PDPT_B};
    const uint32_t pd[2] = {BT_PD_A, BT_PD_B}, pt[2] = {BT_PT_CODE_A, BT_PT_CODE_B};
    for (unsigned i = 0; i < 2; i++) {
        w64(ram, pml4[i], pdpt[i] | all);
        w64(ram, pml4[i] + 511 * 8, pdpt[i] | all);
        w64(ram, pdpt[i] + (p->base ? 510 * 8 : 0), pd[i] | all);
        w64(ram, pdpt[i] + 1 * 8, BT_PD_SYS | all);
        w64(ram, pdpt[i] + 511 * 8, BT_PD_SYS | all);
        w64(ram, pd[i] + (BT_VA_DATA >> 21) * 8, BT_PT_DATA | all);
        w64(ram, pd[i] + (BT_VA_CODE >> 21) * 8, pt[i] | all);
    }
    w64(ram, BT_PD_SYS + (BT_VA_SYS >> 21 & 511) * 8,
        0x80 | 0x63); /* large, supervisor, accessed and dirty */
    memcpy(ram + BT_PT_DATA, p->pt_data, sizeof(p->pt_data));
    memcpy(ram + BT_PT_CODE_A, p->pt_code_a, sizeof(p->pt_code_a));
    memcpy(ram + BT_PT_CODE_B, p->pt_code_b, sizeof(p->pt_code_b));
}

static void put_gate(uint8_t *ram, unsigned vector, const uint8_t *handler, unsigned ist,
                     unsigned dpl)
{
    uint64_t va = BT_VA_SYS + BT_HANDLERS + (uint64_t)(handler - bt_handlers) + BT_HIGH;
    uint64_t lo = (va & 0xffff) | (uint64_t)BT_SEL_KCODE << 16 | (uint64_t)ist << 32 |
                  (uint64_t)(0x8e | dpl << 5) << 40 | (va >> 16 & 0xffff) << 48;
    w64(ram, BT_IDT + vector * 16, lo);
    w64(ram, BT_IDT + vector * 16 + 8, va >> 32);
}

static void put_descriptors(const struct bt_program *p, uint8_t *ram)
{
    const uint64_t sys = BT_VA_SYS + BT_HIGH, tss = sys + BT_TSS;
    w64(ram, BT_GDT + 0x08, UINT64_C(0x00af9b000000ffff));
    w64(ram, BT_GDT + 0x10, UINT64_C(0x00cf93000000ffff));
    w64(ram, BT_GDT + 0x18, UINT64_C(0x00cffb000000ffff));
    w64(ram, BT_GDT + 0x20, UINT64_C(0x00cff3000000ffff));
    w64(ram, BT_GDT + 0x28, UINT64_C(0x00affb000000ffff));
    w64(ram, BT_GDT + 0x30,
        0x67 | (tss & 0xffffff) << 16 | UINT64_C(0x8b) << 40 | (tss >> 24 & 0xff) << 56);
    w64(ram, BT_GDT + 0x38, tss >> 32);
    w64(ram, BT_TSS + 4, sys + BT_KSTACK);
    w64(ram, BT_TSS + 0x24, sys + BT_IST1);
    w64(ram, BT_TSS + 0x2c, sys + BT_VOLATILE + 0x800);
    w64(ram, BT_TSS + 0x34, sys + BT_VOLATILE + 0xff0);
    for (unsigned v = 0; v < 32; v++) {
        bool own = p->own_stack && v != 8;
        put_gate(ram, v, bt_h_vectors + v * 16, own ? 0 : 1, v == 3 ? 3 : 0);
    }
    put_gate(ram, 2, bt_h_nmi, 2, 0);
    put_gate(ram, BT_VEC_IRQ, bt_h_irq, 3, 0);
    put_gate(ram, BT_VEC_NOP, bt_h_nop, p->own_stack ? 0 : 1, 3);
    put_gate(ram, BT_VEC_END, bt_h_end, 1, 3);
    put_gate(ram, BT_VEC_CHANGE, bt_h_change, 1, 3);
    put_gate(ram, BT_VEC_CR3, bt_h_cr3, 1, 3);
}

static void put_vars(const struct bt_program *p, uint8_t *ram)
{
    uint64_t tail = bt_item_va(p, (unsigned)p->labels[p->tail]);
    w64(ram, BT_VARS + BT_V_CODE, p->base + BT_VA_CODE);
    w64(ram, BT_VARS + BT_V_TAIL, tail);
    w64(ram, BT_VARS + BT_V_CS, p->user ? BT_SEL_UCODE : BT_SEL_KCODE);
    w64(ram, BT_VARS + BT_V_SS, p->user ? BT_SEL_UDATA : BT_SEL_KDATA);
    w64(ram, BT_VARS + BT_V_RSP, p->base + BT_VA_STACK + 0x1800);
    w64(ram, BT_VARS + BT_V_RFLAGS, 0x202 | (p->smap ? 0x40000 : 0));
    w64(ram, BT_VARS + BT_V_CR3, BT_PML4_A);
    w64(ram, BT_VARS + BT_V_CR3 + 8, p->two_cr3 ? BT_PML4_B : BT_PML4_A);
    for (unsigned i = 0; i < 16; i++) {
        const struct bt_change *c = &p->changes[i];
        w64(ram, BT_VARS + BT_V_CHANGES + i * 24, BT_VA_SYS + c->pte);
        w64(ram, BT_VARS + BT_V_CHANGES + i * 24 + 8, c->value);
        w64(ram, BT_VARS + BT_V_CHANGES + i * 24 + 16, c->va);
    }
}

static void put_code_byte(const struct bt_program *p, uint8_t *ram, unsigned off, uint8_t v,
                          bool alt)
{
    unsigned page = off >> 12;
    ram[p->code_gpa[page + (alt ? BT_CODE_PAGES : 0)] + (off & 4095)] = v;
}

static void put_code(const struct bt_program *p, uint8_t *ram)
{
    for (unsigned i = 0; i < 2 * BT_CODE_PAGES; i++) {
        memset(ram + p->code_gpa[i], 0xcc, 4096);
    }
    for (unsigned i = 0; i < p->n_items; i++) {
        const struct bt_item *it = &p->items[i];
        uint8_t b[16];
        item_bytes(it, b);
        for (unsigned j = 0; j < it->len; j++) {
            bool other = it->alt && !it->nop && it->patch == PATCH_IMM && j == it->patch_at;
            put_code_byte(p, ram, it->at + j, b[j], false);
            put_code_byte(p, ram, it->at + j, (uint8_t)(b[j] ^ (other ? 5 : 0)), true);
        }
        if (it->len != 0 && !it->data) {
            uint16_t next = (uint16_t)(it->at + it->len);
            memcpy(ram + BT_RESUME + it->at * 2u, &next, 2);
        }
    }
    uint64_t loops = p->loops;
    for (unsigned j = 0; j < 8; j++) {
        put_code_byte(p, ram, 0x3ff0 + j, (uint8_t)(loops >> (8 * j)), false);
        put_code_byte(p, ram, 0x3ff0 + j, (uint8_t)(loops >> (8 * j)), true);
    }
}

static void put_data(const struct bt_program *p, uint8_t *ram)
{
    static const uint64_t special[16] = {0,
                                         UINT64_MAX,
                                         0x3ff0000000000000,
                                         0x7ff0000000000000,
                                         0x3f8000003f800000,
                                         0x7f80000080000000,
                                         0x7ff8000000000000,
                                         0x0000000100000001,
                                         0x8000000000000000,
                                         0x0000003f0000001f,
                                         0x00800001ff7fffff,
                                         0x7fefffffffffffff,
                                         0xc000400000003fff,
                                         0x8000ffff7fff0080,
                                         0x1234567890123456,
                                         0x0037f0000000037f};
    uint64_t x = p->seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    for (uint32_t i = BT_USTACK; i < BT_DATA + BT_DATA_PAGES * 4096; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        w64(ram, i, (x >> 60) < 8 ? special[x >> 40 & 15] : x);
    }
}

void bt_image(const struct bt_program *p, uint8_t *ram)
{
    memset(ram, 0, BT_RAM);
    put_tables(p, ram);
    put_descriptors(p, ram);
    memcpy(ram + BT_HANDLERS, bt_handlers, (size_t)(bt_handlers_end - bt_handlers));
    put_vars(p, ram);
    put_data(p, ram);
    put_code(p, ram);
}
