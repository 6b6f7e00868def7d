/*
 * --metrics: what a run measured, as one JSON object, written when the VM ends. The memory that
 * is ours (everything but guest RAM) is sampled every two seconds and at the end; the largest
 * counts. Loop's thread.
 */
#include "vmm/vmm.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json_out.h"
#include "base/parse.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#define SAMPLE_S 2

struct memory {
    uint64_t rss, pss, private_dirty; /* bytes, without guest RAM */
    uint64_t guest_rss;
};

struct metrics {
    const struct machine_config *cfg;
    struct machine *m;
    struct loop_watch *watch;
    int timer_fd;
    uint64_t start_ns; /* CLOCK_MONOTONIC at which viv began */
    struct memory peak;
};

static void add_field(const char *line, const char *name, uint64_t *sum)
{
    size_t n = strlen(name);
    uint64_t kib;

    if (strncmp(line, name, n) == 0) {
        const char *p = line + n + strspn(line + n, " ");
        char number[24];
        snprintf(number, sizeof(number), "%.*s", (int)strspn(p, "0123456789"), p);
        if (parse_uint(number, 0, UINT64_MAX >> 11, &kib) == 0) {
            *sum += kib << 10;
        }
    }
}

/* Walks /proc/self/smaps: a line "from-to rights offset dev inode path" begins each mapping. */
static struct memory measure_memory(void)
{
    struct memory mem = {0};
    _cleanup_fclose_ FILE *f = fopen("/proc/self/smaps", "re");
    char line[512];
    bool guest = false;

    while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        size_t word = strcspn(line, " ");
        if (memchr(line, '-', word) != NULL && line[word] == ' ' && line[word - 1] != ':') {
            guest = strstr(line, "/memfd:vivarium-ram") != NULL;
        } else if (guest) {
            add_field(line, "Rss:", &mem.guest_rss);
        } else {
            add_field(line, "Rss:", &mem.rss);
            add_field(line, "Pss:", &mem.pss);
            add_field(line, "Private_Dirty:", &mem.private_dirty);
        }
    }
    return mem;
}

static void take_max(uint64_t *peak, uint64_t now)
{
    *peak = now > *peak ? now : *peak;
}

static void sample(struct metrics *metrics)
{
    struct memory now = measure_memory();

    take_max(&metrics->peak.rss, now.rss);
    take_max(&metrics->peak.pss, now.pss);
    take_max(&metrics->peak.private_dirty, now.private_dirty);
    take_max(&metrics->peak.guest_rss, now.guest_rss);
}

static void on_timer(void *opaque, uint32_t events)
{
    struct metrics *metrics = opaque;
    uint64_t n;

    (void)events;
    if (read(metrics->timer_fd, &n, sizeof(n)) > 0) {
        sample(metrics);
    }
}

int metrics_new(struct metrics **ret_metrics, const struct machine_config *cfg,
                struct loop *loop, struct machine *m, uint64_t start_ns, struct err *err)
{
    struct metrics *metrics = calloc(1, sizeof(*metrics));
    if (metrics == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for metrics");
    }
    *metrics = (struct metrics){.cfg = cfg, .m = m, .start_ns = start_ns, .timer_fd = -1};
    if (cfg->metrics_path != NULL) {
        const struct itimerspec every = {{SAMPLE_S, 0}, {SAMPLE_S, 0}};
        metrics->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        timerfd_settime(metrics->timer_fd, 0, &every, NULL);
        loop_watch_fd(loop, metrics->timer_fd, EPOLLIN, on_timer, metrics, &metrics->watch);
    }
    *ret_metrics = metrics;
    return 0;
}

void metrics_free(struct metrics *metrics)
{
    if (metrics == NULL) {
        return;
    }
    loop_unwatch(metrics->watch);
    if (metrics->timer_fd >= 0) {
        close(metrics->timer_fd);
    }
    free(metrics);
}

static void put_since(struct json_out *out, const char *key, uint64_t at_ns, uint64_t start_ns)
{
    if (at_ns == 0 || at_ns < start_ns) {
        json_put_null(out, key);
    } else {
        json_put_double(out, key, (double)(at_ns - start_ns) / 1e6, 3);
    }
}

static void put_exits(struct json_out *out, const struct machine_metrics *mm)
{
    json_object_begin(out, "exits");
    json_put_uint(out, "pio", mm->exits_pio);
    json_put_uint(out, "mmio", mm->exits_mmio);
    json_put_uint(out, "halt", mm->exits_halt);
    json_put_uint(out, "irq", mm->exits_irq);
    json_put_uint(out, "kick", mm->exits_kick);
    json_put_uint(out, "other", mm->exits_other);
    json_object_end(out);
}

static void put_memory(struct json_out *out, const struct metrics *metrics,
                       const struct machine_metrics *mm)
{
    json_object_begin(out, "memory");
    json_put_uint(out, "peak_rss_bytes", metrics->peak.rss);
    json_put_uint(out, "peak_pss_bytes", metrics->peak.pss);
    json_put_uint(out, "peak_private_dirty_bytes", metrics->peak.private_dirty);
    json_put_uint(out, "engine_bytes", mm->engine_bytes);
    json_put_uint(out, "guest_ram_bytes", mm->ram_bytes);
    json_put_uint(out, "guest_ram_resident_bytes", mm->ram_resident_bytes);
    json_object_end(out);
}

static void put_all(struct json_out *out, const struct metrics *metrics, enum machine_end end)
{
    static const char *const ends[] = {
        [MACHINE_END_POWEROFF] = "poweroff", [MACHINE_END_CRASH] = "crash",
        [MACHINE_END_STOPPED] = "stopped",   [MACHINE_END_EXIT] = "debug-exit",
        [MACHINE_END_ERROR] = "error",
    };
    struct machine_metrics mm;
    const char *why;

    machine_get_metrics(metrics->m, &mm);
    json_object_begin(out, NULL);
    json_put_uint(out, "version", 1);
    json_put_string(out, "name", metrics->cfg->name);
    json_put_string(out, "engine", machine_engine_name(metrics->m, &why));
    json_put_string(out, "engine_why", why);
    json_put_uint(out, "cpus", metrics->cfg->n_cpus);
    json_put_string(out, "end", ends[end]);
    json_object_begin(out, "ms_from_start");
    put_since(out, "machine_made", mm.created_ns, metrics->start_ns);
    put_since(out, "first_instruction", mm.first_instruction_ns, metrics->start_ns);
    put_since(out, "init_port", mm.init_port_ns, metrics->start_ns);
    put_since(out, "init_console", mm.init_console_ns, metrics->start_ns);
    put_since(out, "end", clock_now_ns(), metrics->start_ns);
    json_object_end(out);
    json_put_uint(out, "instructions", mm.instructions);
    json_put_uint(out, "resets", mm.resets);
    put_exits(out, &mm);
    json_object_begin(out, "engine_counters");
    json_put_uint(out, "code_invalidations", mm.code_invalidations);
    json_put_uint(out, "tlb_flushes", mm.tlb_flushes);
    json_put_uint(out, "blocks_decoded", mm.blocks_decoded);
    json_put_uint(out, "native_stubs", mm.native_stubs);
    json_put_uint(out, "blocks_translated", mm.blocks_translated);
    json_put_uint(out, "code_flushes", mm.code_flushes);
    json_put_uint(out, "translated_slow", mm.jit_slow);
    json_put_uint(out, "translated_helped", mm.jit_helped);
    json_object_end(out);
    put_memory(out, metrics, &mm);
    json_object_end(out);
}

int metrics_write(struct metrics *metrics, enum machine_end end, struct err *err)
{
    const char *path = metrics->cfg->metrics_path;
    struct json_out out;
    size_t len = 0;
    int r = 0;

    if (path == NULL) {
        return 0;
    }
    sample(metrics);
    json_out_init(&out, false);
    put_all(&out, metrics, end);
    const char *text = json_out_finish(&out, &len);
    FILE *f = text == NULL ? NULL : fopen(path, "we");
    if (text == NULL) {
        r = ERR(err, NO_MEMORY, ENOMEM, "no memory for metrics");
    } else if (f == NULL || fwrite(text, 1, len, f) != len || fflush(f) != 0) {
        int e = errno;
        r = ERR(err, IO, e, "metrics file %s: %s", path, strerror(e));
    }
    if (f != NULL) {
        fclose(f);
    }
    json_out_done(&out);
    return r;
}
