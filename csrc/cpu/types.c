/* types.c: names and sizes of types and names of ops. */
#include <string.h>

#include "check.h"

static const char *const dtype_names[] = {"fp16",  "fp32",   "int8",  "uint8",  "int16", "uint16",
                                          "int32", "uint32", "int64", "uint64", "bool",  "string"};

static const char *const kind_names[] = {
#define MIL_OP(name, slots, rule, evaluate) #name,
#include "ops.def"
#undef MIL_OP
};

size_t mil_elements(const mil_type *type) {
    size_t count = 1;
    for (size_t i = 0; i < type->rank; i++) count *= type->dim[i];
    return count;
}

bool mil_is_float(mil_dtype dtype) {
    return dtype == MIL_FP16 || dtype == MIL_FP32;
}

const char *mil_dtype_name(mil_dtype dtype) {
    return dtype_names[dtype];
}

const char *mil_kind_name(mil_kind kind) {
    return kind_names[kind];
}

bool mil_dtype_find(const char *text, size_t length, mil_dtype *dtype) {
    for (size_t i = 0; i < sizeof dtype_names / sizeof *dtype_names; i++) {
        if (strlen(dtype_names[i]) == length && memcmp(dtype_names[i], text, length) == 0) {
            *dtype = (mil_dtype)i;
            return true;
        }
    }
    return false;
}

bool mil_kind_find(const char *text, size_t length, mil_kind *kind) {
    for (size_t i = 0; i < MIL_OP_COUNT; i++) {
        if (strlen(kind_names[i]) == length && memcmp(kind_names[i], text, length) == 0) {
            *kind = (mil_kind)i;
            return true;
        }
    }
    return false;
}

bool mil_same_type(const mil_type *a, const mil_type *b) {
    if (a->dtype != b->dtype || a->rank != b->rank) return false;
    for (size_t i = 0; i < a->rank; i++) {
        if (a->dim[i] != b->dim[i]) return false;
    }
    return true;
}

const char *mil_type_text(const mil_type *type, char buffer[MIL_TYPE_TEXT]) {
    const char *dtype = mil_dtype_name(type->dtype);
    if (!type->rank) return dtype;
    size_t used = (size_t)snprintf(buffer, MIL_TYPE_TEXT, "tensor<%s, [", dtype);
    for (size_t i = 0; i < type->rank; i++) {
        used += (size_t)snprintf(buffer + used, MIL_TYPE_TEXT - used, "%s%zu", i ? ", " : "",
                                 type->dim[i]);
    }
    snprintf(buffer + used, MIL_TYPE_TEXT - used, "]>");
    return buffer;
}

static ane_status dims_of(mil_check *check, const mil_type_node *dims, mil_type *type) {
    if (dims->count > MIL_MAX_RANK) {
        return ane_fail_at(check->error, ANE_ERROR_TYPE, dims->line, dims->column,
                           "rank %zu; at most %d dimensions are possible", dims->count,
                           MIL_MAX_RANK);
    }
    size_t elements = 1;
    type->rank = dims->count;
    for (size_t i = 0; i < dims->count; i++) {
        const mil_type_node *dim = &dims->items[i];
        if (dim->form == MIL_FORM_ANY) {
            return ane_fail_at(check->error, ANE_ERROR_UNSUPPORTED, dim->line, dim->column,
                               "a dimension '?'; this engine runs fixed shapes only");
        }
        if (dim->number == 0) {
            return ane_fail_at(check->error, ANE_ERROR_TYPE, dim->line, dim->column,
                               "a dimension of 0");
        }
        if (dim->number > MIL_MAX_DIM || !ane_size_mul(elements, dim->number, &elements) ||
            elements > MIL_MAX_ELEMENTS) {
            return ane_fail_at(check->error, ANE_ERROR_TYPE, dim->line, dim->column,
                               "a tensor too large to address");
        }
        type->dim[i] = dim->number;
    }
    return ANE_OK;
}

ane_status mil_check_type(mil_check *check, const mil_type_node *node, mil_type *type) {
    const mil_type_node *dtype = node;
    bool tensor = node->length == 6 && memcmp(node->text, "tensor", 6) == 0;
    if (tensor && (node->count != 2 || node->items[0].form != MIL_FORM_NAMED ||
                   node->items[1].form != MIL_FORM_DIMS)) {
        return ane_fail_at(check->error, ANE_ERROR_TYPE, node->line, node->column,
                           "a tensor type is written tensor<dtype, [dimensions]>");
    }
    *type = (mil_type){0};
    if (tensor) dtype = &node->items[0];
    if (dtype->count || !mil_dtype_find(dtype->text, dtype->length, &type->dtype)) {
        return ane_fail_at(check->error, ANE_ERROR_UNSUPPORTED, dtype->line, dtype->column,
                           "type '%.*s' is not supported", mil_name_width(dtype->length),
                           dtype->text);
    }
    return tensor ? dims_of(check, &node->items[1], type) : ANE_OK;
}
