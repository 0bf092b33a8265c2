/* number.h: spellings of numbers to values and back, independent of the locale. */
#pragma once

#include "lex.h"

#define MIL_FLOAT_TEXT 40

/* The magnitude of an integer token; false beyond 64 bits. */
bool mil_integer_value(const mil_token *token, uint64_t *magnitude);
/* The nearest double of a number token; false if it is too large for one. */
bool mil_float_value(const mil_token *token, double *value);
/* C99 hexadecimal without trailing zeros, as 0x1.8p+1, -0x0p+0, inf, -inf, nan. */
void mil_float_text(double value, char text[MIL_FLOAT_TEXT]);
/* The nearest fp16 value (ties to even), rounded once. */
float mil_nearest_half(double value);
