/*
 * Descriptors, segment registers, stacks and TSS fields: what the far transfers, the event
 * delivery and the task switch have in common. SDM vol. 3A chapters 3, 5 and 8.
 *
 * Functions that return int give 0, or non-zero after soft_raise*(). `ext` is the EXT bit (or
 * 0) to be put into error codes when an event is being delivered.
 */
#pragma once

#include "cpu/soft/soft.h"

/* A raw 8-byte descriptor. */
struct seg_desc {
    uint32_t lo, hi;
};

#define DESC_P       0x8000u
#define DESC_S       0x1000u
#define DESC_DB      0x400000u
#define DESC_L       0x200000u
#define DESC_A       0x100u /* accessed (code, data) */
#define DESC_BUSY    0x200u /* TSS */
#define DESC_DPL(d)  (((d).hi >> 13) & 3)
#define DESC_TYPE(d) (((d).hi >> 8) & 15)

/* System descriptor types. */
enum {
    SYS_TSS16 = 1,
    SYS_LDT = 2,
    SYS_TSS16_BUSY = 3,
    SYS_CALL16 = 4,
    SYS_TASK_GATE = 5,
    SYS_INT16 = 6,
    SYS_TRAP16 = 7,
    SYS_TSS32 = 9,
    SYS_TSS32_BUSY = 11,
    SYS_CALL32 = 12,
    SYS_INT32 = 14,
    SYS_TRAP32 = 15,
};

static inline uint64_t seg_mask(unsigned bytes)
{
    return bytes >= 8 ? ~UINT64_C(0) : (UINT64_C(1) << (bytes * 8)) - 1;
}
static inline unsigned seg_acc(const struct scpu *c)
{
    return c->cpl == 3 ? ACC_USER : 0;
}
static inline bool seg_is_null(uint16_t sel)
{
    return (sel & ~3) == 0;
}
static inline uint32_t seg_error(uint16_t sel, uint32_t ext)
{
    return (sel & 0xfffcu) | ext;
}
static inline bool seg_is_vm86(const struct scpu *c)
{
    return (c->sysflags & FL_VM) != 0;
}
/* Real-address or virtual-8086 mode: selectors are paragraph numbers. */
static inline bool seg_is_real(const struct scpu *c)
{
    return !(c->cr0 & CR0_PE) || seg_is_vm86(c);
}
static inline bool desc_is_code(struct seg_desc d)
{
    return (d.hi & (DESC_S | 0x800)) == (DESC_S | 0x800);
}
static inline bool desc_is_conforming(struct seg_desc d)
{
    return (d.hi & 0x400) != 0;
}
static inline bool desc_is_writable_data(struct seg_desc d)
{
    return (d.hi & (DESC_S | 0xa00)) == (DESC_S | 0x200);
}
static inline bool desc_is_readable(struct seg_desc d)
{
    return (d.hi & DESC_S) && (d.hi & 0xa00) != 0x800;
}
uint32_t desc_base(struct seg_desc d);
uint32_t desc_limit(struct seg_desc d); /* in bytes, G applied */
uint16_t desc_attr(struct seg_desc d);  /* as struct vcpu_seg has it */

/* Reads a descriptor from the GDT or LDT. Outside the table: `vector` with the selector. */
int seg_read_desc(struct scpu *c, uint16_t sel, uint8_t vector, uint32_t ext,
                  struct seg_desc *ret_desc);
/* The upper half of a 16-byte system descriptor (long mode): base 63:32. Checks its type field.
 */
int seg_read_desc_high(struct scpu *c, uint16_t sel, uint8_t vector, uint32_t ext,
                       uint32_t *ret_base_high);
/* Sets bits in the second dword of a descriptor in memory: accessed, TSS busy. */
int seg_update_desc(struct scpu *c, uint16_t sel, struct seg_desc *d, uint32_t set,
                    uint32_t clear);
int seg_mark_accessed(struct scpu *c, uint16_t sel, struct seg_desc *d);

void seg_from_desc(struct vcpu_seg *ret_seg, uint16_t sel, struct seg_desc d);
void seg_set_real(struct scpu *c, enum x86_seg seg, uint16_t sel); /* real or vm86, by mode */
void seg_set_vm86(struct vcpu_seg *s, uint16_t sel);
void seg_set_null(struct vcpu_seg *s, uint16_t sel);

/* DS, ES, FS, GS. The faults for bad selectors are `vector` (#GP; #TS in task switches) and
 * #NP. */
int seg_load_data(struct scpu *c, enum x86_seg seg, uint16_t sel, uint8_t vector, uint32_t ext);
/* Checks a stack segment for use at privilege cpl: `vector` or #SS; reads it, marks it
 * accessed. */
int seg_check_stack(struct scpu *c, uint16_t sel, unsigned cpl, uint8_t vector, uint32_t ext,
                    struct vcpu_seg *ret_seg);
/* MOV SS and the like, at the current CPL, in all modes. */
int seg_load_ss(struct scpu *c, uint16_t sel);
/* Any data segment or SS, in all modes. The caller calls soft_update_mode. */
int seg_load(struct scpu *c, enum x86_seg seg, uint16_t sel);
/* After a return to an outer level: data segments that the new CPL may not use become null. */
void seg_null_outer(struct scpu *c);

/* A code segment about to be entered at privilege cpl. */
struct code_target {
    struct vcpu_seg seg;
    uint64_t rip;
};
/* Makes *ret from the descriptor: marks it accessed, checks rip (#GP(ext)) and L with D. */
int seg_check_code(struct scpu *c, uint16_t sel, struct seg_desc *d, unsigned cpl, uint64_t rip,
                   uint32_t ext, struct code_target *ret);
/* Enters it: CS, CPL, RIP. The caller calls soft_update_mode. */
void seg_enter_code(struct scpu *c, const struct code_target *t, unsigned cpl);

/* ---- stacks (seg_access.c) ---- */
/* A stack in use or about to be; sp holds all of (R/E)SP, width says how much of it moves. */
struct stack {
    struct vcpu_seg ss;
    uint64_t sp;
    unsigned width;
    unsigned acc;
    uint32_t error; /* of #SS */
};
bool seg_limit_ok(const struct vcpu_seg *s, uint64_t off, unsigned len);
void stack_current(const struct scpu *c, struct stack *ret_stack);
int stack_push(struct scpu *c, struct stack *st, unsigned size, uint64_t value);
int stack_pop(struct scpu *c, struct stack *st, unsigned size, uint64_t *ret_value);
void stack_skip(struct stack *st, uint64_t bytes);         /* as if so many were popped */
void stack_commit(struct scpu *c, const struct stack *st); /* writes RSP, not SS */

/* ---- TSS ---- */
/* SS:ESP of privilege cpl from the 16- or 32-bit TSS, checked; becomes a stack. #TS, #SS. */
int tss_stack(struct scpu *c, unsigned cpl, uint32_t ext, struct stack *ret_stack);
/* RSP0-2 (ist 0) or IST 1-7 of a 64-bit TSS; the stack's SS is the null selector of cpl. */
int tss_stack64(struct scpu *c, unsigned cpl, unsigned ist, uint32_t ext,
                struct stack *ret_stack);

/* ---- task switch (task.c) ---- */
enum task_reason { TASK_JMP, TASK_CALL, TASK_IRET, TASK_EVENT };
/* Switches to the TSS `sel`, whose descriptor the caller has read and whose type it has
 * checked; `next_rip` is saved in the old TSS. Faults after the commit point belong to the new
 * task. */
int task_switch(struct scpu *c, uint16_t sel, struct seg_desc d, enum task_reason why,
                uint64_t next_rip, uint32_t ext);
/* A task gate or TSS selector named by a gate: checks and switches. */
int task_gate(struct scpu *c, uint16_t tss_sel, enum task_reason why, uint64_t next_rip,
              uint32_t ext);
/* IRET with NT set: back to the task that the link field names. */
int task_return(struct scpu *c, uint64_t next_rip);
