/* check_ops_shape.c: type rules of ops that change the shape or the order of elements. */
#include "check.h"

static const mil_type *type_of(const mil_rule_call *call, const char *slot) {
    return &mil_argument_of(call, slot)->type;
}

/* --- reshape --- */

/* 0 takes the size of x: until ios16 of the same axis, the ranks being equal; from ios17 on of the
 * axis counted from the end. */
static ane_status inherit_sizes(mil_rule_call *call, int32_t *shape, size_t rank) {
    const mil_type *x = type_of(call, "x");
    for (size_t i = 0; i < rank; i++) {
        if (shape[i] != 0) continue;
        if (call->check->opset < 17 && rank != x->rank)
            return mil_reject(call, "shape", ANE_ERROR_TYPE, "0 needs %zu elements", x->rank);
        size_t from_end = rank - i;
        shape[i] = from_end <= x->rank ? (int32_t)x->dim[x->rank - from_end] : 1;
    }
    return ANE_OK;
}

/* One -1 takes what the other sizes leave. */
static ane_status solve_size(mil_rule_call *call, int32_t *shape, size_t rank) {
    size_t elements = mil_elements(type_of(call, "x")), others = 1, open = rank;
    for (size_t i = 0; i < rank; i++) {
        if (shape[i] == -1 && open == rank) {
            open = i;
        } else if (shape[i] < 1) {
            return mil_reject(call, "shape", ANE_ERROR_TYPE, "size %d of axis %zu", shape[i], i);
        } else if (!ane_size_mul(others, (size_t)shape[i], &others)) {
            return mil_reject(call, "shape", ANE_ERROR_TYPE, "more elements than x has");
        }
    }
    bool fits = open == rank ? others == elements : elements % others == 0;
    if (!fits) {
        return mil_reject(call, "shape", ANE_ERROR_TYPE, "%zu elements where x has %zu", others,
                          elements);
    }
    if (open == rank) return ANE_OK;
    if (elements / others > MIL_MAX_DIM)
        return mil_reject(call, "shape", ANE_ERROR_TYPE, "the size for -1 is too large");
    shape[open] = (int32_t)(elements / others);
    return ANE_OK;
}

ane_status mil_rule_reshape(mil_rule_call *call) {
    int32_t shape[MIL_MAX_LIST];
    size_t rank;
    unsigned narrow = call->check->opset >= 17 ? MIL_MASK(MIL_INT8) | MIL_MASK(MIL_INT16) : 0;
    ane_status status = mil_need_dtype(call, "x", mil_movable(call));
    if (!status) status = mil_need_dtype(call, "shape", MIL_MASK(MIL_INT32) | narrow);
    if (!status) status = mil_list(call, "shape", shape, &rank);
    if (!status && rank > MIL_MAX_RANK)
        status = mil_reject(call, "shape", ANE_ERROR_TYPE, "a rank above %d", MIL_MAX_RANK);
    if (!status) status = inherit_sizes(call, shape, rank);
    if (!status) status = solve_size(call, shape, rank);
    if (status) return status;
    call->results[0] = (mil_type){.dtype = type_of(call, "x")->dtype, .rank = rank};
    for (size_t i = 0; i < rank; i++) call->results[0].dim[i] = (size_t)shape[i];
    return mil_rebind(call, "shape", shape, rank);
}

/* --- axes of size 1 --- */

ane_status mil_rule_expand_dims(mil_rule_call *call) {
    bool added[MIL_MAX_RANK];
    ane_status status = mil_need_dtype(call, "x", mil_movable(call));
    if (!status) status = mil_need_dtype(call, "axes", MIL_MASK(MIL_INT32));
    if (status) return status;
    mil_type x = *type_of(call, "x");
    size_t rank = x.rank + mil_elements(type_of(call, "axes"));
    if (rank > MIL_MAX_RANK)
        return mil_reject(call, "axes", ANE_ERROR_TYPE, "a rank above %d", MIL_MAX_RANK);
    status = mil_axes(call, "axes", rank, added);
    if (status) return status;
    mil_type *result = &call->results[0];
    *result = (mil_type){.dtype = x.dtype, .rank = rank};
    for (size_t i = 0, from = 0; i < rank; i++) result->dim[i] = added[i] ? 1 : x.dim[from++];
    return ANE_OK;
}

/* As in torch, a named axis that is not of size 1 stays. */
ane_status mil_rule_squeeze(mil_rule_call *call) {
    bool named[MIL_MAX_RANK];
    ane_status status = mil_need_dtype(call, "x", mil_movable(call));
    if (!status) status = mil_need_dtype(call, "axes", MIL_MASK(MIL_INT32));
    if (status) return status;
    mil_type x = *type_of(call, "x");
    if (!x.rank) return mil_reject(call, "x", ANE_ERROR_TYPE, "a scalar has no axes");
    status = mil_axes(call, "axes", x.rank, named);
    mil_type *result = &call->results[0];
    *result = (mil_type){.dtype = x.dtype};
    for (size_t i = 0; i < x.rank; i++) {
        if (!named[i] || x.dim[i] != 1) result->dim[result->rank++] = x.dim[i];
    }
    return status;
}

ane_status mil_rule_transpose(mil_rule_call *call) {
    int32_t perm[MIL_MAX_LIST];
    bool seen[MIL_MAX_RANK] = {false};
    ane_status status = mil_need_dtype(call, "x", mil_movable(call));
    if (!status) status = mil_need_dtype(call, "perm", MIL_MASK(MIL_INT32));
    if (!status && !type_of(call, "x")->rank)
        status = mil_reject(call, "x", ANE_ERROR_TYPE, "a scalar has no axes");
    if (status) return status;
    mil_type x = *type_of(call, "x");
    status = mil_list_of(call, "perm", x.rank, perm);
    if (status) return status;
    call->results[0] = x;
    for (size_t i = 0; i < x.rank; i++) {
        perm[i] += perm[i] < 0 ? (int32_t)x.rank : 0;
        if (perm[i] < 0 || perm[i] >= (int32_t)x.rank || seen[perm[i]])
            return mil_reject(call, "perm", ANE_ERROR_TYPE, "not a permutation of the axes of x");
        seen[perm[i]] = true;
        call->results[0].dim[i] = x.dim[perm[i]];
    }
    return mil_rebind(call, "perm", perm, x.rank);
}

/* --- joining and cutting --- */

static ane_status check_part(mil_rule_call *call, const mil_value *part, size_t axis,
                             bool interleave) {
    char buffers[2][MIL_TYPE_TEXT];
    const mil_type *first = &call->check->program->values[call->op->variadic[0]].type;
    bool fits = part->type.dtype == first->dtype && part->type.rank == first->rank;
    for (size_t i = 0; fits && i < first->rank; i++)
        fits = part->type.dim[i] == first->dim[i] || (i == axis && !interleave);
    if (fits) return ANE_OK;
    return mil_reject(call, "values", ANE_ERROR_TYPE, "%s does not join %s on axis %zu%s",
                      mil_type_text(&part->type, buffers[0]), mil_type_text(first, buffers[1]),
                      axis, interleave ? " interleaved" : "");
}

ane_status mil_rule_concat(mil_rule_call *call) {
    bool interleave = false;
    size_t axis = 0;
    ane_status status = mil_flag(call, "interleave", &interleave);
    if (status) return status;
    mil_type result = call->check->program->values[call->op->variadic[0]].type;
    if (result.dtype == MIL_STRING) return mil_reject(call, "values", ANE_ERROR_TYPE, "strings");
    if (!result.rank) return mil_reject(call, "values", ANE_ERROR_UNSUPPORTED, "scalars");
    status = mil_axis(call, "axis", result.rank, &axis);
    result.dim[axis] = 0;
    for (size_t i = 0; i < call->op->variadic_count && !status; i++) {
        const mil_value *part = &call->check->program->values[call->op->variadic[i]];
        status = check_part(call, part, axis, interleave);
        /* Each part is below 2^31 and there are fewer parts than bytes of text. */
        if (!status) result.dim[axis] += part->type.dim[axis];
        if (result.dim[axis] > MIL_MAX_DIM)
            return mil_reject(call, NULL, ANE_ERROR_TYPE, "the result is too large to address");
    }
    call->results[0] = result;
    return status;
}

static ane_status split_sizes(mil_rule_call *call, size_t axis, size_t size) {
    const mil_value *sizes = mil_argument_of(call, "split_sizes");
    size_t sum = 0;
    if (!sizes->ints || sizes->type.rank != 1 || sizes->type.dim[0] != call->result_count) {
        return mil_reject(call, "split_sizes", ANE_ERROR_TYPE, "%zu sizes are needed",
                          call->result_count);
    }
    for (size_t i = 0; i < call->result_count; i++) {
        if (sizes->ints[i] < 1)
            return mil_reject(call, "split_sizes", ANE_ERROR_TYPE, "size %d", sizes->ints[i]);
        call->results[i].dim[axis] = (size_t)sizes->ints[i];
        sum += (size_t)sizes->ints[i];
    }
    if (sum == size) return ANE_OK;
    return mil_reject(call, "split_sizes", ANE_ERROR_TYPE, "the sizes make %zu; axis %zu has %zu",
                      sum, axis, size);
}

ane_status mil_rule_split(mil_rule_call *call) {
    int32_t splits = 0;
    size_t axis = 0, count = call->result_count;
    mil_type x = *type_of(call, "x");
    ane_status status = mil_need_dtype(call, "x", MIL_NUMBERS | MIL_MASK(MIL_BOOL));
    if (!status) status = mil_scalar(call, "num_splits", &splits);
    if (!status) status = mil_need_dtype(call, "split_sizes", MIL_MASK(MIL_INT32));
    if (!status) status = mil_axis(call, "axis", x.rank, &axis);
    if (status) return status;
    bool numbered = mil_argument_of(call, "num_splits") != NULL;
    bool sized = mil_argument_of(call, "split_sizes") != NULL;
    if (!numbered && !sized)
        return mil_reject(call, NULL, ANE_ERROR_TYPE, "num_splits or split_sizes is needed");
    if (numbered && (splits < 1 || (size_t)splits != count)) {
        return mil_reject(call, "num_splits", ANE_ERROR_TYPE, "%d where %zu values are declared",
                          splits, count);
    }
    for (size_t i = 0; i < count; i++) call->results[i] = x;
    if (sized) return split_sizes(call, axis, x.dim[axis]);
    if (x.dim[axis] % count) {
        return mil_reject(call, "num_splits", ANE_ERROR_TYPE, "%zu does not divide axis %zu of %zu",
                          count, axis, x.dim[axis]);
    }
    for (size_t i = 0; i < count; i++) call->results[i].dim[axis] = x.dim[axis] / count;
    return ANE_OK;
}
