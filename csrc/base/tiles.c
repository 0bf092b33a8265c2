/* tiles.c: matrix products by kernels of our own, for x86-64 with AVX2 or AVX-512 and for 64-bit
 * Arm. Operands may be fp16: they are widened while they are packed, so no fp32 copy of a weight
 * exists anywhere. The operand on the shorter side of the result is packed once for all threads,
 * the other in groups of panels by whoever multiplies them. Every element of a result is the sum of
 * equal blocks of depth, each summed by fused multiply-adds in their order, so its bits depend
 * neither on the kernel nor on how a product is cut among threads. With bf16, factors are rounded
 * to it as they are packed, terms are summed in pairs, and a block has twice the depth. */
#include "base.h"

#include <math.h>
#include <string.h>
#include <time.h>

#define BLOCK_TERMS 256   /* of a block's depth: a panel of each side stays in first-level cache */
#define GROUP_LANES 128   /* rows or columns that a task packs and multiplies at a time */
#define SHARED_LANES 1024 /* on the shared side: panels of one block stay in the caches */
#define SHARED_FLOATS ((size_t)1 << 20)
#define STRIPS 4                /* tasks for each thread */
#define WORTH ((size_t)1 << 18) /* multiplications of a task, at least */
#define DEPTHS 8                /* of rows that are copied into panels one after the other */
#define AHEAD 16                /* rows that are on their way from memory meanwhile */
#define TIMED_TILES 4           /* of each kernel, where there are two to choose from */
#define TIMED_ROUNDS 12
#define MOST_ROWS 16 /* of a tile */
#define MOST_COLUMNS 64
#define SPARE_FLOATS (BLOCK_TERMS * MOST_COLUMNS)
#define CACHE_LINE 64
#define SPACING 8 /* words of a tile's depth for each cache line that comes meanwhile */
#define MOST_RUNS 16
#define PANEL_AHEAD 512 /* floats */

/* A part of a matrix on its way into panels: `length` along which panels lie, by `depth`. */
typedef struct operand {
    const void *data;
    size_t stride;
    bool half;
    bool across; /* memory runs along the depth, not along the length */
    size_t length, depth;
} operand;

/* out = alpha * sums + beta * out, rounded to fp16 if so said. */
typedef struct tile_finish {
    float alpha, beta;
    bool rounds;
} tile_finish;

/* Where a tile goes. */
typedef struct tile_place {
    float *out;
    size_t stride;
    uint16_t *halves; /* the same as fp16; NULL: not wanted */
    size_t halves_stride;
} tile_place;

/* Pairs of cache lines: the second is `gap` after the first, each pair `spacing` after the former,
 * in bytes. */
typedef struct lines {
    const char *first;
    size_t gap, spacing, count;
} lines;

/* What comes from memory while a tile is computed: for each SPACING words a line of the next right
 * panel, to second-level cache, and one of a run, to first-level cache. */
typedef struct brought {
    const char *panel;
    size_t count, room;    /* runs; pairs that more runs may have */
    lines runs[MOST_RUNS]; /* the last one without end */
} brought;

typedef struct tile_kernel {
    const char *name;
    size_t rows, columns;            /* of a tile */
    bool pairs;                      /* of each two terms the second is added first */
    size_t terms;                    /* in a word of a panel */
    const struct tile_kernel *other; /* has the same bits, and is faster on some processors */
    void (*pack_left)(const operand *from, float *to);
    void (*pack_right)(const operand *from, float *to);
    void (*multiply)(size_t words, const float *left, const float *right, const brought *come,
                     float *sums);
    void (*store)(const float *sums, const tile_finish *how, const tile_place *to);
} tile_kernel;

#include "tile_sets.h"

/* --- kernels --- */

/* Terms of a block's depth come in such units. */
static size_t unit_of(const tile_kernel *kernel) {
    return kernel->pairs ? 2 : 1;
}

/* Of the deepest block, in a panel. */
static size_t words_of_block(const tile_kernel *kernel) {
    return BLOCK_TERMS * unit_of(kernel) / kernel->terms;
}

/* Of the panels that a task packs. */
static size_t group_floats(const tile_kernel *kernel) {
    return words_of_block(kernel) * GROUP_LANES;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Without end, but of one line that is there already. */
static lines no_lines(const float *there) {
    return (lines){(const char *)there, 0, 0, SIZE_MAX};
}

/* A few tiles of zeros. */
static double time_of(const tile_kernel *kernel, const float *zeros) {
    float sums[MOST_ROWS * MOST_COLUMNS];
    brought none = {.panel = (const char *)zeros};
    none.runs[0] = no_lines(zeros);
    double start = seconds();
    for (size_t tile = 0; tile < TIMED_TILES; tile++)
        kernel->multiply(BLOCK_TERMS / kernel->terms, zeros, zeros, &none, sums);
    return seconds() - start;
}

/* A tenth of a millisecond is spent to find out. */
static bool is_faster(const tile_kernel *kernel, const tile_kernel *than) {
    _Alignas(64) float zeros[SPARE_FLOATS] = {0};
    double least[2] = {INFINITY, INFINITY};
    for (size_t i = 0; i < TIMED_ROUNDS; i++) {
        least[0] = fmin(least[0], time_of(kernel, zeros));
        least[1] = fmin(least[1], time_of(than, zeros));
    }
    return least[0] < least[1];
}

/* --- memory for panels --- */

/* Begins with the next one while it is idle. */
typedef struct buffer {
    struct buffer *next;
} buffer;

struct ane_tiles {
    const tile_kernel *kernel;
    pthread_mutex_t lock;
    buffer *shared, *groups; /* idle ones: as many as there were products, or tasks, at a time */
};

bool ane_reads_halves(const ane_options *options) {
    return options && options->blas_path && !options->reference &&
           options->engine == ANE_SOFTWARE && options->numerics != ANE_FP32 &&
           best_kernel(options->numerics == ANE_BF16) != NULL;
}

ane_tiles *ane_tiles_create(bool bf16) {
    const tile_kernel *best = best_kernel(bf16);
    ane_tiles *tiles = best ? ane_alloc(1, sizeof *tiles) : NULL;
    if (!tiles) return NULL;
    tiles->kernel = best->other && is_faster(best->other, best) ? best->other : best;
    pthread_mutex_init(&tiles->lock, NULL);
    return tiles;
}

static void free_buffers(buffer *first) {
    while (first) {
        buffer *next = first->next;
        ane_free(first);
        first = next;
    }
}

void ane_tiles_free(ane_tiles *tiles) {
    if (!tiles) return;
    free_buffers(tiles->shared);
    free_buffers(tiles->groups);
    pthread_mutex_destroy(&tiles->lock);
    ane_free(tiles);
}

const char *ane_tiles_name(const ane_tiles *tiles) {
    return tiles->kernel->name;
}

static void *take(ane_tiles *tiles, buffer **idle, size_t floats) {
    pthread_mutex_lock(&tiles->lock);
    buffer *found = *idle;
    if (found) *idle = found->next;
    pthread_mutex_unlock(&tiles->lock);
    return found ? (void *)found : ane_alloc(floats, sizeof(float));
}

static void give(ane_tiles *tiles, buffer **idle, void *given) {
    if (!given) return;
    buffer *returned = given;
    pthread_mutex_lock(&tiles->lock);
    returned->next = *idle;
    *idle = returned;
    pthread_mutex_unlock(&tiles->lock);
}

/* --- blocks --- */

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

static size_t parts(size_t whole, size_t part) {
    return (whole + part - 1) / part;
}

static size_t rounded_up(size_t count, size_t unit) {
    return parts(count, unit) * unit;
}

typedef struct block {
    const tile_kernel *kernel;
    const float *left, *right; /* panels */
    size_t rows, columns, words;
    tile_finish finish;
    tile_place place;
    operand next; /* what the same thread packs after it, perhaps */
} block;

/* A tile at the edge of the result: only a part of its sums is wanted. */
static void store_part(const block *at, const float *sums, size_t rows, size_t columns,
                       const tile_place *to) {
    const tile_finish *how = &at->finish;
    for (size_t i = 0; i < rows; i++, sums += at->kernel->columns) {
        float *out = to->out + i * to->stride;
        for (size_t j = 0; j < columns; j++) {
            float value = sums[j] * how->alpha;
            out[j] = how->beta != 0.0f ? value + out[j] * how->beta : value;
        }
        if (how->rounds) ane_round_to_half(columns, out);
        if (to->halves) ane_halves_from_floats(columns, out, to->halves + i * to->halves_stride);
    }
}

/* The place of a part, from (row, column) on. */
static tile_place place_at(tile_place whole, size_t row, size_t column) {
    whole.out += row * whole.stride + column;
    if (whole.halves) whole.halves += row * whole.halves_stride + column;
    return whole;
}

static inline void bring(brought *all, lines run) {
    if (run.count <= all->room && all->count + 1 < MOST_RUNS) {
        all->room -= run.count;
        all->runs[all->count++] = run;
        return;
    }
    for (size_t i = 0; i < run.count; i++, run.first += run.spacing) {
        __builtin_prefetch(run.first);
        __builtin_prefetch(run.first + run.gap);
    }
}

/* Rows of a result are far apart. */
static inline void bring_result(const block *at, const tile_place *to, brought *all) {
    size_t last = (at->kernel->columns - 1) * sizeof *to->out;
    size_t stride = to->stride * sizeof *to->out;
    bring(all, (lines){(const char *)to->out, last, stride, at->kernel->rows});
    if (!to->halves) return;
    stride = to->halves_stride * sizeof *to->halves;
    bring(all, (lines){(const char *)to->halves, stride, 2 * stride, at->kernel->rows / 2});
}

/* A share of what is packed next. */
static inline void bring_next(const block *at, size_t tile, size_t tiles, brought *all) {
    const operand *next = &at->next;
    size_t element = next->half ? 2 : 4;
    size_t rows = next->across ? next->length : next->depth;
    size_t bytes = (next->across ? next->depth : next->length) * element;
    for (size_t row = tile * rows / tiles; row < (tile + 1) * rows / tiles; row++) {
        const char *first = (const char *)next->data + row * next->stride * element;
        bring(all, (lines){first, CACHE_LINE, 2 * CACHE_LINE, parts(bytes, 2 * CACHE_LINE)});
    }
}

/* The first few tiles of a right panel have the next one's lines. */
static inline const char *panel_after(const block *at, const float *right, size_t row) {
    size_t tile = row / at->kernel->rows;
    if (tile >= at->kernel->columns * SPACING * sizeof *right / CACHE_LINE)
        return (const char *)right;
    const float *next = right + at->kernel->columns * at->words;
    return (const char *)next + tile * at->words / SPACING * CACHE_LINE;
}

static void run_block(const block *at) {
    const tile_kernel *kernel = at->kernel;
    size_t tiles = parts(at->columns, kernel->columns) * parts(at->rows, kernel->rows), tile = 0;
    _Alignas(64) float sums[MOST_ROWS * MOST_COLUMNS];
    for (size_t column = 0; column < at->columns; column += kernel->columns) {
        const float *right = at->right + column * at->words;
        size_t columns = at->columns - column;
        for (size_t row = 0; row < at->rows; row += kernel->rows) {
            tile_place to = place_at(at->place, row, column);
            size_t rows = at->rows - row;
            brought all; /* its runs have no value yet: to clear them takes time */
            all.panel = panel_after(at, right, row);
            all.count = 0;
            all.room = at->words / (2 * SPACING);
            bring_result(at, &to, &all);
            bring_next(at, tile++, tiles, &all);
            all.runs[all.count] = no_lines(right);
            kernel->multiply(at->words, at->left + row * at->words, right, &all, sums);
            if (rows >= kernel->rows && columns >= kernel->columns)
                kernel->store(sums, &at->finish, &to);
            else
                store_part(at, sums, rows < kernel->rows ? rows : kernel->rows,
                           columns < kernel->columns ? columns : kernel->columns, &to);
        }
    }
}

/* Rows or columns [start, start + length) of an operand, of depths [depth, depth + depths). */
static operand part_of(ane_matrix matrix, bool left, size_t start, size_t length, size_t depth,
                       size_t depths) {
    bool across = left != matrix.transposed;
    size_t at = across ? start * matrix.stride + depth : depth * matrix.stride + start;
    const char *data = (const char *)matrix.data + at * (matrix.half ? 2 : 4);
    return (operand){data, matrix.stride, matrix.half, across, length, depths};
}

/* --- products --- */

/* A part of the product: some rows or columns on the shared side, and some depth. */
typedef struct tiles_run {
    ane_tiles *tiles;
    const ane_product *product;
    bool
        shares_left; /* the left operand's rows are the shared side, else the right one's columns */
    float *shared;
    size_t begin, end;
    size_t depth, depth_end;
    size_t step;    /* terms of a block */
    size_t strip;   /* rows or columns of a task, on the other side */
    size_t threads; /* that take strips in turn */
} tiles_run;

static size_t width_of(const tiles_run *run, bool left) {
    return left ? run->tiles->kernel->rows : run->tiles->kernel->columns;
}

static size_t other_side(const tiles_run *run) {
    return run->shares_left ? run->product->n : run->product->m;
}

static size_t terms_at(const tiles_run *run, size_t depth) {
    return least(run->step, run->depth_end - depth);
}

/* Of its depth, in panels. */
static size_t words_of(const tiles_run *run, size_t terms) {
    return parts(terms, run->tiles->kernel->terms);
}

/* Panels of the shared side of the block at `depth`. */
static float *shared_at(const tiles_run *run, size_t depth) {
    size_t lanes = rounded_up(run->end - run->begin, width_of(run, run->shares_left));
    return run->shared + words_of(run, depth - run->depth) * lanes;
}

/* Rows of the left operand, or columns of the right one, of the block at `depth`. */
static operand lanes_of(const tiles_run *run, bool left, size_t first, size_t end, size_t depth) {
    ane_matrix matrix = left ? run->product->a : run->product->b;
    return part_of(matrix, left, first, end - first, depth, terms_at(run, depth));
}

static void pack(const tiles_run *run, bool left, const operand *part, float *to) {
    if (left)
        run->tiles->kernel->pack_left(part, to);
    else
        run->tiles->kernel->pack_right(part, to);
}

static size_t group_of(const tiles_run *run, bool left) {
    return GROUP_LANES / width_of(run, left) * width_of(run, left);
}

static void pack_shared(void *argument, size_t index) {
    const tiles_run *run = argument;
    size_t lanes = group_of(run, run->shares_left), groups = parts(run->end - run->begin, lanes);
    size_t first = run->begin + index % groups * lanes;
    size_t depth = run->depth + index / groups * run->step;
    size_t words = words_of(run, terms_at(run, depth));
    operand part = lanes_of(run, run->shares_left, first, least(first + lanes, run->end), depth);
    pack(run, run->shares_left, &part, shared_at(run, depth) + (first - run->begin) * words);
}

/* Rows or columns of a task, which are packed and multiplied so many at a time. */
typedef struct strip {
    size_t index, begin, end, lanes;
} strip;

static strip strip_at(const tiles_run *run, size_t index, size_t lanes) {
    size_t side = other_side(run), begin = least(index * run->strip, side);
    return (strip){index, begin, least(begin + run->strip, side), lanes};
}

static operand group_at(const tiles_run *run, const strip *of, size_t first, size_t depth) {
    return lanes_of(run, !run->shares_left, first, least(first + of->lanes, of->end), depth);
}

/* Nothing comes after the last strips. */
static operand group_after(const tiles_run *run, const strip *of, size_t first, size_t depth) {
    if (first + of->lanes < of->end) return group_at(run, of, first + of->lanes, depth);
    if (depth + run->step < run->depth_end) return group_at(run, of, of->begin, depth + run->step);
    strip next = strip_at(run, of->index + run->threads, of->lanes);
    return group_at(run, &next, next.begin, run->depth);
}

/* The group from `first` on, whose panels are `packed`, by the shared ones. */
static void multiply_group(const tiles_run *run, const strip *of, size_t first, size_t depth,
                           const float *packed) {
    const ane_product *product = run->product;
    const float *shared = shared_at(run, depth);
    size_t count = least(of->lanes, of->end - first);
    bool last = depth + terms_at(run, depth) == product->k;
    block at = {.kernel = run->tiles->kernel};
    at.words = words_of(run, terms_at(run, depth));
    at.left = run->shares_left ? shared : packed;
    at.right = run->shares_left ? packed : shared;
    at.rows = run->shares_left ? run->end - run->begin : count;
    at.columns = run->shares_left ? count : run->end - run->begin;
    at.finish =
        (tile_finish){product->alpha, depth == 0 ? product->beta : 1.0f, product->rounds && last};
    tile_place whole = {product->c, product->ldc, last ? product->halves : NULL,
                        product->halves_stride};
    at.place =
        run->shares_left ? place_at(whole, run->begin, first) : place_at(whole, first, run->begin);
    at.next = group_after(run, of, first, depth);
    run_block(&at);
}

static void multiply_strip(void *argument, size_t index) {
    const tiles_run *run = argument;
    _Alignas(64) float spare[SPARE_FLOATS];
    float *taken = take(run->tiles, &run->tiles->groups, group_floats(run->tiles->kernel));
    float *packed = taken ? taken : spare;
    bool left = !run->shares_left;
    strip all = strip_at(run, index, taken ? group_of(run, left) : width_of(run, left));
    for (size_t depth = run->depth; depth < run->depth_end; depth += run->step)
        for (size_t first = all.begin; first < all.end; first += all.lanes) {
            operand group = group_at(run, &all, first, depth);
            pack(run, left, &group, packed);
            multiply_group(run, &all, first, depth, packed);
        }
    give(run->tiles, &run->tiles->groups, taken);
}

/* A few tasks for each thread, of whole panels, and of one group where that is work enough: what it
 * adds to the result from block to block then stays in the caches. */
static size_t strip_of(const tiles_run *run) {
    size_t width = width_of(run, !run->shares_left);
    size_t work = width * (run->end - run->begin) * (run->depth_end - run->depth);
    size_t equal = parts(parts(other_side(run), width), STRIPS * run->threads);
    size_t most = least(equal, GROUP_LANES / width), worth = parts(WORTH, work);
    return width * (most > worth ? most : worth);
}

static void run_side(tiles_run *run, ane_pool *pool, size_t room) {
    size_t lanes = rounded_up(run->end - run->begin, width_of(run, run->shares_left));
    size_t most = room / (lanes * words_of(run, run->step)) * run->step;
    for (run->depth = 0; run->depth < run->product->k; run->depth = run->depth_end) {
        run->depth_end = least(run->product->k, run->depth + most);
        size_t groups = parts(run->end - run->begin, group_of(run, run->shares_left));
        size_t blocks = parts(run->depth_end - run->depth, run->step);
        ane_pool_run(pool, groups * blocks, pack_shared, run);
        run->strip = strip_of(run);
        ane_pool_run(pool, parts(other_side(run), run->strip), multiply_strip, run);
    }
}

void ane_tiles_multiply(ane_tiles *tiles, ane_pool *pool, const ane_product *product) {
    _Alignas(64) float spare[SPARE_FLOATS];
    tiles_run run = {.tiles = tiles, .product = product, .shares_left = product->m < product->n};
    run.threads = ane_pool_threads(pool);
    size_t unit = unit_of(tiles->kernel), blocks = parts(product->k, BLOCK_TERMS * unit);
    run.step = rounded_up(parts(product->k, blocks), unit);
    size_t side = run.shares_left ? product->m : product->n;
    size_t width = width_of(&run, run.shares_left);
    /* Each thread may be at a small product of its own. */
    size_t group = group_floats(tiles->kernel);
    bool small = rounded_up(side, width) * blocks * words_of(&run, run.step) <= group;
    buffer **idle = small ? &tiles->groups : &tiles->shared;
    size_t room = small ? group : SHARED_FLOATS;
    float *taken = take(tiles, idle, room);
    run.shared = taken ? taken : spare;
    size_t lanes = rounded_up(parts(side, parts(side, taken ? SHARED_LANES : width)), width);
    for (run.begin = 0; run.begin < side; run.begin = run.end) {
        run.end = least(side, run.begin + lanes);
        run_side(&run, pool, taken ? room : SPARE_FLOATS);
    }
    give(tiles, idle, taken);
}
