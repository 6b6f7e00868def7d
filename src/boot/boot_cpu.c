/*
 * State of the boot CPU for each way into a kernel, and the descriptor and page tables it
 * needs.
 *
 * Linux 64-bit entry (x86 boot protocol): long mode, everything below 4 GiB identity-mapped,
 * flat segments 10h and 18h, interrupts off. 32-bit entries (Linux, PVH, multiboot): protected
 * mode without paging, flat segments. Real mode: segments as a boot loader leaves them. Nothing
 * saved.
 */
#include "base/bytes.h"
#include "base/ckd.h"
#include "boot/boot_priv.h"
#include "mem/mem.h"

#include <string.h>

#define CR0_PE  0x1u
#define CR0_MP  0x2u
#define CR0_ET  0x10u
#define CR0_NE  0x20u
#define CR0_WP  0x10000u
#define CR0_PG  0x80000000u
#define CR4_PAE 0x20u

#define EFER_LME 0x100u
#define EFER_LMA 0x400u

#define PTE_PRESENT_RW 0x3u
#define PTE_LARGE      0x80u

#define SEG_CODE_RX (SEG_P | SEG_S | 0xb)
#define SEG_DATA_RW (SEG_P | SEG_S | 0x3)
#define SEL_TSS     0x20

#define TABLES_BYTES (7 * MEM_PAGE_SIZE) /* GDT, PML4, PDPT, four directories */

/* A segment as a descriptor: bits 8-11 of attr are bits 52-55. */
static uint64_t descriptor(const struct vcpu_seg *s)
{
    uint64_t limit = (s->attr & SEG_G) != 0 ? s->limit >> 12 : s->limit;
    uint64_t attr = (s->attr & 0xffu) | (s->attr & 0x0f00u) << 4;

    return (limit & 0xffff) | (s->base & 0xffffff) << 16 | attr << 40 |
           (limit >> 16 & 0xf) << 48 | (s->base >> 24 & 0xff) << 56;
}

/* Flat segments into the state and, as descriptors, into the page at gdt. */
static void set_segments(struct vcpu_state *s, uint8_t *page, uint64_t gdt, bool is64)
{
    uint16_t mode = is64 ? SEG_L : SEG_DB;
    struct vcpu_seg code = {.sel = BOOT_SEL_CS,
                            .attr = (uint16_t)(SEG_CODE_RX | SEG_G | mode),
                            .limit = UINT32_MAX};
    struct vcpu_seg data = {
        .sel = BOOT_SEL_DS, .attr = SEG_DATA_RW | SEG_G | SEG_DB, .limit = UINT32_MAX};
    struct vcpu_seg tss = {.sel = SEL_TSS, .attr = SEG_P | 0xb, .limit = 0x67};

    s->seg[X86_CS] = code;
    s->seg[X86_DS] = s->seg[X86_ES] = s->seg[X86_SS] = data;
    s->seg[X86_FS] = s->seg[X86_GS] = data;
    s->tr = tss;
    s->ldtr = (struct vcpu_seg){.attr = SEG_UNUSABLE};
    put_le64(page + BOOT_SEL_CS, descriptor(&code));
    put_le64(page + BOOT_SEL_DS, descriptor(&data));
    put_le64(page + SEL_TSS, descriptor(&tss));
    s->gdtr = (struct vcpu_dtable){.base = gdt, .limit = 0x2f};
    s->idtr = (struct vcpu_dtable){0};
    s->rflags = 0x2;
}

static int store_identity_map(struct boot_ctx *ctx, uint64_t pml4, struct err *err)
{
    uint64_t table[512] = {0};
    int r;

    table[0] = (pml4 + MEM_PAGE_SIZE) | PTE_PRESENT_RW;
    if ((r = boot_store(ctx, pml4, table, sizeof(table), "page tables", err)) < 0) {
        return r;
    }
    for (unsigned i = 0; i < 4; i++) {
        table[i] = (pml4 + (2 + i) * MEM_PAGE_SIZE) | PTE_PRESENT_RW;
    }
    r = boot_store(ctx, pml4 + MEM_PAGE_SIZE, table, sizeof(table), "page tables", err);
    for (unsigned d = 0; d < 4 && r == 0; d++) {
        for (unsigned i = 0; i < 512; i++) {
            table[i] = (d * GIB + i * 2 * MIB) | PTE_LARGE | PTE_PRESENT_RW;
        }
        r = boot_store(ctx, pml4 + (2 + d) * MEM_PAGE_SIZE, table, sizeof(table), "page tables",
                       err);
    }
    return r;
}

int boot_cpu_long(struct boot_ctx *ctx, uint64_t rip, struct err *err)
{
    struct vcpu_state *s = &ctx->ret->cpu;
    uint8_t page[256] = {0};
    uint64_t gdt;
    int r;

    r = boot_claim_low(ctx, TABLES_BYTES, MEM_PAGE_SIZE, "boot tables", &gdt, err);
    if (r < 0 || (r = store_identity_map(ctx, gdt + MEM_PAGE_SIZE, err)) < 0) {
        return r;
    }
    set_segments(s, page, gdt, true);
    s->cr3 = gdt + MEM_PAGE_SIZE;
    s->cr4 = CR4_PAE;
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    s->efer = EFER_LME | EFER_LMA;
    s->rip = rip;
    memset(s->gpr, 0, sizeof(s->gpr));
    return boot_store(ctx, gdt, page, sizeof(page), "descriptor table", err);
}

int boot_cpu_prot(struct boot_ctx *ctx, uint32_t eip, struct err *err)
{
    struct vcpu_state *s = &ctx->ret->cpu;
    uint8_t page[256] = {0};
    uint64_t gdt;
    int r;

    r = boot_claim_low(ctx, sizeof(page), 16, "descriptor table", &gdt, err);
    if (r < 0) {
        return r;
    }
    set_segments(s, page, gdt, false);
    s->cr0 = CR0_PE | CR0_ET;
    s->rip = eip;
    memset(s->gpr, 0, sizeof(s->gpr));
    return boot_store(ctx, gdt, page, sizeof(page), "descriptor table", err);
}

void boot_cpu_real(struct boot_ctx *ctx, uint16_t cs, uint16_t ip, uint16_t ds, uint16_t sp)
{
    struct vcpu_state *s = &ctx->ret->cpu;

    for (unsigned i = 0; i < X86_NSEG; i++) {
        s->seg[i].sel = ds;
        s->seg[i].base = (uint64_t)ds << 4;
    }
    s->seg[X86_CS].sel = cs;
    s->seg[X86_CS].base = (uint64_t)cs << 4;
    s->cr0 = CR0_ET;
    s->idtr.limit = 0x3ff;
    s->rflags = 0x2;
    memset(s->gpr, 0, sizeof(s->gpr));
    s->gpr[X86_RSP] = sp;
    s->rip = ip;
}
