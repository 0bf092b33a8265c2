/* program.c: compiled programs as the C API has them, on whichever engine. */
#include "program.h"

#include <stdlib.h>
#include <string.h>

/* Zero-filled; a count of 0 is no failure. */
static bool allocate(void *array, size_t count, size_t size) {
    void *memory = ane_alloc(count ? count : 1, size);
    memcpy(array, &memory, sizeof memory);
    return memory != NULL;
}

/* --- counts --- */

/* Takes one of those that the limit leaves. `what` completes "the limit of 3 ... programs". */
static ane_status take(ane_context *context, size_t *count, size_t limit, const char *what) {
    pthread_mutex_lock(&context->lock);
    bool within = limit == 0 || *count < limit;
    if (within) ++*count;
    pthread_mutex_unlock(&context->lock);
    if (within) return ANE_OK;
    return ane_context_fail(context, ANE_ERROR_LIMIT, "the limit of %zu %s programs is reached",
                            limit, what);
}

static void give_back(ane_context *context, size_t *count) {
    pthread_mutex_lock(&context->lock);
    --*count;
    pthread_mutex_unlock(&context->lock);
}

/* --- compiling --- */

/* The surface of a port has the last dimension as width and the product of the others as channels.
 */
static ane_driver_port port_of(const mil_value *value, ane_numerics numerics) {
    const mil_type *type = &value->type;
    ane_driver_port port = {.name = value->name, .dtype = mil_dtype_name(type->dtype)};
    port.channels = port.width = 1;
    for (size_t i = 0; i + 1 < type->rank; i++) port.channels *= type->dim[i];
    if (type->rank > 0) port.width = type->dim[type->rank - 1];
    port.element_size = type->dtype == MIL_FP16 && numerics != ANE_FP32 ? 2 : 4;
    return port;
}

static ane_status describe_ports(ane_program *program) {
    const mil_program *checked = program->checked;
    ane_numerics numerics = program->context->options.numerics;
    if (!allocate(&program->inputs, checked->input_count, sizeof *program->inputs) ||
        !allocate(&program->outputs, checked->output_count, sizeof *program->outputs))
        return ane_context_fail(program->context, ANE_ERROR_MEMORY, "no memory for a program");
    for (size_t i = 0; i < checked->input_count; i++)
        program->inputs[i] = port_of(&checked->values[checked->inputs[i]], numerics);
    for (size_t i = 0; i < checked->output_count; i++)
        program->outputs[i] = port_of(&checked->values[checked->outputs[i]], numerics);
    return ANE_OK;
}

static ane_status check_donor(const ane_program *program, const ane_program *donor) {
    if (!donor) return ANE_OK;
    if (donor->context != program->context || donor->driver != program->driver)
        return ane_context_fail(program->context, ANE_ERROR_ARGUMENT,
                                "the donor belongs to another engine");
    if (donor->length == program->length && !memcmp(donor->text, program->text, program->length))
        return ANE_OK;
    return ane_context_fail(program->context, ANE_ERROR_ARGUMENT,
                            "the donor's text is another one");
}

/* Between the front end and the driver's compiler, which counts unless there is a donor. */
static ane_status compile_checked(ane_program *program, ane_source *source) {
    ane_context *context = program->context;
    bool own = program->driver == context->driver;
    ane_status status = describe_ports(program);
    if (status == ANE_OK && !source->donor && own)
        status =
            take(context, &context->counts.compiled, context->options.compile_limit, "compiled");
    if (status != ANE_OK) return status;
    source->checked = program->checked;
    source->inputs = program->inputs;
    source->outputs = program->outputs;
    source->input_count = program->checked->input_count;
    source->output_count = program->checked->output_count;
    ane_error_info error = {0};
    status = program->driver->program_compile(own ? context->engine : context, source,
                                              &program->compiled, &error);
    return status == ANE_OK ? status : ane_context_keep(context, &error);
}

static ane_status compile(ane_program *program, ane_source *source) {
    ane_context *context = program->context;
    ane_error_info error = {0};
    ane_status status =
        mil_program_create(source->text, source->length, source->files, source->file_count,
                           context->options.numerics, &program->checked, &error);
    if (status != ANE_OK) return ane_context_keep(context, &error);
    for (size_t i = 0; i < source->file_count; i++) program->file_bytes += source->files[i].size;
    return compile_checked(program, source);
}

static ane_program *new_program(ane_context *context, const ane_source *source,
                                const ane_compile_options *options) {
    ane_program *made = ane_alloc(1, sizeof *made);
    if (!made || !allocate(&made->text, source->length, 1)) {
        ane_free(made);
        return NULL;
    }
    memcpy(made->text, source->text, source->length);
    made->length = source->length;
    made->context = context;
    bool software = options && options->engine == ANE_SOFTWARE;
    made->driver = software ? ane_software_driver() : context->driver;
    atomic_init(&made->holders, 1);
    ane_context_hold(context);
    return made;
}

ane_status ane_program_compile(ane_context *context, const char *text, size_t length,
                               const ane_weight_file *files, size_t file_count,
                               const ane_compile_options *options, ane_program **program) {
    if (program) *program = NULL;
    if (!context || !program || !text || (file_count > 0 && !files))
        return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                                "the context, the text, the weight files or the place for the "
                                "program are missing");
    if (options && options->engine == ANE_HARDWARE && context->options.engine != ANE_HARDWARE)
        return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                                "the software engine cannot compile for the hardware");
    ane_source source = {.text = text, .length = length, .files = files, .file_count = file_count};
    ane_program *made = new_program(context, &source, options);
    if (!made) return ane_context_fail(context, ANE_ERROR_MEMORY, "no memory for a program");
    const ane_program *donor = options ? options->donor : NULL;
    if (donor) source.donor = donor->compiled;
    ane_status status = check_donor(made, donor);
    if (status == ANE_OK) status = compile(made, &source);
    if (status == ANE_OK)
        *program = made;
    else
        ane_program_free(made);
    return status;
}

/* --- loading --- */

ane_status ane_program_load(ane_program *program) {
    if (!program) return ANE_ERROR_ARGUMENT;
    if (program->loaded) return ANE_OK;
    ane_context *context = program->context;
    size_t limit = context->options.load_limit;
    ane_status status = take(context, &context->counts.loaded, limit, "loaded");
    if (status != ANE_OK) return status;
    ane_error_info error = {0};
    status = program->driver->program_load(program->compiled, &error);
    program->loaded = status == ANE_OK;
    if (status == ANE_OK) return status;
    give_back(context, &context->counts.loaded);
    return ane_context_keep(context, &error);
}

ane_status ane_program_unload(ane_program *program) {
    if (!program) return ANE_ERROR_ARGUMENT;
    if (!program->loaded) return ANE_OK;
    ane_context *context = program->context;
    program->loaded = false;
    give_back(context, &context->counts.loaded);
    ane_error_info error = {0};
    ane_status status = program->driver->program_unload(program->compiled, &error);
    return status == ANE_OK ? status : ane_context_keep(context, &error);
}

void ane_program_free(ane_program *program) {
    if (!program || atomic_fetch_sub(&program->holders, 1) != 1) return;
    ane_context *context = program->context;
    if (program->loaded) give_back(context, &context->counts.loaded);
    if (program->compiled) program->driver->program_free(program->compiled);
    mil_program_free(program->checked);
    ane_free(program->inputs);
    ane_free(program->outputs);
    ane_free(program->text);
    ane_free(program);
    ane_context_free(context);
}

/* --- what is known of a program --- */

size_t ane_program_inputs(const ane_program *program) {
    return program ? program->checked->input_count : 0;
}

size_t ane_program_outputs(const ane_program *program) {
    return program ? program->checked->output_count : 0;
}

static ane_status describe_port(const ane_program *program, const size_t *values, size_t count,
                                size_t index, ane_port *port) {
    if (index >= count)
        return ane_context_fail(program->context, ANE_ERROR_ARGUMENT,
                                "port %zu does not exist: there are %zu", index, count);
    const mil_value *value = &program->checked->values[values[index]];
    *port = (ane_port){.name = value->name, .dtype = mil_dtype_name(value->type.dtype)};
    port->rank = value->type.rank;
    memcpy(port->shape, value->type.dim, value->type.rank * sizeof *port->shape);
    return ANE_OK;
}

ane_status ane_program_input(const ane_program *program, size_t index, ane_port *port) {
    if (!program || !port) return ANE_ERROR_ARGUMENT;
    const mil_program *checked = program->checked;
    return describe_port(program, checked->inputs, checked->input_count, index, port);
}

ane_status ane_program_output(const ane_program *program, size_t index, ane_port *port) {
    if (!program || !port) return ANE_ERROR_ARGUMENT;
    const mil_program *checked = program->checked;
    return describe_port(program, checked->outputs, checked->output_count, index, port);
}

ane_status ane_program_cost(const ane_program *program, size_t *constant_bytes,
                            size_t *scratch_bytes, double *flops) {
    if (!program) return ANE_ERROR_ARGUMENT;
    ane_cost cost = {.constant_bytes = program->file_bytes};
    if (program->driver->program_cost) program->driver->program_cost(program->compiled, &cost);
    if (constant_bytes) *constant_bytes = cost.constant_bytes;
    if (scratch_bytes) *scratch_bytes = cost.scratch_bytes;
    if (flops) *flops = cost.flops;
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

void ane_text_free(char *text) {
    free(text);
}
