/* What viv run starts when no kernel is named: the default guest, or an image that is a kernel.
 */
#pragma once

#include "machine/machine_config.h"

/* Sets kernel, initrd and (unless given) cmdline to the default guest's in the per-user cache.
 * NOT_FOUND when it was not made yet: the message says how to make it. */
int run_default_guest(struct machine_config *cfg, struct err *err);

/* 0 when the file at path begins like a kernel that can be started directly; else an error that
 * says what to do. */
int run_image_is_kernel(const char *path, struct err *err);
