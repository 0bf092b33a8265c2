/* reference.h: the slow and obvious evaluator. It defines what each op means, folds constants, does
 * the rare ops of a plan, and is what the fast paths are tested against. */
#pragma once

#include "mil.h"

#define MIL_MATMUL_LIMIT 32752.0f /* hazard: beyond it a product is infinite */
#define MIL_SLICE_LIMIT 4094.0f   /* hazard: the same for a slice on the last axis */

typedef struct mil_evaluation {
    const mil_program *program;
    const mil_op *op;
    void *const *data; /* per value: its elements, contiguous in row-major order */
    ane_numerics numerics;
    unsigned hazards; /* 0 unless the numerics are ANE_HAZARD */
    ane_error_info *error;
} mil_evaluation;

/* Computes the op's outputs, whose memory is there, from its inputs. Fails for want of memory, or
 * where gather meets an index outside its axis. */
ane_status mil_reference_evaluate(const mil_evaluation *call);

/* One function per name in the fourth column of ops.def. */
ane_status mil_reference_elementwise(const mil_evaluation *call);
ane_status mil_reference_reshape(const mil_evaluation *call);
ane_status mil_reference_transpose(const mil_evaluation *call);
ane_status mil_reference_slice(const mil_evaluation *call);
ane_status mil_reference_concat(const mil_evaluation *call);
ane_status mil_reference_split(const mil_evaluation *call);
ane_status mil_reference_gather(const mil_evaluation *call);
ane_status mil_reference_matmul(const mil_evaluation *call);
ane_status mil_reference_conv(const mil_evaluation *call);
ane_status mil_reference_softmax(const mil_evaluation *call);
ane_status mil_reference_reduce(const mil_evaluation *call);
ane_status mil_reference_layer_norm(const mil_evaluation *call);

/* Helpers of the functions above. */
const mil_type *mil_slot_type(const mil_evaluation *call, size_t slot);
const float *mil_slot_floats(const mil_evaluation *call, size_t slot); /* NULL where absent */
float *mil_result(const mil_evaluation *call);
/* Rounds the output if it is fp16 and the numerics round. */
void mil_round_result(const mil_evaluation *call);
/* Coordinates of the element at a row-major index, and back. */
void mil_unravel(const mil_type *type, size_t index, size_t *at);
size_t mil_ravel(const mil_type *type, const size_t *at);
