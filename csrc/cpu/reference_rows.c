/* reference_rows.c: ops that sum: matmul, conv, softmax, reductions and layer_norm. Products
 * accumulate in float, in index order; rows are gathered and given to the row functions of
 * numeric.h. */
#include <string.h>

#include "attributes.h"
#include "element.h"
#include "numeric.h"
#include "reference.h"

/* --- matmul --- */

/* One operand of a product: a stack of matrices, a vector being a matrix of one row (x) or column
 * (y). */
typedef struct operand {
    const void *data;
    mil_type type; /* of rank 2 or more */
    bool transposed;
    bool bf16; /* elements are rounded to it */
} operand;

static operand operand_of(const mil_evaluation *call, size_t slot, bool transposed) {
    operand out = {call->data[call->op->inputs[slot]], *mil_slot_type(call, slot), transposed,
                   call->numerics == ANE_BF16};
    if (out.type.rank > 1) return out;
    out.type.rank = 2;
    out.type.dim[1] = slot == 0 ? out.type.dim[0] : 1;
    out.type.dim[0] = slot == 0 ? 1 : out.type.dim[0];
    out.transposed = false;
    return out;
}

/* Offset of the matrix that broadcasting takes for the batch coordinates of the result. */
static size_t matrix_offset(const operand *x, const mil_type *batch, const size_t *at) {
    size_t axes = x->type.rank - 2, offset = 0;
    for (size_t i = 0; i < axes; i++) {
        size_t coordinate = x->type.dim[i] == 1 ? 0 : at[batch->rank - axes + i];
        offset = offset * x->type.dim[i] + coordinate;
    }
    return offset * x->type.dim[axes] * x->type.dim[axes + 1];
}

static size_t element_offset(const operand *x, size_t row, size_t column) {
    size_t columns = x->type.dim[x->type.rank - 1];
    return x->transposed ? column * columns + row : row * columns + column;
}

static size_t rows_of(const operand *x) {
    return x->type.dim[x->type.rank - (x->transposed ? 1 : 2)];
}

static size_t columns_of(const operand *x) {
    return x->type.dim[x->type.rank - (x->transposed ? 2 : 1)];
}

static float factor(const operand *x, size_t index) {
    float value = ((const float *)x->data)[index];
    return x->bf16 ? ane_round_to_bf16(value) : value;
}

static void multiply(const operand *x, size_t x_offset, const operand *y, size_t y_offset,
                     bool is_float, void *out) {
    size_t m = rows_of(x), k = columns_of(x), n = columns_of(y);
    for (size_t row = 0; row < m; row++) {
        for (size_t column = 0; column < n; column++) {
            float sum = 0.0f;
            int32_t whole = 0;
            for (size_t i = 0; i < k; i++) {
                size_t a = x_offset + element_offset(x, row, i);
                size_t b = y_offset + element_offset(y, i, column);
                if (is_float)
                    sum += factor(x, a) * factor(y, b);
                else
                    whole = mil_int_add(whole, mil_int_mul(((const int32_t *)x->data)[a],
                                                           ((const int32_t *)y->data)[b]));
            }
            if (is_float)
                ((float *)out)[row * n + column] = sum;
            else
                ((int32_t *)out)[row * n + column] = whole;
        }
    }
}

/* The batch axes of the result: those of the operand that has more, broadcast. */
static mil_type batch_type(const operand *x, const operand *y) {
    const mil_type *longer = x->type.rank >= y->type.rank ? &x->type : &y->type;
    const mil_type *shorter = longer == &x->type ? &y->type : &x->type;
    mil_type batch = {.rank = longer->rank - 2};
    size_t added = longer->rank - shorter->rank;
    for (size_t i = 0; i < batch.rank; i++) {
        size_t other = i < added ? 1 : shorter->dim[i - added];
        batch.dim[i] = longer->dim[i] == 1 ? other : longer->dim[i];
    }
    return batch;
}

ane_status mil_reference_matmul(const mil_evaluation *call) {
    operand x = operand_of(call, 0, mil_integer(call->program, call->op, 2, 0) != 0);
    operand y = operand_of(call, 1, mil_integer(call->program, call->op, 3, 0) != 0);
    const mil_type *type = mil_output_type(call->program, call->op);
    mil_type batch = batch_type(&x, &y);
    size_t matrix = rows_of(&x) * columns_of(&y);
    float *out = mil_result(call);
    for (size_t index = 0; index < mil_elements(&batch); index++) {
        size_t at[MIL_MAX_RANK] = {0};
        mil_unravel(&batch, index, at);
        multiply(&x, matrix_offset(&x, &batch, at), &y, matrix_offset(&y, &batch, at),
                 mil_is_float(type->dtype), out + index * matrix);
    }
    mil_round_result(call);
    if (!(call->hazards & ANE_HAZARD_MATMUL_RANGE) || type->dtype != MIL_FP16) return ANE_OK;
    for (size_t i = 0; i < mil_elements(type); i++) out[i] = mil_saturate(out[i], MIL_MATMUL_LIMIT);
    return ANE_OK;
}

/* --- pointwise conv --- */

/* x [N, C, positions...], weight [O, C / groups, 1...], bias [O]: strides pick every so many
 * positions. */
ane_status mil_reference_conv(const mil_evaluation *call) {
    const mil_type *from = mil_slot_type(call, 0), *to = mil_output_type(call->program, call->op);
    const float *x = mil_slot_floats(call, 0), *weight = mil_slot_floats(call, 1);
    const float *bias = mil_slot_floats(call, 2);
    const int32_t *strides = (const int32_t *)mil_slot_floats(call, 3);
    size_t groups = (size_t)mil_integer(call->program, call->op, 7, 1);
    size_t channels = from->dim[1] / groups, outputs = to->dim[1] / groups;
    bool bf16 = call->numerics == ANE_BF16;
    float *out = mil_result(call);
    for (size_t index = 0; index < mil_elements(to); index++) {
        size_t at[MIL_MAX_RANK], source[MIL_MAX_RANK];
        mil_unravel(to, index, at);
        source[0] = at[0];
        for (size_t i = 2; i < to->rank; i++)
            source[i] = at[i] * (strides ? (size_t)strides[i - 2] : 1);
        float sum = 0.0f;
        for (size_t c = 0; c < channels; c++) {
            source[1] = at[1] / outputs * channels + c;
            float left = weight[at[1] * channels + c], right = x[mil_ravel(from, source)];
            sum += bf16 ? ane_round_to_bf16(left) * ane_round_to_bf16(right) : left * right;
        }
        out[index] = bias ? sum + bias[at[1]] : sum;
    }
    mil_round_result(call);
    return ANE_OK;
}

/* --- rows --- */

/* Row-major offset of the element whose coordinates along the chosen axes are those of `index`, and
 * 0 along the others. */
static size_t offset_along(const mil_type *type, const bool *chosen, bool wanted, size_t index) {
    size_t offset = 0, stride = 1;
    for (size_t i = type->rank; i-- > 0; stride *= type->dim[i]) {
        if (chosen[i] != wanted) continue;
        offset += index % type->dim[i] * stride;
        index /= type->dim[i];
    }
    return offset;
}

/* A row is what lies along the chosen axes, in row-major order. */
typedef struct row_walk {
    const mil_type *type;
    bool chosen[MIL_MAX_RANK];
    size_t count, length;
    mil_cell *row; /* one row of the input */
    float *result; /* and of the output */
} row_walk;

static ane_status begin_rows(const mil_evaluation *call, row_walk *walk) {
    walk->type = mil_slot_type(call, 0);
    walk->length = mil_row_axes(call->program, call->op, walk->chosen);
    walk->count = mil_elements(walk->type) / walk->length;
    walk->row = ane_alloc(2 * walk->length, sizeof(mil_cell));
    walk->result = &walk->row[walk->length].f;
    if (walk->row) return ANE_OK;
    return ane_fail(call->error, ANE_ERROR_MEMORY, "no memory for a row of %zu", walk->length);
}

static size_t row_offset(const row_walk *walk, size_t row, size_t index) {
    return offset_along(walk->type, walk->chosen, false, row) +
           offset_along(walk->type, walk->chosen, true, index);
}

static void gather_row(const mil_evaluation *call, const row_walk *walk, size_t row) {
    const mil_cell *x = call->data[call->op->inputs[0]];
    for (size_t i = 0; i < walk->length; i++) walk->row[i] = x[row_offset(walk, row, i)];
}

static void scatter_row(const row_walk *walk, float *out, size_t row) {
    for (size_t i = 0; i < walk->length; i++) out[row_offset(walk, row, i)] = walk->result[i];
}

ane_status mil_reference_softmax(const mil_evaluation *call) {
    row_walk walk;
    ane_status status = begin_rows(call, &walk);
    for (size_t row = 0; status == ANE_OK && row < walk.count; row++) {
        gather_row(call, &walk, row);
        mil_softmax_row(walk.length, &walk.row->f, walk.result);
        scatter_row(&walk, mil_result(call), row);
    }
    ane_free(walk.row);
    mil_round_result(call);
    return status;
}

ane_status mil_reference_layer_norm(const mil_evaluation *call) {
    row_walk walk;
    ane_status status = begin_rows(call, &walk);
    const float *gamma = mil_slot_floats(call, 2), *beta = mil_slot_floats(call, 3);
    float epsilon = mil_layer_norm_epsilon(call->program, call->op);
    for (size_t row = 0; status == ANE_OK && row < walk.count; row++) {
        gather_row(call, &walk, row);
        mil_layer_norm_row(walk.length, &walk.row->f, gamma, beta, epsilon, walk.result);
        scatter_row(&walk, mil_result(call), row);
    }
    ane_free(walk.row);
    mil_round_result(call);
    return status;
}

/* The hazard: each partial sum is rounded to fp16. */
static float sum_in_half(size_t n, const float *x) {
    float sum = 0.0f;
    for (size_t i = 0; i < n; i++) sum = ane_float_from_half(ane_half_from_float(sum + x[i]));
    return sum;
}

static float reduce_row(const mil_evaluation *call, size_t n, const float *x) {
    if (call->op->kind == MIL_OP_reduce_max) return mil_largest(n, x);
    bool narrow =
        call->hazards & ANE_HAZARD_REDUCE_FP16 && mil_slot_type(call, 0)->dtype == MIL_FP16;
    float sum = narrow ? sum_in_half(n, x) : mil_sum(n, x);
    return call->op->kind == MIL_OP_reduce_mean ? sum / (float)n : sum;
}

static int32_t reduce_integers(mil_kind kind, size_t n, const mil_cell *x) {
    int32_t largest = x[0].i, sum = 0;
    for (size_t i = 0; i < n; i++) {
        largest = x[i].i > largest ? x[i].i : largest;
        sum = mil_int_add(sum, x[i].i);
    }
    if (kind == MIL_OP_reduce_max) return largest;
    return kind == MIL_OP_reduce_mean ? (int32_t)(sum / (int64_t)n) : sum;
}

ane_status mil_reference_reduce(const mil_evaluation *call) {
    row_walk walk;
    ane_status status = begin_rows(call, &walk);
    float *out = mil_result(call);
    for (size_t row = 0; status == ANE_OK && row < walk.count; row++) {
        gather_row(call, &walk, row);
        if (mil_is_float(walk.type->dtype))
            out[row] = reduce_row(call, walk.length, &walk.row->f);
        else
            ((int32_t *)out)[row] = reduce_integers(call->op->kind, walk.length, walk.row);
    }
    ane_free(walk.row);
    mil_round_result(call);
    return status;
}
