/*
 * The probe of `viv engines`: a loop of loads, arithmetic and a branch, in long mode on
 * identity page tables, once at CPL 0 and once at CPL 3. It ends by a port write, which kicks
 * the vCPU.
 */
#include "cpu/soft/probe.h"

#include "base/clock.h"
#include "cpu/soft/cpu.h"
#include "cpu/soft/soft.h"

#include <stdio.h>
#include <stdlib.h>

#define PROBE_RAM   (UINT64_C(64) * KIB)
#define PROBE_CODE  0x1000u
#define PROBE_PML4  0x2000u
#define PROBE_LOOPS 30000u

/* 1: add rax,[rbx]; xor rdx,rax; dec ecx; jnz 1b; out 0xf4,al; jmp $ */
static const uint8_t probe_code[] = {0x48, 0x03, 0x03, 0x48, 0x31, 0xc2, 0xff,
                                     0xc9, 0x75, 0xf6, 0xe6, 0xf4, 0xeb, 0xfe};
#define PROBE_INSNS (4u * PROBE_LOOPS)

struct probe {
    struct mem *mem;
    struct cpu_model model;
    struct engine_vm *vm;
    struct engine_vcpu *vcpu;
};

static uint64_t read_ones(void *opaque, unsigned cpu, uint64_t gpa, unsigned len)
{
    (void)opaque, (void)cpu, (void)gpa, (void)len;
    return UINT64_MAX;
}

static void write_nothing(void *opaque, unsigned cpu, uint64_t gpa, unsigned len,
                          uint64_t value)
{
    (void)opaque, (void)cpu, (void)gpa, (void)len, (void)value;
}

static uint64_t port_read(void *opaque, unsigned cpu, uint16_t port, unsigned len)
{
    (void)opaque, (void)cpu, (void)port, (void)len;
    return UINT32_MAX;
}

static void port_write(void *opaque, unsigned cpu, uint16_t port, unsigned len, uint32_t value)
{
    struct probe *p = opaque;
    (void)cpu, (void)port, (void)len, (void)value;
    scpu_kick(p->vcpu);
}

static int no_irq(void *opaque, unsigned cpu)
{
    (void)opaque, (void)cpu;
    return -1;
}

static int load_guest(struct mem *mem)
{
    uint64_t pml4e = (PROBE_PML4 + 0x1000) | 7, pdpte = (PROBE_PML4 + 0x2000) | 7, pde = 0x87;
    int r = mem_load(mem, GPA(PROBE_CODE), probe_code, sizeof(probe_code));
    r = r != 0 ? r : mem_load(mem, GPA(PROBE_PML4), &pml4e, 8);
    r = r != 0 ? r : mem_load(mem, GPA(PROBE_PML4 + 0x1000), &pdpte, 8);
    return r != 0 ? r : mem_load(mem, GPA(PROBE_PML4 + 0x2000), &pde, 8);
}

static void long_mode_state(struct vcpu_state *s, bool user)
{
    uint16_t dpl = user ? 0x60 : 0;
    vcpu_state_reset(s, true);
    s->rip = PROBE_CODE;
    s->rflags = FL_1 | (user ? FL_IOPL : 0);
    s->gpr[X86_RBX] = 0x100;
    s->gpr[X86_RCX] = PROBE_LOOPS;
    s->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE;
    s->cr3 = PROBE_PML4;
    s->cr4 = CR4_PAE;
    s->efer = EFER_LME | EFER_LMA;
    for (unsigned i = 0; i < X86_NSEG; i++) {
        s->seg[i] =
            (struct vcpu_seg){.sel = (uint16_t)(8u | (user ? 3u : 0u)),
                              .limit = UINT32_MAX,
                              .attr = (uint16_t)(SEG_P | SEG_S | SEG_G | dpl |
                                                 (i == X86_CS ? SEG_L | 0xb : SEG_DB | 0x3))};
    }
}

/* Guest instructions a second, 0 when it did not end as it should. */
static double measure(struct probe *p, bool user)
{
    static const struct engine_exit_info none;
    struct engine_exit_info info = none;
    struct vcpu_state *s = malloc(sizeof(*s));
    double rate = 0;
    if (s == NULL) {
        return 0;
    }
    long_mode_state(s, user);
    if (scpu_set_state(p->vcpu, s, NULL) == 0) {
        uint64_t start = clock_now_ns();
        scpu_run(p->vcpu, &info);
        uint64_t ns = clock_now_ns() - start;
        if (info.reason == ENGINE_EXIT_KICK && ns != 0) {
            rate = (double)PROBE_INSNS * 1e9 / (double)ns;
        }
    }
    free(s);
    return rate;
}

static int probe_setup(struct probe *p, struct err *err)
{
    struct engine_vm_params params = {
        .model = &p->model,
        .n_cpus = 1,
        .host = {.opaque = p,
                 .pio_read = port_read,
                 .pio_write = port_write,
                 .mmio_read = read_ones,
                 .mmio_write = write_nothing,
                 .irq_ack = no_irq},
    };
    int r = mem_new(&p->mem, err);
    if (r == 0) {
        r = mem_slot_add(p->mem, GPA(0), PROBE_RAM, MEM_RAM, err);
    }
    if (r == 0) {
        r = load_guest(p->mem);
    }
    if (r == 0) {
        r = cpu_model_host(&p->model, true, 1, err);
    }
    params.mem = p->mem;
    if (r == 0) {
        r = engine_soft.vm_new(&p->vm, &params, err);
    }
    if (r == 0) {
        r = engine_soft.map_slot(p->vm, mem_slot_get(p->mem, 0), err);
    }
    if (r == 0) {
        r = scpu_new(p->vm, 0, &p->vcpu, err);
    }
    return r;
}

void soft_probe(struct engine_probe *ret_probe)
{
    struct probe *p = calloc(1, sizeof(*p));
    struct err err = {.text = "no memory"};
    *ret_probe = (struct engine_probe){.usable = false};
    if (p == NULL || probe_setup(p, &err) != 0) {
        snprintf(ret_probe->why, sizeof(ret_probe->why), "%.199s", err.text);
    } else {
        ret_probe->supervisor_insn_per_s = measure(p, false);
        ret_probe->user_insn_per_s = measure(p, true);
        ret_probe->usable =
            ret_probe->supervisor_insn_per_s > 0 && ret_probe->user_insn_per_s > 0;
        if (!ret_probe->usable) {
            snprintf(ret_probe->why, sizeof(ret_probe->why), "the probe guest did not end");
        }
    }
    if (p != NULL) {
        scpu_free(p->vcpu);
        engine_soft.vm_free(p->vm);
        mem_free(p->mem);
        free(p);
    }
}
