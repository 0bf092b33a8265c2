/* front_driver.c: runs the front end on every program of a corpus file and writes what it found, so
 * that tests can drive it under sanitizers. All integers of the corpus are u32, little endian: for
 * each case numerics, number of weight files, (length and bytes of path, length and bytes of data)
 * for each, length and bytes of the text. Each length-prefixed text is copied to memory of its
 * exact size, so that reading past its end is seen. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/mil.h"

#define MAX_FILES 16

static uint32_t read_u32(FILE *from) {
    unsigned char bytes[4];
    if (fread(bytes, 1, 4, from) != 4) exit(2);
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static char *read_bytes(FILE *from, size_t length, size_t spare) {
    char *bytes = malloc(length + spare);
    if (!bytes && length + spare) exit(2);
    if (fread(bytes, 1, length, from) != length) exit(2);
    if (spare) bytes[length] = 0;
    return bytes;
}

static void put_hex(const char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++) printf("%02x", (unsigned char)bytes[i]);
    printf("\n");
}

static void put_error(const char *what, const ane_error_info *error) {
    printf("%s %d %zu %zu ", what, (int)error->status, error->line, error->column);
    put_hex(error->text, strlen(error->text));
}

static void put_indices(const char *what, const size_t *indices, size_t count) {
    printf(" %s", what);
    for (size_t i = 0; i < count; i++) {
        if (indices[i] == MIL_NONE) printf(" -");
        if (indices[i] != MIL_NONE) printf(" %zu", indices[i]);
    }
}

static void put_value(const mil_value *value) {
    size_t count = mil_elements(&value->type);
    printf("value %s %s", *value->name ? value->name : "-", mil_dtype_name(value->type.dtype));
    printf(" [");
    for (size_t i = 0; i < value->type.rank; i++) printf(" %zu", value->type.dim[i]);
    printf(" ] at %zu %zu", value->line, value->column);
    if (value->floats || value->ints) printf(" =");
    for (size_t i = 0; i < count && value->floats; i++) printf(" %a", (double)value->floats[i]);
    for (size_t i = 0; i < count && value->ints; i++) printf(" %d", value->ints[i]);
    printf("\n");
    if (value->text) {
        printf("text ");
        put_hex(value->text, strlen(value->text));
    }
}

static void put_program(const mil_program *program) {
    for (size_t i = 0; i < program->value_count; i++) put_value(&program->values[i]);
    for (size_t i = 0; i < program->op_count; i++) {
        const mil_op *op = &program->ops[i];
        printf("op %s", mil_kind_name(op->kind));
        put_indices("in", op->inputs, MIL_MAX_SLOTS);
        put_indices("variadic", op->variadic, op->variadic_count);
        put_indices("out", op->outputs, op->output_count);
        printf("\n");
    }
    printf("ports");
    put_indices("in", program->inputs, program->input_count);
    put_indices("out", program->outputs, program->output_count);
    printf("\n");
}

static void run(const char *text, size_t length, const ane_weight_file *files, size_t file_count,
                ane_numerics numerics) {
    ane_error_info error = {0};
    mil_program *program = NULL;
    char *printed = NULL;
    if (mil_program_create(text, length, files, file_count, numerics, &program, &error)) {
        put_error("refused", &error);
    } else {
        printf("accepted\n");
        put_program(program);
    }
    mil_program_free(program);
    error = (ane_error_info){0};
    if (mil_print(text, length, &printed, &error)) {
        put_error("unprintable", &error);
    } else {
        printf("printed ");
        put_hex(printed, strlen(printed));
    }
    free(printed);
    printf("end\n");
}

static void run_case(FILE *corpus, uint32_t numerics) {
    ane_weight_file files[MAX_FILES];
    uint32_t file_count = read_u32(corpus);
    if (file_count > MAX_FILES) exit(2);
    for (uint32_t i = 0; i < file_count; i++) {
        uint32_t path_length = read_u32(corpus);
        files[i].path = read_bytes(corpus, path_length, 1);
        files[i].size = read_u32(corpus);
        files[i].data = read_bytes(corpus, files[i].size, 0);
    }
    uint32_t length = read_u32(corpus);
    char *text = read_bytes(corpus, length, 0);
    run(text, length, files, file_count, (ane_numerics)numerics);
    free(text);
    for (uint32_t i = 0; i < file_count; i++) {
        free((void *)(uintptr_t)files[i].path);
        free((void *)(uintptr_t)files[i].data);
    }
}

int main(int argc, char **argv) {
    FILE *corpus = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (!corpus) return 2;
    for (int first; (first = fgetc(corpus)) != EOF;) {
        ungetc(first, corpus);
        run_case(corpus, read_u32(corpus));
    }
    fclose(corpus);
    return 0;
}
