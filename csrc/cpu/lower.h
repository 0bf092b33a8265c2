/* lower.h: the planner while it works: ops in, steps out. Arrays have room for the most that a
 * program can need, so that nothing below fails. */
#pragma once

#include "attributes.h"
#include "plan.h"

/* An elementwise op of a group before registers are given out. */
typedef struct mil_member {
    mil_element_op bound;
    mil_view views[MIL_MAX_OPERANDS]; /* of operands that come from memory */
    bool from_memory[MIL_MAX_OPERANDS];
    size_t result; /* value */
    size_t next;   /* member of the same group */
} mil_member;

typedef struct mil_open_group {
    size_t step;
    mil_type type;
    size_t first, last; /* members */
    size_t length;
} mil_open_group;

/* A part of an fp16 output, and where on the surface its elements go. */
typedef struct mil_piece {
    size_t value;
    mil_view place;
} mil_piece;

typedef struct mil_value_state {
    bool needed;     /* an output depends on it */
    bool has_view;   /* `view` says where readers find it */
    bool has_home;   /* `home` says where its group writes it */
    bool has_place;  /* `place` says where a consumer wants it */
    bool has_narrow; /* `narrow` says where an fp16 output wants it */
    bool has_split;  /* `split` says where the pieces of its rows are: its last axis is two there */
    bool has_split_place; /* `split_place` says where a consumer wants them */
    bool has_halves;      /* the step that makes it writes it there */
    bool lowered;         /* together with another op */
    size_t zeros;         /* step of scores or their backward of which it is the result, else
                             MIL_NONE */
    size_t group;         /* open group that makes it; MIL_NONE: none */
    size_t ready;         /* number of steps after which it can be read */
    mil_view view, home, place, narrow, split, split_place;
} mil_value_state;

typedef struct mil_lowering {
    mil_plan *plan;
    const mil_program *program;
    mil_value_state *values;
    mil_open_group *groups;
    size_t group_count;
    mil_member *members;
    size_t member_count;
    mil_piece *pieces;
    size_t piece_count;
    mil_region *temporary; /* of what is not part of the plan */
    bool failed;           /* memory was short */
} mil_lowering;

/* --- lower.c: what all ops need --- */

/* Zero-filled memory of the plan; NULL, remembered in `failed`, when memory is short. */
void *mil_lower_alloc(mil_lowering *lowering, size_t count, size_t size);
/* The same, until the plan is made. */
void *mil_lower_temporary(mil_lowering *lowering, size_t count, size_t size);
/* Slots, then variadic operands; MIL_NONE where there is none. */
size_t mil_operand_count(const mil_op *op);
size_t mil_operand(const mil_op *op, size_t index);
size_t mil_add_step(mil_lowering *lowering, mil_step step);
size_t mil_add_storage(mil_lowering *lowering, mil_storage storage);
/* The step reads or writes the view. */
void mil_touch(mil_lowering *lowering, const mil_view *view, size_t step);
/* Appends a step that copies; returns its index. */
size_t mil_add_copy(mil_lowering *lowering, mil_step_kind kind, mil_view from, mil_view to);
/* Where the value is; a value of a group is kept in memory from now on, and one that is split is
 * put together. */
mil_view mil_view_of(mil_lowering *lowering, size_t value);
/* The same, copied first if it is not contiguous. */
mil_view mil_contiguous_of(mil_lowering *lowering, size_t value);
/* Copies the value to contiguous memory, where later readers find it. */
mil_view mil_materialize(mil_lowering *lowering, size_t value);
/* New contiguous scratch memory. */
mil_view mil_fresh(mil_lowering *lowering, const mil_type *type);
/* Contiguous memory for a value: its place if that is contiguous. */
mil_view mil_target(mil_lowering *lowering, size_t value);
/* The value is made by the step and lies at the view. */
void mil_define(mil_lowering *lowering, size_t value, mil_view view, size_t step);
/* The value is another view of what `of` is. */
void mil_alias(mil_lowering *lowering, size_t value, size_t of, mil_view view);
/* Nobody has asked for the value in any other form than `split`. */
bool mil_is_split(const mil_lowering *lowering, size_t value);
mil_view mil_view_on_surface(size_t storage, const mil_type *type, const mil_geometry *geometry);
/* An fp16 input, or a part of it with steps of 1: loaded as floats. */
mil_view mil_load(mil_lowering *lowering, size_t value, const mil_slice *part, size_t *step);
/* The fp16 elements in the surface of which the view is the float copy, if it is one. */
bool mil_halves_of(mil_lowering *lowering, const mil_view *view, mil_view *halves);
/* The value is an input whose elements have 2 bytes. */
bool mil_is_narrow_input(const mil_lowering *lowering, size_t value);
bool mil_rounds(const mil_lowering *lowering, size_t value);
/* Gives the op to the reference evaluator. */
void mil_lower_delegate(mil_lowering *lowering, const mil_op *op);

/* --- lower_move.c --- */

void mil_lower_reshape(mil_lowering *lowering, const mil_op *op);
void mil_lower_transpose(mil_lowering *lowering, const mil_op *op);
void mil_lower_slice(mil_lowering *lowering, const mil_op *op);
void mil_lower_split(mil_lowering *lowering, const mil_op *op);
void mil_lower_concat(mil_lowering *lowering, const mil_op *op);
void mil_lower_gather(mil_lowering *lowering, const mil_op *op);
/* Where part `index` of a concat lies in the whole; *start is where it begins, then where it ends.
 */
mil_view mil_concat_part(const mil_lowering *lowering, const mil_op *op, const mil_view *whole,
                         size_t index, size_t *start);
/* Says where consumers want values, from the outputs backwards. */
void mil_choose_places(mil_lowering *lowering);

/* --- lower_product.c --- */

void mil_lower_matmul(mil_lowering *lowering, const mil_op *op);
/* The product of a matmul, with its operands made ready for BLAS and `out` as its result. */
mil_product mil_product_of(mil_lowering *lowering, const mil_op *op, mil_view out);
void mil_lower_conv(mil_lowering *lowering, const mil_op *op);

/* --- lower_rows.c --- */

void mil_lower_softmax(mil_lowering *lowering, const mil_op *op);
void mil_lower_reduce(mil_lowering *lowering, const mil_op *op);
void mil_lower_layer_norm(mil_lowering *lowering, const mil_op *op);

/* --- lower_store.c --- */

/* Finds what fp16 outputs are put together of, and says where it is wanted. */
void mil_find_pieces(mil_lowering *lowering);
/* Whether its group narrows the value there. */
void mil_narrow_member(mil_lowering *lowering, size_t value);
/* A value that its group has nowhere in memory yet, and that rounds, is kept as fp16. */
void mil_narrow_group_value(mil_lowering *lowering, size_t value);
/* The same for a product whose result is contiguous, and not transposed; it is told where. */
void mil_narrow_product(mil_lowering *lowering, size_t value, mil_product *product);
/* Appends steps for all else. */
void mil_store_pieces(mil_lowering *lowering);

/* --- lower_scores.c --- */

/* True if the op, the mask that is added to its result and the softmax of that are one step. */
bool mil_lower_scores(mil_lowering *lowering, const mil_op *op);

/* True if the op and what follows of a softmax's backward are one step. */
bool mil_lower_scores_backward(mil_lowering *lowering, const mil_op *op);

/* --- lower_packed.c --- */

/* Decides, before anything is folded or lowered, which weights stay as they are stored. */
void mil_find_packed(mil_lowering *lowering);
/* True if the op is lowered to such a product. */
bool mil_lower_packed_conv(mil_lowering *lowering, const mil_op *op);
bool mil_lower_packed_matmul(mil_lowering *lowering, const mil_op *op);

/* --- group.c --- */

void mil_lower_elementwise(mil_lowering *lowering, const mil_op *op);
/* Infinity beyond the limit of slices, from a view of what `from` is. */
void mil_lower_saturation(mil_lowering *lowering, size_t from, mil_view view, size_t to);
/* Gives out registers and collapses axes, when nothing joins any more. */
void mil_close_groups(mil_lowering *lowering);
