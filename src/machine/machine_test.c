/*
 * The machine with an engine whose "guest" is C code in this file: life and end, pause, reset,
 * power button, interrupts through the board, save and load. One process, no timing.
 */
#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/test.h"
#include "machine/machine_priv.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- the engine ---- */

struct engine_vm {
    struct engine_vm_params params;
    unsigned slots;
};

struct engine_vcpu {
    struct engine_vm *vm;
    unsigned index;
    struct vcpu_state state;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool kicked, irq;
    uint64_t runs;
};

/* The guest: runs on the vCPU's thread until it returns; NULL sleeps until a kick. */
static struct {
    void (*program)(struct engine_vcpu *v, struct engine_exit_info *exit);
    bool fail_set_state;
    unsigned boots;
} test;

static void fake_probe(struct engine_probe *ret_probe)
{
    *ret_probe = (struct engine_probe){.usable = true};
}

static int fake_vm_new(struct engine_vm **ret_vm, const struct engine_vm_params *params,
                       struct err *err)
{
    (void)err;
    *ret_vm = calloc(1, sizeof(**ret_vm));
    (*ret_vm)->params = *params;
    return 0;
}

static void fake_vm_free(struct engine_vm *vm)
{
    free(vm);
}

static int fake_map_slot(struct engine_vm *vm, const struct mem_slot *slot, struct err *err)
{
    (void)slot;
    (void)err;
    vm->slots++;
    return 0;
}

static int fake_vcpu_new(struct engine_vm *vm, unsigned index, struct engine_vcpu **ret_vcpu,
                         struct err *err)
{
    (void)err;
    struct engine_vcpu *v = calloc(1, sizeof(*v));
    v->vm = vm;
    v->index = index;
    pthread_mutex_init(&v->lock, NULL);
    pthread_cond_init(&v->wake, NULL);
    *ret_vcpu = v;
    return 0;
}

static void fake_vcpu_free(struct engine_vcpu *v)
{
    pthread_cond_destroy(&v->wake);
    pthread_mutex_destroy(&v->lock);
    free(v);
}

static void fake_run(struct engine_vcpu *v, struct engine_exit_info *ret_exit)
{
    v->runs++;
    ret_exit->reason = ENGINE_EXIT_KICK;
    if (v->state.mp_state == VCPU_RUNNABLE && test.program != NULL) {
        test.program(v, ret_exit);
    }
    if (ret_exit->reason != ENGINE_EXIT_KICK) {
        return;
    }
    pthread_mutex_lock(&v->lock);
    while (!v->kicked) {
        pthread_cond_wait(&v->wake, &v->lock);
    }
    v->kicked = false;
    pthread_mutex_unlock(&v->lock);
}

static void fake_kick(struct engine_vcpu *v)
{
    pthread_mutex_lock(&v->lock);
    v->kicked = true;
    pthread_cond_signal(&v->wake);
    pthread_mutex_unlock(&v->lock);
}

static void fake_signal(struct engine_vcpu *v, enum engine_signal sig, uint8_t vector)
{
    (void)vector;
    pthread_mutex_lock(&v->lock);
    v->irq = v->irq || sig == ENGINE_SIG_IRQ;
    pthread_cond_signal(&v->wake);
    pthread_mutex_unlock(&v->lock);
}

static int fake_get_state(struct engine_vcpu *v, struct vcpu_state *ret_state)
{
    *ret_state = v->state;
    return 0;
}

static int fake_set_state(struct engine_vcpu *v, const struct vcpu_state *state,
                          struct err *err)
{
    if (test.fail_set_state) {
        return ERR(err, ENGINE, EINVAL, "the engine does not like it");
    }
    v->state = *state;
    return 0;
}

static void fake_get_stats(const struct engine_vcpu *v, struct engine_stats *ret_stats)
{
    *ret_stats =
        (struct engine_stats){.exits_kick = v->runs, .first_instruction_ns = 100 - v->index};
}

#define FAKE_OPS                                                                               \
    .probe = fake_probe, .vm_new = fake_vm_new, .vm_free = fake_vm_free,                       \
    .map_slot = fake_map_slot, .vcpu_new = fake_vcpu_new, .vcpu_free = fake_vcpu_free,         \
    .run = fake_run, .kick = fake_kick, .signal = fake_signal, .get_state = fake_get_state,    \
    .set_state = fake_set_state, .get_stats = fake_get_stats
const struct engine_ops engine_soft = {.name = "soft", FAKE_OPS};
const struct engine_ops engine_interp = {.name = "interp", FAKE_OPS};
const struct engine_ops engine_kvm = {.name = "kvm", FAKE_OPS};

int machine_boot(struct machine *m, struct vcpu_state *ret_bsp, struct err *err)
{
    (void)m;
    (void)err;
    vcpu_state_reset(ret_bsp, true);
    test.boots++;
    return 0;
}

void machine_boot_close(struct machine *m)
{
    (void)m;
}

/* ---- fixture ---- */

struct fix {
    struct machine_config cfg;
    struct loop *loop;
    struct machine *m;
    char out[256];
    size_t out_len;
    bool full;
};

static size_t console_write(void *opaque, const uint8_t *data, size_t len)
{
    struct fix *f = opaque;

    if (f->full) {
        return 0;
    }
    size_t n = MIN(len, sizeof(f->out) - 1 - f->out_len);
    memcpy(f->out + f->out_len, data, n);
    f->out_len += n;
    return n;
}

static void console_ending(void *opaque)
{
    ((struct fix *)opaque)->full = false;
}

static struct fix *fix_new(unsigned n_cpus)
{
    struct fix *f = calloc(1, sizeof(*f));
    const struct machine_console console = {
        .opaque = f, .write = console_write, .ending = console_ending};
    struct err err = {0};

    memset(&test, 0, sizeof(test));
    assert_int_equal(machine_config_init(&f->cfg, NULL), 0);
    f->cfg.n_cpus = n_cpus;
    f->cfg.memory_bytes = 4 * GIB;
    free(f->cfg.engine);
    f->cfg.engine = strdup("soft");
    assert_int_equal(loop_new(&f->loop, NULL), 0);
    int r = machine_new(&f->m, &f->cfg, f->loop, &console, &err);
    if (r < 0) {
        fail_msg("machine_new: %s", err.text);
    }
    return f;
}

static void fix_free(struct fix *f)
{
    machine_free(f->m);
    loop_free(f->loop);
    machine_config_done(&f->cfg);
    free(f);
}

static void out8(struct engine_vcpu *v, uint16_t port, uint8_t value)
{
    v->vm->params.host.pio_write(v->vm->params.host.opaque, v->index, port, 1, value);
}

static uint64_t in(struct engine_vcpu *v, uint16_t port, unsigned len)
{
    return v->vm->params.host.pio_read(v->vm->params.host.opaque, v->index, port, len);
}

/* ---- life and end ---- */

static void say_and_power_off(struct engine_vcpu *v, struct engine_exit_info *exit)
{
    (void)exit;
    for (const char *p = "hello"; *p != '\0'; p++) {
        out8(v, BOARD_PORT_COM1, (uint8_t)*p);
    }
    out8(v, BOARD_PORT_POST, 0x41);
    /* SLP_EN | SLP_TYP of S5 in PM1 control. */
    v->vm->params.host.pio_write(v->vm->params.host.opaque, v->index, BOARD_PORT_PM + 4, 2,
                                 1u << 13 | BOARD_S5_TYP << 10);
}

static void the_guest_powers_off(void **state)
{
    (void)state;
    struct fix *f = fix_new(2);
    struct machine_metrics mm;

    test.program = say_and_power_off;
    f->full = true; /* what it said last comes out all the same */
    assert_int_equal(machine_run(f->m, NULL), MACHINE_END_POWEROFF);
    assert_string_equal(f->out, "hello");
    machine_get_metrics(f->m, &mm);
    assert_true(mm.init_port_ns > mm.created_ns);
    assert_int_equal(mm.first_instruction_ns, 99);
    assert_int_equal(mm.ram_bytes, 4 * GIB);
    fix_free(f);
}

static void triple_fault(struct engine_vcpu *v, struct engine_exit_info *exit)
{
    (void)v;
    exit->reason = ENGINE_EXIT_SHUTDOWN;
}

static void a_triple_fault_is_a_crash(void **state)
{
    (void)state;
    struct fix *f = fix_new(1);
    struct err err = {0};

    test.program = triple_fault;
    assert_int_equal(machine_run(f->m, &err), MACHINE_END_CRASH);
    assert_int_equal(err.code, ERR_GUEST_CRASH);
    assert_non_null(strstr(err.text, "CPU 0: triple fault"));
    fix_free(f);
}

static void engine_gives_up(struct engine_vcpu *v, struct engine_exit_info *exit)
{
    exit->reason = ENGINE_EXIT_ERROR;
    snprintf(exit->text, sizeof(exit->text), "out of ideas on %u", v->index);
}

static void an_engine_error_is_ours(void **state)
{
    (void)state;
    struct fix *f = fix_new(1);
    struct err err = {0};

    test.program = engine_gives_up;
    assert_int_equal(machine_run(f->m, &err), MACHINE_END_ERROR);
    assert_non_null(strstr(err.text, "engine soft: out of ideas on 0"));
    fix_free(f);
}

static void debug_exit_code(struct engine_vcpu *v, struct engine_exit_info *exit)
{
    (void)exit;
    v->vm->params.host.pio_write(v->vm->params.host.opaque, 0, BOARD_PORT_EXIT, 4, 5);
}

static void the_exit_port_ends_with_its_status(void **state)
{
    (void)state;
    struct fix *f = fix_new(1);

    test.program = debug_exit_code;
    assert_int_equal(machine_run(f->m, NULL), MACHINE_END_EXIT);
    assert_int_equal(machine_exit_code(f->m), 11);
    fix_free(f);
}

static void *stop_later(void *opaque)
{
    machine_stop(opaque);
    return NULL;
}

static void another_thread_may_stop_it(void **state)
{
    (void)state;
    struct fix *f = fix_new(4);
    pthread_t t;

    assert_int_equal(pthread_create(&t, NULL, stop_later, f->m), 0);
    assert_int_equal(machine_run(f->m, NULL), MACHINE_END_STOPPED);
    pthread_join(t, NULL);
    fix_free(f);
}

/* ---- reset ---- */

static unsigned resets_wanted;

static void reset_then_off(struct engine_vcpu *v, struct engine_exit_info *exit)
{
    if (test.boots <= resets_wanted) {
        static const uint16_t ports[] = {0x64, 0x92, 0xcf9};
        static const uint8_t values[] = {0xfe, 0x01, 0x06};
        out8(v, ports[test.boots % 3], values[test.boots % 3]);
        return;
    }
    say_and_power_off(v, exit);
}

static void every_reset_path_boots_again(void **state)
{
    (void)state;
    struct fix *f = fix_new(2);
    struct machine_metrics mm;

    resets_wanted = 6;
    test.program = reset_then_off;
    assert_int_equal(machine_run(f->m, NULL), MACHINE_END_POWEROFF);
    assert_int_equal(test.boots, 7);
    machine_get_metrics(f->m, &mm);
    assert_int_equal(mm.resets, 6);
    fix_free(f);
}

/* ---- interrupts ---- */

static void wait_irq(struct engine_vcpu *v)
{
    struct engine_host *h = &v->vm->params.host;

    pthread_mutex_lock(&v->lock);
    while (!v->kicked) {
        pthread_mutex_unlock(&v->lock);
        bool pending = h->irq_pending(h->opaque, v->index);
        pthread_mutex_lock(&v->lock);
        if (pending) {
            break;
        }
        pthread_cond_wait(&v->wake, &v->lock);
    }
    pthread_mutex_unlock(&v->lock);
}

/* Programs the PIC, lets PIT channel 0 fire once, and takes the interrupt as ExtINT. */
static void pit_through_pic(struct engine_vcpu *v, struct engine_exit_info *exit)
{
    struct engine_host *h = &v->vm->params.host;
    static const struct {
        uint16_t port;
        uint8_t value;
    } program[] = {
        {0x20, 0x11}, {0x21, 0x30}, {0x21, 0x04}, {0x21, 0x01}, {0x21, 0xfe}, /* only IRQ 0 */
        {0x43, 0x30}, {0x40, 0x10}, {0x40, 0x00},                             /* mode 0 */
    };
    for (size_t i = 0; i < ARRAY_LEN(program); i++) {
        out8(v, program[i].port, program[i].value);
    }
    wait_irq(v);
    if (h->irq_ack(h->opaque, 0) == 0x30) {
        say_and_power_off(v, exit);
    }
}

static void a_timer_reaches_the_cpu_through_the_pic(void **state)
{
    (void)state;
    struct fix *f = fix_new(1);

    test.program = pit_through_pic;
    assert_int_equal(machine_run(f->m, NULL), MACHINE_END_POWEROFF);
    fix_free(f);
}

/* ACPI on, power button enabled, SCI through the IOAPIC to vector 45h; then off. */
static void wait_for_button(struct engine_vcpu *v, struct engine_exit_info *exit)
{
    struct engine_host *h = &v->vm->params.host;

    out8(v, 0xb2, 2);
    h->pio_write(h->opaque, 0, BOARD_PORT_PM + 2, 2, 1u << 8);
    h->mmio_write(h->opaque, 0, BOARD_LAPIC_BASE + 0xf0, 4, 0x1ff);
    h->mmio_write(h->opaque, 0, BOARD_IOAPIC_BASE, 4, 0x10 + 2 * BOARD_IRQ_SCI);
    h->mmio_write(h->opaque, 0, BOARD_IOAPIC_BASE + 0x10, 4, 0x8045); /* level */
    out8(v, BOARD_PORT_POST, 0x42);
    machine_power_button((struct machine *)h->opaque);
    wait_irq(v);
    if (h->irq_ack(h->opaque, 0) == 0x45 && (in(v, BOARD_PORT_PM, 2) & 1u << 8) != 0) {
        say_and_power_off(v, exit);
    }
}

static void the_power_button_is_an_sci(void **state)
{
    (void)state;
    struct fix *f = fix_new(1);

    test.program = wait_for_button;
    assert_int_equal(machine_run(f->m, NULL), MACHINE_END_POWEROFF);
    fix_free(f);
}

static void pci_is_there(struct engine_vcpu *v, struct engine_exit_info *exit)
{
    struct engine_host *h = &v->vm->params.host;

    uint64_t by_ecam = h->mmio_read(h->opaque, 0, BOARD_ECAM_BASE + (UINT64_C(1) << 15), 4);
    h->pio_write(h->opaque, 0, 0xcf8, 4, 0x80000800);
    uint64_t by_port = in(v, 0xcfc, 4);
    uint64_t nothing = h->mmio_read(h->opaque, 0, BOARD_PCI32_BASE + 0x1000000, 8);
    if (by_ecam == 0x10441af4 && by_port == by_ecam && nothing == UINT64_MAX) {
        say_and_power_off(v, exit);
    } else {
        exit->reason = ENGINE_EXIT_SHUTDOWN;
    }
}

static void the_entropy_device_is_in_slot_1(void **state)
{
    (void)state;
    struct fix *f = fix_new(1);

    test.program = pci_is_there;
    assert_int_equal(machine_run(f->m, NULL), MACHINE_END_POWEROFF);
    fix_free(f);
}

/* ---- state ---- */

static void *save(struct machine *m, size_t *ret_len)
{
    struct state_writer *w;
    const void *data;
    struct err err = {0};

    assert_int_equal(state_writer_new(&w, NULL), 0);
    assert_int_equal(machine_save(m, w, &err), 0);
    assert_int_equal(state_writer_finish(w, &data, ret_len), 0);
    void *copy = malloc(*ret_len);
    memcpy(copy, data, *ret_len);
    state_writer_free(w);
    return copy;
}

static int load(struct machine *m, const void *data, size_t len, struct err *err)
{
    struct state_reader *r;
    int rc = state_reader_new(&r, data, len, err);

    if (rc == 0) {
        rc = machine_load(m, r, err);
        state_reader_free(r);
    }
    return rc;
}

/* What is saved is loaded and saved again: the same bytes. */
static void state_survives_a_round_trip(void **state)
{
    (void)state;
    struct fix *a = fix_new(2), *b;
    struct err err = {0};
    size_t a_len, b_len;

    for (int i = 0; i < 2; i++) {
        vcpu_state_reset(&a->m->vcpus[i].ev->state, i == 0);
    }
    a->m->vcpus[1].ev->state.gpr[3] = 77;
    a->m->vcpus[1].ev->state.tsc_offset = 12345;
    bus_write(a->m->pio, BOARD_PORT_COM1 + 7, 1, 0x5a); /* UART scratch */
    void *saved = save(a->m, &a_len);
    b = fix_new(2);
    if (load(b->m, saved, a_len, &err) < 0) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(bus_read(b->m->pio, BOARD_PORT_COM1 + 7, 1), 0x5a);
    const struct vcpu_state *s0 = &b->m->vcpus[0].ev->state, *s1 = &b->m->vcpus[1].ev->state;
    assert_int_equal(s1->gpr[3], 77);
    assert_int_equal(s1->tsc_offset - s0->tsc_offset, 12345); /* TSCs keep their distance */
    void *again = save(b->m, &b_len);
    assert_int_equal(a_len, b_len);
    free(saved);
    free(again);
    fix_free(a);
    fix_free(b);
}

static void another_shape_is_refused(void **state)
{
    (void)state;
    struct fix *a = fix_new(2), *b = fix_new(1);
    struct err err = {0};
    size_t len;

    for (int i = 0; i < 2; i++) {
        vcpu_state_reset(&a->m->vcpus[i].ev->state, i == 0);
    }
    void *saved = save(a->m, &len);
    assert_true(load(b->m, saved, len, &err) < 0);
    assert_int_equal(err.code, ERR_STATE_BAD);
    assert_non_null(strstr(err.text, "2 CPUs"));
    /* The machine is as after a reset, and runs. */
    test.program = say_and_power_off;
    assert_int_equal(machine_run(b->m, NULL), MACHINE_END_POWEROFF);
    free(saved);
    fix_free(a);
    fix_free(b);
}

static void guest_tsc_stands_still_while_paused(void **state)
{
    (void)state;
    struct fix *f = fix_new(1);

    vcpu_state_reset(&f->m->vcpus[0].ev->state, true);
    machine_resume(f->m); /* of machine_new's pause */
    struct vcpu_state *s = &f->m->vcpus[0].ev->state;
    machine_pause(f->m);
    uint64_t at_pause = f->m->paused_tsc + (uint64_t)s->tsc_offset;
    machine_pause(f->m);
    machine_resume(f->m);
    for (volatile int i = 0; i < 1000000; i++) {
    }
    machine_resume(f->m);
    uint64_t after = host_tsc() + (uint64_t)s->tsc_offset;
    assert_true(after >= at_pause);
    assert_true(after - at_pause < host_tsc() - f->m->paused_tsc);
    machine_pause(f->m);
    fix_free(f);
}

static void a_refusing_engine_is_reported(void **state)
{
    (void)state;
    struct fix *f = fix_new(1);
    struct err err = {0};

    test.fail_set_state = true;
    assert_int_equal(machine_run(f->m, &err), MACHINE_END_ERROR);
    assert_non_null(strstr(err.text, "does not like it"));
    fix_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_guest_powers_off),
        cmocka_unit_test(a_triple_fault_is_a_crash),
        cmocka_unit_test(an_engine_error_is_ours),
        cmocka_unit_test(the_exit_port_ends_with_its_status),
        cmocka_unit_test(another_thread_may_stop_it),
        cmocka_unit_test(every_reset_path_boots_again),
        cmocka_unit_test(a_timer_reaches_the_cpu_through_the_pic),
        cmocka_unit_test(the_power_button_is_an_sci),
        cmocka_unit_test(the_entropy_device_is_in_slot_1),
        cmocka_unit_test(state_survives_a_round_trip),
        cmocka_unit_test(another_shape_is_refused),
        cmocka_unit_test(guest_tsc_stands_still_while_paused),
        cmocka_unit_test(a_refusing_engine_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
