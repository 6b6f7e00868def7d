/*
 * Running translated code: from block to block while they are known, and what generated code
 * calls when it cannot go on by itself.
 */
#include "cpu/soft/jit/jit_int.h"

#include "cpu/soft/block.h"
#include "cpu/soft/decode.h"
#include "cpu/soft/mmu.h"
#include "cpu/soft/ops.h"
#include "cpu/soft/uop.h"

#include <asm/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- leaving ---- */

static uint32_t leave(struct scpu *c, enum insn_result result)
{
    c->access_open = false;
    if (unlikely(c->world_held)) {
        soft_world_go(c);
    }
    c->stop_result = result;
    return JIT_LEAVE;
}

static struct tblock *block_of(const struct scpu *c, const uint32_t *site)
{
    return c->jit->blocks[site[0]];
}

/* Whether the block can go on after a call of C that began with these. */
static bool undisturbed(const struct scpu *c, const struct tblock *tb, uint32_t tlb_gen)
{
    return !tb->dead && !c->code_hit && c->pending_db == 0 && c->tlb_gen == tlb_gen &&
           c->mode == tb->mode && atomic_load_relaxed_u32(&c->exit_req) == 0;
}

/* An instruction has run in C with c->rip and c->next_rip set. */
static uint32_t after(struct scpu *c, const struct tblock *tb, enum insn_result r,
                      uint32_t tlb_gen)
{
    if (r == INSN_NEXT && likely(undisturbed(c, tb, tlb_gen))) {
        if (tb->uses_fpu && !c->fpu_live) {
            soft_enter_fpu(c);
        }
        return JIT_DONE;
    }
    if (r == INSN_NEXT || r == INSN_NEXT_FLUSH) {
        c->rip = c->next_rip;
        return leave(c, INSN_NEXT_FLUSH);
    }
    return leave(c, r);
}

/* ---- instructions by their general handlers ---- */

static enum insn_result run_insn(struct scpu *c, const struct insn *in,
                                 const struct opcode *row)
{
    if (row != NULL) {
        return row->fn(c, in);
    }
    return native_run(c, in);
}

/* The instruction of tb at an offset, decoded anew. */
static uint32_t interpret(struct scpu *c, const struct tblock *tb, uint32_t ip)
{
    const struct opcode *row;
    struct insn in;
    uint32_t tlb_gen = c->tlb_gen;
    uint64_t off = (tb->va + ip) & (MEM_PAGE_SIZE - 1);
    uint64_t avail = tb->page2 != NULL ? 15 : MEM_PAGE_SIZE - off;
    uint8_t bytes[16];
    const uint8_t *from = tb->bytes;
    if (tb->page2 == NULL) {
        block_snapshot(tb->host + ip - off, off, bytes);
        from = bytes;
    }
    c->rip = tb->va + ip;
    if (soft_decode(from, MIN(avail, 15), tb->mode, &in, &row) != DECODE_OK) {
        return leave(c, INSN_JUMP); /* the bytes were changed under us: look at them again */
    }
    c->next_rip = c->rip + in.len;
    c->stats.jit_slow++;
    return after(c, tb, run_insn(c, &in, row), tlb_gen);
}

/* The instruction that a site hands to C, with the vCPU at it. */
static const struct jhelp *begin_help(struct scpu *c, const uint32_t *site)
{
    const struct jhelp *h = (const struct jhelp *)(const void *)(c->jit->arena + site[1]);
    c->rip = block_of(c, site)->va + h->ip;
    c->next_rip = c->rip + h->in.len;
    c->stats.jit_helped++;
    return h;
}

static uint32_t run_help(struct scpu *c, const uint32_t *site, bool native)
{
    const struct jhelp *h = begin_help(c, site);
    uint32_t tlb_gen = c->tlb_gen;
    enum insn_result r = native ? native_run(c, &h->in) : h->in.fn(c, &h->in);
    return after(c, block_of(c, site), r, tlb_gen);
}

uint32_t jit_on_help(struct scpu *c, uint64_t va, const uint32_t *site)
{
    (void)va;
    return run_help(c, site, false);
}

uint32_t jit_on_native(struct scpu *c, uint64_t va, const uint32_t *site)
{
    (void)va;
    return run_help(c, site, true);
}

/* An interrupt waits already when STI has let interrupts in: not before the instruction behind.
 */
uint32_t jit_on_shadow(struct scpu *c, uint64_t va, const uint32_t *site)
{
    const struct tblock *tb = block_of(c, site);
    (void)va;
    c->rip = tb->va + (tb->pcs[site[1]].ip & TPC_IP);
    c->irq_shadow |= 1;
    return leave(c, INSN_JUMP);
}

uint32_t jit_on_fpu(struct scpu *c, uint64_t va, const uint32_t *site)
{
    (void)va;
    (void)site;
    soft_enter_fpu(c);
    return JIT_RETRY;
}

/* ---- memory ---- */

static bool hits(struct scpu *c, uint64_t va, unsigned span, enum tlb_kind kind)
{
    return (va ^ uop_tlb(c, va, kind)->tag) <= MEM_PAGE_SIZE - span;
}

/*
 * The TLB had no entry for [va, va + span). When the page is RAM it is made, and the check done
 * again. A check for writing may stand before a read: then an entry is made only if that shows
 * nothing to the guest, that is if the page is dirty already.
 */
static bool fill(struct scpu *c, uint64_t va, unsigned span, uint32_t word)
{
    if ((va & (MEM_PAGE_SIZE - 1)) + span > MEM_PAGE_SIZE ||
        ((word & SITE_ALIGNED) && (va & 15) != 0) ||
        ((word & SITE_X87) && native_x87_error(c))) {
        return false;
    }
    if (!(word & SITE_W)) {
        return soft_ram_ptr(c, va, span, false) != NULL && hits(c, va, span, TLB_R);
    }
    if (word & SITE_CUR_W) {
        return soft_ram_ptr(c, va, span, true) != NULL && hits(c, va, span, TLB_W);
    }
    return soft_ram_ptr(c, va, span, false) != NULL && mmu_fill_if_dirty(c, va) &&
           hits(c, va, span, TLB_W);
}

/* Groups of the block have failed often: translate it again without. */
static void ungroup(struct scpu *c, struct tblock *tb)
{
    if (++tb->misses < 16 || tb->dead) {
        return;
    }
    struct jit *j = c->jit;
    *jit_no_groups(j, tb->va) = tb->va;
    jit_kill(j, tb);
}

/* Bytes of [va, va + span) in its first page, when it lies in two that can be addressed; 0:
 * not. */
static unsigned crossing(const struct scpu *c, uint64_t va, unsigned span)
{
    uint64_t off = va & (MEM_PAGE_SIZE - 1);
    bool two =
        off + span > MEM_PAGE_SIZE && soft_canonical(c, va) && soft_canonical(c, va + span - 1);
    return two ? (unsigned)(MEM_PAGE_SIZE - off) : 0;
}

/* Generated code goes on with the operand at b. */
static void use_copy(struct scpu *c, uint64_t va, const uint8_t *b)
{
    c->jit_va = va & (MEM_PAGE_SIZE - 1);
    c->jit_tmp = (uint64_t)(uintptr_t)b - c->jit_va;
}

/* A read that lies in two pages of RAM: of a copy. False: not here. */
static bool read_crossing(struct scpu *c, uint64_t va, unsigned span, uint32_t word)
{
    unsigned n = crossing(c, va, span);
    if (n == 0 || (word & (SITE_W | SITE_GROUP | SITE_ALIGNED))) {
        return false;
    }
    const uint8_t *first = soft_ram_ptr(c, va, n, false);
    const uint8_t *second = first == NULL ? NULL : soft_ram_ptr(c, va + n, span - n, false);
    if (second == NULL) {
        return false;
    }
    uint8_t *b = c->bounce + (va & 63);
    native_copy(b, first, n);
    native_copy(b + n, second, span - n);
    use_copy(c, va, b);
    return true;
}

/* The same for an instruction that only writes: what it writes goes into place afterwards. */
static bool write_crossing(struct scpu *c, uint64_t va, unsigned span, uint32_t word)
{
    unsigned n = crossing(c, va, span);
    if (n == 0 || !(word & SITE_STORE) || soft_ram_ptr(c, va, n, true) == NULL ||
        soft_ram_ptr(c, va + n, span - n, true) == NULL) {
        return false;
    }
    const uint8_t *b = soft_access(c, va, span, false, true);
    if (b == NULL) {
        return false;
    }
    use_copy(c, va, b);
    return true;
}

uint32_t jit_on_store(struct scpu *c, uint64_t va, const uint32_t *site)
{
    const struct tblock *tb = block_of(c, site);
    uint32_t tlb_gen = c->tlb_gen;
    (void)va;
    c->next_rip = tb->va + site[1];
    return after(c, tb, soft_access_end(c), tlb_gen);
}

uint32_t jit_on_slow(struct scpu *c, uint64_t va, const uint32_t *site)
{
    struct tblock *tb = block_of(c, site);
    uint32_t word = site[1], tlb_gen = c->tlb_gen;
    unsigned span = word >> 8 & 0xfff;
    uint32_t ip = tb->pcs[word & 0xff].ip & TPC_IP;
    c->rip = tb->va + ip;
    bool filled = !tb->dead && fill(c, va, span, word);
    if (filled || read_crossing(c, va, span, word) || write_crossing(c, va, span, word)) {
        if (c->tlb_gen == tlb_gen || tb->n_groups == 0) {
            return filled ? JIT_RETRY : JIT_COPY;
        }
        /* Other groups may be elsewhere now; nothing has been written to a copy yet. */
        c->irq_shadow |= (tb->pcs[word & 0xff].ip & TPC_SHADOW) != 0;
        return leave(c, INSN_JUMP);
    }
    uint32_t r = interpret(c, tb, ip);
    if (r == JIT_DONE && (word & SITE_GROUP)) {
        ungroup(c, tb);
        c->rip = c->next_rip;
        return leave(c, INSN_NEXT);
    }
    return r;
}

/* ---- branches ---- */

/* The target of an indirect branch was not in the table: va. */
uint32_t jit_on_jump(struct scpu *c, uint64_t va, const uint32_t *site)
{
    struct tblock *tb = block_of(c, site);
    uint32_t ip = tb->pcs[site[1]].ip & TPC_IP;
    c->rip = va;
    const struct tblock *to =
        !tb->dead && atomic_load_relaxed_u32(&c->exit_req) == 0 ? jit_find(c) : NULL;
    if (to != NULL) {
        c->jit_tmp = (uint64_t)(uintptr_t)jit_rx(c->jit, to->code);
        return JIT_RETRY;
    }
    return interpret(c, tb, ip);
}

/* ---- faults of the host ---- */

bool jit_fault(struct scpu *c, uint64_t rip, uint64_t host_flags, uint64_t *ret_resume)
{
    const struct jit *j = c->jit;
    uint64_t off = j == NULL ? 0 : rip - (uintptr_t)j->rx;
    if (j == NULL || off >= j->bytes) {
        return false;
    }
    c->jit_fault_pc = off;
    c->jit_fault_flags = (uint16_t)((host_flags & 0xd5) << 8 | (host_flags >> 11 & 1));
    *ret_resume = (uint64_t)(uintptr_t)jit_rx(j, j->thunk.fault);
    return true;
}

void jit_on_fault(struct scpu *c)
{
    const struct tblock *tb = jit_block_at(c->jit, (uint32_t)c->jit_fault_pc);
    if (tb == NULL) {
        __builtin_trap(); /* a fault in a thunk: the engine itself is broken */
    }
    uint32_t at = (uint32_t)c->jit_fault_pc - tb->code;
    unsigned n = 0;
    while (n + 1u < tb->n_insns && tb->pcs[n + 1].host <= at) {
        n++;
    }
    if (tb->pcs[n].ip & TPC_FLAGS) {
        c->aflags = c->jit_fault_flags;
    }
    if (interpret(c, tb, tb->pcs[n].ip & TPC_IP) == JIT_DONE) {
        c->rip = c->next_rip;
        leave(c, INSN_NEXT);
    }
}

/* ---- from block to block ---- */

void jit_set_base(struct scpu *c)
{
    uint64_t now = 0;
    syscall(SYS_arch_prctl, ARCH_GET_GS, &now);
    if (now != (uint64_t)(uintptr_t)c) {
        syscall(SYS_arch_prctl, ARCH_SET_GS, (uint64_t)(uintptr_t)c);
    }
}

struct tblock *jit_next(struct scpu *c)
{
    const struct soft_tuning *tune = &c->vm->tuning;
    if (unlikely(tune->flush != 0) && ++c->jit->dispatches % tune->flush == 0) {
        jit_flush(c);
    }
    struct tblock *tb = jit_find(c);
    return tb == NULL && tune->hot == 0 ? jit_translate(c) : tb;
}

/* After an instruction that ended its block in C: whether nothing has to be looked at before
 * the next one. */
static bool nothing_waits(const struct scpu *c)
{
    return (c->stop_result == INSN_JUMP || c->stop_result == INSN_NEXT ||
            c->stop_result == INSN_NEXT_FLUSH) &&
           atomic_load_relaxed_u32(&c->exit_req) == 0 && !c->exc.pending &&
           c->pending_db == 0 && !c->code_hit && c->irq_shadow == 0 && c->nmi_pending == 0 &&
           (!c->irq_waiting || !(c->sysflags & FL_IF)) && !c->halted &&
           !(c->sysflags & FL_RF) && jit_mode_ok(c->mode);
}

/* The block to go on with then; NULL: the run loop has to look. */
static struct tblock *go_on(struct scpu *c)
{
    struct tblock *tb = nothing_waits(c) ? jit_next(c) : NULL;
    if (tb != NULL) {
        c->step_rule = STEP_TF_BEFORE;
    }
    return tb;
}

void *jit_on_end(struct scpu *c, uint64_t va, const uint32_t *site)
{
    const struct jhelp *h = begin_help(c, site);
    (void)va;
    enum insn_result r = h->in.fn(c, &h->in);
    if (r == INSN_NEXT || r == INSN_NEXT_FLUSH) {
        c->rip = c->next_rip;
    }
    leave(c, r);
    const struct tblock *next = go_on(c);
    return next != NULL ? jit_rx(c->jit, next->code) : NULL;
}

void jit_run(struct scpu *c, struct tblock *tb)
{
    struct jit *j = c->jit;
    jit_enter_fn *enter = (jit_enter_fn *)(uintptr_t)jit_rx(j, j->thunk.enter);
    for (;;) {
        uint64_t at = enter(c, jit_rx(j, tb->code));
        if (at == 0) {
            tb = go_on(c);
            if (tb == NULL) {
                return;
            }
            continue;
        }
        const uint32_t *site = (const uint32_t *)(uintptr_t)at;
        const struct tblock *from = j->blocks[site[0]];
        bool dead = site[1] == UINT32_MAX; /* the entry of a dropped block */
        struct texit *x = dead ? NULL : &from->exits[site[1]];
        c->rip = dead ? from->va : x->target;
        c->stop_result = INSN_JUMP;
        if (atomic_load_relaxed_u32(&c->exit_req) != 0) {
            return;
        }
        uint32_t flushes = (uint32_t)c->stats.code_flushes;
        tb = jit_next(c);
        if (tb == NULL) {
            return;
        }
        /* Inside of a page a link is never looked at again. */
        if (!dead && flushes == (uint32_t)c->stats.code_flushes && !from->dead &&
            x->jmp_at != 0 && (x->epoch_at != 0 || tb->page == from->page)) {
            jit_link(c, x, tb);
        }
    }
}
