/* The cache of decoded blocks, one per vCPU. */
#pragma once

#include "base/err.h"
#include "cpu/soft/uop.h"

int code_cache_new(struct scpu *c, struct err *err);
void code_cache_free(struct scpu *c);
void code_cache_flush(struct scpu *c);
size_t code_cache_bytes(const struct scpu *c); /* of host memory in use */

/* The block at c->rip for mode (c->mode, or with MODE_STEP: one instruction), decoded if need
 * be. NULL: the fetch faulted and an exception is raised. */
struct sblock *block_get(struct scpu *c, uint32_t mode);
