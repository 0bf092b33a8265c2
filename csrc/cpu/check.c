/* check.c: the syntax tree to the checked program. A statement becomes an op or a constant; its
 * declared types must be the ones that its type rule derives. */
#include "check.h"

#include <stdlib.h>
#include <string.h>

#include "number.h"

static const mil_rule rules[] = {
#define MIL_OP(name, slots, rule, evaluate) mil_rule_##rule,
#include "ops.def"
#undef MIL_OP
};

static ane_status define(mil_check *check, const mil_name *name, size_t value) {
    char *key = mil_region_text(check->region, name->text, name->length);
    if (!key) return mil_no_memory(check);
    size_t earlier = mil_table_find(&check->names, key);
    if (earlier != MIL_NONE) {
        return ane_fail_at(check->error, ANE_ERROR_TYPE, name->line, name->column,
                           "'%.*s' is already the name of a value on line %zu",
                           mil_name_width(name->length), name->text,
                           check->program->values[earlier].line);
    }
    mil_value *defined = &check->program->values[value];
    defined->name = key;
    defined->line = name->line;
    defined->column = name->column;
    return mil_table_add(&check->names, check->region, key, value) ? ANE_OK : mil_no_memory(check);
}

/* A type that a surface or a scratch buffer can hold, not only a constant. */
static ane_status check_variable_type(mil_check *check, const mil_type_node *node, mil_type *type) {
    const unsigned held = MIL_NUMBERS | MIL_BYTES | MIL_SHORTS | MIL_MASK(MIL_BOOL);
    ane_status status = mil_check_type(check, node, type);
    if (status || held & MIL_MASK(type->dtype)) return status;
    return ane_fail_at(check->error, ANE_ERROR_UNSUPPORTED, node->line, node->column,
                       "%s is supported in constants only", mil_dtype_name(type->dtype));
}

/* --- statements --- */

static ane_status check_name_attribute(mil_check *check, const mil_arguments *attributes) {
    bool found = false;
    for (size_t i = 0; i < attributes->count; i++) {
        const mil_argument *attribute = &attributes->items[i];
        if (!mil_name_is(&attribute->name, "name")) continue;
        const mil_operand *operand = attribute->operands;
        if (found || attribute->count != 1 || !operand->type ||
            operand->literal.kind != MIL_LITERAL_STRING) {
            return ane_fail_at(check->error, ANE_ERROR_TYPE, attribute->name.line,
                               attribute->name.column,
                               "one name, written string(\"...\"), is needed");
        }
        found = true;
    }
    return ANE_OK;
}

static const mil_operand *find_val(const mil_statement *statement, const mil_argument **unknown) {
    const mil_operand *val = NULL;
    const mil_arguments *lists[] = {&statement->arguments, &statement->attributes};
    for (size_t i = 0; i < 2; i++) {
        for (size_t j = 0; j < lists[i]->count; j++) {
            const mil_argument *each = &lists[i]->items[j];
            bool is_val = mil_name_is(&each->name, "val") && each->count == 1 && !val;
            if (is_val) {
                val = each->operands;
            } else if (i == 0 || !mil_name_is(&each->name, "name")) {
                *unknown = each;
            }
        }
    }
    return val;
}

static ane_status check_const(mil_check *check, const mil_statement *statement) {
    char buffers[2][MIL_TYPE_TEXT];
    const mil_argument *unknown = NULL;
    const mil_operand *val = find_val(statement, &unknown);
    mil_type declared;
    size_t index;
    if (unknown) {
        return ane_fail_at(check->error, ANE_ERROR_TYPE, unknown->name.line, unknown->name.column,
                           "const takes one 'val' and a 'name'");
    }
    if (!val || !val->type || statement->result_count != 1) {
        return ane_fail_at(check->error, ANE_ERROR_TYPE, statement->op.line, statement->op.column,
                           "const declares one value and needs a typed 'val'");
    }
    ane_status status = mil_check_type(check, statement->results->type, &declared);
    if (!status) status = mil_add_constant(check, val, "", &index);
    if (status) return status;
    const mil_type *given = &check->program->values[index].type;
    if (!mil_same_type(&declared, given)) {
        return ane_fail_at(check->error, ANE_ERROR_TYPE, val->name.line, val->name.column,
                           "the value is %s where %s is declared", mil_type_text(given, buffers[0]),
                           mil_type_text(&declared, buffers[1]));
    }
    return define(check, &statement->results->name, index);
}

static ane_status compare_results(mil_rule_call *call, const mil_statement *statement,
                                  const mil_type *declared) {
    char buffers[2][MIL_TYPE_TEXT];
    for (size_t i = 0; i < call->result_count; i++) {
        const mil_type_node *node = statement->results[i].type;
        if (mil_same_type(&declared[i], &call->results[i])) continue;
        return ane_fail_at(call->check->error, ANE_ERROR_TYPE, node->line, node->column,
                           "declared %s, but %s gives %s", mil_type_text(&declared[i], buffers[0]),
                           mil_kind_name(call->op->kind),
                           mil_type_text(&call->results[i], buffers[1]));
    }
    return ANE_OK;
}

static ane_status add_op(mil_check *check, const mil_rule_call *call,
                         const mil_statement *statement) {
    mil_program *program = check->program;
    mil_op *ops = mil_region_extend(check->region, program->ops, program->op_count,
                                    &check->op_capacity, sizeof *ops);
    size_t *outputs = mil_region_alloc(check->region, call->result_count, sizeof *outputs);
    if (!ops || !outputs) return mil_no_memory(check);
    program->ops = ops;
    call->op->outputs = outputs;
    call->op->output_count = call->result_count;
    for (size_t i = 0; i < call->result_count; i++) {
        mil_value value = {
            .name = "", .type = call->results[i], .producer = program->op_count, .input = MIL_NONE};
        outputs[i] = mil_add_value(check, &value);
        if (outputs[i] == MIL_NONE) return ANE_ERROR_MEMORY;
        ane_status status = define(check, &statement->results[i].name, outputs[i]);
        if (status) return status;
    }
    ops[program->op_count++] = *call->op;
    return ANE_OK;
}

static ane_status check_op(mil_check *check, const mil_statement *statement, mil_kind kind) {
    size_t count = statement->result_count;
    mil_op op = {.kind = kind, .line = statement->op.line, .column = statement->op.column};
    mil_rule_call call = {.check = check, .op = &op, .result_count = count};
    mil_type *declared = mil_region_alloc(check->region, count, sizeof *declared);
    call.results = mil_region_alloc(check->region, count, sizeof *call.results);
    if (!declared || !call.results) return mil_no_memory(check);
    ane_status status = mil_bind(&call, statement);
    for (size_t i = 0; i < count && !status; i++)
        status = check_variable_type(check, statement->results[i].type, &declared[i]);
    if (!status && count != 1 && kind != MIL_OP_split)
        status = mil_reject(&call, NULL, ANE_ERROR_TYPE, "makes one value, not %zu", count);
    if (!status) status = rules[kind](&call);
    for (size_t i = 0; i < count && !status; i++) status = mil_need_size(&call, &call.results[i]);
    if (!status) status = compare_results(&call, statement, declared);
    return status ? status : add_op(check, &call, statement);
}

static ane_status check_statement(mil_check *check, const mil_statement *statement) {
    mil_kind kind;
    ane_status status = check_name_attribute(check, &statement->attributes);
    if (status) return status;
    if (mil_name_is(&statement->op, "const")) return check_const(check, statement);
    if (mil_kind_find(statement->op.text, statement->op.length, &kind))
        return check_op(check, statement, kind);
    return ane_fail_at(check->error, ANE_ERROR_UNSUPPORTED, statement->op.line,
                       statement->op.column, "op '%.*s' is not supported by this engine",
                       mil_name_width(statement->op.length), statement->op.text);
}

/* --- the function --- */

static ane_status check_inputs(mil_check *check, const mil_function *function) {
    mil_program *program = check->program;
    program->inputs =
        mil_region_alloc(check->region, function->input_count, sizeof *program->inputs);
    if (!program->inputs) return mil_no_memory(check);
    for (size_t i = 0; i < function->input_count; i++) {
        mil_value value = {.name = "", .producer = MIL_NONE, .input = i};
        ane_status status = check_variable_type(check, function->inputs[i].type, &value.type);
        if (status) return status;
        size_t index = mil_add_value(check, &value);
        if (index == MIL_NONE) return ANE_ERROR_MEMORY;
        status = define(check, &function->inputs[i].name, index);
        if (status) return status;
        program->inputs[program->input_count++] = index;
    }
    return ANE_OK;
}

static ane_status check_output(mil_check *check, const mil_name *name) {
    mil_program *program = check->program;
    char *key = mil_region_text(check->region, name->text, name->length);
    if (!key) return mil_no_memory(check);
    size_t value = mil_table_find(&check->names, key);
    if (value == MIL_NONE) {
        return ane_fail_at(check->error, ANE_ERROR_TYPE, name->line, name->column,
                           "no value is called '%.*s'", mil_name_width(name->length), name->text);
    }
    if (program->values[value].type.dtype == MIL_STRING) {
        return ane_fail_at(check->error, ANE_ERROR_TYPE, name->line, name->column,
                           "a string cannot be returned");
    }
    program->outputs[program->output_count++] = value;
    return ANE_OK;
}

static ane_status check_outputs(mil_check *check, const mil_function *function) {
    mil_program *program = check->program;
    mil_table seen = {0};
    if (!function->output_count) {
        return ane_fail_at(check->error, ANE_ERROR_TYPE, function->line, function->column,
                           "the function returns nothing");
    }
    program->outputs =
        mil_region_alloc(check->region, function->output_count, sizeof *program->outputs);
    if (!program->outputs) return mil_no_memory(check);
    for (size_t i = 0; i < function->output_count; i++) {
        const mil_name *name = &function->outputs[i];
        ane_status status = check_output(check, name);
        if (status) return status;
        const char *known = program->values[program->outputs[i]].name;
        if (mil_table_find(&seen, known) != MIL_NONE) {
            return ane_fail_at(check->error, ANE_ERROR_TYPE, name->line, name->column,
                               "'%s' is returned twice", known);
        }
        if (!mil_table_add(&seen, check->region, known, i)) return mil_no_memory(check);
    }
    return ANE_OK;
}

/* ios15 to ios18 and ios26, or CoreML5 to CoreML9, as the serialized form calls them. */
static ane_status check_opset(mil_check *check, const mil_name *name) {
    static const struct {
        const char *name;
        unsigned opset;
    } known[] = {{"ios15", 15},   {"ios16", 16},   {"ios17", 17},   {"ios18", 18},
                 {"ios26", 26},   {"CoreML5", 15}, {"CoreML6", 16}, {"CoreML7", 17},
                 {"CoreML8", 18}, {"CoreML9", 26}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!mil_name_is(name, known[i].name)) continue;
        check->opset = known[i].opset;
        return ANE_OK;
    }
    return ane_fail_at(check->error, ANE_ERROR_UNSUPPORTED, name->line, name->column,
                       "opset '%.*s' is not supported; ios15 to ios18 are",
                       mil_name_width(name->length), name->text);
}

static ane_status check_function(mil_check *check, const mil_function *function) {
    ane_status status = check_opset(check, &function->opset);
    if (status) return status;
    if (function->attributes.count) {
        const mil_name *name = &function->attributes.items[0].name;
        return ane_fail_at(check->error, ANE_ERROR_UNSUPPORTED, name->line, name->column,
                           "function attribute '%.*s' is not supported",
                           mil_name_width(name->length), name->text);
    }
    status = check_inputs(check, function);
    for (size_t i = 0; i < function->statement_count && !status; i++)
        status = check_statement(check, &function->statements[i]);
    return status ? status : check_outputs(check, function);
}

static ane_status check_tree(mil_check *check, const mil_tree *tree) {
    const mil_name *version = &tree->version;
    if (version->text[0] != '1' || (version->length > 1 && version->text[1] != '.')) {
        return ane_fail_at(check->error, ANE_ERROR_UNSUPPORTED, version->line, version->column,
                           "program version %.*s; 1.0 to 1.3 are supported",
                           mil_name_width(version->length), version->text);
    }
    if (!tree->function_count) {
        return ane_fail_at(check->error, ANE_ERROR_TYPE, tree->line, tree->column,
                           "the program has no function");
    }
    if (tree->function_count > 1) {
        const mil_name *second = &tree->functions[1].name;
        return ane_fail_at(check->error, ANE_ERROR_UNSUPPORTED, second->line, second->column,
                           "several functions ('%.*s' is the second); this engine runs one",
                           mil_name_width(second->length), second->text);
    }
    return check_function(check, &tree->functions[0]);
}

ane_status mil_program_create(const char *text, size_t length, const ane_weight_file *files,
                              size_t file_count, ane_numerics numerics, mil_program **program,
                              ane_error_info *error) {
    if (!program) return ane_fail(error, ANE_ERROR_ARGUMENT, "no place for the program");
    *program = NULL;
    if (!text || (file_count && !files))
        return ane_fail(error, ANE_ERROR_ARGUMENT, "no program text or no weight files");
    mil_region *nodes = mil_region_create(), *region = mil_region_create();
    mil_program *created = region ? mil_region_alloc(region, 1, sizeof *created) : NULL;
    mil_check check = {.error = error,
                       .region = region,
                       .files = files,
                       .file_count = file_count,
                       .numerics = numerics,
                       .program = created};
    mil_tree tree;
    ane_status status =
        nodes && created ? mil_parse(text, length, nodes, &tree, error) : mil_no_memory(&check);
    if (!status) status = check_tree(&check, &tree);
    mil_region_free(nodes);
    if (status) {
        mil_region_free(region);
        return status;
    }
    created->region = region;
    *program = created;
    return ANE_OK;
}

void mil_program_free(mil_program *program) {
    if (program) mil_region_free(program->region);
}
