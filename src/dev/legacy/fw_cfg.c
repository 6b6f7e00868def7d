/*
 * fw_cfg (QEMU docs/specs/fw_cfg.rst): selector at port 510h, data at 511h, DMA at 514h.
 *
 * Thread and lock: the machine's device lock, also while DMA copies: the items are small, and a
 * transfer that runs far past an item's end is refused, so that one access costs bounded time.
 * Saved: selector, offset, DMA address, contents of writable files. The other contents come
 * from the machine's configuration. Missing: writes by the data port, which the interface
 * dropped.
 */
#include "dev/legacy/fw_cfg.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_ITEMS      (FW_CFG_FILE_FIRST + FW_CFG_FILES_MAX)
#define KEY_MASK     0x3fffu /* without the write and architecture bits */
#define KEY_ARCH     0x8000u
#define DIR_ENTRY    64u
#define ID_TRADITION 1u
#define ID_DMA       2u

#define DMA_ERROR  0x01u
#define DMA_READ   0x02u
#define DMA_SKIP   0x04u
#define DMA_SELECT 0x08u
#define DMA_WRITE  0x10u
/* Zeroes that a read may ask for behind an item's end. */
#define DMA_SLACK_BYTES (1u << 20)

struct item {
    uint8_t *data; /* owned; NULL: no such item */
    size_t len;
    char name[FW_CFG_NAME_MAX + 1]; /* files only */
    fw_cfg_written_fn *written;     /* writable files only */
    void *opaque;
};

struct fw_cfg {
    struct dev dev;
    struct fw_cfg_config cfg;
    struct item items[N_ITEMS];
    unsigned n_files;
    uint16_t selector;
    uint32_t offset;
    uint32_t dma_high; /* upper half of the address of the next transfer */
};

/* The selected item, NULL if there is none. */
static struct item *selected(struct fw_cfg *fw)
{
    unsigned key = fw->selector & KEY_MASK;

    if ((fw->selector & KEY_ARCH) != 0 || key >= N_ITEMS || fw->items[key].data == NULL) {
        return NULL;
    }
    return &fw->items[key];
}

static void fw_select(struct fw_cfg *fw, uint16_t key)
{
    fw->selector = key;
    fw->offset = 0;
}

static uint64_t data_read(struct fw_cfg *fw, unsigned len)
{
    const struct item *item = selected(fw);
    uint64_t value = 0;

    for (unsigned i = 0; i < len; i++) {
        if (item != NULL && fw->offset < item->len) {
            value |= (uint64_t)item->data[fw->offset++] << (i * 8);
        }
    }
    return value;
}

/* ---- DMA ---- */

static int dma_read(struct fw_cfg *fw, uint64_t addr, uint32_t len)
{
    const struct item *item = selected(fw);
    size_t left = item != NULL && fw->offset < item->len ? item->len - fw->offset : 0;
    size_t n = MIN(left, len);
    int r = 0;

    if (len - n > DMA_SLACK_BYTES) {
        return -EINVAL;
    }
    if (n > 0) {
        r = mem_write(fw->cfg.mem, GPA(addr), item->data + fw->offset, n);
        fw->offset += (uint32_t)n;
    }
    if (r == 0 && len > n) {
        r = mem_fill(fw->cfg.mem, GPA(addr + n), 0, len - n);
    }
    return r;
}

static int dma_write(struct fw_cfg *fw, uint64_t addr, uint32_t len)
{
    struct item *item = selected(fw);
    int r;

    if (item == NULL || item->written == NULL || !range_fits(fw->offset, len, item->len)) {
        return -EPERM;
    }
    r = mem_read(fw->cfg.mem, GPA(addr), item->data + fw->offset, len);
    if (r == 0) {
        fw->offset += len;
        item->written(item->opaque, item->data, item->len);
    }
    return r;
}

static int dma_skip(struct fw_cfg *fw, uint32_t len)
{
    uint32_t offset;

    /* What lies past the end reads as zeroes anyway. */
    fw->offset = ckd_add(fw->offset, len, &offset) ? offset : UINT32_MAX;
    return 0;
}

static void dma_run(struct fw_cfg *fw, uint64_t at)
{
    uint8_t command[16];
    uint32_t control, len;
    uint64_t addr;
    int r = 0;

    if (fw->cfg.mem == NULL || mem_read(fw->cfg.mem, GPA(at), command, sizeof(command)) < 0) {
        return;
    }
    control = get_be32(command);
    len = get_be32(command + 4);
    addr = get_be64(command + 8);
    if ((control & DMA_SELECT) != 0) {
        fw_select(fw, (uint16_t)(control >> 16));
    }
    if ((control & DMA_READ) != 0) {
        r = dma_read(fw, addr, len);
    } else if ((control & DMA_WRITE) != 0) {
        r = dma_write(fw, addr, len);
    } else if ((control & DMA_SKIP) != 0) {
        r = dma_skip(fw, len);
    }
    put_be32(command, r < 0 ? DMA_ERROR : 0);
    mem_write(fw->cfg.mem, GPA(at), command, 4);
}

/* ---- ports ---- */

static uint64_t port_read(void *opaque, uint64_t offset, unsigned len)
{
    struct fw_cfg *fw = opaque;

    /* The selector is write-only. */
    return offset == 1 ? data_read(fw, len) : 0;
}

static void port_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    if (offset == 0 && len == 2) {
        fw_select(opaque, (uint16_t)value);
    }
}

static uint64_t dma_port_read(void *opaque, uint64_t offset, unsigned len)
{
    static const uint8_t signature[8] = {'Q', 'E', 'M', 'U', ' ', 'C', 'F', 'G'};
    uint64_t value = 0;

    (void)opaque;
    for (unsigned i = 0; i < len && offset + i < sizeof(signature); i++) {
        value |= (uint64_t)signature[offset + i] << (i * 8);
    }
    return value;
}

static void dma_port_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct fw_cfg *fw = opaque;
    uint32_t half = __builtin_bswap32((uint32_t)value);
    uint64_t high = fw->dma_high;

    if (len != 4) {
        return;
    }
    if (offset == 0) {
        fw->dma_high = half;
    } else if (offset == 4) {
        fw->dma_high = 0;
        dma_run(fw, high << 32 | half);
    }
}

static const struct bus_ops port_ops = {port_read, port_write};
static const struct bus_ops dma_ops = {dma_port_read, dma_port_write};
static const struct bus_range ranges[] = {
    {.base = 0x510, .size = 2, .ops = &port_ops, .name = "fw_cfg"},
    {.base = 0x514, .size = 8, .ops = &dma_ops, .name = "fw_cfg dma"},
};

/* ---- items ---- */

static int item_set(struct item *item, const void *data, size_t len, struct err *err)
{
    if (item->data != NULL) {
        return ERR(err, INTERNAL, EEXIST, "fw_cfg: this item is there already");
    }
    if (len > UINT32_MAX) {
        return ERR(err, INTERNAL, EINVAL, "fw_cfg: an item of %zu bytes; at most 4 GiB", len);
    }
    item->data = malloc(len > 0 ? len : 1);
    if (item->data == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for a firmware item of %zu bytes", len);
    }
    if (len > 0) {
        memcpy(item->data, data, len);
    }
    item->len = len;
    return 0;
}

int fw_cfg_add_item(struct fw_cfg *fw, uint16_t key, const void *data, size_t len,
                    struct err *err)
{
    if (key >= FW_CFG_FILE_FIRST || key == FW_CFG_FILE_DIR) {
        return ERR(err, INTERNAL, EINVAL, "fw_cfg: key 0x%x is not for an item", key);
    }
    SCOPED_LOCK(fw->cfg.lock);
    return item_set(&fw->items[key], data, len, err);
}

int fw_cfg_add_u16(struct fw_cfg *fw, uint16_t key, uint16_t value, struct err *err)
{
    uint8_t bytes[2];

    put_le16(bytes, value);
    return fw_cfg_add_item(fw, key, bytes, sizeof(bytes), err);
}

int fw_cfg_add_u64(struct fw_cfg *fw, uint16_t key, uint64_t value, struct err *err)
{
    uint8_t bytes[8];

    put_le64(bytes, value);
    return fw_cfg_add_item(fw, key, bytes, sizeof(bytes), err);
}

/* Makes the directory again: a count, then size, selector and name of each file. */
static int make_directory(struct fw_cfg *fw, struct err *err)
{
    struct item *dir = &fw->items[FW_CFG_FILE_DIR];
    size_t len = 4 + (size_t)fw->n_files * DIR_ENTRY;
    uint8_t *data = calloc(1, len);

    if (data == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the directory of firmware files");
    }
    put_be32(data, fw->n_files);
    for (unsigned i = 0; i < fw->n_files; i++) {
        const struct item *file = &fw->items[FW_CFG_FILE_FIRST + i];
        uint8_t *entry = data + 4 + (size_t)i * DIR_ENTRY;
        put_be32(entry, (uint32_t)file->len);
        put_be16(entry + 4, (uint16_t)(FW_CFG_FILE_FIRST + i));
        memcpy(entry + 8, file->name, sizeof(file->name));
    }
    free(dir->data);
    dir->data = data;
    dir->len = len;
    return 0;
}

/* Names are also the names of fields in the state stream. */
static bool name_ok(const char *name)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < len; i++) {
        if (name[i] < 0x21 || name[i] > 0x7e) {
            return false;
        }
    }
    return len > 0 && len <= FW_CFG_NAME_MAX;
}

static int add_file(struct fw_cfg *fw, const char *name, const void *data, size_t len,
                    fw_cfg_written_fn *written, void *opaque, struct err *err)
{
    struct item *file;
    int r;

    if (!name_ok(name)) {
        return ERR(err, INTERNAL, EINVAL, "fw_cfg: file name '%s': want 1 to %d visible bytes",
                   name, FW_CFG_NAME_MAX);
    }
    SCOPED_LOCK(fw->cfg.lock);
    for (unsigned i = 0; i < fw->n_files; i++) {
        if (strcmp(fw->items[FW_CFG_FILE_FIRST + i].name, name) == 0) {
            return ERR(err, INTERNAL, EEXIST, "fw_cfg: file %s is there already", name);
        }
    }
    if (fw->n_files == FW_CFG_FILES_MAX) {
        return ERR(err, LIMIT, ENOSPC, "fw_cfg: more than %d files", FW_CFG_FILES_MAX);
    }
    file = &fw->items[FW_CFG_FILE_FIRST + fw->n_files];
    r = item_set(file, data, len, err);
    if (r < 0) {
        return r;
    }
    snprintf(file->name, sizeof(file->name), "%s", name);
    file->written = written;
    file->opaque = opaque;
    fw->n_files++;
    return make_directory(fw, err);
}

int fw_cfg_add_file(struct fw_cfg *fw, const char *name, const void *data, size_t len,
                    struct err *err)
{
    return add_file(fw, name, data, len, NULL, NULL, err);
}

int fw_cfg_add_writable(struct fw_cfg *fw, const char *name, const void *data, size_t len,
                        fw_cfg_written_fn *written, void *opaque, struct err *err)
{
    return add_file(fw, name, data, len, written, opaque, err);
}

/* ---- device ---- */

static void fw_reset(struct dev *dev)
{
    struct fw_cfg *fw = container_of(dev, struct fw_cfg, dev);

    SCOPED_LOCK(fw->cfg.lock);
    fw_select(fw, 0);
    fw->dma_high = 0;
}

static const struct state_field fw_fields[] = {
    STATE_UINT(struct fw_cfg, selector),
    STATE_UINT(struct fw_cfg, offset),
    STATE_UINT(struct fw_cfg, dma_high),
    STATE_END,
};

static void fw_save(struct dev *dev, struct state_writer *w)
{
    struct fw_cfg *fw = container_of(dev, struct fw_cfg, dev);

    SCOPED_LOCK(fw->cfg.lock);
    state_put_fields(w, fw_fields, fw);
    for (unsigned i = FW_CFG_FILE_FIRST; i < N_ITEMS; i++) {
        const struct item *item = &fw->items[i];
        if (item->written != NULL) {
            state_put_bytes(w, item->name, item->data, item->len);
        }
    }
}

static int fw_load(struct dev *dev, struct state_reader *r, uint32_t version, struct err *err)
{
    struct fw_cfg *fw = container_of(dev, struct fw_cfg, dev);
    int rc;

    (void)version;
    SCOPED_LOCK(fw->cfg.lock);
    rc = state_get_fields(r, fw_fields, fw, err);
    for (unsigned i = FW_CFG_FILE_FIRST; rc == 0 && i < N_ITEMS; i++) {
        struct item *item = &fw->items[i];
        if (item->written != NULL) {
            rc = state_get_bytes(r, item->name, item->data, item->len, err);
        }
    }
    return rc;
}

static void fw_free(struct dev *dev)
{
    struct fw_cfg *fw = container_of(dev, struct fw_cfg, dev);

    bus_remove_all(fw->cfg.pio, fw);
    for (unsigned i = 0; i < N_ITEMS; i++) {
        free(fw->items[i].data);
    }
    free(fw);
}

static const struct dev_ops fw_ops = {
    .name = "fw_cfg",
    .state_version = 1,
    .reset = fw_reset,
    .save = fw_save,
    .load = fw_load,
    .free = fw_free,
};

static int add_base_items(struct fw_cfg *fw, struct err *err)
{
    uint8_t id[4];
    int r = fw_cfg_add_item(fw, FW_CFG_SIGNATURE, "QEMU", 4, err);

    if (r < 0) {
        return r;
    }
    put_le32(id, ID_TRADITION | (fw->cfg.mem != NULL ? ID_DMA : 0));
    r = fw_cfg_add_item(fw, FW_CFG_ID, id, sizeof(id), err);
    return r < 0 ? r : make_directory(fw, err);
}

int fw_cfg_new(struct fw_cfg **ret_fw, const struct fw_cfg_config *cfg, struct err *err)
{
    struct fw_cfg *fw = calloc(1, sizeof(*fw));
    int r;

    if (fw == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for fw_cfg");
    }
    fw->cfg = *cfg;
    fw->dev = (struct dev){.ops = &fw_ops, .lock = cfg->lock};
    r = add_base_items(fw, err);
    if (r == 0) {
        /* Without memory to reach there is no DMA register either. */
        r = bus_add_ranges(cfg->pio, ranges, cfg->mem != NULL ? 2 : 1, fw, cfg->lock, err);
    }
    if (r < 0) {
        fw_free(&fw->dev);
        return r;
    }
    *ret_fw = fw;
    return 0;
}

struct dev *fw_cfg_dev(struct fw_cfg *fw)
{
    return &fw->dev;
}
