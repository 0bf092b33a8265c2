/* driver.c: the software engine as a driver: its surfaces are plain memory, its programs are plans,
 * and its own state is the context. It runs on the surfaces of any engine. */
#include "../engine/driver.h"

#include <string.h>

#include "../engine/surface.h"
#include "plan.h"

#define ROW_ALIGNMENT 64

typedef struct software_program {
    ane_context *context;
    const mil_program *program;
    mil_plan *plan;
} software_program;

typedef struct software_request {
    const software_program *program;
    mil_binding binding;
} software_request;

static ane_status describe(const ane_options *options, char **json, ane_error_info *error) {
    (void)options;
    *json = strdup("{\"engine\": \"software\"}");
    return *json ? ANE_OK : ane_fail(error, ANE_ERROR_MEMORY, "no memory for a description");
}

static ane_status explore(const ane_options *options, char **json, ane_error_info *error) {
    (void)options;
    (void)json;
    return ane_fail(error, ANE_ERROR_MISSING,
                    "no Objective-C runtime here: the software engine has no private classes");
}

static ane_status open_engine(ane_context *context, const ane_options *options, void **engine,
                              ane_error_info *error) {
    (void)options;
    (void)error;
    *engine = context;
    return ANE_OK;
}

static void close_engine(void *engine) {
    (void)engine;
}

/* --- surfaces --- */

static bool lay_out(ane_memory *memory) {
    size_t bytes;
    if (!ane_size_mul(memory->width, memory->element_size, &bytes)) return false;
    if (!ane_size_add(bytes, ROW_ALIGNMENT - 1, &bytes)) return false;
    memory->row_stride = bytes / ROW_ALIGNMENT * ROW_ALIGNMENT;
    return ane_size_mul(memory->row_stride, memory->channels, &memory->size);
}

static ane_status create_surface(void *engine, ane_memory *memory, ane_error_info *error) {
    (void)engine;
    if (lay_out(memory)) memory->base = ane_alloc(memory->size, 1);
    if (memory->base) return ANE_OK;
    return ane_fail(error, ANE_ERROR_MEMORY, "no memory for a surface of %zu x %zu",
                    memory->channels, memory->width);
}

static void free_surface(void *engine, ane_memory *memory) {
    (void)engine;
    ane_free(memory->base);
}

static ane_status lock_surface(ane_memory *memory, bool read_only, ane_error_info *error) {
    (void)memory;
    (void)read_only;
    (void)error;
    return ANE_OK;
}

/* --- programs --- */

static void free_program(void *program) {
    software_program *own = program;
    if (!own) return;
    mil_plan_free(own->plan);
    ane_free(own);
}

static ane_status compile(void *engine, const ane_source *source, void **program,
                          ane_error_info *error) {
    ane_context *context = engine;
    software_program *made = ane_alloc(1, sizeof *made);
    if (!made) return ane_fail(error, ANE_ERROR_MEMORY, "no memory for a program");
    made->context = context;
    made->program = source->checked;
    ane_status status = mil_plan_create(made->program, &context->options,
                                        ane_blas_takes_halves(context->blas), &made->plan, error);
    if (status == ANE_OK)
        *program = made;
    else
        free_program(made);
    return status;
}

static ane_status load_program(void *program, ane_error_info *error) {
    (void)program;
    (void)error;
    return ANE_OK;
}

static void tell_cost(const void *program, ane_cost *cost) {
    const mil_plan *plan = ((const software_program *)program)->plan;
    *cost = (ane_cost){plan->constant_bytes, plan->scratch_bytes, plan->flops};
}

/* --- requests --- */

/* Zero-filled; a count of 0 is no failure. */
static bool allocate(void *array, size_t count, size_t size) {
    void *memory = ane_alloc(count ? count : 1, size);
    memcpy(array, &memory, sizeof memory);
    return memory != NULL;
}

static bool allocate_binding(software_request *request) {
    const mil_plan *plan = request->program->plan;
    const mil_program *program = request->program->program;
    mil_binding *binding = &request->binding;
    return allocate(&binding->inputs, program->input_count, sizeof *binding->inputs) &&
           allocate(&binding->outputs, program->output_count, sizeof *binding->outputs) &&
           allocate(&binding->caches, plan->block_count, sizeof *binding->caches) &&
           allocate(&binding->bases, plan->storage_count, sizeof *binding->bases) &&
           allocate(&binding->masked, plan->step_count, sizeof *binding->masked) &&
           allocate(&binding->data, program->value_count, sizeof *binding->data);
}

static void free_request(void *request) {
    software_request *own = request;
    if (!own) return;
    mil_binding *binding = &own->binding;
    mil_free_caches(own->program->plan, own->program->context, binding->caches);
    ane_free(binding->inputs);
    ane_free(binding->outputs);
    ane_free(binding->caches);
    ane_free(binding->bases);
    ane_free(binding->masked);
    ane_free(binding->data);
    ane_free(own);
}

/* A plan reads and writes with the strides of the software engine's own surfaces. */
static ane_status check_stride(const mil_geometry *wanted, const ane_surface *surface,
                               ane_error_info *error) {
    if (surface->memory.row_stride == wanted->row_stride) return ANE_OK;
    return ane_fail(error, ANE_ERROR_ARGUMENT, "rows of %zu bytes where the plan has %zu",
                    surface->memory.row_stride, wanted->row_stride);
}

static ane_status check_strides(const software_program *program, ane_surface **inputs,
                                ane_surface **outputs, ane_error_info *error) {
    const mil_plan *plan = program->plan;
    ane_status status = ANE_OK;
    for (size_t i = 0; i < program->program->input_count && status == ANE_OK; i++)
        status = check_stride(&plan->inputs[i], inputs[i], error);
    for (size_t i = 0; i < program->program->output_count && status == ANE_OK; i++)
        status = check_stride(&plan->outputs[i], outputs[i], error);
    return status;
}

static ane_status create_request(void *program, ane_surface **inputs, ane_surface **outputs,
                                 void **request, ane_error_info *error) {
    const software_program *own = program;
    const mil_program *checked = own->program;
    ane_status status = check_strides(own, inputs, outputs, error);
    if (status != ANE_OK) return status;
    software_request *made = ane_alloc(1, sizeof *made);
    if (made) made->program = own;
    if (!made || !allocate_binding(made)) {
        free_request(made);
        return ane_fail(error, ANE_ERROR_MEMORY, "no memory for a request");
    }
    for (size_t i = 0; i < checked->input_count; i++) made->binding.inputs[i] = inputs[i];
    for (size_t i = 0; i < checked->output_count; i++) made->binding.outputs[i] = outputs[i];
    memcpy(made->binding.data, own->plan->constants,
           checked->value_count * sizeof *made->binding.data);
    *request = made;
    return ANE_OK;
}

/* --- evaluation --- */

/* Called with the evaluation lock held. */
static ane_status grow_scratch(ane_context *context, size_t bytes, ane_error_info *error) {
    if (bytes <= context->scratch_size) return ANE_OK;
    void *larger = ane_alloc(bytes, 1);
    if (!larger)
        return ane_fail(error, ANE_ERROR_MEMORY,
                        "no memory for the %zu bytes that an evaluation needs", bytes);
    ane_free(context->scratch);
    context->scratch = larger;
    context->scratch_size = bytes;
    return ANE_OK;
}

static ane_status execute(const software_request *request, ane_error_info *error) {
    const mil_plan *plan = request->program->plan;
    ane_context *context = request->program->context;
    ane_status status = grow_scratch(context, plan->scratch_bytes, error);
    if (status != ANE_OK) return status;
    return plan->reference ? mil_execute_reference(plan, context, &request->binding, error)
                           : mil_execute(plan, context, &request->binding, error);
}

/* Begins, or ends, access to the first `count` ports, inputs before outputs. The number of ports
 * before the first failure. */
static size_t for_ports(const software_request *request, size_t count,
                        ane_status (*act)(ane_surface *, bool)) {
    size_t inputs = request->program->program->input_count, done = 0;
    for (; done < count; done++) {
        bool input = done < inputs;
        ane_surface *surface =
            input ? request->binding.inputs[done] : request->binding.outputs[done - inputs];
        if (act(surface, input) != ANE_OK) break;
    }
    return done;
}

/* The caller holds the context's evaluation lock. */
static ane_status evaluate(void *request, ane_error_info *error) {
    const software_request *own = request;
    const mil_program *program = own->program->program;
    size_t ports = program->input_count + program->output_count;
    size_t begun = for_ports(own, ports, surface_begin);
    ane_status status = begun == ports ? execute(own, error) : ANE_ERROR_SYSTEM;
    bool balanced = for_ports(own, begun, surface_end) == begun;
    if (begun == ports && balanced) return status;
    ane_context_error(own->program->context, error);
    return error->status;
}

const ane_driver *ane_software_driver(void) {
    static const ane_driver driver = {
        .version = ANE_DRIVER_VERSION,
        .name = "software",
        .describe = describe,
        .explore = explore,
        .open = open_engine,
        .close = close_engine,
        .surface_create = create_surface,
        .surface_free = free_surface,
        .surface_lock = lock_surface,
        .surface_unlock = lock_surface,
        .program_compile = compile,
        .program_load = load_program,
        .program_unload = load_program,
        .program_free = free_program,
        .program_cost = tell_cost,
        .request_create = create_request,
        .request_evaluate = evaluate,
        .request_free = free_request,
    };
    return &driver;
}
