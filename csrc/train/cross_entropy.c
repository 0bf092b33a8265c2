/* cross_entropy.c: the loss of next-token prediction and its gradient, a row of logits at a time.
 * Exponentials are of differences to the row's maximum, so nothing overflows. */
#include "exp.h"
#include "train.h"

#include <math.h>

#define MASKED (-1)
#define BLOCK 256 /* exponentials that are taken, then summed */

typedef struct entropy_job {
    size_t positions, vocabulary, rows; /* rows of one task */
    float scale;
    const int32_t *targets;
    float *logits, *losses;
} entropy_job;

/* NaN is passed over here and comes back in the exponentials. */
ANE_CLONES static float maximum(size_t n, const float *values) {
    float lanes[TRAIN_LANES];
    for (size_t j = 0; j < TRAIN_LANES; j++) lanes[j] = -INFINITY;
    size_t i = 0;
    for (; i + TRAIN_LANES <= n; i += TRAIN_LANES)
        for (size_t j = 0; j < TRAIN_LANES; j++)
            lanes[j] = values[i + j] > lanes[j] ? values[i + j] : lanes[j];
    for (; i < n; i++) lanes[0] = values[i] > lanes[0] ? values[i] : lanes[0];
    for (size_t j = 1; j < TRAIN_LANES; j++) lanes[0] = lanes[j] > lanes[0] ? lanes[j] : lanes[0];
    return lanes[0];
}

/* Values become e^(value - shift); their sum. */
ANE_CLONES static double exponentials(size_t n, float shift, float *values) {
    double lanes[TRAIN_LANES] = {0};
    for (size_t i = 0; i < n; i++) values[i] = exp_not_positive(values[i] - shift);
    size_t i = 0;
    for (; i + TRAIN_LANES <= n; i += TRAIN_LANES)
        for (size_t j = 0; j < TRAIN_LANES; j++) lanes[j] += values[i + j];
    for (size_t j = 0; i + j < n; j++) lanes[j] += values[i + j];
    return train_sum_lanes(lanes);
}

ANE_CLONES static void multiply(size_t n, float factor, float *values) {
    for (size_t i = 0; i < n; i++) values[i] *= factor;
}

/* Sum of e^(logit - shift); the exponentials replace the logits if `keep`. */
static double sum_exponentials(size_t n, float shift, float *logits, bool keep) {
    float block[BLOCK];
    double sum = 0.0;
    for (size_t i = 0; i < n; i += BLOCK) {
        size_t count = train_min(n - i, BLOCK);
        memcpy(block, logits + i, count * sizeof *block);
        sum += exponentials(count, shift, block);
        if (keep) memcpy(logits + i, block, count * sizeof *block);
    }
    return sum;
}

static float entropy_row(size_t vocabulary, float *logits, size_t target, float scale) {
    bool keep = scale != 0.0f;
    float shift = maximum(vocabulary, logits);
    double distance = (double)shift - logits[target];
    double sum = sum_exponentials(vocabulary, shift, logits, keep);
    if (keep) {
        double probability = logits[target] / sum;
        multiply(vocabulary, (float)(scale / sum), logits);
        logits[target] = (float)((probability - 1.0) * scale);
    }
    return (float)(log(sum) + distance);
}

static void entropy_task(void *argument, size_t index) {
    const entropy_job *job = argument;
    size_t end = train_min(job->positions, (index + 1) * job->rows);
    for (size_t p = index * job->rows; p < end; p++) {
        float *logits = job->logits + p * job->vocabulary;
        job->losses[p] = 0.0f;
        if (job->targets[p] != MASKED)
            job->losses[p] =
                entropy_row(job->vocabulary, logits, (size_t)job->targets[p], job->scale);
        else if (job->scale != 0.0f)
            memset(logits, 0, job->vocabulary * sizeof *logits);
    }
}

static ane_status check_targets(ane_context *context, size_t positions, size_t vocabulary,
                                const int32_t *targets) {
    for (size_t p = 0; p < positions; p++)
        if (targets[p] != MASKED && (targets[p] < 0 || (size_t)targets[p] >= vocabulary))
            return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                                    "target %d at position %zu is outside the vocabulary of %zu",
                                    (int)targets[p], p, vocabulary);
    return ANE_OK;
}

ane_status ane_cross_entropy(ane_context *context, size_t positions, size_t vocabulary,
                             float *logits, const int32_t *targets, float scale, float *losses) {
    if (!context || !logits || !targets || !losses) return train_null(context, "ane_cross_entropy");
    ane_status status = check_targets(context, positions, vocabulary, targets);
    if (status != ANE_OK) return status;
    entropy_job job = {positions, vocabulary, 1, scale, targets, logits, losses};
    if (vocabulary > 0 && vocabulary < TRAIN_CHUNK) job.rows = TRAIN_CHUNK / vocabulary;
    ane_pool_run(context->pool, train_blocks(positions, job.rows), entropy_task, &job);
    return ANE_OK;
}
