/*
 * System instructions that are frequent enough to be done in line. Which privilege and which
 * control bits they need is in the mode of the block; where these do not allow them, scan.c
 * leaves them to their handlers. SDM vol. 2.
 */
#include "cpu/soft/jit/jit_int.h"

#define OFF(field) offsetof(struct scpu, field)

/* One byte of scpu.sysflags: and (4) or or (1) with a constant. */
static void change_sysflags(struct tr *t, unsigned op, unsigned byte, unsigned value)
{
    tr_flags_clobber(t);
    e_gs(&t->hot, 0, 0x80, op, OFF(sysflags) + byte);
    e8(&t->hot, value & 0xff);
}

void gen_cli(struct tr *t, struct jinsn *ji)
{
    (void)ji;
    change_sysflags(t, 4, 1, ~(unsigned)(FL_IF >> 8));
}

/*
 * The instruction behind STI is in the same block (jit_scan sees to that), and nothing looks
 * for interrupts between the two. One that waits already is left to the run loop, which knows
 * to hold it back for that instruction; so does a slow end of it (TPC_SHADOW).
 */
void gen_sti(struct tr *t, struct jinsn *ji)
{
    (void)ji;
    change_sysflags(t, 1, 1, FL_IF >> 8);
    e_gs(&t->hot, 0, 0x80, 7, OFF(irq_waiting));
    e8(&t->hot, 0);
    struct stub *s = tr_stub(t, STUB_SHADOW);
    s->from[0] = e_jcc(&t->hot, CC_NE);
    s->word = t->cur + 1;
}

void gen_swapgs(struct tr *t, struct jinsn *ji)
{
    struct asmb *a = &t->hot;
    (void)ji;
    e_load(a, RAX, OFF(kernel_gs_base));
    e_load(a, S1, OFF(seg[X86_GS].base));
    e_store(a, RAX, OFF(seg[X86_GS].base));
    e_store(a, RAX, OFF(seg_base[X86_GS]));
    e_store(a, S1, OFF(kernel_gs_base));
    t->s0_group = -1;
}

void gen_rdtsc(struct tr *t, struct jinsn *ji)
{
    struct asmb *a = &t->hot;
    tr_flags_clobber(t);
    if (ji->row->kind == K_RDTSCP) { /* waits for what is before it */
        e8(a, 0x0f);
        e8(a, 0xae);
        e8(a, 0xe8);
        e_gs(a, 0, 0x8b, RCX, OFF(tsc_aux));
    }
    e8(a, 0x0f);
    e8(a, 0x31);
    e_rr(a, E_W, 0xc1, 4, RDX); /* rax = TSC of the host */
    e8(a, 32);
    e_rr(a, E_W, 0x0b, RAX, RDX);
    e_gs(a, E_W, 0x03, RAX, OFF(tsc_offset));
    e_mov(a, RDX, RAX);
    e_rr(a, E_W, 0xc1, 5, RDX);
    e8(a, 32);
    e_rr(a, 0, 0x8b, jit_host_reg[X86_RAX], RAX);
    t->s0_group = -1;
}

void gen_fence(struct tr *t, struct jinsn *ji)
{
    e8(&t->hot, 0x0f);
    e8(&t->hot, 0xae);
    e8(&t->hot, ji->in.modrm);
}

/* CLAC and STAC change whose rights accesses have: the next block is one of another mode. */
void gen_smap(struct tr *t, struct jinsn *ji)
{
    struct asmb *a = &t->hot;
    struct scpu *c = t->c;
    bool set = (ji->in.modrm & 7) == 3;
    enum mmu_index m = set ? MMU_KERNEL : MMU_SMAP;
    uint32_t mode = (t->tb->mode & ~(uint32_t)MODE_SMAP) | (set ? 0 : MODE_SMAP);
    tr_flags_to_mem(t);
    change_sysflags(t, set ? 1 : 4, 2, set ? FL_AC >> 16 : ~(unsigned)(FL_AC >> 16));
    e_gs(a, 0, 0xc7, 0, OFF(mode));
    e32(a, mode);
    e_gs(a, 0, 0xc7, 0, OFF(mmu));
    e32(a, m);
    e_const(a, RAX, (uint64_t)(uintptr_t)c->tlb[m][TLB_R]);
    e_store(a, RAX, OFF(tlb_r));
    e_const(a, RAX, (uint64_t)(uintptr_t)c->tlb[m][TLB_W]);
    e_store(a, RAX, OFF(tlb_w));
    t->s0_group = -1;
    tr_exit_to(t, t->tb->va + ji->ip + ji->in.len, false);
}
