/* kernels.h: what steps do to memory. Views are given with the address of their storage; work is
 * cut by shape alone and spread over the pool. */
#pragma once

#include "plan.h"

/* Calls run(argument, begin, end) for ranges of at most `grain` that cover [0, count), on the pool.
 */
typedef void (*mil_range_task)(void *argument, size_t begin, size_t end);
void mil_parallel(ane_pool *pool, size_t count, size_t grain, mil_range_task run, void *argument);

/* --- kernel_copy.c --- */

void mil_copy_run(ane_pool *pool, const mil_copy *copy, const mil_cell *from, mil_cell *to);
/* fp16 elements to contiguous floats, best with unit stride on the last axis. */
void mil_widen_run(ane_pool *pool, const mil_view *view, const uint16_t *from, float *to);
/* Floats to fp16 elements, best with unit stride on the last axis. */
void mil_narrow_run(ane_pool *pool, const mil_copy *copy, const float *from, uint16_t *to);
/* to[r * to_stride + c] = from[c * from_stride + r]. */
void mil_transpose_block(size_t rows, size_t columns, const float *from, size_t from_stride,
                         float *to, size_t to_stride);

/* --- kernel_group.c --- */

/* memory[i] is the address of the storage of group->memory[i]. */
void mil_group_run(ane_pool *pool, const mil_group *group, mil_cell *const *memory);

/* --- kernel_product.c --- */

/* The storage of an operand. */
typedef struct mil_operand_source {
    const void *data;
    bool half;
} mil_operand_source;

/* A view that BLAS can read, of one index of its batch axes. */
ane_matrix mil_matrix_of(const mil_view *view, mil_operand_source storage, size_t batch);

/* The storages of a product's views, and what is known of its operands. */
typedef struct mil_product_data {
    mil_operand_source a, b;
    float *out;
    uint16_t *halves;        /* if the product narrows */
    const mil_scores *zeros; /* whose masked columns are zero in an operand; NULL: none */
} mil_product_data;

void mil_product_run(ane_pool *pool, const ane_blas *blas, const mil_product *product,
                     const mil_product_data *data);

#define MIL_MANY 4 /* matrices of a batch, of which each is a task; fewer large ones are cut */

/* The same, matrix by matrix. */
typedef struct mil_product_job {
    ane_pool *pool; /* of one matrix; NULL: each matrix is a task */
    const ane_blas *blas;
    const mil_product *product;
    const mil_product_data *data;
    size_t m, n, k, batch; /* batch: matrices */
} mil_product_job;

mil_product_job mil_product_prepare(const ane_blas *blas, const mil_product *product,
                                    const mil_product_data *data);
/* A task of a pool: `job` is a mil_product_job. */
void mil_product_matrix(void *job, size_t index);

/* --- kernel_scores.c --- */

typedef struct mil_scores_job {
    const ane_blas *blas;
    const mil_product *product;
    const mil_scores *scores;
    mil_operand_source a, b;
    const float *p; /* of the backward */
    float *out;
    size_t m, n, k, batch; /* batch: matrices */
    bool masked;           /* columns are left out */
} mil_scores_job;

/* Looks at all of a and b. */
mil_scores_job mil_scores_prepare(ane_pool *pool, const ane_blas *blas, const mil_scores *scores,
                                  mil_operand_source a, mil_operand_source b, float *out);

/* The result of scores, in its storage. */
typedef struct mil_probabilities {
    const mil_scores *scores;
    const float *p;
    bool masked; /* as in their job */
} mil_probabilities;

/* Likewise. */
mil_scores_job mil_scores_backward_prepare(ane_pool *pool, const ane_blas *blas,
                                           const mil_scores_backward *backward,
                                           const mil_probabilities *of, mil_operand_source a,
                                           mil_operand_source b, float *out);
void mil_scores_run(ane_pool *pool, const mil_scores_job *job);
/* One matrix of them. */
void mil_scores_matrix(const mil_scores_job *job, size_t index);
/* Columns that are computed of a row of the result where masked ones are left out. */
size_t mil_scores_columns(const mil_scores *scores, size_t row);
/* The largest magnitude in a matrix; NaN if that is in it. */
float mil_largest_magnitude(const mil_view *view, mil_operand_source storage, size_t batch);

/* --- kernel_packed.c --- */

/* `matrix` is the surface in which the matrices are; NULL: product->matrix has its data. */
void mil_packed_run(ane_pool *pool, const ane_blas *blas, const mil_packed *product,
                    const void *matrix, const float *x, float *out);

/* --- kernel_rows.c --- */

/* `kind` is one of softmax, layer_norm and reduce; `reduction` is the op of the last. */
void mil_rows_run(ane_pool *pool, mil_step_kind kind, mil_kind reduction, const mil_rows *rows,
                  const float *in, float *out);
