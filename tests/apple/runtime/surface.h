/* surface.h: how the engine's stand-in reaches the memory of a surface. */
#pragma once

#import <IOSurface/IOSurface.h>

/* Valid with and without locks; a surface that is locked for writing counts as a violation. */
void *runtime_surface_memory(IOSurfaceRef surface);
