/* Measurements of a machine, gathered from the engine's counters and the kernel (machine.h). */
#include "machine/machine_priv.h"

#include "base/ckd.h"
#include "dev/legacy/debug_exit.h"

#include <sys/mman.h>

const char *machine_engine_name(const struct machine *m, const char **ret_why)
{
    if (ret_why != NULL) {
        *ret_why = m->engine_why;
    }
    return m->engine->name;
}

unsigned machine_exit_code(const struct machine *m)
{
    return m->exit_code;
}

/* Pages of a slot that exist: mincore tells for a shared mapping what is in the page cache. */
static uint64_t resident_bytes(const struct mem_slot *slot)
{
    unsigned char present[4096];
    uint64_t sum = 0;

    for (uint64_t off = 0; off < slot->size_bytes; off += sizeof(present) * MEM_PAGE_SIZE) {
        uint64_t len = MIN(slot->size_bytes - off, sizeof(present) * MEM_PAGE_SIZE);
        if (mincore(slot->host + off, len, present) < 0) {
            return sum;
        }
        for (uint64_t i = 0; i < len / MEM_PAGE_SIZE; i++) {
            sum += (present[i] & 1) != 0 ? MEM_PAGE_SIZE : 0;
        }
    }
    return sum;
}

static void add_stats(struct machine_metrics *sum, const struct engine_stats *s)
{
    sum->instructions += s->instructions;
    sum->exits_pio += s->exits_pio;
    sum->exits_mmio += s->exits_mmio;
    sum->exits_halt += s->exits_halt;
    sum->exits_irq += s->exits_irq;
    sum->exits_kick += s->exits_kick;
    sum->exits_other += s->exits_other;
    sum->code_invalidations += s->code_invalidations;
    sum->tlb_flushes += s->tlb_flushes;
    sum->blocks_decoded += s->blocks_decoded;
    sum->native_stubs += s->native_stubs;
    sum->blocks_translated += s->blocks_translated;
    sum->code_flushes += s->code_flushes;
    sum->jit_slow += s->jit_slow;
    sum->jit_helped += s->jit_helped;
    sum->engine_bytes += s->engine_bytes;
    if (s->first_instruction_ns != 0 && (sum->first_instruction_ns == 0 ||
                                         s->first_instruction_ns < sum->first_instruction_ns)) {
        sum->first_instruction_ns = s->first_instruction_ns;
    }
}

void machine_get_metrics(struct machine *m, struct machine_metrics *ret_metrics)
{
    struct machine_metrics sum = {
        .created_ns = m->created_ns,
        .init_port_ns =
            m->board.post != NULL ? post_port_first_ns(m->board.post, POST_CODE_INIT) : 0,
        .init_console_ns = __atomic_load_n(&m->init_console_ns, __ATOMIC_RELAXED),
        .resets = m->resets,
        .ram_bytes = mem_ram_bytes(m->mem),
    };
    for (unsigned i = 0; i < m->cfg->n_cpus; i++) {
        struct engine_stats s = {0};
        m->engine->get_stats(m->vcpus[i].ev, &s);
        add_stats(&sum, &s);
    }
    for (unsigned i = 0; i < mem_slot_count(m->mem); i++) {
        sum.ram_resident_bytes += resident_bytes(mem_slot_get(m->mem, i));
    }
    *ret_metrics = sum;
}
