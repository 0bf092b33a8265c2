/* lower_scores.c: finds the attention scores of a program, softmax(matmul + constant mask), what
 * the mask leaves of each row, and the backward of these scores. */
#include "lower.h"

#include <string.h>

#include "reference.h"

#define LEAST_MASK 1000.0f /* what is added of that or more is a mask, not a bias */
#define MARGIN 128.0f      /* beyond which e^-x is zero, and what rounding may add to a score */

static bool is_output(const mil_program *program, size_t value) {
    for (size_t i = 0; i < program->output_count; i++)
        if (program->outputs[i] == value) return true;
    return false;
}

/* The first `most` ops that read the value, in order. How many read it in all: an output counts. */
static size_t readers(const mil_program *program, size_t value, size_t most, const mil_op **ops) {
    size_t count = is_output(program, value);
    for (size_t i = 0; i < program->op_count; i++) {
        const mil_op *op = &program->ops[i];
        size_t uses = 0;
        for (size_t j = 0; j < mil_operand_count(op); j++) uses += mil_operand(op, j) == value;
        if (uses && count < most) ops[count] = op;
        count += uses;
    }
    return count;
}

/* The only op that reads the value, if it is of that kind, else NULL. */
static const mil_op *only_reader(const mil_program *program, size_t value, mil_kind kind) {
    const mil_op *found = NULL;
    bool alone = readers(program, value, 1, &found) == 1;
    return alone && found && found->kind == kind ? found : NULL;
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

/* A softmax or a reduction. */
static bool is_along_last(const mil_program *program, const mil_op *op) {
    bool chosen[MIL_MAX_RANK];
    const mil_type *type = mil_input_type(program, op, 0);
    return mil_row_axes(program, op, chosen) == type->dim[type->rank - 1] && chosen[type->rank - 1];
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
    const mil_op *add = matrices ? only_reader(program, op->outputs[0], MIL_OP_add) : NULL;
    const mil_op *softmax = add ? only_reader(program, add->outputs[0], MIL_OP_softmax) : NULL;
    if (!softmax) return false;
    mil_scores scores = {.mask = added_mask(lowering, add, op->outputs[0])};
    if (!scores.mask || !lowering->values[softmax->outputs[0]].needed ||
        !is_along_last(program, softmax))
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
    lowering->values[softmax->outputs[0]].zeros = step;
    lowering->values[add->outputs[0]].lowered = lowering->values[softmax->outputs[0]].lowered =
        true;
    return true;
}

/* The op's other operand. */
static size_t beside(const mil_op *op, size_t value) {
    return op->inputs[op->inputs[0] == value ? 1 : 0];
}

/* The ops of p (dp - sum(p dp)), given dp: they follow each other, and nothing else reads what lies
 * between. */
typedef struct softmax_backward {
    size_t p;
    const mil_op *weigh, *sum, *centre, *scale;
} softmax_backward;

static bool find_backward(const mil_program *program, size_t dp, softmax_backward *found) {
    const mil_op *both[2] = {NULL, NULL};
    if (readers(program, dp, 2, both) != 2 || !both[0] || !both[1]) return false;
    found->weigh = both[0];
    found->centre = both[1];
    if (found->weigh->kind != MIL_OP_mul || found->centre->kind != MIL_OP_sub) return false;
    found->p = beside(found->weigh, dp);
    found->sum = only_reader(program, found->weigh->outputs[0], MIL_OP_reduce_sum);
    found->scale = only_reader(program, found->centre->outputs[0], MIL_OP_mul);
    if (!found->sum || !found->scale || found->centre->inputs[0] != dp) return false;
    const mil_type *sums = mil_output_type(program, found->sum);
    return only_reader(program, found->sum->outputs[0], MIL_OP_sub) == found->centre &&
           beside(found->scale, found->centre->outputs[0]) == found->p &&
           is_along_last(program, found->sum) && sums->rank == program->values[dp].type.rank;
}

static bool same_shape(const mil_program *program, size_t a, size_t b) {
    const mil_type *x = &program->values[a].type, *y = &program->values[b].type;
    return x->rank == y->rank && memcmp(x->dim, y->dim, x->rank * sizeof *x->dim) == 0;
}

static bool is_scores(const mil_lowering *lowering, size_t value) {
    size_t step = lowering->values[value].zeros;
    return step != MIL_NONE && lowering->plan->steps[step].kind == MIL_STEP_SCORES;
}

bool mil_lower_scores_backward(mil_lowering *lowering, const mil_op *op) {
    const mil_program *program = lowering->program;
    softmax_backward found;
    if (!find_backward(program, op->outputs[0], &found)) return false;
    const mil_value_state *p = &lowering->values[found.p];
    size_t result = found.scale->outputs[0];
    bool same =
        same_shape(program, found.p, op->outputs[0]) && same_shape(program, result, op->outputs[0]);
    if (!is_scores(lowering, found.p) || !same || !lowering->values[result].needed ||
        lowering->plan->hazards & ANE_HAZARD_REDUCE_FP16)
        return false;
    mil_scores_backward backward = {.p = p->view, .scores = p->zeros};
    mil_view out = mil_target(lowering, result);
    backward.product = mil_product_of(lowering, op, out);
    mil_step made = {.kind = MIL_STEP_SCORES_BACKWARD, .op = op, .scores_backward = backward};
    size_t step = mil_add_step(lowering, made);
    mil_touch(lowering, &backward.product.a, step);
    mil_touch(lowering, &backward.product.b, step);
    mil_touch(lowering, &backward.p, step);
    mil_define(lowering, result, out, step);
    lowering->values[result].zeros = step;
    const mil_op *rest[] = {found.weigh, found.sum, found.centre, found.scale};
    for (size_t i = 0; i < 4; i++) lowering->values[rest[i]->outputs[0]].lowered = true;
    return true;
}
