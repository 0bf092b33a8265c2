/* plan.h: a checked program turned into steps over storages, once, at compile time. A value is a
 * view of a storage: slices, reshapes, transposes and splits are views and cost nothing where
 * strides allow; chains of elementwise ops are one step; parts of a concat are written where the
 * concat wants them. Each step lists what it reads and writes, from which lifetimes and the layout
 * of scratch memory follow. */
#pragma once

#include "element.h"
#include "region.h"
#include "view.h"

/* --- what is evaluated --- */

typedef enum mil_storage_kind {
    MIL_STORAGE_CONSTANT, /* at an address known now */
    MIL_STORAGE_SCRATCH,  /* at an offset of the context's scratch memory */
    MIL_STORAGE_BLOCK,    /* float copy of a part of an fp16 input: in scratch or in the request's
                             cache */
    MIL_STORAGE_INPUT,    /* the surface of an input, whose elements have 4 bytes, or 2 if `half` */
    MIL_STORAGE_OUTPUT    /* the surface of an output, likewise */
} mil_storage_kind;

typedef struct mil_storage {
    mil_storage_kind kind;
    const void *constant;
    size_t index;       /* of the port or of the block */
    bool half;          /* fp16 elements, which products and groups read */
    size_t elements;    /* scratch and blocks, of 4 bytes */
    size_t matrix;      /* of scratch that each thread has for one matrix of a chain; 0: for all */
    size_t offset;      /* bytes from the start of scratch memory */
    size_t first, last; /* steps between which it is in use */
} mil_storage;

/* A rectangle of an fp16 input surface, read as floats. */
typedef struct mil_block {
    size_t port;
    size_t row, column, rows, columns; /* of the surface; encloses all that is read */
    mil_view source; /* fp16 elements of the surface; unit stride on the last axis */
    size_t storage;
} mil_block;

/* A register program. Operand and result numbers below `registers` are registers, the others are
 * memory[number - registers]. */
typedef struct mil_instruction {
    mil_element element;
    size_t count;
    size_t operands[MIL_MAX_OPERANDS];
    size_t result;
    size_t narrow; /* memory that the result goes to as fp16 besides; MIL_NONE: none */
} mil_instruction;

#define MIL_GROUP_LENGTH 24 /* instructions of a group, at most */
#define MIL_GROUP_MEMORY (MIL_GROUP_LENGTH * (MIL_MAX_OPERANDS + 2))

typedef struct mil_group {
    mil_instruction *code;
    size_t length;
    size_t registers;
    mil_view *memory; /* all of one shape, collapsed together; also the results that are kept */
    bool *halves;     /* of each: whether it has fp16 elements */
    size_t memory_count;
    size_t elements;
} mil_group;

/* One operand of a product is the result of scores or of their backward, or its transpose: it is
 * zero wherever that step left a column out. */
typedef struct mil_zeros {
    bool found;
    bool in_a;   /* else in b */
    bool turned; /* the result's columns are rows of a, or columns of b; else they are depths */
    size_t step; /* whose result it is */
} mil_zeros;

/* out[i] = a[i] b[i] for every index of the batch axes, which are all but the last two. */
typedef struct mil_product {
    mil_view a, b, out; /* [batch.., M, K], [batch.., K, N], [batch.., M, N]; unit stride on N */
    size_t pieces;      /* of b and out side by side, of one matrix; the views are of the first */
    ptrdiff_t b_step, out_step; /* from a piece to the next; pieces 0: none */
    const float *bias;          /* per row of the output; NULL: none */
    bool rounds;
    float limit;     /* beyond it a result is infinite; 0: no limit */
    bool narrows;    /* the result, one matrix, goes to `halves` as fp16 besides */
    mil_view halves; /* [M, N]; unit stride on N */
    mil_zeros zeros;
} mil_product;

/* A product with matrices that stay as they are stored: the weights of a convolution by x [C, n],
 * or the matrices of a batch, in the surface of an fp16 input, by `vectors` rows of x each. x and
 * out are contiguous. */
typedef struct mil_packed {
    ane_packed matrix;       /* data NULL: in the surface of input `port`, from `offset` on */
    size_t port, offset;     /* elements */
    size_t batch, stride;    /* matrices, and elements from one to the next */
    size_t vectors, columns; /* columns > 1: of a convolution's x, in a batch of one */
    bool from_left;          /* out = x M instead of M x */
    mil_view x, out;
    bool rounds;
    float limit; /* beyond it a result is infinite; 0: no limit */
} mil_packed;

typedef struct mil_rows {
    mil_view in, out; /* in: rows of the last axis; out: contiguous */
    size_t count, length;
    const float *gamma, *beta;
    float epsilon;
    bool rounds;
} mil_rows;

/* softmax(a b + mask) along the last axis. Where no product can be so large that what is masked
 * counted, masked columns are not computed: they are zero. */
typedef struct mil_scores {
    mil_product product; /* out: contiguous */
    const float *mask;   /* [mask_rows, N]; row i of the result has row i % mask_rows */
    size_t mask_rows;
    size_t *kept; /* per row of the mask: columns before those that are masked */
    float reach;  /* products up to that cannot bring a masked column back; 0: none is masked */
} mil_scores;

/* p (a b - sum(p a b)) along the last axis, p being the result of scores: their backward. */
typedef struct mil_scores_backward {
    mil_product product; /* out: contiguous */
    mil_view p;          /* likewise, of the same shape */
    size_t scores;       /* the step of which p is the result */
} mil_scores_backward;

typedef struct mil_copy {
    mil_view from, to;
} mil_copy;

/* An op left to the reference evaluator: inputs and outputs are contiguous. */
typedef struct mil_delegate {
    mil_view *inputs,
        *outputs; /* in the order of mil_op: slots, then variadic; absent ones are not read */
} mil_delegate;

typedef enum mil_step_kind {
    MIL_STEP_NOTHING, /* a load that no other step needs */
    MIL_STEP_LOAD,    /* block from its input surface */
    MIL_STEP_STORE,   /* narrows into an fp16 output surface */
    MIL_STEP_COPY,
    MIL_STEP_GROUP,
    MIL_STEP_PRODUCT,
    MIL_STEP_PACKED,
    MIL_STEP_SCORES,
    MIL_STEP_SCORES_BACKWARD,
    MIL_STEP_SOFTMAX,
    MIL_STEP_LAYER_NORM,
    MIL_STEP_REDUCE,
    MIL_STEP_DELEGATE
} mil_step_kind;

#define MIL_CHAIN 8 /* steps, at most */

typedef struct mil_step {
    mil_step_kind kind;
    size_t chain; /* so many steps from this one on run together, matrix by matrix; 0: this alone */
    const mil_op *op; /* NULL for copies that no op asked for */
    union {
        size_t block;
        mil_copy copy; /* also STORE */
        mil_group group;
        mil_product product;
        mil_packed packed;
        mil_scores scores;
        mil_scores_backward scores_backward;
        mil_rows rows;
        mil_delegate delegate;
    };
} mil_step;

/* How a port lies in its surface; see ane_request_create. */
typedef struct mil_geometry {
    size_t channels, width, element_size;
    size_t row_stride; /* bytes */
} mil_geometry;

typedef struct mil_plan {
    const mil_program *program;
    ane_numerics numerics;
    unsigned hazards;
    mil_geometry *inputs, *outputs;
    void **constants;    /* per value: elements of what is constant or folded, else NULL */
    ane_packed **packed; /* per value: the matrix, if it is kept as it is stored, else NULL */
    mil_storage *storages;
    size_t storage_count;
    mil_block *blocks;
    size_t block_count;
    mil_step *steps; /* none in the plan of the reference evaluator */
    size_t step_count;
    bool reference;
    bool reads_halves; /* products can */
    size_t threads;    /* that run a chain, at most */
    size_t scratch_bytes;
    size_t constant_bytes;
    double flops;
    mil_region *region;
} mil_plan;

/* The program outlives the plan. `reads_halves` says whether the BLAS takes fp16 operands. Fails
 * for want of memory, or where folding a constant fails. */
ane_status mil_plan_create(const mil_program *program, const ane_options *options,
                           bool reads_halves, mil_plan **plan, ane_error_info *error);
void mil_plan_free(mil_plan *plan);

/* --- chain.c --- */

/* Finds the chains among the steps. All that one reads or writes lasts as long as it; what nobody
 * else reads has room for a matrix of each thread. */
void mil_find_chains(mil_plan *plan);

/* The reference evaluator keeps each value in scratch memory of its own, in the order of values. */
size_t mil_plan_reference_bytes(const mil_plan *plan, size_t value);

/* --- execute.c --- */

/* What a block was at the request's last evaluation. */
typedef struct mil_cache {
    uint64_t seen;   /* version of the surface's rectangle; 0: never evaluated */
    uint64_t cached; /* version that `floats` holds */
    float *floats;   /* NULL: no cache yet */
} mil_cache;

typedef struct mil_binding {
    ane_surface **inputs, **outputs;
    mil_cache *caches; /* per block */
    void **bases;      /* per storage, filled by the evaluation */
    void **data;       /* per value, for the reference evaluator */
    bool *masked;      /* per step: scores, or their backward, that left masked columns out */
} mil_binding;

/* Frees what evaluations have kept; the array itself is the caller's. */
void mil_free_caches(const mil_plan *plan, ane_context *context, mil_cache *caches);
/* The context's scratch memory has room for plan->scratch_bytes. */
ane_status mil_execute(const mil_plan *plan, ane_context *context, const mil_binding *binding,
                       ane_error_info *error);
ane_status mil_execute_reference(const mil_plan *plan, ane_context *context,
                                 const mil_binding *binding, ane_error_info *error);
