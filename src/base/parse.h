/*
 * Numbers as people write them, from the command line. The whole text must be a number: no
 * sign, no white space, nothing after it. 0, -EINVAL (not a number), -ERANGE (outside min to
 * max, or 64 bits). *ret is set only on success.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

int parse_uint(const char *text, uint64_t min, uint64_t max, uint64_t *ret_value);

/* Bytes: a number, perhaps with a fraction, and B, K, M, G, T (powers of 1024; also KB, KiB,
 * ..., any case). Without a unit: bytes. "1.5G" is possible, a fraction of a byte is not. */
int parse_size(const char *text, uint64_t min, uint64_t max, uint64_t *ret_bytes);

/* "512M", "1536M": the largest unit that is exact; a buf of 24 bytes suffices. */
void format_size(uint64_t bytes, char *buf, size_t len);
