/* adamw.c: Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101), in one
 * pass over the arrays, in the order of operations of torch.optim.AdamW but for one division that
 * is a product with the inverse: a root and two divisions would cost more than the memory. */
#include "train.h"

#include <math.h>

/* The options as the element-wise loop uses them, worked out in double first. */
typedef struct adamw_factors {
    float gradient_scale, keep; /* keep = 1 - learning rate * weight decay */
    float first_weight;         /* of the gradient in the first moment: 1 - beta1 */
    float beta2, second_weight;
    float step_size;          /* learning rate / first bias correction */
    float inverse_correction; /* of the root of the second moment */
    float epsilon;
} adamw_factors;

typedef struct adamw_job {
    adamw_factors decaying, plain;
    const ane_stretch *stretches;
    float *weight;
    const float *gradient;
    float *first, *second;
} adamw_job;

static adamw_factors factors_of(const ane_adamw_options *options, double weight_decay) {
    double step = (double)options->step;
    return (adamw_factors){
        .gradient_scale = (float)options->gradient_scale,
        .keep = (float)(1.0 - options->learning_rate * weight_decay),
        .first_weight = (float)(1.0 - options->beta1),
        .beta2 = (float)options->beta2,
        .second_weight = (float)(1.0 - options->beta2),
        .step_size = (float)(options->learning_rate / (1.0 - pow(options->beta1, step))),
        .inverse_correction = (float)(1.0 / sqrt(1.0 - pow(options->beta2, step))),
        .epsilon = (float)options->epsilon,
    };
}

/* a + weight * (b - a), from the nearer end, as torch.lerp does it. */
static inline float interpolate(float a, float b, float weight) {
    return weight < 0.5f ? a + weight * (b - a) : b - (b - a) * (1.0f - weight);
}

ANE_CLONES static void update(adamw_factors f, size_t n, float *restrict weight,
                              const float *restrict gradient, float *restrict first,
                              float *restrict second) {
    for (size_t i = 0; i < n; i++) {
        float g = gradient[i] * f.gradient_scale;
        float m = interpolate(first[i], g, f.first_weight);
        float v = second[i] * f.beta2 + f.second_weight * g * g;
        float denominator = sqrtf(v) * f.inverse_correction + f.epsilon;
        first[i] = m;
        second[i] = v;
        weight[i] = weight[i] * f.keep - f.step_size * m / denominator;
    }
}

static size_t tasks_of(const ane_stretch *stretch) {
    return train_blocks(stretch->end - stretch->begin, TRAIN_CHUNK);
}

static void adamw_task(void *argument, size_t index) {
    const adamw_job *job = argument;
    const ane_stretch *stretch = job->stretches;
    for (; index >= tasks_of(stretch); stretch++) index -= tasks_of(stretch);
    size_t start = stretch->begin + index * TRAIN_CHUNK;
    update(stretch->decays ? job->decaying : job->plain,
           train_min(stretch->end - start, TRAIN_CHUNK), job->weight + start, job->gradient + start,
           job->first + start, job->second + start);
}

static ane_status check_options(ane_context *context, const ane_adamw_options *options) {
    bool betas_fit = options->beta1 >= 0.0 && options->beta1 < 1.0 && options->beta2 >= 0.0 &&
                     options->beta2 < 1.0;
    if (options->step > 0 && betas_fit && options->epsilon >= 0.0) return ANE_OK;
    return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                            "ane_adamw: step %zu, betas %g and %g or epsilon %g make no sense",
                            options->step, options->beta1, options->beta2, options->epsilon);
}

static ane_status check_stretches(ane_context *context, size_t count,
                                  const ane_stretch *stretches) {
    size_t end = 0;
    for (size_t i = 0; i < count; end = stretches[i++].end)
        if (stretches[i].begin < end || stretches[i].end < stretches[i].begin)
            return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                                    "ane_adamw: stretch %zu, [%zu, %zu), does not come after the "
                                    "one before it",
                                    i, stretches[i].begin, stretches[i].end);
    return ANE_OK;
}

ane_status ane_adamw(ane_context *context, const ane_adamw_options *options, size_t count,
                     const ane_stretch *stretches, float *weight, const float *gradient,
                     float *first_moment, float *second_moment) {
    if (!context || !options || !weight || !gradient || !first_moment || !second_moment ||
        (count && !stretches))
        return train_null(context, "ane_adamw");
    ane_status status = check_options(context, options);
    if (status == ANE_OK) status = check_stretches(context, count, stretches);
    if (status != ANE_OK) return status;
    adamw_job job = {factors_of(options, options->weight_decay),
                     factors_of(options, 0.0),
                     stretches,
                     weight,
                     gradient,
                     first_moment,
                     second_moment};
    size_t tasks = 0;
    for (size_t i = 0; i < count; i++) tasks += tasks_of(&stretches[i]);
    ane_pool_run(context->pool, tasks, adamw_task, &job);
    return ANE_OK;
}
