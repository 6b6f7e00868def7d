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

#include <stddef.h>

struct code {
    uint8_t b[NATIVE_STUB_MAX];
    unsigned n;
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

static void emit(struct code *k, const struct native_insn *ni)
{
    const struct insn *in = &ni->in;
    uint32_t fl = ni->desc.flags;
    unsigned check = 0;
    if (ni->needs_fpu) {
        put8(k, 0x66); /* cmp word [rdi + fpu_live], 0 ; je to the end */
        put8(k, 0x83);
        put8(k, 0xbf);
        put32(k, offsetof(struct scpu, fpu_live));
        put8(k, 0);
        put8(k, 0x74);
        put8(k, 0);
        check = k->n;
    }
    if (fl & ND_FLAGS) {
        put_flags_load(k);
    }
    unsigned mem = RDX;
    if (in->is_mem && (fl & ND_IN_RDX)) {
        mem = RCX;
        put8(k, 0x48); /* mov rcx, rdx */
        put8(k, 0x89);
        put8(k, 0xd1);
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
    put_next(k);
    if (check != 0) {
        k->b[check - 1] = (uint8_t)(k->n - check);
        put8(k, 0x48); /* lea rax, [rip + body] */
        put8(k, 0x8d);
        put8(k, 0x05);
        put32(k, (uint32_t)(check - (k->n + 4)));
        put8(k, 0xff); /* jmp [rip + start of code memory]: completed when placed */
        put8(k, 0x25);
        put32(k, 0);
    }
}

/* Layout: 8-byte header {next in hash chain (offset), length, whether it ends in the thunk
 * jump}. */
struct stub_head {
    uint32_t next;
    uint16_t len;
    uint16_t thunk;
};

static uint32_t hash_bytes(const uint8_t *p, unsigned n)
{
    uint32_t h = 2166136261u;
    for (unsigned i = 0; i < n; i++) {
        h = (h ^ p[i]) * 16777619u;
    }
    return h;
}

static bool same_code(const uint8_t *a, const struct code *k, bool thunk)
{
    unsigned n = thunk ? k->n - 4 : k->n; /* the thunk's displacement depends on the place */
    for (unsigned i = 0; i < n; i++) {
        if (a[i] != k->b[i]) {
            return false;
        }
    }
    return true;
}

static uint32_t place(struct native_cache *nc, struct code *k, bool thunk, bool hashed)
{
    uint32_t h = hash_bytes(k->b, k->n) % NATIVE_HASH;
    if (hashed) {
        for (uint32_t o = nc->stub_hash[h]; o != 0;) {
            const struct stub_head *head = (const struct stub_head *)(const void *)(nc->rw + o);
            if (head->len == k->n && (head->thunk != 0) == thunk &&
                same_code(nc->rw + o + sizeof(*head), k, thunk)) {
                return o + (uint32_t)sizeof(*head);
            }
            o = head->next;
        }
    }
    uint32_t at = (nc->used + 7) & ~7u;
    uint32_t body = at + (uint32_t)sizeof(struct stub_head);
    if (body + k->n > NATIVE_CODE_BYTES) {
        return 0;
    }
    if (thunk) {
        uint32_t rel = 0u - (body + k->n);
        for (unsigned i = 0; i < 4; i++) {
            k->b[k->n - 4 + i] = (uint8_t)(rel >> (8 * i));
        }
    }
    struct stub_head *head = (struct stub_head *)(void *)(nc->rw + at);
    head->len = (uint16_t)k->n;
    head->thunk = thunk;
    head->next = hashed ? nc->stub_hash[h] : 0;
    for (unsigned i = 0; i < k->n; i++) {
        nc->rw[body + i] = k->b[i];
    }
    if (hashed) {
        nc->stub_hash[h] = at;
    }
    nc->used = body + k->n;
    return body;
}

native_stub_fn *native_stub_make(struct native_cache *nc, const struct native_insn *ni)
{
    struct code k;
    k.n = 0; /* not an initialiser: that would be a call of memset */
    emit(&k, ni);
    uint32_t off = place(nc, &k, ni->needs_fpu, true);
    return off == 0 ? NULL : native_stub_at(nc, off);
}

/* One instruction that moves register n of the given encoding to or from [rdx]. */
static uint32_t fixed_move(struct native_cache *nc, const struct insn *in)
{
    struct native_insn ni = {.needs_fpu = true};
    ni.in = *in;
    struct code k;
    k.n = 0;
    emit(&k, &ni);
    return place(nc, &k, true, false);
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
    uintptr_t thunk = (uintptr_t)native_enter_thunk;
    for (unsigned i = 0; i < 8; i++) {
        nc->rw[i] = (uint8_t)(thunk >> (8 * i));
    }
    nc->used = 8;
    fixed_vectors(nc);
    if ((nc->rfbm & 0xe0) == 0xe0) {
        fixed_avx512(nc);
    }
    struct insn in = {.map = MAP_0F, .has_modrm = true, .is_mem = true, .opcode = 0x7f};
    for (unsigned n = 0; n < 8; n++) {
        in.reg = (uint8_t)n; /* movq [rdx], mmN */
        nc->mmget_stub[n] = fixed_move(nc, &in);
    }
    struct insn wait = {.map = MAP_1B, .opcode = 0x9b};
    nc->fwait_stub = fixed_move(nc, &wait);
    nc->fixed = nc->used;
}
