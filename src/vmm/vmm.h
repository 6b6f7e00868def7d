/* The parts of viv-vmm's main. */
#pragma once

#include "base/err.h"
#include "base/loop.h"
#include "machine/machine.h"

#include <stdbool.h>
#include <stdint.h>

/* engines.c: probes every engine and prints what was measured. Returns the exit status. */
int vmm_print_engines(bool json);

/* metrics.c: gathers what was measured and writes it as JSON. */
struct metrics;
int metrics_new(struct metrics **ret_metrics, const struct machine_config *cfg,
                struct loop *loop, struct machine *m, uint64_t start_ns, struct err *err);
void metrics_free(struct metrics *metrics);
int metrics_write(struct metrics *metrics, enum machine_end end, struct err *err);
