/*
 * Integer loops with memory operands, each void f(uint64_t *buffer, uint64_t rounds) in the C calling
 * convention, position-independent and without outside references, so that the same bytes run natively
 * and in a guest. buffer is 64 KiB.
 */
    .text
    .macro LOOP name
    .globl  loop_\name, loop_\name\()_end
    .p2align 6
loop_\name:
    .endm
    .macro END name
loop_\name\()_end:
    .endm

/* Pseudo-random read-modify-write of a 32 KiB table. */
LOOP update
    mov     $0x9e3779b97f4a7c15, %rax
1:  mov     %rax, %rdx
    shl     $13, %rdx
    xor     %rdx, %rax
    mov     %rax, %rdx
    shr     $7, %rdx
    xor     %rdx, %rax
    mov     %rax, %rcx
    and     $4095, %ecx
    add     %rax, (%rdi,%rcx,8)
    dec     %rsi
    jnz     1b
    ret
END update

/* FNV-1a over 4 KiB, byte by byte; the result goes to memory after each pass. */
LOOP hash
    movabs  $0x100000001b3, %r8
1:  movabs  $0xcbf29ce484222325, %rax
    xor     %ecx, %ecx
2:  movzbl  (%rdi,%rcx), %edx
    xor     %rdx, %rax
    imul    %r8, %rax
    inc     %ecx
    cmp     $4096, %ecx
    jne     2b
    add     %rax, 4096(%rdi)
    dec     %rsi
    jnz     1b
    ret
END hash

/* Copies 64 words and sorts the copy by insertion. */
LOOP sort
1:  xor     %ecx, %ecx
2:  mov     (%rdi,%rcx,4), %eax
    mov     %eax, 8192(%rdi,%rcx,4)
    inc     %ecx
    cmp     $64, %ecx
    jb      2b
    mov     $1, %ecx
3:  mov     8192(%rdi,%rcx,4), %eax
    mov     %ecx, %edx
4:  cmp     %eax, 8188(%rdi,%rdx,4)
    jbe     5f
    mov     8188(%rdi,%rdx,4), %r8d
    mov     %r8d, 8192(%rdi,%rdx,4)
    dec     %edx
    jnz     4b
5:  mov     %eax, 8192(%rdi,%rdx,4)
    inc     %ecx
    cmp     $64, %ecx
    jb      3b
    dec     %rsi
    jnz     1b
    ret
END sort

/* Recursive Fibonacci number 16: calls, returns, the stack. */
LOOP calls
    push    %rbx
    push    %rbp
    mov     %rsi, %rbp
1:  mov     $16, %eax
    call    2f
    add     %rax, (%rdi)
    dec     %rbp
    jnz     1b
    pop     %rbp
    pop     %rbx
    ret
2:  cmp     $2, %eax
    jb      3f
    push    %rbx
    push    %rax
    dec     %eax
    call    2b
    mov     %eax, %ebx
    pop     %rax
    sub     $2, %eax
    call    2b
    add     %ebx, %eax
    pop     %rbx
3:  ret
END calls

    .section .note.GNU-stack,"",@progbits
