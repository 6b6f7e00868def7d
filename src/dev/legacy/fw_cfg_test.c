/* Tests of fw_cfg: items, directory, DMA, bounds, writable files, save and load. */
#include "base/bytes.h"
#include "base/ckd.h"
#include "base/test.h"
#include "dev/dev_test.h"
#include "dev/legacy/fw_cfg.h"

#include <errno.h>

struct world {
    struct fixture fx;
    struct mem *mem;
    struct fw_cfg *fw;
    unsigned writes;
    uint8_t last[8];
};

static void written(void *opaque, const uint8_t *data, size_t len)
{
    struct world *w = opaque;

    assert_int_equal(len, 8);
    memcpy(w->last, data, len);
    w->writes++;
}

static struct fw_cfg *make(struct world *w, struct bus *bus)
{
    struct fw_cfg *fw;
    struct err err;

    fx_must(fw_cfg_new(&fw,
                       &(struct fw_cfg_config){.pio = bus, .mem = w->mem, .lock = &w->fx.lock},
                       &err),
            &err);
    fx_must(fw_cfg_add_u16(fw, FW_CFG_NB_CPUS, 3, &err), &err);
    fx_must(fw_cfg_add_u64(fw, FW_CFG_RAM_SIZE, 0x12345678, &err), &err);
    fx_must(fw_cfg_add_file(fw, "etc/one", "hello", 5, &err), &err);
    fx_must(fw_cfg_add_writable(fw, "etc/two", "01234567", 8, written, w, &err), &err);
    return fw;
}

static void setup(struct world *w)
{
    struct err err;

    memset(w, 0, sizeof(*w));
    fx_init(&w->fx);
    fx_must(mem_new(&w->mem, &err), &err);
    fx_must(mem_slot_add(w->mem, GPA(0), 0x200000, MEM_RAM, &err), &err);
    w->fw = make(w, w->fx.pio);
}

static void teardown(struct world *w)
{
    fw_cfg_dev(w->fw)->ops->free(fw_cfg_dev(w->fw));
    mem_free(w->mem);
    fx_done(&w->fx);
}

static void get(struct world *w, uint16_t key, void *data, size_t len)
{
    bus_write(w->fx.pio, 0x510, 2, key);
    for (size_t i = 0; i < len; i++) {
        ((uint8_t *)data)[i] = fx_in(&w->fx, 0x511);
    }
}

static void test_items(void **state)
{
    uint8_t data[256];
    struct world w;

    (void)state;
    setup(&w);
    get(&w, FW_CFG_SIGNATURE, data, 6);
    assert_memory_equal(data, "QEMU\0\0", 6);
    get(&w, FW_CFG_ID, data, 4);
    assert_int_equal(get_le32(data), 3);
    get(&w, FW_CFG_NB_CPUS, data, 2);
    assert_int_equal(get_le16(data), 3);
    get(&w, FW_CFG_RAM_SIZE, data, 8);
    assert_int_equal(get_le64(data), 0x12345678);
    get(&w, FW_CFG_FILE_DIR, data, 4 + 128);
    assert_int_equal(get_be32(data), 2);
    assert_int_equal(get_be32(data + 4), 5);
    assert_int_equal(get_be16(data + 8), 0x20);
    assert_string_equal((const char *)data + 12, "etc/one");
    assert_string_equal((const char *)data + 76, "etc/two");
    get(&w, 0x20, data, 6);
    assert_memory_equal(data, "hello\0", 6);
    /* Selectors out of range, of the other architecture's space, of the write channel. */
    get(&w, 0x3fff, data, 2);
    assert_int_equal(data[0], 0);
    get(&w, 0x8020, data, 2);
    assert_int_equal(data[0], 0);
    get(&w, 0x4020, data, 1);
    assert_int_equal(data[0], 'h');
    get(&w, 0x30, data, 1);
    assert_int_equal(data[0], 0);
    assert_int_equal(bus_read(w.fx.pio, 0x514, 4), get_le32("QEMU"));
    assert_int_equal(fw_cfg_add_file(w.fw, "etc/one", "", 0, NULL), -EEXIST);
    assert_int_equal(fw_cfg_add_item(w.fw, 0x20, "", 0, NULL), -EINVAL);
    for (unsigned i = 2; i < FW_CFG_FILES_MAX; i++) {
        char name[16];
        snprintf(name, sizeof(name), "f%u", i);
        assert_int_equal(fw_cfg_add_file(w.fw, name, name, 3, NULL), 0);
    }
    assert_int_equal(fw_cfg_add_file(w.fw, "more", "", 0, NULL), -ENOSPC);
    teardown(&w);
}

static uint32_t dma(struct world *w, uint32_t control, uint32_t len, uint64_t addr)
{
    uint8_t command[16];

    put_be32(command, control);
    put_be32(command + 4, len);
    put_be64(command + 8, addr);
    assert_int_equal(mem_write(w->mem, GPA(0x100), command, 16), 0);
    bus_write(w->fx.pio, 0x514, 4, 0);
    bus_write(w->fx.pio, 0x518, 4, __builtin_bswap32(0x100));
    assert_int_equal(mem_read(w->mem, GPA(0x100), command, 4), 0);
    return get_be32(command);
}

static void test_dma(void **state)
{
    uint8_t data[16];
    struct world w;

    (void)state;
    setup(&w);
    mem_fill(w.mem, GPA(0x1000), 0xee, 16);
    assert_int_equal(dma(&w, 0x0020000a, 8, 0x1000), 0); /* select and read, past the end */
    mem_read(w.mem, GPA(0x1000), data, 9);
    assert_memory_equal(data, "hello\0\0\0\xee", 9);
    assert_int_equal(dma(&w, 0x0020000c, 2, 0), 0); /* skip */
    assert_int_equal(dma(&w, 2, 3, 0x1000), 0);
    mem_read(w.mem, GPA(0x1000), data, 3);
    assert_memory_equal(data, "llo", 3);
    /* Bad addresses and lengths give the error bit. */
    assert_int_equal(dma(&w, 0x0020000a, 5, 0x1ffffe), 1);
    assert_int_equal(dma(&w, 0x0020000a, 5, UINT64_MAX - 2), 1);
    assert_int_equal(dma(&w, 0x0020000a, 0xffffffff, 0x1000), 1);
    assert_int_equal(dma(&w, 0x0020000c, 0xffffffff, 0), 0);
    assert_int_equal(dma(&w, 4, 0xffffffff, 0), 0);
    assert_int_equal(dma(&w, 2, 4, 0x1000), 0);
    /* Writing: only writable files, inside of them. */
    mem_write(w.mem, GPA(0x2000), "ABCDEFGHI", 9);
    assert_int_equal(dma(&w, 0x00200018, 5, 0x2000), 1);
    assert_int_equal(dma(&w, 0x00210018, 9, 0x2000), 1);
    assert_int_equal(dma(&w, 0x00210018, 4, 0x2000), 0);
    assert_int_equal(w.writes, 1);
    assert_memory_equal(w.last, "ABCD4567", 8);
    /* A command outside of memory is dropped. */
    bus_write(w.fx.pio, 0x514, 4, 0xffffffff);
    bus_write(w.fx.pio, 0x518, 4, 0);
    teardown(&w);
}

static void test_save_load(void **state)
{
    struct fw_cfg *other;
    struct world w;

    (void)state;
    setup(&w);
    mem_write(w.mem, GPA(0x2000), "ABCDEFGH", 8);
    dma(&w, 0x00210018, 8, 0x2000);
    bus_write(w.fx.pio, 0x510, 2, 0x20);
    fx_in(&w.fx, 0x511);
    other = make(&w, NULL);
    assert_true(fx_copy(fw_cfg_dev(w.fw), fw_cfg_dev(other)));
    fw_cfg_dev(w.fw)->ops->free(fw_cfg_dev(w.fw));
    w.fw = make(&w, w.fx.pio);
    assert_true(fx_copy(fw_cfg_dev(other), fw_cfg_dev(w.fw)));
    fw_cfg_dev(other)->ops->free(fw_cfg_dev(other));
    assert_int_equal(fx_in(&w.fx, 0x511), 'e');
    bus_write(w.fx.pio, 0x510, 2, 0x21);
    assert_int_equal(fx_in(&w.fx, 0x511), 'A');
    fw_cfg_dev(w.fw)->ops->reset(fw_cfg_dev(w.fw));
    assert_int_equal(fx_in(&w.fx, 0x511), 'Q');
    teardown(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_items),
        cmocka_unit_test(test_dma),
        cmocka_unit_test(test_save_load),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
