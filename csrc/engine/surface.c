/* surface.c: [1, C, 1, W] arrays shared with the caller: staging, reading back, copies and locks.
 * Each block is checked against the surface before anything is touched. */
#include "surface.h"

#include <string.h>

#include "../cpu/kernels.h"

#define GRAIN 32768 /* elements of a task */
#define TILE 32

/* --- life --- */

static void count_surface(ane_context *context, size_t bytes, bool alive) {
    pthread_mutex_lock(&context->lock);
    context->counts.surfaces += alive ? 1 : (size_t)-1;
    context->counts.surface_bytes += alive ? bytes : (size_t)0 - bytes;
    pthread_mutex_unlock(&context->lock);
}

ane_status ane_surface_create(ane_context *context, size_t channels, size_t width,
                              size_t element_size, ane_surface **surface) {
    if (surface) *surface = NULL;
    if (!context || !surface)
        return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                                "the context or the place for the surface is missing");
    bool sized = element_size == 2 || element_size == 4;
    if (channels == 0 || width == 0 || !sized)
        return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                                "a surface of %zu x %zu elements of %zu bytes makes no sense",
                                channels, width, element_size);
    ane_surface *created = ane_alloc(1, sizeof *created);
    if (!created)
        return ane_context_fail(context, ANE_ERROR_MEMORY, "no memory for a surface of %zu x %zu",
                                channels, width);
    created->memory =
        (ane_memory){.channels = channels, .width = width, .element_size = element_size};
    ane_error_info error = {0};
    ane_status status = context->driver->surface_create(context->engine, &created->memory, &error);
    if (status != ANE_OK) {
        ane_free(created);
        return ane_context_keep(context, &error);
    }
    created->context = context;
    atomic_init(&created->holders, 1);
    surface_changed(created, 0, 0, channels, width);
    count_surface(context, created->memory.size, true);
    ane_context_hold(context);
    *surface = created;
    return ANE_OK;
}

void surface_hold(ane_surface *surface) {
    atomic_fetch_add(&surface->holders, 1);
}

void ane_surface_free(ane_surface *surface) {
    if (!surface || atomic_fetch_sub(&surface->holders, 1) != 1) return;
    ane_context *context = surface->context;
    count_surface(context, surface->memory.size, false);
    context->driver->surface_free(context->engine, &surface->memory);
    ane_free(surface);
    ane_context_free(context);
}

void *ane_surface_base(ane_surface *surface) {
    return surface ? surface->memory.base : NULL;
}

size_t ane_surface_size(const ane_surface *surface) {
    return surface ? surface->memory.size : 0;
}

size_t ane_surface_row_stride(const ane_surface *surface) {
    return surface ? surface->memory.row_stride : 0;
}

/* --- versions --- */

static bool covers(const surface_change *a, const surface_change *b) {
    return a->row <= b->row && a->column <= b->column && a->row + a->rows >= b->row + b->rows &&
           a->column + a->columns >= b->column + b->columns;
}

static bool meet(const surface_change *a, const surface_change *b) {
    return a->row < b->row + b->rows && b->row < a->row + a->rows &&
           a->column < b->column + b->columns && b->column < a->column + a->columns;
}

static surface_change around(const surface_change *a, const surface_change *b) {
    size_t bottom = a->row + a->rows, right = a->column + a->columns;
    if (b->row + b->rows > bottom) bottom = b->row + b->rows;
    if (b->column + b->columns > right) right = b->column + b->columns;
    surface_change out = *a;
    if (b->row < out.row) out.row = b->row;
    if (b->column < out.column) out.column = b->column;
    out.rows = bottom - out.row;
    out.columns = right - out.column;
    return out;
}

void surface_changed(ane_surface *surface, size_t row, size_t column, size_t rows, size_t columns) {
    surface_change change = {row, column, rows, columns, ++surface->version};
    size_t kept = 0;
    for (size_t i = 0; i < surface->change_count; i++)
        if (!covers(&change, &surface->changes[i])) surface->changes[kept++] = surface->changes[i];
    if (kept == SURFACE_CHANGES) {
        for (size_t i = 0; i < kept; i++) change = around(&change, &surface->changes[i]);
        kept = 0;
    }
    surface->changes[kept] = change;
    surface->change_count = kept + 1;
}

uint64_t surface_version(const ane_surface *surface, size_t row, size_t column, size_t rows,
                         size_t columns) {
    surface_change wanted = {row, column, rows, columns, 0};
    uint64_t newest = 1;
    for (size_t i = 0; i < surface->change_count; i++) {
        const surface_change *change = &surface->changes[i];
        if (meet(change, &wanted) && change->version > newest) newest = change->version;
    }
    return newest;
}

/* --- locks --- */

ane_status surface_begin(ane_surface *surface, bool read_only) {
    ane_error_info error = {0};
    ane_status status = surface->context->driver->surface_lock(&surface->memory, read_only, &error);
    return status == ANE_OK ? status : ane_context_keep(surface->context, &error);
}

ane_status surface_end(ane_surface *surface, bool read_only) {
    ane_error_info error = {0};
    ane_status status =
        surface->context->driver->surface_unlock(&surface->memory, read_only, &error);
    return status == ANE_OK ? status : ane_context_keep(surface->context, &error);
}

ane_status ane_surface_lock(ane_surface *surface, bool read_only) {
    if (!surface) return ANE_ERROR_ARGUMENT;
    if (surface->locked)
        return ane_context_fail(surface->context, ANE_ERROR_STATE, "the surface is locked already");
    ane_status status = surface_begin(surface, read_only);
    if (status != ANE_OK) return status;
    surface->locked = true;
    surface->locked_to_read = read_only;
    return ANE_OK;
}

ane_status ane_surface_unlock(ane_surface *surface) {
    if (!surface) return ANE_ERROR_ARGUMENT;
    if (!surface->locked)
        return ane_context_fail(surface->context, ANE_ERROR_STATE, "the surface is not locked");
    surface->locked = false;
    if (!surface->locked_to_read)
        surface_changed(surface, 0, 0, surface->memory.channels, surface->memory.width);
    return surface_end(surface, surface->locked_to_read);
}

/* --- blocks --- */

/* A rectangle of a surface beside a rectangle of fp32 memory. */
typedef struct staging {
    ane_surface *surface;
    size_t row, column, rows, columns;
    const float *source; /* or what is added to a block that is read */
    float *out;
    size_t stride; /* of source and out, in elements */
    float scale, beta;
    size_t tiles_across;
} staging;

static bool reaches(size_t begin, size_t count, size_t limit) {
    return begin <= limit && count <= limit - begin;
}

static ane_status check_block(ane_surface *surface, size_t row, size_t column, size_t rows,
                              size_t columns) {
    if (reaches(row, rows, surface->memory.channels) &&
        reaches(column, columns, surface->memory.width))
        return ANE_OK;
    return ane_context_fail(surface->context, ANE_ERROR_ARGUMENT,
                            "a block of %zu x %zu at (%zu, %zu) leaves the surface of %zu x %zu",
                            rows, columns, row, column, surface->memory.channels,
                            surface->memory.width);
}

static ane_status check_memory(const staging *job, const void *memory, size_t row_length) {
    if (!memory || job->stride < row_length)
        return ane_context_fail(job->surface->context, ANE_ERROR_ARGUMENT,
                                "the memory beside a surface is missing, or its stride of %zu is "
                                "shorter than its rows of %zu",
                                job->stride, row_length);
    return ANE_OK;
}

static void *element(const staging *job, size_t row, size_t column) {
    const ane_memory *memory = &job->surface->memory;
    return (char *)memory->base + (job->row + row) * memory->row_stride +
           (job->column + column) * memory->element_size;
}

ANE_CLONES
static void scale_floats(size_t n, float scale, const float *from, float *to) {
    for (size_t i = 0; i < n; i++) to[i] = scale * from[i];
}

/* n floats become elements of the surface, scaled. */
static void put(const staging *job, size_t n, const float *from, void *to) {
    float scaled[TILE * TILE];
    bool narrow = job->surface->memory.element_size == 2;
    for (size_t i = 0; i < n; i += TILE * TILE) {
        size_t count = n - i < TILE * TILE ? n - i : TILE * TILE;
        const float *source = from + i;
        if (job->scale != 1.0f) {
            scale_floats(count, job->scale, source, scaled);
            source = scaled;
        }
        if (narrow)
            ane_halves_from_floats(count, source, (uint16_t *)to + i);
        else
            memcpy((float *)to + i, source, count * sizeof(float));
    }
}

static void write_rows(void *argument, size_t begin, size_t end) {
    const staging *job = argument;
    for (size_t row = begin; row < end; row++)
        put(job, job->columns, job->source + row * job->stride, element(job, row, 0));
}

static void write_tiles(void *argument, size_t begin, size_t end) {
    const staging *job = argument;
    for (size_t tile = begin; tile < end; tile++) {
        float turned[TILE * TILE];
        size_t row = tile / job->tiles_across * TILE, column = tile % job->tiles_across * TILE;
        size_t rows = job->rows - row < TILE ? job->rows - row : TILE;
        size_t columns = job->columns - column < TILE ? job->columns - column : TILE;
        mil_transpose_block(rows, columns, job->source + column * job->stride + row, job->stride,
                            turned, TILE);
        for (size_t i = 0; i < rows; i++)
            put(job, columns, turned + i * TILE, element(job, row + i, column));
    }
}

ane_status ane_surface_write(ane_surface *surface, size_t row, size_t column, size_t rows,
                             size_t columns, const float *source, size_t stride, bool transposed,
                             float scale) {
    if (!surface) return ANE_ERROR_ARGUMENT;
    staging job = {.surface = surface,
                   .row = row,
                   .column = column,
                   .rows = rows,
                   .columns = columns,
                   .source = source,
                   .stride = stride,
                   .scale = scale};
    ane_status status = check_block(surface, row, column, rows, columns);
    if (status != ANE_OK) return status;
    status = check_memory(&job, source, transposed ? rows : columns);
    if (status != ANE_OK || rows == 0 || columns == 0) return status;
    status = surface_begin(surface, false);
    if (status != ANE_OK) return status;
    job.tiles_across = (columns + TILE - 1) / TILE;
    size_t tiles = (rows + TILE - 1) / TILE * job.tiles_across;
    if (transposed)
        mil_parallel(surface->context->pool, tiles, GRAIN / (TILE * TILE), write_tiles, &job);
    else
        mil_parallel(surface->context->pool, rows, GRAIN / columns, write_rows, &job);
    surface_changed(surface, row, column, rows, columns);
    return surface_end(surface, false);
}

ANE_CLONES
static void add_floats(size_t n, float alpha, const float *from, float beta, const float *addend,
                       float *to) {
    if (beta == 0.0f)
        for (size_t i = 0; i < n; i++) to[i] = alpha * from[i];
    else
        for (size_t i = 0; i < n; i++) to[i] = beta * addend[i] + alpha * from[i];
}

static void read_rows(void *argument, size_t begin, size_t end) {
    const staging *job = argument;
    bool narrow = job->surface->memory.element_size == 2;
    float widened[TILE * TILE];
    for (size_t row = begin; row < end; row++) {
        for (size_t i = 0; i < job->columns; i += TILE * TILE) {
            size_t count = job->columns - i < TILE * TILE ? job->columns - i : TILE * TILE;
            const void *from = element(job, row, i);
            if (narrow) ane_floats_from_halves(count, from, widened);
            size_t at = row * job->stride + i;
            const float *addend = job->beta != 0.0f ? job->source + at : NULL;
            add_floats(count, job->scale, narrow ? widened : from, job->beta, addend,
                       job->out + at);
        }
    }
}

ane_status ane_surface_read(ane_surface *surface, size_t row, size_t column, size_t rows,
                            size_t columns, float alpha, float beta, const float *addend,
                            float *out, size_t stride) {
    if (!surface) return ANE_ERROR_ARGUMENT;
    staging job = {.surface = surface,
                   .row = row,
                   .column = column,
                   .rows = rows,
                   .columns = columns,
                   .source = addend,
                   .out = out,
                   .stride = stride,
                   .scale = alpha,
                   .beta = beta};
    ane_status status = check_block(surface, row, column, rows, columns);
    if (status != ANE_OK) return status;
    status = check_memory(&job, out, columns);
    if (status == ANE_OK && beta != 0.0f) status = check_memory(&job, addend, columns);
    if (status != ANE_OK || rows == 0 || columns == 0) return status;
    status = surface_begin(surface, true);
    if (status != ANE_OK) return status;
    mil_parallel(surface->context->pool, rows, GRAIN / columns, read_rows, &job);
    return surface_end(surface, true);
}

typedef struct block_copy {
    staging from, to;
    size_t bytes; /* of one row */
    bool upwards; /* from the last row to the first */
} block_copy;

static void copy_block_rows(void *argument, size_t begin, size_t end) {
    const block_copy *job = argument;
    for (size_t i = begin; i < end; i++) {
        size_t row = job->upwards ? job->to.rows - 1 - i : i;
        memmove(element(&job->to, row, 0), element(&job->from, row, 0), job->bytes);
    }
}

static void copy_block(const block_copy *job) {
    ane_surface *target = job->to.surface;
    /* Within one surface the order of rows matters. */
    ane_pool *pool = target == job->from.surface ? NULL : target->context->pool;
    mil_parallel(pool, job->to.rows, GRAIN / job->to.columns, copy_block_rows, (void *)job);
    surface_changed(target, job->to.row, job->to.column, job->to.rows, job->to.columns);
}

ane_status ane_surface_copy(ane_surface *target, size_t row, size_t column, ane_surface *source,
                            size_t source_row, size_t source_column, size_t rows, size_t columns) {
    if (!target || !source) return ANE_ERROR_ARGUMENT;
    size_t size = target->memory.element_size;
    if (size != source->memory.element_size)
        return ane_context_fail(target->context, ANE_ERROR_ARGUMENT,
                                "surfaces of %zu-byte and %zu-byte elements", size,
                                source->memory.element_size);
    ane_status status = check_block(target, row, column, rows, columns);
    if (status == ANE_OK) status = check_block(source, source_row, source_column, rows, columns);
    if (status != ANE_OK || rows == 0 || columns == 0) return status;
    staging to = {
        .surface = target, .row = row, .column = column, .rows = rows, .columns = columns};
    block_copy job = {.from = {.surface = source, .row = source_row, .column = source_column},
                      .to = to,
                      .bytes = columns * size,
                      .upwards = row > source_row};
    status = surface_begin(source, true);
    if (status != ANE_OK) return status;
    status = surface_begin(target, false);
    if (status == ANE_OK) {
        copy_block(&job);
        status = surface_end(target, false);
    }
    ane_status ended = surface_end(source, true);
    return status == ANE_OK ? ended : status;
}
