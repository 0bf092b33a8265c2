/* blas.c: the matrix product. A BLAS library is opened at run time and kept on one thread; the pool
 * cuts products at places that depend on the shape alone, so that the thread count does not change
 * a bit. Beside it, tiles.c takes what its kernels are better at. The reference is the definition,
 * and stands in where the library's 32-bit sizes do not suffice. */
#include "base.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111, TRANSPOSE = 112 }; /* of the CBLAS interface */

typedef void cblas_sgemm_function(int order, int transpose_a, int transpose_b, int m, int n, int k,
                                  float alpha, const float *a, int lda, const float *b, int ldb,
                                  float beta, float *c, int ldc);
typedef void set_threads_function(int threads);
typedef char *text_function(void);
typedef int set_threading_function(unsigned threading); /* BLASSetThreading of Accelerate */
#define ACCELERATE_SINGLE_THREADED 1

struct ane_blas {
    void *library; /* NULL: the reference */
    cblas_sgemm_function *sgemm;
    ane_tiles *tiles; /* NULL: none for this processor, or the reference was asked for */
    bool bf16;        /* factors are rounded to it */
    char name[96];
};

/* A symbol under its plain name, or as the wheels of scipy-openblas32 rename it. */
static void *find(void *library, const char *name) {
    char renamed[64];
    snprintf(renamed, sizeof renamed, "scipy_%s", name);
    void *symbol = dlsym(library, renamed);
    return symbol ? symbol : dlsym(library, name);
}

static void use_one_thread(void *library) {
    set_threads_function *set_threads =
        (set_threads_function *)find(library, "openblas_set_num_threads");
    if (set_threads) set_threads(1);
    set_threading_function *set_threading =
        (set_threading_function *)dlsym(library, "BLASSetThreading");
    if (set_threading) set_threading(ACCELERATE_SINGLE_THREADED);
}

/* "OpenBLAS 0.3.34 SkylakeX" where the library tells, else its file name without folder and suffix;
 * " + AVX-512 tiles" follows where there are some. */
static void name_library(ane_blas *blas, const char *path) {
    text_function *config = (text_function *)find(blas->library, "openblas_get_config");
    text_function *core = (text_function *)find(blas->library, "openblas_get_corename");
    char version[32];
    if (config && core && sscanf(config(), "OpenBLAS %31s", version) == 1) {
        snprintf(blas->name, sizeof blas->name, "OpenBLAS %s %s", version, core());
        return;
    }
    const char *slash = strrchr(path, '/');
    const char *file = slash ? slash + 1 : path;
    snprintf(blas->name, sizeof blas->name, "%.*s", (int)strcspn(file, "."), file);
}

static ane_status open_library(ane_blas *blas, const char *path, ane_error_info *error) {
    /* Never unmapped: libraries with threads and fork handlers of their own do not all survive it.
     */
    sigset_t former;
    ane_block_signals(&former);
    blas->library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    pthread_sigmask(SIG_SETMASK, &former, NULL);
    if (!blas->library)
        return ane_fail(error, ANE_ERROR_SYSTEM, "cannot open the BLAS library: %s", dlerror());
    blas->sgemm = (cblas_sgemm_function *)find(blas->library, "cblas_sgemm");
    if (!blas->sgemm)
        return ane_fail(error, ANE_ERROR_SYSTEM, "%s has no cblas_sgemm with 32-bit sizes", path);
    use_one_thread(blas->library);
    name_library(blas, path);
    blas->tiles = ane_tiles_create(blas->bf16);
    if (blas->bf16 && !blas->tiles)
        return ane_fail(error, ANE_ERROR_MISSING,
                        "numerics bf16 need AVX512-BF16, which this processor lacks; "
                        "use fp16");
    size_t length = strlen(blas->name);
    if (blas->tiles)
        snprintf(blas->name + length, sizeof blas->name - length, " + %s tiles",
                 ane_tiles_name(blas->tiles));
    return ANE_OK;
}

ane_status ane_blas_open(const char *path, bool bf16, ane_blas **blas, ane_error_info *error) {
    *blas = NULL;
    ane_blas *opened = ane_alloc(1, sizeof *opened);
    if (!opened) return ane_fail(error, ANE_ERROR_MEMORY, "no memory for the BLAS handle");
    opened->bf16 = bf16;
    ane_status status = ANE_OK;
    if (path)
        status = open_library(opened, path, error);
    else
        snprintf(opened->name, sizeof opened->name, "reference");
    if (status != ANE_OK) {
        ane_blas_free(opened);
        return status;
    }
    *blas = opened;
    return ANE_OK;
}

void ane_blas_free(ane_blas *blas) {
    if (!blas) return;
    ane_tiles_free(blas->tiles);
    if (blas->library) dlclose(blas->library);
    ane_free(blas);
}

const char *ane_blas_name(const ane_blas *blas) {
    return blas->name;
}

bool ane_blas_takes_halves(const ane_blas *blas) {
    return blas->tiles != NULL;
}

/* --- the reference --- */

static float element(ane_matrix matrix, size_t row, size_t column) {
    const float *data = matrix.data;
    return matrix.transposed ? data[column * matrix.stride + row]
                             : data[row * matrix.stride + column];
}

#define REFERENCE_COLUMNS 64

/* One row by up to 64 columns: sums[j] += a[row, i] * b[i, column + j], in the order of i. */
static void reference_sums(const ane_product *product, size_t row, size_t column, size_t columns,
                           float *sums) {
    ane_matrix b = product->b;
    const float *data = b.data;
    size_t k = product->alpha == 0.0f ? 0 : product->k; /* BLAS does not read the operands then */
    for (size_t i = 0; i < k; i++) {
        float left = element(product->a, row, i);
        if (b.transposed)
            for (size_t j = 0; j < columns; j++)
                sums[j] += left * data[(column + j) * b.stride + i];
        else
            for (size_t j = 0; j < columns; j++) sums[j] += left * data[i * b.stride + column + j];
    }
}

/* The same of factors that are rounded to bf16. */
static void reference_sums_bf16(const ane_product *product, size_t row, size_t column,
                                size_t columns, float *sums) {
    size_t k = product->alpha == 0.0f ? 0 : product->k;
    for (size_t i = 0; i < k; i++) {
        float left = ane_round_to_bf16(element(product->a, row, i));
        for (size_t j = 0; j < columns; j++)
            sums[j] += left * ane_round_to_bf16(element(product->b, i, column + j));
    }
}

static void reference_gemm(const ane_product *product, bool bf16) {
    float alpha = product->alpha, beta = product->beta;
    for (size_t row = 0; row < product->m; row++) {
        for (size_t column = 0; column < product->n; column += REFERENCE_COLUMNS) {
            size_t left = product->n - column;
            size_t columns = left < REFERENCE_COLUMNS ? left : REFERENCE_COLUMNS;
            float sums[REFERENCE_COLUMNS] = {0};
            (bf16 ? reference_sums_bf16 : reference_sums)(product, row, column, columns, sums);
            float *out = product->c + row * product->ldc + column;
            for (size_t j = 0; j < columns; j++)
                out[j] = alpha * sums[j] + (beta == 0.0f ? 0.0f : beta * out[j]);
        }
    }
}

/* --- one product --- */

/* The library wants leading dimensions of at least the row length, even where there is one row. */
static bool leading_dimension(size_t rows, size_t columns, size_t stride, int *leading) {
    size_t wanted = rows == 1 ? columns : stride;
    *leading = wanted > INT_MAX ? 0 : (int)wanted;
    return rows <= INT_MAX && columns <= INT_MAX && wanted <= INT_MAX && wanted >= columns;
}

static bool operand_leading(size_t rows, size_t columns, ane_matrix matrix, int *leading) {
    return matrix.transposed ? leading_dimension(columns, rows, matrix.stride, leading)
                             : leading_dimension(rows, columns, matrix.stride, leading);
}

static void library_gemm(const ane_blas *blas, const ane_product *product) {
    size_t m = product->m, n = product->n, k = product->k;
    ane_matrix a = product->a, b = product->b;
    int lda, ldb, ldc;
    bool fits = operand_leading(m, k, a, &lda) && operand_leading(k, n, b, &ldb) &&
                leading_dimension(m, n, product->ldc, &ldc);
    if (blas->sgemm && k > 0 && fits)
        blas->sgemm(ROW_MAJOR, a.transposed ? TRANSPOSE : NO_TRANSPOSE,
                    b.transposed ? TRANSPOSE : NO_TRANSPOSE, (int)m, (int)n, (int)k, product->alpha,
                    a.data, lda, b.data, ldb, product->beta, product->c, ldc);
    else
        reference_gemm(product, blas->bf16);
    for (size_t row = 0; product->rounds && row < m; row++) {
        float *out = product->c + row * product->ldc;
        ane_round_to_half(n, out);
        if (product->halves)
            ane_halves_from_floats(n, out, product->halves + row * product->halves_stride);
    }
}

/* Of narrower products, tiles would compute more that nobody wants. */
#define TILES_ROWS 8
#define TILES_COLUMNS 16

static bool tiles_take(const ane_blas *blas, const ane_product *product) {
    bool half = product->a.half || product->b.half;
    bool suits = product->m >= TILES_ROWS && product->n >= TILES_COLUMNS;
    return blas->tiles && product->k > 0 && product->alpha != 0.0f && (suits || half || blas->bf16);
}

/* A library knows no pieces, and tiles none that end within a tile. */
static bool falls_apart(const ane_blas *blas, const ane_product *product) {
    return product->piece && product->piece < product->n &&
           !(tiles_take(blas, product) && ane_tiles_take_pieces(blas->tiles, product->piece));
}

/* The columns of the piece that begins at `start`. */
static ane_product piece_at(const ane_product *product, size_t start) {
    size_t index = start / product->piece, left = product->n - start;
    ane_product part = *product;
    part.piece = 0;
    part.n = left < product->piece ? left : product->piece;
    part.b.data =
        (const char *)product->b.data + index * product->b_step * (product->b.half ? 2 : 4);
    part.c += index * product->c_step;
    if (part.halves) part.halves += start;
    return part;
}

void ane_blas_gemm(const ane_blas *blas, const ane_product *product) {
    if (product->m == 0 || product->n == 0) return;
    if (falls_apart(blas, product)) {
        for (size_t start = 0; start < product->n; start += product->piece) {
            ane_product part = piece_at(product, start);
            ane_blas_gemm(blas, &part);
        }
        return;
    }
    if (tiles_take(blas, product))
        ane_tiles_multiply(blas->tiles, NULL, product);
    else
        library_gemm(blas, product);
}

/* --- cut over the pool --- */

static ane_matrix from_row(ane_matrix matrix, size_t row) {
    size_t at = matrix.transposed ? row : row * matrix.stride;
    matrix.data = (const char *)matrix.data + at * (matrix.half ? 2 : 4);
    return matrix;
}

ane_product ane_product_rows(const ane_product *product, size_t start, size_t length) {
    ane_product part = *product;
    part.m = length;
    part.a = from_row(product->a, start);
    part.c += start * product->ldc;
    if (part.halves) part.halves += start * product->halves_stride;
    return part;
}

static ane_matrix from_column(ane_matrix matrix, size_t column) {
    matrix.transposed = !matrix.transposed; /* its columns are rows then */
    matrix = from_row(matrix, column);
    matrix.transposed = !matrix.transposed;
    return matrix;
}

ane_product ane_product_columns(const ane_product *product, size_t start, size_t length) {
    ane_product part = *product;
    part.n = length;
    part.b = from_column(product->b, start);
    part.c += start;
    if (part.halves) part.halves += start;
    return part;
}

ane_product ane_product_depths(const ane_product *product, size_t start, size_t length) {
    ane_product part = *product;
    part.k = length;
    part.a = from_column(product->a, start);
    part.b = from_row(product->b, start);
    return part;
}

typedef struct gemm_cut {
    const ane_blas *blas;
    const ane_product *product;
    bool by_rows;
    size_t step; /* rows or columns of one piece */
} gemm_cut;

static void gemm_piece(void *argument, size_t index) {
    const gemm_cut *cut = argument;
    size_t start = index * cut->step;
    size_t left = (cut->by_rows ? cut->product->m : cut->product->n) - start;
    size_t length = left < cut->step ? left : cut->step;
    ane_product part = cut->by_rows ? ane_product_rows(cut->product, start, length)
                                    : ane_product_columns(cut->product, start, length);
    ane_blas_gemm(cut->blas, &part);
}

#define CUT_UNIT 64    /* a multiple of every kernel's tile */
#define CUT_LENGTH 256 /* of a piece: shorter ones cost more to pack than they save */
#define CUT_FEW 4      /* pieces for all that is not small */
#define CUT_MOST 16
#define CUT_WORTH 3e5 /* products of one piece that are worth a piece of their own */

/* Rows or columns of a piece: the same for every thread count. */
static size_t cut_step(size_t longer, size_t shorter, size_t k) {
    double work = (double)longer * (double)shorter * (double)k / CUT_WORTH;
    size_t pieces = longer / CUT_LENGTH;
    if (pieces < CUT_FEW) pieces = CUT_FEW;
    if (pieces > CUT_MOST) pieces = CUT_MOST;
    if (work < (double)pieces) pieces = (size_t)work;
    if (pieces < 2) return longer;
    size_t step = (longer + pieces - 1) / pieces;
    return (step + CUT_UNIT - 1) / CUT_UNIT * CUT_UNIT;
}

void ane_blas_gemm_parallel(const ane_blas *blas, ane_pool *pool, const ane_product *product) {
    size_t m = product->m, n = product->n;
    if (m == 0 || n == 0) return;
    if (falls_apart(blas, product)) {
        for (size_t start = 0; start < n; start += product->piece) {
            ane_product part = piece_at(product, start);
            ane_blas_gemm_parallel(blas, pool, &part);
        }
        return;
    }
    if (tiles_take(blas, product)) {
        ane_tiles_multiply(blas->tiles, pool, product);
        return;
    }
    gemm_cut cut = {blas, product, m > n, 0};
    size_t longer = m > n ? m : n;
    cut.step = cut_step(longer, m > n ? n : m, product->k);
    ane_pool_run(pool, (longer + cut.step - 1) / cut.step, gemm_piece, &cut);
}
