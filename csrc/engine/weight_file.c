/* weight_file.c: builds weight files in memory (layout: weight_format.h). Whatever can fail is
 * checked before the file changes. */
#include <math.h>
#include <string.h>

#include "../base/base.h"
#include "../base/weight_format.h"

#define FIRST_BEYOND_HALF 65520.0f /* rounds to infinity */
#define GREATEST_HALF 65504.0f
#define GREATEST_INT8 127.0f
#define ONE_AS_HALF 0x3c00u
#define CHUNK 512

struct ane_weight_builder {
    ane_context *context;
    unsigned char *bytes;
    size_t size, capacity;
};

/* --- memory --- */

static bool aligned(size_t size, size_t *out) {
    if (!ane_size_add(size, WEIGHT_ALIGNMENT - 1, out)) return false;
    *out = *out / WEIGHT_ALIGNMENT * WEIGHT_ALIGNMENT;
    return true;
}

static bool grow(ane_weight_builder *builder, size_t capacity) {
    if (capacity <= builder->capacity) return true;
    if (capacity < 2 * builder->size) capacity = 2 * builder->size;
    unsigned char *larger = ane_alloc(capacity, 1);
    if (!larger) return false;
    if (builder->size) memcpy(larger, builder->bytes, builder->size);
    ane_free(builder->bytes);
    builder->bytes = larger;
    builder->capacity = capacity;
    return true;
}

/* Room for two records, of `first` and `second` bytes of data. */
static ane_status reserve(ane_weight_builder *builder, size_t first, size_t second) {
    size_t size;
    bool fits = aligned(builder->size, &size) && ane_size_add(size, first, &size) &&
                ane_size_add(size, sizeof(weight_record), &size) && aligned(size, &size) &&
                ane_size_add(size, second, &size) &&
                ane_size_add(size, sizeof(weight_record), &size) && grow(builder, size);
    if (fits) return ANE_OK;
    return ane_context_fail(builder->context, ANE_ERROR_MEMORY,
                            "no memory for a weight record of %zu bytes", first);
}

/* Adds a record for which there is room, and returns where its data belong. */
static void *add_record(ane_weight_builder *builder, weight_dtype dtype, size_t size,
                        uint64_t *offset) {
    weight_header header;
    size_t start = 0;
    aligned(builder->size, &start);
    size_t data = start + sizeof(weight_record);
    weight_record record = {WEIGHT_SENTINEL, dtype, size, data, {0}};
    memset(builder->bytes + builder->size, 0, start - builder->size);
    memcpy(builder->bytes + start, &record, sizeof record);
    memcpy(&header, builder->bytes, sizeof header);
    header.count++;
    memcpy(builder->bytes, &header, sizeof header);
    builder->size = data + size;
    *offset = start;
    return builder->bytes + data;
}

ane_status ane_weight_builder_create(ane_context *context, ane_weight_builder **builder) {
    if (builder) *builder = NULL;
    if (!context || !builder)
        return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                                "the context or the place for the weight builder is missing");
    weight_header header = {.version = WEIGHT_VERSION};
    ane_weight_builder *made = ane_alloc(1, sizeof *made);
    if (!made || !grow(made, sizeof header)) {
        ane_free(made);
        return ane_context_fail(context, ANE_ERROR_MEMORY, "no memory for a weight builder");
    }
    memcpy(made->bytes, &header, sizeof header);
    made->size = sizeof header;
    made->context = context;
    ane_context_hold(context);
    *builder = made;
    return ANE_OK;
}

void ane_weight_builder_free(ane_weight_builder *builder) {
    if (!builder) return;
    ane_context *context = builder->context;
    ane_free(builder->bytes);
    ane_free(builder);
    ane_context_free(context);
}

ane_status ane_weight_builder_file(const ane_weight_builder *builder, const char *path,
                                   ane_weight_file *file) {
    if (!builder) return ANE_ERROR_ARGUMENT;
    if (!path || !file)
        return ane_context_fail(builder->context, ANE_ERROR_ARGUMENT,
                                "the path or the place for the weight file is missing");
    *file = (ane_weight_file){path, builder->bytes, builder->size};
    return ANE_OK;
}

/* --- sources --- */

/* `count` elements of a row from `column` on: where they lie, or gathered into the buffer. */
static const float *row_part(const ane_weight_source *source, size_t row, size_t column,
                             size_t count, float buffer[CHUNK]) {
    if (!source->transposed) return source->values + row * source->columns + column;
    for (size_t i = 0; i < count; i++)
        buffer[i] = source->values[(column + i) * source->rows + row];
    return buffer;
}

static size_t part_length(const ane_weight_source *source, size_t column) {
    return source->columns - column < CHUNK ? source->columns - column : CHUNK;
}

static ane_status check_magnitudes(ane_context *context, const ane_weight_source *source,
                                   float limit) {
    size_t across = source->transposed ? source->rows : source->columns;
    size_t count = source->rows * source->columns;
    for (size_t i = 0; i < count; i++) {
        if (fabsf(source->values[i]) < limit) continue;
        size_t row = i / across, column = i % across;
        return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                                "the weight %g at row %zu, column %zu does not fit",
                                (double)source->values[i], source->transposed ? column : row,
                                source->transposed ? row : column);
    }
    return ANE_OK;
}

/* Values below the limit in magnitude, and their number. */
static ane_status check_source(ane_weight_builder *builder, const ane_weight_source *source,
                               float limit, size_t *count) {
    if (!source || !source->values || !source->rows || !source->columns)
        return ane_context_fail(builder->context, ANE_ERROR_ARGUMENT,
                                "the values of a weight record are missing");
    size_t bytes;
    if (!ane_size_mul(source->rows, source->columns, count) ||
        !ane_size_mul(*count, sizeof(float), &bytes))
        return ane_context_fail(builder->context, ANE_ERROR_ARGUMENT,
                                "weights of %zu x %zu are beyond any memory", source->rows,
                                source->columns);
    return check_magnitudes(builder->context, source, limit);
}

/* --- records --- */

ane_status ane_weight_builder_fp16(ane_weight_builder *builder, const ane_weight_source *source,
                                   uint64_t *offset) {
    float buffer[CHUNK];
    size_t count;
    if (!builder) return ANE_ERROR_ARGUMENT;
    if (!offset)
        return ane_context_fail(builder->context, ANE_ERROR_ARGUMENT,
                                "the place for the offset is missing");
    ane_status status = check_source(builder, source, FIRST_BEYOND_HALF, &count);
    if (status == ANE_OK) status = reserve(builder, count * sizeof(uint16_t), 0);
    if (status != ANE_OK) return status;
    uint16_t *to = add_record(builder, WEIGHT_FP16, count * sizeof *to, offset);
    for (size_t row = 0; row < source->rows; row++) {
        for (size_t column = 0; column < source->columns; column += CHUNK) {
            size_t part = part_length(source, column);
            const float *from = row_part(source, row, column, part, buffer);
            ane_halves_from_floats(part, from, to + row * source->columns + column);
        }
    }
    return ANE_OK;
}

ane_status ane_weight_builder_int8(ane_weight_builder *builder, const int8_t *values, size_t count,
                                   uint64_t *offset) {
    if (!builder) return ANE_ERROR_ARGUMENT;
    if (!values || !count || !offset)
        return ane_context_fail(builder->context, ANE_ERROR_ARGUMENT,
                                "the values or the place for the offset are missing");
    ane_status status = reserve(builder, count, 0);
    if (status != ANE_OK) return status;
    memcpy(add_record(builder, WEIGHT_INT8, count, offset), values, count);
    return ANE_OK;
}

static uint16_t scale_of_row(const ane_weight_source *source, size_t row) {
    float buffer[CHUNK], most = 0.0f;
    for (size_t column = 0; column < source->columns; column += CHUNK) {
        size_t part = part_length(source, column);
        const float *from = row_part(source, row, column, part, buffer);
        for (size_t i = 0; i < part; i++) most = fmaxf(most, fabsf(from[i]));
    }
    if (most == 0.0f) return ONE_AS_HALF;
    uint16_t scale = ane_half_from_float(most / GREATEST_INT8);
    /* Rounding up keeps quotients within 127, and the scales of tiny rows above 0. The product of
     * an fp16 number and 127 is exact. */
    bool below = ane_float_from_half(scale) * GREATEST_INT8 < most;
    return below ? (uint16_t)(scale + 1) : scale;
}

static void quantize_row(const ane_weight_source *source, size_t row, float scale, int8_t *to) {
    float buffer[CHUNK];
    for (size_t column = 0; column < source->columns; column += CHUNK) {
        size_t part = part_length(source, column);
        const float *from = row_part(source, row, column, part, buffer);
        for (size_t i = 0; i < part; i++) to[column + i] = (int8_t)nearbyintf(from[i] / scale);
    }
}

ane_status ane_weight_builder_quantized(ane_weight_builder *builder,
                                        const ane_weight_source *source, uint64_t *offset,
                                        uint64_t *scale_offset) {
    size_t count;
    if (!builder) return ANE_ERROR_ARGUMENT;
    if (!offset || !scale_offset)
        return ane_context_fail(builder->context, ANE_ERROR_ARGUMENT,
                                "the places for the offsets are missing");
    float limit = nextafterf(GREATEST_INT8 * GREATEST_HALF, INFINITY);
    ane_status status = check_source(builder, source, limit, &count);
    if (status == ANE_OK) status = reserve(builder, count, source->rows * sizeof(uint16_t));
    if (status != ANE_OK) return status;
    int8_t *quantized = add_record(builder, WEIGHT_INT8, count, offset);
    uint16_t *scales =
        add_record(builder, WEIGHT_FP16, source->rows * sizeof *scales, scale_offset);
    for (size_t row = 0; row < source->rows; row++) {
        scales[row] = scale_of_row(source, row);
        quantize_row(source, row, ane_float_from_half(scales[row]),
                     quantized + row * source->columns);
    }
    return ANE_OK;
}
