/*
 * viv run: makes a VM spec of its options and becomes viv-vmm, which gets the spec in a memfd.
 * Opens nothing itself but an IMAGE without --kernel, to see whether that is a kernel.
 */
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json_out.h"
#include "base/parse.h"
#include "cli/cli.h"
#include "cli/run_default.h"
#include "machine/machine_config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

struct run_ctx {
    struct machine_config cfg;
    char *image;
    bool net_given, print_spec;
    uint64_t start_ns; /* for --metrics: when this program began */
};

static int set_string(char **field, const char *value, struct err *err)
{
    char *copy = strdup(value);
    if (copy == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory");
    }
    free(*field);
    *field = copy;
    return 0;
}

static int set_path(char **field, const char *value, struct err *err)
{
    if (value[0] == '\0') {
        return ERR(err, USAGE, EINVAL, "an empty file name");
    }
    return set_string(field, value, err);
}

static int set_name(void *opaque, const char *value, struct err *err)
{
    return set_string(&((struct run_ctx *)opaque)->cfg.name, value, err);
}

static int set_cpus(void *opaque, const char *value, struct err *err)
{
    uint64_t n;
    int r = parse_uint(value, 1, MACHINE_CPUS_MAX, &n);

    if (r < 0) {
        return ERR(err, USAGE, -r, "'%.40s' is not a number from 1 to %u", value,
                   MACHINE_CPUS_MAX);
    }
    ((struct run_ctx *)opaque)->cfg.n_cpus = (unsigned)n;
    return 0;
}

static int set_memory(void *opaque, const char *value, struct err *err)
{
    uint64_t bytes;
    int r = parse_size(value, MACHINE_MEMORY_MIN, MACHINE_MEMORY_MAX, &bytes);

    if (r == -EINVAL) {
        return ERR(err, USAGE, EINVAL,
                   "'%.40s' is not a size: want a number and a unit, as in "
                   "512M or 2G",
                   value);
    }
    if (r < 0) {
        return ERR(err, USAGE, ERANGE, "'%.40s' is out of range: want 2M to 1T", value);
    }
    if (bytes % 4096 != 0) {
        return ERR(err, USAGE, EINVAL, "'%.40s' is not a multiple of 4K", value);
    }
    ((struct run_ctx *)opaque)->cfg.memory_bytes = bytes;
    return 0;
}

static int set_engine(void *opaque, const char *value, struct err *err)
{
    static const char *const names[] = {"auto", "kvm", "soft", "interp"};
    size_t i = 0;
    while (i < ARRAY_LEN(names) && strcmp(value, names[i]) != 0) {
        i++;
    }
    if (i == ARRAY_LEN(names)) {
        return ERR(err, USAGE, EINVAL, "'%.40s': want auto, kvm, soft or interp", value);
    }
    return set_string(&((struct run_ctx *)opaque)->cfg.engine, value, err);
}

static int set_kernel(void *opaque, const char *value, struct err *err)
{
    return set_path(&((struct run_ctx *)opaque)->cfg.kernel, value, err);
}

static int set_initrd(void *opaque, const char *value, struct err *err)
{
    return set_path(&((struct run_ctx *)opaque)->cfg.initrd, value, err);
}

static int set_cmdline(void *opaque, const char *value, struct err *err)
{
    return set_string(&((struct run_ctx *)opaque)->cfg.cmdline, value, err);
}

static int set_metrics(void *opaque, const char *value, struct err *err)
{
    return set_path(&((struct run_ctx *)opaque)->cfg.metrics_path, value, err);
}

static int set_console(void *opaque, const char *value, struct err *err)
{
    struct machine_config *cfg = &((struct run_ctx *)opaque)->cfg;

    if (strcmp(value, "stdio") == 0) {
        cfg->console = MACHINE_CONSOLE_STDIO;
    } else if (strcmp(value, "none") == 0) {
        cfg->console = MACHINE_CONSOLE_NONE;
    } else {
        cfg->console = MACHINE_CONSOLE_FILE;
        return set_path(&cfg->console_path, value, err);
    }
    return 0;
}

static int set_test_device(void *opaque, const char *value, struct err *err)
{
    (void)value;
    (void)err;
    ((struct run_ctx *)opaque)->cfg.test_device = true;
    return 0;
}

static int set_print_spec(void *opaque, const char *value, struct err *err)
{
    (void)value;
    (void)err;
    ((struct run_ctx *)opaque)->print_spec = true;
    return 0;
}

static int set_disk_part(struct machine_disk *disk, const char *part, struct err *err)
{
    if (strncmp(part, "readonly=", 9) == 0) {
        int r = cli_parse_switch(part + 9, &disk->readonly, err);
        if (r < 0) {
            err_prefix(err, "readonly");
        }
        return r;
    }
    if (strncmp(part, "serial=", 7) == 0) {
        return set_string(&disk->serial, part + 7, err);
    }
    return ERR(
        err, USAGE, EINVAL,
        "'%.60s': want readonly=on or serial=TEXT after the path (a comma in the path is "
        "written twice)",
        part);
}

static int set_disk(void *opaque, const char *value, struct err *err)
{
    struct machine_config *cfg = &((struct run_ctx *)opaque)->cfg;

    if (cfg->n_disks == MACHINE_DISKS_MAX) {
        return ERR(err, USAGE, ERANGE, "more than %u disks", MACHINE_DISKS_MAX);
    }
    struct machine_disk *disk = &cfg->disks[cfg->n_disks];
    disk->path = cli_next_part(&value);
    if (disk->path == NULL || disk->path[0] == '\0') {
        return ERR(err, USAGE, EINVAL, "an empty file name");
    }
    cfg->n_disks++;
    for (;;) {
        _cleanup_free_ char *part = cli_next_part(&value);
        if (part == NULL) {
            return 0;
        }
        int r = set_disk_part(disk, part, err);
        if (r < 0) {
            return r;
        }
    }
}

static int add_rule(struct machine_net *net, const char *text, struct err *err)
{
    struct hostfwd_rule rule;
    int r = hostfwd_parse(&rule, text, err);

    if (r < 0) {
        return r;
    }
    if (net->n_rules == HOSTFWD_MAX_RULES) {
        return ERR(err, USAGE, ERANGE, "more than %d hostfwd rules", HOSTFWD_MAX_RULES);
    }
    struct hostfwd_rule *rules = reallocarray(net->rules, net->n_rules + 1, sizeof(rule));
    if (rules == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory");
    }
    rules[net->n_rules++] = rule;
    net->rules = rules;
    return 0;
}

static int set_net_part(struct machine_net *net, const char *part, struct err *err)
{
    if (strncmp(part, "hostfwd=", 8) == 0) {
        return add_rule(net, part + 8, err);
    }
    if (strncmp(part, "mac=", 4) == 0) {
        if (machine_mac_parse(part + 4, net->mac) < 0) {
            return ERR(err, USAGE, EINVAL,
                       "mac '%.40s': want six hexadecimal bytes with colons, not a multicast "
                       "address, as in 02:56:49:56:00:01",
                       part + 4);
        }
        return 0;
    }
    return ERR(err, USAGE, EINVAL, "'%.60s': want hostfwd=tcp:ADDR:PORT-:PORT or mac=ADDRESS",
               part);
}

static int set_net(void *opaque, const char *value, struct err *err)
{
    struct run_ctx *ctx = opaque;
    struct machine_config *cfg = &ctx->cfg;
    _cleanup_free_ char *kind = cli_next_part(&value);

    ctx->net_given = true;
    if (kind != NULL && strcmp(kind, "none") == 0 && *value == '\0') {
        return 0;
    }
    if (kind == NULL || strcmp(kind, "user") != 0) {
        return ERR(err, USAGE, EINVAL, "'%.40s': want user[,hostfwd=...] or none",
                   kind != NULL ? kind : "");
    }
    if (cfg->n_nets == MACHINE_NETS_MAX) {
        return ERR(err, USAGE, ERANGE, "more than %u network cards", MACHINE_NETS_MAX);
    }
    struct machine_net *net = &cfg->nets[cfg->n_nets];
    net->kind = MACHINE_NET_USER;
    machine_mac_default(cfg->n_nets, net->mac);
    cfg->n_nets++;
    for (;;) {
        _cleanup_free_ char *part = cli_next_part(&value);
        if (part == NULL) {
            return 0;
        }
        int r = set_net_part(net, part, err);
        if (r < 0) {
            return r;
        }
    }
}

static int set_image(void *opaque, const char *value, struct err *err)
{
    return set_path(&((struct run_ctx *)opaque)->image, value, err);
}

static const struct cli_option options[] = {
    {"name", "NAME", "What the VM is called in messages. Default: vm.", false, set_name},
    {"cpus", "N", "Virtual CPUs, 1 to 64. Default: 1.", false, set_cpus},
    {"memory", "SIZE", "RAM, as in 512M or 2G; 2M to 1T. Default: 512M.", false, set_memory},
    {"engine", "auto|kvm|soft|interp",
     "What executes the guest's instructions. auto measures KVM and takes it if it runs at "
     "hardware speed, otherwise the software engine. interp is the software engine without "
     "its translator: slow, the reference. Default: auto.",
     false, set_engine},
    {"kernel", "FILE", "Starts this kernel: Linux bzImage, ELF (64-bit or PVH), multiboot.",
     false, set_kernel},
    {"initrd", "FILE", "Initial RAM disk, or a multiboot module, for --kernel.", false,
     set_initrd},
    {"cmdline", "TEXT", "Command line of the kernel. Default: console=ttyS0 for Linux.", false,
     set_cmdline},
    {"disk", "PATH[,readonly=on][,serial=TEXT]",
     "Adds a virtio disk. PATH is a raw image or a block device; a comma in it is written "
     "twice.",
     true, set_disk},
    {"net", "user[,hostfwd=tcp:ADDR:PORT-:PORT][,mac=MAC]|none",
     "Adds a network card on user-mode networking, with ports of the host forwarded to the "
     "guest; "
     "hostfwd may be repeated. Default: user.",
     true, set_net},
    {"console", "stdio|FILE|none",
     "Where the guest's console goes. On a terminal, Ctrl-A X ends the VM and Ctrl-A H helps. "
     "Default: stdio.",
     false, set_console},
    {"metrics", "FILE", "Writes what was measured as JSON when the VM ends.", false,
     set_metrics},
    {"test-device", NULL, "Adds the PC test device that kvm-unit-tests use.", false,
     set_test_device},
    {"print-spec", NULL, "Prints the VM spec (JSON) and runs nothing.", false, set_print_spec},
    {.name = NULL},
};

/* What IMAGE, --kernel and neither of them mean. */
static int choose_boot(struct run_ctx *ctx, struct err *err)
{
    struct machine_config *cfg = &ctx->cfg;

    if (ctx->image != NULL && cfg->kernel == NULL) {
        int r = run_image_is_kernel(ctx->image, err);
        if (r < 0) {
            return r;
        }
        cfg->kernel = take_ptr(&ctx->image);
    } else if (ctx->image != NULL) {
        if (cfg->n_disks == MACHINE_DISKS_MAX) {
            return ERR(err, USAGE, ERANGE, "more than %u disks", MACHINE_DISKS_MAX);
        }
        for (unsigned i = cfg->n_disks++; i > 0; i--) { /* the first disk */
            cfg->disks[i] = cfg->disks[i - 1];
        }
        cfg->disks[0] = (struct machine_disk){.path = take_ptr(&ctx->image)};
    } else if (cfg->kernel == NULL) {
        if (cfg->initrd != NULL) {
            return ERR(err, USAGE, EINVAL, "--initrd belongs to --kernel, which is missing");
        }
        return run_default_guest(cfg, err);
    }
    return 0;
}

static int complete(struct run_ctx *ctx, struct err *err)
{
    int r = choose_boot(ctx, err);

    if (r < 0) {
        return r;
    }
    if (!ctx->net_given) {
        ctx->cfg.nets[0].kind = MACHINE_NET_USER;
        machine_mac_default(0, ctx->cfg.nets[0].mac);
        ctx->cfg.n_nets = 1;
    }
    r = machine_config_check(&ctx->cfg, err);
    if (r < 0 && err->code == ERR_SPEC_BAD) {
        err->code = ERR_USAGE;
    }
    return r;
}

/* Returns only on failure. The descriptor of the spec stays open across exec by intention. */
static int become_vmm(const char *spec, size_t len, uint64_t start_ns, struct err *err)
{
    _cleanup_free_ char *program = cli_find_program("viv-vmm", err);
    char fd_text[16], start_text[24];

    if (program == NULL) {
        return -ENOENT;
    }
    int fd = memfd_create("vivarium-spec", MFD_ALLOW_SEALING);
    if (fd < 0 || write(fd, spec, len) != (ssize_t)len) {
        int e = errno;
        return ERR(err, IO, e, "cannot write the VM spec: %s", strerror(e));
    }
    fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    snprintf(fd_text, sizeof(fd_text), "%d", fd);
    snprintf(start_text, sizeof(start_text), "%" PRIu64, start_ns);
    execl(program, "viv-vmm", "--spec-fd", fd_text, "--start-ns", start_text, (char *)NULL);
    int e = errno;
    return ERR(err, IO, e, "%s: %s", program, strerror(e));
}

static int run_or_print(const struct cli_command *cmd, struct run_ctx *ctx)
{
    struct json_out out;
    struct err err;
    size_t len;
    int status = CLI_EXIT_OK;

    if (complete(ctx, &err) < 0) {
        return cli_fail(cmd, &err);
    }
    json_out_init(&out, !ctx->print_spec);
    machine_config_write(&ctx->cfg, &out);
    const char *spec = json_out_finish(&out, &len);
    if (spec == NULL) {
        ERR(&err, NO_MEMORY, ENOMEM, "no memory for the VM spec");
        status = cli_fail(cmd, &err);
    } else if (ctx->print_spec) {
        fputs(spec, stdout);
        status = cli_finish_stdout(cmd, CLI_EXIT_OK);
    } else if (become_vmm(spec, len, ctx->start_ns, &err) < 0) {
        status = cli_fail(cmd, &err);
    }
    json_out_done(&out);
    return status;
}

static int run_main(const struct cli_command *cmd, int argc, char **argv)
{
    struct run_ctx ctx = {.start_ns = clock_now_ns()};
    struct err err;
    int status = CLI_EXIT_OK;

    if (machine_config_init(&ctx.cfg, &err) < 0) {
        return cli_fail(cmd, &err);
    }
    switch (cli_parse(cmd, argc, argv, &ctx)) {
    case CLI_PARSED_BAD: status = CLI_EXIT_USAGE; break;
    case CLI_PARSED_HELP: status = cli_finish_stdout(cmd, CLI_EXIT_OK); break;
    case CLI_PARSED: status = run_or_print(cmd, &ctx); break;
    }
    free(ctx.image);
    machine_config_done(&ctx.cfg);
    return status;
}

const struct cli_command cmd_run = {
    .name = "run",
    .arguments = "[IMAGE]",
    .summary = "Starts a virtual machine and connects the terminal to its console.",
    .details =
        "With neither IMAGE nor --kernel, the default guest is started: a stock Debian kernel "
        "with a small userland, made by 'make guest'.\n\n"
        "With --kernel, IMAGE is the first disk. Without, IMAGE must itself be a kernel: there "
        "is "
        "no firmware yet that could start a disk.\n\n"
        "Exit status: 0 the guest powered off, 1 an error on this side, 2 wrong usage, 3 the "
        "guest crashed. The first SIGTERM presses the guest's power button, a second one ends "
        "the VM.",
    .options = options,
    .max_arguments = 1,
    .set_argument = set_image,
    .main = run_main,
};
