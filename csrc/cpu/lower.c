/* lower.c: steps, storages and where values are: what lowering any op needs. */
#include "lower.h"

#include <string.h>

void *mil_lower_alloc(mil_lowering *lowering, size_t count, size_t size) {
    void *memory = mil_region_alloc(lowering->plan->region, count, size);
    if (!memory) lowering->failed = true;
    return memory;
}

void *mil_lower_temporary(mil_lowering *lowering, size_t count, size_t size) {
    void *memory = mil_region_alloc(lowering->temporary, count, size);
    if (!memory) lowering->failed = true;
    return memory;
}

size_t mil_operand_count(const mil_op *op) {
    return MIL_MAX_SLOTS + op->variadic_count;
}

size_t mil_operand(const mil_op *op, size_t index) {
    return index < MIL_MAX_SLOTS ? op->inputs[index] : op->variadic[index - MIL_MAX_SLOTS];
}

size_t mil_add_step(mil_lowering *lowering, mil_step step) {
    lowering->plan->steps[lowering->plan->step_count] = step;
    return lowering->plan->step_count++;
}

size_t mil_add_storage(mil_lowering *lowering, mil_storage storage) {
    storage.first = MIL_NONE;
    lowering->plan->storages[lowering->plan->storage_count] = storage;
    return lowering->plan->storage_count++;
}

void mil_touch(mil_lowering *lowering, const mil_view *view, size_t step) {
    mil_storage *storage = &lowering->plan->storages[view->storage];
    if (step < storage->first) storage->first = step;
    if (step > storage->last) storage->last = step;
}

size_t mil_add_copy(mil_lowering *lowering, mil_step_kind kind, mil_view from, mil_view to) {
    size_t step = mil_add_step(lowering, (mil_step){.kind = kind, .copy = {from, to}});
    mil_touch(lowering, &from, step);
    mil_touch(lowering, &to, step);
    return step;
}

mil_view mil_fresh(mil_lowering *lowering, const mil_type *type) {
    mil_storage storage = {.kind = MIL_STORAGE_SCRATCH, .elements = mil_elements(type)};
    return mil_view_whole(mil_add_storage(lowering, storage), type);
}

mil_view mil_target(mil_lowering *lowering, size_t value) {
    const mil_value_state *state = &lowering->values[value];
    if (state->has_place && mil_view_contiguous(&state->place)) return state->place;
    return mil_fresh(lowering, &lowering->program->values[value].type);
}

void mil_define(mil_lowering *lowering, size_t value, mil_view view, size_t step) {
    mil_value_state *state = &lowering->values[value];
    state->has_view = true;
    state->view = view;
    state->ready = step + 1;
    mil_touch(lowering, &view, step);
}

void mil_alias(mil_lowering *lowering, size_t value, size_t of, mil_view view) {
    mil_value_state *state = &lowering->values[value];
    state->has_view = true;
    state->view = view;
    state->ready = lowering->values[of].ready;
}

bool mil_rounds(const mil_lowering *lowering, size_t value) {
    bool is_half = lowering->program->values[value].type.dtype == MIL_FP16;
    return is_half && lowering->plan->numerics != ANE_FP32;
}

/* --- inputs and constants --- */

bool mil_is_narrow_input(const mil_lowering *lowering, size_t value) {
    size_t input = lowering->program->values[value].input;
    return input != MIL_NONE && lowering->plan->inputs[input].element_size == 2;
}

mil_view mil_view_on_surface(size_t storage, const mil_type *type, const mil_geometry *geometry) {
    mil_view view = mil_view_whole(storage, type);
    ptrdiff_t pitch = (ptrdiff_t)(geometry->row_stride / geometry->element_size);
    ptrdiff_t width = (ptrdiff_t)geometry->width;
    for (size_t i = 0; i + 1 < type->rank; i++) view.stride[i] = view.stride[i] / width * pitch;
    return view;
}

/* The rows and columns of the surface from the first to the last that the part touches. */
static mil_block block_of(const mil_plan *plan, size_t port, const mil_view *part) {
    const mil_geometry *geometry = &plan->inputs[port];
    size_t pitch = geometry->row_stride / geometry->element_size;
    mil_block block = {.port = port, .source = *part, .rows = 1, .columns = 1};
    block.row = (size_t)part->offset / pitch;
    block.column = (size_t)part->offset % pitch;
    for (size_t i = 0; i < part->rank; i++) {
        size_t stride = (size_t)part->stride[i], steps = part->dim[i] - 1;
        if (stride >= pitch)
            block.rows += stride / pitch * steps;
        else
            block.columns += stride * steps;
    }
    return block;
}

static size_t find_block(const mil_plan *plan, size_t port, const mil_view *source) {
    for (size_t i = 0; i < plan->block_count; i++)
        if (plan->blocks[i].port == port && mil_view_equal(&plan->blocks[i].source, source))
            return i;
    return MIL_NONE;
}

static size_t add_block(mil_lowering *lowering, mil_block block) {
    mil_plan *plan = lowering->plan;
    mil_storage storage = {.kind = MIL_STORAGE_BLOCK,
                           .index = plan->block_count,
                           .elements = mil_view_elements(&block.source)};
    block.storage = mil_add_storage(lowering, storage);
    size_t step =
        mil_add_step(lowering, (mil_step){.kind = MIL_STEP_LOAD, .block = plan->block_count});
    mil_touch(lowering, &(mil_view){.storage = block.storage}, step);
    plan->blocks[plan->block_count] = block;
    return plan->block_count++;
}

/* The elements of an input's surface as floats, in the order of the source's axes. */
static mil_view load_source(mil_lowering *lowering, size_t port, const mil_view *source,
                            size_t *step) {
    mil_plan *plan = lowering->plan;
    size_t block = find_block(plan, port, source);
    if (block == MIL_NONE) block = add_block(lowering, block_of(plan, port, source));
    size_t storage = plan->blocks[block].storage;
    *step = plan->storages[storage].first;
    mil_type type = {.rank = source->rank};
    memcpy(type.dim, source->dim, sizeof type.dim);
    return mil_view_whole(storage, &type);
}

mil_view mil_load(mil_lowering *lowering, size_t value, const mil_slice *part, size_t *step) {
    size_t port = lowering->program->values[value].input;
    const mil_type *type = &lowering->program->values[value].type;
    mil_view source = mil_view_on_surface(0, type, &lowering->plan->inputs[port]);
    if (part) source = mil_view_slice(&source, part->begin, NULL, part->size);
    return load_source(lowering, port, &source, step);
}

/* The surface of an input, as halves. */
static size_t halves_storage(mil_lowering *lowering, size_t port) {
    const mil_plan *plan = lowering->plan;
    for (size_t i = 0; i < plan->storage_count; i++)
        if (plan->storages[i].kind == MIL_STORAGE_INPUT && plan->storages[i].half &&
            plan->storages[i].index == port)
            return i;
    mil_storage surface = {.kind = MIL_STORAGE_INPUT, .index = port, .half = true};
    return mil_add_storage(lowering, surface);
}

bool mil_halves_of(mil_lowering *lowering, const mil_view *view, mil_view *halves) {
    mil_plan *plan = lowering->plan;
    const mil_storage *copy = &plan->storages[view->storage];
    if (copy->kind != MIL_STORAGE_BLOCK) return false;
    const mil_block *block = &plan->blocks[copy->index];
    if (!mil_view_through(view, &block->source, halves)) return false;
    halves->storage = halves_storage(lowering, block->port);
    return true;
}

static void place_input(mil_lowering *lowering, size_t value) {
    size_t port = lowering->program->values[value].input, step;
    const mil_type *type = &lowering->program->values[value].type;
    if (mil_is_narrow_input(lowering, value)) {
        mil_view view = mil_load(lowering, value, NULL, &step);
        mil_define(lowering, value, view, step);
        return;
    }
    mil_storage storage = {.kind = MIL_STORAGE_INPUT, .index = port};
    mil_value_state *state = &lowering->values[value];
    state->view = mil_view_on_surface(mil_add_storage(lowering, storage), type,
                                      &lowering->plan->inputs[port]);
    state->has_view = true;
}

static void place_constant(mil_lowering *lowering, size_t value) {
    mil_storage storage = {.kind = MIL_STORAGE_CONSTANT,
                           .constant = lowering->plan->constants[value]};
    mil_value_state *state = &lowering->values[value];
    state->view =
        mil_view_whole(mil_add_storage(lowering, storage), &lowering->program->values[value].type);
    state->has_view = true;
}

/* --- values --- */

/* Groups write with unit stride. */
static void keep_group_value(mil_lowering *lowering, size_t value) {
    mil_value_state *state = &lowering->values[value];
    bool in_place = state->has_place && mil_view_has_unit_stride(&state->place);
    state->home =
        in_place ? state->place : mil_fresh(lowering, &lowering->program->values[value].type);
    state->has_home = true;
    mil_define(lowering, value, state->home, lowering->groups[state->group].step);
}

bool mil_is_split(const mil_lowering *lowering, size_t value) {
    return lowering->values[value].has_split && !lowering->values[value].has_view;
}

static void put_together(mil_lowering *lowering, size_t value) {
    const mil_view *from = &lowering->values[value].split;
    mil_view to = mil_target(lowering, value), apart;
    mil_type type = {.rank = from->rank};
    memcpy(type.dim, from->dim, sizeof type.dim);
    mil_view_reshape(&to, &type, &apart);
    size_t step = mil_add_copy(lowering, MIL_STEP_COPY, *from, apart);
    mil_define(lowering, value, to, step);
}

mil_view mil_view_of(mil_lowering *lowering, size_t value) {
    mil_value_state *state = &lowering->values[value];
    if (mil_is_split(lowering, value)) put_together(lowering, value);
    if (state->has_view) return state->view;
    if (lowering->plan->constants[value])
        place_constant(lowering, value);
    else if (lowering->program->values[value].input != MIL_NONE)
        place_input(lowering, value);
    else
        keep_group_value(lowering, value);
    return state->view;
}

/* What lies on a surface is loaded in the order in which it is wanted, unless rows are to become
 * columns. */
static bool load_in_order(mil_lowering *lowering, size_t value) {
    const mil_plan *plan = lowering->plan;
    mil_view from = mil_view_of(lowering, value), halves;
    if (lowering->values[value].has_place || !mil_halves_of(lowering, &from, &halves) ||
        !mil_view_has_unit_stride(&halves))
        return false;
    size_t step, port = plan->blocks[plan->storages[from.storage].index].port;
    halves.storage = 0; /* as in the sources of blocks */
    mil_view loaded = load_source(lowering, port, &halves, &step);
    mil_define(lowering, value, loaded, step);
    return true;
}

mil_view mil_materialize(mil_lowering *lowering, size_t value) {
    if (load_in_order(lowering, value)) return lowering->values[value].view;
    mil_view from = mil_view_of(lowering, value), to = mil_target(lowering, value);
    size_t step = mil_add_copy(lowering, MIL_STEP_COPY, from, to);
    mil_define(lowering, value, to, step);
    return to;
}

mil_view mil_contiguous_of(mil_lowering *lowering, size_t value) {
    mil_view view = mil_view_of(lowering, value);
    return mil_view_contiguous(&view) ? view : mil_materialize(lowering, value);
}

void mil_lower_delegate(mil_lowering *lowering, const mil_op *op) {
    size_t operands = mil_operand_count(op);
    mil_view *inputs = mil_lower_alloc(lowering, operands, sizeof *inputs);
    mil_view *outputs = mil_lower_alloc(lowering, op->output_count, sizeof *outputs);
    if (!inputs || !outputs) return;
    for (size_t i = 0; i < operands; i++) {
        size_t value = mil_operand(op, i);
        if (value != MIL_NONE && !lowering->plan->constants[value])
            inputs[i] = mil_contiguous_of(lowering, value);
    }
    mil_step made = {.kind = MIL_STEP_DELEGATE, .op = op, .delegate = {inputs, outputs}};
    size_t step = mil_add_step(lowering, made);
    for (size_t i = 0; i < operands; i++) {
        size_t value = mil_operand(op, i);
        if (value != MIL_NONE && !lowering->plan->constants[value])
            mil_touch(lowering, &inputs[i], step);
    }
    for (size_t i = 0; i < op->output_count; i++) {
        outputs[i] = mil_target(lowering, op->outputs[i]);
        mil_define(lowering, op->outputs[i], outputs[i], step);
    }
}
