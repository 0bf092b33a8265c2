/* table.h: a hash table from names to indices, in a region. Names are added once and never removed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "region.h"

typedef struct mil_table_entry {
    const char *name; /* NULL: free */
    size_t index;
} mil_table_entry;

typedef struct mil_table {
    mil_table_entry *entries;
    size_t count, capacity; /* a power of two, at most half full */
} mil_table;

/* The index of a name, or (size_t)-1. */
size_t mil_table_find(const mil_table *table, const char *name);
/* Adds a name that is not there yet and outlives the table; false when memory is short. */
bool mil_table_add(mil_table *table, mil_region *region, const char *name, size_t index);
