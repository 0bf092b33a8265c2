/* rmsnorm.c: root mean square normalisation over the features of each column of a [D, S] activation
 * (Zhang and Sennrich 2019, arXiv 1910.07467). Sums are in double, in the order of the features or
 * positions, whatever the number of threads. */
#include "train.h"

#include <math.h>

#define COLUMNS 64 /* of one task: positions that are reduced side by side */
#define ROWS 16    /* of one task: features whose gamma gradients are summed */

typedef struct rmsnorm_job {
    size_t dim, sequence;
    float epsilon;
    const float *x, *gamma, *dy;
    float *inverse_rms; /* written forward, read backward */
    float *out;         /* y forward, dx backward */
    float *dgamma;
} rmsnorm_job;

ANE_CLONES static void forward_columns(const rmsnorm_job *job, size_t first, size_t columns) {
    double sums[COLUMNS] = {0};
    float inverse[COLUMNS];
    for (size_t d = 0; d < job->dim; d++) {
        const float *x = job->x + d * job->sequence + first;
        for (size_t j = 0; j < columns; j++) sums[j] += (double)x[j] * x[j];
    }
    for (size_t j = 0; j < columns; j++) {
        double mean = sums[j] / (double)job->dim;
        inverse[j] = (float)(1.0 / sqrt(mean + job->epsilon));
        job->inverse_rms[first + j] = inverse[j];
    }
    for (size_t d = 0; d < job->dim; d++) {
        const float *x = job->x + d * job->sequence + first;
        float *y = job->out + d * job->sequence + first, gamma = job->gamma[d];
        for (size_t j = 0; j < columns; j++) y[j] = x[j] * inverse[j] * gamma;
    }
}

static void forward_task(void *argument, size_t index) {
    const rmsnorm_job *job = argument;
    size_t first = index * COLUMNS;
    forward_columns(job, first, train_min(job->sequence - first, COLUMNS));
}

ane_status ane_rmsnorm_forward(ane_context *context, size_t dim, size_t sequence, float epsilon,
                               const float *x, const float *gamma, float *y, float *inverse_rms) {
    if (!context || !x || !gamma || !y || !inverse_rms)
        return train_null(context, "ane_rmsnorm_forward");
    rmsnorm_job job = {.dim = dim, .sequence = sequence, .epsilon = epsilon, .x = x};
    job.gamma = gamma;
    job.out = y;
    job.inverse_rms = inverse_rms;
    ane_pool_run(context->pool, train_blocks(sequence, COLUMNS), forward_task, &job);
    return ANE_OK;
}

/* With r = inverse_rms and g = gamma dy: dx += r g - x r^3 mean_d(g x). */
ANE_CLONES static void backward_columns(const rmsnorm_job *job, size_t first, size_t columns) {
    double sums[COLUMNS] = {0};
    float inverse[COLUMNS], pull[COLUMNS];
    for (size_t d = 0; d < job->dim; d++) {
        const float *x = job->x + d * job->sequence + first;
        const float *dy = job->dy + d * job->sequence + first;
        double gamma = job->gamma[d];
        for (size_t j = 0; j < columns; j++) sums[j] += gamma * dy[j] * x[j];
    }
    for (size_t j = 0; j < columns; j++) {
        double r = inverse[j] = job->inverse_rms[first + j];
        pull[j] = (float)(r * r * r * sums[j] / (double)job->dim);
    }
    for (size_t d = 0; d < job->dim; d++) {
        const float *x = job->x + d * job->sequence + first;
        const float *dy = job->dy + d * job->sequence + first;
        float *dx = job->out + d * job->sequence + first, gamma = job->gamma[d];
        for (size_t j = 0; j < columns; j++) dx[j] += inverse[j] * gamma * dy[j] - x[j] * pull[j];
    }
}

static void backward_task(void *argument, size_t index) {
    const rmsnorm_job *job = argument;
    size_t first = index * COLUMNS;
    backward_columns(job, first, train_min(job->sequence - first, COLUMNS));
}

/* sum_s dy x r of one feature. */
ANE_CLONES static double gamma_gradient(size_t n, const float *x, const float *dy,
                                        const float *inverse_rms) {
    double lanes[TRAIN_LANES] = {0};
    size_t s = 0;
    for (; s + TRAIN_LANES <= n; s += TRAIN_LANES)
        for (size_t j = 0; j < TRAIN_LANES; j++)
            lanes[j] += (double)x[s + j] * inverse_rms[s + j] * dy[s + j];
    for (size_t j = 0; s + j < n; j++)
        lanes[j] += (double)x[s + j] * inverse_rms[s + j] * dy[s + j];
    return train_sum_lanes(lanes);
}

static void gamma_task(void *argument, size_t index) {
    const rmsnorm_job *job = argument;
    size_t end = train_min(job->dim, (index + 1) * ROWS);
    for (size_t d = index * ROWS; d < end; d++) {
        size_t row = d * job->sequence;
        job->dgamma[d] +=
            (float)gamma_gradient(job->sequence, job->x + row, job->dy + row, job->inverse_rms);
    }
}

ane_status ane_rmsnorm_backward(ane_context *context, size_t dim, size_t sequence, const float *x,
                                const float *gamma, const float *inverse_rms, const float *dy,
                                float *dx, float *dgamma) {
    if (!context || !x || !gamma || !inverse_rms || !dy || !dx || !dgamma)
        return train_null(context, "ane_rmsnorm_backward");
    rmsnorm_job job = {.dim = dim, .sequence = sequence, .x = x, .gamma = gamma, .dy = dy};
    job.inverse_rms = (float *)inverse_rms;
    job.out = dx;
    job.dgamma = dgamma;
    ane_pool_run(context->pool, train_blocks(dim, ROWS), gamma_task, &job);
    ane_pool_run(context->pool, train_blocks(sequence, COLUMNS), backward_task, &job);
    return ANE_OK;
}
