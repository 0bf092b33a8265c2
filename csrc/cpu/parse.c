/* parse.c: tokens to the syntax tree by recursive descent. After the first error the parser sees
 * only the end of the text, so every loop stops by itself. */
#include <stdlib.h>
#include <string.h>

#include "ast.h"
#include "number.h"

#define MAX_DEPTH 64

typedef struct parser {
    mil_lexer lexer;
    mil_token token; /* the next one */
    mil_region *region;
    ane_error_info *error;
    ane_status status;
    size_t depth;
} parser;

static void advance(parser *p) {
    if (!p->status) p->status = mil_lex(&p->lexer, &p->token, p->error);
    if (p->status) p->token.kind = MIL_TOKEN_END;
}

static void fail_memory(parser *p) {
    if (!p->status) p->status = ane_fail(p->error, ANE_ERROR_MEMORY, "no memory for the program");
    p->token.kind = MIL_TOKEN_END;
}

static void fail_token(parser *p, const char *expected) {
    if (p->status) return;
    const mil_token *token = &p->token;
    if (token->kind == MIL_TOKEN_END) {
        p->status = ane_fail_at(p->error, ANE_ERROR_PARSE, token->line, token->column,
                                "expected %s, but the text ends", expected);
    } else if (token->kind == MIL_TOKEN_STRING) {
        p->status = ane_fail_at(p->error, ANE_ERROR_PARSE, token->line, token->column,
                                "expected %s, not a string", expected);
    } else {
        p->status = ane_fail_at(p->error, ANE_ERROR_PARSE, token->line, token->column,
                                "expected %s, not '%.*s'", expected, mil_name_width(token->length),
                                token->text);
    }
    p->token.kind = MIL_TOKEN_END;
}

static bool at(const parser *p, int kind) {
    return p->token.kind == kind;
}

static bool accept(parser *p, int kind) {
    if (!at(p, kind)) return false;
    advance(p);
    return true;
}

static bool expect(parser *p, int kind, const char *what) {
    if (accept(p, kind)) return !p->status;
    fail_token(p, what);
    return false;
}

static bool at_word(const parser *p, const char *word) {
    return at(p, MIL_TOKEN_NAME) && p->token.length == strlen(word) &&
           memcmp(p->token.text, word, p->token.length) == 0;
}

static void expect_word(parser *p, const char *word) {
    if (at_word(p, word)) {
        advance(p);
    } else {
        fail_token(p, word);
    }
}

static mil_name token_name(const parser *p) {
    return (mil_name){p->token.text, p->token.length, p->token.line, p->token.column};
}

static mil_name parse_name(parser *p, const char *what) {
    mil_name name = token_name(p);
    expect(p, MIL_TOKEN_NAME, what);
    return name;
}

/* Deep nesting would overflow the stack of the recursive functions here and in those that walk the
 * tree. */
static bool enter(parser *p) {
    if (++p->depth <= MAX_DEPTH) return true;
    if (!p->status) {
        p->status = ane_fail_at(p->error, ANE_ERROR_PARSE, p->token.line, p->token.column,
                                "nested more than %d deep", MAX_DEPTH);
        p->token.kind = MIL_TOKEN_END;
    }
    return false;
}

/* A zero-filled element more in a growing array; `spare` when memory is short. */
static void *append(parser *p, void **items, size_t *count, size_t *capacity, size_t size,
                    void *spare) {
    void *array = mil_region_extend(p->region, *items, *count, capacity, size);
    if (!array) {
        fail_memory(p);
        return spare;
    }
    *items = array;
    return (char *)array + (*count)++ * size;
}

/* --- types --- */

static void parse_type_argument(parser *p, mil_type_node *node);

static void parse_type_items(parser *p, mil_type_node *node, int close, const char *what,
                             void (*parse_item)(parser *, mil_type_node *)) {
    size_t capacity = 0;
    void *items = NULL;
    mil_type_node spare;
    do {
        mil_type_node *item = append(p, &items, &node->count, &capacity, sizeof *item, &spare);
        node->items = items;
        parse_item(p, item);
    } while (accept(p, ','));
    expect(p, close, what);
}

static void parse_dimension(parser *p, mil_type_node *node) {
    *node = (mil_type_node){.form = MIL_FORM_ANY, .line = p->token.line, .column = p->token.column};
    if (accept(p, '?')) return;
    node->form = MIL_FORM_NUMBER;
    if (at(p, MIL_TOKEN_INTEGER) && p->token.text[0] != '-') {
        if (mil_integer_value(&p->token, &node->number)) {
            advance(p);
        } else {
            p->status = ane_fail_at(p->error, ANE_ERROR_PARSE, p->token.line, p->token.column,
                                    "a dimension beyond 64 bits");
            p->token.kind = MIL_TOKEN_END;
        }
        return;
    }
    fail_token(p, "a dimension (a whole number or ?)");
}

static void parse_named_type(parser *p, mil_type_node *node) {
    mil_name name = parse_name(p, "a type");
    *node = (mil_type_node){.form = MIL_FORM_NAMED,
                            .line = name.line,
                            .column = name.column,
                            .text = name.text,
                            .length = name.length};
    if (!enter(p)) return;
    if (accept(p, '<')) parse_type_items(p, node, '>', "',' or '>'", parse_type_argument);
    p->depth--;
}

static void parse_type_argument(parser *p, mil_type_node *node) {
    if (!at(p, '[')) {
        if (at(p, MIL_TOKEN_NAME)) {
            parse_named_type(p, node);
        } else {
            parse_dimension(p, node);
        }
        return;
    }
    *node =
        (mil_type_node){.form = MIL_FORM_DIMS, .line = p->token.line, .column = p->token.column};
    advance(p);
    if (!accept(p, ']')) parse_type_items(p, node, ']', "',' or ']'", parse_dimension);
}

static mil_type_node *parse_type(parser *p) {
    mil_type_node *node = mil_region_alloc(p->region, 1, sizeof *node);
    if (!node) {
        fail_memory(p);
        return NULL;
    }
    parse_named_type(p, node);
    return node;
}

/* --- literals and arguments --- */

static void parse_literal(parser *p, mil_literal *literal);
static mil_arguments parse_arguments(parser *p, int close, const char *what);

static mil_literal *append_literal(parser *p, mil_literal *to, size_t *capacity,
                                   mil_literal *spare) {
    void *items = to->items;
    mil_literal *item = append(p, &items, &to->count, capacity, sizeof *item, spare);
    to->items = items;
    return item;
}

static void parse_sequence(parser *p, mil_literal *literal, int close, const char *what) {
    size_t capacity = 0;
    mil_literal spare;
    literal->items = NULL;
    advance(p);
    if (accept(p, close)) return;
    do {
        parse_literal(p, append_literal(p, literal, &capacity, &spare));
    } while (accept(p, ','));
    expect(p, close, what);
}

static void parse_dict(parser *p, mil_literal *literal) {
    size_t capacity = 0;
    mil_literal spare;
    literal->items = NULL;
    advance(p);
    if (accept(p, '}')) return;
    do {
        expect(p, '{', "'{' before a key and its value");
        parse_literal(p, append_literal(p, literal, &capacity, &spare));
        expect(p, ',', "',' between a key and its value");
        parse_literal(p, append_literal(p, literal, &capacity, &spare));
        expect(p, '}', "'}' after a key and its value");
    } while (accept(p, ','));
    expect(p, '}', "',' or '}'");
}

static void parse_number(parser *p, mil_literal *literal) {
    bool whole = at(p, MIL_TOKEN_INTEGER) && mil_integer_value(&p->token, &literal->magnitude);
    literal->kind = whole ? MIL_LITERAL_INTEGER : MIL_LITERAL_FLOAT;
    literal->negative = p->token.text[0] == '-';
    if (!whole && !mil_float_value(&p->token, &literal->number)) {
        p->status = ane_fail_at(p->error, ANE_ERROR_PARSE, p->token.line, p->token.column,
                                "a number too large for a double");
    }
    advance(p);
}

static void parse_word(parser *p, mil_literal *literal) {
    if (at_word(p, "true") || at_word(p, "false")) {
        literal->kind = MIL_LITERAL_BOOL;
        literal->truth = at_word(p, "true");
        advance(p);
    } else if (at_word(p, "inf") || at_word(p, "nan")) {
        parse_number(p, literal);
    } else if (at_word(p, "BLOBFILE")) {
        advance(p);
        literal->kind = MIL_LITERAL_BLOB;
        expect(p, '(', "'(' after BLOBFILE");
        mil_arguments arguments = parse_arguments(p, ')', "',' or ')'");
        literal->arguments = arguments.items;
        literal->count = arguments.count;
    } else {
        fail_token(p, "a literal");
    }
}

static void parse_literal(parser *p, mil_literal *literal) {
    *literal = (mil_literal){.line = p->token.line, .column = p->token.column};
    if (!enter(p)) return;
    switch (p->token.kind) {
    case MIL_TOKEN_INTEGER:
    case MIL_TOKEN_FLOAT:
        parse_number(p, literal);
        break;
    case MIL_TOKEN_STRING:
        literal->kind = MIL_LITERAL_STRING;
        literal->text = p->token.text;
        literal->count = p->token.length;
        advance(p);
        break;
    case MIL_TOKEN_NAME:
        parse_word(p, literal);
        break;
    case '[':
        literal->kind = MIL_LITERAL_LIST;
        parse_sequence(p, literal, ']', "',' or ']'");
        break;
    case '(':
        literal->kind = MIL_LITERAL_TUPLE;
        parse_sequence(p, literal, ')', "',' or ')'");
        break;
    case '{':
        literal->kind = MIL_LITERAL_DICT;
        parse_dict(p, literal);
        break;
    default:
        fail_token(p, "a literal");
    }
    p->depth--;
}

/* A name alone is a value; followed by < or ( it is the type of a literal. */
static void parse_operand(parser *p, mil_operand *operand) {
    *operand = (mil_operand){.name = token_name(p)};
    mil_lexer before = p->lexer;
    mil_token token = p->token;
    expect(p, MIL_TOKEN_NAME, "the name of a value or a typed literal");
    if (!at(p, '<') && !at(p, '(')) return;
    p->lexer = before;
    p->token = token;
    operand->type = parse_type(p);
    expect(p, '(', "'(' before the literal");
    operand->literal = (mil_literal){.line = p->token.line, .column = p->token.column};
    if (accept(p, ')')) return;
    parse_literal(p, &operand->literal);
    expect(p, ')', "')' after the literal");
}

static void parse_argument(parser *p, mil_argument *argument) {
    *argument = (mil_argument){.name = parse_name(p, "the name of an argument")};
    expect(p, '=', "'=' after the name of an argument");
    size_t capacity = 0;
    void *items = NULL;
    mil_operand spare;
    bool several = accept(p, '(');
    do {
        mil_operand *operand =
            append(p, &items, &argument->count, &capacity, sizeof *operand, &spare);
        argument->operands = items;
        parse_operand(p, operand);
    } while (several && accept(p, ','));
    if (several) expect(p, ')', "',' or ')'");
}

static int compare_arguments(const void *left, const void *right) {
    const mil_name *a = &((const mil_argument *)left)->name;
    const mil_name *b = &((const mil_argument *)right)->name;
    size_t common = a->length < b->length ? a->length : b->length;
    int order = memcmp(a->text, b->text, common);
    if (order) return order;
    if (a->length != b->length) return a->length < b->length ? -1 : 1;
    return a->text < b->text ? -1 : a->text > b->text;
}

static mil_arguments parse_arguments(parser *p, int close, const char *what) {
    size_t count = 0, capacity = 0;
    void *items = NULL;
    mil_argument spare;
    if (accept(p, close) || !enter(p)) return (mil_arguments){0};
    do {
        parse_argument(p, append(p, &items, &count, &capacity, sizeof(mil_argument), &spare));
    } while (accept(p, ','));
    expect(p, close, what);
    p->depth--;
    return p->status ? (mil_arguments){0} : (mil_arguments){items, count};
}

static mil_arguments parse_sorted_arguments(parser *p, int close, const char *what) {
    mil_arguments arguments = parse_arguments(p, close, what);
    if (arguments.count)
        qsort(arguments.items, arguments.count, sizeof *arguments.items, compare_arguments);
    return arguments;
}

static mil_arguments parse_attributes(parser *p) {
    if (!accept(p, '[')) return (mil_arguments){0};
    return parse_sorted_arguments(p, ']', "',' or ']'");
}

/* --- statements, functions, program --- */

static void parse_declaration(parser *p, mil_declaration *declaration, const char *what) {
    declaration->type = parse_type(p);
    declaration->name = parse_name(p, what);
}

static void parse_statement(parser *p, mil_statement *statement) {
    size_t capacity = 0;
    void *results = NULL;
    mil_declaration spare;
    *statement = (mil_statement){0};
    do {
        mil_declaration *result =
            append(p, &results, &statement->result_count, &capacity, sizeof *result, &spare);
        statement->results = results;
        parse_declaration(p, result, "the name of a value");
    } while (accept(p, ','));
    expect(p, '=', "'=' before the op");
    statement->op = parse_name(p, "the name of an op");
    expect(p, '(', "'(' after the name of an op");
    statement->arguments = parse_sorted_arguments(p, ')', "',' or ')'");
    statement->attributes = parse_attributes(p);
    expect(p, ';', "';' after an op");
}

static void parse_inputs(parser *p, mil_function *function) {
    size_t capacity = 0;
    void *inputs = NULL;
    mil_declaration spare;
    expect(p, '(', "'(' before the inputs of a function");
    if (accept(p, ')')) return;
    do {
        mil_declaration *input =
            append(p, &inputs, &function->input_count, &capacity, sizeof *input, &spare);
        function->inputs = inputs;
        parse_declaration(p, input, "the name of an input");
    } while (accept(p, ','));
    expect(p, ')', "',' or ')'");
}

static void parse_outputs(parser *p, mil_function *function) {
    size_t capacity = 0;
    void *outputs = NULL;
    mil_name spare;
    function->line = p->token.line;
    function->column = p->token.column;
    expect(p, MIL_TOKEN_ARROW, "'->' after the body of a function");
    expect(p, '(', "'(' before the outputs of a function");
    if (!accept(p, ')')) {
        do {
            mil_name *output =
                append(p, &outputs, &function->output_count, &capacity, sizeof *output, &spare);
            function->outputs = outputs;
            *output = parse_name(p, "the name of an output");
        } while (accept(p, ','));
        expect(p, ')', "',' or ')'");
    }
    expect(p, ';', "';' after the outputs of a function");
}

static void parse_function(parser *p, mil_function *function) {
    size_t capacity = 0;
    void *statements = NULL;
    mil_statement spare;
    *function = (mil_function){0};
    expect_word(p, "func");
    function->name = parse_name(p, "the name of a function");
    expect(p, '<', "'<' before the opset");
    function->opset = parse_name(p, "an opset, as ios18");
    expect(p, '>', "'>' after the opset");
    parse_inputs(p, function);
    function->attributes = parse_attributes(p);
    expect(p, '{', "'{' before the body of a function");
    while (!at(p, '}') && !at(p, MIL_TOKEN_END)) {
        mil_statement *statement = append(p, &statements, &function->statement_count, &capacity,
                                          sizeof *statement, &spare);
        function->statements = statements;
        parse_statement(p, statement);
    }
    expect(p, '}', "'}' after the body of a function");
    parse_outputs(p, function);
}

static void parse_version(parser *p, mil_tree *tree) {
    expect_word(p, "program");
    expect(p, '(', "'(' after program");
    tree->version = token_name(p);
    if (at(p, MIL_TOKEN_INTEGER)) {
        advance(p);
    } else {
        expect(p, MIL_TOKEN_FLOAT, "a version, as 1.3");
    }
    expect(p, ')', "')' after the version");
}

ane_status mil_parse(const char *text, size_t length, mil_region *region, mil_tree *tree,
                     ane_error_info *error) {
    parser p = {.region = region, .error = error};
    mil_lexer_start(&p.lexer, text, length);
    *tree = (mil_tree){0};
    advance(&p);
    parse_version(&p, tree);
    tree->attributes = parse_attributes(&p);
    expect(&p, '{', "'{' before the functions");
    size_t capacity = 0;
    void *functions = NULL;
    mil_function spare;
    while (!at(&p, '}') && !at(&p, MIL_TOKEN_END)) {
        mil_function *function =
            append(&p, &functions, &tree->function_count, &capacity, sizeof *function, &spare);
        tree->functions = functions;
        parse_function(&p, function);
    }
    tree->line = p.token.line;
    tree->column = p.token.column;
    expect(&p, '}', "'}' after the functions");
    if (!p.status && !at(&p, MIL_TOKEN_END)) fail_token(&p, "the end of the text");
    return p.status;
}

bool mil_name_is(const mil_name *name, const char *text) {
    return name->length == strlen(text) && memcmp(name->text, text, name->length) == 0;
}

int mil_name_width(size_t length) {
    return length < 60 ? (int)length : 60;
}
