/*
 * Which engine runs a VM. "auto" measures instead of trusting /dev/kvm: some hosts offer one
 * that emulates supervisor code a thousand times slower than user code, or fails on
 * instructions. KVM is taken when it works and its supervisor code runs within a tenth of its
 * user code's speed.
 */
#include "cpu/engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define KVM_MAX_SLOWDOWN   10.0
#define KVM_MIN_INSN_PER_S 50e6 /* when the probe could not measure user code */

static const struct engine_ops *const engines[] = {&engine_kvm, &engine_soft, &engine_interp};

/* Whether KVM is good enough; ret_why gets one sentence without a full stop. */
static bool kvm_is_good(const struct engine_probe *p, char *ret_why, size_t why_len)
{
    if (!p->usable) {
        snprintf(ret_why, why_len, "KVM is not usable: %s", p->why);
        return false;
    }
    double want =
        p->user_insn_per_s > 0 ? p->user_insn_per_s / KVM_MAX_SLOWDOWN : KVM_MIN_INSN_PER_S;
    if (p->supervisor_insn_per_s < want) {
        snprintf(
            ret_why, why_len,
            "KVM runs supervisor code at only %.1f million instructions/s (user code: %.0f): "
            "this host emulates it",
            p->supervisor_insn_per_s / 1e6, p->user_insn_per_s / 1e6);
        return false;
    }
    snprintf(ret_why, why_len, "KVM runs supervisor code at %.0f million instructions/s",
             p->supervisor_insn_per_s / 1e6);
    return true;
}

const struct engine_ops *engine_find(const char *name, char *ret_why, size_t why_len,
                                     struct err *err)
{
    struct engine_probe probe = {0};
    char why[256];

    if (strcmp(name, "auto") == 0) {
        engine_kvm.probe(&probe);
        bool good = kvm_is_good(&probe, why, sizeof(why));
        if (ret_why != NULL) {
            snprintf(ret_why, why_len, "%s", why);
        }
        return good ? &engine_kvm : &engine_soft;
    }
    for (size_t i = 0; i < sizeof(engines) / sizeof(engines[0]); i++) {
        if (strcmp(name, engines[i]->name) != 0) {
            continue;
        }
        /* The software engine runs wherever this program does; probing it would only take time.
         */
        if (engines[i] == &engine_kvm) {
            engine_kvm.probe(&probe);
            if (!probe.usable) {
                ERR(err, ENGINE, ENODEV,
                    "engine kvm is not usable: %s; --engine soft always is", probe.why);
                return NULL;
            }
        }
        if (ret_why != NULL) {
            snprintf(ret_why, why_len, "asked for by name%s%s",
                     probe.why[0] != '\0' ? "; " : "", probe.why);
        }
        return engines[i];
    }
    ERR(err, USAGE, EINVAL, "unknown engine '%s': want auto, kvm, soft or interp", name);
    return NULL;
}
