; outb PORT VALUE: one byte to an I/O port, both decimal. 64-bit Linux, no libc.
; The guest's kernel has no /dev/port, so its /init signals the VMM with this program.
; guestimage/outb.py holds the assembled bytes (nasm -f bin), so that making an image needs no
; assembler; tests/image_test.py compares the two.
bits 64
org 0x400000
        db 0x7f, "ELF", 2, 1, 1, 0
        dq 0
        dw 2, 62                ; ET_EXEC, x86-64
        dd 1
        dq start, phdr - $$, 0
        dd 0
        dw 64, 56, 1, 0, 0, 0
phdr:   dd 1, 5                 ; PT_LOAD, R+X
        dq 0, $$, $$
        dq end - $$, end - $$
        dq 4096
start:
        pop rax                 ; argc
        cmp eax, 3
        jne fail
        pop rax                 ; argv[0]
        pop rsi
        call number
        mov ebx, eax            ; port
        pop rsi
        call number
        mov ebp, eax            ; value
        mov edi, ebx
        mov esi, 1
        mov edx, 1
        mov eax, 173            ; ioperm(port, 1, 1)
        syscall
        test eax, eax
        jnz fail
        mov edx, ebx
        mov eax, ebp
        out dx, al
        xor edi, edi
        jmp leave_
fail:   mov edi, 1
leave_: mov eax, 60             ; exit
        syscall
number: xor eax, eax            ; decimal at rsi -> eax
.next:  movzx ecx, byte [rsi]
        inc rsi
        sub ecx, '0'
        cmp ecx, 9
        ja .done
        imul eax, eax, 10
        add eax, ecx
        jmp .next
.done:  ret
end:
