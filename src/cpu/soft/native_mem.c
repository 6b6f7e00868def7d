/*
 * Vector instructions whose memory operand is not one plain access: masked moves, EVEX-masked
 * operands that cannot be accessed as a whole, expand and compress, gathers and scatters. SDM
 * vol. 2 (VMASKMOV, VGATHER*, VPSCATTER*, section 2.7.6 on fault suppression).
 *
 * Only elements that the mask selects are accessed, lowest first. Loads and stores fault before
 * anything has changed; gathers and scatters complete elements one by one, and show in the mask
 * which are done, so that they can be restarted. Compiled for general registers only.
 */
#include "cpu/soft/native_int.h"

static unsigned acc_rights(const struct scpu *c)
{
    return c->cpl == 3 ? ACC_USER : 0;
}

static uint64_t wrap(const struct insn *in, uint64_t ea)
{
    return in->asize == 8 ? ea : in->asize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

/* Linear address of len bytes at off from the memory operand's start. Non-zero: fault raised.
 */
static int element_linear(struct scpu *c, const struct insn *in, uint64_t off, unsigned len,
                          bool write, uint64_t *ret_va)
{
    uint64_t ea = wrap(in, soft_ea(c, in) + off);
    return soft_seg_linear(c, (enum x86_seg)in->seg, ea, len, write, ret_va);
}

/* Reads the elements set in mask, or checks that they can be written. */
static int load_elements(struct scpu *c, const struct insn *in, uint8_t *buf, unsigned elem,
                         uint64_t mask, bool write)
{
    for (unsigned i = 0; mask >> i != 0; i++) {
        uint64_t va;
        if (!(mask >> i & 1)) {
            continue;
        }
        if (element_linear(c, in, (uint64_t)i * elem, elem, write, &va) != 0) {
            return INSN_EXC;
        }
        int rc = write ? soft_lin_probe(c, va, elem, ACC_WRITE | acc_rights(c))
                       : soft_lin_read(c, va, buf + (size_t)i * elem, elem, acc_rights(c));
        if (rc != 0) {
            return INSN_EXC;
        }
        if (i == 63) {
            break;
        }
    }
    return 0;
}

static int store_elements(struct scpu *c, const struct insn *in, const uint8_t *buf,
                          unsigned elem, uint64_t mask)
{
    for (unsigned i = 0; mask >> i != 0; i++) {
        uint64_t va;
        if ((mask >> i & 1) &&
            (element_linear(c, in, (uint64_t)i * elem, elem, true, &va) != 0 ||
             soft_lin_write(c, va, buf + (size_t)i * elem, elem, acc_rights(c)) != 0)) {
            return INSN_EXC;
        }
        if (i == 63) {
            break;
        }
    }
    return 0;
}

/* Runs ni's stub on a buffer that holds the selected elements; room is 128 bytes. */
static enum insn_result run_elements(struct scpu *c, const struct native_insn *ni,
                                     unsigned elem, uint64_t mask)
{
    bool write = (ni->desc.flags & ND_MEM_W) != 0;
    /* The same alignment as the guest's operand, so that the hardware checks it. */
    uint64_t start = soft_ea(c, &ni->in) + c->seg_base[ni->in.seg];
    uint8_t *buf = c->native->buf[0] + (start & 63);
    native_zero(c->native->buf, sizeof(c->native->buf));
    if (load_elements(c, &ni->in, buf, elem, mask, write) != 0) {
        if (ni->desc.align != 0 && (start & (ni->desc.align - 1u)) != 0) {
            c->exc.pending = false; /* misalignment is seen first */
            soft_raise_err(c, EXC_GP, 0);
        }
        return INSN_EXC;
    }
    if (!native_run_stub(c, ni->stub, buf)) {
        return INSN_EXC;
    }
    if (write && store_elements(c, &ni->in, buf, elem, mask) != 0) {
        return INSN_EXC;
    }
    return INSN_NEXT;
}

static uint64_t low_bits(unsigned n)
{
    return n >= 64 ? UINT64_MAX : (UINT64_C(1) << n) - 1;
}

enum insn_result native_masked_access(struct scpu *c, const struct native_insn *ni)
{
    const struct native_desc *d = &ni->desc;
    unsigned elem = d->elem == 0 ? d->mem_len : d->elem;
    unsigned n = d->mem_len / elem;
    uint64_t va;
    soft_enter_fpu(c);
    /* A limit counts for the operand as a whole. */
    if (!(c->mode & MODE_64) &&
        element_linear(c, &ni->in, 0, d->mem_len, (d->flags & ND_MEM_W) != 0, &va) != 0) {
        return INSN_EXC;
    }
    uint64_t k = native_k_get(c, ni->in.aaa & 7u), mask = 0;
    for (unsigned i = 0; i < d->n_masked; i++) {
        mask |= (k >> i & 1) << (i % n); /* a broadcast element serves several */
    }
    return run_elements(c, ni, elem, mask);
}

/* VMASKMOVPS/PD, VPMASKMOVD/Q: the mask is the sign bits of vvvv. */
enum insn_result native_maskmov_vex(struct scpu *c, const struct native_insn *ni)
{
    const struct insn *in = &ni->in;
    unsigned len = ni->desc.mem_len;
    unsigned elem = in->opcode >= 0x8c ? (in->w ? 8 : 4) : (in->opcode & 1) ? 8 : 4;
    if (c->mode & MODE_64) {
        uint64_t va = soft_ea(c, in) + c->seg_base[in->seg];
        void *p = ni->desc.flags & ND_MEM_W ? uop_ptr_w(c, va, len) : uop_ptr_r(c, va, len);
        if (p != NULL) {
            return native_run_stub(c, ni->stub, p) ? INSN_NEXT : INSN_EXC;
        }
    }
    uint8_t *m = c->native->buf[3];
    native_vec_get(c, in->vvvv, 32, m);
    uint64_t mask = 0;
    for (unsigned i = 0; i < len / elem; i++) {
        mask |= (uint64_t)(m[i * elem + elem - 1] >> 7) << i;
    }
    return run_elements(c, ni, elem, mask);
}

/* MASKMOVQ, MASKMOVDQU: bytes of reg by the sign bits of rm, to DS:[rDI]. */
enum insn_result native_maskmov_bytes(struct scpu *c, const struct native_insn *ni)
{
    struct native_cache *nc = c->native;
    struct insn in;
    native_copy(&in, &ni->in, sizeof(in));
    unsigned len = ni->desc.special == SP_MASKMOVQ ? 8 : 16;
    uint8_t *data = nc->buf[0], *m = nc->buf[1];
    uint16_t sw;
    if (len == 8) {
        __asm__ volatile("fnstsw %0" : "=a"(sw));
        if (sw & 0x80) {
            return (enum insn_result)soft_raise(c, EXC_MF);
        }
        native_run_stub(c, native_stub_at(nc, nc->mmget_stub[in.reg & 7]), data);
        native_run_stub(c, native_stub_at(nc, nc->mmget_stub[in.rm & 7]), m);
    } else {
        if (in.enc == ENC_VEX && (in.vvvv != 0 || in.vl != 0)) {
            return (enum insn_result)soft_raise(c, EXC_UD);
        }
        native_vec_get(c, in.reg & 15u, 16, data);
        native_vec_get(c, in.rm & 15u, 16, m);
    }
    uint64_t mask = 0;
    for (unsigned i = 0; i < len; i++) {
        mask |= (uint64_t)(m[i] >> 7) << i;
    }
    in.base = X86_RDI;
    in.index = INSN_NOREG;
    in.disp = 0;
    in.is_mem = true;
    in.rip_rel = false;
    in.seg = in.seg_override == X86_NSEG ? X86_DS : in.seg_override;
    if ((c->mode & MODE_64) && in.seg != X86_FS && in.seg != X86_GS) {
        in.seg = X86_DS;
    }
    /* All of the operand is checked, selected or not. */
    if (load_elements(c, &in, data, len, 1, true) != 0 ||
        store_elements(c, &in, data, 1, mask) != 0) {
        return INSN_EXC;
    }
    return INSN_NEXT;
}

static enum insn_result packed_elements(struct scpu *c, const struct native_insn *ni)
{
    const struct insn *in = &ni->in;
    unsigned elem = 1u << ni->desc.d8_shift;
    unsigned n = (16u << (in->vl & 3)) / elem;
    uint64_t k = (in->aaa == 0 ? UINT64_MAX : native_k_get(c, in->aaa)) & low_bits(n);
    unsigned count = 0;
    for (; k != 0; k &= k - 1) {
        count++;
    }
    return run_elements(c, ni, elem, low_bits(count));
}

enum insn_result native_expand(struct scpu *c, const struct native_insn *ni)
{
    return packed_elements(c, ni);
}

enum insn_result native_compress(struct scpu *c, const struct native_insn *ni)
{
    return packed_elements(c, ni);
}

/* ---- gathers and scatters ---- */
struct vsib {
    unsigned index_reg, index_size, data_size, n, vec;
    unsigned full; /* bytes of a whole vector register */
    uint8_t *index, *data, *mask;
    uint64_t k; /* elements still to do */
    bool some;  /* one was loaded */
};

static void vsib_open(struct scpu *c, const struct native_insn *ni, struct vsib *v)
{
    const struct insn *in = &ni->in;
    struct native_cache *nc = c->native;
    v->index_reg = in->index == INSN_NOREG ? 4u : in->index;
    if (in->enc == ENC_EVEX) {
        v->index_reg |= in->vvvv & 16u; /* V' */
    }
    v->index_size = in->opcode & 1 ? 8 : 4;
    v->data_size = in->w ? 8 : 4;
    v->vec = 16u << (in->vl & 3);
    v->n = v->vec / (v->index_size > v->data_size ? v->index_size : v->data_size);
    v->full = (nc->rfbm & 0xe0) == 0xe0 ? 64 : 32;
    v->some = false;
    v->index = nc->buf[0];
    v->data = nc->buf[1];
    v->mask = nc->buf[2];
    native_vec_get(c, v->index_reg, v->full, v->index);
    native_vec_get(c, in->reg, v->full, v->data);
    if (in->enc == ENC_EVEX) {
        v->k = native_k_get(c, in->aaa);
        return;
    }
    native_vec_get(c, in->vvvv, v->full, v->mask);
    v->k = 0;
    for (unsigned i = 0; i < v->n; i++) {
        v->k |= (uint64_t)(v->mask[(i + 1) * v->data_size - 1] >> 7) << i;
    }
}

static bool vsib_undefined(const struct native_insn *ni, const struct vsib *v)
{
    const struct insn *in = &ni->in;
    if (in->enc == ENC_EVEX) {
        return in->aaa == 0 || in->z || in->b || (in->vvvv & 15) != 0 || in->vl == 3 ||
               (ni->desc.special == SP_GATHER && v->index_reg == in->reg);
    }
    return in->reg == in->vvvv || in->reg == v->index_reg || in->vvvv == v->index_reg;
}

static int vsib_linear(struct scpu *c, const struct insn *in, const struct vsib *v, unsigned i,
                       bool write, uint64_t *ret_va)
{
    int64_t index = 0;
    if (v->index_size == 8) {
        native_copy(&index, v->index + (size_t)i * 8, 8);
    } else {
        int32_t narrow;
        native_copy(&narrow, v->index + (size_t)i * 4, 4);
        index = narrow;
    }
    struct insn base;
    native_copy(&base, in, sizeof(base));
    base.index = INSN_NOREG;
    uint64_t ea = wrap(in, soft_ea(c, &base) + ((uint64_t)index << in->scale));
    return soft_seg_linear(c, (enum x86_seg)in->seg, ea, v->data_size, write, ret_va);
}

/* All done: the mask is clear, and what lies above the elements of the destination. */
static void vsib_finish(struct scpu *c, const struct insn *in, const struct vsib *v,
                        bool gather)
{
    if (gather) {
        native_zero(v->data + (size_t)v->n * v->data_size,
                    v->full - (size_t)v->n * v->data_size);
        native_vec_put(c, in->reg, v->full, v->data);
    }
    if (in->enc == ENC_EVEX) {
        native_k_put(c, in->aaa, 0);
        return;
    }
    native_zero(v->mask, v->full);
    native_vec_put(c, in->vvvv, v->full, v->mask);
}

/* Element i faulted: those before it are done, the rest is as it was. Once an element was
 * loaded the destination has been written as a vector of its length. */
static void vsib_break(struct scpu *c, const struct insn *in, const struct vsib *v, unsigned i,
                       bool gather)
{
    if (gather && v->some) {
        size_t dest = MAX(16u, v->n * v->data_size);
        native_zero(v->data + dest, v->full - dest);
        native_vec_put(c, in->reg, v->full, v->data);
    }
    if (in->enc == ENC_EVEX) {
        native_k_put(c, in->aaa, v->k);
        return;
    }
    native_zero(v->mask, (size_t)i * v->data_size);
    native_vec_put(c, in->vvvv, v->full, v->mask);
}

/* Element by element, so that a fault leaves what was done before it. */
static enum insn_result vsib_run(struct scpu *c, const struct native_insn *ni, bool load)
{
    struct vsib v;
    const struct insn *in = &ni->in;
    vsib_open(c, ni, &v);
    if (vsib_undefined(ni, &v)) {
        return (enum insn_result)soft_raise(c, EXC_UD);
    }
    for (unsigned i = 0; i < v.n; i++) {
        uint64_t va;
        if (!(v.k >> i & 1)) {
            continue;
        }
        uint8_t *element = v.data + (size_t)i * v.data_size;
        if (vsib_linear(c, in, &v, i, !load, &va) != 0 ||
            (load ? soft_lin_read(c, va, element, v.data_size, acc_rights(c))
                  : soft_lin_write(c, va, element, v.data_size, acc_rights(c))) != 0) {
            vsib_break(c, in, &v, i, load);
            return INSN_EXC;
        }
        v.some = v.some || load;
        v.k &= ~(UINT64_C(1) << i);
    }
    vsib_finish(c, in, &v, load);
    return INSN_NEXT;
}

enum insn_result native_gather(struct scpu *c, const struct native_insn *ni)
{
    return vsib_run(c, ni, true);
}

enum insn_result native_scatter(struct scpu *c, const struct native_insn *ni)
{
    return vsib_run(c, ni, false);
}

enum insn_result native_movdir64b(struct scpu *c, const struct native_insn *ni)
{
    const struct insn *in = &ni->in;
    uint8_t *buf = c->native->buf[0];
    uint64_t from, to;
    uint64_t off = wrap(in, c->gpr[in->reg & 15]);
    if (soft_operand_linear(c, in, 64, false, &from) != 0 ||
        soft_seg_linear(c, X86_ES, off, 64, true, &to) != 0) {
        return INSN_EXC;
    }
    if (to & 63) {
        return (enum insn_result)soft_raise_err(c, EXC_GP, 0);
    }
    if (soft_lin_read(c, from, buf, 64, acc_rights(c)) != 0 ||
        soft_lin_write(c, to, buf, 64, acc_rights(c)) != 0) {
        return INSN_EXC;
    }
    return INSN_NEXT;
}
