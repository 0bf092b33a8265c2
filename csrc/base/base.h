/* base.h: what every C module stands on: the public API, errors, fp16, the thread pool and the
 * matrix product. Section headings name the file that defines each part. */
#pragma once

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The build hides all symbols but those of the public API. */
#pragma GCC visibility push(default)
#include "../ane.h"
#pragma GCC visibility pop

#if defined(__GNUC__)
#define ANE_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define ANE_PRINTF(format_index, first)
#endif

/* Put before a hot function: compiled for three levels of x86-64, chosen when the module is loaded.
 * Bits may differ between machines (fused multiply-add), never between runs on one. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) &&       \
    __GNUC__ >= 12 && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define ANE_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ANE_CLONES
#endif

/* --- error.c ----------------------------------------------------------------------------- */

/* Writes status, position and formatted text (cut to fit) and returns status. A NULL error is
 * allowed. */
ane_status ane_fail(ane_error_info *error, ane_status status, const char *format, ...)
    ANE_PRINTF(3, 4);
ane_status ane_fail_at(ane_error_info *error, ane_status status, size_t line, size_t column,
                       const char *format, ...) ANE_PRINTF(5, 6);
/* a * b and a + b into *out; false on overflow. */
bool ane_size_mul(size_t a, size_t b, size_t *out);
bool ane_size_add(size_t a, size_t b, size_t *out);
/* 64-byte aligned memory, zero-filled; NULL on overflow, when count * size is 0, or when memory is
 * short. */
void *ane_alloc(size_t count, size_t size);
void ane_free(void *memory);

/* --- fp16.c ------------------------------------------------------------------------------ */

uint16_t ane_half_from_float(float value); /* nearest even, subnormals kept, overflow to infinity */
float ane_float_from_half(uint16_t bits);
/* Contiguous arrays; dispatched at run time to F16C / AVX-512 / NEON, equal to the scalars bit for
 * bit. */
void ane_halves_from_floats(size_t n, const float *from, uint16_t *to);
void ane_floats_from_halves(size_t n, const uint16_t *from, float *to);
/* Rounds floats to values that fp16 can hold, in place, kept as floats. */
void ane_round_to_half(size_t n, float *values);
/* The nearest number that bf16 can hold, ties to even; zero for what is subnormal in fp32. */
float ane_round_to_bf16(float value);

/* --- pool.c ------------------------------------------------------------------------------ */

typedef struct ane_pool ane_pool;
typedef void (*ane_task)(void *argument, size_t index);

/* `threads` counts the caller: threads - 1 workers are started. NULL if that fails. */
ane_pool *ane_pool_create(size_t threads);
void ane_pool_free(ane_pool *pool);
size_t ane_pool_threads(const ane_pool *pool);
/* Calls task(argument, 0 .. count - 1), each once, on any free threads and the caller's; returns
 * when all are done. May be called from several threads at a time, not from inside a task. A NULL
 * pool runs in order on the caller. Work is cut by `count` alone, so results do not depend on which
 * thread ran what. */
void ane_pool_run(ane_pool *pool, size_t count, ane_task task, void *argument);
/* Until the mask is set back to *former, threads that start leave all signals to others, but for
 * those that tell of an error of their own. */
void ane_block_signals(sigset_t *former);

/* --- tiles.c ----------------------------------------------------------------------------- */

typedef struct ane_matrix {
    const void *data; /* floats, or fp16 if `half` */
    size_t stride;    /* elements from one row to the next, of the matrix as stored */
    bool transposed;  /* op(A) = stored matrix transposed */
    bool half;
} ane_matrix;

/* C[M, N] = alpha * op(A) op(B) + beta * C; with a beta of 0 C is not read. */
typedef struct ane_product {
    size_t m, n, k;
    float alpha;
    ane_matrix a, b;
    float beta;
    float *c;
    size_t ldc;
    bool rounds;      /* C becomes what fp16 can hold */
    uint16_t *halves; /* of a product that rounds: C as fp16 as well; NULL: not wanted */
    size_t halves_stride;
    size_t piece; /* columns of B and C come in pieces of so many; 0: they lie side by side */
    size_t b_step, c_step; /* elements from one piece to the next */
} ane_product;

typedef struct ane_tiles ane_tiles;

/* bf16: kernels that round factors to it. NULL where there are none for this processor, or no
 * memory. */
ane_tiles *ane_tiles_create(bool bf16);
void ane_tiles_free(ane_tiles *tiles);
const char *ane_tiles_name(const ane_tiles *tiles); /* the instruction set */
/* Whether products with such pieces are multiplied as a whole. */
bool ane_tiles_take_pieces(const ane_tiles *tiles, size_t piece);
/* k > 0. The bits are the same for every number of threads. May be called from several threads at a
 * time, with a NULL pool also from inside a task. Takes less memory, and more time, if it is short.
 */
void ane_tiles_multiply(ane_tiles *tiles, ane_pool *pool, const ane_product *product);

/* --- blas.c ------------------------------------------------------------------------------ */

typedef struct ane_blas ane_blas;

/* dlopen()s the library and finds cblas_sgemm under its known names (cblas_sgemm,
 * scipy_cblas_sgemm); its own threads are set to 1. Where there are tiles for the processor, they
 * take all products but narrow ones. path NULL: the reference, three plain loops with a float
 * accumulator. bf16: factors are rounded to it, by the tiles (which take all products then) or the
 * reference; an error where there are neither. */
ane_status ane_blas_open(const char *path, bool bf16, ane_blas **blas, ane_error_info *error);
void ane_blas_free(ane_blas *blas);
const char *ane_blas_name(const ane_blas *blas);
/* Whether operands may be fp16. */
bool ane_blas_takes_halves(const ane_blas *blas);
/* One product on the calling thread. */
void ane_blas_gemm(const ane_blas *blas, const ane_product *product);
/* The same, cut over the pool by shape alone (columns or rows, whichever is longer), so that the
 * bits are the same for every number of threads. */
void ane_blas_gemm_parallel(const ane_blas *blas, ane_pool *pool, const ane_product *product);
/* Rows [start, start + length) of the product, or columns of one without pieces. */
ane_product ane_product_rows(const ane_product *product, size_t start, size_t length);
ane_product ane_product_columns(const ane_product *product, size_t start, size_t length);
/* All of the product, summed over [start, start + length) of its depth alone. */
ane_product ane_product_depths(const ane_product *product, size_t start, size_t length);

/* --- packed.c ---------------------------------------------------------------------------- */

typedef enum ane_packing { ANE_PACKED_FLOAT, ANE_PACKED_HALF, ANE_PACKED_INT8 } ane_packing;

/* A matrix as it is stored, in rows. */
typedef struct ane_packed {
    ane_packing packing;
    const void *data;
    size_t rows, columns;
    size_t stride;       /* elements from one row to the next */
    const float *scales; /* INT8: the factor of each row */
} ane_packed;

/* y[begin .. end - 1] of y = M x, on the calling thread; a row has the same bits in any range. */
void ane_packed_rows(const ane_packed *matrix, size_t begin, size_t end, const float *x, float *y);
/* y = M x, over the pool. */
void ane_packed_times(ane_pool *pool, const ane_packed *matrix, const float *x, float *y);
/* y = x M of a HALF matrix, on the calling thread. */
void ane_half_rows_sum(const ane_packed *matrix, const float *x, float *y);
/* n elements from (row, column) on as floats, scaled. */
void ane_packed_widen(const ane_packed *matrix, size_t row, size_t column, size_t n, float *to);

/* --- ../engine/context.c ------------------------------------------------------------------ */

struct ane_context {
    ane_options options;             /* the paths are not kept */
    const struct ane_driver *driver; /* of options.engine; see ../engine/driver.h */
    void *engine;                    /* the driver's own */
    ane_pool *pool;
    ane_blas *blas;
    pthread_mutex_t lock; /* guards error, counts, holders and cache_bytes */
    ane_error_info error;
    ane_counts counts;
    size_t holders;             /* the caller who opened it, surfaces, programs and requests */
    size_t cache_bytes;         /* fp32 copies that requests keep; see ane_options.cache_limit */
    pthread_mutex_t evaluation; /* held by the one evaluation that runs */
    void *scratch; /* evaluation memory shared by all programs, grown by the engine, freed with the
                      context */
    size_t scratch_size;
};

/* One holder more; ane_context_free is one less, and the last one closes the context. */
void ane_context_hold(ane_context *context);
/* Keeps the text as the context's last error and returns status. A NULL context is allowed. */
ane_status ane_context_fail(ane_context *context, ane_status status, const char *format, ...)
    ANE_PRINTF(3, 4);
/* Keeps an error that was filled elsewhere and returns its status. A NULL context is allowed. */
ane_status ane_context_keep(ane_context *context, const ane_error_info *error);
