/*
 * The CPU model: which CPUID leaves a guest sees. SDM vol. 2A CPUID, AMD APM vol. 3 appendix E,
 * KVM: Linux Documentation/virt/kvm/x86/cpuid.rst. Made once before the guest runs; read-only
 * after.
 *
 * Policy is data: feature_table has one row a feature bit and names a class; class_table says
 * per engine when bits of a class are offered. To offer one more feature add a row; to switch a
 * group (AVX-512, PCID, ...) for an engine change its class. Bits without a row are never
 * offered.
 *
 * Topology: one package, one thread a core, all caches but the last level private.
 */
#include "cpu/model/cpu_model_priv.h"

#include "base/ckd.h"
#include "cpu/vcpu_state.h"

#include <errno.h>
#include <string.h>

enum { EAX, EBX, ECX, EDX };

enum offer { NEVER, IF_HOST, ALWAYS };

enum feature_class {
    F_HOST,           /* the instruction runs on the host's CPU */
    F_ENGINE,         /* the software engine does it by itself */
    F_ALWAYS,         /* we do it for every engine */
    F_KVM,            /* only hardware does it */
    F_VAES,           /* VEX forms of AES, CLMUL, GF(2^8), VNNI */
    F_AVX512,         /* EVEX */
    F_PCID,           /* the software MMU keeps nothing across a switch, as it may */
    F_LA57,           /* five-level paging */
    F_XSAVEC,         /* compacted XSAVE images */
    F_NO_FLAWS_INTEL, /* "not affected" bits, and what goes with them; why: SECURITY.md */
    F_NO_FLAWS_AMD,
    F_AMD, /* AMD only, always */
    F_N_CLASSES,
};

static const struct class_policy {
    enum offer soft, kvm;
} class_table[F_N_CLASSES] = {
    [F_HOST] = {IF_HOST, IF_HOST},        [F_ENGINE] = {ALWAYS, IF_HOST},
    [F_ALWAYS] = {ALWAYS, ALWAYS},        [F_KVM] = {NEVER, IF_HOST},
    [F_VAES] = {IF_HOST, IF_HOST},        [F_AVX512] = {IF_HOST, IF_HOST},
    [F_PCID] = {IF_HOST, IF_HOST},        [F_LA57] = {IF_HOST, IF_HOST},
    [F_XSAVEC] = {IF_HOST, IF_HOST},      [F_NO_FLAWS_INTEL] = {ALWAYS, IF_HOST},
    [F_NO_FLAWS_AMD] = {ALWAYS, IF_HOST}, [F_AMD] = {ALWAYS, ALWAYS},
};

struct feature {
    uint32_t leaf;
    uint8_t subleaf, reg, bit;
    enum feature_class class;
};

/* clang-format off */
static const struct feature feature_table[] = {
    {1, 0, ECX, 0, F_HOST},      /* SSE3 */
    {1, 0, ECX, 1, F_HOST},      /* PCLMULQDQ */
    {1, 0, ECX, 9, F_HOST},      /* SSSE3 */
    {1, 0, ECX, 12, F_HOST},     /* FMA */
    {1, 0, ECX, 13, F_HOST},     /* CMPXCHG16B */
    {1, 0, ECX, 17, F_PCID},     /* PCID */
    {1, 0, ECX, 19, F_HOST},     /* SSE4.1 */
    {1, 0, ECX, 20, F_HOST},     /* SSE4.2 */
    {1, 0, ECX, 21, F_ALWAYS},   /* x2APIC */
    {1, 0, ECX, 22, F_HOST},     /* MOVBE */
    {1, 0, ECX, 23, F_HOST},     /* POPCNT */
    {1, 0, ECX, 24, F_ALWAYS},   /* TSC deadline timer */
    {1, 0, ECX, 25, F_HOST},     /* AES */
    {1, 0, ECX, 26, F_HOST},     /* XSAVE */
    {1, 0, ECX, 28, F_HOST},     /* AVX */
    {1, 0, ECX, 29, F_HOST},     /* F16C */
    {1, 0, ECX, 30, F_HOST},     /* RDRAND */
    {1, 0, ECX, 31, F_ALWAYS},   /* hypervisor */
    {1, 0, EDX, 0, F_HOST},      /* FPU */
    {1, 0, EDX, 1, F_ENGINE},    /* VME */
    {1, 0, EDX, 2, F_ENGINE},    /* DE */
    {1, 0, EDX, 3, F_ENGINE},    /* PSE */
    {1, 0, EDX, 4, F_ENGINE},    /* TSC */
    {1, 0, EDX, 5, F_ENGINE},    /* MSR */
    {1, 0, EDX, 6, F_ENGINE},    /* PAE */
    {1, 0, EDX, 7, F_ENGINE},    /* MCE */
    {1, 0, EDX, 8, F_HOST},      /* CMPXCHG8B */
    {1, 0, EDX, 9, F_ALWAYS},    /* APIC */
    {1, 0, EDX, 11, F_ENGINE},   /* SYSENTER */
    {1, 0, EDX, 12, F_ENGINE},   /* MTRR */
    {1, 0, EDX, 13, F_ENGINE},   /* PGE */
    {1, 0, EDX, 14, F_ENGINE},   /* MCA */
    {1, 0, EDX, 15, F_HOST},     /* CMOV */
    {1, 0, EDX, 16, F_ENGINE},   /* PAT */
    {1, 0, EDX, 17, F_ENGINE},   /* PSE-36 */
    {1, 0, EDX, 19, F_ENGINE},   /* CLFLUSH */
    {1, 0, EDX, 23, F_HOST},     /* MMX */
    {1, 0, EDX, 24, F_HOST},     /* FXSAVE */
    {1, 0, EDX, 25, F_HOST},     /* SSE */
    {1, 0, EDX, 26, F_HOST},     /* SSE2 */
    {1, 0, EDX, 27, F_HOST},     /* self snoop */
    {6, 0, EAX, 2, F_ALWAYS},    /* APIC timer always runs */
    {7, 0, EBX, 0, F_ENGINE},    /* FSGSBASE */
    {7, 0, EBX, 1, F_ENGINE},    /* TSC_ADJUST */
    {7, 0, EBX, 3, F_HOST},      /* BMI1 */
    {7, 0, EBX, 5, F_HOST},      /* AVX2 */
    {7, 0, EBX, 6, F_HOST},      /* x87 data pointer on exceptions only */
    {7, 0, EBX, 7, F_ENGINE},    /* SMEP */
    {7, 0, EBX, 8, F_HOST},      /* BMI2 */
    {7, 0, EBX, 9, F_ENGINE},    /* ERMS */
    {7, 0, EBX, 10, F_ENGINE},   /* INVPCID */
    {7, 0, EBX, 13, F_HOST},     /* x87 CS and DS are zero */
    {7, 0, EBX, 16, F_AVX512},   /* AVX512F */
    {7, 0, EBX, 17, F_AVX512},   /* AVX512DQ */
    {7, 0, EBX, 18, F_HOST},     /* RDSEED */
    {7, 0, EBX, 19, F_HOST},     /* ADX */
    {7, 0, EBX, 20, F_ENGINE},   /* SMAP */
    {7, 0, EBX, 21, F_AVX512},   /* AVX512_IFMA */
    {7, 0, EBX, 23, F_ENGINE},   /* CLFLUSHOPT */
    {7, 0, EBX, 24, F_ENGINE},   /* CLWB */
    {7, 0, EBX, 28, F_AVX512},   /* AVX512CD */
    {7, 0, EBX, 29, F_HOST},     /* SHA */
    {7, 0, EBX, 30, F_AVX512},   /* AVX512BW */
    {7, 0, EBX, 31, F_AVX512},   /* AVX512VL */
    {7, 0, ECX, 1, F_AVX512},    /* AVX512_VBMI */
    {7, 0, ECX, 2, F_ENGINE},    /* UMIP */
    {7, 0, ECX, 5, F_KVM},       /* WAITPKG */
    {7, 0, ECX, 6, F_AVX512},    /* AVX512_VBMI2 */
    {7, 0, ECX, 8, F_VAES},      /* GFNI */
    {7, 0, ECX, 9, F_VAES},      /* VAES */
    {7, 0, ECX, 10, F_VAES},     /* VPCLMULQDQ */
    {7, 0, ECX, 11, F_AVX512},   /* AVX512_VNNI */
    {7, 0, ECX, 12, F_AVX512},   /* AVX512_BITALG */
    {7, 0, ECX, 14, F_AVX512},   /* AVX512_VPOPCNTDQ */
    {7, 0, ECX, 16, F_LA57},     /* LA57 */
    {7, 0, ECX, 22, F_ENGINE},   /* RDPID */
    {7, 0, ECX, 25, F_KVM},      /* CLDEMOTE */
    {7, 0, ECX, 27, F_KVM},      /* MOVDIRI */
    {7, 0, ECX, 28, F_KVM},      /* MOVDIR64B */
    {7, 0, EDX, 4, F_ENGINE},    /* FSRM */
    {7, 0, EDX, 8, F_AVX512},    /* AVX512_VP2INTERSECT */
    {7, 0, EDX, 14, F_KVM},      /* SERIALIZE */
    {7, 0, EDX, 23, F_AVX512},   /* AVX512_FP16 */
    {7, 0, EDX, 26, F_NO_FLAWS_INTEL}, /* SPEC_CTRL, PRED_CMD */
    {7, 0, EDX, 27, F_KVM},      /* STIBP */
    {7, 0, EDX, 29, F_NO_FLAWS_INTEL}, /* ARCH_CAPABILITIES */
    {7, 0, EDX, 31, F_KVM},      /* SSBD */
    {7, 1, EAX, 4, F_VAES},      /* AVX_VNNI */
    {7, 1, EAX, 5, F_AVX512},    /* AVX512_BF16 */
    {7, 2, EDX, 4, F_NO_FLAWS_INTEL}, /* BHI_CTRL: else Linux clears the branch history by a loop */
    {0xd, 1, EAX, 0, F_HOST},    /* XSAVEOPT */
    {0xd, 1, EAX, 1, F_XSAVEC},  /* XSAVEC */
    {0xd, 1, EAX, 2, F_HOST},    /* XGETBV with ECX 1 */
    {0x80000001, 0, ECX, 0, F_HOST},   /* LAHF in 64-bit mode */
    {0x80000001, 0, ECX, 5, F_HOST},   /* LZCNT */
    {0x80000001, 0, ECX, 6, F_HOST},   /* SSE4A */
    {0x80000001, 0, ECX, 7, F_HOST},   /* misaligned SSE */
    {0x80000001, 0, ECX, 8, F_ENGINE}, /* PREFETCH, PREFETCHW */
    {0x80000001, 0, ECX, 22, F_AMD},   /* topology extensions */
    {0x80000001, 0, EDX, 11, F_ENGINE}, /* SYSCALL */
    {0x80000001, 0, EDX, 20, F_ENGINE}, /* NX */
    {0x80000001, 0, EDX, 22, F_HOST},   /* MMX extensions */
    {0x80000001, 0, EDX, 26, F_ENGINE}, /* 1 GiB pages */
    {0x80000001, 0, EDX, 27, F_ENGINE}, /* RDTSCP */
    {0x80000001, 0, EDX, 29, F_ENGINE}, /* long mode */
    {0x80000007, 0, EDX, 8, F_HOST},    /* invariant TSC */
    {0x80000008, 0, EBX, 2, F_HOST},    /* FXSAVE keeps error pointers */
    {0x80000008, 0, EBX, 12, F_KVM},    /* IBPB */
    {0x80000008, 0, EBX, 14, F_KVM},    /* IBRS */
    {0x80000008, 0, EBX, 15, F_KVM},    /* STIBP */
    {0x80000008, 0, EBX, 24, F_KVM},    /* SSBD */
    {0x80000008, 0, EBX, 26, F_NO_FLAWS_AMD}, /* SSB_NO */
    {0x80000008, 0, EBX, 29, F_NO_FLAWS_AMD}, /* BTC_NO */
    {0x80000021, 0, EAX, 2, F_AMD},     /* LFENCE always serialises */
    {0x80000021, 0, EAX, 6, F_NO_FLAWS_AMD},  /* null selector clears base */
    {0x80000021, 0, EAX, 8, F_NO_FLAWS_AMD},  /* automatic IBRS */
    {0x80000021, 0, EAX, 29, F_NO_FLAWS_AMD}, /* SRSO_NO */
    {0x80000021, 0, ECX, 1, F_NO_FLAWS_AMD},  /* TSA_SQ_NO */
    {0x80000021, 0, ECX, 2, F_NO_FLAWS_AMD},  /* TSA_L1_NO */
};
/* clang-format on */

/* KVM's paravirtual features that we have: both clock MSR pairs, no I/O delay, stable clock. */
#define KVM_FEATURES (1u << 0 | 1u << 1 | 1u << 3 | 1u << 24)

#define MAX_BASIC      0xdu
#define MAX_EXTENDED   0x80000021u
#define MAX_KVM        0x40000010u
#define APIC_BUS_KHZ   1000000u /* of the local APIC timer's input: dev/irq/lapic.h */
#define SOFT_PHYS_BITS 46u

/* What building needs at hand. */
struct build {
    struct cpu_model *m;
    const struct cpuid_source *src;
    unsigned n_cpus;
    uint32_t max_basic, max_extended; /* of the host */
};

static void host_cpuid(const struct build *b, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    bool extended = leaf >= 0x80000000u;

    memset(r, 0, 4 * sizeof(r[0]));
    if (leaf <= (extended ? b->max_extended : b->max_basic)) {
        b->src->fn(b->src->opaque, leaf, subleaf, r);
    }
}

/* Appends a leaf; CPU_MODEL_MAX_LEAVES is far above what build_leaves makes. */
static struct cpuid_leaf *add_leaf(struct build *b, uint32_t leaf, int subleaf,
                                   const uint32_t r[4])
{
    struct cpuid_leaf *l = &b->m->leaves[MIN(b->m->n_leaves, CPU_MODEL_MAX_LEAVES - 1u)];

    if (b->m->n_leaves < CPU_MODEL_MAX_LEAVES) {
        b->m->n_leaves++;
    }
    *l = (struct cpuid_leaf){.leaf = leaf,
                             .subleaf = subleaf < 0 ? 0 : (uint32_t)subleaf,
                             .has_subleaf = subleaf >= 0,
                             .eax = r[EAX],
                             .ebx = r[EBX],
                             .ecx = r[ECX],
                             .edx = r[EDX]};
    return l;
}

static bool vendor_matches(const struct cpu_model *m, enum feature_class class)
{
    if (class == F_NO_FLAWS_INTEL) {
        return !m->is_amd;
    }
    return m->is_amd || (class != F_NO_FLAWS_AMD && class != F_AMD);
}

/* Bits that the table lets through for one register of one leaf. */
static uint32_t offered(const struct cpu_model *m, uint32_t leaf, unsigned subleaf,
                        unsigned reg, uint32_t host)
{
    uint32_t bits = 0;

    for (unsigned i = 0; i < ARRAY_LEN(feature_table); i++) {
        const struct feature *f = &feature_table[i];
        if (f->leaf != leaf || f->subleaf != subleaf || f->reg != reg ||
            !vendor_matches(m, f->class)) {
            continue;
        }
        enum offer how = m->soft ? class_table[f->class].soft : class_table[f->class].kvm;
        uint32_t bit = UINT32_C(1) << f->bit;
        bits |= how == ALWAYS ? bit : how == IF_HOST ? host & bit : 0;
    }
    return bits;
}

static bool host_has_avx512(const struct cpu_model *m)
{
    return (m->soft ? class_table[F_AVX512].soft : class_table[F_AVX512].kvm) != NEVER;
}

/* A leaf of feature bits only. */
static struct cpuid_leaf *add_features(struct build *b, uint32_t leaf, int subleaf)
{
    uint32_t h[4], r[4];
    unsigned sub = subleaf < 0 ? 0 : (unsigned)subleaf;

    host_cpuid(b, leaf, sub, h);
    for (unsigned reg = 0; reg < 4; reg++) {
        r[reg] = offered(b->m, leaf, sub, reg, h[reg]);
    }
    return add_leaf(b, leaf, subleaf, r);
}

static unsigned bits_for(unsigned n)
{
    unsigned bits = 0;

    while ((1u << bits) < n) {
        bits++;
    }
    return bits;
}

/* ---- basic leaves ---- */

static void add_leaf_1(struct build *b)
{
    struct cpuid_leaf *l = add_features(b, 1, -1);
    uint32_t h[4];

    host_cpuid(b, 1, 0, h);
    l->eax = h[EAX];
    l->ebx = 8u << 8 | MIN(b->n_cpus, 255u) << 16; /* CLFLUSH line of 64 bytes; APIC id: live */
    if (b->n_cpus > 1) {
        l->edx |= 1u << 28; /* HTT: the count in EBX is valid */
    }
}

/* Deterministic caches (4 and 8000_001D): the last level is shared by all, the rest private. */
static void add_caches(struct build *b, uint32_t leaf)
{
    uint32_t r[4], levels = 0;

    for (int i = 0; i < 5; i++) {
        host_cpuid(b, leaf, (uint32_t)i, r);
        if ((r[EAX] & 0x1f) == 0) {
            break;
        }
        levels++;
        unsigned sharing = ((r[EAX] >> 5) & 7) >= 3 ? b->n_cpus - 1 : 0;
        r[EAX] = (r[EAX] & 0x3fff) | sharing << 14;
        if (leaf == 4) {
            r[EAX] |= MIN(b->n_cpus - 1, 63u) << 26;
        }
        add_leaf(b, leaf, i, r);
    }
    if (levels == 0) {
        memset(r, 0, sizeof(r));
        add_leaf(b, leaf, 0, r);
    }
}

static void add_topology(struct build *b)
{
    uint32_t smt[4] = {0, 1, 0x100, 0};
    uint32_t core[4] = {bits_for(b->n_cpus), b->n_cpus, 0x201, 0};

    add_leaf(b, 0xb, 0, smt);
    add_leaf(b, 0xb, 1, core);
}

/* Components of XCR0 that the guest may have, and where each lies in the standard image. */
static void add_xsave(struct build *b)
{
    uint64_t allowed = 7 | (host_has_avx512(b->m) ? 0xe0u : 0);
    uint32_t r[4];

    if (!cpu_model_has(b->m, 1, 0, ECX, 26)) {
        return;
    }
    b->m->xcr0_mask = b->src->xcr0 & allowed;
    b->m->xsave_bytes = 576;
    add_leaf(b, 0xd, 0, (const uint32_t[4]){0});
    struct cpuid_leaf *main_leaf = &b->m->leaves[b->m->n_leaves - 1];
    add_features(b, 0xd, 1);
    for (int i = 2; i < 32; i++) {
        if (!((b->m->xcr0_mask >> i) & 1)) {
            continue;
        }
        host_cpuid(b, 0xd, (uint32_t)i, r);
        uint64_t end = (uint64_t)r[EAX] + r[EBX];
        if (r[EAX] == 0 || end > VCPU_XSAVE_BYTES) {
            b->m->xcr0_mask &= ~(UINT64_C(1) << i);
            continue;
        }
        add_leaf(b, 0xd, i, r);
        b->m->xsave_bytes = MAX(b->m->xsave_bytes, (uint32_t)end);
    }
    main_leaf->eax = (uint32_t)b->m->xcr0_mask;
    main_leaf->ecx = b->m->xsave_bytes; /* EBX is live: the size for the current XCR0 */
}

/* ---- extended leaves ---- */

#define AMD_LEAF1_COPIES 0x0183f3ffu /* bits of 1.EDX that AMD repeats in 8000_0001.EDX */

static void add_extended(struct build *b)
{
    const struct cpuid_leaf *basic1 = &b->m->leaves[1];
    uint32_t h[4], r[4] = {MAX_EXTENDED, 0, 0, 0};

    host_cpuid(b, 0x80000000u, 0, h);
    r[EBX] = h[EBX];
    r[ECX] = h[ECX];
    r[EDX] = h[EDX];
    add_leaf(b, 0x80000000u, -1, r);

    b->m->at_extended = b->m->n_leaves;
    struct cpuid_leaf *l = add_features(b, 0x80000001u, -1);
    host_cpuid(b, 0x80000001u, 0, h);
    l->eax = h[EAX];
    l->ebx = h[EBX];
    if (b->m->is_amd) {
        l->edx |= basic1->edx & AMD_LEAF1_COPIES;
        l->ecx |= b->n_cpus > 1 ? 2u : 0; /* the count in 1.EBX is of cores */
    }
    for (uint32_t leaf = 0x80000002u; leaf <= 0x80000006u; leaf++) {
        host_cpuid(b, leaf, 0, r);
        add_leaf(b, leaf, -1, r);
    }
    add_features(b, 0x80000007u, -1);

    l = add_features(b, 0x80000008u, -1);
    l->eax = b->m->phys_bits | b->m->lin_bits << 8;
    if (b->m->is_amd) {
        l->ecx = (b->n_cpus - 1) | bits_for(b->n_cpus) << 12;
        host_cpuid(b, 0x8000001au, 0, r);
        add_leaf(b, 0x8000001au, -1, r);
        add_caches(b, 0x8000001du);
        add_leaf(b, 0x8000001eu, -1, (const uint32_t[4]){0}); /* live */
        add_features(b, 0x80000021u, -1);
    }
}

static void add_kvm(struct build *b)
{
    static const uint32_t signature[4] = {MAX_KVM, 0x4b4d564b, 0x564b4d56, 0x4d};
    uint32_t features[4] = {KVM_FEATURES, 0, 0, 0};
    uint32_t timing[4] = {(uint32_t)b->m->tsc_khz, APIC_BUS_KHZ, 0, 0};

    add_leaf(b, 0x40000000u, -1, signature);
    add_leaf(b, 0x40000001u, -1, features);
    add_leaf(b, 0x40000010u, -1, timing);
}

static void read_address_sizes(struct build *b)
{
    uint32_t r[4];

    host_cpuid(b, 0x80000008u, 0, r);
    b->m->phys_bits = r[EAX] & 0xff ? r[EAX] & 0xff : 36;
    b->m->lin_bits = 48;
    if (b->m->soft) {
        b->m->phys_bits = MIN(b->m->phys_bits, SOFT_PHYS_BITS);
    }
}

static bool is_vendor(const uint32_t r[4], const char *name)
{
    char s[12];

    memcpy(s, &r[EBX], 4);
    memcpy(s + 4, &r[EDX], 4);
    memcpy(s + 8, &r[ECX], 4);
    return memcmp(s, name, sizeof(s)) == 0;
}

static void build_leaves(struct build *b, const uint32_t leaf0[4])
{
    uint32_t r[4] = {MIN(MAX(b->max_basic, 7u), MAX_BASIC), leaf0[EBX], leaf0[ECX], leaf0[EDX]};

    add_leaf(b, 0, -1, r);
    add_leaf_1(b); /* leaves[1]: add_extended relies on it */
    add_features(b, 7, 0);
    add_features(b, 7, 1);
    b->m->leaves[2].eax = b->m->is_amd ? 1 : 2; /* highest subleaf of 7 */
    if (!b->m->is_amd) {
        add_features(b, 7, 2);
        host_cpuid(b, 2, 0, r);
        add_leaf(b, 2, -1, r);
        add_caches(b, 4);
    }
    add_features(b, 6, -1);
    add_topology(b);
    add_xsave(b);
    add_extended(b);
    add_kvm(b);
}

int cpu_model_build(struct cpu_model *ret_model, const struct cpuid_source *src, bool soft,
                    unsigned n_cpus, struct err *err)
{
    struct build b = {.m = ret_model, .src = src, .n_cpus = n_cpus};
    uint64_t tsc_khz = ret_model->tsc_khz;
    uint32_t leaf0[4], r[4];

    if (n_cpus == 0 || n_cpus > 255) {
        return ERR(err, LIMIT, EINVAL, "%u virtual CPUs: 1 to 255 can be had", n_cpus);
    }
    src->fn(src->opaque, 0, 0, leaf0);
    src->fn(src->opaque, 0x80000000u, 0, r);
    b.max_basic = leaf0[EAX];
    b.max_extended = r[EAX] >= 0x80000000u ? r[EAX] : 0;
    memset(ret_model, 0, sizeof(*ret_model));
    ret_model->tsc_khz = tsc_khz;
    ret_model->soft = soft;
    ret_model->is_amd = is_vendor(leaf0, "AuthenticAMD") || is_vendor(leaf0, "HygonGenuine");
    read_address_sizes(&b);
    build_leaves(&b, leaf0);
    ret_model->has_1g_pages = cpu_model_has(ret_model, 0x80000001u, 0, EDX, 26);
    if (ret_model->n_leaves == CPU_MODEL_MAX_LEAVES) {
        return ERR(err, INTERNAL, ENOSPC, "the CPU model has more than %d CPUID leaves",
                   CPU_MODEL_MAX_LEAVES);
    }
    return 0;
}
