/*
 * Where things lie in a blocktest guest: plain numbers, so that handlers.S can include them.
 * Guest-physical addresses first, then linear ones. User windows (data, stack, code) lie at
 * their address or, in programs that say so, that much above BT_HIGH; the system window, one
 * large supervisor page over all RAM, always at both.
 */
#pragma once

#define BT_PML4_A     0x00000
#define BT_PML4_B     0x01000
#define BT_PDPT_A     0x02000
#define BT_PDPT_B     0x03000
#define BT_PD_A       0x04000
#define BT_PD_B       0x05000
#define BT_PD_SYS     0x06000
#define BT_PT_DATA    0x07000
#define BT_PT_CODE_A  0x08000
#define BT_PT_CODE_B  0x09000
#define BT_TABLES_END 0x0a000
#define BT_GDT        0x0a000 /* with the TSS at + 0x800 */
#define BT_TSS        0x0a800
#define BT_IDT        0x0b000
#define BT_HANDLERS   0x0c000
#define BT_VARS       0x0d000
#define BT_LOG        0x0e000 /* BT_LOG_MAX entries */
#define BT_IST1       0x11000 /* top of the exceptions' stack */
#define BT_VOLATILE   0x11000 /* not compared: NMI and IRQ stacks, their counters */
#define BT_RESUME     0x12000 /* by code offset: where to go on after a fault */
#define BT_KSTACK     0x1b000 /* top of RSP0 */
#define BT_USTACK     0x1b000 /* two pages */
#define BT_DATA       0x1d000
#define BT_DATA_PAGES 8
#define BT_CODE       0x25000
#define BT_CODE_PAGES 4 /* and as many others with other immediates behind them */
#define BT_RAM        0x2d000
#define BT_ROM        0x100000
#define BT_MMIO       0x180000

#define BT_VA_DATA   0x10000000
#define BT_DATA_VA_N 16
#define BT_VA_STACK  0x10018000 /* two pages with nothing around them */
#define BT_VA_CODE   0x20000000
#define BT_ALIAS_X   0x10000    /* from BT_VA_CODE: the same pages again, executable */
#define BT_ALIAS_W   0x20000    /* and once more, writable */
#define BT_VA_SYS    0x5a600000 /* where no boundary value points: page tables lie there */
#define BT_HIGH      0xffffffff80000000

/* Variables, from BT_VARS. */
#define BT_V_CODE     0x00 /* base of the code window */
#define BT_V_TAIL     0x08 /* end of the loop: where to go on when nothing else is known */
#define BT_V_CS       0x10
#define BT_V_SS       0x18
#define BT_V_RSP      0x20
#define BT_V_LOGGED   0x28
#define BT_V_SYSCALLS 0x30
#define BT_V_SUM      0x38
#define BT_V_COUNT    0x40 /* loop counter of programs that keep it in memory */
#define BT_V_INNER    0x48
#define BT_V_CR3      0x50 /* two */
#define BT_V_RFLAGS   0x60
#define BT_V_CHANGES                                                                           \
    0x100 /* 16 of {address of a table entry, its new value, linear address}                   \
           */

#define BT_LOG_MAX   128
#define BT_LOG_BYTES 64

#define BT_SEL_KCODE 0x08
#define BT_SEL_KDATA 0x10
#define BT_SEL_UDATA 0x23
#define BT_SEL_UCODE 0x2b
#define BT_SEL_TSS   0x30

#define BT_VEC_IRQ    0x40
#define BT_VEC_NOP    0x80 /* there and back */
#define BT_VEC_END    0x81
#define BT_VEC_CHANGE 0x82 /* makes change number edi & 15 */
#define BT_VEC_CR3    0x83 /* the other page tables: edi & 1 */
#define BT_PORT_END   0xf4
#define BT_END_MAGIC  0x62
