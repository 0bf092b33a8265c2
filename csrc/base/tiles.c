/* tiles.c: matrix products by kernels of our own, for x86-64 with AVX2 or AVX-512. Operands may be
 * fp16: they are widened while they are packed, so no fp32 copy of a weight exists anywhere. Every
 * element of a result is the sum of blocks of BLOCK_DEPTH products, each summed by fused
 * multiply-adds in their order, so its bits depend neither on the kernel nor on how a product is
 * cut among threads. */
#include "base.h"

#include <string.h>

#if defined(__x86_64__) && defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_KERNELS
#include <immintrin.h>
#endif
#endif

#define BLOCK_DEPTH 256   /* two panels of that depth stay in the first-level cache */
#define BLOCK_ROWS 512    /* of a left operand that is packed at a time */
#define BLOCK_COLUMNS 512 /* of a right one: with the rows it stays in the second-level cache */
#define DEPTHS 8          /* of rows that are copied into panels one after the other */
#define AHEAD 16          /* rows that are on their way from memory meanwhile */
#define MOST_ROWS 16      /* of a tile */
#define MOST_COLUMNS 64

/* A part of a matrix on its way into panels: `length` along which panels lie, by `depth`. */
typedef struct operand {
    const void *data;
    size_t stride;
    bool half;
    bool across; /* memory runs along the depth, not along the length */
    size_t length, depth;
} operand;

/* out = alpha * sums + beta * out, rounded to fp16 if so said. */
typedef struct tile_finish {
    float alpha, beta;
    bool rounds;
} tile_finish;

typedef struct tile_kernel {
    const char *name;
    size_t rows, columns; /* of a tile */
    void (*pack_left)(const operand *from, float *to);
    void (*pack_right)(const operand *from, float *to);
    void (*multiply)(size_t depth, const float *left, const float *right, float *sums);
    void (*store)(const float *sums, const tile_finish *how, float *out, size_t stride);
} tile_kernel;

#if defined(HAS_KERNELS)

static inline float element_at(const operand *from, size_t at, bool half) {
    return half ? ane_float_from_half(((const uint16_t *)from->data)[at])
                : ((const float *)from->data)[at];
}

/* The rows of a weight are short pieces of long ones: no processor guesses which come next. */
static inline void prefetch(const operand *from, size_t at, bool half) {
    __builtin_prefetch((const char *)from->data + at * (half ? 2 : 4));
}

#define NAME(x) x##_avx512
#define TITLE "AVX-512"
#define TARGET __attribute__((target("avx512f,avx512dq,avx2,fma,f16c")))
#define LANES 16
#define ROWS 8
#define VECTORS 2
#define MULTIPLY_ADD(a, b, c) _mm512_fmadd_ps(a, b, c)
#define ROUND(x) _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define WIDEN(at) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(at)))
#define WIDEN_GROUP(at) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(at)))
#define LOW(a, b)                                                                                  \
    __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(a, b)                                                                                 \
    __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#include "tile_kernel.h"

#define NAME(x) x##_avx2
#define TITLE "AVX2"
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define LANES 8
#define ROWS 4
#define VECTORS 3
#define MULTIPLY_ADD(a, b, c) _mm256_fmadd_ps(a, b, c)
#define ROUND(x) _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define WIDEN(at) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(at)))
#define WIDEN_GROUP(at) _mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)(at)))
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#include "tile_kernel.h"

static const tile_kernel *best_kernel(void) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return &kernel_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &kernel_avx2;
    return NULL;
}

#else

static const tile_kernel *best_kernel(void) {
    return NULL;
}

#endif

/* --- memory for panels --- */

typedef struct panel_memory {
    struct panel_memory *next;
    _Alignas(64) float left[BLOCK_DEPTH * (BLOCK_ROWS + MOST_ROWS)];
    _Alignas(64) float right[BLOCK_DEPTH * (BLOCK_COLUMNS + MOST_COLUMNS)];
} panel_memory;

struct ane_tiles {
    const tile_kernel *kernel;
    pthread_mutex_t lock;
    panel_memory *idle; /* as many as there were products at a time */
};

bool ane_reads_halves(const ane_options *options) {
    return options && options->blas_path && !options->reference &&
           options->engine == ANE_SOFTWARE && options->numerics != ANE_FP32 &&
           best_kernel() != NULL;
}

ane_tiles *ane_tiles_create(void) {
    const tile_kernel *best = best_kernel();
    ane_tiles *tiles = best ? ane_alloc(1, sizeof *tiles) : NULL;
    if (!tiles) return NULL;
    tiles->kernel = best;
    pthread_mutex_init(&tiles->lock, NULL);
    return tiles;
}

void ane_tiles_free(ane_tiles *tiles) {
    if (!tiles) return;
    for (panel_memory *each = tiles->idle; each;) {
        panel_memory *next = each->next;
        ane_free(each);
        each = next;
    }
    pthread_mutex_destroy(&tiles->lock);
    ane_free(tiles);
}

const char *ane_tiles_name(const ane_tiles *tiles) {
    return tiles->kernel->name;
}

static panel_memory *take_panels(ane_tiles *tiles) {
    pthread_mutex_lock(&tiles->lock);
    panel_memory *found = tiles->idle;
    if (found) tiles->idle = found->next;
    pthread_mutex_unlock(&tiles->lock);
    return found ? found : ane_alloc(1, sizeof *found);
}

static void give_panels(ane_tiles *tiles, panel_memory *given) {
    pthread_mutex_lock(&tiles->lock);
    given->next = tiles->idle;
    tiles->idle = given;
    pthread_mutex_unlock(&tiles->lock);
}

/* --- products --- */

typedef struct block {
    const tile_kernel *kernel;
    const panel_memory *panels;
    size_t rows, columns, depth;
    tile_finish finish;
    float *out;
    size_t stride;
} block;

/* A tile at the edge of the result: only a part of its sums is wanted. */
static void store_part(const block *at, const float *sums, size_t rows, size_t columns,
                       float *out) {
    const tile_finish *how = &at->finish;
    for (size_t i = 0; i < rows; i++, out += at->stride, sums += at->kernel->columns) {
        for (size_t j = 0; j < columns; j++) {
            float value = sums[j] * how->alpha;
            out[j] = how->beta != 0.0f ? value + out[j] * how->beta : value;
        }
        if (how->rounds) ane_round_to_half(columns, out);
    }
}

/* Rows of a result are far apart: they come from memory while their sums are computed. */
static inline void fetch_result(const block *at, const float *out) {
    for (size_t i = 0; i < at->kernel->rows; i++, out += at->stride) {
        __builtin_prefetch(out, 1);
        __builtin_prefetch(out + at->kernel->columns - 1, 1);
    }
}

static void run_block(const block *at) {
    const tile_kernel *kernel = at->kernel;
    _Alignas(64) float sums[MOST_ROWS * MOST_COLUMNS];
    for (size_t column = 0; column < at->columns; column += kernel->columns) {
        const float *right = at->panels->right + column * at->depth;
        size_t columns = at->columns - column;
        for (size_t row = 0; row < at->rows; row += kernel->rows) {
            float *out = at->out + row * at->stride + column;
            size_t rows = at->rows - row;
            fetch_result(at, out);
            kernel->multiply(at->depth, at->panels->left + row * at->depth, right, sums);
            if (rows >= kernel->rows && columns >= kernel->columns)
                kernel->store(sums, &at->finish, out, at->stride);
            else
                store_part(at, sums, rows < kernel->rows ? rows : kernel->rows,
                           columns < kernel->columns ? columns : kernel->columns, out);
        }
    }
}

/* Rows or columns [start, start + length) of an operand, of depths [depth, depth + depths). */
static operand part_of(ane_matrix matrix, bool left, size_t start, size_t length, size_t depth,
                       size_t depths) {
    bool across = left != matrix.transposed;
    size_t at = across ? start * matrix.stride + depth : depth * matrix.stride + start;
    const char *data = (const char *)matrix.data + at * (matrix.half ? 2 : 4);
    return (operand){data, matrix.stride, matrix.half, across, length, depths};
}

/* As many equal blocks as needed; a multiple of `unit` each. */
static size_t block_size(size_t whole, size_t most, size_t unit) {
    size_t blocks = (whole + most - 1) / most, size = (whole + blocks - 1) / blocks;
    return (size + unit - 1) / unit * unit;
}

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

static void run_depth(const tile_kernel *kernel, panel_memory *panels, const ane_product *product,
                      size_t depth, size_t depths) {
    size_t column_step = block_size(product->n, BLOCK_COLUMNS, kernel->columns);
    size_t row_step = block_size(product->m, BLOCK_ROWS, kernel->rows);
    block at = {.kernel = kernel, .panels = panels, .depth = depths, .stride = product->ldc};
    at.finish = (tile_finish){product->alpha, depth == 0 ? product->beta : 1.0f,
                              product->rounds && depth + depths == product->k};
    for (size_t row = 0; row < product->m; row += row_step) {
        at.rows = least(product->m - row, row_step);
        operand left = part_of(product->a, true, row, at.rows, depth, depths);
        kernel->pack_left(&left, panels->left);
        for (size_t column = 0; column < product->n; column += column_step) {
            at.columns = least(product->n - column, column_step);
            operand right = part_of(product->b, false, column, at.columns, depth, depths);
            kernel->pack_right(&right, panels->right);
            at.out = product->c + row * product->ldc + column;
            run_block(&at);
        }
    }
}

bool ane_tiles_multiply(ane_tiles *tiles, const ane_product *product) {
    panel_memory *panels = take_panels(tiles);
    if (!panels) return false;
    size_t step = block_size(product->k, BLOCK_DEPTH, 1);
    for (size_t depth = 0; depth < product->k; depth += step)
        run_depth(tiles->kernel, panels, product, depth, least(product->k - depth, step));
    give_panels(tiles, panels);
    return true;
}
