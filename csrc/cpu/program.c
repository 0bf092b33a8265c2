/* program.c: compiled programs and requests as the C API has them. A program lives until its last
 * request is freed, a surface likewise, and the context outlives all. */
#include <stdlib.h>
#include <string.h>

#include "plan.h"
#include "surface.h"

struct ane_program {
    ane_context *context;
    mil_program *program;
    mil_plan *plan;
    bool loaded;
    atomic_size_t holders; /* the creator, and requests */
};

struct ane_request {
    ane_program *program;
    mil_binding binding;
};

/* --- compiling --- */

/* Takes one of the compiles that the limit leaves. */
static ane_status count_compile(ane_context *context) {
    size_t limit = context->options.compile_limit;
    pthread_mutex_lock(&context->lock);
    bool within = limit == 0 || context->counts.compiled < limit;
    if (within) context->counts.compiled++;
    pthread_mutex_unlock(&context->lock);
    if (within) return ANE_OK;
    return ane_context_fail(context, ANE_ERROR_LIMIT,
                            "the limit of %zu compiled programs is reached", limit);
}

static ane_status compile(ane_program *made, const char *text, size_t length,
                          const ane_weight_file *files, size_t file_count) {
    const ane_options *options = &made->context->options;
    ane_error_info error = {0};
    ane_status status = mil_program_create(text, length, files, file_count, options->numerics,
                                           &made->program, &error);
    if (status == ANE_OK) status = mil_plan_create(made->program, options, &made->plan, &error);
    if (status != ANE_OK) return ane_context_keep(made->context, &error);
    return count_compile(made->context);
}

ane_status ane_program_compile(ane_context *context, const char *text, size_t length,
                               const ane_weight_file *files, size_t file_count,
                               ane_program **program) {
    if (program) *program = NULL;
    if (!context || !program || !text || (file_count > 0 && !files))
        return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                                "the context, the text, the weight files or the place for the "
                                "program are missing");
    ane_program *made = ane_alloc(1, sizeof *made);
    if (!made) return ane_context_fail(context, ANE_ERROR_MEMORY, "no memory for a program");
    made->context = context;
    atomic_init(&made->holders, 1);
    ane_context_hold(context);
    ane_status status = compile(made, text, length, files, file_count);
    if (status != ANE_OK) {
        ane_program_free(made);
        return status;
    }
    *program = made;
    return ANE_OK;
}

static void set_loaded(ane_program *program, bool loaded) {
    ane_context *context = program->context;
    pthread_mutex_lock(&context->lock);
    if (loaded != program->loaded) context->counts.loaded += loaded ? 1 : (size_t)-1;
    program->loaded = loaded;
    pthread_mutex_unlock(&context->lock);
}

ane_status ane_program_load(ane_program *program) {
    if (!program) return ANE_ERROR_ARGUMENT;
    set_loaded(program, true);
    return ANE_OK;
}

ane_status ane_program_unload(ane_program *program) {
    if (!program) return ANE_ERROR_ARGUMENT;
    set_loaded(program, false);
    return ANE_OK;
}

void ane_program_free(ane_program *program) {
    if (!program || atomic_fetch_sub(&program->holders, 1) != 1) return;
    set_loaded(program, false);
    ane_context *context = program->context;
    mil_plan_free(program->plan);
    mil_program_free(program->program);
    ane_free(program);
    ane_context_free(context);
}

/* --- what is known of a program --- */

size_t ane_program_inputs(const ane_program *program) {
    return program ? program->program->input_count : 0;
}

size_t ane_program_outputs(const ane_program *program) {
    return program ? program->program->output_count : 0;
}

static ane_status describe_port(const ane_program *program, const size_t *values, size_t count,
                                size_t index, ane_port *port) {
    if (index >= count)
        return ane_context_fail(program->context, ANE_ERROR_ARGUMENT,
                                "port %zu does not exist: there are %zu", index, count);
    const mil_value *value = &program->program->values[values[index]];
    *port = (ane_port){.name = value->name, .dtype = mil_dtype_name(value->type.dtype)};
    port->rank = value->type.rank;
    memcpy(port->shape, value->type.dim, value->type.rank * sizeof *port->shape);
    return ANE_OK;
}

ane_status ane_program_input(const ane_program *program, size_t index, ane_port *port) {
    if (!program || !port) return ANE_ERROR_ARGUMENT;
    const mil_program *checked = program->program;
    return describe_port(program, checked->inputs, checked->input_count, index, port);
}

ane_status ane_program_output(const ane_program *program, size_t index, ane_port *port) {
    if (!program || !port) return ANE_ERROR_ARGUMENT;
    const mil_program *checked = program->program;
    return describe_port(program, checked->outputs, checked->output_count, index, port);
}

ane_status ane_program_cost(const ane_program *program, size_t *constant_bytes,
                            size_t *scratch_bytes, double *flops) {
    if (!program) return ANE_ERROR_ARGUMENT;
    if (constant_bytes) *constant_bytes = program->plan->constant_bytes;
    if (scratch_bytes) *scratch_bytes = program->plan->scratch_bytes;
    if (flops) *flops = program->plan->flops;
    return ANE_OK;
}

ane_status ane_program_print(ane_context *context, const char *text, size_t length,
                             char **printed) {
    if (printed) *printed = NULL;
    if (!context || !text || !printed)
        return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                                "the context, the text or the place for the result are missing");
    ane_error_info error = {0};
    ane_status status = mil_print(text, length, printed, &error);
    return status == ANE_OK ? status : ane_context_keep(context, &error);
}

/* --- requests --- */

/* What a port asks of its surface. `kind` is "input" or "output". */
static ane_status check_surface(const ane_program *program, const char *kind, size_t value,
                                const mil_geometry *wanted, const ane_surface *surface) {
    const char *name = program->program->values[value].name;
    ane_context *context = program->context;
    if (!surface)
        return ane_context_fail(context, ANE_ERROR_ARGUMENT, "%s '%s' has no surface", kind, name);
    if (surface->context != context)
        return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                                "the surface of %s '%s' belongs to another context", kind, name);
    if (surface->channels == wanted->channels && surface->width == wanted->width &&
        surface->element_size == wanted->element_size)
        return ANE_OK;
    return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                            "%s '%s' needs a surface of %zu x %zu elements of %zu bytes, not "
                            "%zu x %zu of %zu",
                            kind, name, wanted->channels, wanted->width, wanted->element_size,
                            surface->channels, surface->width, surface->element_size);
}

/* Outputs are written while inputs are still read. */
static ane_status check_distinct(const ane_program *program, ane_surface **inputs,
                                 ane_surface **outputs) {
    const mil_program *checked = program->program;
    for (size_t i = 0; i < checked->output_count; i++) {
        bool shared = false;
        for (size_t j = 0; j < checked->input_count; j++) shared |= outputs[i] == inputs[j];
        for (size_t j = 0; j < i; j++) shared |= outputs[i] == outputs[j];
        if (shared)
            return ane_context_fail(program->context, ANE_ERROR_ARGUMENT,
                                    "the surface of output '%s' serves another port too",
                                    checked->values[checked->outputs[i]].name);
    }
    return ANE_OK;
}

static ane_status check_surfaces(const ane_program *program, ane_surface **inputs,
                                 size_t input_count, ane_surface **outputs, size_t output_count) {
    const mil_program *checked = program->program;
    const mil_plan *plan = program->plan;
    if (input_count != checked->input_count || output_count != checked->output_count ||
        (input_count > 0 && !inputs) || !outputs)
        return ane_context_fail(program->context, ANE_ERROR_ARGUMENT,
                                "%zu inputs and %zu outputs are given; the program has %zu and %zu",
                                input_count, output_count, checked->input_count,
                                checked->output_count);
    ane_status status = ANE_OK;
    for (size_t i = 0; i < input_count && status == ANE_OK; i++)
        status = check_surface(program, "input", checked->inputs[i], &plan->inputs[i], inputs[i]);
    for (size_t i = 0; i < output_count && status == ANE_OK; i++)
        status =
            check_surface(program, "output", checked->outputs[i], &plan->outputs[i], outputs[i]);
    return status == ANE_OK ? check_distinct(program, inputs, outputs) : status;
}

/* Zero-filled; a count of 0 is no failure. */
static bool allocate(void *array, size_t count, size_t size) {
    void *memory = ane_alloc(count ? count : 1, size);
    memcpy(array, &memory, sizeof memory);
    return memory != NULL;
}

static bool allocate_binding(ane_request *request) {
    const mil_plan *plan = request->program->plan;
    const mil_program *program = request->program->program;
    mil_binding *binding = &request->binding;
    return allocate(&binding->inputs, program->input_count, sizeof *binding->inputs) &&
           allocate(&binding->outputs, program->output_count, sizeof *binding->outputs) &&
           allocate(&binding->caches, plan->block_count, sizeof *binding->caches) &&
           allocate(&binding->bases, plan->storage_count, sizeof *binding->bases) &&
           allocate(&binding->data, program->value_count, sizeof *binding->data);
}

static void hold_surfaces(mil_binding *binding, const mil_program *program, ane_surface **inputs,
                          ane_surface **outputs) {
    for (size_t i = 0; i < program->input_count; i++) {
        binding->inputs[i] = inputs[i];
        surface_hold(inputs[i]);
    }
    for (size_t i = 0; i < program->output_count; i++) {
        binding->outputs[i] = outputs[i];
        surface_hold(outputs[i]);
    }
}

ane_status ane_request_create(ane_program *program, ane_surface **inputs, size_t input_count,
                              ane_surface **outputs, size_t output_count, ane_request **request) {
    if (request) *request = NULL;
    if (!program || !request) return ANE_ERROR_ARGUMENT;
    ane_status status = check_surfaces(program, inputs, input_count, outputs, output_count);
    if (status != ANE_OK) return status;
    ane_request *made = ane_alloc(1, sizeof *made);
    if (!made)
        return ane_context_fail(program->context, ANE_ERROR_MEMORY, "no memory for a request");
    made->program = program;
    atomic_fetch_add(&program->holders, 1);
    if (!allocate_binding(made)) {
        ane_request_free(made);
        return ane_context_fail(program->context, ANE_ERROR_MEMORY, "no memory for a request");
    }
    hold_surfaces(&made->binding, program->program, inputs, outputs);
    memcpy(made->binding.data, program->plan->constants,
           program->program->value_count * sizeof *made->binding.data);
    *request = made;
    return ANE_OK;
}

void ane_request_free(ane_request *request) {
    if (!request) return;
    ane_program *program = request->program;
    mil_binding *binding = &request->binding;
    mil_free_caches(program->plan, program->context, binding->caches);
    for (size_t i = 0; binding->inputs && i < program->program->input_count; i++)
        ane_surface_free(binding->inputs[i]);
    for (size_t i = 0; binding->outputs && i < program->program->output_count; i++)
        ane_surface_free(binding->outputs[i]);
    ane_free(binding->inputs);
    ane_free(binding->outputs);
    ane_free(binding->caches);
    ane_free(binding->bases);
    ane_free(binding->data);
    ane_free(request);
    ane_program_free(program);
}

/* --- evaluation --- */

static ane_status check_unlocked(const ane_request *request) {
    const ane_program *program = request->program;
    const mil_program *checked = program->program;
    const char *name = NULL;
    for (size_t i = 0; i < checked->input_count; i++) {
        const ane_surface *surface = request->binding.inputs[i];
        if (surface->locked && !surface->locked_to_read)
            name = checked->values[checked->inputs[i]].name;
    }
    for (size_t i = 0; i < checked->output_count; i++)
        if (request->binding.outputs[i]->locked) name = checked->values[checked->outputs[i]].name;
    if (!name) return ANE_OK;
    return ane_context_fail(program->context, ANE_ERROR_STATE, "the surface of '%s' is locked",
                            name);
}

/* Called with the evaluation lock held. */
static ane_status grow_scratch(ane_context *context, size_t bytes) {
    if (bytes <= context->scratch_size) return ANE_OK;
    void *larger = ane_alloc(bytes, 1);
    if (!larger)
        return ane_context_fail(context, ANE_ERROR_MEMORY,
                                "no memory for the %zu bytes that an evaluation needs", bytes);
    ane_free(context->scratch);
    context->scratch = larger;
    context->scratch_size = bytes;
    return ANE_OK;
}

static ane_status evaluate(const ane_request *request) {
    const mil_plan *plan = request->program->plan;
    ane_context *context = request->program->context;
    ane_error_info error = {0};
    ane_status status = grow_scratch(context, plan->scratch_bytes);
    if (status != ANE_OK) return status;
    status = plan->reference ? mil_execute_reference(plan, context, &request->binding, &error)
                             : mil_execute(plan, context, &request->binding, &error);
    return status == ANE_OK ? status : ane_context_keep(context, &error);
}

ane_status ane_request_evaluate(ane_request *request) {
    if (!request) return ANE_ERROR_ARGUMENT;
    ane_program *program = request->program;
    if (!program->loaded)
        return ane_context_fail(program->context, ANE_ERROR_STATE, "the program is not loaded");
    ane_status status = check_unlocked(request);
    if (status != ANE_OK) return status;
    pthread_mutex_lock(&program->context->evaluation);
    status = evaluate(request);
    for (size_t i = 0; i < program->program->output_count; i++) {
        ane_surface *surface = request->binding.outputs[i];
        surface_changed(surface, 0, 0, surface->channels, surface->width);
    }
    pthread_mutex_unlock(&program->context->evaluation);
    return status;
}

void ane_text_free(char *text) {
    free(text);
}
