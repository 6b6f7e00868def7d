/*
 * The side of the software engine: a machine of RAM, the ROM of rom.asm and nothing else, run
 * with scpu.steps so that the state before each instruction can be read.
 */
#include "lockstep.h"

#include "base/ckd.h"
#include "cpu/soft/soft.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct mem *mem;
static struct cpu_model model;
static struct engine_vm *vm;
static struct engine_vcpu *vcpu;
static uint8_t *low, *high;
static uint8_t *ram_view;

static uint64_t mmio_read(void *o, unsigned cpu, uint64_t gpa, unsigned len)
{
    (void)o, (void)cpu, (void)gpa, (void)len;
    return 0;
}
static void mmio_write(void *o, unsigned cpu, uint64_t gpa, unsigned len, uint64_t v)
{
    (void)o, (void)cpu, (void)gpa, (void)len, (void)v;
}
static uint64_t pio_read(void *o, unsigned cpu, uint16_t port, unsigned len)
{
    (void)o, (void)cpu, (void)port, (void)len;
    return UINT64_MAX;
}
static void pio_write(void *o, unsigned cpu, uint16_t port, unsigned len, uint32_t v)
{
    (void)o, (void)cpu, (void)port, (void)len, (void)v;
}
static int irq_ack(void *o, unsigned cpu)
{
    (void)o, (void)cpu;
    return -1;
}

bool ls_soft_init(const uint8_t *rom, bool amd)
{
    struct err err = {.text = ""};
    struct engine_vm_params params = {.model = &model,
                                      .n_cpus = 1,
                                      .host = {.mmio_read = mmio_read,
                                               .mmio_write = mmio_write,
                                               .pio_read = pio_read,
                                               .pio_write = pio_write,
                                               .irq_ack = irq_ack}};
    int rc = mem_new(&mem, &err) || mem_slot_add(mem, GPA(0), 0xa0000, MEM_RAM, &err) ||
             mem_slot_add(mem, GPA(0x100000), LS_RAM - 0x100000, MEM_RAM, &err) ||
             mem_slot_add(mem, GPA(0xf0000), 0x10000, MEM_ROM, &err) ||
             mem_slot_add(mem, GPA(0xffff0000), 0x10000, MEM_ROM, &err) ||
             cpu_model_host(&model, true, 1, &err);
    model.phys_bits = 40;
    model.is_amd = amd;
    params.mem = mem;
    rc = rc || engine_soft.vm_new(&vm, &params, &err);
    for (unsigned i = 0; !rc && i < 4; i++) {
        rc = engine_soft.map_slot(vm, mem_slot_get(mem, i), &err);
    }
    rc = rc || engine_soft.vcpu_new(vm, 0, &vcpu, &err);
    if (rc) {
        fprintf(stderr, "lockstep: %s\n", err.text);
        return false;
    }
    memcpy(mem_span(mem, GPA(0xf0000), 0x10000, false), rom, 0x10000);
    memcpy(mem_span(mem, GPA(0xffff0000), 0x10000, false), rom, 0x10000);
    low = mem_span(mem, GPA(0), 0xa0000, true);
    high = mem_span(mem, GPA(0x100000), LS_RAM - 0x100000, true);
    ram_view = malloc(LS_RAM);
    return ram_view != NULL;
}

void ls_soft_done(void)
{
    engine_soft.vcpu_free(vcpu);
    engine_soft.vm_free(vm);
    mem_free(mem);
    free(ram_view);
}

const uint8_t *ls_soft_ram(void)
{
    memcpy(ram_view, low, 0xa0000);
    memcpy(ram_view + 0x100000, high, LS_RAM - 0x100000);
    return ram_view;
}

static void load(const uint8_t *image)
{
    uint32_t one = 1;
    struct vcpu_state *s = calloc(1, sizeof(*s));
    struct err err;
    memset(low, LS_FILL, 0xa0000);
    memset(low + LS_BOOTS, 0, 4);
    memcpy(low + LS_GO, &one, 4);
    memcpy(high + LS_STAGE - 0x100000, image, LS_BYTES);
    mem_written(mem, GPA(0), 0xa0000);
    vcpu_state_reset(s, true);
    if (engine_soft.set_state(vcpu, s, &err) != 0) {
        abort();
    }
    free(s);
}

static bool in_rom(const struct scpu *c)
{
    uint64_t lin = c->rip + c->code_base;
    return (lin >= 0xf0000 && lin < 0x100000) || (lin >= 0xffff0000 && lin <= UINT32_MAX);
}

static bool step(struct scpu *c)
{
    struct engine_exit_info info;
    c->steps = 2;
    engine_soft.run(vcpu, &info);
    return info.reason == ENGINE_EXIT_KICK;
}

static void take(struct scpu *c, struct ls_rec *r)
{
    uint64_t lin = c->rip + c->code_base;
    memcpy(r->gpr, c->gpr, sizeof(r->gpr));
    r->rip = c->rip;
    r->rflags = soft_get_rflags(c);
    memcpy(r->seg, c->seg, sizeof(r->seg));
    r->ldtr = c->ldtr;
    r->tr = c->tr;
    r->gdtr = c->gdtr;
    r->idtr = c->idtr;
    r->cr0 = c->cr0;
    r->cr2 = c->cr2;
    r->cr3 = c->cr3;
    r->cr4 = c->cr4;
    r->efer = c->efer;
    memcpy(r->dr, c->dr, sizeof(r->dr));
    r->code64 = soft_code64(c);
    r->lma = soft_long_mode(c);
    r->cpl = c->cpl;
    memset(r->bytes, 0, sizeof(r->bytes));
    if (lin < 0x90000) {
        memcpy(r->bytes, low + lin, 15);
    }
}

static bool same_place(const struct ls_rec *r, const struct scpu *c)
{
    return r->rip == c->rip && r->seg[X86_CS].sel == c->seg[X86_CS].sel &&
           r->seg[X86_CS].base == c->seg[X86_CS].base && r->cpl == c->cpl;
}

/* QEMU notes a state only when the instruction can be fetched. */
static bool can_fetch(struct scpu *c)
{
    uint64_t lin = c->rip + c->code_base;
    lin = soft_code64(c) ? lin : (uint32_t)lin;
    bool ok = c->halted || !soft_canonical(c, lin) || soft_fetch_page(c, lin) != NULL;
    c->exc.pending = false;
    return ok;
}

void ls_soft_run(const uint8_t *image, struct ls_trace *t)
{
    struct scpu *c = (struct scpu *)vcpu;
    load(image);
    t->n = 0;
    t->ended = false;
    while (in_rom(c)) {
        if (!step(c)) {
            return;
        }
    }
    for (unsigned guard = 0; t->n < LS_MAX && guard < LS_STEPS; guard++) {
        if (can_fetch(c) && (t->n == 0 || !same_place(&t->rec[t->n - 1], c))) {
            take(c, &t->rec[t->n++]);
        }
        if (c->halted || !step(c)) {
            t->ended = !c->halted;
            break;
        }
    }
}

unsigned ls_soft_who_wrote(const uint8_t *image, uint32_t gpa)
{
    struct scpu *c = (struct scpu *)vcpu;
    unsigned n = 0, who = 0;
    uint64_t rip = 1;
    uint8_t was;
    load(image);
    while (in_rom(c) && step(c)) {
    }
    for (unsigned guard = 0; n < LS_MAX && guard < LS_STEPS; guard++) {
        n += c->rip != rip;
        rip = c->rip;
        was = low[gpa];
        bool goes_on = !c->halted && step(c);
        who = low[gpa] != was ? n - 1 : who;
        if (!goes_on) {
            break;
        }
    }
    return who;
}
