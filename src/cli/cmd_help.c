/* viv help [COMMAND]: the list of commands, or one command's help. */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

struct help_ctx {
    const struct cli_command *about;
};

static int set_about(void *opaque, const char *value, struct err *err)
{
    struct help_ctx *ctx = opaque;

    for (const struct cli_command *const *c = cli_commands; *c != NULL; c++) {
        if (strcmp(value, (*c)->name) == 0) {
            ctx->about = *c;
            return 0;
        }
    }
    return ERR(err, USAGE, EINVAL, "no command '%.60s': 'viv help' lists them", value);
}

static int help_main(const struct cli_command *cmd, int argc, char **argv)
{
    struct help_ctx ctx = {0};

    switch (cli_parse(cmd, argc, argv, &ctx)) {
    case CLI_PARSED_BAD: return CLI_EXIT_USAGE;
    case CLI_PARSED_HELP: return cli_finish_stdout(cmd, CLI_EXIT_OK);
    case CLI_PARSED: break;
    }
    if (ctx.about != NULL) {
        cli_print_help(ctx.about);
    } else {
        cli_print_commands();
    }
    return cli_finish_stdout(cmd, CLI_EXIT_OK);
}

static const struct cli_option options[] = {{.name = NULL}};

const struct cli_command cmd_help = {
    .name = "help",
    .arguments = "[COMMAND]",
    .summary = "Shows what commands there are, or the help of one.",
    .options = options,
    .max_arguments = 1,
    .set_argument = set_about,
    .main = help_main,
};
