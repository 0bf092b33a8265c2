/* digest.c: names for contents. The real framework uses SHA-256; here any function of the bytes
 * will do, of the same length. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define DIGITS 64

void standin_digest(char digest[DIGITS + 1], const void *bytes, size_t size) {
    char before[DIGITS + 1];
    strcpy(before, digest);
    for (size_t lane = 0; lane < 4; lane++) {
        uint64_t hash = 14695981039346656037u + lane;
        for (const char *at = before; *at; at++) hash = (hash ^ (uint8_t)*at) * 1099511628211u;
        for (size_t i = 0; i < size; i++) {
            hash = (hash ^ ((const uint8_t *)bytes)[i]) * 1099511628211u;
        }
        snprintf(digest + 16 * lane, 17, "%016llX", (unsigned long long)hash);
    }
}
