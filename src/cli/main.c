/*
 * viv, the command line of Vivarium. A table of commands; each is one file. Exit status: 0
 * success, 1 an error of ours, 2 usage, and what the command says.
 */
#include "base/stdfds.h"
#include "cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

const struct cli_command *const cli_commands[] = {&cmd_run, &cmd_engines, &cmd_version,
                                                  &cmd_help, NULL};

int main(int argc, char **argv)
{
    static const char *const aliases[][2] = {
        {"--version", "version"}, {"--help", "help"}, {"-h", "help"}};
    struct err err;

    stdfds_fill();
    /* A reader that went away is an error of write, told like any other. */
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        ERR(&err, USAGE, EINVAL, "want a command: run, engines, version or help");
        return cli_fail(NULL, &err);
    }
    const char *name = argv[1];
    for (size_t i = 0; i < sizeof(aliases) / sizeof(aliases[0]); i++) {
        if (strcmp(name, aliases[i][0]) == 0) {
            name = aliases[i][1];
        }
    }
    for (const struct cli_command *const *c = cli_commands; *c != NULL; c++) {
        if (strcmp(name, (*c)->name) == 0) {
            return (*c)->main(*c, argc - 1, argv + 1);
        }
    }
    ERR(&err, USAGE, EINVAL, "unknown command '%.60s': want run, engines, version or help",
        name);
    return cli_fail(NULL, &err);
}
