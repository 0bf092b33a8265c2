/* kernel_packed.c: products with matrices that stay as they are stored. With a vector the matrix is
 * read once, in its own form. With more columns its rows are widened piece by piece for BLAS. */
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "numeric.h"

#define TASK_ELEMENTS ((size_t)1 << 16)
#define ROW_UNIT 4    /* rows of a task are a multiple of it; see packed.c */
#define PIECE_ROWS 64 /* a piece that is widened at a time */
#define PIECE_COLUMNS 256

typedef struct packed_run {
    const mil_packed *product;
    ane_packed matrix; /* the first one */
    const ane_blas *blas;
    const float *x;
    float *out;
    size_t ranges, rows; /* tasks of one vector, and rows of each */
} packed_run;

static void finish(const mil_packed *product, size_t n, float *out) {
    if (product->rounds) ane_round_to_half(n, out);
    for (size_t i = 0; product->limit > 0.0f && i < n; i++)
        out[i] = mil_saturate(out[i], product->limit);
}

static ane_packed matrix_at(const packed_run *run, size_t batch) {
    ane_packed matrix = run->matrix;
    if (batch) matrix.data = (const uint16_t *)matrix.data + batch * run->product->stride;
    return matrix;
}

/* Rows of one matrix times one vector. */
static void run_vector(void *argument, size_t index) {
    const packed_run *run = argument;
    size_t vector = index / run->ranges, begin = index % run->ranges * run->rows;
    ane_packed matrix = matrix_at(run, vector / run->product->vectors);
    size_t left = matrix.rows - begin, n = left < run->rows ? left : run->rows;
    float *out = run->out + vector * matrix.rows;
    ane_packed_rows(&matrix, begin, begin + n, run->x + vector * matrix.columns, out);
    finish(run->product, n, out + begin);
}

/* One vector times one matrix. */
static void run_sum(void *argument, size_t index) {
    const packed_run *run = argument;
    ane_packed matrix = matrix_at(run, index / run->product->vectors);
    float *out = run->out + index * matrix.columns;
    ane_half_rows_sum(&matrix, run->x + index * matrix.rows, out);
    finish(run->product, matrix.columns, out);
}

/* PIECE_ROWS rows times all columns of x [matrix columns, n]. */
static void run_piece(void *argument, size_t index) {
    const packed_run *run = argument;
    const ane_packed *matrix = &run->matrix;
    size_t begin = index * PIECE_ROWS, left = matrix->rows - begin, n = run->product->columns;
    size_t rows = left < PIECE_ROWS ? left : PIECE_ROWS;
    float widened[PIECE_ROWS * PIECE_COLUMNS], *out = run->out + begin * n;
    for (size_t start = 0; start < matrix->columns; start += PIECE_COLUMNS) {
        size_t rest = matrix->columns - start, depth = rest < PIECE_COLUMNS ? rest : PIECE_COLUMNS;
        for (size_t i = 0; i < rows; i++)
            ane_packed_widen(matrix, begin + i, start, depth, widened + i * depth);
        ane_product product = {.m = rows, .n = n, .k = depth, .alpha = 1.0f, .c = out, .ldc = n};
        product.a = (ane_matrix){widened, depth, false, false};
        product.b = (ane_matrix){run->x + start * n, n, false, false};
        product.beta = start ? 1.0f : 0.0f;
        ane_blas_gemm(run->blas, &product);
    }
    finish(run->product, rows * n, out);
}

void mil_packed_run(ane_pool *pool, const ane_blas *blas, const mil_packed *product,
                    const void *matrix, const float *x, float *out) {
    packed_run run = {product, product->matrix, blas, x, out, 1, product->matrix.rows};
    if (matrix) run.matrix.data = (const uint16_t *)matrix + product->offset;
    run.x += product->x.offset;
    run.out += product->out.offset;
    size_t vectors = product->batch * product->vectors;
    if (product->columns > 1) {
        ane_pool_run(pool, (run.matrix.rows + PIECE_ROWS - 1) / PIECE_ROWS, run_piece, &run);
    } else if (product->from_left) {
        ane_pool_run(pool, vectors, run_sum, &run);
    } else {
        run.rows = ROW_UNIT + TASK_ELEMENTS / run.matrix.columns / ROW_UNIT * ROW_UNIT;
        run.ranges = (run.matrix.rows + run.rows - 1) / run.rows;
        ane_pool_run(pool, vectors * run.ranges, run_vector, &run);
    }
}
