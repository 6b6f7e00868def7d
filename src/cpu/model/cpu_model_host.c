/*
 * The host's side of the CPU model: its CPUID, XCR0 and TSC frequency. Called at start, once.
 */
#include "cpu/model/cpu_model_priv.h"

#include "base/clock.h"

#include <cpuid.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static void run_cpuid(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    (void)opaque;
    __cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
}

static uint64_t read_xcr0(void)
{
    uint32_t r[4], low, high;

    run_cpuid(NULL, 1, 0, r);
    if (!(r[2] & (1u << 27))) {
        return 0;
    }
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low | (uint64_t)high << 32;
}

/* CPUID 15h (crystal clock and ratio), or the timing leaf of a hypervisor. 0: not told. */
static uint64_t tsc_khz_from_cpuid(const struct cpuid_source *src)
{
    uint32_t r[4];

    src->fn(src->opaque, 1, 0, r);
    if (r[2] >> 31) {
        src->fn(src->opaque, 0x40000000u, 0, r);
        if (r[0] >= 0x40000010u && r[0] <= 0x400000ffu) {
            src->fn(src->opaque, 0x40000010u, 0, r);
            if (r[0] != 0) {
                return r[0];
            }
        }
    }
    src->fn(src->opaque, 0, 0, r);
    if (r[0] < 0x15) {
        return 0;
    }
    src->fn(src->opaque, 0x15, 0, r);
    return r[0] && r[1] && r[2] ? muldiv64(r[2], r[1], r[0]) / 1000 : 0;
}

/* The kernel's own conversion factors, which it shows in the page of any perf event. */
static uint64_t tsc_khz_from_perf(void)
{
    struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE,
                                   .size = sizeof(attr),
                                   .config = PERF_COUNT_SW_DUMMY,
                                   .exclude_kernel = 1,
                                   .exclude_hv = 1};
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    uint64_t khz = 0;

    int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    struct perf_event_mmap_page *p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (p != MAP_FAILED) {
        if (p->cap_user_time && p->time_mult != 0) {
            /* ns = ticks * mult >> shift */
            khz = muldiv64(UINT64_C(1000000), UINT64_C(1) << p->time_shift, p->time_mult);
        }
        munmap(p, size);
    }
    close(fd);
    return khz;
}

/* One reading of both clocks: the tightest of a few. */
static void read_clocks(uint64_t *ret_tsc, uint64_t *ret_ns)
{
    uint64_t best = UINT64_MAX;

    for (int i = 0; i < 8; i++) {
        uint64_t before = __builtin_ia32_rdtsc();
        uint64_t ns = clock_now_ns();
        uint64_t after = __builtin_ia32_rdtsc();

        if (after - before < best) {
            best = after - before;
            *ret_tsc = before + best / 2;
            *ret_ns = ns;
        }
    }
}

#define CALIBRATE_NS UINT64_C(500000) /* some tens of ppm */

static uint64_t tsc_khz_measured(void)
{
    uint64_t tsc0 = 0, ns0 = 0, tsc1 = 0, ns1 = 0;

    read_clocks(&tsc0, &ns0);
    do {
        read_clocks(&tsc1, &ns1);
    } while (ns1 - ns0 < CALIBRATE_NS);
    return muldiv64(tsc1 - tsc0, 1000000, ns1 - ns0);
}

uint64_t cpu_model_host_tsc_khz(const struct cpuid_source *src)
{
    uint64_t khz = tsc_khz_from_cpuid(src);

    if (khz == 0) {
        khz = tsc_khz_from_perf();
    }
    return khz != 0 ? khz : tsc_khz_measured();
}

int cpu_model_host(struct cpu_model *ret_model, bool soft, unsigned n_cpus, struct err *err)
{
    struct cpuid_source src = {.fn = run_cpuid, .xcr0 = read_xcr0()};

    ret_model->tsc_khz = cpu_model_host_tsc_khz(&src);
    return cpu_model_build(ret_model, &src, soft, n_cpus, err);
}
