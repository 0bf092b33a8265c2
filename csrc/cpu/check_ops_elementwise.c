/* check_ops_elementwise.c: type rules of ops that work element by element. */
#include <string.h>

#include "check.h"

static const mil_type *type_of(const mil_rule_call *call, const char *slot) {
    return &mil_argument_of(call, slot)->type;
}

ane_status mil_rule_same(mil_rule_call *call) {
    const unsigned any = MIL_NUMBERS | MIL_BYTES | MIL_SHORTS | MIL_MASK(MIL_BOOL);
    ane_status status = mil_need_dtype(call, "x", any);
    call->results[0] = *type_of(call, "x");
    return status;
}

ane_status mil_rule_cast(mil_rule_call *call) {
    const mil_value *dtype = mil_argument_of(call, "dtype");
    mil_dtype target;
    ane_status status = mil_need_dtype(call, "x", mil_movable(call));
    if (status) return status;
    if (!dtype->text || !mil_dtype_find(dtype->text, strlen(dtype->text), &target) ||
        !(mil_movable(call) & MIL_MASK(target))) {
        return mil_reject(call, "dtype", ANE_ERROR_TYPE,
                          "a string naming a dtype of this opset is needed");
    }
    call->results[0] = *type_of(call, "x");
    call->results[0].dtype = target;
    return ANE_OK;
}

ane_status mil_rule_broadcast(mil_rule_call *call) {
    char buffers[2][MIL_TYPE_TEXT];
    ane_status status = mil_need_dtype(call, "x", MIL_NUMBERS);
    if (!status) status = mil_need_same_dtype(call, "y", "x");
    if (status) return status;
    call->results[0] = *type_of(call, "x");
    if (mil_broadcast(type_of(call, "y"), &call->results[0])) return ANE_OK;
    return mil_reject(call, "y", ANE_ERROR_TYPE, "%s does not broadcast with %s",
                      mil_type_text(type_of(call, "y"), buffers[0]),
                      mil_type_text(type_of(call, "x"), buffers[1]));
}

/* epsilon, of log and rsqrt alone: a scalar float, until ios16 of the dtype of x. */
static ane_status check_epsilon(mil_rule_call *call) {
    const mil_value *epsilon = mil_argument_of(call, "epsilon");
    if (!epsilon) return ANE_OK;
    ane_status status = mil_need_dtype(call, "epsilon", MIL_FLOATS);
    if (!status && call->check->opset < 17) status = mil_need_same_dtype(call, "epsilon", "x");
    if (!status && epsilon->type.rank)
        status = mil_reject(call, "epsilon", ANE_ERROR_TYPE, "a scalar is needed");
    return status;
}

ane_status mil_rule_float_unary(mil_rule_call *call) {
    bool whole = type_of(call, "x")->dtype == MIL_INT32;
    if (whole && call->op->kind == MIL_OP_square)
        return mil_reject(call, "x", ANE_ERROR_UNSUPPORTED, "the square of an int32");
    ane_status status = mil_need_dtype(call, "x", MIL_FLOATS);
    if (!status) status = check_epsilon(call);
    call->results[0] = *type_of(call, "x");
    return status;
}

ane_status mil_rule_select(mil_rule_call *call) {
    char buffer[MIL_TYPE_TEXT];
    ane_status status = mil_need_dtype(call, "cond", MIL_MASK(MIL_BOOL));
    if (!status) status = mil_need_dtype(call, "a", MIL_NUMBERS | MIL_MASK(MIL_BOOL));
    if (!status) status = mil_need_same_dtype(call, "b", "a");
    if (status) return status;
    static const char *const others[] = {"b", "cond"};
    call->results[0] = *type_of(call, "a");
    for (size_t i = 0; i < 2; i++) {
        if (mil_broadcast(type_of(call, others[i]), &call->results[0])) continue;
        return mil_reject(call, others[i], ANE_ERROR_TYPE, "%s does not broadcast with the others",
                          mil_type_text(type_of(call, others[i]), buffer));
    }
    return ANE_OK;
}
