/* lex.c: the lexer. It decides what a number looks like; what it is worth is number.c's business.
 */
#include "lex.h"

#include <string.h>

static bool is_digit(int c) {
    return c >= '0' && c <= '9';
}

static bool is_hex_digit(int c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool starts_name(int c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool continues_name(int c) {
    return starts_name(c) || is_digit(c) || c == '@';
}

static int peek(const mil_lexer *lexer, size_t ahead) {
    size_t left = lexer->length - lexer->offset;
    return ahead < left ? (unsigned char)lexer->text[lexer->offset + ahead] : -1;
}

static void skip(mil_lexer *lexer, size_t count) {
    lexer->offset += count;
    lexer->column += count;
}

static void skip_space(mil_lexer *lexer) {
    for (;;) {
        int c = peek(lexer, 0);
        if (c == '\n') {
            lexer->offset++;
            lexer->line++;
            lexer->column = 1;
        } else if (c == ' ' || c == '\t' || c == '\r') {
            skip(lexer, 1);
        } else {
            return;
        }
    }
}

static size_t digits_from(const mil_lexer *lexer, size_t at, bool (*accept)(int)) {
    size_t end = at;
    while (accept(peek(lexer, end))) end++;
    return end - at;
}

/* The exponent that starts at `at`, with its letter and sign; 0 if there is none. */
static size_t exponent_from(const mil_lexer *lexer, size_t at, char letter) {
    int c = peek(lexer, at);
    if (c != letter && c != letter - 'a' + 'A') return 0;
    size_t sign = peek(lexer, at + 1) == '+' || peek(lexer, at + 1) == '-';
    size_t digits = digits_from(lexer, at + 1 + sign, is_digit);
    return digits ? 1 + sign + digits : 0;
}

/* Decimal or C99 hexadecimal digits, point and exponent from `at`; 0 if there is no number. */
static size_t number_from(const mil_lexer *lexer, size_t at, int *kind) {
    bool hex = peek(lexer, at) == '0' && (peek(lexer, at + 1) == 'x' || peek(lexer, at + 1) == 'X');
    bool (*accept)(int) = hex ? is_hex_digit : is_digit;
    size_t end = hex ? at + 2 : at;
    size_t whole = digits_from(lexer, end, accept);
    end += whole;
    size_t point = peek(lexer, end) == '.';
    size_t fraction = point ? digits_from(lexer, end + 1, accept) : 0;
    end += point + fraction;
    size_t exponent = exponent_from(lexer, end, hex ? 'p' : 'e');
    if (whole + fraction == 0 || (hex && !exponent)) return 0;
    *kind = hex || point || exponent ? MIL_TOKEN_FLOAT : MIL_TOKEN_INTEGER;
    return end + exponent - at;
}

static ane_status lex_number(mil_lexer *lexer, mil_token *token, ane_error_info *error) {
    size_t sign = peek(lexer, 0) == '-';
    size_t length = 0;
    token->kind = MIL_TOKEN_FLOAT;
    if (lexer->length - lexer->offset >= sign + 3 &&
        (memcmp(lexer->text + lexer->offset + sign, "inf", 3) == 0 ||
         memcmp(lexer->text + lexer->offset + sign, "nan", 3) == 0)) {
        length = 3;
    } else {
        length = number_from(lexer, sign, &token->kind);
    }
    int after = peek(lexer, sign + length);
    if (!length || continues_name(after) || after == '.') {
        return ane_fail_at(error, ANE_ERROR_PARSE, token->line, token->column,
                           "malformed number; floats are decimal or C99 hexadecimal with an "
                           "exponent, as 0x1.8p+1");
    }
    if (sign + length > MIL_NUMBER_LENGTH) {
        return ane_fail_at(error, ANE_ERROR_PARSE, token->line, token->column,
                           "a number of more than %d characters", MIL_NUMBER_LENGTH);
    }
    token->length = sign + length;
    skip(lexer, token->length);
    return ANE_OK;
}

static ane_status lex_string(mil_lexer *lexer, mil_token *token, ane_error_info *error) {
    size_t end = 1;
    for (int c; (c = peek(lexer, end)) != '"'; end++) {
        if (c == '\\') {
            int escaped = peek(lexer, ++end);
            if (escaped > 0 && strchr("\"\\ntr", escaped)) continue;
            return ane_fail_at(error, ANE_ERROR_PARSE, token->line, token->column + end,
                               "unknown escape in a string; \\\" \\\\ \\n \\t \\r are known");
        }
        if (c == -1 || c == '\n') {
            return ane_fail_at(error, ANE_ERROR_PARSE, token->line, token->column,
                               "a string without its closing quote");
        }
        if (c < ' ' && c != '\t') {
            return ane_fail_at(error, ANE_ERROR_PARSE, token->line, token->column + end,
                               "control character 0x%02x in a string", (unsigned)c);
        }
    }
    token->kind = MIL_TOKEN_STRING;
    token->text++;
    token->length = end - 1;
    skip(lexer, end + 1);
    return ANE_OK;
}

void mil_lexer_start(mil_lexer *lexer, const char *text, size_t length) {
    *lexer = (mil_lexer){.text = text, .length = length, .line = 1, .column = 1};
}

ane_status mil_lex(mil_lexer *lexer, mil_token *token, ane_error_info *error) {
    skip_space(lexer);
    int c = peek(lexer, 0);
    *token = (mil_token){
        .text = lexer->text + lexer->offset, .line = lexer->line, .column = lexer->column};
    if (c == -1) return ANE_OK;
    if (starts_name(c)) {
        token->kind = MIL_TOKEN_NAME;
        while (continues_name(peek(lexer, token->length))) token->length++;
        skip(lexer, token->length);
        return ANE_OK;
    }
    if (c == '-' && peek(lexer, 1) == '>') {
        token->kind = MIL_TOKEN_ARROW;
        token->length = 2;
        skip(lexer, 2);
        return ANE_OK;
    }
    if (is_digit(c) || c == '-' || c == '.') return lex_number(lexer, token, error);
    if (c == '"') return lex_string(lexer, token, error);
    if (strchr("()[]{}<>,;=?", c) && c) {
        token->kind = c;
        token->length = 1;
        skip(lexer, 1);
        return ANE_OK;
    }
    if (c > ' ' && c < 0x7f) {
        return ane_fail_at(error, ANE_ERROR_PARSE, token->line, token->column,
                           "'%c' has no meaning in MIL text", c);
    }
    return ane_fail_at(error, ANE_ERROR_PARSE, token->line, token->column,
                       "byte 0x%02x has no meaning in MIL text", (unsigned)c);
}
