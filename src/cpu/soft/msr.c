/*
 * Model specific registers as a table: number, read, write, the field behind it and the bits
 * that may be written. SDM vol. 4, vol. 3A 12.11 (MTRR), 12.12 (PAT), 11.12 (x2APIC), 16 (MCE);
 * AMD APM vol. 2 appendix A; KVM's in msr_kvm.c. What no row names is #GP, with a line in the
 * debug log.
 *
 * Most of the state lies in c->cold (struct vcpu_state), so it is saved with the vCPU. Local
 * APIC registers are the machine's (engine_host). MTRRs, machine check banks and the AMD
 * configuration registers are state without effect. Missing: performance counters, LBR, BTF of
 * DEBUGCTL.
 */
#include "cpu/soft/msr.h"

#include "cpu/soft/cr.h"

#include <errno.h>

struct msr_row;
typedef int msr_read_fn(struct scpu *c, const struct msr_row *row, uint32_t msr,
                        uint64_t *ret_value);
typedef int msr_write_fn(struct scpu *c, const struct msr_row *row, uint32_t msr,
                         uint64_t value);

/* Where the value is: in struct scpu, in *c->cold, or nowhere (value is the constant read). */
enum msr_place { AT_CONST, AT_CPU, AT_COLD };
enum msr_vendor { ANY, AMD, INTEL };

struct msr_row {
    uint32_t first, count;
    msr_read_fn *read;
    msr_write_fn *write; /* NULL: read-only */
    enum msr_place place;
    enum msr_vendor vendor;
    uint32_t off;   /* of the field */
    uint64_t mask;  /* bits that may be 1 in a write; others are #GP */
    uint64_t value; /* constant */
    uint32_t leaf;  /* CPUID bit that brings the MSR; leaf 0: none */
    uint8_t reg, bit;
};

static uint64_t *field(struct scpu *c, const struct msr_row *row, uint32_t msr)
{
    uint8_t *base = row->place == AT_CPU ? (uint8_t *)c : (uint8_t *)c->cold;
    return (uint64_t *)(void *)(base + row->off) + (msr - row->first);
}

static int read_field(struct scpu *c, const struct msr_row *row, uint32_t msr,
                      uint64_t *ret_value)
{
    *ret_value = row->place == AT_CONST ? row->value : *field(c, row, msr);
    return 0;
}

static int write_field(struct scpu *c, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    if (value & ~row->mask) {
        return -EINVAL;
    }
    if (row->place != AT_CONST) {
        *field(c, row, msr) = value;
    }
    return 0;
}

static int write_ignored(struct scpu *c, const struct msr_row *row, uint32_t msr,
                         uint64_t value)
{
    (void)c;
    (void)row;
    (void)msr;
    (void)value;
    return 0;
}

static int write_canonical(struct scpu *c, const struct msr_row *row, uint32_t msr,
                           uint64_t value)
{
    if (!soft_canonical(c, value)) {
        return -EINVAL;
    }
    *field(c, row, msr) = value;
    return 0;
}

/* ---- EFER, segment bases ---- */

static int write_efer(struct scpu *c, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    (void)row;
    (void)msr;
    if (cr_write_efer(c, value)) {
        c->exc.pending = false; /* the caller raises it */
        return -EINVAL;
    }
    return 0;
}

static enum x86_seg base_seg(uint32_t msr)
{
    return msr & 1 ? X86_GS : X86_FS;
}

static int read_seg_base(struct scpu *c, const struct msr_row *row, uint32_t msr,
                         uint64_t *ret_value)
{
    (void)row;
    *ret_value = c->seg[base_seg(msr)].base;
    return 0;
}

static int write_seg_base(struct scpu *c, const struct msr_row *row, uint32_t msr,
                          uint64_t value)
{
    (void)row;
    if (!soft_canonical(c, value)) {
        return -EINVAL;
    }
    c->seg[base_seg(msr)].base = value;
    if (soft_code64(c)) {
        c->seg_base[base_seg(msr)] = value;
    } else {
        soft_update_mode(c);
    }
    return 0;
}

/* ---- time ---- */

static int read_tsc(struct scpu *c, const struct msr_row *row, uint32_t msr,
                    uint64_t *ret_value)
{
    (void)row;
    (void)msr;
    *ret_value = soft_rdtsc(c);
    return 0;
}

static void move_tsc(struct scpu *c, uint64_t delta)
{
    c->tsc_offset = (int64_t)((uint64_t)c->tsc_offset + delta);
    c->cold->tsc_adjust += delta;
    msr_kvm_clock_publish(c);
}

static int write_tsc(struct scpu *c, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    (void)row;
    (void)msr;
    move_tsc(c, value - soft_rdtsc(c));
    return 0;
}

static int write_tsc_adjust(struct scpu *c, const struct msr_row *row, uint32_t msr,
                            uint64_t value)
{
    (void)row;
    (void)msr;
    move_tsc(c, value - c->cold->tsc_adjust);
    return 0;
}

/* ---- local APIC: the machine's ---- */

#define MSR_APIC_BASE 0x1bu

static int read_apic(struct scpu *c, const struct msr_row *row, uint32_t msr,
                     uint64_t *ret_value)
{
    (void)row;
    soft_leave(c);
    if (c->vm->host.apic_msr_read == NULL ||
        c->vm->host.apic_msr_read(c->vm->host.opaque, c->index, msr, ret_value)) {
        return -EINVAL;
    }
    return 0;
}

static int write_apic(struct scpu *c, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    (void)row;
    soft_leave(c);
    if (c->vm->host.apic_msr_write == NULL ||
        c->vm->host.apic_msr_write(c->vm->host.opaque, c->index, msr, value)) {
        return -EINVAL;
    }
    if (msr == MSR_APIC_BASE) {
        c->cold->apic_base = value; /* CPUID shows whether the APIC is enabled */
    }
    return 0;
}

/* ---- memory types ---- */

#define MTRR_TYPES 0x73u /* uncacheable, write combining, through, protected, back */
#define PAT_TYPES  0xf3u /* also uncached-minus */

static bool types_valid(uint64_t value, unsigned n, unsigned types)
{
    for (unsigned i = 0; i < n; i++) {
        unsigned t = (unsigned)(value >> (i * 8)) & 0xff;
        if (t > 7 || !((types >> t) & 1)) {
            return false;
        }
    }
    return true;
}

static int write_pat(struct scpu *c, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    (void)row;
    (void)msr;
    if (!types_valid(value, 8, PAT_TYPES)) {
        return -EINVAL;
    }
    c->cold->pat = value;
    return 0;
}

static int write_mtrr_fixed(struct scpu *c, const struct msr_row *row, uint32_t msr,
                            uint64_t value)
{
    if (!types_valid(value, 8, MTRR_TYPES)) {
        return -EINVAL;
    }
    *field(c, row, msr) = value;
    return 0;
}

static int write_mtrr_var(struct scpu *c, const struct msr_row *row, uint32_t msr,
                          uint64_t value)
{
    uint64_t addr = (UINT64_C(1) << c->vm->model->phys_bits) - MEM_PAGE_SIZE;

    if (msr & 1 ? (value & ~(addr | 0x800)) != 0
                : (value & ~(addr | 0xff)) != 0 || !types_valid(value, 1, MTRR_TYPES)) {
        return -EINVAL;
    }
    *field(c, row, msr) = value;
    return 0;
}

static int write_mtrr_def(struct scpu *c, const struct msr_row *row, uint32_t msr,
                          uint64_t value)
{
    (void)row;
    (void)msr;
    if ((value & ~UINT64_C(0xcff)) || !types_valid(value, 1, MTRR_TYPES)) {
        return -EINVAL;
    }
    c->cold->mtrr_def_type = value;
    return 0;
}

/* ---- machine check ---- */

#define MCG_CTL_P UINT64_C(0x100)

static int write_mc_bank(struct scpu *c, const struct msr_row *row, uint32_t msr,
                         uint64_t value)
{
    /* CTL is all or nothing here; STATUS can be cleared; ADDR and MISC hold anything. */
    if (((msr & 3) == 0 && value != 0 && ~value != 0) || ((msr & 3) == 1 && value != 0)) {
        return -EINVAL;
    }
    *field(c, row, msr) = value;
    return 0;
}

/* ---- KVM ---- */

static int write_kvm_time(struct scpu *c, const struct msr_row *row, uint32_t msr,
                          uint64_t value)
{
    (void)row;
    (void)msr;
    return msr_kvm_set_system_time(c, value);
}

static int write_kvm_wall(struct scpu *c, const struct msr_row *row, uint32_t msr,
                          uint64_t value)
{
    (void)row;
    (void)msr;
    return msr_kvm_set_wall_clock(c, value);
}

/* ---- constants that depend on the model ---- */

static int read_platform_info(struct scpu *c, const struct msr_row *row, uint32_t msr,
                              uint64_t *ret_value)
{
    uint64_t ratio = (c->vm->model->tsc_khz / 100000) & 0xff; /* of the 100 MHz bus */

    (void)row;
    (void)msr;
    *ret_value = ratio << 8 | ratio << 40;
    return 0;
}

/* Branch trace and precise event storage: unavailable. */
#define MISC_ENABLE_ALWAYS UINT64_C(0x1800)

static int read_misc_enable(struct scpu *c, const struct msr_row *row, uint32_t msr,
                            uint64_t *ret_value)
{
    (void)row;
    (void)msr;
    *ret_value = c->cold->misc_enable | MISC_ENABLE_ALWAYS;
    return 0;
}

static int read_core_count(struct scpu *c, const struct msr_row *row, uint32_t msr,
                           uint64_t *ret_value)
{
    (void)row;
    (void)msr;
    *ret_value = (uint64_t)c->vm->n_cpus << 16 | c->vm->n_cpus;
    return 0;
}

/* What no mitigation is needed for (IA32_ARCH_CAPABILITIES): RDCL_NO, IBRS_ALL, SKIP_L1DFL,
 * SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO,
 * GDS_NO, RFDS_NO, ITS_NO. */
#define ARCH_CAPABILITIES UINT64_C(0x400000000d10e17b)
#define SPEC_CTRL_BITS                                                                         \
    UINT64_C(0x407) /* IBRS, STIBP, SSBD, BHI_DIS_S: state without effect                      \
                     */

/* Row makers, so that the table below has one line a register. */
#define CPU_FIELD(f)  .place = AT_CPU, .off = offsetof(struct scpu, f)
#define COLD_FIELD(f) .place = AT_COLD, .off = offsetof(struct vcpu_state, f)
#define ALL_BITS      (~UINT64_C(0))
#define CPU(n, f, m)                                                                           \
    {                                                                                          \
        .first = (n), .count = 1, .read = read_field, .write = write_field, CPU_FIELD(f),      \
        .mask = (m)                                                                            \
    }
#define CPU_VA(n, f)                                                                           \
    {                                                                                          \
        .first = (n), .count = 1, .read = read_field, .write = write_canonical, CPU_FIELD(f)   \
    }
#define COLD(n, f, m)                                                                          \
    {                                                                                          \
        .first = (n), .count = 1, .read = read_field, .write = write_field, COLD_FIELD(f),     \
        .mask = (m)                                                                            \
    }
#define COLD_FN(n, k, f, fn)                                                                   \
    {                                                                                          \
        .first = (n), .count = (k), .read = read_field, .write = (fn), COLD_FIELD(f)           \
    }
#define RO(n, k, v)                                                                            \
    {                                                                                          \
        .first = (n), .count = (k), .read = read_field, .value = (v)                           \
    }
#define RO_FN(n, fn)                                                                           \
    {                                                                                          \
        .first = (n), .count = 1, .read = (fn)                                                 \
    }
#define IGNORED(n, k, v)                                                                       \
    {                                                                                          \
        .first = (n), .count = (k), .read = read_field, .write = write_ignored, .value = (v)   \
    }
#define VENDOR(who, n, k, w, v)                                                                \
    {                                                                                          \
        .first = (n), .count = (k), .read = read_field, .write = (w), .value = (v),            \
        .vendor = (who)                                                                        \
    }
#define APIC(n, k)                                                                             \
    {                                                                                          \
        .first = (n), .count = (k), .read = read_apic, .write = write_apic                     \
    }

/* clang-format off */
static const struct msr_row msr_table[] = {
    RO(0x0, 2, 0),                                   /* P5 machine check address and type */
    {.first = 0x10, .count = 1, .read = read_tsc, .write = write_tsc},
    {.first = MSR_KVM_WALL_CLOCK, .count = 1, .read = read_field, .write = write_kvm_wall,
     COLD_FIELD(kvm_wall_clock), .leaf = 0x40000001, .reg = 0, .bit = 0},
    {.first = MSR_KVM_SYSTEM_TIME, .count = 1, .read = read_field, .write = write_kvm_time,
     COLD_FIELD(kvm_system_time), .leaf = 0x40000001, .reg = 0, .bit = 0},
    VENDOR(INTEL, 0x17, 1, NULL, 0),                 /* PLATFORM_ID */
    APIC(0x1b, 1),
    VENDOR(INTEL, 0x2a, 1, NULL, 0),                 /* EBL_CR_POWERON */
    RO(0x34, 1, 0),                                  /* SMI_COUNT */
    {.first = 0x35, .count = 1, .read = read_core_count, .vendor = INTEL},
    VENDOR(INTEL, 0x3a, 1, NULL, 1),                 /* FEATURE_CONTROL: locked, no VMX */
    {.first = 0x3b, .count = 1, .read = read_field, .write = write_tsc_adjust,
     COLD_FIELD(tsc_adjust), .leaf = 7, .reg = 1, .bit = 1},
    {.first = 0x48, .count = 1, .read = read_field, .write = write_field, COLD_FIELD(spec_ctrl),
     .mask = SPEC_CTRL_BITS, .leaf = 7, .reg = 3, .bit = 26},
    {.first = 0x49, .count = 1, .write = write_field, .mask = 1, .leaf = 7, .reg = 3, .bit = 26},
    IGNORED(0x79, 1, 0),                             /* BIOS_UPDT_TRIG */
    IGNORED(0x8b, 1, UINT64_C(0x100000000)),         /* BIOS_SIGN_ID, AMD PATCH_LEVEL */
    VENDOR(INTEL, 0xc1, 2, write_ignored, 0),        /* P6 counters: there, but they stand still */
    {.first = 0xce, .count = 1, .read = read_platform_info, .vendor = INTEL},
    RO(0xfe, 1, 0x508),                              /* MTRRCAP: 8 variable, fixed, WC */
    {.first = 0x10a, .count = 1, .read = read_field, .value = ARCH_CAPABILITIES,
     .leaf = 7, .reg = 3, .bit = 29},
    {.first = 0x10b, .count = 1, .write = write_field, .mask = 1, .leaf = 7, .reg = 3, .bit = 28},
    VENDOR(INTEL, 0x119, 1, write_ignored, 0),       /* BBL_CR_CTL */
    VENDOR(INTEL, 0x11e, 1, write_ignored, 0xbe702111), /* BBL_CR_CTL3: what NT looks at */
    CPU(0x174, sysenter_cs, 0xffffffff),
    CPU_VA(0x175, sysenter_esp),
    CPU_VA(0x176, sysenter_eip),
    RO(0x179, 1, MCG_CTL_P | VCPU_MCE_BANKS),        /* MCG_CAP */
    COLD(0x17a, mcg_status, 7),
    COLD(0x17b, mcg_ctl, ALL_BITS),
    VENDOR(INTEL, 0x186, 2, write_ignored, 0),       /* P6 event selects */
    RO(0x198, 1, 1000 | UINT64_C(4) << 40),          /* PERF_STATUS */
    {.first = 0x1a0, .count = 1, .read = read_misc_enable, .write = write_field,
     COLD_FIELD(misc_enable), .mask = UINT64_C(0x400c51889)},
    COLD(0x1d9, debugctl, 3),
    RO(0x1db, 4, 0),                                 /* last branch and exception */
    COLD_FN(0x200, 2 * VCPU_MTRR_VAR, mtrr_var, write_mtrr_var),
    COLD_FN(0x250, 1, mtrr_fixed[0], write_mtrr_fixed),
    COLD_FN(0x258, 2, mtrr_fixed[1], write_mtrr_fixed),
    COLD_FN(0x268, 8, mtrr_fixed[3], write_mtrr_fixed),
    COLD_FN(0x277, 1, pat, write_pat),
    COLD_FN(0x2ff, 1, mtrr_def_type, write_mtrr_def),
    COLD_FN(0x400, 4 * VCPU_MCE_BANKS, mc_bank, write_mc_bank),
    {.first = 0x6e0, .count = 1, .read = read_apic, .write = write_apic,
     .leaf = 1, .reg = 2, .bit = 24},
    {.first = 0x800, .count = 0x100, .read = read_apic, .write = write_apic,
     .leaf = 1, .reg = 2, .bit = 21},
    {.first = MSR_KVM_WALL_CLOCK_NEW, .count = 1, .read = read_field, .write = write_kvm_wall,
     COLD_FIELD(kvm_wall_clock), .leaf = 0x40000001, .reg = 0, .bit = 3},
    {.first = MSR_KVM_SYSTEM_TIME_NEW, .count = 1, .read = read_field, .write = write_kvm_time,
     COLD_FIELD(kvm_system_time), .leaf = 0x40000001, .reg = 0, .bit = 3},
    {.first = MSR_KVM_POLL_CONTROL, .count = 1, .read = read_field, .write = write_field,
     COLD_FIELD(kvm_poll_control), .mask = 1, .leaf = 0x40000001, .reg = 0, .bit = 12},
    {.first = 0xc0000080, .count = 1, .read = read_field, .write = write_efer, CPU_FIELD(efer)},
    CPU(0xc0000081, star, ALL_BITS),
    CPU_VA(0xc0000082, lstar),
    CPU_VA(0xc0000083, cstar),
    CPU(0xc0000084, sfmask, 0xffffffff),
    {.first = 0xc0000100, .count = 2, .read = read_seg_base, .write = write_seg_base},
    CPU_VA(0xc0000102, kernel_gs_base),
    CPU(0xc0000103, tsc_aux, 0xffffffff),
    VENDOR(AMD, 0xc0010000, 8, write_ignored, 0),    /* K7 event selects and counters */
    VENDOR(AMD, 0xc0010010, 1, write_ignored, 0),    /* SYSCFG */
    VENDOR(AMD, 0xc0010015, 1, write_ignored, UINT64_C(1) << 24), /* HWCR: TSC runs at P0 rate */
    VENDOR(AMD, 0xc001001a, 1, write_ignored, 0),    /* TOP_MEM */
    VENDOR(AMD, 0xc001001d, 1, write_ignored, 0),    /* TOP_MEM2 */
    VENDOR(AMD, 0xc001001f, 1, write_ignored, 0),    /* NB_CFG */
    VENDOR(AMD, 0xc0010020, 1, write_ignored, 0),    /* PATCH_LOADER */
    VENDOR(AMD, 0xc0010055, 1, write_ignored, 0),    /* INT_PENDING */
    VENDOR(AMD, 0xc0010058, 1, write_ignored, 0),    /* MMIO_CONF_BASE: off */
    VENDOR(AMD, 0xc0010061, 3, write_ignored, 0),    /* P-state limit, control, status */
    VENDOR(AMD, 0xc0010112, 2, write_ignored, 0),    /* SMM_ADDR, SMM_MASK */
    VENDOR(AMD, 0xc0010114, 1, write_ignored, 0x10), /* VM_CR: SVM disabled */
    VENDOR(AMD, 0xc0010117, 1, write_ignored, 0),    /* VM_HSAVE_PA */
    VENDOR(AMD, 0xc0010140, 2, write_ignored, 0),    /* OSVW: no errata */
    VENDOR(AMD, 0xc0011020, 4, write_ignored, 0),    /* LS, IC, DC, BU configuration */
    VENDOR(AMD, 0xc0011029, 1, write_ignored, 2),    /* DE_CFG: LFENCE serialises */
    VENDOR(AMD, 0xc001102a, 1, write_ignored, 0),    /* BU_CFG2 */
};
/* clang-format on */

bool msr_table_is_sorted(void)
{
    for (unsigned i = 0; i + 1 < ARRAY_LEN(msr_table); i++) {
        if (msr_table[i].first + msr_table[i].count > msr_table[i + 1].first) {
            return false;
        }
    }
    return true;
}

static const struct msr_row *find_row(const struct scpu *c, uint32_t msr)
{
    const struct cpu_model *m = c->vm->model;
    unsigned low = 0, high = ARRAY_LEN(msr_table);

    while (high - low > 1) {
        unsigned mid = (low + high) / 2;
        if (msr_table[mid].first <= msr) {
            low = mid;
        } else {
            high = mid;
        }
    }
    const struct msr_row *r = &msr_table[low];
    if (msr - r->first >= r->count || (r->vendor == AMD && !m->is_amd) ||
        (r->vendor == INTEL && m->is_amd) ||
        (r->leaf && !cpu_model_has(m, r->leaf, 0, r->reg, r->bit))) {
        return NULL;
    }
    return r;
}

static int refuse(struct scpu *c, const char *what, uint32_t msr, uint64_t value)
{
    soft_leave(c);
    if (log_enabled(LOG_LEVEL_DEBUG) && log_limit_pass(&c->odd, 20)) {
        log_debug("cpu %u: %s of MSR 0x%x (0x%llx) refused at rip 0x%llx", c->index, what, msr,
                  (unsigned long long)value, (unsigned long long)c->rip);
    }
    return -EINVAL;
}

int msr_read(struct scpu *c, uint32_t msr, uint64_t *ret_value)
{
    const struct msr_row *r = find_row(c, msr);
    uint64_t v;

    if (r == NULL || r->read == NULL || r->read(c, r, msr, &v)) {
        return refuse(c, "read", msr, 0);
    }
    *ret_value = v;
    return 0;
}

int msr_write(struct scpu *c, uint32_t msr, uint64_t value)
{
    const struct msr_row *r = find_row(c, msr);

    if (r == NULL || r->write == NULL || r->write(c, r, msr, value)) {
        return refuse(c, "write", msr, value);
    }
    return 0;
}
