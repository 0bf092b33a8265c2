/* number.c: conversion of numbers. Hexadecimal text is exact, so what is printed is read back as it
 * was. */
#include "number.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool mil_integer_value(const mil_token *token, uint64_t *magnitude) {
    uint64_t value = 0;
    for (size_t i = token->text[0] == '-'; i < token->length; i++) {
        unsigned digit = (unsigned)(token->text[i] - '0');
        if (value > (UINT64_MAX - digit) / 10) return false;
        value = value * 10 + digit;
    }
    *magnitude = value;
    return true;
}

/* strtod reads the point of the current locale: give it that one. */
static double parse_double(const mil_token *token) {
    char buffer[MIL_NUMBER_LENGTH + 16];
    const char *point = localeconv()->decimal_point;
    size_t point_length = strlen(point);
    size_t used = 0;
    for (size_t i = 0; i < token->length; i++) {
        if (token->text[i] != '.') {
            buffer[used++] = token->text[i];
        } else if (point_length <= 15) { /* a number has one point */
            memcpy(buffer + used, point, point_length);
            used += point_length;
        }
    }
    buffer[used] = 0;
    return strtod(buffer, NULL);
}

bool mil_float_value(const mil_token *token, double *value) {
    const char *digits = token->text + (token->text[0] == '-');
    bool negative = token->text[0] == '-';
    if (*digits == 'i' || *digits == 'n') {
        *value = *digits == 'n' ? NAN : negative ? -INFINITY : INFINITY;
        return true;
    }
    *value = parse_double(token);
    return isfinite(*value) != 0;
}

void mil_float_text(double value, char text[MIL_FLOAT_TEXT]) {
    const char *sign = signbit(value) ? "-" : "";
    if (isnan(value)) {
        snprintf(text, MIL_FLOAT_TEXT, "nan");
        return;
    }
    if (isinf(value)) {
        snprintf(text, MIL_FLOAT_TEXT, "%sinf", sign);
        return;
    }
    int exponent = 0;
    double mantissa = frexp(fabs(value), &exponent); /* 0 or 0.5 .. 1 */
    /* 53 bits: the leading 1 and 13 hexadecimal digits. */
    uint64_t bits = (uint64_t)ldexp(mantissa, 53) & ((UINT64_C(1) << 52) - 1);
    char fraction[16];
    snprintf(fraction, sizeof fraction, ".%013llx", (unsigned long long)bits);
    for (size_t end = strlen(fraction);
         end && (fraction[end - 1] == '0' || fraction[end - 1] == '.');)
        fraction[--end] = 0;
    snprintf(text, MIL_FLOAT_TEXT, "%s0x%d%sp%+d", sign, mantissa != 0, fraction,
             mantissa != 0 ? exponent - 1 : 0);
}

float mil_nearest_half(double value) {
    float nearest = (float)value;
    uint32_t bits;
    memcpy(&bits, &nearest, sizeof bits);
    /* An inexact float with an even last bit may sit on a tie of fp16: its odd neighbour on the
     * side of the value rounds as the value does. */
    if (isfinite(value) && (double)nearest != value && !(bits & 1))
        nearest = nextafterf(nearest, value > (double)nearest ? INFINITY : -INFINITY);
    return ane_float_from_half(ane_half_from_float(nearest));
}
