/* call.c: binding the arguments of a statement to the parameters of its op, and the accessors that
 * type rules are written with. Every failure is placed at the argument that causes it. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

typedef struct slot {
    const char *name;
    size_t length, index;
    bool constant, settled, optional, variadic; /* ! % ? * */
} slot;

static const char *const slots_of_ops[] = {
#define MIL_OP(name, slots, rule, evaluate) slots,
#include "ops.def"
#undef MIL_OP
};

/* Reads the next parameter of a row of ops.def; false at its end. */
static bool next_slot(const char **text, slot *out) {
    const char *at = *text;
    while (*at == ' ') at++;
    if (!*at) return false;
    size_t index = out->name ? out->index + 1 : 0;
    *out = (slot){.name = at, .index = index, .length = strcspn(at, "!%?* ")};
    for (at += out->length; *at && *at != ' '; at++) {
        out->constant = out->constant || *at == '!';
        out->settled = out->settled || *at == '%';
        out->optional = out->optional || *at == '?';
        out->variadic = out->variadic || *at == '*';
    }
    *text = at;
    return true;
}

static bool find_slot(mil_kind kind, const char *name, size_t length, slot *out) {
    const char *text = slots_of_ops[kind];
    *out = (slot){0};
    while (next_slot(&text, out)) {
        if (out->length == length && memcmp(out->name, name, length) == 0) return true;
    }
    return false;
}

ane_status mil_reject(const mil_rule_call *call, const char *slot_name, ane_status status,
                      const char *format, ...) {
    char reason[300];
    slot found;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    const char *op = mil_kind_name(call->op->kind);
    if (slot_name && find_slot(call->op->kind, slot_name, strlen(slot_name), &found) &&
        call->where[found.index].line) {
        mil_place place = call->where[found.index];
        return ane_fail_at(call->check->error, status, place.line, place.column, "%s, %s: %s", op,
                           slot_name, reason);
    }
    return ane_fail_at(call->check->error, status, call->op->line, call->op->column, "%s: %s", op,
                       reason);
}

/* --- binding --- */

/* The value that an operand names, or the constant that it is. */
static ane_status resolve(mil_rule_call *call, const mil_operand *operand, const char *name,
                          size_t *index) {
    mil_check *check = call->check;
    if (operand->type) return mil_add_constant(check, operand, name, index);
    char *key = mil_region_text(check->region, operand->name.text, operand->name.length);
    if (!key) return mil_no_memory(check);
    *index = mil_table_find(&check->names, key);
    if (*index != MIL_NONE) return ANE_OK;
    return ane_fail_at(check->error, ANE_ERROR_TYPE, operand->name.line, operand->name.column,
                       "no value is called '%.*s' here", mil_name_width(operand->name.length),
                       operand->name.text);
}

static ane_status bind_variadic(mil_rule_call *call, const mil_argument *argument) {
    mil_op *op = call->op;
    op->variadic = mil_region_alloc(call->check->region, argument->count, sizeof *op->variadic);
    if (!op->variadic) return mil_no_memory(call->check);
    op->variadic_count = argument->count;
    ane_status status = ANE_OK;
    for (size_t i = 0; i < argument->count && !status; i++)
        status = resolve(call, &argument->operands[i], "", &op->variadic[i]);
    return status;
}

static bool is_constexpr(const char *op) {
    return strncmp(op, "constexpr_", 10) == 0;
}

/* A parameter that must be known before the program runs is. */
static bool known_enough(const mil_check *check, const slot *to, size_t index) {
    const mil_value *value = &check->program->values[index];
    if (mil_is_constant(value) || !(to->constant || to->settled)) return true;
    return to->settled && value->producer != MIL_NONE &&
           is_constexpr(mil_kind_name(check->program->ops[value->producer].kind));
}

static ane_status bind_single(mil_rule_call *call, const mil_argument *argument, const slot *to) {
    mil_check *check = call->check;
    if (argument->count != 1) {
        return ane_fail_at(check->error, ANE_ERROR_TYPE, argument->name.line, argument->name.column,
                           "'%.*s' takes one value", (int)to->length, to->name);
    }
    ane_status status = resolve(call, argument->operands, "", &call->op->inputs[to->index]);
    if (status) return status;
    if (!known_enough(check, to, call->op->inputs[to->index])) {
        return ane_fail_at(check->error, ANE_ERROR_UNSUPPORTED, argument->operands->name.line,
                           argument->operands->name.column, "'%.*s' must be a constant",
                           (int)to->length, to->name);
    }
    return ANE_OK;
}

static ane_status bind_argument(mil_rule_call *call, const mil_argument *argument) {
    const mil_name *name = &argument->name;
    slot to;
    if (!find_slot(call->op->kind, name->text, name->length, &to)) {
        return ane_fail_at(call->check->error, ANE_ERROR_TYPE, name->line, name->column,
                           "%s has no parameter '%.*s'", mil_kind_name(call->op->kind),
                           mil_name_width(name->length), name->text);
    }
    mil_place *place = &call->where[to.index];
    if (place->line) {
        return ane_fail_at(call->check->error, ANE_ERROR_TYPE, name->line, name->column,
                           "'%.*s' is given twice", (int)to.length, to.name);
    }
    *place = (mil_place){argument->operands->name.line, argument->operands->name.column};
    return to.variadic ? bind_variadic(call, argument) : bind_single(call, argument, &to);
}

/* Only constexpr ops take their arguments as attributes; of others `name` alone is known. */
static ane_status bind_attribute(mil_rule_call *call, const mil_argument *attribute) {
    const mil_name *name = &attribute->name;
    if (mil_name_is(name, "name")) return ANE_OK;
    if (is_constexpr(mil_kind_name(call->op->kind))) return bind_argument(call, attribute);
    return ane_fail_at(call->check->error, ANE_ERROR_TYPE, name->line, name->column,
                       "%s has no attribute '%.*s'", mil_kind_name(call->op->kind),
                       mil_name_width(name->length), name->text);
}

ane_status mil_bind(mil_rule_call *call, const mil_statement *statement) {
    ane_status status = ANE_OK;
    for (size_t i = 0; i < MIL_MAX_SLOTS; i++) call->op->inputs[i] = MIL_NONE;
    for (size_t i = 0; i < statement->arguments.count && !status; i++)
        status = bind_argument(call, &statement->arguments.items[i]);
    for (size_t i = 0; i < statement->attributes.count && !status; i++)
        status = bind_attribute(call, &statement->attributes.items[i]);
    if (status) return status;
    const char *text = slots_of_ops[call->op->kind];
    for (slot each = {0}; next_slot(&text, &each);) {
        if (!each.optional && !call->where[each.index].line) {
            return mil_reject(call, NULL, ANE_ERROR_TYPE, "argument '%.*s' is missing",
                              (int)each.length, each.name);
        }
    }
    return ANE_OK;
}

/* --- accessors --- */

static size_t slot_index(const mil_rule_call *call, const char *name) {
    slot found;
    bool known = find_slot(call->op->kind, name, strlen(name), &found);
    return known ? found.index : MIL_MAX_SLOTS - 1; /* never bound: rows are shorter */
}

const mil_value *mil_argument_of(const mil_rule_call *call, const char *slot_name) {
    size_t value = call->op->inputs[slot_index(call, slot_name)];
    return value == MIL_NONE ? NULL : &call->check->program->values[value];
}

ane_status mil_need_dtype(const mil_rule_call *call, const char *slot_name, unsigned mask) {
    const mil_value *value = mil_argument_of(call, slot_name);
    if (!value || mask & MIL_MASK(value->type.dtype)) return ANE_OK;
    return mil_reject(call, slot_name, ANE_ERROR_TYPE, "dtype %s is not possible here",
                      mil_dtype_name(value->type.dtype));
}

ane_status mil_need_same_dtype(const mil_rule_call *call, const char *slot_name,
                               const char *other) {
    const mil_value *a = mil_argument_of(call, slot_name), *b = mil_argument_of(call, other);
    if (!a || !b || a->type.dtype == b->type.dtype) return ANE_OK;
    return mil_reject(call, slot_name, ANE_ERROR_TYPE, "dtype %s where '%s' has %s",
                      mil_dtype_name(a->type.dtype), other, mil_dtype_name(b->type.dtype));
}

ane_status mil_need_opset(const mil_rule_call *call, const char *slot_name, unsigned opset) {
    if (call->check->opset >= opset) return ANE_OK;
    if (slot_name && !mil_argument_of(call, slot_name)) return ANE_OK;
    return mil_reject(call, slot_name, ANE_ERROR_TYPE, "needs opset ios%u; the function has ios%u",
                      opset, call->check->opset);
}

unsigned mil_movable(const mil_rule_call *call) {
    unsigned wide = call->check->opset >= 17 ? MIL_BYTES | MIL_SHORTS : 0;
    return MIL_NUMBERS | MIL_MASK(MIL_BOOL) | wide;
}

static ane_status need_scalar(const mil_rule_call *call, const char *slot_name, mil_dtype dtype) {
    const mil_value *value = mil_argument_of(call, slot_name);
    if (value->type.dtype == dtype && value->type.rank == 0) return ANE_OK;
    char buffer[MIL_TYPE_TEXT];
    return mil_reject(call, slot_name, ANE_ERROR_TYPE, "a scalar %s is needed, not %s",
                      mil_dtype_name(dtype), mil_type_text(&value->type, buffer));
}

ane_status mil_flag(const mil_rule_call *call, const char *slot_name, bool *value) {
    const mil_value *argument = mil_argument_of(call, slot_name);
    if (!argument) return ANE_OK;
    ane_status status = need_scalar(call, slot_name, MIL_BOOL);
    if (!status) *value = argument->ints[0] != 0;
    return status;
}

ane_status mil_scalar(const mil_rule_call *call, const char *slot_name, int32_t *value) {
    const mil_value *argument = mil_argument_of(call, slot_name);
    if (!argument) return ANE_OK;
    ane_status status = need_scalar(call, slot_name, MIL_INT32);
    if (!status) *value = argument->ints[0];
    return status;
}

ane_status mil_list(const mil_rule_call *call, const char *slot_name, int32_t *values,
                    size_t *count) {
    const mil_value *argument = mil_argument_of(call, slot_name);
    char buffer[MIL_TYPE_TEXT];
    if (!argument->ints || argument->type.rank != 1) {
        return mil_reject(call, slot_name, ANE_ERROR_TYPE, "a list of integers is needed, not %s",
                          mil_type_text(&argument->type, buffer));
    }
    if (argument->type.dim[0] > MIL_MAX_LIST) {
        return mil_reject(call, slot_name, ANE_ERROR_TYPE, "a list of %zu integers is too long",
                          argument->type.dim[0]);
    }
    *count = argument->type.dim[0];
    memcpy(values, argument->ints, *count * sizeof *values);
    return ANE_OK;
}

ane_status mil_list_of(const mil_rule_call *call, const char *slot_name, size_t count,
                       int32_t *values) {
    int32_t list[MIL_MAX_LIST];
    size_t length = 0;
    if (!mil_argument_of(call, slot_name)) return ANE_OK;
    ane_status status = mil_list(call, slot_name, list, &length);
    if (status) return status;
    if (length != count) {
        return mil_reject(call, slot_name, ANE_ERROR_TYPE, "%zu elements are needed, not %zu",
                          count, length);
    }
    memcpy(values, list, count * sizeof *values);
    return ANE_OK;
}

static ane_status rebind(mil_rule_call *call, const char *slot_name, const mil_type *type,
                         const int32_t *values) {
    mil_check *check = call->check;
    size_t count = mil_elements(type);
    const mil_value *before = mil_argument_of(call, slot_name);
    if (before && mil_same_type(&before->type, type) &&
        memcmp(before->ints, values, count * sizeof *values) == 0)
        return ANE_OK;
    mil_place place = call->where[slot_index(call, slot_name)];
    mil_value value = {.name = "",
                       .type = *type,
                       .producer = MIL_NONE,
                       .input = MIL_NONE,
                       .line = place.line ? place.line : call->op->line,
                       .column = place.line ? place.column : call->op->column};
    int32_t *copy = mil_region_alloc(check->region, count, sizeof *copy);
    if (!copy) return mil_no_memory(check);
    memcpy(copy, values, count * sizeof *copy);
    value.ints = copy;
    size_t added = mil_add_value(check, &value);
    if (added == MIL_NONE) return ANE_ERROR_MEMORY;
    call->op->inputs[slot_index(call, slot_name)] = added;
    return ANE_OK;
}

ane_status mil_rebind(mil_rule_call *call, const char *slot_name, const int32_t *values,
                      size_t count) {
    return rebind(call, slot_name, &(mil_type){MIL_INT32, 1, {count}}, values);
}

void mil_unbind(mil_rule_call *call, const char *slot_name) {
    call->op->inputs[slot_index(call, slot_name)] = MIL_NONE;
}

ane_status mil_axis(mil_rule_call *call, const char *slot_name, size_t rank, size_t *axis) {
    int32_t value = 0;
    ane_status status = mil_scalar(call, slot_name, &value);
    if (status || !mil_argument_of(call, slot_name)) return status;
    int32_t end = (int32_t)rank;
    if (value < -end || value >= end) {
        return mil_reject(call, slot_name, ANE_ERROR_TYPE, "axis %d of a tensor of rank %zu", value,
                          rank);
    }
    value += value < 0 ? end : 0;
    *axis = (size_t)value;
    return rebind(call, slot_name, &(mil_type){.dtype = MIL_INT32}, &value);
}

ane_status mil_axes(mil_rule_call *call, const char *slot_name, size_t rank,
                    bool members[MIL_MAX_RANK]) {
    int32_t list[MIL_MAX_LIST];
    size_t count, kept = 0;
    bool given = mil_argument_of(call, slot_name) != NULL;
    for (size_t i = 0; i < MIL_MAX_RANK; i++) members[i] = !given && i < rank;
    if (!given) return ANE_OK;
    ane_status status = mil_list(call, slot_name, list, &count);
    if (status) return status;
    for (size_t i = 0; i < count; i++) {
        int32_t axis = list[i] < 0 ? list[i] + (int32_t)rank : list[i];
        if (axis < 0 || axis >= (int32_t)rank) {
            return mil_reject(call, slot_name, ANE_ERROR_TYPE, "axis %d of a tensor of rank %zu",
                              list[i], rank);
        }
        if (members[axis])
            return mil_reject(call, slot_name, ANE_ERROR_TYPE, "axis %d is named twice", axis);
        members[axis] = true;
    }
    for (size_t i = 0; i < rank; i++) {
        if (members[i]) list[kept++] = (int32_t)i;
    }
    return mil_rebind(call, slot_name, list, kept);
}

bool mil_broadcast(const mil_type *type, mil_type *result) {
    mil_type out = {.dtype = result->dtype};
    out.rank = type->rank > result->rank ? type->rank : result->rank;
    for (size_t i = 1; i <= out.rank; i++) { /* from the last axis */
        size_t a = i <= type->rank ? type->dim[type->rank - i] : 1;
        size_t b = i <= result->rank ? result->dim[result->rank - i] : 1;
        if (a != b && a != 1 && b != 1) return false;
        out.dim[out.rank - i] = a == 1 ? b : a;
    }
    *result = out;
    return true;
}

ane_status mil_need_size(const mil_rule_call *call, const mil_type *type) {
    size_t elements = 1;
    for (size_t i = 0; i < type->rank; i++) {
        if (type->dim[i] > MIL_MAX_DIM || !ane_size_mul(elements, type->dim[i], &elements) ||
            elements > MIL_MAX_ELEMENTS)
            return mil_reject(call, NULL, ANE_ERROR_TYPE, "the result is too large to address");
    }
    return ANE_OK;
}
