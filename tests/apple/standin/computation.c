/* computation.c: runs MIL text on the software engine, copying between the memory of the chip's
 * surfaces and the engine's. One engine serves the whole process. */
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "computation.h"

#include "../runtime/failure.h"

#define ROW_ALIGNMENT 64 /* bytes, also of narrower rows (tmc/apple) */

static ane_context *engine;
static ane_error_info engine_error;
static pthread_once_t engine_once = PTHREAD_ONCE_INIT;
static pthread_mutex_t running = PTHREAD_MUTEX_INITIALIZER;

static void open_engine(void) {
    ane_options options = {
        .numerics = ANE_FP16,
        .threads = (size_t)runtime_setting("ANE_STANDIN_THREADS", 1),
        .hazards = (unsigned)runtime_setting("ANE_STANDIN_HAZARDS", 0),
        .blas_path = getenv("ANE_STANDIN_BLAS"),
    };
    if (options.hazards) options.numerics = ANE_HAZARD;
    if (options.blas_path && !*options.blas_path) options.blas_path = NULL;
    ane_context_open(&options, &engine, &engine_error);
}

/* --- ports --- */

static void describe_port(const ane_port *from, computation_port *port) {
    strncpy(port->name, from->name, sizeof port->name - 1);
    port->dtype = from->dtype;
    port->channels = port->height = port->width = 1;
    if (from->rank > 0) port->width = from->shape[from->rank - 1];
    if (from->rank > 1) port->height = from->shape[from->rank - 2];
    for (size_t i = 0; i + 2 < from->rank; i++) port->channels *= from->shape[i];
    port->element_size = strcmp(from->dtype, "fp16") == 0 ? 2 : 4;
    size_t row = port->width * port->element_size;
    port->row_stride = (row + ROW_ALIGNMENT - 1) / ROW_ALIGNMENT * ROW_ALIGNMENT;
}

/* Alphabetical (Orion, from all orders of three inputs); ANE_STANDIN_ORDER=reversed turns it round.
 */
static void order_ports(computation_port *ports, size_t count) {
    const char *order = getenv("ANE_STANDIN_ORDER");
    bool reversed = order && strcmp(order, "reversed") == 0;
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < count; j++) {
            int difference = strcmp(ports[j].name, ports[i].name);
            if (reversed ? difference > 0 : difference < 0) ports[i].symbol++;
        }
    }
}

size_t computation_port_size(const computation_port *port) {
    return port->channels * port->height * port->row_stride;
}

static ane_status make_port(computation *made, bool output, size_t index) {
    computation_port *port = output ? &made->outputs[index] : &made->inputs[index];
    ane_surface **surface = output ? &made->output_surfaces[index] : &made->input_surfaces[index];
    ane_port declared;
    ane_status status = output ? ane_program_output(made->program, index, &declared)
                               : ane_program_input(made->program, index, &declared);
    if (status) return status;
    describe_port(&declared, port);
    return ane_surface_create(engine, port->channels * port->height, port->width,
                              port->element_size, surface);
}

static ane_status make_ports(computation *made) {
    ane_status status = ANE_OK;
    made->input_count = ane_program_inputs(made->program);
    made->output_count = ane_program_outputs(made->program);
    made->inputs = calloc(made->input_count + 1, sizeof *made->inputs);
    made->outputs = calloc(made->output_count + 1, sizeof *made->outputs);
    made->input_surfaces = calloc(made->input_count + 1, sizeof(ane_surface *));
    made->output_surfaces = calloc(made->output_count + 1, sizeof(ane_surface *));
    for (size_t i = 0; i < made->input_count && !status; i++) status = make_port(made, false, i);
    for (size_t i = 0; i < made->output_count && !status; i++) status = make_port(made, true, i);
    order_ports(made->inputs, made->input_count);
    order_ports(made->outputs, made->output_count);
    return status;
}

/* --- life --- */

computation *computation_create(const char *text, size_t length, const ane_weight_file *files,
                                size_t file_count, ane_error_info *error) {
    pthread_once(&engine_once, open_engine);
    if (!engine) {
        *error = engine_error;
        return NULL;
    }
    computation *made = calloc(1, sizeof *made);
    made->holders = 1;
    ane_status status =
        ane_program_compile(engine, text, length, files, file_count, NULL, &made->program);
    if (!status) status = ane_program_load(made->program);
    if (!status) status = make_ports(made);
    if (!status) {
        status = ane_request_create(made->program, made->input_surfaces, made->input_count,
                                    made->output_surfaces, made->output_count, &made->request);
    }
    if (!status) return made;
    ane_context_error(engine, error);
    computation_release(made);
    return NULL;
}

computation *computation_hold(computation *computation) {
    __atomic_add_fetch(&computation->holders, 1, __ATOMIC_SEQ_CST);
    return computation;
}

void computation_release(computation *computation) {
    if (!computation || __atomic_sub_fetch(&computation->holders, 1, __ATOMIC_SEQ_CST)) return;
    ane_request_free(computation->request);
    for (size_t i = 0; i < computation->input_count; i++) {
        ane_surface_free(computation->input_surfaces[i]);
    }
    for (size_t i = 0; i < computation->output_count; i++) {
        ane_surface_free(computation->output_surfaces[i]);
    }
    ane_program_free(computation->program);
    free(computation->inputs);
    free(computation->outputs);
    free(computation->input_surfaces);
    free(computation->output_surfaces);
    free(computation);
}

/* --- running --- */

static ane_status copy_rows(const computation_port *port, ane_surface *surface, char *memory,
                            bool into_memory) {
    ane_status status = ane_surface_lock(surface, into_memory);
    if (status) return status;
    char *base = ane_surface_base(surface);
    size_t stride = ane_surface_row_stride(surface), size = port->width * port->element_size;
    for (size_t row = 0; row < port->channels * port->height; row++) {
        char *inside = base + row * stride, *outside = memory + row * port->row_stride;
        memcpy(into_memory ? outside : inside, into_memory ? inside : outside, size);
    }
    return ane_surface_unlock(surface);
}

static ane_status run_alone(computation *run, void *const *inputs, void *const *outputs) {
    ane_status status = ANE_OK;
    for (size_t i = 0; i < run->input_count && !status; i++) {
        const computation_port *port = &run->inputs[i];
        status = copy_rows(port, run->input_surfaces[i], inputs[port->symbol], false);
    }
    if (!status) status = ane_request_evaluate(run->request);
    for (size_t i = 0; i < run->output_count && !status; i++) {
        const computation_port *port = &run->outputs[i];
        status = copy_rows(port, run->output_surfaces[i], outputs[port->symbol], true);
    }
    return status;
}

ane_status computation_run(computation *computation, void *const *inputs, void *const *outputs,
                           ane_error_info *error) {
    pthread_mutex_lock(&running);
    ane_status status = run_alone(computation, inputs, outputs);
    if (status) ane_context_error(engine, error);
    pthread_mutex_unlock(&running);
    return status;
}
