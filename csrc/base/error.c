/* error.c: error texts, checked sizes and aligned memory. No state. */
#include "base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ALIGNMENT 64
#define HUGE_PAGE ((size_t)2 << 20)

static void write_error(ane_error_info *error, ane_status status, const char *format,
                        va_list arguments) {
    if (!error) return;
    *error = (ane_error_info){.status = status};
    vsnprintf(error->text, sizeof error->text, format, arguments);
}

ane_status ane_fail(ane_error_info *error, ane_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_error(error, status, format, arguments);
    va_end(arguments);
    return status;
}

ane_status ane_fail_at(ane_error_info *error, ane_status status, size_t line, size_t column,
                       const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_error(error, status, format, arguments);
    va_end(arguments);
    if (error) {
        error->line = line;
        error->column = column;
    }
    return status;
}

bool ane_size_mul(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

bool ane_size_add(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

void *ane_alloc(size_t count, size_t size) {
    size_t bytes;
    if (!ane_size_mul(count, size, &bytes) || bytes == 0) return NULL;
    size_t alignment = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : ALIGNMENT;
    void *memory = NULL;
    if (posix_memalign(&memory, alignment, bytes) != 0) return NULL;
#if defined(MADV_HUGEPAGE)
    if (alignment == HUGE_PAGE) madvise(memory, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
    return memset(memory, 0, bytes);
}

void ane_free(void *memory) {
    free(memory);
}
