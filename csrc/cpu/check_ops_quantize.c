/* check_ops_quantize.c: type rules of the ops of 8-bit linear quantization. */
#include <string.h>

#include "check.h"

static const mil_type *type_of(const mil_rule_call *call, const char *slot) {
    return &mil_argument_of(call, slot)->type;
}

/* A scalar, or one element for each index of the axis. */
static ane_status check_parameter(const mil_rule_call *call, const char *slot, size_t size) {
    const mil_value *value = mil_argument_of(call, slot);
    if (!value || !value->type.rank) return ANE_OK;
    if (value->type.rank == 1 && value->type.dim[0] == size) return ANE_OK;
    return mil_reject(call, slot, ANE_ERROR_TYPE, "a scalar or %zu elements are needed", size);
}

/* Scale and zero point are both scalars, without an axis, or both vectors along the axis. */
static ane_status check_parameters(mil_rule_call *call) {
    const mil_value *zero_point = mil_argument_of(call, "zero_point");
    mil_type input = *type_of(call, "input");
    size_t rank = type_of(call, "scale")->rank, axis = 0;
    bool has_axis = mil_argument_of(call, "axis") != NULL;
    if (!input.rank) return mil_reject(call, "input", ANE_ERROR_TYPE, "a scalar");
    if (zero_point && zero_point->type.rank != rank)
        return mil_reject(call, "zero_point", ANE_ERROR_TYPE, "not of the rank of scale");
    if (has_axis != (rank == 1)) {
        return mil_reject(call, "axis", ANE_ERROR_TYPE,
                          rank ? "needed, since scale is a vector" : "scale is a scalar");
    }
    ane_status status = mil_axis(call, "axis", input.rank, &axis);
    if (!status) status = check_parameter(call, "scale", input.dim[axis]);
    return status ? status : check_parameter(call, "zero_point", input.dim[axis]);
}

ane_status mil_rule_quantize(mil_rule_call *call) {
    const mil_value *name = mil_argument_of(call, "output_dtype");
    const mil_value *zero_point = mil_argument_of(call, "zero_point");
    const mil_value *scale = mil_argument_of(call, "scale");
    mil_dtype dtype;
    ane_status status = mil_need_opset(call, NULL, 17);
    if (!status) status = mil_need_dtype(call, "input", MIL_FLOATS);
    if (!status) status = mil_need_same_dtype(call, "scale", "input");
    if (status) return status;
    if (!name->text || !mil_dtype_find(name->text, strlen(name->text), &dtype) ||
        !(MIL_MASK(dtype) & MIL_BYTES))
        return mil_reject(call, "output_dtype", ANE_ERROR_TYPE, "int8 or uint8 is needed");
    if (zero_point && zero_point->type.dtype != dtype)
        return mil_reject(call, "zero_point", ANE_ERROR_TYPE, "not of the dtype of the result");
    size_t count = mil_elements(&scale->type);
    for (size_t i = 0; i < count; i++) {
        if (scale->floats[i] == 0) return mil_reject(call, "scale", ANE_ERROR_TYPE, "a scale of 0");
    }
    status = check_parameters(call);
    call->results[0] = *type_of(call, "input");
    call->results[0].dtype = dtype;
    return status;
}

ane_status mil_rule_dequantize(mil_rule_call *call) {
    ane_status status = mil_need_opset(call, NULL, 17);
    if (!status) status = mil_need_dtype(call, "input", MIL_BYTES);
    if (!status) status = mil_need_same_dtype(call, "zero_point", "input");
    if (!status) status = mil_need_dtype(call, "scale", MIL_FLOATS);
    if (!status) status = check_parameters(call);
    call->results[0] = *type_of(call, "input");
    call->results[0].dtype = type_of(call, "scale")->dtype;
    return status;
}

/* --- constexpr_affine_dequantize --- */

ane_status mil_rule_affine_dequantize(mil_rule_call *call) {
    size_t axis = 0;
    mil_type data = *type_of(call, "quantized_data");
    ane_status status = mil_need_opset(call, NULL, 16);
    if (!status) status = mil_need_dtype(call, "quantized_data", MIL_BYTES);
    if (!status) status = mil_need_dtype(call, "zero_point", MIL_BYTES | MIL_MASK(MIL_FP32));
    if (!status) status = mil_need_dtype(call, "scale", MIL_FLOATS);
    if (!status && !data.rank)
        status = mil_reject(call, "quantized_data", ANE_ERROR_TYPE, "a scalar");
    if (!status) status = mil_axis(call, "axis", data.rank, &axis);
    if (!status) status = check_parameter(call, "scale", data.dim[axis]);
    if (!status) status = check_parameter(call, "zero_point", data.dim[axis]);
    if (status) return status;
    call->results[0] = data;
    call->results[0].dtype = type_of(call, "scale")->dtype;
    return ANE_OK;
}
