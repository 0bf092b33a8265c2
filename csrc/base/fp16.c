/* fp16.c: conversions between IEEE binary16 and binary32, rounding to nearest even; also to bf16.
 * The scalar
 * functions are the definition; every array function gives the same bits. NaNs come out quiet with
 * the upper bits of their payload, as the conversion instructions of x86 and ARM do it. */
#include "base.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define FLOAT_INFINITY 0x7f800000u
#define FLOAT_QUIET 0x00400000u
#define LEAST_NORMAL_FLOAT 0x00800000u
#define HALF_INFINITY 0x7c00u
#define HALF_QUIET 0x0200u
#define EXPONENT_SHIFT 13                      /* bits of fraction that fp16 lacks */
#define BIAS_DIFFERENCE ((127u - 15u) << 23)   /* of the exponents, in place for fp32 */
#define LEAST_NORMAL_HALF (113u << 23)         /* 2^-14 as fp32 bits */
#define FIRST_BEYOND_HALF ((127u + 16u) << 23) /* 2^16 as fp32 bits */

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint16_t ane_half_from_float(float value) {
    uint32_t bits = bits_of(value);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > FLOAT_INFINITY)
        return (uint16_t)(sign | HALF_INFINITY | HALF_QUIET |
                          (magnitude >> EXPONENT_SHIFT & 0x3ffu));
    if (magnitude >= FIRST_BEYOND_HALF) return (uint16_t)(sign | HALF_INFINITY);
    if (magnitude < LEAST_NORMAL_HALF) {
        /* The unit in the last place of 0.5f is that of a subnormal half, 2^-24: the addition
         * rounds. */
        uint32_t rounded = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
        return (uint16_t)(sign | rounded);
    }
    uint32_t odd = magnitude >> EXPONENT_SHIFT & 1u;
    uint32_t rounded = magnitude - BIAS_DIFFERENCE + 0xfffu + odd; /* a carry may reach infinity */
    return (uint16_t)(sign | rounded >> EXPONENT_SHIFT);
}

float ane_round_to_bf16(float value) {
    uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffffu;
    if (magnitude > FLOAT_INFINITY) return float_of((bits | FLOAT_QUIET) & 0xffff0000u);
    if (magnitude < LEAST_NORMAL_FLOAT) return float_of(bits & 0x80000000u);
    uint32_t odd = bits >> 16 & 1u;
    return float_of((bits + 0x7fffu + odd) & 0xffff0000u);
}

float ane_float_from_half(uint16_t bits) {
    uint32_t sign = (bits & 0x8000u) << 16;
    uint32_t magnitude = bits & 0x7fffu;
    if (magnitude > HALF_INFINITY)
        return float_of(sign | FLOAT_INFINITY | FLOAT_QUIET | magnitude << EXPONENT_SHIFT);
    if (magnitude == HALF_INFINITY) return float_of(sign | FLOAT_INFINITY);
    if (magnitude < 0x400u)
        return float_of(sign | bits_of((float)magnitude * 0x1p-24f)); /* subnormal or zero */
    return float_of(sign | ((magnitude << EXPONENT_SHIFT) + BIAS_DIFFERENCE));
}

/* Not called where every processor has conversion instructions. */
#define PORTABLE __attribute__((unused))

PORTABLE static void narrow_portable(size_t n, const float *from, uint16_t *to) {
    for (size_t i = 0; i < n; i++) to[i] = ane_half_from_float(from[i]);
}

PORTABLE static void widen_portable(size_t n, const uint16_t *from, float *to) {
    for (size_t i = 0; i < n; i++) to[i] = ane_float_from_half(from[i]);
}

PORTABLE static void round_portable(size_t n, float *values) {
    for (size_t i = 0; i < n; i++) values[i] = ane_float_from_half(ane_half_from_float(values[i]));
}

#if defined(__x86_64__)

/* Every processor with AVX2 has F16C; compilers know the name "avx2" for longer than "f16c". */
#define F16C __attribute__((target("avx2,f16c")))
#define AVX512 __attribute__((target("avx512f,avx2,f16c")))
#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

F16C static void narrow_f16c(size_t n, const float *from, uint16_t *to) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), NEAREST));
    narrow_portable(n - i, from + i, to + i);
}

F16C static void widen_f16c(size_t n, const uint16_t *from, float *to) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
    widen_portable(n - i, from + i, to + i);
}

F16C static void round_f16c(size_t n, float *values) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(values + i), NEAREST);
        _mm256_storeu_ps(values + i, _mm256_cvtph_ps(halves));
    }
    round_portable(n - i, values + i);
}

AVX512 static void narrow_avx512(size_t n, const float *from, uint16_t *to) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((__m256i *)(to + i),
                            _mm512_cvtps_ph(_mm512_loadu_ps(from + i), NEAREST));
    narrow_f16c(n - i, from + i, to + i);
}

AVX512 static void widen_avx512(size_t n, const uint16_t *from, float *to) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(from + i))));
    widen_f16c(n - i, from + i, to + i);
}

AVX512 static void round_avx512(size_t n, float *values) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256i halves = _mm512_cvtps_ph(_mm512_loadu_ps(values + i), NEAREST);
        _mm512_storeu_ps(values + i, _mm512_cvtph_ps(halves));
    }
    round_f16c(n - i, values + i);
}

void ane_halves_from_floats(size_t n, const float *from, uint16_t *to) {
    if (__builtin_cpu_supports("avx512f"))
        narrow_avx512(n, from, to);
    else if (__builtin_cpu_supports("avx2"))
        narrow_f16c(n, from, to);
    else
        narrow_portable(n, from, to);
}

void ane_floats_from_halves(size_t n, const uint16_t *from, float *to) {
    if (__builtin_cpu_supports("avx512f"))
        widen_avx512(n, from, to);
    else if (__builtin_cpu_supports("avx2"))
        widen_f16c(n, from, to);
    else
        widen_portable(n, from, to);
}

void ane_round_to_half(size_t n, float *values) {
    if (__builtin_cpu_supports("avx512f"))
        round_avx512(n, values);
    else if (__builtin_cpu_supports("avx2"))
        round_f16c(n, values);
    else
        round_portable(n, values);
}

#elif defined(__aarch64__)

/* __fp16 is a storage type of every arm64 compiler; these loops become fcvtn and fcvtl. */
void ane_halves_from_floats(size_t n, const float *from, uint16_t *to) {
    for (size_t i = 0; i < n; i++) {
        __fp16 half = (__fp16)from[i];
        memcpy(to + i, &half, sizeof half);
    }
}

void ane_floats_from_halves(size_t n, const uint16_t *from, float *to) {
    for (size_t i = 0; i < n; i++) {
        __fp16 half;
        memcpy(&half, from + i, sizeof half);
        to[i] = (float)half;
    }
}

void ane_round_to_half(size_t n, float *values) {
    for (size_t i = 0; i < n; i++) values[i] = (float)(__fp16)values[i];
}

#else

void ane_halves_from_floats(size_t n, const float *from, uint16_t *to) {
    narrow_portable(n, from, to);
}

void ane_floats_from_halves(size_t n, const uint16_t *from, float *to) {
    widen_portable(n, from, to);
}

void ane_round_to_half(size_t n, float *values) {
    round_portable(n, values);
}

#endif
