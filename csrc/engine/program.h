/* program.h: what a program is to its requests. A program lives until its last request is freed, a
 * surface likewise, and the context outlives all. */
#pragma once

#include "../cpu/mil.h"
#include "surface.h"

struct ane_program {
    ane_context *context;
    const ane_driver *driver;
    mil_program *checked;
    void *compiled; /* the driver's own */
    char *text;     /* what it was compiled from, for programs that take it as their donor */
    size_t length;
    ane_driver_port *inputs, *outputs;
    size_t file_bytes;
    bool loaded;
    atomic_size_t holders; /* the creator, and requests */
};
