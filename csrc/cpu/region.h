/* region.h: the arena that owns a syntax tree or a checked program. Memory is zero-filled, lives as
 * long as its region and is freed all at once. */
#pragma once

#include <stddef.h>

typedef struct mil_region mil_region;

mil_region *mil_region_create(void);
void mil_region_free(mil_region *region);
/* Aligned to 64 bytes from 256 bytes up, to 16 below. NULL on overflow or when memory is short. */
void *mil_region_alloc(mil_region *region, size_t count, size_t size);
/* A NUL-terminated copy; NULL when memory is short. */
char *mil_region_text(mil_region *region, const char *text, size_t length);
/* Room for one more element in an array that grows by doubling: returns the array, moved or not, or
 * NULL when memory is short. */
void *mil_region_extend(mil_region *region, void *items, size_t count, size_t *capacity,
                        size_t size);
