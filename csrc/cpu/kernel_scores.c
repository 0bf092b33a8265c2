/* kernel_scores.c: products, mask and softmax of a block of rows while it is in cache, and the
 * backward of that. Columns that a mask hides are left out where that cannot change a result. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "kernels.h"
#include "numeric.h"

#define BLOCK_ROWS 64 /* of the result: what its last row needs of columns, all compute */
#define STRETCH 512   /* of a row, while it is summed */

/* --- whether masked columns can matter --- */

/* Magnitudes are compared by their bits, which grow with them; those of NaN come last. */
typedef struct magnitude {
    const mil_view *view;
    mil_operand_source storage;
    _Atomic uint32_t bits; /* of the largest so far */
} magnitude;

/* Raises the bits in `lanes` to those of what has none larger. */
ANE_CLONES
static void raise_lanes(size_t n, const float *x, uint32_t *lanes) {
    uint32_t largest[MIL_LANES];
    memcpy(largest, lanes, sizeof largest);
    size_t i = 0;
    for (; i + MIL_LANES <= n; i += MIL_LANES)
        for (size_t j = 0; j < MIL_LANES; j++) {
            uint32_t bits = mil_bits(x[i + j]) & 0x7fffffffu;
            largest[j] = bits > largest[j] ? bits : largest[j];
        }
    for (size_t j = 0; i + j < n; j++) {
        uint32_t bits = mil_bits(x[i + j]) & 0x7fffffffu;
        largest[j] = bits > largest[j] ? bits : largest[j];
    }
    memcpy(lanes, largest, sizeof largest);
}

/* The same for halves. */
ANE_CLONES
static uint16_t largest_half(size_t n, const uint16_t *x) {
    uint16_t largest[2 * MIL_LANES] = {0}, found = 0;
    size_t i = 0;
    for (; i + 2 * MIL_LANES <= n; i += 2 * MIL_LANES)
        for (size_t j = 0; j < 2 * MIL_LANES; j++) {
            uint16_t bits = x[i + j] & 0x7fff;
            largest[j] = bits > largest[j] ? bits : largest[j];
        }
    for (; i < n; i++) found = (x[i] & 0x7fff) > found ? x[i] & 0x7fff : found;
    for (size_t j = 0; j < 2 * MIL_LANES; j++) found = largest[j] > found ? largest[j] : found;
    return found;
}

float mil_largest_magnitude(const mil_view *view, mil_operand_source storage, size_t batch) {
    size_t axes = view->rank - 2;
    ane_matrix matrix = mil_matrix_of(view, storage, batch);
    size_t rows = view->dim[axes + matrix.transposed];
    size_t columns = view->dim[axes + !matrix.transposed];
    uint32_t lanes[MIL_LANES] = {0};
    uint16_t half = 0;
    for (size_t row = 0; row < rows; row++) {
        size_t at = row * matrix.stride;
        if (matrix.half) {
            uint16_t found = largest_half(columns, (const uint16_t *)matrix.data + at);
            half = found > half ? found : half;
        } else {
            raise_lanes(columns, (const float *)matrix.data + at, lanes);
        }
    }
    float widened;
    ane_floats_from_halves(1, &half, &widened);
    uint32_t found = mil_bits(widened);
    for (size_t j = 0; j < MIL_LANES; j++) found = lanes[j] > found ? lanes[j] : found;
    return mil_float(found);
}

static void find_largest(void *argument, size_t batch) {
    magnitude *job = argument;
    uint32_t found = mil_bits(mil_largest_magnitude(job->view, job->storage, batch));
    uint32_t known = atomic_load(&job->bits);
    while (found > known && !atomic_compare_exchange_weak(&job->bits, &known, found)) continue;
}

/* Of all matrices; NaN if there is one. */
static float largest_of(ane_pool *pool, const mil_view *view, mil_operand_source storage) {
    magnitude job = {.view = view, .storage = storage};
    size_t axes = view->rank - 2;
    size_t batch = mil_view_elements(view) / (view->dim[axes] * view->dim[axes + 1]);
    ane_pool_run(pool, batch, find_largest, &job);
    return mil_float(atomic_load(&job.bits));
}

#define ROUNDING 1.01f /* what both factors may gain by bf16 */

/* Whether all products are less than the limit: none is more than its depth times the largest of
 * both factors. */
static bool stays_below(ane_pool *pool, const mil_scores_job *run, float limit) {
    if (limit == 0.0f) return false;
    float a = largest_of(pool, &run->product->a, run->a);
    float b = largest_of(pool, &run->product->b, run->b);
    return (float)run->k * a * b * ROUNDING < limit;
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

/* Sums have MIL_LANES parts, so a multiple of that. */
size_t mil_scores_columns(const mil_scores *scores, size_t row) {
    const mil_view *out = &scores->product.out;
    size_t columns = out->dim[out->rank - 1], kept = scores->kept[row % scores->mask_rows];
    size_t whole = (kept + MIL_LANES - 1) / MIL_LANES * MIL_LANES;
    return whole > columns ? columns : whole;
}

static size_t columns_of(const mil_scores_job *run, size_t row) {
    return run->masked ? mil_scores_columns(run->scores, row) : run->n;
}

static void saturate(const mil_product *product, size_t n, float *out) {
    for (size_t i = 0; product->limit > 0.0f && i < n; i++)
        out[i] = mil_saturate(out[i], product->limit);
}

static void finish_forward(const mil_scores_job *run, size_t row, size_t n, float *out) {
    const mil_scores *scores = run->scores;
    add_mask(n, scores->mask + row % scores->mask_rows * run->n, out);
    if (run->product->rounds) ane_round_to_half(n, out);
    softmax_in_place(n, out);
    if (run->product->rounds) ane_round_to_half(n, out);
}

ANE_CLONES
static void multiply(size_t n, const float *restrict p, const float *restrict x,
                     float *restrict to) {
    for (size_t i = 0; i < n; i++) to[i] = p[i] * x[i];
}

/* sum(p dp), each product rounded, in the order of mil_sum. */
static float sum_of_products(size_t n, const float *p, const float *dp, bool rounds) {
    float products[STRETCH], lanes[MIL_LANES] = {0};
    for (size_t start = 0; start < n; start += STRETCH) {
        size_t count = n - start < STRETCH ? n - start : STRETCH;
        multiply(count, p + start, dp + start, products);
        if (rounds) ane_round_to_half(count, products);
        mil_add_lanes(count, products, lanes);
    }
    return mil_sum_lanes(lanes);
}

ANE_CLONES
static void subtract(size_t n, float total, float *x) {
    for (size_t i = 0; i < n; i++) x[i] -= total;
}

ANE_CLONES
static void scale(size_t n, const float *restrict p, float *restrict x) {
    for (size_t i = 0; i < n; i++) x[i] = p[i] * x[i];
}

static void finish_backward(const mil_scores_job *run, size_t n, const float *p, float *out) {
    bool rounds = run->product->rounds;
    float total = sum_of_products(n, p, out, rounds);
    if (rounds) ane_round_to_half(1, &total);
    subtract(n, total, out);
    if (rounds) ane_round_to_half(n, out);
    scale(n, p, out);
    if (rounds) ane_round_to_half(n, out);
}

static size_t blocks_of(const mil_scores_job *run) {
    return (run->m + BLOCK_ROWS - 1) / BLOCK_ROWS;
}

static void run_rows(const mil_scores_job *run, size_t batch, size_t start) {
    size_t rows = run->m - start < BLOCK_ROWS ? run->m - start : BLOCK_ROWS, columns = 0;
    for (size_t row = start; row < start + rows; row++)
        if (columns_of(run, row) > columns) columns = columns_of(run, row);
    ane_product whole = {.m = run->m, .n = run->n, .k = run->k, .alpha = 1.0f, .ldc = run->n};
    whole.a = mil_matrix_of(&run->product->a, run->a, batch);
    whole.b = mil_matrix_of(&run->product->b, run->b, batch);
    whole.c = run->out + batch * run->m * run->n;
    whole.rounds = run->product->rounds;
    ane_product part = ane_product_rows(&whole, start, rows);
    part = ane_product_columns(&part, 0, columns);
    ane_blas_gemm(run->blas, &part);
    for (size_t row = start; row < start + rows; row++) {
        size_t n = columns_of(run, row), at = row * run->n;
        saturate(run->product, n, whole.c + at);
        if (run->p)
            finish_backward(run, n, run->p + batch * run->m * run->n + at, whole.c + at);
        else
            finish_forward(run, row, n, whole.c + at);
        memset(whole.c + at + n, 0, (run->n - n) * sizeof(float));
    }
}

static void run_block(void *argument, size_t index) {
    const mil_scores_job *run = argument;
    run_rows(run, index / blocks_of(run), index % blocks_of(run) * BLOCK_ROWS);
}

void mil_scores_run(ane_pool *pool, const mil_scores_job *job) {
    ane_pool_run(pool, job->batch * blocks_of(job), run_block, (void *)(uintptr_t)job);
}

void mil_scores_matrix(const mil_scores_job *job, size_t index) {
    for (size_t start = 0; start < job->m; start += BLOCK_ROWS) run_rows(job, index, start);
}

static mil_scores_job prepare(const ane_blas *blas, const mil_product *product,
                              const mil_scores *scores, mil_operand_source a,
                              mil_operand_source b) {
    mil_scores_job run = {.blas = blas, .product = product, .scores = scores, .a = a, .b = b};
    run.m = product->out.dim[product->out.rank - 2];
    run.n = product->out.dim[product->out.rank - 1];
    run.k = product->a.dim[product->a.rank - 1];
    run.batch = mil_view_elements(&product->out) / (run.m * run.n);
    return run;
}

mil_scores_job mil_scores_prepare(ane_pool *pool, const ane_blas *blas, const mil_scores *scores,
                                  mil_operand_source a, mil_operand_source b, float *out) {
    mil_scores_job run = prepare(blas, &scores->product, scores, a, b);
    run.out = out + scores->product.out.offset;
    run.masked = stays_below(pool, &run, scores->reach);
    return run;
}

/* Beyond it an fp16 value may be infinite, and zero times that would not be zero. */
#define LARGEST 60000.0f

mil_scores_job mil_scores_backward_prepare(ane_pool *pool, const ane_blas *blas,
                                           const mil_scores_backward *backward,
                                           const mil_probabilities *of, mil_operand_source a,
                                           mil_operand_source b, float *out) {
    mil_scores_job run = prepare(blas, &backward->product, of->scores, a, b);
    float limit = backward->product.limit > 0.0f ? backward->product.limit : LARGEST;
    run.p = of->p + backward->p.offset;
    run.out = out + backward->product.out.offset;
    run.masked = of->masked && stays_below(pool, &run, limit);
    return run;
}
