/* viv engines: probes every engine of this build and prints what was measured. */
#include "vmm/vmm.h"

#include "base/ckd.h"
#include "base/json_out.h"
#include "cpu/engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void print_speed(double insn_per_s)
{
    if (insn_per_s > 0) {
        printf("  %8.1f M/s", insn_per_s / 1e6);
    } else {
        printf("  %12s", "-");
    }
}

static void print_text(const struct engine_ops *const *engines,
                       const struct engine_probe *probes, size_t n, const char *chosen,
                       const char *why)
{
    printf("engine  usable    supervisor          user  remark\n");
    for (size_t i = 0; i < n; i++) {
        printf("%-6s  %-6s", engines[i]->name, probes[i].usable ? "yes" : "no");
        print_speed(probes[i].supervisor_insn_per_s);
        print_speed(probes[i].user_insn_per_s);
        printf("  %s\n", probes[i].why);
    }
    printf("auto takes %s: %s\n", chosen, why);
}

static void put_json(struct json_out *out, const struct engine_ops *const *engines,
                     const struct engine_probe *probes, size_t n, const char *chosen,
                     const char *why)
{
    json_object_begin(out, NULL);
    json_array_begin(out, "engines");
    for (size_t i = 0; i < n; i++) {
        json_object_begin(out, NULL);
        json_put_string(out, "name", engines[i]->name);
        json_put_bool(out, "usable", probes[i].usable);
        json_put_string(out, "remark", probes[i].why);
        json_put_double(out, "supervisor_insn_per_s", probes[i].supervisor_insn_per_s, 0);
        json_put_double(out, "user_insn_per_s", probes[i].user_insn_per_s, 0);
        json_object_end(out);
    }
    json_array_end(out);
    json_object_begin(out, "auto");
    json_put_string(out, "engine", chosen);
    json_put_string(out, "why", why);
    json_object_end(out);
    json_object_end(out);
}

int vmm_print_engines(bool json)
{
    const struct engine_ops *const engines[] = {&engine_kvm, &engine_soft};
    struct engine_probe probes[ARRAY_LEN(engines)] = {0};
    char why[300] = "";

    for (size_t i = 0; i < ARRAY_LEN(engines); i++) {
        engines[i]->probe(&probes[i]);
    }
    const char *chosen = engine_find("auto", why, sizeof(why), NULL)->name;
    if (json) {
        struct json_out out;
        size_t len;
        json_out_init(&out, false);
        put_json(&out, engines, probes, ARRAY_LEN(engines), chosen, why);
        const char *text = json_out_finish(&out, &len);
        fputs(text != NULL ? text : "", stdout);
        json_out_done(&out);
    } else {
        print_text(engines, probes, ARRAY_LEN(engines), chosen, why);
    }
    if (fflush(stdout) != 0 || ferror(stdout) != 0) {
        fprintf(stderr, "viv engines: standard output: %s\n", strerror(errno));
        return 1;
    }
    return 0;
}
