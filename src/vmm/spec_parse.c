/*
 * VM spec parser: jansson checks the JSON (RFC 8259, UTF-8, no doubled keys, bounded depth),
 * tables of keys check the rest. A table entry is a key, the function that takes its value, and
 * whether it must be there.
 */
#include "vmm/spec_parse.h"

#include "base/cleanup.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define PATH_MAX_LEN 96

/* Where a value is, for messages: "disks[1].readonly". */
struct at {
    char path[PATH_MAX_LEN];
};

struct key {
    const char *name;
    int (*set)(void *target, const json_t *value, const struct at *at, struct err *err);
    bool required;
};

static struct at at_key(const struct at *parent, const char *key)
{
    struct at at;

    snprintf(at.path, sizeof(at.path), "%.60s%s%.32s", parent->path,
             parent->path[0] != '\0' ? "." : "", key);
    return at;
}

static struct at at_index(const struct at *parent, size_t index)
{
    struct at at;

    snprintf(at.path, sizeof(at.path), "%.60s[%zu]", parent->path, index);
    return at;
}

static int bad(struct err *err, const struct at *at, const char *want)
{
    return ERR(err, SPEC_BAD, EINVAL, "VM spec: %s: want %s", at->path, want);
}

/* Applies a table, which ends with a NULL name, to an object. */
static int parse_object(void *target, const struct key *keys, const json_t *object,
                        const struct at *at, struct err *err)
{
    const char *name;
    json_t *value;

    if (!json_is_object(object)) {
        return bad(err, at, "an object");
    }
    /* jansson's iteration wants a mutable object but changes nothing. */
    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        const struct key *k = keys;
        while (k->name != NULL && strcmp(k->name, name) != 0) {
            k++;
        }
        struct at here = at_key(at, name);
        if (k->name == NULL) {
            return ERR(err, SPEC_BAD, EINVAL, "VM spec: unknown key %s", here.path);
        }
        int r = k->set(target, value, &here, err);
        if (r < 0) {
            return r;
        }
    }
    for (const struct key *k = keys; k->name != NULL; k++) {
        if (k->required && json_object_get(object, k->name) == NULL) {
            struct at here = at_key(at, k->name);
            return ERR(err, SPEC_BAD, EINVAL, "VM spec: %s is missing", here.path);
        }
    }
    return 0;
}

static int get_string(char **field, const json_t *value, const struct at *at, struct err *err)
{
    if (!json_is_string(value) ||
        strlen(json_string_value(value)) != json_string_length(value)) {
        return bad(err, at, "a string without zero bytes");
    }
    char *copy = strdup(json_string_value(value));
    if (copy == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the VM spec");
    }
    free(*field);
    *field = copy;
    return 0;
}

static int get_uint(uint64_t *ret, uint64_t min, uint64_t max, const json_t *value,
                    const struct at *at, struct err *err)
{
    char want[80];
    json_int_t v = json_is_integer(value) ? json_integer_value(value) : -1;

    if (v < 0 || (uint64_t)v < min || (uint64_t)v > max) {
        snprintf(want, sizeof(want), "an integer from %" PRIu64 " to %" PRIu64, min, max);
        return bad(err, at, want);
    }
    *ret = (uint64_t)v;
    return 0;
}

static int get_bool(bool *ret, const json_t *value, const struct at *at, struct err *err)
{
    if (!json_is_boolean(value)) {
        return bad(err, at, "true or false");
    }
    *ret = json_is_true(value);
    return 0;
}

/* The index of a string in words, which ends with NULL. */
static int get_word(unsigned *ret, const char *const *words, const json_t *value,
                    const struct at *at, struct err *err)
{
    char want[80] = "";

    for (unsigned i = 0; words[i] != NULL; i++) {
        if (json_is_string(value) && strcmp(json_string_value(value), words[i]) == 0) {
            *ret = i;
            return 0;
        }
        size_t used = strlen(want);
        snprintf(want + used, sizeof(want) - used, "%s\"%s\"", i > 0 ? " or " : "", words[i]);
    }
    return bad(err, at, want);
}

#define STRING_SETTER(name, type, field)                                                       \
    static int name(void *target, const json_t *value, const struct at *at, struct err *err)   \
    {                                                                                          \
        return get_string(&((type *)target)->field, value, at, err);                           \
    }
STRING_SETTER(set_name, struct machine_config, name)
STRING_SETTER(set_kernel, struct machine_config, kernel)
STRING_SETTER(set_initrd, struct machine_config, initrd)
STRING_SETTER(set_cmdline, struct machine_config, cmdline)
STRING_SETTER(set_console_path, struct machine_config, console_path)
STRING_SETTER(set_metrics, struct machine_config, metrics_path)
STRING_SETTER(set_disk_path, struct machine_disk, path)
STRING_SETTER(set_disk_serial, struct machine_disk, serial)
#undef STRING_SETTER

static int set_version(void *target, const json_t *value, const struct at *at, struct err *err)
{
    uint64_t version;

    (void)target;
    return get_uint(&version, MACHINE_SPEC_VERSION, MACHINE_SPEC_VERSION, value, at, err);
}

static int set_cpus(void *target, const json_t *value, const struct at *at, struct err *err)
{
    uint64_t n = 0;
    int r = get_uint(&n, 1, MACHINE_CPUS_MAX, value, at, err);

    if (r == 0) {
        ((struct machine_config *)target)->n_cpus = (unsigned)n;
    }
    return r;
}

static int set_memory(void *target, const json_t *value, const struct at *at, struct err *err)
{
    return get_uint(&((struct machine_config *)target)->memory_bytes, MACHINE_MEMORY_MIN,
                    MACHINE_MEMORY_MAX, value, at, err);
}

static int set_engine(void *target, const json_t *value, const struct at *at, struct err *err)
{
    static const char *const words[] = {"auto", "kvm", "soft", "interp", NULL};
    unsigned which;
    int r = get_word(&which, words, value, at, err);

    return r < 0 ? r : get_string(&((struct machine_config *)target)->engine, value, at, err);
}

static int set_boot(void *target, const json_t *value, const struct at *at, struct err *err)
{
    static const struct key keys[] = {
        {"kernel", set_kernel, true},
        {"initrd", set_initrd, false},
        {"cmdline", set_cmdline, false},
        {.name = NULL},
    };
    return parse_object(target, keys, value, at, err);
}

static int set_disk_readonly(void *target, const json_t *value, const struct at *at,
                             struct err *err)
{
    return get_bool(&((struct machine_disk *)target)->readonly, value, at, err);
}

static int set_disks(void *target, const json_t *value, const struct at *at, struct err *err)
{
    static const struct key keys[] = {
        {"path", set_disk_path, true},
        {"readonly", set_disk_readonly, false},
        {"serial", set_disk_serial, false},
        {.name = NULL},
    };
    struct machine_config *cfg = target;
    size_t n = json_array_size(value);

    if (!json_is_array(value) || n > MACHINE_DISKS_MAX) {
        return bad(err, at, "an array of at most 16 objects");
    }
    int r = 0;
    for (size_t i = 0; r == 0 && i < n; i++) {
        struct at here = at_index(at, i);
        cfg->n_disks = (unsigned)i + 1;
        r = parse_object(&cfg->disks[i], keys, json_array_get(value, i), &here, err);
    }
    return r;
}

static int set_net_kind(void *target, const json_t *value, const struct at *at, struct err *err)
{
    static const char *const words[] = {"none", "user", NULL};
    unsigned which = 0;
    int r = get_word(&which, words, value, at, err);

    if (r == 0) {
        ((struct machine_net *)target)->kind = (enum machine_net_kind)which;
    }
    return r;
}

static int set_net_mac(void *target, const json_t *value, const struct at *at, struct err *err)
{
    if (!json_is_string(value) ||
        machine_mac_parse(json_string_value(value), ((struct machine_net *)target)->mac) < 0) {
        return bad(err, at, "a unicast address of six hexadecimal bytes with colons");
    }
    return 0;
}

static int set_net_hostfwd(void *target, const json_t *value, const struct at *at,
                           struct err *err)
{
    struct machine_net *net = target;
    size_t n = json_array_size(value);

    if (!json_is_array(value) || n > HOSTFWD_MAX_RULES) {
        return bad(err, at, "an array of at most 64 strings");
    }
    net->rules = calloc(n > 0 ? n : 1, sizeof(*net->rules));
    if (net->rules == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the VM spec");
    }
    for (size_t i = 0; i < n; i++) {
        struct at here = at_index(at, i);
        const json_t *item = json_array_get(value, i);
        if (!json_is_string(item)) {
            return bad(err, &here, "a string");
        }
        int r = hostfwd_parse(&net->rules[i], json_string_value(item), err);
        if (r < 0) {
            err_prefix(err, "VM spec: %s", here.path);
            if (err != NULL) {
                err->code = ERR_SPEC_BAD;
            }
            return r;
        }
        net->n_rules = i + 1;
    }
    return 0;
}

static int set_nets(void *target, const json_t *value, const struct at *at, struct err *err)
{
    static const struct key keys[] = {
        {"kind", set_net_kind, true},
        {"mac", set_net_mac, false},
        {"hostfwd", set_net_hostfwd, false},
        {.name = NULL},
    };
    struct machine_config *cfg = target;
    size_t n = json_array_size(value);

    if (!json_is_array(value) || n > MACHINE_NETS_MAX) {
        return bad(err, at, "an array of at most 8 objects");
    }
    int r = 0;
    for (size_t i = 0; r == 0 && i < n; i++) {
        struct at here = at_index(at, i);
        cfg->n_nets = (unsigned)i + 1;
        machine_mac_default((unsigned)i, cfg->nets[i].mac);
        r = parse_object(&cfg->nets[i], keys, json_array_get(value, i), &here, err);
    }
    return r;
}

static int set_console_kind(void *target, const json_t *value, const struct at *at,
                            struct err *err)
{
    static const char *const words[] = {
        [MACHINE_CONSOLE_STDIO] = "stdio",
        [MACHINE_CONSOLE_FILE] = "file",
        [MACHINE_CONSOLE_NONE] = "none",
        NULL,
    };
    unsigned which = 0;
    int r = get_word(&which, words, value, at, err);

    if (r == 0) {
        ((struct machine_config *)target)->console = (enum machine_console_kind)which;
    }
    return r;
}

static int set_console(void *target, const json_t *value, const struct at *at, struct err *err)
{
    static const struct key keys[] = {
        {"kind", set_console_kind, true},
        {"path", set_console_path, false},
        {.name = NULL},
    };
    return parse_object(target, keys, value, at, err);
}

static int set_test_device(void *target, const json_t *value, const struct at *at,
                           struct err *err)
{
    return get_bool(&((struct machine_config *)target)->test_device, value, at, err);
}

static const struct key spec_keys[] = {
    {"version", set_version, true},
    {"name", set_name, false},
    {"cpus", set_cpus, false},
    {"memory_bytes", set_memory, false},
    {"engine", set_engine, false},
    {"boot", set_boot, true},
    {"disks", set_disks, false},
    {"nets", set_nets, false},
    {"console", set_console, false},
    {"metrics", set_metrics, false},
    {"test_device", set_test_device, false},
    {.name = NULL},
};

int spec_parse(struct machine_config *cfg, const char *text, size_t len, struct err *err)
{
    json_error_t where;
    struct at top = {""};

    if (len > SPEC_MAX_BYTES) {
        return ERR(err, SPEC_BAD, E2BIG, "VM spec: %zu bytes, want at most %u", len,
                   SPEC_MAX_BYTES);
    }
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
    if (root == NULL) {
        return ERR(err, SPEC_BAD, EINVAL, "VM spec: line %d, column %d: %s", where.line,
                   where.column, where.text);
    }
    int r = machine_config_init(cfg, err);
    if (r == 0) {
        if (!json_is_object(root)) {
            r = ERR(err, SPEC_BAD, EINVAL, "VM spec: want an object");
        } else {
            r = parse_object(cfg, spec_keys, root, &top, err);
        }
        if (r == 0) {
            r = machine_config_check(cfg, err);
            if (r < 0) {
                err_prefix(err, "VM spec");
            }
        }
        if (r < 0) {
            machine_config_done(cfg);
        }
    }
    json_decref(root);
    return r;
}
