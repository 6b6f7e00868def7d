/*
 * Ends of a block: branches, and what is out of line.
 *
 * A branch to a known address becomes a jump that first goes to a stub, which asks jit_run for
 * the block there, and later straight to that block. Within a page that is all; to another page
 * the jump first compares the epoch of its half of the address space, which changes whenever
 * code may be mapped elsewhere. A branch back looks for requests of other threads, and so does
 * an indirect one by its way through the table of targets: a loop has one of the two.
 */
#include "cpu/soft/jit/jit_int.h"

/* Where the code of an indirect branch's target was found to be. */
#define OFF_CODE offsetof(struct scpu, jit_tmp)

struct stub *tr_stub(struct tr *t, enum stub_kind kind)
{
    struct stub *s = &t->stub[t->n_stubs++];
    *s = (struct stub){
        .kind = (uint8_t)kind, .fl = (uint8_t)t->fl, .insn = t->cur, .recipe = t->recipe};
    return s;
}

/* ---- direct branches ---- */

static uint8_t *poll_requests(struct tr *t)
{
    e_gs(&t->hot, 0, 0x83, 7, offsetof(struct scpu, exit_req));
    e8(&t->hot, 0);
    return e_jcc(&t->hot, CC_NE);
}

static struct texit *new_exit(struct tr *t, uint64_t target)
{
    struct texit *x = &t->exit[t->n_exits++];
    *x = (struct texit){.target = target, .fpu = t->fpu_known};
    return x;
}

static bool same_page(const struct tr *t, uint64_t va)
{
    return ((va ^ t->tb->va) & ~(MEM_PAGE_SIZE - 1)) == 0;
}

static uint32_t hot_off(const struct tr *t, const uint8_t *p)
{
    return (uint32_t)(p - t->j->rw);
}

void tr_exit_to(struct tr *t, uint64_t target, bool back)
{
    struct texit *x = new_exit(t, target);
    struct stub *s = tr_stub(t, STUB_EXIT);
    s->exit = x;
    if (!same_page(t, target)) {
        e_gs(&t->hot, 0, 0x81, 7,
             offsetof(struct scpu, jc_epoch) + (size_t)(target >> 63) * sizeof(uint32_t));
        x->epoch_at = hot_off(t, t->hot.p);
        e32(&t->hot, 0);
        s->from[1] = e_jcc(&t->hot, CC_NE);
    }
    if (back) {
        s->from[2] = poll_requests(t);
    }
    s->from[0] = e_jmp(&t->hot);
    x->jmp_at = hot_off(t, s->from[0]);
}

static uint64_t next_of(const struct tr *t, const struct jinsn *ji)
{
    return t->tb->va + ji->ip + ji->in.len;
}

/*
 * The branch back of a block that loops to itself, where the flags are overwritten in each
 * round before anything but an exception could see them. The next round is code of its own,
 * which knows how to make them if it is left: so the loop saves no flags.
 */
static void loop_back(struct tr *t, unsigned cc, uint64_t next)
{
    struct stub *out = tr_stub(t, STUB_EXIT);
    out->exit = new_exit(t, next);
    out->save = true;
    out->from[0] = e_jcc(&t->hot, cc ^ 1);
    struct stub *poll = tr_stub(t, STUB_EXIT);
    poll->exit = new_exit(t, t->tb->va);
    poll->fl = FL_RECIPE;
    poll->from[0] = poll_requests(t);
    if (t->loop_at != NULL) {
        e_jmp_to(&t->hot, t->loop_at);
    } else {
        t->loop_jmp = e_jmp(&t->hot);
    }
    t->fl = FL_RECIPE;
}

static bool may_loop(const struct tr *t)
{
    return t->first != 0 || (t->n <= JIT_MAX_INSNS / 2 && t->n_groups <= JIT_MAX_GROUPS / 2 &&
                             t->tb->page2 == NULL);
}

void gen_jcc(struct tr *t, struct jinsn *ji)
{
    unsigned cc = ji->in.opcode & 15;
    uint64_t next = next_of(t, ji), target = next + ji->in.imm;
    bool last = t->cur + 1 == t->n;
    tr_flags_to_host(t);
    if (!last) {
        /* A side exit: what the other way does not need is done out of line. */
        struct texit *x = new_exit(t, target);
        struct stub *s = tr_stub(t, STUB_EXIT);
        s->exit = x;
        s->save = t->fl == FL_HOST && !jit_flags_dead_at(t, target);
        s->from[0] = e_jcc(&t->hot, cc);
        x->jmp_at = s->save ? 0 : hot_off(t, s->from[0]);
        return;
    }
    if (target == t->tb->va && may_loop(t) && tr_flags_loop(t)) {
        loop_back(t, cc, next);
        return;
    }
    bool dead = t->fl == FL_HOST && target > next && same_page(t, target) &&
                jit_flags_dead_at(t, target) && jit_flags_dead_at(t, next);
    if (!dead) {
        tr_flags_to_mem(t);
    }
    if (same_page(t, target) && target > next) {
        struct texit *x = new_exit(t, target);
        struct stub *s = tr_stub(t, STUB_EXIT);
        s->exit = x;
        s->from[0] = e_jcc(&t->hot, cc);
        x->jmp_at = hot_off(t, s->from[0]);
    } else {
        uint8_t *skip = e_jcc_short(&t->hot, cc ^ 1);
        tr_exit_to(t, target, target < next);
        e_patch_short(skip, t->hot.p);
    }
    tr_exit_to(t, next, false);
}

void gen_jmp(struct tr *t, struct jinsn *ji)
{
    uint64_t next = next_of(t, ji), target = next + ji->in.imm;
    tr_flags_to_mem(t);
    tr_exit_to(t, target, target < next);
}

/* ---- calls, returns, indirect branches ---- */

/* Writes the return address below the stack pointer. */
static void store_return(struct tr *t, struct jinsn *ji)
{
    struct mop m;
    uint64_t next = next_of(t, ji);
    tr_push_slot(t, ji, &m);
    if (next == (uint64_t)(int64_t)(int32_t)next) {
        e_op(&t->hot, E_W, 0xc7, 0, &m);
        e32(&t->hot, (uint32_t)next);
    } else {
        unsigned r = tr_scratch(t, &m);
        e_const(&t->hot, r, next);
        e_op(&t->hot, E_W, 0x89, r, &m);
    }
}

void gen_call(struct tr *t, struct jinsn *ji)
{
    uint64_t next = next_of(t, ji), target = next + ji->in.imm;
    tr_flags_to_mem(t);
    store_return(t, ji);
    e_move_sp(&t->hot, -8);
    tr_exit_to(t, target, target < next);
}

static size_t target_off(enum mmu_index mmu)
{
    return offsetof(struct scpu, jit_jc) +
           (size_t)mmu * JIT_JC_SIZE * sizeof(struct jit_jc_entry);
}

/* Looks the address in S1 up in the table of targets; S0 = offset of its entry. A target that
 * is not there, or no address at all, is left to jit_on_jump with nothing changed yet. */
static struct stub *find_target(struct tr *t)
{
    struct asmb *a = &t->hot;
    enum mmu_index mmu = soft_mode_mmu(t->tb->mode);
    struct stub *s = tr_stub(t, STUB_JUMP);
    _Static_assert(sizeof(struct jit_jc_entry) == 16, "encoded below");
    s->from[1] = poll_requests(t);
    e_rr(a, 0, 0x8b, RAX, S1); /* mov eax, S1d */
    e8(a, 0x25);               /* and eax, size - 1 */
    e32(a, JIT_JC_SIZE - 1);
    e_rr(a, 0, 0xc1, 4, RAX); /* shl eax, 4 */
    e8(a, 4);
    e_gs(a, E_W, 0x33, S1, offsetof(struct scpu, jit_key) + (size_t)mmu * sizeof(uint64_t));
    struct mop tag = mop_mem(RAX, NO_REG, (int32_t)target_off(mmu));
    e_op(a, E_W | E_GS, 0x3b, S1, &tag);
    s->from[0] = e_jcc(a, CC_NE);
    t->s0_group = -1;
    return s;
}

/* Jumps to the address in S1; pop: bytes to take off the stack. */
static void jump_s1(struct tr *t, int32_t pop)
{
    struct stub *s = find_target(t);
    struct mop code = mop_mem(RAX, NO_REG, (int32_t)target_off(soft_mode_mmu(t->tb->mode)) + 8);
    s->pop = pop;
    if (pop != 0) {
        e_move_sp(&t->hot, pop);
    }
    e_op(&t->hot, E_GS, 0xff, 4, &code);
}

void gen_ret(struct tr *t, struct jinsn *ji)
{
    struct mop m;
    int32_t pop = 8 + (ji->in.opcode == 0xc2 ? (int32_t)ji->in.imm : 0);
    tr_flags_to_mem(t);
    tr_stack(t, ji, 0, 8, false, &m);
    e_op(&t->hot, E_W, 0x8b, S1, &m);
    jump_s1(t, pop);
}

void gen_jmpind(struct tr *t, struct jinsn *ji)
{
    tr_flags_to_mem(t);
    if (ji->in.is_mem) {
        struct mop m;
        tr_operand(t, ji, 8, false, &m);
        e_op(&t->hot, E_W, 0x8b, S1, &m);
    } else {
        e_mov(&t->hot, S1, tr_read(t, ji->in.rm, S1));
    }
    jump_s1(t, 0);
}

/* The target is found before the return address is written: one that is not canonical faults on
 * the call. */
void gen_callind(struct tr *t, struct jinsn *ji)
{
    struct asmb *a = &t->hot;
    tr_flags_to_mem(t);
    if (ji->in.is_mem) {
        struct mop m;
        tr_operand(t, ji, 8, false, &m);
        e_op(a, E_W, 0x8b, S1, &m);
    } else {
        e_mov(a, S1, tr_read(t, ji->in.rm, S1));
    }
    struct stub *s = find_target(t);
    struct mop code = mop_mem(RAX, NO_REG, (int32_t)target_off(soft_mode_mmu(t->tb->mode)) + 8);
    e_op(a, E_W | E_GS, 0x8b, RAX, &code);
    e_store(a, RAX, OFF_CODE);
    s->retry = a->p;
    store_return(t, ji);
    e_move_sp(a, -8);
    e_gs(a, 0, 0xff, 4, OFF_CODE);
}

/* ---- out of line ---- */

static void call_thunk(struct tr *t, uint32_t thunk, uint32_t word)
{
    e_call_to(&t->cold, t->j->rw + thunk);
    e32(&t->cold, t->number);
    e32(&t->cold, word);
}

/* The instruction once more, on a copy of its operand that jit_on_store then puts in place. */
static void store_copy(struct tr *t, const struct stub *s)
{
    struct asmb *a = &t->cold;
    const struct jinsn *ji = &t->insn[s->insn];
    bool in_host = ji->fl_after == FL_HOST || ji->fl_after == FL_BOTH;
    size_t n = (size_t)(ji->hot_end - s->resume);
    native_copy(a->p, s->resume, n);
    a->p += n;
    if (in_host) {
        tr_flags_save(a);
    }
    call_thunk(t, t->j->thunk.store, ji->ip + ji->in.len);
    if (in_host) {
        tr_flags_restore(a);
    }
    e_jmp_to(a, ji->hot_end);
}

static void stub_slow(struct tr *t, const struct stub *s)
{
    struct asmb *a = &t->cold;
    const struct jinsn *ji = &t->insn[s->insn];
    if (s->const_ea) {
        e_const(a, S1, s->ea);
    } else {
        struct mop tag = mop_mem(RAX, NO_REG, (int32_t)s->tlb_off);
        e_op(a, E_W | E_GS, 0x33, S1, &tag);
    }
    if (s->fl == FL_RECIPE) {
        tr_recipe_run(a, &s->recipe);
        tr_flags_save(a);
    }
    call_thunk(t, t->j->thunk.slow, s->word);
    if (!(s->word & SITE_GROUP)) {
        e_patch(e_jcc(a, CC_B), s->retry);
        uint8_t *done = e_jcc(a, CC_E);
        e_load(a, S1, offsetof(struct scpu, jit_va));
        e_load(a, RAX, offsetof(struct scpu, jit_tmp));
        if (s->word & SITE_STORE) {
            store_copy(t, s);
        } else {
            e_jmp_to(a, s->resume);
        }
        e_patch(done, a->p);
        if (ji->fl_after == FL_HOST || ji->fl_after == FL_BOTH) {
            tr_flags_restore(a);
        }
        e_jmp_to(a, ji->hot_end);
    } else {
        e_jmp_to(a, s->retry);
    }
}

static void stub_exit(struct tr *t, struct stub *s)
{
    struct jit *j = t->j;
    struct asmb *a = &t->cold;
    uint32_t number = (uint32_t)(s->exit - t->exit);
    if (s->save) {
        tr_flags_save(a);
        uint8_t *jmp = e_jmp(a);
        s->exit->jmp_at = (uint32_t)(jmp - j->rw);
        e_patch(jmp, a->p);
    }
    s->exit->stub = (uint32_t)(a->p - j->rw);
    if (s->fl == FL_RECIPE) {
        tr_recipe_run(a, &s->recipe);
    }
    if (s->fl == FL_RECIPE || (s->fl == FL_HOST && !s->save)) {
        tr_flags_save(a); /* dead where it goes, but C looks at them */
    }
    call_thunk(t, j->thunk.exit, number);
}

static void stub_jump(struct tr *t, const struct stub *s)
{
    struct asmb *a = &t->cold;
    enum mmu_index mmu = soft_mode_mmu(t->tb->mode);
    /* From the comparison S1 comes with the key in it, from the poll without. */
    e_patch(s->from[0], a->p);
    e_gs(a, E_W, 0x33, S1, offsetof(struct scpu, jit_key) + (size_t)mmu * sizeof(uint64_t));
    e_patch(s->from[1], a->p);
    call_thunk(t, t->j->thunk.jump, s->insn);
    if (s->retry != NULL) {
        e_jmp_to(a, s->retry);
        return;
    }
    if (s->pop != 0) {
        e_move_sp(a, s->pop);
    }
    e_gs(a, 0, 0xff, 4, OFF_CODE);
}

static void stub_fpu(struct tr *t, const struct stub *s)
{
    call_thunk(t, t->j->thunk.fpu, 0);
    e_jmp_to(&t->cold, s->retry);
}

void tr_stubs(struct tr *t)
{
    for (unsigned i = 0; i < t->n_stubs; i++) {
        struct stub *s = &t->stub[i];
        if (s->kind != STUB_JUMP) {
            for (unsigned k = 0; k < ARRAY_LEN(s->from); k++) {
                if (s->from[k] != NULL) {
                    e_patch(s->from[k], t->cold.p);
                }
            }
        }
        switch ((enum stub_kind)s->kind) {
        case STUB_SLOW: stub_slow(t, s); break;
        case STUB_EXIT: stub_exit(t, s); break;
        case STUB_JUMP: stub_jump(t, s); break;
        case STUB_FPU: stub_fpu(t, s); break;
        case STUB_SHADOW: call_thunk(t, t->j->thunk.shadow, s->word); break;
        case STUB_DEAD:
            t->tb->dead_stub = (uint32_t)(t->cold.p - t->j->rw);
            call_thunk(t, t->j->thunk.exit, UINT32_MAX);
            break;
        }
    }
}
