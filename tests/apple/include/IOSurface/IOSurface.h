/* IOSurface.h: the part of IOSurface that the driver may use. Serves the run on Linux and the
 * compile check for macOS. */
#pragma once

#include <CoreFoundation/CoreFoundation.h>

typedef struct CF_BRIDGED_TYPE(id) __IOSurface *IOSurfaceRef;
typedef uint32_t IOSurfaceID;
typedef uint32_t IOSurfaceLockOptions;
enum { kIOSurfaceLockReadOnly = 1, kIOSurfaceLockAvoidSync = 2 };

CF_IMPLICIT_BRIDGING_ENABLED
CF_EXPORT const CFStringRef kIOSurfaceAllocSize;
CF_EXPORT const CFStringRef kIOSurfaceWidth;
CF_EXPORT const CFStringRef kIOSurfaceHeight;
CF_EXPORT const CFStringRef kIOSurfaceBytesPerRow;
CF_EXPORT const CFStringRef kIOSurfaceBytesPerElement;
CF_EXPORT const CFStringRef kIOSurfacePixelFormat;

CF_EXPORT IOSurfaceRef IOSurfaceCreate(CFDictionaryRef properties) CF_RETURNS_RETAINED;
CF_EXPORT IOSurfaceID IOSurfaceGetID(IOSurfaceRef surface);
CF_EXPORT int IOSurfaceLock(IOSurfaceRef surface, IOSurfaceLockOptions options, uint32_t *seed);
CF_EXPORT int IOSurfaceUnlock(IOSurfaceRef surface, IOSurfaceLockOptions options, uint32_t *seed);
CF_EXPORT void *IOSurfaceGetBaseAddress(IOSurfaceRef surface);
CF_EXPORT size_t IOSurfaceGetAllocSize(IOSurfaceRef surface);
CF_EXPORT size_t IOSurfaceGetWidth(IOSurfaceRef surface);
CF_EXPORT size_t IOSurfaceGetHeight(IOSurfaceRef surface);
CF_EXPORT size_t IOSurfaceGetBytesPerRow(IOSurfaceRef surface);
CF_IMPLICIT_BRIDGING_DISABLED
