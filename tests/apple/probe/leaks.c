/* leaks.c: round trips through the C API and a driver, each with a failure that the stand-in is to
 * have, for a search for lost memory at the end: leaks DRIVER STANDIN [FAILURE DISPATCH]... */
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "ane.h"

#define CHANNELS 4
#define WIDTH 8
#define SHAPE "tensor<fp16, [1, 4, 1, 8]>"
#define COLUMN "tensor<fp16, [1, 4, 1, 1]>"
#define WEIGHTS "@model_path/weights/w.bin"

static const char TEXT[] =
    "program(1.3)\n[buildInfo = dict<string, string>({})]\n{\n"
    "    func main<ios18>(" SHAPE " b, " SHAPE " a) {\n"
    "        " COLUMN " w = const()[val = " COLUMN "(BLOBFILE(path = string(\"" WEIGHTS "\"),"
    " offset = uint64(64)))];\n"
    "        " SHAPE " z = mul(x = b, y = w);\n"
    "        " SHAPE " y = sub(x = z, y = a);\n    } -> (z, y);\n}\n";

typedef struct trip {
    ane_context *context;
    ane_weight_builder *builder;
    ane_program *program;
    ane_surface *surfaces[4];
    ane_request *request;
} trip;

static ane_status open(trip *made, const char *driver, ane_dispatch dispatch) {
    ane_options options = {
        .threads = 1, .engine = ANE_HARDWARE, .driver_path = driver, .dispatch = dispatch};
    return ane_context_open(&options, &made->context, NULL);
}

static ane_status compile(trip *made) {
    const float weights[CHANNELS] = {1, 2, 0.5f, -3};
    uint64_t offset;
    ane_weight_file file;
    ane_status status = ane_weight_builder_create(made->context, &made->builder);
    if (!status)
        status = ane_weight_builder_fp16(
            made->builder, &(ane_weight_source){weights, CHANNELS, 1, false}, &offset);
    if (!status) status = ane_weight_builder_file(made->builder, WEIGHTS, &file);
    if (!status)
        status = ane_program_compile(made->context, TEXT, sizeof TEXT - 1, &file, 1, NULL,
                                     &made->program);
    return status ? status : ane_program_load(made->program);
}

static ane_status evaluate(trip *made) {
    float values[CHANNELS * WIDTH] = {1, 2, 3};
    ane_status status = ANE_OK;
    for (size_t i = 0; i < 4 && !status; i++)
        status = ane_surface_create(made->context, CHANNELS, WIDTH, 2, &made->surfaces[i]);
    for (size_t i = 0; i < 2 && !status; i++)
        status =
            ane_surface_write(made->surfaces[i], 0, 0, CHANNELS, WIDTH, values, WIDTH, false, 1.0f);
    if (!status)
        status = ane_request_create(made->program, made->surfaces, 2, made->surfaces + 2, 2,
                                    &made->request);
    if (!status) status = ane_request_evaluate(made->request);
    return status ? status
                  : ane_surface_read(made->surfaces[2], 0, 0, CHANNELS, WIDTH, 1.0f, 0.0f, NULL,
                                     values, WIDTH);
}

static ane_status run(const char *driver, ane_dispatch dispatch) {
    trip made = {0};
    ane_status status = open(&made, driver, dispatch);
    if (!status) status = compile(&made);
    if (!status) status = evaluate(&made);
    ane_request_free(made.request);
    for (size_t i = 0; i < 4; i++) ane_surface_free(made.surfaces[i]);
    if (made.program) ane_program_unload(made.program);
    ane_program_free(made.program);
    ane_weight_builder_free(made.builder);
    ane_context_free(made.context);
    return status;
}

static ane_status explore(const char *driver) {
    ane_options options = {.engine = ANE_HARDWARE, .driver_path = driver};
    char *json;
    ane_status status = ane_engine_explore(&options, &json, NULL);
    ane_text_free(json);
    return status;
}

int main(int count, char **arguments) {
    void *standin = count > 2 ? dlopen(arguments[2], RTLD_NOW) : NULL;
    void (*reset)(void) = standin ? (void (*)(void))dlsym(standin, "standin_reset") : NULL;
    if (!reset || explore(arguments[1])) return 2;
    for (int i = 3; i + 1 < count; i += 2) {
        reset();
        setenv("ANE_STANDIN_FAIL", arguments[i], 1);
        printf("%d\n", (int)run(arguments[1], (ane_dispatch)atoi(arguments[i + 1])));
    }
    return 0;
}
