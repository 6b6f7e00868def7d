/*
 * String instructions. REP forms are restartable at each element: registers are up to date
 * whenever a fault is raised or an interrupt may come in. Forward MOVS and STOS over plain RAM
 * run page by page on the host's own string instructions, which keeps the element order (and so
 * the result of overlapping copies) that the architecture defines.
 */
#include "cpu/soft/operand.h"
#include "cpu/soft/ops.h"
#include "cpu/soft/prims.h"

struct string {
    unsigned size, asize;
    int64_t step;
    enum x86_seg src_seg;
};

static struct string string_of(const struct scpu *c, const struct insn *in)
{
    unsigned size = op_size(in);
    return (struct string){
        .size = size,
        .asize = in->asize,
        .step = (c->sysflags & FL_DF) ? -(int64_t)size : (int64_t)size,
        .src_seg = (enum x86_seg)in->seg,
    };
}

static void advance(struct scpu *c, const struct string *s, unsigned reg, int64_t bytes)
{
    soft_reg_set(c, reg, s->asize, c->gpr[reg] + (uint64_t)bytes);
}

static int source(struct scpu *c, const struct string *s, uint64_t *ret_va)
{
    return soft_seg_linear(c, s->src_seg, soft_reg_get(c, X86_RSI, s->asize), s->size, false,
                           ret_va);
}

static int destination(struct scpu *c, const struct string *s, bool write, uint64_t *ret_va)
{
    return soft_seg_linear(c, X86_ES, soft_reg_get(c, X86_RDI, s->asize), s->size, write,
                           ret_va);
}

/* One element of each. Non-zero: fault, nothing changed. */
typedef int element_fn(struct scpu *c, const struct string *s);

static int movs_one(struct scpu *c, const struct string *s)
{
    uint64_t from, to, v;
    if (source(c, s, &from) || destination(c, s, true, &to) ||
        soft_ld(c, from, s->size, op_acc(c), &v) || soft_st(c, to, s->size, op_acc(c), v)) {
        return INSN_EXC;
    }
    advance(c, s, X86_RSI, s->step);
    advance(c, s, X86_RDI, s->step);
    return 0;
}

static int stos_one(struct scpu *c, const struct string *s)
{
    uint64_t to;
    if (destination(c, s, true, &to) ||
        soft_st(c, to, s->size, op_acc(c), trunc_size(c->gpr[X86_RAX], s->size))) {
        return INSN_EXC;
    }
    advance(c, s, X86_RDI, s->step);
    return 0;
}

static int lods_one(struct scpu *c, const struct string *s)
{
    uint64_t from, v;
    if (source(c, s, &from) || soft_ld(c, from, s->size, op_acc(c), &v)) {
        return INSN_EXC;
    }
    soft_reg_set(c, X86_RAX, s->size, v);
    advance(c, s, X86_RSI, s->step);
    return 0;
}

static void compare(struct scpu *c, unsigned size, uint64_t a, uint64_t b)
{
    switch (size) {
    case 1: prim_cmp_b(c, (uint8_t)a, (uint8_t)b); break;
    case 2: prim_cmp_w(c, (uint16_t)a, (uint16_t)b); break;
    case 4: prim_cmp_l(c, (uint32_t)a, (uint32_t)b); break;
    default: prim_cmp_q(c, a, b); break;
    }
}

static int scas_one(struct scpu *c, const struct string *s)
{
    uint64_t to, v;
    if (destination(c, s, false, &to) || soft_ld(c, to, s->size, op_acc(c), &v)) {
        return INSN_EXC;
    }
    compare(c, s->size, c->gpr[X86_RAX], v);
    advance(c, s, X86_RDI, s->step);
    return 0;
}

static int cmps_one(struct scpu *c, const struct string *s)
{
    uint64_t from, to, a, b;
    if (source(c, s, &from) || destination(c, s, false, &to) ||
        soft_ld(c, from, s->size, op_acc(c), &a) || soft_ld(c, to, s->size, op_acc(c), &b)) {
        return INSN_EXC;
    }
    compare(c, s->size, a, b);
    advance(c, s, X86_RSI, s->step);
    advance(c, s, X86_RDI, s->step);
    return 0;
}

/* Elements from va to the end of its page, or 0 when the first one crosses it. */
static uint64_t to_page_end(uint64_t va, unsigned size)
{
    return (MEM_PAGE_SIZE - (va & (MEM_PAGE_SIZE - 1))) / size;
}

/* Whether offsets of the segment are linear addresses less its base, without checks. */
static bool is_flat(const struct scpu *c, const struct string *s, enum x86_seg seg)
{
    const struct vcpu_seg *d = &c->seg[seg];
    if (soft_code64(c)) {
        return s->asize == 8;
    }
    return s->asize == 4 && d->limit == UINT32_MAX && !(d->attr & SEG_UNUSABLE) &&
           (d->attr & 0x1e) == 0x12 && (c->mode & MODE_AC) == 0;
}

static void host_movs(void *to, const void *from, uint64_t n, unsigned size)
{
    switch (size) {
    case 1: __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory"); break;
    case 2: __asm__ volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(n)::"memory"); break;
    case 4: __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n)::"memory"); break;
    default: __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n)::"memory"); break;
    }
}

static void host_stos(void *to, uint64_t v, uint64_t n, unsigned size)
{
    switch (size) {
    case 1: __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(v) : "memory"); break;
    case 2: __asm__ volatile("rep stosw" : "+D"(to), "+c"(n) : "a"(v) : "memory"); break;
    case 4: __asm__ volatile("rep stosl" : "+D"(to), "+c"(n) : "a"(v) : "memory"); break;
    default: __asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(v) : "memory"); break;
    }
}

/* As many elements as can go at once, up to count; 0: do one the slow way. */
typedef uint64_t bulk_fn(struct scpu *c, const struct string *s, uint64_t count);

static uint64_t movs_bulk(struct scpu *c, const struct string *s, uint64_t count)
{
    if (s->step < 0 || !is_flat(c, s, s->src_seg) || !is_flat(c, s, X86_ES)) {
        return 0;
    }
    uint64_t from = c->seg_base[s->src_seg] + c->gpr[X86_RSI];
    uint64_t to = c->seg_base[X86_ES] + c->gpr[X86_RDI];
    if (s->asize == 4) {
        from = (uint32_t)from;
        to = (uint32_t)to;
    }
    uint64_t n = MIN(count, MIN(to_page_end(from, s->size), to_page_end(to, s->size)));
    const void *pf = soft_ram_ptr(c, from, s->size, false);
    void *pt = soft_ram_ptr(c, to, s->size, true);
    if (n == 0 || pf == NULL || pt == NULL) {
        return 0;
    }
    host_movs(pt, pf, n, s->size);
    advance(c, s, X86_RSI, (int64_t)(n * s->size));
    advance(c, s, X86_RDI, (int64_t)(n * s->size));
    return n;
}

static uint64_t stos_bulk(struct scpu *c, const struct string *s, uint64_t count)
{
    if (s->step < 0 || !is_flat(c, s, X86_ES)) {
        return 0;
    }
    uint64_t to = c->seg_base[X86_ES] + c->gpr[X86_RDI];
    if (s->asize == 4) {
        to = (uint32_t)to;
    }
    uint64_t n = MIN(count, to_page_end(to, s->size));
    void *pt = soft_ram_ptr(c, to, s->size, true);
    if (n == 0 || pt == NULL) {
        return 0;
    }
    host_stos(pt, c->gpr[X86_RAX], n, s->size);
    advance(c, s, X86_RDI, (int64_t)(n * s->size));
    return n;
}

/* REP_NONE for an ordinary repetition, else stop when ZF differs: REPE (F3), REPNE (F2). */
static enum insn_result repeat(struct scpu *c, const struct insn *in, element_fn *one,
                               bulk_fn *bulk, enum insn_rep until)
{
    struct string s = string_of(c, in);
    if (in->rep == REP_NONE) {
        return one(c, &s) ? INSN_EXC : INSN_NEXT;
    }
    unsigned budget = 1024; /* elements or pages between looks at waiting interrupts */
    for (;;) {
        uint64_t count = soft_reg_get(c, X86_RCX, s.asize);
        if (count == 0) {
            return INSN_NEXT;
        }
        /* With TF each element traps. */
        uint64_t n = bulk != NULL && !(c->mode & MODE_STEP) ? bulk(c, &s, count) : 0;
        if (n == 0) {
            if (one(c, &s)) {
                return INSN_EXC;
            }
            n = 1;
        }
        soft_reg_set(c, X86_RCX, s.asize, count - n);
        if (until != REP_NONE && ((c->aflags & AF_ZF) != 0) != (until == REP_F3)) {
            return INSN_NEXT;
        }
        if (count == n) {
            return INSN_NEXT;
        }
        if (--budget == 0 || c->code_hit || (c->mode & MODE_STEP) ||
            atomic_load_relaxed_u32(&c->exit_req) != 0) {
            return INSN_REPEAT;
        }
    }
}

enum insn_result soft_op_movs(struct scpu *c, const struct insn *in)
{
    return repeat(c, in, movs_one, movs_bulk, REP_NONE);
}

enum insn_result soft_op_stos(struct scpu *c, const struct insn *in)
{
    return repeat(c, in, stos_one, stos_bulk, REP_NONE);
}

enum insn_result soft_op_lods(struct scpu *c, const struct insn *in)
{
    return repeat(c, in, lods_one, NULL, REP_NONE);
}

enum insn_result soft_op_scas(struct scpu *c, const struct insn *in)
{
    return repeat(c, in, scas_one, NULL, (enum insn_rep)in->rep);
}

enum insn_result soft_op_cmps(struct scpu *c, const struct insn *in)
{
    return repeat(c, in, cmps_one, NULL, (enum insn_rep)in->rep);
}
