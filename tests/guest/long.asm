; Long mode: 64-bit exceptions and returns, IST, system calls, compatibility mode, call gates,
; segment bases, paging rights, control and model specific registers, local APIC interrupts.
%define GUEST_NAME "long"
%include "guest.inc"

; ---- tables ----

        section .data
        align   8
gdt:
        dq      0
S_CODE  equ     $ - gdt
        DESC    0, 0xfffff, 0x9a, 10
S_DATA  equ     $ - gdt
        DESC    0, 0xfffff, 0x92, 12
S_CODE32 equ    $ - gdt
        DESC    0, 0xfffff, 0x9a, 12
S_UCODE32 equ   ($ - gdt) | 3           ; SYSRET wants this order: 32-bit code, data, 64-bit code
        DESC    0, 0xfffff, 0xfa, 12
S_UDATA equ     ($ - gdt) | 3
        DESC    0, 0xfffff, 0xf2, 12
S_UCODE equ     ($ - gdt) | 3
        DESC    0, 0xfffff, 0xfa, 10
S_LD    equ     $ - gdt
        DESC    0, 0xfffff, 0x9a, 14    ; L and D: invalid
S_BASE  equ     $ - gdt
        DESC    0x12345678, 0xfffff, 0xf2, 12
S_CONF  equ     $ - gdt
        DESC    0, 0xfffff, 0x9e, 10
S_TSS   equ     $ - gdt
d_tss:  dq      0, 0
S_LDT   equ     $ - gdt
d_ldt:  dq      0, 0
S_GATE  equ     $ - gdt
d_gate: dq      0, 0
S_SMALL equ     ($ - gdt) | 3
        DESC    0, 0xfff, 0xf2, 4
gdt_end:
gdtr:   dw      gdt_end - gdt - 1
        dq      gdt
idtr:   dw      0xfff
        dq      idt
        align   8
ldt:    dq      0
        DESC    0x00abc000, 0xffff, 0x92, 4

        section .bss
        alignb  4096
pml4:   resb    4096
pdpt:   resb    4096
pd:     resb    4096 * 4
pt:     resb    4096                    ; AREA
watched: resb   4096                    ; a page of its own: TCG trips over neighbours
idt:    resb    4096
tss:    resb    256
stack0: resb    8192
stack0_top:
stack1: resb    4096
stack1_top:
stack2: resb    4096                    ; IST1
stack2_top:
ustack: resb    4096
ustack_top:
scratch: resb   256
amd:    resd    1
n_db:   resd    1
n_irq:  resd    1
db_ip:  resq    16
db_dr6: resq    16
feat7b: resd    1
feat7c: resd    1

; ---- from 32-bit protected mode into long mode ----

        section .text
        bits    32
entry:
        cli
        cld
        CLEAR_BSS
        mov     esp, stack0_top
        mov     al, 0xff
        out     0x21, al
        out     0xa1, al
        mov     dword [pml4], pdpt + 7
        mov     dword [pdpt], pd + 7
        mov     dword [pdpt + 8], pd + 0x1007
        mov     dword [pdpt + 16], pd + 0x2007
        mov     dword [pdpt + 24], pd + 0x3007
        mov     edi, pd
        mov     eax, 0x83               ; 2 MiB pages, for the kernel
        mov     ecx, 2048
.pd:    mov     [edi], eax
        mov     dword [edi + 4], 0
        add     eax, 0x200000
        add     edi, 8
        loop    .pd
        or      dword [pd], 4           ; the first 4 MiB also for users: we are there
        mov     dword [pd + 16], pt + 7 ; 4-6 MiB: AREA
        mov     eax, cr4
        or      eax, 0x6a0              ; PAE, PGE, OSFXSR, OSXMMEXCPT
        mov     cr4, eax
        mov     eax, pml4
        mov     cr3, eax
        mov     ecx, 0xc0000080
        rdmsr
        or      eax, 0x901              ; NXE, LME, SCE
        wrmsr
        mov     eax, cr0
        or      eax, 0x80010023
        and     eax, ~0xc
        mov     cr0, eax
        lgdt    [gdtr]
        jmp     S_CODE:start64

        bits    64
        VERDICTS

%assign i 0
%rep 34
vec_ %+ i:
%if i != 8 && i != 17 && (i < 10 || i > 14)
        push    0
%endif
        push    i
        jmp     on_exception
%assign i i + 1
%endrep

on_exception:                           ; vector, error, rip, cs, rflags, rsp, ss
        push    rax
        mov     eax, ss
        mov     [abs in_ss], rax
        mov     eax, cs
        mov     [abs in_cs], rax
        pushf
        pop     rax
        mov     [abs in_flags], rax
        lea     rax, [rsp + 8]
        mov     [abs in_sp], rax
%assign i 1
%rep 7
        mov     rax, [rsp + i * 8]
%if i = 1
        mov     [abs got_vec], rax
%elif i = 2
        mov     [abs got_err], rax
%elif i = 3
        mov     [abs got_ip], rax
%elif i = 4
        mov     [abs got_cs], rax
%elif i = 5
        mov     [abs got_flags], rax
%elif i = 6
        mov     [abs got_sp], rax
%else
        mov     [abs got_ss], rax
%endif
%assign i i + 1
%endrep
        mov     ax, S_DATA
        mov     ss, ax
        mov     rsp, [abs recover_sp]
        push    2
        popf
        mov     rax, [abs recover_ip]
        mov     qword [abs recover_ip], lost
        jmp     rax

%macro SET_GATE64 5                     ; at, access, selector, offset, ist
        mov     rax, %4
        mov     [abs %1], ax
        mov     word [abs %1 + 2], %3
        mov     byte [abs %1 + 4], %5
        mov     byte [abs %1 + 5], %2
        shr     rax, 16
        mov     [abs %1 + 6], ax
        shr     rax, 16
        mov     [abs %1 + 8], eax
        mov     dword [abs %1 + 12], 0
%endmacro
%macro SET_SYSTEM 4                     ; descriptor, base, limit, access
        mov     eax, %2
        mov     word [abs %1], %3
        mov     [abs %1 + 2], ax
        shr     eax, 16
        mov     [abs %1 + 4], al
        mov     byte [abs %1 + 5], %4
        mov     byte [abs %1 + 6], 0
        mov     [abs %1 + 7], ah
        mov     qword [abs %1 + 8], 0
%endmacro
%macro WRMSR_64 2
        mov     rax, %2
        mov     rdx, rax
        shr     rdx, 32
        mov     ecx, %1
        wrmsr
%endmacro
%macro RDMSR_64 2                       ; register, msr
        mov     ecx, %2
        rdmsr
        shl     rdx, 32
        or      rax, rdx
        mov     %1, rax
%endmacro
%macro USER 0
        push    S_UDATA
        push    ustack_top
        push    2
        push    S_UCODE
        push    %%user
        iretq
%%user:
%endmacro
; In compatibility mode at privilege 3; leave by an exception.
%macro USER32 0
        push    S_UDATA
        push    ustack_top
        push    2
        push    S_UCODE32
        push    %%user
        iretq
        bits    32
%%user:
%endmacro
; On a lenient emulator nothing is asked.
%macro FAULTS_IF_STRICT 2
%$after:
        cmp     dword [abs lenient], 0
        jne     %%skip
        mov     eax, [abs got_vec]
        cmp     eax, %1
        jne     %%bad
        mov     eax, [abs got_err]
        cmp     eax, %2
%%bad:  call    verdict
%%skip:
        %pop
%endmacro
; One instruction that must fault with error code 0, left out on a lenient emulator.
%macro STRICT_INSN 2
        cmp     dword [abs lenient], 0
        jne     %$after
        %1
        FAULTS_IF_STRICT %2, 0
%endmacro
%macro CHECKQ 3                         ; 64-bit constant
        NAME    %1
        mov     rax, %3
        cmp     %2, rax
        call    verdict
%endmacro

start64:
        mov     ax, S_DATA
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     rsp, stack0_top
        xor     eax, eax
        mov     fs, ax
        mov     gs, ax
        DETECT_LENIENT
        xor     eax, eax
        cpuid
        cmp     ecx, 'cAMD'
        sete    [abs amd]
        mov     eax, 7
        xor     ecx, ecx
        cpuid
        mov     [abs feat7b], ebx
        mov     [abs feat7c], ecx
        mov     rdi, idt
        mov     ecx, 34
        mov     rsi, vectors
.idt:   mov     eax, [rsi]
        mov     [rdi], ax
        mov     word [rdi + 2], S_CODE
        mov     word [rdi + 4], 0x8e00
        shr     eax, 16
        mov     [rdi + 6], ax
        mov     qword [rdi + 8], 0
        add     rdi, 16
        add     rsi, 4
        loop    .idt
        mov     byte [abs idt + 3 * 16 + 5], 0xee
        mov     byte [abs idt + 33 * 16 + 5], 0xee
        lidt    [abs idtr]
        mov     qword [abs tss + 4], stack1_top
        mov     qword [abs tss + 36], stack2_top
        mov     word [abs tss + 102], 0x68
        SET_SYSTEM d_tss, tss, 0x67, 0x89
        SET_SYSTEM d_ldt, ldt, 15, 0x82
        mov     ax, S_TSS
        ltr     ax
        call    test_exceptions
        call    test_segments64
        call    test_user64
        call    test_syscall
        call    test_compat
        call    test_gates64
        call    test_registers
        call    test_paging64
        call    test_strings64
        call    test_code
        call    test_debug64
        call    test_apic
        call    test_ts_after_use
        jmp     finish

        section .data
        align   4
vectors:
%assign i 0
%rep 34
        dd      vec_ %+ i
%assign i i + 1
%endrep
        section .text

; ---- exceptions ----

test_exceptions:
        TRY     "UD2"
        ud2
        FAULTS  6, 0
        CHECK   "no change of level: SS", qword [abs got_ss], S_DATA
        TRY     "stack is aligned"
        mov     rbx, rsp
        sub     rsp, 3
        ud2
        FAULTS  6, 0
        sub     rbx, 3
        CHECK   "RSP pushed", [abs got_sp], rbx
        and     rbx, ~15
        sub     rbx, 56
        CHECK   "frame of seven", [abs in_sp], rbx
        TRY     "INT 32"
.int:   int     32
        FAULTS  32, 0
        CHECK   "next address", qword [abs got_ip], .int + 2
        STRICT
        TRY     "no gate"
        int     0x80
        FAULTS  13, 0x80 * 8 + 2
        END_STRICT
        TRY     "non-canonical read"
        mov     rbx, 0x800000000000
        mov     rax, [rbx]
        FAULTS  13, 0
        STRICT
        TRY     "non-canonical through RBP"
        mov     rbp, 0x800000000000
        mov     rax, [rbp]
        FAULTS  12, 0
        END_STRICT
        STRICT
        TRY     "across the canonical hole"
        mov     rbx, 0x7ffffffffffc
        mov     rax, [rbx]
        FAULTS  13, 0
        END_STRICT
        STRICT
        TRY     "push to a non-canonical stack"
        USER
        mov     rsp, 0x800000000010
        push    rax
        FAULTS  12, 0
        END_STRICT
        STRICT
        TRY     "jump to a non-canonical address"
        mov     rax, 0x800000000000
        jmp     rax
        FAULTS_IF_STRICT 13, 0
        END_STRICT
        mov     byte [abs idt + 32 * 16 + 4], 1
        TRY     "IST"
        int     32
        FAULTS  32, 0
        CHECK   "on the IST stack", qword [abs in_sp], stack2_top - 56
        mov     byte [abs idt + 32 * 16 + 4], 0
        mov     byte [abs idt + 32 * 16 + 5], 0x85
        STRICT
        TRY     "task gate"
        int     32
        FAULTS  13, 32 * 8 + 2
        END_STRICT
        mov     byte [abs idt + 32 * 16 + 5], 0x8e
        mov     word [abs idt + 32 * 16 + 2], S_CODE32
        TRY     "gate to 32-bit code"
        int     32
        FAULTS  13, S_CODE32
        mov     word [abs idt + 32 * 16 + 2], S_CODE
        mov     word [abs idt + 13 * 16 + 2], S_DATA
        TRY     "double fault"
        int     0x80
        FAULTS  8, 0
        mov     word [abs idt + 13 * 16 + 2], S_CODE
        ret

; ---- segments ----

test_segments64:
        TRY     "null SS at level 0"
        xor     eax, eax
        mov     ss, ax
        mov     ax, S_DATA
        mov     ss, ax
        NO_FAULT
        STRICT
        TRY     "null SS, RPL 3"
        mov     eax, 3
        mov     ss, ax
        FAULTS  13, 0
        END_STRICT
        TRY     "FS takes its base from the descriptor"
        mov     ax, S_BASE
        mov     fs, ax
        RDMSR_64 rbx, 0xc0000100
        NO_FAULT
        CHECK   "FS base", rbx, 0x12345678
        mov     eax, 0
        mov     fs, ax
        TRY     "FS base beyond 4 GiB"
        WRMSR_64 0xc0000100, 0xffff800000000000
        mov     rbx, [fs:0]
        FAULTS  14, 0
        mov     rbx, cr2
        CHECKQ  "CR2", rbx, 0xffff800000000000
        TRY     "FS base must be canonical"
        WRMSR_64 0xc0000100, 0x800000000000
        FAULTS_IF_STRICT 13, 0
        WRMSR_64 0xc0000100, 0
        TRY     "SWAPGS"
        WRMSR_64 0xc0000101, scratch
        WRMSR_64 0xc0000102, scratch + 64
        mov     qword [abs scratch], 0x11
        mov     qword [abs scratch + 64], 0x22
        mov     rbx, [gs:0]
        swapgs
        mov     rsi, [gs:0]
        swapgs
        mov     rdi, [gs:0]
        NO_FAULT
        CHECK   "GS before", rbx, 0x11
        CHECK   "GS swapped", rsi, 0x22
        CHECK   "GS back", rdi, 0x11
        TRY     "DS base is ignored"
        mov     ax, S_BASE
        mov     ds, ax
        mov     rbx, [abs scratch]
        mov     ax, S_DATA
        mov     ds, ax
        NO_FAULT
        CHECK   "through DS", rbx, 0x11
        TRY     "LLDT, and a segment of it"
        mov     ax, S_LDT
        lldt    ax
        mov     ax, 0xc
        mov     fs, ax
        RDMSR_64 rbx, 0xc0000100
        NO_FAULT
        CHECK   "LDT segment's base", rbx, 0xabc000
        TRY     "LDT limit"
        mov     ax, 0x14
        mov     fs, ax
        FAULTS  13, 0x14
        mov     ecx, S_TSS
        lsl     ebx, ecx
        setz    sil
        CHECK   "LSL of the TSS", sil, 1
        CHECK   "its limit", ebx, 0x67
        mov     ecx, S_LDT
        lar     ebx, ecx
        CHECK   "LAR of the LDT", ebx, 0x8200
        TRY     "LTR of a busy one"
        mov     ax, S_TSS
        ltr     ax
        FAULTS  13, S_TSS
        mov     byte [abs d_ldt + 13], 1
        TRY     "second half of a descriptor"
        mov     ax, S_LDT
        lldt    ax
        FAULTS_IF_STRICT 13, S_LDT
        mov     byte [abs d_ldt + 13], 0
        test    dword [abs feat7b], 1
        jz      .no_fsgsbase
        TRY     "WRFSBASE without CR4"
        wrfsbase rax
        FAULTS  6, 0
        mov     rax, cr4
        or      eax, 1 << 16
        mov     cr4, rax
        TRY     "WRFSBASE, RDFSBASE"
        mov     rax, 0x7fff12345678
        wrfsbase rax
        rdfsbase rbx
        rdfsbase esi
        NO_FAULT
        CHECKQ  "64 bits", rbx, 0x7fff12345678
        CHECK   "32 bits", rsi, 0x12345678
        TRY     "WRGSBASE must be canonical"
        mov     rax, 0x800000000000
        wrgsbase rax
        FAULTS_IF_STRICT 13, 0
.no_fsgsbase:
        ret

; ---- privilege 3 ----

test_user64:
        TRY     "HLT at level 3"
        USER
        hlt
        FAULTS  13, 0
        CHECK   "user CS", qword [abs got_cs], S_UCODE
        CHECK   "user SS", qword [abs got_ss], S_UDATA
        CHECK   "user RSP", qword [abs got_sp], ustack_top
        mov     eax, [abs in_ss]
        CHECK   "SS is null in the handler", eax, 0
        CHECK   "stack of the TSS", qword [abs in_sp], stack1_top - 56
        STRICT
        TRY     "INT 32 at level 3"
        USER
        int     32
        FAULTS  13, 32 * 8 + 2
        END_STRICT
        TRY     "SWAPGS at level 3"
        USER
        swapgs
        FAULTS  13, 0
        TRY     "RDMSR at level 3"
        USER
        rdmsr
        FAULTS  13, 0
        TRY     "user reads kernel memory"
        USER
        mov     rax, [abs 0x800000]
        FAULTS  14, 5
        TRY     "IRETQ: null SS at level 3"
        push    3
        push    ustack_top
        push    2
        push    S_UCODE
        push    .bad
        iretq
.bad:   FAULTS  13, 0
        TRY     "IRETQ: SS of another level"
        push    S_DATA
        push    ustack_top
        push    2
        push    S_UCODE
        push    .bad
        iretq
        FAULTS  13, S_DATA
        TRY     "IRETQ: data as code"
        push    S_DATA
        push    ustack_top
        push    2
        push    S_DATA
        push    .bad
        iretq
        FAULTS  13, S_DATA
        STRICT
        TRY     "IRETQ: L and D"
        push    S_DATA
        push    ustack_top
        push    2
        push    S_LD
        push    .bad
        iretq
        FAULTS_IF_STRICT 13, S_LD
        END_STRICT
        STRICT
        TRY     "IRETQ: non-canonical"
        mov     rax, 0x800000000000
        push    S_UDATA
        push    ustack_top
        push    2
        push    S_UCODE
        push    rax
        iretq
        FAULTS_IF_STRICT 13, 0
        END_STRICT
        STRICT
        TRY     "IRETQ with NT"
        pushf
        or      dword [rsp], 0x4000
        popf
        push    S_DATA
        push    stack0_top
        push    2
        push    S_CODE
        push    .bad
        iretq
        FAULTS  13, 0
        END_STRICT
        TRY     "IRETQ at one level, null SS"
        mov     rbx, rsp
        push    0
        push    rbx
        push    2
        push    S_CODE
        push    .same
        iretq
.same:  mov     esi, ss
        mov     ax, S_DATA
        mov     ss, ax
        NO_FAULT
        CHECK   "SS is null", esi, 0
        CHECK   "RSP", rbx, rsp
        TRY     "POPF at level 3"
        USER
        push    0x3202
        popf
        pushf
        pop     rbx
        int     33
        FAULTS  33, 0
        CHECK   "neither IF nor IOPL", rbx, 2
        test    dword [abs feat7c], 4
        jz      .no_umip
        mov     rax, cr4
        or      eax, 0x800
        mov     cr4, rax
        TRY     "UMIP: SGDT"
        USER
        sgdt    [abs scratch]
        FAULTS  13, 0
        TRY     "UMIP: SMSW"
        USER
        smsw    eax
        FAULTS  13, 0
        TRY     "UMIP: STR"
        USER
        str     eax
        FAULTS  13, 0
        mov     rax, cr4
        and     eax, ~0x800
        mov     cr4, rax
.no_umip:
        TRY     "SGDT at level 3"
        USER
        sgdt    [abs scratch]
        int     33
        FAULTS  33, 0
        CHECK   "SGDT base", qword [abs scratch + 2], gdt
        ret

; ---- system calls ----

        section .bss
sc_rcx: resq 1
sc_r11: resq 1
sc_flags: resq 1
sc_cs:  resq 1
sc_ss:  resq 1
        section .text
syscall_entry:
        mov     [abs sc_rcx], rcx
        mov     [abs sc_r11], r11
        mov     eax, cs
        mov     [abs sc_cs], rax
        mov     eax, ss
        mov     [abs sc_ss], rax
        mov     rbx, rsp
        mov     rsp, stack1_top
        pushf
        pop     qword [abs sc_flags]
        mov     rsp, rbx
        o64 sysret
syscall_compat:
        mov     [abs sc_rcx], rcx
        mov     rbx, rsp
        mov     rsp, stack1_top
        mov     rax, [abs recover_ip]
        mov     rsp, [abs recover_sp]
        jmp     rax

test_syscall:
        WRMSR_64 0xc0000081, (((S_UCODE32) << 48) | (S_CODE << 32))
        WRMSR_64 0xc0000082, syscall_entry
        WRMSR_64 0xc0000083, syscall_compat
        WRMSR_64 0xc0000084, 0x47700
        TRY     "SYSCALL, SYSRET"
        USER
        std
        stc
        syscall
.next:  pushf
        pop     rsi
        cld
        mov     edi, ss
        int     33
        FAULTS  33, 0
        cld
        CHECK   "RCX", qword [abs sc_rcx], .next
        mov     rax, [abs sc_r11]
        and     eax, 0x401
        CHECK   "R11", rax, 0x401
        mov     rax, [abs sc_flags]
        and     eax, 0x401
        STRICT
        CHECK   "flags are masked", rax, 1
        END_STRICT
        CHECK   "kernel CS", qword [abs sc_cs], S_CODE
        CHECK   "kernel SS", qword [abs sc_ss], S_DATA
        and     esi, 0x401
        CHECK   "flags are back", rsi, 0x401
        CHECK   "user SS", edi, S_UDATA
        CHECK   "user CS after SYSRET", qword [abs got_cs], S_UCODE
        TRY     "SYSRET at level 3"
        USER
        o64 sysret
        FAULTS  13, 0
        TRY     "SYSRET to 32-bit code"
        mov     ecx, .compat
        mov     r11d, 2
        sysret
        bits    32
.compat:
        mov     ebx, cs
        int     33
        bits    64
        FAULTS  33, 0
        CHECK   "32-bit CS", ebx, S_UCODE32
        cmp     dword [abs amd], 0
        jne     .amd
        TRY     "SYSCALL of 32-bit code"
        USER32
        syscall
        bits    64
        FAULTS  6, 0
        STRICT
        TRY     "SYSRET to a non-canonical address"
        mov     rcx, 0x800000000000
        mov     r11d, 2
        o64 sysret
        FAULTS_IF_STRICT 13, 0
        END_STRICT
        jmp     .sce
.amd:   TRY     "SYSCALL of 32-bit code"
        USER32
        syscall
.after: bits    64
        NO_FAULT
        CHECK   "ECX", qword [abs sc_rcx], .after
.sce:   RDMSR_64 rax, 0xc0000080
        and     eax, ~1
        wrmsr
        TRY     "SYSCALL without SCE"
        USER
        syscall
        FAULTS  6, 0
        mov     ecx, 0xc0000080
        rdmsr
        or      eax, 1
        wrmsr
        ret

; ---- compatibility mode ----

test_compat:
        TRY     "compatibility mode"
        mov     rax, -1
        USER32
        mov     eax, 0x10
        inc     eax                     ; 40h: a prefix in 64-bit mode
        push    eax
        pop     ebx
        mov     ecx, esp
        int     33
        bits    64
        FAULTS  33, 0
        CHECK   "INC", rbx, 0x11
        CHECK   "ESP", rcx, ustack_top
        CHECK   "CS", qword [abs got_cs], S_UCODE32
        TRY     "far jump to 64-bit code"
        USER32
        jmp     S_UCODE:.in64
        bits    64
.in64:  mov     rbx, 0x123456789a
        int     33
        FAULTS  33, 0
        CHECKQ  "64-bit again", rbx, 0x123456789a
        TRY     "INTO of 32-bit code"
        mov     byte [abs idt + 4 * 16 + 5], 0xee
        USER32
        mov     al, 0x7f
        add     al, 1
        into
        bits    64
        FAULTS  4, 0
        TRY     "addresses wrap at 4 GiB"
        USER32
        mov     eax, S_UDATA
        mov     ds, eax
        mov     ebx, 0xffffffff
        mov     ecx, [ebx + scratch + 1]
        int     33
        bits    64
        FAULTS  33, 0
        STRICT
        TRY     "limits count"
        USER32
        mov     ax, S_SMALL
        mov     es, ax
        mov     eax, [es:0xffd]
        bits    64
        FAULTS  13, 0
        END_STRICT
        TRY     "SYSENTER of nobody"
        WRMSR_64 0x174, 0
        USER32
        sysenter
        bits    64
%$after:
        %pop
        cmp     dword [abs amd], 0
        jne     .amd
        mov     eax, [abs got_vec]
        cmp     eax, 13
        call    verdict
        TRY     "SYSENTER"
        WRMSR_64 0x174, S_CODE
        WRMSR_64 0x175, stack1_top
        WRMSR_64 0x176, .sysenter
        USER32
        sysenter
        bits    64
.sysenter:
        mov     ebx, cs
        mov     rcx, rsp
        mov     rsp, [abs recover_sp]
        NO_FAULT
        CHECK   "SYSENTER CS", ebx, S_CODE
        CHECK   "SYSENTER RSP", rcx, stack1_top
        ret
.amd:   STRICT
        NAME    "SYSENTER on AMD"
        mov     eax, [abs got_vec]
        cmp     eax, 6
        call    verdict
        END_STRICT
        ret

; ---- far transfers ----

        section .bss
cg:     resq 5
far_ptr: resq 2
        section .text
gate_entry:
        mov     [abs cg], rsp
%assign i 0
%rep 4
        mov     rax, [rsp + i * 8]
        mov     [abs cg + 8 + i * 8], rax
%assign i i + 1
%endrep
        mov     eax, ss
        mov     [abs sc_ss], rax
        o64 retf

test_gates64:
        SET_GATE64 d_gate, 0xec, S_CODE, gate_entry, 0
        mov     dword [abs far_ptr], 0
        mov     word [abs far_ptr + 4], S_GATE
        TRY     "call gate"
        USER
        call    dword far [abs far_ptr]
.back:  mov     rbx, rsp
        int     33
        FAULTS  33, 0
        CHECK   "stack of the TSS", qword [abs cg], stack1_top - 32
        CHECK   "return address", qword [abs cg + 8], .back
        CHECK   "return CS", qword [abs cg + 16], S_UCODE
        CHECK   "old RSP", qword [abs cg + 24], ustack_top
        CHECK   "old SS", qword [abs cg + 32], S_UDATA
        CHECK   "null SS", qword [abs sc_ss], 0
        CHECK   "RSP after the return", rbx, ustack_top
        mov     word [abs d_gate + 2], S_CODE32
        TRY     "gate to 32-bit code"
        USER
        call    dword far [abs far_ptr]
        FAULTS  13, S_CODE32
        mov     word [abs far_ptr + 4], S_TSS
        TRY     "jump to a TSS"
        jmp     dword far [abs far_ptr]
        FAULTS  13, S_TSS
        mov     word [abs far_ptr + 4], S_LD
        STRICT
        TRY     "jump to L and D"
        jmp     dword far [abs far_ptr]
        FAULTS_IF_STRICT 13, S_LD
        END_STRICT
        mov     dword [abs far_ptr], .in32
        mov     word [abs far_ptr + 4], S_CODE32
        TRY     "jump to 32-bit kernel code"
        jmp     dword far [abs far_ptr]
        bits    32
.in32:  mov     eax, 1
        dec     eax
        mov     ebx, eax
        jmp     S_CODE:.in64
        bits    64
.in64:  NO_FAULT
        CHECK   "32-bit code ran", rbx, 0
        TRY     "RETFQ"
        push    S_CODE
        push    .retf
        o64 retf
.retf:  NO_FAULT
        TRY     "RETF with immediate"
        mov     rbx, rsp
        push    0
        push    0
        push    S_CODE
        push    .retf2
        o64 retf 16
.retf2: NO_FAULT
        CHECK   "stack is clean", rbx, rsp
        TRY     "conforming code at level 3"
        mov     dword [abs far_ptr], .conf
        mov     word [abs far_ptr + 4], S_CONF
        USER
        jmp     dword far [abs far_ptr]
.conf:  mov     ebx, cs
        int     33
        FAULTS  33, 0
        CHECK   "CPL stays", ebx, S_CONF | 3
        ret

; ---- control and model specific registers ----

test_registers:
        TRY     "CR8"
        mov     eax, 5
        mov     cr8, rax
        mov     rbx, cr8
        xor     eax, eax
        mov     cr8, rax
        NO_FAULT
        CHECK   "CR8 value", rbx, 5
        TRY     "CR1"
        db      0x0f, 0x20, 0xc8
        FAULTS  6, 0
        TRY     "CR0: leaving from 64-bit code"
        mov     rax, cr0
        and     eax, 0x7fffffff
        STRICT_INSN {mov cr0, rax}, 13
        TRY     "CR4: PAE in long mode"
        mov     rax, cr4
        and     eax, ~0x20
        STRICT_INSN {mov cr4, rax}, 13
        TRY     "CR3: reserved bits"
        mov     rax, cr3
        bts     rax, 60
        STRICT_INSN {mov cr3, rax}, 13
        TRY     "EFER.LME under paging"
        mov     ecx, 0xc0000080
        rdmsr
        and     eax, ~0x100
        STRICT_INSN {wrmsr}, 13
        TRY     "LSTAR must be canonical"
        mov     ecx, 0xc0000082
        xor     eax, eax
        mov     edx, 0x8000
        STRICT_INSN {wrmsr}, 13
        TRY     "PAT with a bad type"
        mov     ecx, 0x277
        mov     eax, 2
        xor     edx, edx
        STRICT_INSN {wrmsr}, 13
        TRY     "MSR that is not there"
        mov     ecx, 0x12345
        STRICT_INSN {rdmsr}, 13
        TRY     "TSC_AUX"
        WRMSR_64 0xc0000103, 0x1234
        rdtscp
        mov     ebx, ecx
        NO_FAULT
        CHECK   "RDTSCP", ebx, 0x1234
        test    dword [abs feat7c], 1 << 22
        jz      .no_rdpid
        TRY     "RDPID"
        rdpid   rbx
        NO_FAULT
        CHECK   "RDPID value", rbx, 0x1234
.no_rdpid:
        TRY     "TSC goes on"
        rdtsc
        shl     rdx, 32
        lea     rbx, [rax + rdx]
        rdtsc
        shl     rdx, 32
        add     rax, rdx
        sub     rax, rbx
        setc    bl
        NO_FAULT
        CHECK   "not backwards", bl, 0
        mov     rax, cr4
        or      eax, 4
        mov     cr4, rax
        TRY     "RDTSC with TSD"
        USER
        rdtsc
        FAULTS  13, 0
        mov     rax, cr4
        and     eax, ~4
        mov     cr4, rax
        TRY     "XGETBV without OSXSAVE"
        xor     ecx, ecx
        xgetbv
        FAULTS  6, 0
        mov     eax, 1
        cpuid
        bt      ecx, 26
        jnc     .no_xsave
        mov     rax, cr4
        or      eax, 1 << 18
        mov     cr4, rax
        mov     eax, 1
        cpuid
        shr     ecx, 27
        and     ecx, 1
        CHECK   "CPUID shows OSXSAVE", ecx, 1
        TRY     "XSETBV"
        xor     ecx, ecx
        xor     edx, edx
        mov     eax, 3
        xsetbv
        xgetbv
        mov     ebx, eax
        NO_FAULT
        CHECK   "XCR0", ebx, 3
        TRY     "XSETBV without x87"
        xor     ecx, ecx
        xor     edx, edx
        mov     eax, 2
        xsetbv
        FAULTS  13, 0
        TRY     "XSETBV: AVX without SSE"
        xor     ecx, ecx
        xor     edx, edx
        mov     eax, 5
        xsetbv
        FAULTS_IF_STRICT 13, 0
        TRY     "XSETBV of XCR1"
        mov     ecx, 1
        mov     eax, 1
        xor     edx, edx
        xsetbv
        FAULTS  13, 0
.no_xsave:
        TRY     "HLT, CLI and so on by level"
        cli
        NO_FAULT
        TRY     "CMPXCHG16B misaligned"
        lock cmpxchg16b [abs scratch + 8]
        FAULTS_IF_STRICT 13, 0
        ret

; ---- paging ----

%define AREA 0x400000
%define FRAMES 0x2000000
%macro PTE 2                            ; index, flags
        mov     dword [abs pt + (%1) * 8], (FRAMES + (%1) * 4096) | (%2)
        mov     dword [abs pt + (%1) * 8 + 4], 0
        invlpg  [abs AREA + (%1) * 4096]
%endmacro

test_paging64:
        PTE     0, 0
        PTE     1, 7
        PTE     2, 3
        PTE     3, 7
        PTE     4, 1
        mov     byte [abs pt + 3 * 8 + 7], 0x80 ; no execute
        mov     byte [abs AREA + 0x1000], 0xc3  ; ret
        mov     byte [abs AREA + 0x3000], 0xc3
        mov     byte [abs AREA + 0x2000], 0xc3
        TRY     "absent"
        mov     rax, [abs AREA]
        FAULTS  14, 0
        TRY     "read-only"
        mov     [abs AREA + 0x4000], rax
        FAULTS  14, 3
        TRY     "execute"
        mov     eax, AREA + 0x2000
        call    rax
        NO_FAULT
        TRY     "execute NX"
        mov     eax, AREA + 0x3000
        call    rax
        FAULTS  14, 0x11
        TRY     "user executes a kernel page"
        USER
        mov     eax, AREA + 0x2000
        call    rax
        FAULTS  14, 0x15
        STRICT
        TRY     "reserved bit"
        bts     qword [abs pt + 5 * 8], 0
        bts     qword [abs pt + 5 * 8], 51
        mov     rax, [abs AREA + 0x5000]
        FAULTS  14, 9
        END_STRICT
        TRY     "write across two pages, the second absent"
        PTE     7, 3
        PTE     8, 0
        mov     dword [abs AREA + 0x7ffc], 0x55555555
        mov     rax, -1
        mov     [abs AREA + 0x7ffc], rax
        FAULTS  14, 2
        CHECK   "nothing was written", dword [abs AREA + 0x7ffc], 0x55555555
        TRY     "read-modify-write across two pages"
        PTE     8, 3
        mov     qword [abs AREA + 0x7ffc], 0
        mov     eax, 0x11223344
        add     [abs AREA + 0x7ffe], eax
        mov     ebx, [abs AREA + 0x7ffe]
        NO_FAULT
        CHECK   "sum", ebx, 0x11223344
        CHECK   "second page", word [abs FRAMES + 0x8000], 0x1122
        mov     eax, 0x80000001
        cpuid
        bt      edx, 26
        jnc     .no_1g
        TRY     "1 GiB page"
        mov     dword [abs pdpt + 8 * 8], 0x83
        mov     rbx, 0x200000000
        mov     dword [abs scratch], 0x600d600d
        mov     eax, [rbx + scratch]
        mov     ebx, eax
        NO_FAULT
        CHECK   "through it", ebx, 0x600d600d
.no_1g:
        TRY     "global page survives CR3"
        PTE     9, 0x103
        mov     dword [abs FRAMES + 0x9000], 1
        mov     dword [abs FRAMES + 0xa000], 2
        mov     eax, [abs AREA + 0x9000]
        mov     dword [abs pt + 9 * 8], (FRAMES + 0xa000) | 0x103
        mov     rax, cr4
        mov     rbx, rax
        and     eax, ~0x80
        mov     cr4, rax                ; but not this
        mov     cr4, rbx
        mov     ebx, [abs AREA + 0x9000]
        NO_FAULT
        CHECK   "CR4.PGE drops global pages", ebx, 2
        test    dword [abs feat7b], 1 << 7
        jz      .no_smep
        mov     rax, cr4
        or      eax, 1 << 20
        and     byte [abs pd], ~4       ; our own code is a kernel page now
        mov     cr4, rax
        TRY     "SMEP"
        mov     eax, AREA + 0x1000
        call    rax
        FAULTS  14, 0x11
        mov     rax, cr4
        and     eax, ~(1 << 20)
        mov     cr4, rax
.no_smep:
        test    dword [abs feat7b], 1 << 20
        jz      .no_smap
        and     byte [abs pd], ~4
        mov     rax, cr4
        or      eax, 1 << 21
        mov     cr4, rax
        TRY     "SMAP: read"
        mov     al, [abs AREA + 0x1000]
        FAULTS  14, 1
        TRY     "SMAP: write"
        mov     [abs AREA + 0x1000], al
        FAULTS  14, 3
        TRY     "SMAP: AC set"
        stac
        mov     al, [abs AREA + 0x1000]
        clac
        NO_FAULT
        TRY     "SMAP: AC clear again"
        mov     al, [abs AREA + 0x1000]
        FAULTS  14, 1
        TRY     "SMAP: POPF sets AC"
        pushf
        or      dword [rsp], 0x40000
        popf
        mov     al, [abs AREA + 0x1000]
        clac
        NO_FAULT
        mov     rax, cr4
        and     eax, ~(1 << 21)
        mov     cr4, rax
.no_smap:
        or      byte [abs pd], 4
        mov     rax, cr3
        mov     cr3, rax
        ret

; ---- string instructions over whole pages ----

%define S0 (AREA + 0x20000)             ; pages 32 to 34 are there, 31 and 35 are not
test_strings64:
        PTE     31, 0
        PTE     32, 3
        PTE     33, 3
        PTE     34, 3
        PTE     35, 0
        mov     rdi, S0
        xor     eax, eax
.fill:  mov     [rdi], eax              ; each word says where it is
        add     rdi, 4
        add     eax, 4
        cmp     eax, 0x3000
        jb      .fill
        TRY     "MOVSB backward, overlapping, across pages"
        std
        mov     rsi, S0 + 0x17ff
        mov     rdi, S0 + 0x1807
        mov     ecx, 0x1000
        rep movsb
        cld
        NO_FAULT
        CHECKQ  "RSI went down", rsi, S0 + 0x7ff
        CHECKQ  "RDI went down", rdi, S0 + 0x807
        CHECK   "lowest", dword [abs S0 + 0x808], 0x800
        CHECK   "not below", dword [abs S0 + 0x804], 0x804
        CHECK   "second page", dword [abs S0 + 0x1004], 0xffc
        CHECK   "highest", dword [abs S0 + 0x1804], 0x17fc
        TRY     "MOVSQ forward over itself repeats the first"
        mov     rsi, S0 + 0x2000
        mov     rdi, S0 + 0x2008
        mov     ecx, 0x100
        rep movsq
        NO_FAULT
        CHECK   "repeated", dword [abs S0 + 0x2800], 0x2000
        CHECK   "not beyond", dword [abs S0 + 0x2808], 0x2808
        TRY     "MOVSQ forward into an absent page"
        mov     rsi, S0
        mov     rdi, S0 + 0x2f00
        mov     ecx, 0x100
        rep movsq
        FAULTS  14, 2
        CHECK   "RCX says how many were not", ecx, 0xe0
        CHECKQ  "RSI is behind the last", rsi, S0 + 0x100
        CHECKQ  "RDI is at the page", rdi, S0 + 0x3000
        TRY     "STOSD backward into an absent page"
        std
        mov     rdi, S0 + 0x3c
        mov     eax, 0x5a5a5a5a
        mov     ecx, 0x40
        rep stosd
        FAULTS  14, 2
        cld
        CHECK   "RCX says how many were not", ecx, 0x30
        CHECKQ  "RDI is below the page", rdi, S0 - 4
        CHECK   "stored", dword [abs S0], 0x5a5a5a5a
        mov     rdi, S0
        mov     ecx, 0x3000
        xor     eax, eax
        rep stosb
        mov     byte [abs S0 + 0x2345], 7
        TRY     "SCASB stops behind what it finds"
        mov     rdi, S0 + 1
        mov     al, 7
        mov     ecx, 0x3000
        repne scasb
        sete    bl
        NO_FAULT
        CHECKQ  "RDI is behind it", rdi, S0 + 0x2346
        CHECK   "RCX", ecx, 0x3000 - 0x2345
        CHECK   "ZF", bl, 1
        TRY     "CMPSB finds the difference across pages"
        mov     rsi, S0 + 0x2ff
        mov     rdi, S0 + 0x1300
        mov     ecx, 0x1800
        repe cmpsb
        setb    bl
        NO_FAULT
        CHECKQ  "RDI is behind it", rdi, S0 + 0x2346
        CHECKQ  "RSI is behind it", rsi, S0 + 0x1345
        CHECK   "CF: the destination is greater", bl, 1
        TRY     "SCASQ backward stops at what differs"
        std
        mov     rdi, S0 + 0x2ff8
        xor     eax, eax
        mov     ecx, 0x1000
        repe scasq
        cld
        NO_FAULT
        CHECKQ  "RDI is below it", rdi, S0 + 0x2338
        TRY     "CMPSD runs into an absent page"
        mov     rsi, S0
        mov     rdi, S0 + 0x2f80
        mov     ecx, 0x100
        repe cmpsd
        FAULTS  14, 0
        CHECK   "RCX says how many were not", ecx, 0xe0
        TRY     "nothing to do touches nothing"
        xor     ecx, ecx
        mov     rdi, S0 - 0x800
        rep stosb
        NO_FAULT
        ret

; ---- code that changes itself ----

test_code:
        TRY     "next instruction is changed"
        mov     ebx, 0
        mov     byte [abs .imm + 1], 7
        jmp     .go
.go:
.imm:   mov     bl, 1
        NO_FAULT
        CHECK   "new immediate", ebx, 7
        mov     byte [abs .imm + 1], 1
        TRY     "in the same block"
        mov     ecx, 3
        xor     ebx, ebx
.loop:  add     byte [abs .add + 2], 1
.add:   add     ebx, 0
        dec     ecx
        jnz     .loop
        NO_FAULT
        CHECK   "1 + 2 + 3", ebx, 6
        mov     byte [abs .add + 2], 0
        TRY     "through another mapping"
        mov     rbx, 0x200000000        ; the 1 GiB page, if there is one
        mov     eax, 0x80000001
        cpuid
        mov     rbx, 0x200000000
        bt      edx, 26
        jc      .has
        xor     ebx, ebx
.has:   mov     ecx, 2
        xor     esi, esi
.again: 
.alias: add     esi, 1
        mov     byte [rbx + .alias + 2], 5
        dec     ecx
        jnz     .again
        NO_FAULT
        CHECK   "1 + 5", esi, 6
        mov     byte [abs .alias + 2], 1
        ; A page that was code, is written all over as data, and is code again, in turns: stores
        ; to it go the slow way at first and then do not.
        TRY     "code, data, code in one page"
        PTE     18, 3
        xor     ebx, ebx
        mov     r8d, 20
.turn:  mov     rdi, AREA + 0x12000
        mov     ecx, 200
.data:  mov     qword [rdi + rcx * 8], 0
        loop    .data
        mov     byte [rdi + 0x40], 0x83 ; add ebx, r8b / ret
        mov     byte [rdi + 0x41], 0xc3
        mov     byte [rdi + 0x42], r8b
        mov     byte [rdi + 0x43], 0xc3
        lea     rax, [rdi + 0x40]
        call    rax
        mov     byte [rdi + 0x42], 1    ; soon after
        call    rax
        dec     r8d
        jnz     .turn
        NO_FAULT
        CHECK   "sum of 1 to 20, and 20", ebx, 230
        TRY     "an instruction across two pages"
        PTE     16, 3
        PTE     17, 3
        mov     rdi, AREA + 0x11000 - 2
        mov     dword [rdi], 0x90c3c8ff | 0
        mov     byte [rdi], 0x83        ; add ebx, 1 / ret
        mov     byte [rdi + 1], 0xc3
        mov     byte [rdi + 2], 0x01
        mov     byte [rdi + 3], 0xc3
        xor     ebx, ebx
        call    rdi
        mov     byte [rdi + 2], 0x20    ; in the second page
        call    rdi
        NO_FAULT
        CHECK   "1 + 20h", ebx, 0x21
        TRY     "its second page is absent"
        PTE     17, 0
        call    rdi
        FAULTS  14, 0x10
        mov     rax, cr2
        mov     rbx, rax
        CHECK   "CR2 is the second page", rbx, AREA + 0x11000
        CHECK   "RIP is the instruction", qword [abs got_ip], AREA + 0x11000 - 2
        TRY     "fifteen bytes are enough"
        mov     rdi, FRAMES
        mov     ecx, 14
        mov     al, 0x66
        rep stosb
        mov     word [rdi], 0xc390      ; 14 prefixes and a NOP
        mov     eax, FRAMES
        call    rax
        NO_FAULT
        TRY     "sixteen are too many"
        mov     rdi, FRAMES
        mov     ecx, 15
        mov     al, 0x66
        rep stosb
        mov     word [rdi], 0xc390
        mov     eax, FRAMES
        call    rax
        FAULTS  13, 0
        ret

; ---- debug registers ----

db_handler:
        push    rax
        push    rbx
        mov     ebx, [abs n_db]
        and     ebx, 15
        mov     rax, [rsp + 16]
        mov     [abs db_ip + rbx * 8], rax
        mov     rax, dr6
        mov     [abs db_dr6 + rbx * 8], rax
        mov     eax, 0xffff0ff0
        mov     dr6, rax
        inc     dword [abs n_db]
        or      dword [rsp + 32], 0x10000
        pop     rbx
        pop     rax
        iretq

test_debug64:
        SET_GATE64 idt + 16, 0x8e, S_CODE, db_handler, 0
        mov     eax, 0xffff0ff0
        mov     dr6, rax
        mov     dword [abs n_db], 0
        TRY     "single step"
        pushf
        or      dword [rsp], 0x100
        popf
.s1:    nop
.s2:    nop
.s3:    pushf
        and     dword [rsp], ~0x100
        popf
        NO_FAULT
        CHECK   "steps", dword [abs n_db], 5
        CHECK   "first", qword [abs db_ip], .s2
        mov     dword [abs n_db], 0
        TRY     "SYSCALL that masks TF"
        USER
        pushf
        or      dword [rsp], 0x100
        popf
        syscall                         ; no trap in the kernel; one right after SYSRET
.after: nop
.after2: pushf
        and     dword [rsp], ~0x100
        popf
        int     33
        FAULTS  33, 0
        CHECK   "trap after SYSRET", qword [abs db_ip], .after
        CHECK   "then after the next", qword [abs db_ip + 8], .after2
        mov     dword [abs n_db], 0
        TRY     "watchpoint of eight bytes"
        mov     eax, watched + 8
        mov     dr2, rax
        mov     eax, 0x09000420         ; G2, write, 8 bytes
        mov     dr7, rax
        mov     [abs watched + 7], al
.w1:    mov     [abs watched + 16], al
        mov     rbx, [abs watched + 8]
        mov     byte [abs watched + 15], 1
.w2:    nop
        xor     eax, eax
        mov     dr7, rax
        NO_FAULT
        CHECK   "hits", dword [abs n_db], 1
        CHECK   "where", qword [abs db_ip], .w2
        CHECK   "DR6.B2", dword [abs db_dr6], 0xffff0ff4
        TRY     "DR7, upper half"
        mov     rax, 0x100000400
        STRICT_INSN {mov dr7, rax}, 13
        TRY     "DR8"
        db      0x44, 0x0f, 0x21, 0xc0
        FAULTS  6, 0
        ret

; ---- local APIC ----

%define APIC 0xfee00000
irq_handler:
        push    rax
        inc     dword [abs n_irq]
        mov     eax, APIC
        mov     dword [rax + 0xb0], 0
        pop     rax
        iretq

test_apic:
        SET_GATE64 idt + 0x40 * 16, 0x8e, S_CODE, irq_handler, 0
        mov     ebx, APIC
        mov     dword [rbx + 0xf0], 0x1ff       ; on, spurious vector FFh
        mov     dword [rbx + 0x80], 0
        mov     dword [abs n_irq], 0
        TRY     "interrupt to ourselves"
        mov     dword [rbx + 0x300], 0x44040    ; self, vector 40h
        nop
        mov     esi, [abs n_irq]                ; IF is clear
        sti
        nop
        mov     edi, [abs n_irq]
        cli
        NO_FAULT
        CHECK   "held back", esi, 0
        CHECK   "delivered after STI", edi, 1
        mov     dword [abs n_irq], 0
        TRY     "no interrupt in the shadow of STI"
        mov     dword [rbx + 0x300], 0x44040
        sti
        mov     esi, [abs n_irq]
        mov     edi, [abs n_irq]
        cli
        NO_FAULT
        CHECK   "not yet", esi, 0
        CHECK   "but now", edi, 1
        mov     dword [abs n_irq], 0
        TRY     "TPR holds it back"
        mov     eax, 5
        mov     cr8, rax
        mov     dword [rbx + 0x300], 0x44040
        sti
        nop
        nop
        mov     esi, [abs n_irq]
        xor     eax, eax
        mov     cr8, rax
        nop
        mov     edi, [abs n_irq]
        cli
        NO_FAULT
        CHECK   "held", esi, 0
        CHECK   "released", edi, 1
        mov     dword [abs n_irq], 0
        TRY     "HLT ends with the timer"
        mov     dword [rbx + 0x3e0], 3          ; divide by 16
        mov     dword [rbx + 0x320], 0x40       ; one shot
        mov     dword [rbx + 0x380], 100000
        sti
        hlt
        cli
        NO_FAULT
        CHECK   "timer", dword [abs n_irq], 1
        TRY     "pushed address after HLT"
        mov     dword [rbx + 0x380], 100000
        sti
.hlt:   hlt
        cli
        NO_FAULT
        CHECK   "timer again", dword [abs n_irq], 2
        ; Nothing in it but direct branches, and the one back leaves its page.
        TRY     "a loop over two pages lets interrupts in"
        mov     dword [rbx + 0x380], 1000000
        sti
        jmp     .two_pages
        times (4096 - 12 + 4096 - ($ - $$) % 4096) % 4096 nop
.two_pages:
        cmp     dword [abs n_irq], 3
        jae     .out
        nop
        nop
        nop
        jmp     .two_pages
.out:   cli
        NO_FAULT
        CHECK   "timer in the loop", dword [abs n_irq], 3
        ret

; Translated code of one setting of CR0.TS must not run under another.
test_ts_after_use:
        mov     ecx, 200
.again: lea     rdx, [abs .use]
        jmp     rdx
.back:  dec     ecx
        jnz     .again
        mov     rax, cr0
        or      rax, 8
        mov     cr0, rax
        TRY     "vector instruction reached by the same jump, now with TS"
        mov     ecx, 1
        lea     rdx, [abs .use]
        jmp     rdx
        FAULTS  7, 0
        clts
        ret
.use:   movaps  xmm0, xmm0
        jmp     .back

        GUEST_END
