/* matvec.c: a matrix that is stored narrow, times one vector: checks, then base/packed.c. */
#include "train.h"

ane_status ane_matvec_fp16(ane_context *context, size_t rows, size_t columns,
                           const uint16_t *matrix, const float *x, float *y) {
    if (!context || !matrix || !x || !y) return train_null(context, "ane_matvec_fp16");
    ane_packed packed = {ANE_PACKED_HALF, matrix, rows, columns, columns, NULL};
    ane_packed_times(context->pool, &packed, x, y);
    return ANE_OK;
}

ane_status ane_matvec_int8(ane_context *context, size_t rows, size_t columns, const int8_t *matrix,
                           const float *scales, const float *x, float *y) {
    if (!context || !matrix || !scales || !x || !y) return train_null(context, "ane_matvec_int8");
    ane_packed packed = {ANE_PACKED_INT8, matrix, rows, columns, columns, scales};
    ane_packed_times(context->pool, &packed, x, y);
    return ANE_OK;
}
