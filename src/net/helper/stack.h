/*
 * libslirp between the VMM's socket and the host's sockets: one thread, one poll loop, bounded
 * queue towards the VMM.
 */
#pragma once

#include "base/err.h"
#include "net/hostfwd.h"

struct stack;

struct stack_params {
    int vm_fd;     /* SOCK_SEQPACKET to the VMM */
    int resolv_fd; /* from resolv_start, -1: none */
};

int stack_new(struct stack **ret_stack, const struct stack_params *params, struct err *err);
int stack_add_hostfwd(struct stack *s, const struct hostfwd_rule *rule, struct err *err);
/* Tells the VMM that all is ready and runs until it closes its end. */
void stack_run(struct stack *s);
