/* request.c: programs bound to surfaces, and their evaluation. */
#include "program.h"

#include <string.h>

struct ane_request {
    ane_program *program;
    ane_surface **inputs, **outputs;
    void *bound; /* the driver's own */
};

/* What a port asks of its surface. `kind` is "input" or "output". */
static ane_status check_surface(const ane_program *program, const char *kind,
                                const ane_driver_port *port, const ane_surface *surface) {
    ane_context *context = program->context;
    if (!surface)
        return ane_context_fail(context, ANE_ERROR_ARGUMENT, "%s '%s' has no surface", kind,
                                port->name);
    if (surface->context != context)
        return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                                "the surface of %s '%s' belongs to another context", kind,
                                port->name);
    const ane_memory *memory = &surface->memory;
    if (memory->channels == port->channels && memory->width == port->width &&
        memory->element_size == port->element_size)
        return ANE_OK;
    return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                            "%s '%s' needs a surface of %zu x %zu elements of %zu bytes, not "
                            "%zu x %zu of %zu",
                            kind, port->name, port->channels, port->width, port->element_size,
                            memory->channels, memory->width, memory->element_size);
}

/* Outputs are written while inputs are still read. */
static ane_status check_distinct(const ane_program *program, ane_surface **inputs,
                                 ane_surface **outputs) {
    const mil_program *checked = program->checked;
    for (size_t i = 0; i < checked->output_count; i++) {
        bool shared = false;
        for (size_t j = 0; j < checked->input_count; j++) shared |= outputs[i] == inputs[j];
        for (size_t j = 0; j < i; j++) shared |= outputs[i] == outputs[j];
        if (shared)
            return ane_context_fail(program->context, ANE_ERROR_ARGUMENT,
                                    "the surface of output '%s' serves another port too",
                                    program->outputs[i].name);
    }
    return ANE_OK;
}

static ane_status check_surfaces(const ane_program *program, ane_surface **inputs,
                                 size_t input_count, ane_surface **outputs, size_t output_count) {
    const mil_program *checked = program->checked;
    if (input_count != checked->input_count || output_count != checked->output_count ||
        (input_count > 0 && !inputs) || !outputs)
        return ane_context_fail(program->context, ANE_ERROR_ARGUMENT,
                                "%zu inputs and %zu outputs are given; the program has %zu and %zu",
                                input_count, output_count, checked->input_count,
                                checked->output_count);
    ane_status status = ANE_OK;
    for (size_t i = 0; i < input_count && status == ANE_OK; i++)
        status = check_surface(program, "input", &program->inputs[i], inputs[i]);
    for (size_t i = 0; i < output_count && status == ANE_OK; i++)
        status = check_surface(program, "output", &program->outputs[i], outputs[i]);
    return status == ANE_OK ? check_distinct(program, inputs, outputs) : status;
}

static bool hold_surfaces(ane_surface ***held, ane_surface **surfaces, size_t count) {
    *held = ane_alloc(count ? count : 1, sizeof **held);
    if (!*held) return false;
    for (size_t i = 0; i < count; i++) {
        (*held)[i] = surfaces[i];
        surface_hold(surfaces[i]);
    }
    return true;
}

static void release_surfaces(ane_surface **held, size_t count) {
    for (size_t i = 0; held && i < count; i++) ane_surface_free(held[i]);
    ane_free(held);
}

static ane_status bind(ane_request *request, ane_surface **inputs, ane_surface **outputs) {
    ane_program *program = request->program;
    if (!hold_surfaces(&request->inputs, inputs, program->checked->input_count) ||
        !hold_surfaces(&request->outputs, outputs, program->checked->output_count))
        return ane_context_fail(program->context, ANE_ERROR_MEMORY, "no memory for a request");
    ane_error_info error = {0};
    ane_status status = program->driver->request_create(program->compiled, request->inputs,
                                                        request->outputs, &request->bound, &error);
    return status == ANE_OK ? status : ane_context_keep(program->context, &error);
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
    status = bind(made, inputs, outputs);
    if (status == ANE_OK)
        *request = made;
    else
        ane_request_free(made);
    return status;
}

void ane_request_free(ane_request *request) {
    if (!request) return;
    ane_program *program = request->program;
    if (request->bound) program->driver->request_free(request->bound);
    release_surfaces(request->inputs, program->checked->input_count);
    release_surfaces(request->outputs, program->checked->output_count);
    ane_free(request);
    ane_program_free(program);
}

static ane_status check_unlocked(const ane_request *request) {
    const ane_program *program = request->program;
    const char *name = NULL;
    for (size_t i = 0; i < program->checked->input_count; i++) {
        const ane_surface *surface = request->inputs[i];
        if (surface->locked && !surface->locked_to_read) name = program->inputs[i].name;
    }
    for (size_t i = 0; i < program->checked->output_count; i++)
        if (request->outputs[i]->locked) name = program->outputs[i].name;
    if (!name) return ANE_OK;
    return ane_context_fail(program->context, ANE_ERROR_STATE, "the surface of '%s' is locked",
                            name);
}

ane_status ane_request_evaluate(ane_request *request) {
    if (!request) return ANE_ERROR_ARGUMENT;
    ane_program *program = request->program;
    ane_context *context = program->context;
    if (!program->loaded)
        return ane_context_fail(context, ANE_ERROR_STATE, "the program is not loaded");
    ane_status status = check_unlocked(request);
    if (status != ANE_OK) return status;
    ane_error_info error = {0};
    pthread_mutex_lock(&context->evaluation);
    status = program->driver->request_evaluate(request->bound, &error);
    for (size_t i = 0; i < program->checked->output_count; i++) {
        ane_surface *surface = request->outputs[i];
        surface_changed(surface, 0, 0, surface->memory.channels, surface->memory.width);
    }
    pthread_mutex_unlock(&context->evaluation);
    return status == ANE_OK ? status : ane_context_keep(context, &error);
}
