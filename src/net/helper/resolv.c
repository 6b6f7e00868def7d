/*
 * resolv.conf without files (resolv.h), and the functions of libc and GLib that libslirp finds
 * here in their stead: the dynamic linker takes a program's own definition first.
 *
 *     stat, stat64, fopen, fopen64   answer for /etc/resolv.conf only, from memory
 *     g_log                          GLib's default writer would look at files and is not
 * limited
 *
 * One copy of the file, process-wide, because the replaced functions have no context argument.
 * The parent reads the file every few seconds: inotify does not follow the symbolic links that
 * resolv.conf usually is. It is the parent so that it can reap the child and pass its end on to
 * the VMM, whatever process 1 of a container does about orphans. libslirp: get_dns_addr.
 */
/* Otherwise the headers rename stat and fopen to the names that are defined beside them here.
 */
#undef _FILE_OFFSET_BITS

#include "net/helper/resolv.h"

#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "net/helper/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define RESOLV_PATH     "/etc/resolv.conf"
#define RESOLV_MAX      4096
#define RESOLV_CHECK_MS 3000

static struct {
    char text[RESOLV_MAX];
    size_t len;
    uint64_t version;
} resolv;

int stat(const char *path, struct stat *st);
int stat64(const char *path, struct stat64 *st);
FILE *fopen(const char *path, const char *mode);
FILE *fopen64(const char *path, const char *mode);
void g_log(const char *domain, int level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int resolv_stat(const char *path, long *ret_size, long *ret_mtime)
{
    if (strcmp(path, RESOLV_PATH) != 0) {
        errno = EACCES;
        return -1;
    }
    *ret_size = (long)resolv.len;
    *ret_mtime = (long)resolv.version;
    return 0;
}

int stat(const char *path, struct stat *st)
{
    memset(st, 0, sizeof(*st));
    return resolv_stat(path, &st->st_size, &st->st_mtim.tv_sec);
}

int stat64(const char *path, struct stat64 *st)
{
    memset(st, 0, sizeof(*st));
    return resolv_stat(path, &st->st_size, &st->st_mtim.tv_sec);
}

FILE *fopen(const char *path, const char *mode)
{
    if (strcmp(path, RESOLV_PATH) != 0 || mode[0] != 'r' || resolv.len == 0) {
        errno = EACCES;
        return NULL;
    }
    return fmemopen(resolv.text, resolv.len, "r");
}

FILE *fopen64(const char *path, const char *mode)
{
    return fopen(path, mode);
}

void g_log(const char *domain, int level, const char *fmt, ...)
{
    static struct log_limit limit;
    const int fatal = 1 << 1 | 1 << 2; /* G_LOG_FLAG_FATAL, G_LOG_LEVEL_ERROR */
    char text[300];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if ((level & fatal) != 0 || log_limit_pass(&limit, 4)) {
        log_warn("%s: %s", domain != NULL ? domain : "GLib", text);
    }
    if ((level & fatal) != 0) {
        abort();
    }
}

static size_t read_file(char *buf, size_t size)
{
    _cleanup_close_ int fd = open(RESOLV_PATH, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    size_t len = 0;
    while (fd >= 0 && len < size) {
        ssize_t n = read(fd, buf + len, size - len);
        if (n <= 0) {
            break;
        }
        len += (size_t)n;
    }
    return len;
}

/* The child is gone: ends as it did, a signal as 128 + its number, like a shell. */
static void __attribute__((noreturn)) end_as(pid_t child)
{
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    _exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

static void __attribute__((noreturn)) watch_file(int fd, pid_t child)
{
    char now[RESOLV_MAX], last[RESOLV_MAX];
    size_t last_len = resolv.len;

    memcpy(last, resolv.text, last_len);
    if (fd != 3) {
        dup2(fd, 3); /* in place of the VMM's socket */
    }
    syscall(SYS_close_range, 4u, ~0u, 0);
    if (sandbox_enter(SANDBOX_FILE_READER, NULL) < 0) {
        log_warn("changes of " RESOLV_PATH " are not followed: no sandbox");
        end_as(child);
    }
    for (;;) {
        struct pollfd pfd = {.fd = 3, .events = 0};
        int r = poll(&pfd, 1, RESOLV_CHECK_MS);
        if (r > 0 || (r < 0 && errno != EINTR)) {
            end_as(child);
        }
        size_t len = read_file(now, sizeof(now));
        if (len == 0 || (len == last_len && memcmp(now, last, len) == 0)) {
            continue;
        }
        memcpy(last, now, len);
        last_len = len;
        if (send(3, now, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN) {
            end_as(child);
        }
    }
}

int resolv_start(int *ret_fd, struct err *err)
{
    int sv[2];
    resolv.len = read_file(resolv.text, sizeof(resolv.text));
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0) {
        return ERR(err, LIMIT, errno, "cannot make a socket pair: %s", strerror(errno));
    }
    pid_t pid = fork();
    if (pid < 0) {
        int e = errno;
        close(sv[0]);
        close(sv[1]);
        return ERR(err, LIMIT, e, "cannot fork: %s", strerror(e));
    }
    if (pid > 0) {
        watch_file(sv[1], pid);
    }
    close(sv[1]);
    *ret_fd = sv[0];
    return 0;
}

bool resolv_update(int fd)
{
    char buf[RESOLV_MAX];
    ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
    if (n < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    if (n == 0) {
        return false;
    }
    memcpy(resolv.text, buf, (size_t)n);
    resolv.len = (size_t)n;
    resolv.version++;
    return true;
}
