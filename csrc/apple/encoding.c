/* encoding.c: takes the offsets out of a method's type encoding; see encoding.h. */
#include "encoding.h"

#include <stdbool.h>
#include <string.h>

void encoding_strip(const char *encoding, char *stripped, size_t size) {
    size_t length = 0, depth = 0;
    bool quoted = false;
    for (; *encoding && length + 1 < size; encoding++) {
        char letter = *encoding;
        if (letter == '"') quoted = !quoted;
        bool offset = strchr("0123456789+-", letter) && depth == 0 && !quoted;
        if (!quoted && strchr("{[(<", letter)) depth++;
        if (!quoted && depth > 0 && strchr("}])>", letter)) depth--;
        if (!offset) stripped[length++] = letter;
    }
    stripped[length] = '\0';
}
