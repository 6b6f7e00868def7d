/*
 * A vCPU of the software engine: its mode, the outer run loop (requests, interrupts,
 * exceptions, halting), and the conversion to and from struct vcpu_state.
 */
#include "cpu/soft/cpu.h"

#include "cpu/soft/block.h"
#include "cpu/soft/exc.h"
#include "cpu/soft/jit/jit.h"
#include "cpu/soft/msr.h"
#include "cpu/soft/native.h"

#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* ---- mode ---- */

static uint32_t mode_of(const struct scpu *c)
{
    uint32_t m = c->vm->model->is_amd ? MODE_AMD : 0;
    bool lma = (c->efer & EFER_LMA) != 0;
    const uint16_t cs = c->seg[X86_CS].attr;
    m |= c->cpl == 3 ? MODE_CPL3 : 0;
    m |= c->cpl == 0 ? MODE_CPL0 : 0;
    m |= lma ? MODE_LMA : 0;
    m |= lma && (cs & SEG_L) ? MODE_64 : 0;
    m |= !(m & MODE_64) && (cs & SEG_DB) ? MODE_CS32 : 0;
    m |= !(m & MODE_64) && (c->seg[X86_SS].attr & SEG_DB) ? MODE_SS32 : 0;
    m |= c->cr0 & CR0_PE ? MODE_PE : 0;
    m |= c->sysflags & FL_VM ? MODE_VM86 : 0;
    m |= c->cr0 & CR0_TS ? MODE_TS : 0;
    m |= c->cr0 & CR0_EM ? MODE_EM : 0;
    m |= c->cr0 & CR0_MP ? MODE_MP : 0;
    m |= c->cr0 & CR0_NE ? MODE_NE : 0;
    m |= c->cr4 & CR4_OSFXSR ? MODE_OSFXSR : 0;
    m |= c->cr4 & CR4_OSXSAVE ? MODE_OSXSAVE : 0;
    m |= (m & MODE_OSXSAVE) && (c->xcr0 & 6) == 6 ? MODE_AVX : 0;
    m |= (m & MODE_AVX) && (c->xcr0 & 0xe0) == 0xe0 ? MODE_AVX512 : 0;
    m |= c->cr4 & CR4_UMIP ? MODE_UMIP : 0;
    m |= c->cr4 & CR4_TSD ? MODE_TSD : 0;
    m |= c->cr4 & CR4_SMAP ? MODE_CR4_SMAP : 0;
    m |= (c->sysflags & FL_TF) || (c->dr[7] & 0xff) ? MODE_STEP : 0;
    m |= (c->cr0 & CR0_AM) && (c->sysflags & FL_AC) && c->cpl == 3 ? MODE_AC : 0;
    return m;
}

void soft_update_mode(struct scpu *c)
{
    uint32_t old = c->mode;
    c->mode = mode_of(c);
    if (c->cpl == 3) {
        c->mmu = MMU_USER;
    } else {
        bool smap = (c->cr4 & CR4_SMAP) && (c->cr0 & CR0_PG) && !(c->sysflags & FL_AC);
        c->mmu = smap ? MMU_SMAP : MMU_KERNEL;
    }
    c->mode |= c->mmu == MMU_SMAP ? MODE_SMAP : 0;
    c->tlb_r = c->tlb[c->mmu][TLB_R];
    c->tlb_w = c->tlb[c->mmu][TLB_W];
    for (unsigned s = 0; s < X86_NSEG; s++) {
        bool used = !(c->mode & MODE_64) || s == X86_FS || s == X86_GS;
        c->seg_base[s] = used ? c->seg[s].base : 0;
    }
    uint64_t base = (c->mode & MODE_64) ? 0 : c->seg[X86_CS].base;
    if (base != c->code_base) {
        c->code_base = base; /* blocks are found by RIP */
        soft_code_epoch(c, 0);
        soft_code_epoch(c, 1);
    }
    if (((old ^ c->mode) & MODE_STEP) && (c->dr[7] & 0xff)) {
        soft_tlb_flush_all(c); /* armed watchpoints want to see every access */
    }
}

void soft_set_rflags(struct scpu *c, uint64_t rflags)
{
    soft_set_status_flags(c, rflags);
    c->sysflags = (rflags & ~FL_STATUS) | FL_1;
    soft_update_mode(c);
}

bool soft_canonical(const struct scpu *c, uint64_t va)
{
    unsigned shift = (c->cr4 & CR4_LA57) ? 64 - 57 : 64 - 48;
    return (uint64_t)((int64_t)(va << shift) >> shift) == va;
}

uint64_t soft_rdtsc(const struct scpu *c)
{
    return __builtin_ia32_rdtsc() + (uint64_t)c->tsc_offset;
}

/* ---- the run loop ---- */

static void wait_for_request(struct scpu *c)
{
    soft_leave(c);
    c->stats.exits_halt++;
    soft_guest_leave(c);
    pthread_mutex_lock(&c->lock);
    while (atomic_load(&c->exit_req) == 0) {
        c->sleeping = true;
        pthread_cond_wait(&c->wake, &c->lock);
        c->sleeping = false;
    }
    pthread_mutex_unlock(&c->lock);
    soft_guest_enter(c);
}

static void do_init(struct scpu *c)
{
    struct vcpu_state *s = malloc(sizeof(*s));
    if (s == NULL) {
        return;
    }
    scpu_get_state((struct engine_vcpu *)c, s);
    struct vcpu_state fresh;
    vcpu_state_reset(&fresh, c->index == 0);
    /* INIT keeps what is not the core's: MSRs, TSC, the vector state, caches. */
    __builtin_memcpy(s->gpr, fresh.gpr, sizeof(s->gpr));
    s->rip = fresh.rip;
    s->rflags = fresh.rflags;
    __builtin_memcpy(s->seg, fresh.seg, sizeof(s->seg));
    s->tr = fresh.tr;
    s->ldtr = fresh.ldtr;
    s->gdtr = fresh.gdtr;
    s->idtr = fresh.idtr;
    s->cr0 = (s->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
    s->cr2 = s->cr3 = s->cr4 = 0;
    s->efer = 0;
    __builtin_memcpy(s->dr, fresh.dr, sizeof(s->dr));
    s->mp_state = c->index == 0 ? VCPU_RUNNABLE : VCPU_WAIT_SIPI;
    s->event_pending = s->nmi_pending = s->nmi_blocked = s->irq_shadow = 0;
    scpu_set_state((struct engine_vcpu *)c, s, NULL);
    native_fpu_reset(c, true);
    free(s);
}

static void do_sipi(struct scpu *c)
{
    if (c->mp_state != VCPU_WAIT_SIPI) {
        return;
    }
    struct vcpu_seg *cs = &c->seg[X86_CS];
    cs->sel = (uint16_t)(c->sipi_vector << 8);
    cs->base = (uint64_t)c->sipi_vector << 12;
    c->rip = 0;
    c->mp_state = VCPU_RUNNABLE;
    c->halted = false;
    soft_update_mode(c);
}

/* Takes the requests of other threads. true: run must return for a kick. */
static bool take_requests(struct scpu *c)
{
    uint32_t req = atomic_exchange(&c->exit_req, 0);
    if (req & SOFT_REQ_CODE) {
        soft_tlb_drop_writes(c);
    }
    if (req & SOFT_REQ_STALE) {
        jit_drop_stale(c);
    }
    if (req & SOFT_REQ_STOP) {
        soft_leave(c);
        soft_guest_leave(c);
        soft_guest_enter(c);
    }
    if (req & SOFT_REQ_INIT) {
        soft_leave(c);
        do_init(c);
    }
    if (req & SOFT_REQ_SIPI) {
        do_sipi(c);
    }
    if (req & SOFT_REQ_NMI) {
        uint32_t n = c->nmi_pending + atomic_exchange(&c->nmi_queued, 0);
        c->nmi_pending = (uint8_t)MIN(n, c->nmi_blocked ? 1u : 2u);
    }
    if (req & SOFT_REQ_IRQ) {
        c->irq_waiting = true;
    }
    return (req & SOFT_REQ_KICK) != 0;
}

static bool is_running(const struct scpu *c)
{
    return c->mp_state == VCPU_RUNNABLE && !c->halted;
}

/* Delivers an NMI or interrupt if one may come in now. false: triple fault. */
static bool take_interrupts(struct scpu *c)
{
    if (c->mp_state != VCPU_RUNNABLE || c->irq_shadow != 0) {
        return true;
    }
    if (c->nmi_pending && !c->nmi_blocked) {
        c->nmi_pending--;
        c->halted = false;
        if (soft_deliver_event(c, SOFT_EV_NMI, EXC_NMI, false, 0) != 0) {
            return soft_deliver_exception(c);
        }
        return true;
    }
    if (!c->irq_waiting || !(c->sysflags & FL_IF)) {
        return true;
    }
    soft_leave(c);
    int vector = c->vm->host.irq_ack(c->vm->host.opaque, c->index);
    if (vector < 0) {
        c->irq_waiting = false;
        return true;
    }
    c->stats.exits_irq++;
    c->halted = false;
    if (soft_deliver_event(c, SOFT_EV_EXTERNAL, (uint8_t)vector, false, 0) != 0) {
        return soft_deliver_exception(c);
    }
    return true;
}

/* Instruction breakpoints at RIP (DR0-3 with R/W 0). */
static uint64_t code_breakpoints(const struct scpu *c)
{
    uint64_t hit = 0;
    uint64_t lin = (c->mode & MODE_64) ? c->rip : (uint32_t)(c->rip + c->code_base);
    for (unsigned i = 0; i < 4; i++) {
        if (((c->dr[7] >> (i * 2)) & 3) && !((c->dr[7] >> (16 + i * 4)) & 3) &&
            c->dr[i] == lin) {
            hit |= UINT64_C(1) << i;
        }
    }
    return hit;
}

#define DR6_BS UINT64_C(0x4000)

/*
 * One block, or one instruction when something must be looked at after each. Leaves either an
 * exception raised or the machine at an instruction boundary.
 */
static void run_block(struct scpu *c)
{
    uint8_t shadow = c->irq_shadow;
    bool step = shadow != 0 || c->steps != 0 || (c->mode & MODE_STEP);
    bool tf = (c->sysflags & FL_TF) != 0;
    /* MOV SS holds instruction breakpoints back on Intel only. */
    if ((c->dr[7] & 0xff) && !(c->sysflags & FL_RF) &&
        (!(shadow & 2) || c->vm->model->is_amd)) {
        uint64_t hit = code_breakpoints(c);
        if (hit != 0) {
            c->dr[6] = (c->dr[6] & ~UINT64_C(0xf)) | hit;
            soft_raise(c, EXC_DB);
            return;
        }
    }
    struct tblock *tb = NULL;
    struct sblock *b = NULL;
    bool may_translate = !step && c->jit != NULL && jit_mode_ok(c->mode);
    if (may_translate) {
        tb = jit_next(c);
    }
    if (tb == NULL) {
        b = block_get(c, c->mode | (step ? MODE_STEP : 0));
        if (b == NULL) {
            return;
        }
        if (may_translate && b->heat > 1) {
            b->heat--;
        } else if (may_translate && (tb = jit_translate(c)) == NULL) {
            b->heat = SBLOCK_COLD;
        }
    }
    /* RF lasts for one instruction, but what IRET loads is for the one after it. */
    uint64_t rf = c->sysflags & FL_RF;
    c->sysflags &= ~FL_RF;
    c->step_rule = STEP_TF_BEFORE;
    c->irq_shadow = 0;
    if (tb != NULL) {
        if (b != NULL) {
            b->heat = 1;
        }
        jit_run(c, tb);
    } else {
        c->icount += b->n_insns;
        c->blk = b;
        c->rip = b->va;
        c->stop_result = INSN_NEXT;
        uop_run(c, b->uops[0].fn(c, b->uops));
    }
    c->blk = NULL;
    c->code_hit = false;
    if (c->stop_result == INSN_EXC) {
        if (c->exc.vector != EXC_DB) {
            c->pending_db = 0; /* what it hit before it faulted it will hit again */
        }
        c->sysflags |= rf;
        c->irq_shadow = shadow & 2 ? 0 : c->irq_shadow;
        return;
    }
    if (c->stop_result == INSN_REPEAT) {
        c->sysflags |= rf;
        c->pending_db |= tf ? DR6_BS : 0; /* each turn of a REP traps */
        return;
    }
    if (c->step_rule == STEP_TF_AFTER
            ? (c->sysflags & FL_TF) != 0
            : tf && c->step_rule == STEP_TF_BEFORE && !(c->irq_shadow & 2)) {
        c->pending_db |= DR6_BS;
    }
}

static void set_shutdown(struct scpu *c, struct engine_exit_info *ret_exit)
{
    ret_exit->reason = ENGINE_EXIT_SHUTDOWN;
    soft_leave(c);
}

static void run_loop(struct scpu *c, struct engine_exit_info *ret_exit)
{
    if (c->stats.first_instruction_ns == 0 && c->mp_state == VCPU_RUNNABLE) {
        c->stats.first_instruction_ns = clock_now_ns();
    }
    msr_kvm_clock_resync(c);
    for (;;) {
        if (atomic_load_relaxed_u32(&c->exit_req) != 0 && take_requests(c)) {
            c->stats.exits_kick++;
            soft_leave(c);
            ret_exit->reason = ENGINE_EXIT_KICK;
            return;
        }
        if (c->exc.pending && !soft_deliver_exception(c)) {
            set_shutdown(c, ret_exit);
            return;
        }
        if (c->pending_db != 0 && !(c->irq_shadow & 2)) {
            c->dr[6] |= c->pending_db;
            c->pending_db = 0;
            soft_raise(c, EXC_DB);
            continue;
        }
        if ((c->irq_waiting || c->nmi_pending) && !take_interrupts(c)) {
            set_shutdown(c, ret_exit);
            return;
        }
        if (c->steps != 0 && (--c->steps == 0 || !is_running(c))) {
            c->steps = 0;
            soft_leave(c);
            ret_exit->reason = ENGINE_EXIT_KICK;
            return;
        }
        if (!is_running(c)) {
            if (atomic_load(&c->exit_req) == 0) {
                wait_for_request(c);
            }
            continue;
        }
        run_block(c);
    }
}

void scpu_run(struct engine_vcpu *vcpu, struct engine_exit_info *ret_exit)
{
    struct scpu *c = (struct scpu *)vcpu;
    ret_exit->text[0] = 0;
    if (c->jit != NULL) {
        jit_set_base(c);
    }
    soft_guest_enter(c);
    run_loop(c, ret_exit);
    soft_guest_leave(c);
}

static void request(struct scpu *c, uint32_t bits)
{
    atomic_fetch_or(&c->exit_req, bits);
    pthread_mutex_lock(&c->lock);
    if (c->sleeping) {
        pthread_cond_signal(&c->wake);
    }
    pthread_mutex_unlock(&c->lock);
}

void scpu_kick(struct engine_vcpu *vcpu)
{
    request((struct scpu *)vcpu, SOFT_REQ_KICK);
}

void scpu_signal(struct engine_vcpu *vcpu, enum engine_signal sig, uint8_t vector)
{
    struct scpu *c = (struct scpu *)vcpu;
    switch (sig) {
    case ENGINE_SIG_IRQ: request(c, SOFT_REQ_IRQ); break;
    case ENGINE_SIG_NMI:
        atomic_fetch_add(&c->nmi_queued, 1);
        request(c, SOFT_REQ_NMI);
        break;
    case ENGINE_SIG_INIT: request(c, SOFT_REQ_INIT); break;
    case ENGINE_SIG_SIPI:
        c->sipi_vector = vector;
        request(c, SOFT_REQ_SIPI);
        break;
    }
}

/* ---- state ---- */

int scpu_get_state(struct engine_vcpu *vcpu, struct vcpu_state *s)
{
    struct scpu *c = (struct scpu *)vcpu;
    soft_leave(c);
    *s = *c->cold;
    __builtin_memcpy(s->gpr, c->gpr, sizeof(s->gpr));
    s->rip = c->rip;
    s->rflags = soft_get_rflags(c);
    __builtin_memcpy(s->seg, c->seg, sizeof(s->seg));
    s->tr = c->tr;
    s->ldtr = c->ldtr;
    s->gdtr = c->gdtr;
    s->idtr = c->idtr;
    s->cr0 = c->cr0;
    s->cr2 = c->exc.pending && c->exc.vector == EXC_PF ? c->exc.va : c->cr2;
    s->cr3 = c->cr3;
    s->cr4 = c->cr4;
    s->xcr0 = c->xcr0;
    s->efer = c->efer;
    s->star = c->star;
    s->lstar = c->lstar;
    s->cstar = c->cstar;
    s->sfmask = c->sfmask;
    s->kernel_gs_base = c->kernel_gs_base;
    s->tsc_aux = c->tsc_aux;
    s->sysenter_cs = c->sysenter_cs;
    s->sysenter_esp = c->sysenter_esp;
    s->sysenter_eip = c->sysenter_eip;
    s->tsc_offset = c->tsc_offset;
    s->tsc_at_save = soft_rdtsc(c);
    __builtin_memcpy(s->dr, c->dr, sizeof(s->dr));
    s->mp_state = c->mp_state == VCPU_RUNNABLE && c->halted ? VCPU_HALTED : c->mp_state;
    s->event_pending = c->exc.pending;
    s->event_vector = c->exc.vector;
    s->event_has_error = c->exc.has_error;
    s->event_error = c->exc.error;
    s->event_soft = 0;
    s->nmi_pending = c->nmi_pending != 0;
    s->nmi_blocked = c->nmi_blocked;
    s->irq_shadow = c->irq_shadow;
    native_state_get(c, s);
    return 0;
}

int scpu_set_state(struct engine_vcpu *vcpu, const struct vcpu_state *s, struct err *err)
{
    struct scpu *c = (struct scpu *)vcpu;
    soft_leave(c);
    *c->cold = *s;
    __builtin_memcpy(c->gpr, s->gpr, sizeof(s->gpr));
    c->rip = s->rip;
    __builtin_memcpy(c->seg, s->seg, sizeof(s->seg));
    c->tr = s->tr;
    c->ldtr = s->ldtr;
    c->gdtr = s->gdtr;
    c->idtr = s->idtr;
    c->cr0 = s->cr0;
    c->cr2 = s->cr2;
    c->cr3 = s->cr3;
    c->cr4 = s->cr4;
    c->xcr0 = s->xcr0;
    c->efer = s->efer;
    c->star = s->star;
    c->lstar = s->lstar;
    c->cstar = s->cstar;
    c->sfmask = s->sfmask;
    c->kernel_gs_base = s->kernel_gs_base;
    c->tsc_aux = s->tsc_aux;
    c->sysenter_cs = s->sysenter_cs;
    c->sysenter_esp = s->sysenter_esp;
    c->sysenter_eip = s->sysenter_eip;
    c->tsc_offset = s->tsc_offset;
    __builtin_memcpy(c->dr, s->dr, sizeof(s->dr));
    c->cpl = !(s->cr0 & CR0_PE) ? 0 : (s->rflags & FL_VM) ? 3 : SEG_DPL(s->seg[X86_SS].attr);
    c->mp_state = (uint8_t)(s->mp_state == VCPU_HALTED ? VCPU_RUNNABLE : s->mp_state);
    c->halted = s->mp_state == VCPU_HALTED;
    c->exc = (struct soft_exc){.pending = s->event_pending != 0,
                               .vector = s->event_vector,
                               .has_error = s->event_has_error != 0,
                               .error = s->event_error,
                               .va = s->cr2};
    c->nmi_pending = s->nmi_pending != 0;
    c->nmi_blocked = s->nmi_blocked != 0;
    c->irq_shadow = s->irq_shadow;
    c->irq_waiting = true; /* whatever waits is looked at before the next instruction */
    c->pending_db = 0;
    soft_set_rflags(c, s->rflags);
    soft_tlb_flush_all(c);
    soft_code_epoch(c, 0);
    soft_code_epoch(c, 1);
    if ((c->cr0 & CR0_PG) && (c->cr4 & CR4_PAE) && !(c->efer & EFER_LMA) &&
        soft_load_pdptes(c, c->cr3)) {
        c->exc.pending = false;
        return ERR(err, STATE_BAD, EINVAL,
                   "vCPU %u: PDPTEs at CR3 0x%llx have reserved bits set", c->index,
                   (unsigned long long)c->cr3);
    }
    return native_state_set(c, s, err);
}

void scpu_get_stats(const struct engine_vcpu *vcpu, struct engine_stats *ret)
{
    const struct scpu *c = (const struct scpu *)vcpu;
    *ret = c->stats;
    ret->instructions = c->jit == NULL ? c->icount : 0; /* translated code does not count */
    ret->engine_bytes = sizeof(*c) + code_cache_bytes(c) + jit_bytes(c);
}

uint64_t scpu_read_tsc(const struct engine_vcpu *vcpu)
{
    return soft_rdtsc((const struct scpu *)vcpu);
}

/* ---- life ---- */

void scpu_free(struct engine_vcpu *vcpu)
{
    struct scpu *c = (struct scpu *)vcpu;
    if (c == NULL) {
        return;
    }
    pthread_mutex_lock(&c->vm->lock);
    c->vm->cpus[c->index] = NULL;
    pthread_mutex_unlock(&c->vm->lock);
    native_cache_free(c);
    jit_free(c);
    code_cache_free(c);
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
    free(c->cold);
    munmap(c, sizeof(*c));
}

int scpu_new(struct engine_vm *evm, unsigned index, struct engine_vcpu **ret_vcpu,
             struct err *err)
{
    struct soft_vm *vm = (struct soft_vm *)evm;
    /* Zeros that are not touched take no memory: most of it is tables. */
    void *mem = mmap(NULL, sizeof(struct scpu), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct scpu *c = mem;
    if (mem == MAP_FAILED) {
        return ERR(err, NO_MEMORY, errno, "soft engine: no memory for vCPU %u", index);
    }
    c->vm = vm;
    c->index = index;
    c->cold = calloc(1, sizeof(*c->cold));
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->wake, NULL);
    _Static_assert(TLB_INVALID(1) == 0, "only the first entry's is not");
    for (unsigned m = 0; m < MMU_NIDX; m++) {
        for (unsigned k = 0; k < TLB_NKIND; k++) {
            c->tlb[m][k][0].tag = TLB_INVALID(0);
        }
    }
    int r = c->cold == NULL
                ? ERR(err, NO_MEMORY, ENOMEM, "soft engine: no memory for vCPU %u", index)
                : code_cache_new(c, err);
    if (r == 0) {
        r = native_signals_init(err);
    }
    if (r == 0) {
        r = native_cache_new(c, err);
    }
    if (r == 0) {
        r = jit_new(c, err);
    }
    if (r == 0) {
        struct vcpu_state *s = c->cold;
        struct vcpu_state reset;
        vcpu_state_reset(&reset, index == 0);
        *s = reset;
        native_fpu_reset(c, false);
        r = scpu_set_state((struct engine_vcpu *)c, &reset, err);
    }
    if (r != 0) {
        scpu_free((struct engine_vcpu *)c);
        return r;
    }
    pthread_mutex_lock(&vm->lock);
    vm->cpus[index] = c;
    pthread_mutex_unlock(&vm->lock);
    *ret_vcpu = (struct engine_vcpu *)c;
    return 0;
}
