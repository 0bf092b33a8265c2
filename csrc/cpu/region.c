/* region.c: a list of blocks, the newest first; an allocation is cut from the newest block or gets
 * a block of its own. */
#include "region.h"

#include <string.h>

#include "../base/base.h"

#define BLOCK_SIZE ((size_t)16 << 10)
#define LARGE 256

typedef struct block {
    struct block *next;
    size_t size, used;
} block;

/* Where the data of a block begins: behind the header, aligned to 64 bytes. */
#define HEADER ((size_t)64)

struct mil_region {
    block *newest;
};

mil_region *mil_region_create(void) {
    return ane_alloc(1, sizeof(mil_region));
}

void mil_region_free(mil_region *region) {
    if (!region) return;
    for (block *each = region->newest; each;) {
        block *next = each->next;
        ane_free(each);
        each = next;
    }
    ane_free(region);
}

/* A block for one large allocation goes behind the newest one, which can still be filled. */
static block *add_block(mil_region *region, size_t size, bool whole) {
    size_t total;
    if (!ane_size_add(size, HEADER, &total)) return NULL;
    block *added = ane_alloc(1, total);
    if (!added) return NULL;
    added->size = total;
    added->used = HEADER;
    block **place = whole && region->newest ? &region->newest->next : &region->newest;
    added->next = *place;
    *place = added;
    return added;
}

static size_t aligned(size_t offset, size_t size) {
    size_t alignment = size >= LARGE ? 64 : 16;
    return (offset + alignment - 1) / alignment * alignment;
}

void *mil_region_alloc(mil_region *region, size_t count, size_t size) {
    size_t bytes;
    if (!ane_size_mul(count ? count : 1, size, &bytes)) return NULL;
    block *from = region->newest;
    if (!from || aligned(from->used, bytes) > from->size ||
        bytes > from->size - aligned(from->used, bytes)) {
        bool whole = bytes > BLOCK_SIZE / 4;
        from = add_block(region, whole ? bytes : BLOCK_SIZE, whole);
        if (!from) return NULL;
    }
    size_t start = aligned(from->used, bytes);
    from->used = start + bytes;
    return (char *)from + start;
}

char *mil_region_text(mil_region *region, const char *text, size_t length) {
    size_t size;
    char *copy = ane_size_add(length, 1, &size) ? mil_region_alloc(region, size, 1) : NULL;
    if (copy && length) memcpy(copy, text, length);
    return copy;
}

void *mil_region_extend(mil_region *region, void *items, size_t count, size_t *capacity,
                        size_t size) {
    if (count < *capacity) return items;
    size_t larger = *capacity ? *capacity * 2 : 4;
    void *moved = mil_region_alloc(region, larger, size);
    if (!moved) return NULL;
    if (count) memcpy(moved, items, count * size);
    *capacity = larger;
    return moved;
}
