/*
 * What the network helper can still do once it has locked itself in: each attempt runs in a
 * child of its own that enters the sandbox first. Under a sanitizer, whose runtime needs system
 * calls of its own, what would be killed is refused instead.
 */
#include "net/helper/sandbox.h"

#include "base/ckd.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define WORKED    0
#define REFUSED   10 /* by the system call filter or Landlock */
#define NO_FILTER 20

typedef long attempt_fn(void);

/* How an attempt in the sandbox ends: one of the above, or 128 + the signal that killed it. */
static int attempt(enum sandbox_kind kind, attempt_fn *fn)
{
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (sandbox_enter(kind, NULL) < 0) {
            _exit(NO_FILTER);
        }
        _exit(fn() < 0 ? REFUSED : WORKED);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static long open_file(void)
{
    return open("/etc/passwd", O_RDONLY | O_CLOEXEC);
}

static long create_file(void)
{
    return open("/tmp/viv-net-sandbox-test", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
}

static long inet_socket(void)
{
    return socket(AF_INET, SOCK_STREAM, 0) | socket(AF_INET6, SOCK_DGRAM, 0);
}

static long unix_socket(void)
{
    return socket(AF_UNIX, SOCK_STREAM, 0);
}

static long packet_socket(void)
{
    return socket(AF_PACKET, SOCK_RAW, 0);
}

static long execute(void)
{
    char *const argv[] = {(char[]){"true"}, NULL};
    return execve("/bin/true", argv, argv + 1);
}

static long fork_child(void)
{
    return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

static long map_code(void)
{
    void *p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? -1 : 0;
}

static long map_data(void)
{
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? -1 : 0;
}

static long trace(void)
{
    return ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}

static long become_root(void)
{
    return setresuid(0, 0, 0);
}

static const struct {
    const char *name;
    enum sandbox_kind kind;
    attempt_fn *fn;
    int want; /* 128 + SIGSYS: killed */
} attempts[] = {
    {"map data", SANDBOX_STACK, map_data, WORKED},
    {"Internet socket", SANDBOX_STACK, inet_socket, WORKED},
    {"open a file", SANDBOX_STACK, open_file, REFUSED},
    {"Unix socket", SANDBOX_STACK, unix_socket, REFUSED},
    {"packet socket", SANDBOX_STACK, packet_socket, REFUSED},
    {"execute", SANDBOX_STACK, execute, 128 + SIGSYS},
    {"fork", SANDBOX_STACK, fork_child, 128 + SIGSYS},
    {"map code", SANDBOX_STACK, map_code, 128 + SIGSYS},
    {"trace", SANDBOX_STACK, trace, 128 + SIGSYS},
    {"become root", SANDBOX_STACK, become_root, 128 + SIGSYS},
    {"read a file", SANDBOX_FILE_READER, open_file, WORKED},
    {"Internet socket, reader", SANDBOX_FILE_READER, inet_socket, 128 + SIGSYS},
    {"execute, reader", SANDBOX_FILE_READER, execute, 128 + SIGSYS},
};

static void holds(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(attempts); i++) {
        int got = attempt(attempts[i].kind, attempts[i].fn), want = attempts[i].want;
        if (got == REFUSED && want == 128 + SIGSYS && sandbox_refuses()) {
            continue;
        }
        if (got != want) {
            fail_msg("%s: ended with %d, not %d", attempts[i].name, got, want);
        }
    }
}

/* Only where Landlock is there: the filter lets the reader open files, for reading or not. */
static void reader_writes_no_files(void **state)
{
    (void)state;
    if (syscall(SYS_landlock_create_ruleset, NULL, 0, 1) < 1) {
        printf("no Landlock here: not tested\n");
        return;
    }
    assert_int_equal(attempt(SANDBOX_FILE_READER, create_file), REFUSED);
    assert_int_not_equal(access("/tmp/viv-net-sandbox-test", F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(holds),
        cmocka_unit_test(reader_writes_no_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
