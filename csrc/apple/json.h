/* json.h: writes a JSON text into growing memory. After an allocation has failed, every call is
 * without effect and json_take gives NULL. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

typedef struct json {
    char *text;
    size_t length, capacity;
    bool failed, follows; /* follows: a value stands before the next one */
} json;

/* `key` is NULL inside an array and at the top. */
void json_open(json *out, const char *key, char bracket);
void json_close(json *out, char bracket);
void json_string(json *out, const char *key, const char *value); /* NULL: null */
void json_bool(json *out, const char *key, bool value);
void json_number(json *out, const char *key, unsigned long long value);
/* malloc'ed; the caller's. */
char *json_take(json *out);
