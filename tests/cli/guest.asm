; A multiboot guest of one page: prints "guest: COMMAND LINE" on COM1, then does what it says:
;   off      powers off through ACPI (also what an unknown command does)
;   init     writes 41h to port 80h, then powers off
;   triple   triple fault            panic  reports one through pvpanic
;   exit     42 to the debug exit port
;   reset    resets through port CF9 the first time, then powers off
;   hang     interrupts off, waits for ever
;   echo     sends back what it receives, powers off after an "x"
;   flood    256 KiB of text, then powers off
;   button   polls the power button's status bit, then powers off
bits 32
org 0x100000

header:
        dd 0x1badb002, 0x10000
        dd -(0x1badb002 + 0x10000)
        dd header, header, end, end, start

start:
        mov esp, stack_top
        mov edi, ebx
        mov esi, greeting
        call print
        test dword [edi], 4
        mov esi, nothing
        jz .no_command
        mov esi, [edi + 16]
        ; Loaders put the kernel's name before: take the last word.
        mov eax, esi
.scan:  mov dl, [eax]
        inc eax
        cmp dl, ' '
        jne .not_blank
        mov esi, eax
.not_blank:
        test dl, dl
        jnz .scan
.no_command:
        mov ebp, esi
        call print
        mov esi, newline
        call print

        mov ebx, table
.try:   mov edi, [ebx]
        test edi, edi
        jz off
        mov esi, ebp
.same:  mov al, [edi]
        cmp al, [esi]
        jne .next
        inc edi
        inc esi
        test al, al
        jnz .same
        jmp [ebx + 4]
.next:  add ebx, 8
        jmp .try

init:   mov al, 0x41
        out 0x80, al
off:    mov dx, 0x604
        mov ax, 0x3400
        out dx, ax
hang:   cli
        hlt
        jmp hang

triple: lidt [no_idt]
        int3

panic:  mov dx, 0x505
        mov al, 1
        out dx, al
        jmp hang

exit:   mov eax, 42
        out 0xf4, eax
        jmp hang

reset:  ; CMOS memory survives a reset
        mov al, 0x40
        out 0x70, al
        in al, 0x71
        cmp al, 0x5a
        je off
        mov al, 0x40
        out 0x70, al
        mov al, 0x5a
        out 0x71, al
        mov dx, 0xcf9
        mov al, 6
        out dx, al
        jmp hang

echo:   mov dx, 0x3fd
        in al, dx
        test al, 1
        jz echo
        mov dx, 0x3f8
        in al, dx
        call putc
        cmp al, 'x'
        jne echo
        jmp off

flood:  mov ecx, 16384
.line:  mov esi, text
        call print
        loop .line
        jmp off

button: mov dx, 0x600
        in ax, dx
        test ax, 0x100
        jz button
        jmp off

; al to COM1, when it has room
putc:   push eax
        push edx
        mov ah, al
        mov dx, 0x3fd
.wait:  in al, dx
        test al, 0x20
        jz .wait
        mov dx, 0x3f8
        mov al, ah
        out dx, al
        pop edx
        pop eax
        ret

print:  lodsb
        test al, al
        jz .done
        call putc
        jmp print
.done:  ret

no_idt: dw 0
        dd 0
greeting: db "guest: ", 0
newline:  db 13, 10
nothing:  db 0
text:     db "0123456789abcde", 10, 0

table:
        dd n_init, init, n_triple, triple, n_panic, panic, n_exit, exit, n_reset, reset
        dd n_hang, hang, n_echo, echo, n_flood, flood, n_button, button, 0
n_init:   db "init", 0
n_triple: db "triple", 0
n_panic:  db "panic", 0
n_exit:   db "exit", 0
n_reset:  db "reset", 0
n_hang:   db "hang", 0
n_echo:   db "echo", 0
n_flood:  db "flood", 0
n_button: db "button", 0
        times 256 db 0
stack_top:
end:
