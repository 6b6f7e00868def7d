/*
 * Translation of a block: scan, then one pass that emits instruction by instruction, then what
 * is out of line. README.md has the conventions.
 */
#include "cpu/soft/jit/jit_int.h"

#include "cpu/soft/block.h"

/* ---- instructions by their general handlers ---- */

static bool call_handler(struct tr *t, struct jinsn *ji)
{
    struct jhelp *h = jit_arena(t->j, sizeof(*h));
    if (h == NULL) {
        return false;
    }
    native_copy(&h->in, &ji->in, sizeof(h->in));
    h->in.fn = ji->row != NULL ? ji->row->fn : NULL;
    h->ip = ji->ip;
    const struct jit_thunks *th = &t->j->thunk;
    tr_flags_to_mem(t);
    e_call_to(&t->hot, t->j->rw + (ji->row == NULL ? th->native
                                   : ji->end       ? th->end
                                                   : th->help));
    e32(&t->hot, t->number);
    e32(&t->hot, (uint32_t)((uint8_t *)h - t->j->arena));
    t->fl = FL_MEM;
    t->recipe.op = RECIPE_NONE;
    t->s0_group = -1;
    t->fpu_known = false;
    return true;
}

/* The guest's vector state is in the registers from here on. */
static void need_fpu(struct tr *t)
{
    if (t->fpu_known) {
        return;
    }
    tr_flags_clobber(t);
    struct stub *s = tr_stub(t, STUB_FPU);
    s->retry = t->hot.p;
    e_gs(&t->hot, E_66, 0x83, 7, offsetof(struct scpu, fpu_live));
    e8(&t->hot, 0);
    s->from[0] = e_jcc(&t->hot, CC_E);
    t->fpu_known = true;
    t->tb->uses_fpu = true;
    if (s->insn == 0 && s->retry == t->j->rw + t->tb->code) {
        t->tb->entry_fpu = (uint32_t)(t->hot.p - t->j->rw);
    }
}

static bool emit_one(struct tr *t, struct tpc *pc)
{
    struct jinsn *ji = &t->insn[t->cur];
    if (ji->fpu) {
        need_fpu(t);
    }
    pc->host = (uint16_t)(t->hot.p - (t->j->rw + t->tb->code));
    pc->ip = (uint16_t)(ji->ip | (t->cur > 0 && ji[-1].gen == gen_sti ? TPC_SHADOW : 0));
    if (ji->may_fault && t->fl == FL_RECIPE) {
        tr_flags_to_host(t);
    }
    if (ji->gen != NULL) {
        ji->gen(t, ji);
    } else if (!call_handler(t, ji)) {
        return false;
    }
    if (ji->may_fault && t->fl == FL_HOST) {
        pc->ip |= TPC_FLAGS;
    }
    if (ji->gen != NULL) {
        tr_flags_written(t, ji);
    }
    ji->hot_end = t->hot.p;
    ji->fl_after = (uint8_t)t->fl;
    return true;
}

/* ---- the block ---- */

static bool finish(struct tr *t)
{
    struct jit *j = t->j;
    struct tblock *tb = t->tb;
    struct texit *exits = jit_arena(j, t->n_exits * sizeof(*exits));
    if (exits == NULL) {
        return false;
    }
    tr_stubs(t);
    __builtin_memcpy(exits, t->exit, t->n_exits * sizeof(*exits));
    tb->exits = exits;
    tb->n_exits = (uint16_t)t->n_exits;
    tb->code_end = (uint32_t)(t->hot.p - j->rw);
    /* A page may have ceased to be code between its claim and the marks of what was decoded;
     * stores to it were not noticed then. */
    if (atomic_load(&tb->page->gen) != tb->gen ||
        (tb->page2 != NULL && atomic_load(&tb->page2->gen) != tb->gen2)) {
        return false;
    }
    for (unsigned i = 0; i < t->n_exits; i++) { /* not linked yet */
        if (exits[i].jmp_at != 0) {
            e_patch(j->rw + exits[i].jmp_at, j->rw + exits[i].stub);
        }
    }
    j->hot = (uint32_t)align_up(tb->code_end, JIT_ALIGN);
    j->cold = (uint32_t)(t->cold.p - j->rw);
    return jit_publish(t->c, tb);
}

static bool emit_pass(struct tr *t)
{
    for (t->cur = t->first; t->cur < t->n; t->cur++) {
        if (!emit_one(t, &t->tb->pcs[t->cur])) {
            return false;
        }
    }
    return true;
}

/* The block once more, as the second and further rounds of a loop: see loop_back. */
static void repeat(struct tr *t)
{
    unsigned n = t->n, groups = t->n_groups;
    for (unsigned i = 0; i < n; i++) {
        struct jinsn *ji = &t->insn[n + i];
        native_copy(ji, &t->insn[i], sizeof(*ji));
        ji->group = (int8_t)(ji->group < 0 ? -1 : ji->group + (int)groups);
    }
    for (unsigned g = 0; g < groups; g++) {
        t->group[groups + g] = t->group[g];
        t->group[groups + g].first += n;
    }
    t->n_groups = 2 * groups;
    t->first = n;
    t->n = 2 * n;
    t->tb->n_insns = (uint16_t)t->n;
    t->s0_group = -1;
    e_align(&t->hot, JIT_ALIGN);
    t->loop_at = t->hot.p;
    e_patch(t->loop_jmp, t->loop_at);
}

static bool emit_block(struct tr *t)
{
    struct tblock *tb = t->tb;
    t->fl = FL_MEM;
    t->s0_group = -1;
    t->cur = 0;
    struct stub *dead = tr_stub(t, STUB_DEAD);
    if (tb->page2 != NULL) { /* links do not look at the second page */
        e_gs(&t->hot, 0, 0x81, 7,
             offsetof(struct scpu, jc_epoch) + (size_t)(tb->va >> 63) * sizeof(uint32_t));
        tb->epoch_at = (uint32_t)(t->hot.p - t->j->rw);
        e32(&t->hot, t->c->jc_epoch[tb->va >> 63]);
        dead->from[0] = e_jcc(&t->hot, CC_NE);
    }
    for (unsigned n = 0; n < t->n; n++) {
        if (t->insn[n].fpu) { /* while no flags are in the way */
            need_fpu(t);
            break;
        }
        if (t->insn[n].gen == NULL) {
            break;
        }
    }
    if (!emit_pass(t)) {
        return false;
    }
    if (t->loop_jmp != NULL) {
        repeat(t);
        if (!emit_pass(t)) {
            return false;
        }
    }
    t->cur = t->n - 1;
    if (!t->insn[t->cur].end) {
        tr_flags_to_mem(t);
        tr_exit_to(t, t->next_va, false);
    }
    return finish(t);
}

/* Room in the arena for the sites of the block's x87 instructions. */
static bool x87_sites(struct tr *t)
{
    unsigned n = 0;
    for (unsigned i = 0; i < t->n; i++) {
        n += t->insn[i].gen == gen_native && t->insn[i].desc.cls == NC_X87;
    }
    t->x87_room = jit_arena(t->j, 2 * n * sizeof(*t->x87_room)); /* see repeat */
    return t->x87_room != NULL;
}

static bool has_room(const struct jit *j)
{
    return j->hot + TR_HOT_MAX <= j->hot_end && j->cold + TR_COLD_MAX <= j->cold_end &&
           j->arena_used + JIT_MAX_INSNS * (sizeof(struct jhelp) + 64) + 8192 <=
               j->arena_bytes &&
           j->n_blocks < j->max_blocks;
}

struct tblock *jit_translate(struct scpu *c)
{
    struct jit *j = c->jit;
    struct tr *t = &j->tr;
    soft_leave(c); /* decoding may use libc's string functions */
    const struct itlb_entry *page = soft_fetch_page(c, c->rip);
    if (page == NULL) {
        c->exc.pending = false; /* the interpreter raises it */
        return NULL;
    }
    if (!has_room(j)) {
        jit_flush(c);
    }
    uint64_t off = c->rip & (MEM_PAGE_SIZE - 1);
    struct tblock *tb = jit_arena(j, sizeof(*tb) + JIT_MAX_INSNS * sizeof(struct tpc));
    if (tb == NULL) {
        return NULL;
    }
    __builtin_memset(tb, 0, sizeof(*tb));
    tb->va = c->rip;
    tb->pa = page->gpa + off;
    tb->host = page->host + off;
    tb->mode = c->mode;
    tb->page = page->page;
    tb->pcs = (struct tpc *)(void *)(tb + 1);
    tb->code = j->hot;
    tb->gen = block_claim_page(c, page->page, page->host);

    t->c = c;
    t->j = j;
    t->tb = tb;
    t->number = j->n_blocks;
    t->n_groups = t->n_stubs = t->n_exits = t->first = 0;
    t->loop_at = t->loop_jmp = NULL;
    t->fpu_known = false;
    t->recipe.op = RECIPE_NONE;
    t->hot.p = j->rw + j->hot;
    t->cold.p = j->rw + j->cold;
    jit_scan(t);
    tb->n_insns = (uint16_t)t->n;
    tb->n_groups = (uint8_t)t->n_groups;
    if (t->n == 0 || !x87_sites(t) || !emit_block(t)) {
        j->arena_used = (uint32_t)((uint8_t *)tb - j->arena);
        return NULL;
    }
    c->stats.blocks_translated++;
    return tb;
}
