/*
 * String instructions. REP forms are restartable at each element: registers are up to date
 * whenever a fault is raised or an interrupt may come in. MOVS, STOS, CMPS and SCAS over plain
 * RAM run page by page on the host's own string instructions, which keeps the element order
 * (and so the result of overlapping copies) that the architecture defines.
 */
#include "cpu/soft/operand.h"
#include "cpu/soft/ops.h"
#include "cpu/soft/prims.h"
#include "cpu/soft/uop.h"

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

/* ---- many at once ---- */

/* Elements that lie wholly in va's page, the first of them at va. */
static uint64_t in_page(const struct string *s, uint64_t va)
{
    uint64_t off = va & (MEM_PAGE_SIZE - 1);
    if (s->step > 0) {
        return (MEM_PAGE_SIZE - off) / s->size;
    }
    return off + s->size <= MEM_PAGE_SIZE ? off / s->size + 1 : 0;
}

/* Whether offsets of the segment are linear addresses less its base, without checks. */
static bool is_flat(const struct scpu *c, const struct string *s, enum x86_seg seg)
{
    const struct vcpu_seg *d = &c->seg[seg];
    if (c->mode & MODE_AC) {
        return false;
    }
    if (soft_code64(c)) {
        return s->asize == 8;
    }
    return s->asize == 4 && d->limit == UINT32_MAX && !(d->attr & SEG_UNUSABLE) &&
           (d->attr & 0x1e) == 0x12;
}

/* Linear address of the element that reg points to. False: not flat. */
static bool first_element(const struct scpu *c, const struct string *s, enum x86_seg seg,
                          enum x86_reg reg, uint64_t *ret_va)
{
    uint64_t va = c->seg_base[seg] + c->gpr[reg];
    *ret_va = s->asize == 4 ? (uint32_t)va : va;
    return is_flat(c, s, seg);
}

/* Host pointer to the element at va, the first of n in one page of RAM. */
static uint8_t *elements(struct scpu *c, const struct string *s, uint64_t va, uint64_t n,
                         bool for_write)
{
    uint64_t back = s->step < 0 ? (n - 1) * s->size : 0;
    uint8_t *p = soft_ram_ptr(c, va - back, (unsigned)(n * s->size), for_write);
    return p == NULL ? NULL : p + back;
}

/* The host's string instructions; its direction flag is set around one, and only there. */
#define HOST(insn, back, ...)                                                                  \
    do {                                                                                       \
        if (back) {                                                                            \
            __asm__ volatile("std\n\t" insn "\n\tcld" : __VA_ARGS__ : "memory", "cc");         \
        } else {                                                                               \
            __asm__ volatile(insn:__VA_ARGS__ : "memory", "cc");                               \
        }                                                                                      \
    } while (0)

#define HOST_FUNCTIONS(sfx, type, m)                                                           \
    static void host_movs_##sfx(void *to, const void *from, uint64_t n, bool back)             \
    {                                                                                          \
        HOST("rep movs" #sfx, back, "+D"(to), "+S"(from), "+c"(n) :);                          \
    }                                                                                          \
    static void host_stos_##sfx(void *to, uint64_t v, uint64_t n, bool back)                   \
    {                                                                                          \
        HOST("rep stos" #sfx, back, "+D"(to), "+c"(n) : "a"(v));                               \
    }                                                                                          \
    /* What is left of n after the first pair that differs (equal: that does not). */          \
    static uint64_t host_cmps_##sfx(const void *a, const void *b, uint64_t n, bool back,       \
                                    bool equal)                                                \
    {                                                                                          \
        if (equal) {                                                                           \
            HOST("repe cmps" #sfx, back, "+D"(b), "+S"(a), "+c"(n) :);                         \
        } else {                                                                               \
            HOST("repne cmps" #sfx, back, "+D"(b), "+S"(a), "+c"(n) :);                        \
        }                                                                                      \
        return n;                                                                              \
    }                                                                                          \
    static uint64_t host_scas_##sfx(const void *p, uint64_t v, uint64_t n, bool back,          \
                                    bool equal)                                                \
    {                                                                                          \
        if (equal) {                                                                           \
            HOST("repe scas" #sfx, back, "+D"(p), "+c"(n) : "a"(v));                           \
        } else {                                                                               \
            HOST("repne scas" #sfx, back, "+D"(p), "+c"(n) : "a"(v));                          \
        }                                                                                      \
        return n;                                                                              \
    }
FOR_SIZES(HOST_FUNCTIONS)

#define BY_SIZE(size, fn, ...)                                                                 \
    ((size) == 1   ? fn##_b(__VA_ARGS__)                                                       \
     : (size) == 2 ? fn##_w(__VA_ARGS__)                                                       \
     : (size) == 4 ? fn##_l(__VA_ARGS__)                                                       \
                   : fn##_q(__VA_ARGS__))

static uint64_t load_element(const void *p, unsigned size)
{
    switch (size) {
    case 1: return *(const uint8_t *)p;
    case 2: return *(const uint16_t *)p;
    case 4: return *(const uint32_t *)p;
    default: return *(const uint64_t *)p;
    }
}

/* As many elements as can go at once, up to count; 0: do one the slow way. CMPS and SCAS stop
 * after the first pair that is not as `until` wants it and leave its flags. */
typedef uint64_t bulk_fn(struct scpu *c, const struct string *s, uint64_t count,
                         enum insn_rep until);

static uint64_t movs_bulk(struct scpu *c, const struct string *s, uint64_t count,
                          enum insn_rep until)
{
    uint64_t from, to;
    (void)until;
    if (!first_element(c, s, s->src_seg, X86_RSI, &from) ||
        !first_element(c, s, X86_ES, X86_RDI, &to)) {
        return 0;
    }
    uint64_t n = MIN(count, MIN(in_page(s, from), in_page(s, to)));
    const void *pf = n != 0 ? elements(c, s, from, n, false) : NULL;
    void *pt = pf != NULL ? elements(c, s, to, n, true) : NULL;
    if (pt == NULL) {
        return 0;
    }
    BY_SIZE(s->size, host_movs, pt, pf, n, s->step < 0);
    advance(c, s, X86_RSI, (int64_t)n * s->step);
    advance(c, s, X86_RDI, (int64_t)n * s->step);
    return n;
}

static uint64_t stos_bulk(struct scpu *c, const struct string *s, uint64_t count,
                          enum insn_rep until)
{
    uint64_t to;
    (void)until;
    if (!first_element(c, s, X86_ES, X86_RDI, &to)) {
        return 0;
    }
    uint64_t n = MIN(count, in_page(s, to));
    void *pt = n != 0 ? elements(c, s, to, n, true) : NULL;
    if (pt == NULL) {
        return 0;
    }
    BY_SIZE(s->size, host_stos, pt, c->gpr[X86_RAX], n, s->step < 0);
    advance(c, s, X86_RDI, (int64_t)n * s->step);
    return n;
}

static uint64_t cmps_bulk(struct scpu *c, const struct string *s, uint64_t count,
                          enum insn_rep until)
{
    uint64_t from, to;
    if (!first_element(c, s, s->src_seg, X86_RSI, &from) ||
        !first_element(c, s, X86_ES, X86_RDI, &to)) {
        return 0;
    }
    uint64_t n = MIN(count, MIN(in_page(s, from), in_page(s, to)));
    const uint8_t *a = n != 0 ? elements(c, s, from, n, false) : NULL;
    const uint8_t *b = a != NULL ? elements(c, s, to, n, false) : NULL;
    if (b == NULL) {
        return 0;
    }
    n -= BY_SIZE(s->size, host_cmps, a, b, n, s->step < 0, until == REP_F3);
    int64_t last = (int64_t)(n - 1) * s->step; /* looked at once more, for the flags */
    compare(c, s->size, load_element(a + last, s->size), load_element(b + last, s->size));
    advance(c, s, X86_RSI, (int64_t)n * s->step);
    advance(c, s, X86_RDI, (int64_t)n * s->step);
    return n;
}

static uint64_t scas_bulk(struct scpu *c, const struct string *s, uint64_t count,
                          enum insn_rep until)
{
    uint64_t to;
    if (!first_element(c, s, X86_ES, X86_RDI, &to)) {
        return 0;
    }
    uint64_t n = MIN(count, in_page(s, to));
    const uint8_t *p = n != 0 ? elements(c, s, to, n, false) : NULL;
    if (p == NULL) {
        return 0;
    }
    n -= BY_SIZE(s->size, host_scas, p, c->gpr[X86_RAX], n, s->step < 0, until == REP_F3);
    int64_t last = (int64_t)(n - 1) * s->step;
    compare(c, s->size, c->gpr[X86_RAX], load_element(p + last, s->size));
    advance(c, s, X86_RDI, (int64_t)n * s->step);
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
        uint64_t n = bulk != NULL && !(c->mode & MODE_STEP) ? bulk(c, &s, count, until) : 0;
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

/* Forward in 64-bit mode without alignment checks: the REP that kernels copy and clear with. */
static bool is_plain_rep(const struct scpu *c, const struct insn *in)
{
    return in->rep != REP_NONE && in->asize == 8 && !(c->sysflags & FL_DF) &&
           (c->mode & (MODE_64 | MODE_STEP | MODE_AC)) == MODE_64;
}

/* All of it at once, when it lies in one page each and the TLB has both. */
static bool movs_short(struct scpu *c, const struct insn *in)
{
    unsigned size = op_size(in);
    uint64_t n = c->gpr[X86_RCX], from = c->seg_base[in->seg] + c->gpr[X86_RSI];
    uint64_t to = c->gpr[X86_RDI];
    if (n - 1 >= MEM_PAGE_SIZE / size) {
        return n == 0;
    }
    const void *pf = uop_ptr_r(c, from, (unsigned)n * size);
    void *pt = uop_ptr_w(c, to, (unsigned)n * size);
    if (pf == NULL || pt == NULL) {
        return false;
    }
    BY_SIZE(size, host_movs, pt, pf, n, false);
    c->gpr[X86_RSI] += n * size;
    c->gpr[X86_RDI] = to + n * size;
    c->gpr[X86_RCX] = 0;
    return true;
}

static bool stos_short(struct scpu *c, const struct insn *in)
{
    unsigned size = op_size(in);
    uint64_t n = c->gpr[X86_RCX], to = c->gpr[X86_RDI];
    if (n - 1 >= MEM_PAGE_SIZE / size) {
        return n == 0;
    }
    void *pt = uop_ptr_w(c, to, (unsigned)n * size);
    if (pt == NULL) {
        return false;
    }
    BY_SIZE(size, host_stos, pt, c->gpr[X86_RAX], n, false);
    c->gpr[X86_RDI] = to + n * size;
    c->gpr[X86_RCX] = 0;
    return true;
}

enum insn_result soft_op_movs(struct scpu *c, const struct insn *in)
{
    if (is_plain_rep(c, in) && movs_short(c, in)) {
        return INSN_NEXT;
    }
    return repeat(c, in, movs_one, movs_bulk, REP_NONE);
}

enum insn_result soft_op_stos(struct scpu *c, const struct insn *in)
{
    if (is_plain_rep(c, in) && stos_short(c, in)) {
        return INSN_NEXT;
    }
    return repeat(c, in, stos_one, stos_bulk, REP_NONE);
}

enum insn_result soft_op_lods(struct scpu *c, const struct insn *in)
{
    return repeat(c, in, lods_one, NULL, REP_NONE);
}

enum insn_result soft_op_scas(struct scpu *c, const struct insn *in)
{
    return repeat(c, in, scas_one, scas_bulk, (enum insn_rep)in->rep);
}

enum insn_result soft_op_cmps(struct scpu *c, const struct insn *in)
{
    return repeat(c, in, cmps_one, cmps_bulk, (enum insn_rep)in->rep);
}
