/*
 * The command line's own parts: commands and their options are tables, from which parsing,
 * usage texts and error messages come. A command is one file, cmd_NAME.c, and one line in
 * main.c.
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

#define CLI_EXIT_OK    0
#define CLI_EXIT_ERROR 1
#define CLI_EXIT_USAGE 2

struct cli_option {
    const char *name;  /* without the dashes */
    const char *value; /* what its argument is called in the help; NULL: it has none */
    const char *help;  /* sentences, wrapped when printed */
    bool repeats;      /* may be given several times */
    /* value is NULL for an option without one. The message need not name the option. */
    int (*set)(void *ctx, const char *value, struct err *err);
};

struct cli_command {
    const char *name;
    const char *arguments;            /* positional ones in the usage line, "" if none */
    const char *summary;              /* one line in the list of commands */
    const char *details;              /* paragraphs after the options; may be NULL */
    const struct cli_option *options; /* ends with a NULL name; --help is added */
    size_t max_arguments;
    int (*set_argument)(void *ctx, const char *value, struct err *err);
    /* argv[0] is the command's name. Returns the exit status. */
    int (*main)(const struct cli_command *cmd, int argc, char **argv);
};

extern const struct cli_command cmd_run, cmd_engines, cmd_version, cmd_help;

/* All commands, NULL-terminated: main.c. */
extern const struct cli_command *const cli_commands[];

enum cli_parsed { CLI_PARSED, CLI_PARSED_HELP, CLI_PARSED_BAD };

/* Applies argv to ctx. HELP: the help was printed. BAD: one line on stderr says what is wrong.
 */
enum cli_parsed cli_parse(const struct cli_command *cmd, int argc, char **argv, void *ctx);

void cli_print_help(const struct cli_command *cmd);
void cli_print_commands(void);

/* Prints "viv NAME: text" on stderr and returns the exit status of the error's code. */
int cli_fail(const struct cli_command *cmd, const struct err *err);
/* status, or CLI_EXIT_ERROR with a message when standard output took not all of it. */
int cli_finish_stdout(const struct cli_command *cmd, int status);

/* "on" or "off" (yes, no, true, false). */
int cli_parse_switch(const char *text, bool *ret_on, struct err *err);

/* The next part of "a,b=c,..." (",," is a comma inside a part) as a new string, NULL at the end
 * or when memory ran out. *text moves on. */
char *cli_next_part(const char **text);

/* Path of one of our own programs: beside this one, or in the libexec folder. NULL: err filled.
 */
char *cli_find_program(const char *name, struct err *err);
