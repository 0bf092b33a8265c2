/* engine_driver.c: drives the engine through the C API alone, for builds with sanitizers. Each
 * argument is a file of MIL text: it is evaluated several times with writes in between, by both
 * evaluators. Before that, the API is misused in every way that it promises to survive. */
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ane.h"

#define MOST_PORTS 8
#define THREADS 3

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("line %d: %s\n", __LINE__, #condition);                                         \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static ane_context *open_context(ane_numerics numerics, unsigned hazards, bool reference) {
    ane_options options = {.numerics = numerics, .hazards = hazards, .threads = THREADS};
    options.reference = reference;
    ane_context *context = NULL;
    ane_error_info error;
    REQUIRE(ane_context_open(&options, &context, &error) == ANE_OK);
    return context;
}

/* --- programs from files --- */

static char *read_file(const char *path, size_t *length) {
    FILE *file = fopen(path, "rb");
    REQUIRE(file);
    char *text = malloc(1 << 20);
    REQUIRE(text);
    *length = fread(text, 1, 1 << 20, file);
    fclose(file);
    return text;
}

typedef struct bound {
    ane_program *program;
    ane_request *request;
    ane_surface *inputs[MOST_PORTS], *outputs[MOST_PORTS];
    size_t input_count, output_count;
} bound;

static ane_surface *port_surface(ane_context *context, const ane_port *port, bool narrow,
                                 size_t *channels, size_t *width) {
    *channels = 1;
    *width = port->rank ? port->shape[port->rank - 1] : 1;
    for (size_t i = 0; i + 1 < port->rank; i++) *channels *= port->shape[i];
    size_t size = narrow && strcmp(port->dtype, "fp16") == 0 ? 2 : 4;
    ane_surface *surface = NULL;
    REQUIRE(ane_surface_create(context, *channels, *width, size, &surface) == ANE_OK);
    return surface;
}

static void fill(ane_surface *surface, size_t channels, size_t width, unsigned seed) {
    float *values = malloc(channels * width * sizeof *values);
    REQUIRE(values);
    for (size_t i = 0; i < channels * width; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)(seed >> 16) / 32768.0f - 1.0f;
    }
    bool transposed = seed & 0x10000u;
    REQUIRE(ane_surface_write(surface, 0, 0, channels, width, values, transposed ? channels : width,
                              transposed, 1.5f) == ANE_OK);
    free(values);
}

static bound bind_program(ane_context *context, const char *text, size_t length, bool narrow) {
    bound made = {0};
    ane_error_info error;
    ane_status status = ane_program_compile(context, text, length, NULL, 0, NULL, &made.program);
    ane_context_error(context, &error);
    if (status != ANE_OK) printf("%zu:%zu: %s\n", error.line, error.column, error.text);
    REQUIRE(status == ANE_OK);
    REQUIRE(ane_program_load(made.program) == ANE_OK);
    made.input_count = ane_program_inputs(made.program);
    made.output_count = ane_program_outputs(made.program);
    REQUIRE(made.input_count <= MOST_PORTS && made.output_count <= MOST_PORTS);
    ane_port port;
    size_t channels, width;
    for (size_t i = 0; i < made.input_count; i++) {
        REQUIRE(ane_program_input(made.program, i, &port) == ANE_OK);
        made.inputs[i] = port_surface(context, &port, narrow, &channels, &width);
        bool is_float = strncmp(port.dtype, "fp", 2) == 0; /* indices stay 0 */
        if (is_float) fill(made.inputs[i], channels, width, (unsigned)i);
    }
    for (size_t i = 0; i < made.output_count; i++) {
        REQUIRE(ane_program_output(made.program, i, &port) == ANE_OK);
        made.outputs[i] = port_surface(context, &port, narrow, &channels, &width);
    }
    REQUIRE(ane_request_create(made.program, made.inputs, made.input_count, made.outputs,
                               made.output_count, &made.request) == ANE_OK);
    return made;
}

/* In an order that leaves the request alone with what it needs. */
static void free_bound(bound *made) {
    ane_program_free(made->program);
    for (size_t i = 0; i < made->input_count; i++) ane_surface_free(made->inputs[i]);
    for (size_t i = 0; i < made->output_count; i++) ane_surface_free(made->outputs[i]);
    REQUIRE(ane_request_evaluate(made->request) == ANE_OK);
    ane_request_free(made->request);
}

static void evaluate_repeatedly(bound *made) {
    for (unsigned turn = 0; turn < 5; turn++) {
        REQUIRE(ane_request_evaluate(made->request) == ANE_OK);
        float value = (float)turn;
        if (turn % 2 == 1)
            REQUIRE(ane_surface_write(made->inputs[0], 0, 0, 1, 1, &value, 1, false, 1.0f) ==
                    ANE_OK);
    }
}

static void run_file(const char *path) {
    size_t length;
    char *text = read_file(path, &length);
    static const ane_numerics all[] = {ANE_FP16, ANE_FP32, ANE_HAZARD};
    for (size_t i = 0; i < 6; i++) {
        ane_numerics numerics = all[i / 2];
        ane_context *context = open_context(numerics, numerics == ANE_HAZARD ? 7 : 0, i % 2);
        bound made = bind_program(context, text, length, numerics != ANE_FP32);
        evaluate_repeatedly(&made);
        if (i % 2) ane_context_free(context); /* what is alive keeps it */
        free_bound(&made);
        if (i % 2 == 0) ane_context_free(context);
    }
    free(text);
}

/* --- misuse --- */

static const char ADD[] = "program(1.3)\n[buildInfo = dict<string, string>({})]\n{\n"
                          "    func main<ios18>(tensor<fp16, [1, 4, 1, 32]> x) {\n"
                          "        tensor<fp16, [1, 4, 1, 32]> y = add(x = x, y = x)"
                          "[name = string(\"y\")];\n    } -> (y);\n}\n";

static void misuse_nothing(void) {
    ane_port port;
    ane_counts counts;
    ane_error_info error;
    char *printed = NULL;
    ane_context_free(NULL);
    ane_surface_free(NULL);
    ane_program_free(NULL);
    ane_request_free(NULL);
    ane_text_free(NULL);
    ane_context_error(NULL, &error);
    ane_context_counts(NULL, &counts);
    REQUIRE(ane_context_open(NULL, NULL, NULL) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_context_blas(NULL) == NULL && ane_context_threads(NULL) == 0);
    REQUIRE(ane_surface_create(NULL, 1, 1, 2, NULL) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_surface_base(NULL) == NULL && ane_surface_size(NULL) == 0);
    REQUIRE(ane_surface_row_stride(NULL) == 0);
    REQUIRE(ane_surface_lock(NULL, true) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_surface_unlock(NULL) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_surface_write(NULL, 0, 0, 0, 0, NULL, 0, false, 1) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_surface_read(NULL, 0, 0, 0, 0, 1, 0, NULL, NULL, 0) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_surface_copy(NULL, 0, 0, NULL, 0, 0, 0, 0) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_program_compile(NULL, "", 0, NULL, 0, NULL, NULL) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_program_load(NULL) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_program_unload(NULL) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_program_inputs(NULL) == 0 && ane_program_outputs(NULL) == 0);
    REQUIRE(ane_program_input(NULL, 0, &port) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_program_output(NULL, 0, &port) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_program_cost(NULL, NULL, NULL, NULL) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_program_print(NULL, "", 0, &printed) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_request_create(NULL, NULL, 0, NULL, 0, NULL) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_request_evaluate(NULL) == ANE_ERROR_ARGUMENT);
}

static void misuse_surfaces(ane_context *context) {
    ane_surface *surface = NULL;
    float values[4] = {1, 2, 3, 4};
    REQUIRE(ane_surface_create(context, SIZE_MAX, SIZE_MAX, 4, &surface) != ANE_OK);
    REQUIRE(ane_surface_create(context, 1, 1, 3, &surface) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_surface_create(context, 2, 2, 4, NULL) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_surface_create(context, 2, 2, 4, &surface) == ANE_OK);
    REQUIRE(ane_surface_write(surface, SIZE_MAX, 1, 2, 2, values, 2, false, 1) ==
            ANE_ERROR_ARGUMENT);
    REQUIRE(ane_surface_write(surface, 1, 1, SIZE_MAX, 1, values, 2, false, 1) ==
            ANE_ERROR_ARGUMENT);
    REQUIRE(ane_surface_write(surface, 0, 0, 2, 2, NULL, 2, false, 1) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_surface_write(surface, 0, 0, 2, 2, values, 1, true, 1) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_surface_read(surface, 0, 0, 2, 2, 1, 0, NULL, NULL, 2) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_surface_read(surface, 0, 0, 2, 2, 1, 1, NULL, values, 2) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_surface_read(surface, 2, 2, 0, 0, 1, 0, NULL, values, 0) == ANE_OK);
    REQUIRE(ane_surface_unlock(surface) == ANE_ERROR_STATE);
    REQUIRE(ane_surface_lock(surface, false) == ANE_OK);
    REQUIRE(ane_surface_lock(surface, true) == ANE_ERROR_STATE);
    memset(ane_surface_base(surface), 1, ane_surface_size(surface));
    REQUIRE(ane_surface_unlock(surface) == ANE_OK);
    ane_surface_free(surface);
}

static void misuse_programs(ane_context *context) {
    ane_program *program = NULL;
    ane_request *request = NULL;
    ane_surface *in = NULL, *out = NULL;
    ane_port port;
    REQUIRE(ane_program_compile(context, "x", 1, NULL, 1, NULL, &program) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_program_compile(context, "x", 1, NULL, 0, NULL, &program) == ANE_ERROR_PARSE);
    REQUIRE(ane_program_compile(context, ADD, sizeof ADD - 1, NULL, 0, NULL, &program) == ANE_OK);
    REQUIRE(ane_program_input(program, 1, &port) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_program_output(program, SIZE_MAX, &port) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_program_cost(program, NULL, NULL, NULL) == ANE_OK);
    REQUIRE(ane_surface_create(context, 4, 32, 2, &in) == ANE_OK);
    REQUIRE(ane_surface_create(context, 4, 32, 2, &out) == ANE_OK);
    REQUIRE(ane_request_create(program, NULL, 1, NULL, 1, &request) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_request_create(program, &in, 1, NULL, 0, &request) == ANE_ERROR_ARGUMENT);
    ane_surface *none = NULL;
    REQUIRE(ane_request_create(program, &none, 1, &out, 1, &request) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_request_create(program, &in, 1, &in, 1, &request) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_request_create(program, &in, 1, &out, 1, &request) == ANE_OK);
    REQUIRE(ane_request_evaluate(request) == ANE_ERROR_STATE);
    ane_surface_free(in);
    ane_surface_free(out);
    REQUIRE(ane_program_load(program) == ANE_OK);
    ane_program_free(program);
    REQUIRE(ane_request_evaluate(request) == ANE_OK);
    ane_request_free(request);
}

/* A builder keeps its context, and grows while files that it gave are out of date. */
static void misuse_builders(void) {
    ane_context *context = open_context(ANE_FP16, 0, false);
    ane_weight_builder *builder = NULL;
    ane_weight_file file;
    float values[6] = {1, -2, 3, -4, 5, -6};
    int8_t integers[3] = {-128, 0, 127};
    uint64_t offset = 0, scale_offset = 0, end = 64;
    REQUIRE(ane_weight_builder_create(context, &builder) == ANE_OK);
    ane_context_free(context);
    for (size_t i = 0; i < 40; i++) {
        ane_weight_source source = {values, 2, 3, i % 2 == 1};
        REQUIRE(ane_weight_builder_fp16(builder, &source, &offset) == ANE_OK && offset == end);
        REQUIRE(ane_weight_builder_int8(builder, integers, 3, &offset) == ANE_OK);
        REQUIRE(ane_weight_builder_quantized(builder, &source, &offset, &scale_offset) == ANE_OK);
        end = scale_offset + 128;
    }
    ane_weight_source huge = {values, SIZE_MAX, 2, false}, missing = {NULL, 2, 3, false};
    REQUIRE(ane_weight_builder_fp16(builder, &huge, &offset) == ANE_ERROR_ARGUMENT);
    REQUIRE(ane_weight_builder_quantized(builder, &missing, &offset, &scale_offset) ==
            ANE_ERROR_ARGUMENT);
    REQUIRE(ane_weight_builder_int8(builder, integers, SIZE_MAX, &offset) == ANE_ERROR_MEMORY);
    REQUIRE(ane_weight_builder_file(builder, "w", &file) == ANE_OK && file.size == end - 60);
    ane_weight_builder_free(builder);
}

/* --- several threads --- */

static void *evaluate_in_thread(void *argument) {
    evaluate_repeatedly(argument);
    return NULL;
}

/* Requests of one context on their own surfaces may be used from several threads. */
static void run_in_threads(void) {
    ane_context *context = open_context(ANE_FP16, 0, false);
    bound made[THREADS];
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++) made[i] = bind_program(context, ADD, sizeof ADD - 1, true);
    for (size_t i = 0; i < THREADS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, evaluate_in_thread, &made[i]) == 0);
    for (size_t i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    for (size_t i = 0; i < THREADS; i++) free_bound(&made[i]);
    ane_counts counts;
    ane_context_counts(context, &counts);
    REQUIRE(counts.surfaces == 0 && counts.surface_bytes == 0 && counts.loaded == 0);
    ane_context_free(context);
}

int main(int count, char **paths) {
    misuse_nothing();
    ane_context *context = open_context(ANE_FP16, 0, false);
    misuse_surfaces(context);
    misuse_programs(context);
    misuse_builders();
    ane_context_free(context);
    run_in_threads();
    for (int i = 1; i < count; i++) run_file(paths[i]);
    return 0;
}
