/* execute.c: one evaluation: finds the address of each storage and runs the steps in order. A block
 * of an fp16 input that has not changed since the evaluation before is kept as floats by its
 * request. */
#include <stdatomic.h>
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

/* Of scores or their backward. */
static mil_scores_job scores_job(const execution *run, const mil_step *step) {
    ane_pool *pool = run->context->pool;
    const ane_blas *blas = run->context->blas;
    bool forward = step->kind == MIL_STEP_SCORES;
    const mil_scores_backward *backward = &step->scores_backward;
    const mil_product *product = forward ? &step->scores.product : &backward->product;
    mil_operand_source a = operand(run, &product->a), b = operand(run, &product->b);
    float *out = address(run, &product->out);
    mil_scores_job job;
    if (forward) {
        job = mil_scores_prepare(pool, blas, &step->scores, a, b, out);
    } else {
        mil_probabilities of = {&run->plan->steps[backward->scores].scores,
                                address(run, &backward->p), run->binding->masked[backward->scores]};
        job = mil_scores_backward_prepare(pool, blas, backward, &of, a, b, out);
    }
    run->binding->masked[step - run->plan->steps] = job.masked;
    return job;
}

static void run_scores(const execution *run, const mil_step *step) {
    mil_scores_job job = scores_job(run, step);
    mil_scores_run(run->context->pool, &job);
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

static mil_product_data product_data(const execution *run, const mil_product *product) {
    mil_product_data data = {.a = operand(run, &product->a), .b = operand(run, &product->b)};
    data.out = address(run, &product->out);
    if (product->narrows) data.halves = address(run, &product->halves);
    if (product->zeros.found) data.zeros = masked_scores(run, product->zeros.step);
    return data;
}

static void run_product(const execution *run, const mil_product *product) {
    mil_product_data data = product_data(run, product);
    mil_product_run(run->context->pool, run->context->blas, product, &data);
}

/* --- chains --- */

/* A step of a chain: scores, or a product. */
typedef struct chain_link {
    const mil_step *step;
    mil_scores_job scores;
    mil_product_data data;
    mil_product_job product;
} chain_link;

typedef struct chain {
    const mil_plan *plan;
    chain_link links[MIL_CHAIN];
    size_t length, batch;
    atomic_size_t next; /* matrix that nobody has begun */
} chain;

/* Where a thread's own matrix would be if there were all: the address of the first of them. */
static const void *own_matrix(const mil_plan *plan, const mil_view *view, const void *data,
                              size_t thread, size_t index) {
    size_t bytes = plan->storages[view->storage].matrix * sizeof(float);
    return (const void *)((uintptr_t)data + thread * bytes - index * bytes);
}

static void run_own_scores(const mil_plan *plan, chain_link now, size_t thread, size_t index) {
    bool forward = now.step->kind == MIL_STEP_SCORES;
    const mil_scores_backward *backward = &now.step->scores_backward;
    mil_scores_job *job = &now.scores;
    job->out = (float *)(uintptr_t)own_matrix(plan, &job->product->out, job->out, thread, index);
    if (!forward) job->p = own_matrix(plan, &backward->p, job->p, thread, index);
    mil_scores_matrix(job, index);
}

static void run_own_product(const mil_plan *plan, chain_link now, size_t thread, size_t index) {
    const mil_product *product = now.product.product;
    mil_product_data *data = &now.data;
    data->a.data = own_matrix(plan, &product->a, data->a.data, thread, index);
    data->b.data = own_matrix(plan, &product->b, data->b.data, thread, index);
    data->out = (float *)(uintptr_t)own_matrix(plan, &product->out, data->out, thread, index);
    now.product.data = data;
    mil_product_matrix(&now.product, index);
}

/* All steps of one matrix after the other. */
static void run_links(void *argument, size_t thread) {
    chain *all = argument;
    size_t index;
    while ((index = atomic_fetch_add(&all->next, 1)) < all->batch)
        for (size_t i = 0; i < all->length; i++)
            if (all->links[i].step->kind == MIL_STEP_PRODUCT)
                run_own_product(all->plan, all->links[i], thread, index);
            else
                run_own_scores(all->plan, all->links[i], thread, index);
}

static void run_chain(const execution *run, const mil_step *first) {
    chain all = {.plan = run->plan, .length = first->chain};
    for (size_t i = 0; i < all.length; i++) {
        const mil_step *step = first + i;
        chain_link *made = &all.links[i];
        made->step = step;
        if (step->kind == MIL_STEP_PRODUCT) {
            made->data = product_data(run, &step->product);
            made->product = mil_product_prepare(run->context->blas, &step->product, &made->data);
            all.batch = made->product.batch;
        } else {
            made->scores = scores_job(run, step);
            all.batch = made->scores.batch;
        }
    }
    ane_pool_run(run->context->pool, run->plan->threads, run_links, &all);
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
    case MIL_STEP_SCORES_BACKWARD:
        run_scores(run, step);
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
    for (size_t i = 0; i < plan->step_count && status == ANE_OK; i++) {
        const mil_step *step = &plan->steps[i];
        if (!step->chain) {
            status = run_step(&run, step);
            continue;
        }
        run_chain(&run, step);
        i += step->chain - 1;
    }
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
