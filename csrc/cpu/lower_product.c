/* lower_product.c: products take operands with the strides that they have, as long as BLAS can, and
 * read and write rows that lie in pieces. */
#include "lower.h"

#include <string.h>

#include "reference.h"

/* --- products --- */

/* BLAS reads a matrix with unit stride along one axis and at least its length along the other. */
static bool suits_blas(const mil_view *view) {
    size_t rows = view->dim[view->rank - 2], columns = view->dim[view->rank - 1];
    ptrdiff_t down = view->stride[view->rank - 2], along = view->stride[view->rank - 1];
    bool by_row = (columns == 1 || along == 1) && (rows == 1 || down >= (ptrdiff_t)columns);
    bool by_column = (rows == 1 || down == 1) && (columns == 1 || along >= (ptrdiff_t)rows);
    return by_row || by_column;
}

static mil_view with_axis(mil_view view, size_t axis) {
    for (size_t i = view.rank++; i > axis; i--) {
        view.dim[i] = view.dim[i - 1];
        view.stride[i] = view.stride[i - 1];
    }
    view.dim[axis] = 1;
    view.stride[axis] = 0;
    return view;
}

static mil_view transposed(mil_view view) {
    size_t order[MIL_MAX_RANK];
    for (size_t i = 0; i < view.rank; i++) order[i] = i;
    order[view.rank - 2] = view.rank - 1;
    order[view.rank - 1] = view.rank - 2;
    return mil_view_permute(&view, order);
}

/* Where BLAS reads the value: as fp16 rather than as floats. */
static mil_view matrices_of(mil_lowering *lowering, size_t value) {
    bool reads_halves = lowering->plan->reads_halves;
    if (reads_halves) mil_narrow_group_value(lowering, value);
    const mil_value_state *state = &lowering->values[value];
    if (reads_halves && state->has_halves && suits_blas(&state->narrow)) return state->narrow;
    mil_view view = mil_view_of(lowering, value), halves;
    if (reads_halves && mil_halves_of(lowering, &view, &halves) && suits_blas(&halves))
        return halves;
    return suits_blas(&view) ? view : mil_materialize(lowering, value);
}

/* The operand in slot 0 (rows by depth) or 1 (depth by columns) as a stack of matrices. */
static mil_view matrices(mil_lowering *lowering, const mil_op *op, size_t slot) {
    bool swaps = mil_integer(lowering->program, op, 2 + slot, 0) != 0;
    bool is_vector = mil_input_type(lowering->program, op, slot)->rank == 1;
    if (is_vector) return with_axis(mil_contiguous_of(lowering, op->inputs[slot]), slot);
    mil_view view = matrices_of(lowering, op->inputs[slot]);
    return swaps ? transposed(view) : view;
}

static mil_view broadcast_batch(const mil_view *matrix, const mil_view *out) {
    mil_type type = {.rank = out->rank};
    memcpy(type.dim, out->dim, sizeof type.dim);
    type.dim[out->rank - 2] = matrix->dim[matrix->rank - 2];
    type.dim[out->rank - 1] = matrix->dim[matrix->rank - 1];
    return mil_view_broadcast(matrix, &type);
}

/* The rows of all batches are one matrix where the second operand is the same for all. */
static void fold_batch(mil_product *product) {
    mil_view *a = &product->a, *b = &product->b, *out = &product->out;
    while (a->rank > 2) {
        size_t axis = a->rank - 3;
        bool follows = a->stride[axis] == a->stride[axis + 1] * (ptrdiff_t)a->dim[axis + 1] &&
                       out->stride[axis] == out->stride[axis + 1] * (ptrdiff_t)out->dim[axis + 1];
        if (a->dim[axis] != 1 && (b->stride[axis] != 0 || !follows)) return;
        mil_view *views[] = {a, b, out};
        for (size_t i = 0; i < 3; i++) {
            mil_view *view = views[i];
            if (view != b) view->dim[axis + 1] *= view->dim[axis];
            for (size_t j = axis; j + 1 < view->rank; j++) {
                view->dim[j] = view->dim[j + 1];
                view->stride[j] = view->stride[j + 1];
            }
            view->rank--;
        }
    }
}

static double product_flops(const mil_product *product) {
    size_t depth = product->a.dim[product->a.rank - 1];
    return 2.0 * (double)mil_view_elements(&product->out) * (double)depth;
}

/* The transposed product, for a result that is wanted with unit stride down its columns. */
static mil_product transposed_product(const mil_product *product) {
    mil_product out = *product;
    out.a = transposed(product->b);
    out.b = transposed(product->a);
    out.out = transposed(product->out);
    out.zeros.in_a = !product->zeros.in_a;
    return out;
}

/* `product` says what is multiplied and where the result goes. */
static mil_product finished(mil_lowering *lowering, const mil_op *op, mil_product product) {
    size_t rank = product.out.rank;
    product.a = broadcast_batch(&product.a, &product.out);
    product.b = broadcast_batch(&product.b, &product.out);
    if (product.out.dim[rank - 1] > 1 && product.out.stride[rank - 1] != 1)
        product = transposed_product(&product);
    product.rounds = mil_rounds(lowering, op->outputs[0]);
    lowering->plan->flops += product_flops(&product);
    fold_batch(&product);
    return product;
}

static size_t add_product(mil_lowering *lowering, const mil_op *op, mil_product product) {
    bool in_order = mil_view_contiguous(&product.out);
    product = finished(lowering, op, product);
    if (in_order) mil_narrow_product(lowering, op->outputs[0], &product);
    size_t step =
        mil_add_step(lowering, (mil_step){.kind = MIL_STEP_PRODUCT, .op = op, .product = product});
    mil_touch(lowering, &product.a, step);
    mil_touch(lowering, &product.b, step);
    return step;
}

/* Where the result goes: its place, if BLAS can write there. */
static mil_view product_target(mil_lowering *lowering, size_t value) {
    const mil_value_state *state = &lowering->values[value];
    const mil_type *type = &lowering->program->values[value].type;
    if (state->has_place && type->rank >= 2 && suits_blas(&state->place)) return state->place;
    return mil_target(lowering, value);
}

mil_product mil_product_of(mil_lowering *lowering, const mil_op *op, mil_view out) {
    mil_product product = {.out = out};
    product.a = matrices(lowering, op, 0);
    product.b = matrices(lowering, op, 1);
    if (lowering->plan->hazards & ANE_HAZARD_MATMUL_RANGE &&
        mil_output_type(lowering->program, op)->dtype == MIL_FP16)
        product.limit = MIL_MATMUL_LIMIT;
    return finished(lowering, op, product);
}

static mil_zeros zeros_of(const mil_lowering *lowering, const mil_op *op) {
    for (size_t slot = 0; slot < 2; slot++) {
        size_t step = lowering->values[op->inputs[slot]].zeros;
        bool swaps = mil_integer(lowering->program, op, 2 + slot, 0) != 0;
        if (step != MIL_NONE) return (mil_zeros){true, slot == 0, swaps == (slot == 0), step};
    }
    return (mil_zeros){0};
}

/* A split value that is one matrix, as [rows, pieces, columns of a piece]. */
static bool split_matrix(const mil_view *split, const mil_type *type, mil_view *out) {
    size_t rank = type->rank, last = split->rank - 1;
    if (rank < 2 || split->rank < 2) return false;
    mil_type apart = {.rank = 3,
                      .dim = {type->dim[rank - 2], split->dim[last - 1], split->dim[last]}};
    return mil_elements(&apart) == mil_elements(type) && mil_view_reshape(split, &apart, out) &&
           out->stride[2] == 1 && out->stride[0] >= (ptrdiff_t)out->dim[2];
}

/* What of a product is in pieces, as [rows, pieces, columns of a piece]. */
typedef struct split_product {
    bool reads, writes; /* the second operand, the result */
    mil_view b, out;
} split_product;

static split_product split_of(const mil_lowering *lowering, const mil_op *op, bool allowed) {
    const mil_value_state *y = &lowering->values[op->inputs[1]];
    const mil_value_state *result = &lowering->values[op->outputs[0]];
    const mil_type *x_type = mil_input_type(lowering->program, op, 0);
    const mil_type *y_type = mil_input_type(lowering->program, op, 1);
    split_product found = {0};
    if (!allowed || x_type->rank < 2 || x_type->rank != y_type->rank) return found;
    bool turned = mil_integer(lowering->program, op, 3, 0) != 0;
    found.writes =
        result->has_split_place && !result->has_place &&
        split_matrix(&result->split_place, mil_output_type(lowering->program, op), &found.out);
    found.reads = mil_is_split(lowering, op->inputs[1]) && !y->has_halves && !turned &&
                  split_matrix(&y->split, y_type, &found.b);
    if (found.reads && found.writes && found.b.dim[1] != found.out.dim[1]) found.reads = false;
    return found;
}

/* A matrix as if its pieces lay side by side. */
static mil_view as_one_piece(const mil_view *apart, const mil_type *type) {
    mil_view out = mil_view_whole(apart->storage, type);
    out.offset = apart->offset;
    return out;
}

/* The views of a product that was made as if there were none. */
static void cut_into_pieces(mil_product *product, const split_product *split) {
    const mil_view *cut = split->reads ? &split->b : &split->out;
    product->pieces = cut->dim[1];
    product->b.dim[1] = product->out.dim[1] = cut->dim[2];
    product->b_step = (ptrdiff_t)cut->dim[2] * product->b.stride[1];
    product->out_step = (ptrdiff_t)cut->dim[2];
    if (split->reads) {
        product->b.stride[0] = split->b.stride[0];
        product->b_step = split->b.stride[1];
    }
    if (split->writes) {
        product->out.stride[0] = split->out.stride[0];
        product->out_step = split->out.stride[1];
    }
}

static void lower_split_product(mil_lowering *lowering, const mil_op *op,
                                const split_product *split) {
    size_t out = op->outputs[0];
    const mil_type *type = mil_output_type(lowering->program, op);
    mil_product product = {.a = matrices(lowering, op, 0)};
    product.b = split->reads ? as_one_piece(&split->b, mil_input_type(lowering->program, op, 1))
                             : matrices(lowering, op, 1);
    product.out = split->writes ? as_one_piece(&split->out, type) : mil_target(lowering, out);
    mil_view target = product.out;
    size_t step = add_product(lowering, op, product);
    cut_into_pieces(&lowering->plan->steps[step].product, split);
    if (!split->writes) {
        mil_define(lowering, out, target, step);
        return;
    }
    mil_value_state *state = &lowering->values[out];
    state->has_split = true;
    state->split = state->split_place;
    state->ready = step + 1;
    mil_touch(lowering, &state->split, step);
}

void mil_lower_matmul(mil_lowering *lowering, const mil_op *op) {
    const mil_program *program = lowering->program;
    const mil_type *type = mil_output_type(program, op);
    if (!mil_is_float(type->dtype)) {
        mil_lower_delegate(lowering, op);
        return;
    }
    if (mil_lower_packed_matmul(lowering, op) || mil_lower_scores(lowering, op) ||
        mil_lower_scores_backward(lowering, op))
        return;
    mil_product product = {.zeros = zeros_of(lowering, op)};
    bool limited = lowering->plan->hazards & ANE_HAZARD_MATMUL_RANGE && type->dtype == MIL_FP16;
    split_product split = split_of(lowering, op, !limited && !product.zeros.found);
    if (split.reads || split.writes) {
        lower_split_product(lowering, op, &split);
        return;
    }
    product.a = matrices(lowering, op, 0);
    product.b = matrices(lowering, op, 1);
    mil_view target = product_target(lowering, op->outputs[0]);
    product.out = target;
    if (mil_input_type(program, op, 1)->rank == 1)
        product.out = with_axis(product.out, product.out.rank);
    if (mil_input_type(program, op, 0)->rank == 1)
        product.out = with_axis(product.out, product.out.rank - 1);
    if (limited) product.limit = MIL_MATMUL_LIMIT;
    size_t step = add_product(lowering, op, product);
    mil_define(lowering, op->outputs[0], target, step);
}

/* --- pointwise conv: weight [O, C] by x [N, C, positions] --- */

/* [N, C, positions] of the positions that the strides pick. */
static mil_view conv_input(mil_lowering *lowering, const mil_op *op, const mil_type *shape) {
    const mil_type *x = mil_input_type(lowering->program, op, 0);
    const mil_type *out = mil_output_type(lowering->program, op);
    const int32_t *strides =
        op->inputs[3] == MIL_NONE ? NULL : lowering->program->values[op->inputs[3]].ints;
    mil_view view = mil_view_of(lowering, op->inputs[0]), flat;
    mil_slice slice = {0};
    for (size_t i = 0; i < x->rank; i++) {
        slice.step[i] = i >= 2 && strides ? strides[i - 2] : 1;
        slice.size[i] = i >= 2 ? out->dim[i] : x->dim[i];
    }
    view = mil_view_slice(&view, slice.begin, slice.step, slice.size);
    if (mil_view_reshape(&view, shape, &flat) && suits_blas(&flat)) return flat;
    mil_type picked = *x;
    memcpy(picked.dim, slice.size, sizeof picked.dim);
    mil_view copy = mil_fresh(lowering, &picked);
    mil_add_copy(lowering, MIL_STEP_COPY, view, copy);
    mil_view_reshape(&copy, shape, &flat);
    return flat;
}

void mil_lower_conv(mil_lowering *lowering, const mil_op *op) {
    const mil_type *x = mil_input_type(lowering->program, op, 0);
    const mil_type *weight = mil_input_type(lowering->program, op, 1);
    const mil_type *out = mil_output_type(lowering->program, op);
    if (mil_lower_packed_conv(lowering, op)) return;
    if (mil_integer(lowering->program, op, 7, 1) != 1) {
        mil_lower_delegate(lowering, op);
        return;
    }
    size_t positions = mil_elements(out) / (out->dim[0] * out->dim[1]);
    mil_type in_shape = {x->dtype, 3, {x->dim[0], x->dim[1], positions}};
    mil_type out_shape = {out->dtype, 3, {out->dim[0], out->dim[1], positions}};
    mil_type weight_shape = {weight->dtype, 2, {weight->dim[0], weight->dim[1]}};
    mil_product product = {0};
    mil_view kernel = mil_contiguous_of(lowering, op->inputs[1]);
    mil_view_reshape(&kernel, &weight_shape, &product.a);
    product.b = conv_input(lowering, op, &in_shape);
    mil_view target = mil_target(lowering, op->outputs[0]);
    mil_view_reshape(&target, &out_shape, &product.out);
    if (op->inputs[2] != MIL_NONE) product.bias = lowering->plan->constants[op->inputs[2]];
    size_t step = add_product(lowering, op, product);
    mil_define(lowering, op->outputs[0], target, step);
}
