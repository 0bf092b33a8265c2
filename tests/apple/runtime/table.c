/* table.c: a hash table with open addressing, which only grows. */
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

static size_t hash_key(const rt_table *table, const void *key) {
    size_t hash = 1469598103934665603u;
    if (!table->strings) return ((uintptr_t)key >> 3) * 0x9e3779b97f4a7c15u >> 20;
    for (const unsigned char *text = key; *text; text++) hash = (hash ^ *text) * 1099511628211u;
    return hash;
}

static bool keys_equal(const rt_table *table, const void *a, const void *b) {
    return a == b || (table->strings && strcmp(a, b) == 0);
}

/* The slot that holds the key, or the free one in which it belongs. */
static size_t find_slot(const rt_table *table, const void *key) {
    size_t slot = hash_key(table, key) & (table->capacity - 1);
    while (table->keys[slot] && !keys_equal(table, table->keys[slot], key)) {
        slot = (slot + 1) & (table->capacity - 1);
    }
    return slot;
}

static void grow(rt_table *table) {
    rt_table larger = {.strings = table->strings, .count = table->count};
    larger.capacity = table->capacity ? 2 * table->capacity : 16;
    larger.keys = calloc(larger.capacity, sizeof *larger.keys);
    larger.values = calloc(larger.capacity, sizeof *larger.values);
    if (!larger.keys || !larger.values) rt_fatal("out of memory");
    for (size_t i = 0; i < table->capacity; i++) {
        if (!table->keys[i]) continue;
        size_t slot = find_slot(&larger, table->keys[i]);
        larger.keys[slot] = table->keys[i];
        larger.values[slot] = table->values[i];
    }
    free(table->keys);
    free(table->values);
    *table = larger;
}

void *rt_table_get(const rt_table *table, const void *key) {
    return table->capacity ? table->values[find_slot(table, key)] : NULL;
}

void rt_table_set(rt_table *table, const void *key, void *value) {
    if (4 * (table->count + 1) > 3 * table->capacity) grow(table);
    size_t slot = find_slot(table, key);
    if (!table->keys[slot]) {
        table->keys[slot] = key;
        table->count++;
    }
    table->values[slot] = value;
}
