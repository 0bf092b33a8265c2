/* lower_store.c: fp16 outputs. What an output is put together of goes to its surface piece by
 * piece: the step that makes a piece narrows it there if it can, and who reads it afterwards may
 * read it there; what is left is narrowed by steps of its own. */
#include "lower.h"

#include <string.h>

/* --- pieces --- */

/* Per value: how many operands and outputs of the program it is. */
static size_t *count_readers(mil_lowering *lowering) {
    const mil_program *program = lowering->program;
    size_t *readers = mil_lower_temporary(lowering, program->value_count, sizeof *readers);
    for (size_t i = 0; readers && i < program->op_count; i++) {
        const mil_op *op = &program->ops[i];
        for (size_t j = 0; j < mil_operand_count(op); j++)
            if (mil_operand(op, j) != MIL_NONE) readers[mil_operand(op, j)]++;
    }
    for (size_t i = 0; readers && i < program->output_count; i++) readers[program->outputs[i]]++;
    return readers;
}

/* Each value is opened once at most, so that pieces are no more than this. */
static size_t most_pieces(const mil_program *program) {
    size_t pieces = program->output_count;
    for (size_t i = 0; i < program->op_count; i++) pieces += program->ops[i].variadic_count;
    return pieces;
}

static void add_piece(mil_lowering *lowering, size_t value, mil_view place) {
    lowering->pieces[lowering->piece_count++] = (mil_piece){value, place};
}

static void add_outputs(mil_lowering *lowering) {
    const mil_program *program = lowering->program;
    for (size_t i = 0; i < program->output_count; i++) {
        const mil_geometry *geometry = &lowering->plan->outputs[i];
        if (geometry->element_size != 2) continue;
        mil_storage storage = {.kind = MIL_STORAGE_OUTPUT, .index = i, .half = true};
        const mil_type *type = &program->values[program->outputs[i]].type;
        mil_view whole = mil_view_on_surface(mil_add_storage(lowering, storage), type, geometry);
        add_piece(lowering, program->outputs[i], whole);
    }
}

/* The piece's value is what it was reshaped from. */
static bool open_reshape(mil_lowering *lowering, mil_piece *piece, const mil_op *op) {
    mil_view place;
    const mil_type *type = mil_input_type(lowering->program, op, 0);
    if (!mil_view_reshape(&piece->place, type, &place)) return false;
    *piece = (mil_piece){op->inputs[0], place};
    return true;
}

static bool open_concat(mil_lowering *lowering, mil_piece *piece, const mil_op *op) {
    mil_view whole = piece->place;
    size_t start = 0;
    for (size_t i = 0; i < op->variadic_count; i++) {
        mil_piece part = {op->variadic[i], mil_concat_part(lowering, op, &whole, i, &start)};
        if (i == 0)
            *piece = part;
        else
            add_piece(lowering, part.value, part.place);
    }
    return true;
}

/* A value that nobody else reads, and that only puts others together, is not made at all. */
static bool open_piece(mil_lowering *lowering, mil_piece *piece, const size_t *readers) {
    size_t value = piece->value, producer = lowering->program->values[value].producer;
    if (producer == MIL_NONE || lowering->plan->constants[value] || readers[value] != 1)
        return false;
    const mil_op *op = &lowering->program->ops[producer];
    bool opened = false;
    switch (op->kind) {
    case MIL_OP_concat:
        opened = open_concat(lowering, piece, op);
        break;
    case MIL_OP_identity:
    case MIL_OP_reshape:
    case MIL_OP_expand_dims:
    case MIL_OP_squeeze:
        opened = open_reshape(lowering, piece, op);
        break;
    default:
        break;
    }
    if (opened) lowering->values[value].lowered = true;
    return opened;
}

/* What is made once is narrowed once, whatever other outputs it is a piece of. */
static void wish_for_halves(mil_lowering *lowering, const mil_piece *piece) {
    mil_value_state *state = &lowering->values[piece->value];
    state->has_narrow = true;
    state->narrow = piece->place;
}

void mil_find_pieces(mil_lowering *lowering) {
    size_t *readers = count_readers(lowering), most = most_pieces(lowering->program);
    lowering->pieces = mil_lower_temporary(lowering, most, sizeof *lowering->pieces);
    if (lowering->failed) return;
    add_outputs(lowering);
    for (size_t i = 0; i < lowering->piece_count; i++) {
        while (open_piece(lowering, &lowering->pieces[i], readers)) continue;
        wish_for_halves(lowering, &lowering->pieces[i]);
    }
}

/* --- who makes them --- */

void mil_narrow_member(mil_lowering *lowering, size_t value) {
    mil_value_state *state = &lowering->values[value];
    state->has_halves = state->has_narrow && mil_view_has_unit_stride(&state->narrow);
}

void mil_narrow_group_value(mil_lowering *lowering, size_t value) {
    mil_value_state *state = &lowering->values[value];
    const mil_type *type = &lowering->program->values[value].type;
    if (state->group == MIL_NONE || state->has_view || state->has_halves || state->has_place ||
        !mil_rounds(lowering, value))
        return;
    mil_storage storage = {
        .kind = MIL_STORAGE_SCRATCH, .half = true, .elements = (mil_elements(type) + 1) / 2};
    state->narrow = mil_view_whole(mil_add_storage(lowering, storage), type);
    state->has_narrow = state->has_halves = true;
    mil_touch(lowering, &state->narrow, lowering->groups[state->group].step);
}

void mil_narrow_product(mil_lowering *lowering, size_t value, mil_product *product) {
    mil_value_state *state = &lowering->values[value];
    mil_type matrix = {.rank = 2, .dim = {product->out.dim[0], product->out.dim[1]}};
    mil_view halves;
    bool changes = product->bias || product->limit > 0.0f; /* after it was rounded */
    if (!state->has_narrow || changes || product->out.rank != 2 ||
        !mil_view_reshape(&state->narrow, &matrix, &halves))
        return;
    product->narrows = (halves.dim[1] == 1 || halves.stride[1] == 1) &&
                       (halves.dim[0] == 1 || halves.stride[0] >= (ptrdiff_t)halves.dim[1]);
    product->halves = halves;
    state->has_halves = product->narrows;
}

/* --- the rest --- */

/* Narrowing is fast along the last axis alone. */
static mil_view with_unit_stride(mil_lowering *lowering, size_t value) {
    mil_view view = mil_view_of(lowering, value);
    return mil_view_has_unit_stride(&view) ? view : mil_materialize(lowering, value);
}

/* From where the pieces of its rows are. */
static bool store_split(mil_lowering *lowering, const mil_piece *piece) {
    const mil_view *split = &lowering->values[piece->value].split;
    mil_type type = {.rank = split->rank};
    memcpy(type.dim, split->dim, sizeof type.dim);
    mil_view place;
    if (!mil_is_split(lowering, piece->value) || !mil_view_has_unit_stride(split) ||
        !mil_view_reshape(&piece->place, &type, &place))
        return false;
    mil_add_copy(lowering, MIL_STEP_STORE, *split, place);
    return true;
}

void mil_store_pieces(mil_lowering *lowering) {
    for (size_t i = 0; i < lowering->piece_count; i++) {
        const mil_piece *piece = &lowering->pieces[i];
        const mil_value_state *state = &lowering->values[piece->value];
        if (state->has_halves && mil_view_equal(&state->narrow, &piece->place)) continue;
        if (store_split(lowering, piece)) continue;
        mil_add_copy(lowering, MIL_STEP_STORE, with_unit_stride(lowering, piece->value),
                     piece->place);
    }
}
