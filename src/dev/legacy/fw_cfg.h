/*
 * Firmware configuration device (QEMU docs/specs/fw_cfg.rst): numbered items and named files
 * that firmware and guests read by port or by DMA.
 */
#pragma once

#include "dev/bus.h"
#include "dev/dev.h"
#include "mem/mem.h"

#include <stddef.h>
#include <stdint.h>

#define FW_CFG_FILES_MAX 64
#define FW_CFG_NAME_MAX  55 /* bytes, without the NUL */

/* Well-known items. */
#define FW_CFG_SIGNATURE   0x0000
#define FW_CFG_ID          0x0001
#define FW_CFG_UUID        0x0002
#define FW_CFG_RAM_SIZE    0x0003
#define FW_CFG_NB_CPUS     0x0005
#define FW_CFG_KERNEL_SIZE 0x0008
#define FW_CFG_BOOT_MENU   0x000e
#define FW_CFG_MAX_CPUS    0x000f
#define FW_CFG_FILE_DIR    0x0019
#define FW_CFG_FILE_FIRST  0x0020

struct fw_cfg;

struct fw_cfg_config {
    struct bus *pio;       /* ports 510h-511h, 514h-51Bh; NULL: none (tests) */
    struct mem *mem;       /* for DMA; borrowed; NULL: DMA is not offered */
    pthread_mutex_t *lock; /* the machine's device lock */
};

int fw_cfg_new(struct fw_cfg **ret_fw, const struct fw_cfg_config *cfg, struct err *err);
struct dev *fw_cfg_dev(struct fw_cfg *fw);

/* Contents are copied. Before the guest runs. -EEXIST, -ENOSPC, -EINVAL with err. */
int fw_cfg_add_item(struct fw_cfg *fw, uint16_t key, const void *data, size_t len,
                    struct err *err); /* key below FW_CFG_FILE_FIRST */
int fw_cfg_add_u16(struct fw_cfg *fw, uint16_t key, uint16_t value, struct err *err);
int fw_cfg_add_u64(struct fw_cfg *fw, uint16_t key, uint64_t value, struct err *err);
int fw_cfg_add_file(struct fw_cfg *fw, const char *name, const void *data, size_t len,
                    struct err *err);
/* A file that the guest may write by DMA; written is called after each write with the lock
 * held. data is the file's content, owned by the device. */
typedef void fw_cfg_written_fn(void *opaque, const uint8_t *data, size_t len);
int fw_cfg_add_writable(struct fw_cfg *fw, const char *name, const void *data, size_t len,
                        fw_cfg_written_fn *written, void *opaque, struct err *err);
