/* view.c: arithmetic of strided views. Nothing here touches memory of tensors. */
#include "view.h"

#include <string.h>

mil_view mil_view_whole(size_t storage, const mil_type *type) {
    mil_view view = {.storage = storage, .rank = type->rank};
    ptrdiff_t stride = 1;
    for (size_t i = type->rank; i-- > 0; stride *= (ptrdiff_t)type->dim[i]) {
        view.dim[i] = type->dim[i];
        view.stride[i] = stride;
    }
    return view;
}

size_t mil_view_elements(const mil_view *view) {
    size_t elements = 1;
    for (size_t i = 0; i < view->rank; i++) elements *= view->dim[i];
    return elements;
}

bool mil_view_contiguous(const mil_view *view) {
    ptrdiff_t stride = 1;
    for (size_t i = view->rank; i-- > 0; stride *= (ptrdiff_t)view->dim[i])
        if (view->dim[i] > 1 && view->stride[i] != stride) return false;
    return true;
}

bool mil_view_has_unit_stride(const mil_view *view) {
    for (size_t i = view->rank; i-- > 0;)
        if (view->dim[i] > 1) return view->stride[i] == 1;
    return true;
}

static mil_view without_ones(const mil_view *view) {
    mil_view out = {.storage = view->storage, .offset = view->offset};
    for (size_t i = 0; i < view->rank; i++) {
        if (view->dim[i] == 1) continue;
        out.dim[out.rank] = view->dim[i];
        out.stride[out.rank++] = view->stride[i];
    }
    return out;
}

bool mil_view_equal(const mil_view *a, const mil_view *b) {
    mil_view x = without_ones(a), y = without_ones(b);
    return x.storage == y.storage && x.offset == y.offset && x.rank == y.rank &&
           memcmp(x.dim, y.dim, x.rank * sizeof *x.dim) == 0 &&
           memcmp(x.stride, y.stride, x.rank * sizeof *x.stride) == 0;
}

/* One run of axes of the old shape, [from, from_end), holds as many elements as the run [to,
 * to_end) of the new one: it must be one stretch of equal steps, which the new axes then divide. */
static bool reshape_run(const mil_view *view, size_t from, size_t from_end, mil_view *out,
                        size_t to, size_t to_end) {
    for (size_t i = from; i + 1 < from_end; i++)
        if (view->stride[i] != view->stride[i + 1] * (ptrdiff_t)view->dim[i + 1]) return false;
    ptrdiff_t stride = from_end > from ? view->stride[from_end - 1] : 1;
    for (size_t i = to_end; i-- > to; stride *= (ptrdiff_t)out->dim[i]) out->stride[i] = stride;
    return true;
}

bool mil_view_reshape(const mil_view *view, const mil_type *type, mil_view *out) {
    mil_view old = without_ones(view);
    *out = mil_view_whole(view->storage, type);
    out->offset = view->offset;
    size_t from = 0, to = 0;
    while (from < old.rank && to < out->rank) {
        size_t from_end = from + 1, to_end = to + 1;
        size_t from_size = old.dim[from], to_size = out->dim[to];
        while (from_size != to_size) {
            if (from_size < to_size)
                from_size *= old.dim[from_end++];
            else
                to_size *= out->dim[to_end++];
        }
        if (!reshape_run(&old, from, from_end, out, to, to_end)) return false;
        from = from_end;
        to = to_end;
    }
    return true;
}

mil_view mil_view_permute(const mil_view *view, const size_t *order) {
    mil_view out = *view;
    for (size_t i = 0; i < view->rank; i++) {
        out.dim[i] = view->dim[order[i]];
        out.stride[i] = view->stride[order[i]];
    }
    return out;
}

mil_view mil_view_slice(const mil_view *view, const size_t *begin, const ptrdiff_t *step,
                        const size_t *size) {
    mil_view out = *view;
    for (size_t i = 0; i < view->rank; i++) {
        out.offset += (ptrdiff_t)begin[i] * view->stride[i];
        out.dim[i] = size[i];
        if (step) out.stride[i] *= step[i];
    }
    return out;
}

/* Steps along one axis of the source that never leave it. */
bool mil_view_through(const mil_view *view, const mil_view *source, mil_view *out) {
    mil_view from = *source;
    mil_view_collapse(1, (mil_view *[]){&from});
    size_t unit[MIL_MAX_RANK], reached[MIL_MAX_RANK], rest = (size_t)view->offset;
    for (size_t i = from.rank, step = 1; i-- > 0; step *= from.dim[i]) unit[i] = step;
    *out = *view;
    out->storage = from.storage;
    out->offset = from.offset;
    for (size_t i = 0; i < from.rank; rest %= unit[i++]) {
        reached[i] = rest / unit[i];
        out->offset += (ptrdiff_t)reached[i] * from.stride[i];
    }
    for (size_t axis = 0; axis < view->rank; axis++) {
        size_t stride = (size_t)view->stride[axis], i = 0;
        if (view->dim[axis] == 1 || stride == 0) continue;
        if (view->stride[axis] < 0) return false;
        while (unit[i] > stride) i++;
        reached[i] += stride / unit[i] * (view->dim[axis] - 1);
        if (stride % unit[i] != 0 || reached[i] >= from.dim[i]) return false;
        out->stride[axis] = (ptrdiff_t)(stride / unit[i]) * from.stride[i];
    }
    return true;
}

mil_view mil_view_broadcast(const mil_view *view, const mil_type *type) {
    mil_view out = {.storage = view->storage, .rank = type->rank, .offset = view->offset};
    size_t added = type->rank - view->rank;
    for (size_t i = 0; i < type->rank; i++) {
        out.dim[i] = type->dim[i];
        bool repeated = i < added || view->dim[i - added] != type->dim[i];
        out.stride[i] = repeated ? 0 : view->stride[i - added];
    }
    return out;
}

static void drop_axis(mil_view *view, size_t axis) {
    for (size_t i = axis; i + 1 < view->rank; i++) {
        view->dim[i] = view->dim[i + 1];
        view->stride[i] = view->stride[i + 1];
    }
    view->rank--;
}

static bool axes_merge(size_t count, mil_view *const *views, size_t axis) {
    for (size_t i = 0; i < count; i++) {
        const mil_view *view = views[i];
        ptrdiff_t whole = view->stride[axis + 1] * (ptrdiff_t)view->dim[axis + 1];
        if (view->stride[axis] != whole) return false;
    }
    return true;
}

static void merge_axes(mil_view *view, size_t axis) {
    view->dim[axis + 1] *= view->dim[axis];
    drop_axis(view, axis);
}

void mil_view_collapse(size_t count, mil_view *const *views) {
    for (size_t axis = views[0]->rank; axis-- > 0;)
        if (views[0]->dim[axis] == 1)
            for (size_t i = 0; i < count; i++) drop_axis(views[i], axis);
    for (size_t axis = views[0]->rank; axis-- > 1;)
        if (axes_merge(count, views, axis - 1))
            for (size_t i = 0; i < count; i++) merge_axes(views[i], axis - 1);
    if (views[0]->rank > 0) return;
    for (size_t i = 0; i < count; i++) {
        views[i]->rank = 1;
        views[i]->dim[0] = 1;
        views[i]->stride[0] = 1;
    }
}

ptrdiff_t mil_view_at(const mil_view *view, size_t axes, size_t index) {
    ptrdiff_t offset = view->offset;
    for (size_t i = axes; i-- > 0; index /= view->dim[i])
        offset += (ptrdiff_t)(index % view->dim[i]) * view->stride[i];
    return offset;
}
