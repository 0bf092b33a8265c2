/* counters.h: what tests ask the runtime afterwards: objects alive, objects that no autorelease
 * pool took, and misuse of surfaces. */
#pragma once

#include <objc/objc.h>

/* Objects of the class that are alive; 0 for a class that does not exist. */
long runtime_live(const char *class_name);
long runtime_live_total(void);
void runtime_each_live(void (*visit)(const char *class_name, long count, void *argument),
                       void *argument);
long runtime_unpooled(void);
/* Base addresses asked for without a lock, unlocks without a lock, surfaces freed or evaluated
 * while locked. */
long runtime_surface_violations(void);
