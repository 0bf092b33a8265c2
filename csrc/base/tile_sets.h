/* tile_sets.h: the instruction sets that tiles.c has kernels for, and which of them this processor
 * has. A part of tiles.c: it stands on the types there. */

#if defined(__x86_64__) && defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_KERNELS
#include <immintrin.h>
#endif
/* Apple's library multiplies on a unit of its own, faster than NEON. */
#elif defined(__aarch64__) && !defined(__APPLE__)
#define HAS_KERNELS
#include <arm_neon.h>
#endif

#if defined(HAS_KERNELS)

static inline float element_at(const operand *from, size_t at, bool half) {
    return half ? ane_float_from_half(((const uint16_t *)from->data)[at])
                : ((const float *)from->data)[at];
}

/* The rows of a weight are short pieces of long ones: no processor guesses which come next. */
static inline void prefetch(const operand *from, size_t at, bool half) {
    __builtin_prefetch((const char *)from->data + at * (half ? 2 : 4));
}

/* The panels of the left side are read one after the other, what comes next perhaps from afar. */
static inline void prefetch_panel(const float *left, size_t floats) {
    for (size_t i = 0; i < floats; i += CACHE_LINE / sizeof *left)
        __builtin_prefetch(left + PANEL_AHEAD + i);
}

/* Where a multiplication is in what comes meanwhile. */
typedef struct walk {
    const char *panel, *line;
    const lines *run;
    size_t left; /* pairs of the run */
} walk;

static inline walk walk_along(const brought *come) {
    const lines *run = come->runs;
    return (walk){come->panel, run->first, run, run->count};
}

static inline void prefetch_first(walk *at) {
    __builtin_prefetch(at->panel, 0, 2);
    __builtin_prefetch(at->line);
}

static inline void prefetch_second(walk *at) {
    __builtin_prefetch(at->panel + CACHE_LINE, 0, 2);
    __builtin_prefetch(at->line + at->run->gap);
    at->panel += 2 * CACHE_LINE;
    at->line += at->run->spacing;
    if (--at->left > 0) return;
    at->run++;
    at->line = at->run->first;
    at->left = at->run->count;
}

#if defined(__x86_64__)

#define NAME(x) x##_avx512
#define TITLE "AVX-512"
#define TARGET __attribute__((target("avx512f,avx512dq,avx2,fma,f16c")))
#define LANES 16
#define GROUP 8
#define ROWS 8
#define VECTORS 2
#define FACTOR(row, i) row[i]
#define MULTIPLY_ADD(a, b, c) _mm512_fmadd_ps(a, b, c)
#define HALVES(x) _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define ROUND(x) _mm512_cvtph_ps(HALVES(x))
#define NARROW(to, x) _mm256_storeu_si256((__m256i *)(to), HALVES(x))
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
#define GROUP 4
#define ROWS 4
#define VECTORS 3
#define FACTOR(row, i) row[i]
#define MULTIPLY_ADD(a, b, c) _mm256_fmadd_ps(a, b, c)
#define HALVES(x) _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define ROUND(x) _mm256_cvtph_ps(HALVES(x))
#define NARROW(to, x) _mm_storeu_si128((__m128i *)(to), HALVES(x))
#define WIDEN(at) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(at)))
#define WIDEN_GROUP(at) _mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)(at)))
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#include "tile_kernel.h"

#include "tile_pairs.h"

static const tile_kernel *best_kernel(bool bf16) {
    if (bf16) return __builtin_cpu_supports("avx512bf16") ? &kernel_bf16 : NULL;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return &kernel_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &kernel_avx2;
    return NULL;
}

#else

#define NAME(x) x##_neon
#define TITLE "NEON"
#define TARGET
#define LANES 4
#define GROUP 4
#define ROWS 8
#define VECTORS 3
#define FACTOR(row, i) vld1q_f32(row + i / 4 * 4)[i % 4]
#define MULTIPLY_ADD(a, b, c) vfmaq_f32(c, a, b)
#define HALVES(x) vcvt_f16_f32(x)
#define ROUND(x) vcvt_f32_f16(HALVES(x))
#define NARROW(to, x) vst1_u16(to, vreinterpret_u16_f16(HALVES(x)))
#define WIDEN(at) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at)))
#define WIDEN_GROUP(at) WIDEN(at)
#define LOW(a, b) vzip1q_f32(a, b)
#define HIGH(a, b) vzip2q_f32(a, b)
#include "tile_kernel.h"

static const tile_kernel *best_kernel(bool bf16) {
    return bf16 ? NULL : &kernel_neon;
}

#endif

#else

static const tile_kernel *best_kernel(bool bf16) {
    (void)bf16;
    return NULL;
}

#endif
