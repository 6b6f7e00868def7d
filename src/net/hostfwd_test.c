/* Rules: good and bad text, formatting and back, and the check against ports in use. */
#include "net/hostfwd.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

static void good_rules(void **state)
{
    (void)state;
    static const struct {
        const char *text, *canonical;
    } cases[] = {
        {"tcp:127.0.0.1:2222-:22", "tcp:127.0.0.1:2222-:22"},
        {"tcp::2222-:22", "tcp:127.0.0.1:2222-:22"},
        {"udp:0.0.0.0:1-:65535", "udp:0.0.0.0:1-:65535"},
        {"tcp:10.1.2.3:80-10.0.2.15:8080", "tcp:10.1.2.3:80-10.0.2.15:8080"},
        {"tcp:[::1]:2222-:22", "tcp:[::1]:2222-:22"},
        {"tcp:[::]:2222-[fec0::15]:22", "tcp:[::]:2222-[fec0::15]:22"},
        {"udp::53-[fec0::15]:53", "udp:[::1]:53-[fec0::15]:53"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct hostfwd_rule rule, again;
        struct err err = {0};
        char text[HOSTFWD_TEXT_MAX];
        assert_int_equal(hostfwd_parse(&rule, cases[i].text, &err), 0);
        hostfwd_format(&rule, text, sizeof(text));
        assert_string_equal(text, cases[i].canonical);
        assert_int_equal(hostfwd_parse(&again, text, &err), 0);
        assert_memory_equal(&rule, &again, sizeof(rule));
    }
}

static void bad_rules(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "tcp: or udp:"},
        {"2222-:22", "tcp: or udp:"},
        {"sctp::1-:1", "tcp: or udp:"},
        {"tcp::2222", "no '-'"},
        {"tcp:2222-:22", "no ':' before the host port"},
        {"tcp::2222-22", "no ':' before the guest port"},
        {"tcp::0-:22", "bad host port '0'"},
        {"tcp::65536-:22", "bad host port '65536'"},
        {"tcp::99999999999999999999-:22", "bad host port"},
        {"tcp::22 -:22", "bad host port"},
        {"tcp::-1-:22", "bad host port ''"},
        {"tcp::1-:", "bad guest port ''"},
        {"tcp::1-:22x", "bad guest port '22x'"},
        {"tcp:localhost:1-:22", "bad host address 'localhost'"},
        {"tcp:127.0.0.256:1-:22", "bad host address"},
        {"tcp:[::1:1-:22", "bad host address"},
        {"tcp:[]:1-:22", "bad host address '[]'"},
        {"tcp:::1:1-:22", "bad host address"},
        {"tcp:[::1]:1-10.0.2.15:22", "both IPv4 or both IPv6"},
        {"tcp:127.0.0.1:1-[fec0::1]:22", "both IPv4 or both IPv6"},
        {"tcp::1-"
         "1111111111111111111111111111111111111111111111111111111111111111111111111111111111:"
         "22",
         "bad guest address"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct hostfwd_rule rule;
        struct err err = {0};
        assert_int_equal(hostfwd_parse(&rule, cases[i].text, &err), -EINVAL);
        assert_int_equal(err.code, ERR_SPEC_BAD);
        if (strstr(err.text, cases[i].says) == NULL) {
            fail_msg("'%s': message '%s' lacks '%s'", cases[i].text, err.text, cases[i].says);
        }
    }
}

static uint16_t take_port(int type, int *ret_fd)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(sin);
    *ret_fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    assert_true(*ret_fd >= 0);
    assert_int_equal(bind(*ret_fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
    if (type == SOCK_STREAM) {
        assert_int_equal(listen(*ret_fd, 1), 0);
    }
    assert_int_equal(getsockname(*ret_fd, (struct sockaddr *)&sin, &len), 0);
    return ntohs(sin.sin_port);
}

static void ports_in_use(void **state)
{
    (void)state;
    _cleanup_close_ int tcp = -1, udp = -1;
    struct hostfwd_rule rules[2];
    struct err err = {0};
    char text[64];
    uint16_t tcp_port = take_port(SOCK_STREAM, &tcp), udp_port = take_port(SOCK_DGRAM, &udp);

    snprintf(text, sizeof(text), "tcp::%u-:22", tcp_port);
    assert_int_equal(hostfwd_parse(&rules[0], text, &err), 0);
    assert_int_equal(hostfwd_check(rules, 1, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, "cannot listen on host port"));
    snprintf(text, sizeof(text), "udp::%u-:22", udp_port);
    assert_int_equal(hostfwd_parse(&rules[0], text, &err), 0);
    assert_int_equal(hostfwd_check(rules, 1, &err), -EADDRINUSE);

    close(take_fd(&tcp));
    snprintf(text, sizeof(text), "tcp::%u-:22", tcp_port);
    assert_int_equal(hostfwd_parse(&rules[0], text, &err), 0);
    rules[1] = rules[0];
    rules[1].guest_port = 23;
    assert_int_equal(hostfwd_check(rules, 1, &err), 0);
    assert_int_equal(hostfwd_check(rules, 2, &err), -EINVAL);
    assert_non_null(strstr(err.text, "another rule"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_rules),
        cmocka_unit_test(bad_rules),
        cmocka_unit_test(ports_in_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
