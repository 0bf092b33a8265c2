/* kernel_product.c: products by BLAS. A batch is spread over the pool; a few large products are cut
 * over it one by one. */
#include <math.h>

#include "kernels.h"
#include "numeric.h"

#define FEW 4     /* matrices of a batch that are cut themselves if they are large */
#define LARGE 6e7 /* multiplications: a millisecond or two */

typedef struct product_run {
    ane_pool *pool; /* of one matrix; NULL: each matrix is a task */
    const ane_blas *blas;
    const mil_product *product;
    mil_operand_source a, b;
    float *out;
    uint16_t *halves; /* the storage of product->halves, if there are some */
    size_t m, n, k;
} product_run;

/* Unit stride is along one of the last two axes. */
ane_matrix mil_matrix_of(const mil_view *view, mil_operand_source storage, size_t batch) {
    size_t axes = view->rank - 2, columns = view->dim[axes + 1], rows = view->dim[axes];
    ptrdiff_t down = view->stride[axes], along = view->stride[axes + 1];
    ptrdiff_t at = mil_view_at(view, axes, batch) * (storage.half ? 2 : 4);
    bool by_row = (columns == 1 || along == 1) && (rows == 1 || down >= (ptrdiff_t)columns);
    ptrdiff_t stride =
        by_row ? (rows == 1 ? (ptrdiff_t)columns : down) : (columns == 1 ? (ptrdiff_t)rows : along);
    return (ane_matrix){(const char *)storage.data + at, (size_t)stride, !by_row, storage.half};
}

/* What follows the product, which has rounded the result already unless there is a bias. */
static void finish(const mil_product *product, const ane_product *matrix) {
    const float *bias = product->bias;
    float *out = matrix->c;
    if (!bias && !(product->limit > 0.0f)) return;
    for (size_t row = 0; row < matrix->m; row++, out += matrix->ldc) {
        for (size_t i = 0; bias && i < matrix->n; i++) out[i] += bias[row];
        if (bias && product->rounds) ane_round_to_half(matrix->n, out);
        for (size_t i = 0; product->limit > 0.0f && i < matrix->n; i++)
            out[i] = mil_saturate(out[i], product->limit);
    }
}

static void run_matrix(void *argument, size_t batch) {
    const product_run *run = argument;
    const mil_product *product = run->product;
    size_t axes = product->out.rank - 2;
    ane_product matrix = {.m = run->m, .n = run->n, .k = run->k, .alpha = 1.0f};
    matrix.a = mil_matrix_of(&product->a, run->a, batch);
    matrix.b = mil_matrix_of(&product->b, run->b, batch);
    matrix.c = run->out + mil_view_at(&product->out, axes, batch);
    matrix.ldc = run->m == 1 ? run->n : (size_t)product->out.stride[axes];
    matrix.rounds = product->rounds && !product->bias;
    if (product->narrows) {
        matrix.halves = run->halves + product->halves.offset;
        matrix.halves_stride = run->m == 1 ? run->n : (size_t)product->halves.stride[0];
    }
    if (run->pool)
        ane_blas_gemm_parallel(run->blas, run->pool, &matrix);
    else
        ane_blas_gemm(run->blas, &matrix);
    finish(product, &matrix);
}

/* What is cut follows from the shape: BLAS may round differently in pieces of another size. */
void mil_product_run(ane_pool *pool, const ane_blas *blas, const mil_product *product,
                     mil_operand_source a, mil_operand_source b, float *out, uint16_t *halves) {
    const mil_view *result = &product->out;
    product_run run = {
        .blas = blas, .product = product, .a = a, .b = b, .out = out, .halves = halves};
    run.m = result->dim[result->rank - 2];
    run.n = result->dim[result->rank - 1];
    run.k = product->a.dim[product->a.rank - 1];
    size_t batch = mil_view_elements(result) / (run.m * run.n);
    if (batch > 1 && (batch >= FEW || (double)run.m * (double)run.n * (double)run.k < LARGE)) {
        ane_pool_run(pool, batch, run_matrix, &run);
        return;
    }
    run.pool = pool;
    for (size_t i = 0; i < batch; i++) run_matrix(&run, i);
}
