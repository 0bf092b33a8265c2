/* adamw.c: Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101), in one
 * pass over the arrays, in the order of operations of torch.optim.AdamW. */
#include "train.h"

#include <math.h>

/* The options as the element-wise loop uses them, worked out in double first. */
typedef struct adamw_factors {
    float gradient_scale, keep; /* keep = 1 - learning rate * weight decay */
    float first_weight;         /* of the gradient in the first moment: 1 - beta1 */
    float beta2, second_weight;
    float step_size; /* learning rate / first bias correction */
    float root_correction, epsilon;
} adamw_factors;

typedef struct adamw_job {
    adamw_factors factors;
    size_t n;
    float *weight;
    const float *gradient;
    float *first, *second;
} adamw_job;

static adamw_factors factors_of(const ane_adamw_options *options) {
    double step = (double)options->step;
    return (adamw_factors){
        .gradient_scale = (float)options->gradient_scale,
        .keep = (float)(1.0 - options->learning_rate * options->weight_decay),
        .first_weight = (float)(1.0 - options->beta1),
        .beta2 = (float)options->beta2,
        .second_weight = (float)(1.0 - options->beta2),
        .step_size = (float)(options->learning_rate / (1.0 - pow(options->beta1, step))),
        .root_correction = (float)sqrt(1.0 - pow(options->beta2, step)),
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
        float denominator = sqrtf(v) / f.root_correction + f.epsilon;
        first[i] = m;
        second[i] = v;
        weight[i] = weight[i] * f.keep - f.step_size * m / denominator;
    }
}

static void adamw_task(void *argument, size_t index) {
    const adamw_job *job = argument;
    size_t start = index * TRAIN_CHUNK;
    update(job->factors, train_min(job->n - start, TRAIN_CHUNK), job->weight + start,
           job->gradient + start, job->first + start, job->second + start);
}

static ane_status check_options(ane_context *context, const ane_adamw_options *options) {
    bool betas_fit = options->beta1 >= 0.0 && options->beta1 < 1.0 && options->beta2 >= 0.0 &&
                     options->beta2 < 1.0;
    if (options->step > 0 && betas_fit && options->epsilon >= 0.0) return ANE_OK;
    return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                            "ane_adamw: step %zu, betas %g and %g or epsilon %g make no sense",
                            options->step, options->beta1, options->beta2, options->epsilon);
}

ane_status ane_adamw(ane_context *context, const ane_adamw_options *options, size_t n,
                     float *weight, const float *gradient, float *first_moment,
                     float *second_moment) {
    if (!context || !options || !weight || !gradient || !first_moment || !second_moment)
        return train_null(context, "ane_adamw");
    ane_status status = check_options(context, options);
    if (status != ANE_OK) return status;
    adamw_job job = {factors_of(options), n, weight, gradient, first_moment, second_moment};
    ane_pool_run(context->pool, train_blocks(n, TRAIN_CHUNK), adamw_task, &job);
    return ANE_OK;
}
