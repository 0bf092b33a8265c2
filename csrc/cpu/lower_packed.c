/* lower_packed.c: which matrices are multiplied in the form in which they are stored: the weights
 * of pointwise convolutions, fp16 or int8 with a scale for each row, and caches in an fp16 input of
 * which few rows are products. All other constants are decoded before ops are lowered. */
#include "lower.h"

#include <string.h>

#include "reference.h"
#include "weights.h"

#define MOST_POSITIONS 256 /* of a convolution: with more, decoding once costs less */
#define MOST_ROWS 16       /* of a product with a cache, for each of its matrices */

/* --- weights --- */

static bool is_pointwise(const mil_program *program, const mil_op *op) {
    const mil_type *weight = mil_input_type(program, op, 1), *x = mil_input_type(program, op, 0);
    const mil_type *out = mil_output_type(program, op);
    size_t positions = mil_elements(out) / out->dim[1];
    return op->kind == MIL_OP_conv && op->inputs[2] == MIL_NONE && x->dim[0] == 1 &&
           mil_elements(weight) == weight->dim[0] * weight->dim[1] && weight->dim[1] == x->dim[1] &&
           mil_elements(x) == x->dim[1] * positions && positions <= MOST_POSITIONS;
}

static bool all_zero(const mil_plan *plan, size_t value) {
    const mil_value *zero = &plan->program->values[value];
    for (size_t i = 0; i < mil_elements(&zero->type); i++)
        if (zero->ints ? zero->ints[i] != 0 : !zero->floats || zero->floats[i] != 0.0f)
            return false;
    return true;
}

/* The value whose record is the matrix, and in *scale that of the scales; MIL_NONE: neither. */
static size_t stored_matrix(const mil_plan *plan, size_t weight, size_t *scale) {
    const mil_program *program = plan->program;
    const mil_value *value = &program->values[weight];
    *scale = MIL_NONE;
    if (plan->numerics == ANE_BF16) return MIL_NONE; /* its factors are rounded */
    if (value->record) return value->type.dtype == MIL_FP16 ? weight : MIL_NONE;
    if (value->producer == MIL_NONE || plan->numerics == ANE_FP32) return MIL_NONE;
    const mil_op *op = &program->ops[value->producer];
    if (op->kind != MIL_OP_constexpr_affine_dequantize) return MIL_NONE;
    const mil_value *data = &program->values[op->inputs[0]];
    bool by_rows = mil_integer(program, op, 3, 0) == 0 && program->values[op->inputs[2]].floats;
    if (!data->record || data->type.dtype != MIL_INT8 || !by_rows || !all_zero(plan, op->inputs[1]))
        return MIL_NONE;
    *scale = op->inputs[2];
    return op->inputs[0];
}

/* One scale for each row: a scalar is repeated. */
static const float *row_scales(mil_lowering *lowering, size_t value, size_t rows) {
    const mil_value *scale = &lowering->program->values[value];
    if (mil_elements(&scale->type) == rows) return scale->floats;
    float *repeated = mil_lower_alloc(lowering, rows, sizeof *repeated);
    for (size_t i = 0; repeated && i < rows; i++) repeated[i] = scale->floats[0];
    return repeated;
}

static void keep_packed(mil_lowering *lowering, size_t weight) {
    mil_plan *plan = lowering->plan;
    size_t scale, value = stored_matrix(plan, weight, &scale);
    const mil_value *stored = &plan->program->values[value];
    size_t size = mil_dtype_size(stored->type.dtype), elements = mil_elements(&stored->type);
    ane_packed *packed = mil_lower_alloc(lowering, 1, sizeof *packed);
    void *data = mil_lower_alloc(lowering, elements, size);
    if (!packed || !data) return;
    memcpy(data, stored->record, elements * size);
    size_t rows = stored->type.dim[0], columns = stored->type.dim[1];
    *packed = (ane_packed){ANE_PACKED_HALF, data, rows, columns, columns, NULL};
    if (scale != MIL_NONE) {
        packed->packing = ANE_PACKED_INT8;
        packed->scales = row_scales(lowering, scale, rows);
    }
    plan->packed[weight] = packed;
    plan->constant_bytes += elements * size;
}

/* Marks what is read otherwise than as the weight of a pointwise convolution. */
static void find_other_uses(const mil_plan *plan, bool *others) {
    const mil_program *program = plan->program;
    for (size_t i = 0; i < program->op_count; i++) {
        const mil_op *op = &program->ops[i];
        for (size_t j = 0; j < MIL_MAX_SLOTS; j++) {
            bool fits = op->kind == MIL_OP_conv && j == 1 && is_pointwise(program, op);
            if (op->inputs[j] != MIL_NONE && !fits) others[op->inputs[j]] = true;
        }
        for (size_t j = 0; j < op->variadic_count; j++) others[op->variadic[j]] = true;
    }
    for (size_t i = 0; i < program->output_count; i++) others[program->outputs[i]] = true;
}

void mil_find_packed(mil_lowering *lowering) {
    mil_plan *plan = lowering->plan;
    const mil_program *program = plan->program;
    bool *others = mil_region_alloc(lowering->temporary, program->value_count, sizeof *others);
    if (!others) lowering->failed = true;
    if (!others || plan->reference) return;
    find_other_uses(plan, others);
    for (size_t i = 0; i < program->op_count; i++) {
        const mil_op *op = &program->ops[i];
        size_t scale, weight = op->inputs[1];
        bool is_weight = op->kind == MIL_OP_conv && !others[weight] && !plan->packed[weight];
        if (is_weight && lowering->values[op->outputs[0]].needed &&
            stored_matrix(plan, weight, &scale) != MIL_NONE)
            keep_packed(lowering, weight);
    }
}

static void add_step(mil_lowering *lowering, const mil_op *op, mil_packed product) {
    size_t out = op->outputs[0];
    product.rounds = mil_rounds(lowering, out);
    size_t step =
        mil_add_step(lowering, (mil_step){.kind = MIL_STEP_PACKED, .op = op, .packed = product});
    mil_touch(lowering, &product.x, step);
    double elements = (double)product.matrix.rows * (double)product.matrix.columns;
    lowering->plan->flops +=
        2.0 * elements * (double)(product.batch * product.vectors * product.columns);
    mil_define(lowering, out, product.out, step);
}

bool mil_lower_packed_conv(mil_lowering *lowering, const mil_op *op) {
    const ane_packed *packed = lowering->plan->packed[op->inputs[1]];
    if (!packed) return false;
    const mil_type *out = mil_output_type(lowering->program, op);
    mil_packed product = {.matrix = *packed, .port = MIL_NONE, .batch = 1, .vectors = 1};
    product.columns = mil_elements(out) / out->dim[1];
    product.x = mil_contiguous_of(lowering, op->inputs[0]);
    product.out = mil_target(lowering, op->outputs[0]);
    add_step(lowering, op, product);
    return true;
}

/* --- caches --- */

/* The surface's elements at the view, if it is a part of an fp16 input as it lies there. */
static bool on_surface(const mil_plan *plan, const mil_view *view, mil_packed *product) {
    const mil_storage *storage = &plan->storages[view->storage];
    if (storage->kind != MIL_STORAGE_BLOCK || !mil_view_contiguous(view)) return false;
    const mil_block *block = &plan->blocks[storage->index];
    if (!mil_view_contiguous(&block->source)) return false;
    product->port = block->port;
    product->offset = (size_t)(block->source.offset + view->offset);
    return true;
}

static size_t leading(const mil_type *type) {
    return mil_elements(type) / (type->dim[type->rank - 2] * type->dim[type->rank - 1]);
}

bool mil_lower_packed_matmul(mil_lowering *lowering, const mil_op *op) {
    const mil_program *program = lowering->program;
    const mil_type *x = mil_input_type(program, op, 0), *y = mil_input_type(program, op, 1);
    if (lowering->plan->numerics == ANE_BF16 || x->rank < 2 || y->rank != x->rank ||
        x->dtype != MIL_FP16 || mil_integer(program, op, 2, 0) ||
        lowering->plan->constants[op->inputs[1]])
        return false;
    size_t rank = x->rank, batch = leading(y), rows = y->dim[rank - 2], columns = y->dim[rank - 1];
    if (leading(x) != batch || x->dim[rank - 2] > MOST_ROWS) return false;
    mil_packed product = {.batch = batch, .vectors = x->dim[rank - 2], .columns = 1};
    mil_view view = mil_view_of(lowering, op->inputs[1]);
    if (!on_surface(lowering->plan, &view, &product)) return false;
    product.matrix = (ane_packed){ANE_PACKED_HALF, NULL, rows, columns, columns, NULL};
    product.stride = rows * columns;
    product.from_left = mil_integer(program, op, 3, 0) == 0;
    product.x = mil_contiguous_of(lowering, op->inputs[0]);
    product.out = mil_target(lowering, op->outputs[0]);
    if (lowering->plan->hazards & ANE_HAZARD_MATMUL_RANGE) product.limit = MIL_MATMUL_LIMIT;
    add_step(lowering, op, product);
    return true;
}
