/* Instruction decoder. */
#pragma once

#include "cpu/soft/insn.h"

#include <stddef.h>

struct opcode;

enum decode_result {
    DECODE_OK,
    DECODE_SHORT, /* the bytes given end inside the instruction */
    DECODE_LONG,  /* over 15 bytes: #GP(0) */
    DECODE_UD,    /* not an instruction in this mode; in->len is what was looked at */
};

/*
 * Decodes the instruction at bytes[0..avail) for a mode (MODE_*). On DECODE_OK fills *in, and
 * *ret_op with its table row, or NULL when it belongs to native.c.
 */
enum decode_result soft_decode(const uint8_t *bytes, size_t avail, uint32_t mode,
                               struct insn *in, const struct opcode **ret_op);
