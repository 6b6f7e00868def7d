/*
 * Port forwarding rules of user-mode networking, as text and as values.
 *
 *     PROTO:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT
 *
 * PROTO is tcp or udp. Addresses are numeric, IPv6 in square brackets; both sides are of one
 * family. An empty HOSTADDR is 127.0.0.1: other machines reach the guest only when the rule
 * says so (0.0.0.0). An empty GUESTADDR is the address that the guest gets by DHCP, for IPv6
 * the one it makes from its MAC address. Pure functions; used by the command line, the VMM and
 * viv-net.
 */
#pragma once

#include "base/err.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HOSTFWD_MAX_RULES 64
#define HOSTFWD_TEXT_MAX  128 /* bytes of a formatted rule, NUL included */

struct hostfwd_rule {
    bool is_udp;
    bool is_ipv6;
    bool has_guest_addr;
    uint16_t host_port, guest_port;        /* 1-65535 */
    uint8_t host_addr[16], guest_addr[16]; /* network order; IPv4 in the first four bytes */
};

/* Parses one rule. -EINVAL with a message that names the rule and the part that is wrong. */
int hostfwd_parse(struct hostfwd_rule *ret_rule, const char *text, struct err *err);

/* Writes the rule so that hostfwd_parse reads the same; HOSTFWD_TEXT_MAX bytes suffice. */
void hostfwd_format(const struct hostfwd_rule *rule, char *buf, size_t len);

/* The host side as a socket address; returns its length. */
socklen_t hostfwd_host_sockaddr(const struct hostfwd_rule *rule,
                                struct sockaddr_storage *ret_addr);
socklen_t hostfwd_guest_sockaddr(const struct hostfwd_rule *rule,
                                 struct sockaddr_storage *ret_addr);

/*
 * Tries to bind every host side and lets go again, so that a port that is taken or forbidden is
 * reported before the guest starts. Two rules for one address are an error too.
 */
int hostfwd_check(const struct hostfwd_rule *rules, size_t n_rules, struct err *err);
