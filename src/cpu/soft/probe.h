/* How fast this engine runs here: a guest of ours in real and in user mode, about a
 * millisecond. */
#pragma once

#include "cpu/engine.h"

void soft_probe(struct engine_probe *ret_probe);
