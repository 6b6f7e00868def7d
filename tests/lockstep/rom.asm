; The firmware of both machines: counts a boot, waits until it is told to go on, copies the case from
; 2 MiB to 4 KiB with stores of its own (so that an emulator drops what it translated there) and
; enters it in flat 32-bit protected mode. A case ends with a triple fault, which comes back here.
        org     0
        bits    16
start:  cli
        mov     al, 0xff
        out     0x21, al
        out     0xa1, al
        xor     ax, ax
        mov     ds, ax
        inc     dword [0x500]
.wait:  pause
        mov     eax, [0x504]
        cmp     eax, [0x500]
        jne     .wait
        o32 lgdt [cs:gdtr]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     dword 8:0xf0000 + flat
        bits    32
flat:   mov     ax, 16
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     fs, ax
        mov     gs, ax
        mov     esp, 0x7f00
        cld
        mov     esi, 0x201000
        mov     edi, 0x1000
        mov     ecx, 0x1f000 / 4
        rep movsd
        xor     eax, eax
        xor     ebx, ebx
        xor     ecx, ecx
        xor     edx, edx
        xor     esi, esi
        xor     edi, edi
        xor     ebp, ebp
        push    2
        popf
        jmp     8:0x2000
        align   8
gdt:    dq      0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr:   dw      23
        dd      0xf0000 + gdt
        times   0xfff0 - ($ - $$) db 0
        bits    16
        jmp     0xf000:start
        times   0x10000 - ($ - $$) db 0
