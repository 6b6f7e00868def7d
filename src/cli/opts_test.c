/* Option tables: forms of options, refusals and their words, comma lists, switches. */
#include "base/cleanup.h"
#include "base/test.h"
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

struct ctx {
    char text[64], argument[64];
    unsigned many;
    bool flag;
};

static int set_text(void *opaque, const char *value, struct err *err)
{
    struct ctx *ctx = opaque;

    if (strcmp(value, "bad") == 0) {
        return ERR(err, USAGE, EINVAL, "'%s' is bad", value);
    }
    snprintf(ctx->text, sizeof(ctx->text), "%s", value);
    return 0;
}

static int set_many(void *opaque, const char *value, struct err *err)
{
    (void)value;
    (void)err;
    ((struct ctx *)opaque)->many++;
    return 0;
}

static int set_flag(void *opaque, const char *value, struct err *err)
{
    (void)err;
    assert_null(value);
    ((struct ctx *)opaque)->flag = true;
    return 0;
}

static int set_argument(void *opaque, const char *value, struct err *err)
{
    struct ctx *ctx = opaque;

    (void)err;
    snprintf(ctx->argument, sizeof(ctx->argument), "%s", value);
    return 0;
}

static const struct cli_option options[] = {
    {"text", "TEXT", "A text.", false, set_text},
    {"many", "X", "Several.", true, set_many},
    {"flag", NULL, "A flag.", false, set_flag},
    {.name = NULL},
};
static const struct cli_command cmd = {.name = "cmd",
                                       .arguments = "[ARG]",
                                       .summary = "Tests.",
                                       .options = options,
                                       .max_arguments = 1,
                                       .set_argument = set_argument};
const struct cli_command *const cli_commands[] = {&cmd, NULL};

static char output[4096]; /* what the parser printed on stderr */

/* Arguments are one string, separated by blanks. */
static enum cli_parsed parse(struct ctx *ctx, const char *line)
{
    char copy[256], *argv[16], *save = NULL;
    int argc = 0;

    memset(ctx, 0, sizeof(*ctx));
    snprintf(copy, sizeof(copy), "cmd %s", line);
    for (char *p = strtok_r(copy, " ", &save); p != NULL; p = strtok_r(NULL, " ", &save)) {
        argv[argc++] = p;
    }
    fflush(stderr);
    int saved = dup(STDERR_FILENO), pipe_fd[2];
    assert_int_equal(pipe2(pipe_fd, O_CLOEXEC | O_NONBLOCK), 0);
    dup2(pipe_fd[1], STDERR_FILENO);
    enum cli_parsed r = cli_parse(&cmd, argc, argv, ctx);
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    ssize_t n = read(pipe_fd[0], output, sizeof(output) - 1);
    output[n > 0 ? n : 0] = '\0';
    close(saved);
    close(pipe_fd[0]);
    close(pipe_fd[1]);
    return r;
}

static void both_forms_of_values(void **state)
{
    (void)state;
    struct ctx ctx;

    assert_int_equal(parse(&ctx, "--text=a --flag x --many 1 --many=2"), CLI_PARSED);
    assert_string_equal(ctx.text, "a");
    assert_string_equal(ctx.argument, "x");
    assert_int_equal(ctx.many, 2);
    assert_true(ctx.flag);
    assert_int_equal(parse(&ctx, "--text --flag"), CLI_PARSED); /* a value may look like one */
    assert_string_equal(ctx.text, "--flag");
    assert_int_equal(parse(&ctx, "-- --text"), CLI_PARSED);
    assert_string_equal(ctx.argument, "--text");
    assert_int_equal(parse(&ctx, "-"), CLI_PARSED);
    assert_string_equal(ctx.argument, "-");
}

static void refusals_say_what_is_right(void **state)
{
    (void)state;
    static const struct {
        const char *line, *says;
    } cases[] = {
        {"--text", "--text wants a value: --text TEXT"},
        {"--text bad", "--text: 'bad' is bad"},
        {"--text a --text b", "--text is given twice"},
        {"--flag=1", "--flag takes no value, not even '1'"},
        {"--tex a", "did you mean --text?"},
        {"--completely-else", "'viv cmd --help' lists"},
        {"-x", "after two dashes"},
        {"a b", "unexpected argument 'b'"},
        {"--", NULL},
        {"--=x", "unknown option --:"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ctx ctx;
        enum cli_parsed want = cases[i].says != NULL ? CLI_PARSED_BAD : CLI_PARSED;
        assert_int_equal(parse(&ctx, cases[i].line), want);
        if (cases[i].says != NULL) {
            assert_non_null(strstr(output, cases[i].says));
            assert_int_equal(strncmp(output, "viv cmd: ", 9), 0);
            assert_ptr_equal(strchr(output, '\n'), output + strlen(output) - 1);
        }
    }
}

static void lists_with_commas(void **state)
{
    (void)state;
    const char *text = "a,,b,c=d,,e,,,f,";
    static const char *const want[] = {"a,b", "c=d,e,", "f"};

    for (size_t i = 0; i < 3; i++) {
        _cleanup_free_ char *part = cli_next_part(&text);
        assert_string_equal(part, want[i]);
    }
    assert_null(cli_next_part(&text));
    text = ",x";
    _cleanup_free_ char *empty = cli_next_part(&text);
    assert_string_equal(empty, "");
}

static void switches(void **state)
{
    (void)state;
    bool on = false;

    assert_int_equal(cli_parse_switch("on", &on, NULL), 0);
    assert_true(on);
    assert_int_equal(cli_parse_switch("false", &on, NULL), 0);
    assert_false(on);
    assert_int_equal(cli_parse_switch("1", &on, NULL), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_forms_of_values),
        cmocka_unit_test(refusals_say_what_is_right),
        cmocka_unit_test(lists_with_commas),
        cmocka_unit_test(switches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
