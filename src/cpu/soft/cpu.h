/* The vCPU half of the software engine's ops (engine_ops in cpu/engine.h says what each does).
 */
#pragma once

#include "cpu/engine.h"

int scpu_new(struct engine_vm *vm, unsigned index, struct engine_vcpu **ret_vcpu,
             struct err *err);
void scpu_free(struct engine_vcpu *vcpu);
void scpu_run(struct engine_vcpu *vcpu, struct engine_exit_info *ret_exit);
void scpu_kick(struct engine_vcpu *vcpu);
void scpu_signal(struct engine_vcpu *vcpu, enum engine_signal sig, uint8_t vector);
int scpu_get_state(struct engine_vcpu *vcpu, struct vcpu_state *ret_state);
int scpu_set_state(struct engine_vcpu *vcpu, const struct vcpu_state *state, struct err *err);
void scpu_get_stats(const struct engine_vcpu *vcpu, struct engine_stats *ret_stats);
uint64_t scpu_read_tsc(const struct engine_vcpu *vcpu);
