/* attributes.h: the constant parameters of ops, resolved once for both evaluators. */
#pragma once

#include "mil.h"

const mil_type *mil_input_type(const mil_program *program, const mil_op *op, size_t slot);
const mil_type *mil_output_type(const mil_program *program, const mil_op *op);
/* The scalar of an integer or bool slot, or `absent`. */
int32_t mil_integer(const mil_program *program, const mil_op *op, size_t slot, int32_t absent);
/* chosen[i]: axis i of x (slot 0) is listed in the slot; all are where it is absent. Returns the
 * number of elements of x along the chosen axes. */
size_t mil_chosen_axes(const mil_program *program, const mil_op *op, size_t slot, bool *chosen);
/* The axes over which softmax, reduce_* and layer_norm run. */
size_t mil_row_axes(const mil_program *program, const mil_op *op, bool *chosen);
float mil_layer_norm_epsilon(const mil_program *program, const mil_op *op);

/* Element `begin + i * step` of the input for i in [0, size) along each axis of the input. */
typedef struct mil_slice {
    size_t begin[MIL_MAX_RANK];
    ptrdiff_t step[MIL_MAX_RANK];
    size_t size[MIL_MAX_RANK];
} mil_slice;

mil_slice mil_slice_of(const mil_program *program, const mil_op *op); /* both slice ops */
/* Part `index` of a split, as a slice of its input. */
mil_slice mil_split_part(const mil_program *program, const mil_op *op, size_t index);
/* The hazard of slices on the last axis applies to this op. */
bool mil_slice_saturates(const mil_program *program, const mil_op *op, unsigned hazards);
