/*
 * viv-vmm: one VM, described by the VM spec that comes in an open descriptor. Started by viv
 * run.
 *
 *     viv-vmm --spec-fd N [--start-ns T]   runs the VM
 *     viv-vmm --check-spec FILE            says whether a spec is well-formed ("-": standard
 * input) viv-vmm --engines text|json          measures the engines
 *
 * Signals: the first SIGTERM, SIGINT or SIGHUP presses the guest's power button, the second one
 * ends the VM; all come through a signalfd to the loop. VIV_LOG (error, warn, info, debug) sets
 * the log.
 */
#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/parse.h"
#include "base/stdfds.h"
#include "vmm/console.h"
#include "vmm/spec_parse.h"
#include "vmm/vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#define PRESS_AGAIN_S 3
#define PRESSES_MORE  5u

struct vmm {
    struct machine_config cfg;
    bool have_cfg;
    uint64_t start_ns; /* CLOCK_MONOTONIC at which viv began, for metrics */
    struct loop *loop;
    struct console *console;
    struct machine *m;
    struct metrics *metrics;
    int signal_fd;
    struct loop_watch *signal_watch;
    int asked_to_end; /* signal that pressed the power button, 0 if none */
    int press_fd;     /* timer that presses it again */
    struct loop_watch *press_watch;
    unsigned presses_left;
    bool ended_by_signal;
};

static int fail(const struct err *err)
{
    fprintf(stderr, "viv run: %s\n", err->text);
    return err_exit_status(err->code);
}

/* ---- what ends or changes a running VM ---- */

static void press_power_button(void *opaque)
{
    machine_power_button(((struct vmm *)opaque)->m);
}

static void end_vm(void *opaque)
{
    machine_stop(((struct vmm *)opaque)->m);
}

static void reset_vm(void *opaque)
{
    machine_reset(((struct vmm *)opaque)->m);
}

/* A guest that is still booting misses a press. */
static void on_press_again(void *opaque, uint32_t events)
{
    struct vmm *vmm = opaque;
    uint64_t n;

    (void)events;
    if (read(vmm->press_fd, &n, sizeof(n)) < 0) {
        return;
    }
    press_power_button(vmm);
    if (--vmm->presses_left == 0) {
        loop_unwatch(vmm->press_watch);
        vmm->press_watch = NULL;
        if (vmm->asked_to_end == SIGHUP) { /* nobody is left to send another */
            vmm->ended_by_signal = true;
            end_vm(vmm);
        }
    }
}

static void press_repeatedly(struct vmm *vmm)
{
    const struct itimerspec every = {{PRESS_AGAIN_S, 0}, {PRESS_AGAIN_S, 0}};

    press_power_button(vmm);
    vmm->presses_left = PRESSES_MORE;
    vmm->press_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (vmm->press_fd >= 0 && timerfd_settime(vmm->press_fd, 0, &every, NULL) == 0) {
        loop_watch_fd(vmm->loop, vmm->press_fd, EPOLLIN, on_press_again, vmm,
                      &vmm->press_watch);
    }
}

static void on_end_signal(struct vmm *vmm, int sig)
{
    if (vmm->asked_to_end == 0) {
        vmm->asked_to_end = sig;
        log_info("%s: the guest's power button was pressed; a second signal ends the VM",
                 sigabbrev_np(sig));
        press_repeatedly(vmm);
    } else {
        vmm->ended_by_signal = true;
        end_vm(vmm);
    }
}

static void on_signal(void *opaque, uint32_t events)
{
    struct vmm *vmm = opaque;
    struct signalfd_siginfo info;

    (void)events;
    if (read(vmm->signal_fd, &info, sizeof(info)) != sizeof(info)) {
        return;
    }
    switch ((int)info.ssi_signo) {
    case SIGWINCH: console_resized(vmm->console); break;
    case SIGTSTP:
        console_suspend(vmm->console);
        raise(SIGSTOP);
        console_continue(vmm->console);
        break;
    case SIGCONT: console_continue(vmm->console); break;
    default: on_end_signal(vmm, (int)info.ssi_signo); break;
    }
}

static int take_signals(struct vmm *vmm, struct err *err)
{
    static const int taken[] = {SIGTERM, SIGINT, SIGHUP, SIGWINCH, SIGTSTP, SIGCONT};
    sigset_t set;

    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
        struct sigaction old;
        /* What our parent had ignored (nohup, a shell's background job) stays ignored. */
        if (sigaction(taken[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) {
            sigaddset(&set, taken[i]);
        }
    }
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    vmm->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    int r = vmm->signal_fd < 0 ? -errno
                               : loop_watch_fd(vmm->loop, vmm->signal_fd, EPOLLIN, on_signal,
                                               vmm, &vmm->signal_watch);
    return r < 0 ? ERR(err, LIMIT, -r, "cannot watch for signals: %s", strerror(-r)) : 0;
}

/* ---- life ---- */

static int set_up(struct vmm *vmm, struct err *err)
{
    const struct console_actions actions = {
        .opaque = vmm, .end = end_vm, .power_button = press_power_button, .reset = reset_vm};
    int r = loop_new(&vmm->loop, err);

    r = r < 0 ? r : console_open(&vmm->console, &vmm->cfg, vmm->loop, &actions, err);
    if (r == 0) {
        const struct machine_console seam = console_seam(vmm->console);
        r = machine_new(&vmm->m, &vmm->cfg, vmm->loop, &seam, err);
    }
    r = r < 0 ? r
              : metrics_new(&vmm->metrics, &vmm->cfg, vmm->loop, vmm->m, vmm->start_ns, err);
    r = r < 0 ? r : take_signals(vmm, err);
    if (r == 0) {
        console_attach(vmm->console, vmm->m);
    }
    return r;
}

static void tear_down(struct vmm *vmm)
{
    loop_unwatch(vmm->signal_watch);
    loop_unwatch(vmm->press_watch);
    metrics_free(vmm->metrics);
    machine_free(vmm->m);
    console_close(vmm->console);
    if (vmm->signal_fd >= 0) {
        close(vmm->signal_fd);
    }
    if (vmm->press_fd >= 0) {
        close(vmm->press_fd);
    }
    loop_free(vmm->loop);
    if (vmm->have_cfg) {
        machine_config_done(&vmm->cfg);
    }
}

static int end_status(const struct vmm *vmm, enum machine_end end, const struct err *err)
{
    switch (end) {
    case MACHINE_END_POWEROFF: return 0;
    case MACHINE_END_CRASH:
    case MACHINE_END_ERROR: return fail(err);
    case MACHINE_END_EXIT: return (int)(machine_exit_code(vmm->m) & 0xff);
    case MACHINE_END_STOPPED: break;
    }
    if (vmm->ended_by_signal) {
        fprintf(stderr, "viv run: ended by %s before the guest powered off\n",
                vmm->asked_to_end == SIGHUP ? "hang-up of its terminal or a second signal"
                                            : "a second signal");
        return 1;
    }
    return 0;
}

static int run(struct vmm *vmm)
{
    struct err err = {0}, metrics_err = {0};

    if (set_up(vmm, &err) < 0) {
        /* Before the message: the terminal must be as it was. */
        console_close(take_ptr(&vmm->console));
        return fail(&err);
    }
    enum machine_end end = machine_run(vmm->m, &err);
    int metrics_failed = metrics_write(vmm->metrics, end, &metrics_err);
    console_suspend(vmm->console);
    int status = end_status(vmm, end, &err);
    if (metrics_failed < 0) {
        int r = fail(&metrics_err);
        status = status == 0 ? r : status;
    }
    return status;
}

/* ---- the spec ---- */

static int read_spec(int fd, char **ret_text, size_t *ret_len, struct err *err)
{
    _cleanup_free_ char *buf = malloc(SPEC_MAX_BYTES + 1);
    size_t len = 0;

    if (buf == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the VM spec");
    }
    for (;;) {
        ssize_t n = read(fd, buf + len, SPEC_MAX_BYTES + 1 - len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            int e = errno;
            return ERR(err, IO, e, "VM spec: %s", strerror(e));
        }
        len += (size_t)n;
        if (n == 0 || len > SPEC_MAX_BYTES) {
            break;
        }
    }
    *ret_text = take_ptr(&buf);
    *ret_len = len;
    return 0;
}

static int load_spec(struct vmm *vmm, int fd, struct err *err)
{
    _cleanup_free_ char *text = NULL;
    size_t len = 0;
    off_t start = lseek(fd, 0, SEEK_SET); /* a memfd comes positioned at its end */

    (void)start;
    int r = read_spec(fd, &text, &len, err);
    r = r < 0 ? r : spec_parse(&vmm->cfg, text, len, err);
    vmm->have_cfg = r == 0;
    return r;
}

static int check_spec(struct vmm *vmm, const char *path)
{
    struct err err = {0};
    bool is_stdin = strcmp(path, "-") == 0;
    _cleanup_close_ int fd = is_stdin ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        int e = errno;
        ERR(&err, NOT_FOUND, e, "%s: %s", path, strerror(e));
        return fail(&err);
    }
    return load_spec(vmm, fd, &err) < 0 ? fail(&err) : 0;
}

static int run_spec(struct vmm *vmm, const char *fd_text, const char *start_text)
{
    struct err err = {0};
    uint64_t fd;

    vmm->start_ns = clock_now_ns();
    if (start_text != NULL) {
        parse_uint(start_text, 0, vmm->start_ns, &vmm->start_ns);
    }
    if (parse_uint(fd_text, 3, 1 << 20, &fd) < 0) {
        ERR(&err, USAGE, EINVAL, "--spec-fd %.20s: want the number of an open descriptor",
            fd_text);
        return fail(&err);
    }
    int r = load_spec(vmm, (int)fd, &err);
    close((int)fd);
    return r < 0 ? fail(&err) : run(vmm);
}

static void set_up_log(void)
{
    static const char *const names[] = {
        [LOG_LEVEL_ERROR] = "error",
        [LOG_LEVEL_WARN] = "warn",
        [LOG_LEVEL_INFO] = "info",
        [LOG_LEVEL_DEBUG] = "debug",
    };
    const char *wish = getenv("VIV_LOG");
    enum log_level level = LOG_LEVEL_INFO;

    for (size_t i = 0; wish != NULL && i < ARRAY_LEN(names); i++) {
        if (strcmp(wish, names[i]) == 0) {
            level = (enum log_level)i;
        }
    }
    log_setup("viv run", level, STDERR_FILENO);
}

int main(int argc, char **argv)
{
    struct vmm vmm = {.signal_fd = -1, .press_fd = -1};
    int status = 2;

    stdfds_fill();
    set_up_log();
    if (argc == 3 && strcmp(argv[1], "--spec-fd") == 0) {
        status = run_spec(&vmm, argv[2], NULL);
    } else if (argc == 5 && strcmp(argv[1], "--spec-fd") == 0 &&
               strcmp(argv[3], "--start-ns") == 0) {
        status = run_spec(&vmm, argv[2], argv[4]);
    } else if (argc == 3 && strcmp(argv[1], "--check-spec") == 0) {
        status = check_spec(&vmm, argv[2]);
    } else if (argc == 3 && strcmp(argv[1], "--engines") == 0) {
        status = vmm_print_engines(strcmp(argv[2], "json") == 0);
    } else {
        fprintf(stderr, "viv-vmm: started by viv run; --check-spec FILE checks a VM spec\n");
    }
    tear_down(&vmm);
    return status;
}
