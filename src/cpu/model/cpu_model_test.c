/*
 * Invariants of the CPU model on this host and on pretended processors.
 */
#include "cpu/model/cpu_model_priv.h"
#include "cpu/vcpu_state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { EAX, EBX, ECX, EDX };

/* A processor with every feature bit set. */
struct pretended {
    const char *vendor;
    uint32_t max_basic;
    bool old; /* has nothing beyond leaf 1 */
};

static void pretended_cpuid(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    const struct pretended *p = opaque;

    for (int i = 0; i < 4; i++) {
        r[i] = p->old && leaf > 1 ? 0 : 0xffffffff;
    }
    switch (leaf) {
    case 0:
        r[EAX] = p->max_basic;
        memcpy(&r[EBX], p->vendor, 4);
        memcpy(&r[EDX], p->vendor + 4, 4);
        memcpy(&r[ECX], p->vendor + 8, 4);
        break;
    case 4:
    case 0x8000001d:
        r[EAX] = subleaf < 4 ? 0xffffc000 | (subleaf < 2 ? 1u : subleaf) << 5 | 1 : 0;
        break;
    case 0xd:
        if (subleaf == 0) {
            r[EAX] = 0xe7;
        } else if (subleaf == 2) {
            r[EAX] = 256;
            r[EBX] = 576;
            r[ECX] = 0;
        } else if (subleaf >= 5 && subleaf <= 7) {
            static const uint32_t size[] = {64, 512, 1024}, off[] = {832, 896, 1408};
            r[EAX] = size[subleaf - 5];
            r[EBX] = off[subleaf - 5];
            r[ECX] = 0;
        }
        break;
    case 0x80000000: r[EAX] = p->old ? 0x80000008u : 0x80000021u; break;
    case 0x80000008: r[EAX] = p->old ? 0 : 0x3934; break;
    }
}

static const struct cpu_model_live live = {
    .apic_id = 3, .cr4 = 0, .xcr0 = 1, .apic_base = 0xfee00800};

static void make(struct cpu_model *m, const struct pretended *p, bool soft, unsigned n_cpus)
{
    struct cpuid_source src = {
        .fn = pretended_cpuid, .opaque = (void *)(uintptr_t)p, .xcr0 = 0xffff};

    m->tsc_khz = 2500000;
    assert_int_equal(cpu_model_build(m, &src, soft, n_cpus, NULL), 0);
}

static const struct pretended intel = {.vendor = "GenuineIntel", .max_basic = 0x20};
static const struct pretended amd = {.vendor = "AuthenticAMD", .max_basic = 0x10};
static const struct pretended ancient = {.vendor = "GenuineIntel", .max_basic = 1, .old = true};

/* Bits that no engine here can do: {leaf, register, bit}. */
static const struct {
    uint32_t leaf;
    unsigned reg, bit;
} never[] = {
    {1, ECX, 3},           /* MONITOR */
    {1, ECX, 5},           /* VMX */
    {1, EDX, 21},          /* debug store */
    {7, EBX, 4},           /* HLE */
    {7, EBX, 11},          /* RTM */
    {7, ECX, 3},           /* PKU */
    {7, ECX, 7},           /* CET_SS */
    {7, EDX, 20},          /* CET_IBT */
    {7, EDX, 24},          /* AMX */
    {0x80000001, ECX, 2},  /* SVM */
    {0x80000001, ECX, 29}, /* MONITORX */
};

static void soft_engine_hides_what_it_cannot(void **state)
{
    struct cpu_model m;

    (void)state;
    for (int i = 0; i < 2; i++) {
        make(&m, i ? &amd : &intel, true, 4);
        for (size_t k = 0; k < sizeof(never) / sizeof(never[0]); k++) {
            assert_false(cpu_model_has(&m, never[k].leaf, 0, never[k].reg, never[k].bit));
        }
        assert_false(cpu_model_has(&m, 0xd, 1, EAX, 3)); /* XSAVES */
        assert_true(cpu_model_has(&m, 1, 0, ECX, 31));   /* hypervisor */
        assert_true(cpu_model_has(&m, 1, 0, ECX, 21));   /* x2APIC */
        assert_true(cpu_model_has(&m, 7, 0, EBX, 5));    /* AVX2 */
        assert_true(cpu_model_has(&m, 7, 0, ECX, 2));    /* UMIP */
        assert_true(m.phys_bits <= 46);
        assert_int_equal(m.is_amd, i);
        /* Mitigations: only the own vendor's way of saying "not needed". */
        assert_int_equal(cpu_model_has(&m, 7, 0, EDX, 29), !i);
        assert_int_equal(cpu_model_has(&m, 7, 2, EDX, 4), !i);
        assert_int_equal(cpu_model_has(&m, 0x80000021, 0, EAX, 8), i);
    }
}

static void avx512_is_all_or_nothing(void **state)
{
    struct cpu_model m;

    (void)state;
    for (int i = 0; i < 4; i++) {
        make(&m, i & 1 ? &amd : &intel, i & 2, 1);
        bool z = cpu_model_has(&m, 7, 0, EBX, 16);
        assert_int_equal(z, cpu_model_has(&m, 7, 0, EBX, 31));
        assert_int_equal(m.xcr0_mask, z ? 0xe7 : 0x7);
        assert_int_equal(m.xsave_bytes, z ? 2432 : 832);
        assert_true(m.xsave_bytes <= VCPU_XSAVE_BYTES);
    }
}

static void live_fields(void **state)
{
    struct cpu_model m;
    struct cpu_model_live l = live;
    uint32_t r[4];

    (void)state;
    make(&m, &intel, true, 4);
    cpu_model_cpuid(&m, &l, 1, 0, r);
    assert_int_equal(r[EBX] >> 24, 3);
    assert_int_equal((r[EBX] >> 16) & 0xff, 4);
    assert_false(r[ECX] & (1u << 27));
    assert_true(r[EDX] & (1u << 9));
    l.cr4 = 1u << 18;
    l.apic_base = 0xfee00000;
    cpu_model_cpuid(&m, &l, 1, 0, r);
    assert_true(r[ECX] & (1u << 27));
    assert_false(r[EDX] & (1u << 9));
    cpu_model_cpuid(&m, &l, 0xd, 0, r);
    assert_int_equal(r[EBX], 576);
    l.xcr0 = 7;
    cpu_model_cpuid(&m, &l, 0xd, 0, r);
    assert_int_equal(r[EBX], 832);
    cpu_model_cpuid(&m, &l, 0xb, 1, r);
    assert_int_equal(r[EAX], 2);
    assert_int_equal(r[EBX], 4);
    assert_int_equal(r[ECX], 0x201);
    assert_int_equal(r[EDX], 3);
    cpu_model_cpuid(&m, &l, 0xb, 7, r);
    assert_int_equal(r[EAX] | r[EBX], 0);
    assert_int_equal(r[ECX], 7);
}

static void beyond_the_end(void **state)
{
    struct cpu_model m;
    uint32_t r[4], last[4];

    (void)state;
    make(&m, &amd, true, 2);
    cpu_model_cpuid(&m, &live, 0x7fffffff, 0, r);
    assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
    make(&m, &intel, true, 2);
    cpu_model_cpuid(&m, &live, 0xd, 2, last);
    cpu_model_cpuid(&m, &live, 0x7fffffff, 2, r);
    assert_memory_equal(r, last, sizeof(r));
    cpu_model_cpuid(&m, &live, 0x80000022, 2, r);
    assert_memory_equal(r, last, sizeof(r));
    cpu_model_cpuid(&m, &live, 3, 0, r); /* within the range, absent */
    assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
}

static void caches_are_private_but_the_last(void **state)
{
    struct cpu_model m;
    uint32_t r[4];

    (void)state;
    make(&m, &intel, true, 6);
    cpu_model_cpuid(&m, &live, 4, 0, r);
    assert_int_equal((r[EAX] >> 14) & 0xfff, 0);
    assert_int_equal(r[EAX] >> 26, 5);
    cpu_model_cpuid(&m, &live, 4, 3, r);
    assert_int_equal((r[EAX] >> 14) & 0xfff, 5);
    make(&m, &amd, true, 6);
    cpu_model_cpuid(&m, &live, 0x8000001d, 3, r);
    assert_int_equal((r[EAX] >> 14) & 0xfff, 5);
    cpu_model_cpuid(&m, &live, 0x8000001e, 0, r);
    assert_int_equal(r[EAX], 3);
    cpu_model_cpuid(&m, &live, 0x80000008, 0, r);
    assert_int_equal(r[ECX], 5 | 3 << 12);
}

static void kvm_leaves(void **state)
{
    struct cpu_model m;
    uint32_t r[4];

    (void)state;
    make(&m, &amd, true, 1);
    cpu_model_cpuid(&m, &live, 0x40000000, 0, r);
    assert_int_equal(r[EAX], 0x40000010);
    assert_memory_equal(&r[EBX], "KVMKVMKVM\0\0\0", 12);
    assert_true(cpu_model_has(&m, 0x40000001, 0, EAX, 3));
    cpu_model_cpuid(&m, &live, 0x40000010, 0, r);
    assert_int_equal(r[EAX], 2500000);
}

static void ancient_processor(void **state)
{
    struct cpu_model m;

    (void)state;
    make(&m, &ancient, true, 1);
    assert_false(cpu_model_has(&m, 7, 0, EBX, 5));
    assert_true(cpu_model_has(&m, 7, 0, EBX, 7)); /* SMEP is ours */
    assert_int_equal(m.phys_bits, 36);
}

static void limits(void **state)
{
    struct cpuid_source src = {
        .fn = pretended_cpuid, .opaque = (void *)(uintptr_t)&intel, .xcr0 = 7};
    struct cpu_model m = {.tsc_khz = 1};
    struct err err;

    (void)state;
    assert_true(cpu_model_build(&m, &src, true, 0, &err) < 0);
    assert_true(cpu_model_build(&m, &src, true, 256, &err) < 0);
    assert_int_equal(err.code, ERR_LIMIT);
    assert_int_equal(cpu_model_build(&m, &src, true, 255, &err), 0);
}

static void this_host(void **state)
{
    struct cpu_model soft, kvm;

    (void)state;
    assert_int_equal(cpu_model_host(&soft, true, 2, NULL), 0);
    assert_int_equal(cpu_model_host(&kvm, false, 2, NULL), 0);
    assert_in_range(soft.tsc_khz, 500000, 10000000);
    uint64_t diff =
        soft.tsc_khz > kvm.tsc_khz ? soft.tsc_khz - kvm.tsc_khz : kvm.tsc_khz - soft.tsc_khz;
    assert_true(diff < soft.tsc_khz / 500); /* two looks at the same clock */
    assert_true(soft.xcr0_mask & 3);
    assert_true(cpu_model_has(&soft, 0x80000001, 0, EDX, 29));
    assert_true(cpu_model_has(&soft, 1, 0, EDX, 26)); /* SSE2: we run on x86-64 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(soft_engine_hides_what_it_cannot),
        cmocka_unit_test(avx512_is_all_or_nothing),
        cmocka_unit_test(live_fields),
        cmocka_unit_test(beyond_the_end),
        cmocka_unit_test(caches_are_private_but_the_last),
        cmocka_unit_test(kvm_leaves),
        cmocka_unit_test(ancient_processor),
        cmocka_unit_test(limits),
        cmocka_unit_test(this_host),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
