; Protected mode, 32 bits: segments, gates, privilege levels, tasks, virtual-8086 mode, paging,
; debug registers, I/O permission.
%define GUEST_NAME "prot"
%include "guest.inc"

        section .text
        VERDICTS

; ---- tables ----

        section .data
        align   8
gdt:
        dq      0
S_CODE  equ     $ - gdt
        DESC    0, 0xfffff, 0x9a, 12
S_DATA  equ     $ - gdt
        DESC    0, 0xfffff, 0x92, 12
S_UCODE equ     ($ - gdt) | 3
        DESC    0, 0xfffff, 0xfa, 12
S_UDATA equ     ($ - gdt) | 3
        DESC    0, 0xfffff, 0xf2, 12
S_TSS   equ     $ - gdt
d_tss:  DESC    0, 0x2067, 0x89, 0      ; base is filled in
S_TSS2  equ     $ - gdt
d_tss2: DESC    0, 0x67, 0x89, 0
S_TSS16 equ     $ - gdt
d_tss16: DESC   0, 0x2b, 0x81, 0
S_LDT   equ     $ - gdt
d_ldt:  DESC    0, 0xff, 0x82, 0
S_NP    equ     $ - gdt
        DESC    0, 0xfffff, 0x12, 12
S_RO    equ     $ - gdt
        DESC    0, 0xfffff, 0x90, 12
S_XO    equ     $ - gdt
        DESC    0, 0xfffff, 0x98, 12
S_DOWN  equ     $ - gdt
        DESC    0, 0x1ffff, 0x96, 12    ; expand down: above 2000_0000h - 1
S_SMALL equ     $ - gdt
        DESC    0x200000, 0xfff, 0x92, 4
S_CONF  equ     $ - gdt
        DESC    0, 0xfffff, 0x9e, 12
S_CODE16 equ    $ - gdt
        DESC    0, 0xffff, 0x9a, 0      ; for code copied below 64 KiB
S_DATA16 equ    $ - gdt
        DESC    0, 0xffff, 0x92, 0
S_GATE  equ     $ - gdt
d_gate: dq      0
S_GATE0 equ     $ - gdt
d_gate0: dq     0                       ; DPL 0
S_TGATE equ     $ - gdt
d_tgate: dq     0
S_UNP   equ     $ - gdt
        DESC    0, 0xfffff, 0x72, 12
S_USMALL equ    ($ - gdt) | 3
        DESC    0x200000, 0xfff, 0xf2, 4
gdt_end:
gdtr:   dw      gdt_end - gdt - 1
        dd      gdt
idtr:   dw      0x7ff
        dd      idt
ldt:    dq      0
        DESC    0x300000, 0xffff, 0x92, 4
ivt_ptr: dw     0x3ff
        dd      0

        section .bss
        alignb  4096
page_dir:       resb 4096
page_tab:       resb 4096
pae_dir:        resb 4096
pae_tab:        resb 4096
pae_pdpt:       resb 32
                alignb 4096
idt:            resb 2048
tss:            resb 0x2100
tss2:           resb 128
tss16:          resb 64
stack0:         resb 8192
stack0_top:
stack1:         resb 4096               ; TSS.ESP0
stack1_top:
stack2:         resb 4096
stack2_top:
ustack:         resb 4096
ustack_top:
scratch:        resb 64
dlevel:         resd 1
n_db:           resd 1
db_ip:          resd 16
db_dr6:         resd 16

        section .text

; ---- exceptions ----

; Vectors with an error code: 8, 10-14, 17.
%assign i 0
%rep 32
vec_ %+ i:
%if i != 8 && i != 17 && (i < 10 || i > 14)
        push    dword 0
%endif
        push    dword i
        jmp     on_exception
%assign i i + 1
%endrep
vec_32: push    dword 0
        push    dword 32
        jmp     on_exception
vec_33: push    dword 0
        push    dword 33
        jmp     on_exception

on_exception:                           ; vector, error, eip, cs, eflags, [esp, ss, es, ds, fs, gs]
        push    eax
        mov     eax, ss
        mov     [ss:in_ss], eax
        mov     eax, cs
        mov     [ss:in_cs], eax
        mov     ax, S_DATA
        mov     ds, ax
        mov     es, ax
        pushf
        pop     dword [in_flags]
        lea     eax, [esp + 4]
        mov     [in_sp], eax
        mov     eax, [esp + 4]
        mov     [got_vec], eax
        mov     eax, [esp + 8]
        mov     [got_err], eax
        mov     eax, [esp + 12]
        mov     [got_ip], eax
        mov     eax, [esp + 16]
        mov     [got_cs], eax
        mov     eax, [esp + 20]
        mov     [got_flags], eax
        mov     eax, [esp + 24]
        mov     [got_sp], eax
        mov     eax, [esp + 28]
        mov     [got_ss], eax
        mov     ax, S_DATA
        mov     ss, ax
        mov     esp, [recover_sp]
        push    dword 2
        popf
        mov     eax, [recover_ip]
        mov     dword [recover_ip], lost
        jmp     eax

; ---- helpers ----

; set_base descriptor, address
%macro SET_BASE 2
        mov     eax, %2
        mov     [%1 + 2], ax
        shr     eax, 16
        mov     [%1 + 4], al
        mov     [%1 + 7], ah
%endmacro
; gate at, access, selector, offset, parameters
%macro SET_GATE 5
        mov     eax, %4
        mov     [%1], ax
        mov     word [%1 + 2], %3
        mov     byte [%1 + 4], %5
        mov     byte [%1 + 5], %2
        shr     eax, 16
        mov     [%1 + 6], ax
%endmacro

; To privilege 3 at the label given, on ustack.
%macro TO_USER 1
        push    dword S_UDATA
        push    dword ustack_top
        push    dword 2
        push    dword S_UCODE
        push    dword %1
        mov     ax, S_UDATA
        mov     ds, ax
        mov     es, ax
        iret
%endmacro

; Something that happens in user mode: TRY, then USER, code (at privilege 3), FAULTS.
%macro USER 0
        TO_USER %%user
%%user:
%endmacro

entry:
        cli
        cld
        CLEAR_BSS
        mov     esp, stack0_top
        lgdt    [gdtr]
        jmp     S_CODE:.flat
.flat:  mov     ax, S_DATA
        mov     ds, ax
        mov     es, ax
        mov     fs, ax
        mov     gs, ax
        mov     ss, ax
        mov     al, 0xff                ; no interrupts from the PICs
        out     0x21, al
        out     0xa1, al
        DETECT_LENIENT
        call    fill_idt
        lidt    [idtr]
        SET_BASE d_tss, tss
        SET_BASE d_tss2, tss2
        SET_BASE d_tss16, tss16
        SET_BASE d_ldt, ldt
        mov     dword [tss + 4], stack1_top
        mov     dword [tss + 8], S_DATA
        mov     word [tss + 102], 0x68
        mov     byte [tss + 0x2067], 0xff
        mov     ax, S_TSS
        ltr     ax
        call    test_segments
        call    test_descriptors
        call    test_gates
        call    test_user
        call    test_call_gates
        call    test_tasks
        call    test_vm86
        call    test_io
        call    test_paging
        call    test_pae
        call    test_debug
        jmp     finish

fill_idt:
        mov     edi, idt
        mov     ecx, 34
        mov     ebx, .table
.next:  mov     eax, [ebx]
        mov     [edi], ax
        mov     word [edi + 2], S_CODE
        mov     word [edi + 4], 0x8e00
        shr     eax, 16
        mov     [edi + 6], ax
        add     edi, 8
        add     ebx, 4
        loop    .next
        mov     byte [idt + 3 * 8 + 5], 0xee    ; INT3, INTO, 33 from user mode
        mov     byte [idt + 4 * 8 + 5], 0xee
        mov     byte [idt + 33 * 8 + 5], 0xee
        ret
        section .data
        align   4
.table:
%assign i 0
%rep 34
        dd      vec_ %+ i
%assign i i + 1
%endrep
        section .text

; ---- segments ----

test_segments:
        TRY     "load: beyond the table"
        mov     ax, 0x1000
        mov     es, ax
        FAULTS  13, 0x1000
        TRY     "load: not present"
        mov     ax, S_NP
        mov     es, ax
        FAULTS  11, S_NP
        TRY     "load: system descriptor"
        mov     ax, S_TSS
        mov     es, ax
        FAULTS  13, S_TSS
        TRY     "load: execute-only"
        mov     ax, S_XO
        mov     es, ax
        FAULTS  13, S_XO
        TRY     "load SS: null"
        xor     eax, eax
        mov     ss, ax
        FAULTS  13, 0
        TRY     "load SS: read-only"
        mov     ax, S_RO
        mov     ss, ax
        FAULTS  13, S_RO
        TRY     "load SS: RPL"
        mov     ax, S_DATA | 1
        mov     ss, ax
        FAULTS  13, S_DATA
        TRY     "load SS: not present"
        mov     ax, S_NP
        mov     ss, ax
        FAULTS  12, S_NP
        TRY     "load: LDT missing"
        xor     eax, eax
        lldt    ax
        mov     ax, 0xc
        mov     es, ax
        FAULTS  13, 0xc
        TRY     "load: LDT"
        mov     ax, S_LDT
        lldt    ax
        mov     ax, 0xc
        mov     es, ax
        mov     dword [es:8], 0x12345678
        NO_FAULT
        CHECK   "LDT base", dword [0x300008], 0x12345678
        CHECK   "accessed bit", byte [ldt + 8 + 5], 0x93
        TRY     "MOV CS"
        mov     ax, S_CODE
        db      0x8e, 0xc8
        FAULTS  6, 0
        TRY     "jump: data"
        jmp     S_DATA:0
        FAULTS  13, S_DATA
        TRY     "jump: null"
        jmp     0:0
        FAULTS  13, 0
        TRY     "jump: user code from kernel"
        jmp     (S_UCODE & ~3):0
        FAULTS  13, S_UCODE & ~3
        TRY     "jump: conforming"
        jmp     S_CONF:.conf
.conf:  jmp     S_CODE:.conf_back
.conf_back:
        NO_FAULT
        STRICT
        TRY     "write read-only"
        mov     ax, S_RO
        mov     es, ax
        mov     [es:scratch], eax
        FAULTS  13, 0
        TRY     "write code"
        mov     [cs:scratch], eax
        FAULTS  13, 0
        TRY     "null segment"
        xor     eax, eax
        mov     es, ax
        mov     eax, [es:scratch]
        FAULTS  13, 0
        TRY     "limit: last byte"
        mov     ax, S_SMALL
        mov     es, ax
        mov     eax, [es:0xffc]
        mov     ax, [es:0xffe]
        NO_FAULT
        TRY     "limit: one beyond"
        mov     eax, [es:0xffd]
        FAULTS  13, 0
        TRY     "limit: stack"
        USER
        mov     ax, S_USMALL
        mov     ss, ax
        mov     esp, 0x1002
        push    eax
        FAULTS  12, 0
        TRY     "expand down: at the limit"
        mov     ax, S_DOWN
        mov     es, ax
        mov     eax, [es:0x1fffffff]
        FAULTS  13, 0
        END_STRICT
        TRY     "stack wraps within 64 KiB"
        mov     ax, S_DATA16
        mov     ss, ax
        mov     esp, 0x7ffe0004
        push    eax
        push    eax
        mov     ebx, esp
        mov     ax, S_DATA
        mov     ss, ax
        mov     esp, [recover_sp]
        NO_FAULT
        CHECK   "16-bit stack keeps upper ESP", ebx, 0x7ffefffc
        TRY     "LES"
        mov     word [scratch + 4], S_NP
        les     ecx, [scratch]
        FAULTS  11, S_NP
        TRY     "16-bit code"
        mov     esi, .code16
        mov     edi, 0x5000
        mov     ecx, .code16_end - .code16
        rep movsb
        jmp     S_CODE16:0x5000
.code16:
        bits    16
        mov     eax, 0x11223344
        push    ax
        pop     bx
        jmp     dword S_CODE:.from16
        bits    32
.code16_end:
.from16:
        NO_FAULT
        CHECK   "16-bit operands", bx, 0x3344
        ret

; ---- LAR and the like ----

test_descriptors:
        mov     ecx, S_UDATA
        lar     eax, ecx
        CHECKC  "LAR", al, e, al
        mov     ecx, S_UDATA
        lar     eax, ecx
        and     eax, 0xf0fe00
        CHECK   "LAR value", eax, 0xc0f200
        mov     ecx, S_SMALL
        lsl     eax, ecx
        CHECK   "LSL", eax, 0xfff
        mov     ecx, S_DATA
        lsl     eax, ecx
        CHECK   "LSL with G", eax, 0xffffffff
        mov     ecx, S_GATE
        lsl     eax, ecx
        setz    bl
        CHECK   "LSL of nothing", bl, 0
        mov     ecx, 0x1000
        lar     eax, ecx
        setz    bl
        CHECK   "LAR beyond", bl, 0
        mov     ax, S_XO
        verr    ax
        setz    bl
        CHECK   "VERR execute-only", bl, 0
        mov     ax, S_RO
        verr    ax
        setz    bl
        CHECK   "VERR", bl, 1
        verw    ax
        setz    bl
        CHECK   "VERW read-only", bl, 0
        mov     ax, S_DATA
        verw    ax
        setz    bl
        CHECK   "VERW", bl, 1
        mov     ax, 0x10
        mov     cx, 3
        arpl    ax, cx
        setz    bl
        CHECK   "ARPL", ax, 0x13
        CHECK   "ARPL ZF", bl, 1
        str     eax
        CHECK   "STR", eax, S_TSS
        CHECK   "TSS is busy", byte [d_tss + 5], 0x8b
        TRY     "LTR of a busy one"
        mov     ax, S_TSS
        ltr     ax
        FAULTS  13, S_TSS
        TRY     "LLDT of a TSS"
        mov     ax, S_TSS
        lldt    ax
        FAULTS  13, S_TSS
        sgdt    [scratch]
        CHECK   "SGDT", dword [scratch + 2], gdt
        mov     dword [scratch + 2], 0xff123456
        ret

; ---- gates and exceptions ----

test_gates:
        TRY     "UD2"
        ud2
        FAULTS  6, 0
        STRICT
        mov     eax, [got_flags]
        and     eax, 0x10000
        CHECK   "fault: RF in the image", eax, 0x10000
        END_STRICT
        TRY     "divide"
        xor     edx, edx
        xor     ecx, ecx
        mov     eax, 1
        div     ecx
        FAULTS  0, 0
        TRY     "INT 32"
        stc
.int32: int     32
        FAULTS  32, 0
        CHECK   "INT: next address", dword [got_ip], .int32 + 2
        mov     eax, [got_flags]
        and     eax, 0x10001
        CHECK   "INT: flags", eax, 1
        TRY     "INT3"
.int3:  int3
        FAULTS  3, 0
        CHECK   "INT3: next address", dword [got_ip], .int3 + 1
        TRY     "INTO"
        mov     al, 0x7f
        add     al, 1
        into
        FAULTS  4, 0
        TRY     "BOUND"
        mov     dword [scratch], 5
        mov     dword [scratch + 4], 9
        mov     eax, 9
        bound   eax, [scratch]
        mov     eax, 10
        bound   eax, [scratch]
        FAULTS  5, 0
        TRY     "no gate"
        int     0x50
        FAULTS  13, 0x50 * 8 + 2
        mov     byte [idt + 32 * 8 + 5], 0x0e
        TRY     "gate not present"
        int     32
        FAULTS  11, 32 * 8 + 2
        mov     byte [idt + 32 * 8 + 5], 0x8e
        mov     word [idt + 32 * 8 + 2], S_DATA
        TRY     "gate to data"
        int     32
        FAULTS  13, S_DATA
        mov     word [idt + 32 * 8 + 2], S_CODE
        mov     word [idtr], 32 * 8 + 6
        lidt    [idtr]
        TRY     "beyond the table"
        int     32
        FAULTS  13, 32 * 8 + 2
        mov     word [idtr], 0x7ff
        lidt    [idtr]
        mov     word [idt + 6 * 8 + 2], S_NP    ; the fault's own handler is bad: #GP, serially
        STRICT
        TRY     "bad handler of #UD"
        ud2
        FAULTS  13, S_NP + 1
        END_STRICT
        mov     word [idt + 6 * 8 + 2], S_CODE
        mov     word [idt + 13 * 8 + 2], S_NP   ; #GP within #GP: double fault
        TRY     "double fault"
        int     0x50
        FAULTS  8, 0
        mov     word [idt + 13 * 8 + 2], S_CODE
        mov     byte [idt + 32 * 8 + 5], 0x8f   ; trap gate: IF stays
        TRY     "trap gate"
        sti
        int     32
        FAULTS  32, 0
        cli
        mov     eax, [in_flags]
        and     eax, 0x200
        CHECK   "trap gate keeps IF", eax, 0x200
        mov     byte [idt + 32 * 8 + 5], 0x8e
        TRY     "interrupt gate"
        sti
        int     32
        FAULTS  32, 0
        cli
        mov     eax, [in_flags]
        and     eax, 0x200
        CHECK   "interrupt gate clears IF", eax, 0
        STRICT
        TRY     "MOV CR0 reserved combination"
        mov     eax, cr0
        or      eax, 0x80000000
        and     eax, 0xfffffffe
        mov     cr0, eax
        FAULTS  13, 0
        TRY     "MOV CR4 reserved bit"
        mov     eax, 0x80000000
        mov     cr4, eax
        FAULTS  13, 0
        TRY     "RDMSR of nothing"
        mov     ecx, 0x12345678
        rdmsr
        FAULTS  13, 0
        END_STRICT
        ret

; ---- privilege 3 ----

test_user:
        TRY     "HLT at level 3"
        USER
        hlt
        FAULTS  13, 0
        CHECK   "from user code", dword [got_cs], S_UCODE
        CHECK   "from user stack", dword [got_ss], S_UDATA
        CHECK   "user ESP", dword [got_sp], ustack_top
        mov     eax, [in_ss]
        and     eax, 0xffff
        CHECK   "on the TSS's SS", eax, S_DATA
        CHECK   "on the TSS's ESP", dword [in_sp], stack1_top - 28
        TRY     "INT 32 at level 3"
        USER
        int     32
        FAULTS  13, 32 * 8 + 2
        TRY     "INT 33 at level 3"
        USER
        int     33
        FAULTS  33, 0
        TRY     "CLI at level 3"
        USER
        cli
        FAULTS  13, 0
        TRY     "kernel data at level 3"
        USER
        mov     ax, S_DATA
        mov     es, ax
        FAULTS  13, S_DATA
        TRY     "not present at level 3"
        USER
        mov     ax, S_UNP
        mov     es, ax
        FAULTS  11, S_UNP
        TRY     "kernel code at level 3"
        USER
        jmp     S_CODE:0
        FAULTS  13, S_CODE
        TRY     "conforming code at level 3"
        USER
        jmp     S_CONF:.conf
.conf:  mov     eax, cs
        mov     ebx, eax
        int     33
        FAULTS  33, 0
        CHECK   "conforming code keeps CPL", ebx, S_CONF | 3
        TRY     "POPF at level 3"
        USER
        push    dword 0x3202
        popf
        pushf
        pop     ebx
        int     33
        FAULTS  33, 0
        CHECK   "POPF: neither IF nor IOPL", ebx, 2
        TRY     "IRET to inner level"
        USER
        push    dword 2
        push    dword S_CODE
        push    dword 0
        iret
        FAULTS  13, S_CODE
        TRY     "MOV CR at level 3"
        USER
        mov     eax, cr0
        FAULTS  13, 0
        TRY     "IRET drops kernel data segments"
        mov     ax, S_DATA
        mov     fs, ax
        USER
        mov     ebx, fs
        int     33
        FAULTS  33, 0
        CHECK   "FS is null", ebx, 0
        ret

; ---- call gates ----

        section .bss
cg_esp: resd 1
cg_frame: resd 6
        section .text
; What the gate leads to: notes its stack and returns over two parameters.
gate_target:
        mov     [ss:cg_esp], esp
%assign i 0
%rep 6
        mov     eax, [esp + i * 4]
        mov     [ss:cg_frame + i * 4], eax
%assign i i + 1
%endrep
        mov     ax, S_DATA
        mov     es, ax
        retf    8

test_call_gates:
        SET_GATE d_gate, 0xec, S_CODE, gate_target, 2
        SET_GATE d_gate0, 0x8c, S_CODE, gate_target, 2
        TRY     "call gate"
        USER
        push    dword 0x22222222
        push    dword 0x11111111
        call    S_GATE:0
.back:  mov     ebx, esp
        mov     ecx, es
        int     33
        FAULTS  33, 0
        CHECK   "gate: ESP", dword [cg_esp], stack1_top - 24
        CHECK   "gate: return address", dword [cg_frame], .back
        CHECK   "gate: return CS", dword [cg_frame + 4], S_UCODE
        CHECK   "gate: first parameter", dword [cg_frame + 8], 0x11111111
        CHECK   "gate: second parameter", dword [cg_frame + 12], 0x22222222
        CHECK   "gate: old ESP", dword [cg_frame + 16], ustack_top - 8
        CHECK   "gate: old SS", dword [cg_frame + 20], S_UDATA
        CHECK   "gate: both stacks are cleaned", ebx, ustack_top
        CHECK   "gate: ES of level 0 is nulled", ecx, 0
        TRY     "gate of DPL 0 from level 3"
        USER
        call    S_GATE0:0
        FAULTS  13, S_GATE0
        TRY     "jump through a gate to level 0"
        USER
        jmp     S_GATE:0
        FAULTS  13, S_CODE
        mov     byte [d_gate + 5], 0x6c
        TRY     "gate not present"
        USER
        call    S_GATE:0
        FAULTS  11, S_GATE
        mov     byte [d_gate + 5], 0xec
        mov     word [d_gate + 2], S_UDATA
        TRY     "gate to data"
        USER
        call    S_GATE:0
        FAULTS  13, S_UDATA & ~3
        mov     word [d_gate + 2], 0
        TRY     "gate to null"
        USER
        call    S_GATE:0
        FAULTS  13, 0
        SET_GATE d_gate, 0xec, S_CODE, .same, 0
        TRY     "gate without change of level"
        mov     ebx, esp
        call    S_GATE:0x1234
        jmp     .same_back
.same:  retf
.same_back:
        sub     ebx, esp
        NO_FAULT
        CHECK   "balanced", ebx, 0
        SET_GATE d_gate, 0xe4, S_CODE, .narrow, 0       ; 16-bit gate, target below 64 KiB
        TRY     "16-bit gate"
        mov     esi, .narrow_code
        mov     edi, 0x5100
        mov     ecx, .narrow_end - .narrow_code
        rep movsb
        mov     word [d_gate], 0x5100
        mov     word [d_gate + 6], 0
        mov     ebx, esp
        call    S_GATE:0
.narrow:
        mov     esp, ebx
        NO_FAULT
        sub     ebx, edx
        CHECK   "16-bit gate pushes words", ebx, 4
        ret
.narrow_code:
        mov     edx, esp
        mov     eax, .narrow
        jmp     eax
.narrow_end:

; ---- tasks ----

        section .bss
t_esp:  resd 1
t_flags: resd 1
t_count: resd 1
t_top:  resd 1
        section .text

; task TSS, entry
%macro SET_TASK 2
        mov     dword [%1 + 32], %2
        mov     dword [%1 + 36], 2
        mov     dword [%1 + 40 + 4 * 4], stack2_top
        mov     dword [%1 + 72], S_DATA
        mov     dword [%1 + 76], S_CODE
        mov     dword [%1 + 80], S_DATA
        mov     dword [%1 + 84], S_DATA
        mov     dword [%1 + 88], 0
        mov     dword [%1 + 92], 0
        mov     dword [%1 + 96], 0
%endmacro

task2_jump:
        mov     [t_esp], esp
        pushf
        pop     dword [t_flags]
        inc     dword [t_count]
        jmp     S_TSS:0
task2_call:
        pushf
        pop     dword [t_flags]
        inc     dword [t_count]
        iret
        jmp     task2_call      ; the next call goes on here
task2_fault:
        pop     dword [t_top]
        mov     [t_esp], esp
        inc     dword [t_count]
        pushf                   ; leave without IRET: by hand, through a jump
        and     dword [esp], ~0x4000
        popf
        mov     byte [d_tss + 5], 0x89
        mov     eax, [recover_ip]
        mov     [tss + 32], eax
        mov     eax, [recover_sp]
        mov     [tss + 40 + 4 * 4], eax
        jmp     S_TSS:0

test_tasks:
        SET_TASK tss2, task2_jump
        mov     dword [got_err], 0
        TRY     "task: jump"
        mov     ebx, 0x12345678
        jmp     S_TSS2:0
        NO_FAULT
        CHECK   "task ran", dword [t_count], 1
        CHECK   "task's ESP", dword [t_esp], stack2_top
        CHECK   "registers come back", ebx, 0x12345678
        mov     eax, [t_flags]
        and     eax, 0x4000
        CHECK   "no NT after a jump", eax, 0
        mov     eax, cr0
        and     eax, 8
        CHECK   "CR0.TS", eax, 8
        clts
        CHECK   "not busy any more", byte [d_tss2 + 5], 0x89
        str     eax
        CHECK   "TR is back", eax, S_TSS
        SET_TASK tss2, task2_call
        TRY     "task: call"
        call    S_TSS2:0
        call    S_TSS2:0
        NO_FAULT
        CHECK   "task ran twice", dword [t_count], 3
        mov     eax, [t_flags]
        and     eax, 0x4000
        CHECK   "NT after a call", eax, 0x4000
        CHECK   "link", word [tss2], S_TSS
        CHECK   "free again", byte [d_tss2 + 5], 0x89
        pushf
        pop     eax
        and     eax, 0x4000
        CHECK   "no NT here", eax, 0
        SET_GATE d_tgate, 0xe5, S_TSS2, 0, 0
        TRY     "task gate"
        call    S_TGATE:0
        NO_FAULT
        CHECK   "through the gate", dword [t_count], 4
        mov     dword [idt + 32 * 8], S_TSS2 << 16
        mov     dword [idt + 32 * 8 + 4], 0x8500
        TRY     "interrupt through a task gate"
        int     32
        NO_FAULT
        CHECK   "interrupt task", dword [t_count], 5
        SET_TASK tss2, task2_fault
        mov     dword [idt + 8 * 8], S_TSS2 << 16
        mov     dword [idt + 8 * 8 + 4], 0x8500
        mov     word [idt + 13 * 8 + 2], S_NP
        TRY     "double fault through a task gate"
        mov     esp, 0x10
.df:    int     0x50
        NO_FAULT
        mov     word [idt + 13 * 8 + 2], S_CODE
        CHECK   "double fault task", dword [t_count], 6
        CHECK   "error code on its stack", dword [t_top], 0
        CHECK   "only that", dword [t_esp], stack2_top
        SET_TASK tss2, task2_jump
        mov     dword [tss2 + 84], S_XO
        TRY     "task with bad DS"
        jmp     S_TSS2:0
        FAULTS  10, S_XO
        str     eax
        CHECK   "the new task faults", eax, S_TSS2
        mov     byte [d_tss + 5], 0x89
        mov     ax, S_TSS
        ltr     ax
        mov     byte [d_tss2 + 5], 0x89
        mov     word [d_tss2], 0x66
        TRY     "TSS too small"
        jmp     S_TSS2:0
        FAULTS  10, S_TSS2
        mov     word [d_tss2], 0x67
        TRY     "jump to the busy one"
        jmp     S_TSS:0
        FAULTS  13, S_TSS
        mov     byte [d_tss2 + 5], 0x09
        TRY     "TSS not present"
        jmp     S_TSS2:0
        FAULTS  11, S_TSS2
        mov     byte [d_tss2 + 5], 0x89
        SET_TASK tss2, task2_jump
        mov     word [tss16 + 14], 0x5200       ; a 16-bit task, its code below 64 KiB
        mov     word [tss16 + 16], 2
        mov     word [tss16 + 18 + 4 * 2], 0x5800
        mov     word [tss16 + 34], S_DATA
        mov     word [tss16 + 36], S_CODE
        mov     word [tss16 + 38], S_DATA
        mov     word [tss16 + 40], S_DATA
        mov     word [tss16 + 42], 0
        mov     esi, .task16
        mov     edi, 0x5200
        mov     ecx, .task16_end - .task16
        rep movsb
        TRY     "16-bit task"
        jmp     S_TSS16:0
        NO_FAULT
        CHECK   "16-bit task ran", dword [t_count], 7
        clts
        ret
.task16:
        inc     dword [t_count]
        jmp     S_TSS:0
.task16_end:

; ---- virtual-8086 mode ----

; vm86 code runs at 600h:0; flags given. Ends by an exception.
%macro TO_VM86 1
        push    dword 0x640     ; gs
        push    dword 0x630
        push    dword 0x620     ; ds
        push    dword 0x610     ; es
        push    dword 0x700     ; ss
        push    dword 0x0ffe
        push    dword %1
        push    dword 0x600
        push    dword 0
        iret
%endmacro
%macro VM86_CODE 1
        mov     esi, %1
        mov     edi, 0x6000
        mov     ecx, 64
        rep movsb
%endmacro

test_vm86:
        VM86_CODE .int33
        TRY     "vm86: INT 33 with IOPL 3"
        TO_VM86 0x23002
        FAULTS  33, 0
        mov     ebx, [got_flags]
        and     ebx, 0x23000
        CHECK   "vm86: VM in the image", ebx, 0x23000
        CHECK   "vm86: CS", dword [got_cs], 0x600
        CHECK   "vm86: IP", dword [got_ip], 5
        CHECK   "vm86: SS", dword [got_ss], 0x700
        CHECK   "vm86: SP", dword [got_sp], 0xffc
        CHECK   "vm86: frame", dword [in_sp], stack1_top - 44
        CHECK   "vm86: ES pushed", dword [stack1_top - 16], 0x610
        CHECK   "vm86: DS pushed", dword [stack1_top - 12], 0x620
        CHECK   "vm86: FS pushed", dword [stack1_top - 8], 0x630
        CHECK   "vm86: GS pushed", dword [stack1_top - 4], 0x640
        mov     eax, fs
        CHECK   "vm86: FS is null now", eax, 0
        CHECK   "vm86: pushed at SS:SP", word [0x7ffc], 0x1234
        TRY     "vm86: INT 33 with IOPL 0"
        TO_VM86 0x20002
        FAULTS  13, 0
        VM86_CODE .cli
        TRY     "vm86: CLI with IOPL 0"
        TO_VM86 0x20002
        FAULTS  13, 0
        VM86_CODE .port
        TRY     "vm86: a port of the map"
        mov     dword [tss + 0x68 + 0x80 / 8], 0
        TO_VM86 0x23002
        FAULTS  33, 0
        TRY     "vm86: a port that is refused"
        mov     dword [tss + 0x68 + 0x80 / 8], -1
        TO_VM86 0x23002
        FAULTS  13, 0
        VM86_CODE .arpl
        TRY     "vm86: ARPL"
        TO_VM86 0x23002
        FAULTS  6, 0
        VM86_CODE .hlt
        TRY     "vm86: HLT"
        TO_VM86 0x23002
        FAULTS  13, 0
        STRICT
        VM86_CODE .limit
        TRY     "vm86: limit"
        TO_VM86 0x23002
        FAULTS  13, 0
        END_STRICT
        mov     eax, 1
        cpuid
        test    edx, 2
        jz      .no_vme
        mov     eax, cr4
        or      eax, 1
        mov     cr4, eax
        mov     dword [tss + 0x68 - 32 + 4], -1 ; INT 20h to 3Fh: not redirected
        VM86_CODE .clivme
        TRY     "VME: CLI"
        TO_VM86 0x20202 | 0x80000
        FAULTS  6, 0
        mov     eax, [got_flags]
        and     eax, 0x80200
        CHECK   "VME: CLI clears VIF only", eax, 0x200
        VM86_CODE .pushf
        TRY     "VME: PUSHF"
        TO_VM86 0x20202
        FAULTS  13, 0                   ; IOPL 0 and INT not redirected
        CHECK   "VME: image without VIF", word [0x7ffc], 0x3002
        mov     dword [0x22 * 4], 0x06000020    ; 600h:20h
        VM86_CODE .int22
        mov     dword [tss + 0x68 - 32 + 4], 0  ; redirected
        mov     word [tss + 102], 0x68
        TRY     "VME: INT 22 redirected"
        TO_VM86 0x20202 | 0x80000
        FAULTS  6, 0
        CHECK   "VME: handler in vm86", dword [got_ip], 0x20
        CHECK   "VME: pushed flags", word [0x7ffc], 0x3202
        mov     eax, [got_flags]
        and     eax, 0x80200
        CHECK   "VME: VIF cleared", eax, 0x200
        mov     dword [tss + 0x68 - 32 + 4], -1
        mov     eax, cr4
        and     eax, ~1
        mov     cr4, eax
.no_vme:
        ret
        align   64
.int33: db      0x68, 0x34, 0x12        ; push 1234h
        db      0xcd, 33
        align   64
.cli:   db      0xfa, 0xcd, 33
        align   64
.clivme: db     0xfa, 0x0f, 0x0b
        align   64
.port:  db      0xe4, 0x80, 0xcd, 33
        align   64
.arpl:  db      0x63, 0xc0
        align   64
.hlt:   db      0xf4
        align   64
.limit: db      0xa1, 0xff, 0xff        ; mov ax, [ffffh]
        align   64
.pushf: db      0x9c, 0xcd, 0x23
        align   64
.int22: db      0xcd, 0x22
        times   0x20 - 2 db 0x90
        db      0x0f, 0x0b
        align   64

; ---- ports ----

test_io:
        mov     dword [tss + 0x68 + 0x80 / 8], 0xfffffffe       ; only 80h
        TRY     "port of the map"
        USER
        in      al, 0x80
        int     33
        FAULTS  33, 0
        TRY     "port refused"
        USER
        in      al, 0x81
        FAULTS  13, 0
        TRY     "word over a refused one"
        USER
        in      ax, 0x80
        FAULTS  13, 0
        TRY     "port beyond the map"
        USER
        mov     dx, 0xffff
        in      ax, dx
        FAULTS  13, 0
        TRY     "IOPL 3"
        push    dword S_UDATA
        push    dword ustack_top
        push    dword 0x3002
        push    dword S_UCODE
        push    dword .iopl3
        iret
.iopl3: in      al, 0x81
        cli
        sti
        cli
        int     33
        FAULTS  33, 0
        TRY     "REP INSB, REP OUTSB"
        mov     dx, 0x80
        mov     edi, scratch
        mov     ecx, 16
        rep insb
        mov     esi, scratch
        mov     ecx, 16
        rep outsb
        NO_FAULT
        lea     eax, [scratch + 16]
        CHECK   "INSB moves EDI", edi, eax
        CHECK   "OUTSB moves ESI", esi, eax
        ret

; ---- paging ----

%define AREA 0x400000
; pte index, flags
%macro PTE 2
        mov     dword [page_tab + (%1) * 4], (0x900000 + (%1) * 4096) | (%2)
        invlpg  [AREA + (%1) * 4096]
%endmacro

test_paging:
        mov     edi, page_dir           ; 4 MiB pages for the first 64 MiB, for users too
        mov     eax, 0x87
        mov     ecx, 16
.fill:  stosd
        add     eax, 0x400000
        loop    .fill
        mov     eax, page_tab
        or      eax, 7
        mov     [page_dir + 4], eax
        mov     eax, cr4
        or      eax, 0x10
        mov     cr4, eax
        mov     eax, page_dir
        mov     cr3, eax
        PTE     0, 0
        PTE     1, 3
        PTE     2, 1
        PTE     3, 5
        PTE     4, 7
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
        jmp     .on
.on:
        TRY     "read of an absent page"
        mov     eax, [AREA + 0x123]
        FAULTS  14, 0
        mov     eax, cr2
        CHECK   "CR2", eax, AREA + 0x123
        TRY     "write of an absent page"
        mov     [AREA + 0x123], eax
        FAULTS  14, 2
        TRY     "access across into an absent page"
        PTE     5, 3
        PTE     6, 0
        mov     eax, [AREA + 0x6000 - 2]
        FAULTS  14, 0
        mov     eax, cr2
        CHECK   "CR2 is in the second page", eax, AREA + 0x6000
        TRY     "accessed and dirty"
        mov     eax, [AREA + 0x1000]
        mov     ebx, [page_tab + 4]
        mov     [AREA + 0x1000], eax
        mov     ecx, [page_tab + 4]
        NO_FAULT
        and     ebx, 0xfff
        and     ecx, 0xfff
        CHECK   "A after a read", ebx, 0x23
        CHECK   "A and D after a write", ecx, 0x63
        TRY     "kernel writes read-only, WP off"
        mov     [AREA + 0x2000], eax
        NO_FAULT
        mov     eax, cr0
        or      eax, 0x10000
        mov     cr0, eax
        TRY     "kernel writes read-only, WP on"
        mov     [AREA + 0x2000], eax
        FAULTS  14, 3
        TRY     "user reads kernel page"
        USER
        mov     eax, [AREA + 0x1000]
        FAULTS  14, 5
        TRY     "user writes read-only page"
        USER
        mov     eax, [AREA + 0x3000]
        mov     [AREA + 0x3000], eax
        FAULTS  14, 7
        TRY     "user writes user page"
        USER
        mov     [AREA + 0x4000], eax
        int     33
        FAULTS  33, 0
        TRY     "fetch from an absent page"
        mov     eax, AREA
        jmp     eax
        FAULTS  14, 0
        CHECK   "fault at the target", dword [got_ip], AREA
        TRY     "INVLPG makes a change seen"
        PTE     7, 3
        mov     dword [0x907000], 0x11111111
        mov     dword [0x908000], 0x22222222
        mov     ebx, [AREA + 0x7000]
        mov     dword [page_tab + 7 * 4], 0x908003
        invlpg  [AREA + 0x7000]
        mov     ecx, [AREA + 0x7000]
        NO_FAULT
        CHECK   "first mapping", ebx, 0x11111111
        CHECK   "second mapping", ecx, 0x22222222
        STRICT
        TRY     "read-modify-write of an absent page"
        mov     ebx, 0x55
        xadd    [AREA + 0x10], ebx
        FAULTS  14, 2
        CHECK   "register unchanged", ebx, 0x55
        END_STRICT
        TRY     "page fault on the user stack"
        USER
        mov     esp, AREA + 4
        push    eax
        push    eax
        FAULTS  14, 6
        CHECK   "ESP unchanged", dword [got_sp], AREA + 4
        mov     eax, cr0
        and     eax, 0x7ffeffff
        mov     cr0, eax
        jmp     .off
.off:   ret

; ---- PAE paging ----

; 2 MiB pages for the first GiB, AREA (4-6 MiB) by pae_tab.
test_pae:
        mov     eax, 1
        cpuid
        test    edx, 0x40
        jz      .none
        mov     edi, pae_dir
        mov     eax, 0x87
        mov     ecx, 512
.fill:  mov     [edi], eax
        mov     dword [edi + 4], 0
        add     eax, 0x200000
        add     edi, 8
        loop    .fill
        mov     eax, pae_tab
        or      eax, 7
        mov     [pae_dir + 16], eax
        mov     dword [pae_pdpt], pae_dir + 1
        mov     dword [pae_tab], 0x900003
        mov     dword [pae_tab + 8], 0x901003
        mov     dword [pae_tab + 12], 0x80000000        ; no execute
        mov     dword [pae_tab + 16], 0x902005
        mov     eax, cr4
        or      eax, 0x20
        mov     cr4, eax
        mov     eax, pae_pdpt
        mov     cr3, eax
        mov     ecx, 0xc0000080
        rdmsr
        or      eax, 0x800
        wrmsr
        mov     eax, cr0
        or      eax, 0x80010000
        mov     cr0, eax
        jmp     .on
.on:    mov     byte [AREA], 0xc3
        mov     byte [AREA + 0x1000], 0xc3
        TRY     "PAE: call"
        mov     eax, AREA
        call    eax
        NO_FAULT
        TRY     "PAE: no execute"
        mov     eax, AREA + 0x1000
        call    eax
        FAULTS  14, 0x11
        TRY     "PAE: user writes read-only"
        USER
        mov     [AREA + 0x2000], eax
        FAULTS  14, 7
        TRY     "PAE: beyond the directories"
        mov     eax, [0x40000000]
        FAULTS  14, 0
        mov     eax, cr2
        CHECK   "PAE: CR2", eax, 0x40000000
        STRICT
        TRY     "PAE: reserved bit of a directory pointer"
        or      dword [pae_pdpt + 8], 0x1e7
        mov     eax, cr3
        mov     cr3, eax
        FAULTS  13, 0
        mov     dword [pae_pdpt + 8], 0
        TRY     "PAE: pointers are loaded with CR3"
        mov     dword [pae_pdpt + 8], pae_dir + 1
        mov     eax, [0x40000000 + pae_dir]
        FAULTS  14, 0
        mov     eax, cr3
        mov     cr3, eax
        TRY     "PAE: now it is there"
        mov     eax, [0x40000000 + pae_dir]
        NO_FAULT
        END_STRICT
        mov     eax, cr0
        and     eax, 0x7ffeffff
        mov     cr0, eax
        jmp     .off
.off:   mov     eax, cr4
        and     eax, ~0x20
        mov     cr4, eax
        mov     ecx, 0xc0000080
        rdmsr
        and     eax, ~0x800
        wrmsr
.none:  ret

; ---- debug registers ----

; Logs and goes on; sets RF, so that instruction breakpoints do not hit twice.
db_handler:
        push    eax
        push    ebx
        mov     ebx, [n_db]
        and     ebx, 15
        mov     eax, [esp + 8]
        mov     [db_ip + ebx * 4], eax
        mov     eax, dr6
        mov     [db_dr6 + ebx * 4], eax
        mov     eax, 0xffff0ff0
        mov     dr6, eax
        inc     dword [n_db]
        or      dword [esp + 16], 0x10000
        pop     ebx
        pop     eax
        iret

%macro TF_ON 0
        pushf
        or      dword [esp], 0x100
        popf
%endmacro
%macro TF_OFF 0
        pushf
        and     dword [esp], ~0x100
        popf
%endmacro

test_debug:
        SET_GATE idt + 8, 0x8e, S_CODE, db_handler, 0
        mov     eax, 0xffff0ff0
        mov     dr6, eax
        mov     dword [n_db], 0
        TRY     "single step"
        TF_ON
.s1:    nop
.s2:    nop
.s3:    TF_OFF
        NO_FAULT
        ; after each nop, pushf, and, popf
        CHECK   "steps", dword [n_db], 5
        CHECK   "step: address", dword [db_ip], .s2
        CHECK   "step: second", dword [db_ip + 4], .s3
        mov     eax, [db_dr6]
        CHECK   "step: DR6.BS", eax, 0xffff4ff0
        mov     dword [n_db], 0
        TRY     "no step after MOV SS"
        mov     ax, ss
        TF_ON
        mov     ss, ax
.ss2:   nop
.ss3:   TF_OFF
        NO_FAULT
        CHECK   "one fewer", dword [n_db], 4
        CHECK   "after the next one", dword [db_ip], .ss3
        mov     dword [n_db], 0
        TRY     "no step into INT"
        SET_GATE idt + 32 * 8, 0x8e, S_CODE, .int32, 0
        TF_ON
        int     32
.after_int:
        nop
.after_int2:
        TF_OFF
        NO_FAULT
        CHECK   "INT is not traced", dword [db_ip], .after_int2
        mov     dword [n_db], 0
        TRY     "instruction breakpoint"
        mov     eax, .b1
        mov     dr0, eax
        mov     eax, 0x402
        mov     dr7, eax
        nop
.b1:    inc     ebx
        nop
        NO_FAULT
        CHECK   "breakpoint hits once", dword [n_db], 1
        CHECK   "before the instruction", dword [db_ip], .b1
        CHECK   "DR6.B0", dword [db_dr6], 0xffff0ff1
        mov     dword [n_db], 0
        TRY     "write watchpoint"
        mov     eax, scratch + 4
        mov     dr1, eax
        mov     eax, 0x00d00408         ; G1, write, 4 bytes
        mov     dr7, eax
        mov     eax, [scratch + 4]
        mov     [scratch], eax
        mov     [scratch + 8], eax
        mov     [scratch + 7], al
.w1:    nop
        NO_FAULT
        CHECK   "watchpoint hits once", dword [n_db], 1
        CHECK   "after the instruction", dword [db_ip], .w1
        CHECK   "DR6.B1", dword [db_dr6], 0xffff0ff2
        mov     dword [n_db], 0
        TRY     "read watchpoint"
        mov     eax, 0x00f00408
        mov     dr7, eax
        mov     eax, [scratch + 4]
.w2:    nop
        NO_FAULT
        CHECK   "read hits", dword [n_db], 1
        CHECK   "after the read", dword [db_ip], .w2
        xor     eax, eax
        mov     dr7, eax
        STRICT
        mov     dword [n_db], 0
        TRY     "INT1"
        db      0xf1
.icebp: nop
        NO_FAULT
        CHECK   "INT1 traps", dword [n_db], 1
        CHECK   "INT1: next address", dword [db_ip], .icebp
        mov     dword [n_db], 0
        TRY     "general detect"
        mov     eax, 0x2400
        mov     dr7, eax
.gd:    mov     ebx, dr0
        NO_FAULT
        CHECK   "GD traps", dword [n_db], 1
        CHECK   "GD is a fault", dword [db_ip], .gd
        CHECK   "DR6.BD", dword [db_dr6], 0xffff2ff0
        END_STRICT
        mov     eax, 8
        mov     cr4, eax
        TRY     "DR4 with CR4.DE"
        mov     eax, dr4
        FAULTS  6, 0
        xor     eax, eax
        mov     cr4, eax
        TRY     "DR4 is DR6"
        mov     eax, dr4
        NO_FAULT
        mov     eax, dr7
        CHECK   "DR7 at rest", eax, 0x400
        ret
.int32: iret

        GUEST_END
