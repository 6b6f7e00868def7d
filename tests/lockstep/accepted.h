/*
 * Differences in which QEMU 7.2's TCG is wrong or has a choice. Each names the manual's section
 * that says what is right; `is` must be as narrow as the difference. Two more are built into
 * the comparison, because they would be met in each case:
 *  - RF in the flags image of a fault's frame: faults push it set (SDM 3B 17.3.1.1), TCG does
 * not;
 *  - the busy bit in TR's hidden type after LTR: TCG keeps the type that it read.
 */
#pragma once

static bool is_mnemonic(const struct event *e, ZydisMnemonic m)
{
    return e->i->ok && e->i->in.mnemonic == m;
}

/* TCG checks neither limits nor types of segments at ordinary accesses. */
static bool is_lenient_segment(const struct event *e)
{
    return (e->vec_ours == EXC_GP || e->vec_ours == EXC_SS) && e->vec_theirs != e->vec_ours &&
           e->i->ok && !e->pre->code64 && !is_mnemonic(e, ZYDIS_MNEMONIC_UD2);
}

/* The error code of a reserved bit, popped by the handler: RSVD without P. */
static bool is_reserved_bit_code(const struct event *e)
{
    return is_mnemonic(e, ZYDIS_MNEMONIC_POP) && e->d->n == 1 && e->d->gpr &&
           (e->ours->gpr[X86_RBX] & 9) == 9 && (e->theirs->gpr[X86_RBX] & 9) == 8 &&
           (e->theirs->gpr[X86_RBX] | 3) == (e->ours->gpr[X86_RBX] | 2);
}

/* INT n of a gate that is not there in long mode: index * 16 + 2. */
static bool is_idt_code(const struct event *e)
{
    uint64_t a = e->ours != NULL ? e->ours->gpr[X86_RBX] : 0;
    return is_mnemonic(e, ZYDIS_MNEMONIC_POP) && e->d->n == 1 && e->d->gpr && e->ours->lma &&
           (a & 2) && e->theirs->gpr[X86_RBX] - 2 == (a & ~7u) * 2;
}

/* IST without a change of level. */
static bool is_ist_ss(const struct event *e)
{
    return e->d->n == 1 && e->d->seg && e->ours->lma && e->vec_ours >= 0 &&
           e->vec_ours == e->vec_theirs && e->theirs->seg[X86_SS].sel == 0 &&
           e->pre->cpl == 0 && e->ours->seg[X86_SS].sel == e->pre->seg[X86_SS].sel;
}

/* The instruction that faulted, when a record is after the handler's second POP. */
static bool at_error_code(const struct event *e, struct insn_info *ret_faulted)
{
    if (!is_mnemonic(e, ZYDIS_MNEMONIC_POP) || e->d->n != 1 || !e->d->gpr ||
        e->pre < &ours.rec[4] || vector_at(e->pre - 3) < 0 ||
        e->ours->gpr[X86_RBX] == e->theirs->gpr[X86_RBX]) {
        return false;
    }
    decode(e->pre - 4, ret_faulted);
    return ret_faulted->ok;
}

static bool has_memory(const struct insn_info *i, bool modified)
{
    for (unsigned k = 0; k < i->in.operand_count; k++) {
        bool rw = (i->op[k].actions & ZYDIS_OPERAND_ACTION_MASK_READ) &&
                  (i->op[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
        if (i->op[k].type == ZYDIS_OPERAND_TYPE_MEMORY && (rw || !modified)) {
            return true;
        }
    }
    return false;
}

/* A null data segment is not checked, so a later check speaks. */
static bool is_lenient_null(const struct event *e)
{
    struct insn_info f;
    return at_error_code(e, &f) && !(e->pre - 4)->code64 && has_memory(&f, false) &&
           e->ours->gpr[X86_RBX] == 0;
}

/* A read-modify-write faults as a read. That a processor says write is what tests/difftest
 * sees. */
static bool is_rmw_read(const struct event *e)
{
    struct insn_info f;
    return at_error_code(e, &f) && has_memory(&f, true) &&
           e->ours->gpr[X86_RBX] == (e->theirs->gpr[X86_RBX] | 2) &&
           vector_at(e->pre - 3) == 14;
}

/* CMPS of two bad pages: which of them is reported. */
static bool is_cmps_order(const struct event *e)
{
    return e->i->ok && e->vec_ours == 14 && e->vec_theirs == 14 && e->d->n == 1 &&
           (e->i->in.opcode & 0xfe) == 0xa6 && e->ours->cr2 != e->theirs->cr2;
}

static bool is_no_gd(const struct event *e)
{
    bool dr = e->i->ok && e->i->in.opcode_map == ZYDIS_OPCODE_MAP_0F &&
              (e->i->in.opcode & 0xfd) == 0x21;
    bool entry = e->vec_ours == 1 && e->vec_theirs == 1 && e->d->n == 1 && e->d->system;
    return (e->pre->dr[7] & 0x2000) && e->vec_ours == 1 && (dr || entry);
}

/* TCG lets AMD's SYSENTER and SYSEXIT pass in compatibility mode. */
static bool is_sysenter_amd(const struct event *e)
{
    return (is_mnemonic(e, ZYDIS_MNEMONIC_SYSENTER) ||
            is_mnemonic(e, ZYDIS_MNEMONIC_SYSEXIT)) &&
           e->vec_ours == EXC_UD && e->pre->lma && !e->pre->code64;
}

static bool is_tss16_upper(const struct event *e)
{
    for (unsigned k = 0; k < 8; k++) {
        if ((e->ours->gpr[k] ^ e->theirs->gpr[k]) & 0xffff) {
            return false;
        }
    }
    return e->d->gpr && !e->d->rip && !e->d->seg && !e->d->system &&
           ((e->ours->rflags ^ e->theirs->rflags) & 0xffff) == 0 && e->ours->tr.limit < 0x67 &&
           e->ours->tr.sel != e->pre->tr.sel;
}

/* TSS.T, and B0-3 that a processor may clear. */
static bool is_debug_status(const struct event *e)
{
    uint64_t x = e->ours != NULL && e->theirs != NULL ? e->ours->dr[6] ^ e->theirs->dr[6] : 0;
    return (e->vec_ours == 1 && (e->ours->dr[6] & 0x8000)) ||
           (e->vec_ours == 1 && e->vec_theirs == 1 && e->d->n == 1 && (x & ~0xfull) == 0);
}

static bool is_em_before_ts(const struct event *e)
{
    return e->vec_ours == EXC_UD && e->vec_theirs == EXC_NM && (e->pre->cr0 & 12) == 12;
}

static bool is_null_ss(const struct event *e)
{
    return e->vec_ours == EXC_GP && e->vec_theirs < 0 && e->pre->code64 && e->theirs != NULL &&
           (e->theirs->seg[X86_SS].sel & ~3) == 0 &&
           (e->theirs->seg[X86_SS].sel & 3) != e->pre->cpl;
}

/* TCG clears the status flags and DF, whatever SFMASK says. */
static bool is_syscall_flags(const struct event *e)
{
    return is_mnemonic(e, ZYDIS_MNEMONIC_SYSCALL) && e->d->n == 1 && e->d->flags &&
           ((e->ours->rflags ^ e->theirs->rflags) & ~(FL_STATUS | FL_DF)) == 0 &&
           (e->theirs->rflags & (FL_STATUS | FL_DF)) == 0;
}

/* Values of control registers that must fault and are taken. */
static bool is_lenient_control(const struct event *e)
{
    return is_mnemonic(e, ZYDIS_MNEMONIC_MOV) && e->i->in.opcode == 0x22 &&
           e->vec_ours == EXC_GP && e->vec_theirs == -1;
}

/* STI holds interrupts back, not the trap of TF. */
static bool is_sti_trap(const struct event *e)
{
    return is_mnemonic(e, ZYDIS_MNEMONIC_STI) && e->vec_ours == 1 && e->vec_theirs == -1 &&
           (e->pre->rflags & FL_TF);
}

/* DR4 and DR5 with CR4.DE at CPL 3: which of two faults. */
static bool is_dr4_order(const struct event *e)
{
    return e->vec_ours == EXC_UD && e->vec_theirs == EXC_GP && (e->pre->cr4 & CR4_DE) &&
           e->pre->cpl != 0 && e->i->ok && (e->i->in.opcode & 0xfd) == 0x21;
}

static bool is_alignment(const struct event *e)
{
    return e->vec_ours == EXC_AC && e->vec_theirs != EXC_AC && e->pre->cpl == 3 &&
           (e->pre->cr0 & CR0_AM) && (e->pre->rflags & FL_AC);
}

static bool is_syscall_intel(const struct event *e)
{
    return (is_mnemonic(e, ZYDIS_MNEMONIC_SYSCALL) || is_mnemonic(e, ZYDIS_MNEMONIC_SYSRET)) &&
           e->vec_ours == EXC_UD && !e->pre->code64;
}

/* Our case ends when SMAP keeps the processor from tables in user pages; AC does not allow
 * that. */
static const char smap_implicit[] = "accepted: SMAP at implicit accesses (SDM 3A 4.6.1)";
static bool is_smap_implicit(const struct ls_rec *pre)
{
    return (pre->cr4 & CR4_SMAP) && (pre->cr0 & CR0_PG);
}

/* Code that wandered and reads a port at which QEMU has a device. */
static bool is_other_port(const struct event *e)
{
    return is_mnemonic(e, ZYDIS_MNEMONIC_IN) && e->d->gpr && e->d->n == 1;
}

/* Code that wandered into the words by which the ROM talks to us. */
static bool is_harness(const struct event *e)
{
    return e->pre->rip + e->pre->seg[X86_CS].base - LS_BOOTS < 0x10;
}

static const struct {
    const char *name;
    bool (*is)(const struct event *e);
} accepted[] = {
    {"segment limit or type not checked (SDM 3A 6.3, 6.5)", is_lenient_segment},
    {"error code of an IDT entry in long mode (SDM 3A 6.13)", is_idt_code},
    {"SS nulled by an IST stack at the same level (SDM 2A INT n)", is_ist_ss},
    {"null segment not checked (SDM 3A 6.4.1)", is_lenient_null},
    {"read-modify-write that faults as a read (AMD APM 2 8.4.2)", is_rmw_read},
    {"order of the two operands of CMPS (not specified)", is_cmps_order},
    {"DR7.GD (SDM 3B 18.2.4)", is_no_gd},
    {"SYSENTER in long mode on AMD (AMD APM 3 SYSENTER)", is_sysenter_amd},
    {"code in the words of the harness", is_harness},
    {"upper halves after a 16-bit TSS (not specified)", is_tss16_upper},
    {"TSS.T; DR6.B0-3 cleared by another #DB (SDM 3B 18.2.3)", is_debug_status},
    {"#UD by CR0.EM before #NM by CR0.TS (SDM 3A 2.5)", is_em_before_ts},
    {"null SS with an RPL that is not CPL (SDM 2B MOV)", is_null_ss},
    {"SYSCALL and the status flags (SDM 2B SYSCALL)", is_syscall_flags},
    {"control register values not checked (SDM 2B MOV CRn)", is_lenient_control},
    {"TF trap after STI (SDM 3A 6.8.3)", is_sti_trap},
    {"#UD or #GP first at DR4 and DR5 (not specified)", is_dr4_order},
    {"no alignment checks (SDM 3A 6.15 #AC)", is_alignment},
    {"SYSCALL outside 64-bit mode on Intel (SDM 2B SYSCALL)", is_syscall_intel},
    {"port with a device", is_other_port},
    {"page fault with RSVD without P (SDM 3A 4.7)", is_reserved_bit_code},
};
