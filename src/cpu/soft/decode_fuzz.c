/*
 * Fuzz target of the decoder: any bytes, in every mode. What it says of an instruction must
 * hold together: a length of 1 to 15 within the bytes given, positions inside the length, the
 * same answer when exactly that many bytes are there, DECODE_SHORT when fewer are.
 */
#include "cpu/soft/decode.h"
#include "cpu/soft/soft.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
    if (!ok) {
        abort();
    }
}

static void check(const uint8_t *p, size_t n, uint32_t mode)
{
    struct insn in, again;
    const struct opcode *row, *row2;
    enum decode_result r = soft_decode(p, n, mode, &in, &row);
    if (r == DECODE_SHORT) {
        require(n < 15);
        return;
    }
    if (r != DECODE_OK) {
        return;
    }
    require(in.len >= 1 && in.len <= 15 && in.len <= n);
    require(in.op_pos < in.len && in.imm_pos + in.imm_len <= in.len);
    require(in.osize == 2 || in.osize == 4 || in.osize == 8);
    require(in.asize == 2 || in.asize == 4 || in.asize == 8);
    require(in.seg < X86_NSEG);
    require(!in.has_modrm || in.modrm == p[in.modrm_pos]);
    require(soft_decode(p, in.len, mode, &again, &row2) == DECODE_OK && row2 == row);
    require(again.len == in.len && again.imm == in.imm && again.disp == in.disp);
    for (size_t shorter = 0; shorter < in.len; shorter++) {
        require(soft_decode(p, shorter, mode, &again, &row2) == DECODE_SHORT);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t modes[] = {
        0,
        MODE_VM86 | MODE_PE,
        MODE_PE,
        MODE_PE | MODE_CS32 | MODE_SS32,
        MODE_PE | MODE_LMA | MODE_CS32,
        MODE_PE | MODE_LMA | MODE_64,
        MODE_PE | MODE_LMA | MODE_64 | MODE_AMD,
    };
    for (size_t at = 0; at < size && at < 64; at++) {
        for (unsigned m = 0; m < ARRAY_LEN(modes); m++) {
            check(data + at, size - at, modes[m]);
        }
    }
    return 0;
}
