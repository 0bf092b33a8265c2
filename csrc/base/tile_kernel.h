/* tile_kernel.h: what tiles.c does in registers, for one instruction set. Included once for each,
 * with NAME(x) for its functions, TITLE for itself, TARGET for their attribute, LANES floats of a
 * vector, ROWS and VECTORS of a tile in registers, and FACTOR, MULTIPLY_ADD, ROUND, NARROW,
 * WIDEN, WIDEN_GROUP, LOW and HIGH. GROUP divides ROWS and LANES: packing turns so many rows by
 * LANES depths. */

#define COLUMNS (VECTORS * LANES)
#define WHOLE static inline __attribute__((always_inline)) TARGET

typedef float NAME(vector) __attribute__((vector_size(LANES * sizeof(float))));
typedef NAME(vector) NAME(stored) __attribute__((may_alias, aligned(sizeof(float))));
typedef float NAME(group) __attribute__((vector_size(GROUP * sizeof(float))));

WHOLE NAME(group) NAME(load_group)(const void *data, size_t at, bool half) {
    NAME(group) out;
    if (half) return WIDEN_GROUP((const uint16_t *)data + at);
    memcpy(&out, (const float *)data + at, sizeof out);
    return out;
}

WHOLE NAME(vector) NAME(load)(const void *data, size_t at, bool half) {
    NAME(vector) out;
    if (half) return WIDEN((const uint16_t *)data + at);
    memcpy(&out, (const float *)data + at, sizeof out);
    return out;
}

/* Elements lie side by side in the direction of the panels: a depth is copied as it is. */
WHOLE void NAME(copy_depths)(const operand *from, bool half, size_t width, size_t first,
                             size_t depths, size_t at, float *to) {
    for (size_t p = first; p < first + depths; p++)
        for (size_t i = 0; i < width; i += GROUP) {
            size_t source = p * from->stride + at + i;
            prefetch(from, source + AHEAD * from->stride, half);
            NAME(group) values = NAME(load_group)(from->data, source, half);
            memcpy(to + p * width + i, &values, sizeof values);
        }
}

/* A few depths at a time: what is read is then read whole, and whole cache lines are written. */
WHOLE void NAME(pack_along)(const operand *from, bool half, size_t width, float *to) {
    size_t whole = from->length / width * width;
    float *last = to + whole * from->depth;
    for (size_t p = 0; p < from->depth; p += DEPTHS)
        for (size_t w = 0; w < whole; w += width) {
            size_t left = from->depth - p;
            NAME(copy_depths)(from, half, width, p, left < DEPTHS ? left : DEPTHS, w,
                              to + w * from->depth);
        }
    if (whole == from->length) return;
    for (size_t p = 0; p < from->depth; p++)
        for (size_t i = 0; i < width; i++) {
            size_t at = p * from->stride + whole + i;
            last[p * width + i] = whole + i < from->length ? element_at(from, at, half) : 0.0f;
        }
}

/* GROUP rows by LANES depths become LANES depths by GROUP: each round moves the topmost bit of the
 * row number to the bottom of the element number, so that after all rounds rows come last. */
WHOLE void NAME(turn)(NAME(vector) * rows) {
    NAME(vector) turned[GROUP];
    for (size_t round = 1; round < GROUP; round *= 2) {
        for (size_t i = 0; i < GROUP / 2; i++) {
            turned[2 * i] = LOW(rows[i], rows[i + GROUP / 2]);
            turned[2 * i + 1] = HIGH(rows[i], rows[i + GROUP / 2]);
        }
        for (size_t i = 0; i < GROUP; i++) rows[i] = turned[i];
    }
}

/* `count` rows of a group, from `first` on; those that are missing are zero. */
WHOLE void NAME(pack_group)(const operand *from, bool half, size_t width, size_t first,
                            size_t count, float *to) {
    size_t whole = from->depth / LANES * LANES;
    for (size_t p = 0; p < whole; p += LANES) {
        NAME(vector) rows[GROUP] = {0};
        for (size_t i = 0; i < GROUP; i++)
            if (i < count) rows[i] = NAME(load)(from->data, (first + i) * from->stride + p, half);
        NAME(turn)(rows);
        for (size_t i = 0; i < LANES; i++)
            memcpy(to + (p + i) * width, (const float *)rows + i * GROUP, GROUP * sizeof(float));
    }
    for (size_t p = whole; p < from->depth; p++)
        for (size_t i = 0; i < GROUP; i++)
            to[p * width + i] =
                i < count ? element_at(from, (first + i) * from->stride + p, half) : 0.0f;
}

/* Elements lie side by side in the direction of depth. */
WHOLE void NAME(pack_across)(const operand *from, bool half, size_t width, float *to) {
    for (size_t w = 0; w < from->length; w += width)
        for (size_t i = 0; i < width; i += GROUP) {
            size_t first = w + i;
            size_t left = from->length > first ? from->length - first : 0;
            float *at = to + w * from->depth + i;
            if (left >= GROUP)
                NAME(pack_group)(from, half, width, first, GROUP, at);
            else
                NAME(pack_group)(from, half, width, first, left, at);
        }
}

WHOLE void NAME(pack)(const operand *from, size_t width, float *to) {
    if (from->half && from->across)
        NAME(pack_across)(from, true, width, to);
    else if (from->half)
        NAME(pack_along)(from, true, width, to);
    else if (from->across)
        NAME(pack_across)(from, false, width, to);
    else
        NAME(pack_along)(from, false, width, to);
}

TARGET static void NAME(pack_left)(const operand *from, float *to) {
    NAME(pack)(from, ROWS, to);
}

TARGET static void NAME(pack_right)(const operand *from, float *to) {
    NAME(pack)(from, COLUMNS, to);
}

WHOLE void NAME(add_depth)(const float *left, const float *right, NAME(vector) (*total)[VECTORS]) {
    NAME(vector) b[VECTORS];
#pragma GCC unroll 4
    for (size_t j = 0; j < VECTORS; j++) memcpy(&b[j], right + j * LANES, sizeof b[j]);
#pragma GCC unroll 16
    for (size_t i = 0; i < ROWS; i++) {
        NAME(vector) a = FACTOR(left, i) - (NAME(vector)){0};
#pragma GCC unroll 4
        for (size_t j = 0; j < VECTORS; j++) total[i][j] = MULTIPLY_ADD(a, b[j], total[i][j]);
    }
}

WHOLE void NAME(add_depths)(const float *left, const float *right, NAME(vector) (*total)[VECTORS]) {
    prefetch_panel(left, SPACING * ROWS);
#pragma GCC unroll 8
    for (size_t p = 0; p < SPACING; p++)
        NAME(add_depth)(left + p * ROWS, right + p * COLUMNS, total);
}

/* sums[ROWS][COLUMNS] of a panel of ROWS by one of COLUMNS. */
TARGET static void NAME(multiply)(size_t depth, const float *left, const float *right,
                                  const brought *come, float *sums) {
    NAME(vector) total[ROWS][VECTORS] = {0};
    walk at = walk_along(come);
    size_t p = 0;
    for (; p + 2 * SPACING <= depth; p += 2 * SPACING) {
        prefetch_first(&at);
        NAME(add_depths)(left + p * ROWS, right + p * COLUMNS, total);
        prefetch_second(&at);
        NAME(add_depths)(left + (p + SPACING) * ROWS, right + (p + SPACING) * COLUMNS, total);
    }
    for (; p < depth; p++) NAME(add_depth)(left + p * ROWS, right + p * COLUMNS, total);
#pragma GCC unroll 16
    for (size_t i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (size_t j = 0; j < VECTORS; j++)
            *(NAME(stored) *)(sums + i * COLUMNS + j * LANES) = total[i][j];
}

WHOLE void NAME(store_as)(const float *sums, const tile_finish *how, bool adds, bool rounds,
                          bool narrows, const tile_place *place) {
    float alpha = how->alpha, beta = how->beta;
    for (size_t i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (size_t j = 0; j < VECTORS; j++) {
            NAME(vector) value = NAME(load)(sums, i * COLUMNS + j * LANES, false) * alpha;
            float *to = place->out + i * place->stride + j * LANES;
            if (adds) value += NAME(load)(to, 0, false) * beta;
            if (rounds) value = ROUND(value);
            memcpy(to, &value, sizeof value);
            if (narrows) NARROW(place->halves + i * place->halves_stride + j * LANES, value);
        }
}

/* A whole tile of the result from its sums. */
TARGET static void NAME(store)(const float *sums, const tile_finish *how, const tile_place *to) {
    bool adds = how->beta != 0.0f;
    if (adds && to->halves)
        NAME(store_as)(sums, how, true, true, true, to);
    else if (to->halves)
        NAME(store_as)(sums, how, false, true, true, to);
    else if (adds && how->rounds)
        NAME(store_as)(sums, how, true, true, false, to);
    else if (adds)
        NAME(store_as)(sums, how, true, false, false, to);
    else if (how->rounds)
        NAME(store_as)(sums, how, false, true, false, to);
    else
        NAME(store_as)(sums, how, false, false, false, to);
}

static const tile_kernel NAME(kernel) = {
    .name = TITLE,
    .rows = ROWS,
    .columns = COLUMNS,
    .terms = 1,
    .pack_left = NAME(pack_left),
    .pack_right = NAME(pack_right),
    .multiply = NAME(multiply),
    .store = NAME(store),
};

#undef COLUMNS
#undef WHOLE
#undef NAME
#undef TITLE
#undef TARGET
#undef LANES
#undef GROUP
#undef ROWS
#undef VECTORS
#undef FACTOR
#undef MULTIPLY_ADD
#undef ROUND
#undef NARROW
#undef HALVES
#undef WIDEN
#undef WIDEN_GROUP
#undef LOW
#undef HIGH
