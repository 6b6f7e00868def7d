; Real-address mode: entry and exit, interrupts, far transfers, segment limits, "unreal" segments,
; operand and address sizes, flags, traps.
;
; The 16-bit part runs at 0:8000h; it is copied there from the image, and works on its own counters,
; which the 32-bit part reads at the end.
%define GUEST_NAME "real"
%define GUEST_REAL
%include "guest.inc"

        section .text
        VERDICTS

        section .data
        align   8
gdt:
        dq      0
S_CODE  equ     $ - gdt
        DESC    0, 0xfffff, 0x9a, 12
S_DATA  equ     $ - gdt
        DESC    0, 0xfffff, 0x92, 12
S_CODE16 equ    $ - gdt
        DESC    0, 0xffff, 0x9a, 0
S_DATA16 equ    $ - gdt
        DESC    0, 0xffff, 0x92, 0
gdt_end:
gdtr:   dw      gdt_end - gdt - 1
        dd      gdt

        section .bss
        resb    8192
stack_top:

        section .text
entry:
        cli
        cld
        CLEAR_BSS
        mov     esp, stack_top
        lgdt    [gdtr]
        jmp     S_CODE:.flat
.flat:  mov     ax, S_DATA
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     al, 0xff
        out     0x21, al
        out     0xa1, al
        DETECT_LENIENT
        mov     esi, real_image
        mov     edi, 0x8000
        mov     ecx, real_image_end - real_image
        rep movsb
        mov     eax, [lenient]
        mov     [r_lenient], eax
        mov     ax, S_DATA16
        mov     ds, ax
        mov     es, ax
        mov     fs, ax
        mov     gs, ax
        mov     ss, ax
        jmp     S_CODE16:to_real
back32:
        mov     ax, S_DATA
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, stack_top
        ; One line for each failure: its number, from the list below.
        movzx   eax, word [r_ok]
        mov     [n_ok], eax
        movzx   ebx, word [r_n_bad]
        mov     esi, r_bad
.next:  test    ebx, ebx
        jz      .end
        lodsd                           ; name, vector
        movzx   ecx, ax
        mov     [test_name], ecx
        shr     eax, 16
        mov     [got_vec], eax
        push    esi
        push    ebx
        call    verdict_bad
        pop     ebx
        pop     esi
        dec     ebx
        jmp     .next
.end:   jmp     finish

; ---- 16 bits, at 0:8000h ----
        section .real
        bits    16
real_start:

; As in guest.inc. Names are near: below 64 KiB.
%macro RNAME 1
        jmp     %%over
%%s:    db      %1, 0
%%over: mov     word [cs:r_name], %%s
%endmacro
%macro RTRY 1
        %push   rtry
        RNAME   %1
        mov     word [cs:r_recover], %$after
        mov     [cs:r_sp], sp
        mov     word [cs:r_vec], 0x1ff
%endmacro
%macro RFAULTS 1
%$after:
        mov     ax, 0
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, [r_sp]
        cmp     word [r_vec], %1
        call    rverdict
        %pop
%endmacro
%macro RNO_FAULT 0
        RFAULTS 0x1ff
%endmacro
%macro RCHECK 3
        RNAME   %1
        cmp     %2, %3
        call    rverdict
%endmacro
%macro RSTRICT 0
        %push   rstrict
        cmp     word [cs:r_lenient], 0
        jne     %$skip
%endmacro
%macro REND_STRICT 0
%$skip:
        %pop
%endmacro

rverdict:
        jne     .bad
        inc     word [cs:r_ok]
        ret
.bad:   push    bx
        mov     bx, [cs:r_n_bad]
        cmp     bx, 30
        jae     .full
        inc     word [cs:r_n_bad]
        shl     bx, 2
        push    ax
        mov     ax, [cs:r_name]
        mov     [cs:bx + r_bad], ax
        mov     ax, [cs:r_vec]
        mov     [cs:bx + r_bad + 2], ax
        pop     ax
.full:  pop     bx
        ret

%assign i 0
%rep 34
rvec_ %+ i:
        push    word i
        jmp     on_real
%assign i i + 1
%endrep
on_real:                                ; vector, ip, cs, flags
        pop     word [cs:r_vec]
        pop     word [cs:r_ip]
        pop     word [cs:r_cs]
        pop     word [cs:r_flags]
        pushf
        pop     word [cs:r_inflags]
        jmp     [cs:r_recover]

to_real:
        mov     eax, cr0
        and     eax, ~1
        mov     cr0, eax
        jmp     0:.real
.real:  xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     fs, ax
        mov     gs, ax
        mov     ss, ax
        mov     sp, 0x7000
        mov     di, 0x600               ; interrupt table at 600h
        mov     si, r_vectors
        mov     cx, 34
.ivt:   movsw
        mov     word [di], 0
        add     di, 2
        loop    .ivt
        lidt    [r_idtr]

        RTRY    "INT"
        stc
.int:   int     32
        RFAULTS 32
        RCHECK  "next address", word [r_ip], .int + 2
        RCHECK  "CS", word [r_cs], 0
        mov     ax, [r_flags]
        and     ax, 1
        RCHECK  "flags", ax, 1
        RTRY    "INT clears IF and TF"
        sti
        int     32
        RFAULTS 32
        mov     ax, [r_inflags]
        and     ax, 0x300
        RCHECK  "they are clear", ax, 0
        cli
        RTRY    "UD2"
.ud:    ud2
        RFAULTS 6
        RCHECK  "fault: same address", word [r_ip], .ud
        RTRY    "divide"
        xor     cx, cx
        div     cx
        RFAULTS 0
        RTRY    "INTO"
        mov     al, 0x7f
        inc     al
        into
        RFAULTS 4
        RTRY    "BOUND"
        mov     word [r_tmp], -5
        mov     word [r_tmp + 2], 5
        mov     ax, 5
        bound   ax, [r_tmp]
        mov     ax, -6
        bound   ax, [r_tmp]
        RFAULTS 5
        RTRY    "beyond the table"
        int     34
        RFAULTS 13
        RSTRICT
        RTRY    "word at FFFFh"
        mov     bx, 0xffff
        mov     ax, [bx]
        RFAULTS 13
        RTRY    "dword at FFFDh of SS"
        mov     bp, 0xfffd
        mov     eax, [bp]
        RFAULTS 12
        REND_STRICT
        RTRY    "word at FFFEh"
        mov     bx, 0xfffe
        mov     ax, [bx]
        RNO_FAULT
        RTRY    "LAR"
        lar     ax, cx
        RFAULTS 6
        RTRY    "LLDT"
        lldt    ax
        RFAULTS 6
        RTRY    "ARPL"
        arpl    ax, cx
        RFAULTS 6
        RTRY    "SYSENTER"
        sysenter
        RFAULTS 13

        ; Transfers.
        RTRY    "far call and return"
        mov     word [r_far], .sub - 0x8000
        mov     word [r_far + 2], 0x800
        mov     bx, sp
        call    far [r_far]
        call    0x800:(.sub - 0x8000)
        sub     bx, sp
        RNO_FAULT
        RCHECK  "balanced", bx, 0
        RCHECK  "ran in segment 800h", word [r_cs], 0x800
        RTRY    "RETF with immediate"
        mov     bx, sp
        push    word 1
        push    word 2
        push    cs
        push    word .retf
        retf    4
.retf:  sub     bx, sp
        RNO_FAULT
        RCHECK  "stack is clean", bx, 0
        RTRY    "IRET"
        push    word 0x0001
        push    cs
        push    word .iret
        iret
.iret:  pushf
        pop     bx
        and     bx, 0xfd5
        RNO_FAULT
        RCHECK  "flags of IRET", bx, 1
        RTRY    "32-bit IRET"
        push    dword 0x00240001
        push    dword 0
        push    dword .iret32
        o32 iret
.iret32: pushfd
        pop     ebx
        and     ebx, 0x3e0001
        push    dword 2
        popfd
        RNO_FAULT
        RCHECK  "ID and AC", ebx, 0x240001
        RTRY    "stack wraps"
        mov     sp, 2
        push    ax
        push    ax
        mov     bx, sp
        RNO_FAULT
        RCHECK  "SP", bx, 0xfffe
        RTRY    "32-bit address"
        mov     ebx, 0x7000
        mov     ecx, 4
        mov     dword [ebx + ecx * 2], 0x12345678
        mov     eax, [0x7008]
        mov     ebx, eax
        RNO_FAULT
        RCHECK  "through it", ebx, 0x12345678
        RSTRICT
        RTRY    "32-bit address beyond 64 KiB"
        mov     ebx, 0x10000
        mov     al, [ebx]
        RFAULTS 13
        REND_STRICT
        RTRY    "wrap above 1 MiB"      ; address bit 20 is on: FFFF:0010 is 100000h
        mov     ax, 0xffff
        mov     fs, ax
        mov     eax, [fs:0x10]
        mov     ebx, eax
        RNO_FAULT
        RCHECK  "the image", ebx, 0x1badb002
        RTRY    "16-bit offset wraps"
        mov     word [r_tmp], 0x55aa
        mov     bx, r_tmp + 0x10
        mov     si, -0x10
        mov     cx, [bx + si]
        RNO_FAULT
        RCHECK  "sum of registers", cx, 0x55aa
        RTRY    "string with wrap"
        mov     byte [0xffff], 0x77
        mov     si, 0xffff
        lodsb
        mov     bl, al
        RNO_FAULT
        RCHECK  "SI wraps", si, 0
        RCHECK  "value", bl, 0x77

        ; Unreal mode: a segment of 4 GiB stays after PE is cleared, and after a load.
        RTRY    "unreal"
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        mov     bx, 0x10
        mov     gs, bx
        and     al, 0xfe
        mov     cr0, eax
        mov     eax, [gs:dword 0x100000]
        mov     ebx, eax
        xor     ax, ax
        mov     gs, ax
        mov     eax, [gs:dword 0x100000]
        mov     ecx, eax
        RNO_FAULT
        RCHECK  "before a load", ebx, 0x1badb002
        RCHECK  "after a load", ecx, 0x1badb002
        RTRY    "LMSW, SMSW"
        smsw    ax
        mov     bx, ax
        or      ax, 8
        lmsw    ax
        smsw    cx
        clts
        smsw    dx
        RNO_FAULT
        and     bx, 9
        and     cx, 9
        and     dx, 9
        RCHECK  "before", bx, 0
        RCHECK  "TS set", cx, 8
        RCHECK  "CLTS", dx, 0
        RTRY    "LGDT and SGDT"
        sgdt    [r_tmp]
        RNO_FAULT
        RCHECK  "base", dword [r_tmp + 2], gdt
        RTRY    "LDS, LES"
        mov     dword [r_tmp], 0x12345678
        les     bx, [r_tmp]
        mov     cx, es
        RNO_FAULT
        RCHECK  "offset", bx, 0x5678
        RCHECK  "segment", cx, 0x1234
        RTRY    "single step"
        mov     word [r_count], 0
        mov     word [0x600 + 4], .step
        pushf
        pop     bx
        or      bx, 0x100
        push    bx
        popf
        nop
        nop
        and     bx, ~0x100
        push    bx
        popf
        mov     word [0x600 + 4], rvec_1
        RNO_FAULT
        RCHECK  "steps", word [r_count], 5
        RTRY    "MOV SS holds traps back"
        mov     word [r_count], 0
        mov     word [0x600 + 4], .step
        xor     ax, ax
        pushf
        pop     bx
        or      bx, 0x100
        push    bx
        popf
        mov     ss, ax
        nop
        and     bx, ~0x100
        push    bx
        popf
        mov     word [0x600 + 4], rvec_1
        RNO_FAULT
        RCHECK  "one fewer", word [r_count], 4
        RTRY    "ENTER, LEAVE"
        mov     bx, sp
        mov     bp, 0x1234
        enter   16, 2
        mov     cx, bx
        sub     cx, sp
        leave
        sub     bx, sp
        RNO_FAULT
        RCHECK  "frame", cx, 16 + 6
        RCHECK  "left", bx, 0
        RCHECK  "BP is back", bp, 0x1234
        RTRY    "PUSHA, POPA"
        mov     ax, 1
        mov     bx, 2
        mov     si, 3
        pusha
        xor     ax, ax
        xor     bx, bx
        xor     si, si
        popa
        mov     cx, ax
        RNO_FAULT
        RCHECK  "BX", bx, 2
        RCHECK  "SI", si, 3
        RCHECK  "AX", cx, 1
        RTRY    "BCD"
        mov     al, 0x79
        add     al, 0x35
        daa
        mov     bl, al
        setc    cl
        mov     ax, 0x0205
        aad
        mov     dl, al
        aam
        mov     dh, ah
        RNO_FAULT
        RCHECK  "DAA", bl, 0x14
        RCHECK  "DAA carry", cl, 1
        RCHECK  "AAD", dl, 25
        RCHECK  "AAM", dh, 2
        RTRY    "XLAT, LOOP, JCXZ"
        mov     bx, r_table
        mov     al, 3
        xlatb
        mov     dl, al
        mov     cx, 5
        xor     si, si
.loop:  inc     si
        loop    .loop
        jcxz    .zero
        xor     si, si
.zero:  RNO_FAULT
        RCHECK  "XLAT", dl, 13
        RCHECK  "LOOP", si, 5

        ; Back to protected mode.
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     dword S_CODE:back32

.sub:   mov     [ss:r_cs], cs
        retf
.step:  inc     word [cs:r_count]
        iret

        align   4
r_idtr: dw      34 * 4 - 1
        dd      0x600
r_vectors:
%assign i 0
%rep 34
        dw      rvec_ %+ i
%assign i i + 1
%endrep
r_table: db     10, 11, 12, 13
        align   4
r_tmp:  dd      0, 0
r_far:  dw      0, 0
r_name: dw      0
r_recover: dw   0
r_sp:   dw      0
r_vec:  dw      0
r_ip:   dw      0
r_cs:   dw      0
r_flags: dw     0
r_inflags: dw   0
r_count: dw     0
r_ok:   dw      0
r_n_bad: dw     0
r_lenient: dd   0
r_bad:  times 30 dd 0
real_end:

        section .text
        bits    32
real_image equ section..real.start
real_image_end equ real_image + (real_end - real_start)
        section .data
        GUEST_END
