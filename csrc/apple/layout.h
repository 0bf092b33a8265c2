/* layout.h: what a loaded program tells of its ports: their order, and the rows that the chip reads
 * and writes. A difference from the surfaces at hand is an error, since it would give wrong numbers
 * without one. */
#pragma once

#import "engine.h"

/* One position of a request: which port stands there, under which symbol index. */
typedef struct layout_slot {
    size_t port;
    unsigned long long symbol;
} layout_slot;

typedef struct layout_side {
    bool output;
    const apple_port *ports;
    ane_surface *const *surfaces; /* one per port */
    size_t count;
} layout_side;

/* Fills `count` slots. `attributes` is whatever the program told, or nil: then the order is
 * alphabetical, as published reports found it. */
ane_status layout_resolve(id attributes, const layout_side *side, layout_slot *slots,
                          ane_error_info *error);
