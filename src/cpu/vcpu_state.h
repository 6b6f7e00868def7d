/*
 * The architectural state of one x86-64 vCPU, neutral between engines. What save/load,
 * migration and the debugger see. Names are the manuals'. Saved field by field by
 * cpu/vcpu_state.c.
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct state_writer;
struct state_reader;

enum x86_reg {
    X86_RAX,
    X86_RCX,
    X86_RDX,
    X86_RBX,
    X86_RSP,
    X86_RBP,
    X86_RSI,
    X86_RDI,
    X86_R8,
    X86_R9,
    X86_R10,
    X86_R11,
    X86_R12,
    X86_R13,
    X86_R14,
    X86_R15,
};

enum x86_seg { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_NSEG };

/*
 * A segment register with its hidden part. attr holds descriptor bits 40-47 and 52-55 as the
 * VMCS/VMCB do: type 0-3, S 4, DPL 5-6, P 7, AVL 8, L 9, D/B 10, G 11; bit 15 set: unusable
 * (null). limit is in bytes, already scaled by G.
 */
struct vcpu_seg {
    uint16_t sel;
    uint16_t attr;
    uint32_t limit;
    uint64_t base;
};
#define SEG_TYPE     0x000f
#define SEG_S        0x0010
#define SEG_DPL(a)   (((a) >> 5) & 3)
#define SEG_P        0x0080
#define SEG_AVL      0x0100
#define SEG_L        0x0200
#define SEG_DB       0x0400
#define SEG_G        0x0800
#define SEG_UNUSABLE 0x8000

struct vcpu_dtable {
    uint64_t base;
    uint16_t limit;
};

enum vcpu_mp_state { VCPU_RUNNABLE, VCPU_HALTED, VCPU_WAIT_SIPI, VCPU_INIT };

#define VCPU_XSAVE_BYTES 4096 /* standard (non-compacted) XSAVE image */
#define VCPU_MTRR_VAR    8
#define VCPU_MCE_BANKS   10

struct vcpu_state {
    uint64_t gpr[16]; /* by enum x86_reg */
    uint64_t rip, rflags;
    struct vcpu_seg seg[X86_NSEG], tr, ldtr;
    struct vcpu_dtable gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, cr8, xcr0;
    uint64_t dr[8]; /* dr[4], dr[5] unused */

    uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, apic_base, misc_enable, tsc_aux, tsc_deadline, spec_ctrl, xss;
    uint64_t debugctl, mcg_status, mcg_ctl, mc_bank[VCPU_MCE_BANKS][4];
    uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_var[VCPU_MTRR_VAR][2];
    uint64_t kvm_system_time, kvm_wall_clock, kvm_steal_time, kvm_async_pf, kvm_pv_eoi,
        kvm_poll_control;
    int64_t tsc_offset;   /* guest TSC = host TSC scaled to tsc_khz + offset */
    uint64_t tsc_adjust;  /* IA32_TSC_ADJUST: what the guest added to its TSC */
    uint64_t tsc_at_save; /* guest TSC when this state was taken */

    uint32_t mp_state; /* enum vcpu_mp_state */
    /* An event that was being delivered, or an exception not yet delivered. */
    uint8_t event_pending, event_vector, event_has_error, event_soft;
    uint32_t event_error;
    uint8_t nmi_pending, nmi_blocked, irq_shadow; /* shadow: bit 0 STI, bit 1 MOV SS */
    uint8_t sipi_vector;

    uint32_t xsave_bytes;
    uint8_t xsave[VCPU_XSAVE_BYTES];
};

/* Power-on state (SDM vol. 3, table 10-1); bsp tells whether it starts at FFFF_FFF0h or waits.
 */
void vcpu_state_reset(struct vcpu_state *s, bool bsp);
void vcpu_state_save(const struct vcpu_state *s, uint32_t index, struct state_writer *w);
int vcpu_state_load(struct vcpu_state *s, uint32_t index, struct state_reader *r,
                    struct err *err);
