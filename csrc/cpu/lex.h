/* lex.h: MIL text to tokens. Tokens point into the text, which need not end with a NUL. */
#pragma once

#include "../base/base.h"

/* A punctuation mark is its own character code. */
enum {
    MIL_TOKEN_END = 0,
    MIL_TOKEN_NAME = 256,
    MIL_TOKEN_INTEGER, /* -12 */
    MIL_TOKEN_FLOAT,   /* -1.5e3, 0x1.8p+1, -inf */
    MIL_TOKEN_STRING,  /* text: between the quotes, escapes as written */
    MIL_TOKEN_ARROW    /* -> */
};

/* Longer numbers are refused, so that a number fits a buffer on the stack. */
#define MIL_NUMBER_LENGTH 400

typedef struct mil_token {
    int kind;
    const char *text;
    size_t length;
    size_t line, column; /* from 1; columns count bytes */
} mil_token;

typedef struct mil_lexer {
    const char *text;
    size_t length, offset, line, column;
} mil_lexer;

void mil_lexer_start(mil_lexer *lexer, const char *text, size_t length);
ane_status mil_lex(mil_lexer *lexer, mil_token *token, ane_error_info *error);
