/* Runs every kernel of tiles.c that this processor has, and the definition of what they compute. */
#include "base/tiles.c"

#include <math.h>

int probe_kernels(void);
int probe_multiply(int number, const ane_product *product);
void probe_defined(const ane_product *product);

#if defined(HAS_KERNELS)

static const tile_kernel *const kernels[] = {&kernel_avx2, &kernel_avx512};

int probe_kernels(void) {
    const tile_kernel *best = best_kernel();
    return best == NULL ? 0 : best == &kernel_avx512 ? 2 : 1;
}

int probe_multiply(int number, const ane_product *product) {
    ane_tiles *tiles = ane_tiles_create();
    if (!tiles) return 0;
    tiles->kernel = kernels[number];
    bool done = ane_tiles_multiply(tiles, product);
    ane_tiles_free(tiles);
    return done;
}

#else

int probe_kernels(void) {
    return 0;
}

int probe_multiply(int number, const ane_product *product) {
    (void)number;
    (void)product;
    return 0;
}

#endif

static float at(ane_matrix matrix, size_t row, size_t column) {
    size_t index = matrix.transposed ? column * matrix.stride + row : row * matrix.stride + column;
    return matrix.half ? ane_float_from_half(((const uint16_t *)matrix.data)[index])
                       : ((const float *)matrix.data)[index];
}

/* One element: blocks of equal depth, each a chain of fused multiply-adds. */
static float element(const ane_product *product, size_t row, size_t column, float before) {
    size_t blocks = (product->k + 255) / 256, step = (product->k + blocks - 1) / blocks;
    float out = before;
    for (size_t start = 0; start < product->k; start += step) {
        float sum = 0.0f, beta = start == 0 ? product->beta : 1.0f;
        for (size_t i = start; i < product->k && i < start + step; i++)
            sum = fmaf(at(product->a, row, i), at(product->b, i, column), sum);
        sum *= product->alpha;
        out = beta == 0.0f ? sum : sum + out * beta;
    }
    return product->rounds ? ane_float_from_half(ane_half_from_float(out)) : out;
}

void probe_defined(const ane_product *product) {
    for (size_t i = 0; i < product->m; i++)
        for (size_t j = 0; j < product->n; j++) {
            float *out = product->c + i * product->ldc + j;
            *out = element(product, i, j, *out);
        }
}
