/*
 * Port forwarding rules: parser, formatter, and the check that host ports can be bound. The
 * text comes from the user's command line or VM specification, so every message names rule and
 * part. No state, any thread. Missing: port ranges and names instead of numbers.
 */
#include "net/hostfwd.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define FORM "PROTO:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT, as in tcp::2222-:22"

static int parse_port(const char *text, size_t len, uint16_t *ret_port)
{
    uint32_t value = 0;
    if (len == 0 || len > 5) {
        return -EINVAL;
    }
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return -EINVAL;
        }
        value = value * 10 + (uint32_t)(text[i] - '0');
    }
    if (value == 0 || value > UINT16_MAX) {
        return -EINVAL;
    }
    *ret_port = (uint16_t)value;
    return 0;
}

/* One "[ADDR]:PORT" side that ends at text[len]. */
struct side {
    bool has_addr, is_ipv6;
    uint8_t addr[16];
    uint16_t port;
};

static int parse_side(struct side *s, const char *rule, const char *which, const char *text,
                      size_t len, struct err *err)
{
    char addr[INET6_ADDRSTRLEN];
    const char *colon = memrchr(text, ':', len);
    if (colon == NULL) {
        return ERR(err, SPEC_BAD, EINVAL, "hostfwd '%s': no ':' before the %s port; want " FORM,
                   rule, which);
    }
    size_t addr_len = (size_t)(colon - text);
    const char *port = colon + 1;
    size_t port_len = len - addr_len - 1;
    if (parse_port(port, port_len, &s->port) < 0) {
        return ERR(err, SPEC_BAD, EINVAL, "hostfwd '%s': bad %s port '%.*s', want 1 to 65535",
                   rule, which, (int)MIN(port_len, 40u), port);
    }
    if (addr_len == 0) {
        return 0;
    }
    s->has_addr = true;
    s->is_ipv6 = text[0] == '[';
    const char *start = s->is_ipv6 ? text + 1 : text;
    size_t n = addr_len;
    if (s->is_ipv6) {
        n = addr_len >= 2 && text[addr_len - 1] == ']' ? addr_len - 2 : 0;
    }
    if (n > 0 && n < sizeof(addr)) {
        memcpy(addr, start, n);
        addr[n] = '\0';
        if (inet_pton(s->is_ipv6 ? AF_INET6 : AF_INET, addr, s->addr) == 1) {
            return 0;
        }
    }
    return ERR(err, SPEC_BAD, EINVAL,
               "hostfwd '%s': bad %s address '%.*s', want a number such as 127.0.0.1 or [::1]",
               rule, which, (int)MIN(addr_len, 60u), text);
}

int hostfwd_parse(struct hostfwd_rule *ret_rule, const char *text, struct err *err)
{
    struct hostfwd_rule rule = {0};
    struct side host = {0}, guest = {0};
    const char *p;

    if (strncmp(text, "tcp:", 4) == 0) {
        p = text + 4;
    } else if (strncmp(text, "udp:", 4) == 0) {
        p = text + 4;
        rule.is_udp = true;
    } else {
        return ERR(err, SPEC_BAD, EINVAL,
                   "hostfwd '%s': must begin with tcp: or udp:; want " FORM, text);
    }
    const char *dash = strchr(p, '-');
    if (dash == NULL) {
        return ERR(err, SPEC_BAD, EINVAL,
                   "hostfwd '%s': no '-' between the host and the guest side; want " FORM,
                   text);
    }
    int r = parse_side(&host, text, "host", p, (size_t)(dash - p), err);
    if (r == 0) {
        r = parse_side(&guest, text, "guest", dash + 1, strlen(dash + 1), err);
    }
    if (r < 0) {
        return r;
    }
    if (host.has_addr && guest.has_addr && host.is_ipv6 != guest.is_ipv6) {
        return ERR(err, SPEC_BAD, EINVAL,
                   "hostfwd '%s': host and guest address must be both IPv4 or both IPv6", text);
    }
    rule.is_ipv6 = host.is_ipv6 || guest.is_ipv6;
    if (!host.has_addr) {
        inet_pton(rule.is_ipv6 ? AF_INET6 : AF_INET, rule.is_ipv6 ? "::1" : "127.0.0.1",
                  host.addr);
    }
    memcpy(rule.host_addr, host.addr, sizeof(rule.host_addr));
    memcpy(rule.guest_addr, guest.addr, sizeof(rule.guest_addr));
    rule.has_guest_addr = guest.has_addr;
    rule.host_port = host.port;
    rule.guest_port = guest.port;
    *ret_rule = rule;
    return 0;
}

static void format_addr(bool is_ipv6, const uint8_t *addr, char *buf, size_t len)
{
    char text[INET6_ADDRSTRLEN] = "";
    inet_ntop(is_ipv6 ? AF_INET6 : AF_INET, addr, text, sizeof(text));
    snprintf(buf, len, is_ipv6 ? "[%s]" : "%s", text);
}

void hostfwd_format(const struct hostfwd_rule *rule, char *buf, size_t len)
{
    char host[INET6_ADDRSTRLEN + 2], guest[INET6_ADDRSTRLEN + 2] = "";
    format_addr(rule->is_ipv6, rule->host_addr, host, sizeof(host));
    if (rule->has_guest_addr) {
        format_addr(rule->is_ipv6, rule->guest_addr, guest, sizeof(guest));
    }
    snprintf(buf, len, "%s:%s:%u-%s:%u", rule->is_udp ? "udp" : "tcp", host, rule->host_port,
             guest, rule->guest_port);
}

static socklen_t make_sockaddr(bool is_ipv6, const uint8_t *addr, uint16_t port,
                               struct sockaddr_storage *ret_addr)
{
    memset(ret_addr, 0, sizeof(*ret_addr));
    if (is_ipv6) {
        struct sockaddr_in6 sin6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
        memcpy(&sin6.sin6_addr, addr, sizeof(sin6.sin6_addr));
        memcpy(ret_addr, &sin6, sizeof(sin6));
        return sizeof(sin6);
    }
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons(port)};
    memcpy(&sin.sin_addr, addr, sizeof(sin.sin_addr));
    memcpy(ret_addr, &sin, sizeof(sin));
    return sizeof(sin);
}

socklen_t hostfwd_host_sockaddr(const struct hostfwd_rule *rule,
                                struct sockaddr_storage *ret_addr)
{
    return make_sockaddr(rule->is_ipv6, rule->host_addr, rule->host_port, ret_addr);
}

socklen_t hostfwd_guest_sockaddr(const struct hostfwd_rule *rule,
                                 struct sockaddr_storage *ret_addr)
{
    return make_sockaddr(rule->is_ipv6, rule->guest_addr, rule->guest_port, ret_addr);
}

static int check_one(const struct hostfwd_rule *rule, struct err *err)
{
    struct sockaddr_storage addr;
    char text[HOSTFWD_TEXT_MAX];
    const int on = 1;
    socklen_t len = hostfwd_host_sockaddr(rule, &addr);

    hostfwd_format(rule, text, sizeof(text));
    _cleanup_close_ int fd =
        socket(rule->is_ipv6 ? AF_INET6 : AF_INET,
               (rule->is_udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return ERR(err, IO, errno, "hostfwd '%s': cannot open a socket: %s", text,
                   strerror(errno));
    }
    /* As the real listener does for TCP: connections in TIME_WAIT do not hold the port. */
    if (!rule->is_udp) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    }
    if (rule->is_ipv6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    }
    if (bind(fd, (const struct sockaddr *)&addr, len) < 0 ||
        (!rule->is_udp && listen(fd, 1) < 0)) {
        int e = errno;
        return err_report(err, e == EACCES ? ERR_ACCESS : ERR_IO, e, __FILE__, __LINE__,
                          "hostfwd '%s': cannot listen on host port %u: %s", text,
                          rule->host_port, strerror(e));
    }
    return 0;
}

int hostfwd_check(const struct hostfwd_rule *rules, size_t n_rules, struct err *err)
{
    if (n_rules > HOSTFWD_MAX_RULES) {
        return ERR(err, LIMIT, E2BIG, "hostfwd: %zu rules, at most %d are possible", n_rules,
                   HOSTFWD_MAX_RULES);
    }
    for (size_t i = 0; i < n_rules; i++) {
        const struct hostfwd_rule *a = &rules[i];
        for (size_t j = 0; j < i; j++) {
            const struct hostfwd_rule *b = &rules[j];
            if (a->is_udp == b->is_udp && a->is_ipv6 == b->is_ipv6 &&
                a->host_port == b->host_port &&
                memcmp(a->host_addr, b->host_addr, sizeof(a->host_addr)) == 0) {
                char text[HOSTFWD_TEXT_MAX];
                hostfwd_format(a, text, sizeof(text));
                return ERR(err, SPEC_BAD, EINVAL,
                           "hostfwd '%s': another rule has the same host address and port",
                           text);
            }
        }
        int r = check_one(a, err);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}
