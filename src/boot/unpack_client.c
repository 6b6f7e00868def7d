/*
 * The VM's side of viv-unpack: starts it on a part of a file, waits, and takes the sealed
 * result. The helper gets two descriptors and no environment; whatever becomes of it is an
 * error with a text, never more. Blocks the caller; used before the VM runs.
 */
#include "base/ckd.h"
#include "base/cleanup.h"
#include "boot/boot_priv.h"
#include "boot/unpack/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#ifndef VIV_LIBEXECDIR
#define VIV_LIBEXECDIR "/usr/libexec/vivarium"
#endif

/* Beside this program (also in the build tree), else in the installation. -ENOENT. */
static int find_helper(char *ret_path, size_t len)
{
    static const char *const places[] = {"",
                                         "/src/boot/unpack",
                                         "/../src/boot/unpack",
                                         "/unpack",
                                         "/../boot/unpack",
                                         "/../../src/boot/unpack",
                                         "/../libexec/vivarium"};
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (n > 0) {
        self[n] = '\0';
        const char *slash = strrchr(self, '/');
        int dir = slash != NULL ? (int)(slash - self) : 0;
        for (size_t i = 0; i < ARRAY_LEN(places); i++) {
            int m = snprintf(ret_path, len, "%.*s%s/" UNPACK_HELPER, dir, self, places[i]);
            if (m > 0 && (size_t)m < len && access(ret_path, X_OK) == 0) {
                return 0;
            }
        }
    }
    int m = snprintf(ret_path, len, "%s/" UNPACK_HELPER, VIV_LIBEXECDIR);
    return m > 0 && (size_t)m < len && access(ret_path, X_OK) == 0 ? 0 : -ENOENT;
}

static int spawn_helper(const char *path, char *const *argv, int in_fd, int out_fd,
                        pid_t *ret_pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    char *const env[] = {NULL};

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, in_fd, UNPACK_FD_IN);
    posix_spawn_file_actions_adddup2(&actions, out_fd, UNPACK_FD_OUT);
    int e = posix_spawn(ret_pid, path, &actions, &attr, argv, env);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    return -e;
}

static int run_helper(const char *path, char *const *argv, int in_fd, int out_fd,
                      int *ret_wstatus)
{
    /* Out of the way of the numbers they are moved to. */
    _cleanup_close_ int in = fcntl(in_fd, F_DUPFD_CLOEXEC, 10);
    _cleanup_close_ int out = fcntl(out_fd, F_DUPFD_CLOEXEC, 10);
    pid_t pid;
    int r;

    if (in < 0 || out < 0) {
        return -errno;
    }
    if ((r = spawn_helper(path, argv, in, out, &pid)) < 0) {
        return r;
    }
    while (waitpid(pid, ret_wstatus, 0) < 0) {
        if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

static int explain(const char *name, int wstatus, uint64_t max_bytes, struct err *err)
{
    if (WIFSIGNALED(wstatus)) {
        return ERR(err, IMAGE_BAD, EIO,
                   "kernel %s: unpacking it ended by signal %d (%s); the file is probably "
                   "damaged",
                   name, WTERMSIG(wstatus), strsignal(WTERMSIG(wstatus)));
    }
    switch (WEXITSTATUS(wstatus)) {
    case UNPACK_UNKNOWN:
        return ERR(err, IMAGE_BAD, ENOTSUP,
                   "kernel %s: compressed in an unknown way; gzip, bzip2, lzma, xz, lz4 and "
                   "zstd are known",
                   name);
    case UNPACK_CORRUPT:
        return ERR(err, IMAGE_BAD, EBADMSG,
                   "kernel %s: the compressed kernel inside is damaged or cut off", name);
    case UNPACK_TOO_LARGE:
        return ERR(err, IMAGE_BAD, EFBIG, "kernel %s: it unpacks to more than %" PRIu64 " MiB",
                   name, max_bytes / MIB);
    case UNPACK_IO:
        return ERR(err, IO, EIO, "kernel %s: reading it, or storing it unpacked, failed", name);
    default:
        return ERR(err, HELPER, EIO,
                   "kernel %s: the helper " UNPACK_HELPER " failed with status %d", name,
                   WEXITSTATUS(wstatus));
    }
}

int boot_unpack(const struct boot_file *f, uint64_t off, uint64_t len, uint64_t max_bytes,
                const char *helper, int *ret_fd, struct err *err)
{
    char path[PATH_MAX], name[] = UNPACK_HELPER, a[24], b[24], c[24];
    char *const argv[] = {name, a, b, c, NULL};
    int wstatus = 0, r;

    if (helper == NULL) {
        if (find_helper(path, sizeof(path)) < 0) {
            return ERR(err, HELPER, ENOENT,
                       "the program " UNPACK_HELPER " is not beside this one; install it");
        }
        helper = path;
    }
    _cleanup_close_ int fd = memfd_create("kernel", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        int e = errno;
        return ERR(err, NO_MEMORY, e, "no memory file for the kernel: %s", strerror(e));
    }
    snprintf(a, sizeof(a), "%" PRIu64, off);
    snprintf(b, sizeof(b), "%" PRIu64, len);
    snprintf(c, sizeof(c), "%" PRIu64, max_bytes);
    if ((r = run_helper(helper, argv, f->fd, fd, &wstatus)) < 0) {
        return ERR(err, HELPER, -r, "starting %s: %s", helper, strerror(-r));
    }
    if (!WIFEXITED(wstatus) || WEXITSTATUS(wstatus) != UNPACK_OK) {
        return explain(f->name, wstatus, max_bytes, err);
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW) < 0) {
        int e = errno;
        return ERR(err, HELPER, e, "sealing the unpacked kernel: %s", strerror(e));
    }
    *ret_fd = take_fd(&fd);
    return 0;
}
