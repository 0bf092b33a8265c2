/* check_ops_reduce.c: type rules of ops that reduce over axes: sums, means, softmax, normalisation.
 */
#include "check.h"

static const mil_type *type_of(const mil_rule_call *call, const char *slot) {
    return &mil_argument_of(call, slot)->type;
}

ane_status mil_rule_softmax(mil_rule_call *call) {
    mil_type x = *type_of(call, "x");
    size_t axis;
    ane_status status = mil_need_dtype(call, "x", MIL_FLOATS);
    if (!status && !x.rank) status = mil_reject(call, "x", ANE_ERROR_TYPE, "a scalar has no axes");
    call->results[0] = x;
    return status ? status : mil_axis(call, "axis", x.rank, &axis);
}

ane_status mil_rule_reduce(mil_rule_call *call) {
    bool reduced[MIL_MAX_RANK], keep = false;
    mil_type x = *type_of(call, "x");
    mil_type *result = &call->results[0];
    ane_status status = mil_need_dtype(call, "x", MIL_NUMBERS);
    if (!status && !x.rank) status = mil_reject(call, "x", ANE_ERROR_TYPE, "a scalar has no axes");
    if (!status) status = mil_need_dtype(call, "axes", MIL_MASK(MIL_INT32));
    if (!status) status = mil_axes(call, "axes", x.rank, reduced);
    if (!status) status = mil_flag(call, "keep_dims", &keep);
    if (status) return status;
    *result = (mil_type){.dtype = x.dtype};
    for (size_t i = 0; i < x.rank; i++) {
        if (!reduced[i] || keep) result->dim[result->rank++] = reduced[i] ? 1 : x.dim[i];
    }
    return ANE_OK;
}

/* gamma and beta have the shape of the normalised axes. */
static ane_status check_affine(const mil_rule_call *call, const char *slot,
                               const bool normalised[MIL_MAX_RANK]) {
    const mil_type *x = type_of(call, "x");
    const mil_value *affine = mil_argument_of(call, slot);
    char buffers[2][MIL_TYPE_TEXT];
    if (!affine) return ANE_OK;
    mil_type expected = {.dtype = affine->type.dtype};
    for (size_t i = 0; i < x->rank; i++) {
        if (normalised[i]) expected.dim[expected.rank++] = x->dim[i];
    }
    if (mil_same_type(&affine->type, &expected)) return ANE_OK;
    return mil_reject(call, slot, ANE_ERROR_TYPE, "%s where %s is needed",
                      mil_type_text(&affine->type, buffers[0]),
                      mil_type_text(&expected, buffers[1]));
}

static ane_status layer_norm_dtypes(const mil_rule_call *call) {
    static const char *const slots[] = {"x", "gamma", "beta", "epsilon"};
    ane_status status = ANE_OK;
    for (size_t i = 0; i < 4 && !status; i++) {
        status = mil_need_dtype(call, slots[i], MIL_FLOATS);
        if (!status && call->check->opset < 17) status = mil_need_same_dtype(call, slots[i], "x");
    }
    if (!status) status = mil_need_same_dtype(call, "beta", "gamma");
    if (!status) status = mil_need_same_dtype(call, "epsilon", "gamma");
    return status ? status : mil_need_same_dtype(call, "epsilon", "beta");
}

ane_status mil_rule_layer_norm(mil_rule_call *call) {
    bool normalised[MIL_MAX_RANK];
    mil_type x = *type_of(call, "x");
    const mil_value *epsilon = mil_argument_of(call, "epsilon");
    ane_status status = layer_norm_dtypes(call);
    if (!status && !x.rank) status = mil_reject(call, "x", ANE_ERROR_TYPE, "a scalar has no axes");
    if (!status && epsilon && epsilon->type.rank)
        status = mil_reject(call, "epsilon", ANE_ERROR_TYPE, "a scalar is needed");
    if (!status) status = mil_need_dtype(call, "axes", MIL_MASK(MIL_INT32));
    if (!status) status = mil_axes(call, "axes", x.rank, normalised);
    if (!status) status = check_affine(call, "gamma", normalised);
    if (!status) status = check_affine(call, "beta", normalised);
    call->results[0] = x;
    return status;
}
