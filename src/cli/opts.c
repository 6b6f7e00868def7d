/* Options of the command line by table: parsing, help texts, messages (cli.h). */
#include "cli/cli.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define HELP_WIDTH  80
#define HELP_INDENT 4

static const struct cli_option help_option = {.name = "help", .help = "Shows this text."};

static const struct cli_option *find_option(const struct cli_command *cmd, const char *name,
                                            size_t len)
{
    if (len == 4 && strncmp(name, "help", len) == 0) {
        return &help_option;
    }
    for (const struct cli_option *o = cmd->options; o->name != NULL; o++) {
        if (strlen(o->name) == len && strncmp(o->name, name, len) == 0) {
            return o;
        }
    }
    return NULL;
}

/* Differing letters of two short words, insertions and deletions included. */
static unsigned distance(const char *a, size_t a_len, const char *b)
{
    unsigned row[33];
    size_t b_len = strlen(b);

    if (a_len > 32 || b_len > 32) {
        return 99;
    }
    for (size_t j = 0; j <= b_len; j++) {
        row[j] = (unsigned)j;
    }
    for (size_t i = 1; i <= a_len; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b_len; j++) {
            unsigned change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            unsigned step = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            row[j] = change < step ? change : step;
        }
    }
    return row[b_len];
}

static int unknown_option(const struct cli_command *cmd, const char *name, size_t len,
                          struct err *err)
{
    const struct cli_option *best = NULL;
    unsigned best_distance = 3;

    for (const struct cli_option *o = cmd->options; o->name != NULL; o++) {
        unsigned d = distance(name, len, o->name);
        if (d < best_distance) {
            best_distance = d;
            best = o;
        }
    }
    if (best != NULL) {
        return ERR(err, USAGE, EINVAL, "unknown option --%.*s: did you mean --%s?",
                   (int)(len > 60 ? 60 : len), name, best->name);
    }
    return ERR(err, USAGE, EINVAL, "unknown option --%.*s: 'viv %s --help' lists what there is",
               (int)(len > 60 ? 60 : len), name, cmd->name);
}

struct parse {
    const struct cli_command *cmd;
    void *ctx;
    int argc, at;
    char **argv;
    bool only_arguments;
    size_t n_arguments;
    unsigned long given; /* bit per option of the table */
};

static int set_option(struct parse *p, const struct cli_option *o, const char *value,
                      struct err *err)
{
    unsigned long bit = 1UL << (o - p->cmd->options);

    if (!o->repeats && (p->given & bit) != 0) {
        return ERR(err, USAGE, EINVAL, "--%s is given twice", o->name);
    }
    p->given |= bit;
    int r = o->set(p->ctx, value, err);
    if (r < 0) {
        err_prefix(err, "--%s", o->name);
        err->code = err->code == ERR_SPEC_BAD ? ERR_USAGE : err->code;
    }
    return r;
}

/* One of argv; an option may take the next one as well. 1: help was asked for. */
static int parse_one(struct parse *p, struct err *err)
{
    const char *arg = p->argv[p->at++];

    if (p->only_arguments || arg[0] != '-' || arg[1] == '\0') {
        if (p->n_arguments++ == p->cmd->max_arguments) {
            return ERR(err, USAGE, EINVAL, "unexpected argument '%.100s'; usage: viv %s%s%s",
                       arg, p->cmd->name, p->cmd->options->name != NULL ? " [OPTION]... " : " ",
                       p->cmd->arguments);
        }
        return p->cmd->set_argument(p->ctx, arg, err);
    }
    if (strcmp(arg, "--") == 0) {
        p->only_arguments = true;
        return 0;
    }
    if (strcmp(arg, "-h") == 0) {
        return 1;
    }
    if (arg[1] != '-') {
        return ERR(err, USAGE, EINVAL,
                   "unknown option %.60s: options are words after two dashes", arg);
    }
    const char *name = arg + 2;
    size_t len = strcspn(name, "=");
    const char *value = name[len] == '=' ? name + len + 1 : NULL;
    const struct cli_option *o = find_option(p->cmd, name, len);
    if (o == NULL) {
        return unknown_option(p->cmd, name, len, err);
    }
    if (o->value == NULL && value != NULL) {
        return ERR(err, USAGE, EINVAL, "--%s takes no value, not even '%.60s'", o->name, value);
    }
    if (o == &help_option) {
        return 1;
    }
    if (o->value != NULL && value == NULL) {
        if (p->at == p->argc) {
            return ERR(err, USAGE, EINVAL, "--%s wants a value: --%s %s", o->name, o->name,
                       o->value);
        }
        value = p->argv[p->at++];
    }
    return set_option(p, o, value, err);
}

enum cli_parsed cli_parse(const struct cli_command *cmd, int argc, char **argv, void *ctx)
{
    struct parse p = {.cmd = cmd, .ctx = ctx, .argc = argc, .at = 1, .argv = argv};

    while (p.at < argc) {
        struct err err = {0};
        int r = parse_one(&p, &err);
        if (r > 0) {
            cli_print_help(cmd);
            return CLI_PARSED_HELP;
        }
        if (r < 0) {
            cli_fail(cmd, &err);
            return CLI_PARSED_BAD;
        }
    }
    return CLI_PARSED;
}

/* Prints text wrapped at words, the first line continuing at column `at`, others at `indent`.
 */
static void print_wrapped(const char *text, size_t at, size_t indent)
{
    while (*text != '\0') {
        size_t word = strcspn(text, " \n");
        if (at > indent && at + 1 + word > HELP_WIDTH) {
            printf("\n%*s", (int)indent, "");
            at = indent;
        } else if (at > indent) {
            putchar(' ');
            at++;
        }
        printf("%.*s", (int)word, text);
        at += word;
        text += word;
        if (*text == '\n') {
            printf("\n%*s", (int)indent, "");
            at = indent;
        }
        if (*text != '\0') {
            text++;
        }
    }
    putchar('\n');
}

static void print_option(const struct cli_option *o)
{
    printf("  --%s%s%s%s\n%*s", o->name, o->value != NULL ? " " : "",
           o->value != NULL ? o->value : "", o->repeats ? "   (may be repeated)" : "",
           2 * HELP_INDENT, "");
    print_wrapped(o->help, (size_t)2 * HELP_INDENT, (size_t)2 * HELP_INDENT);
}

void cli_print_help(const struct cli_command *cmd)
{
    printf("Usage: viv %s%s%s%s\n\n", cmd->name,
           cmd->options->name != NULL ? " [OPTION]..." : "",
           cmd->arguments[0] != '\0' ? " " : "", cmd->arguments);
    print_wrapped(cmd->summary, 0, 0);
    printf("\nOptions:\n");
    for (const struct cli_option *o = cmd->options; o->name != NULL; o++) {
        print_option(o);
    }
    print_option(&help_option);
    if (cmd->details != NULL) {
        printf("\n");
        print_wrapped(cmd->details, 0, 0);
    }
}

void cli_print_commands(void)
{
    printf("Usage: viv COMMAND [OPTION]... [ARGUMENT]...\n\n"
           "Runs virtual machines, with or without hardware virtualization.\n\nCommands:\n");
    for (const struct cli_command *const *c = cli_commands; *c != NULL; c++) {
        printf("  %-10s", (*c)->name);
        print_wrapped((*c)->summary, 12, 12);
    }
    printf("\n'viv COMMAND --help' tells more about each.\n");
}

int cli_fail(const struct cli_command *cmd, const struct err *err)
{
    fprintf(stderr, "viv%s%s: %s\n", cmd != NULL ? " " : "", cmd != NULL ? cmd->name : "",
            err->text);
    return err_exit_status(err->code);
}

int cli_finish_stdout(const struct cli_command *cmd, int status)
{
    if (fflush(stdout) == 0 && ferror(stdout) == 0) {
        return status;
    }
    struct err err;
    int e = errno;
    ERR(&err, IO, e, "standard output: %s", strerror(e));
    return cli_fail(cmd, &err);
}

int cli_parse_switch(const char *text, bool *ret_on, struct err *err)
{
    static const char *const words[] = {"off", "on", "no", "yes", "false", "true"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(text, words[i]) == 0) {
            *ret_on = (i & 1) != 0;
            return 0;
        }
    }
    return ERR(err, USAGE, EINVAL, "'%.40s' is neither on nor off", text);
}

char *cli_next_part(const char **text)
{
    const char *p = *text;

    if (*p == '\0') {
        return NULL;
    }
    char *part = malloc(strlen(p) + 1);
    size_t n = 0;
    while (part != NULL && *p != '\0') {
        if (*p == ',') {
            p++;
            if (*p != ',') {
                break;
            }
        }
        part[n++] = *p++;
    }
    if (part != NULL) {
        part[n] = '\0';
        *text = p;
    }
    return part;
}

char *cli_find_program(const char *name, struct err *err)
{
    char self[4096], *path;
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    int dir_len = 0;

    for (ssize_t i = 0; i < n; i++) {
        if (self[i] == '/') {
            dir_len = (int)i;
        }
    }
    if (n > 0 && asprintf(&path, "%.*s/%s", dir_len, self, name) >= 0) {
        if (access(path, X_OK) == 0) {
            return path;
        }
        free(path);
    }
    if (asprintf(&path, "%s/%s", VIV_LIBEXECDIR, name) >= 0) {
        if (access(path, X_OK) == 0) {
            return path;
        }
        free(path);
    }
    ERR(err, NOT_FOUND, ENOENT, "%s is neither beside this program (%.*s) nor in %s", name,
        dir_len, n > 0 ? self : "", VIV_LIBEXECDIR);
    return NULL;
}
