/* numeric.h: the scalar definitions of elementwise functions and of sums. Both evaluators use them,
 * so equal inputs give equal bits. They are free of branches on data where loops over them should
 * be vectorised; nothing here calls libm but sqrt. Errors are below 3 units in the last place. */
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../base/base.h"

static inline uint32_t mil_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float mil_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* 2^n for -126 <= n <= 127. */
static inline float mil_power_of_two(int32_t n) {
    return mil_float((uint32_t)(n + 127) << 23);
}

#define MIL_ROUNDER 12582912.0f /* 1.5 * 2^23: adding it rounds a small float to an integer */

/* e^x = 2^n e^r with |r| <= ln(2)/2; the polynomial for e^r is the one of Cephes' expf. */
static inline float mil_exp(float x) {
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    float shifted = x * 1.44269504088896341f + MIL_ROUNDER;
    float n = shifted - MIL_ROUNDER;
    int32_t exponent = (int32_t)(mil_bits(shifted) - mil_bits(MIL_ROUNDER));
    float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    float power = (p * (r * r) + r) + 1.0f;
    /* In two factors, each a normal number: the product may overflow or be subnormal. */
    exponent = exponent > 200 ? 200 : exponent; /* whatever a NaN has left here */
    exponent = exponent < -200 ? -200 : exponent;
    int32_t half = exponent / 2;
    return (power * mil_power_of_two(half)) * mil_power_of_two(exponent - half);
}

/* ln(x) = ln(m) + n ln(2) with sqrt(1/2) <= m < sqrt(2); the polynomial is the one of Cephes' logf.
 */
static inline float mil_log(float x) {
    float scaled = x < 0x1p-126f ? x * 0x1p23f : x;
    float lowered = x < 0x1p-126f ? -23.0f : 0.0f;
    uint32_t bits = mil_bits(scaled);
    float m = mil_float((bits & 0x007fffffu) | 0x3f000000u);
    float n = (float)((int32_t)(bits >> 23 & 0xffu) - 126) + lowered;
    n = m < 0.707106781186547524f ? n - 1.0f : n;
    float r = (m < 0.707106781186547524f ? m + m : m) - 1.0f;
    float square = r * r;
    float p = 7.0376836292e-2f;
    p = p * r - 1.1514610310e-1f;
    p = p * r + 1.1676998740e-1f;
    p = p * r - 1.2420140846e-1f;
    p = p * r + 1.4249322787e-1f;
    p = p * r - 1.6668057665e-1f;
    p = p * r + 2.0000714765e-1f;
    p = p * r - 2.4999993993e-1f;
    p = p * r + 3.3333331174e-1f;
    float y = p * r * square + n * -2.12194440e-4f;
    y = y - 0.5f * square;
    float result = (r + y) + n * 0.693359375f;
    result = x == 0.0f ? -INFINITY : result;
    result = x < 0.0f ? NAN : result;
    return x < INFINITY ? result : x; /* infinity, or NaN as it came */
}

/* From e^-|x|, so that neither end loses digits. */
static inline float mil_sigmoid(float x) {
    float e = mil_exp(x < 0.0f ? x : -x);
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

static inline float mil_silu(float x) {
    return x * mil_sigmoid(x);
}

/* Cephes' tanhf: a polynomial near zero, exponentials elsewhere. */
static inline float mil_tanh(float x) {
    float magnitude = fabsf(x);
    float far = 1.0f - 2.0f / (mil_exp(2.0f * magnitude) + 1.0f);
    float square = x * x;
    float p = -5.70498872745e-3f;
    p = p * square + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    float near = p * square * x + x;
    return magnitude < 0.625f ? near : copysignf(far, x);
}

/* log2 of a positive finite double, to about 1e-13, by the series of the inverse hyperbolic
 * tangent. */
static inline double mil_log2_double(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    double n = (double)((int64_t)(bits >> 52) - 1022);
    bits = (bits & 0x000fffffffffffffu) | 0x3fe0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m < 0.70710678118654752) {
        m += m;
        n -= 1.0;
    }
    double s = (m - 1.0) / (m + 1.0), square = s * s, sum = 0.0;
    for (int i = 17; i >= 1; i -= 2) sum = sum * square + 1.0 / i;
    return n + 2.8853900817779268 * s * sum;
}

/* 2^x, to about 1e-14. */
static inline double mil_exp2_double(double x) {
    x = x > 1000.0 ? 1000.0 : x < -1000.0 ? -1000.0 : x;
    double n = floor(x + 0.5), r = (x - n) * 0.69314718055994531, sum = 1.0;
    for (int i = 12; i >= 1; i--) sum = 1.0 + sum * r / i;
    uint64_t bits = (uint64_t)((int64_t)n + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return sum * power;
}

/* x^y with the special values of C's pow. */
static inline float mil_pow_any(float x, float y) {
    if (y == 0.0f || x == 1.0f) return 1.0f;
    if (isnan(x) || isnan(y)) return NAN;
    bool whole = floorf(y) == y, odd = whole && fabsf(y) < 0x1p24f && fmodf(y, 2.0f) != 0.0f;
    float magnitude = fabsf(x), sign = odd ? copysignf(1.0f, x) : 1.0f;
    if (magnitude == 1.0f && (isinf(y) || whole)) return sign;
    if (magnitude == 0.0f || isinf(x))
        return sign * ((magnitude == 0.0f) == (y > 0.0f) ? 0.0f : INFINITY);
    if (isinf(y)) return (magnitude > 1.0f) == (y > 0.0f) ? INFINITY : 0.0f;
    if (x < 0.0f && !whole) return NAN;
    return sign * (float)mil_exp2_double((double)y * mil_log2_double(magnitude));
}

/* The exponents of RMSNorm and the like get by with exact operations, which vectorise. */
static inline float mil_pow(float x, float y) {
    if (y == 2.0f) return x * x;
    if (y == 1.0f) return x;
    if (y == -0.5f) return 1.0f / sqrtf(x + 0.0f); /* the sum makes a negative zero positive */
    if (y == 0.5f) return sqrtf(x + 0.0f);
    return mil_pow_any(x, y);
}

static inline float mil_maximum(float a, float b) {
    return a > b || a != a ? a : b;
}

static inline float mil_minimum(float a, float b) {
    return a < b || a != a ? a : b;
}

/* Integers wrap, and division never traps: x / 0 is 0. */
static inline int32_t mil_int_add(int32_t a, int32_t b) {
    return (int32_t)((uint32_t)a + (uint32_t)b);
}

static inline int32_t mil_int_sub(int32_t a, int32_t b) {
    return (int32_t)((uint32_t)a - (uint32_t)b);
}

static inline int32_t mil_int_mul(int32_t a, int32_t b) {
    return (int32_t)((uint32_t)a * (uint32_t)b);
}

static inline int32_t mil_int_div(int32_t a, int32_t b) {
    if (b == 0) return 0;
    return b == -1 ? mil_int_sub(0, a) : a / b;
}

static inline int32_t mil_int_pow(int32_t a, int32_t b) {
    if (b < 0) return a == 1 ? 1 : a == -1 ? (b % 2 ? -1 : 1) : 0;
    int32_t result = 1;
    for (; b > 0; b >>= 1, a = mil_int_mul(a, a))
        if (b & 1) result = mil_int_mul(result, a);
    return result;
}

/* Towards zero, saturated to [low, high]; NaN gives 0. The limits are integers that a float holds,
 * or that round away from zero (those of int32). */
static inline int32_t mil_int_from_float(float x, float low, float high) {
    if (!(x == x)) return 0;
    if (x <= low) return low <= -2147483648.0f ? INT32_MIN : (int32_t)low;
    if (x >= high) return high >= 2147483648.0f ? INT32_MAX : (int32_t)high;
    return (int32_t)x;
}

/* clip(round(x / scale) + zero): halves go to the even neighbour. */
static inline int32_t mil_quantize(float x, float scale, int32_t zero, float low, float high) {
    float ratio = x / scale;
    float rounded = fabsf(ratio) < 4194304.0f ? (ratio + MIL_ROUNDER) - MIL_ROUNDER : ratio;
    return mil_int_from_float(rounded + (float)zero, low, high);
}

/* The measured defect of a slice on the last axis: beyond 4094 there is infinity. */
static inline float mil_saturate(float x, float limit) {
    return fabsf(x) > limit ? copysignf(INFINITY, x) : x;
}

#define MIL_LANES 16

typedef float mil_lanes __attribute__((vector_size(MIL_LANES * sizeof(float))));

/* The definition of a sum: 16 interleaved partial sums, added pairwise. */
static inline void mil_add_lanes(size_t n, const float *x, float *lane) {
    mil_lanes total;
    memcpy(&total, lane, sizeof total);
    size_t i = 0;
    for (; i + MIL_LANES <= n; i += MIL_LANES) {
        mil_lanes next;
        memcpy(&next, x + i, sizeof next);
        total += next;
    }
    memcpy(lane, &total, sizeof total);
    for (size_t j = 0; i + j < n; j++) lane[j] += x[i + j];
}

static inline float mil_sum_lanes(float *lane) {
    for (size_t width = MIL_LANES / 2; width > 0; width /= 2)
        for (size_t j = 0; j < width; j++) lane[j] += lane[j + width];
    return lane[0];
}

static inline float mil_sum(size_t n, const float *x) {
    float lane[MIL_LANES] = {0};
    mil_add_lanes(n, x, lane);
    return mil_sum_lanes(lane);
}

/* NaN if there is one. */
static inline float mil_largest(size_t n, const float *x) {
    float lane[MIL_LANES];
    for (size_t j = 0; j < MIL_LANES; j++) lane[j] = x[j < n ? j : 0];
    size_t i = 0;
    for (; i + MIL_LANES <= n; i += MIL_LANES)
        for (size_t j = 0; j < MIL_LANES; j++) lane[j] = mil_maximum(lane[j], x[i + j]);
    for (; i < n; i++) lane[0] = mil_maximum(lane[0], x[i]);
    for (size_t j = 1; j < MIL_LANES; j++) lane[0] = mil_maximum(lane[0], lane[j]);
    return lane[0];
}

static inline void mil_softmax(size_t n, float *x) {
    float largest = mil_largest(n, x);
    for (size_t i = 0; i < n; i++) x[i] = mil_exp(x[i] - largest);
    float inverse = 1.0f / mil_sum(n, x);
    for (size_t i = 0; i < n; i++) x[i] *= inverse;
}

/* Row functions from x to y, n elements each, that do not overlap. */
static inline void mil_softmax_row(size_t n, const float *x, float *y) {
    float largest = mil_largest(n, x);
    for (size_t i = 0; i < n; i++) y[i] = mil_exp(x[i] - largest);
    float inverse = 1.0f / mil_sum(n, y);
    for (size_t i = 0; i < n; i++) y[i] *= inverse;
}

/* gamma and beta may be NULL. */
static inline void mil_layer_norm_row(size_t n, const float *x, const float *gamma,
                                      const float *beta, float epsilon, float *y) {
    float mean = mil_sum(n, x) / (float)n;
    for (size_t i = 0; i < n; i++) y[i] = (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf(mil_sum(n, y) / (float)n + epsilon);
    for (size_t i = 0; i < n; i++) y[i] = (x[i] - mean) * scale;
    for (size_t i = 0; gamma && i < n; i++) y[i] *= gamma[i];
    for (size_t i = 0; beta && i < n; i++) y[i] += beta[i];
}
