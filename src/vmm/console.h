/*
 * The host's end of the guest's console: the terminal or pipe on standard input and output, a
 * file, or nothing. Runs on the loop's thread.
 *
 * On a terminal: raw mode, put back at every exit (also by fatal signals), and the escape
 * prefix Ctrl-A. Otherwise bytes go through as they are; the end of input, and an output that
 * nobody reads any more, are not the guest's business.
 */
#pragma once

#include "base/loop.h"
#include "machine/machine.h"

struct console;

struct console_actions { /* what the escape keys do */
    void *opaque;
    void (*end)(void *opaque);
    void (*power_button)(void *opaque);
    void (*reset)(void *opaque);
};

int console_open(struct console **ret_console, const struct machine_config *cfg,
                 struct loop *loop, const struct console_actions *actions, struct err *err);
/* Restores the terminal. */
void console_close(struct console *c);

/* For machine_new. */
struct machine_console console_seam(struct console *c);
/* Input begins to flow; m is borrowed until console_close. */
void console_attach(struct console *c, struct machine *m);

/* The terminal changed its size (SIGWINCH). */
void console_resized(struct console *c);
/* Out of raw mode and back, around SIGSTOP. */
void console_suspend(struct console *c);
void console_continue(struct console *c);
