/* execute.c: one evaluation: finds the address of each storage and runs the steps in order. A block
 * of an fp16 input that has not changed since the evaluation before is kept as floats by its
 * request. */
#include <string.h>

#include "../engine/surface.h"
#include "kernels.h"
#include "reference.h"

typedef struct execution {
    const mil_plan *plan;
    ane_context *context;
    const mil_binding *binding;
    ane_error_info *error;
} execution;

static void *storage_address(const execution *run, const mil_storage *storage) {
    switch (storage->kind) {
    case MIL_STORAGE_CONSTANT:
        return (void *)(uintptr_t)storage->constant;
    case MIL_STORAGE_INPUT:
        return run->binding->inputs[storage->index]->memory.base;
    case MIL_STORAGE_OUTPUT:
        return run->binding->outputs[storage->index]->memory.base;
    default:
        return (char *)run->context->scratch + storage->offset;
    }
}

static void *address(const execution *run, const mil_view *view) {
    return run->binding->bases[view->storage];
}

static mil_operand_source operand(const execution *run, const mil_view *view) {
    return (mil_operand_source){address(run, view), run->plan->storages[view->storage].half};
}

/* --- blocks --- */

static bool reserve_cache(ane_context *context, size_t bytes) {
    pthread_mutex_lock(&context->lock);
    size_t limit = context->options.cache_limit;
    bool fits =
        limit == 0 || (context->cache_bytes <= limit && bytes <= limit - context->cache_bytes);
    if (fits) context->cache_bytes += bytes;
    pthread_mutex_unlock(&context->lock);
    return fits;
}

static void release_cache(ane_context *context, size_t bytes) {
    pthread_mutex_lock(&context->lock);
    context->cache_bytes -= bytes;
    pthread_mutex_unlock(&context->lock);
}

static size_t block_bytes(const mil_plan *plan, size_t block) {
    return plan->storages[plan->blocks[block].storage].elements * sizeof(float);
}

static float *new_cache(const execution *run, size_t block) {
    size_t bytes = block_bytes(run->plan, block);
    if (!reserve_cache(run->context, bytes)) return NULL;
    float *floats = ane_alloc(bytes, 1);
    if (!floats) release_cache(run->context, bytes);
    return floats;
}

void mil_free_caches(const mil_plan *plan, ane_context *context, mil_cache *caches) {
    for (size_t i = 0; caches && i < plan->block_count; i++) {
        if (!caches[i].floats) continue;
        ane_free(caches[i].floats);
        release_cache(context, block_bytes(plan, i));
    }
}

/* What the request has is read; what it could keep is converted into its cache, all else into
 * scratch memory: activations change each time and never get a cache. */
static void run_load(const execution *run, size_t index) {
    const mil_block *block = &run->plan->blocks[index];
    const ane_surface *surface = run->binding->inputs[block->port];
    mil_cache *cache = &run->binding->caches[index];
    uint64_t version =
        surface_version(surface, block->row, block->column, block->rows, block->columns);
    void **base = &run->binding->bases[block->storage];
    if (!cache->floats && version == cache->seen) cache->floats = new_cache(run, index);
    if (cache->floats) *base = cache->floats;
    cache->seen = version;
    if (cache->floats && cache->cached == version) return;
    mil_widen_run(run->context->pool, &block->source, surface->memory.base, *base);
    if (cache->floats) cache->cached = version;
}

/* --- steps --- */

static void run_group(const execution *run, const mil_group *group) {
    mil_cell *memory[MIL_GROUP_MEMORY];
    for (size_t i = 0; i < group->memory_count; i++) memory[i] = address(run, &group->memory[i]);
    mil_group_run(run->context->pool, group, memory);
}

static void run_packed(const execution *run, const mil_packed *product) {
    bool on_surface = product->port != MIL_NONE;
    const void *matrix = on_surface ? run->binding->inputs[product->port]->memory.base : NULL;
    mil_packed_run(run->context->pool, run->context->blas, product, matrix,
                   address(run, &product->x), address(run, &product->out));
}

static void run_scores(const execution *run, const mil_step *step) {
    const mil_product *product = &step->scores.product;
    run->binding->masked[step - run->plan->steps] = mil_scores_run(
        run->context->pool, run->context->blas, &step->scores, operand(run, &product->a),
        operand(run, &product->b), address(run, &product->out));
}

static void run_scores_backward(const execution *run, const mil_step *step) {
    const mil_scores_backward *backward = &step->scores_backward;
    const mil_product *product = &backward->product;
    mil_probabilities of = {&run->plan->steps[backward->scores].scores, address(run, &backward->p),
                            run->binding->masked[backward->scores]};
    run->binding->masked[step - run->plan->steps] = mil_scores_backward_run(
        run->context->pool, run->context->blas, backward, &of, operand(run, &product->a),
        operand(run, &product->b), address(run, &product->out));
}

static void bind_data(const execution *run, size_t value, const mil_view *view) {
    if (value == MIL_NONE || run->plan->constants[value]) return;
    run->binding->data[value] = (mil_cell *)address(run, view) + view->offset;
}

static ane_status evaluate_op(const execution *run, const mil_op *op) {
    const mil_plan *plan = run->plan;
    mil_evaluation call = {plan->program, op,        run->binding->data, plan->numerics,
                           plan->hazards, run->error};
    return mil_reference_evaluate(&call);
}

static ane_status run_delegate(const execution *run, const mil_step *step) {
    const mil_op *op = step->op;
    for (size_t i = 0; i < MIL_MAX_SLOTS; i++)
        bind_data(run, op->inputs[i], &step->delegate.inputs[i]);
    for (size_t i = 0; i < op->variadic_count; i++)
        bind_data(run, op->variadic[i], &step->delegate.inputs[MIL_MAX_SLOTS + i]);
    for (size_t i = 0; i < op->output_count; i++)
        bind_data(run, op->outputs[i], &step->delegate.outputs[i]);
    return evaluate_op(run, op);
}

/* NULL: masked columns were computed too. */
static const mil_scores *masked_scores(const execution *run, size_t index) {
    const mil_step *step = &run->plan->steps[index];
    if (!run->binding->masked[index]) return NULL;
    if (step->kind == MIL_STEP_SCORES) return &step->scores;
    return &run->plan->steps[step->scores_backward.scores].scores;
}

static void run_product(const execution *run, const mil_product *product) {
    mil_product_data data = {.a = operand(run, &product->a), .b = operand(run, &product->b)};
    data.out = address(run, &product->out);
    if (product->narrows) data.halves = address(run, &product->halves);
    if (product->zeros.found) data.zeros = masked_scores(run, product->zeros.step);
    mil_product_run(run->context->pool, run->context->blas, product, &data);
}

static ane_status run_step(const execution *run, const mil_step *step) {
    ane_pool *pool = run->context->pool;
    switch (step->kind) {
    case MIL_STEP_NOTHING:
        break;
    case MIL_STEP_LOAD:
        run_load(run, step->block);
        break;
    case MIL_STEP_STORE:
        mil_narrow_run(pool, &step->copy, address(run, &step->copy.from),
                       address(run, &step->copy.to));
        break;
    case MIL_STEP_COPY:
        mil_copy_run(pool, &step->copy, address(run, &step->copy.from),
                     address(run, &step->copy.to));
        break;
    case MIL_STEP_GROUP:
        run_group(run, &step->group);
        break;
    case MIL_STEP_PRODUCT:
        run_product(run, &step->product);
        break;
    case MIL_STEP_SCORES:
        run_scores(run, step);
        break;
    case MIL_STEP_SCORES_BACKWARD:
        run_scores_backward(run, step);
        break;
    case MIL_STEP_PACKED:
        run_packed(run, &step->packed);
        break;
    case MIL_STEP_SOFTMAX:
    case MIL_STEP_LAYER_NORM:
    case MIL_STEP_REDUCE:
        mil_rows_run(pool, step->kind, step->op->kind, &step->rows, address(run, &step->rows.in),
                     address(run, &step->rows.out));
        break;
    case MIL_STEP_DELEGATE:
        return run_delegate(run, step);
    }
    return ANE_OK;
}

ane_status mil_execute(const mil_plan *plan, ane_context *context, const mil_binding *binding,
                       ane_error_info *error) {
    execution run = {plan, context, binding, error};
    for (size_t i = 0; i < plan->storage_count; i++)
        binding->bases[i] = storage_address(&run, &plan->storages[i]);
    ane_status status = ANE_OK;
    for (size_t i = 0; i < plan->step_count && status == ANE_OK; i++)
        status = run_step(&run, &plan->steps[i]);
    return status;
}

/* --- the reference evaluator --- */

static void *row_of(const ane_memory *surface, size_t row) {
    return (char *)surface->base + row * surface->row_stride;
}

static void read_port(const ane_memory *surface, mil_cell *to) {
    for (size_t row = 0; row < surface->channels; row++, to += surface->width) {
        if (surface->element_size == 2)
            ane_floats_from_halves(surface->width, row_of(surface, row), &to->f);
        else
            memcpy(to, row_of(surface, row), surface->width * sizeof *to);
    }
}

static void write_port(const mil_cell *from, const ane_memory *surface) {
    for (size_t row = 0; row < surface->channels; row++, from += surface->width) {
        if (surface->element_size == 2)
            ane_halves_from_floats(surface->width, &from->f, row_of(surface, row));
        else
            memcpy(row_of(surface, row), from, surface->width * sizeof *from);
    }
}

ane_status mil_execute_reference(const mil_plan *plan, ane_context *context,
                                 const mil_binding *binding, ane_error_info *error) {
    execution run = {plan, context, binding, error};
    const mil_program *program = plan->program;
    char *scratch = context->scratch;
    for (size_t i = 0; i < program->value_count; i++) {
        binding->data[i] = plan->constants[i] ? plan->constants[i] : scratch;
        scratch += mil_plan_reference_bytes(plan, i);
    }
    for (size_t i = 0; i < program->input_count; i++)
        read_port(&binding->inputs[i]->memory, binding->data[program->inputs[i]]);
    for (size_t i = 0; i < program->op_count; i++) {
        const mil_op *op = &program->ops[i];
        if (plan->constants[op->outputs[0]]) continue;
        ane_status status = evaluate_op(&run, op);
        if (status != ANE_OK) return status;
    }
    for (size_t i = 0; i < program->output_count; i++)
        write_port(binding->data[program->outputs[i]], &binding->outputs[i]->memory);
    return ANE_OK;
}
