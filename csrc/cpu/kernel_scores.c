/* kernel_scores.c: products, mask and softmax of a block of rows while it is in cache. Columns that
 * a mask hides are left out where that cannot change a bit. */
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "numeric.h"

#define BLOCK_ROWS 64 /* of the result: what its last row needs of columns, all compute */

typedef struct scores_run {
    const ane_blas *blas;
    const mil_scores *scores;
    mil_operand_source a, b;
    float *out;
    size_t m, n, k, blocks; /* of rows of one product */
    bool all;               /* columns are computed */
} scores_run;

/* --- whether masked columns can matter --- */

ANE_CLONES
static float largest_magnitude(size_t n, const float *x) {
    float lanes[MIL_LANES] = {0};
    size_t i = 0;
    for (; i + MIL_LANES <= n; i += MIL_LANES)
        for (size_t j = 0; j < MIL_LANES; j++) lanes[j] = mil_maximum(lanes[j], fabsf(x[i + j]));
    for (; i < n; i++) lanes[0] = mil_maximum(lanes[0], fabsf(x[i]));
    for (size_t j = 1; j < MIL_LANES; j++) lanes[0] = mil_maximum(lanes[0], lanes[j]);
    return lanes[0];
}

/* Of a matrix of floats; NaN if there is one. */
static float largest_of(const mil_view *view, mil_operand_source storage) {
    size_t axes = view->rank - 2, batch = mil_view_elements(view);
    batch /= view->dim[axes] * view->dim[axes + 1];
    float largest = 0.0f;
    for (size_t i = 0; i < batch; i++) {
        ane_matrix matrix = mil_matrix_of(view, storage, i);
        size_t rows = view->dim[axes + matrix.transposed];
        size_t columns = view->dim[axes + !matrix.transposed];
        for (size_t row = 0; row < rows; row++) {
            const float *at = (const float *)matrix.data + row * matrix.stride;
            largest = mil_maximum(largest, largest_magnitude(columns, at));
        }
    }
    return largest;
}

/* No product is larger than its depth times the largest of both factors. */
static bool masks_hold(const scores_run *run) {
    const mil_scores *scores = run->scores;
    if (scores->reach == 0.0f || run->a.half || run->b.half) return false;
    float a = largest_of(&scores->product.a, run->a), b = largest_of(&scores->product.b, run->b);
    return (float)run->k * a * b < scores->reach;
}

/* --- rows --- */

ANE_CLONES
static void add_mask(size_t n, const float *mask, float *row) {
    for (size_t i = 0; i < n; i++) row[i] += mask[i];
}

ANE_CLONES
static void softmax_in_place(size_t n, float *row) {
    mil_softmax(n, row);
}

/* Columns of a row that are computed: sums have MIL_LANES parts, so a multiple of that. */
static size_t columns_of(const scores_run *run, size_t row) {
    size_t kept = run->scores->kept[row % run->scores->mask_rows];
    size_t whole = (kept + MIL_LANES - 1) / MIL_LANES * MIL_LANES;
    return run->all || whole > run->n ? run->n : whole;
}

static void finish_row(const scores_run *run, size_t row, float *out) {
    const mil_scores *scores = run->scores;
    const mil_product *product = &scores->product;
    size_t n = columns_of(run, row);
    for (size_t i = 0; product->limit > 0.0f && i < n; i++)
        out[i] = mil_saturate(out[i], product->limit);
    add_mask(n, scores->mask + row % scores->mask_rows * run->n, out);
    if (product->rounds) ane_round_to_half(n, out);
    softmax_in_place(n, out);
    if (product->rounds) ane_round_to_half(n, out);
    memset(out + n, 0, (run->n - n) * sizeof *out);
}

static void run_rows(void *argument, size_t index) {
    const scores_run *run = argument;
    const mil_product *product = &run->scores->product;
    size_t batch = index / run->blocks, start = index % run->blocks * BLOCK_ROWS;
    size_t rows = run->m - start < BLOCK_ROWS ? run->m - start : BLOCK_ROWS, columns = 0;
    for (size_t row = start; row < start + rows; row++)
        if (columns_of(run, row) > columns) columns = columns_of(run, row);
    ane_product whole = {.m = run->m, .n = run->n, .k = run->k, .alpha = 1.0f, .ldc = run->n};
    whole.a = mil_matrix_of(&product->a, run->a, batch);
    whole.b = mil_matrix_of(&product->b, run->b, batch);
    whole.c = run->out + batch * run->m * run->n;
    whole.rounds = product->rounds;
    ane_product part = ane_product_rows(&whole, start, rows);
    part = ane_product_columns(&part, 0, columns);
    ane_blas_gemm(run->blas, &part);
    for (size_t row = 0; row < rows; row++) finish_row(run, start + row, part.c + row * part.ldc);
}

void mil_scores_run(ane_pool *pool, const ane_blas *blas, const mil_scores *scores,
                    mil_operand_source a, mil_operand_source b, float *out) {
    const mil_view *result = &scores->product.out;
    scores_run run = {.blas = blas, .scores = scores, .a = a, .b = b, .out = out + result->offset};
    run.m = result->dim[result->rank - 2];
    run.n = result->dim[result->rank - 1];
    run.k = scores->product.a.dim[scores->product.a.rank - 1];
    run.blocks = (run.m + BLOCK_ROWS - 1) / BLOCK_ROWS;
    run.all = !masks_hold(&run);
    size_t batch = mil_view_elements(result) / (run.m * run.n);
    ane_pool_run(pool, batch * run.blocks, run_rows, &run);
}
