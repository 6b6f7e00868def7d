/*
 * Integer operations with exact x86 flags: each runs the host's own instruction and keeps the
 * arithmetic flags in scpu.aflags (SETO in the low byte, LAHF in the high one). Undefined flags
 * come out as the host's CPU leaves them. One definition serves the general handlers (ops_*.c)
 * and the fast ones (fast_*.c).
 */
#pragma once

#include "cpu/soft/soft.h"

#define AF_CF 0x0100u /* bits of aflags */
#define AF_PF 0x0400u
#define AF_AF 0x1000u
#define AF_ZF 0x4000u
#define AF_SF 0x8000u
#define AF_OF 0x0001u

/* Loads CF..SF and OF of the host from aflags in ax. */
#define LOAD_FLAGS "addb $0x7f, %%al\n\tsahf\n\t"
#define KEEP_FLAGS "\n\tlahf\n\tseto %%al"

/* X(suffix letter, type, register operand size modifier) */
#define FOR_SIZES(X) X(b, uint8_t, b) X(w, uint16_t, w) X(l, uint32_t, k) X(q, uint64_t, q)

/* a = a op b: no flags in. */
#define PRIM_BIN(name, s, type, m)                                                             \
    static inline type prim_##name##_##s(struct scpu *c, type a, type b)                       \
    {                                                                                          \
        uint32_t f;                                                                            \
        __asm__(#name #s " %" #m "[b], %" #m "[a]" KEEP_FLAGS                                  \
                : [a] "+q"(a), "=&a"(f)                                                        \
                : [b] "q"(b)                                                                   \
                : "cc");                                                                       \
        c->aflags = (uint16_t)f;                                                               \
        return a;                                                                              \
    }
/* Carry in, from aflags. */
#define PRIM_CARRY(name, s, type, m)                                                           \
    static inline type prim_##name##_##s(struct scpu *c, type a, type b)                       \
    {                                                                                          \
        uint32_t f = c->aflags;                                                                \
        __asm__("btl $8, %%eax\n\t" #name #s " %" #m "[b], %" #m "[a]" KEEP_FLAGS              \
                : [a] "+q"(a), "+&a"(f)                                                        \
                : [b] "q"(b)                                                                   \
                : "cc");                                                                       \
        c->aflags = (uint16_t)f;                                                               \
        return a;                                                                              \
    }
/* One operand; INC and DEC keep CF. */
#define PRIM_UN(name, s, type, m)                                                              \
    static inline type prim_##name##_##s(struct scpu *c, type a)                               \
    {                                                                                          \
        uint32_t f = c->aflags;                                                                \
        __asm__("btl $8, %%eax\n\t" #name #s " %" #m "[a]" KEEP_FLAGS                          \
                : [a] "+q"(a), "+&a"(f)                                                        \
                :                                                                              \
                : "cc");                                                                       \
        c->aflags = (uint16_t)f;                                                               \
        return a;                                                                              \
    }
/* Shifts and rotates by a masked, non-zero count: all flags in, since rotates keep most. */
#define PRIM_SHIFT(name, s, type, m)                                                           \
    static inline type prim_##name##_##s(struct scpu *c, type a, uint8_t count)                \
    {                                                                                          \
        uint32_t f = c->aflags;                                                                \
        __asm__(LOAD_FLAGS #name #s " %%cl, %" #m "[a]" KEEP_FLAGS                             \
                : [a] "+q"(a), "+&a"(f)                                                        \
                : "c"(count)                                                                   \
                : "cc");                                                                       \
        c->aflags = (uint16_t)f;                                                               \
        return a;                                                                              \
    }
/* Only flags: CMP, TEST. */
#define PRIM_FLAGS(name, s, type, m)                                                           \
    static inline void prim_##name##_##s(struct scpu *c, type a, type b)                       \
    {                                                                                          \
        uint32_t f;                                                                            \
        __asm__(#name #s " %" #m "[b], %" #m "[a]" KEEP_FLAGS                                  \
                : "=&a"(f)                                                                     \
                : [a] "q"(a), [b] "q"(b)                                                       \
                : "cc");                                                                       \
        c->aflags = (uint16_t)f;                                                               \
    }
/* The same on memory with LOCK. */
#define PRIM_LOCK_BIN(name, s, type, m)                                                        \
    static inline void prim_lock_##name##_##s(struct scpu *c, type *p, type b)                 \
    {                                                                                          \
        uint32_t f;                                                                            \
        __asm__ volatile("lock " #name #s " %" #m "[b], %[p]" KEEP_FLAGS                       \
                         : [p] "+m"(*p), "=&a"(f)                                              \
                         : [b] "q"(b)                                                          \
                         : "cc", "memory");                                                    \
        c->aflags = (uint16_t)f;                                                               \
    }
#define PRIM_LOCK_CARRY(name, s, type, m)                                                      \
    static inline void prim_lock_##name##_##s(struct scpu *c, type *p, type b)                 \
    {                                                                                          \
        uint32_t f = c->aflags;                                                                \
        __asm__ volatile("btl $8, %%eax\n\tlock " #name #s " %" #m "[b], %[p]" KEEP_FLAGS      \
                         : [p] "+m"(*p), "+&a"(f)                                              \
                         : [b] "q"(b)                                                          \
                         : "cc", "memory");                                                    \
        c->aflags = (uint16_t)f;                                                               \
    }
#define PRIM_LOCK_UN(name, s, type, m)                                                         \
    static inline void prim_lock_##name##_##s(struct scpu *c, type *p)                         \
    {                                                                                          \
        uint32_t f = c->aflags;                                                                \
        __asm__ volatile("btl $8, %%eax\n\tlock " #name #s " %[p]" KEEP_FLAGS                  \
                         : [p] "+m"(*p), "+&a"(f)                                              \
                         :                                                                     \
                         : "cc", "memory");                                                    \
        c->aflags = (uint16_t)f;                                                               \
    }

#define PRIM_SIZE(s, type, m)                                                                  \
    PRIM_BIN(add, s, type, m)                                                                  \
    PRIM_BIN(or, s, type, m)                                                                   \
    PRIM_BIN(and, s, type, m)                                                                  \
    PRIM_BIN(sub, s, type, m)                                                                  \
    PRIM_BIN(xor, s, type, m)                                                                  \
    PRIM_CARRY(adc, s, type, m)                                                                \
    PRIM_CARRY(sbb, s, type, m)                                                                \
    PRIM_UN(inc, s, type, m)                                                                   \
    PRIM_UN(dec, s, type, m)                                                                   \
    PRIM_UN(neg, s, type, m)                                                                   \
    PRIM_SHIFT(shl, s, type, m)                                                                \
    PRIM_SHIFT(shr, s, type, m)                                                                \
    PRIM_SHIFT(sar, s, type, m)                                                                \
    PRIM_SHIFT(rol, s, type, m)                                                                \
    PRIM_SHIFT(ror, s, type, m)                                                                \
    PRIM_SHIFT(rcl, s, type, m)                                                                \
    PRIM_SHIFT(rcr, s, type, m)                                                                \
    PRIM_FLAGS(cmp, s, type, m)                                                                \
    PRIM_FLAGS(test, s, type, m)                                                               \
    PRIM_LOCK_BIN(add, s, type, m)                                                             \
    PRIM_LOCK_BIN(or, s, type, m)                                                              \
    PRIM_LOCK_BIN(and, s, type, m)                                                             \
    PRIM_LOCK_BIN(sub, s, type, m)                                                             \
    PRIM_LOCK_BIN(xor, s, type, m)                                                             \
    PRIM_LOCK_CARRY(adc, s, type, m)                                                           \
    PRIM_LOCK_CARRY(sbb, s, type, m)                                                           \
    PRIM_LOCK_UN(inc, s, type, m)                                                              \
    PRIM_LOCK_UN(dec, s, type, m)                                                              \
    PRIM_LOCK_UN(neg, s, type, m)
FOR_SIZES(PRIM_SIZE)
PRIM_BIN(imul, w, uint16_t, w)
PRIM_BIN(imul, l, uint32_t, k)
PRIM_BIN(imul, q, uint64_t, q)

/* Condition codes by the low nibble of Jcc/SETcc/CMOVcc. */
static inline bool prim_cond(uint16_t f, unsigned cc)
{
    bool r = false;
    switch (cc >> 1) {
    case 0: r = f & AF_OF; break;
    case 1: r = f & AF_CF; break;
    case 2: r = f & AF_ZF; break;
    case 3: r = f & (AF_CF | AF_ZF); break;
    case 4: r = f & AF_SF; break;
    case 5: r = f & AF_PF; break;
    case 6: r = ((f >> 15) ^ f) & 1; break; /* SF != OF */
    case 7: r = (((f >> 15) ^ f) & 1) | ((f >> 14) & 1); break;
    }
    return r ^ (cc & 1);
}
