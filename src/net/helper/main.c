/*
 * viv-net: user-mode networking for one VM (docs/adr/0004-user-mode-network.md).
 *
 *     viv-net [--mac MAC] [--hostfwd RULE]...
 *
 * Descriptor 3 is a SOCK_SEQPACKET socket to the VMM (net/wire.h). Order: parse arguments, copy
 * resolv.conf and start its watcher, bind forwarded ports (may need rights that are dropped
 * next), close the sandbox, say READY, run until the socket closes. Started by net/user.c, not
 * by hand.
 */
#include "base/ckd.h"
#include "base/err.h"
#include "base/log.h"
#include "net/helper/resolv.h"
#include "net/helper/sandbox.h"
#include "net/helper/stack.h"
#include "net/wire.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define VM_FD 3

struct options {
    uint8_t mac[6];
    struct hostfwd_rule rules[HOSTFWD_MAX_RULES];
    size_t n_rules;
};

static int parse_mac(const char *text, uint8_t mac[6])
{
    unsigned b[6];
    char end;
    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
               &end) != 6) {
        return -EINVAL;
    }
    for (size_t i = 0; i < 6; i++) {
        mac[i] = (uint8_t)b[i];
    }
    return 0;
}

/* The address that a guest makes of its MAC in fec0::/64: RFC 4291, appendix A. */
static void default_guest6(const uint8_t mac[6], uint8_t addr[16])
{
    const uint8_t made[16] = {
        0xfe,   0xc0,   0,    0,    0,      0,      0,     0, (uint8_t)(mac[0] ^ 2),
        mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]};
    memcpy(addr, made, sizeof(made));
}

static int parse_options(struct options *o, int argc, char **argv, struct err *err)
{
    for (int i = 1; i < argc; i += 2) {
        const char *value = argv[i + 1]; /* argv ends with NULL */
        if (value == NULL) {
            return ERR(err, USAGE, EINVAL, "option %s without a value", argv[i]);
        }
        if (strcmp(argv[i], "--mac") == 0) {
            if (parse_mac(value, o->mac) < 0) {
                return ERR(err, USAGE, EINVAL, "bad MAC address '%s'", value);
            }
        } else if (strcmp(argv[i], "--hostfwd") == 0) {
            if (o->n_rules == HOSTFWD_MAX_RULES) {
                return ERR(err, USAGE, EINVAL, "more than %d hostfwd rules", HOSTFWD_MAX_RULES);
            }
            int r = hostfwd_parse(&o->rules[o->n_rules], value, err);
            if (r < 0) {
                return r;
            }
            o->n_rules++;
        } else {
            return ERR(err, USAGE, EINVAL, "unknown option '%s'", argv[i]);
        }
    }
    for (size_t i = 0; i < o->n_rules; i++) {
        struct hostfwd_rule *rule = &o->rules[i];
        if (rule->is_ipv6 && !rule->has_guest_addr) {
            default_guest6(o->mac, rule->guest_addr);
        }
    }
    return 0;
}

static void tell_failure(const struct err *err)
{
    struct wire_hdr w = {.kind = WIRE_FAILED};
    size_t len = strnlen(err->text, MIN(sizeof(err->text), (size_t)WIRE_TEXT_MAX));
    struct iovec iov[] = {{&w, sizeof(w)}, {(char *)(uintptr_t)err->text, len}};
    const struct msghdr msg = {.msg_iov = iov, .msg_iovlen = ARRAY_LEN(iov)};
    if (sendmsg(VM_FD, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        log_error("%s", err->text);
    }
}

static int run(const struct options *o, struct err *err)
{
    struct stack_params params = {.vm_fd = VM_FD, .resolv_fd = -1};
    struct stack *stack = NULL;

    int r = resolv_start(&params.resolv_fd, err);
    if (r == 0) {
        r = stack_new(&stack, &params, err);
    }
    for (size_t i = 0; r == 0 && i < o->n_rules; i++) {
        r = stack_add_hostfwd(stack, &o->rules[i], err);
    }
    if (r == 0) {
        r = sandbox_enter(SANDBOX_STACK, err);
    }
    if (r < 0) {
        return r;
    }
    stack_run(stack);
    return 0;
}

int main(int argc, char **argv)
{
    struct options options = {0};
    struct err err = {0};
    int type = 0;
    socklen_t len = sizeof(type);

    log_setup("viv-net", LOG_LEVEL_WARN, STDERR_FILENO);
    /* The terminal's signals mean the VMM, which closes the socket when it is done. */
    signal(SIGINT, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    if (getsockopt(VM_FD, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET) {
        log_error("descriptor %d is no SOCK_SEQPACKET socket: viv starts this program", VM_FD);
        return err_exit_status(ERR_USAGE);
    }
    syscall(SYS_close_range, VM_FD + 1u, ~0u, 0);
    if (parse_options(&options, argc, argv, &err) < 0 || run(&options, &err) < 0) {
        tell_failure(&err);
        _exit(err_exit_status(err.code));
    }
    /* Without exit handlers: the sandbox allows nothing that they might want. */
    _exit(0);
}
