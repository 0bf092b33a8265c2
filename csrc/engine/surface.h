/* surface.h: what engines know of a surface beyond ane.h: its memory, its versions and who holds
 * it. */
#pragma once

#include <stdatomic.h>

#include "driver.h"

#define SURFACE_CHANGES 32

typedef struct surface_change {
    size_t row, column, rows, columns;
    uint64_t version;
} surface_change;

/* Every write gets a new version. changes[] remembers which rectangles were written last at which
 * version: a rectangle that covers earlier ones replaces them; when the list is full it becomes one
 * rectangle around all. So a rectangle's version may be too new but never too old. */
struct ane_surface {
    ane_memory memory;
    ane_context *context;
    uint64_t version; /* of the last write; 1 at creation */
    surface_change changes[SURFACE_CHANGES];
    size_t change_count;
    bool locked, locked_to_read;
    atomic_size_t holders; /* the creator, and requests */
};

/* The version of the newest write that may have touched the rectangle: at least 1. */
uint64_t surface_version(const ane_surface *surface, size_t row, size_t column, size_t rows,
                         size_t columns);
void surface_changed(ane_surface *surface, size_t row, size_t column, size_t rows, size_t columns);
void surface_hold(ane_surface *surface);
/* Around every access to surface->memory.base; may be nested. A failure is the context's error. */
ane_status surface_begin(ane_surface *surface, bool read_only);
ane_status surface_end(ane_surface *surface, bool read_only);
