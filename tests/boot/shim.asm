; A firmware of 64 KiB whose only job is to enter a kernel that boot_image has put into RAM: from the
; reset vector to 32-bit protected mode or long mode, with the registers found in the block at the
; end (boot_image.c patches it in). Lets the loaders be tested on another hypervisor's CPU.
bits 16
org 0
%define BASE 0xffff0000
start:
        cli
        o32 lgdt [cs:gdtr]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        jmp dword 0x08:BASE + pm
align 8
gdt:    dq 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr:   dw 23
        dd BASE + gdt
bits 32
pm:     mov ax, 0x10
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov fs, ax
        mov gs, ax
        mov esp, 0x800
; Q35: PM registers at 600h, configuration space at B0000000h, as our board has them.
        mov ebx, 0x8000f840             ; 00:1f.0 PMBASE
        mov ecx, 0x601
        call config
        mov ebx, 0x8000f844             ; ACPI_CNTL: enabled
        mov ecx, 0x80
        call config
        mov ebx, 0x80000060             ; 00:00.0 PCIEXBAR
        mov ecx, 0xb0000001
        call config
        lgdt [BASE + block.gdt]
        cmp dword [BASE + block.is64], 0
        jne enter64
        jmp 0x10:BASE + flat
config: mov dx, 0xcf8
        mov eax, ebx
        out dx, eax
        mov dx, 0xcfc
        mov eax, ecx
        out dx, eax
        ret
flat:   mov ax, 0x18
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov fs, ax
        mov gs, ax
        mov eax, [BASE + block.rax]
        mov ebx, [BASE + block.rbx]
        mov esi, [BASE + block.rsi]
        xor ebp, ebp
        xor edi, edi
        jmp [BASE + block.rip]
enter64: mov eax, [BASE + block.cr3]
        mov cr3, eax
        mov eax, 0x20
        mov cr4, eax
        mov ecx, 0xc0000080
        rdmsr
        or eax, 0x100
        wrmsr
        mov eax, 0x80010033
        mov cr0, eax
        jmp 0x10:BASE + lm
bits 64
lm:     mov ax, 0x18
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov fs, ax
        mov gs, ax
        mov r8d, BASE
        mov rax, [r8 + block.rax]
        mov rbx, [r8 + block.rbx]
        mov rsi, [r8 + block.rsi]
        mov r9, [r8 + block.rip]
        jmp r9
        times 0xf000 - ($ - $$) db 0
block:
.is64:  dd 0
.cr3:   dd 0
.gdt:   dw 0
        dd 0
        dw 0
.pad:   dd 0
.rip:   dq 0
.rax:   dq 0
.rbx:   dq 0
.rsi:   dq 0
        times 0xfff0 - ($ - $$) db 0
        jmp start
        times 0x10000 - ($ - $$) db 0
