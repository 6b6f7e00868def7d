/*
 * The architectural state of a vCPU: power-on values (Intel SDM vol. 3, table 10-1) and its
 * section of the state stream. No locks: a state belongs to one thread.
 *
 * A loaded state comes from anyone. Its shape is checked here: what no processor can hold is
 * refused by name, so that an engine never sees it. What depends on the host or the CPU model
 * (XSAVE components, physical address width) is checked by the engine's set_state.
 */
#include "cpu/vcpu_state.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "state/state.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define XSAVE_LEGACY_BYTES 512
#define XSAVE_MIN_BYTES    576 /* legacy area and header */
#define XSAVE_MXCSR        24
#define XSAVE_MXCSR_MASK   28
#define XSAVE_BV           512
#define XSAVE_XCOMP_BV     520

#define SEG_REAL_CODE (SEG_P | SEG_S | 0xb)
#define SEG_REAL_DATA (SEG_P | SEG_S | 0x3)
#define SEG_LDT       (SEG_P | 0x2)
#define SEG_TSS_BUSY  (SEG_P | 0xb)

/* FCW 0040h, FTW 5555h (every register holds +0.0), MXCSR 1F80h. */
static void reset_xsave(struct vcpu_state *s)
{
    put_le16(&s->xsave[0], 0x0040);
    s->xsave[4] = 0xff; /* abridged tag word: none empty */
    put_le32(&s->xsave[XSAVE_MXCSR], 0x1f80);
    put_le32(&s->xsave[XSAVE_MXCSR_MASK], 0xffff);
    put_le64(&s->xsave[XSAVE_BV], 3);
    s->xsave_bytes = XSAVE_MIN_BYTES;
}

void vcpu_state_reset(struct vcpu_state *s, bool bsp)
{
    memset(s, 0, sizeof(*s));
    s->rflags = 0x2;
    s->rip = 0xfff0;
    s->gpr[X86_RDX] = 0x600; /* family 6; an engine puts CPUID's signature here */
    for (int i = 0; i < X86_NSEG; i++) {
        s->seg[i] = (struct vcpu_seg){.attr = SEG_REAL_DATA, .limit = 0xffff};
    }
    /* The data sheet says read/write data; VMX wants CS to be code, and nothing tells the two
     * apart before the first far jump. */
    s->seg[X86_CS] = (struct vcpu_seg){
        .sel = 0xf000, .attr = SEG_REAL_CODE, .limit = 0xffff, .base = 0xffff0000};
    s->ldtr = (struct vcpu_seg){.attr = SEG_LDT, .limit = 0xffff};
    s->tr = (struct vcpu_seg){.attr = SEG_TSS_BUSY, .limit = 0xffff};
    s->gdtr.limit = 0xffff;
    s->idtr.limit = 0xffff;
    s->cr0 = 0x60000010;
    s->xcr0 = 1;
    s->dr[6] = 0xffff0ff0;
    s->dr[7] = 0x400;
    s->pat = UINT64_C(0x0007040600070406);
    s->apic_base = UINT64_C(0xfee00000) | 0x800 | (bsp ? 0x100u : 0);
    s->misc_enable = 1; /* fast strings */
    s->kvm_poll_control = 1;
    s->mp_state = bsp ? VCPU_RUNNABLE : VCPU_WAIT_SIPI;
    reset_xsave(s);
}

#define U(member)      STATE_UINT(struct vcpu_state, member)
#define US(member)     STATE_UINTS(struct vcpu_state, member)
#define UN(member, n)  STATE_UINT_N(struct vcpu_state, member, n)
#define SEG(member)    U(member.sel), U(member.attr), U(member.limit), U(member.base)
#define DTABLE(member) U(member.base), U(member.limit)

/* xsave is apart: only its xsave_bytes are saved. */
static const struct state_field vcpu_fields[] = {
    US(gpr),
    U(rip),
    U(rflags),
    SEG(seg[X86_ES]),
    SEG(seg[X86_CS]),
    SEG(seg[X86_SS]),
    SEG(seg[X86_DS]),
    SEG(seg[X86_FS]),
    SEG(seg[X86_GS]),
    SEG(tr),
    SEG(ldtr),
    DTABLE(gdtr),
    DTABLE(idtr),
    U(cr0),
    U(cr2),
    U(cr3),
    U(cr4),
    U(cr8),
    U(xcr0),
    US(dr),
    U(efer),
    U(star),
    U(lstar),
    U(cstar),
    U(sfmask),
    U(kernel_gs_base),
    U(sysenter_cs),
    U(sysenter_esp),
    U(sysenter_eip),
    U(pat),
    U(apic_base),
    U(misc_enable),
    U(tsc_aux),
    U(tsc_deadline),
    U(spec_ctrl),
    U(xss),
    U(debugctl),
    U(mcg_status),
    U(mcg_ctl),
    UN(mc_bank, VCPU_MCE_BANKS * 4),
    U(mtrr_def_type),
    US(mtrr_fixed),
    UN(mtrr_var, VCPU_MTRR_VAR * 2),
    U(kvm_system_time),
    U(kvm_wall_clock),
    U(kvm_steal_time),
    U(kvm_async_pf),
    U(kvm_pv_eoi),
    U(kvm_poll_control),
    U(tsc_offset),
    U(tsc_adjust),
    U(tsc_at_save),
    U(mp_state),
    U(event_pending),
    U(event_vector),
    U(event_has_error),
    U(event_soft),
    U(event_error),
    U(nmi_pending),
    U(nmi_blocked),
    U(irq_shadow),
    U(sipi_vector),
    STATE_END,
};

#define VCPU_SECTION "vcpu"
#define VCPU_VERSION 1

void vcpu_state_save(const struct vcpu_state *s, uint32_t index, struct state_writer *w)
{
    state_begin(w, VCPU_SECTION, index, VCPU_VERSION);
    state_put_fields(w, vcpu_fields, s);
    state_put_bytes(w, "xsave", s->xsave, MIN(s->xsave_bytes, (uint32_t)VCPU_XSAVE_BYTES));
    state_end(w);
}

#define CR0_PE   UINT64_C(0x1)
#define CR0_NW   UINT64_C(0x20000000)
#define CR0_CD   UINT64_C(0x40000000)
#define CR0_PG   UINT64_C(0x80000000)
#define CR4_PAE  UINT64_C(0x20)
#define CR4_LA57 UINT64_C(0x1000)
#define EFER_LME UINT64_C(0x100)
#define EFER_LMA UINT64_C(0x400)

static bool canonical(const struct vcpu_state *s, uint64_t va)
{
    unsigned shift = (s->cr4 & CR4_LA57) != 0 ? 64 - 57 : 64 - 48;

    return (uint64_t)((int64_t)(va << shift) >> shift) == va;
}

static bool pat_ok(uint64_t pat)
{
    for (unsigned i = 0; i < 8; i++) {
        uint8_t type = (uint8_t)(pat >> (8 * i));
        if (type > 7 || type == 2 || type == 3) {
            return false;
        }
    }
    return true;
}

/* The name of the first register that no processor can hold, or NULL. */
static const char *bad_register(const struct vcpu_state *s)
{
    bool paging = (s->cr0 & CR0_PG) != 0;
    bool lma = paging && (s->efer & EFER_LME) != 0;
    const struct {
        const char *name;
        bool ok;
    } checks[] = {
        {"cr0", s->cr0 >> 32 == 0 && (!paging || (s->cr0 & CR0_PE) != 0) &&
                    ((s->cr0 & CR0_NW) == 0 || (s->cr0 & CR0_CD) != 0)},
        {"cr4", s->cr4 >> 32 == 0 && (!lma || (s->cr4 & CR4_PAE) != 0)},
        {"efer", s->efer >> 22 == 0 && ((s->efer & EFER_LMA) != 0) == lma},
        {"cr3", s->cr3 >> 52 == 0},
        {"cr8", s->cr8 <= 15},
        {"xcr0", (s->xcr0 & 1) != 0},
        {"rflags", (s->rflags & 0x2) != 0 && s->rflags >> 22 == 0 && (s->rflags & 0x8028) == 0},
        {"rip", canonical(s, s->rip)},
        {"seg[X86_FS].base", canonical(s, s->seg[X86_FS].base)},
        {"seg[X86_GS].base", canonical(s, s->seg[X86_GS].base)},
        {"tr.base", canonical(s, s->tr.base)},
        {"ldtr.base", canonical(s, s->ldtr.base)},
        {"gdtr.base", canonical(s, s->gdtr.base)},
        {"idtr.base", canonical(s, s->idtr.base)},
        {"kernel_gs_base", canonical(s, s->kernel_gs_base)},
        {"lstar", canonical(s, s->lstar)},
        {"cstar", canonical(s, s->cstar)},
        {"sysenter_esp", canonical(s, s->sysenter_esp)},
        {"sysenter_eip", canonical(s, s->sysenter_eip)},
        {"dr[6]", s->dr[6] >> 32 == 0},
        {"dr[7]", s->dr[7] >> 32 == 0},
        {"pat", pat_ok(s->pat)},
        {"apic_base", s->apic_base >> 52 == 0},
        {"mp_state", s->mp_state <= VCPU_INIT},
        {"event_pending", s->event_pending <= 1},
        {"event_has_error", s->event_has_error <= 1},
        {"event_soft", s->event_soft <= 1},
        {"nmi_pending", s->nmi_pending <= 1},
        {"nmi_blocked", s->nmi_blocked <= 1},
        {"irq_shadow", s->irq_shadow <= 3},
    };
    for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
        if (!checks[i].ok) {
            return checks[i].name;
        }
    }
    return NULL;
}

/* XRSTOR faults on what this refuses, and an engine restores the image with XRSTOR. */
static bool xsave_ok(const uint8_t *image, size_t len)
{
    if (len < XSAVE_MIN_BYTES || get_le32(image + XSAVE_MXCSR) >> 16 != 0) {
        return false;
    }
    for (size_t i = XSAVE_XCOMP_BV; i < XSAVE_MIN_BYTES; i++) {
        if (image[i] != 0) {
            return false;
        }
    }
    return get_le64(image + XSAVE_BV) >> 63 == 0;
}

int vcpu_state_load(struct vcpu_state *s, uint32_t index, struct state_reader *r,
                    struct err *err)
{
    struct vcpu_state loaded = {0};
    uint32_t version;
    const void *xsave = NULL;
    size_t xsave_len = 0;

    int rc = state_enter(r, VCPU_SECTION, index, VCPU_VERSION, &version, err);
    if (rc == 0) {
        rc = state_get_fields(r, vcpu_fields, &loaded, err);
    }
    if (rc == 0) {
        rc = state_get_blob(r, "xsave", VCPU_XSAVE_BYTES, &xsave, &xsave_len, err);
    }
    if (rc == 0) {
        rc = state_leave(r, err);
    }
    if (rc < 0) {
        return rc;
    }
    const char *bad = xsave_ok(xsave, xsave_len) ? bad_register(&loaded) : "xsave";
    if (bad != NULL) {
        return ERR(err, STATE_BAD, EINVAL,
                   "saved state: section %s[%" PRIu32
                   "]: %s has a value that no processor can hold",
                   VCPU_SECTION, index, bad);
    }
    memcpy(loaded.xsave, xsave, xsave_len);
    loaded.xsave_bytes = (uint32_t)xsave_len;
    *s = loaded;
    return 0;
}
