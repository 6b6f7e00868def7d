/*
 * FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XSAVEC and XRSTOR: the guest's image is formatted and
 * checked by code, the registers are moved by the host's own instructions through a scratch
 * image. SDM vol. 1 sections 10.5 and 13.4-13.11; AMD APM vol. 2 section 11.4.4 (FFXSR).
 *
 * What is not written: XSAVEOPT and XSAVEC leave components in their initial state alone;
 * outside 64-bit mode registers 8 and up are neither saved nor changed. XSAVES and XRSTORS are
 * not offered. Compiled for general registers only.
 */
#include "cpu/soft/native_int.h"

#define IMG_FOP    6
#define IMG_FIP    8
#define IMG_FDP    16
#define IMG_MXCSR  24
#define IMG_HEADER 512
#define IMG_AREA   576

#define COMP_X87 1u
#define COMP_SSE 2u
#define COMP_AVX 4u

#define EFER_FFXSR (1u << 14)

static uint64_t get_le(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < n; i++) {
        v |= (uint64_t)p[i] << (8 * i);
    }
    return v;
}

static void put_le(uint8_t *p, uint64_t v, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        p[i] = (uint8_t)(v >> (8 * i));
    }
}

static unsigned acc_rights(const struct scpu *c)
{
    return c->cpl == 3 ? ACC_USER : 0;
}

/* Host address of [va, va+len), at most 4096 bytes, when both of its pages are in the TLB and
 * lie side by side in the host's memory. */
static uint8_t *span(struct scpu *c, uint64_t va, unsigned len, bool write)
{
    uint8_t *p = write ? uop_ptr_w(c, va, 1) : uop_ptr_r(c, va, 1);
    uint64_t to_end = MEM_PAGE_SIZE - (va & (MEM_PAGE_SIZE - 1));
    if (p == NULL || len <= to_end) {
        return p;
    }
    uint8_t *q = write ? uop_ptr_w(c, va + to_end, 1) : uop_ptr_r(c, va + to_end, 1);
    return q == p + to_end ? p : NULL;
}

static int lin_copy(struct scpu *c, uint64_t va, uint8_t *buf, unsigned len, bool write)
{
    uint8_t *p = span(c, va, len, write);
    if (p != NULL) {
        native_copy(write ? p : buf, write ? buf : p, len);
        return 0;
    }
    for (unsigned done = 0; done < len;) {
        unsigned n = MIN(len - done, 512u);
        int rc = write ? soft_lin_write(c, va + done, buf + done, n, acc_rights(c))
                       : soft_lin_read(c, va + done, buf + done, n, acc_rights(c));
        if (rc != 0) {
            return rc;
        }
        done += n;
    }
    return 0;
}

static int lin_probe(struct scpu *c, uint64_t va, unsigned len, unsigned acc)
{
    if (span(c, va, len, (acc & ACC_WRITE) != 0) != NULL) {
        return 0;
    }
    for (unsigned done = 0; done < len; done += 512) {
        int rc = soft_lin_probe(c, va + done, MIN(len - done, 512u), acc | acc_rights(c));
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

/* ---- x87 pointers ---- */
void native_x87_fix_pointers(struct scpu *c, uint8_t *image)
{
    const struct native_cache *nc = c->native;
    native_x87_resolve(c);
    uint64_t ip = get_le(image + IMG_FIP, 8);
    if (ip - (uint64_t)(uintptr_t)nc->rx < NATIVE_CODE_BYTES) {
        put_le(image + IMG_FIP, nc->x87.ip, 8);
        if (get_le(image + IMG_FOP, 2) != 0) {
            put_le(image + IMG_FOP, nc->x87.op & 0x7ff, 2);
        }
    }
    if (nc->x87.host_dp != 0 && get_le(image + IMG_FDP, 8) == nc->x87.host_dp) {
        put_le(image + IMG_FDP, nc->x87.dp, 8);
    }
}

/* The image's 64-bit pointers in the format of an operand size below 64 bits. */
static void narrow_pointers(const struct scpu *c, uint8_t *image)
{
    const struct native_cache *nc = c->native;
    uint64_t ip = get_le(image + IMG_FIP, 8);
    uint64_t dp = get_le(image + IMG_FDP, 8);
    bool selectors = !nc->zero_fcs && (ip | dp) != 0;
    put_le(image + IMG_FIP + 4, selectors ? nc->x87.cs : 0, 4);
    put_le(image + IMG_FDP + 4, selectors && dp != 0 ? nc->x87.ds : 0, 4);
}

static void widen_pointers(struct scpu *c, uint8_t *image)
{
    c->native->x87.cs = (uint16_t)get_le(image + IMG_FIP + 4, 2);
    c->native->x87.ds = (uint16_t)get_le(image + IMG_FDP + 4, 2);
    put_le(image + IMG_FIP + 4, 0, 4);
    put_le(image + IMG_FDP + 4, 0, 4);
}

static bool wide(const struct native_insn *ni)
{
    return (ni->in.rex & 8) != 0;
}

/* ---- FXSAVE, FXRSTOR ---- */
static bool fast_fxsr(const struct scpu *c)
{
    return (c->efer & EFER_FFXSR) && (c->mode & MODE_64) && c->cpl == 0;
}

enum insn_result native_fxsave(struct scpu *c, const struct native_insn *ni)
{
    uint8_t *img = c->native->img;
    uint64_t va;
    if (soft_operand_linear(c, &ni->in, 512, true, &va) != 0) {
        return INSN_EXC;
    }
    if (va & 15) {
        return (enum insn_result)soft_raise_err(c, EXC_GP, 0);
    }
    if (lin_probe(c, va, 512, ACC_WRITE) != 0) {
        return INSN_EXC;
    }
    soft_enter_fpu(c);
    __asm__ volatile("fxsave64 (%0)" : : "r"(img) : "memory");
    native_x87_fix_pointers(c, img);
    if (!wide(ni)) {
        narrow_pointers(c, img);
    }
    unsigned len = fast_fxsr(c) ? 160 : c->mode & MODE_64 ? 416 : 288;
    return lin_copy(c, va, img, len, true) != 0 ? INSN_EXC : INSN_NEXT;
}

enum insn_result native_fxrstor(struct scpu *c, const struct native_insn *ni)
{
    uint8_t *img = c->native->img;
    uint64_t va;
    if (soft_operand_linear(c, &ni->in, 512, false, &va) != 0) {
        return INSN_EXC;
    }
    if (va & 15) {
        return (enum insn_result)soft_raise_err(c, EXC_GP, 0);
    }
    soft_enter_fpu(c);
    __asm__ volatile("fxsave64 (%0)" : : "r"(img) : "memory");
    if (lin_probe(c, va, 512, ACC_READ) != 0) {
        return INSN_EXC;
    }
    unsigned len = fast_fxsr(c) ? 160 : c->mode & MODE_64 ? 416 : 288;
    if (lin_copy(c, va, img, len, false) != 0) {
        return INSN_EXC;
    }
    if (get_le(img + IMG_MXCSR, 4) & ~(uint64_t)c->native->mxcsr_mask) {
        return (enum insn_result)soft_raise_err(c, EXC_GP, 0);
    }
    if (!wide(ni)) {
        widen_pointers(c, img);
    }
    soft_enter_fpu(c); /* the copy may have parked the state: MMIO */
    __asm__ volatile("fxrstor64 (%0)" : : "r"(img) : "memory");
    return INSN_NEXT;
}

/* ---- XSAVE ---- */
static uint64_t requested(const struct scpu *c)
{
    uint64_t mask = (uint32_t)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32;
    return mask & c->xcr0 & c->native->rfbm;
}

static void host_save(struct scpu *c)
{
    struct native_cache *nc = c->native;
    soft_enter_fpu(c);
    native_zero(nc->img + IMG_HEADER, 64);
    __asm__ volatile("xsave64 (%0)"
                     :
                     : "r"(nc->img), "a"((uint32_t)nc->rfbm), "d"(0)
                     : "memory");
}

static void host_restore(struct scpu *c, uint64_t mask)
{
    const struct native_cache *nc = c->native;
    soft_enter_fpu(c); /* reading the image may have parked the state: MMIO */
    __asm__ volatile("xrstor64 (%0)" : : "r"(nc->img), "a"((uint32_t)mask), "d"(0) : "memory");
}

/* Bytes of component i >= 1 that exist in this mode, from its start. */
static unsigned visible_bytes(const struct scpu *c, unsigned i)
{
    unsigned len = c->native->comp_len[i];
    if (c->mode & MODE_64) {
        return len;
    }
    switch (i) {
    case 1:
    case 2: return 8 * 16;
    case 6: return 8 * 32;
    case 7: return 0;
    default: return len;
    }
}

/* Where component i >= 2 lies in an image of components comps. */
static unsigned place_of(const struct native_cache *nc, unsigned i, uint64_t comps,
                         bool compact)
{
    if (!compact) {
        return nc->comp_off[i];
    }
    unsigned off = IMG_AREA;
    for (unsigned j = 2; j <= i; j++) {
        if (!(comps >> j & 1)) {
            continue;
        }
        if (nc->comp_align64 >> j & 1) {
            off = (off + 63) & ~63u;
        }
        if (j < i) {
            off += nc->comp_len[j];
        }
    }
    return off;
}

static unsigned area_bytes(const struct native_cache *nc, uint64_t comps, bool compact)
{
    unsigned len = IMG_AREA;
    for (unsigned i = 2; i < ARRAY_LEN(nc->comp_off); i++) {
        if (comps >> i & 1) {
            unsigned end = place_of(nc, i, comps, compact) + nc->comp_len[i];
            len = MAX(len, end);
        }
    }
    return len;
}

static int write_legacy(struct scpu *c, uint64_t va, uint64_t comps, uint64_t mxcsr)
{
    uint8_t *img = c->native->img;
    if (comps & COMP_X87) {
        if (lin_copy(c, va, img, 24, true) != 0 ||
            lin_copy(c, va + 32, img + 32, 128, true) != 0) {
            return INSN_EXC;
        }
    }
    if (mxcsr && lin_copy(c, va + IMG_MXCSR, img + IMG_MXCSR, 8, true) != 0) {
        return INSN_EXC;
    }
    if (comps & COMP_SSE) {
        return lin_copy(c, va + 160, img + 160, visible_bytes(c, 1), true);
    }
    return 0;
}

static int write_image(struct scpu *c, const struct native_insn *ni, uint64_t va, uint64_t rfbm)
{
    struct native_cache *nc = c->native;
    enum native_special kind = (enum native_special)ni->desc.special;
    bool compact = kind == SP_XSAVEC;
    uint64_t in_use = get_le(nc->img + IMG_HEADER, 8) & rfbm;
    uint64_t mxcsr = rfbm & (COMP_SSE | COMP_AVX);
    if (compact) {
        if ((rfbm & COMP_SSE) && get_le(nc->img + IMG_MXCSR, 4) != 0x1f80) {
            in_use |= COMP_SSE;
        }
        mxcsr = in_use & COMP_SSE;
    }
    uint64_t comps = kind == SP_XSAVE ? rfbm : in_use;
    if (write_legacy(c, va, comps, mxcsr) != 0) {
        return INSN_EXC;
    }
    for (unsigned i = 2; i < ARRAY_LEN(nc->comp_off); i++) {
        if ((comps >> i & 1) &&
            lin_copy(c, va + place_of(nc, i, rfbm, compact), nc->img + nc->comp_off[i],
                     visible_bytes(c, i), true) != 0) {
            return INSN_EXC;
        }
    }
    uint8_t header[16];
    if (lin_copy(c, va + IMG_HEADER, header, 8, false) != 0) {
        return INSN_EXC;
    }
    uint64_t old = compact ? 0 : get_le(header, 8) & ~rfbm;
    put_le(header, old | in_use, 8);
    put_le(header + 8, rfbm | UINT64_C(1) << 63, 8);
    return lin_copy(c, va + IMG_HEADER, header, compact ? 16 : 8, true);
}

/*
 * Straight into guest memory by the host's instruction. Not when x87 state is saved that is in
 * use: its pointers would be the host's for a moment.
 */
static bool save_directly(struct scpu *c, const struct native_insn *ni, uint64_t va,
                          unsigned len, uint64_t rfbm)
{
    uint32_t lo = (uint32_t)rfbm, used = 1, high;
    uint8_t *p = c->mode & MODE_64 ? span(c, va, len, true) : NULL;
    if (p == NULL) {
        return false;
    }
    soft_enter_fpu(c);
    if ((rfbm & COMP_X87) && c->native->xgetbv1) {
        __asm__ volatile("xgetbv" : "=a"(used), "=d"(high) : "c"(1));
    }
    if (used & lo & COMP_X87) {
        return false;
    }
    if (ni->desc.special == SP_XSAVEC) {
        __asm__ volatile("xsavec64 (%0)" : : "r"(p), "a"(lo), "d"(0) : "memory");
    } else if (ni->desc.special == SP_XSAVEOPT) {
        __asm__ volatile("xsaveopt64 (%0)" : : "r"(p), "a"(lo), "d"(0) : "memory");
    } else {
        __asm__ volatile("xsave64 (%0)" : : "r"(p), "a"(lo), "d"(0) : "memory");
    }
    return true;
}

enum insn_result native_xsave(struct scpu *c, const struct native_insn *ni)
{
    struct native_cache *nc = c->native;
    uint64_t rfbm = requested(c);
    unsigned len = area_bytes(nc, rfbm, ni->desc.special == SP_XSAVEC);
    uint64_t va;
    if (soft_operand_linear(c, &ni->in, len, true, &va) != 0) {
        return INSN_EXC;
    }
    if (va & 63) {
        return (enum insn_result)soft_raise_err(c, EXC_GP, 0);
    }
    if (save_directly(c, ni, va, len, rfbm)) {
        return INSN_NEXT;
    }
    if (lin_probe(c, va, len, ACC_WRITE) != 0) {
        return INSN_EXC;
    }
    host_save(c);
    native_x87_fix_pointers(c, nc->img);
    if (!wide(ni)) {
        narrow_pointers(c, nc->img);
    }
    return write_image(c, ni, va, rfbm) != 0 ? INSN_EXC : INSN_NEXT;
}

/* ---- XRSTOR ---- */
static bool header_is_good(const struct scpu *c, const uint8_t *h, bool compact)
{
    uint64_t bv = get_le(h, 8), comp = get_le(h + 8, 8) & ~(UINT64_C(1) << 63);
    uint64_t rest = get_le(h + 16, 8);
    if (compact) {
        for (unsigned i = 24; i < 64; i += 8) {
            rest |= get_le(h + i, 8);
        }
        return c->native->has[NF_XSAVEC] && (comp & ~c->xcr0) == 0 && (bv & ~comp) == 0 &&
               rest == 0;
    }
    return comp == 0 && (bv & ~c->xcr0) == 0 && rest == 0;
}

/* Reads component i >= 1 into the scratch image, or gives it its initial value. */
static int read_component(struct scpu *c, unsigned i, uint64_t va, bool present)
{
    struct native_cache *nc = c->native;
    uint8_t *to = nc->img + nc->comp_off[i];
    if (!present) {
        native_zero(to, visible_bytes(c, i));
        return 0;
    }
    return lin_copy(c, va, to, visible_bytes(c, i), false);
}

static int read_x87(struct scpu *c, const struct native_insn *ni, uint64_t va, bool present)
{
    uint8_t *img = c->native->img;
    if (!present) {
        native_zero(img, 24);
        native_zero(img + 32, 128);
        put_le(img, 0x37f, 2);
        return 0;
    }
    if (lin_copy(c, va, img, 24, false) != 0 ||
        lin_copy(c, va + 32, img + 32, 128, false) != 0) {
        return INSN_EXC;
    }
    if (!wide(ni)) {
        widen_pointers(c, img);
    }
    return 0;
}

/* Non-zero: fault raised, nothing changed. */
static int read_image(struct scpu *c, const struct native_insn *ni, uint64_t va, uint64_t rfbm,
                      const uint8_t *h)
{
    struct native_cache *nc = c->native;
    uint64_t bv = get_le(h, 8), comp = get_le(h + 8, 8);
    bool compact = comp >> 63 != 0;
    uint8_t mxcsr[4];
    put_le(mxcsr, 0x1f80, 4);
    bool load_mxcsr =
        compact ? (rfbm & bv & COMP_SSE) != 0 : (rfbm & (COMP_SSE | COMP_AVX)) != 0;
    if (load_mxcsr && lin_copy(c, va + IMG_MXCSR, mxcsr, 4, false) != 0) {
        return INSN_EXC;
    }
    if (get_le(mxcsr, 4) & ~(uint64_t)nc->mxcsr_mask) {
        return soft_raise_err(c, EXC_GP, 0);
    }
    host_save(c);
    if (load_mxcsr || (compact && (rfbm & COMP_SSE))) {
        native_copy(nc->img + IMG_MXCSR, mxcsr, 4);
    }
    if ((rfbm & COMP_X87) && read_x87(c, ni, va, bv & COMP_X87) != 0) {
        return INSN_EXC;
    }
    if ((rfbm & COMP_SSE) && read_component(c, 1, va + 160, (bv & COMP_SSE) != 0) != 0) {
        return INSN_EXC;
    }
    for (unsigned i = 2; i < ARRAY_LEN(nc->comp_off); i++) {
        if ((rfbm >> i & 1) && read_component(c, i, va + place_of(nc, i, comp, compact),
                                              (bv >> i & 1) != 0) != 0) {
            return INSN_EXC;
        }
    }
    return 0;
}

/* By the host's instruction from a copy of the guest's image, whose header h has been checked.
 */
static enum insn_result restore_copy(struct scpu *c, uint64_t va, uint64_t rfbm,
                                     const uint8_t *h)
{
    struct native_cache *nc = c->native;
    bool compact = h[15] >> 7 != 0;
    uint64_t comps = compact ? get_le(h + 8, 8) & ~(UINT64_C(1) << 63) : rfbm;
    if (lin_copy(c, va, nc->img, area_bytes(nc, comps, compact), false) != 0) {
        return INSN_EXC;
    }
    native_copy(nc->img + IMG_HEADER, h, 64);
    nc->xrstor_mask = (uint32_t)rfbm;
    soft_enter_fpu(c);
    return native_run_stub(c, native_stub_at(nc, nc->xrstor_stub), nc->img) ? INSN_NEXT
                                                                            : INSN_EXC;
}

enum insn_result native_xrstor(struct scpu *c, const struct native_insn *ni)
{
    struct native_cache *nc = c->native;
    uint64_t rfbm = requested(c);
    uint8_t h[64];
    uint64_t va;
    if (soft_operand_linear(c, &ni->in, IMG_AREA, false, &va) != 0) {
        return INSN_EXC;
    }
    if (va & 63) {
        return (enum insn_result)soft_raise_err(c, EXC_GP, 0);
    }
    if (lin_copy(c, va + IMG_HEADER, h, 64, false) != 0) {
        return INSN_EXC;
    }
    bool compact = h[15] >> 7 != 0;
    if (!header_is_good(c, h, compact)) {
        return (enum insn_result)soft_raise_err(c, EXC_GP, 0);
    }
    if ((c->mode & MODE_64) && (wide(ni) || !(rfbm & COMP_X87))) {
        return restore_copy(c, va, rfbm, h);
    }
    if (read_image(c, ni, va, rfbm, h) != 0) {
        return INSN_EXC;
    }
    /* Keep the initial-state optimisation for what the guest's image says is initial. */
    uint64_t bv = get_le(h, 8) & rfbm;
    if (!(c->mode & MODE_64)) {
        bv = rfbm;
    }
    put_le(nc->img + IMG_HEADER, bv, 8);
    if (rfbm != 0) {
        /* MXCSR moves with SSE or AVX only; with neither in rfbm it is unchanged. */
        host_restore(c, rfbm);
    }
    return INSN_NEXT;
}
