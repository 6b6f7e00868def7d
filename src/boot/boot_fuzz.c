/*
 * Fuzz target of the loaders: the input is a kernel file. Every loader that its first bytes
 * allow runs on it; a bzImage is never unpacked here (unpack/codecs_fuzz.c has that).
 */
#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/fuzz.h"
#include "boot/boot.h"
#include "boot/boot_samples.h"
#include "mem/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const enum boot_kind kinds[] = {BOOT_LINUX64, BOOT_LINUX32, BOOT_LINUX16,
                                       BOOT_VMLINUX, BOOT_PVH,     BOOT_MULTIBOOT};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    _cleanup_close_ int fd = memfd_create("fuzz", MFD_CLOEXEC);
    static struct boot_result res;
    struct boot_map map;
    struct mem *mem;

    if (fd < 0 || write(fd, data, len) != (ssize_t)len || mem_new(&mem, NULL) < 0) {
        abort();
    }
    if (mem_slot_add(mem, GPA(0), 4 * MIB, MEM_RAM, NULL) < 0 ||
        boot_map_from_mem(&map, mem, NULL) < 0) {
        abort();
    }
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct err err = {0};
        struct boot_request req = {.mem = mem,
                                   .map = &map,
                                   .kernel = {.fd = fd, .name = "fuzz"},
                                   .initrd = {.fd = i % 2 == 0 ? fd : -1, .name = "initrd"},
                                   .cmdline = "quiet",
                                   .rsdp = 0xf0000,
                                   .kind = kinds[i]};
        if (boot_load(&req, &res, &err) < 0 && err.text[0] == '\0') {
            abort(); /* a refusal without a reason */
        }
    }
    mem_free(mem);
    return 0;
}

size_t fuzz_seed(unsigned index, uint8_t *buf, size_t cap)
{
    struct sample s = {.data = buf, .cap = cap};

    memset(buf, 0, cap);
    switch (index) {
    case 0: sample_elf(&s, true, false, false); break;
    case 1: sample_elf(&s, true, true, false); break;
    case 2: sample_elf(&s, false, true, true); break;
    case 3: sample_elf(&s, false, false, true); break;
    case 4: sample_kludge(&s); break;
    case 5: sample_bzimage(&s, "payload payload", 16); break;
    default: break;
    }
    return s.len;
}
