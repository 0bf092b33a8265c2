/* arrays.c: one update and one sum over flat arrays. */
#include "train.h"

typedef struct axpy_job {
    size_t n;
    float alpha;
    const float *x;
    float *y;
} axpy_job;

ANE_CLONES static void add_scaled(size_t n, float alpha, const float *restrict x,
                                  float *restrict y) {
    for (size_t i = 0; i < n; i++) y[i] += alpha * x[i];
}

static void axpy_task(void *argument, size_t index) {
    const axpy_job *job = argument;
    size_t start = index * TRAIN_CHUNK;
    add_scaled(train_min(job->n - start, TRAIN_CHUNK), job->alpha, job->x + start, job->y + start);
}

ane_status ane_axpy(ane_context *context, size_t n, float alpha, const float *x, float *y) {
    if (!context || !x || !y) return train_null(context, "ane_axpy");
    axpy_job job = {n, alpha, x, y};
    ane_pool_run(context->pool, train_blocks(n, TRAIN_CHUNK), axpy_task, &job);
    return ANE_OK;
}

/* Partial sums on the stack: chunks grow with n so that these are enough. */
#define PARTIALS 256

typedef struct squares_job {
    size_t n, chunk;
    const float *x;
    double partials[PARTIALS];
} squares_job;

ANE_CLONES static double squares_of_chunk(size_t n, const float *x) {
    double lanes[TRAIN_LANES] = {0};
    size_t i = 0;
    for (; i + TRAIN_LANES <= n; i += TRAIN_LANES)
        for (size_t j = 0; j < TRAIN_LANES; j++) lanes[j] += (double)x[i + j] * x[i + j];
    for (size_t j = 0; i + j < n; j++) lanes[j] += (double)x[i + j] * x[i + j];
    return train_sum_lanes(lanes);
}

static void squares_task(void *argument, size_t index) {
    squares_job *job = argument;
    size_t start = index * job->chunk;
    job->partials[index] = squares_of_chunk(train_min(job->n - start, job->chunk), job->x + start);
}

ane_status ane_sum_squares(ane_context *context, size_t n, const float *x, double *sum) {
    if (!context || !x || !sum) return train_null(context, "ane_sum_squares");
    squares_job job = {.n = n, .x = x, .chunk = TRAIN_CHUNK};
    if (train_blocks(n, job.chunk) > PARTIALS) job.chunk = train_blocks(n, PARTIALS);
    size_t count = train_blocks(n, job.chunk);
    ane_pool_run(context->pool, count, squares_task, &job);
    double total = 0.0;
    for (size_t i = 0; i < count; i++) total += job.partials[i];
    *sum = total;
    return ANE_OK;
}
