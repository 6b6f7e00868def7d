/*
 * Unit tests of the native executor where the differential test against the host CPU does not
 * come: mode bits, hidden features, real-mode formats, XCR0, checks of the XSAVE family, code
 * memory that runs full, state moved in and out, and what is left of the guest in the host's
 * registers.
 */
#include "cpu/soft/block.h"
#include "cpu/soft/native_int.h"

#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>

#include <cmocka.h>

#define RAM  (4 * MIB)
#define CODE 0x10000u
#define DATA 0x20000u

struct box {
    struct mem *mem;
    struct cpu_model model;
    struct engine_vm *vm;
    struct scpu *c;
    uint8_t *ram;
    struct vcpu_state s;
    uint32_t at; /* end of the code so far */
};

enum box_mode { REAL, PROT16, PROT32, LONG };

static void identity_pages(struct box *b)
{
    uint64_t pml4 = 0x2000 | 3, pdpt = 0x3000 | 3, page = 0x83;
    memcpy(b->ram + 0x1000, &pml4, 8);
    memcpy(b->ram + 0x2000, &pdpt, 8);
    for (unsigned i = 0; i < 2; i++) {
        memcpy(b->ram + 0x3000 + i * 8u, &page, 8);
        page += 2 * MIB;
    }
}

/* hide: model bit (leaf 1 ECX) that the guest does not get. */
static struct box *box_new(enum box_mode mode, uint32_t hide)
{
    struct box *b = aligned_alloc(64, align_up(sizeof(*b), 64));
    assert_non_null(b);
    memset(b, 0, sizeof(*b));
    b->at = CODE;
    assert_int_equal(mem_new(&b->mem, NULL), 0);
    assert_int_equal(mem_slot_add(b->mem, GPA(0), RAM, MEM_RAM, NULL), 0);
    assert_int_equal(cpu_model_host(&b->model, true, 1, NULL), 0);
    for (unsigned i = 0; i < b->model.n_leaves; i++) {
        if (b->model.leaves[i].leaf == 1) {
            b->model.leaves[i].ecx &= ~hide;
        }
    }
    struct engine_vm_params p = {.mem = b->mem, .model = &b->model, .n_cpus = 1};
    struct engine_vcpu *vcpu;
    assert_int_equal(engine_soft.vm_new(&b->vm, &p, NULL), 0);
    assert_int_equal(engine_soft.map_slot(b->vm, mem_slot_get(b->mem, 0), NULL), 0);
    assert_int_equal(engine_soft.vcpu_new(b->vm, 0, &vcpu, NULL), 0);
    b->c = (struct scpu *)vcpu;
    b->ram = mem_slot_get(b->mem, 0)->host;
    identity_pages(b);
    engine_soft.get_state(vcpu, &b->s);

    const uint16_t flags = SEG_S | SEG_P;
    struct vcpu_state *s = &b->s;
    for (unsigned i = 0; i < X86_NSEG; i++) {
        s->seg[i] = (struct vcpu_seg){mode == REAL ? 0 : 0x10, 0x3 | flags, UINT32_MAX, 0};
        if (mode == PROT32 || mode == LONG) {
            s->seg[i].attr |= SEG_DB | SEG_G;
        }
    }
    s->seg[X86_CS].attr = (uint16_t)(0xb | flags |
                                     (mode == LONG     ? SEG_L | SEG_G
                                      : mode == PROT32 ? SEG_DB | SEG_G
                                                       : 0));
    s->seg[X86_CS].sel = 8;
    if (mode == REAL) {
        s->seg[X86_CS] = (struct vcpu_seg){CODE >> 4, 0x3 | flags, 0xffff, CODE};
        s->seg[X86_DS].base = DATA;
        s->seg[X86_DS].sel = DATA >> 4;
    }
    s->cr0 = CR0_ET | CR0_NE | (mode == REAL ? 0 : CR0_PE);
    s->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    s->xcr0 = b->model.xcr0_mask;
    if (mode == LONG) {
        s->cr0 |= CR0_PG;
        s->cr4 |= CR4_PAE;
        s->cr3 = 0x1000;
        s->efer = EFER_LME | EFER_LMA;
    }
    s->rip = mode == REAL ? 0 : CODE;
    s->gpr[X86_RSI] = mode == REAL ? 0 : DATA;
    return b;
}

static void box_free(struct box *b)
{
    engine_soft.vcpu_free((struct engine_vcpu *)b->c);
    engine_soft.vm_free(b->vm);
    mem_free(b->mem);
    free(b);
}

static void code(struct box *b, unsigned n, ...)
{
    va_list ap;
    va_start(ap, n);
    for (unsigned i = 0; i < n; i++) {
        b->ram[b->at++] = (uint8_t)va_arg(ap, int);
    }
    va_end(ap);
}

/* Runs to a HLT (-1) or an exception (its vector); then the code is as at first. */
static int run(struct box *b)
{
    struct scpu *c = b->c;
    int vector = -1;
    b->ram[b->at] = 0xf4;
    mem_written(b->mem, GPA(CODE), b->at + 1 - CODE);
    assert_int_equal(engine_soft.set_state((struct engine_vcpu *)c, &b->s, NULL), 0);
    for (unsigned i = 0; i < 100000 && !c->exc.pending && !c->halted; i++) {
        struct sblock *blk = block_get(c, c->mode);
        if (blk == NULL) {
            break;
        }
        c->icount += blk->n_insns;
        c->blk = blk;
        c->rip = blk->va;
        c->stop_result = INSN_NEXT;
        atomic_store(&c->exit_req, 0);
        uop_run(c, blk->uops[0].fn(c, blk->uops));
        c->blk = NULL;
        c->code_hit = false;
    }
    if (c->exc.pending) {
        vector = c->exc.vector;
        c->exc.pending = false;
    }
    c->halted = false;
    soft_leave(c);
    b->at = CODE;
    return vector;
}

static uint64_t load(const struct box *b, uint32_t at, unsigned n)
{
    uint64_t v = 0;
    memcpy(&v, b->ram + at, n);
    return v;
}

static void store(struct box *b, uint32_t at, uint64_t v, unsigned n)
{
    memcpy(b->ram + at, &v, n);
}

/* ---- mode bits ---- */
static int one(struct box *b, unsigned n, const uint8_t *bytes)
{
    for (unsigned i = 0; i < n; i++) {
        b->ram[b->at++] = bytes[i];
    }
    return run(b);
}
#define ONE(b, ...) one((b), sizeof((uint8_t[]){__VA_ARGS__}), (uint8_t[]){__VA_ARGS__})

static void mode_bits_raise(void **state)
{
    (void)state;
    struct box *b = box_new(PROT32, 0);
    struct vcpu_state *s = &b->s;
    uint64_t cr0 = s->cr0, cr4 = s->cr4;
    s->cr0 = cr0 | CR0_TS;
    assert_int_equal(ONE(b, 0xd9, 0xe8), EXC_NM);             /* fld1 */
    assert_int_equal(ONE(b, 0x0f, 0x77), EXC_NM);             /* emms */
    assert_int_equal(ONE(b, 0x0f, 0x58, 0xc1), EXC_NM);       /* addps */
    assert_int_equal(ONE(b, 0xc5, 0xf0, 0x58, 0xc1), EXC_NM); /* vaddps */
    assert_int_equal(ONE(b, 0x0f, 0xae, 0x06), EXC_NM);       /* fxsave */
    assert_int_equal(ONE(b, 0x0f, 0xae, 0x26), EXC_NM);       /* xsave */
    assert_int_equal(ONE(b, 0xf3, 0x0f, 0xb8, 0xc1), -1);     /* popcnt */
    assert_int_equal(ONE(b, 0x9b), -1);                       /* wait */
    s->cr0 = cr0 | CR0_TS | CR0_MP;
    assert_int_equal(ONE(b, 0x9b), EXC_NM);
    s->cr0 = cr0 | CR0_EM;
    assert_int_equal(ONE(b, 0xd9, 0xe8), EXC_NM);
    assert_int_equal(ONE(b, 0x0f, 0x77), EXC_UD);
    assert_int_equal(ONE(b, 0x0f, 0x58, 0xc1), EXC_UD);
    assert_int_equal(ONE(b, 0xc5, 0xf0, 0x58, 0xc1), -1);
    s->cr0 = cr0;
    s->cr4 = cr4 & ~(uint64_t)CR4_OSFXSR;
    assert_int_equal(ONE(b, 0x0f, 0x58, 0xc1), EXC_UD);
    assert_int_equal(ONE(b, 0x0f, 0xae, 0x06), -1);
    assert_int_equal(ONE(b, 0xd9, 0xe8), -1);
    s->cr4 = cr4 & ~(uint64_t)CR4_OSXSAVE;
    assert_int_equal(ONE(b, 0xc5, 0xf0, 0x58, 0xc1), EXC_UD);
    assert_int_equal(ONE(b, 0x0f, 0xae, 0x26), EXC_UD);
    s->cr4 = cr4;
    s->xcr0 = 3;
    assert_int_equal(ONE(b, 0xc5, 0xf0, 0x58, 0xc1), EXC_UD);
    assert_int_equal(ONE(b, 0xf0, 0x0f, 0x58, 0xc1), EXC_UD); /* lock */
    box_free(b);
}

static void simd_errors_need_osxmmexcpt(void **state)
{
    (void)state;
    struct box *b = box_new(PROT32, 0);
    uint64_t cr4 = b->s.cr4;
    for (unsigned i = 0; i < 2; i++) {
        b->s.cr4 = i ? cr4 & ~(uint64_t)CR4_OSXMMEXCPT : cr4;
        store(b, DATA, 0x1f80 & ~0x200u, 4); /* division by zero unmasked */
        store(b, DATA + 16, 0x3f800000, 4);
        code(b, 3, 0x0f, 0xae, 0x16);             /* ldmxcsr [esi] */
        code(b, 5, 0xf3, 0x0f, 0x10, 0x46, 0x10); /* movss xmm0, [esi+16] */
        code(b, 3, 0x0f, 0x57, 0xc9);             /* xorps xmm1, xmm1 */
        code(b, 4, 0xf3, 0x0f, 0x5e, 0xc1);       /* divss xmm0, xmm1 */
        assert_int_equal(run(b), i ? EXC_UD : EXC_XM);
        assert_int_equal(b->c->rip, CODE + 11);
        uint32_t mxcsr;
        memcpy(&mxcsr, b->c->xsave + 24, 4);
        assert_int_equal(mxcsr, 0x1d84);
    }
    box_free(b);
}

static void hidden_features(void **state)
{
    (void)state;
    struct box *b = box_new(PROT32, 1u << 23); /* no POPCNT */
    assert_int_equal(ONE(b, 0xf3, 0x0f, 0xb8, 0xc1), EXC_UD);
    box_free(b);
    b = box_new(PROT32, 1u << 28); /* no AVX */
    assert_int_equal(ONE(b, 0xc5, 0xf0, 0x58, 0xc1), EXC_UD);
    box_free(b);
}

static void lzcnt_without_the_feature_is_bsr(void **state)
{
    (void)state;
    struct box *b = box_new(PROT32, 0);
    bool had = b->c->native->has[NF_LZCNT];
    b->c->native->has[NF_LZCNT] = false;
    b->s.gpr[X86_RCX] = 0x1000;
    assert_int_equal(ONE(b, 0xf3, 0x0f, 0xbd, 0xc1), -1);
    assert_int_equal(b->c->gpr[X86_RAX], 12);
    if (had) {
        b->c->native->has[NF_LZCNT] = true;
        code_cache_flush(b->c);
        assert_int_equal(ONE(b, 0xf3, 0x0f, 0xbd, 0xc1), -1);
        assert_int_equal(b->c->gpr[X86_RAX], 19);
    }
    box_free(b);
}

/* ---- x87 environments ---- */
/* Leaves a pending division by zero of FDIVS [DATA+32] at offset 12 of the code, with FNSTENV.
 */
static void fault_and_store(struct box *b, bool small_address, bool opsize)
{
    store(b, DATA, 0x37b, 2);
    store(b, DATA + 32, 0, 4);
    code(b, 2, 0xdb, 0xe3);                              /* fninit */
    code(b, 3, 0xd9, 0x6c | (small_address ? 0 : 2), 0); /* fldcw [si] or [esi] */
    if (small_address) {
        b->ram[b->at - 2] = 0x6c; /* [si+0] */
    } else {
        b->ram[b->at - 2] = 0x6e; /* [esi+0] */
    }
    code(b, 2, 0xd9, 0xe8); /* fld1 */
    code(b, 5, 0x90, 0x90, 0x90, 0x90, 0x90);
    code(b, 3, 0xd8, small_address ? 0x74 : 0x76, 0x20); /* fdiv dword [si+32] */
    if (opsize) {
        code(b, 1, 0x66);
    }
    code(b, 3, 0xd9, small_address ? 0x74 : 0x76, 0x40); /* fnstenv [si+64] */
    assert_int_equal(run(b), -1);
}

#define ENV (DATA + 64)

static void environment_formats(void **state)
{
    (void)state;
    for (unsigned mode = REAL; mode <= LONG; mode++) {
        for (unsigned other = 0; other < 2; other++) {
            struct box *b = box_new((enum box_mode)mode, 0);
            bool small = mode == REAL || mode == PROT16;
            bool env16 = small != (other != 0);
            unsigned step = env16 ? 2 : 4;
            if (mode == PROT16) { /* 16-bit addresses reach 64 KiB: put the bases there */
                b->s.seg[X86_CS].base = CODE;
                b->s.seg[X86_DS].base = DATA;
                b->s.rip = 0;
                b->s.gpr[X86_RSI] = 0;
            }
            fault_and_store(b, small, other != 0);
            uint32_t ip = (uint32_t)b->s.rip + 12, dp = (uint32_t)b->s.gpr[X86_RSI] + 32;
            assert_int_equal(load(b, ENV, 2), 0x37f & ~4); /* stored before FNSTENV masks all */
            assert_int_equal(load(b, ENV + step, 2) & 0x84, 0x84);
            if (mode == REAL) {
                ip += CODE;
                dp += DATA;
                assert_int_equal(load(b, ENV + 3 * step, 2), ip & 0xffff);
                assert_int_equal(load(b, ENV + 4 * step, 2) >> 12, ip >> 16 & 15);
                assert_int_equal(load(b, ENV + 5 * step, 2), dp & 0xffff);
                assert_int_equal(load(b, ENV + 6 * step, 2) >> 12, dp >> 16 & 15);
            } else {
                uint32_t keep = env16 ? 0xffff : UINT32_MAX;
                assert_int_equal(load(b, ENV + 3 * step, step), ip & keep);
                assert_int_equal(load(b, ENV + 5 * step, step), dp & keep);
            }
            box_free(b);
        }
    }
}

static void frstor_takes_what_fnsave_made(void **state)
{
    (void)state;
    for (unsigned mode = REAL; mode <= LONG; mode++) {
        struct box *b = box_new((enum box_mode)mode, 0);
        bool small = mode == REAL || mode == PROT16;
        if (mode == PROT16) {
            b->s.seg[X86_CS].base = CODE;
            b->s.seg[X86_DS].base = DATA;
            b->s.rip = 0;
            b->s.gpr[X86_RSI] = 0;
        }
        code(b, 6, 0xdb, 0xe3, 0xd9, 0xe8, 0xd9, 0xeb); /* fninit, fld1, fldpi */
        code(b, 3, 0xdd, small ? 0x74 : 0x76, 0x40);    /* fnsave */
        code(b, 2, 0xd9, 0xee);                         /* fldz: to be undone */
        code(b, 3, 0xdd, small ? 0x64 : 0x66, 0x40);    /* frstor */
        code(b, 3, 0xdd, small ? 0x1c : 0x1e, 0x90);    /* fstp qword [si] ; nop */
        code(b, 3, 0xdd, small ? 0x5c : 0x5e, 0x08);    /* fstp qword [si+8] */
        assert_int_equal(run(b), -1);
        assert_int_equal(load(b, DATA, 8), 0x400921fb54442d18);
        assert_int_equal(load(b, DATA + 8, 8), 0x3ff0000000000000);
        box_free(b);
    }
}

/* ---- XSAVE ---- */
static int xsave_like(struct box *b, uint8_t modrm, uint64_t mask)
{
    b->s.gpr[X86_RAX] = (uint32_t)mask;
    b->s.gpr[X86_RDX] = mask >> 32;
    return ONE(b, 0x0f, 0xae, modrm);
}

#define XSAVE  0x26
#define XRSTOR 0x2e

static void xsave_honours_xcr0(void **state)
{
    (void)state;
    struct box *b = box_new(LONG, 0);
    b->s.xcr0 = 3;
    memset(b->ram + DATA, 0xee, 4096);
    assert_int_equal(xsave_like(b, XSAVE, UINT64_MAX), -1);
    assert_int_equal(load(b, DATA + 512, 8) & ~UINT64_C(0xeeeeeeeeeeeeeeec),
                     load(b, DATA + 512, 8) & 3);
    for (unsigned i = 576; i < 4096; i++) {
        assert_int_equal(b->ram[DATA + i], 0xee);
    }
    memset(b->ram + DATA + 512, 0, 64);
    store(b, DATA + 512, 7, 8); /* AVX, which XCR0 has not */
    assert_int_equal(xsave_like(b, XRSTOR, 3), EXC_GP);
    box_free(b);
}

static void xrstor_checks_its_image(void **state)
{
    (void)state;
    struct box *b = box_new(LONG, 0);
    memset(b->ram + DATA, 0, 4096);
    store(b, DATA, 0x37f, 2);
    store(b, DATA + 24, 0x1f80, 4);
    store(b, DATA + 512, 3, 8);
    assert_int_equal(xsave_like(b, XRSTOR, 7), -1);
    store(b, DATA + 528, 1, 8); /* reserved */
    assert_int_equal(xsave_like(b, XRSTOR, 7), EXC_GP);
    store(b, DATA + 528, 0, 8);
    store(b, DATA + 520, 4, 8); /* XCOMP_BV of a standard image */
    assert_int_equal(xsave_like(b, XRSTOR, 7), EXC_GP);
    store(b, DATA + 520, 0, 8);
    store(b, DATA + 24, 0x80000000, 4);
    assert_int_equal(xsave_like(b, XRSTOR, 7), EXC_GP);
    assert_int_equal(xsave_like(b, XRSTOR, 1), -1); /* MXCSR is not asked for */
    store(b, DATA + 24, 0x1f80, 4);
    b->s.gpr[X86_RSI] = DATA + 32;
    assert_int_equal(xsave_like(b, XRSTOR, 7), EXC_GP);
    assert_int_equal(xsave_like(b, XSAVE, 7), EXC_GP);
    box_free(b);
}

static void xsave_gives_back_what_it_took(void **state)
{
    (void)state;
    struct box *b = box_new(LONG, 0);
    for (unsigned i = 0; i < 64; i++) {
        b->ram[DATA + i] = (uint8_t)(i + 1);
    }
    code(b, 3, 0x0f, 0x10, 0x06);                /* movups xmm0, [rsi] */
    code(b, 5, 0x48, 0x8d, 0x76, 0x40, 0x90);    /* lea rsi, [rsi+64] */
    code(b, 5, 0xb8, 7, 0, 0, 0);                /* mov eax, 7 */
    code(b, 2, 0x31, 0xd2);                      /* xor edx, edx */
    code(b, 4, 0x48, 0x0f, 0xae, XSAVE);         /* xsave64 [rsi] */
    code(b, 3, 0x0f, 0x57, 0xc0);                /* xorps xmm0, xmm0 */
    code(b, 4, 0x48, 0x0f, 0xae, XRSTOR);        /* xrstor64 [rsi] */
    code(b, 7, 0x0f, 0x11, 0x86, 0, 0x10, 0, 0); /* movups [rsi+4096], xmm0 */
    memset(b->ram + DATA + 64, 0, 4096);
    assert_int_equal(run(b), -1);
    assert_memory_equal(b->ram + DATA + 64 + 4096, b->ram + DATA, 16);
    box_free(b);
}

/* ---- memory ---- */
static void operands_cross_pages(void **state)
{
    (void)state;
    struct box *b = box_new(LONG, 0);
    for (unsigned at = DATA + 4096 - 15; at < DATA + 4096; at++) {
        for (unsigned i = 0; i < 16; i++) {
            b->ram[at + i] = (uint8_t)(at + i);
        }
        b->s.gpr[X86_RSI] = at;
        b->s.gpr[X86_RDI] = at + 8192;
        code(b, 3, 0x0f, 0x10, 0x06); /* movups xmm0, [rsi] */
        code(b, 3, 0x0f, 0x11, 0x07); /* movups [rdi], xmm0 */
        assert_int_equal(run(b), -1);
        assert_memory_equal(b->ram + at + 8192, b->ram + at, 16);
    }
    b->s.gpr[X86_RSI] = DATA + 8;
    assert_int_equal(ONE(b, 0x0f, 0x28, 0x06), EXC_GP); /* movaps, misaligned */
    b->s.gpr[X86_RSI] = RAM + 8;                        /* not mapped, and misaligned */
    assert_int_equal(ONE(b, 0x0f, 0x28, 0x06), EXC_GP);
    assert_int_equal(ONE(b, 0x0f, 0x10, 0x06), EXC_PF);
    b->s.gpr[X86_RSI] = UINT64_C(1) << 60;
    assert_int_equal(ONE(b, 0x0f, 0x10, 0x06), EXC_GP);
    box_free(b);
}

static void code_memory_runs_full(void **state)
{
    (void)state;
    struct box *b = box_new(LONG, 0);
    for (unsigned i = 0; i < 1024; i++) {
        store(b, DATA + i * 4, i, 4);
    }
    /* paddd xmm0, xmm1 in between: movd xmm1, [rsi+disp32] with ever new displacements */
    uint64_t sum = 0;
    for (unsigned round = 0; round < 80; round++) {
        code(b, 3, 0x0f, 0x57, 0xc0);
        sum = 0;
        for (unsigned i = 0; i < 512; i++) {
            unsigned disp = (round * 12 + i) & 1023;
            /* the unused upper half of a 64-bit displacement makes each instruction new */
            code(b, 8, 0x66, 0x0f, 0x6e, 0x8e, disp * 4 & 255, disp * 4 >> 8, 0, 0);
            code(b, 4, 0x66, 0x0f, 0xfe, 0xc1);
            sum += disp;
        }
        code(b, 4, 0x66, 0x0f, 0x7e, 0xc0); /* movd eax, xmm0 */
        assert_int_equal(run(b), -1);
        assert_int_equal(b->c->gpr[X86_RAX], (uint32_t)sum);
        assert_true(b->c->native->n_insns <= NATIVE_MAX_INSNS);
        assert_true(b->c->native->used <= NATIVE_CODE_BYTES);
        /* Nearly full by decree, so that the limit is met in the middle of a block. */
        if (round % 8 == 7) {
            b->c->native->used = NATIVE_CODE_BYTES - 2000;
        }
    }
    box_free(b);
}

/* ---- state ---- */
static void state_moves_in_and_out(void **state)
{
    (void)state;
    struct box *b = box_new(LONG, 0);
    struct vcpu_state *out = calloc(1, sizeof(*out));
    assert_non_null(out);
    for (unsigned i = 0; i < 16; i++) {
        b->s.xsave[160 + i] = (uint8_t)(0xa0 + i);
    }
    b->s.xsave[512] = 3;
    assert_int_equal(ONE(b, 0x0f, 0x28, 0xc8), -1); /* movaps xmm1, xmm0 */
    engine_soft.get_state((struct engine_vcpu *)b->c, out);
    assert_memory_equal(out->xsave + 176, b->s.xsave + 160, 16);
    assert_int_equal(out->xsave_bytes, VCPU_XSAVE_BYTES);
    /* Twice the same: nothing of the host's shows. */
    assert_int_equal(engine_soft.set_state((struct engine_vcpu *)b->c, out, NULL), 0);
    engine_soft.get_state((struct engine_vcpu *)b->c, &b->s);
    assert_memory_equal(out->xsave, b->s.xsave, VCPU_XSAVE_BYTES);

    struct err err;
    out->xsave[512] = 8; /* MPX, which nobody offers */
    assert_true(engine_soft.set_state((struct engine_vcpu *)b->c, out, &err) < 0);
    assert_int_equal(err.code, ERR_STATE_BAD);
    out->xsave[512] = 3;
    out->xsave[27] = 0x80;
    assert_true(engine_soft.set_state((struct engine_vcpu *)b->c, out, &err) < 0);
    free(out);
    box_free(b);
}

static void host_registers_are_clean_after(void **state)
{
    (void)state;
    struct box *b = box_new(LONG, 0);
    uint32_t mxcsr;
    uint16_t env[14];
    store(b, DATA, 0xffc0, 4);
    code(b, 3, 0x0f, 0xae, 0x16); /* ldmxcsr [rsi] */
    code(b, 2, 0xd9, 0xe8);       /* fld1 */
    assert_int_equal(run(b), -1);
    __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
    __asm__ volatile("fnstenv %0; fldenv %0" : "=m"(env));
    assert_int_equal(mxcsr & 0xffc0, 0x1f80);
    assert_int_equal(env[0], 0x37f);
    assert_int_equal(env[4], 0xffff); /* all empty */
    box_free(b);
}

/* A fault outside the stubs ends the process as if nobody had asked. */
static void other_faults_go_on(void **state)
{
    (void)state;
    struct box *b = box_new(LONG, 0);
    for (unsigned which = 0; which < 2; which++) {
        pid_t pid = fork();
        if (pid == 0) {
            struct sigaction dfl = {.sa_handler = SIG_DFL};
            sigaction(SIGFPE, &dfl, NULL);
            sigaction(SIGSEGV, &dfl, NULL);
            native_signals_init(NULL);
            if (which == 0) {
                raise(SIGFPE);
            } else {
                volatile uintptr_t nowhere = 16;
                *(volatile char *)nowhere = 0;
            }
            _exit(1);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), which ? SIGSEGV : SIGFPE);
    }
    box_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mode_bits_raise),
        cmocka_unit_test(simd_errors_need_osxmmexcpt),
        cmocka_unit_test(hidden_features),
        cmocka_unit_test(lzcnt_without_the_feature_is_bsr),
        cmocka_unit_test(environment_formats),
        cmocka_unit_test(frstor_takes_what_fnsave_made),
        cmocka_unit_test(xsave_honours_xcr0),
        cmocka_unit_test(xrstor_checks_its_image),
        cmocka_unit_test(xsave_gives_back_what_it_took),
        cmocka_unit_test(operands_cross_pages),
        cmocka_unit_test(code_memory_runs_full),
        cmocka_unit_test(state_moves_in_and_out),
        cmocka_unit_test(host_registers_are_clean_after),
        cmocka_unit_test(other_faults_go_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
