/* evaluate.c: y = W x on the software engine, with W in a weight file. After `make lib`:
 * cc examples/evaluate.c -Ibuild/include -Lbuild/lib -lane -Wl,-rpath,build/lib -o evaluate */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <ane.h>

static const char text[] =
    "program(1.3)\n[buildInfo = dict<string, string>({})]\n{\n"
    "    func main<ios18>(tensor<fp16, [1, 3, 1, 4]> x) {\n"
    "        tensor<fp16, [2, 3, 1, 1]> w = const()[val = tensor<fp16, [2, 3, 1, 1]>(\n"
    "            BLOBFILE(path = string(\"w.bin\"), offset = uint64(64)))];\n"
    "        tensor<fp16, [1, 2, 1, 4]> y = conv(weight = w, x = x);\n    } -> (y);\n}\n";
static const float w[2][3] = {{1.0f, -0.5f, 0.1f}, {3.0f, 0.0f, -2.0f}};
static const float x[3][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11, 12}};

int main(void) {
    float y[2][4] = {{0}};
    uint64_t offset; /* of the one record: 64 */
    ane_context *context = NULL;
    ane_weight_builder *builder = NULL;
    ane_weight_file file;
    ane_program *program = NULL;
    ane_surface *input = NULL, *output = NULL;
    ane_request *request = NULL;
    ane_error_info error = {.text = "the engine cannot be opened"};
    const ane_weight_source source = {w[0], 2, 3, false};
    bool done = !ane_context_open(&(ane_options){.threads = 1}, &context, &error) &&
                !ane_weight_builder_create(context, &builder) &&
                !ane_weight_builder_fp16(builder, &source, &offset) &&
                !ane_weight_builder_file(builder, "w.bin", &file) &&
                !ane_program_compile(context, text, sizeof text - 1, &file, 1, NULL, &program) &&
                !ane_program_load(program) && !ane_surface_create(context, 3, 4, 2, &input) &&
                !ane_surface_create(context, 2, 4, 2, &output) &&
                !ane_request_create(program, &input, 1, &output, 1, &request) &&
                !ane_surface_write(input, 0, 0, 3, 4, x[0], 4, false, 1.0f) &&
                !ane_request_evaluate(request) &&
                !ane_surface_read(output, 0, 0, 2, 4, 1.0f, 0.0f, NULL, y[0], 4);
    if (!done && context) ane_context_error(context, &error);
    if (!done) fprintf(stderr, "line %zu, column %zu: %s\n", error.line, error.column, error.text);
    for (size_t i = 0; done && i < 2; i++)
        printf("%g %g %g %g\n", y[i][0], y[i][1], y[i][2], y[i][3]);
    ane_request_free(request);
    ane_surface_free(output);
    ane_surface_free(input);
    ane_program_free(program);
    ane_weight_builder_free(builder);
    ane_context_free(context);
    return done ? 0 : 1;
}
