/* Reaches every path of the conversions between fp16 and fp32 that this processor can run. */
#include "base/fp16.c"

void probe_scalar_narrow(size_t n, const float *from, uint16_t *to);
void probe_scalar_widen(size_t n, const uint16_t *from, float *to);
int probe_paths(void);
void probe_narrow(int path, size_t n, const float *from, uint16_t *to);
void probe_widen(int path, size_t n, const uint16_t *from, float *to);
void probe_round(int path, size_t n, float *values);

void probe_scalar_narrow(size_t n, const float *from, uint16_t *to) {
    for (size_t i = 0; i < n; i++) to[i] = ane_half_from_float(from[i]);
}

void probe_scalar_widen(size_t n, const uint16_t *from, float *to) {
    for (size_t i = 0; i < n; i++) to[i] = ane_float_from_half(from[i]);
}

#if defined(__x86_64__)

/* 0: dispatched, 1: portable, 2: F16C, 3: AVX-512. */
int probe_paths(void) {
    if (__builtin_cpu_supports("avx512f")) return 4;
    return __builtin_cpu_supports("avx2") ? 3 : 2;
}

void probe_narrow(int path, size_t n, const float *from, uint16_t *to) {
    void (*const paths[])(size_t, const float *, uint16_t *) = {
        ane_halves_from_floats, narrow_portable, narrow_f16c, narrow_avx512};
    paths[path](n, from, to);
}

void probe_widen(int path, size_t n, const uint16_t *from, float *to) {
    void (*const paths[])(size_t, const uint16_t *, float *) = {
        ane_floats_from_halves, widen_portable, widen_f16c, widen_avx512};
    paths[path](n, from, to);
}

void probe_round(int path, size_t n, float *values) {
    void (*const paths[])(size_t, float *) = {ane_round_to_half, round_portable, round_f16c,
                                              round_avx512};
    paths[path](n, values);
}

#else

/* 0: what the processor has, 1: portable. */
int probe_paths(void) {
    return 2;
}

void probe_narrow(int path, size_t n, const float *from, uint16_t *to) {
    (path ? narrow_portable : ane_halves_from_floats)(n, from, to);
}

void probe_widen(int path, size_t n, const uint16_t *from, float *to) {
    (path ? widen_portable : ane_floats_from_halves)(n, from, to);
}

void probe_round(int path, size_t n, float *values) {
    (path ? round_portable : ane_round_to_half)(n, values);
}

#endif
