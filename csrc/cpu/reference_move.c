/* reference_move.c: ops that only move elements, one element at a time by its coordinates. */
#include <string.h>

#include "attributes.h"
#include "element.h"
#include "numeric.h"
#include "reference.h"

ane_status mil_reference_reshape(const mil_evaluation *call) {
    memcpy(mil_result(call), mil_slot_floats(call, 0),
           mil_elements(mil_slot_type(call, 0)) * sizeof(mil_cell));
    return ANE_OK;
}

ane_status mil_reference_transpose(const mil_evaluation *call) {
    const mil_type *from = mil_slot_type(call, 0), *to = mil_output_type(call->program, call->op);
    const int32_t *order = call->data[call->op->inputs[1]];
    const mil_cell *x = call->data[call->op->inputs[0]];
    mil_cell *out = call->data[call->op->outputs[0]];
    for (size_t index = 0; index < mil_elements(to); index++) {
        size_t at[MIL_MAX_RANK], source[MIL_MAX_RANK] = {0};
        mil_unravel(to, index, at);
        for (size_t i = 0; i < to->rank; i++) source[order[i]] = at[i];
        out[index] = x[mil_ravel(from, source)];
    }
    return ANE_OK;
}

static void take_slice(const mil_evaluation *call, const mil_slice *slice, mil_cell *out) {
    const mil_type *from = mil_slot_type(call, 0);
    const mil_cell *x = call->data[call->op->inputs[0]];
    mil_type to = *from;
    memcpy(to.dim, slice->size, sizeof to.dim);
    for (size_t index = 0; index < mil_elements(&to); index++) {
        size_t at[MIL_MAX_RANK] = {0};
        mil_unravel(&to, index, at);
        for (size_t i = 0; i < to.rank; i++)
            at[i] = (size_t)((ptrdiff_t)slice->begin[i] + (ptrdiff_t)at[i] * slice->step[i]);
        out[index] = x[mil_ravel(from, at)];
    }
}

ane_status mil_reference_slice(const mil_evaluation *call) {
    mil_slice slice = mil_slice_of(call->program, call->op);
    mil_cell *out = call->data[call->op->outputs[0]];
    take_slice(call, &slice, out);
    if (!mil_slice_saturates(call->program, call->op, call->hazards)) return ANE_OK;
    size_t elements = mil_elements(mil_output_type(call->program, call->op));
    for (size_t i = 0; i < elements; i++) out[i].f = mil_saturate(out[i].f, MIL_SLICE_LIMIT);
    return ANE_OK;
}

ane_status mil_reference_split(const mil_evaluation *call) {
    for (size_t part = 0; part < call->op->output_count; part++) {
        mil_slice slice = mil_split_part(call->program, call->op, part);
        take_slice(call, &slice, call->data[call->op->outputs[part]]);
    }
    return ANE_OK;
}

/* Puts one value at at[axis] = start + i * step of the result, for its own index i along the axis.
 */
static void place(const mil_evaluation *call, size_t value, size_t axis, size_t start,
                  size_t step) {
    const mil_type *from = &call->program->values[value].type;
    const mil_type *to = mil_output_type(call->program, call->op);
    const mil_cell *x = call->data[value];
    mil_cell *out = call->data[call->op->outputs[0]];
    for (size_t index = 0; index < mil_elements(from); index++) {
        size_t at[MIL_MAX_RANK] = {0};
        mil_unravel(from, index, at);
        at[axis] = start + at[axis] * step;
        out[mil_ravel(to, at)] = x[index];
    }
}

ane_status mil_reference_concat(const mil_evaluation *call) {
    const mil_op *op = call->op;
    size_t axis = (size_t)mil_integer(call->program, op, 1, 0), start = 0;
    bool interleaves = mil_integer(call->program, op, 2, 0) != 0;
    for (size_t i = 0; i < op->variadic_count; i++) {
        const mil_type *part = &call->program->values[op->variadic[i]].type;
        if (interleaves)
            place(call, op->variadic[i], axis, i, op->variadic_count);
        else
            place(call, op->variadic[i], axis, start, 1);
        start += part->rank ? part->dim[axis] : 1;
    }
    return ANE_OK;
}

/* Negative indices count from the end. */
static ane_status resolve_index(const mil_evaluation *call, int32_t given, size_t length,
                                size_t *index) {
    ptrdiff_t wanted = given < 0 ? given + (ptrdiff_t)length : given;
    *index = (size_t)wanted;
    if (wanted >= 0 && wanted < (ptrdiff_t)length) return ANE_OK;
    return ane_fail_at(call->error, ANE_ERROR_EVALUATE, call->op->line, call->op->column,
                       "gather: index %d lies outside [0, %zu)", (int)given, length);
}

/* out[before.., positions.., after..] = x[before.., indices[batch.., positions..], after..]; the
 * batch coordinates are the first of `before`. */
ane_status mil_reference_gather(const mil_evaluation *call) {
    const mil_op *op = call->op;
    const mil_type *from = mil_slot_type(call, 0), *indices_type = mil_slot_type(call, 1);
    const mil_type *to = mil_output_type(call->program, op);
    size_t axis = (size_t)mil_integer(call->program, op, 2, 0);
    size_t batch = (size_t)mil_integer(call->program, op, 3, 0);
    const int32_t *indices = call->data[op->inputs[1]];
    const mil_cell *x = call->data[op->inputs[0]];
    mil_cell *out = call->data[op->outputs[0]];
    size_t positions = indices_type->rank - batch;
    for (size_t index = 0; index < mil_elements(to); index++) {
        size_t at[2 * MIL_MAX_RANK] = {0}, source[MIL_MAX_RANK] = {0}, which[MIL_MAX_RANK] = {0};
        mil_unravel(to, index, at);
        for (size_t i = 0; i < batch; i++) which[i] = at[i];
        for (size_t i = 0; i < positions; i++) which[batch + i] = at[axis + i];
        for (size_t i = 0; i < from->rank; i++) source[i] = at[i < axis ? i : i + positions - 1];
        ane_status status = resolve_index(call, indices[mil_ravel(indices_type, which)],
                                          from->dim[axis], &source[axis]);
        if (status != ANE_OK) return status;
        out[index] = x[mil_ravel(from, source)];
    }
    return ANE_OK;
}
