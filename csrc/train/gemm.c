/* gemm.c: the matrix product of the public API: checks, then base/blas.c. */
#include "train.h"

ane_status ane_gemm(ane_context *context, bool transpose_a, bool transpose_b, size_t m, size_t n,
                    size_t k, float alpha, const float *a, size_t lda, const float *b, size_t ldb,
                    float beta, float *c, size_t ldc) {
    if (!context || !a || !b || !c) return train_null(context, "ane_gemm");
    size_t a_columns = transpose_a ? m : k, b_columns = transpose_b ? k : n;
    if (lda < a_columns || ldb < b_columns || ldc < n)
        return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                                "ane_gemm: leading dimensions %zu, %zu, %zu are less than the row "
                                "lengths %zu, %zu, %zu",
                                lda, ldb, ldc, a_columns, b_columns, n);
    ane_product product = {.m = m, .n = n, .k = k, .alpha = alpha, .beta = beta};
    product.a = (ane_matrix){a, lda, transpose_a, false};
    product.b = (ane_matrix){b, ldb, transpose_b, false};
    product.c = c;
    product.ldc = ldc;
    ane_blas_gemm_parallel(context->blas, context->pool, &product);
    return ANE_OK;
}
