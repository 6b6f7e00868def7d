/*
 * The in-kernel interrupt controllers: 8259 pair, I/O APIC and local APICs are the kernel's,
 * the 8254 is ours (dev/timer): its wire comes in as GSI 0.
 *
 * Routing is that of dev/irq/isa_irq.h: GSI 0 goes to the 8259's input 0 and the I/O APIC's pin
 * 2, GSIs 1 to 15 (but 2) to both at the same number, 16 to 23 to the I/O APIC alone.
 *
 * Saved: section "kvm-irqchip", the kernel's own structures (stable ABI) as bytes, with each
 * CPU's TSC deadline, which KVM drops while the local APIC's timer is in another mode. Missing:
 * translation to the sections of dev/irq, so that a VM could go on under the other engine.
 */
#include "cpu/kvm/kvm_priv.h"

#include "base/bytes.h"
#include "base/ckd.h"
#include "base/cleanup.h"
#include "state/state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SECTION "kvm-irqchip"
#define VERSION 1

#define MSR_TSC_DEADLINE 0x6e0

/* Local APIC registers, Intel SDM vol. 3, table 11-1. */
#define LAPIC_ID      0x20
#define LAPIC_VERSION 0x30
#define LAPIC_DFR     0xe0
#define LAPIC_SVR     0xf0
#define LAPIC_LVT     0x320 /* timer; then one each 16 bytes to 0x370 */
#define LAPIC_LINT0   0x350
#define LAPIC_MASKED  0x10000u
#define LAPIC_EXTINT  0x700u

#define IOAPIC_MASKED 0x10000u

static int set_routing(struct engine_vm *vm)
{
    union {
        struct kvm_irq_routing head;
        uint8_t room[sizeof(struct kvm_irq_routing) +
                     (16 + KVM_IOAPIC_NUM_PINS) * sizeof(struct kvm_irq_routing_entry)];
    } table = {.room = {0}};

    for (uint32_t gsi = 0; gsi < KVM_IOAPIC_NUM_PINS; gsi++) {
        if (gsi == 2) {
            continue; /* the cascade */
        }
        if (gsi < 16) {
            table.head.entries[table.head.nr++] = (struct kvm_irq_routing_entry){
                .gsi = gsi,
                .type = KVM_IRQ_ROUTING_IRQCHIP,
                .u.irqchip = {.irqchip =
                                  gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
                              .pin = gsi & 7},
            };
        }
        table.head.entries[table.head.nr++] = (struct kvm_irq_routing_entry){
            .gsi = gsi,
            .type = KVM_IRQ_ROUTING_IRQCHIP,
            .u.irqchip = {.irqchip = KVM_IRQCHIP_IOAPIC, .pin = gsi == 0 ? 2 : gsi},
        };
    }
    return kvm_ioctl(vm->fd, KVM_SET_GSI_ROUTING, &table);
}

int kvm_irqchip_new(struct engine_vm *vm, struct err *err)
{
    int r = kvm_ioctl_n(vm->fd, KVM_CREATE_IRQCHIP, 0);
    r = r < 0 ? r : set_routing(vm);
    if (r < 0) {
        return ERR(err, ENGINE, -r, "KVM: cannot create interrupt controllers: %s",
                   strerror(-r));
    }
    return 0;
}

int kvm_irqchip_line(struct engine_vm *vm, unsigned gsi, bool level)
{
    struct kvm_irq_level irq = {.irq = gsi, .level = level};
    return kvm_ioctl(vm->fd, KVM_IRQ_LINE, &irq);
}

int kvm_irqchip_msi(struct engine_vm *vm, uint64_t addr, uint32_t data)
{
    struct kvm_msi msi = {
        .address_lo = (uint32_t)addr, .address_hi = (uint32_t)(addr >> 32), .data = data};
    int r = kvm_ioctl(vm->fd, KVM_SIGNAL_MSI, &msi);
    return r < 0 ? r : 0;
}

/* ---- reset ---- */

static int reset_lapic(const struct engine_vcpu *v)
{
    struct kvm_lapic_state regs;
    uint8_t kept[0x20];
    int r = kvm_ioctl(v->fd, KVM_GET_LAPIC, &regs);
    if (r < 0) {
        return r;
    }
    memcpy(kept, regs.regs + LAPIC_ID, sizeof(kept)); /* ID and version */
    memset(regs.regs, 0, sizeof(regs.regs));
    memcpy(regs.regs + LAPIC_ID, kept, sizeof(kept));
    put_le32(regs.regs + LAPIC_DFR, UINT32_MAX);
    put_le32(regs.regs + LAPIC_SVR, 0xff);
    for (unsigned at = LAPIC_LVT; at <= 0x370; at += 0x10) {
        put_le32(regs.regs + at, LAPIC_MASKED);
    }
    /* Firmware's virtual wire: the 8259 reaches the boot CPU. */
    if (v->index == 0) {
        put_le32(regs.regs + LAPIC_LINT0, LAPIC_EXTINT);
    }
    return kvm_ioctl(v->fd, KVM_SET_LAPIC, &regs);
}

int kvm_irqchip_reset(struct engine_vm *vm)
{
    int r = 0;

    for (uint32_t id = KVM_IRQCHIP_PIC_MASTER; r == 0 && id <= KVM_IRQCHIP_PIC_SLAVE; id++) {
        struct kvm_irqchip chip = {.chip_id = id};
        r = kvm_ioctl(vm->fd, KVM_GET_IRQCHIP, &chip);
        uint8_t elcr_mask = chip.chip.pic.elcr_mask;
        memset(&chip.chip, 0, sizeof(chip.chip));
        chip.chip.pic.elcr_mask = elcr_mask;
        r = r < 0 ? r : kvm_ioctl(vm->fd, KVM_SET_IRQCHIP, &chip);
    }
    if (r == 0) {
        struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
        r = kvm_ioctl(vm->fd, KVM_GET_IRQCHIP, &chip);
        uint64_t base = chip.chip.ioapic.base_address;
        memset(&chip.chip, 0, sizeof(chip.chip));
        chip.chip.ioapic.base_address = base;
        for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++) {
            chip.chip.ioapic.redirtbl[i].bits = IOAPIC_MASKED;
        }
        r = r < 0 ? r : kvm_ioctl(vm->fd, KVM_SET_IRQCHIP, &chip);
    }
    for (unsigned i = 0; r == 0 && i < vm->n_cpus; i++) {
        r = vm->cpus[i] != NULL ? reset_lapic(vm->cpus[i]) : 0;
    }
    return r;
}

/* ---- save and load ---- */

static const char *const chip_names[] = {"pic_master", "pic_slave", "ioapic"};

int kvm_irqchip_save(struct engine_vm *vm, struct state_writer *w)
{
    char name[24];
    int r = 0;

    state_begin(w, SECTION, 0, VERSION);
    for (uint32_t id = 0; r == 0 && id < ARRAY_LEN(chip_names); id++) {
        struct kvm_irqchip chip = {.chip_id = id};
        r = kvm_ioctl(vm->fd, KVM_GET_IRQCHIP, &chip);
        state_put_bytes(w, chip_names[id], &chip.chip, sizeof(chip.chip));
    }
    for (unsigned i = 0; r == 0 && i < vm->n_cpus && vm->cpus[i] != NULL; i++) {
        struct kvm_lapic_state regs;
        r = kvm_ioctl(vm->cpus[i]->fd, KVM_GET_LAPIC, &regs);
        snprintf(name, sizeof(name), "lapic%u", i);
        state_put_bytes(w, name, regs.regs, sizeof(regs.regs));
    }
    state_end(w);
    return r;
}

static int load_lapic(struct engine_vcpu *v, struct state_reader *r, struct err *err)
{
    struct kvm_lapic_state regs, now;
    char name[24];

    snprintf(name, sizeof(name), "lapic%u", v->index);
    int rc = state_get_bytes(r, name, regs.regs, sizeof(regs.regs), err);
    if (rc < 0) {
        return rc;
    }
    /* Its ID and version are the board's, not the stream's. */
    rc = kvm_ioctl(v->fd, KVM_GET_LAPIC, &now);
    memcpy(regs.regs + LAPIC_ID, now.regs + LAPIC_ID, 0x20);
    rc = rc < 0 ? rc : kvm_ioctl(v->fd, KVM_SET_LAPIC, &regs);
    /* The timer's mode is known only now; set_state came before. */
    rc = rc < 0 || v->tsc_deadline == 0 ? rc
                                        : kvm_msr_set_one(v, MSR_TSC_DEADLINE, v->tsc_deadline);
    if (rc < 0) {
        return ERR(err, STATE_BAD, -rc, "saved state: KVM refuses the local APIC of CPU %u: %s",
                   v->index, strerror(-rc));
    }
    return 0;
}

int kvm_irqchip_load(struct engine_vm *vm, struct state_reader *r, struct err *err)
{
    uint32_t version;
    int rc = state_enter(r, SECTION, 0, VERSION, &version, err);

    for (uint32_t id = 0; rc == 0 && id < ARRAY_LEN(chip_names); id++) {
        struct kvm_irqchip chip = {.chip_id = id};
        rc = state_get_bytes(r, chip_names[id], &chip.chip, sizeof(chip.chip), err);
        if (rc < 0) {
            return rc;
        }
        rc = kvm_ioctl(vm->fd, KVM_SET_IRQCHIP, &chip);
        if (rc < 0) {
            return ERR(err, STATE_BAD, -rc, "saved state: KVM refuses its %s: %s",
                       chip_names[id], strerror(-rc));
        }
    }
    for (unsigned i = 0; rc == 0 && i < vm->n_cpus && vm->cpus[i] != NULL; i++) {
        rc = load_lapic(vm->cpus[i], r, err);
    }
    return rc < 0 ? rc : state_leave(r, err);
}
