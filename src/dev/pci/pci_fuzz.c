/*
 * Fuzz target: configuration space through ECAM and CF8/CFC, BARs, MSI-X table, FLR and state
 * of two functions. The program's operations have fixed operands.
 */
#include "base/fuzz.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "dev/pci/pci.h"

#include <stdlib.h>
#include <string.h>

#define ECAM      UINT64_C(0xb0000000)
#define RAM_BYTES UINT64_C(0x1000000)

struct input {
    const uint8_t *p;
    size_t left;
};

struct toy {
    struct pci_dev pd;
    unsigned accesses;
};

struct world {
    struct mem *mem;
    struct bus *mmio, *pio;
    struct pci_root *root;
    struct toy toy[2];
    int wire[4];
};

static uint32_t take(struct input *in, unsigned bytes)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < bytes && in->left != 0; i++, in->p++, in->left--) {
        v |= (uint32_t)*in->p << (8 * i);
    }
    return v;
}

static void must(int rc)
{
    if (rc != 0) {
        abort();
    }
}

static uint64_t toy_read(void *opaque, uint64_t offset, unsigned len)
{
    struct toy *t = opaque;
    uint64_t value = offset;
    t->accesses++;
    (void)pci_msix_read(&t->pd, offset, len, &value);
    return value;
}

static void toy_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct toy *t = opaque;
    t->accesses++;
    (void)pci_msix_write(&t->pd, offset, len, value);
}

static const struct bus_ops toy_ops = {toy_read, toy_write};
static const struct dev_ops toy_dev_ops = {.name = "toy", .state_version = 1};

static void toy_init(struct toy *t)
{
    struct pci_ids ids = {.vendor = 0x1234, .device = 1, .class_code = 0xff0000};
    memset(t, 0, sizeof(*t));
    pci_dev_init(&t->pd, &ids, NULL);
    t->pd.dev.ops = &toy_dev_ops;
    pci_bar_init(&t->pd, 0, PCI_BAR_MEM64, 8192, &toy_ops, t, NULL);
    pci_bar_init(&t->pd, 2, PCI_BAR_IO, 16, &toy_ops, t, NULL);
    pci_bar_init(&t->pd, 3, PCI_BAR_MEM32, 65536, &toy_ops, t, NULL);
    must(pci_msix_init(&t->pd, 65, 0, 0, 4096, NULL));
    pci_exp_init(&t->pd);
    pci_intx_init(&t->pd, 2);
}

static void on_msi(void *opaque, uint64_t addr, uint32_t data)
{
    (void)opaque;
    (void)data;
    if (addr >> 20 != 0xfee) {
        abort();
    }
}

static void on_wire(void *opaque, unsigned n, bool level)
{
    struct world *w = opaque;
    if (w->wire[n] == level) {
        abort(); /* only edges are told */
    }
    w->wire[n] = level;
}

static void world_new(struct world *w)
{
    memset(w, 0, sizeof(*w));
    must(mem_new(&w->mem, NULL));
    must(mem_slot_add(w->mem, GPA(0), RAM_BYTES, MEM_RAM, NULL));
    must(bus_new(&w->mmio, UINT64_C(1) << 52, NULL));
    must(bus_new(&w->pio, 65536, NULL));
    struct pci_root_cfg cfg = {
        .mmio = w->mmio, .pio = w->pio, .mem = w->mem, .ecam_base = ECAM, .msi = {on_msi, w}};
    for (unsigned i = 0; i < 4; i++) {
        cfg.intx[i] = (struct irq_line){on_wire, w, i};
    }
    must(pci_root_new(&cfg, &w->root, NULL));
    for (unsigned i = 0; i < 2; i++) {
        toy_init(&w->toy[i]);
        must(pci_root_add(w->root, &w->toy[i].pd, PCI_DEVFN(i + 1, 0), NULL));
    }
}

static void world_free(struct world *w)
{
    for (unsigned i = 0; i < 2; i++) {
        pci_root_remove(w->root, &w->toy[i].pd);
        pci_dev_done(&w->toy[i].pd);
    }
    for (unsigned i = 0; i < 4; i++) {
        if (w->wire[i] != 0) {
            abort();
        }
    }
    pci_root_free(w->root);
    bus_free(w->mmio);
    bus_free(w->pio);
    mem_free(w->mem);
}

/* Mapped means: where the registers say, and not over RAM. */
static void check_maps(const struct world *w)
{
    for (unsigned i = 0; i < 2; i++) {
        for (unsigned b = 0; b < PCI_BARS; b++) {
            const struct pci_bar *bar = &w->toy[i].pd.bar[b];
            if (bar->mapped && bar->kind != PCI_BAR_IO && bar->at < RAM_BYTES) {
                abort();
            }
            if (bar->mapped && bar->at != bar->want) {
                abort();
            }
        }
    }
}

static void save_load(struct world *w, struct input *in)
{
    struct pci_dev *pd = &w->toy[take(in, 1) & 1].pd;
    struct state_writer *writer;
    struct state_reader *r = NULL;
    const void *data;
    size_t len;
    uint32_t version;
    must(state_writer_new(&writer, NULL));
    state_begin(writer, "toy", 0, 1);
    pci_save(pd, writer);
    state_end(writer);
    must(state_writer_finish(writer, &data, &len));
    uint8_t *copy = malloc(len);
    if (copy == NULL) {
        abort();
    }
    memcpy(copy, data, len);
    uint32_t at = take(in, 2);
    copy[at % len] ^= (uint8_t)take(in, 1);
    if (state_reader_new(&r, copy, len, NULL) == 0 &&
        state_enter(r, "toy", 0, 1, &version, NULL) == 0) {
        (void)pci_load(pd, r, NULL);
    }
    state_reader_free(r);
    state_writer_free(writer);
    free(copy);
}

static void step(struct world *w, struct input *in)
{
    static const unsigned widths[] = {1, 2, 4, 8};
    unsigned op = take(in, 1);
    unsigned width = widths[op >> 6];
    unsigned n = op >> 4 & 1;
    struct pci_dev *pd = &w->toy[n].pd;
    uint64_t at;

    switch (op & 0x0f) {
    case 0:
    case 1:
        at = ECAM + ((uint64_t)(take(in, 1) % 4) << 15) + take(in, 2) % 4100;
        bus_write(w->mmio, at, width, take(in, 4) * UINT64_C(0x100000001));
        break;
    case 2:
        at = ECAM + ((uint64_t)(take(in, 1) % 4) << 15) + take(in, 2) % 4100;
        (void)bus_read(w->mmio, at, width);
        break;
    case 3: bus_write(w->pio, 0xcf0 + take(in, 1) % 16, MIN(width, 4U), take(in, 4)); break;
    case 4: (void)bus_read(w->pio, 0xcf0 + take(in, 1) % 16, MIN(width, 4U)); break;
    case 5:
        at = pd->bar[0].mapped ? pd->bar[0].at : 0xe0000000;
        bus_write(w->mmio, at + take(in, 2) % 8200, width, take(in, 4) * UINT64_C(0x100000001));
        break;
    case 6:
        at = pd->bar[0].mapped ? pd->bar[0].at : 0xe0000000;
        (void)bus_read(w->mmio, at + take(in, 2) % 8200, width);
        break;
    case 7: pci_msix_fire(pd, take(in, 1)); break;
    case 8: pci_set_intx(pd, (op & 0x20) != 0); break;
    case 9: pci_reset_function(pd); break;
    case 10: save_load(w, in); break;
    case 11: pci_root_dev(w->root)->ops->reset(pci_root_dev(w->root)); break;
    case 12: /* a BAR to one of few places, so that they meet */
        pci_cfg_write(w->root, pd->devfn, PCI_BAR0 + 4 * (op >> 6), 4,
                      0xe0000000 + take(in, 1) * 4096);
        break;
    case 13: pci_cfg_write(w->root, pd->devfn, PCI_COMMAND, 2, 7); break;
    case 14: pci_cfg_write(w->root, pd->devfn, pd->msix.cap + 2U, 2, take(in, 1) << 8); break;
    default:
        at = 16ULL * (take(in, 1) % 66) + (uint64_t)(op >> 5 & 3) * 4;
        (void)pci_msix_write(pd, at, 4, at % 16 == 0 ? 0xfee00000 : take(in, 4));
        break;
    }
    check_maps(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct world w;
    struct input in = {data, len};
    world_new(&w);
    while (in.left != 0) {
        step(&w, &in);
    }
    world_free(&w);
    return 0;
}

size_t fuzz_seed(unsigned index, uint8_t *buf, size_t cap)
{
    static const uint8_t seed[] = {
        12, 0, 0x1c, 4,  13, 0x1d, 14, 0x80, 15, 0,    0x6f, 0,  0,    0,  0,    0,    7, 0,
        7,  1, 7,    64, 14, 0xc0, 7,  0,    14, 0x80, 0x28, 8,  0x38, 12, 4,    0x1c, 0, 10,
        0,  0, 0,    0,  10, 1,    9,  9,    1,  9,    11,   13, 0xcc, 9,  0x8c, 2};
    if (index != 0 || cap < sizeof(seed)) {
        return 0;
    }
    memcpy(buf, seed, sizeof(seed));
    return sizeof(seed);
}
