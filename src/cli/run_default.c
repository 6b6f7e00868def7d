/* The default guest's place, and recognition of kernels by their first bytes (run_default.h).
 */
#include "cli/run_default.h"

#include "base/bytes.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define DEFAULT_GUEST_CMDLINE "console=ttyS0 quiet"

/* $XDG_CACHE_HOME must be absolute to count (XDG base directory specification). */
static char *default_guest_dir(void)
{
    const char *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    char *dir;

    if (cache != NULL && cache[0] == '/') {
        return asprintf(&dir, "%s/vivarium/default-guest", cache) < 0 ? NULL : dir;
    }
    if (home == NULL || home[0] == '\0') {
        const struct passwd *pw = getpwuid(getuid());
        home = pw != NULL ? pw->pw_dir : "/";
    }
    return asprintf(&dir, "%s/.cache/vivarium/default-guest", home) < 0 ? NULL : dir;
}

int run_default_guest(struct machine_config *cfg, struct err *err)
{
    _cleanup_free_ char *dir = default_guest_dir();

    if (dir == NULL || asprintf(&cfg->kernel, "%s/vmlinuz", dir) < 0) {
        cfg->kernel = NULL;
        return ERR(err, NO_MEMORY, ENOMEM, "no memory");
    }
    if (asprintf(&cfg->initrd, "%s/initrd.img", dir) < 0) {
        cfg->initrd = NULL;
        return ERR(err, NO_MEMORY, ENOMEM, "no memory");
    }
    if (access(cfg->kernel, F_OK) < 0 || access(cfg->initrd, F_OK) < 0) {
        return ERR(err, NOT_FOUND, ENOENT,
                   "there is no default guest in %s: make it with 'make guest' in Vivarium's "
                   "source, or name a kernel with --kernel",
                   dir);
    }
    if (cfg->cmdline == NULL) {
        cfg->cmdline = strdup(DEFAULT_GUEST_CMDLINE);
        if (cfg->cmdline == NULL) {
            return ERR(err, NO_MEMORY, ENOMEM, "no memory");
        }
    }
    return 0;
}

/* Linux boot protocol: "HdrS" at 202h. ELF: its magic. Multiboot 1: a header in the first 8
 * KiB. */
static bool begins_like_kernel(const uint8_t *head, size_t len)
{
    if (len >= 4 && memcmp(head, "\177ELF", 4) == 0) {
        return true;
    }
    if (len >= 0x206 && memcmp(head + 0x202, "HdrS", 4) == 0) {
        return true;
    }
    for (size_t i = 0; i + 12 <= len; i += 4) {
        if (get_le32(head + i) == 0x1badb002 &&
            (uint32_t)(get_le32(head + i) + get_le32(head + i + 4) + get_le32(head + i + 8)) ==
                0) {
            return true;
        }
    }
    return false;
}

int run_image_is_kernel(const char *path, struct err *err)
{
    uint8_t head[8192];
    struct stat st;
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        int e = errno;
        return ERR(err, NOT_FOUND, e, "%s: %s", path, strerror(e));
    }
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        return ERR(err, NOT_FOUND, EISDIR, "%s: is a directory, want a kernel", path);
    }
    ssize_t n = read(fd, head, sizeof(head));
    if (n < 0) {
        int e = errno;
        return ERR(err, IO, e, "%s: %s", path, strerror(e));
    }
    if (!begins_like_kernel(head, (size_t)n)) {
        return ERR(
            err, USAGE, EINVAL,
            "%s is no kernel, and there is no firmware yet to start a disk image with: name "
            "a kernel with --kernel FILE, and the image becomes its first disk",
            path);
    }
    return 0;
}
