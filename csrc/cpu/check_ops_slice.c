/* check_ops_slice.c: type rules of slices and gather. */
#include "check.h"

static const mil_type *type_of(const mil_rule_call *call, const char *slot) {
    return &mil_argument_of(call, slot)->type;
}

/* int32, and from ios17 on int8 and int16. */
static ane_status need_positions(const mil_rule_call *call, const char *slot) {
    unsigned narrow = call->check->opset >= 17 ? MIL_MASK(MIL_INT8) | MIL_MASK(MIL_INT16) : 0;
    return mil_need_dtype(call, slot, MIL_MASK(MIL_INT32) | narrow);
}

ane_status mil_rule_slice_by_size(mil_rule_call *call) {
    int32_t begin[MIL_MAX_LIST], size[MIL_MAX_LIST];
    ane_status status = mil_need_dtype(call, "x", mil_movable(call));
    if (!status) status = need_positions(call, "begin");
    if (!status) status = need_positions(call, "size");
    if (!status) status = mil_need_same_dtype(call, "size", "begin");
    if (status) return status;
    mil_type x = *type_of(call, "x");
    status = mil_list_of(call, "begin", x.rank, begin);
    if (!status) status = mil_list_of(call, "size", x.rank, size);
    if (status) return status;
    call->results[0] = x;
    for (size_t i = 0; i < x.rank; i++) {
        if (begin[i] < 0 || (size_t)begin[i] >= x.dim[i]) {
            return mil_reject(call, "begin", ANE_ERROR_TYPE, "%d on axis %zu, which has %zu",
                              begin[i], i, x.dim[i]);
        }
        size_t left = x.dim[i] - (size_t)begin[i];
        if (size[i] == -1) size[i] = (int32_t)left;
        if (size[i] < 1 || (size_t)size[i] > left) {
            return mil_reject(call, "size", ANE_ERROR_TYPE, "%d from %d on axis %zu, which has %zu",
                              size[i], begin[i], i, x.dim[i]);
        }
        call->results[0].dim[i] = (size_t)size[i];
    }
    status = mil_rebind(call, "begin", begin, x.rank);
    return status ? status : mil_rebind(call, "size", size, x.rank);
}

/* --- slice_by_index --- */

typedef struct range {
    int64_t begin, end, stride;
    bool from_start, to_end, single; /* begin_mask, end_mask, squeeze_mask */
} range;

/* A position counted from the end becomes one from the start. */
static int64_t wrapped(int64_t position, int64_t dim) {
    return position < 0 ? position + dim : position;
}

/* begin, stride and the number of elements that lie inside; 0 if the range is empty or starts
 * outside. Ends beyond the axis are cut as NumPy cuts them. */
static size_t resolve_range(range *each, int64_t dim) {
    int64_t step = each->stride;
    if (each->single) step = 1;
    int64_t begin = each->from_start ? (step > 0 ? 0 : dim - 1) : wrapped(each->begin, dim);
    int64_t end = each->to_end ? (step > 0 ? dim : -1) : wrapped(each->end, dim);
    if (begin < 0 || begin >= dim) return 0;
    if (each->single) end = begin + 1;
    if (end > dim) end = dim;
    if (end < -1) end = -1;
    int64_t distance = step > 0 ? end - begin : begin - end;
    int64_t reach = step > 0 ? step : -step;
    if (distance <= 0) return 0;
    int64_t count = (distance + reach - 1) / reach;
    each->begin = begin;
    each->stride = step;
    each->end = begin + (count - 1) * step + (step > 0 ? 1 : -1);
    return (size_t)count;
}

static ane_status read_mask(const mil_rule_call *call, const char *slot, size_t rank,
                            int32_t *mask) {
    for (size_t i = 0; i < rank; i++) mask[i] = 0;
    ane_status status = mil_need_dtype(call, slot, MIL_MASK(MIL_BOOL));
    return status ? status : mil_list_of(call, slot, rank, mask);
}

static ane_status read_ranges(const mil_rule_call *call, size_t rank, range *ranges) {
    static const char *const lists[] = {"begin", "end", "stride"};
    static const char *const masks[] = {"begin_mask", "end_mask", "squeeze_mask"};
    int32_t read[6][MIL_MAX_LIST];
    ane_status status = ANE_OK;
    for (size_t i = 0; i < MIL_MAX_LIST; i++) read[2][i] = 1;
    for (size_t i = 0; i < 3 && !status; i++) {
        status = need_positions(call, lists[i]);
        if (!status) status = mil_need_same_dtype(call, lists[i], "begin");
        if (!status) status = mil_list_of(call, lists[i], rank, read[i]);
        if (!status) status = read_mask(call, masks[i], rank, read[3 + i]);
    }
    if (status) return status;
    for (size_t i = 0; i < rank; i++) {
        ranges[i] = (range){read[0][i],      read[1][i],      read[2][i],
                            read[3][i] != 0, read[4][i] != 0, read[5][i] != 0};
    }
    return ANE_OK;
}

/* Masks end here: begin and end are rebound as the exact first and one-past-last positions. */
static ane_status rebind_ranges(mil_rule_call *call, size_t rank, const range *ranges) {
    static const char *const lists[] = {"begin", "end", "stride"};
    int32_t bound[3][MIL_MAX_RANK];
    for (size_t i = 0; i < rank; i++) {
        bound[0][i] = (int32_t)ranges[i].begin;
        bound[1][i] = (int32_t)ranges[i].end;
        bound[2][i] = (int32_t)ranges[i].stride;
    }
    ane_status status = ANE_OK;
    for (size_t i = 0; i < 3 && !status; i++) status = mil_rebind(call, lists[i], bound[i], rank);
    mil_unbind(call, "begin_mask");
    mil_unbind(call, "end_mask");
    return status;
}

ane_status mil_rule_slice_by_index(mil_rule_call *call) {
    range ranges[MIL_MAX_RANK];
    mil_type x = *type_of(call, "x");
    mil_type *result = &call->results[0];
    ane_status status = mil_need_dtype(call, "x", mil_movable(call));
    if (!status && !x.rank) status = mil_reject(call, "x", ANE_ERROR_TYPE, "a scalar has no axes");
    if (!status) status = read_ranges(call, x.rank, ranges);
    if (status) return status;
    *result = (mil_type){.dtype = x.dtype};
    for (size_t i = 0; i < x.rank; i++) {
        if (!ranges[i].stride) return mil_reject(call, "stride", ANE_ERROR_TYPE, "a stride of 0");
        size_t count = resolve_range(&ranges[i], (int64_t)x.dim[i]);
        if (!count) {
            return mil_reject(call, "begin", ANE_ERROR_TYPE,
                              "nothing, or a start outside, on axis %zu, which has %zu", i,
                              x.dim[i]);
        }
        if (!ranges[i].single) result->dim[result->rank++] = count;
    }
    return rebind_ranges(call, x.rank, ranges);
}

/* --- gather --- */

static ane_status check_gather_dtypes(const mil_rule_call *call) {
    unsigned opset = call->check->opset;
    unsigned data = MIL_NUMBERS | (opset >= 17 ? MIL_BYTES | MIL_SHORTS : 0);
    unsigned indices =
        MIL_MASK(MIL_INT32) | (opset >= 16 ? MIL_SHORTS : 0) | (opset >= 17 ? MIL_BYTES : 0);
    ane_status status = mil_need_dtype(call, "x", data);
    if (!status) status = mil_need_dtype(call, "indices", indices);
    if (!status) status = mil_need_opset(call, "batch_dims", 16);
    return status ? status : mil_need_opset(call, "validate_indices", 17);
}

/* Constant indices are in range; negative ones count from the end until ios16. */
static ane_status check_constant_indices(const mil_rule_call *call, size_t dim) {
    const mil_value *indices = mil_argument_of(call, "indices");
    if (!mil_is_constant(indices)) return ANE_OK;
    int64_t low = call->check->opset < 17 ? -(int64_t)dim : 0;
    size_t count = mil_elements(&indices->type);
    for (size_t i = 0; i < count; i++) {
        if (indices->ints[i] < low || indices->ints[i] >= (int64_t)dim) {
            return mil_reject(call, "indices", ANE_ERROR_TYPE, "index %d on an axis of %zu",
                              indices->ints[i], dim);
        }
    }
    return ANE_OK;
}

static ane_status gather_type(const mil_rule_call *call, size_t axis, size_t batch_dims,
                              mil_type *result) {
    const mil_type *x = type_of(call, "x"), *indices = type_of(call, "indices");
    *result = (mil_type){.dtype = x->dtype};
    for (size_t i = 0; i < batch_dims; i++) {
        if (x->dim[i] != indices->dim[i])
            return mil_reject(call, "indices", ANE_ERROR_TYPE, "batch axis %zu differs from x", i);
    }
    if (x->rank - 1 + indices->rank - batch_dims > MIL_MAX_RANK)
        return mil_reject(call, NULL, ANE_ERROR_TYPE, "a rank above %d", MIL_MAX_RANK);
    for (size_t i = 0; i < axis; i++) result->dim[result->rank++] = x->dim[i];
    for (size_t i = batch_dims; i < indices->rank; i++)
        result->dim[result->rank++] = indices->dim[i];
    for (size_t i = axis + 1; i < x->rank; i++) result->dim[result->rank++] = x->dim[i];
    return ANE_OK;
}

ane_status mil_rule_gather(mil_rule_call *call) {
    int32_t batch_dims = 0;
    bool validate = false;
    size_t axis = 0, rank = type_of(call, "x")->rank;
    ane_status status = check_gather_dtypes(call);
    if (!status && !rank) status = mil_reject(call, "x", ANE_ERROR_TYPE, "a scalar has no axes");
    if (!status) status = mil_axis(call, "axis", rank, &axis);
    if (!status) status = mil_scalar(call, "batch_dims", &batch_dims);
    if (!status) status = mil_flag(call, "validate_indices", &validate);
    if (status) return status;
    if (batch_dims < 0 || (size_t)batch_dims > axis ||
        (size_t)batch_dims > type_of(call, "indices")->rank) {
        return mil_reject(call, "batch_dims", ANE_ERROR_TYPE,
                          "%d is not between 0 and the axis and the rank of the indices",
                          batch_dims);
    }
    status = check_constant_indices(call, type_of(call, "x")->dim[axis]);
    return status ? status : gather_type(call, axis, (size_t)batch_dims, &call->results[0]);
}
