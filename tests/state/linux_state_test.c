/*
 * A running Linux is saved in the middle of its work and goes on in another machine: vCPUs with
 * their vector state, timers, interrupt controllers, console and disk, with the RAM copied
 * beside it. The guest sums a series in floating point when it is saved; the sum must come out
 * as the host computes it.
 *
 *     linux_state_test KERNEL INITRD CPUS
 */
#include "base/cleanup.h"
#include "base/loop.h"
#include "machine/machine.h"
#include "machine/machine_priv.h"
#include "state/state.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TERMS      400000
#define DISK_BYTES (4 * 1024 * 1024)
#define SKIP       77
#define DEADLINE_S 240

enum phase { WAIT_PROMPT, WAIT_GO, SAVED, WAIT_SUM, WAIT_END };

struct run {
    struct loop *loop;
    struct machine *m;
    enum phase phase;
    char text[65536]; /* the console */
    size_t len, from;
    const char *input;  /* not yet typed */
    atomic_bool posted; /* look is on its way */
    struct loop_watch *tick;
    /* what was saved */
    void *state;
    size_t state_len;
    uint8_t *ram[4];
};

static void fail(const struct run *r, const char *what)
{
    fprintf(stderr, "linux_state_test: %s (phase %d)\n--- console\n", what, (int)r->phase);
    fwrite(r->text, 1, r->len, stderr);
    fputc('\n', stderr);
    exit(1);
}

static struct run *running; /* for the alarm */

static void too_late(int sig)
{
    (void)sig;
    fail(running, "the deadline passed");
}

static void save(struct run *r)
{
    struct err err = {.text = ""};
    struct state_writer *w;
    const void *data;
    machine_pause(r->m); /* until the RAM is copied as well */
    if (state_writer_new(&w, &err) < 0 || machine_save(r->m, w, &err) < 0 ||
        state_writer_finish(w, &data, &r->state_len) < 0) {
        fail(r, err.text);
    }
    r->state = malloc(r->state_len);
    if (r->state == NULL) {
        fail(r, "no memory");
    }
    memcpy(r->state, data, r->state_len);
    state_writer_free(w);
    for (unsigned i = 0; i < mem_slot_count(r->m->mem) && i < 4; i++) {
        const struct mem_slot *s = mem_slot_get(r->m->mem, i);
        r->ram[i] = malloc(s->size_bytes);
        if (r->ram[i] == NULL) {
            fail(r, "no memory");
        }
        memcpy(r->ram[i], s->host, s->size_bytes);
    }
    machine_resume(r->m);
}

/* Offers what is left to type; the guest takes a few bytes at a time. */
static void pump(void *opaque)
{
    struct run *r = opaque;
    r->input += machine_console_input(r->m, (const uint8_t *)r->input, strlen(r->input));
}

static void type(struct run *r, const char *text)
{
    r->input = text;
    pump(r);
}

/* On the loop's thread, after console output. */
static void look(void *opaque)
{
    struct run *r = opaque;
    char want[64];
    double sum = 0;
    atomic_store(&r->posted, false);
    r->text[r->len] = '\0';
    const char *new = r->text + r->from;
    switch (r->phase) {
    case WAIT_PROMPT:
        if (strstr(new, "started in") == NULL || strstr(new, "# ") == NULL) {
            return;
        }
        r->from = r->len;
        type(r,
             "dd if=/dev/urandom of=/dev/vda bs=4k count=64 2>/dev/null; sha256sum </dev/vda "
             ">/tmp/sum; echo g''o; awk 'BEGIN{for(i=0;i<400000;i++)s+=1/(i+1);printf "
             "\"sum %.6f\\n\",s}'; sha256sum </dev/vda | cmp - /tmp/sum && echo same\n");
        r->phase = WAIT_GO;
        return;
    case WAIT_GO:
        if (strstr(new, "\ngo") == NULL) {
            return;
        }
        if (strstr(new, "\nsum ") != NULL) {
            fail(r, "the guest was done before it could be saved");
        }
        save(r);
        r->phase = SAVED;
        machine_stop(r->m);
        return;
    case SAVED: return;
    case WAIT_SUM:
        for (unsigned i = 0; i < TERMS; i++) {
            sum += 1.0 / (double)(i + 1);
        }
        snprintf(want, sizeof(want), "\nsum %.6f", sum);
        if (strstr(new, want) == NULL || strstr(new, "\nsame") == NULL) {
            return;
        }
        type(r, "poweroff\n");
        r->phase = WAIT_END;
        return;
    case WAIT_END: return;
    }
}

static size_t on_console(void *opaque, const uint8_t *data, size_t len)
{
    struct run *r = opaque;
    size_t room = sizeof(r->text) - 1 - r->len;
    memcpy(r->text + r->len, data, MIN(len, room));
    r->len += MIN(len, room);
    if (!atomic_exchange(&r->posted, true)) {
        loop_post(r->loop, look, r);
    }
    return len;
}

static void on_input_ready(void *opaque)
{
    struct run *r = opaque;
    loop_post(r->loop, pump, r);
}

static void load(struct run *r)
{
    struct err err = {.text = ""};
    struct state_reader *reader;
    for (unsigned i = 0; i < mem_slot_count(r->m->mem) && i < 4; i++) {
        const struct mem_slot *s = mem_slot_get(r->m->mem, i);
        memcpy(s->host, r->ram[i], s->size_bytes);
        free(r->ram[i]);
    }
    if (state_reader_new(&reader, r->state, r->state_len, &err) < 0 ||
        machine_load(r->m, reader, &err) < 0) {
        fail(r, err.text);
    }
    state_reader_free(reader);
    free(r->state);
}

static void run_machine(struct run *r, const struct machine_config *cfg, bool loaded,
                        enum machine_end want)
{
    struct machine_console console = {
        .opaque = r, .write = on_console, .input_ready = on_input_ready};
    struct err err = {.text = ""};
    if (loop_new(&r->loop, &err) < 0 || machine_new(&r->m, cfg, r->loop, &console, &err) < 0) {
        fail(r, err.text);
    }
    if (loaded) {
        load(r);
        r->phase = WAIT_SUM;
    }
    if (machine_run(r->m, &err) != want) {
        fail(r, err.text[0] != '\0' ? err.text : "the machine ended otherwise than it should");
    }
    machine_free(r->m);
    loop_free(r->loop);
}

static char *make_disk(void)
{
    char *path = strdup("/tmp/viv-state-disk-XXXXXX");
    int fd = path != NULL ? mkstemp(path) : -1;
    if (fd < 0 || ftruncate(fd, DISK_BYTES) < 0) {
        perror("linux_state_test: disk");
        exit(1);
    }
    close(fd);
    return path;
}

int main(int argc, char **argv)
{
    static struct run r = {.input = ""};
    struct machine_config cfg;
    struct err err = {.text = ""};
    if (argc != 4) {
        fprintf(stderr, "usage: linux_state_test KERNEL INITRD CPUS\n");
        return 2;
    }
    if (access(argv[1], R_OK) < 0 || access(argv[2], R_OK) < 0) {
        printf("skipped: no guest at %s: %s\n", argv[1], strerror(errno));
        return SKIP;
    }
    running = &r;
    signal(SIGALRM, too_late);
    alarm(DEADLINE_S);
    if (machine_config_init(&cfg, &err) < 0) {
        fail(&r, err.text);
    }
    free(cfg.engine);
    cfg.engine = strdup("soft");
    cfg.kernel = strdup(argv[1]);
    cfg.initrd = strdup(argv[2]);
    cfg.cmdline = strdup("console=ttyS0 quiet viv.net=off");
    cfg.n_cpus = (unsigned)strtoul(argv[3], NULL, 10);
    cfg.memory_bytes = 192 * MIB;
    cfg.disks[0].path = make_disk();
    cfg.n_disks = 1;

    run_machine(&r, &cfg, false, MACHINE_END_STOPPED);
    if (r.phase != SAVED) {
        fail(&r, "nothing was saved");
    }
    run_machine(&r, &cfg, true, MACHINE_END_POWEROFF);
    unlink(cfg.disks[0].path);
    machine_config_done(&cfg);
    printf("saved %zu bytes of state, went on in another machine\n", r.state_len);
    return 0;
}
