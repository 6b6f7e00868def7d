/*
 * Runs cases on the software engine: a VM with one vCPU, page tables that map the test's
 * addresses, CPL 3 in long mode. Uses the engine's inside to run exactly one instruction (step)
 * or one block.
 */
#include "forms.h"

#include "base/ckd.h"
#include "cpu/soft/block.h"
#include "cpu/soft/soft.h"
#include "cpu/soft/uop.h"

#include <stdlib.h>
#include <string.h>

#define GPA_PML4 0x1000u
#define GPA_PDPT 0x2000u
#define GPA_PD   0x3000u
#define GPA_PT_D 0x4000u
#define GPA_PT_C 0x5000u
#define GPA_DATA 0x100000u
#define GPA_CODE 0x200000u
#define RAM      0x400000u

#define PTE_P  1u
#define PTE_W  2u
#define PTE_U  4u
#define PTE_NX (UINT64_C(1) << 63)

static struct mem *mem;
static struct cpu_model model;
static struct engine_vm *vm;
static struct engine_vcpu *vcpu;
static uint8_t *ram;
static struct vcpu_state base_state;

static uint64_t no_read(void *o, unsigned cpu, uint64_t gpa, unsigned len)
{
    (void)o, (void)cpu, (void)gpa, (void)len;
    return UINT64_MAX;
}
static void no_write(void *o, unsigned cpu, uint64_t gpa, unsigned len, uint64_t v)
{
    (void)o, (void)cpu, (void)gpa, (void)len, (void)v;
}

static void put64(uint32_t gpa, unsigned index, uint64_t v)
{
    memcpy(ram + gpa + index * 8u, &v, 8);
}

static void make_tables(void)
{
    const uint64_t all = PTE_P | PTE_W | PTE_U;
    put64(GPA_PML4, 0, GPA_PDPT | all);
    put64(GPA_PDPT, 0, GPA_PD | all);
    put64(GPA_PD, (unsigned)(DT_DATA >> 21), GPA_PT_D | all);
    put64(GPA_PD, (unsigned)(DT_CODE >> 21), GPA_PT_C | all);
    for (unsigned i = 0; i < DT_DATA_BYTES / 4096; i++) {
        uint64_t w = i < DT_RW_BYTES / 4096 ? PTE_W : 0;
        put64(GPA_PT_D, i, (GPA_DATA + i * 4096u) | PTE_P | PTE_U | w | PTE_NX);
    }
    for (unsigned i = 0; i < DT_CODE_BYTES / 4096; i++) {
        put64(GPA_PT_C, i, (GPA_CODE + i * 4096u) | PTE_P | PTE_U);
    }
}

static void make_state(struct vcpu_state *s)
{
    const struct vcpu_seg data = {0x2b, 0x3 | SEG_S | 3 << 5 | SEG_P | SEG_DB | SEG_G,
                                  UINT32_MAX, 0};
    const struct vcpu_seg null = {0, SEG_UNUSABLE, 0, 0};
    vcpu_state_reset(s, true);
    s->cr0 = 0x80050033;
    s->cr3 = GPA_PML4;
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
    s->efer = EFER_LME | EFER_LMA | EFER_NX | EFER_SCE;
    s->xcr0 = dt_xcr0;
    s->seg[X86_DS] = s->seg[X86_ES] = s->seg[X86_SS] = data;
    s->seg[X86_FS] = s->seg[X86_GS] = null;
    s->seg[X86_GS].base = DT_GS_BASE;
    s->idtr = s->gdtr = (struct vcpu_dtable){0, 0};
    s->ldtr = null;
    s->tr.limit = 0x65; /* no I/O permission map */
}

static struct vcpu_seg code_seg(bool mode32)
{
    struct vcpu_seg s = {0x33, 0xb | SEG_S | 3 << 5 | SEG_P | SEG_G, UINT32_MAX, 0};
    s.attr |= mode32 ? SEG_DB : SEG_L;
    s.sel = mode32 ? 0x23 : 0x33;
    return s;
}

bool dt_soft_init(void)
{
    struct err err;
    int rc = mem_new(&mem, &err);
    if (rc == 0) {
        rc = mem_slot_add(mem, GPA(0), RAM, MEM_RAM, &err);
    }
    if (rc == 0) {
        rc = cpu_model_host(&model, true, 1, &err);
    }
    dt_offer_all(&model);
    struct engine_vm_params params = {.mem = mem, .model = &model, .n_cpus = 1};
    params.host.mmio_read = no_read;
    params.host.mmio_write = no_write;
    if (rc == 0) {
        rc = engine_soft.vm_new(&vm, &params, &err);
    }
    if (rc == 0) {
        rc = engine_soft.map_slot(vm, mem_slot_get(mem, 0), &err);
    }
    if (rc == 0) {
        rc = engine_soft.vcpu_new(vm, 0, &vcpu, &err);
    }
    if (rc != 0) {
        fprintf(stderr, "difftest: %s\n", err.text);
        return false;
    }
    ram = mem_slot_get(mem, 0)->host;
    make_tables();
    make_state(&base_state);
    memset(ram + GPA_CODE, 0xcc, DT_CODE_BYTES);
    return true;
}

void dt_soft_done(void)
{
    engine_soft.vcpu_free(vcpu);
    engine_soft.vm_free(vm);
    mem_free(mem);
}

static void load(const struct dt_case *k)
{
    struct vcpu_state *s = &base_state;
    struct err err;
    memcpy(s->gpr, k->in.gpr, sizeof(s->gpr));
    s->rip = k->in.rip;
    s->rflags = k->in.rflags | 0x202;
    s->seg[X86_CS] = code_seg(k->mode32);
    memset(s->xsave, 0, sizeof(s->xsave));
    memcpy(s->xsave, k->in.xsave, DT_XSAVE);
    if (engine_soft.set_state(vcpu, s, &err) != 0) {
        fprintf(stderr, "difftest: %s\n", err.text);
        abort();
    }
}

static bool run_one_block(struct scpu *c, bool step)
{
    struct sblock *b = block_get(c, c->mode | (step ? MODE_STEP : 0));
    if (b == NULL) {
        return false;
    }
    c->icount += b->n_insns;
    c->blk = b;
    c->rip = b->va;
    c->stop_result = INSN_NEXT;
    atomic_store(&c->exit_req, 0);
    uop_run(c, b->uops[0].fn(c, b->uops));
    c->blk = NULL;
    c->code_hit = false;
    return true;
}

static bool at_int3(const struct scpu *c)
{
    uint64_t off = c->rip - DT_CODE;
    return off < DT_CODE_BYTES && ram[GPA_CODE + off] == 0xcc;
}

/* So that fast handlers find the pages in the TLB, as they mostly do. */
static void warm_tlb(struct scpu *c)
{
    for (unsigned i = 0; i < DT_DATA_BYTES / 4096; i++) {
        uint64_t v, va = DT_DATA + i * 4096u;
        if (soft_ld(c, va, 8, ACC_USER, &v) == 0 && i < DT_RW_BYTES / 4096) {
            soft_st(c, va, 8, ACC_USER, v);
        }
    }
}

void dt_soft_run(const struct dt_case *k, struct dt_result *ret, bool step)
{
    struct scpu *c = (struct scpu *)vcpu;
    size_t off = (size_t)(k->in.rip - DT_CODE);
    static struct vcpu_state after;
    memcpy(ram + GPA_CODE + off, k->code, k->len);
    mem_written(mem, GPA(GPA_CODE + off), k->len);
    dt_fill_data(ram + GPA_DATA, k);
    load(k);
    if (!step) {
        warm_tlb(c);
    }
    for (unsigned i = 0; i < 100000 && !c->exc.pending; i++) {
        if ((i > 0 && at_int3(c)) || !run_one_block(c, step)) {
            break;
        }
        if (step && c->stop_result != INSN_REPEAT) {
            if (!c->exc.pending && !at_int3(c)) {
                block_get(c, c->mode | MODE_STEP); /* the fetch of what a branch leads to */
            }
            break;
        }
    }
    ret->died = false;
    ret->vector = DT_END;
    ret->error = 0;
    ret->cr2 = 0;
    if (c->exc.pending && !(at_int3(c) && c->rip != k->in.rip)) {
        ret->vector = c->exc.vector;
        ret->error = c->exc.has_error ? c->exc.error : 0;
        ret->cr2 = c->exc.vector == EXC_PF ? c->exc.va : 0;
    }
    c->exc.pending = false;
    engine_soft.get_state(vcpu, &after);
    memcpy(ret->out.gpr, after.gpr, sizeof(after.gpr));
    ret->out.rip = after.rip;
    ret->out.rflags = after.rflags;
    memcpy(ret->out.xsave, after.xsave, DT_XSAVE);
    memcpy(ret->data, ram + GPA_DATA, DT_RW_BYTES);
    memset(ram + GPA_CODE + off, 0xcc, k->len);
    mem_written(mem, GPA(GPA_CODE + off), k->len);
}
