/* Runs every kernel of the tiles that this processor has, with or without memory for their panels,
 * and the definition of what they compute. */
#include "base/base.h"

#include <math.h>

static void *probe_alloc(size_t count, size_t size);

#define ane_alloc probe_alloc
#include "base/tiles.c"
#undef ane_alloc

static bool memory_is_short;

/* The handle itself is always there. */
static void *probe_alloc(size_t count, size_t size) {
    return memory_is_short && count > 1 ? NULL : ane_alloc(count, size);
}

int probe_kernels(void);
const char *probe_name(int number);
int probe_multiply(int number, int threads, bool short_of_memory, const ane_product *product);
int probe_bf16(int number);
int probe_defined(bool bf16, const ane_product *product);

static const tile_kernel *find_kernel(int number) {
#if defined(HAS_KERNELS) && defined(__x86_64__)
    const tile_kernel *kernels[] = {&kernel_avx2, &kernel_avx512, NULL, NULL, NULL};
    const tile_kernel *best = best_kernel(false), *pairs = best_kernel(true);
    int count = best == kernels[1] ? 2 : best == kernels[0] ? 1 : 0;
    kernels[count] = pairs;
    kernels[count + 1] = pairs ? pairs->other : NULL;
    return number <= count + 1 ? kernels[number] : NULL;
#else
    return number == 0 ? best_kernel(false) : NULL;
#endif
}

int probe_kernels(void) {
    int count = 0;
    while (find_kernel(count)) count++;
    return count;
}

int probe_bf16(int number) {
    return find_kernel(number)->pairs;
}

const char *probe_name(int number) {
    return find_kernel(number)->name;
}

/* 0 if it was done. */
int probe_multiply(int number, int threads, bool short_of_memory, const ane_product *product) {
    ane_tiles *tiles = ane_tiles_create(false);
    ane_pool *pool = ane_pool_create((size_t)threads);
    if (!tiles || !pool) return 1;
    tiles->kernel = find_kernel(number);
    memory_is_short = short_of_memory;
    ane_tiles_multiply(tiles, pool, product);
    memory_is_short = false;
    ane_pool_free(pool);
    ane_tiles_free(tiles);
    return 0;
}

static float at(ane_matrix matrix, size_t row, size_t column) {
    size_t index = matrix.transposed ? column * matrix.stride + row : row * matrix.stride + column;
    return matrix.half ? ane_float_from_half(((const uint16_t *)matrix.data)[index])
                       : ((const float *)matrix.data)[index];
}

/* Terms [start, end) of an element. */
static float chain(const ane_product *product, size_t row, size_t column, size_t start,
                   size_t end) {
    float sum = 0.0f;
    for (size_t i = start; i < end; i++)
        sum = fmaf(at(product->a, row, i), at(product->b, i, column), sum);
    return sum;
}

/* The same with factors of bf16: of each two terms the second comes first. */
static float chain_bf16(const ane_product *product, size_t row, size_t column, size_t start,
                        size_t end) {
    float sum = 0.0f;
    for (size_t i = start; i < end; i += 2)
        for (size_t j = i + 2; j-- > i;) {
            if (j >= end) continue;
            float left = ane_round_to_bf16(at(product->a, row, j));
            sum = fmaf(left, ane_round_to_bf16(at(product->b, j, column)), sum);
        }
    return sum;
}

/* One element: blocks of equal depth, each a chain of fused multiply-adds. */
static float element(const ane_product *product, bool bf16, size_t row, size_t column,
                     float before) {
    size_t most = bf16 ? 512 : 256, blocks = (product->k + most - 1) / most;
    size_t step = (product->k + blocks - 1) / blocks;
    if (bf16) step += step % 2;
    float out = before;
    for (size_t start = 0; start < product->k; start += step) {
        float beta = start == 0 ? product->beta : 1.0f;
        size_t end = product->k < start + step ? product->k : start + step;
        float sum = (bf16 ? chain_bf16 : chain)(product, row, column, start, end);
        sum *= product->alpha;
        out = beta == 0.0f ? sum : sum + out * beta;
    }
    return product->rounds ? ane_float_from_half(ane_half_from_float(out)) : out;
}

int probe_defined(bool bf16, const ane_product *product) {
    for (size_t i = 0; i < product->m; i++)
        for (size_t j = 0; j < product->n; j++) {
            float *out = product->c + i * product->ldc + j;
            *out = element(product, bf16, i, j, *out);
        }
    return 0;
}
