/*
 * CR0, CR3, CR4, EFER, XCR0: reserved bits, forbidden combinations, entry to and exit from long
 * mode, PAE page-directory pointers, TLB flushes. SDM vol. 3A 2.5, 2.6, 4.1.2, 4.4.1, 4.10.4.1,
 * 9.8.5; vol. 1 13.3. Which bits exist follows CPUID. vCPU thread, no lock.
 */
#include "cpu/soft/cr.h"

#define CR0_KNOWN                                                                              \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
     CR0_PG)
#define EFER_AUTOIBRS (UINT64_C(1) << 21) /* AMD; no effect */
#define CR3_NOFLUSH   (UINT64_C(1) << 63)

static int gp(struct scpu *c)
{
    return soft_raise_err(c, EXC_GP, 0);
}

static bool pae_tables(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

/* Paging goes on with EFER.LME, or off while in long mode. *efer gets LMA changed. */
static int change_long_mode(struct scpu *c, bool on, uint64_t *efer)
{
    if (on) {
        /* A 16-bit TSS or 64-bit code cannot be where long mode begins. */
        if (!(c->cr4 & CR4_PAE) || (c->seg[X86_CS].attr & SEG_L) || !(c->tr.attr & 8)) {
            return gp(c);
        }
        *efer |= EFER_LMA;
        return 0;
    }
    if (soft_code64(c)) {
        return gp(c);
    }
    *efer &= ~(uint64_t)EFER_LMA;
    return 0;
}

int cr_write_cr0(struct scpu *c, uint64_t value)
{
    uint64_t efer = c->efer;

    if (value >> 32) {
        return gp(c);
    }
    value = (value & CR0_KNOWN) | CR0_ET;
    uint64_t changed = value ^ c->cr0;
    bool pg = (value & CR0_PG) != 0;
    if ((pg && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)) ||
        (!pg && (c->cr4 & CR4_PCIDE))) {
        return gp(c);
    }
    if ((changed & CR0_PG) && (efer & EFER_LME) && change_long_mode(c, pg, &efer)) {
        return INSN_EXC;
    }
    if ((changed & (CR0_PG | CR0_CD | CR0_NW)) && pae_tables(value, c->cr4, efer) &&
        soft_load_pdptes(c, c->cr3)) {
        return INSN_EXC;
    }
    c->cr0 = value;
    c->efer = efer;
    if (changed & CR0_PE) {
        /* Leaving protected mode needs privilege 0; entering it starts there. */
        c->cpl = 0;
    }
    if (changed & (CR0_PG | CR0_WP | CR0_PE)) {
        soft_tlb_flush_all(c);
    }
    soft_update_mode(c);
    return 0;
}

int cr_write_cr3(struct scpu *c, uint64_t value)
{
    /* The TLB has no PCID tags, so what "no flush" would keep is dropped all the same. */
    if (c->cr4 & CR4_PCIDE) {
        value &= ~CR3_NOFLUSH;
    }
    if (soft_long_mode(c) && (value >> c->vm->model->phys_bits)) {
        return gp(c);
    }
    if (pae_tables(c->cr0, c->cr4, c->efer) && soft_load_pdptes(c, value)) {
        return INSN_EXC;
    }
    c->cr3 = value;
    soft_tlb_flush_nonglobal(c);
    return 0;
}

/* CR4 bits and the CPUID bit that brings each: {leaf, register, bit}; leaf 0: always there. */
struct cr4_bit {
    uint32_t bit;
    uint32_t leaf;
    uint8_t reg, cpuid_bit;
};
static const struct cr4_bit cr4_bits[] = {
    {CR4_VME, 1, 3, 1},      {CR4_PVI, 1, 3, 1},         {CR4_TSD, 1, 3, 4},
    {CR4_DE, 1, 3, 2},       {CR4_PSE, 1, 3, 3},         {CR4_PAE, 1, 3, 6},
    {CR4_MCE, 1, 3, 7},      {CR4_PGE, 1, 3, 13},        {CR4_PCE, 0, 0, 0},
    {CR4_OSFXSR, 1, 3, 24},  {CR4_OSXMMEXCPT, 1, 3, 25}, {CR4_UMIP, 7, 2, 2},
    {CR4_LA57, 7, 2, 16},    {CR4_FSGSBASE, 7, 1, 0},    {CR4_PCIDE, 1, 2, 17},
    {CR4_OSXSAVE, 1, 2, 26}, {CR4_SMEP, 7, 1, 7},        {CR4_SMAP, 7, 1, 20},
};

static uint64_t cr4_known(const struct cpu_model *model)
{
    uint64_t known = 0;

    for (unsigned i = 0; i < ARRAY_LEN(cr4_bits); i++) {
        const struct cr4_bit *b = &cr4_bits[i];
        if (b->leaf == 0 || cpu_model_has(model, b->leaf, 0, b->reg, b->cpuid_bit)) {
            known |= b->bit;
        }
    }
    return known;
}

int cr_write_cr4(struct scpu *c, uint64_t value)
{
    uint64_t changed = value ^ c->cr4;

    if (value & ~cr4_known(c->vm->model)) {
        return gp(c);
    }
    if (soft_long_mode(c) && (!(value & CR4_PAE) || (changed & CR4_LA57))) {
        return gp(c);
    }
    if ((changed & value & CR4_PCIDE) && (!soft_long_mode(c) || (c->cr3 & 0xfff))) {
        return gp(c);
    }
    if ((changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP)) &&
        pae_tables(c->cr0, value, c->efer) && soft_load_pdptes(c, c->cr3)) {
        return INSN_EXC;
    }
    c->cr4 = value;
    if (changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP | CR4_SMAP | CR4_PCIDE | CR4_LA57)) {
        soft_tlb_flush_all(c);
    }
    soft_update_mode(c);
    return 0;
}

int cr_write_efer(struct scpu *c, uint64_t value)
{
    const struct cpu_model *m = c->vm->model;
    uint64_t known = EFER_LMA;

    known |= cpu_model_has(m, 0x80000001u, 0, 3, 11) ? EFER_SCE : 0;
    known |= cpu_model_has(m, 0x80000001u, 0, 3, 29) ? EFER_LME : 0;
    known |= cpu_model_has(m, 0x80000001u, 0, 3, 20) ? EFER_NX : 0;
    known |= cpu_model_has(m, 0x80000021u, 0, 0, 8) ? EFER_AUTOIBRS : 0;
    if ((value & ~known) || ((value ^ c->efer) & EFER_LME && (c->cr0 & CR0_PG))) {
        return gp(c);
    }
    value = (value & ~(uint64_t)EFER_LMA) | (c->efer & EFER_LMA);
    bool nx_changed = ((value ^ c->efer) & EFER_NX) != 0;
    c->efer = value;
    if (nx_changed) {
        soft_tlb_flush_all(c);
    }
    soft_update_mode(c);
    return 0;
}

#define XCR0_X87    UINT64_C(0x1)
#define XCR0_SSE    UINT64_C(0x2)
#define XCR0_AVX    UINT64_C(0x4)
#define XCR0_AVX512 UINT64_C(0xe0)

int cr_write_xcr0(struct scpu *c, uint64_t value)
{
    uint64_t z = value & XCR0_AVX512;

    if ((value & ~c->vm->model->xcr0_mask) || !(value & XCR0_X87) ||
        ((value & XCR0_AVX) && !(value & XCR0_SSE)) ||
        (z && (z != XCR0_AVX512 || !(value & XCR0_AVX)))) {
        return gp(c);
    }
    c->xcr0 = value;
    soft_update_mode(c);
    return 0;
}
