/* The KVM engine's table. See kvm_priv.h and the README for what lies where. */
#include "cpu/kvm/kvm_priv.h"

const struct engine_ops engine_kvm = {
    .name = "kvm",
    .has_irqchip = true,
    .probe = kvm_probe,
    .vm_new = kvm_vm_new,
    .vm_free = kvm_vm_free,
    .map_slot = kvm_vm_map_slot,
    .unmap_slot = kvm_vm_unmap_slot,
    .vcpu_new = kvm_vcpu_new,
    .vcpu_free = kvm_vcpu_free,
    .run = kvm_vcpu_run,
    .kick = kvm_vcpu_kick,
    .signal = kvm_vcpu_signal,
    .get_state = kvm_vcpu_get_state,
    .set_state = kvm_vcpu_set_state,
    .get_stats = kvm_vcpu_get_stats,
    .irq_line = kvm_irqchip_line,
    .send_msi = kvm_irqchip_msi,
    .irqchip_reset = kvm_irqchip_reset,
    .irqchip_save = kvm_irqchip_save,
    .irqchip_load = kvm_irqchip_load,
    .ioeventfd = kvm_vm_ioeventfd,
    .dirty_sync = kvm_vm_dirty_sync,
};
