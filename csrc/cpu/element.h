/* element.h: elementwise instructions, the common ground of both evaluators: which instruction an
 * op is, what it computes from scalars (the definition) and from stretches of memory (the fast
 * twin). */
#pragma once

#include "mil.h"

typedef enum mil_code {
#define ELEMENT(code, operands, result, a, b, c, expression) MIL_CODE_##code,
#include "elements.def"
#undef ELEMENT
    MIL_CODE_COUNT
} mil_code;

typedef union mil_cell {
    float f;
    int32_t i;
} mil_cell;

typedef struct mil_element {
    mil_code code;
    float parameter[2];
    bool rounds; /* the result is rounded to fp16 */
} mil_element;

#define MIL_MAX_OPERANDS 3

/* How an op is done elementwise. operands[] are value indices, MIL_NONE where an instruction's
 * operand is a constant zero; axis[] tells along which axis of the result a vector operand lies,
 * MIL_NONE for ordinary broadcasting. */
typedef struct mil_element_op {
    mil_element element;
    size_t count;
    size_t operands[MIL_MAX_OPERANDS];
    size_t axis[MIL_MAX_OPERANDS];
} mil_element_op;

mil_element_op mil_element_of(const mil_program *program, const mil_op *op, ane_numerics numerics);

mil_cell mil_element_scalar(const mil_element *element, mil_cell a, mil_cell b, mil_cell c);

/* One operand of a stretch: n cells in a row, or one repeated cell (step 0). */
typedef struct mil_stretch {
    const mil_cell *cells;
    size_t step; /* 0 or 1 */
} mil_stretch;

/* out[i] of n cells; out does not overlap an operand. Rounds if the element says so. */
void mil_element_run(const mil_element *element, size_t n, const mil_stretch *operands,
                     mil_cell *out);
