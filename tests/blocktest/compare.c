/*
 * What differs between two end states. Everything that software can see counts, RAM included,
 * except the accessed bits of page tables, which a CPU may set early, the page of the
 * asynchronous handlers, and clocks.
 */
#include "blocktest.h"

#include "../difftest/difftest.h"
#include "base/ckd.h"

#include <string.h>

struct report {
    FILE *out;
    unsigned n;
};

static const char *const gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                          "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                          "r12", "r13", "r14", "r15"};
static const char *const seg_names[X86_NSEG] = {"es", "cs", "ss", "ds", "fs", "gs"};
static const char *const end_names[] = {"end", "shutdown", "hang", "error"};

static void check(struct report *r, const char *what, uint64_t a, uint64_t b)
{
    if (a == b) {
        return;
    }
    if (r->out != NULL && r->n < 24) {
        fprintf(r->out, "    %-22s %016llx  %016llx\n", what, (unsigned long long)a,
                (unsigned long long)b);
    }
    r->n++;
}

static void check_seg(struct report *r, const char *name, const struct vcpu_seg *a,
                      const struct vcpu_seg *b)
{
    check(r, name, a->sel, b->sel);
    check(r, name, a->attr, b->attr);
    check(r, name, a->limit, b->limit);
    check(r, name, a->base, b->base);
}

static void check_registers(struct report *r, const struct vcpu_state *a,
                            const struct vcpu_state *b)
{
    for (unsigned i = 0; i < 16; i++) {
        check(r, gpr_names[i], a->gpr[i], b->gpr[i]);
    }
    check(r, "rip", a->rip, b->rip);
    check(r, "rflags", a->rflags, b->rflags);
    for (unsigned i = 0; i < X86_NSEG; i++) {
        check_seg(r, seg_names[i], &a->seg[i], &b->seg[i]);
    }
    check_seg(r, "tr", &a->tr, &b->tr);
    check(r, "cr0", a->cr0, b->cr0);
    check(r, "cr2", a->cr2, b->cr2);
    check(r, "cr3", a->cr3, b->cr3);
    check(r, "cr4", a->cr4, b->cr4);
    check(r, "xcr0", a->xcr0, b->xcr0);
    check(r, "efer", a->efer, b->efer);
    check(r, "kernel_gs_base", a->kernel_gs_base, b->kernel_gs_base);
    for (unsigned i = 0; i < 8; i++) {
        check(r, "dr", a->dr[i], b->dr[i]);
    }
    check(r, "event", a->event_pending, b->event_pending);
    check(r, "nmi_blocked", a->nmi_blocked, b->nmi_blocked);
    check(r, "irq_shadow", a->irq_shadow, b->irq_shadow);
}

static void check_bytes(struct report *r, const char *what, const uint8_t *a, const uint8_t *b,
                        unsigned len)
{
    for (unsigned i = 0; i < len; i += 8) {
        uint64_t x = 0, y = 0;
        char name[32];
        memcpy(&x, a + i, MIN(8u, len - i));
        memcpy(&y, b + i, MIN(8u, len - i));
        if (x != y) {
            snprintf(name, sizeof(name), "%s+%u", what, i);
            check(r, name, x, y);
        }
    }
}

static void check_vectors(struct report *r, struct vcpu_state *a, struct vcpu_state *b)
{
    char name[32];
    dt_normalise(a->xsave);
    dt_normalise(b->xsave);
    if (memcmp(a->xsave, b->xsave, 512) == 0 &&
        memcmp(a->xsave + 576, b->xsave + 576, DT_XSAVE - 576) == 0) {
        return;
    }
    check_bytes(r, "x87", a->xsave, b->xsave, 24);
    check_bytes(r, "mxcsr", a->xsave + 24, b->xsave + 24, 4);
    for (unsigned i = 0; i < 8; i++) {
        snprintf(name, sizeof(name), "st%u", i);
        check_bytes(r, name, a->xsave + 32 + i * 16, b->xsave + 32 + i * 16, 10);
    }
    check_bytes(r, "xmm", a->xsave + 160, b->xsave + 160, 256);
    for (unsigned i = 2; i < 8; i++) {
        unsigned len, off;
        if (dt_xcr0 >> i & 1) {
            off = dt_component(i, &len);
            snprintf(name, sizeof(name), "component %u", i);
            check_bytes(r, name, a->xsave + off, b->xsave + off, len);
        }
    }
}

/* What lies at a physical address. */
static const char *place(uint32_t gpa, char *buf, size_t len)
{
    static const char *const field[8] = {"vector", "error", "cr2",  "rip",
                                         "rflags", "rsp",   "gprs", "cs:ss"};
    if (gpa >= BT_LOG && gpa < BT_LOG + BT_LOG_MAX * BT_LOG_BYTES) {
        snprintf(buf, len, "exception %u %s", (gpa - BT_LOG) / BT_LOG_BYTES,
                 field[gpa % BT_LOG_BYTES / 8]);
    } else if (gpa >= BT_DATA && gpa < BT_CODE) {
        snprintf(buf, len, "data %05x", gpa);
    } else if (gpa >= BT_CODE) {
        snprintf(buf, len, "code %05x", gpa);
    } else if (gpa >= BT_USTACK) {
        snprintf(buf, len, "stack %05x", gpa);
    } else if (gpa < BT_TABLES_END) {
        snprintf(buf, len, "page table %05x", gpa);
    } else {
        snprintf(buf, len, "system %05x", gpa);
    }
    return buf;
}

static void check_ram(struct report *r, const uint8_t *a, const uint8_t *b)
{
    char buf[48];
    for (uint32_t page = 0; page < BT_RAM; page += 4096) {
        if (page == BT_VOLATILE || memcmp(a + page, b + page, 4096) == 0) {
            continue;
        }
        for (uint32_t at = page; at < page + 4096; at += 8) {
            uint64_t x, y;
            memcpy(&x, a + at, 8);
            memcpy(&y, b + at, 8);
            if (at < BT_TABLES_END) {
                x &= ~UINT64_C(0x20);
                y &= ~UINT64_C(0x20);
            }
            if (x != y) {
                check(r, place(at, buf, sizeof(buf)), x, y);
            }
        }
    }
}

unsigned bt_compare(const struct bt_program *p, struct bt_result *a, struct bt_result *b,
                    FILE *out)
{
    struct report *r = &(struct report){.out = out};
    check(r, "how it ended", a->end, b->end);
    if (a->end == BT_END_HANG && b->end == BT_END_HANG) {
        return r->n; /* stopped at any moment */
    }
    check_ram(r, a->ram, b->ram);
    check(r, "device accesses", a->io_count, b->io_count);
    check(r, "hash of them", a->io_hash, b->io_hash);
    check_registers(r, &a->state, &b->state);
    if (!p->x87_images) { /* after an unmasked exception the pointers are not kept exactly */
        memset(a->state.xsave + 6, 0, 18);
        memset(b->state.xsave + 6, 0, 18);
    }
    check_vectors(r, &a->state, &b->state);
    return r->n;
}

void bt_print_result(const char *name, const struct bt_result *r, FILE *out)
{
    const struct vcpu_state *s = &r->state;
    uint64_t logged;
    fprintf(out, "  %s: %s", name, end_names[r->end]);
    for (unsigned i = 0; i < 16; i++) {
        fprintf(out, "%s%-3s %016llx", i % 4 ? "  " : "\n    ", gpr_names[i],
                (unsigned long long)s->gpr[i]);
    }
    fprintf(out, "\n    rip %016llx  rflags %llx  cs %x  cr2 %llx  accesses to devices %llu\n",
            (unsigned long long)s->rip, (unsigned long long)s->rflags, s->seg[X86_CS].sel,
            (unsigned long long)s->cr2, (unsigned long long)r->io_count);
    memcpy(&logged, r->ram + BT_VARS + BT_V_LOGGED, 8);
    logged = MIN(logged, BT_LOG_MAX);
    for (unsigned i = 0; i < logged; i++) {
        uint64_t e[8];
        if (i >= 8 && i + 8 < logged) {
            continue;
        }
        memcpy(e, r->ram + BT_LOG + i * BT_LOG_BYTES, sizeof(e));
        fprintf(
            out,
            "    exception %u: vector %llu error %llx cr2 %llx rip %llx rflags %llx rsp %llx\n",
            i, (unsigned long long)e[0], (unsigned long long)e[1], (unsigned long long)e[2],
            (unsigned long long)e[3], (unsigned long long)e[4], (unsigned long long)e[5]);
    }
}
