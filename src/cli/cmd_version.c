/* viv version [--json] */
#include "base/json_out.h"
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>

struct version_ctx {
    bool json;
};

static int set_json(void *opaque, const char *value, struct err *err)
{
    (void)value;
    (void)err;
    ((struct version_ctx *)opaque)->json = true;
    return 0;
}

static int print_json(const struct cli_command *cmd)
{
    struct json_out out;
    struct err err;
    size_t len;

    json_out_init(&out, false);
    json_object_begin(&out, NULL);
    json_put_string(&out, "name", "vivarium");
    json_put_string(&out, "version", VIV_VERSION);
    json_put_string(&out, "compiler", __VERSION__);
    json_object_end(&out);
    const char *text = json_out_finish(&out, &len);
    int status = CLI_EXIT_OK;
    if (text != NULL) {
        fputs(text, stdout);
    } else {
        ERR(&err, NO_MEMORY, ENOMEM, "no memory");
        status = cli_fail(cmd, &err);
    }
    json_out_done(&out);
    return status;
}

static int version_main(const struct cli_command *cmd, int argc, char **argv)
{
    struct version_ctx ctx = {0};
    int status = CLI_EXIT_OK;

    switch (cli_parse(cmd, argc, argv, &ctx)) {
    case CLI_PARSED_BAD: return CLI_EXIT_USAGE;
    case CLI_PARSED_HELP: return cli_finish_stdout(cmd, CLI_EXIT_OK);
    case CLI_PARSED: break;
    }
    if (ctx.json) {
        status = print_json(cmd);
    } else {
        printf("vivarium %s\n", VIV_VERSION);
    }
    return cli_finish_stdout(cmd, status);
}

static const struct cli_option options[] = {
    {.name = "json", .help = "Prints a JSON object.", .set = set_json},
    {.name = NULL},
};

const struct cli_command cmd_version = {
    .name = "version",
    .arguments = "",
    .summary = "Prints the version of this program.",
    .options = options,
    .main = version_main,
};
