/* reference.c: the table of the reference evaluator, its helpers, and elementwise ops. */
#include "reference.h"

#include <string.h>

#include "attributes.h"
#include "element.h"

ane_status mil_reference_evaluate(const mil_evaluation *call) {
    static ane_status (*const functions[])(const mil_evaluation *) = {
#define MIL_OP(name, slots, rule, evaluate) mil_reference_##evaluate,
#include "ops.def"
#undef MIL_OP
    };
    return functions[call->op->kind](call);
}

const mil_type *mil_slot_type(const mil_evaluation *call, size_t slot) {
    return mil_input_type(call->program, call->op, slot);
}

const float *mil_slot_floats(const mil_evaluation *call, size_t slot) {
    size_t value = call->op->inputs[slot];
    return value == MIL_NONE ? NULL : call->data[value];
}

float *mil_result(const mil_evaluation *call) {
    return call->data[call->op->outputs[0]];
}

void mil_round_result(const mil_evaluation *call) {
    const mil_type *type = mil_output_type(call->program, call->op);
    if (type->dtype == MIL_FP16 && call->numerics != ANE_FP32)
        ane_round_to_half(mil_elements(type), mil_result(call));
}

void mil_unravel(const mil_type *type, size_t index, size_t *at) {
    for (size_t i = type->rank; i-- > 0; index /= type->dim[i]) at[i] = index % type->dim[i];
}

size_t mil_ravel(const mil_type *type, const size_t *at) {
    size_t index = 0;
    for (size_t i = 0; i < type->rank; i++) index = index * type->dim[i] + at[i];
    return index;
}

/* The operand's element for the result's element at `at`: broadcasting aligns last axes, and
 * repeats axes of length 1; a vector along `axis` is indexed by that coordinate. */
static mil_cell operand_cell(const mil_evaluation *call, size_t value, size_t axis, size_t rank,
                             const size_t *at) {
    if (value == MIL_NONE) return (mil_cell){0};
    const mil_type *type = &call->program->values[value].type;
    const mil_cell *cells = call->data[value];
    if (type->rank == 0) return cells[0];
    if (axis != MIL_NONE) return cells[at[axis]];
    size_t own[MIL_MAX_RANK];
    for (size_t i = 0; i < type->rank; i++)
        own[i] = type->dim[i] == 1 ? 0 : at[rank - type->rank + i];
    return cells[mil_ravel(type, own)];
}

ane_status mil_reference_elementwise(const mil_evaluation *call) {
    mil_element_op bound = mil_element_of(call->program, call->op, call->numerics);
    const mil_type *type = mil_output_type(call->program, call->op);
    mil_cell *out = call->data[call->op->outputs[0]];
    for (size_t index = 0; index < mil_elements(type); index++) {
        size_t at[MIL_MAX_RANK];
        mil_unravel(type, index, at);
        mil_cell operand[MIL_MAX_OPERANDS] = {{0}};
        for (size_t i = 0; i < bound.count; i++)
            operand[i] = operand_cell(call, bound.operands[i], bound.axis[i], type->rank, at);
        out[index] = mil_element_scalar(&bound.element, operand[0], operand[1], operand[2]);
    }
    return ANE_OK;
}
