/*
 * Load for a guest, made into a static program: processes, exec, pipes, sockets, mapped memory,
 * signals and files at once, each result checked. Arguments: seconds, and the number of
 * workers. Exit status 0 and the line "load: N rounds" when nothing went wrong.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static void expect(int ok, const char *what)
{
    if (!ok) {
        fail(what);
    }
}

static uint32_t next(uint32_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 17;
    *x ^= *x << 5;
    return *x;
}

/* A child that execs this program, which exits with the argument it gets. */
static void try_exec(uint32_t seed)
{
    char text[16];
    int status;
    snprintf(text, sizeof(text), "%u", seed % 100);
    pid_t pid = fork();
    expect(pid >= 0, "fork");
    if (pid == 0) {
        execl("/proc/self/exe", "load", "exit", text, (char *)NULL);
        _exit(127);
    }
    expect(waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
               WEXITSTATUS(status) == (int)(seed % 100),
           "exit status of a child");
}

/* Bytes through a pair of descriptors to a child and back, changed. */
static void echo_child(int in, int out)
{
    uint8_t b[4096];
    ssize_t n;
    while ((n = read(in, b, sizeof(b))) > 0) {
        for (ssize_t i = 0; i < n; i++) {
            b[i] ^= 0x5a;
        }
        for (ssize_t at = 0; at < n;) {
            ssize_t w = write(out, b + at, (size_t)(n - at));
            if (w <= 0) {
                _exit(1);
            }
            at += w;
        }
    }
    _exit(0);
}

static void exchange(int in, int out, uint32_t seed)
{
    uint8_t send[3000], got[3000];
    for (unsigned round = 0; round < 8; round++) {
        size_t n = 1 + next(&seed) % sizeof(send);
        for (size_t i = 0; i < n; i++) {
            send[i] = (uint8_t)next(&seed);
        }
        expect(write(out, send, n) == (ssize_t)n, "write");
        for (size_t at = 0; at < n;) {
            ssize_t r = read(in, got + at, n - at);
            expect(r > 0, "read");
            at += (size_t)r;
        }
        for (size_t i = 0; i < n; i++) {
            expect(got[i] == (send[i] ^ 0x5a), "bytes that came back");
        }
    }
}

static void try_pipe(uint32_t seed)
{
    int to[2], from[2], status;
    expect(pipe(to) == 0 && pipe(from) == 0, "pipe");
    pid_t pid = fork();
    expect(pid >= 0, "fork");
    if (pid == 0) {
        close(to[1]);
        close(from[0]);
        echo_child(to[0], from[1]);
    }
    close(to[0]);
    close(from[1]);
    exchange(from[0], to[1], seed);
    close(to[1]);
    close(from[0]);
    expect(waitpid(pid, &status, 0) == pid && status == 0, "end of a pipe's child");
}

static void try_socket(uint32_t seed)
{
    int s[2], status;
    expect(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0, "socketpair");
    pid_t pid = fork();
    expect(pid >= 0, "fork");
    if (pid == 0) {
        close(s[0]);
        echo_child(s[1], s[1]);
    }
    close(s[1]);
    exchange(s[0], s[0], seed);
    close(s[0]);
    expect(waitpid(pid, &status, 0) == pid && status == 0, "end of a socket's child");
}

/* Private and shared mappings across fork: copy on write, and not. */
static void try_memory(uint32_t seed)
{
    size_t n = (1 + seed % 64) * 4096;
    int status;
    uint32_t *own = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t *both = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    expect(own != MAP_FAILED && both != MAP_FAILED, "mmap");
    for (size_t i = 0; i < n / 4; i += 17) {
        own[i] = seed + (uint32_t)i;
    }
    pid_t pid = fork();
    expect(pid >= 0, "fork");
    if (pid == 0) {
        for (size_t i = 0; i < n / 4; i += 17) {
            both[i] = own[i] * 3;
            own[i] = 0;
        }
        _exit(0);
    }
    expect(waitpid(pid, &status, 0) == pid && status == 0, "end of a memory's child");
    for (size_t i = 0; i < n / 4; i += 17) {
        expect(own[i] == seed + (uint32_t)i && both[i] == own[i] * 3, "memory after fork");
    }
    expect(mprotect(own, n, PROT_NONE) == 0 && munmap(own, n) == 0 && munmap(both, n) == 0,
           "munmap");
}

static volatile sig_atomic_t signals;
static void on_signal(int sig)
{
    (void)sig;
    signals++;
}

static void try_signals(void)
{
    int before = signals;
    for (unsigned i = 0; i < 20; i++) {
        raise(SIGUSR1);
    }
    expect(signals == before + 20, "signals");
}

static void try_file(uint32_t seed, unsigned worker)
{
    char name[64], text[64], got[64];
    snprintf(name, sizeof(name), "/tmp/load.%u.%u", worker, seed % 16);
    snprintf(text, sizeof(text), "%u %u", worker, seed);
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    expect(fd >= 0, "open");
    expect(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write of a file");
    expect(pread(fd, got, sizeof(got), 0) == (ssize_t)strlen(text) &&
               memcmp(got, text, strlen(text)) == 0,
           "contents of a file");
    close(fd);
    expect(unlink(name) == 0, "unlink");
}

/* Floating point that other processes must not disturb. */
static void try_float(uint32_t seed)
{
    double a[16], sum = 0, again = 0;
    for (unsigned i = 0; i < 16; i++) {
        a[i] = 1.0 / (double)(1 + next(&seed) % 1000);
    }
    for (unsigned i = 0; i < 16; i++) {
        sum += a[i] * a[15 - i];
    }
    usleep(0);
    for (unsigned i = 0; i < 16; i++) {
        again += a[i] * a[15 - i];
    }
    expect(sum == again, "a floating-point sum");
}

static unsigned work(unsigned worker, time_t end)
{
    uint32_t seed = 12345 + worker * 7919;
    unsigned rounds = 0;
    struct sigaction act = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &act, NULL);
    while (time(NULL) < end) {
        switch (next(&seed) % 7) {
        case 0: try_exec(seed); break;
        case 1: try_pipe(seed); break;
        case 2: try_socket(seed); break;
        case 3: try_memory(seed); break;
        case 4: try_signals(); break;
        case 5: try_file(seed, worker); break;
        default: try_float(seed); break;
        }
        rounds++;
    }
    return rounds;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "exit") == 0) {
        return (int)strtol(argv[2], NULL, 10);
    }
    if (argc != 3) {
        fprintf(stderr, "usage: load SECONDS WORKERS\n");
        return 2;
    }
    time_t end = time(NULL) + strtol(argv[1], NULL, 10);
    long workers = strtol(argv[2], NULL, 10);
    int bad = 0, status;
    for (long i = 0; i < workers; i++) {
        pid_t pid = fork();
        expect(pid >= 0, "fork of a worker");
        if (pid == 0) {
            printf("load: %u rounds\n", work((unsigned)i, end));
            fflush(stdout);
            _exit(0);
        }
    }
    for (long i = 0; i < workers; i++) {
        bad |= wait(&status) < 0 || status != 0;
    }
    printf("load: %s\n", bad ? "FAILED" : "all well");
    return bad;
}
