/*
 * FLDENV, FNSTENV, FRSTOR, FNSAVE: run by the host on its 32-bit protected-mode format,
 * converted from and to the guest's format of 16 or 32 bits, real or protected mode. SDM vol. 1
 * section 8.1.10 (figures 8-9 to 8-12). Compiled for general registers only.
 */
#include "cpu/soft/native_int.h"

#define ENV32 28
#define ENV16 14
#define REGS  80

/* Offsets in the 32-bit protected format. */
enum {
    E_FCW = 0,
    E_FSW = 4,
    E_FTW = 8,
    E_FIP = 12,
    E_FCS = 16,
    E_FOP = 18,
    E_FDP = 20,
    E_FDS = 24
};

static uint32_t get(const uint8_t *p, unsigned n)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < n; i++) {
        v |= (uint32_t)p[i] << (8 * i);
    }
    return v;
}

static void put(uint8_t *p, uint32_t v, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        p[i] = (uint8_t)(v >> (8 * i));
    }
}

static unsigned acc_rights(const struct scpu *c)
{
    return c->cpl == 3 ? ACC_USER : 0;
}

static bool real_format(const struct scpu *c)
{
    return !(c->mode & MODE_PE) || (c->mode & MODE_VM86);
}

static unsigned env_bytes(const struct native_insn *ni)
{
    return ni->in.osize == 2 ? ENV16 : ENV32;
}

/* The host's pointers in a fresh environment become the guest's. */
static void fix_env(struct scpu *c, uint8_t *e)
{
    const struct native_cache *nc = c->native;
    const struct native_x87_ptr *x = &nc->x87;
    native_x87_resolve(c);
    if (get(e + E_FIP, 4) - (uint32_t)(uintptr_t)nc->rx < NATIVE_CODE_BYTES) {
        uint64_t ip = x->ip;
        put(e + E_FIP, (uint32_t)ip, 4);
        put(e + E_FCS, nc->zero_fcs ? 0 : x->cs, 2);
        if (get(e + E_FOP, 2) != 0) {
            put(e + E_FOP, x->op & 0x7ff, 2);
        }
    }
    if (x->host_dp != 0 && get(e + E_FDP, 4) == (uint32_t)x->host_dp) {
        put(e + E_FDP, (uint32_t)x->dp, 4);
        put(e + E_FDS, nc->zero_fcs ? 0 : x->ds, 2);
    }
}

/* 32-bit protected format to the guest's; at most ENV32 bytes. */
static void to_guest(const struct scpu *c, const struct native_insn *ni, const uint8_t *e,
                     uint8_t *g)
{
    bool small = ni->in.osize == 2;
    unsigned step = small ? 2 : 4;
    uint32_t ip = get(e + E_FIP, 4), dp = get(e + E_FDP, 4);
    uint32_t cs = get(e + E_FCS, 2), ds = get(e + E_FDS, 2), op = get(e + E_FOP, 2) & 0x7ff;
    for (unsigned i = 0; i < ENV32; i++) {
        g[i] = small ? 0 : e[i];
    }
    for (unsigned i = 0; i < 3; i++) {
        put(g + (size_t)i * step, get(e + (size_t)i * 4, 2), 2);
    }
    if (real_format(c)) {
        ip += cs << 4;
        dp += ds << 4;
        put(g + (size_t)3 * step, ip & 0xffff, 2);
        put(g + (size_t)4 * step, op | ip >> 16 << 12, step);
        put(g + (size_t)5 * step, dp & 0xffff, 2);
        put(g + (size_t)6 * step, dp >> 16 << 12, step);
        if (!small) {
            put(g + 14, 0xffff, 2);
            put(g + 22, 0xffff, 2);
        }
    } else if (small) {
        put(g + 6, ip, 2);
        put(g + 8, cs, 2);
        put(g + 10, dp, 2);
        put(g + 12, ds, 2);
    }
}

static void from_guest(const struct scpu *c, const struct native_insn *ni, const uint8_t *g,
                       uint8_t *e)
{
    bool small = ni->in.osize == 2;
    unsigned step = small ? 2 : 4;
    uint32_t ip, dp, cs = 0, ds = 0, op = 0;
    if (real_format(c)) {
        ip = get(g + (size_t)3 * step, 2) | get(g + (size_t)4 * step, step) >> 12 << 16;
        dp = get(g + (size_t)5 * step, 2) | get(g + (size_t)6 * step, step) >> 12 << 16;
        op = get(g + (size_t)4 * step, 2) & 0x7ff;
    } else {
        ip = get(g + (size_t)3 * step, step);
        cs = get(g + (size_t)4 * step, 2);
        op = small ? 0 : get(g + E_FOP, 2) & 0x7ff;
        dp = get(g + (size_t)5 * step, step);
        ds = get(g + (size_t)6 * step, 2);
    }
    native_zero(e, ENV32);
    for (unsigned i = 0; i < 3; i++) {
        put(e + (size_t)i * 4, get(g + (size_t)i * step, 2), 2);
    }
    put(e + E_FIP, ip, 4);
    put(e + E_FCS, cs, 2);
    put(e + E_FOP, op, 2);
    put(e + E_FDP, dp, 4);
    put(e + E_FDS, ds, 2);
}

static bool error_waits(void)
{
    uint16_t sw;
    __asm__ volatile("fnstsw %0" : "=a"(sw));
    return (sw & 0x80) != 0;
}

enum insn_result native_fldenv(struct scpu *c, const struct native_insn *ni)
{
    uint8_t g[ENV32], e[ENV32] = {0};
    unsigned len = env_bytes(ni);
    uint64_t va;
    if (error_waits()) {
        return (enum insn_result)soft_raise(c, EXC_MF);
    }
    if (soft_operand_linear(c, &ni->in, len, false, &va) != 0 ||
        soft_lin_read(c, va, g, len, acc_rights(c)) != 0) {
        return INSN_EXC;
    }
    from_guest(c, ni, g, e);
    c->native->x87.cs = (uint16_t)get(e + E_FCS, 2);
    c->native->x87.ds = (uint16_t)get(e + E_FDS, 2);
    soft_enter_fpu(c); /* the access may have parked the state */
    __asm__ volatile("fldenv (%0)" : : "r"(e) : "memory");
    return INSN_NEXT;
}

enum insn_result native_fnstenv(struct scpu *c, const struct native_insn *ni)
{
    uint8_t g[ENV32], e[ENV32] = {0};
    unsigned len = env_bytes(ni);
    uint64_t va;
    if (soft_operand_linear(c, &ni->in, len, true, &va) != 0 ||
        soft_lin_probe(c, va, len, ACC_WRITE | acc_rights(c)) != 0) {
        return INSN_EXC;
    }
    soft_enter_fpu(c); /* the access may have parked the state */
    __asm__ volatile("fnstenv (%0)" : : "r"(e) : "memory");
    fix_env(c, e);
    to_guest(c, ni, e, g);
    return soft_lin_write(c, va, g, len, acc_rights(c)) != 0 ? INSN_EXC : INSN_NEXT;
}

enum insn_result native_frstor(struct scpu *c, const struct native_insn *ni)
{
    uint8_t g[ENV32 + REGS], e[ENV32 + REGS] = {0};
    unsigned len = env_bytes(ni);
    uint64_t va;
    if (error_waits()) {
        return (enum insn_result)soft_raise(c, EXC_MF);
    }
    if (soft_operand_linear(c, &ni->in, len + REGS, false, &va) != 0 ||
        soft_lin_read(c, va, g, len + REGS, acc_rights(c)) != 0) {
        return INSN_EXC;
    }
    from_guest(c, ni, g, e);
    native_copy(e + ENV32, g + len, REGS);
    c->native->x87.cs = (uint16_t)get(e + E_FCS, 2);
    c->native->x87.ds = (uint16_t)get(e + E_FDS, 2);
    soft_enter_fpu(c); /* the access may have parked the state */
    __asm__ volatile("frstor (%0)" : : "r"(e) : "memory");
    return INSN_NEXT;
}

enum insn_result native_fnsave(struct scpu *c, const struct native_insn *ni)
{
    uint8_t g[ENV32 + REGS], e[ENV32 + REGS] = {0};
    unsigned len = env_bytes(ni);
    uint64_t va;
    if (soft_operand_linear(c, &ni->in, len + REGS, true, &va) != 0 ||
        soft_lin_probe(c, va, len + REGS, ACC_WRITE | acc_rights(c)) != 0) {
        return INSN_EXC;
    }
    soft_enter_fpu(c); /* the access may have parked the state */
    __asm__ volatile("fnsave (%0)" : : "r"(e) : "memory");
    fix_env(c, e);
    to_guest(c, ni, e, g);
    native_copy(g + len, e + ENV32, REGS);
    return soft_lin_write(c, va, g, len + REGS, acc_rights(c)) != 0 ? INSN_EXC : INSN_NEXT;
}
