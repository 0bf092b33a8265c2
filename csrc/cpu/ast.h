/* ast.h: the syntax tree of MIL text. It says what was written and nothing about what it means;
 * nodes live in a region, and their text points into the source. */
#pragma once

#include "lex.h"
#include "region.h"

typedef struct mil_name {
    const char *text;
    size_t length;
    size_t line, column;
} mil_name;

/* A type or an argument of one: fp16, tensor<fp16, [1, ?]>, dict<string, string>. */
typedef enum mil_type_form {
    MIL_FORM_NAMED,
    MIL_FORM_DIMS,
    MIL_FORM_NUMBER,
    MIL_FORM_ANY
} mil_type_form;

typedef struct mil_type_node {
    mil_type_form form;
    size_t line, column;
    const char *text; /* NAMED */
    size_t length;
    uint64_t number;             /* NUMBER */
    struct mil_type_node *items; /* NAMED: between < and >; DIMS: NUMBER and ANY nodes */
    size_t count;
} mil_type_node;

typedef enum mil_literal_kind {
    MIL_LITERAL_NONE, /* nothing between the parentheses */
    MIL_LITERAL_INTEGER,
    MIL_LITERAL_FLOAT,
    MIL_LITERAL_BOOL,
    MIL_LITERAL_STRING,
    MIL_LITERAL_LIST,  /* [a, b] */
    MIL_LITERAL_TUPLE, /* (a, b) */
    MIL_LITERAL_DICT,  /* {{key, value}, ...}: keys and values take turns in items */
    MIL_LITERAL_BLOB   /* BLOBFILE(path = ..., offset = ...): arguments as written */
} mil_literal_kind;

struct mil_argument;

typedef struct mil_literal {
    mil_literal_kind kind;
    bool negative; /* INTEGER */
    bool truth;    /* BOOL */
    size_t line, column;
    union {
        uint64_t magnitude;             /* INTEGER */
        double number;                  /* FLOAT */
        const char *text;               /* STRING, escapes as written */
        struct mil_literal *items;      /* LIST, TUPLE, DICT */
        struct mil_argument *arguments; /* BLOB */
    };
    size_t count; /* of characters, items or arguments */
} mil_literal;

/* The name of a value, or a typed literal. */
typedef struct mil_operand {
    mil_type_node *type; /* NULL: a name */
    mil_name name;       /* for a typed literal only its position */
    mil_literal literal;
} mil_operand;

/* name = operand, or name = (operand, operand). */
typedef struct mil_argument {
    mil_name name;
    mil_operand *operands;
    size_t count;
} mil_argument;

/* Those of ops and attributes are in the order of their names; equal names in the order of the
 * text. */
typedef struct mil_arguments {
    mil_argument *items;
    size_t count;
} mil_arguments;

typedef struct mil_declaration {
    mil_type_node *type;
    mil_name name;
} mil_declaration;

typedef struct mil_statement {
    mil_declaration *results;
    size_t result_count;
    mil_name op;
    mil_arguments arguments, attributes;
} mil_statement;

typedef struct mil_function {
    mil_name name, opset;
    mil_declaration *inputs;
    size_t input_count;
    mil_arguments attributes;
    mil_statement *statements;
    size_t statement_count;
    mil_name *outputs;
    size_t output_count;
    size_t line, column; /* of `->` */
} mil_function;

typedef struct mil_tree {
    mil_name version; /* the number as written */
    mil_arguments attributes;
    mil_function *functions;
    size_t function_count;
    size_t line, column; /* of the closing brace */
} mil_tree;

/* Parses a whole program; everything is allocated from the region. */
ane_status mil_parse(const char *text, size_t length, mil_region *region, mil_tree *tree,
                     ane_error_info *error);
bool mil_name_is(const mil_name *name, const char *text);
/* How much of a name to show in a message, for %.*s. */
int mil_name_width(size_t length);
