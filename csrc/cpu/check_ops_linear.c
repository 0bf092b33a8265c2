/* check_ops_linear.c: type rules of matmul and conv. */
#include <string.h>

#include "check.h"

static const mil_type *type_of(const mil_rule_call *call, const char *slot) {
    return &mil_argument_of(call, slot)->type;
}

/* --- matmul --- */

/* Equal dtypes; from ios17 on a constant may differ, and the result has the dtype of the other. */
static ane_status matmul_dtype(const mil_rule_call *call, mil_dtype *dtype) {
    const mil_value *x = mil_argument_of(call, "x"), *y = mil_argument_of(call, "y");
    ane_status status = mil_need_dtype(call, "x", MIL_NUMBERS);
    if (!status) status = mil_need_dtype(call, "y", MIL_NUMBERS);
    if (status) return status;
    bool mixed = call->check->opset >= 17 && mil_is_constant(x) != mil_is_constant(y);
    if (!mixed) status = mil_need_same_dtype(call, "y", "x");
    if (mixed && mil_is_float(x->type.dtype) != mil_is_float(y->type.dtype))
        return mil_reject(call, "y", ANE_ERROR_UNSUPPORTED, "a product of floats and integers");
    *dtype = mixed && mil_is_constant(x) ? y->type.dtype : x->type.dtype;
    return status;
}

/* One operand as a stack of matrices: a vector is one row (x) or one column (y). */
typedef struct factor {
    mil_type batch; /* the axes before the last two */
    size_t rows, columns;
    bool vector;
} factor;

static ane_status read_factor(const mil_rule_call *call, const char *slot, const char *flag,
                              factor *out) {
    const mil_type *type = type_of(call, slot);
    bool transposed = false;
    ane_status status = mil_flag(call, flag, &transposed);
    if (status) return status;
    *out = (factor){.batch = *type, .vector = type->rank == 1};
    if (!type->rank) return mil_reject(call, slot, ANE_ERROR_TYPE, "a scalar is not a matrix");
    if (out->vector) {
        bool column = *slot == 'y';
        if (transposed) return mil_reject(call, flag, ANE_ERROR_TYPE, "a vector is not transposed");
        out->batch.rank = 0;
        out->rows = column ? type->dim[0] : 1;
        out->columns = column ? 1 : type->dim[0];
        return ANE_OK;
    }
    out->batch.rank -= 2;
    out->rows = type->dim[type->rank - (transposed ? 1 : 2)];
    out->columns = type->dim[type->rank - (transposed ? 2 : 1)];
    return ANE_OK;
}

ane_status mil_rule_matmul(mil_rule_call *call) {
    char buffers[2][MIL_TYPE_TEXT];
    factor x, y;
    mil_dtype dtype = MIL_FP16;
    ane_status status = matmul_dtype(call, &dtype);
    if (!status) status = read_factor(call, "x", "transpose_x", &x);
    if (!status) status = read_factor(call, "y", "transpose_y", &y);
    if (status) return status;
    mil_type result = x.batch;
    if (x.columns != y.rows || !mil_broadcast(&y.batch, &result)) {
        return mil_reject(call, "y", ANE_ERROR_TYPE,
                          "%s does not multiply %s: %zu columns, %zu rows",
                          mil_type_text(type_of(call, "x"), buffers[0]),
                          mil_type_text(type_of(call, "y"), buffers[1]), x.columns, y.rows);
    }
    result.dtype = dtype;
    if (!x.vector) result.dim[result.rank++] = x.rows;
    if (!y.vector) result.dim[result.rank++] = y.columns;
    call->results[0] = result;
    return ANE_OK;
}

/* --- conv --- */

static ane_status conv_dtypes(const mil_rule_call *call) {
    static const char *const slots[] = {"x", "weight", "bias"};
    ane_status status = ANE_OK;
    for (size_t i = 0; i < 3 && !status; i++) {
        status = mil_need_dtype(call, slots[i], MIL_FLOATS);
        if (!status && call->check->opset < 17) status = mil_need_same_dtype(call, slots[i], "x");
    }
    return status ? status : mil_need_same_dtype(call, "bias", "weight");
}

/* A list of integers of at least `least`; more than that only where `more` says so. */
static ane_status read_list(const mil_rule_call *call, const char *slot, size_t count,
                            int32_t least, bool more, int32_t *list) {
    if (!mil_argument_of(call, slot)) return ANE_OK;
    ane_status status = mil_need_dtype(call, slot, MIL_MASK(MIL_INT32));
    if (!status) status = mil_list_of(call, slot, count, list);
    for (size_t i = 0; i < count && !status; i++) {
        if (list[i] < least) status = mil_reject(call, slot, ANE_ERROR_TYPE, "%d", list[i]);
        if (!status && list[i] > least && !more)
            status = mil_reject(call, slot, ANE_ERROR_UNSUPPORTED, "more than %d", least);
    }
    return status;
}

/* With kernels of size 1 every pad_type but a custom one pads by nothing. */
static ane_status conv_padding(const mil_rule_call *call, size_t spatial) {
    static const char *const known[] = {"valid", "custom", "same", "same_lower"};
    const mil_value *type = mil_argument_of(call, "pad_type");
    const char *name = type ? type->text : "valid";
    bool found = false;
    for (size_t i = 0; i < 4; i++) found = found || (name && strcmp(name, known[i]) == 0);
    if (!found)
        return mil_reject(call, "pad_type", ANE_ERROR_TYPE, "valid, custom, same or same_lower");
    if (strcmp(name, "same_lower") == 0) {
        ane_status status = mil_need_opset(call, "pad_type", 16);
        if (status) return status;
    }
    int32_t pad[MIL_MAX_LIST];
    return read_list(call, "pad", 2 * spatial, 0, strcmp(name, "custom") != 0, pad);
}

static ane_status conv_channels(const mil_rule_call *call, int32_t groups) {
    char buffers[2][MIL_TYPE_TEXT];
    const mil_type *x = type_of(call, "x"), *weight = type_of(call, "weight");
    const mil_value *bias = mil_argument_of(call, "bias");
    size_t in = x->dim[1], out = weight->dim[0], count = (size_t)groups;
    if (groups < 1 || in % count || out % count) {
        return mil_reject(call, "groups", ANE_ERROR_TYPE, "%d groups of %zu and %zu channels",
                          groups, in, out);
    }
    if (weight->dim[1] != in / count) {
        return mil_reject(call, "weight", ANE_ERROR_TYPE, "%s does not fit %s and %d groups",
                          mil_type_text(weight, buffers[0]), mil_type_text(x, buffers[1]), groups);
    }
    if (bias && (bias->type.rank != 1 || bias->type.dim[0] != out)) {
        return mil_reject(call, "bias", ANE_ERROR_TYPE, "%s where %zu elements are needed",
                          mil_type_text(&bias->type, buffers[0]), out);
    }
    return ANE_OK;
}

ane_status mil_rule_conv(mil_rule_call *call) {
    int32_t groups = 1;
    mil_type x = *type_of(call, "x"), weight = *type_of(call, "weight");
    ane_status status = conv_dtypes(call);
    if (!status && x.rank < 3)
        status = mil_reject(call, "x", ANE_ERROR_TYPE, "rank %zu; 3 to 5 are needed", x.rank);
    if (!status && weight.rank != x.rank)
        status = mil_reject(call, "weight", ANE_ERROR_TYPE, "rank %zu", weight.rank);
    if (!status) status = mil_scalar(call, "groups", &groups);
    if (!status) status = conv_channels(call, groups);
    if (status) return status;
    size_t spatial = x.rank - 2;
    int32_t strides[MIL_MAX_LIST] = {1, 1, 1}, dilations[MIL_MAX_LIST];
    for (size_t i = 2; i < x.rank; i++) {
        if (weight.dim[i] != 1)
            return mil_reject(call, "weight", ANE_ERROR_UNSUPPORTED, "kernels larger than 1");
    }
    status = read_list(call, "strides", spatial, 1, true, strides);
    if (!status) status = read_list(call, "dilations", spatial, 1, true, dilations);
    if (!status) status = conv_padding(call, spatial);
    if (status) return status;
    call->results[0] = x;
    call->results[0].dim[1] = weight.dim[0];
    for (size_t i = 0; i < spatial; i++)
        call->results[0].dim[2 + i] = (x.dim[2 + i] - 1) / (size_t)strides[i] + 1;
    return ANE_OK;
}
