/* lower_move.c: ops that move elements become views. A place says, from the consumer's side, where
 * a value is wanted: in the surface of an output or in its part of a concat; it passes backwards
 * through reshapes and transposes, and producers that can write there do. */
#include "lower.h"

#include <string.h>

/* --- places --- */

static void wish(mil_lowering *lowering, size_t value, mil_view place) {
    mil_value_state *state = &lowering->values[value];
    bool made_by_op = lowering->program->values[value].producer != MIL_NONE;
    if (state->has_place || !made_by_op || lowering->plan->constants[value]) return;
    state->has_place = true;
    state->place = place;
}

mil_view mil_concat_part(const mil_lowering *lowering, const mil_op *op, const mil_view *whole,
                         size_t index, size_t *start) {
    size_t axis = (size_t)mil_integer(lowering->program, op, 1, 0);
    bool interleaves = mil_integer(lowering->program, op, 2, 0) != 0;
    const mil_type *part = &lowering->program->values[op->variadic[index]].type;
    mil_slice slice = {0};
    for (size_t i = 0; i < part->rank; i++) {
        slice.step[i] = 1;
        slice.size[i] = part->dim[i];
    }
    slice.begin[axis] = interleaves ? index : *start;
    if (interleaves) slice.step[axis] = (ptrdiff_t)op->variadic_count;
    *start += part->dim[axis];
    return mil_view_slice(whole, slice.begin, slice.step, slice.size);
}

static void wish_for_parts(mil_lowering *lowering, const mil_op *op) {
    size_t whole = op->outputs[0], start = 0;
    const mil_type *type = &lowering->program->values[whole].type;
    if (!lowering->values[whole].has_place) wish(lowering, whole, mil_fresh(lowering, type));
    for (size_t i = 0; i < op->variadic_count; i++) {
        const mil_view *place = &lowering->values[whole].place;
        wish(lowering, op->variadic[i], mil_concat_part(lowering, op, place, i, &start));
    }
}

/* The value that was reshaped, perhaps several times. */
static size_t before_reshapes(const mil_program *program, size_t value) {
    const mil_op *op;
    while (program->values[value].producer != MIL_NONE) {
        op = &program->ops[program->values[value].producer];
        if (op->kind != MIL_OP_reshape && op->kind != MIL_OP_identity) break;
        value = op->inputs[0];
    }
    return value;
}

/* But for ops that are lowered together with others. */
static size_t count_reading_ops(const mil_lowering *lowering, size_t value) {
    const mil_program *program = lowering->program;
    size_t count = 0;
    for (size_t i = 0; i < program->op_count; i++) {
        const mil_op *op = &program->ops[i];
        if (lowering->values[op->outputs[0]].lowered) continue;
        for (size_t j = 0; j < mil_operand_count(op); j++) count += mil_operand(op, j) == value;
    }
    return count;
}

/* A product whose transpose alone is read can write that. */
static bool turns_a_product(const mil_lowering *lowering, const mil_op *op) {
    const mil_program *program = lowering->program;
    size_t value = before_reshapes(program, op->inputs[0]);
    size_t producer = program->values[value].producer;
    return producer != MIL_NONE && program->ops[producer].kind == MIL_OP_matmul &&
           count_reading_ops(lowering, value) == 1 &&
           count_reading_ops(lowering, op->inputs[0]) == 1;
}

/* The last axis of the type is the last two of the view. */
static bool is_cut(const mil_type *type, const mil_view *apart) {
    size_t last = apart->rank - 1;
    return apart->rank >= 2 && type->rank >= 1 &&
           type->dim[type->rank - 1] == apart->dim[last - 1] * apart->dim[last];
}

static void wish_before_transpose(mil_lowering *lowering, const mil_op *op) {
    mil_value_state *out = &lowering->values[op->outputs[0]];
    const int32_t *order = lowering->program->values[op->inputs[1]].ints;
    size_t inverse[MIL_MAX_RANK];
    if (!out->has_place && turns_a_product(lowering, op))
        wish(lowering, op->outputs[0],
             mil_fresh(lowering, &lowering->program->values[op->outputs[0]].type));
    if (!out->has_place) return;
    for (size_t i = 0; i < out->place.rank; i++) inverse[order[i]] = i;
    wish(lowering, op->inputs[0], mil_view_permute(&out->place, inverse));
}

/* The reshape cuts rows into pieces, which are wanted where they do not lie side by side. */
static void wish_for_pieces(mil_lowering *lowering, const mil_op *op) {
    const mil_view *place = &lowering->values[op->outputs[0]].place;
    mil_value_state *state = &lowering->values[op->inputs[0]];
    if (!is_cut(mil_input_type(lowering->program, op, 0), place)) return;
    state->has_split_place = true;
    state->split_place = *place;
}

static void wish_before_reshape(mil_lowering *lowering, const mil_op *op) {
    const mil_value_state *out = &lowering->values[op->outputs[0]];
    mil_view place;
    if (!out->has_place) return;
    const mil_type *type = mil_input_type(lowering->program, op, 0);
    if (mil_view_reshape(&out->place, type, &place))
        wish(lowering, op->inputs[0], place);
    else
        wish_for_pieces(lowering, op);
}

static void wish_for_outputs(mil_lowering *lowering) {
    const mil_program *program = lowering->program;
    for (size_t i = 0; i < program->output_count; i++) {
        const mil_geometry *geometry = &lowering->plan->outputs[i];
        if (geometry->element_size != 4) continue;
        mil_storage storage = {.kind = MIL_STORAGE_OUTPUT, .index = i};
        const mil_type *type = &program->values[program->outputs[i]].type;
        wish(lowering, program->outputs[i],
             mil_view_on_surface(mil_add_storage(lowering, storage), type, geometry));
    }
}

void mil_choose_places(mil_lowering *lowering) {
    wish_for_outputs(lowering);
    for (size_t i = lowering->program->op_count; i-- > 0;) {
        const mil_op *op = &lowering->program->ops[i];
        size_t out = op->outputs[0];
        const mil_value_state *state = &lowering->values[out];
        if (!state->needed || state->lowered || lowering->plan->constants[out]) continue;
        switch (op->kind) {
        case MIL_OP_concat:
            wish_for_parts(lowering, op);
            break;
        case MIL_OP_transpose:
            wish_before_transpose(lowering, op);
            break;
        case MIL_OP_identity:
        case MIL_OP_reshape:
        case MIL_OP_expand_dims:
        case MIL_OP_squeeze:
            wish_before_reshape(lowering, op);
            break;
        default:
            break;
        }
    }
}

/* --- ops --- */

/* The reshaped value is split: rows are not put together before somebody wants that. */
static bool reshape_apart(mil_lowering *lowering, const mil_op *op, const mil_view *view) {
    const mil_type *type = mil_output_type(lowering->program, op);
    size_t rank = type->rank, pieces = view->rank >= 2 ? view->dim[view->rank - 2] : 0;
    if (rank == 0 || rank == MIL_MAX_RANK || pieces < 2 || !is_cut(type, view)) return false;
    mil_type apart = {.rank = rank + 1};
    memcpy(apart.dim, type->dim, rank * sizeof *type->dim);
    apart.dim[rank - 1] = pieces;
    apart.dim[rank] = view->dim[view->rank - 1];
    mil_value_state *out = &lowering->values[op->outputs[0]];
    if (out->has_place || !mil_view_reshape(view, &apart, &out->split)) return false;
    out->has_split = true;
    out->ready = lowering->values[op->inputs[0]].ready;
    return true;
}

void mil_lower_reshape(mil_lowering *lowering, const mil_op *op) {
    const mil_type *type = mil_output_type(lowering->program, op);
    bool split = mil_is_split(lowering, op->inputs[0]);
    mil_view view =
        split ? lowering->values[op->inputs[0]].split : mil_view_of(lowering, op->inputs[0]);
    mil_view out;
    if (!mil_view_reshape(&view, type, &out)) {
        if (reshape_apart(lowering, op, &view)) return;
        view = mil_contiguous_of(lowering, op->inputs[0]);
        mil_view_reshape(&view, type, &out);
    }
    mil_alias(lowering, op->outputs[0], op->inputs[0], out);
}

void mil_lower_transpose(mil_lowering *lowering, const mil_op *op) {
    const int32_t *perm = lowering->program->values[op->inputs[1]].ints;
    mil_view view = mil_view_of(lowering, op->inputs[0]);
    size_t order[MIL_MAX_RANK];
    for (size_t i = 0; i < view.rank; i++) order[i] = (size_t)perm[i];
    mil_alias(lowering, op->outputs[0], op->inputs[0], mil_view_permute(&view, order));
}

static bool has_unit_steps(const mil_slice *slice, size_t rank) {
    for (size_t i = 0; i < rank; i++)
        if (slice->step[i] != 1) return false;
    return true;
}

/* One slice of the op's input becomes one value. Of an fp16 input, the slice alone is loaded. */
static void take(mil_lowering *lowering, const mil_op *op, const mil_slice *slice, size_t out) {
    const mil_type *type = &lowering->program->values[out].type;
    bool saturates = op->kind != MIL_OP_split &&
                     mil_slice_saturates(lowering->program, op, lowering->plan->hazards);
    size_t in = op->inputs[0], rank = mil_input_type(lowering->program, op, 0)->rank, step;
    mil_view view, shaped;
    if (mil_is_narrow_input(lowering, in) && has_unit_steps(slice, rank)) {
        view = mil_load(lowering, in, slice, &step);
        lowering->values[out].ready = step + 1;
    } else {
        view = mil_view_of(lowering, in);
        view = mil_view_slice(&view, slice->begin, slice->step, slice->size);
        lowering->values[out].ready = lowering->values[in].ready;
    }
    mil_view_reshape(&view, type, &shaped); /* drops axes of length 1 at most */
    if (saturates) {
        mil_lower_saturation(lowering, out, shaped, out);
        return;
    }
    lowering->values[out].has_view = true;
    lowering->values[out].view = shaped;
}

void mil_lower_slice(mil_lowering *lowering, const mil_op *op) {
    mil_slice slice = mil_slice_of(lowering->program, op);
    take(lowering, op, &slice, op->outputs[0]);
}

void mil_lower_split(mil_lowering *lowering, const mil_op *op) {
    for (size_t i = 0; i < op->output_count; i++) {
        if (!lowering->values[op->outputs[i]].needed) continue;
        mil_slice slice = mil_split_part(lowering->program, op, i);
        take(lowering, op, &slice, op->outputs[i]);
    }
}

void mil_lower_concat(mil_lowering *lowering, const mil_op *op) {
    mil_value_state *whole = &lowering->values[op->outputs[0]];
    size_t start = 0;
    for (size_t i = 0; i < op->variadic_count; i++) {
        size_t part = op->variadic[i];
        mil_view from = mil_view_of(lowering, part);
        mil_view to = mil_concat_part(lowering, op, &whole->place, i, &start);
        size_t ready = lowering->values[part].ready;
        if (!mil_view_equal(&from, &to))
            ready = mil_add_copy(lowering, MIL_STEP_COPY, from, to) + 1;
        if (ready > whole->ready) whole->ready = ready;
    }
    whole->has_view = true;
    whole->view = whole->place;
}

void mil_lower_gather(mil_lowering *lowering, const mil_op *op) {
    mil_lower_delegate(lowering, op);
}
