/* kernel_product.c: products by BLAS. A batch is spread over the pool; a few large products are cut
 * over it one by one. */
#include <math.h>

#include "kernels.h"
#include "numeric.h"

#define LARGE 6e7 /* multiplications: a millisecond or two */
#define LINES 128 /* of an operand with zeros: all sum over what one of them needs */

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

static void multiply(const mil_product_job *run, const ane_product *matrix) {
    if (run->pool)
        ane_blas_gemm_parallel(run->blas, run->pool, matrix);
    else
        ane_blas_gemm(run->blas, matrix);
}

/* --- operands with zeros --- */

/* Zero times what is not finite is not zero. */
static bool leaves_zeros_out(const mil_product_job *run, size_t batch) {
    const mil_product *product = run->product;
    const mil_product_data *data = run->data;
    size_t lines = product->zeros.in_a ? run->m : run->n;
    if (!data->zeros || lines <= LINES) return false;
    float largest = product->zeros.in_a ? mil_largest_magnitude(&product->b, data->b, batch)
                                        : mil_largest_magnitude(&product->a, data->a, batch);
    return isfinite(largest);
}

/* The product's rows or columns [start, start + count), whose depths are columns of the scores. */
static ane_product without_masked(const mil_product_job *run, const ane_product *part, size_t start,
                                  size_t count) {
    size_t end = 0;
    for (size_t row = start; row < start + count; row++) {
        size_t columns = mil_scores_columns(run->data->zeros, row);
        if (columns > end) end = columns;
    }
    return ane_product_depths(part, 0, end);
}

/* The same of rows or columns from `start` on that are columns of the scores, whose rows are the
 * depths: before the first that keeps one of them there are zeros. Pairs of bf16 stay pairs. */
static ane_product without_early(const mil_product_job *run, const ane_product *part,
                                 size_t start) {
    size_t row = 0;
    while (row < run->k && mil_scores_columns(run->data->zeros, row) <= start) row++;
    row -= row % 2;
    return ane_product_depths(part, row, run->k - row);
}

/* A block of lines after the other, each without the depths where all of it is zero. */
static void multiply_kept(const mil_product_job *run, const ane_product *matrix) {
    const mil_zeros *zeros = &run->product->zeros;
    size_t lines = zeros->in_a ? run->m : run->n;
    for (size_t start = 0; start < lines; start += LINES) {
        size_t count = lines - start < LINES ? lines - start : LINES;
        ane_product part = zeros->in_a ? ane_product_rows(matrix, start, count)
                                       : ane_product_columns(matrix, start, count);
        part = zeros->turned ? without_early(run, &part, start)
                             : without_masked(run, &part, start, count);
        multiply(run, &part);
    }
}

/* --- all --- */

void mil_product_matrix(void *job, size_t batch) {
    const mil_product_job *run = job;
    const mil_product *product = run->product;
    size_t axes = product->out.rank - 2;
    ane_product matrix = {.m = run->m, .n = run->n, .k = run->k, .alpha = 1.0f};
    if (product->pieces) {
        matrix.piece = run->n;
        matrix.n = run->n * product->pieces;
        matrix.b_step = (size_t)product->b_step;
        matrix.c_step = (size_t)product->out_step;
    }
    matrix.a = mil_matrix_of(&product->a, run->data->a, batch);
    matrix.b = mil_matrix_of(&product->b, run->data->b, batch);
    matrix.c = run->data->out + mil_view_at(&product->out, axes, batch);
    matrix.ldc = run->m == 1 ? run->n : (size_t)product->out.stride[axes];
    matrix.rounds = product->rounds && !product->bias;
    if (product->narrows) {
        matrix.halves = run->data->halves + product->halves.offset;
        matrix.halves_stride = run->m == 1 ? run->n : (size_t)product->halves.stride[0];
    }
    if (leaves_zeros_out(run, batch))
        multiply_kept(run, &matrix);
    else
        multiply(run, &matrix);
    finish(product, &matrix);
}

mil_product_job mil_product_prepare(const ane_blas *blas, const mil_product *product,
                                    const mil_product_data *data) {
    const mil_view *result = &product->out;
    mil_product_job job = {.blas = blas, .product = product, .data = data};
    job.m = result->dim[result->rank - 2];
    job.n = result->dim[result->rank - 1];
    job.k = product->a.dim[product->a.rank - 1];
    job.batch = mil_view_elements(result) / (job.m * job.n);
    return job;
}

/* What is cut follows from the shape: BLAS may round differently in pieces of another size. */
void mil_product_run(ane_pool *pool, const ane_blas *blas, const mil_product *product,
                     const mil_product_data *data) {
    mil_product_job job = mil_product_prepare(blas, product, data);
    double work = (double)job.m * (double)job.n * (double)job.k;
    if (job.batch > 1 && (job.batch >= MIL_MANY || work < LARGE)) {
        ane_pool_run(pool, job.batch, mil_product_matrix, &job);
        return;
    }
    job.pool = pool;
    for (size_t i = 0; i < job.batch; i++) mil_product_matrix(&job, i);
}
