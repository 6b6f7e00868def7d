/*
 * What the differential tests share besides the generator: random numbers, the components of
 * the extended state, the CPU model that offers all the engine can do.
 */
#include "forms.h"

#include <string.h>

uint64_t dt_xcr0;

uint64_t dt_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t dt_host_xcr0(void)
{
    uint32_t a, b, c, d, lo, hi;
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(1), "c"(0));
    if (!(c & (1u << 27))) {
        return 0;
    }
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo & 0xe7;
}

unsigned dt_component(unsigned i, unsigned *ret_len)
{
    static struct {
        uint32_t off, len;
    } known[8]; /* where hypervisors trap it, CPUID takes microseconds */
    if (known[i].len == 0) {
        uint32_t a, b, c, d;
        __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(13), "c"(i));
        known[i].off = b;
        known[i].len = a;
    }
    *ret_len = known[i].len;
    return known[i].off;
}

void dt_normalise(uint8_t *x)
{
    uint64_t bv;
    memcpy(&bv, x + 512, 8);
    if (!(bv & 1)) {
        memset(x, 0, 24);
        x[0] = 0x7f;
        x[1] = 0x03;
        memset(x + 32, 0, 128);
    }
    if (!(bv & 2)) {
        memset(x + 160, 0, 256);
    }
    for (unsigned i = 2; i < 8; i++) {
        unsigned off, len;
        if (dt_xcr0 >> i & 1) {
            off = dt_component(i, &len);
            if (!(bv >> i & 1)) {
                memset(x + off, 0, len);
            }
        }
    }
}

void dt_offer_all(struct cpu_model *m)
{
    for (unsigned i = 0; i < m->n_leaves; i++) {
        struct cpuid_leaf *l = &m->leaves[i];
        uint32_t a, b, c, d;
        __asm__ volatile("cpuid"
                         : "=a"(a), "=b"(b), "=c"(c), "=d"(d)
                         : "a"(l->leaf), "c"(l->subleaf));
        if (l->leaf == 7 && l->subleaf == 0) {
            l->ebx |= b & 0xf0230000; /* AVX-512 */
            l->ecx |= c & 0x5842;
            l->edx |= d & 0x800100;
        } else if (l->leaf == 7 && l->subleaf == 1) {
            l->eax |= a & 0x20;
        } else if (l->leaf == 13 && l->subleaf == 1) {
            l->eax |= a & 2; /* XSAVEC */
        }
    }
    m->xcr0_mask |= dt_xcr0;
    dt_xcr0 &= m->xcr0_mask;
}
