/*
 * A small writer of AML, the byte code of ACPI definition blocks (ACPI 6.4, chapter 20).
 *
 * Things with a length (scope, device, method, package, if) are opened and closed by aml_end,
 * which writes the length. Names are paths as in ASL ("\\_SB.PCI0", "_CRS"); segments are
 * padded to four. Errors (no memory, nesting too deep, bad name) stick in `failed`: check once
 * at the end.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AML_DEPTH_MAX 12

struct aml {
    uint8_t *data; /* owned */
    size_t len, cap;
    size_t open[AML_DEPTH_MAX]; /* where the length of each open thing goes */
    unsigned depth;
    bool failed;
};

void aml_init(struct aml *a);
void aml_done(struct aml *a);
void aml_end(struct aml *a); /* closes the innermost open thing */

void aml_scope(struct aml *a, const char *path);
void aml_device(struct aml *a, const char *name);
void aml_method(struct aml *a, const char *name, unsigned n_args);
void aml_if(struct aml *a);   /* the predicate follows */
void aml_else(struct aml *a); /* after the aml_end of an if */

/* Name (name, value): the value follows, or use one of the short forms. */
void aml_name(struct aml *a, const char *name);
void aml_name_int(struct aml *a, const char *name, uint64_t value);
void aml_name_string(struct aml *a, const char *name, const char *text);
void aml_name_eisa(struct aml *a, const char *name, const char *id); /* "PNP0A08" */

/* Values and terms. */
void aml_int(struct aml *a, uint64_t value);
void aml_string(struct aml *a, const char *text);
void aml_buffer(struct aml *a, const void *data, size_t len);
void aml_package(struct aml *a, uint8_t n); /* n values follow, then aml_end */
void aml_path(struct aml *a, const char *path);
void aml_byte(struct aml *a, uint8_t op); /* an opcode as it is */
enum {                                    /* one-byte operators */
       AML_LOCAL0 = 0x60,
       AML_ARG0 = 0x68,
       AML_STORE = 0x70,
       AML_AND = 0x7b,
       AML_OR = 0x7d,
       AML_NOTIFY = 0x86,
       AML_CREATE_DWORD_FIELD = 0x8a,
       AML_LNOT = 0x92,
       AML_LEQUAL = 0x93,
       AML_RETURN = 0xa4,
};

/* Resource descriptors (ACPI 6.4, 6.4): collected, then written as one buffer. */
struct aml_res {
    uint8_t data[512];
    size_t len;
    bool failed;
};
void aml_res_io(struct aml_res *r, uint16_t base, uint8_t len);
void aml_res_irq(struct aml_res *r, unsigned irq); /* ISA: edge, active high, exclusive */
void aml_res_memory32(struct aml_res *r, uint32_t base, uint32_t size, bool writable);
void aml_res_bus(struct aml_res *r, uint16_t first, uint16_t last);
void aml_res_io_window(struct aml_res *r, uint16_t first, uint16_t last);
void aml_res_memory_window(struct aml_res *r, uint64_t first, uint64_t last, bool is64);
void aml_name_res(struct aml *a, const char *name, struct aml_res *r);
