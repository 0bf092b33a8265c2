/* json.c: a JSON text, piece by piece; see json.h. */
#include "json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 4096

static void put(json *out, const char *words, size_t length) {
    size_t needed = out->length + length + 1;
    if (!out->failed && needed > out->capacity) {
        size_t capacity = out->capacity ? out->capacity : FIRST_CAPACITY;
        while (capacity < needed) capacity *= 2;
        char *text = realloc(out->text, capacity);
        if (text) {
            out->text = text;
            out->capacity = capacity;
        }
        out->failed = !text;
    }
    if (out->failed) return;
    memcpy(out->text + out->length, words, length);
    out->length += length;
    out->text[out->length] = '\0';
}

static void put_quoted(json *out, const char *value) {
    put(out, "\"", 1);
    for (; *value; value++) {
        unsigned char character = (unsigned char)*value;
        char escape[8];
        int length = 1;
        if (character < 0x20)
            length = snprintf(escape, sizeof escape, "\\u%04x", character);
        else if (character == '"' || character == '\\')
            length = snprintf(escape, sizeof escape, "\\%c", character);
        else
            escape[0] = *value;
        put(out, escape, (size_t)length);
    }
    put(out, "\"", 1);
}

static void begin(json *out, const char *key) {
    if (out->follows) put(out, ", ", 2);
    out->follows = true;
    if (!key) return;
    put_quoted(out, key);
    put(out, ": ", 2);
}

void json_open(json *out, const char *key, char bracket) {
    begin(out, key);
    put(out, &bracket, 1);
    out->follows = false;
}

void json_close(json *out, char bracket) {
    put(out, &bracket, 1);
    out->follows = true;
}

void json_string(json *out, const char *key, const char *value) {
    begin(out, key);
    if (value)
        put_quoted(out, value);
    else
        put(out, "null", 4);
}

void json_bool(json *out, const char *key, bool value) {
    begin(out, key);
    put(out, value ? "true" : "false", value ? 4 : 5);
}

void json_number(json *out, const char *key, unsigned long long value) {
    char digits[24];
    begin(out, key);
    put(out, digits, (size_t)snprintf(digits, sizeof digits, "%llu", value));
}

char *json_take(json *out) {
    if (out->failed) {
        free(out->text);
        return NULL;
    }
    return out->text;
}
