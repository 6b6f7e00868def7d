/* Log lines: form, level, bounds, control characters, rate limit. */
#include "base/cleanup.h"
#include "base/log.h"
#include "base/test.h"

#include <fcntl.h>
#include <string.h>

static int pipe_fds[2];

static const char *read_back(void)
{
    static char buf[4096];
    ssize_t n = read(pipe_fds[0], buf, sizeof(buf) - 1);

    buf[n > 0 ? n : 0] = '\0';
    return buf;
}

static int setup(void **state)
{
    (void)state;
    if (pipe2(pipe_fds, O_NONBLOCK | O_CLOEXEC) < 0) {
        return -1;
    }
    log_setup("prog", LOG_LEVEL_INFO, pipe_fds[1]);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    log_setup("viv", LOG_LEVEL_INFO, STDERR_FILENO);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    return 0;
}

static void a_line_has_program_level_text(void **state)
{
    (void)state;
    log_warn("disk %s is full", "a.img");
    assert_string_equal(read_back(), "prog: warn: disk a.img is full\n");
}

static void levels_above_are_dropped(void **state)
{
    (void)state;
    log_debug("hidden");
    assert_string_equal(read_back(), "");
    assert_false(log_enabled(LOG_LEVEL_DEBUG));
    assert_true(log_enabled(LOG_LEVEL_ERROR));
}

static void a_line_stays_a_line(void **state)
{
    (void)state;
    char longer[3000];

    memset(longer, 'y', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    log_info("a\nb\r%s", longer);
    const char *got = read_back();
    assert_true(strlen(got) <= 1024);
    assert_ptr_equal(strchr(got, '\n'), got + strlen(got) - 1);
    assert_null(strchr(got, '\r'));
}

static void the_limit_lets_a_burst_through(void **state)
{
    (void)state;
    struct log_limit limit = {0};
    unsigned passed = 0;

    for (int i = 0; i < 100; i++) {
        passed += log_limit_pass(&limit, 5) ? 1 : 0;
    }
    /* A slow host may see a second window begin. */
    assert_true(passed >= 5 && passed <= 10);
    limit.window_start_ns = 1; /* long ago */
    limit.dropped = 7;
    assert_true(log_limit_pass(&limit, 5));
    assert_non_null(strstr(read_back(), "7 more lines"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_line_has_program_level_text, setup, teardown),
        cmocka_unit_test_setup_teardown(levels_above_are_dropped, setup, teardown),
        cmocka_unit_test_setup_teardown(a_line_stays_a_line, setup, teardown),
        cmocka_unit_test_setup_teardown(the_limit_lets_a_burst_through, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
