/* chain.c: which steps run together, one matrix of their batches after the other: what a product or
 * scores make of a head is read by the next step while it is in a cache. Steps of a chain read of
 * each other the same matrix alone, so that matrices may be at different steps. */
#include "kernels.h"

#define MOST_READS 3

/* A step that could be part of a chain. */
typedef struct chain_link {
    const mil_view *reads[MOST_READS], *writes;
    size_t read_count, batch;
    bool looks_ahead; /* at all matrices of its first two operands, before the first is computed */
} chain_link;

static bool describe(const mil_step *step, chain_link *out) {
    const mil_product *product = &step->product;
    *out = (chain_link){.read_count = 2, .looks_ahead = step->kind != MIL_STEP_PRODUCT};
    if (step->kind == MIL_STEP_SCORES) {
        product = &step->scores.product;
    } else if (step->kind == MIL_STEP_SCORES_BACKWARD) {
        product = &step->scores_backward.product;
        out->reads[out->read_count++] = &step->scores_backward.p;
    } else if (step->kind != MIL_STEP_PRODUCT) {
        return false;
    }
    out->reads[0] = &product->a;
    out->reads[1] = &product->b;
    out->writes = &product->out;
    const mil_view *result = out->writes;
    size_t matrix = result->dim[result->rank - 2] * result->dim[result->rank - 1];
    out->batch = mil_view_elements(result) / matrix;
    return out->batch >= MIL_MANY;
}

/* From the first element of a matrix to its last. */
static ptrdiff_t span(const mil_view *view) {
    ptrdiff_t out = 0;
    for (size_t axis = view->rank - 2; axis < view->rank; axis++)
        out += (ptrdiff_t)(view->dim[axis] - 1) * view->stride[axis];
    return out;
}

/* Matrices of both views begin at the same places, and those that are written do not meet. */
static bool same_matrices(const mil_view *read, const mil_view *written, size_t batch) {
    if (span(read) > span(written)) return false;
    for (size_t i = 0; i < batch; i++) {
        ptrdiff_t at = mil_view_at(written, written->rank - 2, i);
        bool apart = i == 0 || at - mil_view_at(written, written->rank - 2, i - 1) > span(written);
        if (!apart || mil_view_at(read, read->rank - 2, i) != at) return false;
    }
    return true;
}

/* Whether `next` may run while other matrices are still at `former`. */
static bool follows(const chain_link *former, const chain_link *next) {
    if (next->batch != former->batch) return false;
    for (size_t i = 0; i < former->read_count; i++)
        if (former->reads[i]->storage == next->writes->storage) return false;
    if (former->writes->storage == next->writes->storage) return false;
    for (size_t i = 0; i < next->read_count; i++) {
        if (next->reads[i]->storage != former->writes->storage) continue;
        if (next->looks_ahead && i < 2) return false;
        if (!same_matrices(next->reads[i], former->writes, next->batch)) return false;
    }
    return true;
}

/* Steps from the first on that make a chain. */
static size_t length_of(const mil_plan *plan, size_t first) {
    chain_link links[MIL_CHAIN];
    size_t length = 0;
    while (length < MIL_CHAIN && first + length < plan->step_count &&
           describe(&plan->steps[first + length], &links[length])) {
        for (size_t i = 0; i < length; i++)
            if (!follows(&links[i], &links[length])) return length;
        length++;
    }
    return length;
}

/* Matrices of a chain are at any of its steps at the same time. */
static void keep_throughout(mil_plan *plan, size_t first, size_t last) {
    for (size_t i = 0; i < plan->storage_count; i++) {
        mil_storage *storage = &plan->storages[i];
        if (storage->first == MIL_NONE || storage->first > last || storage->last < first) continue;
        if (storage->first > first) storage->first = first;
        if (storage->last < last) storage->last = last;
    }
}

/* Scratch that one step of the chain fills and no step outside of it reads. */
static void make_own(mil_plan *plan, size_t first, size_t last) {
    for (size_t i = first; i <= last; i++) {
        chain_link made;
        describe(&plan->steps[i], &made);
        mil_storage *storage = &plan->storages[made.writes->storage];
        size_t matrix = (size_t)span(made.writes) + 1;
        bool alone = storage->first >= first && storage->last <= last;
        if (storage->kind != MIL_STORAGE_SCRATCH || !alone ||
            storage->elements != matrix * made.batch || plan->threads >= made.batch)
            continue;
        storage->matrix = matrix;
        storage->elements = matrix * plan->threads;
    }
}

void mil_find_chains(mil_plan *plan) {
    for (size_t i = 0; i < plan->step_count; i++) {
        size_t length = length_of(plan, i);
        if (length < 2) continue;
        plan->steps[i].chain = length;
        make_own(plan, i, i + length - 1);
        keep_throughout(plan, i, i + length - 1);
        i += length - 1;
    }
}
