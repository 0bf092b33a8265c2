/* train.h: what the files of training arithmetic share. Everything here works on fp32 arrays; a
 * task of the pool is a block whose place depends on sizes alone. */
#pragma once

#include "../base/base.h"

/* Elements of a flat array that make one task. */
#define TRAIN_CHUNK 32768
/* Independent sums of one reduction: a multiple of every vector width. */
#define TRAIN_LANES 16

static inline size_t train_min(size_t a, size_t b) {
    return a < b ? a : b;
}

/* How many blocks of `block` cover n. */
static inline size_t train_blocks(size_t n, size_t block) {
    return n / block + (n % block != 0);
}

static inline ane_status train_null(ane_context *context, const char *function) {
    return ane_context_fail(context, ANE_ERROR_ARGUMENT, "%s: the context or an array is NULL",
                            function);
}

/* Adds the lanes pairwise: a fixed order. */
static inline double train_sum_lanes(double lanes[TRAIN_LANES]) {
    for (size_t half = TRAIN_LANES / 2; half > 0; half /= 2)
        for (size_t j = 0; j < half; j++) lanes[j] += lanes[j + half];
    return lanes[0];
}
