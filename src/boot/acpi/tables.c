/*
 * The fixed ACPI tables and their placement: RSDP, RSDT, XSDT, FADT (revision 6), FACS, MADT,
 * MCFG, HPET, WAET, DSDT. ACPI 6.4 chapter 5; PCI Firmware Specification 3.3, 4.1.2 (MCFG);
 * IA-PC HPET 1.0a, 3.2.4; Microsoft's Windows ACPI Emulated Devices Table (WAET).
 *
 * Built in one host buffer with guest addresses, then copied. No locks, nothing saved: the
 * tables are guest memory. Missing: SRAT (one node), hotplug.
 */
#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"
#include "boot/acpi/acpi.h"
#include "boot/acpi/aml.h"
#include "mem/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define TABLES_MAX (64 * KIB)
#define BIOS_AREA  UINT64_C(0xf0000)
#define SMBIOS_OFF 0x1000
#define SMBIOS_MAX 4096
#define HEADER     36
#define FADT_BYTES 276
#define FACS_BYTES 64
#define RSDP_BYTES 36
#define TABLES_N   8

#define FADT_WBINVD     (1u << 0)
#define FADT_PROC_C1    (1u << 2)
#define FADT_NO_SLEEP   (1u << 5) /* no sleep button in fixed hardware */
#define FADT_NO_RTC     (1u << 6) /* no RTC wake-up in fixed hardware */
#define FADT_TIMER_32   (1u << 8)
#define FADT_RESET_REG  (1u << 10)
#define BOOT_ARCH_ISA   (1u << 0)
#define BOOT_ARCH_8042  (1u << 1)
#define BOOT_ARCH_NOVGA (1u << 2)

struct builder {
    uint8_t *buf; /* TABLES_MAX bytes */
    size_t len;
    uint64_t gpa; /* of buf[0] */
    uint64_t table[TABLES_N];
    unsigned n;
    bool failed;
};

void acpi_config_default(struct acpi_config *cfg)
{
    *cfg = (struct acpi_config){
        .n_cpus = 1,
        .lapic_base = 0xfee00000,
        .ioapic_base = 0xfec00000,
        .hpet_base = 0xfed00000,
        .hpet_id = 0x8086a201,
        .ecam_base = 0xb0000000,
        .last_bus = 255,
        .pci32 = {0xc0000000, 0x3ec00000},
        .intx_gsi = 16,
        .sci_irq = 9,
        .pm1_event = 0x600,
        .pm1_control = 0x604,
        .pm_timer = 0x608,
        .gpe0 = 0x620,
        .gpe0_bytes = 4,
        .pm_timer_32bit = true,
        .smi_command = 0xb2,
        .acpi_enable = 2,
        .acpi_disable = 3,
        .reset_port = 0xcf9,
        .reset_value = 0x06,
        .s5_type = 5,
        .com1 = 0x3f8,
        .ps2 = true,
        .rtc = true,
        .pvpanic_port = 0x505,
        .smbios = true,
        .bios_area = BIOS_AREA,
    };
}

/* Room for n zeroed bytes; NULL when the buffer is full, which sticks. */
static uint8_t *take(struct builder *b, size_t n)
{
    if (b->failed || n > TABLES_MAX - b->len) {
        b->failed = true;
        return NULL;
    }
    uint8_t *p = b->buf + b->len;
    b->len += n;
    return p;
}

static void align_to(struct builder *b, size_t align)
{
    take(b, (size_t)(align_up(b->len, align) - b->len));
}

static uint8_t checksum(const uint8_t *p, size_t n)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        sum = (uint8_t)(sum + p[i]);
    }
    return (uint8_t)(0u - sum);
}

/* Starts a table with `bytes` bytes in all; NULL when full. */
static uint8_t *begin(struct builder *b, const char *sig, uint8_t revision, size_t bytes)
{
    align_to(b, 16);
    uint8_t *p = take(b, bytes);

    if (p != NULL) {
        memcpy(p, sig, 4);
        p[8] = revision;
        memcpy(p + 10, "VIVARM", 6);
        memcpy(p + 16, "VIVBOARD", 8);
        put_le32(p + 24, 1);
        memcpy(p + 28, "VIV ", 4);
        put_le32(p + 32, 1);
    }
    return p;
}

/* Length and checksum of the table at p, which ends where the buffer does. Its address. */
static uint64_t finish(struct builder *b, uint8_t *p)
{
    size_t at = (size_t)(p - b->buf);

    put_le32(p + 4, (uint32_t)(b->len - at));
    p[9] = 0;
    p[9] = checksum(p, b->len - at);
    return b->gpa + at;
}

static void list(struct builder *b, uint64_t gpa)
{
    if (b->n == TABLES_N) {
        b->failed = true;
        return;
    }
    b->table[b->n++] = gpa;
}

/* Generic address structure for a port. */
static void put_gas(uint8_t *p, uint16_t port, unsigned bytes, unsigned access)
{
    if (port != 0) {
        p[0] = 1;
        p[1] = (uint8_t)(bytes * 8);
        p[3] = (uint8_t)access;
        put_le64(p + 4, port);
    }
}

static void fadt_ports(uint8_t *p, const struct acpi_config *cfg)
{
    put_le32(p + 56, cfg->pm1_event);
    put_le32(p + 64, cfg->pm1_control);
    put_le32(p + 76, cfg->pm_timer);
    put_le32(p + 80, cfg->gpe0);
    p[88] = 4;
    p[89] = 2;
    p[91] = cfg->pm_timer != 0 ? 4 : 0;
    p[92] = cfg->gpe0 != 0 ? cfg->gpe0_bytes : 0;
    put_gas(p + 148, cfg->pm1_event, 4, 2);
    put_gas(p + 172, cfg->pm1_control, 2, 2);
    put_gas(p + 208, cfg->pm_timer, 4, 3);
    put_gas(p + 220, cfg->gpe0, cfg->gpe0_bytes, 1);
}

static void fadt(struct builder *b, const struct acpi_config *cfg, uint64_t facs, uint64_t dsdt)
{
    uint8_t *p = begin(b, "FACP", 6, FADT_BYTES);

    if (p == NULL) {
        return;
    }
    put_le32(p + 36, (uint32_t)facs);
    put_le32(p + 40, (uint32_t)dsdt);
    put_le16(p + 46, cfg->sci_irq);
    put_le32(p + 48, cfg->smi_command);
    if (cfg->smi_command != 0) {
        p[52] = cfg->acpi_enable;
        p[53] = cfg->acpi_disable;
    }
    fadt_ports(p, cfg);
    put_le16(p + 96, 0xfff); /* C2 and C3 are not there */
    put_le16(p + 98, 0xfff);
    p[108] = cfg->rtc ? 0x32 : 0; /* century in CMOS */
    put_le16(p + 109,
             (uint16_t)(BOOT_ARCH_ISA | (cfg->ps2 ? BOOT_ARCH_8042 : 0) | BOOT_ARCH_NOVGA));
    put_le32(p + 112, FADT_WBINVD | FADT_PROC_C1 | FADT_NO_SLEEP | FADT_NO_RTC |
                          (cfg->pm_timer_32bit ? FADT_TIMER_32 : 0) |
                          (cfg->reset_port != 0 ? FADT_RESET_REG : 0));
    put_gas(p + 116, cfg->reset_port, 1, 1);
    p[128] = cfg->reset_value;
    p[131] = 4; /* minor revision */
    put_le64(p + 140, dsdt);
    memcpy(p + 268, "Vivarium", 8);
    list(b, finish(b, p));
}

static void madt_cpus(struct builder *b, const struct acpi_config *cfg)
{
    for (unsigned i = 0; i < cfg->n_cpus; i++) {
        bool x2apic = i >= 255;
        uint8_t *e = take(b, x2apic ? 16 : 8);
        if (e == NULL) {
            return;
        }
        e[0] = x2apic ? 9 : 0;
        e[1] = x2apic ? 16 : 8;
        if (x2apic) {
            put_le32(e + 4, i);
            put_le32(e + 8, 1);
            put_le32(e + 12, i);
        } else {
            e[2] = (uint8_t)i;
            e[3] = (uint8_t)i;
            put_le32(e + 4, 1);
        }
    }
}

/* ISA interrupt `irq` arrives at `gsi`; flags: polarity and trigger mode. */
static void madt_override(struct builder *b, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    uint8_t *e = take(b, 10);

    if (e != NULL) {
        e[0] = 2;
        e[1] = 10;
        e[3] = irq;
        put_le32(e + 4, gsi);
        put_le16(e + 8, flags);
    }
}

static void madt(struct builder *b, const struct acpi_config *cfg)
{
    uint8_t *p = begin(b, "APIC", 5, HEADER + 8), *e;

    if (p == NULL) {
        return;
    }
    put_le32(p + 36, (uint32_t)cfg->lapic_base);
    put_le32(p + 40, 1); /* 8259s are there, too */
    madt_cpus(b, cfg);
    if ((e = take(b, 12)) != NULL) {
        e[0] = 1;
        e[1] = 12;
        e[2] = cfg->ioapic_id;
        put_le32(e + 4, (uint32_t)cfg->ioapic_base);
    }
    madt_override(b, 0, 2, 0);
    madt_override(b, cfg->sci_irq, cfg->sci_irq, 0xd); /* active high, level */
    if ((e = take(b, 6)) != NULL) {                    /* NMI: LINT1 of every processor */
        e[0] = 4;
        e[1] = 6;
        e[2] = 0xff;
        e[5] = 1;
    }
    if (cfg->n_cpus > 255 && (e = take(b, 12)) != NULL) {
        e[0] = 10;
        e[1] = 12;
        put_le32(e + 4, UINT32_MAX);
        e[8] = 1;
    }
    if (!b->failed) {
        list(b, finish(b, p));
    }
}

static void mcfg(struct builder *b, const struct acpi_config *cfg)
{
    uint8_t *p = begin(b, "MCFG", 1, HEADER + 8 + 16);

    if (p != NULL) {
        put_le64(p + 44, cfg->ecam_base);
        p[55] = cfg->last_bus;
        list(b, finish(b, p));
    }
}

static void hpet_table(struct builder *b, const struct acpi_config *cfg)
{
    uint8_t *p = begin(b, "HPET", 1, HEADER + 20);

    if (p != NULL) {
        put_le32(p + 36, cfg->hpet_id);
        p[41] = 64; /* memory, 64 bits wide */
        put_le64(p + 44, cfg->hpet_base);
        put_le16(p + 53, 100);
        list(b, finish(b, p));
    }
}

/* The PM timer reads right at once: no need to read it three times. */
static void waet(struct builder *b)
{
    uint8_t *p = begin(b, "WAET", 1, HEADER + 4);

    if (p != NULL) {
        put_le32(p + 36, 2);
        list(b, finish(b, p));
    }
}

static uint64_t facs(struct builder *b)
{
    align_to(b, 64);
    uint8_t *p = take(b, FACS_BYTES);

    if (p == NULL) {
        return 0;
    }
    memcpy(p, "FACS", 4);
    put_le32(p + 4, FACS_BYTES);
    p[32] = 2;
    return b->gpa + (uint64_t)(p - b->buf);
}

static uint64_t dsdt(struct builder *b, const struct acpi_config *cfg, uint64_t vmgenid)
{
    struct aml a;
    uint64_t gpa = 0;

    aml_init(&a);
    acpi_dsdt(&a, cfg, vmgenid);
    uint8_t *p = begin(b, "DSDT", 2, HEADER);
    uint8_t *code = take(b, a.len);
    b->failed |= a.failed || a.depth != 0;
    if (p != NULL && code != NULL && !b->failed) {
        memcpy(code, a.data, a.len);
        gpa = finish(b, p);
    }
    aml_done(&a);
    return gpa;
}

/* RSDT or XSDT: the list of tables with 4- or 8-byte addresses. */
static uint64_t root_table(struct builder *b, const char *sig, unsigned width)
{
    uint8_t *p = begin(b, sig, 1, HEADER + b->n * (size_t)width);

    if (p == NULL) {
        return 0;
    }
    for (unsigned i = 0; i < b->n; i++) {
        uint8_t v[8];
        put_le64(v, b->table[i]);
        memcpy(p + HEADER + i * (size_t)width, v, width);
    }
    return finish(b, p);
}

static void build_all(struct builder *b, const struct acpi_config *cfg, uint64_t vmgenid,
                      uint8_t rsdp[RSDP_BYTES])
{
    uint64_t facs_gpa = facs(b), dsdt_gpa = dsdt(b, cfg, vmgenid);

    fadt(b, cfg, facs_gpa, dsdt_gpa);
    madt(b, cfg);
    if (cfg->ecam_base != 0) {
        mcfg(b, cfg);
    }
    if (cfg->hpet_base != 0) {
        hpet_table(b, cfg);
    }
    waet(b);
    uint64_t rsdt = root_table(b, "RSDT", 4), xsdt = root_table(b, "XSDT", 8);
    memset(rsdp, 0, RSDP_BYTES);
    memcpy(rsdp, "RSD PTR ", 8);
    memcpy(rsdp + 9, "VIVARM", 6);
    rsdp[15] = 2;
    put_le32(rsdp + 16, (uint32_t)rsdt);
    put_le32(rsdp + 20, RSDP_BYTES);
    put_le64(rsdp + 24, xsdt);
    rsdp[8] = checksum(rsdp, 20);
    rsdp[32] = checksum(rsdp, RSDP_BYTES);
}

/* Where the tables go: the top of the memory below 4 GiB; the generation ID in a page of its
 * own before them. */
static int place(const struct acpi_config *cfg, struct boot_map *map, uint64_t *ret_tables,
                 uint64_t *ret_vmgenid, struct err *err)
{
    uint64_t extra = cfg->vmgenid ? MEM_PAGE_SIZE : 0, base;
    int r = boot_map_find_high(map, TABLES_MAX + extra, MEM_PAGE_SIZE, MIB, UINT64_C(1) << 32,
                               &base);

    if (r == 0 && extra != 0) {
        r = boot_map_mark(map, base, extra, BOOT_MAP_NVS);
    }
    if (r == 0) {
        r = boot_map_mark(map, base + extra, TABLES_MAX, BOOT_MAP_ACPI);
    }
    if (r < 0) {
        return ERR(err, LIMIT, -r, "no place for the ACPI tables (%" PRIu64 " KiB above 1 MiB)",
                   (TABLES_MAX + extra) / KIB);
    }
    *ret_tables = base + extra;
    *ret_vmgenid = cfg->vmgenid ? base : 0;
    return 0;
}

static int store_smbios(const struct acpi_config *cfg, struct mem *mem)
{
    uint8_t buf[SMBIOS_MAX] = {0};
    uint64_t gpa = cfg->bios_area + SMBIOS_OFF;
    size_t n = smbios_build(buf, sizeof(buf), gpa, cfg, mem_ram_bytes(mem));

    return n > 0 ? mem_load(mem, GPA(gpa), buf, n) : -E2BIG;
}

int acpi_build(const struct acpi_config *cfg, struct mem *mem, struct boot_map *map,
               struct acpi_tables *ret, struct err *err)
{
    _cleanup_free_ uint8_t *buf = calloc(1, TABLES_MAX);
    uint8_t rsdp[RSDP_BYTES];
    uint64_t gpa = 0, vmgenid = 0;
    int r = place(cfg, map, &gpa, &vmgenid, err);

    if (r < 0) {
        return r;
    }
    if (buf == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the ACPI tables");
    }
    struct builder b = {.buf = buf, .gpa = gpa};
    build_all(&b, cfg, vmgenid, rsdp);
    if (b.failed) {
        return ERR(err, INTERNAL, E2BIG,
                   "the ACPI tables for %u CPUs do not fit %" PRIu64 " KiB", cfg->n_cpus,
                   TABLES_MAX / KIB);
    }
    r = mem_load(mem, GPA(gpa), buf, b.len);
    r = r < 0 ? r : mem_load(mem, GPA(cfg->bios_area), rsdp, sizeof(rsdp));
    if (r == 0 && vmgenid != 0) {
        r = mem_load(mem, GPA(vmgenid), cfg->vmgenid_guid, sizeof(cfg->vmgenid_guid));
    }
    if (r == 0 && cfg->smbios) {
        r = store_smbios(cfg, mem);
    }
    if (r < 0) {
        return ERR(err, INTERNAL, -r, "storing the ACPI tables at 0x%" PRIx64 " failed", gpa);
    }
    *ret = (struct acpi_tables){.rsdp = cfg->bios_area, .vmgenid = vmgenid};
    return 0;
}
