/*
 * What a fuzz target (foo_fuzz.c) defines for tools/fuzz_main.c or libFuzzer. fuzz_seed is
 * optional: it writes its index-th well-formed example into buf (at most cap bytes) and returns
 * its length, or 0 when there are no more; random inputs are then also mutations of those.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
size_t fuzz_seed(unsigned index, uint8_t *buf, size_t cap) __attribute__((weak));
