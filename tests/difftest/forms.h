/*
 * The generator's instruction forms for other tests (tests/blocktest): one encoding at a time,
 * with random registers, and random initial states.
 */
#pragma once

#include "difftest.h"

#include "cpu/model/cpu_model.h"

#include <Zydis/Zydis.h>

/* From here on the generator makes the same things again for the same seed. */
void dt_gen_seed(struct dt_gen *g, uint64_t seed);
/* Form number form (below dt_gen_forms) with random registers and immediates. false: no
 * instruction, or one that is never generated. */
bool dt_gen_encode(struct dt_gen *g, unsigned form, uint8_t code[16],
                   ZydisDecodedInstruction *in, ZydisDecodedOperand *ops);
/* What a case starts with: general registers and the vector state. */
void dt_gen_state(struct dt_gen *g, struct dt_state *s);
/* The model may keep from guests what the engine can do: here all of that is wanted. Cuts
 * dt_xcr0 to what it has. */
void dt_offer_all(struct cpu_model *m);
