/*
 * Assembly ends of the native executor.
 *
 * native_enter_thunk: a stub found that the guest's vector state is not live. rdi, rsi, rdx are the
 * stub's arguments, rax where to go on; all of them survive.
 * native_fault_thunk: where the signal handler sends a stub that faulted. rdi and rsi as in the stub,
 * the stack as at its entry; the direction flag and the alignment of rsp are those of the ABI.
 */
    .text
    .globl native_enter_thunk
    .hidden native_enter_thunk
    .type native_enter_thunk, @function
native_enter_thunk:
    push %rdi
    push %rsi
    push %rdx
    push %rax
    sub $8, %rsp
    call soft_enter_fpu
    add $8, %rsp
    pop %rax
    pop %rdx
    pop %rsi
    pop %rdi
    jmp *%rax
    .size native_enter_thunk, . - native_enter_thunk

    .globl native_fault_thunk
    .hidden native_fault_thunk
    .type native_fault_thunk, @function
native_fault_thunk:
    jmp native_fault_entry
    .size native_fault_thunk, . - native_fault_thunk

    .section .note.GNU-stack, "", @progbits
