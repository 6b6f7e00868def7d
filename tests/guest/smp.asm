; Four processors: locked operations (also across lines and pages), memory order, code modified by
; itself, by aliases and by other processors, page table changes with shootdown by interrupt, large
; pages, accessed and dirty bits under contention.
%define GUEST_NAME "smp"
%define GUEST_REAL
%include "guest.inc"

NCPU    equ     4
APIC    equ     0xfee00000
FRESH   equ     0x2000000               ; 32 MiB on: pages that never held code
ALIAS   equ     0x40000000              ; 1 GiB on: the first 64 MiB again
VPAGE   equ     0x400000                ; AREA: the table pt
ROUNDS  equ     4096                    ; litmus tests in one run
CROSSES equ     600

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
gdt_end:
gdtr:   dw      gdt_end - gdt - 1
        dq      gdt
idtr:   dw      0xfff
        dq      idt

        section .bss
        alignb  4096
pml4:   resb    4096
pdpt:   resb    4096
pd:     resb    4096 * 4
pt:     resb    4096
idt:    resb    4096
stacks: resb    4096 * NCPU
bytes2: resb    8192                    ; an operand in the middle crosses a page
litmus_x: resb  ROUNDS * 64
litmus_y: resb  ROUNDS * 64
litmus_r: resb  ROUNDS * 64             ; results: a dword for each observer
frames: resb    8 * 4096
        alignb  64
n_up:   resd    1
job:    resq    1
        alignb  64
job_no: resd    1
        alignb  64
n_done: resd    1
        alignb  64
flag:   resd    1
        alignb  64
acks:   resd    1
        alignb  64
counter: resd   1
        alignb  64
wide:   resq    2
        alignb  64
n_wrong: resd   1
stop:   resd    1
has_1g: resd    1

%macro APICW 2                          ; uses r11
        mov     r11d, APIC
        mov     dword [r11 + %1], %2
%endmacro

; ---- start ----

        section .real
        bits    16
trampoline:
        cli
        xor     ax, ax
        mov     ds, ax
        o32 lgdt [tr_gdtr]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     dword S_CODE32:ap32
tr_gdtr: dw     gdt_end - gdt - 1
        dd      gdt
        align   16
trampoline_end:

        section .text
        bits    32
entry:
        cli
        cld
        CLEAR_BSS
        mov     al, 0xff
        out     0x21, al
        out     0xa1, al
        mov     dword [pml4], pdpt + 7
        mov     dword [pdpt], pd + 7
        mov     dword [pdpt + 8], pd + 0x1007
        mov     dword [pdpt + 16], pd + 0x2007
        mov     dword [pdpt + 24], pd + 0x3007
        mov     edi, pd
        mov     eax, 0x83
        mov     ecx, 2048
.pd:    mov     [edi], eax
        add     eax, 0x200000
        add     edi, 8
        loop    .pd
        mov     edi, pd + 4096
        mov     eax, 0x83
        mov     ecx, 32
.alias: mov     [edi], eax
        add     eax, 0x200000
        add     edi, 8
        loop    .alias
        mov     dword [pd + 16], pt + 7
        mov     edi, 0x8000             ; the trampoline, behind .text in the image
        mov     esi, real_image
        mov     ecx, trampoline_end - trampoline
        rep movsb
        lgdt    [gdtr]
        jmp     S_CODE32:ap32
ap32:
        mov     ax, S_DATA
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     eax, cr4
        or      eax, 0x6a0
        mov     cr4, eax
        mov     eax, pml4
        mov     cr3, eax
        mov     ecx, 0xc0000080
        rdmsr
        or      eax, 0x900
        wrmsr
        mov     eax, cr0
        or      eax, 0x80010023
        and     eax, ~0x6000000c        ; caches on, no x87 emulation
        mov     cr0, eax
        jmp     S_CODE:start64

        bits    64
        VERDICTS

start64:
        lidt    [abs idtr]
        mov     edi, 1
        lock xadd [abs n_up], edi
        mov     esp, edi
        inc     esp
        shl     esp, 12
        add     esp, stacks
        APICW   0xf0, 0x1ff
        APICW   0x80, 0
        test    edi, edi
        jz      bsp
        sti
        xor     ebx, ebx
.wait:  pause
        cmp     [abs job_no], ebx
        je      .wait
        inc     ebx
        push    rbx
        push    rdi
        call    [abs job]
        pop     rdi
        pop     rbx
        lock inc dword [abs n_done]
        jmp     .wait

; Runs rax on all processors, with edi their number, and waits for all.
run_all:
        mov     [abs job], rax
        mov     dword [abs n_done], 0
        mov     dword [abs flag], 0
        mov     dword [abs acks], 0
        mov     dword [abs stop], 0
        mov     dword [abs counter], 0
        mov     dword [abs n_wrong], 0
        lock inc dword [abs job_no]
        xor     edi, edi
        call    [abs job]
.wait:  pause
        cmp     dword [abs n_done], NCPU - 1
        jne     .wait
        ret
%macro RUN_ALL 1
        mov     eax, %1
        call    run_all
%endmacro

; All processors meet; ebx counts the meetings, from 0.
meet:
        add     ebx, NCPU
        lock inc dword [abs acks]
.wait:  pause
        cmp     [abs acks], ebx
        jb      .wait
        ret

%assign i 0
%rep 32
vec_ %+ i:
%if i != 8 && i != 17 && (i < 10 || i > 14)
        push    0
%endif
        push    i
        jmp     on_exception
%assign i i + 1
%endrep
on_exception:
        mov     rax, [rsp]
        mov     [abs got_vec], rax
        mov     rax, [rsp + 8]
        mov     [abs got_err], rax
        mov     rax, [rsp + 16]
        mov     [abs got_ip], rax
        jmp     lost

shoot:                                  ; vector 40h
        invlpg  [abs VPAGE]
        lock inc dword [abs acks]
        push    r11
        APICW   0xb0, 0
        pop     r11
        iretq

%macro GATE 2
        mov     eax, %2
        mov     [abs idt + %1 * 16], ax
        mov     word [abs idt + %1 * 16 + 2], S_CODE
        mov     word [abs idt + %1 * 16 + 4], 0x8e00
        shr     eax, 16
        mov     [abs idt + %1 * 16 + 6], ax
%endmacro

bsp:
%assign i 0
%rep 32
        GATE    i, vec_ %+ i
%assign i i + 1
%endrep
        GATE    0x40, shoot
        GATE    0xff, spurious
        APICW   0x300, 0xc4500       ; INIT to all others
        mov     ecx, 100000
.d1:    pause
        loop    .d1
        APICW   0x300, 0xc4608       ; start-up at 8000h
        mov     ecx, 300000000
.d2:    pause
        cmp     dword [abs n_up], NCPU
        je      .up
        loop    .d2
.up:    CHECK   "processors", dword [abs n_up], NCPU
        cmp     dword [abs n_up], NCPU
        jne     finish
        call    test_locked
        call    test_litmus
        call    test_self
        call    test_cross
        call    test_large
        call    test_shoot
        call    test_ad
        jmp     finish
spurious:
        iretq

; ---- locked operations ----

%macro LOCKED_JOB 3                     ; label, rounds, instruction on [rsi]
%1:     mov     ecx, %2
        mov     rsi, r15
.next:  %3
        loop    .next
        ret
%endmacro
LOCKED_JOB job_inc, 20000, {lock inc dword [rsi]}
LOCKED_JOB job_line, 500, {lock add qword [rsi], 1}
LOCKED_JOB job_page, 3000, {lock add qword [rsi], 1}

; The operand's address: jobs take it from memory, r15 differs between processors.
        section .bss
operand: resq 1
        section .text
%macro WITH_OPERAND 2
%1 %+ _at:
        mov     r15, [abs operand]
        jmp     %1
%endmacro
WITH_OPERAND job_inc, 0
WITH_OPERAND job_line, 0
WITH_OPERAND job_page, 0

job_xadd:                               ; sum of what XADD gave: 0 + 1 + ... when none is lost
        mov     rsi, [abs operand]
        xor     edx, edx
        mov     ecx, 2000
.next:  mov     eax, 1
        lock xadd [rsi], rax
        add     rdx, rax
        loop    .next
        lock add [abs wide], rdx
        ret
job_cmpxchg:
        mov     rsi, [abs operand]
        mov     ecx, 2000
.next:  mov     eax, [rsi]
.again: lea     edx, [rax + 3]
        lock cmpxchg [rsi], edx
        jne     .again
        loop    .next
        ret
job_xchg:                               ; a spin lock around a plain increment
        mov     rsi, [abs operand]
        mov     ecx, 1000
.next:  mov     eax, 1
        xchg    eax, [rsi]
        test    eax, eax
        jz      .mine
        pause
        jmp     .next
.mine:  inc     dword [abs counter]
        mov     dword [rsi], 0
        loop    .next
        ret
job_bts:                                ; the same with a bit
        mov     rsi, [abs operand]
        mov     ecx, 1000
.next:  lock bts dword [rsi], 17
        jnc     .mine
        pause
        jmp     .next
.mine:  inc     dword [abs counter]
        lock btr dword [rsi], 17
        loop    .next
        ret
job_cx8b:                               ; across pages
        mov     rsi, [abs operand]
        mov     r8d, 1000
.next:  mov     eax, [rsi]
        mov     edx, [rsi + 4]
.again: lea     ebx, [rax + 1]
        mov     ecx, ebx
        not     ecx
        test    eax, eax
        jz      .swap
        mov     edi, eax
        not     edi
        cmp     edi, edx                ; the halves must fit; a torn plain read is no error
        jne     .next
.swap:  lock cmpxchg8b [rsi]
        jne     .again
        dec     r8d
        jnz     .next
        ret
job_cx16b:
        mov     r8d, 5000
        xor     eax, eax
        xor     edx, edx
.again: mov     rbx, rax
        inc     rbx
        mov     rcx, rbx
        neg     rcx
        lock cmpxchg16b [abs wide]
        je      .done
        mov     rdi, rax                ; what it found is never torn
        neg     rdi
        cmp     rdi, rdx
        je      .again
        lock inc dword [abs n_wrong]
        jmp     .again
.done:  dec     r8d
        jnz     .again
        ret

test_locked:
        mov     qword [abs operand], counter
        RUN_ALL job_inc_at
        CHECK   "LOCK INC", dword [abs counter], NCPU * 20000
        mov     qword [abs operand], bytes2 + 0x3d
        RUN_ALL job_line_at
        CHECK   "LOCK ADD across lines", dword [abs bytes2 + 0x3d], NCPU * 500
        mov     qword [abs operand], bytes2 + 0xffd
        RUN_ALL job_page_at
        CHECK   "LOCK ADD across pages", dword [abs bytes2 + 0xffd], NCPU * 3000
        mov     qword [abs bytes2 + 0xffd], 0
        mov     qword [abs wide], 0
        RUN_ALL job_xadd
        CHECK   "LOCK XADD across pages", dword [abs bytes2 + 0xffd], NCPU * 2000
        CHECK   "each value once", qword [abs wide], NCPU * 2000 * (NCPU * 2000 - 1) / 2
        mov     qword [abs bytes2 + 0xffd], 0
        mov     qword [abs operand], bytes2 + 0xffe
        RUN_ALL job_cmpxchg
        CHECK   "LOCK CMPXCHG across pages", dword [abs bytes2 + 0xffe], NCPU * 6000
        mov     dword [abs bytes2 + 0xffe], 0
        RUN_ALL job_xchg
        CHECK   "XCHG across pages", dword [abs counter], NCPU * 1000
        RUN_ALL job_bts
        CHECK   "LOCK BTS across pages", dword [abs counter], NCPU * 1000
        mov     qword [abs bytes2 + 0xffd], 0
        mov     qword [abs operand], bytes2 + 0xffd
        RUN_ALL job_cx8b
        CHECK   "LOCK CMPXCHG8B across pages", dword [abs bytes2 + 0xffd], NCPU * 1000
        mov     qword [abs wide], 0
        mov     qword [abs wide + 8], 0
        RUN_ALL job_cx16b
        CHECK   "LOCK CMPXCHG16B", qword [abs wide], NCPU * 5000
        CHECK   "both halves", dword [abs n_wrong], 0
        ret

; ---- memory order (x86-TSO) ----

; Each of ROUNDS tests has lines of its own; the processors run over them side by side.
%macro LITMUS 2                         ; label, what each does (esi: offset)
%1:     xor     ebx, ebx
        call    meet
        xor     esi, esi
.next:  %2
        add     esi, 64
        cmp     esi, ROUNDS * 64
        jb      .next
        ret
%endmacro
LITMUS job_sb_fence, {call sb_fence}
LITMUS job_sb_lock, {call sb_lock}
LITMUS job_mp, {call mp}
LITMUS job_lb, {call lb}
LITMUS job_iriw, {call iriw}
X       equ     litmus_x
Y       equ     litmus_y
R       equ     litmus_r
sb_fence:
        cmp     edi, 1
        je      .one
        ja      .none
        mov     dword [rsi + X], 1
        mfence
        mov     eax, [rsi + Y]
        mov     [rsi + R], eax
        ret
.one:   mov     dword [rsi + Y], 1
        mfence
        mov     eax, [rsi + X]
        mov     [rsi + R + 4], eax
.none:  ret
sb_lock:
        cmp     edi, 1
        je      .one
        ja      .none
        mov     eax, 1
        xchg    eax, [rsi + X]
        mov     eax, [rsi + Y]
        mov     [rsi + R], eax
        ret
.one:   mov     dword [rsi + Y], 1
        lock or dword [rsp], 0
        mov     eax, [rsi + X]
        mov     [rsi + R + 4], eax
.none:  ret
mp:     test    edi, edi
        jnz     .read
        mov     dword [rsi + X], 1
        mov     dword [rsi + Y], 1
        ret
.read:  mov     eax, [rsi + Y]
        mov     edx, [rsi + X]
        mov     [rsi + rdi * 8 + R], eax
        mov     [rsi + rdi * 8 + R + 4], edx
        ret
lb:     cmp     edi, 1
        je      .one
        ja      .none
        mov     eax, [rsi + X]
        mov     dword [rsi + Y], 1
        mov     [rsi + R], eax
        ret
.one:   mov     eax, [rsi + Y]
        mov     dword [rsi + X], 1
        mov     [rsi + R + 4], eax
.none:  ret
iriw:   cmp     edi, 1
        jb      .x
        je      .y
        cmp     edi, 2
        jne     .yx
        mov     eax, [rsi + X]
        mov     edx, [rsi + Y]
        mov     [rsi + R], eax
        mov     [rsi + R + 4], edx
        ret
.yx:    mov     eax, [rsi + Y]
        mov     edx, [rsi + X]
        mov     [rsi + R + 8], eax
        mov     [rsi + R + 12], edx
        ret
.x:     mov     dword [rsi + X], 1
        ret
.y:     mov     dword [rsi + Y], 1
        ret

clear_litmus:
        mov     edi, litmus_x
        mov     ecx, ROUNDS * 64 * 3 / 8
        xor     eax, eax
        rep stosq
        ret
; Counts in ebp the rounds whose results make the code of %1 say ZF.
%macro FORBIDDEN 4                      ; job, name, repetitions, jump to .bad in the judge
        mov     r12d, %3
%%again:
        call    clear_litmus
        RUN_ALL %1
        xor     esi, esi
%%next: call    %4
        adc     ebp, 0
        add     esi, 64
        cmp     esi, ROUNDS * 64
        jb      %%next
        dec     r12d
        jnz     %%again
        CHECK   %2, ebp, 0
        xor     ebp, ebp
%endmacro
; Judges: CF set when the outcome is forbidden.
none_set:                               ; both 0
        mov     eax, [rsi + R]
        or      eax, [rsi + R + 4]
        cmp     eax, 1
        ret
all_set:                                ; both 1
        mov     eax, [rsi + R]
        and     eax, [rsi + R + 4]
        neg     eax
        ret
mp_bad:                                 ; second seen, first not
        mov     ecx, NCPU - 1
.next:  cmp     dword [rsi + rcx * 8 + R], 1
        jne     .well
        cmp     dword [rsi + rcx * 8 + R + 4], 1
        jb      .bad
.well:  loop    .next
        clc
.bad:   ret
iriw_bad:                               ; 1, 0 and 1, 0
        cmp     dword [rsi + R], 1
        jne     .well
        cmp     dword [rsi + R + 8], 1
        jne     .well
        mov     eax, [rsi + R + 4]
        or      eax, [rsi + R + 12]
        cmp     eax, 1
        ret
.well:  clc
        ret

test_litmus:
        xor     ebp, ebp
        FORBIDDEN job_sb_fence, "store buffering with MFENCE", 3, none_set
        FORBIDDEN job_sb_lock, "store buffering with locked operations", 3, none_set
        FORBIDDEN job_mp, "message passing", 3, mp_bad
        FORBIDDEN job_lb, "load buffering", 3, all_set
        FORBIDDEN job_iriw, "independent reads of independent writes", 3, iriw_bad
        ret

; ---- self-modifying code ----

test_self:
        mov     ebp, 50
.again: xor     ebx, ebx
        mov     byte [abs .i1 + 1], 7           ; the next instruction
.i1:    mov     bl, 0
        CHECK   "next instruction", bl, 7
        mov     byte [abs .i1 + 1], 0
        mov     byte [abs ALIAS + .i2 + 1], 8   ; by another address
.i2:    mov     bl, 0
        CHECK   "through an alias", bl, 8
        mov     byte [abs .i2 + 1], 0
        mov     esi, .new
        mov     edi, .i3
        mov     ecx, 2
        rep movsb
.i3:    mov     bl, 0
        CHECK   "by REP MOVS", bl, 9
        mov     byte [abs .i3 + 1], 0
        lock add byte [abs .i4 + 1], 5
.i4:    mov     bl, 0
        CHECK   "by LOCK ADD", bl, 5
        mov     byte [abs .i4 + 1], 0
        mov     rax, rsp
        mov     esp, .i5 + 9
        push    qword [abs .new8]
        mov     rsp, rax
.i5:    mov     ebx, 1
        nop
        nop
        nop
        nop
        CHECK   "by PUSH", ebx, 0x12345678
        mov     dword [abs .i5 + 1], 1
        ; code across two pages, its second page overwritten
        mov     dword [abs FRESH + 0xffd], 0x000000b8   ; mov eax, imm32
        mov     dword [abs FRESH + 0x1001], 0xc300      ; .. ret
        mov     eax, FRESH + 0xffd
        call    rax
        CHECK   "across pages", eax, 0
        mov     byte [abs FRESH + 0x1000], 0x11
        mov     eax, FRESH + 0xffd
        call    rax
        CHECK   "second page", eax, 0x110000
        mov     word [abs ALIAS + FRESH + 0xfff], 0x2222
        mov     eax, FRESH + 0xffd
        call    rax
        CHECK   "a store to both", eax, 0x222200
        dec     ebp
        jnz     .again
        ret
        section .data
.new:   mov     bl, 9
.new8:  dd      0x12345678, 0x90909090          ; operand and NOPs
        section .text

; ---- cross-modifying code ----

; The first writes code, tells the number of the version, waits for the others. The others wait for
; it, serialise, and call.
        section .bss
code_at: resq 1                         ; of mov eax, imm32; ret
store_at: resq 1                        ; where its operand is written
        section .text
job_cross:
        mov     r14d, 1
        test    edi, edi
        jnz     .call
.write: mov     rsi, [abs store_at]
        mov     [rsi], r14d
        mov     [abs flag], r14d
        imul    edx, r14d, NCPU - 1
.acked: pause
        cmp     [abs acks], edx
        jne     .acked
        inc     r14d
        cmp     r14d, CROSSES
        jbe     .write
        ret
.call:  pause
        cmp     [abs flag], r14d
        jne     .call
        xor     eax, eax
        cpuid
        call    [abs code_at]
        cmp     eax, r14d
        je      .well
        lock inc dword [abs n_wrong]
.well:  lock inc dword [abs acks]
        inc     r14d
        cmp     r14d, CROSSES
        jbe     .call
        ret

; Modified in line, right behind what serialises.
        align   4096
job_inline:
        mov     r14d, 1
        test    edi, edi
        jnz     .call
.write: mov     [abs .code + 1], r14d
        mov     [abs flag], r14d
        imul    edx, r14d, NCPU - 1
.acked: pause
        cmp     [abs acks], edx
        jne     .acked
        inc     r14d
        cmp     r14d, CROSSES
        jbe     .write
        ret
.call:  pause
        cmp     [abs flag], r14d
        jne     .call
        cpuid
.code:  mov     eax, 0
        cmp     eax, r14d
        je      .well
        lock inc dword [abs n_wrong]
.well:  lock inc dword [abs acks]
        inc     r14d
        cmp     r14d, CROSSES
        jbe     .call
        ret
        align   4096

; Each round in a page that never held code: the first writes one version, the others run it while
; the first, whose TLB knows the page as writable, writes the next.
FRESH_PAGES equ 800
job_fresh:
        mov     r14d, 2
        mov     r13d, FRESH + 0x10000
        test    edi, edi
        jnz     .call
.write: mov     byte [r13 + 0x100], 0xb8
        mov     [r13 + 0x101], r14d
        mov     byte [r13 + 0x105], 0xc3
        mov     [abs flag], r14d
        mov     ecx, r14d
        shr     ecx, 1
        and     ecx, 127
.delay: mov     [r13 + 0x800], ecx
        dec     ecx
        jns     .delay
        inc     r14d
        mov     [r13 + 0x101], r14d
        mov     [abs flag], r14d
        mov     edx, r14d
        shr     edx, 1
        imul    edx, edx, NCPU - 1
.acked: pause
        cmp     [abs acks], edx
        jne     .acked
        inc     r14d
        add     r13d, 4096
        cmp     r14d, FRESH_PAGES * 2
        jb      .write
        ret
.call:  pause
        cmp     [abs flag], r14d
        jb      .call
        lea     eax, [r13 + 0x100]
        call    rax                     ; one or the other
        inc     r14d
.next:  pause
        cmp     [abs flag], r14d
        jne     .next
        cpuid
        lea     eax, [r13 + 0x100]
        call    rax
        cmp     eax, r14d
        je      .well
        lock inc dword [abs n_wrong]
.well:  lock inc dword [abs acks]
        inc     r14d
        add     r13d, 4096
        cmp     r14d, FRESH_PAGES * 2
        jb      .call
        ret

%macro CROSS 3                          ; name, address of code, how it is written
        mov     qword [abs code_at], %2
        mov     qword [abs store_at], %3 + 1
        mov     byte [abs %2], 0xb8
        mov     dword [abs %2 + 1], 0
        mov     byte [abs %2 + 5], 0xc3
        RUN_ALL job_cross
        CHECK   %1, dword [abs n_wrong], 0
%endmacro
test_cross:
        CROSS   "code of another processor", FRESH + 0x4000, FRESH + 0x4000
        CROSS   "through an alias", FRESH + 0x5000, ALIAS + FRESH + 0x5000
        CROSS   "across pages", FRESH + 0x6ffd, FRESH + 0x6ffd
        CROSS   "across pages, by the alias", FRESH + 0x8ffe, ALIAS + FRESH + 0x8ffe
        RUN_ALL job_inline
        CHECK   "behind CPUID", dword [abs n_wrong], 0
        RUN_ALL job_fresh
        CHECK   "pages that become code", dword [abs n_wrong], 0
        ret

; ---- large pages ----

test_large:
        mov     dword [abs 0x3000000], 0x11
        mov     dword [abs 0x3001000], 0x12
        mov     dword [abs 0x31ff000], 0x13
        mov     dword [abs 0x3200000], 0x21
        mov     dword [abs 0x3201000], 0x22
        mov     dword [abs 0x33ff000], 0x23
        mov     r8d, 0x60000000
        mov     edi, pd + 0x1000 + 256 * 8
        mov     dword [rdi], 0x3000083
        mov     ebx, [r8]
        add     ebx, [r8 + 0x1000]
        add     ebx, [r8 + 0x1ff000]
        CHECK   "2 MiB page", ebx, 0x36
        mov     dword [rdi], 0x3200083
        invlpg  [r8 + 0x123456]
        mov     ebx, [r8]
        add     ebx, [r8 + 0x1000]
        add     ebx, [r8 + 0x1ff000]
        CHECK   "INVLPG of any address in it", ebx, 0x66
        mov     eax, 0x80000001
        cpuid
        bt      edx, 26
        jnc     .no_1g
        mov     r8, 0x100000000
        mov     edi, pdpt + 32
        mov     dword [rdi], 0x83
        mov     eax, 0x3000000
        mov     ebx, [r8 + rax]
        add     ebx, [r8 + rax + 0x1000]
        CHECK   "1 GiB page", ebx, 0x23
        mov     dword [rdi], pd + 7
        mov     dword [abs pd + 24 * 8], 0x3200083      ; 48 MiB shows 50 MiB
        invlpg  [r8 + 0x12345678]
        mov     ebx, [r8 + rax]
        add     ebx, [r8 + rax + 0x1000]
        CHECK   "INVLPG when it became small ones", ebx, 0x43
        mov     dword [abs pd + 24 * 8], 0x3000083
        invlpg  [r8 + rax]
        invlpg  [abs 0x3000000]
.no_1g: ret

; ---- shootdown ----

; The first points the page elsewhere, interrupts the others until all have invalidated it, and says
; so; after that nobody may see the old frame.
job_shoot:
        mov     r14d, 1
        test    edi, edi
        jnz     .look
.next:  mov     eax, r14d
        and     eax, 7
        shl     eax, 12
        add     eax, frames
        mov     [rax], r14d
        or      eax, 3
        mov     [abs pt], eax
        invlpg  [abs VPAGE]
        mov     dword [abs acks], 0
        APICW   0x300, 0xc4040       ; vector 40h to all others
.acked: pause
        cmp     dword [abs acks], NCPU - 1
        jne     .acked
        mov     [abs flag], r14d
        inc     r14d
        cmp     r14d, 400
        jbe     .next
        mov     dword [abs stop], 1
        ret
.look:  mov     eax, [abs flag]
        mov     edx, [abs VPAGE]
        cmp     edx, eax
        jae     .well
        lock inc dword [abs n_wrong]
.well:  cmp     dword [abs stop], 0
        je      .look
        ret
test_shoot:
        mov     dword [abs pt], frames + 3
        mov     dword [abs frames], 0
        RUN_ALL job_shoot
        CHECK   "shootdown", dword [abs n_wrong], 0
        ret

; ---- accessed and dirty bits ----

; Each toggles a bit of its own in one entry, and makes the walker set A and D in it all the time.
job_ad: mov     ecx, 4001
        lea     edx, [rdi + 52]
        cmp     edi, 3
        jne     .next
        mov     edx, 9
.next:  lock btc qword [abs pt + 8], rdx
        lock and qword [abs pt + 8], ~0x60
        invlpg  [abs VPAGE + 0x1000]
        mov     [rdi * 4 + VPAGE + 0x1000], ecx
        loop    .next
        ret
test_ad:
        mov     eax, frames + 3
        mov     [abs pt + 8], rax
        RUN_ALL job_ad
        mov     rbx, [abs pt + 8]
        and     rbx, ~0x60
        mov     rax, frames + 3 + 0x0070000000000200
        CHECK   "no bit is lost", rbx, rax
        mov     ebx, [abs frames + 12]
        CHECK   "stores arrive", ebx, 1
        mov     qword [abs pt + 8], frames + 3
        invlpg  [abs VPAGE + 0x1000]
        mov     ebx, [abs VPAGE + 0x1000]
        mov     ebx, [abs pt + 8]
        and     ebx, 0x60
        CHECK   "read sets A", ebx, 0x20
        mov     [abs VPAGE + 0x1000], ebx
        mov     ebx, [abs pt + 8]
        and     ebx, 0x60
        CHECK   "write sets D", ebx, 0x60
        ret

        section .text
        align   16
real_image equ  section..real.start
GUEST_END
