/*
 * System items: the kernel's work on behalf of a program, all on one CPU. Failing calls abort:
 * a guest that cannot fork has no figure.
 */
#include "item.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define GETPIDS     1000u
#define ROUND_TRIPS 50u
#define BULK_CHUNK  65536u
#define BULK_CHUNKS 16u
#define FAULT_PAGES 256u
#define PAGE_BYTES  4096u

static void must(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        abort();
    }
}

static void *nothing_setup(size_t size)
{
    return malloc(size);
}

static uint64_t getpid_unit(void *data)
{
    uint64_t same = 0, pid = (uint64_t)syscall(SYS_getpid);

    (void)data;
    for (unsigned i = 0; i < GETPIDS; i++) {
        same += (uint64_t)syscall(SYS_getpid) == pid;
    }
    return same;
}

/* Two processes and a pipe each way. */
struct pair {
    pid_t child;
    int to, from;
    uint8_t chunk[BULK_CHUNK];
};

static void read_all(int fd, uint8_t *p, size_t size)
{
    while (size > 0) {
        ssize_t got = read(fd, p, size);
        must(got > 0, "read from a pipe");
        p += got;
        size -= (size_t)got;
    }
}

/* Answers every message of `size` bytes by one byte, until the pipe is closed. */
static void answer(int from, int to, size_t size)
{
    static uint8_t chunk[BULK_CHUNK];

    for (;;) {
        size_t have = 0;
        while (have < size) {
            ssize_t got = read(from, chunk + have, size - have);
            if (got <= 0) {
                _exit(0);
            }
            have += (size_t)got;
        }
        uint8_t reply = (uint8_t)(chunk[0] + chunk[size - 1] + 1);
        if (write(to, &reply, 1) != 1) {
            _exit(1);
        }
    }
}

static void *pair_setup(size_t size)
{
    struct pair *p = malloc(sizeof(*p));
    int there[2], back[2];

    must(p != NULL && pipe2(there, O_CLOEXEC) == 0 && pipe2(back, O_CLOEXEC) == 0, "pipe");
    must((p->child = fork()) >= 0, "fork");
    if (p->child == 0) {
        close(there[1]);
        close(back[0]);
        answer(there[0], back[1], size);
    }
    close(there[0]);
    close(back[1]);
    p->to = there[1];
    p->from = back[0];
    for (size_t i = 0; i < sizeof(p->chunk); i++) {
        p->chunk[i] = (uint8_t)(i * 7);
    }
    return p;
}

static void pair_free(void *data)
{
    struct pair *p = data;

    close(p->to);
    close(p->from);
    must(waitpid(p->child, NULL, 0) == p->child, "waitpid");
    free(p);
}

static uint64_t talk(struct pair *p, size_t size, unsigned times)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < times; i++) {
        uint8_t reply;
        p->chunk[0] = (uint8_t)i;
        must(write(p->to, p->chunk, size) == (ssize_t)size, "write to a pipe");
        read_all(p->from, &reply, 1);
        sum = sum * 31 + reply;
    }
    return sum;
}

static uint64_t pipe_unit(void *data)
{
    return talk(data, 1, ROUND_TRIPS);
}

static uint64_t pipe_bulk_unit(void *data)
{
    return talk(data, BULK_CHUNK, BULK_CHUNKS);
}

/* Maps, writes one byte into each page, unmaps. */
static uint64_t fault_unit(void *data)
{
    uint8_t *p = pages_new(FAULT_PAGES * PAGE_BYTES);
    uint64_t sum = 0;

    (void)data;
    must(p != NULL, "mmap");
    for (unsigned i = 0; i < FAULT_PAGES; i++) {
        sum = sum * 31 + p[i * PAGE_BYTES] + i;
        p[i * PAGE_BYTES] = 1;
    }
    must(munmap(p, FAULT_PAGES * PAGE_BYTES) == 0, "munmap");
    return sum;
}

static uint64_t status_of(pid_t child)
{
    int status = 0;

    must(child > 0 && waitpid(child, &status, 0) == child, "fork and wait");
    return (uint64_t)status;
}

static uint64_t fork_unit(void *data)
{
    pid_t child = fork();

    (void)data;
    if (child == 0) {
        _exit(42);
    }
    return status_of(child);
}

/* This program itself, told to end at once: start and end of a small static program. */
static uint64_t exec_unit(void *data)
{
    static char name[] = "bench", end[] = "--exit";
    char *argv[] = {name, end, NULL}, *none[] = {NULL};
    const char *self = (const char *)getauxval(AT_EXECFN);
    pid_t child = fork();

    (void)data;
    if (child == 0) {
        execve(self, argv, none);
        _exit(1);
    }
    return status_of(child);
}

static const struct item items[] = {
    {"getpid", "system", "call", GETPIDS, nothing_setup, 1, getpid_unit, free, NULL},
    {"pipe", "system", "round trip", ROUND_TRIPS, pair_setup, 1, pipe_unit, pair_free, NULL},
    {"pipe-bulk", "system", "KiB", BULK_CHUNKS *BULK_CHUNK / 1024, pair_setup, BULK_CHUNK,
     pipe_bulk_unit, pair_free, NULL},
    {"fault", "system", "page", FAULT_PAGES, nothing_setup, 1, fault_unit, free, NULL},
    {"fork", "system", "process", 1, nothing_setup, 1, fork_unit, free, NULL},
    {"exec", "system", "process", 1, nothing_setup, 1, exec_unit, free, NULL},
};

const struct item_list sys_items = {items, sizeof(items) / sizeof(items[0])};
