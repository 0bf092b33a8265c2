/* evaluate.c: y = W x on the software engine, with W in a weight file. After `make lib`:
 * cc examples/evaluate.c -Ibuild/include -Lbuild/lib -lane -Wl,-rpath,build/lib -o evaluate */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <ane.h>

static const char text[] =
    "program(1.3)\n[buildInfo = dict<string, string>({})]\n{\n"
    "    func main<ios18>(tensor<fp16, [1, 3, 1, 4]> x) {\n"
    "        tensor<fp16, [2, 3, 1, 1]> w = const()[val = tensor<fp16, [2, 3, 1, 1]>(\n"
    "            BLOBFILE(path = string(\"w.bin\"), offset = uint64(64)))];\n"
    "        tensor<fp16, [1, 2, 1, 4]> y = conv(weight = w, x = x);\n    } -> (y);\n}\n";

static void check(ane_context *context, ane_status status) {
    ane_error_info error;
    if (status == ANE_OK) return;
    ane_context_error(context, &error);
    fprintf(stderr, "line %zu, column %zu: %s\n", error.line, error.column, error.text);
    exit(1);
}

int main(void) {
    const float w[2][3] = {{1.0f, -0.5f, 0.1f}, {3.0f, 0.0f, -2.0f}};
    const float x[3][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11, 12}};
    float y[2][4];
    ane_context *context;
    ane_weight_builder *builder;
    ane_weight_file file;
    ane_program *program;
    ane_surface *input, *output;
    ane_request *request;
    uint64_t offset; /* of the one record: 64 */
    if (ane_context_open(&(ane_options){.threads = 1}, &context, NULL) != ANE_OK) return 1;
    check(context, ane_weight_builder_create(context, &builder));
    check(context,
          ane_weight_builder_fp16(builder, &(ane_weight_source){w[0], 2, 3, false}, &offset));
    check(context, ane_weight_builder_file(builder, "w.bin", &file));
    check(context, ane_program_compile(context, text, sizeof text - 1, &file, 1, NULL, &program));
    check(context, ane_program_load(program));
    check(context, ane_surface_create(context, 3, 4, 2, &input));
    check(context, ane_surface_create(context, 2, 4, 2, &output));
    check(context, ane_request_create(program, &input, 1, &output, 1, &request));
    check(context, ane_surface_write(input, 0, 0, 3, 4, x[0], 4, false, 1.0f));
    check(context, ane_request_evaluate(request));
    check(context, ane_surface_read(output, 0, 0, 2, 4, 1.0f, 0.0f, y[0], 4));
    for (size_t i = 0; i < 2; i++) printf("%g %g %g %g\n", y[i][0], y[i][1], y[i][2], y[i][3]);
    ane_request_free(request);
    ane_surface_free(output);
    ane_surface_free(input);
    ane_program_free(program);
    ane_weight_builder_free(builder);
    ane_context_free(context);
    return 0;
}
