/* parse_value.c: types, literals and arguments to the syntax tree. */
#include <stdlib.h>
#include <string.h>

#include "number.h"
#include "parser.h"

static void parse_type_argument(mil_parser *p, mil_type_node *node);

static void parse_type_items(mil_parser *p, mil_type_node *node, int close, const char *what,
                             void (*parse_item)(mil_parser *, mil_type_node *)) {
    size_t capacity = 0;
    void *items = NULL;
    mil_type_node spare;
    do {
        mil_type_node *item = mil_append(p, &items, &node->count, &capacity, sizeof *item, &spare);
        node->items = items;
        parse_item(p, item);
    } while (mil_accept(p, ','));
    mil_expect(p, close, what);
}

static void parse_dimension(mil_parser *p, mil_type_node *node) {
    *node = (mil_type_node){.form = MIL_FORM_ANY, .line = p->token.line, .column = p->token.column};
    if (mil_accept(p, '?')) return;
    node->form = MIL_FORM_NUMBER;
    if (mil_at(p, MIL_TOKEN_INTEGER) && p->token.text[0] != '-') {
        if (mil_integer_value(&p->token, &node->number)) {
            mil_advance(p);
        } else {
            p->status = ane_fail_at(p->error, ANE_ERROR_PARSE, p->token.line, p->token.column,
                                    "a dimension beyond 64 bits");
            p->token.kind = MIL_TOKEN_END;
        }
        return;
    }
    mil_fail_token(p, "a dimension (a whole number or ?)");
}

static void parse_named_type(mil_parser *p, mil_type_node *node) {
    mil_name name = mil_parse_name(p, "a type");
    *node = (mil_type_node){.form = MIL_FORM_NAMED,
                            .line = name.line,
                            .column = name.column,
                            .text = name.text,
                            .length = name.length};
    if (!mil_enter(p)) return;
    if (mil_accept(p, '<')) parse_type_items(p, node, '>', "',' or '>'", parse_type_argument);
    p->depth--;
}

static void parse_type_argument(mil_parser *p, mil_type_node *node) {
    if (!mil_at(p, '[')) {
        if (mil_at(p, MIL_TOKEN_NAME)) {
            parse_named_type(p, node);
        } else {
            parse_dimension(p, node);
        }
        return;
    }
    *node =
        (mil_type_node){.form = MIL_FORM_DIMS, .line = p->token.line, .column = p->token.column};
    mil_advance(p);
    if (!mil_accept(p, ']')) parse_type_items(p, node, ']', "',' or ']'", parse_dimension);
}

mil_type_node *mil_parse_type(mil_parser *p) {
    mil_type_node *node = mil_region_alloc(p->region, 1, sizeof *node);
    if (!node) {
        mil_fail_memory(p);
        return NULL;
    }
    parse_named_type(p, node);
    return node;
}

static void parse_literal(mil_parser *p, mil_literal *literal);
static mil_arguments parse_arguments(mil_parser *p, int close, const char *what);

static mil_literal *append_literal(mil_parser *p, mil_literal *to, size_t *capacity,
                                   mil_literal *spare) {
    void *items = to->items;
    mil_literal *item = mil_append(p, &items, &to->count, capacity, sizeof *item, spare);
    to->items = items;
    return item;
}

static void parse_sequence(mil_parser *p, mil_literal *literal, int close, const char *what) {
    size_t capacity = 0;
    mil_literal spare;
    literal->items = NULL;
    mil_advance(p);
    if (mil_accept(p, close)) return;
    do {
        parse_literal(p, append_literal(p, literal, &capacity, &spare));
    } while (mil_accept(p, ','));
    mil_expect(p, close, what);
}

static void parse_dict(mil_parser *p, mil_literal *literal) {
    size_t capacity = 0;
    mil_literal spare;
    literal->items = NULL;
    mil_advance(p);
    if (mil_accept(p, '}')) return;
    do {
        mil_expect(p, '{', "'{' before a key and its value");
        parse_literal(p, append_literal(p, literal, &capacity, &spare));
        mil_expect(p, ',', "',' between a key and its value");
        parse_literal(p, append_literal(p, literal, &capacity, &spare));
        mil_expect(p, '}', "'}' after a key and its value");
    } while (mil_accept(p, ','));
    mil_expect(p, '}', "',' or '}'");
}

static void parse_number(mil_parser *p, mil_literal *literal) {
    bool whole = mil_at(p, MIL_TOKEN_INTEGER) && mil_integer_value(&p->token, &literal->magnitude);
    literal->kind = whole ? MIL_LITERAL_INTEGER : MIL_LITERAL_FLOAT;
    literal->negative = p->token.text[0] == '-';
    if (!whole && !mil_float_value(&p->token, &literal->number)) {
        p->status = ane_fail_at(p->error, ANE_ERROR_PARSE, p->token.line, p->token.column,
                                "a number too large for a double");
    }
    mil_advance(p);
}

static void parse_word(mil_parser *p, mil_literal *literal) {
    if (mil_at_word(p, "true") || mil_at_word(p, "false")) {
        literal->kind = MIL_LITERAL_BOOL;
        literal->truth = mil_at_word(p, "true");
        mil_advance(p);
    } else if (mil_at_word(p, "inf") || mil_at_word(p, "nan")) {
        parse_number(p, literal);
    } else if (mil_at_word(p, "BLOBFILE")) {
        mil_advance(p);
        literal->kind = MIL_LITERAL_BLOB;
        mil_expect(p, '(', "'(' after BLOBFILE");
        mil_arguments arguments = parse_arguments(p, ')', "',' or ')'");
        literal->arguments = arguments.items;
        literal->count = arguments.count;
    } else {
        mil_fail_token(p, "a literal");
    }
}

static void parse_literal(mil_parser *p, mil_literal *literal) {
    *literal = (mil_literal){.line = p->token.line, .column = p->token.column};
    if (!mil_enter(p)) return;
    switch (p->token.kind) {
    case MIL_TOKEN_INTEGER:
    case MIL_TOKEN_FLOAT:
        parse_number(p, literal);
        break;
    case MIL_TOKEN_STRING:
        literal->kind = MIL_LITERAL_STRING;
        literal->text = p->token.text;
        literal->count = p->token.length;
        mil_advance(p);
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
        mil_fail_token(p, "a literal");
    }
    p->depth--;
}

/* A name alone is a value; followed by < or ( it is the type of a literal. */
static void parse_operand(mil_parser *p, mil_operand *operand) {
    *operand = (mil_operand){.name = mil_token_name(p)};
    mil_lexer before = p->lexer;
    mil_token token = p->token;
    mil_expect(p, MIL_TOKEN_NAME, "the name of a value or a typed literal");
    if (!mil_at(p, '<') && !mil_at(p, '(')) return;
    p->lexer = before;
    p->token = token;
    operand->type = mil_parse_type(p);
    mil_expect(p, '(', "'(' before the literal");
    operand->literal = (mil_literal){.line = p->token.line, .column = p->token.column};
    if (mil_accept(p, ')')) return;
    parse_literal(p, &operand->literal);
    mil_expect(p, ')', "')' after the literal");
}

static void parse_argument(mil_parser *p, mil_argument *argument) {
    *argument = (mil_argument){.name = mil_parse_name(p, "the name of an argument")};
    mil_expect(p, '=', "'=' after the name of an argument");
    size_t capacity = 0;
    void *items = NULL;
    mil_operand spare;
    bool several = mil_accept(p, '(');
    do {
        mil_operand *operand =
            mil_append(p, &items, &argument->count, &capacity, sizeof *operand, &spare);
        argument->operands = items;
        parse_operand(p, operand);
    } while (several && mil_accept(p, ','));
    if (several) mil_expect(p, ')', "',' or ')'");
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

static mil_arguments parse_arguments(mil_parser *p, int close, const char *what) {
    size_t count = 0, capacity = 0;
    void *items = NULL;
    mil_argument spare;
    if (mil_accept(p, close) || !mil_enter(p)) return (mil_arguments){0};
    do {
        parse_argument(p, mil_append(p, &items, &count, &capacity, sizeof(mil_argument), &spare));
    } while (mil_accept(p, ','));
    mil_expect(p, close, what);
    p->depth--;
    return p->status ? (mil_arguments){0} : (mil_arguments){items, count};
}

mil_arguments mil_parse_arguments(mil_parser *p, int close, const char *what) {
    mil_arguments arguments = parse_arguments(p, close, what);
    if (arguments.count)
        qsort(arguments.items, arguments.count, sizeof *arguments.items, compare_arguments);
    return arguments;
}

mil_arguments mil_parse_attributes(mil_parser *p) {
    if (!mil_accept(p, '[')) return (mil_arguments){0};
    return mil_parse_arguments(p, ']', "',' or ']'");
}
