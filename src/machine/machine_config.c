/* The VM spec in typed form: defaults, checks, writing (machine_config.h). */
#include "machine/machine_config.h"

#include "base/cleanup.h"
#include "base/json_out.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int machine_config_init(struct machine_config *cfg, struct err *err)
{
    *cfg = (struct machine_config){
        .name = strdup("vm"),
        .n_cpus = 1,
        .memory_bytes = MACHINE_MEMORY_DEFAULT,
        .engine = strdup("auto"),
        .console = MACHINE_CONSOLE_STDIO,
    };
    if (cfg->name == NULL || cfg->engine == NULL) {
        machine_config_done(cfg);
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for a VM spec");
    }
    return 0;
}

void machine_config_done(struct machine_config *cfg)
{
    free(cfg->name);
    free(cfg->engine);
    free(cfg->kernel);
    free(cfg->initrd);
    free(cfg->cmdline);
    free(cfg->console_path);
    free(cfg->metrics_path);
    for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++) {
        free(cfg->disks[i].path);
        free(cfg->disks[i].serial);
    }
    for (unsigned i = 0; i < MACHINE_NETS_MAX; i++) {
        free(cfg->nets[i].rules);
    }
    *cfg = (struct machine_config){0};
}

static bool name_ok(const char *name)
{
    size_t n = strlen(name);

    if (n == 0 || n > MACHINE_NAME_MAX || !isalnum((unsigned char)name[0])) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (!isalnum((unsigned char)name[i]) && strchr("_.-", name[i]) == NULL) {
            return false;
        }
    }
    return true;
}

static int check_path(const char *key, const char *path, struct err *err)
{
    if (path == NULL) {
        return 0;
    }
    size_t n = strlen(path);
    if (n == 0 || n > MACHINE_PATH_MAX) {
        return ERR(err, SPEC_BAD, EINVAL, "%s: a path of %zu bytes, want 1 to %u", key, n,
                   MACHINE_PATH_MAX);
    }
    return 0;
}

static int check_boot(const struct machine_config *cfg, struct err *err)
{
    if (cfg->kernel == NULL) {
        return ERR(err, SPEC_BAD, EINVAL,
                   "boot.kernel is missing: a kernel is what this version can start (firmware "
                   "is not there yet)");
    }
    int r = check_path("boot.kernel", cfg->kernel, err);
    if (r == 0) {
        r = check_path("boot.initrd", cfg->initrd, err);
    }
    if (r < 0) {
        return r;
    }
    if (cfg->cmdline != NULL && strlen(cfg->cmdline) > MACHINE_CMDLINE_MAX) {
        return ERR(err, SPEC_BAD, EINVAL, "boot.cmdline: %zu bytes, want at most %u",
                   strlen(cfg->cmdline), MACHINE_CMDLINE_MAX);
    }
    return 0;
}

static int check_disks(const struct machine_config *cfg, struct err *err)
{
    for (unsigned i = 0; i < cfg->n_disks; i++) {
        const struct machine_disk *d = &cfg->disks[i];
        if (d->path == NULL) {
            return ERR(err, SPEC_BAD, EINVAL, "disks[%u].path is missing", i);
        }
        int r = check_path("disks[].path", d->path, err);
        if (r < 0) {
            return r;
        }
        for (const char *p = d->serial; p != NULL && *p != '\0'; p++) {
            if (*p < 0x20 || *p > 0x7e) {
                return ERR(err, SPEC_BAD, EINVAL,
                           "disks[%u].serial: only printable ASCII characters are possible", i);
            }
        }
        if (d->serial != NULL && strlen(d->serial) > MACHINE_SERIAL_MAX) {
            return ERR(err, SPEC_BAD, EINVAL, "disks[%u].serial '%s': want at most %u bytes", i,
                       d->serial, MACHINE_SERIAL_MAX);
        }
    }
    return 0;
}

static int check_nets(const struct machine_config *cfg, struct err *err)
{
    for (unsigned i = 0; i < cfg->n_nets; i++) {
        for (unsigned k = 0; k < i; k++) {
            if (cfg->nets[i].kind != MACHINE_NET_NONE &&
                cfg->nets[k].kind != MACHINE_NET_NONE &&
                memcmp(cfg->nets[i].mac, cfg->nets[k].mac, 6) == 0) {
                return ERR(err, SPEC_BAD, EINVAL, "nets[%u].mac is also that of nets[%u]", i,
                           k);
            }
        }
    }
    return 0;
}

int machine_config_check(const struct machine_config *cfg, struct err *err)
{
    if (!name_ok(cfg->name)) {
        return ERR(
            err, SPEC_BAD, EINVAL,
            "name '%.80s': want 1 to %u letters, digits, '_', '.' and '-', beginning with "
            "a letter or digit",
            cfg->name, MACHINE_NAME_MAX);
    }
    if (cfg->n_cpus < 1 || cfg->n_cpus > MACHINE_CPUS_MAX) {
        return ERR(err, SPEC_BAD, ERANGE, "cpus: %u, want 1 to %u", cfg->n_cpus,
                   MACHINE_CPUS_MAX);
    }
    if (cfg->memory_bytes < MACHINE_MEMORY_MIN || cfg->memory_bytes > MACHINE_MEMORY_MAX ||
        cfg->memory_bytes % 4096 != 0) {
        return ERR(err, SPEC_BAD, ERANGE,
                   "memory_bytes: %" PRIu64 ", want a multiple of 4096 between %" PRIu64
                   " (2M) and %" PRIu64 " (1T)",
                   cfg->memory_bytes, MACHINE_MEMORY_MIN, MACHINE_MEMORY_MAX);
    }
    if (strcmp(cfg->engine, "auto") != 0 && strcmp(cfg->engine, "kvm") != 0 &&
        strcmp(cfg->engine, "soft") != 0 && strcmp(cfg->engine, "interp") != 0) {
        return ERR(err, SPEC_BAD, EINVAL, "engine '%.40s': want auto, kvm, soft or interp",
                   cfg->engine);
    }
    if ((cfg->console == MACHINE_CONSOLE_FILE) != (cfg->console_path != NULL)) {
        return ERR(err, SPEC_BAD, EINVAL,
                   "console.path belongs to console.kind \"file\", and only to it");
    }
    int r = check_boot(cfg, err);
    if (r == 0) {
        r = check_disks(cfg, err);
    }
    if (r == 0) {
        r = check_nets(cfg, err);
    }
    if (r == 0) {
        r = check_path("console.path", cfg->console_path, err);
    }
    return r < 0 ? r : check_path("metrics", cfg->metrics_path, err);
}

static void write_optional(struct json_out *out, const char *key, const char *value)
{
    if (value != NULL) {
        json_put_string(out, key, value);
    }
}

static void write_net(const struct machine_net *net, struct json_out *out)
{
    char mac[MACHINE_MAC_TEXT];

    json_object_begin(out, NULL);
    json_put_string(out, "kind", net->kind == MACHINE_NET_USER ? "user" : "none");
    if (net->kind == MACHINE_NET_USER) {
        machine_mac_format(net->mac, mac);
        json_put_string(out, "mac", mac);
        json_array_begin(out, "hostfwd");
        for (size_t k = 0; k < net->n_rules; k++) {
            char text[HOSTFWD_TEXT_MAX];
            hostfwd_format(&net->rules[k], text, sizeof(text));
            json_put_string(out, NULL, text);
        }
        json_array_end(out);
    }
    json_object_end(out);
}

void machine_config_write(const struct machine_config *cfg, struct json_out *out)
{
    static const char *const consoles[] = {
        [MACHINE_CONSOLE_STDIO] = "stdio",
        [MACHINE_CONSOLE_FILE] = "file",
        [MACHINE_CONSOLE_NONE] = "none",
    };

    json_object_begin(out, NULL);
    json_put_uint(out, "version", MACHINE_SPEC_VERSION);
    json_put_string(out, "name", cfg->name);
    json_put_uint(out, "cpus", cfg->n_cpus);
    json_put_uint(out, "memory_bytes", cfg->memory_bytes);
    json_put_string(out, "engine", cfg->engine);
    json_object_begin(out, "boot");
    write_optional(out, "kernel", cfg->kernel);
    write_optional(out, "initrd", cfg->initrd);
    write_optional(out, "cmdline", cfg->cmdline);
    json_object_end(out);
    json_array_begin(out, "disks");
    for (unsigned i = 0; i < cfg->n_disks; i++) {
        json_object_begin(out, NULL);
        json_put_string(out, "path", cfg->disks[i].path);
        json_put_bool(out, "readonly", cfg->disks[i].readonly);
        write_optional(out, "serial", cfg->disks[i].serial);
        json_object_end(out);
    }
    json_array_end(out);
    json_array_begin(out, "nets");
    for (unsigned i = 0; i < cfg->n_nets; i++) {
        write_net(&cfg->nets[i], out);
    }
    json_array_end(out);
    json_object_begin(out, "console");
    json_put_string(out, "kind", consoles[cfg->console]);
    write_optional(out, "path", cfg->console_path);
    json_object_end(out);
    write_optional(out, "metrics", cfg->metrics_path);
    if (cfg->test_device) {
        json_put_bool(out, "test_device", true);
    }
    json_object_end(out);
}

int machine_mac_parse(const char *text, uint8_t ret_mac[6])
{
    uint8_t mac[6];

    if (strlen(text) != MACHINE_MAC_TEXT - 1) {
        return -EINVAL;
    }
    for (unsigned i = 0; i < 6; i++) {
        const char *p = text + (size_t)i * 3;
        if (!isxdigit((unsigned char)p[0]) || !isxdigit((unsigned char)p[1]) ||
            p[2] != (i < 5 ? ':' : '\0')) {
            return -EINVAL;
        }
        char pair[3] = {p[0], p[1], '\0'};
        mac[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    if ((mac[0] & 1) != 0) {
        return -EINVAL;
    }
    memcpy(ret_mac, mac, sizeof(mac));
    return 0;
}

void machine_mac_format(const uint8_t mac[6], char ret_text[MACHINE_MAC_TEXT])
{
    snprintf(ret_text, MACHINE_MAC_TEXT, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1],
             mac[2], mac[3], mac[4], mac[5]);
}

void machine_mac_default(unsigned index, uint8_t ret_mac[6])
{
    const uint8_t mac[6] = {0x02, 0x56, 0x49, 0x56, 0x00, (uint8_t)index};

    memcpy(ret_mac, mac, sizeof(mac));
}
