/* lower_rows.c: ops along rows bring their axes to the end. */
#include "lower.h"

#include <string.h>

#include "reference.h"

/* Axes that stay, then axes that rows run along, each in their order. Returns how many stay. */
static size_t rows_last(size_t rank, const bool *chosen, size_t *order) {
    size_t stay = 0, count = 0;
    for (size_t i = 0; i < rank; i++)
        if (!chosen[i]) order[stay++] = i;
    count = stay;
    for (size_t i = 0; i < rank; i++)
        if (chosen[i]) order[count++] = i;
    return stay;
}

static mil_type type_of_view(const mil_view *view) {
    mil_type type = {.rank = view->rank};
    memcpy(type.dim, view->dim, sizeof type.dim);
    return type;
}

/* The view, whose last axes are the rows, with one axis of unit stride in their stead. */
static mil_view as_rows(mil_lowering *lowering, mil_view view, size_t stay, size_t length) {
    mil_type shape = {.rank = stay + 1};
    mil_view rows;
    for (size_t i = 0; i < stay; i++) shape.dim[i] = view.dim[i];
    shape.dim[stay] = length;
    if (mil_view_reshape(&view, &shape, &rows) && (length == 1 || rows.stride[stay] == 1))
        return rows;
    mil_type type = type_of_view(&view);
    mil_view copy = mil_fresh(lowering, &type);
    mil_add_copy(lowering, MIL_STEP_COPY, view, copy);
    mil_view_reshape(&copy, &shape, &rows);
    return rows;
}

static const float *constant_floats(const mil_lowering *lowering, const mil_op *op, size_t slot) {
    return op->inputs[slot] == MIL_NONE ? NULL : lowering->plan->constants[op->inputs[slot]];
}

typedef struct row_plan {
    mil_rows rows;
    mil_view permuted; /* type of the rows before they became one axis */
    size_t order[MIL_MAX_RANK];
} row_plan;

static row_plan plan_rows(mil_lowering *lowering, const mil_op *op) {
    row_plan out = {0};
    bool chosen[MIL_MAX_RANK];
    mil_view view = mil_view_of(lowering, op->inputs[0]);
    out.rows.length = mil_row_axes(lowering->program, op, chosen);
    out.rows.count = mil_view_elements(&view) / out.rows.length;
    out.rows.rounds = mil_rounds(lowering, op->outputs[0]);
    size_t stay = rows_last(view.rank, chosen, out.order);
    out.permuted = mil_view_permute(&view, out.order);
    out.rows.in = as_rows(lowering, out.permuted, stay, out.rows.length);
    return out;
}

static size_t add_rows(mil_lowering *lowering, mil_step_kind kind, const mil_op *op,
                       const mil_rows *rows) {
    size_t step = mil_add_step(lowering, (mil_step){.kind = kind, .op = op, .rows = *rows});
    mil_touch(lowering, &rows->in, step);
    mil_touch(lowering, &rows->out, step);
    return step;
}

/* softmax and layer_norm: the result lies in the order in which it is computed. */
static void lower_row_map(mil_lowering *lowering, mil_step_kind kind, const mil_op *op,
                          row_plan *planned) {
    size_t rank = planned->permuted.rank, inverse[MIL_MAX_RANK];
    bool in_order = true;
    for (size_t i = 0; i < rank; i++) {
        inverse[planned->order[i]] = i;
        in_order = in_order && planned->order[i] == i;
    }
    mil_type type = type_of_view(&planned->permuted);
    mil_view out = in_order ? mil_target(lowering, op->outputs[0]) : mil_fresh(lowering, &type);
    planned->rows.out = out;
    size_t step = add_rows(lowering, kind, op, &planned->rows);
    mil_define(lowering, op->outputs[0], mil_view_permute(&out, inverse), step);
}

void mil_lower_softmax(mil_lowering *lowering, const mil_op *op) {
    row_plan planned = plan_rows(lowering, op);
    lower_row_map(lowering, MIL_STEP_SOFTMAX, op, &planned);
}

void mil_lower_layer_norm(mil_lowering *lowering, const mil_op *op) {
    row_plan planned = plan_rows(lowering, op);
    planned.rows.gamma = constant_floats(lowering, op, 2);
    planned.rows.beta = constant_floats(lowering, op, 3);
    planned.rows.epsilon = mil_layer_norm_epsilon(lowering->program, op);
    lower_row_map(lowering, MIL_STEP_LAYER_NORM, op, &planned);
}

void mil_lower_reduce(mil_lowering *lowering, const mil_op *op) {
    const mil_type *x = mil_input_type(lowering->program, op, 0);
    bool narrow = lowering->plan->hazards & ANE_HAZARD_REDUCE_FP16 && x->dtype == MIL_FP16;
    if (!mil_is_float(x->dtype) || (narrow && op->kind != MIL_OP_reduce_max)) {
        mil_lower_delegate(lowering, op);
        return;
    }
    row_plan planned = plan_rows(lowering, op);
    planned.rows.out = mil_target(lowering, op->outputs[0]);
    size_t step = add_rows(lowering, MIL_STEP_REDUCE, op, &planned.rows);
    mil_define(lowering, op->outputs[0], planned.rows.out, step);
}
