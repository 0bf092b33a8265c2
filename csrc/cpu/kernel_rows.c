/* kernel_rows.c: softmax, layer_norm and reductions over rows of unit stride; rows are spread over
 * the pool, each is done by one thread. */
#include "kernels.h"
#include "numeric.h"

#define GRAIN 16384 /* elements of a task */

typedef struct rows_run {
    const mil_rows *rows;
    mil_kind reduction;
    const float *in;
    float *out;
} rows_run;

static const float *row_at(const rows_run *run, size_t row) {
    return run->in + mil_view_at(&run->rows->in, run->rows->in.rank - 1, row);
}

static void finish_rows(const rows_run *run, size_t first, size_t count) {
    if (run->rows->rounds) ane_round_to_half(count, run->out + first);
}

ANE_CLONES
static void softmax_row(size_t n, const float *x, float *y) {
    mil_softmax_row(n, x, y);
}

static void softmax_rows(void *argument, size_t begin, size_t end) {
    const rows_run *run = argument;
    size_t n = run->rows->length;
    for (size_t row = begin; row < end; row++) {
        softmax_row(n, row_at(run, row), run->out + row * n);
        finish_rows(run, row * n, n);
    }
}

ANE_CLONES
static void layer_norm_row(const mil_rows *rows, const float *x, float *y) {
    mil_layer_norm_row(rows->length, x, rows->gamma, rows->beta, rows->epsilon, y);
}

static void layer_norm_rows(void *argument, size_t begin, size_t end) {
    const rows_run *run = argument;
    size_t n = run->rows->length;
    for (size_t row = begin; row < end; row++) {
        layer_norm_row(run->rows, row_at(run, row), run->out + row * n);
        finish_rows(run, row * n, n);
    }
}

ANE_CLONES
static float reduce_row(mil_kind kind, size_t n, const float *x) {
    if (kind == MIL_OP_reduce_max) return mil_largest(n, x);
    float sum = mil_sum(n, x);
    return kind == MIL_OP_reduce_mean ? sum / (float)n : sum;
}

static void reduce_rows(void *argument, size_t begin, size_t end) {
    const rows_run *run = argument;
    for (size_t row = begin; row < end; row++)
        run->out[row] = reduce_row(run->reduction, run->rows->length, row_at(run, row));
    finish_rows(run, begin, end - begin);
}

void mil_rows_run(ane_pool *pool, mil_step_kind kind, mil_kind reduction, const mil_rows *rows,
                  const float *in, float *out) {
    rows_run run = {rows, reduction, in, out + rows->out.offset};
    mil_range_task task = kind == MIL_STEP_SOFTMAX      ? softmax_rows
                          : kind == MIL_STEP_LAYER_NORM ? layer_norm_rows
                                                        : reduce_rows;
    mil_parallel(pool, rows->count, GRAIN / rows->length, task, &run);
}
