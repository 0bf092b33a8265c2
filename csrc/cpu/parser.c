/* parser.c: the next token, what is expected of it, and errors that say where. */
#include "parser.h"

#include <string.h>

#define MAX_DEPTH 64

void mil_advance(mil_parser *p) {
    if (!p->status) p->status = mil_lex(&p->lexer, &p->token, p->error);
    if (p->status) p->token.kind = MIL_TOKEN_END;
}

void mil_fail_memory(mil_parser *p) {
    if (!p->status) p->status = ane_fail(p->error, ANE_ERROR_MEMORY, "no memory for the program");
    p->token.kind = MIL_TOKEN_END;
}

void mil_fail_token(mil_parser *p, const char *expected) {
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

bool mil_at(const mil_parser *p, int kind) {
    return p->token.kind == kind;
}

bool mil_accept(mil_parser *p, int kind) {
    if (!mil_at(p, kind)) return false;
    mil_advance(p);
    return true;
}

bool mil_expect(mil_parser *p, int kind, const char *what) {
    if (mil_accept(p, kind)) return !p->status;
    mil_fail_token(p, what);
    return false;
}

bool mil_at_word(const mil_parser *p, const char *word) {
    return mil_at(p, MIL_TOKEN_NAME) && p->token.length == strlen(word) &&
           memcmp(p->token.text, word, p->token.length) == 0;
}

void mil_expect_word(mil_parser *p, const char *word) {
    if (mil_at_word(p, word)) {
        mil_advance(p);
    } else {
        mil_fail_token(p, word);
    }
}

mil_name mil_token_name(const mil_parser *p) {
    return (mil_name){p->token.text, p->token.length, p->token.line, p->token.column};
}

mil_name mil_parse_name(mil_parser *p, const char *what) {
    mil_name name = mil_token_name(p);
    mil_expect(p, MIL_TOKEN_NAME, what);
    return name;
}

bool mil_enter(mil_parser *p) {
    if (++p->depth <= MAX_DEPTH) return true;
    if (!p->status) {
        p->status = ane_fail_at(p->error, ANE_ERROR_PARSE, p->token.line, p->token.column,
                                "nested more than %d deep", MAX_DEPTH);
        p->token.kind = MIL_TOKEN_END;
    }
    return false;
}

void *mil_append(mil_parser *p, void **items, size_t *count, size_t *capacity, size_t size,
                 void *spare) {
    void *array = mil_region_extend(p->region, *items, *count, capacity, size);
    if (!array) {
        mil_fail_memory(p);
        return spare;
    }
    *items = array;
    return (char *)array + (*count)++ * size;
}
