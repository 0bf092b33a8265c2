/* outer.c: sums of outer products of two surfaces' columns, which is what the gradient of a weight
 * is. fp16 elements are read where they lie, if there are tiles for the processor. */
#include <stdlib.h>

#include "surface.h"

static bool lies_within(const ane_block *block) {
    const ane_memory *memory = &block->surface->memory;
    return block->row <= memory->channels && block->rows <= memory->channels - block->row &&
           block->column <= memory->width && block->columns <= memory->width - block->column;
}

static ane_status check_blocks(const ane_block *left, const ane_block *right, size_t ldc) {
    ane_context *context = left->surface->context;
    if (!lies_within(left) || !lies_within(right))
        return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                                "ane_outer_product: a block leaves its surface");
    if (left->columns != right->columns || ldc < right->rows)
        return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                                "ane_outer_product: %zu columns beside %zu, or rows of %zu in a "
                                "result with %zu",
                                left->columns, right->columns, right->rows, ldc);
    return ANE_OK;
}

static ane_matrix matrix_of(const ane_block *block, bool transposed) {
    const ane_memory *memory = &block->surface->memory;
    const char *data = (const char *)memory->base + block->row * memory->row_stride +
                       block->column * memory->element_size;
    bool half = memory->element_size == 2;
    return (ane_matrix){data, memory->row_stride / memory->element_size, transposed, half};
}

/* Makes the operand fp32, in memory that the caller frees. */
static ane_status widen(const ane_block *block, ane_matrix *matrix, void **memory) {
    size_t elements;
    ane_context *context = block->surface->context;
    *memory = ane_size_mul(block->rows, block->columns * sizeof(float), &elements)
                  ? malloc(elements)
                  : NULL;
    if (!*memory) return ane_context_fail(context, ANE_ERROR_MEMORY, "no memory for an operand");
    *matrix = (ane_matrix){*memory, block->columns, matrix->transposed, false};
    return ane_surface_read(block->surface, block->row, block->column, block->rows, block->columns,
                            1.0f, 0.0f, NULL, *memory, block->columns);
}

static ane_status multiply(const ane_block *left, const ane_block *right, float *c, size_t ldc) {
    ane_context *context = left->surface->context;
    ane_product product = {left->rows, right->rows, left->columns, .alpha = 1.0f, .beta = 1.0f};
    product.a = matrix_of(left, false);
    product.b = matrix_of(right, true);
    product.c = c;
    product.ldc = ldc;
    void *widened[2] = {NULL, NULL};
    ane_status status = ANE_OK;
    bool narrow = !ane_blas_takes_halves(context->blas);
    if (narrow && product.a.half) status = widen(left, &product.a, &widened[0]);
    if (narrow && product.b.half && status == ANE_OK)
        status = widen(right, &product.b, &widened[1]);
    if (status == ANE_OK) ane_blas_gemm_parallel(context->blas, context->pool, &product);
    free(widened[0]);
    free(widened[1]);
    return status;
}

ane_status ane_outer_product(const ane_block *left, const ane_block *right, float *c, size_t ldc) {
    if (!left || !right || !left->surface || !right->surface || !c) return ANE_ERROR_ARGUMENT;
    ane_status status = check_blocks(left, right, ldc);
    if (status != ANE_OK || left->rows == 0 || right->rows == 0 || left->columns == 0)
        return status;
    status = surface_begin(left->surface, true);
    if (status != ANE_OK) return status;
    status = surface_begin(right->surface, true);
    ane_status ended = ANE_OK;
    if (status == ANE_OK) {
        status = multiply(left, right, c, ldc);
        ended = surface_end(right->surface, true);
    }
    if (status == ANE_OK) status = ended;
    ended = surface_end(left->surface, true);
    return status == ANE_OK ? ended : status;
}
