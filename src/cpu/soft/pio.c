/*
 * Port I/O: IN, OUT, INS, OUTS, with the IOPL and TSS bitmap checks. SDM vol. 1 18.5, vol. 2.
 * Ports are callbacks of the machine (engine_host). vCPU thread; no lock is held in a callback.
 *
 * A string instruction does a bounded number of elements each time, every one complete before
 * the next, and then lets interrupts in (INSN_REPEAT).
 */
#include "cpu/soft/seg.h"
#include "cpu/soft/sysinsn.h"

#define TSS_IOMAP       102u
#define STRING_ELEMENTS 64u

/* #GP(0) unless the port may be used at this privilege. */
static int check_port(struct scpu *c, uint16_t port, unsigned len)
{
    uint64_t base, bits, mask = (UINT64_C(1) << len) - 1;

    if (!(c->cr0 & CR0_PE) || (!seg_is_vm86(c) && c->cpl <= ((c->sysflags >> 12) & 3))) {
        return 0;
    }
    if ((c->tr.attr & SEG_UNUSABLE) || !(c->tr.attr & 8) || TSS_IOMAP + 1 > c->tr.limit) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    if (soft_ld(c, c->tr.base + TSS_IOMAP, 2, ACC_READ | ACC_SYS, &base)) {
        return INSN_EXC;
    }
    /* Two bytes are always read, which is why the map ends with a byte of ones. */
    if (base + port / 8u + 1 > c->tr.limit) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    if (soft_ld(c, c->tr.base + base + port / 8u, 2, ACC_READ | ACC_SYS, &bits)) {
        return INSN_EXC;
    }
    return (bits >> (port & 7)) & mask ? soft_raise_err(c, EXC_GP, 0) : 0;
}

static uint64_t port_read(struct scpu *c, uint16_t port, unsigned len)
{
    c->stats.exits_pio++;
    soft_leave(c);
    return c->vm->host.pio_read(c->vm->host.opaque, c->index, port, len) & seg_mask(len);
}

static void port_write(struct scpu *c, uint16_t port, unsigned len, uint64_t value)
{
    c->stats.exits_pio++;
    soft_leave(c);
    c->vm->host.pio_write(c->vm->host.opaque, c->index, port, len,
                          (uint32_t)(value & seg_mask(len)));
}

static unsigned port_size(const struct insn *in)
{
    return !(in->opcode & 1) ? 1 : in->osize == 2 ? 2 : 4;
}

static enum insn_result port_in(struct scpu *c, const struct insn *in, uint16_t port)
{
    unsigned len = port_size(in);

    if (check_port(c, port, len)) {
        return INSN_EXC;
    }
    soft_reg_set(c, X86_RAX, len, port_read(c, port, len));
    return INSN_NEXT;
}

static enum insn_result port_out(struct scpu *c, const struct insn *in, uint16_t port)
{
    unsigned len = port_size(in);

    if (check_port(c, port, len)) {
        return INSN_EXC;
    }
    port_write(c, port, len, c->gpr[X86_RAX]);
    return INSN_NEXT;
}

enum insn_result soft_insn_in_imm(struct scpu *c, const struct insn *in)
{
    return port_in(c, in, in->imm & 0xff);
}

enum insn_result soft_insn_in_dx(struct scpu *c, const struct insn *in)
{
    return port_in(c, in, (uint16_t)c->gpr[X86_RDX]);
}

enum insn_result soft_insn_out_imm(struct scpu *c, const struct insn *in)
{
    return port_out(c, in, in->imm & 0xff);
}

enum insn_result soft_insn_out_dx(struct scpu *c, const struct insn *in)
{
    return port_out(c, in, (uint16_t)c->gpr[X86_RDX]);
}

/* ---- strings ---- */

static void advance(struct scpu *c, const struct insn *in, enum x86_reg reg, unsigned len)
{
    uint64_t step = c->sysflags & FL_DF ? 0 - (uint64_t)len : len;

    soft_reg_set(c, reg, in->asize, c->gpr[reg] + step);
}

static int ins_one(struct scpu *c, const struct insn *in, uint16_t port, unsigned len)
{
    unsigned acc = seg_acc(c) | ACC_WRITE;
    uint64_t va;

    /* The port is read only when its value can be stored. */
    if (soft_seg_linear(c, X86_ES, soft_reg_get(c, X86_RDI, in->asize), len, true, &va) ||
        soft_lin_probe(c, va, len, acc | ACC_PROBE) ||
        soft_st(c, va, len, acc, port_read(c, port, len))) {
        return INSN_EXC;
    }
    advance(c, in, X86_RDI, len);
    return 0;
}

static int outs_one(struct scpu *c, const struct insn *in, uint16_t port, unsigned len)
{
    uint64_t va, v;

    if (soft_seg_linear(c, (enum x86_seg)in->seg, soft_reg_get(c, X86_RSI, in->asize), len,
                        false, &va) ||
        soft_ld(c, va, len, seg_acc(c), &v)) {
        return INSN_EXC;
    }
    port_write(c, port, len, v);
    advance(c, in, X86_RSI, len);
    return 0;
}

typedef int port_string_fn(struct scpu *c, const struct insn *in, uint16_t port, unsigned len);

static enum insn_result port_string(struct scpu *c, const struct insn *in, port_string_fn *one)
{
    uint16_t port = (uint16_t)c->gpr[X86_RDX];
    unsigned len = port_size(in);
    bool rep = in->rep != REP_NONE;

    if (check_port(c, port, len)) { /* also when there is nothing to do */
        return INSN_EXC;
    }
    if (rep && soft_reg_get(c, X86_RCX, in->asize) == 0) {
        return INSN_NEXT;
    }
    if (!rep) {
        return one(c, in, port, len) ? INSN_EXC : INSN_NEXT;
    }
    for (unsigned i = 0; i < STRING_ELEMENTS; i++) {
        if (one(c, in, port, len)) {
            return INSN_EXC;
        }
        uint64_t left = soft_reg_get(c, X86_RCX, in->asize) - 1;
        soft_reg_set(c, X86_RCX, in->asize, left);
        if (soft_reg_get(c, X86_RCX, in->asize) == 0) {
            return INSN_NEXT;
        }
        if (c->code_hit || (c->mode & MODE_STEP) || atomic_load_relaxed_u32(&c->exit_req)) {
            break;
        }
    }
    return INSN_REPEAT;
}

enum insn_result soft_insn_ins(struct scpu *c, const struct insn *in)
{
    return port_string(c, in, ins_one);
}

enum insn_result soft_insn_outs(struct scpu *c, const struct insn *in)
{
    return port_string(c, in, outs_one);
}
