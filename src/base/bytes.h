/* Unaligned little- and big-endian loads and stores on byte buffers. The caller checks bounds.
 */
#pragma once

#include <stdint.h>
#include <string.h>

#define BYTES_DEFINE(bits)                                                                     \
    static inline uint##bits##_t get_le##bits(const void *p)                                   \
    {                                                                                          \
        uint##bits##_t v;                                                                      \
        memcpy(&v, p, sizeof(v));                                                              \
        return v;                                                                              \
    }                                                                                          \
    static inline void put_le##bits(void *p, uint##bits##_t v)                                 \
    {                                                                                          \
        memcpy(p, &v, sizeof(v));                                                              \
    }                                                                                          \
    static inline uint##bits##_t get_be##bits(const void *p)                                   \
    {                                                                                          \
        return __builtin_bswap##bits(get_le##bits(p));                                         \
    }                                                                                          \
    static inline void put_be##bits(void *p, uint##bits##_t v)                                 \
    {                                                                                          \
        put_le##bits(p, __builtin_bswap##bits(v));                                             \
    }
BYTES_DEFINE(16)
BYTES_DEFINE(32)
BYTES_DEFINE(64)
#undef BYTES_DEFINE
