/*
 * The KVM engine with guests of a few real-mode instructions, chosen so that hosts whose
 * /dev/kvm only emulates supervisor code run them too. Without a usable /dev/kvm: a skip (77).
 *
 * Guests are assembled by hand from the text beside their bytes (nasm, bits 16), loaded at
 * 1000h.
 */
#include "cpu/kvm/kvm_priv.h"

#include "base/ckd.h"
#include "base/cleanup.h"
#include "state/state.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include <cmocka.h>

#define CODE       0x1000
#define RAM_BYTES  (UINT64_C(640) * KIB)
#define PORT_END   0xf4 /* a write here kicks the vCPU that wrote */
#define MAX_EVENTS 64
#define DEADLINE_S 30

struct event {
    enum { PIO_READ, PIO_WRITE, MMIO_READ, MMIO_WRITE } kind;
    unsigned cpu, len;
    uint64_t addr, value;
};

struct rig {
    struct mem *mem;
    struct cpu_model model;
    struct engine_vm *vm;
    struct engine_vcpu *cpu[2];
    unsigned n_cpus;
    pthread_t thread[2];
    struct engine_exit_info exit[2];
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    struct event events[MAX_EVENTS];
    unsigned n_events;
    bool exited[2];
};

static void note(struct rig *rig, struct event e)
{
    pthread_mutex_lock(&rig->lock);
    if (rig->n_events < MAX_EVENTS) {
        rig->events[rig->n_events++] = e;
    }
    pthread_cond_broadcast(&rig->changed);
    pthread_mutex_unlock(&rig->lock);
}

static uint64_t pio_read(void *opaque, unsigned cpu, uint16_t port, unsigned len)
{
    note(opaque, (struct event){PIO_READ, cpu, len, port, 0});
    return 0x11223344;
}

static void pio_write(void *opaque, unsigned cpu, uint16_t port, unsigned len, uint32_t value)
{
    struct rig *rig = opaque;
    note(rig, (struct event){PIO_WRITE, cpu, len, port, value});
    if (port == PORT_END) {
        engine_kvm.kick(rig->cpu[cpu]);
    }
}

static uint64_t mmio_read(void *opaque, unsigned cpu, uint64_t gpa, unsigned len)
{
    note(opaque, (struct event){MMIO_READ, cpu, len, gpa, 0});
    return 0x1122334455667788;
}

static void mmio_write(void *opaque, unsigned cpu, uint64_t gpa, unsigned len, uint64_t value)
{
    note(opaque, (struct event){MMIO_WRITE, cpu, len, gpa, value});
}

static void rig_up(struct rig *rig, unsigned n_cpus, const void *code, size_t len)
{
    struct err err = {0};
    *rig = (struct rig){.n_cpus = n_cpus};
    pthread_mutex_init(&rig->lock, NULL);
    pthread_cond_init(&rig->changed, NULL);
    int r = mem_new(&rig->mem, &err);
    r = r < 0 ? r : mem_slot_add(rig->mem, GPA(0), RAM_BYTES, MEM_RAM, &err);
    r = r < 0 ? r : cpu_model_host(&rig->model, false, n_cpus, &err);
    struct engine_vm_params params = {
        .mem = rig->mem,
        .model = &rig->model,
        .host = {.opaque = rig,
                 .pio_read = pio_read,
                 .pio_write = pio_write,
                 .mmio_read = mmio_read,
                 .mmio_write = mmio_write},
        .n_cpus = n_cpus,
    };
    r = r < 0 ? r : engine_kvm.vm_new(&rig->vm, &params, &err);
    r = r < 0 ? r : engine_kvm.map_slot(rig->vm, mem_slot_get(rig->mem, 0), &err);
    for (unsigned i = 0; r == 0 && i < n_cpus; i++) {
        r = engine_kvm.vcpu_new(rig->vm, i, &rig->cpu[i], &err);
    }
    if (r < 0) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(mem_load(rig->mem, GPA(CODE), code, len), 0);
}

static void rig_down(struct rig *rig)
{
    for (unsigned i = 0; i < rig->n_cpus; i++) {
        engine_kvm.vcpu_free(rig->cpu[i]);
    }
    engine_kvm.vm_free(rig->vm);
    mem_free(rig->mem);
    pthread_cond_destroy(&rig->changed);
    pthread_mutex_destroy(&rig->lock);
}

static void set_state(struct rig *rig, unsigned cpu, const struct vcpu_state *s)
{
    struct err err = {0};
    if (engine_kvm.set_state(rig->cpu[cpu], s, &err) < 0) {
        fail_msg("%s", err.text);
    }
}

static void real_mode(struct vcpu_state *s)
{
    vcpu_state_reset(s, true);
    s->rip = CODE;
    s->seg[X86_CS].sel = 0;
    s->seg[X86_CS].base = 0;
    s->gpr[X86_RSP] = 0x8000;
}

static void start_at_code(struct rig *rig)
{
    static struct vcpu_state s;
    real_mode(&s);
    set_state(rig, 0, &s);
    if (rig->n_cpus > 1) {
        vcpu_state_reset(&s, false);
        set_state(rig, 1, &s);
    }
}

static void run_until_end(struct rig *rig)
{
    struct engine_exit_info info = {0};
    engine_kvm.run(rig->cpu[0], &info);
    if (info.reason != ENGINE_EXIT_KICK) {
        fail_msg("exit %d: %s", info.reason, info.text);
    }
}

static void expect(const struct rig *rig, unsigned index, struct event want)
{
    const struct event *got = &rig->events[index];
    assert_true(index < rig->n_events);
    if (got->kind != want.kind || got->cpu != want.cpu || got->len != want.len ||
        got->addr != want.addr || got->value != want.value) {
        fail_msg("event %u: kind %d cpu %u len %u addr 0x%llx value 0x%llx", index, got->kind,
                 got->cpu, got->len, (unsigned long long)got->addr,
                 (unsigned long long)got->value);
    }
}

/* ---- threads ---- */

struct thread_arg {
    struct rig *rig;
    unsigned cpu;
};
static struct thread_arg thread_args[2];

static void *cpu_thread(void *opaque)
{
    const struct thread_arg *a = opaque;
    engine_kvm.run(a->rig->cpu[a->cpu], &a->rig->exit[a->cpu]);
    pthread_mutex_lock(&a->rig->lock);
    a->rig->exited[a->cpu] = true;
    pthread_cond_broadcast(&a->rig->changed);
    pthread_mutex_unlock(&a->rig->lock);
    return NULL;
}

static void start_thread(struct rig *rig, unsigned cpu)
{
    thread_args[cpu] = (struct thread_arg){rig, cpu};
    rig->exited[cpu] = false;
    assert_int_equal(pthread_create(&rig->thread[cpu], NULL, cpu_thread, &thread_args[cpu]), 0);
}

static void stop_thread(struct rig *rig, unsigned cpu)
{
    engine_kvm.kick(rig->cpu[cpu]);
    pthread_join(rig->thread[cpu], NULL);
}

/* Waits until somebody wrote value to the port. */
static void await_write(struct rig *rig, uint16_t port, uint64_t value)
{
    struct timespec limit;
    bool found = false;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += DEADLINE_S;
    pthread_mutex_lock(&rig->lock);
    for (int r = 0; r == 0 && !found;) {
        for (unsigned i = 0; i < rig->n_events && !found; i++) {
            const struct event *e = &rig->events[i];
            found = e->kind == PIO_WRITE && e->addr == port && e->value == value;
        }
        if (found || rig->exited[0]) {
            break;
        }
        r = pthread_cond_timedwait(&rig->changed, &rig->lock, &limit);
    }
    rig->n_events = 0;
    pthread_mutex_unlock(&rig->lock);
    if (!found) {
        stop_thread(rig, 0);
        fail_msg("no write of 0x%llx to port 0x%x: %s", (unsigned long long)value, port,
                 rig->exit[0].text);
    }
}

/* ---- tests ---- */

static void ports(void **state)
{
    (void)state;
    /* mov al,41h; out 80h,al; mov dx,1234h; in eax,dx; add eax,1; out dx,eax; mov si,msg;
     * mov cx,5; mov dx,3f8h; rep outsb; in ax,90h; out 92h,ax; out f4h,al; jmp $; "hello" */
    static const uint8_t code[] = {0xb0, 0x41, 0xe6, 0x80, 0xba, 0x34, 0x12, 0x66, 0xed, 0x66,
                                   0x83, 0xc0, 0x01, 0x66, 0xef, 0xbe, 0x22, 0x10, 0xb9, 0x05,
                                   0x00, 0xba, 0xf8, 0x03, 0xf3, 0x6e, 0xe5, 0x90, 0xe7, 0x92,
                                   0xe6, 0xf4, 0xeb, 0xfe, 'h',  'e',  'l',  'l',  'o'};
    struct rig rig;
    struct engine_stats stats;
    rig_up(&rig, 1, code, sizeof(code));
    start_at_code(&rig);
    run_until_end(&rig);
    expect(&rig, 0, (struct event){PIO_WRITE, 0, 1, 0x80, 0x41});
    expect(&rig, 1, (struct event){PIO_READ, 0, 4, 0x1234, 0});
    expect(&rig, 2, (struct event){PIO_WRITE, 0, 4, 0x1234, 0x11223345});
    for (unsigned i = 0; i < 5; i++) {
        expect(&rig, 3 + i, (struct event){PIO_WRITE, 0, 1, 0x3f8, (uint64_t) "hello"[i]});
    }
    expect(&rig, 8, (struct event){PIO_READ, 0, 2, 0x90, 0});
    expect(&rig, 9, (struct event){PIO_WRITE, 0, 2, 0x92, 0x3344});
    engine_kvm.get_stats(rig.cpu[0], &stats);
    assert_true(stats.exits_pio >= 6);
    assert_int_equal(stats.exits_kick, 1);
    assert_true(stats.first_instruction_ns != 0);
    rig_down(&rig);
}

static void addresses_without_memory(void **state)
{
    (void)state;
    /* mov ax,a000h; mov ds,ax; mov al,[10h]; mov bx,[20h]; mov ecx,[30h]; mov [40h],al;
     * mov [50h],bx; mov [61h],ecx; out f4h,al; jmp $ */
    static const uint8_t code[] = {0xb8, 0x00, 0xa0, 0x8e, 0xd8, 0xa0, 0x10, 0x00, 0x8b,
                                   0x1e, 0x20, 0x00, 0x66, 0x8b, 0x0e, 0x30, 0x00, 0xa2,
                                   0x40, 0x00, 0x89, 0x1e, 0x50, 0x00, 0x66, 0x89, 0x0e,
                                   0x61, 0x00, 0xe6, 0xf4, 0xeb, 0xfe};
    struct rig rig;
    rig_up(&rig, 1, code, sizeof(code));
    start_at_code(&rig);
    run_until_end(&rig);
    expect(&rig, 0, (struct event){MMIO_READ, 0, 1, 0xa0010, 0});
    expect(&rig, 1, (struct event){MMIO_READ, 0, 2, 0xa0020, 0});
    expect(&rig, 2, (struct event){MMIO_READ, 0, 4, 0xa0030, 0});
    expect(&rig, 3, (struct event){MMIO_WRITE, 0, 1, 0xa0040, 0x88});
    expect(&rig, 4, (struct event){MMIO_WRITE, 0, 2, 0xa0050, 0x7788});
    expect(&rig, 5, (struct event){MMIO_WRITE, 0, 4, 0xa0061, 0x55667788});
    rig_down(&rig);
}

static const uint8_t spin[] = {0x66, 0x40, 0xeb, 0xfc}; /* l: inc eax; jmp l */

static void kicks(void **state)
{
    (void)state;
    struct rig rig;
    struct engine_exit_info info = {0};
    rig_up(&rig, 1, spin, sizeof(spin));
    start_at_code(&rig);
    engine_kvm.kick(rig.cpu[0]); /* before run: not lost */
    engine_kvm.kick(rig.cpu[0]);
    engine_kvm.run(rig.cpu[0], &info);
    assert_int_equal(info.reason, ENGINE_EXIT_KICK);
    for (int i = 0; i < 50; i++) {
        start_thread(&rig, 0);
        if (i % 2 != 0) {
            const struct timespec t = {.tv_nsec = 200000};
            nanosleep(&t, NULL); /* in the guest by now, mostly */
        }
        stop_thread(&rig, 0);
        assert_int_equal(rig.exit[0].reason, ENGINE_EXIT_KICK);
    }
    rig_down(&rig);
}

/* Programs the 8259 for vectors 20h, unmasks input 5, enables x2APIC with LINT0 = ExtINT,
 * writes 1 to port f1h, then sti; l: hlt; jmp l. Handlers write to port f2h: 5 for input 5, 2
 * for NMI, 40h for vector 40h (an MSI; with an EOI). */
static const uint8_t irq_code[] = {
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x80, 0xc7, 0x06, 0x94, 0x00, 0x6f,
    0x10, 0xa3, 0x96, 0x00, 0xc7, 0x06, 0x08, 0x00, 0x7a, 0x10, 0xa3, 0x0a, 0x00, 0xc7,
    0x06, 0x00, 0x01, 0x81, 0x10, 0xa3, 0x02, 0x01, 0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20,
    0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xdf, 0xe6, 0x21,
    0x66, 0xb9, 0x1b, 0x00, 0x00, 0x00, 0x0f, 0x32, 0x66, 0x0d, 0x00, 0x0c, 0x00, 0x00,
    0x0f, 0x30, 0x66, 0xb9, 0x0f, 0x08, 0x00, 0x00, 0x66, 0xb8, 0xff, 0x01, 0x00, 0x00,
    0x66, 0x31, 0xd2, 0x0f, 0x30, 0x66, 0xb9, 0x35, 0x08, 0x00, 0x00, 0x66, 0xb8, 0x00,
    0x07, 0x00, 0x00, 0x0f, 0x30, 0xb0, 0x01, 0xe6, 0xf1, 0xfb, 0xf4, 0xeb, 0xfd, 0x50,
    0xb0, 0x20, 0xe6, 0x20, 0xb0, 0x05, 0xe6, 0xf2, 0x58, 0xcf, 0x50, 0xb0, 0x02, 0xe6,
    0xf2, 0x58, 0xcf, 0x66, 0x60, 0xb0, 0x40, 0xe6, 0xf2, 0x66, 0xb9, 0x0b, 0x08, 0x00,
    0x00, 0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, 0x0f, 0x30, 0x66, 0x61, 0xcf};

static void check_interrupts(struct rig *rig)
{
    for (int i = 0; i < 3; i++) {
        assert_int_equal(engine_kvm.irq_line(rig->vm, 5, true), 0);
        assert_int_equal(engine_kvm.irq_line(rig->vm, 5, false), 0);
        await_write(rig, 0xf2, 5);
        assert_int_equal(engine_kvm.send_msi(rig->vm, 0xfee00000, 0x40), 0);
        await_write(rig, 0xf2, 0x40);
        engine_kvm.signal(rig->cpu[0], ENGINE_SIG_NMI, 0);
        await_write(rig, 0xf2, 2);
    }
}

static void interrupts(void **state)
{
    (void)state;
    struct rig rig;
    rig_up(&rig, 1, irq_code, sizeof(irq_code));
    start_at_code(&rig);
    start_thread(&rig, 0);
    await_write(&rig, 0xf1, 1);
    check_interrupts(&rig);
    stop_thread(&rig, 0);
    rig_down(&rig);
}

/* The whole VM, RAM apart, through the state stream. */
static void *save_all(struct rig *rig, size_t *ret_len)
{
    struct state_writer *w;
    struct err err = {0};
    static struct vcpu_state s;
    const void *data;
    assert_int_equal(state_writer_new(&w, &err), 0);
    assert_int_equal(engine_kvm.get_state(rig->cpu[0], &s), 0);
    vcpu_state_save(&s, 0, w);
    assert_int_equal(engine_kvm.irqchip_save(rig->vm, w), 0);
    assert_int_equal(state_writer_finish(w, &data, ret_len), 0);
    void *copy = malloc(*ret_len);
    assert_non_null(copy);
    memcpy(copy, data, *ret_len);
    state_writer_free(w);
    return copy;
}

static void load_all(struct rig *rig, const void *data, size_t len)
{
    struct state_reader *r;
    struct err err = {0};
    static struct vcpu_state s;
    int rc = state_reader_new(&r, data, len, &err);
    rc = rc < 0 ? rc : vcpu_state_load(&s, 0, r, &err);
    rc = rc < 0 ? rc : engine_kvm.set_state(rig->cpu[0], &s, &err);
    rc = rc < 0 ? rc : engine_kvm.irqchip_load(rig->vm, r, &err);
    rc = rc < 0 ? rc : state_reader_finish(r, &err);
    if (rc < 0) {
        fail_msg("%s", err.text);
    }
    state_reader_free(r);
}

static void save_and_go_on(void **state)
{
    (void)state;
    struct rig rig, second;
    size_t len;
    uint8_t low[0x9000];
    rig_up(&rig, 1, irq_code, sizeof(irq_code));
    start_at_code(&rig);
    start_thread(&rig, 0);
    await_write(&rig, 0xf1, 1);
    check_interrupts(&rig);
    stop_thread(&rig, 0);
    assert_int_equal(engine_kvm.irq_line(rig.vm, 5, true), 0); /* waits in the 8259 */
    _cleanup_free_ void *data = save_all(&rig, &len);
    assert_int_equal(mem_read(rig.mem, GPA(0), low, sizeof(low)), 0);
    rig_down(&rig);

    rig_up(&second, 1, low + CODE, 1);
    assert_int_equal(mem_load(second.mem, GPA(0), low, sizeof(low)), 0);
    load_all(&second, data, len);
    start_thread(&second, 0);
    await_write(&second, 0xf2, 5);
    assert_int_equal(engine_kvm.irq_line(second.vm, 5, false), 0);
    check_interrupts(&second);
    stop_thread(&second, 0);
    rig_down(&second);
}

static void reset_of_the_controllers(void **state)
{
    (void)state;
    struct rig rig;
    rig_up(&rig, 1, irq_code, sizeof(irq_code));
    start_at_code(&rig);
    start_thread(&rig, 0);
    await_write(&rig, 0xf1, 1);
    check_interrupts(&rig);
    stop_thread(&rig, 0);
    assert_int_equal(engine_kvm.irq_line(rig.vm, 5, true), 0);
    start_at_code(&rig);
    assert_int_equal(engine_kvm.irqchip_reset(rig.vm), 0);
    assert_int_equal(engine_kvm.irq_line(rig.vm, 5, false), 0);
    start_thread(&rig, 0);
    await_write(&rig, 0xf1, 1); /* the guest sets everything up anew */
    check_interrupts(&rig);
    stop_thread(&rig, 0);
    rig_down(&rig);
}

static void second_cpu_starts(void **state)
{
    (void)state;
    /* x2APIC on, SVR 1ffh, ICR: INIT then SIPI of vector 2 to APIC id 1; out f2h,77h; loop */
    static const uint8_t code[] = {
        0x66, 0xb9, 0x1b, 0x00, 0x00, 0x00, 0x0f, 0x32, 0x66, 0x0d, 0x00, 0x0c, 0x00, 0x00,
        0x0f, 0x30, 0x66, 0xb9, 0x0f, 0x08, 0x00, 0x00, 0x66, 0xb8, 0xff, 0x01, 0x00, 0x00,
        0x66, 0x31, 0xd2, 0x0f, 0x30, 0x66, 0xb9, 0x30, 0x08, 0x00, 0x00, 0x66, 0xba, 0x01,
        0x00, 0x00, 0x00, 0x66, 0xb8, 0x00, 0x45, 0x00, 0x00, 0x0f, 0x30, 0x66, 0xb8, 0x02,
        0x46, 0x00, 0x00, 0x0f, 0x30, 0xb0, 0x77, 0xe6, 0xf2, 0xf3, 0x90, 0xeb, 0xfc};
    static const uint8_t ap[] = {0xb0, 0x99, 0xe6, 0xf2, 0xeb, 0xfe}; /* out f2h,99h; jmp $ */
    static struct vcpu_state s;
    struct rig rig;
    rig_up(&rig, 2, code, sizeof(code));
    assert_int_equal(mem_load(rig.mem, GPA(0x2000), ap, sizeof(ap)), 0);
    start_at_code(&rig);
    assert_int_equal(engine_kvm.get_state(rig.cpu[1], &s), 0);
    assert_int_equal(s.mp_state, VCPU_WAIT_SIPI);
    start_thread(&rig, 1);
    start_thread(&rig, 0);
    await_write(&rig, 0xf2, 0x99);
    stop_thread(&rig, 0);
    stop_thread(&rig, 1);
    assert_int_equal(rig.exit[1].reason, ENGINE_EXIT_KICK);
    assert_int_equal(engine_kvm.get_state(rig.cpu[1], &s), 0);
    assert_int_equal(s.mp_state, VCPU_RUNNABLE);
    assert_int_equal(s.seg[X86_CS].sel, 0x200);
    /* A CPU that still waits can be kicked out too. */
    start_at_code(&rig);
    start_thread(&rig, 1);
    stop_thread(&rig, 1);
    assert_int_equal(rig.exit[1].reason, ENGINE_EXIT_KICK);
    rig_down(&rig);
}

static void triple_fault(void **state)
{
    (void)state;
    static const uint8_t code[] = {0x0f, 0x0b}; /* ud2, with an empty IDT */
    static struct vcpu_state s;
    struct rig rig;
    struct engine_exit_info info = {0};
    rig_up(&rig, 1, code, sizeof(code));
    real_mode(&s);
    s.cr0 |= 1;
    s.idtr.limit = 0;
    for (unsigned i = 0; i < X86_NSEG; i++) {
        s.seg[i] = (struct vcpu_seg){
            .sel = i == X86_CS ? 8 : 16,
            .attr = (uint16_t)(SEG_P | SEG_S | SEG_G | SEG_DB | (i == X86_CS ? 0xb : 3)),
            .limit = UINT32_MAX};
    }
    set_state(&rig, 0, &s);
    engine_kvm.run(rig.cpu[0], &info);
    if (info.reason != ENGINE_EXIT_SHUTDOWN) {
        fail_msg("exit %d: %s", info.reason, info.text);
    }
    rig_down(&rig);
}

static void eventfds(void **state)
{
    (void)state;
    /* mov dx,c000h; mov ax,3; out dx,ax; out f4h,al; jmp $ */
    static const uint8_t code[] = {0xba, 0x00, 0xc0, 0xb8, 0x03, 0x00,
                                   0xef, 0xe6, 0xf4, 0xeb, 0xfe};
    struct rig rig;
    uint64_t count = 0;
    _cleanup_close_ int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    rig_up(&rig, 1, code, sizeof(code));
    assert_int_equal(engine_kvm.ioeventfd(rig.vm, true, 0xc000, 2, fd, true), 0);
    start_at_code(&rig);
    run_until_end(&rig);
    assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
    assert_int_equal(count, 1);
    expect(&rig, 0, (struct event){PIO_WRITE, 0, 1, PORT_END, 3});
    assert_int_equal(engine_kvm.ioeventfd(rig.vm, true, 0xc000, 2, fd, false), 0);
    rig.n_events = 0;
    start_at_code(&rig);
    run_until_end(&rig);
    expect(&rig, 0, (struct event){PIO_WRITE, 0, 2, 0xc000, 3});
    assert_true(read(fd, &count, sizeof(count)) < 0);
    rig_down(&rig);
}

static void dirty_log(void **state)
{
    (void)state;
    /* mov ax,500h; mov ds,ax; mov byte [0],1; mov ax,900h; mov ds,ax; mov byte [0],1;
     * out f4h,al; jmp $ */
    static const uint8_t code[] = {0xb8, 0x00, 0x05, 0x8e, 0xd8, 0xc6, 0x06, 0x00,
                                   0x00, 0x01, 0xb8, 0x00, 0x09, 0x8e, 0xd8, 0xc6,
                                   0x06, 0x00, 0x00, 0x01, 0xe6, 0xf4, 0xeb, 0xfe};
    struct rig rig;
    uint64_t bits[(RAM_BYTES / MEM_PAGE_SIZE + 63) / 64];
    rig_up(&rig, 1, code, sizeof(code));
    const struct mem_slot *slot = mem_slot_get(rig.mem, 0);
    assert_int_equal(engine_kvm.dirty_sync(rig.vm, slot), 0);
    assert_int_equal(mem_dirty_log(rig.mem, true, NULL), 0);
    /* The first look switches it on: all pages may have been written. */
    assert_int_equal(engine_kvm.dirty_sync(rig.vm, slot), 0);
    assert_int_equal(mem_dirty_fetch(rig.mem, 0, bits, ARRAY_LEN(bits)), 0);
    assert_true(bits[0] == UINT64_MAX);
    start_at_code(&rig);
    run_until_end(&rig);
    assert_int_equal(mem_write(rig.mem, GPA(0x20000), "x", 1), 0);
    assert_int_equal(engine_kvm.dirty_sync(rig.vm, slot), 0);
    assert_int_equal(mem_dirty_fetch(rig.mem, 0, bits, ARRAY_LEN(bits)), 0);
    const uint64_t written = UINT64_C(1) << 5 | UINT64_C(1) << 9 | UINT64_C(1) << 32;
    assert_true((bits[0] & written) == written);
    /* The page of the code may count as written too; pages that nobody touched do not. */
    assert_int_equal(bits[0] & ~written & ~(UINT64_C(1) << (CODE / MEM_PAGE_SIZE)), 0);
    assert_int_equal(engine_kvm.dirty_sync(rig.vm, slot), 0);
    assert_int_equal(mem_dirty_fetch(rig.mem, 0, bits, ARRAY_LEN(bits)), 0);
    assert_int_equal(bits[0], 0);
    assert_int_equal(mem_dirty_log(rig.mem, false, NULL), 0);
    assert_int_equal(engine_kvm.dirty_sync(rig.vm, slot), 0);
    rig_down(&rig);
}

/* A long-mode state with a value of its own in every register that takes any. */
static void distinct_state(struct vcpu_state *s)
{
    vcpu_state_reset(s, true);
    for (unsigned i = 0; i < 16; i++) {
        s->gpr[i] = UINT64_C(0x1111111111111111) * i + 1;
    }
    s->rip = 0xffffffff81000000;
    s->rflags = 0x246;
    s->cr0 = 0x80050033;
    s->cr2 = 0xdead000;
    s->cr3 = 0x5000;
    s->cr4 = 0x6f0; /* PSE PAE MCE PGE OSFXSR OSXMMEXCPT */
    s->cr8 = 3;
    s->efer = 0xd01;
    for (unsigned i = 0; i < X86_NSEG; i++) {
        s->seg[i] = (struct vcpu_seg){.sel = (uint16_t)(16 + 8 * i),
                                      .attr = SEG_P | SEG_S | SEG_G | SEG_DB | 3,
                                      .limit = UINT32_MAX,
                                      .base = 0};
    }
    s->seg[X86_CS].attr = SEG_P | SEG_S | SEG_G | SEG_L | 0xb;
    s->seg[X86_FS].base = 0x7f0000001000;
    s->seg[X86_GS].base = 0xffff888000001000;
    s->tr = (struct vcpu_seg){.sel = 0x40, .attr = SEG_P | 0xb, .limit = 0x67, .base = 0x7000};
    s->gdtr = (struct vcpu_dtable){.base = 0xfffffe0000001000, .limit = 0x7f};
    s->idtr = (struct vcpu_dtable){.base = 0xfffffe0000000000, .limit = 0xfff};
    s->dr[0] = 0x1000;
    s->dr[3] = 0x3000;
    s->dr[7] = 0x400;
    s->star = 0x23001000000000;
    s->lstar = 0xffffffff81800000;
    s->cstar = 0xffffffff81801000;
    s->sfmask = 0x47700;
    s->kernel_gs_base = 0x12345000;
    s->sysenter_cs = 0x10;
    s->sysenter_esp = 0xfffffe0000003000;
    s->sysenter_eip = 0xffffffff81802000;
    s->pat = 0x0007010600070106;
    s->tsc_aux = 5;
    s->mtrr_def_type = 0xc06;
    s->mtrr_fixed[0] = 0x0606060606060606;
    s->mtrr_var[1][0] = 0x80000000;
    s->mtrr_var[1][1] = 0xf80000800;
    s->tsc_offset = -123456789;
    memset(s->xsave + 160, 0xa5, 256); /* XMM0-15 */
    s->xsave_bytes = MAX(s->xsave_bytes, (uint32_t)576);
}

/* Some hosts' KVM takes a TSC offset and then ignores it. */
static bool tsc_offsets_work(struct rig *rig)
{
    static struct vcpu_state s;
    real_mode(&s);
    s.tsc_offset = -1000000;
    set_state(rig, 0, &s);
    assert_int_equal(engine_kvm.get_state(rig->cpu[0], &s), 0);
    if (s.tsc_offset != -1000000) {
        printf("this host's KVM ignores TSC offsets: not tested\n");
        return false;
    }
    return true;
}

#define SAME(member) assert_memory_equal(&got.member, &want.member, sizeof(want.member))

static void state_round_trip(void **state)
{
    (void)state;
    static struct vcpu_state want, got;
    struct rig rig;
    rig_up(&rig, 1, spin, sizeof(spin));
    bool has_offsets = tsc_offsets_work(&rig);
    distinct_state(&want);
    set_state(&rig, 0, &want);
    assert_int_equal(engine_kvm.get_state(rig.cpu[0], &got), 0);
    SAME(gpr), SAME(rip), SAME(rflags), SAME(cr0), SAME(cr2), SAME(cr3), SAME(cr4), SAME(cr8);
    SAME(xcr0), SAME(efer), SAME(gdtr.base), SAME(gdtr.limit), SAME(idtr.base);
    for (unsigned i = 0; i < X86_NSEG; i++) {
        SAME(seg[i].sel), SAME(seg[i].base), SAME(seg[i].limit);
        /* Processors do not keep every attribute bit of every segment in 64-bit mode. */
        assert_int_equal(got.seg[i].attr & (SEG_P | SEG_S | SEG_L),
                         want.seg[i].attr & (SEG_P | SEG_S | SEG_L));
    }
    SAME(tr.base), SAME(tr.sel), SAME(dr[0]), SAME(dr[3]), SAME(dr[7]);
    SAME(star), SAME(lstar), SAME(cstar), SAME(sfmask), SAME(kernel_gs_base);
    /* AMD's processors keep 32 bits of these. */
    assert_int_equal((uint32_t)got.sysenter_esp, (uint32_t)want.sysenter_esp);
    assert_int_equal((uint32_t)got.sysenter_eip, (uint32_t)want.sysenter_eip);
    SAME(sysenter_cs), SAME(pat), SAME(tsc_aux);
    SAME(mtrr_def_type), SAME(mtrr_fixed), SAME(mtrr_var), SAME(apic_base);
    if (has_offsets) {
        SAME(tsc_offset);
    }
    assert_int_equal(got.mp_state, VCPU_RUNNABLE);
    assert_memory_equal(got.xsave + 160, want.xsave + 160, 256);
    assert_int_equal(got.event_pending, 0);

    /* What one get gives, the next set takes, and the same comes back. */
    static struct vcpu_state again;
    set_state(&rig, 0, &got);
    assert_int_equal(engine_kvm.get_state(rig.cpu[0], &again), 0);
    again.tsc_at_save = got.tsc_at_save;
    assert_memory_equal(&again, &got, sizeof(got));
    rig_down(&rig);
}

static void events_survive(void **state)
{
    (void)state;
    static struct vcpu_state want, got;
    struct rig rig;
    static const struct {
        uint8_t vector, has_error;
        uint32_t error;
    } cases[] = {{13, 1, 0x18}, {6, 0, 0}, {2, 0, 0}, {0x31, 0, 0}};
    rig_up(&rig, 1, spin, sizeof(spin));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        real_mode(&want);
        want.event_pending = 1;
        want.event_vector = cases[i].vector;
        want.event_has_error = cases[i].has_error;
        want.event_error = cases[i].error;
        want.irq_shadow = 1; /* AMD's processors keep one kind only */
        want.nmi_pending = i == 0;
        set_state(&rig, 0, &want);
        assert_int_equal(engine_kvm.get_state(rig.cpu[0], &got), 0);
        if (got.event_pending != 1 || got.event_vector != want.event_vector ||
            got.event_has_error != want.event_has_error ||
            got.event_error != want.event_error || got.nmi_pending != want.nmi_pending ||
            got.irq_shadow == 0) {
            fail_msg("case %zu: pending %u vector %u error %u 0x%x soft %u nmi %u shadow %u", i,
                     got.event_pending, got.event_vector, got.event_has_error, got.event_error,
                     got.event_soft, got.nmi_pending, got.irq_shadow);
        }
    }
    rig_down(&rig);
}

static void bad_states(void **state)
{
    (void)state;
    static struct vcpu_state s;
    struct rig rig;
    struct err err = {0};
    rig_up(&rig, 1, spin, sizeof(spin));
    real_mode(&s);
    s.xcr0 = UINT64_C(1) << 40 | 1;
    assert_int_equal(engine_kvm.set_state(rig.cpu[0], &s, &err), -EINVAL);
    assert_int_equal(err.code, ERR_STATE_BAD);
    real_mode(&s);
    s.cr4 = UINT64_C(1) << 31;
    assert_true(engine_kvm.set_state(rig.cpu[0], &s, &err) < 0);
    assert_non_null(strstr(err.text, "control registers"));
    real_mode(&s);
    s.mtrr_def_type = UINT64_MAX;
    assert_true(engine_kvm.set_state(rig.cpu[0], &s, &err) < 0);
    assert_non_null(strstr(err.text, "MSR 0x2ff"));
    real_mode(&s); /* and none of it does harm */
    set_state(&rig, 0, &s);
    rig_down(&rig);
}

static void time_stamp_counter(void **state)
{
    (void)state;
    static const uint8_t code[] = {0x0f, 0x31, 0xe6, 0xf4, 0xeb, 0xfe}; /* rdtsc; out f4h,al */
    static struct vcpu_state s;
    struct rig rig;
    rig_up(&rig, 1, code, sizeof(code));
    if (!tsc_offsets_work(&rig)) {
        rig_down(&rig);
        return;
    }
    real_mode(&s);
    s.tsc_offset = -(int64_t)__builtin_ia32_rdtsc(); /* starts at zero, now */
    set_state(&rig, 0, &s);
    run_until_end(&rig);
    assert_int_equal(engine_kvm.get_state(rig.cpu[0], &s), 0);
    uint64_t tsc = s.gpr[X86_RDX] << 32 | (uint32_t)s.gpr[X86_RAX];
    assert_true(tsc > 0 && tsc < s.tsc_at_save);
    assert_true(tsc < rig.model.tsc_khz * 1000 * 60); /* less than a minute ago */
    rig_down(&rig);
}

static void extended_control_register(void **state)
{
    (void)state;
    /* mov eax,cr4; or eax,40600h; mov cr4,eax; xor ecx,ecx; xor edx,edx; mov eax,3; xsetbv;
     * out f4h,al; jmp $ */
    static const uint8_t code[] = {0x0f, 0x20, 0xe0, 0x66, 0x0d, 0x00, 0x06, 0x04,
                                   0x00, 0x0f, 0x22, 0xe0, 0x66, 0x31, 0xc9, 0x66,
                                   0x31, 0xd2, 0x66, 0xb8, 0x03, 0x00, 0x00, 0x00,
                                   0x0f, 0x01, 0xd1, 0xe6, 0xf4, 0xeb, 0xfe};
    static struct vcpu_state s;
    struct rig rig;
    rig_up(&rig, 1, code, sizeof(code));
    if ((rig.model.xcr0_mask & 3) == 3) {
        start_at_code(&rig);
        run_until_end(&rig);
        assert_int_equal(engine_kvm.get_state(rig.cpu[0], &s), 0);
        if (s.xcr0 != 3) {
            printf("this host's KVM does not see XSETBV (QEMU's TCG does not intercept it)\n");
            assert_int_equal(s.xcr0, 1);
        }
    }
    rig_down(&rig);
}

static void slots(void **state)
{
    (void)state;
    struct rig rig;
    struct err err = {0};
    rig_up(&rig, 1, spin, sizeof(spin));
    const struct mem_slot *slot = mem_slot_get(rig.mem, 0);
    assert_int_equal(engine_kvm.unmap_slot(rig.vm, slot), 0);
    assert_int_equal(engine_kvm.unmap_slot(rig.vm, slot), -ENOENT);
    assert_int_equal(engine_kvm.dirty_sync(rig.vm, slot), -ENOENT);
    assert_int_equal(engine_kvm.map_slot(rig.vm, slot, &err), 0);
    struct mem_slot bad = *slot;
    bad.id = 1; /* overlaps the first */
    assert_true(engine_kvm.map_slot(rig.vm, &bad, &err) < 0);
    bad.id = 100000;
    assert_int_equal(engine_kvm.map_slot(rig.vm, &bad, &err), -E2BIG);
    rig_down(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ports),
        cmocka_unit_test(addresses_without_memory),
        cmocka_unit_test(kicks),
        cmocka_unit_test(interrupts),
        cmocka_unit_test(save_and_go_on),
        cmocka_unit_test(reset_of_the_controllers),
        cmocka_unit_test(second_cpu_starts),
        cmocka_unit_test(triple_fault),
        cmocka_unit_test(eventfds),
        cmocka_unit_test(dirty_log),
        cmocka_unit_test(state_round_trip),
        cmocka_unit_test(events_survive),
        cmocka_unit_test(bad_states),
        cmocka_unit_test(time_stamp_counter),
        cmocka_unit_test(extended_control_register),
        cmocka_unit_test(slots),
    };
    struct engine_probe probe;
    engine_kvm.probe(&probe);
    if (!probe.usable) {
        printf("skip: %s\n", probe.why);
        return 77;
    }
    printf("supervisor %.1f, user %.1f million instructions/s%s%s\n",
           probe.supervisor_insn_per_s / 1e6, probe.user_insn_per_s / 1e6,
           probe.why[0] != '\0' ? ": " : "", probe.why);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
