/* check.h: what the parts of the checker share: the state of a check, types, constants and the
 * accessors that type rules are written with. */
#pragma once

#include <stdio.h>

#include "ast.h"
#include "mil.h"
#include "table.h"

/* Bounds of a type, so that no later sum or product of sizes can overflow 64 bits: a dimension fits
 * an int32 and a value has at most 2^40 elements. */
#define MIL_MAX_DIM ((uint64_t)INT32_MAX)
#define MIL_MAX_ELEMENTS ((size_t)1 << 40)
#define MIL_TYPE_TEXT 160

_Static_assert(sizeof(size_t) == 8, "sizes are bounded for 64 bits");

typedef struct mil_check {
    ane_error_info *error;
    mil_region *region; /* owns what the checked program keeps */
    const ane_weight_file *files;
    size_t file_count;
    ane_numerics numerics;
    unsigned opset; /* 15 for ios15 ... */
    mil_program *program;
    size_t value_capacity, op_capacity;
    mil_table names;   /* of values */
    mil_table records; /* weight records decoded so far: value indices */
} mil_check;

/* --- types.c --- */

bool mil_dtype_find(const char *text, size_t length, mil_dtype *dtype);
bool mil_kind_find(const char *text, size_t length, mil_kind *kind);
bool mil_same_type(const mil_type *a, const mil_type *b);
/* As MIL spells it; the result may be a constant string. */
const char *mil_type_text(const mil_type *type, char buffer[MIL_TYPE_TEXT]);
ane_status mil_check_type(mil_check *check, const mil_type_node *node, mil_type *type);

/* --- constants.c --- */

/* Appends a value. MIL_NONE, with the error set, when memory is short. */
size_t mil_add_value(mil_check *check, const mil_value *value);
/* Decodes a typed literal into a new constant called `name`. */
ane_status mil_add_constant(mil_check *check, const mil_operand *operand, const char *name,
                            size_t *index);
bool mil_is_constant(const mil_value *value);
ane_status mil_no_memory(mil_check *check);

/* --- call.c: one op being checked --- */

typedef struct mil_place {
    size_t line, column;
} mil_place;

typedef struct mil_rule_call {
    mil_check *check;
    mil_op *op;
    mil_place where[MIL_MAX_SLOTS]; /* of each argument */
    mil_type *results;              /* filled in by the type rule */
    size_t result_count;            /* as many as the statement declares */
} mil_rule_call;

/* A type rule: checks the arguments and derives the types of the results. */
typedef ane_status (*mil_rule)(mil_rule_call *call);

#define MIL_MASK(dtype) (1u << (dtype))
#define MIL_FLOATS (MIL_MASK(MIL_FP16) | MIL_MASK(MIL_FP32))
#define MIL_NUMBERS (MIL_FLOATS | MIL_MASK(MIL_INT32))
#define MIL_BYTES (MIL_MASK(MIL_INT8) | MIL_MASK(MIL_UINT8))
#define MIL_SHORTS (MIL_MASK(MIL_INT16) | MIL_MASK(MIL_UINT16))

/* Binds the arguments of a statement to the parameters of the op's row in ops.def. */
ane_status mil_bind(mil_rule_call *call, const mil_statement *statement);
/* Fails at an argument, or at the op where `slot` is NULL or absent. */
ane_status mil_reject(const mil_rule_call *call, const char *slot, ane_status status,
                      const char *format, ...) ANE_PRINTF(4, 5);
/* The argument of a parameter, NULL where it is absent; valid until a value is added. */
const mil_value *mil_argument_of(const mil_rule_call *call, const char *slot);
/* The argument's dtype is one of the mask's. */
ane_status mil_need_dtype(const mil_rule_call *call, const char *slot, unsigned mask);
/* Two arguments have equal dtypes. */
ane_status mil_need_same_dtype(const mil_rule_call *call, const char *slot, const char *other);
ane_status mil_need_opset(const mil_rule_call *call, const char *slot, unsigned opset);
/* fp16, fp32, int32 and bool, and from ios17 on 8- and 16-bit integers: what ops that move data
 * take. */
unsigned mil_movable(const mil_rule_call *call);
/* A scalar bool or int32; `value` is left alone where the argument is absent. */
ane_status mil_flag(const mil_rule_call *call, const char *slot, bool *value);
ane_status mil_scalar(const mil_rule_call *call, const char *slot, int32_t *value);
/* A rank-1 list of integers of any width, copied into `values`, at most MIL_MAX_LIST of them. */
#define MIL_MAX_LIST 10
ane_status mil_list(const mil_rule_call *call, const char *slot, int32_t *values, size_t *count);
/* The same, of exactly `count` integers. */
ane_status mil_list_of(const mil_rule_call *call, const char *slot, size_t count, int32_t *values);
/* An axis in -rank .. rank-1, made non-negative and bound again. */
ane_status mil_axis(mil_rule_call *call, const char *slot, size_t rank, size_t *axis);
/* Distinct axes, made non-negative, sorted and bound again; members[i] says that axis i is named.
 * All axes are members where the argument is absent. */
ane_status mil_axes(mil_rule_call *call, const char *slot, size_t rank, bool members[MIL_MAX_RANK]);
/* Replaces a constant list by the one that the op works with. */
ane_status mil_rebind(mil_rule_call *call, const char *slot, const int32_t *values, size_t count);
/* Makes an optional parameter absent. */
void mil_unbind(mil_rule_call *call, const char *slot);
/* NumPy broadcasting of `type` onto `result`, dtypes aside; false if they do not fit. */
bool mil_broadcast(const mil_type *type, mil_type *result);
/* A result within the bounds of a type, MIL_MAX_RANK, MIL_MAX_DIM and MIL_MAX_ELEMENTS. */
ane_status mil_need_size(const mil_rule_call *call, const mil_type *type);

/* --- check_ops*.c --- */

ane_status mil_rule_cast(mil_rule_call *call);
ane_status mil_rule_same(mil_rule_call *call);
ane_status mil_rule_broadcast(mil_rule_call *call);
ane_status mil_rule_float_unary(mil_rule_call *call);
ane_status mil_rule_matmul(mil_rule_call *call);
ane_status mil_rule_conv(mil_rule_call *call);
ane_status mil_rule_reshape(mil_rule_call *call);
ane_status mil_rule_transpose(mil_rule_call *call);
ane_status mil_rule_slice_by_size(mil_rule_call *call);
ane_status mil_rule_slice_by_index(mil_rule_call *call);
ane_status mil_rule_concat(mil_rule_call *call);
ane_status mil_rule_split(mil_rule_call *call);
ane_status mil_rule_expand_dims(mil_rule_call *call);
ane_status mil_rule_squeeze(mil_rule_call *call);
ane_status mil_rule_softmax(mil_rule_call *call);
ane_status mil_rule_reduce(mil_rule_call *call);
ane_status mil_rule_layer_norm(mil_rule_call *call);
ane_status mil_rule_gather(mil_rule_call *call);
ane_status mil_rule_select(mil_rule_call *call);
ane_status mil_rule_quantize(mil_rule_call *call);
ane_status mil_rule_dequantize(mil_rule_call *call);
ane_status mil_rule_affine_dequantize(mil_rule_call *call);
