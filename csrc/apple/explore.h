/* explore.h: every private class of the process, as the Objective-C runtime lists it. */
#pragma once

#include "json.h"

/* What the names of the framework's classes and protocols begin with. */
#define EXPLORE_PREFIX "_ANE"

/* Writes two arrays, "explored" (classes) and "protocols", in no order. Types are encodings without
 * offsets. */
void explore_classes(json *out);
void explore_protocols(json *out);
