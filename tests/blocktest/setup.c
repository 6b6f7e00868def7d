/*
 * The world of a program: which physical pages are where and with which rights, what its page
 * table changes are, the initial state of the CPU.
 */
#include "blocktest.h"

#include "../difftest/difftest.h"
#include "base/ckd.h"
#include "cpu/soft/x86_bits.h"

#include <string.h>

extern const uint8_t bt_handlers[], bt_h_syscall[];

#define PTE_P   UINT64_C(1)
#define PTE_W   UINT64_C(2)
#define PTE_U   UINT64_C(4)
#define PTE_AD  UINT64_C(0x60)
#define PTE_G   UINT64_C(0x100)
#define PTE_FIX UINT64_C(0x200) /* the handler makes it writable and present */
#define PTE_NX  (UINT64_C(1) << 63)

static unsigned below(uint64_t *rng, unsigned n)
{
    return (unsigned)(dt_random(rng) >> 32) % n;
}

static bool chance(uint64_t *rng, unsigned percent)
{
    return below(rng, 100) < percent;
}

static void permute(uint64_t *rng, uint32_t *v, unsigned n)
{
    for (unsigned i = n; i > 1; i--) {
        unsigned j = below(rng, i);
        uint32_t t = v[i - 1];
        v[i - 1] = v[j];
        v[j] = t;
    }
}

static uint64_t user_bit(const struct bt_program *p, uint64_t *rng)
{
    return p->user || chance(rng, p->smap ? 25 : 40) ? PTE_U : 0;
}

/* One of the kinds of pages that a data address can have. */
static uint64_t data_entry(const struct bt_program *p, uint64_t *rng, unsigned kind)
{
    uint64_t common = PTE_P | user_bit(p, rng) | (chance(rng, 50) ? PTE_AD : 0) | PTE_NX |
                      (p->global ? PTE_G : 0); /* random bytes are no program */
    uint64_t own = p->data_gpa[3 + below(rng, BT_DATA_PAGES - 3)];
    switch (kind) {
    case 0:
    case 1:
    case 2: return common | PTE_W | own;
    case 3: return common | own;                    /* read-only */
    case 4: return (common & ~PTE_P) | PTE_W | own; /* not present */
    case 5: return (common & ~PTE_U) | PTE_W | own; /* supervisor's */
    case 6:
    case 7: return common | PTE_W | p->data_gpa[below(rng, 3)]; /* a second name */
    case 8: return common | PTE_W | BT_MMIO;
    case 9: return (common & ~PTE_P) | PTE_FIX | own;
    case 10: return common | PTE_FIX | own;
    case 11: return common | PTE_W | BT_ROM;
    default: return common | PTE_W | UINT64_C(0x8000000000000) | own; /* reserved bit */
    }
}

static void make_data_pages(struct bt_program *p, uint64_t *rng)
{
    for (unsigned i = 0; i < BT_DATA_PAGES; i++) {
        p->data_gpa[i] = BT_DATA + i * 4096;
    }
    permute(rng, p->data_gpa, BT_DATA_PAGES);
    memset(p->pt_data, 0, sizeof(p->pt_data));
    for (unsigned i = 0; i < BT_DATA_VA_N; i++) {
        if (i < 3) {
            p->pt_data[i] = data_entry(p, rng, 0);
            p->pt_data[i] = (p->pt_data[i] & ~UINT64_C(0xff000)) | p->data_gpa[i];
        } else if (i < 6) {
            p->pt_data[i] = data_entry(p, rng, below(rng, 8));
        } else {
            p->pt_data[i] = data_entry(p, rng, below(rng, chance(rng, 5) ? 13 : 12));
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        p->pt_data[24 + i] = PTE_P | PTE_W | (p->user ? PTE_U : 0) | (BT_USTACK + i * 4096) |
                             (p->global ? PTE_G : 0) | PTE_NX;
    }
}

static uint64_t code_flags(const struct bt_program *p)
{
    return PTE_P | (p->code_writable ? PTE_W : 0) | (p->code_user ? PTE_U : 0) |
           (p->global ? PTE_G : 0);
}

static void make_code_pages(struct bt_program *p, uint64_t *rng)
{
    for (unsigned i = 0; i < 2 * BT_CODE_PAGES; i++) {
        p->code_gpa[i] = BT_CODE + i * 4096;
    }
    permute(rng, p->code_gpa, 2 * BT_CODE_PAGES);
    memset(p->pt_code_a, 0, sizeof(p->pt_code_a));
    for (unsigned i = 0; i < BT_CODE_PAGES; i++) {
        p->pt_code_a[i] = code_flags(p) | p->code_gpa[i];
        p->pt_code_a[i + BT_ALIAS_X / 4096] = code_flags(p) | p->code_gpa[i];
        p->pt_code_a[i + BT_ALIAS_W / 4096] =
            PTE_P | PTE_W | PTE_NX | (p->user ? PTE_U : 0) | p->code_gpa[i];
    }
    memcpy(p->pt_code_b, p->pt_code_a, sizeof(p->pt_code_b));
    for (unsigned i = 0; i < BT_CODE_PAGES; i++) {
        if (chance(rng, 50)) {
            p->pt_code_b[i] = code_flags(p) | p->code_gpa[i + BT_CODE_PAGES];
        }
    }
}

static void make_changes(struct bt_program *p, uint64_t *rng)
{
    for (unsigned i = 0; i < ARRAY_LEN(p->changes); i++) {
        struct bt_change *c = &p->changes[i];
        if (i < 8) {
            unsigned k = i % BT_CODE_PAGES;
            c->pte = BT_PT_CODE_A + k * 8;
            c->va = p->base + BT_VA_CODE + k * 4096;
            c->value = code_flags(p) | p->code_gpa[k + (i < 4 ? BT_CODE_PAGES : 0)];
        } else {
            unsigned k = 3 + below(rng, BT_DATA_VA_N - 3);
            c->pte = BT_PT_DATA + k * 8;
            c->va = p->base + BT_VA_DATA + k * 4096 + below(rng, 4096);
            c->value = data_entry(p, rng, below(rng, 12));
        }
    }
}

static struct vcpu_seg segment(uint16_t sel, uint16_t attr)
{
    return (struct vcpu_seg){.sel = sel, .attr = attr, .limit = UINT32_MAX};
}

static void make_state(struct bt_program *p, uint64_t *rng)
{
    struct vcpu_state *s = &p->init;
    const uint64_t sys = BT_VA_SYS + BT_HIGH;
    const uint16_t dpl = p->user ? 3 << 5 : 0;
    vcpu_state_reset(s, true);
    s->cr0 = 0x80000033 | (p->write_protect ? CR0_WP : 0) | (p->align_check ? CR0_AM : 0);
    s->cr3 = BT_PML4_A;
    s->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE |
             (p->smap ? CR4_SMAP : 0) | (p->smep ? CR4_SMEP : 0) |
             (chance(rng, 50) ? CR4_UMIP : 0);
    s->efer = EFER_LME | EFER_LMA | EFER_NX | EFER_SCE;
    s->xcr0 = dt_xcr0;
    s->seg[X86_CS] = segment(p->user ? BT_SEL_UCODE : BT_SEL_KCODE,
                             (uint16_t)(0xb | SEG_S | dpl | SEG_P | SEG_L | SEG_G));
    s->seg[X86_SS] = segment(p->user ? BT_SEL_UDATA : BT_SEL_KDATA,
                             (uint16_t)(0x3 | SEG_S | dpl | SEG_P | SEG_DB | SEG_G));
    s->seg[X86_DS] = s->seg[X86_ES] = s->seg[X86_FS] = s->seg[X86_GS] =
        segment(BT_SEL_UDATA, 0x3 | SEG_S | 3 << 5 | SEG_P | SEG_DB | SEG_G);
    s->seg[X86_FS].base = p->base + BT_VA_DATA + below(rng, 0x2800);
    s->seg[X86_GS].base = p->base + BT_VA_DATA + below(rng, 0x2800);
    s->kernel_gs_base = p->base + BT_VA_DATA + below(rng, 0x2800);
    s->gdtr = (struct vcpu_dtable){sys + BT_GDT, 0x3f};
    s->idtr = (struct vcpu_dtable){sys + BT_IDT, 0xfff};
    s->ldtr = (struct vcpu_seg){0, SEG_UNUSABLE, 0, 0};
    s->tr = (struct vcpu_seg){BT_SEL_TSS, 0xb | SEG_P, 0x67, sys + BT_TSS};
    s->star = UINT64_C(0x001b0008) << 32;
    s->lstar = sys + BT_HANDLERS + (uint64_t)(bt_h_syscall - bt_handlers);
    s->sfmask = 0x47700;
    s->rflags = (dt_random(rng) & 0x8d5) | 0x202 | (p->smap ? 0x40000 : 0);
    s->rflags |= p->align_check && chance(rng, 50) ? 0x40000 : 0;
    s->rflags |= p->user && chance(rng, 8) ? 0x3000 : 0; /* IOPL 3 */
}

void bt_setup(struct bt_program *p, uint64_t *rng)
{
    p->user = chance(rng, 60);
    p->high = !p->user && chance(rng, 60);
    p->base = p->high ? BT_HIGH : 0;
    p->smap = !p->user && chance(rng, 30);
    p->code_user = p->user || chance(rng, 20);
    p->smep = !p->user && !p->code_user && chance(rng, 40);
    p->global = chance(rng, 25);
    p->two_cr3 = !p->global && chance(rng, 50);
    p->own_stack = chance(rng, 30);
    p->code_writable = chance(rng, 70);
    p->align_check = p->user && chance(rng, 4);
    p->write_protect = p->user || chance(rng, 80);
    p->x87_images = chance(rng, 50);
    make_data_pages(p, rng);
    make_code_pages(p, rng);
    make_changes(p, rng);
    make_state(p, rng);
}
