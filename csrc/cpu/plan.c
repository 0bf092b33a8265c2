/* plan.c: from a checked program to a plan: which values matter, constants folded, ops lowered in
 * order, outputs stored, and scratch memory laid out so that what is never in use together may
 * overlap. */
#include "plan.h"

#include <string.h>

#include "lower.h"
#include "reference.h"
#include "weights.h"

#define ROW_ALIGNMENT 64
#define SCRATCH_ALIGNMENT 64

static size_t rounded_up(size_t size, size_t unit) {
    return (size + unit - 1) / unit * unit;
}

/* --- ports --- */

static mil_geometry geometry_of(const mil_type *type, ane_numerics numerics) {
    mil_geometry out = {.channels = 1, .width = 1};
    for (size_t i = 0; i + 1 < type->rank; i++) out.channels *= type->dim[i];
    if (type->rank > 0) out.width = type->dim[type->rank - 1];
    out.element_size = type->dtype == MIL_FP16 && numerics != ANE_FP32 ? 2 : 4;
    out.row_stride = rounded_up(out.width * out.element_size, ROW_ALIGNMENT);
    return out;
}

static mil_geometry *geometries(const mil_plan *plan, const size_t *values, size_t count) {
    mil_geometry *out = mil_region_alloc(plan->region, count, sizeof *out);
    for (size_t i = 0; out && i < count; i++)
        out[i] = geometry_of(&plan->program->values[values[i]].type, plan->numerics);
    return out;
}

/* --- what matters, and what is constant --- */

static bool op_is_needed(const mil_lowering *lowering, const mil_op *op) {
    for (size_t i = 0; i < op->output_count; i++)
        if (lowering->values[op->outputs[i]].needed) return true;
    return false;
}

static void find_needed(mil_lowering *lowering) {
    const mil_program *program = lowering->program;
    for (size_t i = 0; i < program->output_count; i++)
        lowering->values[program->outputs[i]].needed = true;
    for (size_t i = program->op_count; i-- > 0;) {
        const mil_op *op = &program->ops[i];
        if (!op_is_needed(lowering, op)) continue;
        for (size_t j = 0; j < mil_operand_count(op); j++)
            if (mil_operand(op, j) != MIL_NONE) lowering->values[mil_operand(op, j)].needed = true;
    }
}

/* The elements of a record, which several values may name. */
static void *decode_record(mil_plan *plan, size_t index) {
    const mil_value *value = &plan->program->values[index];
    if (plan->constants[value->twin]) return plan->constants[value->twin];
    size_t size = mil_dtype_size(value->type.dtype), elements = mil_elements(&value->type);
    void *decoded = mil_region_alloc(plan->region, elements, sizeof(mil_cell));
    mil_record record = {value->type.dtype, value->record, elements * size};
    if (decoded && mil_is_float(record.dtype))
        mil_record_floats(&record, elements, decoded);
    else if (decoded)
        mil_record_integers(&record, elements, decoded);
    return decoded;
}

/* What an op reads of matrices that are kept as they are stored is not decoded for it. */
static void find_read(const mil_plan *plan, bool *read) {
    for (size_t i = 0; i < plan->program->op_count; i++) {
        const mil_op *op = &plan->program->ops[i];
        if (plan->packed[op->outputs[0]]) continue;
        for (size_t j = 0; j < mil_operand_count(op); j++) {
            size_t value = mil_operand(op, j);
            if (value != MIL_NONE && !plan->packed[value]) read[value] = true;
        }
    }
    for (size_t i = 0; i < plan->program->output_count; i++) read[plan->program->outputs[i]] = true;
}

static ane_status find_constants(mil_lowering *lowering, ane_error_info *error) {
    mil_plan *plan = lowering->plan;
    const mil_program *program = plan->program;
    bool *read = mil_region_alloc(lowering->temporary, program->value_count, sizeof *read);
    if (!read || lowering->failed)
        return ane_fail(error, ANE_ERROR_MEMORY, "no memory for constants");
    find_read(plan, read);
    for (size_t i = 0; i < program->value_count; i++) {
        const mil_value *value = &program->values[i];
        if (value->floats)
            plan->constants[i] = (void *)(uintptr_t)value->floats;
        else if (value->ints)
            plan->constants[i] = (void *)(uintptr_t)value->ints;
        else if (value->record && read[i] && !(plan->constants[i] = decode_record(plan, i)))
            return ane_fail(error, ANE_ERROR_MEMORY, "no memory for constants");
        if (plan->constants[i])
            plan->constant_bytes += mil_elements(&value->type) * sizeof(mil_cell);
    }
    return ANE_OK;
}

/* Strings have no elements: they are constants all the same. */
static bool has_constant_operands(const mil_plan *plan, const mil_op *op) {
    for (size_t i = 0; i < mil_operand_count(op); i++) {
        size_t value = mil_operand(op, i);
        if (value == MIL_NONE || plan->program->values[value].text) continue;
        if (!plan->constants[value]) return false;
    }
    return true;
}

static ane_status fold(mil_plan *plan, const mil_op *op, ane_error_info *error) {
    for (size_t i = 0; i < op->output_count; i++) {
        size_t elements = mil_elements(&plan->program->values[op->outputs[i]].type);
        void *memory = mil_region_alloc(plan->region, elements, sizeof(mil_cell));
        if (!memory) return ane_fail(error, ANE_ERROR_MEMORY, "no memory for folded constants");
        plan->constants[op->outputs[i]] = memory;
        plan->constant_bytes += elements * sizeof(mil_cell);
    }
    mil_evaluation call = {plan->program, op,   plan->constants, plan->numerics,
                           plan->hazards, error};
    return mil_reference_evaluate(&call);
}

static ane_status fold_constants(mil_lowering *lowering, ane_error_info *error) {
    mil_plan *plan = lowering->plan;
    mil_find_packed(lowering);
    ane_status status = find_constants(lowering, error);
    for (size_t i = 0; i < plan->program->op_count && status == ANE_OK; i++) {
        const mil_op *op = &plan->program->ops[i];
        if (op_is_needed(lowering, op) && has_constant_operands(plan, op))
            status = fold(plan, op, error);
    }
    return status;
}

/* --- lowering --- */

static void lower_op(mil_lowering *lowering, const mil_op *op) {
    static void (*const functions[])(mil_lowering *, const mil_op *) = {
#define MIL_OP(name, slots, rule, evaluate) mil_lower_##evaluate,
#include "ops.def"
#undef MIL_OP
    };
    functions[op->kind](lowering, op);
}

/* An output whose elements have 4 bytes. */
static void store_output(mil_lowering *lowering, size_t index) {
    mil_plan *plan = lowering->plan;
    size_t value = plan->program->outputs[index];
    mil_view from = mil_view_of(lowering, value);
    const mil_storage *found = &plan->storages[from.storage];
    bool on_surface = found->kind == MIL_STORAGE_OUTPUT && found->index == index;
    if (on_surface && mil_view_equal(&from, &lowering->values[value].place)) return;
    mil_storage storage = {.kind = MIL_STORAGE_OUTPUT, .index = index};
    mil_view to = mil_view_on_surface(mil_add_storage(lowering, storage),
                                      &plan->program->values[value].type, &plan->outputs[index]);
    mil_add_copy(lowering, MIL_STEP_COPY, from, to);
}

/* The most steps that ops can need: each operand loaded and copied once, each output made and
 * copied. */
static size_t most_steps(const mil_program *program) {
    size_t steps = 4 * program->output_count;
    for (size_t i = 0; i < program->op_count; i++) {
        const mil_op *op = &program->ops[i];
        steps += 2 + 2 * op->output_count + 2 * op->variadic_count;
        for (size_t j = 0; j < MIL_MAX_SLOTS; j++) steps += op->inputs[j] == MIL_NONE ? 0 : 2;
    }
    return steps;
}

static bool prepare_lowering(mil_lowering *lowering) {
    mil_plan *plan = lowering->plan;
    size_t steps = most_steps(plan->program), values = plan->program->value_count;
    plan->steps = mil_lower_alloc(lowering, steps, sizeof *plan->steps);
    plan->blocks = mil_lower_alloc(lowering, steps, sizeof *plan->blocks);
    plan->storages = mil_lower_alloc(lowering, 2 * steps + 2 * values, sizeof *plan->storages);
    size_t members = 0; /* of one output each: elementwise ops and slices that saturate */
    for (size_t i = 0; i < plan->program->op_count; i++)
        members += plan->program->ops[i].output_count;
    lowering->groups = mil_lower_temporary(lowering, members, sizeof *lowering->groups);
    lowering->members = mil_lower_temporary(lowering, members, sizeof *lowering->members);
    return !lowering->failed;
}

static void lower_program(mil_lowering *lowering) {
    const mil_program *program = lowering->program;
    mil_find_pieces(lowering);
    if (lowering->failed) return;
    mil_choose_places(lowering);
    for (size_t i = 0; i < program->op_count; i++) {
        const mil_op *op = &program->ops[i];
        size_t out = op->outputs[0];
        bool known = lowering->plan->constants[out] || lowering->plan->packed[out] ||
                     lowering->values[out].lowered;
        if (op_is_needed(lowering, op) && !known) lower_op(lowering, op);
    }
    for (size_t i = 0; i < program->output_count; i++)
        if (lowering->plan->outputs[i].element_size == 4) store_output(lowering, i);
    mil_store_pieces(lowering);
    mil_close_groups(lowering);
}

/* --- scratch memory --- */

/* Blocks that nothing reads, since products read the surface itself, are not loaded. */
static void drop_idle_loads(mil_plan *plan) {
    for (size_t i = 0; i < plan->block_count; i++) {
        mil_storage *storage = &plan->storages[plan->blocks[i].storage];
        if (storage->first != storage->last) continue;
        plan->steps[storage->first].kind = MIL_STEP_NOTHING;
        storage->first = MIL_NONE;
    }
}

static bool in_scratch(const mil_storage *storage) {
    bool kept = storage->kind == MIL_STORAGE_SCRATCH || storage->kind == MIL_STORAGE_BLOCK;
    return kept && storage->first != MIL_NONE;
}

static bool overlap_in_time(const mil_storage *a, const mil_storage *b) {
    return a->first <= b->last && b->first <= a->last;
}

static size_t storage_bytes(const mil_storage *storage) {
    return rounded_up(storage->elements * sizeof(mil_cell), SCRATCH_ALIGNMENT);
}

/* The lowest offset at which the storage meets none of those already laid out. */
static size_t lowest_offset(const mil_plan *plan, size_t index) {
    const mil_storage *storage = &plan->storages[index];
    size_t offset = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (size_t i = 0; i < index; i++) {
            const mil_storage *other = &plan->storages[i];
            if (!in_scratch(other) || !overlap_in_time(storage, other)) continue;
            size_t end = other->offset + storage_bytes(other);
            if (offset >= end || offset + storage_bytes(storage) <= other->offset) continue;
            offset = end;
            moved = true;
        }
    }
    return offset;
}

static void lay_out_scratch(mil_plan *plan) {
    for (size_t i = 0; i < plan->storage_count; i++) {
        mil_storage *storage = &plan->storages[i];
        if (!in_scratch(storage)) continue;
        storage->offset = lowest_offset(plan, i);
        size_t end = storage->offset + storage_bytes(storage);
        if (end > plan->scratch_bytes) plan->scratch_bytes = end;
    }
}

size_t mil_plan_reference_bytes(const mil_plan *plan, size_t value) {
    const mil_value *described = &plan->program->values[value];
    if (plan->constants[value] || described->text) return 0;
    return rounded_up(mil_elements(&described->type) * sizeof(mil_cell), SCRATCH_ALIGNMENT);
}

/* --- the whole --- */

/* The plan of the reference evaluator is its layout of scratch memory. */
static void plan_reference(mil_plan *plan) {
    for (size_t i = 0; i < plan->program->value_count; i++)
        plan->scratch_bytes += mil_plan_reference_bytes(plan, i);
}

static bool prepare_plan(mil_plan *plan, mil_lowering *lowering) {
    const mil_program *program = plan->program;
    size_t values = program->value_count;
    plan->constants = mil_lower_alloc(lowering, values, sizeof *plan->constants);
    plan->packed = mil_lower_alloc(lowering, values, sizeof *plan->packed);
    plan->inputs = geometries(plan, program->inputs, program->input_count);
    plan->outputs = geometries(plan, program->outputs, program->output_count);
    lowering->values = mil_region_alloc(lowering->temporary, values, sizeof *lowering->values);
    if (lowering->failed || !plan->inputs || !plan->outputs || !lowering->values) return false;
    for (size_t i = 0; i < values; i++) {
        mil_value_state *state = &lowering->values[i];
        state->group = state->zeros = MIL_NONE;
    }
    return true;
}

static ane_status fill_plan(mil_plan *plan, mil_region *temporary, ane_error_info *error) {
    mil_lowering lowering = {.plan = plan, .program = plan->program, .temporary = temporary};
    if (!prepare_plan(plan, &lowering))
        return ane_fail(error, ANE_ERROR_MEMORY, "no memory for a plan");
    find_needed(&lowering);
    ane_status status = fold_constants(&lowering, error);
    if (status != ANE_OK) return status;
    if (plan->reference) {
        plan_reference(plan);
        return ANE_OK;
    }
    if (prepare_lowering(&lowering)) lower_program(&lowering);
    if (lowering.failed) return ane_fail(error, ANE_ERROR_MEMORY, "no memory for a plan");
    drop_idle_loads(plan);
    mil_find_chains(plan);
    lay_out_scratch(plan);
    return ANE_OK;
}

ane_status mil_plan_create(const mil_program *program, const ane_options *options,
                           bool reads_halves, mil_plan **plan, ane_error_info *error) {
    *plan = NULL;
    mil_region *region = mil_region_create(), *temporary = mil_region_create();
    mil_plan *created = region ? mil_region_alloc(region, 1, sizeof *created) : NULL;
    if (!created || !temporary) {
        mil_region_free(region);
        mil_region_free(temporary);
        return ane_fail(error, ANE_ERROR_MEMORY, "no memory for a plan");
    }
    created->program = program;
    created->region = region;
    created->numerics = options->numerics;
    created->hazards = options->numerics == ANE_HAZARD ? options->hazards : 0;
    created->reference = options->reference;
    created->reads_halves = reads_halves;
    created->threads = options->threads ? options->threads : 1;
    ane_status status = fill_plan(created, temporary, error);
    mil_region_free(temporary);
    if (status != ANE_OK) {
        mil_region_free(region);
        return status;
    }
    *plan = created;
    return ANE_OK;
}

void mil_plan_free(mil_plan *plan) {
    if (plan) mil_region_free(plan->region);
}
