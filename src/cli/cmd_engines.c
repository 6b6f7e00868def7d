/*
 * viv engines [--json]: what this host offers, measured. The engines live in viv-vmm, which
 * this program becomes, so that viv itself stays small.
 */
#include "base/cleanup.h"
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

struct engines_ctx {
    bool json;
};

static int set_json(void *opaque, const char *value, struct err *err)
{
    (void)value;
    (void)err;
    ((struct engines_ctx *)opaque)->json = true;
    return 0;
}

static int engines_main(const struct cli_command *cmd, int argc, char **argv)
{
    struct engines_ctx ctx = {0};
    struct err err;

    switch (cli_parse(cmd, argc, argv, &ctx)) {
    case CLI_PARSED_BAD: return CLI_EXIT_USAGE;
    case CLI_PARSED_HELP: return cli_finish_stdout(cmd, CLI_EXIT_OK);
    case CLI_PARSED: break;
    }
    _cleanup_free_ char *program = cli_find_program("viv-vmm", &err);
    if (program == NULL) {
        return cli_fail(cmd, &err);
    }
    execl(program, "viv-vmm", "--engines", ctx.json ? "json" : "text", (char *)NULL);
    int e = errno;
    ERR(&err, IO, e, "%s: %s", program, strerror(e));
    return cli_fail(cmd, &err);
}

static const struct cli_option options[] = {
    {.name = "json", .help = "Prints a JSON array, an object per engine.", .set = set_json},
    {.name = NULL},
};

const struct cli_command cmd_engines = {
    .name = "engines",
    .arguments = "",
    .summary = "Measures which CPU engines this host offers, and how fast they are.",
    .options = options,
    .main = engines_main,
};
