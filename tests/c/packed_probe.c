/* Reaches every path of the products of stored rows with a vector that this processor can run. */
#include "base/packed.c"

int probe_paths(void);
void probe_halves(int path, const ane_packed *matrix, const float *x, float *y);
void probe_rows(const ane_packed *matrix, const float *x, float *y);

/* Of four rows by fp16: 0: dispatched, 1: portable, 2: AVX2, 3: AVX-512. */
int probe_paths(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return 4;
    if (__builtin_cpu_supports("avx2")) return 3;
#endif
    return 2;
}

void probe_halves(int path, const ane_packed *matrix, const float *x, float *y) {
    if (path == 0) half_rows(matrix, 0, GROUP, x, y);
    if (path == 1) half_rows_portable(matrix, 0, GROUP, x, y);
#if defined(__x86_64__)
    const uint16_t *rows[GROUP];
    for (size_t k = 0; k < GROUP; k++)
        rows[k] = (const uint16_t *)matrix->data + k * matrix->stride;
    if (path == 2) half_group_avx2(rows, matrix->columns, x, y);
    if (path == 3) half_group_avx512(rows, matrix->columns, x, y);
#endif
}

void probe_rows(const ane_packed *matrix, const float *x, float *y) {
    ane_packed_rows(matrix, 0, matrix->rows, x, y);
}
