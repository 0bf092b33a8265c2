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
    size_t piece, step; /* columns of a piece, and from one to the next in `out`; 0: no pieces */
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

bool ane_tiles_take_pieces(const ane_tiles *tiles, size_t piece) {
    return piece % tiles->kernel->columns == 0;
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

#include "tile_block.h"

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

/* Rows of the left operand, or columns of the right one up to the end of a piece, of the block at
 * `depth`. */
static operand lanes_of(const tiles_run *run, bool left, size_t first, size_t end, size_t depth) {
    const ane_product *product = run->product;
    ane_matrix matrix = left ? product->a : product->b;
    if (!left && product->piece) {
        size_t piece = first / product->piece, before = piece * product->piece;
        size_t skipped = piece * product->b_step * (matrix.half ? 2 : 4);
        matrix.data = (const char *)matrix.data + skipped;
        end = least(end, before + product->piece) - before;
        first -= before;
    }
    return part_of(matrix, left, first, end - first, depth, terms_at(run, depth));
}

static void pack(const tiles_run *run, bool left, size_t first, size_t end, size_t depth,
                 float *to) {
    size_t words = words_of(run, terms_at(run, depth));
    while (first < end) {
        operand part = lanes_of(run, left, first, end, depth);
        if (left)
            run->tiles->kernel->pack_left(&part, to);
        else
            run->tiles->kernel->pack_right(&part, to);
        first += part.length;
        to += part.length * words;
    }
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
    pack(run, run->shares_left, first, least(first + lanes, run->end), depth,
         shared_at(run, depth) + (first - run->begin) * words);
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
    at.result = (tile_place){
        product->c,     product->ldc,   last ? product->halves : NULL, product->halves_stride,
        product->piece, product->c_step};
    at.row = run->shares_left ? run->begin : first;
    at.column = run->shares_left ? first : run->begin;
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
            pack(run, left, first, least(first + all.lanes, all.end), depth, packed);
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
