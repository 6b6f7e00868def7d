/*
 * Integer loops with memory operands (loops.S), natively and in a guest on the software engine,
 * in one run: slowdown per loop as the median over rounds, each round timing both in turn. CPU
 * time, so that other work on the machine disturbs little. --json for machines.
 */
#include "base/ckd.h"
#include "cpu/engine.h"
#include "cpu/model/cpu_model.h"
#include "cpu/soft/soft.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS     7
#define RAM_BYTES  (UINT64_C(2) * MIB)
#define GUEST_PML4 0x2000u
#define GUEST_CODE 0x10000u
#define GUEST_TOP  0x80000u
#define GUEST_BUF  0x100000u
#define BUF_BYTES  0x10000u

typedef void loop_fn(uint64_t *buffer, uint64_t rounds);
#define LOOPS(X) X(update, 4000000) X(hash, 700) X(sort, 2500) X(calls, 1500)
#define DECLARE(name, n)                                                                       \
    loop_fn loop_##name;                                                                       \
    extern const uint8_t loop_##name##_end[];
LOOPS(DECLARE)

static const struct loop_row {
    const char *name;
    loop_fn *fn;
    const uint8_t *end;
    uint64_t rounds;
} rows[] = {
#define ROW(name, n) {#name, loop_##name, loop_##name##_end, (n)},
    LOOPS(ROW)};

struct guest {
    struct mem *mem;
    struct cpu_model model;
    struct engine_vm *vm;
    struct engine_vcpu *vcpu;
};

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t io_read(void *opaque, unsigned cpu, uint64_t at, unsigned len)
{
    (void)opaque, (void)cpu, (void)at, (void)len;
    return UINT64_MAX;
}
static void io_write(void *opaque, unsigned cpu, uint64_t at, unsigned len, uint64_t value)
{
    (void)opaque, (void)cpu, (void)at, (void)len, (void)value;
}
static uint64_t port_read(void *opaque, unsigned cpu, uint16_t port, unsigned len)
{
    return io_read(opaque, cpu, port, len);
}
static void port_write(void *opaque, unsigned cpu, uint16_t port, unsigned len, uint32_t value)
{
    struct guest *g = opaque;
    (void)cpu, (void)port, (void)len, (void)value;
    engine_soft.kick(g->vcpu);
}
static int irq_ack(void *opaque, unsigned cpu)
{
    (void)opaque, (void)cpu;
    return -1;
}

static void die(const char *what, const struct err *err)
{
    fprintf(stderr, "cpu_bench: %s: %s\n", what, err->text);
    exit(1);
}

static void guest_new(struct guest *g)
{
    struct err err = {.text = "failed"};
    struct engine_vm_params params = {.model = &g->model,
                                      .n_cpus = 1,
                                      .host = {.opaque = g,
                                               .pio_read = port_read,
                                               .pio_write = port_write,
                                               .mmio_read = io_read,
                                               .mmio_write = io_write,
                                               .irq_ack = irq_ack}};
    uint64_t pml4e = (GUEST_PML4 + 0x1000) | 7, pdpte = (GUEST_PML4 + 0x2000) | 7, pde = 0x87;
    if (mem_new(&g->mem, &err) || mem_slot_add(g->mem, GPA(0), RAM_BYTES, MEM_RAM, &err)) {
        die("guest memory", &err);
    }
    mem_load(g->mem, GPA(GUEST_PML4), &pml4e, 8);
    mem_load(g->mem, GPA(GUEST_PML4 + 0x1000), &pdpte, 8);
    mem_load(g->mem, GPA(GUEST_PML4 + 0x2000), &pde, 8);
    params.mem = g->mem;
    if (cpu_model_host(&g->model, true, 1, &err) || engine_soft.vm_new(&g->vm, &params, &err) ||
        engine_soft.map_slot(g->vm, mem_slot_get(g->mem, 0), &err) ||
        engine_soft.vcpu_new(g->vm, 0, &g->vcpu, &err)) {
        die("guest", &err);
    }
}

/* The loop in the guest, called by a stub that ends with a port write. */
static double run_guest(struct guest *g, const struct loop_row *row, const uint8_t *buffer)
{
    static const uint8_t stub[] = {0xff, 0xd0, 0xe6,
                                   0xf4, 0xeb, 0xfe}; /* call rax; out; jmp . */
    struct vcpu_state *s = calloc(1, sizeof(*s));
    struct engine_exit_info info;
    struct err err = {.text = "failed"};
    const uint8_t *code = (const uint8_t *)(uintptr_t)row->fn;
    if (s == NULL) {
        die("guest", &err);
    }
    mem_load(g->mem, GPA(GUEST_CODE), stub, sizeof(stub));
    mem_load(g->mem, GPA(GUEST_CODE + 0x100), code, (size_t)(row->end - code));
    mem_load(g->mem, GPA(GUEST_BUF), buffer, BUF_BYTES);
    vcpu_state_reset(s, true);
    s->rip = GUEST_CODE;
    s->rflags = 2;
    s->gpr[X86_RAX] = GUEST_CODE + 0x100;
    s->gpr[X86_RSP] = GUEST_TOP;
    s->gpr[X86_RDI] = GUEST_BUF;
    s->gpr[X86_RSI] = row->rounds;
    s->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE;
    s->cr3 = GUEST_PML4;
    s->cr4 = CR4_PAE;
    s->efer = EFER_LME | EFER_LMA;
    for (unsigned i = 0; i < X86_NSEG; i++) {
        s->seg[i] =
            (struct vcpu_seg){.sel = 8,
                              .limit = UINT32_MAX,
                              .attr = (uint16_t)(SEG_P | SEG_S | SEG_G |
                                                 (i == X86_CS ? SEG_L | 0xb : SEG_DB | 0x3))};
    }
    if (engine_soft.set_state(g->vcpu, s, &err)) {
        die("guest state", &err);
    }
    free(s);
    double start = cpu_seconds();
    engine_soft.run(g->vcpu, &info);
    double took = cpu_seconds() - start;
    if (info.reason != ENGINE_EXIT_KICK) {
        die("guest run", &err);
    }
    return took;
}

static double run_native(const struct loop_row *row, uint64_t *buffer)
{
    double start = cpu_seconds();
    row->fn(buffer, row->rounds);
    return cpu_seconds() - start;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void fill(uint8_t *buffer)
{
    uint32_t x = 12345;
    for (unsigned i = 0; i < BUF_BYTES; i++) {
        x = x * 1664525u + 1013904223u;
        buffer[i] = (uint8_t)(x >> 24);
    }
}

int main(int argc, char **argv)
{
    bool json = argc > 1 && strcmp(argv[1], "--json") == 0;
    struct guest *g = calloc(1, sizeof(*g));
    uint64_t *host_buf = aligned_alloc(4096, BUF_BYTES);
    uint8_t *guest_buf = malloc(BUF_BYTES), *result = malloc(BUF_BYTES);
    if (g == NULL || host_buf == NULL || guest_buf == NULL || result == NULL) {
        return 1;
    }
    guest_new(g);
    printf(json ? "[" : "%-8s %12s %12s %10s   (median of %d rounds)\n", "loop", "native ms",
           "guest ms", "slowdown", ROUNDS);
    for (unsigned r = 0; r < ARRAY_LEN(rows); r++) {
        double ratio[ROUNDS], native[ROUNDS], guest[ROUNDS];
        for (unsigned i = 0; i < ROUNDS; i++) {
            fill((uint8_t *)host_buf);
            fill(guest_buf);
            native[i] = run_native(&rows[r], host_buf);
            guest[i] = run_guest(g, &rows[r], guest_buf);
            ratio[i] = guest[i] / native[i];
            mem_read(g->mem, GPA(GUEST_BUF), result, BUF_BYTES);
            if (memcmp(result, host_buf, BUF_BYTES) != 0) {
                fprintf(stderr, "cpu_bench: %s: the guest computed something else\n",
                        rows[r].name);
                return 1;
            }
        }
        qsort(ratio, ROUNDS, sizeof(ratio[0]), by_value);
        qsort(native, ROUNDS, sizeof(native[0]), by_value);
        qsort(guest, ROUNDS, sizeof(guest[0]), by_value);
        printf(
            json ? "%s{\"loop\":\"%s\",\"native_ms\":%.3f,\"guest_ms\":%.3f,\"slowdown\":%.2f}"
                 : "%s%-8s %12.3f %12.3f %9.1fx\n",
            json && r > 0 ? "," : "", rows[r].name, native[ROUNDS / 2] * 1e3,
            guest[ROUNDS / 2] * 1e3, ratio[ROUNDS / 2]);
    }
    if (json) {
        printf("]\n");
    }
    return 0;
}
