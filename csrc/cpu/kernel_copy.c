/* kernel_copy.c: copies between strided views, with conversion at surfaces. Runs are copied whole;
 * transposes go by tiles, so that no cache line is fetched twice. */
#include <string.h>

#include "kernels.h"

#define GRAIN 32768 /* elements of a task */
#define TILE 32

typedef struct ranges {
    size_t count, grain;
    mil_range_task run;
    void *argument;
} ranges;

static void run_range(void *argument, size_t index) {
    const ranges *all = argument;
    size_t begin = index * all->grain, end = begin + all->grain;
    all->run(all->argument, begin, end < all->count ? end : all->count);
}

void mil_parallel(ane_pool *pool, size_t count, size_t grain, mil_range_task run, void *argument) {
    ranges all = {count, grain ? grain : 1, run, argument};
    ane_pool_run(pool, (count + all.grain - 1) / all.grain, run_range, &all);
}

/* --- transposing --- */

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_SHUFFLE
#endif
#endif

#if defined(HAS_SHUFFLE)

typedef float four __attribute__((vector_size(16)));

static inline four load_four(const float *from) {
    four out;
    memcpy(&out, from, sizeof out);
    return out;
}

static inline void transpose_four(const float *from, size_t from_stride, float *to,
                                  size_t to_stride) {
    four a = load_four(from), b = load_four(from + from_stride);
    four c = load_four(from + 2 * from_stride), d = load_four(from + 3 * from_stride);
    four ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    four ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    four cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    four cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    four out[4] = {__builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5),
                   __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7),
                   __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5),
                   __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
    for (size_t i = 0; i < 4; i++) memcpy(to + i * to_stride, &out[i], sizeof out[i]);
}

#else

static inline void transpose_four(const float *from, size_t from_stride, float *to,
                                  size_t to_stride) {
    for (size_t row = 0; row < 4; row++)
        for (size_t column = 0; column < 4; column++)
            to[row * to_stride + column] = from[column * from_stride + row];
}

#endif

void mil_transpose_block(size_t rows, size_t columns, const float *from, size_t from_stride,
                         float *to, size_t to_stride) {
    size_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
    for (size_t column = 0; column < whole_columns; column += 4)
        for (size_t row = 0; row < whole_rows; row += 4)
            transpose_four(from + column * from_stride + row, from_stride,
                           to + row * to_stride + column, to_stride);
    for (size_t row = 0; row < rows; row++)
        for (size_t column = row < whole_rows ? whole_columns : 0; column < columns; column++)
            to[row * to_stride + column] = from[column * from_stride + row];
}

/* --- copies of 4-byte elements --- */

typedef struct copying {
    mil_view from, to; /* collapsed together; the last two axes are what one unit works on */
    const void *source;
    void *target;
    size_t tiles_down, tiles_across; /* of a transpose */
} copying;

static void swap_axes(mil_view *view, size_t a, size_t b) {
    size_t dim = view->dim[a];
    ptrdiff_t stride = view->stride[a];
    view->dim[a] = view->dim[b];
    view->stride[a] = view->stride[b];
    view->dim[b] = dim;
    view->stride[b] = stride;
}

static size_t unit_axis(const mil_view *view) {
    for (size_t i = view->rank; i-- > 0;)
        if (view->stride[i] == 1) return i;
    return MIL_NONE;
}

static void copy_rows(void *argument, size_t begin, size_t end) {
    const copying *job = argument;
    size_t last = job->to.rank - 1, n = job->to.dim[last];
    ptrdiff_t from_step = job->from.stride[last], to_step = job->to.stride[last];
    for (size_t row = begin; row < end; row++) {
        const mil_cell *from = (const mil_cell *)job->source + mil_view_at(&job->from, last, row);
        mil_cell *to = (mil_cell *)job->target + mil_view_at(&job->to, last, row);
        if (from_step == 1 && to_step == 1) {
            memcpy(to, from, n * sizeof *to);
            continue;
        }
        for (size_t i = 0; i < n; i++) to[(ptrdiff_t)i * to_step] = from[(ptrdiff_t)i * from_step];
    }
}

static void copy_tiles(void *argument, size_t begin, size_t end) {
    const copying *job = argument;
    size_t rank = job->to.rank, rows = job->to.dim[rank - 2], columns = job->to.dim[rank - 1];
    size_t from_stride = (size_t)job->from.stride[rank - 1];
    size_t to_stride = (size_t)job->to.stride[rank - 2];
    size_t tiles = job->tiles_down * job->tiles_across;
    for (size_t unit = begin; unit < end; unit++) {
        size_t row = unit % tiles / job->tiles_across * TILE;
        size_t column = unit % tiles % job->tiles_across * TILE;
        const float *from =
            (const float *)job->source + mil_view_at(&job->from, rank - 2, unit / tiles);
        float *to = (float *)job->target + mil_view_at(&job->to, rank - 2, unit / tiles);
        mil_transpose_block(rows - row < TILE ? rows - row : TILE,
                            columns - column < TILE ? columns - column : TILE,
                            from + column * from_stride + row, from_stride,
                            to + row * to_stride + column, to_stride);
    }
}

static void move_axis_last(copying *job, size_t axis, size_t last) {
    swap_axes(&job->from, axis, last);
    swap_axes(&job->to, axis, last);
}

/* Brings the target's axis of unit stride to the end, and the source's one before it. False if that
 * is one axis, or there is none. */
static bool arrange_transpose(copying *job) {
    size_t to_axis = unit_axis(&job->to), from_axis = unit_axis(&job->from);
    size_t last = job->to.rank - 1;
    if (to_axis == MIL_NONE) return false;
    move_axis_last(job, to_axis, last);
    if (from_axis == MIL_NONE || from_axis == to_axis) return false;
    move_axis_last(job, from_axis == last ? to_axis : from_axis, last - 1);
    return job->from.stride[last] > 0 && job->to.stride[last - 1] > 0;
}

/* A run longer than a task is cut into rows. */
static void cut_run(copying *job) {
    mil_view *views[] = {&job->from, &job->to};
    if (job->to.rank != 1 || job->to.dim[0] % GRAIN != 0) return;
    for (size_t i = 0; i < 2; i++) {
        views[i]->rank = 2;
        views[i]->dim[1] = GRAIN;
        views[i]->dim[0] /= GRAIN;
        views[i]->stride[1] = views[i]->stride[0];
        views[i]->stride[0] *= GRAIN;
    }
}

static void run_by_rows(ane_pool *pool, copying *job, mil_range_task run) {
    cut_run(job);
    size_t length = job->to.dim[job->to.rank - 1];
    size_t rows = mil_view_elements(&job->to) / length;
    mil_parallel(pool, rows, GRAIN / length, run, job);
}

void mil_copy_run(ane_pool *pool, const mil_copy *copy, const mil_cell *from, mil_cell *to) {
    copying job = {.from = copy->from, .to = copy->to, .source = from, .target = to};
    mil_view_collapse(2, (mil_view *[]){&job.to, &job.from});
    if (!arrange_transpose(&job)) {
        run_by_rows(pool, &job, copy_rows);
        return;
    }
    size_t rank = job.to.rank;
    job.tiles_down = (job.to.dim[rank - 2] + TILE - 1) / TILE;
    job.tiles_across = (job.to.dim[rank - 1] + TILE - 1) / TILE;
    size_t outer = mil_view_elements(&job.to) / (job.to.dim[rank - 2] * job.to.dim[rank - 1]);
    mil_parallel(pool, outer * job.tiles_down * job.tiles_across, GRAIN / (TILE * TILE), copy_tiles,
                 &job);
}

/* --- conversion --- */

static void widen_rows(void *argument, size_t begin, size_t end) {
    const copying *job = argument;
    size_t last = job->from.rank - 1, n = job->from.dim[last];
    ptrdiff_t step = job->from.stride[last];
    for (size_t row = begin; row < end; row++) {
        const uint16_t *from = (const uint16_t *)job->source + mil_view_at(&job->from, last, row);
        float *to = (float *)job->target + mil_view_at(&job->to, last, row);
        if (step == 1)
            ane_floats_from_halves(n, from, to);
        else
            for (size_t i = 0; i < n; i++) to[i] = ane_float_from_half(from[(ptrdiff_t)i * step]);
    }
}

static void narrow_rows(void *argument, size_t begin, size_t end) {
    const copying *job = argument;
    size_t last = job->from.rank - 1, n = job->from.dim[last];
    ptrdiff_t step = job->from.stride[last], to_step = job->to.stride[last];
    for (size_t row = begin; row < end; row++) {
        const float *from = (const float *)job->source + mil_view_at(&job->from, last, row);
        uint16_t *to = (uint16_t *)job->target + mil_view_at(&job->to, last, row);
        if (step == 1 && to_step == 1)
            ane_halves_from_floats(n, from, to);
        else
            for (size_t i = 0; i < n; i++)
                to[(ptrdiff_t)i * to_step] = ane_half_from_float(from[(ptrdiff_t)i * step]);
    }
}

void mil_widen_run(ane_pool *pool, const mil_view *view, const uint16_t *from, float *to) {
    mil_type type = {.rank = view->rank};
    memcpy(type.dim, view->dim, sizeof type.dim);
    copying job = {.from = *view, .to = mil_view_whole(0, &type), .source = from, .target = to};
    mil_view_collapse(2, (mil_view *[]){&job.to, &job.from});
    run_by_rows(pool, &job, widen_rows);
}

void mil_narrow_run(ane_pool *pool, const mil_copy *copy, const float *from, uint16_t *to) {
    copying job = {.from = copy->from, .to = copy->to, .source = from, .target = to};
    mil_view_collapse(2, (mil_view *[]){&job.to, &job.from});
    run_by_rows(pool, &job, narrow_rows);
}
