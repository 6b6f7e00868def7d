/*
 * Console on a terminal, pipe or file (console.h). Loop's thread only, except the emergency
 * restore, which a fatal signal's handler may run on any thread: it uses one static copy of the
 * terminal's settings, the only mutable global here, because a handler gets no context.
 */
#include "vmm/console.h"

#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>

#define ESCAPE_KEY        0x01 /* Ctrl-A */
#define PENDING_MAX       4096
#define FINAL_WAIT_MS     5000
#define CAREFUL_WRITE_MAX 256 /* a terminal that says writable takes this much */

static struct termios emergency_termios;
static volatile sig_atomic_t emergency_armed;

struct console {
    struct loop *loop;
    struct machine *m;
    struct console_actions actions;
    int in_fd, out_fd; /* -1: none */
    bool own_out;
    bool in_is_file; /* cannot be watched */
    bool in_ended;
    bool out_may_block; /* could not be made non-blocking: poll, then small writes */
    bool out_dead;      /* nobody reads: output is taken and forgotten */
    bool have_saved, raw, escape, final;
    uint64_t final_until_ns;
    struct termios saved;
    struct loop_watch *in_watch, *out_watch;
    uint8_t pending[PENDING_MAX]; /* input that the guest had no room for */
    size_t pending_len;
    struct log_limit limit;
};

/* ---- terminal mode ---- */

static void restore_in_emergency(int sig)
{
    if (emergency_armed) {
        tcsetattr(STDIN_FILENO, TCSANOW, &emergency_termios);
    }
    /* Dies of the same signal, with its core dump. An engine may have called this from a
     * handler of its own, which is then still the one in place. */
    signal(sig, SIG_DFL);
    raise(sig);
}

/* Before the machine is made: an engine that handles faults of its code puts its handlers
 * before ours and passes on what is not its own. */
static void arm_emergency(const struct termios *saved)
{
    static const int fatal[] = {SIGSEGV, SIGBUS,  SIGILL,  SIGFPE,  SIGABRT,
                                SIGSYS,  SIGQUIT, SIGALRM, SIGXCPU, SIGXFSZ};
    struct sigaction sa = {.sa_handler = restore_in_emergency, .sa_flags = SA_ONSTACK};

    emergency_termios = *saved;
    emergency_armed = 1;
    for (size_t i = 0; i < ARRAY_LEN(fatal); i++) {
        sigaction(fatal[i], &sa, NULL);
    }
}

static void set_raw(struct console *c)
{
    struct termios raw = c->saved;

    cfmakeraw(&raw);
    raw.c_oflag |= OPOST; /* our own messages end lines with \n alone */
    tcsetattr(c->in_fd, TCSADRAIN, &raw);
}

/* Raw when a person sits there: both ends a terminal, and ours (not a background job). */
static void enter_raw(struct console *c)
{
    if (c->have_saved && isatty(c->out_fd) && tcgetpgrp(c->in_fd) == getpgrp()) {
        set_raw(c);
        c->raw = true;
    }
}

void console_suspend(struct console *c)
{
    if (c->raw) {
        tcsetattr(c->in_fd, TCSADRAIN, &c->saved);
    }
}

void console_continue(struct console *c)
{
    if (c->raw && tcgetpgrp(c->in_fd) == getpgrp()) {
        set_raw(c);
    }
}

/* ---- output ---- */

static void out_failed(struct console *c, int e)
{
    if (e == ENOSPC || e == EDQUOT) { /* may pass; what does not fit is lost */
        if (log_limit_pass(&c->limit, 1)) {
            log_warn("console: %s; output is lost", strerror(e));
        }
        return;
    }
    c->out_dead = true;
    loop_unwatch(c->out_watch);
    c->out_watch = NULL;
    if (e != EPIPE) {
        log_warn("console: %s; output is dropped from now on", strerror(e));
    }
}

static void on_out(void *opaque, uint32_t events)
{
    struct console *c = opaque;

    (void)events;
    loop_unwatch(c->out_watch);
    c->out_watch = NULL;
    machine_console_ready(c->m);
}

/* Waits for room at the end of the VM's life; false when time is up. */
static bool wait_final(struct console *c)
{
    uint64_t now = clock_now_ns();
    struct pollfd p = {.fd = c->out_fd, .events = POLLOUT};

    if (now >= c->final_until_ns) {
        return false;
    }
    return poll(&p, 1, (int)((c->final_until_ns - now) / 1000000) + 1) > 0;
}

static bool out_has_room(const struct console *c)
{
    struct pollfd p = {.fd = c->out_fd, .events = POLLOUT};

    return !c->out_may_block || poll(&p, 1, 0) > 0;
}

static size_t console_write(void *opaque, const uint8_t *data, size_t len)
{
    struct console *c = opaque;
    size_t done = 0;

    while (done < len && c->out_fd >= 0 && !c->out_dead) {
        size_t n = c->out_may_block ? MIN(len - done, (size_t)CAREFUL_WRITE_MAX) : len - done;
        ssize_t r = -1;
        errno = EAGAIN;
        if (out_has_room(c)) {
            r = write(c->out_fd, data + done, n);
        }
        if (r >= 0) {
            done += (size_t)r;
        } else if (errno == EAGAIN) {
            if (c->final && wait_final(c)) {
                continue;
            }
            if (!c->final && c->out_watch == NULL &&
                loop_watch_fd(c->loop, c->out_fd, EPOLLOUT, on_out, c, &c->out_watch) < 0) {
                out_failed(c, EIO);
            }
            return c->final || c->out_dead ? len : done;
        } else if (errno != EINTR) {
            out_failed(c, errno);
            return len;
        }
    }
    return len;
}

/* ---- input ---- */

static void help(struct console *c)
{
    static const char text[] = "\r\n"
                               "Ctrl-A X       end the VM at once\r\n"
                               "Ctrl-A P       press the power button\r\n"
                               "Ctrl-A R       reset the VM\r\n"
                               "Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n"
                               "Ctrl-A H       show this\r\n";

    console_write(c, (const uint8_t *)text, sizeof(text) - 1);
}

/* The key after the prefix; true if it is one for the guest. */
static bool escape_key(struct console *c, uint8_t key)
{
    switch (key) {
    case ESCAPE_KEY: return true;
    case 'x':
    case 'X': c->actions.end(c->actions.opaque); break;
    case 'p':
    case 'P': c->actions.power_button(c->actions.opaque); break;
    case 'r':
    case 'R': c->actions.reset(c->actions.opaque); break;
    case 'h':
    case 'H':
    case '?': help(c); break;
    default: break;
    }
    return false;
}

static void on_in(void *opaque, uint32_t events);

/* A pipe waits while the guest has no room; a person's Ctrl-A must be heard whatever the guest
 * does. Waiting means not watching: a pipe that was hung up would be reported for ever. */
static void watch_input(struct console *c)
{
    bool want = !c->in_ended && !c->in_is_file && (c->raw || c->pending_len == 0);

    if (want && c->in_watch == NULL) {
        int r = loop_watch_fd(c->loop, c->in_fd, EPOLLIN, on_in, c, &c->in_watch);
        c->in_is_file = r == -EPERM; /* always readable: read as the guest takes it */
        c->in_ended = r < 0 && r != -EPERM;
    } else if (!want && c->in_watch != NULL) {
        loop_unwatch(c->in_watch);
        c->in_watch = NULL;
    }
}

static void push_pending(struct console *c)
{
    size_t n = machine_console_input(c->m, c->pending, c->pending_len);

    c->pending_len -= n;
    memmove(c->pending, c->pending + n, c->pending_len);
}

static void take_input(struct console *c, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (c->raw && c->escape) {
            c->escape = false;
            if (!escape_key(c, data[i])) {
                continue;
            }
        } else if (c->raw && data[i] == ESCAPE_KEY) {
            c->escape = true;
            continue;
        }
        if (c->pending_len < sizeof(c->pending)) {
            c->pending[c->pending_len++] = data[i];
        }
    }
    push_pending(c);
}

static void on_in(void *opaque, uint32_t events)
{
    struct console *c = opaque;
    uint8_t buf[1024];

    (void)events;
    ssize_t n = read(c->in_fd, buf, sizeof(buf));
    if (n > 0) {
        take_input(c, buf, (size_t)n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        c->in_ended = true; /* the guest goes on without input */
    }
    watch_input(c);
}

/* A regular file cannot be watched: it is always readable, so it is read as the guest takes it.
 */
static void read_file_input(struct console *c)
{
    while (c->in_is_file && c->pending_len == 0) {
        uint8_t buf[1024];
        ssize_t n = read(c->in_fd, buf, sizeof(buf));
        if (n <= 0) {
            c->in_is_file = false;
            c->in_ended = true;
            return;
        }
        take_input(c, buf, (size_t)n);
    }
}

static void console_input_ready(void *opaque)
{
    struct console *c = opaque;

    if (c->m == NULL) {
        return;
    }
    if (c->pending_len > 0) {
        push_pending(c);
    }
    watch_input(c);
    read_file_input(c);
}

static void console_ending(void *opaque)
{
    struct console *c = opaque;

    c->final = true;
    c->final_until_ns = clock_now_ns() + (uint64_t)FINAL_WAIT_MS * 1000000;
}

/* ---- life ---- */

/*
 * Standard output must not block us, but its file description is shared with our parent:
 * O_NONBLOCK there would surprise it. Opening it anew gives one of our own.
 */
static void open_stdout(struct console *c)
{
    struct stat st;

    c->out_fd = STDOUT_FILENO;
    if (fstat(STDOUT_FILENO, &st) < 0) {
        c->out_fd = -1; /* closed */
        return;
    }
    if (S_ISREG(st.st_mode)) {
        return;
    }
    int fd = S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode)
                 ? open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY)
                 : -1;
    if (fd >= 0) {
        c->out_fd = fd;
        c->own_out = true;
    } else {
        c->out_may_block = true;
    }
}

int console_open(struct console **ret_console, const struct machine_config *cfg,
                 struct loop *loop, const struct console_actions *actions, struct err *err)
{
    struct console *c = calloc(1, sizeof(*c));
    if (c == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for a console");
    }
    *c = (struct console){.loop = loop, .actions = *actions, .in_fd = -1, .out_fd = -1};
    switch (cfg->console) {
    case MACHINE_CONSOLE_STDIO:
        open_stdout(c);
        c->in_fd = STDIN_FILENO;
        if (tcgetattr(c->in_fd, &c->saved) == 0) {
            c->have_saved = true;
            arm_emergency(&c->saved);
        }
        break;
    case MACHINE_CONSOLE_FILE:
        c->out_fd =
            open(cfg->console_path,
                 O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666);
        if (c->out_fd < 0) {
            int e = errno;
            free(c);
            return ERR(err, IO, e, "console file %s: %s", cfg->console_path, strerror(e));
        }
        c->own_out = true;
        break;
    case MACHINE_CONSOLE_NONE: break;
    }
    *ret_console = c;
    return 0;
}

void console_close(struct console *c)
{
    if (c == NULL) {
        return;
    }
    loop_unwatch(c->in_watch);
    loop_unwatch(c->out_watch);
    if (c->raw) {
        tcsetattr(c->in_fd, TCSADRAIN, &c->saved);
        emergency_armed = 0;
    }
    if (c->own_out) {
        close(c->out_fd);
    }
    free(c);
}

struct machine_console console_seam(struct console *c)
{
    return (struct machine_console){
        .opaque = c,
        .write = c->out_fd >= 0 ? console_write : NULL,
        .input_ready = console_input_ready,
        .ending = console_ending,
    };
}

void console_attach(struct console *c, struct machine *m)
{
    c->m = m;
    if (c->in_fd < 0) {
        return;
    }
    /* A background job that reads its terminal would be stopped. */
    c->in_ended = c->have_saved && tcgetpgrp(c->in_fd) != getpgrp();
    enter_raw(c);
    watch_input(c);
    read_file_input(c);
    console_resized(c);
}

void console_resized(struct console *c)
{
    struct winsize size;

    if (c->raw && c->m != NULL && ioctl(c->out_fd, TIOCGWINSZ, &size) == 0) {
        machine_console_resize(c->m, size.ws_col, size.ws_row);
    }
}
