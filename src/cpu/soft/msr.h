/*
 * Model specific registers of the software engine. Each function returns 0, or -EINVAL where
 * the processor would raise #GP(0), which the caller does.
 */
#pragma once

#include "cpu/soft/soft.h"

int msr_read(struct scpu *c, uint32_t msr, uint64_t *ret_value);
int msr_write(struct scpu *c, uint32_t msr, uint64_t value);
/* True when the table is sorted by number without overlap (for the unit test). */
bool msr_table_is_sorted(void);

/* ---- KVM paravirtual clock: msr_kvm.c ---- */
#define MSR_KVM_WALL_CLOCK      0x11u
#define MSR_KVM_SYSTEM_TIME     0x12u
#define MSR_KVM_WALL_CLOCK_NEW  0x4b564d00u
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01u
#define MSR_KVM_POLL_CONTROL    0x4b564d05u

int msr_kvm_set_system_time(struct scpu *c, uint64_t value);
int msr_kvm_set_wall_clock(struct scpu *c, uint64_t value);
/* Multiplier and shift that turn TSC ticks into nanoseconds: (ticks << shift) * mul >> 32. */
void msr_kvm_time_scale(uint64_t tsc_khz, uint32_t *ret_mul, int8_t *ret_shift);
/* Writes the vCPU's page, if it has one. */
void msr_kvm_clock_publish(struct scpu *c);
/* Before the vCPU runs on: publishes anew when guest time was stopped or set since (pause,
 * load). */
void msr_kvm_clock_resync(struct scpu *c);
