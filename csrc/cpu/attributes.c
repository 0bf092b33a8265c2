/* attributes.c: reads constant parameters of checked ops: defaults for what is absent, masks and
 * negative positions resolved. */
#include "attributes.h"

const mil_type *mil_input_type(const mil_program *program, const mil_op *op, size_t slot) {
    return &program->values[op->inputs[slot]].type;
}

const mil_type *mil_output_type(const mil_program *program, const mil_op *op) {
    return &program->values[op->outputs[0]].type;
}

static const int32_t *integers(const mil_program *program, const mil_op *op, size_t slot) {
    return op->inputs[slot] == MIL_NONE ? NULL : program->values[op->inputs[slot]].ints;
}

int32_t mil_integer(const mil_program *program, const mil_op *op, size_t slot, int32_t absent) {
    const int32_t *found = integers(program, op, slot);
    return found ? found[0] : absent;
}

static size_t elements_along(const mil_type *type, const bool *chosen) {
    size_t elements = 1;
    for (size_t i = 0; i < type->rank; i++)
        if (chosen[i]) elements *= type->dim[i];
    return elements;
}

static size_t normalized(int32_t axis, size_t rank) {
    return (size_t)(axis < 0 ? axis + (int32_t)rank : axis);
}

size_t mil_chosen_axes(const mil_program *program, const mil_op *op, size_t slot, bool *chosen) {
    const mil_type *x = mil_input_type(program, op, 0);
    const int32_t *axes = integers(program, op, slot);
    for (size_t i = 0; i < MIL_MAX_RANK; i++) chosen[i] = !axes && i < x->rank;
    size_t count = axes ? mil_elements(mil_input_type(program, op, slot)) : 0;
    for (size_t i = 0; i < count; i++) chosen[normalized(axes[i], x->rank)] = true;
    return elements_along(x, chosen);
}

size_t mil_row_axes(const mil_program *program, const mil_op *op, bool *chosen) {
    if (op->kind != MIL_OP_softmax || op->inputs[1] != MIL_NONE)
        return mil_chosen_axes(program, op, 1, chosen);
    const mil_type *x = mil_input_type(program, op, 0);
    for (size_t i = 0; i < MIL_MAX_RANK; i++) chosen[i] = i + 1 == x->rank;
    return elements_along(x, chosen);
}

float mil_layer_norm_epsilon(const mil_program *program, const mil_op *op) {
    return op->inputs[4] == MIL_NONE ? 1e-5f : program->values[op->inputs[4]].floats[0];
}

static bool masked(const int32_t *mask, size_t axis) {
    return mask && mask[axis] != 0;
}

/* The first index along an axis, as NumPy resolves it. */
static size_t first_index(int32_t begin, bool ignored, ptrdiff_t step, size_t dim) {
    ptrdiff_t last = (ptrdiff_t)dim - 1;
    if (ignored) return (size_t)(step > 0 ? 0 : last);
    ptrdiff_t first = begin < 0 ? begin + (ptrdiff_t)dim : begin;
    return (size_t)(first < 0 ? 0 : first > last ? last : first);
}

static mil_slice slice_by_index(const mil_program *program, const mil_op *op) {
    const mil_type *x = mil_input_type(program, op, 0), *out = mil_output_type(program, op);
    const int32_t *begin = integers(program, op, 1), *stride = integers(program, op, 3);
    const int32_t *begin_mask = integers(program, op, 4), *squeeze = integers(program, op, 6);
    mil_slice slice = {0};
    size_t axis_out = 0;
    for (size_t i = 0; i < x->rank; i++) {
        bool squeezed = masked(squeeze, i);
        slice.step[i] = squeezed || !stride ? 1 : stride[i];
        bool ignored = masked(begin_mask, i) && !squeezed;
        slice.begin[i] = first_index(begin[i], ignored, slice.step[i], x->dim[i]);
        slice.size[i] = squeezed ? 1 : out->dim[axis_out++];
    }
    return slice;
}

mil_slice mil_slice_of(const mil_program *program, const mil_op *op) {
    if (op->kind == MIL_OP_slice_by_index) return slice_by_index(program, op);
    const mil_type *x = mil_input_type(program, op, 0), *out = mil_output_type(program, op);
    const int32_t *begin = integers(program, op, 1);
    mil_slice slice = {0};
    for (size_t i = 0; i < x->rank; i++) {
        slice.begin[i] = first_index(begin[i], false, 1, x->dim[i]);
        slice.step[i] = 1;
        slice.size[i] = out->dim[i];
    }
    return slice;
}

mil_slice mil_split_part(const mil_program *program, const mil_op *op, size_t index) {
    const mil_type *x = mil_input_type(program, op, 0);
    size_t axis = normalized(mil_integer(program, op, 3, 0), x->rank);
    const mil_type *part = &program->values[op->outputs[index]].type;
    mil_slice slice = {0};
    for (size_t i = 0; i < x->rank; i++) {
        slice.step[i] = 1;
        slice.size[i] = part->dim[i];
    }
    for (size_t i = 0; i < index; i++)
        slice.begin[axis] += program->values[op->outputs[i]].type.dim[axis];
    return slice;
}

bool mil_slice_saturates(const mil_program *program, const mil_op *op, unsigned hazards) {
    const mil_type *x = mil_input_type(program, op, 0);
    if (!(hazards & ANE_HAZARD_WIDTH_SLICE) || x->dtype != MIL_FP16 || x->rank == 0) return false;
    return mil_slice_of(program, op).begin[x->rank - 1] != 0;
}
