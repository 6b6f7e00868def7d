/*
 * Makes stubs: re-encodes one guest instruction so that its memory operand is addressed by a
 * fixed host register and its general-register operands are fixed host registers, with the
 * loads and stores of these around it. SDM vol. 2 chapter 2 (instruction format).
 *
 * Host registers of a stub: rdi scpu, rsi uop, memory operand in rdx (rcx when the instruction
 * has an implicit rdx); modrm.reg in rax, modrm.rm in rcx, vvvv in r8; implicit registers in
 * themselves. Stubs are keyed by their bytes: equal instructions share one. Compiled for
 * general registers only.
 */
#include "cpu/soft/native_int.h"

#include <stdarg.h>
#include <stddef.h>

struct code {
    uint8_t b[NATIVE_STUB_MAX];
    unsigned n;
    unsigned run; /* where the instruction's part begins */
};

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 };

static void put8(struct code *k, unsigned v)
{
    if (k->n < sizeof(k->b)) {
        k->b[k->n++] = (uint8_t)v;
    }
}

static void put32(struct code *k, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++) {
        put8(k, v >> (8 * i));
    }
}

static void put_bytes(struct code *k, unsigned n, ...)
{
    va_list ap;
    va_start(ap, n);
    for (unsigned i = 0; i < n; i++) {
        put8(k, va_arg(ap, unsigned));
    }
    va_end(ap);
}

/* mov between host register r and [rdi + off]; op 8B loads, 89 stores. */
static void put_mov(struct code *k, unsigned op, unsigned r, size_t off)
{
    put8(k, r >= 8 ? 0x4c : 0x48);
    put8(k, op);
    put8(k, (off < 128 ? 0x40 : 0x80) | (r & 7) << 3 | RDI);
    if (off < 128) {
        put8(k, (unsigned)off);
    } else {
        put32(k, (uint32_t)off);
    }
}

static size_t gpr_off(unsigned reg)
{
    return offsetof(struct scpu, gpr) + (reg & 15) * sizeof(uint64_t);
}

static void put_load(struct code *k, unsigned host, unsigned reg)
{
    put_mov(k, 0x8b, host, gpr_off(reg));
}

static void put_store(struct code *k, unsigned host, unsigned reg)
{
    put_mov(k, 0x89, host, gpr_off(reg));
}

static void put_legacy_prefixes(struct code *k, const struct insn *in, unsigned r, unsigned b)
{
    if (in->pp == 1 || in->has_66) {
        put8(k, 0x66);
    }
    if (in->pp >= 2) {
        put8(k, in->pp == 2 ? 0xf3 : 0xf2);
    }
    unsigned rex = (in->rex & 8u) | (r >> 3 & 1) << 2 | (b >> 3 & 1);
    if (in->rex != 0 || rex != 0) {
        put8(k, 0x40 | rex);
    }
    if (in->map != MAP_1B) {
        put8(k, 0x0f);
        if (in->map != MAP_0F) {
            put8(k, in->map == MAP_0F38 ? 0x38 : 0x3a);
        }
    }
}

static void put_vex(struct code *k, const struct insn *in, unsigned r, unsigned b, unsigned v)
{
    put8(k, 0xc4);
    put8(k, (~r >> 3 & 1) << 7 | 0x40 | (~b >> 3 & 1) << 5 | in->map);
    put8(k, (unsigned)(in->w & 1) << 7 | (~v & 15) << 3 | (in->vl & 1u) << 2 | in->pp);
}

static void put_evex(struct code *k, const struct insn *in, unsigned r, unsigned b, unsigned v)
{
    put8(k, 0x62);
    put8(k, (~r >> 3 & 1) << 7 | (~b >> 4 & 1) << 6 | (~b >> 3 & 1) << 5 | (~r >> 4 & 1) << 4 |
                in->map);
    put8(k, (unsigned)(in->w & 1) << 7 | (~v & 15) << 3 | 4 | in->pp);
    put8(k, (unsigned)(in->z & 1) << 7 | (in->vl & 3u) << 5 | (in->b & 1u) << 4 |
                (~v >> 4 & 1) << 3 | (in->aaa & 7));
}

/* The instruction itself with the given register numbers; rm is the base if it has memory. */
static void put_insn(struct code *k, const struct insn *in, unsigned imm, unsigned r,
                     unsigned rm, unsigned v)
{
    switch ((enum insn_enc)in->enc) {
    case ENC_LEGACY: put_legacy_prefixes(k, in, r, rm); break;
    case ENC_VEX: put_vex(k, in, r, rm, v); break;
    case ENC_EVEX: put_evex(k, in, r, rm, v); break;
    }
    put8(k, in->opcode);
    if (in->has_modrm) {
        put8(k, (in->is_mem ? 0 : 0xc0) | (r & 7) << 3 | (rm & 7));
    }
    for (unsigned i = 0; i < imm; i++) {
        put8(k, in->bytes[in->imm_pos + i]);
    }
}

/* VZEROUPPER and VZEROALL outside 64-bit mode leave registers 8 and up alone. */
static void put_vzero_low(struct code *k, bool all)
{
    for (unsigned n = 0; n < 8; n++) {
        put8(k, 0xc5); /* vxorps or vmovaps xmmN, xmmN */
        put8(k, all ? 0x80 | (~n & 15) << 3 : 0xf8);
        put8(k, all ? 0x57 : 0x28);
        put8(k, 0xc0 | n << 3 | n);
    }
}

static void put_flags_load(struct code *k)
{
    put8(k, 0x0f); /* movzx eax, word [rdi + aflags] */
    put8(k, 0xb7);
    put8(k, 0x87);
    put32(k, offsetof(struct scpu, aflags));
    put8(k, 0x04); /* add al, 7fh: OF */
    put8(k, 0x7f);
    put8(k, 0x9e); /* sahf */
}

static void put_flags_store(struct code *k)
{
    put8(k, 0x9f); /* lahf */
    put8(k, 0x0f); /* seto al */
    put8(k, 0x90);
    put8(k, 0xc0);
    put8(k, 0x66); /* mov [rdi + aflags], ax */
    put8(k, 0x89);
    put8(k, 0x87);
    put32(k, offsetof(struct scpu, aflags));
}

static void put_operand_loads(struct code *k, const struct insn *in, uint32_t fl)
{
    if (fl & (ND_REG_R | ND_REG_W)) {
        put_load(k, RAX, in->reg);
    }
    if (!in->is_mem && (fl & ND_RM8)) {
        /* AH to BH without REX; the stub always names CL. */
        size_t off = in->rex == 0 && in->rm >= 4 && in->rm < 8 ? gpr_off(in->rm - 4u) + 1
                                                               : gpr_off(in->rm);
        put8(k, 0x0f);
        put8(k, 0xb6);
        put8(k, 0x80 | RCX << 3 | RDI);
        put32(k, (uint32_t)off);
    } else if (!in->is_mem && (fl & (ND_RM_R | ND_RM_W))) {
        put_load(k, RCX, in->rm);
    }
    if (fl & (ND_V_R | ND_V_W)) {
        put_load(k, R8, in->vvvv);
    }
    if (fl & (ND_IN_RAX | ND_OUT_RAX)) {
        put_load(k, RAX, X86_RAX);
    }
    if (fl & ND_IN_RDX) {
        put_load(k, RDX, X86_RDX);
    }
}

static void put_operand_stores(struct code *k, const struct insn *in, uint32_t fl)
{
    if (fl & ND_V_W) {
        put_store(k, R8,
                  in->vvvv); /* before reg: MULX with equal operands keeps the high half */
    }
    if (fl & ND_REG_W) {
        put_store(k, RAX, in->reg);
    }
    if (!in->is_mem && (fl & ND_RM_W)) {
        put_store(k, RCX, in->rm);
    }
    if (fl & ND_OUT_RCX) {
        put_store(k, RCX, X86_RCX);
    }
    if (fl & ND_OUT_RAX) {
        put_store(k, RAX, X86_RAX);
    }
}

static void put_next(struct code *k)
{
#ifdef SOFT_NO_TAIL_CALLS
    put8(k, 0x48); /* lea rax, [rsi + sizeof(struct uop)] ; ret */
    put8(k, 0x8d);
    put8(k, 0x46);
    put8(k, sizeof(struct uop));
    put8(k, 0xc3);
#else
    put8(k, 0x48); /* add rsi, sizeof(struct uop) ; jmp [rsi] */
    put8(k, 0x83);
    put8(k, 0xc6);
    put8(k, sizeof(struct uop));
    put8(k, 0xff);
    put8(k, 0x26);
#endif
    _Static_assert(sizeof(struct uop) < 128 && offsetof(struct uop, fn) == 0, "encoded above");
}

/* rdx = linear address of the memory operand. */
static void put_address(struct code *k, const struct insn *in)
{
    bool base = in->base < INSN_NOREG, index = in->index < INSN_NOREG;
    uint32_t disp = (uint32_t)in->disp;
    if (in->rip_rel) {
        put_bytes(k, 4, 0x48, 0x63, 0x56,
                  offsetof(struct uop, disp)); /* movsxd rdx, [rsi+disp] */
        put_bytes(k, 3, 0x48, 0x03, 0x97);     /* add rdx, [rdi+rip] */
        put32(k, offsetof(struct scpu, rip));
    } else if (!base && !index) {
        put_bytes(k, 3, 0x48, 0xc7, 0xc2); /* mov rdx, disp */
        put32(k, disp);
    } else if (!index) {
        put_load(k, RDX, in->base);
        if (disp != 0) {
            put_bytes(k, 3, 0x48, 0x81, 0xc2); /* add rdx, disp */
            put32(k, disp);
        }
    } else {
        put_load(k, RCX, in->index);
        if (base) {
            put_load(k, RDX, in->base);
        }
        /* lea rdx, [rdx or nothing + rcx*scale + disp] */
        put_bytes(k, 3, 0x48, 0x8d, base ? 0x94 : 0x14);
        put8(k, (unsigned)in->scale << 6 | RCX << 3 | (base ? RDX : RBP));
        put32(k, disp);
    }
    if (in->seg == X86_FS || in->seg == X86_GS) {
        put_bytes(k, 3, 0x48, 0x03, 0x97); /* add rdx, [rdi+seg_base] */
        put32(k, (uint32_t)(offsetof(struct scpu, seg_base) + in->seg * sizeof(uint64_t)));
    }
}

_Static_assert(sizeof(struct tlb_entry) == 16 && offsetof(struct tlb_entry, page) == 8,
               "encoded in put_front");

/* Everything before the instruction's part. Returns where a rel32 to the slow end is, or 0. */
static unsigned put_front(struct code *k, const struct native_insn *ni)
{
    const struct insn *in = &ni->in;
    bool mem = in->is_mem && ni->desc.mem_len != 0;
    bool write = (ni->desc.flags & ND_MEM_W) != 0;
    unsigned slow = 0;
    if (mem) {
        put_address(k, in);
        put_bytes(k, 5, 0x89, 0xd1, 0xc1, 0xe9, 0x08); /* mov ecx, edx ; shr ecx, 8 */
        put_bytes(k, 2, 0x81, 0xe1);                   /* and ecx, index << 4 */
        put32(k, (TLB_SIZE - 1) << 4);
        put_bytes(k, 3, 0x48, 0x03, 0x8f); /* add rcx, [rdi+tlb] */
        put32(k,
              (uint32_t)(write ? offsetof(struct scpu, tlb_w) : offsetof(struct scpu, tlb_r)));
        put_bytes(k, 6, 0x48, 0x8b, 0x01, 0x48, 0x31, 0xd0); /* mov rax, [rcx] ; xor rax, rdx */
        put_bytes(k, 2, 0x48, 0x3d);                         /* cmp rax, page - len */
        put32(k, (uint32_t)MEM_PAGE_SIZE - ni->desc.mem_len);
        put_bytes(k, 2, 0x0f, 0x87); /* ja slow */
        slow = k->n;
        put32(k, 0);
        put_bytes(k, 7, 0x48, 0x8b, 0x51, 0x08, 0x48, 0x01, 0xc2); /* rdx = page + offset */
    }
    return slow;
}

/* jmp [native cache + off], through rcx */
static void put_jump_out(struct code *k, size_t off)
{
    put_mov(k, 0x8b, RCX, offsetof(struct scpu, native));
    put_bytes(k, 2, 0xff, 0xa1);
    put32(k, (uint32_t)off);
}

static void patch32(struct code *k, unsigned at)
{
    uint32_t rel = k->n - (at + 4);
    for (unsigned i = 0; i < 4; i++) {
        k->b[at + i] = (uint8_t)(rel >> (8 * i));
    }
}

static void put_operation(struct code *k, const struct native_insn *ni)
{
    const struct insn *in = &ni->in;
    uint32_t fl = ni->desc.flags;
    if (fl & ND_FLAGS) {
        put_flags_load(k);
    }
    unsigned mem = RDX;
    if (in->is_mem && (fl & ND_IN_RDX)) {
        mem = RCX;
        put_bytes(k, 3, 0x48, 0x89, 0xd1); /* mov rcx, rdx */
    }
    put_operand_loads(k, in, fl);
    unsigned reg = fl & (ND_REG_R | ND_REG_W) ? RAX : in->reg;
    unsigned rm = in->is_mem ? mem : fl & (ND_RM_R | ND_RM_W) ? RCX : in->rm;
    unsigned v = fl & (ND_V_R | ND_V_W) ? R8 : in->vvvv;
    if (in->enc == ENC_VEX && in->map == MAP_0F && in->opcode == 0x77 &&
        !(ni->mode & MODE_64)) {
        put_vzero_low(k, in->vl != 0);
    } else {
        put_insn(k, in, ni->desc.imm, reg, rm, v);
    }
    put_operand_stores(k, in, fl);
    if (fl & ND_FLAGS) {
        put_flags_store(k);
    }
}

static void emit(struct code *k, const struct native_insn *ni)
{
    unsigned slow = 0, check = 0;
    k->n = 0;
    if (ni->fast_front) {
        slow = put_front(k, ni);
    }
    k->run = k->n;
    if (ni->needs_fpu) {
        put_bytes(k, 3, 0x66, 0x83, 0xbf); /* cmp word [rdi + fpu_live], 0 */
        put32(k, offsetof(struct scpu, fpu_live));
        put_bytes(k, 3, 0, 0x0f, 0x84); /* je */
        check = k->n;
        put32(k, 0);
    }
    put_operation(k, ni);
    put_next(k);
    if (check != 0) {
        patch32(k, check);
        put_bytes(k, 3, 0x48, 0x8d, 0x05); /* lea rax, [rip + what follows the check] */
        put32(k, check + 4 - (k->n + 4));
        put_jump_out(k, offsetof(struct native_cache, enter));
    }
    if (slow != 0) {
        patch32(k, slow);
        put_jump_out(k, offsetof(struct native_cache, slow));
    }
}

/* Before each stub. */
struct stub_head {
    uint32_t next; /* in the hash chain: offset of a head, 0: end */
    uint16_t len;
    uint16_t run; /* offset of the instruction's part in the stub */
};

static uint32_t hash_bytes(const uint8_t *p, unsigned n)
{
    uint32_t h = 2166136261u;
    for (unsigned i = 0; i < n; i++) {
        h = (h ^ p[i]) * 16777619u;
    }
    return h;
}

static bool same_code(const uint8_t *a, const struct code *k)
{
    for (unsigned i = 0; i < k->n; i++) {
        if (a[i] != k->b[i]) {
            return false;
        }
    }
    return true;
}

/* Offset of the code, 0: no room. */
static uint32_t place(struct native_cache *nc, const struct code *k)
{
    uint32_t h = hash_bytes(k->b, k->n) % NATIVE_HASH;
    for (uint32_t o = nc->stub_hash[h]; o != 0;) {
        const struct stub_head *head = (const struct stub_head *)(const void *)(nc->rw + o);
        if (head->len == k->n && same_code(nc->rw + o + sizeof(*head), k)) {
            return o + (uint32_t)sizeof(*head);
        }
        o = head->next;
    }
    uint32_t at = (nc->used + 7) & ~7u;
    uint32_t body = at + (uint32_t)sizeof(struct stub_head);
    if (k->n == sizeof(k->b) || body + k->n > NATIVE_CODE_BYTES) {
        return 0;
    }
    struct stub_head *head = (struct stub_head *)(void *)(nc->rw + at);
    head->len = (uint16_t)k->n;
    head->run = (uint16_t)k->run;
    head->next = nc->stub_hash[h];
    nc->stub_hash[h] = at;
    native_copy(nc->rw + body, k->b, k->n);
    nc->used = body + k->n;
    return body;
}

bool native_stub_make(struct native_cache *nc, struct native_insn *ni)
{
    struct code k;
    emit(&k, ni);
    uint32_t off = place(nc, &k);
    ni->fast = native_stub_at(nc, off);
    ni->stub = native_stub_at(nc, off + k.run);
    return off != 0;
}

/* One instruction that moves register n of the given encoding to or from [rdx]. */
static uint32_t fixed_move(struct native_cache *nc, const struct insn *in)
{
    struct native_insn ni = {.needs_fpu = true};
    ni.in = *in;
    struct code k;
    emit(&k, &ni);
    return place(nc, &k);
}

/* XRSTOR64 of the image at rdx with the mask in the native cache. */
static uint32_t fixed_xrstor(struct native_cache *nc)
{
    struct code k = {.n = 0};
    put_bytes(&k, 3, 0x48, 0x89, 0xd1); /* mov rcx, rdx */
    put_mov(&k, 0x8b, RAX, offsetof(struct scpu, native));
    put_bytes(&k, 2, 0x8b, 0x80); /* mov eax, [rax + xrstor_mask] */
    put32(&k, offsetof(struct native_cache, xrstor_mask));
    put_bytes(&k, 6, 0x31, 0xd2, 0x48, 0x0f, 0xae, 0x29); /* xor edx, edx ; xrstor64 [rcx] */
    put_next(&k);
    k.run = 0;
    return place(nc, &k);
}

static void fixed_vectors(struct native_cache *nc)
{
    struct insn in = {.map = MAP_0F, .has_modrm = true, .is_mem = true};
    for (unsigned n = 0; n < 16; n++) {
        in.reg = (uint8_t)n;
        in.enc = ENC_LEGACY;
        in.vl = 0;
        in.pp = 0;
        in.opcode = 0x11; /* movups */
        nc->get_stub[0][n] = fixed_move(nc, &in);
        in.opcode = 0x10;
        nc->put_stub[0][n] = fixed_move(nc, &in);
        if (nc->rfbm & 4) {
            in.enc = ENC_VEX;
            in.vl = 1;
            in.opcode = 0x11;
            nc->get_stub[1][n] = fixed_move(nc, &in);
            in.opcode = 0x10;
            nc->put_stub[1][n] = fixed_move(nc, &in);
        }
    }
}

static void fixed_avx512(struct native_cache *nc)
{
    struct insn in = {.map = MAP_0F, .has_modrm = true, .is_mem = true, .enc = ENC_EVEX};
    for (unsigned n = 0; n < 32; n++) {
        in.reg = (uint8_t)n;
        for (unsigned vl = n < 16 ? 2 : 0; vl < 3; vl++) {
            in.vl = (uint8_t)vl;
            in.opcode = 0x11;
            nc->get_stub[vl][n] = fixed_move(nc, &in);
            in.opcode = 0x10;
            nc->put_stub[vl][n] = fixed_move(nc, &in);
        }
    }
    /* kmovq with AVX512BW, kmovw without */
    struct insn km = {.map = MAP_0F, .has_modrm = true, .is_mem = true, .enc = ENC_VEX};
    km.w = nc->has[NF_AVX512BW];
    for (unsigned n = 0; n < 8; n++) {
        km.reg = (uint8_t)n;
        km.opcode = 0x91;
        nc->kget_stub[n] = fixed_move(nc, &km);
        km.opcode = 0x90;
        nc->kput_stub[n] = fixed_move(nc, &km);
    }
}

void native_stub_fixed(struct native_cache *nc)
{
    nc->used = 8; /* offset 0 is nothing */
    fixed_vectors(nc);
    if ((nc->rfbm & 0xe0) == 0xe0) {
        fixed_avx512(nc);
    }
    struct insn in = {.map = MAP_0F, .has_modrm = true, .is_mem = true, .opcode = 0x7f};
    for (unsigned n = 0; n < 8; n++) {
        in.reg = (uint8_t)n; /* movq [rdx], mmN */
        nc->mmget_stub[n] = fixed_move(nc, &in);
    }
    nc->xrstor_stub = nc->xsave ? fixed_xrstor(nc) : 0;
    nc->fixed = nc->used;
}
