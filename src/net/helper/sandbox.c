/*
 * Self-confinement of the helper (sandbox.h). The system call filter is built from the tables
 * below: a call that is not in its table kills the process, except those which libraries try
 * and can do without (RULE_REFUSE). seccomp(2), landlock(7), capabilities(7).
 *
 * Missing: an empty mount and process namespace, which many containers do not allow anyway.
 */
#include "net/helper/sandbox.h"

#include "base/ckd.h"

#include <errno.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOBODY 65534

#if defined(__SANITIZE_ADDRESS__)
#define HAVE_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#define HAVE_SANITIZER 1
#endif
#endif

enum rule_kind {
    RULE_ALLOW,
    RULE_REFUSE,  /* fails with EACCES */
    RULE_VALUES,  /* allowed when the argument is one of values, else EPERM */
    RULE_NO_BITS, /* allowed when the argument has none of values[0] */
};

struct rule {
    int nr;
    enum rule_kind kind;
    unsigned arg;
    unsigned n_values;
    uint32_t values[4];
};

/* Both processes: memory, time, ending, log lines. */
static const struct rule common_rules[] = {
#ifdef HAVE_SANITIZER
    {SYS_sigaltstack},
#endif
    {SYS_poll},
    {SYS_ppoll},
    {SYS_read},
    {SYS_write},
    {SYS_close},
    {SYS_sendto},
    {SYS_clock_gettime},
    {SYS_clock_nanosleep},
    {SYS_gettimeofday},
    {SYS_restart_syscall},
    {SYS_rt_sigreturn},
    {SYS_rt_sigprocmask},
    {SYS_exit},
    {SYS_exit_group},
    {SYS_getpid},
    {SYS_gettid},
    {SYS_tgkill},
    {SYS_brk},
    {SYS_munmap},
    {SYS_mremap},
    {SYS_madvise},
    {SYS_futex},
    {SYS_getrandom},
    {SYS_sched_yield},
    {SYS_mmap, RULE_NO_BITS, 2, 1, {PROT_EXEC}},
    {SYS_mprotect, RULE_NO_BITS, 2, 1, {PROT_EXEC}},
};

static const struct rule stack_rules[] = {
    {SYS_socket, RULE_VALUES, 0, 2, {AF_INET, AF_INET6}},
    {SYS_bind},
    {SYS_listen},
    {SYS_accept},
    {SYS_accept4},
    {SYS_connect},
    {SYS_shutdown},
    {SYS_getsockopt},
    {SYS_setsockopt},
    {SYS_getsockname},
    {SYS_getpeername},
    {SYS_recvfrom},
    {SYS_recvmsg},
    {SYS_recvmmsg},
    {SYS_sendmsg},
    {SYS_sendmmsg},
    {SYS_fcntl},
    {SYS_ioctl, RULE_VALUES, 1, 2, {FIONREAD, FIONBIO}},
    {SYS_open, RULE_REFUSE},
    {SYS_openat, RULE_REFUSE},
    {SYS_stat, RULE_REFUSE},
    {SYS_fstat, RULE_REFUSE},
    {SYS_newfstatat, RULE_REFUSE},
    {SYS_access, RULE_REFUSE},
    {SYS_readlink, RULE_REFUSE},
};

static const struct rule reader_rules[] = {
    {SYS_openat},
    {SYS_newfstatat},
    {SYS_fstat},
    {SYS_wait4},
};

#define FILTER_MAX 256
struct filter {
    struct sock_filter code[FILTER_MAX];
    unsigned short len;
};

static void emit(struct filter *f, uint16_t op, uint8_t jt, uint8_t jf, uint32_t k)
{
    if (f->len < FILTER_MAX) {
        f->code[f->len++] = (struct sock_filter){op, jt, jf, k};
    }
}

static void emit_return(struct filter *f, uint32_t action)
{
    emit(f, BPF_RET | BPF_K, 0, 0, action);
}

static void emit_rule(struct filter *f, const struct rule *rule, uint32_t deny)
{
    const uint32_t arg =
        (uint32_t)(offsetof(struct seccomp_data, args) + rule->arg * sizeof(uint64_t));
    const uint16_t jeq = BPF_JMP | BPF_JEQ | BPF_K, load = BPF_LD | BPF_W | BPF_ABS;
    const uint8_t n = (uint8_t)rule->n_values;

    switch (rule->kind) {
    case RULE_ALLOW:
        emit(f, jeq, 0, 1, (uint32_t)rule->nr);
        emit_return(f, SECCOMP_RET_ALLOW);
        break;
    case RULE_REFUSE:
        emit(f, jeq, 0, 1, (uint32_t)rule->nr);
        emit_return(f, SECCOMP_RET_ERRNO | EACCES);
        break;
    case RULE_VALUES:
        emit(f, jeq, 0, (uint8_t)(n + 3), (uint32_t)rule->nr);
        emit(f, load, 0, 0, arg);
        for (uint8_t i = 0; i < n; i++) {
            emit(f, jeq, (uint8_t)(n - i), 0, rule->values[i]);
        }
        emit_return(f, SECCOMP_RET_ERRNO | EPERM);
        emit_return(f, SECCOMP_RET_ALLOW);
        break;
    case RULE_NO_BITS:
        emit(f, jeq, 0, 4, (uint32_t)rule->nr);
        emit(f, load, 0, 0, arg);
        emit(f, BPF_JMP | BPF_JSET | BPF_K, 0, 1, rule->values[0]);
        emit_return(f, deny);
        emit_return(f, SECCOMP_RET_ALLOW);
        break;
    }
}

static int set_filter(enum sandbox_kind kind)
{
    /* The sanitizers' runtime makes calls of its own: there a refusal has to do. */
#ifdef HAVE_SANITIZER
    const uint32_t deny = SECCOMP_RET_ERRNO | EPERM;
#else
    const uint32_t deny = SECCOMP_RET_KILL_PROCESS;
#endif
    const struct rule *own = kind == SANDBOX_STACK ? stack_rules : reader_rules;
    size_t n_own = kind == SANDBOX_STACK ? ARRAY_LEN(stack_rules) : ARRAY_LEN(reader_rules);
    struct filter f = {.len = 0};

    emit(&f, BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, arch));
    emit(&f, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, AUDIT_ARCH_X86_64);
    emit_return(&f, SECCOMP_RET_KILL_PROCESS);
    emit(&f, BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < n_own; i++) {
        emit_rule(&f, &own[i], deny);
    }
    for (size_t i = 0; i < ARRAY_LEN(common_rules); i++) {
        emit_rule(&f, &common_rules[i], deny);
    }
    emit_return(&f, deny);

    struct sock_fprog prog = {.len = f.len, .filter = f.code};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0 ? -errno : 0;
}

static void set_limit(int what, rlim_t value)
{
    struct rlimit limit = {value, value};
    struct rlimit now;
    if (getrlimit((__rlimit_resource_t)what, &now) == 0 && now.rlim_max < value) {
        limit.rlim_cur = limit.rlim_max = now.rlim_max;
    }
    setrlimit((__rlimit_resource_t)what, &limit);
}

static void drop_privileges(void)
{
    /* First, while we may: this one needs a capability. */
    for (unsigned long cap = 0; cap < 64; cap++) {
        prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    }
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (geteuid() == 0) {
        /* Where nobody is not mapped (a user namespace) we stay what little we are. */
        if (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
            setresuid(NOBODY, NOBODY, NOBODY) < 0) {
            errno = 0;
        }
    }
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3];
    memset(none, 0, sizeof(none));
    syscall(SYS_capset, &head, none);
}

static void forbid_files(enum sandbox_kind kind)
{
    uint64_t all = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE |
                   LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                   LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR |
                   LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |
                   LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |
                   LANDLOCK_ACCESS_FS_MAKE_SYM;
    if (kind == SANDBOX_STACK) {
        all |= LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
    }
    struct landlock_ruleset_attr attr = {.handled_access_fs = all};
    int fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
    if (fd >= 0) {
        syscall(SYS_landlock_restrict_self, fd, 0);
        close(fd);
    }
}

bool sandbox_refuses(void)
{
#ifdef HAVE_SANITIZER
    return true;
#else
    return false;
#endif
}

int sandbox_enter(enum sandbox_kind kind, struct err *err)
{
    set_limit(RLIMIT_CORE, 0);
    set_limit(RLIMIT_NOFILE, kind == SANDBOX_STACK ? SANDBOX_MAX_FDS : 16);
#ifndef HAVE_SANITIZER
    set_limit(RLIMIT_AS, kind == SANDBOX_STACK ? 1024 * MIB : 64 * MIB);
#endif
    drop_privileges();
    if (kind == SANDBOX_STACK) {
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* set here: a change of user clears it */
    }
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        return ERR(err, HELPER, errno, "cannot give up privileges: %s", strerror(errno));
    }
    forbid_files(kind);
    set_limit(RLIMIT_NPROC, 0);
    int r = set_filter(kind);
    if (r < 0) {
        return ERR(err, HELPER, -r, "cannot set the system call filter: %s", strerror(-r));
    }
    return 0;
}
