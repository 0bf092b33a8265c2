/* print.c: the canonical text of a syntax tree, laid out as Apple's tools print it. What it prints,
 * it prints again unchanged. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ast.h"
#include "mil.h"
#include "number.h"

typedef struct printer {
    char *text;
    size_t length, capacity;
    bool failed; /* memory was short: nothing more is written */
} printer;

static bool reserve(printer *out, size_t more) {
    size_t needed;
    if (out->failed || !ane_size_add(out->length, more, &needed)) return false;
    if (needed <= out->capacity) return true;
    size_t capacity = out->capacity ? out->capacity : 1024;
    while (capacity < needed && capacity <= SIZE_MAX / 2) capacity *= 2;
    char *text = capacity < needed ? NULL : realloc(out->text, capacity);
    if (!text) return false;
    out->text = text;
    out->capacity = capacity;
    return true;
}

static void put_bytes(printer *out, const char *text, size_t length) {
    if (!reserve(out, length)) {
        out->failed = true;
        return;
    }
    memcpy(out->text + out->length, text, length);
    out->length += length;
}

static void put(printer *out, const char *text) {
    put_bytes(out, text, strlen(text));
}

static void put_name(printer *out, const mil_name *name) {
    put_bytes(out, name->text, name->length);
}

static void put_integer(printer *out, bool negative, uint64_t magnitude) {
    char buffer[24];
    snprintf(buffer, sizeof buffer, "%s%" PRIu64, negative && magnitude ? "-" : "", magnitude);
    put(out, buffer);
}

static void put_float(printer *out, double value) {
    char buffer[MIL_FLOAT_TEXT];
    mil_float_text(value, buffer);
    put(out, buffer);
}

static void put_type(printer *out, const mil_type_node *type) {
    if (type->form == MIL_FORM_ANY) put(out, "?");
    if (type->form == MIL_FORM_NUMBER) put_integer(out, false, type->number);
    if (type->form == MIL_FORM_NAMED) put_bytes(out, type->text, type->length);
    if (type->form == MIL_FORM_DIMS || type->count) {
        bool dims = type->form == MIL_FORM_DIMS;
        put(out, dims ? "[" : "<");
        for (size_t i = 0; i < type->count; i++) {
            if (i) put(out, ", ");
            put_type(out, &type->items[i]);
        }
        put(out, dims ? "]" : ">");
    }
}

/* Whether the numbers of a literal of this type are floats however they were spelled. */
static bool holds_floats(const mil_type_node *type) {
    static const char *const names[] = {"fp16", "fp32", "fp64", "bf16"};
    const mil_type_node *leaf = type;
    if (type->length == 6 && memcmp(type->text, "tensor", 6) == 0 && type->count)
        leaf = &type->items[0];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (leaf->form == MIL_FORM_NAMED && leaf->length == 4 &&
            memcmp(leaf->text, names[i], 4) == 0)
            return true;
    }
    return false;
}

static void put_arguments(printer *out, const mil_argument *arguments, size_t count);
static void put_literal(printer *out, const mil_literal *literal, bool floats);

static void put_items(printer *out, const mil_literal *literal, bool floats) {
    for (size_t i = 0; i < literal->count; i++) {
        if (i) put(out, ", ");
        put_literal(out, &literal->items[i], floats);
    }
}

static void put_dict(printer *out, const mil_literal *literal, bool floats) {
    put(out, "{");
    for (size_t i = 0; i + 1 < literal->count; i += 2) {
        put(out, i ? ", {" : "{");
        put_literal(out, &literal->items[i], floats);
        put(out, ", ");
        put_literal(out, &literal->items[i + 1], floats);
        put(out, "}");
    }
    put(out, "}");
}

static void put_whole_number(printer *out, const mil_literal *literal, bool floats) {
    double magnitude = (double)literal->magnitude;
    if (floats) {
        put_float(out, literal->negative ? -magnitude : magnitude);
    } else {
        put_integer(out, literal->negative, literal->magnitude);
    }
}

static void put_literal(printer *out, const mil_literal *literal, bool floats) {
    switch (literal->kind) {
    case MIL_LITERAL_NONE:
        break;
    case MIL_LITERAL_INTEGER:
        put_whole_number(out, literal, floats);
        break;
    case MIL_LITERAL_FLOAT:
        put_float(out, literal->number);
        break;
    case MIL_LITERAL_BOOL:
        put(out, literal->truth ? "true" : "false");
        break;
    case MIL_LITERAL_STRING:
        put(out, "\"");
        put_bytes(out, literal->text, literal->count);
        put(out, "\"");
        break;
    case MIL_LITERAL_LIST:
    case MIL_LITERAL_TUPLE:
        put(out, literal->kind == MIL_LITERAL_LIST ? "[" : "(");
        put_items(out, literal, floats);
        put(out, literal->kind == MIL_LITERAL_LIST ? "]" : ")");
        break;
    case MIL_LITERAL_DICT:
        put_dict(out, literal, floats);
        break;
    case MIL_LITERAL_BLOB:
        put(out, "BLOBFILE(");
        put_arguments(out, literal->arguments, literal->count);
        put(out, ")");
        break;
    }
}

static void put_operand(printer *out, const mil_operand *operand) {
    if (!operand->type) {
        put_name(out, &operand->name);
        return;
    }
    put_type(out, operand->type);
    put(out, "(");
    put_literal(out, &operand->literal, holds_floats(operand->type));
    put(out, ")");
}

static void put_arguments(printer *out, const mil_argument *arguments, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const mil_argument *argument = &arguments[i];
        if (i) put(out, ", ");
        put_name(out, &argument->name);
        put(out, argument->count > 1 ? " = (" : " = ");
        for (size_t j = 0; j < argument->count; j++) {
            if (j) put(out, ", ");
            put_operand(out, &argument->operands[j]);
        }
        if (argument->count > 1) put(out, ")");
    }
}

static void put_attributes(printer *out, const char *before, const mil_arguments *attributes,
                           const char *after) {
    if (!attributes->count) return;
    put(out, before);
    put(out, "[");
    put_arguments(out, attributes->items, attributes->count);
    put(out, "]");
    put(out, after);
}

static void put_declarations(printer *out, const mil_declaration *declarations, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (i) put(out, ", ");
        put_type(out, declarations[i].type);
        put(out, " ");
        put_name(out, &declarations[i].name);
    }
}

static void put_statement(printer *out, const mil_statement *statement) {
    put(out, "            ");
    put_declarations(out, statement->results, statement->result_count);
    put(out, " = ");
    put_name(out, &statement->op);
    put(out, "(");
    put_arguments(out, statement->arguments.items, statement->arguments.count);
    put(out, ")");
    put_attributes(out, "", &statement->attributes, "");
    put(out, ";\n");
}

static void put_function(printer *out, const mil_function *function) {
    put(out, "    func ");
    put_name(out, &function->name);
    put(out, "<");
    put_name(out, &function->opset);
    put(out, ">(");
    put_declarations(out, function->inputs, function->input_count);
    put(out, ")");
    put_attributes(out, " ", &function->attributes, "");
    put(out, " {\n");
    for (size_t i = 0; i < function->statement_count; i++)
        put_statement(out, &function->statements[i]);
    put(out, "        } -> (");
    for (size_t i = 0; i < function->output_count; i++) {
        if (i) put(out, ", ");
        put_name(out, &function->outputs[i]);
    }
    put(out, ");\n");
}

static void put_tree(printer *out, const mil_tree *tree) {
    put(out, "program(");
    put_name(out, &tree->version);
    put(out, ")\n");
    put_attributes(out, "", &tree->attributes, "\n");
    put(out, "{\n");
    for (size_t i = 0; i < tree->function_count; i++) put_function(out, &tree->functions[i]);
    put(out, "}\n");
    put_bytes(out, "", 1);
}

ane_status mil_print(const char *text, size_t length, char **printed, ane_error_info *error) {
    if (!printed) return ane_fail(error, ANE_ERROR_ARGUMENT, "no place for the printed text");
    *printed = NULL;
    if (!text) return ane_fail(error, ANE_ERROR_ARGUMENT, "no program text");
    mil_region *region = mil_region_create();
    if (!region) return ane_fail(error, ANE_ERROR_MEMORY, "no memory for the program");
    mil_tree tree;
    printer out = {0};
    ane_status status = mil_parse(text, length, region, &tree, error);
    if (!status) put_tree(&out, &tree);
    if (out.failed) status = ane_fail(error, ANE_ERROR_MEMORY, "no memory for the printed text");
    mil_region_free(region);
    if (status) {
        free(out.text);
        return status;
    }
    *printed = out.text;
    return ANE_OK;
}
