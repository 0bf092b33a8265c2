/* tile_pairs.h: what tiles.c does in registers with AVX512-BF16. Two neighbours in depth make a
 * word of a panel, each rounded to bf16, subnormal floats to zero; sums are fp32, with zeros for
 * subnormal ones. Tiles are those of the AVX-512 kernel, with words for floats, and are stored as
 * there. Where multiply-adds of floats are faster than dot products of pairs, that kernel takes the
 * same factors in the same order. */

#define PAIRS __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")))
#define WHOLE static inline __attribute__((always_inline)) PAIRS

/* Up to 16 elements that lie side by side; zeros where there are less. */
WHOLE __m512 load_some(const operand *from, size_t at, size_t count, bool half) {
    __mmask16 wanted = (__mmask16)(count < 16 ? (1u << count) - 1 : 0xffffu);
    if (!half) return _mm512_maskz_loadu_ps(wanted, (const float *)from->data + at);
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(wanted, (const uint16_t *)from->data + at));
}

/* A word of each of 16 rows or columns, from `first` on, at its places in panels of `width`. */
WHOLE void put_words(const operand *from, __m512i words, size_t width, size_t first, size_t at,
                     float *to) {
    size_t depth = (from->depth + 1) / 2, inside = first % width;
    float *panel = to + (first - inside) * depth + at * width + inside;
    if (width >= 16) {
        _mm512_storeu_si512(panel, words);
    } else {
        _mm256_storeu_si256((__m256i *)panel, _mm512_castsi512_si256(words));
        if (first + 8 < from->length)
            _mm256_storeu_si256((__m256i *)(panel + 8 * depth),
                                _mm512_extracti64x4_epi64(words, 1));
    }
}

/* Elements lie side by side in the direction of the panels: two depths become one of words. */
WHOLE void pair_depths(const operand *from, bool half, size_t width, size_t at, size_t first,
                       float *to) {
    size_t source = 2 * at * from->stride + first, count = from->length - first;
    bool paired = 2 * at + 1 < from->depth;
    prefetch(from, source + AHEAD * from->stride, half);
    prefetch(from, source + (AHEAD + 1) * from->stride, half);
    __m512 even = load_some(from, source, count, half);
    __m512 odd = load_some(from, source + from->stride, paired ? count : 0, half);
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd));
    __m512i words = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
    put_words(from, words, width, first, at, to);
}

WHOLE void pair_along(const operand *from, bool half, size_t width, float *to) {
    size_t words = (from->depth + 1) / 2;
    for (size_t begin = 0; begin < words; begin += DEPTHS)
        for (size_t first = 0; first < from->length; first += 16)
            for (size_t at = begin; at < words && at < begin + DEPTHS; at++)
                pair_depths(from, half, width, at, first, to);
}

/* Transposes the four blocks of 4 by 4 of four rows, each where it is. */
WHOLE void turn_quarters(__m512 *row) {
    __m512 a = _mm512_unpacklo_ps(row[0], row[1]), b = _mm512_unpackhi_ps(row[0], row[1]);
    __m512 c = _mm512_unpacklo_ps(row[2], row[3]), d = _mm512_unpackhi_ps(row[2], row[3]);
    row[0] = _mm512_shuffle_ps(a, c, 0x44);
    row[1] = _mm512_shuffle_ps(a, c, 0xee);
    row[2] = _mm512_shuffle_ps(b, d, 0x44);
    row[3] = _mm512_shuffle_ps(b, d, 0xee);
}

/* Transposes 16 by 16 words. */
WHOLE void turn_words(__m512 *row) {
#pragma GCC unroll 4
    for (size_t i = 0; i < 16; i += 4) turn_quarters(row + i);
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        __m512 a = _mm512_shuffle_f32x4(row[i], row[i + 4], 0x88);
        __m512 b = _mm512_shuffle_f32x4(row[i], row[i + 4], 0xdd);
        __m512 c = _mm512_shuffle_f32x4(row[i + 8], row[i + 12], 0x88);
        __m512 d = _mm512_shuffle_f32x4(row[i + 8], row[i + 12], 0xdd);
        row[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        row[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
        row[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
        row[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

/* Elements lie side by side in the direction of depth: 16 rows by 32 depths. */
WHOLE void pair_block(const operand *from, bool half, size_t width, size_t first, size_t depth,
                      float *to) {
    size_t count = from->length - first, left = from->depth - depth;
    __m512 words[16];
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; i++) {
        size_t at = (first + i) * from->stride + depth;
        __m512 low = load_some(from, at, i < count ? left : 0, half);
        __m512 high = load_some(from, at + 16, i < count && left > 16 ? left - 16 : 0, half);
        words[i] = (__m512)_mm512_cvtne2ps_pbh(high, low);
    }
    turn_words(words);
    size_t begin = depth / 2, end = (from->depth + 1) / 2;
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; i++)
        if (begin + i < end) put_words(from, (__m512i)words[i], width, first, begin + i, to);
}

WHOLE void pair_across(const operand *from, bool half, size_t width, float *to) {
    for (size_t first = 0; first < from->length; first += 16)
        for (size_t depth = 0; depth < from->depth; depth += 32)
            pair_block(from, half, width, first, depth, to);
}

WHOLE void pack_pairs(const operand *from, size_t width, float *to) {
    if (from->half && from->across)
        pair_across(from, true, width, to);
    else if (from->half)
        pair_along(from, true, width, to);
    else if (from->across)
        pair_across(from, false, width, to);
    else
        pair_along(from, false, width, to);
}

PAIRS static void pack_left_bf16(const operand *from, float *to) {
    pack_pairs(from, 8, to);
}

PAIRS static void pack_right_bf16(const operand *from, float *to) {
    pack_pairs(from, 32, to);
}

WHOLE void add_words(const float *left, const float *right, __m512 (*total)[2]) {
    __m512bh first = (__m512bh)_mm512_loadu_ps(right);
    __m512bh second = (__m512bh)_mm512_loadu_ps(right + 16);
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++) {
        __m512bh both = (__m512bh)_mm512_set1_ps(left[i]);
        total[i][0] = _mm512_dpbf16_ps(total[i][0], both, first);
        total[i][1] = _mm512_dpbf16_ps(total[i][1], both, second);
    }
}

WHOLE void add_depths_bf16(const float *left, const float *right, __m512 (*total)[2]) {
    prefetch_panel(left, SPACING * 8);
#pragma GCC unroll 8
    for (size_t p = 0; p < SPACING; p++) add_words(left + p * 8, right + p * 32, total);
}

/* sums[8][32] of a panel of 8 by one of 32. */
PAIRS static void multiply_bf16(size_t words, const float *left, const float *right,
                                const brought *come, float *sums) {
    __m512 total[8][2];
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++) total[i][0] = total[i][1] = _mm512_setzero_ps();
    walk at = walk_along(come);
    size_t p = 0;
    for (; p + 2 * SPACING <= words; p += 2 * SPACING) {
        prefetch_first(&at);
        add_depths_bf16(left + p * 8, right + p * 32, total);
        prefetch_second(&at);
        add_depths_bf16(left + (p + SPACING) * 8, right + (p + SPACING) * 32, total);
    }
    for (; p < words; p++) add_words(left + p * 8, right + p * 32, total);
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++) {
        _mm512_storeu_ps(sums + 32 * i, total[i][0]);
        _mm512_storeu_ps(sums + 32 * i + 16, total[i][1]);
    }
}

/* Eight floats rounded to bf16. */
WHOLE __m256 round_factors(const float *from) {
    __m128i rounded = (__m128i)_mm256_cvtneps_pbh(_mm256_loadu_ps(from));
    return (__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(rounded), 16);
}

/* Panels of floats: factors are rounded, and of each two depths the second comes first. */
WHOLE void round_panels(const operand *of, size_t width, float *panels) {
    for (size_t lane = 0; lane < of->length; lane += width)
        for (size_t depth = 0; depth < of->depth; depth += 2) {
            float *first = panels + lane * of->depth + depth * width;
            float *second = depth + 1 < of->depth ? first + width : first;
            for (size_t i = 0; i < width; i += 8) {
                __m256 left = round_factors(first + i), right = round_factors(second + i);
                _mm256_storeu_ps(second + i, left);
                _mm256_storeu_ps(first + i, right);
            }
        }
}

PAIRS static void pack_left_floats(const operand *from, float *to) {
    pack_left_avx512(from, to);
    round_panels(from, 8, to);
}

PAIRS static void pack_right_floats(const operand *from, float *to) {
    pack_right_avx512(from, to);
    round_panels(from, 32, to);
}

#define MEMORY_STAYS() asm volatile("" ::: "memory")

/* Subnormal numbers are zeros, as in a dot product of pairs. */
PAIRS static void multiply_floats(size_t words, const float *left, const float *right,
                                  const brought *come, float *sums) {
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON);
    MEMORY_STAYS();
    multiply_avx512(words, left, right, come, sums);
    MEMORY_STAYS();
    _mm_setcsr(before);
}

static const tile_kernel kernel_bf16_floats = {
    .name = "AVX-512 (bf16)",
    .rows = 8,
    .columns = 32,
    .pairs = true,
    .terms = 1,
    .pack_left = pack_left_floats,
    .pack_right = pack_right_floats,
    .multiply = multiply_floats,
    .store = store_avx512,
};

static const tile_kernel kernel_bf16 = {
    .name = "AVX512-BF16",
    .rows = 8,
    .columns = 32,
    .pairs = true,
    .terms = 2,
    .other = &kernel_bf16_floats,
    .pack_left = pack_left_bf16,
    .pack_right = pack_right_bf16,
    .multiply = multiply_bf16,
    .store = store_avx512,
};

#undef MEMORY_STAYS
#undef PAIRS
#undef WHOLE
