/*
 * User-mode networking: a back end whose frames go to a helper process (viv-net) that holds a
 * TCP/IP stack and ordinary sockets. Needs no privileges. docs/adr/0004-user-mode-network.md.
 *
 * What the guest sees: DHCP gives 10.0.2.15/24, gateway 10.0.2.2, DNS 10.0.2.3; IPv6 router
 * advertisements give fec0::/64, gateway fec0::2, DNS fec0::3. Connections to 10.0.2.2 reach
 * 127.0.0.1 of the host (fec0::2: ::1), all others leave through the host's own routes.
 */
#pragma once

#include "base/loop.h"
#include "net/hostfwd.h"
#include "net/net.h"

#define NET_USER_HELPER "viv-net"

struct net_user_params {
    struct loop *loop;       /* deliveries happen on its thread; outlives the back end */
    const char *helper_path; /* NULL: viv-net beside this program, then in the libexec folder */
    const struct hostfwd_rule *rules; /* borrowed for the call */
    size_t n_rules;
    uint8_t mac[6]; /* the guest's, for the default guest address of IPv6 rules */
};

/*
 * Checks the rules, starts the helper and returns a back end, stopped. Does not wait for the
 * helper: what goes wrong in it later is logged, and the link goes down.
 */
int net_user_new(struct net_backend **ret_nb, const struct net_user_params *params,
                 struct err *err);

/* As above over a connected SOCK_SEQPACKET socket (taken over, closed on failure too) to a
 * helper that somebody else started. */
int net_user_new_fd(struct net_backend **ret_nb, struct loop *loop, int fd, struct err *err);
