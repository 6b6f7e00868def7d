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

/* For who decodes from a page, in this order: the page is claimed, from when on stores to it
 * are noticed, which gives its generation; the lines are marked; the bytes are read. */
uint32_t block_claim_page(struct scpu *c, struct soft_page *page, const uint8_t *host);
/* Bytes at off of a page up to its end, 16 at most, by aligned quadwords. */
void block_snapshot(const uint8_t *page, uint64_t off, uint8_t ret_bytes[16]);
void block_mark_lines(struct soft_page *page, uint64_t off, uint64_t len);
