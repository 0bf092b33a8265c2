/* parse.c: statements, functions and the program to the syntax tree, by recursive descent. */
#include <string.h>

#include "parser.h"

static void parse_declaration(mil_parser *p, mil_declaration *declaration, const char *what) {
    declaration->type = mil_parse_type(p);
    declaration->name = mil_parse_name(p, what);
}

static void parse_statement(mil_parser *p, mil_statement *statement) {
    size_t capacity = 0;
    void *results = NULL;
    mil_declaration spare;
    *statement = (mil_statement){0};
    do {
        mil_declaration *result =
            mil_append(p, &results, &statement->result_count, &capacity, sizeof *result, &spare);
        statement->results = results;
        parse_declaration(p, result, "the name of a value");
    } while (mil_accept(p, ','));
    mil_expect(p, '=', "'=' before the op");
    statement->op = mil_parse_name(p, "the name of an op");
    mil_expect(p, '(', "'(' after the name of an op");
    statement->arguments = mil_parse_arguments(p, ')', "',' or ')'");
    statement->attributes = mil_parse_attributes(p);
    mil_expect(p, ';', "';' after an op");
}

static void parse_inputs(mil_parser *p, mil_function *function) {
    size_t capacity = 0;
    void *inputs = NULL;
    mil_declaration spare;
    mil_expect(p, '(', "'(' before the inputs of a function");
    if (mil_accept(p, ')')) return;
    do {
        mil_declaration *input =
            mil_append(p, &inputs, &function->input_count, &capacity, sizeof *input, &spare);
        function->inputs = inputs;
        parse_declaration(p, input, "the name of an input");
    } while (mil_accept(p, ','));
    mil_expect(p, ')', "',' or ')'");
}

static void parse_outputs(mil_parser *p, mil_function *function) {
    size_t capacity = 0;
    void *outputs = NULL;
    mil_name spare;
    function->line = p->token.line;
    function->column = p->token.column;
    mil_expect(p, MIL_TOKEN_ARROW, "'->' after the body of a function");
    mil_expect(p, '(', "'(' before the outputs of a function");
    if (!mil_accept(p, ')')) {
        do {
            mil_name *output =
                mil_append(p, &outputs, &function->output_count, &capacity, sizeof *output, &spare);
            function->outputs = outputs;
            *output = mil_parse_name(p, "the name of an output");
        } while (mil_accept(p, ','));
        mil_expect(p, ')', "',' or ')'");
    }
    mil_expect(p, ';', "';' after the outputs of a function");
}

static void parse_function(mil_parser *p, mil_function *function) {
    size_t capacity = 0;
    void *statements = NULL;
    mil_statement spare;
    *function = (mil_function){0};
    mil_expect_word(p, "func");
    function->name = mil_parse_name(p, "the name of a function");
    mil_expect(p, '<', "'<' before the opset");
    function->opset = mil_parse_name(p, "an opset, as ios18");
    mil_expect(p, '>', "'>' after the opset");
    parse_inputs(p, function);
    function->attributes = mil_parse_attributes(p);
    mil_expect(p, '{', "'{' before the body of a function");
    while (!mil_at(p, '}') && !mil_at(p, MIL_TOKEN_END)) {
        mil_statement *statement = mil_append(p, &statements, &function->statement_count, &capacity,
                                              sizeof *statement, &spare);
        function->statements = statements;
        parse_statement(p, statement);
    }
    mil_expect(p, '}', "'}' after the body of a function");
    parse_outputs(p, function);
}

static void parse_version(mil_parser *p, mil_tree *tree) {
    mil_expect_word(p, "program");
    mil_expect(p, '(', "'(' after program");
    tree->version = mil_token_name(p);
    if (mil_at(p, MIL_TOKEN_INTEGER)) {
        mil_advance(p);
    } else {
        mil_expect(p, MIL_TOKEN_FLOAT, "a version, as 1.3");
    }
    mil_expect(p, ')', "')' after the version");
}

ane_status mil_parse(const char *text, size_t length, mil_region *region, mil_tree *tree,
                     ane_error_info *error) {
    mil_parser p = {.region = region, .error = error};
    mil_lexer_start(&p.lexer, text, length);
    *tree = (mil_tree){0};
    mil_advance(&p);
    parse_version(&p, tree);
    tree->attributes = mil_parse_attributes(&p);
    mil_expect(&p, '{', "'{' before the functions");
    size_t capacity = 0;
    void *functions = NULL;
    mil_function spare;
    while (!mil_at(&p, '}') && !mil_at(&p, MIL_TOKEN_END)) {
        mil_function *function =
            mil_append(&p, &functions, &tree->function_count, &capacity, sizeof *function, &spare);
        tree->functions = functions;
        parse_function(&p, function);
    }
    tree->line = p.token.line;
    tree->column = p.token.column;
    mil_expect(&p, '}', "'}' after the functions");
    if (!p.status && !mil_at(&p, MIL_TOKEN_END)) mil_fail_token(&p, "the end of the text");
    return p.status;
}

bool mil_name_is(const mil_name *name, const char *text) {
    return name->length == strlen(text) && memcmp(name->text, text, name->length) == 0;
}

int mil_name_width(size_t length) {
    return length < 60 ? (int)length : 60;
}
