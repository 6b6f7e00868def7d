; A multiboot guest that counts timer interrupts: the PIT through the PIC at 100 Hz, one line "tick NN"
; each; powers off after 40. Its whole state is in the CPU, the chips and one page of RAM.
bits 32
org 0x100000

header: dd 0x1badb002, 0x10000
        dd -(0x1badb002 + 0x10000)
        dd header, header, end, end, start

start:  mov esp, stack_top
        lgdt [gdt_ptr]
        jmp 8:.cs
.cs:    mov ax, 16
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov eax, on_tick
        mov [idt + 0x20 * 8], ax
        mov word [idt + 0x20 * 8 + 2], 8
        mov word [idt + 0x20 * 8 + 4], 0x8e00
        shr eax, 16
        mov [idt + 0x20 * 8 + 6], ax
        lidt [idt_ptr]
        mov esi, chips
        mov ecx, (chips_end - chips) / 2
.chip:  lodsb
        movzx edx, al
        lodsb
        out dx, al
        loop .chip
        sti
.wait:  hlt
        jmp .wait

on_tick:
        pushad
        mov al, 0x20
        out 0x20, al
        inc dword [count]
        mov eax, [count]
        mov bl, 10
        div bl
        add ax, 0x3030
        mov [digits], ax
        mov esi, line
.putc:  lodsb
        test al, al
        jz .said
        mov dx, 0x3f8
        out dx, al
        jmp .putc
.said:  cmp dword [count], 40
        jne .back
        mov dx, 0x604
        mov ax, 0x3400
        out dx, ax
.back:  popad
        iretd

; port, value
chips:  db 0x20, 0x11, 0x21, 0x20, 0x21, 4, 0x21, 1, 0x21, 0xfe, 0xa1, 0xff
        db 0x43, 0x34, 0x40, 0x9c, 0x40, 0x2e ; mode 2, 11932
chips_end:
line:   db "tick "
digits: db "00", 10, 0
align 8
count:  dd 0
gdt:    dq 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_ptr: dw 23
        dd gdt
idt_ptr: dw 0x21 * 8 - 1
        dd idt
align 8
idt:    times 0x21 dq 0
        times 256 db 0
stack_top:
end:
