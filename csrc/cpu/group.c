/* group.c: gathers elementwise ops of one shape into register programs. An op joins a group if all
 * that it reads is there when the group's step runs; what only the group reads never reaches
 * memory. */
#include "lower.h"

#include <string.h>

#include "reference.h"

#define SEARCH_DEPTH 8   /* groups that an op is tried on, from the latest */
#define WORTH_A_COPY 512 /* elements from which a copy is better than strided reads */

/* --- joining --- */

static bool same_shape(const mil_type *a, const mil_type *b) {
    return a->rank == b->rank && memcmp(a->dim, b->dim, a->rank * sizeof *a->dim) == 0;
}

/* An operand before it is known whether a register or memory holds it. */
typedef struct source {
    size_t value;
    bool is_view; /* `view` is given; the value only says when it is ready */
    mil_view view;
} source;

static bool in_group(const mil_lowering *lowering, const source *operand, size_t group) {
    return operand->value != MIL_NONE && !operand->is_view &&
           lowering->values[operand->value].group == group;
}

static bool can_join(const mil_lowering *lowering, const mil_member *member, const source *sources,
                     size_t index) {
    const mil_open_group *group = &lowering->groups[index];
    const mil_type *type = &lowering->program->values[member->result].type;
    if (!same_shape(type, &group->type) || group->length == MIL_GROUP_LENGTH) return false;
    for (size_t i = 0; i < member->bound.count; i++) {
        if (sources[i].value == MIL_NONE || in_group(lowering, &sources[i], index)) continue;
        if (lowering->values[sources[i].value].ready > group->step) return false;
    }
    return true;
}

/* A group that holds an operand is better than one that does not; MIL_NONE if there is none. */
static size_t find_group(const mil_lowering *lowering, const mil_member *member,
                         const source *sources) {
    size_t found = MIL_NONE;
    for (size_t tried = 0; tried < SEARCH_DEPTH && tried < lowering->group_count; tried++) {
        size_t index = lowering->group_count - 1 - tried;
        if (!can_join(lowering, member, sources, index)) continue;
        for (size_t i = 0; i < member->bound.count; i++)
            if (in_group(lowering, &sources[i], index)) return index;
        if (found == MIL_NONE) found = index;
    }
    return found;
}

static size_t open_group(mil_lowering *lowering, const mil_type *type) {
    size_t index = lowering->group_count++;
    mil_open_group *group = &lowering->groups[index];
    group->step = mil_add_step(lowering, (mil_step){.kind = MIL_STEP_GROUP});
    group->type = *type;
    return index;
}

/* A vector along one axis, or ordinary broadcasting. */
static mil_view operand_view(const mil_view *view, size_t axis, const mil_type *type) {
    if (axis == MIL_NONE || view->rank == 0) return mil_view_broadcast(view, type);
    mil_view out = {.storage = view->storage, .rank = type->rank, .offset = view->offset};
    memcpy(out.dim, type->dim, sizeof out.dim);
    out.stride[axis] = view->stride[0];
    return out;
}

static bool is_awkward(const mil_view *view) {
    for (size_t i = view->rank; i-- > 0;)
        if (view->dim[i] > 1)
            return view->stride[i] != 1 && view->stride[i] != 0 &&
                   mil_view_elements(view) >= WORTH_A_COPY;
    return false;
}

/* Inputs are loaded, and what lies across memory is copied, before a step is chosen. */
static void prepare_sources(mil_lowering *lowering, const mil_member *member, source *sources) {
    const mil_type *type = &lowering->program->values[member->result].type;
    for (size_t i = 0; i < member->bound.count; i++) {
        size_t value = sources[i].value;
        if (value == MIL_NONE || sources[i].is_view) continue;
        const mil_value_state *state = &lowering->values[value];
        if (state->has_halves || (state->group != MIL_NONE && !state->has_view)) continue;
        mil_view own = mil_view_of(lowering, value);
        mil_view view = operand_view(&own, member->bound.axis[i], type);
        if (is_awkward(&view) && state->group == MIL_NONE) mil_materialize(lowering, value);
    }
}

static void append_member(mil_lowering *lowering, mil_open_group *group, const mil_member *member) {
    size_t index = lowering->member_count++;
    lowering->members[index] = *member;
    if (group->length++ == 0)
        group->first = index;
    else
        lowering->members[group->last].next = index;
    group->last = index;
}

/* Where it is read: on the surface, rather than in a copy. */
static mil_view read_view(mil_lowering *lowering, const source *from) {
    if (!from->is_view && lowering->values[from->value].has_halves)
        return lowering->values[from->value].narrow;
    mil_view view = from->is_view ? from->view : mil_view_of(lowering, from->value), halves;
    return mil_halves_of(lowering, &view, &halves) ? halves : view;
}

static void add_member(mil_lowering *lowering, mil_member member, source *sources) {
    const mil_type *type = &lowering->program->values[member.result].type;
    prepare_sources(lowering, &member, sources);
    size_t index = find_group(lowering, &member, sources);
    if (index == MIL_NONE) index = open_group(lowering, type);
    mil_open_group *group = &lowering->groups[index];
    for (size_t i = 0; i < member.bound.count; i++) {
        member.bound.operands[i] = sources[i].value;
        if (sources[i].value == MIL_NONE || in_group(lowering, &sources[i], index)) continue;
        mil_view view = read_view(lowering, &sources[i]);
        member.from_memory[i] = true;
        member.views[i] = operand_view(&view, member.bound.axis[i], type);
        mil_touch(lowering, &view, group->step);
    }
    append_member(lowering, group, &member);
    mil_narrow_member(lowering, member.result);
    lowering->values[member.result].group = index;
    lowering->values[member.result].ready = group->step + 1;
}

void mil_lower_elementwise(mil_lowering *lowering, const mil_op *op) {
    mil_member member = {.result = op->outputs[0]};
    member.bound = mil_element_of(lowering->program, op, lowering->plan->numerics);
    source sources[MIL_MAX_OPERANDS] = {{.value = MIL_NONE}};
    for (size_t i = 0; i < member.bound.count; i++)
        sources[i] = (source){.value = member.bound.operands[i]};
    add_member(lowering, member, sources);
}

void mil_lower_saturation(mil_lowering *lowering, size_t from, mil_view view, size_t to) {
    mil_member member = {.result = to};
    member.bound.count = 1;
    member.bound.axis[0] = MIL_NONE;
    member.bound.element =
        (mil_element){.code = MIL_CODE_SATURATE, .parameter = {MIL_SLICE_LIMIT, 0.0f}};
    source sources[MIL_MAX_OPERANDS] = {{.value = from, .is_view = true, .view = view}};
    add_member(lowering, member, sources);
}

/* --- closing --- */

/* A group while registers are given out. Memory operands are numbered from MEMORY until the number
 * of registers is known. */
#define MEMORY ((size_t)1 << 16)

typedef struct closing {
    mil_lowering *lowering;
    const mil_member *members[MIL_GROUP_LENGTH];
    size_t length;
    mil_view memory[MIL_GROUP_MEMORY];
    size_t memory_count;
    size_t holder[MIL_GROUP_LENGTH];   /* number of what holds member i's result */
    size_t last_use[MIL_GROUP_LENGTH]; /* index of the last member that reads it */
    bool busy[MIL_GROUP_LENGTH + 1];   /* registers */
    size_t registers;
} closing;

static size_t memory_number(closing *state, const mil_view *view) {
    for (size_t i = 0; i < state->memory_count; i++)
        if (memcmp(&state->memory[i], view, sizeof *view) == 0) return MEMORY + i;
    state->memory[state->memory_count] = *view;
    return MEMORY + state->memory_count++;
}

static size_t member_of(const closing *state, size_t value) {
    for (size_t i = 0; i < state->length; i++)
        if (state->members[i]->result == value) return i;
    return MIL_NONE;
}

static void find_last_uses(closing *state) {
    for (size_t i = 0; i < state->length; i++) {
        const mil_member *member = state->members[i];
        state->last_use[i] = i;
        for (size_t j = 0; j < member->bound.count; j++) {
            if (member->from_memory[j] || member->bound.operands[j] == MIL_NONE) continue;
            state->last_use[member_of(state, member->bound.operands[j])] = i;
        }
    }
}

static size_t free_register(closing *state) {
    size_t found = 0;
    while (state->busy[found]) found++;
    state->busy[found] = true;
    if (found >= state->registers) state->registers = found + 1;
    return found;
}

/* A result never shares the register of an operand: those are given back afterwards. */
static void release_registers(closing *state, size_t now) {
    for (size_t i = 0; i <= now; i++)
        if (state->last_use[i] == now && state->holder[i] < MEMORY)
            state->busy[state->holder[i]] = false;
}

static size_t operand_number(closing *state, const mil_member *member, size_t index) {
    if (member->from_memory[index]) return memory_number(state, &member->views[index]);
    if (member->bound.operands[index] == MIL_NONE) return MIL_NONE;
    return state->holder[member_of(state, member->bound.operands[index])];
}

static void close_member(closing *state, size_t index, mil_instruction *out) {
    const mil_member *member = state->members[index];
    const mil_value_state *value = &state->lowering->values[member->result];
    out->element = member->bound.element;
    out->count = member->bound.count;
    for (size_t i = 0; i < out->count; i++) out->operands[i] = operand_number(state, member, i);
    out->result = value->has_home ? memory_number(state, &value->home) : free_register(state);
    out->narrow = value->has_halves ? memory_number(state, &value->narrow) : MIL_NONE;
    state->holder[index] = out->result;
    release_registers(state, index);
}

static size_t final_number(size_t number, size_t registers) {
    if (number == MIL_NONE || number < MEMORY) return number;
    return number - MEMORY + registers;
}

static void number_memory(mil_group *group) {
    for (size_t i = 0; i < group->length; i++) {
        mil_instruction *code = &group->code[i];
        code->result = final_number(code->result, group->registers);
        code->narrow = final_number(code->narrow, group->registers);
        for (size_t j = 0; j < code->count; j++)
            code->operands[j] = final_number(code->operands[j], group->registers);
    }
}

static void collapse(mil_group *group) {
    mil_view *views[MIL_GROUP_MEMORY];
    for (size_t i = 0; i < group->memory_count; i++) views[i] = &group->memory[i];
    mil_view_collapse(group->memory_count, views);
}

static void close_group(mil_lowering *lowering, size_t index) {
    const mil_open_group *open = &lowering->groups[index];
    closing state = {.lowering = lowering, .length = open->length};
    for (size_t i = 0, at = open->first; i < open->length; i++, at = state.members[i - 1]->next)
        state.members[i] = &lowering->members[at];
    mil_group group = {.length = open->length, .elements = mil_elements(&open->type)};
    group.code = mil_lower_alloc(lowering, open->length, sizeof *group.code);
    if (!group.code) return;
    find_last_uses(&state);
    for (size_t i = 0; i < open->length; i++) close_member(&state, i, &group.code[i]);
    group.registers = state.registers;
    group.memory_count = state.memory_count;
    group.memory = mil_lower_alloc(lowering, state.memory_count, sizeof *group.memory);
    group.halves = mil_lower_alloc(lowering, state.memory_count, sizeof *group.halves);
    if (!group.memory || !group.halves) return;
    memcpy(group.memory, state.memory, state.memory_count * sizeof *group.memory);
    for (size_t i = 0; i < group.memory_count; i++)
        group.halves[i] = lowering->plan->storages[group.memory[i].storage].half;
    number_memory(&group);
    collapse(&group);
    lowering->plan->steps[open->step].group = group;
}

void mil_close_groups(mil_lowering *lowering) {
    for (size_t i = 0; i < lowering->group_count; i++) close_group(lowering, i);
}
