/* Offsets of the Linux/x86 setup header, from the start of the file and of the zero page. */
#pragma once

#include "boot/boot_priv.h"

#define LH_START        0x1f1
#define LH_END          0x270 /* of what we keep */
#define LH_SETUP_SECTS  0x1f1
#define LH_SYSSIZE      0x1f4
#define LH_VID_MODE     0x1fa
#define LH_BOOT_FLAG    0x1fe
#define LH_JUMP         0x201 /* its value + 202h is the header's end */
#define LH_MAGIC        0x202
#define LH_VERSION      0x206
#define LH_LOADER_TYPE  0x210
#define LH_LOADFLAGS    0x211
#define LH_CODE32       0x214
#define LH_INITRD       0x218
#define LH_INITRD_SIZE  0x21c
#define LH_HEAP_END     0x224
#define LH_CMDLINE      0x228
#define LH_INITRD_MAX   0x22c
#define LH_KERNEL_ALIGN 0x230
#define LH_RELOCATABLE  0x234
#define LH_XLOADFLAGS   0x236
#define LH_CMDLINE_SIZE 0x238
#define LH_PAYLOAD_OFF  0x248
#define LH_PAYLOAD_LEN  0x24c
#define LH_SETUP_DATA   0x250
#define LH_PREF_ADDR    0x258
#define LH_INIT_SIZE    0x260

#define LH_MAGIC_VALUE  0x53726448u /* "HdrS" */
#define LH_LOADED_HIGH  0x01
#define LH_CAN_USE_HEAP 0x80
#define LH_XLF_KERNEL64 0x01

static inline uint8_t *lh(struct linux_setup *s, unsigned offset)
{
    return s->hdr + (offset - LH_START);
}
