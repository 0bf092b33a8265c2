/* packed.c: matrices that stay in the form in which they are stored, fp16 or int8, times a vector.
 * Such a product reads each weight once, so bytes are what it costs. fp16 weights are widened in
 * registers and multiplied in fp32. int8 weights meet the vector as 16-bit integers: stretches of
 * 256 elements with a scale each, whose largest element is 32767, so that the error is less than
 * 2^-16 of that, far below the rounding of fp16; sums of integers are exact. All sums have a fixed
 * order, so the bits are the same for every kernel and any number of threads. */
#include "base.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define LANES 32               /* partial sums of a row */
#define GROUP 4                /* rows that share the loads of the vector */
#define STRETCH 256            /* int8: elements of the vector with one scale */
#define STRETCHES 8            /* int8: that are made into integers at a time */
#define BUFFER 1024            /* elements that are widened at a time */
#define TASK ((size_t)1 << 16) /* elements of a task of the pool */

static float sum_lanes(float *lanes) {
    for (size_t width = LANES / 2; width > 0; width /= 2)
        for (size_t i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
}

/* --- floats --- */

ANE_CLONES
static void add_products(size_t n, const float *restrict row, const float *restrict x,
                         float *restrict lanes) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) lanes[j] += row[i + j] * x[i + j];
    for (size_t j = 0; i + j < n; j++) lanes[j] += row[i + j] * x[i + j];
}

static void float_rows(const ane_packed *matrix, size_t begin, size_t end, const float *x,
                       float *y) {
    for (size_t row = begin; row < end; row++) {
        float lanes[LANES] = {0};
        add_products(matrix->columns, (const float *)matrix->data + row * matrix->stride, x, lanes);
        y[row] = sum_lanes(lanes);
    }
}

/* --- halves --- */

static void half_rows_portable(const ane_packed *matrix, size_t begin, size_t end, const float *x,
                               float *y) {
    float widened[BUFFER];
    for (size_t row = begin; row < end; row++) {
        const uint16_t *from = (const uint16_t *)matrix->data + row * matrix->stride;
        float lanes[LANES] = {0};
        for (size_t start = 0; start < matrix->columns; start += BUFFER) {
            size_t left = matrix->columns - start, n = left < BUFFER ? left : BUFFER;
            ane_floats_from_halves(n, from + start, widened);
            add_products(n, widened, x + start, lanes);
        }
        y[row] = sum_lanes(lanes);
    }
}

#if defined(__x86_64__)

#define AVX512 __attribute__((target("avx512f,avx2,f16c")))
#define AVX2 __attribute__((target("avx2,f16c")))

/* The last columns, and the sums of GROUP rows. */
static void finish_rows(const uint16_t *const *rows, size_t from, size_t columns, const float *x,
                        float (*lanes)[LANES], float *sums) {
    for (size_t k = 0; k < GROUP; k++) {
        for (size_t i = from; i < columns; i++)
            lanes[k][i - from] += ane_float_from_half(rows[k][i]) * x[i];
        sums[k] = sum_lanes(lanes[k]);
    }
}

AVX512 static void half_group_avx512(const uint16_t *const *rows, size_t columns, const float *x,
                                     float *sums) {
    __m512 low[GROUP], high[GROUP];
    for (size_t k = 0; k < GROUP; k++) low[k] = high[k] = _mm512_setzero_ps();
    size_t i = 0;
    for (; i + LANES <= columns; i += LANES) {
        __m512 first = _mm512_loadu_ps(x + i), second = _mm512_loadu_ps(x + i + 16);
        for (size_t k = 0; k < GROUP; k++) {
            const __m256i *at = (const __m256i *)(rows[k] + i);
            __m512 a = _mm512_cvtph_ps(_mm256_loadu_si256(at));
            __m512 b = _mm512_cvtph_ps(_mm256_loadu_si256(at + 1));
            low[k] = _mm512_add_ps(low[k], _mm512_mul_ps(a, first));
            high[k] = _mm512_add_ps(high[k], _mm512_mul_ps(b, second));
        }
    }
    float lanes[GROUP][LANES];
    for (size_t k = 0; k < GROUP; k++) {
        _mm512_storeu_ps(lanes[k], low[k]);
        _mm512_storeu_ps(lanes[k] + 16, high[k]);
    }
    finish_rows(rows, i, columns, x, lanes, sums);
}

AVX2 static void half_group_avx2(const uint16_t *const *rows, size_t columns, const float *x,
                                 float *sums) {
    float lanes[GROUP][LANES];
    size_t whole = columns / LANES * LANES;
    for (size_t k = 0; k < GROUP; k++) {
        __m256 total[4];
        for (size_t j = 0; j < 4; j++) total[j] = _mm256_setzero_ps();
        for (size_t i = 0; i < whole; i += LANES)
            for (size_t j = 0; j < 4; j++) {
                const __m128i *at = (const __m128i *)(rows[k] + i + 8 * j);
                __m256 a = _mm256_cvtph_ps(_mm_loadu_si128(at));
                total[j] =
                    _mm256_add_ps(total[j], _mm256_mul_ps(a, _mm256_loadu_ps(x + i + 8 * j)));
            }
        for (size_t j = 0; j < 4; j++) _mm256_storeu_ps(lanes[k] + 8 * j, total[j]);
    }
    finish_rows(rows, whole, columns, x, lanes, sums);
}

static void half_rows(const ane_packed *matrix, size_t begin, size_t end, const float *x,
                      float *y) {
    bool wide = __builtin_cpu_supports("avx512f"), any = __builtin_cpu_supports("avx2");
    if (!any) {
        half_rows_portable(matrix, begin, end, x, y);
        return;
    }
    for (size_t row = begin; row < end; row += GROUP) {
        const uint16_t *rows[GROUP];
        float sums[GROUP];
        size_t count = end - row < GROUP ? end - row : GROUP;
        for (size_t k = 0; k < GROUP; k++) {
            size_t of = row + (k < count ? k : count - 1);
            rows[k] = (const uint16_t *)matrix->data + of * matrix->stride;
        }
        if (wide)
            half_group_avx512(rows, matrix->columns, x, sums);
        else
            half_group_avx2(rows, matrix->columns, x, sums);
        memcpy(y + row, sums, count * sizeof *sums);
    }
}

#else

static void half_rows(const ane_packed *matrix, size_t begin, size_t end, const float *x,
                      float *y) {
    half_rows_portable(matrix, begin, end, x, y);
}

#endif

/* --- int8 --- */

/* Up to STRETCHES * STRETCH elements of the vector as integers. */
typedef struct stretches {
    _Alignas(64) int16_t values[STRETCHES * STRETCH];
    float scales[STRETCHES];
} stretches;

/* A stretch that is not finite has the scale NaN. Halves go to the even neighbour. */
ANE_CLONES
static void make_integers(size_t n, const float *x, stretches *out) {
    memset(out->values, 0, sizeof out->values);
    for (size_t s = 0; s * STRETCH < n; s++) {
        size_t start = s * STRETCH, length = n - start < STRETCH ? n - start : STRETCH;
        float largest = 0.0f, sum = 0.0f;
        for (size_t i = start; i < start + length; i++) {
            float magnitude = fabsf(x[i]);
            largest = magnitude > largest ? magnitude : largest;
        }
        for (size_t i = start; i < start + length; i++) sum += x[i] * 0.0f; /* 0, or NaN */
        bool scaled = largest > 0x1p-100f && sum == 0.0f;
        float inverse = scaled ? 32767.0f / largest : 0.0f;
        out->scales[s] = sum == 0.0f ? largest / 32767.0f : NAN;
        for (size_t i = start; scaled && i < start + length; i++) {
            float rounded = (x[i] * inverse + 12582912.0f) - 12582912.0f;
            out->values[i] = (int16_t)(int32_t)rounded;
        }
    }
}

ANE_CLONES
static int32_t integer_dot(size_t n, const int8_t *restrict row, const int16_t *restrict x) {
    int32_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += (int32_t)row[i] * x[i];
    return sum;
}

typedef struct integer_rows {
    const int8_t *rows[GROUP];
    const int16_t *x;
} integer_rows;

static void dots_portable(const integer_rows *given, size_t n, int32_t *sums) {
    for (size_t k = 0; k < GROUP; k++) sums[k] = integer_dot(n, given->rows[k], given->x);
}

#if defined(__x86_64__)

#define AVX512BW __attribute__((target("avx512bw,avx512f,avx2")))

AVX512BW static void dots_avx512(const integer_rows *given, size_t n, int32_t *sums) {
    __m512i total[GROUP];
    for (size_t k = 0; k < GROUP; k++) total[k] = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m512i x = _mm512_loadu_si512(given->x + i);
        for (size_t k = 0; k < GROUP; k++) {
            const __m256i *at = (const __m256i *)(given->rows[k] + i);
            __m512i row = _mm512_cvtepi8_epi16(_mm256_loadu_si256(at));
            total[k] = _mm512_add_epi32(total[k], _mm512_madd_epi16(row, x));
        }
    }
    for (size_t k = 0; k < GROUP; k++) {
        sums[k] = _mm512_reduce_add_epi32(total[k]);
        for (size_t j = i; j < n; j++) sums[k] += (int32_t)given->rows[k][j] * given->x[j];
    }
}

static void integer_dots(const integer_rows *given, size_t n, int32_t *sums) {
    if (__builtin_cpu_supports("avx512bw"))
        dots_avx512(given, n, sums);
    else
        dots_portable(given, n, sums);
}

#else

static void integer_dots(const integer_rows *given, size_t n, int32_t *sums) {
    dots_portable(given, n, sums);
}

#endif

/* Adds what the columns from `start` on give to GROUP rows, `count` of which are wanted. */
static void add_stretches(const ane_packed *matrix, size_t row, size_t count, size_t start,
                          const stretches *x, float *y) {
    size_t left = matrix->columns - start;
    for (size_t s = 0; s < STRETCHES && s * STRETCH < left; s++) {
        integer_rows given = {.x = x->values + s * STRETCH};
        int32_t sums[GROUP];
        size_t n = left - s * STRETCH < STRETCH ? left - s * STRETCH : STRETCH;
        for (size_t k = 0; k < GROUP; k++) {
            size_t of = row + (k < count ? k : count - 1);
            given.rows[k] =
                (const int8_t *)matrix->data + of * matrix->stride + start + s * STRETCH;
        }
        integer_dots(&given, n, sums);
        for (size_t k = 0; k < count; k++) y[row + k] += (float)sums[k] * x->scales[s];
    }
}

static void int8_rows(const ane_packed *matrix, size_t begin, size_t end, const float *x,
                      float *y) {
    stretches integers;
    for (size_t row = begin; row < end; row++) y[row] = 0.0f;
    for (size_t start = 0; start < matrix->columns; start += STRETCHES * STRETCH) {
        size_t left = matrix->columns - start, most = STRETCHES * STRETCH;
        make_integers(left < most ? left : most, x + start, &integers);
        for (size_t row = begin; row < end; row += GROUP) {
            size_t count = end - row < GROUP ? end - row : GROUP;
            add_stretches(matrix, row, count, start, &integers, y);
        }
    }
    for (size_t row = begin; row < end; row++) y[row] *= matrix->scales[row];
}

/* --- any --- */

void ane_packed_rows(const ane_packed *matrix, size_t begin, size_t end, const float *x, float *y) {
    switch (matrix->packing) {
    case ANE_PACKED_FLOAT:
        float_rows(matrix, begin, end, x, y);
        break;
    case ANE_PACKED_HALF:
        half_rows(matrix, begin, end, x, y);
        break;
    case ANE_PACKED_INT8:
        int8_rows(matrix, begin, end, x, y);
        break;
    }
}

typedef struct product {
    const ane_packed *matrix;
    const float *x;
    float *y;
    size_t rows; /* of a task */
} product;

static void run_rows(void *argument, size_t index) {
    const product *job = argument;
    size_t begin = index * job->rows, left = job->matrix->rows - begin;
    size_t end = begin + (left < job->rows ? left : job->rows);
    ane_packed_rows(job->matrix, begin, end, job->x, job->y);
}

void ane_packed_times(ane_pool *pool, const ane_packed *matrix, const float *x, float *y) {
    product job = {matrix, x, y, GROUP};
    if (matrix->columns) job.rows += TASK / matrix->columns / GROUP * GROUP;
    ane_pool_run(pool, (matrix->rows + job.rows - 1) / job.rows, run_rows, &job);
}

ANE_CLONES
static void add_row(size_t n, float factor, const float *restrict row, float *restrict y) {
    for (size_t i = 0; i < n; i++) y[i] += factor * row[i];
}

void ane_half_rows_sum(const ane_packed *matrix, const float *x, float *y) {
    float widened[BUFFER];
    memset(y, 0, matrix->columns * sizeof *y);
    for (size_t start = 0; start < matrix->columns; start += BUFFER) {
        size_t left = matrix->columns - start, n = left < BUFFER ? left : BUFFER;
        for (size_t row = 0; row < matrix->rows; row++) {
            const uint16_t *from = (const uint16_t *)matrix->data + row * matrix->stride + start;
            ane_floats_from_halves(n, from, widened);
            add_row(n, x[row], widened, y + start);
        }
    }
}

ANE_CLONES
static void floats_from_bytes(size_t n, const int8_t *from, float scale, float *to) {
    for (size_t i = 0; i < n; i++) to[i] = scale * (float)from[i];
}

void ane_packed_widen(const ane_packed *matrix, size_t row, size_t column, size_t n, float *to) {
    size_t at = row * matrix->stride + column;
    if (matrix->packing == ANE_PACKED_HALF)
        ane_floats_from_halves(n, (const uint16_t *)matrix->data + at, to);
    else if (matrix->packing == ANE_PACKED_INT8)
        floats_from_bytes(n, (const int8_t *)matrix->data + at, matrix->scales[row], to);
    else
        memcpy(to, (const float *)matrix->data + at, n * sizeof *to);
}
