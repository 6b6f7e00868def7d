/*
 * Saves a whole running VM, loads it into another one, and lets it go on there, several times
 * in its life. Each stay ends when the guest has said what the step waits for.
 *
 *     vm_save_test ENGINE[,ENGINE...] CPUS KERNEL
 *     vm_save_test ENGINE[,ENGINE...] CPUS default-guest [INITRD MOVES COMMAND WANT]
 *
 * With several engines each move is to the next one. With a KERNEL it is
 * tests/machine/ticks.asm: 40 numbered ticks, none lost, none twice. Else it is the default
 * guest: its shell computes before and after, and powers off; or with an INITRD of its own it
 * runs COMMAND, moves MOVES times at random moments (SEED in the environment) and must print
 * WANT. Exit status 77: skipped.
 */
#include "base/ckd.h"
#include "base/cleanup.h"
#include "machine/machine_priv.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

struct step {
    const char *wait; /* output that ends the stay; NULL: the VM's own end */
    const char *send; /* input at its start */
};

static const struct step ticks_steps[] = {
    {"tick 07", NULL}, {"tick 08", NULL}, {"tick 19", NULL}, {"tick 33", NULL}, {NULL, NULL},
};
/* The file is written to the disk while the VM moves; the network's address stays. */
static const struct step linux_steps[] = {
    {"Enter 'help'", NULL},
    {"sum=3000", "a=1000; echo sum=$((a * 3))\n"},
    {"bg=1", "dd if=/dev/urandom of=/tmp/f bs=1M count=16 2>/dev/null; "
             "(dd if=/tmp/f of=/dev/vda bs=64k conv=fsync 2>/dev/null; echo wr=$((6 * 7))) & "
             "echo bg=$((0 + 1))\n"},
    {"wr=42", NULL},
    {"same=0 left=998", "echo 3 >/proc/sys/vm/drop_caches; cmp -n 16777216 /tmp/f /dev/vda; "
                        "echo same=$? left=$((a - 2))\n"},
    /* Moves in the middle of floating point; the sum is that of the same additions natively. */
    {"fp=go", "echo fp=g''o; awk 'BEGIN{for(i=0;i<400000;i++)s+=1/(i+1);"
              "printf \"fp=%.6f\\n\",s}'\n"},
    {"fp=13.476437", NULL},
    {"ping=0", "ping -c 2 -W 20 10.0.2.2 >/dev/null; echo ping=$?\n"},
    {NULL, "poweroff\n"},
};

#define ENGINES_MAX 4u

struct vm {
    struct machine_config cfg;
    char *engines[ENGINES_MAX];
    unsigned n_engines, made;
    uint64_t seed;
    struct loop *loop;
    struct machine *m;
    const struct step *step;
    char out[1 << 18];
    size_t out_len, seen; /* the step's output begins at seen */
    const char *to_send;
};

static void die(const char *what, const struct err *err)
{
    fprintf(stderr, "vm_save_test: %s%s%s\n", what, err != NULL ? ": " : "",
            err != NULL ? err->text : "");
    exit(1);
}

static void send_input(struct vm *vm)
{
    while (vm->m != NULL && vm->to_send != NULL && *vm->to_send != '\0') {
        size_t n = machine_console_input(vm->m, (const uint8_t *)vm->to_send, 1);
        if (n == 0) {
            return;
        }
        vm->to_send++;
    }
}

static size_t on_output(void *opaque, const uint8_t *data, size_t len)
{
    struct vm *vm = opaque;

    if (len > sizeof(vm->out) - 1 - vm->out_len) {
        die("too much output", NULL);
    }
    memcpy(vm->out + vm->out_len, data, len);
    vm->out_len += len;
    vm->out[vm->out_len] = '\0';
    if (vm->step->wait != NULL && strstr(vm->out + vm->seen, vm->step->wait) != NULL) {
        machine_stop(vm->m);
    }
    send_input(vm);
    return len;
}

static void on_input_ready(void *opaque)
{
    send_input(opaque);
}

static void make(struct vm *vm)
{
    struct err err = {0};
    const struct machine_console console = {
        .opaque = vm, .write = on_output, .input_ready = on_input_ready};

    free(vm->cfg.engine);
    vm->cfg.engine = strdup(vm->engines[vm->made++ % vm->n_engines]);
    if (loop_new(&vm->loop, &err) < 0 ||
        machine_new(&vm->m, &vm->cfg, vm->loop, &console, &err) < 0) {
        die("new", &err);
    }
}

/* Pages that the guest never touched are holes in the memory file. */
static void copy_ram(struct machine *to, const int *fds)
{
    for (unsigned i = 0; i < mem_slot_count(to->mem); i++) {
        const struct mem_slot *slot = mem_slot_get(to->mem, i);
        off_t at = 0;
        while ((at = lseek(fds[i], at, SEEK_DATA)) >= 0) {
            off_t end = lseek(fds[i], at, SEEK_HOLE);
            for (; at < end; at += 4096) {
                if (pread(fds[i], slot->host + at, 4096, at) != 4096) {
                    die("cannot read RAM", NULL);
                }
            }
        }
        close(fds[i]);
    }
}

/* Moves the VM into a new machine through the state stream. The old one is gone before the new
 * one is made: only one may hold the disk. */
static void move(struct vm *vm)
{
    struct state_writer *w;
    struct state_reader *r;
    struct err err = {0};
    const void *data;
    size_t len;
    int fds[2] = {-1, -1};

    if (state_writer_new(&w, &err) < 0 || machine_save(vm->m, w, &err) < 0 ||
        state_writer_finish(w, &data, &len) < 0) {
        die("save", &err);
    }
    for (unsigned i = 0; i < mem_slot_count(vm->m->mem) && i < ARRAY_LEN(fds); i++) {
        fds[i] = dup(mem_slot_get(vm->m->mem, i)->fd);
    }
    machine_free(take_ptr(&vm->m));
    loop_free(vm->loop);
    make(vm);
    copy_ram(vm->m, fds);
    if (state_reader_new(&r, data, len, &err) < 0 || machine_load(vm->m, r, &err) < 0) {
        die("load", &err);
    }
    printf("moved to %s: %zu bytes of state\n", vm->cfg.engine, len);
    fflush(stdout);
    state_reader_free(r);
    state_writer_free(w);
}

static uint64_t next_random(struct vm *vm)
{
    vm->seed ^= vm->seed << 13;
    vm->seed ^= vm->seed >> 7;
    vm->seed ^= vm->seed << 17;
    return vm->seed;
}

static void end_stay(void *opaque)
{
    machine_stop(((struct vm *)opaque)->m);
}

static void run_stay(struct vm *vm, uint64_t stay_ns)
{
    struct err err = {0};
    struct vmclock clock;
    struct timer timer;

    vmclock_init(&clock);
    if (timer_init(&timer, vm->loop, &clock, end_stay, vm, &err) < 0) {
        die("timer", &err);
    }
    if (stay_ns != 0) {
        timer_arm(&timer, stay_ns);
    }
    enum machine_end end = machine_run(vm->m, &err);
    timer_done(&timer);
    vmclock_done(&clock);
    if (end != MACHINE_END_STOPPED) {
        fputs(vm->out, stderr);
        die("ended", &err);
    }
}

/* Stays of 2 to 400 ms, short ones as likely as long ones; the last one until want is said. */
static void run_random(struct vm *vm, unsigned moves, const char *command, const char *want)
{
    const struct step wait = {want, command};
    unsigned done = 0;

    vm->step = &wait;
    vm->seen = vm->out_len;
    vm->to_send = command;
    send_input(vm);
    for (;;) {
        uint64_t stay_ns =
            (2 + next_random(vm) % (UINT64_C(1) << (2 + next_random(vm) % 8))) * 1000000;
        run_stay(vm, done < moves ? stay_ns : 0);
        if (strstr(vm->out + vm->seen, want) != NULL) {
            break;
        }
        if (done++ >= moves) {
            fputs(vm->out, stderr);
            die("stopped before the guest was done", NULL);
        }
        move(vm);
    }
    printf("%u moves of %u\n%s\n", done, moves, vm->out + vm->seen);
    if (done < 3) {
        die("the guest was done too early", NULL);
    }
    move(vm);
}

/* The last step waits for nothing. */
static void run_steps(struct vm *vm, const struct step *steps)
{
    for (size_t i = 0;; i++) {
        struct err err = {0};
        vm->step = &steps[i];
        vm->seen = vm->out_len;
        vm->to_send = steps[i].send;
        send_input(vm);
        enum machine_end end = machine_run(vm->m, &err);
        if (end == MACHINE_END_ERROR || end == MACHINE_END_CRASH) {
            fputs(vm->out, stderr);
            die("run", &err);
        }
        if (steps[i].wait == NULL) {
            if (end != MACHINE_END_POWEROFF) {
                die("did not power off", NULL);
            }
            return;
        }
        move(vm);
    }
}

static void check_ticks(const struct vm *vm)
{
    const char *p = vm->out;

    for (int i = 1; i <= 40; i++) {
        char want[16];
        int n = snprintf(want, sizeof(want), "tick %02d\n", i);
        if (strncmp(p, want, (size_t)n) != 0) {
            fprintf(stderr, "want %s at:\n%s\n", want, p);
            die("a tick is lost or doubled", NULL);
        }
        p += n;
    }
}

static void use_default_guest(struct machine_config *cfg)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char dir[4096];

    if (cache != NULL && cache[0] == '/') {
        snprintf(dir, sizeof(dir), "%s", cache);
    } else {
        snprintf(dir, sizeof(dir), "%s/.cache", home != NULL ? home : "");
    }
    if (asprintf(&cfg->kernel, "%s/vivarium/default-guest/vmlinuz", dir) < 0 ||
        asprintf(&cfg->initrd, "%s/vivarium/default-guest/initrd.img", dir) < 0) {
        die("no memory", NULL);
    }
    cfg->cmdline = strdup("console=ttyS0 quiet");

    char disk[] = "/tmp/vm-save-XXXXXX";
    _cleanup_close_ int fd = mkstemp(disk);
    if (fd < 0 || ftruncate(fd, 64 << 20) < 0) {
        die("no room for a disk", NULL);
    }
    cfg->disks[0].path = strdup(disk);
    cfg->n_disks = 1;
    cfg->nets[0].kind = MACHINE_NET_USER;
    machine_mac_default(0, cfg->nets[0].mac);
    cfg->n_nets = 1;
}

static void set_engines(struct vm *vm, const char *list)
{
    while (*list != '\0' && vm->n_engines < ENGINES_MAX) {
        size_t len = strcspn(list, ",");
        vm->engines[vm->n_engines++] = strndup(list, len);
        list += len + (list[len] == ',');
    }
    if (vm->n_engines == 0) {
        die("no engine is named", NULL);
    }
}

/* With an initrd of its own: boot, the command with moves, off. */
static void run_command(struct vm *vm, char **argv)
{
    static const struct step boot[] = {{"Enter 'help'", NULL}}, off[] = {{NULL, "poweroff\n"}};
    uint64_t moves = strtoull(argv[1], NULL, 10);
    char *command;
    if (asprintf(&command, "%s\n", argv[2]) < 0) {
        die("no memory", NULL);
    }
    vm->step = boot;
    run_stay(vm, 0);
    move(vm);
    run_random(vm, (unsigned)moves, command, argv[3]);
    run_steps(vm, off);
    free(command);
}

int main(int argc, char **argv)
{
    struct vm *vm = calloc(1, sizeof(*vm));
    struct err err = {0};
    struct engine_probe probe = {0};

    if ((argc != 4 && argc != 8) || vm == NULL || machine_config_init(&vm->cfg, &err) < 0) {
        fprintf(stderr, "usage: vm_save_test ENGINE[,ENGINE...] CPUS KERNEL\n"
                        "       vm_save_test ENGINE[,ENGINE...] CPUS default-guest "
                        "[INITRD MOVES COMMAND WANT]\n");
        return 2;
    }
    if (strstr(argv[1], "kvm") != NULL) {
        engine_kvm.probe(&probe);
        if (!probe.usable || probe.why[0] != '\0') {
            printf("skipped: %s\n", probe.why);
            return 77;
        }
    }
    bool is_linux = strcmp(argv[3], "default-guest") == 0;
    if (is_linux) {
        use_default_guest(&vm->cfg);
    } else {
        vm->cfg.kernel = strdup(argv[3]);
    }
    if (access(vm->cfg.kernel, R_OK) < 0) {
        printf("skipped: no %s\n", vm->cfg.kernel);
        return 77;
    }
    set_engines(vm, argv[1]);
    vm->seed = getenv("SEED") != NULL ? strtoull(getenv("SEED"), NULL, 10) | 1 : 20261123;
    vm->cfg.n_cpus = (unsigned)strtoul(argv[2], NULL, 10);
    if (argc == 8) {
        free(vm->cfg.initrd);
        vm->cfg.initrd = strdup(argv[4]);
    }
    make(vm);
    if (argc == 8) {
        run_command(vm, argv + 4);
    } else {
        run_steps(vm, is_linux ? linux_steps : ticks_steps);
    }
    if (!is_linux) {
        check_ticks(vm);
    }
    machine_free(vm->m);
    loop_free(vm->loop);
    if (vm->cfg.n_disks > 0) {
        unlink(vm->cfg.disks[0].path);
    }
    machine_config_done(&vm->cfg);
    for (unsigned i = 0; i < vm->n_engines; i++) {
        free(vm->engines[i]);
    }
    free(vm);
    printf("ok\n");
    return 0;
}
