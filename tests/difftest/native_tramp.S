/*
 * Enters a case on the host CPU: dt_native_enter(const struct dt_state *in (rdi), uint64_t xsave mask
 * (rsi), const uint64_t iret_frame[5] (rdx)). Leaves through dt_native_exit, where the signal handler
 * sends the thread.
 */
    .text
    .globl dt_native_enter
    .type dt_native_enter, @function
dt_native_enter:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, dt_saved_rsp(%rip)
    mov %rdx, %rcx
    mov %rsi, %rax
    mov %rsi, %rdx
    shr $32, %rdx
    xrstor64 192(%rdi)
    mov %rcx, %rsp
    mov 0(%rdi), %rax
    mov 8(%rdi), %rcx
    mov 16(%rdi), %rdx
    mov 24(%rdi), %rbx
    mov 40(%rdi), %rbp
    mov 48(%rdi), %rsi
    mov 64(%rdi), %r8
    mov 72(%rdi), %r9
    mov 80(%rdi), %r10
    mov 88(%rdi), %r11
    mov 96(%rdi), %r12
    mov 104(%rdi), %r13
    mov 112(%rdi), %r14
    mov 120(%rdi), %r15
    mov 56(%rdi), %rdi
    iretq
    .size dt_native_enter, . - dt_native_enter

    .globl dt_native_exit
    .type dt_native_exit, @function
dt_native_exit:
    mov dt_saved_rsp(%rip), %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
    .size dt_native_exit, . - dt_native_exit

    .bss
    .balign 8
dt_saved_rsp:
    .skip 8
    .section .note.GNU-stack, "", @progbits
