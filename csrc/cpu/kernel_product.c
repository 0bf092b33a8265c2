/* kernel_product.c: products by BLAS. The batch is spread over the pool; a few large products are
 * cut into strips besides, and each strip is rounded while it is still in cache. */
#include <math.h>

#include "kernels.h"
#include "numeric.h"

#define STRIP_UNIT 64   /* rows or columns: a multiple of every BLAS kernel's tile */
#define STRIP_WORTH 6e7 /* multiplications that are worth a task: a millisecond or two */
#define MOST_STRIPS 16

typedef struct product_run {
    const ane_blas *blas;
    const mil_product *product;
    mil_operand_source a, b;
    float *out;
    size_t m, n, k;
    size_t strips, strip; /* of one product, along the longer axis of the result */
    bool by_rows;
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

/* What follows the product, on a block of the result that is rounded unless there is a bias. */
static void finish_block(const mil_product *product, const float *bias, const ane_product *part) {
    float *out = part->c;
    for (size_t row = 0; row < part->m; row++, out += part->ldc) {
        for (size_t i = 0; bias && i < part->n; i++) out[i] += bias[row];
        if (bias && product->rounds) ane_round_to_half(part->n, out);
        for (size_t i = 0; product->limit > 0.0f && i < part->n; i++)
            out[i] = mil_saturate(out[i], product->limit);
    }
}

static void run_strip(void *argument, size_t index) {
    const product_run *run = argument;
    const mil_product *product = run->product;
    size_t batch = index / run->strips, start = index % run->strips * run->strip;
    size_t axes = product->out.rank - 2;
    ane_product whole = {.m = run->m, .n = run->n, .k = run->k, .alpha = 1.0f};
    whole.a = mil_matrix_of(&product->a, run->a, batch);
    whole.b = mil_matrix_of(&product->b, run->b, batch);
    whole.c = run->out + mil_view_at(&product->out, axes, batch);
    whole.ldc = run->m == 1 ? run->n : (size_t)product->out.stride[axes];
    whole.rounds = product->rounds && !product->bias;
    size_t left = (run->by_rows ? run->m : run->n) - start;
    size_t length = left < run->strip ? left : run->strip;
    ane_product part = run->by_rows ? ane_product_rows(&whole, start, length)
                                    : ane_product_columns(&whole, start, length);
    const float *bias = product->bias;
    ane_blas_gemm(run->blas, &part);
    finish_block(product, bias && run->by_rows ? bias + start : bias, &part);
}

/* A power of two of strips, where the batch alone is too short to fill a machine. They follow from
 * the shape: BLAS may round differently in strips of another size. */
static void choose_strips(product_run *run, size_t batch) {
    size_t longer = run->by_rows ? run->m : run->n;
    double work = (double)run->m * (double)run->n * (double)run->k;
    size_t strips = 1;
    while (2 * strips * batch <= MOST_STRIPS && work >= 2.0 * (double)strips * STRIP_WORTH)
        strips *= 2;
    size_t units = (longer + STRIP_UNIT - 1) / STRIP_UNIT;
    run->strip = (units + strips - 1) / strips * STRIP_UNIT;
    run->strips = (longer + run->strip - 1) / run->strip;
}

void mil_product_run(ane_pool *pool, const ane_blas *blas, const mil_product *product,
                     mil_operand_source a, mil_operand_source b, float *out) {
    const mil_view *result = &product->out;
    product_run run = {.blas = blas, .product = product, .a = a, .b = b, .out = out};
    run.m = result->dim[result->rank - 2];
    run.n = result->dim[result->rank - 1];
    run.k = product->a.dim[product->a.rank - 1];
    run.by_rows = run.m >= run.n;
    size_t batch = mil_view_elements(result) / (run.m * run.n);
    choose_strips(&run, batch);
    ane_pool_run(pool, batch * run.strips, run_strip, &run);
}
