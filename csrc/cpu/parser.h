/* parser.h: the place in a text that is being parsed, and what the parts of the parser share. After
 * the first error it sees only the end of the text, so every loop stops by itself. */
#pragma once

#include "ast.h"

typedef struct mil_parser {
    mil_lexer lexer;
    mil_token token; /* the next one */
    mil_region *region;
    ane_error_info *error;
    ane_status status;
    size_t depth;
} mil_parser;

void mil_advance(mil_parser *p);
void mil_fail_memory(mil_parser *p);
void mil_fail_token(mil_parser *p, const char *expected);

bool mil_at(const mil_parser *p, int kind);
bool mil_at_word(const mil_parser *p, const char *word);
bool mil_accept(mil_parser *p, int kind);
bool mil_expect(mil_parser *p, int kind, const char *what);
void mil_expect_word(mil_parser *p, const char *word);

/* The next token as a name, left where it is or taken. */
mil_name mil_token_name(const mil_parser *p);
mil_name mil_parse_name(mil_parser *p, const char *what);

/* Deep nesting would overflow the stack of the recursive functions here and in those that walk the
 * tree: false where it is too deep, else the caller takes one from `depth` at its end. */
bool mil_enter(mil_parser *p);

/* A zero-filled element more in a growing array; `spare` when memory is short. */
void *mil_append(mil_parser *p, void **items, size_t *count, size_t *capacity, size_t size,
                 void *spare);

/* parse_value.c */
mil_type_node *mil_parse_type(mil_parser *p);
mil_arguments mil_parse_arguments(mil_parser *p, int close, const char *what); /* by their names */
mil_arguments mil_parse_attributes(mil_parser *p);
