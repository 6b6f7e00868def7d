/*
 * A stock kernel that changes its own text while it runs: the function tracers, kprobes (int3,
 * jumps and ftrace calls), uprobes, tracepoints and other static keys, static calls, BPF
 * programs and modules. All cases run beside a load of pipes, forks and files on the other
 * CPUs, whose results are checked; what is counted is counted exactly. Needs root in a
 * throw-away system.
 */
#include "t.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define TRACING "/sys/kernel/tracing/"
#define DEBUG   "/sys/kernel/debug/"

/* Small files of the kernel. */
static bool try_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_APPEND);
    CHECK(fd >= 0, "%s: %s", path, strerror(errno));
    size_t n = strlen(text);
    bool ok = write(fd, text, n) == (ssize_t)n;
    int error = errno;
    close(fd);
    errno = error;
    return ok;
}

static void put(const char *path, const char *text)
{
    CHECK(try_write(path, text), "%s > %s: %s", text, path, strerror(errno));
}

static void truncate_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_TRUNC);
    CHECK(fd >= 0, "%s: %s", path, strerror(errno));
    close(fd);
}

/* Contents, up to most bytes or a little more; freed by the caller. */
static char *get_some(const char *path, size_t most)
{
    size_t room = 1 << 16, n = 0;
    char *text = malloc(room);
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && text != NULL, "%s: %s", path, strerror(errno));
    while (n < most) {
        ssize_t r = read(fd, text + n, room - 1 - n);
        CHECK(r >= 0, "%s: %s", path, strerror(errno));
        if (r == 0) {
            break;
        }
        n += (size_t)r;
        if (n + 1 >= room) {
            text = realloc(text, room *= 2);
            CHECK(text != NULL, "no memory");
        }
    }
    close(fd);
    text[n] = 0;
    return text;
}

static char *get(const char *path)
{
    return get_some(path, SIZE_MAX);
}

/* Lines that hold both texts. */
static unsigned count_lines(const char *text, const char *a, const char *b)
{
    unsigned n = 0;
    for (const char *line = text; *line != 0;) {
        const char *end = strchrnul(line, '\n');
        size_t len = (size_t)(end - line);
        n += memmem(line, len, a, strlen(a)) != NULL && memmem(line, len, b, strlen(b)) != NULL;
        line = *end != 0 ? end + 1 : end;
    }
    return n;
}

/* The load: its processes count their turns in shared memory. */
#define WORKERS 3
static struct {
    pid_t pid[WORKERS];
    _Atomic unsigned long *turns;
} load;

static void load_turn(unsigned seed)
{
    int fd[2], status;
    char in[64], out[64], name[64];
    SYS(pipe(fd) == 0);
    pid_t pid = fork();
    SYS(pid >= 0);
    snprintf(in, sizeof(in), "turn %u", seed);
    if (pid == 0) {
        _exit(write(fd[1], in, strlen(in) + 1) == (ssize_t)strlen(in) + 1 ? (int)(seed & 63)
                                                                          : 99);
    }
    SYS(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == (int)(seed & 63), "status 0x%x", status);
    CHECK(read(fd[0], out, sizeof(out)) == (ssize_t)strlen(in) + 1 && strcmp(in, out) == 0,
          "pipe");
    close(fd[0]);
    close(fd[1]);
    snprintf(name, sizeof(name), "/tmp/patch.%d", getpid());
    int file = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    SYS(file >= 0);
    SYS(write(file, in, sizeof(in)) == sizeof(in));
    CHECK(pread(file, out, sizeof(out), 0) == sizeof(out) && memcmp(in, out, sizeof(in)) == 0,
          "file");
    close(file);
    SYS(unlink(name) == 0);
}

static void load_start(void)
{
    load.turns = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    SYS(load.turns != MAP_FAILED);
    for (unsigned i = 0; i < WORKERS; i++) {
        SYS((load.pid[i] = fork()) >= 0);
        if (load.pid[i] == 0) {
            SYS(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
            for (unsigned n = 0;; n++) {
                load_turn(n * 7 + i);
                atomic_fetch_add(&load.turns[i], 1);
                usleep(1000);
            }
        }
    }
}

static void load_stop(void)
{
    unsigned long sum = 0;
    for (unsigned i = 0; i < WORKERS; i++) {
        int status;
        kill(load.pid[i], SIGKILL);
        SYS(waitpid(load.pid[i], &status, 0) == load.pid[i]);
        CHECK(WIFSIGNALED(status), "a worker of the load ended with status 0x%x", status);
        sum += atomic_load(&load.turns[i]);
    }
    printf("load: %lu turns\n", sum);
    CHECK(sum > 0, "the load did nothing");
}

static void mount_all(void)
{
    mkdir("/tmp", 0777);
    mount("tracefs", TRACING, "tracefs", 0, NULL);
    mount("debugfs", DEBUG, "debugfs", 0, NULL);
    if (access(TRACING "current_tracer", W_OK) != 0) {
        t_skip("this kernel has no tracefs");
    }
    put(TRACING "buffer_size_kb", "256");
}

/* n calls that nothing else in the guest makes, in each of four processes. */
#define CALLERS 4
static void call_getsid(unsigned n)
{
    pid_t pid[CALLERS];
    for (unsigned i = 0; i < CALLERS; i++) {
        SYS((pid[i] = fork()) >= 0);
        if (pid[i] == 0) {
            long sid = syscall(SYS_getsid, 0);
            for (unsigned k = 1; k < n; k++) {
                CHECK(syscall(SYS_getsid, 0) == sid, "getsid");
            }
            _exit(0);
        }
    }
    for (unsigned i = 0; i < CALLERS; i++) {
        t_reap(pid[i]);
    }
}

static void own_actions(void)
{
    char c = 'x';
    int fd[2];
    SYS(pipe(fd) == 0);
    for (unsigned i = 0; i < 20; i++) {
        SYS(write(fd[1], &c, 1) == 1 && read(fd[0], &c, 1) == 1);
    }
    close(fd[0]);
    close(fd[1]);
    pid_t pid = fork();
    SYS(pid >= 0);
    if (pid == 0) {
        _exit(0);
    }
    t_reap(pid);
}

static void expect_calls(const char *trace, const char *who, const char *what, unsigned n)
{
    unsigned got = count_lines(trace, who, what);
    CHECK(got == n, "%u lines with %s and %s, not %u", got, who, what, n);
}

static void function_tracer(void)
{
    char who[32];
    mount_all();
    load_start();
    snprintf(who, sizeof(who), "-%d ", getpid());
    for (unsigned i = 0; i < t_times(3); i++) {
        put(TRACING "tracing_on", "0");
        truncate_file(TRACING "set_ftrace_filter");
        for (const char *const *f =
                 (const char *const[]){"vfs_write", "pipe_read", "kernel_clone",
                                       "__x64_sys_getsid", NULL};
             *f != NULL; f++) {
            put(TRACING "set_ftrace_filter", *f);
        }
        truncate_file(TRACING "trace");
        char pid[16];
        snprintf(pid, sizeof(pid), "%d", getpid());
        put(TRACING "set_ftrace_pid", pid);
        put(TRACING "current_tracer", "function");
        put(TRACING "tracing_on", "1");
        own_actions();
        for (unsigned k = 0; k < 100; k++) {
            syscall(SYS_getsid, 0);
        }
        put(TRACING "tracing_on", "0");
        put(TRACING "current_tracer", "nop");
        put(TRACING "current_tracer", "function");
        put(TRACING "current_tracer", "nop");
        char *trace = get(TRACING "trace");
        free(trace);
        /* Changing the tracer empties the buffer: what was seen is looked at next time. */
        put(TRACING "current_tracer", "function");
        put(TRACING "tracing_on", "1");
        own_actions();
        for (unsigned k = 0; k < 100; k++) {
            syscall(SYS_getsid, 0);
        }
        put(TRACING "tracing_on", "0");
        trace = get(TRACING "trace");
        expect_calls(trace, who, ": __x64_sys_getsid <-", 100);
        expect_calls(trace, who, ": pipe_read <-", 20);
        expect_calls(trace, who, ": kernel_clone <-", 1);
        CHECK(count_lines(trace, who, ": vfs_write <-ksys_write") >= 20, "few vfs_write");
        free(trace);
        put(TRACING "current_tracer", "nop");
        truncate_file(TRACING "set_ftrace_pid");
    }
    /* Every function of the kernel, on and off. */
    truncate_file(TRACING "set_ftrace_filter");
    for (unsigned i = 0; i < t_times(1); i++) {
        put(TRACING "current_tracer", "function");
        put(TRACING "tracing_on", "1");
        own_actions();
        put(TRACING "tracing_on", "0");
        char *trace = get_some(TRACING "trace", 1 << 17);
        CHECK(count_lines(trace, " <-", "vfs_") > 0, "nothing of vfs_ in the trace");
        free(trace);
        put(TRACING "current_tracer", "nop");
    }
    load_stop();
}

static void graph_tracer(void)
{
    mount_all();
    load_start();
    for (unsigned i = 0; i < t_times(4); i++) {
        put(TRACING "tracing_on", "0");
        truncate_file(TRACING "set_ftrace_filter");
        put(TRACING "set_ftrace_filter", "__x64_sys_getsid");
        put(TRACING "set_ftrace_filter", "find_vpid");
        put(TRACING "set_graph_function", "__x64_sys_getsid");
        put(TRACING "current_tracer", "function_graph");
        put(TRACING "tracing_on", "1");
        call_getsid(50);
        put(TRACING "tracing_on", "0");
        char *trace = get(TRACING "trace");
        unsigned began = count_lines(trace, "__x64_sys_getsid() {", "|");
        unsigned leaves = count_lines(trace, "__x64_sys_getsid();", "|");
        CHECK(began + leaves == 50 * CALLERS, "%u and %u calls in the graph, not %u", began,
              leaves, 50 * CALLERS);
        CHECK(began == 0 || count_lines(trace, "}", "us") >= began, "calls without a return");
        free(trace);
        put(TRACING "current_tracer", "nop");
    }
    truncate_file(TRACING "set_graph_function");
    truncate_file(TRACING "set_ftrace_filter");
    for (unsigned i = 1; i < t_times(1); i++) {
        put(TRACING "current_tracer", "function_graph"); /* all of it */
        put(TRACING "tracing_on", "1");
        own_actions();
        put(TRACING "tracing_on", "0");
        put(TRACING "current_tracer", "nop");
    }
    load_stop();
}

/* Hits and misses of an event in kprobe_profile. */
static void profile(const char *file, const char *event, unsigned *ret_hits,
                    unsigned *ret_missed)
{
    char *text = get(file), *save = NULL;
    bool found = false;
    for (char *line = strtok_r(text, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        char name[64];
        *ret_missed = 0;
        if ((sscanf(line, " %63s %u %u", name, ret_hits, ret_missed) >= 2 ||
             sscanf(line, " %*s %63s %u", name, ret_hits) == 2) &&
            strcmp(name, event) == 0) {
            found = true;
            break;
        }
    }
    free(text);
    CHECK(found, "%s has no line for %s", file, event);
}

/* A probe at the first instruction at or behind offset that the kernel takes; NULL: none. */
static const char *probe_behind(unsigned offset, char *text, size_t size)
{
    for (; offset < 120; offset++) {
        snprintf(text, size, "p:vk/o%u __x64_sys_getsid+%u", offset, offset);
        if (try_write(TRACING "kprobe_events", text)) {
            snprintf(text, size, "o%u", offset);
            return text;
        }
    }
    return NULL;
}

static void kprobes(void)
{
    mount_all();
    load_start();
    for (unsigned i = 0; i < t_times(4); i++) {
        char offset[2][64];
        unsigned calls = 100 + i;
        put(TRACING "kprobe_events", "p:vk/entry __x64_sys_getsid");
        put(TRACING "kprobe_events", "r:vk/ret __x64_sys_getsid $retval");
        put(TRACING "kprobe_events", "p:vk/hot vfs_read");
        CHECK(probe_behind(1 + i, offset[0], sizeof(offset[0])) != NULL,
              "no place for a probe");
        put(TRACING "events/vk/enable", "1");
        if (i % 2) {
            usleep(300000); /* int3 becomes a jump */
        }
        call_getsid(calls);
        put(TRACING "events/vk/enable", "0");
        call_getsid(10);
        const char *const events[] = {"entry", "ret", offset[0]};
        for (unsigned k = 0; k < T_LEN(events); k++) {
            unsigned hits, missed;
            profile(TRACING "kprobe_profile", events[k], &hits, &missed);
            /* An instruction in the middle may lie on a path that is not taken. */
            bool all = hits == calls * CALLERS || (k == 2 && hits == 0);
            CHECK(all && missed == 0, "%s: %u hits and %u misses of %u calls", events[k], hits,
                  missed, calls * CALLERS);
            if (k == 2 && i < 2) {
                printf("%s: %u hits\n", events[k], hits);
            }
        }
        if (i % 2) {
            truncate_file(TRACING "kprobe_events");
        } else {
            put(TRACING "kprobe_events", "-:vk/hot");
            put(TRACING "kprobe_events", "-:vk/ret");
            put(TRACING "kprobe_events", "-:vk/entry");
            truncate_file(TRACING "kprobe_events");
        }
        call_getsid(10);
    }
    load_stop();
}

/* Hundreds of jumps and calls in the kernel's text change below the load. */
static void toggle_perf(void)
{
    struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE,
                                   .size = sizeof(attr),
                                   .config = PERF_COUNT_SW_CONTEXT_SWITCHES};
    int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
    SYS(fd >= 0);
    usleep(1000);
    close(fd);
}

static void toggle_timestamps(void)
{
    int one = 1, fd = socket(AF_INET, SOCK_DGRAM, 0);
    SYS(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_TIMESTAMP, &one, sizeof(one)) == 0);
    close(fd);
}

static void static_keys(void)
{
    static const char *const switches[] = {
        TRACING "events/sched/sched_switch/enable",
        TRACING "events/sched/sched_wakeup/enable",
        TRACING "events/kmem/kmalloc/enable",
        TRACING "events/syscalls/sys_enter_read/enable",
        TRACING "events/irq/softirq_entry/enable",
        TRACING "events/timer/timer_start/enable",
        TRACING "events/signal/signal_generate/enable",
        "/proc/sys/kernel/sched_schedstats",
        "/proc/sys/kernel/bpf_stats_enabled",
        TRACING "events/task/task_newtask/enable",
    };
    bool on[T_LEN(switches)] = {false};
    uint64_t seed = 1234567;
    unsigned toggles = 0;
    mount_all();
    put(TRACING "current_tracer", "nop");
    load_start();
    for (unsigned i = 0; i < t_times(200); i++) {
        unsigned k = (unsigned)(t_next(&seed) % (T_LEN(switches) + 2));
        if (k < T_LEN(switches)) {
            if (access(switches[k], W_OK) == 0) {
                on[k] = !on[k];
                put(switches[k], on[k] ? "1" : "0");
                toggles++;
            }
        } else if (k == T_LEN(switches)) {
            toggle_perf();
        } else {
            toggle_timestamps();
        }
        if (i % 25 == 0) {
            /* What a tracepoint that is on must show, and one that is off must not. */
            put(TRACING "events/syscalls/sys_enter_getsid/enable", "1");
            put(TRACING "tracing_on", "1");
            truncate_file(TRACING "trace");
            syscall(SYS_getsid, 0);
            put(TRACING "events/syscalls/sys_enter_getsid/enable", "0");
            syscall(SYS_getsid, 0);
            put(TRACING "tracing_on", "0");
            char *trace = get(TRACING "trace");
            unsigned lines = count_lines(trace, "sys_getsid(", "pid: 0");
            CHECK(lines == 1, "%u lines of sys_getsid, not one", lines);
            free(trace);
            put(TRACING "tracing_on", "1");
        }
    }
    for (unsigned k = 0; k < T_LEN(switches); k++) {
        if (on[k]) {
            put(switches[k], "0");
        }
    }
    printf("%u switches\n", toggles);
    load_stop();
}

/* Thousands of calls in the kernel become others, or nothing: the model of preemption. Without
 * the load, since each call takes three interrupts of all CPUs. */
static void static_calls(void)
{
    static const char *const models[] = {"none", "full", "voluntary"};
    mount_all();
    if (access(DEBUG "sched/preempt", W_OK) != 0) {
        t_skip("preemption is of a fixed model");
    }
    for (unsigned i = 0; i < t_times(3); i++) {
        char want[32];
        put(DEBUG "sched/preempt", models[i % 3]);
        snprintf(want, sizeof(want), "(%s)", models[i % 3]);
        char *now = get(DEBUG "sched/preempt");
        CHECK(strstr(now, want) != NULL, "preempt is %s, not %s", now, want);
        free(now);
        for (unsigned k = 0; k < 20; k++) {
            load_turn(k);
        }
    }
}

/* Breakpoints of the kernel in pages of a program that several processes run. */
__attribute__((noinline, noclone)) static uint64_t probed(uint64_t i)
{
    __asm__ volatile("" : "+r"(i));
    return i * 5 + 3;
}

static uint64_t file_offset(const void *address)
{
    char *maps = get("/proc/self/maps"), *save = NULL;
    uint64_t found = 0;
    for (char *line = strtok_r(maps, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        unsigned long from, to, at;
        if (sscanf(line, "%lx-%lx %*s %lx", &from, &to, &at) == 3 &&
            (uintptr_t)address >= from && (uintptr_t)address < to) {
            found = (uintptr_t)address - from + at;
        }
    }
    free(maps);
    return found;
}

static void call_probed(unsigned n)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < n; i++) {
        sum += probed(i);
    }
    CHECK(sum == 5ull * n * (n - 1) / 2 + 3ull * n, "sum %lu", sum);
}

static void uprobes(void)
{
    char exe[256], text[400];
    ssize_t len = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    SYS(len > 0);
    exe[len] = 0;
    mount_all();
    load_start();
    _Atomic unsigned *turn =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    SYS(turn != MAP_FAILED);
    for (unsigned i = 1; i <= t_times(5); i++) {
        pid_t pid[CALLERS];
        truncate_file(TRACING "trace");
        put(TRACING "tracing_on", "1");
        /* Half of the processes are there before the probe. */
        for (unsigned k = 0; k < CALLERS; k++) {
            if (k == CALLERS / 2) {
                snprintf(text, sizeof(text), "p:vu/u %s:0x%lx", exe,
                         file_offset((const void *)(uintptr_t)probed));
                put(TRACING "uprobe_events", text);
                text[0] = 'r';
                text[5] = 'r';
                put(TRACING "uprobe_events", text);
                put(TRACING "events/vu/enable", "1");
                atomic_store(turn, i);
            }
            SYS((pid[k] = fork()) >= 0);
            if (pid[k] == 0) {
                call_probed(k < CALLERS / 2 ? 0 : 1);
                while (atomic_load(turn) != i) {
                    usleep(1000);
                }
                call_probed(k < CALLERS / 2 ? 200 : 199);
                _exit(0);
            }
        }
        for (unsigned k = 0; k < CALLERS; k++) {
            t_reap(pid[k]);
        }
        put(TRACING "events/vu/enable", "0");
        call_probed(50);
        /* The profile's counters are not atomic in this kernel; the trace has every hit. */
        char *trace = get(TRACING "trace");
        expect_calls(trace, ": u: (", "", 200 * CALLERS);
        expect_calls(trace, ": r: (", "", 200 * CALLERS);
        free(trace);
        truncate_file(TRACING "uprobe_events");
        call_probed(50);
    }
    load_stop();
}

/* BPF by the system call. */
#define INSN(c, d, s, o, i)                                                                    \
    (struct bpf_insn)                                                                          \
    {                                                                                          \
        .code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)                    \
    }
#define MOV(d, i)         INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define MOVR(d, s)        INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define ALU(op, d, i)     INSN(BPF_ALU64 | (op) | BPF_K, d, 0, 0, i)
#define ALUR(op, d, s)    INSN(BPF_ALU64 | (op) | BPF_X, d, s, 0, 0)
#define JMP(op, d, i, o)  INSN(BPF_JMP | (op) | BPF_K, d, 0, o, i)
#define LD(size, d, s, o) INSN(BPF_LDX | BPF_MEM | (size), d, s, o, 0)
#define ST(size, d, s, o) INSN(BPF_STX | BPF_MEM | (size), d, s, o, 0)
#define CALL(f)           INSN(BPF_JMP | BPF_CALL, 0, 0, 0, f)
#define EXIT              INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)

static int bpf(int command, union bpf_attr *attr)
{
    return (int)syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static int load_program(enum bpf_prog_type type, const struct bpf_insn *insns, size_t n)
{
    static char log[65536];
    union bpf_attr attr = {0};
    attr.prog_type = type;
    attr.insns = (uintptr_t)insns;
    attr.insn_cnt = (uint32_t)n;
    attr.license = (uintptr_t) "GPL";
    attr.log_buf = (uintptr_t)log;
    attr.log_size = sizeof(log);
    attr.log_level = 1;
    int fd = bpf(BPF_PROG_LOAD, &attr);
    CHECK(fd >= 0, "BPF program: %s: %s", strerror(errno), log);
    return fd;
}

static uint32_t test_run(int prog, unsigned repeat)
{
    uint8_t data[64] = {0};
    union bpf_attr attr = {0};
    attr.test.prog_fd = (uint32_t)prog;
    attr.test.data_in = (uintptr_t)data;
    attr.test.data_size_in = sizeof(data);
    attr.test.repeat = repeat;
    SYS(bpf(BPF_PROG_TEST_RUN, &attr) == 0);
    return attr.test.retval;
}

static void check_is_jited(int prog)
{
    struct bpf_prog_info info = {0};
    union bpf_attr attr = {0};
    attr.info.bpf_fd = (uint32_t)prog;
    attr.info.info_len = sizeof(info);
    attr.info.info = (uintptr_t)&info;
    SYS(bpf(BPF_OBJ_GET_INFO_BY_FD, &attr) == 0);
    CHECK(info.jited_prog_len > 0, "the program is not compiled");
}

/* A loop of arithmetic; the same in C is the expectation. */
static uint32_t mix(uint64_t seed, unsigned turns)
{
    uint64_t a = seed, b = 0x12345;
    for (unsigned i = 0; i < turns; i++) {
        a *= 0x5bd1e995;
        a ^= b >> 7;
        b += a / 3;
        b = (b << 9) - a;
        a |= 1;
        b %= 1000003;
    }
    return (uint32_t)(a + b) & 0x7fffffff;
}

static int load_mix(uint32_t seed, unsigned turns)
{
    const struct bpf_insn code[] = {
        MOV(6, (int)seed),
        MOV(7, 0x12345),
        MOV(8, (int)turns),
        ALU(BPF_MUL, 6, 0x5bd1e995),
        MOVR(0, 7),
        ALU(BPF_RSH, 0, 7),
        ALUR(BPF_XOR, 6, 0),
        MOVR(0, 6),
        ALU(BPF_DIV, 0, 3),
        ALUR(BPF_ADD, 7, 0),
        ALU(BPF_LSH, 7, 9),
        ALUR(BPF_SUB, 7, 6),
        ALU(BPF_OR, 6, 1),
        ALU(BPF_MOD, 7, 1000003),
        ALU(BPF_SUB, 8, 1),
        JMP(BPF_JNE, 8, 0, -13),
        MOVR(0, 6),
        ALUR(BPF_ADD, 0, 7),
        ALU(BPF_AND, 0, 0x7fffffff),
        EXIT,
    };
    return load_program(BPF_PROG_TYPE_SOCKET_FILTER, code, T_LEN(code));
}

/* Programs come and go, so that others are compiled to where they were. */
static void bpf_programs(void)
{
    pid_t pid[2];
    mount_all();
    load_start();
    for (unsigned p = 0; p < 2; p++) {
        SYS((pid[p] = fork()) >= 0);
        if (pid[p] != 0) {
            continue;
        }
        for (unsigned i = 1; i <= t_times(60); i++) {
            unsigned turns = 1 + i % 50;
            int prog = load_mix(i * 77 + p, turns);
            if (i == 1) {
                check_is_jited(prog);
            }
            uint32_t got = test_run(prog, 1 + i % 5), want = mix(i * 77 + p, turns);
            CHECK(got == want, "program %u.%u: %#x, not %#x", p, i, got, want);
            close(prog);
        }
        _exit(0);
    }
    t_reap(pid[0]);
    t_reap(pid[1]);
    load_stop();
}

static void bpf_filter(void)
{
    /* Accepts packets of even length. */
    const struct bpf_insn even[] = {
        LD(BPF_W, 0, 1, 0),
        ALU(BPF_AND, 0, 1),
        ALU(BPF_SUB, 0, 1),
        EXIT,
    };
    mount_all();
    for (unsigned round = 0; round < t_times(10); round++) {
        int s[2], prog = load_program(BPF_PROG_TYPE_SOCKET_FILTER, even, T_LEN(even));
        char text[128] = {0};
        SYS(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, s) == 0);
        SYS(setsockopt(s[1], SOL_SOCKET, SO_ATTACH_BPF, &prog, sizeof(prog)) == 0);
        for (unsigned n = 2; n < 100; n++) {
            ssize_t sent = send(s[0], text, n, 0);
            CHECK(sent == (ssize_t)n || (n % 2 && sent < 0), "send of %u: %zd", n, sent);
            ssize_t got = recv(s[1], text, sizeof(text), 0);
            CHECK(n % 2 ? got < 0 && errno == EAGAIN : got == (ssize_t)n, "packet of %u: %zd",
                  n, got);
        }
        close(s[0]);
        close(s[1]);
        close(prog);
        /* Classic BPF, for system calls. */
        pid_t pid = fork();
        SYS(pid >= 0);
        if (pid == 0) {
            struct sock_filter deny[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getsid, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)(40 + round % 50)),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
            };
            struct sock_fprog fprog = {T_LEN(deny), deny};
            SYS(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
            SYS(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &fprog) == 0);
            for (unsigned i = 0; i < 100; i++) {
                long r = syscall(SYS_getsid, 0);
                CHECK(r < 0 && errno == (int)(40 + round % 50), "filtered: %ld, errno %d", r,
                      errno);
                CHECK(syscall(SYS_getppid) > 0, "getppid");
            }
            _exit(0);
        }
        t_reap(pid);
    }
}

/* A program at a tracepoint and one at a kprobe count the same calls. */
static int attach(int event_id, int prog)
{
    struct perf_event_attr attr = {.type = PERF_TYPE_TRACEPOINT,
                                   .size = sizeof(attr),
                                   .config = (uint64_t)event_id,
                                   .sample_period = 1};
    int fd = (int)syscall(SYS_perf_event_open, &attr, -1, 0, -1, 0);
    SYS(fd >= 0);
    SYS(ioctl(fd, PERF_EVENT_IOC_SET_BPF, prog) == 0);
    SYS(ioctl(fd, PERF_EVENT_IOC_ENABLE, 0) == 0);
    return fd;
}

static int load_counter(enum bpf_prog_type type, int map, int key)
{
    const struct bpf_insn code[] = {
        MOV(0, key),
        ST(BPF_W, 10, 0, -4),
        MOVR(2, 10),
        ALU(BPF_ADD, 2, -4),
        INSN(BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_FD, 0, map),
        INSN(0, 0, 0, 0, 0),
        CALL(BPF_FUNC_map_lookup_elem),
        JMP(BPF_JEQ, 0, 0, 2),
        MOV(1, 1),
        INSN(BPF_STX | BPF_ATOMIC | BPF_DW, 0, 1, 0, BPF_ADD),
        MOV(0, 0),
        EXIT,
    };
    return load_program(type, code, T_LEN(code));
}

static uint64_t map_value(int map, uint32_t key)
{
    uint64_t value = 0;
    union bpf_attr attr = {0};
    attr.map_fd = (uint32_t)map;
    attr.key = (uintptr_t)&key;
    attr.value = (uintptr_t)&value;
    SYS(bpf(BPF_MAP_LOOKUP_ELEM, &attr) == 0);
    return value;
}

static int number_in(const char *path)
{
    char *text = get(path);
    int n = (int)strtol(text, NULL, 10);
    free(text);
    return n;
}

static void bpf_tracing(void)
{
    mount_all();
    load_start();
    for (unsigned round = 0; round < t_times(6); round++) {
        union bpf_attr attr = {0};
        attr.map_type = BPF_MAP_TYPE_ARRAY;
        attr.key_size = 4;
        attr.value_size = 8;
        attr.max_entries = 2;
        int map = bpf(BPF_MAP_CREATE, &attr);
        SYS(map >= 0);
        put(TRACING "kprobe_events", "p:vb/k __x64_sys_getsid");
        int progs[2] = {load_counter(BPF_PROG_TYPE_TRACEPOINT, map, 0),
                        load_counter(BPF_PROG_TYPE_KPROBE, map, 1)};
        int ids[2] = {number_in(TRACING "events/syscalls/sys_enter_getsid/id"),
                      number_in(TRACING "events/vb/k/id")};
        int events[2] = {attach(ids[0], progs[0]), attach(ids[1], progs[1])};
        call_getsid(100);
        close(events[0]);
        close(events[1]);
        call_getsid(10);
        for (unsigned k = 0; k < 2; k++) {
            uint64_t n = map_value(map, k);
            CHECK(n == 100 * CALLERS, "program %u counted %lu of %u", k, n, 100 * CALLERS);
            close(progs[k]);
        }
        close(map);
        truncate_file(TRACING "kprobe_events");
    }
    load_stop();
}

/* Modules: their init code is freed, and its place used again. */
static void run(const char *command)
{
    int status = system(command);
    CHECK(status == 0, "%s: status 0x%x", command, status);
}

static void use_overlay(void)
{
    run("mkdir -p /tmp/ov && mount -t tmpfs ov /tmp/ov && cd /tmp/ov && mkdir l u w m && "
        "echo below >l/f && mount -t overlay -o lowerdir=l,upperdir=u,workdir=w ov m && "
        "[ \"$(cat m/f)\" = below ] && echo above >m/f && [ \"$(cat l/f) $(cat u/f)\" = 'below "
        "above' ]"
        " && umount m && cd / && umount /tmp/ov");
}

static void modules(void)
{
    mount_all();
    if (system("modprobe -q overlay && modprobe -q -r overlay") != 0) {
        t_skip("no module overlay");
    }
    load_start();
    pid_t other = fork();
    SYS(other >= 0);
    for (unsigned i = 0; i < t_times(4); i++) {
        if (other == 0) {
            run("modprobe squashfs && modprobe isofs && modprobe -r isofs && modprobe loop &&"
                " [ -e /sys/module/loop ] && modprobe -r squashfs && modprobe -r loop &&"
                " ! [ -e /sys/module/loop ]");
        } else {
            run("modprobe overlay && modprobe vfat");
            use_overlay();
            run("modprobe nls_cp437; modprobe -r overlay && modprobe -r vfat; modprobe -r "
                "nls_cp437;"
                " ! [ -e /sys/module/overlay ]");
        }
    }
    if (other == 0) {
        _exit(0);
    }
    t_reap(other);
    load_stop();
}

static const struct t_case cases[] = {
    {"function_tracer", function_tracer},
    {"graph_tracer", graph_tracer},
    {"kprobes", kprobes},
    {"static_keys", static_keys},
    {"static_calls", static_calls},
    {"uprobes", uprobes},
    {"bpf_programs", bpf_programs},
    {"bpf_filter", bpf_filter},
    {"bpf_tracing", bpf_tracing},
    {"modules", modules},
};

int main(int argc, char **argv)
{
    return t_main(argc, argv, "patch", cases, T_LEN(cases));
}
