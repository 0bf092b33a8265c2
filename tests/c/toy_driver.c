/* toy_driver.c: a driver library that computes nothing. It counts what is alive, checks the order
 * of calls, and fails at the call that TOY_FAIL names, so that the layer above it can be tested. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "engine/driver.h"
#include "engine/surface.h"

typedef struct toy {
    long engines, surfaces, locks, programs, loaded, requests;
} toy;

static toy alive;

static bool fails(const char *call, ane_status status, ane_error_info *error) {
    const char *wanted = getenv("TOY_FAIL");
    if (!wanted || strcmp(wanted, call) != 0) return false;
    ane_fail(error, status, "%s was told to fail", call);
    snprintf(error->domain, sizeof error->domain, "toy.%s", call);
    error->code = 42;
    return true;
}

static ane_status describe(const ane_options *options, char **json, ane_error_info *error) {
    if (fails("describe", ANE_ERROR_MISSING, error)) return error->status;
    char text[200];
    snprintf(text, sizeof text,
             "{\"engine\": \"toy\", \"dispatch\": %d, \"alive\": [%ld, %ld, %ld, %ld, %ld, %ld]}",
             (int)options->dispatch, alive.engines, alive.surfaces, alive.locks, alive.programs,
             alive.loaded, alive.requests);
    *json = strdup(text);
    return ANE_OK;
}

static ane_status explore(const ane_options *options, char **json, ane_error_info *error) {
    (void)options;
    if (fails("explore", ANE_ERROR_MISSING, error)) return error->status;
    *json = strdup("{\"explored\": []}");
    return ANE_OK;
}

static ane_status open_toy(ane_context *context, const ane_options *options, void **engine,
                           ane_error_info *error) {
    (void)context;
    (void)options;
    if (fails("open", ANE_ERROR_MISSING, error)) return error->status;
    alive.engines++;
    *engine = &alive;
    return ANE_OK;
}

static void close_toy(void *engine) {
    (void)engine;
    alive.engines--;
}

/* Row strides that no other engine has: 128 bytes more than needed. */
static ane_status create_surface(void *engine, ane_memory *memory, ane_error_info *error) {
    (void)engine;
    if (fails("surface", ANE_ERROR_MEMORY, error)) return error->status;
    memory->row_stride = (memory->width * memory->element_size + 63) / 64 * 64;
    if (getenv("TOY_WIDE_ROWS")) memory->row_stride += 128;
    memory->size = memory->channels * memory->row_stride + 4096;
    memory->handle = calloc(1, memory->size);
    alive.surfaces++;
    return ANE_OK;
}

static void free_surface(void *engine, ane_memory *memory) {
    (void)engine;
    free(memory->handle);
    alive.surfaces--;
}

static ane_status lock_surface(ane_memory *memory, bool read_only, ane_error_info *error) {
    (void)read_only;
    if (fails("lock", ANE_ERROR_SYSTEM, error)) return error->status;
    memory->base = memory->handle;
    alive.locks++;
    return ANE_OK;
}

static ane_status unlock_surface(ane_memory *memory, bool read_only, ane_error_info *error) {
    (void)memory;
    (void)read_only;
    alive.locks--;
    return fails("unlock", ANE_ERROR_SYSTEM, error) ? error->status : ANE_OK;
}

typedef struct toy_program {
    bool loaded;
} toy_program;

static ane_status compile(void *engine, const ane_source *source, void **program,
                          ane_error_info *error) {
    (void)engine;
    if (strstr(source->text, "tanh"))
        return ane_fail(error, ANE_ERROR_COMPILE, "the toy has no tanh");
    if (fails("compile", ANE_ERROR_COMPILE, error)) return error->status;
    *program = calloc(1, sizeof(toy_program));
    alive.programs++;
    return ANE_OK;
}

static ane_status load(void *program, ane_error_info *error) {
    if (fails("load", ANE_ERROR_LIMIT, error)) return error->status;
    alive.loaded += !((toy_program *)program)->loaded;
    ((toy_program *)program)->loaded = true;
    return ANE_OK;
}

static ane_status unload(void *program, ane_error_info *error) {
    alive.loaded -= ((toy_program *)program)->loaded;
    ((toy_program *)program)->loaded = false;
    return fails("unload", ANE_ERROR_EVALUATE, error) ? error->status : ANE_OK;
}

static void free_program(void *program) {
    ane_error_info error;
    unload(program, &error);
    free(program);
    alive.programs--;
}

static ane_status create_request(void *program, ane_surface **inputs, ane_surface **outputs,
                                 void **request, ane_error_info *error) {
    (void)program;
    (void)inputs;
    (void)outputs;
    if (fails("request", ANE_ERROR_EVALUATE, error)) return error->status;
    *request = malloc(1);
    alive.requests++;
    return ANE_OK;
}

static ane_status evaluate(void *request, ane_error_info *error) {
    (void)request;
    return fails("evaluate", ANE_ERROR_EVALUATE, error) ? error->status : ANE_OK;
}

static void free_request(void *request) {
    free(request);
    alive.requests--;
}

const ane_driver *ane_hardware_driver(void) {
    static const ane_driver driver = {
        .version = ANE_DRIVER_VERSION,
        .name = "hardware",
        .describe = describe,
        .explore = explore,
        .open = open_toy,
        .close = close_toy,
        .surface_create = create_surface,
        .surface_free = free_surface,
        .surface_lock = lock_surface,
        .surface_unlock = unlock_surface,
        .program_compile = compile,
        .program_load = load,
        .program_unload = unload,
        .program_free = free_program,
        .request_create = create_request,
        .request_evaluate = evaluate,
        .request_free = free_request,
    };
    return &driver;
}
