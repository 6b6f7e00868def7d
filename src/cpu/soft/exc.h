/*
 * Event delivery inside the folder; what others use of exc.c is in soft.h.
 */
#pragma once

#include "cpu/soft/soft.h"

/* INT1 (F1): #DB without a DPL check and without DR6 bits; pushes next_rip. */
int exc_icebp(struct scpu *c);
