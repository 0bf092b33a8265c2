/* constants.c: typed literals and weight records to constants, decoded once. Memory is taken for
 * elements only after as many were found in the text or in a weight file. */
#include <string.h>

#include "check.h"
#include "number.h"
#include "weights.h"

#define STORED_ELEMENTS 4096 /* of a matrix that is not decoded here */

ane_status mil_no_memory(mil_check *check) {
    return ane_fail(check->error, ANE_ERROR_MEMORY, "no memory for the program");
}

size_t mil_add_value(mil_check *check, const mil_value *value) {
    mil_program *program = check->program;
    mil_value *values = mil_region_extend(check->region, program->values, program->value_count,
                                          &check->value_capacity, sizeof *values);
    if (!values) {
        mil_no_memory(check);
        return MIL_NONE;
    }
    program->values = values;
    values[program->value_count] = *value;
    return program->value_count++;
}

bool mil_is_constant(const mil_value *value) {
    return value->producer == MIL_NONE && value->input == MIL_NONE;
}

/* --- immediate values --- */

static const char *escaped(mil_region *region, const mil_literal *literal) {
    char *text = mil_region_text(region, literal->text, literal->count);
    if (!text) return NULL;
    size_t used = 0;
    for (size_t i = 0; i < literal->count; i++) {
        char c = literal->text[i];
        if (c == '\\') {
            c = literal->text[++i];
            c = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
        }
        text[used++] = c;
    }
    text[used] = 0;
    return text;
}

static bool integer_range(mil_dtype dtype, int64_t *low, int64_t *high) {
    switch (dtype) {
    case MIL_INT8:
        *low = INT8_MIN, *high = INT8_MAX;
        return true;
    case MIL_UINT8:
        *low = 0, *high = UINT8_MAX;
        return true;
    case MIL_INT16:
        *low = INT16_MIN, *high = INT16_MAX;
        return true;
    case MIL_UINT16:
        *low = 0, *high = UINT16_MAX;
        return true;
    case MIL_INT32:
    case MIL_INT64:
        *low = INT32_MIN, *high = INT32_MAX;
        return true;
    case MIL_UINT32:
    case MIL_UINT64:
        *low = 0, *high = INT32_MAX;
        return true;
    default:
        return false;
    }
}

static ane_status bad_literal(mil_check *check, const mil_literal *literal, mil_dtype dtype) {
    return ane_fail_at(check->error, ANE_ERROR_TYPE, literal->line, literal->column,
                       "not a literal of type %s", mil_dtype_name(dtype));
}

static ane_status decode_integer(mil_check *check, const mil_literal *literal, mil_dtype dtype,
                                 int32_t *out) {
    int64_t low, high;
    if (dtype == MIL_BOOL && literal->kind == MIL_LITERAL_BOOL) {
        *out = literal->truth;
        return ANE_OK;
    }
    if (literal->kind != MIL_LITERAL_INTEGER || !integer_range(dtype, &low, &high))
        return bad_literal(check, literal, dtype);
    int64_t value =
        literal->magnitude <= (uint64_t)INT64_MAX ? (int64_t)literal->magnitude : INT64_MAX;
    if (literal->negative) value = -value;
    if (value < low || value > high) {
        return ane_fail_at(check->error, ANE_ERROR_TYPE, literal->line, literal->column,
                           "outside %s: %lld to %lld are possible", mil_dtype_name(dtype),
                           (long long)low, (long long)high);
    }
    *out = (int32_t)value;
    return ANE_OK;
}

static ane_status decode_float(mil_check *check, const mil_literal *literal, mil_dtype dtype,
                               float *out) {
    double value = literal->number;
    if (literal->kind == MIL_LITERAL_INTEGER) {
        value = literal->negative ? -(double)literal->magnitude : (double)literal->magnitude;
    } else if (literal->kind != MIL_LITERAL_FLOAT) {
        return bad_literal(check, literal, dtype);
    }
    bool rounded = dtype == MIL_FP16 && check->numerics != ANE_FP32;
    *out = rounded ? mil_nearest_half(value) : (float)value;
    return ANE_OK;
}

/* Elements are written to floats or integers, whichever is not NULL, from `position` on. */
typedef struct sink {
    float *floats;
    int32_t *integers;
    size_t position;
} sink;

static ane_status decode_element(mil_check *check, const mil_literal *literal, mil_dtype dtype,
                                 sink *to) {
    size_t at = to->position++;
    return to->floats ? decode_float(check, literal, dtype, &to->floats[at])
                      : decode_integer(check, literal, dtype, &to->integers[at]);
}

static ane_status wrong_length(mil_check *check, const mil_literal *literal, size_t expected) {
    return ane_fail_at(check->error, ANE_ERROR_TYPE, literal->line, literal->column,
                       "%zu elements where the type has %zu", literal->count, expected);
}

/* Nested lists, one level for each dimension. */
static ane_status decode_nested(mil_check *check, const mil_literal *literal, const mil_type *type,
                                size_t axis, sink *to) {
    if (axis == type->rank) return decode_element(check, literal, type->dtype, to);
    if (literal->kind != MIL_LITERAL_LIST) return bad_literal(check, literal, type->dtype);
    if (literal->count != type->dim[axis]) return wrong_length(check, literal, type->dim[axis]);
    ane_status status = ANE_OK;
    for (size_t i = 0; i < literal->count && !status; i++)
        status = decode_nested(check, &literal->items[i], type, axis + 1, to);
    return status;
}

static size_t count_leaves(const mil_literal *literal) {
    size_t count = 0;
    if (literal->kind != MIL_LITERAL_LIST) return 1;
    for (size_t i = 0; i < literal->count; i++) count += count_leaves(&literal->items[i]);
    return count;
}

static ane_status make_room(mil_check *check, mil_value *value, size_t count, sink *to) {
    *to = (sink){0};
    if (mil_is_float(value->type.dtype)) {
        value->floats = to->floats = mil_region_alloc(check->region, count, sizeof *to->floats);
    } else {
        value->ints = to->integers = mil_region_alloc(check->region, count, sizeof *to->integers);
    }
    return to->floats || to->integers ? ANE_OK : mil_no_memory(check);
}

/* A scalar stands for a tensor of one element; a list without sublists is in row-major order. */
static ane_status decode_immediate(mil_check *check, const mil_literal *literal, mil_value *value) {
    size_t elements = mil_elements(&value->type), leaves = count_leaves(literal);
    sink to;
    if (literal->kind != MIL_LITERAL_LIST && value->type.rank && elements != 1)
        return bad_literal(check, literal, value->type.dtype);
    if (leaves != elements) {
        return ane_fail_at(check->error, ANE_ERROR_TYPE, literal->line, literal->column,
                           "%zu elements where the type has %zu", leaves, elements);
    }
    ane_status status = make_room(check, value, elements, &to);
    if (status) return status;
    bool flat = literal->kind == MIL_LITERAL_LIST && literal->items[0].kind != MIL_LITERAL_LIST;
    if (!flat) {
        bool lone = literal->kind != MIL_LITERAL_LIST;
        return decode_nested(check, literal, &value->type, lone ? value->type.rank : 0, &to);
    }
    if (!value->type.rank) return bad_literal(check, literal, value->type.dtype);
    for (size_t i = 0; i < literal->count && !status; i++)
        status = decode_element(check, &literal->items[i], value->type.dtype, &to);
    return status;
}

static ane_status decode_string(mil_check *check, const mil_literal *literal, mil_value *value) {
    if (value->type.rank) {
        return ane_fail_at(check->error, ANE_ERROR_UNSUPPORTED, literal->line, literal->column,
                           "a tensor of strings");
    }
    if (literal->kind != MIL_LITERAL_STRING) return bad_literal(check, literal, MIL_STRING);
    value->text = escaped(check->region, literal);
    return value->text ? ANE_OK : mil_no_memory(check);
}

/* --- weight files --- */

typedef struct blob {
    const char *path;
    uint64_t offset;
} blob;

static ane_status bad_blob(mil_check *check, const mil_literal *literal) {
    return ane_fail_at(check->error, ANE_ERROR_TYPE, literal->line, literal->column,
                       "expected BLOBFILE(path = string(\"...\"), offset = uint64(...))");
}

/* `string` or `tensor<string, []>`, and so on. */
static bool has_scalar_type(const mil_operand *operand, const char *dtype) {
    const mil_type_node *type = operand->type;
    if (!type) return false;
    if (type->count == 2 && type->length == 6 && memcmp(type->text, "tensor", 6) == 0 &&
        type->items[1].form == MIL_FORM_DIMS && type->items[1].count == 0)
        type = &type->items[0];
    return type->form == MIL_FORM_NAMED && !type->count && type->length == strlen(dtype) &&
           memcmp(type->text, dtype, type->length) == 0;
}

static ane_status read_blob_arguments(mil_check *check, const mil_literal *literal, blob *to) {
    const mil_literal *path = NULL, *offset = NULL;
    for (size_t i = 0; i < literal->count; i++) {
        const mil_argument *argument = &literal->arguments[i];
        const mil_operand *operand = argument->operands;
        if (argument->count != 1) return bad_blob(check, literal);
        if (mil_name_is(&argument->name, "path") && !path && has_scalar_type(operand, "string")) {
            path = &operand->literal;
        } else if (mil_name_is(&argument->name, "offset") && !offset &&
                   has_scalar_type(operand, "uint64")) {
            offset = &operand->literal;
        } else {
            return bad_blob(check, literal);
        }
    }
    if (!path || path->kind != MIL_LITERAL_STRING || !offset ||
        offset->kind != MIL_LITERAL_INTEGER || offset->negative)
        return bad_blob(check, literal);
    to->path = escaped(check->region, path);
    to->offset = offset->magnitude;
    return to->path ? ANE_OK : mil_no_memory(check);
}

static const ane_weight_file *find_file(const mil_check *check, const char *path) {
    for (size_t i = 0; i < check->file_count; i++) {
        if (check->files[i].path && strcmp(check->files[i].path, path) == 0)
            return &check->files[i];
    }
    return NULL;
}

/* In ANE_FP32 an fp16 constant may be stored as fp32. */
static bool fits_record(const mil_check *check, const mil_type *type, const mil_record *record) {
    bool widened =
        check->numerics == ANE_FP32 && type->dtype == MIL_FP16 && record->dtype == MIL_FP32;
    return (record->dtype == type->dtype || widened) &&
           record->size == mil_elements(type) * mil_dtype_size(record->dtype);
}

/* Whoever plans the program knows whether these are needed as floats and integers at all. */
static bool stays_stored(const mil_type *type, const mil_record *record) {
    bool narrow = record->dtype == MIL_FP16 || record->dtype == MIL_INT8;
    return narrow && type->rank >= 2 && mil_elements(type) >= STORED_ELEMENTS;
}

static ane_status decode_record(mil_check *check, const mil_literal *literal, const blob *from,
                                mil_value *value) {
    char buffer[MIL_TYPE_TEXT];
    mil_record record;
    sink to;
    const ane_weight_file *file = find_file(check, from->path);
    if (!file) {
        return ane_fail_at(check->error, ANE_ERROR_WEIGHTS, literal->line, literal->column,
                           "no weight file '%.200s' was given", from->path);
    }
    ane_error_info reason = {0};
    if (mil_record_read(file, from->offset, &record, &reason)) {
        return ane_fail_at(check->error, ANE_ERROR_WEIGHTS, literal->line, literal->column,
                           "'%.200s' at offset %llu: %.150s", from->path,
                           (unsigned long long)from->offset, reason.text);
    }
    if (!fits_record(check, &value->type, &record)) {
        return ane_fail_at(check->error, ANE_ERROR_WEIGHTS, literal->line, literal->column,
                           "'%.200s' at offset %llu: %zu bytes of %s are not a %s", from->path,
                           (unsigned long long)from->offset, record.size,
                           mil_dtype_name(record.dtype), mil_type_text(&value->type, buffer));
    }
    if (stays_stored(&value->type, &record)) {
        value->record = record.data;
        return ANE_OK;
    }
    ane_status status = make_room(check, value, mil_elements(&value->type), &to);
    if (status) return status;
    if (to.floats) mil_record_floats(&record, mil_elements(&value->type), to.floats);
    if (to.integers && !mil_record_integers(&record, mil_elements(&value->type), to.integers)) {
        return ane_fail_at(check->error, ANE_ERROR_UNSUPPORTED, literal->line, literal->column,
                           "uint32 constants beyond the range of int32");
    }
    return ANE_OK;
}

/* A record that several constants name is decoded once. Its elements depend on the dtype alone, and
 * equal records of equal dtype have equal numbers of elements unless one of them is wrong. */
static ane_status decode_blob(mil_check *check, const mil_literal *literal, mil_value *value) {
    blob from = {0};
    ane_status status = read_blob_arguments(check, literal, &from);
    if (status) return status;
    size_t length = strlen(from.path) + 48;
    char *key = mil_region_alloc(check->region, length, 1);
    if (!key) return mil_no_memory(check);
    snprintf(key, length, "%llu %s %s", (unsigned long long)from.offset,
             mil_dtype_name(value->type.dtype), from.path);
    size_t known = mil_table_find(&check->records, key);
    if (known != MIL_NONE) {
        const mil_value *earlier = &check->program->values[known];
        if (mil_elements(&earlier->type) == mil_elements(&value->type)) {
            value->floats = earlier->floats;
            value->ints = earlier->ints;
            value->record = earlier->record;
            value->twin = known;
            return ANE_OK;
        }
    }
    value->twin = check->program->value_count;
    status = decode_record(check, literal, &from, value);
    if (status) return status;
    /* The value that is about to be added. */
    return mil_table_add(&check->records, check->region, key, check->program->value_count)
               ? ANE_OK
               : mil_no_memory(check);
}

ane_status mil_add_constant(mil_check *check, const mil_operand *operand, const char *name,
                            size_t *index) {
    const mil_literal *literal = &operand->literal;
    mil_value value = {.name = name,
                       .producer = MIL_NONE,
                       .input = MIL_NONE,
                       .line = operand->name.line,
                       .column = operand->name.column};
    ane_status status = mil_check_type(check, operand->type, &value.type);
    if (status) return status;
    if (literal->kind == MIL_LITERAL_BLOB) {
        if (!mil_dtype_size(value.type.dtype)) {
            return ane_fail_at(check->error, ANE_ERROR_UNSUPPORTED, literal->line, literal->column,
                               "weight files hold no %s", mil_dtype_name(value.type.dtype));
        }
        status = decode_blob(check, literal, &value);
    } else if (value.type.dtype == MIL_STRING) {
        status = decode_string(check, literal, &value);
    } else {
        status = decode_immediate(check, literal, &value);
    }
    if (status) return status;
    *index = mil_add_value(check, &value);
    return *index == MIL_NONE ? ANE_ERROR_MEMORY : ANE_OK;
}
