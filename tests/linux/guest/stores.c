/*
 * Every kind of store that x86-64 has, aimed at code that runs: mov of all sizes, string and
 * locked instructions, pushes, vector, masked and scattered stores, x87, state saving, and the
 * kernel's copies. After each store the code must do what its new bytes say. Three placements:
 * in the middle of a page, with the changed bytes across two pages, and through another mapping
 * of the same memory.
 *
 * The code is a 64-byte line: a six-byte nop, mov rax, imm64; ret. The immediate is at 8.
 */
#include "t.h"

#include <fcntl.h>
#include <immintrin.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

typedef uint64_t (*func)(void);

struct line {
    uint8_t b[64];
} __attribute__((aligned(64)));

/* Writes the line, or as much of it as the kind covers, to at. */
struct kind {
    const char *name;
    void (*store)(uint8_t *at, const struct line *line, uint64_t value);
    unsigned align; /* what at needs, 1: any */
    const char *feature;
};

static void line_make(struct line *line, uint64_t value)
{
    static const uint8_t head[] = {0x66, 0x0f, 0x1f, 0x44, 0, 0, 0x48, 0xb8};
    memset(line, 0xcc, sizeof(*line));
    memcpy(line->b, head, sizeof(head));
    memcpy(line->b + 8, &value, 8);
    line->b[16] = 0xc3;
}

#define STORE(name) static void name(uint8_t *at, const struct line *line, uint64_t value)
#define UNUSED      (void)at, (void)line, (void)value

STORE(st_mov8)
{
    UNUSED;
    for (unsigned i = 8; i < 16; i++) {
        __asm__ volatile("movb %1, %0" : "=m"(at[i]) : "q"(line->b[i]));
    }
}

STORE(st_mov16)
{
    UNUSED;
    for (unsigned i = 0; i < 8; i += 2) {
        __asm__ volatile("movw %1, (%0)" ::"r"(at + 8 + i), "r"((uint16_t)(value >> i * 8))
                         : "memory");
    }
}

STORE(st_mov32)
{
    UNUSED;
    __asm__ volatile("movl %1, 8(%0); movl %2, 12(%0)" ::"r"(at), "r"((uint32_t)value),
                     "r"((uint32_t)(value >> 32))
                     : "memory");
}

STORE(st_mov64)
{
    UNUSED;
    __asm__ volatile("movq %1, 8(%0)" ::"r"(at), "r"(value) : "memory");
}

STORE(st_mov_high_byte)
{
    UNUSED;
    for (unsigned i = 8; i < 16; i++) {
        __asm__ volatile("movb %%ah, (%0)" ::"b"(at + i), "a"(line->b[i] << 8) : "memory");
    }
}

STORE(st_movnti)
{
    UNUSED;
    __asm__ volatile("movnti %1, 8(%0); sfence" ::"r"(at), "r"(value) : "memory");
}

STORE(st_movbe)
{
    UNUSED;
    __asm__ volatile("movbe %1, 8(%0)" ::"r"(at), "r"(__builtin_bswap64(value)) : "memory");
}

STORE(st_xchg)
{
    UNUSED;
    uint64_t v = value;
    __asm__ volatile("xchgq %0, 8(%1)" : "+r"(v) : "r"(at) : "memory");
}

STORE(st_cmpxchg)
{
    UNUSED;
    uint64_t old = 0;
    bool ok = false;
    while (!ok) {
        __asm__ volatile("lock cmpxchgq %3, 8(%2)"
                         : "+a"(old), "=@ccz"(ok)
                         : "r"(at), "r"(value)
                         : "memory");
    }
}

STORE(st_cmpxchg_unlocked)
{
    UNUSED;
    uint32_t half[2] = {(uint32_t)value, (uint32_t)(value >> 32)};
    for (unsigned i = 0; i < 2; i++) {
        uint32_t old;
        memcpy(&old, at + 8 + i * 4, 4);
        __asm__ volatile("cmpxchgl %2, (%1)"
                         : "+a"(old)
                         : "r"(at + 8 + i * 4), "r"(half[i])
                         : "memory");
    }
}

STORE(st_cmpxchg8b)
{
    UNUSED;
    uint32_t a = 0, d = 0;
    bool ok = false;
    while (!ok) {
        __asm__ volatile("lock cmpxchg8b 8(%3)"
                         : "+a"(a), "+d"(d), "=@ccz"(ok)
                         : "r"(at), "b"((uint32_t)value), "c"((uint32_t)(value >> 32))
                         : "memory");
    }
}

STORE(st_cmpxchg16b)
{
    UNUSED;
    uint64_t a = 0, d = 0, lo;
    bool ok = false;
    memcpy(&lo, line->b, 8);
    while (!ok) {
        __asm__ volatile("lock cmpxchg16b (%3)"
                         : "+a"(a), "+d"(d), "=@ccz"(ok)
                         : "r"(at), "b"(lo), "c"(value)
                         : "memory");
    }
}

static uint64_t imm_now(const uint8_t *at)
{
    uint64_t now;
    memcpy(&now, at + 8, 8);
    return now;
}

STORE(st_xadd)
{
    UNUSED;
    uint64_t delta = value - imm_now(at);
    __asm__ volatile("lock xaddq %0, 8(%1)" : "+r"(delta) : "r"(at) : "memory");
}

STORE(st_add)
{
    UNUSED;
    __asm__ volatile("addq %1, 8(%0)" ::"r"(at), "r"(value - imm_now(at)) : "memory");
}

STORE(st_adc)
{
    UNUSED;
    __asm__ volatile("stc; adcq %1, 8(%0)" ::"r"(at), "r"(value - imm_now(at) - 1) : "memory");
}

STORE(st_lock_sub)
{
    UNUSED;
    __asm__ volatile("lock subq %1, 8(%0)" ::"r"(at), "r"(imm_now(at) - value) : "memory");
}

STORE(st_xor)
{
    UNUSED;
    __asm__ volatile("xorq %1, 8(%0)" ::"r"(at), "r"(value ^ imm_now(at)) : "memory");
}

STORE(st_not_inc)
{
    UNUSED;
    __asm__ volatile("movq %1, 8(%0); lock notq 8(%0); incq 8(%0)" ::"r"(at), "r"(~(value - 1))
                     : "memory");
}

STORE(st_neg)
{
    UNUSED;
    __asm__ volatile("movq %1, 8(%0); negq 8(%0)" ::"r"(at), "r"(-value) : "memory");
}

STORE(st_rotate)
{
    UNUSED;
    __asm__ volatile("movq %1, 8(%0); rolq $8, 8(%0)" ::"r"(at), "r"(value >> 8 | value << 56)
                     : "memory");
}

STORE(st_shld)
{
    UNUSED;
    __asm__ volatile("movq %1, 8(%0); shldq $32, %2, 8(%0)" ::"r"(at), "r"(value >> 32),
                     "r"(value << 32)
                     : "memory");
}

STORE(st_bit)
{
    UNUSED;
    uint64_t flip = value ^ imm_now(at);
    for (uint64_t i = 0; i < 64; i++) {
        if (flip >> i & 1) {
            /* The bit offset of a register operand reaches beyond the operand. */
            __asm__ volatile("lock btcq %1, (%0)" ::"r"(at), "r"(i + 64) : "memory", "cc");
        }
    }
}

STORE(st_setcc)
{
    UNUSED;
    at[8] = 7;
    __asm__ volatile("cmpq %1, %1; sete 8(%0)" ::"r"(at), "r"(value) : "memory", "cc");
    memcpy(at + 9, line->b + 9, 7);
    at[8] = line->b[8];
}

STORE(st_movsb)
{
    UNUSED;
    const void *from = line;
    size_t n = 64;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n)::"memory");
}

STORE(st_movsq)
{
    UNUSED;
    const void *from = line;
    size_t n = 8;
    __asm__ volatile("rep movsq" : "+D"(at), "+S"(from), "+c"(n)::"memory");
}

STORE(st_movsb_down)
{
    UNUSED;
    const void *from = line->b + 23;
    uint8_t *to = at + 23;
    size_t n = 24;
    __asm__ volatile("std; rep movsb; cld" : "+D"(to), "+S"(from), "+c"(n)::"memory");
}

STORE(st_stosb)
{
    UNUSED;
    for (unsigned i = 8; i < 16; i++) {
        uint8_t *to = at + i;
        size_t n = 1;
        __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(line->b[i]) : "memory");
    }
}

STORE(st_stosq)
{
    UNUSED;
    uint8_t *to = at + 8;
    __asm__ volatile("stosq" : "+D"(to) : "a"(value) : "memory");
}

STORE(st_push)
{
    UNUSED;
    __asm__ volatile("mov %%rsp, %%rbx; lea 16(%0), %%rsp; push %1; mov %%rbx, %%rsp" ::"r"(at),
                     "r"(value)
                     : "rbx", "memory");
}

STORE(st_push_mem)
{
    UNUSED;
    __asm__ volatile(
        "mov %%rsp, %%rbx; lea 16(%0), %%rsp; pushq 8(%1); mov %%rbx, %%rsp" ::"r"(at),
        "r"(line)
        : "rbx", "memory");
}

STORE(st_pop_mem)
{
    UNUSED;
    __asm__ volatile(
        "mov %%rsp, %%rbx; lea 8(%1), %%rsp; popq 8(%0); mov %%rbx, %%rsp" ::"r"(at), "r"(line)
        : "rbx", "memory");
}

STORE(st_enter)
{
    UNUSED;
    __asm__ volatile("mov %%rsp, %%rbx; mov %%rbp, %%r12; mov %1, %%rbp; lea 16(%0), %%rsp\n"
                     "enter $0, $0; mov %%rbx, %%rsp; mov %%r12, %%rbp" ::"r"(at),
                     "r"(value)
                     : "rbx", "r12", "memory");
}

/* The return address is the value: the only kind that does not store what was asked for. */
STORE(st_call)
{
    UNUSED;
    __asm__ volatile(
        "mov %%rsp, %%rbx; lea 16(%0), %%rsp; call 1f; 1: mov %%rbx, %%rsp" ::"r"(at)
        : "rbx", "memory");
}

STORE(st_movq)
{
    UNUSED;
    __asm__ volatile("movq %1, %%xmm0; movq %%xmm0, 8(%0)" ::"r"(at), "r"(value)
                     : "xmm0", "memory");
}

STORE(st_movhps)
{
    UNUSED;
    __asm__ volatile("movups (%1), %%xmm0; movhps %%xmm0, 8(%0); movlps %%xmm0, (%0)" ::"r"(at),
                     "r"(line)
                     : "xmm0", "memory");
}

STORE(st_movups)
{
    UNUSED;
    __asm__ volatile("movups (%1), %%xmm0; movups %%xmm0, (%0)" ::"r"(at), "r"(line)
                     : "xmm0", "memory");
}

STORE(st_movaps)
{
    UNUSED;
    __asm__ volatile("movaps (%1), %%xmm0; movaps %%xmm0, (%0)" ::"r"(at), "r"(line)
                     : "xmm0", "memory");
}

STORE(st_movntdq)
{
    UNUSED;
    __asm__ volatile("movdqa (%1), %%xmm0; movntdq %%xmm0, (%0); sfence" ::"r"(at), "r"(line)
                     : "xmm0", "memory");
}

STORE(st_maskmovdqu)
{
    UNUSED;
    __asm__ volatile("movdqu (%1), %%xmm0; pcmpeqd %%xmm1, %%xmm1; pslldq $8, %%xmm1\n"
                     "maskmovdqu %%xmm1, %%xmm0; sfence" ::"D"(at),
                     "r"(line)
                     : "xmm0", "xmm1", "memory");
}

STORE(st_pextrq)
{
    UNUSED;
    __asm__ volatile("movdqu (%1), %%xmm0; pextrq $1, %%xmm0, 8(%0)" ::"r"(at), "r"(line)
                     : "xmm0", "memory");
}

STORE(st_mmx)
{
    UNUSED;
    __asm__ volatile("movq 8(%1), %%mm0; movntq %%mm0, 8(%0); sfence; emms" ::"r"(at), "r"(line)
                     : "memory");
}

STORE(st_fistp)
{
    UNUSED;
    __asm__ volatile("fildll 8(%1); fistpll 8(%0)" ::"r"(at), "r"(line) : "memory");
}

STORE(st_fxsave)
{
    UNUSED;
    uint8_t image[512] __attribute__((aligned(64)));
    memcpy(image, at - 192, sizeof(image));
    __asm__ volatile("movups (%1), %%xmm2; movups 16(%1), %%xmm3; movups 32(%1), %%xmm4\n"
                     "movups 48(%1), %%xmm5; fxsave64 -192(%0)" ::"r"(at),
                     "r"(line)
                     : "xmm2", "xmm3", "xmm4", "xmm5", "memory");
}

STORE(st_xsave)
{
    UNUSED;
    __asm__ volatile("movups (%1), %%xmm2; movups 16(%1), %%xmm3; movups 32(%1), %%xmm4\n"
                     "movups 48(%1), %%xmm5; xsave64 -192(%0)" ::"r"(at),
                     "r"(line), "a"(2), "d"(0)
                     : "xmm2", "xmm3", "xmm4", "xmm5", "memory");
}

#define AVX    __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl")))

AVX STORE(st_vmovdqu)
{
    UNUSED;
    _mm256_storeu_si256((void *)at, _mm256_loadu_si256((const void *)line));
}

AVX STORE(st_vmovntdq)
{
    UNUSED;
    _mm256_stream_si256((void *)at, _mm256_loadu_si256((const void *)line));
}

AVX STORE(st_vmaskmov)
{
    UNUSED;
    _mm256_maskstore_epi32((void *)at, _mm256_setr_epi32(0, 0, -1, -1, 0, 0, 0, 0),
                           _mm256_loadu_si256((const void *)line));
}

AVX STORE(st_vextract)
{
    UNUSED;
    __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)line));
    __asm__ volatile("vextracti128 $1, %1, (%0)" ::"r"(at), "x"(v) : "memory");
}

AVX512 STORE(st_zmm)
{
    UNUSED;
    _mm512_storeu_si512(at, _mm512_loadu_si512(line));
}

AVX512 STORE(st_zmm_bytes)
{
    UNUSED;
    _mm512_mask_storeu_epi8(at, 0xff00, _mm512_loadu_si512(line));
}

AVX512 STORE(st_scatter)
{
    UNUSED;
    __m512i v = _mm512_loadu_si512(line);
    __m512i where = _mm512_setr_epi32(3, 2, 1, 0, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i what = _mm512_permutexvar_epi32(where, v);
    _mm512_mask_i32scatter_epi32(at, 0xf, where, what, 4);
}

AVX512 STORE(st_compress)
{
    UNUSED;
    _mm512_mask_compressstoreu_epi64(at + 8, 2, _mm512_loadu_si512(line));
}

static int pipe_fd[2] = {-1, -1}, socket_fd[2], mem_fd;

static void open_fds(void)
{
    SYS(pipe(pipe_fd) == 0);
    SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, socket_fd) == 0);
    SYS((mem_fd = open("/proc/self/mem", O_RDWR)) >= 0);
}

STORE(st_read)
{
    UNUSED;
    SYS(write(pipe_fd[1], line, 64) == 64);
    SYS(read(pipe_fd[0], at, 64) == 64);
}

STORE(st_recv)
{
    UNUSED;
    SYS(send(socket_fd[1], line, 64, 0) == 64);
    SYS(recv(socket_fd[0], at, 64, 0) == 64);
}

STORE(st_vm_write)
{
    UNUSED;
    struct iovec from = {(void *)(uintptr_t)line, 64}, to = {at, 64};
    SYS(process_vm_writev(getpid(), &from, 1, &to, 1, 0) == 64);
}

STORE(st_proc_mem)
{
    UNUSED;
    SYS(pwrite(mem_fd, line, 64, (off_t)(uintptr_t)at) == 64);
}

#define K(name, align, feature)                                                                \
    {                                                                                          \
#name, st_##name, align, feature                                                       \
    }
static const struct kind kinds[] = {
    K(mov8, 1, NULL),          K(mov16, 1, NULL),
    K(mov32, 1, NULL),         K(mov64, 1, NULL),
    K(mov_high_byte, 1, NULL), K(movnti, 1, NULL),
    K(movbe, 1, "avx2"),       K(xchg, 64, NULL),
    K(cmpxchg, 64, NULL),      K(cmpxchg_unlocked, 1, NULL),
    K(cmpxchg8b, 64, NULL),    K(cmpxchg16b, 64, NULL),
    K(xadd, 64, NULL),         K(add, 1, NULL),
    K(adc, 1, NULL),           K(lock_sub, 64, NULL),
    K(xor, 1, NULL),           K(not_inc, 64, NULL),
    K(neg, 1, NULL),           K(rotate, 1, NULL),
    K(shld, 1, NULL),          K(bit, 64, NULL),
    K(setcc, 1, NULL),         K(movsb, 1, NULL),
    K(movsq, 1, NULL),         K(movsb_down, 1, NULL),
    K(stosb, 1, NULL),         K(stosq, 1, NULL),
    K(push, 1, NULL),          K(push_mem, 1, NULL),
    K(pop_mem, 1, NULL),       K(enter, 1, NULL),
    K(call, 1, NULL),          K(movq, 1, NULL),
    K(movhps, 1, NULL),        K(movups, 1, NULL),
    K(movaps, 16, NULL),       K(movntdq, 16, NULL),
    K(maskmovdqu, 1, NULL),    K(pextrq, 1, NULL),
    K(mmx, 1, NULL),           K(fistp, 1, NULL),
    K(fxsave, 64, NULL),       K(xsave, 64, NULL),
    K(vmovdqu, 1, "avx2"),     K(vmovntdq, 32, "avx2"),
    K(vmaskmov, 1, "avx2"),    K(vextract, 1, "avx2"),
    K(zmm, 1, "avx512"),       K(zmm_bytes, 1, "avx512"),
    K(scatter, 1, "avx512"),   K(compress, 1, "avx512"),
    K(read, 1, NULL),          K(recv, 1, NULL),
    K(vm_write, 1, NULL),      K(proc_mem, 1, NULL),
};

static bool has(const char *feature)
{
    if (feature == NULL) {
        return true;
    }
    return strcmp(feature, "avx2") == 0
               ? __builtin_cpu_supports("avx2") != 0
               : __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

/* Stores n times through `write_at` and runs the code at `run_at`, thrice after each store. */
static void one_kind(const struct kind *kind, uint8_t *write_at, uint8_t *run_at,
                     const char *where)
{
    uint64_t seed = 88172645463325252u;
    struct line line;
    line_make(&line, 1);
    memcpy(write_at, &line, sizeof(line));
    for (unsigned i = 0; i < t_times(60); i++) {
        uint64_t value = t_next(&seed) >> (i % 3 == 0 ? 8 : 0);
        line_make(&line, value);
        kind->store(write_at, &line, value);
        if (kind->store == st_call) {
            value = imm_now(write_at);
        }
        for (unsigned k = 0; k < 3; k++) {
            uint64_t got = ((func)(uintptr_t)run_at)();
            CHECK(got == value, "%s %s: round %u.%u: %#lx, not %#lx", kind->name, where, i, k,
                  got, value);
        }
    }
}

#define RWX (PROT_READ | PROT_WRITE | PROT_EXEC)

static void all_kinds(void)
{
    int fd = memfd_create("code", 0);
    SYS(fd >= 0 && ftruncate(fd, 3 * 4096) == 0);
    uint8_t *a = mmap(NULL, 3 * 4096, RWX, MAP_SHARED, fd, 0);
    uint8_t *b = mmap(NULL, 3 * 4096, RWX, MAP_SHARED, fd, 0);
    SYS(a != MAP_FAILED && b != MAP_FAILED);
    unsigned done = 0;
    open_fds();
    for (size_t i = 0; i < T_LEN(kinds); i++) {
        const struct kind *k = &kinds[i];
        if (!has(k->feature)) {
            continue;
        }
        one_kind(k, a + 4096 + 1024, a + 4096 + 1024, "same mapping");
        one_kind(k, a + 4096 + 1024, b + 4096 + 1024, "alias");
        if (k->align == 1) {
            one_kind(k, a + 8192 - 12, a + 8192 - 12, "across pages");
            one_kind(k, a + 8192 - 12, b + 8192 - 12, "across pages, alias");
            one_kind(k, a + 8192 - 3, a + 8192 - 3, "head in the page before");
        }
        done++;
    }
    printf("%u kinds of stores\n", done);
}

/* Data and code in one page: stores that change no code must not disturb it. */
static void data_beside_code(void)
{
    uint8_t *p = mmap(NULL, 4096, RWX, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SYS(p != MAP_FAILED);
    /* lock inc qword [rip+0x100-7]; mov rax, [rip+...]; ret, at 0; the counter at 0x101. */
    static const uint8_t code[] = {0xf0, 0x48, 0xff, 0x05, 0xf9, 0, 0, 0, /* counter at 0x101 */
                                   0x48, 0x8b, 0x05, 0xf2, 0,    0, 0, 0xc3};
    memcpy(p, code, sizeof(code));
    for (uint64_t i = 1; i <= t_times(20000); i++) {
        uint64_t got = ((func)(uintptr_t)p)();
        CHECK(got == i, "%lu, not %lu", got, i);
    }
}

static const struct t_case cases[] = {
    {"all_kinds", all_kinds},
    {"data_beside_code", data_beside_code},
};

int main(int argc, char **argv)
{
    return t_main(argc, argv, "stores", cases, T_LEN(cases));
}
