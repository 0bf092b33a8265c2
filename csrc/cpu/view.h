/* view.h: strided windows on storage. A storage is a run of 4-byte elements whose address is known
 * when a program is evaluated; a view says where in it the elements of a tensor are. */
#pragma once

#include "mil.h"

typedef struct mil_view {
    size_t storage;
    size_t rank;
    size_t dim[MIL_MAX_RANK];
    ptrdiff_t stride[MIL_MAX_RANK]; /* elements; 0 where a value is repeated */
    ptrdiff_t offset;
} mil_view;

mil_view mil_view_whole(size_t storage, const mil_type *type);
size_t mil_view_elements(const mil_view *view);
/* Row-major without gaps. */
bool mil_view_contiguous(const mil_view *view);
/* Elements lie side by side along the last axis that has more than one. */
bool mil_view_has_unit_stride(const mil_view *view);
/* The same elements at the same addresses; axes of length 1 do not count. */
bool mil_view_equal(const mil_view *a, const mil_view *b);
/* False if no view of the same storage has that shape. */
bool mil_view_reshape(const mil_view *view, const mil_type *type, mil_view *out);
/* Axis i of the result is axis order[i] of the view. */
mil_view mil_view_permute(const mil_view *view, const size_t *order);
/* Elements begin[i], begin[i] + step[i], ... (size[i] of them) along each axis; step NULL: ones. */
mil_view mil_view_slice(const mil_view *view, const size_t *begin, const ptrdiff_t *step,
                        const size_t *size);
/* The view's elements where the row-major elements of `source` are; false where no strides say so.
 */
bool mil_view_through(const mil_view *view, const mil_view *source, mil_view *out);
mil_view mil_view_broadcast(const mil_view *view, const mil_type *type);
/* Drops axes of length 1 and merges neighbours wherever all views, which have equal shapes, allow
 * it. At least one axis is left. */
void mil_view_collapse(size_t count, mil_view *const *views);
/* Offset of the element whose row-major index over the first `axes` axes is `index`. */
ptrdiff_t mil_view_at(const mil_view *view, size_t axes, size_t index);
