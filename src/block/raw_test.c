/*
 * Raw files, with io_uring and with threads: contents, flush, holes, odd sizes, locking, errors
 * of the host, many requests at once (hostile-input cases 12, 18, 19, 43).
 */
#include "block/block.h"

#include "base/ckd.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define DISK_BYTES (4 * MIB)

struct fixture {
    char path[64];
    enum block_raw_engine engine;
    struct block_node *node;
};

static struct block_node *open_node(const struct fixture *f, bool readonly, int *ret_rc)
{
    struct block_raw_cfg cfg = {
        .path = f->path, .fd = -1, .readonly = readonly, .engine = f->engine};
    struct block_node *node = NULL;
    struct err err = {0};
    *ret_rc = block_raw_open(&cfg, &node, &err);
    return node;
}

static void make_file(struct fixture *f, uint64_t size)
{
    (void)snprintf(f->path, sizeof(f->path), "/tmp/viv-raw-test-XXXXXX");
    int fd = mkstemp(f->path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
}

static int setup_engine(void **state, enum block_raw_engine engine)
{
    int rc;
    struct fixture *f = calloc(1, sizeof(*f));
    make_file(f, DISK_BYTES);
    f->engine = engine;
    f->node = open_node(f, false, &rc);
    *state = f;
    if (rc == -ENOSYS || rc == -EPERM || rc == -ENOMEM) {
        f->engine = BLOCK_RAW_AUTO; /* no io_uring here: what a user gets is tested */
        f->node = open_node(f, false, &rc);
        print_message("no io_uring on this host: the fallback is tested twice\n");
    }
    assert_int_equal(rc, 0);
    return 0;
}

static int setup_uring(void **state)
{
    return setup_engine(state, BLOCK_RAW_URING);
}

static int setup_threads(void **state)
{
    return setup_engine(state, BLOCK_RAW_THREADS);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    block_free(f->node);
    unlink(f->path);
    free(f);
    return 0;
}

static void test_contents(void **state)
{
    struct fixture *f = *state;
    uint8_t out[8192];
    uint8_t in[8192];
    for (unsigned i = 0; i < sizeof(out); i++) {
        out[i] = (uint8_t)(i * 13 + i / 256);
    }
    assert_int_equal(block_rw_sync(f->node, BLOCK_WRITE, 512, out, sizeof(out)), 0);
    assert_int_equal(block_rw_sync(f->node, BLOCK_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(block_rw_sync(f->node, BLOCK_READ, 512, in, sizeof(in)), 0);
    assert_memory_equal(in, out, sizeof(in));
    int fd = open(f->path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, in, sizeof(in), 512), sizeof(in));
    assert_memory_equal(in, out, sizeof(in));
    close(fd);
    assert_int_equal(f->node->stats.ops[BLOCK_WRITE], 1);
    assert_int_equal(f->node->stats.ops[BLOCK_FLUSH], 1);
}

static void test_holes(void **state)
{
    struct fixture *f = *state;
    uint8_t *buf = malloc(MIB);
    struct stat before;
    struct stat after;
    memset(buf, 0x33, MIB);
    assert_int_equal(block_rw_sync(f->node, BLOCK_WRITE, 0, buf, MIB), 0);
    assert_int_equal(block_rw_sync(f->node, BLOCK_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(stat(f->path, &before), 0);
    assert_int_equal(block_rw_sync(f->node, BLOCK_DISCARD, 65536, NULL, 131072), 0);
    assert_int_equal(block_rw_sync(f->node, BLOCK_WRITE_ZEROES, 512, NULL, 1024), 0);
    assert_int_equal(block_rw_sync(f->node, BLOCK_DISCARD, 0, NULL, 0), 0);
    assert_int_equal(block_rw_sync(f->node, BLOCK_WRITE_ZEROES, 0, NULL, 0), 0);
    assert_int_equal(stat(f->path, &after), 0);
    assert_true(after.st_blocks < before.st_blocks);
    assert_int_equal(after.st_size, DISK_BYTES);
    assert_int_equal(block_rw_sync(f->node, BLOCK_READ, 0, buf, MIB), 0);
    for (unsigned i = 0; i < MIB; i++) {
        bool zero = (i >= 512 && i < 1536) || (i >= 65536 && i < 65536 + 131072);
        assert_int_equal(buf[i], zero ? 0 : 0x33);
    }
    /* The end of the disk stays where it is. */
    assert_int_equal(block_rw_sync(f->node, BLOCK_WRITE_ZEROES, DISK_BYTES - 4096, NULL, 4096),
                     0);
    assert_int_equal(stat(f->path, &after), 0);
    assert_int_equal(after.st_size, DISK_BYTES);
    free(buf);
}

static void test_refused_at_once(void **state)
{
    struct fixture *f = *state;
    uint8_t buf[1024];
    struct block_node *n = f->node;
    assert_int_equal(block_rw_sync(n, BLOCK_READ, DISK_BYTES, buf, 512), -ERANGE);
    assert_int_equal(block_rw_sync(n, BLOCK_WRITE, DISK_BYTES - 512, buf, 1024), -ERANGE);
    assert_int_equal(block_rw_sync(n, BLOCK_READ, UINT64_MAX - 511, buf, 512), -ERANGE);
    assert_int_equal(block_rw_sync(n, BLOCK_READ, 1, buf, 512), -EINVAL);
    assert_int_equal(block_rw_sync(n, BLOCK_READ, 0, buf, 511), -EINVAL);
    assert_int_equal(block_rw_sync(n, BLOCK_READ, 0, buf, 0), -EINVAL);
    assert_int_equal(block_rw_sync(n, BLOCK_DISCARD, DISK_BYTES, NULL, 512), -ERANGE);
    assert_int_equal(n->in_flight, 0);
}

static void test_readonly_and_lock(void **state)
{
    struct fixture *f = *state;
    uint8_t buf[512] = {0};
    int rc;
    (void)open_node(f, false, &rc);
    assert_int_equal(rc, -EBUSY);
    (void)open_node(f, true, &rc);
    assert_int_equal(rc, -EBUSY);
    block_free(f->node);
    /* Any number of readers, and no writer beside them. */
    f->node = open_node(f, true, &rc);
    assert_int_equal(rc, 0);
    struct block_node *second = open_node(f, true, &rc);
    assert_int_equal(rc, 0);
    (void)open_node(f, false, &rc);
    assert_int_equal(rc, -EBUSY);
    assert_int_equal(block_rw_sync(second, BLOCK_READ, 0, buf, 512), 0);
    assert_int_equal(block_rw_sync(second, BLOCK_WRITE, 0, buf, 512), -EROFS);
    assert_int_equal(block_rw_sync(second, BLOCK_DISCARD, 0, NULL, 512), -EROFS);
    assert_int_equal(block_rw_sync(second, BLOCK_FLUSH, 0, NULL, 0), 0);
    block_free(second);
}

static void test_sizes_and_types(void **state)
{
    struct fixture *f = *state;
    struct fixture odd = {.engine = f->engine};
    int rc;
    make_file(&odd, 1000);
    struct block_node *node = open_node(&odd, false, &rc);
    assert_int_equal(rc, 0);
    assert_int_equal(node->size_bytes, 512);
    block_free(node);
    assert_int_equal(truncate(odd.path, 511), 0);
    (void)open_node(&odd, false, &rc);
    assert_int_equal(rc, -EINVAL);
    unlink(odd.path);
    (void)open_node(&odd, false, &rc);
    assert_int_equal(rc, -ENOENT);
    assert_int_equal(mkfifo(odd.path, 0600), 0);
    (void)open_node(&odd, true, &rc);
    assert_int_equal(rc, -EINVAL);
    unlink(odd.path);
    (void)snprintf(odd.path, sizeof(odd.path), "/tmp");
    (void)open_node(&odd, true, &rc);
    assert_int_equal(rc, -EINVAL);
}

/* Case 12: whatever the guest writes, a raw disk stays raw. */
static void test_stays_raw(void **state)
{
    struct fixture *f = *state;
    uint8_t buf[512] = {'Q', 'F', 'I', 0xfb, 0, 0, 0, 3};
    int rc;
    assert_int_equal(block_rw_sync(f->node, BLOCK_WRITE, 0, buf, 512), 0);
    block_free(f->node);
    f->node = open_node(f, false, &rc);
    assert_int_equal(rc, 0);
    assert_int_equal(f->node->size_bytes, DISK_BYTES);
    uint8_t in[512];
    assert_int_equal(block_rw_sync(f->node, BLOCK_READ, 0, in, 512), 0);
    assert_memory_equal(in, buf, 512);
}

static void test_file_cut_behind_our_back(void **state)
{
    struct fixture *f = *state;
    uint8_t *buf = malloc(65536);
    assert_int_equal(truncate(f->path, 32768), 0);
    assert_int_equal(block_rw_sync(f->node, BLOCK_READ, 65536, buf, 65536), -EIO);
    assert_int_equal(block_rw_sync(f->node, BLOCK_READ, 0, buf, 65536), -EIO);
    assert_int_equal(block_rw_sync(f->node, BLOCK_READ, 0, buf, 32768), 0);
    assert_int_equal(f->node->stats.errors[BLOCK_READ], 2);
    free(buf);
}

/* Case 43: the host refuses to store more. */
static void test_host_full(void **state)
{
    struct fixture *f = *state;
    struct rlimit old;
    struct rlimit small = {.rlim_cur = MIB, .rlim_max = RLIM_INFINITY};
    uint8_t buf[4096] = {1};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int rc = block_rw_sync(f->node, BLOCK_WRITE, 2 * MIB, buf, sizeof(buf));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_true(rc == -EFBIG);
    assert_int_equal(f->node->stats.errors[BLOCK_WRITE], 1);
    assert_int_equal(block_rw_sync(f->node, BLOCK_WRITE, 2 * MIB, buf, sizeof(buf)), 0);
}

#define MANY 600

struct one {
    struct block_req req;
    struct iovec iov[3];
    uint8_t data[1536];
    unsigned *left;
    int result;
};

static void one_done(struct block_req *req, int result)
{
    struct one *one = req->opaque;
    one->result = result;
    __atomic_fetch_sub(one->left, 1, __ATOMIC_SEQ_CST);
}

/* More at once than the ring holds; each in three pieces, with and without FUA. */
static void test_many_at_once(void **state)
{
    struct fixture *f = *state;
    struct one *all = calloc(MANY, sizeof(*all));
    unsigned left;
    for (unsigned pass = 0; pass < 2; pass++) {
        left = MANY;
        for (unsigned i = 0; i < MANY; i++) {
            struct one *o = &all[i];
            memset(o->data, pass == 0 ? (int)(i % 251) : 0, sizeof(o->data));
            o->left = &left;
            o->iov[0] = (struct iovec){o->data, 1};
            o->iov[1] = (struct iovec){o->data + 1, 1000};
            o->iov[2] = (struct iovec){o->data + 1001, 535};
            o->req = (struct block_req){.op = pass == 0 ? BLOCK_WRITE : BLOCK_READ,
                                        .flags = i % 100 == 0 ? BLOCK_REQ_FUA : 0,
                                        .offset_bytes = 1536ULL * i,
                                        .len_bytes = 1536,
                                        .iov = o->iov,
                                        .iov_count = 3,
                                        .done = one_done,
                                        .opaque = o};
            assert_int_equal(block_submit(f->node, &o->req), 0);
        }
        block_kick(f->node);
        block_drain(f->node);
        assert_int_equal(__atomic_load_n(&left, __ATOMIC_SEQ_CST), 0);
    }
    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal(all[i].result, 0);
        for (unsigned k = 0; k < 1536; k++) {
            assert_int_equal(all[i].data[k], i % 251);
        }
    }
    free(all);
}

/* What is in the page cache is there at once; what is refused is refused in the same way. */
static void test_try(void **state)
{
    struct fixture *f = *state;
    uint8_t out[4096];
    uint8_t in[4096] = {0};
    struct iovec iov = {in, sizeof(in)};
    struct block_req req = {
        .op = BLOCK_READ, .len_bytes = sizeof(in), .iov = &iov, .iov_count = 1};
    memset(out, 0x42, sizeof(out));
    assert_int_equal(block_rw_sync(f->node, BLOCK_WRITE, 0, out, sizeof(out)), 0);
    int rc = block_try(f->node, &req);
    if (rc == 0) {
        assert_memory_equal(in, out, sizeof(in));
        assert_int_equal(f->node->stats.ops[BLOCK_READ], 1);
    } else {
        assert_int_equal(rc, -EAGAIN); /* a file system without it */
    }
    req.offset_bytes = DISK_BYTES;
    assert_int_equal(block_try(f->node, &req), -ERANGE);
    req.offset_bytes = 1;
    assert_int_equal(block_try(f->node, &req), -EINVAL);
    req.offset_bytes = 0;
    req.op = BLOCK_FLUSH;
    assert_int_equal(block_try(f->node, &req), -EAGAIN);
    req.op = BLOCK_WRITE;
    req.flags = BLOCK_REQ_FUA;
    assert_int_equal(block_try(f->node, &req), -EAGAIN);
    /* Cut short behind our back: judged on the way through submit. */
    req = (struct block_req){.op = BLOCK_READ,
                             .offset_bytes = 65536,
                             .len_bytes = sizeof(in),
                             .iov = &iov,
                             .iov_count = 1};
    assert_int_equal(truncate(f->path, 65536), 0);
    assert_int_equal(block_try(f->node, &req), -EAGAIN);
}

static void test_write_zeroes_durable(void **state)
{
    struct fixture *f = *state;
    struct one o = {0};
    unsigned left = 1;
    uint8_t buf[4096];
    memset(buf, 9, sizeof(buf));
    assert_int_equal(block_rw_sync(f->node, BLOCK_WRITE, 0, buf, sizeof(buf)), 0);
    o.left = &left;
    o.req = (struct block_req){.op = BLOCK_WRITE_ZEROES,
                               .flags = BLOCK_REQ_FUA | BLOCK_REQ_MAY_UNMAP,
                               .offset_bytes = 512,
                               .len_bytes = 1024,
                               .done = one_done,
                               .opaque = &o};
    assert_int_equal(block_submit(f->node, &o.req), 0);
    block_drain(f->node);
    assert_int_equal(o.result, 0);
    assert_int_equal(block_rw_sync(f->node, BLOCK_READ, 0, buf, sizeof(buf)), 0);
    assert_int_equal(buf[511], 9);
    assert_int_equal(buf[512], 0);
    assert_int_equal(buf[1536], 9);
}

int main(void)
{
#define T(name)                                                                                \
    {#name " (io_uring)", name, setup_uring, teardown, NULL},                                  \
    {                                                                                          \
#name " (threads)", name, setup_threads, teardown, NULL                                \
    }
    const struct CMUnitTest tests[] = {
        T(test_contents),
        T(test_holes),
        T(test_refused_at_once),
        T(test_readonly_and_lock),
        T(test_sizes_and_types),
        T(test_stays_raw),
        T(test_file_cut_behind_our_back),
        T(test_host_full),
        T(test_many_at_once),
        T(test_try),
        T(test_write_zeroes_durable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
