/* encoding.h: the types of a method as the Objective-C runtime spells them. */
#pragma once

#include <stddef.h>

/* Copies the encoding, cut to fit, without the offsets that follow each of its types and that
 * differ between processors. Sizes and names inside the types stay. */
void encoding_strip(const char *encoding, char *stripped, size_t size);
