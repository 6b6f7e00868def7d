/* Random programs on fw_cfg: selectors, data, DMA commands from memory that the program fills.
 */
#include "dev/dev_fuzz.h"
#include "dev/legacy/fw_cfg.h"

static struct mem *mem;

static void written(void *opaque, const uint8_t *data, size_t len)
{
    (void)opaque;
    if (len != 16 || data == NULL) {
        abort();
    }
}

static struct dev *make(struct fixture *fx)
{
    struct fw_cfg *fw;
    struct err err;

    if (mem == NULL) {
        fx_must(mem_new(&mem, &err), &err);
        fx_must(mem_slot_add(mem, GPA(0), 0x10000, MEM_RAM, &err), &err);
    }
    fx_must(fw_cfg_new(&fw,
                       &(struct fw_cfg_config){.pio = fx->pio, .mem = mem, .lock = &fx->lock},
                       &err),
            &err);
    fx_must(fw_cfg_add_u16(fw, FW_CFG_NB_CPUS, 4, &err), &err);
    fx_must(fw_cfg_add_file(fw, "etc/e820", "0123456789abcdefghij", 20, &err), &err);
    fx_must(fw_cfg_add_file(fw, "empty", "", 0, &err), &err);
    fx_must(fw_cfg_add_writable(fw, "rw", "0123456789abcdef", 16, written, NULL, &err), &err);
    return fw_cfg_dev(fw);
}

/* Puts a command at 100h: a mix of likely and wild lengths and addresses. */
static void extra(struct fixture *fx, struct dev *dev, uint32_t value)
{
    static const uint16_t keys[] = {0, 1, 5, 0x19, 0x20, 0x21, 0x22, 0x23};
    static const uint32_t lens[] = {0, 1, 16, 20, 0x1000, 0xffff, 0x100001, 0xffffffff};
    static const uint64_t addrs[] = {0x200, 0x100, 0xfffc, UINT64_MAX - 3};
    uint8_t command[16];

    (void)dev;
    put_be32(command, (uint32_t)keys[value & 7] << 16 | (value >> 3 & 0x1f));
    put_be32(command + 4, lens[value >> 8 & 7]);
    put_be64(command + 8, addrs[value >> 11 & 3]);
    mem_write(mem, GPA(0x100), command, sizeof(command));
    bus_write(fx->pio, 0x518, 4, __builtin_bswap32(0x100));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct fuzz_spec spec = {
        .make = make,
        .extra = extra,
        .windows = {{0x510, 2, false}, {0x514, 8, false}},
        .n_windows = 2,
    };

    fuzz_program(&spec, data, len);
    return 0;
}
