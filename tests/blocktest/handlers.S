/*
 * What a blocktest guest runs on exceptions and calls; copied to BT_HANDLERS, position-independent.
 * An exception is logged (vector, error code, CR2, RIP, RFLAGS, RSP, a hash of the registers, CS and
 * SS); then a page fault on an entry with bit 9 set makes the page writable and retries, traps
 * return, and anything else goes on behind the instruction (table at BT_RESUME) or, where that is
 * not known, at the end of the loop.
 */
#include "layout.h"

    .intel_syntax noprefix
    .section .rodata
    .balign 16
    .globl bt_handlers, bt_handlers_end, bt_h_vectors, bt_h_syscall
    .globl bt_h_nmi, bt_h_irq, bt_h_nop, bt_h_end, bt_h_change, bt_h_cr3

#define V(x) [rip + bt_handlers + (BT_VARS - BT_HANDLERS) + (x)]
#define VOLATILE(x) [rip + bt_handlers + (BT_VOLATILE - BT_HANDLERS) + (x)]

bt_handlers:
bt_h_vectors: /* 32 of 16 bytes */
    .set i, 0
    .rept 32
    .balign 16, 0xcc
    .if !(i == 8 || (i >= 10 && i <= 14) || i == 17 || i == 21)
    push 0
    .endif
    push i
    jmp common
    .set i, i + 1
    .endr

    .balign 16, 0xcc
common:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    xor eax, eax
    .set i, 0
    .rept 15
    rol rax, 7
    add rax, [rsp + 8 * i]
    .set i, i + 1
    .endr
    lea rbp, [rsp + 15 * 8] /* vector, error, RIP, CS, RFLAGS, RSP, SS */
    lea rbx, V(0)
    mov rcx, [rbx + BT_V_LOGGED]
    cmp rcx, BT_LOG_MAX
    jae bt_h_end
    inc qword ptr [rbx + BT_V_LOGGED]
    shl ecx, 6
    lea rdi, [rbx + rcx + (BT_LOG - BT_VARS)]
    mov rdx, [rbp]
    mov [rdi], rdx
    mov rcx, [rbp + 8]
    mov [rdi + 8], rcx
    mov rsi, cr2
    mov [rdi + 16], rsi
    mov rcx, [rbp + 16]
    mov [rdi + 24], rcx
    mov rcx, [rbp + 32]
    mov [rdi + 32], rcx
    mov rcx, [rbp + 40]
    mov [rdi + 40], rcx
    mov [rdi + 48], rax
    mov rcx, [rbp + 24]
    shl rcx, 32
    add rcx, [rbp + 48]
    mov [rdi + 56], rcx

    cmp edx, 1
    je is_debug
    cmp edx, 3
    je is_breakpoint
    cmp edx, 8
    je to_tail
    cmp edx, 14
    jne skip
    mov eax, esi /* CR2 in the data window? */
    and eax, 0x7fffffff
    sub eax, BT_VA_DATA
    cmp eax, BT_DATA_VA_N * 4096
    jae skip
    shr eax, 12
    lea rcx, [rip + bt_handlers + (BT_PT_DATA - BT_HANDLERS)]
    lea rcx, [rcx + rax * 8]
    mov rax, [rcx]
    test eax, 0x200
    jz skip
    and rax, ~0x200
    or rax, 7
    mov [rcx], rax
    invlpg [rsi]
    jmp back
is_debug:
    and qword ptr [rbp + 32], ~0x100
back:
    jmp restore
is_breakpoint: /* of the program, or among what fills the gaps */
    dec qword ptr [rbp + 16]

skip:
    mov rax, [rbp + 16]
    mov rcx, rax
    and ecx, 0x3fff
    mov rdx, rax
    and rdx, ~(0x3fff | BT_ALIAS_X)
    cmp rdx, [rbx + BT_V_CODE]
    jne to_tail
    lea rdx, [rbx + (BT_RESUME - BT_VARS)]
    movzx edx, word ptr [rdx + rcx * 2]
    test edx, edx
    jz to_tail
    and rax, ~0x3fff
    add rax, rdx
    mov [rbp + 16], rax
    jmp restore
to_tail:
    mov rax, [rbx + BT_V_TAIL]
    mov [rbp + 16], rax
    mov rax, [rbx + BT_V_CS]
    mov [rbp + 24], rax
    mov rax, [rbx + BT_V_RFLAGS]
    mov [rbp + 32], rax
    mov rax, [rbx + BT_V_RSP]
    mov [rbp + 40], rax
    mov rax, [rbx + BT_V_SS]
    mov [rbp + 48], rax
restore:
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
bt_h_nop:
    iretq

bt_h_nmi:
    inc qword ptr VOLATILE(0)
    iretq
bt_h_irq:
    inc qword ptr VOLATILE(8)
    iretq

bt_h_end:
    mov al, BT_END_MAGIC
    out BT_PORT_END, al
1:
    jmp 1b

bt_h_change:
    push rax
    push rcx
    push rdi
    and edi, 15
    lea rdi, [rdi + rdi * 2]
    lea rax, V(BT_V_CHANGES)
    lea rdi, [rax + rdi * 8]
    mov rax, [rdi]
    mov rcx, [rdi + 8]
    mov [rax], rcx
    mov rax, [rdi + 16]
    invlpg [rax]
    pop rdi
    pop rcx
    pop rax
    iretq

bt_h_cr3:
    push rax
    push rdi
    and edi, 1
    lea rax, V(BT_V_CR3)
    mov rax, [rax + rdi * 8]
    mov cr3, rax
    pop rdi
    pop rax
    iretq

bt_h_syscall: /* RCX: RIP, R11: RFLAGS; on the caller's stack */
    swapgs
    inc qword ptr V(BT_V_SYSCALLS)
    add V(BT_V_SUM), rcx
    xor V(BT_V_SUM), r11
    swapgs
    sysretq
bt_handlers_end:
    .section .note.GNU-stack, "", @progbits
