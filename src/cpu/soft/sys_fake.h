/*
 * A vCPU without an engine for the unit tests of system instructions: flat memory of 1 MiB from
 * linear address 0 with pages that can be made to fault, ports and MSRs of a pretended machine,
 * and makers of descriptors and instructions.
 */
#pragma once

#include "cpu/soft/seg.h"
#include "cpu/soft/sysinsn.h"

#define FAKE_BYTES 0x100000u

/* Where the fixed structures lie. */
#define FAKE_IDT   0x1000u
#define FAKE_GDT   0x2000u
#define FAKE_LDT   0x2800u
#define FAKE_TSS   0x3000u
#define FAKE_TSS2  0x3400u
#define FAKE_STACK 0x8000u /* top of the running stack */

/* Selectors of the GDT that fake_protected and fake_long fill. */
enum {
    SEL_CODE0 = 0x08, /* DPL 0: 32-bit, or 64-bit in long mode */
    SEL_DATA0 = 0x10,
    SEL_CODE3 = 0x18 | 3,
    SEL_DATA3 = 0x20 | 3,
    SEL_TSS = 0x28,   /* 16 bytes in long mode */
    SEL_CONF0 = 0x38, /* conforming code, DPL 0 */
    SEL_CODE16 = 0x40,
    SEL_COMPAT3 = 0x48 | 3, /* 32-bit code, DPL 3 */
    SEL_NP = 0x50,          /* data, not present */
    SEL_LDT = 0x58,
    SEL_FREE = 0x68, /* for the test's own descriptors, with what follows */
};
#define FAKE_GDT_LIMIT 0xff

struct fake {
    struct scpu c;
    struct soft_vm vm;
    struct cpu_model model;
    struct vcpu_state cold;
    uint8_t mem[FAKE_BYTES];
    bool absent[FAKE_BYTES >> 12];
    /* What was done to the machine. */
    unsigned n_flush_all, n_flush_nonglobal, n_flush_page, n_leave;
    uint16_t port;
    unsigned port_len, n_port;
    uint32_t port_value;
    uint32_t apic_msr;
    uint64_t apic_value, cr8;
    int64_t clock_offset; /* guest time less host time */
};

struct fake *fake_new(void); /* real mode, CS:IP 0:0100h, SS:SP 0:8000h */
void fake_free(struct fake *f);
void fake_protected(struct fake *f, unsigned cpl); /* 32-bit, flat, at 1000h */
void fake_long(struct fake *f, unsigned cpl);      /* 64-bit */
void fake_vm86(struct fake *f, unsigned iopl);

void fake_put(struct fake *f, uint32_t at, uint64_t value, unsigned len);
uint64_t fake_get(const struct fake *f, uint32_t at, unsigned len);

/* access: the byte at bits 40-47; flags: G DB L AVL as in bits 52-55. */
void fake_desc(struct fake *f, uint16_t sel, uint32_t base, uint32_t limit, unsigned access,
               unsigned flags);
void fake_gate(struct fake *f, uint32_t at, unsigned access, uint16_t sel, uint64_t off,
               unsigned low); /* low: parameter count or IST; 16 bytes in long mode */
void fake_idt_gate(struct fake *f, unsigned vector, unsigned access, uint16_t sel,
                   uint64_t off);

/* An instruction two bytes long at the present RIP. */
struct insn fake_insn(struct fake *f, unsigned osize);
/* The same with a memory operand at DS:disp. */
struct insn fake_insn_mem(struct fake *f, unsigned osize, uint32_t disp);

/* All present pages in the TLB, so that handlers take their fast ways; or none (at first). */
void fake_fill_tlb(struct fake *f, bool on);
/* Whether two hold the same registers, exception and memory. */
bool fake_same(const struct fake *a, const struct fake *b);

/* The exception raised; vector -1: none. */
void fake_expect(struct fake *f, int vector, uint32_t error);
