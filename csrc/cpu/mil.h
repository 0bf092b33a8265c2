/* mil.h: the software engine's view of a MIL program, in the order of the pipeline: lex, parse,
 * print, check (front end), plan, execute, kernels (back end). The checked program below is the
 * border between the two halves: the front end promises all that its comments say, and the back end
 * checks nothing again. Section headings name the file that defines each part. */
#pragma once

#include "../base/base.h"

#define MIL_MAX_RANK 5
#define MIL_MAX_SLOTS 12
#define MIL_NONE ((size_t)-1)

/* --- check.c: the checked program --- */

typedef enum mil_dtype {
    MIL_FP16,
    MIL_FP32,
    MIL_INT8,
    MIL_UINT8,
    MIL_INT16,
    MIL_UINT16,
    MIL_INT32,
    MIL_UINT32,
    MIL_INT64,
    MIL_UINT64,
    MIL_BOOL,
    MIL_STRING
} mil_dtype;

/* A dimension is 1 .. 2^31-1 and a value has at most 2^40 elements, so no sum or product of the
 * sizes of a program overflows a size_t. */
typedef struct mil_type {
    mil_dtype dtype;
    size_t rank; /* 0: scalar */
    size_t dim[MIL_MAX_RANK];
} mil_type;

/* One single-assignment value. Constants are decoded: floats[] for fp16 and fp32 (fp16 rounded
 * unless the numerics are ANE_FP32), ints[] for integers and bool (0 or 1), text for strings. Large
 * matrices of fp16 and int8 are not: `record` is their data in the weight file, of the value's own
 * dtype and as long-lived as the file, and floats and ints are NULL. Only constants have the dtypes
 * uint32, int64, uint64 and string. */
typedef struct mil_value {
    const char *name; /* "" for an immediate argument */
    mil_type type;
    size_t producer; /* index of the op that makes it; MIL_NONE: a function input or a constant */
    size_t input;    /* index of the function input; MIL_NONE otherwise */
    const float *floats;
    const int32_t *ints;
    const unsigned char *record; /* see above */
    size_t twin;                 /* value of the same record that came first, or itself */
    const char *text;
    size_t line, column;
} mil_value;

/* One X-macro row per op in ops.def: MIL_OP(name, "slots", type_rule, evaluate). */
typedef enum mil_kind {
#define MIL_OP(name, slots, rule, evaluate) MIL_OP_##name,
#include "ops.def"
#undef MIL_OP
    MIL_OP_COUNT
} mil_kind;

/* inputs[i] is the value index bound to the i-th parameter of the op's row in ops.def, MIL_NONE
 * where an optional one is absent and for the variadic one. `const` never appears as an op: its
 * values are constants. Parameters that the row marks with '!' are bound to constants that the op's
 * definition allows, in the form in which the op uses them; one that had to be changed for that is
 * a new value. Axes, axis and perm are 0 .. rank-1 without repetition, axes ascending. The shape of
 * reshape is the result's; begin and size of slice_by_size lie inside x. For slice_by_index, begin
 * is the first position, all of them lie inside x, and end is one past the last in the direction of
 * the stride (so -1 is before the first element); the begin and end masks are absent; where
 * squeeze_mask is set the stride is 1. Parameters marked with '%' are bound to a constant or to the
 * result of a constexpr op. */
typedef struct mil_op {
    mil_kind kind;
    size_t inputs[MIL_MAX_SLOTS];
    size_t *variadic; /* values of the one variadic parameter (concat), else NULL */
    size_t variadic_count;
    size_t *outputs;
    size_t output_count; /* > 1 for split only */
    size_t line, column;
} mil_op;

/* Ops are in an order in which every value is made before it is used. One allocation region owns
 * all. */
typedef struct mil_program {
    mil_value *values;
    size_t value_count;
    mil_op *ops;
    size_t op_count;
    size_t *inputs; /* value indices, in the order of the function's parameters */
    size_t input_count;
    size_t *outputs; /* value indices, in the order of the return tuple */
    size_t output_count;
    struct mil_region *region;
} mil_program;

/* Text to checked program. `numerics` decides whether fp16 constants are rounded; with ANE_FP32 a
 * constant declared fp16 may be backed by an fp32 record of a weight file. */
ane_status mil_program_create(const char *text, size_t length, const ane_weight_file *files,
                              size_t file_count, ane_numerics numerics, mil_program **program,
                              ane_error_info *error);
void mil_program_free(mil_program *program);

/* --- types.c --- */

size_t mil_elements(const mil_type *type);
bool mil_is_float(mil_dtype dtype); /* fp16 or fp32 */
const char *mil_dtype_name(mil_dtype dtype);
const char *mil_kind_name(mil_kind kind);

/* --- print.c --- */

/* Canonical text of well-formed MIL: malloc'ed. Checks syntax only. */
ane_status mil_print(const char *text, size_t length, char **printed, ane_error_info *error);
