/* Calls every function of training arithmetic on arrays of exact size, for sanitizers: what the
 * numbers are is tested in Python. */
#include "base/base.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static float *floats(size_t n) {
    float *values = malloc(n * sizeof *values);
    EXPECT(values);
    for (size_t i = 0; i < n; i++) values[i] = (float)(i % 17) / 8.0f - 1.0f;
    return values;
}

static int32_t *tokens_below(size_t n, size_t vocabulary) {
    int32_t *tokens = malloc(n * sizeof *tokens);
    EXPECT(tokens);
    for (size_t i = 0; i < n; i++) tokens[i] = (int32_t)(i * 7 % vocabulary);
    return tokens;
}

static void run_norms(ane_context *context, size_t dim, size_t sequence) {
    float *x = floats(dim * sequence), *y = floats(dim * sequence), *gamma = floats(dim);
    float *inverse = floats(sequence), *dx = floats(dim * sequence), *dgamma = floats(dim);
    EXPECT(!ane_rmsnorm_forward(context, dim, sequence, 1e-6f, x, gamma, y, inverse));
    EXPECT(!ane_rmsnorm_backward(context, dim, sequence, x, gamma, inverse, y, dx, dgamma));
    free(x), free(y), free(gamma), free(inverse), free(dx), free(dgamma);
}

static void run_tokens(ane_context *context, size_t dim, size_t sequence) {
    size_t vocabulary = dim + 3;
    float *table = floats(vocabulary * dim), *x = floats(dim * sequence);
    float *logits = floats(sequence * vocabulary), *losses = floats(sequence);
    int32_t *tokens = tokens_below(sequence, vocabulary);
    EXPECT(!ane_embedding_forward(context, vocabulary, dim, sequence, table, tokens, x));
    EXPECT(!ane_embedding_backward(context, vocabulary, dim, sequence, x, tokens, table));
    tokens[0] = -1;
    EXPECT(!ane_cross_entropy(context, sequence, vocabulary, logits, tokens, 0.0f, losses));
    EXPECT(!ane_cross_entropy(context, sequence, vocabulary, logits, tokens, 0.5f, losses));
    EXPECT(ane_embedding_forward(context, vocabulary, dim, sequence, table, tokens, x));
    free(table), free(x), free(logits), free(losses), free(tokens);
}

static void run_vectors(ane_context *context, size_t rows, size_t columns) {
    float *x = floats(columns), *y = floats(rows), *scales = floats(rows);
    uint16_t *halves = calloc(rows * columns, sizeof *halves);
    int8_t *bytes = calloc(rows * columns, sizeof *bytes);
    EXPECT(halves && bytes);
    for (size_t i = 0; i < rows * columns; i++) bytes[i] = (int8_t)(i % 255);
    EXPECT(!ane_matvec_fp16(context, rows, columns, halves, x, y));
    EXPECT(!ane_matvec_int8(context, rows, columns, bytes, scales, x, y));
    free(x), free(y), free(scales), free(halves), free(bytes);
}

static void run_products(ane_context *context, size_t m, size_t n, size_t k) {
    float *a = floats(m * k), *b = floats(k * n), *c = floats(m * n);
    for (int flags = 0; flags < 4; flags++)
        EXPECT(!ane_gemm(context, flags & 1, flags & 2, m, n, k, 1.0f, a, flags & 1 ? m : k, b,
                         flags & 2 ? k : n, 0.5f, c, n));
    free(a), free(b), free(c);
}

static void run_flat(ane_context *context, size_t n) {
    float *x = floats(n), *y = floats(n), *m = floats(n), *v = floats(n);
    ane_adamw_options options = {1e-3, 0.9, 0.999, 1e-8, 0.1, 1.0, 1};
    double sum;
    EXPECT(!ane_axpy(context, n, 0.5f, x, y));
    EXPECT(!ane_sum_squares(context, n, x, &sum));
    for (size_t i = 0; i < n; i++) v[i] *= v[i];
    ane_stretch stretches[] = {{0, n / 2, true}, {n / 2, n, false}};
    EXPECT(!ane_adamw(context, &options, 2, stretches, y, x, m, v));
    free(x), free(y), free(m), free(v);
}

static void run_conversions(size_t n) {
    float *values = floats(n);
    uint16_t *halves = malloc(n * sizeof *halves);
    ane_halves_from_floats(n, values, halves);
    ane_floats_from_halves(n, halves, values);
    ane_round_to_half(n, values);
    free(values), free(halves);
}

static void *use_context(void *argument) {
    const size_t sizes[] = {1, 3, 16, 33, 70};
    for (size_t i = 0; i < 5; i++) {
        for (size_t j = 0; j < 5; j++) {
            run_norms(argument, sizes[i], sizes[j]);
            run_tokens(argument, sizes[i], sizes[j]);
        }
        run_products(argument, sizes[i], 65, 7);
        run_vectors(argument, 9, sizes[i]);
        run_flat(argument, 20000 * i + sizes[i]);
        run_conversions(sizes[i]);
        ane_error_info error;
        ane_context_error(argument, &error);
        EXPECT(error.status == ANE_ERROR_ARGUMENT && error.text[0]);
    }
    run_products(argument, 300, 129, 65);
    run_vectors(argument, 7, 2049);
    run_vectors(argument, 130, 600);
    return NULL;
}

int main(void) {
    ane_options options = {.threads = 3};
    ane_context *context;
    ane_error_info error;
    EXPECT(!ane_context_open(&options, &context, &error));
    pthread_t other;
    EXPECT(pthread_create(&other, NULL, use_context, context) == 0);
    use_context(context);
    pthread_join(other, NULL);
    ane_context_free(context);
    options.blas_path = "/nonexistent/libblas.so";
    EXPECT(ane_context_open(&options, &context, &error) == ANE_ERROR_SYSTEM && !context);
    puts("ok");
    return 0;
}
