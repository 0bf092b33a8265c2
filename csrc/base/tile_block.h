/* tile_block.h: panels of two sides become tiles of the result, while lines of the next ones come
 * from memory. A part of tiles.c: it stands on the types there. */

typedef struct block {
    const tile_kernel *kernel;
    const float *left, *right; /* panels */
    size_t rows, columns, words;
    tile_finish finish;
    tile_place result;  /* all of it */
    size_t row, column; /* where the block begins in it */
    operand next;       /* what the same thread packs after it, perhaps */
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

/* The place of a part, from (row, column) on, up to the end of a piece. */
static inline tile_place place_at(tile_place whole, size_t row, size_t column) {
    whole.out += row * whole.stride + column;
    if (whole.piece) whole.out += column / whole.piece * (whole.step - whole.piece);
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
            tile_place to = place_at(at->result, at->row + row, at->column + column);
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
