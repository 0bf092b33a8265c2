/* table.c: open addressing with linear probing. */
#include "table.h"

#include <stdint.h>
#include <string.h>

/* FNV-1a, 64 bits. */
static uint64_t hash(const char *name) {
    uint64_t value = UINT64_C(14695981039346656037);
    for (; *name; name++) value = (value ^ (unsigned char)*name) * UINT64_C(1099511628211);
    return value;
}

static mil_table_entry *slot_of(mil_table_entry *entries, size_t capacity, const char *name) {
    size_t at = (size_t)hash(name) & (capacity - 1);
    while (entries[at].name && strcmp(entries[at].name, name) != 0) at = (at + 1) & (capacity - 1);
    return &entries[at];
}

size_t mil_table_find(const mil_table *table, const char *name) {
    if (!table->capacity) return (size_t)-1;
    const mil_table_entry *entry = slot_of(table->entries, table->capacity, name);
    return entry->name ? entry->index : (size_t)-1;
}

static bool grow(mil_table *table, mil_region *region) {
    size_t capacity = table->capacity ? table->capacity * 2 : 64;
    mil_table_entry *entries = mil_region_alloc(region, capacity, sizeof *entries);
    if (!entries) return false;
    for (size_t i = 0; i < table->capacity; i++) {
        if (!table->entries[i].name) continue;
        *slot_of(entries, capacity, table->entries[i].name) = table->entries[i];
    }
    table->entries = entries;
    table->capacity = capacity;
    return true;
}

bool mil_table_add(mil_table *table, mil_region *region, const char *name, size_t index) {
    if (table->count * 2 >= table->capacity && !grow(table, region)) return false;
    *slot_of(table->entries, table->capacity, name) = (mil_table_entry){name, index};
    table->count++;
    return true;
}
