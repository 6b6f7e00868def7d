/* The VM spec's JSON (api/vm-spec.schema.json) to a struct machine_config. */
#pragma once

#include "machine/machine_config.h"

#include <stddef.h>

#define SPEC_MAX_BYTES (1u << 20)

/*
 * Fills *cfg, which is uninitialised before and needs machine_config_done after success only.
 * Unknown and doubled keys, wrong types and values out of range are SPEC_BAD errors that name
 * the key by its path, as in "disks[1].readonly".
 */
int spec_parse(struct machine_config *cfg, const char *text, size_t len, struct err *err);
