/*
 * What a VM is made of: the typed form of the VM spec (api/vm-spec.schema.json). The command
 * line fills one and writes it as JSON; viv-vmm parses that JSON into one again
 * (vmm/spec_parse.c). Strings are owned (heap), NULL when absent. No locks; a config does not
 * change while a VM uses it.
 */
#pragma once

#include "base/ckd.h"
#include "base/err.h"
#include "net/hostfwd.h"

#include <stdbool.h>
#include <stdint.h>

struct json_out;

#define MACHINE_SPEC_VERSION 1

#define MACHINE_CPUS_MAX       64u
#define MACHINE_MEMORY_MIN     (2 * MIB)
#define MACHINE_MEMORY_MAX     (UINT64_C(1) << 40)
#define MACHINE_MEMORY_DEFAULT (512 * MIB)
#define MACHINE_NAME_MAX       63u
#define MACHINE_SERIAL_MAX     20u /* bytes; what virtio-blk can say */
#define MACHINE_CMDLINE_MAX    4096u
#define MACHINE_PATH_MAX       4095u
#define MACHINE_DISKS_MAX      16u
#define MACHINE_NETS_MAX       8u

struct machine_disk {
    char *path;
    char *serial;
    bool readonly;
};

enum machine_net_kind { MACHINE_NET_NONE, MACHINE_NET_USER };

struct machine_net {
    enum machine_net_kind kind;
    uint8_t mac[6];
    struct hostfwd_rule *rules;
    size_t n_rules;
};

enum machine_console_kind { MACHINE_CONSOLE_STDIO, MACHINE_CONSOLE_FILE, MACHINE_CONSOLE_NONE };

struct machine_config {
    char *name;
    unsigned n_cpus;
    uint64_t memory_bytes;
    char *engine; /* "auto", "kvm", "soft", "interp" */

    char *kernel, *initrd, *cmdline;

    struct machine_disk disks[MACHINE_DISKS_MAX];
    unsigned n_disks;
    struct machine_net nets[MACHINE_NETS_MAX];
    unsigned n_nets;

    enum machine_console_kind console;
    char *console_path; /* FILE */
    char *metrics_path;
    bool test_device; /* what kvm-unit-tests expect: dev/legacy/pc_testdev.h */
};

/* Defaults: one CPU, 512 MiB, engine auto, console stdio, no disk, no network. -ENOMEM. */
int machine_config_init(struct machine_config *cfg, struct err *err);
void machine_config_done(struct machine_config *cfg);

/* Ranges, lengths and what goes together; SPEC_BAD errors name the key, the value and what is
 * right. */
int machine_config_check(const struct machine_config *cfg, struct err *err);

/* The whole document, as one object. */
void machine_config_write(const struct machine_config *cfg, struct json_out *out);

/* "52:56:..." <-> bytes; -EINVAL for other forms and for multicast addresses. */
#define MACHINE_MAC_TEXT 18
int machine_mac_parse(const char *text, uint8_t ret_mac[6]);
void machine_mac_format(const uint8_t mac[6], char ret_text[MACHINE_MAC_TEXT]);
/* The address of the index-th card when none was asked for: locally administered. */
void machine_mac_default(unsigned index, uint8_t ret_mac[6]);
