/* lower_scores.c: finds the attention scores of a program, softmax(matmul + constant mask), and
 * what the mask leaves of each row. */
#include "lower.h"

#include <string.h>

#include "reference.h"

#define LEAST_MASK 1000.0f /* what is added of that or more is a mask, not a bias */
#define MARGIN 128.0f      /* beyond which e^-x is zero, and what rounding may add to a score */

/* The only op that reads the value; NULL if there are others, or an output is it. */
static const mil_op *only_reader(const mil_program *program, size_t value) {
    const mil_op *found = NULL;
    for (size_t i = 0; i < program->output_count; i++)
        if (program->outputs[i] == value) return NULL;
    for (size_t i = 0; i < program->op_count; i++) {
        const mil_op *op = &program->ops[i];
        size_t uses = 0;
        for (size_t j = 0; j < MIL_MAX_SLOTS; j++) uses += op->inputs[j] == value;
        for (size_t j = 0; j < op->variadic_count; j++) uses += op->variadic[j] == value;
        if (uses == 0) continue;
        if (found || uses > 1) return NULL;
        found = op;
    }
    return found;
}

/* The mask that the op adds to the value: constant, and the same for every index of batch axes. */
static const float *added_mask(const mil_lowering *lowering, const mil_op *add, size_t value) {
    const mil_program *program = lowering->program;
    size_t mask = add->inputs[add->inputs[0] == value ? 1 : 0];
    const mil_type *type = &program->values[mask].type, *own = &program->values[value].type;
    if (!lowering->plan->constants[mask] || type->rank < 2 || type->rank > own->rank) return NULL;
    size_t rows = own->dim[own->rank - 2], columns = own->dim[own->rank - 1];
    bool fits = type->dim[type->rank - 2] == rows && type->dim[type->rank - 1] == columns &&
                mil_elements(type) == rows * columns;
    return fits ? lowering->plan->constants[mask] : NULL;
}

static bool is_along_last(const mil_program *program, const mil_op *softmax) {
    bool chosen[MIL_MAX_RANK];
    const mil_type *type = mil_output_type(program, softmax);
    return mil_row_axes(program, softmax, chosen) == type->dim[type->rank - 1] &&
           chosen[type->rank - 1];
}

/* Columns before those that are masked to the end of the row, of which the last has no mask; all if
 * there are none such. Lowers *least to the smallest mask that was met. */
static size_t kept_columns(const float *row, size_t columns, float *least) {
    size_t kept = columns;
    while (kept > 0 && row[kept - 1] <= -LEAST_MASK) kept--;
    if (kept == 0 || row[kept - 1] != 0.0f) return columns;
    for (size_t i = kept; i < columns; i++)
        if (-row[i] < *least) *least = -row[i];
    return kept;
}

static bool find_kept(mil_lowering *lowering, mil_scores *scores, size_t columns) {
    float least = 1e30f;
    bool any = false;
    scores->kept = mil_lower_alloc(lowering, scores->mask_rows, sizeof *scores->kept);
    for (size_t i = 0; scores->kept && i < scores->mask_rows; i++) {
        scores->kept[i] = kept_columns(scores->mask + i * columns, columns, &least);
        any = any || scores->kept[i] < columns;
    }
    /* A masked score is at most reach - least, and one that is not masked at least -reach. */
    if (any && least >= LEAST_MASK) scores->reach = (least - MARGIN) / 2.0f;
    return scores->kept != NULL;
}

bool mil_lower_scores(mil_lowering *lowering, const mil_op *op) {
    const mil_program *program = lowering->program;
    const mil_type *type = mil_output_type(program, op);
    bool matrices = mil_input_type(program, op, 0)->rank >= 2 &&
                    mil_input_type(program, op, 1)->rank >= 2 && type->rank >= 2;
    const mil_op *add = matrices ? only_reader(program, op->outputs[0]) : NULL;
    if (!add || add->kind != MIL_OP_add) return false;
    const mil_op *softmax = only_reader(program, add->outputs[0]);
    mil_scores scores = {.mask = added_mask(lowering, add, op->outputs[0])};
    if (!softmax || softmax->kind != MIL_OP_softmax || !scores.mask ||
        !lowering->values[softmax->outputs[0]].needed || !is_along_last(program, softmax))
        return false;
    scores.mask_rows = type->dim[type->rank - 2];
    if (!find_kept(lowering, &scores, type->dim[type->rank - 1])) return false;
    mil_view out = mil_target(lowering, softmax->outputs[0]);
    scores.product = mil_product_of(lowering, op, out);
    size_t step =
        mil_add_step(lowering, (mil_step){.kind = MIL_STEP_SCORES, .op = op, .scores = scores});
    mil_touch(lowering, &scores.product.a, step);
    mil_touch(lowering, &scores.product.b, step);
    mil_define(lowering, softmax->outputs[0], out, step);
    lowering->values[add->outputs[0]].lowered = lowering->values[softmax->outputs[0]].lowered =
        true;
    return true;
}
